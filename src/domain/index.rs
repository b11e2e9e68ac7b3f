//! Which terms an entry can be found by. The store keeps postings for them; what they mean is decided here.

use std::cell::RefCell;

use sha2::{Digest, Sha256};

use super::action::Outcome;
use super::activity::Deed;
use super::fields::MARKS;
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
    /// A mark of a change.
    Mark = 15,
}

/// Bytes that SHA-256 takes in one block, its padding beside them.
const SHORT: usize = 55;

/// Values that [`Terms`] remembers while many entries are read, and those that each thread that submits remembers.
const SLOTS: usize = 4_096;
const FEW_SLOTS: usize = 256;
/// An odd number with well spread bits (2^64 divided by the golden ratio).
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

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
        match Short::of(parts) {
            Some(short) => short.term(dimension),
            None => {
                let feed = |hash: Sha256, part: &&[u8]| {
                    hash.chain_update((part.len() as u64).to_be_bytes()).chain_update(part)
                };
                Self::cut(dimension, parts.iter().fold(Sha256::new(), feed).finalize().into())
            }
        }
    }

    fn cut(dimension: Dimension, hash: [u8; 32]) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = hash;
        Self { dimension, key: u64::from_be_bytes([a, b, c, d, e, f, g, h]) }
    }

    /// The term of a patient.
    pub fn patient<S: AsRef<str>>(dimension: Dimension, patient: &Patient<S>) -> Self {
        patient_parts(&patient.borrowed(), |parts| Self::new(dimension, parts))
    }
}

/// The parts of a value, each behind its length, when they fit into one block: hashed at once they cost half, and most do.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Short {
    bytes: [u8; SHORT],
    length: u8,
}

impl Short {
    fn of(parts: &[&[u8]]) -> Option<Self> {
        let length: usize = parts.iter().map(|part| 8 + part.len()).sum();
        let (mut bytes, mut at) = ([0; SHORT], 0);
        let short = Self { bytes, length: u8::try_from(length).ok().filter(|it| usize::from(*it) <= SHORT)? };
        for part in parts {
            bytes[at..at + 8].copy_from_slice(&(part.len() as u64).to_be_bytes());
            bytes[at + 8..at + 8 + part.len()].copy_from_slice(part);
            at += 8 + part.len();
        }
        Some(Self { bytes, ..short })
    }

    fn term(&self, dimension: Dimension) -> Term {
        Term::cut(dimension, Sha256::digest(&self.bytes[..usize::from(self.length)]).into())
    }

    /// Where to remember it. Values that meet only push each other out.
    fn slot(&self, dimension: Dimension, slots: usize) -> usize {
        let mix = |hash: u64, word: &[u8; 8]| (hash.rotate_left(5) ^ u64::from_be_bytes(*word)).wrapping_mul(MIX);
        let (words, tail) = self.bytes.as_chunks::<8>();
        let last = tail.iter().fold(u64::from(self.length), |last, byte| last << 8 | u64::from(*byte));
        let hash = words.iter().fold(dimension as u64, mix);
        usize::try_from(mix(hash, &last.to_be_bytes()) >> (64 - slots.ilog2())).expect("a few bits are left")
    }
}

/// What the store keeps of an entry beside the entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Indexed {
    /// What it can be found by.
    pub terms: Vec<Term>,
    /// What it is counted by.
    pub deed: Deed,
}

impl Indexed {
    /// The same entry gives the same.
    pub fn of(meta: &Meta) -> Self {
        thread_local! {
            static LATELY: RefCell<Terms> = RefCell::new(Terms { known: vec![None; FEW_SLOTS], out: Vec::new() });
        }
        let terms = LATELY.with_borrow_mut(|it| it.of(meta).to_vec());
        Self { deed: Deed::of(meta, &terms), terms }
    }
}

/// Every term of an entry, by rising dimension and key.
pub fn terms(meta: &Meta) -> Vec<Term> {
    let mut out = Vec::with_capacity(12);
    each_term(meta, |dimension, parts| out.push(Term::new(dimension, parts)));
    out.sort_unstable();
    out.dedup();
    out
}

/// Works out the terms of many entries. Users, actions, reasons and fields come again and again, so what was hashed lately is
/// remembered.
pub struct Terms {
    known: Vec<Option<(Short, Term)>>,
    out: Vec<Term>,
}

impl Default for Terms {
    fn default() -> Self {
        Self { known: vec![None; SLOTS], out: Vec::new() }
    }
}

impl Terms {
    /// The same as [`terms`].
    pub fn of<S: AsRef<str>>(&mut self, meta: &Meta<S>) -> &[Term] {
        let Self { known, out } = self;
        out.clear();
        each_term(meta, |dimension, parts| {
            // No two entries share an id.
            let short = Short::of(parts).filter(|_| dimension != Dimension::Id);
            out.push(short.map_or_else(|| Term::new(dimension, parts), |short| remember(known, dimension, short)));
        });
        out.sort_unstable();
        out.dedup();
        out
    }
}

fn remember(known: &mut [Option<(Short, Term)>], dimension: Dimension, short: Short) -> Term {
    let slots = known.len();
    let slot = &mut known[short.slot(dimension, slots)];
    match slot {
        Some((value, term)) if term.dimension == dimension && *value == short => *term,
        _ => slot.insert((short, short.term(dimension))).1,
    }
}

fn each_term<S: AsRef<str>>(meta: &Meta<S>, mut add: impl FnMut(Dimension, &[&[u8]])) {
    fn bytes<S: AsRef<str>>(text: &S) -> &[u8] {
        text.as_ref().as_bytes()
    }
    add(Dimension::Id, &[meta.id.as_bytes()]);
    add(Dimension::Actor, &[bytes(&meta.actor.id)]);
    add(Dimension::Action, &[meta.action.name().as_bytes()]);
    add(Dimension::Source, &[bytes(&meta.source)]);
    if let Some(record) = &meta.record {
        add(Dimension::Record, &[bytes(&record.kind), bytes(&record.id)]);
        add(Dimension::RecordType, &[bytes(&record.kind)]);
    }
    add(Dimension::Reason, &[bytes(&meta.reason.code)]);
    if let Some(standard) = &meta.reason.standard {
        add(Dimension::Reason, &[bytes(standard)]);
    }
    if let Some(session) = &meta.context.session_id {
        add(Dimension::Session, &[bytes(session)]);
    }
    for field in &meta.fields {
        add(Dimension::Field, &[bytes(field)]);
    }
    if let Some(category) = &meta.category {
        add(Dimension::Category, &[bytes(category)]);
    }
    if meta.outcome != Outcome::Success {
        add(Dimension::Outcome, &[meta.outcome.name().as_bytes()]);
    }
    if meta.reason.break_glass {
        add(Dimension::BreakGlass, &[]);
    }
    if meta.action.is_change() {
        MARKS.iter().filter(|it| meta.fact(it).is_some()).for_each(|it| add(Dimension::Mark, &[it.as_bytes()]));
    }
    if let Some(patient) = &meta.patient {
        patient_parts(&patient.borrowed(), |parts| add(Dimension::Patient, parts));
    }
    for patient in meta.other_patients() {
        patient_parts(&patient, |parts| add(Dimension::OtherPatient, parts));
    }
}

fn patient_parts<T>(patient: &Patient<&str>, mut each: impl FnMut(&[&[u8]]) -> T) -> T {
    match patient {
        Patient::Plain(id) => each(&[b"plain", id.as_bytes()]),
        Patient::Blind { version, token } => each(&[b"blind", &version.to_be_bytes(), token]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::meta::Related;

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
    fn what_is_remembered_changes_no_term() {
        let mut many = Terms::default();
        for n in 0..20_000_u32 {
            let user = format!("user-{}", n % 7_001);
            let patient = if n % 3 == 0 {
                Patient::Blind { version: n % 2, token: [7; 16] }
            } else {
                Patient::Plain(user.clone())
            };
            let related = Related { kind: "Patient".into(), id: format!("p{}", n % 11) };
            let mut meta = crate::domain::meta::tests::sample();
            meta.actor.id = user;
            (meta.patient, meta.related) = (Some(patient), vec![related]);
            meta.fields = vec!["a".repeat(n as usize % 70), "a\0".into(), "a".into()];
            assert_eq!(many.of(&meta), terms(&meta));
        }
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let term = |parts: &[&[u8]]| Term::new(Dimension::Record, parts);
        assert_ne!(term(&[b"ab", b"c"]), term(&[b"a", b"bc"]));
        assert_ne!(term(&[b"a"]), Term::new(Dimension::RecordType, &[b"a"]));
    }
}
