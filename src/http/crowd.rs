//! How many connections one network may have, so that nobody who has shown nothing takes all of them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;

/// Open connections by network.
#[derive(Clone)]
pub(super) struct Crowd(Arc<Counts>);

struct Counts {
    /// Of one network.
    most: usize,
    /// They speak for many.
    proxies: Vec<IpNet>,
    open: Mutex<HashMap<IpAddr, usize>>,
    /// When it was last said that one has as many as it may.
    told: Mutex<Option<Instant>>,
}

/// A connection that is counted until this is dropped.
pub(super) struct Counted(Option<(Crowd, IpAddr)>);

impl Crowd {
    /// One network has at most half of all connections; a proxy may have all.
    pub(super) fn new(connections: usize, proxies: &[IpNet]) -> Self {
        Self(Arc::new(Counts {
            most: connections.div_ceil(2),
            proxies: proxies.to_vec(),
            open: Mutex::default(),
            told: Mutex::default(),
        }))
    }

    /// Counts a connection. None if its network has as many as it may.
    pub(super) fn enter(&self, from: Option<IpAddr>) -> Option<Counted> {
        let Some(address) = from.map(|it| it.to_canonical()) else { return Some(Counted(None)) };
        if self.0.proxies.iter().any(|it| it.contains(&address)) {
            return Some(Counted(None));
        }
        let (network, mut open) = (network(address), self.0.open.lock().unwrap_or_else(PoisonError::into_inner));
        let count = open.entry(network).or_default();
        if *count >= self.0.most {
            self.tell(network);
            return None;
        }
        *count += 1;
        Some(Counted(Some((self.clone(), network))))
    }
}

impl Crowd {
    fn tell(&self, network: IpAddr) {
        let mut told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|it| it.elapsed() > Duration::from_secs(60)) {
            *told = Some(Instant::now());
            tracing::warn!(%network, "one network has half of all connections and gets no more; if it is a proxy, name it in server.trusted_proxies");
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Some((crowd, network)) = &self.0 else { return };
        let mut open = crowd.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(network) {
            *count -= 1;
            if *count == 0 {
                open.remove(network);
            }
        }
    }
}

/// What one client may have many addresses of: an address of IPv4, 64 bits of IPv6 (RFC 4291, section 2.5.4).
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(it) => IpAddr::V4(it),
        IpAddr::V6(it) => {
            let mut parts = it.segments();
            parts[4..].fill(0);
            IpAddr::V6(Ipv6Addr::from(parts))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_has_half_of_the_connections_and_others_have_the_rest() {
        let crowd = Crowd::new(4, &["10.9.0.0/16".parse().unwrap()]);
        let enter = |address: &str| crowd.enter(Some(address.parse().unwrap()));
        let mut held = vec![enter("192.0.2.1").unwrap(), enter("::ffff:192.0.2.1").unwrap()];
        assert!(enter("192.0.2.1").is_none(), "however it is written");
        held.extend([enter("192.0.2.2"), enter("2001:db8::1"), enter("2001:db8::2")].map(Option::unwrap));
        assert!(enter("2001:db8:0:0:ffff::").is_none() && enter("2001:db8:0:1::1").is_some());
        assert!((0..9).all(|_| enter("10.9.8.7").is_some()), "a proxy speaks for many");
        held.remove(0);
        assert!(enter("192.0.2.1").is_some(), "what is closed counts no more");
        drop(held);
        assert!(crowd.0.open.lock().unwrap().is_empty());
    }
}
