//! Activity review: an officer's decision on entries, itself an entry (45 CFR 164.308(a)(1)(ii)(D), 164.316(b)(1)(ii)).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::meta::Related;
use crate::domain::reports::review::OUTCOMES;
use crate::domain::rules::{MAX_LIST, MAX_TEXT_BYTES};
use crate::domain::submission::{ReasonIn, object};
use crate::domain::time::Timestamp;
use crate::domain::value::{Phi, Value};

use super::Vault;
use super::approval::refused;
use super::error::VaultError;
use super::record::Note;
use super::reveal::name_patients;
use super::search::decode;
use super::writer::find_id;

/// What was decided of entries that were looked at.
#[derive(Deserialize, ToSchema, Default)]
#[serde(deny_unknown_fields)]
pub struct ReviewIn {
    /// The entries, up to 32.
    #[serde(default)]
    pub entries: Vec<String>,
    /// appropriate, inappropriate, unclear or escalated.
    pub outcome: Option<String>,
    /// In words; sealed.
    #[schema(value_type = Option<String>)]
    pub comment: Option<Phi>,
    /// Why it was reviewed.
    #[serde(default, deserialize_with = "object")]
    pub reason: Option<ReasonIn>,
}

/// A review that was recorded.
#[derive(Serialize, ToSchema)]
pub struct Reviewed {
    /// The entry that records it.
    pub id: Uuid,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

impl Vault {
    /// Records what was decided of entries.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `NotFound`, `Invalid`, or what recording says.
    pub fn review(&self, caller: &Caller, asked: ReviewIn) -> Result<Reviewed, VaultError> {
        self.allow(caller, Permission::Review, Action::REVIEW)?;
        let reason = self.reason(caller, Action::REVIEW, asked.reason.unwrap_or_default())?;
        let outcome = asked.outcome.as_deref().and_then(|it| OUTCOMES.into_iter().find(|known| *known == it));
        let outcome = outcome.ok_or_else(|| {
            refused("/outcome", "outcome_unknown", format!("What the review came to: {}.", OUTCOMES.join(", ")))
        })?;
        if asked.entries.is_empty() || asked.entries.len() > MAX_LIST {
            return Err(refused("/entries", "too_many", format!("Name 1 to {MAX_LIST} entries.")));
        }
        let mut note = Note::new(caller, Action::REVIEW, reason);
        let (mut related, mut patients) = (Vec::new(), Vec::new());
        for id in &asked.entries {
            let id = Uuid::try_parse(id).map_err(|_| VaultError::NotFound)?;
            let row = find_id(&*self.store, id, 0..self.store.size())?.ok_or(VaultError::NotFound)?;
            let own = decode(&row)?.actor.id.eq_ignore_ascii_case(&caller.label);
            if own {
                return Err(refused("/entries", "own_entry", "Nobody reviews what they did themselves."));
            }
            if let Some(patient) = decode(&row)?.patient {
                let shown = self.view(&row)?.patient.map_or_else(|| patient.id_text(), |it| it.id);
                patients.push((patient, shown));
            }
            related.push(Related { kind: "Entry".into(), id: id.to_string() });
        }
        if let Some(comment) = asked.comment {
            match comment.expose() {
                Value::String(text) if text.len() <= MAX_TEXT_BYTES => note.seal("comment", text.clone()),
                Value::String(_) => {
                    let detail = format!("This text is limited to {MAX_TEXT_BYTES} bytes.");
                    return Err(refused("/comment", "too_long", detail));
                }
                _ => return Err(refused("/comment", "wrong_type", "The value has the wrong type; expected a string.")),
            }
        }
        name_patients(&mut note, patients)?;
        note.related.extend(related);
        note.facts.push(("outcome".into(), outcome.to_owned()));
        let receipt = self.record(note)?;
        Ok(Reviewed { id: receipt.id, at: receipt.received_at })
    }
}
