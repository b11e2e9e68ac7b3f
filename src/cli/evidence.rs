//! Evidence for people outside: disclosures and patients' trails, fetched from a vault and checked without one.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::ledger::policy::Opened;
use crate::vault::{verify_disclosure, verify_trail};

use super::client::terminal::{self, escape};
use super::client::{Client, ConnectArgs};
use super::receipt::{Trust, read, read_up_to};

/// The largest trail or disclosure that is checked, in bytes: a thousand entries with the longest metadata.
const MAX_BYTES: u64 = 64 << 20;

/// Write some values of one entry to a file that proves them, for a court or an auditor outside (needs the role officer)
///
/// The file holds the values asked for, the entry's metadata, and the proof that the ledger holds them since; the other values of
/// the entry stay closed. It is recorded like a reveal, before anything leaves. `phivault verify-disclosure` checks it anywhere.
#[derive(Debug, clap::Args)]
pub struct DiscloseArgs {
    /// The entry
    #[arg(value_name = "ID")]
    id: String,

    /// A value's path, such as changes/0/new, note or actor/name; may be given more than once
    #[arg(long = "path", value_name = "PATH", required = true)]
    paths: Vec<String>,

    /// Why, as a code of the vault's vocabulary, such as HLEGAL
    #[arg(long, value_name = "CODE")]
    reason: String,

    /// Why, in words (kept sealed)
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,

    /// The file to write (mode 600); it must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// Write a patient's trail to a file that proves that no entry is left out (needs the role officer or auditor)
///
/// Up to 1,000 entries; a longer trail goes on with --before. `phivault verify-trail` checks it anywhere.
#[derive(Debug, clap::Args)]
pub struct TrailArgs {
    /// A file with the patient's id on its first line, so that it does not stand in the shell's history
    #[arg(long, value_name = "FILE")]
    patient_file: PathBuf,

    /// Where to go on: the position that the part before it named
    #[arg(long, value_name = "NUMBER")]
    before: Option<u64>,

    /// The file to write (mode 600); it must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// Check a disclosure offline: that the ledger holds exactly these values
///
/// Needs no server and no vault. Exit code: 0 it holds, 1 it does not, 2 it could not be told.
#[derive(clap::Args)]
pub struct VerifyDisclosureArgs {
    /// The disclosure
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    trust: Trust,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Check a patient's trail offline: that every entry is in the ledger and none between them is left out
///
/// Needs no server and no vault. Exit code: 0 it holds, 1 it does not, 2 it could not be told.
#[derive(clap::Args)]
pub struct VerifyTrailArgs {
    /// The trail
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    trust: Trust,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Fetches a disclosure.
///
/// # Errors
/// What the vault refuses, and files that cannot be written.
pub async fn disclose(args: DiscloseArgs) -> anyhow::Result<ExitCode> {
    let mut reason = json!({"code": args.reason});
    if let Some(note) = &args.note {
        reason["note"] = json!(note);
    }
    let body = json!({"paths": args.paths, "reason": reason});
    let client = Client::connect(&args.connect)?;
    let answer: Value = client.post(&["v1", "entries", &args.id, "disclose"], &body).await?;
    save(&args.out, &answer)?;
    let count = answer["disclosed"].as_array().map_or(0, Vec::len);
    terminal::print(&format!("{count} values of entry {} are in {}", escape(&args.id), args.out.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Fetches a trail.
///
/// # Errors
/// What the vault refuses, and files that cannot be written.
pub async fn trail(args: TrailArgs) -> anyhow::Result<ExitCode> {
    let text = read(&args.patient_file)?;
    let patient = text.lines().next().unwrap_or_default();
    let mut body = json!({"patient": patient});
    if let Some(before) = args.before {
        body["before"] = json!(before);
    }
    let client = Client::connect(&args.connect)?;
    let answer: Value = client.post(&["v1", "entries", "trail"], &body).await?;
    save(&args.out, &answer)?;
    let count = answer["entries"].as_array().map_or(0, Vec::len);
    let mut said = format!("{count} entries are in {}", args.out.display());
    if let Some(next) = answer["next"].as_u64() {
        said.push_str(&format!("; there are older ones: go on with --before {next}"));
    }
    terminal::print(&said)?;
    Ok(ExitCode::SUCCESS)
}

fn save(path: &Path, answer: &Value) -> anyhow::Result<()> {
    let text = terminal::json(answer)?;
    let mut file = terminal::private_file(path)
        .with_context(|| format!("{} cannot be created (an existing file is never overwritten)", path.display()))?;
    writeln!(file, "{text}")
        .and_then(|()| file.sync_all())
        .with_context(|| format!("{} cannot be written", path.display()))
}

/// Checks a disclosure.
///
/// # Errors
/// A sentence when nothing could be told.
pub fn check_disclosure(args: &VerifyDisclosureArgs) -> anyhow::Result<ExitCode> {
    let policy = args.trust.policy()?;
    let verified = match verify_disclosure(&read_up_to(&args.file, MAX_BYTES)?, &policy) {
        Ok(verified) => verified,
        Err(what) => return does_not_hold(&what, args.json),
    };
    if args.json {
        return holds_as_json(&verified);
    }
    let entry = &verified.entry;
    let mut lines = vec![format!("it holds: entry {} ({}) of {}", entry.sequence, entry.id, under(&verified.opened))];
    let record = entry.record.as_ref().map_or(String::new(), |it| format!(" {} {}", escape(&it.kind), escape(&it.id)));
    lines.push(format!(
        "{} {}{record} for {}, received {}",
        escape(&entry.actor.id),
        entry.action.name(),
        escape(&entry.reason.code),
        entry.received_at
    ));
    for (path, value) in &verified.values {
        lines.push(format!("  {}: {}", escape(path), escape(&serde_json::to_string(value)?)));
    }
    lines.push(format!("{} further values of it stay closed.", verified.closed));
    terminal::print(&lines.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Checks a trail.
///
/// # Errors
/// A sentence when nothing could be told.
pub fn check_trail(args: &VerifyTrailArgs) -> anyhow::Result<ExitCode> {
    let policy = args.trust.policy()?;
    let verified = match verify_trail(&read_up_to(&args.file, MAX_BYTES)?, &policy) {
        Ok(verified) => verified,
        Err(what) => return does_not_hold(&what, args.json),
    };
    if args.json {
        return holds_as_json(&verified);
    }
    let (newest, oldest) = (verified.newest_number, verified.oldest_number);
    let reach = if oldest == 1 {
        "back to the first of this form of the patient's id".to_owned()
    } else {
        format!("back to number {oldest}")
    };
    let mut lines = vec![format!(
        "it holds: {} entries, number {newest} {reach}, none left out between; {}",
        verified.entries,
        under(&verified.opened)
    )];
    if let Some(next) = verified.goes_on_at {
        lines.push(format!(
            "This is a PART of the patient's trail: older entries stand in another file, from entry {next} on{}.",
            if oldest == 1 { ", under an older form of the id" } else { "" }
        ));
    }
    let patient =
        verified.metas.first().and_then(|(_, meta)| meta.patient.as_ref()).map_or(String::new(), |it| it.id_text());
    lines.push(format!("The patient, as the entries name it: {}", escape(&patient)));
    lines.push(format!("That there is none after number {newest} only a whole verification of the vault can tell."));
    let rows: Vec<Vec<String>> = verified
        .metas
        .iter()
        .map(|(index, meta)| {
            let record = meta.record.as_ref().map_or(String::new(), |it| format!("{} {}", it.kind, it.id));
            vec![
                index.to_string(),
                meta.actor.id.clone(),
                meta.action.name().to_owned(),
                record,
                meta.reason.code.clone(),
            ]
        })
        .collect();
    lines.push(terminal::table(&["ENTRY", "USER", "ACTION", "RECORD", "REASON"], &rows, &[0]));
    terminal::print(&lines.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn holds_as_json(verified: &impl serde::Serialize) -> anyhow::Result<ExitCode> {
    let mut shown = serde_json::to_value(verified)?;
    shown["holds"] = json!(true);
    terminal::print(&terminal::json(&shown)?)?;
    Ok(ExitCode::SUCCESS)
}

fn does_not_hold(what: &str, json: bool) -> anyhow::Result<ExitCode> {
    let shown = if json {
        json!({"holds": false, "error": what}).to_string()
    } else {
        format!("it does NOT hold: {}", escape(what))
    };
    terminal::print(&shown)?;
    Ok(ExitCode::from(1))
}

fn under(opened: &Opened) -> String {
    let head = &opened.checkpoint;
    let names: Vec<_> = opened.witnesses.iter().map(|(name, _)| name.as_str()).collect();
    let cosigned = if names.is_empty() { String::new() } else { format!(", cosigned by {}", names.join(", ")) };
    format!("{} under the checkpoint over {} entries{cosigned}", head.origin, head.size)
}
