//! A disk that fails: every kind of call in turn, once and for ever, under a real server. What was acknowledged is there, once, where
//! it was told; the server ends or goes on, but never says what is not so; the next start is clean.
//!
//! The faults come from a small library that is preloaded (`tests/fault/shim.c`), made with the C compiler that the build needs anyway.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::{App, entry};
use crate::check::entries;

/// Submissions of one life.
const SUBMISSIONS: usize = 5;
/// Calls that are failed of each kind, unless `PHIVAULT_TEST_FAULTS` says how many, or `all`.
const POINTS: usize = 10;

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

/// What was acknowledged: id, and the position that was told.
type Acknowledged = HashMap<Uuid, u64>;

#[tokio::test]
async fn whatever_call_of_the_disk_fails_nothing_acknowledged_is_lost_and_the_next_start_is_clean() {
    if !cfg!(target_os = "linux") {
        return eprintln!("SKIPPED: a library is preloaded under the server, which takes Linux");
    }
    let mut app = App::spawn().await;
    app.stop();
    let shim = preloaded("shim.c", app.dir());
    app.set("FAULT_COUNT", app.dir().join("calls").to_str().unwrap().to_owned().as_str());
    let wanted = std::env::var("PHIVAULT_TEST_FAULTS").unwrap_or_else(|_| POINTS.to_string());
    let (mut acknowledged, mut lives, mut broken) = (Acknowledged::new(), 0, 0);
    for (place, calls, kind, ever) in FAULTS {
        app.set("FAULT_UNDER", app.dir().join(place).to_str().unwrap().to_owned().as_str());
        app.set("FAULT_CALLS", calls);
        app.set("FAULT_KIND", kind);
        app.set("FAULT_EVER", if ever { "1" } else { "0" });
        let all = counted(&mut app, &shim, &mut acknowledged).await;
        assert!(all > 0, "{place} {calls}: a life makes such calls");
        let count = if wanted == "all" { all } else { wanted.parse::<usize>().unwrap().min(all) };
        // Spread evenly over the life, its start and its end among them.
        for n in (0..count).map(|n| 1 + n * (all - 1) / (count - 1).max(1)) {
            app.set("FAULT_AT", &n.to_string());
            let whole = life(&mut app, &shim, &mut acknowledged).await;
            lives += 1;
            broken += u32::from(!whole);
            clean(
                &mut app,
                &acknowledged,
                &format!("{kind} at {calls} call {n} of {all} in {place}, for ever: {ever}"),
            )
            .await;
        }
    }
    println!(
        "{lives} lives with a fault, {broken} of them broken off; {} entries acknowledged, all there",
        acknowledged.len()
    );
    assert!(broken > 0, "no fault was ever noticed, so none was made");
    app.finish();
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

/// A life without a fault: how many calls of the kind it makes.
async fn counted(app: &mut App, shim: &Path, acknowledged: &mut Acknowledged) -> usize {
    app.set("FAULT_AT", "0");
    assert!(life(app, shim, acknowledged).await, "{}", app.log());
    let calls = std::fs::read_to_string(app.dir().join("calls")).unwrap();
    calls.trim().parse().unwrap()
}

/// Starts a server under the shim and works with it until it is stopped or ends; whether everything was answered well.
async fn life(app: &mut App, shim: &Path, acknowledged: &mut Acknowledged) -> bool {
    app.set("LD_PRELOAD", shim.to_str().unwrap());
    let mut whole = app.try_start().is_ok();
    if whole {
        for n in 0..SUBMISSIONS {
            let mut body = entry();
            let id = Uuid::now_v7();
            body["id"] = json!(id);
            body["record"]["id"] = json!(format!("c-{n}"));
            let request = app.submitter().request(reqwest::Method::POST, "/v1/entries").json(&body);
            match app.submitter().try_send(request).await {
                Ok(answer) if answer.status == 201 => {
                    let told: Value = answer.json();
                    acknowledged.insert(id, told["sequence"].as_u64().unwrap());
                }
                Ok(answer) => {
                    assert_eq!(answer.status, 503, "{answer:?}");
                    whole = false;
                }
                Err(_) => whole = false,
            }
        }
        let rotate = app.admin().request(reqwest::Method::POST, "/v1/keys/rotate");
        let reason = json!({"reason": {"code": "HSYSADMIN"}});
        whole &= app.admin().try_send(rotate.json(&reason)).await.is_ok_and(|it| it.status == 200);
        whole &= app.end();
    }
    app.set("LD_PRELOAD", "");
    whole
}

/// Starts without faults: the start works, everything acknowledged is there where it was told, and nothing is there twice.
async fn clean(app: &mut App, acknowledged: &Acknowledged, after: &str) {
    if let Err(said) = app.try_start() {
        panic!("{after}: the next start is refused: {said}");
    }
    assert_eq!(app.submitter().post("/v1/entries", &entry()).await.status, 201, "{after}");
    app.stop();
    let (code, report) = app.verify();
    assert_eq!((code, report["verdict"].as_str()), (0, Some("intact")), "{after}: {report:#}");
    let mut places: HashMap<Uuid, u64> = HashMap::new();
    for (sequence, it) in (0..).zip(entries(app.dir())) {
        assert!(places.insert(it.meta.id, sequence).is_none(), "{after}: an entry is there twice");
    }
    for (id, sequence) in acknowledged {
        assert_eq!(places.get(id), Some(sequence), "{after}: {id} was acknowledged");
    }
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
