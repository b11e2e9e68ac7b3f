//! The vault's ledger while it runs: the right edge, the newest checkpoint, proofs, and the thread that signs.
//!
//! Signing order, and what is true if the process dies after each step:
//!
//! 1. the root is taken of what is committed: nothing changed yet;
//! 2. it is checked to extend the checkpoint in the lock, and signed: nobody has seen it;
//! 3. it is swapped into the lock: start-up finds a lock that the database must reach, and it does, for it was committed;
//! 4. it is published: readers see it.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::keyfile::LockFile;
use crate::ledger::checkpoint::{Checkpoint, open as open_checkpoint};
use crate::ledger::hash::Hash;
use crate::ledger::note::{Note, NoteError, NoteSigner, Signature, VerifierKey};
use crate::ledger::policy::Policy;
use crate::ledger::proof;
use crate::ledger::tiles::TileName;
use crate::ledger::tree::{Edge, TILE_WIDTH, TileSource};
use crate::store::{Store, StoreError};

use super::error::{OpenError, VaultError};
use super::status::Counters;

/// At most one checkpoint in this time while entries come.
const SIGN_EVERY: Duration = Duration::from_secs(1);
/// At least one checkpoint in this time while none come, so that absence can be shown.
const SIGN_IDLE: Duration = Duration::from_secs(3600);

/// Cosignatures older than this, while there is more to cosign, are not fresh any more.
const WITNESS_LAG: Duration = Duration::from_secs(60);

/// How long a proof waits for the checkpoint that covers its entry.
const PROOF_WAIT: Duration = Duration::from_secs(5);

/// The ledger as readers see it.
pub(super) struct Ledger {
    store: Arc<dyn Store>,
    signing_keys: RwLock<SigningKeys>,
    origin: String,
    lock: LockFile,
    edge: Mutex<Edge>,
    published: RwLock<Signed>,
    /// The newest checkpoint that enough witnesses cosigned, and when; whom to ask, if anybody.
    witnessed: RwLock<Witnessed>,
    /// Held while a checkpoint is signed, so that one comes after the other; readers do not wait for it.
    signing: Mutex<()>,
    /// The size that is published, and a bell for those who wait for it to grow.
    covered: (Mutex<u64>, Condvar),
}

/// What witnesses have said.
#[derive(Default)]
struct Witnessed {
    policy: Option<Policy>,
    expected_since: Option<Instant>,
    newest: Option<(Signed, Instant)>,
    /// Cosignatures of a checkpoint that are not enough yet: its text, and the lines.
    gathering: (String, Vec<Signature>),
}

/// Which key signs, and which may have signed what stands in the lock.
struct SigningKeys {
    signer: Arc<NoteSigner>,
    accepted: Vec<VerifierKey>,
}

/// A signed checkpoint.
#[derive(Clone)]
pub struct Signed {
    /// The C2SP signed note.
    pub note: String,
    /// How many entries it covers.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
}

impl Ledger {
    /// Opens the ledger over a store, and distrusts it: the database must reach the lock's checkpoint and have its root.
    ///
    /// # Errors
    /// [`OpenError::Distrust`] when it does not.
    pub(super) fn open(
        store: Arc<dyn Store>,
        edge: Edge,
        signers: Vec<Arc<NoteSigner>>,
        lock: LockFile,
    ) -> Result<Self, OpenError> {
        let signer = signers.first().expect("a vault has a signing key").clone();
        let origin = signer.verifier_key().name().to_owned();
        let accepted: Vec<_> = signers.iter().map(|it| it.verifier_key().clone()).collect();
        let note = lock.note();
        let locked = open_checkpoint(&note, &origin, &accepted).map_err(|error| {
            OpenError::Distrust(format!(
                "The lock does not hold a checkpoint signed by this vault's signing key ({error}). \
                 Signing key, lock and database must be of one vault; put the right ones back from their backup."
            ))
        })?;
        let published = RwLock::new(Signed { note, size: locked.size, root: locked.root });
        let covered = (Mutex::new(locked.size), Condvar::new());
        let ledger = Self {
            store,
            signing_keys: RwLock::new(SigningKeys { signer, accepted }),
            origin,
            lock,
            edge: Mutex::new(edge),
            published,
            witnessed: RwLock::default(),
            signing: Mutex::default(),
            covered,
        };
        let size = ledger.edge().size();
        if size < locked.size {
            return Err(OpenError::Distrust(format!(
                "The database holds {size} entries, but {} were signed: it was rolled back or cut, or is another vault's. Do not write to it. \
                 Put the newest database back, or restore a backup, which begins a new ledger.",
                locked.size
            )));
        }
        if ledger.root_at(locked.size)? != locked.root {
            return Err(OpenError::Distrust(format!(
                "The database differs from what was signed within the first {} entries. Do not write to it. Run `phivault verify` to see what was altered.",
                locked.size
            )));
        }
        Ok(ledger)
    }

    /// The newest signed checkpoint.
    pub(super) fn checkpoint(&self) -> Signed {
        self.published.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the public is given: the newest checkpoint that enough witnesses cosigned, while there is a fresh one.
    pub(super) fn served(&self) -> Signed {
        let witnessed = self.witnessed.read().unwrap_or_else(PoisonError::into_inner);
        match &witnessed.newest {
            Some((signed, when)) if when.elapsed() < WITNESS_LAG => signed.clone(),
            _ => self.checkpoint(),
        }
    }

    /// Takes note of whom to ask for cosignatures.
    pub(super) fn expect_witnesses(&self, policy: Policy) {
        let mut witnessed = self.witnessed.write().unwrap_or_else(PoisonError::into_inner);
        witnessed.policy = Some(policy);
        witnessed.expected_since = Some(Instant::now());
    }

    /// Adds cosignatures of a checkpoint; they have been verified.
    pub(super) fn add_cosignatures(&self, signed: &Signed, lines: &[Signature]) {
        let Ok(mut note) = Note::parse(&signed.note) else { return };
        let mut witnessed = self.witnessed.write().unwrap_or_else(PoisonError::into_inner);
        if witnessed.gathering.0 != note.text {
            witnessed.gathering = (note.text.clone(), Vec::new());
        }
        witnessed.gathering.1.extend_from_slice(lines);
        note.signatures.extend(witnessed.gathering.1.iter().cloned());
        let note = note.to_string();
        let opened = witnessed.policy.as_ref().map(|it| it.open(&note));
        if let Some(Err(error)) = &opened {
            tracing::warn!(%error, "cosignatures came, but the policy does not trust what they stand under; does it name the signing key of now?");
        }
        let enough = opened.is_some_and(|it| it.is_ok_and(|opened| opened.quorum));
        if enough && witnessed.newest.as_ref().is_none_or(|(before, _)| before.size <= signed.size) {
            witnessed.newest = Some((Signed { note, ..signed.clone() }, Instant::now()));
        }
    }

    /// How many entries enough witnesses have seen, if any are asked; and whether that is long ago.
    pub(super) fn witnessed(&self) -> Option<(u64, bool)> {
        let witnessed = self.witnessed.read().unwrap_or_else(PoisonError::into_inner);
        witnessed.policy.as_ref()?;
        let size = witnessed.newest.as_ref().map_or(0, |(signed, _)| signed.size);
        let since = witnessed.newest.as_ref().map(|(_, when)| *when).or(witnessed.expected_since)?;
        let behind = size < self.checkpoint().size && since.elapsed() >= WITNESS_LAG;
        Some((size, behind))
    }

    /// The name of the ledger.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    /// Takes over the right edge of what was just committed.
    pub(super) fn advance(&self, edge: &Edge) {
        self.edge.lock().unwrap_or_else(PoisonError::into_inner).clone_from(edge);
    }

    fn edge(&self) -> Edge {
        self.edge.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The root of the tree over the first `size` entries.
    pub(super) fn root_at(&self, size: u64) -> Result<Hash, StoreError> {
        proof::root_at(&self.tiles(), size)
    }

    /// Whether this is the leaf of an entry: under the newest checkpoint, or beyond it in the tree of now. The answer holds
    /// for all leaves of its tile, as they are stored.
    pub(super) fn has_leaf(&self, sequence: u64, leaf: &Hash) -> Result<bool, StoreError> {
        let (tiles, signed) = (self.tiles(), self.checkpoint());
        let (size, root) =
            if sequence < signed.size { (signed.size, signed.root) } else { (tiles.edge.size(), tiles.edge.root()) };
        let path = proof::inclusion_proof(&tiles, sequence, size)?;
        Ok(proof::verify_inclusion(leaf, sequence, size, &path, &root).is_ok())
    }

    /// The first hashes of a tile, if the newest checkpoint covers them.
    pub(super) fn public_tile(&self, name: TileName) -> Result<Option<Vec<Hash>>, StoreError> {
        let size = self.checkpoint().size;
        let hashes = u32::from(name.level).checked_mul(8).and_then(|shift| size.checked_shr(shift)).unwrap_or(0);
        let wanted = name.index.checked_mul(TILE_WIDTH as u64).and_then(|it| it.checked_add(name.width as u64));
        if wanted.is_none_or(|wanted| wanted > hashes) {
            return Ok(None);
        }
        self.tiles().tile(name.level, name.index, name.width).map(Some)
    }

    /// The inclusion proof of an entry in the tree of a certain size.
    pub(super) fn inclusion_in(&self, sequence: u64, size: u64) -> Result<Vec<Hash>, StoreError> {
        proof::inclusion_proof(&self.tiles(), sequence, size)
    }

    /// The proof that the tree of `new` entries extends the one of `old`.
    pub(super) fn consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>, StoreError> {
        proof::consistency_proof(&self.tiles(), old, new)
    }

    /// The inclusion proof of an entry in the tree of the newest checkpoint, waiting for the next one if it must. Readers
    /// never make the vault sign: that would let anybody keep its disk busy.
    pub(super) fn inclusion(&self, sequence: u64) -> Result<(Signed, Vec<Hash>), VaultError> {
        let (covered, bell) = &self.covered;
        let size = covered.lock().unwrap_or_else(PoisonError::into_inner);
        let waited =
            bell.wait_timeout_while(size, PROOF_WAIT, |size| *size <= sequence).unwrap_or_else(PoisonError::into_inner);
        if waited.1.timed_out() {
            return Err(VaultError::Busy);
        }
        drop(waited);
        let served = self.served();
        let signed = if served.size > sequence { served } else { self.checkpoint() };
        let hashes = proof::inclusion_proof(&self.tiles(), sequence, signed.size)?;
        Ok((signed, hashes))
    }

    /// The public half of the key that signs.
    pub(super) fn verifier_key(&self) -> VerifierKey {
        self.signing_keys.read().unwrap_or_else(PoisonError::into_inner).signer.verifier_key().clone()
    }

    /// Signs a text that is no checkpoint, with the key of now.
    pub(super) fn sign_text(&self, text: &str) -> Result<String, NoteError> {
        self.signing_keys.read().unwrap_or_else(PoisonError::into_inner).signer.sign(text)
    }

    /// Signs with the key of now from here on.
    pub(super) fn adopt(&self, signer: Arc<NoteSigner>) {
        self.signing_keys.write().unwrap_or_else(PoisonError::into_inner).signer = signer;
    }

    /// Signs and publishes a checkpoint of what is committed now.
    pub(super) fn sign(&self) -> Result<(), VaultError> {
        self.sign_with(None)
    }

    /// Signs a checkpoint with the key of now and its successor, which signs from then on.
    pub(super) fn hand_over(&self, successor: &Arc<NoteSigner>) -> Result<(), VaultError> {
        self.sign_with(Some(successor))
    }

    fn sign_with(&self, successor: Option<&Arc<NoteSigner>>) -> Result<(), VaultError> {
        let _signing = self.signing.lock().unwrap_or_else(PoisonError::into_inner);
        let edge = self.edge();
        let checkpoint =
            Checkpoint { origin: self.origin.clone(), size: edge.size(), root: edge.root(), extensions: Vec::new() };
        // A checkpoint that does not extend the one before is never signed, whatever memory says.
        let (signer, accepted) = {
            let keys = self.signing_keys.read().unwrap_or_else(PoisonError::into_inner);
            (keys.signer.clone(), keys.accepted.clone())
        };
        let before = open_checkpoint(&self.lock.note(), &self.origin, &accepted)
            .map_err(|error| VaultError::Integrity(error.to_string()))?;
        if checkpoint.size < before.size || self.root_at(before.size)? != before.root {
            return Err(VaultError::Integrity("the ledger no longer extends its last checkpoint".into()));
        }
        let note = checkpoint.sign(&signer).map_err(|error| VaultError::Integrity(error.to_string()))?;
        let note = match successor {
            None => note,
            // The overlap: whoever trusts either key can follow.
            Some(next) => format!("{note}{}", next.countersign(&checkpoint.to_text())),
        };
        self.lock.swap(&note)?;
        if let Some(next) = successor {
            let accepted = vec![signer.verifier_key().clone(), next.verifier_key().clone()];
            *self.signing_keys.write().unwrap_or_else(PoisonError::into_inner) =
                SigningKeys { signer: next.clone(), accepted };
        }
        *self.published.write().unwrap_or_else(PoisonError::into_inner) =
            Signed { note, size: checkpoint.size, root: checkpoint.root };
        *self.covered.0.lock().unwrap_or_else(PoisonError::into_inner) = checkpoint.size;
        self.covered.1.notify_all();
        Ok(())
    }

    fn tiles(&self) -> Tiles<'_> {
        Tiles { store: &*self.store, edge: self.edge() }
    }
}

/// Signs, and says how it went: writes go on without a checkpoint, but somebody must learn of it.
pub(super) fn sign_counted(ledger: &Ledger, counters: &Counters) {
    match ledger.sign() {
        Ok(()) => {
            counters.checkpoints.fetch_add(1, Ordering::Relaxed);
            counters.unsigned.store(false, Ordering::Relaxed);
        }
        Err(error) => {
            counters.checkpoint_failures.fetch_add(1, Ordering::Relaxed);
            counters.unsigned.store(true, Ordering::Relaxed);
            tracing::error!(%error, "no checkpoint could be signed");
        }
    }
}

/// Signs in the background until the sender of `stop` goes away; then signs once more. `idle` is called when nothing was
/// signed for an hour; it writes an entry, so that the next checkpoint shows that the vault was up and saw nothing. `each_time` is
/// called about once a second.
pub(super) fn sign_in_background(
    ledger: &Ledger,
    counters: &Counters,
    stop: &Receiver<()>,
    idle: impl Fn(),
    mut each_time: impl FnMut(),
) {
    let mut last = Instant::now();
    loop {
        let end = match stop.recv_timeout(SIGN_EVERY) {
            Err(RecvTimeoutError::Timeout) => false,
            Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
        };
        if !end {
            each_time();
        }
        if !end && last.elapsed() >= SIGN_IDLE {
            idle();
        }
        let size = ledger.edge().size();
        if size > ledger.checkpoint().size {
            sign_counted(ledger, counters);
            // Also after a failure: it is tried again in a second, without an idle entry each time.
            last = Instant::now();
        }
        if end {
            return;
        }
    }
}

/// Tiles from the store and from the edge in memory.
pub(super) struct Tiles<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) edge: Edge,
}

impl TileSource for Tiles<'_> {
    type Error = StoreError;

    fn tile(&self, level: u8, index: u64, width: usize) -> Result<Vec<Hash>, StoreError> {
        let size = u32::from(level).checked_mul(8).and_then(|shift| self.edge.size().checked_shr(shift)).unwrap_or(0);
        let width_64 = TILE_WIDTH as u64;
        let hashes = if index == size / width_64 {
            self.edge.level(level).to_vec()
        } else if level == 0 {
            self.store.leaves(index * width_64..(index + 1) * width_64)?
        } else {
            self.store.tile(level, index)?.unwrap_or_default()
        };
        let hashes = hashes
            .get(..width)
            .ok_or_else(|| StoreError::Corrupt(format!("tile {index} of level {level} is not there")))?;
        Ok(hashes.to_vec())
    }
}
