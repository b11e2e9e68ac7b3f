//! Single flipped bytes of the database file: none may change what is stored unnoticed, and none may crash the verifier.
//! `PHIVAULT_TEST_FLIPS` says how many are tried (`all`: every byte); run it with `--release` for many.

use std::path::Path;
use std::sync::Mutex;

use phivault::cli::local;
use phivault::config::Settings;
use phivault::domain::caller::{Caller, Role};
use phivault::domain::json;
use phivault::keyfile::KeyPaths;
use phivault::vault::{Verdict, VerifyAsked, verify};
use rusqlite::{Connection, OpenFlags};
use sha2::{Digest, Sha256};

use super::edits::{copy, settle};
use crate::app::init;

/// A stopped vault of about 2,000 entries in one file.
fn vault() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    init(folder.path(), false);
    let settings = Settings::load(&folder.path().join("phivault.toml"), std::iter::empty()).unwrap();
    let vault = local::open(&settings, &local::unlock(&settings).unwrap()).unwrap();
    let caller = Caller { token_id: "t".into(), label: "ehr".into(), role: Role::Submitter };
    let line = |n: u64| {
        let text = format!(
            r#"{{"action":"update","actor":{{"id":"u{}"}},"patient":{{"id":"P{}"}},"record":{{"type":"Condition","id":"c{n}"}},
                "reason":{{"code":"TREAT"}},"changes":[{{"field":"diagnosis","old":"a{n}","new":"b{n}"}}]}}"#,
            n % 41,
            n % 307
        );
        json::parse::<phivault::domain::submission::Submission>(text.as_bytes())
    };
    vault.submit_batch(&caller, (0..2_000).map(line), false).unwrap();
    vault.stop().unwrap();
    drop(vault);
    settle(folder.path());
    folder
}

/// A digest of all that is stored: the schema, and every row of every table. `None` if it cannot be read. Left out is what
/// nothing vouches for yet, as verify says: the sealed record of the newest entry, which is a seal entry itself and holds no
/// values; the next start opens it.
fn content(database: &Path) -> Option<[u8; 32]> {
    let db = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    let mut hash = Sha256::new();
    let tables = ["sqlite_schema", "entry", "tile", "posting", "segment", "state", "usage"];
    let pragmas = ["SELECT application_id FROM pragma_application_id", "SELECT user_version FROM pragma_user_version"];
    let queries = tables.iter().map(|it| match *it {
        "sqlite_schema" => "SELECT type, name, tbl_name, sql FROM sqlite_schema".to_owned(),
        "entry" => "SELECT sequence, meta, received_at, patient_previous, patient_number, commitment, leaf, \
                    CASE WHEN sequence < (SELECT max(sequence) FROM entry) THEN sealed END FROM entry ORDER BY sequence"
            .to_owned(),
        "usage" => "SELECT * FROM usage ORDER BY segment, version, bucket".to_owned(),
        table => format!("SELECT * FROM {table} NOT INDEXED ORDER BY rowid"),
    });
    for sql in queries.chain(pragmas.map(str::to_owned)) {
        let mut statement = db.prepare(&sql).ok()?;
        let columns = statement.column_count();
        let mut rows = statement.query([]).ok()?;
        while let Some(row) = rows.next().ok()? {
            for column in 0..columns {
                hash.update(format!("{:?}|", row.get_ref(column).ok()?));
            }
        }
    }
    Some(hash.finalize().into())
}

/// Bytes of a page.
const PAGE: usize = 8_192;

/// The first page, and the roots of the tables that are small and of their indexes.
fn pages(database: &Path) -> Vec<usize> {
    let db = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let sql = "SELECT rootpage FROM sqlite_schema WHERE tbl_name IN ('state', 'usage') AND rootpage > 0";
    let mut statement = db.prepare(sql).unwrap();
    let roots = statement.query_map([], |row| row.get::<_, i64>(0)).unwrap();
    roots.map(|it| usize::try_from(it.unwrap()).unwrap()).chain([1]).collect()
}

#[test]
fn no_flipped_byte_of_the_database_changes_what_is_stored_unnoticed() {
    let original = vault();
    let bytes = std::fs::read(original.path().join("data/vault.db")).unwrap();
    let whole = content(&original.path().join("data/vault.db")).unwrap();
    let wanted = std::env::var("PHIVAULT_TEST_FLIPS").unwrap_or_else(|_| "300".into());
    let count = if wanted == "all" { bytes.len() } else { wanted.parse::<usize>().unwrap().min(bytes.len()) };
    // Spread evenly, and more densely in the first page, which holds the header and the schema, and in those of the small tables.
    let spread = (0..count).map(|n| n * bytes.len() / count);
    let dense = pages(&original.path().join("data/vault.db")).into_iter().flat_map(|page| {
        let begin = (page - 1) * PAGE;
        (begin..begin + PAGE).step_by(PAGE / (count / 8).clamp(1, PAGE))
    });
    let places: Vec<usize> = spread.chain(dense).collect();
    let (next, missed, found) = (Mutex::new(places.iter()), Mutex::new(Vec::new()), Mutex::new(0));
    let work = || {
        let mine = copy(original.path());
        let database = mine.path().join("data/vault.db");
        let keys = KeyPaths::in_folder(&mine.path().join("keys"));
        loop {
            let Some(at) = next.lock().unwrap().next().copied() else { break };
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            std::fs::write(&database, &flipped).unwrap();
            for rest in ["data/vault.db-wal", "data/vault.db-shm", "data/vault.db-journal"] {
                drop(std::fs::remove_file(mine.path().join(rest)));
            }
            let asked = VerifyAsked {
                data: mine.path().join("data"),
                verifier_key: keys.verifier_key(),
                lock: keys.lock.clone(),
                since: None,
                policy: None,
                keyring: None,
                progress: &mut |_, _| {},
            };
            match verify(asked) {
                // What verify calls intact must hold what it held.
                Ok(report) if report.verdict == Verdict::Intact => {
                    if content(&database) != Some(whole) {
                        missed.lock().unwrap().push(at);
                    }
                }
                Ok(_) | Err(_) => *found.lock().unwrap() += 1,
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let (missed, found) = (missed.into_inner().unwrap(), found.into_inner().unwrap());
    println!("{} bytes flipped one at a time: {found} noticed, {} missed", places.len(), missed.len());
    assert!(missed.is_empty(), "{} flips were missed, at {:?}", missed.len(), &missed[..missed.len().min(20)]);
    assert!(found * 2 > places.len(), "only {found} of {} were noticed", places.len());
}
