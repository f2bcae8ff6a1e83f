//! The managed plugin's directory: `config.json` and a `rootfs/` with the program and what it calls, no more.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::cargo;

/// Both backends of iptables: a host's rules may be in either.
const XTABLES: [&str; 2] = ["xtables-nft-multi", "xtables-legacy-multi"];

/// Directories that the plugin or its mounts need to be there.
const DIRS: &[&str] = &[
    "dev",
    "etc/weft",
    "proc",
    "run/docker/netns",
    "run/docker/plugins",
    "run/secrets",
    "sys",
    "tmp",
    "usr/bin",
    "usr/sbin",
    "var/lib/weft",
];

/// Builds weft as it is shipped; returns the program.
pub(crate) fn build_release() -> Result<PathBuf> {
    build("release")
}

/// Builds weft as it is shipped, but for what takes the compiler minutes and brings a few percent.
pub(crate) fn build_quick() -> Result<PathBuf> {
    build("quick")
}

fn build(profile: &str) -> Result<PathBuf> {
    let status = cargo::cargo().args(["build", "--profile", profile, "--package", "weft"]).status()?;
    ensure!(status.success(), "cargo build: {status}");
    Ok(cargo::target_dir()?.join(profile).join("weft"))
}

/// Writes the plugin with `weft` as its program to `out`, whose earlier content goes.
pub(crate) fn make(weft: &Path, out: &Path) -> Result<()> {
    weft_lab::install_missing(&[("xtables-nft-multi", "iptables"), ("strip", "binutils")])?;
    let rootfs = out.join("rootfs");
    if rootfs.exists() {
        fs::remove_dir_all(&rootfs)?;
    }
    for dir in DIRS {
        fs::create_dir_all(rootfs.join(dir))?;
    }
    // Merged as on Debian, so that libraries have one place whichever way they are named.
    for dir in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(rootfs.join("usr").join(dir))?;
        symlink(Path::new("usr").join(dir), rootfs.join(dir))?;
    }
    fs::copy(cargo::root().join("plugin/config.json"), out.join("config.json"))?;
    fs::write(rootfs.join("etc/passwd"), "root:x:0:0:root:/:/usr/bin/weft\n")?;
    fs::write(rootfs.join("etc/group"), "root:x:0:\n")?;
    // Mount points of single files.
    for file in ["run/secrets/weft", "run/docker.sock"] {
        fs::write(rootfs.join(file), "")?;
    }

    let program = rootfs.join("usr/bin/weft");
    let status = Command::new("strip").arg("--strip-debug").arg("-o").arg(&program).arg(weft).status()?;
    ensure!(status.success(), "strip: {status}");
    let mut libraries = libraries_of(weft)?;
    for program in XTABLES {
        let source = weft_lab::find_program(program).with_context(|| format!("no program {program}"))?;
        fs::copy(&source, rootfs.join("usr/sbin").join(program))?;
        libraries.extend(libraries_of(&source)?);
    }
    for family in ["iptables", "ip6tables"] {
        for action in ["", "-save", "-restore"] {
            for (backend, program) in [("", XTABLES[0]), ("-nft", XTABLES[0]), ("-legacy", XTABLES[1])] {
                symlink(program, rootfs.join("usr/sbin").join(format!("{family}{backend}{action}")))?;
            }
        }
    }
    // The extensions are loaded by name, from beside the library.
    let xtables = libraries
        .iter()
        .find(|file| {
            file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"libxtables.so"))
        })
        .and_then(|file| Some(file.canonicalize().ok()?.parent()?.join("xtables")))
        .context("iptables is not linked with libxtables")?;
    for entry in fs::read_dir(&xtables).with_context(|| format!("no {}", xtables.display()))? {
        let file = entry?.path();
        let is_for_arp_or_bridge = file.file_name().is_some_and(|name| {
            [&b"libarpt"[..], b"libebt"].iter().any(|p| name.as_encoded_bytes().starts_with(p))
        });
        if file.extension() == Some(OsStr::new("so")) && !is_for_arp_or_bridge {
            libraries.insert(file);
        }
    }
    for library in libraries {
        let to = rootfs.join(library.strip_prefix("/").unwrap_or(&library));
        fs::create_dir_all(to.parent().context("a library is in a directory")?)?;
        fs::copy(&library, &to).with_context(|| format!("cannot copy {}", library.display()))?;
    }
    Ok(())
}

/// The shared libraries that a program needs, and its loader.
fn libraries_of(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let done = Command::new("ldd").arg(program).output().context("cannot start ldd")?;
    let text = String::from_utf8_lossy(&done.stdout);
    if text.contains("not found") {
        bail!("{} lacks a library:\n{text}", program.display());
    }
    Ok(text
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(|word| PathBuf::from(word.trim_end_matches(':')))
        .filter(|file| file != program)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_needs_its_loader_and_libc() {
        let libraries = libraries_of(Path::new("/bin/sh")).unwrap();
        assert!(libraries.iter().any(|file| file.to_string_lossy().contains("libc.so")), "{libraries:?}");
        assert!(libraries.iter().any(|file| file.to_string_lossy().contains("ld-linux")), "{libraries:?}");
    }

    #[test]
    fn the_configuration_is_what_the_documents_say() {
        let text = fs::read_to_string(cargo::root().join("plugin/config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(config["interface"]["socket"], "weft.sock");
        assert_eq!(config["interface"]["types"][0], "docker.networkdriver/1.0");
        let settings: Vec<_> = config["env"].as_array().unwrap().iter().collect();
        for setting in &settings {
            assert_eq!(setting["settable"][0], "value", "{setting}");
            assert!(!setting["description"].as_str().unwrap().is_empty(), "{setting}");
        }
        assert!(settings.iter().any(|setting| setting["name"] == "PEERS"));
    }
}
