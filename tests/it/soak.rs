//! Hours of ordinary work: several applications, an officer who searches and reveals, an auditor, and now and then one application that
//! asks for ten times its share. Memory, descriptors and the log stay bounded, nobody else is refused, and what was refused is counted.
//!
//! A minute by minute table is printed; times are told, not judged.

use std::time::{Duration, Instant};

use phivault::domain::caller::Role;
use serde_json::{Value, json};

use crate::app::{App, Client, entry};
use crate::chance::number;

/// What one application may submit a second.
const SHARE: u64 = 200;
/// What each of the others submits a second.
const PACE: u64 = 60;
const OTHERS: usize = 3;
/// Entries in a batch of the flood.
const BATCH: usize = 40;

/// How long each request took, in the order they were made, and how many were refused.
#[derive(Default)]
struct Times {
    milliseconds: Vec<f64>,
    refused: u64,
}

impl Times {
    fn p99(&mut self) -> f64 {
        self.milliseconds.sort_by(f64::total_cmp);
        self.milliseconds.get(self.milliseconds.len() * 99 / 100).copied().unwrap_or_default()
    }
}

/// What the process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    resident_kib: u64,
    descriptors: usize,
    log_bytes: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hours_of_work_and_a_flood_leave_memory_descriptors_and_log_where_they_were() {
    let seconds = number("PHIVAULT_TEST_SOAK_SECONDS", 8);
    let mut app = App::spawn().await;
    let mut tokens = Vec::new();
    for n in 0..=OTHERS {
        tokens.push(app.make_token(Role::Submitter, &format!("soak-{n}")).await);
    }
    app.stop();
    app.set("PHIVAULT_LIMITS__SUBMITS_PER_SECOND", &SHARE.to_string());
    app.start();
    let flooder = tokens.pop().unwrap();
    let part = Duration::from_secs((seconds / 8).clamp(1, 60));
    let (mut seen, mut refused) = (Vec::new(), 0);
    for n in 0..seconds / part.as_secs() {
        // Every other part is flooded.
        let is_flooded = n % 2 == 1;
        let (mut times, denied) = work(&app, &tokens, is_flooded.then_some(&flooder), part).await;
        assert_eq!(times.refused, 0, "those within their share are not refused");
        assert!(is_flooded || denied == 0, "{denied} refused");
        refused += denied;
        let held = held(&app);
        println!(
            "part {n}{}: {} requests, p99 {:.1} ms, {denied} refused, {held:?}",
            if is_flooded { " (flood)" } else { "" },
            times.milliseconds.len(),
            times.p99()
        );
        assert!(held.log_bytes < 64 << 20, "{held:?}");
        seen.push(held);
    }
    assert!(refused > 0, "the flood was none");
    bounded(&seen, seconds);
    app.stop();
    app.set("PHIVAULT_LIMITS__SUBMITS_PER_SECOND", "0");
    app.start();
    assert_eq!(told(&app, &format!("soak-{OTHERS}")).await, refused, "every refusal is counted, and none twice");
    app.finish();
}

/// Everybody works for so long; how long requests took but those of the flood, and how many of that were refused.
async fn work(app: &App, tokens: &[String], flooder: Option<&String>, part: Duration) -> (Times, u64) {
    let until = Instant::now() + part;
    let mut working: Vec<_> =
        tokens.iter().map(|token| tokio::spawn(submits(app.with_token(token), PACE, until))).collect();
    working.push(tokio::spawn(reads(app.officer(), app.auditor(), until)));
    let flood = flooder.map(|token| tokio::spawn(floods(app.with_token(token), until)));
    let mut all = Times::default();
    for it in working {
        let times = it.await.unwrap();
        all.milliseconds.extend(times.milliseconds);
        all.refused += times.refused;
    }
    let refused = match flood {
        Some(it) => it.await.unwrap().refused,
        None => 0,
    };
    (all, refused)
}

async fn submits(client: Client, a_second: u64, until: Instant) -> Times {
    let mut times = Times::default();
    let mut due = Instant::now();
    let mut n = 0_u64;
    while Instant::now() < until {
        due += Duration::from_secs(1) / a_second as u32;
        tokio::time::sleep_until(due.into()).await;
        n += 1;
        let mut body = entry();
        body["patient"]["id"] = json!(format!("MRN-{}", n % 500));
        body["record"]["id"] = json!(format!("c-{}", n % 2_000));
        times.ask(client.post("/v1/entries", &body).await.status, due, &[201]);
    }
    times
}

/// Ten times its share, in batches.
async fn floods(client: Client, until: Instant) -> Times {
    let mut times = Times::default();
    let mut due = Instant::now();
    while Instant::now() < until {
        due += Duration::from_secs(1) * BATCH as u32 / (SHARE * 10) as u32;
        tokio::time::sleep_until(due.into()).await;
        let batch: Vec<_> = (0..BATCH).map(|_| entry()).collect();
        times.ask(client.post("/v1/entries/batch", &json!(batch)).await.status, due, &[200]);
    }
    times
}

async fn reads(officer: Client, auditor: Client, until: Instant) -> Times {
    let mut times = Times::default();
    let mut n = 0_u64;
    while Instant::now() < until {
        n += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let began = Instant::now();
        let found = officer.get(&format!("/v1/entries?patient=MRN-{}&limit=20", n % 500)).await;
        times.ask(found.status, began, &[200]);
        let ids: Vec<Value> = found.json()["entries"].as_array().unwrap().iter().map(|it| it["id"].clone()).collect();
        if !ids.is_empty() {
            let began = Instant::now();
            let asked = json!({"ids": ids, "reason": {"code": "HCOMPL"}});
            times.ask(officer.post("/v1/reveal", &asked).await.status, began, &[200]);
        }
        let began = Instant::now();
        times.ask(auditor.get("/v1/entries?limit=5").await.status, began, &[200]);
    }
    times
}

impl Times {
    fn ask(&mut self, status: u16, began: Instant, good: &[u16]) {
        assert!(status == 429 || good.contains(&status), "{status}");
        self.refused += u64::from(status == 429);
        self.milliseconds.push(began.elapsed().as_secs_f64() * 1e3);
    }
}

fn held(app: &App) -> Held {
    let process = format!("/proc/{}", app.process());
    let status = std::fs::read_to_string(format!("{process}/status")).unwrap_or_default();
    let resident = status.lines().find_map(|it| it.strip_prefix("VmRSS:"));
    Held {
        resident_kib: resident.map_or(0, |it| it.trim().trim_end_matches(" kB").parse().unwrap()),
        descriptors: std::fs::read_dir(format!("{process}/fd")).map_or(0, Iterator::count),
        log_bytes: std::fs::metadata(app.dir().join("data/vault.db-wal")).map_or(0, |it| it.len()),
    }
}

/// After the first half nothing grows beyond what the index of what came in takes.
fn bounded(seen: &[Held], seconds: u64) {
    let (first, last) = (seen[seen.len() / 2], seen[seen.len() - 1]);
    println!("in the second half of {seconds} s: {first:?} to {last:?}");
    assert!(last.descriptors <= first.descriptors + 16, "descriptors: {first:?} to {last:?}");
    assert!(last.resident_kib <= first.resident_kib + 32 * 1_024, "memory: {first:?} to {last:?}");
}

/// How many refusals of a token stand in entries.
async fn told(app: &App, label: &str) -> u64 {
    let (mut sum, mut next) = (0, String::new());
    loop {
        let found = app.auditor().get(&format!("/v1/entries?outcome=denied&limit=1000{next}")).await.json();
        let own = found["entries"].as_array().unwrap().iter().filter(|it| it["actor"]["id"] == label);
        sum += own.map(|it| it["facts"]["requests_refused"].as_str().unwrap().parse::<u64>().unwrap()).sum::<u64>();
        match found["next"].as_str() {
            Some(cursor) => next = format!("&cursor={cursor}"),
            None => return sum,
        }
    }
}
