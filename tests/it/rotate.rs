//! Rotating data keys while applications go on writing.

use phivault::keyfile::{KeyPaths, read_private};
use serde_json::{Value, json};

use crate::app::{App, entry, program};
use crate::check::entries;
use crate::tamper::edits::{cell, copy, edit, settle};

fn reason() -> Value {
    json!({"reason": {"code": "HSYSADMIN", "note": "quarterly"}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_under_load_and_no_request_fails() {
    let mut app = App::spawn().await;
    let first = app.submitter().submit(&entry()).await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (client, stop) = (app.submitter(), stop.clone());
            tokio::spawn(async move {
                let mut count = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    client.submit(&entry()).await;
                    count += 1;
                }
                count
            })
        })
        .collect();
    for n in 2..=6 {
        let answer = app.admin().post("/v1/keys/rotate", &reason()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!((&answer.json()["active"], &answer.json()["previous"]), (&json!(n), &json!(n - 1)));
    }
    let last = app.submitter().submit(&entry()).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut written = 0;
    for writer in writers {
        written += writer.await.unwrap();
    }
    assert!(written > 0);
    for restart in [false, true] {
        if restart {
            app.stop();
            app.start();
        }
        for (receipt, version) in [(&first, 1), (&last, 6)] {
            let path = format!("/v1/entries/{}/reveal", receipt["id"].as_str().unwrap());
            let shown = app.officer().post(&path, &json!({"reason": {"code": "HCOMPL"}})).await.json();
            assert_eq!((&shown["key_version"], &shown["leaf_hash"]), (&json!(version), &receipt["leaf_hash"]));
            assert_eq!(shown["changes"], entry()["changes"]);
        }
    }
    let keys = app.auditor().get("/v1/keys").await.json();
    assert_eq!((&keys["active"], &keys["keyring_generation"]), (&json!(6), &json!(7)));
    let states: Vec<_> = keys["versions"].as_array().unwrap().iter().map(|it| it["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["retired", "retired", "retired", "retired", "retired", "active"]);
    app.finish();
}

#[tokio::test]
async fn a_rotation_needs_a_reason_and_is_recorded_with_the_keyrings_digest() {
    let app = App::spawn().await;
    let keyring = KeyPaths::in_folder(&app.dir().join("keys")).keyring;
    let before = read_private(&keyring, "keyring").unwrap();
    for (body, code) in [(json!({}), "reason_missing"), (json!({"reason": {"code": "NOPE"}}), "reason_unknown")] {
        let answer = app.admin().post("/v1/keys/rotate", &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, code));
    }
    assert_eq!(*read_private(&keyring, "keyring").unwrap(), *before, "a refusal changes nothing");
    let rotated = app.admin().post("/v1/keys/rotate", &reason()).await.json();
    let file = read_private(&keyring, "keyring").unwrap();
    let stored = entries(app.dir());
    let recorded = stored.iter().find(|it| it.meta.id.to_string() == rotated["recorded_as"].as_str().unwrap()).unwrap();
    assert_eq!(recorded.meta.fact("keyring_digest"), Some(phivault::crypto::keyring::file_digest(&file).as_str()));
    assert_eq!(recorded.meta.fact("keyring_generation"), Some("3"));
    assert!(recorded.meta.reason.note_given && recorded.meta.actor.id == "admin");
    app.finish();
}

#[tokio::test]
async fn verify_with_the_keyring_opens_every_value_and_knows_an_old_keyring() {
    let mut app = App::spawn().await;
    let first = app.submitter().submit(&entry()).await["sequence"].as_i64().unwrap();
    let old = std::fs::read(app.dir().join("keys/keyring")).unwrap();
    assert_eq!(app.admin().post("/v1/keys/rotate", &reason()).await.status, 200);
    app.submitter().submit(&entry()).await;
    app.stop();
    settle(app.dir());
    let verify = |dir: &std::path::Path| {
        let output = program().args(["verify", "--json", "--keyring", "--dir"]).arg(dir).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap(), report)
    };
    let all = entries(app.dir()).len();
    let (code, report) = verify(app.dir());
    assert_eq!(
        (code, &report["values_opened"], &report["values_destroyed"]),
        (0, &json!(all), &json!(0)),
        "{report:#}"
    );
    let vault = copy(app.dir());
    edit(vault.path(), |db| cell("sealed", first).flip(db, 0));
    let (code, report) = verify(vault.path());
    let codes: Vec<_> = report["findings"].as_array().unwrap().iter().map(|it| it["code"].clone()).collect();
    assert!(code == 1 && codes.contains(&json!("values_differ")), "{report:#}");
    assert_eq!(report["findings"][0]["sequence"], json!(first), "{report:#}");
    let vault = copy(app.dir());
    std::fs::write(vault.path().join("keys/keyring"), old).unwrap();
    let (code, report) = verify(vault.path());
    let codes: Vec<_> = report["findings"].as_array().unwrap().iter().map(|it| it["code"].clone()).collect();
    assert!(code == 1 && codes.contains(&json!("keyring_not_newest")), "{report:#}");
    std::fs::write(vault.path().join("unlock.key"), "6b".repeat(32)).unwrap();
    let (code, report) = verify(vault.path());
    assert!(code == 2 && report["error"].as_str().unwrap().contains("does not open"), "{report:#}");
    app.start();
    app.finish();
}
