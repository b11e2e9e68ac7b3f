//! The scrubber: goes through all entries again and again at a bounded rate, so that damage is found before somebody needs what
//! was damaged. Each leaf is computed again and shown to be in the tree, and each value opened.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::crypto::seal;
use crate::domain::action::{Action, Outcome};
use crate::domain::index::{Dimension, Term};
use crate::domain::meta::Meta;
use crate::domain::time::Clock;
use crate::store::{IndexDigests, Order, Row, SEGMENT, Store, StoreError};

use super::keys::Keys;
use super::ledger::Ledger;
use super::open::DAMAGED;
use super::segments::{Segments, naming};
use super::status::Counters;
use super::writer::{Queue, commit_own, own_meta};

/// Pieces a second; each is read at once.
const PIECES: u64 = 20;
/// Between two passes that are recorded, microseconds.
const A_DAY: i64 = 86_400_000_000;
/// The fact that says how many entries were gone through.
const CHECKED: &str = "checked_entries";
/// The fact that names a segment of which the index differs.
const BENT: &str = "damaged_index";
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
    pub(super) segments: Arc<Segments>,
    /// Entries a second.
    pub(super) rate: u64,
    /// When a pass was recorded last.
    pub(super) told: Option<i64>,
    /// What was told already.
    pub(super) known: HashSet<u64>,
    /// Segments of which the index was found to differ.
    pub(super) bent: HashSet<u64>,
}

impl Scrubber {
    /// Works until the sender of `stop` goes away.
    pub(super) fn run(mut self, stop: &Receiver<()>) {
        // Behind all that somebody waits for; on Linux this is the priority of this thread alone.
        let _ = rustix::process::setpriority_process(None, 15);
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
            for n in position / SEGMENT..to / SEGMENT {
                self.index(n);
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

    /// Holds the stored index of a full segment against what the ledger names, and names it where the process died before.
    fn index(&mut self, n: u64) {
        let found = self.digests(n).and_then(|wanted| Ok((wanted, self.store.index_stored(n)?)));
        let what = match found {
            // Its entries are damaged, and that was told; or it is on its way to the disk.
            Ok((None, _) | (_, None)) => return,
            Ok((Some(wanted), Some(stored))) if wanted == stored => return,
            Ok(_) => "it differs".to_owned(),
            Err(error) => error.to_string(),
        };
        if !self.bent.insert(n) {
            return;
        }
        self.counters.integrity_failures.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            what,
            "the scrubber found that the index of segment {n} is not the one of its entries; run phivault verify"
        );
        if self.bent.len() <= MAX_RECORDED {
            self.found(BENT, n.to_string());
        }
    }

    fn digests(&self, n: u64) -> Result<Option<IndexDigests>, StoreError> {
        if let Some(named) = self.segments.digests(n)? {
            return Ok(Some(named));
        }
        let proven = self.segments.prove(n)?;
        if let Some(digests) = &proven {
            self.commit(naming(n, digests));
        }
        Ok(proven)
    }

    /// Whether a row is what the tree holds, and its values open. A destroyed key is no damage.
    fn is_sound(&self, row: &Row) -> Result<bool, StoreError> {
        if !self.segments.is_sound(row)? {
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
        self.found(DAMAGED, damaged.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    }

    fn found(&self, fact: &str, what: String) {
        let mut meta = own_meta(Action::INTEGRITY, vec![(fact.to_owned(), what)]);
        meta.outcome = Outcome::Failure;
        self.commit(meta);
    }

    fn commit(&self, meta: Meta) {
        commit_own(&self.queue, &self.keys, &meta);
    }
}
