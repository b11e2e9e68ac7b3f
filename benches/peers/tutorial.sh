#!/bin/sh
# The way tutorials show, beside phivault: an audit table of SQLAlchemy's ORM in one SQLite file (WAL, synchronous=FULL: every commit
# synced), indexed by actor, patient, record and time, the value encrypted with Fernet by the application. Prints inserts a second at
# 1, 8 and 32 clients (one row a commit; clients as processes and as threads of one process, in turn: take the better), each with a
# connection of its own, and for batches of 500 in one commit by one client.
# It lacks a ledger and proofs: whoever can write the file can change or delete rows unseen. One key for all values, kept by the application; actor, patient and record are readable on disk.
#
# Needs python3 (3.10 or newer, with venv) and PyPI. PHIVAULT_BENCH_SECONDS: how long each point is measured (default 10).
set -eu
from=$(cd "$(dirname "$0")" && pwd)
here=$(mktemp -d "${TMPDIR:-/tmp}/phivault-tutorial.XXXXXX")
trap 'rm -rf "$here"' EXIT
trap 'exit 1' INT TERM
python3 -m venv "$here/venv"
"$here/venv/bin/pip" -q --disable-pip-version-check install sqlalchemy==2.1.9 cryptography==50.0.2
"$here/venv/bin/python" "$from/tutorial.py" "$here"
