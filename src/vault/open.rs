//! Making a vault, and opening one with distrust.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, RwLock};

use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::crypto::kek::{Cost, Kek, Unlock};
use crate::crypto::keyring::Keyring;
use crate::crypto::{random, seal};
use crate::domain::action::{Action, Outcome};
use crate::domain::index::{Dimension, Term, terms};
use crate::domain::meta::Meta;
use crate::domain::reason::Vocabulary;
use crate::domain::time::Clock;
use crate::keyfile::{self, KeyPaths, LockFile, ProcessLock};
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::leaf::{Sequenced, entry_leaf};
use crate::ledger::note::NoteSigner;
use crate::ledger::tree::{Edge, TILE_WIDTH, tile_root};
use crate::store::sqlite::SqliteStore;
use crate::store::{Batch, Order, Row, SEGMENT, Store, StoreError};

use super::error::OpenError;
use super::keys::{DIGEST, Keys, keyring_facts};
use super::ledger::{Ledger, sign_in_background};
use super::status::Counters;
use super::tokens::Tokens;
use super::writer::{Message, Unsealed, Writer, own_meta, prepare};
use super::{Settings, Threads, Vault};

/// The database's name in the data folder.
const DATABASE: &str = "vault.db";

/// What a new vault is made of.
pub struct Creation<'a> {
    /// The folder of the database.
    pub data: PathBuf,
    /// The key files, which must not exist.
    pub keys: KeyPaths,
    /// What will unlock it.
    pub unlock: &'a Unlock,
    /// The cost of a passphrase.
    pub cost: Cost,
    /// The name of the ledger, a schemeless URL; a random id is added, so that no two ledgers share a name.
    pub name: &'a str,
}

/// What opening a vault needs.
pub struct Opening<'a> {
    /// The folder of the database.
    pub data: PathBuf,
    /// The key files.
    pub keys: KeyPaths,
    /// What unlocks the keyring.
    pub unlock: &'a Unlock,
    /// What the site has decided.
    pub settings: Settings,
    /// The text of the reason vocabulary.
    pub vocabulary: &'a str,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Whether the machine's clock is synchronised, as far as it is known; recorded.
    pub clock_state: &'static str,
    /// Called when the writer can no longer work. The process must end: a dead writer must not be a live server.
    pub fatal: Box<dyn Fn() + Send>,
}

/// Where the database of a data folder is.
pub(super) fn database(data: &std::path::Path) -> PathBuf {
    data.join(DATABASE)
}

/// Makes a new vault: database, keyring, signing key, lock. Refuses when any of them exists.
///
/// # Errors
/// [`OpenError`]; what was made before the failure stays and is named.
pub fn create(creation: &Creation<'_>, clock: &dyn Clock) -> Result<(), OpenError> {
    let Creation { data, keys: paths, unlock, cost, name } = creation;
    let database = database(data);
    let all = [&database, &paths.keyring, &paths.signing_key, &paths.verifier_key(), &paths.lock];
    if let Some(there) = all.into_iter().find(|it| it.exists()) {
        return Err(OpenError::Distrust(format!(
            "{} exists already; a vault is never overwritten. Nothing was changed.",
            there.display()
        )));
    }
    let origin = format!("{name}/{}", hex::encode(random::array::<8>()));
    let signer = NoteSigner::from_seed(&origin, &random::array())
        .map_err(|error| OpenError::Distrust(format!("The ledger name {name:?} cannot be used: {error}.")))?;
    let kek = Kek::create(unlock, *cost).map_err(|source| OpenError::Keyring {
        path: paths.keyring.display().to_string(),
        source: source.into(),
        remedy: "Nothing was made.",
    })?;
    keyfile::create_folder(data)?;
    for folder in [&paths.keyring, &paths.signing_key, &paths.lock].into_iter().filter_map(|it| it.parent()) {
        keyfile::create_folder(folder)?;
    }
    SqliteStore::create(&database)?;
    let ring = Keyring::create(clock.now());
    let file = ring.encode(&kek);
    keyfile::create_private(&paths.keyring, file.as_bytes())?;
    keyfile::create_private(&paths.signing_key, format!("{}\n", signer.to_private_text()).as_bytes())?;
    keyfile::create_private(&paths.verifier_key(), format!("{}\n", signer.verifier_key()).as_bytes())?;
    let mut facts = keyring_facts(&ring, &file);
    facts.push(("ledger".into(), origin.clone()));
    facts.push(("verifier_key".into(), signer.verifier_key().to_string()));
    facts.sort();
    let row = first_row(&Keys::fresh(ring, kek, paths), facts, clock);
    let mut edge = Edge::new();
    edge.append(row.leaf);
    let index = [terms(&own_meta_of(&row)?)];
    let store = SqliteStore::open(&database)?;
    store.append(&Batch { rows: std::slice::from_ref(&row), terms: &index, tiles: &[], state: &[] })?;
    let checkpoint = Checkpoint { origin, size: 1, root: edge.root(), extensions: Vec::new() };
    let note = checkpoint.sign(&signer).map_err(|error| OpenError::Distrust(error.to_string()))?;
    Ok(LockFile::create(&paths.lock, &note)?)
}

fn first_row(keys: &Keys, facts: Vec<(String, String)>, clock: &dyn Clock) -> Row {
    let entry = prepare(keys, own_meta(Action::VAULT_CREATE, facts), &[]);
    let sequenced = Sequenced { received_at: clock.now().0, patient_previous: 0, patient_number: 0 };
    Row {
        sequence: 0,
        leaf: entry_leaf(&entry.bytes, &entry.commitment, sequenced),
        meta: entry.bytes,
        received_at: sequenced.received_at,
        patient_previous: 0,
        patient_number: 0,
        commitment: entry.commitment,
        sealed: entry.sealed,
    }
}

impl Vault {
    /// Opens a vault. Nothing found on disk is believed before it is checked against the ledger and its lock.
    ///
    /// # Errors
    /// [`OpenError`], one sentence with the remedy; nothing was changed.
    pub fn open(opening: Opening<'_>) -> Result<Self, OpenError> {
        let vocabulary = Vocabulary::parse(opening.vocabulary).map_err(|error| {
            OpenError::Distrust(format!(
                "The reason vocabulary cannot be used: {error}. Mend the file that `entries.reasons` names."
            ))
        })?;
        let database = database(&opening.data);
        if !database.exists() {
            return Err(StoreError::Unsuitable(format!(
                "There is no vault at {}. Make one with `phivault init`.",
                opening.data.display()
            ))
            .into());
        }
        let process_lock = ProcessLock::take(&opening.data)?;
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&database)?);
        let signer = keyfile::read_signing_key(&opening.keys)?;
        check_first(&*store, &signer)?;
        let edge = rebuild_edge(&*store)?;
        let ledger = Arc::new(Ledger::open(store.clone(), edge.clone(), signer, LockFile::open(&opening.keys.lock)?)?);
        let newest_keys = newest_with(&*store, &[Action::VAULT_CREATE, Action::KEY_ROTATE], DIGEST)?
            .ok_or_else(|| OpenError::Distrust("The ledger records no keyring; it is not a phivault ledger.".into()))?;
        let keys = Arc::new(Keys::open(&opening.keys, opening.unlock, &newest_keys.1)?);
        let counters = Arc::new(Counters::default());
        check_tail(&*store, &keys, ledger.checkpoint().size)?;
        let (tokens, untrusted) = Tokens::load(&*store, &keys).map_err(distrust)?;
        counters.untrusted_state.store(untrusted, Ordering::Relaxed);
        let unsealed = rebuild_unsealed(&*store)?;
        // Found sound: from here on files may change.
        keys.settle(&newest_keys.1)?;
        store.repair()?;
        let last_time = store.rows(&[store.size() - 1])?.pop().map_or(0, |row| row.received_at);
        let (queue, received) = channel();
        let writer = Writer {
            store: store.clone(),
            clock: opening.clock.clone(),
            keys: keys.clone(),
            ledger: ledger.clone(),
            counters: counters.clone(),
            edge,
            last_time,
            unsealed,
            heads: HashMap::new(),
        };
        let threads = start(writer, received, queue.clone(), ledger.clone(), counters.clone(), opening.fatal)?;
        let vault = Self {
            room: Arc::new(Semaphore::new(opening.settings.queue_kib)),
            settings: opening.settings,
            store,
            clock: opening.clock,
            keys,
            ledger,
            vocabulary,
            tokens: RwLock::new(tokens),
            changing_tokens: Mutex::default(),
            denials: Mutex::default(),
            queue: Mutex::new(queue),
            counters,
            threads: Mutex::new(Some(threads)),
            _process_lock: process_lock,
        };
        vault.record_start(opening.vocabulary, opening.clock_state).map_err(distrust)?;
        Ok(vault)
    }

    /// Records that the vault started, and the vocabulary in force if it changed.
    fn record_start(&self, vocabulary: &str, clock_state: &str) -> Result<(), super::VaultError> {
        let mut entries = Vec::new();
        let digest = hex::encode(Sha256::digest(vocabulary.as_bytes()));
        let before = newest_with(&*self.store, &[Action::VOCABULARY], "digest")?;
        if before.as_ref().and_then(|(_, meta)| meta.fact("digest")) != Some(&digest) {
            let facts =
                vec![("digest".to_owned(), digest), ("version".to_owned(), self.vocabulary.version().to_owned())];
            entries.push(own_meta(Action::VOCABULARY, facts));
        }
        let patient_ids = if self.settings.blind_patients { "blind" } else { "plain" };
        let facts = [("clock", clock_state), ("patient_ids", patient_ids), ("version", env!("CARGO_PKG_VERSION"))];
        entries.push(own_meta(
            Action::VAULT_START,
            facts.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        ));
        let prepared = entries.into_iter().map(|meta| prepare(&self.keys, meta, &[])).collect();
        self.commit_now(prepared, Vec::new()).map(|_| ())
    }
}

fn start(
    writer: Writer,
    received: std::sync::mpsc::Receiver<Message>,
    queue: super::writer::Queue,
    ledger: Arc<Ledger>,
    counters: Arc<Counters>,
    fatal: Box<dyn Fn() + Send>,
) -> Result<Threads, OpenError> {
    let (stop_signer, stopped) = channel();
    let fail = |error: std::io::Error| OpenError::Distrust(format!("A thread could not be started: {error}."));
    let flag = counters.clone();
    let writer = std::thread::Builder::new().name("writer".into()).spawn(move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| writer.run(&received)));
        flag.stopped.store(true, Ordering::Release);
        match result {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::error!(%error, "the writer failed; whether the last batch is in is unknown, the process ends")
            }
            Err(_) => tracing::error!("the writer panicked; the process ends"),
        }
        fatal();
    });
    let signer = std::thread::Builder::new().name("signer".into()).spawn(move || {
        let idle = move || {
            let (reply, done) = tokio::sync::oneshot::channel();
            if queue.send(Message::Seal(reply)).is_ok() {
                drop(done.blocking_recv());
            }
        };
        sign_in_background(&ledger, &counters, &stopped, idle);
    });
    Ok(Threads { writer: writer.map_err(fail)?, signer: signer.map_err(fail)?, stop_signer })
}

/// The first entry must be the vault's creation, and name this signing key.
fn check_first(store: &dyn Store, signer: &NoteSigner) -> Result<(), OpenError> {
    let wrong = |what: &str| Err(OpenError::Distrust(what.to_owned()));
    if store.size() == 0 {
        return wrong(
            "The database is empty: it was cut, or `init` did not finish. Restore a backup, or make a new vault elsewhere.",
        );
    }
    let row = store.rows(&[0])?.pop().ok_or(StoreError::Corrupt("entry 0 is not there".into()))?;
    let meta = own_meta_of(&row)?;
    if meta.action != Action::VAULT_CREATE || meta.fact("verifier_key") != Some(&signer.verifier_key().to_string()) {
        return wrong(
            "The signing key is not the one this ledger began with. Put the vault's own signing key back from its backup.",
        );
    }
    Ok(())
}

fn own_meta_of(row: &Row) -> Result<Meta, OpenError> {
    Meta::decode(&row.meta).map_err(|error| {
        StoreError::Corrupt(format!("the metadata of entry {} does not read: {error}", row.sequence)).into()
    })
}

/// Rebuilds the right edge of the tree: tiles that are complete from the store, the rest from the entries themselves. The
/// leaves of the entries read are computed again.
fn rebuild_edge(store: &dyn Store) -> Result<Edge, OpenError> {
    let size = store.size();
    let width = TILE_WIDTH as u64;
    let begin = size / SEGMENT * SEGMENT;
    let mut leaves = Vec::with_capacity(usize::try_from(size - begin).unwrap_or(0));
    let mut altered = None;
    store.scan(begin..size, &mut |row| {
        let sequenced = Sequenced {
            received_at: row.received_at,
            patient_previous: row.patient_previous,
            patient_number: row.patient_number,
        };
        let leaf = entry_leaf(&row.meta, &row.commitment, sequenced);
        leaves.push(leaf);
        if leaf != row.leaf {
            altered = Some(row.sequence);
        }
        altered.is_none()
    })?;
    if let Some(sequence) = altered {
        return Err(OpenError::Distrust(format!(
            "Entry {sequence} was altered: it does not have its leaf hash. Do not write to this database. Run `phivault verify`."
        )));
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

/// Rebuilds what no seal entry covers yet.
fn rebuild_unsealed(store: &dyn Store) -> Result<Unsealed, OpenError> {
    let from = newest_with(store, &[Action::SEAL], "to")?.map_or(0, |(sequence, _)| sequence);
    let mut unsealed = Unsealed::new(from);
    let mut wrong = None;
    store.scan(from..store.size(), &mut |row| {
        match own_meta_of(&row) {
            Ok(meta) => unsealed.add(&meta, &row.sealed),
            Err(error) => wrong = Some(error),
        }
        wrong.is_none()
    })?;
    wrong.map_or(Ok(unsealed), Err)
}

/// Entries that no checkpoint covers yet (those of the last second before a crash) must have been sealed with this vault's
/// keys, and none may be there twice: somebody with the disk but without the keys cannot add one.
fn check_tail(store: &dyn Store, keys: &Keys, signed: u64) -> Result<(), OpenError> {
    let mut wrong = None;
    store.scan(signed..store.size(), &mut |row| {
        let ring = keys.ring();
        let genuine = own_meta_of(&row).ok().is_some_and(|meta| {
            let keys = seal::header(&row.sealed).ok().and_then(|header| ring.opening(header));
            let opens = keys.is_some_and(|keys| {
                seal::open(&keys, meta.id.as_bytes(), &row.meta, &row.sealed, &row.commitment).is_ok()
            });
            let terms = [vec![Term::new(Dimension::Id, &[meta.id.as_bytes()])]];
            opens
                && store
                    .find(&terms, 0..row.sequence, Order::NewestFirst, 1)
                    .is_ok_and(|found| found.sequences.is_empty())
        });
        if !genuine {
            wrong = Some(row.sequence);
        }
        genuine
    })?;
    match wrong {
        None => Ok(()),
        Some(sequence) => Err(OpenError::Distrust(format!(
            "Entry {sequence} was not written by this vault: it is not sealed with its keys, or repeats another entry. Do not write to this database. Run `phivault verify`."
        ))),
    }
}

/// The newest entry with one of these actions that states a fact of that name.
fn newest_with(store: &dyn Store, actions: &[Action], fact: &str) -> Result<Option<(u64, Meta)>, StoreError> {
    let terms = [actions.iter().map(|it| Term::new(Dimension::Action, &[it.name().as_bytes()])).collect()];
    let mut end = store.size();
    loop {
        let found = store.find(&terms, 0..end, Order::NewestFirst, 64)?;
        for sequence in &found.sequences {
            let row = store.rows(&[*sequence])?.pop().expect("one row was asked for");
            match Meta::decode(&row.meta) {
                Ok(meta)
                    if actions.contains(&meta.action)
                        && meta.outcome == Outcome::Success
                        && meta.fact(fact).is_some() =>
                {
                    return Ok(Some((*sequence, meta)));
                }
                _ => {}
            }
        }
        match found.next {
            Some(next) => end = next + 1,
            None => return Ok(None),
        }
    }
}

fn distrust(error: super::VaultError) -> OpenError {
    OpenError::Distrust(format!("The vault could not be opened: {error}. Run `phivault verify`."))
}
