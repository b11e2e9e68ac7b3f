//! Bad input gets a problem with a stable code and a pointer, never a 500, never an echoed value; and the vault is
//! unchanged. Here: what is shared, and the rules of a single submission.

use phivault::domain::time::Timestamp;
use serde_json::{Value, json};

use crate::app::{Answer, App, Options};
use crate::ingest::size_of;

mod body;
mod question;
mod wire;

/// Stands wherever a value may stand; it must never come back.
const CANARY: &str = "CANARY-7f3a91c2d4";

const UNKNOWN: &str = "0193595e-0000-7000-8000-000000000000";

/// A submission, what is wrong with it, and where.
type Case = (String, Value, &'static str, String);

/// An acceptable submission that uses every part there is but that of a disclosure, with the canary wherever the sender is free.
fn full() -> Value {
    json!({
        "action": "update", "outcome": "success", "occurred_at": "2026-01-02T00:00:00Z", "ended_at": "2026-01-02T00:00:00Z",
        "effective_at": "2026-01-01T00:00:00Z",
        "actor": {"id": CANARY, "name": CANARY, "role": CANARY, "type": "user", "on_behalf_of": CANARY},
        "patient": {"id": CANARY},
        "record": {"type": CANARY, "id": CANARY, "version": CANARY},
        "category": CANARY, "sensitivity": [CANARY],
        "reason": {"code": "TREAT", "change": "NEWDATA", "note": CANARY},
        "changes": [{"field": CANARY, "old": CANARY, "new": CANARY}],
        "related": [{"type": CANARY, "id": CANARY}],
        "context": {"session_id": CANARY, "user_agent": CANARY, "ward": CANARY}
    })
}

/// The same as a disclosure.
fn disclosing() -> Value {
    let mut sent = full();
    sent["action"] = json!("disclose");
    sent["disclosure"] =
        json!({"recipient": {"name": CANARY, "address": CANARY}, "description": CANARY, "basis": CANARY});
    sent
}

/// The submission with one place set.
fn with(pointer: &str, value: Value) -> Value {
    let mut sent = if pointer.starts_with("/disclosure") { disclosing() } else { full() };
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    match sent.pointer_mut(parent).unwrap() {
        Value::Array(items) => items[name.parse::<usize>().unwrap()] = value,
        parent => parent[name] = value,
    }
    sent
}

/// The submission without one place.
fn without(pointer: &str) -> Value {
    let mut sent = if pointer.starts_with("/disclosure") { disclosing() } else { full() };
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    sent.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name).unwrap();
    sent
}

fn case(what: impl Into<String>, sent: Value, code: &'static str, pointer: impl Into<String>) -> Case {
    (what.into(), sent, code, pointer.into())
}

/// Expects a whole and silent refusal with that status, code and pointer.
fn refused(what: &str, answer: &Answer, status: u16, code: &str, pointer: Option<&str>) {
    assert!(!answer.text.contains(CANARY), "{what} echoes a value: {}", answer.text);
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{what}: {answer:?}");
    let problem = answer.json();
    assert_eq!(problem["status"], json!(status), "{what}");
    assert_eq!(problem["type"], json!(format!("https://phivault.dev/problems/{code}")), "{what}");
    for name in ["title", "detail", "request_id"] {
        assert!(!problem[name].as_str().unwrap().is_empty(), "{what}: {name}");
    }
    assert_eq!(problem["request_id"], json!(answer.headers["x-request-id"].to_str().unwrap()), "{what}");
    if let Some(pointer) = pointer {
        assert!(names(&problem, code, pointer), "{what}: no {code} at {pointer:?}: {problem:#}");
    }
}

fn names(problem: &Value, code: &str, pointer: &str) -> bool {
    let errors = problem["errors"].as_array().map_or(&[][..], Vec::as_slice);
    errors.iter().any(|it| it["code"] == code && it["pointer"] == pointer)
}

/// Every case alone, and all of them as one batch either way.
async fn expect_refusals(app: &App, cases: &[Case]) {
    let size = size_of(app).await;
    for (what, sent, code, pointer) in cases {
        let answer = app.submitter().post("/v1/entries", sent).await;
        let problem = answer.json();
        assert!(problem["errors"].is_array(), "{what}: {answer:?}");
        // Several things may be wrong at once; the first one names the problem.
        let first = problem["errors"][0]["code"].as_str().unwrap().to_owned();
        refused(what, &answer, 422, &first, None);
        assert!(names(&problem, code, pointer), "{what}: no {code} at {pointer}: {problem:#}");
        assert_eq!(size_of(app).await, size, "{what}: nothing refused goes in");
    }
    let lines: String = cases.iter().map(|(_, sent, _, _)| format!("{sent}\n")).collect();
    let ndjson = "application/x-ndjson";
    let partial = app.submitter().post_text("/v1/entries/batch?partial=true", ndjson, lines.clone()).await;
    assert!(!partial.text.contains(CANARY), "a batch echoes a value: {}", partial.text);
    let result = partial.json();
    assert_eq!((&result["accepted"], &result["refused"]), (&json!(0), &json!(cases.len())), "{result:#}");
    for (n, (what, _, code, pointer)) in cases.iter().enumerate() {
        assert!(names(&result["results"][n], code, pointer), "{what}, in a batch: {:#}", result["results"][n]);
    }
    let whole = app.submitter().post_text("/v1/entries/batch", ndjson, lines).await;
    let first = whole.json()["errors"][0].clone();
    refused("all at once", &whole, 422, first["code"].as_str().unwrap(), None);
    assert_eq!(first["line"], json!(1), "the line is named");
    assert_eq!(size_of(app).await, size, "nothing refused goes in");
    assert!(!app.log().contains(CANARY), "the log holds a value");
}

#[tokio::test]
async fn unknown_fields_and_wrong_types_are_named_at_every_level() {
    let app = App::spawn().await;
    let objects = ["/actor", "/patient", "/record", "/reason", "/changes/0", "/disclosure", "/disclosure/recipient"];
    let objects = objects.into_iter().chain(["/related/0", "/context"]);
    let mut cases = Vec::new();
    for level in objects.clone().chain([""]).filter(|it| *it != "/context") {
        let place = format!("{level}/secret");
        cases.push(case(format!("unknown {place}"), with(&place, json!(CANARY)), "unknown_field", &place));
    }
    for own in ["/sequence", "/source", "/received_at", "/leaf_hash", "/facts"] {
        cases.push(case(format!("{own} from outside"), with(own, json!(7)), "unknown_field", own));
    }
    for object in objects {
        for value in [json!(CANARY), json!(7), json!(true)] {
            cases.push(case(format!("{value} for {object}"), with(object, value), "wrong_type", object));
        }
    }
    for list in ["/changes", "/related", "/sensitivity"] {
        for value in [json!(CANARY), json!(7), json!({"field": CANARY})] {
            cases.push(case(format!("{value} for {list}"), with(list, value), "wrong_type", list));
        }
    }
    let texts = "/id /action /outcome /occurred_at /ended_at /effective_at /actor/id /actor/name /actor/role /actor/type \
        /actor/on_behalf_of /patient/id /record/type /record/id /record/version /category /sensitivity/0 /reason/code /reason/change \
        /reason/note /changes/0/field /disclosure/recipient/name /disclosure/recipient/address /disclosure/description \
        /disclosure/basis /related/0/type /related/0/id /context/session_id /context/ward";
    for text in texts.split_whitespace() {
        for value in [json!(7), json!(false), json!([CANARY]), json!({"a": CANARY})] {
            cases.push(case(format!("{value} for {text}"), with(text, value), "wrong_type", text));
        }
    }
    expect_refusals(&app, &cases).await;
    let named = app.submitter().post("/v1/entries", &with("/actor/secret", json!(CANARY))).await;
    assert!(named.json()["detail"].as_str().unwrap().contains("\"secret\""), "the field is named: {named:?}");
    app.submitter().submit(&full()).await;
    app.finish();
}

#[tokio::test]
async fn a_list_does_not_stand_for_an_object() {
    let app = App::spawn().await;
    let mut cases = Vec::new();
    for object in
        "/patient /actor /record /reason /changes/0 /disclosure /disclosure/recipient /related/0 /context".split(' ')
    {
        // As many items as the object has members, so that only their form is wrong.
        for list in [json!([]), json!([CANARY]), json!([CANARY, CANARY]), json!(["TREAT", null, CANARY])] {
            cases.push(case(format!("{list} for {object}"), with(object, list), "wrong_type", object));
        }
    }
    cases.push(case(
        "a listed actor",
        with("/actor", json!([CANARY, CANARY, CANARY, "user", null])),
        "wrong_type",
        "/actor",
    ));
    expect_refusals(&app, &cases).await;
    let listed = json!({"reason": ["HCOMPL", null, CANARY]});
    let rotated = app.admin().post("/v1/keys/rotate", &listed).await;
    refused("a listed reason of a rotation", &rotated, 422, "wrong_type", Some("/reason"));
    app.finish();
}

#[tokio::test]
async fn ids_are_short_visible_and_not_empty() {
    let app = App::spawn().await;
    let ids = "/actor/id /actor/role /actor/on_behalf_of /patient/id /record/type /record/id /record/version /category \
        /sensitivity/0 /changes/0/field /disclosure/basis /related/0/type /related/0/id /context/session_id";
    let mut cases = Vec::new();
    for id in ids.split_whitespace() {
        for blank in ["", " ", "\t\n", "\u{a0}\u{2003}"] {
            cases.push(case(format!("{blank:?} for {id}"), with(id, json!(blank)), "empty", id));
        }
        let most = if id == "/context/session_id" { 1_024 } else { 256 };
        for long in [format!("{CANARY}{}", "x".repeat(most - 16)), "é".repeat(most / 2 + 1)] {
            cases.push(case(format!("{} bytes for {id}", long.len()), with(id, json!(long)), "too_long", id));
        }
        let marks =
            "\u{0}\u{7}\n\u{7f}\u{85}\u{61c}\u{200b}\u{200e}\u{200f}\u{2028}\u{202a}\u{202e}\u{2066}\u{2069}\u{feff}";
        for mark in marks.chars() {
            let text = json!(format!("{CANARY}{mark}b"));
            cases.push(case(format!("{mark:?} in {id}"), with(id, text), "control_character", id));
        }
    }
    for id in [" dr_smith", "dr_smith ", "\u{a0}dr_smith"] {
        cases.push(case(format!("{id:?}"), with("/actor/id", json!(id)), "space_around", "/actor/id"));
    }
    expect_refusals(&app, &cases).await;
    app.submitter().submit(&with("/actor/id", json!("x".repeat(256)))).await;
    app.submitter().submit(&with("/context/session_id", json!("x".repeat(1_024)))).await;
    app.submitter().submit(&with("/actor/id", json!("Zoë 李 O'Hara; DROP TABLE entry"))).await;
    app.finish();
}

#[tokio::test]
async fn ids_times_and_words_outside_the_rules_are_refused() {
    let app = App::spawn().await;
    let mut cases = Vec::new();
    let short = "0193595e-7a3c-7cc2-9c1f-0d5c3f1b2a4";
    let braced = "{0193595e-7a3c-7cc2-9c1f-0d5c3f1b2a44}";
    let urn = "urn:uuid:0193595e-7a3c-7cc2-9c1f-0d5c3f1b2a44";
    let simple = "0193595e7a3c7cc29c1f0d5c3f1b2a44";
    let (nil, max) = ("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff");
    for id in [CANARY, "", short, braced, urn, simple, nil, max] {
        cases.push(case(format!("id {id:?}"), with("/id", json!(id)), "id_invalid", "/id"));
    }
    let times = "yesterday|2026-11-24|2026-11-24T09:30:00|1764000000|2026-13-01T00:00:00Z|2026-02-30T00:00:00Z|2026-11-24T25:00:00Z|\
        1799-12-31T00:00:00Z|2201-01-01T00:00:00Z|+12026-11-24T00:00:00Z|2026-11-24T09:30:00+99:00|CANARY-7f3a91c2d4|";
    for place in ["/occurred_at", "/ended_at", "/effective_at"] {
        for text in times.split('|') {
            cases.push(case(format!("{text:?} for {place}"), with(place, json!(text)), "time_invalid", place));
        }
    }
    let ahead = |seconds| Timestamp(chrono::Utc::now().timestamp_micros()).plus_seconds(seconds).to_string();
    for place in ["/occurred_at", "/ended_at"] {
        cases.push(case("beyond the skew", with(place, json!(ahead(600))), "time_in_future", place));
        cases.push(case("the far future", with(place, json!("2190-01-01T00:00:00Z")), "time_in_future", place));
    }
    cases.push(case("the end first", with("/ended_at", json!("2026-01-01T23:59:59Z")), "time_order", "/ended_at"));
    for action in ["", "Update", " update", "fly", CANARY, "reveal", "seal", "search", "vault_create", "token_create"] {
        cases.push(case(format!("action {action:?}"), with("/action", json!(action)), "action_unknown", "/action"));
    }
    cases.push(case("no action", without("/action"), "action_missing", "/action"));
    for outcome in ["", "Success", "maybe", CANARY] {
        cases.push(case("an outcome", with("/outcome", json!(outcome)), "outcome_unknown", "/outcome"));
    }
    for kind in ["", "robot", CANARY] {
        cases.push(case("an actor's type", with("/actor/type", json!(kind)), "actor_type_unknown", "/actor/type"));
    }
    for key in ["a b", "", "é", "a/b", "\u{202e}"] {
        let mut sent = full();
        sent["context"][key] = json!(CANARY);
        cases.push(case(format!("context key {key:?}"), sent, "key_invalid", "/context"));
    }
    expect_refusals(&app, &cases).await;
    app.submitter().submit(&with("/ended_at", json!(ahead(60)))).await;
    app.finish();
}

#[tokio::test]
async fn the_parts_that_an_action_needs_are_asked_for() {
    let app = App::spawn().await;
    let of_record = ["patient_required /patient/id", "record_required /record"].map(str::to_owned).to_vec();
    let more = |part: &str| [of_record.clone(), vec![part.to_owned()]].concat();
    let change = more("changes_required /changes");
    for (actions, expected) in [
        ("create update delete", change),
        ("read print copy export merge", of_record.clone()),
        ("disclose", more("disclosure_required /disclosure")),
        ("grant revoke", of_record[1..].to_vec()),
        ("query login logout login_failed", Vec::new()),
    ] {
        for action in actions.split(' ') {
            let sent = json!({"action": action, "actor": {"id": CANARY}, "reason": {"code": "TREAT", "note": CANARY}});
            let answer = app.submitter().post("/v1/entries", &sent).await;
            if expected.is_empty() {
                assert_eq!(answer.status, 201, "{action}: {answer:?}");
                continue;
            }
            let first = expected[0].split_once(' ').unwrap();
            refused(action, &answer, 422, first.0, Some(first.1));
            let problem = answer.json();
            let told = |it: &Value| format!("{} {}", it["code"].as_str().unwrap(), it["pointer"].as_str().unwrap());
            let found: Vec<_> = problem["errors"].as_array().unwrap().iter().map(told).collect();
            assert_eq!(found, expected, "{action}");
        }
    }
    let nobody = with("/disclosure/recipient", json!({"address": CANARY}));
    let mut elsewhere = disclosing();
    elsewhere["action"] = json!("update");
    let cases = [
        case("no actor", without("/actor"), "missing", "/actor/id"),
        case("an actor without id", without("/actor/id"), "missing", "/actor/id"),
        case("a patient without id", without("/patient/id"), "missing", "/patient/id"),
        case("a record without id", without("/record/id"), "missing", "/record/id"),
        case("a record without type", without("/record/type"), "missing", "/record/type"),
        case("something related without id", without("/related/0/id"), "missing", "/related/0/id"),
        case("no change", with("/changes", json!([])), "changes_required", "/changes"),
        case("a change without field", without("/changes/0/field"), "missing", "/changes/0/field"),
        case("a change of nothing", with("/changes/0", json!({"field": CANARY})), "change_empty", "/changes/0"),
        case("a recipient without name", nobody, "missing", "/disclosure/recipient/name"),
        case("a disclosure by the way", elsewhere, "disclosure_without_disclose", "/disclosure"),
    ];
    expect_refusals(&app, &cases).await;
    app.finish();
}

#[tokio::test]
async fn reasons_must_be_known_and_the_refusal_lists_those_that_would_do() {
    let app = App::spawn().await;
    let mut cases = vec![
        case("no reason", without("/reason"), "reason_missing", "/reason/code"),
        case("a reason without code", without("/reason/code"), "reason_missing", "/reason/code"),
        case("an empty code", with("/reason/code", json!("")), "reason_missing", "/reason/code"),
    ];
    for code in [CANARY, "treat", " TREAT", "PurposeOfUse", "NEWDATA"] {
        cases.push(case(format!("reason {code}"), with("/reason/code", json!(code)), "reason_unknown", "/reason/code"));
    }
    for code in [CANARY, "", "newdata", "TREAT"] {
        cases.push(case("a change code", with("/reason/change", json!(code)), "change_unknown", "/reason/change"));
    }
    for (action, change) in
        [("update", "NORECMTCHX"), ("create", "FIXDATA"), ("delete", "NEWDATA"), ("read", "CHGDATA")]
    {
        let mut sent = with("/action", json!(action));
        sent["reason"]["change"] = json!(change);
        let code = if change.ends_with('X') { "change_unknown" } else { "change_not_allowed" };
        cases.push(case(format!("{change} on {action}"), sent, code, "/reason/change"));
    }
    for (code, action, change) in [("OVRER", "read", None), ("BTG", "update", None), ("TREAT", "delete", Some("EIE"))] {
        for note in [Value::Null, json!(""), json!(" \n\u{a0}")] {
            let mut sent = with("/action", json!(action));
            sent["reason"] = json!({"code": code, "change": change, "note": note});
            cases.push(case(format!("{code} {change:?} with {note}"), sent.clone(), "note_required", "/reason/note"));
            sent["reason"]["note"] = json!("unconscious, no proxy");
            app.submitter().submit(&sent).await;
        }
    }
    expect_refusals(&app, &cases).await;
    for (place, codes) in [("/reason/code", "HCOMPL TREAT BTG"), ("/reason/change", "NEWDATA CHGDATA EIE")] {
        let detail =
            app.submitter().post("/v1/entries", &with(place, json!("NOPE"))).await.json()["detail"].to_string();
        assert!(codes.split(' ').all(|code| detail.contains(code)), "{place} says what would do: {detail}");
    }
    app.finish();
}

#[tokio::test]
async fn a_retired_or_misplaced_code_of_the_sites_own_vocabulary_is_refused() {
    let purpose = |code: &str, rest: &str| format!("[[purpose]]\ncode='{code}'\ndisplay='d'\n{rest}\n");
    let reasons = ["version='1'\nsystem='s'\n".to_owned(), purpose("TREAT", ""), purpose("HSYSADMIN", "")].concat()
        + &purpose("OLD", "retired=true")
        + &purpose("NURSING", "roles=['nurse']")
        + &purpose("READING", "actions=['read']")
        + &purpose("BOTH", "change_required=true")
        + "[[change]]\ncode='NEWDATA'\ndisplay='n'\n[[change]]\ncode='GONE'\ndisplay='g'\nretired=true\n\
           [[site]]\ncode='WARD'\ndisplay='w'\nmaps_to='TREAT'\n[[site]]\ncode='ATTIC'\ndisplay='a'\nmaps_to='TREAT'\nretired=true\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("reasons.toml");
    std::fs::write(&path, reasons).unwrap();
    let env = vec![("PHIVAULT_ENTRIES__REASONS".into(), path.display().to_string())];
    let app = App::spawn_with(Options { env, ..Options::default() }).await;
    let because = |code: &str| with("/reason/code", json!(code));
    let bare = with("/reason", json!({"code": "BOTH"}));
    let cases = [
        case("a retired code", because("OLD"), "reason_retired", "/reason/code"),
        case("a retired site code", because("ATTIC"), "reason_retired", "/reason/code"),
        case("a code of another role", because("NURSING"), "reason_not_allowed", "/reason/code"),
        case("a code of another action", because("READING"), "reason_not_allowed", "/reason/code"),
        case("a code of the standard that this site dropped", because("HCOMPL"), "reason_unknown", "/reason/code"),
        case("a change code is needed", bare, "change_missing", "/reason/change"),
        case("a retired change", with("/reason/change", json!("GONE")), "change_not_allowed", "/reason/change"),
    ];
    expect_refusals(&app, &cases).await;
    let detail = app.submitter().post("/v1/entries", &because("OLD")).await.json()["detail"].to_string();
    assert!(["WARD", "TREAT"].iter().all(|code| detail.contains(code)), "it says what would do: {detail}");
    let wrong = ["OLD", "ATTIC", "NURSING", "READING"];
    assert!(!wrong.iter().any(|code| detail.contains(code)), "it says nothing that would not do: {detail}");
    app.submitter().submit(&because("WARD")).await;
    app.submitter().submit(&because("BOTH")).await;
    app.finish();
}
