//! One segment: everything that can be checked without the others, and what the others need of it.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::crypto::keyring::Keyring;
use crate::crypto::seal;
use crate::domain::action::{Action, Kind};
use crate::domain::activity::{Deed, Gathering};
use crate::domain::index::Terms;
use crate::domain::meta::Meta;
use crate::domain::time::Timestamp;
use crate::ledger::hash::Hash;
use crate::ledger::leaf::{Sequenced, entry_leaf};
use crate::ledger::tree::{TILE_WIDTH, tile_root};
use crate::store::sqlite::{Reader, RowRef};
use crate::store::{SEGMENT, StoreError};

use super::super::standing::Standing;
use super::super::writer::seal_leaf;

use super::Findings;

/// Rows of one statement; short statements let a running server's checkpoints pass.
const PIECE: usize = 2_048;

/// What all segments are checked with.
pub(super) struct Context {
    /// Secret of this run, so that whoever wrote the database cannot aim at equal hashes.
    pub(super) secret: RandomState,
    pub(super) keyring: Option<Arc<Keyring>>,
    /// Sizes at which a root will be asked for.
    pub(super) marks: Vec<u64>,
    /// Rows done, for progress.
    pub(super) done: AtomicU64,
}

/// What a segment comes to.
pub(super) struct Segment {
    pub(super) findings: Findings,
    /// The position after the last row, and how many rows there are.
    pub(super) rows: u64,
    /// Its leaves, if they are not one whole subtree of which only the root is needed.
    pub(super) leaves: Vec<Hash>,
    /// The root of a whole segment.
    pub(super) root: Option<Hash>,
    pub(super) first_time: i64,
    pub(super) last_time: i64,
    /// The leaf of each row in the tree of its seal entry.
    pub(super) seals: Vec<Hash>,
    /// Patient (hashed with the run's secret), position, entry before, number.
    pub(super) chain: Vec<(u64, u64, u64, u64)>,
    /// Ids, hashed with the run's secret.
    pub(super) ids: Vec<u64>,
    /// Entries of the vault about itself that change what stands, and seal entries.
    pub(super) own: Vec<(u64, Meta)>,
    /// Erased records, by certificate and bucket.
    pub(super) erased: BTreeMap<(Uuid, u32), Erased>,
    /// SHA-256 of heads and moments of what a full segment is counted by.
    pub(super) counted: Option<(Hash, Hash)>,
    pub(super) opened: u64,
    pub(super) destroyed: u64,
}

/// Records that were erased under one certificate.
pub(super) struct Erased {
    /// The first of them: position and id.
    pub(super) first: (u64, Uuid),
    pub(super) entries: u64,
}

struct Check<'a> {
    context: &'a Context,
    out: Segment,
    expected: u64,
    /// An order-independent sum over dimension, key and position of all terms.
    index: u64,
    terms: Terms,
    /// What a full segment is counted by.
    deeds: Gathering,
    /// Records under each version and bucket.
    usage: BTreeMap<(u32, u32), i64>,
}

/// Checks the rows of one segment.
///
/// # Errors
/// [`StoreError::Unavailable`] when the disk refuses; whatever is wrong with the data is a finding.
pub(super) fn check(context: &Context, reader: &Reader, n: u64, range: Range<u64>) -> Result<Segment, StoreError> {
    let out = Segment {
        findings: Findings::default(),
        rows: 0,
        leaves: Vec::with_capacity(usize::try_from(range.end - range.start).unwrap_or(0)),
        root: None,
        first_time: i64::MIN,
        last_time: i64::MIN,
        seals: Vec::new(),
        chain: Vec::new(),
        ids: Vec::new(),
        own: Vec::new(),
        erased: BTreeMap::new(),
        counted: None,
        opened: 0,
        destroyed: 0,
    };
    let mut check = Check {
        context,
        out,
        expected: range.start,
        index: 0,
        terms: Terms::default(),
        deeds: Gathering::default(),
        usage: BTreeMap::new(),
    };
    for from in range.clone().step_by(PIECE) {
        let to = range.end.min(from + PIECE as u64);
        let read = reader.scan(from..to, &mut |sequence, row| check.row(sequence, row));
        match read {
            Ok(()) => {}
            Err(StoreError::Corrupt(what)) => {
                let place = format!("entries {from} to {}", to - 1);
                check.out.findings.find("unreadable", Some(from), place, "readable rows", what);
                check.expected = to;
            }
            Err(error) => return Err(error),
        }
        context.done.fetch_add(to - from, Ordering::Relaxed);
    }
    if check.expected < range.end {
        check.missing(range.end);
    }
    let whole = range.end - range.start == SEGMENT && check.out.leaves.len() as u64 == SEGMENT;
    if whole {
        check.tile(reader, n)?;
    }
    check.index(reader, n, range.end - range.start == SEGMENT)?;
    check.usage(reader, n)?;
    let inside = |mark: &u64| (range.start..range.end).contains(mark) && *mark != range.start;
    if whole && !context.marks.iter().any(inside) {
        check.out.leaves = Vec::new();
    }
    Ok(check.out)
}

impl Check<'_> {
    fn missing(&mut self, next: u64) {
        let (from, count) = (self.expected, next - self.expected);
        let gap = if count == 1 { "none".to_owned() } else { format!("none of {count} up to entry {}", next - 1) };
        self.out.findings.find("missing", Some(from), "entry", "an entry", gap);
    }

    fn row(&mut self, sequence: u64, row: Result<RowRef<'_>, StoreError>) {
        if sequence > self.expected {
            self.missing(sequence);
        }
        self.expected = sequence + 1;
        self.out.rows += 1;
        let row = match row {
            Ok(row) => row,
            Err(error) => {
                let findings = &mut self.out.findings;
                return findings.find(
                    "unreadable",
                    Some(sequence),
                    "row",
                    "a row of the schema's types",
                    error.to_string(),
                );
            }
        };
        let sequenced = Sequenced {
            received_at: row.received_at,
            patient_previous: row.patient_previous,
            patient_number: row.patient_number,
        };
        let leaf = entry_leaf(row.meta, row.commitment, sequenced);
        if leaf != row.leaf {
            let place = "meta, commitment, received_at or patient chain against leaf";
            self.out.findings.find("altered", Some(sequence), place, row.leaf.to_string(), leaf.to_string());
        }
        self.out.leaves.push(row.leaf);
        self.time(sequence, row.received_at);
        match Meta::borrow(row.meta) {
            Ok(meta) => self.meaning(&row, &meta),
            Err(error) => {
                self.out.findings.find("altered", Some(sequence), "meta", "canonical metadata", error.to_string());
            }
        }
    }

    fn time(&mut self, sequence: u64, time: i64) {
        let last = self.out.last_time;
        if last == i64::MIN {
            self.out.first_time = time;
        } else if time < last {
            let least = format!("at least {last}");
            self.out.findings.find("time_falls", Some(sequence), "received_at", least, time.to_string());
        }
        self.out.last_time = last.max(time);
    }

    /// What can be checked because the metadata reads.
    fn meaning(&mut self, row: &RowRef<'_>, meta: &Meta<&str>) {
        let secret = &self.context.secret;
        let patient = meta.patient.as_ref().map_or(0, |it| secret.hash_one(it) | 1);
        if patient != 0 || (row.patient_previous, row.patient_number) != (0, 0) {
            self.out.chain.push((patient, row.sequence, row.patient_previous, row.patient_number));
        }
        self.out.ids.push(secret.hash_one(meta.id));
        *self.usage.entry(seal::counted_under(row.sealed)).or_default() += 1;
        if let Some((bucket, certificate)) = seal::is_erased(row.sealed) {
            let all = self.out.erased.entry((Uuid::from_bytes(certificate), bucket));
            all.or_insert(Erased { first: (row.sequence, meta.id), entries: 0 }).entries += 1;
        } else if seal::header(row.sealed).is_err() {
            let findings = &mut self.out.findings;
            findings.find("sealed_malformed", Some(row.sequence), "sealed", "a sealed record", "something else");
        }
        self.out.seals.push(seal_leaf(meta.id, row.sealed));
        let within = u16::try_from(row.sequence % SEGMENT).expect("a position within a segment has 16 bits");
        let terms = self.terms.of(meta);
        self.deeds.add(&Deed::of(meta, terms), Timestamp(row.received_at), within);
        for term in terms {
            self.index = self.index.wrapping_add(posting(secret, term.dimension as u8, term.key, within));
        }
        if let Some(keyring) = &self.context.keyring {
            self.open(keyring.clone(), row, meta.id);
        }
        let told = [
            Action::SEAL,
            Action::INTEGRITY,
            Action::VAULT_RESTORE,
            Action::KEY_REENCRYPT,
            Action::DISPOSE,
            Action::ERASE,
            Action::REDACT,
        ];
        if meta.action.kind() == Kind::Vault && (told.contains(&meta.action) || Standing::concerns(meta)) {
            self.out.own.extend(Meta::decode(row.meta).map(|meta| (row.sequence, meta)));
        }
    }

    /// With keys: the values open, and are those the ledger committed to.
    fn open(&mut self, keyring: Arc<Keyring>, row: &RowRef<'_>, id: Uuid) {
        let Ok(header) = seal::header(row.sealed) else {
            self.out.destroyed += u64::from(seal::is_erased(row.sealed).is_some());
            return;
        };
        let result = match keyring.opening(header) {
            Some(keys) => seal::open(&keys, id.as_bytes(), row.meta, row.sealed, row.commitment).map(|_| true),
            None if keyring.knows(header) => Ok(false),
            None => Err(seal::OpenError::Rejected),
        };
        match result {
            Ok(true) => self.out.opened += 1,
            Ok(false) => self.out.destroyed += 1,
            Err(error) => {
                let findings = &mut self.out.findings;
                findings.find(
                    "values_differ",
                    Some(row.sequence),
                    "sealed",
                    "the values committed to",
                    error.to_string(),
                );
            }
        }
    }

    /// The stored tile over a whole segment.
    fn tile(&mut self, reader: &Reader, n: u64) -> Result<(), StoreError> {
        let hashes: Vec<Hash> = self.out.leaves.chunks(TILE_WIDTH).map(tile_root).collect();
        self.out.root = Some(tile_root(&hashes));
        compare_tile(&mut self.out.findings, reader, 1, n, &hashes)
    }

    /// The counts of records under each key must be those of the records.
    fn usage(&mut self, reader: &Reader, n: u64) -> Result<(), StoreError> {
        let stored = match reader.usage(n) {
            Ok(stored) => stored,
            Err(StoreError::Corrupt(what)) => {
                self.out.findings.find("usage_differs", Some(n * SEGMENT), "usage", "readable counts", what);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let stored: BTreeMap<_, _> = stored.iter().map(|it| ((it.version, it.bucket), it.entries)).collect();
        if stored != self.usage {
            let shown = |counts: &BTreeMap<(u32, u32), i64>| {
                let each = counts.iter().map(|((version, bucket), n)| format!("{n} under {version}/{bucket}"));
                each.collect::<Vec<_>>().join(", ")
            };
            let (wanted, found) = (shown(&self.usage), shown(&stored));
            let place = format!("counts of keys of segment {n}");
            self.out.findings.find("usage_differs", Some(n * SEGMENT), place, wanted, found);
        }
        Ok(())
    }

    /// The stored index of a full segment must be the one its entries give.
    fn index(&mut self, reader: &Reader, n: u64, full: bool) -> Result<(), StoreError> {
        let place = format!("index of segment {n}");
        let (mut sum, secret) = (0_u64, &self.context.secret);
        let read = reader.segment(n, &mut |dimension, key, position| {
            sum = sum.wrapping_add(posting(secret, dimension, key, position));
        });
        let (expected, found) = match read {
            Ok(false) => return Ok(()),
            Ok(true) if !full => ("none, the segment is not full", "one".to_owned()),
            Ok(true) if sum != self.index => ("the terms of its entries", "others".to_owned()),
            Ok(true) => return self.activity(reader, n),
            Err(StoreError::Corrupt(what)) => ("a readable index", what),
            Err(error) => return Err(error),
        };
        self.out.findings.find("index_differs", Some(n * SEGMENT), place, expected, found);
        Ok(())
    }

    /// The stored activity of a full segment must be the one its entries give.
    fn activity(&mut self, reader: &Reader, n: u64) -> Result<(), StoreError> {
        let place = format!("activity of segment {n}");
        let wanted = std::mem::take(&mut self.deeds).finish(u32::MAX);
        let hash = |bytes: &[u8]| Hash(Sha256::digest(bytes).into());
        self.out.counted = Some((hash(&wanted.heads), hash(&wanted.moments)));
        let (expected, found) = match reader.activity(n) {
            Ok(Some(stored)) if stored == wanted => return Ok(()),
            Ok(_) => ("what its entries are counted by", "something else".to_owned()),
            Err(StoreError::Corrupt(what)) => ("a readable activity", what),
            Err(error) => return Err(error),
        };
        self.out.findings.find("index_differs", Some(n * SEGMENT), place, expected, found);
        Ok(())
    }
}

/// A posting under the run's secret: sums of these are equal only for the same postings, whoever made them up before.
fn posting(secret: &RandomState, dimension: u8, key: u64, position: u16) -> u64 {
    secret.hash_one(u128::from(dimension) << 80 | u128::from(position) << 64 | u128::from(key))
}

/// Compares a stored tile with the one the entries give.
pub(super) fn compare_tile(
    findings: &mut Findings,
    reader: &Reader,
    level: u8,
    index: u64,
    hashes: &[Hash],
) -> Result<(), StoreError> {
    let place = format!("tile {index} of level {level}");
    let span = 256_u64.pow(u32::from(level));
    let Some(stored) = reader.tile(level, index)? else {
        findings.find("tile_missing", None, place, "a tile", "none");
        return Ok(());
    };
    if stored.len() != hashes.len() {
        let first = Some(index * 256 * span);
        findings.find("tile_differs", first, place, "256 hashes", stored.len().to_string());
        return Ok(());
    }
    for (n, (wanted, found)) in (0_u64..).zip(hashes.iter().zip(&stored)) {
        if wanted != found {
            let first = (index * 256 + n) * span;
            let place = format!("{place}: entries {first} to {}", first + span - 1);
            findings.find("tile_differs", Some(first), place, wanted.to_string(), found.to_string());
        }
    }
    Ok(())
}
