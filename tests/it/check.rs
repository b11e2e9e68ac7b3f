//! The invariant checker: re-derives everything a vault promises from its files, by other means than the vault's own where
//! there are any. Called at the end of every scenario.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use phivault::crypto::keyring::Keyring;
use phivault::crypto::{label, mac, seal};
use phivault::domain::action::Action;
use phivault::domain::index::{Dimension, terms};
use phivault::domain::meta::{Meta, Patient};
use phivault::keyfile::{KeyPaths, read_key_file, read_private, read_verifier_key};
use phivault::ledger::checkpoint;
use phivault::ledger::hash::{Hash, leaf_hash};
use phivault::ledger::leaf::{Sequenced, leaf_data};
use phivault::store::sqlite::SqliteStore;
use phivault::store::{Order, SEGMENT, Store};
use rusqlite::{Connection, OpenFlags};
use sha2::Sha256;

use crate::app::{unlock_file, verify};

/// One stored entry.
pub struct Stored {
    pub meta: Meta,
    pub meta_bytes: Vec<u8>,
    pub received_at: i64,
    pub previous: u64,
    pub number: u64,
    pub commitment: [u8; 32],
    pub leaf: [u8; 32],
    pub sealed: Vec<u8>,
}

/// Reads every entry with plain SQL.
pub fn entries(dir: &Path) -> Vec<Stored> {
    let database = Connection::open_with_flags(dir.join("data/vault.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let sql = "SELECT sequence, meta, received_at, patient_previous, patient_number, commitment, leaf, sealed FROM entry ORDER BY sequence";
    let mut statement = database.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| {
        let meta_bytes: Vec<u8> = row.get(1)?;
        let stored = Stored {
            meta: Meta::decode(&meta_bytes).unwrap(),
            meta_bytes,
            received_at: row.get(2)?,
            previous: row.get::<_, i64>(3)?.try_into().unwrap(),
            number: row.get::<_, i64>(4)?.try_into().unwrap(),
            commitment: row.get(5)?,
            leaf: row.get(6)?,
            sealed: row.get(7)?,
        };
        Ok((row.get::<_, i64>(0)?, stored))
    });
    let rows: Vec<_> = rows.unwrap().map(Result::unwrap).collect();
    assert!(rows.iter().enumerate().all(|(n, (sequence, _))| *sequence == n as i64), "positions have no gap");
    rows.into_iter().map(|(_, stored)| stored).collect()
}

/// Checks every invariant of a stopped vault.
pub fn check_vault(dir: &Path) {
    let entries = entries(dir);
    check_rows(&entries);
    check_tree(dir, &entries);
    check_seals(&entries);
    check_values(dir, &entries);
    check_index(dir, &entries);
    check_state(dir, &entries);
    let (code, report) = verify(dir);
    assert_eq!((code, report["verdict"].as_str()), (0, Some("intact")), "{report:#}");
    assert_eq!(report["entries"], entries.len());
}

/// Leaves, times, ids and patient chains.
fn check_rows(entries: &[Stored]) {
    let mut ids = HashSet::new();
    let mut heads: HashMap<&Patient, (u64, u64)> = HashMap::new();
    let mut last = i64::MIN;
    for (n, entry) in entries.iter().enumerate() {
        let sequenced = Sequenced {
            received_at: entry.received_at,
            patient_previous: entry.previous,
            patient_number: entry.number,
        };
        let leaf = leaf_hash(&leaf_data(&entry.meta_bytes, &entry.commitment, sequenced));
        assert_eq!(leaf.0, entry.leaf, "leaf of entry {n}");
        assert!(entry.received_at >= last, "time falls at entry {n}");
        last = entry.received_at;
        assert!(ids.insert(entry.meta.id), "the id of entry {n} is there twice");
        match &entry.meta.patient {
            None => assert_eq!((entry.previous, entry.number), (0, 0)),
            Some(patient) => {
                let head = heads.entry(patient).or_default();
                assert_eq!((entry.previous, entry.number), (head.0, head.1 + 1), "patient chain at entry {n}");
                *head = (n as u64, head.1 + 1);
            }
        }
    }
    assert_eq!(entries[0].meta.action, Action::VAULT_CREATE);
}

/// The lock's checkpoint is signed and has the root that another implementation of RFC 6962 computes.
fn check_tree(dir: &Path, entries: &[Stored]) {
    let paths = KeyPaths::in_folder(&dir.join("keys"));
    let key = read_verifier_key(&paths.verifier_key()).unwrap();
    let note = read_private(&paths.lock, "lock").unwrap();
    let signed = checkpoint::open(&note, key.name(), std::slice::from_ref(&key)).unwrap();
    let mut tree = MemoryBackedTree::<Sha256, Vec<u8>>::new();
    let covered = usize::try_from(signed.size).unwrap();
    assert!(covered <= entries.len(), "the lock is ahead of the database");
    for entry in &entries[..covered] {
        let sequenced = Sequenced {
            received_at: entry.received_at,
            patient_previous: entry.previous,
            patient_number: entry.number,
        };
        tree.push(leaf_data(&entry.meta_bytes, &entry.commitment, sequenced));
    }
    assert_eq!(Hash::from_slice(tree.root().as_bytes()).unwrap(), signed.root, "root of the checkpoint");
}

/// Every range of ciphertexts between two seal entries has the root that was stated of it last: by the seal entry, or by a
/// re-encryption or erasure after it.
fn check_seals(entries: &[Stored]) {
    let (mut from, mut leaves) = (0, Vec::new());
    let mut stated = BTreeMap::new();
    for (n, entry) in entries.iter().enumerate() {
        let fact = |name| entry.meta.fact(name).unwrap_or_default().to_owned();
        if entry.meta.action == Action::SEAL {
            assert_eq!((fact("from"), fact("to")), (from.to_string(), n.to_string()), "seal entry {n}");
            let mut tree = MemoryBackedTree::<Sha256, Vec<u8>>::new();
            leaves.drain(..).for_each(|leaf: [u8; 32]| tree.push(leaf.to_vec()));
            stated.insert((fact("from"), fact("to")), (fact("root"), hex::encode(tree.root().as_bytes())));
            from = n;
        }
        if [Action::KEY_REENCRYPT, Action::ERASE, Action::REDACT].contains(&entry.meta.action)
            && !fact("root").is_empty()
        {
            let range =
                stated.get_mut(&(fact("from"), fact("to"))).unwrap_or_else(|| panic!("{n} is of a sealed range"));
            range.0 = fact("root");
        }
        leaves.push(mac::digest(label::SEAL_LEAF, &[entry.meta.id.as_bytes(), &entry.sealed]));
    }
    for (range, (stated, found)) in stated {
        assert_eq!(stated, found, "ciphertexts of {range:?}");
    }
    assert!(leaves.len() <= 20_000, "too many ciphertexts are not covered");
}

/// Every value opens under the keyring and is the one committed to; no salt is used twice.
fn check_values(dir: &Path, entries: &[Stored]) {
    let paths = KeyPaths::in_folder(&dir.join("keys"));
    let file = read_private(&paths.keyring, "keyring").unwrap();
    let (ring, _) = Keyring::decode(&file, &read_key_file(&unlock_file(dir)).unwrap()).unwrap();
    let mut salts = HashSet::new();
    for (n, entry) in entries.iter().enumerate() {
        if let Some((bucket, certificate)) = seal::is_erased(&entry.sealed) {
            let certificate = uuid::Uuid::from_bytes(certificate);
            let why =
                entries.iter().find(|it| it.meta.id == certificate).expect("an erased record names its certificate");
            assert!([Action::DISPOSE, Action::REDACT].contains(&why.meta.action), "entry {n}");
            assert!(ring.bucket(bucket).is_some());
            continue;
        }
        let keys = ring.opening(seal::header(&entry.sealed).unwrap()).unwrap();
        let opened = seal::open(&keys, entry.meta.id.as_bytes(), &entry.meta_bytes, &entry.sealed, &entry.commitment);
        assert!(opened.is_ok(), "the values of entry {n} do not open");
        assert!(salts.insert(entry.sealed[9..41].to_vec()), "the salt of entry {n} was used before");
    }
    let newest = entries.iter().rev().find_map(|it| it.meta.fact("keyring_digest")).unwrap();
    assert_eq!(newest, phivault::crypto::keyring::file_digest(&file), "the ledger knows this keyring as the newest");
}

/// Whatever the index answers is what a scan of the entries finds.
fn check_index(dir: &Path, entries: &[Stored]) {
    let store = SqliteStore::open(&dir.join("data/vault.db")).unwrap();
    store.repair().unwrap();
    assert_eq!(store.size(), entries.len() as u64);
    let mut wanted: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    for (n, entry) in entries.iter().enumerate() {
        for term in terms(&entry.meta) {
            wanted.entry(term).or_default().push(n as u64);
        }
    }
    // Ids are many and alike; a sample of them is enough.
    for (term, positions) in wanted
        .iter()
        .enumerate()
        .filter(|(n, (term, _))| term.dimension != Dimension::Id || n % 50 == 0)
        .map(|(_, it)| it)
    {
        let found = store.find(&[vec![*term]], 0..store.size(), Order::OldestFirst, usize::MAX).unwrap();
        assert_eq!(found.sequences, *positions, "{term:?}");
    }
    for n in 0..store.size() / SEGMENT {
        let reader = SqliteStore::reader(&dir.join("data/vault.db")).unwrap();
        assert!(reader.segment(n, &mut |_, _, _| {}).unwrap(), "the index of segment {n} is complete after a restart");
    }
}

/// Every state row is the one that the newest entry about it commits to.
fn check_state(dir: &Path, entries: &[Stored]) {
    let reader = SqliteStore::reader(&dir.join("data/vault.db")).unwrap();
    let mut all: Vec<Vec<u8>> = Vec::new();
    for row in
        ["approval", "hold", "login", "report", "restore", "token"].iter().flat_map(|kind| reader.state(kind).unwrap())
    {
        let parts: [&[u8]; 4] = [row.kind.as_bytes(), row.id.as_bytes(), &row.body, &row.tag];
        let digest = hex::encode(mac::digest(label::STATE_DIGEST, &parts));
        let among_many = format!("state_digest/{}/{}", row.kind, row.id);
        let states = |it: &'_ Stored| {
            let record = it.meta.record.as_ref();
            let alone = record.is_some_and(|of| of.kind.to_lowercase() == row.kind && of.id == row.id);
            let fact = it.meta.fact("state_digest").filter(|_| alone).or_else(|| it.meta.fact(&among_many));
            fact.map(str::to_owned)
        };
        let newest = entries.iter().rev().find_map(states).unwrap();
        assert_eq!(newest, digest, "{} row {}", row.kind, row.id);
        all.extend([row.kind.into_bytes(), row.id.into_bytes(), digest.into_bytes()]);
    }
    let root = hex::encode(mac::digest(label::STATE_ROOT, &all.iter().map(Vec::as_slice).collect::<Vec<_>>()));
    let newest = entries.iter().rev().find(|it| it.meta.action == Action::SEAL).unwrap();
    assert_eq!(newest.meta.fact("state_root"), Some(root.as_str()), "the newest seal entry commits to all state rows");
}
