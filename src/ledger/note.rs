//! Signed notes: text with Ed25519 signature lines (C2SP signed-note v1.0.0, signature type 0x01).

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Longest note read or written, in bytes. The specification asks for some limit and leaves the number open.
pub const MAX_NOTE_BYTES: usize = 1 << 20;

/// Most signature lines of a note; the specification asks verifiers to take at least 16.
pub const MAX_SIGNATURES: usize = 64;

/// Signature type byte of plain Ed25519 over the note text.
const ED25519: u8 = 0x01;

/// Why a key or a note was refused. No message repeats key text, which may be private.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NoteError {
    /// The note is longer than [`MAX_NOTE_BYTES`].
    #[error("the note is longer than {MAX_NOTE_BYTES} bytes")]
    TooLarge,
    /// The note holds a control character other than newline.
    #[error("the note holds a control character")]
    ControlCharacter,
    /// The text to sign is not one the format can carry; the words say why.
    #[error("the text cannot be signed: {0}")]
    MalformedText(&'static str),
    /// No blank line parts the text from its signatures, or no full line follows it.
    #[error("the note has no signature lines")]
    NoSignatureLines,
    /// A signature line is not an em dash, a key name and base64 of a key ID and a signature.
    #[error("signature line {0} is malformed")]
    MalformedSignatureLine(usize),
    /// The note has more than [`MAX_SIGNATURES`] signature lines.
    #[error("the note has more than {MAX_SIGNATURES} signature lines")]
    TooManySignatures,
    /// The key name is empty or holds a space, a plus sign or a control character.
    #[error("the key name is empty or holds a space, a plus sign or a control character")]
    InvalidName,
    /// The key text is not of its form; the words say where.
    #[error("the key is malformed: {0}")]
    MalformedKey(&'static str),
    /// The key is of a signature type other than 0x01.
    #[error("signature type {0:#04x} is not supported")]
    UnsupportedKeyType(u8),
    /// The key ID written in the key text is not the one of its name and public key.
    #[error("the key ID does not belong to this name and key")]
    KeyIdMismatch,
    /// Two different trusted keys share name and key ID, so that a signature cannot be told to be of one.
    #[error("two trusted keys named {0} share a key ID")]
    AmbiguousKey(String),
    /// A signature by a trusted key is wrong: the text or the signature was changed.
    #[error("the signature by {0} is wrong")]
    WrongSignature(String),
    /// No trusted key signed the note.
    #[error("the note is not signed by a trusted key")]
    NoTrustedSignature,
}

/// A public key with its name: what a verifier trusts. Written `<name>+<key ID, 8 hex digits>+<base64 of 0x01 and the
/// public key>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    key_id: u32,
    public_key: VerifyingKey,
}

impl VerifierKey {
    /// Names an Ed25519 public key (32 bytes, RFC 8032).
    ///
    /// # Errors
    /// [`NoteError::InvalidName`], or [`NoteError::MalformedKey`] for bytes that are no point or one of small order.
    pub fn new(name: &str, public_key: &[u8; 32]) -> Result<Self, NoteError> {
        check_name(name)?;
        let key = VerifyingKey::from_bytes(public_key).map_err(|_| NoteError::MalformedKey("not an Ed25519 key"))?;
        if key.is_weak() {
            return Err(NoteError::MalformedKey("an Ed25519 key of small order"));
        }
        Ok(Self { name: name.to_owned(), key_id: key_id(name, public_key), public_key: key })
    }

    /// Reads the written form, without space around it.
    ///
    /// # Errors
    /// [`NoteError`] for a malformed key, another signature type, or a key ID that is not of this key.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        // base64 may hold plus signs too, so only the first two part the fields
        let mut fields = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(NoteError::MalformedKey("not name, key ID and key with plus signs between"));
        };
        Self::new(name, &decode_key(key)?)?.with_written_id(id)
    }

    /// Name of the key, the log's origin by custom.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// First four bytes of SHA-256(name || 0x0A || 0x01 || public key), big-endian. Tells keys apart, secures nothing.
    pub fn key_id(&self) -> u32 {
        self.key_id
    }

    /// The 32 bytes of the Ed25519 public key.
    pub fn public_key(&self) -> &[u8; 32] {
        self.public_key.as_bytes()
    }

    fn with_written_id(self, id: &str) -> Result<Self, NoteError> {
        if format!("{:08x}", self.key_id) == id { Ok(self) } else { Err(NoteError::KeyIdMismatch) }
    }

    fn signed(&self, text: &str, signature: &[u8]) -> bool {
        ed25519_dalek::Signature::from_slice(signature)
            .is_ok_and(|signature| self.public_key.verify_strict(text.as_bytes(), &signature).is_ok())
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:08x}+{}", self.name, self.key_id, encode_key(self.public_key()))
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        Self::parse(text)
    }
}

/// A private key with its name. The key is wiped from memory on drop and never shown by `Debug`.
pub struct NoteSigner {
    verifier: VerifierKey,
    key: SigningKey,
}

impl NoteSigner {
    /// Makes the key of a 32-byte secret seed (RFC 8032, section 5.1.5), to be drawn from a secure random source.
    ///
    /// # Errors
    /// [`NoteError::InvalidName`].
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, NoteError> {
        let key = SigningKey::from_bytes(seed);
        let verifier = VerifierKey::new(name, key.verifying_key().as_bytes())?;
        Ok(Self { verifier, key })
    }

    /// Reads `PRIVATE+KEY+<name>+<key ID>+<base64 of 0x01 and the seed>`, the form of Go's `sumdb/note`, without
    /// space around it.
    ///
    /// # Errors
    /// [`NoteError`] for a malformed key, another signature type, or a key ID that is not of this key.
    pub fn from_private_text(text: &str) -> Result<Self, NoteError> {
        let malformed = NoteError::MalformedKey("not PRIVATE+KEY, name, key ID and key with plus signs between");
        let mut fields = text.strip_prefix("PRIVATE+KEY+").ok_or(malformed.clone())?.splitn(3, '+');
        let (Some(name), Some(id), Some(seed)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(malformed);
        };
        let mut signer = Self::from_seed(name, &decode_key(seed)?)?;
        signer.verifier = signer.verifier.with_written_id(id)?;
        Ok(signer)
    }

    /// Writes the form [`NoteSigner::from_private_text`] reads. It holds the secret in clear.
    pub fn to_private_text(&self) -> String {
        let VerifierKey { name, key_id, .. } = &self.verifier;
        format!("PRIVATE+KEY+{name}+{key_id:08x}+{}", encode_key(self.key.as_bytes()))
    }

    /// The public half, to give to verifiers.
    pub fn verifier_key(&self) -> &VerifierKey {
        &self.verifier
    }

    /// Signs a text that ends in newline and returns the whole note: text, blank line, one signature line.
    ///
    /// # Errors
    /// [`NoteError`] for a text the format cannot carry, or one too long.
    pub fn sign(&self, text: &str) -> Result<String, NoteError> {
        check_characters(text)?;
        if !text.ends_with('\n') {
            return Err(NoteError::MalformedText("it does not end in newline"));
        }
        let signature = Signature {
            name: self.verifier.name.clone(),
            key_id: self.verifier.key_id,
            bytes: self.key.sign(text.as_bytes()).to_bytes().to_vec(),
        };
        let note = Note { text: text.to_owned(), signatures: vec![signature] }.to_string();
        if note.len() > MAX_NOTE_BYTES { Err(NoteError::TooLarge) } else { Ok(note) }
    }
}

impl fmt::Debug for NoteSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoteSigner").field("verifier", &self.verifier).finish_non_exhaustive()
    }
}

/// One signature line. `Display` writes it whole, newline included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Name of the key said to have signed.
    pub name: String,
    /// ID of that key.
    pub key_id: u32,
    /// The signature after the key ID, of whatever type that key is; at least one byte.
    pub bytes: Vec<u8>,
}

impl Signature {
    /// Reads a line without its newline.
    fn parse(line: &str) -> Option<Self> {
        let (name, encoded) = line.strip_prefix("— ")?.split_once(' ')?;
        check_name(name).ok()?;
        let decoded = STANDARD.decode(encoded).ok()?;
        let (key_id, bytes) = decoded.split_first_chunk::<4>()?;
        if bytes.is_empty() {
            return None;
        }
        Some(Self { name: name.to_owned(), key_id: u32::from_be_bytes(*key_id), bytes: bytes.to_vec() })
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signed = [&self.key_id.to_be_bytes()[..], &self.bytes].concat();
        writeln!(f, "— {} {}", self.name, STANDARD.encode(signed))
    }
}

/// A note as read: nothing in it is to be believed before [`Note::verify`]. `Display` writes it whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The signed text with its last newline.
    pub text: String,
    /// The signature lines in their order, of known keys and others.
    pub signatures: Vec<Signature>,
}

impl Note {
    /// Reads a note; strict, and without believing it.
    ///
    /// # Errors
    /// [`NoteError`] for a note past a limit or not of the form.
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        if note.len() > MAX_NOTE_BYTES {
            return Err(NoteError::TooLarge);
        }
        check_characters(note)?;
        // the text may hold blank lines itself: the last one parts it from the signatures
        let text_end = note.rfind("\n\n").ok_or(NoteError::NoSignatureLines)?;
        let (text, lines) = (&note[..=text_end], &note[text_end + 2..]);
        let lines = lines.strip_suffix('\n').ok_or(NoteError::NoSignatureLines)?;
        let mut signatures = Vec::new();
        for (i, line) in lines.split('\n').enumerate() {
            if i == MAX_SIGNATURES {
                return Err(NoteError::TooManySignatures);
            }
            signatures.push(Signature::parse(line).ok_or(NoteError::MalformedSignatureLine(i + 1))?);
        }
        Ok(Self { text: text.to_owned(), signatures })
    }

    /// Verifies every signature by a trusted key and returns those keys, each once however often it signed, so that
    /// the number of keys can be held against a quorum. Signatures by other keys are passed over.
    ///
    /// # Errors
    /// [`NoteError::WrongSignature`] if one by a trusted key is wrong, even beside right ones;
    /// [`NoteError::NoTrustedSignature`] if there is none; [`NoteError::AmbiguousKey`].
    pub fn verify<'k>(&self, keys: &'k [VerifierKey]) -> Result<Vec<&'k VerifierKey>, NoteError> {
        let mut signers = Vec::new();
        for signature in &self.signatures {
            let mut named = keys.iter().filter(|key| key.name == signature.name && key.key_id == signature.key_id);
            let Some(key) = named.next() else { continue };
            if named.any(|other| other != key) {
                return Err(NoteError::AmbiguousKey(key.name.clone()));
            }
            if !key.signed(&self.text, &signature.bytes) {
                return Err(NoteError::WrongSignature(key.name.clone()));
            }
            if !signers.contains(&key) {
                signers.push(key);
            }
        }
        if signers.is_empty() { Err(NoteError::NoTrustedSignature) } else { Ok(signers) }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| signature.fmt(f))
    }
}

/// Refuses control characters other than newline.
pub(super) fn check_characters(text: &str) -> Result<(), NoteError> {
    let control = |byte: u8| byte < 0x20 && byte != b'\n';
    if text.bytes().any(control) { Err(NoteError::ControlCharacter) } else { Ok(()) }
}

fn check_name(name: &str) -> Result<(), NoteError> {
    let forbidden = |c: char| c.is_whitespace() || c == '+' || c < ' ';
    if name.is_empty() || name.contains(forbidden) { Err(NoteError::InvalidName) } else { Ok(()) }
}

fn key_id(name: &str, public_key: &[u8; 32]) -> u32 {
    let hash = Sha256::new().chain_update(name).chain_update([b'\n', ED25519]).chain_update(public_key).finalize();
    let [a, b, c, d, ..] = <[u8; 32]>::from(hash);
    u32::from_be_bytes([a, b, c, d])
}

/// Base64 of the type byte and the 32 bytes of a public key or seed.
fn encode_key(bytes: &[u8; 32]) -> String {
    STANDARD.encode([&[ED25519][..], bytes].concat())
}

fn decode_key(encoded: &str) -> Result<[u8; 32], NoteError> {
    let decoded = STANDARD.decode(encoded).map_err(|_| NoteError::MalformedKey("not base64"))?;
    match decoded.split_first() {
        Some((&ED25519, bytes)) => bytes.try_into().map_err(|_| NoteError::MalformedKey("not 32 bytes long")),
        Some((&other, _)) => Err(NoteError::UnsupportedKeyType(other)),
        None => Err(NoteError::MalformedKey("empty")),
    }
}

#[cfg(test)]
mod tests {
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
            (with_key(&[4; 33]), NoteError::UnsupportedKeyType(4)),
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
}
