//! Tests of keys and notes.

use super::*;

// made by another implementation (pyca/cryptography) from a seed of 32 times 0x07
const NAME: &str = "ledger.example/ward-7";
const VERIFIER: &str = "ledger.example/ward-7+88f5f1ee+AepKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs";
const PRIVATE: &str = "PRIVATE+KEY+ledger.example/ward-7+88f5f1ee+AQcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH";
const TEXT: &str = "Ward 7 closes at nine.\n\nIts ledger does not.\n";
const LINE: &str = "— ledger.example/ward-7 \
    iPXx7q1SjmuFyyxy6IV0HeZrt/Nh5ZyAaDMXNZLZ4dDt3Hsx3hECB87KkbUaNoIrh47FKUznGdptwtRcB8yOQp6ugQ4=\n";

fn signer(seed: u8) -> NoteSigner {
    NoteSigner::from_seed(NAME, &[seed; 32]).expect("the name is valid")
}

fn trusted() -> VerifierKey {
    VERIFIER.parse().expect("the golden key is well formed")
}

fn golden() -> Note {
    Note::parse(&format!("{TEXT}\n{LINE}")).expect("the golden note is well formed")
}

#[test]
fn a_seed_gives_the_keys_and_note_another_implementation_made() {
    let signer = signer(7);
    assert_eq!(signer.verifier_key().to_string(), VERIFIER);
    assert_eq!(signer.to_private_text(), PRIVATE);
    assert_eq!(signer.sign(TEXT), Ok(format!("{TEXT}\n{LINE}")));
}

#[test]
fn keys_come_back_from_their_written_form() {
    let key = signer(7).verifier_key().clone();
    assert_eq!((key.name(), key.key_id()), (NAME, 0x88f5_f1ee));
    assert_eq!(VERIFIER.parse(), Ok(key));
    let note = NoteSigner::from_private_text(PRIVATE).and_then(|signer| signer.sign(TEXT));
    assert_eq!(note, signer(7).sign(TEXT));
}

#[test]
fn malformed_keys_are_refused() {
    let with_key = |bytes: &[u8]| format!("{NAME}+88f5f1ee+{}", STANDARD.encode(bytes));
    let small_order = [&[1, 1][..], &[0; 31]].concat();
    for (text, error) in [
        (NAME.to_owned(), NoteError::MalformedKey("not name, key ID and key with plus signs between")),
        (VERIFIER.replace("88f5f1ee", "88f5f1ef"), NoteError::KeyIdMismatch),
        (VERIFIER.replace("88f5f1ee", "88F5F1EE"), NoteError::KeyIdMismatch),
        (VERIFIER.replace("ward-7", "ward 7"), NoteError::InvalidName),
        (VERIFIER.replace(NAME, ""), NoteError::InvalidName),
        (format!("{VERIFIER}\n"), NoteError::MalformedKey("not base64")),
        (with_key(&[]), NoteError::MalformedKey("empty")),
        (with_key(&[1; 32]), NoteError::MalformedKey("not 32 bytes long")),
        (with_key(&[6; 33]), NoteError::UnsupportedKeyType(6)),
        (with_key(&small_order), NoteError::MalformedKey("an Ed25519 key of small order")),
    ] {
        assert_eq!(VerifierKey::parse(&text), Err(error), "{text:?}");
    }
    for text in [VERIFIER.to_owned(), PRIVATE.replace("ee+", "ef+"), PRIVATE.replace("+AQ", "+BA"), "".into()] {
        assert!(NoteSigner::from_private_text(&text).is_err(), "{text:?}");
    }
}

#[test]
fn debug_of_a_signer_shows_no_seed() {
    let shown = format!("{:?}", signer(7));
    assert!(shown.contains(NAME));
    for secret in ["7, 7", "07", "BwcH", "SigningKey"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn a_golden_note_parses_verifies_and_prints_as_read() {
    let note = golden();
    assert_eq!((note.text.as_str(), note.signatures.len()), (TEXT, 1));
    let keys = [trusted()];
    assert_eq!(note.verify(&keys), Ok(vec![&keys[0]]));
    assert_eq!(note.to_string(), format!("{TEXT}\n{LINE}"));
}

#[test]
fn a_changed_text_or_signature_is_refused_even_beside_a_right_one() {
    let keys = [trusted()];
    let wrong = Err(NoteError::WrongSignature(NAME.to_owned()));
    let changed = Note { text: TEXT.replace("nine", "ten"), ..golden() };
    assert_eq!(changed.verify(&keys), wrong);
    let right = golden().signatures.remove(0);
    let mut flipped = right.bytes.clone();
    flipped[40] ^= 1;
    for bytes in [flipped, right.bytes[..63].to_vec(), [&right.bytes[..], &[0]].concat()] {
        let mut note = golden();
        note.signatures.push(Signature { bytes, ..right.clone() });
        assert_eq!(note.verify(&keys), wrong);
    }
}

#[test]
fn signatures_by_unknown_keys_do_not_count_and_do_not_harm() {
    let mut note = golden();
    assert_eq!(note.verify(&[signer(8).verifier_key().clone()]), Err(NoteError::NoTrustedSignature));
    assert_eq!(note.verify(&[]), Err(NoteError::NoTrustedSignature));
    let same_name = Signature { key_id: 1, ..note.signatures[0].clone() };
    let same_id = Signature { name: "elsewhere.example".into(), bytes: vec![1], ..note.signatures[0].clone() };
    note.signatures.extend([same_name, same_id]);
    assert_eq!(note.verify(&[trusted()]).map(|keys| keys.len()), Ok(1));
}

#[test]
fn a_key_that_signed_or_is_listed_twice_counts_once() {
    let note = Note::parse(&format!("{TEXT}\n{LINE}{LINE}")).expect("two golden lines are well formed");
    assert_eq!(note.verify(&[trusted(), trusted()]).map(|keys| keys.len()), Ok(1));
}

#[test]
fn two_trusted_keys_of_one_name_and_id_are_refused() {
    let twin = VerifierKey { key_id: trusted().key_id, ..signer(8).verifier_key().clone() };
    assert_eq!(golden().verify(&[trusted(), twin]), Err(NoteError::AmbiguousKey(NAME.to_owned())));
}

#[test]
fn malformed_notes_are_refused() {
    let bad = NoteError::MalformedSignatureLine(1);
    for (note, error) in [
        (TEXT.to_owned(), bad.clone()),
        (format!("one line\n{LINE}"), NoteError::NoSignatureLines),
        (format!("{TEXT}\n"), NoteError::NoSignatureLines),
        (format!("{TEXT}\n{}", LINE.trim_end()), NoteError::NoSignatureLines),
        (format!("{TEXT}\n{LINE}\n"), NoteError::NoSignatureLines),
        (format!("{TEXT}\n{}", LINE.replace('—', "-")), bad.clone()),
        (format!("{TEXT}\n{}", LINE.replace("ward-7 ", "ward-7  ")), bad.clone()),
        (format!("{TEXT}\n{}", LINE.replace("ward-7", "ward+7")), bad.clone()),
        (format!("{TEXT}\n{}", LINE.replace("ward-7", "ward\u{a0}7")), bad.clone()),
        (format!("{TEXT}\n{}", LINE.replace("Q4=", "Q4")), bad.clone()),
        (format!("{TEXT}\n{}", LINE.replace("Q4=", "Q5=")), bad.clone()),
        (format!("{TEXT}\n— {NAME} AAAAAA==\n"), bad),
        (format!("{TEXT}\n{LINE}junk\n"), NoteError::MalformedSignatureLine(2)),
        (format!("{TEXT}\n{}", LINE.replace('\n', "\r\n")), NoteError::ControlCharacter),
        (format!("a\tb\n\n{LINE}"), NoteError::ControlCharacter),
        (format!("{TEXT}\n{}", LINE.repeat(65)), NoteError::TooManySignatures),
        (format!("{}\n\n{LINE}", "a".repeat(MAX_NOTE_BYTES)), NoteError::TooLarge),
    ] {
        assert_eq!(Note::parse(&note), Err(error), "{:?}", &note[..note.len().min(300)]);
    }
    let most = Note::parse(&format!("{TEXT}\n{}", LINE.repeat(64)));
    assert_eq!(most.map(|note| note.signatures.len()), Ok(64));
    let blank_last = Note::parse(&format!("{TEXT}\n\n{LINE}"));
    assert_eq!(blank_last.map(|note| note.text), Ok(format!("{TEXT}\n")));
}

#[test]
fn texts_and_names_the_format_cannot_carry_are_not_signed() {
    let signer = signer(7);
    assert_eq!(signer.sign("no end"), Err(NoteError::MalformedText("it does not end in newline")));
    assert_eq!(signer.sign("bell\x07\n"), Err(NoteError::ControlCharacter));
    assert_eq!(signer.sign(&"\n".repeat(MAX_NOTE_BYTES)), Err(NoteError::TooLarge));
    for name in ["", "a b", "a+b", "a\nb", "a\x01b", "a\u{2003}b"] {
        assert_eq!(NoteSigner::from_seed(name, &[7; 32]).map(|_| ()), Err(NoteError::InvalidName), "{name:?}");
    }
}

#[test]
fn a_note_may_be_as_long_as_the_limit_and_no_longer() {
    let signer = signer(7);
    let overhead = signer.sign("\n").unwrap().len() - 1;
    let text = |size: usize| format!("{}\n", "a".repeat(size - 1));
    let full = signer.sign(&text(MAX_NOTE_BYTES - overhead)).unwrap();
    assert_eq!((full.len(), Note::parse(&full).map(|it| it.verify(&[trusted()]).is_ok())), (MAX_NOTE_BYTES, Ok(true)));
    assert_eq!(signer.sign(&text(MAX_NOTE_BYTES - overhead + 1)), Err(NoteError::TooLarge));
    assert_eq!(Note::parse(&format!("a{full}")), Err(NoteError::TooLarge));
}
