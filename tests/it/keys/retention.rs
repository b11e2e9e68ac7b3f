//! Holds, disposal of buckets, and erasing one entry by order.

use serde_json::{Value, json};

use super::{TEN_YEARS, Two, certificate, holds, proof, reason, reencrypt, reveal};
use crate::app::{App, entry};

/// Places a hold; gives back its id.
async fn place(app: &App, name: &str, scope: &Value) -> String {
    let body =
        json!({"name": name, "authority": "Superior Court, 26-1177", "scope": scope, "reason": {"code": "HLEGAL"}});
    let answer = app.officer().post("/v1/holds", &body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["id"].as_str().unwrap().to_owned()
}

async fn lift(app: &App, id: &str) {
    let answer = app.officer().post(&format!("/v1/holds/{id}/lift"), &json!({"reason": {"code": "HLEGAL"}})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

async fn plan(app: &App) -> Vec<Value> {
    let answer = app.officer().get("/v1/retention/plan").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["buckets"].as_array().unwrap().clone()
}

fn bucket<'a>(plan: &'a [Value], class: &str) -> &'a Value {
    plan.iter().find(|it| it["class"] == class).unwrap_or_else(|| panic!("no bucket of {class}: {plan:#?}"))
}

#[tokio::test]
async fn values_die_when_their_time_has_ended_and_everything_else_stays() {
    let mut two = Two::spawn().await;
    let old = two.app.submitter().submit(&entry()).await;
    let mut longer = entry();
    longer["retention"] = json!("extended");
    let longer = two.app.submitter().submit(&longer).await;
    let mut minor = entry();
    minor["patient"]["birth_date"] = json!(chrono::Utc::now().format("%Y-%m-%d").to_string());
    let minor = two.app.submitter().submit(&minor).await;
    let given = proof(&two.app, &old).await;
    two.rotate().await;
    let number = bucket(&plan(&two.app).await, "standard")["bucket"].clone();
    let dispose = json!({"operation": "dispose", "bucket": number});
    assert_eq!(two.refused(&dispose).await, "not_due");
    assert_eq!(
        two.refused(&json!({"operation": "dispose", "bucket": 1})).await,
        "unknown_bucket",
        "the vault's own stays"
    );
    two.app.stop();
    let before = std::fs::read(two.app.dir().join("data/vault.db")).unwrap();
    two.app.set("PHIVAULT_TEST_DAYS_AHEAD", &TEN_YEARS.to_string());
    two.app.start();
    let young = two.app.submitter().submit(&entry()).await;
    let due = plan(&two.app).await;
    let states: Vec<_> = due.iter().filter(|it| it["state"] == "due").collect();
    assert_eq!((states.len(), &states[0]["bucket"]), (1, &number), "{due:#?}");
    let done = two.both(&dispose).await;
    assert_eq!(done["bucket"], number, "{done:#}");
    let said = certificate(&two.app, &done["certificate"]).await;
    for part in [
        format!("bucket {number}"),
        "class standard".into(),
        "requested by admin".into(),
        "done by second-admin".into(),
    ] {
        assert!(said.contains(&part), "{part} in {said}");
    }
    for restart in [false, true] {
        if restart {
            two.app.stop();
            two.app.start();
        }
        let gone = reveal(&two.app, &old).await;
        assert_eq!((gone.status, gone.code().as_str()), (410, "shredded"));
        assert!(gone.text.contains(done["certificate"].as_str().unwrap()), "{gone:?}");
        for kept in [&longer, &minor, &young] {
            assert_eq!(reveal(&two.app, kept).await.json()["changes"], entry()["changes"]);
        }
        let shown = two.app.auditor().get(&format!("/v1/entries/{}", old["id"].as_str().unwrap())).await.json();
        assert_eq!((&shown["leaf_hash"], &shown["actor"]["id"]), (&old["leaf_hash"], &json!("dr_smith")));
    }
    holds(&two.app, &old, &given);
    assert_eq!(two.refused(&dispose).await, "disposed");
    let again = reencrypt(&two.app).await;
    assert_eq!(again["damaged"], json!(0), "what is erased is not damaged: {again:#}");
    two.app.stop();
    // The old ciphertexts are in no file any more, and this keyring does not open them.
    let stored = crate::check::entries(two.app.dir());
    let sealed = &stored[usize::try_from(old["sequence"].as_u64().unwrap()).unwrap()].sealed;
    assert_eq!(sealed.len(), 21);
    let old_row = before.windows(32).any(|it| it == stored[old["sequence"].as_u64().unwrap() as usize].commitment);
    assert!(old_row, "the copy from before holds the row");
    two.app.start();
    two.app.finish();
}

#[tokio::test]
async fn a_hold_stops_disposal_and_redaction_whatever_way_it_is_tried() {
    let mut two = Two::spawn().await;
    let mine = two.app.submitter().submit(&entry()).await;
    let mut other = entry();
    (other["patient"]["id"], other["actor"]["id"]) = (json!("MRN-2"), json!("dr_jones"));
    other["related"] = json!([{"type": "Patient", "id": "MRN-12345"}]);
    let named = two.app.submitter().submit(&other).await;
    (other["related"], other["record"]["id"]) = (json!([]), json!("c-9"));
    let free = two.app.submitter().submit(&other).await;
    let held = place(&two.app, "case 1", &json!({"patient": "MRN-12345"})).await;
    let redact = |it: &Value| json!({"operation": "redact", "entry": it["id"], "authority": "GDPR request 9"});
    for it in [&mine, &named] {
        assert_eq!(two.refused(&redact(it)).await, "held");
    }
    two.both(&redact(&free)).await;
    assert_eq!(reveal(&two.app, &free).await.status, 410);
    // Asked for before the hold, approved after it.
    lift(&two.app, &held).await;
    let early = two.ask(&redact(&mine)).await;
    let scopes = [
        json!({"actor": "dr_smith"}),
        json!({"record_type": "Condition", "record_id": "c-77"}),
        json!({"from": "2020-01-01T00:00:00Z", "to": "2200-01-01T00:00:00Z"}),
        json!({"patient": "MRN-12345", "actor": "dr_smith"}),
    ];
    for (n, scope) in scopes.iter().enumerate() {
        let id = place(&two.app, &format!("case {n}"), scope).await;
        assert_eq!(two.approve(&early).await.code(), "held", "{scope}");
        lift(&two.app, &id).await;
    }
    let far = place(&two.app, "elsewhere", &json!({"patient": "MRN-777"})).await;
    let held = place(&two.app, "case 9", &json!({"patient": "MRN-12345"})).await;
    // Ten years on, after restarts and rotations, the bucket is due but held.
    two.rotate().await;
    two.app.stop();
    two.app.set("PHIVAULT_TEST_DAYS_AHEAD", &TEN_YEARS.to_string());
    two.app.start();
    let planned = plan(&two.app).await;
    let standard = bucket(&planned, "standard").clone();
    assert_eq!((&standard["state"], &standard["held_by"]), (&json!("held"), &json!(["case 9"])), "{standard:#}");
    let dispose = json!({"operation": "dispose", "bucket": standard["bucket"]});
    assert_eq!(two.refused(&dispose).await, "held");
    // Whoever edits the hold's row in the database is found out at the next start, and the vault says so.
    lift(&two.app, &held).await;
    lift(&two.app, &far).await;
    assert_eq!(bucket(&plan(&two.app).await, "standard")["state"], "due");
    let id = two.ask(&dispose).await;
    let last = place(&two.app, "last minute", &json!({"actor": "dr_jones"})).await;
    assert_eq!(two.approve(&id).await.code(), "held");
    lift(&two.app, &last).await;
    assert_eq!(two.approve(&id).await.status, 200);
    assert_eq!(reveal(&two.app, &mine).await.status, 410);
    let listed = two.app.officer().get("/v1/holds").await.json();
    assert!(listed["holds"].as_array().unwrap().iter().all(|it| !it["lifted_at"].is_null()), "{listed:#}");
    two.app.finish();
}

#[tokio::test]
async fn a_hold_that_says_nothing_or_nonsense_is_refused() {
    let app = App::spawn().await;
    let good = json!({"name": "case", "authority": "court", "scope": {"actor": "a"}, "reason": {"code": "HLEGAL"}});
    let with = |change: fn(&mut Value)| {
        let mut it = good.clone();
        change(&mut it);
        it
    };
    for (body, code) in [
        (with(|it| it["scope"] = json!({})), "missing"),
        (with(|it| it["authority"] = json!(" ")), "missing"),
        (with(|it| it["reason"] = json!({})), "reason_missing"),
        (with(|it| it["scope"] = json!({"record_id": "c"})), "missing"),
        (with(|it| it["scope"] = json!({"from": "yesterday"})), "parameter_invalid"),
    ] {
        let answer = app.officer().post("/v1/holds", &body).await;
        assert_eq!(answer.status, 422, "{body}: {answer:?}");
        assert_eq!(answer.code(), code, "{body}");
    }
    assert_eq!(app.officer().post("/v1/holds", &good).await.status, 201);
    assert_eq!(app.officer().post("/v1/holds", &good).await.code(), "name_taken");
    app.finish();
}

#[tokio::test]
async fn an_entry_is_erased_by_order_and_its_proof_holds() {
    let two = Two::spawn().await;
    let mine = two.app.submitter().submit(&entry()).await;
    let given = proof(&two.app, &mine).await;
    let neighbour = two.app.submitter().submit(&entry()).await;
    let redact =
        json!({"operation": "redact", "entry": mine["id"], "authority": "Order 5 of Judge Doe about MRN-12345"});
    let done = two.both(&redact).await;
    let said = certificate(&two.app, &done["certificate"]).await;
    assert!(said.contains(mine["id"].as_str().unwrap()) && !said.contains("Judge") && !said.contains("MRN"), "{said}");
    let gone = reveal(&two.app, &mine).await;
    assert!(gone.status == 410 && gone.text.contains(done["certificate"].as_str().unwrap()), "{gone:?}");
    assert_eq!(reveal(&two.app, &neighbour).await.json()["changes"], entry()["changes"]);
    assert_eq!(two.refused(&redact).await, "erased");
    let own = json!({"operation": "redact", "entry": done["certificate"], "authority": "me"});
    assert_eq!(two.refused(&own).await, "own_entry");
    let unknown = json!({"request": {"operation": "redact", "entry": "0193595e-0000-7000-8000-000000000000", "authority": "x"}, "reason": reason()});
    assert_eq!(two.app.admin().post("/v1/admin/operations", &unknown).await.status, 404);
    // The same id again is a conflict: nobody can tell whether it says the same, and under another id it would come back.
    let mut again = entry();
    again["id"] = mine["id"].clone();
    let answer = two.app.submitter().post("/v1/entries", &again).await;
    assert_eq!((answer.status, answer.code().as_str()), (409, "entry_gone"), "{answer:?}");
    let lines = format!("{}\n{again}\n", entry());
    let path = "/v1/entries/batch?partial=true";
    let answer = two.app.submitter().post_text(path, "application/x-ndjson", lines).await.json();
    assert_eq!(answer["results"][1]["errors"][0]["code"], "entry_gone", "{answer:#}");
    holds(&two.app, &mine, &given);
    // The patient's own trail shows that it happened.
    let trail = two.app.officer().get("/v1/entries?patient=MRN-12345&action=redact").await.json();
    assert_eq!(trail["entries"].as_array().unwrap().len(), 1, "{trail:#}");
    let disclosed = two
        .app
        .officer()
        .post(
            &format!("/v1/entries/{}/disclose", mine["id"].as_str().unwrap()),
            &json!({"paths": ["note"], "reason": {"code": "HLEGAL"}}),
        )
        .await;
    assert_eq!(disclosed.status, 410, "{disclosed:?}");
    two.app.finish();
}

#[tokio::test]
async fn a_class_or_birth_date_that_makes_no_sense_is_refused() {
    let app = App::spawn().await;
    for (change, code) in [
        (json!({"retention": "nope"}), "retention_unknown"),
        (json!({"patient": {"id": "a", "birth_date": "2999-01-01"}}), "date_invalid"),
        (json!({"patient": {"id": "a", "birth_date": "1.2.2000"}}), "date_invalid"),
    ] {
        let mut it = entry();
        it.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let answer = app.submitter().post("/v1/entries", &it).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, code), "{change}");
    }
    app.finish();
}
