//! Backups, restores that begin a new ledger, and signing keys that change.

use std::path::{Path, PathBuf};
use std::process::Output;

use phivault::keyfile::{KeyPaths, read_verifier_key};
use phivault::ledger::note::{Note, VerifierKey};
use serde_json::{Value, json};

use crate::app::{App, entry, program, text, unlock_file};
use crate::check::check_vault;
use crate::damage::refusal::serve;
use crate::tamper::edits::{copy, settle};

fn run(code: i32, words: &[&str], paths: &[(&str, &Path)]) -> String {
    let mut command = program();
    command.args(words);
    for (name, path) in paths {
        match *name {
            "" => command.arg(path),
            name => command.arg(name).arg(path),
        };
    }
    let output: Output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{words:?}: {}", text(&output));
    text(&output)
}

fn vkey(dir: &Path) -> VerifierKey {
    read_verifier_key(&KeyPaths::in_folder(&dir.join("keys")).verifier_key()).unwrap()
}

/// A place of its own, with what a restore needs beside the backup.
struct Elsewhere {
    folder: tempfile::TempDir,
}

impl Elsewhere {
    fn of(app: &App) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(app.dir().join("keys/keyring"), folder.path().join("keyring")).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn back_up(&self, app: &App, name: &str) -> String {
        run(0, &["backup"], &[("--config", &app.dir().join("phivault.toml")), ("--out", &self.path(name))])
    }

    fn restore(&self, code: i32, app: &App, backup: &str, to: &str, more: &[(&str, &Path)]) -> String {
        let (keyring, key_file) = (self.path("keyring"), unlock_file(app.dir()));
        let (backup, to) = (self.path(backup), self.path(to));
        let mut paths: Vec<(&str, &Path)> =
            vec![("", &backup), ("--dir", &to), ("--keyring", &keyring), ("--key-file", &key_file)];
        paths.extend_from_slice(more);
        run(code, &["restore"], &paths)
    }
}

#[tokio::test]
async fn a_backup_made_while_it_serves_becomes_a_new_ledger_that_says_what_is_missing() {
    let app = App::spawn().await;
    let kept = app.submitter().submit(&entry()).await;
    let id = kept["id"].as_str().unwrap().to_owned();
    let receipt = app.submitter().get(&format!("/v1/entries/{id}/proof?format=text")).await.text;
    let there = Elsewhere::of(&app);
    let asked = json!({"report": "integrity", "reason": {"code": "HCOMPL"}});
    let made = app.officer().post("/v1/reports", &asked).await.json()["id"].as_str().unwrap().to_owned();
    let made = format!("/v1/reports/{made}");
    let kept_report = app.officer().get(&made).await.text;
    let said = there.back_up(&app, "backup");
    assert!(said.contains("verified") && said.contains("keyring apart"), "{said}");
    run(2, &["backup"], &[("--config", &app.dir().join("phivault.toml")), ("--out", &there.path("backup"))]);
    let among = app.dir().join("data/vault.db-journal");
    let said = run(2, &["backup"], &[("--config", &app.dir().join("phivault.toml")), ("--out", &among)]);
    assert!(said.contains("among the files of the database") && !among.exists(), "{said}");
    let lost = app.submitter().submit(&entry()).await;
    app.submitter().get(&format!("/v1/entries/{}/proof", lost["id"].as_str().unwrap())).await;
    let last = app.with_token("none").get("/checkpoint").await.text;
    std::fs::write(there.path("last"), &last).unwrap();

    let blind = std::env::var("PHIVAULT_TEST_BLIND").is_ok_and(|it| it == "1");
    let last_path = there.path("last");
    let mut more: Vec<(&str, &Path)> = vec![("--checkpoint", &last_path)];
    if blind {
        more.push(("", Path::new("--blind")));
    }
    let said = there.restore(0, &app, "backup", "new", &more);
    assert!(said.contains("are MISSING; the ledger says so"), "{said}");
    let new = there.path("new");
    let (old_key, new_key) = (vkey(app.dir()), vkey(&new));
    assert_ne!(old_key.name(), new_key.name(), "the old name is not continued");
    let report: Value = {
        let output = program().args(["verify", "--json", "--dir"]).arg(&new).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let told = report["notes"][0].as_str().unwrap();
    assert!(told.contains("begins over entries of another") && told.contains(old_key.name()), "{told}");
    let old_size: u64 = last.lines().nth(1).unwrap().parse().unwrap();
    let restored: u64 = told.split_whitespace().nth(7).unwrap().parse().unwrap();
    assert!(told.contains(&format!("{} are missing", old_size - restored)), "{told}, {old_size}");

    // What it held is there: tokens work, values open, and it goes on.
    let server = serve(&new, &[]).unwrap();
    let officer = app.with_token(&app.officer().token);
    let at = |path: &str| format!("{}{path}", server.url);
    let http = crate::app::http();
    let shown = http.post(at(&format!("/v1/entries/{id}/reveal"))).bearer_auth(&officer.token);
    let shown: Value = shown.json(&json!({"reason": {"code": "HCOMPL"}})).send().await.unwrap().json().await.unwrap();
    assert_eq!(shown["changes"][0]["new"], "Hypertension, Type 2 Diabetes", "{shown:#}");
    let again = http.get(at(&made)).bearer_auth(&officer.token).send().await.unwrap().text().await.unwrap();
    assert_eq!(again, kept_report, "a report that was kept is made again to the same bytes");
    let asked = json!({"report": "patient", "patient": "MRN-12345", "reason": {"code": "HCOMPL"}});
    let sent = http.post(at("/v1/reports")).bearer_auth(&officer.token).json(&asked);
    let made: Value = sent.send().await.unwrap().json().await.unwrap();
    let beyond = made["beyond"][0].as_str().unwrap();
    let missing = format!("{} entries of that one, or more, are not here", old_size - restored);
    assert!(beyond.contains(old_key.name()) && beyond.contains(&missing), "a new one says what is not here: {made:#}");
    let path = at(&format!("/v1/reports/{}?format=html", made["id"].as_str().unwrap()));
    let page = http.get(path).bearer_auth(&officer.token).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("NOT COVERED") && page.contains(&missing), "{page}");
    let gone = http.get(at(&format!("/v1/entries/{}", lost["id"].as_str().unwrap()))).bearer_auth(&officer.token);
    assert_eq!(gone.send().await.unwrap().status().as_u16(), 404);
    let sent = http.post(at("/v1/entries")).bearer_auth(&app.submitter().token).json(&entry());
    assert_eq!(sent.send().await.unwrap().status().as_u16(), 201);
    server.stop();
    // A receipt of the old ledger still holds under the old key, and the old checkpoint is no checkpoint of the new one.
    std::fs::write(there.path("receipt"), &receipt).unwrap();
    let leaf = kept["leaf_hash"].as_str().unwrap();
    run(0, &["verify-receipt", "--leaf", leaf, "--vkey", &old_key.to_string()], &[("", &there.path("receipt"))]);
    run(1, &["verify-receipt", "--leaf", leaf, "--vkey", &new_key.to_string()], &[("", &there.path("receipt"))]);
    let (receipt, kept_keys) = (there.path("receipt"), new.join("keys/signing.vkey.old"));
    run(0, &["verify-receipt", "--leaf", leaf], &[("", &receipt), ("--vkey", &kept_keys)]);
    let said = run(1, &["verify"], &[("--dir", &new), ("--since", &there.path("last"))]);
    assert!(said.contains("not_restored") && said.contains(old_key.name()), "{said}");
    // A receipt of one entry does not hold for another.
    let other = json!({"leaf_hash": leaf, "sequence": kept["sequence"].as_u64().unwrap() + 1});
    std::fs::write(there.path("other"), other.to_string()).unwrap();
    let files = [("", there.path("receipt")), ("--entry", there.path("other"))];
    let said = run(
        1,
        &["verify-receipt", "--vkey", &old_key.to_string()],
        &[(files[0].0, &files[0].1), (files[1].0, &files[1].1)],
    );
    assert!(said.contains("of another"), "{said}");
    std::fs::copy(unlock_file(app.dir()), unlock_file(&new)).unwrap();
    check_vault(&new);
    app.finish();
}

#[tokio::test]
async fn a_backup_that_is_not_whole_and_a_restore_that_would_overwrite_are_refused() {
    let app = App::spawn().await;
    app.submitter().submit(&entry()).await;
    let there = Elsewhere::of(&app);
    there.back_up(&app, "backup");
    let whole = std::fs::read(there.path("backup")).unwrap();
    let with = |name: &str, bytes: &[u8]| std::fs::write(there.path(name), bytes).unwrap();
    with("cut", &whole[..whole.len() / 2]);
    with("empty", b"");
    with("rubbish", &b"once upon a time ".repeat(99));
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    with("flipped", &flipped);
    for (backup, words) in [
        ("gone", "cannot be read"),
        ("cut", "no whole backup"),
        ("empty", "holds no manifest"),
        ("rubbish", "no whole backup"),
        ("flipped", "damaged"),
    ] {
        let said = there.restore(2, &app, backup, &format!("from-{backup}"), &[]);
        assert!(said.contains(words), "{backup}: {said}");
        let database = there.path(&format!("from-{backup}")).join("data/vault.db");
        assert!(!database.exists(), "{backup} leaves no database");
    }
    let other = crate::app::App::spawn().await;
    with("foreign", other.with_token("none").get("/checkpoint").await.text.as_bytes());
    let foreign = there.path("foreign");
    let said = there.restore(2, &app, "backup", "a", &[("--checkpoint", &foreign)]);
    assert!(said.contains("not one of the ledger"), "{said}");
    std::fs::copy(other.dir().join("keys/keyring"), there.path("keyring")).unwrap();
    std::fs::write(unlock_file(app.dir()), "6b".repeat(32)).unwrap();
    let said = there.restore(2, &app, "backup", "b", &[]);
    assert!(said.contains("does not open"), "{said}");
    std::fs::write(unlock_file(app.dir()), "5a".repeat(32)).unwrap();
    let blind = std::env::var("PHIVAULT_TEST_BLIND").is_ok_and(|it| it == "1");
    let more: &[(&str, &Path)] = if blind { &[("", Path::new("--blind"))] } else { &[] };
    let said = there.restore(2, &app, "backup", "b", more);
    assert!(said.contains("it is another vault's") && !there.path("b").exists(), "{said}");
    std::fs::copy(app.dir().join("keys/keyring"), there.path("keyring")).unwrap();
    let said = there.restore(0, &app, "backup", "c", more);
    assert!(said.contains("whether entries are missing is not known"), "{said}");
    let said = there.restore(2, &app, "backup", "c", more);
    assert!(said.contains("already"), "{said}");
    other.finish();
    app.finish();
}

#[tokio::test]
async fn a_backup_from_before_a_change_of_the_signing_key_is_held_against_a_checkpoint_from_after() {
    let app = App::spawn().await;
    app.submitter().submit(&entry()).await;
    let there = Elsewhere::of(&app);
    there.back_up(&app, "backup");
    assert_eq!(
        app.admin().post("/v1/keys/rotate-signing", &json!({"reason": {"code": "HSYSADMIN"}})).await.status,
        200
    );
    let last = app.submitter().submit(&entry()).await;
    app.submitter().get(&format!("/v1/entries/{}/proof", last["id"].as_str().unwrap())).await;
    std::fs::write(there.path("last"), app.with_token("none").get("/checkpoint").await.text).unwrap();
    let (last, newer) = (there.path("last"), app.dir().join("keys/signing.vkey"));
    let blind = std::env::var("PHIVAULT_TEST_BLIND").is_ok_and(|it| it == "1");
    let mut more: Vec<(&str, &Path)> = if blind { vec![("", Path::new("--blind"))] } else { Vec::new() };
    more.push(("--checkpoint", &last));
    let said = there.restore(2, &app, "backup", "a", &more);
    assert!(said.contains("give the newer public key too (--vkey)"), "{said}");
    more.push(("--vkey", &newer));
    let said = there.restore(0, &app, "backup", "a", &more);
    assert!(said.contains("are MISSING; the ledger says so"), "{said}");
    app.finish();
}

/// The manifest of a report as JSON.
async fn manifest(app: &App, report: &Value) -> String {
    let path = format!("/v1/reports/{}/manifest?format=json", report["id"].as_str().unwrap());
    app.officer().get(&path).await.json()["text"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_signing_key_changes_while_it_serves_and_old_evidence_stays_good() {
    let mut app = App::spawn().await;
    let before = app.submitter().submit(&entry()).await;
    let id = before["id"].as_str().unwrap().to_owned();
    let receipt = app.submitter().get(&format!("/v1/entries/{id}/proof?format=text")).await.text;
    let old_checkpoint = app.with_token("none").get("/checkpoint").await.text;
    let old = vkey(app.dir());
    let asked = json!({"report": "access", "actor": "dr_smith", "reason": {"code": "HCOMPL"}});
    let report = crate::reports::make(&app, &asked).await;
    let early = manifest(&app, &report).await;
    assert_eq!(app.admin().post("/v1/keys/rotate-signing", &json!({})).await.status, 422, "it needs a reason");
    let answer = app.admin().post("/v1/keys/rotate-signing", &json!({"reason": {"code": "HSYSADMIN"}})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let new = vkey(app.dir());
    assert_eq!(
        (answer.json()["verifier_key"].clone(), answer.json()["previous"].clone()),
        (json!(new.to_string()), json!(old.to_string()))
    );
    assert_eq!((new.name(), new != old), (old.name(), true));
    // The checkpoint that covers the change carries both signatures.
    let lock = std::fs::read_to_string(app.dir().join("keys/checkpoint.lock")).unwrap();
    let overlap = Note::parse(&lock).unwrap();
    assert_eq!(overlap.verify(&[old.clone(), new.clone()]).unwrap().len(), 2, "{lock}");
    let after = app.submitter().submit(&entry()).await;
    let path = format!("/v1/entries/{}/proof?format=text", after["id"].as_str().unwrap());
    let newer = app.submitter().get(&path).await.text;
    assert!(
        Note::parse(&app.with_token("none").get("/checkpoint").await.text)
            .unwrap()
            .verify(std::slice::from_ref(&new))
            .is_ok()
    );
    let (page, late) = (crate::reports::fetch(&app, &report, "json").await.text, manifest(&app, &report).await);
    app.stop();
    settle(app.dir());
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let (receipt, newer, since) = (file("old", &receipt), file("new", &newer), file("since", &old_checkpoint));
    let leaf = |it: &Value| it["leaf_hash"].as_str().unwrap().to_owned();
    for (key, receipt, leaf, code) in [
        (&old, &receipt, leaf(&before), 0),
        (&new, &newer, leaf(&after), 0),
        (&new, &receipt, leaf(&before), 1),
        (&old, &newer, leaf(&after), 1),
    ] {
        run(code, &["verify-receipt", "--leaf", &leaf, "--vkey", &key.to_string()], &[("", receipt)]);
    }
    // A report of before the change, with the manifest that it had then, and fetched again with one of now.
    let (page, early, late) = (file("page", &page), file("early", &early), file("late", &late));
    let (now, before) = (app.dir().join("keys/signing.vkey"), app.dir().join("keys/signing.vkey.old"));
    let dir = ("--dir", app.dir());
    for (manifest, keys, code) in [
        (&early, &[&before][..], 0),
        (&early, &[&now], 1),
        (&late, &[&now], 1),
        (&early, &[&before, &now], 0),
        (&late, &[&before, &now], 0),
    ] {
        let mut files = vec![("", &*page), ("--manifest", manifest), dir];
        files.extend(keys.iter().map(|it| ("--vkey", it.as_path())));
        let said = run(code, &["verify-report"], &files);
        assert_eq!(code == 1, said.contains("give the public key of that day"), "{said}");
        assert!(!said.contains("not the one that the checkpoint was signed of"), "{said}");
    }
    run(0, &["verify"], &[("--dir", app.dir()), ("--since", &since)]);
    // Whoever puts the old signing key back is told so at the start.
    let vault = copy(app.dir());
    std::fs::copy(vault.path().join("keys/signing.key"), folder.path().join("key")).unwrap();
    app.start();
    assert_eq!(
        app.admin().post("/v1/keys/rotate-signing", &json!({"reason": {"code": "HSYSADMIN"}})).await.status,
        200
    );
    app.submitter().submit(&entry()).await;
    app.stop();
    app.start();
    app.stop();
    let right = std::fs::read(app.dir().join("keys/signing.key")).unwrap();
    std::fs::copy(folder.path().join("key"), app.dir().join("keys/signing.key")).unwrap();
    let refused = app.try_start().unwrap_err();
    assert!(refused.contains("signing key") && refused.contains("right ones back"), "{refused}");
    std::fs::write(app.dir().join("keys/signing.key"), right).unwrap();
    app.start();
    app.finish();
}

#[tokio::test]
async fn a_change_of_the_signing_key_that_was_cut_short_is_finished_or_undone() {
    let mut app = App::spawn().await;
    app.stop();
    settle(app.dir());
    // Written but never announced: gone after the next start.
    let (key, next) = (app.dir().join("keys/signing.key"), app.dir().join("keys/signing.next"));
    std::fs::copy(&key, &next).unwrap();
    let other = phivault::ledger::note::NoteSigner::from_seed(vkey(app.dir()).name(), &[9; 32]).unwrap();
    std::fs::write(&next, format!("{}\n", other.to_private_text())).unwrap();
    let old = std::fs::read(&key).unwrap();
    app.start();
    assert!(!next.exists());
    // Announced but not in its place: put there.
    let before = vkey(app.dir());
    assert_eq!(
        app.admin().post("/v1/keys/rotate-signing", &json!({"reason": {"code": "HSYSADMIN"}})).await.status,
        200
    );
    app.stop();
    std::fs::rename(&key, &next).unwrap();
    std::fs::write(&key, old).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let after = vkey(app.dir());
    std::fs::write(app.dir().join("keys/signing.vkey"), format!("{before}\n")).unwrap();
    app.start();
    assert!(!next.exists() && vkey(app.dir()) == after, "the announced key is in its place");
    app.submitter().submit(&entry()).await;
    app.finish();
}

#[tokio::test]
async fn a_backup_from_before_a_key_was_destroyed_is_restored_without_what_was_under_it_and_says_so() {
    let two = crate::keys::Two::spawn().await;
    let lost = two.app.submitter().submit(&entry()).await;
    // Covered by a checkpoint: what is not must open after a restore, for anybody could have added it.
    two.app.submitter().get(&format!("/v1/entries/{}/proof", lost["id"].as_str().unwrap())).await;
    let there = Elsewhere::of(&two.app);
    there.back_up(&two.app, "backup");
    two.rotate().await;
    crate::keys::reencrypt(&two.app).await;
    two.both(&json!({"operation": "key_destroy", "version": 1})).await;
    std::fs::copy(two.app.dir().join("keys/keyring"), there.path("keyring")).unwrap();
    let blind = std::env::var("PHIVAULT_TEST_BLIND").is_ok_and(|it| it == "1");
    let more: &[(&str, &Path)] = if blind { &[("", Path::new("--blind"))] } else { &[] };
    let said = there.restore(0, &two.app, "backup", "new", more);
    assert!(said.contains("destroyed after the backup: they are GONE"), "{said}");
    let new = there.path("new");
    let output = program().args(["verify", "--json", "--dir"]).arg(&new).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let server = serve(&new, &[]).unwrap();
    let at = format!("{}/v1/entries/{}/reveal", server.url, lost["id"].as_str().unwrap());
    let shown = crate::app::http().post(at).bearer_auth(&two.app.officer().token);
    assert_eq!(shown.json(&json!({"reason": {"code": "HCOMPL"}})).send().await.unwrap().status().as_u16(), 410);
    server.stop();
    two.app.finish();
}

#[tokio::test]
async fn a_backup_of_a_busy_vault_is_restored_although_its_newest_entries_lie_under_a_destroyed_key() {
    let two = crate::keys::Two::spawn().await;
    let there = Elsewhere::of(&two.app);
    // The lock of a moment before: as if the server had not come to sign.
    let lock = there.path("late.lock");
    two.app.submitter().submit(&entry()).await;
    std::fs::copy(two.app.dir().join("keys/checkpoint.lock"), &lock).unwrap();
    let lines: Vec<_> = (0..50).map(|_| entry()).collect();
    assert_eq!(two.app.submitter().post("/v1/entries/batch", &json!(lines)).await.status, 200);
    let mut command = program();
    command.arg("backup").arg("--config").arg(two.app.dir().join("phivault.toml")).arg("--out").arg(there.path("busy"));
    let output = command.env("PHIVAULT_KEYS__LOCK", &lock).output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    let number = |after: &str| -> u64 {
        let rest = said.split(after).nth(1).unwrap().trim_start();
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    };
    let bare = said.split(' ').next().unwrap().parse::<u64>().unwrap() - number("its checkpoint covers");
    assert!(bare >= 50, "{said}");
    two.rotate().await;
    crate::keys::reencrypt(&two.app).await;
    two.both(&json!({"operation": "key_destroy", "version": 1})).await;
    std::fs::copy(two.app.dir().join("keys/keyring"), there.path("keyring")).unwrap();
    let blind = std::env::var("PHIVAULT_TEST_BLIND").is_ok_and(|it| it == "1");
    let more: &[(&str, &Path)] = if blind { &[("", Path::new("--blind"))] } else { &[] };
    let said = there.restore(0, &two.app, "busy", "new", more);
    assert!(said.contains("they are GONE") && said.contains(&format!("The newest {bare} entries")), "{said}");
    let server = serve(&there.path("new"), &[]).unwrap();
    let at = format!("{}/v1/entries?action=vault_restore", server.url);
    let found = crate::app::http().get(at).bearer_auth(&two.app.officer().token).send().await.unwrap();
    let found: serde_json::Value = serde_json::from_str(&found.text().await.unwrap()).unwrap();
    assert_eq!(found["entries"][0]["facts"]["unproven_entries"], bare.to_string());
    server.stop();
    two.app.finish();
}

#[tokio::test]
async fn a_backup_from_before_a_new_state_key_and_a_disposal_keeps_its_tokens_and_the_certificate() {
    let mut two = crate::keys::Two::spawn().await;
    let old = two.app.submitter().submit(&entry()).await;
    two.app.submitter().get(&format!("/v1/entries/{}/proof", old["id"].as_str().unwrap())).await;
    two.app.stop();
    two.app.set("PHIVAULT_TEST_DAYS_AHEAD", &crate::keys::TEN_YEARS.to_string());
    two.app.start();
    let there = Elsewhere::of(&two.app);
    there.back_up(&two.app, "backup");
    let answer = two.app.admin().post("/v1/keys/rotate-state", &json!({"reason": crate::keys::reason()})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let planned = two.app.officer().get("/v1/retention/plan").await.json();
    let due = planned["buckets"].as_array().unwrap().iter().find(|it| it["state"] == "due").unwrap()["bucket"].clone();
    let done = two.both(&json!({"operation": "dispose", "bucket": due})).await;
    std::fs::copy(two.app.dir().join("keys/keyring"), there.path("keyring")).unwrap();
    let blind = std::env::var("PHIVAULT_TEST_BLIND").is_ok_and(|it| it == "1");
    let more: &[(&str, &Path)] = if blind { &[("", Path::new("--blind"))] } else { &[] };
    there.restore(0, &two.app, "backup", "new", more);
    let new = there.path("new");
    let server = serve(&new, &[]).unwrap();
    let id = done["certificate"].as_str().unwrap();
    let at = format!("{}/v1/retention/certificates/{id}", server.url);
    let shown = crate::app::http().get(at).bearer_auth(&two.app.officer().token).send().await.unwrap();
    assert_eq!(shown.status().as_u16(), 200, "its token is under the former key");
    let text = shown.json::<serde_json::Value>().await.unwrap()["text"].as_str().unwrap().to_owned();
    assert!(
        text.contains(&format!("what the values of bucket {due}\n")) && text.contains("missing since the restore"),
        "{text}"
    );
    server.stop();
    two.app.finish();
}
