//! A record's history, its state at any point, the check of continuity, and the way back, on a real server.

use phivault::domain::caller::Role;
use serde_json::{Value, json};

use crate::app::{App, Options, entry};

const ITEM: &str = "/v1/records/Item/i-1";

/// A change of the item: its action, when it happened, and its changes.
fn change(action: &str, at: &str, changes: &Value) -> Value {
    let code = if action == "create" { "NEWDATA" } else { "FIXDATA" };
    json!({"action": action, "occurred_at": at, "actor": {"id": "ana"}, "patient": {"id": "MRN-7"},
        "record": {"type": "Item", "id": "i-1"}, "reason": {"code": "TREAT", "change": code}, "changes": changes})
}

async fn item(app: &App, path: &str) -> Value {
    let join = if path.contains('?') { '&' } else { '?' };
    let answer = app.officer().get(&format!("{ITEM}/{path}{join}reason=HCOMPL")).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()
}

fn fields(state: &Value) -> Value {
    let fields = state["fields"].as_array().unwrap().iter();
    fields
        .map(|it| (it["field"].as_str().unwrap().to_owned(), it["value"].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Made, changed, and a late entry about a time between.
async fn life(app: &App) -> Vec<Value> {
    let mut receipts = Vec::new();
    for it in [
        change(
            "create",
            "2026-01-01T00:00:00Z",
            &json!([{"field": "price", "new": 100}, {"field": "name", "new": "scale"}]),
        ),
        change("update", "2026-01-03T00:00:00Z", &json!([{"field": "price", "old": 120, "new": 200}])),
        change("update", "2026-01-02T00:00:00Z", &json!([{"field": "price", "old": 100.0, "new": 120}])),
        change("update", "2026-01-04T00:00:00Z", &json!([{"field": "name", "old": "scale", "new": null}])),
    ] {
        receipts.push(app.submitter().submit(&it).await);
    }
    receipts
}

#[tokio::test]
async fn the_history_is_told_in_order_with_late_entries_marked_and_each_look_is_recorded() {
    for blind in [false, true] {
        let app = App::spawn_with(Options { blind, ..Options::default() }).await;
        let receipts = life(&app).await;
        let history = item(&app, "history?by=received").await;
        let steps = history["steps"].as_array().unwrap();
        let late: Vec<_> = steps.iter().map(|it| it["late"].as_bool().unwrap()).collect();
        assert_eq!(late, [false, false, true, false], "{history:#}");
        assert_eq!((&steps[1]["changes"][0]["new"], &steps[1]["patient"]["id"]), (&json!(200), &json!("MRN-7")));
        let ids: Vec<_> = steps.iter().map(|it| &it["id"]).collect();
        assert_eq!(ids, receipts.iter().map(|it| &it["id"]).collect::<Vec<_>>());
        let by_time = item(&app, "history?limit=2").await;
        assert_eq!(by_time["steps"][1]["id"], receipts[2]["id"]);
        let next = by_time["next"].as_str().unwrap();
        let rest = item(&app, &format!("history?limit=2&after={next}")).await;
        assert_eq!((&rest["steps"][0]["id"], rest["next"].is_null()), (&receipts[1]["id"], true));
        let found = app.officer().get("/v1/entries?record_type=Item&record_id=i-1&action=reveal").await.json();
        let recorded: Vec<_> = found["entries"].as_array().unwrap().iter().map(|it| &it["id"]).collect();
        assert_eq!(recorded, [&rest["recorded_as"], &by_time["recorded_as"], &history["recorded_as"]]);
        assert_eq!(found["entries"][0]["patient"]["id"], "MRN-7", "the patient's trail shows who looked");
        app.finish();
    }
}

#[tokio::test]
async fn the_state_at_a_point_is_what_was_known_or_what_was_so() {
    let app = App::spawn().await;
    let receipts = life(&app).await;
    let at = |n: usize| receipts[n]["sequence"].as_u64().unwrap();
    for (n, wanted) in [
        (0, json!({"price": 100, "name": "scale"})),
        (1, json!({"price": 200, "name": "scale"})),
        (2, json!({"price": 120, "name": "scale"})),
        (3, json!({"price": 120, "name": null})),
    ] {
        let state = item(&app, &format!("state?at={}", at(n))).await;
        assert_eq!(fields(&state), wanted, "{n}");
    }
    let so = item(&app, "state?at=2026-01-02T12:00:00Z").await;
    assert_eq!(fields(&so), json!({"price": 120, "name": "scale"}));
    assert_eq!(so["fields"][1]["set_by"]["id"], receipts[2]["id"]);
    assert_eq!(fields(&item(&app, "state").await), json!({"price": 200, "name": null}));
    let before = item(&app, "state?at=2025-01-01T00:00:00Z").await;
    assert_eq!((&before["exists"], fields(&before)), (&json!(false), json!({})));
    let diff = item(&app, &format!("diff?from={}&to={}", at(0), at(3))).await;
    let told: Vec<_> = diff["fields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (&it["field"], &it["from"]["value"], &it["to"]["value"]))
        .collect();
    assert_eq!(told, [(&json!("name"), &json!("scale"), &json!(null)), (&json!("price"), &json!(100), &json!(120))]);
    app.submitter().submit(&change("delete", "2026-01-05T00:00:00Z", &json!([{"field": "price", "old": 200}]))).await;
    let gone = item(&app, "state").await;
    assert_eq!((&gone["exists"], fields(&gone)), (&json!(false), json!({"price": 200, "name": null})));
    let denied = app.auditor().get(&format!("{ITEM}/state?reason=HCOMPL")).await;
    assert_eq!(denied.status, 403);
    for (path, status, code) in [
        ("/v1/records/Item/none/state?reason=HCOMPL", 404, "not_found"),
        ("/v1/records/Item/i-1/state", 422, "reason_missing"),
        ("/v1/records/Item/i-1/state?reason=HCOMPL&at=yesterday", 400, "parameter_invalid"),
        ("/v1/records/Item/i-1/diff?reason=HCOMPL", 400, "parameter_missing"),
        ("/v1/records/Item/i-1/history?reason=HCOMPL&limit=0", 400, "limit_invalid"),
        ("/v1/records/Item/i-1/history?reason=HCOMPL&after=x", 400, "cursor_invalid"),
        ("/v1/records/Item/i-1/fields/price?reason=HCOMPL&format=pdf", 400, "parameter_invalid"),
    ] {
        let answer = app.officer().get(path).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{path}: {answer:?}");
    }
    app.finish();
}

#[tokio::test]
async fn a_field_has_one_line_whatever_it_was_called() {
    let fields = tempfile::NamedTempFile::new().unwrap();
    let text = "[[field]]\nrecord = 'Item'\nname = 'price'\naliases = ['cost']\nalias_schema = '1'\nabove = 900";
    std::fs::write(fields.path(), text).unwrap();
    let mut app = App::spawn().await;
    app.stop();
    app.set("PHIVAULT_ENTRIES__FIELDS", fields.path().to_str().unwrap());
    app.start();
    let mut old = change("create", "2026-01-01T00:00:00Z", &json!([{"field": "cost", "new": "1000"}]));
    old["record"]["schema"] = json!("1");
    let first = app.submitter().submit(&old).await;
    assert_eq!(first["marks"], json!(["high_value:cost"]));
    app.submitter()
        .submit(&change("update", "2026-01-02T00:00:00Z", &json!([{"field": "price", "old": "1000", "new": "9"}])))
        .await;
    app.submitter()
        .submit(&change("update", "2026-01-03T00:00:00Z", &json!([{"field": "cost", "new": "other"}])))
        .await;
    app.submitter()
        .submit(&change("update", "2026-01-04T00:00:00Z", &json!([{"field": "price", "old": "9", "new": "=1+1"}])))
        .await;
    let line = item(&app, "fields/price").await;
    let values: Vec<_> = line["points"].as_array().unwrap().iter().map(|it| &it["value"]).collect();
    assert_eq!(values, [&json!("1000"), &json!("9"), &json!("=1+1")]);
    let csv = app.officer().get(&format!("{ITEM}/fields/price?reason=HCOMPL&format=csv")).await.text;
    assert!(csv.contains("at (UTC),value") && csv.contains("2026-01-01T00:00:00.000000Z,1000,create,ana"), "{csv}");
    assert!(csv.contains(",'=1+1,"), "no formula leaves: {csv}");
    let svg = app.officer().get(&format!("{ITEM}/fields/price?reason=HCOMPL&format=svg")).await;
    assert_eq!(svg.headers["content-type"], "image/svg+xml");
    assert!(
        svg.text.starts_with("<svg") && svg.text.contains("price of Item i-1") && svg.text.contains("1000"),
        "{}",
        svg.text
    );
    let history = item(&app, "history").await;
    assert_eq!(
        (&history["steps"][0]["changes"][0]["field"], &history["steps"][0]["changes"][0]["name"]),
        (&json!("cost"), &json!("price"))
    );
    app.finish();
}

#[tokio::test]
async fn a_numeric_change_beyond_half_is_marked_on_the_receipt_and_can_be_searched_for() {
    let app = App::spawn().await;
    let marks = async |old: Value, new: Value| {
        let it = change(
            "update",
            "2026-01-01T00:00:00Z",
            &json!([{"field": "a", "new": 1}, {"field": "price", "old": old, "new": new}]),
        );
        app.submitter().submit(&it).await["marks"].clone()
    };
    assert_eq!(marks(json!(100), json!(151)).await, json!(["large_change:price"]));
    assert_eq!(marks(json!(100), json!(150)).await, Value::Null);
    assert_eq!(marks(json!("0.10"), json!("1.0")).await, json!(["large_change:price"]));
    assert_eq!(marks(json!("a"), json!("b")).await, Value::Null);
    let found = app.auditor().get("/v1/entries?mark=large_change").await.json();
    let found = found["entries"].as_array().unwrap();
    assert!(found.len() == 2 && found.iter().all(|it| it["marks"] == json!(["large_change:price"])), "{found:#?}");
    assert_eq!(app.auditor().get("/v1/entries?mark=odd").await.status, 400);
    // The same again is a duplicate, and a mark cannot be submitted.
    let mut again = entry();
    again["id"] = json!("0193595e-0000-7000-8000-000000000001");
    let first = app.submitter().submit(&again).await;
    assert_eq!(app.submitter().post("/v1/entries", &again).await.json()["sequence"], first["sequence"]);
    again["marks"] = json!([]);
    assert_eq!(app.submitter().post("/v1/entries", &again).await.code(), "unknown_field");
    app.finish();
}

#[tokio::test]
async fn a_change_outside_the_trail_shows_and_no_value_with_it() {
    let app = App::spawn().await;
    let receipts = life(&app).await;
    let sound = app.auditor().get(&format!("{ITEM}/continuity?reason=HCOMPL")).await.json();
    assert_eq!(sound["breaks"], json!([]), "late entries break nothing: {sound:#}");
    let odd = app
        .submitter()
        .submit(&change("update", "2026-01-06T00:00:00Z", &json!([{"field": "price", "old": 77777, "new": 5}])))
        .await;
    let answer = app.auditor().get(&format!("{ITEM}/continuity?reason=HCOMPL")).await;
    let found = answer.json();
    assert_eq!(found["breaks"][0]["entry"], odd["id"]);
    assert_eq!((&found["breaks"][0]["after"], found["breaks"].as_array().unwrap().len()), (&receipts[1]["id"], 1));
    assert!(!answer.text.contains("77777") && !answer.text.contains("200"), "{}", answer.text);
    app.finish();
}

/// Plans as an officer; gives back the answer.
async fn plan(app: &App, body: &Value) -> crate::app::Answer {
    let mut body = body.clone();
    body["reason"] = json!({"code": "HCOMPL"});
    app.officer().post(&format!("{ITEM}/restore"), &body).await
}

fn id(answer: &Value) -> &str {
    answer["id"].as_str().unwrap()
}

#[tokio::test]
async fn a_record_goes_back_by_plan_approval_and_confirmation_and_its_history_stays_whole() {
    let mut app = App::spawn().await;
    let second = app.make_token(Role::Officer, "second-officer").await;
    let receipts = life(&app).await;
    let made = plan(&app, &json!({"sequence": receipts[0]["sequence"]})).await;
    assert_eq!(made.status, 201, "{made:?}");
    let made = made.json();
    let wanted = json!([{"field": "name", "old": null, "new": "scale"}, {"field": "price", "old": 200, "new": 100}]);
    assert_eq!(
        (&made["changes"], &made["stage"], &made["owner"]),
        (&wanted, &json!("pending"), &json!("submitter-app"))
    );
    assert_eq!(fields(&item(&app, "state").await)["price"], json!(200), "nothing was applied");
    let path = format!("/v1/restores/{}", id(&made));
    assert_eq!(app.submitter().get(&path).await.code(), "not_approved");
    let because = json!({"reason": {"code": "HCOMPL"}});
    assert_eq!(app.officer().post(&format!("{path}/approve"), &because).await.code(), "own_request");
    assert_eq!(app.with_token(&second).post(&format!("{path}/approve"), &because).await.status, 200);
    app.stop();
    app.start();
    let fetched = app.submitter().get(&path).await;
    assert_eq!((fetched.status, &fetched.json()["changes"]), (200, &wanted));
    let other = app.make_token(Role::Submitter, "another-app").await;
    assert_eq!(app.with_token(&other).get(&path).await.status, 404, "it is not theirs");
    let confirm = json!({"actor": {"id": "ana"}, "reason": {"code": "TREAT", "change": "EIE", "note": "typing error"}});
    assert_eq!(app.with_token(&other).post(&format!("{path}/confirm"), &confirm).await.status, 404);
    assert_eq!(app.submitter().post(&format!("{path}/confirm"), &json!({"actor": {"id": "ana"}})).await.status, 422);
    let done = app.submitter().post(&format!("{path}/confirm"), &confirm).await;
    assert_eq!(done.status, 201, "{done:?}");
    let again = app.submitter().post(&format!("{path}/confirm"), &confirm).await;
    assert_eq!(again.json()["sequence"], done.json()["sequence"], "once is enough");
    assert_eq!(fields(&item(&app, "state").await), json!({"price": 100, "name": "scale"}));
    assert_eq!(item(&app, "continuity").await["breaks"], json!([]));
    let shown = item(&app, "history").await;
    let last = shown["steps"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["action"], &last["id"]), (&json!("restore"), &done.json()["id"]));
    let related: Vec<_> = last["related"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert!(related.contains(&id(&receipts[0])) && related.contains(&id(&made)), "{related:?}");
    let listed = app.officer().get("/v1/restores").await.json();
    assert_eq!(
        (&listed["plans"][0]["stage"], &listed["plans"][0]["confirmed_as"]),
        (&json!("confirmed"), &done.json()["id"])
    );
    assert!(!app.officer().get("/v1/restores").await.text.contains("scale"), "the list has no values");
    app.finish();
}

#[tokio::test]
async fn a_plan_names_conflicts_and_is_refused_when_the_record_moved_on_or_its_time_is_over() {
    let mut app = App::spawn().await;
    app.stop();
    app.set("PHIVAULT_ADMIN__TWO_PERSON", "false");
    app.start();
    let receipts = life(&app).await;
    // Received last, it happened before what came earlier.
    let made = plan(&app, &json!({"undo": receipts[2]["id"]})).await.json();
    assert_eq!(
        (&made["changes"], &made["conflicts"][0]["changed_by"]["entry"]),
        (&json!([]), &receipts[1]["id"]),
        "{made:#}"
    );
    let because = json!({"reason": {"code": "HCOMPL"}});
    let path = format!("/v1/restores/{}", id(&made));
    assert_eq!(app.officer().post(&format!("{path}/approve"), &because).await.code(), "only_conflicts");
    let made = plan(&app, &json!({"undo": receipts[2]["id"], "overwrite": true})).await.json();
    assert_eq!(made["changes"], json!([{"field": "price", "old": 200, "new": 100.0}]), "its own old value");
    let made = plan(&app, &json!({"undo": receipts[3]["id"]})).await.json();
    assert_eq!(made["changes"], json!([{"field": "name", "old": null, "new": "scale"}]));
    let path = format!("/v1/restores/{}", id(&made));
    assert_eq!(app.officer().post(&format!("{path}/approve"), &because).await.status, 200, "one person is enough here");
    app.submitter()
        .submit(&change("update", "2026-01-09T00:00:00Z", &json!([{"field": "price", "old": 200, "new": 201}])))
        .await;
    assert_eq!(app.submitter().get(&path).await.code(), "moved_on");
    assert_eq!(app.officer().post(&format!("{path}/cancel"), &because).await.status, 200);
    assert_eq!(app.officer().post(&format!("{path}/cancel"), &because).await.code(), "decided");
    for (body, code) in [
        (json!({}), "target_missing"),
        (json!({"sequence": 1, "undo": receipts[0]["id"]}), "target_missing"),
        (json!({"undo": receipts[0]["id"]}), "undo_create"),
        (json!({"undo": "0193595e-0000-7000-8000-000000000009"}), "unknown_entry"),
        (json!({"sequence": 0}), "not_there_then"),
        (json!({"at": "2200-01-01T00:00:00Z"}), "nothing_to_restore"),
        (json!({"at": "then"}), "time_invalid"),
    ] {
        let answer = plan(&app, &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, code), "{body}");
    }
    let made = plan(&app, &json!({"undo": receipts[3]["id"]})).await.json();
    let path = format!("/v1/restores/{}", id(&made));
    assert_eq!(app.officer().post(&format!("{path}/approve"), &because).await.status, 200);
    app.stop();
    app.set("PHIVAULT_TEST_DAYS_AHEAD", "8");
    app.start();
    assert_eq!(app.officer().get(&path).await.json()["stage"], "expired");
    assert_eq!(app.submitter().get(&path).await.code(), "not_approved");
    assert_eq!(app.submitter().post(&format!("{path}/confirm"), &json!({})).await.code(), "not_approved");
    app.finish();
}

#[tokio::test]
async fn a_deleted_record_comes_back_whole_and_what_was_erased_does_not() {
    let app = App::spawn().await;
    let second = app.make_token(Role::Officer, "second-officer").await;
    life(&app).await;
    let gone = app
        .submitter()
        .submit(&change("delete", "2026-01-05T00:00:00Z", &json!([{"field": "price", "old": 200}])))
        .await;
    let made = plan(&app, &json!({"undo": gone["id"]})).await.json();
    assert_eq!(made["changes"], json!([{"field": "name", "new": null}, {"field": "price", "new": 200}]), "{made:#}");
    let path = format!("/v1/restores/{}", id(&made));
    let because = json!({"reason": {"code": "HCOMPL"}});
    assert_eq!(app.with_token(&second).post(&format!("{path}/approve"), &because).await.status, 200);
    let confirm =
        json!({"actor": {"id": "ana"}, "reason": {"code": "TREAT", "change": "EIE", "note": "deleted by mistake"}});
    assert_eq!(app.submitter().post(&format!("{path}/confirm"), &confirm).await.status, 201);
    let back = item(&app, "state").await;
    assert_eq!((&back["exists"], fields(&back)), (&json!(true), json!({"price": 200, "name": null})));
    assert_eq!(item(&app, "continuity").await["breaks"], json!([]));
    app.finish();
}

/// A small generator; the seed stands in the message of a failure.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[tokio::test]
async fn after_any_sequence_of_changes_and_restores_the_record_is_what_it_was_brought_back_to() {
    let app = App::spawn().await;
    let second = app.make_token(Role::Officer, "second-officer").await;
    let because = json!({"reason": {"code": "HCOMPL"}});
    let seed = u64::from(std::process::id());
    let mut dice = Dice(seed);
    // What the application holds, and what it held after each entry, by the position of that entry.
    let (mut now, mut then): (serde_json::Map<String, Value>, Vec<(u64, Value)>) = (serde_json::Map::new(), Vec::new());
    for round in 0..40 {
        let receipt = if round > 2 && dice.roll(4) == 0 {
            let (position, wanted) = then[dice.roll(then.len() as u64) as usize].clone();
            let made = plan(&app, &json!({"sequence": position})).await;
            if made.status == 422 {
                assert!(
                    made.code() == "nothing_to_restore" && wanted == Value::Object(now.clone()),
                    "{seed}: {made:?}"
                );
                continue;
            }
            let path = format!("/v1/restores/{}", id(&made.json()));
            assert_eq!(app.with_token(&second).post(&format!("{path}/approve"), &because).await.status, 200);
            for change in app.submitter().get(&path).await.json()["changes"].as_array().unwrap() {
                let field = change["field"].as_str().unwrap();
                assert_eq!(change.get("old"), now.get(field), "{seed}: the plan knows what is there");
                match change.get("new") {
                    Some(new) => drop(now.insert(field.into(), new.clone())),
                    None => drop(now.remove(field)),
                }
            }
            assert_eq!(Value::Object(now.clone()), wanted, "{seed}");
            let confirm = json!({"actor": {"id": "ana"}, "reason": {"code": "TREAT", "change": "EIE", "note": "back"}});
            app.submitter().post(&format!("{path}/confirm"), &confirm).await.json()
        } else {
            let field = format!("f{}", dice.roll(4));
            let mut it = json!({"field": field});
            if let Some(old) = now.get(&field) {
                it["old"] = old.clone();
            }
            if now.len() > 1 && dice.roll(5) == 0 && now.contains_key(&field) {
                now.remove(&field);
            } else {
                it["new"] = json!(dice.roll(1_000));
                now.insert(field, it["new"].clone());
            }
            let mut it = change(if then.is_empty() { "create" } else { "update" }, "", &json!([it]));
            it.as_object_mut().unwrap().remove("occurred_at");
            app.submitter().submit(&it).await
        };
        then.push((receipt["sequence"].as_u64().unwrap(), Value::Object(now.clone())));
    }
    assert_eq!(fields(&item(&app, "state").await), Value::Object(now), "{seed}");
    assert_eq!(item(&app, "continuity").await["breaks"], json!([]), "{seed}");
    for (position, wanted) in &then {
        let state = item(&app, &format!("state?at={position}")).await;
        assert_eq!(fields(&state), *wanted, "{seed}: at {position}");
    }
    app.finish();
}

#[tokio::test]
async fn continuity_neither_cries_wolf_nor_looks_away() {
    let app = App::spawn().await;
    let at = |day: u32| format!("2026-01-0{day}T00:00:00Z");
    let send = async |record: &str, action: &str, day: u32, changes: Value| {
        let mut it = change(action, &at(day), &changes);
        it["record"]["id"] = json!(record);
        if action == "merge" {
            it["reason"]["change"] = json!("MDATA");
        }
        app.submitter().submit(&it).await
    };
    let x = |old: Option<u64>, new: Option<u64>| {
        let mut it = json!({"field": "x"});
        old.into_iter().for_each(|old| it["old"] = json!(old));
        new.into_iter().for_each(|new| it["new"] = json!(new));
        it
    };
    // An application's clock that runs wrong, a merge, a field named twice, a change after a deletion without an old value.
    for (action, day, changes) in [
        ("create", 1, json!([x(None, Some(1))])),
        ("update", 3, json!([x(Some(1), Some(2))])),
        ("update", 2, json!([x(Some(2), Some(3))])),
    ] {
        send("clock", action, day, changes).await;
    }
    for (record, steps) in [
        (
            "merged",
            json!([
                ["create", [x(None, Some(1))]],
                ["merge", [x(Some(1), Some(2))]],
                ["update", [x(Some(2), Some(3))]]
            ]),
        ),
        ("twice", json!([["create", [x(None, Some(1))]], ["update", [x(Some(1), Some(2)), x(Some(1), Some(2))]]])),
        (
            "again",
            json!([
                ["create", [x(None, Some(1))]],
                ["delete", [x(Some(1), None)]],
                ["update", [x(None, Some(5))]],
                ["update", [x(Some(5), Some(6))]]
            ]),
        ),
    ] {
        for (day, step) in (1..).zip(steps.as_array().unwrap()) {
            send(record, step[0].as_str().unwrap(), day, step[1].clone()).await;
        }
    }
    // A change of what was deleted; the deletion named another field.
    send("gone", "create", 1, json!([x(None, Some(1)), {"field": "y", "new": 1}])).await;
    send("gone", "delete", 2, json!([{"field": "y", "old": 1}])).await;
    let odd = send("gone", "update", 3, json!([x(Some(1), Some(2))])).await;
    for (record, breaks) in [("clock", 0), ("merged", 0), ("twice", 0), ("again", 0), ("gone", 1)] {
        let found = app.officer().get(&format!("/v1/records/Item/{record}/continuity?reason=HCOMPL")).await.json();
        assert_eq!(found["breaks"].as_array().unwrap().len(), breaks, "{record}: {found:#}");
    }
    // The report of a period knows what was before it.
    for (from, breaks) in [("2026-01-01", 1), ("2026-01-03", 1), ("2026-01-04", 0)] {
        let body = json!({"report": "continuity", "from": format!("{from}T00:00:00Z"), "reason": {"code": "HCOMPL"}});
        let made = app.officer().post("/v1/reports", &body).await.json();
        let document = app.officer().get(&format!("/v1/reports/{}", id(&made))).await.json();
        let each = document["sections"][2]["table"].as_array().unwrap();
        assert_eq!(each.len(), breaks, "{from}: {document:#}");
        assert!(each.iter().all(|it| it["entry"] == odd["id"]));
    }
    app.finish();
}

#[tokio::test]
async fn a_deleted_record_goes_back_to_before_a_field_was_added_and_a_removal_is_a_conflict() {
    let app = App::spawn().await;
    let second = app.make_token(Role::Officer, "second-officer").await;
    let first =
        app.submitter().submit(&change("create", "2026-01-01T00:00:00Z", &json!([{"field": "a", "new": 1}]))).await;
    let set =
        app.submitter().submit(&change("update", "2026-01-02T00:00:00Z", &json!([{"field": "b", "new": 2}]))).await;
    let removed =
        app.submitter().submit(&change("update", "2026-01-03T00:00:00Z", &json!([{"field": "b", "old": 2}]))).await;
    let undo = plan(&app, &json!({"undo": set["id"]})).await.json();
    assert_eq!(undo["conflicts"][0]["changed_by"]["entry"], removed["id"], "{undo:#}");
    app.submitter().submit(&change("update", "2026-01-04T00:00:00Z", &json!([{"field": "b", "new": 3}]))).await;
    app.submitter().submit(&change("delete", "2026-01-05T00:00:00Z", &json!([{"field": "a", "old": 1}]))).await;
    let made = plan(&app, &json!({"sequence": first["sequence"]})).await.json();
    let path = format!("/v1/restores/{}", id(&made));
    let because = json!({"reason": {"code": "HCOMPL"}});
    assert_eq!(app.with_token(&second).post(&format!("{path}/approve"), &because).await.status, 200);
    let confirm = json!({"actor": {"id": "ana"}, "reason": {"code": "TREAT", "change": "EIE", "note": "back"}});
    assert_eq!(app.submitter().post(&format!("{path}/confirm"), &confirm).await.status, 201);
    assert_eq!(fields(&item(&app, "state").await), json!({"a": 1}));
    assert_eq!(item(&app, "continuity").await["breaks"], json!([]));
    app.finish();
}

#[tokio::test]
async fn who_writes_to_anothers_record_does_not_come_to_own_it_nor_confirms_before_the_last_change() {
    let app = App::spawn().await;
    let second = app.make_token(Role::Officer, "second-officer").await;
    let other = app.make_token(Role::Submitter, "another-app").await;
    let first =
        app.submitter().submit(&change("create", "2026-01-01T00:00:00Z", &json!([{"field": "a", "new": 1}]))).await;
    app.submitter()
        .submit(&change("update", "2026-01-05T00:00:00Z", &json!([{"field": "a", "old": 1, "new": 2}])))
        .await;
    app.with_token(&other).submit(&change("update", "2026-01-06T00:00:00Z", &json!([{"field": "z", "new": 1}]))).await;
    let made = plan(&app, &json!({"sequence": first["sequence"]})).await.json();
    assert_eq!(made["owner"], "submitter-app");
    let path = format!("/v1/restores/{}", id(&made));
    let because = json!({"reason": {"code": "HCOMPL"}});
    assert_eq!(app.with_token(&second).post(&format!("{path}/approve"), &because).await.status, 200);
    assert_eq!(app.with_token(&other).get(&path).await.status, 404);
    let early = json!({"actor": {"id": "ana"}, "occurred_at": "2026-01-03T00:00:00Z", "reason": {"code": "TREAT", "change": "EIE", "note": "back"}});
    assert_eq!(app.submitter().post(&format!("{path}/confirm"), &early).await.code(), "time_order");
    app.finish();
}
