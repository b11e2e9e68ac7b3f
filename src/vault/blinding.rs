//! Blind patient ids: with `patient_ids = "blind"` the metadata holds a keyed index, and the id itself is sealed.
//!
//! The patient, a record of type `Patient` and related things of type `Patient` are treated alike.

use crate::crypto::blind::IndexKey;
use crate::domain::meta::{Meta, Patient, is_patient_type};
use crate::domain::rules::{Draft, Item};
use crate::domain::value::{Phi, Value};

const PATIENT_PATH: &str = "patient/id";
const RECORD_PATH: &str = "record/id";

/// Replaces the patient ids of a draft by their blind index and seals the ids.
pub(super) fn blind(draft: &mut Draft, key: &IndexKey) {
    let Draft { meta, items, .. } = draft;
    let mut hide = |path: String, id: &str| {
        items.push(Item { path, value: Phi::text(id) });
        key.blind(id)
    };
    if let Some(Patient::Plain(id)) = &meta.patient {
        meta.patient = Some(hide(PATIENT_PATH.into(), id));
    }
    if let Some(record) = meta.record.as_mut().filter(|it| is_patient_type(&it.kind)) {
        record.id = hide(RECORD_PATH.into(), &record.id).id_text();
    }
    for (n, related) in meta.related.iter_mut().enumerate().filter(|(_, it)| is_patient_type(&it.kind)) {
        if Patient::from_id_text(&related.id).is_plain() {
            related.id = hide(related_path(n), &related.id).id_text();
        }
    }
    items.sort_by(|a, b| a.path.cmp(&b.path));
}

/// Puts opened ids back where their index stands, and takes them out of the items.
pub(super) fn unblind(meta: &mut Meta, items: &mut Vec<Item>) {
    let mut take = |path: &str| {
        let at = items.iter().position(|it| it.path == path)?;
        match items.remove(at).value.expose() {
            Value::String(text) => Some(text.clone()),
            _ => None,
        }
    };
    if let Some(id) = take(PATIENT_PATH) {
        meta.patient = Some(Patient::Plain(id));
    }
    if let (Some(id), Some(record)) = (take(RECORD_PATH), meta.record.as_mut()) {
        record.id = id;
    }
    for (n, related) in meta.related.iter_mut().enumerate() {
        if let Some(id) = take(&related_path(n)) {
            related.id = id;
        }
    }
}

fn related_path(n: usize) -> String {
    format!("related/{n:03}/id")
}
