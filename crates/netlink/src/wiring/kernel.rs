//! The netlink requests, one function each.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InetDevConf, LinkAttribute, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType};
use rtnetlink::{Error, Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use tokio::sync::Mutex;

use super::underlay::{Address, DefaultRoute};
use crate::link::Link;
use crate::links::{Ipv6State, LinkFailure, Step};
use crate::names::Alias;

const ENODEV: i32 = 19;

/// A link by its name, or by its index where another program may rename it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which<'a> {
    /// One that was just made.
    Name(&'a str),
    Index(u32),
}

impl Which<'_> {
    pub(super) fn message(self) -> LinkMessageBuilder<LinkUnspec> {
        match self {
            Self::Name(name) => LinkUnspec::new_with_name(name),
            Self::Index(index) => LinkUnspec::new_with_index(index),
        }
    }
}

/// The kernel carries out a request while it is being sent, and to delete a link takes it tens of milliseconds. So deletions
/// have a socket and a thread of their own.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    handle: Handle,
    deleting: Handle,
    /// Held while something is listed: the kernel has one listing a socket, and refuses a second as busy.
    listing: Arc<Mutex<()>>,
    /// `/proc/sys` was found to be read-only, as it is in a managed plugin.
    no_sysctls: Arc<AtomicBool>,
}

fn io_error(error: Error) -> io::Error {
    match error {
        Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

impl Kernel {
    pub(super) fn new() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (connection, deleting, _) = {
            let _runtime = runtime.enter();
            rtnetlink::new_connection()?
        };
        // Ends with the last handle.
        thread::Builder::new()
            .name("links that go".to_owned())
            .spawn(move || runtime.block_on(connection))?;
        Ok(Self { handle, deleting, listing: Arc::default(), no_sysctls: Arc::default() })
    }

    pub(super) async fn find(&self, name: &str) -> Result<Option<Link>, LinkFailure> {
        let found = self.handle.link().get().match_name(name).execute().try_next().await.map_err(io_error);
        match found {
            Ok(message) => Ok(message.as_ref().map(Link::from)),
            Err(error) if error.raw_os_error() == Some(ENODEV) => Ok(None),
            Err(source) => Err(LinkFailure { step: Step::Find, name: name.to_owned(), source }),
        }
    }

    pub(super) async fn links(&self) -> io::Result<Vec<Link>> {
        let _listing = self.listing.lock().await;
        let messages: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(io_error)?;
        Ok(messages.iter().map(Link::from).collect())
    }

    pub(super) async fn create(&self, name: &str, message: LinkMessage) -> Result<(), LinkFailure> {
        self.handle.link().add(message).execute().await.map_err(|error| LinkFailure {
            step: Step::Create,
            name: name.to_owned(),
            source: io_error(error),
        })
    }

    pub(super) async fn change(
        &self,
        name: &str,
        step: Step,
        message: LinkMessage,
    ) -> Result<(), LinkFailure> {
        self.handle.link().change(message).execute().await.map_err(|error| LinkFailure {
            step,
            name: name.to_owned(),
            source: io_error(error),
        })
    }

    pub(super) async fn up(&self, name: &str, which: Which<'_>) -> Result<(), LinkFailure> {
        self.change(name, Step::Up, which.message().up().build()).await
    }

    /// Deletes the link; also well when it is gone already.
    pub(super) async fn delete(&self, name: &str, index: u32) -> Result<(), LinkFailure> {
        match self.deleting.link().del(index).execute().await.map_err(io_error) {
            Err(source) if source.raw_os_error() != Some(ENODEV) => {
                Err(LinkFailure { step: Step::Delete, name: name.to_owned(), source })
            }
            _ => Ok(()),
        }
    }

    /// Keeps the host's own stack off a link that only carries containers' frames.
    ///
    /// Without an address the host would still answer ARP for its other addresses and take packets for them (the
    /// weak host model), from any container on the network. Strict reverse path filtering refuses both, since no
    /// route leads back over this link; `arp_ignore` also silences answers to probes, whose source is zero. Both are
    /// set by netlink, which works where `/proc/sys` is read-only. None of this is fatal.
    pub(super) async fn isolate(&self, name: &str, which: Which<'_>) -> Ipv6State {
        let [v4, v6] = isolation().map(|family| async {
            let message =
                which.message().append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![family])).build();
            if let Err(failure) = self.change(name, Step::Configure, message).await {
                tracing::debug!(%failure, "a setting that keeps the host off the link was refused");
            }
        });
        tokio::join!(v4, v6);
        self.disable_ipv6(name)
    }

    /// Gives a container's new link its alias, isolates it and sets it up, in one request where the kernel knows all of it. It
    /// has no carrier before the container's end is up, so that the kernel gives it no IPv6 address in between.
    pub(super) async fn set_up_veth(
        &self,
        name: &str,
        alias: &Alias,
        which: Which<'_>,
    ) -> Result<Ipv6State, LinkFailure> {
        let named = || which.message().alias(alias.to_string());
        let all = named()
            .up()
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(isolation().into_iter().collect()));
        if self.change(name, Step::Configure, all.build()).await.is_ok() {
            return Ok(self.disable_ipv6(name));
        }
        self.change(name, Step::Configure, named().build()).await?;
        let ipv6 = self.isolate(name, which).await;
        self.up(name, which).await?;
        Ok(ipv6)
    }

    fn disable_ipv6(&self, name: &str) -> Ipv6State {
        if self.no_sysctls.load(Ordering::Relaxed) {
            return Ipv6State::NoAddress;
        }
        let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        match std::fs::write(path, "1") {
            Ok(()) => Ipv6State::Disabled,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ipv6State::Disabled,
            Err(error) => {
                if error.kind() == io::ErrorKind::ReadOnlyFilesystem {
                    self.no_sysctls.store(true, Ordering::Relaxed);
                }
                tracing::debug!(link = name, %error, "IPv6 stays on, without an address");
                Ipv6State::NoAddress
            }
        }
    }

    pub(super) async fn addresses(&self) -> io::Result<Vec<Address>> {
        let _listing = self.listing.lock().await;
        let messages: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await.map_err(io_error)?;
        Ok(messages.iter().filter_map(address).collect())
    }

    pub(super) async fn default_routes(&self) -> io::Result<Vec<DefaultRoute>> {
        let _listing = self.listing.lock().await;
        let mut routes = Vec::new();
        for query in
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let messages: Vec<RouteMessage> =
                self.handle.route().get(query).execute().try_collect().await.map_err(io_error)?;
            routes.extend(messages.iter().flat_map(default_routes));
        }
        Ok(routes)
    }
}

/// What [`Kernel::isolate`] sets by netlink.
fn isolation() -> [AfSpecUnspec; 2] {
    let mut ipv4 = InetDevConf::default();
    ipv4.rp_filter = 1;
    ipv4.arp_ignore = 8;
    [
        AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(ipv4)]),
        AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]),
    ]
}

fn address(message: &AddressMessage) -> Option<Address> {
    // A point-to-point interface's own address is the local one, the other end's is the address.
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) if local => Some(*ip),
            AddressAttribute::Address(ip) if !local => Some(*ip),
            _ => None,
        })
    };
    let ip: IpAddr = find(true).or_else(|| find(false))?;
    let unusable =
        AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed | AddressHeaderFlags::Deprecated;
    let usable = matches!(message.header.scope, AddressScope::Universe | AddressScope::Site)
        && !message.header.flags.intersects(unusable);
    Some(Address { link: message.header.index, ip, usable })
}

fn default_routes(message: &RouteMessage) -> Vec<DefaultRoute> {
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let main = u32::from(RouteHeader::RT_TABLE_MAIN);
    if message.header.destination_prefix_length != 0
        || message.header.kind != RouteType::Unicast
        || table.unwrap_or(message.header.table.into()) != main
    {
        return Vec::new();
    }
    let mtu = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => metrics.iter().find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) if *mtu != 0 => Some(*mtu),
            _ => None,
        }),
        _ => None,
    });
    message
        .attributes
        .iter()
        .flat_map(|attribute| match attribute {
            RouteAttribute::Oif(link) => vec![*link],
            RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
            _ => Vec::new(),
        })
        .map(|link| DefaultRoute { link, mtu })
        .collect()
}
