//! A vault that is served by a process of its own, and entries to send to it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The program, without settings from around it.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phivault"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PHIVAULT_")) {
        command.env_remove(name);
    }
    command
}

/// A vault with a submitter's token.
pub(crate) fn start_vault(dir: &Path) -> (Child, String, String) {
    std::fs::create_dir(dir).expect("a folder can be made");
    let key = dir.join("unlock.key");
    phivault::keyfile::create_key_file(&key).expect("a key file can be made");
    let made = program().arg("init").arg("--dir").arg(dir).arg("--key-file").arg(&key).output().expect("init runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut serve = program();
    serve.arg("serve").arg("--config").arg(dir.join("phivault.toml"));
    serve.env("PHIVAULT_SERVER__LISTEN", "127.0.0.1:0").env("PHIVAULT_LOG__LEVEL", "error");
    let (child, url) = announced(serve);
    let admin = dir.join("admin.token");
    std::fs::write(&admin, String::from_utf8_lossy(&made.stdout).trim()).expect("the token can be kept");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&admin, private).expect("it can be made private");
    let mut token = program();
    token
        .args(["token", "create", "--role", "submitter", "--label", "bench", "--url", &url, "--token-file"])
        .arg(&admin);
    let token = token.output().expect("the token is made");
    assert!(token.status.success(), "{}", String::from_utf8_lossy(&token.stderr));
    let text = String::from_utf8_lossy(&token.stdout).into_owned();
    let token = text.split_whitespace().find(|it| it.starts_with("phv_")).expect("a token is printed").to_owned();
    (child, url, token)
}

/// Starts a service that prints where it listens.
pub(crate) fn announced(mut command: Command) -> (Child, String) {
    let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines().map_while(Result::ok);
    let url =
        lines.find_map(|line| line.split_whitespace().find(|word| word.starts_with("http://")).map(str::to_owned));
    // What it says later must not fill the pipe.
    std::thread::spawn(move || lines.count());
    let Some(url) = url else {
        let ended = child.wait().expect("it ended");
        panic!("it ended before it said where it listens: {ended}");
    };
    (child, url)
}

/// Host and port.
pub(crate) fn address(url: &str) -> &str {
    url.trim_start_matches("http://").trim_end_matches('/')
}

/// Entries of some of 2,000 users about some of 200,000 patients.
pub(crate) struct Bodies {
    state: u64,
    value: String,
}

impl Bodies {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed, value: (0..300).map(|n| char::from(b'a' + (n % 26) as u8)).collect() }
    }

    /// Steele, Lea and Flood, 2014.
    fn chance(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 16
    }

    pub(crate) fn next(&mut self) -> String {
        let (user, patient, id) = (self.chance() % 2_000, self.chance() % 200_000, uuid::Uuid::now_v7());
        let value = &self.value;
        format!(
            r#"{{"id":"{id}","action":"update","actor":{{"id":"user-{user}","role":"physician"}},"patient":{{"id":"MRN-{patient}"}},"record":{{"type":"Observation","id":"o-{patient}"}},"reason":{{"code":"TREAT"}},"changes":[{{"field":"value","new":"{value}"}}]}}"#
        )
    }
}
