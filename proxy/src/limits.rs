//! How much of the edge the network may take. Each thing taken is a permit that gives itself back when dropped, so
//! that no path through the code can forget a slot.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config;

/// Counts what is taken.
pub struct Limiter {
    sessions: Pool,
    connections: Pool,
    per_address_max: u32,
    /// Open sessions of each address; entries go with their last session, so it is never larger than `sessions`.
    addresses: Mutex<HashMap<IpAddr, u32>>,
}

struct Pool {
    taken: AtomicU32,
    max: u32,
}

impl Pool {
    fn take(&self) -> bool {
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < self.max).then_some(taken + 1))
            .is_ok()
    }

    fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// `limits.sessions_max`.
    Sessions,
    /// `limits.sessions_per_address_max`.
    Address,
}

impl Full {
    /// The name of the limit.
    pub const fn limit(self) -> &'static str {
        match self {
            Self::Sessions => "sessions_max",
            Self::Address => "sessions_per_address_max",
        }
    }
}

/// One session's place.
pub struct SessionPermit {
    limiter: Arc<Limiter>,
    address: Option<IpAddr>,
}

/// One connection's place in the listener's care.
pub struct ConnectionPermit(Arc<Limiter>);

impl Limiter {
    /// With the limits of the configuration.
    pub fn new(limits: &config::Limits) -> Arc<Self> {
        let pool = |max| Pool { taken: AtomicU32::new(0), max };
        Arc::new(Self {
            sessions: pool(limits.sessions_max),
            connections: pool(limits.handshakes_max),
            per_address_max: limits.sessions_per_address_max,
            addresses: Mutex::default(),
        })
    }

    /// A place for a connection that is to be read.
    pub fn connection(self: &Arc<Self>) -> Option<ConnectionPermit> {
        self.connections.take().then(|| ConnectionPermit(Arc::clone(self)))
    }

    /// A place for a session of `client`.
    pub fn session(self: &Arc<Self>, client: IpAddr) -> Result<SessionPermit, Full> {
        if !self.sessions.take() {
            return Err(Full::Sessions);
        }
        // From here on the permit gives back what was taken.
        let mut permit = SessionPermit { limiter: Arc::clone(self), address: None };
        if self.per_address_max > 0 {
            let address = neighbourhood(client);
            let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = addresses.entry(address).or_default();
            if *taken >= self.per_address_max {
                return Err(Full::Address);
            }
            *taken += 1;
            permit.address = Some(address);
        }
        Ok(permit)
    }

    /// Sessions taken.
    pub fn sessions(&self) -> u32 {
        self.sessions.taken.load(Ordering::Relaxed)
    }

    /// Connections in the listener's care.
    pub fn connections(&self) -> u32 {
        self.connections.taken.load(Ordering::Relaxed)
    }
}

impl Drop for SessionPermit {
    fn drop(&mut self) {
        self.limiter.sessions.give_back();
        let Some(address) = self.address else { return };
        let mut addresses = self.limiter.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = addresses.get_mut(&address) {
            *taken -= 1;
            if *taken == 0 {
                addresses.remove(&address);
            }
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.connections.give_back();
    }
}

/// What counts as one address: an IPv6 subscriber has a whole /64 to choose from.
fn neighbourhood(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(sessions_max: u32, sessions_per_address_max: u32) -> Arc<Limiter> {
        Limiter::new(&config::Limits {
            sessions_max,
            sessions_per_address_max,
            handshakes_max: 1,
            ..config::Limits::default()
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_slot_is_free_again_once_its_permit_is_dropped() {
        let limiter = limiter(2, 0);
        let first = limiter.session(ip("10.0.0.1")).unwrap();
        let second = limiter.session(ip("10.0.0.1")).unwrap();
        assert_eq!(limiter.session(ip("10.0.0.2")).err(), Some(Full::Sessions));
        drop(first);
        drop(limiter.session(ip("10.0.0.2")).unwrap());
        drop(second);
        assert_eq!(limiter.sessions(), 0);
        let connection = limiter.connection();
        assert!(connection.is_some() && limiter.connection().is_none());
        drop(connection);
        assert!(limiter.connection().is_some());
    }

    #[test]
    fn an_address_has_its_own_limit_and_a_v6_network_is_one_address() {
        let limiter = limiter(10, 1);
        let held = limiter.session(ip("2001:db8::1")).unwrap();
        assert_eq!(limiter.session(ip("2001:db8::2")).err(), Some(Full::Address));
        assert_eq!(limiter.sessions(), 1, "a refused session holds no slot");
        let v4 = limiter.session(ip("10.0.0.1")).unwrap();
        assert_eq!(limiter.session(ip("::ffff:10.0.0.1")).err(), Some(Full::Address));
        drop((held, v4));
        assert!(limiter.addresses.lock().unwrap().is_empty());
    }
}
