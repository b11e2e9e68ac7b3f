//! SHA-256 hashes of the Merkle tree: leaves, nodes and the empty tree (RFC 6962, section 2.1).

use std::fmt;

use sha2::{Digest, Sha256};

/// A leaf, node or root hash of the ledger: 32 bytes of SHA-256. Public data, so it compares in plain time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Reads 64 hexadecimal digits of either case; `None` for anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// Copies exactly 32 bytes; `None` for any other length.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 64];
        hex::encode_to_slice(self.0, &mut digits).expect("32 bytes are 64 digits");
        f.write_str(std::str::from_utf8(&digits).expect("digits are ASCII"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Hash of a leaf: SHA-256(0x00 || data) (RFC 6962, section 2.1).
pub fn leaf_hash(data: &[u8]) -> Hash {
    Hash(Sha256::new().chain_update([0x00]).chain_update(data).finalize().into())
}

/// Hash of an inner node: SHA-256(0x01 || left || right) (RFC 6962, section 2.1). The first byte differs from a
/// leaf's, so that no leaf can pass for a node.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = [0x01; 65];
    bytes[1..33].copy_from_slice(&left.0);
    bytes[33..].copy_from_slice(&right.0);
    Hash(Sha256::digest(bytes).into())
}

/// Root of the tree without leaves: SHA-256 of nothing (RFC 6962, section 2.1).
pub fn empty_root() -> Hash {
    Hash(Sha256::digest([]).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_root_is_sha256_of_nothing() {
        assert_eq!(empty_root().to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn leaves_and_nodes_carry_their_prefix_byte() {
        let left = leaf_hash(b"");
        assert_eq!(left.to_string(), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
        let right = leaf_hash(b"an entry");
        let node = [left.0, right.0].concat();
        let by_hand = Sha256::digest([&[0x01][..], &node].concat());
        assert_eq!(node_hash(&left, &right).0, <[u8; 32]>::from(by_hand));
        assert_ne!(node_hash(&left, &right), leaf_hash(&node));
        assert_ne!(node_hash(&left, &right), node_hash(&right, &left));
    }

    #[test]
    fn hex_and_bytes_come_back_as_written() {
        let hash = leaf_hash(b"an entry");
        assert_eq!(Hash::from_hex(&hash.to_string()), Some(hash));
        assert_eq!(Hash::from_hex(&hash.to_string().to_uppercase()), Some(hash));
        assert_eq!(Hash::from_slice(hash.as_bytes()), Some(hash));
        assert_eq!(format!("{hash:?}"), hash.to_string());
    }

    #[test]
    fn hex_and_bytes_of_another_length_are_refused() {
        let text = leaf_hash(b"an entry").to_string();
        for wrong in ["", &text[1..], &format!("{text}0"), &format!("{text}00"), &text.replace(&text[..1], "g")] {
            assert_eq!(Hash::from_hex(wrong), None, "{wrong}");
        }
        assert_eq!(Hash::from_slice(&[0; 31]), None);
        assert_eq!(Hash::from_slice(&[0; 33]), None);
    }
}
