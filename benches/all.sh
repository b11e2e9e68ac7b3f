#!/bin/sh
# Everything that is measured, one after the other on a quiet machine: the vault in process beside its limits, over HTTP beside a bare
# service, in an overload, and the peers. About half an hour; with PHIVAULT_BENCH_ENTRIES=10000000 ten minutes more and 25 GB of disk.
# Prints the machine and the versions first, so that the output stands for itself.
set -eu
cd "$(dirname "$0")/.."
export PHIVAULT_BENCH_ENTRIES="${PHIVAULT_BENCH_ENTRIES:-1000000}" PHIVAULT_BENCH_SECONDS="${PHIVAULT_BENCH_SECONDS:-5}"
echo "$(git rev-parse --short HEAD), $(rustc --version), $(uname -sr)"
echo "$(nproc) processors, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), $(sed -n 's/^MemTotal: *//p' /proc/meminfo) of memory"
cargo bench --no-run
for what in vault http overload; do
    printf '\n== %s\n' "$what"
    cargo bench -q --bench "$what"
done
for peer in postgres tutorial continuum quipu; do
    printf '\n== peer: %s\n' "$peer"
    sh "benches/peers/$peer.sh" || echo "SKIPPED: $peer.sh says above what it needs"
done
