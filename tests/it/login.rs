//! People who log in: what a session may, when it ends, what is recorded, and every way in that must not be one.

use std::path::PathBuf;
use std::time::Duration;

use phivault::crypto::totp::TotpSecret;
use phivault::domain::caller::Role;
use serde_json::{Value, json};

use crate::app::{Answer, App, entry, http};
use crate::check::entries;

const PASSWORD: &str = "vier worte sind genug";

/// Somebody who has enrolled.
pub struct Person {
    name: String,
    secret: TotpSecret,
    clock: Clock,
}

/// The vault's clock, set forward from code to code: each counts once, and nobody wants to wait for the next.
#[derive(Clone)]
pub struct Clock(PathBuf);

impl Clock {
    fn ahead(&self) -> i64 {
        std::fs::read_to_string(&self.0).unwrap().parse().unwrap()
    }

    /// The time of the vault, in seconds.
    fn now(&self) -> i64 {
        chrono::Utc::now().timestamp() + self.ahead()
    }

    pub fn forward(&self, seconds: i64) {
        std::fs::write(&self.0, (self.ahead() + seconds).to_string()).unwrap();
    }
}

/// A vault whose clock a test can set; nothing in a release build, whose clock nobody can.
pub async fn vault() -> Option<(App, Clock)> {
    if !cfg!(debug_assertions) {
        eprintln!("SKIPPED: only the clock of a debug build can be set by a test; run cargo test without --release");
        return None;
    }
    let mut app = App::spawn().await;
    app.stop();
    let clock = Clock(app.dir().join("clock"));
    std::fs::write(&clock.0, "0").unwrap();
    app.set("PHIVAULT_TEST_CLOCK", clock.0.to_str().unwrap());
    app.start();
    Some((app, clock))
}

impl Person {
    pub async fn enrol(app: &App, clock: &Clock, token: &str) -> Self {
        let answer = app.with_token(token).post("/v1/login/enrol", &json!({"password": PASSWORD})).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let shown = answer.json();
        let secret = TotpSecret::parse(shown["secret"].as_str().unwrap()).unwrap();
        assert!(shown["uri"].as_str().unwrap().starts_with("otpauth://totp/phivault:"), "{shown}");
        Self { name: shown["name"].as_str().unwrap().to_owned(), secret, clock: clock.clone() }
    }

    /// A code that was not used before.
    fn code(&mut self) -> String {
        self.clock.forward(60);
        self.secret.code(TotpSecret::step_at(self.clock.now()))
    }

    fn credentials(&mut self) -> Value {
        json!({"name": self.name, "password": PASSWORD, "code": self.code()})
    }

    pub async fn log_in(&mut self, app: &App) -> String {
        let credentials = self.credentials();
        let answer = log_in(app, &credentials).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        cookie(&answer)
    }
}

async fn log_in(app: &App, credentials: &Value) -> Answer {
    send(http().post(format!("{}/v1/login", app.url())).json(credentials)).await
}

pub async fn send(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, text: response.text().await.unwrap() }
}

/// What a browser would send back.
fn cookie(answer: &Answer) -> String {
    let set = answer.headers["set-cookie"].to_str().unwrap();
    for part in ["__Host-phivault=phv_", "; Secure", "; HttpOnly", "; SameSite=Strict", "; Path=/"] {
        assert!(set.contains(part), "{part}: {set}");
    }
    assert!(!set.contains("Domain"), "{set}");
    set.split(';').next().unwrap().to_owned()
}

async fn get(app: &App, path: &str, cookie: &str) -> Answer {
    send(http().get(format!("{}{path}", app.url())).header("cookie", cookie)).await
}

fn actions(app: &App) -> Vec<(String, String, String)> {
    let rows = entries(app.dir());
    let rows = rows.iter().filter(|it| it.meta.action.name().starts_with("log"));
    rows.map(|it| (it.meta.action.name().into(), it.meta.outcome.name().into(), it.meta.actor.id.clone())).collect()
}

#[tokio::test]
async fn a_session_does_what_the_token_does_and_ends_with_it() {
    let Some((app, clock)) = vault().await else { return };
    let id = app.submitter().submit(&entry()).await["id"].clone();
    let token = app.make_token(Role::Officer, "ada").await;
    let mut ada = Person::enrol(&app, &clock, &token).await;
    let held = ada.log_in(&app).await;
    let seen = get(&app, "/v1/session", &held).await.json();
    assert_eq!((&seen["name"], &seen["role"], &seen["idle_seconds"]), (&json!("ada"), &json!("officer"), &json!(900)));
    assert_eq!(get(&app, "/v1/entries", &held).await.status, 200);
    assert_eq!(get(&app, "/v1/tokens", &held).await.status, 403, "an officer is no administrator, logged in or not");
    let reveal = || http().post(format!("{}/v1/entries/{}/reveal", app.url(), id.as_str().unwrap()));
    let reveal = || reveal().header("cookie", &held).json(&json!({"reason": {"code": "HCOMPL"}}));
    assert_eq!(send(reveal()).await.status, 200);
    // From a page of another site nothing is done.
    for (name, value) in
        [("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-site"), ("origin", "https://evil.example")]
    {
        let answer = send(reveal().header(name, value)).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "cross_site"), "{name}: {value}");
    }
    assert_eq!(send(reveal().header("sec-fetch-site", "same-origin")).await.status, 200);
    // A session alone cannot change how its person logs in.
    let enrol = http().post(format!("{}/v1/login/enrol", app.url())).header("cookie", &held);
    assert_eq!(send(enrol.json(&json!({"password": PASSWORD}))).await.code(), "token_needed");
    // Logging in again ends the session this browser had.
    let again = http().post(format!("{}/v1/login", app.url())).header("cookie", &held).json(&ada.credentials());
    let second = cookie(&send(again).await);
    assert_eq!(
        (get(&app, "/v1/session", &held).await.status, get(&app, "/v1/session", &second).await.status),
        (401, 200)
    );
    let out = send(http().post(format!("{}/v1/logout", app.url())).header("cookie", &second)).await;
    assert_eq!(out.status, 204, "{out:?}");
    assert!(out.headers["set-cookie"].to_str().unwrap().contains("Max-Age=0"), "{out:?}");
    assert_eq!(get(&app, "/v1/session", &second).await.status, 401);
    let third = ada.log_in(&app).await;
    let listed = app.admin().get("/v1/tokens").await.json();
    let ada_token = listed["tokens"].as_array().unwrap().iter().find(|it| it["label"] == "ada").unwrap()["id"].clone();
    assert_eq!(app.admin().delete(&format!("/v1/tokens/{}", ada_token.as_str().unwrap())).await.status, 204);
    assert_eq!(get(&app, "/v1/session", &third).await.status, 401, "revoked is revoked at once");
    assert_eq!(
        log_in(&app, &json!({"name": "ada", "password": PASSWORD, "code": "000000"})).await.code(),
        "login_failed"
    );
    let made: Vec<_> = actions(&app).into_iter().map(|(action, outcome, _)| format!("{action} {outcome}")).collect();
    let expected = [
        "login_enrol success",
        "login success",
        "login success",
        "logout success",
        "logout success",
        "login success",
        "login_failed denied",
    ];
    assert_eq!(made, expected);
    app.finish();
}

#[tokio::test]
async fn whoever_cannot_log_in_learns_nothing_and_waits_ever_longer() {
    let Some((mut app, clock)) = vault().await else { return };
    let token = app.make_token(Role::Auditor, "grace").await;
    let mut grace = Person::enrol(&app, &clock, &token).await;
    let good = grace.credentials();
    let wrong = |field: &str, value: &str| {
        let mut credentials = good.clone();
        credentials[field] = json!(value);
        credentials
    };
    let mut answers = Vec::new();
    for credentials in
        [wrong("password", "vier worte sind genuh"), wrong("name", "nobody"), wrong("code", "000000"), json!({})]
    {
        let answer = log_in(&app, &credentials).await;
        let mut body = answer.json();
        body["request_id"] = Value::Null;
        answers.push((answer.status, body));
    }
    assert_eq!(answers[0].0, 401);
    assert!(answers.iter().all(|it| *it == answers[0]), "{answers:#?}");
    assert_eq!(log_in(&app, &good).await.status, 200);
    assert_eq!(log_in(&app, &good).await.code(), "login_failed", "a code counts once");
    // The name waits after five failures, whether anybody has it or not, with the right password too.
    for name in ["grace", "nobody"] {
        let mut last = log_in(&app, &wrong("name", name)).await;
        let mut tries = 1;
        while last.status == 401 {
            last = log_in(&app, &wrong("name", name)).await;
            tries += 1;
        }
        assert_eq!((last.status, last.code().as_str()), (429, "login_wait"), "{last:?}");
        assert!(tries <= 6, "{name}: {tries}");
        assert!((25..=30).contains(&last.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap()));
    }
    let credentials = grace.credentials();
    assert_eq!(log_in(&app, &credentials).await.status, 429);
    assert_eq!(app.with_token(&token).post("/v1/login/enrol", &json!({"password": PASSWORD})).await.status, 201);
    assert_eq!(log_in(&app, &wrong("name", "grace")).await.status, 401, "who holds the token is forgiven");
    assert_eq!(app.with_token(&token).get("/v1/entries").await.status, 200, "the token itself works meanwhile");
    for (password, code) in [
        ("short", "password_weak"),
        ("my name is Grace", "password_weak"),
        ("            ", "password_weak"),
        ("123456789012", "password_weak"),
    ] {
        assert_eq!(app.with_token(&token).post("/v1/login/enrol", &json!({"password": password})).await.code(), code);
    }
    app.stop();
    let failed: Vec<_> = actions(&app).into_iter().filter(|it| it.0 == "login_failed").map(|it| it.2).collect();
    assert!(failed.contains(&"grace".to_owned()) && failed.contains(&"phivault".to_owned()), "{failed:?}");
    let clients = entries(app.dir()).into_iter().filter(|it| it.meta.action.name() == "login_failed");
    assert!(clients.map(|it| it.meta.context.client_ip).all(|it| it.as_deref() == Some("127.0.0.1")));
    for file in ["data/vault.db", "data/vault.db-wal", "server.log"] {
        let bytes = std::fs::read(app.dir().join(file)).unwrap_or_default();
        for secret in [PASSWORD, grace.secret.text().as_str(), "nobody"] {
            let found = bytes.windows(secret.len()).any(|it| it == secret.as_bytes());
            assert!(!found, "{secret} stands in {file}");
        }
    }
    app.start();
    app.finish();
}

#[tokio::test]
async fn a_session_ends_when_nobody_uses_it_and_at_a_restart_while_the_login_stays() {
    let Some((mut app, clock)) = vault().await else { return };
    app.stop();
    app.set("PHIVAULT_SESSIONS__IDLE_SECONDS", "1");
    app.start();
    let token = app.make_token(Role::Admin, "root").await;
    let mut root = Person::enrol(&app, &clock, &token).await;
    let held = root.log_in(&app).await;
    assert_eq!(get(&app, "/v1/tokens", &held).await.status, 200);
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(get(&app, "/v1/tokens", &held).await.status, 401);
    let held = root.log_in(&app).await;
    // A new state key and a restart leave the login as it is.
    let rotated = app.admin().post("/v1/keys/rotate-state", &json!({"reason": {"code": "HSYSADMIN"}})).await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    app.stop();
    app.start();
    assert_eq!(get(&app, "/v1/tokens", &held).await.status, 401, "a restart ends sessions");
    // No code that may have been used before the start counts after it, so a stolen one is of no use.
    for step in -1..=1 {
        let code = root.secret.code(TotpSecret::step_at(clock.now()) + step);
        let answer = log_in(&app, &json!({"name": "root", "password": PASSWORD, "code": code})).await;
        assert_eq!(answer.status, 401, "{step}: {answer:?}");
    }
    clock.forward(60);
    root.log_in(&app).await;
    app.finish();
}

#[tokio::test]
async fn who_only_tries_fills_neither_the_ledger_nor_the_reserve_and_ends_nobody_s_session() {
    let Some((mut app, clock)) = vault().await else { return };
    let free = app.dir().join("free");
    std::fs::write(&free, "100000000000").unwrap();
    app.stop();
    app.set("PHIVAULT_TEST_DISK_FREE", free.to_str().unwrap());
    app.start();
    let token = app.make_token(Role::Officer, "ada").await;
    let mut ada = Person::enrol(&app, &clock, &token).await;
    let held = ada.log_in(&app).await;
    let before = entries(app.dir()).len();
    let tries: Vec<_> = (0..60)
        .map(|n| {
            let request = http().post(format!("{}/v1/login", app.url()));
            tokio::spawn(send(request.json(&json!({"name": format!("n-{n}"), "password": "x", "code": "1"}))))
        })
        .collect();
    // Somebody with the right code is let in all the same, in turn.
    let credentials = ada.credentials();
    let mut answer = log_in(&app, &credentials).await;
    while answer.status == 503 {
        answer = log_in(&app, &credentials).await;
    }
    assert_eq!(answer.status, 200, "{answer:?}");
    let (mut failed, mut busy) = (0, 0);
    for it in tries {
        match it.await.unwrap().status {
            401 => failed += 1,
            503 => busy += 1,
            other => panic!("{other}"),
        }
    }
    assert!(failed >= 10 && failed + busy == 60, "{failed} {busy}");
    let written = entries(app.dir()).len() - before;
    assert!(written <= 40 + 4, "{written} entries of {failed} failures, a login, and what the vault says of its clock");
    // A token or another's cookie beside it makes nobody log out.
    for bearer in [app.submitter().token, app.admin().token] {
        let request = http().post(format!("{}/v1/logout", app.url())).header("cookie", &held);
        assert_eq!(send(request.bearer_auth(bearer)).await.status, 401);
    }
    assert_eq!(get(&app, "/v1/session", &held).await.status, 200);
    // Down to the reserve, nothing is written for whoever has no token.
    std::fs::write(&free, "1000000").unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = entries(app.dir()).len();
    let answer = log_in(&app, &json!({"name": "grace", "password": "x", "code": "1"})).await;
    assert_eq!((answer.status, entries(app.dir()).len()), (401, before));
    std::fs::write(&free, "100000000000").unwrap();
    app.finish();
}

#[tokio::test]
async fn after_a_clock_that_was_ahead_right_codes_count_again_and_none_twice() {
    let Some((app, clock)) = vault().await else { return };
    let token = app.make_token(Role::Officer, "ada").await;
    let mut ada = Person::enrol(&app, &clock, &token).await;
    ada.log_in(&app).await;
    let used = TotpSecret::step_at(clock.now());
    clock.forward(7_200);
    ada.log_in(&app).await;
    clock.forward(-7_200);
    let credentials = ada.credentials();
    assert_eq!(log_in(&app, &credentials).await.status, 401, "from then on only newer ones than now");
    ada.log_in(&app).await;
    // Back at the time of the first code, and a step before it, where drift would let it in.
    for before in [0, 30] {
        clock.forward(used * 30 - before - clock.now());
        let again = json!({"name": "ada", "password": PASSWORD, "code": ada.secret.code(used)});
        assert_eq!(log_in(&app, &again).await.status, 401, "{before} seconds before");
    }
    app.finish();
}

#[tokio::test]
async fn how_the_ledger_grows_does_not_tell_which_names_there_are() {
    let Some((mut app, clock)) = vault().await else { return };
    let mut names: Vec<String> = (0..24).map(|n| format!("nobody-{n}")).collect();
    for name in ["ada", "grace", "joan", "mary", "rosa", "emmy"] {
        let token = app.make_token(Role::Auditor, name).await;
        Person::enrol(&app, &clock, &token).await;
        names.push(name.to_owned());
    }
    let fails = async |name: &str| {
        let before = entries(app.dir()).len();
        let answer = log_in(&app, &json!({"name": name, "password": "x", "code": "1"})).await;
        assert_eq!(answer.status, 401, "{answer:?}");
        entries(app.dir()).len() - before
    };
    for name in &names {
        assert_eq!(fails(name).await, 1, "{name}: one more, whether anybody has the name or not");
    }
    app.stop();
    app.start();
    app.finish();
}

#[tokio::test]
async fn a_login_row_that_somebody_changed_in_the_database_is_no_login() {
    let Some((mut app, clock)) = vault().await else { return };
    let token = app.make_token(Role::Officer, "ada").await;
    let mut ada = Person::enrol(&app, &clock, &token).await;
    app.stop();
    crate::tamper::edits::settle(app.dir());
    crate::tamper::edits::edit(app.dir(), |db| {
        assert_eq!(db.execute("UPDATE state SET tag = randomblob(32) WHERE kind = 'login'", []).unwrap(), 1);
    });
    let (code, report) = app.verify();
    assert_ne!(code, 0, "{report:#}");
    app.start();
    let credentials = ada.credentials();
    assert_eq!(log_in(&app, &credentials).await.code(), "login_failed");
    app.stop();
}
