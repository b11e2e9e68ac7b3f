//! Tampering as somebody would who owns the database file and knows our code, but has no keys: `phivault verify` names it.
//!
//! Each case works on a copy of a stopped vault. Triggers are dropped and put back, so the schema looks untouched.

use std::path::Path;

use phivault::domain::meta::Meta;
use phivault::ledger::leaf::{Sequenced, entry_leaf};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::app::{App, entry, verify};

/// A case: what is done, the finding that must come, and the entry it must name.
type Case<'a> = (&'a str, Box<dyn Fn(&Connection) + 'a>, &'a str, Option<u64>);

/// Opens a database the way its owner can.
fn alter(dir: &Path, change: impl FnOnce(&Connection)) {
    let database = Connection::open(dir.join("data/vault.db")).unwrap();
    let mut statement = database.prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").unwrap();
    let triggers: Vec<(String, String)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
    triggers.iter().for_each(|(name, _)| database.execute_batch(&format!("DROP TRIGGER {name}")).unwrap());
    change(&database);
    triggers.iter().for_each(|(_, sql)| database.execute_batch(sql).unwrap());
}

fn copy(from: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for part in ["data", "keys"] {
        std::fs::create_dir(folder.path().join(part)).unwrap();
        for file in std::fs::read_dir(from.join(part)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), folder.path().join(part).join(file.file_name())).unwrap();
        }
    }
    folder
}

fn sql(statement: &'static str) -> Box<dyn Fn(&Connection)> {
    Box::new(move |database| assert!(database.execute(statement, []).unwrap() > 0, "{statement}"))
}

/// Runs cases against copies of a vault.
fn check(dir: &Path, cases: Vec<Case<'_>>) {
    for (what, change, code, sequence) in cases {
        let copy = copy(dir);
        alter(copy.path(), |database| change(database));
        let (exit, report) = verify(copy.path());
        let findings = report["findings"].as_array().cloned().unwrap_or_default();
        assert_eq!(exit, 1, "{what}: {report:#}");
        let named = |it: &Value| it["code"] == code && sequence.is_none_or(|n| it["sequence"] == json!(n));
        assert!(findings.iter().any(named), "{what}: expected {code} at {sequence:?}, got {report:#}");
    }
}

async fn small_vault() -> App {
    let mut app = App::spawn().await;
    for n in 0..30 {
        let mut sent = entry();
        sent["patient"]["id"] = json!(format!("MRN-{}", n % 3));
        app.submitter().submit(&sent).await;
    }
    app.stop();
    app
}

#[tokio::test]
async fn every_altered_column_and_row_is_found_and_named() {
    let app = small_vault().await;
    let (code, report) = app.verify();
    assert_eq!(code, 0, "{report:#}");
    let at = 20;
    let cases: Vec<Case<'_>> = vec![
        ("a bit of the metadata", flip("meta", at), "altered", Some(at)),
        (
            "metadata of another row",
            sql("UPDATE entry SET meta = (SELECT meta FROM entry WHERE sequence = 21) WHERE sequence = 20"),
            "altered",
            Some(at),
        ),
        (
            "metadata that is no metadata",
            sql("UPDATE entry SET meta = x'ff00' WHERE sequence = 20"),
            "altered",
            Some(at),
        ),
        (
            "the time of receipt",
            sql("UPDATE entry SET received_at = received_at + 1 WHERE sequence = 20"),
            "altered",
            Some(at),
        ),
        ("a time that falls", sql("UPDATE entry SET received_at = 5 WHERE sequence = 20"), "time_falls", Some(at)),
        (
            "the patient's previous entry",
            sql("UPDATE entry SET patient_previous = 3 WHERE sequence = 20"),
            "patient_chain",
            Some(at),
        ),
        (
            "the patient's number",
            sql("UPDATE entry SET patient_number = patient_number + 1 WHERE sequence = 20"),
            "patient_chain",
            Some(at),
        ),
        ("the commitment", flip("commitment", at), "altered", Some(at)),
        ("the leaf", flip("leaf", at), "altered", Some(at)),
        ("the sealed values", flip("sealed", at), "ciphertext_altered", None),
        (
            "sealed values of another row",
            sql("UPDATE entry SET sealed = (SELECT sealed FROM entry WHERE sequence = 21) WHERE sequence = 20"),
            "ciphertext_altered",
            None,
        ),
        (
            "sealed values of no known form",
            sql("UPDATE entry SET sealed = x'00' WHERE sequence = 20"),
            "sealed_malformed",
            Some(at),
        ),
        ("a row removed", sql("DELETE FROM entry WHERE sequence = 20"), "missing", Some(at)),
        (
            "rows renumbered over a removed one",
            Box::new(|database| {
                database.execute_batch("DELETE FROM entry WHERE sequence = 20; UPDATE entry SET sequence = sequence - 1 WHERE sequence > 20").unwrap()
            }),
            "behind_lock",
            None,
        ),
        (
            "two rows swapped",
            Box::new(|database| {
                database.execute_batch("UPDATE entry SET sequence = -1 WHERE sequence = 20; UPDATE entry SET sequence = 20 WHERE sequence = 21; UPDATE entry SET sequence = 21 WHERE sequence = -1").unwrap()
            }),
            "checkpoint_differs",
            None,
        ),
        (
            "the last row removed",
            sql("DELETE FROM entry WHERE sequence = (SELECT max(sequence) FROM entry)"),
            "behind_lock",
            None,
        ),
        (
            "the last ten removed",
            sql("DELETE FROM entry WHERE sequence > (SELECT max(sequence) - 10 FROM entry)"),
            "behind_lock",
            None,
        ),
        ("the first row removed", sql("DELETE FROM entry WHERE sequence = 0"), "missing", Some(0)),
        ("everything removed", sql("DELETE FROM entry"), "behind_lock", None),
        ("an edit by somebody who knows our code", Box::new(recomputed), "checkpoint_differs", None),
        (
            "a row of an unfinished index",
            sql("INSERT INTO segment VALUES (0, x'', x'000000000000000800000000000000000000000000000000')"),
            "index_differs",
            None,
        ),
        ("a tile too many", sql("INSERT INTO tile VALUES (1, 0, zeroblob(8192))"), "tile_count", None),
        ("a token's row", flip_state(), "state_not_authentic", None),
        (
            "a token's id",
            sql("UPDATE state SET id = 'tok-0000000000000000' WHERE id = (SELECT min(id) FROM state)"),
            "state_not_authentic",
            None,
        ),
        ("a token removed", sql("DELETE FROM state WHERE id = (SELECT min(id) FROM state)"), "state_missing", None),
        (
            "a token planted",
            sql("INSERT INTO state SELECT kind, 'tok-ffffffffffffffff', body, tag FROM state LIMIT 1"),
            "state_not_authentic",
            None,
        ),
    ];
    check(app.dir(), cases);
    app.finish();
}

/// One bit of a column.
fn flip(column: &'static str, sequence: u64) -> Box<dyn Fn(&Connection)> {
    Box::new(move |database| {
        let read = format!("SELECT {column} FROM entry WHERE sequence = {sequence}");
        let mut bytes: Vec<u8> = database.query_row(&read, [], |row| row.get(0)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        database.execute(&format!("UPDATE entry SET {column} = ?1 WHERE sequence = {sequence}"), [bytes]).unwrap();
    })
}

fn flip_state() -> Box<dyn Fn(&Connection)> {
    Box::new(|database| {
        let (id, mut body): (String, Vec<u8>) = database
            .query_row("SELECT id, body FROM state ORDER BY id LIMIT 1", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        *body.last_mut().unwrap() ^= 1;
        database.execute("UPDATE state SET body = ?1 WHERE id = ?2", rusqlite::params![body, id]).unwrap();
    })
}

/// Changes who did it, and recomputes the leaf.
fn recomputed(database: &Connection) {
    let query = "SELECT meta, received_at, patient_previous, patient_number, commitment FROM entry WHERE sequence = 20";
    let (meta, received_at, previous, number, commitment): (Vec<u8>, i64, i64, i64, [u8; 32]) = database
        .query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
        .unwrap();
    let mut meta = Meta::decode(&meta).unwrap();
    meta.actor.id = "somebody_else".into();
    let meta = meta.encode();
    let sequenced = Sequenced { received_at, patient_previous: previous as u64, patient_number: number as u64 };
    let leaf = entry_leaf(&meta, &commitment, sequenced);
    database
        .execute("UPDATE entry SET meta = ?1, leaf = ?2 WHERE sequence = 20", rusqlite::params![meta, leaf.as_bytes()])
        .unwrap();
}

#[tokio::test]
async fn an_altered_schema_or_file_is_found() {
    let app = small_vault().await;
    for change in [
        "DROP TRIGGER entry_stays",
        "CREATE TABLE other (x)",
        "DROP TRIGGER entry_appends_only; CREATE TRIGGER entry_appends_only AFTER INSERT ON entry BEGIN SELECT 1; END",
    ] {
        let copy = copy(app.dir());
        Connection::open(copy.path().join("data/vault.db")).unwrap().execute_batch(change).unwrap();
        let (exit, report) = verify(copy.path());
        assert_eq!((exit, &report["findings"][0]["code"]), (1, &json!("schema_altered")), "{change}: {report:#}");
    }
    app.finish();
}

#[tokio::test]
async fn a_rolled_back_database_is_found_by_its_lock_and_both_together_are_said_to_be_beyond_this_check() {
    let mut app = small_vault().await;
    let old = copy(app.dir());
    app.start();
    app.submitter().submit(&entry()).await;
    app.stop();
    let rolled_back = copy(app.dir());
    std::fs::remove_dir_all(rolled_back.path().join("data")).unwrap();
    std::fs::rename(copy(old.path()).path().join("data"), rolled_back.path().join("data")).unwrap();
    let (exit, report) = verify(rolled_back.path());
    assert_eq!(exit, 1);
    assert!(report["findings"].as_array().unwrap().iter().any(|it| it["code"] == "behind_lock"), "{report:#}");
    // Nothing inside the vault can tell this; the note must say so.
    let (exit, report) = verify(old.path());
    assert_eq!(exit, 0);
    assert!(report["notes"][0].as_str().unwrap().contains("rolled back together is not excluded"), "{report:#}");
    app.finish();
}

#[tokio::test]
async fn ciphertext_that_no_seal_entry_covers_yet_is_counted_not_hidden_and_never_revealed() {
    let mut app = App::spawn().await;
    let receipt = app.submitter().submit(&entry()).await;
    let proof = app.auditor().get(&format!("/v1/entries/{}/proof", receipt["id"].as_str().unwrap())).await;
    assert_eq!(proof.status, 200, "{proof:?}");
    app.kill();
    let sequence = receipt["sequence"].as_u64().unwrap();
    alter(app.dir(), |database| flip("sealed", sequence)(database));
    let (exit, report) = app.verify();
    assert_eq!(exit, 0, "{report:#}");
    assert!(report["notes"].to_string().contains("not covered by a seal entry yet"), "{report:#}");
    app.start();
    let path = format!("/v1/entries/{}/reveal", receipt["id"].as_str().unwrap());
    let answer = app.officer().post(&path, &json!({"reason": {"code": "HCOMPL"}})).await;
    assert_eq!((answer.status, answer.code().as_str()), (500, "integrity"));
    assert!(!answer.text.contains("Hypertension"));
}

#[tokio::test]
async fn altered_tiles_and_indexes_of_a_full_segment_are_found() {
    let mut app = App::spawn().await;
    let line = |n: usize| {
        let mut sent = entry();
        sent["patient"]["id"] = json!(format!("MRN-{}", n % 500));
        sent["actor"]["id"] = json!(format!("user-{}", n % 50));
        sent.to_string()
    };
    for part in 0..7 {
        let body = (part * 9_500..(part + 1) * 9_500).map(line).collect::<Vec<_>>().join("\n");
        let answer = app.submitter().post_text("/v1/entries/batch", "application/x-ndjson", body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    app.stop();
    // A restart finishes whatever of the index was not written yet.
    app.start();
    app.stop();
    let (code, report) = app.verify();
    assert_eq!(code, 0, "{report:#}");
    let cases: Vec<Case<'_>> = vec![
        (
            "a tile's hash",
            sql("UPDATE tile SET hashes = CAST(zeroblob(32) || substr(hashes, 33) AS BLOB) WHERE n = 0"),
            "tile_differs",
            Some(0),
        ),
        ("a tile removed", sql("DELETE FROM tile"), "tile_missing", None),
        ("a row of the middle with its leaf recomputed", Box::new(recomputed), "tile_differs", Some(0)),
        (
            "a chunk of the index emptied",
            sql("UPDATE posting SET chunk = x'' WHERE key = (SELECT max(key) FROM posting)"),
            "index_differs",
            None,
        ),
        (
            "a chunk of the index cut",
            sql("UPDATE posting SET chunk = substr(chunk, 1, 11) WHERE key = (SELECT min(key) FROM posting)"),
            "index_differs",
            None,
        ),
        (
            "two chunks swapped",
            Box::new(|database| {
                database.execute_batch("UPDATE posting SET key = -1 WHERE key = (SELECT min(key) FROM posting); UPDATE posting SET key = (SELECT min(key) - 1 FROM posting WHERE key > 0) WHERE key = (SELECT min(key) FROM posting WHERE key > 0)").unwrap()
            }),
            "index_differs",
            None,
        ),
        (
            "a chunk removed",
            sql("DELETE FROM posting WHERE key = (SELECT max(key) FROM posting)"),
            "index_differs",
            None,
        ),
        ("the fences of the index", sql("UPDATE segment SET fences = zeroblob(9)"), "index_differs", None),
    ];
    check(app.dir(), cases);
    app.finish();
}
