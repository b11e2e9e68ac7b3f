//! A spawned vault: `phivault init` and `phivault serve` in a temporary folder, spoken to over HTTP with a role's token.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use phivault::crypto::token::PlainToken;
use phivault::domain::caller::Role;
use serde_json::{Value, json};

use crate::check::check_vault;

/// The program under test; `PHIVAULT_TEST_PROGRAM` names another build of it.
pub fn program() -> Command {
    let built = env!("CARGO_BIN_EXE_phivault");
    let mut command = Command::new(std::env::var_os("PHIVAULT_TEST_PROGRAM").unwrap_or(built.into()));
    // Nothing of the developer's environment may reach it.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PHIVAULT_")) {
        command.env_remove(name);
    }
    command
}

/// How a vault is made.
#[derive(Default, Clone)]
pub struct Options {
    /// `--blind`.
    pub blind: bool,
    /// Settings as `PHIVAULT_SECTION__NAME`.
    pub env: Vec<(String, String)>,
}

/// A running vault. Dropping it kills the server.
pub struct App {
    folder: tempfile::TempDir,
    options: Options,
    server: Option<Child>,
    url: String,
    http: reqwest::Client,
    admin: String,
    tokens: Vec<(Role, String)>,
}

/// What the server answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The stable code of a problem.
    pub fn code(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        self.json()["code"].as_str().unwrap().to_owned()
    }
}

/// A client with a role's token.
#[derive(Clone)]
pub struct Client {
    url: String,
    http: reqwest::Client,
    pub token: String,
}

impl App {
    /// A fresh vault with a token for each role. `PHIVAULT_TEST_BLIND=1` runs the same tests with blind patient ids.
    pub async fn spawn() -> Self {
        let blind = std::env::var("PHIVAULT_TEST_BLIND").is_ok_and(|it| it == "1");
        Self::spawn_with(Options { blind, ..Options::default() }).await
    }

    /// A fresh vault made in a certain way.
    pub async fn spawn_with(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let admin = init(folder.path(), options.blind);
        let http = http();
        let mut app = Self { folder, options, server: None, url: String::new(), http, admin, tokens: Vec::new() };
        app.start();
        for role in Role::ALL {
            let token = match role {
                Role::Admin => app.admin.clone(),
                _ => app.make_token(role, &format!("{}-app", role.name())).await,
            };
            app.tokens.push((role, token));
        }
        app
    }

    /// Makes a further token.
    pub async fn make_token(&self, role: Role, label: &str) -> String {
        let admin = Client { url: self.url.clone(), http: self.http.clone(), token: self.admin.clone() };
        let own = PlainToken::generate();
        let mut asked = json!({"role": role.name(), "label": label});
        if role == Role::Patient {
            asked["patient"] = json!("MRN-12345");
        }
        if role == Role::Admin {
            asked["token_hash"] = json!(hex::encode(own.hashed().0));
        }
        let answer = admin.post("/v1/tokens", &asked).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["token"].as_str().unwrap_or(own.expose()).to_owned()
    }

    /// A client with that role.
    pub fn client(&self, role: Role) -> Client {
        let (_, token) = self.tokens.iter().find(|(it, _)| *it == role).unwrap();
        self.with_token(token)
    }

    /// A client with any token.
    pub fn with_token(&self, token: &str) -> Client {
        Client { url: self.url.clone(), http: self.http.clone(), token: token.to_owned() }
    }

    pub fn submitter(&self) -> Client {
        self.client(Role::Submitter)
    }

    pub fn officer(&self) -> Client {
        self.client(Role::Officer)
    }

    pub fn auditor(&self) -> Client {
        self.client(Role::Auditor)
    }

    pub fn admin(&self) -> Client {
        self.client(Role::Admin)
    }

    /// The server's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The vault's folder: phivault.toml, data/, keys/.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// What the server wrote to standard error since it was made.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("server.log")).unwrap_or_default()
    }

    /// Gives the server a further setting from its next start on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.options.env.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the server on a free port and waits until it announces its address.
    pub fn start(&mut self) {
        self.try_start().unwrap_or_else(|output| panic!("the server did not start: {output}"));
    }

    /// Starts the server; gives back what it wrote when it refuses to start.
    pub fn try_start(&mut self) -> Result<(), String> {
        assert!(self.server.is_none(), "the server runs already");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir().join("server.log")).unwrap();
        let mut command = program();
        command.arg("serve").arg("--config").arg(self.dir().join("phivault.toml"));
        command.env("PHIVAULT_SERVER__LISTEN", "127.0.0.1:0").envs(self.options.env.iter().cloned());
        let before = self.log().len();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        match line.split_whitespace().find(|word| word.starts_with("http")) {
            Some(url) => {
                self.url = url.to_owned();
                self.server = Some(child);
                Ok(())
            }
            None => {
                child.wait().unwrap();
                Err(self.log()[before..].to_owned())
            }
        }
    }

    /// Sends a signal to the server.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(self.server.as_ref().unwrap());
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// The id of the server's process.
    pub fn process(&self) -> u32 {
        self.server.as_ref().unwrap().id()
    }

    /// The server, for who ends it otherwise.
    pub fn take_server(&mut self) -> Option<std::process::Child> {
        self.server.take()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let mut child = self.server.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; the server must end by itself with exit code 0.
    pub fn stop(&mut self) {
        let mut child = self.server.take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// Stops the server if it runs, and re-derives every invariant of the vault from its files.
    pub fn finish(mut self) {
        if self.server.is_some() {
            self.stop();
        }
        check_vault(self.dir());
    }

    /// `phivault verify --json`: exit code and report.
    pub fn verify(&self) -> (i32, Value) {
        verify(self.dir())
    }
}

impl Drop for App {
    fn drop(&mut self) {
        if let Some(mut child) = self.server.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Client {
    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.http.get(self.at(path))).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.http.delete(self.at(path))).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_text(path, "application/json", body.to_string()).await
    }

    pub async fn post_text(&self, path: &str, media_type: &str, body: impl Into<reqwest::Body>) -> Answer {
        self.send(self.http.post(self.at(path)).header("content-type", media_type).body(body)).await
    }

    /// Submits one entry and expects it to go in.
    pub async fn submit(&self, entry: &Value) -> Value {
        let answer = self.post("/v1/entries", entry).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()
    }

    /// Sends a request with the token.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        self.try_send(request).await.unwrap()
    }

    /// Sends a request with the token; the connection may break.
    pub async fn try_send(&self, request: reqwest::RequestBuilder) -> reqwest::Result<Answer> {
        let response = request.bearer_auth(&self.token).send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, text: response.text().await? })
    }

    /// A request to be built further.
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, self.at(path))
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }
}

/// A plain HTTP client.
pub fn http() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A connection that idled is closed by the server just as it would be used again.
    let http = reqwest::Client::builder().pool_idle_timeout(Duration::from_secs(5));
    let http = http.no_proxy().tls_certs_only([]).timeout(Duration::from_secs(60));
    http.build().unwrap()
}

/// An ordinary entry; tests change what they are about.
pub fn entry() -> Value {
    json!({
        "action": "update",
        "actor": {"id": "dr_smith", "role": "physician"},
        "patient": {"id": "MRN-12345"},
        "record": {"type": "Condition", "id": "c-77"},
        "reason": {"code": "TREAT", "change": "NEWDATA", "note": "Annual checkup"},
        "changes": [{"field": "diagnosis", "old": "Hypertension", "new": "Hypertension, Type 2 Diabetes"}]
    })
}

/// Makes a vault under a key file; gives back its admin token.
pub fn init(dir: &Path, blind: bool) -> String {
    let key_file = unlock_file(dir);
    if !key_file.exists() {
        std::fs::write(&key_file, "5a".repeat(32)).unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let mut command = program();
    command.arg("init").arg("--dir").arg(dir).arg("--key-file").arg(&key_file);
    if blind {
        command.arg("--blind");
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The key file that unlocks a vault made by [`init`].
pub fn unlock_file(dir: &Path) -> PathBuf {
    dir.join("unlock.key")
}

/// `phivault verify --json`: exit code and report.
pub fn verify(dir: &Path) -> (i32, Value) {
    let output = program().arg("verify").arg("--json").arg("--dir").arg(dir).output().unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
    (output.status.code().unwrap(), report)
}

/// Everything a program wrote.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
