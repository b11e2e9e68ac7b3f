//! A database administrator against `phivault verify`: every column of every table, rows moved, rollbacks, limits.

use std::path::Path;
use std::sync::Mutex;

use phivault::domain::action::Action;
use phivault::domain::caller::Role;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::app::{App, entry, init, verify};
use crate::check::entries;
use crate::damage::refusal::refused_unchanged;

use edits::{Raw, cell, copy, database, edit, put_data, settle, submitted};

pub mod edits;
mod flips;
mod index;
mod live;
mod matrix;
mod state;

/// Where a finding must point.
#[derive(Clone, Debug)]
enum At {
    Entry(i64),
    Place(String),
    Anywhere,
}

/// One way to tamper, and what a verifier must make of it.
struct Case {
    name: String,
    /// Codes that must be among the findings; the first one must point where `at` says.
    codes: Vec<&'static str>,
    at: At,
    change: Box<dyn Fn(&Connection) + Send + Sync>,
}

fn case(
    name: impl Into<String>,
    codes: &[&'static str],
    at: At,
    change: impl Fn(&Connection) + Send + Sync + 'static,
) -> Case {
    Case { name: name.into(), codes: codes.to_vec(), at, change: Box::new(change) }
}

fn sql(name: &str, codes: &[&'static str], at: At, text: impl Into<String>) -> Case {
    let text = text.into();
    case(name, codes, at, move |db| db.execute_batch(&text).unwrap())
}

/// Tries every case on a copy of its own, two at a time, and tells all that went wrong.
fn expect_findings(original: &Path, cases: &[Case]) {
    let (next, wrong) = (Mutex::new(cases.iter()), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let Some(case) = next.lock().unwrap().next() else { break };
            if let Err(what) = judge(original, case) {
                wrong.lock().unwrap().push(format!("{}: {what}", case.name));
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {} cases went wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn judge(original: &Path, case: &Case) -> Result<(), String> {
    let vault = copy(original);
    edit(vault.path(), &case.change);
    let (code, report) = verify(vault.path());
    let findings = report["findings"].as_array().cloned().unwrap_or_default();
    let of = |code: &str| findings.iter().filter(|it| it["code"] == code).cloned().collect::<Vec<Value>>();
    let shown = || findings.iter().take(4).map(|it| format!("{} {}", it["code"], it["sequence"])).collect::<Vec<_>>();
    if (code, report["verdict"].as_str()) != (1, Some("altered")) {
        return Err(format!("exit code {code}, {}", report["verdict"]));
    }
    if let Some(missing) = case.codes.iter().find(|it| of(it).is_empty()) {
        return Err(format!("no finding {missing} among {:?}", shown()));
    }
    let points = |finding: &Value| match &case.at {
        At::Entry(sequence) => finding["sequence"] == *sequence,
        At::Place(place) => finding["place"].as_str().unwrap().contains(place),
        At::Anywhere => true,
    };
    let first = case.codes.first().map_or_else(|| findings.clone(), |it| of(it));
    if first.iter().any(points) { Ok(()) } else { Err(format!("nothing points to {:?}: {:?}", case.at, shown())) }
}

/// A stopped vault with two patients whose entries alternate, seals, a rotation and a revoked token.
async fn lived_in() -> App {
    let mut app = App::spawn().await;
    let mut other = entry();
    other["patient"]["id"] = json!("MRN-9");
    other["changes"][0]["new"] = json!("Asthma");
    for _ in 0..3 {
        app.submitter().submit(&entry()).await;
        app.submitter().submit(&other).await;
        app.submitter().submit(&entry()).await;
    }
    let rotated = app.admin().post("/v1/keys/rotate", &json!({"reason": {"code": "HSYSADMIN"}})).await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    app.make_token(Role::Auditor, "left").await;
    let tokens = app.admin().get("/v1/tokens").await.json();
    let left = tokens["tokens"].as_array().unwrap().iter().find(|it| it["label"] == "left").unwrap();
    let path = format!("/v1/tokens/{}?reason=HSYSADMIN", left["id"].as_str().unwrap());
    assert_eq!(app.admin().delete(&path).await.status, 204);
    app.stop();
    app.start();
    app.submitter().submit(&entry()).await;
    app.submitter().submit(&other).await;
    app.stop();
    settle(app.dir());
    app
}

/// The first entry whose ciphertext the same seal entry covers.
fn sealed_with(dir: &Path, sequence: i64) -> i64 {
    let entries = entries(dir);
    let before = &entries[..=usize::try_from(sequence).unwrap()];
    before.iter().rposition(|it| it.meta.action == Action::SEAL).unwrap_or(0).try_into().unwrap()
}

#[tokio::test]
async fn a_change_to_any_column_of_an_entry_is_found_and_names_the_entry() {
    let mut app = lived_in().await;
    let (n, m) = (submitted(app.dir(), 0), submitted(app.dir(), 1));
    let mut cases = Vec::new();
    for (column, codes) in [
        ("meta", &["altered"][..]),
        ("received_at", &["altered"]),
        ("patient_previous", &["patient_chain", "altered"]),
        ("patient_number", &["patient_chain", "altered"]),
        ("commitment", &["altered", "checkpoint_differs"]),
        ("leaf", &["altered", "checkpoint_differs"]),
        ("sealed", &["ciphertext_altered"]),
    ] {
        let at = if column == "sealed" { At::Entry(sealed_with(app.dir(), n)) } else { At::Entry(n) };
        let codes = if column == "commitment" { &codes[..1] } else { codes };
        let (one, other) = (move || cell(column, n), move || cell(column, m));
        cases.push(case(format!("{column}: a bit"), codes, at.clone(), move |db| one().flip(db, 0)));
        cases.push(case(format!("{column}: another's"), codes, at.clone(), move |db| one().take(db, &other())));
        cases.push(case(format!("{column}: swapped"), codes, at.clone(), move |db| one().swap(db, &other())));
        if !["leaf", "sealed"].contains(&column) {
            // Whoever knows the rule computes the leaf again; the signed root still knows.
            let again = move |db: &Connection| {
                one().take(db, &other());
                Raw::read(db, n).with_leaf().update(db);
            };
            cases.push(case(
                format!("{column}: another's, leaf computed again"),
                &["checkpoint_differs"],
                At::Anywhere,
                again,
            ));
        }
    }
    cases.extend([
        case("meta: another actor", &["altered"], At::Entry(n), move |db| {
            Raw::read(db, n).with_other_actor().update(db)
        }),
        case("meta: another actor, leaf computed again", &["checkpoint_differs"], At::Anywhere, move |db| {
            Raw::read(db, n).with_other_actor().with_leaf().update(db)
        }),
        case("meta: unreadable", &["altered"], At::Entry(n), move |db| {
            let length = Raw::read(db, n).meta.len();
            cell("meta", n).flip(db, length - 1);
        }),
        case("sealed: its first byte", &["sealed_malformed", "ciphertext_altered"], At::Entry(n), move |db| {
            let length = Raw::read(db, n).sealed.len();
            cell("sealed", n).flip(db, length - 1);
        }),
        sql(
            "sealed: emptied",
            &["sealed_malformed", "ciphertext_altered"],
            At::Entry(n),
            format!("UPDATE entry SET sealed = x'' WHERE sequence = {n}"),
        ),
        sql(
            "patient_previous: negative",
            &["unreadable"],
            At::Anywhere,
            format!("UPDATE entry SET patient_previous = -1 WHERE sequence = {n}"),
        ),
        sql(
            "commitment: cut, its check off",
            &["unreadable"],
            At::Anywhere,
            format!("PRAGMA ignore_check_constraints = ON; UPDATE entry SET commitment = x'00' WHERE sequence = {n}"),
        ),
    ]);
    expect_findings(app.dir(), &cases);
    app.start();
    app.finish();
}

#[tokio::test]
async fn an_entry_removed_moved_or_added_is_found() {
    let mut app = lived_in().await;
    let (n, m) = (submitted(app.dir(), 0), submitted(app.dir(), 1));
    let size = i64::try_from(entries(app.dir()).len()).unwrap();
    let swap = format!(
        "UPDATE entry SET sequence = -1 WHERE sequence = {n}; UPDATE entry SET sequence = {n} WHERE sequence = {m}; \
 UPDATE entry SET sequence = {m} WHERE sequence = -1"
    );
    let copied = move |sequence: i64| move |db: &Connection| Raw { sequence, ..Raw::read(db, n) }.insert(db);
    let cases = [
        sql("the first deleted", &["missing"], At::Entry(0), "DELETE FROM entry WHERE sequence = 0"),
        sql("one in the middle deleted", &["missing"], At::Entry(n), format!("DELETE FROM entry WHERE sequence = {n}")),
        sql(
            "one in the middle deleted and those after moved up",
            &["behind_lock"],
            At::Anywhere,
            format!(
                "DELETE FROM entry WHERE sequence = {n}; UPDATE entry SET sequence = -sequence WHERE sequence > {n}; \
 UPDATE entry SET sequence = -sequence - 1 WHERE sequence < 0"
            ),
        ),
        sql(
            "the last three deleted",
            &["behind_lock"],
            At::Entry(size - 3),
            format!("DELETE FROM entry WHERE sequence >= {}", size - 3),
        ),
        sql("all deleted", &["behind_lock"], At::Entry(0), "DELETE FROM entry"),
        sql(
            "one moved away",
            &["missing"],
            At::Entry(n),
            format!("UPDATE entry SET sequence = {} WHERE sequence = {n}", size + 9),
        ),
        sql("two swapped", &["checkpoint_differs", "time_falls"], At::Anywhere, swap),
        case("a copy in the middle", &["checkpoint_differs"], At::Anywhere, move |db| {
            db.execute_batch(&format!("UPDATE entry SET sequence = -sequence WHERE sequence >= {n}")).unwrap();
            db.execute_batch("UPDATE entry SET sequence = -sequence + 1 WHERE sequence < 0").unwrap();
            Raw { sequence: n, ..Raw::read(db, n + 1) }.insert(db);
        }),
        case("a copy at the end", &["patient_chain", "time_falls"], At::Entry(size), copied(size)),
        case("a copy beyond the end", &["missing"], At::Entry(size), copied(size + 5)),
        case("a copy before the beginning", &[], At::Anywhere, copied(-7)),
    ];
    expect_findings(app.dir(), &cases);
    app.start();
    app.finish();
}

#[tokio::test]
async fn a_rolled_back_database_is_found_unless_the_lock_was_rolled_back_with_it() {
    let mut app = App::spawn().await;
    app.submitter().submit(&entry()).await;
    app.stop();
    let (past, past_size) = (copy(app.dir()), entries(app.dir()).len());
    app.start();
    app.submitter().submit(&entry()).await;
    app.stop();
    let now = copy(app.dir());
    put_data(past.path(), app.dir());
    let (code, report) = verify(app.dir());
    let finding = &report["findings"][0];
    assert_eq!((code, &finding["code"]), (1, &json!("behind_lock")), "{report:#}");
    assert_eq!(finding["sequence"], past_size, "{report:#}");
    // Known limit: both together are a vault as it once was. A checkpoint kept elsewhere tells, and the note says so.
    let lock = "keys/checkpoint.lock";
    std::fs::copy(past.path().join(lock), app.dir().join(lock)).unwrap();
    let (code, report) = verify(app.dir());
    assert_eq!((code, report["entries"].as_u64()), (0, Some(past_size as u64)), "{report:#}");
    let note = report["notes"][0].as_str().unwrap();
    assert!(note.contains("rolled back together is not excluded") && note.contains("kept elsewhere"), "{note}");
    put_data(now.path(), app.dir());
    std::fs::copy(now.path().join(lock), app.dir().join(lock)).unwrap();
    app.start();
    app.finish();
}

/// A copied row that keeps the public rules, where no checkpoint covers it yet, looks genuine but for its id.
#[tokio::test]
async fn a_well_made_copy_after_the_last_checkpoint_is_found_by_verify_and_refused_by_the_start() {
    let mut app = App::spawn().await;
    app.submitter().submit(&entry()).await;
    app.stop();
    settle(app.dir());
    let n = submitted(app.dir(), 0);
    let vault = copy(app.dir());
    edit(vault.path(), |db| Raw::read(db, n).append_as_next_of_its_patient(db));
    let (code, report) = verify(vault.path());
    let codes = report["findings"].to_string();
    assert!(code == 1 && codes.contains("id_repeated") && codes.contains("usage_differs"), "{report:#}");
    let told = "newest 1 entries are not covered by a signed checkpoint";
    assert!(report["notes"].to_string().contains(told), "{report:#}");
    refused_unchanged(vault.path(), &[], &["not written by this vault", "phivault verify"]).unwrap();
    app.start();
    app.finish();
}

#[tokio::test]
async fn an_altered_ciphertext_is_found_once_a_seal_entry_covers_it_and_is_never_shown() {
    let mut app = App::spawn().await;
    let receipt = app.submitter().submit(&entry()).await;
    // The checkpoint must cover it, or the start would already refuse.
    loop {
        let ready = app.auditor().get("/readyz").await.json();
        if ready["checkpoint_size"] == ready["ledger_size"] {
            break;
        }
        tokio::task::yield_now().await;
    }
    app.kill();
    settle(app.dir());
    let n = receipt["sequence"].as_i64().unwrap();
    let length = Raw::read(&database(app.dir()), n).sealed.len();
    // The authentication tag, the number of the key, the number of the bucket.
    for at in [0, length - 5, length - 9] {
        let whole = copy(app.dir());
        edit(app.dir(), |db| cell("sealed", n).flip(db, at));
        // Known limit: no key, and no seal entry yet. Only the counts of keys tell of a changed number.
        let (code, report) = verify(app.dir());
        let unsealed = entries(app.dir()).len() as i64 - sealed_with(app.dir(), n);
        let told = format!("sealed values of the newest {unsealed} entries are not covered");
        let counted = report["findings"].to_string().contains("usage_differs");
        assert_eq!((code, counted), if at == 0 { (0, false) } else { (1, true) }, "{report:#}");
        assert!(report["notes"].to_string().contains(&told), "{told}: {report:#}");
        app.start();
        let reason = json!({"code": "HCOMPL"});
        let path = format!("/v1/entries/{}/reveal", receipt["id"].as_str().unwrap());
        let one = app.officer().post(&path, &json!({"reason": reason})).await;
        let many = app.officer().post("/v1/reveal", &json!({"ids": [receipt["id"]], "reason": reason})).await;
        assert_eq!(many.json()["errors"][0]["pointer"], "/ids/0", "the damaged one is named");
        for shown in [one, many] {
            assert_eq!((shown.status, shown.code().as_str()), (500, "integrity"), "byte {at} from the end: {shown:?}");
            assert!(!shown.text.contains("Hypertension") && !shown.text.contains("checkup"), "{shown:?}");
        }
        // The start saw it, and no seal entry after it hides it.
        app.stop();
        settle(app.dir());
        let (code, report) = verify(app.dir());
        let findings = report["findings"].as_array().unwrap();
        let told = findings.iter().any(|it| it["code"] == "values_damaged" && it["sequence"] == json!(n));
        assert!(code == 1 && told, "{report:#}");
        app.start();
        app.kill();
        put_data(whole.path(), app.dir());
        std::fs::copy(whole.path().join("keys/checkpoint.lock"), app.dir().join("keys/checkpoint.lock")).unwrap();
    }
    app.start();
    app.stop();
    settle(app.dir());
    let vault = copy(app.dir());
    edit(vault.path(), |db| cell("sealed", n).flip(db, 0));
    let (code, report) = verify(vault.path());
    assert_eq!((code, &report["findings"][0]["code"]), (1, &json!("ciphertext_altered")), "{report:#}");
    assert_eq!(report["findings"][0]["sequence"], sealed_with(app.dir(), n), "{report:#}");
    app.finish();
}

#[tokio::test]
async fn what_cannot_be_told_is_exit_code_two_with_the_reason() {
    let mut app = App::spawn().await;
    app.stop();
    settle(app.dir());
    let other = tempfile::tempdir().unwrap();
    init(other.path(), false);
    let others = other.path().to_owned();
    type Harm<'a> = &'a dyn Fn(&Path);
    let files: [(&str, &str, Harm<'_>); 7] = [
        ("data/vault.db", "no database", &|path| std::fs::remove_file(path).unwrap()),
        ("data/vault.db", "not a readable SQLite database", &|path| std::fs::write(path, "x".repeat(9_999)).unwrap()),
        ("data/vault.db", "not a phivault database", &|path| std::fs::write(path, "").unwrap()),
        ("keys/checkpoint.lock", "missing", &|path| std::fs::remove_file(path).unwrap()),
        ("keys/checkpoint.lock", "checkpoint.lock", &|path| {
            std::fs::copy(others.join("keys/checkpoint.lock"), path).map(drop).unwrap()
        }),
        ("keys/signing.vkey", "signing.vkey", &|path| std::fs::remove_file(path).unwrap()),
        ("keys/signing.vkey", "damaged", &|path| std::fs::write(path, "what").unwrap()),
    ];
    for (name, word, how) in files {
        let vault = copy(app.dir());
        how(&vault.path().join(name));
        let (code, report) = verify(vault.path());
        assert_eq!((code, report["verdict"].as_str()), (2, Some("unsure")), "{name}: {report:#}");
        assert!(report["error"].as_str().unwrap().contains(word), "{name}: {report:#}");
    }
    // A database of another vault is told by the lock and the key of this one.
    let vault = copy(app.dir());
    put_data(other.path(), vault.path());
    let (code, report) = verify(vault.path());
    assert_eq!(code, 1, "{report:#}");
    assert!(report["findings"].to_string().contains("other_ledger"), "{report:#}");
    app.start();
    app.finish();
}
