//! Sealing the values of an entry, committing to them, opening them again.
//!
//! ```text
//! header    alg(1) || key version(4) || bucket(4) || salt(32)
//! key,nonce HKDF-SHA-256(ikm = data key || bucket secret, salt, info = label || alg || version || bucket || entry id) -> 32 + 12
//! plaintext entry_salt(32) || length(4) || items, padded with zeros to a multiple of 64 bytes
//! sealed    header || AES-256-GCM(key, nonce, aad = label || header || metadata)
//! C_f       SHA-256(label, salt_f, path, canonical value)    salt_f = HKDF-Expand(entry_salt, label || path)
//! C         SHA-256(label, C_f for each item by rising path, C of the blinder)
//! ```
//!
//! The salt is fresh at every encryption: a key derived from the entry id alone would repeat after a rollback or a
//! re-encryption, and AES-GCM breaks when a key and nonce repeat (SP 800-38D section 8). The commitment stands outside
//! the cipher, so re-encrypting or destroying keys never changes a leaf, and one value can be shown to a court with its own
//! salt and nothing else. The blinder makes the leaf of an entry without values unguessable too.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::domain::canonical::{put_prefixed, put_value, take_prefixed, take_value, utf8};
use crate::domain::rules::Item;
use crate::domain::value::Phi;

use super::label;
use super::mac;
use super::random;
use super::secret::Secret;

/// AES-256-GCM with HKDF-SHA-256, the only algorithm of this version of the format.
const ALG_AES_256_GCM: u8 = 1;
/// The values were erased; what follows is the bucket and the certificate.
const ALG_ERASED: u8 = 0;
/// Bytes of a header.
const HEADER_BYTES: usize = 1 + 4 + 4 + 32;
/// Plaintext grows in steps of this, so that its length says little.
const PAD_BYTES: usize = 64;
/// The path of the blinder; no item has it, since items never begin with a dot.
const BLINDER: &str = ".blinder";

/// The two secrets a sealed record needs: the data key of a version, and the secret of a bucket (what dies together).
pub struct SealKeys<'a> {
    /// The data-key version.
    pub version: u32,
    /// The data key.
    pub data_key: &'a Secret,
    /// The bucket.
    pub bucket: u32,
    /// The bucket's secret.
    pub bucket_secret: &'a Secret,
}

/// Which keys a sealed record needs, read from its header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The data-key version.
    pub version: u32,
    /// The bucket.
    pub bucket: u32,
}

/// Why a sealed record did not open. Deliberately says no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// The bytes are no sealed record of a known version.
    #[error("the sealed record is malformed or of an unknown version")]
    Malformed,
    /// The cipher refused: altered bytes, another entry's record, or a wrong key.
    #[error("the sealed record does not belong to this entry or was altered")]
    Rejected,
    /// It opened, but the values are not the ones the ledger committed to.
    #[error("the opened values are not those the ledger committed to")]
    NotCommitted,
}

/// A sealed record and the commitment to its values.
pub struct Sealed {
    /// Header and ciphertext.
    pub bytes: Vec<u8>,
    /// The commitment to all values.
    pub commitment: [u8; 32],
}

/// Seals the items of an entry. `items` must be sorted by path; `meta` are the entry's canonical metadata bytes.
pub fn seal(keys: &SealKeys<'_>, entry_id: &[u8; 16], meta: &[u8], items: &[Item]) -> Sealed {
    let entry_salt = Secret::new(random::array());
    let commitment = commit_all(&commitments(&entry_salt, items));
    Sealed { bytes: encrypt(keys, entry_id, meta, &plaintext(&entry_salt, items)), commitment }
}

/// Seals again what a record holds, under other keys. It is opened and held against its commitment first, and the commitment
/// stays as it is, for the entry's own salt goes along.
///
/// # Errors
/// As [`open`].
pub fn reseal(
    keys: (&SealKeys<'_>, &SealKeys<'_>),
    entry_id: &[u8; 16],
    meta: &[u8],
    sealed: &[u8],
    committed: &[u8; 32],
) -> Result<Vec<u8>, OpenError> {
    let (opened, _) = decrypt(keys.0, entry_id, meta, sealed, committed)?;
    Ok(encrypt(keys.1, entry_id, meta, &opened))
}

fn encrypt(keys: &SealKeys<'_>, entry_id: &[u8; 16], meta: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.push(ALG_AES_256_GCM);
    header.extend_from_slice(&keys.version.to_be_bytes());
    header.extend_from_slice(&keys.bucket.to_be_bytes());
    header.extend_from_slice(&random::array::<32>());
    let bytes = cipher(keys, &header, entry_id, |cipher, nonce| {
        cipher.encrypt(nonce, Payload { msg: plaintext, aad: &aad(&header, meta) })
    });
    let bytes = bytes.expect("a record is far below the 64 GiB that AES-GCM takes");
    [header, bytes].concat()
}

/// What stands in place of a record whose values were erased: which bucket it was in, and the certificate that says why.
pub fn erased(bucket: u32, certificate: &[u8; 16]) -> Vec<u8> {
    [&[ALG_ERASED], &bucket.to_be_bytes()[..], certificate].concat()
}

/// The bucket and the certificate of an erased record.
pub fn is_erased(sealed: &[u8]) -> Option<(u32, [u8; 16])> {
    let (head, certificate) = sealed.split_at_checked(5)?;
    let certificate = certificate.try_into().ok().filter(|_| head[0] == ALG_ERASED)?;
    Some((u32::from_be_bytes(head[1..].try_into().expect("four bytes are left")), certificate))
}

/// The data-key version and bucket that a record counts to; version 0 when its values were erased, or it is no record.
pub fn counted_under(sealed: &[u8]) -> (u32, u32) {
    match (header(sealed), is_erased(sealed)) {
        (Ok(header), _) => (header.version, header.bucket),
        (_, Some((bucket, _))) => (0, bucket),
        _ => (0, 0),
    }
}

/// Which keys a sealed record needs.
///
/// # Errors
/// [`OpenError::Malformed`].
pub fn header(sealed: &[u8]) -> Result<Header, OpenError> {
    if sealed.len() < HEADER_BYTES || sealed[0] != ALG_AES_256_GCM {
        return Err(OpenError::Malformed);
    }
    let number = |at: usize| u32::from_be_bytes(sealed[at..at + 4].try_into().expect("four bytes of a checked header"));
    Ok(Header { version: number(1), bucket: number(5) })
}

/// Opens a sealed record and checks that its values are the ones committed to.
///
/// # Errors
/// [`OpenError`]; nothing of the plaintext leaves on an error.
pub fn open(
    keys: &SealKeys<'_>,
    entry_id: &[u8; 16],
    meta: &[u8],
    sealed: &[u8],
    committed: &[u8; 32],
) -> Result<Vec<Item>, OpenError> {
    open_committed(keys, entry_id, meta, sealed, committed).map(|(_, items, _)| items)
}

/// What one value of an entry can be shown with, and checked against the entry's leaf.
pub struct Shown {
    /// The value and its path.
    pub item: Item,
    /// The salt of its commitment.
    pub salt: [u8; 32],
    /// Its place among the commitments.
    pub position: usize,
}

/// Opens a sealed record for a selective disclosure: the commitments to all values by rising path and to the blinder, and for
/// each value what it is shown with. A commitment tells nothing of its value without the salt.
///
/// # Errors
/// As [`open`].
pub fn open_for_disclosure(
    keys: &SealKeys<'_>,
    entry_id: &[u8; 16],
    meta: &[u8],
    sealed: &[u8],
    committed: &[u8; 32],
) -> Result<(Vec<[u8; 32]>, Vec<Shown>), OpenError> {
    let (entry_salt, items, commitments) = open_committed(keys, entry_id, meta, sealed, committed)?;
    let salts = Salts::new(&entry_salt);
    let shown = items.into_iter().enumerate().map(|(position, item)| {
        let salt = salts.of(&item.path);
        Shown { item, salt, position }
    });
    Ok((commitments, shown.collect()))
}

/// The commitment to all values, from the commitments to each.
pub fn commit_all(each: &[[u8; 32]]) -> [u8; 32] {
    let parts: Vec<&[u8]> = each.iter().map(<[u8; 32]>::as_slice).collect();
    mac::digest(label::COMMIT_ALL, &parts)
}

type Opened = (Secret, Vec<Item>, Vec<[u8; 32]>);

fn open_committed(
    keys: &SealKeys<'_>,
    entry_id: &[u8; 16],
    meta: &[u8],
    sealed: &[u8],
    committed: &[u8; 32],
) -> Result<Opened, OpenError> {
    decrypt(keys, entry_id, meta, sealed, committed).map(|(_, opened)| opened)
}

/// The plaintext of a record as it lies, and taken apart, once it was held against its commitment.
fn decrypt(
    keys: &SealKeys<'_>,
    entry_id: &[u8; 16],
    meta: &[u8],
    sealed: &[u8],
    committed: &[u8; 32],
) -> Result<(Zeroizing<Vec<u8>>, Opened), OpenError> {
    header(sealed)?;
    let (header, ciphertext) = sealed.split_at(HEADER_BYTES);
    let opened = cipher(keys, header, entry_id, |cipher, nonce| {
        cipher.decrypt(nonce, Payload { msg: ciphertext, aad: &aad(header, meta) })
    });
    let opened = Zeroizing::new(opened.map_err(|_| OpenError::Rejected)?);
    let (entry_salt, items) = parse(&opened).ok_or(OpenError::NotCommitted)?;
    let each = commitments(&entry_salt, &items);
    let matches: bool = subtle::ConstantTimeEq::ct_eq(commit_all(&each).as_slice(), committed.as_slice()).into();
    if matches { Ok((opened, (entry_salt, items, each))) } else { Err(OpenError::NotCommitted) }
}

/// The commitment to one value: what a court is shown with the value and its salt.
pub fn commit_one(salt: &[u8; 32], path: &str, value: &Phi) -> [u8; 32] {
    let mut bytes = Zeroizing::new(Vec::new());
    put_value(&mut bytes, value.expose());
    mac::digest(label::COMMIT, &[salt, path.as_bytes(), &bytes])
}

fn commitments(entry_salt: &Secret, items: &[Item]) -> Vec<[u8; 32]> {
    let salts = Salts::new(entry_salt);
    let mut each: Vec<[u8; 32]> =
        items.iter().map(|item| commit_one(&salts.of(&item.path), &item.path, &item.value)).collect();
    each.push(mac::digest(label::COMMIT, &[&salts.of(BLINDER), BLINDER.as_bytes()]));
    each
}

/// The salt of each value's commitment, all from the entry's one.
struct Salts(Hkdf<Sha256>);

impl Salts {
    fn new(entry_salt: &Secret) -> Self {
        Self(Hkdf::from_prk(entry_salt.expose()).expect("32 bytes are a key for HKDF-SHA-256"))
    }

    fn of(&self, path: &str) -> [u8; 32] {
        let mut salt = [0; 32];
        let info = [label::SALT, path.as_bytes()];
        self.0.expand_multi_info(&info, &mut salt).expect("32 bytes are within HKDF's limit");
        salt
    }
}

fn plaintext(entry_salt: &Secret, items: &[Item]) -> Zeroizing<Vec<u8>> {
    let mut body = Zeroizing::new(Vec::with_capacity(256));
    for item in items {
        put_prefixed(&mut body, item.path.as_bytes());
        put_value(&mut body, item.value.expose());
    }
    let length = (32 + 4 + body.len()).next_multiple_of(PAD_BYTES);
    let mut out = Zeroizing::new(Vec::with_capacity(length));
    out.extend_from_slice(entry_salt.expose());
    put_prefixed(&mut out, &body);
    out.resize(length, 0);
    out
}

fn parse(plaintext: &[u8]) -> Option<(Secret, Vec<Item>)> {
    let (salt, mut rest) = plaintext.split_at_checked(32)?;
    let mut body = take_prefixed(&mut rest).ok()?;
    let mut items = Vec::new();
    while !body.is_empty() {
        let path = utf8(take_prefixed(&mut body).ok()?).ok()?.to_owned();
        items.push(Item { path, value: Phi::new(take_value(&mut body).ok()?) });
    }
    Some((Secret::from_slice(salt)?, items))
}

/// Derives the single-use key and nonce, and runs the cipher with them.
fn cipher<T>(
    keys: &SealKeys<'_>,
    header: &[u8],
    entry_id: &[u8; 16],
    run: impl FnOnce(&Aes256Gcm, &Nonce<aes_gcm::aead::consts::U12>) -> T,
) -> T {
    let mut ikm = Zeroizing::new([0_u8; 64]);
    ikm[..32].copy_from_slice(keys.data_key.expose());
    ikm[32..].copy_from_slice(keys.bucket_secret.expose());
    let (fixed, salt) = header.split_at(HEADER_BYTES - 32);
    let mut okm = Zeroizing::new([0_u8; 44]);
    Hkdf::<Sha256>::new(Some(salt), ikm.as_slice())
        .expand_multi_info(&[label::SEAL, fixed, entry_id], okm.as_mut_slice())
        .expect("44 bytes are within HKDF's limit");
    let key = Key::<Aes256Gcm>::try_from(&okm[..32]).expect("a key has 32 bytes");
    let mut nonce = Nonce::try_from(&okm[32..]).expect("a nonce has 12 bytes");
    let cipher = Aes256Gcm::new(&key);
    let out = run(&cipher, &nonce);
    nonce.as_mut_slice().zeroize();
    out
}

fn aad(header: &[u8], meta: &[u8]) -> Vec<u8> {
    [label::SEAL_AAD, header, meta].concat()
}

#[cfg(test)]
mod tests;
