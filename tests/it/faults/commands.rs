//! A disk that fails under one command: init, backup, restore. It says that it is done only when it is; else nothing is left of it, and
//! the same command does it once the disk works again.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use super::{points, preloaded};
use crate::app::{App, entry, program, text, unlock_file, verify};
use crate::check::{check_vault, entries};
use crate::damage::refusal::serve;

/// Which calls, how, and whether for ever.
const FAULTS: [(&str, &str, bool); 7] = [
    ("w", "eio", false),
    ("s", "eio", false),
    ("to", "eio", false),
    ("w", "short", false),
    ("w", "enospc", true),
    ("s", "eio", true),
    ("o", "eio", true),
];

/// A command whose calls of the disk, below a folder, fail in turn.
struct Failing {
    shim: PathBuf,
    folder: tempfile::TempDir,
}

/// How many attempts were made, and how many of them failed.
#[derive(Debug, Default)]
struct Sum {
    attempts: usize,
    failed: usize,
}

impl Failing {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { shim: preloaded("shim.c", folder.path()), folder }
    }

    /// A folder of its own for each attempt.
    fn place(&self, sum: &Sum) -> PathBuf {
        self.folder.path().join(format!("attempt-{}", sum.attempts))
    }

    /// Runs the command of each attempt with one more call failing, and hands its output to `then`, with what failed.
    fn each(
        &self,
        under: &Path,
        command: impl Fn(&Path) -> std::process::Command,
        then: impl Fn(&Path, &Output, &str),
    ) -> Sum {
        let (mut sum, count) = (Sum::default(), self.folder.path().join("calls"));
        let run = |place: &Path, (calls, kind, ever): (&str, &str, bool), at: usize| {
            let mut command = command(place);
            command.env("LD_PRELOAD", &self.shim).env("FAULT_UNDER", under).env("FAULT_COUNT", &count);
            command.env("FAULT_CALLS", calls).env("FAULT_KIND", kind).env("FAULT_AT", at.to_string());
            command.env("FAULT_EVER", if ever { "1" } else { "0" }).output().unwrap()
        };
        for fault in FAULTS {
            let place = self.place(&sum);
            let output = run(&place, fault, 0);
            assert!(output.status.success(), "without a fault: {}", text(&output));
            then(&place, &output, "no fault");
            sum.attempts += 1;
            let all: usize = std::fs::read_to_string(&count).unwrap().trim().parse().unwrap();
            assert!(all > 0, "{fault:?}: such calls are made");
            for at in points(all) {
                let place = self.place(&sum);
                let output = run(&place, fault, at);
                let what = format!("call {at} of {all}, {fault:?}: {}", text(&output));
                sum.attempts += 1;
                sum.failed += usize::from(!output.status.success());
                assert_ne!(output.status.code(), None, "it was killed: {what}");
                assert!(output.status.success() || text(&output).contains("error: "), "it says nothing: {what}");
                then(&place, &output, &what);
            }
        }
        assert!(sum.failed > 0, "no fault was ever noticed, so none was made");
        sum
    }
}

/// A new vault's key file, outside of where the disk fails.
fn key_file(failing: &Failing) -> PathBuf {
    let path = unlock_file(failing.folder.path());
    keys(&path);
    path
}

fn keys(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, "5a".repeat(32)).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn linux() -> bool {
    let is_linux = cfg!(target_os = "linux");
    if !is_linux {
        eprintln!("SKIPPED: a library is preloaded under the program, which takes Linux");
    }
    is_linux
}

#[test]
fn a_vault_is_made_whole_or_not_at_all_and_then_by_the_same_command() {
    if !linux() {
        return;
    }
    let failing = Failing::new();
    let key_file = key_file(&failing);
    let init = |dir: &Path| {
        let mut command = program();
        command.arg("init").arg("--dir").arg(dir).arg("--key-file").arg(&key_file);
        command
    };
    let under = failing.folder.path().join("attempt-");
    let sum = failing.each(&under, init, |dir, output, what| {
        let again = (!output.status.success()).then(|| init(dir).output().unwrap());
        let made = again.as_ref().unwrap_or(output);
        assert!(made.status.success(), "{what}; then, on a disk that works: {}", text(made));
        let token = String::from_utf8(made.stdout.clone()).unwrap();
        assert!(token.trim().starts_with("phv_"), "{what}: the token is shown: {token}");
        // The checker of invariants finds the key file there.
        keys(&unlock_file(dir));
        check_vault(dir);
        std::fs::remove_dir_all(dir).unwrap();
    });
    println!("{} attempts to make a vault, {} failed, each made by the next", sum.attempts, sum.failed);
}

/// A vault with 200 entries, stopped.
async fn filled() -> App {
    let mut app = App::spawn().await;
    let bodies: Vec<Value> = (0..200).map(|_| entry()).collect();
    let answer = app.submitter().post("/v1/entries/batch", &json!(bodies)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    app.stop();
    app
}

fn restoring(app: &App, backup: &Path, dir: &Path) -> std::process::Command {
    let mut command = program();
    command.arg("restore").arg(backup).arg("--dir").arg(dir);
    command.arg("--keyring").arg(app.dir().join("keys/keyring")).arg("--key-file").arg(unlock_file(app.dir()));
    if std::env::var("PHIVAULT_TEST_BLIND").is_ok_and(|it| it == "1") {
        command.arg("--blind");
    }
    command
}

fn backing_up(app: &App, out: &Path) -> std::process::Command {
    let mut command = program();
    command.arg("backup").arg("--config").arg(app.dir().join("phivault.toml")).arg("--out").arg(out);
    command
}

/// What stands in a folder beside what was there before.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_backup_is_written_whole_or_not_at_all_and_the_vault_is_as_it_was() {
    if !linux() {
        return;
    }
    let (mut app, failing) = (filled().await, Failing::new());
    let count = entries(app.dir()).len();
    app.start();
    let there = names(failing.folder.path()).len() + 1;
    // What the copy is made in lies beside the file, so everything there fails.
    let sum = failing.each(
        failing.folder.path(),
        |out| backing_up(&app, out),
        |out, output, what| {
            if !output.status.success() {
                assert!(!out.exists(), "{what}: there is a file");
                let again = backing_up(&app, out).output().unwrap();
                assert!(again.status.success(), "{what}; then, on a disk that works: {}", text(&again));
            }
            let dir = out.with_extension("restored");
            let restored = restoring(&app, out, &dir).output().unwrap();
            assert!(restored.status.success(), "{what}: what was said to be written: {}", text(&restored));
            assert!(entries(&dir).len() > count, "{what}: all entries are in it");
            std::fs::remove_dir_all(dir).unwrap();
            std::fs::remove_file(out).unwrap();
            assert!(names(failing.folder.path()).len() <= there, "{what}: {:?}", names(failing.folder.path()));
        },
    );
    println!("{} backups, {} failed and left nothing, the others were restored", sum.attempts, sum.failed);
    app.submitter().submit(&entry()).await;
    app.finish();
}

#[tokio::test]
async fn a_restore_makes_a_whole_vault_or_none_and_then_by_the_same_command() {
    if !linux() {
        return;
    }
    let (app, failing) = (filled().await, Failing::new());
    let (count, backup) = (entries(app.dir()).len(), app.dir().join("backup"));
    let made = backing_up(&app, &backup).output().unwrap();
    assert!(made.status.success(), "{}", text(&made));
    let under = failing.folder.path().join("attempt-");
    let sum = failing.each(
        &under,
        |dir| restoring(&app, &backup, dir),
        |dir, output, what| {
            if !output.status.success() {
                let again = restoring(&app, &backup, dir).output().unwrap();
                assert!(again.status.success(), "{what}; then, on a disk that works: {}", text(&again));
            }
            let (code, report) = verify(dir);
            assert_eq!((code, report["verdict"].as_str()), (0, Some("intact")), "{what}: {report:#}");
            assert!(entries(dir).len() > count, "{what}: all entries are in it");
            serve(dir, &[]).unwrap().stop();
            std::fs::remove_dir_all(dir).unwrap();
        },
    );
    println!("{} restores, {} failed, each done by the next", sum.attempts, sum.failed);
    app.finish();
}
