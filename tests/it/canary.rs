//! No value in clear at rest or in passing. A full scenario plants values; then every file, log, error and figure is searched
//! for them in every form they might take. Everything planted begins and ends with one mark, so that a search for the mark
//! also finds what was cut.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use phivault::domain::caller::Role;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::app::{Answer, App, Options, entry, program, text};

use forms::{Canaries, MARK, Search, files, latin, search_files, search_verify, strings};

mod forms;
mod refused;

const NDJSON: &str = "application/x-ndjson";
const JSON: &str = "application/json";

struct Scenario {
    app: App,
    canaries: Canaries,
    /// What must be sealed in the vault by now.
    sealed: HashSet<String>,
    /// Answers that must not hold anything that was planted.
    answers: Vec<(String, Answer)>,
    /// Ids of what went in.
    ids: Vec<String>,
    /// Every token there was.
    tokens: Vec<String>,
}

impl Scenario {
    /// A text that is about to be sealed.
    fn seal(&mut self, what: &str) -> String {
        let text = self.canaries.text(what);
        self.sealed.insert(text.clone());
        text
    }

    /// A word that is about to be sealed.
    fn seal_word(&mut self, what: &str) -> String {
        let word = self.canaries.word(what);
        self.sealed.insert(word.clone());
        word
    }

    fn planted(&mut self) -> Value {
        let long = format!("{} {}", self.canaries.text("Long"), "x".repeat(9_000));
        self.sealed.insert(long.clone());
        json!({
            "id": uuid::Uuid::now_v7(),
            "action": "disclose",
            "actor": {"id": "dr_smith", "name": self.seal("ActorName")},
            "patient": {"id": "MRN-12345"},
            "record": {"type": "Condition", "id": "c-77-in-clear"},
            "reason": {"code": "TREAT", "note": self.seal("Note")},
            "changes": [
                {"field": "diagnosis", "old": self.seal("Old"), "new": {self.seal("Key"): [[self.seal("Nested")], 7.0]}},
                {"field": "long", "old": null, "new": long}
            ],
            "disclosure": {
                "recipient": {"name": self.seal("Recipient"), "address": self.seal("Address")},
                "description": self.seal("Description"), "basis": "164.512(b)"
            },
            "context": {"session_id": "s-1", "bed": self.seal("Context")}
        })
    }

    /// Like [`Self::planted`], of something that will not get in.
    fn refused(&mut self) -> Value {
        let sealed = self.sealed.clone();
        let planted = self.planted();
        self.sealed = sealed;
        planted
    }

    #[track_caller]
    fn answered(&mut self, what: &str, expected: &[u16], answer: Answer) -> Value {
        assert!(expected.contains(&answer.status), "{what}: {answer:?}");
        let body = serde_json::from_str(&answer.text).unwrap_or_default();
        self.answers.push((what.to_owned(), answer));
        body
    }

    #[track_caller]
    fn refusal(&mut self, what: &str, answer: Answer) {
        self.answered(what, &[400, 401, 403, 404, 405, 409, 413, 415, 422], answer);
    }

    async fn submit(&mut self) {
        let client = self.app.submitter();
        let mut sent: Vec<_> = (0..20).map(|_| self.planted()).collect();
        for it in &sent[..6] {
            self.answered("a submission", &[201], client.post("/v1/entries", it).await);
        }
        let lines: Vec<_> = sent[6..12].iter().map(Value::to_string).collect();
        self.answered("a batch", &[200], client.post_text("/v1/entries/batch", NDJSON, lines.join("\n")).await);
        let array = json!(sent[12..18]);
        self.answered("an array", &[200], client.post("/v1/entries/batch", &array).await);
        let mut bad = self.refused();
        bad["reason"]["code"] = json!(self.canaries.word("Code"));
        let lines = [sent[18].to_string(), bad.to_string(), format!("{{\"action\": \"{}", self.canaries.word("Line"))];
        let answer = client.post_text("/v1/entries/batch?partial=true", NDJSON, lines.join("\n")).await;
        assert_eq!(self.answered("a partial batch", &[200], answer)["refused"], 2);
        self.answered("a duplicate", &[200], client.post("/v1/entries", &sent[0]).await);
        let answer = client.post_text("/v1/entries/batch", NDJSON, sent[1].to_string()).await;
        assert_eq!(self.answered("a duplicate in a batch", &[200], answer)["duplicates"], 1);
        sent[0]["changes"][0]["old"] = json!(self.canaries.text("Conflict"));
        self.answered("a conflict", &[409], client.post("/v1/entries", &sent[0]).await);
        let lines = [sent[0].to_string(), self.refused().to_string()];
        let answer = client.post_text("/v1/entries/batch", NDJSON, lines.join("\n")).await;
        self.answered("a conflict in a batch", &[409], answer);
        let atomic = [self.refused(), bad];
        self.answered("a refused batch", &[422], client.post("/v1/entries/batch", &json!(atomic)).await);
        // The last one was only made; nothing of it must be there.
        let never = sent.remove(19);
        let mut unsent = HashSet::new();
        strings(&never, &mut unsent);
        self.sealed.retain(|it| !unsent.contains(it));
        self.ids = sent[..19].iter().map(|it| it["id"].as_str().unwrap().to_owned()).collect();
    }

    /// Searches and reports: their filters are sealed.
    async fn ask(&mut self) {
        let officer = self.app.officer();
        for name in ["patient", "actor", "field", "reason", "category", "session", "source"] {
            let (url, body) = (self.seal_word(name), self.seal_word(name));
            let page = self.answered(name, &[200], officer.get(&format!("/v1/entries?{name}={url}")).await);
            assert_eq!(page["entries"], json!([]), "nothing has this {name}");
            self.answered(name, &[200], officer.post("/v1/entries/query", &json!({name: body})).await);
        }
        let (kind, id) = (self.seal_word("record_type"), self.seal_word("record_id"));
        for kind in [kind.as_str(), "Patient"] {
            let answer = officer.get(&format!("/v1/entries?record_type={kind}&record_id={id}")).await;
            self.answered("a record", &[200], answer);
        }
        for format in ["json", "csv"] {
            let actor = self.seal_word("Reported");
            let path = format!("/v1/reports/access?actor={actor}&reason=HCOMPL&format={format}");
            // A report names the user it was asked for, so its answer is not searched.
            assert_eq!(officer.get(&path).await.status, 200);
        }
        for name in ["from", "to", "action", "outcome", "order", "time", "cursor", "limit", "break_glass", "colour"] {
            let (url, body) = (self.canaries.word(name), self.canaries.word(name));
            self.refusal(name, officer.get(&format!("/v1/entries?{name}={url}")).await);
            self.refusal(name, officer.post("/v1/entries/query", &json!({name: body})).await);
        }
        let lone = format!("/v1/entries?record_id={}", self.canaries.word("Id"));
        self.refusal("a lone record", officer.get(&lone).await);
        for name in ["from", "to", "reason", "time_zone", "format", "colour"] {
            let path = format!("/v1/reports/access?actor=a&reason=HCOMPL&{name}={}", self.canaries.word(name));
            self.refusal(name, officer.get(&path.replace("reason=HCOMPL&reason", "reason")).await);
        }
        let word = self.canaries.word("Path");
        for path in ["/v1/entries/W", "/v1/entries/W/proof", "/W", "/v1/W?W=W", "/v1/tokens/W?reason=HSYSADMIN"] {
            let path = path.replace('W', &word);
            self.refusal("a path", officer.get(&path).await);
            self.refusal("a path", self.app.admin().delete(&path).await);
        }
        self.refusal("a wrong token", self.app.with_token(&word).get(&format!("/v1/entries?actor={word}")).await);
        let request = officer.request(reqwest::Method::GET, "/v1/entries?limit=1");
        let request = request.header("x-request-id", &word).header("cookie", &word).header("content-type", &word);
        let answer = officer.send(request).await;
        self.answered("headers", &[200], answer);
    }

    /// Reveals, rotation and tokens: their notes are sealed.
    async fn operate(&mut self) {
        let (officer, admin, submitter) = (self.app.officer(), self.app.admin(), self.app.submitter());
        let one = format!("/v1/entries/{}/reveal", self.ids[0]);
        let why = |note: String| json!({"reason": {"code": "HCOMPL", "note": note}});
        let shown = officer.post(&one, &why(self.seal("RevealNote"))).await;
        assert_eq!(shown.status, 200, "{shown:?}");
        let mut many = why(self.seal("RevealNote"));
        many["ids"] = json!(self.ids);
        assert_eq!(officer.post("/v1/reveal", &many).await.status, 200);
        let answer = admin.post("/v1/keys/rotate", &why(self.seal("RotateNote"))).await;
        self.answered("a rotation", &[200], answer);
        let mut token = why(self.seal("TokenNote"));
        (token["role"], token["label"]) = (json!("officer"), json!("for-a-day"));
        let made = admin.post("/v1/tokens", &token).await.json();
        let (id, secret) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap().to_owned());
        assert_eq!(self.app.with_token(&secret).get("/v1/entries?limit=1").await.status, 200);
        self.answered("a revocation", &[204], admin.delete(&format!("/v1/tokens/{id}?reason=HSYSADMIN")).await);
        self.refusal("a revoked token", self.app.with_token(&secret).get("/v1/entries?limit=1").await);
        self.tokens.push(secret);
        // None of these is let through, and their notes are nowhere.
        let word = self.canaries.word("Refused");
        let note = self.canaries.text("Refused");
        for reason in
            [json!({"code": word, "note": note}), json!({"note": note}), json!({"code": "HCOMPL", "note": [note]})]
        {
            let (reason, mut token) = (json!({"reason": reason}), token.clone());
            token["reason"] = reason["reason"].clone();
            self.refusal("a refused reveal", officer.post(&one, &reason).await);
            self.refusal("a refused rotation", admin.post("/v1/keys/rotate", &reason).await);
            self.refusal("a refused token", admin.post("/v1/tokens", &token).await);
        }
        for name in ["role", "expires_at", "allowed_sources"] {
            let mut token = token.clone();
            token[name] = if name == "allowed_sources" { json!([word]) } else { json!(word) };
            self.refusal(name, admin.post("/v1/tokens", &token).await);
        }
        self.refusal("a denied reveal", submitter.post(&one, &why(note.clone())).await);
        self.refusal("a denied search", submitter.post("/v1/entries/query", &json!({"patient": word})).await);
        let denied = self.refused();
        self.refusal("a denied submission", officer.post("/v1/entries", &denied).await);
        many["ids"] = json!([word]);
        self.refusal("a reveal of no id", officer.post("/v1/reveal", &many).await);
    }

    /// What the vault says of itself.
    async fn look(&mut self) {
        let (auditor, admin) = (self.app.auditor(), self.app.admin());
        let proof = format!("/v1/entries/{}/proof", self.ids[1]);
        let view = format!("/v1/entries/{}", self.ids[1]);
        for path in ["/metrics", "/readyz", "/healthz", "/checkpoint", "/v1/entries?limit=1000", &proof, &view] {
            self.answered(path, &[200], auditor.get(path).await);
        }
        for path in ["/v1/tokens", "/v1/keys"] {
            self.answered(path, &[200], admin.get(path).await);
        }
    }

    /// Everything that should be sealed is: a reveal of all entries shows it, so the search for it was not idle.
    async fn reveal_everything(&self) {
        let page = self.app.officer().get("/v1/entries?limit=1000").await.json();
        assert_eq!(page["next"], Value::Null, "one page holds everything");
        let ids: Vec<_> = page["entries"].as_array().unwrap().iter().map(|it| it["id"].clone()).collect();
        let asked = json!({"ids": ids, "reason": {"code": "HCOMPL"}});
        let answer = self.app.officer().post("/v1/reveal", &asked).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut shown = HashSet::new();
        strings(&answer.json(), &mut shown);
        let missing: Vec<_> = self.sealed.difference(&shown).collect();
        assert!(self.sealed.len() > 150 && missing.is_empty(), "{missing:?} of {} are not sealed", self.sealed.len());
    }

    /// What must be nowhere: what was planted, the tokens, and what unlocks the keyring.
    fn search(&self) -> Search {
        let mut search = Search::new("something planted", MARK.as_bytes());
        for token in &self.tokens {
            let secret = token.strip_prefix("phv_").unwrap();
            search = search.and("a token", secret.as_bytes()).and("a token", &hex::decode(&secret[..64]).unwrap());
        }
        search.and("the key file", "5a".repeat(32).as_bytes()).and("the key", &[0x5a; 32])
    }
}

async fn scenario(blind: bool) {
    let env = vec![("PHIVAULT_LOG__LEVEL".into(), "debug".into())];
    let app = App::spawn_with(Options { blind, env }).await;
    let tokens = Role::ALL.map(|role| app.client(role).token).to_vec();
    let mut it = Scenario {
        app,
        canaries: Canaries::default(),
        sealed: HashSet::new(),
        answers: Vec::new(),
        ids: Vec::new(),
        tokens,
    };
    it.submit().await;
    it.be_refused().await;
    it.be_malformed().await;
    it.ask().await;
    it.operate().await;
    it.look().await;
    // A clean stop, then a kill: the database alone, and the database with its write-ahead log.
    it.app.stop();
    let search = it.search();
    search_files(it.app.dir(), &search, "c-77-in-clear");
    it.app.start();
    it.submit().await;
    it.reveal_everything().await;
    it.look().await;
    it.app.kill();
    let paths = files(it.app.dir());
    for name in ["vault.db", "vault.db-wal", "keyring", "checkpoint.lock", "server.log"] {
        assert!(paths.iter().any(|it| it.ends_with(name)), "{name} is not among what is searched: {paths:?}");
    }
    search_files(it.app.dir(), &search, "c-77-in-clear");
    search_verify(it.app.dir(), &search);
    let holds = |answer: &Answer| search.find(format!("{:?} {}", answer.headers, answer.text).as_bytes());
    let leaks: Vec<_> = it.answers.iter().filter_map(|(what, answer)| Some((what, holds(answer)?, answer))).collect();
    assert!(leaks.is_empty(), "answers that hold what they must not: {leaks:#?}");
    let log = it.app.log();
    assert!(log.contains("/v1/entries/{id}/reveal"), "requests are logged, so the log was worth a search: {log}");
    check_hashes(it.app.dir(), &it.tokens);
    it.app.start();
    it.app.finish();
}

/// Of each token its SHA-256 is in the database.
fn check_hashes(dir: &Path, tokens: &[String]) {
    let bytes: Vec<_> = files(&dir.join("data")).iter().map(|it| std::fs::read(it).unwrap()).collect();
    for token in tokens {
        let hash = latin(&Sha256::digest(token.as_bytes()));
        assert!(bytes.iter().any(|it| latin(it).contains(&hash)), "the hash of a token is not in the database");
    }
}

#[tokio::test]
async fn no_sealed_value_is_anywhere_in_clear() {
    scenario(false).await;
}

#[tokio::test]
async fn no_sealed_value_is_anywhere_in_clear_with_blind_ids() {
    scenario(true).await;
}

#[tokio::test]
async fn blind_patient_ids_are_not_on_disk_and_still_found() {
    let env = vec![("PHIVAULT_LOG__LEVEL".into(), "debug".into())];
    let mut app = App::spawn_with(Options { blind: true, env }).await;
    let mut canaries = Canaries::default();
    let (patient, other) = (canaries.word("Patient"), canaries.word("Other"));
    let mut sent = entry();
    sent["id"] = json!(uuid::Uuid::now_v7());
    sent["patient"]["id"] = json!(patient);
    sent["record"] = json!({"type": "Patient", "id": patient});
    sent["related"] = json!([{"type": "Patient", "id": other}, {"type": "Encounter", "id": "e-9-in-clear"}]);
    let id = app.submitter().submit(&sent).await["id"].clone();
    let path = format!("/v1/entries/{}", id.as_str().unwrap());
    // What is refused says nothing of the patient.
    let search = Search::new("a patient's id", MARK.as_bytes());
    let mut changed = sent.clone();
    changed["patient"]["id"] = json!(canaries.word("Changed"));
    let mut bad = changed.clone();
    (bad["id"], bad["reason"]["code"]) = (json!(uuid::Uuid::now_v7()), json!("NOPE"));
    for (body, status) in [(&sent, 200), (&changed, 409), (&bad, 422)] {
        let answer = app.submitter().post("/v1/entries", body).await;
        assert_eq!(answer.status, status, "{answer:?}");
        search.finds_nothing_in("an answer to a submitter", answer.text.as_bytes());
    }
    for round in 0..2 {
        find_blind(&app, &sent, &other).await;
        let view = app.auditor().get(&path).await.json();
        assert_shown(&view, &sent);
        let rotated = app.admin().post("/v1/keys/rotate", &json!({"reason": {"code": "HSYSADMIN"}})).await;
        assert_eq!(rotated.status, 200, "{rotated:?}");
        app.kill();
        search_files(app.dir(), &search, "e-9-in-clear");
        search_verify(app.dir(), &search);
        app.start();
        let trail = json!({"patient": patient, "action": "reveal"});
        let trail = app.officer().post("/v1/entries/query", &trail).await.json();
        assert_eq!(trail["entries"].as_array().unwrap().len(), round + 1, "the patient's own trail shows who looked");
    }
    app.finish();
}

fn assert_shown(view: &Value, sent: &Value) {
    assert_eq!(view["id"], sent["id"], "{view:#}");
    assert_eq!(view["patient"]["id"], sent["patient"]["id"], "{view:#}");
    assert_eq!((&view["record"], &view["related"]), (&sent["record"], &sent["related"]), "{view:#}");
}

/// Finds an entry by each blinded id, in every way to ask, and reveals it once.
async fn find_blind(app: &App, sent: &Value, other: &str) {
    let officer = app.officer();
    let patient = sent["patient"]["id"].as_str().unwrap();
    for asked in [
        vec![("patient", patient), ("action", "update")],
        vec![("patient", other), ("action", "update")],
        vec![("record_type", "Patient"), ("record_id", patient)],
    ] {
        let body = asked.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let page = officer.post("/v1/entries/query", &Value::Object(body)).await.json();
        let url: Vec<_> = asked.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let same = officer.get(&format!("/v1/entries?{}", url.join("&"))).await.json();
        for page in [page, same] {
            assert_eq!(page["entries"].as_array().unwrap().len(), 1, "{page:#}");
            assert_shown(&page["entries"][0], sent);
        }
    }
    let asked = json!({"ids": [sent["id"]], "reason": {"code": "HCOMPL"}});
    let shown = officer.post("/v1/reveal", &asked).await.json();
    assert_shown(&shown["entries"][0], sent);
    assert!(shown["entries"][0].get("other").is_none(), "ids are not shown twice: {shown:#}");
    let report = officer.get("/v1/reports/access?actor=dr_smith&reason=HCOMPL").await.json();
    assert_eq!(report["actors"][0]["by_patient"], json!({patient: 1}), "{report:#}");
}

#[tokio::test]
async fn a_passphrase_is_in_no_file_and_no_output() {
    let (vault, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut canaries = Canaries::default();
    let passphrases = ["right", "wrong"].map(|name| {
        let path = elsewhere.path().join(name);
        std::fs::write(&path, format!("{}\n", canaries.word("Passphrase"))).unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    });
    let search = Search::new("a passphrase", MARK.as_bytes());
    let mut init = program();
    init.arg("init").arg("--dir").arg(vault.path()).arg("--passphrase-file").arg(&passphrases[0]);
    let output = init.args(["--argon2-mib", "8"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    search.finds_nothing_in("the output of init", text(&output).as_bytes());
    let token = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let serve = |passphrase: &Path| {
        let mut serve = program();
        serve.arg("serve").arg("--config").arg(vault.path().join("phivault.toml"));
        serve.env("PHIVAULT_SERVER__LISTEN", "127.0.0.1:0").env("PHIVAULT_LOG__LEVEL", "debug");
        serve.env("PHIVAULT_KEYS__PASSPHRASE_FILE", passphrase);
        serve
    };
    let output = serve(&passphrases[1]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "a wrong passphrase opens the vault: {}", text(&output));
    search.finds_nothing_in("the refusal of a wrong passphrase", text(&output).as_bytes());
    let log = std::fs::File::create(vault.path().join("server.log")).unwrap();
    let mut server = serve(&passphrases[0]).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(line.contains("http://"), "the server did not start: {line}");
    search.finds_nothing_in("what the server announces", line.as_bytes());
    let search = search.and("the admin token", token.strip_prefix("phv_").unwrap().as_bytes());
    search_files(vault.path(), &search, "vault_create");
    search_verify(vault.path(), &search);
}
