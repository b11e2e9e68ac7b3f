//! Signed notes: text with Ed25519 signature lines (C2SP signed-note v1.0.0).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use super::key::check_name;
pub use super::key::{KeyKind, NoteSigner, VerifierKey};

/// Longest note read or written, in bytes. The specification asks for some limit and leaves the number open.
pub const MAX_NOTE_BYTES: usize = 1 << 20;

/// Most signature lines of a note; the specification asks verifiers to take at least 16.
pub const MAX_SIGNATURES: usize = 64;

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
    /// The key is of a signature type other than 0x01 and 0x04.
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
    pub(super) fn parse(line: &str) -> Option<Self> {
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
            let mut named = keys.iter().filter(|key| key.name() == signature.name && key.key_id() == signature.key_id);
            let Some(key) = named.next() else { continue };
            if named.any(|other| other != key) {
                return Err(NoteError::AmbiguousKey(key.name().to_owned()));
            }
            if !key.signed(&self.text, &signature.bytes) {
                return Err(NoteError::WrongSignature(key.name().to_owned()));
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

#[cfg(test)]
mod tests;
