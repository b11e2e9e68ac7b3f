//! The keyring in use: which keys seal now, and how they are rotated while applications go on writing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::crypto::kek::Unlock;
use crate::crypto::keyring::{KeyState, Keyring, KeyringError, file_digest};
use crate::crypto::lock::MAIN_SLOT;
use crate::crypto::seal;
use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::meta::Meta;
use crate::domain::submission::ReasonIn;
use crate::domain::time::Timestamp;
use crate::keyfile::{self, KeyPaths};

use super::Vault;
use super::error::{OpenError, VaultError};
use super::fault;
use super::record::Note;
use super::standing::{KEYRING_DIGEST, KEYRING_GENERATION};
use super::writer::Prepared;

/// The most data-key versions of a vault; the keyring must stay small enough to be read.
const MAX_VERSIONS: usize = 4_096;
/// Entries after which a version is replaced by itself: half of what SP 800-38D section 8.3 allows one key.
const MOST_SEALED: u64 = 1 << 31;

/// The keyring and what is needed to write the next one.
pub(super) struct Keys {
    ring: RwLock<Arc<Keyring>>,
    /// The digest of the file that holds it.
    digest: Mutex<String>,
    /// The slot that it was opened with.
    pub(super) opened_with: OpenedWith,
    /// What is about to be destroyed: nothing sealed under it may come in any more.
    barred: Mutex<Option<Barred>>,
    pub(super) paths: KeyPaths,
    /// Held while the keyring changes, so that changes come one after the other. True while the newest keyring is recorded
    /// but stands beside its place, because it could not be renamed.
    pub(super) unplaced: Mutex<bool>,
}

/// The slot that a vault was started with: what was under this name then.
pub(super) struct OpenedWith {
    pub(super) name: String,
    pub(super) kek_id: String,
}

/// What is about to be destroyed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Barred {
    /// A data-key version.
    Version(u32),
    /// A bucket.
    Bucket(u32),
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
    /// The slots that open the keyring.
    pub slots: Vec<String>,
    /// The slot that this vault was started with.
    pub opened_with: String,
    /// The versions of the blind index key.
    pub index_versions: Vec<u32>,
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
    /// When it was destroyed.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub destroyed_at: Option<Timestamp>,
    /// Entries whose values are sealed under it.
    pub entries: u64,
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
    pub recorded_as: Uuid,
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
        let (ring, slot) = Keyring::decode(file, unlock).map_err(|source| refused(paths, source))?;
        tracing::info!(slot = %slot, "the keyring is open");
        let mut keys = Self::fresh(ring, paths);
        let kek_id = keys.ring().slots().iter().find(|it| it.name == slot).map(|it| it.kek_id.clone());
        keys.opened_with = OpenedWith { name: slot, kek_id: kek_id.unwrap_or_default() };
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
    pub(super) fn fresh(ring: Keyring, paths: &KeyPaths) -> Self {
        Self {
            ring: RwLock::new(Arc::new(ring)),
            digest: Mutex::default(),
            opened_with: OpenedWith { name: MAIN_SLOT.to_owned(), kek_id: String::new() },
            barred: Mutex::default(),
            paths: paths.clone(),
            unplaced: Mutex::new(false),
        }
    }

    /// Whether one of these entries is sealed under what is about to be destroyed; it must be sealed anew.
    pub(super) fn bars(&self, entries: &[Prepared]) -> bool {
        let barred = *self.barred.lock().unwrap_or_else(PoisonError::into_inner);
        barred.is_some_and(|barred| {
            entries.iter().any(|entry| match (barred, seal::counted_under(&entry.sealed)) {
                (Barred::Version(barred), (version, _)) => version == barred,
                (Barred::Bucket(barred), (_, bucket)) => bucket == barred,
            })
        })
    }

    /// Lets nothing more in under what is about to be destroyed, until the guard is dropped.
    pub(super) fn bar(&self, what: Barred) -> Bar<'_> {
        *self.barred.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
        Bar(self)
    }

    /// The keyring of now.
    pub(super) fn ring(&self) -> Arc<Keyring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// See [`Keys::bar`].
pub(super) struct Bar<'a>(&'a Keys);

impl Drop for Bar<'_> {
    fn drop(&mut self) {
        *self.0.barred.lock().unwrap_or_else(PoisonError::into_inner) = None;
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
        let usage = self.store.usage()?;
        let entries = |version| {
            let under = usage.iter().filter(|it| it.version == version).map(|it| it.entries);
            u64::try_from(under.sum::<i64>()).unwrap_or(0)
        };
        let versions = ring.versions().iter().map(|it| KeyVersion {
            version: it.version,
            state: it.state,
            created_at: it.created_at,
            retired_at: it.retired_at,
            destroyed_at: it.destroyed_at,
            entries: entries(it.version),
        });
        Ok(KeyList {
            keyring_generation: ring.generation(),
            active: ring.newest().version,
            versions: versions.collect(),
            slots: ring.slots().iter().map(|it| it.name.clone()).collect(),
            opened_with: self.keys.opened_with.name.clone(),
            index_versions: ring.index_keys().iter().map(|it| it.version).collect(),
        })
    }

    /// Makes a new data-key version, at once; the ones before reveal only.
    ///
    /// # Errors
    /// [`VaultError::Denied`], [`VaultError::Invalid`] without a reason, or what writing says.
    pub fn rotate_keys(&self, caller: &Caller, reason: ReasonIn) -> Result<Rotated, VaultError> {
        self.allow(caller, Permission::RotateKeys, Action::KEY_ROTATE)?;
        let reason = self.reason(caller, Action::KEY_ROTATE, reason)?;
        self.next_version(Note::new(caller, Action::KEY_ROTATE, reason))
    }

    /// Makes a new data-key version if the newest is past its cryptoperiod (SP 800-57 part 1, section 5.3) or has sealed as much
    /// as it should. Called now and then.
    ///
    /// # Errors
    /// As [`Vault::rotate_keys`].
    pub fn rotate_if_due(&self) -> Result<Option<Rotated>, VaultError> {
        let days = self.settings.rotate_days;
        let ring = self.keys.ring();
        let newest = ring.newest();
        let old = days > 0 && newest.created_at.plus_seconds(days * 86_400) <= self.clock.now();
        let sealed = self.counted(|it| it.version == newest.version)?;
        if !old && sealed < MOST_SEALED {
            return Ok(None);
        }
        let vault = super::record::vault_itself();
        self.next_version(Note::new(&vault, Action::KEY_ROTATE, super::record::default_reason())).map(Some)
    }

    fn next_version(&self, mut note: Note<'_>) -> Result<Rotated, VaultError> {
        let change = self.changing_keys();
        let before = self.keys.ring();
        if before.versions().len() >= MAX_VERSIONS {
            let detail = format!("A vault has at most {MAX_VERSIONS} data-key versions in its life.");
            return Err(super::approval::refused("", "too_many_versions", detail));
        }
        let after = before.rotated(self.clock.now());
        let (active, previous) = (after.newest().version, before.newest().version);
        note.facts.push(("active_version".into(), active.to_string()));
        note.facts.push(("retired_version".into(), previous.to_string()));
        let keyring_generation = after.generation();
        let recorded_as = self.change_keyring(change, note, after)?;
        Ok(Rotated { active, previous, keyring_generation, recorded_as })
    }

    /// Changes of the keyring come one after the other.
    pub(super) fn changing_keys(&self) -> Changing<'_> {
        self.keys.unplaced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the next keyring in place of the current one; gives back the id of the entry that records it.
    ///
    /// Order, and what is true if the process dies after each step: (1) the next keyring is written beside the current one:
    /// start-up removes it; (2) an entry records its generation and digest: start-up puts it in place; (3) it is renamed
    /// into place. Memory follows the entry, for that is what counts.
    pub(super) fn change_keyring(
        &self,
        mut unplaced: Changing<'_>,
        mut note: Note<'_>,
        after: Keyring,
    ) -> Result<Uuid, VaultError> {
        let keys = &self.keys;
        if *unplaced {
            keyfile::rename(&keys.paths.next_keyring(), &keys.paths.keyring)?;
            *unplaced = false;
        }
        let file = after.encode();
        let next = keys.paths.next_keyring();
        keyfile::remove(&next)?;
        keyfile::create_private(&next, file.as_bytes())?;
        fault::point("keyring-written");
        note.facts.extend(keyring_facts(&after, &file));
        let receipt = self.record(note)?;
        fault::point("keyring-recorded");
        *keys.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
        *unplaced = true;
        keyfile::rename(&next, &keys.paths.keyring)?;
        *unplaced = false;
        fault::point("keyring-placed");
        self.sign_now();
        Ok(receipt.id)
    }
}

/// Held while the keyring changes; see [`Keys::unplaced`].
pub(super) type Changing<'a> = MutexGuard<'a, bool>;

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
