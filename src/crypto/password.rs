//! Passwords of people: kept only as Argon2id (RFC 9106), compared in constant time. The same letters count as the same however a
//! keyboard composes them (NFKC, as SP 800-63B advises).

use argon2::{Algorithm, Argon2, Params, Version};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use unicode_normalization::UnicodeNormalization as _;
use zeroize::Zeroizing;

use super::random;

/// Memory in KiB, passes, lanes: above the least that OWASP names (19 MiB, 2, 1), and bounded for whoever is not logged in yet.
const COST: (u32, u32, u32) = (32 * 1024, 3, 1);

/// What is kept of a password.
#[derive(Clone, Serialize, Deserialize)]
pub struct PasswordHash {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: String,
    hash: String,
}

impl PasswordHash {
    /// Of a new password. Nothing when there is no memory for it.
    pub fn of(password: &str) -> Option<Self> {
        let salt = random::array::<16>();
        let (memory_kib, passes, lanes) = COST;
        let hash = stretch(password, &salt, COST)?;
        Some(Self { memory_kib, passes, lanes, salt: hex::encode(salt), hash: hex::encode(*hash) })
    }

    /// Whether this is the password. It takes as long for a wrong one.
    pub fn matches(&self, password: &str) -> bool {
        let (Ok(salt), Ok(hash)) = (hex::decode(&self.salt), hex::decode(&self.hash)) else { return false };
        let given = stretch(password, &salt, (self.memory_kib, self.passes, self.lanes));
        given.is_some_and(|given| given.as_slice().ct_eq(&hash).into())
    }
}

fn stretch(password: &str, salt: &[u8], (memory_kib, passes, lanes): (u32, u32, u32)) -> Option<Zeroizing<[u8; 32]>> {
    let params = Params::new(memory_kib, passes, lanes, Some(32)).ok()?;
    let mut out = Zeroizing::new([0; 32]);
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let composed = Zeroizing::new(password.nfkc().collect::<String>());
    argon.hash_password_into(composed.as_bytes(), salt, out.as_mut_slice()).ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_the_same_however_a_keyboard_composes_it() {
        let kept = PasswordHash::of("fu\u{308}nf wo\u{308}rter reichen").unwrap();
        assert!(kept.matches("f\u{fc}nf w\u{f6}rter reichen") && !kept.matches("funf worter reichen"));
    }

    #[test]
    fn only_the_password_matches_and_the_same_one_is_kept_differently() {
        let kept = PasswordHash::of("correct horse battery").unwrap();
        assert!(kept.matches("correct horse battery"));
        assert!(!kept.matches("correct horse batterz"));
        assert_ne!(kept.hash, PasswordHash::of("correct horse battery").unwrap().hash);
        assert!(!PasswordHash { memory_kib: 0, ..kept.clone() }.matches("correct horse battery"));
        assert!(kept.memory_kib >= 19 * 1_024 && kept.passes >= 2, "the least that OWASP names");
        assert!(!serde_json::to_string(&kept).unwrap().contains("horse"));
    }
}
