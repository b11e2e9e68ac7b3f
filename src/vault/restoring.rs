//! A way back: an officer asks for a plan, another approves it, the application that owns the record fetches it, applies it and
//! confirms. The vault changes no record itself.
//!
//! A plan names entries and places in them, never values: what was disposed of cannot come back through a plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{MutexGuard, PoisonError};

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission, Role};
use crate::domain::rules::MAX_CHANGES;
use crate::domain::submission::ReasonIn;

use super::Vault;
use super::approval::refused;
use super::book;
use super::error::VaultError;
use super::history::RecordName;
use super::record::{CheckedReason, Note};
use super::standing::{STATE_DIGESTS, digest_of};
use super::steps::{AsOf, Place, Seen};

mod confirm;
mod plan;
mod undo;

pub use plan::{
    ConfirmIn, Origin, Plan, PlanConflict, PlanStage, PlanView, PlannedChange, PlannedField, RestoreIn, SetByView,
};
use plan::{Opened, Target, as_of_now, back_to, because, is_open, shown, target};

/// The kind of a plan's state row.
pub(super) const KIND: &str = "restore";
/// The most plans that wait at a time, and that are kept in all: they are evidence.
const MAX_OPEN: usize = 1_000;
const MAX_KEPT: usize = 20_000;
/// The most that one officer makes in a day, so that nobody uses up what is kept.
const MAX_A_DAY: usize = 300;

type Plans<'a> = MutexGuard<'a, BTreeMap<String, Plan>>;

impl Vault {
    /// Makes a plan; nothing is changed. It shows values, so it is recorded like a reveal.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `NotFound`, `Invalid`, or what recording says.
    pub fn plan_restore(&self, caller: &Caller, record: RecordName, asked: RestoreIn) -> Result<PlanView, VaultError> {
        self.allow(caller, Permission::PlanRestore, Action::RESTORE_PLAN)?;
        let target = target(&asked)?;
        let reason = self.reason(caller, Action::RESTORE_PLAN, asked.reason.unwrap_or_default())?;
        let filter = self.record_filter(&record.kind, &record.id)?;
        let places = self.places(&filter, self.store.size())?;
        let _room = self.room_for(&places)?;
        let base = places.iter().rfind(|it| it.done).ok_or(VaultError::NotFound)?;
        let mut seen = Seen::default();
        let now = self.fold(&places, AsOf::default(), &mut seen)?;
        let (mut fields, conflicts, words) = match target {
            Target::Point(as_of, words) => (back_to(&now, self.fold(&places, as_of, &mut seen)?)?, Vec::new(), words),
            Target::Undo(id) => {
                let (fields, conflicts) = self.undo(&now, &places, id, asked.overwrite, &mut seen)?;
                (fields, conflicts, format!("undo entry {id}"))
            }
        };
        fields.sort_by(|a, b| a.field.cmp(&b.field));
        if fields.is_empty() && conflicts.is_empty() {
            return Err(refused("", "nothing_to_restore", "The record is so already; there is nothing to change."));
        }
        if fields.len() > MAX_CHANGES {
            let detail = format!("This would change more than {MAX_CHANGES} fields; undo single entries instead.");
            return Err(refused("", "too_many", detail));
        }
        let (owner, since) = self.owner(&places)?;
        if fields.iter().flat_map(|it| it.from.iter().chain(&it.to)).any(|it| it.sequence < since) {
            let detail = "This reaches back to a record of the same name that belonged to another application. Restore to a time after the newest beginning.";
            return Err(refused("", "other_application", detail));
        }
        let at = self.clock.now();
        let plan = Plan {
            id: format!("res-{}", hex::encode(crate::crypto::random::array::<8>())),
            owner,
            record,
            target: words,
            stage: PlanStage::Pending,
            reason: reason.0.code.clone(),
            base: base.sequence,
            fields,
            conflicts,
            requested_by: caller.label.clone(),
            requested_token: caller.token_id.clone(),
            requested_at: at,
            expires_at: at.plus_seconds(self.settings.restore_seconds),
            decided_by: None,
            confirmed_as: None,
        };
        let changes = self.open_plan(&plan)?;
        let mut plans = self.read_plans();
        let open = plans.values().filter(|it| is_open(it, at)).count();
        if open >= MAX_OPEN || plans.len() >= MAX_KEPT {
            let detail = format!("At most {MAX_OPEN} plans wait at a time, and {MAX_KEPT} are kept; cancel some.");
            return Err(refused("", "too_many", detail));
        }
        self.bounds.daily.one_more("plans", &caller.token_id, MAX_A_DAY)?;
        self.record_plan(caller, reason, &plan, seen)?;
        plans.insert(plan.id.clone(), plan.clone());
        Ok(PlanView { plan, changes: shown(changes) })
    }

    /// The application that a record belongs to, and since which position: the one that began its newest life. Whoever wrote to it
    /// later does not come to own it, nor to see what others wrote; nor does whoever had another record of that name before.
    fn owner(&self, places: &[Place]) -> Result<(String, u64), VaultError> {
        let (mut owner, mut ended): (Option<(String, u64)>, bool) = (None, false);
        for it in places.iter().filter(|it| it.done) {
            let meta = super::search::decode(&self.row(it.sequence)?)?;
            let begins = ended && [Action::CREATE, Action::BASELINE].contains(&meta.action);
            let same = owner.as_ref().is_some_and(|it| it.0 == meta.source);
            ended = meta.action == Action::DELETE;
            owner = owner.filter(|_| !begins || same).or(Some((meta.source, it.sequence)));
        }
        owner.ok_or(VaultError::NotFound)
    }

    /// All plans, newest first, without values. Recorded, for they name records.
    ///
    /// # Errors
    /// [`VaultError::Denied`], or what recording says.
    pub fn list_plans(&self, caller: &Caller) -> Result<Vec<Plan>, VaultError> {
        self.allow(caller, Permission::PlanRestore, Action::RESTORE_PLAN)?;
        self.record(Note::new(caller, Action::RESTORE_PLAN, super::record::searching()))?;
        let now = self.clock.now();
        let mut all: Vec<_> = self.read_plans().values().map(|it| as_of_now(it, now)).collect();
        all.sort_by(|a, b| (b.requested_at, &b.id).cmp(&(a.requested_at, &a.id)));
        Ok(all)
    }

    /// A plan with the changes to make: for officers, and for the application that owns the record once it is approved.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `NotFound`, `Invalid` (the record moved on), `Shredded`, or what recording says.
    pub fn fetch_plan(&self, caller: &Caller, id: &str) -> Result<PlanView, VaultError> {
        self.allow(caller, Permission::FetchRestore, Action::RESTORE_PLAN)?;
        let plan = as_of_now(&self.plan_for(caller, id)?, self.clock.now());
        if caller.role == Role::Submitter && plan.stage != PlanStage::Approved {
            return Err(refused("/id", "not_approved", "This plan is not approved, or its time is over."));
        }
        let places = self.unmoved(&plan, self.store.size())?;
        let changes = self.open_plan(&plan)?;
        let seen = self.seen_of(&plan, &places)?;
        let mut note = Note::new(caller, Action::RESTORE_PLAN, because(&plan));
        self.name_seen(&mut note, "restore", seen, &plan.record, false)?;
        self.record(note)?;
        Ok(PlanView { plan, changes: shown(changes) })
    }

    /// Approves a plan of somebody else, so that the application may fetch it.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `NotFound`, `Invalid` (one's own, too late, moved on), or what recording says.
    pub fn approve_plan(&self, caller: &Caller, id: &str, reason: ReasonIn) -> Result<Plan, VaultError> {
        self.decide_plan(caller, id, reason, PlanStage::Approved)
    }

    /// Cancels a plan that is not confirmed.
    ///
    /// # Errors
    /// As [`Vault::approve_plan`].
    pub fn cancel_plan(&self, caller: &Caller, id: &str, reason: ReasonIn) -> Result<Plan, VaultError> {
        self.decide_plan(caller, id, reason, PlanStage::Cancelled)
    }

    fn decide_plan(&self, caller: &Caller, id: &str, reason: ReasonIn, to: PlanStage) -> Result<Plan, VaultError> {
        self.allow(caller, Permission::PlanRestore, Action::RESTORE_PLAN)?;
        let reason = self.reason(caller, Action::RESTORE_PLAN, reason)?;
        let mut plans = self.read_plans();
        let plan = plans.get(id).cloned().ok_or(VaultError::NotFound)?;
        if !is_open(&plan, self.clock.now()) || (to == PlanStage::Approved && plan.stage != PlanStage::Pending) {
            return Err(refused("/id", "decided", "This plan was decided already, or its time is over."));
        }
        if to == PlanStage::Approved {
            let own = plan.requested_token == caller.token_id || plan.requested_by.eq_ignore_ascii_case(&caller.label);
            if own && self.settings.two_person {
                return Err(refused(
                    "/id",
                    "own_request",
                    "You asked for this plan yourself; another officer must approve it.",
                ));
            }
            if plan.fields.is_empty() {
                return Err(refused(
                    "/id",
                    "only_conflicts",
                    "Later entries changed every field of it again, so there is nothing to apply.",
                ));
            }
            self.unmoved(&plan, self.store.size())?;
        }
        let plan = Plan { stage: to, decided_by: Some(caller.label.clone()), ..plan };
        let places = self.places(&self.record_filter(&plan.record.kind, &plan.record.id)?, self.store.size())?;
        self.record_plan(caller, reason, &plan, self.seen_of(&plan, &places)?)?;
        plans.insert(plan.id.clone(), plan.clone());
        Ok(plan)
    }

    pub(super) fn read_plans(&self) -> Plans<'_> {
        self.restores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A plan that the caller may see: an application only its own records'.
    pub(super) fn plan_for(&self, caller: &Caller, id: &str) -> Result<Plan, VaultError> {
        let plans = self.read_plans();
        self.find_plan(&plans, caller, id)
    }

    pub(super) fn find_plan(&self, plans: &Plans<'_>, caller: &Caller, id: &str) -> Result<Plan, VaultError> {
        let theirs = |it: &&Plan| caller.role == Role::Officer || it.owner == caller.label;
        plans.get(id).filter(theirs).cloned().ok_or(VaultError::NotFound)
    }

    /// The record's changes among the first `size` entries, if there is none newer than the plan knows.
    pub(super) fn unmoved(&self, plan: &Plan, size: u64) -> Result<Vec<Place>, VaultError> {
        let places = self.places(&self.record_filter(&plan.record.kind, &plan.record.id)?, size)?;
        let newest = places.iter().rfind(|it| it.done).map(|it| it.sequence);
        let confirmed = plan.stage == PlanStage::Confirmed;
        if newest == Some(plan.base) || confirmed {
            return Ok(places);
        }
        Err(refused("/id", "moved_on", "The record was changed since the plan was made. Make a new plan."))
    }

    /// The values of a plan, opened where they stand.
    pub(super) fn open_plan(&self, plan: &Plan) -> Result<Vec<Opened>, VaultError> {
        let wanted: BTreeSet<u64> =
            plan.fields.iter().flat_map(|it| it.from.iter().chain(&it.to)).map(|it| it.sequence).collect();
        let mut opened = BTreeMap::new();
        for sequence in wanted {
            let row = self.row(sequence)?;
            let meta = super::search::decode(&row)?;
            opened.insert(sequence, self.open_items(&row, &meta)?);
        }
        let value = |origin: &Option<Origin>| {
            let origin = origin.as_ref()?;
            let side = if origin.before { "old" } else { "new" };
            let path = format!("changes/{:03}/{side}", origin.place);
            opened.get(&origin.sequence)?.iter().find(|it| it.path == path).map(|it| it.value.clone())
        };
        Ok(plan.fields.iter().map(|it| (it.field.clone(), value(&it.from), value(&it.to))).collect())
    }

    /// The patients and the record that a plan is about, for the entry that records something of it.
    pub(super) fn seen_of(&self, plan: &Plan, places: &[Place]) -> Result<Seen, VaultError> {
        let mut seen = Seen::default();
        for it in places.iter().filter(|it| it.done && it.sequence <= plan.base) {
            let row = self.row(it.sequence)?;
            // Opened only where somebody new is named; the newest gives the record's name.
            if it.sequence == plan.base || !seen.knows(&super::search::decode(&row)?) {
                self.step(&row, &mut seen)?;
            }
        }
        Ok(seen)
    }

    fn record_plan(&self, caller: &Caller, reason: CheckedReason, plan: &Plan, seen: Seen) -> Result<(), VaultError> {
        let (mut note, row) = self.plan_note(caller, reason, plan, seen)?;
        note.state.push(row);
        self.record(note)?;
        self.sign_now();
        Ok(())
    }

    pub(super) fn plan_note<'a>(
        &self,
        caller: &'a Caller,
        reason: CheckedReason,
        plan: &Plan,
        seen: Seen,
    ) -> Result<(Note<'a>, crate::store::StateRow), VaultError> {
        let row = book::row(&self.keys.ring(), KIND, &plan.id, plan);
        let mut note = Note::new(caller, Action::RESTORE_PLAN, reason);
        self.name_seen(&mut note, "restore", seen, &plan.record, false)?;
        let stage = match plan.stage {
            PlanStage::Pending => "requested",
            PlanStage::Approved => "approved",
            PlanStage::Confirmed => "confirmed",
            PlanStage::Cancelled | PlanStage::Expired => "cancelled",
        };
        note.facts.push((format!("{STATE_DIGESTS}{KIND}/{}", plan.id), digest_of(&row)));
        note.facts.push(("plan".into(), plan.id.clone()));
        note.facts.push(("stage".into(), stage.into()));
        note.facts.extend(plan.confirmed_as.map(|it| ("confirmed_as".into(), it.to_string())));
        Ok((note, row))
    }
}
