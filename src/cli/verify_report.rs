//! `phivault verify-report`: checks offline that a report's file is what the vault made, and that nothing was left out of it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};

use super::client::terminal;
use super::receipt::{keys, read};
use crate::vault::check_report;

/// The largest file that is checked, in bytes.
const MAX_BYTES: u64 = 256 << 20;

/// Check a report's file offline against its signed manifest
///
/// Needs no server and no keys but the ledger's public one. With a copy of the database (the folder of a stopped vault, or of one
/// that was restored from a backup) it also reads every entry and tells whether the report was made of all that belong into it.
///
/// Exit code: 0 all of it holds, 1 something does not, 2 something could not be told.
#[derive(clap::Args)]
pub struct Args {
    /// The report
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Its manifest [default: FILE.manifest]
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,

    /// The ledger's public key: its text, or the file that holds it (keys/signing.vkey)
    ///
    /// May be given several times: after a change of the signing key, or a restore, a report is signed by the key of its day, and
    /// when it is fetched again, by that of today. The vault keeps those of before in keys/signing.vkey.old.
    #[arg(long, value_name = "KEY|FILE", required = true)]
    vkey: Vec<String>,

    /// The folder of a vault whose database holds the entries
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Does it.
///
/// # Errors
/// A sentence when nothing could be told.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let shown = args.file.display();
    let length = std::fs::metadata(&args.file).with_context(|| format!("{shown} cannot be read"))?.len();
    if length > MAX_BYTES {
        return Err(anyhow!("{shown} is larger than any report"));
    }
    let file = std::fs::read(&args.file).with_context(|| format!("{shown} cannot be read"))?;
    let manifest = args.manifest.clone().unwrap_or_else(|| {
        let mut beside = args.file.clone().into_os_string();
        beside.push(".manifest");
        beside.into()
    });
    let data = args.dir.as_ref().map(|it| it.join("data"));
    let checked =
        check_report(&file, &read(&manifest)?, &keys(&args.vkey)?, data.as_deref()).map_err(|it| anyhow!(it))?;
    if args.json {
        terminal::print(&terminal::json(&checked)?)?;
    } else {
        let line = |what: &str, all: &[String]| all.iter().map(|it| format!("{what}: {it}\n")).collect::<String>();
        let parts = [
            line("holds", &checked.holds),
            line("DOES NOT HOLD", &checked.fails),
            line("unknown", &checked.unknown),
            line("beyond this check", &checked.beyond),
        ];
        let whole = match (checked.fails.is_empty(), checked.unknown.is_empty()) {
            (false, _) => "DO NOT TRUST this report: something does not hold.",
            (true, false) => "What was checked is genuine; not everything could be checked.",
            (true, true) => "This report is genuine.",
        };
        terminal::print(&format!("{}{whole}", parts.concat()))?;
    }
    Ok(match (checked.fails.is_empty(), checked.unknown.is_empty()) {
        (false, _) => ExitCode::from(1),
        (true, false) => ExitCode::from(2),
        (true, true) => ExitCode::SUCCESS,
    })
}
