//! The index: postings and activity of closed segments on disk, of the open one in memory.
//!
//! A secondary b-tree with random keys costs a page write per entry and index. So the index of a segment (65,536 entries) is
//! kept in memory while the segment is open, and written once, in key order, when it closes. What the process loses
//! when it dies is rebuilt from the entries at the next start.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use rusqlite::{Connection, OptionalExtension, params};

use crate::domain::activity::{Activity, Gathering};
use crate::domain::index::{Dimension, Indexed, Term};
use crate::domain::meta::Meta;
use crate::domain::time::Timestamp;

use super::super::{Batch, Found, Order, SEGMENT, StoreError};
use super::chunk::{self, Chunk};
use super::filter::Filter;
use super::{read, signed, unavailable};

/// Where activity stands among the dimensions: the heads of its users, and their moments.
pub(super) const HEADS: u8 = 0xf0;
pub(super) const MOMENTS: u8 = 0xf1;
/// Chunks of a closed segment that ride along with one commit.
const CHUNKS_PER_COMMIT: usize = 256;

pub(super) struct Index {
    state: RwLock<State>,
    /// Chunks of the oldest closing segment that are committed. Only the writer changes it.
    committed: AtomicUsize,
}

struct State {
    segments: Vec<Segment>,
    /// The segment that is being filled.
    open: Gathered,
}

/// The index of a segment in memory.
#[derive(Default)]
struct Gathered {
    postings: HashMap<Term, Vec<u16>>,
    deeds: Gathering,
    count: u64,
}

/// A full segment.
enum Segment {
    /// Its index is on disk.
    Closed(Arc<Closed>),
    /// Its index is in memory and on its way to the disk.
    Closing(Arc<Closing>),
    /// The process ended before its index was written. Until [`Index::repair`] its entries are read one by one.
    Missing,
}

pub(super) struct Closed {
    /// The first key of each chunk, by dimension.
    pub(super) fences: HashMap<u8, Vec<u64>>,
    pub(super) ids: Filter,
    pub(super) patients: Filter,
}

struct Closing {
    n: u64,
    gathered: Gathered,
    /// Made by a thread of its own, so that sorting keeps no writer waiting.
    chunks: OnceLock<Vec<(i64, Chunk)>>,
}

/// How far the closing segment got with the commit that is under way.
pub(super) struct Written {
    chunks: usize,
    closed: Option<Closed>,
}

impl Index {
    /// Loads the fences of closed segments, and rebuilds the open one from its entries. Writes nothing.
    pub(super) fn load(connection: &Connection, size: u64) -> Result<Self, StoreError> {
        let mut state = State { segments: Vec::new(), open: Gathered::default() };
        for n in 0..size / SEGMENT {
            state.segments.push(match load_closed(connection, n) {
                Ok(Some(closed)) => Segment::Closed(Arc::new(closed)),
                Ok(None) => Segment::Missing,
                Err(StoreError::Corrupt(what)) => {
                    tracing::error!(what, "a part of the index does not read; it is made again from the entries");
                    Segment::Missing
                }
                Err(error) => return Err(error),
            });
        }
        let begin = size / SEGMENT * SEGMENT;
        read_index(connection, begin..size, &mut |position, index, received| {
            state.open.add(position, &index, received)
        })?;
        Ok(Self { state: RwLock::new(state), committed: AtomicUsize::new(0) })
    }

    /// Makes the index of segments that have none, each in one transaction.
    pub(super) fn repair(&self, connection: &Connection) -> Result<(), StoreError> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let missing = |it: &(usize, &Segment)| matches!(it.1, Segment::Missing);
        let missing: Vec<usize> = state.segments.iter().enumerate().filter(missing).map(|(n, _)| n).collect();
        drop(state);
        for n in missing {
            let closed = rebuild(connection, n as u64)?;
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
                let gathered = std::mem::take(&mut state.open);
                let closing = Arc::new(Closing { n: row.sequence / SEGMENT, gathered, chunks: OnceLock::new() });
                state.segments.push(Segment::Closing(closing.clone()));
                std::thread::spawn(move || closing.chunks.get_or_init(|| cut(closing.n, &closing.gathered)).len());
            }
        }
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
            Some(Segment::Closed(_) | Segment::Missing) => return Ok(None),
        };
        drop(state);
        // Sorted without the lock, so that no writer waits.
        Ok(Some(deeds.finish(below)))
    }

    /// Candidates with one term of each list, within the range, in the order asked for.
    pub(super) fn find(
        &self,
        connection: &Connection,
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
        let may_hold = |n: &u64| match state.segments.get(usize::try_from(*n).unwrap_or(usize::MAX)) {
            Some(Segment::Closed(closed)) => {
                wanted.iter().all(|either| either.iter().any(|term| closed.may_hold(*term)))
            }
            Some(Segment::Closing(_) | Segment::Missing) | None => true,
        };
        range.filter(may_hold).collect()
    }

    /// Positions in segment `n` and `range` that have one term of each list, rising.
    fn positions(
        &self,
        connection: &Connection,
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

    fn postings(&self, connection: &Connection, n: u64, term: Term, out: &mut Vec<u16>) -> Result<(), StoreError> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let in_memory = |postings: &HashMap<Term, Vec<u16>>, out: &mut Vec<u16>| {
            out.extend(postings.get(&term).into_iter().flatten());
        };
        match state.segments.get(usize::try_from(n).unwrap_or(usize::MAX)) {
            None => in_memory(&state.open.postings, out),
            Some(Segment::Closing(closing)) => in_memory(&closing.gathered.postings, out),
            Some(Segment::Missing) => {
                drop(state);
                read_index(connection, n * SEGMENT..(n + 1) * SEGMENT, &mut |position, index, _| {
                    out.extend(index.terms.contains(&term).then_some(position));
                })?;
            }
            Some(Segment::Closed(closed)) => {
                let chunks = closed.chunks_with(term);
                drop(state);
                for chunk in chunks {
                    let bytes = read_chunk(connection, chunk_key(n, term.dimension as u8, chunk))?;
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
        let Some(chunks) = closing.chunks.get() else { return Ok(nothing) };
        let done = self.committed.load(Ordering::Relaxed);
        let end = chunks.len().min(done + CHUNKS_PER_COMMIT);
        insert(connection, &chunks[done..end])?;
        let closed = if end == chunks.len() { Some(close(connection, &closing, chunks)?) } else { None };
        Ok(Written { chunks: end - done, closed })
    }

    /// Takes note that what [`Index::write_pending`] wrote is committed.
    pub(super) fn pending_written(&self, written: Written) {
        self.committed.fetch_add(written.chunks, Ordering::Relaxed);
        let Some(closed) = written.closed else { return };
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = state.segments.iter_mut().find(|it| matches!(it, Segment::Closing(_))) {
            *slot = Segment::Closed(Arc::new(closed));
        }
        self.committed.store(0, Ordering::Relaxed);
    }

    fn closing(&self) -> Option<Arc<Closing>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.segments.iter().find_map(|it| match it {
            Segment::Closing(closing) => Some(closing.clone()),
            Segment::Closed(_) | Segment::Missing => None,
        })
    }
}

impl Closed {
    fn may_hold(&self, term: Term) -> bool {
        match term.dimension {
            Dimension::Id => self.ids.may_hold(term),
            Dimension::Patient => self.patients.may_hold(term),
            _ => true,
        }
    }

    /// The activity that is stored for the whole segment.
    pub(super) fn activity(&self, connection: &Connection, n: u64, moments: bool) -> Result<Activity, StoreError> {
        let read = |dimension| {
            let pieces = self.fences.get(&dimension).map_or(0, Vec::len);
            read_pieces(connection, chunk_key(n, dimension, 0), pieces)
        };
        let moments = if moments { read(MOMENTS)? } else { Vec::new() };
        Ok(Activity { heads: read(HEADS)?, moments })
    }

    /// The numbers of the chunks that may hold a term.
    fn chunks_with(&self, term: Term) -> Range<usize> {
        let Some(fences) = self.fences.get(&(term.dimension as u8)).filter(|_| self.may_hold(term)) else {
            return 0..0;
        };
        let begin = fences.partition_point(|first| *first < term.key).saturating_sub(1);
        begin..fences.partition_point(|first| *first <= term.key)
    }
}

impl Gathered {
    fn add(&mut self, position: u16, index: &Indexed, received: Timestamp) {
        for term in &index.terms {
            self.postings.entry(*term).or_default().push(position);
        }
        self.deeds.add(&index.deed, received, position);
        self.count += 1;
    }
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
fn rebuild(connection: &Connection, n: u64) -> Result<Closed, StoreError> {
    let mut gathered = Gathered::default();
    read_index(connection, n * SEGMENT..(n + 1) * SEGMENT, &mut |position, index, received| {
        gathered.add(position, &index, received);
    })?;
    let chunks = cut(n, &gathered);
    let closing = Closing { n, gathered, chunks: OnceLock::new() };
    let transaction = connection.unchecked_transaction().map_err(unavailable)?;
    let keys = params![chunk_key(n, 0, 0), chunk_key(n + 1, 0, 0)];
    transaction.execute("DELETE FROM posting WHERE key >= ?1 AND key < ?2", keys).map_err(unavailable)?;
    transaction.execute("DELETE FROM segment WHERE n = ?1", [signed(n)]).map_err(unavailable)?;
    insert(&transaction, &chunks)?;
    let closed = close(&transaction, &closing, &chunks)?;
    transaction.commit().map_err(unavailable)?;
    Ok(closed)
}

/// Cuts the index of a segment into chunks with their keys: the postings dimension by dimension, key by key, then the activity.
fn cut(n: u64, gathered: &Gathered) -> Vec<(i64, Chunk)> {
    let mut sorted: Vec<_> = gathered.postings.iter().collect();
    sorted.sort_unstable_by_key(|(term, _)| **term);
    let mut out = Vec::new();
    for group in sorted.chunk_by(|a, b| a.0.dimension == b.0.dimension) {
        let dimension = group[0].0.dimension as u8;
        let chunks = chunk::cut(group.iter().map(|(term, positions)| (term.key, positions.as_slice())));
        out.extend(chunks.into_iter().enumerate().map(|(number, chunk)| (chunk_key(n, dimension, number), chunk)));
    }
    let Activity { heads, moments } = gathered.deeds.clone().finish(u32::MAX);
    for (dimension, bytes) in [(HEADS, heads), (MOMENTS, moments)] {
        for (number, piece) in bytes.chunks(chunk::MAX_BYTES).enumerate() {
            let chunk = Chunk { first: number as u64, bytes: piece.to_vec() };
            out.push((chunk_key(n, dimension, number), chunk));
        }
    }
    out
}

fn insert(connection: &Connection, chunks: &[(i64, Chunk)]) -> Result<(), StoreError> {
    let mut insert =
        connection.prepare_cached("INSERT INTO posting (key, chunk) VALUES (?1, ?2)").map_err(unavailable)?;
    for (key, chunk) in chunks {
        insert.execute(params![key, chunk.bytes]).map_err(unavailable)?;
    }
    Ok(())
}

/// Writes the row that says a segment's index is complete.
fn close(connection: &Connection, closing: &Closing, chunks: &[(i64, Chunk)]) -> Result<Closed, StoreError> {
    let mut fences: HashMap<u8, Vec<u64>> = HashMap::new();
    for (key, chunk) in chunks {
        fences.entry(dimension_of(*key)).or_default().push(chunk.first);
    }
    let of = |dimension| {
        Filter::new(
            closing.gathered.postings.keys().filter(|it| it.dimension == dimension).collect::<Vec<_>>().into_iter(),
        )
    };
    let closed = Closed { fences, ids: of(Dimension::Id), patients: of(Dimension::Patient) };
    let mut bytes = Vec::new();
    let mut dimensions: Vec<_> = closed.fences.iter().collect();
    dimensions.sort_unstable_by_key(|(dimension, _)| **dimension);
    for (dimension, fences) in dimensions {
        bytes.push(*dimension);
        bytes.extend_from_slice(&(fences.len() as u64).to_be_bytes());
        fences.iter().for_each(|fence| bytes.extend_from_slice(&fence.to_be_bytes()));
    }
    let filters =
        [&(closed.ids.bytes().len() as u64).to_be_bytes(), closed.ids.bytes(), closed.patients.bytes()].concat();
    let sql = "INSERT INTO segment (n, fences, filters) VALUES (?1, ?2, ?3)";
    connection.execute(sql, params![signed(closing.n), bytes, filters]).map_err(unavailable)?;
    Ok(closed)
}

pub(super) fn load_closed(connection: &Connection, n: u64) -> Result<Option<Closed>, StoreError> {
    let sql = "SELECT fences, filters FROM segment WHERE n = ?1";
    let row: Option<(Vec<u8>, Vec<u8>)> =
        connection.query_row(sql, [signed(n)], |row| Ok((row.get(0)?, row.get(1)?))).optional().map_err(unavailable)?;
    let Some((fences, filters)) = row else { return Ok(None) };
    let corrupt = || StoreError::Corrupt(format!("the index of segment {n} does not read"));
    let take_u64 = |rest: &mut &[u8]| -> Option<u64> {
        let (head, tail) = rest.split_at_checked(8)?;
        *rest = tail;
        Some(u64::from_be_bytes(head.try_into().ok()?))
    };
    let mut rest = fences.as_slice();
    let mut by_dimension = HashMap::new();
    while let Some((dimension, tail)) = rest.split_first() {
        rest = tail;
        let count = take_u64(&mut rest).ok_or_else(corrupt)?;
        let keys = (0..count).map_while(|_| take_u64(&mut rest)).collect::<Vec<_>>();
        if keys.len() as u64 != count {
            return Err(corrupt());
        }
        by_dimension.insert(*dimension, keys);
    }
    if !by_dimension.contains_key(&HEADS) {
        // Written before activity was kept; it is made again.
        return Ok(None);
    }
    let mut rest = filters.as_slice();
    let length = take_u64(&mut rest).and_then(|it| usize::try_from(it).ok()).ok_or_else(corrupt)?;
    let (ids, patients) = rest.split_at_checked(length).ok_or_else(corrupt)?;
    Ok(Some(Closed { fences: by_dimension, ids: Filter::from_bytes(ids)?, patients: Filter::from_bytes(patients)? }))
}

pub(super) fn read_chunk(connection: &Connection, key: i64) -> Result<Vec<u8>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT chunk FROM posting WHERE key = ?1").map_err(unavailable)?;
    let bytes = statement.query_row([key], |row| row.get(0)).optional().map_err(unavailable)?;
    bytes.ok_or_else(|| StoreError::Corrupt("a chunk of the index is not there".into()))
}

/// The bytes of consecutive pieces.
fn read_pieces(connection: &Connection, first: i64, pieces: usize) -> Result<Vec<u8>, StoreError> {
    let mut out = Vec::with_capacity(pieces * chunk::MAX_BYTES);
    let sql = "SELECT chunk FROM posting WHERE key >= ?1 AND key < ?2 ORDER BY key";
    let mut statement = connection.prepare_cached(sql).map_err(unavailable)?;
    let end = first + i64::try_from(pieces).expect("a segment has few pieces");
    let (mut rows, mut found) = (statement.query([first, end]).map_err(unavailable)?, 0);
    while let Some(row) = rows.next().map_err(unavailable)? {
        let piece = row.get_ref(0).map_err(unavailable)?;
        out.extend_from_slice(piece.as_blob().map_err(|_| StoreError::Corrupt("a piece that is no bytes".into()))?);
        found += 1;
    }
    if found == pieces { Ok(out) } else { Err(StoreError::Corrupt("a piece of the index is not there".into())) }
}

pub(super) fn chunk_key(segment: u64, dimension: u8, chunk: usize) -> i64 {
    let chunk = u64::try_from(chunk).expect("a segment has fewer than 2^16 chunks in a dimension");
    signed(segment << 24 | u64::from(dimension) << 16 | chunk)
}

fn dimension_of(key: i64) -> u8 {
    key.to_be_bytes()[5]
}
