//! The reports: which there are, what each is asked for, and the folds from entries to documents.

use std::collections::BTreeMap;

use chrono::FixedOffset;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::action::Action;
use super::document::{Cell, Chart, Section};
use super::entry::EntryView;
use super::index::{Dimension, Term};
use super::meta::Meta;
use super::query::Filter;
use super::rules::Item;
use super::time::Timestamp;

mod access;
pub mod accounting;
mod glass;
mod logins;
mod patient;
pub mod peers;
mod privileged;
mod reasons;
pub mod review;
pub mod users;
mod values;

/// What the entries of an access report can be sorted by.
pub const SORTS: [&str; 13] = access::COLUMNS;

/// The most rows that a report lists; of more it says so.
pub const MAX_ROWS: usize = 20_000;

/// A report.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReportKind {
    /// What one user did, with reasons (45 CFR 164.308(a)(1)(ii)(D)).
    Access,
    /// All users side by side.
    Users,
    /// Who looked at a patient's record, and why, in plain words.
    Patient,
    /// Accounting of disclosures (45 CFR 164.528).
    Disclosures,
    /// Uses of break-the-glass, what was done with them, and their review.
    BreakGlass,
    /// What must be looked at, and what was decided of it.
    Review,
    /// Log-in monitoring (45 CFR 164.308(a)(5)(ii)(C)).
    Logins,
    /// How reasons are given: missing notes, rare codes, role and reason that do not fit.
    Reasons,
    /// Keys, tokens, holds, disposal and privileges.
    Privileged,
    /// What the vault found of itself: verification, checkpoints, starts.
    Integrity,
    /// Where records were changed outside the trail.
    Continuity,
    /// Counts and sums of a numeric field by day, with marks.
    Values,
}

/// What a report is made of: the same parameters and the same ledger give the same report.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Params {
    /// The user.
    pub actor: Option<String>,
    /// The patient.
    pub patient: Option<String>,
    /// The type of the records.
    pub record_type: Option<String>,
    /// One record.
    pub record_id: Option<String>,
    /// The field.
    pub field: Option<String>,
    /// By which column entries are sorted.
    pub sort: Option<String>,
    /// Not before, by the time things happened.
    pub from: Option<Timestamp>,
    /// Before.
    pub to: Option<Timestamp>,
    /// The offset from UTC in which days and hours are counted, in seconds.
    pub offset: i32,
    /// What an accounting of disclosures takes beside that.
    pub accounting: Option<accounting::Request>,
    /// What a report for the person must not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<Withheld>,
}

/// Disclosures that the person is not told of yet (45 CFR 164.528(a)(2)).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Withheld {
    /// Because of these, which were in force when the report was made.
    pub suspensions: Vec<accounting::Suspension>,
}

impl Withheld {
    /// Whether an entry is one of them.
    pub fn covers(&self, entry: &EntryView, items: &[Item], params: &Params) -> bool {
        entry.action == Action::DISCLOSE
            && accounting::Disclosure::of(entry, items, params).may_be_of(&self.suspensions)
    }
}

impl Params {
    /// The offset.
    pub fn zone(&self) -> FixedOffset {
        FixedOffset::east_opt(self.offset).unwrap_or_else(|| FixedOffset::east_opt(0).expect("zero is an offset"))
    }

    /// Whether a time lies in the period.
    pub fn covers(&self, time: Timestamp) -> bool {
        self.from.is_none_or(|from| time >= from) && self.to.is_none_or(|to| time < to)
    }

    /// The day of a time in its zone.
    pub fn zone_day(&self, time: Timestamp) -> chrono::NaiveDate {
        time.at_offset(self.zone()).date_naive()
    }

    /// The same without what must not leave the office: who asked that a person is not told of something.
    pub fn without_suspensions(&self) -> Self {
        Self { accounting: None, withheld: None, ..self.clone() }
    }

    /// The period of the same length before.
    pub fn before(&self) -> Option<(Timestamp, Timestamp)> {
        let (from, to) = (self.from?, self.to?);
        Some((Timestamp(from.0.checked_sub(to.0 - from.0)?), from))
    }
}

/// From entries to sections.
pub trait Fold {
    /// Looks at an entry before all others are taken in, for folds that must know more; only entries that are break-the-glass come.
    fn prepare(&mut self, _entry: &EntryView) {}

    /// Takes in one entry, oldest first by position; with its values if the report asks for them. `false`: the report would
    /// outgrow its bounds.
    #[must_use]
    fn add(&mut self, entry: &EntryView, items: &[Item]) -> bool;

    /// What the report says.
    fn sections(self: Box<Self>) -> Vec<Section>;
}

impl ReportKind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Access,
        Self::Users,
        Self::Patient,
        Self::Disclosures,
        Self::BreakGlass,
        Self::Review,
        Self::Logins,
        Self::Reasons,
        Self::Privileged,
        Self::Integrity,
        Self::Continuity,
        Self::Values,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Users => "users",
            Self::Patient => "patient",
            Self::Disclosures => "disclosures",
            Self::BreakGlass => "break-glass",
            Self::Review => "review",
            Self::Logins => "logins",
            Self::Reasons => "reasons",
            Self::Privileged => "privileged",
            Self::Integrity => "integrity",
            Self::Continuity => "continuity",
            Self::Values => "values",
        }
    }

    /// The report of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }

    /// Its title.
    pub fn title(self) -> &'static str {
        match self {
            Self::Access => "Access report",
            Self::Users => "All users",
            Self::Patient => "Who has looked at this record, and why",
            Self::Disclosures => "Accounting of disclosures",
            Self::BreakGlass => "Break-the-glass",
            Self::Review => "Activity review",
            Self::Logins => "Log-in monitoring",
            Self::Reasons => "Reasons given",
            Self::Privileged => "Privileged activity",
            Self::Integrity => "Integrity of the trail",
            Self::Continuity => "Continuity of records",
            Self::Values => "Values by day",
        }
    }

    /// What it cannot do without, as names of parameters.
    pub fn required(self) -> &'static [&'static str] {
        match self {
            Self::Access => &["actor"],
            Self::Patient | Self::Disclosures => &["patient"],
            Self::Values => &["record_type", "field"],
            _ => &[],
        }
    }

    /// Whether it shows what is sealed, so that only who may reveal may make it.
    pub fn shows_values(self) -> bool {
        matches!(self, Self::Disclosures | Self::Values)
    }

    /// The parameters that it takes beside period and time zone. What it would pass over is refused.
    pub fn takes(self) -> &'static [&'static str] {
        match self {
            Self::Access => &["actor", "patient", "record_type", "record_id", "sort"],
            Self::Users => &["patient", "record_type", "record_id"],
            Self::Patient => &["patient", "actor", "record_type", "record_id"],
            Self::Disclosures => &["patient", "accounting"],
            Self::BreakGlass | Self::Review => &["actor", "patient", "record_type", "record_id"],
            Self::Logins | Self::Reasons | Self::Privileged => &["actor"],
            Self::Integrity => &[],
            Self::Continuity => &["record_type", "record_id"],
            Self::Values => &["record_type", "record_id", "field", "actor", "patient"],
        }
    }

    /// From when to when it looks at entries, by the time they happened. Some look beyond their period: at the one before, at
    /// reviews that came later, at failures just before.
    pub fn reach(self, params: &Params) -> (Option<Timestamp>, Option<Timestamp>) {
        match self {
            Self::Access | Self::Users | Self::Disclosures | Self::BreakGlass | Self::Review | Self::Continuity => {
                (None, None)
            }
            Self::Logins => (params.from.map(|it| it.plus_seconds(-3_600)), params.to),
            _ => (params.from, params.to),
        }
    }

    /// Whether it reads reviews, whoever made them and of whatever record.
    pub fn reads_reviews(self) -> bool {
        matches!(self, Self::BreakGlass | Self::Review)
    }

    /// Whether an entry belongs to what it is made of, by a filter that [`ReportKind::reach`] bounds.
    pub fn belongs(self, meta: &Meta, filter: &Filter, received: Timestamp) -> bool {
        let review = self.reads_reviews() && meta.action == Action::REVIEW;
        self.counts(meta) && (review || filter.matches(meta, received))
    }

    /// Whether its figures can be worked out again without keys, from a database in which patient ids stand in clear or not.
    pub fn is_plain(self, blind: bool) -> bool {
        match self {
            Self::Users | Self::Logins | Self::Reasons => true,
            Self::Disclosures | Self::Values | Self::Continuity => false,
            _ => !blind,
        }
    }

    /// Terms of which an entry must have one each; an empty list reads all entries.
    pub fn terms(self) -> Vec<Vec<Term>> {
        let action = |it: &Action| Term::new(Dimension::Action, &[it.name().as_bytes()]);
        match self {
            Self::Disclosures => vec![vec![action(&Action::DISCLOSE)]],
            Self::Logins => vec![[Action::LOGIN, Action::LOGOUT, Action::LOGIN_FAILED].iter().map(action).collect()],
            Self::Privileged => vec![privileged::ACTIONS.iter().map(action).collect()],
            Self::Integrity => vec![privileged::INTEGRITY.iter().map(action).collect()],
            _ => Vec::new(),
        }
    }

    /// Whether it counts an entry that meets the filter.
    fn counts(self, meta: &Meta) -> bool {
        match self {
            Self::Disclosures => meta.action == Action::DISCLOSE,
            Self::Logins => [Action::LOGIN, Action::LOGOUT, Action::LOGIN_FAILED].contains(&meta.action),
            Self::Privileged => privileged::ACTIONS.contains(&meta.action),
            Self::Integrity => privileged::INTEGRITY.contains(&meta.action),
            Self::Continuity | Self::Values => meta.action.is_change(),
            _ => true,
        }
    }

    /// Its fold over entries. All users are counted by activity, and continuity compares values, so these have none.
    pub fn fold(self, params: &Params) -> Option<Box<dyn Fold>> {
        Some(match self {
            Self::Access => Box::new(access::AccessFold::new(params)),
            Self::Patient => Box::new(patient::PatientFold::new(params)),
            Self::Disclosures => Box::new(accounting::AccountingFold::new(params)),
            Self::BreakGlass => Box::new(glass::GlassFold::new(params)),
            Self::Review => Box::new(review::ReviewFold::new(params)),
            Self::Logins => Box::new(logins::LoginsFold::new(params)),
            Self::Reasons => Box::new(reasons::ReasonsFold::default()),
            Self::Privileged => Box::new(privileged::PrivilegedFold::default()),
            Self::Integrity => Box::new(privileged::IntegrityFold::default()),
            Self::Values => Box::new(values::ValuesFold::new(params)),
            Self::Users | Self::Continuity => return None,
        })
    }
}

/// When an entry happened; its receipt if the application did not say.
fn time_of(entry: &EntryView) -> Timestamp {
    entry.occurred_at.unwrap_or(entry.received_at)
}

/// The middle one of some figures; of an even number the mean of the two in the middle.
fn median(all: &mut [u64]) -> Cell {
    all.sort_unstable();
    let middle = all.len() / 2;
    match all.len() {
        0 => Cell::None,
        n if n % 2 == 1 || all[middle - 1] == all[middle] => Cell::Count(all[middle]),
        _ => {
            let twice = all[middle - 1] + all[middle];
            if twice.is_multiple_of(2) { Cell::Count(twice / 2) } else { Cell::Decimal(format!("{}.5", twice / 2)) }
        }
    }
}

/// Counts by name, the most frequent first.
fn ranked(counts: &BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let mut all: Vec<_> = counts.iter().map(|(name, count)| (name.clone(), *count)).collect();
    all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all
}

/// The first bars of a ranking, and the rest in one.
fn top(counts: &BTreeMap<String, u64>, most: usize) -> Vec<(String, u64)> {
    let mut all = ranked(counts);
    if all.len() > most {
        let rest = all.split_off(most - 1);
        all.push((format!("{} others", rest.len()), rest.iter().map(|it| it.1).sum()));
    }
    all
}

fn count(counts: &mut BTreeMap<String, u64>, name: &str) {
    count_by(counts, name, 1);
}

fn count_by(counts: &mut BTreeMap<String, u64>, name: &str, by: u64) {
    match counts.get_mut(name) {
        Some(count) => *count += by,
        None => drop(counts.insert(name.to_owned(), by)),
    }
}

/// Counts along time: by day, by weekday and hour.
struct Times {
    offset: i64,
    /// By local day from [`FIRST_DAY`] on.
    days: Vec<u64>,
    week: Vec<Vec<u64>>,
}

/// Microseconds.
const HOUR: i64 = 3_600_000_000;
/// A day before all that a time can name (1799-12-01), and how many days there are, both counted from 1970-01-01.
const FIRST_DAY: i64 = -62_122;
const DAYS: usize = 146_600;
/// 1970-01-01 was a Thursday; weeks begin on Mondays.
const THURSDAY: i64 = 3;

impl Times {
    fn new(params: &Params) -> Self {
        Self { offset: i64::from(params.offset) * 1_000_000, days: vec![0; DAYS], week: vec![vec![0; 24]; 7] }
    }

    fn add(&mut self, time: Timestamp) {
        // In numbers, for this is done for millions of entries; no entry is so late that it would overflow.
        let local = time.0.saturating_add(self.offset);
        let (day, hour) = (local.div_euclid(24 * HOUR), local.rem_euclid(24 * HOUR) / HOUR);
        let place = |it: i64| usize::try_from(it).unwrap_or(0);
        self.days[place(day - FIRST_DAY).min(DAYS - 1)] += 1;
        self.week[place((day + THURSDAY).rem_euclid(7))][place(hour)] += 1;
    }

    fn merge(&mut self, other: &Self) {
        let week = self.week.iter_mut().flatten().zip(other.week.iter().flatten());
        self.days.iter_mut().zip(&other.days).chain(week).for_each(|(mine, theirs)| *mine += theirs);
    }

    /// The charts; days become months when there are many. Days without entries stand there too, for a gap is a finding.
    fn sections(self) -> Vec<Section> {
        let number = |n: usize| FIRST_DAY + i64::try_from(n).expect("there are fewer days");
        let named = |day: i64| Timestamp(day * 24 * HOUR).to_utc().format("%Y-%m-%d").to_string();
        let (first, last) = (self.days.iter().position(|it| *it > 0), self.days.iter().rposition(|it| *it > 0));
        let (Some(first), Some(last)) = (first, last) else {
            return vec![Section::text("Over time", vec!["There are no entries in the period.".to_owned()])];
        };
        let mut counts: Vec<(String, u64)> = Vec::new();
        for (n, count) in self.days.iter().enumerate().take(last + 1).skip(first) {
            let day = named(number(n));
            let label = if last - first < 62 { &day } else { &day[..7] };
            match counts.last_mut() {
                Some((name, sum)) if name == label => *sum += count,
                _ => counts.push((label.to_owned(), *count)),
            }
        }
        vec![
            Section::chart("Over time", Chart::Columns { counts }),
            Section::chart("By weekday and hour", Chart::Week { counts: self.week }),
        ]
    }
}

/// A list of rows that does not outgrow the report.
struct Rows {
    columns: &'static [&'static str],
    rows: Vec<Vec<Cell>>,
    left_out: u64,
}

impl Rows {
    fn new(columns: &'static [&'static str]) -> Self {
        Self { columns, rows: Vec::new(), left_out: 0 }
    }

    fn push(&mut self, row: Vec<Cell>) {
        self.push_with(|| row);
    }

    /// The same for rows that cost something to make.
    fn push_with(&mut self, row: impl FnOnce() -> Vec<Cell>) {
        if self.rows.len() < MAX_ROWS { self.rows.push(row()) } else { self.left_out += 1 }
    }

    fn section(self, heading: &str) -> Section {
        let section = Section::table(heading, self.columns, self.rows);
        match self.left_out {
            0 => section,
            n => section.with_text(format!(
                "{n} more are not listed, for a report lists at most {MAX_ROWS}; ask for a shorter period."
            )),
        }
    }
}

/// A table of counts by name.
fn counts_table(heading: &str, columns: &'static [&'static str], counts: &BTreeMap<String, u64>) -> Section {
    let row = |(name, count): (String, u64)| vec![Cell::text(name), Cell::Count(count)];
    let ranked = ranked(counts);
    let shown: Vec<_> = ranked.iter().take(MAX_ROWS).cloned().map(row).collect();
    Section::table(heading, columns, shown)
}

/// A share in percent, to one decimal.
#[expect(clippy::cast_precision_loss, reason = "a share is rounded to one place anyway")]
fn percent(part: u64, whole: u64) -> Cell {
    if whole == 0 { Cell::None } else { Cell::Decimal(format!("{:.1}", part as f64 * 100.0 / whole as f64)) }
}
