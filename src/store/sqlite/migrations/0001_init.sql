-- Entries, in the order of the ledger. Only ever appended to; nothing here is indexed by random keys.
CREATE TABLE entry (
    sequence         INTEGER PRIMARY KEY,
    meta             BLOB    NOT NULL,
    received_at      INTEGER NOT NULL,
    patient_previous INTEGER NOT NULL,
    patient_number   INTEGER NOT NULL,
    commitment       BLOB    NOT NULL CHECK (length(commitment) = 32),
    leaf             BLOB    NOT NULL CHECK (length(leaf) = 32),
    sealed           BLOB    NOT NULL
) STRICT;

-- Guards against our own mistakes, not against somebody who owns the file.
CREATE TRIGGER entry_appends_only BEFORE INSERT ON entry
WHEN NEW.sequence IS NOT (SELECT coalesce(max(sequence) + 1, 0) FROM entry)
BEGIN SELECT RAISE(ABORT, 'entries are appended in order and never replaced'); END;

CREATE TRIGGER entry_keeps_its_content BEFORE UPDATE OF sequence, meta, received_at, patient_previous, patient_number, commitment, leaf ON entry
BEGIN SELECT RAISE(ABORT, 'an entry is never changed'); END;

CREATE TRIGGER entry_stays BEFORE DELETE ON entry
BEGIN SELECT RAISE(ABORT, 'an entry is never deleted'); END;

-- Full tiles of the Merkle tree, level 1 and above; level 0 is the leaf column.
CREATE TABLE tile (
    level  INTEGER NOT NULL,
    n      INTEGER NOT NULL,
    hashes BLOB    NOT NULL CHECK (length(hashes) = 8192),
    PRIMARY KEY (level, n)
) STRICT;

-- The index of closed segments, written once each, in order. key = segment * 2^24 + dimension * 2^16 + chunk.
CREATE TABLE posting (
    key   INTEGER PRIMARY KEY,
    chunk BLOB    NOT NULL
) STRICT;

-- One row a segment whose index is complete: the first key of each chunk, and filters of ids and patients.
CREATE TABLE segment (
    n       INTEGER PRIMARY KEY,
    fences  BLOB    NOT NULL,
    filters BLOB    NOT NULL
) STRICT;

-- How many sealed records of a segment are under which data-key version and bucket; version 0: erased.
CREATE TABLE usage (
    segment INTEGER NOT NULL,
    version INTEGER NOT NULL,
    bucket  INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    PRIMARY KEY (segment, version, bucket)
) STRICT, WITHOUT ROWID;

-- State that is not the ledger, each row authenticated under the state key.
CREATE TABLE state (
    kind TEXT NOT NULL,
    id   TEXT NOT NULL,
    body BLOB NOT NULL,
    tag  BLOB NOT NULL CHECK (length(tag) = 32),
    PRIMARY KEY (kind, id)
) STRICT;
