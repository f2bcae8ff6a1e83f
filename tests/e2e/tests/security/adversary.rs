//! The program `weft-adversary`, and where it runs.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weft_lab::{Background, Lab, wait_until};

use crate::place::Place;

/// The attacker's own address on the wire between the hosts.
pub(crate) const ADDRESS: &str = "10.77.0.200";

/// The program: `WEFT_ADVERSARY`, else built beside this test.
pub(crate) fn program() -> Result<&'static str> {
    static PROGRAM: OnceLock<Result<String, String>> = OnceLock::new();
    let made = PROGRAM.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    made.as_deref().map_err(|text| anyhow::anyhow!("weft-adversary: {text}"))
}

fn build() -> Result<String> {
    let file = match env::var_os("WEFT_ADVERSARY") {
        Some(file) => PathBuf::from(file),
        None => {
            let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../adversary/Cargo.toml");
            let done =
                Command::new(cargo).args(["build", "--quiet", "--manifest-path", manifest]).status()?;
            ensure!(done.success(), "cargo build: {done}");
            let own = env::current_exe()?;
            own.ancestors()
                .nth(2)
                .context("this test lies below the target directory")?
                .join("weft-adversary")
        }
    };
    Ok(file.to_str().context("a plain path")?.to_owned())
}

/// Gives the attacker [`ADDRESS`] on the wire. Once a lab.
pub(crate) fn connect(lab: &Lab) -> Result<()> {
    lab.run_on_fabric(&["ip", "address", "add", &format!("{ADDRESS}/24"), "dev", "br0"]).map(drop)
}

/// Runs an attack on the wire between the hosts, where each host's port has its name.
pub(crate) fn on_wire(lab: &Lab, args: &[&str]) -> Result<Value> {
    let said = lab.run_on_fabric(&[&[program()?], args].concat())?;
    report(&said)
}

/// Runs an attack inside a container.
pub(crate) fn inside(place: &Place<'_>, args: &[&str]) -> Result<Value> {
    report(&place.run(&[&[program()?], args].concat())?)
}

fn report(said: &str) -> Result<Value> {
    let line = said.lines().rev().find(|line| line.starts_with('{')).with_context(|| said.to_owned())?;
    Ok(serde_json::from_str(line)?)
}

/// One who counts the marked frames that reach a container.
pub(crate) struct Listener(Background);

impl Listener {
    pub(crate) fn start(place: &Place<'_>, name: &str) -> Result<Self> {
        let listening = place.spawn(name, &[program()?, "hear", "--seconds=25"])?;
        wait_until("the listener", Duration::from_secs(10), || Ok(listening.text()?.contains("listening")))?;
        Ok(Self(listening))
    }

    /// Waits for the last frame of an attack, and returns the counts by label.
    pub(crate) fn heard(self) -> Result<Value> {
        let report = report(&self.0.wait(Duration::from_secs(40))?)?;
        ensure!(report["ended"] == true, "the attacker's honest last frame did not come: {report}");
        Ok(report["heard"].clone())
    }
}

/// A number in an attack's report.
pub(crate) fn number(report: &Value, name: &str) -> Result<u64> {
    report[name].as_u64().with_context(|| format!("no {name} in {report}"))
}

/// The file with the secret that `Weft::make_secret` made under `name`, as this machine sees it.
pub(crate) fn secret_file(lab: &Lab, name: &str) -> Result<String> {
    let file: PathBuf = lab.run_dir().join(Path::new("files/secrets")).join(name);
    Ok(file.to_str().context("a plain path")?.to_owned())
}
