//! Which failed logins stand in entries. Anybody may fail, under any name and as often as they like, and everybody sees how the ledger
//! grows: so names that are known and names that are not are treated alike, and what is only counted is laid to nobody.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);
/// Of one name, in a minute; more than it takes to look twice at a login that succeeds after.
const OF_ONE: u32 = 10;
/// Of all names.
const OF_ALL: u32 = 40;

pub(super) struct FailedLogins {
    hasher: RandomState,
    minute: Mutex<Minute>,
}

struct Minute {
    since: Instant,
    recorded: u32,
    /// By the hash of the name.
    of: HashMap<u64, u32>,
    counted: u64,
    /// What was only counted in minutes before, and is still to be told.
    due: u64,
}

impl Default for FailedLogins {
    fn default() -> Self {
        let minute = Minute { since: Instant::now(), recorded: 0, of: HashMap::new(), counted: 0, due: 0 };
        Self { hasher: RandomState::new(), minute: Mutex::new(minute) }
    }
}

impl FailedLogins {
    /// Whether a failure under this name is recorded; else it is counted.
    pub(super) fn is_recorded(&self, name: &str, now: Instant) -> bool {
        let mut minute = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        minute.turn(now);
        let minute = &mut *minute;
        // Once all are full no name is kept any more, so that made-up ones take no memory.
        if minute.recorded == OF_ALL {
            minute.counted += 1;
            return false;
        }
        let own = minute.of.entry(self.hasher.hash_one(name)).or_default();
        if *own == OF_ONE {
            minute.counted += 1;
            return false;
        }
        *own += 1;
        minute.recorded += 1;
        true
    }

    /// How many were only counted in minutes that are over; they are told once.
    pub(super) fn counted(&self, now: Instant) -> u64 {
        let mut minute = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        minute.turn(now);
        std::mem::take(&mut minute.due)
    }
}

impl Minute {
    fn turn(&mut self, now: Instant) {
        if now.duration_since(self.since) >= MINUTE {
            let due = self.due + self.counted;
            *self = Self { since: now, recorded: 0, of: HashMap::new(), counted: 0, due };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_that_never_pauses_is_told_minute_by_minute_and_each_failure_once() {
        let (failed, began) = (FailedLogins::default(), Instant::now());
        let (mut recorded, mut told) = (0_u64, 0_u64);
        for second in 0..600_u64 {
            let now = began + Duration::from_secs(second);
            // The tick comes behind the first failure of each minute, never before it.
            recorded += (0..100).filter(|n| failed.is_recorded(&format!("n-{}", n % 50), now)).count() as u64;
            told += failed.counted(now);
            assert!(recorded + told + 61 * 100 >= (second + 1) * 100, "at most a minute is still to be told");
        }
        told += failed.counted(began + Duration::from_secs(700));
        assert_eq!((recorded + told, recorded), (60_000, 10 * u64::from(OF_ALL)));
        let (one, now) = ("ada", began + Duration::from_secs(800));
        assert_eq!((0..30).filter(|_| failed.is_recorded(one, now)).count(), OF_ONE as usize);
    }
}
