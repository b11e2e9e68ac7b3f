//! Rows of state (tokens) and the schema, changed by somebody without keys.

use std::path::Path;

use phivault::domain::caller::Role;
use rusqlite::params;
use serde_json::{Value, json};

use crate::app::{App, entry, verify};

use super::edits::{Cell, copy, database, edit, settle};
use super::{At, case, expect_findings, lived_in, sql};

const NEWEST_GONE: &str = "DELETE FROM state WHERE rowid = (SELECT max(rowid) FROM state)";
const CUT_TAGS: &str = "PRAGMA ignore_check_constraints = ON; UPDATE state SET tag = x'00'";
const A_TRIGGER: &str = "CREATE TRIGGER more AFTER INSERT ON state BEGIN DELETE FROM state; END";

#[tokio::test]
async fn a_change_to_the_tokens_or_to_the_schema_is_found() {
    let mut app = lived_in().await;
    let ids: Vec<String> = {
        let db = database(app.dir());
        let mut statement = db.prepare("SELECT id FROM state WHERE kind = 'token' ORDER BY id").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    settle(app.dir());
    let (a, b) = (ids[0].clone(), ids[1].clone());
    let row = |column: &'static str, id: &str| Cell {
        table: "state",
        column,
        row: format!("kind = 'token' AND id = '{id}'"),
    };
    let cells = move |column| (row(column, &a), row(column, &b));
    let (a, b) = (ids[0].as_str(), ids[1].as_str());
    let at = || At::Place(a.to_owned());
    let mut cases = Vec::new();
    for (name, codes) in [
        ("kind", &["state_missing"][..]),
        ("id", &["state_missing", "state_not_authentic"]),
        ("body", &["state_not_authentic"]),
        ("tag", &["state_not_authentic"]),
    ] {
        let cells = cells.clone();
        cases.push(case(format!("state.{name}: a bit"), codes, at(), move |db| cells(name).0.flip(db, 0)));
    }
    let bodies = cells.clone();
    cases.push(case("state.body: another's", &["state_not_authentic"], at(), move |db| {
        let (one, other) = bodies("body");
        one.take(db, &other);
    }));
    cases.push(case("state.body: swapped", &["state_not_authentic"], at(), move |db| {
        let (one, other) = cells("body");
        one.swap(db, &other);
    }));
    let swapped = format!(
        "UPDATE state SET id = 'x' WHERE id = '{a}'; UPDATE state SET id = '{a}' WHERE id = '{b}'; \
         UPDATE state SET id = '{b}' WHERE id = 'x'"
    );
    let planted = |as_what: &str| format!("INSERT INTO state SELECT {as_what}, body, tag FROM state WHERE id = '{a}'");
    cases.extend([
        sql("a token deleted", &["state_missing"], at(), format!("DELETE FROM state WHERE id = '{a}'")),
        sql("the newest token deleted", &["state_missing"], At::Anywhere, NEWEST_GONE),
        sql("ids swapped", &["state_not_authentic"], at(), swapped),
        sql(
            "a token planted",
            &["state_not_authentic"],
            At::Place("tok-planted".into()),
            planted("kind, 'tok-planted'"),
        ),
        sql("a row of another kind planted", &[], At::Anywhere, planted("'role', id")),
        sql("tag: cut, its check off", &["state_not_authentic"], At::Anywhere, CUT_TAGS),
        sql("a table added", &["schema_altered"], At::Anywhere, "CREATE TABLE more (a)"),
        sql("an index added", &["schema_altered"], At::Anywhere, "CREATE INDEX more ON entry (received_at)"),
        sql("a trigger added", &["schema_altered"], At::Anywhere, A_TRIGGER),
        sql("a table renamed", &["schema_altered"], At::Anywhere, "ALTER TABLE posting RENAME TO postings"),
    ]);
    expect_findings(app.dir(), &cases);
    app.start();
    app.finish();
}

#[tokio::test]
async fn a_revoked_token_put_back_to_what_it_was_is_found_and_stays_refused() {
    let mut app = App::spawn().await;
    let token = app.make_token(Role::Officer, "leaver").await;
    let id: String = {
        let tokens = app.admin().get("/v1/tokens").await.json();
        let of = |it: &&Value| it["label"] == "leaver";
        tokens["tokens"].as_array().unwrap().iter().find(of).unwrap()["id"].as_str().unwrap().to_owned()
    };
    app.stop();
    let read = |dir: &Path| -> (Vec<u8>, Vec<u8>) {
        let row = "SELECT body, tag FROM state WHERE id = ?1";
        database(dir).query_row(row, [&id], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    };
    let write = |dir: &Path, (body, tag): &(Vec<u8>, Vec<u8>)| {
        edit(dir, |db| {
            let changed = db.execute("UPDATE state SET body = ?1, tag = ?2 WHERE id = ?3", params![body, tag, id]);
            assert_eq!(changed.unwrap(), 1);
        });
    };
    let valid = read(app.dir());
    app.start();
    assert_eq!(app.with_token(&token).get("/v1/entries").await.status, 200);
    assert_eq!(app.admin().delete(&format!("/v1/tokens/{id}?reason=HSYSADMIN")).await.status, 204);
    app.stop();
    let revoked = read(app.dir());
    write(app.dir(), &valid);
    let (code, report) = verify(app.dir());
    assert_eq!((code, &report["findings"][0]["code"]), (1, &json!("state_not_authentic")), "{report:#}");
    app.start();
    assert_eq!(app.with_token(&token).get("/v1/entries").await.status, 401);
    assert_eq!(app.auditor().get("/readyz").await.json()["status"], "degraded");
    app.stop();
    write(app.dir(), &revoked);
    app.start();
    app.finish();
}

#[tokio::test]
async fn a_changed_tag_of_a_token_is_found_and_the_token_refused() {
    let mut app = App::spawn().await;
    app.stop();
    let id: String = database(app.dir())
        .query_row("SELECT id FROM state WHERE instr(body, 'submitter-app') > 0", [], |row| row.get(0))
        .unwrap();
    let tag = Cell { table: "state", column: "tag", row: format!("id = '{id}'") };
    let other =
        Cell { table: "state", column: "tag", row: format!("id = (SELECT min(id) FROM state WHERE id != '{id}')") };
    settle(app.dir());
    let vault = copy(app.dir());
    edit(vault.path(), |db| tag.take(db, &other));
    edit(app.dir(), |db| tag.flip(db, 0));
    for dir in [app.dir(), vault.path()] {
        let (code, report) = verify(dir);
        assert_eq!((code, &report["findings"][0]["code"]), (1, &json!("state_not_authentic")), "{report:#}");
    }
    app.start();
    assert_eq!(app.submitter().post("/v1/entries", &entry()).await.status, 401);
    let ready = app.auditor().get("/readyz").await.json();
    assert_eq!(ready["status"], "degraded");
    assert!(ready["problems"][0].as_str().unwrap().contains("not authentic"), "{ready}");
    assert!(app.log().contains("not authentic") && app.log().contains(&id), "{}", app.log());
    app.stop();
    edit(app.dir(), |db| tag.flip(db, 0));
    app.start();
    app.submitter().submit(&entry()).await;
    app.finish();
}
