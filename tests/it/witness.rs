//! Witnesses: a vault and `phivault witness serve` as two processes, each against the other and against forgeries.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use phivault::keyfile::{KeyPaths, read_verifier_key};
use phivault::ledger::checkpoint::Checkpoint;
use phivault::ledger::hash::Hash;
use phivault::ledger::note::{Note, NoteSigner};
use phivault::ledger::policy::{Opened, Policy};
use phivault::ledger::witness::AddCheckpoint;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::app::{App, Options, entry, program, text};
use crate::tamper::edits::{copy, put_data, settle};

/// A running witness. Dropping it kills it.
struct Witness {
    folder: tempfile::TempDir,
    key: String,
    url: String,
    child: Option<Child>,
    port: u16,
}

impl Witness {
    fn make(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("w");
        let output = program().args(["witness", "init", "--name", name, "--dir"]).arg(&dir).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        let key = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let again = program().args(["witness", "init", "--name", name, "--dir"]).arg(&dir).output().unwrap();
        assert_eq!(again.status.code(), Some(2), "nothing is overwritten");
        // A free port that it keeps across restarts.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { folder, key, url: format!("http://127.0.0.1:{port}/"), child: None, port }
    }

    fn dir(&self) -> std::path::PathBuf {
        self.folder.path().join("w")
    }

    fn follow(&self, log: &str) {
        std::fs::write(self.dir().join("logs.policy"), format!("log {log}\nquorum none\n")).unwrap();
    }

    fn start(&mut self) {
        let listen = format!("127.0.0.1:{}", self.port);
        let mut command = program();
        command.args(["witness", "serve", "--listen", &listen, "--dir"]).arg(self.dir());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains(&listen), "{line}");
        self.child = Some(child);
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    async fn ask(&self, request: &str) -> (u16, String, String) {
        let http = crate::app::http();
        let answer = http.post(format!("{}add-checkpoint", self.url)).body(request.to_owned()).send().await.unwrap();
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        (answer.status().as_u16(), kind, answer.text().await.unwrap())
    }

    /// What it cosigned last for a log.
    async fn seen(&self, origin: &str) -> Option<String> {
        let http = crate::app::http();
        let url = format!("{}{}/checkpoint", self.url, hex::encode(Sha256::digest(origin)));
        let answer = http.get(url).send().await.unwrap();
        (answer.status().as_u16() == 200).then_some(answer.text().await.unwrap())
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.kill();
    }
}

fn vkey(dir: &Path) -> String {
    read_verifier_key(&KeyPaths::in_folder(&dir.join("keys")).verifier_key()).unwrap().to_string()
}

/// A vault whose policy asks both of two witnesses.
async fn witnessed() -> (App, Witness, Witness, tempfile::TempDir) {
    let (mut one, mut two) = (Witness::make("w1.example"), Witness::make("w2.example"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy");
    let env = vec![("PHIVAULT_EVIDENCE__ANCHOR_SECONDS".to_owned(), "1".to_owned())];
    let mut app = App::spawn_with(Options { env, ..Options::default() }).await;
    app.stop();
    let log = vkey(app.dir());
    for witness in [&mut one, &mut two] {
        witness.follow(&log);
        witness.start();
    }
    let policy = format!(
        "log {log}\nwitness w1 {} {}\nwitness w2 {} {}\ngroup both all w1 w2\nquorum both\n",
        one.key, one.url, two.key, two.url
    );
    std::fs::write(&file, policy).unwrap();
    app.set("PHIVAULT_EVIDENCE__POLICY", &file.display().to_string());
    app.set("PHIVAULT_EVIDENCE__ANCHOR_FILE", &folder.path().join("anchors").display().to_string());
    app.start();
    (app, one, two, folder)
}

fn policy(folder: &tempfile::TempDir) -> Policy {
    Policy::parse(&std::fs::read_to_string(folder.path().join("policy")).unwrap()).unwrap()
}

/// Waits until what is served carries both cosignatures and covers so many entries.
async fn cosigned(app: &App, policy: &Policy, size: u64) -> (String, Opened) {
    for _ in 0..400 {
        let note = app.with_token("none").get("/checkpoint").await.text;
        let opened = policy.open(&note).unwrap();
        if opened.quorum && opened.checkpoint.size >= size {
            return (note, opened);
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("no cosigned checkpoint came: {}", app.log());
}

#[tokio::test]
async fn witnesses_cosign_what_a_vault_signs_and_receipts_carry_it() {
    let (mut app, one, mut two, folder) = witnessed().await;
    let policy = policy(&folder);
    let receipt = app.submitter().submit(&entry()).await;
    let (note, opened) = cosigned(&app, &policy, receipt["sequence"].as_u64().unwrap() + 1).await;
    assert_eq!(opened.witnesses.iter().map(|it| it.0.as_str()).collect::<Vec<_>>(), ["w1", "w2"]);
    assert!(opened.witnesses.iter().all(|(_, time)| time.is_some_and(|it| it > 1_700_000_000)));
    let seen = one.seen(&opened.checkpoint.origin).await.unwrap();
    assert!(
        policy.open(&seen).unwrap().checkpoint.size >= opened.checkpoint.size,
        "a monitor learns it from the witness"
    );
    // A receipt that the policy is satisfied with, checked offline.
    let id = receipt["id"].as_str().unwrap();
    let proof = app.submitter().get(&format!("/v1/entries/{id}/proof?format=text")).await.text;
    let file = folder.path().join("receipt");
    std::fs::write(&file, &proof).unwrap();
    let check = |policy: &Path, leaf: &str| {
        let mut command = program();
        command.arg("verify-receipt").arg(&file).args(["--leaf", leaf, "--policy"]).arg(policy);
        let output = command.output().unwrap();
        (output.status.code().unwrap(), text(&output))
    };
    let (code, said) = check(&folder.path().join("policy"), receipt["leaf_hash"].as_str().unwrap());
    assert!(code == 0 && said.contains("witness w1 cosigned it") && said.contains("witness w2"), "{code}: {said}");
    // The same receipt with one cosignature taken out.
    let cut: String = proof.lines().filter(|it| !it.starts_with("— w2.example")).map(|it| format!("{it}\n")).collect();
    std::fs::write(&file, cut).unwrap();
    let (code, said) = check(&folder.path().join("policy"), receipt["leaf_hash"].as_str().unwrap());
    assert!(code == 1 && said.contains("cosignatures that the policy asks for"), "{code}: {said}");
    // A missing witness stops nothing; when it is back it catches up.
    two.kill();
    for _ in 0..3 {
        app.submitter().submit(&entry()).await;
    }
    two.start();
    let size = app.submitter().submit(&entry()).await["sequence"].as_u64().unwrap() + 1;
    let (later, _) = cosigned(&app, &policy, size).await;
    app.stop();
    settle(app.dir());
    let anchors = std::fs::read_to_string(folder.path().join("anchors")).unwrap();
    assert!(anchors.contains(&opened.checkpoint.origin), "checkpoints are appended to the anchor file");
    // verify --since --policy, with what was cosigned.
    let since = folder.path().join("since");
    let verify = |note: &str| {
        std::fs::write(&since, note).unwrap();
        let mut command = program();
        command.args(["verify", "--json", "--dir"]).arg(app.dir()).arg("--since").arg(&since);
        let output = command.arg("--policy").arg(folder.path().join("policy")).output().unwrap();
        (output.status.code().unwrap(), serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap())
    };
    for note in [&note, &later] {
        let (code, report) = verify(note);
        assert_eq!((code, &report["witnesses"]), (0, &json!(["w1", "w2"])), "{report:#}");
    }
    let bare: String = note.lines().filter(|it| !it.starts_with("— w")).map(|it| format!("{it}\n")).collect();
    let (code, report) = verify(&bare);
    assert_eq!((code, report["verdict"].as_str()), (2, Some("unsure")), "too few witnesses: {report:#}");
    app.start();
    app.finish();
}

#[tokio::test]
async fn a_vault_that_was_put_back_with_its_lock_is_found_by_whoever_asks_a_witness() {
    let (mut app, one, _two, folder) = witnessed().await;
    let policy = policy(&folder);
    let size = app.submitter().submit(&entry()).await["sequence"].as_u64().unwrap() + 1;
    cosigned(&app, &policy, size).await;
    app.stop();
    settle(app.dir());
    let past = copy(app.dir());
    app.start();
    let later = app.submitter().submit(&entry()).await;
    cosigned(&app, &policy, later["sequence"].as_u64().unwrap() + 1).await;
    app.stop();
    settle(app.dir());
    let now = copy(app.dir());
    let lock = "keys/checkpoint.lock";
    let dir = app.dir().to_owned();
    let put_back = |from: &Path| {
        put_data(from, &dir);
        std::fs::copy(from.join(lock), dir.join(lock)).unwrap();
    };
    put_back(past.path());
    let (code, report) = app.verify();
    assert_eq!(code, 0, "the files alone are consistent: {report:#}");
    assert!(report["notes"][0].as_str().unwrap().contains("rolled back together is not excluded"));
    let origin = policy.logs[0].name();
    let seen = one.seen(origin).await.unwrap();
    let since = folder.path().join("since");
    std::fs::write(&since, &seen).unwrap();
    let held = |more: &[&str]| {
        let mut command = program();
        command.args(["verify", "--json", "--dir"]).arg(&dir).arg("--since").arg(&since).args(more);
        let output = command.output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap(), report["findings"][0]["code"].clone())
    };
    assert_eq!(held(&[]), (1, json!("behind_since")));
    // Written on from there it is a fork, and the witness does not cosign it.
    app.start();
    for _ in 0..6 {
        app.submitter().submit(&entry()).await;
    }
    for _ in 0..400 {
        if app.log().contains("the vault may have been rolled back") || app.log().contains("it answered 422") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    assert!(app.log().contains("no cosignature"), "{}", app.log());
    app.stop();
    settle(app.dir());
    assert_eq!(held(&[]), (1, json!("since_differs")));
    put_back(now.path());
    assert_eq!(held(&[]).0, 0);
    app.start();
    app.finish();
}

#[tokio::test]
async fn a_witness_refuses_every_forgery_and_remembers_through_a_kill() {
    let mut witness = Witness::make("w.example");
    let (log, stranger) = (
        NoteSigner::from_seed("log.example", &[1; 32]).unwrap(),
        NoteSigner::from_seed("log.example", &[2; 32]).unwrap(),
    );
    witness.follow(&log.verifier_key().to_string());
    witness.start();
    let leaf = |n: u8| Hash(Sha256::digest([n]).into());
    let head = |size, root| Checkpoint { origin: "log.example".into(), size, root, extensions: Vec::new() };
    let node = |a: &Hash, b: &Hash| {
        Hash(Sha256::new().chain_update([1]).chain_update(a.0).chain_update(b.0).finalize().into())
    };
    let (one, two) = (head(1, leaf(0)), head(2, node(&leaf(0), &leaf(1))));
    let request = |old, proof: &[Hash], head: &Checkpoint, signer: &NoteSigner| {
        AddCheckpoint { old, proof: proof.to_vec(), note: head.sign(signer).unwrap() }.to_string()
    };
    assert_eq!(witness.seen("log.example").await, None);
    let (status, _, line) = witness.ask(&request(0, &[], &one, &log)).await;
    assert_eq!(status, 200, "{line}");
    let key = witness.key.parse().unwrap();
    let mut note = Note::parse(&one.sign(&log).unwrap()).unwrap();
    note = Note::parse(&format!("{note}{line}")).unwrap();
    note.verify(std::slice::from_ref(&key)).unwrap();
    // It remembers what it cosigned, although it was killed right after.
    witness.kill();
    witness.start();
    let kept = witness.seen("log.example").await.unwrap();
    assert_eq!(Note::parse(&kept).unwrap(), note);
    let forked = head(2, leaf(9));
    let elsewhere = Checkpoint { origin: "other.example".into(), ..two.clone() };
    for (what, request, status) in [
        ("another size", request(0, &[], &two, &log), 409),
        ("a fork", request(1, &[leaf(1)], &forked, &log), 422),
        ("a fork at the same size", request(1, &[], &head(1, leaf(9)), &log), 409),
        ("no proof", request(1, &[], &two, &log), 422),
        ("a wrong proof", request(1, &[leaf(2)], &two, &log), 422),
        ("another key", request(1, &[leaf(1)], &two, &stranger), 403),
        ("another log", request(0, &[], &elsewhere, &log), 404),
        ("a step back", request(2, &[], &one, &log), 400),
        ("rubbish", "rubbish".into(), 400),
        ("nothing", String::new(), 400),
        ("too much", "x".repeat(100_000), 400),
    ] {
        let (found, kind, body) = witness.ask(&request).await;
        assert_eq!(found, status, "{what}: {body}");
        if status == 409 {
            assert_eq!((kind.as_str(), body.as_str()), ("text/x.tlog.size", "1\n"), "{what}");
        }
    }
    assert_eq!(witness.seen("log.example").await.unwrap(), kept, "nothing refused changes what it knows");
    assert_eq!(witness.ask(&request(1, &[leaf(1)], &two, &log)).await.0, 200);
    assert_eq!(witness.ask(&request(2, &[], &two, &log)).await.0, 200, "the same again is cosigned again");
    // A file that it did not write is not believed.
    witness.kill();
    let file = witness.dir().join("seen").join(hex::encode(Sha256::digest("log.example")));
    std::fs::write(&file, one.sign(&log).unwrap()).unwrap();
    witness.start();
    let (status, _, body) = witness.ask(&request(1, &[leaf(1)], &two, &log)).await;
    assert_eq!(status, 500, "{body}");
}
