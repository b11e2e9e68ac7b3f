//! The keyring: data-key versions, bucket secrets and the independent keys for index, state and cursors, sealed under the KEK.
//!
//! The file has two lines: a JSON header, and the sealed body in base64. The header holds the slots (`lock`) and is authenticated
//! with the body, so that neither generation nor KDF parameters can be edited. A keyring is never changed in place: each change
//! makes the next generation, which the ledger records with the file's digest.

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::domain::time::Timestamp;

use super::blind::IndexKey;
use super::kek::KekError;
use super::lock::Slot;
use super::seal::{Header, SealKeys};
use super::secret::Secret;

mod file;

pub use file::MAX_FILE_BYTES;

/// The bucket that every vault has.
pub const OWN_BUCKET: u32 = 1;
/// The class of the bucket that every vault has: its own entries, and what no retention class is set for. It never ends.
pub const OWN_CLASS: &str = "permanent";
/// The most former state keys that are kept.
const MAX_FORMER: usize = 16;

/// All keys of a vault but the signing key.
#[derive(Clone)]
pub struct Keyring {
    generation: u64,
    versions: Vec<DataKey>,
    buckets: Vec<Bucket>,
    index_keys: Vec<IndexKey>,
    state_key: Secret,
    /// State keys that were replaced: backups of the database may hold rows under them.
    former_state_keys: Vec<FormerKey>,
    cursor_key: Secret,
    slots: Vec<Slot>,
}

#[derive(Clone)]
struct FormerKey {
    retired_at: Timestamp,
    key: Secret,
}

/// One version of the data key.
#[derive(Clone)]
pub struct DataKey {
    /// Its number, from 1.
    pub version: u32,
    /// What may still be done with it.
    pub state: KeyState,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was retired.
    pub retired_at: Option<Timestamp>,
    /// When it was destroyed.
    pub destroyed_at: Option<Timestamp>,
    key: Option<Secret>,
}

/// What may be done with a key version (SP 800-57 part 1: active, deactivated, destroyed).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// Seals and reveals.
    Active,
    /// Reveals only.
    Retired,
    /// Gone; a tombstone stays.
    Destroyed,
}

/// What dies together: a retention class and the day it ends.
#[derive(Clone)]
pub struct Bucket {
    /// Its number, from 1.
    pub id: u32,
    /// Its retention class.
    pub class: String,
    /// From when its values may be disposed of; `None`: never.
    pub expires_at: Option<Timestamp>,
    /// The certificate of its disposal, once its secret is gone.
    pub certificate: Option<[u8; 16]>,
    secret: Option<Secret>,
}

impl Bucket {
    fn fresh(id: u32, class: &str, expires_at: Option<Timestamp>) -> Self {
        Self { id, class: class.to_owned(), expires_at, certificate: None, secret: Some(Secret::random()) }
    }
}

/// Why a keyring did not open.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyringError {
    /// Not a keyring, cut, or of another version.
    #[error("the file is no keyring of this version, or it is cut off")]
    Malformed,
    /// The KEK could not be made.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// The passphrase or key file is not the one it was locked with.
    #[error("the passphrase or key file is not the one this keyring was locked with")]
    WrongKey,
    /// The right key, but the bytes were altered.
    #[error("the keyring was altered or is damaged")]
    Altered,
}

impl Keyring {
    /// The keyring of a new vault: version 1, one bucket, fresh independent keys.
    pub fn create(now: Timestamp, slot: Slot) -> Self {
        Self {
            generation: 1,
            versions: vec![DataKey::fresh(1, now)],
            buckets: vec![Bucket::fresh(1, OWN_CLASS, None)],
            index_keys: vec![IndexKey { version: 1, key: Secret::random() }],
            state_key: Secret::random(),
            former_state_keys: Vec::new(),
            cursor_key: Secret::random(),
            slots: vec![slot],
        }
    }

    /// The next generation, with a new active data-key version; the one before reveals only from now on.
    pub fn rotated(&self, now: Timestamp) -> Self {
        let mut next = self.clone();
        next.generation += 1;
        for version in next.versions.iter_mut().filter(|it| it.state == KeyState::Active) {
            version.state = KeyState::Retired;
            version.retired_at = Some(now);
        }
        next.versions.push(DataKey::fresh(self.newest().version + 1, now));
        next
    }

    /// The generation, from 1.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// All data-key versions by rising number.
    pub fn versions(&self) -> &[DataKey] {
        &self.versions
    }

    /// The newest data-key version, which seals.
    pub fn newest(&self) -> &DataKey {
        self.versions.last().expect("a keyring is never without a version")
    }

    /// The keys that seal now, in a bucket whose secret is there.
    pub fn sealing(&self, bucket: u32) -> Option<SealKeys<'_>> {
        let newest = self.newest();
        let bucket = self.bucket(bucket)?;
        Some(SealKeys {
            version: newest.version,
            data_key: newest.key.as_ref()?,
            bucket: bucket.id,
            bucket_secret: bucket.secret.as_ref()?,
        })
    }

    /// All buckets by rising number.
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// A bucket.
    pub fn bucket(&self, id: u32) -> Option<&Bucket> {
        self.buckets.iter().find(|it| it.id == id)
    }

    /// The bucket of a class and end, if there is one that is not disposed of.
    pub fn bucket_of(&self, class: &str, expires_at: Option<Timestamp>) -> Option<&Bucket> {
        self.buckets.iter().find(|it| it.class == class && it.expires_at == expires_at && it.certificate.is_none())
    }

    /// The next generation, with a bucket more.
    pub fn with_bucket(&self, class: &str, expires_at: Option<Timestamp>) -> Self {
        let mut next = self.clone();
        next.generation += 1;
        let id = self.buckets.last().map_or(1, |it| it.id + 1);
        next.buckets.push(Bucket::fresh(id, class, expires_at));
        next
    }

    /// The next generation, without the secret of a bucket; a tombstone with the certificate stays. `None` when there is no
    /// such bucket, it is gone already, or it is the vault's own.
    pub fn without_bucket(&self, id: u32, certificate: [u8; 16]) -> Option<Self> {
        let mut next = self.clone();
        next.generation += 1;
        let found = next.buckets.iter_mut().find(|it| it.id == id && it.id != OWN_BUCKET && it.secret.is_some())?;
        (found.certificate, found.secret) = (Some(certificate), None);
        Some(next)
    }

    /// The slots that open it.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The next generation with these slots.
    pub fn with_slots(&self, slots: Vec<Slot>) -> Self {
        Self { generation: self.generation + 1, slots, ..self.clone() }
    }

    /// The keys a sealed record needs, unless they were destroyed or never existed.
    pub fn opening(&self, header: Header) -> Option<SealKeys<'_>> {
        let version = self.versions.iter().find(|it| it.version == header.version)?;
        let bucket = self.buckets.iter().find(|it| it.id == header.bucket)?;
        Some(SealKeys {
            version: version.version,
            data_key: version.key.as_ref()?,
            bucket: bucket.id,
            bucket_secret: bucket.secret.as_ref()?,
        })
    }

    /// The keys of a version that seal again what is under older keys of the same bucket.
    pub fn resealing(&self, header: Header, version: u32) -> Option<SealKeys<'_>> {
        let newest = self.versions.iter().find(|it| it.version == version)?;
        let bucket = self.buckets.iter().find(|it| it.id == header.bucket)?;
        Some(SealKeys {
            version: newest.version,
            data_key: newest.key.as_ref()?,
            bucket: bucket.id,
            bucket_secret: bucket.secret.as_ref()?,
        })
    }

    /// The next generation, without the key of a retired version; a tombstone stays. `None` when there is no such version, or
    /// it seals, or is gone already.
    pub fn without_version(&self, version: u32, now: Timestamp) -> Option<Self> {
        let mut next = self.clone();
        next.generation += 1;
        let found = next.versions.iter_mut().find(|it| it.version == version && it.state == KeyState::Retired)?;
        (found.state, found.destroyed_at, found.key) = (KeyState::Destroyed, Some(now), None);
        Some(next)
    }

    /// Whether these keys exist or existed; a record that names others was altered.
    pub fn knows(&self, header: Header) -> bool {
        let version = self.versions.iter().any(|it| it.version == header.version);
        version && self.buckets.iter().any(|it| it.id == header.bucket)
    }

    /// The next generation, with a new blind index key for new entries; the ones before still find what they index.
    pub fn with_index_key(&self) -> Self {
        let mut next = self.clone();
        next.generation += 1;
        let version = self.index_keys.last().map_or(1, |it| it.version + 1);
        next.index_keys.push(IndexKey { version, key: Secret::random() });
        next
    }

    /// The next generation, without an older blind index key; `None` when there is none of that version, or it is the newest.
    pub fn without_index_key(&self, version: u32) -> Option<Self> {
        let mut next = self.clone();
        next.generation += 1;
        let older = self.index_keys.split_last()?.1;
        let place = older.iter().position(|it| it.version == version)?;
        next.index_keys.remove(place);
        Some(next)
    }

    /// The next generation, with a new key for state rows and one for cursors. The one before stays for rows of restored backups;
    /// what was replaced before `kept_since` goes.
    pub fn with_state_key(&self, now: Timestamp, kept_since: Timestamp) -> Self {
        let mut next = self.clone();
        next.generation += 1;
        let before = std::mem::replace(&mut next.state_key, Secret::random());
        next.former_state_keys.retain(|it| it.retired_at >= kept_since);
        next.former_state_keys.push(FormerKey { retired_at: now, key: before });
        let most = next.former_state_keys.len().saturating_sub(MAX_FORMER);
        next.former_state_keys.drain(..most);
        next.cursor_key = Secret::random();
        next
    }

    /// All blind index keys by rising version; the last one is used for new entries.
    pub fn index_keys(&self) -> &[IndexKey] {
        &self.index_keys
    }

    /// Every secret by what it is, for those who look whether they stand where they must not.
    pub fn secrets(&self) -> impl Iterator<Item = (String, &[u8; 32])> {
        let versions = self.versions.iter().map(|it| (format!("data key {}", it.version), it.key.as_ref()));
        let buckets = self.buckets.iter().map(|it| (format!("bucket {}", it.id), it.secret.as_ref()));
        let index = self.index_keys.iter().map(|it| (format!("index key {}", it.version), Some(&it.key)));
        let own = [("state key".to_owned(), Some(&self.state_key)), ("cursor key".to_owned(), Some(&self.cursor_key))];
        let former = self.former_state_keys.iter().map(|it| ("former state key".to_owned(), Some(&it.key)));
        let all = versions.chain(buckets).chain(index).chain(own).chain(former);
        all.filter_map(|(what, secret)| Some((what, secret?.expose())))
    }

    /// The key that seals and authenticates state rows.
    pub fn state_key(&self) -> &Secret {
        &self.state_key
    }

    /// The keys that may have sealed a state row, the one of now first.
    pub fn state_keys(&self) -> impl Iterator<Item = &Secret> {
        std::iter::once(&self.state_key).chain(self.former_state_keys.iter().rev().map(|it| &it.key))
    }

    /// The key that authenticates cursors.
    pub fn cursor_key(&self) -> &Secret {
        &self.cursor_key
    }
}

impl DataKey {
    fn fresh(version: u32, now: Timestamp) -> Self {
        let key = Some(Secret::random());
        Self { version, state: KeyState::Active, created_at: now, retired_at: None, destroyed_at: None, key }
    }
}

/// What an entry records of a keyring file: its SHA-256.
pub fn file_digest(file: &str) -> String {
    hex::encode(Sha256::digest(file.as_bytes()))
}

#[cfg(test)]
mod tests;
