//! Who opens the keyring: slots are added, changed and removed while the vault serves.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use phivault::domain::caller::Role;
use serde_json::json;

use super::{Two, reason};
use crate::app::{App, program, text};
use crate::cli::{Cli, stderr, stdout};
use crate::damage::refusal::serve;

/// The first administrator's desk; the address changes with each start.
fn first_of(two: &Two) -> Cli {
    Cli::of(&two.app, Role::Admin)
}

fn secret(path: &Path, content: &str) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Whether `verify --keyring` opens the keyring with that passphrase.
fn opens_with(app: &App, passphrase: &Path) -> bool {
    let settings = std::fs::read_to_string(app.dir().join("phivault.toml")).unwrap();
    let lines: Vec<_> = settings.lines().filter(|it| !it.starts_with("key_file")).collect();
    let path = app.dir().join("by-passphrase.toml");
    std::fs::write(&path, lines.join("\n")).unwrap();
    let mut command = program();
    command.env("PHIVAULT_KEYS__PASSPHRASE_FILE", passphrase);
    let output = command.args(["verify", "--keyring", "--config"]).arg(&path).output().unwrap();
    assert!([0, 2].contains(&output.status.code().unwrap()), "{}", text(&output));
    output.status.success()
}

#[tokio::test]
async fn a_recovery_passphrase_is_added_and_the_main_one_changed_without_any_leaving_the_desk() {
    let mut two = Two::spawn().await;
    let (first, second) = (Cli::of(&two.app, Role::Admin), Cli::new(two.app.url(), &two.second().token));
    let desk = tempfile::tempdir().unwrap();
    let (recovery, other) = (desk.path().join("recovery"), desk.path().join("other"));
    secret(&recovery, "five random words to keep");
    secret(&other, "five other words to forget");
    let path = recovery.to_str().unwrap();
    let words = ["keys", "add-slot", "--slot", "recovery", "--argon2-mib", "8", "--new-passphrase-file", path];
    let asked = first.run(0, &[&words[..], &["--reason", "HSYSADMIN"]].concat());
    let id = stdout(&asked).split_whitespace().find(|it| it.starts_with("apr-")).unwrap().to_owned();
    assert!(!opens_with(&two.app, &recovery), "it waits for a second administrator");
    let done = second.run(0, &["approval", "approve", &id, "--reason", "HSYSADMIN"]);
    assert!(stdout(&done).contains("main, recovery") && stdout(&done).contains("back it up now"), "{}", stdout(&done));
    assert!(opens_with(&two.app, &recovery) && !opens_with(&two.app, &other));
    assert!(!two.app.log().contains("five random words"));
    let again = first.run(2, &[&words[..], &["--reason", "HSYSADMIN"]].concat());
    assert!(stderr(&again).contains("already a slot"), "{}", stderr(&again));

    // The main slot gets another key file; the server starts with it and not with the old one.
    let key = two.app.dir().join("next.key");
    secret(&key, &"7b".repeat(32));
    let asked = first.run(0, &["keys", "rewrap", "--new-key-file", key.to_str().unwrap(), "--reason", "HSYSADMIN"]);
    let id = stdout(&asked).split_whitespace().find(|it| it.starts_with("apr-")).unwrap().to_owned();
    second.run(0, &["approval", "approve", &id, "--reason", "HSYSADMIN"]);
    two.app.stop();
    let refused = two.app.try_start().unwrap_err();
    assert!(refused.contains("not the one this keyring was locked with"), "{refused}");
    secret(&crate::app::unlock_file(two.app.dir()), &"7b".repeat(32));
    two.app.start();
    // Changed again: until a start has shown that it opens, the other slot stays.
    let third = two.app.dir().join("third.key");
    secret(&third, &"8c".repeat(32));
    let asked =
        first_of(&two).run(0, &["keys", "rewrap", "--new-key-file", third.to_str().unwrap(), "--reason", "HSYSADMIN"]);
    let id = stdout(&asked).split_whitespace().find(|it| it.starts_with("apr-")).unwrap().to_owned();
    assert_eq!(two.approve(&id).await.status, 200);
    assert_eq!(two.refused(&json!({"operation": "slot_remove", "name": "recovery"})).await, "slot_unproven");
    two.app.stop();
    secret(&crate::app::unlock_file(two.app.dir()), &"8c".repeat(32));
    two.app.start();
    two.both(&json!({"operation": "slot_remove", "name": "recovery"})).await;
    assert!(!opens_with(&two.app, &recovery));
    assert_eq!(two.refused(&json!({"operation": "slot_remove", "name": "main"})).await, "last_slot");
    assert_eq!(two.refused(&json!({"operation": "slot_remove", "name": "none"})).await, "unknown_slot");
    two.app.finish();
}

#[tokio::test]
async fn a_slot_that_would_give_the_keys_away_is_refused() {
    let two = Two::spawn().await;
    let slot = |public: String| json!({"operation": "slot_put", "slot": {"name": "x", "kek_id": "00".repeat(16), "kek": {"kind": "key_file"}, "public": public}});
    assert_eq!(two.refused(&slot("00".repeat(32))).await, "slot_malformed");
    assert_eq!(two.refused(&slot("zz".into())).await, "slot_malformed");
    let body = json!({"request": {"operation": "slot_put", "slot": {"name": "x"}}, "reason": reason()});
    assert_eq!(two.app.admin().post("/v1/admin/operations", &body).await.status, 422, "it is no slot");
    two.app.finish();
}

#[tokio::test]
async fn a_command_gives_the_key_and_one_that_fails_is_told() {
    let mut app = App::spawn().await;
    app.stop();
    let settings = app.dir().join("phivault.toml");
    let plain = std::fs::read_to_string(&settings).unwrap();
    let with = |command: &str| {
        let lines: Vec<_> = plain.lines().map(|it| if it.starts_with("key_file") { command } else { it }).collect();
        std::fs::write(&settings, lines.join("\n")).unwrap();
    };
    let key = crate::app::unlock_file(app.dir());
    with(&format!("command = [\"cat\", {:?}]", key.display().to_string()));
    app.start();
    app.stop();
    for (command, words) in [
        ("command = [\"false\"]", "failed"),
        ("command = [\"/no/such/program\"]", "cannot be started"),
        ("command = [\"echo\", \"hello\"]", "64 hex digits"),
        ("command = []", "program and its arguments"),
    ] {
        with(command);
        let refused = app.try_start().unwrap_err();
        assert!(refused.contains(words) && !refused.contains("hello"), "{command}: {refused}");
    }
    with("command = [\"cat\", \"unlock.key\"]");
    std::fs::write(&settings, plain).unwrap();
    app.start();
    app.finish();
}

#[tokio::test]
async fn a_passphrase_with_a_pepper_opens_nothing_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        secret(&folder.path().join(name), content);
        folder.path().join(name)
    };
    let passphrase = file("passphrase", "correct horse battery staple");
    let (pepper, other) = (file("pepper", &"a1".repeat(32)), file("other", &"b2".repeat(32)));
    let vault = folder.path().join("vault");
    let mut init = program();
    init.args(["init", "--argon2-mib", "8", "--dir"]).arg(&vault).arg("--passphrase-file").arg(&passphrase);
    let output = init.arg("--pepper-file").arg(&pepper).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    serve(&vault, &[]).unwrap_or_else(|it| panic!("{}", it.said)).stop();
    let settings = vault.join("phivault.toml");
    let plain = std::fs::read_to_string(&settings).unwrap();
    let without: Vec<_> = plain.lines().filter(|it| !it.starts_with("pepper_file")).collect();
    let swapped = plain.replace(pepper.to_str().unwrap(), other.to_str().unwrap());
    for wrong in [without.join("\n"), swapped] {
        std::fs::write(&settings, wrong).unwrap();
        let Err(refused) = serve(&vault, &[]) else { panic!("it started") };
        assert!(refused.said.contains("not the one this keyring was locked with"), "{}", refused.said);
    }
}
