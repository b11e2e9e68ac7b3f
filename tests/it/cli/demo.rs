//! `phivault demo`, empty and with its year of a clinic.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use phivault::clinic;
use serde_json::{Value, json};

use crate::app::{entry, program, text};

use super::{Cli, expect, has, mode, stderr, stdout};

/// The seed that the demo uses, so that everybody sees the same clinic.
const SEED: u64 = 20_261_124;

/// A running demo. Dropping it kills it.
struct Demo {
    child: Child,
    _out: BufReader<ChildStdout>,
    url: String,
    /// What it printed until it was ready.
    said: String,
}

impl Demo {
    fn start(dir: &Path, more: &[&str]) -> Self {
        let mut command = program();
        command.args(["demo", "--port", "0", "--dir"]).arg(dir).args(more).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        while !said.contains("Ctrl-C stops it") {
            assert!(out.read_line(&mut said).unwrap() > 0, "the demo ended: {said}");
        }
        let url = said.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
        Self { child, _out: out, url, said }
    }

    /// Ctrl-C.
    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the demo ended with {status}");
    }

    async fn send(&self, token: &Value, path: &str, body: Option<Value>) -> (u16, Value) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(Duration::from_secs(60));
        let http = http.build().unwrap();
        let at = format!("{}{path}", self.url);
        let request = match body {
            Some(body) => http.post(at).header("content-type", "application/json").body(body.to_string()),
            None => http.get(at),
        };
        let response = request.bearer_auth(token.as_str().unwrap()).send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_str(&response.text().await.unwrap()).unwrap())
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn tokens(dir: &Path) -> Value {
    let read = |role: &str| {
        let file = dir.join(format!("{role}.token"));
        assert_eq!(mode(&file), 0o600);
        (role.to_owned(), json!(std::fs::read_to_string(file).unwrap().trim()))
    };
    Value::Object(["submitter", "officer", "auditor", "admin"].map(read).into_iter().collect())
}

/// Runs the lines of the command line that it printed, as they stand; gives back what they wrote.
fn run_what_it_printed(demo: &Demo, folder: &Path) -> String {
    let built = program().get_program().to_str().unwrap().to_owned();
    let lines = demo.said.lines().map(str::trim);
    let lines: Vec<_> = lines.filter(|it| it.starts_with("export ") || it.starts_with(&built)).collect();
    assert_eq!(lines.len(), 3, "{}", demo.said);
    let mut shell = std::process::Command::new("sh");
    let output = shell.arg("-ec").arg(lines.join("\n")).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
}

#[tokio::test]
async fn an_empty_demo_has_a_working_token_for_each_role_and_is_picked_up_again() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("trial");
    let demo = Demo::start(&dir, &["--empty"]);
    has(&demo.said, &["intact:", "TRIAL", "never put real data in", "curl -s", "verify --dir", "Remove"]);
    let first = tokens(&dir);
    let (status, receipt) = demo.send(&first["submitter"], "/v1/entries", Some(entry())).await;
    assert_eq!(status, 201, "{receipt}");
    for (role, path) in
        [("officer", "/v1/entries"), ("auditor", "/v1/reports/access?reason=HCOMPL"), ("admin", "/v1/tokens")]
    {
        let (status, answer) = demo.send(&first[role], path, None).await;
        assert_eq!(status, 200, "{role}: {answer}");
    }
    let (status, _) = demo.send(&first["auditor"], "/v1/tokens", None).await;
    assert_eq!(status, 403, "each token has its own role");
    demo.stop();

    let again = Demo::start(&dir, &["--empty"]);
    assert_eq!(tokens(&dir), first, "the same tokens");
    let path = format!("/v1/entries/{}", receipt["id"].as_str().unwrap());
    let (status, found) = again.send(&first["officer"], &path, None).await;
    assert_eq!((status, &found["sequence"]), (200, &receipt["sequence"]), "{found}");
    again.stop();
    has(stdout(&expect(0, program().arg("verify").arg("--dir").arg(&dir))), &["intact:"]);

    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("thesis.txt"), "mine").unwrap();
    let refused = expect(2, program().args(["demo", "--port", "0", "--dir"]).arg(other.path()));
    has(stderr(&refused), &["is not empty", "--dir"]);
    assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 1, "nothing was made beside it");
}

/// Every entry of a search, page by page.
async fn all(demo: &Demo, token: &Value, query: &str) -> Vec<Value> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let (status, mut page) = demo.send(token, &format!("/v1/entries?{query}&limit=1000{cursor}"), None).await;
        assert_eq!(status, 200, "{page}");
        found.append(page["entries"].as_array_mut().unwrap());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

/// How often each text stands in a place.
fn tally(entries: &[Value], at: impl Fn(&Value) -> Option<String>) -> Value {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    entries.iter().filter_map(at).for_each(|key| *counts.entry(key).or_default() += 1);
    json!(counts)
}

fn compare(nosy: &Value, entries: &[Value]) {
    let place =
        |pointer: &'static str| move |it: &Value| it.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let time =
        |from: usize, to: usize| move |it: &Value| Some(it["occurred_at"].as_str().unwrap()[from..to].to_owned());
    for (name, counted) in [
        ("total", json!(entries.len())),
        ("with_note", json!(entries.iter().filter(|it| it["reason"]["note_given"] == true).count())),
        ("break_glass", json!(entries.iter().filter(|it| it["reason"]["break_glass"] == true).count())),
        ("failures", json!(entries.iter().filter(|it| it["outcome"] == "failure").count())),
        ("by_action", tally(entries, place("/action"))),
        ("by_outcome", tally(entries, place("/outcome"))),
        ("by_reason", tally(entries, place("/reason/code"))),
        ("by_patient", tally(entries, place("/patient/id"))),
        ("by_record_type", tally(entries, place("/record/type"))),
        ("by_day", tally(entries, time(0, 10))),
        ("by_hour", tally(entries, time(11, 13))),
        ("first", json!(entries.iter().filter_map(|it| it["occurred_at"].as_str()).min())),
        ("last", json!(entries.iter().filter_map(|it| it["occurred_at"].as_str()).max())),
    ] {
        assert_eq!(nosy[name], counted, "{name}");
    }
}

#[tokio::test]
async fn the_demo_shows_a_year_of_a_clinic_whose_nosy_clerk_stands_out() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("trial");
    let demo = Demo::start(&dir, &[]);
    let until = std::fs::read_to_string(dir.join("clinic.until")).unwrap().parse().unwrap();
    let facts = clinic::facts(SEED, until);
    assert!((18_000..=22_000).contains(&facts.total), "about 20,000 entries: {}", facts.total);
    has(&demo.said, &["intact:", &format!("{} entries of a synthetic clinic went in", facts.total)]);
    let tokens = tokens(&dir);
    let officer = &tokens["officer"];

    let summary = demo.send(officer, "/v1/reports/access?reason=HCOMPL", None).await.1;
    let reported = summary["actors"].as_array().unwrap().iter().map(|it| (it["actor"].clone(), it["total"].clone()));
    let reported: BTreeMap<String, Value> = reported.map(|(name, n)| (name.as_str().unwrap().to_owned(), n)).collect();
    for (actor, total) in &facts.by_actor {
        assert_eq!(reported[actor], *total, "{actor}");
    }
    let nosy = clinic::nosy_actor();
    let entries = all(&demo, officer, &format!("actor={nosy}&source=demo-ehr")).await;
    assert_eq!(entries.len() as u64, facts.by_actor[nosy]);
    let report = demo.send(officer, &format!("/v1/reports/access?reason=HCOMPL&actor={nosy}"), None).await.1;
    assert_eq!(report["actors"].as_array().unwrap().len(), 1);
    compare(&report["actors"][0], &entries);
    let glass = all(&demo, officer, "break_glass=true").await.len() as u64;
    assert!(glass >= facts.break_glass_with_note + facts.break_glass_without_note, "{glass} uses of break-the-glass");

    // The command line shows the same, also of somebody who broke the glass.
    let cli = Cli::new(&demo.url, officer.as_str().unwrap());
    has(stdout(&cli.run(0, &["report", "access", "--actor", nosy])), &[&format!("User {nosy}:"), "PATIENT", "HOUR"]);
    let said = run_what_it_printed(&demo, folder.path());
    has(&said, &[&format!("User {nosy}:"), "looked at 3 entries, 3 of them in its period"]);
    assert!(std::fs::read(folder.path().join("accounting.pdf")).unwrap().starts_with(b"%PDF"));
    let breaker = summary["actors"].as_array().unwrap().iter().find(|it| it["break_glass"] != 0).unwrap();
    let breaker = breaker["actor"].as_str().unwrap().to_owned();
    demo.stop();
    has(stdout(&expect(0, program().arg("verify").arg("--dir").arg(&dir))), &["intact:"]);
    let again = Demo::start(&dir, &[]);
    assert!(!again.said.contains("went in"), "a finished clinic is not filled again: {}", again.said);
    let cli = Cli::new(&again.url, officer.as_str().unwrap());
    has(stdout(&cli.run(0, &["report", "access", "--actor", &breaker])), &["Break-the-glass:"]);
    again.stop();
}
