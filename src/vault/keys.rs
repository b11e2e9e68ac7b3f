//! The keyring in use: which keys seal now, and how they are rotated while applications go on writing.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::Serialize;
use utoipa::ToSchema;

use crate::crypto::kek::{Kek, Unlock};
use crate::crypto::keyring::{KeyState, Keyring, KeyringError, file_digest};
use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::meta::Meta;
use crate::domain::submission::ReasonIn;
use crate::domain::time::Timestamp;
use crate::keyfile::{self, KeyPaths};

use super::Vault;
use super::error::{OpenError, VaultError};
use super::record::Note;
use super::standing::{KEYRING_DIGEST, KEYRING_GENERATION};

/// The keyring and what is needed to write the next one.
pub(super) struct Keys {
    ring: RwLock<Arc<Keyring>>,
    /// The digest of the file that holds it.
    digest: Mutex<String>,
    kek: Kek,
    pub(super) paths: KeyPaths,
    /// Held while the keyring changes, so that changes come one after the other. True while the newest keyring is recorded
    /// but stands beside its place, because it could not be renamed.
    pub(super) unplaced: Mutex<bool>,
}

/// What an administrator sees of the keys.
#[derive(Serialize, ToSchema)]
pub struct KeyList {
    /// The generation of the keyring file.
    pub keyring_generation: u64,
    /// The version that seals.
    pub active: u32,
    /// All versions.
    pub versions: Vec<KeyVersion>,
}

/// One data-key version.
#[derive(Serialize, ToSchema)]
pub struct KeyVersion {
    /// Its number.
    pub version: u32,
    /// What may be done with it.
    pub state: KeyState,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it stopped sealing.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub retired_at: Option<Timestamp>,
}

/// What a rotation did.
#[derive(Serialize, ToSchema)]
pub struct Rotated {
    /// The version that seals now.
    pub active: u32,
    /// The version that reveals only from now on.
    pub previous: u32,
    /// The generation of the keyring file.
    pub keyring_generation: u64,
    /// The entry that records it.
    pub recorded_as: uuid::Uuid,
}

impl Keys {
    /// Opens the keyring that the ledger knows as the newest, in its place or beside it if the process died in a rotation.
    pub(super) fn open(paths: &KeyPaths, unlock: &Unlock, newest: &Meta) -> Result<Self, OpenError> {
        let recorded = newest.fact(KEYRING_DIGEST).unwrap_or_default();
        let file = keyfile::read_private(&paths.keyring, "keyring")?;
        let next = paths.next_keyring();
        let file = if file_digest(&file) == recorded {
            file
        } else if next.exists() {
            let written = keyfile::read_private(&next, "keyring")?;
            if file_digest(&written) != recorded {
                return Err(stale(paths, newest));
            }
            written
        } else {
            // A damaged file is told from an old one, where the key at hand can tell.
            Keyring::decode(&file, unlock).map_err(|source| refused(paths, source))?;
            return Err(stale(paths, newest));
        };
        Self::decode(paths, unlock, &file)
    }

    /// Opens a keyring beside a restored database, which may know only an older one: it must not be older than that.
    pub(super) fn open_newer(paths: &KeyPaths, unlock: &Unlock, recorded: &Meta) -> Result<Self, OpenError> {
        let keys = Self::decode(paths, unlock, &keyfile::read_private(&paths.keyring, "keyring")?)?;
        let least = recorded.fact(KEYRING_GENERATION).and_then(|it| it.parse::<u64>().ok()).unwrap_or(0);
        if keys.ring().generation() < least { Err(stale(paths, recorded)) } else { Ok(keys) }
    }

    fn decode(paths: &KeyPaths, unlock: &Unlock, file: &str) -> Result<Self, OpenError> {
        let (ring, kek) = Keyring::decode(file, unlock).map_err(|source| refused(paths, source))?;
        let keys = Self::fresh(ring, kek, paths);
        *keys.digest.lock().unwrap_or_else(PoisonError::into_inner) = file_digest(file);
        Ok(keys)
    }

    /// The digest of the keyring file, as it was opened.
    pub(super) fn file_digest(&self) -> String {
        self.digest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Finishes or undoes a rotation that the process died in. Called when the vault has been found sound, so that a start
    /// that is refused leaves the files as they are.
    pub(super) fn settle(&self, newest: &Meta) -> Result<(), OpenError> {
        let next = self.paths.next_keyring();
        if file_digest(&keyfile::read_private(&self.paths.keyring, "keyring")?)
            == newest.fact(KEYRING_DIGEST).unwrap_or_default()
        {
            // Written but never recorded: it was not to be.
            keyfile::remove(&next)?;
        } else {
            keyfile::rename(&next, &self.paths.keyring)?;
        }
        Ok(())
    }

    /// A keyring that was just made, before any file or ledger knows it.
    pub(super) fn fresh(ring: Keyring, kek: Kek, paths: &KeyPaths) -> Self {
        Self {
            ring: RwLock::new(Arc::new(ring)),
            digest: Mutex::default(),
            kek,
            paths: paths.clone(),
            unplaced: Mutex::new(false),
        }
    }

    /// The keyring of now.
    pub(super) fn ring(&self) -> Arc<Keyring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Vault {
    /// Lists the data-key versions. Recorded.
    ///
    /// # Errors
    /// [`VaultError::Denied`], or what recording it says.
    pub fn list_keys(&self, caller: &Caller) -> Result<KeyList, VaultError> {
        self.allow(caller, Permission::ListKeys, Action::KEY_LIST)?;
        self.record(Note::new(caller, Action::KEY_LIST, super::record::default_reason()))?;
        let ring = self.keys.ring();
        let versions = ring.versions().iter().map(|it| KeyVersion {
            version: it.version,
            state: it.state,
            created_at: it.created_at,
            retired_at: it.retired_at,
        });
        Ok(KeyList {
            keyring_generation: ring.generation(),
            active: ring.newest().version,
            versions: versions.collect(),
        })
    }

    /// Makes a new data-key version, at once; the ones before reveal only.
    ///
    /// Order, and what is true if the process dies after each step: (1) the next keyring is written beside the current one:
    /// start-up removes it; (2) an entry records its generation and digest: start-up puts it in place; (3) it is renamed
    /// into place. Memory follows the entry, for that is what counts.
    ///
    /// # Errors
    /// [`VaultError::Denied`], [`VaultError::Invalid`] without a reason, or what writing says.
    pub fn rotate_keys(&self, caller: &Caller, reason: ReasonIn) -> Result<Rotated, VaultError> {
        self.allow(caller, Permission::RotateKeys, Action::KEY_ROTATE)?;
        let reason = self.reason(caller, Action::KEY_ROTATE, reason)?;
        let keys = &self.keys;
        let mut unplaced = keys.unplaced.lock().unwrap_or_else(PoisonError::into_inner);
        if *unplaced {
            keyfile::rename(&keys.paths.next_keyring(), &keys.paths.keyring)?;
            *unplaced = false;
        }
        let before = keys.ring();
        let after = before.rotated(self.clock.now());
        let file = after.encode(&keys.kek);
        let next = keys.paths.next_keyring();
        keyfile::remove(&next)?;
        keyfile::create_private(&next, file.as_bytes())?;
        let (active, previous) = (after.newest().version, before.newest().version);
        let mut note = Note::new(caller, Action::KEY_ROTATE, reason);
        note.facts = keyring_facts(&after, &file);
        note.facts.push(("active_version".into(), active.to_string()));
        note.facts.push(("retired_version".into(), previous.to_string()));
        let receipt = self.record(note)?;
        let keyring_generation = after.generation();
        *keys.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
        *unplaced = true;
        keyfile::rename(&next, &keys.paths.keyring)?;
        *unplaced = false;
        self.sign_now();
        Ok(Rotated { active, previous, keyring_generation, recorded_as: receipt.id })
    }
}

/// The facts that tie a keyring file to the ledger.
pub(super) fn keyring_facts(ring: &Keyring, file: &str) -> Vec<(String, String)> {
    vec![(KEYRING_DIGEST.to_owned(), file_digest(file)), (KEYRING_GENERATION.to_owned(), ring.generation().to_string())]
}

fn refused(paths: &KeyPaths, source: KeyringError) -> OpenError {
    let remedy = match source {
        KeyringError::WrongKey => "Nothing was changed; try again with the right one.",
        KeyringError::Kek(_) => "Check the settings in [keys] that say how it is unlocked.",
        KeyringError::Malformed | KeyringError::Altered => "Restore the keyring from its backup.",
    };
    OpenError::Keyring { path: paths.keyring.display().to_string(), source, remedy }
}

fn stale(paths: &KeyPaths, newest: &Meta) -> OpenError {
    OpenError::Distrust(format!(
        "The keyring {} is not the one the ledger recorded last (generation {}): it is older, or of another vault. \
         Put the newest keyring back from its backup.",
        paths.keyring.display(),
        newest.fact(KEYRING_GENERATION).unwrap_or("unknown")
    ))
}
