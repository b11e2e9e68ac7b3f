//! Reading what is stored with distrust, for the verifier: anything that a look-up would stumble over is said.

use rusqlite::{Connection, params};

use crate::domain::activity::Activity;
use crate::domain::index::{Dimension, Term};

use super::super::{SEGMENT, StoreError};
use super::chunk;
use super::closed::{HEADS, MOMENTS, chunk_key, load_closed, read_chunk};
use super::filter::{Filter, ID_BITS, PATIENT_BITS};
use super::{read, signed, unavailable};

/// The dimensions that have a filter, in its order.
const FILTERED: [Dimension; 2] = [Dimension::Id, Dimension::Patient];

/// Calls `each` with everything in the stored index of a closed segment; `false` if there is none. Order, fences, filters and the
/// number of chunks must be exactly what closing a segment writes.
pub(super) fn segment(connection: &Connection, n: u64, each: &mut dyn FnMut(u8, u64, u16)) -> Result<bool, StoreError> {
    let Some((closed, filters)) = load_closed(connection, n)? else { return Ok(false) };
    let wrong = |what: &str| StoreError::Corrupt(format!("the index of segment {n} has {what}"));
    let (mut chunks, mut filtered) = (0, [Vec::new(), Vec::new()]);
    for (dimension, fences) in &closed.fences {
        if [HEADS, MOMENTS].contains(dimension) {
            if !fences.iter().copied().eq(0..fences.len() as u64) {
                return Err(wrong("pieces of activity that are not in order"));
            }
            chunks += i64::try_from(fences.len()).expect("a segment has few chunks");
            continue;
        }
        let filter = FILTERED.iter().position(|it| *it as u8 == *dimension);
        let (mut last, mut sorted) = (None, true);
        for (number, fence) in fences.iter().enumerate() {
            let bytes = read_chunk(connection, chunk_key(n, *dimension, number))?;
            let mut first = true;
            chunk::groups(&bytes, &mut |key, positions| {
                sorted &= !std::mem::take(&mut first) || key == *fence;
                for position in positions {
                    sorted &= last.is_none_or(|last| last < (key, position));
                    if let (Some(filter), true) = (filter, last.is_none_or(|(last, _)| last != key)) {
                        filtered[filter].push(Term { dimension: FILTERED[filter], key });
                    }
                    last = Some((key, position));
                    each(*dimension, key, position);
                }
            })?;
            chunks += 1;
        }
        if !sorted {
            return Err(wrong("chunks out of order or not at their fences"));
        }
    }
    let keys = params![chunk_key(n, 0, 0), chunk_key(n + 1, 0, 0)];
    let sql = "SELECT count(*) FROM posting WHERE key >= ?1 AND key < ?2";
    let found: i64 = connection.query_row(sql, keys, |row| row.get(0)).map_err(unavailable)?;
    if found != chunks {
        return Err(wrong("chunks that no fence names"));
    }
    let stored = [(ID_BITS, &filters.ids), (PATIENT_BITS, &filters.patients)];
    for (terms, (bits, filter)) in filtered.iter().zip(stored) {
        if Filter::new(bits, terms.iter()).bytes() != filter.bytes() {
            return Err(wrong("a filter that hides or invents terms"));
        }
    }
    Ok(true)
}

/// The stored activity of a closed segment, if its index is complete.
pub(super) fn activity(connection: &Connection, n: u64) -> Result<Option<Activity>, StoreError> {
    let Some((closed, _)) = load_closed(connection, n)? else { return Ok(None) };
    closed.activity(connection, n, true).map(Some)
}

/// What lies outside where anything may lie: rows before the beginning, and index rows of segments that are not full.
pub(super) fn strays(connection: &Connection, size: u64) -> Result<Vec<&'static str>, StoreError> {
    let full = size / SEGMENT;
    let mut out = Vec::new();
    for (what, sql, bound) in [
        ("entries before the first", "SELECT count(*) FROM entry WHERE sequence < ?1", 0),
        (
            "an index row of a segment that is not full",
            "SELECT count(*) FROM segment WHERE n < 0 OR n >= ?1",
            signed(full),
        ),
        (
            "index chunks of a segment that is not full",
            "SELECT count(*) FROM posting WHERE key < 0 OR key >= ?1",
            chunk_key(full, 0, 0),
        ),
        (
            "counts of keys in a segment that is not there",
            "SELECT count(*) FROM usage WHERE segment < 0 OR segment >= ?1",
            signed(size.div_ceil(SEGMENT)),
        ),
        (
            "a state row of an unknown kind or with a tag of the wrong length",
            "SELECT count(*) FROM state NOT INDEXED WHERE kind NOT IN ('token', 'approval', 'hold', 'restore', 'report', 'login') OR length(tag) <> 32 OR ?1 < 0",
            0,
        ),
    ] {
        let count: i64 = connection.query_row(sql, [bound], |row| row.get(0)).map_err(unavailable)?;
        if count > 0 {
            out.push(what);
        }
    }
    // SQLite keeps the key of these tables a second time, in an index of its own, and answers from either.
    for (what, sql) in [
        ("a state row that its index does not lead to", read::STRAY_STATE),
        (
            "a tile that its index does not lead to",
            "SELECT count(*) FROM tile AS t NOT INDEXED WHERE NOT EXISTS \
             (SELECT 1 FROM tile AS i WHERE i.level = t.level AND i.n = t.n AND +i.rowid = t.rowid)",
        ),
    ] {
        if read::count(connection, sql)? > 0 {
            out.push(what);
        }
    }
    if read::count(
        connection,
        "SELECT count(*) FROM tile NOT INDEXED WHERE length(hashes) <> 8192 OR level < 1 OR n < 0",
    )? > 0
    {
        out.push("a tile of the wrong size or place");
    }
    Ok(out)
}
