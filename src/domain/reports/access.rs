//! What one user did in a period, and each entry of it by every element that ONC 170.315(d)(3) wants sorted by.

use std::collections::BTreeMap;

use super::super::action::{Action, Kind, Outcome};
use super::super::document::{Cell, Chart, Section};
use super::super::entry::EntryView;
use super::super::rules::Item;
use super::{Fold, Params, Rows, Times, count, counts_table, percent, time_of, top};

/// The columns of the list, which are what it can be sorted by.
pub(super) const COLUMNS: [&str; 13] = [
    "accessed",
    "exit",
    "activity time",
    "patient",
    "user",
    "action",
    "outcome",
    "category",
    "record",
    "reason",
    "privilege change",
    "audit status change",
    "entry",
];

pub(super) struct AccessFold {
    params: Params,
    times: Times,
    rows: Rows,
    now: Figures,
    earlier: Figures,
    by_reason: BTreeMap<String, u64>,
    by_action: BTreeMap<String, u64>,
    by_patient: BTreeMap<String, u64>,
}

/// What is compared between periods.
#[derive(Default)]
struct Figures {
    total: u64,
    notes: u64,
    glass: u64,
    failures: u64,
    denials: u64,
    after_hours: u64,
    patients: std::collections::BTreeSet<String>,
}

impl Figures {
    fn add(&mut self, entry: &EntryView, after_hours: bool) {
        self.total += 1;
        self.notes += u64::from(entry.reason.note_given);
        self.glass += u64::from(entry.reason.break_glass);
        self.failures += u64::from(entry.outcome == Outcome::Failure);
        self.denials += u64::from(entry.outcome == Outcome::Denied);
        self.after_hours += u64::from(after_hours);
        if let Some(patient) = &entry.patient {
            self.patients.insert(patient.id.clone());
        }
    }
}

impl AccessFold {
    pub(super) fn new(params: &Params) -> Self {
        Self {
            params: params.clone(),
            times: Times::new(params),
            rows: Rows::new(&COLUMNS),
            now: Figures::default(),
            earlier: Figures::default(),
            by_reason: BTreeMap::new(),
            by_action: BTreeMap::new(),
            by_patient: BTreeMap::new(),
        }
    }
}

impl Fold for AccessFold {
    fn add(&mut self, entry: &EntryView, _: &[Item]) -> bool {
        let time = time_of(entry);
        let hour = chrono::Timelike::hour(&time.at_offset(self.params.zone()));
        let after_hours = !(6..20).contains(&hour);
        if !self.params.covers(time) {
            if self.params.before().is_some_and(|(from, to)| time >= from && time < to) {
                self.earlier.add(entry, after_hours);
            }
            return true;
        }
        self.now.add(entry, after_hours);
        self.times.add(time);
        count(&mut self.by_reason, &entry.reason.code);
        count(&mut self.by_action, entry.action.name());
        if let Some(patient) = &entry.patient {
            count(&mut self.by_patient, &patient.id);
        }
        self.rows.push_with(|| row(entry));
        self.now.patients.len() < 1_000_000
    }

    fn sections(mut self: Box<Self>) -> Vec<Section> {
        if let Some(at) = self.params.sort.as_deref().and_then(|it| COLUMNS.iter().position(|column| *column == it)) {
            self.rows.rows.sort_by_cached_key(|row| (key(&row[at]), key(&row[0])));
        }
        let compared = self.params.before().is_some();
        let figure = |name: &str, of: &dyn Fn(&Figures) -> u64| {
            let earlier = if compared { Cell::Count(of(&self.earlier)) } else { Cell::None };
            vec![Cell::text(name), Cell::Count(of(&self.now)), earlier]
        };
        let figures = vec![
            figure("entries", &|it| it.total),
            figure("different patients", &|it| it.patients.len() as u64),
            figure("with a note", &|it| it.notes),
            figure("break-the-glass", &|it| it.glass),
            figure("failed", &|it| it.failures),
            figure("denied", &|it| it.denials),
            figure("between 20:00 and 6:00", &|it| it.after_hours),
        ];
        let share = percent(self.now.notes, self.now.total).shown();
        let mut summary = Section::table("Summary", &["what", "this period", "period before"], figures);
        if self.now.total > 0 {
            summary = summary.with_text(format!("{share} % of the entries carry a note."));
        }
        let mut out = vec![summary];
        out.push(Section::chart("By reason", Chart::Bars { counts: top(&self.by_reason, 12) }));
        out.push(counts_table("By action", &["action", "entries"], &self.by_action));
        out.extend(self.times.sections());
        out.push(counts_table("By patient", &["patient", "entries"], &self.by_patient));
        out.push(self.rows.section("Entries"));
        out
    }
}

/// What a cell is sorted by.
fn key(cell: &Cell) -> (i64, String) {
    match cell {
        Cell::Time(time) => (time.0, String::new()),
        Cell::Count(count) => (i64::try_from(*count).unwrap_or(i64::MAX), String::new()),
        other => (0, other.shown()),
    }
}

fn row(entry: &EntryView) -> Vec<Cell> {
    let yes = |it: bool| if it { Cell::text("yes") } else { Cell::None };
    // Recording cannot be switched off; what comes nearest is that it starts, stops, or its rules change.
    let status = [Action::VAULT_START, Action::VAULT_STOP, Action::VOCABULARY].contains(&entry.action);
    vec![
        Cell::Time(time_of(entry)),
        entry.ended_at.map_or(Cell::None, Cell::Time),
        entry.effective_at.map_or(Cell::None, Cell::Time),
        Cell::optional(entry.patient.as_ref().map(|it| it.id.as_str())),
        Cell::text(&entry.actor.id),
        Cell::text(entry.action.name()),
        Cell::text(entry.outcome.name()),
        Cell::optional(entry.category.as_deref()),
        entry.record.as_ref().map_or(Cell::None, |it| Cell::text(format!("{} {}", it.kind, it.id))),
        Cell::text(&entry.reason.code),
        yes(entry.action.kind() == Kind::Privilege),
        yes(status),
        Cell::text(entry.id.to_string()),
    ]
}
