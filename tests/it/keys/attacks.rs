//! What somebody with the disk, or one administrator alone, tries against disposal, holds and re-encryption.

use phivault::crypto::token::PlainToken;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{TEN_YEARS, Two, reason, reencrypt, reveal, until_moved};
use crate::app::{App, entry, verify};

fn database(app: &App) -> Connection {
    Connection::open(app.dir().join("data/vault.db")).unwrap()
}

fn sealed(app: &App, receipt: &Value) -> Vec<u8> {
    let sql = "SELECT sealed FROM entry WHERE sequence = ?1";
    database(app).query_row(sql, [receipt["sequence"].as_i64()], |row| row.get(0)).unwrap()
}

fn put(app: &App, receipt: &Value, sealed: &[u8]) {
    let sql = "UPDATE entry SET sealed = ?2 WHERE sequence = ?1";
    let changed = database(app).execute(sql, rusqlite::params![receipt["sequence"].as_i64(), sealed]).unwrap();
    assert_eq!(changed, 1);
}

fn codes(app: &App) -> Vec<String> {
    let (_, report) = verify(app.dir());
    let code = |it: &Value| it["code"].as_str().unwrap().to_owned();
    report["findings"].as_array().unwrap().iter().map(code).collect()
}

#[tokio::test]
async fn an_altered_record_is_never_vouched_for_again_by_what_replaces_others() {
    let mut two = Two::spawn().await;
    two.app.stop();
    two.app.set("PHIVAULT_EVIDENCE__SCRUB_PER_SECOND", "0");
    two.app.start();
    let (mine, other) = (two.app.submitter().submit(&entry()).await, two.app.submitter().submit(&entry()).await);
    two.rotate().await;
    two.app.stop();
    let whole = sealed(&two.app, &mine);
    let mut altered = whole.clone();
    *altered.last_mut().unwrap() ^= 1;
    put(&two.app, &mine, &altered);
    assert_eq!(codes(&two.app), ["ciphertext_altered"]);
    two.app.start();
    let id = two.ask(&json!({"operation": "redact", "entry": other["id"], "authority": "order"})).await;
    let refused = two.approve(&id).await;
    assert_eq!((refused.status, refused.code().as_str()), (500, "integrity"));
    let moved = reencrypt(&two.app).await;
    assert!(!moved["problem"].is_null(), "{moved:#}");
    two.app.stop();
    assert_eq!(codes(&two.app), ["ciphertext_altered"], "it shows for ever");
    // A marker that says the values were erased, with a certificate made up.
    let marker = [&[0_u8, 0, 0, 0, 2][..], &[7; 16]].concat();
    put(&two.app, &mine, &marker);
    let found = codes(&two.app);
    assert!(
        found.contains(&"ciphertext_altered".into()) && found.contains(&"erased_without_right".into()),
        "{found:?}"
    );
    put(&two.app, &mine, &whole);
    two.app.start();
    assert_eq!(two.approve(&id).await.status, 200);
    assert_eq!(reveal(&two.app, &mine).await.status, 200);
    two.app.finish();
}

#[tokio::test]
async fn whoever_puts_erased_values_back_is_found() {
    let mut two = Two::spawn().await;
    let mine = two.app.submitter().submit(&entry()).await;
    two.app.stop();
    let before = sealed(&two.app, &mine);
    two.app.start();
    two.both(&json!({"operation": "redact", "entry": mine["id"], "authority": "order"})).await;
    two.app.stop();
    let marker = sealed(&two.app, &mine);
    put(&two.app, &mine, &before);
    let found = codes(&two.app);
    assert!(found.contains(&"erasure_undone".into()) && found.contains(&"ciphertext_altered".into()), "{found:?}");
    two.app.start();
    two.rotate().await;
    let moved = reencrypt(&two.app).await;
    assert!(!moved["problem"].is_null(), "it is not vouched for again: {moved:#}");
    two.app.stop();
    put(&two.app, &mine, &marker);
    two.app.start();
    two.app.finish();
}

#[tokio::test]
async fn an_entry_planted_as_erased_is_refused_by_the_start() {
    let mut two = Two::spawn().await;
    two.app.submitter().submit(&entry()).await;
    two.app.stop();
    let whole = crate::tamper::edits::copy(two.app.dir());
    let stored = crate::check::entries(two.app.dir());
    let model = stored.iter().find(|it| it.meta.actor.id == "dr_smith").unwrap();
    let mut meta = model.meta.clone();
    meta.id = uuid::Uuid::now_v7();
    let (bytes, last) = (meta.encode(), stored.last().unwrap());
    let sequenced = phivault::ledger::leaf::Sequenced {
        received_at: last.received_at,
        patient_previous: model.previous,
        patient_number: model.number + 1,
    };
    let leaf = phivault::ledger::leaf::entry_leaf(&bytes, &[7; 32], sequenced);
    let marker = [&[0_u8, 0, 0, 0, 1][..], &[7; 16]].concat();
    let sql = "INSERT INTO entry VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let values = rusqlite::params![
        stored.len() as i64,
        bytes,
        last.received_at,
        model.previous as i64,
        model.number as i64 + 1,
        [7_u8; 32],
        leaf.as_bytes(),
        marker
    ];
    database(&two.app).execute(sql, values).unwrap();
    let refused = two.app.try_start().unwrap_err();
    assert!(refused.contains("was not written by this vault"), "{refused}");
    crate::tamper::edits::put_data(whole.path(), two.app.dir());
    two.app.start();
    two.app.finish();
}

#[tokio::test]
async fn whoever_removes_a_hold_from_the_database_stops_all_disposal_instead() {
    let mut two = Two::spawn().await;
    let mine = two.app.submitter().submit(&entry()).await;
    let body =
        json!({"name": "case", "authority": "court", "scope": {"patient": "MRN-12345"}, "reason": {"code": "HLEGAL"}});
    let placed = two.app.officer().post("/v1/holds", &body).await.json();
    assert_eq!(placed["covered_when_placed"], json!(1), "{placed:#}");
    let nobody =
        json!({"name": "typo", "authority": "court", "scope": {"patient": "MRN-1234S"}, "reason": {"code": "HLEGAL"}});
    assert_eq!(two.app.officer().post("/v1/holds", &nobody).await.json()["covered_when_placed"], json!(0));
    two.app.stop();
    let whole = crate::tamper::edits::copy(two.app.dir());
    database(&two.app).execute("DELETE FROM state WHERE kind = 'hold'", []).unwrap();
    two.app.set("PHIVAULT_TEST_DAYS_AHEAD", &TEN_YEARS.to_string());
    two.app.start();
    let redact = json!({"operation": "redact", "entry": mine["id"], "authority": "order"});
    assert_eq!(two.refused(&redact).await, "holds_untrusted");
    assert_eq!(two.refused(&json!({"operation": "dispose", "bucket": 2})).await, "holds_untrusted");
    assert_eq!(two.app.officer().get("/v1/retention/plan").await.code(), "holds_untrusted");
    let ready = two.app.auditor().get("/readyz").await.json();
    assert_eq!(ready["status"], "degraded", "{ready:#}");
    two.app.kill();
    crate::tamper::edits::put_data(whole.path(), two.app.dir());
    std::fs::copy(whole.path().join("keys/checkpoint.lock"), two.app.dir().join("keys/checkpoint.lock")).unwrap();
    std::fs::copy(whole.path().join("keys/keyring"), two.app.dir().join("keys/keyring")).unwrap();
    two.app.start();
    assert_eq!(two.refused(&redact).await, "held");
    two.app.finish();
}

#[tokio::test]
async fn one_administrator_does_not_become_two_by_asking_at_once() {
    let app = App::spawn().await;
    let ask = |n: usize| {
        let hash = hex::encode(PlainToken::generate().hashed().0);
        let body = json!({"role": "admin", "label": format!("me-{n}"), "token_hash": hash});
        let admin = app.admin();
        async move { admin.post("/v1/tokens", &body).await.status }
    };
    let mut tasks = tokio::task::JoinSet::new();
    (0..24).for_each(|n| drop(tasks.spawn(ask(n))));
    let all = tasks.join_all().await;
    assert_eq!(all.iter().filter(|it| **it == 201).count(), 1, "{all:?}");
    app.finish();
}

#[tokio::test]
async fn one_administrator_who_asks_and_cancels_does_not_use_up_what_others_may_ask() {
    let two = Two::spawn().await;
    let label =
        |n: usize| json!({"operation": "admin_token", "label": format!("a-{n}"), "token_hash": "ab".repeat(32)});
    for n in 0..100 {
        let id = two.ask(&label(n)).await;
        let path = format!("/v1/approvals/{id}/cancel");
        assert_eq!(two.app.admin().post(&path, &json!({"reason": reason()})).await.status, 200);
    }
    assert_eq!(two.refused(&label(100)).await, "too_many_today");
    let body = json!({"request": label(101), "reason": reason()});
    assert_eq!(two.second().post("/v1/admin/operations", &body).await.status, 202, "the other one goes on");
    two.app.finish();
}

#[tokio::test]
async fn what_somebody_asked_for_who_is_no_administrator_any_more_is_not_done() {
    let two = Two::spawn().await;
    two.rotate().await;
    reencrypt(&two.app).await;
    let body = json!({"request": {"operation": "key_destroy", "version": 1}, "reason": reason()});
    let asked = two.second().post("/v1/admin/operations", &body).await.json();
    let tokens = two.app.admin().get("/v1/tokens").await.json();
    let all = tokens["tokens"].as_array().unwrap();
    let id = all.iter().find(|it| it["label"] == "second-admin").unwrap()["id"].as_str().unwrap();
    assert_eq!(two.app.admin().delete(&format!("/v1/tokens/{id}")).await.status, 204);
    let path = format!("/v1/approvals/{}/approve", asked["id"].as_str().unwrap());
    assert_eq!(two.app.admin().post(&path, &json!({"reason": reason()})).await.code(), "requester_gone");
    // Alone, nothing can be asked for either.
    assert_eq!(two.refused(&json!({"operation": "key_destroy", "version": 1})).await, "no_second_admin");
    two.app.finish();
}

#[tokio::test]
async fn a_vault_whose_records_are_being_replaced_verifies_all_the_while() {
    let mut two = Two::spawn().await;
    let lines: String = (0..9_000).map(|_| format!("{}\n", entry())).collect();
    two.app.submitter().post_text("/v1/entries/batch", "application/x-ndjson", lines).await;
    two.app.stop();
    two.app.set("PHIVAULT_TEST_DAYS_AHEAD", &TEN_YEARS.to_string());
    two.app.start();
    let young: String = (0..5_000).map(|_| format!("{}\n", entry())).collect();
    two.app.submitter().post_text("/v1/entries/batch", "application/x-ndjson", young).await;
    two.rotate().await;
    let dispose = two.ask(&json!({"operation": "dispose", "bucket": 2})).await;
    let body = json!({"per_second": 0, "reason": reason()});
    assert_eq!(two.app.admin().post("/v1/keys/re-encrypt", &body).await.status, 202);
    let dir = two.app.dir().to_owned();
    let verifying = std::thread::spawn(move || (0..6).map(|_| verify(&dir)).collect::<Vec<_>>());
    // The disposal comes in between; the re-encryption waits for it and goes on, and nothing is called damaged.
    let done = two.approve(&dispose).await;
    assert_eq!((done.status, &done.json()["entries"]), (200, &json!(9_000)), "{done:?}");
    let moved = until_moved(&two.app).await;
    assert!(moved["damaged"] == json!(0) && moved["problem"].is_null(), "{moved:#}");
    for (code, report) in verifying.join().unwrap() {
        assert_eq!(code, 0, "{report:#}");
    }
    two.app.finish();
}
