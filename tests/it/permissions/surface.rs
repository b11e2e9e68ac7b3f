//! The surface as a whole: the table is complete, the document tells the truth, answers carry their headers.

use std::collections::{BTreeMap, BTreeSet};

use phivault::domain::caller::Role;
use serde_json::json;

use super::{anonymously, routes};
use crate::app::{App, entry};

/// What only serves the page; the document does not list it.
const PAGE: [&str; 4] = ["/openapi.json", "/docs", "/docs/docs.css", "/docs/docs.js"];

/// `METHOD /path` of everything that is registered, read from the source.
fn registered() -> BTreeSet<String> {
    let source = include_str!("../../../src/http/routes.rs");
    let mut found = BTreeSet::new();
    for line in source.split("add(\"").skip(1) {
        let (path, rest) = line.split_once('"').unwrap();
        let handlers = rest.split_once(");\n").unwrap().0;
        for method in ["get", "post", "put", "patch", "delete", "head"] {
            if handlers.contains(&format!("{method}().to(")) {
                found.insert(format!("{} {}", method.to_uppercase(), path.replace(":.*", "")));
            }
        }
    }
    found
}

#[test]
fn the_permission_table_of_the_tests_names_exactly_the_routes_that_are_registered() {
    let listed: BTreeSet<String> = routes().iter().map(|it| format!("{} {}", it.method, it.path)).collect();
    assert_eq!(listed, registered());
}

#[tokio::test]
async fn the_document_lists_exactly_the_routes_and_every_status_of_the_table() {
    let app = App::spawn().await;
    let document = app.with_token("none").get("/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    assert!(document["security"][0]["bearer"].is_array(), "a token is needed unless an operation says otherwise");
    let paths = document["paths"].as_object().unwrap();
    let operation = |path: &String, method: &String| format!("{} {path}", method.to_uppercase());
    let listed: BTreeSet<String> = paths
        .iter()
        .flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |method| operation(path, method)))
        .collect();
    let expected: BTreeSet<String> =
        routes().iter().filter(|it| !PAGE.contains(&it.path)).map(|it| format!("{} {}", it.method, it.path)).collect();
    assert_eq!(listed, expected);
    let mut missing = Vec::new();
    for route in routes().iter().filter(|it| !PAGE.contains(&it.path)) {
        let operation = &paths[route.path][route.method.to_lowercase()];
        let of_sessions = ["/v1/login", "/v1/logout", "/v1/session"].contains(&route.path);
        let public = !route.expected.contains(&401) || of_sessions;
        assert_eq!(
            operation.get("security").is_some(),
            public,
            "{}: only public routes do without a token",
            route.path
        );
        for status in route.expected.iter().collect::<BTreeSet<_>>() {
            if operation["responses"].get(status.to_string()).is_none() {
                missing.push(format!("{} {}: {status}", route.method, route.path));
            }
        }
    }
    assert!(missing.is_empty(), "answers that the document does not know: {missing:#?}");
    app.finish();
}

#[tokio::test]
async fn every_answer_carries_the_headers_that_keep_browsers_and_caches_out() {
    let app = App::spawn().await;
    let nobody = app.with_token("none");
    let mut ids = BTreeSet::new();
    for route in routes() {
        let answer = anonymously(route.request(&nobody, super::UNKNOWN)).await;
        let what = format!("{} {}: {answer:?}", route.method, route.path);
        let header = |name: &str| answer.headers[name].to_str().unwrap();
        assert_eq!(header("x-content-type-options"), "nosniff", "{what}");
        assert_eq!(header("x-frame-options"), "DENY", "{what}");
        assert_eq!(header("referrer-policy"), "no-referrer", "{what}");
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; ") && policy.contains("frame-ancestors 'none'"), "{what}");
        assert!(!["unsafe", "http", "*", "data:"].iter().any(|it| policy.contains(it)), "{what}");
        let public = PAGE.contains(&route.path) || ["/checkpoint", "/tile/{tile}"].contains(&route.path);
        assert_eq!(header("cache-control") == "no-store", !public, "{what}");
        assert!(ids.insert(header("x-request-id").to_owned()), "the id was used before: {what}");
        assert!(!answer.headers.contains_key("access-control-allow-origin"), "{what}");
        assert!(!answer.headers.contains_key("set-cookie") && !answer.headers.contains_key("server"), "{what}");
    }
    for (client, path, status) in [
        (app.officer(), "/v1/entries", 200),
        (app.submitter(), "/v1/entries", 403),
        (app.officer(), "/v1/nothing", 404),
        (app.officer(), "/v1/entries?limit=0", 400),
        (app.officer(), "/v1/entries/batch", 405),
        (app.officer(), "/v1/reports/access?reason=HCOMPL&format=csv", 200),
    ] {
        let answer = client.get(path).await;
        assert_eq!((answer.status, &answer.headers["cache-control"]), (status, &"no-store".parse().unwrap()), "{path}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{path}");
    }
    app.finish();
}

#[tokio::test]
async fn a_method_that_a_path_does_not_have_is_told_which_ones_it_has() {
    let app = App::spawn().await;
    let mut methods: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for route in routes() {
        methods.entry(route.path).or_default().insert(route.method);
    }
    let mut wrong = Vec::new();
    for (path, has) in methods {
        let place = path.replace("{id}", super::UNKNOWN);
        let answer = app.officer().send(app.officer().request(reqwest::Method::PATCH, &place)).await;
        assert_eq!((answer.status, answer.code().as_str()), (405, "method_not_allowed"), "{path}");
        let allow = answer.headers.get("allow").map_or("", |it| it.to_str().unwrap());
        let told: BTreeSet<&str> = allow.split(',').map(str::trim).collect();
        if told != has {
            wrong.push(format!("{path}: Allow is {allow:?} and not {has:?}"));
        }
    }
    assert!(wrong.is_empty(), "RFC 9110, 15.5.6: a 405 names the methods that are allowed: {wrong:#?}");
    app.finish();
}

#[tokio::test]
async fn what_is_public_names_no_patient_actor_or_token() {
    let app = App::spawn().await;
    let label = "label-of-a-token";
    let client = app.with_token(&app.make_token(Role::Submitter, label).await);
    let mut sent = entry();
    let secrets = ["dr-unheard-of", "MRN-unheard-of", "record-unheard-of", "note-unheard-of", "value-unheard-of"];
    let places = ["/actor/id", "/patient/id", "/record/id", "/reason/note", "/changes/0/new"];
    for (place, secret) in places.iter().zip(secrets) {
        *sent.pointer_mut(place).unwrap() = json!(secret);
    }
    client.submit(&sent).await;
    assert_eq!(app.officer().get("/v1/entries?patient=MRN-unheard-of").await.status, 200);
    assert_eq!(app.officer().get("/v1/entries/MRN-unheard-of").await.status, 404);
    for route in routes().iter().filter(|it| !it.expected.contains(&401)) {
        let answer = anonymously(route.request(&app.with_token("none"), super::UNKNOWN)).await;
        for secret in secrets.iter().chain([&label, &client.token.as_str()]) {
            assert!(!answer.text.contains(secret), "{} tells {secret}", route.path);
        }
    }
    app.finish();
}
