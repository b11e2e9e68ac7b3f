//! Chance that can be repeated.

/// Knuth's linear congruential generator, its high bits.
#[derive(Clone)]
pub struct Chance(pub u64);

impl Chance {
    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// A number of the environment, or what is usual.
pub fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |it| it.parse().unwrap_or_else(|_| panic!("{name} is no number: {it}")))
}
