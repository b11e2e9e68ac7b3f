//! What the program is built of: where it comes from, under which licences, and that none of our own code is unsafe.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Licences that may be linked into an Apache-2.0 program.
const LICENCES: [&str; 13] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// One version each: with two, one generation of types would not fit the other, and only one would be looked at.
const ONCE: [&str; 9] =
    ["aes-gcm", "argon2", "ed25519-dalek", "hkdf", "hmac", "libsqlite3-sys", "rusqlite", "rustls", "sha2"];

fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let done = Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

/// Whether a licence expression (SPDX) can be met by licences of the list: one of each choice, all of what is joined.
fn is_met(expression: &str) -> bool {
    let plain = expression.replace('/', " OR ").replace(['(', ')'], " ");
    plain.split(" AND ").all(|all| all.split(" OR ").any(|one| LICENCES.contains(&one.trim())))
}

#[test]
fn everything_comes_from_the_registry_under_a_licence_that_fits_and_what_seals_is_there_once() {
    let about = String::from_utf8(run(env!("CARGO"), &["-vV"])).unwrap();
    let host = about.lines().find_map(|it| it.strip_prefix("host: ")).unwrap();
    let metadata =
        run(env!("CARGO"), &["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host]);
    let metadata: Value = serde_json::from_slice(&metadata).unwrap();
    let used: BTreeSet<&str> =
        metadata["resolve"]["nodes"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    let (mut versions, mut wrong) = (BTreeMap::<&str, u32>::new(), Vec::new());
    for package in metadata["packages"].as_array().unwrap() {
        if !used.contains(package["id"].as_str().unwrap()) || package["name"] == "phivault" {
            continue;
        }
        let name = package["name"].as_str().unwrap();
        *versions.entry(name).or_default() += 1;
        if package["source"] != "registry+https://github.com/rust-lang/crates.io-index" {
            wrong.push(format!("{name} comes from {}", package["source"]));
        }
        if !package["license"].as_str().is_some_and(is_met) {
            wrong.push(format!("{name} is under {}", package["license"]));
        }
    }
    wrong.extend(ONCE.iter().filter(|it| versions.get(**it) != Some(&1)).map(|it| format!("{it} is not there once")));
    assert!(wrong.is_empty() && versions.len() > 100, "{wrong:#?}");
}

#[test]
fn a_licence_expression_is_met_by_one_of_each_choice() {
    assert!(is_met("MIT OR Apache-2.0") && is_met("MIT/Apache-2.0") && is_met("(MIT OR GPL-3.0) AND Unicode-3.0"));
    assert!(!is_met("GPL-3.0") && !is_met("MIT AND GPL-3.0") && !is_met("LGPL-2.1-only OR MPL-2.0"));
}
