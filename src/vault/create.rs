//! Making a vault: database, keyring, signing key and lock, and the first entry.

use std::path::{Path, PathBuf};

use crate::crypto::kek::{Cost, Unlock};
use crate::crypto::keyring::Keyring;
use crate::crypto::lock::{MAIN_SLOT, Slot};
use crate::crypto::random;
use crate::crypto::seal;
use crate::domain::action::Action;
use crate::domain::index::Indexed;
use crate::domain::time::Clock;
use crate::keyfile::{self, KeyPaths, LockFile};
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::leaf::{Sequenced, entry_leaf};
use crate::ledger::note::NoteSigner;
use crate::ledger::tree::Edge;
use crate::store::sqlite::SqliteStore;
use crate::store::{Batch, Row, Store, Usage};

use super::backup::partial;
use super::error::OpenError;
use super::keys::{Keys, keyring_facts};
use super::open::database;
use super::standing::PATIENT_IDS;
use super::trust::meta_of;
use super::writer::{own_meta, prepare};

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
    /// Whether patient ids will be blind on disk.
    pub blind: bool,
}

/// Makes a new vault: database, keyring, signing key, lock. Refuses when any of them exists.
///
/// # Errors
/// [`OpenError`]; then nothing is left of what was made.
pub fn create(creation: &Creation<'_>, clock: &dyn Clock) -> Result<(), OpenError> {
    let Creation { data, keys: paths, .. } = creation;
    refuse_parts(data, paths).map_err(OpenError::Distrust)?;
    lay_out(creation, clock).inspect_err(|_| unmake(data, paths))
}

/// Every file that is part of a vault, now or for a moment.
fn parts(data: &Path, keys: &KeyPaths) -> Vec<PathBuf> {
    let database = database(data);
    let beside = ["", "-wal", "-shm", "-journal"].map(|end| {
        let mut name = database.file_name().unwrap_or_default().to_owned();
        name.push(end);
        database.with_file_name(name)
    });
    let more = [database.with_file_name("vault.pid"), partial(&database)];
    beside.into_iter().chain(more).chain(keys.all()).collect()
}

/// Refuses to make a vault where any part of one is, if only a link that leads nowhere now: SQLite would take up a log that lies
/// beside a new database, and what is removed after a failure must be what was made.
///
/// # Errors
/// One sentence.
pub fn refuse_parts(data: &Path, keys: &KeyPaths) -> Result<(), String> {
    match parts(data, keys).into_iter().find(|it| it.symlink_metadata().is_ok()) {
        None => Ok(()),
        Some(there) => {
            Err(format!("{} exists already; a vault is never overwritten. Nothing was changed.", there.display()))
        }
    }
}

/// Removes a vault whose making did not come to its end. Only for what made it, which found nothing of it there before.
pub fn unmake(data: &Path, keys: &KeyPaths) {
    // What cannot be removed is named by the next attempt.
    parts(data, keys).iter().for_each(|path| drop(std::fs::remove_file(path)));
    drop(std::fs::remove_dir_all(partial(&database(data))));
}

fn lay_out(creation: &Creation<'_>, clock: &dyn Clock) -> Result<(), OpenError> {
    let Creation { data, keys: paths, unlock, cost, name, .. } = creation;
    let database = database(data);
    let origin = format!("{name}/{}", hex::encode(random::array::<8>()));
    let signer = NoteSigner::from_seed(&origin, &random::array())
        .map_err(|error| OpenError::Distrust(format!("The ledger name {name:?} cannot be used: {error}.")))?;
    let slot = Slot::of(MAIN_SLOT, unlock, *cost).map_err(|source| OpenError::Keyring {
        path: paths.keyring.display().to_string(),
        source: source.into(),
        remedy: "Nothing was made.",
    })?;
    keyfile::create_folder(data)?;
    for folder in [&paths.keyring, &paths.signing_key, &paths.lock].into_iter().filter_map(|it| it.parent()) {
        keyfile::create_folder(folder)?;
    }
    SqliteStore::create(&database)?;
    let ring = Keyring::create(clock.now(), slot);
    let file = ring.encode();
    keyfile::create_private(&paths.keyring, file.as_bytes())?;
    keyfile::create_private(&paths.signing_key, format!("{}\n", signer.to_private_text()).as_bytes())?;
    keyfile::create_private(&paths.verifier_key(), format!("{}\n", signer.verifier_key()).as_bytes())?;
    let mut facts = keyring_facts(&ring, &file);
    facts.push(("ledger".into(), origin.clone()));
    if creation.blind {
        // From the first entry on: no start may write ids in clear.
        facts.push((PATIENT_IDS.into(), "blind".into()));
    }
    facts.push(("verifier_key".into(), signer.verifier_key().to_string()));
    facts.sort();
    let row = first_row(&Keys::fresh(ring, paths), facts, clock);
    let mut edge = Edge::new();
    edge.append(row.leaf);
    let index = [Indexed::of(&meta_of(&row)?)];
    let store = SqliteStore::open(&database)?;
    let (version, bucket) = seal::counted_under(&row.sealed);
    let usage = [Usage { segment: 0, version, bucket, entries: 1 }];
    store.append(&Batch { rows: std::slice::from_ref(&row), index: &index, usage: &usage, ..Batch::default() })?;
    let checkpoint = Checkpoint { origin, size: 1, root: edge.root(), extensions: Vec::new() };
    let note = checkpoint.sign(&signer).map_err(|error| OpenError::Distrust(error.to_string()))?;
    Ok(LockFile::create(&paths.lock, &note)?)
}

fn first_row(keys: &Keys, facts: Vec<(String, String)>, clock: &dyn Clock) -> Row {
    let entry = prepare(keys, &own_meta(Action::VAULT_CREATE, facts), &[]);
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
