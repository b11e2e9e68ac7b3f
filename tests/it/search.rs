//! Searching and reporting against a brute-force filter over everything that was submitted.

use serde_json::{Value, json};

use crate::app::{App, Options};
use crate::chance::Chance;

impl Chance {
    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

const ACTORS: [&str; 5] = ["dr_a", "dr_b", "rn_c", "fd_d", "sys_e"];
const PATIENTS: [&str; 6] = ["MRN-1", "MRN-2", "MRN-3", "MRN-4", "MRN-5", "MRN-6"];
const KINDS: [&str; 3] = ["Condition", "Observation", "Patient"];
const REASONS: [&str; 5] = ["TREAT", "HPAYMT", "BTG", "OVRER", "WARD"];
const FIELDS: [&str; 3] = ["diagnosis", "dose", "status"];

fn submission(chance: &mut Chance) -> Value {
    let action = chance.pick(&["read", "update", "create", "print"]);
    let kind = chance.pick(&KINDS);
    let patient = chance.pick(&PATIENTS);
    let record = if kind == "Patient" { patient.to_owned() } else { format!("r-{}", chance.below(8)) };
    let mut sent = json!({
        "action": action,
        "outcome": chance.pick(&["success", "success", "failure", "denied"]),
        "occurred_at": format!("2025-0{}-1{}T0{}:00:00Z", 1 + chance.below(9), chance.below(10), chance.below(10)),
        "actor": {"id": chance.pick(&ACTORS), "role": "physician"},
        "patient": {"id": patient},
        "record": {"type": kind, "id": record},
        "category": chance.pick(&["problems", "results"]),
        "reason": {"code": chance.pick(&REASONS), "note": "a note"},
        "context": {"session_id": format!("s-{}", chance.below(12))}
    });
    if action == "update" || action == "create" {
        sent["changes"] = json!([{"field": chance.pick(&FIELDS), "old": null, "new": chance.below(100)}]);
    }
    sent
}

/// Parameters of a question.
type Params = Vec<(&'static str, String)>;
/// What a question means.
type Meaning = Box<dyn Fn(&Value) -> bool>;

/// A random question, as parameters and as the filter it means.
fn question(chance: &mut Chance) -> (Params, Meaning) {
    let mut params = Params::new();
    let ways: [(&'static str, &'static str, &[&str]); 7] = [
        ("actor", "/actor/id", &ACTORS),
        ("patient", "/patient/id", &PATIENTS),
        ("record_type", "/record/type", &KINDS),
        ("action", "/action", &["read", "update", "create", "print"]),
        ("outcome", "/outcome", &["success", "failure", "denied"]),
        ("category", "/category", &["problems", "results"]),
        ("session", "/context/session_id", &["s-1", "s-2", "s-3"]),
    ];
    let mut checks: Vec<Meaning> = Vec::new();
    for _ in 0..chance.below(4) {
        let (name, pointer, values) = ways[usize::try_from(chance.below(7)).unwrap()];
        if params.iter().any(|(it, _)| *it == name) {
            continue;
        }
        let value = chance.pick(values).to_owned();
        params.push((name, value.clone()));
        checks.push(Box::new(move |it| it.pointer(pointer).and_then(Value::as_str) == Some(value.as_str())));
    }
    match chance.below(6) {
        0 => {
            let field = chance.pick(&FIELDS).to_owned();
            params.push(("field", field.clone()));
            checks.push(Box::new(move |it| {
                it.pointer("/changes/0/field").and_then(Value::as_str) == Some(field.as_str())
            }));
        }
        1 => {
            // A standard code finds the site's codes that stand for it.
            let code = chance.pick(&["TREAT", "HPAYMT", "BTG", "WARD"]).to_owned();
            params.push(("reason", code.clone()));
            checks.push(Box::new(move |it| {
                let given = it["reason"]["code"].as_str().unwrap();
                given == code || (given == "WARD" && code == "TREAT")
            }));
        }
        2 => {
            let wanted = chance.below(2) == 0;
            params.push(("break_glass", wanted.to_string()));
            checks
                .push(Box::new(move |it| ["BTG", "OVRER"].contains(&it["reason"]["code"].as_str().unwrap()) == wanted));
        }
        3 => {
            let (from, to) = (
                format!("2025-0{}-01T00:00:00Z", 1 + chance.below(5)),
                format!("2025-0{}-15T05:00:00Z", 5 + chance.below(5)),
            );
            params.extend([("from", from.clone()), ("to", to.clone()), ("time", "occurred".to_owned())]);
            checks.push(Box::new(move |it| {
                let time = it["occurred_at"].as_str().unwrap();
                time >= from.as_str() && time < to.as_str()
            }));
        }
        _ => {}
    }
    params.push(("source", "submitter-app".to_owned()));
    (params, Box::new(move |it| checks.iter().all(|check| check(it))))
}

async fn filled(blind: bool) -> (App, Vec<Value>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let reasons = include_str!("../../config/reasons.toml").to_owned()
        + "\n[[site]]\ncode = \"WARD\"\ndisplay = \"Ward round\"\nmaps_to = \"TREAT\"\n";
    std::fs::write(folder.path().join("reasons.toml"), reasons).unwrap();
    let env = vec![("PHIVAULT_ENTRIES__REASONS".to_owned(), folder.path().join("reasons.toml").display().to_string())];
    let app = App::spawn_with(Options { blind, env }).await;
    let mut chance = Chance(7);
    let sent: Vec<Value> = (0..1_500).map(|_| submission(&mut chance)).collect();
    let lines: Vec<String> = sent.iter().map(ToString::to_string).collect();
    let answer = app.submitter().post_text("/v1/entries/batch", "application/x-ndjson", lines.join("\n")).await;
    assert_eq!(answer.status, 200, "{}", &answer.text[..answer.text.len().min(500)]);
    let results = answer.json();
    let with_ids = sent.into_iter().zip(results["results"].as_array().unwrap()).map(|(mut it, result)| {
        it["id"] = result["receipt"]["id"].clone();
        it
    });
    let with_ids = with_ids.collect();
    (app, with_ids, folder)
}

fn as_query(params: &[(&'static str, String)]) -> String {
    params.iter().map(|(name, value)| format!("&{name}={value}")).collect()
}

async fn everything(
    app: &App,
    params: &[(&'static str, String)],
    order: &str,
    limit: u64,
    chance: &mut Chance,
) -> Vec<Value> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/entries?order={order}&limit={limit}{}{cursor}", as_query(params));
        let answer = app.officer().get(&path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        let page = answer.json();
        let entries = page["entries"].as_array().unwrap();
        assert!(entries.len() as u64 <= limit);
        found.extend(entries.iter().map(|it| it["id"].clone()));
        let Some(next) = page["next"].as_str() else { return found };
        cursor = format!("&cursor={next}");
        // What comes in between pages does not shift them.
        if chance.below(4) == 0 {
            app.submitter().submit(&submission(chance)).await;
        }
    }
}

async fn agrees_with_brute_force(blind: bool, questions: u64) {
    let (app, sent, _folder) = filled(blind).await;
    let mut chance = Chance(99);
    let marker = sent.len();
    for n in 0..questions {
        let (params, matches) = question(&mut chance);
        let order = chance.pick(&["newest", "oldest"]);
        let limit = [1_000, 100, 17][usize::try_from(chance.below(3)).unwrap()];
        // Entries added while paging are kept apart: they match a question only if they came before it.
        let found = everything(&app, &params, order, limit, &mut chance).await;
        let known: std::collections::HashSet<&Value> = sent[..marker].iter().map(|it| &it["id"]).collect();
        let mut found: Vec<&Value> = found.iter().filter(|it| known.contains(it)).collect();
        if order == "newest" {
            found.reverse();
        }
        let expected: Vec<&Value> = sent.iter().filter(|it| matches(it)).map(|it| &it["id"]).collect();
        assert_eq!(found, expected, "question {n}: {params:?} {order} {limit}");
    }
    app.finish();
}

#[tokio::test]
async fn every_filter_and_combination_finds_what_a_scan_finds() {
    agrees_with_brute_force(false, 120).await;
}

#[tokio::test]
async fn every_filter_and_combination_finds_the_same_with_blind_ids() {
    agrees_with_brute_force(true, 60).await;
}

#[tokio::test]
async fn a_search_is_recorded_once_with_its_filter_sealed_and_by_post_answers_the_same() {
    let (app, _, _folder) = filled(false).await;
    let before = crate::ingest::size_of(&app).await;
    let first = app.officer().get("/v1/entries?actor=dr_a&patient=MRN-3&limit=3").await.json();
    let next = first["next"].as_str().unwrap();
    let second = app.officer().get(&format!("/v1/entries?actor=dr_a&patient=MRN-3&limit=3&cursor={next}")).await;
    assert_eq!(second.status, 200);
    assert_eq!(crate::ingest::size_of(&app).await, before + 1, "one entry a search, not a page");
    let by_post =
        app.officer().post("/v1/entries/query", &json!({"actor": "dr_a", "patient": "MRN-3", "limit": 3})).await.json();
    assert_eq!(by_post["entries"], first["entries"]);
    let recorded = app.auditor().get("/v1/entries?action=search&limit=1").await.json();
    assert_eq!(recorded["entries"][0]["actor"]["id"], "officer-app");
    assert!(!recorded["entries"][0].to_string().contains("MRN-3"), "the filter is sealed: {recorded:#}");
    let path = format!("/v1/entries/{}/reveal", recorded["entries"][0]["id"].as_str().unwrap());
    let shown = app.officer().post(&path, &json!({"reason": {"code": "HCOMPL"}})).await.json();
    assert_eq!(shown["other"]["filter/patient"], "MRN-3", "{shown:#}");
    let id = first["entries"][0]["id"].as_str().unwrap();
    assert_eq!(app.auditor().get(&format!("/v1/entries/{id}")).await.json(), first["entries"][0]);
    app.finish();
}

#[tokio::test]
async fn patients_of_a_reveal_of_many_find_it_in_their_trail() {
    let (app, sent, _folder) = filled(false).await;
    let one_of = |patient: &str| sent.iter().find(|it| it["patient"]["id"] == patient).unwrap()["id"].clone();
    let ids = json!({"ids": [one_of("MRN-1"), one_of("MRN-2"), one_of("MRN-2")], "reason": {"code": "HCOMPL"}});
    assert_eq!(app.officer().post("/v1/reveal", &ids).await.status, 200);
    for (patient, count) in [("MRN-1", 1), ("MRN-2", 1), ("MRN-3", 0)] {
        let page = app.officer().get(&format!("/v1/entries?action=reveal&patient={patient}")).await.json();
        assert_eq!(page["entries"].as_array().unwrap().len(), count, "{patient}");
    }
    app.finish();
}

#[tokio::test]
async fn the_access_report_as_csv_is_safe_in_a_spreadsheet_and_says_its_time_zone() {
    let app = App::spawn().await;
    for actor in ["=cmd|' /C calc'!A0", "+1+1", "-1-1", "@SUM(A1)", "dr_smith"] {
        let mut sent = crate::app::entry();
        sent["actor"]["id"] = json!(actor);
        sent["occurred_at"] = json!("2026-03-01T23:30:00Z");
        app.submitter().submit(&sent).await;
    }
    let answer = app.officer().get("/v1/reports/access?reason=HCOMPL&format=csv&time_zone=+02:00").await;
    assert_eq!(answer.headers["content-type"], "text/csv; charset=utf-8");
    let name = answer.headers["content-disposition"].to_str().unwrap();
    assert!(name.starts_with("attachment") && name.contains("UTC+0200"), "{name}");
    let mut reader = csv::Reader::from_reader(answer.text.as_bytes());
    assert!(reader.headers().unwrap().iter().any(|it| it.contains("UTC+02:00")));
    let mut late = 0;
    for record in reader.records() {
        let record = record.unwrap();
        assert!(record.iter().all(|cell| !cell.starts_with(['=', '+', '-', '@', '\t', '\r'])), "{record:?}");
        late += usize::from(&record[1] == "by_day" && &record[2] == "2026-03-02");
    }
    assert_eq!(late, 5, "half past eleven at night in UTC is the next day two hours east");
    let whole = app
        .officer()
        .get("/v1/reports/access?reason=HCOMPL&actor=dr_smith&from=2026-03-01T00:00:00Z&to=2026-03-01T23:30:00Z")
        .await
        .json();
    assert_eq!(whole["entries_covered"], json!(0), "the end is exclusive");
    app.finish();
}

#[tokio::test]
async fn a_repetition_after_the_vocabulary_has_changed_is_still_the_same_submission() {
    let (mut app, sent, folder) = filled(false).await;
    let ward = sent.iter().find(|it| it["reason"]["code"] == "WARD").unwrap();
    app.stop();
    let file = folder.path().join("reasons.toml");
    let text = std::fs::read_to_string(&file).unwrap().replace("maps_to = \"TREAT\"", "maps_to = \"ETREAT\"");
    std::fs::write(&file, text).unwrap();
    app.start();
    let again = app.submitter().post("/v1/entries", ward).await;
    assert_eq!(again.status, 200, "{again:?}");
    assert_eq!(again.json()["duplicate"], true);
    app.finish();
}
