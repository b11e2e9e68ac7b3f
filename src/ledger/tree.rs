//! The right edge of the append-only tree, kept as 256-wide tiles (C2SP tlog-tiles, height 8).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::mem;

use super::hash::{Hash, empty_root, node_hash};

/// Hashes in a full tile: eight levels of the binary tree (C2SP tlog-tiles).
pub const TILE_WIDTH: usize = 256;

/// Levels a tree of `u64` size can have: 256^8 leaves would be 2^64.
const LEVELS: usize = 8;

/// A full tile, never to change again. At level L its hash `i` is the root over the leaves
/// `(index * 256 + i) * 256^L` up to, but not including, `(index * 256 + i + 1) * 256^L`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Level, 0 for leaf hashes.
    pub level: u8,
    /// Position among the tiles of its level, from 0.
    pub index: u64,
    /// Exactly [`TILE_WIDTH`] hashes, oldest first.
    pub hashes: Vec<Hash>,
}

/// Where proofs read tiles from, at any size the tree has had.
pub trait TileSource {
    /// Why a tile could not be read.
    type Error;

    /// Exactly the first `width` hashes (1 to [`TILE_WIDTH`]) of the tile. One that holds fewer is an error of the
    /// source. The hashes are taken as they are: what guards against a wrong one is the root made from it.
    fn tile(&self, level: u8, index: u64, width: usize) -> Result<Vec<Hash>, Self::Error>;
}

/// All an append needs to know of the tree: its size and, for each level, the hashes past the last full tile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    /// `levels[L]` holds floor(size / 256^L) mod 256 hashes; the last level is not empty.
    levels: Vec<Vec<Hash>>,
}

impl Edge {
    /// The edge of an empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Rebuilds an edge from stored partial tiles, lowest level first. `levels[L]` must hold
    /// floor(size / 256^L) mod 256 hashes; empty levels at the end may be left out. `None` if a width differs.
    pub fn from_levels(size: u64, mut levels: Vec<Vec<Hash>>) -> Option<Self> {
        let width = |level: usize| levels.get(level).map_or(0, Vec::len);
        let all = LEVELS.max(levels.len());
        if (0..all).any(|level| width(level) != partial_width(size, level)) {
            return None;
        }
        while levels.last().is_some_and(Vec::is_empty) {
            levels.pop();
        }
        Some(Self { size, levels })
    }

    /// Number of leaves in the tree.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Hashes of the partial tile of a level, fewer than [`TILE_WIDTH`]; empty when there is none.
    pub fn level(&self, level: u8) -> &[Hash] {
        self.levels.get(usize::from(level)).map_or(&[], Vec::as_slice)
    }

    /// Root over all leaves: MTH of RFC 6962, section 2.1. Hashes at most 256 nodes a level.
    pub fn root(&self) -> Hash {
        let mut below = None;
        for level in &self.levels {
            // what the levels below hold is the one incomplete node to the right of this level's whole ones
            let nodes: Vec<Hash> = level.iter().copied().chain(below).collect();
            if !nodes.is_empty() {
                below = Some(tile_root(&nodes));
            }
        }
        below.unwrap_or_else(empty_root)
    }

    /// Adds a leaf hash and returns the full tiles it completed, lowest level first: one of level 0 every 256
    /// leaves, one of level 1 every 65,536. Allocates nothing for the caller when there is none.
    pub fn append(&mut self, leaf: Hash) -> Vec<Tile> {
        self.append_at(0, leaf)
    }

    /// Adds the 256^level leaves below a root at once, as [`Edge::append`] would one by one; the tiles that lie whole below
    /// it are not returned.
    ///
    /// # Panics
    /// If the size is no multiple of 256^level: the root would stand for other leaves.
    pub fn append_at(&mut self, level: u8, root: Hash) -> Vec<Tile> {
        let below = 8 * u32::from(level);
        assert_eq!(self.size % (1 << below), 0, "a whole subtree begins at a multiple of its size");
        self.size += 1 << below;
        let mut tiles = Vec::new();
        let mut carried = root;
        for level in level.. {
            while self.levels.len() <= usize::from(level) {
                self.levels.push(Vec::new());
            }
            let partial = &mut self.levels[usize::from(level)];
            partial.push(carried);
            if partial.len() < TILE_WIDTH {
                break;
            }
            let hashes = mem::take(partial);
            carried = tile_root(&hashes);
            let index = (self.size >> (8 * (u32::from(level) + 1))) - 1;
            tiles.push(Tile { level, index, hashes });
        }
        tiles
    }
}

/// Root over the hashes of a tile, or of a power-of-two run inside one; of a full tile it is the hash that goes up a
/// level. Defined for every count, as MTH (RFC 6962, section 2.1) with these as leaf hashes.
pub fn tile_root(hashes: &[Hash]) -> Hash {
    let mut nodes = hashes.to_vec();
    while nodes.len() > 1 {
        // pairing from the left and passing an odd last node up gives the tree that splits at powers of two
        let pairs = nodes.len().div_ceil(2);
        for i in 0..pairs {
            nodes[i] = match nodes.get(2 * i + 1) {
                Some(right) => node_hash(&nodes[2 * i], right),
                None => nodes[2 * i],
            };
        }
        nodes.truncate(pairs);
    }
    nodes.first().copied().unwrap_or_else(empty_root)
}

/// Subtree roots of one tree size, with each tile read at most once.
pub(super) struct Subtrees<'a, S: ?Sized> {
    source: &'a S,
    size: u64,
    tiles: BTreeMap<(u8, u64), Vec<Hash>>,
}

impl<'a, S: TileSource + ?Sized> Subtrees<'a, S> {
    pub(super) fn new(source: &'a S, size: u64) -> Self {
        Self { source, size, tiles: BTreeMap::new() }
    }

    /// MTH over leaves `start..end`, where `start` is a multiple of the smallest power of two that covers the range.
    pub(super) fn root_of(&mut self, start: u64, end: u64) -> Result<Hash, S::Error> {
        let mut whole = Vec::new();
        let mut at = start;
        while at < end {
            let height = (end - at).ilog2();
            whole.push(self.whole_subtree(at, height)?);
            at += 1 << height;
        }
        let root = whole.into_iter().rev().reduce(|right, left| node_hash(&left, &right));
        Ok(root.unwrap_or_else(empty_root))
    }

    /// Root over the 2^height leaves from `start`, a multiple of that, out of the highest tile level that holds it.
    fn whole_subtree(&mut self, start: u64, height: u32) -> Result<Hash, S::Error> {
        let level = height / 8;
        let first = start >> (8 * level);
        let [offset, ..] = first.to_le_bytes().map(usize::from);
        let count = 1 << (height % 8);
        let hashes = self.tile(level, first >> 8)?;
        Ok(tile_root(&hashes[offset..offset + count]))
    }

    fn tile(&mut self, level: u32, index: u64) -> Result<&[Hash], S::Error> {
        let level_size = self.size >> (8 * level);
        let level = u8::try_from(level).expect("a height under 64 gives a level under 8");
        match self.tiles.entry((level, index)) {
            Entry::Occupied(read) => Ok(read.into_mut()),
            Entry::Vacant(unread) => {
                let present = level_size - (index << 8);
                let width = usize::try_from(present).map_or(TILE_WIDTH, |present| present.min(TILE_WIDTH));
                let hashes = self.source.tile(level, index, width)?;
                assert_eq!(hashes.len(), width, "a tile source returns the width asked for");
                Ok(unread.insert(hashes))
            }
        }
    }
}

/// Hashes in the partial tile of a level: floor(size / 256^level) mod 256.
fn partial_width(size: u64, level: usize) -> usize {
    if level >= LEVELS {
        return 0;
    }
    usize::from(size.to_le_bytes()[level])
}

#[cfg(test)]
pub(super) mod tests {
    use std::iter;
    use std::sync::LazyLock;

    use ct_merkle::mem_backed_tree::MemoryBackedTree;
    use sha2::Sha256;

    use super::*;
    use crate::ledger::hash::leaf_hash;

    /// Leaves in [`TILES`]: three levels, each with a partial tile.
    pub(crate) const LARGE: u64 = 70_000;

    /// A large tree, grown once for all tests of the room.
    pub(crate) static TILES: LazyLock<Tiles> = LazyLock::new(|| Tiles::grown(LARGE));

    /// All hashes of every level, as an edge gave them out.
    pub(crate) struct Tiles {
        levels: Vec<Vec<Hash>>,
    }

    /// No such tile, or not of that width.
    #[derive(Debug, PartialEq)]
    pub(crate) struct Missing;

    impl Tiles {
        fn grown(size: u64) -> Self {
            let mut edge = Edge::new();
            let mut levels = vec![Vec::new(); 4];
            for i in 0..size {
                for tile in edge.append(leaf(i)) {
                    let level: &mut Vec<Hash> = &mut levels[usize::from(tile.level)];
                    assert_eq!(level.len() as u64, tile.index * 256);
                    level.extend(tile.hashes);
                }
            }
            for (i, level) in (0..).zip(&mut levels) {
                level.extend(edge.level(i));
            }
            Self { levels }
        }
    }

    impl TileSource for Tiles {
        type Error = Missing;

        fn tile(&self, level: u8, index: u64, width: usize) -> Result<Vec<Hash>, Missing> {
            let start = usize::try_from(index).map_err(|_| Missing)? * TILE_WIDTH;
            let hashes = self.levels.get(usize::from(level)).ok_or(Missing)?;
            hashes.get(start..start + width).map(<[Hash]>::to_vec).ok_or(Missing)
        }
    }

    fn leaf(i: u64) -> Hash {
        leaf_hash(&i.to_be_bytes())
    }

    /// An edge of `size` leaves, and all tiles it completed on the way.
    fn grown(size: u64) -> (Edge, Vec<Tile>) {
        let mut edge = Edge::new();
        let tiles = (0..size).flat_map(|i| edge.append(leaf(i))).collect();
        (edge, tiles)
    }

    #[test]
    fn whole_subtrees_added_at_once_are_the_leaves_one_by_one() {
        let mut one_by_one = Edge::new();
        let mut at_once = Edge::new();
        let mut completed = Vec::new();
        for n in 0..3 {
            let mut part = Edge::new();
            for i in n * 256..(n + 1) * 256 {
                one_by_one.append(leaf(i));
                part.append(leaf(i));
            }
            completed.extend(at_once.append_at(1, part.root()));
            assert_eq!((at_once.size(), at_once.root()), (one_by_one.size(), one_by_one.root()));
        }
        assert_eq!(completed.len(), 0, "a tile of level 1 takes 256 of them");
        for i in 768..1_000 {
            assert_eq!(at_once.append(leaf(i)).len(), one_by_one.append(leaf(i)).len());
        }
        assert_eq!((at_once.size(), at_once.root()), (1_000, one_by_one.root()));
    }

    #[test]
    #[should_panic(expected = "a whole subtree begins at a multiple of its size")]
    fn a_subtree_does_not_begin_in_the_middle_of_another() {
        let mut edge = Edge::new();
        edge.append(leaf(0));
        edge.append_at(1, leaf_hash(b"root"));
    }

    #[test]
    fn the_root_agrees_with_another_library_at_every_size_to_600() {
        let mut edge = Edge::new();
        let mut judge = MemoryBackedTree::<Sha256, [u8; 8]>::new();
        for i in 0..=600 {
            assert_eq!(edge.size(), i);
            assert_eq!(edge.root().as_bytes()[..], judge.root().as_bytes()[..], "size {i}");
            edge.append(leaf(i));
            judge.push(i.to_be_bytes());
        }
    }

    #[test]
    fn a_tile_is_completed_every_256_leaves_and_its_root_goes_up() {
        let (edge, tiles) = grown(3 * 256 + 5);
        let names: Vec<_> = tiles.iter().map(|tile| (tile.level, tile.index)).collect();
        assert_eq!(names, [(0, 0), (0, 1), (0, 2)]);
        for tile in &tiles {
            let first = tile.index * 256;
            assert!(tile.hashes.iter().copied().eq((first..first + 256).map(leaf)));
        }
        assert!(edge.level(1).iter().copied().eq(tiles.iter().map(|tile| tile_root(&tile.hashes))));
        assert!(edge.level(0).iter().copied().eq((768..773).map(leaf)));
        assert!(edge.level(2).is_empty() && edge.level(255).is_empty());
    }

    #[test]
    fn leaf_65536_completes_a_tile_on_two_levels_lowest_first() {
        let (mut edge, tiles) = grown(65_535);
        assert_eq!(tiles.len(), 255);
        let last = edge.append(leaf(65_535));
        let names: Vec<_> = last.iter().map(|tile| (tile.level, tile.index, tile.hashes.len())).collect();
        assert_eq!(names, [(0, 255, 256), (1, 0, 256)]);
        assert!(edge.level(0).is_empty() && edge.level(1).is_empty());
        assert_eq!(edge.level(2), [edge.root()]);
        assert_eq!(edge.append(leaf(65_536)).capacity(), 0);
    }

    #[test]
    fn an_edge_rebuilt_from_its_levels_grows_the_same() {
        for size in [0, 1, 255, 256, 257, 511, 512, 1000] {
            let (mut edge, _) = grown(size);
            let levels = (0..9).map(|level| edge.level(level).to_vec()).collect();
            let mut rebuilt = Edge::from_levels(size, levels).expect("these are the widths of the size");
            assert_eq!(rebuilt, edge);
            for i in size..size + 300 {
                assert_eq!(rebuilt.append(leaf(i)), edge.append(leaf(i)));
            }
            assert_eq!(rebuilt.root(), edge.root());
        }
    }

    #[test]
    fn levels_that_do_not_fit_the_size_are_refused() {
        let hashes = |n: usize| iter::repeat_n(leaf(0), n).collect::<Vec<_>>();
        let edge = |size, widths: &[usize]| Edge::from_levels(size, widths.iter().map(|n| hashes(*n)).collect());
        assert!(edge(70_000, &[112, 17, 1]).is_some());
        assert!(edge(70_000, &[112, 17, 1, 0, 0, 0, 0, 0, 0, 0]).is_some());
        for wrong in [&[][..], &[112], &[112, 17], &[111, 17, 1], &[112, 18, 1], &[112, 17, 1, 1], &[368, 16, 1]] {
            assert!(edge(70_000, wrong).is_none(), "{wrong:?}");
        }
        assert!(edge(70_000, &[112, 17, 1, 0, 0, 0, 0, 0, 1]).is_none());
        assert!(edge(0, &[1]).is_none() && edge(256, &[256]).is_none());
        assert!(edge(u64::MAX, &[255; 8]).is_some());
    }
}
