//! Undoing one entry of a record: what it changed goes back, unless later entries changed it again.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::domain::action::Action;
use crate::domain::history::{Axis, Change, SetBy, State, Step};
use crate::domain::value::{Phi, Value};

use super::super::Vault;
use super::super::approval::refused;
use super::super::error::VaultError;
use super::super::steps::{AsOf, Place, Seen};
use super::super::writer;
use super::plan::{Origin, PlanConflict, PlannedField, back_to, gone, origin, view};

/// What came after the entry that is undone.
#[derive(Default)]
struct After {
    any: bool,
    /// The newest change of each field.
    fields: BTreeMap<String, SetBy>,
    /// The newest beginning of the record, which set all its fields.
    begun: Option<SetBy>,
}

impl Vault {
    /// The fields that undoing one entry changes, and those that later entries changed again.
    pub(super) fn undo(
        &self,
        now: &State,
        places: &[Place],
        id: Uuid,
        overwrite: bool,
        seen: &mut Seen,
    ) -> Result<(Vec<PlannedField>, Vec<PlanConflict>), VaultError> {
        let unknown = || refused("/undo", "unknown_entry", "This is no change of this record that was done.");
        let row = writer::find_id(&*self.store, id, 0..self.store.size())?.ok_or_else(unknown)?;
        let own = places.iter().find(|it| it.done && it.sequence == row.sequence).ok_or_else(unknown)?;
        let step = self.step(&row, seen)?;
        let order = |it: &Place| Axis::Occurred.place(it.at, it.sequence);
        let part = |before: bool| -> Vec<Place> {
            let is = |it: &&Place| if before { order(it) < order(own) } else { order(it) > order(own) };
            places.iter().filter(is).copied().collect()
        };
        let then = self.fold(&part(true), AsOf::default(), seen)?;
        let after = self.after(&part(false))?;
        possible(&step, now, &then, &after)?;
        if step.action == Action::DELETE {
            return Ok((back_to(now, then)?, Vec::new()));
        }
        let (mut fields, mut conflicts) = (Vec::new(), Vec::new());
        for (n, change) in step.changes.iter().enumerate() {
            if step.changes[..n].iter().any(|it| it.field == change.field) {
                continue;
            }
            let planned = back(change, &step, now, &then)?;
            if overwrite && planned.is_none() {
                continue;
            }
            if let Some(later) = after.fields.get(&change.field).or(after.begun.as_ref()) {
                let field = change.field.clone();
                conflicts.push(PlanConflict { field, changed_by: view(later), overwritten: overwrite });
                if !overwrite {
                    continue;
                }
            }
            fields.extend(planned);
        }
        Ok((fields, conflicts))
    }

    fn after(&self, places: &[Place]) -> Result<After, VaultError> {
        let mut after = After::default();
        self.each_step(places, AsOf::default(), &mut Seen::default(), &mut |step| {
            after.any = true;
            let (id, sequence, at) = (step.id, step.sequence, step.at);
            let by = |place| SetBy { id, sequence, at, actor: step.actor.clone(), place };
            if step.begins() {
                after.begun = Some(by(0));
            }
            after.fields.extend(step.changes.iter().map(|it| (it.field.clone(), by(it.place))));
            Ok(())
        })?;
        Ok(after)
    }
}

/// Refuses what undoing cannot mean.
fn possible(step: &Step, now: &State, then: &State, after: &After) -> Result<(), VaultError> {
    let refuse = |code: &'static str, detail: &str| Err(refused("/undo", code, detail));
    match step.action {
        Action::CREATE | Action::BASELINE => {
            refuse("undo_create", "To undo the making of a record is to delete it; its application does that.")
        }
        Action::DELETE if after.any => refuse(
            "later_changes",
            "Later entries changed the record after this deletion. Undo those first, or restore the record as it was at a time.",
        ),
        Action::DELETE => Ok(()),
        Action::RESTORE if !then.exists => {
            refuse("undo_restore", "To undo the return of a deleted record is to delete it; its application does that.")
        }
        _ if !now.exists => {
            refuse("deleted_since", "The record was deleted since. Undo that deletion first, if it should be there.")
        }
        _ if step.lost.is_some() => Err(gone()),
        _ => Ok(()),
    }
}

/// What gives a field the value back that it had before; `None` if it has it.
fn back(change: &Change, step: &Step, now: &State, then: &State) -> Result<Option<PlannedField>, VaultError> {
    let (current, earlier) = (now.fields.get(&change.field), then.fields.get(&change.field));
    if earlier.is_some_and(|it| it.lost.is_some()) && change.old.is_none() {
        return Err(gone());
    }
    // A field that is not there and one that is null are the same to undo.
    let some = |it: &&Phi| *it.expose() != Value::Null;
    let target = change.old.as_ref().or(earlier.and_then(|it| it.value.as_ref())).filter(some);
    let has = current.and_then(|it| it.value.as_ref()).filter(some);
    if current.is_none_or(|it| it.lost.is_none()) && has == target {
        return Ok(None);
    }
    let own = Origin { entry: step.id, sequence: step.sequence, place: change.place, before: true };
    let to = if change.old.is_some() { Some(own) } else { earlier.map(|it| origin(&it.set_by)) };
    Ok(Some(PlannedField { field: change.field.clone(), from: current.map(|it| origin(&it.set_by)), to }))
}
