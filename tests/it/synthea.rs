//! Real submissions, made from Synthea patients: imported twice, reported, revealed, rotated, proved. They are not part of
//! the repository; the test says so when it cannot find them.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::PathBuf;

use phivault::keyfile::{KeyPaths, read_verifier_key};
use phivault::ledger::checkpoint;
use phivault::ledger::hash::Hash;
use phivault::ledger::proof::verify_inclusion;
use serde_json::{Value, json};

use crate::app::{App, Options, program, text};

/// The file, where there is one.
fn file() -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data/synthea-changes.ndjson.gz");
    let path = std::env::var_os("PHIVAULT_TEST_SYNTHEA").map_or(beside, PathBuf::from);
    if path.exists() {
        return Some(path);
    }
    println!("SKIPPED: set PHIVAULT_TEST_SYNTHEA to a gzip file of submissions, one a line, to run this test");
    None
}

fn submissions(path: &PathBuf) -> Vec<Value> {
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Imports the file with the program; gives back its summary.
fn import(app: &App, path: &PathBuf) -> Value {
    let token = app.dir().join("submitter.token");
    if !token.exists() {
        phivault::keyfile::create_private(&token, app.submitter().token.as_bytes()).unwrap();
    }
    let mut command = program();
    command.arg("import").arg(path).arg("--json").arg("--url").arg(app.url()).arg("--token-file").arg(token);
    let output = command.current_dir(app.dir()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn every_submission_goes_in_once_and_comes_out_exactly() {
    let Some(path) = file() else { return };
    let sent = submissions(&path);
    let app = App::spawn().await;
    let first = import(&app, &path);
    assert_eq!(
        (&first["accepted"], &first["duplicates"], &first["refused"]),
        (&json!(sent.len()), &json!(0), &json!(0))
    );
    let second = import(&app, &path);
    assert_eq!(
        (&second["accepted"], &second["duplicates"], &second["refused"]),
        (&json!(0), &json!(sent.len()), &json!(0))
    );
    reports_agree(&app, &sent).await;
    let proofs = proofs(&app).await;
    let (code, report) = app.verify();
    assert_eq!(code, 0, "{report:#}");
    let rotated = app.admin().post("/v1/keys/rotate", &json!({"reason": {"code": "HSYSADMIN"}})).await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    let (code, report) = app.verify();
    assert_eq!(code, 0, "{report:#}");
    proofs_hold(&app, &proofs);
    for proof in proofs_again(&app, &proofs).await {
        proofs_hold(&app, &[proof]);
    }
    values_agree(&app, &sent, 200).await;
    app.finish();
}

#[tokio::test]
async fn blind_patient_ids_answer_the_same() {
    let Some(path) = file() else { return };
    let sent = submissions(&path);
    let app = App::spawn_with(Options { blind: true, ..Options::default() }).await;
    assert_eq!(import(&app, &path)["accepted"], json!(sent.len()));
    assert_eq!(import(&app, &path)["duplicates"], json!(sent.len()));
    reports_agree(&app, &sent).await;
    let patient = sent[0]["patient"]["id"].as_str().unwrap();
    let wanted = sent.iter().filter(|it| it["patient"]["id"] == *patient).count();
    let (mut found, mut cursor) = (0, String::new());
    loop {
        let page = app.officer().get(&format!("/v1/entries?patient={patient}&limit=1000{cursor}")).await.json();
        let entries = page["entries"].as_array().unwrap();
        assert!(entries.iter().all(|it| it["patient"]["id"] == *patient));
        found += entries.len();
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(found, wanted);
    values_agree(&app, &sent, 50).await;
    let database = std::fs::read(app.dir().join("data/vault.db")).unwrap();
    assert!(!database.windows(patient.len()).any(|it| it == patient.as_bytes()), "the patient's id is on disk");
    app.finish();
}

/// The access report of every provider, and the summary, against counts made from the file.
async fn reports_agree(app: &App, sent: &[Value]) {
    let mut by_actor: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for it in sent {
        by_actor.entry(it["actor"]["id"].as_str().unwrap()).or_default().push(it);
    }
    for (actor, mine) in &by_actor {
        let report = app.officer().get(&format!("/v1/reports/access?actor={actor}&reason=HCOMPL")).await.json();
        assert_eq!(report["entries_covered"], json!(mine.len()), "{actor}");
        let row = &report["actors"][0];
        agree(row, mine, actor);
        assert_eq!(row["by_patient"], counts(mine, |it| it["patient"]["id"].as_str().map(str::to_owned)), "{actor}");
    }
    let all = app.officer().get("/v1/reports/access?reason=HCOMPL").await.json();
    let rows: HashMap<&str, &Value> =
        all["actors"].as_array().unwrap().iter().map(|it| (it["actor"].as_str().unwrap(), it)).collect();
    for (actor, mine) in &by_actor {
        agree(rows[actor], mine, actor);
    }
}

fn agree(row: &Value, mine: &[&Value], actor: &str) {
    let text = |pointer: &'static str| move |it: &Value| it.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    assert_eq!(row["total"], json!(mine.len()), "{actor}");
    let noted = mine.iter().filter(|it| !it["reason"]["note"].is_null()).count();
    assert_eq!(row["with_note"], json!(noted), "{actor}");
    assert_eq!(row["by_action"], counts(mine, text("/action")), "{actor}");
    assert_eq!(row["by_reason"], counts(mine, text("/reason/code")), "{actor}");
    assert_eq!(row["by_record_type"], counts(mine, text("/record/type")), "{actor}");
    let times = |it: &Value| it["occurred_at"].as_str().unwrap().to_owned();
    assert_eq!(row["by_day"], counts(mine, |it| Some(times(it)[..10].to_owned())), "{actor}");
    assert_eq!(row["by_hour"], counts(mine, |it| Some(times(it)[11..13].to_owned())), "{actor}");
    let first = mine.iter().map(|it| times(it)).min().unwrap();
    assert_eq!(row["first"], json!(first.replace('Z', ".000000Z")), "{actor}");
}

fn counts(mine: &[&Value], key: impl Fn(&Value) -> Option<String>) -> Value {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    mine.iter().filter_map(|it| key(it)).for_each(|key| *counts.entry(key).or_default() += 1);
    json!(counts)
}

/// Every value of random entries reveals exactly what the file says. The n-th submission is the n-th accepted entry.
async fn values_agree(app: &App, sent: &[Value], count: usize) {
    let stored: Vec<_> = crate::check::entries(app.dir())
        .into_iter()
        .filter(|it| it.meta.source == "submitter-app")
        .map(|it| it.meta.id)
        .collect();
    assert_eq!(stored.len(), sent.len());
    let picks: Vec<usize> = (0..count).map(|n| n * 7_919 % sent.len()).collect();
    let ids: Vec<_> = picks.iter().map(|n| stored[*n].to_string()).collect();
    let answer =
        app.officer().post("/v1/reveal", &json!({"ids": ids, "reason": {"code": "HCOMPL", "note": "sample"}})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    for (n, shown) in picks.iter().zip(answer.json()["entries"].as_array().unwrap()) {
        let wanted = &sent[*n];
        assert_eq!(
            shown.get("changes").unwrap_or(&json!([])),
            wanted.get("changes").unwrap_or(&json!([])),
            "line {}",
            n + 1
        );
        assert_eq!(shown.get("note"), wanted["reason"].get("note"), "line {}", n + 1);
        assert_eq!(shown.get("actor_name"), wanted["actor"].get("name"), "line {}", n + 1);
        assert_eq!(shown["patient"]["id"], wanted["patient"]["id"], "line {}", n + 1);
        assert_eq!(shown["record"]["id"], wanted["record"]["id"], "line {}", n + 1);
    }
}

/// Proofs of a few entries of the newest page.
async fn proofs(app: &App) -> Vec<Value> {
    let page = app.officer().get("/v1/entries?order=oldest&limit=40").await.json();
    let mut proofs = Vec::new();
    for entry in page["entries"].as_array().unwrap() {
        proofs.push(app.auditor().get(&format!("/v1/entries/{}/proof", entry["id"].as_str().unwrap())).await.json());
    }
    proofs
}

async fn proofs_again(app: &App, before: &[Value]) -> Vec<Value> {
    let mut proofs = Vec::new();
    for proof in before {
        let again = app.auditor().get(&format!("/v1/entries/{}/proof", proof["id"].as_str().unwrap())).await.json();
        assert_eq!(again["leaf_hash"], proof["leaf_hash"], "a rotation changes no leaf");
        proofs.push(again);
    }
    proofs
}

/// Checks proofs with nothing but the public key.
fn proofs_hold(app: &App, proofs: &[Value]) {
    let key = read_verifier_key(&KeyPaths::in_folder(&app.dir().join("keys")).verifier_key()).unwrap();
    for proof in proofs {
        let signed =
            checkpoint::open(proof["checkpoint"].as_str().unwrap(), key.name(), std::slice::from_ref(&key)).unwrap();
        assert_eq!(json!(signed.size), proof["tree_size"]);
        let hash = |it: &Value| Hash::from_hex(it.as_str().unwrap()).unwrap();
        let hashes: Vec<_> = proof["hashes"].as_array().unwrap().iter().map(hash).collect();
        verify_inclusion(
            &hash(&proof["leaf_hash"]),
            proof["index"].as_u64().unwrap(),
            signed.size,
            &hashes,
            &signed.root,
        )
        .unwrap();
    }
}
