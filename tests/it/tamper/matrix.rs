//! The whole tamper matrix: every column of every table, and every file, against each way of changing it. What is found by whom is
//! written down in docs/tamper-matrix.md, and this test keeps that page true: `PHIVAULT_TEST_WRITE=1` writes it anew.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use phivault::keyfile::{KeyPaths, LockFile, read_signing_key};
use phivault::ledger::checkpoint::Checkpoint;
use phivault::ledger::tree::Edge;
use rusqlite::Connection;
use rusqlite::types::Value;

use super::edits::{Cell, Raw, copy, database, edit, put_data, settle, submitted};
use super::index::more_than_a_segment;
use super::lived_in;
use crate::app::{entry, program};
use crate::check::entries;
use crate::damage::refusal::serve;

/// What is done to one cell or row.
const EDITS: [&str; 7] = [
    "a bit",
    "another row's value",
    "two values swapped",
    "row deleted",
    "row copied",
    "two rows swapped",
    "last row cut",
];

/// A table, the rows that are changed, and what tells rows apart.
struct Table {
    name: &'static str,
    columns: Vec<String>,
    /// Conditions that meet one row each.
    one: String,
    other: String,
    /// One column, or several with spaces between.
    key: &'static str,
}

impl Table {
    fn of(db: &Connection, name: &'static str, key: &'static str, one: String, other: String) -> Self {
        let mut statement = db.prepare(&format!("SELECT name FROM pragma_table_info('{name}')")).unwrap();
        let columns = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        Self { name, columns, one, other, key }
    }

    /// Makes one change; `false` if there is nothing to change that way.
    fn change(&self, db: &Connection, column: &str, how: &str) -> bool {
        let (name, one, other) = (self.name, &self.one, &self.other);
        let first = self.key.split(' ').next().unwrap();
        db.execute_batch("PRAGMA ignore_check_constraints = ON").unwrap();
        let cell = |row: &String| Cell {
            table: name,
            column: Box::leak(column.to_owned().into_boxed_str()),
            row: row.clone(),
        };
        let (mine, others) = (cell(one), cell(other));
        let same = mine.read(db) == others.read(db);
        let run = |sql: &str| db.execute_batch(sql).is_ok();
        match how {
            "a bit" => {
                match mine.read(db) {
                    // The lowest bit of a position would only meet its neighbour.
                    Value::Integer(number) if self.is_key(column) => mine.write(db, &Value::Integer(number ^ 1 << 20)),
                    _ => mine.flip(db, 0),
                }
                true
            }
            "another row's value" if same || self.is_key(column) => false,
            "another row's value" => {
                mine.take(db, &others);
                true
            }
            "two values swapped" if same || self.is_key(column) => false,
            "two values swapped" => {
                mine.swap(db, &others);
                true
            }
            "two rows swapped" if one == other => false,
            "row deleted" => run(&format!("DELETE FROM {name} WHERE {one}")),
            "row copied" => {
                let values: Vec<String> = self
                    .columns
                    .iter()
                    .map(|it| if it == first { Self::fresh(first, name) } else { it.clone() })
                    .collect();
                run(&format!("INSERT INTO {name} SELECT {} FROM {name} WHERE {one}", values.join(", ")))
            }
            "two rows swapped" => {
                for it in self.columns.iter().filter(|it| !self.is_key(it)) {
                    let cell = |row: &String| Cell {
                        table: name,
                        column: Box::leak(it.clone().into_boxed_str()),
                        row: row.clone(),
                    };
                    let (a, b) = (cell(one), cell(other));
                    let (mine, theirs) = (a.read(db), b.read(db));
                    if mine != theirs {
                        a.write(db, &theirs);
                        b.write(db, &mine);
                    }
                }
                true
            }
            "last row cut" => run(&format!("DELETE FROM {name} WHERE rowid = (SELECT max(rowid) FROM {name})")),
            other => panic!("{other} is no edit"),
        }
    }

    fn is_key(&self, column: &str) -> bool {
        self.key.split(' ').any(|it| it == column)
    }

    fn fresh(key: &str, table: &str) -> String {
        match (key, table) {
            ("id", _) => "'tok-copied'".to_owned(),
            _ => format!("(SELECT max({key}) + 1 FROM {table})"),
        }
    }

    /// Every cell of the matrix of this table: where, how.
    fn cells(&self) -> Vec<(String, &'static str)> {
        let columns = self.columns.iter().flat_map(|column| EDITS[..3].iter().map(|how| (column.clone(), *how)));
        // A row is changed as a whole; any column stands for it.
        columns.chain(EDITS[3..].iter().map(|how| (self.columns[0].clone(), *how))).collect()
    }
}

/// The codes that verify finds, or the exit code if it could not tell.
fn found(dir: &Path, since: Option<&Path>) -> String {
    let mut command = program();
    command.args(["verify", "--json", "--dir"]).arg(dir);
    if let Some(path) = since {
        command.arg("--since").arg(path);
    }
    let output = command.output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    match report["verdict"].as_str().unwrap() {
        "intact" => "not found".into(),
        "unsure" => "could not tell".into(),
        _ => {
            let mut codes: Vec<_> =
                report["findings"].as_array().unwrap().iter().map(|it| it["code"].as_str().unwrap()).collect();
            codes.sort_unstable();
            codes.dedup();
            codes.join(", ")
        }
    }
}

/// All cells of some tables, each on a copy of its own, two at a time.
fn judge(original: &Path, tables: &[Table]) -> BTreeMap<(String, String), String> {
    let cells: Vec<_> = tables
        .iter()
        .flat_map(|table| table.cells().into_iter().map(move |(column, how)| (table, column, how)))
        .collect();
    let (next, all) = (Mutex::new(cells.into_iter()), Mutex::new(BTreeMap::new()));
    let work = || {
        loop {
            let Some((table, column, how)) = next.lock().unwrap().next() else { break };
            let vault = copy(original);
            let mut changed = false;
            edit(vault.path(), |db| changed = table.change(db, &column, how));
            let row = how.contains("row ") || how.contains("rows");
            let what =
                if row && !how.contains("value") { table.name.to_owned() } else { format!("{}.{column}", table.name) };
            let result = if changed { found(vault.path(), None) } else { "no such change".to_owned() };
            all.lock().unwrap().insert((what, how.to_owned()), result);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    all.into_inner().unwrap()
}

/// Files, and several of them together: what is done; found by verify alone, with an older checkpoint kept elsewhere, by the start.
async fn files() -> Vec<[String; 4]> {
    let mut app = lived_in().await;
    let outside = tempfile::tempdir().unwrap();
    let past = copy(app.dir());
    app.start();
    app.submitter().submit(&entry()).await;
    let rotate = app.admin().post("/v1/keys/rotate", &serde_json::json!({"reason": {"code": "HSYSADMIN"}})).await;
    assert_eq!(rotate.status, 200);
    app.stop();
    settle(app.dir());
    let since = outside.path().join("since");
    std::fs::copy(app.dir().join("keys/checkpoint.lock"), &since).unwrap();
    let mut lines = Vec::new();
    let mut line = |what: &str, how: &dyn Fn(&Path)| {
        let vault = copy(app.dir());
        how(vault.path());
        let (alone, held) = (found(vault.path(), None), found(vault.path(), Some(&since)));
        let start = match serve(vault.path(), &[]) {
            Ok(server) => {
                server.stop();
                "starts"
            }
            Err(_) => "refuses",
        };
        lines.push([what.to_owned(), alone, held, start.to_owned()]);
    };
    let from_past = |name: &'static str| {
        move |dir: &Path, past: &Path| {
            std::fs::copy(past.join(name), dir.join(name)).unwrap();
        }
    };
    let flip = |name: &'static str| {
        move |dir: &Path| {
            let mut bytes = std::fs::read(dir.join(name)).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(dir.join(name), bytes).unwrap();
        }
    };
    line("nothing", &|_| {});
    line("database put back to a copy", &|dir| put_data(past.path(), dir));
    line("database and lock put back together", &|dir| {
        put_data(past.path(), dir);
        from_past("keys/checkpoint.lock")(dir, past.path());
    });
    line("database, lock and keyring put back together", &|dir| {
        put_data(past.path(), dir);
        for name in ["keys/checkpoint.lock", "keys/keyring"] {
            from_past(name)(dir, past.path());
        }
    });
    line("keyring put back to a copy", &|dir| from_past("keys/keyring")(dir, past.path()));
    line("lock put back to a copy", &|dir| from_past("keys/checkpoint.lock")(dir, past.path()));
    line("keyring: a bit", &flip("keys/keyring"));
    line("lock: a bit", &flip("keys/checkpoint.lock"));
    line("signing key: a bit", &flip("keys/signing.key"));
    line("public key: a bit", &flip("keys/signing.vkey"));
    line("write-ahead log: rubbish in its place", &|dir| {
        std::fs::write(dir.join("data/vault.db-wal"), [7; 9_000]).unwrap()
    });
    line("a trigger edited in the schema text", &|dir| {
        database(dir)
            .execute_batch(
                "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'never deleted', 'deleted')",
            )
            .unwrap();
    });
    let blame = |dir: &Path| {
        let n = submitted(dir, 0);
        edit(dir, |db| Raw::read(db, n).with_other_actor().with_leaf().update(db));
    };
    line("an entry changed and every hash recomputed, without the signing key", &blame);
    line("the same, with the signing key: the lock is signed anew", &|dir| {
        blame(dir);
        let paths = KeyPaths::in_folder(&dir.join("keys"));
        let signer = read_signing_key(&paths.signing_key).unwrap();
        let mut edge = Edge::new();
        entries(dir).iter().for_each(|it| drop(edge.append(phivault::ledger::hash::Hash(it.leaf))));
        let origin = signer.verifier_key().name().to_owned();
        let head = Checkpoint { origin, size: edge.size(), root: edge.root(), extensions: Vec::new() };
        std::fs::remove_file(&paths.lock).unwrap();
        LockFile::create(&paths.lock, &head.sign(&signer).unwrap()).unwrap();
    });
    lines
}

/// How the page says it.
fn page(cells: &BTreeMap<(String, String), String>, files: &[[String; 4]]) -> String {
    let mut text = String::from(
        "# What is found when somebody changes the files\n\n\
         This page is written by a test (`tests/it/tamper/matrix.rs`), which changes every column of every table and every file, and\n\
         fails when what is found is not what stands here. Somebody with the disk can edit anything with ordinary SQLite tools and\n\
         knows all of phivault's code; what they lack is the signing key, or what stands elsewhere.\n\n\
         ## Columns and rows, found by `phivault verify` from the files alone, without keys\n\n",
    );
    text.push_str("| what | how | found as |\n|---|---|---|\n");
    for ((what, how), found) in cells.iter().filter(|(_, found)| *found != "no such change") {
        text.push_str(&format!("| `{what}` | {how} | {found} |\n"));
    }
    text.push_str(
        "\n## Files\n\n\"Held against\" is `phivault verify --since` with a checkpoint that somebody else kept: a witness, an anchor, \
         an auditor, or a receipt's.\n\n| what | verify alone | held against a later checkpoint | next start |\n|---|---|---|---|\n",
    );
    for [what, alone, held, start] in files {
        text.push_str(&format!("| {what} | {alone} | {held} | {start} |\n"));
    }
    text.push_str(
        "\n## What nobody can find\n\n\
         - That an application never told the vault of something, or lied.\n\
         - That database, lock and keyring were put back together, or the ledger was written anew with the signing key, if no \
         checkpoint or receipt from after that moment is kept anywhere else. Witnesses keep one each second.\n\
         - That the newest entries, which no checkpoint covers yet (those of the last second before a crash), were cut off. Their \
         submitters hold receipts without a proof; a retry with the same id shows it.\n\
         - A changed ciphertext of an entry since the newest seal entry (up to 4,096 entries of a running vault; after a stop only the \
         seal entry itself, which holds no values), without keys. The next start and the scrubber open them and tell.\n",
    );
    text
}

#[tokio::test]
async fn the_matrix_in_the_docs_is_what_is_found_cell_by_cell() {
    let mut app = lived_in().await;
    let small = app.dir();
    let (n, m) = (submitted(small, 0), submitted(small, 1));
    let db = database(small);
    let tokens: Vec<String> = {
        let mut statement = db.prepare("SELECT id FROM state ORDER BY id").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let token = |n: usize| format!("kind = 'token' AND id = '{}'", tokens[n]);
    let tables = [
        Table::of(&db, "entry", "sequence", format!("sequence = {n}"), format!("sequence = {m}")),
        Table::of(&db, "state", "id", token(0), token(1)),
    ];
    drop(db);
    settle(small);
    let mut cells = judge(small, &tables);
    app.start();
    app.finish();
    // It blocks, which a test's runtime does not like.
    let large = std::thread::spawn(more_than_a_segment).join().unwrap();
    let db = database(large.path());
    let keys: Vec<i64> = {
        let mut statement = db.prepare("SELECT key FROM posting ORDER BY key").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let (first, second) = (keys[0], keys[1]);
    let tables = [
        Table::of(&db, "tile", "n", "n = 0 AND level = 1".into(), "n = 0 AND level = 1".into()),
        Table::of(&db, "posting", "key", format!("key = {first}"), format!("key = {second}")),
        Table::of(&db, "segment", "n", "n = 0".into(), "n = 0".into()),
        Table::of(
            &db,
            "usage",
            "segment version bucket",
            "segment = 0 AND bucket = 1".into(),
            "segment = 0 AND bucket = 2".into(),
        ),
    ];
    let named: Vec<String> = {
        let mut statement = db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    drop(db);
    settle(large.path());
    cells.extend(judge(large.path(), &tables));
    for table in named {
        assert!(
            cells.keys().any(|(what, _)| what.starts_with(&table)),
            "the matrix has no cells for the table {table}"
        );
    }
    let files = files().await;
    let text = page(&cells, &files);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tamper-matrix.md");
    if std::env::var("PHIVAULT_TEST_WRITE").is_ok_and(|it| it == "1") {
        std::fs::write(&path, &text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == written, "docs/tamper-matrix.md is not what is found; PHIVAULT_TEST_WRITE=1 writes:\n{text}");
    // Everything that changes a row, an index or the schema is found by the files alone; the exceptions are spelt out.
    let missed: Vec<_> =
        cells.iter().filter(|(_, found)| *found == "not found").map(|(cell, _)| cell.clone()).collect();
    let lost_index =
        [("segment".to_owned(), "row deleted".to_owned()), ("segment".to_owned(), "last row cut".to_owned())];
    assert_eq!(
        missed,
        {
            let mut it = lost_index.to_vec();
            it.sort();
            it
        },
        "a lost index row is made again by the next start"
    );
}
