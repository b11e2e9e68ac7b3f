//! Sealing a small thing that is not an entry, such as a state row whose text may name a patient.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::random;
use super::secret::Secret;

const SALT_BYTES: usize = 32;

/// Salt and ciphertext of a message under a key that is used for it alone. `aad` says where it stands.
pub fn seal(key: &Secret, label: &[u8], aad: &[u8], message: &[u8]) -> Vec<u8> {
    let salt = random::array::<SALT_BYTES>();
    let (cipher, nonce) = single_use(key, label, &salt);
    let sealed =
        cipher.encrypt(&nonce, Payload { msg: message, aad }).expect("a small message is within AES-GCM's limit");
    [salt.as_slice(), &sealed].concat()
}

/// The message, if it was sealed with the same key, label and place.
pub fn open(key: &Secret, label: &[u8], aad: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (salt, sealed) = sealed.split_at_checked(SALT_BYTES)?;
    let (cipher, nonce) = single_use(key, label, salt);
    cipher.decrypt(&nonce, Payload { msg: sealed, aad }).ok().map(Zeroizing::new)
}

fn single_use(key: &Secret, label: &[u8], salt: &[u8]) -> (Aes256Gcm, Nonce<aes_gcm::aead::consts::U12>) {
    let mut okm = Zeroizing::new([0; 44]);
    let expanded = Hkdf::<Sha256>::new(Some(salt), key.expose()).expand(label, okm.as_mut_slice());
    expanded.expect("44 bytes are within HKDF's limit");
    let key = Key::<Aes256Gcm>::try_from(&okm[..32]).expect("32 bytes are a key");
    (Aes256Gcm::new(&key), Nonce::try_from(&okm[32..]).expect("12 bytes are a nonce"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_in_its_place_and_nowhere_else() {
        let (key, other) = (Secret::random(), Secret::random());
        let sealed = seal(&key, b"label", b"here", b"message");
        assert_eq!(open(&key, b"label", b"here", &sealed).unwrap().as_slice(), b"message");
        assert!(open(&other, b"label", b"here", &sealed).is_none());
        assert!(open(&key, b"lebal", b"here", &sealed).is_none());
        assert!(open(&key, b"label", b"there", &sealed).is_none());
        assert_ne!(seal(&key, b"label", b"here", b"message"), sealed);
        for at in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert!(
                open(&key, b"label", b"here", &flipped).is_none()
                    && open(&key, b"label", b"here", &sealed[..at]).is_none()
            );
        }
    }
}
