//! Every way of seeming more than one is, over every route: headers that some servers believe, sessions that are not one, tokens of
//! elsewhere, other spellings of a path. Nobody gets further than the plain caller of the same kind, by a single cell.

use phivault::domain::caller::Role;
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use super::{CALLERS, Route, UNKNOWN, made, routes};
use crate::app::{Answer, App, entry};
use crate::login::{Person, send, vault};

/// What is sent in the place of a plain token.
struct Disguise {
    name: &'static str,
    /// The column of the table that it comes to.
    counts_as: &'static str,
    token: Option<String>,
    headers: Vec<(&'static str, String)>,
}

/// A disguise that sends a token and something beside it.
fn with_token(name: &'static str, counts_as: &'static str, token: &str, headers: &[(&'static str, &str)]) -> Disguise {
    let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Disguise { name, counts_as, token: Some(token.to_owned()), headers }
}

/// A disguise without a token.
fn without(name: &'static str, headers: &[(&'static str, &str)]) -> Disguise {
    Disguise { token: None, ..with_token(name, "none", "", headers) }
}

impl Disguise {
    fn request(&self, app: &App, route: &Route, id: &str) -> RequestBuilder {
        let request = route.request(&app.with_token(""), id);
        let request = self.headers.iter().fold(request, |it, (name, value)| it.header(*name, value));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// The status that the table tells for it; a header that is believed by other servers changes nothing here.
    fn expected(&self, route: &Route) -> u16 {
        route.expected[CALLERS.iter().position(|it| *it == self.counts_as).unwrap()]
    }
}

/// Tokens and sessions that are no longer, or are somebody else's.
struct Others {
    /// A token of another vault.
    foreign: String,
    /// A token that is bound to a certificate nobody showed.
    bound: String,
    /// An officer's session that was ended, and one that holds.
    ended: String,
    held: String,
}

impl Others {
    async fn of(app: &App, ada: &mut Person) -> Self {
        let elsewhere = App::spawn().await;
        let certificate = format!("cert:{}", "ab".repeat(32));
        let asked = json!({"role": "officer", "label": "bound", "allowed_sources": [certificate]});
        let (_, bound) = made(app, &asked).await;
        let ended = ada.log_in(app).await;
        let out = app.with_token("").request(Method::POST, "/v1/logout").header("cookie", &ended);
        assert_eq!(send(out).await.status, 204);
        Self { foreign: elsewhere.officer().token, bound, ended, held: ada.log_in(app).await }
    }
}

fn disguises(app: &App, others: &Others) -> Vec<Disguise> {
    let (submitter, officer) = (app.submitter().token, app.officer().token);
    let basic = data_encoding::BASE64.encode(format!("officer:{officer}").as_bytes());
    let (mine, beside) = (submitter.as_str(), [("cookie", others.held.as_str())]);
    let methods = ["x-http-method-override", "x-http-method", "x-method-override"].map(|it| (it, "GET"));
    let rewritten =
        ["x-original-url", "x-rewrite-url", "x-forwarded-uri", "x-forwarded-path"].map(|it| (it, "/healthz"));
    let named = ["remote-user", "x-forwarded-user", "x-remote-user", "x-auth-request-user"].map(|it| (it, "admin"));
    let near = ["x-forwarded-for", "x-real-ip", "true-client-ip", "x-client-ip"].map(|it| (it, "127.0.0.1"));
    let shown =
        ["x-ssl-client-verify", "x-client-cert", "ssl-client-cert", "x-ssl-client-s-dn"].map(|it| (it, "SUCCESS"));
    let cookie = |value: &str| format!("__Host-phivault={value}");
    vec![
        with_token("another method in a header", "submitter", mine, &methods),
        with_token("another path in a header", "submitter", mine, &rewritten),
        with_token("a name that a proxy would vouch for", "submitter", mine, &named),
        with_token("an officer's session beside the token", "submitter", mine, &beside),
        with_token("a network in a header", "elsewhere", &others.bound, &near),
        with_token("a certificate in a header", "elsewhere", &others.bound, &shown),
        with_token("a token of another vault", "unknown", &others.foreign, &[]),
        with_token("no token, and a session beside it", "unknown", "null", &beside),
        without("a session that was ended", &[("cookie", &others.ended)]),
        without("a token in the place of a session", &[("cookie", &cookie(&officer))]),
        without("a session by another name", &[("cookie", &others.held.replace("__Host-", ""))]),
        without("a session nobody began", &[("cookie", &cookie(&format!("phv_{}", "5a".repeat(32))))]),
        without("a token as a password", &[("authorization", &format!("Basic {basic}"))]),
    ]
}

#[tokio::test]
async fn no_disguise_gets_anybody_further_on_any_route() {
    let Some((app, clock)) = vault().await else { return };
    let id = app.submitter().submit(&entry()).await["id"].as_str().unwrap().to_owned();
    let mut ada = Person::enrol(&app, &clock, &app.make_token(Role::Officer, "ada").await).await;
    let others = Others::of(&app, &mut ada).await;
    let mut cells = 0;
    for disguise in disguises(&app, &others) {
        for route in routes() {
            let of_session = ["/v1/logout", "/v1/session"].contains(&route.path);
            // Whose session lies beside a token, or whose own is good, is told of in the test of sessions.
            if of_session && disguise.headers.iter().any(|(_, it)| *it == others.held) {
                continue;
            }
            let answer = send(disguise.request(&app, &route, &id)).await;
            let what = format!("{}: {} {}", disguise.name, route.method, route.path);
            assert_eq!(answer.status, disguise.expected(&route), "{what}: {answer:?}");
            cells += 1;
        }
    }
    println!("{cells} cells of callers in disguise, none further than its kind");
    app.finish();
}

#[tokio::test]
async fn a_session_reaches_what_its_token_reaches_and_from_another_site_nothing() {
    let Some((app, clock)) = vault().await else { return };
    let id = app.submitter().submit(&entry()).await["id"].as_str().unwrap().to_owned();
    let mut cells = 0;
    for (role, name) in [(Role::Officer, "ada"), (Role::Auditor, "bob"), (Role::Admin, "eve")] {
        let mut person = Person::enrol(&app, &clock, &app.make_token(role, name).await).await;
        let mut held = person.log_in(&app).await;
        for site in ["cross-site", "same-site", "same-origin"] {
            for route in routes() {
                let request = route.request(&app.with_token(""), &id).header("sec-fetch-site", site);
                let answer = send(request.header("cookie", &held)).await;
                let what = format!("{name}, {site}: {} {}", route.method, route.path);
                assert_eq!((answer.status, code(&answer)), of_session(&route, role, site), "{what}: {answer:?}");
                cells += 1;
                if route.path == "/v1/logout" && answer.status == 204 {
                    held = person.log_in(&app).await;
                }
            }
        }
    }
    println!("{cells} cells of sessions");
    app.finish();
}

/// What a session gets where its token gets the table's answer, and the code of a refusal.
fn of_session(route: &Route, role: Role, site: &str) -> (u16, Option<String>) {
    let column = CALLERS.iter().position(|it| *it == role.name()).unwrap();
    let refused = |code: &str| (403, Some(code.to_owned()));
    // What takes no token: public, or a login, which looks where it comes from before anything else.
    let is_public = route.expected.iter().all(|it| *it == 200);
    match (route.path, site) {
        (_, "cross-site" | "same-site") if !is_public => refused("cross_site"),
        ("/v1/session", _) => (200, None),
        ("/v1/logout", "same-origin") => (204, None),
        ("/v1/login/enrol", _) => refused("token_needed"),
        _ if route.expected[column] == 403 => refused("forbidden"),
        _ => (route.expected[column], None),
    }
}

/// The code of a 403, by which its reasons are told apart.
fn code(answer: &Answer) -> Option<String> {
    (answer.status == 403).then(|| answer.code())
}

/// What is changed of a path, and how.
type Spelling = (&'static str, fn(&str) -> String);

#[tokio::test]
async fn another_spelling_of_a_path_or_another_method_is_another_place_or_the_same_with_the_same_rules() {
    let app = App::spawn().await;
    let id = app.submitter().submit(&entry()).await["id"].as_str().unwrap().to_owned();
    let spellings: [Spelling; 7] = [
        ("a slash more at the end", |it| format!("{it}/")),
        ("a slash more at the beginning", |it| format!("/{it}")),
        ("an encoded letter", |it| it.replacen('e', "%65", 1)),
        ("capitals", str::to_uppercase),
        ("through a public path", |it| format!("/healthz/..%2f{}", &it[1..])),
        ("a parameter of the path", |it| format!("{it};x=1")),
        ("an end that looks like a file", |it| format!("{it}.json")),
    ];
    let mut cells = 0;
    for route in routes() {
        let plain = route.request(&app.submitter(), &id).build().unwrap().url().path().to_owned();
        for (name, spelt) in spellings {
            let (what, path) = (format!("{name}: {} {}", route.method, route.path), spelt(&plain));
            let request = app.submitter().request(route.method.parse().unwrap(), &path);
            let answer = app.submitter().send(request.json(&json!({}))).await;
            // Either no such place, or what the submitter gets there anyway.
            let same = route.expected[0] < 300 || [400, 401, 403].contains(&answer.status);
            assert!([404, 405].contains(&answer.status) || same, "{what}: {answer:?}");
            cells += 1;
        }
        for method in ["PUT", "PATCH", "TRACE", "OPTIONS", "PROPFIND", "GE"] {
            let request = app.admin().request(method.parse().unwrap(), &plain);
            let answer = app.admin().send(request).await;
            assert_eq!((answer.status, answer.code().as_str()), (405, "method_not_allowed"), "{method} {plain}");
            cells += 1;
        }
        // HEAD is GET without a body, or nothing: never a way around.
        let head = app.with_token("").request(Method::HEAD, &plain);
        let status = send(head).await.status;
        assert!([401, 404, 405].contains(&status) || route.expected[5] == 200, "HEAD {plain}: {status}");
        cells += 1;
    }
    println!("{cells} cells of other spellings and methods");
    assert_eq!(app.with_token(UNKNOWN).get("/v1/entries").await.status, 401);
    app.finish();
}
