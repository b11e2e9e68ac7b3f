//! What is fed to each reader of foreign bytes, and what must hold whatever they are: no panic, no hang, and what is accepted is
//! exactly what would be written. Included by the fuzzer and by the tests, which run the corpus and random bytes.

use std::path::Path;
use std::sync::LazyLock;

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ct_merkle::{ConsistencyProof, InclusionProof};
use phivault::config::Settings;
use phivault::crypto::kek::Unlock;
use phivault::crypto::keyring::Keyring;
use phivault::crypto::seal::{self, SealKeys};
use phivault::crypto::secret::Secret;
use phivault::crypto::token::PlainToken;
use phivault::domain::fields::Fields;
use phivault::domain::meta::Meta;
use phivault::domain::query::QueryIn;
use phivault::domain::reason::Vocabulary;
use phivault::domain::retention::Retention;
use phivault::domain::rules::{self, Arrival, Item, NoOp, Rules};
use phivault::domain::submission::Submission;
use phivault::domain::time::Timestamp;
use phivault::domain::value::Phi;
use phivault::domain::{batch, canonical, json};
use phivault::ledger::checkpoint::Checkpoint;
use phivault::ledger::hash::{Hash, leaf_hash};
use phivault::ledger::note::{KeyKind, Note, NoteSigner, VerifierKey};
use phivault::ledger::policy::Policy;
use phivault::ledger::proof::{verify_consistency, verify_inclusion};
use phivault::ledger::receipt::TlogProof;
use phivault::ledger::tiles::TileName;
use phivault::ledger::witness::{self, AddCheckpoint};
use phivault::vault::Walk;
use sha2::Sha256;
use uuid::Uuid;

/// Takes whatever bytes come; panics when what must hold does not.
type Target = fn(&[u8]);

/// Every target by name.
pub const ALL: [(&str, Target); 17] = [
    ("submission", submission),
    ("batch", batch_lines),
    ("query", query),
    ("canonical", canonical_bytes),
    ("value", value),
    ("sealed", sealed),
    ("keyring", keyring),
    ("note", note),
    ("proof", proof),
    ("merkle", merkle),
    ("tile", tile),
    ("policy", policy),
    ("witness", add_checkpoint),
    ("cursor", cursor),
    ("token", token),
    ("config", config),
    ("lists", lists),
];

static VOCABULARY: LazyLock<Vocabulary> =
    LazyLock::new(|| Vocabulary::parse(include_str!("../config/reasons.toml")).expect("the vocabulary reads"));

static RULES: LazyLock<Rules> = LazyLock::new(|| Rules {
    require_patient: true,
    max_skew_seconds: 300,
    no_op: NoOp::Keep,
    retention: Retention::parse(include_str!("../config/retention.toml")).expect("the classes read"),
    fields: Fields::parse(include_str!("../config/fields.toml")).expect("the fields read"),
});

/// What the rules let in has canonical bytes that read back as the same.
fn submission(data: &[u8]) {
    let Ok(submission) = json::parse::<Submission>(data) else { return };
    let now = Timestamp(1_800_000_000_000_000);
    let arrival = Arrival { source: "app", now, received: now, fresh_id: Uuid::from_bytes([7; 16]) };
    let Ok(draft) = rules::draft(submission, &arrival, &RULES, &VOCABULARY) else { return };
    let bytes = draft.meta.encode();
    assert_eq!(Meta::decode(&bytes).expect("what was taken is canonical").encode(), bytes);
    assert!(draft.items.is_sorted_by(|a, b| a.path < b.path), "no two values have one place");
    for item in &draft.items {
        let mut bytes = Vec::new();
        canonical::put_value(&mut bytes, item.value.expose());
        value(&bytes);
    }
}

/// Lines and items lie within the body, and are no more than asked for.
fn batch_lines(data: &[u8]) {
    let lines = batch::ndjson(data, 10);
    assert!(lines.len() <= 11 && lines.iter().all(|(n, line)| *n > 0 && !line.contains(&b'\n')));
    if let Ok(items) = batch::array(data, 10) {
        assert!(items.len() <= 11 && items.iter().all(|(_, item)| data.windows(item.len()).any(|it| it == *item)));
    }
    lines.into_iter().take(3).for_each(|(_, line)| submission(line));
}

fn query(data: &[u8]) {
    let Ok(asked) = json::parse::<QueryIn>(data) else { return };
    if let Ok(query) = asked.check(|_| Vec::new()) {
        assert_eq!(query.filter.canonical(), query.filter.canonical());
        drop(query.filter.terms());
    }
}

fn canonical_bytes(data: &[u8]) {
    if let Ok(meta) = Meta::decode(data) {
        assert_eq!(meta.encode(), data, "one entry has one form");
    }
}

fn value(data: &[u8]) {
    let mut rest = data;
    if let Ok(value) = canonical::take_value(&mut rest) {
        let mut again = Vec::new();
        canonical::put_value(&mut again, &value);
        assert_eq!(again, data[..data.len() - rest.len()], "one value has one form");
    }
}

/// Foreign bytes never open; sealed ones do, and no longer after a change.
fn sealed(data: &[u8]) {
    let (data_key, bucket_secret) = (Secret::new([1; 32]), Secret::new([2; 32]));
    let keys = SealKeys { version: 1, data_key: &data_key, bucket: 1, bucket_secret: &bucket_secret };
    let id = [9; 16];
    let _ = (seal::header(data), seal::is_erased(data), seal::counted_under(data));
    assert!(seal::open(&keys, &id, b"meta", data, &[0; 32]).is_err(), "nobody sealed this");
    let Some((place, text)) = data.split_at_checked(3) else { return };
    let items = [Item { path: "note".into(), value: Phi::text(String::from_utf8_lossy(text)) }];
    let mut made = seal::seal(&keys, &id, b"meta", &items);
    assert!(seal::open(&keys, &id, b"meta", &made.bytes, &made.commitment).is_ok());
    let at = usize::from(u16::from_be_bytes([place[0], place[1]])) % made.bytes.len();
    made.bytes[at] ^= place[2].max(1);
    // Version and bucket only say which keys to take; these were taken already, and are bound as associated data.
    assert!(seal::open(&keys, &id, b"meta", &made.bytes, &made.commitment).is_err(), "byte {at} counts for nothing");
}

/// Only what the key seals opens.
fn keyring(data: &[u8]) {
    static GENUINE: &str = include_str!("corpus/keyring/genuine");
    let Ok(text) = std::str::from_utf8(data) else { return };
    let unlock = Unlock::KeyFile(Secret::new([0x5a; 32]));
    if Keyring::decode(text, &unlock).is_ok() {
        assert_eq!(text, GENUINE, "it was changed and opens");
    }
}

fn note(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(note) = Note::parse(text) {
        assert_eq!(note.to_string(), text);
        if let Ok(checkpoint) = Checkpoint::parse(&note.text) {
            assert_eq!(checkpoint.to_text(), note.text);
        }
    }
    if let Ok(checkpoint) = Checkpoint::parse(text) {
        assert_eq!(checkpoint.to_text(), text);
    }
    if let Ok(key) = VerifierKey::parse(text) {
        assert_eq!(key.to_string(), text);
    }
}

fn proof(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(proof) = TlogProof::parse(text) {
        assert_eq!(proof.to_string(), text);
    }
}

/// Our verifier and another of RFC 6962 agree on proofs that were changed at will.
fn merkle(data: &[u8]) {
    let Some((&[size, index, old, index_told, size_told, edit, at, with], rest)) = data.split_first_chunk::<8>() else {
        return;
    };
    let size = u64::from(size % 65) + 1;
    let (index, old) = (u64::from(index) % size, u64::from(old) % size + 1);
    let tree = |size: u64| {
        let mut tree = MemoryBackedTree::<Sha256, Vec<u8>>::new();
        (0..size).for_each(|n| tree.push(n.to_be_bytes().to_vec()));
        tree
    };
    let (whole, before) = (tree(size), tree(old));
    let root_of =
        |tree: &MemoryBackedTree<Sha256, Vec<u8>>| Hash::from_slice(tree.root().as_bytes()).expect("32 bytes");
    let changed = |mut bytes: Vec<u8>| {
        match edit % 4 {
            0 if !bytes.is_empty() => {
                let at = usize::from(at) % bytes.len();
                bytes[at] ^= with;
            }
            1 => bytes.truncate(usize::from(at) % (bytes.len() / 32 + 1) * 32),
            2 => bytes.extend(rest.chunks_exact(32).flatten()),
            _ => {}
        }
        bytes
    };
    let hashes = |bytes: &[u8]| bytes.chunks_exact(32).filter_map(Hash::from_slice).collect::<Vec<_>>();
    // Inclusion: of a leaf that may be another than is told.
    let told = if edit & 4 == 0 { index } else { u64::from(index_told) % size };
    let bytes = changed(whole.prove_inclusion(index as usize).as_bytes().to_vec());
    let leaf = index.to_be_bytes().to_vec();
    let ours = verify_inclusion(&leaf_hash(&leaf), told, size, &hashes(&bytes), &root_of(&whole)).is_ok();
    let theirs = InclusionProof::<Sha256>::try_from_bytes(bytes)
        .is_ok_and(|it| whole.root().verify_inclusion(&leaf, told, &it).is_ok());
    assert_eq!(ours, theirs, "inclusion of {told} in {size}");
    // Consistency: between trees of which one may be another than is told.
    if old < size {
        let told = if edit & 8 == 0 { before } else { tree(u64::from(size_told) % size + 1) };
        let bytes = changed(whole.prove_consistency((size - old) as usize).as_bytes().to_vec());
        let (small, large) = (root_of(&told), root_of(&whole));
        let told_size = told.len();
        if told_size < size {
            let ours = verify_consistency(told_size, &small, size, &large, &hashes(&bytes)).is_ok();
            let theirs = ConsistencyProof::<Sha256>::try_from_bytes(bytes)
                .is_ok_and(|it| whole.root().verify_consistency(&told.root(), &it).is_ok());
            assert_eq!(ours, theirs, "consistency of {told_size} with {size}");
        }
    }
}

fn tile(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(name) = TileName::parse(text) {
        assert_eq!(name.to_string(), text);
    }
}

fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(policy) = Policy::parse(text) {
        // What it trusts, it trusts only when signed.
        assert!(policy.open("a checkpoint of nobody\n").is_err());
        let _ = policy.asks_for_witnesses();
    }
}

fn add_checkpoint(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(asked) = AddCheckpoint::parse(text) {
        assert_eq!(asked.to_string(), text);
        assert!(asked.judge(&[], |_| None).is_err(), "it follows no log");
    }
    let witness = NoteSigner::of_kind("witness.example/w", KeyKind::Witness, &[4; 32]).expect("a name and a seed");
    assert!(witness::cosignatures(text, "a text of nobody\n", witness.verifier_key()).is_empty(), "it signed nothing");
}

/// Only what the key wrote for the same asker reads, and it reads as written.
fn cursor(data: &[u8]) {
    let key = Secret::new([3; 32]);
    let of: [&[u8]; 2] = [b"token", b"filter"];
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(Walk::decode(text, &key, false, &of).is_none(), "nobody wrote this");
    }
    let Some((first, rest)) = data.split_first_chunk::<16>() else { return };
    let (position, bound) = first.split_at(8);
    let number = |it: &[u8]| it.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let walk = Walk { position: number(position), bound: number(bound), recorded: Uuid::from_bytes(*first) };
    let written = walk.encode(&key, true, &of);
    assert_eq!(Walk::decode(&written, &key, true, &of), Some(walk));
    assert_eq!(Walk::decode(&written, &key, false, &of), None, "the other order");
    assert_eq!(Walk::decode(&written, &key, true, &[b"token2", b"filter"]), None, "another's token");
    if let Some(at) = rest.first() {
        let mut bytes = written.into_bytes();
        let at = usize::from(*at) % bytes.len();
        bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
        let changed = String::from_utf8(bytes).expect("hex is text");
        assert_eq!(Walk::decode(&changed, &key, true, &of), None, "byte {at} was changed");
    }
}

fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(token) = PlainToken::parse(text) {
        assert_eq!(token.expose(), text);
    }
}

fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    drop(Settings::parse(text, Path::new("/etc/phivault/phivault.toml"), std::iter::empty()));
}

/// The site's lists: reasons, retention classes, fields.
fn lists(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    drop((Vocabulary::parse(text), Retention::parse(text), Fields::parse(text)));
}
