//! What a start believes: nothing that is found on disk before it is checked against the ledger and its lock.
//!
//! The index is not asked: somebody with the disk can hide an entry from it. What stands (tokens, keyring) is read from the
//! newest seal entry, found from the end, and shown to be in the signed tree.

use uuid::Uuid;

use crate::crypto::seal;
use crate::domain::action::Action;
use crate::domain::canonical::NotCanonical;
use crate::domain::meta::Meta;
use crate::ledger::hash::Hash;
use crate::ledger::leaf::entry_leaf;
use crate::ledger::tree::{Edge, TILE_WIDTH, tile_root};
use crate::store::{Row, SEGMENT, StateRow, Store, StoreError};

use super::error::OpenError;
use super::evidence::sequenced;
use super::keys::Keys;
use super::ledger::Ledger;
use super::standing::{STATE_ROOT, Standing};
use super::writer::{Unsealed, find_id, seal_leaf};

/// Entries read at a time on the way back from the end; whole tiles of leaves.
const PIECE: u64 = 4_096;
/// Entries whose values may be lost without the start being refused.
const MAX_DAMAGED: usize = 100;

/// The first entry must be the vault's creation.
pub(super) fn check_first(store: &dyn Store) -> Result<(), OpenError> {
    let wrong = |what: &str| Err(OpenError::Distrust(what.to_owned()));
    if store.size() == 0 {
        return wrong(
            "The database is empty: it was cut, or `init` did not finish. Restore a backup, or make a new vault elsewhere.",
        );
    }
    let row = store.rows(&[0])?.pop().ok_or(StoreError::Corrupt("entry 0 is not there".into()))?;
    if meta_of(&row)?.action != Action::VAULT_CREATE {
        return wrong("The database does not begin as a vault does. Put the vault's own database back.");
    }
    Ok(())
}

pub(super) fn meta_of(row: &Row) -> Result<Meta, OpenError> {
    Meta::decode(&row.meta).map_err(|error| unread(row.sequence, error))
}

fn unread(sequence: u64, error: NotCanonical) -> OpenError {
    StoreError::Corrupt(format!("the metadata of entry {sequence} does not read: {error}")).into()
}

/// Rebuilds the right edge of the tree: tiles that are complete from the store, the rest from the entries themselves. The
/// leaves of the entries read are computed again.
pub(super) fn rebuild_edge(store: &dyn Store) -> Result<Edge, OpenError> {
    let size = store.size();
    let width = TILE_WIDTH as u64;
    let begin = size / SEGMENT * SEGMENT;
    let mut leaves = Vec::with_capacity(usize::try_from(size - begin).unwrap_or(0));
    let mut wrong = None;
    store.scan(begin..size, &mut |row| {
        let leaf = leaf_of(&row);
        leaves.push(leaf);
        if leaf != row.leaf {
            wrong = Some(row.sequence);
        }
        wrong.is_none()
    })?;
    if let Some(sequence) = wrong {
        return Err(altered(sequence));
    }
    let full = leaves.len() / TILE_WIDTH * TILE_WIDTH;
    let mut levels = vec![leaves[full..].to_vec(), leaves[..full].chunks(TILE_WIDTH).map(tile_root).collect()];
    // From level 2 up, each hash is the root of a full tile of the level below.
    let mut count = size / SEGMENT;
    for level in 2_u8.. {
        if count == 0 {
            break;
        }
        let first = count / width * width;
        let mut hashes = Vec::new();
        for index in first..count {
            let tile = store.tile(level - 1, index)?;
            let tile =
                tile.ok_or_else(|| StoreError::Corrupt(format!("tile {index} of level {} is not there", level - 1)))?;
            hashes.push(tile_root(&tile));
        }
        levels.push(hashes);
        count /= width;
    }
    Edge::from_levels(size, levels)
        .ok_or_else(|| StoreError::Corrupt("the tiles do not fit the number of entries".into()).into())
}

/// The newest seal entry, or the first entry while there is none: its position, and its facts about what stands.
pub(super) fn newest_seal(store: &dyn Store, ledger: &Ledger) -> Result<(u64, Meta), OpenError> {
    let mut end = store.size();
    while end > 0 {
        let begin = (end - 1) / PIECE * PIECE;
        let mut newest = None;
        each_proven(store, ledger, begin..end, &mut |row, meta| {
            if meta.action == Action::SEAL || row.sequence == 0 {
                newest = Some((row.sequence, row.meta.clone()));
            }
        })?;
        if let Some((sequence, bytes)) = newest {
            return Ok((sequence, Meta::decode(&bytes).map_err(|error| unread(sequence, error))?));
        }
        end = begin;
    }
    Err(StoreError::Corrupt("there is no first entry".into()).into())
}

/// What stands, and the state rows in the database that are the newest the ledger knows.
///
/// If the rows are not what the newest seal entry says, all entries are read to tell which of them are; this takes long, and
/// only happens after somebody changed the database.
pub(super) fn state_rows(
    store: &dyn Store,
    ledger: &Ledger,
    seal: &Meta,
    kinds: &[&str],
) -> Result<(Standing, Vec<StateRow>), OpenError> {
    let mut rows = Vec::new();
    for kind in kinds {
        rows.extend(store.state(kind)?);
    }
    let standing = Standing::of_rows(seal, &rows);
    let before_any = || Standing::default().state_root();
    if standing.state_root() == seal.fact(STATE_ROOT).map_or_else(before_any, str::to_owned) {
        return Ok((standing, rows));
    }
    tracing::error!("the state rows in the database are not the newest; all entries are read to tell which are");
    let mut standing = Standing::default();
    let mut wrong = None;
    each_proven(store, ledger, 0..store.size(), &mut |row, meta| {
        if Standing::concerns(meta) {
            match meta_of(row) {
                Ok(meta) => drop(standing.apply(&meta)),
                Err(error) => wrong = Some(error),
            }
        }
    })?;
    wrong.map_or(Ok((standing, rows)), Err)
}

/// Calls `each` with the entries of a range that begins with a tile of leaves. Each is shown to be in the tree: its leaf is
/// computed again, and a proof leads from every tile of leaves to the root.
pub(super) fn each_proven(
    store: &dyn Store,
    ledger: &Ledger,
    range: std::ops::Range<u64>,
    each: &mut dyn FnMut(&Row, &Meta<&str>),
) -> Result<(), OpenError> {
    let mut wrong = None;
    store.scan(range, &mut |row| {
        let leaf = leaf_of(&row);
        let tile_begins = row.sequence % TILE_WIDTH as u64 == 0;
        let proven = if tile_begins { ledger.has_leaf(row.sequence, &leaf) } else { Ok(true) };
        match (proven, Meta::borrow(&row.meta)) {
            // A disk that refuses says nothing about the entry.
            (Err(error), _) => wrong = Some(error.into()),
            (Ok(true), Ok(meta)) if leaf == row.leaf => each(&row, &meta),
            (Ok(true), Err(error)) if leaf == row.leaf => wrong = Some(unread(row.sequence, error)),
            (Ok(_), _) => wrong = Some(altered(row.sequence)),
        }
        wrong.is_none()
    })?;
    wrong.map_or(Ok(()), Err)
}

/// Rebuilds what no seal entry covers yet.
pub(super) fn rebuild_unsealed(store: &dyn Store, from: u64) -> Result<Unsealed, OpenError> {
    let mut unsealed = Unsealed::new(from);
    let mut wrong = None;
    store.scan(from..store.size(), &mut |row| {
        match meta_of(&row) {
            Ok(meta) => unsealed.add(seal_leaf(meta.id, &row.sealed)),
            Err(error) => wrong = Some(error),
        }
        wrong.is_none()
    })?;
    wrong.map_or(Ok(unsealed), Err)
}

/// What was found of the newest entries.
pub(super) struct Tail {
    /// Positions of entries of which the values are lost.
    pub(super) damaged: Vec<u64>,
    /// Entries that no checkpoint covers and no key opens any more.
    pub(super) unproven: u64,
}

/// Entries since the newest seal entry must open under this vault's keys, for the next seal entry will vouch for their
/// ciphertexts. Gives back those that do not, although the tree holds their metadata: their values are lost, and the ledger
/// must say so.
///
/// Entries that no checkpoint covers yet (those of the last second before a crash) must open, and none may be there twice:
/// somebody with the disk but without the keys cannot add one. In a restored ledger some may lie under keys that were destroyed after
/// the backup: nobody can tell any more who wrote them. They are counted, and the ledger must say so.
pub(super) fn check_tail(
    store: &dyn Store,
    keys: &Keys,
    sealed: u64,
    signed: u64,
    restored: bool,
) -> Result<Tail, OpenError> {
    let (mut foreign, mut damaged, mut unproven, mut opened) = (None, Vec::new(), 0, 0);
    let ring = keys.ring();
    store.scan(sealed.min(signed)..store.size(), &mut |row| {
        let meta = meta_of(&row).ok();
        let opens = meta.as_ref().is_some_and(|meta| {
            // An erased record is always covered by a seal entry, so here there is none: whoever has no keys could plant one.
            let Ok(header) = seal::header(&row.sealed) else { return false };
            // A restored ledger may be older than the destruction of a key.
            if restored && ring.opening(header).is_none() && ring.knows(header) {
                unproven += u64::from(row.sequence >= signed);
                return true;
            }
            ring.opening(header).is_some_and(|keys| {
                let opens = seal::open(&keys, meta.id.as_bytes(), &row.meta, &row.sealed, &row.commitment).is_ok();
                opened += u64::from(opens);
                opens
            })
        });
        if row.sequence < signed {
            damaged.extend((!opens).then_some(row.sequence));
        } else if !opens || meta.is_none_or(|meta| repeats(store, meta.id, row.sequence)) {
            foreign = Some(row.sequence);
        }
        foreign.is_none() && damaged.len() <= MAX_DAMAGED
    })?;
    if restored && opened == 0 && (foreign.is_some() || !damaged.is_empty()) {
        return Err(OpenError::Distrust(
            "The keyring opens none of the newest entries: it is another vault's, or they were altered. Give the newest keyring of the vault that the backup is of.".into(),
        ));
    }
    if let Some(sequence) = foreign {
        return Err(OpenError::Distrust(format!(
            "Entry {sequence} was not written by this vault: it is not sealed with its keys, or repeats another entry. Do not write to this database. `phivault verify --keyring` shows it; restore a backup."
        )));
    }
    if damaged.len() > MAX_DAMAGED {
        return Err(OpenError::Distrust(format!(
            "More than {MAX_DAMAGED} of the newest entries do not open: the keyring is another vault's, or their sealed values were altered. Do not write to this database."
        )));
    }
    Ok(Tail { damaged, unproven })
}

fn repeats(store: &dyn Store, id: Uuid, sequence: u64) -> bool {
    !matches!(find_id(store, id, 0..sequence), Ok(None))
}

/// The leaf that a row should have.
pub(super) fn leaf_of(row: &Row) -> Hash {
    entry_leaf(&row.meta, &row.commitment, sequenced(row))
}

fn altered(sequence: u64) -> OpenError {
    OpenError::Distrust(format!(
        "Entry {sequence} was altered: it is not what the ledger holds. Do not write to this database. Run `phivault verify`."
    ))
}
