//! Folds from entries to what compliance officers read: here the access report of 45 CFR 164.308(a)(1)(ii)(D).

use std::collections::{BTreeMap, HashSet};

use chrono::{FixedOffset, Timelike};
use serde::Serialize;
use utoipa::ToSchema;

use super::action::Outcome;
use super::entry::EntryView;
use super::index::{Dimension, Term};
use super::time::Timestamp;

/// The report: who accessed what, when and why.
#[derive(Serialize, ToSchema)]
pub struct AccessReport {
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub generated_at: Timestamp,
    /// The entry that records that it was made.
    pub recorded_as: uuid::Uuid,
    /// Nothing that happened before this is in it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Timestamp>,
    /// Nothing that happened at or after this is in it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub to: Option<Timestamp>,
    /// The offset from UTC in which days and hours are counted.
    pub time_zone: String,
    /// The user it is about; absent: all users.
    pub actor: Option<String>,
    /// How many entries were counted.
    pub entries_covered: u64,
    /// The ledger held this many entries when it was made.
    pub ledger_size: u64,
    /// The newest signed checkpoint when it was made.
    pub checkpoint: String,
    /// One row a user, by rising id.
    pub actors: Vec<ActorReport>,
}

/// What one user did.
#[derive(Serialize, ToSchema, Default)]
pub struct ActorReport {
    /// The user.
    pub actor: String,
    /// How many entries.
    pub total: u64,
    /// How many carried a note.
    pub with_note: u64,
    /// Their share, 0 to 1, rounded to four places.
    pub note_share: f64,
    /// The first time.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub first: Option<Timestamp>,
    /// The last time.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last: Option<Timestamp>,
    /// How many were break-the-glass.
    pub break_glass: u64,
    /// How many failed.
    pub failures: u64,
    /// How many were denied.
    pub denials: u64,
    /// How many different patients.
    pub patients: u64,
    /// By action.
    pub by_action: BTreeMap<String, u64>,
    /// By outcome.
    pub by_outcome: BTreeMap<String, u64>,
    /// By reason code.
    pub by_reason: BTreeMap<String, u64>,
    /// By patient; only in a report about one user.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub by_patient: BTreeMap<String, u64>,
    /// By record type.
    pub by_record_type: BTreeMap<String, u64>,
    /// By day, in the report's time zone.
    pub by_day: BTreeMap<String, u64>,
    /// By hour of the day, in the report's time zone.
    pub by_hour: BTreeMap<String, u64>,
    /// Every use of break-the-glass; only in a report about one user.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub break_glass_uses: Vec<BreakGlassUse>,
}

/// One use of break-the-glass.
#[derive(Serialize, ToSchema)]
pub struct BreakGlassUse {
    /// The entry's position.
    pub sequence: u64,
    /// The entry.
    pub id: uuid::Uuid,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Whose record.
    pub patient: Option<String>,
    /// The reason code.
    pub reason: String,
    /// Whether a note was given.
    pub note_given: bool,
}

/// The most rows and figures of one report, so that what applications submit cannot make it outgrow the memory.
pub const MAX_FIGURES: usize = 2_000_000;
/// The most pairs of a user and a patient that a summary counts; each costs about 16 bytes.
const MAX_COUNTED: usize = 30_000_000;

/// The patients of one user: each with its count where they are listed, only told apart where they are counted.
enum Patients {
    Listed(BTreeMap<String, u64>),
    Counted(HashSet<u64>),
}

/// The fold: entries go in one by one, in any order.
pub struct AccessFold {
    offset: FixedOffset,
    detailed: bool,
    covered: u64,
    /// Rows and figures so far.
    figures: usize,
    /// Pairs of a user and a patient that were only counted.
    counted: usize,
    actors: BTreeMap<String, (ActorReport, Patients)>,
}

impl AccessFold {
    /// Begins a fold. With `detailed` patients and break-the-glass uses are listed.
    pub fn new(offset: FixedOffset, detailed: bool) -> Self {
        Self { offset, detailed, covered: 0, figures: 0, counted: 0, actors: BTreeMap::new() }
    }

    /// Counts one entry; `false` when the report has grown beyond [`MAX_FIGURES`].
    #[must_use]
    pub fn add(&mut self, entry: &EntryView) -> bool {
        self.covered += 1;
        let time = entry.occurred_at.unwrap_or(entry.received_at);
        let mut figures = self.figures;
        let detailed = self.detailed;
        let (row, patients) = self.actors.entry(entry.actor.id.clone()).or_insert_with(|| {
            figures += 1;
            let none = if detailed { Patients::Listed(BTreeMap::new()) } else { Patients::Counted(HashSet::new()) };
            (ActorReport::default(), none)
        });
        row.total += 1;
        row.with_note += u64::from(entry.reason.note_given);
        row.first = Some(row.first.map_or(time, |first| first.min(time)));
        row.last = Some(row.last.map_or(time, |last| last.max(time)));
        row.failures += u64::from(entry.outcome == Outcome::Failure);
        row.denials += u64::from(entry.outcome == Outcome::Denied);
        let mut count = |map: &mut BTreeMap<String, u64>, key: &str| match map.get_mut(key) {
            Some(n) => *n += 1,
            None => {
                map.insert(key.to_owned(), 1);
                figures += 1;
            }
        };
        count(&mut row.by_action, entry.action.name());
        count(&mut row.by_outcome, entry.outcome.name());
        count(&mut row.by_reason, &entry.reason.code);
        match (&entry.patient, patients) {
            (None, _) => {}
            (Some(patient), Patients::Listed(map)) => count(map, &patient.id),
            (Some(patient), Patients::Counted(set)) => {
                let key = Term::new(Dimension::Patient, &[patient.id.as_bytes()]).key;
                self.counted += usize::from(set.insert(key));
            }
        }
        if let Some(record) = &entry.record {
            count(&mut row.by_record_type, &record.kind);
        }
        let local = time.at_offset(self.offset);
        count(&mut row.by_day, &local.format("%Y-%m-%d").to_string());
        count(&mut row.by_hour, &format!("{:02}", local.hour()));
        if entry.reason.break_glass {
            row.break_glass += 1;
            if self.detailed {
                row.break_glass_uses.push(BreakGlassUse {
                    sequence: entry.sequence,
                    id: entry.id,
                    at: time,
                    patient: entry.patient.as_ref().map(|it| it.id.clone()),
                    reason: entry.reason.code.clone(),
                    note_given: entry.reason.note_given,
                });
                figures += 1;
            }
        }
        self.figures = figures;
        figures <= MAX_FIGURES && self.counted <= MAX_COUNTED
    }

    /// How many entries were counted, and the rows by rising user.
    pub fn finish(self) -> (u64, Vec<ActorReport>) {
        let rows = self.actors.into_iter().map(|(actor, (mut row, patients))| {
            row.actor = actor;
            row.patients = match &patients {
                Patients::Listed(map) => map.len() as u64,
                Patients::Counted(set) => set.len() as u64,
            };
            #[expect(clippy::cast_precision_loss, reason = "a share is rounded to four places anyway")]
            let share = row.with_note as f64 / row.total as f64;
            row.note_share = (share * 10_000.0).round() / 10_000.0;
            row.break_glass_uses.sort_by_key(|it| it.sequence);
            if let Patients::Listed(map) = patients {
                row.by_patient = map;
            }
            row
        });
        (self.covered, rows.collect())
    }
}

/// A cell of a CSV file that no spreadsheet takes for a formula (OWASP: CSV injection). A plain number, such as -100, is none.
pub fn csv_cell(text: &str) -> String {
    let number = text.bytes().all(|it| it.is_ascii_digit() || b"+-.eE".contains(&it)) && text.parse::<f64>().is_ok();
    // Also in full width, and behind a line break that a program may drop.
    if !number && text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']) {
        format!("'{text}")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_that_a_spreadsheet_would_run_are_neutralised() {
        for bad in ["=1+1", "+1+1", "-1-1", "-cmd", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1+1", "+", "-"] {
            assert!(csv_cell(bad).starts_with('\''));
        }
        for good in ["dr_smith", "-100", "+1.5", "-1e3", ""] {
            assert_eq!(csv_cell(good), good);
        }
    }
}
