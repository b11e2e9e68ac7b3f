//! All users side by side, each against others of the same role.

use std::collections::{BTreeMap, HashSet};

use super::super::action::Outcome;
use super::super::document::{Cell, Chart, Section};
use super::super::entry::EntryView;
use super::super::index::{Dimension, Term};
use super::super::rules::Item;
use super::{Fold, Params, Times, count, time_of, top};

/// The most users, and pairs of a user and a patient, that are told apart.
const MAX_USERS: usize = 200_000;
const MAX_PAIRS: usize = 30_000_000;

pub(super) struct UsersFold {
    params: Params,
    times: Times,
    users: BTreeMap<String, User>,
    by_reason: BTreeMap<String, u64>,
    pairs: usize,
}

#[derive(Default)]
struct User {
    roles: BTreeMap<String, u64>,
    total: u64,
    earlier: u64,
    notes: u64,
    glass: u64,
    refused: u64,
    patients: HashSet<u64>,
}

impl User {
    /// The role acted in most often.
    fn role(&self) -> &str {
        self.roles.iter().max_by(|a, b| a.1.cmp(b.1).then_with(|| b.0.cmp(a.0))).map_or("", |it| it.0)
    }
}

impl UsersFold {
    pub(super) fn new(params: &Params) -> Self {
        let (times, users) = (Times::new(params), BTreeMap::new());
        Self { params: params.clone(), times, users, by_reason: BTreeMap::new(), pairs: 0 }
    }
}

impl Fold for UsersFold {
    fn add(&mut self, entry: &EntryView, _: &[Item]) -> bool {
        let time = time_of(entry);
        let covered = self.params.covers(time);
        if !covered && !self.params.before().is_some_and(|(from, to)| time >= from && time < to) {
            return true;
        }
        if !self.users.contains_key(&entry.actor.id) {
            self.users.insert(entry.actor.id.clone(), User::default());
        }
        let user = self.users.get_mut(&entry.actor.id).expect("it was just put there");
        if !covered {
            user.earlier += 1;
            return true;
        }
        user.total += 1;
        count(&mut user.roles, entry.actor.role.as_deref().unwrap_or(""));
        user.notes += u64::from(entry.reason.note_given);
        user.glass += u64::from(entry.reason.break_glass);
        user.refused += u64::from(entry.outcome != Outcome::Success);
        if let Some(patient) = &entry.patient {
            let key = Term::new(Dimension::Patient, &[patient.id.as_bytes()]).key;
            self.pairs += usize::from(user.patients.insert(key));
        }
        self.times.add(time);
        count(&mut self.by_reason, &entry.reason.code);
        self.users.len() <= MAX_USERS && self.pairs <= MAX_PAIRS
    }

    fn sections(self: Box<Self>) -> Vec<Section> {
        let mut by_role: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for user in self.users.values().filter(|it| it.total > 0) {
            by_role.entry(user.role()).or_default().push(user.total);
        }
        let medians: BTreeMap<&str, u64> = by_role.iter_mut().map(|(role, all)| (*role, median(all))).collect();
        let rows = self.users.iter().filter(|(_, it)| it.total > 0).map(|(id, user)| {
            let median = medians.get(user.role()).copied().unwrap_or(0);
            vec![
                Cell::text(id),
                Cell::text(user.role()),
                Cell::Count(user.total),
                Cell::Count(user.earlier),
                Cell::Count(median),
                Cell::Count(user.patients.len() as u64),
                super::percent(user.notes, user.total),
                Cell::Count(user.glass),
                Cell::Count(user.refused),
            ]
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_key(|row| std::cmp::Reverse(total(row)));
        let columns = [
            "user",
            "role",
            "entries",
            "period before",
            "median of role",
            "patients",
            "notes %",
            "break-glass",
            "failed or denied",
        ];
        let mut out = vec![Section::table("Users", &columns, rows)];
        out.push(Section::chart("By reason", Chart::Bars { counts: top(&self.by_reason, 12) }));
        out.extend(self.times.sections());
        out
    }
}

fn total(row: &[Cell]) -> u64 {
    match row[2] {
        Cell::Count(count) => count,
        _ => 0,
    }
}

fn median(all: &mut [u64]) -> u64 {
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or(0)
}
