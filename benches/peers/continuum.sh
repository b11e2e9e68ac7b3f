#!/bin/sh
# SQLAlchemy-Continuum on PostgreSQL beside phivault: a clinical table whose every version is kept in a second table, with a row in a
# table of transactions. The value is encrypted with Fernet by the application; every commit synced (synchronous_commit and fsync on).
# Prints updates a second of random rows, one a transaction, at 1, 8 and 32 clients (processes with a connection each).
# It lacks a ledger and proofs (whoever can write the tables can change history unseen), and a reason; it sees no reads, and no writes
# past the ORM. One key for all values, kept by the application.
#
# Needs PostgreSQL 15 or newer, python3 (3.10 or newer, with venv) and PyPI, and a user that is not root (as root PostgreSQL runs as the
# user postgres). PHIVAULT_BENCH_SECONDS: how long each point is measured (default 10).
set -eu
from=$(cd "$(dirname "$0")" && pwd)
for dir in /usr/lib/postgresql/*/bin; do PATH="$dir:$PATH"; done
here=$(mktemp -d /tmp/phivault-continuum.XXXXXX)
as=
if [ "$(id -u)" = 0 ]; then
    chown postgres "$here"
    as="setpriv --reuid=postgres --regid=postgres --clear-groups"
fi
cd "$here"
trap '$as pg_ctl -D "$here/data" -m immediate stop >/dev/null 2>&1 || true; rm -rf "$here"' EXIT
trap 'exit 1' INT TERM
python3 -m venv "$here/venv"
"$here/venv/bin/pip" -q --disable-pip-version-check install sqlalchemy==2.1.9 sqlalchemy-continuum==2.0.0 cryptography==50.0.2 psycopg2-binary==2.9.13
$as initdb -D "$here/data" -A trust -U bench >/dev/null
$as pg_ctl -D "$here/data" -w -l "$here/log" -o "-p 54331 -k $here -c listen_addresses= -c shared_buffers=512MB -c max_wal_size=4GB" start >/dev/null
psql --version
"$here/venv/bin/python" "$from/continuum.py" "postgresql+psycopg2://bench@/postgres?host=$here&port=54331"
$as pg_ctl -D "$here/data" -w -m fast stop >/dev/null
# a patient's number is not encrypted and must be found, a value must not
[ -n "$(grep -rl MRN- "$here/data")" ]
plain=$(grep -rl abcdefghijabcdefghij "$here/data" | wc -l)
echo "files of the database with a readable value: $plain"
[ "$plain" = 0 ]
