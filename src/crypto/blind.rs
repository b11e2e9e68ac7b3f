//! The blind index of a patient id: equal ids give equal tokens, and without the key a token says nothing else.
//!
//! What leaks is equality, frequency and linkage over time; the README says so.

use crate::domain::meta::Patient;

use super::label;
use super::mac;
use super::secret::Secret;

/// A versioned key for blind indexes.
#[derive(Clone, PartialEq, Debug)]
pub struct IndexKey {
    /// Its version, kept with each token.
    pub version: u32,
    /// The key.
    pub key: Secret,
}

impl IndexKey {
    /// The first 128 bits of HMAC-SHA-256 over the id.
    pub fn blind(&self, patient_id: &str) -> Patient {
        let tag = mac::tag(&self.key, label::BLIND_PATIENT, &[&self.version.to_be_bytes(), patient_id.as_bytes()]);
        let token = tag[..16].try_into().expect("a tag has 32 bytes");
        Patient::Blind { version: self.version, token }
    }
}
