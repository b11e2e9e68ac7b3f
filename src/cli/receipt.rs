//! `phivault verify-receipt`: checks offline that an entry is in a ledger.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;

use crate::ledger::checkpoint::CheckpointError;
use crate::ledger::hash::{Hash, leaf_hash};
use crate::ledger::note::{NoteError, VerifierKey};
use crate::ledger::policy::{Opened, Policy, PolicyError};
use crate::ledger::receipt::{ReceiptError, TlogProof};

use super::client::terminal;

/// The largest file that is read, in bytes; receipts and leaves are far below.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Check a receipt offline: that an entry is in the ledger, under a checkpoint that is trusted
///
/// Needs no server, no keys and no vault: only the receipt (`GET /v1/entries/{id}/proof?format=text`, C2SP tlog-proof), whom to
/// trust, and the leaf. The leaf hash stands in the answer to the submission; the whole leaf is `GET /v1/entries/{id}/leaf`.
///
/// Exit code: 0 it holds, 1 it does not, 2 it could not be told.
#[derive(clap::Args)]
pub struct Args {
    /// The receipt
    #[arg(value_name = "FILE")]
    receipt: PathBuf,

    #[command(flatten)]
    trust: Trust,

    #[command(flatten)]
    what: What,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Whom to trust.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Trust {
    /// The ledger's public key: its text, or the file that holds it (keys/signing.vkey)
    #[arg(long, value_name = "KEY|FILE")]
    vkey: Option<String>,

    /// A C2SP tlog-policy file: logs, witnesses, and how many of them must have cosigned
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct What {
    /// The leaf hash, 64 hex digits, as the vault answered when the entry was submitted
    #[arg(long, value_name = "HEX")]
    leaf: Option<String>,

    /// A file with the answer to the submission, or with the entry's leaf
    #[arg(long, value_name = "FILE")]
    entry: Option<PathBuf>,
}

impl Trust {
    /// The policy, or one that trusts the one key.
    pub(super) fn policy(&self) -> anyhow::Result<Policy> {
        if let Some(path) = &self.policy {
            return Policy::parse(&read(path)?).with_context(|| format!("{} cannot be used", path.display()));
        }
        let text = self.vkey.as_deref().ok_or(anyhow!("give --vkey or --policy"))?;
        Ok(Policy::of_log(key(text)?))
    }
}

#[derive(Deserialize)]
struct EntryFile {
    leaf_hash: String,
    sequence: Option<u64>,
    leaf_data: Option<String>,
}

/// Does it.
///
/// # Errors
/// A sentence when nothing could be told.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let policy = args.trust.policy()?;
    let (leaf, sequence) = leaf_of(&args.what)?;
    let text = read(&args.receipt)?;
    let result = match TlogProof::parse(&text) {
        Ok(proof) if sequence.is_some_and(|it| it != proof.index) => {
            Err(format!("the receipt is of entry {}, the file given of another", proof.index))
        }
        Ok(proof) => proof.verify(&leaf, &policy).map(|opened| (opened, proof.index)).map_err(|it| told(&it)),
        Err(error) => Err(error.to_string()),
    };
    let (code, shown) = match result {
        Ok((opened, index)) => (0, holds(&opened, index, args.json)?),
        Err(error) if args.json => (1, serde_json::json!({"holds": false, "error": error}).to_string()),
        Err(error) => (1, format!("it does NOT hold: {error}")),
    };
    terminal::print(&shown)?;
    Ok(ExitCode::from(code))
}

/// Why a receipt does not hold, with what most often is behind it.
fn told(error: &ReceiptError) -> String {
    let unsigned = |note: &NoteError| matches!(note, NoteError::NoTrustedSignature);
    match error {
        ReceiptError::Checkpoint(PolicyError::Note(note) | PolicyError::Checkpoint(CheckpointError::Note(note)))
            if unsigned(note) =>
        {
            format!(
                "{error}. If the ledger changed its signing key meanwhile, give the public key of that time (or of now)"
            )
        }
        _ => error.to_string(),
    }
}

fn holds(opened: &Opened, index: u64, json: bool) -> anyhow::Result<String> {
    let head = &opened.checkpoint;
    if json {
        let witnesses: Vec<_> =
            opened.witnesses.iter().map(|(name, time)| serde_json::json!({"name": name, "time": time})).collect();
        return Ok(terminal::json(&serde_json::json!({
            "holds": true, "origin": head.origin, "index": index, "tree_size": head.size, "witnesses": witnesses,
        }))?);
    }
    let mut text =
        format!("it holds: entry {index} of {} is under the checkpoint over {} entries.", head.origin, head.size);
    for (name, time) in &opened.witnesses {
        let when = time.and_then(|it| chrono::DateTime::from_timestamp(i64::try_from(it).ok()?, 0));
        let when = when.map_or("at an unstated time".to_owned(), |it| it.to_rfc3339());
        text.push_str(&format!("\nwitness {name} cosigned it, {when}"));
    }
    Ok(text)
}

fn leaf_of(what: &What) -> anyhow::Result<(Hash, Option<u64>)> {
    if let Some(text) = &what.leaf {
        let leaf = Hash::from_hex(text).ok_or(anyhow!("--leaf takes 64 hex digits"))?;
        return Ok((leaf, None));
    }
    let path = what.entry.as_deref().ok_or(anyhow!("give --leaf or --entry"))?;
    let file: EntryFile = serde_json::from_str(&read(path)?)
        .map_err(|_| anyhow!("{} is no answer to a submission and no leaf: it has no leaf_hash", path.display()))?;
    let stated =
        Hash::from_hex(&file.leaf_hash).ok_or(anyhow!("the leaf_hash in {} is not 64 hex digits", path.display()))?;
    match file.leaf_data.map(hex::decode) {
        None => Ok((stated, file.sequence)),
        // The bytes decide; what is stated beside them must agree.
        Some(Ok(data)) if leaf_hash(&data) == stated => Ok((stated, file.sequence)),
        Some(_) => bail!("the leaf_data in {} does not have the leaf_hash beside it", path.display()),
    }
}

/// A public key by its text, or by the file that holds it.
pub(super) fn key(text: &str) -> anyhow::Result<VerifierKey> {
    if let Ok(key) = VerifierKey::parse(text) {
        return Ok(key);
    }
    VerifierKey::parse(read(Path::new(text))?.trim_end_matches('\n'))
        .with_context(|| format!("{text} holds no public key"))
}

/// Reads a small text file.
pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    use std::io::Read;
    let shown = path.display();
    let file = std::fs::File::open(path).with_context(|| format!("{shown} cannot be read"))?;
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).with_context(|| format!("{shown} does not hold text"))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        bail!("{shown} is larger than such a file can be");
    }
    Ok(text)
}
