//! Reports against those who would bend them, and against entries that come in another order than things happened.

use std::collections::BTreeMap;

use phivault::domain::caller::Role;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::app::{App, entry, program, text};
use crate::reports::{fetch, make, table};

fn act(at: &str, actor: &str, patient: &str, code: &str) -> Value {
    let mut it = json!({"action": "read", "occurred_at": at, "actor": {"id": actor}, "patient": {"id": patient},
        "record": {"type": "Chart", "id": "1"}, "reason": {"code": code}});
    if code == "BTG" {
        it["reason"]["note"] = json!("unconscious");
    }
    it
}

async fn submit(app: &App, all: &[Value]) {
    let sent = app.submitter().post("/v1/entries/batch", &json!(all)).await;
    assert_eq!(sent.status, 200, "{sent:?}");
}

async fn report(app: &App, body: Value) -> Value {
    let mut body = body;
    body["reason"] = json!({"code": "HCOMPL"});
    fetch(app, &make(app, &body).await, "json").await.json()
}

/// Checks a report as JSON against its manifest and the vault's folder.
async fn check(app: &mut App, made: &Value) -> (i32, String) {
    let file = fetch(app, made, "json").await.text;
    let path = format!("/v1/reports/{}/manifest?format=json", made["id"].as_str().unwrap());
    let manifest = app.officer().get(&path).await.json()["text"].as_str().unwrap().to_owned();
    let folder = tempfile::tempdir().unwrap();
    let (report, beside) = (folder.path().join("report.json"), folder.path().join("report.manifest"));
    std::fs::write(&report, file).unwrap();
    std::fs::write(&beside, manifest).unwrap();
    app.stop();
    let mut command = program();
    command.arg("verify-report").arg(&report).arg("--manifest").arg(&beside);
    command.arg("--vkey").arg(app.dir().join("keys/signing.vkey")).arg("--dir").arg(app.dir());
    let output = command.output().unwrap();
    app.start();
    (output.status.code().unwrap(), text(&output))
}

#[tokio::test]
async fn figures_of_entries_that_were_altered_while_the_vault_ran_do_not_pass() {
    let mut app = App::spawn().await;
    app.stop();
    // The scrubber would tell of it, and no longer call the vault intact at the end.
    app.set("PHIVAULT_EVIDENCE__SCRUB_PER_SECOND", "0");
    app.start();
    let all: Vec<_> = (0..60)
        .map(|n| act("2026-11-01T10:00:00Z", if n % 2 == 0 { "dr_evil" } else { "dr_good" }, "P", "TREAT"))
        .collect();
    submit(&app, &all).await;
    let sound = make(&app, &json!({"report": "access", "actor": "dr_evil", "reason": {"code": "HCOMPL"}})).await;
    let (code, said) = check(&mut app, &sound).await;
    let blind = std::env::var("PHIVAULT_TEST_BLIND").is_ok_and(|it| it == "1");
    assert!(code == 0 && said.contains("worked out again") != blind, "{code} {said}");
    let db = Connection::open(app.dir().join("data/vault.db")).unwrap();
    let guard: String = db
        .query_row("SELECT sql FROM sqlite_schema WHERE name = 'entry_keeps_its_content'", [], |row| row.get(0))
        .unwrap();
    let swap = |from: &str, to: &str| {
        let sql =
            "UPDATE entry SET meta = CAST(replace(meta, ?1, ?2) AS BLOB) WHERE sequence % 3 = 0 AND instr(meta, ?1)";
        // Whoever leaves the schema's number changed ends the vault with its next entry.
        let number: i64 = db.query_row("PRAGMA schema_version", [], |row| row.get(0)).unwrap();
        db.execute_batch("DROP TRIGGER entry_keeps_its_content").unwrap();
        assert!(db.execute(sql, [from, to]).unwrap() > 5);
        db.execute_batch(&guard).unwrap();
        db.pragma_update(None, "schema_version", number).unwrap();
    };
    swap("dr_evil", "dr_goof");
    let lie = make(&app, &json!({"report": "access", "actor": "dr_goof", "reason": {"code": "HCOMPL"}})).await;
    // The index still leads from the user whom they were of to what was altered.
    let robbed = make(&app, &json!({"report": "access", "actor": "dr_evil", "reason": {"code": "HCOMPL"}})).await;
    assert!(robbed["altered"].as_array().unwrap().len() > 5, "{robbed:#}");
    let bent = make(&app, &json!({"report": "reasons", "reason": {"code": "HCOMPL"}})).await;
    let told = fetch(&app, &bent, "json").await.json();
    assert!(told["head"].to_string().contains("ALTERED") && bent["altered"].as_array().unwrap().len() > 5, "{told:#}");
    swap("dr_goof", "dr_evil");
    assert_eq!(app.officer().get(&format!("/v1/reports/{}", bent["id"].as_str().unwrap())).await.status, 410);
    assert_eq!(lie["entries_read"], json!(0));
    app.finish();
}

#[tokio::test]
async fn the_figures_of_every_plain_report_can_be_worked_out_without_keys() {
    let mut app = App::spawn().await;
    let blind = std::env::var("PHIVAULT_TEST_BLIND").is_ok_and(|it| it == "1");
    let mut all = Vec::new();
    for n in 0..40 {
        let code = if n % 9 == 0 { "BTG" } else { "TREAT" };
        all.push(act(
            &format!("2026-11-{:02}T0{}:00:00Z", n % 27 + 1, n % 10),
            &format!("u{}", n % 3),
            &format!("P{}", n % 4),
            code,
        ));
    }
    submit(&app, &all).await;
    app.submitter()
        .submit(&json!({"action": "login_failed", "actor": {"id": "u1"}, "reason": {"code": "HSYSADMIN"}}))
        .await;
    for (kind, more) in [
        ("access", json!({"actor": "u1"})),
        ("users", json!({"from": "2026-11-05T00:00:00Z", "to": "2026-11-15T00:00:00Z"})),
        ("break-glass", json!({"actor": "u0"})),
        ("review", json!({})),
        ("logins", json!({})),
        ("reasons", json!({})),
        ("privileged", json!({})),
        ("integrity", json!({})),
    ] {
        let mut body = more;
        (body["report"], body["reason"]) = (json!(kind), json!({"code": "HCOMPL"}));
        let made = make(&app, &body).await;
        let (code, said) = check(&mut app, &made).await;
        let plain = !blind || ["users", "logins", "reasons"].contains(&kind);
        let wanted = if plain { "worked out again" } else { "only the vault, with its keys" };
        assert!(code == 0 && said.contains(wanted), "{kind}: {code} {said}");
    }
    app.finish();
}

#[tokio::test]
async fn break_the_glass_and_log_ins_are_told_in_the_order_in_which_things_happened() {
    let mut told = Vec::new();
    for turned in [false, true] {
        let app = App::spawn().await;
        let mut all = Vec::new();
        for hour in [8, 9, 11, 20] {
            all.push(act(
                &format!("2026-11-02T{hour:02}:00:00Z"),
                "dr_a",
                "P",
                if hour == 9 || hour == 20 { "BTG" } else { "TREAT" },
            ));
        }
        let log = |action: &str, minute: u32, outcome: &str| {
            json!({"action": action, "occurred_at": format!("2026-11-02T23:{minute:02}:00Z"), "outcome": outcome,
                "actor": {"id": "u"}, "reason": {"code": "TREAT"}})
        };
        all.extend((50..56).map(|minute| log("login_failed", minute, "failure")));
        all.push(log("logout", 57, "failure"));
        let mut success = log("login", 10, "success");
        success["occurred_at"] = json!("2026-11-03T00:10:00Z");
        all.push(success);
        if turned {
            all.reverse();
        }
        submit(&app, &all).await;
        let glass = report(&app, json!({"report": "break-glass"})).await;
        let uses = table(&glass, "Each use");
        assert_eq!(uses.len(), 2, "{glass:#}");
        assert_eq!((&uses[0]["from"], &uses[0]["linked_accesses"]), (&json!("2026-11-02T09:00:00.000000Z"), &json!(1)));
        let second =
            report(&app, json!({"report": "logins", "from": "2026-11-03T00:00:00Z", "to": "2026-11-04T00:00:00Z"}))
                .await;
        assert_eq!(table(&second, "Many failures, then success")[0]["failures"], json!(6), "they lie before midnight");
        let first = report(&app, json!({"report": "logins", "to": "2026-11-03T00:00:00Z"})).await;
        let row = &table(&first, "Users")[0];
        let wanted = (&json!(6), &json!("2026-11-02T23:55:00.000000Z"));
        assert_eq!((&row["failures"], &row["last_failure"]), wanted, "a log-out that failed is no failed log-in");
        told.push((uses.len(), row.clone()));
        app.finish();
    }
    assert_eq!(told[0], told[1]);
}

#[tokio::test]
async fn what_was_reviewed_is_reviewed_whatever_a_report_is_narrowed_to() {
    let app = App::spawn().await;
    let glass = app.submitter().submit(&act("2026-11-02T09:00:00Z", "dr_a", "P", "BTG")).await;
    let second = app.submitter().submit(&act("2026-11-02T09:30:00Z", "dr_a", "P", "BTG")).await;
    let review = async |id: &Value, outcome: &str| {
        let body = json!({"entries": [id], "outcome": outcome, "reason": {"code": "HCOMPL"}});
        assert_eq!(app.officer().post("/v1/reviews", &body).await.status, 201);
    };
    review(&glass["id"], "appropriate").await;
    let narrow = [json!({}), json!({"actor": "dr_a"}), json!({"patient": "P"}), json!({"record_type": "Chart"})];
    for (n, of_two) in [(1, "1 of 2"), (2, "2 of 2")] {
        for it in &narrow {
            let ask = |kind: &str| {
                let mut body = it.clone();
                body["report"] = json!(kind);
                body
            };
            let glass = report(&app, ask("break-glass")).await;
            assert_eq!(table(&glass, "Each use")[0]["reviewed"], of_two, "{it}");
            assert_eq!(table(&report(&app, ask("review")).await, "Reviewed").len(), n, "{it}");
        }
        if n == 1 {
            review(&second["id"], "unclear").await;
            review(&glass["id"], "inappropriate").await;
        }
    }
    let last = report(&app, json!({"report": "review"})).await;
    let first = table(&last, "Reviewed").iter().find(|it| it["entry"] == glass["id"]).unwrap().clone();
    assert_eq!(
        (&first["outcome"], &first["before_that"]),
        (&json!("inappropriate"), &json!("appropriate by officer-app"))
    );
    app.finish();
}

fn disclose(at: &str, recipient: &str, basis: &str) -> Value {
    json!({"action": "disclose", "occurred_at": at, "actor": {"id": "him"}, "patient": {"id": "MRN-12345"},
        "record": {"type": "Chart", "id": "1"}, "reason": {"code": "HOPERAT"},
        "disclosure": {"recipient": {"name": recipient}, "description": "chart", "basis": basis}})
}

#[tokio::test]
async fn nobody_learns_of_a_suspended_disclosure_from_what_a_person_is_given() {
    let app = App::spawn().await;
    app.submitter().submit(&entry()).await;
    let day = |ahead: i64| (chrono::Utc::now() + chrono::TimeDelta::days(ahead)).format("%Y-%m-%d").to_string();
    let at = format!("{}T10:00:00Z", day(-40));
    submit(&app, &[disclose(&at, "F.B.I.", "164.512(f)"), disclose(&at, "Health Department", "164.512(b)")]).await;
    // Asked twenty days ago, suspended since ten: it is the day of giving that counts.
    let office = json!({"report": "disclosures", "patient": "MRN-12345", "reason": {"code": "HCOMPL"}, "accounting":
        {"requested_on": day(-20), "suspensions": [{"agency": "FBI", "written": true, "from": day(-10), "until": day(90)}]}});
    let made = make(&app, &office).await;
    let document = fetch(&app, &made, "json").await.json();
    assert_eq!(
        (table(&document, "Disclosures").len(), table(&document, "Suspended for now").len()),
        (1, 1),
        "{document:#}"
    );
    // The vault remembers it.
    for body in [
        json!({"report": "disclosures", "patient": "MRN-12345", "accounting": {"for_person": true, "requested_on": day(-20)}}),
        json!({"report": "patient", "patient": "MRN-12345"}),
    ] {
        let mut body = body;
        body["reason"] = json!({"code": "PATRQT"});
        let made = make(&app, &body).await;
        let id = made["id"].as_str().unwrap();
        for format in ["json", "csv", "html"] {
            let file = fetch(&app, &made, format).await.text;
            assert!(!file.contains("F.B.I") && !file.contains("FBI") && !file.contains("2 in the period"), "{file}");
            assert!(file.contains("Health Department") || body["report"] == "patient", "{file}");
        }
        let manifest = app.officer().get(&format!("/v1/reports/{id}/manifest?format=pdf")).await.text;
        assert!(!manifest.contains("FBI") && !manifest.contains("entries_read"), "{manifest}");
    }
    let own = json!({"report": "patient", "reason": {"code": "PATRQT"}});
    let patient = app.client(Role::Patient);
    let made = patient.post("/v1/reports", &own).await;
    assert!(made.status == 201 && !made.text.contains("FBI"), "{made:?}");
    let given = patient.get(&format!("/v1/reports/{}", made.json()["id"].as_str().unwrap())).await.json();
    let outside = table(&given, "Each time").iter().filter(|it| it["what"] == "gave it to somebody outside").count();
    assert_eq!(outside, 1, "{given:#}");
    // A copy of the same accounting is as free as it was; a second request within twelve months is not, and an accounting with no
    // suspension any more tells.
    let copy = fetch(&app, &make(&app, &office).await, "json").await.json();
    assert!(copy.to_string().contains("It is free"), "{copy:#}");
    let mut lifted = office.clone();
    lifted["accounting"]["requested_on"] = json!(day(0));
    lifted["accounting"]["suspensions"] = json!([]);
    let document = fetch(&app, &make(&app, &lifted).await, "json").await.json();
    assert_eq!(table(&document, "Disclosures").len(), 2);
    assert!(document.to_string().contains("It is not the first one in twelve months"), "{document:#}");
    app.finish();
}

/// How often the person is told that something was given to somebody outside.
async fn told_to_the_person(app: &App, zone: &str) -> usize {
    let own = json!({"report": "patient", "time_zone": zone, "reason": {"code": "PATRQT"}});
    let patient = app.client(Role::Patient);
    let made = patient.post("/v1/reports", &own).await;
    assert_eq!(made.status, 201, "{made:?}");
    let given = patient.get(&format!("/v1/reports/{}", made.json()["id"].as_str().unwrap())).await.json();
    table(&given, "Each time").iter().filter(|it| it["what"] == "gave it to somebody outside").count()
}

#[tokio::test]
async fn suspensions_last_whatever_zone_is_asked_for_whatever_is_named_after_them_and_whatever_is_redacted() {
    let two = crate::keys::Two::spawn().await;
    let app = &two.app;
    let day = |ahead: i64| (chrono::Utc::now() + chrono::TimeDelta::days(ahead)).format("%Y-%m-%d").to_string();
    let at = format!("{}T10:00:00Z", day(-40));
    let fbi = app.submitter().submit(&disclose(&at, "FBI", "164.512(f)")).await;
    submit(app, &[disclose(&at, "Inspector", "164.512(d)"), disclose(&at, "Health Department", "164.512(b)")]).await;
    let suspend = async |agency: &str, from: i64, until: i64| {
        let named = json!([{"agency": agency, "written": true, "from": day(from), "until": day(until)}]);
        make(app, &json!({"report": "disclosures", "patient": "MRN-12345", "reason": {"code": "HCOMPL"}, "accounting": {"suspensions": named}})).await;
    };
    assert_eq!(told_to_the_person(app, "Z").await, 3);
    suspend("FBI", 0, 90).await;
    // The first day of it: west of here it is still yesterday.
    assert_eq!((told_to_the_person(app, "Z").await, told_to_the_person(app, "-14:00").await), (2, 2));
    suspend("Inspector", -5, 0).await;
    // The last day of it: east of here it is tomorrow. And the other agency's goes on.
    assert_eq!((told_to_the_person(app, "Z").await, told_to_the_person(app, "+14:00").await), (1, 1));
    two.both(&json!({"operation": "redact", "entry": fbi["id"], "authority": "order"})).await;
    assert_eq!(told_to_the_person(app, "Z").await, 1, "an agency that cannot be read any more may be any");
    // Named again with another end, the new statement counts.
    suspend("FBI", -5, -3).await;
    suspend("Inspector", -5, -3).await;
    assert_eq!(told_to_the_person(app, "Z").await, 3);
    // What makes no sense lifts nothing.
    for wrong in [
        json!({"agency": "FBI", "written": true, "from": day(-5), "until": day(-9)}),
        json!({"agency": "FBI", "written": true, "from": day(-90), "until": null}),
        json!({"agency": "...", "written": true, "from": day(-5), "until": day(9)}),
    ] {
        let asked = json!({"report": "disclosures", "patient": "MRN-12345", "reason": {"code": "HCOMPL"}, "accounting": {"suspensions": [wrong]}});
        assert_eq!(app.officer().post("/v1/reports", &asked).await.code(), "accounting_invalid", "{asked}");
    }
    // An empty list lifts all, and stays so.
    suspend("Inspector", -5, 90).await;
    assert_eq!(
        told_to_the_person(app, "Z").await,
        1,
        "the one that cannot be read any more may be the Inspector's, too"
    );
    for lifted in [json!({"suspensions": []}), json!({}), json!({})] {
        make(app, &json!({"report": "disclosures", "patient": "MRN-12345", "reason": {"code": "HCOMPL"}, "accounting": lifted})).await;
        assert_eq!(told_to_the_person(app, "Z").await, 3, "{lifted}");
    }
    two.app.finish();
}

#[tokio::test]
async fn with_kept_reports_gone_nothing_is_made_for_a_person_for_nobody_knows_what_is_withheld() {
    let mut app = App::spawn().await;
    app.submitter().submit(&entry()).await;
    make(&app, &json!({"report": "disclosures", "patient": "MRN-12345", "reason": {"code": "HCOMPL"}})).await;
    app.stop();
    let rows = Connection::open(app.dir().join("data/vault.db")).unwrap();
    assert_eq!(rows.execute("DELETE FROM state WHERE kind = 'report'", []).unwrap(), 1);
    drop(rows);
    app.start();
    let own = json!({"report": "patient", "reason": {"code": "PATRQT"}});
    assert_eq!(app.client(Role::Patient).post("/v1/reports", &own).await.code(), "integrity");
    let given = json!({"report": "disclosures", "patient": "MRN-12345", "reason": {"code": "PATRQT"}, "accounting": {"for_person": true}});
    assert_eq!(app.officer().post("/v1/reports", &given).await.code(), "integrity");
    let office = json!({"report": "disclosures", "patient": "MRN-12345", "reason": {"code": "HCOMPL"}});
    assert_eq!(app.officer().post("/v1/reports", &office).await.status, 201);
    app.stop();
}

#[tokio::test]
async fn no_manifest_tells_whether_something_is_withheld() {
    let app = App::spawn().await;
    let at = (chrono::Utc::now() - chrono::TimeDelta::days(40)).format("%Y-%m-%dT10:00:00Z").to_string();
    let mut seen = Vec::new();
    for suspended in [false, true] {
        if suspended {
            app.submitter().submit(&disclose(&at, "FBI", "164.512(f)")).await;
            let day = |ahead: i64| (chrono::Utc::now() + chrono::TimeDelta::days(ahead)).format("%Y-%m-%d").to_string();
            let named = json!([{"agency": "FBI", "written": true, "from": day(-5), "until": day(90)}]);
            make(&app, &json!({"report": "disclosures", "patient": "MRN-12345", "reason": {"code": "HCOMPL"}, "accounting": {"suspensions": named}})).await;
        }
        for role in [Role::Patient, Role::Auditor, Role::Officer] {
            let client = app.client(role);
            let mut asked = json!({"report": "patient", "reason": {"code": "PATRQT"}});
            if role != Role::Patient {
                asked["patient"] = json!("MRN-12345");
            }
            let made = client.post("/v1/reports", &asked).await;
            let id = made.json()["id"].as_str().unwrap().to_owned();
            let manifest =
                client.get(&format!("/v1/reports/{id}/manifest?format=json")).await.json()["text"].to_string();
            let lines: Vec<_> =
                manifest.split("\\n").filter_map(|it| it.split(' ').next()).map(str::to_owned).collect();
            seen.push(lines);
        }
    }
    assert!(seen.iter().all(|it| *it == seen[0] && !it.contains(&"entries_read".to_owned())), "{seen:?}");
    app.finish();
}

#[tokio::test]
async fn an_accounting_says_which_days_it_covers_and_sums_up_only_what_is_alike() {
    let app = App::spawn().await;
    submit(
        &app,
        &[
            disclose("2026-04-01T10:00:00Z", "Court", "164.512(e)"),
            disclose("2026-09-17T10:00:00Z", "Court", "164.512(e)"),
            disclose("2026-09-18T10:00:00Z", "Press", "164.502(j)"),
            disclose("2026-09-19T10:00:00Z", "Press", "164.502(j)"),
        ],
    )
    .await;
    let mut other = disclose("2026-09-20T10:00:00Z", "Court", "164.512(e)");
    other["disclosure"]["description"] = json!("psychiatric notes");
    app.submitter().submit(&other).await;
    let whole = report(&app, json!({"report": "disclosures", "patient": "MRN-12345"})).await;
    let rows = table(&whole, "Disclosures");
    let repeated: BTreeMap<&str, usize> = rows.iter().fold(BTreeMap::new(), |mut all, it| {
        *all.entry(it["recipient"].as_str().unwrap()).or_default() += 1;
        all
    });
    assert_eq!(repeated, BTreeMap::from([("Court", 2), ("Press", 2)]), "{whole:#}");
    let part = report(&app, json!({"report": "disclosures", "patient": "MRN-12345", "from": "2026-09-01T00:00:00Z", "to": "2026-09-18T00:00:00Z"})).await;
    assert_eq!(table(&part, "Disclosures").len(), 1, "{part:#}");
    let terms = part["sections"][1]["text"].to_string();
    assert!(
        terms.contains("covers disclosures from 2026-09-01 to 2026-09-17") && terms.contains("only a part"),
        "{terms}"
    );
    assert!(part["head"].to_string().contains("2026-09-01 to 2026-09-17"), "{part:#}");
    assert_eq!(table(&part, "Left out").len(), 4, "what lies outside is said");
    app.finish();
}

#[tokio::test]
async fn the_integrity_report_tells_when_all_entries_were_gone_through() {
    let mut app = App::spawn().await;
    app.submitter().submit(&entry()).await;
    app.stop();
    app.set("PHIVAULT_TEST_DAYS_AHEAD", "2");
    app.start();
    let began = std::time::Instant::now();
    loop {
        let told = report(&app, json!({"report": "integrity"})).await;
        if let Some(check) = table(&told, "Checks").first() {
            assert_eq!(check["findings"], "0");
            assert!(check["entries_gone_through"].as_str().unwrap().parse::<u64>().unwrap() > 2, "{told:#}");
            break;
        }
        assert!(began.elapsed().as_secs() < 30, "no pass was recorded: {told:#}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    app.finish();
}
