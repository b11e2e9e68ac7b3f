//! One fuzzer for all targets, so that the program is built once: `PHIVAULT_FUZZ_TARGET` names the one to run. See `fuzz/run.sh`.

#![no_main]

use std::sync::LazyLock;

#[path = "targets.rs"]
mod targets;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("PHIVAULT_FUZZ_TARGET").unwrap_or_default();
    let target = targets::ALL.iter().find(|(it, _)| *it == name);
    target.unwrap_or_else(|| panic!("PHIVAULT_FUZZ_TARGET is none of {:?}", targets::ALL.map(|it| it.0))).1
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
