//! `phivault verify`: checks a vault's files, without a server and without keys.

use std::path::PathBuf;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};

use crate::config::Settings;
use crate::vault::{self, Verdict, VerifyAsked, VerifyReport};

use super::client::terminal;
use super::local;

/// Check a vault's files: every entry, tile, seal, index and token row
///
/// Needs no server and no keys, only the database, the public key (keys/signing.vkey) and the lock. It may run while a server
/// writes. Says for each finding which entry, where, what was expected and what was found.
///
/// Exit code: 0 intact, 1 altered, 2 it could not be told.
#[derive(clap::Args)]
pub struct Args {
    /// The folder of the vault, as `phivault init` made it
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Does it.
///
/// # Errors
/// A sentence when nothing could be told.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let file = args.dir.join("phivault.toml");
    let settings =
        if file.exists() { Settings::load(&file, std::iter::empty())? } else { Settings::in_folder(&args.dir) };
    match check(&settings) {
        Ok(report) => {
            let text = if args.json { terminal::json(&report)? } else { describe(&report) };
            terminal::print(&text)?;
            Ok(code(report.verdict))
        }
        Err(what) => {
            if args.json {
                terminal::print(&terminal::json(&serde_json::json!({ "verdict": "unsure", "error": what }))?)?;
            } else {
                eprintln!("could not tell: {what}");
            }
            Ok(code(Verdict::Unsure))
        }
    }
}

/// Verifies with a progress bar on a terminal; `demo` uses it too.
///
/// # Errors
/// A sentence when nothing could be told.
pub fn check(settings: &Settings) -> Result<VerifyReport, String> {
    let bar = ProgressBar::new(0);
    if let Ok(style) =
        ProgressStyle::with_template("verifying {bar:30} {human_pos}/{human_len} entries, {per_sec}, {eta} left")
    {
        bar.set_style(style);
    }
    let paths = local::key_paths(settings);
    let result = vault::verify(VerifyAsked {
        data: settings.storage.data_dir.clone(),
        verifier_key: paths.verifier_key(),
        lock: paths.lock,
        since: None,
        policy: None,
        keyring: None,
        progress: &mut |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        },
    });
    bar.finish_and_clear();
    result
}

/// The result in words.
pub fn describe(report: &VerifyReport) -> String {
    let mut lines = Vec::new();
    let entries = report.entries;
    match report.verdict {
        Verdict::Intact => lines.push(format!(
            "intact: {entries} entries of {} agree with the checkpoint over {}.",
            report.origin, report.checkpoint_size
        )),
        Verdict::Altered => {
            let count = report.findings.len() as u64 + report.more_findings;
            let plural = if count == 1 { "" } else { "s" };
            lines.push(format!("ALTERED: {count} finding{plural} in {entries} entries of {}.", report.origin));
        }
        Verdict::Unsure => lines.push("could not tell.".to_owned()),
    }
    lines.push(format!("root {}", report.root));
    lines.extend(report.findings.iter().map(|finding| format!("- {}", terminal::escape(&finding.to_string()))));
    if report.more_findings > 0 {
        lines.push(format!("- and {} more", report.more_findings));
    }
    lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    lines.join("\n")
}

fn code(verdict: Verdict) -> ExitCode {
    ExitCode::from(match verdict {
        Verdict::Intact => 0,
        Verdict::Altered => 1,
        Verdict::Unsure => 2,
    })
}
