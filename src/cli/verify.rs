//! `phivault verify`: checks a vault's files, without a server and without keys.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use crate::config::Settings;
use crate::keyfile;
use crate::ledger::policy::Policy;
use crate::vault::{self, Keyring, Verdict, VerifyAsked, VerifyReport, keyring_digest};

use super::client::terminal;
use super::local;
use super::receipt::read;

/// Check a vault's files: every entry, tile, seal, index and token row
///
/// Needs no server and no keys, only the database, the public key (keys/signing.vkey) and the lock. It may run while a server
/// writes, and uses all cores. Says for each finding which entry, where, what was expected and what was found.
///
/// Exit code: 0 intact, 1 altered, 2 it could not be told.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,

    /// An older checkpoint, kept elsewhere or fetched from a witness: the ledger must extend it
    ///
    /// Without one, nobody can tell whether database and lock were put back together to an earlier moment.
    #[arg(long, value_name = "FILE")]
    since: Option<PathBuf>,

    /// Whom to trust (C2SP tlog-policy): the log's key, and how many witnesses must have cosigned the checkpoint of --since
    #[arg(long, value_name = "FILE", requires = "since")]
    policy: Option<PathBuf>,

    /// Open every value as well, and check that it is the one the ledger committed to; needs what unlocks the keyring
    #[arg(long)]
    keyring: bool,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// The folder of the vault, as `phivault init` made it
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// The settings of the vault, if its files lie elsewhere
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Which {
    fn settings(&self) -> anyhow::Result<Settings> {
        let dir = match (&self.config, &self.dir) {
            (Some(file), _) => return Ok(Settings::load(file, std::env::vars())?),
            (None, Some(dir)) => dir,
            (None, None) => anyhow::bail!("give --dir or --config"),
        };
        let file = dir.join("phivault.toml");
        Ok(if file.exists() { Settings::load(&file, std::iter::empty())? } else { Settings::in_folder(dir) })
    }
}

/// What a verification holds the files against beside the lock.
#[derive(Default)]
pub struct Against {
    since: Option<String>,
    policy: Option<Policy>,
    keyring: Option<(Arc<Keyring>, String)>,
}

/// Does it.
///
/// # Errors
/// A sentence when nothing could be told.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let settings = args.which.settings()?;
    match against(args, &settings).map_err(|error| format!("{error:#}")).and_then(|it| check(&settings, it)) {
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

fn against(args: &Args, settings: &Settings) -> anyhow::Result<Against> {
    let policy = match &args.policy {
        Some(path) => Some(Policy::parse(&read(path)?).with_context(|| format!("{} cannot be used", path.display()))?),
        None => None,
    };
    let since = args.since.as_deref().map(read).transpose()?;
    let keyring = if args.keyring {
        let file = keyfile::read_private(&settings.keys.keyring, "keyring")?;
        let (keyring, _) = Keyring::decode(&file, &local::unlock(settings)?)
            .with_context(|| format!("the keyring {} does not open", settings.keys.keyring.display()))?;
        Some((Arc::new(keyring), keyring_digest(&file)))
    } else {
        None
    };
    Ok(Against { since, policy, keyring })
}

/// Verifies with a progress bar on a terminal; `demo` uses it too.
///
/// # Errors
/// A sentence when nothing could be told.
pub fn check(settings: &Settings, against: Against) -> Result<VerifyReport, String> {
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
        since: against.since,
        policy: against.policy,
        keyring: against.keyring,
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
            lines.push(format!("ALTERED: {count} finding{plural}; {entries} entries of {} were read.", report.origin));
        }
        Verdict::Unsure => lines.push("could not tell.".to_owned()),
    }
    if let Some(size) = report.since_size {
        lines.push(format!("It was held against an older checkpoint over {size} entries."));
    }
    if !report.witnesses.is_empty() {
        lines.push(format!("That checkpoint was cosigned by {}.", report.witnesses.join(", ")));
    }
    if let Some(opened) = report.values_opened {
        let (destroyed, were) =
            (report.values_destroyed.unwrap_or(0), if opened == 1 { "entry was" } else { "entries were" });
        lines.push(format!("The values of {opened} {were} opened and checked; of {destroyed} the key was destroyed."));
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
