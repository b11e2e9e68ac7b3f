//! Wrong questions: searches, cursors, reveals, reports, tokens, keys, paths and methods.

use phivault::domain::caller::Role;
use serde_json::{Value, json};

use super::{CANARY, UNKNOWN, full, refused, with};
use crate::app::App;
use crate::ingest::size_of;

#[tokio::test]
async fn a_wrong_parameter_of_a_search_or_report_is_named() {
    let app = App::spawn().await;
    app.submitter().submit(&full()).await;
    let size = size_of(&app).await;
    let texts = "actor patient record_type field reason category session source";
    let mut cases: Vec<(String, &str, &str)> = Vec::new();
    for name in texts.split(' ') {
        cases.push((format!("{name}="), "empty", name));
        cases.push((format!("{name}=%20%20"), "empty", name));
        cases.push((format!("{name}={CANARY}%00"), "control_character", name));
        cases.push((format!("{name}={CANARY}%E2%80%AE"), "control_character", name));
        cases.push((format!("{name}={CANARY}{}", "x".repeat(60_000)), "too_long", name));
    }
    for (query, code, pointer) in [
        ("colour=CANARY-7f3a91c2d4", "unknown_field", "colour"),
        ("actor=a&actor=CANARY-7f3a91c2d4", "duplicate_key", "query"),
        ("record_id=CANARY-7f3a91c2d4", "missing", "record_id"),
        ("action=CANARY-7f3a91c2d4", "parameter_invalid", "action"),
        ("outcome=CANARY-7f3a91c2d4", "parameter_invalid", "outcome"),
        ("from=CANARY-7f3a91c2d4", "parameter_invalid", "from"),
        ("to=2026-11-24", "parameter_invalid", "to"),
        ("time=CANARY-7f3a91c2d4", "parameter_invalid", "time"),
        ("order=CANARY-7f3a91c2d4", "parameter_invalid", "order"),
        ("limit=0", "limit_invalid", "limit"),
        ("limit=1001", "limit_invalid", "limit"),
        ("limit=-1", "wrong_type", "query"),
        ("limit=1.5", "wrong_type", "query"),
        ("limit=CANARY-7f3a91c2d4", "wrong_type", "query"),
        ("limit=99999999999999999999999", "wrong_type", "query"),
        ("break_glass=CANARY-7f3a91c2d4", "wrong_type", "query"),
    ] {
        cases.push((query.into(), code, pointer));
    }
    for (query, code, pointer) in &cases {
        let what = &query[..query.len().min(60)];
        refused(what, &app.officer().get(&format!("/v1/entries?{query}")).await, 400, code, Some(pointer));
        assert_eq!(size_of(&app).await, size, "{what}: a question that is none is not recorded as a search");
    }
    for (query, status, code) in [
        ("", 422, "reason_missing"),
        ("reason=CANARY-7f3a91c2d4", 422, "reason_unknown"),
        ("reason=OVRER", 422, "note_required"),
        ("reason=HCOMPL&format=CANARY-7f3a91c2d4", 400, "parameter_invalid"),
        ("reason=HCOMPL&time_zone=CANARY-7f3a91c2d4", 400, "parameter_invalid"),
        ("reason=HCOMPL&time_zone=%2B25:00", 400, "parameter_invalid"),
        ("reason=HCOMPL&from=CANARY-7f3a91c2d4", 400, "parameter_invalid"),
        ("reason=HCOMPL&actor=%00CANARY-7f3a91c2d4", 400, "control_character"),
        ("reason=HCOMPL&patient=CANARY-7f3a91c2d4", 400, "unknown_field"),
    ] {
        refused(query, &app.officer().get(&format!("/v1/reports/access?{query}")).await, status, code, None);
    }
    let partial = app.submitter().post("/v1/entries/batch?partial=CANARY-7f3a91c2d4", &json!([full()])).await;
    refused("partial", &partial, 400, "wrong_type", None);
    assert_eq!(size_of(&app).await, size, "nothing refused is recorded as done");
    assert!(!app.log().contains(CANARY), "the log holds a query");
    app.finish();
}

#[tokio::test]
async fn a_query_in_a_body_is_checked_like_one_in_the_path() {
    let app = App::spawn().await;
    let size = size_of(&app).await;
    for (body, status, code, pointer) in [
        (json!({"colour": CANARY}), 422, "unknown_field", "/colour"),
        (json!({"actor": 7}), 422, "wrong_type", "/actor"),
        (json!({"actor": [CANARY]}), 422, "wrong_type", "/actor"),
        (json!({"limit": CANARY}), 422, "wrong_type", "/limit"),
        (json!({"limit": -1}), 422, "wrong_type", "/limit"),
        (json!({"break_glass": "true"}), 422, "wrong_type", "/break_glass"),
        (json!({"actor": ""}), 400, "empty", "actor"),
        (json!({"actor": format!("{CANARY}\u{202e}")}), 400, "control_character", "actor"),
        (json!({"limit": 1001}), 400, "limit_invalid", "limit"),
        (json!({"from": CANARY}), 400, "parameter_invalid", "from"),
        (json!({"cursor": CANARY}), 400, "cursor_invalid", ""),
    ] {
        let place = (!pointer.is_empty()).then_some(pointer);
        refused(&body.to_string(), &app.officer().post("/v1/entries/query", &body).await, status, code, place);
    }
    assert_eq!(size_of(&app).await, size, "a question that is none is not recorded as a search");
    app.finish();
}

#[tokio::test]
async fn a_cursor_holds_for_its_own_query_and_token_only() {
    let app = App::spawn().await;
    for n in 0..5 {
        let mut sent = with("/record/id", json!(format!("c-{n}")));
        sent["actor"]["id"] = json!("dr_smith");
        app.submitter().submit(&sent).await;
    }
    let query = "/v1/entries?actor=dr_smith&limit=2";
    let next = app.officer().get(query).await.json()["next"].as_str().unwrap().to_owned();
    let size = size_of(&app).await;
    let mut wrong: Vec<String> = [CANARY, "", "00", "%FF", "null"].map(|it| format!("{query}&cursor={it}")).to_vec();
    for at in (0..next.len()).step_by(2) {
        let byte = u8::from_str_radix(&next[at..at + 2], 16).unwrap() ^ 1;
        wrong.push(format!("{query}&cursor={}{byte:02x}{}", &next[..at], &next[at + 2..]));
    }
    wrong.push(format!("{query}&cursor={}", &next[2..]));
    wrong.push(format!("{query}&cursor={next}00"));
    for other in
        ["actor=dr_jones", "patient=x&actor=dr_smith", "actor=dr_smith&order=oldest", "actor=dr_smith&time=occurred"]
    {
        wrong.push(format!("/v1/entries?{other}&cursor={next}"));
    }
    for path in &wrong {
        refused(path, &app.officer().get(path).await, 400, "cursor_invalid", None);
    }
    let continued = format!("{query}&cursor={next}");
    let other = app.with_token(&app.make_token(Role::Officer, "other-officer").await);
    refused("another officer", &other.get(&continued).await, 400, "cursor_invalid", None);
    refused("an auditor", &app.auditor().get(&continued).await, 400, "cursor_invalid", None);
    let page = app.officer().get(&continued).await;
    assert_eq!(page.json()["entries"].as_array().map(Vec::len), Some(2), "the cursor itself is good: {page:?}");
    // Only the other officer's token is recorded, with a seal entry: the pages of a query are the query.
    assert_eq!(size_of(&app).await, size + 2, "nothing refused is recorded as done");
    app.finish();
}

#[tokio::test]
async fn a_reveal_names_1_to_1000_entries_that_exist_and_a_reason() {
    let app = App::spawn().await;
    let known = app.submitter().submit(&full()).await["id"].clone();
    let size = size_of(&app).await;
    let reason = json!({"code": "HCOMPL"});
    let braced = format!("{{{UNKNOWN}}}");
    let many = |count: usize| Value::Array(vec![json!(UNKNOWN); count]);
    for (ids, status, code, pointer) in [
        (json!([]), 422, "too_many", "/ids"),
        (Value::Null, 422, "too_many", "/ids"),
        (many(1_001), 422, "too_many", "/ids"),
        (json!([CANARY]), 422, "id_invalid", "/ids/0"),
        (json!([known, braced]), 422, "id_invalid", "/ids/1"),
        (json!([known, UNKNOWN.replace('-', "")]), 422, "id_invalid", "/ids/1"),
        (json!([""]), 422, "id_invalid", "/ids/0"),
        (json!([7]), 422, "wrong_type", "/ids/0"),
        (json!([[known]]), 422, "wrong_type", "/ids/0"),
        (json!(CANARY), 422, "wrong_type", "/ids"),
        (json!([known, UNKNOWN]), 404, "not_found", ""),
        (many(1_000), 404, "not_found", ""),
    ] {
        let answer = app.officer().post("/v1/reveal", &json!({"ids": ids, "reason": reason})).await;
        let what = ids.to_string();
        refused(&what[..what.len().min(80)], &answer, status, code, (!pointer.is_empty()).then_some(pointer));
    }
    for (reason, code, pointer) in [
        (Value::Null, "reason_missing", "/reason/code"),
        (json!({}), "reason_missing", "/reason/code"),
        (json!({"note": CANARY}), "reason_missing", "/reason/code"),
        (json!({"code": CANARY}), "reason_unknown", "/reason/code"),
        (json!({"code": "OVRER", "note": " "}), "note_required", "/reason/note"),
        (json!({"code": "HCOMPL", "change": "NEWDATA"}), "change_not_allowed", "/reason/change"),
        (json!({"code": "HCOMPL", "note": format!("{CANARY}\u{0}")}), "control_character", "/reason/note"),
        (json!({"code": "HCOMPL", "note": CANARY.repeat(600)}), "too_long", "/reason/note"),
        (json!({"code": "HCOMPL", "note": 7}), "wrong_type", "/reason/note"),
        (json!(CANARY), "wrong_type", "/reason"),
    ] {
        let one = format!("/v1/entries/{}/reveal", known.as_str().unwrap());
        refused(&one, &app.officer().post(&one, &json!({"reason": reason})).await, 422, code, Some(pointer));
        let both = json!({"ids": [known], "reason": reason});
        refused(code, &app.officer().post("/v1/reveal", &both).await, 422, code, Some(pointer));
        let rotated = app.admin().post("/v1/keys/rotate", &json!({"reason": reason})).await;
        refused(code, &rotated, 422, code, Some(pointer));
    }
    assert_eq!(size_of(&app).await, size, "nothing refused is recorded as done");
    assert_eq!(app.admin().get("/v1/keys").await.json()["active"], json!(1), "no key was rotated");
    app.finish();
}

#[tokio::test]
async fn a_token_that_breaks_a_rule_is_not_made_or_revoked() {
    let app = App::spawn().await;
    let count = async || app.admin().get("/v1/tokens").await.json()["tokens"].as_array().map(Vec::len);
    let before = count().await;
    let size = size_of(&app).await;
    let good = json!({"role": "auditor", "label": "x"});
    for (name, value, code, pointer) in [
        ("role", Value::Null, "role_unknown", "/role"),
        ("role", json!("king"), "role_unknown", "/role"),
        ("role", json!("Admin"), "role_unknown", "/role"),
        ("role", json!(["admin"]), "wrong_type", "/role"),
        ("label", Value::Null, "empty", "/label"),
        ("label", json!("  "), "empty", "/label"),
        ("label", json!("x".repeat(257)), "too_long", "/label"),
        ("label", json!(format!("{CANARY}\u{202e}")), "control_character", "/label"),
        ("label", json!("phivault"), "label_reserved", "/label"),
        ("expires_at", json!("2001-01-01T00:00:00Z"), "time_invalid", "/expires_at"),
        ("expires_at", json!(CANARY), "time_invalid", "/expires_at"),
        ("expires_at", json!(7), "wrong_type", "/expires_at"),
        ("allowed_sources", json!([CANARY]), "network_invalid", "/allowed_sources/0"),
        ("allowed_sources", json!(["10.0.0.0/8", "10.0.0.0/33"]), "network_invalid", "/allowed_sources/1"),
        ("allowed_sources", json!(vec!["10.0.0.0/8"; 33]), "too_many", "/allowed_sources"),
        ("allowed_sources", json!(CANARY), "wrong_type", "/allowed_sources"),
        ("reason", json!({"code": CANARY}), "reason_unknown", "/reason/code"),
        ("token", json!(CANARY), "unknown_field", "/token"),
    ] {
        let mut asked = good.clone();
        asked[name] = value;
        refused(&asked.to_string(), &app.admin().post("/v1/tokens", &asked).await, 422, code, Some(pointer));
    }
    let id = app.admin().get("/v1/tokens").await.json()["tokens"][1]["id"].as_str().unwrap().to_owned();
    for (path, status, code) in [
        (format!("/v1/tokens/{CANARY}"), 404, "not_found"),
        (format!("/v1/tokens/{UNKNOWN}"), 404, "not_found"),
        (format!("/v1/tokens/{id}?reason={CANARY}"), 422, "reason_unknown"),
        (format!("/v1/tokens/{id}?reason=OVRER"), 422, "note_required"),
        (format!("/v1/tokens/{id}?colour={CANARY}"), 400, "unknown_field"),
    ] {
        refused(&path, &app.admin().delete(&path).await, status, code, None);
    }
    // The list that gave the id is recorded.
    assert_eq!(size_of(&app).await, size + 1, "nothing refused is recorded as done");
    assert_eq!(count().await, before, "no token was made");
    let listed = app.admin().get("/v1/tokens").await.json();
    assert!(listed["tokens"].as_array().unwrap().iter().all(|it| it["revoked_at"].is_null()), "{listed:#}");
    app.finish();
}

#[tokio::test]
async fn paths_methods_and_ids_that_are_not_there_are_refused() {
    let app = App::spawn().await;
    let paths = "/v1 /v1/ /v1/nothing /v1/entries/ /v1/entries/a/b /v1/../etc/passwd /v1/entries%2Fbatch //v1/entries /V1/entries \
        /checkpoint/ /docs/ /docs/../Cargo.toml /docs/docs.map /metrics/CANARY-7f3a91c2d4 /favicon.ico";
    for path in paths.split_whitespace() {
        refused(path, &app.officer().get(path).await, 404, "no_such_route", None);
    }
    let simple = UNKNOWN.replace('-', "");
    for id in [UNKNOWN, CANARY, &format!("%7B{UNKNOWN}%7D"), &simple, "%00", "%FF", "..%2F..", &"x".repeat(30_000)] {
        let what = &id[..id.len().min(40)];
        refused(what, &app.officer().get(&format!("/v1/entries/{id}")).await, 404, "not_found", None);
        refused(what, &app.officer().get(&format!("/v1/entries/{id}/proof")).await, 404, "not_found", None);
        let reason = json!({"reason": {"code": "HCOMPL", "note": CANARY}});
        let answer = app.officer().post(&format!("/v1/entries/{id}/reveal"), &reason).await;
        refused(what, &answer, 404, "not_found", None);
    }
    for (path, methods) in [
        ("/v1/entries", "PUT PATCH DELETE OPTIONS TRACE BREW"),
        ("/v1/entries/batch", "GET PUT DELETE"),
        ("/v1/entries/query", "GET PUT DELETE"),
        ("/v1/entries/0193595e-0000-7000-8000-000000000000", "POST PUT PATCH DELETE"),
        ("/v1/entries/0193595e-0000-7000-8000-000000000000/reveal", "GET PUT DELETE"),
        ("/v1/entries/0193595e-0000-7000-8000-000000000000/proof", "POST PUT DELETE"),
        ("/v1/reveal", "GET PUT DELETE"),
        ("/v1/reports/access", "POST PUT DELETE"),
        ("/v1/reasons", "POST PUT DELETE"),
        ("/v1/tokens", "PUT PATCH DELETE"),
        ("/v1/tokens/tok-0", "GET POST PUT"),
        ("/v1/keys", "POST PUT DELETE"),
        ("/v1/keys/rotate", "GET PUT DELETE"),
        ("/checkpoint", "POST PUT DELETE"),
        ("/healthz", "POST DELETE"),
        ("/readyz", "POST DELETE"),
        ("/metrics", "POST DELETE"),
        ("/openapi.json", "POST DELETE"),
        ("/docs", "POST DELETE"),
    ] {
        for method in methods.split(' ') {
            let request = app.officer().request(method.parse().unwrap(), path).body(CANARY);
            let answer = app.officer().send(request).await;
            refused(&format!("{method} {path}"), &answer, 405, "method_not_allowed", None);
        }
    }
    assert!(!app.log().contains(CANARY), "the log holds a path or a body");
    app.finish();
}
