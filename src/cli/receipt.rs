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
/// Needs no server, no keys and no vault: only the receipt (`GET /v1/entries/{id}/proof?format=text`, C2SP tlog-proof, or the
/// answer to a submission with `?wait=proof`), whom to trust, and the leaf. The leaf hash stands in the answer to the submission; the
/// whole leaf is `GET /v1/entries/{id}/leaf`.
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
    /// The ledger's public key: its text, or the file that holds it (keys/signing.vkey); several if it changed meanwhile
    #[arg(long, value_name = "KEY|FILE")]
    vkey: Vec<String>,

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
        Ok(Policy::of_logs(keys(&self.vkey)?))
    }
}

#[derive(Deserialize)]
struct EntryFile {
    leaf_hash: String,
    sequence: Option<u64>,
    leaf_data: Option<String>,
}

/// A proof as the API answers it: by itself, or in the answer to a submission.
#[derive(Deserialize)]
#[serde(untagged)]
enum ProofFile {
    Inside { proof: JsonProof },
    Itself(JsonProof),
}

#[derive(Deserialize)]
struct JsonProof {
    index: u64,
    hashes: Vec<String>,
    checkpoint: String,
}

/// Does it.
///
/// # Errors
/// A sentence when nothing could be told.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let policy = args.trust.policy()?;
    let (leaf, sequence) = leaf_of(&args.what)?;
    let proof = receipt(&args.receipt)?;
    let result = if sequence.is_some_and(|it| it != proof.index) {
        Err(format!("the receipt is of entry {}, the file given of another", proof.index))
    } else {
        proof.verify(&leaf, &policy).map(|opened| (opened, proof.index)).map_err(|it| told(&it))
    };
    let (code, shown) = match result {
        Ok((opened, index)) => (0, holds(&opened, index, args.json)?),
        Err(error) if args.json => (1, serde_json::json!({"holds": false, "error": error}).to_string()),
        Err(error) => (1, format!("it does NOT hold: {error}")),
    };
    terminal::print(&shown)?;
    Ok(ExitCode::from(code))
}

/// A receipt: a tlog-proof, or the proof in an answer of the vault. One that does not read is not said not to hold.
fn receipt(path: &Path) -> anyhow::Result<TlogProof> {
    let text = plain(&read(path)?);
    let proof = match serde_json::from_str(&text) {
        Ok(ProofFile::Inside { proof }) => proof.receipt(),
        Ok(ProofFile::Itself(proof)) => proof.receipt(),
        Err(_) => TlogProof::parse(&text).map_err(|error| error.to_string()),
    };
    proof.map_err(|what| {
        anyhow!("{} is not a receipt as the vault writes it: {what}. Fetch it once more.", path.display())
    })
}

impl JsonProof {
    fn receipt(self) -> Result<TlogProof, String> {
        let hashes: Option<Vec<_>> = self.hashes.iter().map(|it| Hash::from_hex(it)).collect();
        let hashes = hashes.ok_or("a hash is not 64 hex digits")?;
        Ok(TlogProof { extra: None, index: self.index, hashes, checkpoint: self.checkpoint })
    }
}

/// Why a receipt does not hold, with what most often is behind it.
fn told(error: &ReceiptError) -> String {
    let unsigned = |note: &NoteError| matches!(note, NoteError::NoTrustedSignature);
    match error {
        ReceiptError::Checkpoint(PolicyError::Note(note) | PolicyError::Checkpoint(CheckpointError::Note(note)))
            if unsigned(note) =>
        {
            format!(
                "{error}. If the ledger changed its signing key meanwhile, give the public key of that time (or of now) as well: \
                 --vkey may be given several times, and the vault keeps those of before in signing.vkey.old"
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

/// Public keys, each by its text or by a file that holds some, a line each; none twice.
pub(super) fn keys(given: &[String]) -> anyhow::Result<Vec<VerifierKey>> {
    let mut keys = Vec::new();
    for text in given {
        match VerifierKey::parse(text.trim()) {
            Ok(key) => keys.push(key),
            // Its text has two of them; hardly a file's name.
            Err(error) if text.matches('+').count() > 1 && !Path::new(text).exists() => {
                return Err(error).context("--vkey is no public key");
            }
            Err(_) => {
                let file = plain(&read(Path::new(text))?);
                for line in file.lines().map(str::trim).filter(|it| !it.is_empty()) {
                    keys.push(VerifierKey::parse(line).with_context(|| format!("{text} holds no public key"))?);
                }
            }
        }
    }
    let mut seen = Vec::new();
    keys.retain(|key| {
        !seen.contains(key) && {
            seen.push(key.clone());
            true
        }
    });
    if keys.is_empty() { bail!("no public key was given: name one by --vkey, or a --policy") } else { Ok(keys) }
}

/// One public key by its text, or by the file that holds it.
pub(super) fn one_key(text: &str) -> anyhow::Result<VerifierKey> {
    let mut keys = keys(&[text.to_owned()])?;
    match (keys.pop(), keys.is_empty()) {
        (Some(key), true) => Ok(key),
        _ => bail!("{text} holds more than one public key: give the newest alone"),
    }
}

/// A text as it was before a mail program or an editor gave it a byte order mark, other line ends, or blank lines around it.
fn plain(text: &str) -> String {
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    format!("{}\n", text.trim_matches('\n'))
}

/// Reads a small text file.
pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    read_up_to(path, MAX_FILE_BYTES)
}

/// Reads a text file of at most so many bytes.
pub(super) fn read_up_to(path: &Path, most: u64) -> anyhow::Result<String> {
    use std::io::Read;
    let shown = path.display();
    let file = std::fs::File::open(path).with_context(|| format!("{shown} cannot be read"))?;
    let mut text = String::new();
    file.take(most + 1).read_to_string(&mut text).with_context(|| format!("{shown} does not hold text"))?;
    if text.len() as u64 > most {
        bail!("{shown} is larger than such a file can be");
    }
    Ok(text)
}
