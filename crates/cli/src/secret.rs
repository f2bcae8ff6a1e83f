//! `weft init`, `weft token`, `weft join` and `weft secret`.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use weft_api::{Client, Order, OrderAnswer, Secret, SecretAnswer, SecretRequest};
use weft_noise::ClusterSecret;

use crate::args::RotateCommand;

/// Longest input that can hold a secret.
const MAX_SECRET_LEN: u64 = 4096;

/// Makes the secret: in a new file, or in the daemon.
pub(crate) async fn init(socket: Option<PathBuf>, out: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    if let Some(path) = out {
        let secret = ClusterSecret::generate(&mut rand::rng());
        write_new(&path, &secret)?;
        println!("cluster secret written to {} (fingerprint {})", path.display(), secret.fingerprint());
        println!("copy the file to every host of the cluster, readable by root alone");
        return Ok(ExitCode::SUCCESS);
    }
    let SecretAnswer { fingerprint, .. } =
        Client::discover(socket).await?.set_secret(&SecretRequest::Generate).await?;
    println!("this host has a new cluster secret (fingerprint {fingerprint})");
    println!("for every other host: `weft token` here prints a token; there: weft join THIS-HOST TOKEN");
    Ok(ExitCode::SUCCESS)
}

/// Makes the directory too. Never overwrites: a lost secret cuts a host off from its cluster.
fn write_new(path: &Path, secret: &ClusterSecret) -> anyhow::Result<()> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.with_context(|| format!("cannot make the directory {}", dir.display()))?;
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(secret.to_text().as_bytes())?;
    file.write_all(b"\n")?;
    Ok(file.sync_all()?)
}

/// Prints the daemon's secret, or the one that a rotation has added.
pub(crate) async fn show(socket: Option<PathBuf>, next: bool) -> anyhow::Result<ExitCode> {
    let client = Client::discover(socket).await?;
    let secret =
        if next { client.order(&Order::AddedSecret).await?.secret } else { client.secret().await?.secret };
    let Some(secret) = secret else { bail!("the daemon did not tell its secret") };
    println!("{}", secret.expose());
    Ok(ExitCode::SUCCESS)
}

/// Reads a secret or token from a file, or from standard input.
fn read(file: Option<&Path>) -> anyhow::Result<String> {
    let mut text = String::new();
    match file.filter(|path| *path != Path::new("-")) {
        Some(path) => {
            let file =
                std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            file.take(MAX_SECRET_LEN).read_to_string(&mut text)?
        }
        None => std::io::stdin().take(MAX_SECRET_LEN).read_to_string(&mut text)?,
    };
    Ok(text)
}

/// Hands a secret to the daemon.
pub(crate) async fn set(socket: Option<PathBuf>, file: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let text = read(file.as_deref())?;
    // Checked here as well, so that a bad one is refused before any daemon is looked for.
    ClusterSecret::parse(&text)?;
    let request = SecretRequest::Join(Secret::new(text));
    let SecretAnswer { fingerprint, .. } = Client::discover(socket).await?.set_secret(&request).await?;
    println!("cluster secret set (fingerprint {fingerprint}); `weft status` on all hosts must show the same");
    Ok(ExitCode::SUCCESS)
}

/// One step of a rotation.
pub(crate) async fn rotate(socket: Option<PathBuf>, step: RotateCommand) -> anyhow::Result<ExitCode> {
    let order = match step {
        RotateCommand::Add { file: None } => Order::AddSecret { secret: None },
        RotateCommand::Add { file: Some(path) } => {
            let text = read(Some(&path))?;
            ClusterSecret::parse(&text)?;
            Order::AddSecret { secret: Some(Secret::new(text)) }
        }
        RotateCommand::Prefer => Order::PreferSecret,
        RotateCommand::Drop { force } => Order::DropSecret { force },
    };
    carry_out(socket, &order).await
}

/// Has the daemon carry an order out, and prints what it says.
pub(crate) async fn carry_out(socket: Option<PathBuf>, order: &Order) -> anyhow::Result<ExitCode> {
    let answer = Client::discover(socket).await?.order(order).await?;
    println!("{}", answer.text);
    Ok(ExitCode::SUCCESS)
}

/// Prints a token, alone on standard output so that it can be piped.
pub(crate) async fn token(socket: Option<PathBuf>, ttl: Duration, n_uses: u32) -> anyhow::Result<ExitCode> {
    let order = Order::MakeToken { lifetime_s: ttl.as_secs(), n_uses };
    let OrderAnswer { text, secret, addresses } = Client::discover(socket).await?.order(&order).await?;
    let Some(token) = secret else { bail!("the daemon did not tell the token") };
    println!("{}", token.expose());
    let host = addresses.first().map_or_else(|| "THIS-HOST".to_owned(), ToString::to_string);
    eprintln!("{text}; on the new host: weft join {host} TOKEN");
    Ok(ExitCode::SUCCESS)
}

/// Joins a cluster.
pub(crate) async fn join(socket: Option<PathBuf>, host: String, token: String) -> anyhow::Result<ExitCode> {
    let token = if token == "-" { read(None)? } else { token };
    carry_out(socket, &Order::Join { host, token: Secret::new(token) }).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_file_is_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weft/secret");
        write_new(&path, &ClusterSecret::new([7; 32])).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write_new(&path, &ClusterSecret::new([8; 32])).is_err());
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            ClusterSecret::parse(&text).unwrap().fingerprint(),
            ClusterSecret::new([7; 32]).fingerprint()
        );
    }
}
