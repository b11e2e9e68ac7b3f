//! `phivault keys`: the data keys of a running vault, and who opens its keyring.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::admin::{self, Because, Look};
use crate::cli::client::Client;
use crate::cli::client::terminal::{self, moment};
use crate::cli::hsm::{self, Pkcs11Args};
use crate::cli::{init, local};
use crate::keyfile;
use crate::vault::{Cost, MAIN_SLOT, Slot};

/// How often a re-encryption is asked how far it got.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// List, rotate, re-encrypt and destroy the keys that seal values, and change who opens the keyring (needs the role admin)
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the versions of the data key; the keys themselves never leave the vault
    List(Look),
    /// Make a new data key, which seals what comes from now on
    ///
    /// Nothing stops meanwhile, no leaf hash changes, and proofs given earlier stay valid. Earlier versions stay in
    /// the keyring to reveal what they sealed. Back up the keyring file afterwards: the old backup lacks the new key.
    Rotate(Because),
    /// Make a new key that signs checkpoints, and print its public half
    ///
    /// The ledger announces it, and one checkpoint is signed by both keys. Older checkpoints and receipts stay valid under the
    /// older public key, so keep that one too. Give the new one to auditors and witnesses, and back up the key file.
    RotateSigning(Because),
    /// Make a new key for the blind index of patient ids; older entries are still found under theirs
    RotateIndex(Because),
    /// Make a new key for tokens, approvals and holds as they rest in the database; tokens go on working
    RotateState(Because),
    /// Destroy an older key of the blind index; a second administrator approves it
    ///
    /// Entries of its time are then not found by the patient's id any more, and nobody can tell from the disk whose they were.
    DestroyIndex(Destroy),
    /// Move everything to the newest data key, in the background, and show how far it got
    ///
    /// Each value is opened and held against its commitment before it is sealed again. No leaf hash changes, no proof breaks.
    /// After a stop or a crash, run it again: it goes on where it was.
    ReEncrypt(ReEncrypt),
    /// Destroy a retired version that seals nothing any more; a second administrator approves it
    Destroy(Destroy),
    /// Change the passphrase or key file that opens the keyring; a second administrator approves it
    ///
    /// Only the public half of the new slot is sent; the passphrase never leaves this computer. If the vault itself unlocks with
    /// it, put the new one where its settings say before its next start.
    Rewrap(Rewrap),
    /// Add a slot that opens the keyring as well, such as a recovery passphrase in a safe; a second administrator approves it
    AddSlot(AddSlot),
    /// Remove a slot; a second administrator approves it
    RemoveSlot(RemoveSlot),
}

#[derive(Debug, clap::Args)]
struct ReEncrypt {
    /// Entries a second at most; 0: as fast as it goes [default: keys.reencrypt_per_second of the vault]
    #[arg(long, value_name = "N")]
    per_second: Option<u64>,

    /// Do not wait until it is done
    #[arg(long)]
    no_wait: bool,

    #[command(flatten)]
    because: Because,
}

#[derive(Debug, clap::Args)]
struct Destroy {
    /// The version
    #[arg(value_name = "VERSION")]
    version: u32,

    #[command(flatten)]
    because: Because,
}

#[derive(Debug, clap::Args)]
struct Rewrap {
    /// The slot
    #[arg(long, value_name = "NAME", default_value = MAIN_SLOT)]
    slot: String,

    #[command(flatten)]
    new: SlotArgs,
}

#[derive(Debug, clap::Args)]
struct AddSlot {
    /// Its name: letters, digits, -, _ and dots
    #[arg(long, value_name = "NAME", default_value = "recovery")]
    slot: String,

    #[command(flatten)]
    new: SlotArgs,
}

#[derive(Debug, clap::Args)]
struct SlotArgs {
    /// A file whose first line is the new passphrase (the prompt if neither is given)
    #[arg(long, value_name = "FILE", conflicts_with = "new_key_file")]
    new_passphrase_file: Option<PathBuf>,

    /// A new key file with 64 hex digits (make one: openssl rand -hex 32)
    #[arg(long, value_name = "FILE")]
    new_key_file: Option<PathBuf>,

    /// A file with 64 hex digits that the new passphrase shall count only together with
    #[arg(long, value_name = "FILE", conflicts_with = "new_key_file")]
    pepper_file: Option<PathBuf>,

    #[command(flatten)]
    pkcs11: Pkcs11Args,

    /// Memory for stretching the passphrase, MiB (Argon2id, RFC 9106)
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..=4096))]
    argon2_mib: u32,

    #[command(flatten)]
    because: Because,
}

#[derive(Debug, clap::Args)]
struct RemoveSlot {
    /// The slot
    #[arg(value_name = "NAME")]
    slot: String,

    #[command(flatten)]
    because: Because,
}

/// Does what the subcommand says.
///
/// # Errors
/// What the vault refuses.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List(args) => list(args).await?,
        Command::Rotate(because) => {
            let answer = change(&because, "rotate").await?;
            let shown = serde_json::from_value(answer.clone()).context(UNEXPECTED)?;
            because.show(&answer, |_| rotation(&shown))?;
        }
        Command::RotateSigning(because) => {
            let answer = change(&because, "rotate-signing").await?;
            let shown = serde_json::from_value(answer.clone()).context(UNEXPECTED)?;
            because.show(&answer, |_| new_signing_key(&shown))?;
        }
        Command::RotateIndex(because) => {
            let answer = change(&because, "rotate-index").await?;
            because.show(&answer, admin::asked)?;
        }
        Command::RotateState(because) => {
            let answer = change(&because, "rotate-state").await?;
            because.show(&answer, new_state_key)?;
        }
        Command::DestroyIndex(Destroy { version, because }) => {
            return admin::ask(&because, json!({"operation": "index_destroy", "version": version})).await;
        }
        Command::ReEncrypt(args) => reencrypt(args).await?,
        Command::Destroy(Destroy { version, because }) => {
            return admin::ask(&because, json!({"operation": "key_destroy", "version": version})).await;
        }
        Command::Rewrap(Rewrap { slot, new }) => return put_slot(&slot, new, true).await,
        Command::AddSlot(AddSlot { slot, new }) => return put_slot(&slot, new, false).await,
        Command::RemoveSlot(RemoveSlot { slot, because }) => {
            return admin::ask(&because, json!({"operation": "slot_remove", "name": slot})).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the slot here, where the passphrase is, and sends what is public of it.
async fn put_slot(name: &str, args: SlotArgs, replaces: bool) -> anyhow::Result<ExitCode> {
    let names = slots(&args.because).await?;
    if names.iter().any(|it| it == name) != replaces {
        bail!(
            "There is {} slot {:?}; the keyring has {}. Nothing was changed.",
            if replaces { "no" } else { "already a" },
            name,
            names.join(", ")
        );
    }
    let unlock = match (&args.new_key_file, args.pkcs11.given()) {
        (Some(path), _) => keyfile::read_key_file(path)?,
        (None, Some(pkcs11)) => hsm::unlock(&pkcs11)?,
        (None, None) if args.new_passphrase_file.is_none() && std::env::var_os("PHIVAULT_PASSPHRASE").is_some() => {
            bail!("PHIVAULT_PASSPHRASE is set, and is likely the old one. Give --new-passphrase-file, or unset it.");
        }
        (None, None) => init::new_passphrase(
            args.new_passphrase_file.as_deref(),
            None,
            "give --new-passphrase-file or --new-key-file, or run it on a terminal",
        )?,
    };
    let unlock = local::peppered(unlock, args.pepper_file.as_deref())?;
    let cost = Cost { memory_kib: args.argon2_mib * 1024, ..Cost::default() };
    let slot = Slot::of(name, &unlock, cost).context("the new slot could not be made")?;
    admin::ask(&args.because, json!({"operation": "slot_put", "slot": slot})).await
}

async fn slots(because: &Because) -> anyhow::Result<Vec<String>> {
    let keyring: Keyring = Client::connect(&because.connect)?.get(&["v1", "keys"], &[]).await?;
    Ok(keyring.slots)
}

async fn reencrypt(args: ReEncrypt) -> anyhow::Result<()> {
    let ReEncrypt { per_second, no_wait, because } = args;
    let mut body = json!({"reason": because.reason()});
    if let Some(rate) = per_second {
        body["per_second"] = json!(rate);
    }
    let path = ["v1", "keys", "re-encrypt"];
    let mut answer = because.send(&path, &body).await?;
    if no_wait {
        return because.show(&answer, moved);
    }
    let client = Client::connect(&because.connect)?;
    let bar = ProgressBar::new(answer["total"].as_u64().unwrap_or(0));
    if let Ok(style) =
        ProgressStyle::with_template("re-encrypting {bar:30} {human_pos}/{human_len} entries, {per_sec}, {eta} left")
    {
        bar.set_style(style);
    }
    while answer["running"] == json!(true) {
        bar.set_position(answer["done"].as_u64().unwrap_or(0));
        tokio::time::sleep(LOOK_EVERY).await;
        answer = client.get(&path, &[]).await.context("it goes on in the vault; `phivault keys list` shows how far")?;
    }
    bar.finish_and_clear();
    because.show(&answer, moved)?;
    match answer["problem"].as_str() {
        Some(problem) => bail!("{}", terminal::escape(problem)),
        None => Ok(()),
    }
}

fn moved(answer: &Value) -> String {
    let number = |name: &str| answer[name].as_u64().unwrap_or(0);
    let mut text =
        format!("{} of {} entries are under version {} now.", number("done"), number("total"), number("version"));
    if answer["running"] == json!(true) {
        text = format!("It goes on in the background: {text}");
    }
    if number("damaged") > 0 {
        text.push_str(&format!(
            "\nThe values of {} do not open and were left as they are; the ledger names them. Run phivault verify --keyring.",
            number("damaged")
        ));
    }
    text
}

#[derive(Debug, Deserialize)]
struct Keyring {
    keyring_generation: u64,
    active: u64,
    versions: Vec<Version>,
    #[serde(default)]
    slots: Vec<String>,
    #[serde(default)]
    opened_with: String,
}

#[derive(Debug, Deserialize)]
struct Version {
    version: u64,
    state: String,
    created_at: String,
    retired_at: Option<String>,
    destroyed_at: Option<String>,
    #[serde(default)]
    entries: u64,
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
async fn list(args: Look) -> anyhow::Result<()> {
    let answer: Value = Client::connect(&args.connect)?.get(&["v1", "keys"], &[]).await?;
    let text = if args.json {
        terminal::json(&answer)?
    } else {
        overview(&serde_json::from_value(answer).context(UNEXPECTED)?)
    };
    terminal::print(&text)?;
    Ok(())
}

async fn change(because: &Because, what: &str) -> anyhow::Result<Value> {
    because.send(&["v1", "keys", what], &json!({"reason": because.reason()})).await
}

fn overview(keyring: &Keyring) -> String {
    let row = |version: &Version| {
        let at = |time: &Option<String>| time.as_deref().map_or(String::new(), |at| moment(at, None));
        let entries = version.entries.to_string();
        let (number, state) = (version.version.to_string(), version.state.clone());
        vec![
            number,
            state,
            entries,
            moment(&version.created_at, None),
            at(&version.retired_at),
            at(&version.destroyed_at),
        ]
    };
    let rows: Vec<_> = keyring.versions.iter().map(row).collect();
    let table = terminal::table(&["VERSION", "STATE", "ENTRIES", "CREATED", "RETIRED", "DESTROYED"], &rows, &[]);
    let slots: Vec<_> = keyring.slots.iter().map(|it| terminal::escape(it)).collect();
    format!(
        "{table}\nversion {} seals new entries; keyring generation {}\nslots: {}; the vault was started with {}\nENTRIES counts the vault's own records too, such as this look.",
        keyring.active,
        keyring.keyring_generation,
        slots.join(", "),
        terminal::escape(&keyring.opened_with)
    )
}

fn rotation(rotated: &Rotated) -> String {
    let Rotated { active, previous, keyring_generation } = rotated;
    format!(
        "version {active} seals new entries from now on; version {previous} only reveals.\n\
         The keyring is at generation {keyring_generation}: back it up now."
    )
}

fn new_state_key(answer: &Value) -> String {
    format!(
        "{} tokens, approvals and holds are under the new key.\nThe keyring is at generation {}: back it up now.",
        answer["rows"], answer["keyring_generation"]
    )
}

fn new_signing_key(rotated: &SigningRotated) -> String {
    let SigningRotated { verifier_key, previous } = rotated;
    format!(
        "{}\nsigns checkpoints from now on. Back up the signing key, and give this public key to auditors and witnesses;\n\
         put it into the policy of evidence.policy too, if there is one.\n\
         {}\nstays valid for older checkpoints, receipts and reports; it is kept in signing.vkey.old beside the new one.",
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
