//! Revealing values: opened and checked, recorded and synced, and only then handed out.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::entry::Revealed;
use crate::domain::issue::Issue;
use crate::domain::meta::{PATIENT_TYPE, Patient, Related};
use crate::domain::rules::Item;
use crate::domain::submission::ReasonIn;
use crate::domain::value::Phi;

use super::Vault;
use super::blinding::unblind;
use super::error::VaultError;
use super::record::{Note, set_facts};
use super::search::{decode, entry_record};
use super::writer::find_id;

/// The most entries of one reveal.
pub const MAX_REVEAL: usize = 1_000;
/// Entries that are revealed without waiting for others' long reading.
const FEW: usize = 8;
/// The most sealed bytes of one reveal.
const MAX_REVEAL_BYTES: usize = 64 << 20;
/// The bytes that a reveal's list of patients may take in its own metadata.
const MAX_PATIENT_BYTES: usize = 40_000;

impl Vault {
    /// Reveals the values of entries, all or none. One entry records it: the reason, how many, a digest of their ids, and
    /// each patient, so that the patient's own trail shows who looked.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `Invalid`, `NotFound`, `Shredded`, `Integrity`, or what recording says; then nothing is shown.
    pub fn reveal(&self, caller: &Caller, ids: &[Uuid], reason: ReasonIn) -> Result<Vec<Revealed>, VaultError> {
        self.allow(caller, Permission::Reveal, Action::REVEAL)?;
        let reason = self.reason(caller, Action::REVEAL, reason)?;
        if !(1..=MAX_REVEAL).contains(&ids.len()) {
            let detail = format!("Name 1 to {MAX_REVEAL} entries.");
            return Err(VaultError::Invalid(vec![Issue::new("/ids", "too_many", detail)]));
        }
        // Their values are all in memory at once, so only a few such reveals go at a time.
        let _room = if ids.len() > FEW { Some(self.long_read()?) } else { None };
        let (mut rows, mut bytes) = (Vec::with_capacity(ids.len()), 0);
        for id in ids {
            let row = find_id(&*self.store, *id, 0..self.store.size())?.ok_or(VaultError::NotFound)?;
            bytes += row.sealed.len();
            if bytes > MAX_REVEAL_BYTES {
                let detail = "These entries hold more than 64 MiB of values; reveal fewer at a time.";
                return Err(VaultError::Invalid(vec![Issue::new("/ids", "too_large", detail)]));
            }
            rows.push(row);
        }
        let mut revealed = Vec::with_capacity(rows.len());
        let mut patients = Vec::new();
        for (n, row) in rows.iter().enumerate() {
            let meta = decode(row)?;
            let items = self.open_items(row, &meta).map_err(|error| match error {
                VaultError::Integrity(what) => {
                    tracing::error!(what, "values could not be revealed; run phivault verify");
                    let detail = "The values of this entry are not those the ledger committed to.";
                    VaultError::Damaged(Issue::new(format!("/ids/{n}"), "integrity", detail))
                }
                other => other,
            })?;
            let mut clear = meta.clone();
            unblind(&mut clear, &mut items.clone());
            patients.extend(meta.patients().zip(clear.patients().map(|it| it.id_text())));
            revealed.push(Revealed::new(self.view_with(row, &meta, &items), items));
        }
        let mut note = Note::new(caller, Action::REVEAL, reason);
        name_patients(&mut note, patients)?;
        note.facts = set_facts(ids);
        if let [id] = ids {
            note.record = Some(entry_record(*id));
        }
        // Synced before anything leaves; if it cannot be recorded, nothing is shown.
        self.record(note)?;
        self.counters.revealed.fetch_add(ids.len() as u64, Ordering::Relaxed);
        Ok(revealed)
    }
}

/// Names the patients whose entries are revealed, each in its form on disk and in clear: a single one as the entry's own,
/// several as related.
pub(super) fn name_patients(note: &mut Note<'_>, all: Vec<(Patient, String)>) -> Result<(), VaultError> {
    let mut seen = HashSet::new();
    let patients: Vec<_> = all.into_iter().filter(|(patient, _)| seen.insert(patient.clone())).collect();
    if let [(patient, id)] = patients.as_slice() {
        note.patient = Some(patient.clone());
        if !patient.is_plain() {
            note.items.push(Item { path: "patient/id".into(), value: Phi::text(id) });
        }
        return Ok(());
    }
    let bytes: usize = patients.iter().map(|(patient, _)| patient.id_text().len() + 32).sum();
    if bytes > MAX_PATIENT_BYTES {
        let detail = "These entries belong to too many patients for one record of the reveal; reveal fewer at a time.";
        return Err(VaultError::Invalid(vec![Issue::new("/ids", "too_many", detail)]));
    }
    for (n, (patient, id)) in patients.iter().enumerate() {
        note.related.push(Related { kind: PATIENT_TYPE.into(), id: patient.id_text() });
        if !patient.is_plain() {
            note.items.push(Item { path: format!("related/{n:03}/id"), value: Phi::text(id) });
        }
    }
    Ok(())
}
