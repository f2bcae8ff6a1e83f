//! A swarm manager's part in service addresses: reads services and tasks from dockerd, and has the node publish them.
//!
//! dockerd tells of services by events, of tasks it does not, so tasks are asked for:
//!
//! | while | how often |
//! |---|---|
//! | no service has an address on a network of weft's | every 5 s, for services only |
//! | there are such | every 500 ms: a change is to reach all hosts within a second |
//! | a service is being updated, or a task is starting | every 100 ms: old tasks end as soon as swarm has decided so |
//! | an event came | at once |
//!
//! and at most a tenth of the time, but every 5 s whatever a look takes, so that dockerd is not kept busy by a large swarm. Only running
//! tasks of the services in question are asked for. That a task's container has ended is known sooner, by its endpoint's
//! record.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::{debug, info, warn};

use crate::core::Core;
use crate::docker;
use crate::swarm::{self, Look, Seen};

/// Between looks, while services have addresses on weft's networks.
const INTERVAL: Duration = Duration::from_millis(500);
/// While tasks are about to change.
const MOVING_INTERVAL: Duration = Duration::from_millis(100);
/// While there is nothing to look at, or nobody answers.
const IDLE_INTERVAL: Duration = Duration::from_secs(5);
/// After a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Events come in bursts.
const LEAST_INTERVAL: Duration = Duration::from_millis(50);
/// Rest at least so many times as long as a look took.
const REST_FACTOR: u32 = 9;
/// How long dockerd may fail to answer before what was published counts as old.
const DOUBT_AFTER: Duration = Duration::from_secs(5);

/// Publishes for ever.
pub(crate) async fn publish(core: &Arc<Core>) {
    let socket = &core.settings.docker_socket;
    // Without its plugin no swarm uses weft's networks.
    if !core.settings.plugin || !docker::is_granted(socket) {
        return std::future::pending().await;
    }
    let wake = Notify::new();
    let events = async {
        loop {
            if let Err(error) = swarm::follow_events(socket, &wake).await {
                debug!(%error, "Docker's events not followed");
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    };
    tokio::join!(events, look(core, &wake));
}

async fn look(core: &Core, wake: &Notify) {
    let mut look = Look::default();
    let mut failing_since: Option<Instant> = None;
    loop {
        let started = Instant::now();
        let seen = look.look(&core.settings.docker_socket).await;
        // Waiting for an answer that does not come keeps nobody busy.
        let mut least = LEAST_INTERVAL;
        let interval = match seen {
            Ok(seen) => {
                least = (started.elapsed() * REST_FACTOR).clamp(LEAST_INTERVAL, IDLE_INTERVAL);
                failing_since = None;
                tell(core, seen).await
            }
            Err(error) => {
                debug!(%error, "services not read");
                let since = *failing_since.get_or_insert(started);
                if since.elapsed() >= DOUBT_AFTER {
                    note(core, Some(format!("services cannot be read from dockerd: {error}")));
                    if let Some(running) = core.running.load_full() {
                        running.node.call(|node, now| node.doubt_services(now)).await;
                    }
                }
                look.expire();
                RETRY_INTERVAL
            }
        };
        tokio::time::sleep(least).await;
        tokio::select! {
            () = wake.notified() => look.expire(),
            () = tokio::time::sleep(interval.saturating_sub(least)) => {}
        }
    }
}

/// Hands on what was seen; returns when to look again.
async fn tell(core: &Core, seen: Seen) -> Duration {
    let Some(running) = core.running.load_full() else { return RETRY_INTERVAL };
    match seen {
        Seen::NoManager => {
            running.node.call(|node, now| node.withdraw_services(now)).await;
            note(core, None);
            IDLE_INTERVAL
        }
        Seen::Services { swarm, services, is_moving } => {
            let interval = match (services.is_empty(), is_moving) {
                (true, _) => IDLE_INTERVAL,
                (false, true) => MOVING_INTERVAL,
                (false, false) => INTERVAL,
            };
            let published =
                running.node.call(move |node, now| node.publish_services(&swarm, &services, now)).await;
            note(core, published.and_then(Result::err).map(|error| error.to_string()));
            interval
        }
    }
}

fn note(core: &Core, fault: Option<String>) {
    if core.publish_fault.set(fault.clone()) {
        match fault {
            Some(fault) => warn!("{fault}"),
            None => info!("services are read from dockerd"),
        }
    }
}
