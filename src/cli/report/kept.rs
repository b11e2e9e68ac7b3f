//! `phivault report make|list|get|review`: reports that the vault keeps, as files with their manifests.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use chrono::FixedOffset;
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::{parse_time, parse_zone, zone_name};
use crate::cli::admin::{Because, Look, text};
use crate::cli::client::Client;
use crate::cli::client::terminal::{self, moment};

/// What may be done with reports that are kept.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a report that the vault keeps, and write it to a file with its signed manifest beside it
    ///
    /// access (needs --actor), users, patient and disclosures (need --patient), break-glass, review, logins, reasons, privileged,
    /// integrity, continuity, values (needs --record-type and --field). It can be fetched again, to the same bytes.
    Make(Box<Make>),
    /// List the reports that the vault keeps
    List(Look),
    /// Fetch a report again, in any format, with its signed manifest
    Get(Get),
    /// Sign off entries that were reviewed: appropriate, inappropriate, unclear or escalated
    Review(Review),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Json,
    Csv,
    Html,
    Pdf,
}

#[derive(Debug, clap::Args)]
pub(super) struct Make {
    /// Which report
    #[arg(value_name = "REPORT")]
    report: String,

    /// The user
    #[arg(long, value_name = "ID")]
    actor: Option<String>,

    /// The patient
    #[arg(long, value_name = "ID")]
    patient: Option<String>,

    /// The type of the records
    #[arg(long, value_name = "TYPE")]
    record_type: Option<String>,

    /// One record of that type
    #[arg(long, value_name = "ID")]
    record_id: Option<String>,

    /// The numeric field of a values report
    #[arg(long, value_name = "NAME")]
    field: Option<String>,

    /// The column that the entries of an access report are sorted by
    #[arg(long, value_name = "COLUMN")]
    sort: Option<String>,

    /// What happened from this time on: 2026-11-01T08:00:00Z, or a date, which means its midnight in --time-zone
    #[arg(long, value_name = "TIME")]
    from: Option<String>,

    /// What happened before this time, so that a day given here is not part of it any more [default: now]
    #[arg(long, value_name = "TIME")]
    to: Option<String>,

    /// Where days begin and hours are counted, as an offset from UTC such as +02:00
    #[arg(long, value_name = "OFFSET", value_parser = parse_zone, default_value = "Z", allow_hyphen_values = true)]
    time_zone: FixedOffset,

    /// For disclosures: a JSON file with requested_on, variant, since, through, suspensions, extension, last_accounting, office,
    /// for_person, protocols
    #[arg(long, value_name = "FILE")]
    accounting: Option<PathBuf>,

    /// For disclosures: the copy that is given to the person, without what is suspended or was left out
    #[arg(long)]
    for_person: bool,

    #[command(flatten)]
    file: ToFile,

    #[command(flatten)]
    because: Because,
}

#[derive(Debug, clap::Args)]
struct ToFile {
    /// The new file (mode 600); its manifest goes to FILE.manifest
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// As what file [default: by the ending of --out, else pdf]
    #[arg(long, value_enum)]
    format: Option<Format>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Get {
    /// The report, as `phivault report list` shows it
    #[arg(value_name = "ID")]
    id: String,

    #[command(flatten)]
    file: ToFile,

    #[command(flatten)]
    look: Look,
}

#[derive(Debug, clap::Args)]
pub(super) struct Review {
    /// The entries
    #[arg(value_name = "ENTRY", required = true)]
    entries: Vec<String>,

    /// appropriate, inappropriate, unclear or escalated
    #[arg(long, value_name = "OUTCOME")]
    outcome: String,

    /// In words (kept sealed)
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,

    #[command(flatten)]
    because: Because,
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Make(args) => make(*args).await,
        Command::List(look) => look.get(&["v1", "reports"], overview).await,
        Command::Get(Get { id, file, look }) => {
            let client = Client::connect(&look.connect)?;
            save(&client, &id, file, "report").await
        }
        Command::Review(args) => {
            let mut body = json!({"entries": args.entries, "outcome": args.outcome, "reason": args.because.reason()});
            if let Some(comment) = &args.comment {
                body["comment"] = json!(comment);
            }
            let answer = args.because.send(&["v1", "reviews"], &body).await?;
            args.because.show(&answer, |it| format!("The review is recorded as entry {}.", text(&it["id"])))
        }
    }
}

async fn make(args: Make) -> anyhow::Result<()> {
    args.file.check()?;
    let mut body =
        json!({"report": args.report, "time_zone": zone_name(args.time_zone), "reason": args.because.reason()});
    for (name, value) in [
        ("actor", &args.actor),
        ("patient", &args.patient),
        ("record_type", &args.record_type),
        ("record_id", &args.record_id),
        ("field", &args.field),
        ("sort", &args.sort),
    ] {
        if let Some(value) = value {
            body[name] = json!(value);
        }
    }
    for (name, value) in [("from", &args.from), ("to", &args.to)] {
        if let Some(value) = value {
            let at = parse_time(value, args.time_zone).with_context(|| format!("--{name} {value}"))?;
            body[name] = json!(at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true));
        }
    }
    if let Some(path) = &args.accounting {
        let file = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let value: Value = serde_json::from_str(&file).with_context(|| format!("{} is no JSON", path.display()))?;
        body["accounting"] = value;
    }
    if args.for_person {
        body["accounting"]["for_person"] = json!(true);
    }
    let answer = args.because.send(&["v1", "reports"], &body).await?;
    args.because.show(&answer, made)?;
    let client = Client::connect(&args.because.connect)?;
    let id = text(&answer["id"]);
    save(&client, &id, args.file, &args.report).await
}

fn made(answer: &Value) -> String {
    let beyond = answer["beyond"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut warned: String = beyond.map(|it| format!("NOT COVERED: {}\n", terminal::escape(it))).collect();
    if answer["unknown_patient"] == true {
        warned.push_str(
            "ATTENTION: no application ever wrote anything about this patient's id. Is it written as they write it?\n",
        );
    } else if answer["entries_read"] == 0 {
        warned.push_str("ATTENTION: it found nothing. Is everything written as the applications write it?\n");
    }
    format!(
        "Report {} looked at {} entries, {} of them in its period; the ledger held {}.\n{warned}It is kept: phivault report get {}",
        text(&answer["id"]),
        answer["entries_read"],
        answer["entries_covered"],
        answer["ledger_size"],
        text(&answer["id"])
    )
}

impl ToFile {
    /// Refuses, before a report is made and recorded, what could not be written.
    fn check(&self) -> anyhow::Result<()> {
        let Some(path) = &self.out else { return Ok(()) };
        let ending = path.extension().map(|it| it.to_string_lossy().into_owned());
        let known = ending.as_ref().is_none_or(|it| Format::from_str(it, true).is_ok());
        if self.format.is_none() && !known {
            let ending = ending.unwrap_or_default();
            bail!("No report is written as .{ending}: end the name with .pdf, .html, .csv or .json, or say --format.");
        }
        let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|it| !it.is_dir()) {
            bail!("There is no folder {}. No report was made. Make it, or correct the path.", folder.display());
        }
        for path in [path.clone(), beside(path)] {
            if path.symlink_metadata().is_ok() {
                bail!(
                    "{} exists already, and an existing file is never overwritten. No report was made.",
                    path.display()
                );
            }
        }
        Ok(())
    }
}

/// Where the manifest of a report's file goes.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(".manifest");
    name.into()
}

/// Writes the file and its manifest. Half of them is removed: it would look complete.
async fn save(client: &Client, id: &str, to: ToFile, name: &str) -> anyhow::Result<()> {
    let ending =
        to.out.as_deref().and_then(Path::extension).and_then(|it| Format::from_str(&it.to_string_lossy(), true).ok());
    let format = match to.format.or(ending).unwrap_or(Format::Pdf) {
        Format::Json => "json",
        Format::Csv => "csv",
        Format::Html => "html",
        Format::Pdf => "pdf",
    };
    let path = to.out.unwrap_or_else(|| PathBuf::from(format!("{name}-{}.{format}", id.get(..8).unwrap_or("report"))));
    let shown = path.display();
    let query = [("format", format)];
    let mut file = terminal::private_file(&path)
        .with_context(|| format!("{shown} cannot be created (an existing file is never overwritten)"))?;
    let written = client.download(&["v1", "reports", id], &query, "*/*", &mut file).await;
    let synced = written.and_then(|_| Ok(file.sync_all()?));
    let manifest = match synced {
        Ok(()) => client.get::<Value>(&["v1", "reports", id, "manifest"], &query).await.map_err(anyhow::Error::from),
        Err(error) => Err(error),
    };
    let kept = manifest.and_then(|it| {
        let beside = beside(&path);
        // It names the patient, as the report does.
        let mut file = terminal::private_file(&beside).with_context(|| {
            format!("{} cannot be created (an existing file is never overwritten)", beside.display())
        })?;
        Ok(file.write_all(it["text"].as_str().unwrap_or_default().as_bytes())?)
    });
    if kept.is_err() {
        let _ = fs::remove_file(&path);
    }
    kept?;
    eprintln!(
        "{shown} and {shown}.manifest are written; check them with: phivault verify-report {shown} --vkey FILE\n(FILE is the vault's public key, keys/signing.vkey on its machine; whoever runs it gives it to anybody.)"
    );
    Ok(())
}

fn overview(answer: &Value) -> String {
    let rows: Vec<_> = answer["reports"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|it| {
            let params = &it["parameters"];
            let about: Vec<_> =
                ["actor", "patient", "record_type", "field"].iter().filter_map(|name| params[*name].as_str()).collect();
            vec![
                text(&it["id"]),
                text(&it["report"]),
                terminal::escape(&about.join(" ")),
                period(params),
                moment(&text(&it["made_at"]), None),
                text(&it["made_by"]),
                it["entries_covered"].to_string(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return "No report was kept yet: phivault report make".into();
    }
    terminal::table(&["ID", "REPORT", "ABOUT", "PERIOD", "MADE", "BY", "ENTRIES"], &rows, &[0])
}

/// From and to, as days.
fn period(params: &Value) -> String {
    let day = |name: &str| params[name].as_str().and_then(|it| it.get(..10)).unwrap_or("").to_owned();
    match (day("from"), day("to")) {
        (from, to) if from.is_empty() && to.is_empty() => "all".into(),
        (from, to) if from.is_empty() => format!("until {to}"),
        (from, to) => format!("{from} to {to}"),
    }
}
