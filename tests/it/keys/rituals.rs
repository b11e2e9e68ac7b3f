//! Every command of docs/rituals.md is run, and prints what the page shows; `PHIVAULT_TEST_WRITE=1` writes the page anew. Ids, times
//! and counts may differ, and so may the width of tables.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::{TEN_YEARS, Two};
use crate::app::{entry, program, unlock_file};

const YEARS: &str = "<!-- eleven years pass -->";

/// What differs from run to run reads alike afterwards.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let words =
            line.split(|c: char| c.is_whitespace() || "│┆┌┐└┘├┤┬┴┼─═╞╡╪".contains(c)).filter(|it| !it.is_empty());
        let words: Vec<String> = words.map(|word| word.replace(|c: char| c.is_ascii_digit(), "#")).collect();
        let is_id = |it: &str| {
            let hex = it.trim_matches(|c: char| ":.,".contains(c));
            hex.len() >= 8 && hex.chars().all(|c| c.is_ascii_hexdigit() || "#-".contains(c))
                || it.len() > 60
                || it.starts_with("apr-")
                || it.starts_with("tok-")
                || it.starts_with("hold-")
                || it.contains("phv_")
                || it.contains("/tmp/")
                || it.contains("phivault.local/")
        };
        let words: Vec<String> =
            words.into_iter().map(|it| if is_id(&it) { "ID".to_owned() } else { squeeze(&it) }).collect();
        if !words.is_empty() {
            out.push_str(&words.join(" "));
            out.push('\n');
        }
    }
    out
}

/// Runs of digits count as one.
fn squeeze(word: &str) -> String {
    let mut out = String::new();
    for c in word.chars().filter(|it| *it != ',') {
        if !(c == '#' && out.ends_with('#')) {
            out.push(c);
        }
    }
    out
}

/// Splits a command line at spaces outside double quotes.
fn words(line: &str) -> Vec<String> {
    let (mut all, mut quoted) = (vec![String::new()], false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => all.push(String::new()),
            c => all.last_mut().unwrap().push(c),
        }
    }
    all
}

struct Desk {
    two: Two,
    folder: tempfile::TempDir,
    known: BTreeMap<&'static str, String>,
}

impl Desk {
    async fn set_up() -> Self {
        let two = Two { app: crate::app::App::spawn().await, second: String::new() };
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            use std::os::unix::fs::PermissionsExt as _;
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        };
        file("admin.token", &two.app.admin().token);
        file("officer.token", &two.app.officer().token);
        file("recovery.txt", "five words in an envelope\n");
        file("new.key", &"7b".repeat(32));
        let receipt = two.app.submitter().submit(&entry()).await;
        let known = BTreeMap::from([
            ("$ENTRY", receipt["id"].as_str().unwrap().to_owned()),
            ("$DIR", two.app.dir().display().to_string()),
        ]);
        Self { two, folder, known }
    }

    /// Runs one line; gives back what it printed.
    fn run(&mut self, who: &str, line: &str) -> String {
        let mut command: Command = program();
        for word in words(line).iter().skip(1) {
            command.arg(self.known.get(word.as_str()).unwrap_or(word));
        }
        command.current_dir(self.folder.path()).env("COLUMNS", "120");
        command.env("PHIVAULT_URL", self.two.app.url());
        command.env("PHIVAULT_TOKEN_FILE", self.folder.path().join(format!("{who}.token")));
        let output = command.output().unwrap();
        let printed = crate::app::text(&output);
        for word in printed.split(|c: char| c.is_whitespace() || ":.,".contains(c)) {
            let name = if word.starts_with("apr-") {
                "$REQUEST"
            } else if word.starts_with("hold-") {
                "$HOLD"
            } else if word.starts_with("tok-") {
                "$TOKEN"
            } else {
                continue;
            };
            // The oldest token of a list is the first administrator's own; the newest is the one that leaves.
            self.known.insert(name, word.to_owned());
        }
        let only = printed.trim();
        if only.len() == 64 && only.chars().all(|c| c.is_ascii_hexdigit()) {
            self.known.insert("$HASH", only.to_owned());
        }
        let mut after = printed.split_whitespace().skip_while(|it| *it != "Certificate");
        if let Some(id) = after.nth(1) {
            self.known.insert("$CERTIFICATE", id.trim_end_matches(':').to_owned());
        }
        printed
    }

    fn years_pass(&mut self) {
        self.two.app.stop();
        std::fs::copy(self.folder.path().join("new.key"), unlock_file(self.two.app.dir())).unwrap();
        self.two.app.set("PHIVAULT_TEST_DAYS_AHEAD", &TEN_YEARS.to_string());
        self.two.app.start();
    }
}

#[tokio::test]
async fn the_page_of_rituals_is_what_happens() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rituals.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let mut desk = Desk::set_up().await;
    let (mut written, mut in_block, mut commands) = (String::new(), false, 0);
    for line in page.lines() {
        if line == YEARS {
            desk.years_pass();
        }
        if line.starts_with("```") {
            in_block = line == "```console";
        }
        let prompt = line.split_once("$ ").filter(|(who, _)| in_block && ["admin", "second", "officer"].contains(who));
        match prompt {
            Some((who, command)) => {
                commands += 1;
                // The first token that was made is the second administrator's.
                // A running vault has entries that no checkpoint covers yet, now more and now fewer.
                let still = command.starts_with("phivault verify");
                if still {
                    desk.two.app.stop();
                }
                let printed = desk.run(who, command);
                if still {
                    desk.two.app.start();
                }
                written.push_str(&format!("{line}\n{}", printed.trim_end()));
                if !printed.trim().is_empty() {
                    written.push('\n');
                }
            }
            None if in_block && line != "```console" => {}
            None => {
                written.push_str(line);
                written.push('\n');
            }
        }
    }
    assert!(commands > 20, "the page has its commands");
    if std::env::var("PHIVAULT_TEST_WRITE").is_ok_and(|it| it == "1") {
        std::fs::write(&path, &written).unwrap();
    }
    let page = std::fs::read_to_string(&path).unwrap();
    let (wanted, found) = (plain(&page), plain(&written));
    for (wanted, found) in wanted.lines().zip(found.lines()) {
        assert_eq!(wanted, found, "the whole page would be:\n{written}");
    }
    assert_eq!(wanted, found);
    assert!(!page.contains("error: the vault") || page.contains("held"), "only the hold refuses");
    desk.two.app.finish();
}
