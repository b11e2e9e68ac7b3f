//! Blind patient ids: hidden on disk wherever they stand, whole for those who may read them, and never a way to hide.

use serde_json::{Value, json};

use crate::app::{App, Options, entry, init, program, text, unlock_file};
use crate::check::entries;
use crate::tamper::edits::{cell, edit, settle};

async fn blinded() -> App {
    App::spawn_with(Options { blind: true, ..Options::default() }).await
}

fn about(patient: &str) -> Value {
    let mut sent = entry();
    sent["patient"]["id"] = json!(patient);
    sent
}

/// An entry that names a patient as a record and as something related, and has none of its own.
fn in_other_places(kind: &str) -> Value {
    json!({
        "action": "grant", "actor": {"id": "registrar"}, "reason": {"code": "HSYSADMIN"},
        "record": {"type": kind, "id": "MRN-RECORD"}, "related": [{"type": kind, "id": "MRN-RELATED"}]
    })
}

#[tokio::test]
async fn a_patients_id_is_hidden_however_its_type_is_written() {
    let mut app = blinded().await;
    for kind in ["Patient", "patient", "PATIENT"] {
        let id = app.submitter().submit(&in_other_places(kind)).await["id"].as_str().unwrap().to_owned();
        let shown = app.officer().get(&format!("/v1/entries/{id}")).await.json();
        assert_eq!(shown["record"]["id"], "MRN-RECORD", "{kind}: who may read sees it whole");
        assert_eq!(shown["related"][0]["id"], "MRN-RELATED", "{kind}");
        for patient in ["MRN-RECORD", "MRN-RELATED"] {
            let found = app.officer().get(&format!("/v1/entries?patient={patient}&limit=1")).await.json();
            assert_eq!(found["entries"][0]["id"], json!(id), "{kind}: found by the patient {patient}");
        }
        let found = app.officer().get(&format!("/v1/entries?record_type={kind}&record_id=MRN-RECORD")).await.json();
        assert_eq!(found["entries"][0]["id"], json!(id), "{kind}: found by the record");
    }
    app.stop();
    for stored in entries(app.dir()) {
        let text = String::from_utf8_lossy(&stored.meta.encode()).into_owned();
        assert!(!text.contains("MRN-"), "an id rests in clear: {text}");
    }
    app.finish();
}

#[tokio::test]
async fn a_reveal_of_many_patients_names_each_and_shows_their_ids_to_those_who_may_read() {
    let app = blinded().await;
    let mut ids = Vec::new();
    for sent in [about("MRN-1"), about("MRN-2"), in_other_places("patient")] {
        ids.push(app.submitter().submit(&sent).await["id"].clone());
    }
    let asked = json!({"ids": ids, "reason": {"code": "HCOMPL"}});
    assert_eq!(app.officer().post("/v1/reveal", &asked).await.status, 200);
    for patient in ["MRN-1", "MRN-2", "MRN-RECORD", "MRN-RELATED"] {
        let trail = app.officer().get(&format!("/v1/entries?patient={patient}")).await.json();
        let reveal = &trail["entries"][0];
        assert_eq!(reveal["action"], "reveal", "the trail of {patient} shows who looked");
        let named: Vec<_> = reveal["related"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
        assert_eq!(named, ["MRN-1", "MRN-2", "MRN-RECORD", "MRN-RELATED"]);
    }
    app.finish();
}

#[tokio::test]
async fn an_id_that_looks_as_if_it_were_blinded_is_refused() {
    let app = blinded().await;
    let looks = "blind:1:00112233445566778899aabbccddeeff";
    for (pointer, sent) in [
        ("/patient/id", about(looks)),
        ("/record/id", {
            let mut sent = entry();
            sent["record"] = json!({"type": "patient", "id": looks});
            sent
        }),
        ("/related/0/id", {
            let mut sent = entry();
            sent["related"] = json!([{"type": "Patient", "id": "blind:"}]);
            sent
        }),
    ] {
        let answer = app.submitter().post("/v1/entries", &sent).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, "id_reserved"), "{answer:?}");
        assert_eq!(answer.json()["errors"][0]["pointer"], pointer);
    }
    let mut sent = entry();
    sent["record"] = json!({"type": "Policy", "id": "blind:review"});
    app.submitter().submit(&sent).await;
    app.finish();
}

#[tokio::test]
async fn one_damaged_entry_does_not_take_a_page_or_a_report_with_it() {
    let mut app = blinded().await;
    let mut sequence = 0;
    for n in 0..3 {
        sequence = app.submitter().submit(&about(&format!("MRN-{n}"))).await["sequence"].as_i64().unwrap();
    }
    app.stop();
    settle(app.dir());
    edit(app.dir(), |db| cell("sealed", sequence - 1).flip(db, 0));
    app.start();
    let page = app.officer().get("/v1/entries?actor=dr_smith").await.json();
    let shown: Vec<_> = page["entries"].as_array().unwrap().iter().map(|it| it["sealed_ids"].as_str()).collect();
    assert_eq!(shown, [None, Some("damaged"), None], "{page:#}");
    let ids: Vec<_> =
        page["entries"].as_array().unwrap().iter().map(|it| it["patient"]["id"].as_str().unwrap()).collect();
    assert_eq!((ids[0], ids[2]), ("MRN-2", "MRN-0"));
    assert!(ids[1].starts_with("blind:"), "{ids:?}");
    let report = app.officer().get("/v1/reports/access?actor=dr_smith&reason=HCOMPL").await;
    assert_eq!(report.status, 200, "{report:?}");
    assert_eq!(report.json()["actors"][0]["total"], 3);
    assert_eq!(app.auditor().get("/readyz").await.json()["status"], "degraded", "somebody must look");
    let reveal = json!({"ids": [page["entries"][1]["id"]], "reason": {"code": "HCOMPL"}});
    assert_eq!(app.officer().post("/v1/reveal", &reveal).await.code(), "integrity", "its values are never shown");
    // Its own watch comes by as well and records it, and what it recorded stays true: no end with `finish`.
    let told = loop {
        let told = app.auditor().get("/v1/entries?action=integrity").await.json();
        if !told["entries"].as_array().unwrap().is_empty() {
            break told;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    };
    assert_eq!(told["entries"][0]["facts"]["damaged"], (sequence - 1).to_string(), "{told:#}");
    app.stop();
    let (code, report) = app.verify();
    let findings = report["findings"].as_array().unwrap();
    let named = findings.iter().any(|it| it["code"] == "values_damaged" && it["sequence"] == json!(sequence - 1));
    assert!(code == 1 && named, "{report:#}");
}

#[tokio::test]
async fn a_blind_vault_is_never_served_or_restored_as_a_plain_one() {
    let mut app = blinded().await;
    app.submitter().submit(&about("MRN-1")).await;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("backup");
    let mut backup = program();
    backup.args(["backup", "--config"]).arg(app.dir().join("phivault.toml")).arg("--out").arg(&out);
    assert!(backup.output().unwrap().status.success());
    app.stop();
    app.set("PHIVAULT_ENTRIES__PATIENT_IDS", "plain");
    let refused = app.try_start().unwrap_err();
    assert!(refused.contains("keeps patient ids blind") && refused.contains("entries.patient_ids"), "{refused}");
    let mut restore = program();
    restore.arg("restore").arg(&out).arg("--dir").arg(folder.path().join("new"));
    restore.arg("--keyring").arg(app.dir().join("keys/keyring")).arg("--key-file").arg(unlock_file(app.dir()));
    let output = restore.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("--blind"), "{}", text(&output));
    // Nor one that was made blind and never served.
    let fresh = folder.path().join("fresh");
    std::fs::create_dir(&fresh).unwrap();
    init(&fresh, true);
    let settings = std::fs::read_to_string(fresh.join("phivault.toml")).unwrap().replace("\"blind\"", "\"plain\"");
    std::fs::write(fresh.join("phivault.toml"), settings).unwrap();
    let output = program().args(["serve", "--config"]).arg(fresh.join("phivault.toml")).output().unwrap();
    assert!(text(&output).contains("keeps patient ids blind"), "{}", text(&output));
    app.set("PHIVAULT_ENTRIES__PATIENT_IDS", "blind");
    app.start();
    app.finish();
}
