//! Rules that the compiler does not check.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{cargo, supply};

/// The crates in their order: one may use only those before it.
const ORDER: &[&str] = &[
    "weft-wire",
    "weft-noise",
    "weft-dataplane",
    "weft-services",
    "weft-mesh",
    "weft-node",
    "weft-sys",
    "weft-confine",
    "weft-nft",
    "weft-netlink",
    "weft-driver",
    "weft-api",
    "weft-router",
    "weft-daemon",
    "weft",
    "weft-adversary",
    "weft-lab",
    "weft-e2e",
    "weft-fuzz-targets",
    "xtask",
];

/// Crates without sockets, clock or runtime: their inputs are arguments.
const PURE: &[&str] =
    &["weft-wire", "weft-noise", "weft-dataplane", "weft-services", "weft-mesh", "weft-node"];

/// What no pure crate may use directly.
const IMPURE: &[&str] = &[
    "tokio",
    "libc",
    "nix",
    "rustix",
    "mio",
    "socket2",
    "async-std",
    "weft-sys",
    "weft-nft",
    "weft-netlink",
];

/// The longest file, in lines.
const MAX_LINES: usize = 800;

/// Returns what breaks a rule, one line each.
pub(crate) fn run() -> Result<Vec<String>> {
    let metadata = cargo::metadata()?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists packages")?;
    let mut problems = Vec::new();
    for package in packages {
        check_dependencies(package, &mut problems);
        check_lints(package, &mut problems)?;
    }
    for dir in ["crates", "tests"] {
        for file in sources(&cargo::root().join(dir))? {
            let name = file.strip_prefix(cargo::root()).unwrap_or(&file).display().to_string();
            check_source(&name, &fs::read_to_string(&file)?, &mut problems);
        }
    }
    problems.extend(supply::check()?.problems);
    Ok(problems)
}

fn check_dependencies(package: &Value, problems: &mut Vec<String>) {
    let name = package["name"].as_str().unwrap_or_default();
    let place = |name: &str| ORDER.iter().position(|other| *other == name);
    let Some(own) = place(name) else {
        problems.push(format!("{name} has no place in the order of the crates (xtask's tidy.rs)"));
        return;
    };
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let other = dependency["name"].as_str().unwrap_or_default();
        let is_for_tests = dependency["kind"] == "dev";
        if place(other).is_some_and(|place| place >= own) {
            problems.push(format!("{name} uses {other}, which is not before it in the order of the crates"));
        }
        if PURE.contains(&name) && IMPURE.contains(&other) && !is_for_tests {
            problems.push(format!("{name} is a pure crate and uses {other}"));
        }
    }
}

/// Every crate but `sys` inherits the workspace's lints, which forbid unsafe code.
fn check_lints(package: &Value, problems: &mut Vec<String>) -> Result<()> {
    let name = package["name"].as_str().unwrap_or_default();
    let manifest = package["manifest_path"].as_str().context("a package has a manifest")?;
    let text = fs::read_to_string(manifest)?;
    let inherits =
        text.split_once("[lints]").is_some_and(|(_, rest)| rest.trim_start().starts_with("workspace = true"));
    if name != "weft-sys" && !inherits {
        problems.push(format!("{name} does not inherit the workspace's lints"));
    }
    Ok(())
}

fn check_source(name: &str, text: &str, problems: &mut Vec<String>) {
    let n_lines = text.lines().count();
    if n_lines > MAX_LINES {
        problems.push(format!("{name} has {n_lines} lines; {MAX_LINES} are the limit"));
    }
    if name.ends_with("/mod.rs") {
        problems.push(format!("{name}: a module's file has its name, not mod.rs"));
    }
    if ["common", "shared", "utils"].iter().any(|vague| name.ends_with(&format!("/{vague}.rs"))) {
        problems.push(format!("{name}: a module is named for what it holds"));
    }
    let is_rule = name == "crates/xtask/src/tidy.rs";
    if !is_rule && !name.starts_with("crates/sys/") && text.contains("allow(unsafe_code)") {
        problems.push(format!("{name}: unsafe code stands in crates/sys only"));
    }
}

fn sources(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("no {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn dependencies(name: &str, of: &[(&str, Option<&str>)]) -> Vec<String> {
        let list: Vec<_> = of.iter().map(|(name, kind)| json!({ "name": name, "kind": kind })).collect();
        let mut problems = Vec::new();
        check_dependencies(&json!({ "name": name, "dependencies": list }), &mut problems);
        problems
    }

    #[test]
    fn edges_go_one_way() {
        assert_eq!(dependencies("weft-node", &[("weft-noise", None), ("rand", None)]), [""; 0]);
        assert_eq!(dependencies("weft-noise", &[("weft-node", None)]).len(), 1);
        assert_eq!(dependencies("weft-noise", &[("weft-node", Some("dev"))]).len(), 1);
        assert_eq!(dependencies("weft-unheard-of", &[]).len(), 1);
    }

    #[test]
    fn pure_crates_have_no_runtime_but_in_tests() {
        assert_eq!(dependencies("weft-mesh", &[("tokio", None)]).len(), 1);
        assert_eq!(dependencies("weft-mesh", &[("tokio", Some("dev"))]), [""; 0]);
        assert_eq!(dependencies("weft-driver", &[("tokio", None)]), [""; 0]);
    }

    #[test]
    fn long_files_and_vague_names_are_found() {
        let mut problems = Vec::new();
        check_source("crates/x/src/lib.rs", &"\n".repeat(MAX_LINES), &mut problems);
        assert_eq!(problems, [""; 0]);
        check_source("crates/x/src/lib.rs", &"\n".repeat(MAX_LINES + 1), &mut problems);
        check_source("crates/x/src/utils.rs", "", &mut problems);
        check_source("crates/x/src/a/mod.rs", "", &mut problems);
        check_source("crates/x/src/lib.rs", "#![allow(unsafe_code)]", &mut problems);
        assert_eq!(problems.len(), 4, "{problems:?}");
    }
}
