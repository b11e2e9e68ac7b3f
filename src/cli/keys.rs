//! `phivault keys`: lists and rotates the data keys of a running vault.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::client::terminal::{self, moment};
use crate::cli::client::{Client, ConnectArgs};

/// List and rotate the keys that seal values (needs the role admin)
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the versions of the data key; the keys themselves never leave the vault
    List(List),
    /// Make a new data key, which seals what comes from now on
    ///
    /// Nothing stops meanwhile, no leaf hash changes, and proofs given earlier stay valid. Earlier versions stay in
    /// the keyring to reveal what they sealed. Back up the keyring file afterwards: the old backup lacks the new key.
    Rotate(Rotate),
    /// Make a new key that signs checkpoints, and print its public half
    ///
    /// The ledger announces it, and one checkpoint is signed by both keys. Older checkpoints and receipts stay valid under the
    /// older public key, so keep that one too. Give the new one to auditors and witnesses, and back up the key file.
    RotateSigning(Rotate),
}

#[derive(Debug, clap::Args)]
struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, clap::Args)]
struct Rotate {
    /// Why, as a code of the vault's vocabulary, such as HSYSADMIN
    #[arg(long, value_name = "CODE")]
    reason: String,

    /// Why, in words (kept sealed)
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// Does what the subcommand says.
///
/// # Errors
/// What the vault refuses.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List(args) => list(args).await?,
        Command::Rotate(args) => {
            let answer = change(&args, "rotate").await?;
            show(&args, answer, |answer| Ok(rotation(&serde_json::from_value(answer).context(UNEXPECTED)?)))?;
        }
        Command::RotateSigning(args) => {
            let answer = change(&args, "rotate-signing").await?;
            show(&args, answer, |answer| Ok(new_signing_key(&serde_json::from_value(answer).context(UNEXPECTED)?)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Deserialize)]
struct Keyring {
    keyring_generation: u64,
    active: u64,
    versions: Vec<Version>,
}

#[derive(Debug, Deserialize)]
struct Version {
    version: u64,
    state: String,
    created_at: String,
    retired_at: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Rotated {
    active: u64,
    previous: u64,
    keyring_generation: u64,
}

#[derive(Debug, Deserialize)]
struct SigningRotated {
    verifier_key: String,
    previous: String,
}

const UNEXPECTED: &str = "the vault's answer has an unexpected form: try --json";
const ROTATED_PERHAPS: &str =
    "the key may have been rotated all the same (see `phivault keys list` before another try)";

async fn list(args: List) -> anyhow::Result<()> {
    let answer: Value = Client::connect(&args.connect)?.get(&["v1", "keys"], &[]).await?;
    let text = if args.json {
        terminal::json(&answer)?
    } else {
        overview(&serde_json::from_value(answer).context(UNEXPECTED)?)
    };
    terminal::print(&text)?;
    Ok(())
}

/// Sent once only: a rotation whose answer was lost may have happened, and a second one would be another.
async fn change(args: &Rotate, what: &str) -> anyhow::Result<Value> {
    let mut reason = json!({"code": args.reason});
    if let Some(note) = &args.note {
        reason["note"] = json!(note);
    }
    let client = Client::connect(&args.connect)?;
    client.post(&["v1", "keys", what], &json!({"reason": reason})).await.map_err(|problem| {
        let uncertain = problem.is_uncertain();
        let error = anyhow::Error::new(problem);
        if uncertain { error.context(ROTATED_PERHAPS) } else { error }
    })
}

fn show(args: &Rotate, answer: Value, words: impl FnOnce(Value) -> anyhow::Result<String>) -> anyhow::Result<()> {
    terminal::print(&if args.json { terminal::json(&answer)? } else { words(answer)? })?;
    Ok(())
}

fn overview(keyring: &Keyring) -> String {
    let row = |version: &Version| {
        let retired = version.retired_at.as_deref().map_or(String::new(), |at| moment(at, None));
        vec![version.version.to_string(), version.state.clone(), moment(&version.created_at, None), retired]
    };
    let rows: Vec<_> = keyring.versions.iter().map(row).collect();
    let table = terminal::table(&["VERSION", "STATE", "CREATED", "RETIRED"], &rows, &[]);
    format!("{table}\nversion {} seals new entries; keyring generation {}", keyring.active, keyring.keyring_generation)
}

fn rotation(rotated: &Rotated) -> String {
    let Rotated { active, previous, keyring_generation } = rotated;
    format!(
        "version {active} seals new entries from now on; version {previous} only reveals.\n\
         The keyring is at generation {keyring_generation}: back it up now."
    )
}

fn new_signing_key(rotated: &SigningRotated) -> String {
    let SigningRotated { verifier_key, previous } = rotated;
    format!(
        "{}\nsigns checkpoints from now on. Back up the signing key, and give this public key to auditors and witnesses;\n\
         put it into the policy of evidence.policy too, if there is one.\n\
         {}\nstays valid for older checkpoints and receipts.",
        terminal::escape(verifier_key),
        terminal::escape(previous)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overview_shows_every_version_and_which_one_is_active() {
        let answer = json!({"keyring_generation": 3, "active": 2, "versions": [
            {"version": 1, "state": "retired\u{1b}", "created_at": "2026-01-01T00:00:00Z", "retired_at": "2026-06-01T00:00:00Z"},
            {"version": 2, "state": "active", "created_at": "2026-06-01T00:00:00Z", "retired_at": null}]});
        let text = overview(&serde_json::from_value(answer).unwrap());
        for part in ["2026-06-01 00:00:00Z", "retired", "version 2 seals", "generation 3"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn a_rotation_says_to_back_up_the_keyring() {
        let text = rotation(&Rotated { active: 2, previous: 1, keyring_generation: 4 });
        assert!(text.contains("version 2") && text.contains("generation 4: back it up"));
    }
}
