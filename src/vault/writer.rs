//! The writer: the one thread that sequences entries and commits them.
//!
//! Requests seal in parallel; the writer takes whatever is waiting, gives each entry its place and time, hashes, commits
//! once, and answers all. The queue grows while the disk syncs, so there is no timer. What is true if the process dies:
//!
//! 1. before the commit returns: nothing of the batch is in, nobody was answered;
//! 2. after the commit, before the answers: all of it is in; a client that retries with the same id gets the receipt;
//! 3. the checkpoint is signed later, by another thread; start-up checks what was committed against the lock.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};

use foldhash::fast::RandomState;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use uuid::Uuid;

use crate::crypto::keyring::OWN_BUCKET;
use crate::crypto::{label, mac, seal};
use crate::domain::action::{Action, Kind, Outcome};
use crate::domain::entry::Receipt;
use crate::domain::fields::marked;
use crate::domain::index::{Dimension, Indexed, Term};
use crate::domain::meta::{Actor, Context, Meta, Patient, Reason};
use crate::domain::query::Filter;
use crate::domain::rules::Item;
use crate::domain::time::{Clock, Timestamp};
use crate::ledger::hash::{Hash, leaf_hash};
use crate::ledger::leaf::{LeafStart, Sequenced};
use crate::ledger::tree::{Edge, Tile};
use crate::store::{Batch, Order, Row, SEGMENT, StateRow, Store, StoreError, Usage};

use super::keys::Keys;
use super::ledger::Ledger;
use super::segments::naming;
use super::standing::Standing;
use super::status::Counters;

/// Entries after which a seal entry commits to their ciphertexts.
pub const SEAL_EVERY: u64 = 4_096;
/// The most entries of one commit; a single larger batch still goes in whole.
const MAX_COMMIT: usize = 8_192;
/// Patients whose newest entry is remembered; beyond this they are looked up again.
const MAX_HEADS: usize = 1_000_000;
/// The actor and source of the vault's own entries.
pub(super) const SELF: &str = "phivault";

/// An entry that is sealed and waits for its place.
pub(super) struct Prepared {
    pub(super) id: Uuid,
    pub(super) patient: Option<Patient>,
    /// Its metadata, if it may change what stands.
    pub(super) own: Option<Box<Meta>>,
    pub(super) marks: Vec<String>,
    pub(super) index: Indexed,
    /// The beginning of its leaf, and its leaf in the tree of the next seal entry.
    pub(super) leaf: LeafStart,
    pub(super) seal_leaf: Hash,
    pub(super) bytes: Vec<u8>,
    pub(super) commitment: [u8; 32],
    pub(super) sealed: Vec<u8>,
}

/// Entries that are in, for whoever waits for them: receipts are made there, and memory is given back where it came from, so that
/// the writer does neither.
pub(super) struct Committed {
    rows: Vec<Row>,
    told: Vec<(Uuid, Vec<String>)>,
    _index: Vec<Indexed>,
}

impl Committed {
    pub(super) fn receipts(self) -> Vec<Receipt> {
        let one = |(row, (id, marks)): (&Row, (Uuid, Vec<String>))| Receipt {
            id,
            sequence: row.sequence,
            leaf_hash: row.leaf.to_string(),
            received_at: Timestamp(row.received_at),
            marks,
        };
        self.rows.iter().zip(self.told).map(one).collect()
    }
}

/// What comes back for a job.
pub(super) type Answer = oneshot::Receiver<Result<Committed, Raced>>;

/// A job was not committed: an id of it came in through another request meanwhile. Look again.
#[derive(Debug)]
pub(super) struct Raced;

/// Entries that are committed together or not at all.
pub(super) struct Job {
    pub(super) entries: Vec<Prepared>,
    /// The size of the ledger when their ids were last looked up; only what came after can have brought one of them.
    pub(super) looked_up_to: u64,
    pub(super) state: Vec<StateRow>,
    /// Sealed records that are replaced in the same commit.
    pub(super) resealed: Vec<Resealed>,
    pub(super) reply: oneshot::Sender<Result<Committed, Raced>>,
    /// A record that must not have been changed since `looked_up_to`, or the job is not done.
    pub(super) unchanged: Option<Box<Filter>>,
    /// Room in the queue, given back when the job is done.
    pub(super) room: Option<OwnedSemaphorePermit>,
}

/// A sealed record that takes the place of another.
pub(super) struct Resealed {
    pub(super) sequence: u64,
    /// What the record before counted to.
    pub(super) before: (u32, u32),
    pub(super) sealed: Vec<u8>,
}

/// What reaches the writer.
pub(super) enum Message {
    /// Entries to commit.
    Job(Job),
    /// Seal what is not yet covered by a seal entry, then answer.
    Seal(oneshot::Sender<()>),
    /// Finish and end.
    Stop,
}

pub(super) type Queue = Sender<Message>;

/// Position and running number of each patient's newest entry.
type Heads = HashMap<Patient, (u64, u64), RandomState>;

/// What the writer works with.
pub(super) struct Writer {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) keys: Arc<Keys>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) counters: Arc<Counters>,
    pub(super) edge: Edge,
    pub(super) last_time: i64,
    pub(super) unsealed: Unsealed,
    pub(super) standing: Standing,
    pub(super) heads: Heads,
    /// The first segment of which no entry names the index yet.
    pub(super) named: u64,
}

/// Ciphertexts that no seal entry covers yet.
#[derive(Clone)]
pub(super) struct Unsealed {
    pub(super) from: u64,
    pub(super) edge: Edge,
}

impl Unsealed {
    pub(super) fn new(from: u64) -> Self {
        Self { from, edge: Edge::new() }
    }

    pub(super) fn add(&mut self, leaf: Hash) {
        self.edge.append(leaf);
    }
}

/// The leaf of an entry in the tree that a seal entry commits to.
pub(super) fn seal_leaf(id: Uuid, sealed: &[u8]) -> Hash {
    leaf_hash(&mac::digest(label::SEAL_LEAF, &[id.as_bytes(), sealed]))
}

/// A batch while it is put together.
struct Draft {
    rows: Vec<Row>,
    told: Vec<(Uuid, Vec<String>)>,
    index: Vec<Indexed>,
    tiles: Vec<Tile>,
    ids: HashSet<Uuid, RandomState>,
    heads: Heads,
    edge: Edge,
    unsealed: Unsealed,
    time: i64,
    /// Something that stands beside the entries changes, so the batch must end with a seal entry.
    standing_changed: bool,
}

impl Writer {
    /// Works until told to stop. A write error ends it: whether the batch is in is then unknown, so it answers nobody with a
    /// receipt, and the caller must end the process.
    pub(super) fn run(mut self, queue: &Receiver<Message>) -> Result<(), StoreError> {
        while let Ok(first) = queue.recv() {
            let (mut jobs, mut count, mut stop, mut seals) = (Vec::new(), 0, false, Vec::new());
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Job(job) => {
                        count += job.entries.len();
                        jobs.push(job);
                    }
                    Message::Seal(reply) => seals.push(reply),
                    Message::Stop => stop = true,
                }
                next = if count < MAX_COMMIT && !stop { queue.try_recv().ok() } else { None };
            }
            self.commit(jobs, !seals.is_empty() || stop)?;
            for reply in seals {
                // Who asked may have gone away; the seal entry is in all the same.
                let _ = reply.send(());
            }
            if stop {
                return Ok(());
            }
        }
        Ok(())
    }

    fn commit(&mut self, jobs: Vec<Job>, seal_now: bool) -> Result<(), StoreError> {
        let first = self.store.size();
        let mut draft = Draft {
            rows: Vec::new(),
            told: Vec::new(),
            index: Vec::new(),
            tiles: Vec::new(),
            ids: HashSet::default(),
            heads: Heads::default(),
            edge: self.edge.clone(),
            unsealed: self.unsealed.clone(),
            time: self.last_time.max(self.clock.now().0),
            standing_changed: false,
        };
        let (mut taken, mut raced, mut state, mut resealed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for Job { entries, looked_up_to, state: rows, resealed: records, unchanged, reply, room } in jobs {
            let moved = unchanged.is_some_and(|record| self.is_changed(&draft, &record, looked_up_to).unwrap_or(true));
            if moved || self.keys.bars(&entries) || self.has_known_id(&draft, &entries, looked_up_to)? {
                raced.push(reply);
                continue;
            }
            let begin = draft.rows.len();
            for entry in entries {
                self.place(&mut draft, first, entry)?;
            }
            state.extend(rows);
            resealed.extend(records);
            taken.push((draft.rows.len() - begin, reply, room));
        }
        while let Some(digests) = self.store.index_made(self.named) {
            let entry = prepare(&self.keys, &naming(self.named, &digests), &[]);
            self.place(&mut draft, first, entry)?;
            self.named += 1;
        }
        let some = draft.unsealed.edge.size();
        let due = some >= SEAL_EVERY || draft.standing_changed || (seal_now && some > 0);
        if due {
            let entry = self.seal_entry(&draft, first);
            draft.unsealed = Unsealed::new(first + draft.rows.len() as u64);
            self.place(&mut draft, first, entry)?;
        }
        if draft.rows.is_empty() {
            raced.into_iter().for_each(|reply| drop(reply.send(Err(Raced))));
            return Ok(());
        }
        let usage = usage(&draft.rows, &resealed);
        let resealed: Vec<_> = resealed.into_iter().map(|it| (it.sequence, it.sealed)).collect();
        let (rows, index, tiles) = (&draft.rows, &draft.index, &draft.tiles);
        self.store.append(&Batch { rows, index, tiles, state: &state, resealed: &resealed, usage: &usage })?;
        // Committed and synced. From here on only memory changes, and then everybody is answered.
        self.counters.committed(draft.rows.len() as u64, draft.time);
        self.edge = draft.edge;
        self.unsealed = draft.unsealed;
        self.last_time = draft.time;
        if self.heads.len() > MAX_HEADS {
            self.heads.clear();
        }
        self.heads.extend(draft.heads);
        self.ledger.advance(&self.edge);
        let (mut rows, mut told, mut index) = (draft.rows.into_iter(), draft.told.into_iter(), draft.index.into_iter());
        for (count, reply, room) in taken {
            let rows = rows.by_ref().take(count).collect();
            let told = told.by_ref().take(count).collect();
            let _index = index.by_ref().take(count).collect();
            drop(reply.send(Ok(Committed { rows, told, _index })));
            drop(room);
        }
        raced.into_iter().for_each(|reply| drop(reply.send(Err(Raced))));
        Ok(())
    }

    /// Whether an id is in the store or in this batch. Requests have looked before; this settles races between them.
    fn has_known_id(&self, draft: &Draft, entries: &[Prepared], from: u64) -> Result<bool, StoreError> {
        let size = self.store.size();
        let grown = from < size;
        for entry in entries {
            if draft.ids.contains(&entry.id) || (grown && find_id(&*self.store, entry.id, from..size)?.is_some()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a record was changed from a position on, also within this batch.
    fn is_changed(&self, draft: &Draft, record: &Filter, from: u64) -> Result<bool, StoreError> {
        let is = |row: &Row| {
            Meta::decode(&row.meta).is_ok_and(|meta| {
                let done = meta.action.is_change() && meta.outcome == crate::domain::action::Outcome::Success;
                done && record.matches(&meta, Timestamp(row.received_at))
            })
        };
        let found = self.store.find(&record.terms(), from..self.store.size(), Order::OldestFirst, usize::MAX)?;
        Ok(self.store.rows(&found.sequences)?.iter().chain(&draft.rows).any(is))
    }

    /// Gives an entry its place: position, time, the patient's chain, leaf.
    fn place(&mut self, draft: &mut Draft, first: u64, entry: Prepared) -> Result<(), StoreError> {
        let sequence = first + draft.rows.len() as u64;
        let (patient_previous, patient_number) = match &entry.patient {
            None => (0, 0),
            Some(patient) => {
                let head = match draft.heads.get(patient).or_else(|| self.heads.get(patient)) {
                    Some(head) => *head,
                    // Position and running number; zeros before the first.
                    None => newest_of(&*self.store, patient, self.store.size())?
                        .map_or((0, 0), |row| (row.sequence, row.patient_number)),
                };
                draft.heads.insert(patient.clone(), (sequence, head.1 + 1));
                (head.0, head.1 + 1)
            }
        };
        let sequenced = Sequenced { received_at: draft.time, patient_previous, patient_number };
        let leaf = entry.leaf.finish(sequenced);
        // Level 0 is the leaf column; only fuller tiles are stored.
        draft.tiles.extend(draft.edge.append(leaf).into_iter().filter(|tile| tile.level > 0));
        draft.unsealed.add(entry.seal_leaf);
        draft.standing_changed |= entry.own.is_some_and(|meta| self.standing.apply(&meta));
        draft.ids.insert(entry.id);
        draft.told.push((entry.id, entry.marks));
        draft.index.push(entry.index);
        draft.rows.push(Row {
            sequence,
            meta: entry.bytes,
            received_at: draft.time,
            patient_previous,
            patient_number,
            commitment: entry.commitment,
            leaf,
            sealed: entry.sealed,
        });
        Ok(())
    }

    /// An entry that commits to the ciphertexts since the last one, so that a verifier without keys covers every byte.
    fn seal_entry(&self, draft: &Draft, first: u64) -> Prepared {
        let to = first + draft.rows.len() as u64;
        let mut facts = self.standing.facts();
        facts.extend([
            ("from".to_owned(), draft.unsealed.from.to_string()),
            ("root".to_owned(), draft.unsealed.edge.root().to_string()),
            ("to".to_owned(), to.to_string()),
        ]);
        facts.sort();
        prepare(&self.keys, &own_meta(Action::SEAL, facts), &[])
    }
}

/// How the counts of records under each key change.
fn usage(rows: &[Row], resealed: &[Resealed]) -> Vec<Usage> {
    let mut counts: BTreeMap<(u64, (u32, u32)), i64> = BTreeMap::new();
    for row in rows {
        *counts.entry((row.sequence / SEGMENT, seal::counted_under(&row.sealed))).or_default() += 1;
    }
    for it in resealed {
        *counts.entry((it.sequence / SEGMENT, it.before)).or_default() -= 1;
        *counts.entry((it.sequence / SEGMENT, seal::counted_under(&it.sealed))).or_default() += 1;
    }
    let changed = counts.into_iter().filter(|(_, entries)| *entries != 0);
    changed.map(|((segment, (version, bucket)), entries)| Usage { segment, version, bucket, entries }).collect()
}

/// Metadata of an entry that the vault writes about itself, unprompted.
pub(super) fn own_meta(action: Action, facts: Vec<(String, String)>) -> Meta {
    Meta {
        id: Uuid::now_v7(),
        source: SELF.into(),
        action,
        outcome: Outcome::Success,
        occurred_at: None,
        ended_at: None,
        effective_at: None,
        actor: Actor { id: SELF.into(), kind: Some("system".into()), ..Actor::default() },
        patient: None,
        record: None,
        category: None,
        sensitivity: Vec::new(),
        reason: Reason { code: "HSYSADMIN".into(), ..Reason::default() },
        fields: Vec::new(),
        basis: None,
        related: Vec::new(),
        context: Context::default(),
        facts,
    }
}

/// Commits one entry of the vault's own from a thread of its own, and waits until it is in. A vault that stops takes none.
pub(super) fn commit_own(queue: &Queue, keys: &Keys, meta: &Meta) {
    let (reply, answer) = oneshot::channel();
    let (entries, state, resealed) = (vec![prepare(keys, meta, &[])], Vec::new(), Vec::new());
    let job = Job { entries, looked_up_to: u64::MAX, state, resealed, unchanged: None, reply, room: None };
    if queue.send(Message::Job(job)).is_ok() {
        drop(answer.blocking_recv());
    }
}

/// Seals an entry under the keys of now.
pub(super) fn prepare(keys: &Keys, meta: &Meta, items: &[Item]) -> Prepared {
    prepare_in(keys, OWN_BUCKET, meta, items)
}

/// Seals an entry under the keys of now in a bucket; in the vault's own if that one is gone.
pub(super) fn prepare_in(keys: &Keys, bucket: u32, meta: &Meta, items: &[Item]) -> Prepared {
    let bytes = meta.encode();
    let keyring = keys.ring();
    let sealing = keyring.sealing(bucket).or_else(|| keyring.sealing(OWN_BUCKET));
    let sealing = sealing.expect("a keyring never loses its newest version and its own bucket");
    let seal::Sealed { bytes: sealed, commitment } = seal::seal(&sealing, meta.id.as_bytes(), &bytes, items);
    let (leaf, seal_leaf) = (LeafStart::new(&bytes, &commitment), seal_leaf(meta.id, &sealed));
    // A seal entry states what stands and changes nothing of it.
    let own = (meta.action.kind() == Kind::Vault && meta.action != Action::SEAL).then(|| Box::new(meta.clone()));
    let (id, patient, marks, index) = (meta.id, meta.patient.clone(), marked(meta), Indexed::of(meta));
    Prepared { id, patient, own, marks, index, leaf, seal_leaf, bytes, commitment, sealed }
}

/// The receipt of a stored entry.
pub(super) fn receipt(row: &Row) -> Receipt {
    let (id, marks) = Meta::borrow(&row.meta).map_or((Uuid::nil(), Vec::new()), |meta| (meta.id, marked(&meta)));
    let received_at = Timestamp(row.received_at);
    Receipt { id, sequence: row.sequence, leaf_hash: row.leaf.to_string(), received_at, marks }
}

/// The newest entry of an id within a range, if there is one. Every candidate is looked at: terms can be shared.
pub(super) fn find_id(store: &dyn Store, id: Uuid, range: Range<u64>) -> Result<Option<Row>, StoreError> {
    let wanted = [vec![Term::new(Dimension::Id, &[id.as_bytes()])]];
    newest(store, &wanted, range, |meta| meta.id == id)
}

/// A patient's newest entry among the first `size`.
pub(super) fn newest_of(store: &dyn Store, patient: &Patient, size: u64) -> Result<Option<Row>, StoreError> {
    let wanted = [vec![Term::patient(Dimension::Patient, patient)]];
    newest(store, &wanted, 0..size, |meta| meta.patient.as_ref() == Some(patient))
}

/// The newest entry within a range that has one term of each list and is the one meant.
fn newest(
    store: &dyn Store,
    wanted: &[Vec<Term>],
    range: Range<u64>,
    meant: impl Fn(&Meta) -> bool,
) -> Result<Option<Row>, StoreError> {
    let (mut end, mut most) = (range.end, 4);
    loop {
        let found = store.find(wanted, range.start..end, Order::NewestFirst, most)?;
        for sequence in &found.sequences {
            let row = store.rows(&[*sequence])?.pop().expect("one row was asked for");
            if Meta::decode(&row.meta).is_ok_and(|meta| meant(&meta)) {
                return Ok(Some(row));
            }
        }
        match found.next {
            Some(next) => (end, most) = (next + 1, 1_024),
            None => return Ok(None),
        }
    }
}

impl Counters {
    fn committed(&self, entries: u64, time: i64) {
        self.entries.fetch_add(entries, Ordering::Relaxed);
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.last_commit.store(time, Ordering::Relaxed);
    }
}
