//! HMAC-SHA-256 (RFC 2104) and SHA-256 over labelled, length-prefixed parts.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::secret::Secret;

/// The authentication tag of parts under a key.
pub fn tag(key: &Secret, label: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose()).expect("HMAC takes keys of any length");
    each(label, parts, |bytes| mac.update(bytes));
    mac.finalize().into_bytes().into()
}

/// Whether a tag is the right one, in constant time.
pub fn verify(key: &Secret, label: &[u8], parts: &[&[u8]], given: &[u8]) -> bool {
    tag(key, label, parts).ct_eq(given).into()
}

/// SHA-256 over a label and parts.
pub fn digest(label: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    each(label, parts, |bytes| hash.update(bytes));
    hash.finalize().into()
}

/// Feeds each part behind its length, so that parts cannot run into each other.
fn each(label: &[u8], parts: &[&[u8]], mut feed: impl FnMut(&[u8])) {
    for part in std::iter::once(&label).chain(parts) {
        feed(&(part.len() as u64).to_be_bytes());
        feed(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_labels_and_keys_all_count() {
        let key = Secret::new([1; 32]);
        let base = tag(&key, b"a", &[b"xy", b"z"]);
        assert_ne!(base, tag(&key, b"a", &[b"x", b"yz"]));
        assert_ne!(base, tag(&key, b"b", &[b"xy", b"z"]));
        assert_ne!(base, tag(&Secret::new([2; 32]), b"a", &[b"xy", b"z"]));
        assert!(verify(&key, b"a", &[b"xy", b"z"], &base));
        assert!(!verify(&key, b"a", &[b"xy", b"z"], &base[..31]));
    }
}
