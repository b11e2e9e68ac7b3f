//! The signing key: which one a start takes, and how it changes while the vault serves.

use std::sync::{Arc, PoisonError};

use serde::Serialize;
use utoipa::ToSchema;

use crate::crypto::random;
use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::meta::Meta;
use crate::domain::submission::ReasonIn;
use crate::keyfile::{self, KeyPaths};
use crate::ledger::note::{NoteSigner, VerifierKey};

use super::Vault;
use super::error::{OpenError, VaultError};
use super::ledger::Ledger;
use super::record::Note;
use super::standing::VERIFIER_KEY;

/// What changing the signing key did.
#[derive(Serialize, ToSchema)]
pub struct SigningRotated {
    /// The public key that verifies checkpoints from now on.
    pub verifier_key: String,
    /// The one before; it still verifies older checkpoints, and the first one that the new key signed.
    pub previous: String,
    /// The entry that announces it.
    pub recorded_as: uuid::Uuid,
}

impl Vault {
    /// Makes a new signing key, at once.
    ///
    /// Order, and what is true if the process dies after each step: (1) the next key is written beside the current one:
    /// start-up removes it; (2) an entry announces it: start-up takes it and puts it in place; (3) one checkpoint that covers that
    /// entry is signed by both; (4) it takes its place.
    ///
    /// # Errors
    /// [`VaultError::Denied`], [`VaultError::Invalid`] without a reason, or what writing says.
    pub fn rotate_signing_key(&self, caller: &Caller, reason: ReasonIn) -> Result<SigningRotated, VaultError> {
        self.allow(caller, Permission::RotateKeys, Action::SIGNING_ROTATE)?;
        let reason = self.reason(caller, Action::SIGNING_ROTATE, reason)?;
        let _changing = self.keys.unplaced.lock().unwrap_or_else(PoisonError::into_inner);
        let paths = &self.keys.paths;
        let next_path = paths.next_signing_key();
        if next_path.exists() {
            let what =
                "a signing key that was made before stands beside its place; restart the vault, which puts it there";
            return Err(VaultError::Integrity(what.into()));
        }
        let next = NoteSigner::from_seed(self.origin(), &random::array());
        let next = Arc::new(next.map_err(|error| VaultError::Integrity(error.to_string()))?);
        let (key, previous) = (next.verifier_key().clone(), self.ledger.verifier_key());
        keyfile::create_private(&next_path, format!("{}\n", next.to_private_text()).as_bytes())?;
        let mut note = Note::new(caller, Action::SIGNING_ROTATE, reason);
        note.facts.push((VERIFIER_KEY.into(), key.to_string()));
        note.facts.push(("previous_verifier_key".into(), previous.to_string()));
        let receipt = self.record(note)?;
        self.ledger.hand_over(&next)?;
        keyfile::place_signing_key(paths, &key)?;
        let (verifier_key, previous) = (key.to_string(), previous.to_string());
        Ok(SigningRotated { verifier_key, previous, recorded_as: receipt.id })
    }
}

/// The signing key, and its successor if the process died while it was changed.
pub(super) fn signers(paths: &KeyPaths) -> Result<Vec<Arc<NoteSigner>>, OpenError> {
    let mut signers = vec![Arc::new(keyfile::read_signing_key(&paths.signing_key)?)];
    let next = paths.next_signing_key();
    if next.exists() {
        signers.push(Arc::new(keyfile::read_signing_key(&next)?));
    }
    Ok(signers)
}

/// Takes the signing key that the ledger named last. Gives back its public half if it still stands beside its place.
pub(super) fn choose(
    ledger: &Ledger,
    signers: &[Arc<NoteSigner>],
    seal: &Meta,
) -> Result<Option<VerifierKey>, OpenError> {
    let wanted = seal.fact(VERIFIER_KEY).unwrap_or_default();
    let chosen = signers.iter().position(|it| it.verifier_key().to_string() == wanted);
    match chosen {
        Some(0) => Ok(None),
        Some(n) => {
            ledger.adopt(signers[n].clone());
            Ok(Some(signers[n].verifier_key().clone()))
        }
        None => Err(OpenError::Distrust(
            "The signing key is not the one this ledger named last. Put the vault's own signing key back from its backup.".into(),
        )),
    }
}

pub(super) fn settle(paths: &KeyPaths, successor: Option<VerifierKey>) -> Result<(), OpenError> {
    match successor {
        Some(key) => keyfile::place_signing_key(paths, &key)?,
        // Written but never announced: it was not to be.
        None => keyfile::remove(&paths.next_signing_key())?,
    }
    Ok(())
}
