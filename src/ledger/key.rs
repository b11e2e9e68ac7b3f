//! Keys of logs and witnesses: a name, a signature type and an Ed25519 key (C2SP signed-note v1.0.0, tlog-cosignature v1.0.1).

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

use super::note::{MAX_NOTE_BYTES, Note, NoteError, Signature, check_characters};

/// What a key signs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyKind {
    /// Plain Ed25519 over the text of a note (signature type 0x01).
    Log,
    /// A cosignature with a time, which says that the signer has seen no larger tree of this log that differs (type 0x04).
    Witness,
}

impl KeyKind {
    fn byte(self) -> u8 {
        match self {
            Self::Log => 0x01,
            Self::Witness => 0x04,
        }
    }
}

/// A public key with its name: what a verifier trusts. Written `<name>+<key ID, 8 hex digits>+<base64 of the
/// type byte and the public key>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    pub(super) name: String,
    pub(super) kind: KeyKind,
    pub(super) key_id: u32,
    pub(super) public_key: VerifyingKey,
}

impl VerifierKey {
    /// Names an Ed25519 public key (32 bytes, RFC 8032).
    ///
    /// # Errors
    /// [`NoteError::InvalidName`], or [`NoteError::MalformedKey`] for bytes that are no point or one of small order.
    pub fn new(name: &str, kind: KeyKind, public_key: &[u8; 32]) -> Result<Self, NoteError> {
        check_name(name)?;
        let key = VerifyingKey::from_bytes(public_key).map_err(|_| NoteError::MalformedKey("not an Ed25519 key"))?;
        if key.is_weak() {
            return Err(NoteError::MalformedKey("an Ed25519 key of small order"));
        }
        Ok(Self { name: name.to_owned(), kind, key_id: key_id(name, kind, public_key), public_key: key })
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
        let (kind, key) = decode_key(key)?;
        Self::new(name, kind, &key)?.with_written_id(id)
    }

    /// Name of the key, the log's origin by custom.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it signs.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// First four bytes of SHA-256(name || 0x0A || type || public key), big-endian. Tells keys apart, secures nothing.
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

    /// Whether these bytes of a signature line are this key's signature of the text.
    pub(super) fn signed(&self, text: &str, bytes: &[u8]) -> bool {
        let right = |message: &[u8], signature: &[u8]| {
            ed25519_dalek::Signature::from_slice(signature)
                .is_ok_and(|signature| self.public_key.verify_strict(message, &signature).is_ok())
        };
        match (self.kind, bytes.split_first_chunk::<8>()) {
            (KeyKind::Log, _) => right(text.as_bytes(), bytes),
            (KeyKind::Witness, Some((time, signature))) => right(&cosigned(u64::from_be_bytes(*time), text), signature),
            (KeyKind::Witness, None) => false,
        }
    }

    /// The time that a cosignature states, in seconds since 1970. Believe it only of a signature that was verified.
    pub fn stated_time(&self, bytes: &[u8]) -> Option<u64> {
        let (time, _) = bytes.split_first_chunk::<8>()?;
        (self.kind == KeyKind::Witness).then(|| u64::from_be_bytes(*time))
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:08x}+{}", self.name, self.key_id, encode_key(self.kind, self.public_key()))
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
        Self::of_kind(name, KeyKind::Log, seed)
    }

    /// Makes a key of a kind; see [`NoteSigner::from_seed`].
    ///
    /// # Errors
    /// [`NoteError::InvalidName`].
    pub fn of_kind(name: &str, kind: KeyKind, seed: &[u8; 32]) -> Result<Self, NoteError> {
        let key = SigningKey::from_bytes(seed);
        let verifier = VerifierKey::new(name, kind, key.verifying_key().as_bytes())?;
        Ok(Self { verifier, key })
    }

    /// Reads `PRIVATE+KEY+<name>+<key ID>+<base64 of the type byte and the seed>`, the form of Go's `sumdb/note`, without
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
        let (kind, seed) = decode_key(seed)?;
        let mut signer = Self::of_kind(name, kind, &seed)?;
        signer.verifier = signer.verifier.with_written_id(id)?;
        Ok(signer)
    }

    /// Writes the form [`NoteSigner::from_private_text`] reads. It holds the secret in clear.
    pub fn to_private_text(&self) -> String {
        let VerifierKey { name, key_id, kind, .. } = &self.verifier;
        format!("PRIVATE+KEY+{name}+{key_id:08x}+{}", encode_key(*kind, self.key.as_bytes()))
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
        let note = Note {
            text: text.to_owned(),
            signatures: vec![self.line(self.key.sign(text.as_bytes()).to_bytes().to_vec())],
        };
        let note = note.to_string();
        if note.len() > MAX_NOTE_BYTES { Err(NoteError::TooLarge) } else { Ok(note) }
    }

    /// A further signature line of a note's text, as of a log whose key changes.
    pub fn countersign(&self, text: &str) -> Signature {
        self.line(self.key.sign(text.as_bytes()).to_bytes().to_vec())
    }

    /// The cosignature line of a checkpoint's text: "as of that time, the largest consistent tree I have seen of this log"
    /// (C2SP tlog-cosignature). `time` in seconds since 1970.
    pub fn cosign(&self, text: &str, time: u64) -> Signature {
        let signature = self.key.sign(&cosigned(time, text)).to_bytes();
        self.line([&time.to_be_bytes()[..], &signature].concat())
    }

    fn line(&self, bytes: Vec<u8>) -> Signature {
        Signature { name: self.verifier.name.clone(), key_id: self.verifier.key_id, bytes }
    }
}

impl fmt::Debug for NoteSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoteSigner").field("verifier", &self.verifier).finish_non_exhaustive()
    }
}

pub(super) fn check_name(name: &str) -> Result<(), NoteError> {
    let forbidden = |c: char| c.is_whitespace() || c == '+' || c < ' ';
    if name.is_empty() || name.contains(forbidden) { Err(NoteError::InvalidName) } else { Ok(()) }
}

fn key_id(name: &str, kind: KeyKind, public_key: &[u8; 32]) -> u32 {
    let hash = Sha256::new().chain_update(name).chain_update([b'\n', kind.byte()]).chain_update(public_key).finalize();
    let [a, b, c, d, ..] = <[u8; 32]>::from(hash);
    u32::from_be_bytes([a, b, c, d])
}

/// Base64 of the type byte and the 32 bytes of a public key or seed.
fn encode_key(kind: KeyKind, bytes: &[u8; 32]) -> String {
    STANDARD.encode([&[kind.byte()][..], bytes].concat())
}

/// What a cosignature signs (C2SP tlog-cosignature, format).
fn cosigned(time: u64, text: &str) -> Vec<u8> {
    format!("cosignature/v1\ntime {time}\n{text}").into_bytes()
}

fn decode_key(encoded: &str) -> Result<(KeyKind, [u8; 32]), NoteError> {
    let decoded = STANDARD.decode(encoded).map_err(|_| NoteError::MalformedKey("not base64"))?;
    let (kind, bytes) = match decoded.split_first() {
        Some((0x01, bytes)) => (KeyKind::Log, bytes),
        Some((0x04, bytes)) => (KeyKind::Witness, bytes),
        Some((&other, _)) => return Err(NoteError::UnsupportedKeyType(other)),
        None => return Err(NoteError::MalformedKey("empty")),
    };
    Ok((kind, bytes.try_into().map_err(|_| NoteError::MalformedKey("not 32 bytes long"))?))
}
