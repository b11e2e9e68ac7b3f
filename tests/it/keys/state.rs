//! The key of state rows, and what stands in them while it changes.

use phivault::domain::caller::Role;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{Two, reason, until_moved};
use crate::app::{App, entry, verify};

async fn rotate_state(app: &App) -> Value {
    let answer = app.admin().post("/v1/keys/rotate-state", &json!({"reason": reason()})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn state_rows(app: &App) -> Vec<(String, String, Vec<u8>)> {
    let db = Connection::open(app.dir().join("data/vault.db")).unwrap();
    let mut rows = db.prepare("SELECT kind, id, tag FROM state ORDER BY kind, id").unwrap();
    rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn tokens_approvals_and_holds_stand_as_they_were_under_a_new_state_key() {
    let mut two = Two::spawn().await;
    // More rows than one entry commits to.
    for n in 0..300 {
        two.app.make_token(Role::Submitter, &format!("ward-{n}")).await;
    }
    let mine = two.app.submitter().submit(&entry()).await;
    let hold =
        json!({"name": "case", "authority": "court", "scope": {"patient": "MRN-12345"}, "reason": {"code": "HLEGAL"}});
    assert_eq!(two.app.officer().post("/v1/holds", &hold).await.status, 201);
    let waiting = two.ask(&json!({"operation": "slot_put", "slot": {"name": "r", "kek_id": "11".repeat(16), "kek": {"kind": "key_file"}, "public": format!("09{}", "00".repeat(31))}})).await;
    let page = two.app.officer().get("/v1/entries?limit=1").await.json();
    let before = state_rows(&two.app);
    let keyring = std::fs::read(two.app.dir().join("keys/keyring")).unwrap();
    let done = rotate_state(&two.app).await;
    let after = state_rows(&two.app);
    assert_eq!(done["rows"], json!(before.len()));
    assert!(before.len() > 300 && before.len() == after.len());
    for (old, new) in before.iter().zip(&after) {
        assert!((&old.0, &old.1) == (&new.0, &new.1) && old.2 != new.2, "{} {}", old.0, old.1);
    }
    let old_page =
        two.app.officer().get(&format!("/v1/entries?limit=1&cursor={}", page["next"].as_str().unwrap())).await;
    assert_eq!(old_page.status, 400, "open cursors end: {old_page:?}");
    rotate_state(&two.app).await;
    for restart in [false, true] {
        if restart {
            two.app.stop();
            assert_eq!(verify(two.app.dir()).0, 0);
            two.app.start();
        }
        two.app.submitter().submit(&entry()).await;
        let redact = json!({"operation": "redact", "entry": mine["id"], "authority": "x"});
        assert_eq!(two.refused(&redact).await, "held");
    }
    assert_eq!(two.approve(&waiting).await.status, 200);
    two.app.stop();
    let newest = std::fs::read(two.app.dir().join("keys/keyring")).unwrap();
    std::fs::write(two.app.dir().join("keys/keyring"), keyring).unwrap();
    let said = two.app.try_start().unwrap_err();
    assert!(said.contains("not the one the ledger recorded last"), "{said}");
    std::fs::write(two.app.dir().join("keys/keyring"), newest).unwrap();
    two.app.start();
    two.app.finish();
}

#[tokio::test]
async fn a_row_altered_while_the_vault_runs_does_not_become_genuine_with_a_new_state_key() {
    let mut two = Two::spawn().await;
    let token = two.app.make_token(Role::Officer, "leaves").await;
    let db = Connection::open(two.app.dir().join("data/vault.db")).unwrap();
    let valid: Vec<(String, Vec<u8>, Vec<u8>)> = {
        let mut rows = db.prepare("SELECT id, body, tag FROM state WHERE kind = 'token'").unwrap();
        rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap().map(Result::unwrap).collect()
    };
    let all = two.app.admin().get("/v1/tokens").await.json();
    let id = all["tokens"].as_array().unwrap().iter().find(|it| it["label"] == "leaves").unwrap()["id"].clone();
    let id = id.as_str().unwrap();
    let body = json!({"reason": reason()});
    let request = two.app.admin().request(reqwest::Method::DELETE, &format!("/v1/tokens/{id}"));
    assert!(two.app.admin().send(request.json(&body)).await.status < 300);
    // Somebody puts the row from before the revocation back, and waits for a rotation to vouch for it.
    let (_, old_body, old_tag) = valid.iter().find(|(it, _, _)| it == id).unwrap();
    db.execute("UPDATE state SET body = ?1, tag = ?2 WHERE id = ?3", (old_body, old_tag, id)).unwrap();
    drop(db);
    rotate_state(&two.app).await;
    two.app.stop();
    assert_eq!(verify(two.app.dir()).0, 0, "the rotation wrote what the vault knew");
    two.app.start();
    assert_eq!(two.app.with_token(&token).get("/v1/entries").await.status, 401);
    two.app.finish();
}

#[tokio::test]
async fn a_re_encryption_goes_on_after_what_was_more_urgent() {
    let two = Two::spawn().await;
    let mine = two.app.submitter().submit(&entry()).await;
    for _ in 0..3 {
        let lines: String = (0..4_000).map(|_| format!("{}\n", entry())).collect();
        assert_eq!(two.app.submitter().post_text("/v1/entries/batch", "application/x-ndjson", lines).await.status, 200);
    }
    two.rotate().await;
    let body = json!({"per_second": 4_000, "reason": reason()});
    assert_eq!(two.app.admin().post("/v1/keys/re-encrypt", &body).await.status, 202);
    let done = two.both(&json!({"operation": "redact", "entry": mine["id"], "authority": "Order 5"})).await;
    assert_eq!(done["redacted"], mine["id"]);
    let moved = until_moved(&two.app).await;
    assert!(moved["problem"].is_null(), "{moved:#}");
    let keys = two.app.auditor().get("/v1/keys").await.json();
    assert_eq!(keys["versions"][0]["entries"], json!(0), "{keys:#}");
    two.app.finish();
}
