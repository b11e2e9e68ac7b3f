//! The laws of sealed records.

use super::*;

const GOLDEN: &str = "0100000003000000097eeb6ac3b16929807fa802d9444f33a2f40ad07fa5765d06a06be8880b4c1fe3fd45363a28b09dd9b8ddb983ebe612f2af3568eb1d41bf686cfeda6c5ef9addb14bf8c0fbad89cb7b7b524ef40a71d4f19c0a610c6f4133b786430bc2117988adcf6f68d1248676b05261e316678220f2540b23120dad7d2f2e8d782d47d94deb6fac43244935c7b5eb5eb17a308ba4ca26d05e5a62c58a13cad9b0c4fee5ee1892a1b7e425233c0bb2b5a39ac373c153d736d13b3bb607641d99571db483521c36c7dd592ca6414534888a8718fe5d34bd68bf9e602a22917486e2f3388752268789f9f8f190145ab0c289c21faf146";
const GOLDEN_COMMITMENT: &str = "0f20c237085c88e6fc7d7e95ce35ee14fce1d3f26774a825313320e56486645e";

fn items() -> Vec<Item> {
    let value = |text: &str| Phi::new(serde_json::from_str(text).unwrap());
    vec![
        Item { path: "changes/000/new".into(), value: value(r#"{"code":"E11","value":7.0}"#) },
        Item { path: "changes/000/old".into(), value: value("null") },
        Item { path: "note".into(), value: value("\"Annual checkup\"") },
    ]
}

struct Fixture {
    data_key: Secret,
    bucket_secret: Secret,
}

impl Fixture {
    fn new() -> Self {
        Self { data_key: Secret::random(), bucket_secret: Secret::random() }
    }

    fn keys(&self) -> SealKeys<'_> {
        SealKeys { version: 3, data_key: &self.data_key, bucket: 9, bucket_secret: &self.bucket_secret }
    }
}

#[test]
fn what_was_sealed_opens_exactly_and_twice_sealed_shares_nothing() {
    let fixture = Fixture::new();
    let one = seal(&fixture.keys(), &[1; 16], b"meta", &items());
    let two = seal(&fixture.keys(), &[1; 16], b"meta", &items());
    assert_ne!(one.bytes[9..41], two.bytes[9..41], "salts are fresh");
    assert_ne!(one.commitment, two.commitment, "commitments hide equal values");
    assert_eq!(header(&one.bytes), Ok(Header { version: 3, bucket: 9 }));
    let opened = open(&fixture.keys(), &[1; 16], b"meta", &one.bytes, &one.commitment).unwrap();
    assert_eq!(opened.len(), 3);
    assert!(opened.iter().zip(items()).all(|(a, b)| a.path == b.path && a.value == b.value));
}

#[test]
fn every_wrong_place_is_refused() {
    let fixture = Fixture::new();
    let sealed = seal(&fixture.keys(), &[1; 16], b"meta", &items());
    let rejected = Some(OpenError::Rejected);
    let open = |keys: &SealKeys<'_>, id, meta: &[u8], bytes: &[u8], committed| {
        super::open(keys, id, meta, bytes, committed).err()
    };
    assert_eq!(open(&fixture.keys(), &[2; 16], b"meta", &sealed.bytes, &sealed.commitment), rejected, "another entry");
    assert_eq!(open(&fixture.keys(), &[1; 16], b"Meta", &sealed.bytes, &sealed.commitment), rejected, "other metadata");
    assert_eq!(
        open(&Fixture::new().keys(), &[1; 16], b"meta", &sealed.bytes, &sealed.commitment),
        rejected,
        "another key"
    );
    assert_eq!(open(&fixture.keys(), &[1; 16], b"meta", &sealed.bytes, &[0; 32]), Some(OpenError::NotCommitted));
    for position in 0..sealed.bytes.len() {
        let mut flipped = sealed.bytes.clone();
        flipped[position] ^= 1;
        assert!(open(&fixture.keys(), &[1; 16], b"meta", &flipped, &sealed.commitment).is_some(), "byte {position}");
    }
    for cut in 0..sealed.bytes.len() {
        assert!(open(&fixture.keys(), &[1; 16], b"meta", &sealed.bytes[..cut], &sealed.commitment).is_some());
    }
}

#[test]
fn a_record_sealed_by_this_format_opens_for_ever() {
    let (data_key, bucket_secret) = (Secret::new([0x11; 32]), Secret::new([0x22; 32]));
    let keys = SealKeys { version: 3, data_key: &data_key, bucket: 9, bucket_secret: &bucket_secret };
    let (sealed, commitment) = (hex::decode(GOLDEN).unwrap(), hex::decode(GOLDEN_COMMITMENT).unwrap());
    let opened = open(&keys, &[7; 16], b"metadata", &sealed, &commitment.try_into().unwrap()).unwrap();
    assert!(opened.len() == 3 && opened.iter().zip(items()).all(|(a, b)| a.path == b.path && a.value == b.value));
}

#[test]
fn lengths_come_in_steps_of_64_bytes() {
    let fixture = Fixture::new();
    let length = |text: &str| {
        let items = [Item { path: "note".into(), value: Phi::text(text) }];
        seal(&fixture.keys(), &[1; 16], b"", &items).bytes.len()
    };
    assert_eq!(length("positive"), length("negative now"));
    assert_eq!((length(&"x".repeat(100)) - HEADER_BYTES - 16) % PAD_BYTES, 0);
}

#[test]
fn an_entry_without_values_has_an_unguessable_commitment() {
    let fixture = Fixture::new();
    let a = seal(&fixture.keys(), &[1; 16], b"", &[]);
    let b = seal(&fixture.keys(), &[1; 16], b"", &[]);
    assert_ne!(a.commitment, b.commitment);
    assert!(open(&fixture.keys(), &[1; 16], b"", &a.bytes, &a.commitment).unwrap().is_empty());
}

#[test]
fn a_record_sealed_again_opens_under_the_new_keys_with_the_commitment_it_had() {
    let (old, new) = (Fixture::new(), Fixture::new());
    let sealed = seal(&old.keys(), &[1; 16], b"meta", &items());
    let to = SealKeys { version: 4, bucket: 10, ..new.keys() };
    let again = |keys: &SealKeys<'_>, bytes: &[u8], committed| reseal((keys, &to), &[1; 16], b"meta", bytes, committed);
    let moved = again(&old.keys(), &sealed.bytes, &sealed.commitment).unwrap();
    assert_eq!(header(&moved), Ok(Header { version: 4, bucket: 10 }));
    let opened = open(&to, &[1; 16], b"meta", &moved, &sealed.commitment).unwrap();
    assert!(opened.len() == 3 && opened.iter().zip(items()).all(|(a, b)| a.path == b.path && a.value == b.value));
    assert_eq!(open(&old.keys(), &[1; 16], b"meta", &moved, &sealed.commitment).err(), Some(OpenError::Rejected));
    assert_eq!(
        again(&new.keys(), &sealed.bytes, &sealed.commitment),
        Err(OpenError::Rejected),
        "nothing unopened is moved"
    );
    assert_eq!(again(&old.keys(), &sealed.bytes, &[0; 32]), Err(OpenError::NotCommitted));
}

#[test]
fn what_was_erased_says_where_it_was_and_why_and_opens_nothing() {
    let sealed = seal(&Fixture::new().keys(), &[1; 16], b"", &[]).bytes;
    for (bucket, certificate) in [(0, [0; 16]), (1, [7; 16]), (u32::MAX, [255; 16])] {
        let gone = erased(bucket, &certificate);
        assert_eq!((is_erased(&gone), counted_under(&gone)), (Some((bucket, certificate)), (0, bucket)));
        assert_eq!(header(&gone), Err(OpenError::Malformed));
        for other in [&gone[..20], &[gone.as_slice(), &[0]].concat(), &[&[1], &gone[1..]].concat(), &[]] {
            assert_eq!((is_erased(other), counted_under(other)), (None, (0, 0)), "{other:?}");
        }
    }
    assert_eq!((is_erased(&sealed), counted_under(&sealed)), (None, (3, 9)));
    assert!(header(&sealed[..HEADER_BYTES]).is_ok() && header(&sealed[..HEADER_BYTES - 1]).is_err());
}

#[test]
fn each_value_can_be_shown_with_its_salt_against_the_commitment_to_all() {
    let fixture = Fixture::new();
    let sealed = seal(&fixture.keys(), &[1; 16], b"meta", &items());
    let open = |committed| open_for_disclosure(&fixture.keys(), &[1; 16], b"meta", &sealed.bytes, committed);
    let (each, shown) = open(&sealed.commitment).unwrap();
    assert_eq!((each.len(), shown.len(), commit_all(&each)), (4, 3, sealed.commitment));
    for (n, (it, item)) in shown.iter().zip(items()).enumerate() {
        assert!(it.position == n && it.item.path == item.path && it.item.value == item.value);
        assert_eq!(commit_one(&it.salt, &item.path, &item.value), each[n]);
        assert_ne!(commit_one(&it.salt, "note2", &item.value), each[n]);
    }
    assert_eq!(open(&[0; 32]).err(), Some(OpenError::NotCommitted));
}

#[test]
fn values_of_every_length_come_back_and_the_length_tells_only_its_step() {
    let fixture = Fixture::new();
    for length in 0..200 {
        let items = [Item { path: "note".into(), value: Phi::text("x".repeat(length)) }];
        let sealed = seal(&fixture.keys(), &[1; 16], b"", &items);
        let opened = open(&fixture.keys(), &[1; 16], b"", &sealed.bytes, &sealed.commitment).unwrap();
        assert!(opened.len() == 1 && opened[0].value == items[0].value, "{length}");
        assert_eq!((sealed.bytes.len() - HEADER_BYTES - 16) % PAD_BYTES, 0, "{length}");
    }
    let nothing = seal(&fixture.keys(), &[1; 16], b"", &[]).bytes.len();
    assert_eq!(nothing, HEADER_BYTES + PAD_BYTES + 16, "salt and length fit into the first step");
}
