#!/usr/bin/env bash
# Everything long, one after the other, with seeds; what came of it is written as a table into docs/reliability.md.
#
#   tests/torture.sh            hours: the figures of the table
#   tests/torture.sh slice      minutes: a slice of each
#
# SEED=n repeats a run. What needs more than Rust and a C compiler (cargo-fuzz, schemathesis) says when it is left out.
set -euo pipefail
cd "$(dirname "$0")/.."
scale=${1:-full}
export PHIVAULT_TEST_SEED=${SEED:-20261129} RUST_BACKTRACE=0
rows=$(mktemp)
full() { [ "$scale" = full ]; }
pick() { if full; then echo "$1"; else echo "$2"; fi; }

# name of the goal | variable = amount | test | the line that tells what came of it
run() {
    local what=$1 variable=$2 amount=$3 test=$4 line=$5 log said began=$SECONDS
    log=$(mktemp)
    printf '== %s: %s=%s %s\n' "$what" "$variable" "$amount" "$test"
    if ! env "$variable=$amount" cargo test --locked --test it -- --exact "$test" --nocapture >"$log" 2>&1; then
        tail -40 "$log"
        echo "| $what | $amount | **FAILED**, seed $PHIVAULT_TEST_SEED | $((SECONDS - began)) s |" >>"$rows"
        return
    fi
    said=$(grep -E "$line" "$log" | tail -1 | tr '|' '/')
    echo "| $what | \`$variable=$amount\` | $said | $((SECONDS - began)) s |" >>"$rows"
    tail -1 "$rows"
}

run 'kills (G1)' PHIVAULT_TEST_KILL_ROUNDS "$(pick 10000 100)" kill::nothing_acknowledged_is_lost_doubled_or_moved_by_kill_9 ' kills: '
run 'power cuts (G2)' PHIVAULT_TEST_POWER_CUTS "$(pick 100000 2000)" power::no_power_cut_loses_what_was_acknowledged '^in all:'
run 'faults of the disk (G4)' PHIVAULT_TEST_FAULTS "$(pick all 5)" \
    faults::whatever_call_of_the_disk_fails_nothing_acknowledged_is_lost_and_the_next_start_is_clean 'lives with a fault'
run 'reveals that cannot be recorded (G13)' PHIVAULT_TEST_CLOSED_REVEALS "$(pick 10000 400)" \
    closed::while_nothing_can_be_recorded_nothing_is_revealed 'while nothing could be recorded'
run 'hours of work, with floods (G12, G17)' PHIVAULT_TEST_SOAK_SECONDS "$(pick 3600 60)" \
    soak::hours_of_work_and_a_flood_leave_memory_descriptors_and_log_where_they_were 'in the second half'
run 'flipped bytes (G6)' PHIVAULT_TEST_FLIPS "$(pick 20000 300)" tamper::flips::no_flipped_byte_of_the_database_changes_what_is_stored_unnoticed 'bytes flipped'
run 'lives at random' PHIVAULT_TEST_LIVES "$(pick 1000 20)" keys::life::whatever_happens_in_its_life_a_vault_keeps_what_it_must_and_nothing_else ' lives'

if command -v python3 >/dev/null; then
    cargo build --locked --release
    recovered=$(python3 tests/recovery.py target/release/phivault "$(pick 1000000 50000)" | tee /dev/stderr | paste -sd ';')
    echo "| kill, verify, back up, restore (G14) | \`tests/recovery.py … $(pick 1000000 50000)\` | $recovered | |" >>"$rows"
else
    echo "left out: recovery of a large vault (python3)"
fi
seconds=$(pick 60 4)
flooded=$(PHIVAULT_BENCH_SECONDS=$seconds cargo bench -q --locked --bench overload | tee /dev/stderr | grep -E '^(ten times|p99)' | paste -sd ';')
echo "| ten times what it can take | \`PHIVAULT_BENCH_SECONDS=$seconds cargo bench --bench overload\` | $flooded | |" >>"$rows"
if command -v cargo-fuzz >/dev/null; then
    fuzzed=$(fuzz/run.sh "$(pick 6000000 20000)" | tee /dev/stderr | tail -1)
    echo "| fuzzing (G7) | \`fuzz/run.sh $(pick 6000000 20000)\` | $fuzzed | |" >>"$rows"
else
    echo "left out: fuzzing (cargo install cargo-fuzz)"
fi
if command -v python3 >/dev/null; then
    cargo build --locked
    schema=$(tests/api/schema.sh target/debug/phivault "$(pick 105 1)" 1 | tee /dev/stderr | tr '\n' ';')
    echo "| the API against its document (G8) | \`tests/api/schema.sh\` | $schema | |" >>"$rows"
else
    echo "left out: the API against its document (python3)"
fi

page=docs/reliability.md
{
    sed '/<!-- torture: begin -->/q' "$page"
    printf '\n%s, seed %s, %s cores:\n\n| what | how much | what came of it | took |\n|---|---|---|---|\n' "$(date -u +%F)" "$PHIVAULT_TEST_SEED" "$(nproc)"
    cat "$rows"
    echo
    sed -n '/<!-- torture: end -->/,$p' "$page"
} >"$page.new"
mv "$page.new" "$page"
! grep -q FAILED "$rows"
