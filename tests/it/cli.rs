//! The command line as somebody types it: help, exit codes, what goes to which stream, files it writes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use phivault::domain::caller::Role;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::app::{App, entry, init, program, text};
use crate::damage::refusal::{hashes, serve};
use crate::tamper::edits::{Raw, copy, edit, settle, submitted};

mod demo;
mod evidence;
mod receipt;

/// A token file for a role of a vault, and the commands that use it.
pub struct Cli {
    folder: TempDir,
    url: String,
}

impl Cli {
    pub fn new(url: &str, token: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        private(&folder.path().join("token"), token);
        Self { folder, url: url.to_owned() }
    }

    pub fn of(app: &App, role: Role) -> Self {
        Self::new(app.url(), &app.client(role).token)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command with `--url` and `--token-file`.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = program();
        command.args(words).arg("--url").arg(&self.url).arg("--token-file").arg(self.path("token"));
        command.stdin(Stdio::null()).current_dir(self.folder.path());
        command
    }

    /// Runs a command that must end with this exit code.
    pub fn run(&self, code: i32, words: &[&str]) -> Output {
        expect(code, &mut self.command(words))
    }
}

fn private(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

pub fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

pub fn expect(code: i32, command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {}", text(&output));
    assert!(!text(&output).contains("panicked"), "{command:?}: {}", text(&output));
    output
}

pub fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

pub fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn has(shown: &str, words: &[&str]) {
    // Help is wrapped to the width of the terminal.
    let plain = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    words.iter().for_each(|word| assert!(plain.contains(word), "{word:?} is not in: {shown}"));
}

#[test]
fn phivault_alone_says_where_to_begin() {
    let shown = text(&expect(2, &mut program()));
    has(&shown, &["demo", "init", "serve", "import", "verify", "report", "token", "keys"]);
    has(&shown, &["phivault demo", "phivault init --dir DIR"]);
}

#[test]
fn every_help_says_what_the_command_does_and_what_comes_next() {
    for (words, told) in [
        ("", &["phivault demo", "phivault init --dir DIR", "phivault serve --config DIR/phivault.toml"][..]),
        ("demo", &["throw-away", "picks up the same vault", "Never put real data in"]),
        ("init", &["Nothing that exists is overwritten", "phivault serve --config DIR/phivault.toml"]),
        ("serve", &["phivault init", "PHIVAULT_SERVER__LISTEN", "SIGTERM"]),
        ("import", &["running the command again", "jq -c .submission", "exit code is 0"]),
        ("verify", &["no keys", "0 intact, 1 altered, 2 it could not be told"]),
        ("report", &["access", "role officer"]),
        ("report access", &["itself recorded", "--actor", "--csv"]),
        ("token", &["create", "list", "revoke", "role admin"]),
        ("token create", &["this once", "--token-file", "only revoked and replaced"]),
        ("token list", &["PHIVAULT_URL", "PHIVAULT_TOKEN_FILE"]),
        ("token revoke", &["as the list shows it"]),
        ("keys", &["list", "rotate", "role admin"]),
        ("keys list", &["never leave the vault"]),
        ("keys rotate", &["Back up the keyring file afterwards"]),
    ] {
        let output = expect(0, program().args(words.split_whitespace()).arg("--help"));
        has(stdout(&output), told);
        let short = expect(0, program().args(words.split_whitespace()).arg("-h"));
        assert!(stdout(&short).len() <= stdout(&output).len(), "{words}: the summary is the shorter one");
    }
    has(stdout(&expect(0, program().arg("--version"))), &["phivault 0."]);
    has(stderr(&expect(2, program().arg("verfy"))), &["verify"]);
}

#[test]
fn init_never_overwrites_and_refuses_a_weak_or_missing_passphrase_before_it_makes_anything() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("vault");
    fs::create_dir(&dir).unwrap();
    init(&dir, false);
    settle(&dir);
    let before = hashes(&dir);
    let again = |dir: &Path| {
        let mut command = program();
        command.arg("init").arg("--dir").arg(dir).arg("--key-file").arg(folder.path().join("vault/unlock.key"));
        command
    };
    has(stderr(&expect(2, &mut again(&dir))), &["already", "Nothing was changed", "vault"]);
    let settings = fs::read(dir.join("phivault.toml")).unwrap();
    fs::remove_file(dir.join("phivault.toml")).unwrap();
    has(stderr(&expect(2, &mut again(&dir))), &["never overwritten", "vault.db", "Nothing was changed"]);
    private(&dir.join("phivault.toml"), &String::from_utf8(settings).unwrap());
    assert!(hashes(&dir) == before, "a refused init changed files");
    let fresh = folder.path().join("fresh");
    let passphrase = folder.path().join("passphrase");
    for (words, told) in [("too short", "fewer than"), ("", "empty"), ("\n", "empty")] {
        private(&passphrase, words);
        let mut command = program();
        command.arg("init").arg("--dir").arg(&fresh).arg("--passphrase-file").arg(&passphrase);
        has(stderr(&expect(2, &mut command)), &[told]);
        assert!(!fresh.exists(), "{words:?}: something was made");
    }
    let none = expect(2, program().arg("init").arg("--dir").arg(&fresh).stdin(Stdio::null()));
    has(stderr(&none), &["no passphrase", "--passphrase-file"]);
    let two =
        program().args(["init", "--passphrase-fd", "3", "--key-file", "x", "--dir"]).arg(&fresh).output().unwrap();
    assert_eq!(two.status.code(), Some(2), "{}", text(&two));
    assert!(!fresh.exists(), "something was made");
}

#[test]
fn a_passphrase_comes_from_a_file_a_descriptor_or_with_a_warning_from_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let words = "seven grey whales sing at dawn";
    private(&at("passphrase"), &format!("{words}\n"));
    let file = expect(
        0,
        program()
            .args(["init", "--argon2-mib", "8", "--passphrase-file"])
            .arg(at("passphrase"))
            .arg("--dir")
            .arg(at("file")),
    );
    assert!(stdout(&file).starts_with("phv_") && stdout(&file).lines().count() == 1, "the token and nothing else");
    has(stderr(&file), &["phivault serve --config", "Back up", "shown this once"]);
    assert_eq!(
        [mode(&at("file")), mode(&at("file/keys/keyring")), mode(&at("file/data/vault.db"))],
        [0o700, 0o600, 0o600]
    );
    serve(&at("file"), &[]).expect("the settings name the passphrase file").stop();

    let mut bash = Command::new("bash");
    let line = "exec \"$0\" init --argon2-mib 8 --passphrase-fd 3 --dir \"$1\" 3< \"$2\"";
    expect(0, bash.args(["-c", line, env!("CARGO_BIN_EXE_phivault")]).arg(at("fd")).arg(at("passphrase")));
    let given = at("passphrase").display().to_string();
    serve(&at("fd"), &[("PHIVAULT_KEYS__PASSPHRASE_FILE", &given)]).expect("it is the same passphrase").stop();
    let refusal = serve(&at("fd"), &[]).err().expect("nothing says where the passphrase is");
    has(&refusal.said, &["There is no passphrase", "keys.passphrase_file"]);
    assert_eq!(refusal.code, Some(2));

    let mut command = program();
    command.args(["init", "--argon2-mib", "8", "--dir"]).arg(at("env")).env("PHIVAULT_PASSPHRASE", words);
    has(stderr(&expect(0, &mut command)), &["warning: PHIVAULT_PASSPHRASE is set", "other programs"]);
    serve(&at("env"), &[("PHIVAULT_PASSPHRASE", words)]).expect("the environment opens it").stop();
}

#[test]
fn only_the_first_line_of_a_passphrase_file_counts_as_the_help_says() {
    has(stdout(&expect(0, program().args(["init", "--help"]))), &["A file whose first line is the passphrase"]);
    let folder = tempfile::tempdir().unwrap();
    let (dir, file) = (folder.path().join("vault"), folder.path().join("passphrase"));
    private(&file, "seven grey whales sing at dawn\nkept by the privacy office\n");
    let mut command = program();
    command.args(["init", "--argon2-mib", "8", "--passphrase-file"]).arg(&file).arg("--dir").arg(&dir);
    expect(0, &mut command);
    private(&file, "seven grey whales sing at dawn\n");
    serve(&dir, &[]).expect("the first line is the passphrase").stop();
}

#[tokio::test]
async fn verify_ends_with_zero_one_or_two_and_says_why() {
    let mut app = App::spawn().await;
    app.submitter().submit(&entry()).await;
    let check = |code: i32, dir: &Path| text(&expect(code, program().arg("verify").arg("--dir").arg(dir)));
    has(&check(0, app.dir()), &["intact:", "note:", "rolled back together is not excluded"]);
    app.stop();
    settle(app.dir());
    let n = submitted(app.dir(), 0);
    let vault = copy(app.dir());
    edit(vault.path(), |db| Raw::read(db, n).with_other_actor().update(db));
    has(&check(1, vault.path()), &["ALTERED: 1 finding;", &format!("entry {n}: altered")]);
    fs::remove_file(vault.path().join("keys/checkpoint.lock")).unwrap();
    has(&check(2, vault.path()), &["could not tell", "checkpoint.lock", "missing"]);
    has(&check(2, &vault.path().join("nowhere")), &["nowhere"]);
    app.start();
    app.finish();
}

#[tokio::test]
async fn tokens_are_made_listed_and_revoked() {
    let app = App::spawn().await;
    let admin = Cli::of(&app, Role::Admin);
    let made = admin.run(0, &["token", "create", "--role", "officer", "--label", "privacy-office", "--expires", "90d"]);
    let token = stdout(&made).trim_end().to_owned();
    assert!(token.starts_with("phv_") && !token.contains(char::is_whitespace), "the token and nothing else: {token}");
    has(stderr(&made), &["officer", "expires", "not shown again"]);
    assert!(!stderr(&made).contains(&token), "the token is shown once");
    assert_eq!(app.with_token(&token).get("/v1/entries").await.status, 200);

    let words = ["token", "create", "--role", "submitter", "--label", "lab", "--allow", "127.0.0.1", "--out", "new"];
    let to_file = admin.run(0, &words);
    assert_eq!(stdout(&to_file), "");
    let file = admin.path("new");
    assert_eq!(mode(&file), 0o600);
    let lab = fs::read_to_string(&file).unwrap();
    app.with_token(lab.trim_end()).submit(&entry()).await;
    has(stderr(&admin.run(2, &words)), &["never overwritten"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), lab, "the file of the first token is as it was");

    let list: Value = serde_json::from_slice(&admin.run(0, &["token", "list", "--json"]).stdout).unwrap();
    let all = list["tokens"].as_array().unwrap();
    let of = |label: &str| all.iter().find(|it| it["label"] == label).unwrap();
    let id = of("privacy-office")["id"].as_str().unwrap();
    assert_eq!(of("lab")["allowed_sources"], json!(["127.0.0.1/32"]));
    assert_eq!(all.len(), 7, "{list:#}");
    has(stderr(&admin.run(2, &["token", "revoke", &token])), &["this is a token, not its id"]);
    has(stdout(&admin.run(0, &["token", "revoke", id])), &["revoked", id]);
    assert_eq!(app.with_token(&token).get("/v1/entries").await.status, 401);
    let table = admin.run(0, &["token", "list"]);
    has(stdout(&table), &["LABEL", "privacy-office", "revoked 20", "lab", "valid", "127.0.0.1/32", "never"]);
    assert!(!text(&table).contains("phv_"), "no list shows a token");
    has(stderr(&admin.run(2, &["token", "revoke", "tok-0000000000000000"])), &["404", "What to do"]);
    app.finish();
}

#[tokio::test]
async fn keys_are_listed_and_rotated() {
    let app = App::spawn().await;
    let admin = Cli::of(&app, Role::Admin);
    app.submitter().submit(&entry()).await;
    has(stdout(&admin.run(0, &["keys", "list"])), &["VERSION", "active", "version 1 seals new entries"]);
    has(stderr(&admin.run(2, &["keys", "rotate"])), &["--reason"]);
    has(stderr(&admin.run(2, &["keys", "rotate", "--reason", "NOPE"])), &["422", "reason"]);
    let rotated = admin.run(0, &["keys", "rotate", "--reason", "HSYSADMIN", "--note", "yearly"]);
    has(stdout(&rotated), &["version 2 seals", "version 1 only reveals", "generation 3: back it up now"]);
    let list: Value = serde_json::from_slice(&admin.run(0, &["keys", "list", "--json"]).stdout).unwrap();
    assert_eq!((&list["active"], &list["keyring_generation"]), (&json!(2), &json!(3)), "{list:#}");
    assert_eq!(list["versions"][0]["state"], "retired", "{list:#}");
    has(stderr(&Cli::of(&app, Role::Officer).run(2, &["keys", "list"])), &["403", "role admin"]);
    app.finish();
}

#[tokio::test]
async fn the_access_report_comes_as_table_json_and_csv() {
    let app = App::spawn().await;
    let mut emergency = entry();
    emergency["reason"] = json!({"code": "BTG", "note": "Unconscious in the waiting room"});
    emergency["actor"]["id"] = json!("dr_jones");
    for sent in [&entry(), &entry(), &emergency] {
        app.submitter().submit(sent).await;
    }
    let officer = Cli::of(&app, Role::Officer);
    has(stdout(&officer.run(0, &["report", "access"])), &["USER", "dr_smith", "dr_jones", "Access report", "TREAT"]);
    let json: Value = serde_json::from_slice(&officer.run(0, &["report", "access", "--json"]).stdout).unwrap();
    let smith = json["actors"].as_array().unwrap().iter().find(|it| it["actor"] == "dr_smith").unwrap();
    assert_eq!((&smith["total"], &smith["with_note"]), (&json!(2), &json!(2)), "{json:#}");
    assert_eq!(smith["by_reason"], json!({"TREAT": 2}));
    let words = ["report", "access", "--actor", "dr_smith", "--time-zone", "+02:00"];
    has(stdout(&officer.run(0, &words)), &["User dr_smith: 2 entries, 100% with a note", "MRN-12345", "UTC+02:00"]);
    let none = ["report", "access", "--to", "2020-01-01"];
    has(stdout(&officer.run(0, &none)), &["no entries in this period"]);
    has(stderr(&officer.run(2, &["report", "access", "--from", "yesterday"])), &["2026-11-01"]);
    has(stderr(&officer.run(2, &["report", "access", "--reason", "NOPE"])), &["422"]);

    let csv = officer.run(0, &["report", "access", "--actor", "dr_smith", "--csv", "-"]);
    assert!(
        stdout(&csv).contains("dr_smith,total,,2\r\n") && stdout(&csv).contains("by_patient,MRN-12345,2\r\n"),
        "{}",
        stdout(&csv)
    );
    let file = ["report", "access", "--csv", "report.csv"];
    let written = officer.run(0, &file);
    assert_eq!((stdout(&written), mode(&officer.path("report.csv"))), ("", 0o600));
    let first = fs::read(officer.path("report.csv")).unwrap();
    has(stderr(&officer.run(2, &file)), &["never overwritten"]);
    assert!(fs::read(officer.path("report.csv")).unwrap() == first, "the first report is as it was");

    let words = ["report", "access", "--actor", "dr_jones"];
    has(stdout(&officer.run(0, &words)), &["1 break-glass", "Break-the-glass:", "BTG", "MRN-12345", "yes"]);
    app.finish();
}

/// Lines of which the third and the fifth are refused.
fn lines() -> String {
    let mut good = entry();
    good["record"]["id"] = json!("c-1");
    let mut without_reason = entry();
    without_reason.as_object_mut().unwrap().remove("reason");
    format!("{}\n{good}\n{without_reason}\n\n{{\"action\":\n{}\n", entry(), entry())
}

#[tokio::test]
async fn an_import_keeps_what_is_refused_and_repeating_it_changes_nothing() {
    let app = App::spawn().await;
    let submitter = Cli::of(&app, Role::Submitter);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(lines().replace("c-77", "c-78").replace("c-1", "c-2").as_bytes()).unwrap();
    fs::write(submitter.path("plain.ndjson"), lines()).unwrap();
    fs::write(submitter.path("packed.ndjson.gz"), gzip.finish().unwrap()).unwrap();
    for (name, known) in [("plain.ndjson", 0), ("plain.ndjson", 3), ("packed.ndjson.gz", 0), ("packed.ndjson.gz", 3)] {
        let size = crate::ingest::size_of(&app).await;
        let output = submitter.run(1, &["import", name, "--json", "--batch", "2"]);
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&told["accepted"], &told["duplicates"]), (&json!(3 - known), &json!(known)), "{name}: {told:#}");
        assert_eq!((&told["refused"], &told["complete"]), (&json!(2), &json!(true)), "{name}: {told:#}");
        assert_eq!(crate::ingest::size_of(&app).await - size, 3 - known, "{name}");
        has(stderr(&output), &["line 3:", "/reason", "line 5:", &format!("{name}.refused.ndjson")]);
        let refused = submitter.path(&format!("{name}.refused.ndjson"));
        assert_eq!(mode(&refused), 0o600);
        let kept: Vec<Value> =
            fs::read_to_string(&refused).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let at: Vec<_> = kept.iter().map(|it| it["line"].as_u64().unwrap()).collect();
        assert_eq!(at, [3, 5], "{name}");
        assert_eq!(kept[0]["errors"][0]["code"], "reason_missing", "{name}: {kept:?}");
        assert_eq!(kept[0]["submission"]["actor"]["id"], "dr_smith", "{name}: {kept:?}");
        assert_eq!(kept[1]["submission"], "{\"action\":", "{name}: {kept:?}");
    }
    // Corrected lines go in; so do lines from standard input.
    let stdin = |content: &str, words: &[&str]| {
        let mut command = submitter.command(words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(content.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let good = format!("{}\n", entry().to_string().replace("c-77", "c-99"));
    for (known, told) in [(0, "1 accepted, 0 duplicates, 0 refused"), (1, "0 accepted, 1 duplicates, 0 refused")] {
        let output = stdin(&good, &["import", "-"]);
        assert_eq!(output.status.code(), Some(0), "{known}: {}", text(&output));
        has(stdout(&output), &[told]);
    }
    assert!(!submitter.path("stdin.refused.ndjson").exists(), "nothing was refused");
    app.finish();
}

#[tokio::test]
async fn an_import_that_cannot_go_on_says_how_to() {
    let mut app = App::spawn().await;
    let submitter = Cli::of(&app, Role::Submitter);
    fs::write(submitter.path("a.ndjson"), format!("{}\n", entry())).unwrap();
    has(stderr(&submitter.run(2, &["import", "nowhere.ndjson"])), &["nowhere.ndjson", "cannot be read"]);
    let auditor = Cli::of(&app, Role::Auditor);
    let file = submitter.path("a.ndjson").display().to_string();
    has(stderr(&auditor.run(2, &["import", &file])), &["403", "role submitter", "--from-line 1"]);
    let unknown = Cli::new(app.url(), &format!("phv_{}", "A".repeat(43)));
    has(stderr(&unknown.run(2, &["token", "list"])), &["401", "phivault token create", "--token-file"]);
    let no_token = Cli::new(app.url(), "hunter2");
    has(stderr(&no_token.run(2, &["token", "list"])), &["phv_", "token"]);
    let mut from_environment = program();
    from_environment.args(["token", "list"]).env("PHIVAULT_URL", app.url());
    from_environment.env("PHIVAULT_TOKEN_FILE", Cli::of(&app, Role::Admin).path("token"));
    has(stderr(&expect(2, &mut from_environment)), &["token file", "cannot be read"]);
    let admin = Cli::of(&app, Role::Admin);
    from_environment.env("PHIVAULT_TOKEN_FILE", admin.path("token"));
    has(stdout(&expect(0, &mut from_environment)), &["submitter-app"]);
    app.stop();
    let down = submitter.run(2, &["import", "a.ndjson", "--retries", "1"]);
    has(stderr(&down), &["trying again", "no connection to", "phivault serve", "Go on with", "--from-line 1"]);
    has(stderr(&admin.run(2, &["keys", "list"])), &["no connection to", "is the vault running?", "phivault serve"]);
    app.start();
    app.finish();
}

#[tokio::test]
async fn a_vault_whose_last_admin_token_is_lost_is_recovered_on_its_own_machine() {
    let mut app = App::spawn().await;
    let config = app.dir().join("phivault.toml");
    let recover = |code| {
        let mut command = program();
        command.args(["token", "recover", "--label", "new-admin", "--config"]).arg(&config);
        expect(code, &mut command)
    };
    let output = recover(2);
    has(stderr(&output), &["Another phivault", "Stop it first"]);
    assert_eq!(stdout(&output), "");
    app.stop();
    let output = recover(0);
    has(stderr(&output), &["is made and recorded", "revoke those that were lost"]);
    let token = stdout(&output).trim().to_owned();
    app.start();
    let tokens = app.with_token(&token).get("/v1/tokens").await.json();
    let of = |label: &str| {
        tokens["tokens"].as_array().unwrap().iter().find(|it| it["label"] == label).unwrap()["id"].clone()
    };
    let path = format!("/v1/tokens/{}", of("admin").as_str().unwrap());
    assert_eq!(app.with_token(&token).delete(&path).await.status, 204, "the lost one can be revoked");
    let made = app.auditor().get("/v1/entries?action=token_create&limit=1").await.json();
    assert_eq!(made["entries"][0]["actor"]["id"], "local-admin", "it is recorded as made on the machine");
    app.finish();
}
