//! Where it rests: the durable home of sealed entries, tree tiles and authenticated state rows.
//!
//! This room sees ciphertext, metadata bytes and hashes. It never sees plaintext, keys or callers, and no method takes or
//! returns any. [`Store`] is the contract; its comments are binding for every back end.

use std::ops::Range;
use std::sync::Arc;

use crate::domain::activity::Activity;
use crate::domain::index::{Indexed, Term};
use crate::ledger::hash::Hash;
use crate::ledger::tree::Tile;

pub mod sqlite;

/// Entries of one segment: one full level-2 subtree, one block of index.
pub const SEGMENT: u64 = 65_536;

/// One entry as it rests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Its position in the ledger.
    pub sequence: u64,
    /// Canonical metadata.
    pub meta: Vec<u8>,
    /// Time of receipt, microseconds since 1970, UTC.
    pub received_at: i64,
    /// The position of the same patient's entry before; 0 if none.
    pub patient_previous: u64,
    /// The patient's running number; 0 if the entry has no patient.
    pub patient_number: u64,
    /// Commitment to the sealed values.
    pub commitment: [u8; 32],
    /// The leaf hash.
    pub leaf: Hash,
    /// Header and ciphertext.
    pub sealed: Vec<u8>,
}

/// A row of state that is not the ledger (a token, say), authenticated by its tag.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateRow {
    /// What kind of thing.
    pub kind: String,
    /// Which one.
    pub id: String,
    /// Its canonical bytes.
    pub body: Vec<u8>,
    /// HMAC-SHA-256 under the state key.
    pub tag: Vec<u8>,
}

/// What is committed together.
#[derive(Default)]
pub struct Batch<'a> {
    /// Entries, consecutive from the store's size.
    pub rows: &'a [Row],
    /// What is kept of each entry beside it, in the same order.
    pub index: &'a [Indexed],
    /// Full tiles of level 1 and above that these entries complete.
    pub tiles: &'a [Tile],
    /// State rows to put, replacing those of the same kind and id.
    pub state: &'a [StateRow],
    /// Entries whose sealed record is replaced: position and new record. Nothing else of an entry ever changes.
    pub resealed: &'a [(u64, Vec<u8>)],
    /// How the count of records under each key changes with all this.
    pub usage: &'a [Usage],
}

/// Records of one segment that are sealed under one data-key version and bucket; in a batch, by how many they change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Usage {
    /// Which segment.
    pub segment: u64,
    /// The data-key version; 0: records whose values were erased.
    pub version: u32,
    /// The bucket.
    pub bucket: u32,
    /// How many.
    pub entries: i64,
}

/// SHA-256 of what is kept of a full segment beside its entries. The same entries give the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexDigests {
    /// Of what entries are found by: fences, filters, postings.
    pub postings: Hash,
    /// Of the heads of what they are counted by.
    pub heads: Hash,
    /// Of its moments.
    pub moments: Hash,
}

/// What a search of the index found.
#[derive(Default, Debug)]
pub struct Found {
    /// Candidates in the order asked for. Terms are reduced values, so each must be checked against the filter.
    pub sequences: Vec<u64>,
    /// Where to go on, if the search stopped at its bound: the next position to look at.
    pub next: Option<u64>,
}

/// Which way a search walks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// From the newest entry back.
    NewestFirst,
    /// From the oldest entry on.
    OldestFirst,
}

/// Why the store did not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store holds more or fewer entries than the batch assumes: another writer was there.
    #[error("the store is not at the size the batch assumes; another writer was there")]
    Stale,
    /// The disk or database refused. Whether a batch is in is unknown: the process must end and recover at its next start.
    #[error("the database did not do it: {0}")]
    Unavailable(String),
    /// What was read cannot be true.
    #[error("the database holds something that cannot be true: {0}")]
    Corrupt(String),
    /// The database must not be used as it is; says why and what to do.
    #[error("{0}")]
    Unsuitable(String),
}

/// The durable home of a vault's entries.
///
/// Everything written is on disk, synced, when a method returns. All methods may be called from many threads at once;
/// reads see whole batches only. The store is used by one process at a time.
pub trait Store: Send + Sync {
    /// How many entries are committed.
    fn size(&self) -> u64;

    /// Commits the whole batch or nothing. The rows must follow [`Store::size`] without a gap, else [`StoreError::Stale`].
    /// After [`StoreError::Unavailable`] it is unknown whether the batch is in; no further append may follow.
    ///
    /// # Errors
    /// As above.
    fn append(&self, batch: &Batch<'_>) -> Result<(), StoreError>;

    /// Finishes what the process left unfinished when it last ended. Called once the vault was found sound; everything else
    /// works before, only slower.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn repair(&self) -> Result<(), StoreError>;

    /// The entries at these positions, in the order given.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when one below [`Store::size`] is not there.
    fn rows(&self, sequences: &[u64]) -> Result<Vec<Row>, StoreError>;

    /// Calls `each` with the entries of a range, by rising position; stops early when it answers `false`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] at the first gap.
    fn scan(&self, range: Range<u64>, each: &mut dyn FnMut(Row) -> bool) -> Result<(), StoreError>;

    /// The leaf hashes of a range.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when one is not there.
    fn leaves(&self, range: Range<u64>) -> Result<Vec<Hash>, StoreError>;

    /// A full tile of level 1 or above, if it is complete.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn tile(&self, level: u8, index: u64) -> Result<Option<Vec<Hash>>, StoreError>;

    /// Positions in `range` whose entries may have one term of each inner list; all positions when there is none.
    /// Stops after `limit` of them.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
    fn find(&self, terms: &[Vec<Term>], range: Range<u64>, order: Order, limit: usize) -> Result<Found, StoreError>;

    /// What the entries of a segment below the position `end` are counted by, with the moments or only the heads; `None` when it
    /// is not kept for just these, and the entries themselves must be read.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
    fn activity(&self, segment: u64, end: u64, moments: bool) -> Result<Option<Activity>, StoreError>;

    /// The digests of a full segment's index, if this process filled the segment: they do not rest on what was read from the disk
    /// since.
    fn index_made(&self, segment: u64) -> Option<IndexDigests>;

    /// The digests of the index that these entries of a full segment make, with their times of receipt.
    fn index_from(&self, segment: u64, entries: &[(Indexed, i64)]) -> IndexDigests;

    /// The digests of a full segment's index as it is stored now; `None` if it is not stored.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Corrupt`].
    fn index_stored(&self, segment: u64) -> Result<Option<IndexDigests>, StoreError>;

    /// All state rows of a kind, by rising id.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn state(&self, kind: &str) -> Result<Vec<StateRow>, StoreError>;

    /// How many records are sealed under which keys, by rising segment, version and bucket. Only as good as the file: before
    /// a key is destroyed the records themselves are counted.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn usage(&self) -> Result<Vec<Usage>, StoreError>;

    /// Moves what was committed from the write-ahead log into the database file and empties the log, so that bytes that were
    /// replaced are gone from both. Readers may make this wait; then it is done later.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn flush(&self) -> Result<(), StoreError>;

    /// Bytes of the database, its write-ahead log included, for metrics.
    fn disk_bytes(&self) -> u64;

    /// Bytes that are free for it on its disk; the most there can be if that cannot be told.
    fn disk_free(&self) -> u64;

    /// The same store with up to `readers` connections of its own, so that whoever uses it never waits for those who read
    /// much.
    fn apart(&self, readers: usize) -> Arc<dyn Store>;
}
