//! Reading rows, leaves, tiles and state.

use std::ops::Range;

use rusqlite::{Connection, OptionalExtension, params};

use crate::ledger::hash::Hash;

use super::super::{Row, StateRow, StoreError};
use super::{signed, unavailable};

const COLUMNS: &str = "sequence, meta, received_at, patient_previous, patient_number, commitment, leaf, sealed";
/// Rows of one statement of a scan. Short statements let the writer's checkpoints pass.
pub(super) const SCAN_ROWS: u64 = 2_048;

pub(super) fn size(connection: &Connection) -> Result<u64, StoreError> {
    count(connection, "SELECT coalesce(max(sequence) + 1, 0) FROM entry")
}

pub(super) fn count(connection: &Connection, sql: &str) -> Result<u64, StoreError> {
    let number: i64 = connection.query_row(sql, [], |row| row.get(0)).map_err(unavailable)?;
    u64::try_from(number).map_err(|_| StoreError::Corrupt("a count is negative".into()))
}

pub(super) fn rows(connection: &Connection, sequences: &[u64]) -> Result<Vec<Row>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM entry WHERE sequence = ?1");
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
    let (mut gap, mut stopped) = (None, false);
    scan_raw(connection, range, &mut |row| {
        if row.sequence != expected {
            gap = Some(expected);
            return false;
        }
        expected += 1;
        stopped = !each(row);
        !stopped
    })?;
    match gap.or((!stopped && expected < end).then_some(expected)) {
        Some(sequence) => Err(missing(sequence)),
        None => Ok(()),
    }
}

/// Whatever rows there are in a range, by rising position.
pub(super) fn scan_raw(
    connection: &Connection,
    range: Range<u64>,
    each: &mut dyn FnMut(Row) -> bool,
) -> Result<(), StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM entry WHERE sequence >= ?1 AND sequence < ?2 ORDER BY sequence");
    let mut statement = connection.prepare_cached(&sql).map_err(unavailable)?;
    let mut from = range.start;
    while from < range.end {
        let to = range.end.min(from + SCAN_ROWS);
        let mut rows = statement.query(params![signed(from), signed(to)]).map_err(unavailable)?;
        while let Some(row) = rows.next().map_err(unavailable)? {
            if !each(decode(row)?) {
                return Ok(());
            }
        }
        from = to;
    }
    Ok(())
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

pub(super) fn state(connection: &Connection, kind: &str) -> Result<Vec<StateRow>, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT kind, id, body, tag FROM state WHERE kind = ?1 ORDER BY id")
        .map_err(unavailable)?;
    let rows = statement.query_map([kind], |row| {
        Ok(StateRow { kind: row.get(0)?, id: row.get(1)?, body: row.get(2)?, tag: row.get(3)? })
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
