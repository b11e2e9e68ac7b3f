//! Files that are missing, damaged, foreign or of another time: `serve` refuses in one sentence and changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use phivault::domain::meta::Meta;
use rusqlite::{Connection, params};
use serde_json::json;
use tempfile::TempDir;
use uuid::Uuid;

use crate::app::{App, entry, init, program, text, unlock_file, verify};
use crate::check::{check_vault, entries};
use crate::tamper::edits::{Raw, copy, database, settle, submitted};

use refusal::{damage, edited, expect_refusals, refused_unchanged, serve};

pub mod refusal;

/// A stopped vault, and a copy from before its second entry and its key rotation.
struct Aged {
    app: App,
    past: TempDir,
}

impl Aged {
    async fn make() -> Self {
        let mut app = App::spawn().await;
        app.submitter().submit(&entry()).await;
        app.stop();
        settle(app.dir());
        let past = copy(app.dir());
        app.start();
        app.submitter().submit(&entry()).await;
        let rotated = app.admin().post("/v1/keys/rotate", &json!({"reason": {"code": "HSYSADMIN"}})).await;
        assert_eq!(rotated.status, 200, "{rotated:?}");
        let mut other = entry();
        other["patient"]["id"] = json!("MRN-9");
        app.submitter().submit(&other).await;
        app.submitter().submit(&entry()).await;
        app.stop();
        settle(app.dir());
        Self { app, past }
    }

    fn dir(&self) -> &Path {
        self.app.dir()
    }

    /// A file of the past.
    fn old(&self, name: &str) -> Vec<u8> {
        fs::read(self.past.path().join(name)).unwrap()
    }

    fn finish(mut self) {
        self.app.start();
        self.app.finish();
    }
}

/// Another vault under the same key file, and one of its files.
fn foreign(name: &str) -> Vec<u8> {
    let other = tempfile::tempdir().unwrap();
    init(other.path(), false);
    settle(other.path());
    fs::read(other.path().join(name)).unwrap()
}

/// Writes a file in place of another, readable by its owner only.
fn put(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    fs::write(dir.join(name), bytes).unwrap();
    fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o600)).unwrap();
}

fn change(dir: &Path, name: &str, how: impl Fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(dir.join(name)).unwrap();
    how(&mut bytes);
    put(dir, name, bytes);
}

fn gone(name: &'static str) -> impl Fn(&Path) {
    move |dir| fs::remove_file(dir.join(name)).unwrap()
}

fn open_to_all(name: &'static str) -> impl Fn(&Path) {
    move |dir| fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o644)).unwrap()
}

const DB: &str = "data/vault.db";
const PAGE: usize = 8_192;
const KEYRING: &str = "keys/keyring";
const LOCK: &str = "keys/checkpoint.lock";
const SIGNING: &str = "keys/signing.key";

#[tokio::test]
async fn a_database_that_is_missing_damaged_or_foreign_is_refused_and_left_alone() {
    let aged = Aged::make().await;
    let other = foreign(DB);
    let sql = |text: &'static str| move |dir: &Path| database(dir).execute_batch(text).unwrap();
    let edited_trigger = "PRAGMA writable_schema = ON; \
 UPDATE sqlite_schema SET sql = replace(sql, 'never deleted', 'deleted') WHERE name = 'entry_stays'";
    let damages = [
        damage("missing", &["data", "phivault init|backup"], gone(DB)),
        damage("empty", &[DB, "not a phivault database", "data_dir"], |dir| put(dir, DB, "")),
        damage("cut in half", &[DB, "backup"], |dir| change(dir, DB, |it| it.truncate(it.len() / 2))),
        damage("not SQLite", &[DB, "not a readable SQLite database", "backup"], |dir| {
            put(dir, DB, "once upon a time ".repeat(999))
        }),
        damage("a foreign SQLite file", &[DB, "not a phivault database", "data_dir"], |dir| {
            put(dir, DB, "");
            database(dir).execute_batch("CREATE TABLE a (b); INSERT INTO a VALUES (1)").unwrap();
        }),
        damage("of another vault", &["another vault's", "backup"], move |dir| put(dir, DB, &other)),
        damage("of a newer program", &[DB, "schema version 99", "newer"], sql("PRAGMA user_version = 99")),
        damage("a trigger dropped", &[DB, "altered", "phivault verify", "backup"], sql("DROP TRIGGER entry_stays")),
        damage("a trigger edited", &[DB, "altered", "phivault verify", "backup"], sql(edited_trigger)),
        damage("a table added", &[DB, "altered", "phivault verify", "backup"], sql("CREATE TABLE more (a)")),
    ];
    expect_refusals(aged.dir(), &damages);
    aged.finish();
}

#[tokio::test]
async fn a_zeroed_page_is_refused_wherever_the_start_reads_and_told_by_verify_everywhere() {
    let aged = Aged::make().await;
    let unread: Vec<i64> = {
        let db = database(aged.dir());
        let sql =
            "SELECT rootpage FROM sqlite_schema WHERE tbl_name IN ('tile', 'posting', 'segment') AND rootpage > 0";
        let mut pages = db.prepare(sql).unwrap();
        pages.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    settle(aged.dir());
    let bytes = fs::read(aged.dir().join(DB)).unwrap();
    let mut wrong = Vec::new();
    for page in 1..=bytes.len() / PAGE {
        let vault = copy(aged.dir());
        change(vault.path(), DB, |it| it[(page - 1) * PAGE..page * PAGE].fill(0));
        let told = verify(vault.path()).0;
        if told == 0 {
            wrong.push(format!("page {page}: verify calls it intact"));
        }
        // The start has no use for the index of segments that are not full yet.
        if !unread.contains(&i64::try_from(page).unwrap())
            && let Err(what) = refused_unchanged(vault.path(), &[], &["database", "backup|phivault verify"])
        {
            wrong.push(format!("page {page}: {what}"));
        }
    }
    assert!(bytes.len() / PAGE > 10, "the database has too few pages to tell anything");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    aged.finish();
}

#[tokio::test]
async fn rows_that_were_deleted_edited_or_added_are_refused_and_left_alone() {
    let aged = Aged::make().await;
    let size = entries(aged.dir()).len();
    let victim = submitted(aged.dir(), 0);
    let old = aged.old(DB);
    let entry_words = format!("Entry {victim}");
    let altered = [entry_words.as_str(), "altered", "phivault verify"];
    let added = format!("Entry {size}");
    let added = [added.as_str(), "not written by this vault", "phivault verify"];
    let set = move |column: &'static str| {
        move |db: &Connection| {
            let sql = format!("UPDATE entry SET {column} = {column} + 1 WHERE sequence = {victim}");
            db.execute_batch(&sql).unwrap();
        }
    };
    let append = move |fresh_id: bool| {
        move |db: &Connection| {
            let mut row = Raw::read(db, victim);
            if fresh_id {
                let mut meta = Meta::decode(&row.meta).unwrap();
                meta.id = Uuid::now_v7();
                row.meta = meta.encode();
            }
            row.append_as_next_of_its_patient(db);
        }
    };
    let damages = [
        damage("rolled back", &["database|vault.db", "rolled back", "backup"], move |dir| put(dir, DB, &old)),
        edited("last rows deleted", &["database|vault.db", "cut", "backup"], move |db| {
            db.execute_batch(&format!("DELETE FROM entry WHERE sequence >= {}", size - 2)).unwrap();
        }),
        edited("all rows deleted", &["database|vault.db", "cut", "backup"], |db| {
            db.execute_batch("DELETE FROM entry").unwrap();
        }),
        edited("a row deleted", &[&format!("entry {victim} is not there"), "phivault verify|backup"], move |db| {
            db.execute_batch(&format!("DELETE FROM entry WHERE sequence = {victim}")).unwrap();
        }),
        edited("meta edited", &altered, move |db| Raw::read(db, victim).with_other_actor().update(db)),
        edited("meta destroyed", &[&format!("entry {victim}"), "phivault verify|backup"], move |db| {
            let mut row = Raw::read(db, victim);
            row.meta[0] ^= 0x80;
            row.update(db);
        }),
        edited("received_at edited", &altered, set("received_at")),
        edited("patient_number edited", &altered, set("patient_number")),
        edited("patient_number edited, leaf computed again", &["differs from what was signed", "phivault verify"], {
            move |db| {
                set("patient_number")(db);
                Raw::read(db, victim).with_leaf().update(db);
            }
        }),
        edited("a copy appended", &added, append(false)),
        edited("a copy with another id appended", &added, append(true)),
    ];
    expect_refusals(aged.dir(), &damages);
    aged.finish();
}

#[tokio::test]
async fn a_keyring_or_key_file_that_is_not_the_right_one_is_refused_and_left_alone() {
    let aged = Aged::make().await;
    let (old, other) = (aged.old(KEYRING), foreign(KEYRING));
    let wrong_key = ["keyring", "key file is not the one", "right one"];
    let damages = [
        damage("missing", &[KEYRING, "backup"], gone(KEYRING)),
        damage("empty", &[KEYRING, "backup"], |dir| put(dir, KEYRING, "")),
        damage("cut", &[KEYRING, "backup"], |dir| change(dir, KEYRING, |it| it.truncate(it.len() / 2))),
        damage("a byte of the header flipped", &[KEYRING, "backup"], |dir| {
            change(dir, KEYRING, |it| {
                let at = it.windows(13).position(|part| part == b"\"generation\":").unwrap() + 13;
                it[at] ^= 1;
            });
        }),
        damage("a byte of the body flipped", &[KEYRING, "backup"], |dir| {
            change(dir, KEYRING, |it| {
                let at = it.len() - 40;
                it[at] = if it[at] == b'A' { b'B' } else { b'A' };
            });
        }),
        damage("of another vault", &[KEYRING, "another vault", "backup"], move |dir| put(dir, KEYRING, &other)),
        damage("of an older generation", &[KEYRING, "older", "generation 3", "backup"], move |dir| {
            put(dir, KEYRING, &old)
        }),
        damage("open to others", &[KEYRING, "chmod 600"], open_to_all(KEYRING)),
        damage("another key file", &wrong_key, |dir| put(dir, "unlock.key", "6b".repeat(32))),
        damage("key file open to others", &["unlock.key", "chmod 600"], open_to_all("unlock.key")),
        damage("key file damaged", &["unlock.key", "64 hex", "openssl"], |dir| put(dir, "unlock.key", "5a5a")),
        damage("key file missing", &["unlock.key", "backup|key_file"], gone("unlock.key")),
    ];
    expect_refusals(aged.dir(), &damages);
    aged.finish();
}

#[tokio::test]
async fn a_signing_key_or_lock_that_is_not_the_right_one_is_refused_and_left_alone() {
    let aged = Aged::make().await;
    let (other_key, other_lock, old) = (foreign(SIGNING), foreign(LOCK), aged.old(DB));
    let damages = [
        damage("signing key missing", &[SIGNING, "backup"], gone(SIGNING)),
        damage("signing key damaged", &[SIGNING, "damaged", "backup"], |dir| {
            change(dir, SIGNING, |it| it.truncate(it.len() - 9))
        }),
        damage("signing key of another vault", &["signing key", "of one vault", "backup"], move |dir| {
            put(dir, SIGNING, &other_key)
        }),
        damage("signing key open to others", &[SIGNING, "chmod 600"], open_to_all(SIGNING)),
        damage("lock missing", &[LOCK, "missing", "newest signed checkpoint"], gone(LOCK)),
        damage("lock empty", &["lock", "put the right ones back"], |dir| put(dir, LOCK, "")),
        damage("lock cut", &["lock", "put the right ones back"], |dir| {
            change(dir, LOCK, |it| it.truncate(it.len() / 2))
        }),
        damage("lock forged", &["lock", "signature", "put the right ones back"], |dir| {
            // The size on the second line, one digit shorter: the database would reach it.
            change(dir, LOCK, |it| {
                let line = it.iter().position(|byte| *byte == b'\n').unwrap();
                it.remove(line + 1);
            });
        }),
        damage("lock of another vault", &["lock", "put the right ones back"], move |dir| put(dir, LOCK, &other_lock)),
        damage("lock newer than the database", &["database|vault.db", "rolled back", "backup"], move |dir| {
            put(dir, DB, &old)
        }),
        damage("lock open to others", &[LOCK, "chmod 600"], open_to_all(LOCK)),
    ];
    expect_refusals(aged.dir(), &damages);
    aged.finish();
}

#[tokio::test]
async fn a_lock_that_is_only_behind_its_database_starts_and_catches_up() {
    let mut aged = Aged::make().await;
    let (newest, old) = (fs::read(aged.dir().join(LOCK)).unwrap(), aged.old(LOCK));
    put(aged.dir(), LOCK, &old);
    let (code, report) = verify(aged.dir());
    assert_eq!(code, 0, "{report:#}");
    assert!(report["checkpoint_size"].as_u64() < report["entries"].as_u64(), "{report:#}");
    aged.app.start();
    aged.app.stop();
    let now = fs::read(aged.dir().join(LOCK)).unwrap();
    assert!(now != old && now != newest, "a checkpoint over everything stands in the lock");
    aged.app.start();
    aged.app.finish();
}

#[tokio::test]
async fn settings_and_reasons_that_cannot_be_used_are_refused_and_change_nothing() {
    let aged = Aged::make().await;
    let toml = "phivault.toml";
    let more = |text: &'static str| move |dir: &Path| change(dir, toml, |it| it.extend_from_slice(text.as_bytes()));
    let reasons = |text: &'static str| {
        move |dir: &Path| {
            change(dir, toml, |it| it.extend_from_slice(b"reasons = \"reasons.toml\"\n"));
            put(dir, "reasons.toml", text);
        }
    };
    let damages = [
        damage("missing", &[toml, "phivault init"], gone(toml)),
        damage("not TOML", &[toml, "not TOML"], |dir| put(dir, toml, "data = [")),
        damage("an unknown setting", &[toml, "colour", "config/default.toml"], more("[server]\ncolour = 1\n")),
        damage("a wrong type", &[toml, "connections", "config/default.toml"], more("[server]\nconnections = \"x\"\n")),
        damage("a number out of bounds", &["limits.queue_kib", "1024"], more("[limits]\nqueue_kib = 1\n")),
        damage("another patient_ids", &[toml, "patient_ids", "blind"], |dir| {
            change(dir, toml, |it| {
                *it = String::from_utf8_lossy(it).replace("patient_ids = \"", "patient_ids = \"not-").into_bytes()
            });
        }),
        damage("two ways to unlock", &["passphrase_file", "key_file", "not several"], |dir| {
            let more = "[keys]\npassphrase_file = \"a\"\n";
            change(dir, toml, |it| *it = String::from_utf8_lossy(it).replace("[keys]\n", more).into_bytes());
        }),
        damage("another data folder", &["elsewhere", "phivault init"], |dir| {
            change(dir, toml, |it| *it = String::from_utf8_lossy(it).replace("\"data\"", "\"elsewhere\"").into_bytes());
        }),
        damage("reasons missing", &["reasons.toml", "entries.reasons"], |dir| {
            change(dir, toml, |it| it.extend_from_slice(b"reasons = \"reasons.toml\"\n"));
        }),
        damage("reasons not TOML", &["reason vocabulary", "entries.reasons"], reasons("= what")),
        damage("reasons empty", &["reason vocabulary", "entries.reasons"], reasons("")),
    ];
    expect_refusals(aged.dir(), &damages);
    let listens = [("0.0.0.0:0", "behind_tls_proxy"), ("here", "127.0.0.1:8321")];
    for (listen, word) in listens {
        refused_unchanged(aged.dir(), &[("PHIVAULT_SERVER__LISTEN", listen)], &["server.listen", word]).unwrap();
    }
    aged.finish();
}

#[tokio::test]
async fn a_refusal_leaves_the_rows_alone_when_the_server_left_its_write_ahead_log() {
    let mut app = App::spawn().await;
    app.submitter().submit(&entry()).await;
    app.kill();
    let dump = |dir: &Path| {
        let vault = copy(dir);
        let rows = entries(vault.path());
        rows.iter().map(|it| (it.leaf, it.sealed.clone())).collect::<Vec<_>>()
    };
    let before = dump(app.dir());
    fs::write(unlock_file(app.dir()), "6b".repeat(32)).unwrap();
    let refusal = serve(app.dir(), &[]).err().expect("another key file is refused");
    assert_eq!(refusal.code, Some(2), "{refusal:?}");
    assert!(dump(app.dir()) == before, "the refused start changed rows");
    fs::write(unlock_file(app.dir()), "5a".repeat(32)).unwrap();
    app.start();
    app.finish();
}

#[test]
fn a_wrong_passphrase_is_refused_and_the_right_one_opens() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("vault");
    let passphrase = folder.path().join("passphrase");
    let write = |text: &str| put(folder.path(), "passphrase", text);
    write("seven grey whales sing at dawn\n");
    let mut command = program();
    command.arg("init").arg("--dir").arg(&dir).arg("--passphrase-file").arg(&passphrase);
    let made = command.args(["--argon2-mib", "8"]).output().unwrap();
    assert!(made.status.success(), "{}", text(&made));
    settle(&dir);
    write("seven grey whales sing at dusk\n");
    refused_unchanged(&dir, &[], &["keyring", "passphrase", "not the one", "right one"]).unwrap();
    write("\n");
    refused_unchanged(&dir, &[], &["passphrase is empty"]).unwrap();
    write("seven grey whales sing at dawn");
    open_to_all("passphrase")(folder.path());
    refused_unchanged(&dir, &[], &["passphrase", "chmod 600"]).unwrap();
    write("seven grey whales sing at dawn");
    serve(&dir, &[]).expect("the right passphrase opens").stop();
    let (code, report) = verify(&dir);
    assert_eq!(code, 0, "{report:#}");
}

#[tokio::test]
async fn a_next_keyring_that_was_written_but_never_recorded_is_removed_at_the_start() {
    let aged = Aged::make().await;
    let old = aged.old(KEYRING);
    for left in [b"made up".as_slice(), &old] {
        let vault = copy(aged.dir());
        let keyring = fs::read(vault.path().join(KEYRING)).unwrap();
        put(vault.path(), "keys/keyring.next", left);
        put(vault.path(), "keys/checkpoint.tmp", "half a note");
        serve(vault.path(), &[]).expect("a left-over does not keep it from starting").stop();
        assert!(!vault.path().join("keys/keyring.next").exists(), "the left-over is removed");
        assert!(fs::read(vault.path().join(KEYRING)).unwrap() == keyring, "the keyring is the same");
        check_vault(vault.path());
    }
    aged.finish();
}

#[tokio::test]
async fn a_next_keyring_that_was_recorded_is_put_in_place_at_the_start_and_reveals() {
    let mut aged = Aged::make().await;
    let old = aged.old(KEYRING);
    fs::rename(aged.dir().join(KEYRING), aged.dir().join("keys/keyring.next")).unwrap();
    put(aged.dir(), KEYRING, old);
    aged.app.start();
    assert!(!aged.dir().join("keys/keyring.next").exists(), "the rename is finished");
    let page = aged.app.officer().get("/v1/entries?patient=MRN-12345").await.json();
    let ids: Vec<_> = page["entries"].as_array().unwrap().iter().map(|it| it["id"].clone()).collect();
    let versions: Vec<_> = page["entries"].as_array().unwrap().iter().map(|it| it["key_version"].clone()).collect();
    assert_eq!(versions, [2, 1, 1], "entries of before and after the rotation");
    let asked = json!({"ids": ids, "reason": {"code": "HCOMPL"}});
    let shown = aged.app.officer().post("/v1/reveal", &asked).await;
    assert_eq!(shown.status, 200, "{shown:?}");
    assert_eq!(shown.text.matches("Type 2 Diabetes").count(), 3, "{shown:?}");
    aged.app.finish();
}

#[tokio::test]
async fn a_refusal_amid_a_rotation_leaves_both_keyrings_alone() {
    let aged = Aged::make().await;
    let (old, wrong_key) = (aged.old(KEYRING), "6b".repeat(32));
    let words = ["keyring", "key file is not the one"];
    let unrecorded = copy(aged.dir());
    put(unrecorded.path(), "keys/keyring.next", &old);
    let recorded = copy(aged.dir());
    fs::rename(recorded.path().join(KEYRING), recorded.path().join("keys/keyring.next")).unwrap();
    put(recorded.path(), KEYRING, &old);
    let mut wrong = Vec::new();
    for (name, vault) in [("never recorded", &unrecorded), ("recorded", &recorded)] {
        put(vault.path(), "unlock.key", &wrong_key);
        wrong.extend(refused_unchanged(vault.path(), &[], &words).err().map(|what| format!("{name}: {what}")));
        put(vault.path(), "unlock.key", "5a".repeat(32));
        serve(vault.path(), &[]).expect("the right key file opens").stop();
        check_vault(vault.path());
    }
    let damaged = copy(aged.dir());
    fs::remove_file(damaged.path().join(KEYRING)).unwrap();
    put(damaged.path(), KEYRING, &old);
    put(damaged.path(), "keys/keyring.next", "made up");
    wrong.extend(refused_unchanged(damaged.path(), &[], &["keyring", "backup"]).err());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    aged.finish();
}

#[tokio::test]
async fn damage_is_found_and_recorded_while_the_vault_serves() {
    let mut app = App::spawn().await;
    app.stop();
    app.set("PHIVAULT_EVIDENCE__SCRUB_PER_SECOND", "1000000");
    app.start();
    let sent = app.submitter().submit(&entry()).await;
    let n = sent["sequence"].as_i64().unwrap();
    app.submitter().get(&format!("/v1/entries/{}/proof", sent["id"].as_str().unwrap())).await;
    // Ordinary SQLite, beside the running server.
    let before: Vec<u8> = {
        let db = database(app.dir());
        let sealed: Vec<u8> =
            db.query_row("SELECT sealed FROM entry WHERE sequence = ?1", [n], |row| row.get(0)).unwrap();
        let mut flipped = sealed.clone();
        let last = flipped.len() - 1;
        flipped[last] ^= 1;
        db.execute("UPDATE entry SET sealed = ?1 WHERE sequence = ?2", params![flipped, n]).unwrap();
        sealed
    };
    // Passes are a minute apart; a restart begins one at once. Entries under a seal entry are not looked at by a start.
    app.stop();
    app.start();
    let mut ready = serde_json::Value::Null;
    for _ in 0..400 {
        ready = app.auditor().get("/readyz").await.json();
        if ready["status"] == "degraded" && ready["scrubbed_at"].is_string() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    assert_eq!(ready["status"], "degraded", "{ready:#}");
    assert!(ready["problems"][0].as_str().unwrap().contains("run phivault verify"), "{ready:#}");
    let told = app.auditor().get("/v1/entries?action=integrity").await.json();
    assert_eq!(told["entries"][0]["facts"]["damaged"], n.to_string(), "{told:#}");
    assert_eq!(told["entries"].as_array().unwrap().len(), 1, "once");
    app.stop();
    let (code, report) = app.verify();
    assert!(code == 1 && report["findings"].to_string().contains("values_damaged"), "{report:#}");
    let db = database(app.dir());
    db.execute("UPDATE entry SET sealed = ?1 WHERE sequence = ?2", params![before, n]).unwrap();
    drop(db);
    app.start();
    app.stop();
}
