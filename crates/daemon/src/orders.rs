//! Carries out what the operator orders.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;
use tracing::info;
use weft_api::{ControlError, Order, OrderAnswer, Secret};
use weft_node::Judgement;
use weft_noise::{ClusterSecret, SecretId};

use crate::core::{Core, JoinWish, Running};
use crate::run::{NO_SECRET, has_secret_file, secrets};
use crate::settings::PeerAddress;
use crate::store::Changes;

/// What a join token's text begins with, so that it is not taken for a secret.
const TOKEN_PREFIX: &str = "weft-token-";
/// Tokens are for the moment: a day is long enough to set up hosts.
const MAX_TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);

pub(crate) async fn carry_out(core: &Arc<Core>, order: Order) -> Result<OrderAnswer, ControlError> {
    match order {
        Order::AddSecret { secret } => add_secret(core, secret).await,
        Order::PreferSecret => prefer_secret(core).await,
        Order::DropSecret { force } => drop_secret(core, force).await,
        Order::AddedSecret => {
            let rotation = rotation(core).await?;
            let added =
                rotation.added.ok_or_else(|| refused("no secret was added: `weft secret rotate add`"))?;
            Ok(OrderAnswer {
                text: added.fingerprint(),
                secret: Some(Secret::new(added.to_text().to_string())),
                ..OrderAnswer::default()
            })
        }
        Order::Judge { peer, judgement } => judge(core, peer, judgement).await,
        Order::MakeToken { lifetime_s, n_uses } => make_token(core, lifetime_s, n_uses).await,
        Order::Join { host, token } => join(core, &host, &token).await,
        Order::Connect { host } => connect(core, &host).await,
        _ => Err(refused("this daemon does not know the order: it is older than the command line")),
    }
}

pub(crate) fn refused(text: impl Into<String>) -> ControlError {
    ControlError::Refused(text.into().into())
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ControlError {
    ControlError::Failed(error.into())
}

pub(crate) fn node_stopped() -> ControlError {
    failed("the node has stopped")
}

pub(crate) fn running(core: &Core) -> Result<Arc<Running>, ControlError> {
    core.running.load_full().ok_or_else(|| refused(core.faults().join("; ")))
}

/// Where a rotation of the secret stands.
struct Rotation {
    /// As they are accepted, the preferred one first; never empty.
    secrets: Vec<ClusterSecret>,
    /// The newer of two.
    added: Option<ClusterSecret>,
    /// There is one, and it is what the last rotation added.
    finished: bool,
}

/// # Errors
/// Refused when there is no secret, or when it is in a file, where the operator rotates it.
async fn rotation(core: &Core) -> Result<Rotation, ControlError> {
    if has_secret_file(core).await {
        return Err(refused(format!(
            "the secret is in the file {0}: on all hosts add the new one as a second line, then on all make it the first, \
             then on all remove the old one; weft reads {0} again within a second",
            core.settings.secret_file.display()
        )));
    }
    let secrets = core.store.secrets().map_err(failed)?;
    if secrets.is_empty() {
        return Err(refused(NO_SECRET));
    }
    let id = core.store.added_secret().map_err(failed)?;
    let added = secrets.iter().find(|s| Some(s.id()) == id).cloned();
    let finished = secrets.len() == 1 && added.is_some();
    Ok(Rotation { secrets, added: added.filter(|_| !finished), finished })
}

async fn keep(core: &Core, secrets: Vec<ClusterSecret>, added: Option<SecretId>) -> Result<(), ControlError> {
    core.write(Changes::default().set_added_secret(added).set_secrets(&secrets)).await.map_err(failed)?;
    core.retry.notify_one();
    Ok(())
}

fn said(text: String) -> OrderAnswer {
    OrderAnswer { text, ..OrderAnswer::default() }
}

async fn add_secret(core: &Core, given: Option<Secret>) -> Result<OrderAnswer, ControlError> {
    let given = given.map(|text| ClusterSecret::parse(text.expose())).transpose();
    let given = given.map_err(|error| ControlError::Refused(error.into()))?;
    let Rotation { mut secrets, added, .. } = rotation(core).await?;
    let new = match (given, added) {
        (Some(given), _) if secrets.iter().any(|s| s.id() == given.id()) => given,
        (Some(given), Some(added)) => {
            return Err(refused(format!(
                "a rotation to secret {} is under way here, and {} is another: finish it first (`weft secret rotate \
                 prefer`, then `drop`)",
                added.fingerprint(),
                given.fingerprint()
            )));
        }
        (None, Some(added)) => added,
        (given, None) => {
            let new = given.unwrap_or_else(|| ClusterSecret::generate(&mut rand::rng()));
            secrets.push(new.clone());
            info!(fingerprint = %new.fingerprint(), "cluster secret added");
            keep(core, secrets, Some(new.id())).await?;
            new
        }
    };
    Ok(said(format!(
        "secret {} is accepted here beside the present one\nnext, on every other host: weft secret show --next | ssh HOST \
         weft secret rotate add --file -\nthen on every host: weft secret rotate prefer",
        new.fingerprint()
    )))
}

async fn prefer_secret(core: &Core) -> Result<OrderAnswer, ControlError> {
    let Rotation { mut secrets, added, finished } = rotation(core).await?;
    if finished {
        return Ok(said("the rotation is finished here already".to_owned()));
    }
    let added =
        added.ok_or_else(|| refused("there is no secret to prefer: `weft secret rotate add` comes first"))?;
    secrets.sort_by_key(|secret| secret.id() != added.id());
    keep(core, secrets, Some(added.id())).await?;
    info!(fingerprint = %added.fingerprint(), "cluster secret preferred");
    Ok(said(format!(
        "handshakes begin with secret {} from now on\nwhen every host does so: weft secret rotate drop",
        added.fingerprint()
    )))
}

async fn drop_secret(core: &Core, force: bool) -> Result<OrderAnswer, ControlError> {
    let Rotation { secrets, added, finished } = rotation(core).await?;
    if finished {
        return Ok(said("the old secret is dropped here already".to_owned()));
    }
    let added = added
        .ok_or_else(|| refused("there is only one secret: `weft secret rotate add` begins a rotation"))?;
    if secrets.first().map(ClusterSecret::id) != Some(added.id()) {
        return Err(refused(
            "the new secret is not preferred here yet: `weft secret rotate prefer` comes first",
        ));
    }
    let id = added.id();
    let view = running(core)?
        .node
        .call(move |node, now| {
            let lagging = node.peers_not_preferring(id);
            let reports = node.peer_reports(now);
            reports.into_iter().filter(|r| r.id.is_some_and(|id| lagging.contains(&id))).collect::<Vec<_>>()
        })
        .await
        .ok_or_else(node_stopped)?;
    let lagging: Vec<String> = view.into_iter().map(|r| r.name).collect();
    if !force && !lagging.is_empty() {
        return Err(refused(format!(
            "still needed by {}: run `weft secret rotate add` and `prefer` there, `weft forget` what is gone for good, or \
             use --force to cut them off",
            lagging.join(", ")
        )));
    }
    keep(core, vec![added.clone()], Some(added.id())).await?;
    info!(fingerprint = %added.fingerprint(), "old cluster secret dropped");
    Ok(said(format!("only secret {} is accepted from now on", added.fingerprint())))
}

async fn judge(
    core: &Core,
    text: String,
    judgement: weft_api::Judgement,
) -> Result<OrderAnswer, ControlError> {
    let running = running(core)?;
    let wanted = match judgement {
        weft_api::Judgement::Revoked => Judgement::Revoked,
        weft_api::Judgement::Allowed => Judgement::Allowed,
        weft_api::Judgement::Forgotten => Judgement::Forgotten,
    };
    // What `weft connect` keeps need not be a peer, and is not contacted again after this.
    let kept =
        judgement == weft_api::Judgement::Forgotten && core.store.seeds().map_err(failed)?.contains(&text);
    if kept {
        core.write(Changes::default().remove_seed(&text)).await.map_err(failed)?;
        core.seeds_changed.notify_one();
    }
    let named = text.clone();
    let stamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
    let stamp = u64::try_from(stamp).unwrap_or(u64::MAX);
    let judged = running
        .node
        .call(move |node, now| {
            let peer = node.find_peer(&text).map_err(|error| ControlError::Refused(error.into()))?;
            if peer == node.id() {
                return Err(refused("that is this host itself: run it on another one"));
            }
            node.judge(peer, wanted, stamp, now);
            let verdict = node.verdicts().find(|v| v.peer == peer).cloned();
            Ok(verdict)
        })
        .await
        .ok_or_else(node_stopped)?;
    let judged = match judged {
        Err(_) if kept => return Ok(said(format!("{named} is not contacted any more"))),
        judged => judged?,
    };
    let name = judged.as_ref().map_or_else(String::new, |v| format!("{} ({})", v.name, v.peer));
    if let Some(verdict) = judged {
        // The node's task does so as well; the answer promises that it is done.
        core.write(Changes::default().put_verdict(&verdict)).await.map_err(failed)?;
    }
    Ok(said(match judgement {
        weft_api::Judgement::Revoked => format!(
            "{name} is shut out of all hosts; it still knows the cluster secret: `weft secret rotate` takes that away"
        ),
        weft_api::Judgement::Allowed => format!("{name} may come back"),
        weft_api::Judgement::Forgotten => {
            format!("{name} is forgotten; if it is alive, it comes back as a new peer")
        }
    }))
}

async fn make_token(core: &Core, lifetime_s: u64, n_uses: u32) -> Result<OrderAnswer, ControlError> {
    let lifetime = Duration::from_secs(lifetime_s);
    if lifetime.is_zero() || lifetime > MAX_TOKEN_LIFETIME || n_uses == 0 {
        return Err(refused("a token is good for 1 second to 24 hours, and for at least one host"));
    }
    let token = ClusterSecret::generate(&mut rand::rng());
    let kept = token.clone();
    let added = running(core)?.node.call(move |node, now| node.add_token(kept, n_uses, lifetime, now)).await;
    if added != Some(true) {
        return Err(refused("too many tokens are open: wait until some expire"));
    }
    let text = format!("{TOKEN_PREFIX}{}", *token.to_text());
    Ok(OrderAnswer {
        text: format!("good for {n_uses} host(s) and {lifetime_s} s"),
        secret: Some(Secret::new(text)),
        addresses: core.addresses(),
    })
}

/// Keeps a host to contact; it need not answer now.
async fn connect(core: &Core, host: &str) -> Result<OrderAnswer, ControlError> {
    running(core)?;
    let host: PeerAddress =
        host.parse().map_err(|_| refused(format!("`{host}` is not HOST or HOST:PORT")))?;
    let port = host.port.unwrap_or(core.settings.port);
    if let Err(error) = tokio::net::lookup_host((host.host.as_str(), port)).await {
        return Err(refused(format!("host `{}` is not found: {error}", host.host)));
    }
    core.write(Changes::default().put_seed(&host.to_string())).await.map_err(failed)?;
    core.seeds_changed.notify_one();
    info!(%host, "host to contact");
    Ok(said(format!(
        "{host} is contacted from now on, also after a restart; `weft peers` shows whether it answers, `weft forget {host}` \
         takes this back"
    )))
}

async fn join(core: &Core, host: &str, token: &Secret) -> Result<OrderAnswer, ControlError> {
    let known = secrets(core).await.map_err(|error| ControlError::Failed(error.into()))?;
    if let Some(known) = known.first() {
        return Err(refused(format!(
            "this host has a cluster secret already (fingerprint {}): to move it to another cluster, remove its state \
             directory and restart weft",
            known.fingerprint()
        )));
    }
    let host: PeerAddress =
        host.parse().map_err(|_| refused(format!("`{host}` is not HOST or HOST:PORT")))?;
    let token = token.expose().trim().strip_prefix(TOKEN_PREFIX).map(ClusterSecret::parse);
    let token = token.and_then(Result::ok).ok_or_else(|| {
        refused(format!(
            "the token must begin with {TOKEN_PREFIX} and be whole: `weft token` on the other host"
        ))
    })?;
    let (done, result) = oneshot::channel();
    let shown = host.to_string();
    *core.join.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
        Some(JoinWish { host, token, done });
    core.retry.notify_one();
    match result.await {
        Ok(Ok(fingerprint)) => Ok(said(format!(
            "joined the cluster of {shown} (secret {fingerprint}); `weft status` shows its hosts"
        ))),
        Ok(Err(text)) => Err(refused(text)),
        Err(_) => Err(refused("another `weft join` took the place of this one")),
    }
}
