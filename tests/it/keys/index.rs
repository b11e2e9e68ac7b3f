//! Keys of the blind index, side by side.

use phivault::domain::caller::Role;
use serde_json::{Value, json};

use super::{Two, reason};
use crate::app::{App, Options, entry};

async fn found(app: &App) -> usize {
    let answer = app.officer().get("/v1/entries?patient=MRN-12345&action=update").await;
    answer.json()["entries"].as_array().unwrap().len()
}

#[tokio::test]
async fn entries_are_found_under_every_index_key_until_it_is_destroyed() {
    let app = App::spawn_with(Options { blind: true, ..Options::default() }).await;
    let second = app.make_token(Role::Admin, "second-admin").await;
    let two = Two { app, second };
    let first = two.app.submitter().submit(&entry()).await;
    let rotate = async || {
        let answer = two.app.admin().post("/v1/keys/rotate-index", &json!({"reason": reason()})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["index_versions"].clone()
    };
    assert_eq!(rotate().await, json!([1, 2]));
    two.app.submitter().submit(&entry()).await;
    two.app.submitter().submit(&entry()).await;
    assert_eq!(found(&two.app).await, 3);
    // The same id again is the same entry, whatever key it is indexed under.
    let mut again = entry();
    again["id"] = first["id"].clone();
    assert_eq!(two.app.submitter().post("/v1/entries", &again).await.status, 200);
    // A trail goes on from one key's chain to the one before.
    let last = two.app.submitter().submit(&entry()).await;
    two.app.submitter().get(&format!("/v1/entries/{}/proof", last["id"].as_str().unwrap())).await;
    let ask = async |before: Value| {
        let mut body = json!({"patient": "MRN-12345"});
        if !before.is_null() {
            body["before"] = before;
        }
        two.app.officer().post("/v1/entries/trail", &body).await.json()
    };
    let newest = ask(Value::Null).await;
    assert_eq!(newest["entries"].as_array().unwrap().len(), 3, "{newest:#}");
    let older = ask(newest["next"].clone()).await;
    assert_eq!((older["entries"].as_array().unwrap().len(), &older["next"]), (1, &Value::Null), "{older:#}");
    assert_eq!(older["entries"][0]["index"], first["sequence"]);
    assert_eq!(two.refused(&json!({"operation": "index_destroy", "version": 2})).await, "unknown_version");
    let body =
        json!({"name": "case", "authority": "court", "scope": {"patient": "MRN-12345"}, "reason": {"code": "HLEGAL"}});
    let hold = two.app.officer().post("/v1/holds", &body).await.json();
    assert_eq!(hold["covered_when_placed"], json!(4), "under every key: {hold:#}");
    assert_eq!(two.refused(&json!({"operation": "index_destroy", "version": 1})).await, "held");
    let path = format!("/v1/holds/{}/lift", hold["id"].as_str().unwrap());
    assert_eq!(two.app.officer().post(&path, &json!({"reason": {"code": "HLEGAL"}})).await.status, 200);
    let done = two.both(&json!({"operation": "index_destroy", "version": 1})).await;
    assert_eq!(done["index_versions"], json!([2]));
    assert_eq!(found(&two.app).await, 3, "the first one is not found by its patient any more");
    let asked = json!({"report": "patient", "patient": "MRN-12345", "reason": {"code": "HCOMPL"}});
    let report = crate::reports::make(&two.app, &asked).await;
    let beyond = report["beyond"][0].as_str().unwrap();
    assert!(beyond.contains("are not found by the id any more") && beyond.contains("received before 20"), "{report:#}");
    let asked = json!({"report": "access", "actor": "dr_smith", "reason": {"code": "HCOMPL"}});
    assert_eq!(crate::reports::make(&two.app, &asked).await["beyond"], json!([]), "it goes by the user");
    // Nobody can tell whose the first one is, so a hold on any patient covers it.
    let mut body = body;
    body["scope"] = json!({"patient": "MRN-999"});
    assert_eq!(two.app.officer().post("/v1/holds", &body).await.status, 201);
    let redact = |it: &Value| json!({"operation": "redact", "entry": it["id"], "authority": "order"});
    assert_eq!(two.refused(&redact(&first)).await, "held");
    two.both(&redact(&last)).await;
    let shown = two.app.officer().get(&format!("/v1/entries/{}", first["id"].as_str().unwrap())).await;
    assert_eq!(shown.status, 200);
    two.app.finish();
}
