//! All users at once, and the peers of one: folded from what entries are counted by, not from the entries.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::activity::{Activity, Gathering};
use crate::domain::document::Section;
use crate::domain::index::Indexed;
use crate::domain::reports::Params;
use crate::domain::reports::peers::Peers;
use crate::domain::reports::users::UsersFold;
use crate::domain::time::Timestamp;
use crate::store::SEGMENT;

use super::super::Vault;
use super::super::approval::refused;
use super::super::error::VaultError;
use super::super::search::decode;
use super::KeptReport;

/// Threads that count side by side; each holds its own counts.
const MOST_THREADS: usize = 4;

impl Vault {
    /// The report about all users.
    pub(super) fn all_users(&self, kept: &mut KeptReport) -> Result<Vec<Section>, VaultError> {
        let params = kept.parameters.clone();
        let narrowed = [&params.actor, &params.patient, &params.record_type, &params.record_id];
        let fold = if narrowed.iter().all(|it| it.is_none()) {
            let fold = self.count_all(kept.ledger_size, &params)?;
            kept.entries_read = kept.ledger_size;
            kept.entries_root = self.ledger.root_at(kept.ledger_size)?.to_string();
            fold
        } else {
            self.count_some(kept, &params)?
        };
        kept.entries_covered = fold.covered();
        Ok(fold.sections())
    }

    fn count_all(&self, bound: u64, params: &Params) -> Result<UsersFold, VaultError> {
        let count = |segments: &AtomicU64| {
            let mut fold = UsersFold::new(params);
            while let Some((n, end)) = next(segments, bound) {
                fold.add(&self.whole(n, end)?).map_err(|_| malformed(n))?;
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
    pub(super) fn peers(&self, bound: u64, params: &Params) -> Result<Peers, VaultError> {
        let count = |segments: &AtomicU64| {
            let mut peers = Peers::new(params);
            while let Some((n, end)) = next(segments, bound) {
                let done = match self.store.activity(n, end, false)? {
                    Some(heads) => peers.add_heads(&heads).map_err(|_| malformed(n))?,
                    None => false,
                };
                // The moments are needed only where the period begins or ends within the segment.
                if !done {
                    peers.add(&self.whole(n, end)?).map_err(|_| malformed(n))?;
                }
            }
            Ok(peers)
        };
        let mut all = Peers::new(params);
        side_by_side(bound, &count)?.into_iter().for_each(|it| all.merge(it));
        Ok(all)
    }

    /// What the entries of a segment below a position are counted by; from the entries if it is not kept.
    fn whole(&self, n: u64, end: u64) -> Result<Activity, VaultError> {
        if let Some(kept) = self.store.activity(n, end, true)? {
            return Ok(kept);
        }
        let (mut all, mut failed) = (Gathering::default(), None);
        self.store.scan(n * SEGMENT..end, &mut |row| {
            let within = u16::try_from(row.sequence % SEGMENT).expect("a position within a segment has 16 bits");
            match decode(&row) {
                Ok(meta) => all.add(&Indexed::of(&meta).deed, Timestamp(row.received_at), within),
                Err(error) => failed = Some(error),
            }
            failed.is_none()
        })?;
        failed.map_or_else(|| Ok(all.finish(u32::MAX)), Err)
    }
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
