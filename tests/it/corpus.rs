//! The fuzzer's targets on its corpus, and on the corpus changed at random: `cargo test` runs them without a fuzzer.

use std::path::Path;

use crate::chance::{Chance, number};

#[path = "../../fuzz/targets.rs"]
mod targets;

#[test]
fn no_reader_of_foreign_bytes_panics_or_takes_what_it_would_not_write() {
    let changes = number("PHIVAULT_TEST_CORPUS_CHANGES", 40);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in targets::ALL {
        let files = std::fs::read_dir(folder.join(name)).unwrap_or_else(|_| panic!("{name} has no corpus"));
        let mut seeds: Vec<_> = files.map(|it| std::fs::read(it.unwrap().path()).unwrap()).collect();
        seeds.sort();
        assert!(!seeds.is_empty(), "{name} has no corpus");
        let mut chance = Chance(name.len() as u64);
        target(b"");
        for seed in &seeds {
            target(seed);
            for _ in 0..changes {
                target(&changed(seed, &seeds, &mut chance));
            }
        }
    }
}

/// A seed with a few bytes flipped, cut out, put twice, or taken from another seed.
fn changed(seed: &[u8], seeds: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=chance.below(3) {
        let at = chance.below(bytes.len() as u64 + 1) as usize;
        let to = (at + 1 + chance.below(16) as usize).min(bytes.len());
        match chance.below(5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
            1 => drop(bytes.drain(at.min(to)..to)),
            2 => {
                let again = bytes[at.min(to)..to].to_vec();
                drop(bytes.splice(at..at, again));
            }
            3 => bytes.truncate(at),
            _ => {
                let other = &seeds[chance.below(seeds.len() as u64) as usize];
                let from = chance.below(other.len() as u64 + 1) as usize;
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
    bytes
}
