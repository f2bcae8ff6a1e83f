//! Echoes for `weft ping`.

use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use weft_api::{ControlError, MAX_PING_WAIT, PingAnswer, PingRequest};
use weft_node::Event;

use crate::control::{peer_status, view};
use crate::core::Core;
use crate::orders::{node_stopped, refused, running};
use crate::paths::find_peer;

pub(crate) async fn ping(core: &Core, request: PingRequest) -> Result<PingAnswer, ControlError> {
    let running = running(core)?;
    let wait = Duration::from_millis(request.wait_ms).min(MAX_PING_WAIT);
    let mut events = running.node.events();
    let text = request.peer;
    let sent = running.node.call(move |node, now| {
        let id = find_peer(node, &text)?;
        let nonce = node.send_echo(id, now, &mut rand::rng());
        let nonce =
            nonce.ok_or_else(|| refused(format!("`{text}` is known, but no peer: revoked or refused")))?;
        Ok((id, nonce))
    });
    let (id, nonce) = sent.await.ok_or_else(node_stopped)??;
    let echo = async {
        loop {
            match events.recv().await {
                Ok(Event::Echoed { id: from, nonce: back, rtt }) if (from, back) == (id, nonce) => {
                    break Some(rtt);
                }
                Err(RecvError::Closed) => break None,
                // An echo among events that were too many to keep counts as lost.
                Ok(_) | Err(RecvError::Lagged(_)) => {}
            }
        }
    };
    let rtt = tokio::time::timeout(wait, echo).await.ok().flatten();
    let view = view(&running).await.ok_or_else(node_stopped)?;
    let status = view.peers.iter().find(|peer| peer.id == Some(id));
    let status = status.map(|peer| peer_status(peer, &view, core.settings.port));
    Ok(PingAnswer {
        id: id.to_string(),
        name: status.as_ref().and_then(|peer| peer.name.clone()).unwrap_or_default(),
        address: status.as_ref().and_then(|peer| peer.address),
        path: status.and_then(|peer| peer.path),
        rtt_us: rtt.and_then(|rtt| rtt.as_micros().try_into().ok()),
    })
}
