//! Tiles and the index exist only beyond one full segment (65,536 entries), so one large vault is made for them.

use phivault::cli::local;
use phivault::config::Settings;
use phivault::domain::caller::{Caller, Role};
use phivault::domain::index::Dimension;
use phivault::domain::json;
use phivault::store::SEGMENT;
use tempfile::TempDir;

use crate::app::{init, verify};
use crate::check::check_vault;
use crate::damage::refusal::{refused_unchanged, serve};

use super::edits::{Cell, copy, database, edit, settle};
use super::{At, Case, case, expect_findings, sql};

/// A stopped vault with one full segment, its index finished, and a few entries more.
fn more_than_a_segment() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    init(folder.path(), false);
    let settings = Settings::load(&folder.path().join("phivault.toml"), std::iter::empty()).unwrap();
    let unlock = local::unlock(&settings).unwrap();
    let caller = Caller { token_id: "t".into(), label: "ehr".into(), role: Role::Submitter };
    let line = |n: u64| {
        let (actor, patient) = (n % 41, n % 307);
        let text = format!(
            r#"{{"action":"read","actor":{{"id":"u{actor}"}},"patient":{{"id":"P{patient}"}},
                "record":{{"type":"Condition","id":"c{}"}},"reason":{{"code":"TREAT"}}}}"#,
            n % 1_009
        );
        json::parse::<phivault::domain::submission::Submission>(text.as_bytes())
    };
    for range in [0..SEGMENT + 300, SEGMENT + 300..SEGMENT + 600] {
        let vault = local::open(&settings, &unlock).unwrap();
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
    check_vault(dir);
}
