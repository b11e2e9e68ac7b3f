//! Inclusion and consistency proofs: made from tiles, checked from hashes alone (RFC 9162, section 2.1).

use thiserror::Error;

use super::hash::{Hash, empty_root, node_hash};
use super::tree::{Subtrees, TileSource};

/// Why a proof was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProofError {
    /// The leaf is not one of the tree: its index is the size or more.
    #[error("leaf {index} is past the end of a tree of {size}")]
    IndexOutOfRange {
        /// Leaf asked for, from 0.
        index: u64,
        /// Leaves in the tree.
        size: u64,
    },
    /// The tree said to be the older one is larger, so that nothing was only added.
    #[error("the old tree of {old} leaves is larger than the new one of {new}")]
    OldTreeLarger {
        /// Leaves in the old tree.
        old: u64,
        /// Leaves in the new tree.
        new: u64,
    },
    /// The proof ends below the root.
    #[error("the proof holds too few hashes for these sizes")]
    TooShort,
    /// Hashes are left over above the root.
    #[error("the proof holds too many hashes for these sizes")]
    TooLong,
    /// The proof leads to another root than the one trusted.
    #[error("the proof does not lead to the root")]
    RootMismatch,
    /// The proof leads to another old root: what the old tree held was changed.
    #[error("the proof does not lead to the old root")]
    OldRootMismatch,
}

/// Root of the tree when it had `size` leaves; [`empty_root`] for 0.
///
/// # Errors
/// Those of the source; a size past the stored tree is one.
///
/// # Panics
/// If the source returns another number of hashes than asked for.
pub fn root_at<S: TileSource + ?Sized>(source: &S, size: u64) -> Result<Hash, S::Error> {
    Subtrees::new(source, size).root_of(0, size)
}

/// Proof that leaf `index` is in the tree of `size` leaves: sibling hashes, the leaf's own first (RFC 9162, section
/// 2.1.3.1). There is no proof for an index past the end; what is returned then is empty and no verifier accepts it.
///
/// # Errors
/// Those of the source; a size past the stored tree is one.
///
/// # Panics
/// If the source returns another number of hashes than asked for.
pub fn inclusion_proof<S: TileSource + ?Sized>(source: &S, index: u64, size: u64) -> Result<Vec<Hash>, S::Error> {
    let mut proof = Vec::new();
    if index >= size {
        return Ok(proof);
    }
    let mut subtrees = Subtrees::new(source, size);
    let (mut start, mut end) = (0, size);
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            proof.push(subtrees.root_of(middle, end)?);
            end = middle;
        } else {
            proof.push(subtrees.root_of(start, middle)?);
            start = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// Proof that the tree of `new` leaves only added to the tree of `old` leaves (RFC 9162, section 2.1.4.1). Empty when
/// `old` is 0 or equals `new`. There is no proof from a larger tree to a smaller one; what is returned then is empty
/// and no verifier accepts it.
///
/// # Errors
/// Those of the source; a size past the stored tree is one.
///
/// # Panics
/// If the source returns another number of hashes than asked for.
pub fn consistency_proof<S: TileSource + ?Sized>(source: &S, old: u64, new: u64) -> Result<Vec<Hash>, S::Error> {
    let mut proof = Vec::new();
    if old == 0 || old >= new {
        return Ok(proof);
    }
    let mut subtrees = Subtrees::new(source, new);
    let (mut start, mut end) = (0, new);
    while old != end {
        let middle = start + split(end - start);
        if old <= middle {
            proof.push(subtrees.root_of(middle, end)?);
            end = middle;
        } else {
            proof.push(subtrees.root_of(start, middle)?);
            start = middle;
        }
    }
    // a subtree that starts at the first leaf is the old tree itself, whose root the verifier has
    if start > 0 {
        proof.push(subtrees.root_of(start, end)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Checks that the leaf hash is at `index` in the tree of `size` leaves with this root (RFC 9162, section 2.1.3.2).
///
/// Size and root must come from one trusted checkpoint: a proof alone does not fix the size.
///
/// # Errors
/// [`ProofError`] says where the proof breaks.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::IndexOutOfRange { index, size });
    }
    let mut climb = Climb { node: index, last: size - 1 };
    let mut hash = *leaf;
    for sibling in proof {
        hash = match climb.step()? {
            Side::Left => node_hash(sibling, &hash),
            Side::Right => node_hash(&hash, sibling),
        };
    }
    climb.finish()?;
    if hash == *root { Ok(()) } else { Err(ProofError::RootMismatch) }
}

/// Checks that the new tree only added to the old one (RFC 9162, section 2.1.4.2).
///
/// Equal sizes need equal roots and an empty proof. Every tree adds to the empty one: for `old_size` 0 the proof must
/// be empty and `old_root` be [`empty_root`]. Each size and root must come from one trusted checkpoint.
///
/// # Errors
/// [`ProofError`] says where the proof breaks; [`ProofError::OldRootMismatch`] is the sign of a rewritten ledger.
pub fn verify_consistency(
    old_size: u64,
    old_root: &Hash,
    new_size: u64,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if old_size > new_size {
        return Err(ProofError::OldTreeLarger { old: old_size, new: new_size });
    }
    if old_size == 0 || old_size == new_size {
        return verify_without_path(old_size, old_root, new_size, new_root, proof);
    }
    let mut climb = Climb { node: old_size - 1, last: new_size - 1 };
    climb.skip_right_edges();
    // an old tree that is one whole subtree of the new one is its own first hash
    let (first, path) =
        if old_size.is_power_of_two() { (old_root, proof) } else { proof.split_first().ok_or(ProofError::TooShort)? };
    let (mut old, mut new) = (*first, *first);
    for sibling in path {
        match climb.step()? {
            Side::Left => {
                old = node_hash(sibling, &old);
                new = node_hash(sibling, &new);
            }
            Side::Right => new = node_hash(&new, sibling),
        }
    }
    climb.finish()?;
    if old != *old_root {
        return Err(ProofError::OldRootMismatch);
    }
    if new == *new_root { Ok(()) } else { Err(ProofError::RootMismatch) }
}

/// The two cases of consistency that need no hashes: from the empty tree, and between equal sizes.
fn verify_without_path(
    old_size: u64,
    old_root: &Hash,
    new_size: u64,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if !proof.is_empty() {
        return Err(ProofError::TooLong);
    }
    if old_size == 0 && *old_root != empty_root() {
        return Err(ProofError::OldRootMismatch);
    }
    if old_size == new_size && old_root != new_root {
        return Err(ProofError::RootMismatch);
    }
    Ok(())
}

/// Where the sibling in a proof stands.
enum Side {
    Left,
    Right,
}

/// The way from a node to the root: `fn` and `sn` of RFC 9162.
struct Climb {
    /// Index of the node within its level.
    node: u64,
    /// Index of the last node of that level.
    last: u64,
}

impl Climb {
    /// Goes up past the next sibling; [`ProofError::TooLong`] at the root.
    fn step(&mut self) -> Result<Side, ProofError> {
        if self.last == 0 {
            return Err(ProofError::TooLong);
        }
        let side = if self.node & 1 == 1 || self.node == self.last {
            // a last node without a right sibling passes up unchanged until it has a left one
            while self.node & 1 == 0 && self.node != 0 {
                self.up();
            }
            Side::Left
        } else {
            Side::Right
        };
        self.up();
        Ok(side)
    }

    /// Goes up while the node is a right child, to the root of the largest subtree that ends with it.
    fn skip_right_edges(&mut self) {
        while self.node & 1 == 1 {
            self.up();
        }
    }

    /// Refuses a proof that ended below the root.
    fn finish(&self) -> Result<(), ProofError> {
        if self.last == 0 { Ok(()) } else { Err(ProofError::TooShort) }
    }

    fn up(&mut self) {
        self.node >>= 1;
        self.last >>= 1;
    }
}

/// Largest power of two below `count`, for `count` over 1: where a tree splits (RFC 9162, section 2.1.1).
fn split(count: u64) -> u64 {
    1 << (count - 1).ilog2()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use ct_merkle::mem_backed_tree::MemoryBackedTree;
    use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
    use proptest::prelude::*;
    use sha2::Sha256;

    use super::*;
    use crate::ledger::hash::leaf_hash;
    use crate::ledger::tree::tests::{LARGE, Missing, TILES};

    /// Root over [`LARGE`] leaves, by a few lines of Python over hashlib.
    const LARGE_ROOT: &str = "0759167a0f98e35e802d46ff7c7d29d2c3f03a63a256deb6abbff357a91b63b1";

    /// Passes reads on and notes them.
    struct Watched {
        reads: RefCell<Vec<(u8, u64, usize)>>,
    }

    impl TileSource for Watched {
        type Error = Missing;

        fn tile(&self, level: u8, index: u64, width: usize) -> Result<Vec<Hash>, Missing> {
            self.reads.borrow_mut().push((level, index, width));
            TILES.tile(level, index, width)
        }
    }

    fn leaf(i: u64) -> Hash {
        leaf_hash(&i.to_be_bytes())
    }

    fn root(size: u64) -> Hash {
        root_at(&*TILES, size).expect("the tiles hold this size")
    }

    fn inclusion(index: u64, size: u64) -> Vec<Hash> {
        inclusion_proof(&*TILES, index, size).expect("the tiles hold this size")
    }

    fn consistency(old: u64, new: u64) -> Vec<Hash> {
        consistency_proof(&*TILES, old, new).expect("the tiles hold this size")
    }

    fn concat(proof: &[Hash]) -> Vec<u8> {
        proof.iter().flat_map(|hash| hash.0).collect()
    }

    fn judge_accepts_inclusion(index: u64, size: u64, proof: &[Hash], head: Hash) -> bool {
        let root = RootHash::<Sha256>::new(head.0.into(), size);
        InclusionProof::try_from_bytes(concat(proof))
            .is_ok_and(|proof| root.verify_inclusion(&index.to_be_bytes(), index, &proof).is_ok())
    }

    fn judge_accepts_consistency(old: u64, old_head: Hash, new: u64, head: Hash, proof: &[Hash]) -> bool {
        let old = RootHash::<Sha256>::new(old_head.0.into(), old);
        let new = RootHash::new(head.0.into(), new);
        ConsistencyProof::try_from_bytes(concat(proof)).is_ok_and(|proof| new.verify_consistency(&old, &proof).is_ok())
    }

    /// Every proof that differs from this one by a changed, added, repeated or dropped hash.
    fn spoiled(proof: &[Hash]) -> Vec<Vec<Hash>> {
        let mut all = Vec::new();
        for i in 0..=proof.len() {
            all.push([&proof[..i], &[leaf_hash(b"added")], &proof[i..]].concat());
        }
        for i in 0..proof.len() {
            let mut changed = proof.to_vec();
            changed[i].0[i % 32] ^= 1;
            let repeated = [&proof[..=i], &proof[i..]].concat();
            let dropped = [&proof[..i], &proof[i + 1..]].concat();
            all.extend([changed, repeated, dropped]);
        }
        all
    }

    #[test]
    fn roots_and_proofs_agree_with_another_library_at_every_size_to_600() {
        let mut judge = MemoryBackedTree::<Sha256, [u8; 8]>::new();
        for size in 0..=600_u64 {
            let head = root(size);
            assert_eq!(head.as_bytes()[..], judge.root().as_bytes()[..], "root of {size}");
            // every leaf and old size of small trees, and each residue of the step over larger ones
            let step = if size <= 40 { 1 } else { 13 };
            for i in (size % step..size).step_by(step as usize).chain(size.checked_sub(1)) {
                let proof = inclusion(i, size);
                assert_eq!(concat(&proof), judge.prove_inclusion(i as usize).as_bytes(), "leaf {i} of {size}");
                assert_eq!(verify_inclusion(&leaf(i), i, size, &proof, &head), Ok(()));
                let old = i + 1;
                let proof = consistency(old, size);
                let judged = judge.prove_consistency((size - old) as usize);
                assert_eq!(concat(&proof), judged.as_bytes(), "{old} to {size}");
                let old_head = root(old);
                assert_eq!(verify_consistency(old, &old_head, size, &head, &proof), Ok(()));
            }
            judge.push(size.to_be_bytes());
        }
    }

    #[test]
    fn the_root_of_a_tree_of_three_levels_is_the_one_made_elsewhere() {
        assert_eq!(root(LARGE).to_string(), LARGE_ROOT);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

        #[test]
        fn another_library_accepts_roots_and_proofs_at_any_size(
            (size, index, old) in (1..=LARGE).prop_flat_map(|size| (Just(size), 0..size, 1..=size)),
        ) {
            let head = root(size);
            // that the root at this size is right follows from consistency with the root made elsewhere
            let large = Hash::from_hex(LARGE_ROOT).expect("it is 64 hexadecimal digits");
            prop_assert!(judge_accepts_consistency(size, head, LARGE, large, &consistency(size, LARGE)));

            let proof = inclusion(index, size);
            prop_assert!(judge_accepts_inclusion(index, size, &proof, head));
            prop_assert_eq!(verify_inclusion(&leaf(index), index, size, &proof, &head), Ok(()));

            let old_head = root(old);
            let proof = consistency(old, size);
            prop_assert!(judge_accepts_consistency(old, old_head, size, head, &proof));
            prop_assert_eq!(verify_consistency(old, &old_head, size, &head, &proof), Ok(()));
        }

        #[test]
        fn a_spoiled_inclusion_proof_is_refused(
            (size, index, other) in (2..=LARGE).prop_flat_map(|size| (Just(size), 0..size, 0..size)),
        ) {
            let head = root(size);
            let proof = inclusion(index, size);
            for wrong in spoiled(&proof) {
                prop_assert!(verify_inclusion(&leaf(index), index, size, &wrong, &head).is_err());
            }
            let refused = |leaf, index, size, head| verify_inclusion(&leaf, index, size, &proof, &head).is_err();
            prop_assert!(refused(leaf(index + 1), index, size, head));
            prop_assert!(refused(leaf(index), index, size, leaf(index)));
            prop_assert!(other == index || refused(leaf(index), other, size, head));
            prop_assert!(refused(leaf(index), size, size, head));
            prop_assert!(refused(leaf(index), index, 2 * size, head));
            prop_assert!(refused(leaf(index), index, index, head));
        }

        #[test]
        fn a_spoiled_consistency_proof_is_refused(
            (size, old, other) in (2..=LARGE).prop_flat_map(|size| (Just(size), 1..size, 1..=size)),
        ) {
            let (head, old_head) = (root(size), root(old));
            let proof = consistency(old, size);
            for wrong in spoiled(&proof) {
                prop_assert!(verify_consistency(old, &old_head, size, &head, &wrong).is_err());
            }
            let refused = |old, old_head, size, head| verify_consistency(old, &old_head, size, &head, &proof).is_err();
            prop_assert!(refused(old, leaf(0x1_0000_0000), size, head));
            prop_assert!(refused(old, old_head, size, leaf(0x1_0000_0000)));
            prop_assert!(refused(old, head, size, old_head));
            prop_assert!(other == old || refused(other, old_head, size, head));
            prop_assert!(refused(0, old_head, size, head) && refused(0, empty_root(), size, head));
            prop_assert!(refused(old, old_head, 2 * size, head));
            prop_assert!(refused(size, head, old, old_head));
        }

        #[test]
        fn each_tile_is_read_at_most_once_at_the_width_the_size_gives(
            (size, index, old) in (1..=LARGE).prop_flat_map(|size| (Just(size), 0..size, 1..=size)),
        ) {
            for call in 0..3 {
                let source = Watched { reads: RefCell::default() };
                let made = match call {
                    0 => root_at(&source, size).is_ok(),
                    1 => inclusion_proof(&source, index, size).is_ok(),
                    _ => consistency_proof(&source, old, size).is_ok(),
                };
                prop_assert!(made);
                let mut reads = source.reads.into_inner();
                for (level, index, width) in &reads {
                    let present = size / 256_u64.pow(u32::from(*level)) - 256 * index;
                    prop_assert_eq!(*width as u64, present.min(256));
                }
                // the leaf's own tile and the right edge, on each of three levels
                prop_assert!(reads.len() <= 6, "{:?}", reads);
                let all = reads.len();
                reads.sort_unstable();
                reads.dedup_by_key(|(level, index, _)| (*level, *index));
                prop_assert_eq!(reads.len(), all);
            }
        }
    }

    #[test]
    fn the_errors_say_where_a_proof_breaks() {
        let head = root(5);
        let proof = inclusion(2, 5);
        let check = |index, proof: &[Hash], head| verify_inclusion(&leaf(2), index, 5, proof, head);
        assert_eq!(check(5, &proof, &head), Err(ProofError::IndexOutOfRange { index: 5, size: 5 }));
        assert_eq!(check(2, &proof[1..], &head), Err(ProofError::TooShort));
        assert_eq!(check(2, &[&proof[..], &proof].concat(), &head), Err(ProofError::TooLong));
        assert_eq!(check(2, &proof, &leaf(2)), Err(ProofError::RootMismatch));

        let old_head = root(3);
        let proof = consistency(3, 5);
        let check =
            |old, old_head: Hash, proof: &[Hash], head: Hash| verify_consistency(old, &old_head, 5, &head, proof);
        assert_eq!(check(6, old_head, &proof, head), Err(ProofError::OldTreeLarger { old: 6, new: 5 }));
        assert_eq!(check(3, old_head, &[], head), Err(ProofError::TooShort));
        assert_eq!(check(3, old_head, &[&proof[..], &proof].concat(), head), Err(ProofError::TooLong));
        assert_eq!(check(3, leaf(3), &proof, head), Err(ProofError::OldRootMismatch));
        assert_eq!(check(3, old_head, &proof, leaf(3)), Err(ProofError::RootMismatch));
    }

    #[test]
    fn from_nothing_and_to_itself_no_hash_is_needed_or_taken() {
        let head = root(5);
        let (none, one) = (&[][..], &[head][..]);
        assert_eq!(consistency(0, 5), []);
        assert_eq!(consistency(5, 5), []);
        assert_eq!(verify_consistency(0, &empty_root(), 5, &head, none), Ok(()));
        assert_eq!(verify_consistency(5, &head, 5, &head, none), Ok(()));
        assert_eq!(verify_consistency(0, &empty_root(), 0, &empty_root(), none), Ok(()));
        assert_eq!(verify_consistency(0, &head, 5, &head, none), Err(ProofError::OldRootMismatch));
        assert_eq!(verify_consistency(0, &empty_root(), 0, &head, none), Err(ProofError::RootMismatch));
        assert_eq!(verify_consistency(5, &leaf(0), 5, &head, none), Err(ProofError::RootMismatch));
        assert_eq!(verify_consistency(0, &empty_root(), 5, &head, one), Err(ProofError::TooLong));
        assert_eq!(verify_consistency(5, &head, 5, &head, one), Err(ProofError::TooLong));
    }

    #[test]
    fn what_cannot_be_proved_gets_an_empty_proof_that_is_refused() {
        assert_eq!(inclusion(5, 5), []);
        assert_eq!(consistency(6, 5), []);
        assert!(verify_inclusion(&leaf(5), 5, 5, &[], &leaf(5)).is_err());
        assert!(verify_consistency(6, &leaf(0), 5, &leaf(0), &[]).is_err());
    }

    #[test]
    fn an_error_of_the_source_comes_through() {
        assert_eq!(root_at(&*TILES, LARGE + 1), Err(Missing));
        assert_eq!(inclusion_proof(&*TILES, 3, LARGE + 1), Err(Missing));
        assert_eq!(consistency_proof(&*TILES, 3, LARGE + 1), Err(Missing));
    }
}
