//! The leaf of an entry: what exactly the tree commits to.
//!
//! ```text
//! data = length(meta)(4) || meta || commitment(32) || received_at(8) || patient_previous(8) || patient_number(8)
//! leaf = SHA-256(0x00 || data)                                                              RFC 6962 section 2.1
//! ```
//!
//! The ciphertext is not in it, so re-encryption and shredding leave it alone.

use sha2::{Digest, Sha256};

use super::hash::Hash;

/// What the sequencer adds to an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sequenced {
    /// Time of receipt, microseconds since 1970, UTC; never falls along the ledger.
    pub received_at: i64,
    /// The index of the same patient's entry before; 0 if there is none (entry 0 is the vault's own).
    pub patient_previous: u64,
    /// The patient's running number from 1; 0 if the entry has no patient.
    pub patient_number: u64,
}

/// The bytes that are hashed.
pub fn leaf_data(meta: &[u8], commitment: &[u8; 32], sequenced: Sequenced) -> Vec<u8> {
    let length = u32::try_from(meta.len()).expect("metadata is bounded far below 4 GiB");
    let mut data = Vec::with_capacity(4 + meta.len() + 32 + 24);
    data.extend_from_slice(&length.to_be_bytes());
    data.extend_from_slice(meta);
    data.extend_from_slice(commitment);
    data.extend_from_slice(&sequenced.received_at.to_be_bytes());
    data.extend_from_slice(&sequenced.patient_previous.to_be_bytes());
    data.extend_from_slice(&sequenced.patient_number.to_be_bytes());
    data
}

/// Takes the bytes apart again: metadata, commitment, and what the sequencer added. `None` for anything that
/// [`leaf_data`] would not write.
pub fn parse_leaf_data(data: &[u8]) -> Option<(&[u8], [u8; 32], Sequenced)> {
    let (length, rest) = data.split_first_chunk::<4>()?;
    let (meta, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let (commitment, rest) = rest.split_first_chunk::<32>()?;
    let (received_at, rest) = rest.split_first_chunk::<8>()?;
    let (previous, rest) = rest.split_first_chunk::<8>()?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let sequenced = Sequenced {
        received_at: i64::from_be_bytes(*received_at),
        patient_previous: u64::from_be_bytes(*previous),
        patient_number: u64::from_be_bytes(*number),
    };
    rest.is_empty().then_some((meta, *commitment, sequenced))
}

/// The leaf hash of an entry: the hash of [`leaf_data`], without putting the bytes together.
pub fn entry_leaf(meta: &[u8], commitment: &[u8; 32], sequenced: Sequenced) -> Hash {
    LeafStart::new(meta, commitment).finish(sequenced)
}

/// The leaf of an entry that has no place yet: what is known of it is hashed where there is time, and only the rest by the sequencer.
#[derive(Clone)]
pub struct LeafStart(Sha256);

impl LeafStart {
    /// Begins with metadata and commitment.
    pub fn new(meta: &[u8], commitment: &[u8; 32]) -> Self {
        let length = u32::try_from(meta.len()).expect("metadata is bounded far below 4 GiB");
        let mut head = [0; 5];
        head[1..].copy_from_slice(&length.to_be_bytes());
        Self(Sha256::new().chain_update(head).chain_update(meta).chain_update(commitment))
    }

    /// The leaf at a place.
    pub fn finish(self, sequenced: Sequenced) -> Hash {
        let mut tail = [0; 24];
        tail[..8].copy_from_slice(&sequenced.received_at.to_be_bytes());
        tail[8..16].copy_from_slice(&sequenced.patient_previous.to_be_bytes());
        tail[16..].copy_from_slice(&sequenced.patient_number.to_be_bytes());
        Hash(self.0.chain_update(tail).finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::hash::leaf_hash;

    #[test]
    fn the_golden_leaf_does_not_change_and_every_part_counts() {
        let base = Sequenced { received_at: -1, patient_previous: 2, patient_number: 3 };
        let leaf = entry_leaf(b"meta", &[7; 32], base);
        let data = leaf_data(b"meta", &[7; 32], base);
        let expected = format!("000000046d657461{}ffffffffffffffff00000000000000020000000000000003", "07".repeat(32));
        assert_eq!(hex::encode(&data), expected);
        assert_eq!(leaf, leaf_hash(&data));
        assert_eq!(parse_leaf_data(&data), Some((&b"meta"[..], [7; 32], base)));
        for cut in 0..data.len() {
            assert_eq!(parse_leaf_data(&data[..cut]), None);
        }
        assert_eq!(parse_leaf_data(&[&data[..], b"x"].concat()), None);
        assert_ne!(leaf, entry_leaf(b"metb", &[7; 32], base));
        assert_ne!(leaf, entry_leaf(b"meta", &[8; 32], base));
        assert_ne!(leaf, entry_leaf(b"meta", &[7; 32], Sequenced { received_at: 0, ..base }));
        assert_ne!(leaf, entry_leaf(b"meta", &[7; 32], Sequenced { patient_previous: 1, ..base }));
        assert_ne!(leaf, entry_leaf(b"meta", &[7; 32], Sequenced { patient_number: 4, ..base }));
    }
}
