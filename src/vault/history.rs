//! A record's history: its changes, what it was at a point, and what lies between two points. Each look is a reveal: recorded,
//! with its reason, before anything leaves.

use std::sync::atomic::Ordering;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::action::{Action, Outcome};
use crate::domain::caller::{Caller, Permission};
use crate::domain::entry::{Open, Revealed};
use crate::domain::history::{Axis, Break, Continuity, Line, Lost, Point, SetBy, State, comparable};
use crate::domain::query::{Filter, QueryIn};
use crate::domain::submission::ReasonIn;

use super::Vault;
use super::approval::refused;
use super::error::VaultError;
use super::record::{CheckedReason, Note, set_facts};
use super::reveal::name_patients;
use super::steps::{AsOf, Place, Seen};

/// The most of a record's changes or points in one answer.
pub const MAX_HISTORY: usize = 1_000;
/// The most points of a field's line.
const MAX_POINTS: usize = 100_000;
/// The most sealed bytes of one page of a history.
const MAX_PAGE_BYTES: usize = 64 << 20;

/// Whose history, and why it is looked at.
pub struct RecordAsked {
    /// The type of the record.
    pub kind: String,
    /// Its id.
    pub id: String,
    /// Why.
    pub reason: ReasonIn,
}

/// One page of a record's history.
#[derive(Serialize, ToSchema)]
pub struct History {
    /// The record.
    pub record: RecordName,
    /// How many changes there are in all.
    pub total: usize,
    /// The changes, oldest first.
    pub steps: Vec<HistoryStep>,
    /// Where to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The entry that records this look.
    pub recorded_as: Uuid,
}

/// One change of a history.
#[derive(Serialize, ToSchema)]
pub struct HistoryStep {
    /// The entry with its values.
    #[serde(flatten)]
    pub entry: Revealed,
    /// It happened before something that was received earlier.
    pub late: bool,
    /// Why its values cannot be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<Lost>,
}

/// A record at a point.
#[derive(Serialize, ToSchema)]
pub struct RecordState {
    /// The record.
    pub record: RecordName,
    /// Whether it was there.
    pub exists: bool,
    /// Its fields; those that it had when it was deleted if it was not there.
    pub fields: Vec<ShownField>,
    /// Changes that made it so.
    pub entries: u64,
    /// The position of the newest of them.
    pub newest: Option<u64>,
    /// The entry that records this look.
    pub recorded_as: Uuid,
}

/// A field at a point.
#[derive(Serialize, ToSchema)]
pub struct ShownField {
    /// Its name.
    pub field: String,
    /// Its value.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub value: Option<Open>,
    /// Why its value cannot be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<Lost>,
    /// The change that set it.
    pub set_by: SetBy,
}

/// What lies between two points.
#[derive(Serialize, ToSchema)]
pub struct RecordDiff {
    /// The record.
    pub record: RecordName,
    /// Whether it was there at the first point, and at the second.
    pub existed: [bool; 2],
    /// The fields that differ.
    pub fields: Vec<FieldDiff>,
    /// The entry that records this look.
    pub recorded_as: Uuid,
}

/// A field that differs.
#[derive(Serialize, ToSchema)]
pub struct FieldDiff {
    /// Its name.
    pub field: String,
    /// At the first point; absent: it had none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<ShownField>,
    /// At the second point; absent: it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<ShownField>,
}

/// The line of a field.
#[derive(Serialize, ToSchema)]
pub struct FieldLine {
    /// The record.
    pub record: RecordName,
    /// The field.
    pub field: String,
    /// Its values, in order.
    pub points: Vec<Point>,
    /// The entry that records this look.
    pub recorded_as: Uuid,
}

/// Where a record was changed outside the trail, without values.
#[derive(Serialize, ToSchema)]
pub struct RecordContinuity {
    /// The record.
    pub record: RecordName,
    /// Changes that were checked.
    pub entries: usize,
    /// What does not follow.
    pub breaks: Vec<Break>,
    /// The entry that records this look.
    pub recorded_as: Uuid,
}

/// A record's type and id.
#[derive(Serialize, ToSchema, Clone, PartialEq, Eq, Debug, serde::Deserialize)]
pub struct RecordName {
    /// The type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The id.
    pub id: String,
}

impl Vault {
    /// One page of a record's changes with their values.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `NotFound`, `Invalid`, `BadCursor`, or what recording says; then nothing is shown.
    pub fn record_history(
        &self,
        caller: &Caller,
        asked: RecordAsked,
        axis: Axis,
        limit: usize,
        after: Option<&str>,
    ) -> Result<History, VaultError> {
        let look = self.begin_look(caller, asked)?;
        let after = after.map(|it| cursor(it).ok_or(VaultError::BadCursor)).transpose()?;
        if !(1..=MAX_HISTORY).contains(&limit) {
            return Err(refused("limit", "limit_invalid", format!("A page holds 1 to {MAX_HISTORY} changes.")));
        }
        let mut places = self.places(&look.filter, self.store.size())?;
        places.sort_by_key(|it| axis.place(it.at, it.sequence));
        let rest = places.iter().filter(|it| after.is_none_or(|after| axis.place(it.at, it.sequence) > after));
        let rest: Vec<_> = rest.copied().collect();
        let (mut steps, mut seen, mut bytes) = (Vec::new(), Seen::default(), 0);
        for it in rest.iter().take(limit) {
            let row = self.row(it.sequence)?;
            bytes += row.sealed.len();
            if bytes > MAX_PAGE_BYTES && !steps.is_empty() {
                break;
            }
            steps.push(self.history_step(&row, it.late, &mut seen)?);
        }
        let more = steps.len() < rest.len();
        let next = rest.get(steps.len().wrapping_sub(1)).filter(|_| more);
        let next = next.map(|it| axis.place(it.at, it.sequence)).map(|(time, sequence)| format!("{time}.{sequence}"));
        let total = places.len();
        let recorded_as = self.end_look(caller, look.reason, "history", seen, &look.name, total == 0)?;
        Ok(History { record: look.name, total, steps, next, recorded_as })
    }

    /// A record as it was at a point, each field with the change that set it.
    ///
    /// # Errors
    /// As [`Vault::record_history`].
    pub fn record_state(&self, caller: &Caller, asked: RecordAsked, as_of: AsOf) -> Result<RecordState, VaultError> {
        let look = self.begin_look(caller, asked)?;
        let places = self.places(&look.filter, self.store.size())?;
        let _room = self.room_for(&places)?;
        let mut seen = Seen::default();
        let state = self.fold(&places, as_of, &mut seen)?;
        let recorded_as = self.end_look(caller, look.reason, "state", seen, &look.name, places.is_empty())?;
        let State { exists, fields, entries, newest } = state;
        let fields = fields.into_iter().map(shown).collect();
        Ok(RecordState { record: look.name, exists, fields, entries, newest, recorded_as })
    }

    /// What differs between two points.
    ///
    /// # Errors
    /// As [`Vault::record_history`].
    pub fn record_diff(
        &self,
        caller: &Caller,
        asked: RecordAsked,
        points: [AsOf; 2],
    ) -> Result<RecordDiff, VaultError> {
        let look = self.begin_look(caller, asked)?;
        let places = self.places(&look.filter, self.store.size())?;
        let _room = self.room_for(&places)?;
        let mut seen = Seen::default();
        let mut from = self.fold(&places, points[0], &mut seen)?;
        let mut to = self.fold(&places, points[1], &mut seen)?;
        let names: std::collections::BTreeSet<_> = from.fields.keys().chain(to.fields.keys()).cloned().collect();
        let mut fields = Vec::new();
        for field in names {
            let (from, to) = (from.fields.remove(&field), to.fields.remove(&field));
            let same = match (&from, &to) {
                (Some(from), Some(to)) => from.set_by == to.set_by || (from.value == to.value && from.lost == to.lost),
                _ => false,
            };
            if !same {
                let show = |it| shown((field.clone(), it));
                fields.push(FieldDiff { from: from.map(show), to: to.map(show), field: field.clone() });
            }
        }
        let recorded_as = self.end_look(caller, look.reason, "diff", seen, &look.name, places.is_empty())?;
        Ok(RecordDiff { record: look.name, existed: [from.exists, to.exists], fields, recorded_as })
    }

    /// The line of one field, under every name it had.
    ///
    /// # Errors
    /// As [`Vault::record_history`].
    pub fn record_field(
        &self,
        caller: &Caller,
        asked: RecordAsked,
        field: &str,
        axis: Axis,
    ) -> Result<FieldLine, VaultError> {
        let look = self.begin_look(caller, asked)?;
        let places = self.places(&look.filter, self.store.size())?;
        let _room = self.room_for(&places)?;
        let (mut points, mut seen, mut line) = (Vec::new(), Seen::default(), Line::default());
        self.each_step(&places, AsOf { axis, ..AsOf::default() }, &mut seen, &mut |step| {
            points.extend(line.add(step, field));
            if points.len() > MAX_POINTS {
                let detail = format!("This field has more than {MAX_POINTS} values.");
                return Err(refused("", "too_large", detail));
            }
            Ok(())
        })?;
        let recorded_as = self.end_look(caller, look.reason, "field", seen, &look.name, points.is_empty())?;
        Ok(FieldLine { record: look.name, field: field.to_owned(), points, recorded_as })
    }

    /// Where changes of a record do not follow each other, without values.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `NotFound`, `Invalid`, or what recording says.
    pub fn record_continuity(&self, caller: &Caller, asked: RecordAsked) -> Result<RecordContinuity, VaultError> {
        self.allow(caller, Permission::Report, Action::REPORT)?;
        let look = self.look(caller, asked, Action::REPORT)?;
        let places = self.places(&look.filter, self.store.size())?;
        let _room = self.room_for(&places)?;
        let (breaks, seen) = self.breaks_among(&places)?;
        let mut note = Note::new(caller, Action::REPORT, look.reason);
        self.name_seen(&mut note, "continuity", seen, &look.name, places.is_empty())?;
        let recorded_as = self.record(note)?.id;
        if places.is_empty() {
            return Err(VaultError::NotFound);
        }
        Ok(RecordContinuity { record: look.name, entries: places.len(), breaks, recorded_as })
    }

    /// What does not follow among the changes of one record.
    pub(super) fn breaks_among(&self, places: &[Place]) -> Result<(Vec<Break>, Seen), VaultError> {
        let (mut fewest, mut seen): (Option<Vec<Break>>, Seen) = (None, Seen::default());
        // What follows in either order was not changed outside: an application's clock may be wrong, or an entry late.
        for axis in [Axis::Occurred, Axis::Received] {
            let mut check = Continuity::default();
            seen = Seen::default();
            self.each_step(places, AsOf { axis, ..AsOf::default() }, &mut seen, &mut |step| {
                check.add(&step, comparable);
                Ok(())
            })?;
            if fewest.as_ref().is_none_or(|it| check.breaks.len() < it.len()) {
                fewest = Some(check.breaks);
            }
            if fewest.as_ref().is_some_and(Vec::is_empty) {
                break;
            }
        }
        Ok((fewest.unwrap_or_default(), seen))
    }

    fn begin_look(&self, caller: &Caller, asked: RecordAsked) -> Result<Look, VaultError> {
        self.allow(caller, Permission::Reveal, Action::REVEAL)?;
        self.look(caller, asked, Action::REVEAL)
    }

    fn look(&self, caller: &Caller, asked: RecordAsked, action: Action) -> Result<Look, VaultError> {
        let reason = self.reason(caller, action, asked.reason)?;
        let (kind, id) = (asked.kind, asked.id);
        let filter = self.record_filter(&kind, &id)?;
        Ok(Look { name: RecordName { kind, id }, filter, reason })
    }

    pub(super) fn record_filter(&self, kind: &str, id: &str) -> Result<Filter, VaultError> {
        let query = QueryIn { record_type: Some(kind.into()), record_id: Some(id.into()), ..QueryIn::default() };
        Ok(query.check(|id| self.patient_forms(id)).map_err(VaultError::Invalid)?.filter)
    }

    /// Records the look, synced; then the answer may leave.
    fn end_look(
        &self,
        caller: &Caller,
        reason: CheckedReason,
        view: &str,
        seen: Seen,
        name: &RecordName,
        empty: bool,
    ) -> Result<Uuid, VaultError> {
        let count = seen.ids.len() as u64;
        let mut note = Note::new(caller, Action::REVEAL, reason);
        self.name_seen(&mut note, view, seen, name, empty)?;
        let recorded_as = self.record(note)?.id;
        if empty {
            return Err(VaultError::NotFound);
        }
        self.counters.revealed.fetch_add(count, Ordering::Relaxed);
        Ok(recorded_as)
    }

    pub(super) fn name_seen(
        &self,
        note: &mut Note<'_>,
        view: &str,
        seen: Seen,
        name: &RecordName,
        empty: bool,
    ) -> Result<(), VaultError> {
        if empty {
            note.outcome = Outcome::Failure;
            note.seal("record", format!("{}/{}", name.kind, name.id));
        }
        name_patients(note, seen.patients)?;
        note.record = seen.record;
        note.facts = set_facts(&seen.ids);
        note.facts.push(("view".into(), view.into()));
        Ok(())
    }
}

/// A look at a record that was asked for and may be.
struct Look {
    name: RecordName,
    filter: Filter,
    reason: CheckedReason,
}

fn shown((field, state): (String, crate::domain::history::FieldState)) -> ShownField {
    ShownField { field, value: state.value.map(Open::new), lost: state.lost, set_by: state.set_by }
}

/// Where a page of a history ended.
fn cursor(text: &str) -> Option<(i64, u64)> {
    let (time, sequence) = text.split_once('.')?;
    Some((time.parse().ok()?, sequence.parse().ok()?))
}
