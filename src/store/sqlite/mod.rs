//! The store in one SQLite file: one writing connection, a pool of read-only ones, write-ahead log, every commit synced.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, params};

use crate::domain::activity::Activity;
use crate::domain::index::{Indexed, Term};
use crate::ledger::hash::Hash;

use super::{Batch, Found, IndexDigests, Order, Row, StateRow, Store, StoreError, Usage};
use index::Index;

mod audit;
mod chunk;
mod closed;
mod filter;
mod guard;
mod index;
mod open;
mod pool;
mod read;

pub use open::{APPLICATION_ID, SCHEMA_VERSION};
pub use read::RowRef;

/// Read-only connections that requests share.
const READERS: usize = 8;

/// A vault's database.
pub struct SqliteStore {
    shared: Arc<Shared>,
    readers: pool::Pool,
}

/// What all users of one database have in common.
struct Shared {
    path: PathBuf,
    size: AtomicU64,
    writer: Mutex<Connection>,
    guard: guard::Guard,
    index: Index,
}

impl SqliteStore {
    /// Makes a new database. Refuses when the file exists.
    ///
    /// # Errors
    /// [`StoreError::Unsuitable`] or [`StoreError::Unavailable`].
    pub fn create(path: &Path) -> Result<(), StoreError> {
        open::create(path)
    }

    /// Opens a database for reading and writing, and checks that it is one of ours, sound and durable.
    ///
    /// # Errors
    /// [`StoreError::Unsuitable`] says what is wrong and what to do.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let writer = open::writer(path)?;
        let guard = guard::Guard::new(path, &writer)?;
        let size = read::size(&writer)?;
        let index = Index::load(&writer, size)?;
        let size = AtomicU64::new(size);
        let shared = Shared { path: path.to_owned(), size, writer: Mutex::new(writer), guard, index };
        Ok(Self { shared: Arc::new(shared), readers: pool::Pool::new(path, READERS) })
    }

    /// Copies a database as it is at one moment, also while a server writes to it, into a new file, synced.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn backup(from: &Path, to: &Path) -> Result<(), StoreError> {
        let source = open::reader(from)?;
        open::check_identity(&source, from)?;
        open::copy(&source, to)
    }

    /// Opens a database for reading only, as `verify` does beside a running server.
    ///
    /// # Errors
    /// [`StoreError::Unsuitable`] or [`StoreError::Unavailable`].
    pub fn reader(path: &Path) -> Result<Reader, StoreError> {
        let connection = open::reader(path)?;
        open::check_identity(&connection, path)?;
        Ok(Reader { connection })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Whoever copies the database of a stopped vault by hand gets all of it in one file. If it fails, nothing is lost.
        let writer = self.writer.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Err(error) = open::empty_log(writer) {
            tracing::warn!(%error, "the write-ahead log could not be moved into the database; it belongs to it");
        }
    }
}

impl Store for SqliteStore {
    fn size(&self) -> u64 {
        self.shared.size.load(Ordering::Acquire)
    }

    fn append(&self, batch: &Batch<'_>) -> Result<(), StoreError> {
        let mut writer = self.shared.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let size = self.size();
        if batch.rows.iter().zip(size..).any(|(row, next)| row.sequence != next) {
            return Err(StoreError::Stale);
        }
        // One transaction: if the process dies before the commit returns, none of the batch is in; after it, all of it is,
        // synced. Pieces of a closed segment's index ride along, so that closing one never makes a writer wait for long.
        let transaction =
            writer.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(unavailable)?;
        if let Err(error) = self.shared.guard.check(&transaction) {
            drop(transaction);
            // A log that was removed is still open here, and nowhere else is what was acknowledged last.
            let _saved = open::empty_log(&writer);
            return Err(error);
        }
        insert(&transaction, batch)?;
        let written = self.shared.index.write_pending(&transaction)?;
        transaction.commit().map_err(unavailable)?;
        self.shared.index.pending_written(written);
        self.shared.index.append(batch);
        self.shared.size.store(size + batch.rows.len() as u64, Ordering::Release);
        Ok(())
    }

    fn repair(&self) -> Result<(), StoreError> {
        self.shared.index.repair(&self.shared.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn rows(&self, sequences: &[u64]) -> Result<Vec<Row>, StoreError> {
        self.readers.with(|connection| read::rows(connection, sequences))
    }

    fn scan(&self, range: Range<u64>, each: &mut dyn FnMut(Row) -> bool) -> Result<(), StoreError> {
        // A connection for each piece: who reads much lets others in between.
        let mut going = true;
        for from in range.clone().step_by(usize::try_from(read::SCAN_ROWS).expect("a small number")) {
            let piece = from..range.end.min(from + read::SCAN_ROWS);
            let mut until = |row| {
                going = each(row);
                going
            };
            self.readers.with(|connection| read::scan(connection, piece, &mut until))?;
            if !going {
                break;
            }
        }
        Ok(())
    }

    fn leaves(&self, range: Range<u64>) -> Result<Vec<Hash>, StoreError> {
        self.readers.with(|connection| read::leaves(connection, range))
    }

    fn tile(&self, level: u8, index: u64) -> Result<Option<Vec<Hash>>, StoreError> {
        self.readers.with(|connection| read::tile(connection, level, index))
    }

    fn find(&self, terms: &[Vec<Term>], range: Range<u64>, order: Order, limit: usize) -> Result<Found, StoreError> {
        let range = range.start..range.end.min(self.size());
        // Most look-ups are for ids that are new, and end without a connection.
        self.shared.index.find(&self.readers.on_demand(), terms, range, order, limit)
    }

    fn activity(&self, segment: u64, end: u64, moments: bool) -> Result<Option<Activity>, StoreError> {
        self.readers.with(|connection| self.shared.index.activity(connection, segment, end, moments))
    }

    fn index_made(&self, segment: u64) -> Option<IndexDigests> {
        self.shared.index.made(segment)
    }

    fn index_from(&self, segment: u64, entries: &[(Indexed, i64)]) -> IndexDigests {
        Index::digests_of(segment, entries)
    }

    fn index_stored(&self, segment: u64) -> Result<Option<IndexDigests>, StoreError> {
        self.readers.with(|connection| self.shared.index.stored(connection, segment))
    }

    fn state(&self, kind: &str) -> Result<Vec<StateRow>, StoreError> {
        self.readers.with(|connection| {
            if read::count(connection, read::STRAY_STATE)? > 0 {
                return Err(StoreError::Corrupt("a state row and its index differ".into()));
            }
            read::state(connection, kind)
        })
    }

    fn usage(&self) -> Result<Vec<Usage>, StoreError> {
        self.readers.with(|connection| read::usage(connection, None))
    }

    fn flush(&self) -> Result<(), StoreError> {
        let writer = self.shared.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if open::empty_log(&writer)? {
            Ok(())
        } else {
            Err(StoreError::Unavailable("somebody is reading; the log is emptied later".into()))
        }
    }

    fn disk_bytes(&self) -> u64 {
        let length = |path: &Path| std::fs::metadata(path).map_or(0, |it| it.len());
        length(&self.shared.path) + length(&open::beside(&self.shared.path, "-wal"))
    }

    fn disk_free(&self) -> u64 {
        // A test says what the disk would say.
        if cfg!(debug_assertions)
            && let Some(said) = std::env::var_os("PHIVAULT_TEST_DISK_FREE")
        {
            return std::fs::read_to_string(said).ok().and_then(|it| it.trim().parse().ok()).unwrap_or(u64::MAX);
        }
        rustix::fs::statvfs(&self.shared.path).map_or(u64::MAX, |it| it.f_bavail.saturating_mul(it.f_frsize))
    }

    fn apart(&self, readers: usize) -> Arc<dyn Store> {
        Arc::new(Self { shared: self.shared.clone(), readers: pool::Pool::new(&self.shared.path, readers) })
    }
}

/// A read-only view for the verifier: rows, tiles and what the index says.
pub struct Reader {
    connection: Connection,
}

impl Reader {
    /// How many entries there are.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn size(&self) -> Result<u64, StoreError> {
        read::size(&self.connection)
    }

    /// Calls `each` with whatever rows there are in a range, gaps and all, by rising position; a row that cannot be one comes
    /// as an error.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub fn scan(
        &self,
        range: Range<u64>,
        each: &mut dyn FnMut(u64, Result<RowRef<'_>, StoreError>),
    ) -> Result<(), StoreError> {
        read::scan_refs(&self.connection, range, each)
    }

    /// All tiles: level, index, hashes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn tile(&self, level: u8, index: u64) -> Result<Option<Vec<Hash>>, StoreError> {
        read::tile(&self.connection, level, index)
    }

    /// How many tiles there are in all.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn tile_count(&self) -> Result<u64, StoreError> {
        read::count(&self.connection, "SELECT count(*) FROM tile")
    }

    /// Calls `each` with dimension, key and position of all that the stored index of a closed segment holds, if it is complete;
    /// whether it is.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it is not what closing a segment writes.
    pub fn segment(&self, n: u64, each: &mut dyn FnMut(u8, u64, u16)) -> Result<bool, StoreError> {
        audit::segment(&self.connection, n, each)
    }

    /// The stored activity of a closed segment, if its index is complete.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it does not read.
    pub fn activity(&self, n: u64) -> Result<Option<Activity>, StoreError> {
        audit::activity(&self.connection, n)
    }

    /// Rows that stand where none may stand, in words.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn strays(&self) -> Result<Vec<&'static str>, StoreError> {
        audit::strays(&self.connection, self.size()?)
    }

    /// All state rows of a kind.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn state(&self, kind: &str) -> Result<Vec<StateRow>, StoreError> {
        read::state(&self.connection, kind)
    }

    /// Begins a read transaction, so that everything is read of one moment while a server goes on writing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn freeze(&self) -> Result<(), StoreError> {
        self.connection.execute_batch("BEGIN").map_err(unavailable)?;
        self.size().map(|_| ())
    }

    /// How many records of a segment the database says are sealed under which keys.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn usage(&self, segment: u64) -> Result<Vec<Usage>, StoreError> {
        read::usage(&self.connection, Some(segment))
    }

    /// What SQLite's own quick check says, if it is not "ok".
    ///
    /// # Errors
    /// [`StoreError`] when the check itself cannot run.
    pub fn structure(&self) -> Result<Option<String>, StoreError> {
        read::quick_check(&self.connection)
    }
}

fn insert(connection: &Connection, batch: &Batch<'_>) -> Result<(), StoreError> {
    let sql = "INSERT INTO entry (sequence, meta, received_at, patient_previous, patient_number, commitment, leaf, sealed) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let mut entry = connection.prepare_cached(sql).map_err(unavailable)?;
    for row in batch.rows {
        let values = params![
            signed(row.sequence),
            row.meta,
            row.received_at,
            signed(row.patient_previous),
            signed(row.patient_number),
            row.commitment,
            row.leaf.as_bytes(),
            row.sealed
        ];
        one(entry.execute(values))?;
    }
    for tile in batch.tiles {
        let hashes: Vec<u8> = tile.hashes.iter().flat_map(|hash| hash.0).collect();
        let mut insert = connection
            .prepare_cached("INSERT INTO tile (level, n, hashes) VALUES (?1, ?2, ?3)")
            .map_err(unavailable)?;
        one(insert.execute(params![tile.level, signed(tile.index), hashes]))?;
    }
    for row in batch.state {
        let sql = "INSERT INTO state (kind, id, body, tag) VALUES (?1, ?2, ?3, ?4) \
                   ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body, tag = excluded.tag";
        let mut put = connection.prepare_cached(sql).map_err(unavailable)?;
        one(put.execute(params![row.kind, row.id, row.body, row.tag]))?;
    }
    reseal(connection, batch)
}

/// That a row went in: SQLite also calls it done when a trigger left it out.
fn one(done: rusqlite::Result<usize>) -> Result<(), StoreError> {
    match done.map_err(unavailable)? {
        1 => Ok(()),
        _ => Err(StoreError::Corrupt("the database left out a row that was to be written".into())),
    }
}

/// Replaces sealed records, and counts them under their keys.
fn reseal(connection: &Connection, batch: &Batch<'_>) -> Result<(), StoreError> {
    let mut update =
        connection.prepare_cached("UPDATE entry SET sealed = ?2 WHERE sequence = ?1").map_err(unavailable)?;
    for (sequence, sealed) in batch.resealed {
        if update.execute(params![signed(*sequence), sealed]).map_err(unavailable)? != 1 {
            return Err(StoreError::Corrupt(format!("entry {sequence} is not there")));
        }
    }
    let sql = "INSERT INTO usage (segment, version, bucket, entries) VALUES (?1, ?2, ?3, ?4) \
               ON CONFLICT (segment, version, bucket) DO UPDATE SET entries = entries + excluded.entries";
    let mut count = connection.prepare_cached(sql).map_err(unavailable)?;
    for it in batch.usage {
        one(count.execute(params![signed(it.segment), it.version, it.bucket, it.entries]))?;
    }
    let mut none =
        connection.prepare_cached("DELETE FROM usage WHERE segment = ?1 AND entries = 0").map_err(unavailable)?;
    for it in batch.usage.iter().filter(|it| it.entries < 0) {
        none.execute([signed(it.segment)]).map_err(unavailable)?;
    }
    Ok(())
}

/// SQLite counts with signed integers; a ledger never comes near 2^63.
fn signed(number: u64) -> i64 {
    i64::try_from(number).expect("positions and counts stay below 2^63")
}

fn unavailable(error: rusqlite::Error) -> StoreError {
    use rusqlite::ffi::ErrorCode;
    // SQLite's own messages name tables and columns, never values.
    if matches!(error, rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::IntegralValueOutOfRange(..)) {
        // A value that the schema does not allow: somebody went round it.
        return StoreError::Corrupt(error.to_string());
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Corrupt(error.to_string()),
        _ => StoreError::Unavailable(error.to_string()),
    }
}
