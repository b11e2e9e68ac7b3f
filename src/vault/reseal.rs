//! Replacing sealed records, while nothing else of an entry changes: for re-encryption, disposal and redaction.
//!
//! The leaf does not cover the sealed record, a seal entry does. So each commit that replaces records holds an entry that states
//! the new root over the whole range between two seal entries. What is true if the process dies: before the commit nothing
//! was replaced, after it all of the commit was, and the ledger says so.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::crypto::seal;
use crate::domain::action::Action;
use crate::domain::index::{Dimension, Term};
use crate::domain::meta::Meta;
use crate::domain::rules::Item;
use crate::ledger::hash::Hash;
use crate::ledger::tree::{Edge, TILE_WIDTH};
use crate::store::{Order, Row, Store, StoreError};

use super::error::VaultError;
use super::fault;
use super::keys::Keys;
use super::ledger::Ledger;
use super::open::DAMAGED;
use super::trust::{each_proven, leaf_of};
use super::writer::{Answer, Job, Message, Queue, Resealed, own_meta, prepare, seal_leaf};

/// The most records, and about the most bytes, of one commit.
const MAX_RECORDS: usize = 4_096;
const MAX_BYTES: usize = 16 << 20;

/// What re-encryptions and erasures stated of each range, by its first entry: its end and root. Read when first needed, and kept for
/// all who replace records.
pub(super) type Stated = Arc<Mutex<Option<BTreeMap<u64, (u64, String)>>>>;

/// What becomes of a record.
pub(super) enum Fate {
    /// This stands in its place.
    Replaced(Vec<u8>),
    /// It stays as it is: its key was destroyed meanwhile.
    Left,
    /// It is not what the ledger committed to. It stays, and the ledger says so.
    Damaged,
}

/// Which records are replaced, by what, and as what that is recorded.
pub(super) struct Work<'a> {
    pub(super) action: Action,
    pub(super) facts: Vec<(String, String)>,
    /// The entry that records it, if it is more than the vault's own; then everything is one commit.
    pub(super) note: Option<(Meta, Vec<Item>)>,
    /// By position and sealed record.
    pub(super) wanted: &'a (dyn Fn(u64, &[u8]) -> bool + Sync),
    pub(super) fate: &'a (dyn Fn(&Row) -> Fate + Sync),
    /// Told of each commit; whether to go on.
    pub(super) go_on: &'a dyn Fn(&Done) -> bool,
}

/// What a commit did.
#[derive(Default)]
pub(super) struct Done {
    pub(super) replaced: u64,
    pub(super) damaged: BTreeSet<u64>,
}

/// Replaces records, one commit while the next is prepared.
pub(super) struct Resealer {
    pub(super) store: Arc<dyn Store>,
    pub(super) keys: Arc<Keys>,
    pub(super) queue: Queue,
    ledger: Arc<Ledger>,
    stated: Stated,
    pending: Option<Answer>,
}

impl Resealer {
    pub(super) fn new(
        store: Arc<dyn Store>,
        keys: Arc<Keys>,
        ledger: Arc<Ledger>,
        queue: Queue,
        stated: Stated,
    ) -> Self {
        Self { store, keys, queue, ledger, stated, pending: None }
    }

    /// The root that was stated last of a range. The new root will vouch for every record of it, so what stands there now must be
    /// what was vouched for before: else a record that somebody altered would pass as genuine from then on.
    fn stated(&self, range: &Range<u64>) -> Result<String, VaultError> {
        let mut stated = self.stated.lock().unwrap_or_else(PoisonError::into_inner);
        if stated.is_none() {
            *stated = Some(self.statements()?);
        }
        if let Some((_, root)) = stated.as_ref().and_then(|it| it.get(&range.start)).filter(|(to, _)| *to == range.end)
        {
            return Ok(root.clone());
        }
        drop(stated);
        let row = self.store.rows(&[range.end])?.pop().ok_or_else(|| altered(range.end))?;
        let meta = self.proven(&row)?;
        match (meta.action, meta.fact("root")) {
            (Action::SEAL, Some(root)) => Ok(root.to_owned()),
            _ => Err(altered(range.end)),
        }
    }

    /// All re-encryptions and erasures. Every entry is read, on all cores, and shown to be in the tree: who hid a statement could
    /// put older records back, which an older statement vouches for.
    fn statements(&self) -> Result<BTreeMap<u64, (u64, String)>, VaultError> {
        let (size, cores) = (self.store.size(), cores() as u64);
        let share = size.div_ceil(cores).next_multiple_of(TILE_WIDTH as u64);
        let parts = std::thread::scope(|scope| {
            let parts: Vec<_> = (0..cores)
                .map(|n| size.min(n * share)..size.min((n + 1) * share))
                .map(|part| scope.spawn(|| self.statements_in(part)))
                .collect();
            parts.into_iter().map(|part| part.join().expect("reading entries does not panic")).collect::<Vec<_>>()
        });
        let mut all = BTreeMap::new();
        // The order counts: a later statement takes the place of an earlier one.
        for part in parts {
            all.extend(part?);
        }
        Ok(all)
    }

    fn statements_in(&self, part: Range<u64>) -> Result<BTreeMap<u64, (u64, String)>, VaultError> {
        let mut all = BTreeMap::new();
        each_proven(&*self.store.apart(1), &self.ledger, part, &mut |_, meta| {
            let number = |name| meta.fact(name).and_then(|it| it.parse::<u64>().ok());
            let replaces = [Action::KEY_REENCRYPT, Action::ERASE, Action::REDACT].contains(&meta.action);
            if let (true, Some(from), Some(to), Some(root)) =
                (replaces, number("from"), number("to"), meta.fact("root"))
            {
                all.insert(from, (to, root.to_owned()));
            }
        })
        .map_err(|error| VaultError::Integrity(error.to_string()))?;
        Ok(all)
    }

    /// The metadata of a row that is in the tree.
    fn proven(&self, row: &Row) -> Result<Meta, VaultError> {
        let leaf = leaf_of(row);
        if leaf != row.leaf || !self.ledger.has_leaf(row.sequence, &leaf)? {
            return Err(altered(row.sequence));
        }
        Meta::decode(&row.meta).map_err(|_| altered(row.sequence))
    }

    /// The range between two seal entries that holds an entry. If no seal entry covers it yet, one is made.
    pub(super) fn range_of(&self, sequence: u64) -> Result<Range<u64>, VaultError> {
        // Most often the index tells; what it hides, reading the entries finds.
        let seals = [vec![Term::new(Dimension::Action, &[Action::SEAL.name().as_bytes()])]];
        let found = self.store.find(&seals, sequence + 1..self.store.size(), Order::OldestFirst, 1)?;
        if let Some(next) = found.sequences.first()
            && let Ok(Some(range)) = self.sealed_range(sequence, *next..*next + 1)
        {
            return Ok(range);
        }
        if let Some(range) = self.sealed_range(sequence, sequence + 1..self.store.size())? {
            return Ok(range);
        }
        let (reply, done) = oneshot::channel();
        self.send(Message::Seal(reply))?;
        done.blocking_recv().map_err(|_| VaultError::Unknown)?;
        let range = self.sealed_range(sequence, sequence + 1..self.store.size())?;
        range.ok_or_else(|| VaultError::Integrity("an entry is covered by no seal entry".into()))
    }

    /// What the first seal entry among `after` covers, if there is one.
    fn sealed_range(&self, sequence: u64, after: Range<u64>) -> Result<Option<Range<u64>>, VaultError> {
        let (mut found, mut wrong) = (None, None);
        self.store.scan(after, &mut |row| {
            match Meta::borrow(&row.meta) {
                Ok(meta) if meta.action == Action::SEAL => {
                    let from = meta.fact("from").and_then(|it| it.parse().ok()).filter(|from| *from <= sequence);
                    match from.filter(|_| leaf_of(&row) == row.leaf) {
                        Some(from) => found = Some(from..row.sequence),
                        None => wrong = Some(row.sequence),
                    }
                }
                Ok(_) => {}
                Err(_) => wrong = Some(row.sequence),
            }
            found.is_none() && wrong.is_none()
        })?;
        match wrong {
            Some(sequence) => Err(altered(sequence)),
            None => Ok(found),
        }
    }

    /// Replaces what is wanted within a range that [`Resealer::range_of`] gave; `false` when it was not to go on.
    pub(super) fn replace(&mut self, range: Range<u64>, work: &Work<'_>) -> Result<bool, VaultError> {
        let (mut leaves, mut wanted, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        let (mut wrong, mut bytes) = (None, 0);
        self.store.scan(range.clone(), &mut |row| {
            match Meta::borrow(&row.meta) {
                Ok(meta) => leaves.push(seal_leaf(meta.id, &row.sealed)),
                Err(_) => wrong = Some(row.sequence),
            }
            if (work.wanted)(row.sequence, &row.sealed) {
                wanted.push((row.sequence, row.sealed.len()));
                bytes += row.meta.len() + row.sealed.len();
                // Most ranges fit into one commit, and then nothing is read twice.
                if wanted.len() <= MAX_RECORDS && bytes <= MAX_BYTES {
                    rows.push(row);
                }
            }
            wrong.is_none()
        })?;
        if let Some(sequence) = wrong {
            return Err(altered(sequence));
        }
        if wanted.is_empty() {
            return Ok(true);
        }
        let (count, root) = (range.end - range.start, root_of(&leaves));
        if leaves.len() as u64 != count || self.stated(&range)? != root {
            return Err(VaultError::Integrity(format!(
                "sealed records of entries {} to {} are not those the ledger vouches for; they were left as they are",
                range.start,
                range.end - 1
            )));
        }
        if rows.len() == wanted.len() {
            let done = self.commit(&range, &rows, &mut leaves, work)?;
            return Ok((work.go_on)(&done));
        }
        drop(rows);
        let mut rest = wanted.as_slice();
        while !rest.is_empty() {
            let (mut count, mut bytes) = (0, 0);
            while count < rest.len().min(MAX_RECORDS) && (count == 0 || bytes + rest[count].1 <= MAX_BYTES) {
                bytes += rest[count].1;
                count += 1;
            }
            let (part, after) = rest.split_at(count);
            rest = after;
            let sequences: Vec<u64> = part.iter().map(|(sequence, _)| *sequence).collect();
            let rows = self.store.rows(&sequences)?;
            let done = self.commit(&range, &rows, &mut leaves, work)?;
            if !(work.go_on)(&done) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn commit(
        &mut self,
        range: &Range<u64>,
        rows: &[Row],
        leaves: &mut [Hash],
        work: &Work<'_>,
    ) -> Result<Done, VaultError> {
        let mut done = Done::default();
        let mut resealed = Vec::with_capacity(rows.len());
        for (row, fate) in rows.iter().zip(side_by_side(rows, work.fate)) {
            let sealed = match fate {
                Fate::Replaced(sealed) => sealed,
                Fate::Left => continue,
                Fate::Damaged => {
                    done.damaged.insert(row.sequence);
                    continue;
                }
            };
            let meta = Meta::borrow(&row.meta).map_err(|error| VaultError::Integrity(error.to_string()))?;
            let place = usize::try_from(row.sequence - range.start).expect("a range between two seal entries is small");
            leaves[place] = seal_leaf(meta.id, &sealed);
            resealed.push(Resealed { sequence: row.sequence, before: seal::counted_under(&row.sealed), sealed });
        }
        done.replaced = resealed.len() as u64;
        let root = root_of(leaves);
        if let Some(stated) = self.stated.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            stated.insert(range.start, (range.end, root.clone()));
        }
        let (mut meta, items) =
            work.note.clone().unwrap_or_else(|| (own_meta(work.action, work.facts.clone()), Vec::new()));
        let facts = &mut meta.facts;
        let end = |row: Option<&Row>| row.map_or(range.start, |it| it.sequence).to_string();
        facts.extend([
            // Which entries of the range this commit went through.
            ("first".to_owned(), end(rows.first())),
            ("last".to_owned(), end(rows.last())),
            ("from".to_owned(), range.start.to_string()),
            ("records".to_owned(), resealed.len().to_string()),
            ("root".to_owned(), root),
            ("to".to_owned(), range.end.to_string()),
        ]);
        if !done.damaged.is_empty() {
            let list = done.damaged.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            tracing::error!(damaged = %list, "values of these entries do not open and were left as they are");
            facts.push((DAMAGED.to_owned(), list));
        }
        facts.sort();
        self.finish()?;
        let (reply, answer) = oneshot::channel();
        let entries = vec![prepare(&self.keys, &meta, &items)];
        fault::point("records-ready");
        let job =
            Job { entries, looked_up_to: u64::MAX, state: Vec::new(), resealed, unchanged: None, reply, room: None };
        self.send(Message::Job(job))?;
        self.pending = Some(answer);
        Ok(done)
    }

    /// Waits until everything is committed.
    pub(super) fn finish(&mut self) -> Result<(), VaultError> {
        match self.pending.take() {
            None => Ok(()),
            Some(answer) => {
                let answer = answer.blocking_recv().map_err(|_| VaultError::Unknown)?;
                fault::point("records-replaced");
                // Its entry is sealed under the newest key, which nobody destroys.
                answer.map_or(Err(VaultError::Unknown), |_| Ok(()))
            }
        }
    }

    fn send(&self, message: Message) -> Result<(), VaultError> {
        self.queue.send(message).map_err(|_| VaultError::Unknown)
    }
}

/// The root over the leaves of a range.
fn root_of(leaves: &[Hash]) -> String {
    let mut edge = Edge::new();
    leaves.iter().for_each(|leaf| drop(edge.append(*leaf)));
    edge.root().to_string()
}

fn altered(sequence: u64) -> VaultError {
    VaultError::Integrity(format!("entry {sequence} is not what the ledger holds"))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The fates of rows, worked out on all cores.
fn side_by_side(rows: &[Row], fate: &(dyn Fn(&Row) -> Fate + Sync)) -> Vec<Fate> {
    let share = rows.len().div_ceil(cores()).max(64);
    std::thread::scope(|scope| {
        let parts: Vec<_> =
            rows.chunks(share).map(|part| scope.spawn(move || part.iter().map(fate).collect::<Vec<_>>())).collect();
        parts.into_iter().flat_map(|part| part.join().expect("working out a fate does not panic")).collect()
    })
}

/// Adds up the records under each version and bucket, from the records themselves.
pub(super) fn count(store: &dyn Store) -> Result<BTreeMap<(u32, u32), u64>, StoreError> {
    let mut counts = BTreeMap::new();
    store.scan(0..store.size(), &mut |row| {
        *counts.entry(seal::counted_under(&row.sealed)).or_default() += 1;
        true
    })?;
    Ok(counts)
}
