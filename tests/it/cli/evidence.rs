//! Disclosures and trails, as they are handed to somebody outside and as forgeries of them.

use phivault::domain::caller::Role;
use serde_json::{Value, json};

use super::{Cli, expect, has, stdout};
use crate::app::{App, entry, program};

/// Checks a file with a command that must end with this exit code; what it says.
fn check(cli: &Cli, code: i32, command: &str, file: &str, vkey: &str) -> String {
    let mut words = program();
    words.current_dir(cli.folder.path()).args([command, file, "--vkey", vkey]);
    stdout(&expect(code, &mut words)).to_owned()
}

fn vkey(app: &App) -> String {
    std::fs::read_to_string(app.dir().join("keys/signing.vkey")).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_disclosure_shows_the_values_asked_for_and_no_other() {
    let app = App::spawn().await;
    let sent = app.submitter().submit(&entry()).await;
    let id = sent["id"].as_str().unwrap();
    let officer = Cli::of(&app, Role::Officer);
    let run = |code, words: &[&str]| {
        let mut all = vec!["disclose", id, "--reason", "HCOMPL", "--note", "Case 17"];
        all.extend_from_slice(words);
        officer.run(code, &all)
    };
    let output = run(0, &["--path", "changes/0/new", "--out", "d.json"]);
    has(stdout(&output), &["1 values of entry"]);
    let text = std::fs::read_to_string(officer.path("d.json")).unwrap();
    assert!(text.contains("Type 2 Diabetes") && !text.contains("Annual checkup"), "{text}");
    let shown: Value = serde_json::from_str(&text).unwrap();
    let (new, old) = ("Hypertension, Type 2 Diabetes", "\"Hypertension\"");
    assert!(shown["disclosed"][0]["value"] == new && !text.contains(old), "{text}");
    let said = check(&officer, 0, "verify-disclosure", "d.json", &vkey(&app));
    has(&said, &["it holds", "dr_smith update", "changes/000/new", new, "further values of it stay closed"]);
    // It is a reveal, recorded with its reason, in the patient's own trail.
    let trail = app.officer().get("/v1/entries?patient=MRN-12345&action=reveal").await.json();
    assert_eq!(trail["entries"][0]["facts"]["disclosed_values"], "1");
    assert_eq!(trail["entries"][0]["reason"]["code"], "HCOMPL");
    // Every forgery is noticed.
    type Forgery<'a> = (&'a str, &'a dyn Fn(&mut Value));
    let forgeries: [Forgery<'_>; 12] = [
        ("another id", &|it| it["id"] = json!("ffffffff-ffff-ffff-ffff-ffffffffffff")),
        ("something beside it", &|it| it["note"] = json!("patient died")),
        ("nothing shown", &|it| it["disclosed"] = json!([])),
        ("a value twice", &|it| {
            let value = it["disclosed"][0].clone();
            it["disclosed"].as_array_mut().unwrap().push(value);
        }),
        ("another value", &|it| it["disclosed"][0]["value"] = json!("Migraine")),
        ("another path", &|it| it["disclosed"][0]["path"] = json!("changes/000/old")),
        ("another place", &|it| it["disclosed"][0]["position"] = json!(1)),
        ("another salt", &|it| it["disclosed"][0]["salt"] = json!("00".repeat(32))),
        ("a commitment less", &|it| drop(it["commitments"].as_array_mut().unwrap().pop())),
        ("a place beyond", &|it| it["disclosed"][0]["position"] = json!(99)),
        ("another leaf", &|it| {
            it["leaf_data"] = json!(it["leaf_data"].as_str().unwrap().replace("64725f736d697468", "64725f6a6f6e6573"))
        }),
        ("no receipt", &|it| it["receipt"] = json!("")),
    ];
    for (what, forge) in forgeries {
        let mut forged = shown.clone();
        forge(&mut forged);
        assert_ne!(forged, shown, "{what}");
        std::fs::write(officer.path("f.json"), forged.to_string()).unwrap();
        has(&check(&officer, 1, "verify-disclosure", "f.json", &vkey(&app)), &["does NOT hold"]);
    }
    for (paths, code) in
        [(json!(["changes/7/new"]), "path_unknown"), (json!([]), "too_many"), (json!(["note/x"]), "path_unknown")]
    {
        let body = json!({"paths": paths, "reason": {"code": "HCOMPL"}});
        let answer = app.officer().post(&format!("/v1/entries/{id}/disclose"), &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, code));
    }
    let all = json!({"paths": ["/changes/0/old", "note", "changes/000/new"], "reason": {"code": "HCOMPL"}});
    let answer = app.officer().post(&format!("/v1/entries/{id}/disclose"), &all).await.json();
    assert_eq!(answer["disclosed"].as_array().unwrap().len(), 3);
    app.finish();
}

#[tokio::test]
async fn a_trail_from_which_an_entry_is_taken_does_not_hold() {
    let app = App::spawn().await;
    for n in 0..6 {
        let mut sent = entry();
        sent["patient"]["id"] = json!(format!("MRN-{}", n % 2));
        app.submitter().submit(&sent).await;
    }
    let last = app.submitter().submit(&entry()).await["id"].as_str().unwrap().to_owned();
    app.auditor().get(&format!("/v1/entries/{last}/proof")).await;
    let auditor = Cli::of(&app, Role::Auditor);
    std::fs::write(auditor.path("patient"), "MRN-1\n").unwrap();
    has(
        stdout(&auditor.run(0, &["trail", "--patient-file", "patient", "--out", "t.json"])),
        &["3 entries are in t.json"],
    );
    let said = check(&auditor, 0, "verify-trail", "t.json", &vkey(&app));
    has(&said, &["it holds: 3 entries", "number 3 back to the first of this form", "none left out"]);
    let whole: Value = serde_json::from_str(&std::fs::read_to_string(auditor.path("t.json")).unwrap()).unwrap();
    assert!(whole.get("next").is_none());
    type Forgery<'a> = (&'a str, &'a dyn Fn(&mut Vec<Value>));
    let other = app.auditor().post("/v1/entries/trail", &json!({"patient": "MRN-0"})).await.json();
    let others = other["entries"][0].clone();
    let forgeries: [Forgery<'_>; 5] = [
        ("the middle one hidden", &|it| drop(it.remove(1))),
        ("two swapped", &|it| it.swap(0, 1)),
        ("one twice", &|it| it.insert(0, it[0].clone())),
        ("another patient's put in", &|it| it[1] = others.clone()),
        ("a leaf changed", &|it| {
            it[0]["leaf_data"] = json!(it[0]["leaf_data"].as_str().unwrap().replace("64725f", "64725e"))
        }),
    ];
    for (what, forge) in forgeries {
        let mut forged = whole.clone();
        forge(forged["entries"].as_array_mut().unwrap());
        std::fs::write(auditor.path("f.json"), forged.to_string()).unwrap();
        let said = check(&auditor, 1, "verify-trail", "f.json", &vkey(&app));
        assert!(said.contains("does NOT hold"), "{what}: {said}");
    }
    // One cut at its end is shorter, and says so.
    let mut cut = whole.clone();
    cut["entries"].as_array_mut().unwrap().pop();
    std::fs::write(auditor.path("f.json"), cut.to_string()).unwrap();
    has(&check(&auditor, 0, "verify-trail", "f.json", &vkey(&app)), &["number 3 back to number 2"]);
    cut["next"] = whole["entries"][2]["index"].clone();
    std::fs::write(auditor.path("f.json"), cut.to_string()).unwrap();
    has(&check(&auditor, 0, "verify-trail", "f.json", &vkey(&app)), &["PART of the patient's trail"]);
    // It goes on from where a part ended.
    let before = whole["entries"][1]["index"].as_u64().unwrap();
    let rest = app.auditor().post("/v1/entries/trail", &json!({"patient": "MRN-1", "before": before})).await.json();
    assert_eq!(rest["entries"].as_array().unwrap().len(), 2);
    for (body, status) in [
        (json!({"patient": "MRN-9"}), 404),
        (json!({"patient": "MRN-0", "before": before}), 404),
        (json!({"patient": "MRN-1", "before": 999_999}), 404),
        (json!({}), 422),
        (json!({"patient": ""}), 422),
    ] {
        assert_eq!(app.auditor().post("/v1/entries/trail", &body).await.status, status, "{body}");
    }
    app.finish();
}

#[tokio::test]
async fn the_longest_part_of_a_trail_is_checked_like_any_other() {
    let app = App::spawn().await;
    let long = |n| {
        let mut sent = entry();
        sent["record"]["id"] = json!(format!("{n:0>200}"));
        sent
    };
    for part in (0..1_001).map(long).collect::<Vec<_>>().chunks(500) {
        assert_eq!(app.submitter().post("/v1/entries/batch", &json!(part)).await.status, 200);
    }
    let last = app.submitter().submit(&entry()).await["id"].as_str().unwrap().to_owned();
    app.auditor().get(&format!("/v1/entries/{last}/proof")).await;
    let auditor = Cli::of(&app, Role::Auditor);
    std::fs::write(auditor.path("patient"), "MRN-12345\n").unwrap();
    auditor.run(0, &["trail", "--patient-file", "patient", "--out", "t.json"]);
    assert!(std::fs::metadata(auditor.path("t.json")).unwrap().len() > 1 << 20);
    has(&check(&auditor, 0, "verify-trail", "t.json", &vkey(&app)), &["it holds: 1000 entries", "PART"]);
    app.finish();
}
