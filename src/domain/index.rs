//! Which terms an entry can be found by. The store keeps postings for them; what they mean is decided here.

use sha2::{Digest, Sha256};

use super::action::Outcome;
use super::meta::{Meta, Patient};

/// A property that entries are indexed by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Dimension {
    /// The entry's id.
    Id = 1,
    /// The patient the entry is about.
    Patient = 2,
    /// The actor.
    Actor = 3,
    /// The record: type and id.
    Record = 4,
    /// The type of the record.
    RecordType = 5,
    /// The action.
    Action = 6,
    /// The reason code, as submitted and as the standard code.
    Reason = 7,
    /// The session.
    Session = 8,
    /// A changed field.
    Field = 9,
    /// The submitting application.
    Source = 10,
    /// The category.
    Category = 11,
    /// The outcome, unless it is success.
    Outcome = 12,
    /// Break-the-glass entries; the value is empty.
    BreakGlass = 13,
    /// A patient the entry names beside its own.
    OtherPatient = 14,
}

/// Bytes that SHA-256 takes in one block, its padding beside them.
const SHORT: usize = 55;

/// A value of a dimension, reduced to 64 bits of its SHA-256. Different values may still share a term, so what is found is
/// checked again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Term {
    /// The dimension.
    pub dimension: Dimension,
    /// The reduced value.
    pub key: u64,
}

impl Term {
    /// The term of a value made of parts.
    pub fn new(dimension: Dimension, parts: &[&[u8]]) -> Self {
        // Whoever submits chooses ids and names, so that two values share a term must cost work, and it does: 64 bits of a
        // cryptographic hash. Nobody needs a key to work it out, for a verifier has none.
        let length: usize = parts.iter().map(|part| 8 + part.len()).sum();
        let hash = if length <= SHORT {
            // Most values fit into one block: hashed at once they cost half.
            let (mut bytes, mut at) = ([0; SHORT], 0);
            for part in parts {
                bytes[at..at + 8].copy_from_slice(&(part.len() as u64).to_be_bytes());
                bytes[at + 8..at + 8 + part.len()].copy_from_slice(part);
                at += 8 + part.len();
            }
            Sha256::digest(&bytes[..at])
        } else {
            let feed =
                |hash: Sha256, part: &&[u8]| hash.chain_update((part.len() as u64).to_be_bytes()).chain_update(part);
            parts.iter().fold(Sha256::new(), feed).finalize()
        };
        let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(hash);
        Self { dimension, key: u64::from_be_bytes([a, b, c, d, e, f, g, h]) }
    }

    /// The term of a patient.
    pub fn patient(dimension: Dimension, patient: &Patient) -> Self {
        match patient {
            Patient::Plain(id) => Self::new(dimension, &[b"plain", id.as_bytes()]),
            Patient::Blind { version, token } => Self::new(dimension, &[b"blind", &version.to_be_bytes(), token]),
        }
    }
}

/// Every term of an entry.
pub fn terms(meta: &Meta) -> Vec<Term> {
    let mut out = Vec::with_capacity(12);
    let mut add = |dimension, parts: &[&[u8]]| out.push(Term::new(dimension, parts));
    add(Dimension::Id, &[meta.id.as_bytes()]);
    add(Dimension::Actor, &[meta.actor.id.as_bytes()]);
    add(Dimension::Action, &[meta.action.name().as_bytes()]);
    add(Dimension::Source, &[meta.source.as_bytes()]);
    if let Some(record) = &meta.record {
        add(Dimension::Record, &[record.kind.as_bytes(), record.id.as_bytes()]);
        add(Dimension::RecordType, &[record.kind.as_bytes()]);
    }
    add(Dimension::Reason, &[meta.reason.code.as_bytes()]);
    if let Some(standard) = &meta.reason.standard {
        add(Dimension::Reason, &[standard.as_bytes()]);
    }
    if let Some(session) = &meta.context.session_id {
        add(Dimension::Session, &[session.as_bytes()]);
    }
    for field in &meta.fields {
        add(Dimension::Field, &[field.as_bytes()]);
    }
    if let Some(category) = &meta.category {
        add(Dimension::Category, &[category.as_bytes()]);
    }
    if meta.outcome != Outcome::Success {
        add(Dimension::Outcome, &[meta.outcome.name().as_bytes()]);
    }
    if meta.reason.break_glass {
        add(Dimension::BreakGlass, &[]);
    }
    if let Some(patient) = &meta.patient {
        out.push(Term::patient(Dimension::Patient, patient));
    }
    out.extend(meta.other_patients().map(|it| Term::patient(Dimension::OtherPatient, &it)));
    out.sort_unstable();
    out.dedup();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_values_are_hashed_alike() {
        for length in 0..100 {
            let value = vec![7; length];
            let whole = [&(length as u64).to_be_bytes()[..], &value].concat();
            let wanted = u64::from_be_bytes(Sha256::digest(whole)[..8].try_into().unwrap());
            assert_eq!(Term::new(Dimension::Actor, &[&value]).key, wanted, "{length} bytes");
        }
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let term = |parts: &[&[u8]]| Term::new(Dimension::Record, parts);
        assert_ne!(term(&[b"ab", b"c"]), term(&[b"a", b"bc"]));
        assert_ne!(term(&[b"a"]), Term::new(Dimension::RecordType, &[b"a"]));
    }
}
