//! Who may do what, cell by cell over HTTP, and every way of not being somebody.

use std::time::{Duration, Instant};

use phivault::domain::caller::Role;
use phivault::domain::time::Timestamp;
use serde_json::{Value, json};

use crate::app::{App, Client, entry};
use crate::ingest::size_of;

const UNKNOWN: &str = "0193595e-0000-7000-8000-000000000000";

/// A route, a body if it takes one, and the answer to submitter, officer, auditor, admin in this order.
type Cell = (&'static str, &'static str, Option<Value>, [u16; 4]);

/// The whole table, spelt out by hand: 403 where the role may not, else what the operation itself answers.
fn cells() -> Vec<Cell> {
    let reason = json!({"reason": {"code": "HCOMPL"}});
    vec![
        ("POST", "/v1/entries", Some(entry()), [201, 403, 403, 403]),
        ("POST", "/v1/entries/batch", Some(json!([entry()])), [200, 403, 403, 403]),
        ("GET", "/v1/entries", None, [403, 200, 200, 403]),
        ("POST", "/v1/entries/query", Some(json!({})), [403, 200, 200, 403]),
        ("GET", "/v1/entries/{known}", None, [403, 200, 200, 403]),
        ("POST", "/v1/entries/{known}/reveal", Some(reason.clone()), [403, 200, 403, 403]),
        ("POST", "/v1/reveal", Some(json!({"ids": [UNKNOWN], "reason": {"code": "HCOMPL"}})), [403, 404, 403, 403]),
        ("GET", "/v1/entries/{known}/proof", None, [200, 200, 200, 200]),
        ("GET", "/v1/reports/access?reason=HCOMPL", None, [403, 200, 200, 403]),
        ("GET", "/v1/reasons", None, [200, 200, 200, 200]),
        ("GET", "/v1/tokens", None, [403, 403, 403, 200]),
        ("POST", "/v1/tokens", Some(json!({"role": "auditor", "label": "x"})), [403, 403, 403, 201]),
        ("DELETE", "/v1/tokens/tok-0", None, [403, 403, 403, 404]),
        ("GET", "/v1/keys", None, [403, 403, 200, 200]),
        ("POST", "/v1/keys/rotate", Some(reason), [403, 403, 403, 200]),
    ]
}

/// Routes that need no token.
const PUBLIC: [&str; 8] =
    ["/checkpoint", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/docs.css", "/docs/docs.js"];

async fn ask(client: &Client, method: &str, path: &str, body: Option<&Value>) -> crate::app::Answer {
    let mut request = client.request(method.parse().unwrap(), path);
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    client.send(request).await
}

#[tokio::test]
async fn every_cell_of_the_permission_table_holds() {
    let app = App::spawn().await;
    let known = app.submitter().submit(&entry()).await["id"].as_str().unwrap().to_owned();
    for (method, path, body, expected) in cells() {
        let path = path.replace("{known}", &known);
        for (role, status) in Role::ALL.into_iter().zip(expected) {
            let answer = ask(&app.client(role), method, &path, body.as_ref()).await;
            assert_eq!(answer.status, status, "{} {method} {path}: {answer:?}", role.name());
            if status == 403 {
                assert_eq!(answer.code(), "forbidden");
                assert!(!answer.text.contains(&known) && !answer.text.contains("dr_smith"), "{answer:?}");
            }
        }
    }
    app.finish();
}

#[tokio::test]
async fn nobody_gets_in_without_a_valid_token() {
    let app = App::spawn().await;
    let known = app.submitter().submit(&entry()).await["id"].as_str().unwrap().to_owned();
    let good = app.officer().token;
    let mut wrong: Vec<String> = ["", "phv_", "x", "phv_00"].map(str::to_owned).to_vec();
    wrong.push(good[..good.len() - 1].to_owned());
    wrong.push(format!("{good}0"));
    wrong.push(good.to_uppercase());
    wrong.push(good.replacen(&good[10..11], if &good[10..11] == "0" { "1" } else { "0" }, 1));
    wrong.push(phivault::crypto::token::PlainToken::generate().expose().to_owned());
    let admin = app.admin();
    let revoked = admin.post("/v1/tokens", &json!({"role": "officer", "label": "gone"})).await.json();
    let elsewhere = json!({"role": "officer", "label": "far", "allowed_sources": ["10.1.0.0/16"]});
    wrong.push(admin.post("/v1/tokens", &elsewhere).await.json()["token"].as_str().unwrap().to_owned());
    let token = revoked["token"].as_str().unwrap().to_owned();
    assert_eq!(app.with_token(&token).get("/v1/entries").await.status, 200);
    assert_eq!(admin.delete(&format!("/v1/tokens/{}", revoked["id"].as_str().unwrap())).await.status, 204);
    wrong.push(token);
    let mut answers = std::collections::HashSet::new();
    for (method, path, body, _) in cells() {
        for token in &wrong {
            let answer = ask(&app.with_token(token), method, &path.replace("{known}", &known), body.as_ref()).await;
            assert_eq!((answer.status, answer.code().as_str()), (401, "token_invalid"), "{method} {path}");
            answers.insert(answer.json()["detail"].to_string());
        }
    }
    assert_eq!(answers.len(), 1, "all look alike");
    let here = json!({"role": "officer", "label": "near", "allowed_sources": ["127.0.0.0/8"]});
    let near = admin.post("/v1/tokens", &here).await.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(app.with_token(&near).get("/v1/entries").await.status, 200);
    let forged = app
        .with_token(&wrong[wrong.len() - 2])
        .request(reqwest::Method::GET, "/v1/entries")
        .header("x-forwarded-for", "10.1.2.3");
    assert_eq!(app.with_token(&wrong[wrong.len() - 2]).send(forged).await.status, 401, "a header is no address");
    app.finish();
}

#[tokio::test]
async fn a_token_ends_when_it_was_said_to() {
    let app = App::spawn().await;
    let end = Timestamp(chrono::Utc::now().timestamp_micros()).plus_seconds(2);
    let asked = json!({"role": "auditor", "label": "short", "expires_at": end.to_string()});
    let token = app.admin().post("/v1/tokens", &asked).await.json()["token"].as_str().unwrap().to_owned();
    let client = app.with_token(&token);
    assert_eq!(client.get("/v1/reasons").await.status, 200);
    let began = Instant::now();
    while client.get("/v1/reasons").await.status == 200 {
        assert!(began.elapsed() < Duration::from_secs(30), "it never ended");
        tokio::task::yield_now().await;
    }
    for (asked, code) in [
        (json!({"role": "king", "label": "x"}), "role_unknown"),
        (json!({"role": "auditor"}), "empty"),
        (json!({"role": "auditor", "label": "phivault"}), "label_reserved"),
        (json!({"role": "auditor", "label": "x", "expires_at": "2001-01-01T00:00:00Z"}), "time_invalid"),
        (json!({"role": "auditor", "label": "x", "allowed_sources": ["here"]}), "network_invalid"),
    ] {
        let answer = app.admin().post("/v1/tokens", &asked).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, code));
    }
    app.finish();
}

#[tokio::test]
async fn denials_are_recorded_and_a_flood_of_them_is_counted() {
    let app = App::spawn().await;
    let before = size_of(&app).await;
    for _ in 0..50 {
        assert_eq!(app.submitter().get("/v1/entries").await.status, 403);
    }
    let found = app.auditor().get("/v1/entries?outcome=denied&limit=1000").await.json();
    let denied = found["entries"].as_array().unwrap().clone();
    // A minute's window may pass in the middle; then a second one begins.
    assert!((20..=40).contains(&denied.len()), "{} were recorded", denied.len());
    assert!(denied.iter().all(|it| it["actor"]["id"] == "submitter-app" && it["action"] == "search"));
    assert!(size_of(&app).await <= before + 41);
    let metrics = app.auditor().get("/metrics").await.text;
    assert!(metrics.contains("phivault_denied_total 50"), "{metrics}");
    app.finish();
}

#[tokio::test]
async fn the_source_of_an_entry_is_the_label_of_its_token() {
    let app = App::spawn().await;
    let token = app.make_token(Role::Submitter, "pharmacy").await;
    app.with_token(&token).submit(&entry()).await;
    app.submitter().submit(&entry()).await;
    let found = app.officer().get("/v1/entries?source=pharmacy").await.json();
    assert_eq!(found["entries"].as_array().unwrap().len(), 1);
    app.finish();
}

#[tokio::test]
async fn the_document_lists_the_routes_and_public_ones_carry_their_headers() {
    let app = App::spawn().await;
    let nobody = app.with_token("none");
    for path in PUBLIC {
        let answer = nobody.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{path}");
        assert!(
            answer.headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"),
            "{path}"
        );
        assert_eq!(answer.headers["x-frame-options"], "DENY", "{path}");
    }
    assert_eq!(app.officer().get("/v1/entries").await.headers["cache-control"], "no-store");
    let document = nobody.get("/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let listed: std::collections::BTreeSet<String> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, operations)| {
            operations.as_object().unwrap().keys().map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let table = cells().into_iter().map(|(method, path, _, _)| (method, path));
    let page = ["/openapi.json", "/docs", "/docs/docs.css", "/docs/docs.js"];
    let public = PUBLIC.into_iter().filter(|path| !page.contains(path)).map(|path| ("GET", path));
    let expected: std::collections::BTreeSet<String> = table
        .chain(public)
        .map(|(method, path)| {
            let path = path.split('?').next().unwrap().replace("{known}", "{id}").replace("tok-0", "{id}");
            format!("{method} {path}")
        })
        .collect();
    assert_eq!(listed, expected);
    app.finish();
}
