//! Sessions of people who are logged in, and the patience with those who try to. In memory alone: a restart ends every session.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::crypto::token::{HashedToken, PlainToken};

/// Sessions of one token at a time; a further one ends the oldest.
const MAX_OF_ONE: usize = 4;
/// From this failure on each costs a wait, and doubles it.
const FREE_FAILURES: u32 = 5;
/// The first wait, and the longest.
const FIRST_WAIT: Duration = Duration::from_secs(30);
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);
/// After so long without a try its failures are forgotten.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3_600);
/// The same for one name from anywhere. More than from one network, so that nobody alone can keep a person out from
/// where they work.
const FREE_FROM_ANYWHERE: u32 = 50;
/// Names are told apart by this many hashes, so that made-up ones cannot fill the memory.
const NAMES: u64 = 65_536;

/// How long sessions last.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// Without a request (automatic logoff, 45 CFR 164.312(a)(2)(iii)).
    pub idle: Duration,
    /// In all.
    pub whole: Duration,
}

/// A person who is logged in.
struct Session {
    token_id: String,
    began: Instant,
    used: Instant,
}

/// All sessions, by the hash of what their browsers hold.
pub(super) struct Sessions {
    limits: SessionLimits,
    all: Mutex<HashMap<HashedToken, Session>>,
    failures: Mutex<HashMap<u64, Failures>>,
    hasher: RandomState,
}

struct Failures {
    count: u32,
    last: Instant,
}

impl Sessions {
    pub(super) fn new(limits: SessionLimits) -> Self {
        Self { limits, all: Mutex::default(), failures: Mutex::default(), hasher: RandomState::new() }
    }

    pub(super) fn limits(&self) -> SessionLimits {
        self.limits
    }

    /// Begins a session of a token; gives back what the browser is to hold.
    pub(super) fn begin(&self, token_id: &str, now: Instant) -> PlainToken {
        let mut all = self.all();
        all.retain(|_, it| self.limits.hold(it, now));
        while all.values().filter(|it| it.token_id == token_id).count() >= MAX_OF_ONE {
            let own = all.iter().filter(|(_, it)| it.token_id == token_id);
            let oldest = own.min_by_key(|(_, it)| it.used).map(|(hash, _)| *hash);
            oldest.map(|it| all.remove(&it));
        }
        let fresh = PlainToken::generate();
        all.insert(fresh.hashed(), Session { token_id: token_id.to_owned(), began: now, used: now });
        fresh
    }

    /// The token of a session that still lasts, and how long it will at most. It is not used by being looked at: see [`Sessions::used`].
    pub(super) fn find(&self, held: &PlainToken, now: Instant) -> Option<(String, Duration)> {
        let mut all = self.all();
        let session = all.get(&held.hashed())?;
        if !self.limits.hold(session, now) {
            all.remove(&held.hashed());
            return None;
        }
        let left = self.limits.whole.saturating_sub(now.saturating_duration_since(session.began));
        Some((session.token_id.clone(), left))
    }

    /// Its person used it.
    pub(super) fn used(&self, held: &PlainToken, now: Instant) {
        if let Some(session) = self.all().get_mut(&held.hashed()) {
            session.used = now;
        }
    }

    /// Ends a session; whether there was one.
    pub(super) fn end(&self, held: &PlainToken) -> bool {
        self.all().remove(&held.hashed()).is_some()
    }

    pub(super) fn end_all_of(&self, token_id: &str) {
        self.all().retain(|_, it| it.token_id != token_id);
    }

    /// How long a name must wait before it is tried again from there. Names that nobody has wait as well.
    pub(super) fn wait(&self, name: &str, from: Option<IpAddr>, now: Instant) -> Option<Duration> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = self.places(name, from).into_iter().filter_map(|(place, free)| {
            let of = failures.get(&place)?;
            let more = of.count.checked_sub(free)?;
            let whole = FIRST_WAIT.saturating_mul(1 << more.min(10)).min(LONGEST_WAIT);
            whole.checked_sub(now.saturating_duration_since(of.last)).filter(|it| !it.is_zero())
        });
        waits.max()
    }

    pub(super) fn failed(&self, name: &str, from: Option<IpAddr>, now: Instant) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, _) in self.places(name, from) {
            let of = failures.entry(place).or_insert(Failures { count: 0, last: now });
            let long_ago = now.saturating_duration_since(of.last) >= FORGOTTEN;
            (of.count, of.last) = (if long_ago { 1 } else { of.count.saturating_add(1) }, now);
        }
    }

    /// Forgets the failures of a name from there and from anywhere.
    pub(super) fn forgive(&self, name: &str, from: Option<IpAddr>) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, _) in self.places(name, from) {
            failures.remove(&place);
        }
    }

    /// Where failures are counted, and how many of them are free: of a name from one network, and of a name from anywhere.
    fn places(&self, name: &str, from: Option<IpAddr>) -> [(u64, u32); 2] {
        let network = from.map(|it| match it.to_canonical() {
            IpAddr::V4(it) => it.octets()[..3].to_vec(),
            IpAddr::V6(it) => it.octets()[..8].to_vec(),
        });
        let near = self.hasher.hash_one((name, Some(network))) % NAMES;
        let anywhere = self.hasher.hash_one((name, None::<Option<Vec<u8>>>)) % NAMES;
        [(near, FREE_FAILURES), (anywhere + NAMES, FREE_FROM_ANYWHERE)]
    }

    fn all(&self) -> MutexGuard<'_, HashMap<HashedToken, Session>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionLimits {
    fn hold(&self, session: &Session, now: Instant) -> bool {
        now.saturating_duration_since(session.used) < self.idle
            && now.saturating_duration_since(session.began) < self.whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions() -> Sessions {
        Sessions::new(SessionLimits { idle: Duration::from_secs(900), whole: Duration::from_secs(28_800) })
    }

    /// As a request that its person makes.
    fn uses(sessions: &Sessions, held: &PlainToken, now: Instant) -> bool {
        let found = sessions.find(held, now).is_some();
        sessions.used(held, now);
        found
    }

    #[test]
    fn a_session_ends_when_it_idles_and_when_its_time_is_over() {
        let (sessions, begin) = (sessions(), Instant::now());
        let after = |seconds| begin + Duration::from_secs(seconds);
        let held = sessions.begin("tok-1", begin);
        for minute in 1..=479 {
            assert!(uses(&sessions, &held, after(minute * 60)), "minute {minute}");
        }
        assert!(!uses(&sessions, &held, after(28_800)), "eight hours");
        let held = sessions.begin("tok-1", begin);
        assert!(sessions.find(&held, after(500)).is_some() && uses(&sessions, &held, after(899)));
        assert!(!uses(&sessions, &held, after(899 + 900)), "a quarter of an hour without a request");
        assert!(!uses(&sessions, &held, after(900)), "and it does not come back");
    }

    #[test]
    fn a_person_has_few_sessions_and_all_end_at_once() {
        let (sessions, now) = (sessions(), Instant::now());
        let held: Vec<_> = (0..6).map(|n| sessions.begin("tok-1", now + Duration::from_secs(n))).collect();
        let other = sessions.begin("tok-2", now);
        let live = |sessions: &Sessions| held.iter().filter(|it| sessions.find(it, now).is_some()).count();
        assert_eq!(live(&sessions), MAX_OF_ONE);
        sessions.end_all_of("tok-1");
        assert_eq!((live(&sessions), sessions.find(&other, now).is_some()), (0, true));
    }

    #[test]
    fn failures_cost_ever_more_time_and_success_forgives_them() {
        let (sessions, mut now) = (sessions(), Instant::now());
        let from = |text: &str| text.parse::<IpAddr>().ok();
        let (here, there) = (from("10.1.2.3"), from("192.0.2.7"));
        let mut waits = Vec::new();
        for _ in 0..14 {
            sessions.failed("ada", here, now);
            let wait = sessions.wait("ada", from("10.1.2.200"), now).unwrap_or_default();
            waits.push(wait.as_secs());
            now += wait;
            assert_eq!(sessions.wait("ada", here, now), None, "after the wait it may be tried");
        }
        assert_eq!(waits, [0, 0, 0, 0, 30, 60, 120, 240, 480, 960, 1_920, 3_600, 3_600, 3_600]);
        sessions.failed("ada", here, now);
        assert_eq!(sessions.wait("ada", there, now), None, "elsewhere she is not kept out by it");
        sessions.forgive("ada", here);
        sessions.failed("ada", here, now);
        assert_eq!(sessions.wait("ada", here, now), None);
        (0..60).for_each(|n| sessions.failed("grace", from(&format!("10.{n}.0.1")), now));
        assert!(sessions.wait("grace", there, now).is_some(), "many networks together make her wait everywhere");
        (0..200_000).for_each(|n| sessions.failed(&n.to_string(), here, now));
        assert!(sessions.failures.lock().unwrap().len() as u64 <= 2 * NAMES);
    }
}
