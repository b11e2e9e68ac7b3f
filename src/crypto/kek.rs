//! The key encryption key (KEK): made from a passphrase or a key file, it opens the keyring and nothing else.

use argon2::{Algorithm, Argon2, Params, Version};
use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::label;
use super::random;
use super::secret::Secret;

/// The shortest passphrase that is accepted for a new vault, in bytes.
pub const MIN_PASSPHRASE_BYTES: usize = 12;

/// The cost of Argon2id (RFC 9106). Read from the keyring file, so it is bounded: an edited file must not be able to
/// exhaust the machine or to weaken a guess.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Memory, KiB: 8 MiB to 4 GiB.
    pub memory_kib: u32,
    /// Passes: 1 to 16.
    pub passes: u32,
    /// Lanes: 1 to 16.
    pub lanes: u32,
}

impl Default for Cost {
    /// 256 MiB, 3 passes, 4 lanes: about a second once a start.
    fn default() -> Self {
        Self { memory_kib: 256 * 1024, passes: 3, lanes: 4 }
    }
}

impl Cost {
    fn is_bounded(self) -> bool {
        (8 * 1024..=4 * 1024 * 1024).contains(&self.memory_kib)
            && (1..=16).contains(&self.passes)
            && (1..=16).contains(&self.lanes)
    }
}

/// What the owner of the vault has: the thing a KEK is made from.
pub enum Unlock {
    /// A passphrase.
    Passphrase(Zeroizing<Vec<u8>>),
    /// The 32 bytes of a key file.
    KeyFile(Secret),
}

impl Unlock {
    /// What a security module computes HMAC-SHA-256 over; the result is the key.
    #[cfg(feature = "pkcs11")]
    pub const MODULE_MESSAGE: &'static [u8] = label::PKCS11;

    /// A passphrase that counts only with a secret kept in a file beside it: guessing then needs that file as well. Anything else
    /// is as it was.
    pub fn with_pepper(self, pepper: &Secret) -> Self {
        match self {
            Self::Passphrase(text) => {
                let mut both = Zeroizing::new(Vec::with_capacity(text.len() + 33));
                both.extend_from_slice(&text);
                // A passphrase is one line, so it holds no zero byte and the parts cannot run into each other.
                both.push(0);
                both.extend_from_slice(pepper.expose());
                Self::Passphrase(both)
            }
            key => key,
        }
    }

    /// From the 32 bytes of a key; `None` for any other number.
    pub fn of_key(bytes: &[u8]) -> Option<Self> {
        Secret::from_slice(bytes).map(Self::KeyFile)
    }
}

impl std::fmt::Debug for Unlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Passphrase(_) => "Unlock::Passphrase([redacted])",
            Self::KeyFile(_) => "Unlock::KeyFile([redacted])",
        })
    }
}

/// How the KEK is made, as the keyring's header says it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum KekSpec {
    /// Argon2id over a passphrase.
    Passphrase {
        /// Its cost.
        cost: Cost,
        /// Its salt, 16 bytes in hex.
        salt: String,
    },
    /// The bytes of a key file, or of what a command gave.
    KeyFile,
}

impl KekSpec {
    /// Whether what it asks for is within the bounds.
    pub fn is_bounded(&self) -> bool {
        match self {
            Self::Passphrase { cost, salt } => cost.is_bounded() && hex::decode(salt).is_ok_and(|it| it.len() == 16),
            Self::KeyFile => true,
        }
    }
}

/// A key encryption key with the recipe it was made by.
#[derive(Clone, Debug)]
pub struct Kek {
    spec: KekSpec,
    key: Secret,
    id: String,
}

/// Why no KEK came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KekError {
    /// The file asks for a cost outside the bounds.
    #[error("the Argon2id cost is outside the bounds (8 MiB to 4 GiB, 1 to 16 passes, 1 to 16 lanes)")]
    Cost,
    /// A passphrase where a key file is needed, or the reverse.
    #[error("the keyring is locked with {0}, and something else was given")]
    WrongKind(&'static str),
    /// There was not enough memory for Argon2id.
    #[error("Argon2id could not get its memory")]
    Memory,
    /// The header is malformed.
    #[error("the header of the keyring is malformed")]
    Malformed,
}

impl Kek {
    /// A KEK for a new keyring, with a fresh salt.
    ///
    /// # Errors
    /// [`KekError::Cost`] or [`KekError::Memory`].
    pub fn create(unlock: &Unlock, cost: Cost) -> Result<Self, KekError> {
        let spec = match unlock {
            Unlock::Passphrase(_) => KekSpec::Passphrase { cost, salt: hex::encode(random::array::<16>()) },
            Unlock::KeyFile(_) => KekSpec::KeyFile,
        };
        Self::derive(spec, unlock)
    }

    /// The KEK of an existing keyring.
    ///
    /// # Errors
    /// [`KekError`].
    pub fn derive(spec: KekSpec, unlock: &Unlock) -> Result<Self, KekError> {
        let ikm = match (&spec, unlock) {
            (KekSpec::Passphrase { cost, salt }, Unlock::Passphrase(passphrase)) => stretch(passphrase, *cost, salt)?,
            (KekSpec::KeyFile, Unlock::KeyFile(secret)) => Zeroizing::new(*secret.expose()),
            (KekSpec::Passphrase { .. }, _) => return Err(KekError::WrongKind("a passphrase")),
            (KekSpec::KeyFile, _) => return Err(KekError::WrongKind("a key file")),
        };
        let expand = |info, okm: &mut [u8]| {
            Hkdf::<Sha256>::new(None, ikm.as_slice()).expand(info, okm).expect("32 bytes are within HKDF's limit");
        };
        let mut key = Zeroizing::new([0; 32]);
        expand(label::KEK, key.as_mut_slice());
        // The name commits to the key, so that one ciphertext cannot be made to open under many passphrases.
        let mut id = [0; 16];
        expand(label::KEK_ID, &mut id);
        Ok(Self { spec, key: Secret::new(*key), id: hex::encode(id) })
    }

    /// The recipe.
    pub fn spec(&self) -> &KekSpec {
        &self.spec
    }

    /// The key's name: equal exactly when the key is.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The key's bytes, for those who look whether they stand where they must not.
    pub fn secret(&self) -> &[u8; 32] {
        self.key.expose()
    }

    /// The key, for the keyring to use.
    pub(super) fn key(&self) -> &Secret {
        &self.key
    }
}

fn stretch(passphrase: &[u8], cost: Cost, salt: &str) -> Result<Zeroizing<[u8; 32]>, KekError> {
    if !cost.is_bounded() {
        return Err(KekError::Cost);
    }
    let salt: [u8; 16] = hex::decode(salt).ok().and_then(|it| it.try_into().ok()).ok_or(KekError::Malformed)?;
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(|_| KekError::Cost)?;
    let mut out = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, &salt, out.as_mut_slice())
        .map_err(|_| KekError::Memory)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Cost = Cost { memory_kib: 8 * 1024, passes: 1, lanes: 1 };

    fn passphrase(text: &str) -> Unlock {
        Unlock::Passphrase(Zeroizing::new(text.as_bytes().to_vec()))
    }

    #[test]
    fn the_same_passphrase_gives_the_same_key_and_another_gives_another() {
        let kek = Kek::create(&passphrase("correct horse battery"), CHEAP).unwrap();
        let again = Kek::derive(kek.spec().clone(), &passphrase("correct horse battery")).unwrap();
        let other = Kek::derive(kek.spec().clone(), &passphrase("correct horse batterz")).unwrap();
        assert!(kek.key() == again.key() && kek.id() == again.id());
        assert!(kek.key() != other.key() && kek.id() != other.id());
    }

    #[test]
    fn a_pepper_makes_another_key_and_leaves_key_files_alone() {
        let (one, other) = (Secret::new([1; 32]), Secret::new([2; 32]));
        let spec = Kek::create(&passphrase("correct horse battery"), CHEAP).unwrap().spec().clone();
        let id = |unlock: Unlock| Kek::derive(spec.clone(), &unlock).unwrap().id().to_owned();
        let plain = id(passphrase("correct horse battery"));
        let peppered = id(passphrase("correct horse battery").with_pepper(&one));
        assert!(plain != peppered && peppered != id(passphrase("correct horse battery").with_pepper(&other)));
        assert_eq!(peppered, id(passphrase("correct horse battery").with_pepper(&one)));
        assert!(
            matches!(Unlock::KeyFile(Secret::new([3; 32])).with_pepper(&one), Unlock::KeyFile(key) if key == Secret::new([3; 32]))
        );
    }

    #[test]
    fn a_cost_is_bounded_by_eight_mebibytes_and_four_gibibytes_and_sixteen_of_the_others() {
        let bounded = |memory_kib, passes, lanes| {
            let cost = Cost { memory_kib, passes, lanes };
            KekSpec::Passphrase { cost, salt: "00".repeat(16) }.is_bounded()
        };
        let all: Vec<_> = [8_192, 4_194_304].into_iter().flat_map(|it| [(it, 1, 1), (it, 16, 16)]).collect();
        assert!(all.iter().all(|(memory, passes, lanes)| bounded(*memory, *passes, *lanes)));
        for (memory, passes, lanes) in
            [(8_191, 1, 1), (4_194_305, 1, 1), (8_192, 0, 1), (8_192, 17, 1), (8_192, 1, 0), (8_192, 1, 17)]
        {
            assert!(!bounded(memory, passes, lanes), "{memory} {passes} {lanes}");
        }
    }

    #[test]
    fn a_key_has_32_bytes_and_nothing_shows_it() {
        let unlock = Unlock::of_key(&[7; 32]).unwrap();
        assert!(Unlock::of_key(&[7; 31]).is_none() && Unlock::of_key(&[7; 33]).is_none());
        let kek = Kek::derive(KekSpec::KeyFile, &unlock).unwrap();
        assert_eq!(kek.secret(), kek.key().expose());
        for shown in [format!("{unlock:?}"), format!("{:?}", passphrase("correct")), format!("{:?}", kek.key())] {
            assert!(shown.ends_with("([redacted])"), "{shown}");
        }
    }

    #[test]
    fn costs_out_of_bounds_and_wrong_kinds_are_refused() {
        for cost in [
            Cost { memory_kib: 8, ..CHEAP },
            Cost { memory_kib: u32::MAX, ..CHEAP },
            Cost { passes: 17, ..CHEAP },
            Cost { lanes: 0, ..CHEAP },
        ] {
            assert_eq!(Kek::create(&passphrase("x"), cost).unwrap_err(), KekError::Cost);
        }
        assert_eq!(Kek::derive(KekSpec::KeyFile, &passphrase("x")).unwrap_err(), KekError::WrongKind("a key file"));
        let spec = KekSpec::Passphrase { cost: CHEAP, salt: "zz".into() };
        assert_eq!(Kek::derive(spec, &passphrase("x")).unwrap_err(), KekError::Malformed);
    }
}
