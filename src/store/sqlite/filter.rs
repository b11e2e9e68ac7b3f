//! Bloom filters over terms: they say "certainly not here" for most segments, so that a new id costs no disk read in each.
//!
//! The filters of 64 segments lie across each other, a bit of each in one word, so that one look answers for all of them: beside each
//! other, the ids of ten million entries would cost every new id 150 misses of the processor's caches.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::domain::index::Term;

/// Bits of a filter, as a power of two: 16 for each id of a segment (one in a thousand foreign ones passes), at least 8 for each patient
/// (one in fifty).
pub(super) const ID_BITS: u32 = 20;
pub(super) const PATIENT_BITS: u32 = 19;
const PROBES: u64 = 7;
/// Segments whose filters lie across each other.
const ACROSS: u64 = 64;

/// The filter of one segment.
pub(super) struct Filter {
    bits: u32,
    bytes: Vec<u8>,
}

impl Filter {
    pub(super) fn new<'a>(bits: u32, terms: impl Iterator<Item = &'a Term>) -> Self {
        let mut bytes = vec![0; 1 << (bits - 3)];
        for place in terms.flat_map(|term| places(bits, *term)) {
            bytes[place / 8] |= 1 << (place % 8);
        }
        Self { bits, bytes }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// `None` if there are too few or too many.
    pub(super) fn from_bytes(bits: u32, bytes: &[u8]) -> Option<Self> {
        (bytes.len() == 1 << (bits - 3)).then(|| Self { bits, bytes: bytes.to_vec() })
    }
}

/// Where the probes of a term lie.
fn places(bits: u32, term: Term) -> impl Iterator<Item = usize> {
    // Two halves of an already well spread key stand for independent hashes (Kirsch and Mitzenmacher).
    let (low, high) = (term.key & 0xffff_ffff, term.key >> 32 | 1);
    let place = move |probe: u64| low.wrapping_add(probe.wrapping_mul(high)) & ((1 << bits) - 1);
    (0..PROBES).map(move |probe| usize::try_from(place(probe)).expect("a filter fits into memory"))
}

/// The filters of many segments.
pub(super) struct Across {
    bits: u32,
    groups: RwLock<Vec<Arc<[AtomicU64]>>>,
}

impl Across {
    pub(super) fn new(bits: u32) -> Self {
        Self { bits, groups: RwLock::default() }
    }

    /// Puts in the filter of segment `n`. Bits are only ever added, so readers see it grow.
    pub(super) fn put(&self, n: u64, filter: &Filter) {
        debug_assert!(filter.bits == self.bits, "a filter of another size");
        let (group, own) = (self.group(n), 1_u64 << (n % ACROSS));
        for (at, byte) in filter.bytes.iter().enumerate().filter(|it| *it.1 != 0) {
            for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
                group[at * 8 + bit].fetch_or(own, Ordering::Relaxed);
            }
        }
    }

    /// The group of a segment; made if it is the first of it.
    fn group(&self, n: u64) -> Arc<[AtomicU64]> {
        let place = usize::try_from(n / ACROSS).expect("there are fewer segments");
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        while groups.len() <= place {
            groups.push((0..1_usize << self.bits).map(|_| AtomicU64::new(0)).collect());
        }
        groups[place].clone()
    }

    /// Which of the 64 segments of a group may hold a term, a bit each; for the others it is certain.
    pub(super) fn may_hold(&self, group: u64, term: Term) -> u64 {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        let Some(words) = groups.get(usize::try_from(group).unwrap_or(usize::MAX)) else { return u64::MAX };
        places(self.bits, term).fold(u64::MAX, |all, place| all & words[place].load(Ordering::Relaxed))
    }

    /// The group of a segment, and its bit there.
    pub(super) fn place(n: u64) -> (u64, u64) {
        (n / ACROSS, 1 << (n % ACROSS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::index::Dimension;

    fn term(n: u32) -> Term {
        Term::new(Dimension::Id, &[&n.to_be_bytes()])
    }

    #[test]
    fn nothing_that_is_in_is_denied_and_little_that_is_not_passes() {
        let across = Across::new(16);
        let filter = |n: u32| -> Filter {
            let terms: Vec<_> = (n * 4_000..(n + 1) * 4_000).map(term).collect();
            Filter::new(16, terms.iter())
        };
        for n in [0, 1, 63, 64, 70] {
            across.put(u64::from(n), &filter(n));
        }
        for n in [0_u32, 1, 63, 64, 70] {
            let (group, own) = Across::place(n.into());
            assert!((n * 4_000..(n + 1) * 4_000).all(|it| across.may_hold(group, term(it)) & own != 0), "segment {n}");
            let foreign = (1_000_000..1_020_000).filter(|it| across.may_hold(group, term(*it)) & own != 0).count();
            assert!(foreign < 200, "{foreign} of 20,000 foreign terms passed");
            assert_eq!(
                across.may_hold(group, term(n * 4_000)) & !own & !0x8000_0000_0000_0043,
                0,
                "others hold nothing"
            );
        }
    }
}
