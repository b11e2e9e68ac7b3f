//! The keyring's file: header and body, and how it is sealed.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::crypto::blind::IndexKey;
use crate::crypto::kek::Unlock;
use crate::crypto::label;
use crate::crypto::lock::{self, Slot};
use crate::crypto::secret::Secret;
use crate::domain::canonical::{put_prefixed, take_prefixed, utf8};
use crate::domain::time::Timestamp;

use super::{Bucket, DataKey, FormerKey, KeyState, Keyring, KeyringError, OWN_BUCKET};

/// The largest keyring file that is read, in bytes.
pub const MAX_FILE_BYTES: usize = 4 * 1024 * 1024;
const FORMAT: &str = "phivault-keyring-v1";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileHeader {
    format: String,
    generation: u64,
    slots: Vec<Slot>,
    wraps: Vec<String>,
    salt: String,
}

impl Keyring {
    /// The file, sealed under a fresh master key that every slot opens.
    pub fn encode(&self) -> String {
        let master = Secret::random();
        let wrap = |slot: &Slot| slot.wrap(&master).expect("a slot is checked before it gets into a keyring");
        let header = FileHeader {
            format: FORMAT.into(),
            generation: self.generation,
            slots: self.slots.clone(),
            wraps: self.slots.iter().map(wrap).collect(),
            salt: lock::salt(),
        };
        let line = serde_json::to_string(&header).expect("the header is plain text and numbers");
        let (cipher, nonce) = body_cipher(&master, &header.salt).expect("the salt was just made");
        let body = self.body();
        let sealed = cipher
            .encrypt(&nonce, Payload { msg: &body, aad: line.as_bytes() })
            .expect("a keyring is far below the 64 GiB that AES-GCM takes");
        format!("{line}\n{}\n", STANDARD.encode(sealed))
    }

    /// Opens a file; says which slot opened it.
    ///
    /// # Errors
    /// [`KeyringError`], which tells a wrong key from a damaged file.
    pub fn decode(file: &str, unlock: &Unlock) -> Result<(Self, String), KeyringError> {
        let (header, line, sealed) = split(file)?;
        let (master, slot) = lock::open(&header.slots, &header.wraps, unlock)?;
        let (cipher, nonce) = body_cipher(&master, &header.salt).ok_or(KeyringError::Malformed)?;
        let body = cipher
            .decrypt(&nonce, Payload { msg: &sealed, aad: line.as_bytes() })
            .map_err(|_| KeyringError::Altered)?;
        let keyring = Self::parse(&Zeroizing::new(body)).ok_or(KeyringError::Malformed)?;
        if !header.slots.iter().all(Slot::is_sound) {
            return Err(KeyringError::Malformed);
        }
        Ok((Self { generation: header.generation, slots: header.slots, ..keyring }, slot))
    }

    pub(super) fn body(&self) -> Zeroizing<Vec<u8>> {
        // Room for all of it at once, so that growing leaves no copies behind.
        let room = 1024
            + 128 * (self.versions.len() + self.index_keys.len())
            + 512 * self.buckets.len()
            + 64 * self.former_state_keys.len();
        let mut out = Zeroizing::new(Vec::with_capacity(room));
        let capacity = out.capacity();
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
            for time in [it.retired_at, it.destroyed_at] {
                out.extend_from_slice(&time.map_or(i64::MIN, |it| it.0).to_be_bytes());
            }
            secret(&mut out, it.key.as_ref());
        }
        count(&mut out, self.buckets.len());
        for it in &self.buckets {
            out.extend_from_slice(&it.id.to_be_bytes());
            put_prefixed(&mut out, it.class.as_bytes());
            out.extend_from_slice(&it.expires_at.map_or(i64::MAX, |it| it.0).to_be_bytes());
            put_prefixed(&mut out, it.certificate.as_ref().map_or(&[], |it| it.as_slice()));
            secret(&mut out, it.secret.as_ref());
        }
        count(&mut out, self.index_keys.len());
        for it in &self.index_keys {
            out.extend_from_slice(&it.version.to_be_bytes());
            secret(&mut out, Some(&it.key));
        }
        secret(&mut out, Some(&self.state_key));
        secret(&mut out, Some(&self.cursor_key));
        // Absent while there are none, as in the first files of this format.
        if !self.former_state_keys.is_empty() {
            count(&mut out, self.former_state_keys.len());
            for it in &self.former_state_keys {
                out.extend_from_slice(&it.retired_at.0.to_be_bytes());
                secret(&mut out, Some(&it.key));
            }
        }
        debug_assert_eq!(out.capacity(), capacity, "it had to grow, which leaves copies of keys behind");
        out
    }

    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let mut rest = body;
        let mut versions = Vec::new();
        for _ in 0..take_u32(&mut rest)? {
            versions.push(DataKey::parse(&mut rest)?);
        }
        let mut buckets = Vec::new();
        for _ in 0..take_u32(&mut rest)? {
            let id = take_u32(&mut rest)?;
            let class = utf8(take_prefixed(&mut rest).ok()?).ok()?.to_owned();
            let expires_at = Some(i64::from_be_bytes(take(&mut rest)?)).filter(|it| *it != i64::MAX).map(Timestamp);
            let certificate = match take_prefixed(&mut rest).ok()? {
                [] => None,
                bytes => Some(bytes.try_into().ok()?),
            };
            buckets.push(Bucket { id, class, expires_at, certificate, secret: take_secret(&mut rest)? });
        }
        let mut index_keys = Vec::new();
        for _ in 0..take_u32(&mut rest)? {
            index_keys.push(IndexKey { version: take_u32(&mut rest)?, key: take_secret(&mut rest)?? });
        }
        let (state_key, cursor_key) = (take_secret(&mut rest)??, take_secret(&mut rest)??);
        let mut former_state_keys = Vec::new();
        if !rest.is_empty() {
            let some = take_u32(&mut rest).filter(|it| *it > 0)?;
            for _ in 0..some {
                let retired_at = Timestamp(i64::from_be_bytes(take(&mut rest)?));
                former_state_keys.push(FormerKey { retired_at, key: take_secret(&mut rest)?? });
            }
        }
        let sound = rest.is_empty()
            && versions.last().is_some_and(|it: &DataKey| it.state == KeyState::Active && it.key.is_some())
            && versions.is_sorted_by(|a, b| a.version < b.version)
            && versions.iter().all(|it| it.key.is_some() == (it.state != KeyState::Destroyed))
            && buckets.first().is_some_and(|it: &Bucket| it.id == OWN_BUCKET && it.secret.is_some())
            && buckets.is_sorted_by(|a, b| a.id < b.id)
            && buckets.iter().all(|it| it.secret.is_some() == it.certificate.is_none())
            && !index_keys.is_empty();
        let (generation, slots) = (0, Vec::new());
        sound.then_some(Self {
            generation,
            versions,
            buckets,
            index_keys,
            state_key,
            former_state_keys,
            cursor_key,
            slots,
        })
    }
}

impl DataKey {
    fn parse(rest: &mut &[u8]) -> Option<Self> {
        let version = take_u32(rest)?;
        let state = match take::<1>(rest)? {
            [1] => KeyState::Active,
            [2] => KeyState::Retired,
            [3] => KeyState::Destroyed,
            _ => return None,
        };
        let created_at = Timestamp(i64::from_be_bytes(take(rest)?));
        let (retired_at, destroyed_at) = (take_time(rest)?, take_time(rest)?);
        Some(Self { version, state, created_at, retired_at, destroyed_at, key: take_secret(rest)? })
    }
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
fn body_cipher(master: &Secret, salt: &str) -> Option<(Aes256Gcm, Nonce<aes_gcm::aead::consts::U12>)> {
    let salt: [u8; 32] = hex::decode(salt).ok()?.try_into().ok()?;
    let mut okm = Zeroizing::new([0_u8; 44]);
    Hkdf::<Sha256>::new(Some(&salt), master.expose()).expand(label::KEYRING, okm.as_mut_slice()).ok()?;
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

#[expect(clippy::option_option, reason = "malformed and not yet are different answers")]
fn take_time(rest: &mut &[u8]) -> Option<Option<Timestamp>> {
    Some(Some(i64::from_be_bytes(take(rest)?)).filter(|it| *it != i64::MIN).map(Timestamp))
}

/// A secret, or `None` within when it was destroyed.
#[expect(clippy::option_option, reason = "malformed and destroyed are different answers")]
fn take_secret(rest: &mut &[u8]) -> Option<Option<Secret>> {
    let bytes = take_prefixed(rest).ok()?;
    if bytes.is_empty() { Some(None) } else { Secret::from_slice(bytes).map(Some) }
}
