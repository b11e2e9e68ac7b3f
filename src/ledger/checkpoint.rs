//! Checkpoints: the signed head of the tree (C2SP tlog-checkpoint v1.0.0).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use super::hash::{Hash, empty_root};
use super::note::{Note, NoteError, NoteSigner, VerifierKey, check_characters};

/// Why a checkpoint was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The note around the checkpoint is malformed, or not signed by a trusted key.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The text is not three or more non-empty lines, each ended by newline.
    #[error("a checkpoint is at least three lines, none of them empty")]
    MalformedLines,
    /// The size is not a decimal number under 2^64 without sign and leading zeros.
    #[error("the tree size is not a plain decimal number")]
    MalformedSize,
    /// The root is not padded standard base64 of 32 bytes.
    #[error("the root hash is not base64 of 32 bytes")]
    MalformedRoot,
    /// The tree is said to be empty, yet the root is another than that of the empty tree.
    #[error("an empty tree has another root")]
    EmptyTreeRoot,
    /// The checkpoint is of another log.
    #[error("the checkpoint is of the log {found}, not of {expected}")]
    OriginMismatch {
        /// Origin asked for.
        expected: String,
        /// Origin read.
        found: String,
    },
}

/// The head of a log at one size. One that was not opened with [`open`] is a claim nobody vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Identity of the log, unique and not empty; by custom a URL without scheme and the name of its key.
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// Root over them (RFC 6962); [`empty_root`] for size 0.
    pub root: Hash,
    /// Further lines, not empty. The specification advises against them, as monitors cannot audit them.
    pub extensions: Vec<String>,
}

impl Checkpoint {
    /// Reads the text of a checkpoint, without signatures; strict.
    ///
    /// # Errors
    /// [`CheckpointError`] for any text that [`Checkpoint::to_text`] would not have written.
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        check_characters(text)?;
        let text = text.strip_suffix('\n').ok_or(CheckpointError::MalformedLines)?;
        let lines: Vec<&str> = text.split('\n').collect();
        let [origin, size, root, extensions @ ..] = &lines[..] else {
            return Err(CheckpointError::MalformedLines);
        };
        if lines.contains(&"") {
            return Err(CheckpointError::MalformedLines);
        }
        let size = parse_size(size).ok_or(CheckpointError::MalformedSize)?;
        let root = parse_root(root).ok_or(CheckpointError::MalformedRoot)?;
        if size == 0 && root != empty_root() {
            return Err(CheckpointError::EmptyTreeRoot);
        }
        let extensions = extensions.iter().map(|line| (*line).to_owned()).collect();
        Ok(Self { origin: (*origin).to_owned(), size, root, extensions })
    }

    /// The text to sign: origin, size, root in base64 and the extensions, a line each.
    pub fn to_text(&self) -> String {
        self.to_string()
    }

    /// Signs the checkpoint and returns the whole note. Never sign one inconsistent with one signed before; the
    /// signer's name should be the origin.
    ///
    /// # Errors
    /// [`NoteError::MalformedText`] if a field would not read back as it is, such as an origin of two lines;
    /// otherwise those of [`NoteSigner::sign`].
    pub fn sign(&self, signer: &NoteSigner) -> Result<String, NoteError> {
        let text = self.to_text();
        if Self::parse(&text).as_ref() != Ok(self) {
            return Err(NoteError::MalformedText("it is not a valid checkpoint"));
        }
        signer.sign(&text)
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, STANDARD.encode(self.root.as_bytes()))?;
        self.extensions.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Opens a signed checkpoint of the log `origin`. `keys` are that log's keys, of which one must have signed; whoever
/// also counts witnesses verifies the note against theirs apart. A right signature does not make it the newest one.
///
/// # Errors
/// [`CheckpointError`]; nothing of an unsigned text is parsed.
pub fn open(note: &str, origin: &str, keys: &[VerifierKey]) -> Result<Checkpoint, CheckpointError> {
    let note = Note::parse(note)?;
    note.verify(keys)?;
    let checkpoint = Checkpoint::parse(&note.text)?;
    if checkpoint.origin != origin {
        return Err(CheckpointError::OriginMismatch { expected: origin.to_owned(), found: checkpoint.origin });
    }
    Ok(checkpoint)
}

fn parse_size(text: &str) -> Option<u64> {
    let size: u64 = text.parse().ok()?;
    // the standard parser takes a plus sign and leading zeros
    (size.to_string() == text).then_some(size)
}

fn parse_root(text: &str) -> Option<Hash> {
    Hash::from_slice(&STANDARD.decode(text).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::hash::leaf_hash;
    use crate::ledger::tree::Edge;

    // made by another implementation (Python's hashlib and pyca/cryptography): seed 32 times 0x07, 300 leaves, each
    // the eight bytes of its index
    const ORIGIN: &str = "ledger.example/ward-7";
    const GOLDEN: &str = "ledger.example/ward-7\n300\nkJcpqcb0qWKBKkZXnxPSra0Dz30AFtViQ/5FhNC14Dw=\n\n\
        — ledger.example/ward-7 \
        iPXx7hMNVvnCdc80yluEK7IC0YJUXgr8qyeGC37xLlBkoxNZ9QUrUCeWEiX+QnbCH9WEGZ1+2EXhagUBI89bVmiYPAA=\n";
    const EMPTY: &str = "ledger.example/ward-7\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n\
        — ledger.example/ward-7 \
        iPXx7kpQwK2l0c9tizj+0f42xriSWWZWQFkocDPe0EDNov6q1XzzfN21DLuWx9hNQrPpRoNRtOZB6n0I+coOYXkLKQg=\n";

    fn signer(seed: u8) -> NoteSigner {
        NoteSigner::from_seed(ORIGIN, &[seed; 32]).expect("the origin is a valid name")
    }

    fn head(leaves: u64) -> Checkpoint {
        let mut edge = Edge::new();
        for i in 0..leaves {
            edge.append(leaf_hash(&i.to_be_bytes()));
        }
        Checkpoint { origin: ORIGIN.to_owned(), size: edge.size(), root: edge.root(), extensions: Vec::new() }
    }

    fn trusted() -> [VerifierKey; 1] {
        [signer(7).verifier_key().clone()]
    }

    #[test]
    fn a_head_signs_to_the_checkpoint_another_implementation_made() {
        assert_eq!(head(300).sign(&signer(7)).as_deref(), Ok(GOLDEN));
        assert_eq!(head(0).sign(&signer(7)).as_deref(), Ok(EMPTY));
    }

    #[test]
    fn a_golden_checkpoint_opens_as_the_head_it_was_made_of() {
        assert_eq!(open(GOLDEN, ORIGIN, &trusted()), Ok(head(300)));
        assert_eq!(open(EMPTY, ORIGIN, &trusted()), Ok(head(0)));
    }

    #[test]
    fn a_checkpoint_changed_anywhere_is_refused() {
        for (from, to) in
            [("300", "301"), ("300", "200"), ("kJcp", "kJcq"), ("ward-7\n", "ward-8\n"), ("=\n\n", "=\nx\n\n")]
        {
            let changed = GOLDEN.replacen(from, to, 1);
            assert_ne!(changed, GOLDEN);
            let wrong = NoteError::WrongSignature(ORIGIN.to_owned());
            assert_eq!(open(&changed, ORIGIN, &trusted()), Err(wrong.into()), "{changed}");
        }
    }

    #[test]
    fn a_signature_by_another_key_is_refused() {
        let forged = head(300).sign(&signer(8)).expect("the head is valid");
        assert_eq!(open(&forged, ORIGIN, &trusted()), Err(NoteError::NoTrustedSignature.into()));
    }

    #[test]
    fn a_checkpoint_of_another_log_is_refused_though_signed() {
        let other = Checkpoint { origin: "ledger.example/ward-8".to_owned(), ..head(3) };
        let note = other.sign(&signer(7)).expect("the head is valid");
        assert_eq!(
            open(&note, ORIGIN, &trusted()),
            Err(CheckpointError::OriginMismatch { expected: ORIGIN.to_owned(), found: other.origin })
        );
    }

    #[test]
    fn a_signed_text_that_is_no_checkpoint_is_refused() {
        let note = signer(7).sign("ledger.example/ward-7\n300\n").expect("any text can be signed");
        assert_eq!(open(&note, ORIGIN, &trusted()), Err(CheckpointError::MalformedLines));
    }

    #[test]
    fn extensions_are_kept_in_order() {
        let extended = Checkpoint { extensions: vec!["first".into(), "second 2".into()], ..head(5) };
        assert!(extended.to_text().ends_with("=\nfirst\nsecond 2\n"));
        assert_eq!(Checkpoint::parse(&extended.to_text()), Ok(extended));
    }

    #[test]
    fn malformed_checkpoint_texts_are_refused() {
        use CheckpointError::{EmptyTreeRoot, MalformedLines, MalformedRoot, MalformedSize};
        let root = "kJcpqcb0qWKBKkZXnxPSra0Dz30AFtViQ/5FhNC14Dw=";
        for (text, error) in [
            (String::new(), MalformedLines),
            ("\n".to_owned(), MalformedLines),
            ("log\n300\n".to_owned(), MalformedLines),
            (format!("log\n300\n{root}"), MalformedLines),
            (format!("\n300\n{root}\n"), MalformedLines),
            (format!("log\n300\n{root}\n\n"), MalformedLines),
            (format!("log\n300\n{root}\n\nmore\n"), MalformedLines),
            (format!("log\n0300\n{root}\n"), MalformedSize),
            (format!("log\n00\n{root}\n"), MalformedSize),
            (format!("log\n+300\n{root}\n"), MalformedSize),
            (format!("log\n-1\n{root}\n"), MalformedSize),
            (format!("log\n3e2\n{root}\n"), MalformedSize),
            (format!("log\n 300\n{root}\n"), MalformedSize),
            (format!("log\n18446744073709551616\n{root}\n"), MalformedSize),
            (format!("log\n300\n{}\n", &root[..43]), MalformedRoot),
            (format!("log\n300\n{}\n", root.replace("Dw=", "Dx=")), MalformedRoot),
            (format!("log\n300\n{}\n", root.replace('/', "_")), MalformedRoot),
            (format!("log\n300\n{root}=\n"), MalformedRoot),
            ("log\n300\nkJcpqcb0qWKBKkZXnxPSra0Dz30AFtViQ/5FhNC1\n".to_owned(), MalformedRoot),
            (format!("log\n0\n{root}\n"), EmptyTreeRoot),
            (format!("log\r\n300\n{root}\n"), NoteError::ControlCharacter.into()),
        ] {
            assert_eq!(Checkpoint::parse(&text), Err(error), "{text:?}");
        }
        let largest = Checkpoint::parse(&format!("log\n18446744073709551615\n{root}\n"));
        assert_eq!(largest.map(|checkpoint| checkpoint.size), Ok(u64::MAX));
    }

    #[test]
    fn fields_that_would_not_read_back_are_not_signed() {
        let malformed = Err(NoteError::MalformedText("it is not a valid checkpoint"));
        for spoiled in [
            Checkpoint { origin: String::new(), ..head(3) },
            Checkpoint { origin: format!("{ORIGIN}\n9"), ..head(3) },
            Checkpoint { root: leaf_hash(b""), ..head(0) },
            Checkpoint { extensions: vec![String::new()], ..head(3) },
            Checkpoint { extensions: vec!["one\ntwo".to_owned()], ..head(3) },
            Checkpoint { extensions: vec!["tab\t".to_owned()], ..head(3) },
        ] {
            assert_eq!(spoiled.sign(&signer(7)), malformed, "{spoiled:?}");
        }
    }
}
