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
use crate::domain::meta::Meta;
use crate::domain::time::Clock;
use crate::ledger::tree::TILE_WIDTH;
use crate::store::{Row, Store, StoreError};

use super::keys::Keys;
use super::ledger::Ledger;
use super::open::DAMAGED;
use super::status::Counters;
use super::trust::leaf_of;
use super::writer::{Job, Message, Queue, own_meta, prepare};

/// Pieces a second; each is read at once.
const PIECES: u64 = 4;
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
    /// What was told already.
    pub(super) known: HashSet<u64>,
}

impl Scrubber {
    /// Works until the sender of `stop` goes away.
    pub(super) fn run(mut self, stop: &Receiver<()>) {
        let piece = (self.rate / PIECES).max(1);
        let mut position = 0;
        loop {
            // What no checkpoint covers yet is left for the next pass.
            let end = self.ledger.checkpoint().size;
            let done = position >= end;
            if done {
                position = 0;
                self.counters.scrub_passes.fetch_add(1, Ordering::Relaxed);
                self.counters.last_scrub.store(self.clock.now().0, Ordering::Relaxed);
            }
            let wait = if done { PAUSE } else { Duration::from_millis(1_000 / PIECES) };
            match stop.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
            let to = end.min(position + piece);
            if let Err(error) = self.piece(position..to) {
                self.counters.integrity_failures.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, "the scrubber could not read entries {position} to {to}");
            }
            position = to.max(position + 1);
        }
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
