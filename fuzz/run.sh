#!/usr/bin/env bash
# Fuzzes every target, one after the other: fuzz/run.sh [executions a target] [target ...]
# Takes cargo-fuzz (cargo install cargo-fuzz) and works on stable Rust. What is found lies in fuzz/artifacts.
# FUZZ_SANITIZER=address looks for memory faults too, ten times slower. The corpus in git is read, never grown.
set -euo pipefail
cd "$(dirname "$0")"
runs=${1:-1000000}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(submission batch query canonical value sealed keyring note proof merkle tile policy witness cursor token config lists)
export RUSTC_BOOTSTRAP=1
cargo fuzz build --fuzz-dir . --sanitizer "${FUZZ_SANITIZER:-none}" any
built=$(find "${CARGO_TARGET_DIR:-target}" -path '*release/any' -type f | head -1)
total=0
for target in "${targets[@]}"; do
    grown=$(mktemp -d)
    mkdir -p "artifacts/$target"
    PHIVAULT_FUZZ_TARGET=$target "$built" "$grown" "corpus/$target" -runs="$runs" -max_len=4096 -timeout=10 -rss_limit_mb=2048 \
        -artifact_prefix="artifacts/$target/" -print_final_stats=1 2>"$grown/../fuzz-$target.log" ||
        { tail -30 "$grown/../fuzz-$target.log"; echo "$target: FAILED, see fuzz/artifacts/$target"; exit 1; }
    done=$(sed -n 's/^stat::number_of_executed_units: *//p' "$grown/../fuzz-$target.log")
    speed=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$grown/../fuzz-$target.log")
    echo "$target: $done executions, $speed a second, $(find "$grown" -type f | wc -l) inputs found worth keeping"
    total=$((total + done))
    rm -rf "$grown"
done
echo "$total executions over ${#targets[@]} targets, nothing found"
