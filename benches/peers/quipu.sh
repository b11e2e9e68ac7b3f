#!/bin/sh
# quipu-server beside phivault: audit entries over HTTP, one a request, the value in a field encrypted under a fresh AES-256-GCM key
# that is wrapped by RSA-2048, actor and patient indexed. It answers POST /v1/logs before anything is written (202 "queued"), and no
# setting makes it answer later. So two ways are measured:
#   queued   sync_policy "always": every entry synced, but after its answer; a crash loses up to 4,096 answered entries. The rate is
#            that of entries written, counted until the queue is empty and synced.
#   flushed  each entry followed by POST /v1/admin/flush on the same connection, whose answer does wait until all before is synced
#            (sync_policy "os_managed", so nothing is synced twice): the only way for a client to know that its entry is on disk.
# It has a Merkle tree with proofs. It lacks durable answers, commits shared by several clients, and encryption of anything but chosen
# fields (method, URL, content, ids are readable); all entities and their versions are kept in memory.
#
# Needs cargo (Rust 1.89 or newer) and crates.io, openssl, python3, port 54332 of localhost. PHIVAULT_BENCH_SECONDS: how long each
# point is measured (default 10).
set -eu
from=$(cd "$(dirname "$0")" && pwd)
here=$(mktemp -d "${TMPDIR:-/tmp}/phivault-quipu.XXXXXX")
server=
stop() {
    [ -z "$server" ] || { kill -INT "$server" 2>/dev/null || true; wait "$server" || true; server=; }
}
trap '[ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true; rm -rf "$here"' EXIT
trap 'exit 1' INT TERM
CARGO_TARGET_DIR="$here/target" cargo install -q quipu-server --version 0.2.0 --locked --root "$here/quipu"
rm -rf "$here/target"
openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$here/private.pem"
openssl pkey -in "$here/private.pem" -pubout -out "$here/public.pem"
openssl rand 32 > "$here/hmac.key"
echo "quipu-server 0.2.0"
for how in queued:always flushed:os_managed; do
    store="$here/${how%:*}"
    cat > "$here/config.json" <<JSON
{"listen": "127.0.0.1:54332", "store": {"root": "$store", "sync_policy": "${how#*:}"},
 "keys": {"hmac_key_file": "$here/hmac.key", "public_key_pem_file": "$here/public.pem"},
 "auth": {"tokens": {"bench": "all"}, "grants": {"all": ["emit", "query", "administer"]}}}
JSON
    RUST_LOG=warn "$here/quipu/bin/quipu-server" "$here/config.json" >"$here/log" 2>&1 &
    server=$!
    python3 "$from/quipu.py" 54332 "${how%:*}" || { cat "$here/log"; exit 1; }
    stop
    # a patient's number is not encrypted and must be found, a value must not
    [ -n "$(grep -rl MRN- "$store")" ]
    plain=$(grep -rl abcdefghijabcdefghij "$store" | wc -l)
    echo "kilobytes on disk $(du -sk "$store" | cut -f1), files with a readable value $plain"
    [ "$plain" = 0 ]
done
