#!/bin/sh
# PostgreSQL beside phivault: rows encrypted by pgcrypto (plain AES, its fastest way; pgp_sym_encrypt is four times slower) into an audit table indexed by actor, patient, record and time, every commit
# synced. It has no ledger, no proofs and no reasons. Prints inserts a second at 1, 8 and 32 clients, for inserts of single rows, for
# a trigger on a clinical table, and for batches of 500.
#
# Needs initdb, pg_ctl and pgbench of PostgreSQL 15 or newer (Debian: postgresql, postgresql-contrib), and a user that is not root
# (as root it uses the user postgres). PHIVAULT_BENCH_SECONDS: how long each point is measured (default 10).
set -eu
seconds=${PHIVAULT_BENCH_SECONDS:-10}
for dir in /usr/lib/postgresql/*/bin; do PATH="$dir:$PATH"; done
here=$(mktemp -d /tmp/phivault-pg.XXXXXX)
as=
if [ "$(id -u)" = 0 ]; then
    chown postgres "$here"
    as="setpriv --reuid=postgres --regid=postgres --clear-groups"
fi
cd "$here"
trap '$as pg_ctl -D "$here/data" -m immediate stop >/dev/null 2>&1 || true; rm -rf "$here"' EXIT
$as initdb -D "$here/data" -A trust -U bench >/dev/null
$as pg_ctl -D "$here/data" -w -l "$here/log" -o "-p 54329 -k $here -c listen_addresses= -c shared_buffers=512MB -c max_wal_size=4GB" start >/dev/null
sql() { psql -q -h "$here" -p 54329 -U bench -d postgres -v ON_ERROR_STOP=1 "$@"; }
sql <<'SQL'
CREATE EXTENSION pgcrypto;
CREATE TABLE audit (
    sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL, patient text NOT NULL, record text NOT NULL, reason text NOT NULL,
    old_value bytea, new_value bytea
);
CREATE INDEX ON audit (actor, at); CREATE INDEX ON audit (patient, at); CREATE INDEX ON audit (record, at);
CREATE UNIQUE INDEX ON audit (id);
CREATE TABLE clinical (id int PRIMARY KEY, patient text NOT NULL, value text NOT NULL);
INSERT INTO clinical SELECT n, 'MRN-' || n % 200000, repeat('x', 300) FROM generate_series(1, 200000) n;
CREATE FUNCTION audited() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (actor, patient, record, reason, old_value, new_value) VALUES (current_user, NEW.patient, 'clinical/' || NEW.id,
        'TREAT', encrypt(convert_to(OLD.value, 'UTF8'), decode(repeat('5a', 16), 'hex'), 'aes'), encrypt(convert_to(NEW.value, 'UTF8'), decode(repeat('5a', 16), 'hex'), 'aes'));
    RETURN NEW;
END $$;
CREATE TRIGGER audited AFTER UPDATE ON clinical FOR EACH ROW EXECUTE FUNCTION audited();
SQL
row="'user-' || (random() * 2000)::int, 'MRN-' || (random() * 200000)::int, 'Observation/o-' || (random() * 200000)::int, 'TREAT',
    encrypt(convert_to(repeat('abcdefghij', 30), 'UTF8'), decode(repeat('5a', 16), 'hex'), 'aes')"
echo "INSERT INTO audit (actor, patient, record, reason, new_value) VALUES ($row);" > insert.sql
echo "INSERT INTO audit (actor, patient, record, reason, new_value) SELECT $row FROM generate_series(1, 500);" > batch.sql
printf '\\set n random(1, 200000)\nUPDATE clinical SET value = repeat(chr(97 + (random() * 25)::int), 300) WHERE id = :n;\n' > trigger.sql
chmod 644 ./*.sql
psql --version
for what in insert trigger batch; do
    for clients in 1 8 32; do
        tps=$(pgbench -n -h "$here" -p 54329 -U bench -f "$what.sql" -c "$clients" -j 2 -T "$seconds" postgres 2>/dev/null | sed -n 's/^tps = \([0-9.]*\).*/\1/p')
        [ "$what" = batch ] && tps=$(echo "$tps * 500" | bc)
        printf '%-8s %3d clients %12.0f rows a second\n' "$what" "$clients" "$tps"
    done
done
sql -At -c "SELECT 'rows ' || count(*) || ', bytes a row ' || pg_total_relation_size('audit') / count(*) FROM audit"
