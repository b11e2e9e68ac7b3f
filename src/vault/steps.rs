//! The walk over a record's changes: found by the index, put in order, opened one by one.

use std::collections::HashSet;

use uuid::Uuid;

use crate::domain::action::Outcome;
use crate::domain::entry::{EntryView, ReasonView, Revealed};
use crate::domain::fields::marked;
use crate::domain::history::{Axis, Change, Lost, State, Step};
use crate::domain::meta::{Meta, Patient, Record};
use crate::domain::query::Filter;
use crate::domain::rules::Item;
use crate::domain::time::Timestamp;
use crate::store::{Order, Row};

use super::Vault;
use super::approval::refused;
use super::blinding::unblind;
use super::error::VaultError;
use super::history::HistoryStep;
use super::search::decode;

/// The most changes of one record that are folded.
const MAX_STEPS: usize = 1_000_000;
/// Changes that are read without waiting for others' long reading.
const FEW: usize = 64;
/// Entries found at a time.
const FETCH: usize = 4_096;

/// A point in a record's history.
#[derive(Clone, Copy, Debug, Default)]
pub struct AsOf {
    /// Up to this time.
    pub at: Option<Timestamp>,
    /// Up to this position in the ledger.
    pub sequence: Option<u64>,
    /// In which order.
    pub axis: Axis,
}

impl AsOf {
    fn covers(&self, it: &Place) -> bool {
        let time = if self.axis == Axis::Occurred { it.at } else { it.received_at };
        self.at.is_none_or(|at| time <= at) && self.sequence.is_none_or(|sequence| it.sequence <= sequence)
    }
}

/// A change of a record, before it is opened.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) at: Timestamp,
    pub(super) received_at: Timestamp,
    pub(super) sequence: u64,
    /// It happened before something that was received earlier.
    pub(super) late: bool,
    /// It was done, not refused or failed.
    pub(super) done: bool,
}

/// What is gathered while entries are opened, for the entry that records it.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) ids: Vec<Uuid>,
    pub(super) patients: Vec<(Patient, String)>,
    known: HashSet<Patient>,
    pub(super) record: Option<Record>,
}

impl Vault {
    /// All changes of a record, by position.
    pub(super) fn places(&self, filter: &Filter, bound: u64) -> Result<Vec<Place>, VaultError> {
        let terms = filter.terms();
        let (mut places, mut position, mut newest) = (Vec::new(), 0, Timestamp(i64::MIN));
        loop {
            let found = self.store.find(&terms, position..bound, Order::OldestFirst, FETCH)?;
            for row in self.each_row(&found.sequences) {
                let row = row?;
                let meta = decode(&row)?;
                let received_at = Timestamp(row.received_at);
                if !meta.action.is_change() || !filter.matches(&meta, received_at) {
                    continue;
                }
                let at = meta.occurred_at.unwrap_or(received_at);
                let (late, done) = (at < newest, meta.outcome == Outcome::Success);
                newest = newest.max(at);
                places.push(Place { at, received_at, sequence: row.sequence, late, done });
            }
            if places.len() > MAX_STEPS {
                let detail = format!("This record has more than {MAX_STEPS} changes.");
                return Err(refused("", "too_large", detail));
            }
            match found.next {
                Some(next) => position = next,
                None => return Ok(places),
            }
        }
    }

    /// Room for a long history; a report has it already.
    pub(super) fn room_for(&self, places: &[Place]) -> Result<Option<tokio::sync::OwnedSemaphorePermit>, VaultError> {
        if places.len() > FEW { self.long_read().map(Some) } else { Ok(None) }
    }

    /// The state of a record at a point.
    pub(super) fn fold(&self, places: &[Place], as_of: AsOf, seen: &mut Seen) -> Result<State, VaultError> {
        let mut state = State::default();
        self.each_step(places, as_of, seen, &mut |step| {
            state.apply(step);
            Ok(())
        })?;
        Ok(state)
    }

    /// Opens the changes that were done, up to a point and in its order.
    pub(super) fn each_step(
        &self,
        places: &[Place],
        as_of: AsOf,
        seen: &mut Seen,
        each: &mut dyn FnMut(Step) -> Result<(), VaultError>,
    ) -> Result<(), VaultError> {
        let mut chosen: Vec<_> = places.iter().filter(|it| it.done && as_of.covers(it)).copied().collect();
        chosen.sort_by_key(|it| as_of.axis.place(it.at, it.sequence));
        for it in chosen {
            let row = self.row(it.sequence)?;
            each(self.step(&row, seen)?)?;
        }
        Ok(())
    }

    pub(super) fn row(&self, sequence: u64) -> Result<Row, VaultError> {
        self.store.rows(&[sequence])?.pop().ok_or(VaultError::NotFound)
    }

    /// A row opened as a step of its record's history.
    pub(super) fn step(&self, row: &Row, seen: &mut Seen) -> Result<Step, VaultError> {
        let meta = decode(row)?;
        let (mut items, lost) = self.open_or_lost(row, &meta)?;
        seen.add(&meta, &items);
        let marks = marked(&meta);
        let record = meta.record.unwrap_or_default();
        let mut take = |place: usize, side: &str| {
            let path = format!("changes/{place:03}/{side}");
            let at = items.iter().position(|it| it.path == path)?;
            Some(items.swap_remove(at).value)
        };
        let names = &self.settings.rules.fields;
        let changes = meta.fields.iter().enumerate().map(|(place, field)| Change {
            field: names.name(&record.kind, field, record.schema.as_deref()).to_owned(),
            place,
            old: take(place, "old"),
            new: take(place, "new"),
        });
        let changes = changes.collect();
        let received_at = Timestamp(row.received_at);
        Ok(Step {
            sequence: row.sequence,
            id: meta.id,
            received_at,
            at: meta.occurred_at.unwrap_or(received_at),
            action: meta.action,
            actor: meta.actor.id,
            reason: ReasonView {
                code: meta.reason.code,
                standard: meta.reason.standard,
                change: meta.reason.change,
                note_given: meta.reason.note_given,
                break_glass: meta.reason.break_glass,
            },
            marks,
            changes,
            lost,
        })
    }

    pub(super) fn history_step(&self, row: &Row, late: bool, seen: &mut Seen) -> Result<HistoryStep, VaultError> {
        let meta = decode(row)?;
        let (items, lost) = self.open_or_lost(row, &meta)?;
        seen.add(&meta, &items);
        let view: EntryView = self.view_with(row, &meta, &items);
        let mut entry = Revealed::new(view, items);
        let record = meta.record.unwrap_or_default();
        for change in &mut entry.changes {
            let name = self.settings.rules.fields.name(&record.kind, &change.field, record.schema.as_deref());
            change.name = (name != change.field).then(|| name.to_owned());
        }
        Ok(HistoryStep { entry, late, lost })
    }

    /// The values of a row, or why they cannot be shown: one lost entry does not take a whole history with it.
    pub(super) fn open_or_lost(&self, row: &Row, meta: &Meta) -> Result<(Vec<Item>, Option<Lost>), VaultError> {
        match self.open_items(row, meta) {
            Ok(items) => Ok((items, None)),
            Err(VaultError::Shredded(certificate)) => Ok((Vec::new(), Some(Lost::Disposed { certificate }))),
            Err(VaultError::Integrity(what)) => {
                tracing::error!(what, "values of a history could not be shown; run phivault verify");
                Ok((Vec::new(), Some(Lost::Damaged)))
            }
            Err(error) => Err(error),
        }
    }
}

impl Seen {
    /// Whether it holds every patient that an entry names.
    pub(super) fn knows(&self, meta: &Meta) -> bool {
        meta.patients().all(|it| self.known.contains(&it))
    }

    fn add(&mut self, meta: &Meta, items: &[Item]) {
        self.ids.push(meta.id);
        if self.record.is_none() {
            self.record = meta.record.as_ref().map(|it| Record::new(&it.kind, &it.id));
        }
        if self.knows(meta) {
            return;
        }
        let mut clear = meta.clone();
        unblind(&mut clear, &mut items.to_vec());
        for (patient, shown) in meta.patients().zip(clear.patients().map(|it| it.id_text())) {
            if self.known.insert(patient.clone()) {
                self.patients.push((patient, shown));
            }
        }
    }
}
