//! `weft init` and `weft secret`.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use weft_api::{Client, Secret, SecretAnswer, SecretRequest};
use weft_noise::ClusterSecret;

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
    println!("give it to every other host: weft secret show | ssh HOST weft secret set");
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

/// Prints the daemon's secret.
pub(crate) async fn show(socket: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let answer = Client::discover(socket).await?.secret().await?;
    let Some(secret) = answer.secret else { bail!("the daemon did not tell its secret") };
    println!("{}", secret.expose());
    Ok(ExitCode::SUCCESS)
}

/// Hands a secret to the daemon.
pub(crate) async fn set(socket: Option<PathBuf>, file: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let mut text = String::new();
    match &file {
        Some(path) => {
            let file =
                std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            file.take(MAX_SECRET_LEN).read_to_string(&mut text)?
        }
        None => std::io::stdin().take(MAX_SECRET_LEN).read_to_string(&mut text)?,
    };
    // Checked here as well, so that a bad one is refused before any daemon is looked for.
    ClusterSecret::parse(&text)?;
    let request = SecretRequest::Join(Secret::new(text));
    let SecretAnswer { fingerprint, .. } = Client::discover(socket).await?.set_secret(&request).await?;
    println!("cluster secret set (fingerprint {fingerprint}); `weft status` on all hosts must show the same");
    Ok(ExitCode::SUCCESS)
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
