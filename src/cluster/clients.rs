//! Pods as clients: who sends from an address, for who wants to know (`metadata`). Kept on demand only: names and labels
//! take some hundred octets a Pod.

use std::net::IpAddr;
use std::sync::Arc;

use crate::cluster::objects::PodLabels;
use crate::cluster::table::Map;

/// A Pod that queries come from.
#[derive(Debug, PartialEq, Eq)]
pub struct Client {
    /// Namespace and name, parted by a slash.
    pub(in crate::cluster) key: Box<[u8]>,
    pub(in crate::cluster) labels: PodLabels,
    /// On its way out.
    pub(in crate::cluster) going: bool,
    /// On the network of its node.
    pub(in crate::cluster) host: bool,
}

impl Client {
    fn parts(&self) -> (&str, &str) {
        let key = str::from_utf8(&self.key).unwrap_or_default();
        key.split_once('/').unwrap_or(("", key))
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.parts().0
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.parts().1
    }

    /// The value of one of its labels.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key)
    }
}

/// Pods by address. One writer, any number of readers that never wait.
#[derive(Default)]
pub(in crate::cluster) struct Clients(Map<IpAddr, Arc<[Arc<Client>]>>);

impl Clients {
    /// The Pod that sends from an address, where that is certain: no other running Pod has it, and it is not a node's.
    pub(in crate::cluster) fn find(&self, address: IpAddr) -> Option<Arc<Client>> {
        let clients = self.0.pin();
        let all = clients.get(&address)?;
        let taken = all.iter().any(|client| !client.going && !client.host);
        let claims = |client: &&Arc<Client>| !(taken && client.going && !client.host);
        let mut claimants = all.iter().filter(claims);
        let client = claimants.next().filter(|client| !client.host)?;
        claimants.next().is_none().then(|| Arc::clone(client))
    }

    /// Takes a Pod from an address, and puts one there. For the one writer only.
    pub(in crate::cluster) fn change(
        &self,
        key: &[u8],
        old: Option<IpAddr>,
        new: Option<(IpAddr, Client)>,
    ) {
        let clients = self.0.pin();
        if let Some(old) = old.filter(|&old| new.as_ref().is_none_or(|(new, _)| *new != old)) {
            let left = without(clients.get(&old), key);
            if left.is_empty() {
                clients.remove(&old);
            } else {
                clients.insert(old, left.into());
            }
        }
        if let Some((address, client)) = new {
            let known = clients.get(&address);
            if known.is_some_and(|known| known.iter().any(|known| **known == client)) {
                return;
            }
            let mut all = without(known, key);
            all.push(Arc::new(client));
            clients.insert(address, all.into());
        }
    }
}

fn without(known: Option<&Arc<[Arc<Client>]>>, key: &[u8]) -> Vec<Arc<Client>> {
    let known = known.map_or(&[][..], |known| known);
    let others = known.iter().filter(|client| *client.key != *key);
    others.cloned().collect()
}
