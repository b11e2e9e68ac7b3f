//! kill -9 at random moments under load: what was acknowledged is there once, where it was told; what was not is there wholly or
//! not at all. kill -9 alone cannot tell FULL from NORMAL, because the page cache survives; it tests our own code.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use phivault::keyfile::{KeyPaths, read_verifier_key};
use phivault::ledger::checkpoint;
use phivault::ledger::hash::Hash;
use phivault::ledger::proof::verify_inclusion;
use rusqlite::Connection;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::{App, Client, entry, program, text};
use crate::chance::{Chance, number};
use crate::check::{Stored, entries};

/// How often receipts are proved, in rounds: a proof waits for the signer. Everything else is checked in every round.
const PROVE_EVERY: u64 = 12;
/// Kills of one vault; then comes a new one, for everything in it is compared after each kill.
const ROUNDS_A_VAULT: u64 = 25;
/// Applications that submit at the same time, each over its own connection.
const APPLICATIONS: u64 = 6;

/// Where an entry stands: sequence and leaf hash.
type Place = (u64, String);

/// What one application knows of its submissions.
struct Journal {
    chance: Chance,
    requests: Vec<Request>,
    /// Shared by all applications: how many entries were acknowledged.
    acknowledged: Arc<AtomicUsize>,
}

/// What goes in with one request: a single entry, or an atomic batch.
struct Request {
    bodies: Vec<Value>,
    /// What the vault answered, in the order of the bodies.
    receipts: Option<Vec<Value>>,
    /// Where the entries stood when the server was down; nothing if they were not in.
    stored: Option<Vec<Place>>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_doubled_or_moved_by_kill_9() {
    let rounds = number("PHIVAULT_TEST_KILL_ROUNDS", 50);
    let seed = number("PHIVAULT_TEST_SEED", 20_261_124);
    println!("{rounds} rounds, seed {seed} (PHIVAULT_TEST_KILL_ROUNDS, PHIVAULT_TEST_SEED)");
    let mut sum = Sum::default();
    for begun in (0..rounds).step_by(ROUNDS_A_VAULT as usize) {
        killed(ROUNDS_A_VAULT.min(rounds - begun), seed + begun, &mut sum).await;
        if begun > 0 && begun % 1_000 == 0 {
            println!("after {begun} rounds: {sum:?}");
        }
    }
    let Sum { acknowledged, stored, absent } = sum;
    println!(
        "{rounds} kills: {acknowledged} entries acknowledged, none lost, doubled or moved; of requests that broke off {stored} were in, {absent} not"
    );
    assert!(acknowledged as u64 > rounds * 5, "{acknowledged} in {rounds} rounds is too thin a load");
    assert!(stored + absent > 0, "no request was ever broken off, so the kills hit nothing");
}

/// What came of all kills.
#[derive(Default, Debug)]
struct Sum {
    /// Entries that were acknowledged.
    acknowledged: usize,
    /// Requests without an answer that were in, and that were not.
    stored: usize,
    absent: usize,
}

/// A vault that is killed so many times.
async fn killed(rounds: u64, seed: u64, sum: &mut Sum) {
    let mut chance = Chance(seed);
    let mut app = App::spawn().await;
    let mut journals = new_journals(seed);
    let acknowledged = journals[0].acknowledged.clone();
    for round in 0..rounds {
        let working: Vec<_> = journals.into_iter().map(|it| tokio::spawn(it.work(app.submitter()))).collect();
        tokio::time::sleep(Duration::from_millis(1 + chance.below(150))).await;
        if round % 2 == 1 {
            next_acknowledgement(&acknowledged, &working).await;
        }
        app.kill();
        journals = finished(working).await;
        let (in_after_all, not_in) = compare(&app, &mut journals);
        sum.stored += in_after_all;
        sum.absent += not_in;
        let (code, report) = app.verify();
        assert_eq!((code, report["verdict"].as_str()), (0, Some("intact")), "seed {seed}, round {round}: {report:#}");
        app.start();
        if round % PROVE_EVERY == 0 || round + 1 == rounds {
            check_proofs(&app, &journals, &mut chance).await;
        }
    }
    for journal in &mut journals {
        assert!(journal.retry(&app.submitter()).await, "the server died without being killed: {}", app.log());
    }
    check_values(&app, &journals, &mut chance).await;
    app.stop();
    assert_eq!(compare(&app, &mut journals), (0, 0), "in the end every submission is acknowledged");
    sum.acknowledged += acknowledged.load(Ordering::Relaxed);
    app.finish();
}

fn new_journals(seed: u64) -> Vec<Journal> {
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let journal = |n: u64| Journal {
        chance: Chance(seed ^ (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        requests: Vec::new(),
        acknowledged: acknowledged.clone(),
    };
    (0..APPLICATIONS).map(journal).collect()
}

async fn finished(working: Vec<tokio::task::JoinHandle<Journal>>) -> Vec<Journal> {
    let mut journals = Vec::new();
    for application in working {
        journals.push(application.await.unwrap());
    }
    journals
}

/// The worst moment for a receipt that was given too early: right after it.
async fn next_acknowledgement(acknowledged: &AtomicUsize, working: &[tokio::task::JoinHandle<Journal>]) {
    let before = acknowledged.load(Ordering::Relaxed);
    while acknowledged.load(Ordering::Relaxed) == before && working.iter().any(|it| !it.is_finished()) {
        tokio::task::yield_now().await;
    }
}

impl Journal {
    /// Retries what has no answer yet, then submits more, until the server goes away.
    async fn work(mut self, client: Client) -> Self {
        if !self.retry(&client).await {
            return self;
        }
        loop {
            let request = self.compose();
            self.requests.push(request);
            if !self.send(&client, self.requests.len() - 1).await {
                return self;
            }
        }
    }

    /// Sends every request without an answer again with the same ids, some batches entry by entry. False: the server is gone.
    async fn retry(&mut self, client: &Client) -> bool {
        let (open, answered): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.requests).into_iter().partition(|it| it.receipts.is_none());
        self.requests = answered;
        let from = self.requests.len();
        for request in open {
            let split = request.bodies.len() > 1 && self.chance.below(3) == 0;
            self.requests.extend(if split { request.split() } else { vec![request] });
        }
        for n in from..self.requests.len() {
            if !self.send(client, n).await {
                return false;
            }
        }
        true
    }

    fn compose(&mut self) -> Request {
        let count = if self.chance.below(3) == 0 { 2 + self.chance.below(40) } else { 1 };
        let body = |_| {
            let mut body = entry();
            body["id"] = json!(Uuid::now_v7());
            body["actor"]["id"] = json!(format!("user-{}", self.chance.below(12)));
            body["patient"]["id"] = json!(format!("MRN-{}", self.chance.below(40)));
            body["record"]["id"] = json!(format!("c-{}", self.chance.below(1_000_000)));
            body["changes"][0]["new"] = json!(self.chance.below(1_000_000));
            body
        };
        Request { bodies: (0..count).map(body).collect(), receipts: None, stored: None }
    }

    /// Sends one request until it is answered. False: the connection broke, and the outcome is not known.
    async fn send(&mut self, client: &Client, n: usize) -> bool {
        let request = &mut self.requests[n];
        loop {
            let http = client.request(reqwest::Method::POST, request.path());
            let http = http.header("content-type", request.media_type()).body(request.text());
            let answer = match client.try_send(http).await {
                Ok(answer) => answer,
                Err(error) => {
                    assert!(!error.is_timeout(), "the server took a request and never answered: {error}");
                    return false;
                }
            };
            match answer.status {
                200 | 201 => {
                    let receipts = request.answered(answer.status, &answer.json());
                    self.acknowledged.fetch_add(receipts.len(), Ordering::Relaxed);
                    request.receipts = Some(receipts);
                    return true;
                }
                503 if answer.code() == "busy" => tokio::task::yield_now().await,
                _ => panic!("{answer:?}"),
            }
        }
    }
}

impl Request {
    fn path(&self) -> &'static str {
        if self.bodies.len() == 1 { "/v1/entries" } else { "/v1/entries/batch" }
    }

    fn media_type(&self) -> &'static str {
        if self.bodies.len() == 1 { "application/json" } else { "application/x-ndjson" }
    }

    fn text(&self) -> String {
        self.bodies.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    /// The same entries, each by itself.
    fn split(self) -> Vec<Self> {
        let one = |(n, body): (usize, Value)| {
            let stored = self.stored.as_ref().map(|it| vec![it[n].clone()]);
            Self { bodies: vec![body], receipts: None, stored }
        };
        self.bodies.into_iter().enumerate().map(one).collect()
    }

    /// The receipts of an answer, which must call duplicates exactly what was in before.
    fn answered(&self, status: u16, answer: &Value) -> Vec<Value> {
        let known = self.stored.is_some();
        if self.bodies.len() == 1 {
            assert_eq!(status, if known { 200 } else { 201 }, "{answer:#}");
            assert_eq!(answer["duplicate"], if known { json!(true) } else { Value::Null }, "{answer:#}");
            return vec![answer.clone()];
        }
        let count = if known { "duplicates" } else { "accepted" };
        assert_eq!((status, &answer[count]), (200, &json!(self.bodies.len())), "{answer:#}");
        let receipts: Vec<_> = answer["results"].as_array().unwrap().iter().map(|it| it["receipt"].clone()).collect();
        assert_eq!(receipts.len(), self.bodies.len(), "{answer:#}");
        receipts
    }
}

fn place(receipt: &Value) -> Place {
    (receipt["sequence"].as_u64().unwrap(), receipt["leaf_hash"].as_str().unwrap().to_owned())
}

/// Reads the database while the server is down, and compares it with what the applications know. Gives back how many requests
/// without an answer are in, and how many are not.
fn compare(app: &App, journals: &mut [Journal]) -> (usize, usize) {
    let rows = entries(app.dir());
    let mut places: HashMap<Uuid, Vec<u64>> = HashMap::new();
    for (n, row) in (0..).zip(&rows).filter(|(_, row)| row.meta.source == "submitter-app") {
        places.entry(row.meta.id).or_default().push(n);
    }
    let mut known = 0;
    let (mut in_after_all, mut not_in) = (0, 0);
    for request in journals.iter_mut().flat_map(|it| &mut it.requests) {
        let mut found = Vec::new();
        for body in &request.bodies {
            let id: Uuid = body["id"].as_str().unwrap().parse().unwrap();
            match places.get(&id).map_or(&[][..], Vec::as_slice) {
                [] => {}
                [n] => {
                    let row = &rows[usize::try_from(*n).unwrap()];
                    assert_content(row, body);
                    found.push((*n, hex::encode(row.leaf)));
                }
                many => panic!("{id} is there more than once, at {many:?}"),
            }
        }
        known += found.len();
        if let Some(receipts) = &request.receipts {
            let told: Vec<_> = receipts.iter().map(place).collect();
            assert_eq!(found, told, "what was acknowledged does not stand where it was told: {receipts:#?}");
            continue;
        }
        let (is, of) = (found.len(), request.bodies.len());
        assert!(is == 0 || is == of, "{is} of {of} entries of an atomic batch are in: {:#?}", request.bodies);
        if let Some(before) = &request.stored {
            assert_eq!(&found, before, "what was in has moved since the last kill");
        }
        *if is == 0 { &mut not_in } else { &mut in_after_all } += 1;
        request.stored = (is > 0).then_some(found);
    }
    assert_eq!(known, places.values().map(Vec::len).sum::<usize>(), "there are entries that nobody submitted");
    (in_after_all, not_in)
}

fn assert_content(row: &Stored, body: &Value) {
    assert_eq!(row.meta.actor.id, body["actor"]["id"].as_str().unwrap(), "another actor than in {body}");
    let record = row.meta.record.as_ref().unwrap();
    assert_eq!(record.id, body["record"]["id"].as_str().unwrap(), "another record than in {body}");
}

/// Bodies and receipts of a few acknowledged entries.
fn sample<'a>(journals: &'a [Journal], chance: &mut Chance, count: usize) -> Vec<(&'a Value, &'a Value)> {
    let answered = journals.iter().flat_map(|it| &it.requests).filter_map(|it| Some((it, it.receipts.as_ref()?)));
    let all: Vec<_> = answered.flat_map(|(request, receipts)| request.bodies.iter().zip(receipts)).collect();
    let count = count.min(all.len());
    (0..count).map(|_| all[chance.below(all.len() as u64) as usize]).collect()
}

/// A receipt can be proved after the kill: by a path to a root that the vault signed.
async fn check_proofs(app: &App, journals: &[Journal], chance: &mut Chance) {
    let key = read_verifier_key(&KeyPaths::in_folder(&app.dir().join("keys")).verifier_key()).unwrap();
    let hash = |it: &Value| Hash::from_hex(it.as_str().unwrap()).unwrap();
    for (body, receipt) in sample(journals, chance, 3) {
        let answer = app.submitter().get(&format!("/v1/entries/{}/proof", body["id"].as_str().unwrap())).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let proof = answer.json();
        assert_eq!((&proof["index"], &proof["leaf_hash"]), (&receipt["sequence"], &receipt["leaf_hash"]), "{proof:#}");
        let note = proof["checkpoint"].as_str().unwrap();
        let signed = checkpoint::open(note, key.name(), std::slice::from_ref(&key)).unwrap();
        let path: Vec<_> = proof["hashes"].as_array().unwrap().iter().map(hash).collect();
        let index = proof["index"].as_u64().unwrap();
        let holds = verify_inclusion(&hash(&receipt["leaf_hash"]), index, signed.size, &path, &signed.root);
        assert!(holds.is_ok(), "{holds:?}: {proof:#}");
    }
}

/// The values of a few entries are those that were sent.
async fn check_values(app: &App, journals: &[Journal], chance: &mut Chance) {
    let sample = sample(journals, chance, 50);
    let ids: HashSet<_> = sample.iter().map(|(body, _)| body["id"].clone()).collect();
    let ids: Vec<_> = ids.into_iter().collect();
    let answer = app.officer().post("/v1/reveal", &json!({"ids": ids, "reason": {"code": "HCOMPL"}})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let shown = answer.json();
    let shown: HashMap<_, _> =
        shown["entries"].as_array().unwrap().iter().map(|it| (it["id"].to_string(), it)).collect();
    for (body, receipt) in sample {
        let shown = shown[&body["id"].to_string()];
        assert_eq!(shown["changes"], body["changes"], "values of {}", body["id"]);
        assert_eq!(shown["patient"]["id"], body["patient"]["id"], "patient of {}", body["id"]);
        assert_eq!(shown["received_at"], receipt["received_at"], "time of {}", body["id"]);
    }
}

#[tokio::test]
async fn nothing_is_acknowledged_before_it_is_committed() {
    let mut app = App::spawn().await;
    let mut journal = new_journals(2).remove(0);
    for _ in 0..4 {
        let request = journal.compose();
        let before = entries(app.dir()).len();
        // Somebody else writes, so the vault cannot commit.
        let database = Connection::open(app.dir().join("data/vault.db")).unwrap();
        database.execute_batch("BEGIN IMMEDIATE").unwrap();
        let http = app.submitter().request(reqwest::Method::POST, request.path());
        let http = http.header("content-type", request.media_type()).body(request.text());
        let client = app.submitter();
        let waiting = tokio::spawn(async move { client.try_send(http).await });
        // It has reached the queue, and stays unanswered while others are answered.
        let mut looks = 0;
        while looks < 20 {
            let figures = app.auditor().get("/metrics").await.text;
            looks += u32::from(figures.lines().any(|it| it.starts_with("phivault_queue_kib ") && !it.ends_with(" 0")));
            assert!(!waiting.is_finished(), "answered without a commit: {:?}", waiting.await);
        }
        app.kill();
        drop(database);
        let outcome = waiting.await.unwrap();
        assert!(outcome.is_err(), "a dead server answered: {outcome:?}");
        assert_eq!(entries(app.dir()).len(), before, "it could not be committed and is there");
        app.start();
    }
    app.finish();
}

#[tokio::test]
async fn a_batch_sent_again_after_a_kill_gets_the_first_receipts_as_duplicates() {
    let mut app = App::spawn().await;
    let mut journal = new_journals(1).remove(0);
    let mut batch = journal.compose();
    while batch.bodies.len() < 2 {
        batch = journal.compose();
    }
    let first = app.submitter().post_text(batch.path(), batch.media_type(), batch.text()).await.json();
    assert_eq!(first["accepted"], batch.bodies.len(), "{first:#}");
    for _ in 0..2 {
        app.kill();
        app.start();
        let again = app.submitter().post_text(batch.path(), batch.media_type(), batch.text()).await.json();
        assert_eq!((&again["accepted"], &again["duplicates"]), (&json!(0), &json!(batch.bodies.len())), "{again:#}");
        for (now, before) in again["results"].as_array().unwrap().iter().zip(first["results"].as_array().unwrap()) {
            assert_eq!((&now["status"], &now["receipt"]), (&json!("duplicate"), &before["receipt"]), "{again:#}");
        }
        let single = app.submitter().post("/v1/entries", &batch.bodies[1]).await;
        assert_eq!((single.status, place(&single.json())), (200, place(&first["results"][1]["receipt"])), "{single:?}");
    }
    app.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_answers_everything_it_took_and_exits_with_0() {
    let mut app = App::spawn().await;
    let journals = new_journals(number("PHIVAULT_TEST_SEED", 20_261_124));
    let acknowledged = journals[0].acknowledged.clone();
    let working: Vec<_> = journals.into_iter().map(|it| tokio::spawn(it.work(app.submitter()))).collect();
    while acknowledged.load(Ordering::Relaxed) < 50 {
        tokio::task::yield_now().await;
    }
    // Waits for the exit code.
    app.stop();
    let mut journals = finished(working).await;
    let (in_after_all, _) = compare(&app, &mut journals);
    assert_eq!(in_after_all, 0, "a request went in and nobody was told, though the server had time to tell");
    app.finish();
}

#[tokio::test]
async fn a_second_server_on_the_same_folder_is_refused_and_the_first_goes_on() {
    let app = App::spawn().await;
    let mut second = program();
    second.arg("serve").arg("--config").arg(app.dir().join("phivault.toml"));
    let output = second.env("PHIVAULT_SERVER__LISTEN", "127.0.0.1:0").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("Another phivault"), "{}", text(&output));
    assert!(output.stdout.is_empty(), "it announced an address: {}", text(&output));
    app.submitter().submit(&entry()).await;
    app.finish();
}
