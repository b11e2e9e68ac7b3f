//! Receipts: an inclusion proof with its signed checkpoint in one text (C2SP tlog-proof), checkable offline.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use super::hash::Hash;
use super::policy::{Opened, Policy, PolicyError};
use super::proof::{ProofError, verify_inclusion};

const HEADER: &str = "c2sp.org/tlog-proof@v1\n";
/// Hashes of a proof in a tree of up to 2^63 leaves.
const MAX_HASHES: usize = 63;

/// Why a receipt was refused.
#[derive(Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// It is not of the form.
    #[error("this is no tlog-proof: {0}")]
    Malformed(&'static str),
    /// Its checkpoint is not one to trust.
    #[error("its checkpoint: {0}")]
    Checkpoint(#[from] PolicyError),
    /// The proof does not lead from the leaf to the checkpoint's root.
    #[error("its proof: {0}")]
    Proof(#[from] ProofError),
    /// Too few witnesses signed the checkpoint.
    #[error("its checkpoint does not carry the cosignatures that the policy asks for")]
    Quorum,
}

/// A receipt as read: nothing in it is to be believed before [`TlogProof::verify`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlogProof {
    /// Opaque bytes of the application, which nothing authenticates.
    pub extra: Option<Vec<u8>>,
    /// The leaf's index.
    pub index: u64,
    /// The inclusion proof, the leaf's sibling first.
    pub hashes: Vec<Hash>,
    /// The signed checkpoint.
    pub checkpoint: String,
}

impl TlogProof {
    /// Reads a receipt; strict.
    ///
    /// # Errors
    /// [`ReceiptError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, ReceiptError> {
        let malformed = ReceiptError::Malformed;
        let rest = text.strip_prefix(HEADER).ok_or(malformed("the first line is another"))?;
        let (head, checkpoint) = rest.split_once("\n\n").ok_or(malformed("no blank line before the checkpoint"))?;
        let mut lines = head.split('\n').peekable();
        let extra = match lines.peek().and_then(|line| line.strip_prefix("extra ")) {
            Some(encoded) => {
                lines.next();
                Some(STANDARD.decode(encoded).map_err(|_| malformed("extra is not base64"))?)
            }
            None => None,
        };
        let index = lines.next().and_then(|line| line.strip_prefix("index ")).ok_or(malformed("no index"))?;
        let index = index.parse::<u64>().ok().filter(|it| it.to_string() == index);
        let index = index.ok_or(malformed("the index is not a plain decimal number"))?;
        let hash = |line: &str| STANDARD.decode(line).ok().and_then(|bytes| Hash::from_slice(&bytes));
        let hashes: Option<Vec<Hash>> = lines.map(hash).collect();
        let hashes = hashes.ok_or(malformed("a hash is not base64 of 32 bytes"))?;
        if hashes.len() > MAX_HASHES {
            return Err(malformed("it holds more hashes than a tree can need"));
        }
        Ok(Self { extra, index, hashes, checkpoint: checkpoint.to_owned() })
    }

    /// Verifies that a leaf is in the log, under a checkpoint that the policy trusts.
    ///
    /// # Errors
    /// [`ReceiptError`].
    pub fn verify(&self, leaf: &Hash, policy: &Policy) -> Result<Opened, ReceiptError> {
        let opened = policy.open(&self.checkpoint)?;
        verify_inclusion(leaf, self.index, opened.checkpoint.size, &self.hashes, &opened.checkpoint.root)?;
        if opened.quorum { Ok(opened) } else { Err(ReceiptError::Quorum) }
    }
}

impl std::fmt::Display for TlogProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(HEADER)?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", STANDARD.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.hashes.iter().try_for_each(|hash| writeln!(f, "{}", STANDARD.encode(hash.0)))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::checkpoint::Checkpoint;
    use crate::ledger::hash::{leaf_hash, node_hash};
    use crate::ledger::note::NoteSigner;

    fn golden() -> (TlogProof, Hash, Policy) {
        let signer = NoteSigner::from_seed("log.example/a", &[3; 32]).unwrap();
        let (leaf, other) = (leaf_hash(b"one"), leaf_hash(b"two"));
        let root = node_hash(&other, &leaf);
        let head = Checkpoint { origin: "log.example/a".into(), size: 2, root, extensions: Vec::new() };
        let checkpoint = head.sign(&signer).unwrap();
        let proof = TlogProof { extra: None, index: 1, hashes: vec![other], checkpoint };
        (proof, leaf, Policy::of_logs(vec![signer.verifier_key().clone()]))
    }

    #[test]
    fn a_receipt_comes_back_as_written_and_verifies() {
        let (proof, leaf, policy) = golden();
        assert_eq!(TlogProof::parse(&proof.to_string()).unwrap(), proof);
        assert_eq!(proof.verify(&leaf, &policy).unwrap().checkpoint.size, 2);
        let with = TlogProof { extra: Some(b"phi".to_vec()), ..proof };
        assert_eq!(TlogProof::parse(&with.to_string()).unwrap(), with);
        assert!(with.to_string().starts_with("c2sp.org/tlog-proof@v1\nextra cGhp\nindex 1\n"));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let (proof, leaf, policy) = golden();
        let text = proof.to_string();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let read = String::from_utf8(bytes).ok().and_then(|text| TlogProof::parse(&text).ok());
            let believed = read.is_some_and(|it| it.verify(&leaf, &policy).is_ok());
            assert!(!believed, "byte {at} of {text:?}");
        }
    }

    #[test]
    fn another_leaf_index_or_log_is_refused() {
        let (proof, leaf, policy) = golden();
        assert!(proof.verify(&leaf_hash(b"two"), &policy).is_err());
        assert!(TlogProof { index: 0, ..proof.clone() }.verify(&leaf, &policy).is_err());
        assert!(TlogProof { hashes: Vec::new(), ..proof.clone() }.verify(&leaf, &policy).is_err());
        let other = NoteSigner::from_seed("log.example/a", &[4; 32]).unwrap();
        let other = Policy::of_logs(vec![other.verifier_key().clone()]);
        assert!(matches!(proof.verify(&leaf, &other), Err(ReceiptError::Checkpoint(_))));
    }

    #[test]
    fn malformed_texts_are_refused() {
        let text = golden().0.to_string();
        for wrong in [
            String::new(),
            text.replace("@v1", "@v2"),
            text.replace("index 1", "index 01"),
            text.replace("index 1", "index +1"),
            text.replace("index 1\n", ""),
            text.replace("index 1\n", "index 1\n\n"),
            text.replace("index 1", "extra %\nindex 1"),
            text.replace(
                "index 1\n",
                &format!("index 1\n{}", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n".repeat(63)),
            ),
            text.replace('\n', "\r\n"),
        ] {
            let refused = TlogProof::parse(&wrong).is_err()
                || TlogProof::parse(&wrong).unwrap().verify(&golden().1, &golden().2).is_err();
            assert!(refused, "{wrong:?}");
        }
        let of = |count: usize| TlogProof { hashes: vec![leaf_hash(b"x"); count], ..golden().0 }.to_string();
        assert!(TlogProof::parse(&of(63)).is_ok(), "a tree of 2^63 leaves");
        assert!(TlogProof::parse(&of(64)).is_err() && TlogProof::parse(&of(65)).is_err());
    }
}
