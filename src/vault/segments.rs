//! What vouches for the index of a full segment: its digests, as an entry of the ledger names them.
//!
//! Reports count from columns beside the entries, and searches find by postings. Both are made from entries, and neither is in the
//! tree, so somebody with the disk could bend them. The writer names their digests in an entry when a segment is full. What is
//! counted from is held against them each time; the rest when the scrubber comes by.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::action::{Action, Outcome};
use crate::domain::index::{Dimension, Indexed, Term};
use crate::domain::meta::{Meta, Record};
use crate::ledger::hash::Hash;
use crate::ledger::tree::TILE_WIDTH;
use crate::store::{IndexDigests, Order, Row, SEGMENT, Store, StoreError};

use super::ledger::Ledger;
use super::trust::leaf_of;
use super::writer::{SELF, own_meta};

/// The type of record that such an entry is about.
const RECORD: &str = "Segment";
/// The facts that name the digests.
const POSTINGS: &str = "index_postings";
const HEADS: &str = "index_heads";
const MOMENTS: &str = "index_moments";

/// The digests of all segments, as far as they are known.
pub(super) struct Segments {
    store: Arc<dyn Store>,
    ledger: Arc<Ledger>,
    known: Mutex<HashMap<u64, IndexDigests>>,
}

impl Segments {
    pub(super) fn new(store: Arc<dyn Store>, ledger: Arc<Ledger>) -> Self {
        Self { store, ledger, known: Mutex::default() }
    }

    /// The digests that a segment's index must have, if anything vouches for them.
    pub(super) fn digests(&self, n: u64) -> Result<Option<IndexDigests>, StoreError> {
        if let Some(known) = self.known().get(&n) {
            return Ok(Some(*known));
        }
        let Some(found) = self.store.index_made(n).map_or_else(|| self.named(n), |it| Ok(Some(it)))? else {
            return Ok(None);
        };
        self.known().insert(n, found);
        Ok(Some(found))
    }

    /// Works the digests out from the entries; `None` if one of those is not what the ledger holds.
    pub(super) fn prove(&self, n: u64) -> Result<Option<IndexDigests>, StoreError> {
        let (mut entries, mut failed) = (Vec::with_capacity(usize::try_from(SEGMENT).unwrap_or(0)), None);
        self.store.scan(n * SEGMENT..(n + 1) * SEGMENT, &mut |row| {
            match (self.is_sound(&row), Meta::decode(&row.meta)) {
                (Ok(true), Ok(meta)) => entries.push((Indexed::of(&meta), row.received_at)),
                (Err(error), _) => failed = Some(Err(error)),
                (Ok(_), _) => failed = Some(Ok(None)),
            }
            failed.is_none()
        })?;
        if let Some(failed) = failed {
            return failed;
        }
        let proven = self.store.index_from(n, &entries);
        self.known().insert(n, proven);
        Ok(Some(proven))
    }

    /// Whether a row is what the tree holds; shown once for a tile of leaves.
    pub(super) fn is_sound(&self, row: &Row) -> Result<bool, StoreError> {
        let leaf = leaf_of(row);
        let begins_tile = row.sequence.is_multiple_of(TILE_WIDTH as u64);
        Ok(leaf == row.leaf && (!begins_tile || self.ledger.has_leaf(row.sequence, &leaf)?))
    }

    /// What the ledger names them as.
    fn named(&self, n: u64) -> Result<Option<IndexDigests>, StoreError> {
        let name = n.to_string();
        let terms = [vec![record_term(&name)]];
        let found = self.store.find(&terms, (n + 1) * SEGMENT..self.store.size(), Order::OldestFirst, MOST)?;
        for row in self.store.rows(&found.sequences)? {
            let Ok(meta) = Meta::decode(&row.meta) else { continue };
            let leaf = leaf_of(&row);
            let found = named_in(&meta).filter(|it| it.0 == n);
            if let Some((_, digests)) = found.filter(|_| leaf == row.leaf)
                && self.ledger.has_leaf(row.sequence, &leaf)?
            {
                return Ok(Some(digests));
            }
        }
        Ok(None)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<u64, IndexDigests>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Entries that are looked at for a segment: there is one, and one more for each time that the process died before it was written.
const MOST: usize = 16;

fn record_term(id: &str) -> Term {
    Term::new(Dimension::Record, &[RECORD.as_bytes(), id.as_bytes()])
}

/// The entry that names the digests of a segment's index.
pub(super) fn naming(n: u64, digests: &IndexDigests) -> Meta {
    let all = [(HEADS, digests.heads), (MOMENTS, digests.moments), (POSTINGS, digests.postings)];
    let facts = all.iter().map(|(name, hash)| ((*name).to_owned(), hash.to_string())).collect();
    let mut meta = own_meta(Action::INTEGRITY, facts);
    meta.record = Some(Record::new(RECORD, n.to_string()));
    meta
}

/// The segment that an entry of the vault names the index of, and its digests.
pub(super) fn named_in(meta: &Meta) -> Option<(u64, IndexDigests)> {
    let own = meta.action == Action::INTEGRITY && meta.source == SELF && meta.outcome == Outcome::Success;
    let record = meta.record.as_ref().filter(|it| own && it.kind == RECORD)?;
    let hash = |name| meta.fact(name).and_then(Hash::from_hex);
    let digests = IndexDigests { postings: hash(POSTINGS)?, heads: hash(HEADS)?, moments: hash(MOMENTS)? };
    Some((record.id.parse().ok()?, digests))
}
