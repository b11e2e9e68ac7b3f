//! Joins segments in order: the tree, the seals, patients' chains, what stands, and the verdict.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use crate::crypto::keyring::Keyring;
use crate::domain::action::Action;
use crate::domain::meta::Meta;
use crate::ledger::hash::Hash;
use crate::ledger::note::VerifierKey;
use crate::ledger::tree::{Edge, Tile};
use crate::store::sqlite::{Reader, SqliteStore};
use crate::store::{SEGMENT, StoreError};

use super::super::open::DAMAGED;
use super::super::segments;
use super::super::standing::{KINDS, LEDGER, Standing, VERIFIER_KEY, digest_of};
use super::super::writer::Unsealed;
use super::records::Records;
use super::segment::{Context, Segment, check, compare_tile};
use super::{Finding, Findings, Mark, Report, Verdict, Witnessed};

/// The most threads; beyond this the joining is the limit.
const MAX_THREADS: usize = 16;
/// How often progress is told.
const TICK: Duration = Duration::from_millis(200);

pub(super) struct Join {
    pub(super) findings: Findings,
    key: VerifierKey,
    /// Every key that the ledger named, in order.
    keys: Vec<VerifierKey>,
    /// Marks that were not reached yet, by size.
    marks: Vec<Mark>,
    reached: Vec<&'static str>,
    lock_size: u64,
    since_size: Option<u64>,
    /// The older checkpoint, once its size was reached; who signed it is judged when all keys are known.
    since_note: Option<Mark>,
    witnesses: Witnessed,
    edge: Edge,
    last_time: i64,
    heads: HashMap<u64, (u64, u64)>,
    unsealed: Unsealed,
    records: Records,
    /// What full segments are counted by, if their index is stored.
    counted: Vec<Option<(Hash, Hash)>>,
    standing: Standing,
    /// The restores on the way.
    restores: Vec<Meta>,
    ids: Vec<u64>,
    first: Option<Meta>,
    /// The digest of the keyring file, if values are opened.
    keyring: Option<String>,
    opened: u64,
    destroyed: u64,
}

/// Findings that may only mean that records were replaced between two looks at a vault that is in use.
const FLEETING: [&str; 3] = ["usage_differs", "values_differ", "sealed_malformed"];

type Done = (u64, Result<Segment, StoreError>);

impl Join {
    pub(super) fn new(key: VerifierKey, mut marks: Vec<Mark>, witnesses: Witnessed, keyring: Option<String>) -> Self {
        let size_of = |name| marks.iter().find(|it| it.name == name).map(|it| it.checkpoint.size);
        let (lock_size, since_size) = (size_of("lock").unwrap_or(0), size_of("since"));
        marks.sort_by_key(|it| it.checkpoint.size);
        Self {
            findings: Findings::default(),
            key,
            keys: Vec::new(),
            marks,
            reached: Vec::new(),
            lock_size,
            since_size,
            since_note: None,
            witnesses,
            edge: Edge::new(),
            last_time: i64::MIN,
            heads: HashMap::new(),
            unsealed: Unsealed::new(0),
            records: Records::default(),
            counted: Vec::new(),
            standing: Standing::default(),
            restores: Vec::new(),
            ids: Vec::new(),
            first: None,
            keyring,
            opened: 0,
            destroyed: 0,
        }
    }

    /// Checks segments on all cores and joins them as they come.
    pub(super) fn run(
        &mut self,
        database: &Path,
        reader: &Reader,
        size: u64,
        keyring: Option<Arc<Keyring>>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), StoreError> {
        let marks = self.marks.iter().map(|it| it.checkpoint.size).collect();
        let context = Context { secret: RandomState::new(), keyring, marks, done: AtomicU64::new(0) };
        let segments = size.div_ceil(SEGMENT);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = cores.min(MAX_THREADS).min(usize::try_from(segments).unwrap_or(MAX_THREADS)).max(1);
        let next = AtomicU64::new(0);
        let structure = std::thread::scope(|scope| {
            // Bounded, so that workers do not run far ahead of the joining.
            let (sender, results) = sync_channel::<Done>(threads);
            let structure = scope.spawn(|| SqliteStore::reader(database)?.structure());
            for _ in 0..threads {
                let sender = sender.clone();
                scope.spawn(|| work(&context, database, size, &next, sender));
            }
            drop(sender);
            let mut waiting = BTreeMap::new();
            let mut failed = None;
            let mut joined = 0;
            loop {
                match results.recv_timeout(TICK) {
                    Ok((n, Ok(segment))) => {
                        waiting.insert(n, segment);
                        while failed.is_none() && waiting.first_key_value().is_some_and(|(n, _)| *n == joined) {
                            let (_, segment) = waiting.pop_first().expect("it was looked at just now");
                            failed = self.settled(&context, reader, size, (joined, segment)).err();
                            joined += 1;
                        }
                    }
                    Ok((_, Err(error))) => failed = failed.or(Some(error)),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                if failed.is_some() {
                    next.store(segments, Ordering::Relaxed);
                }
                progress(context.done.load(Ordering::Relaxed).min(size), size);
            }
            let structure = structure.join().unwrap_or_else(|_| Err(StoreError::Unavailable("a thread failed".into())));
            failed.map_or(structure, Err)
        })?;
        if let Some(answer) = structure {
            self.findings.find("structure", None, "database file", "ok", answer);
        }
        for stray in reader.strays()? {
            self.findings.find("planted", None, "database", "none", stray);
        }
        self.records.finish(reader, &mut self.findings)?;
        self.repeated_ids(&context, reader, size)?;
        self.tile_count(reader)?;
        self.state(reader)
    }

    /// A segment, looked at once more as of the beginning if records may have been replaced while it was read.
    fn settled(
        &mut self,
        context: &Context,
        reader: &Reader,
        size: u64,
        (n, segment): (u64, Segment),
    ) -> Result<(), StoreError> {
        let fleeting = segment.findings.kept.iter().any(|it| FLEETING.contains(&it.code));
        let again =
            if fleeting { check(context, reader, n, n * SEGMENT..size.min((n + 1) * SEGMENT))? } else { segment };
        self.segment(reader, again)
    }

    fn segment(&mut self, reader: &Reader, segment: Segment) -> Result<(), StoreError> {
        if segment.rows > 0 && segment.first_time < self.last_time {
            let least = format!("at least {}", self.last_time);
            let place = Some(self.edge.size());
            self.findings.find("time_falls", place, "received_at", least, segment.first_time.to_string());
        }
        self.last_time = self.last_time.max(segment.last_time);
        self.findings.extend(segment.findings);
        self.records.erased(segment.erased);
        self.opened += segment.opened;
        self.destroyed += segment.destroyed;
        self.ids.extend(segment.ids);
        self.counted.push(segment.counted);
        for (patient, sequence, previous, number) in segment.chain {
            self.chain(patient, sequence, previous, number);
        }
        let mut tiles = Vec::new();
        match segment.root {
            Some(root) if segment.leaves.is_empty() && self.edge.size().is_multiple_of(SEGMENT) => {
                tiles = self.edge.append_at(2, root);
                self.at_marks();
            }
            _ => {
                for leaf in segment.leaves {
                    tiles.extend(self.edge.append(leaf).into_iter().filter(|tile| tile.level > 1));
                    self.at_marks();
                }
            }
        }
        self.own(segment.seals, segment.own);
        tiles.iter().try_for_each(|Tile { level, index, hashes }| {
            compare_tile(&mut self.findings, reader, *level, *index, hashes)
        })
    }

    fn chain(&mut self, patient: u64, sequence: u64, previous: u64, number: u64) {
        let wanted = if patient == 0 {
            (0, 0)
        } else {
            let head = self.heads.get(&patient).copied().unwrap_or_default();
            self.heads.insert(patient, (sequence, head.1 + 1));
            (head.0, head.1 + 1)
        };
        if (previous, number) != wanted {
            let shown = |(previous, number): (u64, u64)| format!("number {number} after entry {previous}");
            let place = "patient_previous, patient_number";
            self.findings.find("patient_chain", Some(sequence), place, shown(wanted), shown((previous, number)));
        }
    }

    /// The seals of a segment's rows, and its entries of the vault about itself, in their order.
    fn own(&mut self, seals: Vec<Hash>, own: Vec<(u64, Meta)>) {
        let mut seals = seals.into_iter();
        // Positions of rows that did not read are not among the seals, so positions are counted where they do.
        let mut taken = self.unsealed_base();
        for (sequence, meta) in own {
            while taken < sequence {
                let Some(leaf) = seals.next() else { break };
                self.unsealed.edge.append(leaf);
                taken += 1;
            }
            if meta.action == Action::SEAL {
                self.seal(sequence, &meta);
            }
            self.records.told(sequence, &meta, &mut self.findings);
            self.named(sequence, &meta);
            self.standing.apply(&meta);
            if let Some(key) =
                meta.fact(VERIFIER_KEY).filter(|_| meta.action != Action::SEAL).and_then(|it| it.parse().ok())
            {
                self.keys.push(key);
            }
            if meta.action == Action::VAULT_RESTORE {
                self.restores.push(meta.clone());
            }
            for damaged in meta.fact(DAMAGED).unwrap_or_default().split_whitespace() {
                let found = format!("others; the vault told so at a start (entry {sequence})");
                self.findings.find("values_damaged", damaged.parse().ok(), "sealed", "the values committed to", found);
            }
            if sequence == 0 {
                self.first = Some(meta);
            }
        }
        for leaf in seals {
            self.unsealed.edge.append(leaf);
        }
    }

    /// An entry that names what a segment is counted by must name what its entries give.
    fn named(&mut self, sequence: u64, meta: &Meta) {
        let Some((n, named)) = segments::named_in(meta) else { return };
        let counted = usize::try_from(n).ok().and_then(|n| self.counted.get(n).copied().flatten());
        if counted.is_some_and(|it| it != (named.heads, named.moments)) {
            let place = format!("digests of segment {n}");
            self.findings.find("index_differs", Some(sequence), place, "those of its entries", "others");
        }
    }

    /// The position that the next seal leaf belongs to, while nothing is missing.
    fn unsealed_base(&self) -> u64 {
        self.unsealed.from + self.unsealed.edge.size()
    }

    /// A seal entry says what the ciphertexts since the one before were, and what stands.
    fn seal(&mut self, sequence: u64, meta: &Meta) {
        let before = std::mem::replace(&mut self.unsealed, Unsealed::new(sequence));
        let fact = |name: &str| meta.fact(name).unwrap_or("nothing").to_owned();
        let (from, to, root) = (before.from.to_string(), sequence.to_string(), before.edge.root().to_string());
        if (fact("from"), fact("to")) != (from.clone(), to.clone()) {
            let (wanted, found) = (format!("{from} to {to}"), format!("{} to {}", fact("from"), fact("to")));
            self.findings.find("seal_range", Some(sequence), "seal entry", wanted, found);
        }
        self.records.sealed(before.from..sequence, root, fact("root"));
        for (name, wanted) in self.standing.facts() {
            if meta.fact(&name) != Some(&wanted) {
                self.findings.find("standing_differs", Some(sequence), name.clone(), wanted, fact(&name));
            }
        }
    }

    fn at_marks(&mut self) {
        while self.marks.first().is_some_and(|mark| mark.checkpoint.size <= self.edge.size()) {
            let mark = self.marks.remove(0);
            let (size, wanted, root) = (mark.checkpoint.size, mark.checkpoint.root, self.edge.root());
            self.reached.push(mark.name);
            if size == self.edge.size() && root != wanted {
                let code = if mark.name == "lock" { "checkpoint_differs" } else { "since_differs" };
                let place = format!("root of the first {size} entries");
                self.findings.find(code, None, place, wanted.to_string(), root.to_string());
            }
            if mark.name == "since" {
                self.since_note = Some(mark);
            }
        }
    }

    fn tile_count(&mut self, reader: &Reader) -> Result<(), StoreError> {
        let wanted: u64 = (1..7).map(|level| self.edge.size() >> (8 * (level + 1))).sum();
        let found = reader.tile_count()?;
        if wanted != found && self.findings.kept.is_empty() {
            self.findings.find("tile_count", None, "tiles", wanted.to_string(), found.to_string());
        }
        Ok(())
    }

    /// An id stands for one entry. The entries are only read again when two may share one.
    fn repeated_ids(&mut self, context: &Context, reader: &Reader, size: u64) -> Result<(), StoreError> {
        let mut ids = std::mem::take(&mut self.ids);
        ids.sort_unstable();
        let twice: HashSet<u64> = ids.windows(2).filter(|it| it[0] == it[1]).map(|it| it[0]).collect();
        drop(ids);
        if twice.is_empty() {
            return Ok(());
        }
        let mut seen = HashMap::new();
        reader.scan(0..size, &mut |sequence, row| {
            let Some(meta) = row.ok().and_then(|row| Meta::decode(row.meta).ok()) else { return };
            if twice.contains(&context.secret.hash_one(meta.id))
                && let Some(first) = seen.insert(meta.id, sequence)
            {
                let wanted = "an id of its own";
                self.findings.find("id_repeated", Some(sequence), "id", wanted, format!("that of entry {first}"));
            }
        })
    }

    /// Every state row must be the one that the newest entry about it commits to.
    fn state(&mut self, reader: &Reader) -> Result<(), StoreError> {
        let mut rows = Vec::new();
        for kind in KINDS {
            rows.extend(reader.state(kind)?);
        }
        for row in &rows {
            let wanted = self.standing.of(&row.kind, &row.id).unwrap_or("no row: no entry made it").to_owned();
            let digest = digest_of(row);
            if wanted != digest {
                let place = format!("state row {} {}", row.kind, row.id);
                self.findings.find("state_not_authentic", None, place, wanted, digest);
            }
        }
        let there: HashSet<(&str, &str)> = rows.iter().map(|row| (row.kind.as_str(), row.id.as_str())).collect();
        for (kind, id) in self.standing.rows().filter(|it| !there.contains(it)) {
            let wanted = self.standing.of(kind, id).unwrap_or_default();
            self.findings.find("state_missing", None, format!("state row {kind} {id}"), wanted, "none");
        }
        Ok(())
    }

    pub(super) fn finish(mut self, size: u64) -> Report {
        let unread = self.findings.kept.iter().any(|it| it.code == "schema_altered");
        for mark in self.marks.iter().filter(|_| !unread) {
            let (code, place) = match mark.name {
                "lock" => ("behind_lock", "database: it was rolled back or cut"),
                _ => ("behind_since", "database: it was rolled back or cut since the older checkpoint"),
            };
            let wanted = format!("at least {} entries, as signed", mark.checkpoint.size);
            self.findings.find(code, Some(size), place, wanted, size.to_string());
        }
        self.name_predecessor();
        let origin = self.key.name().to_owned();
        if size > 0 && !unread && !self.keys.contains(&self.key) {
            let found = self.first.as_ref().and_then(|it| it.fact(LEDGER)).unwrap_or("none").to_owned();
            self.findings.find("other_ledger", Some(0), "ledger", origin.clone(), found);
        }
        if let Some(found) = self.keyring.clone().filter(|it| *it != self.standing.keyring.0 && size > 0 && !unread) {
            let (digest, generation) = self.standing.keyring.clone();
            let wanted = format!("the keyring of generation {generation}, {digest}");
            self.findings.find("keyring_not_newest", None, "keyring file", wanted, found);
        }
        if let Some(mark) = self.since_note.take().filter(|mark| !mark.is_signed_by(&self.keys)) {
            let wanted = format!("a signature of a key of {}", mark.checkpoint.origin);
            self.findings.find("since_foreign", None, "the older checkpoint", wanted, "none");
        }
        let verdict = match (self.findings.kept.is_empty(), self.witnesses.too_few) {
            (false, _) => Verdict::Altered,
            (true, true) => Verdict::Unsure,
            (true, false) => Verdict::Intact,
        };
        Report {
            verdict,
            origin,
            entries: size,
            checkpoint_size: self.lock_size,
            since_size: self.since_size,
            witnesses: self.witnesses.names.clone(),
            values_opened: self.keyring.as_ref().map(|_| self.opened),
            values_destroyed: self.keyring.as_ref().map(|_| self.destroyed),
            root: self.edge.root().to_string(),
            notes: self.notes(size),
            findings: self.findings.kept,
            more_findings: self.findings.more,
        }
    }

    /// An older checkpoint may be of the ledger that this one continues from a backup, and cover what was not restored.
    fn name_predecessor(&mut self) {
        let Some(since) = self.marks.iter().find(|it| it.name == "since").or(self.since_note.as_ref()) else { return };
        let origin = &since.checkpoint.origin;
        let Some(restore) = self.restores.iter().find(|it| it.fact("continues") == Some(origin)) else { return };
        let restored = restore.fact("restored_entries").and_then(|it| it.parse().ok()).unwrap_or(0);
        if since.checkpoint.size > restored {
            let place = format!("the ledger {origin}, which this one continues; {}", told(restore));
            let differs = |it: &&mut Finding| ["since_differs", "behind_since"].contains(&it.code);
            if let Some(finding) = self.findings.kept.iter_mut().find(differs) {
                (finding.code, finding.place) = ("not_restored", place);
                finding.expected = format!("the {} entries of the older checkpoint", since.checkpoint.size);
                finding.found = format!("the first {restored} of them");
            }
        }
    }

    /// What could not be excluded.
    fn notes(&self, size: u64) -> Vec<String> {
        let mut notes: Vec<_> = self
            .restores
            .iter()
            .map(|it| format!("This ledger begins over entries of another: {}.", told(it)))
            .collect();
        match self.since_size {
            None => notes.push(
                "That database and lock were rolled back together is not excluded: compare with a checkpoint kept elsewhere (--since)."
                    .to_owned(),
            ),
            Some(since) if since < self.lock_size => notes.push(format!(
                "The {} entries after the older checkpoint are held by the lock alone: a rollback to a moment after that checkpoint is not excluded.",
                self.lock_size - since
            )),
            Some(_) => {}
        }
        if self.witnesses.too_few {
            notes.push("The older checkpoint does not carry the cosignatures that the policy asks for.".to_owned());
        }
        if self.keys.last().is_some_and(|newest| *newest != self.key && self.keys.contains(&self.key)) {
            notes.push(
                "The ledger announces a newer signing key than the one given; take keys/signing.vkey of the vault."
                    .to_owned(),
            );
        }
        let unsigned = size.saturating_sub(self.lock_size);
        if unsigned > 0 {
            notes.push(format!("The newest {unsigned} entries are not covered by a signed checkpoint yet."));
        }
        let unsealed = self.unsealed.edge.size();
        if unsealed > 0 {
            notes.push(format!("The sealed values of the newest {unsealed} entries are not covered by a seal entry yet; their metadata is."));
        }
        notes
    }
}

/// What a restore says of itself.
fn told(restore: &Meta) -> String {
    let fact = |name| restore.fact(name).unwrap_or("an unknown number of");
    format!(
        "{} entries of {} were restored from a backup, {} are missing as far as was known",
        fact("restored_entries"),
        fact("continues"),
        fact("missing_entries")
    )
}

/// Takes segments until there are none left.
fn work(context: &Context, database: &Path, size: u64, next: &AtomicU64, results: SyncSender<Done>) {
    let reader = SqliteStore::reader(database);
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= size.div_ceil(SEGMENT) {
            return;
        }
        let range = n * SEGMENT..size.min((n + 1) * SEGMENT);
        let done = match &reader {
            Ok(reader) => check(context, reader, n, range),
            Err(error) => Err(StoreError::Unavailable(error.to_string())),
        };
        if results.send((n, done)).is_err() {
            return;
        }
    }
}
