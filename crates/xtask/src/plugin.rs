//! The managed plugin's directory: `config.json` and a `rootfs/` with the program and what it calls, no more.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

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
    build("release", &WEFT, "weft")
}

/// Builds the program that only forwards, for the bench.
pub(crate) fn build_forwarder() -> Result<PathBuf> {
    build("release", &["--package", "weft-sys", "--example", "forward"], "examples/forward")
}

/// Builds weft as it is shipped, but for what takes the compiler minutes and brings a few percent.
pub(crate) fn build_quick() -> Result<PathBuf> {
    build("quick", &WEFT, "weft")
}

/// What cargo is told to build weft.
const WEFT: [&str; 2] = ["--package", "weft"];

/// Builds what `args` name; where `program` of it is.
fn build(profile: &str, args: &[&str], program: &str) -> Result<PathBuf> {
    let status = cargo::cargo().args(["build", "--profile", profile]).args(args).status()?;
    ensure!(status.success(), "cargo build: {status}");
    Ok(cargo::target_dir()?.join(profile).join(program))
}

/// The Debian that iptables and the libraries are taken from: the one that the program was linked in, since a C library
/// older than that one's has not all that the program calls.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) root: PathBuf,
    /// Debian's name of the architecture, as in the path of its libraries.
    pub(crate) triplet: String,
}

impl Base {
    fn this_machine() -> Self {
        Self { root: "/".into(), triplet: format!("{}-linux-gnu", env::consts::ARCH) }
    }

    fn libraries(&self) -> PathBuf {
        Path::new("usr/lib").join(&self.triplet)
    }

    /// A program of binutils that knows this architecture.
    fn binutil(&self, name: &str) -> Result<Command> {
        let program = format!("{}-{name}", self.triplet);
        let package = format!("binutils-{}", self.triplet.replace('_', "-"));
        weft_lab::install_missing(&[(&program, &package)])?;
        Ok(Command::new(program))
    }
}

/// Writes the plugin with `weft` as its program to `out`, whose earlier content goes.
pub(crate) fn make(weft: &Path, out: &Path) -> Result<()> {
    weft_lab::install_missing(&[("xtables-nft-multi", "iptables")])?;
    make_of(weft, &Base::this_machine(), out)
}

/// [`make`] for the machines that `base` is for.
pub(crate) fn make_of(weft: &Path, base: &Base, out: &Path) -> Result<()> {
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
    let status = base.binutil("strip")?.arg("--strip-debug").arg("-o").arg(&program).arg(weft).status()?;
    ensure!(status.success(), "strip: {status}");
    let mut files = BTreeMap::new();
    for program in XTABLES {
        let place = Path::new("usr/sbin").join(program);
        files.insert(place.clone(), base.root.join(place));
    }
    for family in ["iptables", "ip6tables"] {
        for action in ["", "-save", "-restore"] {
            for (backend, program) in [("", XTABLES[0]), ("-nft", XTABLES[0]), ("-legacy", XTABLES[1])] {
                symlink(program, rootfs.join("usr/sbin").join(format!("{family}{backend}{action}")))?;
            }
        }
    }
    // Loaded by name, from beside the library.
    let extensions = base.libraries().join("xtables");
    let dir = base.root.join(&extensions);
    for entry in fs::read_dir(&dir).with_context(|| format!("no {}", dir.display()))? {
        let file = entry?.path();
        let name = file.file_name().unwrap_or_default();
        let is_for_arp_or_bridge =
            [&b"libarpt"[..], b"libebt"].iter().any(|p| name.as_encoded_bytes().starts_with(p));
        if file.extension() == Some(OsStr::new("so")) && !is_for_arp_or_bridge {
            files.insert(extensions.join(name), file);
        }
    }
    add_libraries(weft, &mut files, base)?;
    for (place, file) in files {
        let to = rootfs.join(place);
        fs::create_dir_all(to.parent().context("a file is in a directory")?)?;
        fs::copy(&file, &to).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Ok(())
}

/// Adds the loader and the libraries that `program` and `files` need, and that these need. Keys are places in the plugin.
fn add_libraries(program: &Path, files: &mut BTreeMap<PathBuf, PathBuf>, base: &Base) -> Result<()> {
    let mut unread: Vec<PathBuf> = files.values().cloned().chain([program.to_owned()]).collect();
    while !unread.is_empty() {
        let mut readelf = base.binutil("readelf")?;
        readelf.args(["--wide", "--program-headers", "--dynamic"]).args(unread.drain(..)).env("LC_ALL", "C");
        let done = readelf.output().context("cannot start readelf")?;
        ensure!(done.status.success(), "readelf: {}", String::from_utf8_lossy(&done.stderr).trim());
        for place in needed(&String::from_utf8_lossy(&done.stdout), &base.libraries()) {
            // The loader's place is set for its architecture; Debian has a link there to where the libraries are.
            let name = place.file_name().context("a library has a name")?;
            let library = base.root.join(base.libraries()).join(name);
            ensure!(library.is_file(), "a library is needed that is not there: {}", library.display());
            if files.insert(place, library.clone()).is_none() {
                unread.push(library);
            }
        }
    }
    Ok(())
}

/// The places of the loader and the libraries that files ask for, of what readelf says about these.
fn needed(readelf: &str, libraries: &Path) -> Vec<PathBuf> {
    let between = |line: &str, before: &str| Some(line.split_once(before)?.1.split_once(']')?.0.to_owned());
    readelf
        .lines()
        .filter_map(|line| {
            if let Some(loader) = between(line, "[Requesting program interpreter: /") {
                // Its place is written with the links of a merged /usr.
                return Some(Path::new("usr").join(loader));
            }
            let name = between(line, "Shared library: [")?;
            // Some libraries name the loader too, which is there before them.
            (!name.starts_with("ld-linux")).then(|| libraries.join(name))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_needs_its_loader_and_libc() {
        let mut files = BTreeMap::new();
        add_libraries(Path::new("/bin/sh"), &mut files, &Base::this_machine()).unwrap();
        let names: Vec<_> = files.keys().map(|place| place.file_name().unwrap().to_string_lossy()).collect();
        assert!(names.iter().any(|name| name == "libc.so.6"), "{names:?}");
        assert_eq!(names.iter().filter(|name| name.starts_with("ld-linux")).count(), 1, "{names:?}");
    }

    #[test]
    fn loader_and_libraries_are_read_of_what_readelf_says() {
        let text = "  INTERP  0x000238 0x0000000000000238 0x0000000000000238 0x00001b 0x00001b R   0x1\n\
            \x20     [Requesting program interpreter: /lib/ld-linux-aarch64.so.1]\n\
            \x200x0000000000000001 (NEEDED)             Shared library: [libgcc_s.so.1]\n\
            \x200x0000000000000001 (NEEDED)             Shared library: [ld-linux-aarch64.so.1]\n\
            \x200x000000000000000e (SONAME)             Library soname: [libm.so.6]\n";
        let libraries = Path::new("usr/lib/aarch64-linux-gnu");
        let places = ["usr/lib/ld-linux-aarch64.so.1", "usr/lib/aarch64-linux-gnu/libgcc_s.so.1"];
        assert_eq!(needed(text, libraries), places.map(PathBuf::from));
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
