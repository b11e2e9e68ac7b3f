//! Tiles and the index exist only beyond one full segment (65,536 entries), so one large vault is made for them.

use std::collections::BTreeSet;
use std::path::Path;

use phivault::cli::local;
use phivault::config::Settings;
use phivault::domain::action::Action;
use phivault::domain::caller::{Caller, Role};
use phivault::domain::index::{Dimension, Term};
use phivault::domain::json;
use phivault::domain::time::Timestamp;
use phivault::store::SEGMENT;
use phivault::vault::Vault;
use rusqlite::{Connection, params};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::app::{init, verify};
use crate::check::check_vault;
use crate::damage::refusal::{refused_unchanged, serve};

use super::edits::{Cell, copy, database, edit, settle};
use super::{At, Case, case, expect_findings, sql};

/// A stopped vault with one full segment, its index finished, and a few entries more.
pub fn more_than_a_segment() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    init(folder.path(), false);
    let settings = Settings::load(&folder.path().join("phivault.toml"), std::iter::empty()).unwrap();
    let unlock = local::unlock(&settings).unwrap();
    let caller = Caller { token_id: "t".into(), label: "ehr".into(), role: Role::Submitter };
    let line = |n: u64| {
        let (actor, patient, at) = (n % 41, n % 307, moment(n));
        let text = format!(
            r#"{{"action":"read","occurred_at":"{at}","actor":{{"id":"u{actor}","role":"role-{}"}},"patient":{{"id":"P{patient}"}},
                "record":{{"type":"Condition","id":"c{}"}},"reason":{{"code":"TREAT"}}}}"#,
            actor % 3,
            n % 1_009
        );
        json::parse::<phivault::domain::submission::Submission>(text.as_bytes())
    };
    for range in [0..SEGMENT + 300, SEGMENT + 300..SEGMENT + 600] {
        let vault = local::open(&settings, &unlock).unwrap();
        if range.start == 0 {
            revoke_one(&vault, folder.path());
        }
        for from in range.clone().step_by(5_000) {
            let lines = (from..range.end.min(from + 5_000)).map(line);
            vault.submit_batch(&caller, lines, false).unwrap();
        }
        vault.stop().unwrap();
    }
    settle(folder.path());
    let segments: i64 =
        database(folder.path()).query_row("SELECT count(*) FROM segment", [], |row| row.get(0)).unwrap();
    assert_eq!(segments, 1, "the index of the full segment is finished");
    settle(folder.path());
    folder
}

/// When entry `n` happened: most in order, each seventh a week late.
fn moment(n: u64) -> Timestamp {
    let minutes = i64::try_from(n).unwrap() - if n.is_multiple_of(7) { 10_080 } else { 0 };
    Timestamp::parse("2026-01-05T00:00:00Z").unwrap().plus_seconds(minutes * 60)
}

#[test]
fn reports_over_closed_and_open_segments_count_every_entry_once() {
    let folder = more_than_a_segment();
    let settings = Settings::load(&folder.path().join("phivault.toml"), std::iter::empty()).unwrap();
    let vault = local::open(&settings, &local::unlock(&settings).unwrap()).unwrap();
    let officer = Caller { token_id: "t".into(), label: "officer".into(), role: Role::Officer };
    let (from, to) = (moment(30_001), moment(60_001));
    let ask = |report: &str, actor: Option<&str>| {
        let text = json!({"report": report, "actor": actor, "from": from, "to": to, "reason": {"code": "HCOMPL"}});
        let (kept, document) = vault.make_report(&officer, serde_json::from_value(text).unwrap()).unwrap();
        (kept, serde_json::to_value(&document).unwrap())
    };
    let period = |n: &u64| (from..to).contains(&moment(*n));
    let before = |n: &u64| (Timestamp(2 * from.0 - to.0)..from).contains(&moment(*n));
    let all = || 0..SEGMENT + 600;
    let (kept, users) = ask("users", None);
    assert_eq!(kept.entries_covered, all().filter(period).count() as u64);
    let rows = table(&users, "Users");
    assert_eq!(rows.len(), 41);
    for row in rows {
        let user: u64 = row["user"].as_str().unwrap()[1..].parse().unwrap();
        let own = || all().filter(|n| n % 41 == user);
        let patients: BTreeSet<u64> = own().filter(period).map(|n| n % 307).collect();
        let wanted = (own().filter(period).count(), own().filter(before).count(), patients.len());
        assert_eq!(
            (&row["entries"], &row["period_before"], &row["patients"]),
            (&json!(wanted.0), &json!(wanted.1), &json!(wanted.2))
        );
        assert_eq!(row["role"], format!("role-{}", user % 3));
    }
    let (_, access) = ask("access", Some("u7"));
    let figures = table(&access, "Compared with others of the same role");
    let figure = |what: &str| figures.iter().find(|it| it["what"] == what).unwrap()["this_period"].clone();
    let count = |user: u64| all().filter(|n| n % 41 == user).filter(period).count();
    let mut others: Vec<_> = (0..41).filter(|it| it % 3 == 1 && *it != 7).map(count).collect();
    others.sort_unstable();
    assert_eq!(figure("entries of this user"), count(7));
    assert_eq!(figure("other users of this role"), others.len());
    assert_eq!(figure("their median"), others[others.len() / 2]);
    // Made of the entries themselves, the same report comes out.
    let again = vault.remake_report(&officer, kept.id).unwrap().1;
    vault.stop().unwrap();
    drop(vault);
    edit(folder.path(), |db| assert_eq!(db.execute("DELETE FROM segment", []).unwrap(), 1));
    let vault = local::open(&settings, &local::unlock(&settings).unwrap()).unwrap();
    assert!(vault.remake_report(&officer, kept.id).unwrap().1 == again);
    vault.stop().unwrap();
}

/// Gives the acts of one user to another, in what the entries of the first segment are counted by.
fn swap_users(db: &Connection) {
    let first = 0xf0_i64 << 16;
    let mut statement = db.prepare("SELECT key, chunk FROM posting WHERE key >= ?1 AND key < ?1 + 65536").unwrap();
    let chunks = statement.query_map([first], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let mut swapped = 0;
    for (key, chunk) in chunks.map(Result::<(i64, Vec<u8>), _>::unwrap).collect::<Vec<_>>() {
        let mut bent = chunk.clone();
        for at in 0..bent.len() - 2 {
            if bent[at..].starts_with(b"\x02u7") {
                bent[at + 2] = b'8';
                swapped += 1;
            }
        }
        db.execute("UPDATE posting SET chunk = ?1 WHERE key = ?2", params![bent, key]).unwrap();
    }
    assert_eq!(swapped, 1);
}

#[test]
fn what_entries_are_counted_by_is_believed_only_as_the_ledger_names_it() {
    let folder = more_than_a_segment();
    let mut settings = Settings::load(&folder.path().join("phivault.toml"), std::iter::empty()).unwrap();
    settings.evidence.scrub_per_second = 0;
    let unlock = local::unlock(&settings).unwrap();
    let officer = Caller { token_id: "t".into(), label: "officer".into(), role: Role::Officer };
    let ask = |vault: &Vault, report: &str, actor: Option<&str>| {
        let to = (report != "integrity").then(|| moment(90_000));
        let text = json!({"report": report, "actor": actor, "to": to, "reason": {"code": "HCOMPL"}});
        vault.make_report(&officer, serde_json::from_value(text).unwrap()).unwrap()
    };
    let vault = local::open(&settings, &unlock).unwrap();
    let kept = [ask(&vault, "users", None).0, ask(&vault, "access", Some("u7")).0];
    assert!(kept.iter().all(|it| it.altered.is_empty()));
    vault.stop().unwrap();
    drop(vault);
    edit(folder.path(), swap_users);
    let vault = local::open(&settings, &unlock).unwrap();
    for it in &kept {
        assert!(vault.remake_report(&officer, it.id).is_ok(), "the entries are counted themselves");
    }
    vault.stop().unwrap();
    drop(vault);
    // The scrubber comes to it, and says so once.
    settings.evidence.scrub_per_second = 1_000_000;
    let vault = local::open(&settings, &unlock).unwrap();
    for _ in 0..4_000 {
        if vault.readiness().scrubbed_at.is_some() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(vault.readiness().problems.iter().any(|it| it.contains("do not agree with the ledger")));
    assert!(ask(&vault, "users", None).0.verified.contains("1 findings"));
    let told = serde_json::to_value(ask(&vault, "integrity", None).1).unwrap();
    assert_eq!(table(&told, "Damage that was found")[0]["what_was_altered"], "the index of segment 0");
    vault.stop().unwrap();
    drop(vault);
    // Entries that are altered beside it are named.
    edit(folder.path(), |db| {
        let sql =
            "UPDATE entry SET meta = CAST(replace(CAST(meta AS TEXT), 'role-', 'rola-') AS BLOB) WHERE sequence = 700";
        assert_eq!(db.execute(sql, []).unwrap(), 1);
    });
    settings.evidence.scrub_per_second = 0;
    let vault = local::open(&settings, &unlock).unwrap();
    let (users, peers) = (ask(&vault, "users", None).0, ask(&vault, "access", Some("u7")).0);
    assert_eq!((users.altered, peers.altered), (vec![700], vec![700]));
    vault.stop().unwrap();
}

fn table<'a>(document: &'a Value, heading: &str) -> &'a [Value] {
    let sections = document["sections"].as_array().unwrap();
    sections.iter().find(|it| it["heading"] == heading).unwrap()["table"].as_array().unwrap()
}

/// Makes and revokes a token, and leaves it and its row from before with the vault.
fn revoke_one(vault: &Vault, dir: &Path) {
    let admin = Caller { token_id: "t".into(), label: "admin".into(), role: Role::Admin };
    let made = vault.local_token(Role::Officer, "leaver").unwrap();
    let sql = "SELECT body, tag FROM state WHERE id = ?1";
    let row = database(dir).query_row(sql, [&made.0.id], |row| Ok((row.get(0)?, row.get(1)?)));
    let (body, tag): (Vec<u8>, Vec<u8>) = row.unwrap();
    let left = [made.1, made.0.id.clone(), hex::encode(body), hex::encode(tag)].join(" ");
    std::fs::write(dir.join("leaver"), left).unwrap();
    vault.revoke_token(&admin, &made.0.id, None).unwrap();
}

/// Takes an action out of the index of the first segment.
fn hide_action(db: &Connection, action: Action) {
    let term = Term::new(Dimension::Action, &[action.name().as_bytes()]);
    let key = i64::from(Dimension::Action as u8) << 16;
    let mut hidden = 0;
    loop {
        let number = hidden_chunk(db, key, term.key);
        let Some((key, chunk)) = number else { break };
        db.execute("UPDATE posting SET chunk = ?1 WHERE key = ?2", params![chunk, key]).unwrap();
        hidden += 1;
    }
    assert!(hidden > 0, "the action was in the index");
}

/// A chunk of a dimension that holds a term, without it.
fn hidden_chunk(db: &Connection, first: i64, term: u64) -> Option<(i64, Vec<u8>)> {
    let sql = "SELECT key, chunk FROM posting WHERE key >= ?1 AND key < ?1 + 65536";
    let mut statement = db.prepare(sql).unwrap();
    let chunks = statement.query_map([first], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))).unwrap();
    chunks.map(Result::unwrap).find_map(|(key, chunk)| {
        let (mut rest, mut kept) = (chunk.as_slice(), Vec::new());
        while !rest.is_empty() {
            let count = usize::from(u16::from_be_bytes([rest[8], rest[9]]));
            let (group, after) = rest.split_at(10 + 2 * count);
            if group[..8] != term.to_be_bytes() {
                kept.extend_from_slice(group);
            }
            rest = after;
        }
        (kept.len() < chunk.len()).then_some((key, kept))
    })
}

#[test]
fn a_revoked_token_stays_revoked_although_its_revocation_is_hidden_from_the_index() {
    let folder = more_than_a_segment();
    let dir = folder.path();
    let left = std::fs::read_to_string(dir.join("leaver")).unwrap();
    let [token, id, body, tag] = left.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let open = || {
        let settings = Settings::load(&dir.join("phivault.toml"), std::iter::empty()).unwrap();
        local::open(&settings, &local::unlock(&settings).unwrap())
    };
    let refused = |what: &str| {
        let vault = open().unwrap();
        assert!(vault.authenticate(token, Default::default()).is_none(), "{what}");
        let status = vault.readiness().status;
        vault.stop().unwrap();
        drop(vault);
        settle(dir);
        status
    };
    assert_eq!(refused("a revoked token is refused"), "ready");
    let revoked = copy(dir);
    edit(dir, |db| {
        hide_action(db, Action::TOKEN_REVOKE);
        let put = "UPDATE state SET body = ?1, tag = ?2 WHERE id = ?3";
        assert_eq!(db.execute(put, params![hex::decode(body).unwrap(), hex::decode(tag).unwrap(), id]).unwrap(), 1);
    });
    assert_eq!(refused("its old row is not the newest the ledger knows"), "degraded");
    assert_eq!(refused("nor after a restart, which wrote seal entries"), "degraded");
    let (code, report) = verify(dir);
    let codes: Vec<_> = report["findings"].as_array().unwrap().iter().map(|it| it["code"].clone()).collect();
    assert_eq!((code, codes), (1, vec!["index_differs".into(), "state_not_authentic".into()]), "{report:#}");
    // The revocation itself altered as well: the ledger no longer holds what the start must read.
    edit(dir, |db| {
        let sql = "UPDATE entry SET meta = CAST(replace(meta, 'token_revoke', 'token_create') AS BLOB) WHERE instr(meta, 'token_revoke')";
        assert_eq!(db.execute(sql, []).unwrap(), 1);
    });
    let error = open().err().expect("an altered entry is not passed over").to_string();
    assert!(error.contains("was altered"), "{error}");
    check_vault(revoked.path());
}

fn index_cases(chunks: [i64; 3]) -> Vec<Case> {
    let [one, other, last] = chunks;
    let cell = |table, column, row: String| Cell { table, column, row };
    let chunk = move |key: i64| cell("posting", "chunk", format!("key = {key}"));
    let segment = move |column| cell("segment", column, "n = 0".into());
    let first = || At::Entry(0);
    let found = &["index_differs"][..];
    vec![
        case("tile.hashes: a bit", &["tile_differs"], At::Entry(250 * 256), |db| {
            // The last byte of hash 250 of 256, each over 256 entries.
            Cell { table: "tile", column: "hashes", row: "n = 0".into() }.flip(db, 5 * 32);
        }),
        sql(
            "tile.hashes: cut, its check off",
            &["tile_differs"],
            At::Place("tile 0 of level 1".into()),
            "PRAGMA ignore_check_constraints = ON; UPDATE tile SET hashes = x''",
        ),
        sql("tile.level", &["tile_missing"], At::Place("tile 0 of level 1".into()), "UPDATE tile SET level = 2"),
        sql("tile.n", &["tile_missing"], At::Place("tile 0 of level 1".into()), "UPDATE tile SET n = 1"),
        sql("a tile deleted", &["tile_missing"], At::Place("tile 0 of level 1".into()), "DELETE FROM tile"),
        sql("a tile planted", &["tile_count"], At::Anywhere, "INSERT INTO tile SELECT level, 7, hashes FROM tile"),
        case("posting.chunk: a bit", found, first(), move |db| chunk(one).flip(db, 0)),
        case("posting.chunk: another's", found, first(), move |db| chunk(one).take(db, &chunk(other))),
        case("posting.chunk: swapped within a dimension", found, first(), move |db| chunk(one).swap(db, &chunk(other))),
        case("posting.chunk: a bit of who is counted", found, first(), move |db| chunk(0xf0 << 16).flip(db, 40)),
        case("posting.chunk: a bit of when is counted", found, first(), move |db| chunk(0xf1 << 16).flip(db, 0)),
        case("posting.chunk: pieces of activity swapped", found, first(), move |db| {
            chunk(0xf1 << 16).swap(db, &chunk((0xf1 << 16) + 1));
        }),
        sql("posting.key", found, first(), format!("UPDATE posting SET key = {} WHERE key = {last}", last + 1)),
        sql("a chunk deleted", found, first(), format!("DELETE FROM posting WHERE key = {one}")),
        sql("the last chunk deleted", found, first(), format!("DELETE FROM posting WHERE key = {last}")),
        sql(
            "a chunk planted",
            found,
            At::Anywhere,
            format!("INSERT INTO posting SELECT {}, chunk FROM posting WHERE key = {last}", last + 1),
        ),
        case("segment.fences: a bit of a first key", found, first(), move |db| segment("fences").flip(db, 8)),
        case("segment.filters: a bit", found, first(), move |db| segment("filters").flip(db, 3)),
        case("segment.filters: emptied, so that ids and patients hide", found, first(), |db| {
            let sql =
                "UPDATE segment SET filters = CAST(substr(filters, 1, 8) || zeroblob(length(filters) - 8) AS BLOB)";
            db.execute_batch(sql).unwrap();
        }),
        sql("segment.n", found, At::Anywhere, "UPDATE segment SET n = 1"),
        sql(
            "a segment planted",
            &["planted"],
            At::Anywhere,
            "INSERT INTO segment SELECT 9, fences, filters FROM segment",
        ),
    ]
}

#[test]
fn a_change_to_the_tiles_or_to_the_index_is_found_and_a_lost_index_is_made_again() {
    let folder = more_than_a_segment();
    let dir = folder.path();
    let ids = i64::from(Dimension::Id as u8) << 16;
    let last: i64 = database(dir).query_row("SELECT max(key) FROM posting", [], |row| row.get(0)).unwrap();
    settle(dir);
    expect_findings(dir, &index_cases([ids, ids + 1, last]));
    // No row says that the index of a segment is complete: so it looks when the process dies before it is, and so it is
    // no finding. The next start makes it again, once everything else is in order.
    let vault = copy(dir);
    edit(vault.path(), |db| db.execute_batch("DELETE FROM segment").unwrap());
    assert_eq!(verify(vault.path()).0, 0);
    let key = vault.path().join("unlock.key");
    std::fs::write(&key, "6b".repeat(32)).unwrap();
    let refused = refused_unchanged(vault.path(), &[], &["key file is not the one"]);
    std::fs::write(&key, "5a".repeat(32)).unwrap();
    serve(vault.path(), &[]).expect("a lost index does not keep it from starting").stop();
    settle(vault.path());
    let segments: i64 = database(vault.path()).query_row("SELECT count(*) FROM segment", [], |row| row.get(0)).unwrap();
    assert_eq!(segments, 1, "the index is made again");
    assert_eq!(verify(vault.path()).0, 0);
    assert_eq!(refused, Ok(()), "a start that is refused makes no index");
    // A row of the index that does not read is told, and made again like one that is not there.
    let vault = copy(dir);
    edit(vault.path(), |db| db.execute_batch("UPDATE segment SET fences = x'0102'").unwrap());
    assert_eq!(verify(vault.path()).0, 1);
    serve(vault.path(), &[]).expect("a damaged index does not keep it from starting").stop();
    assert_eq!(verify(vault.path()).0, 0);
    check_vault(dir);
}
