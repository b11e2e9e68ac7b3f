//! An entry as a reader sees it: the metadata, and after a reveal the values.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::fields::marked;
use super::meta::{Meta, Patient};
use super::rules::Item;
use super::time::Timestamp;
use super::value::{Phi, Value};

/// What a submitter holds in hand: the entry's place in the ledger.
#[derive(Clone, Debug, Serialize, ToSchema, PartialEq, Eq)]
pub struct Receipt {
    /// The entry's id.
    pub id: Uuid,
    /// Its position in the ledger, counted from 0.
    pub sequence: u64,
    /// The RFC 6962 leaf hash, hex.
    #[schema(value_type = String)]
    pub leaf_hash: String,
    /// When the vault took it in.
    #[schema(value_type = String, format = DateTime)]
    pub received_at: Timestamp,
    /// What is worth a look, as `mark:field`: a large_change of a number, a high_value.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<String>,
}

/// The metadata of an entry.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct EntryView {
    /// The entry's id.
    pub id: Uuid,
    /// Its position in the ledger.
    pub sequence: u64,
    /// When the vault took it in.
    #[schema(value_type = String, format = DateTime)]
    pub received_at: Timestamp,
    /// The application that submitted it.
    pub source: String,
    /// What was done.
    #[schema(value_type = String)]
    pub action: super::action::Action,
    /// How it ended.
    #[schema(value_type = String)]
    pub outcome: super::action::Outcome,
    /// When it happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub occurred_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// The time the data speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub effective_at: Option<Timestamp>,
    /// Who did it.
    pub actor: ActorView,
    /// Whose record it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patient: Option<PatientView>,
    /// Which record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<RecordView>,
    /// The category of the content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// Labels of specially protected data.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sensitivity: Vec<String>,
    /// Why.
    pub reason: ReasonView,
    /// The changed fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    /// The legal basis of a disclosure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disclosure_basis: Option<String>,
    /// What else it belongs to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<RelatedView>,
    /// Where it came from.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub context: BTreeMap<&'static str, String>,
    /// What is worth a look, as `mark:field`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<String>,
    /// What the vault states about itself, in its own entries.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
    /// The RFC 6962 leaf hash, hex.
    pub leaf_hash: String,
    /// The data-key version its values are sealed under.
    pub key_version: u32,
    /// Why blinded ids are shown as they rest: `destroyed` (with their key) or `damaged` (run `phivault verify`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealed_ids: Option<&'static str>,
}

/// Who did it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ActorView {
    /// The user's id.
    pub id: String,
    /// The role acted in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// user or system.
    #[serde(rename = "type")]
    pub kind: String,
    /// The user acted for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
}

/// Whose record it was, and the entry's place in that patient's trail.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PatientView {
    /// The patient's id, or its blind index when the id can no longer be opened.
    pub id: String,
    /// The running number among this patient's entries, from 1 without gaps.
    pub number: u64,
    /// The position of this patient's entry before; absent for the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<u64>,
}

/// Which record.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RecordView {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its id.
    pub id: String,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The version of the data model that its fields are named by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
}

/// Something the entry belongs to.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RelatedView {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its id.
    pub id: String,
}

/// Why.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ReasonView {
    /// The code as submitted.
    pub code: String,
    /// The standard code it stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standard: Option<String>,
    /// The change reason code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
    /// Whether a note was given.
    pub note_given: bool,
    /// Whether it counts as break-the-glass.
    pub break_glass: bool,
}

/// An entry with its values.
#[derive(Serialize, ToSchema)]
pub struct Revealed {
    /// The metadata.
    #[serde(flatten)]
    pub entry: EntryView,
    /// The actor's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub actor_name: Option<Open>,
    /// The note to the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub note: Option<Open>,
    /// The changes with their values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<RevealedChange>,
    /// Other sealed parts by their place, such as `disclosure/recipient/name`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, serde_json::Value>)]
    pub other: BTreeMap<String, Open>,
}

/// One change with its values.
#[derive(Serialize, ToSchema)]
pub struct RevealedChange {
    /// The field.
    pub field: String,
    /// Its name of now, if the application called it otherwise then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The value before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub old: Option<Open>,
    /// The value after.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub new: Option<Open>,
}

/// A value on its way out of the vault: the one type of plaintext that can be serialised.
pub struct Open(Phi);

impl Open {
    /// Lets a value out.
    pub fn new(value: Phi) -> Self {
        Self(value)
    }
}

impl Serialize for Open {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.expose().serialize(serializer)
    }
}

/// Where an entry stands: what the sequencer added to it.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its position in the ledger.
    pub sequence: u64,
    /// When the vault took it in.
    pub received_at: Timestamp,
    /// The position of the patient's entry before; 0 if there is none.
    pub patient_previous: u64,
    /// The patient's running number; 0 if there is no patient.
    pub patient_number: u64,
}

impl EntryView {
    /// The view of an entry. `opened` are its sealed items, needed only where ids are blinded.
    pub fn new(meta: &Meta, place: Place, leaf_hash: String, key_version: u32, opened: &[Item]) -> Self {
        let sealed_text = |path: &str| match opened.iter().find(|it| it.path == path)?.value.expose() {
            Value::String(text) => Some(text.clone()),
            _ => None,
        };
        let patient = meta.patient.as_ref().map(|it| PatientView {
            id: sealed_text("patient/id").unwrap_or_else(|| it.id_text()),
            number: place.patient_number,
            previous: (place.patient_number > 1).then_some(place.patient_previous),
        });
        let context = &meta.context;
        let parts = [
            ("session_id", &context.session_id),
            ("client_ip", &context.client_ip),
            ("user_agent", &context.user_agent),
            ("request_id", &context.request_id),
            ("facility", &context.facility),
            ("device", &context.device),
        ];
        let related = meta.related.iter().enumerate().map(|(n, it)| RelatedView {
            kind: it.kind.clone(),
            id: sealed_text(&format!("related/{n:03}/id")).unwrap_or_else(|| it.id.clone()),
        });
        Self {
            id: meta.id,
            sequence: place.sequence,
            received_at: place.received_at,
            source: meta.source.clone(),
            action: meta.action,
            outcome: meta.outcome,
            occurred_at: meta.occurred_at,
            ended_at: meta.ended_at,
            effective_at: meta.effective_at,
            actor: ActorView {
                id: meta.actor.id.clone(),
                role: meta.actor.role.clone(),
                kind: meta.actor.kind.clone().unwrap_or_else(|| "user".to_owned()),
                on_behalf_of: meta.actor.on_behalf_of.clone(),
            },
            patient,
            record: meta.record.as_ref().map(|it| RecordView {
                kind: it.kind.clone(),
                id: sealed_text("record/id").unwrap_or_else(|| it.id.clone()),
                version: it.version.clone(),
                schema: it.schema.clone(),
            }),
            category: meta.category.clone(),
            sensitivity: meta.sensitivity.clone(),
            reason: ReasonView {
                code: meta.reason.code.clone(),
                standard: meta.reason.standard.clone(),
                change: meta.reason.change.clone(),
                note_given: meta.reason.note_given,
                break_glass: meta.reason.break_glass,
            },
            fields: meta.fields.clone(),
            disclosure_basis: meta.basis.clone(),
            related: related.collect(),
            context: parts.into_iter().filter_map(|(name, it)| Some((name, it.clone()?))).collect(),
            marks: marked(meta),
            facts: if meta.action.is_change() { BTreeMap::new() } else { meta.facts.iter().cloned().collect() },
            leaf_hash,
            key_version,
            sealed_ids: None,
        }
    }
}

impl Revealed {
    /// Joins the metadata with the opened items.
    pub fn new(entry: EntryView, items: Vec<Item>) -> Self {
        let mut changes: Vec<_> = entry
            .fields
            .iter()
            .map(|it| RevealedChange { field: it.clone(), name: None, old: None, new: None })
            .collect();
        let (mut actor_name, mut note, mut other) = (None, None, BTreeMap::new());
        for item in items {
            let open = Open(item.value);
            match (item.path.as_str(), change_place(&item.path)) {
                (_, Some((index, side))) if index < changes.len() => match side {
                    "old" => changes[index].old = Some(open),
                    _ => changes[index].new = Some(open),
                },
                ("actor/name", _) => actor_name = Some(open),
                ("note", _) => note = Some(open),
                // Blinded ids stand in the view already.
                ("patient/id" | "record/id", _) => {}
                (path, _) if path.starts_with("related/") && path.ends_with("/id") => {}
                _ => {
                    other.insert(item.path, open);
                }
            }
        }
        Self { entry, actor_name, note, changes, other }
    }
}

/// The index and side of `changes/007/old`.
fn change_place(path: &str) -> Option<(usize, &str)> {
    let (index, side) = path.strip_prefix("changes/")?.split_once('/')?;
    Some((index.parse().ok()?, side))
}

impl Patient {
    /// Whether the id stands in clear.
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }
}
