//! Verifying a vault's files without a server and without keys: every row, tile, seal, index and state row.
//!
//! The verifier believes the public key, the lock and the checkpoints it is given, and nothing in the database. It reads the
//! file also while a server writes to it. Segments are checked side by side on all cores (`segment`), and joined in order
//! (`join`); memory grows by one number a patient and eight bytes an entry.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::crypto::keyring::Keyring;
use crate::keyfile::{LockFile, read_verifier_key};
use crate::ledger::checkpoint::{Checkpoint, open as open_checkpoint};
use crate::ledger::note::{Note, VerifierKey};
use crate::ledger::policy::Policy;
use crate::store::StoreError;
use crate::store::sqlite::SqliteStore;

mod join;
mod records;
mod segment;

/// Findings kept in full; more are counted.
const MAX_FINDINGS: usize = 1_000;

/// What to verify.
pub struct VerifyAsked<'a> {
    /// The folder of the database.
    pub data: PathBuf,
    /// The public key of the ledger.
    pub verifier_key: PathBuf,
    /// The lock with the newest checkpoint.
    pub lock: PathBuf,
    /// An older checkpoint, kept elsewhere: the ledger must extend it.
    pub since: Option<String>,
    /// Whom to trust, and how many witnesses must have signed what `since` holds.
    pub policy: Option<Policy>,
    /// With it every value is opened, and its commitment checked; and the digest of its file, which must be the newest the
    /// ledger knows.
    pub keyring: Option<(Arc<Keyring>, String)>,
    /// Called now and then with rows done and rows in all.
    pub progress: &'a mut dyn FnMut(u64, u64),
}

/// What it comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing was found altered.
    Intact,
    /// Something was altered.
    Altered,
    /// It could not be told.
    Unsure,
}

/// One thing that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// What kind of thing: a stable code.
    pub code: &'static str,
    /// The entry, or the first of a range.
    pub sequence: Option<u64>,
    /// Where: a column, a tile, a file.
    pub place: String,
    /// What should stand there.
    pub expected: String,
    /// What does.
    pub found: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(sequence) = self.sequence {
            write!(f, "entry {sequence}: ")?;
        }
        write!(f, "{} ({}): expected {}, found {}", self.code, self.place, self.expected, self.found)
    }
}

/// The result of a verification.
#[derive(Serialize, Debug)]
pub struct Report {
    /// What it comes to.
    pub verdict: Verdict,
    /// The name of the ledger.
    pub origin: String,
    /// Entries read.
    pub entries: u64,
    /// Entries that the checkpoint in the lock covers.
    pub checkpoint_size: u64,
    /// Entries that the older checkpoint covers, if one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_size: Option<u64>,
    /// The witnesses that signed the older checkpoint.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub witnesses: Vec<String>,
    /// Values that were opened and agree with their commitments, if a keyring was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values_opened: Option<u64>,
    /// Entries whose values can no longer be read because their key was destroyed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values_destroyed: Option<u64>,
    /// The root over all entries read.
    pub root: String,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Findings beyond the first thousand.
    pub more_findings: u64,
    /// What this verification could not exclude.
    pub notes: Vec<String>,
}

/// What is found, up to [`MAX_FINDINGS`] in full.
#[derive(Default)]
struct Findings {
    kept: Vec<Finding>,
    more: u64,
}

impl Findings {
    fn find(
        &mut self,
        code: &'static str,
        sequence: Option<u64>,
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) {
        self.push(Finding { code, sequence, place: place.into(), expected: expected.into(), found: found.into() });
    }

    fn push(&mut self, finding: Finding) {
        if self.kept.len() < MAX_FINDINGS { self.kept.push(finding) } else { self.more += 1 }
    }

    fn extend(&mut self, other: Self) {
        other.kept.into_iter().for_each(|it| self.push(it));
        self.more += other.more;
    }
}

/// A size at which the root must be a certain one.
struct Mark {
    /// Whose: `lock` or `since`.
    name: &'static str,
    checkpoint: Checkpoint,
    /// The keys that signed it; one must be the ledger's.
    note: String,
}

/// Verifies a vault's files.
///
/// # Errors
/// A sentence when nothing could be told: a file is missing or unreadable.
pub fn verify(asked: VerifyAsked<'_>) -> Result<Report, String> {
    let key = read_verifier_key(&asked.verifier_key).map_err(|error| error.to_string())?;
    // The lock is read before the database: what it covers was committed before it was written.
    let note = LockFile::open(&asked.lock).map_err(|error| error.to_string())?.note();
    let checkpoint = open_checkpoint(&note, key.name(), std::slice::from_ref(&key)).map_err(|error| {
        format!("The lock {} does not hold a checkpoint of this key: {error}.", asked.lock.display())
    })?;
    let mut marks = vec![Mark { name: "lock", checkpoint, note }];
    let mut witnesses = Witnessed::default();
    if let Some(note) = asked.since {
        marks.push(since(&note, asked.policy.as_ref(), &mut witnesses)?);
    } else if asked.policy.as_ref().is_some_and(Policy::asks_for_witnesses) {
        return Err(
            "The policy asks for witnesses, and no checkpoint with their signatures was given (--since).".into()
        );
    }
    let database = super::open::database(&asked.data);
    let (keyring, digest) = asked.keyring.unzip();
    let mut join = join::Join::new(key, marks, witnesses, digest);
    let reader = match SqliteStore::reader(&database) {
        Ok(reader) => reader,
        Err(StoreError::Unsuitable(what)) if what.contains("schema of") => {
            tracing::debug!(%what, "the schema differs");
            let found = "another; it was not read further";
            join.findings.find("schema_altered", None, "sqlite_schema", "the schema of this version", found);
            return Ok(join.finish(0));
        }
        Err(error) => return Err(error.to_string()),
    };
    let size = match reader.freeze().and_then(|()| reader.size()) {
        Ok(size) => size,
        Err(StoreError::Corrupt(what)) => {
            join.findings.find("unreadable", None, "database", "readable rows", what);
            return Ok(join.finish(0));
        }
        Err(error) => return Err(error.to_string()),
    };
    match join.run(&database, &reader, size, keyring, asked.progress) {
        Ok(()) => {}
        Err(StoreError::Corrupt(what)) => join.findings.find("unreadable", None, "database", "readable rows", what),
        // The disk or the system refused: that says nothing about what is stored.
        Err(error) => return Err(error.to_string()),
    }
    Ok(join.finish(size))
}

/// Who vouches for the older checkpoint.
#[derive(Default)]
struct Witnessed {
    names: Vec<String>,
    /// Whether the policy asks for more than there are.
    too_few: bool,
}

/// The older checkpoint. Which key must have signed it the ledger itself says, unless a policy does.
fn since(note: &str, policy: Option<&Policy>, witnesses: &mut Witnessed) -> Result<Mark, String> {
    let wrong = |error: &dyn fmt::Display| format!("The older checkpoint cannot be used: {error}.");
    let checkpoint = match policy {
        Some(policy) => {
            let opened = policy.open(note).map_err(|error| wrong(&error))?;
            witnesses.names = opened.witnesses.into_iter().map(|(name, _)| name).collect();
            witnesses.too_few = !opened.quorum;
            opened.checkpoint
        }
        None => {
            let note = Note::parse(note).map_err(|error| wrong(&error))?;
            Checkpoint::parse(&note.text).map_err(|error| wrong(&error))?
        }
    };
    Ok(Mark { name: "since", checkpoint, note: note.to_owned() })
}

impl Mark {
    /// Whether one of these keys, each of the ledger at some time, signed it.
    fn is_signed_by(&self, keys: &[VerifierKey]) -> bool {
        keys.iter().any(|key| open_checkpoint(&self.note, key.name(), std::slice::from_ref(key)).is_ok())
    }
}
