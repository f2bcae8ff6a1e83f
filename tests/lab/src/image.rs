//! Container images, made on the spot: no registry can be reached from a lab.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::{Context as _, Result};

use crate::{command, host::Host, packages};

/// Busybox with every applet: a shell, `httpd`, `wget`, `ping`, `nc`, `ip`. Without a command it serves its host
/// name over HTTP at port 80.
pub const BUSYBOX: &str = "busybox:lab";

/// What a container of [`BUSYBOX`] runs when it is given no command. A process 1 without a handler would ignore
/// SIGTERM, and cost dockerd ten seconds at every stop.
const SERVE_NAME: &str =
    "trap 'exit 0' TERM; mkdir -p /www; hostname > /www/index.html; httpd -f -p 80 -h /www & wait";

/// Makes the archive of the image, for the host's whole lab.
pub(crate) fn prepare(host: &Host) -> Result<()> {
    let (outside, _) = host.shared_dir("images")?;
    build(&outside.join("busybox"), &outside.join("busybox.tar"))
}

/// Gives the host the image [`BUSYBOX`].
pub(crate) fn import(host: &Host) -> Result<()> {
    host.run(import_command(host)?)?;
    Ok(())
}

/// The words that give the image to the dockerd of whoever says them on the host.
pub(crate) fn import_command(host: &Host) -> Result<[String; 6]> {
    let (outside, inside) = host.shared_dir("images")?;
    if !outside.join("busybox.tar").is_file() {
        prepare(host)?;
    }
    let change = format!(r#"CMD ["sh", "-c", "{SERVE_NAME}"]"#);
    let archive = inside.join("busybox.tar").to_string_lossy().into_owned();
    Ok(["docker".into(), "import".into(), "--change".into(), change, archive, BUSYBOX.into()])
}

fn build(root: &Path, archive: &Path) -> Result<()> {
    let busybox = packages::extracted("busybox-static", "busybox")?;
    let bin = root.join("bin");
    for dir in ["bin", "etc", "tmp", "root", "var"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::copy(&busybox, bin.join("busybox")).context("cannot copy busybox")?;
    let applets = command::check(&mut command::command(&busybox.to_string_lossy(), ["--list"]))?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", bin.join(applet))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    let (root, new) = (root.to_string_lossy(), archive.with_extension("new"));
    command::check(&mut command::command(
        "tar",
        ["--create", "--owner=0", "--group=0", "--file", &new.to_string_lossy(), "--directory", &root, "."],
    ))?;
    fs::rename(&new, archive)?;
    Ok(())
}
