//! The pages of docs/seeds are what happens: each command is sent to a real server, and its answer is what the page shows.
//! `PHIVAULT_TEST_WRITE=1` writes the pages anew. Ids, hashes, positions and times of receipt may differ.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use phivault::domain::caller::Role;
use serde_json::{Value, json};

use crate::app::{App, Options};

/// What differs from run to run.
const LOOSE: [&str; 16] = [
    "id",
    "leaf_hash",
    "received_at",
    "sequence",
    "after_sequence",
    "entry",
    "after",
    "recorded_as",
    "key_version",
    "number",
    "previous",
    "place",
    "request_id",
    "at",
    "newest",
    "when",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/seeds")
}

/// An answer without what differs.
fn firm(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let one = |(name, it): (&String, &Value)| {
                let firm = if LOOSE.contains(&name.as_str()) && !it.is_object() { json!("*") } else { firm(it) };
                (name.clone(), firm)
            };
            Value::Object(map.iter().map(one).collect())
        }
        Value::Array(all) => all.iter().map(firm).collect(),
        other => other.clone(),
    }
}

/// The same of a text that may be JSON or not.
fn firm_text(text: &str) -> String {
    match serde_json::from_str::<Value>(text) {
        Ok(value) => serde_json::to_string_pretty(&firm(&value)).unwrap(),
        Err(_) => {
            // A table: the position and the entry stand last.
            let line = |line: &str| line.rsplitn(3, ',').last().unwrap_or_default().trim().to_owned();
            text.trim().lines().map(line).collect::<Vec<_>>().join("\n")
        }
    }
}

struct Page {
    app: App,
    second: String,
    known: BTreeMap<&'static str, String>,
}

impl Page {
    async fn open(text: &str) -> Self {
        let settings = text.lines().find_map(|it| it.strip_prefix("<!-- settings: ")?.strip_suffix(" -->"));
        let env = settings.unwrap_or_default().split_whitespace().map(|it| {
            let (name, value) = it.split_once('=').unwrap();
            let file = folder().join(value);
            (name.to_owned(), if file.exists() { file.display().to_string() } else { value.to_owned() })
        });
        let app = App::spawn_with(Options { env: env.collect(), ..Options::default() }).await;
        let second = app.make_token(Role::Officer, "second-officer").await;
        Self { app, second, known: BTreeMap::new() }
    }

    /// Sends what a command says, as curl would.
    async fn run(&mut self, command: &str) -> String {
        let (who, rest) = command.split_once(' ').unwrap();
        let client = match who {
            "app" => self.app.submitter(),
            "officer" => self.app.officer(),
            "second" => self.app.with_token(&self.second),
            other => panic!("nobody is called {other}"),
        };
        let (rest, jq) =
            rest.split_once(" | jq '").map_or((rest, None), |(rest, path)| (rest, path.strip_suffix('\'')));
        let (address, body) = rest.split_once(" -d '").map_or((rest, None), |(it, body)| (it, body.strip_suffix('\'')));
        let mut path = address.trim().trim_matches('"').strip_prefix("$URL").unwrap().to_owned();
        for (name, value) in &self.known {
            path = path.replace(name, value);
        }
        let answer = match body {
            Some(body) => client.post_text(&path, "application/json", body.to_owned()).await,
            None => client.get(&path).await,
        };
        let Ok(value) = serde_json::from_str::<Value>(&answer.text) else { return answer.text.replace('\r', "") };
        let id = value["id"].as_str().unwrap_or_default().to_owned();
        if path == "/v1/entries" {
            self.known.insert(
                "$ENTRY",
                if id.is_empty() { self.known.get("$ENTRY").cloned().unwrap_or_default() } else { id },
            );
        } else if path == "/v1/reports" {
            self.known.insert("$REPORT", id);
        } else if path.ends_with("/restore") {
            self.known.insert("$PLAN", id);
        }
        serde_json::to_string_pretty(&pick(&value, jq.unwrap_or("."))).unwrap()
    }
}

/// What a path such as `.sections[0].table` finds.
fn pick(value: &Value, path: &str) -> Value {
    let steps = path.split('.').flat_map(|it| it.split('[')).filter(|it| !it.is_empty());
    steps.fold(value.clone(), |at, step| match step.strip_suffix(']') {
        Some(n) => at[n.parse::<usize>().unwrap()].clone(),
        None => at[step].clone(),
    })
}

async fn check(name: &str) {
    let path = folder().join(name);
    let page = std::fs::read_to_string(&path).unwrap();
    let mut run = Page::open(&page).await;
    let (mut written, mut commands, mut lines) = (String::new(), 0, page.lines().peekable());
    while let Some(line) = lines.next() {
        written.push_str(&format!("{line}\n"));
        if line != "```console" {
            continue;
        }
        while let Some(line) = lines.next_if(|it| it.starts_with("$ ")) {
            let mut command = line[2..].to_owned();
            while command.matches('\'').count() % 2 == 1 {
                command = format!("{command}\n{}", lines.next().unwrap());
            }
            let mut shown = Vec::new();
            while let Some(line) = lines.next_if(|it| !it.starts_with("$ ") && !it.starts_with("```")) {
                shown.push(line);
            }
            commands += 1;
            let answer = run.run(&command).await;
            written.push_str(&format!("$ {command}\n{}\n", answer.trim_end()));
            if std::env::var("PHIVAULT_TEST_WRITE").is_err() {
                assert_eq!(firm_text(&answer), firm_text(&shown.join("\n")), "{name}: {command}\n{answer}");
            }
        }
    }
    assert!(commands >= 6, "the page has its commands");
    if std::env::var("PHIVAULT_TEST_WRITE").is_ok_and(|it| it == "1") {
        std::fs::write(&path, written).unwrap();
    }
    run.app.finish();
}

#[tokio::test]
async fn the_page_of_the_price_tracker_is_what_happens() {
    check("price-tracker.md").await;
}

#[tokio::test]
async fn the_page_of_the_patients_record_is_what_happens() {
    check("patient-record.md").await;
}

#[tokio::test]
async fn the_page_of_the_bank_account_is_what_happens() {
    check("bank-account.md").await;
}
