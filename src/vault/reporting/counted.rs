//! All users at once, and the peers of one: folded from what entries are counted by, not from the entries.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use crate::domain::activity::{Activity, Gathering};
use crate::domain::document::Section;
use crate::domain::index::Indexed;
use crate::domain::reports::Params;
use crate::domain::reports::peers::Peers;
use crate::domain::reports::users::UsersFold;
use crate::domain::time::Timestamp;
use crate::ledger::hash::Hash;
use crate::store::SEGMENT;

use super::super::Vault;
use super::super::approval::refused;
use super::super::error::VaultError;
use super::super::search::decode;
use super::KeptReport;
use super::build::MAX_ALTERED;

/// Threads that count side by side; each holds its own counts.
const MOST_THREADS: usize = 4;

impl Vault {
    /// The report about all users.
    pub(super) fn all_users(&self, kept: &mut KeptReport) -> Result<Vec<Section>, VaultError> {
        let params = kept.parameters.clone();
        let narrowed = [&params.actor, &params.patient, &params.record_type, &params.record_id];
        let fold = if narrowed.iter().all(|it| it.is_none()) {
            let altered = Altered::default();
            let fold = self.count_all(kept.ledger_size, &params, &altered)?;
            kept.altered = few(altered);
            kept.entries_read = kept.ledger_size;
            kept.entries_root = self.ledger.root_at(kept.ledger_size)?.to_string();
            fold
        } else {
            self.count_some(kept, &params)?
        };
        kept.entries_covered = fold.covered();
        Ok(fold.sections())
    }

    fn count_all(&self, bound: u64, params: &Params, altered: &Altered) -> Result<UsersFold, VaultError> {
        let count = |segments: &AtomicU64| {
            let mut fold = UsersFold::new(params);
            while let Some((n, end)) = next(segments, bound) {
                fold.add(&self.whole(n, end, altered)?).map_err(|_| malformed(n))?;
                within(&fold)?;
            }
            fold.settle();
            Ok(fold)
        };
        let folds = side_by_side(bound, &count)?;
        let whole = folds.into_iter().reduce(|mut all, one| {
            all.merge(one);
            all
        });
        let whole = whole.expect("at least one thread counted");
        within(&whole)?;
        Ok(whole)
    }

    /// The same about fewer entries, which are read one by one.
    fn count_some(&self, kept: &mut KeptReport, params: &Params) -> Result<UsersFold, VaultError> {
        let (mut fold, mut some, mut n) = (UsersFold::new(params), Gathering::default(), 0);
        let full = |fold: &mut UsersFold, some: &mut Gathering| {
            fold.add(&std::mem::take(some).finish(u32::MAX)).expect("what was just gathered reads");
            within(fold)
        };
        self.each_read(kept, &mut |row, meta| {
            some.add(&Indexed::of(meta).deed, Timestamp(row.received_at), n);
            n = n.wrapping_add(1);
            if n == 0 { full(&mut fold, &mut some) } else { Ok(()) }
        })?;
        full(&mut fold, &mut some)?;
        fold.settle();
        Ok(fold)
    }

    /// How much each user did in the period, to compare one with others of the same role.
    pub(super) fn peers(&self, bound: u64, params: &Params) -> Result<(Peers, Vec<u64>), VaultError> {
        let altered = Altered::default();
        let count = |segments: &AtomicU64| {
            let mut peers = Peers::new(params);
            while let Some((n, end)) = next(segments, bound) {
                let done = match self.vouched(n, end, false)? {
                    Some(heads) => peers.add_heads(&heads).map_err(|_| malformed(n))?,
                    None => false,
                };
                // The moments are needed only where the period begins or ends within the segment.
                if !done {
                    peers.add(&self.whole(n, end, &altered)?).map_err(|_| malformed(n))?;
                }
            }
            Ok(peers)
        };
        let mut all = Peers::new(params);
        side_by_side(bound, &count)?.into_iter().for_each(|it| all.merge(it));
        Ok((all, few(altered)))
    }

    /// What the entries of a segment below a position are counted by; from the entries if nothing that is kept of them is vouched
    /// for. Altered entries are added to the list.
    fn whole(&self, n: u64, end: u64, altered: &Altered) -> Result<Activity, VaultError> {
        if let Some(kept) = self.vouched(n, end, true)? {
            return Ok(kept);
        }
        let (mut all, mut failed, mut found) = (Gathering::default(), None, Vec::new());
        self.store.scan(n * SEGMENT..end, &mut |row| {
            let within = u16::try_from(row.sequence % SEGMENT).expect("a position within a segment has 16 bits");
            match (self.segments.is_sound(&row), decode(&row)) {
                (Ok(sound), Ok(meta)) => {
                    found.extend((!sound).then_some(row.sequence));
                    all.add(&Indexed::of(&meta).deed, Timestamp(row.received_at), within);
                }
                (Err(error), _) => failed = Some(error.into()),
                (_, Err(error)) => failed = Some(error),
            }
            failed.is_none()
        })?;
        altered.lock().unwrap_or_else(PoisonError::into_inner).append(&mut found);
        failed.map_or_else(|| Ok(all.finish(u32::MAX)), Err)
    }

    /// What is kept of a segment to count by, if it is what the ledger names, or was never on the disk.
    fn vouched(&self, n: u64, end: u64, moments: bool) -> Result<Option<Activity>, VaultError> {
        let Some(kept) = self.store.activity(n, end, moments)? else { return Ok(None) };
        if end < (n + 1) * SEGMENT {
            // The open segment's is in memory.
            return Ok(Some(kept));
        }
        let Some(named) = self.segments.digests(n)? else { return Ok(None) };
        let is = |bytes: &[u8], hash: Hash| Hash(Sha256::digest(bytes).into()) == hash;
        if is(&kept.heads, named.heads) && (!moments || is(&kept.moments, named.moments)) {
            return Ok(Some(kept));
        }
        tracing::error!("what segment {n} is counted by was altered; its entries are counted; run phivault verify");
        Ok(None)
    }
}

/// Positions of entries that were found altered.
type Altered = Mutex<Vec<u64>>;

/// The first of them.
fn few(altered: Altered) -> Vec<u64> {
    let mut all = altered.into_inner().unwrap_or_else(PoisonError::into_inner);
    all.sort_unstable();
    all.truncate(MAX_ALTERED);
    all
}

/// The next segment that nobody counts yet, and where its entries end.
fn next(segments: &AtomicU64, bound: u64) -> Option<(u64, u64)> {
    // The newest first, for an open segment takes longest.
    let n = bound.div_ceil(SEGMENT).checked_sub(1 + segments.fetch_add(1, Ordering::Relaxed))?;
    Some((n, bound.min((n + 1) * SEGMENT)))
}

/// What several threads counted of all segments.
fn side_by_side<T: Send>(
    bound: u64,
    count: &(dyn Fn(&AtomicU64) -> Result<T, VaultError> + Sync),
) -> Result<Vec<T>, VaultError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    let threads = cores.min(usize::try_from(bound.div_ceil(SEGMENT)).unwrap_or(cores)).max(1);
    let segments = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(|| count(&segments))).collect();
        all.into_iter().map(|it| it.join().expect("counting does not panic")).collect()
    })
}

fn within(fold: &UsersFold) -> Result<(), VaultError> {
    if fold.fits() {
        return Ok(());
    }
    Err(refused("/from", "too_large", "This report would grow too large; ask for a shorter period."))
}

fn malformed(n: u64) -> VaultError {
    VaultError::Integrity(format!("the activity of segment {n} does not read; run phivault verify"))
}
