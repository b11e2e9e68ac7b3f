//! The slots of a keyring: who can open it, each with a passphrase or key of their own, as with LUKS.
//!
//! At each writing of a keyring its body is sealed under a fresh master key, and the master key is wrapped for every slot with
//! X25519 (RFC 7748): the secret half of a slot is the KEK, the public half stands in the file. So a running vault holds no KEK,
//! can write the next keyring all the same, and whoever once had a master key cannot open what is written later.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use curve25519_dalek::montgomery::MontgomeryPoint;
use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::kek::{Cost, Kek, KekError, KekSpec, Unlock};
use super::keyring::KeyringError;
use super::label;
use super::random;
use super::secret::Secret;

/// The most slots of a keyring: opening it may have to try each.
pub const MAX_SLOTS: usize = 8;
/// The longest name of a slot, in bytes.
pub const MAX_SLOT_NAME: usize = 64;
/// The slot that a new vault has.
pub const MAIN_SLOT: &str = "main";

/// One way to open a keyring. Holds no secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// Whose it is, such as `main` or `recovery`.
    pub name: String,
    /// The name of its key: equal exactly when the key is.
    pub kek_id: String,
    /// How its key is made.
    pub kek: KekSpec,
    /// The public half of its key (X25519), hex.
    pub public: String,
}

impl Slot {
    /// The slot of what somebody has. This is the expensive step for a passphrase.
    ///
    /// # Errors
    /// [`KekError::Cost`] or [`KekError::Memory`].
    pub fn of(name: &str, unlock: &Unlock, cost: Cost) -> Result<Self, KekError> {
        let kek = Kek::create(unlock, cost)?;
        let public = MontgomeryPoint::mul_base_clamped(*kek.key().expose());
        let (kek_id, public) = (kek.id().to_owned(), hex::encode(public.as_bytes()));
        Ok(Self { name: name.to_owned(), kek_id, kek: kek.spec().clone(), public })
    }

    /// Whether everything in it is of its form and within its bounds. It may come from outside.
    pub fn is_sound(&self) -> bool {
        let hex = |text: &str, bytes| hex::decode(text).is_ok_and(|it| it.len() == bytes);
        let name = (1..=MAX_SLOT_NAME).contains(&self.name.len())
            && self.name.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_.".contains(&it));
        // A public key of small order would make the wrapped key anybody's.
        let usable = self.point().is_some_and(|point| point.mul_clamped([9; 32]).as_bytes() != &[0; 32]);
        name && usable && hex(&self.kek_id, 16) && hex(&self.public, 32) && self.kek.is_bounded()
    }

    fn point(&self) -> Option<MontgomeryPoint> {
        hex::decode(&self.public).ok()?.try_into().ok().map(MontgomeryPoint)
    }

    /// Wraps a master key for whoever has this slot's secret.
    pub(super) fn wrap(&self, master: &Secret) -> Option<String> {
        let public = self.point()?;
        let ephemeral = Secret::random();
        let sent = MontgomeryPoint::mul_base_clamped(*ephemeral.expose());
        let (cipher, nonce) = single_use(&public.mul_clamped(*ephemeral.expose()), &sent, &public)?;
        let wrapped = cipher.encrypt(&nonce, Payload { msg: master.expose(), aad: self.name.as_bytes() }).ok()?;
        Some(hex::encode([sent.as_bytes().as_slice(), &wrapped].concat()))
    }

    fn unwrap(&self, kek: &Kek, wrapped: &str) -> Option<Secret> {
        let bytes = hex::decode(wrapped).ok()?;
        let (sent, wrapped) = bytes.split_first_chunk::<32>()?;
        let sent = MontgomeryPoint(*sent);
        let public = self.point()?;
        let (cipher, nonce) = single_use(&sent.mul_clamped(*kek.key().expose()), &sent, &public)?;
        let master = cipher.decrypt(&nonce, Payload { msg: wrapped, aad: self.name.as_bytes() }).ok()?;
        Secret::from_slice(&Zeroizing::new(master))
    }
}

/// The master key, from the first slot that what is given opens; and that slot's name.
///
/// # Errors
/// [`KeyringError::WrongKey`] when it opens none, [`KeyringError::Altered`] when its slot was altered.
pub(super) fn open(slots: &[Slot], wraps: &[String], unlock: &Unlock) -> Result<(Secret, String), KeyringError> {
    if !(1..=MAX_SLOTS).contains(&slots.len()) || slots.len() != wraps.len() {
        return Err(KeyringError::Malformed);
    }
    let mut error = KeyringError::WrongKey;
    let mut tried = false;
    for (slot, wrapped) in slots.iter().zip(wraps) {
        match Kek::derive(slot.kek.clone(), unlock) {
            Ok(kek) if kek.id() == slot.kek_id => {
                let master = slot.unwrap(&kek, wrapped).ok_or(KeyringError::Altered)?;
                return Ok((master, slot.name.clone()));
            }
            Ok(_) => (tried, error) = (true, KeyringError::WrongKey),
            // A slot of another kind is somebody else's.
            Err(wrong) if !tried => error = wrong.into(),
            Err(_) => {}
        }
    }
    Err(error)
}

/// A cipher for one wrapping: the ephemeral key makes every one different.
fn single_use(
    shared: &MontgomeryPoint,
    sent: &MontgomeryPoint,
    public: &MontgomeryPoint,
) -> Option<(Aes256Gcm, Nonce<aes_gcm::aead::consts::U12>)> {
    let (mut okm, shared) = (Zeroizing::new([0; 44]), Zeroizing::new(shared.to_bytes()));
    if *shared == [0; 32] {
        return None;
    }
    let salt = [sent.as_bytes().as_slice(), public.as_bytes()].concat();
    Hkdf::<Sha256>::new(Some(&salt), shared.as_slice()).expand(label::SLOT, okm.as_mut_slice()).ok()?;
    let key = Key::<Aes256Gcm>::try_from(&okm[..32]).ok()?;
    Some((Aes256Gcm::new(&key), Nonce::try_from(&okm[32..]).ok()?))
}

/// A fresh salt in hex.
pub(super) fn salt() -> String {
    hex::encode(random::array::<32>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unlock(byte: u8) -> Unlock {
        Unlock::KeyFile(Secret::new([byte; 32]))
    }

    fn slot(byte: u8) -> Slot {
        Slot::of("main", &unlock(byte), Cost::default()).unwrap()
    }

    #[test]
    fn a_wrapped_key_opens_for_its_slot_alone_and_no_two_wrappings_are_alike() {
        let (master, one, other) = (Secret::random(), slot(1), slot(2));
        let wraps: Vec<_> = [&one, &other].map(|it| it.wrap(&master).unwrap()).into();
        let slots = [one.clone(), other];
        assert!(open(&slots, &wraps, &unlock(2)).unwrap().0 == master);
        assert_eq!(open(&slots, &wraps, &unlock(3)).err(), Some(KeyringError::WrongKey));
        assert_ne!(one.wrap(&master), one.wrap(&master));
        // That it is the wrong passphrase for one slot says more than that it is nothing for another.
        let phrase = |text: &str| Unlock::Passphrase(Zeroizing::new(text.as_bytes().to_vec()));
        let cheap = Cost { memory_kib: 8 * 1024, passes: 1, lanes: 1 };
        let recovery = Slot::of("recovery", &phrase("correct horse battery"), cheap).unwrap();
        let mixed = [recovery, one];
        let wraps_of_mixed: Vec<_> = mixed.iter().map(|it| it.wrap(&master).unwrap()).collect();
        let wrong = open(&mixed, &wraps_of_mixed, &phrase("correct horse batterz"));
        assert_eq!(wrong.err(), Some(KeyringError::WrongKey));
        let swapped: Vec<_> = wraps.iter().rev().cloned().collect();
        assert_eq!(open(&slots, &swapped, &unlock(1)).err(), Some(KeyringError::Altered));
        assert_eq!(open(&slots, &wraps[..1], &unlock(1)).err(), Some(KeyringError::Malformed));
    }

    #[test]
    fn slots_that_would_give_the_key_away_or_never_open_are_not_sound() {
        let good = slot(1);
        assert!(good.is_sound());
        let with = |change: fn(&mut Slot)| {
            let mut slot = good.clone();
            change(&mut slot);
            slot
        };
        for (n, bad) in [
            with(|it| it.public = "00".repeat(32)),
            with(|it| it.public = format!("01{}", "00".repeat(31))),
            with(|it| it.public.truncate(62)),
            with(|it| it.kek_id = "zz".repeat(16)),
            with(|it| it.name.clear()),
            with(|it| it.name = "a b".into()),
            with(|it| it.name = "x".repeat(65)),
            with(|it| {
                let cost = Cost { memory_kib: u32::MAX, passes: 1, lanes: 1 };
                it.kek = KekSpec::Passphrase { cost, salt: "00".repeat(16) };
            }),
        ]
        .iter()
        .enumerate()
        {
            assert!(!bad.is_sound(), "{n}: {bad:?}");
        }
    }
}
