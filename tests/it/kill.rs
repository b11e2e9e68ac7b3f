//! kill -9 at random moments under load: what was acknowledged is there once, where it was told; what was not is there wholly or
//! not at all. kill -9 alone cannot tell FULL from NORMAL, because the page cache survives; it tests our own code.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::app::{App, Client, entry, program, text};
use crate::check::entries;

/// What a client knows of one submission.
struct Sent {
    body: Value,
    /// Entries that were sent together, all or none.
    group: Uuid,
    receipt: Option<Value>,
}

type Journal = Arc<Mutex<HashMap<Uuid, Sent>>>;

/// Chance that can be repeated.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|it| it.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_doubled_or_moved_by_kill_9() {
    let rounds = number("PHIVAULT_TEST_KILL_ROUNDS", 50);
    let seed = number("PHIVAULT_TEST_SEED", 20_261_124);
    println!("{rounds} rounds, seed {seed} (PHIVAULT_TEST_KILL_ROUNDS, PHIVAULT_TEST_SEED)");
    let mut chance = Chance(seed);
    let mut app = App::spawn().await;
    let journal: Journal = Journal::default();
    for round in 0..rounds {
        let writers: Vec<_> = (0..6)
            .map(|n| tokio::spawn(write(app.submitter(), journal.clone(), Chance(seed ^ (round * 64 + n)))))
            .collect();
        tokio::time::sleep(Duration::from_millis(1 + chance.below(150))).await;
        app.kill();
        for writer in writers {
            writer.await.unwrap();
        }
        check_journal(&app, &journal).await;
        if round % 10 == 0 {
            let (code, report) = app.verify();
            assert_eq!(code, 0, "round {round}: {report:#}");
        }
        app.start();
        retry(&app.submitter(), &journal, &mut chance).await;
    }
    let sent = journal.lock().await;
    let acknowledged = sent.values().filter(|it| it.receipt.is_some()).count();
    println!("{acknowledged} of {} acknowledged, none lost", sent.len());
    assert!(acknowledged as u64 > rounds * 5, "the load was too thin to mean anything");
    drop(sent);
    app.finish();
}

/// Submits single entries and small atomic batches until the server goes away.
async fn write(client: Client, journal: Journal, mut chance: Chance) {
    loop {
        let group = Uuid::now_v7();
        let count = if chance.below(3) == 0 { 2 + chance.below(20) } else { 1 };
        let mut bodies = Vec::new();
        for n in 0..count {
            let mut body = entry();
            let id = if n == 0 { group } else { Uuid::now_v7() };
            body["id"] = json!(id.to_string());
            body["patient"]["id"] = json!(format!("MRN-{}", chance.below(40)));
            body["changes"][0]["new"] = json!(chance.below(1_000_000));
            journal.lock().await.insert(id, Sent { body: body.clone(), group, receipt: None });
            bodies.push(body);
        }
        let (path, media, text) = if count == 1 {
            ("/v1/entries", "application/json", bodies[0].to_string())
        } else {
            let lines: Vec<_> = bodies.iter().map(ToString::to_string).collect();
            ("/v1/entries/batch", "application/x-ndjson", lines.join("\n"))
        };
        let request = client.request(reqwest::Method::POST, path).header("content-type", media).body(text);
        let Ok(answer) = client.try_send(request).await else { return };
        match answer.status {
            201 => note(&journal, &[answer.json()]).await,
            200 => {
                let results = answer.json();
                let receipts: Vec<_> =
                    results["results"].as_array().unwrap().iter().map(|it| it["receipt"].clone()).collect();
                note(&journal, &receipts).await;
            }
            503 => {}
            _ => panic!("{answer:?}"),
        }
    }
}

async fn note(journal: &Journal, receipts: &[Value]) {
    let mut journal = journal.lock().await;
    for receipt in receipts {
        let id: Uuid = receipt["id"].as_str().unwrap().parse().unwrap();
        journal.get_mut(&id).unwrap().receipt = Some(receipt.clone());
    }
}

/// Reads the database while the server is down, and compares it with what clients were told.
async fn check_journal(app: &App, journal: &Journal) {
    let mut places: HashMap<Uuid, Vec<(usize, String)>> = HashMap::new();
    for (n, stored) in entries(app.dir()).iter().enumerate() {
        places.entry(stored.meta.id).or_default().push((n, hex::encode(stored.leaf)));
    }
    let mut journal = journal.lock().await;
    let mut groups: HashMap<Uuid, (usize, usize)> = HashMap::new();
    for (id, sent) in journal.iter() {
        let found = places.get(id).map_or(&[][..], Vec::as_slice);
        assert!(found.len() <= 1, "{id} is there {} times", found.len());
        if let Some(receipt) = &sent.receipt {
            let told =
                (receipt["sequence"].as_u64().unwrap() as usize, receipt["leaf_hash"].as_str().unwrap().to_owned());
            assert_eq!(found, [told], "{id} was acknowledged");
        }
        let group = groups.entry(sent.group).or_default();
        group.0 += 1;
        group.1 += found.len();
    }
    for (id, sent) in journal.iter_mut() {
        // From now on each is retried by itself.
        sent.group = *id;
    }
    for (group, (sent, stored)) in groups {
        assert!(stored == 0 || stored == sent, "batch {group}: {stored} of {sent} are there");
    }
}

/// Clients retry what was not acknowledged, one by one, with the same ids.
async fn retry(client: &Client, journal: &Journal, chance: &mut Chance) {
    let open: Vec<_> =
        journal.lock().await.values().filter(|it| it.receipt.is_none()).map(|it| it.body.clone()).collect();
    for body in open {
        // Some clients do not come back yet.
        if chance.below(8) == 0 {
            continue;
        }
        let answer = client.post("/v1/entries", &body).await;
        assert!([200, 201].contains(&answer.status), "{answer:?}");
        let mut receipt = answer.json();
        receipt.as_object_mut().unwrap().remove("duplicate");
        note(journal, &[receipt]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_finishes_what_was_taken_and_exits_with_0() {
    let mut app = App::spawn().await;
    let journal: Journal = Journal::default();
    let writers: Vec<_> = (0..6).map(|n| tokio::spawn(write(app.submitter(), journal.clone(), Chance(n)))).collect();
    while journal.lock().await.values().filter(|it| it.receipt.is_some()).count() < 50 {
        tokio::task::yield_now().await;
    }
    app.stop();
    for writer in writers {
        writer.await.unwrap();
    }
    check_journal(&app, &journal).await;
    app.finish();
}

#[tokio::test]
async fn a_second_server_on_the_same_folder_is_refused() {
    let app = App::spawn().await;
    let output = program()
        .arg("serve")
        .arg("--config")
        .arg(app.dir().join("phivault.toml"))
        .env("PHIVAULT_SERVER__LISTEN", "127.0.0.1:0")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("Another phivault"), "{}", text(&output));
    app.finish();
}
