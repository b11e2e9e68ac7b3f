//! Bad input gets a problem with a stable code and a pointer, never a 500, never an echoed value; and the vault is unchanged.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::app::{Answer, App, Options, entry};
use crate::ingest::size_of;

/// Stands wherever a value may stand; it must never come back.
const CANARY: &str = "CANARY-7f3a91c2d4";

/// A submission with one thing changed.
fn with(pointer: &str, value: Value) -> Value {
    let mut sent = entry();
    sent["reason"]["note"] = json!(CANARY);
    sent["changes"][0]["new"] = json!(CANARY);
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = sent.pointer_mut(parent).unwrap();
    match (parent, value) {
        (Value::Object(map), Value::Null) => drop(map.remove(name)),
        (parent, value) => parent[name] = value,
    }
    sent
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(CANARY), |inner, _| json!([inner]))
}

/// Expects a refusal with that status, code and pointer.
fn refused(what: &str, answer: &Answer, status: u16, code: &str, pointer: Option<&str>) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{what}: {answer:?}");
    let problem = answer.json();
    for name in ["type", "title", "detail", "request_id"] {
        assert!(!problem[name].as_str().unwrap().is_empty(), "{what}: {name}");
    }
    assert_eq!(problem["request_id"], json!(answer.headers["x-request-id"].to_str().unwrap()), "{what}");
    assert!(!answer.text.contains(CANARY), "{what} echoes a value: {}", answer.text);
    if let Some(pointer) = pointer {
        let found = problem["errors"].as_array().unwrap().iter().any(|it| it["pointer"] == pointer);
        assert!(found, "{what}: no error at {pointer}: {problem:#}");
    }
}

#[tokio::test]
async fn a_submission_that_breaks_a_rule_is_refused_with_code_and_pointer() {
    let app = App::spawn().await;
    let size = size_of(&app).await;
    let long = "x".repeat(300);
    let cases: Vec<(&str, Value, &str, &str)> = vec![
        ("unknown top-level field", with("/secret", json!(CANARY)), "unknown_field", "/secret"),
        ("unknown nested field", with("/actor/secret", json!(CANARY)), "unknown_field", "/actor/secret"),
        ("unknown field of a change", with("/changes/0/secret", json!(CANARY)), "unknown_field", "/changes/0/secret"),
        ("sequence set from outside", with("/sequence", json!(7)), "unknown_field", "/sequence"),
        ("source set from outside", with("/source", json!("other")), "unknown_field", "/source"),
        ("a number for a text", with("/actor/id", json!(5)), "wrong_type", "/actor/id"),
        ("a text for an object", with("/patient", json!(CANARY)), "wrong_type", "/patient"),
        ("an object for a list", with("/changes", json!({"field": CANARY})), "wrong_type", "/changes"),
        ("a number for a note", with("/reason/note", json!(5)), "wrong_type", "/reason/note"),
        ("no reason", with("/reason", Value::Null), "reason_missing", "/reason/code"),
        ("an empty reason", with("/reason/code", json!("")), "reason_missing", "/reason/code"),
        ("an unknown reason", with("/reason/code", json!(CANARY)), "reason_unknown", "/reason/code"),
        ("an unknown change code", with("/reason/change", json!(CANARY)), "change_unknown", "/reason/change"),
        (
            "a change code for another action",
            with("/reason/change", json!("MDATA-X")),
            "change_unknown",
            "/reason/change",
        ),
        ("no action", with("/action", Value::Null), "action_missing", "/action"),
        ("an unknown action", with("/action", json!(CANARY)), "action_unknown", "/action"),
        ("the vault's own action", with("/action", json!("reveal")), "action_unknown", "/action"),
        ("no actor", with("/actor", Value::Null), "missing", "/actor/id"),
        ("an empty actor", with("/actor/id", json!("")), "empty", "/actor/id"),
        ("a blank actor", with("/actor/id", json!(" \u{a0}")), "empty", "/actor/id"),
        ("a long actor", with("/actor/id", json!(long)), "too_long", "/actor/id"),
        ("an actor of no type", with("/actor/type", json!("robot")), "actor_type_unknown", "/actor/type"),
        ("no patient", with("/patient", Value::Null), "patient_required", "/patient/id"),
        ("no record", with("/record", Value::Null), "record_required", "/record"),
        ("half a record", with("/record/id", Value::Null), "missing", "/record/id"),
        ("no changes", with("/changes", json!([])), "changes_required", "/changes"),
        ("a change without a field", with("/changes/0/field", Value::Null), "missing", "/changes/0/field"),
        ("an unknown outcome", with("/outcome", json!("maybe")), "outcome_unknown", "/outcome"),
        ("an id that is no UUID", with("/id", json!(CANARY)), "id_invalid", "/id"),
        ("an id in braces", with("/id", json!("{0193595e-7a3c-7cc2-9c1f-0d5c3f1b2a44}")), "id_invalid", "/id"),
        ("the nil id", with("/id", json!("00000000-0000-0000-0000-000000000000")), "id_invalid", "/id"),
        ("a time that is none", with("/occurred_at", json!("yesterday")), "time_invalid", "/occurred_at"),
        ("a time in the future", with("/occurred_at", json!("2190-01-01T00:00:00Z")), "time_in_future", "/occurred_at"),
        (
            "an end before the beginning",
            {
                let mut sent = with("/occurred_at", json!("2026-01-02T00:00:00Z"));
                sent["ended_at"] = json!("2026-01-01T00:00:00Z");
                sent
            },
            "time_order",
            "/ended_at",
        ),
        ("a control character in an id", with("/record/id", json!("c\u{7}")), "control_character", "/record/id"),
        (
            "a mark that turns text around",
            with("/actor/id", json!("dr\u{202e}htims")),
            "control_character",
            "/actor/id",
        ),
        (
            "a control character in a value",
            with("/changes/0/old", json!(format!("{CANARY}\u{0}"))),
            "control_character",
            "/changes/0/old",
        ),
        (
            "a control character in a note",
            with("/reason/note", json!(format!("{CANARY}\u{1b}"))),
            "control_character",
            "/reason/note",
        ),
        ("a value nested too deep", with("/changes/0/old", nested(33)), "too_deep", "/changes/0/old"),
        ("a value too large", with("/changes/0/old", json!("x".repeat(65_600))), "value_too_large", "/changes/0/old"),
        ("a note too long", with("/reason/note", json!("x".repeat(8_200))), "too_long", "/reason/note"),
        (
            "201 changes",
            with("/changes", (0..201).map(|n| json!({"field": "f", "new": n})).collect()),
            "too_many",
            "/changes",
        ),
        ("a change of nothing", with("/changes", json!([{"field": "f"}])), "change_empty", "/changes/0"),
        (
            "too many labels",
            with("/sensitivity", (0..40).map(|n| json!(format!("L{n}"))).collect()),
            "too_many",
            "/sensitivity",
        ),
        ("a context key with a space", with("/context", json!({"a b": CANARY})), "key_invalid", "/context"),
    ];
    for (what, sent, code, pointer) in &cases {
        let answer = app.submitter().post("/v1/entries", sent).await;
        refused(what, &answer, 422, code, Some(pointer));
    }
    let deep_enough = with("/changes/0/old", nested(32));
    assert_eq!(app.submitter().post("/v1/entries", &deep_enough).await.status, 201, "32 deep is allowed");
    assert_eq!(size_of(&app).await, size + 1, "nothing refused went in");
    assert!(!app.log().contains(CANARY));
    app.finish();
}

#[tokio::test]
async fn notes_are_required_where_the_vocabulary_says_so_and_retired_codes_are_refused() {
    let reasons = "version='1'\nsystem='s'\n[[purpose]]\ncode='TREAT'\ndisplay='t'\n[[purpose]]\ncode='HSYSADMIN'\ndisplay='a'\n\
                   [[purpose]]\ncode='OLD'\ndisplay='o'\nretired=true\n[[site]]\ncode='WARD'\ndisplay='w'\nmaps_to='TREAT'\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reasons.toml");
    std::fs::write(&path, reasons).unwrap();
    let env = vec![("PHIVAULT_ENTRIES__REASONS".into(), path.display().to_string())];
    let app = App::spawn_with(Options { env, ..Options::default() }).await;
    let answer = app.submitter().post("/v1/entries", &with("/reason", json!({"code": "OLD"}))).await;
    refused("a retired code", &answer, 422, "reason_retired", Some("/reason/code"));
    assert!(answer.text.contains("WARD") && answer.text.contains("TREAT"), "says what would do: {}", answer.text);
    app.submitter().submit(&with("/reason", json!({"code": "WARD"}))).await;
    app.finish();

    let app = App::spawn().await;
    let needs_note = [("OVRER", "read", None), ("BTG", "update", None), ("TREAT", "delete", Some("EIE"))];
    for (code, action, change) in needs_note {
        let mut sent = with("/reason", json!({"code": code, "change": change}));
        sent["action"] = json!(action);
        let answer = app.submitter().post("/v1/entries", &sent).await;
        refused(code, &answer, 422, "note_required", Some("/reason/note"));
        sent["reason"]["note"] = json!("  ");
        refused(code, &app.submitter().post("/v1/entries", &sent).await, 422, "note_required", Some("/reason/note"));
        sent["reason"]["note"] = json!("unconscious, no proxy");
        app.submitter().submit(&sent).await;
    }
    let mut disclosure = with("/action", json!("disclose"));
    disclosure["reason"] = json!({"code": "PUBHLTH"});
    refused(
        "no recipient",
        &app.submitter().post("/v1/entries", &disclosure).await,
        422,
        "disclosure_required",
        Some("/disclosure"),
    );
    disclosure["disclosure"] = json!({"description": CANARY});
    refused(
        "no name",
        &app.submitter().post("/v1/entries", &disclosure).await,
        422,
        "missing",
        Some("/disclosure/recipient/name"),
    );
    app.finish();
}

#[tokio::test]
async fn bodies_that_are_no_submission_are_refused() {
    let app = App::spawn().await;
    let size = size_of(&app).await;
    let good = entry().to_string();
    let texts: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("nothing", Vec::new(), 400, "invalid_json"),
        ("broken JSON", format!("{{\"action\": \"{CANARY}").into_bytes(), 400, "invalid_json"),
        ("a tail", format!("{good} {CANARY}").into_bytes(), 400, "invalid_json"),
        ("no UTF-8", [b"{\"action\":\"".as_slice(), &[0xff, 0xfe], b"\"}"].concat(), 400, "invalid_json"),
        ("an array", format!("[{good}]").into_bytes(), 422, "wrong_type"),
        ("a text", format!("\"{CANARY}\"").into_bytes(), 422, "wrong_type"),
        ("a key twice", good.replacen('{', "{\"action\":\"read\",", 1).into_bytes(), 422, "duplicate_key"),
        (
            "a key twice in a value",
            good.replace("\"Hypertension\"", "{\"a\":1,\"a\":2}").into_bytes(),
            422,
            "duplicate_key",
        ),
        ("a lone surrogate", good.replace("\"Hypertension\"", "\"\\ud800\"").into_bytes(), 400, "invalid_json"),
        ("a raw control character", good.replace("\"Hypertension\"", "\"\u{1}\"").into_bytes(), 400, "invalid_json"),
        ("1e400", good.replace("\"Hypertension\"", "1e400").into_bytes(), 422, "number_inexact"),
        ("2^64", good.replace("\"Hypertension\"", "18446744073709551616").into_bytes(), 422, "number_inexact"),
        ("20 digits", good.replace("\"Hypertension\"", "0.12345678901234567890").into_bytes(), 422, "number_inexact"),
        (
            "a word of serde's",
            good.replace("\"Hypertension\"", "{\"$serde_json::private::Number\":\"5\"}").into_bytes(),
            400,
            "invalid_json",
        ),
        ("60,000 brackets", "[".repeat(60_000).into_bytes(), 422, "wrong_type"),
        (
            "60,000 brackets in a value",
            good.replace("\"Hypertension\"", &"[".repeat(60_000)).into_bytes(),
            400,
            "invalid_json",
        ),
        ("a body too large", format!("{{\"action\":\"{}\"}}", "x".repeat(1 << 20)).into_bytes(), 413, "body_too_large"),
    ];
    for (what, body, status, code) in texts {
        let answer = app.submitter().post_text("/v1/entries", "application/json", body).await;
        refused(what, &answer, status, code, None);
    }
    let answer = app.submitter().post_text("/v1/entries", "text/plain", good.clone()).await;
    refused("another type", &answer, 415, "media_type", None);
    let request = app.submitter().request(reqwest::Method::POST, "/v1/entries");
    let request =
        request.header("content-type", "application/json").header("content-encoding", "gzip").body(good.clone());
    refused("compressed", &app.submitter().send(request).await, 415, "content_encoding", None);
    let many = "{}\n".repeat(10_001);
    refused(
        "10,001 lines",
        &app.submitter().post_text("/v1/entries/batch", "application/x-ndjson", many).await,
        413,
        "too_many_lines",
        None,
    );
    refused(
        "no line",
        &app.submitter().post_text("/v1/entries/batch", "application/x-ndjson", "\n\n").await,
        422,
        "empty",
        None,
    );
    refused(
        "no array",
        &app.submitter().post_text("/v1/entries/batch", "application/json", good).await,
        400,
        "invalid_json",
        None,
    );
    assert_eq!(size_of(&app).await, size);
    assert!(!app.log().contains(CANARY));
    app.finish();
}

#[tokio::test]
async fn wrong_questions_are_refused() {
    let app = App::spawn().await;
    for n in 0..5 {
        app.submitter().submit(&with("/record/id", json!(format!("c-{n}")))).await;
    }
    let page = app.officer().get("/v1/entries?actor=dr_smith&limit=2").await.json();
    let next = page["next"].as_str().unwrap().to_owned();
    let flipped = format!("{}{}", if next.starts_with("00") { "01" } else { "00" }, &next[2..]);
    let unknown = "0193595e-0000-7000-8000-000000000000";
    let cases = [
        ("GET", format!("/v1/entries?actor=dr_smith&cursor={CANARY}"), 400, "cursor_invalid"),
        ("GET", format!("/v1/entries?actor=dr_smith&cursor={flipped}"), 400, "cursor_invalid"),
        ("GET", format!("/v1/entries?actor=dr_jones&cursor={next}"), 400, "cursor_invalid"),
        ("GET", format!("/v1/entries?actor=dr_smith&order=oldest&cursor={next}"), 400, "cursor_invalid"),
        ("GET", format!("/v1/entries?colour={CANARY}"), 400, "unknown_field"),
        ("GET", format!("/v1/entries?limit={CANARY}"), 400, "wrong_type"),
        ("GET", "/v1/entries?limit=0".into(), 400, "limit_invalid"),
        ("GET", "/v1/entries?limit=1001".into(), 400, "limit_invalid"),
        ("GET", format!("/v1/entries?from={CANARY}"), 400, "parameter_invalid"),
        ("GET", "/v1/entries?record_id=c-1".into(), 400, "missing"),
        ("GET", "/v1/entries?break_glass=perhaps".into(), 400, "wrong_type"),
        ("GET", format!("/v1/entries/{unknown}"), 404, "not_found"),
        ("GET", format!("/v1/entries/{CANARY}"), 404, "not_found"),
        ("GET", format!("/v1/entries/{unknown}/proof"), 404, "not_found"),
        ("GET", "/v1/nothing".into(), 404, "no_such_route"),
        ("GET", "/v1/../etc/passwd".into(), 404, "no_such_route"),
        ("PUT", "/v1/entries".into(), 405, "method_not_allowed"),
        ("DELETE", format!("/v1/entries/{unknown}"), 405, "method_not_allowed"),
        ("GET", "/v1/reports/access".into(), 422, "reason_missing"),
        ("GET", format!("/v1/reports/access?reason={CANARY}"), 422, "reason_unknown"),
        ("GET", "/v1/reports/access?reason=HCOMPL&format=xml".into(), 400, "parameter_invalid"),
        ("GET", "/v1/reports/access?reason=HCOMPL&time_zone=Mars".into(), 400, "parameter_invalid"),
    ];
    for (method, path, status, code) in &cases {
        let request = app.officer().request(method.parse().unwrap(), path);
        let what = format!("{method} {path}");
        let answer = app.officer().send(request).await;
        refused(&what, &answer, *status, code, None);
    }
    let other = app.make_token(phivault::domain::caller::Role::Officer, "other-officer").await;
    let answer = app.with_token(&other).get(&format!("/v1/entries?actor=dr_smith&limit=2&cursor={next}")).await;
    refused("another token's cursor", &answer, 400, "cursor_invalid", None);
    let reason = json!({"code": "HCOMPL"});
    let ids: Vec<_> = (0..1_001).map(|_| unknown).collect();
    for (what, body, status, code) in [
        ("no ids", json!({"ids": [], "reason": reason}), 422, "too_many"),
        ("1,001 ids", json!({"ids": ids, "reason": reason}), 422, "too_many"),
        ("an id that is none", json!({"ids": [CANARY], "reason": reason}), 422, "id_invalid"),
        ("an unknown id", json!({"ids": [unknown], "reason": reason}), 404, "not_found"),
        ("no reason", json!({"ids": [unknown]}), 422, "reason_missing"),
    ] {
        refused(what, &app.officer().post("/v1/reveal", &body).await, status, code, None);
    }
    app.finish();
}

/// What the server says to raw bytes.
fn raw(app: &App, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(app.url().trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The server may hang up before it has read all of it.
    drop(stream.write_all(bytes));
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn malformed_http_is_refused_and_the_server_lives() {
    let env = vec![("PHIVAULT_LIMITS__BODY_SECONDS".into(), "1".into())];
    let app = App::spawn_with(Options { env, ..Options::default() }).await;
    let auth = format!(
        "Host: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nConnection: close\r\n",
        app.submitter().token
    );
    let headers: String = (0..5_000).map(|n| format!("X-{n}: y\r\n")).collect();
    for (what, bytes) in [
        ("garbage", "\u{1}\u{2} garbage\r\n\r\n".to_owned()),
        (
            "two lengths",
            format!("POST /v1/entries HTTP/1.1\r\n{auth}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}"),
        ),
        (
            "length and chunks",
            format!(
                "POST /v1/entries HTTP/1.1\r\n{auth}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
        ),
        ("5,000 headers", format!("GET /healthz HTTP/1.1\r\n{headers}\r\n")),
        ("a long path", format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(200_000))),
    ] {
        let answer = raw(&app, bytes.as_bytes());
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{what}: {}", &answer[..answer.len().min(200)]);
    }
    let answer = raw(&app, format!("POST /v1/entries HTTP/1.1\r\n{auth}Content-Length: 200\r\n\r\n{{\"act").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("body_timeout"), "a body that never comes: {answer}");
    let chunked = format!(
        "POST /v1/entries HTTP/1.1\r\n{auth}Transfer-Encoding: chunked\r\n\r\n200000\r\n{}\r\n0\r\n\r\n",
        "x".repeat(0x20_0000)
    );
    let answer = raw(&app, chunked.as_bytes());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "chunks beyond the limit: {answer}");
    app.submitter().submit(&entry()).await;
    app.finish();
}

#[test]
fn whatever_bytes_come_the_answer_is_proper_and_the_vault_stays_intact() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let app = runtime.block_on(App::spawn());
    let good = entry().to_string().into_bytes();
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..6);
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(edits in edits)| {
        let mut body = good.clone();
        for (at, byte, how) in edits {
            let at = at.index(body.len());
            match how {
                0 => body[at] = byte,
                1 => body.insert(at, byte),
                _ => drop(body.remove(at)),
            }
        }
        let answer = runtime.block_on(app.submitter().post_text("/v1/entries", "application/json", body));
        prop_assert!([200, 201, 400, 409, 422].contains(&answer.status), "{answer:?}");
        if answer.status >= 400 {
            prop_assert!(answer.json()["code"].is_string());
        }
    });
    app.finish();
}
