//! The scrubber: goes through all entries again and again at a bounded rate, so that damage is found before somebody needs what
//! was damaged. Each leaf is computed again and shown to be in the tree, and each value opened.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::crypto::seal;
use crate::domain::action::{Action, Outcome};
use crate::domain::index::{Dimension, Term};
use crate::domain::meta::Meta;
use crate::domain::time::Clock;
use crate::ledger::tree::TILE_WIDTH;
use crate::store::{Order, Row, Store, StoreError};

use super::keys::Keys;
use super::ledger::Ledger;
use super::open::DAMAGED;
use super::status::Counters;
use super::trust::leaf_of;
use super::writer::{Job, Message, Queue, own_meta, prepare};

/// Pieces a second; each is read at once.
const PIECES: u64 = 4;
/// Between two passes that are recorded, microseconds.
const A_DAY: i64 = 86_400_000_000;
/// The fact that says how many entries were gone through.
const CHECKED: &str = "checked_entries";
/// Between two passes.
const PAUSE: Duration = Duration::from_secs(60);
/// Damaged entries that are recorded while the process lives; more are only counted and logged.
const MAX_RECORDED: usize = 1_000;

pub(super) struct Scrubber {
    pub(super) store: Arc<dyn Store>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) keys: Arc<Keys>,
    pub(super) counters: Arc<Counters>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) queue: Queue,
    /// Entries a second.
    pub(super) rate: u64,
    /// When a pass was recorded last.
    pub(super) told: Option<i64>,
    /// What was told already.
    pub(super) known: HashSet<u64>,
}

impl Scrubber {
    /// Works until the sender of `stop` goes away.
    pub(super) fn run(mut self, stop: &Receiver<()>) {
        let piece = (self.rate / PIECES).max(1);
        // What no checkpoint covers yet, and what comes in meanwhile, is left for the next pass.
        let (mut position, mut end) = (0, self.ledger.checkpoint().size);
        loop {
            let done = position >= end;
            if done {
                position = 0;
                self.counters.scrub_passes.fetch_add(1, Ordering::Relaxed);
                self.counters.last_scrub.store(self.clock.now().0, Ordering::Relaxed);
                self.tell(end);
            }
            let wait = if done { PAUSE } else { Duration::from_millis(1_000 / PIECES) };
            match stop.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
            if done {
                end = self.ledger.checkpoint().size;
            }
            let to = end.min(position + piece);
            if let Err(error) = self.piece(position..to) {
                self.counters.integrity_failures.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, "the scrubber could not read entries {position} to {to}");
            }
            position = to.max(position + 1);
        }
    }

    /// Records a pass, once a day: the integrity report tells of it.
    fn tell(&mut self, size: u64) {
        let now = self.clock.now().0;
        let last = self.told.unwrap_or_else(|| self.last_told());
        self.told = Some(last);
        if now.saturating_sub(last) < A_DAY {
            return;
        }
        let findings = self.counters.integrity_failures.load(Ordering::Relaxed);
        let mut facts = vec![(CHECKED.to_owned(), size.to_string()), ("findings".to_owned(), findings.to_string())];
        facts.extend(self.ledger.witnessed().map(|(size, _)| ("witnessed_size".to_owned(), size.to_string())));
        facts.sort();
        self.commit(own_meta(Action::INTEGRITY, facts));
        self.told = Some(now);
    }

    /// When a pass was recorded last; when the vault was made, if none was.
    fn last_told(&self) -> i64 {
        let terms = [vec![Term::new(Dimension::Action, &[Action::INTEGRITY.name().as_bytes()])]];
        let found = self.store.find(&terms, 0..self.store.size(), Order::NewestFirst, MAX_RECORDED);
        let rows = found.and_then(|it| self.store.rows(&it.sequences)).unwrap_or_default();
        let of_pass = |row: &&Row| Meta::decode(&row.meta).is_ok_and(|it| it.fact(CHECKED).is_some());
        let first = || self.store.rows(&[0]).ok().and_then(|it| it.first().map(|row| row.received_at));
        rows.iter().find(of_pass).map(|it| it.received_at).or_else(first).unwrap_or(i64::MAX)
    }

    fn piece(&mut self, range: std::ops::Range<u64>) -> Result<(), StoreError> {
        let sequences: Vec<u64> = range.collect();
        let mut damaged = Vec::new();
        for row in self.store.rows(&sequences)? {
            if !self.is_sound(&row)? && self.known.insert(row.sequence) {
                damaged.push(row.sequence);
            }
        }
        if damaged.is_empty() {
            return Ok(());
        }
        self.counters.integrity_failures.fetch_add(damaged.len() as u64, Ordering::Relaxed);
        tracing::error!(?damaged, "the scrubber found entries that are not what the ledger holds; run phivault verify");
        if self.known.len() <= MAX_RECORDED {
            self.record(&damaged);
        }
        Ok(())
    }

    /// Whether a row is what the tree holds, and its values open. A destroyed key is no damage.
    fn is_sound(&self, row: &Row) -> Result<bool, StoreError> {
        let leaf = leaf_of(row);
        let begins_tile = row.sequence.is_multiple_of(TILE_WIDTH as u64);
        if leaf != row.leaf || (begins_tile && !self.ledger.has_leaf(row.sequence, &leaf)?) {
            return Ok(false);
        }
        if seal::is_erased(&row.sealed).is_some() {
            return Ok(true);
        }
        let ring = self.keys.ring();
        let (Ok(meta), Ok(header)) = (Meta::decode(&row.meta), seal::header(&row.sealed)) else { return Ok(false) };
        let opens = match ring.opening(header) {
            Some(keys) => seal::open(&keys, meta.id.as_bytes(), &row.meta, &row.sealed, &row.commitment).is_ok(),
            None => ring.knows(header),
        };
        Ok(opens)
    }

    /// The ledger says it, so that no later seal entry over the damaged bytes hides it.
    fn record(&self, damaged: &[u64]) {
        let list = damaged.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let mut meta = own_meta(Action::INTEGRITY, vec![(DAMAGED.to_owned(), list)]);
        meta.outcome = Outcome::Failure;
        self.commit(meta);
    }

    fn commit(&self, meta: Meta) {
        let (reply, answer) = oneshot::channel();
        let entries = vec![prepare(&self.keys, meta, &[])];
        let job = Job {
            entries,
            looked_up_to: u64::MAX,
            state: Vec::new(),
            resealed: Vec::new(),
            unchanged: None,
            reply,
            room: None,
        };
        if self.queue.send(Message::Job(job)).is_ok() {
            drop(answer.blocking_recv());
        }
    }
}
