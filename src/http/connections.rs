//! The connections that are open: how many there may be, in all and of one client, and which one makes room for another.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::connection::Watch;
use super::gate::network;
use crate::config::Network;
use crate::runtime::observe;

/// Connections beyond the limits, which are answered /livez, /readyz and /healthz only: whoever looks after the process is never behind
/// those who hold connections.
const HEALTH_ONLY: usize = 16;

/// What a connection may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Anything.
    Full,
    /// Whether the process is alive and ready: there is no room for more.
    HealthOnly,
}

/// The open connections.
#[derive(Debug)]
pub(super) struct Connections {
    max: usize,
    max_per_client: usize,
    trusted_proxies: Vec<Network>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// By age.
    open: BTreeMap<u64, Entry>,
    /// Of those with full access.
    full: usize,
    per_client: HashMap<IpAddr, usize>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    watch: Arc<Watch>,
    cut: CancellationToken,
    access: Access,
    client: IpAddr,
}

/// An open connection; it is forgotten when this is dropped.
#[derive(Debug)]
pub(super) struct Open {
    connections: Arc<Connections>,
    id: u64,
    pub(super) access: Access,
    pub(super) watch: Arc<Watch>,
    /// Cancelled when the connection is to end at once.
    pub(super) cut: CancellationToken,
}

impl Connections {
    pub(super) fn new(max: usize, max_per_client: usize, trusted_proxies: Vec<Network>) -> Arc<Self> {
        Arc::new(Self { max, max_per_client, trusted_proxies, table: Mutex::default() })
    }

    /// Takes a new connection in; another one is cut off where there is no room. A client at its own limit makes room by itself.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr, cut: CancellationToken) -> Open {
        let client = network(peer);
        let is_proxy = self.trusted_proxies.iter().any(|network| network.contains(peer));
        let watch = Watch::new();
        let mut table = self.table();
        let of_client = table.per_client.get(&client).copied().unwrap_or(0);
        let has_room = if of_client >= self.max_per_client && !is_proxy {
            table.evict(|entry| entry.access == Access::Full && entry.client == client && entry.watch.is_idle())
        } else {
            table.full < self.max || table.evict(|entry| entry.access == Access::Full && entry.watch.is_idle())
        };
        let access = if has_room { Access::Full } else { Access::HealthOnly };
        if access == Access::HealthOnly && table.open.len() - table.full >= HEALTH_ONLY {
            table.evict(|entry| entry.access == Access::HealthOnly);
        }
        let id = table.next;
        table.next += 1;
        table.insert(id, Entry { watch: Arc::clone(&watch), cut: cut.clone(), access, client });
        observe::http_connections(table.open.len());
        drop(table);
        Open { connections: Arc::clone(self), id, access, watch, cut }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Cuts off the oldest connection that `may_go`, and forgets it.
    fn evict(&mut self, may_go: impl Fn(&Entry) -> bool) -> bool {
        let Some(id) = self.open.iter().find(|(_, entry)| may_go(entry)).map(|(id, _)| *id) else { return false };
        if let Some(entry) = self.remove(id) {
            entry.cut.cancel();
        }
        true
    }

    fn insert(&mut self, id: u64, entry: Entry) {
        if entry.access == Access::Full {
            self.full += 1;
            *self.per_client.entry(entry.client).or_default() += 1;
        }
        self.open.insert(id, entry);
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.open.remove(&id)?;
        if entry.access == Access::Full {
            self.full -= 1;
            if let Some(count) = self.per_client.get_mut(&entry.client) {
                *count -= 1;
                if *count == 0 {
                    self.per_client.remove(&entry.client);
                }
            }
        }
        Some(entry)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut table = self.connections.table();
        table.remove(self.id);
        observe::http_connections(table.open.len());
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Version;

    use super::*;

    fn connections() -> Arc<Connections> {
        Connections::new(4, 2, vec!["10.0.0.0/8".parse().unwrap()])
    }

    fn admit(connections: &Arc<Connections>, peer: &str) -> Open {
        connections.admit(peer.parse().unwrap(), CancellationToken::new())
    }

    #[test]
    fn one_client_does_not_take_all_connections() {
        let connections = connections();
        let (one, two) = (admit(&connections, "192.0.2.1"), admit(&connections, "192.0.2.1"));
        let busy = (one.watch.begin(Version::HTTP_11), two.watch.begin(Version::HTTP_11));
        let third = admit(&connections, "192.0.2.1");
        assert_eq!((third.access, one.cut.is_cancelled()), (Access::HealthOnly, false), "what is being answered goes on");
        assert_eq!(admit(&connections, "192.0.2.2").access, Access::Full);
        drop(busy);
        let fourth = admit(&connections, "192.0.2.1");
        assert_eq!((fourth.access, one.cut.is_cancelled(), two.cut.is_cancelled()), (Access::Full, true, false));
        drop((one, two, third, fourth));
        assert_eq!(connections.table().per_client.len(), 0);
    }

    #[test]
    fn proxies_have_as_many_as_there_are_and_health_always_has_room() {
        let connections = connections();
        let open: Vec<Open> = (0..4).map(|_| admit(&connections, "10.0.0.1")).collect();
        assert!(open.iter().all(|one| one.access == Access::Full));
        let busy: Vec<_> = open.iter().map(|one| one.watch.begin(Version::HTTP_11)).collect();
        let health: Vec<Open> = (0..2 * HEALTH_ONLY).map(|_| admit(&connections, "192.0.2.1")).collect();
        assert!(health.iter().all(|one| one.access == Access::HealthOnly));
        assert!(open.iter().all(|one| !one.cut.is_cancelled()));
        assert_eq!(health.iter().filter(|one| !one.cut.is_cancelled()).count(), HEALTH_ONLY, "the oldest make room");
        drop(busy);
        assert_eq!(admit(&connections, "192.0.2.1").access, Access::Full);
        assert!(open[0].cut.is_cancelled());
    }
}
