//! What a plan is: the entries and places that it leads from and back to.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::entry::Open;
use crate::domain::history::{Axis, FieldState, SetBy, State};
use crate::domain::meta::Reason;
use crate::domain::submission::{ActorIn, ReasonIn, object};
use crate::domain::time::Timestamp;
use crate::domain::value::Phi;

use super::super::approval::refused;
use super::super::error::VaultError;
use super::super::history::RecordName;
use super::super::record::CheckedReason;
use super::super::steps::AsOf;

/// A field's name, its value of now, and the one it gets back.
pub(super) type Opened = (String, Option<Phi>, Option<Phi>);

/// What a plan should lead back to.
#[derive(Deserialize, ToSchema, Default)]
#[serde(deny_unknown_fields)]
pub struct RestoreIn {
    /// The record as it was at this time (RFC 3339).
    pub at: Option<String>,
    /// The record as it was at this position in the ledger.
    pub sequence: Option<u64>,
    /// Which time `at` means: occurred (default) or received.
    pub by: Option<String>,
    /// Undo this entry only.
    pub undo: Option<String>,
    /// Undo it also where a later entry changed the same field again.
    #[serde(default)]
    pub overwrite: bool,
    /// Why.
    #[serde(default, deserialize_with = "object")]
    pub reason: Option<ReasonIn>,
}

/// What the application that applied a plan says of it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfirmIn {
    /// Who applied it.
    #[serde(default, deserialize_with = "object")]
    pub actor: Option<ActorIn>,
    /// Why, as for any change.
    #[serde(default, deserialize_with = "object")]
    pub reason: Option<ReasonIn>,
    /// When it was applied.
    pub occurred_at: Option<String>,
    /// The record's version after it.
    pub version: Option<String>,
}

/// Where a plan stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlanStage {
    /// It waits for a second person.
    Pending,
    /// The application may fetch and apply it.
    Approved,
    /// The application has applied it.
    Confirmed,
    /// It was withdrawn or refused.
    Cancelled,
    /// Nobody approved or confirmed it in time.
    Expired,
}

/// A plan, without values.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// Its id.
    pub id: String,
    /// The record.
    pub record: RecordName,
    /// The application that owns it: that of its first change.
    pub owner: String,
    /// What it leads back to, in words.
    pub target: String,
    /// Where it stands.
    pub stage: PlanStage,
    /// Why: the reason code.
    pub reason: String,
    /// The position of the record's newest change; when there is a newer one the plan will not do any more.
    pub base: u64,
    /// Fields that it changes.
    pub fields: Vec<PlannedField>,
    /// Fields that it leaves alone, because a later entry changed them again.
    pub conflicts: Vec<PlanConflict>,
    /// Who asked for it.
    pub requested_by: String,
    /// The token that asked.
    pub requested_token: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub requested_at: Timestamp,
    /// When it ends unless it is confirmed.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// Who approved or cancelled it.
    pub decided_by: Option<String>,
    /// The entry that confirms it.
    pub confirmed_as: Option<Uuid>,
}

/// A field that a plan changes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PlannedField {
    /// The field.
    pub field: String,
    /// Where its value of now stands; `None`: it has none.
    pub from: Option<Origin>,
    /// Where the value stands that it gets back; `None`: it had none.
    pub to: Option<Origin>,
}

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Origin {
    /// The entry.
    pub entry: Uuid,
    /// Its position in the ledger.
    pub sequence: u64,
    /// The place of the change in it.
    pub place: usize,
    /// Whether it is the value before that change, not the one after.
    pub before: bool,
}

/// A field that a later entry changed again.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PlanConflict {
    /// The field.
    pub field: String,
    /// The later change.
    pub changed_by: SetByView,
    /// Whether the plan changes it all the same.
    pub overwritten: bool,
}

/// Which change set a field.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SetByView {
    /// The entry.
    pub entry: Uuid,
    /// Its position in the ledger.
    pub sequence: u64,
    /// Who did it.
    pub actor: String,
}

/// A plan with the changes to make.
#[derive(Serialize, ToSchema)]
pub struct PlanView {
    /// The plan.
    #[serde(flatten)]
    pub plan: Plan,
    /// What is to be changed. An absent `old` or `new` means that the field is not there.
    pub changes: Vec<PlannedChange>,
}

/// One change to make.
#[derive(Serialize, ToSchema)]
pub struct PlannedChange {
    /// The field.
    pub field: String,
    /// What it must be now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub old: Option<Open>,
    /// What it becomes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub new: Option<Open>,
}

/// What a plan leads back to.
pub(super) enum Target {
    Point(AsOf, String),
    Undo(Uuid),
}

pub(super) fn target(asked: &RestoreIn) -> Result<Target, VaultError> {
    let only_one = "Say what it should lead back to: one of at, sequence and undo.";
    let wrong = || refused("/by", "unknown", "by is occurred or received.");
    let axis = Axis::parse(asked.by.as_deref()).ok_or_else(wrong)?;
    match (&asked.at, asked.sequence, &asked.undo) {
        (Some(at), None, None) => {
            let time = Timestamp::parse(at).ok_or_else(|| {
                refused("/at", "time_invalid", "This is no RFC 3339 time such as 2026-11-24T09:30:00Z.")
            })?;
            Ok(Target::Point(AsOf { at: Some(time), axis, ..AsOf::default() }, format!("the record at {time}")))
        }
        (None, Some(n), None) => {
            let point = AsOf { sequence: Some(n), axis: Axis::Received, ..AsOf::default() };
            Ok(Target::Point(point, format!("the record at position {n}")))
        }
        (None, None, Some(id)) => {
            let id = Uuid::try_parse(id).map_err(|_| refused("/undo", "id_invalid", "This is the id of no entry."))?;
            Ok(Target::Undo(id))
        }
        _ => Err(refused("", "target_missing", only_one)),
    }
}

/// The fields that lead from one state back to another.
pub(super) fn back_to(now: &State, then: State) -> Result<Vec<PlannedField>, VaultError> {
    if !then.exists {
        return Err(refused(
            "",
            "not_there_then",
            "The record was not there then; its application deletes it, if it should go.",
        ));
    }
    let names: BTreeSet<&String> = now.fields.keys().filter(|_| now.exists).chain(then.fields.keys()).collect();
    let mut fields = Vec::new();
    // A restore brings back what was there at the deletion; what was not there then goes again.
    for (field, it) in now.fields.iter().filter(|(field, _)| !now.exists && !then.fields.contains_key(*field)) {
        fields.push(PlannedField { field: field.clone(), from: Some(origin(&it.set_by)), to: None });
    }
    for field in names {
        // A deleted record has no fields: all come back.
        let (current, earlier) = (now.fields.get(field).filter(|_| now.exists), then.fields.get(field));
        if earlier.is_some_and(|it| it.lost.is_some()) || current.is_some_and(|it| it.lost.is_some()) {
            return Err(gone());
        }
        let value = |it: Option<&FieldState>| it.and_then(|it| it.value.clone());
        if value(current) != value(earlier) {
            let place = |it: &FieldState| origin(&it.set_by);
            fields.push(PlannedField { field: field.clone(), from: current.map(place), to: earlier.map(place) });
        }
    }
    Ok(fields)
}

pub(super) fn gone() -> VaultError {
    refused("", "values_gone", "Values that are needed for this were disposed of or are damaged.")
}

pub(super) fn origin(set_by: &SetBy) -> Origin {
    Origin { entry: set_by.id, sequence: set_by.sequence, place: set_by.place, before: false }
}

pub(super) fn view(set_by: &SetBy) -> SetByView {
    SetByView { entry: set_by.id, sequence: set_by.sequence, actor: set_by.actor.clone() }
}

pub(super) fn shown(changes: Vec<Opened>) -> Vec<PlannedChange> {
    let one = |(field, old, new): Opened| PlannedChange { field, old: old.map(Open::new), new: new.map(Open::new) };
    changes.into_iter().map(one).collect()
}

/// The reason of what follows from a plan: the plan's own.
pub(super) fn because(plan: &Plan) -> CheckedReason {
    (Reason { code: plan.reason.clone(), ..Reason::default() }, Vec::new())
}

pub(super) fn is_open(plan: &Plan, now: Timestamp) -> bool {
    matches!(plan.stage, PlanStage::Pending | PlanStage::Approved) && plan.expires_at > now
}

/// A plan as it stands now: what was not confirmed in time is over.
pub(super) fn as_of_now(plan: &Plan, now: Timestamp) -> Plan {
    let decided = matches!(plan.stage, PlanStage::Confirmed | PlanStage::Cancelled);
    let stage = if decided || is_open(plan, now) { plan.stage } else { PlanStage::Expired };
    Plan { stage, ..plan.clone() }
}
