//! The tlog-witness protocol (C2SP v1.0.0): what a log asks of a witness, and when a witness cosigns.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use super::checkpoint::Checkpoint;
use super::hash::Hash;
use super::note::{Note, Signature, VerifierKey};
use super::proof::verify_consistency;

/// Hashes that a request may hold.
const MAX_HASHES: usize = 63;
/// The longest request read, in bytes: the hashes, and a checkpoint with many signatures.
pub const MAX_REQUEST_BYTES: usize = 64 << 10;

/// What a log asks: cosign this checkpoint, which extends the one of `old` leaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddCheckpoint {
    /// The size that the log believes the witness knows; 0 if it knows none.
    pub old: u64,
    /// The consistency proof from there.
    pub proof: Vec<Hash>,
    /// The checkpoint, as a note.
    pub note: String,
}

/// Why a witness does not cosign, with the HTTP status the protocol gives it.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Refusal {
    /// 400: the request is not of the form, or its old size is beyond its new one.
    #[error("the request is malformed: {0}")]
    Malformed(&'static str),
    /// 403: no key of the log signed it.
    #[error("the checkpoint is not signed by a key this witness knows for that log")]
    NotSigned,
    /// 404: the witness does not know that log.
    #[error("this witness does not know that log")]
    UnknownLog,
    /// 409: the witness knows another size, which the answer's body gives.
    #[error("the witness knows the log at size {0}")]
    Conflict(u64),
    /// 422: the proof does not hold.
    #[error("the consistency proof does not hold")]
    WrongProof,
}

impl Refusal {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::NotSigned => 403,
            Self::UnknownLog => 404,
            Self::Conflict(_) => 409,
            Self::WrongProof => 422,
        }
    }
}

impl AddCheckpoint {
    /// Reads the body of a request; strict.
    ///
    /// # Errors
    /// [`Refusal::Malformed`].
    pub fn parse(body: &str) -> Result<Self, Refusal> {
        let malformed = Refusal::Malformed;
        if body.len() > MAX_REQUEST_BYTES {
            return Err(malformed("it is too long"));
        }
        let (head, note) = body.split_once("\n\n").ok_or(malformed("no blank line before the checkpoint"))?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old ")).ok_or(malformed("no old size"))?;
        let old = old.parse::<u64>().ok().filter(|it| it.to_string() == old);
        let old = old.ok_or(malformed("the old size is not a plain decimal number"))?;
        let hash = |line: &str| STANDARD.decode(line).ok().and_then(|bytes| Hash::from_slice(&bytes));
        let proof: Option<Vec<Hash>> = lines.map(hash).collect();
        let proof = proof.ok_or(malformed("a hash is not base64 of 32 bytes"))?;
        if proof.len() > MAX_HASHES {
            return Err(malformed("it holds more hashes than a tree can need"));
        }
        Ok(Self { old, proof, note: note.to_owned() })
    }

    /// Decides whether a witness cosigns. `logs` are the keys of the logs it follows, each named by its log's origin; `known` is
    /// the checkpoint it cosigned last for this log.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn judge<'k>(
        &self,
        logs: &'k [VerifierKey],
        known: impl FnOnce(&str) -> Option<Checkpoint>,
    ) -> Result<(Checkpoint, Note, &'k VerifierKey), Refusal> {
        let note = Note::parse(&self.note).map_err(|_| Refusal::Malformed("the checkpoint is no signed note"))?;
        let head = Checkpoint::parse(&note.text).map_err(|_| Refusal::Malformed("the checkpoint does not read"))?;
        let of_log: Vec<&VerifierKey> = logs.iter().filter(|key| key.name() == head.origin).collect();
        if of_log.is_empty() {
            return Err(Refusal::UnknownLog);
        }
        let signed = of_log.into_iter().find(|key| note.verify(std::slice::from_ref(*key)).is_ok());
        let key = signed.ok_or(Refusal::NotSigned)?;
        if self.old > head.size {
            return Err(Refusal::Malformed("the old size is beyond the new one"));
        }
        let before = known(&head.origin);
        let size = before.as_ref().map_or(0, |it| it.size);
        if self.old != size {
            return Err(Refusal::Conflict(size));
        }
        if let Some(before) = before.filter(|it| it.size > 0) {
            if head.size == before.size && head.root != before.root {
                return Err(Refusal::Conflict(size));
            }
            verify_consistency(before.size, &before.root, head.size, &head.root, &self.proof)
                .map_err(|_| Refusal::WrongProof)?;
        } else if !self.proof.is_empty() {
            return Err(Refusal::WrongProof);
        }
        Ok((head, note, key))
    }
}

impl std::fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "old {}", self.old)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{}", STANDARD.encode(hash.0)))?;
        write!(f, "\n{}", self.note)
    }
}

/// Reads a witness's answer: the cosignature lines that are right for this key and text. Others are passed over.
pub fn cosignatures(answer: &str, text: &str, key: &VerifierKey) -> Vec<Signature> {
    let lines = answer.lines().take(16).filter_map(Signature::parse);
    let of_key = lines.filter(|it| it.name == key.name() && it.key_id == key.key_id());
    of_key.filter(|it| key.signed(text, &it.bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::hash::leaf_hash;
    use crate::ledger::note::{KeyKind, NoteSigner};
    use crate::ledger::proof::{consistency_proof, root_at};
    use crate::ledger::tree::{Edge, Tile, TileSource};

    struct Tree {
        edge: Edge,
        full: Vec<Tile>,
    }

    impl TileSource for Tree {
        type Error = std::convert::Infallible;

        fn tile(&self, level: u8, index: u64, width: usize) -> Result<Vec<Hash>, Self::Error> {
            let full = self.full.iter().find(|it| (it.level, it.index) == (level, index));
            Ok(full.map_or_else(|| self.edge.level(level), |it| &it.hashes)[..width].to_vec())
        }
    }

    fn tree() -> Tree {
        let (mut edge, mut full) = (Edge::new(), Vec::new());
        (0..700_u32).for_each(|n| full.extend(edge.append(leaf_hash(&n.to_be_bytes()))));
        Tree { edge, full }
    }

    fn log() -> NoteSigner {
        NoteSigner::from_seed("log.example", &[1; 32]).unwrap()
    }

    fn head(size: u64) -> Checkpoint {
        let root = root_at(&tree(), size).unwrap();
        Checkpoint { origin: "log.example".into(), size, root, extensions: Vec::new() }
    }

    fn request(old: u64, new: u64) -> AddCheckpoint {
        let proof = if old == 0 || old == new { Vec::new() } else { consistency_proof(&tree(), old, new).unwrap() };
        AddCheckpoint { old, proof, note: head(new).sign(&log()).unwrap() }
    }

    fn judge(request: &AddCheckpoint, known: Option<u64>) -> Result<u64, Refusal> {
        let keys = [log().verifier_key().clone()];
        request.judge(&keys, |_| known.map(head)).map(|(head, _, _)| head.size)
    }

    #[test]
    fn a_request_comes_back_as_written() {
        for request in [request(0, 5), request(257, 300), request(300, 300)] {
            assert_eq!(AddCheckpoint::parse(&request.to_string()), Ok(request));
        }
        for wrong in ["", "old 1\n", "old 01\n\nx", "old -1\n\nx", "old 1\nxyz\n\nx", "new 1\n\nx"] {
            assert!(AddCheckpoint::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_witness_follows_a_log_that_only_grows() {
        assert_eq!(judge(&request(0, 257), None), Ok(257));
        assert_eq!(judge(&request(257, 300), Some(257)), Ok(300));
        assert_eq!(judge(&request(300, 300), Some(300)), Ok(300));
        assert_eq!(judge(&request(0, 300), Some(257)), Err(Refusal::Conflict(257)));
        assert_eq!(judge(&request(257, 300), Some(300)), Err(Refusal::Conflict(300)));
        assert_eq!(judge(&request(257, 300), None), Err(Refusal::Conflict(0)));
        assert_eq!(judge(&AddCheckpoint { old: 301, ..request(257, 300) }, Some(301)).unwrap_err().status(), 400);
    }

    #[test]
    fn a_forged_proof_another_root_or_key_or_log_is_refused() {
        let good = request(257, 300);
        for n in 0..good.proof.len() {
            let mut forged = good.clone();
            forged.proof[n].0[0] ^= 1;
            assert_eq!(judge(&forged, Some(257)), Err(Refusal::WrongProof));
            forged.proof.remove(n);
            assert_eq!(judge(&forged, Some(257)), Err(Refusal::WrongProof));
        }
        let other = Checkpoint { root: leaf_hash(b"other"), ..head(300) };
        let forked = AddCheckpoint { note: other.sign(&log()).unwrap(), ..good.clone() };
        assert_eq!(judge(&forked, Some(257)), Err(Refusal::WrongProof));
        let forked = AddCheckpoint { old: 300, proof: Vec::new(), ..forked };
        assert_eq!(judge(&forked, Some(300)), Err(Refusal::Conflict(300)));
        let stranger = NoteSigner::from_seed("log.example", &[2; 32]).unwrap();
        let unsigned = AddCheckpoint { note: head(300).sign(&stranger).unwrap(), ..good.clone() };
        assert_eq!(judge(&unsigned, Some(257)), Err(Refusal::NotSigned));
        let elsewhere = Checkpoint { origin: "elsewhere.example".into(), ..head(300) };
        let unknown = AddCheckpoint { note: elsewhere.sign(&log()).unwrap(), ..good };
        assert_eq!(judge(&unknown, Some(257)), Err(Refusal::UnknownLog));
        // What is known of an empty log is nothing: whatever comes first is consistent with it.
        assert!(judge(&request(0, 300), Some(0)).is_ok());
        let proof = vec![leaf_hash(b"more")];
        assert_eq!(judge(&AddCheckpoint { proof, ..request(0, 300) }, None), Err(Refusal::WrongProof));
    }

    #[test]
    fn a_request_holds_no_more_hashes_and_bytes_than_it_can_need() {
        let of = |count: usize, note: &str| {
            let hash = format!("{}\n", STANDARD.encode(leaf_hash(b"x").0));
            AddCheckpoint::parse(&format!("old 1\n{}\n{note}", hash.repeat(count)))
        };
        assert_eq!((of(63, "n").unwrap().proof.len(), of(63, "n").unwrap().note.as_str()), (63, "n"));
        assert!(of(64, "n").is_err() && of(65, "n").is_err());
        let note = |size: usize| "n".repeat(size - "old 1\n\n".len());
        assert!(of(0, &note(MAX_REQUEST_BYTES)).is_ok());
        assert!(of(0, &note(MAX_REQUEST_BYTES + 1)).is_err() && of(0, &note(MAX_REQUEST_BYTES + 2)).is_err());
    }

    // made by another implementation (pyca/cryptography) from a seed of 32 times 0x05
    const FOREIGN_KEY: &str = "w.example+68cf16f3+BG56HN0psLeP0Tr0xVmP7/TvKpcWbjym8uT7/M2AUFvx";
    const FOREIGN_TEXT: &str = "ledger.example/ward-7\n300\nkJcpqcb0qWKBKkZXnxPSra0Dz30AFtViQ/5FhNC14Dw=\n";
    const FOREIGN_LINE: &str = "— w.example aM8W8wAAAABpJIEADEPwp3PcH019PwVWzC1yI66vEbkVVAmP2Av2WwAOI4uU8VOKl2vkeN162Tp+ESmX4iXyWzQ2a+zZ6yeZusPOAw==\n";

    #[test]
    fn a_cosignature_made_elsewhere_is_the_same_byte_for_byte() {
        let witness = NoteSigner::of_kind("w.example", KeyKind::Witness, &[5; 32]).unwrap();
        assert_eq!(witness.verifier_key().to_string(), FOREIGN_KEY);
        assert_eq!(witness.cosign(FOREIGN_TEXT, 1764000000).to_string(), FOREIGN_LINE);
        let taken = cosignatures(FOREIGN_LINE, FOREIGN_TEXT, &FOREIGN_KEY.parse().unwrap());
        assert_eq!(taken.len(), 1);
        assert_eq!(witness.verifier_key().stated_time(&taken[0].bytes), Some(1764000000));
    }

    #[test]
    fn only_right_cosignatures_of_the_key_are_taken() {
        let witness = NoteSigner::of_kind("w.example", KeyKind::Witness, &[5; 32]).unwrap();
        let (key, text) = (witness.verifier_key(), head(5).to_text());
        let line = witness.cosign(&text, 1_764_000_000);
        assert_eq!(cosignatures(&line.to_string(), &text, key), std::slice::from_ref(&line));
        assert_eq!(key.stated_time(&line.bytes), Some(1_764_000_000));
        assert!(cosignatures(&line.to_string(), &head(6).to_text(), key).is_empty());
        let other = NoteSigner::of_kind("w.example", KeyKind::Witness, &[6; 32]).unwrap();
        assert!(cosignatures(&other.cosign(&text, 1).to_string(), &text, key).is_empty());
        assert!(cosignatures("rubbish\n— w.example AAAA\n", &text, key).is_empty());
        let renamed = Signature { name: "x.example".into(), ..line.clone() };
        assert!(cosignatures(&renamed.to_string(), &text, key).is_empty(), "signed under another name");
        let mut later = line;
        later.bytes[7] ^= 1;
        assert!(cosignatures(&later.to_string(), &text, key).is_empty(), "the time is signed");
    }
}
