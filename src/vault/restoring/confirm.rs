//! The end of a plan: the application says that it applied it, and that becomes an entry of the record.

use std::collections::BTreeSet;

use tokio::sync::oneshot;

use crate::crypto::seal;
use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::entry::Receipt;
use crate::domain::meta::{PATIENT_TYPE, Patient};
use crate::domain::rules::{Draft, MAX_LIST};
use crate::domain::submission::{ChangeIn, PatientIn, RecordIn, RelatedIn, Submission};
use crate::domain::time::Timestamp;
use crate::store::StateRow;

use super::super::Vault;
use super::super::approval::refused;
use super::super::error::VaultError;
use super::super::record::Note;
use super::super::steps::Place;
use super::super::writer::{self, Job, Message, prepare};
use super::plan::{ConfirmIn, Opened, Plan, PlanStage, as_of_now, because};

impl Vault {
    /// Takes the confirmation of the application that applied a plan: one entry of the record, linked to the plan and to the entries
    /// it goes back to.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `NotFound`, `Invalid` (not approved, too late, moved on), or what recording says.
    pub fn confirm_plan(&self, caller: &Caller, id: &str, said: ConfirmIn) -> Result<Receipt, VaultError> {
        self.allow(caller, Permission::Submit, Action::RESTORE_PLAN)?;
        let mut plans = self.read_plans();
        let plan = as_of_now(&self.find_plan(&plans, caller, id)?, self.clock.now());
        if let Some(there) = plan.confirmed_as {
            let row = writer::find_id(&*self.store, there, 0..self.store.size())?.ok_or(VaultError::NotFound)?;
            return Ok(writer::receipt(&row));
        }
        if plan.stage != PlanStage::Approved {
            return Err(refused("/id", "not_approved", "This plan is not approved, or its time is over."));
        }
        let places = self.unmoved(&plan, self.store.size())?;
        let said = timed(said, &places, self.clock.now())?;
        let changes = self.open_plan(&plan)?;
        let draft = self.confirmation(caller, &plan, said, changes, &places)?;
        let plan = Plan { stage: PlanStage::Confirmed, confirmed_as: Some(draft.meta.id), ..plan };
        let (note, row) = self.plan_note(caller, because(&plan), &plan, self.seen_of(&plan, &places)?)?;
        let receipt = self.submit_with(&draft, note, row, &plan)?;
        self.sign_now();
        plans.insert(plan.id.clone(), plan);
        Ok(receipt)
    }

    /// The entry that a confirmation becomes. It belongs to the same patient, category and retention class as the newest change.
    fn confirmation(
        &self,
        caller: &Caller,
        plan: &Plan,
        said: ConfirmIn,
        changes: Vec<Opened>,
        places: &[Place],
    ) -> Result<Draft, VaultError> {
        let row = self.row(plan.base)?;
        let (meta, _) = self.open_row(&row)?;
        let bucket = seal::header(&row.sealed).ok().map(|it| it.bucket);
        let class = bucket.and_then(|it| self.keys.ring().bucket(it).map(|it| it.class.clone()));
        let originals: BTreeSet<_> = plan.fields.iter().filter_map(|it| Some(it.to.as_ref()?.entry)).collect();
        let entries = originals.into_iter().map(|it| ("Entry", it.to_string()));
        // Everybody whom the record's changes were about, for they are told of this one too.
        let own = meta.patient.as_ref().map(Patient::id_text);
        let people = self.seen_of(plan, places)?.patients.into_iter().map(|it| it.1);
        let others = people.filter(|it| Some(it) != own.as_ref()).map(|it| (PATIENT_TYPE, it));
        let related = [("RestorePlan", plan.id.clone())].into_iter().chain(others).chain(entries).take(MAX_LIST);
        let related = related.map(|(kind, id)| RelatedIn { kind: Some(kind.to_owned()), id: Some(id) });
        let change = |(field, old, new): Opened| ChangeIn { field: Some(field), old, new };
        let (kind, id) = (Some(plan.record.kind.clone()), Some(plan.record.id.clone()));
        let submission = Submission {
            id: None,
            action: Some(Action::RESTORE.name().to_owned()),
            outcome: None,
            occurred_at: said.occurred_at,
            ended_at: None,
            effective_at: None,
            actor: said.actor,
            patient: meta.patient.map(|it| PatientIn { id: Some(it.id_text()), birth_date: None }),
            record: Some(RecordIn { kind, id, version: said.version, schema: None }),
            category: meta.category,
            retention: class.filter(|it| self.settings.rules.retention.has(it)),
            sensitivity: Some(meta.sensitivity),
            reason: said.reason,
            changes: Some(changes.into_iter().map(change).collect()),
            disclosure: None,
            related: Some(related.collect()),
            context: None,
        };
        self.check(caller, submission).map_err(VaultError::Invalid)
    }

    /// Commits an application's entry, the vault's own about it and the state row that follows, together, unless the record was
    /// changed meanwhile.
    fn submit_with(&self, draft: &Draft, note: Note<'_>, row: StateRow, plan: &Plan) -> Result<Receipt, VaultError> {
        self.make_bucket(draft)?;
        let (meta, items, _) = self.compose(note);
        loop {
            let looked_up_to = self.store.size();
            self.unmoved(&Plan { stage: PlanStage::Approved, ..plan.clone() }, looked_up_to)?;
            let unchanged = Some(Box::new(self.record_filter(&plan.record.kind, &plan.record.id)?));
            let entries = vec![self.seal(draft), prepare(&self.keys, &meta, &items)];
            let (reply, answer) = oneshot::channel();
            let (state, resealed) = (vec![row.clone()], Vec::new());
            self.send(Message::Job(Job { entries, looked_up_to, state, resealed, unchanged, reply, room: None }))?;
            // Else sealed under a key that is just being destroyed, or the record moved on: look again, under the keys of now.
            if let Ok(done) = answer.blocking_recv().map_err(|_| VaultError::Unknown)? {
                return done.receipts().into_iter().next().ok_or(VaultError::Unknown);
            }
        }
    }
}

/// The confirmation with a time that lies behind all changes of the record, so that it is the last of them in either order.
fn timed(said: ConfirmIn, places: &[Place], now: Timestamp) -> Result<ConfirmIn, VaultError> {
    let newest = places.iter().filter(|it| it.done).map(|it| it.at).max();
    let said_at = said.occurred_at.as_deref().and_then(Timestamp::parse);
    if said_at.is_some_and(|at| newest.is_some_and(|newest| at < newest)) {
        let detail = "This lies before the change that the plan leads back from.";
        return Err(refused("/occurred_at", "time_order", detail));
    }
    // An application's clock may be a little ahead.
    let ahead = newest.filter(|newest| said.occurred_at.is_none() && *newest >= now);
    Ok(ConfirmIn { occurred_at: said.occurred_at.or(ahead.map(|it| it.to_string())), ..said })
}
