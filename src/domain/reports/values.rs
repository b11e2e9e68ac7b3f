//! Counts and sums of a numeric field by day, with what was marked: what a daily report of a business is made of.

use std::collections::{BTreeMap, VecDeque};

use super::super::document::{Cell, Chart, Section};
use super::super::entry::EntryView;
use super::super::fields::as_number;
use super::super::rules::Item;
use super::super::time::Timestamp;
use super::{Fold, Params, Rows, count, counts_table, time_of};

/// More changes of one record than this within an hour are flagged.
const BURST: usize = 5;
const HOUR: i64 = 3_600_000_000;
/// The most records that are watched for bursts.
const MAX_RECORDS: usize = 1_000_000;

pub(super) struct ValuesFold {
    params: Params,
    days: BTreeMap<String, Day>,
    kinds: BTreeMap<String, u64>,
    flags: BTreeMap<String, u64>,
    flagged: Rows,
    recent: BTreeMap<String, VecDeque<Timestamp>>,
}

#[derive(Default)]
struct Day {
    entries: u64,
    sum: f64,
    flagged: u64,
}

impl ValuesFold {
    pub(super) fn new(params: &Params) -> Self {
        Self {
            params: params.clone(),
            days: BTreeMap::new(),
            kinds: BTreeMap::new(),
            flags: BTreeMap::new(),
            flagged: Rows::new(&["when", "record", "who", "value", "flags", "entry"]),
            recent: BTreeMap::new(),
        }
    }

    /// Whether this is one change too many of a record within an hour.
    fn is_burst(&mut self, record: &str, time: Timestamp) -> bool {
        let recent = self.recent.entry(record.to_owned()).or_default();
        recent.push_back(time);
        while recent.front().is_some_and(|it| time.0 - it.0 > HOUR) {
            recent.pop_front();
        }
        recent.len() > BURST
    }
}

impl Fold for ValuesFold {
    fn add(&mut self, entry: &EntryView, items: &[Item]) -> bool {
        let field = self.params.field.as_deref().unwrap_or_default();
        if entry.outcome != super::super::action::Outcome::Success {
            return true;
        }
        let Some(place) = entry.fields.iter().position(|it| it == field) else { return true };
        let path = format!("changes/{place:03}/new");
        let value = items.iter().find(|it| it.path == path).and_then(|it| as_number(it.value.expose()));
        let (time, record) = (time_of(entry), entry.record.as_ref().map_or_else(String::new, |it| it.id.clone()));
        let mut flags: Vec<String> = entry.marks.clone();
        if self.is_burst(&record, time) {
            flags.push(format!("more than {BURST} in an hour"));
        }
        let day = time.at_offset(self.params.zone()).format("%Y-%m-%d").to_string();
        let day = self.days.entry(day).or_default();
        day.entries += 1;
        day.sum += value.map_or(0.0, f64::abs);
        day.flagged += u64::from(!flags.is_empty());
        count(&mut self.kinds, entry.category.as_deref().unwrap_or_else(|| entry.action.name()));
        for flag in &flags {
            count(&mut self.flags, flag.split(':').next().unwrap_or(flag));
        }
        if !flags.is_empty() {
            self.flagged.push(vec![
                Cell::Time(time),
                Cell::text(record),
                Cell::text(&entry.actor.id),
                value.map_or(Cell::None, |it| Cell::Decimal(it.to_string())),
                Cell::text(flags.join(", ")),
                Cell::text(entry.id.to_string()),
            ]);
        }
        self.recent.len() <= MAX_RECORDS
    }

    fn sections(self: Box<Self>) -> Vec<Section> {
        let row = |(day, it): (&String, &Day)| {
            vec![
                Cell::text(day),
                Cell::Count(it.entries),
                Cell::Decimal(format!("{:.2}", it.sum)),
                Cell::Count(it.flagged),
            ]
        };
        let days: Vec<_> = self.days.iter().map(row).collect();
        let counts = self.days.iter().map(|(day, it)| (day.clone(), it.entries)).collect();
        vec![
            Section::table("By day", &["day", "entries", "volume", "flagged"], days)
                .with_text("The volume is the sum of the values without their signs."),
            Section::chart("Entries by day", Chart::Columns { counts }),
            counts_table("By type", &["type", "entries"], &self.kinds),
            counts_table("Flags", &["flag", "entries"], &self.flags),
            self.flagged.section("Flagged entries"),
        ]
    }
}
