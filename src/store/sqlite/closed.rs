//! The index of a full segment on disk: written once, in key order, and read back piece by piece.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest as _, Sha256};

use crate::domain::activity::Activity;
use crate::domain::index::{Dimension, Term};
use crate::ledger::hash::Hash;

use super::super::{IndexDigests, StoreError};
use super::chunk::{self, Chunk};
use super::filter::{Filter, ID_BITS, PATIENT_BITS};
use super::index::Gathered;
use super::{signed, unavailable};

/// Where activity stands among the dimensions: the heads of its users, and their moments.
pub(super) const HEADS: u8 = 0xf0;
pub(super) const MOMENTS: u8 = 0xf1;

/// What is kept in memory of a segment whose index is on disk.
pub(super) struct Closed {
    /// The first key of each chunk, by dimension.
    pub(super) fences: HashMap<u8, Vec<u64>>,
    /// What it was when this process made it from sound entries.
    pub(super) made: Option<IndexDigests>,
    /// SHA-256 of fences and filters as they are in memory.
    front: Hash,
}

/// The filters of a segment: which ids and patients are certainly not in it.
pub(super) struct Filters {
    pub(super) ids: Filter,
    pub(super) patients: Filter,
}

/// The index of a full segment, ready to be written.
pub(super) struct Cut {
    n: u64,
    pub(super) chunks: Vec<(i64, Chunk)>,
    pub(super) filters: Filters,
    /// Fences and filters as bytes.
    front: [Vec<u8>; 2],
    front_digest: Hash,
    pub(super) digests: IndexDigests,
}

impl Closed {
    /// The activity that is stored for the whole segment.
    pub(super) fn activity(&self, connection: &Connection, n: u64, moments: bool) -> Result<Activity, StoreError> {
        let read = |dimension| {
            let pieces = self.fences.get(&dimension).map_or(0, Vec::len);
            read_pieces(connection, chunk_key(n, dimension, 0), pieces)
        };
        let moments = if moments { read(MOMENTS)? } else { Vec::new() };
        Ok(Activity { heads: read(HEADS)?, moments })
    }

    /// The digests of the chunks that are stored, under the fences and filters that are used.
    pub(super) fn stored(&self, connection: &Connection, n: u64) -> Result<IndexDigests, StoreError> {
        let mut digesting = Digesting::new(&self.front);
        let sql = "SELECT key, chunk FROM posting WHERE key >= ?1 AND key < ?2 ORDER BY key";
        let mut statement = connection.prepare_cached(sql).map_err(unavailable)?;
        let keys = params![chunk_key(n, 0, 0), chunk_key(n + 1, 0, 0)];
        let mut rows = statement.query(keys).map_err(unavailable)?;
        while let Some(row) = rows.next().map_err(unavailable)? {
            let chunk = row.get_ref(1).map_err(unavailable)?;
            let bytes = chunk.as_blob().map_err(|_| StoreError::Corrupt("a chunk that is no bytes".into()))?;
            digesting.add(row.get(0).map_err(unavailable)?, bytes);
        }
        Ok(digesting.finish())
    }

    /// The numbers of the chunks that may hold a term.
    pub(super) fn chunks_with(&self, term: Term) -> Range<usize> {
        let Some(fences) = self.fences.get(&(term.dimension as u8)) else { return 0..0 };
        let begin = fences.partition_point(|first| *first < term.key).saturating_sub(1);
        begin..fences.partition_point(|first| *first <= term.key)
    }
}

/// Whether the processor is left to others every now and then: a core that is taken for 0.1 s at a time shows in what requests take.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    Leisurely,
    AtOnce,
}

impl Pace {
    fn breathe(self) {
        if self == Self::Leisurely {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Chunks that are hashed in one go, a millisecond's work.
const SOME: usize = 400;

/// Cuts the index of a segment into chunks with their keys: the postings dimension by dimension, key by key, then the activity.
pub(super) fn cut(n: u64, gathered: &Gathered, pace: Pace) -> Cut {
    let mut dimensions: BTreeMap<Dimension, Vec<_>> = BTreeMap::new();
    for (term, positions) in &gathered.postings {
        dimensions.entry(term.dimension).or_default().push((term, positions));
    }
    let mut out = Vec::new();
    for (dimension, mut group) in dimensions {
        pace.breathe();
        group.sort_unstable_by_key(|(term, _)| term.key);
        pace.breathe();
        let dimension = dimension as u8;
        let chunks = chunk::cut(group.iter().map(|(term, positions)| (term.key, positions.as_slice())));
        out.extend(chunks.into_iter().enumerate().map(|(number, chunk)| (chunk_key(n, dimension, number), chunk)));
    }
    pace.breathe();
    let Activity { heads, moments } = gathered.deeds.clone().finish(u32::MAX);
    pace.breathe();
    for (dimension, bytes) in [(HEADS, heads), (MOMENTS, moments)] {
        for (number, piece) in bytes.chunks(chunk::MAX_BYTES).enumerate() {
            let chunk = Chunk { first: number as u64, bytes: piece.to_vec() };
            out.push((chunk_key(n, dimension, number), chunk));
        }
    }
    let terms = |dimension| gathered.postings.keys().filter(move |it| it.dimension == dimension);
    let filters = Filters {
        ids: Filter::new(ID_BITS, terms(Dimension::Id)),
        patients: Filter::new(PATIENT_BITS, terms(Dimension::Patient)),
    };
    let front = [fences_of(&out), [filters.ids.bytes(), filters.patients.bytes()].concat()];
    let front_digest = front_of(&front[0], &front[1]);
    let mut digesting = Digesting::new(&front_digest);
    for some in out.chunks(SOME) {
        pace.breathe();
        some.iter().for_each(|(key, chunk)| digesting.add(*key, &chunk.bytes));
    }
    Cut { n, chunks: out, filters, front, front_digest, digests: digesting.finish() }
}

/// The first key of each chunk, dimension by dimension, as bytes.
fn fences_of(chunks: &[(i64, Chunk)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for group in chunks.chunk_by(|a, b| dimension_of(a.0) == dimension_of(b.0)) {
        bytes.push(dimension_of(group[0].0));
        bytes.extend_from_slice(&(group.len() as u64).to_be_bytes());
        group.iter().for_each(|(_, chunk)| bytes.extend_from_slice(&chunk.first.to_be_bytes()));
    }
    bytes
}

fn front_of(fences: &[u8], filters: &[u8]) -> Hash {
    Hash(
        Sha256::new()
            .chain_update((fences.len() as u64).to_be_bytes())
            .chain_update(fences)
            .chain_update(filters)
            .finalize()
            .into(),
    )
}

/// Works out the digests from chunks in the order of their keys.
struct Digesting {
    postings: Sha256,
    heads: Sha256,
    moments: Sha256,
}

impl Digesting {
    fn new(front: &Hash) -> Self {
        Self { postings: Sha256::new().chain_update(front.0), heads: Sha256::new(), moments: Sha256::new() }
    }

    fn add(&mut self, key: i64, chunk: &[u8]) {
        match dimension_of(key) {
            HEADS => self.heads.update(chunk),
            MOMENTS => self.moments.update(chunk),
            _ => {
                self.postings.update(key.to_be_bytes());
                self.postings.update((chunk.len() as u64).to_be_bytes());
                self.postings.update(chunk);
            }
        }
    }

    fn finish(self) -> IndexDigests {
        let hash = |it: Sha256| Hash(it.finalize().into());
        IndexDigests { postings: hash(self.postings), heads: hash(self.heads), moments: hash(self.moments) }
    }
}

pub(super) fn insert(connection: &Connection, chunks: &[(i64, Chunk)]) -> Result<(), StoreError> {
    let mut insert =
        connection.prepare_cached("INSERT INTO posting (key, chunk) VALUES (?1, ?2)").map_err(unavailable)?;
    for (key, chunk) in chunks {
        insert.execute(params![key, chunk.bytes]).map_err(unavailable)?;
    }
    Ok(())
}

/// Writes the row that says a segment's index is complete.
pub(super) fn close(connection: &Connection, cut: &Cut) -> Result<Closed, StoreError> {
    let mut by_dimension: HashMap<u8, Vec<u64>> = HashMap::new();
    for (key, chunk) in &cut.chunks {
        by_dimension.entry(dimension_of(*key)).or_default().push(chunk.first);
    }
    let [fences, filters] = &cut.front;
    let sql = "INSERT INTO segment (n, fences, filters) VALUES (?1, ?2, ?3)";
    connection.execute(sql, params![signed(cut.n), fences, filters]).map_err(unavailable)?;
    Ok(Closed { fences: by_dimension, made: Some(cut.digests), front: cut.front_digest })
}

pub(super) fn load_closed(connection: &Connection, n: u64) -> Result<Option<(Closed, Filters)>, StoreError> {
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
    let front = front_of(&fences, &filters);
    let (ids, patients) = filters.split_at_checked(1 << (ID_BITS - 3)).ok_or_else(corrupt)?;
    let filter = |bits, bytes| Filter::from_bytes(bits, bytes).ok_or_else(corrupt);
    let filters = Filters { ids: filter(ID_BITS, ids)?, patients: filter(PATIENT_BITS, patients)? };
    Ok(Some((Closed { fences: by_dimension, made: None, front }, filters)))
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
