//! Counts and sums of a numeric field by day, with what was marked: what a daily report of a business is made of.

use std::collections::BTreeMap;

use super::super::document::{Cell, Chart, Section};
use super::super::entry::EntryView;
use super::super::fields::as_number;
use super::super::rules::Item;
use super::super::time::Timestamp;
use super::{Fold, Params, Rows, count, counts_table, time_of};

/// More changes of one record than this within an hour are flagged.
const BURST: usize = 5;
const HOUR: i64 = 3_600_000_000;
/// The most changes that are looked at; each takes about 200 bytes.
const MAX_CHANGES: usize = 1_000_000;

pub(super) struct ValuesFold {
    params: Params,
    days: BTreeMap<String, Day>,
    kinds: BTreeMap<String, u64>,
    flags: BTreeMap<String, u64>,
    flagged: Rows,
    /// Changes of each record: when, and which of them.
    changes: BTreeMap<String, Vec<(Timestamp, usize)>>,
    all: Vec<One>,
}

/// One changed value.
struct One {
    at: Timestamp,
    record: String,
    actor: String,
    value: Option<f64>,
    flags: Vec<String>,
    entry: uuid::Uuid,
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
            changes: BTreeMap::new(),
            all: Vec::new(),
        }
    }

    /// Flags every change that is one too many of its record within an hour, by the time they happened.
    fn flag_bursts(&mut self) {
        for changes in self.changes.values_mut() {
            changes.sort_unstable();
            for (n, (time, one)) in changes.iter().enumerate().skip(BURST) {
                if time.0 - changes[n - BURST].0.0 <= HOUR {
                    self.all[*one].flags.push(format!("more than {BURST} in an hour"));
                }
            }
        }
    }
}

impl Fold for ValuesFold {
    fn add(&mut self, entry: &EntryView, items: &[Item]) -> bool {
        let field = self.params.field.as_deref().unwrap_or_default();
        if entry.outcome != super::super::action::Outcome::Success {
            return true;
        }
        for (place, _) in entry.fields.iter().enumerate().filter(|(_, it)| *it == field) {
            let path = format!("changes/{place:03}/new");
            let value = items.iter().find(|it| it.path == path).and_then(|it| as_number(it.value.expose()));
            let (at, record) = (time_of(entry), entry.record.as_ref().map_or_else(String::new, |it| it.id.clone()));
            count(&mut self.kinds, entry.category.as_deref().unwrap_or_else(|| entry.action.name()));
            self.changes.entry(record.clone()).or_default().push((at, self.all.len()));
            let (actor, flags) = (entry.actor.id.clone(), entry.marks.clone());
            self.all.push(One { at, record, actor, value, flags, entry: entry.id });
        }
        self.all.len() <= MAX_CHANGES
    }

    fn sections(mut self: Box<Self>) -> Vec<Section> {
        self.flag_bursts();
        for it in std::mem::take(&mut self.all) {
            let day = it.at.at_offset(self.params.zone()).format("%Y-%m-%d").to_string();
            let day = self.days.entry(day).or_default();
            day.entries += 1;
            day.sum += it.value.map_or(0.0, f64::abs);
            day.flagged += u64::from(!it.flags.is_empty());
            for flag in &it.flags {
                count(&mut self.flags, flag.split(':').next().unwrap_or(flag));
            }
            if !it.flags.is_empty() {
                self.flagged.push(vec![
                    Cell::Time(it.at),
                    Cell::text(it.record),
                    Cell::text(it.actor),
                    it.value.map_or(Cell::None, |it| Cell::Decimal(it.to_string())),
                    Cell::text(it.flags.join(", ")),
                    Cell::text(it.entry.to_string()),
                ]);
            }
        }
        let row = |(day, it): (&String, &Day)| {
            vec![
                Cell::text(day),
                Cell::Count(it.entries),
                if it.sum.is_finite() {
                    Cell::Decimal(format!("{:.2}", it.sum))
                } else {
                    Cell::text("too large to add up")
                },
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
