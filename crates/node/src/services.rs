//! Services of the swarm: what managers publish of them, and what this host's containers can reach of that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_mesh::{Event as MeshEvent, KvKey, Scope};
use weft_services::{Claim, PREFIX, Publication, Record, Service, VipTable};
use weft_wire::{NetworkId, PeerId};

use crate::node::Node;

/// Records of services that a host may publish: half of what the mesh takes of one owner.
const MAX_RECORDS: usize = 1024;
/// For so long after this host entered a network, a task that nobody has announced may be one of which the word has not
/// come yet. To take it for gone would refuse connections whenever the daemon starts, or the first container of a network.
const GRACE: Duration = Duration::from_secs(5);

/// The services are more than can be published. What was published before stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the services need {n_records} records, and {MAX_RECORDS} is the most: have fewer services on weft's networks"
)]
pub struct TooManyServices {
    /// How many records they need.
    pub n_records: usize,
}

/// Who says what the services are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ServiceSource {
    /// No manager has ever published, as far as is known here.
    #[default]
    None,
    /// None publishes now: what is known is what was last said.
    LastKnown,
    /// These managers.
    Managers(Vec<PeerId>),
}

/// A service on one of this host's networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveService {
    /// As it is published, but with those tasks only that can be reached: some living host has announced them.
    pub service: Service,
    /// Tasks that are published, reachable or not.
    pub n_published: usize,
    /// Who told of it.
    pub from: PeerId,
}

/// The services on this host's networks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceView {
    /// By network.
    pub networks: BTreeMap<NetworkId, Vec<LiveService>>,
    /// Who says so.
    pub source: ServiceSource,
}

/// What the node keeps of services.
#[derive(Debug, Default)]
pub(crate) struct Services {
    table: VipTable,
    view: Arc<ServiceView>,
    /// The view was not taken since it changed.
    is_new: bool,
    /// Something changed on which table or view depends.
    pub(crate) is_dirty: bool,
    /// Since when this host is on a network.
    since: BTreeMap<NetworkId, Instant>,
    /// When the next network's grace is over.
    grace_ends: Option<Instant>,
    /// Keys of this host's own records.
    published: BTreeSet<Vec<u8>>,
    publication: Option<Publication>,
}

impl Services {
    pub(crate) fn joined(&mut self, network: NetworkId, now: Instant) {
        self.since.entry(network).or_insert(now);
        self.is_dirty = true;
    }

    pub(crate) fn left(&mut self, network: NetworkId) {
        self.since.remove(&network);
        self.is_dirty = true;
    }

    /// Notes whether the event may change anything here.
    pub(crate) fn hear(&mut self, event: &MeshEvent) {
        self.is_dirty |= match event {
            MeshEvent::RecordChanged { scope: Scope::Global, key, .. } => key.0.starts_with(PREFIX),
            MeshEvent::PeerUp { .. }
            | MeshEvent::PeerDown { .. }
            | MeshEvent::PeerLeft { .. }
            | MeshEvent::EndpointAdded { .. }
            | MeshEvent::EndpointMoved { .. }
            | MeshEvent::EndpointRemoved { .. }
            | MeshEvent::DuplicateAddress { .. } => true,
            _ => false,
        };
    }
}

impl Node {
    /// Publishes all services of the swarm, in place of what this host published before.
    ///
    /// Records are for all hosts, not for the members of a network, since a manager need not be one.
    ///
    /// # Errors
    /// [`TooManyServices`]; nothing was changed.
    pub fn publish_services(
        &mut self,
        swarm: &str,
        services: &[Service],
        now: Instant,
    ) -> Result<(), TooManyServices> {
        let records: Vec<Record> = services.iter().flat_map(Service::records).collect();
        let n_records = records.len();
        if n_records > MAX_RECORDS {
            return Err(TooManyServices { n_records });
        }
        let keys = records.iter().map(|(key, _)| key.clone()).collect();
        let old: Vec<Vec<u8>> = self.services.published.difference(&keys).cloned().collect();
        for key in old {
            self.mesh.delete(Scope::Global, &KvKey(key));
        }
        self.services.published = keys;
        let (swarm, n_records) = (swarm.to_owned(), n_records as u32);
        let publication = Publication { swarm, is_current: true, n_records };
        records.into_iter().for_each(|record| self.put_service_record(record));
        self.put_service_record(publication.record());
        self.services.publication = Some(publication);
        self.pump(now);
        Ok(())
    }

    /// Says that what this host published is not known to be so any more: its dockerd does not answer.
    pub fn doubt_services(&mut self, now: Instant) {
        if let Some(publication) = &mut self.services.publication {
            publication.is_current = false;
            let record = publication.record();
            self.put_service_record(record);
            self.pump(now);
        }
    }

    /// Withdraws what this host published: it is no manager any more.
    pub fn withdraw_services(&mut self, now: Instant) {
        let Some(publication) = self.services.publication.take() else { return };
        let (key, _) = publication.record();
        let published = std::mem::take(&mut self.services.published);
        for key in published.into_iter().chain([key]) {
            self.mesh.delete(Scope::Global, &KvKey(key));
        }
        self.pump(now);
    }

    fn put_service_record(&mut self, (key, value): Record) {
        // Within the limits of keys and values.
        let put = self.mesh.put(Scope::Global, KvKey(key), value);
        debug_assert!(put.is_ok(), "{put:?}");
    }

    /// Takes in what was known in an earlier run.
    pub fn remember_services(&mut self, table: VipTable, now: Instant) {
        self.services.table = table;
        self.services.is_dirty = true;
        self.pump(now);
    }

    /// Everything that is known of services, to be kept for the next run.
    #[must_use]
    pub fn known_services(&self) -> &VipTable {
        &self.services.table
    }

    /// The services on this host's networks, if they or what is known beside changed since the last call.
    pub fn take_services(&mut self) -> Option<Arc<ServiceView>> {
        std::mem::take(&mut self.services.is_new).then(|| Arc::clone(&self.services.view))
    }

    /// The last outcome of [`Node::take_services`].
    #[must_use]
    pub fn services(&self) -> &Arc<ServiceView> {
        &self.services.view
    }

    /// Whether a living host has announced an endpoint with that address, or may have without it being known here yet.
    #[must_use]
    pub fn is_reachable(&self, network: NetworkId, address: IpAddr, now: Instant) -> bool {
        match self.mesh.endpoint_by_ip(network, address) {
            Some((peer, _)) => self.mesh.is_up(peer),
            None => self.services.since.get(&network).is_some_and(|since| now < *since + GRACE),
        }
    }

    /// Brings table and view up to date, if there is a reason to.
    pub(crate) fn refresh_services(&mut self, now: Instant) {
        self.services.is_dirty |= self.services.grace_ends.is_some_and(|end| end <= now);
        if !std::mem::take(&mut self.services.is_dirty) {
            return;
        }
        self.services.grace_ends =
            self.services.since.values().map(|s| *s + GRACE).filter(|end| *end > now).min();
        let claims = self.service_claims();
        let mut changed = self.services.table.merge(&claims);
        let (gate, me) = (&self.gate, self.id);
        changed |= self.services.table.drop_untrusted(|owner| owner == me || !gate.is_barred(owner));
        let is_current =
            |claim: &&Claim| claim.is_alive && claim.said.publication.as_ref().is_some_and(|p| p.is_current);
        let current: Vec<PeerId> = claims.iter().filter(is_current).map(|claim| claim.owner).collect();
        let source = match current.is_empty() {
            false => ServiceSource::Managers(current),
            true if self.services.table.is_empty() => ServiceSource::None,
            true => ServiceSource::LastKnown,
        };
        let networks =
            self.networks.keys().map(|network| (*network, self.live_services(*network, now))).collect();
        let view = ServiceView { networks, source };
        if changed || view != *self.services.view {
            self.services.view = Arc::new(view);
            self.services.is_new = true;
        }
    }

    fn service_claims(&self) -> Vec<Claim> {
        let mut records = BTreeMap::<PeerId, Vec<_>>::new();
        for (owner, key, value) in self.mesh.records(Scope::Global, PREFIX) {
            records.entry(owner).or_default().push((key.0.as_slice(), value));
        }
        records
            .into_iter()
            .filter(|(owner, _)| *owner == self.id || !self.gate.is_barred(*owner))
            .map(|(owner, records)| Claim {
                owner,
                is_alive: self.mesh.is_up(owner),
                said: weft_services::read(records),
            })
            .collect()
    }

    /// An address that a container has is no service's, whatever is published.
    fn live_services(&self, network: NetworkId, now: Instant) -> Vec<LiveService> {
        let known = self.services.table.services(network);
        let known = known.filter(|known| self.mesh.endpoint_by_ip(network, known.service.vip).is_none());
        known
            .map(|known| {
                let mut service = known.service.clone();
                service.tasks.retain(|task| self.is_reachable(network, *task, now));
                LiveService { service, n_published: known.service.tasks.len(), from: known.from }
            })
            .collect()
    }
}
