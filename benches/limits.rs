//! The limits beside us: what the disk and the processor take for the same bytes, with nothing else.

use std::path::Path;
use std::time::{Duration, Instant};

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use phivault::store::sqlite::SqliteStore;
use phivault::store::{Row, Store};
use rusqlite::{Connection, params};
use sha2::{Digest as _, Sha256};

/// Entries a second.
pub(crate) struct Limits {
    /// The same stored bytes into one bare table: same batch, same pragmas.
    pub(crate) raw: f64,
    /// A scan of that table.
    pub(crate) scan: f64,
    /// SHA-256 of the same bytes, one core.
    pub(crate) sha256: f64,
    /// AES-256-GCM of the same sealed bytes, one core.
    pub(crate) aes: f64,
}

/// Measures them over the entries of a stopped vault.
pub(crate) fn limits(dir: &Path, batch: usize) -> Limits {
    let store = SqliteStore::open(&dir.join("data/vault.db")).expect("the vault's database opens");
    let size = store.size();
    let mut raw = Connection::open(dir.join("raw.db")).expect("a database can be made");
    raw.execute_batch("PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 6000;
        CREATE TABLE entry (sequence INTEGER PRIMARY KEY, meta BLOB, received_at INTEGER, previous INTEGER, number INTEGER, commitment BLOB, leaf BLOB, sealed BLOB) STRICT")
        .expect("the table can be made");
    let cipher = Aes256Gcm::new(&Key::<Aes256Gcm>::from([7; 32]));
    let (mut writing, mut hashing, mut sealing) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for from in (0..size).step_by(batch) {
        let to = size.min(from + batch as u64);
        let rows = store.rows(&(from..to).collect::<Vec<_>>()).expect("rows can be read");
        let began = Instant::now();
        insert(&mut raw, &rows);
        writing += began.elapsed();
        let began = Instant::now();
        for row in &rows {
            std::hint::black_box(Sha256::new().chain_update(&row.meta).chain_update(&row.sealed).finalize());
        }
        hashing += began.elapsed();
        let began = Instant::now();
        for row in &rows {
            let nonce = Nonce::from([9; 12]);
            let sealed = cipher.encrypt(&nonce, Payload { msg: &row.sealed, aad: &row.meta });
            std::hint::black_box(sealed.expect("it is short"));
        }
        sealing += began.elapsed();
    }
    let began = Instant::now();
    let mut statement = raw.prepare("SELECT * FROM entry ORDER BY sequence").expect("the statement is right");
    let mut rows = statement.query([]).expect("it runs");
    let mut bytes = 0;
    while let Some(row) = rows.next().expect("a row reads") {
        for column in [1, 7] {
            bytes += row.get_ref(column).and_then(|it| Ok(it.as_blob()?.len())).expect("a blob reads");
        }
    }
    assert!(bytes > 0 || size == 0, "all rows were read");
    let each = |took: Duration| size as f64 / took.as_secs_f64();
    Limits { raw: each(writing), scan: each(began.elapsed()), sha256: each(hashing), aes: each(sealing) }
}

fn insert(raw: &mut Connection, rows: &[Row]) {
    let transaction = raw.transaction().expect("a transaction begins");
    for row in rows {
        let mut insert = transaction
            .prepare_cached("INSERT INTO entry VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")
            .expect("the statement is right");
        let values = params![
            row.sequence as i64,
            row.meta,
            row.received_at,
            row.patient_previous as i64,
            row.patient_number as i64,
            row.commitment,
            row.leaf.as_bytes(),
            row.sealed
        ];
        insert.execute(values).expect("a row goes in");
    }
    transaction.commit().expect("the commit holds");
}
