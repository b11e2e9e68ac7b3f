//! Sessions of people who are logged in, and the patience with those who try to. In memory alone: a restart ends every session.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::crypto::token::{HashedToken, PlainToken};

/// Sessions of one token at a time; a further one ends the oldest.
const MAX_OF_ONE: usize = 4;
/// Failures that cost nothing; from the next on each doubles the wait.
const FREE_FAILURES: u32 = 5;
/// The first wait, and the longest.
const FIRST_WAIT: Duration = Duration::from_secs(30);
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);
/// After so long without a try its failures are forgotten.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3_600);
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

    /// The token of a session that still lasts, and how long it will at most; it is used now.
    pub(super) fn using(&self, held: &PlainToken, now: Instant) -> Option<(String, Duration)> {
        let mut all = self.all();
        let session = all.get_mut(&held.hashed())?;
        if !self.limits.hold(session, now) {
            all.remove(&held.hashed());
            return None;
        }
        session.used = now;
        let left = self.limits.whole.saturating_sub(now.saturating_duration_since(session.began));
        Some((session.token_id.clone(), left))
    }

    pub(super) fn end(&self, held: &PlainToken) {
        self.all().remove(&held.hashed());
    }

    pub(super) fn end_all_of(&self, token_id: &str) {
        self.all().retain(|_, it| it.token_id != token_id);
    }

    /// How long a name must wait before it is tried again. Names that nobody has wait as well.
    pub(super) fn wait(&self, name: &str, now: Instant) -> Option<Duration> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let of = failures.get(&self.place(name))?;
        let more = of.count.checked_sub(FREE_FAILURES)?;
        let whole = FIRST_WAIT.saturating_mul(1 << more.min(10)).min(LONGEST_WAIT);
        whole.checked_sub(now.saturating_duration_since(of.last)).filter(|it| !it.is_zero())
    }

    pub(super) fn failed(&self, name: &str, now: Instant) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let of = failures.entry(self.place(name)).or_insert(Failures { count: 0, last: now });
        let long_ago = now.saturating_duration_since(of.last) >= FORGOTTEN;
        (of.count, of.last) = (if long_ago { 1 } else { of.count + 1 }, now);
    }

    pub(super) fn succeeded(&self, name: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.place(name));
    }

    fn place(&self, name: &str) -> u64 {
        self.hasher.hash_one(name) % NAMES
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

    #[test]
    fn a_session_ends_when_it_idles_and_when_its_time_is_over() {
        let (sessions, begin) = (sessions(), Instant::now());
        let after = |seconds| begin + Duration::from_secs(seconds);
        let held = sessions.begin("tok-1", begin);
        for minute in 1..=479 {
            assert!(sessions.using(&held, after(minute * 60)).is_some(), "minute {minute}");
        }
        assert!(sessions.using(&held, after(28_800)).is_none(), "eight hours");
        let held = sessions.begin("tok-1", begin);
        assert!(sessions.using(&held, after(899)).is_some());
        assert!(sessions.using(&held, after(899 + 900)).is_none(), "a quarter of an hour without a request");
        assert!(sessions.using(&held, after(900)).is_none(), "and it does not come back");
    }

    #[test]
    fn a_person_has_few_sessions_and_all_end_at_once() {
        let (sessions, now) = (sessions(), Instant::now());
        let held: Vec<_> = (0..6).map(|n| sessions.begin("tok-1", now + Duration::from_secs(n))).collect();
        let other = sessions.begin("tok-2", now);
        let live = |sessions: &Sessions| held.iter().filter(|it| sessions.using(it, now).is_some()).count();
        assert_eq!(live(&sessions), MAX_OF_ONE);
        sessions.end_all_of("tok-1");
        assert_eq!((live(&sessions), sessions.using(&other, now).is_some()), (0, true));
    }

    #[test]
    fn failures_cost_ever_more_time_and_success_forgives_them() {
        let (sessions, mut now) = (sessions(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..14 {
            sessions.failed("ada", now);
            let wait = sessions.wait("ada", now).unwrap_or_default();
            waits.push(wait.as_secs());
            now += wait;
            assert_eq!(sessions.wait("ada", now), None, "after the wait it may be tried");
        }
        assert_eq!(waits, [0, 0, 0, 0, 30, 60, 120, 240, 480, 960, 1_920, 3_600, 3_600, 3_600]);
        sessions.succeeded("ada");
        sessions.failed("ada", now);
        assert_eq!(sessions.wait("ada", now), None);
        (0..200_000).for_each(|n| sessions.failed(&n.to_string(), now));
        assert!(sessions.failures.lock().unwrap().len() as u64 <= NAMES);
    }
}
