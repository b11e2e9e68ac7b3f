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
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use zeroize::Zeroizing;

    use super::*;
    use crate::crypto::kek::{Cost, Unlock};

    const GOLDEN: &str = "{\"format\":\"phivault-keyring-v1\",\"generation\":8,\"slots\":[{\"name\":\"main\",\"kek_id\":\"9a0e059a9b8ef7acd73103b6a4d3cc6f\",\"kek\":{\"kind\":\"key_file\"},\"public\":\"cca2f83ecb32eef976d95528ebd9e782137f99683207de21fb524559ad225e70\"},{\"name\":\"recovery\",\"kek_id\":\"a0e72045b62c994400e7decdcc6f2f03\",\"kek\":{\"kind\":\"passphrase\",\"cost\":{\"memory_kib\":8192,\"passes\":1,\"lanes\":1},\"salt\":\"7244b0bfcfcb1f7ab1682224c8928d38\"},\"public\":\"601ce274c580593a29d8d959f2fda77793bc546250a2a63bcff08b13e287ec5a\"}],\"wraps\":[\"12998e7c253589de27f71f7a7cd9230485b4e58dfdaf0e59d105794b72236a6fc74c6d6e8582a1afb91d6939bd51981ec039519832f19fa0c5a26bcf6f01fb92eb34fba95d8527f094c62780e5cafad3\",\"16f956dcc90d985504cfaf315029297bf5a91bf4fd619a90e93584dbc8a77246f9770c680d0da5d5f6e1530d8089650d5400282287b9087f4b9e15bb688018c8d22814987560f64754ee7cf0dd5ff4b3\"],\"salt\":\"143a15283ddf066480059d3217e0fe53651296ceef54687eb837845c25addbcf\"}\nwbtKcr6BgdemcYq9/HPjJfpDbs0E4TZzNe7etzFVxlFDcSOueAe+CVo9Cs/yadEFsA8QW+5hl9wivRQQolgwcoFFJKDZbXmPkj7YEKVeEZdVZ8GPetCmc/TFlU0kPgoBPLlSXAG2x/VlygJwX9CDz84LbM/5A2AXpMOjkFCKHO7xyHDFlcu4s2sLIXC23+fPBtpWUbt/UNobU2Fi1ajuVDElZGCIR/Kf41V1M2jyvcMERBGlRCFSbh/1qnTRSZBMYkV4F2haHVltMA4hT9qSk06m1P/jbTtdKz7zDbUuQKyPMV02tbIaZknldjdp4+iGxYNdS+vuY2ssx2SFg+lqEKwhQEaf16XOISVDQoFM8Hnyzf4SBuLuoH9FMc2kHLiKvRZcqUlIGsqtf76Bj0HlSSRYSQZiEtxQU6cYaMEYT3c8kYdlrGczneMERr6zPrHND+kg3z9CWuUqdv7ZM9BhBT8UOUkrUDFKBArb1t9lvDAfQ8YWepb7XD/JxCdyyHJxHGYmTkEvs/NPb6renzuHfPEf3aGCH5bUKd2+fKvf47I5+5PKvKYzBNezXVEc0/Q2TozqLA2kPjjNco6HWDgZj3c3jEkSJsIm8IRIVWzvoJMJOcnSalcJdYSy7c9HkI25Yf1+yIQ=\n";

    fn unlock(byte: u8) -> Unlock {
        Unlock::KeyFile(Secret::new([byte; 32]))
    }

    fn slot(byte: u8) -> Slot {
        Slot::of("main", &unlock(byte), super::super::kek::Cost::default()).unwrap()
    }

    #[test]
    fn a_keyring_reads_back_with_all_its_keys() {
        let keyring = Keyring::create(Timestamp(5), slot(1)).rotated(Timestamp(9));
        let file = keyring.encode();
        let (again, _) = Keyring::decode(&file, &unlock(1)).unwrap();
        assert_eq!(again.generation(), 2);
        assert!(*again.body() == *keyring.body());
        assert_eq!(again.newest().version, 2);
        assert_eq!(
            (again.versions()[0].state, again.versions()[0].retired_at),
            (KeyState::Retired, Some(Timestamp(9)))
        );
        assert!(again.opening(Header { version: 1, bucket: 1 }).is_some());
        assert!(again.opening(Header { version: 3, bucket: 1 }).is_none());
    }

    fn passphrase(text: &str) -> Unlock {
        Unlock::Passphrase(Zeroizing::new(text.as_bytes().to_vec()))
    }

    const CHEAP: Cost = Cost { memory_kib: 8 * 1024, passes: 1, lanes: 1 };

    /// Every state that a version and a bucket may be in, and two slots.
    fn rich() -> Keyring {
        let recovery = Slot::of("recovery", &passphrase("correct horse battery"), CHEAP).unwrap();
        let ring = Keyring::create(Timestamp(5), slot(1)).rotated(Timestamp(9)).rotated(Timestamp(11));
        let ring = ring.without_version(1, Timestamp(13)).unwrap();
        let ring = ring.with_bucket("standard", Some(Timestamp(77))).with_bucket("permanent-too", None);
        let ring = ring.without_bucket(2, [7; 16]).unwrap();
        let slots = vec![ring.slots()[0].clone(), recovery];
        ring.with_slots(slots)
    }

    #[test]
    fn a_file_of_this_format_opens_for_ever() {
        for unlock in [unlock(1), passphrase("correct horse battery")] {
            let (ring, slot) = Keyring::decode(GOLDEN, &unlock).unwrap();
            assert_eq!(slot, if matches!(unlock, Unlock::KeyFile(_)) { "main" } else { "recovery" });
            assert_eq!((ring.generation(), ring.newest().version), (8, 3));
            let states: Vec<_> = ring.versions().iter().map(|it| (it.state, it.destroyed_at)).collect();
            let destroyed = (KeyState::Destroyed, Some(Timestamp(13)));
            assert_eq!(states, [destroyed, (KeyState::Retired, None), (KeyState::Active, None)]);
            let buckets: Vec<_> =
                ring.buckets().iter().map(|it| (it.id, it.class.as_str(), it.expires_at, it.certificate)).collect();
            let gone = (2, "standard", Some(Timestamp(77)), Some([7; 16]));
            assert_eq!(buckets, [(1, "permanent", None, None), gone, (3, "permanent-too", None, None)]);
        }
        assert_eq!(Keyring::decode(GOLDEN, &passphrase("correct horse batterz")).err(), Some(KeyringError::WrongKey));
    }

    #[test]
    fn who_has_one_slot_opens_it_and_who_lost_theirs_does_not() {
        let ring = rich();
        let file = ring.encode();
        let (again, _) = Keyring::decode(&file, &passphrase("correct horse battery")).unwrap();
        assert!(*again.body() == *ring.body() && again.slots() == ring.slots());
        let mut slots = ring.slots().to_vec();
        slots.remove(1);
        let without = ring.with_slots(slots).encode();
        assert_eq!(
            Keyring::decode(&without, &passphrase("correct horse battery")).err().unwrap().to_string(),
            KeyringError::Kek(KekError::WrongKind("a key file")).to_string()
        );
        assert!(Keyring::decode(&without, &unlock(1)).is_ok());
    }

    #[test]
    fn what_was_once_a_master_key_opens_nothing_later() {
        let ring = rich();
        let (one, two) = (ring.encode(), ring.encode());
        let line = |file: &str| file.lines().next().unwrap().to_owned();
        // The wrapped keys of an older file in a newer one.
        let (mut old, mut new): (serde_json::Value, serde_json::Value) =
            (serde_json::from_str(&line(&one)).unwrap(), serde_json::from_str(&line(&two)).unwrap());
        assert_ne!(old["wraps"], new["wraps"]);
        new["wraps"] = old["wraps"].take();
        let mixed = format!("{new}\n{}\n", two.lines().nth(1).unwrap());
        assert_eq!(Keyring::decode(&mixed, &unlock(1)).err(), Some(KeyringError::Altered));
    }

    #[test]
    fn an_older_index_key_goes_and_the_newest_stays() {
        let ring = rich().with_index_key().with_index_key();
        let versions = |ring: &Keyring| ring.index_keys().iter().map(|it| it.version).collect::<Vec<_>>();
        assert_eq!(versions(&ring), [1, 2, 3]);
        assert_eq!(versions(&ring.without_index_key(2).unwrap()), [1, 3]);
        assert!(ring.without_index_key(3).is_none() && ring.without_index_key(9).is_none());
        let (again, _) = Keyring::decode(&ring.encode(), &unlock(1)).unwrap();
        assert_eq!(versions(&again), [1, 2, 3]);
    }

    #[test]
    fn what_is_destroyed_opens_nothing_and_what_stays_does() {
        let ring = rich();
        for (version, bucket, opens) in [(1, 1, false), (2, 1, true), (3, 1, true), (3, 2, false), (2, 3, true)] {
            let header = Header { version, bucket };
            assert!(ring.knows(header));
            assert_eq!(ring.opening(header).is_some(), opens, "{version}/{bucket}");
        }
        assert!(ring.sealing(2).is_none() && ring.sealing(3).is_some());
        assert!(ring.without_version(3, Timestamp(0)).is_none(), "what seals stays");
        assert!(ring.without_version(1, Timestamp(0)).is_none(), "what is gone is gone");
        assert!(ring.without_bucket(OWN_BUCKET, [0; 16]).is_none() && ring.without_bucket(2, [0; 16]).is_none());
        assert!(ring.bucket_of("standard", Some(Timestamp(77))).is_none());
    }

    #[test]
    fn a_wrong_key_is_told_from_a_damaged_file() {
        let file = Keyring::create(Timestamp(5), slot(1)).encode();
        assert_eq!(Keyring::decode(&file, &unlock(2)).err(), Some(KeyringError::WrongKey));
        let older = file.replace("\"generation\":1", "\"generation\":7");
        assert_eq!(Keyring::decode(&older, &unlock(1)).err(), Some(KeyringError::Altered));
        for cut in 0..file.len() {
            assert!(Keyring::decode(&file[..cut], &unlock(1)).is_err(), "cut at {cut}");
        }
        let body = file.find('\n').unwrap() + 5;
        let mut flipped = file.into_bytes();
        flipped[body] = if flipped[body] == b'A' { b'B' } else { b'A' };
        assert_eq!(
            Keyring::decode(std::str::from_utf8(&flipped).unwrap(), &unlock(1)).err(),
            Some(KeyringError::Altered)
        );
    }

    #[test]
    fn nothing_of_a_key_stands_in_the_file() {
        let keyring = Keyring::create(Timestamp(5), slot(1));
        let file = keyring.encode();
        for secret in [&keyring.state_key, &keyring.cursor_key, keyring.versions[0].key.as_ref().unwrap()] {
            assert!(!file.contains(&hex::encode(secret.expose())) && !file.contains(&STANDARD.encode(secret.expose())));
        }
    }
}
