//! Chance for the clinic: SplitMix64, the same numbers for the same seed on every machine. Never for keys or tokens.

/// A stream of repeatable numbers (SplitMix64, Steele, Lea and Flood, OOPSLA 2014).
///
/// Whoever sees one number knows all that follow, so it must never make a key, a nonce or a token.
#[derive(Debug, Clone)]
pub(super) struct Chance(u64);

impl Chance {
    /// The stream of this seed; every seed is a good one.
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(super) const fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN_GAMMA);
        mix(self.0)
    }

    /// A number from `low` to `high`, both included; `low` if they are the wrong way round. Ranges are small here, so
    /// the bias of the remainder is far below anything a reader could see.
    pub(super) fn between(&mut self, low: u32, high: u32) -> u32 {
        let span = u64::from(high.saturating_sub(low)) + 1;
        let offset = u32::try_from(self.draw() % span).expect("remainder of a 32-bit span");
        low.saturating_add(offset)
    }

    /// True in about `share` of a hundred cases.
    pub(super) fn percent(&mut self, share: u32) -> bool {
        self.between(0, 99) < share
    }

    /// A position in a list of `len` items; `len` must not be 0.
    pub(super) fn index(&mut self, len: usize) -> usize {
        let last = u32::try_from(len.saturating_sub(1)).unwrap_or(u32::MAX);
        self.between(0, last) as usize
    }

    /// One item of a list that is not empty.
    pub(super) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.index(items.len())]
    }
}

/// Spreads every bit of `value` over all bits of the answer, one to one.
pub(super) const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The odd number nearest to 2^64 divided by the golden ratio.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_that_of_the_published_generator() {
        let mut chance = Chance::new(1_234_567);
        let drawn: Vec<u64> = (0..5).map(|_| chance.draw()).collect();
        let published = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!(drawn, published);
    }

    #[test]
    fn a_range_reaches_both_its_ends_and_nothing_beyond() {
        let mut chance = Chance::new(7);
        let drawn: Vec<u32> = (0..1_000).map(|_| chance.between(3, 6)).collect();
        assert_eq!(drawn.iter().min(), Some(&3));
        assert_eq!(drawn.iter().max(), Some(&6));
    }

    #[test]
    fn a_percentage_holds_over_many_draws() {
        let mut chance = Chance::new(7);
        let hits = (0..10_000).filter(|_| chance.percent(20)).count();
        assert!((1_800..2_200).contains(&hits), "{hits} of 10,000 at 20 percent");
        assert!(!chance.percent(0));
        assert!(chance.percent(100));
    }
}
