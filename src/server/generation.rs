//! One generation: everything that one reading of the Corefile runs.
//!
//! A generation is built whole, beside the one that serves, and takes over in one step. What it shares with its
//! predecessor it finds in [`crate::server::process::Shared`]; what it does not is retired with it.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use crate::chain::Chain;
use crate::chain::plugin::Plugin;
use crate::corefile::key::{Key, Scheme, is_host_like};
use crate::plugin::BuildError;
use crate::plugin::configure::BlockConfig;
use crate::server::assembly::{Assembly, Links, Plan, Upstreams};
use crate::server::lent::ClusterSlot;
use crate::server::process::Process;
use crate::telemetry::metrics::ServerMetrics;
use crate::wire::name::Name;
use crate::zone::Zones;
use crate::zone::block::ServerBlock;

/// Where a server block is reached: an address, or the wildcard of both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenAddress {
    /// The address; none means every address of the machine.
    pub ip: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

impl ListenAddress {
    /// The address to bind. The wildcard is IPv6's, which takes IPv4 as well.
    pub fn to_socket(self) -> SocketAddr {
        SocketAddr::new(
            self.ip.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
            self.port,
        )
    }
}

impl fmt::Display for ListenAddress {
    /// The metrics label `server`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            None => write!(f, "dns://:{}", self.port),
            Some(ip) => write!(f, "dns://{}", SocketAddr::new(ip, self.port)),
        }
    }
}

/// What one reading of the Corefile runs.
pub struct Generation {
    /// The zones of each address.
    pub zones: BTreeMap<ListenAddress, Arc<Zones>>,
    /// What runs beside the chains.
    pub plan: Plan,
    /// A line for each zone and address, as the start shows them.
    pub banner: Vec<String>,
    /// What the start warns about.
    pub warnings: Vec<String>,
}

/// What the command line says about how to serve.
#[derive(Clone, Copy, Debug)]
pub struct ServeDefaults {
    /// The port of keys that name none.
    pub port: u16,
}

impl Generation {
    /// Builds all blocks. Nothing of it serves yet; dropping it takes everything back.
    pub fn build(
        blocks: &[BlockConfig],
        defaults: ServeDefaults,
        process: &Arc<Process>,
    ) -> Result<Self, BuildError> {
        let mut plan = Plan::default();
        for (_, config) in blocks.iter().flat_map(|block| &block.plugins) {
            config.demand(&mut plan.demands);
        }
        let mut served: BTreeMap<ListenAddress, Vec<Arc<ServerBlock>>> = BTreeMap::new();
        let built: Result<(), BuildError> = blocks.iter().try_for_each(|block| {
            plan.upstreams = Upstreams::default();
            plan.cluster = ClusterSlot::default();
            plan.links = Links::default();
            let links = build_links(block, defaults, process, &mut plan)?;
            plan.links.set(&links);
            let addresses = plan.bind.take();
            place_block(block, &links, addresses.as_deref(), defaults, &mut served)
        });
        if let Err(error) = built {
            plan.stop.cancel();
            return Err(error);
        }
        let banner = banner(&served);
        let warnings = blocks
            .iter()
            .flat_map(|block| &block.keys)
            .filter_map(preferred_syntax_warning)
            .collect();
        let zones = served
            .into_iter()
            .map(|(address, blocks)| {
                let metrics = Arc::new(ServerMetrics::new(&process.metrics, &address.to_string()));
                (address, Arc::new(Zones::new(blocks, metrics)))
            })
            .collect();
        Ok(Self {
            zones,
            plan,
            banner,
            warnings,
        })
    }

    /// Ends its tasks. Queries that wait keep their chain until they are answered.
    pub fn retire(self) {
        self.plan.stop.cancel();
        self.plan.tasks.close();
    }
}

/// The links of a block's chain, in the order of the registry.
fn build_links(
    block: &BlockConfig,
    defaults: ServeDefaults,
    process: &Arc<Process>,
    plan: &mut Plan,
) -> Result<Vec<Arc<dyn Plugin>>, BuildError> {
    let mut links = Vec::new();
    let mut configs = block.plugins.iter().map(|(_, config)| &**config);
    let root = configs.find_map(crate::plugin::root::path_of);
    for ((spec, config), fingerprint_below) in block.plugins.iter().zip(fingerprints(block)) {
        let ip = plan.bind.as_ref().and_then(|ips| ips.first().copied());
        let port = block
            .keys
            .first()
            .and_then(|key| key.port)
            .unwrap_or(defaults.port);
        let server: Arc<str> = ListenAddress { ip, port }.to_string().into();
        let mut assembly = Assembly {
            process,
            keys: &block.keys,
            server: &server,
            root: root.unwrap_or(Path::new("")),
            fingerprint_below,
            generation: plan,
        };
        let made = config
            .build(&mut assembly)
            .map_err(|error| BuildError(format!("plugin/{}: {error}", spec.name)))?;
        links.extend(made);
    }
    Ok(links)
}

/// For each plugin a hash of the block's zones and of all that is configured below it. They are compared within this
/// process only. Each configuration is written out once: that of `hosts` may be long.
fn fingerprints(block: &BlockConfig) -> Vec<u64> {
    let seed = foldhash::quality::FixedState::default();
    let mut hasher = seed.build_hasher();
    for key in &block.keys {
        key.zone.hash(&mut hasher);
    }
    let mut below = hasher.finish();
    let upwards = block.plugins.iter().rev().map(|(spec, config)| {
        let with_this = seed.hash_one((spec.name, format!("{config:?}"), below));
        std::mem::replace(&mut below, with_this)
    });
    let mut fingerprints: Vec<u64> = upwards.collect();
    fingerprints.reverse();
    fingerprints
}

/// Gives each key of a block its place among the blocks of its address.
fn place_block(
    block: &BlockConfig,
    links: &[Arc<dyn Plugin>],
    addresses: Option<&[IpAddr]>,
    defaults: ServeDefaults,
    served: &mut BTreeMap<ListenAddress, Vec<Arc<ServerBlock>>>,
) -> Result<(), BuildError> {
    for key in &block.keys {
        if key.scheme != Scheme::Dns {
            return Err(BuildError(format!(
                "serving `{}://` is not built yet",
                key.scheme.as_str()
            )));
        }
        let port = key.port.unwrap_or(defaults.port);
        let ips: Vec<Option<IpAddr>> =
            addresses.map_or_else(|| vec![None], |ips| ips.iter().copied().map(Some).collect());
        for ip in ips {
            let address = ListenAddress { ip, port };
            refuse_duplicate(&key.zone, address, served)?;
            let chain = Chain::new(links.to_vec());
            let block = ServerBlock {
                origin: key.zone.clone(),
                server: address.to_string().into(),
                chain,
            };
            served.entry(address).or_default().push(Arc::new(block));
        }
    }
    Ok(())
}

/// A zone may stand once on an address. `configure` has compared the words; two interfaces or an interface and an
/// address show only here that they are the same.
fn refuse_duplicate(
    zone: &Name,
    address: ListenAddress,
    served: &BTreeMap<ListenAddress, Vec<Arc<ServerBlock>>>,
) -> Result<(), BuildError> {
    let duplicate = served
        .get(&address)
        .is_some_and(|blocks| blocks.iter().any(|block| block.origin == *zone));
    if !duplicate {
        return Ok(());
    }
    let on = address.ip.map(|ip| format!(" on {ip}")).unwrap_or_default();
    Err(BuildError(format!(
        "cannot serve dns://{zone}:{}{on} - it is already defined",
        address.port
    )))
}

/// `example.org.:53 on 127.0.0.1`, sorted by zone within an address.
fn banner(served: &BTreeMap<ListenAddress, Vec<Arc<ServerBlock>>>) -> Vec<String> {
    let mut lines = Vec::new();
    for (address, blocks) in served {
        let mut zones: Vec<String> = blocks
            .iter()
            .map(|block| block.origin.to_string())
            .collect();
        zones.sort();
        zones.dedup();
        let on = address.ip.map(|ip| format!(" on {ip}")).unwrap_or_default();
        lines.extend(
            zones
                .iter()
                .map(|zone| format!("{zone}:{}{on}", address.port)),
        );
    }
    lines
}

/// The line that CoreDNS starts with for a zone that is no host name.
fn preferred_syntax_warning(key: &Key) -> Option<String> {
    let zone = &key.zone;
    (!is_host_like(zone))
        .then(|| format!("Warning: Domain \"{zone}\" does not follow RFC1035 preferred syntax"))
}
