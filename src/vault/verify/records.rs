//! Sealed records that were replaced by right: each range between two seal entries holds what was stated of it last, and each erased
//! record names an entry that gives the right to erase it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use uuid::Uuid;

use crate::crypto::seal;
use crate::domain::action::{Action, Outcome};
use crate::domain::meta::Meta;
use crate::ledger::tree::Edge;
use crate::store::StoreError;
use crate::store::sqlite::Reader;

use super::super::writer::seal_leaf;
use super::Findings;
use super::segment::Erased;

/// What the ledger says of sealed records, and what they are.
#[derive(Default)]
pub(super) struct Records {
    /// By first entry.
    ranges: BTreeMap<u64, SealedRange>,
    /// Erased records, by certificate and bucket.
    markers: BTreeMap<(Uuid, u32), Erased>,
    rights: HashMap<Uuid, Right>,
}

/// A range of ciphertexts between two seal entries.
struct SealedRange {
    to: u64,
    /// The root over them as they are.
    found: String,
    /// As it was stated last.
    stated: String,
}

/// What a certificate gives the right to.
enum Right {
    /// To erase what was in a bucket.
    Bucket(u32),
    /// To erase the values of one entry.
    Entry(Uuid),
    /// To erase what a keyring newer than a restored backup had lost.
    Restored,
}

impl Records {
    /// A seal entry stated the root of a range.
    pub(super) fn sealed(&mut self, range: Range<u64>, found: String, stated: String) {
        self.ranges.insert(range.start, SealedRange { to: range.end, found, stated });
    }

    /// Erased records of a segment.
    pub(super) fn erased(&mut self, markers: BTreeMap<(Uuid, u32), Erased>) {
        for (what, Erased { first, entries }) in markers {
            self.markers.entry(what).or_insert(Erased { first, entries: 0 }).entries += entries;
        }
    }

    /// Takes in what an entry of the vault about itself says.
    pub(super) fn told(&mut self, sequence: u64, meta: &Meta, findings: &mut Findings) {
        self.rights(meta);
        if [Action::KEY_REENCRYPT, Action::ERASE, Action::REDACT].contains(&meta.action) {
            self.resealed(sequence, meta, findings);
        }
    }

    /// Looks at everything once all is read.
    pub(super) fn finish(&self, reader: &Reader, findings: &mut Findings) -> Result<(), StoreError> {
        self.ranges(reader, findings)?;
        for (certificate, right) in &self.rights {
            let there = self.markers.range((*certificate, 0)..=(*certificate, u32::MAX)).next().is_some();
            if let (Right::Entry(entry), false) = (right, there) {
                let place = format!("sealed record of entry id {entry}");
                let found = "a record: somebody put it back".to_owned();
                findings.find("erasure_undone", None, place, format!("erased under certificate {certificate}"), found);
            }
        }
        self.markers(reader, findings)
    }

    /// A re-encryption or erasure says what the ciphertexts of a sealed range are from now on.
    fn resealed(&mut self, sequence: u64, meta: &Meta, findings: &mut Findings) {
        let number = |name| meta.fact(name).and_then(|it| it.parse::<u64>().ok());
        let (Some(from), Some(to), Some(root)) = (number("from"), number("to"), meta.fact("root")) else { return };
        match self.ranges.get_mut(&from).filter(|range| range.to == to) {
            Some(range) => range.stated = root.to_owned(),
            None => {
                let found = format!("{from} to {to}");
                findings.find("seal_range", Some(sequence), "re-encryption", "a range that a seal entry covers", found);
            }
        }
    }

    /// Each range must hold the ciphertexts that were stated of it last. The threads that read it may have seen it while records
    /// were replaced, so one that differs is read again as it was at the beginning, when the last statement was made.
    fn ranges(&self, reader: &Reader, findings: &mut Findings) -> Result<(), StoreError> {
        for (from, SealedRange { to, found, stated }) in &self.ranges {
            if found == stated {
                continue;
            }
            let mut edge = Edge::new();
            reader.scan(*from..*to, &mut |_, row| {
                if let Some((id, sealed)) = row.ok().and_then(|row| Some((Meta::borrow(row.meta).ok()?.id, row.sealed)))
                {
                    edge.append(seal_leaf(id, sealed));
                }
            })?;
            let found = edge.root().to_string();
            if found != *stated {
                let place = format!("ciphertexts of entries {from} to {}", to - 1);
                findings.find("ciphertext_altered", Some(*from), place, stated, found);
            }
        }
        Ok(())
    }

    /// What an entry gives the right to erase.
    fn rights(&mut self, meta: &Meta) {
        if meta.outcome != Outcome::Success {
            return;
        }
        match meta.action {
            Action::DISPOSE => {
                let bucket = meta.fact("bucket").and_then(|it| it.parse().ok());
                self.rights.extend(bucket.map(|it| (meta.id, Right::Bucket(it))));
            }
            Action::REDACT => {
                let entry = meta.record.as_ref().and_then(|it| it.id.parse().ok());
                self.rights.extend(entry.map(|it| (meta.id, Right::Entry(it))));
            }
            Action::VAULT_RESTORE => {
                let all = meta.fact("disposed").unwrap_or_default().split_whitespace();
                for certificate in all.filter_map(|it| it.parse().ok()) {
                    self.rights.entry(certificate).or_insert(Right::Restored);
                }
            }
            _ => {}
        }
    }

    /// Whatever was erased must have been erased by right.
    fn markers(&self, reader: &Reader, findings: &mut Findings) -> Result<(), StoreError> {
        for ((certificate, bucket), Erased { first: (sequence, id), entries }) in &self.markers {
            let right = match self.rights.get(certificate) {
                Some(Right::Bucket(it)) => it == bucket,
                Some(Right::Entry(it)) => it == id && *entries == 1,
                Some(Right::Restored) => true,
                None => false,
            };
            // Erased since the beginning, like as not: then it is not yet so as of then.
            let mut so = false;
            reader.scan(*sequence..sequence + 1, &mut |_, row| {
                let marker = row.ok().and_then(|row| seal::is_erased(row.sealed));
                so = marker == Some((*bucket, *certificate.as_bytes()));
            })?;
            if !right && so {
                let found = format!("{entries} erased under certificate {certificate}, which gives no right to it");
                findings.find("erased_without_right", Some(*sequence), "sealed", "sealed values", found);
            }
        }
        Ok(())
    }
}
