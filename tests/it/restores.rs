//! The way back where things are less simple: races, deletions, several patients, clocks that are ahead.

use phivault::domain::caller::Role;
use serde_json::{Value, json};

use crate::app::{Answer, App};

const BECAUSE: &str = r#"{"reason": {"code": "HCOMPL"}}"#;

/// A vault where one officer is enough.
async fn alone() -> App {
    let mut app = App::spawn().await;
    app.stop();
    app.set("PHIVAULT_ADMIN__TWO_PERSON", "false");
    app.start();
    app
}

fn change(record: &str, action: &str, changes: &Value) -> Value {
    let code = if ["create", "baseline"].contains(&action) { "NEWDATA" } else { "FIXDATA" };
    json!({"action": action, "actor": {"id": "ana"}, "patient": {"id": "MRN-7"},
        "record": {"type": "Item", "id": record}, "reason": {"code": "TREAT", "change": code}, "changes": changes})
}

/// Submits one change of a field: its action, the value before and the value after.
async fn set(app: &App, record: &str, action: &str, field: &str, old: Value, new: Value) -> Value {
    let mut one = json!({"field": field});
    for (side, value) in [("old", old), ("new", new)] {
        if value != json!("-") {
            one[side] = value;
        }
    }
    app.submitter().submit(&change(record, action, &json!([one]))).await
}

async fn plan(app: &App, record: &str, body: Value) -> Answer {
    let mut body = body;
    body["reason"] = json!({"code": "HCOMPL"});
    app.officer().post(&format!("/v1/records/Item/{record}/restore"), &body).await
}

fn path(plan: &Answer) -> String {
    assert_eq!(plan.status, 201, "{plan:?}");
    format!("/v1/restores/{}", plan.json()["id"].as_str().unwrap())
}

async fn approve(app: &App, plan: &Answer) -> String {
    let path = path(plan);
    let answer = app.officer().post(&format!("{path}/approve"), &serde_json::from_str(BECAUSE).unwrap()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    path
}

async fn confirm(app: &App, path: &str) -> Answer {
    let said = json!({"actor": {"id": "ana"}, "reason": {"code": "TREAT", "change": "EIE", "note": "typing error"}});
    app.submitter().post(&format!("{path}/confirm"), &said).await
}

async fn look(app: &App, record: &str, view: &str) -> Value {
    let answer = app.officer().get(&format!("/v1/records/Item/{record}/{view}?reason=HCOMPL")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

async fn value(app: &App, record: &str, field: &str) -> Value {
    let state = look(app, record, "state").await;
    let found = state["fields"].as_array().unwrap().iter().find(|it| it["field"] == field);
    found.map_or(Value::Null, |it| it["value"].clone())
}

#[tokio::test]
async fn a_confirmation_never_goes_behind_a_change_that_came_first() {
    let app = alone().await;
    let (mut confirmed, mut refused) = (0, 0);
    for n in 0..40 {
        let record = format!("r{n}");
        set(&app, &record, "create", "x", json!("-"), json!(1)).await;
        let second = set(&app, &record, "update", "x", json!(1), json!(2)).await;
        let path = approve(&app, &plan(&app, &record, json!({"undo": second["id"]})).await).await;
        let newer = change(&record, "update", &json!([{"field": "x", "old": 2, "new": 50}]));
        let submitter = app.submitter();
        let (restored, changed) = tokio::join!(confirm(&app, &path), submitter.post("/v1/entries", &newer));
        let (restored, changed) = (restored, changed.json());
        if restored.status == 201 {
            confirmed += 1;
            assert!(restored.json()["sequence"].as_u64() < changed["sequence"].as_u64(), "it was confirmed first");
        } else {
            refused += 1;
            assert_eq!(restored.code(), "moved_on");
            assert_eq!(value(&app, &record, "x").await, json!(50));
        }
    }
    assert!(confirmed + refused == 40 && refused > 0, "{confirmed} confirmed, {refused} refused");
    app.finish();
}

#[tokio::test]
async fn an_application_whose_change_failed_owns_nothing() {
    let app = alone().await;
    let other = app.make_token(Role::Submitter, "another-app").await;
    let mut failed = change("r", "update", &json!([{"field": "x", "old": 1, "new": 2}]));
    failed["outcome"] = json!("failure");
    app.with_token(&other).submit(&failed).await;
    set(&app, "r", "create", "x", json!("-"), json!("secret")).await;
    let second = set(&app, "r", "update", "x", json!("secret"), json!("new")).await;
    let path = approve(&app, &plan(&app, "r", json!({"undo": second["id"]})).await).await;
    assert_eq!(app.with_token(&other).get(&path).await.status, 404);
    assert_eq!(app.submitter().get(&path).await.status, 200);
    app.finish();
}

#[tokio::test]
async fn undoing_one_entry_says_what_it_cannot_mean_and_names_every_later_change() {
    let app = alone().await;
    let undo = |id: &Value| json!({"undo": id});
    // The record was deleted since, and the deletion named no field.
    set(&app, "gone", "create", "x", json!("-"), json!(1)).await;
    let changed = set(&app, "gone", "update", "x", json!(1), json!(2)).await;
    let deleted = app.submitter().submit(&change("gone", "delete", &json!([{"field": "y", "old": 5}]))).await;
    assert_eq!(plan(&app, "gone", undo(&changed["id"])).await.code(), "deleted_since");
    let back = plan(&app, "gone", undo(&deleted["id"])).await;
    assert_eq!(confirm(&app, &approve(&app, &back).await).await.status, 201);
    let history = look(&app, "gone", "history").await;
    let restored = history["steps"].as_array().unwrap().last().unwrap()["id"].clone();
    assert_eq!(plan(&app, "gone", undo(&restored)).await.code(), "undo_restore");
    // Made again since: undoing the deletion would put the old life over the new one.
    set(&app, "again", "create", "x", json!("-"), json!(1)).await;
    let deleted = set(&app, "again", "delete", "x", json!(1), json!("-")).await;
    set(&app, "again", "create", "x", json!("-"), json!(7)).await;
    assert_eq!(plan(&app, "again", undo(&deleted["id"])).await.code(), "later_changes");
    // Removed, added, removed once more: the first removal is not what holds.
    set(&app, "twice", "create", "x", json!("-"), json!(1)).await;
    set(&app, "twice", "update", "k", json!("-"), json!(1)).await;
    let removed = set(&app, "twice", "update", "x", json!(1), json!("-")).await;
    set(&app, "twice", "update", "x", json!("-"), json!(3)).await;
    let last = set(&app, "twice", "update", "x", json!(3), json!("-")).await;
    let made = plan(&app, "twice", undo(&removed["id"])).await.json();
    assert_eq!(made["conflicts"][0]["changed_by"]["entry"], last["id"], "{made:#}");
    assert_eq!(made["changes"], json!([]));
    // Added and removed: there is nothing to take back.
    let added = set(&app, "twice", "update", "z", json!("-"), json!(3)).await;
    set(&app, "twice", "update", "z", json!(3), json!("-")).await;
    let answer = plan(&app, "twice", json!({"undo": added["id"], "overwrite": true})).await;
    assert_eq!(answer.code(), "nothing_to_restore");
    // It was null before, which is nothing, and it is nothing now.
    let filled = set(&app, "twice", "update", "w", json!(null), json!(3)).await;
    set(&app, "twice", "update", "w", json!(3), json!("-")).await;
    let answer = plan(&app, "twice", json!({"undo": filled["id"], "overwrite": true})).await;
    assert_eq!(answer.code(), "nothing_to_restore");
    app.finish();
}

#[tokio::test]
async fn everybody_whom_the_record_was_about_is_told_of_each_step_of_a_plan() {
    for blind in [false, true] {
        let options = crate::app::Options { blind, ..Default::default() };
        let mut app = App::spawn_with(options).await;
        app.stop();
        app.set("PHIVAULT_ADMIN__TWO_PERSON", "false");
        app.start();
        set(&app, "two", "create", "x", json!("-"), json!(1)).await;
        let mut moved = change("two", "update", &json!([{"field": "x", "old": 1, "new": 2}]));
        moved["patient"] = json!({"id": "MRN-8"});
        let moved = app.submitter().submit(&moved).await;
        let path = approve(&app, &plan(&app, "two", json!({"undo": moved["id"]})).await).await;
        assert_eq!(app.submitter().get(&path).await.status, 200);
        assert_eq!(confirm(&app, &path).await.status, 201);
        for patient in ["MRN-7", "MRN-8"] {
            let found = app.officer().get(&format!("/v1/entries?patient={patient}&limit=100")).await.json();
            let actions: Vec<_> = found["entries"].as_array().unwrap().iter().map(|it| &it["action"]).collect();
            let count = |action: &str| actions.iter().filter(|it| ***it == *action).count();
            let wanted = (4, 1);
            assert_eq!((count("restore_plan"), count("restore")), wanted, "{patient} {blind}: {actions:?}");
        }
        app.finish();
    }
}

#[tokio::test]
async fn a_confirmation_counts_although_the_change_it_takes_back_was_dated_ahead() {
    let app = alone().await;
    set(&app, "r", "create", "x", json!("-"), json!(1)).await;
    let mut ahead = change("r", "update", &json!([{"field": "x", "old": 1, "new": 2}]));
    ahead["occurred_at"] = json!((chrono::Utc::now() + chrono::TimeDelta::seconds(200)).to_rfc3339());
    let ahead = app.submitter().submit(&ahead).await;
    let path = approve(&app, &plan(&app, "r", json!({"undo": ahead["id"]})).await).await;
    assert_eq!(confirm(&app, &path).await.status, 201);
    assert_eq!(value(&app, "r", "x").await, json!(1));
    app.finish();
}

#[tokio::test]
async fn continuity_sees_what_was_made_twice_and_takes_null_for_nothing_there() {
    let app = App::spawn().await;
    let breaks = async |record: &str| look(&app, record, "continuity").await["breaks"].as_array().unwrap().len();
    set(&app, "again", "create", "x", json!("-"), json!(1)).await;
    set(&app, "again", "create", "x", json!("-"), json!(1)).await;
    assert_eq!(breaks("again").await, 1, "it was deleted outside the trail, or made twice");
    set(&app, "base", "create", "x", json!("-"), json!(1)).await;
    set(&app, "base", "baseline", "x", json!("-"), json!(1)).await;
    assert_eq!(breaks("base").await, 0, "it is found as it was left");
    set(&app, "base", "baseline", "x", json!("-"), json!(2)).await;
    assert_eq!(breaks("base").await, 1, "it is found otherwise than it was left");
    set(&app, "null", "create", "x", json!("-"), json!({"a": [7]})).await;
    set(&app, "null", "update", "x", json!({"a": [7.0]}), json!("-")).await;
    set(&app, "null", "update", "x", json!(null), json!(2)).await;
    assert_eq!(breaks("null").await, 0, "7 is 7.0 within a list, and null is nothing");
    let line = look(&app, "null", "fields/x").await;
    assert_eq!(line["points"].as_array().unwrap().len(), 3);
    let never = app.officer().get("/v1/records/Item/null/fields/never?reason=HCOMPL").await;
    assert_eq!(never.status, 404, "a field that never was has no line");
    app.finish();
}

#[tokio::test]
async fn a_redacted_deletion_is_still_a_deletion() {
    let two = crate::keys::Two::spawn().await;
    let app = &two.app;
    set(app, "r", "create", "x", json!("-"), json!(1)).await;
    let deleted = set(app, "r", "delete", "x", json!(1), json!("-")).await;
    set(app, "r", "update", "x", json!(1), json!(2)).await;
    let breaks = async || look(app, "r", "continuity").await["breaks"].as_array().unwrap().len();
    assert_eq!(breaks().await, 1);
    two.both(&json!({"operation": "redact", "entry": deleted["id"], "authority": "order"})).await;
    assert_eq!(breaks().await, 1, "the update of a deleted record still shows");
    two.app.finish();
}

#[tokio::test]
async fn a_record_belongs_to_whoever_began_its_newest_life_and_no_plan_shows_another_owner_the_life_before() {
    let app = alone().await;
    let second = app.with_token(&app.make_token(Role::Submitter, "second-app").await);
    set(&app, "r", "create", "x", json!("-"), json!("first secret")).await;
    set(&app, "r", "delete", "x", json!("first secret"), json!("-")).await;
    for (action, sides) in [
        ("create", json!([{"field": "x", "new": "second secret"}])),
        ("update", json!([{"field": "x", "old": "second secret", "new": "newest"}])),
    ] {
        second.submit(&change("r", action, &sides)).await;
    }
    let made = plan(&app, "r", json!({"sequence": look(&app, "r", "history").await["steps"][2]["sequence"]})).await;
    let path = approve(&app, &made).await;
    assert_eq!(app.submitter().get(&path).await.status, 404, "the first application owned another record");
    let fetched = second.get(&path).await;
    assert_eq!((fetched.status, &fetched.json()["changes"][0]["new"]), (200, &json!("second secret")), "{fetched:?}");
    let first = look(&app, "r", "history").await["steps"][0]["sequence"].clone();
    assert_eq!(plan(&app, "r", json!({"sequence": first})).await.code(), "other_application");
    app.finish();
}
