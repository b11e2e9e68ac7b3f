//! A disk that fails: every kind of call in turn, once and for ever, under a real server. What was acknowledged is there, once, where
//! it was told; the server ends or goes on, but never says what is not so; the next start is clean.
//!
//! A life is: start, 200 entries, a checkpoint, a new data key, re-encryption, destruction of the old key by two persons, stop. What is
//! one command (init, backup, restore) has its own tests in `faults/commands.rs`.
//!
//! The faults come from a small library that is preloaded (`tests/fault/shim.c`), made with the C compiler that the build needs anyway.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use phivault::domain::caller::Role;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::{Answer, App, Client, entry};
use crate::check::{check_vault, entries};
use crate::tamper::edits::{copy, put};

mod commands;

/// Entries of the requests of one life: singles, and batches.
const REQUESTS: [usize; 8] = [1, 1, 60, 1, 1, 75, 1, 60];
/// Calls that are failed of each kind, unless `PHIVAULT_TEST_FAULTS` says how many, or `all`.
const POINTS: usize = 6;

/// Where, which calls, how, and whether for ever.
const FAULTS: [(&str, &str, &str, bool); 8] = [
    ("data", "w", "eio", false),
    ("data", "s", "eio", false),
    ("data", "s", "eio", true),
    ("data", "w", "enospc", true),
    ("data", "w", "short", false),
    ("data", "to", "eio", true),
    ("keys", "wso", "eio", false),
    ("keys", "wso", "enospc", true),
];

/// What a life was told.
#[derive(Default)]
struct Told {
    /// What was acknowledged: id, and position.
    entries: HashMap<Uuid, u64>,
    /// Whether the old key was said to be destroyed.
    destroyed: bool,
    /// Whether everything was answered well.
    whole: bool,
}

/// A vault that begins the same life again and again.
struct Lives {
    app: App,
    /// The vault as it is before a life.
    before: tempfile::TempDir,
    second: String,
    shim: PathBuf,
}

#[tokio::test]
async fn whatever_call_of_the_disk_fails_nothing_acknowledged_is_lost_and_the_next_start_is_clean() {
    if !cfg!(target_os = "linux") {
        return eprintln!("SKIPPED: a library is preloaded under the server, which takes Linux");
    }
    let mut lives = Lives::new().await;
    let (mut acknowledged, mut count, mut broken, mut destroyed) = (0, 0, 0, 0);
    for (place, calls, kind, ever) in FAULTS {
        lives.fault(place, calls, kind, ever);
        let all = lives.counted().await;
        assert!(all > 0, "{place} {calls}: a life makes such calls");
        // No two lives make their calls in quite the same number, so `all` goes on until there is none left to fail.
        let (further, mut missed) = (if is_all() { all + 1..usize::MAX } else { 0..0 }, 0);
        for n in points(all).chain(further) {
            lives.app.set("FAULT_AT", &n.to_string());
            let (told, made) = lives.life().await;
            lives.clean(&told, &format!("{kind} at {calls} call {n} of {all} in {place}, for ever: {ever}")).await;
            acknowledged += told.entries.len();
            destroyed += u32::from(told.destroyed);
            if made {
                (count, missed) = (count + 1, 0);
                broken += u32::from(!told.whole);
            } else {
                missed += 1;
                assert!(told.whole, "without a fault everything is done");
            }
            if n > all && missed > 2 {
                break;
            }
        }
    }
    println!(
        "{count} lives with a fault, {broken} of them broken off; {acknowledged} entries acknowledged, all there; \
         {destroyed} keys said to be destroyed, all gone"
    );
    assert!(broken > 0, "no fault was ever noticed, so none was made");
    lives.app.finish();
}

fn wanted() -> String {
    std::env::var("PHIVAULT_TEST_FAULTS").unwrap_or_else(|_| POINTS.to_string())
}

fn is_all() -> bool {
    wanted() == "all"
}

/// Which calls fail, of so many: spread evenly, the first and the last among them.
fn points(all: usize) -> impl Iterator<Item = usize> {
    let count = if is_all() { all } else { wanted().parse::<usize>().unwrap().min(all) };
    (0..count).map(move |n| 1 + n * (all - 1) / (count - 1).max(1))
}

/// Builds a library to preload under a server.
pub fn preloaded(source: &str, folder: &Path) -> PathBuf {
    let library = folder.join(source).with_extension("so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fault").join(source);
    let made =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl").status();
    assert!(made.unwrap().success(), "the C compiler that SQLite is built with makes this library, too");
    library
}

impl Lives {
    async fn new() -> Self {
        let mut app = App::spawn().await;
        let second = app.make_token(Role::Admin, "second-admin").await;
        app.submitter().submit(&entry()).await;
        app.stop();
        let (before, shim) = (copy(app.dir()), preloaded("shim.c", app.dir()));
        for (name, file) in [("FAULT_COUNT", "calls"), ("FAULT_MADE", "made")] {
            let path = app.dir().join(file).to_str().unwrap().to_owned();
            app.set(name, &path);
        }
        Self { app, before, second, shim }
    }

    /// Which calls fail from now on.
    fn fault(&mut self, place: &str, calls: &str, kind: &str, ever: bool) {
        let place = self.app.dir().join(place).to_str().unwrap().to_owned();
        let ever = if ever { "1" } else { "0" };
        for (name, value) in [("UNDER", place.as_str()), ("CALLS", calls), ("KIND", kind), ("EVER", ever)] {
            self.app.set(&format!("FAULT_{name}"), value);
        }
    }

    /// A life without a fault: how many calls of the kind it makes.
    async fn counted(&mut self) -> usize {
        self.app.set("FAULT_AT", "0");
        let (told, _) = self.life().await;
        assert!(told.whole && told.destroyed, "{}", self.app.log());
        let calls = std::fs::read_to_string(self.app.dir().join("calls")).unwrap();
        calls.trim().parse().unwrap()
    }

    /// Starts a server under the shim and works with it until it is stopped or ends; what it told, and whether a call was failed.
    async fn life(&mut self) -> (Told, bool) {
        put("data", self.before.path(), self.app.dir());
        put("keys", self.before.path(), self.app.dir());
        self.app.set("LD_PRELOAD", self.shim.to_str().unwrap());
        let mut told = Told { whole: true, ..Told::default() };
        if self.app.try_start().is_ok() {
            for count in REQUESTS {
                self.submit(count, &mut told).await;
            }
            told.whole &= ok(self.app.submitter(), Method::GET, "/checkpoint", &Value::Null).await.is_some();
            self.destroy_the_old_key(&mut told).await;
            told.whole &= self.app.end();
        } else {
            told.whole = false;
        }
        self.app.set("LD_PRELOAD", "");
        (told, std::fs::remove_file(self.app.dir().join("made")).is_ok())
    }

    /// One request of so many entries.
    async fn submit(&self, count: usize, told: &mut Told) {
        let body = |n| {
            let mut body = entry();
            body["id"] = json!(Uuid::now_v7());
            body["record"]["id"] = json!(format!("c-{n}"));
            body
        };
        let bodies: Vec<_> = (0..count).map(body).collect();
        let (path, sent) =
            if count == 1 { ("/v1/entries", bodies[0].clone()) } else { ("/v1/entries/batch", json!(bodies)) };
        let Some(answer) = ok(self.app.submitter(), Method::POST, path, &sent).await else {
            return told.whole = false;
        };
        let answer = answer.json();
        let receipts = match answer["results"].as_array() {
            Some(results) => results.iter().map(|it| it["receipt"].clone()).collect(),
            None => vec![answer],
        };
        assert_eq!(receipts.len(), count);
        for receipt in receipts {
            told.entries
                .insert(receipt["id"].as_str().unwrap().parse().unwrap(), receipt["sequence"].as_u64().unwrap());
        }
    }

    /// A new data key, everything moved under it, and the first one destroyed by two administrators.
    async fn destroy_the_old_key(&self, told: &mut Told) {
        let reason = json!({"code": "HSYSADMIN"});
        let because = json!({"reason": reason});
        let (admin, second) = (self.app.admin(), self.app.with_token(&self.second));
        let rotated = ok(admin.clone(), Method::POST, "/v1/keys/rotate", &because).await;
        let begun =
            ok(admin.clone(), Method::POST, "/v1/keys/re-encrypt", &json!({"per_second": 0, "reason": reason})).await;
        while let Some(far) = ok(admin.clone(), Method::GET, "/v1/keys/re-encrypt", &Value::Null).await {
            if far.json()["running"] == json!(false) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let destroy = json!({"request": {"operation": "key_destroy", "version": 1}, "reason": reason});
        let asked = ok(admin, Method::POST, "/v1/admin/operations", &destroy).await;
        let approved = match asked {
            Some(asked) => {
                let path = format!("/v1/approvals/{}/approve", asked.json()["id"].as_str().unwrap());
                ok(second, Method::POST, &path, &because).await
            }
            None => None,
        };
        told.destroyed = approved.is_some();
        told.whole &= rotated.is_some() && begun.is_some() && told.destroyed;
    }

    /// Starts without faults: the start works, everything acknowledged is there where it was told, and nothing is there twice.
    async fn clean(&mut self, told: &Told, after: &str) {
        let app = &mut self.app;
        if let Err(said) = app.try_start() {
            panic!("{after}: the next start is refused: {said}");
        }
        assert_eq!(app.submitter().post("/v1/entries", &entry()).await.status, 201, "{after}");
        let keys = app.admin().get("/v1/keys").await.json();
        let first = &keys["versions"][0];
        assert!(!told.destroyed || first["state"] == "destroyed", "{after}: {keys:#}");
        app.stop();
        check_vault(app.dir());
        let mut places: HashMap<Uuid, u64> = HashMap::new();
        for (sequence, it) in (0..).zip(entries(app.dir())) {
            assert!(places.insert(it.meta.id, sequence).is_none(), "{after}: an entry is there twice");
        }
        for (id, sequence) in &told.entries {
            assert_eq!(places.get(id), Some(sequence), "{after}: {id} was acknowledged");
        }
    }
}

/// The answer, if it says that it was done; a failing disk may also be a 503, a refusal of what could not be prepared, or no answer.
async fn ok(client: Client, method: Method, path: &str, body: &Value) -> Option<Answer> {
    let request = client.request(method, path);
    let request = if body.is_null() { request } else { request.json(body) };
    let answer = client.try_send(request).await.ok()?;
    assert!([200, 201, 202, 422, 503].contains(&answer.status), "{path}: {answer:?}");
    (answer.status < 300).then_some(answer)
}

impl App {
    /// Stops the server however it can be stopped; whether it ended as it should.
    fn end(&mut self) -> bool {
        let Some(mut child) = self.take_server() else { return false };
        let pid = rustix::process::Pid::from_child(&child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            if let Ok(Some(status)) = child.try_wait() {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(child.kill());
        drop(child.wait());
        panic!("a server whose disk failed neither works nor ends: {}", self.log());
    }
}
