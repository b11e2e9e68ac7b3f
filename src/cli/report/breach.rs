//! `phivault report breach-scope`.

use serde_json::Value;

use crate::cli::admin::text;
use crate::cli::client::terminal::{self, moment};
use crate::cli::client::{Client, ConnectArgs};

/// Patients and reveals shown; all are in --json.
const SHOWN: usize = 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The data-key version that may be known to others (phivault keys list)
    #[arg(long, value_name = "N")]
    key_version: u32,

    /// From this time on (RFC 3339) [default: the beginning]
    #[arg(long, value_name = "TIME")]
    from: Option<String>,

    /// Before this time [default: now]
    #[arg(long, value_name = "TIME")]
    to: Option<String>,

    /// Why the report is made, as a code of the vault's vocabulary
    #[arg(long, value_name = "CODE", default_value = "HCOMPL")]
    reason: String,

    /// Print the whole report as JSON; it lists every patient and every reveal
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: &Args) -> anyhow::Result<()> {
    let version = args.key_version.to_string();
    let mut query = vec![("key_version", version.as_str()), ("reason", args.reason.as_str())];
    query.extend(args.from.as_deref().map(|it| ("from", it)));
    query.extend(args.to.as_deref().map(|it| ("to", it)));
    let answer: Value = Client::connect(&args.connect)?.get(&["v1", "reports", "breach-scope"], &query).await?;
    Ok(terminal::print(&if args.json { terminal::json(&answer)? } else { words(&answer) })?)
}

fn words(answer: &Value) -> String {
    let time = |name: &str, else_: &str| answer[name].as_str().map_or(else_.to_owned(), |it| moment(it, None));
    let counted = |name: &str| {
        let mut all: Vec<_> =
            answer[name].as_object().into_iter().flatten().map(|(key, n)| (n.as_u64().unwrap_or(0), key)).collect();
        all.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
        all
    };
    let (patients, categories) = (counted("patients"), counted("by_category"));
    let mut lines = vec![
        format!(
            "Breach scope of data-key version {}, {} to {}",
            text(&answer["key_version"]),
            time("from", "the beginning"),
            time("to", "now")
        ),
        format!(
            "{} entries of {} patients were readable under it in that time; {} entries still are.",
            text(&answer["entries"]),
            patients.len(),
            text(&answer["entries_now"])
        ),
    ];
    let rows = |all: &[(u64, &String)]| -> Vec<Vec<String>> {
        let shown = |key: &str| if key.is_empty() { "(none)".to_owned() } else { terminal::escape(key) };
        all.iter().take(SHOWN).map(|(n, key)| vec![shown(key), n.to_string()]).collect()
    };
    lines.push(terminal::table(&["CATEGORY", "ENTRIES"], &rows(&categories), &[]));
    lines.push(terminal::table(&["PATIENT", "ENTRIES"], &rows(&patients), &[]));
    let reveals: Vec<_> = answer["reveals"].as_array().cloned().unwrap_or_default();
    lines.push(format!("{} reveals named one of these patients in that time.", reveals.len()));
    let row = |it: &Value| {
        let at = moment(it["at"].as_str().unwrap_or_default(), None);
        vec![at, text(&it["actor"]), text(&it["reason"]), text(&it["entries"])]
    };
    if !reveals.is_empty() {
        let rows: Vec<_> = reveals.iter().rev().take(SHOWN).map(row).collect();
        lines.push(terminal::table(&["REVEALED AT", "BY", "REASON", "ENTRIES"], &rows, &[]));
    }
    if patients.len() > SHOWN || reveals.len() > SHOWN {
        lines.push("More is in --json.".to_owned());
    }
    lines.push("If the key may be known to others: phivault keys rotate, then re-encrypt, then destroy it.".to_owned());
    lines.join("\n")
}
