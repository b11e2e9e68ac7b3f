//! kill -9 at every named point of every operation that changes keys or records: afterwards it is finished or was never begun.

use serde_json::{Value, json};

use super::{TEN_YEARS, Two, reason, reencrypt, reveal};
use crate::app::{entry, verify};

/// Points on the way of a change of the keyring.
const KEYRING: [&str; 3] = ["keyring-written", "keyring-recorded", "keyring-placed"];

/// Restarts with a point to die at, runs the operation, which dies there, and starts again.
async fn die_in(two: &mut Two, point: &str, path: &str, body: &Value, second: bool) {
    two.app.stop();
    two.app.set("PHIVAULT_TEST_DIE_AT", point);
    two.app.start();
    let client = if second { two.second() } else { two.app.admin() };
    let request =
        client.request(reqwest::Method::POST, path).header("content-type", "application/json").body(body.to_string());
    let answer = client.try_send(request).await;
    if point.starts_with("records") && answer.is_ok() {
        // A re-encryption dies in the background.
        while client.try_send(client.request(reqwest::Method::GET, "/healthz")).await.is_ok() {}
    } else {
        assert!(answer.is_err(), "{point} was not reached: {answer:?}");
    }
    two.app.kill();
    assert_eq!(verify(two.app.dir()).0, 0, "{point}");
    two.app.set("PHIVAULT_TEST_DIE_AT", "");
    two.app.start();
}

#[tokio::test]
async fn a_rotation_that_dies_is_finished_or_never_was() {
    let mut two = Two::spawn().await;
    let mut versions = 1;
    for (n, point) in KEYRING.iter().enumerate() {
        let kept = two.app.submitter().submit(&entry()).await;
        die_in(&mut two, point, "/v1/keys/rotate", &json!({"reason": reason()}), false).await;
        versions += u64::from(n > 0);
        assert_eq!(two.app.auditor().get("/v1/keys").await.json()["active"], json!(versions), "{point}");
        assert_eq!(reveal(&two.app, &kept).await.json()["changes"], entry()["changes"], "{point}");
    }
    two.app.finish();
}

#[tokio::test]
async fn a_new_state_key_that_dies_is_in_force_or_never_was() {
    let mut two = Two::spawn().await;
    for point in KEYRING {
        die_in(&mut two, point, "/v1/keys/rotate-state", &json!({"reason": reason()}), false).await;
        let ready = two.app.admin().get("/v1/tokens").await;
        assert_eq!(ready.status, 200, "{point}: {ready:?}");
        two.app.submitter().submit(&entry()).await;
    }
    two.app.finish();
}

#[tokio::test]
async fn a_re_encryption_that_dies_goes_on() {
    let mut two = Two::spawn().await;
    let kept = two.app.submitter().submit(&entry()).await;
    for point in ["records-ready", "records-replaced"] {
        two.rotate().await;
        let body = json!({"per_second": 0, "reason": reason()});
        die_in(&mut two, point, "/v1/keys/re-encrypt", &body, false).await;
        assert_eq!(reveal(&two.app, &kept).await.json()["changes"], entry()["changes"], "{point}");
        let moved = reencrypt(&two.app).await;
        assert!(moved["problem"].is_null() && moved["done"] == moved["total"], "{point}: {moved:#}");
    }
    two.app.finish();
}

#[tokio::test]
async fn a_destruction_that_dies_is_finished_or_can_be_approved_again() {
    let mut two = Two::spawn().await;
    for (n, point) in KEYRING.iter().chain(&["carried-out"]).enumerate() {
        let kept = two.app.submitter().submit(&entry()).await;
        two.rotate().await;
        reencrypt(&two.app).await;
        let version = n + 1;
        let id = two.ask(&json!({"operation": "key_destroy", "version": version})).await;
        let path = format!("/v1/approvals/{id}/approve");
        die_in(&mut two, point, &path, &json!({"reason": reason()}), true).await;
        let state = two.app.auditor().get("/v1/keys").await.json()["versions"][version - 1]["state"].clone();
        let again = two.approve(&id).await;
        match n {
            0 => assert_eq!((&state, again.status), (&json!("retired"), 200), "{point}: {again:?}"),
            _ => assert_eq!((&state, again.code().as_str()), (&json!("destroyed"), "version_destroyed"), "{point}"),
        }
        assert_eq!(reveal(&two.app, &kept).await.json()["changes"], entry()["changes"], "{point}");
    }
    two.app.finish();
}

#[tokio::test]
async fn a_disposal_that_dies_is_finished_by_the_next_start_or_never_was() {
    for point in [
        "keyring-written",
        "keyring-recorded",
        "keyring-placed",
        "secret-gone",
        "records-ready",
        "records-replaced",
        "carried-out",
    ] {
        let mut two = Two::spawn().await;
        let old = two.app.submitter().submit(&entry()).await;
        two.app.stop();
        two.app.set("PHIVAULT_TEST_DAYS_AHEAD", &TEN_YEARS.to_string());
        two.app.start();
        let planned = two.app.officer().get("/v1/retention/plan").await.json();
        let due =
            planned["buckets"].as_array().unwrap().iter().find(|it| it["state"] == "due").unwrap()["bucket"].clone();
        let id = two.ask(&json!({"operation": "dispose", "bucket": due})).await;
        let path = format!("/v1/approvals/{id}/approve");
        die_in(&mut two, point, &path, &json!({"reason": reason()}), true).await;
        let shown = reveal(&two.app, &old).await;
        if point == "keyring-written" {
            assert_eq!(shown.json()["changes"], entry()["changes"], "{point}");
            assert_eq!(two.approve(&id).await.status, 200, "{point}");
        } else {
            assert_eq!(shown.status, 410, "{point}");
            assert_eq!(two.approve(&id).await.code(), "disposed", "{point}");
        }
        two.app.stop();
        let stored = crate::check::entries(two.app.dir());
        assert_eq!(
            stored[old["sequence"].as_u64().unwrap() as usize].sealed.len(),
            21,
            "{point}: the record is erased"
        );
        two.app.start();
        two.app.finish();
    }
}

#[tokio::test]
async fn a_redaction_that_dies_is_done_whole_or_not_at_all() {
    for (point, done) in [("records-ready", false), ("records-replaced", true), ("carried-out", true)] {
        let mut two = Two::spawn().await;
        let mine = two.app.submitter().submit(&entry()).await;
        let id = two.ask(&json!({"operation": "redact", "entry": mine["id"], "authority": "order"})).await;
        let path = format!("/v1/approvals/{id}/approve");
        die_in(&mut two, point, &path, &json!({"reason": reason()}), true).await;
        assert_eq!(reveal(&two.app, &mine).await.status, if done { 410 } else { 200 }, "{point}");
        let recorded = two.app.auditor().get("/v1/entries?action=redact").await.json();
        assert_eq!(recorded["entries"].as_array().unwrap().len(), usize::from(done), "{point}");
        assert_eq!(two.approve(&id).await.status, if done { 422 } else { 200 }, "{point}");
        two.app.finish();
    }
}
