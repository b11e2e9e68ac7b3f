//! Checkpoints, proofs, and the store's contract.

use std::time::Duration;

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
use phivault::domain::activity::Gathering;
use phivault::domain::index::{Dimension, Indexed, Term};
use phivault::domain::meta::{Actor, Meta, Reason};
use phivault::domain::time::Timestamp;
use phivault::keyfile::{KeyPaths, read_private, read_verifier_key};
use phivault::ledger::checkpoint::{self, Checkpoint};
use phivault::ledger::hash::{Hash, leaf_hash};
use phivault::ledger::leaf::{Sequenced, entry_leaf, leaf_data};
use phivault::ledger::proof::{consistency_proof, inclusion_proof, root_at, verify_consistency, verify_inclusion};
use phivault::ledger::tiles::TileName;
use phivault::ledger::tree::{Edge, TileSource};
use phivault::store::sqlite::{Reader, SqliteStore};
use phivault::store::{Batch, Order, Row, SEGMENT, Store, StoreError};
use rusqlite::Connection;
use serde_json::Value;
use sha2::Sha256;

use crate::app::{App, entry};
use crate::check::entries;

fn open(app: &App, note: &str) -> Checkpoint {
    let key = read_verifier_key(&KeyPaths::in_folder(&app.dir().join("keys")).verifier_key()).unwrap();
    checkpoint::open(note, key.name(), std::slice::from_ref(&key)).unwrap()
}

fn holds(app: &App, proof: &Value) -> bool {
    let signed = open(app, proof["checkpoint"].as_str().unwrap());
    let hash = |it: &Value| Hash::from_hex(it.as_str().unwrap()).unwrap();
    let hashes: Vec<_> = proof["hashes"].as_array().unwrap().iter().map(hash).collect();
    let index = proof["index"].as_u64().unwrap();
    verify_inclusion(&hash(&proof["leaf_hash"]), index, signed.size, &hashes, &signed.root).is_ok()
}

/// The root over the first entries, by another implementation.
fn foreign_root(app: &App, size: u64) -> Hash {
    let mut tree = MemoryBackedTree::<Sha256, Vec<u8>>::new();
    for it in &entries(app.dir())[..usize::try_from(size).unwrap()] {
        let sequenced =
            Sequenced { received_at: it.received_at, patient_previous: it.previous, patient_number: it.number };
        tree.push(leaf_data(&it.meta_bytes, &it.commitment, sequenced));
    }
    Hash::from_slice(tree.root().as_bytes()).unwrap()
}

#[tokio::test]
async fn proofs_hold_at_sizes_around_full_tiles_and_forged_ones_do_not() {
    let mut app = App::spawn().await;
    let mut seen = Vec::new();
    for count in [1, 200, 60, 256, 3] {
        let lines: Vec<String> = (0..count).map(|_| entry().to_string()).collect();
        let answer =
            app.submitter().post_text("/v1/entries/batch", "application/x-ndjson", lines.join("\n")).await.json();
        let results = answer["results"].as_array().unwrap();
        for at in [0, results.len() / 2, results.len() - 1] {
            let id = results[at]["receipt"]["id"].as_str().unwrap();
            let proof = app.auditor().get(&format!("/v1/entries/{id}/proof")).await.json();
            assert!(holds(&app, &proof), "{proof:#}");
            let signed = open(&app, proof["checkpoint"].as_str().unwrap());
            assert_eq!(foreign_root(&app, signed.size), signed.root);
            let mut forged = [proof.clone(), proof.clone(), proof.clone()];
            forged[0]["leaf_hash"] = Value::from("00".repeat(32));
            forged[1]["index"] = Value::from(proof["index"].as_u64().unwrap() ^ 1);
            match forged[2]["hashes"].as_array_mut().unwrap().pop() {
                Some(_) => assert!(!holds(&app, &forged[2]), "a proof cut short holds"),
                None => assert_eq!(signed.size, 1),
            }
            assert!(!holds(&app, &forged[0]) && !holds(&app, &forged[1]));
            seen.push(signed);
        }
    }
    assert!(seen.is_sorted_by_key(|it| it.size), "checkpoints never go back");
    let served = app.auditor().get("/checkpoint").await.text;
    let lock = KeyPaths::in_folder(&app.dir().join("keys")).lock;
    assert_eq!(open(&app, &served).size, open(&app, &read_private(&lock, "lock").unwrap()).size);
    app.stop();
    let at_stop = open(&app, &read_private(&lock, "lock").unwrap());
    assert_eq!(at_stop.size, entries(app.dir()).len() as u64, "a clean stop leaves nothing unsigned");
    app.start();
    assert!(open(&app, &app.auditor().get("/checkpoint").await.text).size >= at_stop.size);
    app.finish();
}

/// What somebody without a token can fetch.
struct Public {
    client: crate::app::Client,
    http: reqwest::Client,
    url: String,
}

impl Public {
    fn of(app: &App) -> Self {
        Self { client: app.with_token("none"), http: crate::app::http(), url: app.url().into() }
    }

    async fn tile(&self, level: u8, index: u64, width: usize) -> Vec<Hash> {
        let name = TileName { level, index, width };
        let answer = self.http.get(format!("{}/tile/{name}", self.url)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{name}");
        assert_eq!(answer.headers()["content-type"], "application/octet-stream");
        assert!(answer.headers()["cache-control"].to_str().unwrap().contains("immutable"));
        let bytes = answer.bytes().await.unwrap();
        assert_eq!(bytes.len(), 32 * width);
        bytes.chunks(32).map(|it| Hash::from_slice(it).unwrap()).collect()
    }

    /// Every tile of a tree, fetched, as a proof reads them.
    async fn tree(&self, size: u64) -> Fetched {
        let mut tiles = std::collections::BTreeMap::new();
        for level in 0_u8..8 {
            let hashes = size >> (8 * u32::from(level));
            for index in 0..hashes.div_ceil(256) {
                let width = usize::try_from((hashes - index * 256).min(256)).unwrap();
                tiles.insert((level, index), self.tile(level, index, width).await);
            }
        }
        Fetched(tiles)
    }
}

struct Fetched(std::collections::BTreeMap<(u8, u64), Vec<Hash>>);

impl TileSource for Fetched {
    type Error = std::convert::Infallible;

    fn tile(&self, level: u8, index: u64, width: usize) -> Result<Vec<Hash>, Self::Error> {
        Ok(self.0[&(level, index)][..width].to_vec())
    }
}

#[tokio::test]
async fn an_outsider_rebuilds_the_tree_from_tiles_and_follows_it_from_checkpoint_to_checkpoint() {
    let app = App::spawn().await;
    let public = Public::of(&app);
    let mut before: Option<Checkpoint> = None;
    for count in [3, 300, 1, 500] {
        let lines: Vec<String> = (0..count).map(|_| entry().to_string()).collect();
        let answer = app.submitter().post_text("/v1/entries/batch", "application/x-ndjson", lines.join("\n")).await;
        let last = answer.json()["results"][count - 1]["receipt"]["id"].as_str().unwrap().to_owned();
        // A proof waits for the checkpoint that covers it.
        assert_eq!(app.auditor().get(&format!("/v1/entries/{last}/proof")).await.status, 200);
        let signed = open(&app, &public.client.get("/checkpoint").await.text);
        let tree = public.tree(signed.size).await;
        assert_eq!(root_at(&tree, signed.size).unwrap(), signed.root, "the tiles come to the signed root");
        assert_eq!(foreign_root(&app, signed.size), signed.root);
        if let Some(before) = before {
            let path = format!("/v1/ledger/consistency?from={}", before.size);
            let proof = public.client.get(&path).await.json();
            let hash = |it: &Value| Hash::from_hex(it.as_str().unwrap()).unwrap();
            let hashes: Vec<_> = proof["hashes"].as_array().unwrap().iter().map(hash).collect();
            let now = open(&app, proof["checkpoint"].as_str().unwrap());
            verify_consistency(before.size, &before.root, now.size, &now.root, &hashes).unwrap();
            let other = Hash([7; 32]);
            assert!(verify_consistency(before.size, &other, now.size, &now.root, &hashes).is_err());
        }
        before = Some(signed);
    }
    let size = before.unwrap().size;
    let level_0 = size / 256;
    for missing in [
        format!("0/{:03}", level_0),
        format!("0/{:03}.p/{}", level_0, size % 256 + 200),
        "1/000".into(),
        "7/000.p/1".into(),
        "64/000".into(),
        "0/0".into(),
        "entries/000".into(),
        "0/999".into(),
        String::new(),
        "63/x018/x446/x744/x073/x709/x551/615".into(),
    ] {
        let answer = public.client.get(&format!("/tile/{missing}")).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "no_such_tile"), "{missing}");
    }
    for from in ["0", "999999", "x", "-1", ""] {
        let answer = public.client.get(&format!("/v1/ledger/consistency?from={from}")).await;
        assert_eq!(answer.status, 400, "{from}: {answer:?}");
    }
    app.finish();
}

fn made_up(sequence: u64) -> (Row, Indexed) {
    let mut meta = Meta {
        id: uuid::Uuid::from_u128(u128::from(sequence).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) | 1),
        source: format!("source-{}", sequence % 3),
        action: phivault::domain::action::Action::READ,
        outcome: phivault::domain::action::Outcome::Success,
        occurred_at: None,
        ended_at: None,
        effective_at: None,
        actor: Actor { id: format!("user-{}", sequence % 701), ..Actor::default() },
        patient: None,
        record: None,
        category: None,
        sensitivity: Vec::new(),
        reason: Reason { code: "TREAT".into(), ..Reason::default() },
        fields: Vec::new(),
        basis: None,
        related: Vec::new(),
        context: phivault::domain::meta::Context::default(),
        facts: Vec::new(),
    };
    meta.context.session_id = Some(format!("session-{}", sequence / 5));
    let bytes = meta.encode();
    let sequenced = Sequenced { received_at: 1, patient_previous: 0, patient_number: 0 };
    let row = Row {
        sequence,
        leaf: entry_leaf(&bytes, &[0; 32], sequenced),
        meta: bytes,
        received_at: 1,
        patient_previous: 0,
        patient_number: 0,
        commitment: [0; 32],
        sealed: vec![1],
    };
    (row, Indexed::of(&meta))
}

/// All that the stored index of the first segment holds, if it is complete.
fn whole_index(reader: &Reader) -> Option<Vec<(u8, u64, u16)>> {
    let mut all = Vec::new();
    let complete = reader.segment(0, &mut |dimension, key, position| all.push((dimension, key, position))).unwrap();
    all.sort_unstable();
    complete.then_some(all)
}

fn append(store: &SqliteStore, count: u64) {
    let (rows, index): (Vec<_>, Vec<_>) = (store.size()..store.size() + count).map(made_up).unzip();
    store.append(&Batch { rows: &rows, index: &index, ..Batch::default() }).unwrap();
}

/// Whatever is asked of the index equals what was put in, in both orders, page by page.
fn agrees(store: &SqliteStore) {
    let size = store.size();
    for user in [0_u64, 5, 700] {
        let term = Term::new(Dimension::Actor, &[format!("user-{user}").as_bytes()]);
        let expected: Vec<u64> = (0..size).filter(|n| n % 701 == user).collect();
        for order in [Order::OldestFirst, Order::NewestFirst] {
            let (mut found, mut range) = (Vec::new(), 0..size);
            loop {
                let page = store.find(&[vec![term]], range.clone(), order, 37).unwrap();
                found.extend(page.sequences);
                match (page.next, order) {
                    (None, _) => break,
                    (Some(next), Order::OldestFirst) => range.start = next,
                    (Some(next), Order::NewestFirst) => range.end = next + 1,
                }
            }
            if order == Order::NewestFirst {
                found.reverse();
            }
            assert_eq!(found, expected, "user-{user} {order:?}");
        }
        let source = Term::new(Dimension::Source, &[b"source-1"]);
        let both = store.find(&[vec![term], vec![source]], 0..size, Order::OldestFirst, usize::MAX).unwrap();
        let expected: Vec<u64> = expected.into_iter().filter(|n| n % 3 == 1).collect();
        assert_eq!(both.sequences, expected);
    }
    for n in [0, 1, SEGMENT - 1, SEGMENT, size - 1] {
        let (row, index) = made_up(n);
        let id = index.terms.into_iter().find(|it| it.dimension == Dimension::Id).unwrap();
        assert_eq!(store.find(&[vec![id]], 0..size, Order::NewestFirst, 9).unwrap().sequences, [n]);
        assert_eq!(store.rows(&[n]).unwrap(), [row]);
    }
    let nobody = Term::new(Dimension::Id, &[b"nobody"]);
    assert!(store.find(&[vec![nobody]], 0..size, Order::NewestFirst, 9).unwrap().sequences.is_empty());
}

/// What the segments are counted by is what their entries give.
fn counts(store: &SqliteStore) {
    let size = store.size();
    for (n, end) in [(0, SEGMENT), (1, size), (1, size - 3)] {
        let mut wanted = Gathering::default();
        for sequence in n * SEGMENT..end {
            let (row, index) = made_up(sequence);
            wanted.add(&index.deed, Timestamp(row.received_at), u16::try_from(sequence % SEGMENT).unwrap());
        }
        let found = store.activity(n, end, true).unwrap().unwrap();
        // Acts of entries beyond the end may stand in the list of acts.
        assert_eq!(found.moments, wanted.clone().finish(u32::MAX).moments, "segment {n} to {end}");
        assert!(end != SEGMENT || found == wanted.finish(u32::MAX));
    }
    assert!(store.activity(0, SEGMENT - 1, true).unwrap().is_none(), "a part of a closed segment is not kept");
}

#[test]
fn the_store_keeps_its_contract_across_a_segment_and_a_lost_index_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vault.db");
    SqliteStore::create(&path).unwrap();
    let store = SqliteStore::open(&path).unwrap();
    append(&store, SEGMENT - 10);
    let (row, index) = made_up(7);
    let stale = store.append(&Batch { rows: &[row], index: &[index], ..Batch::default() });
    assert!(matches!(stale, Err(StoreError::Stale)), "{stale:?}");
    append(&store, 50);
    agrees(&store);
    // A few commits later the closed segment's index is on disk.
    let reader = SqliteStore::reader(&path).unwrap();
    let mut commits = 0;
    while whole_index(&reader).is_none() {
        append(&store, 1);
        commits += 1;
        // The next segment must not be full before: on a fast disk commits outrun whoever writes the index.
        std::thread::sleep(Duration::from_millis(u64::from(commits > 10_000)));
        assert!(commits < SEGMENT - 100, "the index is never written");
    }
    agrees(&store);
    counts(&store);
    let whole = whole_index(&reader).unwrap();
    drop(store);
    agrees(&SqliteStore::open(&path).unwrap());
    for loss in ["DELETE FROM segment", "DELETE FROM segment; DELETE FROM posting WHERE key % 2 = 0"] {
        Connection::open(&path).unwrap().execute_batch(loss).unwrap();
        let store = SqliteStore::open(&path).unwrap();
        // Without its index a segment is read entry by entry.
        let (row, index) = made_up(4_711);
        assert_eq!(store.find(&[index.terms], 0..store.size(), Order::OldestFirst, 1).unwrap().sequences.len(), 1);
        assert_eq!(store.rows(&[4_711]).unwrap(), [row]);
        store.repair().unwrap();
        agrees(&store);
        counts(&store);
        assert!(whole_index(&reader).unwrap() == whole, "the same index is made again after {loss}");
    }
}

/// All hashes of a tree, level by level, as an edge gives them out.
struct Grown(Vec<Vec<Hash>>);

impl TileSource for Grown {
    type Error = std::convert::Infallible;

    fn tile(&self, level: u8, index: u64, width: usize) -> Result<Vec<Hash>, Self::Error> {
        let begin = usize::try_from(index * 256).unwrap();
        Ok(self.0[usize::from(level)][begin..begin + width].to_vec())
    }
}

#[test]
fn another_library_accepts_ten_thousand_proofs_of_trees_of_up_to_a_million_leaves() {
    const SIZE: u64 = 1 << 20;
    let (mut edge, mut levels) = (Edge::new(), vec![Vec::new(); 4]);
    for n in 0..SIZE {
        for tile in edge.append(leaf_hash(&n.to_be_bytes())) {
            levels[usize::from(tile.level)].extend(tile.hashes);
        }
    }
    (0..4_u8).for_each(|level| levels[usize::from(level)].extend_from_slice(edge.level(level)));
    let tree = Grown(levels);
    let mut judge = MemoryBackedTree::<Sha256, [u8; 8]>::new();
    (0..SIZE).for_each(|n| judge.push(n.to_be_bytes()));
    let root = root_at(&tree, SIZE).unwrap();
    assert_eq!(root.as_bytes()[..], judge.root().as_bytes()[..]);
    let head = RootHash::<Sha256>::new(root.0.into(), SIZE);
    let bytes = |proof: &[Hash]| proof.iter().flat_map(|hash| hash.0).collect::<Vec<u8>>();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |most: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % most
    };
    for _ in 0..10_000 {
        let size = 1 + below(SIZE);
        let (index, old) = (below(size), 1 + below(size));
        let (at_size, at_old) = (root_at(&tree, size).unwrap(), root_at(&tree, old).unwrap());
        let (signed, before) = (RootHash::<Sha256>::new(at_size.0.into(), size), RootHash::new(at_old.0.into(), old));
        // The root at that size is right, for the judge's own root extends it.
        let growth = ConsistencyProof::try_from_bytes(bytes(&consistency_proof(&tree, size, SIZE).unwrap())).unwrap();
        head.verify_consistency(&signed, &growth).unwrap();
        let proof = consistency_proof(&tree, old, size).unwrap();
        let judged = ConsistencyProof::try_from_bytes(bytes(&proof)).unwrap();
        signed.verify_consistency(&before, &judged).unwrap();
        verify_consistency(old, &at_old, size, &at_size, &proof).unwrap();
        let proof = inclusion_proof(&tree, index, size).unwrap();
        let judged = InclusionProof::try_from_bytes(bytes(&proof)).unwrap();
        signed.verify_inclusion(&index.to_be_bytes(), index, &judged).unwrap();
        verify_inclusion(&leaf_hash(&index.to_be_bytes()), index, size, &proof, &at_size).unwrap();
    }
}
