//! The keys of the blind index: a new one for new entries, older ones beside it for what they index, or gone.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::crypto::keyring::Keyring;
use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::submission::ReasonIn;

use super::Vault;
use super::approval::{By, refused};
use super::error::VaultError;
use super::record::Note;

/// The most blind index keys beside each other: each search for a patient looks under all of them.
const MAX_INDEX_KEYS: usize = 16;

/// The blind index keys.
#[derive(Serialize, ToSchema)]
pub struct IndexKeys {
    /// Their versions; the last one is used for new entries.
    pub index_versions: Vec<u32>,
    /// The generation of the keyring file.
    pub keyring_generation: u64,
    /// The entry that records it.
    pub recorded_as: Uuid,
}

impl Vault {
    /// Makes a new blind index key, for new entries. Older entries stay under theirs and are found as before; a patient's chain of
    /// running numbers begins anew under the new key, and `trail` goes on from one to the next.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `Invalid`, or what writing says.
    pub fn rotate_index_key(&self, caller: &Caller, reason: ReasonIn) -> Result<IndexKeys, VaultError> {
        self.allow(caller, Permission::RotateKeys, Action::KEY_INDEX)?;
        let reason = self.reason(caller, Action::KEY_INDEX, reason)?;
        let change = self.changing_keys();
        let ring = self.keys.ring();
        if ring.index_keys().len() >= MAX_INDEX_KEYS {
            let detail = format!("There are {MAX_INDEX_KEYS} index keys beside each other; destroy an old one first.");
            return Err(refused("", "too_many_index_keys", detail));
        }
        let after = ring.with_index_key();
        self.put_index(change, Note::new(caller, Action::KEY_INDEX, reason), after)
    }

    /// The keyring without an older index key.
    pub(super) fn index_without(&self, version: u32) -> Result<Keyring, VaultError> {
        if self.in_force(&self.holds())?.names_a_patient() {
            let detail = "A legal hold on a patient is in force; without this key nobody could tell which older entries it covers.";
            return Err(refused("", "held", detail));
        }
        self.keys.ring().without_index_key(version).ok_or_else(|| {
            let detail = "There is no older index key of that version; the newest one is in use.";
            refused("/version", "unknown_version", detail)
        })
    }

    /// Destroys an older index key.
    pub(super) fn destroy_index(&self, by: &By<'_>, version: u32) -> Result<IndexKeys, VaultError> {
        let change = self.changing_keys();
        let after = self.index_without(version)?;
        let mut note = by.note(Action::KEY_INDEX);
        note.facts.push(("destroyed_index_version".into(), version.to_string()));
        self.put_index(change, note, after)
    }

    fn put_index(
        &self,
        change: super::keys::Changing<'_>,
        mut note: Note<'_>,
        after: Keyring,
    ) -> Result<IndexKeys, VaultError> {
        let index_versions: Vec<_> = after.index_keys().iter().map(|it| it.version).collect();
        let all = index_versions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        note.facts.push(("index_versions".into(), all));
        let keyring_generation = after.generation();
        let recorded_as = self.change_keyring(change, note, after)?;
        Ok(IndexKeys { index_versions, keyring_generation, recorded_as })
    }
}
