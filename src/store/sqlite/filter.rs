//! A Bloom filter over terms: says "certainly not here" for most segments, so that a new id costs no disk read in each.

use crate::domain::index::Term;

use super::super::StoreError;

/// Bits a term; with seven probes about one in a hundred foreign terms passes.
const BITS_PER_TERM: usize = 10;
const PROBES: u64 = 7;

pub(super) struct Filter {
    bits: Vec<u8>,
}

impl Filter {
    pub(super) fn new<'a>(terms: impl ExactSizeIterator<Item = &'a Term>) -> Self {
        let mut filter = Self { bits: vec![0; (terms.len() * BITS_PER_TERM).div_ceil(8).max(8)] };
        for term in terms {
            for probe in 0..PROBES {
                let (byte, bit) = filter.place(*term, probe);
                filter.bits[byte] |= bit;
            }
        }
        filter
    }

    /// Whether the term may be in; `false` is certain.
    pub(super) fn may_hold(&self, term: Term) -> bool {
        (0..PROBES).all(|probe| {
            let (byte, bit) = self.place(term, probe);
            self.bits[byte] & bit != 0
        })
    }

    fn place(&self, term: Term, probe: u64) -> (usize, u8) {
        // Two halves of an already well spread key stand for independent hashes (Kirsch and Mitzenmacher).
        let (low, high) = (term.key & 0xffff_ffff, term.key >> 32 | 1);
        let bit = low.wrapping_add(probe.wrapping_mul(high)) % (self.bits.len() as u64 * 8);
        (usize::try_from(bit / 8).expect("a filter fits into memory"), 1 << (bit % 8))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bits
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, StoreError> {
        if bytes.is_empty() {
            return Err(StoreError::Corrupt("a segment's filter is empty".into()));
        }
        Ok(Self { bits: bytes.to_vec() })
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
        let terms: Vec<_> = (0..10_000).map(term).collect();
        let filter = Filter::new(terms.iter());
        assert!(terms.iter().all(|it| filter.may_hold(*it)));
        let foreign = (10_000..30_000).filter(|n| filter.may_hold(term(*n))).count();
        assert!(foreign < 600, "{foreign} of 20,000 foreign terms passed");
    }
}
