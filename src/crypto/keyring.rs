//! The keyring: data-key versions, bucket secrets and the independent keys for index, state and cursors, sealed under the KEK.
//!
//! The file has two lines: a JSON header, and the sealed body in base64. The header is authenticated with the body, so
//! neither generation nor KDF parameters can be edited. A keyring is never changed in place: each change makes the next
//! generation, which the ledger records with the file's digest.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::domain::canonical::{put_prefixed, take_prefixed, utf8};
use crate::domain::time::Timestamp;

use super::blind::IndexKey;
use super::kek::{Kek, KekError, KekSpec, Unlock};
use super::label;
use super::random;
use super::seal::{Header, SealKeys};
use super::secret::Secret;

/// The largest keyring file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 4 * 1024 * 1024;
const FORMAT: &str = "phivault-keyring-v1";

/// All keys of a vault but the signing key.
#[derive(Clone)]
pub struct Keyring {
    generation: u64,
    versions: Vec<DataKey>,
    buckets: Vec<Bucket>,
    index_keys: Vec<IndexKey>,
    state_key: Secret,
    cursor_key: Secret,
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

/// What dies together: a retention class and period.
#[derive(Clone)]
pub struct Bucket {
    /// Its number, from 1.
    pub id: u32,
    /// Its class and period, such as `default`.
    pub label: String,
    secret: Option<Secret>,
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileHeader {
    format: String,
    generation: u64,
    kek_id: String,
    kek: KekSpec,
    salt: String,
}

impl Keyring {
    /// The keyring of a new vault: version 1, one bucket, fresh independent keys.
    pub fn create(now: Timestamp) -> Self {
        Self {
            generation: 1,
            versions: vec![DataKey::fresh(1, now)],
            buckets: vec![Bucket { id: 1, label: "default".into(), secret: Some(Secret::random()) }],
            index_keys: vec![IndexKey { version: 1, key: Secret::random() }],
            state_key: Secret::random(),
            cursor_key: Secret::random(),
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

    /// The keys that seal now.
    pub fn sealing(&self) -> SealKeys<'_> {
        let newest = self.newest();
        let bucket = self.buckets.last().expect("a keyring is never without a bucket");
        SealKeys {
            version: newest.version,
            data_key: newest.key.as_ref().expect("the newest version is never destroyed"),
            bucket: bucket.id,
            bucket_secret: bucket.secret.as_ref().expect("the newest bucket is never destroyed"),
        }
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

    /// Whether these keys exist or existed; a record that names others was altered.
    pub fn knows(&self, header: Header) -> bool {
        let version = self.versions.iter().any(|it| it.version == header.version);
        version && self.buckets.iter().any(|it| it.id == header.bucket)
    }

    /// All blind index keys by rising version; the last one is used for new entries.
    pub fn index_keys(&self) -> &[IndexKey] {
        &self.index_keys
    }

    /// The key that authenticates state rows.
    pub fn state_key(&self) -> &Secret {
        &self.state_key
    }

    /// The key that authenticates cursors.
    pub fn cursor_key(&self) -> &Secret {
        &self.cursor_key
    }

    /// The file, sealed under `kek` with a fresh salt.
    pub fn encode(&self, kek: &Kek) -> String {
        let header = FileHeader {
            format: FORMAT.into(),
            generation: self.generation,
            kek_id: kek.id().to_owned(),
            kek: kek.spec().clone(),
            salt: hex::encode(random::array::<32>()),
        };
        let line = serde_json::to_string(&header).expect("the header is plain text and numbers");
        let (cipher, nonce) = body_cipher(kek, &header.salt).expect("the salt was just made");
        let body = self.body();
        let sealed = cipher
            .encrypt(&nonce, Payload { msg: &body, aad: line.as_bytes() })
            .expect("a keyring is far below the 64 GiB that AES-GCM takes");
        format!("{line}\n{}\n", STANDARD.encode(sealed))
    }

    /// Opens a file.
    ///
    /// # Errors
    /// [`KeyringError`], which tells a wrong key from a damaged file.
    pub fn decode(file: &str, unlock: &Unlock) -> Result<(Self, Kek), KeyringError> {
        let (header, line, sealed) = split(file)?;
        let kek = Kek::derive(header.kek, unlock)?;
        if kek.id() != header.kek_id {
            return Err(KeyringError::WrongKey);
        }
        let (cipher, nonce) = body_cipher(&kek, &header.salt).ok_or(KeyringError::Malformed)?;
        let body = cipher
            .decrypt(&nonce, Payload { msg: &sealed, aad: line.as_bytes() })
            .map_err(|_| KeyringError::Altered)?;
        let mut keyring = Self::parse(&Zeroizing::new(body)).ok_or(KeyringError::Malformed)?;
        keyring.generation = header.generation;
        Ok((keyring, kek))
    }

    fn body(&self) -> Zeroizing<Vec<u8>> {
        // Room for all of it at once, so that growing leaves no copies behind.
        let room = 1024 + 128 * (self.versions.len() + self.index_keys.len()) + 512 * self.buckets.len();
        let mut out = Zeroizing::new(Vec::with_capacity(room));
        let secret =
            |out: &mut Vec<u8>, secret: Option<&Secret>| put_prefixed(out, secret.map_or(&[], |it| it.expose()));
        let count = |out: &mut Vec<u8>, count: usize| {
            out.extend_from_slice(&u32::try_from(count).expect("a keyring holds few keys").to_be_bytes());
        };
        count(&mut out, self.versions.len());
        for it in &self.versions {
            out.extend_from_slice(&it.version.to_be_bytes());
            out.push(match it.state {
                KeyState::Active => 1,
                KeyState::Retired => 2,
                KeyState::Destroyed => 3,
            });
            out.extend_from_slice(&it.created_at.0.to_be_bytes());
            out.extend_from_slice(&it.retired_at.map_or(i64::MIN, |it| it.0).to_be_bytes());
            secret(&mut out, it.key.as_ref());
        }
        count(&mut out, self.buckets.len());
        for it in &self.buckets {
            out.extend_from_slice(&it.id.to_be_bytes());
            put_prefixed(&mut out, it.label.as_bytes());
            secret(&mut out, it.secret.as_ref());
        }
        count(&mut out, self.index_keys.len());
        for it in &self.index_keys {
            out.extend_from_slice(&it.version.to_be_bytes());
            secret(&mut out, Some(&it.key));
        }
        secret(&mut out, Some(&self.state_key));
        secret(&mut out, Some(&self.cursor_key));
        out
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let mut rest = body;
        let mut versions = Vec::new();
        for _ in 0..take_u32(&mut rest)? {
            versions.push(DataKey::parse(&mut rest)?);
        }
        let mut buckets = Vec::new();
        for _ in 0..take_u32(&mut rest)? {
            let id = take_u32(&mut rest)?;
            let label = utf8(take_prefixed(&mut rest).ok()?).ok()?.to_owned();
            buckets.push(Bucket { id, label, secret: take_secret(&mut rest)? });
        }
        let mut index_keys = Vec::new();
        for _ in 0..take_u32(&mut rest)? {
            index_keys.push(IndexKey { version: take_u32(&mut rest)?, key: take_secret(&mut rest)?? });
        }
        let (state_key, cursor_key) = (take_secret(&mut rest)??, take_secret(&mut rest)??);
        let sound = rest.is_empty()
            && versions.last().is_some_and(|it: &DataKey| it.state == KeyState::Active && it.key.is_some())
            && versions.is_sorted_by(|a, b| a.version < b.version)
            && buckets.last().is_some_and(|it: &Bucket| it.secret.is_some())
            && !index_keys.is_empty();
        sound.then_some(Self { generation: 0, versions, buckets, index_keys, state_key, cursor_key })
    }
}

impl DataKey {
    fn fresh(version: u32, now: Timestamp) -> Self {
        Self { version, state: KeyState::Active, created_at: now, retired_at: None, key: Some(Secret::random()) }
    }

    fn parse(rest: &mut &[u8]) -> Option<Self> {
        let version = take_u32(rest)?;
        let state = match take::<1>(rest)? {
            [1] => KeyState::Active,
            [2] => KeyState::Retired,
            [3] => KeyState::Destroyed,
            _ => return None,
        };
        let created_at = Timestamp(i64::from_be_bytes(take(rest)?));
        let retired_at = Some(i64::from_be_bytes(take(rest)?)).filter(|it| *it != i64::MIN).map(Timestamp);
        Some(Self { version, state, created_at, retired_at, key: take_secret(rest)? })
    }
}

/// What an entry records of a keyring file: its SHA-256.
pub fn file_digest(file: &str) -> String {
    hex::encode(Sha256::digest(file.as_bytes()))
}

/// How a keyring file says it is locked, read without opening it.
///
/// # Errors
/// [`KeyringError::Malformed`].
pub fn locked_with(file: &str) -> Result<KekSpec, KeyringError> {
    split(file).map(|(header, _, _)| header.kek)
}

fn split(file: &str) -> Result<(FileHeader, &str, Vec<u8>), KeyringError> {
    let malformed = KeyringError::Malformed;
    if file.len() > MAX_FILE_BYTES {
        return Err(malformed);
    }
    let Some((line, body)) = file.split_once('\n') else { return Err(malformed) };
    let Some(body) = body.strip_suffix('\n') else { return Err(malformed) };
    match (serde_json::from_str::<FileHeader>(line), STANDARD.decode(body)) {
        (Ok(header), Ok(sealed)) if header.format == FORMAT => Ok((header, line, sealed)),
        _ => Err(malformed),
    }
}

/// The single-use cipher of a file's body: the salt is fresh at every writing.
fn body_cipher(kek: &Kek, salt: &str) -> Option<(Aes256Gcm, Nonce<aes_gcm::aead::consts::U12>)> {
    let salt: [u8; 32] = hex::decode(salt).ok()?.try_into().ok()?;
    let mut okm = Zeroizing::new([0_u8; 44]);
    Hkdf::<Sha256>::new(Some(&salt), kek.key().expose()).expand(label::KEYRING, okm.as_mut_slice()).ok()?;
    let key = Key::<Aes256Gcm>::try_from(&okm[..32]).ok()?;
    Some((Aes256Gcm::new(&key), Nonce::try_from(&okm[32..]).ok()?))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_at_checked(N)?;
    *rest = tail;
    head.try_into().ok()
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    take(rest).map(u32::from_be_bytes)
}

/// A secret, or `None` within when it was destroyed.
#[expect(clippy::option_option, reason = "malformed and destroyed are different answers")]
fn take_secret(rest: &mut &[u8]) -> Option<Option<Secret>> {
    let bytes = take_prefixed(rest).ok()?;
    if bytes.is_empty() { Some(None) } else { Secret::from_slice(bytes).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = "{\"format\":\"phivault-keyring-v1\",\"generation\":2,\"kek_id\":\"9a0e059a9b8ef7acd73103b6a4d3cc6f\",\"kek\":{\"kind\":\"key_file\"},\"salt\":\"6cac4faa181fc2e08ff2e828027248c1e539c58e31ad2c84119a4de1d75efa6e\"}\n9yrHxJykptLSFQNyBXEToimxldFKSkayRrTbN7PY71OPWtqGqUdfSvE28cJILe1otpsoAfbJd+is4yuM42RGOBcSEmTYaybIH5MCIquC7TJcTRBRqHxieOFVpqM9kwgNQtRbWKWTG87BdYP5j2RTHSDwtKO4YIRTpbjSSWg7mHrAqCaJlrszMY0BoM7kwz62W15S8dLS8h/FN1cQ2jSzZP/xlkT8QRwPjt4gahUmqcvE74K/hxECdyGhcryLxqUUqQ6S/bATQ/XcTQ+5ji2oXqH6gZkNvE8VG5dFqvj+v6cncYys8r0bypL7C1nI51hnDrcA/yUBKQ86/CQZZ0m0XWlrikNVxqUeORkZJdupTdUSnygXPAPps+C8pAoDrw8+PWgQG2IxI0IXkGsiEylCBpQ=\n";

    fn unlock(byte: u8) -> Unlock {
        Unlock::KeyFile(Secret::new([byte; 32]))
    }

    fn kek(byte: u8) -> Kek {
        Kek::create(&unlock(byte), super::super::kek::Cost::default()).unwrap()
    }

    #[test]
    fn a_keyring_reads_back_with_all_its_keys() {
        let keyring = Keyring::create(Timestamp(5)).rotated(Timestamp(9));
        let file = keyring.encode(&kek(1));
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

    #[test]
    fn a_file_of_this_format_opens_for_ever() {
        let (ring, _) = Keyring::decode(GOLDEN, &unlock(1)).unwrap();
        assert_eq!((ring.generation(), ring.newest().version, ring.versions().len()), (2, 2, 2));
        assert_eq!(ring.versions()[0].retired_at, Some(Timestamp(9)));
    }

    #[test]
    fn a_wrong_key_is_told_from_a_damaged_file() {
        let file = Keyring::create(Timestamp(5)).encode(&kek(1));
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
        let keyring = Keyring::create(Timestamp(5));
        let file = keyring.encode(&kek(1));
        for secret in [&keyring.state_key, &keyring.cursor_key, keyring.versions[0].key.as_ref().unwrap()] {
            assert!(!file.contains(&hex::encode(secret.expose())) && !file.contains(&STANDARD.encode(secret.expose())));
        }
    }
}
