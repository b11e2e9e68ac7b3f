//! The index: postings and activity of closed segments on disk, of the open one in memory.
//!
//! A secondary b-tree with random keys costs a page write per entry and index. So the index of a segment (65,536 entries) is
//! kept in memory while the segment is open, and written once, in key order, when it closes. What the process loses
//! when it dies is rebuilt from the entries at the next start.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use foldhash::fast::RandomState;
use rusqlite::{Connection, params};
use smallvec::SmallVec;

use crate::domain::activity::{Activity, Gathering};
use crate::domain::index::{Dimension, Indexed, Term};
use crate::domain::meta::Meta;
use crate::domain::time::Timestamp;

use super::super::{Batch, Found, IndexDigests, Order, SEGMENT, StoreError};
use super::chunk;
use super::closed::{Closed, Cut, Filters, Pace, chunk_key, close, cut, insert, load_closed, read_chunk};
use super::filter::{Across, ID_BITS, PATIENT_BITS};
use super::pool::OnDemand;
use super::{read, signed, unavailable};

/// Terms that there is room for at a start, some megabytes.
const FEW_TERMS: usize = 1 << 16;
/// Segments without a stored index that are held in memory at a time, some 60 MB each: the newest, after a crash.
const MOST_HELD: u64 = 4;
/// Chunks of a closed segment that ride along with one commit.
const CHUNKS_PER_COMMIT: usize = 256;

pub(super) struct Index {
    state: RwLock<State>,
    /// Chunks of the oldest closing segment that are committed. Only the writer changes it.
    committed: AtomicUsize,
    filters: Arc<AllFilters>,
    /// Missing segments that are held in memory.
    held: AtomicU64,
}

/// The filters of all segments whose index is cut.
struct AllFilters {
    ids: Across,
    patients: Across,
}

struct State {
    segments: Vec<Segment>,
    /// The segment that is being filled.
    open: Gathered,
}

/// Positions within a segment.
type Positions = SmallVec<[u16; 8]>;

/// The index of a segment in memory.
#[derive(Default)]
pub(super) struct Gathered {
    /// Most ids, sessions and patients come once or twice, so their positions stand in the map itself.
    pub(super) postings: HashMap<Term, Positions, RandomState>,
    pub(super) deeds: Gathering,
    count: u64,
}

/// A full segment.
enum Segment {
    /// Its index is on disk.
    Closed(Arc<Closed>),
    /// Its index is in memory and on its way to the disk.
    Closing(Arc<Closing>),
    /// The process ended before its index was written. Until [`Index::repair`] it is gathered
    /// from the entries when it is first asked for, and held for a few such segments.
    Missing(Arc<OnceLock<Gathered>>),
}

struct Closing {
    n: u64,
    gathered: Gathered,
    /// Made by a thread of its own, so that sorting keeps no writer waiting.
    cut: OnceLock<Cut>,
}

/// How far the closing segment got with the commit that is under way.
pub(super) struct Written {
    chunks: usize,
    closed: Option<Closed>,
}

impl Index {
    /// Loads the fences of closed segments, and rebuilds the open one from its entries. Writes nothing.
    pub(super) fn load(connection: &Connection, size: u64) -> Result<Self, StoreError> {
        let mut state = State { segments: Vec::new(), open: Gathered::with_room(FEW_TERMS) };
        let all = AllFilters { ids: Across::new(ID_BITS), patients: Across::new(PATIENT_BITS) };
        for n in 0..size / SEGMENT {
            state.segments.push(match load_closed(connection, n) {
                Ok(Some((closed, filters))) => {
                    all.put(n, &filters);
                    Segment::Closed(Arc::new(closed))
                }
                Ok(None) => Segment::Missing(Arc::default()),
                Err(StoreError::Corrupt(what)) => {
                    tracing::error!(what, "a part of the index does not read; it is made again from the entries");
                    Segment::Missing(Arc::default())
                }
                Err(error) => return Err(error),
            });
        }
        let begin = size / SEGMENT * SEGMENT;
        read_index(connection, begin..size, &mut |position, index, received| {
            state.open.add(position, &index, received)
        })?;
        Ok(Self {
            state: RwLock::new(state),
            committed: AtomicUsize::new(0),
            filters: Arc::new(all),
            held: AtomicU64::new(0),
        })
    }

    /// Makes the index of segments that have none, each in one transaction.
    pub(super) fn repair(&self, connection: &Connection) -> Result<(), StoreError> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let missing = |it: &(usize, &Segment)| matches!(it.1, Segment::Missing(_));
        let missing: Vec<usize> = state.segments.iter().enumerate().filter(missing).map(|(n, _)| n).collect();
        drop(state);
        for n in missing {
            let closed = rebuild(connection, n as u64, &self.filters)?;
            self.state.write().unwrap_or_else(PoisonError::into_inner).segments[n] = Segment::Closed(Arc::new(closed));
        }
        Ok(())
    }

    /// Adds entries from position `first` on.
    pub(super) fn append(&self, batch: &Batch<'_>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for (row, index) in batch.rows.iter().zip(batch.index) {
            state.open.add(within(row.sequence), index, Timestamp(row.received_at));
            if state.open.count == SEGMENT {
                // As much room as the last one took: growing a large map moves all of it while a writer waits.
                let next = Gathered::with_room(state.open.postings.len());
                let gathered = std::mem::replace(&mut state.open, next);
                let closing = Arc::new(Closing { n: row.sequence / SEGMENT, gathered, cut: OnceLock::new() });
                state.segments.push(Segment::Closing(closing.clone()));
                let filters = self.filters.clone();
                aside(move || {
                    let cut = cut(closing.n, &closing.gathered, Pace::Leisurely);
                    filters.put(closing.n, &cut.filters);
                    closing.cut.get_or_init(|| cut);
                });
            }
        }
    }

    /// The digests of a segment's index as this process made it.
    pub(super) fn made(&self, n: u64) -> Option<IndexDigests> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        match state.segments.get(usize::try_from(n).ok()?)? {
            Segment::Closed(closed) => closed.made,
            Segment::Closing(closing) => closing.cut.get().map(|it| it.digests),
            Segment::Missing(_) => None,
        }
    }

    /// The digests of the index that these entries make.
    pub(super) fn digests_of(n: u64, entries: &[(Indexed, i64)]) -> IndexDigests {
        let mut gathered = Gathered::default();
        for ((index, received), position) in entries.iter().zip(0..=u16::MAX) {
            gathered.add(position, index, Timestamp(*received));
        }
        cut(n, &gathered, Pace::AtOnce).digests
    }

    /// The digests of a segment's index as it is stored.
    pub(super) fn stored(&self, connection: &Connection, n: u64) -> Result<Option<IndexDigests>, StoreError> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let Some(Segment::Closed(closed)) = usize::try_from(n).ok().and_then(|n| state.segments.get(n)) else {
            return Ok(None);
        };
        let closed = closed.clone();
        drop(state);
        closed.stored(connection, n).map(Some)
    }

    /// What the entries of segment `n` below the position `end` are counted by, if it is kept for just these.
    pub(super) fn activity(
        &self,
        connection: &Connection,
        n: u64,
        end: u64,
        moments: bool,
    ) -> Result<Option<Activity>, StoreError> {
        let below = u32::try_from(end.saturating_sub(n * SEGMENT).min(SEGMENT)).expect("a segment has 2^16 entries");
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let deeds = match state.segments.get(usize::try_from(n).unwrap_or(usize::MAX)) {
            None => state.open.deeds.clone(),
            Some(Segment::Closing(closing)) => closing.gathered.deeds.clone(),
            Some(Segment::Closed(closed)) if u64::from(below) == SEGMENT => {
                let closed = closed.clone();
                drop(state);
                return closed.activity(connection, n, moments).map(Some);
            }
            Some(Segment::Closed(_) | Segment::Missing(_)) => return Ok(None),
        };
        drop(state);
        // Sorted without the lock, so that no writer waits.
        Ok(Some(deeds.finish(below)))
    }

    /// Candidates with one term of each list, within the range, in the order asked for.
    pub(super) fn find(
        &self,
        connection: &OnDemand<'_>,
        wanted: &[Vec<Term>],
        range: Range<u64>,
        order: Order,
        limit: usize,
    ) -> Result<Found, StoreError> {
        let mut found = Found::default();
        if range.is_empty() {
            return Ok(found);
        }
        let mut segments = self.segments_with(wanted, range.start / SEGMENT..range.end.div_ceil(SEGMENT));
        if order == Order::NewestFirst {
            segments.reverse();
        }
        for n in segments {
            let begin = n * SEGMENT;
            let within = range.start.max(begin)..range.end.min(begin + SEGMENT);
            let mut positions = self.positions(connection, n, wanted, within)?;
            if order == Order::NewestFirst {
                positions.reverse();
            }
            for position in positions {
                if found.sequences.len() == limit {
                    found.next = Some(position);
                    return Ok(found);
                }
                found.sequences.push(position);
            }
        }
        Ok(found)
    }

    /// The segments that may hold one term of each list. Most ids are new, so this is where most look-ups end.
    fn segments_with(&self, wanted: &[Vec<Term>], range: Range<u64>) -> Vec<u64> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut known = (u64::MAX, 0);
        let may_hold = |n: &u64| match state.segments.get(usize::try_from(*n).unwrap_or(usize::MAX)) {
            Some(Segment::Closed(_)) => {
                let (group, own) = Across::place(*n);
                if known.0 != group {
                    known = (group, self.filters.may_hold(group, wanted));
                }
                known.1 & own != 0
            }
            Some(Segment::Closing(_) | Segment::Missing(_)) | None => true,
        };
        range.filter(may_hold).collect()
    }

    /// Positions in segment `n` and `range` that have one term of each list, rising.
    fn positions(
        &self,
        connection: &OnDemand<'_>,
        n: u64,
        wanted: &[Vec<Term>],
        range: Range<u64>,
    ) -> Result<Vec<u64>, StoreError> {
        let begin = n * SEGMENT;
        let mut hits: Option<Vec<u16>> = None;
        for either in wanted {
            let mut list = Vec::new();
            for term in either {
                self.postings(connection, n, *term, &mut list)?;
            }
            list.sort_unstable();
            list.dedup();
            hits = Some(match hits {
                None => list,
                Some(before) => before.into_iter().filter(|it| list.binary_search(it).is_ok()).collect(),
            });
            if hits.as_ref().is_some_and(Vec::is_empty) {
                return Ok(Vec::new());
            }
        }
        Ok(match hits {
            None => range.collect(),
            Some(hits) => hits.into_iter().map(|it| begin + u64::from(it)).filter(|it| range.contains(it)).collect(),
        })
    }

    fn postings(&self, connection: &OnDemand<'_>, n: u64, term: Term, out: &mut Vec<u16>) -> Result<(), StoreError> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let in_memory = |postings: &HashMap<Term, Positions, RandomState>, out: &mut Vec<u16>| {
            out.extend(postings.get(&term).into_iter().flatten().copied());
        };
        match state.segments.get(usize::try_from(n).unwrap_or(usize::MAX)) {
            None => in_memory(&state.open.postings, out),
            Some(Segment::Closing(closing)) => in_memory(&closing.gathered.postings, out),
            Some(Segment::Missing(held)) => {
                let held = held.clone();
                drop(state);
                let range = n * SEGMENT..(n + 1) * SEGMENT;
                if held.get().is_none() && self.held.load(Ordering::Relaxed) < MOST_HELD {
                    let mut gathered = Gathered::default();
                    read_index(connection.get()?, range, &mut |position, index, received| {
                        gathered.add(position, &index, received);
                    })?;
                    self.held.fetch_add(u64::from(held.set(gathered).is_ok()), Ordering::Relaxed);
                    in_memory(&held.get().expect("it was set by somebody").postings, out);
                } else if let Some(gathered) = held.get() {
                    in_memory(&gathered.postings, out);
                } else {
                    read_index(connection.get()?, range, &mut |position, index, _| {
                        out.extend(index.terms.contains(&term).then_some(position));
                    })?;
                }
            }
            Some(Segment::Closed(closed)) => {
                let chunks = closed.chunks_with(term);
                drop(state);
                for chunk in chunks {
                    let bytes = read_chunk(connection.get()?, chunk_key(n, term.dimension as u8, chunk))?;
                    chunk::groups(&bytes, &mut |key, positions| {
                        if key == term.key {
                            out.extend(positions);
                        }
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Writes the next pieces of a closing segment's index into a transaction.
    pub(super) fn write_pending(&self, connection: &Connection) -> Result<Written, StoreError> {
        let nothing = Written { chunks: 0, closed: None };
        let Some(closing) = self.closing() else { return Ok(nothing) };
        let Some(cut) = closing.cut.get() else { return Ok(nothing) };
        let done = self.committed.load(Ordering::Relaxed);
        let end = cut.chunks.len().min(done + CHUNKS_PER_COMMIT);
        insert(connection, &cut.chunks[done..end])?;
        let closed = if end == cut.chunks.len() { Some(close(connection, cut)?) } else { None };
        Ok(Written { chunks: end - done, closed })
    }

    /// Takes note that what [`Index::write_pending`] wrote is committed.
    pub(super) fn pending_written(&self, written: Written) {
        self.committed.fetch_add(written.chunks, Ordering::Relaxed);
        let Some(closed) = written.closed else { return };
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = state.segments.iter_mut().find(|it| matches!(it, Segment::Closing(_))) {
            let old = std::mem::replace(slot, Segment::Closed(Arc::new(closed)));
            // Half a million small pieces are given back: not here, where writers and readers wait.
            aside(move || drop(old));
        }
        self.committed.store(0, Ordering::Relaxed);
    }

    fn closing(&self) -> Option<Arc<Closing>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.segments.iter().find_map(|it| match it {
            Segment::Closing(closing) => Some(closing.clone()),
            Segment::Closed(_) | Segment::Missing(_) => None,
        })
    }
}

impl AllFilters {
    fn put(&self, n: u64, filters: &Filters) {
        self.ids.put(n, &filters.ids);
        self.patients.put(n, &filters.patients);
    }

    /// Which segments of a group may hold one term of each list.
    fn may_hold(&self, group: u64, wanted: &[Vec<Term>]) -> u64 {
        let one = |term: &Term| match term.dimension {
            Dimension::Id => self.ids.may_hold(group, *term),
            Dimension::Patient => self.patients.may_hold(group, *term),
            _ => u64::MAX,
        };
        wanted.iter().fold(u64::MAX, |all, either| all & either.iter().fold(0, |any, term| any | one(term)))
    }
}

impl Gathered {
    fn with_room(terms: usize) -> Self {
        let postings = HashMap::with_capacity_and_hasher(terms, RandomState::default());
        Self { postings, ..Self::default() }
    }

    fn add(&mut self, position: u16, index: &Indexed, received: Timestamp) {
        for term in &index.terms {
            self.postings.entry(*term).or_default().push(position);
        }
        self.deeds.add(&index.deed, received, position);
        self.count += 1;
    }
}

/// Does something that nobody waits for, behind all that somebody waits for.
fn aside(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        // On Linux this is the priority of this thread alone; where it is not granted the work is only done sooner.
        let _ = rustix::process::setpriority_process(None, 15);
        work();
    });
}

fn within(sequence: u64) -> u16 {
    u16::try_from(sequence % SEGMENT).expect("a position within a segment has 16 bits")
}

/// Reads entries and works out what is kept of each beside it again.
fn read_index(
    connection: &Connection,
    range: Range<u64>,
    each: &mut dyn FnMut(u16, Indexed, Timestamp),
) -> Result<(), StoreError> {
    let mut wrong = None;
    read::scan(connection, range, &mut |row| match Meta::decode(&row.meta) {
        Ok(meta) => {
            each(within(row.sequence), Indexed::of(&meta), Timestamp(row.received_at));
            true
        }
        Err(error) => {
            wrong = Some(StoreError::Corrupt(format!("the metadata of entry {} does not read: {error}", row.sequence)));
            false
        }
    })?;
    wrong.map_or(Ok(()), Err)
}

/// Makes the index of a full segment that was not finished, in one transaction of its own.
fn rebuild(connection: &Connection, n: u64, filters: &AllFilters) -> Result<Closed, StoreError> {
    let mut gathered = Gathered::default();
    read_index(connection, n * SEGMENT..(n + 1) * SEGMENT, &mut |position, index, received| {
        gathered.add(position, &index, received);
    })?;
    let cut = cut(n, &gathered, Pace::AtOnce);
    filters.put(n, &cut.filters);
    let transaction = connection.unchecked_transaction().map_err(unavailable)?;
    let keys = params![chunk_key(n, 0, 0), chunk_key(n + 1, 0, 0)];
    transaction.execute("DELETE FROM posting WHERE key >= ?1 AND key < ?2", keys).map_err(unavailable)?;
    transaction.execute("DELETE FROM segment WHERE n = ?1", [signed(n)]).map_err(unavailable)?;
    insert(&transaction, &cut.chunks)?;
    let mut closed = close(&transaction, &cut)?;
    // It was made from what lies on the disk.
    closed.made = None;
    transaction.commit().map_err(unavailable)?;
    Ok(closed)
}
