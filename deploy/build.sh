#!/usr/bin/env bash
# The release build that can be made again to the same bytes, with the list of what is in it: deploy/build.sh [OUT]
# Writes OUT/phivault, OUT/phivault.sha256 and OUT/phivault.cdx.json (CycloneDX). Paths of the machine are taken out, the lock file is
# exact. The same sources, compiler (rust-toolchain of the release) and C compiler give the same SHA-256 wherever they lie.
# The list is made by cargo-cyclonedx (cargo install cargo-cyclonedx); without it only the program is built, and that is said.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-target/release-build}")
mkdir -p "$out"
root=$PWD
home=${CARGO_HOME:-$HOME/.cargo}
export CARGO_TARGET_DIR="$out/target" CARGO_INCREMENTAL=0 SOURCE_DATE_EPOCH=0 LC_ALL=C TZ=UTC
export RUSTFLAGS="--remap-path-prefix=$root=/phivault --remap-path-prefix=$home=/cargo --remap-path-prefix=$out/target=/target"
export CFLAGS="-ffile-prefix-map=$root=/phivault -ffile-prefix-map=$home=/cargo -ffile-prefix-map=$out/target=/target"
cargo build --locked --release --bin phivault
install -m 755 "$out/target/release/phivault" "$out/phivault"
(cd "$out" && sha256sum phivault >phivault.sha256 && cat phivault.sha256)
if cargo cyclonedx --version >/dev/null 2>&1; then
    cargo cyclonedx --format json --spec-version 1.5 --override-filename phivault.cdx
    mv phivault.cdx.json "$out/phivault.cdx.json"
    echo "$out/phivault.cdx.json: $(grep -c '"bom-ref"' "$out/phivault.cdx.json") components"
else
    echo "no list of components: cargo install cargo-cyclonedx, and run this again" >&2
fi
