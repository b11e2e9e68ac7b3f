//! Keys for ten years: re-encryption, destruction, slots, two people, holds, disposal and redaction, on real servers.

use std::time::{Duration, Instant};

use phivault::crypto::token::PlainToken;
use phivault::domain::caller::Role;
use phivault::keyfile::read_verifier_key;
use phivault::ledger::note::Note;
use serde_json::{Value, json};

use crate::app::{Answer, App, Client, Options, entry, program, text, verify};

mod attacks;
mod breach;
mod crash;
mod index;
mod life;
mod retention;
mod rituals;
mod slots;
mod state;

/// Days until values received now under the shipped ten years are due.
pub const TEN_YEARS: i64 = 11 * 366;

pub fn reason() -> Value {
    json!({"code": "HSYSADMIN"})
}

/// A vault with two administrators.
pub struct Two {
    pub app: App,
    second: String,
}

impl Two {
    pub async fn spawn() -> Self {
        let blind = std::env::var("PHIVAULT_TEST_BLIND").is_ok_and(|it| it == "1");
        // Keys rotate when a test says so, however many years it lets pass.
        let env = vec![("PHIVAULT_KEYS__ROTATE_DAYS".to_owned(), "0".to_owned())];
        let app = App::spawn_with(Options { blind, env }).await;
        let second = app.make_token(Role::Admin, "second-admin").await;
        Self { app, second }
    }

    pub fn second(&self) -> Client {
        self.app.with_token(&self.second)
    }

    /// Asks as the first administrator; it must wait.
    pub async fn ask(&self, request: &Value) -> String {
        let body = json!({"request": request, "reason": reason()});
        let answer = self.app.admin().post("/v1/admin/operations", &body).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    pub async fn approve(&self, id: &str) -> Answer {
        self.second().post(&format!("/v1/approvals/{id}/approve"), &json!({"reason": reason()})).await
    }

    /// Asks as the one, approves as the other.
    pub async fn both(&self, request: &Value) -> Value {
        let id = self.ask(request).await;
        let answer = self.approve(&id).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// What asking is refused with.
    pub async fn refused(&self, request: &Value) -> String {
        let body = json!({"request": request, "reason": reason()});
        let answer = self.app.admin().post("/v1/admin/operations", &body).await;
        assert_eq!(answer.status, 422, "{answer:?}");
        answer.code()
    }

    pub async fn rotate(&self) {
        let answer = self.app.admin().post("/v1/keys/rotate", &json!({"reason": reason()})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// Begins a re-encryption and waits for its end.
pub async fn reencrypt(app: &App) -> Value {
    let answer = app.admin().post("/v1/keys/re-encrypt", &json!({"per_second": 0, "reason": reason()})).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    until_moved(app).await
}

pub async fn until_moved(app: &App) -> Value {
    let began = Instant::now();
    loop {
        let answer = app.admin().get("/v1/keys/re-encrypt").await.json();
        if answer["running"] == json!(false) {
            return answer;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "it never ends: {answer:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Reveals an entry.
pub async fn reveal(app: &App, receipt: &Value) -> Answer {
    let path = format!("/v1/entries/{}/reveal", receipt["id"].as_str().unwrap());
    app.officer().post(&path, &json!({"reason": {"code": "HCOMPL"}})).await
}

pub async fn proof(app: &App, receipt: &Value) -> String {
    let path = format!("/v1/entries/{}/proof?format=text", receipt["id"].as_str().unwrap());
    let answer = app.submitter().get(&path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.text
}

/// `phivault verify-receipt` holds.
pub fn holds(app: &App, receipt: &Value, proof: &str) {
    let path = app.dir().join("a-receipt");
    std::fs::write(&path, proof).unwrap();
    let mut command = program();
    command.args(["verify-receipt", "--leaf", receipt["leaf_hash"].as_str().unwrap(), "--vkey"]);
    let output = command.arg(app.dir().join("keys/signing.vkey")).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

#[tokio::test]
async fn values_move_to_the_newest_key_and_no_leaf_or_proof_changes_when_the_old_one_is_destroyed() {
    let mut two = Two::spawn().await;
    let mut receipts = Vec::new();
    for n in 0..30 {
        let mut it = entry();
        it["changes"][0]["new"] = json!(format!("value {n}"));
        receipts.push(two.app.submitter().submit(&it).await);
        if n % 10 == 9 {
            two.rotate().await;
        }
    }
    let given = proof(&two.app, &receipts[0]).await;
    assert_eq!(two.refused(&json!({"operation": "key_destroy", "version": 1})).await, "version_in_use");
    assert_eq!(two.refused(&json!({"operation": "key_destroy", "version": 4})).await, "version_active");
    assert_eq!(two.refused(&json!({"operation": "key_destroy", "version": 9})).await, "unknown_version");
    let moved = reencrypt(&two.app).await;
    assert_eq!((&moved["version"], &moved["damaged"], moved["problem"].is_null()), (&json!(4), &json!(0), true));
    assert!(moved["done"].as_u64().unwrap() >= 30 && moved["done"] == moved["total"], "{moved:#}");
    let keys = two.app.auditor().get("/v1/keys").await.json();
    for version in &keys["versions"].as_array().unwrap()[..3] {
        assert_eq!(version["entries"], json!(0), "{keys:#}");
    }
    for version in 1..=3 {
        let done = two.both(&json!({"operation": "key_destroy", "version": version})).await;
        assert_eq!(done["destroyed_version"], json!(version), "{done:#}");
    }
    assert_eq!(two.refused(&json!({"operation": "key_destroy", "version": 2})).await, "version_destroyed");
    for restart in [false, true] {
        if restart {
            two.app.stop();
            two.app.start();
        }
        for (n, receipt) in receipts.iter().enumerate() {
            let shown = reveal(&two.app, receipt).await.json();
            assert_eq!(shown["changes"][0]["new"], json!(format!("value {n}")));
            assert_eq!((&shown["key_version"], &shown["leaf_hash"]), (&json!(4), &receipt["leaf_hash"]));
        }
    }
    holds(&two.app, &receipts[0], &given);
    let again = reencrypt(&two.app).await;
    assert_eq!((&again["done"], &again["total"]), (&json!(0), &json!(0)), "nothing is left to move");
    two.app.finish();
}

#[tokio::test]
async fn a_re_encryption_keeps_its_pace_ends_with_the_server_and_goes_on_where_it_was() {
    let mut two = Two::spawn().await;
    let first = two.app.submitter().submit(&entry()).await;
    let lines: String = (0..9_000).map(|_| format!("{}\n", entry())).collect();
    let sent = two.app.submitter().post_text("/v1/entries/batch", "application/x-ndjson", lines).await;
    assert_eq!(sent.status, 200, "{}", &sent.text[..200]);
    two.rotate().await;
    let body = json!({"per_second": 4_000, "reason": reason()});
    assert_eq!(two.app.admin().post("/v1/keys/re-encrypt", &body).await.status, 202);
    let second = two.app.admin().post("/v1/keys/re-encrypt", &body).await;
    assert_eq!((second.status, second.code().as_str()), (422, "already_running"));
    loop {
        let far = two.app.admin().get("/v1/keys/re-encrypt").await.json();
        assert!(far["running"] == json!(true), "it was to take two seconds: {far:#}");
        if far["done"].as_u64().unwrap() > 4_000 {
            break;
        }
    }
    two.app.stop();
    assert_eq!(verify(two.app.dir()).0, 0, "what was moved is moved, the rest is not");
    two.app.start();
    let moved = reencrypt(&two.app).await;
    let (done, total) = (moved["done"].as_u64().unwrap(), moved["total"].as_u64().unwrap());
    assert!(done == total && done > 0 && done < 6_000, "{moved:#}");
    assert_eq!(reveal(&two.app, &first).await.json()["key_version"], json!(2));
    two.app.finish();
}

#[tokio::test]
async fn a_key_past_its_cryptoperiod_is_replaced_by_itself() {
    let mut app = App::spawn().await;
    app.stop();
    app.set("PHIVAULT_TEST_DAYS_AHEAD", "89");
    app.start();
    app.stop();
    app.set("PHIVAULT_TEST_DAYS_AHEAD", "91");
    app.start();
    let began = Instant::now();
    let keys = loop {
        let keys = app.auditor().get("/v1/keys").await.json();
        if keys["active"] != json!(1) {
            break keys;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "it was due for a day: {keys:#}");
    };
    assert_eq!((&keys["active"], &keys["versions"][0]["state"]), (&json!(2), &json!("retired")), "{keys:#}");
    let found = app.auditor().get("/v1/entries?action=key_rotate").await.json();
    assert_eq!(found["entries"][0]["actor"]["id"], "phivault", "{found:#}");
    app.finish();
}

#[tokio::test]
async fn what_cannot_be_undone_takes_two_and_both_are_recorded() {
    let mut two = Two::spawn().await;
    two.rotate().await;
    reencrypt(&two.app).await;
    let destroy = json!({"operation": "key_destroy", "version": 1});
    let id = two.ask(&destroy).await;
    let own = two.app.admin().post(&format!("/v1/approvals/{id}/approve"), &json!({"reason": reason()})).await;
    assert_eq!((own.status, own.code().as_str()), (422, "own_request"));
    let without = two.second().post(&format!("/v1/approvals/{id}/approve"), &json!({})).await;
    assert_eq!(without.status, 422, "it needs a reason");
    two.app.stop();
    two.app.start();
    // It waits across a restart.
    let done = two.approve(&id).await;
    assert_eq!(done.status, 200, "{done:?}");
    assert_eq!(two.approve(&id).await.code(), "decided");
    let recorded = done.json()["recorded_as"].as_str().unwrap().to_owned();
    let shown = two.app.auditor().get(&format!("/v1/entries/{recorded}")).await.json();
    assert_eq!(
        (&shown["actor"]["id"], &shown["facts"]["requested_by"], &shown["facts"]["approval"]),
        (&json!("second-admin"), &json!("admin"), &json!(id)),
        "{shown:#}"
    );
    // Another administrator is made by two; the first of them could not know the token.
    let third = PlainToken::generate();
    let mut body = json!({"role": "admin", "label": "third"});
    assert_eq!(two.app.admin().post("/v1/tokens", &body).await.code(), "token_hash_missing");
    body["token_hash"] = json!(hex::encode(third.hashed().0));
    let asked = two.app.admin().post("/v1/tokens", &body).await;
    assert_eq!(asked.status, 202, "{asked:?}");
    assert_eq!(two.app.admin().post("/v1/tokens", &body).await.code(), "already_asked");
    two.app.stop();
    two.app.start();
    let made = two.approve(asked.json()["id"].as_str().unwrap()).await.json();
    assert!(made["token"].is_null() && made["role"] == "admin", "nobody else has the token: {made:#}");
    assert_eq!(two.app.with_token(third.expose()).get("/v1/keys").await.status, 200);
    two.app.finish();
}

#[tokio::test]
async fn a_request_that_is_late_or_cancelled_is_never_done() {
    let mut two = Two::spawn().await;
    two.rotate().await;
    reencrypt(&two.app).await;
    let destroy = json!({"operation": "key_destroy", "version": 1});
    let cancelled = two.ask(&destroy).await;
    let answer = two.second().post(&format!("/v1/approvals/{cancelled}/cancel"), &json!({"reason": reason()})).await;
    assert_eq!(answer.json()["stage"], "cancelled");
    assert_eq!(two.approve(&cancelled).await.code(), "decided");
    let late = two.ask(&destroy).await;
    two.app.stop();
    two.app.set("PHIVAULT_TEST_DAYS_AHEAD", "2");
    two.app.start();
    assert_eq!(two.approve(&late).await.code(), "expired");
    assert_eq!(two.approve("apr-0").await.status, 404);
    let listed = two.app.auditor().get("/v1/approvals").await.json();
    assert_eq!(listed["approvals"].as_array().unwrap().len(), 2, "{listed:#}");
    assert_eq!(two.app.auditor().get("/v1/keys").await.json()["versions"][0]["state"], "retired");
    two.app.finish();
}

#[tokio::test]
async fn one_administrator_alone_can_where_that_is_switched_on_and_the_ledger_says_so() {
    let mut app = App::spawn().await;
    app.stop();
    app.set("PHIVAULT_ADMIN__TWO_PERSON", "false");
    app.start();
    assert!(app.log().contains("second administrator is switched off"), "it says so loudly");
    let body = json!({"request": {"operation": "key_destroy", "version": 1}, "reason": reason()});
    app.admin().post("/v1/keys/rotate", &json!({"reason": reason()})).await;
    reencrypt(&app).await;
    let done = app.admin().post("/v1/admin/operations", &body).await;
    assert_eq!(done.status, 200, "{done:?}");
    let path = format!("/v1/entries/{}", done.json()["recorded_as"].as_str().unwrap());
    assert_eq!(app.auditor().get(&path).await.json()["facts"]["approval"], "off");
    app.finish();
}

/// The text of a certificate, once its signature holds.
pub async fn certificate(app: &App, id: &Value) -> String {
    let path = format!("/v1/retention/certificates/{}", id.as_str().unwrap());
    let answer = app.auditor().get(&path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let note = Note::parse(answer.json()["text"].as_str().unwrap()).unwrap();
    let key = read_verifier_key(&app.dir().join("keys/signing.vkey")).unwrap();
    assert_eq!(note.verify(std::slice::from_ref(&key)).unwrap().len(), 1);
    note.text
}
