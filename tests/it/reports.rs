//! Reports on a real server over the year of a made-up clinic: every kind, every format, made again to the same bytes, and held
//! against figures that are worked out here by other means.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use phivault::clinic;
use phivault::domain::caller::Role;
use serde_json::{Value, json};

use crate::app::{Answer, App, Options, entry, program, text};

const KINDS: [&str; 12] = [
    "access",
    "users",
    "patient",
    "disclosures",
    "break-glass",
    "review",
    "logins",
    "reasons",
    "privileged",
    "integrity",
    "continuity",
    "values",
];

/// What the clinic submitted.
struct Year {
    app: App,
    entries: Vec<Value>,
}

impl Year {
    async fn begin() -> Self {
        let app = App::spawn().await;
        let end = chrono::DateTime::parse_from_rfc3339("2026-11-20T00:00:00Z").unwrap().to_utc();
        let mut entries = clinic::year(7, end);
        entries.truncate(4_000);
        for part in entries.chunks(1_000) {
            let lines: String = part.iter().map(|it| format!("{it}\n")).collect();
            let sent = app.submitter().post_text("/v1/entries/batch", "application/x-ndjson", lines).await;
            assert_eq!(sent.status, 200, "{sent:?}");
        }
        Self { app, entries }
    }

    /// A user and a patient that come up often.
    fn busiest(&self, part: &str) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for it in &self.entries {
            if let Some(id) = it[part]["id"].as_str() {
                *counts.entry(id).or_default() += 1;
            }
        }
        counts.into_iter().max_by_key(|it| it.1).unwrap().0.to_owned()
    }

    fn asked(&self, kind: &str) -> Value {
        let mut body = json!({"report": kind, "reason": {"code": "HCOMPL"}});
        match kind {
            "access" => body["actor"] = json!(self.busiest("actor")),
            "patient" | "disclosures" => body["patient"] = json!(self.busiest("patient")),
            "values" => {
                body["record_type"] = json!("Observation");
                body["field"] = json!("value");
            }
            _ => {}
        }
        body
    }
}

pub async fn make(app: &App, body: &Value) -> Value {
    let made = app.officer().post("/v1/reports", body).await;
    assert_eq!(made.status, 201, "{body}: {made:?}");
    made.json()
}

pub async fn fetch(app: &App, made: &Value, format: &str) -> Answer {
    let path = format!("/v1/reports/{}?format={format}", made["id"].as_str().unwrap());
    let answer = app.officer().get(&path).await;
    assert_eq!(answer.status, 200, "{format}: {answer:?}");
    answer
}

/// A section's table.
pub fn table<'a>(document: &'a Value, heading: &str) -> &'a Vec<Value> {
    let sections = document["sections"].as_array().unwrap();
    let found = sections.iter().find(|it| it["heading"] == heading);
    found.unwrap_or_else(|| panic!("no section {heading} in {document:#}"))["table"].as_array().unwrap()
}

async fn bytes(app: &App, made: &Value, format: &str) -> Vec<u8> {
    let officer = app.officer();
    let path = format!("/v1/reports/{}?format={format}", made["id"].as_str().unwrap());
    let request = officer.request(reqwest::Method::GET, &path).bearer_auth(&officer.token);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200, "{format}: {}", app.log());
    answer.bytes().await.unwrap().to_vec()
}

#[tokio::test]
async fn every_report_is_recorded_kept_and_made_again_to_the_same_bytes_in_every_format() {
    let mut year = Year::begin().await;
    let mut made = Vec::new();
    for kind in KINDS {
        let it = make(&year.app, &year.asked(kind)).await;
        let mut files = Vec::new();
        for format in ["json", "csv", "html", "pdf"] {
            files.push(bytes(&year.app, &it, format).await);
        }
        let start = String::from_utf8_lossy(&files[3][..files[3].len().min(300)]).into_owned();
        assert!(files[3].starts_with(b"%PDF-1.7") && files[3].len() > 5_000, "{kind}: {start} {}", year.app.log());
        if let Ok(folder) = std::env::var("PHIVAULT_TEST_REPORTS") {
            std::fs::write(Path::new(&folder).join(format!("{kind}.pdf")), &files[3]).unwrap();
            std::fs::write(Path::new(&folder).join(format!("{kind}.html")), &files[2]).unwrap();
        }
        made.push((kind, it, files));
    }
    // More comes in, and the vault starts anew: what was made stays what it was.
    for _ in 0..3 {
        year.app.submitter().submit(&entry()).await;
    }
    year.app.stop();
    year.app.start();
    for (kind, it, files) in &made {
        for (format, before) in ["json", "csv", "html", "pdf"].into_iter().zip(files) {
            assert!(bytes(&year.app, it, format).await == *before, "{kind} as {format}");
        }
        let recorded = year.app.auditor().get(&format!("/v1/entries/{}", it["id"].as_str().unwrap())).await.json();
        assert_eq!((&recorded["action"], &recorded["record"]["id"]), (&json!("report"), &json!(kind)));
    }
    let listed = year.app.auditor().get("/v1/reports").await.json();
    assert_eq!(listed["reports"].as_array().unwrap().len(), KINDS.len());
    for kind in ["disclosures", "values"] {
        assert_eq!(year.app.auditor().post("/v1/reports", &year.asked(kind)).await.status, 403, "{kind} shows values");
    }
    year.app.finish();
}

#[tokio::test]
async fn the_figures_of_reports_are_those_of_the_entries() {
    let year = Year::begin().await;
    let user = year.busiest("actor");
    let mine: Vec<&Value> = year.entries.iter().filter(|it| it["actor"]["id"] == *user).collect();
    let made = make(&year.app, &year.asked("access")).await;
    let report = fetch(&year.app, &made, "json").await.json();
    assert_eq!(made["entries_covered"], json!(mine.len()));
    let patients: BTreeSet<&str> = mine.iter().filter_map(|it| it["patient"]["id"].as_str()).collect();
    let summary = table(&report, "Summary");
    let figure = |what: &str| summary.iter().find(|it| it["what"] == what).unwrap()["this_period"].clone();
    assert_eq!((figure("entries"), figure("different patients")), (json!(mine.len()), json!(patients.len())));
    let mut by_action: BTreeMap<&str, u64> = BTreeMap::new();
    mine.iter().for_each(|it| *by_action.entry(it["action"].as_str().unwrap()).or_default() += 1);
    for row in table(&report, "By action") {
        assert_eq!(row["entries"], json!(by_action.remove(row["action"].as_str().unwrap()).unwrap()));
    }
    assert!(by_action.is_empty());
    assert_eq!(table(&report, "Entries").len(), mine.len());
    // Sorted by each column that may be asked for, none lost.
    for sort in ["accessed", "patient", "action", "category"] {
        let mut body = year.asked("access");
        body["sort"] = json!(sort);
        let sorted = fetch(&year.app, &make(&year.app, &body).await, "json").await.json();
        let cells: Vec<_> =
            table(&sorted, "Entries").iter().map(|it| it[sort].as_str().unwrap_or("").to_owned()).collect();
        assert!(cells.len() == mine.len() && cells.is_sorted(), "{sort}");
    }
    let users = fetch(&year.app, &make(&year.app, &year.asked("users")).await, "json").await.json();
    let row = table(&users, "Users").iter().find(|it| it["user"] == *user).unwrap();
    assert_eq!((&row["entries"], &row["patients"]), (&json!(mine.len()), &json!(patients.len())));
    let everyone: BTreeSet<&str> = year.entries.iter().filter_map(|it| it["actor"]["id"].as_str()).collect();
    let told: BTreeSet<&str> = table(&users, "Users").iter().map(|it| it["user"].as_str().unwrap()).collect();
    assert!(everyone.is_subset(&told));
    let logins = fetch(&year.app, &make(&year.app, &year.asked("logins")).await, "json").await.json();
    let failed = year.entries.iter().filter(|it| it["action"] == "login_failed").count() as u64;
    let counted: u64 = table(&logins, "Users").iter().map(|it| it["failures"].as_u64().unwrap()).sum();
    assert_eq!(counted, failed);
    year.app.finish();
}

#[tokio::test]
async fn a_manifest_holds_the_file_to_the_ledger_and_finds_what_was_left_out() {
    let mut app = App::spawn().await;
    for _ in 0..5 {
        app.submitter().submit(&entry()).await;
    }
    let blind = std::env::var("PHIVAULT_TEST_BLIND").is_ok_and(|it| it == "1");
    let made = make(&app, &json!({"report": "access", "actor": "dr_smith", "reason": {"code": "HCOMPL"}})).await;
    let file = bytes(&app, &made, "pdf").await;
    let path = format!("/v1/reports/{}/manifest?format=pdf", made["id"].as_str().unwrap());
    let answer = app.officer().get(&path).await;
    assert_eq!(answer.status, 200, "{answer:?} {}", app.log());
    let manifest = answer.json()["text"].as_str().unwrap().to_owned();
    app.stop();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let check = |file: &[u8], manifest: &str, dir: bool| {
        let (file, manifest) = (write("report.pdf", file), write("report.manifest", manifest.as_bytes()));
        let mut command = program();
        command.arg("verify-report").arg(file).arg("--manifest").arg(manifest);
        command.arg("--vkey").arg(app.dir().join("keys/signing.vkey"));
        if dir {
            command.arg("--dir").arg(app.dir());
        }
        let output = command.output().unwrap();
        (output.status.code().unwrap(), text(&output))
    };
    let (code, said) = check(&file, &manifest, false);
    assert!(code == 2 && said.contains("the file is the one that was made") && said.contains("--dir"), "{code} {said}");
    let (code, said) = check(&file, &manifest, true);
    assert!(code == 0 && said.contains("all 5 entries that belong into it"), "{code} {said} {blind}");
    let mut altered = file.clone();
    let last = altered.len() - 20;
    altered[last] ^= 1;
    let (code, said) = check(&altered, &manifest, true);
    assert!(code == 1 && said.contains("the file is not the one"), "{code} {said}");
    // A manifest of fewer entries is not what the vault signed.
    let (code, said) = check(&file, &manifest.replace("entries_read 5", "entries_read 4"), true);
    assert!(code == 1 && said.contains("the manifest is not genuine") && said.contains("left out"), "{code} {said}");
    app.start();
    app.finish();
}

#[tokio::test]
async fn what_must_be_reviewed_waits_until_somebody_else_signs_it_off() {
    let app = App::spawn().await;
    let mut glass = entry();
    glass["reason"] = json!({"code": "BTG", "change": "NEWDATA", "note": "unconscious"});
    let glass = app.submitter().submit(&glass).await;
    app.submitter().submit(&entry()).await;
    let waiting = async |kind: &str| {
        let made = make(&app, &json!({"report": kind, "reason": {"code": "HCOMPL"}})).await;
        fetch(&app, &made, "json").await.json()
    };
    let before = waiting("review").await;
    assert_eq!(table(&before, "Not reviewed").len(), 1, "{before:#}");
    let uses = waiting("break-glass").await;
    let use_ = &table(&uses, "Each use")[0];
    assert_eq!((&use_["first_entry"], &use_["by"], &use_["linked_accesses"]), (&glass["id"], &Value::Null, &json!(1)));
    for (body, status, code) in [
        (json!({"entries": [], "outcome": "appropriate"}), 422, "too_many"),
        (json!({"entries": [glass["id"]], "outcome": "fine"}), 422, "outcome_unknown"),
        (json!({"entries": ["0193595e-0000-7000-8000-000000000000"], "outcome": "unclear"}), 404, "not_found"),
    ] {
        let mut body = body;
        body["reason"] = json!({"code": "HCOMPL"});
        let answer = app.officer().post("/v1/reviews", &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{body}");
    }
    let body = json!({"entries": [glass["id"]], "outcome": "appropriate", "comment": "spoke to the ward", "reason": {"code": "HCOMPL"}});
    assert_eq!(app.officer().post("/v1/reviews", &body).await.status, 201);
    let after = waiting("review").await;
    assert_eq!(
        (table(&after, "Not reviewed").len(), &table(&after, "Reviewed")[0]["outcome"]),
        (0, &json!("appropriate"))
    );
    assert_eq!(table(&waiting("break-glass").await, "Each use")[0]["by"], "officer-app");
    let own = json!({"entries": [app.officer().post("/v1/reviews", &body).await.json()["id"]], "outcome": "appropriate", "reason": {"code": "HCOMPL"}});
    assert_eq!(app.officer().post("/v1/reviews", &own).await.code(), "own_entry");
    app.finish();
}

#[tokio::test]
async fn a_report_that_makes_no_sense_is_refused_and_nothing_is_kept() {
    let app = App::spawn().await;
    for (body, pointer, code) in [
        (json!({}), "/report", "report_unknown"),
        (json!({"report": "gossip"}), "/report", "report_unknown"),
        (json!({"report": "access"}), "/actor", "missing"),
        (json!({"report": "values", "record_type": "A"}), "/field", "missing"),
        (json!({"report": "access", "actor": "a", "sort": "mood"}), "/sort", "column_unknown"),
        (json!({"report": "users", "from": "May"}), "/from", "time_invalid"),
        (json!({"report": "users", "from": "2026-02-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}), "/to", "time_order"),
        (json!({"report": "users", "time_zone": "CET"}), "/time_zone", "zone_invalid"),
        (json!({"report": "patient", "patient": ""}), "/patient", "empty"),
        (json!({"report": "continuity", "actor": "a"}), "/actor", "not_used"),
        (json!({"report": "users", "sort": "patient"}), "/sort", "not_used"),
        (json!({"report": "access", "actor": "a", "accounting": {}}), "/accounting", "not_used"),
        (
            json!({"report": "disclosures", "patient": "p", "accounting": {"requested_on": "2190-01-01"}}),
            "/accounting/requested_on",
            "day_in_future",
        ),
        (
            json!({"report": "disclosures", "patient": "p", "accounting": {"requested_on": "+262142-12-31"}}),
            "/accounting",
            "accounting_invalid",
        ),
    ] {
        let mut body = body;
        body["reason"] = json!({"code": "HCOMPL"});
        let answer = app.officer().post("/v1/reports", &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, code), "{body}: {answer:?}");
        assert_eq!(answer.json()["errors"][0]["pointer"], pointer, "{body}");
    }
    let without = app.officer().post("/v1/reports", &json!({"report": "users"})).await;
    assert_eq!((without.status, without.code().as_str()), (422, "reason_missing"));
    assert_eq!(app.officer().get("/v1/reports").await.json()["reports"], json!([]));
    app.finish();
}

#[tokio::test]
async fn an_accounting_of_disclosures_sums_up_what_repeats_keeps_what_it_left_out_and_is_kept_as_given() {
    let app = App::spawn().await;
    let disclose = |at: &str, recipient: &str, reason: &str, basis: &str| {
        json!({"action": "disclose", "occurred_at": at, "actor": {"id": "him"}, "patient": {"id": "MRN-12345"},
            "record": {"type": "Chart", "id": "1"}, "reason": {"code": reason, "note": "as the order says"},
            "disclosure": {"recipient": {"name": recipient, "address": "1 Main St"}, "description": "test results", "basis": basis}})
    };
    for it in [
        disclose("2026-01-01T10:00:00Z", "Health Department", "PUBHLTH", "164.512(b)"),
        disclose("2026-02-01T10:00:00Z", "health department", "PUBHLTH", "164.512(b)"),
        disclose("2026-03-04T10:00:00Z", "Health Department", "PUBHLTH", "164.512(b)"),
        disclose("2026-04-01T10:00:00Z", "A Clinic", "TREAT", "164.506"),
        disclose("2026-05-01T10:00:00Z", "State Police", "GOV", "164.512(f)"),
        disclose("2026-06-01T10:00:00Z", "County Court", "HLEGAL", ""),
    ] {
        let mut it = it;
        if it["disclosure"]["basis"] == "" {
            it["disclosure"]["basis"] = Value::Null;
        }
        app.submitter().submit(&it).await;
    }
    // What no accounting would tell of is not taken.
    let mut elsewhere = disclose("2026-06-02T10:00:00Z", "Somebody", "TREAT", "164.506");
    elsewhere["action"] = json!("export");
    let refused = app.submitter().post("/v1/entries", &elsewhere).await;
    assert_eq!((refused.status, refused.code().as_str()), (422, "disclosure_without_disclose"));
    let body = json!({"report": "disclosures", "patient": "MRN-12345", "reason": {"code": "HCOMPL"}, "accounting":
        {"requested_on": "2026-11-24", "office": "Privacy Office", "suspensions":
            [{"agency": "State Police", "written": true, "from": "2026-10-01", "until": "2026-12-31"}]}});
    let made = make(&app, &body).await;
    let document = fetch(&app, &made, "json").await.json();
    let told = table(&document, "Disclosures");
    assert_eq!(told.len(), 1, "{document:#}");
    assert_eq!(
        (&told[0]["date"], &told[0]["recipient"], &told[0]["address"]),
        (&json!("2026-01-01"), &json!("Health Department"), &json!("1 Main St"))
    );
    assert_eq!((&told[0]["what_was_disclosed"], &told[0]["under"]), (&json!("test results"), &json!("164.512(b)")));
    assert_eq!(told[0]["repeated"], "3 times, about every 31 days, last on 2026-03-04");
    assert_eq!(table(&document, "Suspended for now")[0]["until"], "2026-12-31");
    let left_out = table(&document, "Left out");
    assert_eq!(
        (&left_out[0]["paragraph"], &left_out[0]["recipient"]),
        (&json!("164.528(a)(1)(i)"), &json!("A Clinic"))
    );
    let by_purpose = (&left_out[1]["recipient"], left_out[1]["because"].as_str().unwrap());
    assert!(by_purpose.0 == "County Court" && by_purpose.1.ends_with("by its purpose alone"), "{left_out:#?}");
    assert!(document.to_string().contains("ATTENTION: some were left out by their purpose alone"));
    let terms = document["sections"][1]["text"].to_string();
    assert!(terms.contains("2027-01-23") && terms.contains("free") && terms.contains("Privacy Office"), "{terms}");
    let mut body = body;
    body["accounting"]["for_person"] = json!(true);
    let given = fetch(&app, &make(&app, &body).await, "json").await;
    assert!(!given.text.contains("State Police") && given.text.contains("Health Department"), "{}", given.text);
    // An id that nobody wrote is told from a patient without disclosures to the office, and not to the person: it would tell of what is
    // withheld.
    for (patient, for_person) in [("MRN-1234S", false), ("MRN-1234S", true), ("MRN-12345", false)] {
        let mut body = body.clone();
        (body["patient"], body["accounting"]["for_person"]) = (json!(patient), json!(for_person));
        for _ in 0..2 {
            let made = make(&app, &body).await;
            let unknown = patient == "MRN-1234S";
            assert_eq!(made["unknown_patient"], unknown, "what was asked about it does not make it known: {made:#}");
            let page = fetch(&app, &made, "html").await.text;
            assert_eq!(page.contains("no application ever wrote anything"), unknown && !for_person, "{page}");
        }
    }
    // What was given is sealed in the ledger.
    let recorded = app.officer().get("/v1/entries?action=report&record_id=disclosures&record_type=Report").await.json();
    let kept =
        recorded["entries"].as_array().unwrap().iter().find(|it| it["facts"]["sha256"] == made["sha256"]).unwrap();
    let path = format!("/v1/entries/{}/reveal", kept["id"].as_str().unwrap());
    let shown = app.officer().post(&path, &json!({"reason": {"code": "HCOMPL"}})).await.json();
    let given: Value = serde_json::from_str(shown["other"]["given/000"].as_str().unwrap()).unwrap();
    assert_eq!(given, document);
    // Once a value that it showed is gone it cannot be made again; what was given stays.
    app.finish();
}

#[tokio::test]
async fn a_break_anywhere_in_the_vault_is_found_and_late_entries_are_none() {
    let app = App::spawn().await;
    let change = |record: &str, at: &str, old: i64, new: i64| {
        let mut it = entry();
        it["record"] = json!({"type": "Account", "id": record});
        it["occurred_at"] = json!(at);
        it["changes"] = json!([{"field": "balance", "old": old, "new": new}]);
        it
    };
    for it in [
        change("a", "2026-01-01T00:00:00Z", 0, 10),
        change("a", "2026-01-03T00:00:00Z", 20, 30),
        change("a", "2026-01-02T00:00:00Z", 10, 20),
        change("b", "2026-01-01T00:00:00Z", 0, 10),
        change("b", "2026-01-02T00:00:00Z", 11, 12),
    ] {
        app.submitter().submit(&it).await;
    }
    let made = make(&app, &json!({"report": "continuity", "reason": {"code": "HCOMPL"}})).await;
    let document = fetch(&app, &made, "json").await.json();
    let each = table(&document, "Each");
    assert_eq!(each.len(), 1, "{document:#}");
    assert_eq!((&each[0]["record"], &each[0]["field"]), (&json!("b"), &json!("balance")));
    app.finish();
}

#[tokio::test]
async fn scheduled_reports_are_written_and_what_was_missed_is_caught_up() {
    let mut app = App::spawn().await;
    app.submitter().submit(&entry()).await;
    app.stop();
    let folder = app.dir().join("made");
    let config = app.dir().join("phivault.toml");
    let plain = std::fs::read_to_string(&config).unwrap();
    let with = format!(
        "{plain}\n[reports]\nfolder = \"made\"\n[[reports.schedule]]\nname = \"users\"\nreport = \"users\"\nevery = \"day\"\n"
    );
    std::fs::write(&config, &with).unwrap();
    let files = || {
        let mut all: Vec<_> = std::fs::read_dir(&folder)
            .map(|it| it.map(|it| it.unwrap().file_name().into_string().unwrap()).collect())
            .unwrap_or_default();
        all.sort();
        all
    };
    let until = async |count: usize| {
        let began = std::time::Instant::now();
        while files().len() < count {
            assert!(began.elapsed() < std::time::Duration::from_secs(30), "only {:?}", files());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert!(files().len() == count, "{:?}", files());
    };
    let day = |ahead: i64| (chrono::Utc::now().date_naive() + chrono::Duration::days(ahead)).to_string();
    app.start();
    until(2).await;
    assert_eq!(files()[0], format!("users_{}.pdf", day(-1)));
    assert!(std::fs::read(folder.join(&files()[0])).unwrap().starts_with(b"%PDF-"));
    app.stop();
    app.set("PHIVAULT_TEST_DAYS_AHEAD", "3");
    app.start();
    until(8).await;
    let recorded = app.auditor().get("/v1/reports").await.json();
    let all = recorded["reports"].as_array().unwrap();
    assert!(all.len() == 4 && all.iter().all(|it| it["made_by"] == "phivault-schedule"), "{recorded:#}");
    let today = all.iter().find(|it| it["parameters"]["from"].as_str().unwrap().starts_with(&day(0))).unwrap();
    assert_eq!(today["entries_covered"].as_u64().map(|it| it > 0), Some(true), "{today:#}");
    app.stop();
    std::fs::write(&config, with.replace("\"users\"\nevery", "\"gossip\"\nevery")).unwrap();
    let said = app.try_start().unwrap_err();
    assert!(said.contains("reports.schedule \"users\": report is none of those"), "{said}");
    std::fs::write(&config, with).unwrap();
    app.start();
    app.finish();
}

#[tokio::test]
async fn a_patient_sees_who_looked_at_the_own_record_and_nothing_else() {
    for blind in [false, true] {
        let mut app = App::spawn_with(Options { blind, ..Options::default() }).await;
        app.submitter().submit(&entry()).await;
        let mut other = entry();
        (other["patient"]["id"], other["actor"]["id"]) = (json!("MRN-9"), json!("dr_jones"));
        app.submitter().submit(&other).await;
        let own = json!({"report": "patient", "reason": {"code": "PATRQT"}});
        for restart in [false, true] {
            if restart {
                let body = json!({"reason": {"code": "HSYSADMIN"}});
                assert_eq!(app.admin().post("/v1/keys/rotate-state", &body).await.status, 200);
                app.stop();
                app.start();
            }
            let patient = app.client(Role::Patient);
            let made = patient.post("/v1/reports", &own).await;
            assert_eq!(made.status, 201, "{made:?}");
            let path = format!("/v1/reports/{}", made.json()["id"].as_str().unwrap());
            let document = patient.get(&path).await.json();
            let each = table(&document, "Each time");
            assert!(!each.is_empty() && each.iter().all(|it| it["who"] != "dr_jones"), "{document:#}");
            assert_eq!(each[0]["who"], "dr_smith");
            assert_eq!(patient.get(&format!("{path}?format=pdf")).await.status, 200);
        }
        let patient = app.client(Role::Patient);
        // Theirs are fetched for a while, and use up nothing of what is kept.
        let mut own_ids = Vec::new();
        for _ in 0..6 {
            own_ids.push(patient.post("/v1/reports", &own).await.json()["id"].as_str().unwrap().to_owned());
        }
        for (n, id) in own_ids.iter().enumerate() {
            let status = patient.get(&format!("/v1/reports/{id}")).await.status;
            assert_eq!(status, if n == 0 { 404 } else { 200 }, "the newest five");
        }
        assert_eq!(app.officer().get("/v1/reports").await.json()["reports"], json!([]), "none is kept");
        for (part, value) in [("report", json!("users")), ("report", json!("access")), ("patient", json!("MRN-9"))] {
            let mut body = own.clone();
            body[part] = value;
            assert_eq!(patient.post("/v1/reports", &body).await.status, 403, "{body}");
        }
        let theirs = make(&app, &json!({"report": "patient", "patient": "MRN-9", "reason": {"code": "HCOMPL"}})).await;
        for format in ["", "/manifest"] {
            let path = format!("/v1/reports/{}{format}", theirs["id"].as_str().unwrap());
            assert_eq!(patient.get(&path).await.status, 404, "another's report is not there");
        }
        let listed = app.admin().get("/v1/tokens").await;
        assert!(!listed.text.contains("MRN-12345"), "administrators do not see whose it is");
        for (body, code) in [
            (json!({"role": "patient", "label": "p"}), "missing"),
            (json!({"role": "officer", "label": "p", "patient": "MRN-1"}), "not_allowed"),
        ] {
            assert_eq!(app.admin().post("/v1/tokens", &body).await.code(), code, "{body}");
        }
        app.finish();
    }
}

#[tokio::test]
async fn research_on_fifty_people_or_more_is_told_as_a_whole_and_on_fewer_one_by_one() {
    let app = App::spawn().await;
    let disclose = |patient: &str, protocol: &str| {
        json!({"action": "disclose", "occurred_at": "2026-01-01T10:00:00Z", "actor": {"id": "him"}, "patient": {"id": patient},
            "record": {"type": "Chart", "id": patient}, "reason": {"code": "HRESCH"},
            "disclosure": {"recipient": {"name": "University"}, "description": "records", "protocol": protocol}})
    };
    let all: Vec<_> = (0..49).map(|n| disclose(&format!("MRN-{n}"), "P-1")).chain([disclose("MRN-0", "P-2")]).collect();
    let sent = app.submitter().post("/v1/entries/batch", &json!(all)).await;
    assert_eq!(sent.status, 200, "{sent:?}");
    let protocol = json!({"id": "P-1", "name": "Study One", "description": "why people fall", "information": "diagnoses",
        "period": "2026", "contacts": "University, 1 Main St, 555-0100"});
    let body = json!({"report": "disclosures", "patient": "MRN-0", "reason": {"code": "HCOMPL"},
        "accounting": {"requested_on": "2026-11-24", "protocols": [protocol]}});
    let few = fetch(&app, &make(&app, &body).await, "json").await.json();
    assert_eq!((table(&few, "Disclosures").len(), few.to_string().contains("Study One")), (2, false), "49 are not 50");
    // Nor are those of whom it was refused, long ago, or authorized by themselves.
    let mut refused = disclose("MRN-50", "P-1");
    refused["outcome"] = json!("denied");
    let mut old = disclose("MRN-51", "P-1");
    old["occurred_at"] = json!("2010-01-01T10:00:00Z");
    let mut authorized = disclose("MRN-52", "P-1");
    authorized["disclosure"]["basis"] = json!("164.508");
    for it in [refused, old, authorized] {
        app.submitter().submit(&it).await;
    }
    let few = fetch(&app, &make(&app, &body).await, "json").await.json();
    assert_eq!(table(&few, "Disclosures").len(), 2, "{few:#}");
    app.submitter().submit(&disclose("MRN-49", "P-1")).await;
    let many = fetch(&app, &make(&app, &body).await, "json").await.json();
    assert_eq!((table(&many, "Disclosures").len(), table(&many, "Research").len()), (1, 1), "{many:#}");
    assert_eq!(table(&many, "Research")[0]["protocol"], "Study One");
    app.finish();
}
