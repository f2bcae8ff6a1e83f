//! The Debian package of the daemon and the command line, by Debian's own tools: a directory, and `dpkg-deb`.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{cargo, plugin};

/// Counts changes of the package alone, between two versions of weft.
const REVISION: u32 = 1;

/// Shells whose completions the package has, and the files that Debian looks for them in.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/weft"),
    ("zsh", "usr/share/zsh/vendor-completions/_weft"),
    ("fish", "usr/share/fish/vendor_completions.d/weft.fish"),
];

/// Files of the repository that are in the package as they are.
const COPIED: [(&str, &str); 5] = [
    ("deploy/weft.env.example", CONFFILE),
    ("deploy/debian/copyright", "usr/share/doc/weft/copyright"),
    ("README.md", "usr/share/doc/weft/README.md"),
    ("deploy/prometheus/weft.rules.yml", "usr/share/doc/weft/prometheus/weft.rules.yml"),
    ("deploy/grafana/weft.json", "usr/share/doc/weft/grafana/weft.json"),
];

/// The one file that belongs to the operator once it is installed.
const CONFFILE: &str = "etc/weft/weft.env";

/// What dpkg runs.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Builds the release and writes `target/debian/weft_*.deb`; returns the file.
pub(crate) fn run() -> Result<PathBuf> {
    make(&plugin::build_release()?)
}

/// Writes the package with `weft` as its program. The same program, at the same commit, makes the same bytes.
pub(crate) fn make(weft: &Path) -> Result<PathBuf> {
    weft_lab::install_missing(&[("dpkg-shlibdeps", "dpkg-dev"), ("strip", "binutils")])?;
    let version = version()?;
    let out = cargo::target_dir()?.join("debian");
    let root = out.join("weft");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    fs::create_dir_all(&root)?;
    let epoch = epoch()?;
    files(weft, &root, &version, &epoch)?;
    control(&root, &version)?;
    // Whatever this process's umask.
    text_of(Command::new("chmod").args(["--recursive", "u=rwX,go=rX"]).arg(&root))?;

    let architecture = text_of(Command::new("dpkg").arg("--print-architecture"))?;
    let file = out.join(format!("weft_{version}_{architecture}.deb"));
    let mut build = Command::new("dpkg-deb");
    build.args(["--root-owner-group", "-Zxz", "--build"]).arg(&root).arg(&file);
    text_of(build.env("SOURCE_DATE_EPOCH", &epoch))?;
    fs::remove_dir_all(&root)?;
    Ok(file)
}

/// What will be on the host.
fn files(weft: &Path, root: &Path, version: &str, epoch: &str) -> Result<()> {
    let program = root.join("usr/bin/weft");
    fs::create_dir_all(root.join("usr/bin"))?;
    text_of(Command::new("strip").args(["--strip-unneeded", "-o"]).arg(&program).arg(weft))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    for (shell, to) in COMPLETIONS {
        let script = text_of(Command::new(weft).args(["completions", shell]))?;
        ensure!(!script.is_empty(), "weft completions {shell} prints nothing");
        put(root, to, script + "\n")?;
    }
    for (from, to) in COPIED {
        put(root, to, fs::read(cargo::root().join(from)).with_context(|| from.to_owned())?)?;
    }
    // In a package the program is where Debian has programs.
    let unit = fs::read_to_string(cargo::root().join("deploy/weft.service"))?;
    let moved = unit.replace("/usr/local/bin/weft", "/usr/bin/weft");
    ensure!(moved != unit, "deploy/weft.service names no /usr/local/bin/weft");
    put(root, "usr/lib/systemd/system/weft.service", moved)?;

    let pages = root.join("usr/share/man/man1");
    text_of(Command::new(weft).arg("man").arg(&pages))?;
    let changes = fs::read(cargo::root().join("CHANGELOG.md"))?;
    put(root, "usr/share/doc/weft/changelog", changes)?;
    put(root, "usr/share/doc/weft/changelog.Debian", changelog(version, epoch)?)?;
    for dir in [pages, root.join("usr/share/doc/weft")] {
        for entry in fs::read_dir(&dir)? {
            let file = entry?.path();
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("changelog") || name.ends_with(".1") {
                text_of(Command::new("gzip").args(["-9", "--no-name"]).arg(&file))?;
            }
        }
    }
    Ok(())
}

/// What dpkg reads of the package.
fn control(root: &Path, version: &str) -> Result<()> {
    let recipe = cargo::root().join("deploy/debian");
    let size = text_of(Command::new("du").args(["--apparent-size", "--summarize", "-k"]).arg(root))?;
    let size = size.split_whitespace().next().context("du prints a number")?;
    let architecture = text_of(Command::new("dpkg").arg("--print-architecture"))?;
    let text = fs::read_to_string(recipe.join("control"))?
        .replace("@VERSION@", version)
        .replace("@ARCHITECTURE@", &architecture)
        .replace("@SIZE@", size)
        .replace("@LIBRARIES@", &libraries(root)?);
    put(root, "DEBIAN/control", text)?;
    put(root, "DEBIAN/conffiles", format!("/{CONFFILE}\n"))?;
    for script in SCRIPTS {
        put(root, &format!("DEBIAN/{script}"), fs::read(recipe.join(script))?)?;
        fs::set_permissions(root.join("DEBIAN").join(script), fs::Permissions::from_mode(0o755))?;
    }
    let sums = "find etc usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum > DEBIAN/md5sums";
    text_of(Command::new("sh").args(["-e", "-c", sums]).current_dir(root))?;
    fs::set_permissions(root.join("DEBIAN/md5sums"), fs::Permissions::from_mode(0o644))?;
    Ok(())
}

/// The packages that hold the program's libraries, with the versions that have all it calls.
fn libraries(root: &Path) -> Result<String> {
    // The tool wants a source package around it.
    let source = root.with_extension("source");
    put(&source, "debian/control", "Source: weft\n")?;
    let program = root.join("usr/bin/weft");
    let said = text_of(
        Command::new("dpkg-shlibdeps").arg("-O").arg(format!("-e{}", program.display())).current_dir(&source),
    );
    fs::remove_dir_all(&source)?;
    let said = said?;
    let list = said.lines().find_map(|line| line.strip_prefix("shlibs:Depends="));
    list.map(str::to_owned).with_context(|| format!("dpkg-shlibdeps says nothing of libraries: {said}"))
}

/// The package's own changelog, which names its version and day only: the changes are in the other one.
fn changelog(version: &str, epoch: &str) -> Result<String> {
    let day = text_of(Command::new("date").args(["-u", "-R", "-d", &format!("@{epoch}")]))?;
    let control = fs::read_to_string(cargo::root().join("deploy/debian/control"))?;
    let maintainer = control.lines().find_map(|line| line.strip_prefix("Maintainer: "));
    let maintainer = maintainer.context("deploy/debian/control names no maintainer")?;
    Ok(format!(
        "weft ({version}) unstable; urgency=medium\n\n  * See changelog.gz.\n\n -- {maintainer}  {day}\n"
    ))
}

fn version() -> Result<String> {
    let metadata = cargo::metadata()?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists packages")?;
    let weft =
        packages.iter().find(|package| package["name"] == "weft").context("there is no package weft")?;
    Ok(format!("{}-{REVISION}", weft["version"].as_str().context("weft has a version")?))
}

/// The time that the package's files bear: `SOURCE_DATE_EPOCH`, or the commit's.
fn epoch() -> Result<String> {
    match env::var("SOURCE_DATE_EPOCH") {
        Ok(epoch) => Ok(epoch),
        Err(_) => text_of(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(cargo::root()))
            .context("no commit to take the package's time from: set SOURCE_DATE_EPOCH"),
    }
}

fn put(root: &Path, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
    let file = root.join(name);
    fs::create_dir_all(file.parent().context("a file is in a directory")?)?;
    fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    Ok(())
}

/// Standard output of a program that exits with 0.
fn text_of(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.output().with_context(|| format!("cannot start {name}"))?;
    if !done.status.success() {
        bail!("{name}: {}: {}", done.status, String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).trim_end().to_owned())
}
