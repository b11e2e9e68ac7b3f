//! Who may do what, cell by cell over HTTP, and every way of not being somebody.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use phivault::crypto::token::PlainToken;
use phivault::domain::caller::Role;
use phivault::domain::time::Timestamp;
use serde_json::{Value, json};

use crate::app::{Answer, App, Client, entry};
use crate::ingest::size_of;

mod bypass;
mod surface;

const UNKNOWN: &str = "0193595e-0000-7000-8000-000000000000";

/// Whoever may be calling, in the order of the table's columns. The last six are nobody.
const CALLERS: [&str; 11] = [
    "submitter",
    "officer",
    "auditor",
    "admin",
    "patient",
    "none",
    "unknown",
    "malformed",
    "revoked",
    "expired",
    "elsewhere",
];

/// method and path | the answer to each of the callers | the action under which a denial is recorded.
/// A refusal is 401 or 403; any other status means that the operation itself was reached. Spelt out by hand, not derived.
const TABLE: &str = "
POST   /v1/entries               | 201 403 403 403 403 401 401 401 401 401 401 | submit
POST   /v1/entries/batch         | 200 403 403 403 403 401 401 401 401 401 401 | submit
GET    /v1/entries               | 403 200 200 403 403 401 401 401 401 401 401 | search
POST   /v1/entries/query         | 403 200 200 403 403 401 401 401 401 401 401 | search
GET    /v1/entries/{id}          | 403 200 200 403 403 401 401 401 401 401 401 | search
POST   /v1/entries/{id}/reveal   | 403 200 403 403 403 401 401 401 401 401 401 | reveal
GET    /v1/entries/{id}/proof    | 200 200 200 200 403 401 401 401 401 401 401 | search
POST   /v1/entries/{id}/disclose | 403 200 403 403 403 401 401 401 401 401 401 | reveal
POST   /v1/entries/trail         | 403 200 200 403 403 401 401 401 401 401 401 | search
GET    /v1/entries/{id}/leaf     | 403 200 200 403 403 401 401 401 401 401 401 | search
POST   /v1/reveal                | 403 404 403 403 403 401 401 401 401 401 401 | reveal
GET    /v1/records/{type}/{id}/history | 403 200 403 403 403 401 401 401 401 401 401 | reveal
GET    /v1/records/{type}/{id}/state | 403 200 403 403 403 401 401 401 401 401 401 | reveal
GET    /v1/records/{type}/{id}/diff | 403 200 403 403 403 401 401 401 401 401 401 | reveal
GET    /v1/records/{type}/{id}/fields/{field} | 403 200 403 403 403 401 401 401 401 401 401 | reveal
GET    /v1/records/{type}/{id}/continuity | 403 200 200 403 403 401 401 401 401 401 401 | report
POST   /v1/records/{type}/{id}/restore | 403 422 403 403 403 401 401 401 401 401 401 | restore_plan
GET    /v1/restores              | 403 200 403 403 403 401 401 401 401 401 401 | restore_plan
GET    /v1/restores/{id}         | 404 404 403 403 403 401 401 401 401 401 401 | restore_plan
POST   /v1/restores/{id}/approve | 403 404 403 403 403 401 401 401 401 401 401 | restore_plan
POST   /v1/restores/{id}/cancel  | 403 404 403 403 403 401 401 401 401 401 401 | restore_plan
POST   /v1/restores/{id}/confirm | 404 403 403 403 403 401 401 401 401 401 401 | restore_plan
POST   /v1/reports               | 403 201 201 403 403 401 401 401 401 401 401 | report
GET    /v1/reports               | 403 200 200 403 403 401 401 401 401 401 401 | report
GET    /v1/reports/{id}          | 403 404 404 403 404 401 401 401 401 401 401 | report
GET    /v1/reports/{id}/manifest | 403 404 404 403 404 401 401 401 401 401 401 | report
POST   /v1/reviews               | 403 201 403 403 403 401 401 401 401 401 401 | review
GET    /v1/reports/access        | 403 200 200 403 403 401 401 401 401 401 401 | report
GET    /v1/reports/breach-scope  | 403 200 200 403 403 401 401 401 401 401 401 | report
GET    /v1/reasons               | 200 200 200 200 200 401 401 401 401 401 401 |
GET    /v1/tokens                | 403 403 403 200 403 401 401 401 401 401 401 | token_list
POST   /v1/tokens                | 403 403 403 201 403 401 401 401 401 401 401 | token_create
DELETE /v1/tokens/{id}           | 403 403 403 404 403 401 401 401 401 401 401 | token_revoke
POST   /v1/login                 | 422 422 422 422 422 422 422 422 422 422 422 |
POST   /v1/login/enrol           | 403 201 201 201 403 401 401 401 401 401 401 | login_enrol
POST   /v1/logout                | 401 401 401 401 401 401 401 401 401 401 401 |
GET    /v1/session               | 401 401 401 401 401 401 401 401 401 401 401 |
GET    /v1/keys                  | 403 403 200 200 403 401 401 401 401 401 401 | key_list
POST   /v1/keys/rotate           | 403 403 403 200 403 401 401 401 401 401 401 | key_rotate
POST   /v1/keys/rotate-index     | 403 403 403 200 403 401 401 401 401 401 401 | key_index
POST   /v1/keys/rotate-state     | 403 403 403 200 403 401 401 401 401 401 401 | key_state
POST   /v1/keys/re-encrypt       | 403 403 403 202 403 401 401 401 401 401 401 | key_reencrypt
GET    /v1/keys/re-encrypt       | 403 403 200 200 403 401 401 401 401 401 401 | key_list
POST   /v1/admin/operations      | 403 403 403 422 403 401 401 401 401 401 401 | approval
GET    /v1/approvals             | 403 403 200 200 403 401 401 401 401 401 401 | approval
POST   /v1/approvals/{id}/approve | 403 403 403 404 403 401 401 401 401 401 401 | approval
POST   /v1/approvals/{id}/cancel | 403 403 403 404 403 401 401 401 401 401 401 | approval
GET    /v1/retention/plan        | 403 200 200 200 403 401 401 401 401 401 401 | retention_plan
GET    /v1/retention/certificates/{id} | 403 404 404 404 403 401 401 401 401 401 401 | retention_plan
GET    /v1/holds                 | 403 200 200 403 403 401 401 401 401 401 401 | retention_plan
POST   /v1/holds                 | 403 201 403 403 403 401 401 401 401 401 401 | hold_place
POST   /v1/holds/{id}/lift       | 403 404 403 403 403 401 401 401 401 401 401 | hold_lift
POST   /v1/keys/rotate-signing   | 403 403 403 200 403 401 401 401 401 401 401 | signing_rotate
GET    /v1/ledger/consistency    | 200 200 200 200 200 200 200 200 200 200 200 |
GET    /tile/{tile}              | 200 200 200 200 200 200 200 200 200 200 200 |
GET    /checkpoint               | 200 200 200 200 200 200 200 200 200 200 200 |
GET    /healthz                  | 200 200 200 200 200 200 200 200 200 200 200 |
GET    /readyz                   | 200 200 200 200 200 200 200 200 200 200 200 |
GET    /metrics                  | 200 200 200 200 200 200 200 200 200 200 200 |
GET    /openapi.json             | 200 200 200 200 200 200 200 200 200 200 200 |
GET    /docs                     | 200 200 200 200 200 200 200 200 200 200 200 |
GET    /docs/docs.css            | 200 200 200 200 200 200 200 200 200 200 200 |
GET    /docs/docs.js             | 200 200 200 200 200 200 200 200 200 200 200 |";

/// One line of the table.
struct Route {
    method: &'static str,
    path: &'static str,
    expected: Vec<u16>,
    denied_as: &'static str,
}

fn routes() -> Vec<Route> {
    let route = |line: &'static str| {
        let [what, expected, denied_as] = line.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
            panic!("a line of the table is not complete: {line}")
        };
        let (method, path) = what.split_once(' ').unwrap();
        let expected: Vec<u16> = expected.split(' ').map(|it| it.parse().unwrap()).collect();
        assert_eq!(expected.len(), CALLERS.len(), "{what} has a cell for every caller");
        Route { method, path: path.trim(), expected, denied_as }
    };
    TABLE.lines().skip(1).map(route).collect()
}

impl Route {
    /// A request that would do if the caller may; `id` names an entry that is there.
    fn request(&self, client: &Client, id: &str) -> reqwest::RequestBuilder {
        let reason = json!({"code": "HCOMPL"});
        let path = match self.path {
            "/v1/reports/access" => "/v1/reports/access?reason=HCOMPL".to_owned(),
            "/v1/reports/breach-scope" => "/v1/reports/breach-scope?key_version=1&reason=HCOMPL".to_owned(),
            "/v1/tokens/{id}" => "/v1/tokens/tok-0".to_owned(),
            "/v1/ledger/consistency" => "/v1/ledger/consistency?from=1".to_owned(),
            "/tile/{tile}" => "/tile/0/000.p/1".to_owned(),
            path if path.starts_with("/v1/records") => {
                let path = path.replace("{type}", "Condition").replace("{id}", "c-77").replace("{field}", "diagnosis");
                format!("{path}?reason=HCOMPL{}", if path.ends_with("diff") { "&from=0" } else { "" })
            }
            path => path.replace("{id}", id),
        };
        let body = match (self.method, self.path) {
            ("POST", "/v1/entries") => entry(),
            ("POST", "/v1/entries/batch") => json!([entry()]),
            ("POST", "/v1/entries/query") => json!({}),
            ("POST", "/v1/entries/{id}/disclose") => json!({"paths": ["note"], "reason": reason}),
            ("POST", "/v1/entries/trail") => json!({"patient": "MRN-12345"}),
            ("POST", "/v1/reveal") => json!({"ids": [UNKNOWN], "reason": reason}),
            ("POST", "/v1/admin/operations") => {
                json!({"request": {"operation": "key_destroy", "version": 99}, "reason": reason})
            }
            ("POST", "/v1/holds") => {
                json!({"name": "case 7", "authority": "court", "scope": {"actor": "dr_smith"}, "reason": reason})
            }
            ("POST", "/v1/login") => json!({"name": 1}),
            ("POST", "/v1/login/enrol") => json!({"password": "a few words will do"}),
            ("POST", "/v1/tokens") => json!({"role": "auditor", "label": "made"}),
            ("POST", "/v1/records/{type}/{id}/restore") => json!({"sequence": 1, "reason": reason}),
            ("POST", "/v1/restores/{id}/confirm") => json!({}),
            ("POST", "/v1/reports") => json!({"report": "logins", "reason": reason}),
            ("POST", "/v1/reviews") => json!({"entries": [id], "outcome": "appropriate", "reason": reason}),
            ("POST", _) => json!({"reason": reason}),
            _ => Value::Null,
        };
        let request = client.request(self.method.parse().unwrap(), &path);
        if body.is_null() { request } else { request.header("content-type", "application/json").body(body.to_string()) }
    }
}

/// Sends without any token.
async fn anonymously(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, text: response.text().await.unwrap() }
}

/// Makes a token as asked; gives back its id and itself.
async fn made(app: &App, asked: &Value) -> (String, String) {
    let made = app.admin().post("/v1/tokens", asked).await;
    assert_eq!(made.status, 201, "{made:?}");
    let text = |name: &str| made.json()[name].as_str().unwrap().to_owned();
    (text("id"), text("token"))
}

/// The token of each caller; `none` sends none.
async fn callers(app: &App) -> Vec<Option<String>> {
    let mut tokens: Vec<Option<String>> = Role::ALL.iter().map(|role| Some(app.client(*role).token)).collect();
    let (id, revoked) = made(app, &json!({"role": "officer", "label": "gone"})).await;
    assert_eq!(app.with_token(&revoked).get("/v1/reasons").await.status, 200, "it holds until it is revoked");
    assert_eq!(app.admin().delete(&format!("/v1/tokens/{id}")).await.status, 204);
    let (_, elsewhere) =
        made(app, &json!({"role": "officer", "label": "far", "allowed_sources": ["10.1.0.0/16", "::1"]})).await;
    let unknown = PlainToken::generate().expose().to_owned();
    let malformed = app.officer().token.replace("phv_", "phv-");
    tokens.extend([None, Some(unknown), Some(malformed), Some(revoked), Some(expired(app).await), Some(elsewhere)]);
    tokens
}

/// A token that has just ended.
async fn expired(app: &App) -> String {
    let end = Timestamp(chrono::Utc::now().timestamp_micros()).plus_seconds(2);
    let (_, token) = made(app, &json!({"role": "officer", "label": "short", "expires_at": end.to_string()})).await;
    let client = app.with_token(&token);
    assert_eq!(client.get("/v1/reasons").await.status, 200, "it holds until its end");
    let began = Instant::now();
    while client.get("/v1/reasons").await.status == 200 {
        assert!(began.elapsed() < Duration::from_secs(30), "it never ended");
        tokio::task::yield_now().await;
    }
    token
}

/// The problem without what differs from request to request.
fn anonymous_part(answer: &Answer) -> String {
    let mut problem = answer.json();
    let id = problem["request_id"].take();
    assert_eq!(id, json!(answer.headers["x-request-id"].to_str().unwrap()), "{answer:?}");
    problem.to_string()
}

#[tokio::test]
async fn every_cell_of_the_permission_table_holds_and_every_denial_is_recorded() {
    let mut app = App::spawn().await;
    let known = app.submitter().submit(&entry()).await["id"].as_str().unwrap().to_owned();
    let callers = callers(&app).await;
    let (mut refusals, mut denials) = ([BTreeSet::new(), BTreeSet::new()], Vec::new());
    for route in routes() {
        for ((caller, token), status) in CALLERS.iter().zip(&callers).zip(&route.expected) {
            let client = app.with_token(token.as_deref().unwrap_or_default());
            let request = route.request(&client, &known);
            let answer = if token.is_some() { client.send(request).await } else { anonymously(request).await };
            let what = format!("{caller}: {} {}", route.method, route.path);
            assert_eq!(answer.status, *status, "{what}: {answer:?}");
            match status {
                401 => assert_eq!(
                    (answer.code().as_str(), &answer.headers["www-authenticate"].to_str().unwrap()),
                    ("token_invalid", &"Bearer"),
                    "{what}"
                ),
                403 => {
                    assert_eq!(answer.code(), "forbidden", "{what}");
                    // A token's denials beyond twenty a minute are counted, not recorded.
                    if denials.iter().filter(|it: &&String| it.starts_with(caller)).count() < 20 {
                        denials.push(format!("{caller} {}", route.denied_as));
                    }
                }
                _ => continue,
            }
            refusals[usize::from(*status == 403)].insert(anonymous_part(&answer));
        }
    }
    // One text for all 401 and one for all 403: nothing of the request, the token or what is stored shows in it.
    assert_eq!(refusals.map(|it| it.len()), [1, 1], "all refusals look alike");
    let found = app.auditor().get("/v1/entries?outcome=denied&limit=1000&order=oldest").await.json();
    let told = |it: &Value| format!("{} {}", it["actor"]["role"].as_str().unwrap(), it["action"].as_str().unwrap());
    let recorded: Vec<_> = found["entries"].as_array().unwrap().iter().map(told).collect();
    assert_eq!(recorded, denials, "every denial is an entry, and nothing else");
    assert!(!callers.iter().flatten().any(|token| app.log().contains(token.as_str())), "the log holds a token");
    app.stop();
    app.start();
    for (caller, token) in CALLERS.iter().zip(&callers).skip(8) {
        let answer = app.with_token(token.as_deref().unwrap()).get("/v1/reasons").await;
        assert_eq!(answer.status, 401, "{caller}, after a restart: {answer:?}");
    }
    app.finish();
}

#[tokio::test]
async fn a_denial_does_not_tell_whether_something_is_there() {
    let app = App::spawn().await;
    let known = app.submitter().submit(&entry()).await["id"].as_str().unwrap().to_owned();
    let (token_id, _) = made(&app, &json!({"role": "auditor", "label": "made"})).await;
    let reason = json!({"reason": {"code": "HCOMPL"}});
    let mut seen = BTreeSet::new();
    for id in [known.as_str(), UNKNOWN] {
        seen.insert(anonymous_part(&app.submitter().get(&format!("/v1/entries/{id}")).await));
        seen.insert(anonymous_part(&app.auditor().post(&format!("/v1/entries/{id}/reveal"), &reason).await));
        let both = json!({"ids": [id], "reason": {"code": "HCOMPL"}});
        seen.insert(anonymous_part(&app.admin().post("/v1/reveal", &both).await));
    }
    for id in [token_id.as_str(), "tok-0"] {
        seen.insert(anonymous_part(&app.officer().delete(&format!("/v1/tokens/{id}")).await));
    }
    let seen: Vec<_> = seen.into_iter().collect();
    assert!(seen.len() == 1 && seen[0].contains("\"forbidden\""), "{seen:#?}");
    app.finish();
}

#[tokio::test]
async fn a_token_counts_only_whole_and_only_in_its_one_header() {
    let app = App::spawn().await;
    let good = app.officer().token;
    let changed = |at: usize| {
        let other = if &good[at..=at] == "0" { "1" } else { "0" };
        format!("{}{other}{}", &good[..at], &good[at + 1..])
    };
    let mut wrong: Vec<String> = ["", " ", "phv_", "x", "phv_00", "é", "null"].map(str::to_owned).to_vec();
    wrong.extend([good[..good.len() - 1].to_owned(), format!("{good}0"), good[4..].to_owned(), good.to_uppercase()]);
    wrong.extend([format!("{good} {good}"), format!("{good},"), good.repeat(100)]);
    wrong.extend((4..good.len()).map(changed));
    let get = |headers: &[(&str, String)], path: &str| {
        let request = app.officer().request(reqwest::Method::GET, path);
        anonymously(headers.iter().fold(request, |it, (name, value)| it.header(*name, value)))
    };
    let bearer = |token: &str| ("authorization", format!("Bearer {token}"));
    let mut headers: Vec<Vec<(&str, String)>> = wrong.iter().map(|token| vec![bearer(token)]).collect();
    for scheme in ["Basic", "Token", "BearerX", "Bearer:", ""] {
        headers.push(vec![("authorization", format!("{scheme} {good}"))]);
    }
    headers.push(vec![("authorization", good.clone())]);
    headers.push(vec![bearer(&good), bearer(&good)]);
    headers.push(vec![bearer("phv_"), bearer(&good)]);
    for name in ["x-api-key", "proxy-authorization", "x-authorization", "cookie"] {
        headers.push(vec![(name, format!("Bearer {good}"))]);
    }
    for sent in &headers {
        let answer = get(sent, "/v1/entries").await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "token_invalid"), "{sent:?}");
    }
    for query in [format!("token={good}"), format!("access_token={good}")] {
        assert_eq!(get(&[], &format!("/v1/entries?{query}")).await.status, 401, "a URL is no place for a token");
    }
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let answer = get(&[("authorization", format!("{scheme} {good}"))], "/v1/entries").await;
        assert_eq!(answer.status, 200, "{scheme}: {answer:?}");
    }
    assert!(!app.log().contains(&good), "the log holds a token");
    app.finish();
}

#[tokio::test]
async fn a_token_is_good_from_its_networks_only_and_a_header_is_no_address() {
    let app = App::spawn().await;
    let sources = |sources: &[&str]| json!({"role": "officer", "label": "near", "allowed_sources": sources});
    for near in [&["127.0.0.0/8"][..], &["127.0.0.1"], &["10.0.0.0/8", "127.0.0.1/32"], &[]] {
        let (_, token) = made(&app, &sources(near)).await;
        assert_eq!(app.with_token(&token).get("/v1/entries").await.status, 200, "{near:?}");
    }
    for far in [&["10.1.0.0/16"][..], &["127.0.0.2"], &["128.0.0.0/8"], &["::1"], &["::/0"]] {
        let (_, token) = made(&app, &sources(far)).await;
        let client = app.with_token(&token);
        assert_eq!(client.get("/v1/entries").await.status, 401, "{far:?}");
        for name in ["x-forwarded-for", "x-real-ip", "forwarded", "client-ip"] {
            let forged = client.request(reqwest::Method::GET, "/v1/entries").header(name, "10.1.2.3");
            assert_eq!(client.send(forged).await.status, 401, "{far:?} by {name}");
        }
    }
    app.finish();
}

#[tokio::test]
async fn revoking_takes_effect_on_the_very_next_request() {
    let app = App::spawn().await;
    for round in 0..5 {
        let (id, token) = made(&app, &json!({"role": "submitter", "label": format!("app-{round}")})).await;
        let client = app.with_token(&token);
        client.submit(&entry()).await;
        let size = size_of(&app).await;
        assert_eq!(app.admin().delete(&format!("/v1/tokens/{id}?reason=HSYSADMIN")).await.status, 204);
        assert_eq!(client.post("/v1/entries", &entry()).await.status, 401, "round {round}");
        assert_eq!(app.admin().delete(&format!("/v1/tokens/{id}")).await.status, 204, "again changes nothing");
        assert_eq!(
            size_of(&app).await,
            size + 2,
            "the first revocation is recorded with its seal entry, and nothing else"
        );
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
    // A minute's window may pass in the middle; then a second one begins.
    let flood = size_of(&app).await - before;
    assert!((20..=40).contains(&flood), "{flood} were recorded");
    // Whose tokens are others', their denials are recorded all the same.
    let other = app.with_token(&app.make_token(Role::Submitter, "other-app").await);
    assert_eq!(other.get("/v1/keys").await.status, 403);
    let found = app.auditor().get("/v1/entries?outcome=denied&limit=1000").await.json();
    let denied = found["entries"].as_array().unwrap();
    let by = |actor: &str, action: &str| {
        denied.iter().filter(|it| it["actor"]["id"] == actor && it["action"] == action).count() as u64
    };
    assert_eq!((by("submitter-app", "search"), by("other-app", "key_list")), (flood, 1), "{found:#}");
    assert_eq!(denied.len() as u64, flood + 1, "{found:#}");
    let metrics = app.auditor().get("/metrics").await.text;
    assert!(metrics.contains("phivault_denied_total 51"), "{metrics}");
    app.finish();
}

#[tokio::test]
async fn the_source_of_an_entry_is_the_label_of_its_token_whatever_the_body_says() {
    let app = App::spawn().await;
    let pharmacy = app.with_token(&app.make_token(Role::Submitter, "pharmacy").await);
    for (name, value) in [("source", "pharmacy"), ("token", "pharmacy"), ("label", "pharmacy")] {
        let mut forged = entry();
        forged[name] = json!(value);
        let answer = app.submitter().post("/v1/entries", &forged).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, "unknown_field"), "{name}: {answer:?}");
    }
    let mut sent = entry();
    sent["context"] = json!({"source": "laboratory"});
    let receipt = pharmacy.submit(&sent).await;
    app.submitter().submit(&entry()).await;
    for (source, expected) in [("pharmacy", 1), ("submitter-app", 1), ("laboratory", 0)] {
        let found = app.officer().get(&format!("/v1/entries?source={source}")).await.json();
        let entries = found["entries"].as_array().unwrap();
        assert_eq!(entries.len(), expected, "{source}: {found:#}");
        assert!(entries.iter().all(|it| it["source"] == source), "{found:#}");
        assert_eq!(source == "pharmacy", entries.iter().any(|it| it["id"] == receipt["id"]), "{found:#}");
    }
    app.finish();
}
