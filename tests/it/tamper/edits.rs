//! What somebody who owns the files of a vault can do to them with ordinary tools.

use std::fs;
use std::path::Path;

use phivault::domain::meta::Meta;
use phivault::ledger::leaf::{Sequenced, entry_leaf};
use rusqlite::types::Value;
use rusqlite::{Connection, params};
use tempfile::TempDir;

use crate::check::entries;

/// A copy of a stopped vault. It keeps its settings and unlocks with its own key file.
pub fn copy(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_into(dir, copy.path());
    copy
}

/// See [`copy`]; into an empty folder.
pub fn copy_into(from: &Path, to: &Path) {
    copy_files(from, to);
    let settings = to.join("phivault.toml");
    let text = fs::read_to_string(&settings).unwrap();
    let (old, new) = (from.canonicalize().unwrap(), to.canonicalize().unwrap());
    fs::write(settings, text.replace(&old.display().to_string(), &new.display().to_string())).unwrap();
}

/// Puts the data folder of one vault in place of another's.
pub fn put_data(from: &Path, to: &Path) {
    put("data", from, to);
}

/// Puts a folder of one vault in place of another's.
pub fn put(folder: &str, from: &Path, to: &Path) {
    fs::remove_dir_all(to.join(folder)).unwrap();
    fs::create_dir(to.join(folder)).unwrap();
    copy_files(&from.join(folder), &to.join(folder));
}

fn copy_files(from: &Path, to: &Path) {
    for item in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_files(&item.path(), &target);
        } else {
            fs::copy(item.path(), target).unwrap();
        }
    }
}

/// The database of a vault, as any SQLite tool opens it.
pub fn database(dir: &Path) -> Connection {
    Connection::open(dir.join("data/vault.db")).unwrap()
}

/// Folds the write-ahead log into the database, so that the one file is all of it.
pub fn settle(dir: &Path) {
    let db = database(dir);
    let busy: i64 = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
    assert_eq!(busy, 0, "somebody else has the database open");
    db.close().unwrap();
    assert!(!dir.join("data/vault.db-wal").exists(), "the log is folded in");
}

/// Changes the database with its triggers out of the way, and puts them back letter by letter.
pub fn edit(dir: &Path, change: impl FnOnce(&Connection)) {
    let db = database(dir);
    let mut triggers = db.prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").unwrap();
    let rows = triggers.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).unwrap();
    let rows: Vec<_> = rows.map(Result::unwrap).collect();
    drop(triggers);
    assert_eq!(rows.len(), 2, "the triggers that guard entries");
    rows.iter().for_each(|(name, _)| db.execute_batch(&format!("DROP TRIGGER {name}")).unwrap());
    change(&db);
    rows.iter().for_each(|(_, sql)| db.execute_batch(sql).unwrap());
    drop(db);
    settle(dir);
}

/// One cell, named by its table, column and a condition that one row meets.
pub struct Cell {
    pub table: &'static str,
    pub column: &'static str,
    pub row: String,
}

/// A cell of an entry.
pub fn cell(column: &'static str, sequence: i64) -> Cell {
    Cell { table: "entry", column, row: format!("sequence = {sequence}") }
}

impl Cell {
    pub fn read(&self, db: &Connection) -> Value {
        let Self { table, column, row } = self;
        db.query_row(&format!("SELECT {column} FROM {table} WHERE {row}"), [], |row| row.get(0)).unwrap()
    }

    pub fn write(&self, db: &Connection, value: &Value) {
        let Self { table, column, row } = self;
        let changed = db.execute(&format!("UPDATE {table} SET {column} = ?1 WHERE {row}"), [value]).unwrap();
        assert_eq!(changed, 1, "{table}.{column} where {row}");
    }

    /// Turns over the lowest bit of a byte of a blob or text (counted from the end), or of a number.
    pub fn flip(&self, db: &Connection, from_end: usize) {
        let turn = |mut bytes: Vec<u8>| {
            let at = bytes.len() - 1 - from_end;
            bytes[at] ^= 1;
            bytes
        };
        let value = match self.read(db) {
            Value::Integer(number) => Value::Integer(number ^ 1),
            Value::Blob(bytes) => Value::Blob(turn(bytes)),
            Value::Text(text) => Value::Text(String::from_utf8(turn(text.into_bytes())).unwrap()),
            other => panic!("{other:?} has no bit to flip"),
        };
        self.write(db, &value);
    }

    /// Takes over the value of another cell, which must differ.
    pub fn take(&self, db: &Connection, other: &Self) {
        let (mine, value) = (self.read(db), other.read(db));
        assert_ne!(mine, value, "{}.{}: the other value is another", self.table, self.column);
        self.write(db, &value);
    }

    /// Swaps the values of two cells, which must differ.
    pub fn swap(&self, db: &Connection, other: &Self) {
        let mine = self.read(db);
        self.take(db, other);
        other.write(db, &mine);
    }
}

/// A row of `entry`, believed in nothing.
#[derive(Clone)]
pub struct Raw {
    pub sequence: i64,
    pub meta: Vec<u8>,
    pub received_at: i64,
    pub patient_previous: i64,
    pub patient_number: i64,
    pub commitment: [u8; 32],
    pub leaf: [u8; 32],
    pub sealed: Vec<u8>,
}

impl Raw {
    pub fn read(db: &Connection, sequence: i64) -> Self {
        let sql = "SELECT * FROM entry WHERE sequence = ?1";
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Self {
                sequence: row.get(0)?,
                meta: row.get(1)?,
                received_at: row.get(2)?,
                patient_previous: row.get(3)?,
                patient_number: row.get(4)?,
                commitment: row.get(5)?,
                leaf: row.get(6)?,
                sealed: row.get(7)?,
            })
        };
        db.query_row(sql, [sequence], read).unwrap()
    }

    pub fn insert(&self, db: &Connection) {
        self.run(db, "INSERT INTO entry VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)");
    }

    pub fn update(&self, db: &Connection) {
        self.run(db, "REPLACE INTO entry VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)");
    }

    /// The leaf that the row should have, by the published rule; no key is needed for it.
    pub fn with_leaf(mut self) -> Self {
        let unsigned = |number: i64| u64::try_from(number).unwrap();
        let sequenced = Sequenced {
            received_at: self.received_at,
            patient_previous: unsigned(self.patient_previous),
            patient_number: unsigned(self.patient_number),
        };
        self.leaf = entry_leaf(&self.meta, &self.commitment, sequenced).0;
        self
    }

    /// Puts the blame on somebody else; the metadata still reads.
    pub fn with_other_actor(mut self) -> Self {
        let at = self.meta.windows(8).position(|it| it == b"dr_smith").expect("dr_smith did it");
        self.meta[at..at + 8].copy_from_slice(b"dr_jones");
        assert!(Meta::decode(&self.meta).is_ok(), "the metadata still reads");
        self
    }

    /// Appends a copy that keeps every rule which needs no key: position, time, the patient's chain, leaf.
    pub fn append_as_next_of_its_patient(mut self, db: &Connection) {
        let newest = "SELECT max(sequence) + 1, max(received_at) FROM entry";
        let (sequence, time) = db.query_row(newest, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        self.patient_previous = self.sequence;
        self.patient_number += 1;
        (self.sequence, self.received_at) = (sequence, time);
        self.with_leaf().insert(db);
    }

    fn run(&self, db: &Connection, sql: &str) {
        let Self { sequence, meta, received_at, patient_previous, patient_number, commitment, leaf, sealed } = self;
        let values = params![sequence, meta, received_at, patient_previous, patient_number, commitment, leaf, sealed];
        assert_eq!(db.execute(sql, values).unwrap(), 1);
    }
}

/// The position of an entry that an application submitted, counted from the newest (0).
pub fn submitted(dir: &Path, back: usize) -> i64 {
    let entries = entries(dir);
    let submitted = entries.iter().enumerate().rev().filter(|(_, it)| it.meta.source != "phivault");
    submitted.map(|(n, _)| i64::try_from(n).unwrap()).nth(back).unwrap()
}
