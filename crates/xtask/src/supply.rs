//! What the dependencies may be: licences and sources, after `deny.toml`.
//!
//! cargo-deny checks this and more, but takes minutes to build. So it is used where it is installed, and the main points
//! are checked here from `cargo metadata` in any case.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::cargo;

/// What the sources of crates that were published begin with; others are repositories and paths.
const PUBLISHED: &str = "registry+";

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// What breaks a rule, one line each.
    pub(crate) problems: Vec<String>,
    /// Crates that are there in several versions: no problem, but build time.
    pub(crate) duplicates: Vec<String>,
}

/// Checks every dependency, also those of other systems than this.
pub(crate) fn check() -> Result<Found> {
    let done = cargo::cargo()
        .args(["metadata", "--format-version=1", "--locked"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(done.status.success(), "cargo metadata: {}", done.status);
    let metadata: Value = serde_json::from_slice(&done.stdout).context("cargo metadata prints JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists packages")?;
    Ok(judge(packages, &allowed(&fs::read_to_string(cargo::root().join("deny.toml"))?)))
}

/// The licences that `deny.toml` allows.
fn allowed(deny: &str) -> Vec<String> {
    let list = deny.split_once("\nallow = [").and_then(|(_, rest)| rest.split_once(']'));
    let quoted = list.map_or("", |(list, _)| list).split('"').skip(1).step_by(2);
    quoted.map(str::to_owned).collect()
}

fn judge(packages: &[Value], allowed: &[String]) -> Found {
    let mut found = Found::default();
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        let text = |field: &str| package[field].as_str().unwrap_or_default();
        let (name, version) = (text("name"), text("version"));
        versions.entry(name).or_default().push(version);
        if !is_allowed(text("license"), allowed) {
            found
                .problems
                .push(format!("{name} {version}: the licence {:?} is not allowed", text("license")));
        }
        // The workspace's own crates have no source.
        if !package["source"].is_null() && !text("source").starts_with(PUBLISHED) {
            found
                .problems
                .push(format!("{name} {version} comes from {}, and was not published", text("source")));
        }
    }
    let several = versions.iter().filter(|(_, versions)| versions.len() > 1);
    found.duplicates = several.map(|(name, versions)| format!("{name} ({})", versions.join(", "))).collect();
    found
}

/// Whether an SPDX expression, or the older form with slashes, can be met with the allowed licences.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let spaced =
        expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ").replace(" WITH ", "\u{1}");
    let tokens: Vec<String> =
        spaced.split_whitespace().map(|token| token.replace('\u{1}', " WITH ")).collect();
    let mut rest = &tokens[..];
    let met = any_of(&mut rest, allowed);
    met == Some(true) && rest.is_empty()
}

/// `None`: not an expression.
fn any_of(tokens: &mut &[String], allowed: &[String]) -> Option<bool> {
    let mut met = all_of(tokens, allowed)?;
    while let Some(("OR", rest)) = first(tokens) {
        *tokens = rest;
        met |= all_of(tokens, allowed)?;
    }
    Some(met)
}

fn all_of(tokens: &mut &[String], allowed: &[String]) -> Option<bool> {
    let mut met = one(tokens, allowed)?;
    while let Some(("AND", rest)) = first(tokens) {
        *tokens = rest;
        met &= one(tokens, allowed)?;
    }
    Some(met)
}

fn one(tokens: &mut &[String], allowed: &[String]) -> Option<bool> {
    let (token, rest) = first(tokens)?;
    *tokens = rest;
    match token {
        "(" => {
            let met = any_of(tokens, allowed)?;
            let (")", rest) = first(tokens)? else { return None };
            *tokens = rest;
            Some(met)
        }
        "OR" | "AND" | ")" => None,
        licence => Some(allowed.iter().any(|allowed| allowed == licence)),
    }
}

fn first<'a>(tokens: &&'a [String]) -> Option<(&'a str, &'a [String])> {
    tokens.split_first().map(|(token, rest)| (token.as_str(), rest))
}

/// cargo-deny's checks that can be run here, and a line for every one that cannot.
pub(crate) fn cargo_deny() -> (Option<Command>, Vec<&'static str>) {
    let installed =
        cargo::cargo().args(["deny", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !installed.is_ok_and(|status| status.success()) {
        return (None, vec!["cargo-deny is not installed: known vulnerabilities are not checked"]);
    }
    let mut command = cargo::cargo();
    command.args(["deny", "--offline", "--log-level=error", "check", "licenses", "bans", "sources"]);
    if has_advisories(&cargo_home()) {
        command.arg("advisories");
        return (Some(command), Vec::new());
    }
    (
        Some(command),
        vec!["no advisory database (`cargo deny fetch` gets it): known vulnerabilities are not checked"],
    )
}

fn cargo_home() -> PathBuf {
    let home = || env::home_dir().unwrap_or_default().join(".cargo");
    env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

/// Whether cargo-deny has fetched its database; a directory with a lock file only is a failed attempt.
fn has_advisories(cargo_home: &Path) -> bool {
    let entries = fs::read_dir(cargo_home.join("advisory-dbs")).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.path().join("crates").is_dir())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions_are_understood() {
        let allowed = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
        for good in [
            "MIT",
            "GPL-3.0 OR MIT",
            "GPL-3.0/MIT",
            "ISC AND (GPL-3.0 OR MIT)",
            "Apache-2.0 WITH LLVM-exception",
            "GPL-3.0 AND ISC OR MIT",
        ] {
            assert!(is_allowed(good, &allowed), "{good}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT", "MIT)", "MIT OR", "Apache-2.0", "MIT ISC"] {
            assert!(!is_allowed(bad, &allowed), "{bad}");
        }
    }

    #[test]
    fn foreign_licences_and_sources_are_named() {
        let allowed = allowed("[licenses]\n# why\nallow = [\n    \"MIT\",\n]\n[bans]\n");
        assert_eq!(allowed, ["MIT"]);
        let packages = [
            json!({ "name": "own", "version": "1", "license": "MIT", "source": null }),
            json!({ "name": "a", "version": "1", "license": "MIT", "source": PUBLISHED }),
            json!({ "name": "a", "version": "2", "license": "MIT", "source": "git+https://example.com/a" }),
            json!({ "name": "b", "version": "1", "license": "AGPL-3.0", "source": PUBLISHED }),
            json!({ "name": "c", "version": "1", "license": null, "source": PUBLISHED }),
        ];
        let Found { problems, duplicates } = judge(&packages, &allowed);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(
            problems[0].contains("a 2") && problems[1].contains("AGPL-3.0") && problems[2].contains("c 1")
        );
        assert_eq!(duplicates, ["a (1, 2)"]);
    }

    #[test]
    fn a_failed_fetch_is_no_database() {
        let home = tempfile::tempdir().unwrap();
        assert!(!has_advisories(home.path()));
        fs::create_dir_all(home.path().join("advisory-dbs/advisory-db-1")).unwrap();
        assert!(!has_advisories(home.path()));
        fs::create_dir(home.path().join("advisory-dbs/advisory-db-1/crates")).unwrap();
        assert!(has_advisories(home.path()));
    }
}
