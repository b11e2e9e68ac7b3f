//! `phivault approval`, and what the commands that need two administrators share.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::{Value, json};

use crate::cli::client::terminal::{self, moment};
use crate::cli::client::{Client, ConnectArgs};

/// Why it is done, how it is shown, and where the vault is.
#[derive(Debug, clap::Args)]
pub(super) struct Because {
    /// Why, as a code of the vault's vocabulary, such as HSYSADMIN
    #[arg(long, value_name = "CODE")]
    pub(super) reason: String,

    /// Why, in words (kept sealed)
    #[arg(long, value_name = "TEXT")]
    pub(super) note: Option<String>,

    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    pub(super) connect: ConnectArgs,
}

impl Because {
    /// The reason as the vault takes it.
    pub(super) fn reason(&self) -> Value {
        let mut reason = json!({"code": self.reason});
        if let Some(note) = &self.note {
            reason["note"] = json!(note);
        }
        reason
    }

    /// Sends something once: what cannot be undone is never sent again by itself.
    pub(super) async fn send(&self, path: &[&str], body: &Value) -> anyhow::Result<Value> {
        Client::connect(&self.connect)?.post(path, body).await.map_err(|problem| {
            let uncertain = problem.is_uncertain();
            let error = anyhow::Error::new(problem);
            if uncertain { error.context(PERHAPS) } else { error }
        })
    }

    /// Prints the answer, in words or as it is.
    pub(super) fn show(&self, answer: &Value, words: impl FnOnce(&Value) -> String) -> anyhow::Result<()> {
        Ok(terminal::print(&if self.json { terminal::json(answer)? } else { words(answer) })?)
    }
}

/// How to look at something.
#[derive(Debug, clap::Args)]
pub(super) struct Look {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    pub(super) connect: ConnectArgs,
}

impl Look {
    /// Fetches something and prints it, in words or as it is.
    pub(super) async fn get(&self, path: &[&str], words: impl FnOnce(&Value) -> String) -> anyhow::Result<()> {
        let answer: Value = Client::connect(&self.connect)?.get(path, &[]).await?;
        Ok(terminal::print(&if self.json { terminal::json(&answer)? } else { words(&answer) })?)
    }
}

const PERHAPS: &str = "it may have been done all the same: look before another try";

/// List, approve and cancel what another administrator asked for (needs the role admin)
///
/// What cannot be undone takes two: destroying a key, disposing of values, erasing an entry's values, changing who opens the
/// keyring, adding an administrator. One asks, another approves within a day.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List what was asked for
    List(Look),
    /// Show everything about a request, before approving it
    Show(Show),
    /// Approve a request of another administrator; it is done at once
    Approve(Decide),
    /// Cancel a request, one's own or another's
    Cancel(Decide),
}

#[derive(Debug, clap::Args)]
struct Show {
    /// The request
    #[arg(value_name = "ID")]
    id: String,

    #[command(flatten)]
    look: Look,
}

#[derive(Debug, clap::Args)]
struct Decide {
    /// The request, as `phivault approval list` shows it
    #[arg(value_name = "ID")]
    id: String,

    #[command(flatten)]
    because: Because,
}

/// Does what the subcommand says.
///
/// # Errors
/// What the vault refuses.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List(look) => look.get(&["v1", "approvals"], overview).await?,
        Command::Show(Show { id, look: Look { json, connect } }) => {
            let answer: Value = Client::connect(&connect)?.get(&["v1", "approvals"], &[]).await?;
            let found = answer["approvals"].as_array().into_iter().flatten().find(|it| it["id"] == json!(id));
            let found =
                found.with_context(|| format!("There is no request {id}; `phivault approval list` shows all"))?;
            terminal::print(&if json { terminal::json(found)? } else { in_full(found) })?;
        }
        Command::Approve(Decide { id, because }) => {
            let body = json!({"reason": because.reason()});
            let answer = because.send(&["v1", "approvals", &id, "approve"], &body).await?;
            because.show(&answer, done)?;
        }
        Command::Cancel(Decide { id, because }) => {
            let body = json!({"reason": because.reason()});
            let answer = because.send(&["v1", "approvals", &id, "cancel"], &body).await?;
            because.show(&answer, |_| "It is cancelled.".to_owned())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks for an operation and says what came of it.
pub(super) async fn ask(because: &Because, request: Value) -> anyhow::Result<ExitCode> {
    let body = json!({"request": request, "reason": because.reason()});
    let answer = because.send(&["v1", "admin", "operations"], &body).await.context("nothing was done")?;
    because.show(&answer, asked)?;
    Ok(ExitCode::SUCCESS)
}

/// What came of asking: it waits, or it is done.
pub(super) fn asked(answer: &Value) -> String {
    match answer["stage"].as_str() {
        Some("pending") => format!(
            "It waits for another administrator until {}:\n  phivault approval approve {} --reason HSYSADMIN",
            moment(answer["expires_at"].as_str().unwrap_or_default(), None),
            text(&answer["id"])
        ),
        _ => done(answer),
    }
}

/// What was done, in words.
fn done(answer: &Value) -> String {
    let until = || moment(answer["undoable_until"].as_str().unwrap_or_default(), None);
    let generation = text(&answer["keyring_generation"]);
    let backed_up = format!("The keyring is at generation {generation}: back it up now.");
    if !answer["destroyed_version"].is_null() {
        return format!(
            "version {} is destroyed. {backed_up}\nOlder backups of the keyring still hold it: destroy them by {}. Older backups of the database become unreadable where they were sealed under it: make a new one now.",
            text(&answer["destroyed_version"]),
            until()
        );
    }
    if !answer["index_versions"].is_null() {
        let versions: Vec<_> = answer["index_versions"].as_array().into_iter().flatten().map(text).collect();
        return format!(
            "Keys of the blind index: {}; the last one is used for new entries. {backed_up}",
            versions.join(", ")
        );
    }
    if !answer["slots"].is_null() {
        let names: Vec<_> = answer["slots"].as_array().into_iter().flatten().map(text).collect();
        return format!(
            "These open the keyring now: {}. {backed_up}\nOlder backups of it open as they did: destroy them. If the vault itself unlocks with what was changed, change its settings before the next start.",
            names.join(", ")
        );
    }
    if !answer["redacted"].is_null() {
        return format!(
            "The values of entry {} are erased. Backups of the database from before still hold them: destroy those by {}.\nCertificate {}: phivault retention certificate {}",
            text(&answer["redacted"]),
            until(),
            text(&answer["certificate"]),
            text(&answer["certificate"])
        );
    }
    if !answer["certificate"].is_null() {
        return format!(
            "The values of {} entries (bucket {}) are gone. {backed_up}\nOlder backups of the keyring, with an older copy of the database, could undo it until {}: destroy them by then.\nCertificate {}: phivault retention certificate {}",
            text(&answer["entries"]),
            text(&answer["bucket"]),
            until(),
            text(&answer["certificate"]),
            text(&answer["certificate"])
        );
    }
    if answer["role"] == json!("admin") {
        return format!("{} is an administrator; their token holds from now on.", text(&answer["label"]));
    }
    "It is done.".to_owned()
}

fn overview(answer: &Value) -> String {
    let row = |it: &Value| {
        let until = moment(it["expires_at"].as_str().unwrap_or_default(), None);
        vec![text(&it["id"]), text(&it["stage"]), text(&it["effect"]), text(&it["requested_by"]), until]
    };
    let rows: Vec<_> = answer["approvals"].as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        return "Nothing was asked for.".to_owned();
    }
    terminal::table(&["REQUEST", "STAGE", "WHAT IT DOES", "ASKED BY", "UNTIL"], &rows, &[0])
}

fn in_full(it: &Value) -> String {
    let when = |name: &str| moment(it[name].as_str().unwrap_or_default(), None);
    let mut lines = vec![
        format!("{} ({})", text(&it["id"]), text(&it["stage"])),
        format!("It {}.", text(&it["effect"])),
        format!("Asked by {} on {}, reason {}", text(&it["requested_by"]), when("requested_at"), text(&it["reason"])),
        format!("May be approved until {}", when("expires_at")),
    ];
    for (name, words) in [("note", "Note"), ("decided_by", "Decided by"), ("certificate", "Certificate")] {
        if !it[name].is_null() {
            lines.push(format!("{words}: {}", text(&it[name])));
        }
    }
    if !it["request"]["authority"].is_null() {
        lines.push(format!("Authority: {}", text(&it["request"]["authority"])));
    }
    lines.join("\n")
}

/// A value as text, safe for a terminal; nothing for null.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => terminal::escape(text),
        other => terminal::escape(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_of_asking_is_said_with_the_next_step() {
        let pending =
            json!({"id": "apr-1", "stage": "pending", "operation": "dispose", "expires_at": "2026-11-25T00:00:00Z"});
        assert!(asked(&pending).contains("phivault approval approve apr-1"));
        let disposed = json!({"certificate": "c", "bucket": 3, "entries": 9, "keyring_generation": 4, "undoable_until": "2026-12-25T00:00:00Z"});
        for part in ["9 entries", "generation 4", "2026-12-25", "certificate c"] {
            assert!(asked(&disposed).contains(part), "{part}");
        }
        let token = json!({"role": "admin", "label": "ops\u{1b}"});
        assert!(done(&token).contains("is an administrator") && !done(&token).contains('\u{1b}'));
    }
}
