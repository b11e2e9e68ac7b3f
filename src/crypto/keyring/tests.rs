//! The laws of a keyring.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::*;
use crate::crypto::kek::{Cost, Unlock};

const GOLDEN: &str = "{\"format\":\"phivault-keyring-v1\",\"generation\":8,\"slots\":[{\"name\":\"main\",\"kek_id\":\"9a0e059a9b8ef7acd73103b6a4d3cc6f\",\"kek\":{\"kind\":\"key_file\"},\"public\":\"cca2f83ecb32eef976d95528ebd9e782137f99683207de21fb524559ad225e70\"},{\"name\":\"recovery\",\"kek_id\":\"a0e72045b62c994400e7decdcc6f2f03\",\"kek\":{\"kind\":\"passphrase\",\"cost\":{\"memory_kib\":8192,\"passes\":1,\"lanes\":1},\"salt\":\"7244b0bfcfcb1f7ab1682224c8928d38\"},\"public\":\"601ce274c580593a29d8d959f2fda77793bc546250a2a63bcff08b13e287ec5a\"}],\"wraps\":[\"12998e7c253589de27f71f7a7cd9230485b4e58dfdaf0e59d105794b72236a6fc74c6d6e8582a1afb91d6939bd51981ec039519832f19fa0c5a26bcf6f01fb92eb34fba95d8527f094c62780e5cafad3\",\"16f956dcc90d985504cfaf315029297bf5a91bf4fd619a90e93584dbc8a77246f9770c680d0da5d5f6e1530d8089650d5400282287b9087f4b9e15bb688018c8d22814987560f64754ee7cf0dd5ff4b3\"],\"salt\":\"143a15283ddf066480059d3217e0fe53651296ceef54687eb837845c25addbcf\"}\nwbtKcr6BgdemcYq9/HPjJfpDbs0E4TZzNe7etzFVxlFDcSOueAe+CVo9Cs/yadEFsA8QW+5hl9wivRQQolgwcoFFJKDZbXmPkj7YEKVeEZdVZ8GPetCmc/TFlU0kPgoBPLlSXAG2x/VlygJwX9CDz84LbM/5A2AXpMOjkFCKHO7xyHDFlcu4s2sLIXC23+fPBtpWUbt/UNobU2Fi1ajuVDElZGCIR/Kf41V1M2jyvcMERBGlRCFSbh/1qnTRSZBMYkV4F2haHVltMA4hT9qSk06m1P/jbTtdKz7zDbUuQKyPMV02tbIaZknldjdp4+iGxYNdS+vuY2ssx2SFg+lqEKwhQEaf16XOISVDQoFM8Hnyzf4SBuLuoH9FMc2kHLiKvRZcqUlIGsqtf76Bj0HlSSRYSQZiEtxQU6cYaMEYT3c8kYdlrGczneMERr6zPrHND+kg3z9CWuUqdv7ZM9BhBT8UOUkrUDFKBArb1t9lvDAfQ8YWepb7XD/JxCdyyHJxHGYmTkEvs/NPb6renzuHfPEf3aGCH5bUKd2+fKvf47I5+5PKvKYzBNezXVEc0/Q2TozqLA2kPjjNco6HWDgZj3c3jEkSJsIm8IRIVWzvoJMJOcnSalcJdYSy7c9HkI25Yf1+yIQ=\n";

fn unlock(byte: u8) -> Unlock {
    Unlock::KeyFile(Secret::new([byte; 32]))
}

fn slot(byte: u8) -> Slot {
    Slot::of("main", &unlock(byte), super::super::kek::Cost::default()).unwrap()
}

#[test]
fn a_keyring_reads_back_with_all_its_keys() {
    let keyring = Keyring::create(Timestamp(5), slot(1)).rotated(Timestamp(9));
    let file = keyring.encode();
    let (again, _) = Keyring::decode(&file, &unlock(1)).unwrap();
    assert_eq!(again.generation(), 2);
    assert!(*again.body() == *keyring.body());
    assert_eq!(again.newest().version, 2);
    assert_eq!((again.versions()[0].state, again.versions()[0].retired_at), (KeyState::Retired, Some(Timestamp(9))));
    assert!(again.opening(Header { version: 1, bucket: 1 }).is_some());
    assert!(again.opening(Header { version: 3, bucket: 1 }).is_none());
}

fn passphrase(text: &str) -> Unlock {
    Unlock::Passphrase(Zeroizing::new(text.as_bytes().to_vec()))
}

const CHEAP: Cost = Cost { memory_kib: 8 * 1024, passes: 1, lanes: 1 };

/// Every state that a version and a bucket may be in, and two slots.
fn rich() -> Keyring {
    let recovery = Slot::of("recovery", &passphrase("correct horse battery"), CHEAP).unwrap();
    let ring = Keyring::create(Timestamp(5), slot(1)).rotated(Timestamp(9)).rotated(Timestamp(11));
    let ring = ring.without_version(1, Timestamp(13)).unwrap();
    let ring = ring.with_bucket("standard", Some(Timestamp(77))).with_bucket("permanent-too", None);
    let ring = ring.without_bucket(2, [7; 16]).unwrap();
    let slots = vec![ring.slots()[0].clone(), recovery];
    ring.with_slots(slots)
}

#[test]
fn a_file_of_this_format_opens_for_ever() {
    for unlock in [unlock(1), passphrase("correct horse battery")] {
        let (ring, slot) = Keyring::decode(GOLDEN, &unlock).unwrap();
        assert_eq!(slot, if matches!(unlock, Unlock::KeyFile(_)) { "main" } else { "recovery" });
        assert_eq!((ring.generation(), ring.newest().version), (8, 3));
        let states: Vec<_> = ring.versions().iter().map(|it| (it.state, it.destroyed_at)).collect();
        let destroyed = (KeyState::Destroyed, Some(Timestamp(13)));
        assert_eq!(states, [destroyed, (KeyState::Retired, None), (KeyState::Active, None)]);
        let buckets: Vec<_> =
            ring.buckets().iter().map(|it| (it.id, it.class.as_str(), it.expires_at, it.certificate)).collect();
        let gone = (2, "standard", Some(Timestamp(77)), Some([7; 16]));
        assert_eq!(buckets, [(1, "permanent", None, None), gone, (3, "permanent-too", None, None)]);
    }
    assert_eq!(Keyring::decode(GOLDEN, &passphrase("correct horse batterz")).err(), Some(KeyringError::WrongKey));
}

#[test]
fn who_has_one_slot_opens_it_and_who_lost_theirs_does_not() {
    let ring = rich();
    let file = ring.encode();
    let (again, _) = Keyring::decode(&file, &passphrase("correct horse battery")).unwrap();
    assert!(*again.body() == *ring.body() && again.slots() == ring.slots());
    let mut slots = ring.slots().to_vec();
    slots.remove(1);
    let without = ring.with_slots(slots).encode();
    assert_eq!(
        Keyring::decode(&without, &passphrase("correct horse battery")).err().unwrap().to_string(),
        KeyringError::Kek(KekError::WrongKind("a key file")).to_string()
    );
    assert!(Keyring::decode(&without, &unlock(1)).is_ok());
}

#[test]
fn what_was_once_a_master_key_opens_nothing_later() {
    let ring = rich();
    let (one, two) = (ring.encode(), ring.encode());
    let line = |file: &str| file.lines().next().unwrap().to_owned();
    // The wrapped keys of an older file in a newer one.
    let (mut old, mut new): (serde_json::Value, serde_json::Value) =
        (serde_json::from_str(&line(&one)).unwrap(), serde_json::from_str(&line(&two)).unwrap());
    assert_ne!(old["wraps"], new["wraps"]);
    new["wraps"] = old["wraps"].take();
    let mixed = format!("{new}\n{}\n", two.lines().nth(1).unwrap());
    assert_eq!(Keyring::decode(&mixed, &unlock(1)).err(), Some(KeyringError::Altered));
}

#[test]
fn an_older_index_key_goes_and_the_newest_stays() {
    let ring = rich().with_index_key().with_index_key();
    let versions = |ring: &Keyring| ring.index_keys().iter().map(|it| it.version).collect::<Vec<_>>();
    assert_eq!(versions(&ring), [1, 2, 3]);
    assert_eq!(versions(&ring.without_index_key(2).unwrap()), [1, 3]);
    assert!(ring.without_index_key(3).is_none() && ring.without_index_key(9).is_none());
    let (again, _) = Keyring::decode(&ring.encode(), &unlock(1)).unwrap();
    assert_eq!(versions(&again), [1, 2, 3]);
}

#[test]
fn what_is_destroyed_opens_nothing_and_what_stays_does() {
    let ring = rich();
    for (version, bucket, opens) in [(1, 1, false), (2, 1, true), (3, 1, true), (3, 2, false), (2, 3, true)] {
        let header = Header { version, bucket };
        assert!(ring.knows(header));
        assert_eq!(ring.opening(header).is_some(), opens, "{version}/{bucket}");
    }
    assert!(ring.sealing(2).is_none() && ring.sealing(3).is_some());
    assert!(ring.without_version(3, Timestamp(0)).is_none(), "what seals stays");
    assert!(ring.without_version(1, Timestamp(0)).is_none(), "what is gone is gone");
    assert!(ring.without_bucket(OWN_BUCKET, [0; 16]).is_none() && ring.without_bucket(2, [0; 16]).is_none());
    assert!(ring.bucket_of("standard", Some(Timestamp(77))).is_none());
}

#[test]
fn a_wrong_key_is_told_from_a_damaged_file() {
    let file = Keyring::create(Timestamp(5), slot(1)).encode();
    assert_eq!(Keyring::decode(&file, &unlock(2)).err(), Some(KeyringError::WrongKey));
    let older = file.replace("\"generation\":1", "\"generation\":7");
    assert_eq!(Keyring::decode(&older, &unlock(1)).err(), Some(KeyringError::Altered));
    for cut in 0..file.len() {
        assert!(Keyring::decode(&file[..cut], &unlock(1)).is_err(), "cut at {cut}");
    }
    let body = file.find('\n').unwrap() + 5;
    let mut flipped = file.into_bytes();
    flipped[body] = if flipped[body] == b'A' { b'B' } else { b'A' };
    assert_eq!(Keyring::decode(std::str::from_utf8(&flipped).unwrap(), &unlock(1)).err(), Some(KeyringError::Altered));
}

#[test]
fn nothing_of_a_key_stands_in_the_file() {
    let keyring = Keyring::create(Timestamp(5), slot(1));
    let file = keyring.encode();
    for secret in [&keyring.state_key, &keyring.cursor_key, keyring.versions[0].key.as_ref().unwrap()] {
        assert!(!file.contains(&hex::encode(secret.expose())) && !file.contains(&STANDARD.encode(secret.expose())));
    }
}

#[test]
fn each_change_is_the_next_generation_and_touches_nothing_else() {
    let (now, end) = (Timestamp(1), Some(Timestamp(9)));
    let first = Keyring::create(now, slot(1)).rotated(now).with_index_key().with_bucket("clinical", end);
    let changes = [
        first.rotated(now),
        first.with_bucket("clinical", None),
        first.without_bucket(2, [7; 16]).unwrap(),
        first.with_slots(vec![slot(2)]),
        first.without_version(1, now).unwrap(),
        first.with_index_key(),
        first.without_index_key(1).unwrap(),
        first.with_state_key(now, now),
    ];
    assert!(changes.iter().all(|it| it.generation() == first.generation() + 1));
    let ids = |ring: &Keyring| ring.buckets().iter().map(|it| it.id).collect::<Vec<_>>();
    assert_eq!((ids(&changes[0]), ids(&changes[1])), (vec![1, 2], vec![1, 2, 3]));
    // A bucket is found by class and end, both, until it is disposed of.
    let found = |ring: &Keyring, class: &str, end| ring.bucket_of(class, end).map(|it| it.id);
    assert_eq!((found(&first, "clinical", end), found(&first, "clinical", None)), (Some(2), None));
    assert_eq!((found(&first, "billing", end), found(&first, OWN_CLASS, None)), (None, Some(1)));
    assert_eq!((found(&changes[1], "clinical", None), found(&changes[2], "clinical", end)), (Some(3), None));
    assert!(changes[2].sealing(2).is_none() && changes[2].bucket(2).is_some(), "its tombstone stays");
    for gone in [first.without_bucket(1, [7; 16]), first.without_bucket(9, [7; 16])] {
        assert!(gone.is_none(), "the vault's own stays, and what is not there cannot go");
    }
    assert!(changes[2].without_bucket(2, [8; 16]).is_none() && changes[4].without_version(1, now).is_none());
    assert!(first.without_version(2, now).is_none(), "what seals stays");
    assert!(first.without_index_key(2).is_none(), "what indexes stays");
    // What needs which keys.
    let of = |version, bucket| Header { version, bucket };
    let asked = [(1, 1), (1, 2), (2, 2), (3, 1), (1, 3)];
    let opens = |ring: &Keyring| asked.map(|(v, b)| ring.opening(of(v, b)).is_some());
    let knows = |ring: &Keyring| asked.map(|(v, b)| ring.knows(of(v, b)));
    assert_eq!((opens(&first), knows(&first)), ([true, true, true, false, false], [true, true, true, false, false]));
    assert_eq!(opens(&changes[4]), [false, false, true, false, false]);
    assert_eq!(knows(&changes[4]), [true, true, true, false, false], "what was destroyed is known");
    assert_eq!(opens(&changes[2]), [true, false, false, false, false]);
    let moved = first.resealing(of(1, 2), 2).unwrap();
    assert_eq!((moved.version, moved.bucket), (2, 2));
    assert!(first.resealing(of(1, 3), 2).is_none() && first.resealing(of(1, 2), 3).is_none());
}

#[test]
fn a_keyring_of_a_hundred_years_fits_into_a_file_and_reads_back() {
    let (now, mut ring) = (Timestamp(1), Keyring::create(Timestamp(1), slot(1)));
    for version in 2..1_200 {
        ring.versions.push(DataKey::fresh(version, now));
        ring.index_keys.push(IndexKey { version, key: Secret::random() });
    }
    let class = "a class with a name as long as such names are".to_owned();
    let bucket = |id| Bucket {
        id,
        class: class.clone(),
        expires_at: Some(now),
        certificate: None,
        secret: Some(Secret::random()),
    };
    ring.buckets.extend((2..7_000).map(bucket));
    for _ in 0..20 {
        ring = ring.with_state_key(now, now);
    }
    let file = ring.encode();
    assert!(file.len() > 1 << 20 && file.len() < MAX_FILE_BYTES, "{}", file.len());
    let (again, _) = Keyring::decode(&file, &unlock(1)).unwrap();
    assert!(*again.body() == *ring.body());
    // What is larger is not even looked at: the spaces would be read, and found to be altered.
    let (line, body) = file.split_once('\n').unwrap();
    let padded = |size: usize| format!("{line}{}\n{body}", " ".repeat(size - file.len()));
    assert_eq!(Keyring::decode(&padded(MAX_FILE_BYTES), &unlock(1)).err(), Some(KeyringError::Altered));
    assert_eq!(Keyring::decode(&padded(MAX_FILE_BYTES + 1), &unlock(1)).err(), Some(KeyringError::Malformed));
}

#[test]
fn a_keyring_that_makes_no_sense_is_refused_though_it_was_sealed_rightly() {
    type Change = fn(&mut Keyring);
    let unsound: [(&str, Change); 16] = [
        ("no data key", |it| it.versions.clear()),
        ("the newest does not seal", |it| it.versions[2].state = KeyState::Retired),
        ("the newest has no key", |it| it.versions[2].key = None),
        ("versions out of order", |it| it.versions.swap(0, 1)),
        ("a version twice", |it| it.versions[1].version = 1),
        ("destroyed and there", |it| it.versions[0].key = Some(Secret::random())),
        ("retired and gone", |it| it.versions[1].key = None),
        ("no bucket", |it| it.buckets.clear()),
        ("not the own bucket first", |it| it.buckets[0].id = 0),
        ("the own bucket is gone", |it| it.buckets[0].secret = None),
        ("the own bucket was disposed of", |it| {
            (it.buckets[0].secret, it.buckets[0].certificate) = (None, Some([7; 16]))
        }),
        ("buckets out of order", |it| it.buckets.swap(1, 2)),
        ("a bucket twice", |it| it.buckets[2].id = 2),
        ("disposed of and there", |it| it.buckets[1].secret = Some(Secret::random())),
        ("gone without a certificate", |it| it.buckets[2].secret = None),
        ("no index key", |it| it.index_keys.clear()),
    ];
    assert!(Keyring::decode(&rich().encode(), &unlock(1)).is_ok());
    for (what, change) in unsound {
        let mut ring = rich();
        change(&mut ring);
        assert_eq!(Keyring::decode(&ring.encode(), &unlock(1)).err(), Some(KeyringError::Malformed), "{what}");
    }
    let body = rich().body();
    assert!(Keyring::parse(&body).is_some());
    for more in [&[0][..], &[0; 4], &[0, 0, 0, 1]] {
        assert!(Keyring::parse(&[body.as_slice(), more].concat()).is_none(), "{more:?} at the end");
    }
    let other = rich().encode().replace("phivault-keyring-v1", "phivault-keyring-v2");
    assert_eq!(
        Keyring::decode(&other, &unlock(1)).err(),
        Some(KeyringError::Malformed),
        "another format is not guessed at"
    );
}

#[test]
fn a_state_key_that_was_replaced_opens_rows_until_nobody_can_need_it() {
    let first = Keyring::create(Timestamp(1), slot(1));
    let second = first.with_state_key(Timestamp(10), Timestamp(0));
    let third = second.with_state_key(Timestamp(20), Timestamp(10));
    let keys = |ring: &Keyring| ring.state_keys().cloned().collect::<Vec<_>>();
    assert!(keys(&third) == [third.state_key().clone(), second.state_key().clone(), first.state_key().clone()]);
    let later = third.with_state_key(Timestamp(30), Timestamp(11));
    assert!(keys(&later) == [later.state_key().clone(), third.state_key().clone(), second.state_key().clone()]);
    assert!(third.cursor_key() != second.cursor_key());
}

#[test]
fn every_secret_is_among_those_that_are_looked_for() {
    let ring = rich().with_index_key().with_state_key(Timestamp(10), Timestamp(0));
    let found: Vec<_> = ring.secrets().collect();
    let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "data key 2",
        "data key 3",
        "bucket 1",
        "bucket 3",
        "index key 1",
        "index key 2",
        "state key",
        "cursor key",
        "former state key",
    ];
    assert_eq!(names, expected, "of what was destroyed nothing is left");
    let body = ring.body();
    assert!(found.iter().all(|(_, secret)| body.windows(32).any(|it| it == secret.as_slice())));
}

#[test]
fn an_entry_records_the_sha_256_of_a_keyring_file() {
    assert_eq!(
        file_digest("abc"),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "FIPS 180-2, appendix B.1"
    );
}
