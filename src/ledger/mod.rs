//! The ledger room: why nobody can rewrite the trail.
//!
//! Every entry becomes one leaf of an append-only Merkle tree (RFC 6962, SHA-256). A signed head of that tree, the
//! checkpoint, fixes every entry before it: whoever holds one can ask for a proof that an entry is in the tree, and
//! that a later tree only added to it. To change, drop or reorder an entry is to break a hash somebody else holds.
//!
//! What a signature here does not prove: that the checkpoint is the newest. An old tree with its old checkpoint is
//! consistent with itself, so a checkpoint kept elsewhere (a lock, a witness, an auditor) is what shows a rollback.
//!
//! The room is pure: it hashes, proves, signs and verifies, and takes every seed, tile and text as an argument. It
//! never sees what an entry means, and never where tiles are stored.

pub mod checkpoint;
pub mod hash;
mod key;
pub mod leaf;
pub mod note;
pub mod policy;
pub mod proof;
pub mod receipt;
pub mod tiles;
pub mod tree;
pub mod witness;
