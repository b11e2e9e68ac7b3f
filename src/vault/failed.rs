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
}

impl Default for FailedLogins {
    fn default() -> Self {
        let minute = Minute { since: Instant::now(), recorded: 0, of: HashMap::new(), counted: 0 };
        Self { hasher: RandomState::new(), minute: Mutex::new(minute) }
    }
}

impl FailedLogins {
    /// Whether a failure under this name is recorded; else it is counted.
    pub(super) fn is_recorded(&self, name: &str) -> bool {
        let mut minute = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        let minute = &mut *minute;
        if minute.since.elapsed() >= MINUTE {
            (minute.since, minute.recorded) = (Instant::now(), 0);
            minute.of.clear();
        }
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

    /// How many were only counted, once their minute is over; they are told once.
    pub(super) fn counted(&self) -> u64 {
        let mut minute = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        if minute.since.elapsed() < MINUTE { 0 } else { std::mem::take(&mut minute.counted) }
    }
}
