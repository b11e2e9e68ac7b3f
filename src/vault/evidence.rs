//! What outsiders can check: tiles, inclusion and consistency proofs, and the exact bytes of a leaf.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::issue::Issue;
use crate::ledger::hash::Hash;
use crate::ledger::leaf::{Sequenced, leaf_data};
use crate::ledger::note::{Signature, VerifierKey};
use crate::ledger::policy::Policy;
use crate::ledger::receipt::TlogProof;
use crate::ledger::tiles::TileName;
use crate::store::Row;

use super::Vault;
use super::error::VaultError;
use super::ledger::Signed;
use super::writer::find_id;

/// The place of an entry in the ledger, checkable by anybody who trusts the checkpoint's signature.
#[derive(Serialize, ToSchema)]
pub struct Proof {
    /// The entry.
    pub id: Uuid,
    /// Its position.
    pub index: u64,
    /// The size of the tree the proof is for.
    pub tree_size: u64,
    /// The leaf hash, hex.
    pub leaf_hash: String,
    /// The inclusion proof (RFC 9162 section 2.1.3), hex, the leaf's sibling first.
    pub hashes: Vec<String>,
    /// The signed checkpoint (C2SP tlog-checkpoint), with the cosignatures of witnesses that are known.
    pub checkpoint: String,
    #[serde(skip)]
    parts: Vec<Hash>,
}

/// That a checkpoint extends an older one.
#[derive(Serialize, ToSchema)]
pub struct Consistency {
    /// The older size.
    pub from: u64,
    /// The size of the checkpoint.
    pub to: u64,
    /// The consistency proof (RFC 9162 section 2.1.4), hex.
    pub hashes: Vec<String>,
    /// The newest signed checkpoint.
    pub checkpoint: String,
}

/// The exact bytes that the ledger holds of an entry: all of its metadata, and a commitment instead of its values.
#[derive(Serialize, ToSchema)]
pub struct Leaf {
    /// The entry.
    pub id: Uuid,
    /// Its position.
    pub index: u64,
    /// The bytes, hex: length (4), metadata, commitment (32), time of receipt (8), the patient's entry before (8) and
    /// running number (8).
    pub leaf_data: String,
    /// SHA-256 of a zero byte and those bytes (RFC 6962 section 2.1), hex.
    pub leaf_hash: String,
}

impl Proof {
    /// As a receipt in one text (C2SP tlog-proof).
    pub fn to_receipt(&self) -> String {
        let checkpoint = self.checkpoint.clone();
        TlogProof { extra: None, index: self.index, hashes: self.parts.clone(), checkpoint }.to_string()
    }
}

impl Vault {
    /// The checkpoint for the public: the newest, or the newest that enough witnesses cosigned.
    pub fn checkpoint(&self) -> Signed {
        self.ledger.served()
    }

    /// The public half of the key that signs.
    pub fn verifier_key(&self) -> VerifierKey {
        self.ledger.verifier_key()
    }

    /// The newest signed checkpoint, whoever cosigned it.
    pub fn latest_checkpoint(&self) -> Signed {
        self.ledger.checkpoint()
    }

    /// From now on witnesses are expected to cosign what is signed.
    pub fn expect_witnesses(&self, policy: Policy) {
        self.ledger.expect_witnesses(policy);
    }

    /// Adds verified cosignatures to a checkpoint.
    pub fn add_cosignatures(&self, signed: &Signed, lines: &[Signature]) {
        self.ledger.add_cosignatures(signed, lines);
    }

    /// Takes note whether the newest anchor could be set.
    pub fn anchored(&self, done: bool) {
        self.counters.unanchored.store(!done, std::sync::atomic::Ordering::Relaxed);
    }

    /// How many entries enough witnesses have cosigned, if any are asked.
    pub fn witnessed_size(&self) -> Option<u64> {
        self.ledger.witnessed().map(|(size, _)| size)
    }

    /// The proof that the tree of `new` entries extends the one of `old`.
    ///
    /// # Errors
    /// What reading says.
    pub fn consistency_proof(&self, old: u64, new: u64) -> Result<Vec<Hash>, VaultError> {
        Ok(self.ledger.consistency(old, new)?)
    }

    /// The name of the ledger.
    pub fn origin(&self) -> &str {
        self.ledger.origin()
    }

    /// A tile of hashes (C2SP tlog-tiles), if a signed checkpoint covers all of it. Public: hashes tell nothing.
    ///
    /// # Errors
    /// What reading says.
    pub fn tile(&self, name: TileName) -> Result<Option<Vec<u8>>, VaultError> {
        let hashes = self.ledger.public_tile(name)?;
        Ok(hashes.map(|hashes| hashes.iter().flat_map(|hash| hash.0).collect()))
    }

    /// The proof that the newest checkpoint extends the tree of `from` entries. Public.
    ///
    /// # Errors
    /// [`VaultError::Invalid`] when there is no such older tree, or what reading says.
    pub fn consistency(&self, from: u64) -> Result<Consistency, VaultError> {
        let signed = self.checkpoint();
        if from == 0 || from > signed.size {
            let detail = format!("This parameter is a size from 1 to {}, the newest checkpoint's.", signed.size);
            return Err(VaultError::Invalid(vec![Issue::new("from", "parameter_invalid", detail)]));
        }
        let hashes = self.ledger.consistency(from, signed.size)?;
        let hashes = hashes.iter().map(ToString::to_string).collect();
        Ok(Consistency { from, to: signed.size, hashes, checkpoint: signed.note })
    }

    /// The inclusion proof of an entry. Hashes only, so it is not recorded.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `NotFound`, `Busy` when no checkpoint covers it within seconds, or what reading says.
    pub fn proof(&self, caller: &Caller, id: Uuid) -> Result<Proof, VaultError> {
        self.allow(caller, Permission::Prove, Action::SEARCH)?;
        let row = find_id(&*self.intake, id, 0..self.intake.size())?.ok_or(VaultError::NotFound)?;
        let (signed, parts) = self.ledger.inclusion(row.sequence)?;
        Ok(Proof {
            id,
            index: row.sequence,
            tree_size: signed.size,
            leaf_hash: row.leaf.to_string(),
            hashes: parts.iter().map(ToString::to_string).collect(),
            checkpoint: signed.note,
            parts,
        })
    }

    /// The exact leaf of an entry, for those who may see its metadata. Recorded.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `NotFound`, or what recording says.
    pub fn leaf(&self, caller: &Caller, id: Uuid) -> Result<Leaf, VaultError> {
        let row = self.look_up(caller, id)?;
        let leaf_data = hex::encode(leaf_bytes(&row));
        Ok(Leaf { id, index: row.sequence, leaf_data, leaf_hash: row.leaf.to_string() })
    }

    /// The receipt of an entry by its position (C2SP tlog-proof).
    pub(super) fn receipt(&self, sequence: u64) -> Result<String, VaultError> {
        let (signed, hashes) = self.ledger.inclusion(sequence)?;
        Ok(TlogProof { extra: None, index: sequence, hashes, checkpoint: signed.note }.to_string())
    }
}

/// What the sequencer added to an entry.
pub(super) fn sequenced(row: &Row) -> Sequenced {
    Sequenced {
        received_at: row.received_at,
        patient_previous: row.patient_previous,
        patient_number: row.patient_number,
    }
}

/// The bytes of an entry's leaf.
pub(super) fn leaf_bytes(row: &Row) -> Vec<u8> {
    leaf_data(&row.meta, &row.commitment, sequenced(row))
}
