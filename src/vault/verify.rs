//! Verifying a vault's files without a server and without keys: every row, tile, seal, index and state row.
//!
//! The verifier believes the public key and the lock, and nothing in the database. It reads one moment of the file, also
//! while a server writes to it, in memory that does not grow with the ledger but for one number a patient.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::crypto::seal;
use crate::domain::action::Action;
use crate::domain::index::terms;
use crate::domain::meta::{Meta, Patient};
use crate::keyfile::{LockFile, read_verifier_key};
use crate::ledger::checkpoint::{Checkpoint, open as open_checkpoint};
use crate::ledger::hash::Hash;
use crate::ledger::leaf::{Sequenced, entry_leaf};
use crate::ledger::tree::{Edge, Tile};
use crate::store::sqlite::{Postings, Reader, SqliteStore};
use crate::store::{Row, SEGMENT, StoreError};

use super::standing::{Standing, digest_of};
use super::writer::{Unsealed, seal_leaf};

/// Findings kept in full; more are counted.
const MAX_FINDINGS: usize = 1_000;
/// Rows between two calls of `progress`.
const PROGRESS_ROWS: u64 = 8_192;

/// What to verify.
pub struct VerifyAsked<'a> {
    /// The folder of the database.
    pub data: PathBuf,
    /// The public key of the ledger.
    pub verifier_key: PathBuf,
    /// The lock with the newest checkpoint.
    pub lock: PathBuf,
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
    /// The root over all entries read.
    pub root: String,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Findings beyond the first thousand.
    pub more_findings: u64,
    /// What this verification could not exclude.
    pub notes: Vec<String>,
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
    let mut check = Check::new(checkpoint);
    let database = super::open::database(&asked.data);
    let reader = match SqliteStore::reader(&database) {
        Ok(reader) => reader,
        Err(StoreError::Unsuitable(what)) if what.contains("schema of") => {
            check.find("schema_altered", None, "sqlite_schema", "the schema of this version", what);
            return Ok(check.finish(key.name(), 0));
        }
        Err(error) => return Err(error.to_string()),
    };
    let size = reader.freeze().and_then(|()| reader.size()).map_err(|error| error.to_string())?;
    match check.run(&reader, size, asked.progress) {
        Ok(()) => {}
        Err(StoreError::Corrupt(what)) => check.find("unreadable", None, "database", "readable rows", what),
        // The disk or the system refused: that says nothing about what is stored.
        Err(error) => return Err(error.to_string()),
    }
    Ok(check.finish(key.name(), size))
}

struct Check {
    checkpoint: Checkpoint,
    findings: Vec<Finding>,
    more_findings: u64,
    edge: Edge,
    expected: u64,
    last_time: i64,
    heads: HashMap<Patient, (u64, u64)>,
    unsealed: Unsealed,
    postings: Postings,
    first_meta: Option<Meta>,
    standing: Standing,
    reached_checkpoint: bool,
}

impl Check {
    fn new(checkpoint: Checkpoint) -> Self {
        Self {
            checkpoint,
            findings: Vec::new(),
            more_findings: 0,
            edge: Edge::new(),
            expected: 0,
            last_time: i64::MIN,
            heads: HashMap::new(),
            unsealed: Unsealed::new(0),
            postings: Postings::new(),
            first_meta: None,
            standing: Standing::default(),
            reached_checkpoint: false,
        }
    }

    fn find(
        &mut self,
        code: &'static str,
        sequence: Option<u64>,
        place: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding {
                code,
                sequence,
                place: place.into(),
                expected: expected.into(),
                found: found.into(),
            });
        } else {
            self.more_findings += 1;
        }
    }

    fn run(&mut self, reader: &Reader, size: u64, progress: &mut dyn FnMut(u64, u64)) -> Result<(), StoreError> {
        if let Some(answer) = reader.structure()? {
            self.find("structure", None, "database file", "ok", answer);
        }
        for begin in (0..size).step_by(usize::try_from(SEGMENT).expect("a segment fits into memory")) {
            let end = size.min(begin + SEGMENT);
            for from in (begin..end).step_by(usize::try_from(PROGRESS_ROWS).expect("a small number")) {
                let mut tiles = Vec::new();
                reader.scan(from..end.min(from + PROGRESS_ROWS), &mut |row| tiles.extend(self.row(&row)))?;
                for tile in tiles {
                    self.tile(reader, &tile)?;
                }
                progress(end.min(from + PROGRESS_ROWS), size);
            }
            self.segment(reader, begin / SEGMENT, end - begin == SEGMENT)?;
        }
        if self.expected < size {
            self.find(
                "missing",
                Some(self.expected),
                "entry",
                format!("entries up to {size}"),
                format!("none from {} on", self.expected),
            );
        }
        for stray in reader.strays()? {
            self.find("planted", None, "database", "none", stray);
        }
        self.tile_count(reader)?;
        self.state(reader)
    }

    /// Checks one row, and gives back the full tiles it completes.
    fn row(&mut self, row: &Row) -> Vec<Tile> {
        if row.sequence != self.expected {
            let gap = format!("nothing up to entry {}", row.sequence);
            self.find("missing", Some(self.expected), "entry", "an entry", gap);
        }
        let sequence = Some(row.sequence);
        let sequenced = Sequenced {
            received_at: row.received_at,
            patient_previous: row.patient_previous,
            patient_number: row.patient_number,
        };
        let leaf = entry_leaf(&row.meta, &row.commitment, sequenced);
        if leaf != row.leaf {
            self.find(
                "altered",
                sequence,
                "meta, commitment, received_at or patient chain against leaf",
                row.leaf.to_string(),
                leaf.to_string(),
            );
        }
        if row.received_at < self.last_time {
            self.find(
                "time_falls",
                sequence,
                "received_at",
                format!("at least {}", self.last_time),
                row.received_at.to_string(),
            );
        }
        self.last_time = self.last_time.max(row.received_at);
        match Meta::decode(&row.meta) {
            Ok(meta) => self.meaning(row, meta),
            Err(error) => self.find("altered", sequence, "meta", "canonical metadata", error.to_string()),
        }
        self.expected = row.sequence + 1;
        let tiles = self.edge.append(row.leaf);
        if self.edge.size() == self.checkpoint.size {
            self.at_checkpoint();
        }
        tiles.into_iter().filter(|tile| tile.level > 0).collect()
    }

    /// What can be checked because the metadata reads: the patient's chain, seals, the index, state digests.
    fn meaning(&mut self, row: &Row, meta: Meta) {
        let sequence = Some(row.sequence);
        let (previous, number) = match &meta.patient {
            None => (0, 0),
            Some(patient) => {
                let head = self.heads.get(patient).copied().unwrap_or_default();
                self.heads.insert(patient.clone(), (row.sequence, head.1 + 1));
                (head.0, head.1 + 1)
            }
        };
        if (row.patient_previous, row.patient_number) != (previous, number) {
            let shown = |previous: u64, number: u64| format!("number {number} after entry {previous}");
            self.find(
                "patient_chain",
                sequence,
                "patient_previous, patient_number",
                shown(previous, number),
                shown(row.patient_previous, row.patient_number),
            );
        }
        if meta.action == Action::SEAL {
            self.seal(row.sequence, &meta);
        }
        if seal::header(&row.sealed).is_err() {
            self.find("sealed_malformed", sequence, "sealed", "a sealed record", "something else");
        }
        self.unsealed.edge.append(seal_leaf(meta.id, &row.sealed));
        let within = u16::try_from(row.sequence % SEGMENT).expect("a position within a segment has 16 bits");
        for term in terms(&meta) {
            self.postings.entry((term.dimension as u8, term.key)).or_default().push(within);
        }
        self.standing.apply(&meta);
        if row.sequence == 0 {
            self.first_meta = Some(meta);
        }
    }

    /// A seal entry says what the ciphertexts since the one before were.
    fn seal(&mut self, sequence: u64, meta: &Meta) {
        let before = std::mem::replace(&mut self.unsealed, Unsealed::new(sequence));
        let fact = |name: &str| meta.fact(name).unwrap_or("nothing").to_owned();
        let (from, to, root) = (before.from.to_string(), sequence.to_string(), before.edge.root().to_string());
        if (fact("from"), fact("to")) != (from.clone(), to.clone()) {
            self.find(
                "seal_range",
                Some(sequence),
                "seal entry",
                format!("{from} to {to}"),
                format!("{} to {}", fact("from"), fact("to")),
            );
        } else if fact("root") != root {
            let place = format!("ciphertexts of entries {from} to {}", sequence - 1);
            self.find("ciphertext_altered", Some(before.from), place, fact("root"), root);
        }
        for (name, wanted) in self.standing.facts() {
            if meta.fact(&name) != Some(&wanted) {
                self.find("standing_differs", Some(sequence), name.clone(), wanted, fact(&name));
            }
        }
    }

    fn at_checkpoint(&mut self) {
        self.reached_checkpoint = true;
        let root = self.edge.root();
        if root != self.checkpoint.root {
            let place = format!("root of the first {} entries", self.checkpoint.size);
            self.find("checkpoint_differs", None, place, self.checkpoint.root.to_string(), root.to_string());
        }
    }

    fn tile(&mut self, reader: &Reader, tile: &Tile) -> Result<(), StoreError> {
        let place = format!("tile {} of level {}", tile.index, tile.level);
        let Some(stored) = reader.tile(tile.level, tile.index)? else {
            self.find("tile_missing", None, place, "a tile", "none");
            return Ok(());
        };
        if stored.len() != tile.hashes.len() {
            self.find(
                "tile_differs",
                Some(tile.index * 256_u64.pow(u32::from(tile.level) + 1)),
                place,
                "256 hashes",
                stored.len().to_string(),
            );
            return Ok(());
        }
        let span = 256_u64.pow(u32::from(tile.level));
        for (n, (wanted, found)) in (0_u64..).zip(tile.hashes.iter().zip(&stored)) {
            if wanted != found {
                let first = (tile.index * 256 + n) * span;
                let place = format!("{place}: entries {first} to {}", first + span - 1);
                self.find("tile_differs", Some(first), place, wanted.to_string(), found.to_string());
            }
        }
        Ok(())
    }

    fn tile_count(&mut self, reader: &Reader) -> Result<(), StoreError> {
        let wanted: u64 = (1..7).map(|level| self.edge.size() >> (8 * (level + 1))).sum();
        let found = reader.tile_count()?;
        if wanted != found && self.findings.is_empty() {
            self.find("tile_count", None, "tiles", wanted.to_string(), found.to_string());
        }
        Ok(())
    }

    /// The stored index of a full segment must be the one its entries give.
    fn segment(&mut self, reader: &Reader, n: u64, full: bool) -> Result<(), StoreError> {
        let wanted = std::mem::take(&mut self.postings);
        let place = format!("index of segment {n}");
        match reader.segment(n) {
            Ok(Some(found)) if found != wanted => {
                self.find("index_differs", Some(n * SEGMENT), place, "the terms of its entries", "others")
            }
            Ok(Some(_)) if !full => {
                self.find("index_differs", Some(n * SEGMENT), place, "none, the segment is not full", "one")
            }
            Err(StoreError::Corrupt(what)) => {
                self.find("index_differs", Some(n * SEGMENT), place, "a readable index", what)
            }
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Every state row must be the one that the newest entry about it commits to.
    fn state(&mut self, reader: &Reader) -> Result<(), StoreError> {
        let rows = reader.state("token")?;
        for row in &rows {
            let wanted = self.standing.of(&row.kind, &row.id).unwrap_or("no row: no entry made it").to_owned();
            let digest = digest_of(row);
            if wanted != digest {
                self.find("state_not_authentic", None, format!("state row {} {}", row.kind, row.id), wanted, digest);
            }
        }
        let there = |kind: &str, id: &str| rows.iter().any(|row| row.kind == kind && row.id == id);
        let gone: Vec<_> = self
            .standing
            .rows()
            .filter(|(kind, id)| !there(kind, id))
            .map(|(kind, id)| {
                (format!("state row {kind} {id}"), self.standing.of(kind, id).unwrap_or_default().to_owned())
            })
            .collect();
        for (place, wanted) in gone {
            self.find("state_missing", None, place, wanted, "none");
        }
        Ok(())
    }

    fn finish(mut self, origin: &str, size: u64) -> Report {
        if !self.reached_checkpoint && self.findings.iter().all(|it| it.code != "schema_altered") {
            let expected = format!("at least {} entries, as signed", self.checkpoint.size);
            self.find("behind_lock", Some(size), "database: it was rolled back or cut", expected, format!("{size}"));
        }
        if let Some(meta) = &self.first_meta
            && meta.fact("ledger") != Some(origin)
        {
            let found = meta.fact("ledger").unwrap_or("none").to_owned();
            self.find("other_ledger", Some(0), "ledger", origin, found);
        }
        let root: Hash = self.edge.root();
        let mut notes = vec![
            "That database and lock were rolled back together is not excluded: compare with a checkpoint kept elsewhere.".to_owned(),
        ];
        let unsigned = size.saturating_sub(self.checkpoint.size);
        if unsigned > 0 {
            notes.push(format!("The newest {unsigned} entries are not covered by a signed checkpoint yet."));
        }
        let unsealed = self.unsealed.edge.size();
        if unsealed > 0 {
            notes.push(format!("The sealed values of the newest {unsealed} entries are not covered by a seal entry yet; their metadata is."));
        }
        let verdict = if self.findings.is_empty() { Verdict::Intact } else { Verdict::Altered };
        Report {
            verdict,
            origin: origin.to_owned(),
            entries: size,
            checkpoint_size: self.checkpoint.size,
            root: root.to_string(),
            findings: self.findings,
            more_findings: self.more_findings,
            notes,
        }
    }
}
