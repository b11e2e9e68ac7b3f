//! Reading rows, leaves, tiles and state.

use std::ops::Range;

use rusqlite::{Connection, OptionalExtension, params};

use crate::ledger::hash::Hash;

use super::super::{Row, StateRow, StoreError, Usage};
use super::{signed, unavailable};

const COLUMNS: &str = "sequence, meta, received_at, patient_previous, patient_number, commitment, leaf, sealed";
/// Fewer bytes than any entry takes: leaf and commitment alone are half of it.
const LEAST_BYTES: u64 = 128;
/// Rows of one statement of a scan. Short statements let the writer's checkpoints pass.
pub(super) const SCAN_ROWS: u64 = 2_048;

/// The number of entries, if the file can hold so many: a single row planted far beyond the end would make everything that goes from
/// position to position run for ever.
pub(super) fn size(connection: &Connection) -> Result<u64, StoreError> {
    let size = count(connection, "SELECT coalesce(max(sequence) + 1, 0) FROM entry")?;
    let pages = count(connection, "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")?;
    if size > pages / LEAST_BYTES {
        let what = format!("an entry stands at position {}, where a database of {pages} bytes cannot reach", size - 1);
        return Err(StoreError::Corrupt(what));
    }
    Ok(size)
}

pub(super) fn count(connection: &Connection, sql: &str) -> Result<u64, StoreError> {
    let number: i64 = connection.query_row(sql, [], |row| row.get(0)).map_err(unavailable)?;
    u64::try_from(number).map_err(|_| StoreError::Corrupt("a count is negative".into()))
}

pub(super) fn rows(connection: &Connection, sequences: &[u64]) -> Result<Vec<Row>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM entry WHERE sequence = ?1");
    // One transaction, for each takes and gives back a lock; entries never change place, so it changes nothing else.
    let _at_once = connection.unchecked_transaction().map_err(unavailable)?;
    let mut statement = connection.prepare_cached(&sql).map_err(unavailable)?;
    let read = |sequence: &u64| {
        let row = statement.query_row([signed(*sequence)], |row| Ok(decode(row))).optional().map_err(unavailable)?;
        row.ok_or_else(|| missing(*sequence))?
    };
    sequences.iter().map(read).collect()
}

pub(super) fn scan(
    connection: &Connection,
    range: Range<u64>,
    each: &mut dyn FnMut(Row) -> bool,
) -> Result<(), StoreError> {
    let (mut expected, end) = (range.start, range.end);
    let sql = format!("SELECT {COLUMNS} FROM entry WHERE sequence >= ?1 AND sequence < ?2 ORDER BY sequence");
    let mut statement = connection.prepare_cached(&sql).map_err(unavailable)?;
    while expected < end {
        let to = end.min(expected + SCAN_ROWS);
        let mut rows = statement.query(params![signed(expected), signed(to)]).map_err(unavailable)?;
        while expected < to {
            let Some(row) = rows.next().map_err(unavailable)? else { return Err(missing(expected)) };
            let row = decode(row)?;
            if row.sequence != expected {
                return Err(missing(expected));
            }
            expected += 1;
            if !each(row) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A row where it lies, for a verifier that looks at each once.
pub struct RowRef<'a> {
    /// See [`Row`].
    pub sequence: u64,
    /// Canonical metadata.
    pub meta: &'a [u8],
    /// Time of receipt.
    pub received_at: i64,
    /// The same patient's entry before.
    pub patient_previous: u64,
    /// The patient's running number.
    pub patient_number: u64,
    /// Commitment to the sealed values.
    pub commitment: &'a [u8; 32],
    /// The leaf hash.
    pub leaf: Hash,
    /// Header and ciphertext.
    pub sealed: &'a [u8],
}

/// Whatever rows there are in a range, by rising position, without copying them. A row that cannot be one is given as an
/// error with its position, and the scan goes on.
pub(super) fn scan_refs(
    connection: &Connection,
    range: Range<u64>,
    each: &mut dyn FnMut(u64, Result<RowRef<'_>, StoreError>),
) -> Result<(), StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM entry WHERE sequence >= ?1 AND sequence < ?2 ORDER BY sequence");
    let mut statement = connection.prepare_cached(&sql).map_err(unavailable)?;
    let mut rows = statement.query(params![signed(range.start), signed(range.end)]).map_err(unavailable)?;
    while let Some(row) = rows.next().map_err(unavailable)? {
        let sequence = row.get::<_, i64>(0).ok().and_then(|it| u64::try_from(it).ok()).unwrap_or(range.start);
        each(sequence, decode_ref(row));
    }
    Ok(())
}

fn decode_ref<'a>(row: &'a rusqlite::Row<'_>) -> Result<RowRef<'a>, StoreError> {
    let corrupt = |what: &str| StoreError::Corrupt(what.to_owned());
    let blob = |column: usize| row.get_ref(column).ok().and_then(|it| it.as_blob().ok());
    let integer = |column: usize| row.get_ref(column).ok().and_then(|it| it.as_i64().ok());
    let unsigned = |column: usize| integer(column).and_then(|it| u64::try_from(it).ok());
    let hash = |column: usize| blob(column).and_then(|it| <&[u8; 32]>::try_from(it).ok());
    Ok(RowRef {
        sequence: unsigned(0).ok_or_else(|| corrupt("a position that is no number"))?,
        meta: blob(1).ok_or_else(|| corrupt("metadata that are no bytes"))?,
        received_at: integer(2).ok_or_else(|| corrupt("a time that is no number"))?,
        patient_previous: unsigned(3).ok_or_else(|| corrupt("a position that is negative"))?,
        patient_number: unsigned(4).ok_or_else(|| corrupt("a number that is negative"))?,
        commitment: hash(5).ok_or_else(|| corrupt("a commitment that has not 32 bytes"))?,
        leaf: Hash(*hash(6).ok_or_else(|| corrupt("a leaf that has not 32 bytes"))?),
        sealed: blob(7).ok_or_else(|| corrupt("a sealed record that is no bytes"))?,
    })
}

pub(super) fn leaves(connection: &Connection, range: Range<u64>) -> Result<Vec<Hash>, StoreError> {
    let sql = "SELECT leaf FROM entry WHERE sequence >= ?1 AND sequence < ?2 ORDER BY sequence";
    let mut statement = connection.prepare_cached(sql).map_err(unavailable)?;
    let mut rows = statement.query(params![signed(range.start), signed(range.end)]).map_err(unavailable)?;
    let mut out = Vec::new();
    while let Some(row) = rows.next().map_err(unavailable)? {
        let leaf = row.get_ref(0).map_err(unavailable)?.as_blob().ok().and_then(Hash::from_slice);
        out.push(leaf.ok_or_else(|| StoreError::Corrupt("a leaf has not 32 bytes".into()))?);
    }
    if out.len() as u64 == range.end.saturating_sub(range.start) { Ok(out) } else { Err(missing(range.start)) }
}

pub(super) fn tile(connection: &Connection, level: u8, index: u64) -> Result<Option<Vec<Hash>>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT hashes FROM tile WHERE level = ?1 AND n = ?2").map_err(unavailable)?;
    let hashes: Option<Vec<u8>> =
        statement.query_row(params![level, signed(index)], |row| row.get(0)).optional().map_err(unavailable)?;
    Ok(hashes.map(|bytes| bytes.chunks_exact(32).filter_map(Hash::from_slice).collect()))
}

/// State rows that the index which SQLite keeps beside them does not lead to: there are none, unless somebody edited the file.
pub(super) const STRAY_STATE: &str = "SELECT count(*) FROM state AS t NOT INDEXED WHERE NOT EXISTS \
    (SELECT 1 FROM state AS i WHERE i.kind = t.kind AND i.id = t.id AND +i.rowid = t.rowid)";

pub(super) fn state(connection: &Connection, kind: &str) -> Result<Vec<StateRow>, StoreError> {
    let mut statement = connection
        // From the rows themselves: their index holds kind and id once more, and could say something else.
        .prepare_cached("SELECT kind, id, body, tag FROM state NOT INDEXED WHERE kind = ?1 ORDER BY id")
        .map_err(unavailable)?;
    let rows = statement.query_map([kind], |row| {
        Ok(StateRow { kind: row.get(0)?, id: row.get(1)?, body: row.get(2)?, tag: row.get(3)? })
    });
    rows.map_err(unavailable)?.collect::<Result<_, _>>().map_err(unavailable)
}

pub(super) fn usage(connection: &Connection, segment: Option<u64>) -> Result<Vec<Usage>, StoreError> {
    let sql = "SELECT segment, version, bucket, entries FROM usage WHERE segment = coalesce(?1, segment) \
               ORDER BY segment, version, bucket";
    let mut statement = connection.prepare_cached(sql).map_err(unavailable)?;
    let rows = statement.query_map([segment.map(signed)], |row| {
        let segment = u64::try_from(row.get::<_, i64>(0)?).unwrap_or(u64::MAX);
        Ok(Usage { segment, version: row.get(1)?, bucket: row.get(2)?, entries: row.get(3)? })
    });
    rows.map_err(unavailable)?.collect::<Result<_, _>>().map_err(unavailable)
}

pub(super) fn quick_check(connection: &Connection) -> Result<Option<String>, StoreError> {
    let answer: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(unavailable)?;
    Ok((answer != "ok").then_some(answer))
}

fn missing(sequence: u64) -> StoreError {
    StoreError::Corrupt(format!("entry {sequence} is not there"))
}

fn decode(row: &rusqlite::Row<'_>) -> Result<Row, StoreError> {
    let unsigned = |column: usize| {
        let number: i64 = row.get(column).map_err(unavailable)?;
        u64::try_from(number).map_err(|_| StoreError::Corrupt("a position is negative".into()))
    };
    let array = |column: usize| {
        let bytes =
            row.get_ref(column).map_err(unavailable)?.as_blob().ok().and_then(|it| <[u8; 32]>::try_from(it).ok());
        bytes.ok_or_else(|| StoreError::Corrupt("a hash has not 32 bytes".into()))
    };
    Ok(Row {
        sequence: unsigned(0)?,
        meta: row.get(1).map_err(unavailable)?,
        received_at: row.get(2).map_err(unavailable)?,
        patient_previous: unsigned(3)?,
        patient_number: unsigned(4)?,
        commitment: array(5)?,
        leaf: Hash(array(6)?),
        sealed: row.get(7).map_err(unavailable)?,
    })
}
