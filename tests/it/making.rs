//! Making a vault where something is already, twice at a time, or not to the end.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::app::{App, entry, init, program, text, unlock_file};

/// A folder with a key file beside the places where vaults are to be.
struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("first")).unwrap();
        init(&folder.path().join("first"), false);
        Self(folder)
    }

    fn place(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn init(&self, dir: &Path) -> Command {
        let mut command = program();
        command.arg("init").arg("--dir").arg(dir).arg("--key-file").arg(unlock_file(&self.place("first")));
        command
    }

    fn restore(&self, dir: &Path) -> Command {
        let mut command = program();
        command.arg("restore").arg(self.place("backup")).arg("--dir").arg(dir);
        command.arg("--keyring").arg(self.place("first/keys/keyring"));
        command.arg("--key-file").arg(unlock_file(&self.place("first")));
        command
    }
}

fn refused(output: &Output, says: &str) {
    let said = text(output);
    assert!(output.status.code() == Some(2) && said.contains(says), "{says}: {said}");
}

/// Everything below a folder: names, where links lead, what files hold.
fn everything(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for item in std::fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()) {
        let is_folder = item.symlink_metadata().unwrap().is_dir();
        found.extend(if is_folder { everything(&item) } else { Vec::new() });
        let holds = std::fs::read_link(&item).map(|it| it.display().to_string());
        found.push((item.clone(), holds.unwrap_or_else(|_| std::fs::read_to_string(&item).unwrap_or_default())));
    }
    found.sort();
    found
}

#[test]
fn nothing_that_was_there_is_removed_or_written_over_not_even_a_link_that_leads_nowhere() {
    let site = Site::new();
    let mut backup = program();
    backup.arg("backup").arg("--config").arg(site.place("first/phivault.toml")).arg("--out").arg(site.place("backup"));
    assert!(backup.output().unwrap().status.success());
    let parts = [
        "phivault.toml",
        "data/vault.db",
        "data/vault.db-wal",
        "data/vault.db-shm",
        "data/vault.db-journal",
        "keys/keyring",
        "keys/keyring.next",
        "keys/signing.key",
        "keys/signing.vkey",
        "keys/signing.next",
        "keys/checkpoint.lock",
        "keys/checkpoint.tmp",
    ];
    for part in parts {
        for is_link in [false, true] {
            let dir = site.place("second");
            std::fs::create_dir_all(dir.join("data")).unwrap();
            std::fs::create_dir_all(dir.join("keys")).unwrap();
            std::fs::write(dir.join("keys/notes.txt"), "mine").unwrap();
            match is_link {
                true => symlink("/nowhere/it/is", dir.join(part)).unwrap(),
                false => std::fs::write(dir.join(part), "mine").unwrap(),
            }
            let before = everything(&dir);
            refused(&site.init(&dir).output().unwrap(), "exists already");
            refused(&site.restore(&dir).output().unwrap(), "exists already");
            assert_eq!(everything(&dir), before, "{part}, a link: {is_link}");
            std::fs::remove_dir_all(&dir).unwrap();
        }
    }
    // A backup does not take the place of a link either, nor of what lies where it works.
    for name in ["b", "b.partial"] {
        symlink("/nowhere/it/is", site.place(name)).unwrap();
        let before = everything(site.0.path());
        let mut again = program();
        again.arg("backup").arg("--config").arg(site.place("first/phivault.toml")).arg("--out").arg(site.place("b"));
        assert_eq!(again.output().unwrap().status.code(), Some(2));
        assert_eq!(everything(site.0.path()), before, "{name}");
        std::fs::remove_file(site.place(name)).unwrap();
    }
}

#[test]
fn of_two_who_make_a_vault_in_one_place_at_once_one_does_and_the_other_changes_nothing() {
    let site = Site::new();
    for round in 0..5 {
        let dir = site.place(&format!("both-{round}"));
        let both = [0, 1].map(|_| site.init(&dir).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        let ends = both.map(|it| it.wait_with_output().unwrap());
        let made = ends.iter().filter(|it| it.status.success()).count();
        assert_eq!(made, 1, "{} and {}", text(&ends[0]), text(&ends[1]));
        assert_eq!(crate::app::verify(&dir).0, 0);
    }
}

#[test]
fn what_cannot_be_made_leaves_no_folder_on_the_way_to_it() {
    let site = Site::new();
    let mut init = site.init(&site.place("a/b/c"));
    let output = init.args(["--name", "no name"]).output().unwrap();
    assert!(!output.status.success() && text(&output).contains("ledger name"), "{}", text(&output));
    assert!(!site.place("a").exists());
}

/// Starts a command and sends it a signal as soon as a file or folder is there that it makes; how it ended.
fn broken_off(mut command: Command, mark: &Path, signal: Signal) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while !mark.exists() && began.elapsed() < Duration::from_secs(10) {
        std::thread::yield_now();
    }
    kill_process(Pid::from_child(&child), signal).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_making_that_is_broken_off_is_taken_back_or_says_what_is_left_of_it() {
    let site = Site::new();
    let (mut taken_back, mut left) = (0, 0);
    // On a busy machine a vault may be made before the signal comes; then once more.
    for round in 0..100 {
        if taken_back > 0 && left > 0 && round >= 10 {
            break;
        }
        let dir = site.place(&format!("broken-{round}"));
        let signal = [Signal::INT, Signal::TERM, Signal::KILL][round % 3];
        let output = broken_off(site.init(&dir), &dir.join("vault.making"), signal);
        if output.status.success() || dir.join("phivault.toml").exists() {
            // It was done before the signal reached it.
            assert_eq!(crate::app::verify(&dir).0, 0, "{}", text(&output));
            continue;
        }
        let again = site.init(&dir).output().unwrap();
        if dir.join("vault.making").exists() {
            left += 1;
            refused(&again, "remove that file");
            std::fs::remove_dir_all(&dir).unwrap();
        } else {
            taken_back += 1;
        }
        let again = if dir.exists() { again } else { site.init(&dir).output().unwrap() };
        assert!(again.status.success(), "{signal:?}: {}, then {}", text(&output), text(&again));
    }
    assert!(taken_back > 0 && left > 0, "{taken_back} were taken back, {left} left");
}

#[tokio::test]
async fn a_backup_or_restore_that_is_broken_off_leaves_nothing_in_the_way_of_the_next() {
    let app = App::spawn().await;
    let lines = format!("{}\n", entry()).repeat(2_000);
    assert_eq!(app.submitter().post_text("/v1/entries/batch", "application/x-ndjson", lines).await.status, 200);
    let folder = tempfile::tempdir().unwrap();
    let (config, mut backups) = (app.dir().join("phivault.toml"), Vec::new());
    for (n, signal) in [Signal::INT, Signal::TERM, Signal::HUP].into_iter().enumerate() {
        let out = folder.path().join(format!("backup-{n}"));
        let backup = || {
            let mut command = program();
            command.arg("backup").arg("--config").arg(&config).arg("--out").arg(&out);
            command
        };
        let partial = folder.path().join(format!("backup-{n}.partial"));
        let output = broken_off(backup(), &partial, signal);
        assert!(!partial.exists() && output.status.success() == out.exists(), "{signal:?}: {}", text(&output));
        if !out.exists() {
            assert!(text(&output).contains("No backup was made"), "{}", text(&output));
            assert!(backup().output().unwrap().status.success());
        }
        backups.push(out);
    }
    let (keyring, key_file) = (app.dir().join("keys/keyring"), unlock_file(app.dir()));
    let blind: &[&str] = if std::env::var("PHIVAULT_TEST_BLIND").is_ok() { &["--blind"] } else { &[] };
    for (n, signal) in [Signal::INT, Signal::TERM, Signal::HUP].into_iter().enumerate() {
        let dir = folder.path().join(format!("restored-{n}"));
        let restore = || {
            let mut command = program();
            command.arg("restore").arg(&backups[n]).arg("--dir").arg(&dir).args(blind);
            command.arg("--keyring").arg(&keyring).arg("--key-file").arg(&key_file);
            command
        };
        let output = broken_off(restore(), &dir.join("data/vault.db.partial"), signal);
        if !output.status.success() {
            assert!(text(&output).contains("Nothing of the vault was kept") && !dir.exists(), "{}", text(&output));
            let again = restore().output().unwrap();
            assert!(again.status.success(), "{}", text(&again));
        }
        assert_eq!(crate::app::verify(&dir).0, 0);
    }
    app.finish();
}

#[tokio::test]
async fn a_demo_fills_no_vault_that_is_not_its_own() {
    let mut app = App::spawn().await;
    app.submitter().submit(&entry()).await;
    app.stop();
    let before = everything(app.dir());
    let output = program().args(["demo", "--port", "0", "--dir"]).arg(app.dir()).output().unwrap();
    refused(&output, "is no trial");
    assert_eq!(everything(app.dir()), before);
}

#[tokio::test]
async fn key_files_that_would_be_written_by_way_of_one_name_are_refused() {
    let mut app = App::spawn().await;
    app.stop();
    for (name, file) in [("KEYRING", "vault.keyring"), ("SIGNING_KEY", "vault.key")] {
        let path = app.dir().join("keys").join(file);
        app.set(&format!("PHIVAULT_KEYS__{name}"), path.to_str().unwrap().to_owned().as_str());
    }
    let refused = app.try_start().unwrap_err();
    assert!(refused.contains("must differ before their last dot") && refused.contains("vault."), "{refused}");
}
