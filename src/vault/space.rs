//! Room on the disk. Below the reserve nothing more is taken from applications, so that there is room left to record what
//! administrators do about it. A disk that is really full would end the process.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::action::{Action, Outcome};
use crate::store::Store;

use super::Vault;
use super::error::VaultError;
use super::writer::own_meta;

/// How long what was seen of the disk counts.
const FRESH: Duration = Duration::from_millis(500);

/// What is known of the disk.
pub(super) struct Space {
    /// Bytes that must stay free; 0: it is not watched.
    reserve: u64,
    looked: Mutex<Option<Instant>>,
    free: AtomicU64,
    full: AtomicBool,
    /// Submissions that were refused since the disk was last found full.
    refused: AtomicU64,
}

impl Space {
    pub(super) fn new(reserve: u64) -> Self {
        Self {
            reserve,
            looked: Mutex::new(None),
            free: AtomicU64::new(u64::MAX),
            full: AtomicBool::new(false),
            refused: AtomicU64::new(0),
        }
    }

    /// Whether there is room for more. Once there was none, there must be a quarter more than the reserve again.
    fn is_full(&self, store: &dyn Store) -> bool {
        if self.reserve == 0 {
            return false;
        }
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_none_or(|it| it.elapsed() >= FRESH) {
            *looked = Some(Instant::now());
            let (free, full) = (store.disk_free(), self.full.load(Ordering::Relaxed));
            let wanted = if full { self.reserve.saturating_add(self.reserve / 4) } else { self.reserve };
            self.free.store(free, Ordering::Relaxed);
            if full != (free < wanted) {
                if full {
                    tracing::info!(free, reserve = self.reserve, "the disk has room again");
                } else {
                    tracing::error!(
                        free,
                        reserve = self.reserve,
                        "the disk is down to its reserve; submissions are refused"
                    );
                }
            }
            self.full.store(free < wanted, Ordering::Relaxed);
        }
        self.full.load(Ordering::Relaxed)
    }
}

impl Vault {
    /// Refuses submissions while the disk is full.
    pub(super) fn room_on_disk(&self) -> Result<(), VaultError> {
        if !self.space.is_full(&*self.store) {
            return Ok(());
        }
        self.space.refused.fetch_add(1, Ordering::Relaxed);
        Err(VaultError::Full)
    }

    /// Whether the disk is full, and whether it will be soon: less than twice the reserve is free.
    pub(super) fn disk(&self) -> (bool, bool) {
        let full = self.space.is_full(&*self.store);
        let free = self.space.free.load(Ordering::Relaxed);
        (full, self.space.reserve > 0 && free < self.space.reserve.saturating_mul(2))
    }

    /// Records how many submissions were refused for want of room, once there is room again.
    ///
    /// # Errors
    /// What recording says.
    pub fn record_room(&self) -> Result<(), VaultError> {
        if self.space.is_full(&*self.store) {
            return Ok(());
        }
        let refused = self.space.refused.swap(0, Ordering::Relaxed);
        if refused == 0 {
            return Ok(());
        }
        let mut meta = own_meta(Action::SUBMIT, vec![("refused_disk_full".into(), refused.to_string())]);
        meta.outcome = Outcome::Denied;
        self.commit_now(vec![(meta, Vec::new())], Vec::new()).map(|_| ())
    }
}
