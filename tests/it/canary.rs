//! Promise P3: no value in clear at rest or in passing. A full scenario with planted values; then every file, log, error and
//! figure is searched for them in every form they might take.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::app::{Answer, App, Options, program, text};

/// Values to be sealed, each made once.
#[derive(Default)]
struct Canaries(Vec<String>);

impl Canaries {
    fn make(&mut self, what: &str) -> String {
        let canary = format!("Canary{what}{:016x}", 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(self.0.len() as u64 + 1));
        self.0.push(canary.clone());
        canary
    }
}

/// Every form in which a text could hide in bytes.
fn forms(canary: &str) -> Vec<Vec<u8>> {
    let bytes = canary.as_bytes();
    let mut forms = vec![bytes.to_vec(), hex::encode(bytes).into_bytes(), hex::encode_upper(bytes).into_bytes()];
    forms.push(canary.encode_utf16().flat_map(u16::to_le_bytes).collect());
    // Base64 depends on where the text begins; the ends that depend on the neighbours are left off.
    for shift in 0..3 {
        let padded = [vec![0; shift], bytes.to_vec()].concat();
        let encoded = STANDARD.encode(&padded);
        forms.push(encoded.as_bytes()[4..encoded.len() - 4].to_vec());
    }
    forms
}

fn search(place: &str, bytes: &[u8], canaries: &[String]) {
    // As text in which each byte is a character, which the standard library searches fast even in a debug build.
    let latin = |bytes: &[u8]| bytes.iter().map(|it| char::from(*it)).collect::<String>();
    let text = latin(bytes);
    for canary in canaries {
        for form in forms(canary) {
            assert!(!text.contains(&latin(&form)), "{canary} stands in {place}");
        }
    }
}

/// All files below a folder but the ones the test itself put there.
fn files(dir: &Path, out: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, out);
        } else if path.file_name().unwrap() != "unlock.key" {
            out.push(path);
        }
    }
}

fn planted(canaries: &mut Canaries, n: usize) -> Value {
    json!({
        "action": "update",
        "actor": {"id": "dr_smith", "name": canaries.make("ActorName")},
        "patient": {"id": "MRN-12345"},
        "record": {"type": "Condition", "id": format!("metadata-marker-{n}")},
        "reason": {"code": "TREAT", "note": canaries.make("Note")},
        "changes": [
            {"field": "diagnosis", "old": canaries.make("Old"), "new": {canaries.make("Key"): [canaries.make("Nested"), 7.0]}},
            {"field": "long", "new": format!("{} {}", canaries.make("Long"), "x".repeat(9_000))}
        ],
        "disclosure": {
            "recipient": {"name": canaries.make("Recipient"), "address": canaries.make("Address")},
            "description": canaries.make("Description"), "basis": "164.512(b)"
        },
        "context": {"session_id": "s-1", "bed": canaries.make("Context")}
    })
}

async fn scenario(blind: bool) {
    let env = vec![("PHIVAULT_LOG__LEVEL".into(), "debug".into())];
    let mut app = App::spawn_with(Options { blind, env }).await;
    let mut canaries = Canaries::default();
    let mut answers: Vec<Answer> = Vec::new();
    // Submissions: one by one, in a batch, again, with other content, and refused in many ways.
    let sent: Vec<Value> = (0..8).map(|n| planted(&mut canaries, n)).collect();
    let mut ids = Vec::new();
    for it in &sent {
        ids.push(app.submitter().submit(it).await["id"].as_str().unwrap().to_owned());
    }
    let lines: Vec<String> = (0..20).map(|n| planted(&mut canaries, n).to_string()).collect();
    answers.push(app.submitter().post_text("/v1/entries/batch", "application/x-ndjson", lines.join("\n")).await);
    let mut again = sent[0].clone();
    again["id"] = json!(ids[0]);
    answers.push(app.submitter().post("/v1/entries", &again).await);
    again["changes"][0]["old"] = json!(canaries.make("Conflict"));
    answers.push(app.submitter().post("/v1/entries", &again).await);
    for break_it in
        [("/reason/code", json!("NOPE")), ("/actor/id", json!("")), ("/occurred_at", json!("2190-01-01T00:00:00Z"))]
    {
        let mut bad = planted(&mut canaries, 99);
        *bad.pointer_mut(break_it.0).unwrap_or(&mut Value::Null) = break_it.1;
        answers.push(app.submitter().post("/v1/entries", &bad).await);
    }
    let mut bad = planted(&mut canaries, 99);
    bad["colour"] = json!(canaries.make("Unknown"));
    answers.push(app.submitter().post("/v1/entries", &bad).await);
    answers.push(
        app.submitter()
            .post_text("/v1/entries", "application/json", format!("{{\"action\": \"{}", canaries.make("Broken")))
            .await,
    );
    // Operations with notes and filters.
    let reason = |canaries: &mut Canaries| json!({"code": "HCOMPL", "note": canaries.make("VaultNote")});
    let wanted = canaries.make("Searched");
    answers.push(
        app.officer()
            .post("/v1/entries/query", &json!({"patient": wanted, "actor": canaries.make("SearchedActor")}))
            .await,
    );
    answers.push(
        app.officer().get(&format!("/v1/reports/access?actor={}&reason=HCOMPL", canaries.make("Reported"))).await,
    );
    let rotated = app.admin().post("/v1/keys/rotate", &json!({"reason": reason(&mut canaries)})).await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    let shown = app.officer().post("/v1/reveal", &json!({"ids": ids, "reason": reason(&mut canaries)})).await;
    assert!(shown.text.contains(&canaries.0[0]), "a reveal does show values");
    app.stop();
    app.start();
    let shown =
        app.officer().post(&format!("/v1/entries/{}/reveal", ids[0]), &json!({"reason": reason(&mut canaries)})).await;
    assert_eq!(shown.status, 200, "{shown:?}");
    for path in ["/metrics", "/readyz", "/checkpoint", "/v1/entries?limit=1000"] {
        answers.push(app.officer().get(path).await);
    }
    app.kill();
    // The report names the actor it was asked for, as it must; everything else shows nothing that was sealed.
    for answer in answers.iter().filter(|it| !it.text.contains("entries_covered")) {
        search("an answer", answer.text.as_bytes(), &canaries.0);
    }
    let verified = program().arg("verify").arg("--dir").arg(app.dir()).output().unwrap();
    search("the output of verify", text(&verified).as_bytes(), &canaries.0);
    let mut paths = Vec::new();
    files(app.dir(), &mut paths);
    assert!(paths.iter().any(|it| it.ends_with("vault.db-wal")), "the write-ahead log is searched too: {paths:?}");
    for path in &paths {
        let bytes = std::fs::read(path).unwrap();
        search(&path.display().to_string(), &bytes, &canaries.0);
        search(&path.display().to_string(), &bytes, &[app.officer().token, app.admin().token, "5a".repeat(32)]);
    }
    // The search itself works: metadata is found.
    let found =
        paths.iter().any(|it| String::from_utf8_lossy(&std::fs::read(it).unwrap()).contains("metadata-marker-3"));
    assert!(found, "planted metadata was not found, so the search finds nothing");
    app.start();
    app.finish();
}

#[tokio::test]
async fn no_sealed_value_is_anywhere_in_clear() {
    scenario(false).await;
}

#[tokio::test]
async fn no_sealed_value_is_anywhere_in_clear_with_blind_ids() {
    scenario(true).await;
}

#[tokio::test]
async fn blind_patient_ids_are_not_on_disk_and_still_found() {
    let app = App::spawn_with(Options { blind: true, ..Options::default() }).await;
    let mut canaries = Canaries::default();
    let patient = canaries.make("Patient");
    let other = canaries.make("OtherPatient");
    let mut sent = crate::app::entry();
    sent["patient"]["id"] = json!(patient);
    sent["record"] = json!({"type": "Patient", "id": patient});
    sent["related"] = json!([{"type": "Patient", "id": other}, {"type": "Encounter", "id": "e-9"}]);
    let receipt = app.submitter().submit(&sent).await;
    for query in [
        json!({"patient": patient}),
        json!({"patient": other}),
        json!({"record_type": "Patient", "record_id": patient}),
    ] {
        let page = app.officer().post("/v1/entries/query", &query).await.json();
        let found = &page["entries"][0];
        assert_eq!(found["id"], receipt["id"], "{page:#}");
        assert_eq!((&found["patient"]["id"], &found["record"]["id"]), (&json!(patient), &json!(patient)));
        assert_eq!(found["related"], sent["related"]);
    }
    let shown =
        app.officer().post("/v1/reveal", &json!({"ids": [receipt["id"]], "reason": {"code": "HCOMPL"}})).await.json();
    assert!(shown["entries"][0].get("other").is_none(), "ids are not shown twice: {shown:#}");
    let trail = app.officer().post("/v1/entries/query", &json!({"patient": patient, "action": "reveal"})).await.json();
    assert_eq!(trail["entries"].as_array().unwrap().len(), 1, "the patient's own trail shows who looked");
    let mut paths = Vec::new();
    files(app.dir(), &mut paths);
    for path in &paths {
        search(&path.display().to_string(), &std::fs::read(path).unwrap(), &canaries.0);
    }
    app.finish();
}
