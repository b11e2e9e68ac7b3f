//! `phivault record`: what a record was, who made it so, and the way back.

use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::cli::admin::{Because, Look, text};
use crate::cli::client::Client;
use crate::cli::client::terminal::{self, escape, moment};

/// Look into a record's history, and plan its way back (needs the role officer)
///
/// Each look is recorded with its reason before anything is shown.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every change of a record with its values, by the time things happened
    History(One),
    /// The record as it was at a time or position, each field with the change that set it
    State(State),
    /// What differs between two points
    Diff(Diff),
    /// Where the record was changed outside the trail
    Continuity(One),
    /// Plan to restore a record; nothing is changed, another officer approves, the application applies it and confirms
    Restore(Restore),
    /// List plans to restore records
    Plans(Look),
    /// Approve a plan of another officer
    Approve(Decide),
    /// Cancel a plan
    Cancel(Decide),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum By {
    Occurred,
    Received,
}

impl By {
    fn name(self) -> &'static str {
        match self {
            Self::Occurred => "occurred",
            Self::Received => "received",
        }
    }
}

#[derive(Debug, clap::Args)]
struct One {
    /// The record's type, such as Condition
    #[arg(value_name = "TYPE")]
    kind: String,

    /// The record's id
    #[arg(value_name = "ID")]
    id: String,

    /// Why it is looked at, as a code of the vault's vocabulary
    #[arg(long, value_name = "CODE", default_value = "HCOMPL")]
    reason: String,

    /// By the time things happened, or by what was known when
    #[arg(long, value_enum, default_value = "occurred")]
    by: By,

    #[command(flatten)]
    look: Look,
}

#[derive(Debug, clap::Args)]
struct State {
    #[command(flatten)]
    one: One,

    /// As of this time (RFC 3339), or this position in the ledger [default: now]
    #[arg(long, value_name = "TIME|N")]
    at: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Diff {
    #[command(flatten)]
    one: One,

    /// From this time or position
    #[arg(long, value_name = "TIME|N")]
    from: String,

    /// To this time or position [default: now]
    #[arg(long, value_name = "TIME|N")]
    to: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Restore {
    /// The record's type
    #[arg(value_name = "TYPE")]
    kind: String,

    /// The record's id
    #[arg(value_name = "ID")]
    id: String,

    #[command(flatten)]
    target: Target,

    /// Undo the entry also where a later one changed the same field again
    #[arg(long, requires = "undo")]
    overwrite: bool,

    #[command(flatten)]
    because: Because,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// Back to what it was at this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    at: Option<String>,

    /// Back to what was known at this position in the ledger
    #[arg(long, value_name = "N")]
    sequence: Option<u64>,

    /// Undo one entry
    #[arg(long, value_name = "ENTRY")]
    undo: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Decide {
    /// The plan, as `phivault record plans` shows it
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
        Command::History(one) => history(&one).await?,
        Command::State(State { one, at }) => {
            let query = at.as_deref().map(|it| ("at", it));
            one.get("state", query.into_iter().collect(), state).await?;
        }
        Command::Diff(Diff { one, from, to }) => {
            let mut query = vec![("from", from.as_str())];
            query.extend(to.as_deref().map(|it| ("to", it)));
            one.get("diff", query, diff).await?;
        }
        Command::Continuity(one) => one.get("continuity", Vec::new(), continuity).await?,
        Command::Restore(args) => {
            let mut body = json!({"overwrite": args.overwrite, "reason": args.because.reason()});
            let Target { at, sequence, undo } = &args.target;
            for (name, value) in [("at", json!(at)), ("sequence", json!(sequence)), ("undo", json!(undo))] {
                if !value.is_null() {
                    body[name] = value;
                }
            }
            let answer = args.because.send(&["v1", "records", &args.kind, &args.id, "restore"], &body).await?;
            args.because.show(&answer, planned)?;
        }
        Command::Plans(look) => look.get(&["v1", "restores"], plans).await?,
        Command::Approve(args) => decide(&args, "approve").await?,
        Command::Cancel(args) => decide(&args, "cancel").await?,
    }
    Ok(ExitCode::SUCCESS)
}

impl One {
    async fn get(
        &self,
        what: &str,
        mut query: Vec<(&str, &str)>,
        words: impl FnOnce(&Value) -> String,
    ) -> anyhow::Result<()> {
        query.push(("reason", &self.reason));
        if what != "continuity" {
            query.push(("by", self.by.name()));
        }
        let path = ["v1", "records", &self.kind, &self.id, what];
        let answer: Value = Client::connect(&self.look.connect)?.get(&path, &query).await?;
        Ok(terminal::print(&if self.look.json { terminal::json(&answer)? } else { words(&answer) })?)
    }
}

/// All pages of a history.
async fn history(one: &One) -> anyhow::Result<()> {
    let client = Client::connect(&one.look.connect)?;
    let path = ["v1", "records", &one.kind, &one.id, "history"];
    let (mut after, mut whole): (Option<String>, Option<Value>) = (None, None);
    loop {
        let mut query = vec![("reason", one.reason.as_str()), ("by", one.by.name()), ("limit", "1000")];
        query.extend(after.as_deref().map(|it| ("after", it)));
        let mut page: Value = client.get(&path, &query).await?;
        after = page["next"].as_str().map(str::to_owned);
        match &mut whole {
            None => whole = Some(page),
            Some(whole) => {
                let more = page["steps"].take();
                if let (Some(all), Value::Array(more)) = (whole["steps"].as_array_mut(), more) {
                    all.extend(more);
                }
            }
        }
        if after.is_none() {
            break;
        }
    }
    let whole = whole.unwrap_or_default();
    Ok(terminal::print(&if one.look.json { terminal::json(&whole)? } else { steps(&whole) })?)
}

fn value(value: &Value) -> String {
    match value {
        Value::Null => "(none)".into(),
        Value::String(text) => escape(text),
        other => escape(&other.to_string()),
    }
}

fn steps(answer: &Value) -> String {
    let change = |it: &Value| {
        let name = it["name"].as_str().or(it["field"].as_str()).unwrap_or_default();
        format!("{}: {} -> {}", escape(name), value(&it["old"]), value(&it["new"]))
    };
    let row = |it: &Value| {
        let changes: Vec<_> = it["changes"].as_array().into_iter().flatten().map(change).collect();
        let marks: Vec<_> = it["marks"].as_array().into_iter().flatten().map(text).collect();
        let at = it["occurred_at"].as_str().or(it["received_at"].as_str()).unwrap_or_default();
        let late = if it["late"] == json!(true) { " (late)" } else { "" };
        let shown = if it["lost"].is_null() { changes.join("\n") } else { "(disposed of or damaged)".into() };
        vec![
            format!("{}{late}", moment(at, None)),
            text(&it["actor"]["id"]),
            text(&it["action"]),
            shown,
            text(&it["reason"]["code"]),
            marks.join("\n"),
            it["sequence"].to_string(),
        ]
    };
    let rows: Vec<_> = answer["steps"].as_array().into_iter().flatten().map(row).collect();
    terminal::table(&["WHEN", "WHO", "ACTION", "CHANGES", "REASON", "MARKS", "POSITION"], &rows, &[])
}

fn state(answer: &Value) -> String {
    let row = |it: &Value| {
        let shown = if it["lost"].is_null() { value(&it["value"]) } else { "(disposed of or damaged)".into() };
        let set = &it["set_by"];
        vec![
            text(&it["field"]),
            shown,
            moment(&text(&set["at"]), None),
            text(&set["actor"]),
            set["sequence"].to_string(),
        ]
    };
    let rows: Vec<_> = answer["fields"].as_array().into_iter().flatten().map(row).collect();
    let there = if answer["exists"] == json!(true) { "" } else { "\nThe record was not there at that point." };
    format!("{}{there}", terminal::table(&["FIELD", "VALUE", "SET", "BY", "POSITION"], &rows, &[]))
}

fn diff(answer: &Value) -> String {
    let row = |it: &Value| vec![text(&it["field"]), value(&it["from"]["value"]), value(&it["to"]["value"])];
    let rows: Vec<_> = answer["fields"].as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() { "Nothing differs.".into() } else { terminal::table(&["FIELD", "FROM", "TO"], &rows, &[]) }
}

fn continuity(answer: &Value) -> String {
    let row = |it: &Value| vec![text(&it["field"]), it["sequence"].to_string(), it["after_sequence"].to_string()];
    let rows: Vec<_> = answer["breaks"].as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        return format!("All {} changes follow each other.", answer["entries"]);
    }
    let table = terminal::table(&["FIELD", "POSITION", "DOES NOT FOLLOW"], &rows, &[]);
    format!("{table}\nSomebody changed these fields outside the trail, or an entry is missing.")
}

fn planned(answer: &Value) -> String {
    let row = |it: &Value| vec![text(&it["field"]), value(&it["old"]), value(&it["new"])];
    let rows: Vec<_> = answer["changes"].as_array().into_iter().flatten().map(row).collect();
    let conflict = |it: &Value| {
        let by = &it["changed_by"];
        let left = if it["overwritten"] == json!(true) { "is overwritten" } else { "is left alone" };
        format!(
            "\n{} was changed again by {} at {}; it {left}.",
            text(&it["field"]),
            text(&by["actor"]),
            by["sequence"]
        )
    };
    let conflicts: String = answer["conflicts"].as_array().into_iter().flatten().map(conflict).collect();
    format!(
        "{}{conflicts}\nNothing was changed. Another officer approves it: phivault record approve {} --reason HCOMPL",
        terminal::table(&["FIELD", "NOW", "BACK TO"], &rows, &[]),
        text(&answer["id"])
    )
}

fn plans(answer: &Value) -> String {
    let row = |it: &Value| {
        let record = format!("{} {}", text(&it["record"]["type"]), text(&it["record"]["id"]));
        let until = moment(&text(&it["expires_at"]), None);
        vec![text(&it["id"]), text(&it["stage"]), record, text(&it["target"]), text(&it["requested_by"]), until]
    };
    let rows: Vec<_> = answer["plans"].as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        return "There are no plans.".into();
    }
    terminal::table(&["PLAN", "STAGE", "RECORD", "BACK TO", "ASKED BY", "UNTIL"], &rows, &[0])
}

async fn decide(args: &Decide, what: &str) -> anyhow::Result<()> {
    let body = json!({"reason": args.because.reason()});
    let answer = args.because.send(&["v1", "restores", &args.id, what], &body).await?;
    args.because.show(&answer, |it| {
        let stage = text(&it["stage"]);
        if stage == "approved" {
            format!("The plan is approved. The application {} fetches it, applies it and confirms.", text(&it["owner"]))
        } else {
            format!("The plan is {stage}.")
        }
    })
}
