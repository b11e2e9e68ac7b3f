//! All users side by side, each against others of the same role.

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::RandomState;

use super::super::action::Outcome;
use super::super::activity::{Activity, Malformed, Run};
use super::super::document::{Cell, Chart, Section};
use super::peers::main_role;
use super::{Params, Times, count_by, median, top};

/// The most users, and pairs of a user and a patient, that are told apart.
const MAX_USERS: usize = 200_000;
const MAX_PAIRS: usize = 30_000_000;

/// The fold over activity.
pub struct UsersFold {
    params: Params,
    times: Times,
    users: HashMap<String, User, RandomState>,
    by_reason: BTreeMap<String, u64>,
    covered: u64,
}

#[derive(Default)]
struct User {
    roles: BTreeMap<String, u64>,
    total: u64,
    earlier: u64,
    notes: u64,
    glass: u64,
    refused: u64,
    patients: Distinct,
}

/// Numbers that are told apart. They are only appended, and sorted when they have doubled: a hash set per user would miss the
/// processor's caches at each one.
#[derive(Default)]
struct Distinct {
    all: Vec<u64>,
    /// How many of them are sorted and differ.
    done: usize,
}

impl Distinct {
    fn add(&mut self, one: u64) {
        self.all.push(one);
        if self.all.len() > 4_096.max(2 * self.done) {
            self.sort();
        }
    }

    fn sort(&mut self) {
        // A stable sort merges what is in order already.
        self.all.sort();
        self.all.dedup();
        self.done = self.all.len();
    }
}

impl User {
    fn add(&mut self, run: &Run<'_>, covered: u64) {
        self.total += covered;
        count_by(&mut self.roles, run.act.role, covered);
        self.notes += if run.act.note { covered } else { 0 };
        self.glass += if run.act.glass { covered } else { 0 };
        self.refused += if run.act.outcome == Outcome::Success { 0 } else { covered };
    }

    fn merge(&mut self, other: Self) {
        let Self { roles, total, earlier, notes, glass, refused, patients } = other;
        roles.iter().for_each(|(role, n)| count_by(&mut self.roles, role, *n));
        self.total += total;
        self.earlier += earlier;
        self.notes += notes;
        self.glass += glass;
        self.refused += refused;
        self.patients.all.extend(patients.all);
    }

    fn role(&self) -> &str {
        main_role(&self.roles)
    }
}

impl UsersFold {
    /// Begins a fold.
    pub fn new(params: &Params) -> Self {
        let (times, users) = (Times::new(params), HashMap::default());
        Self { params: params.clone(), times, users, by_reason: BTreeMap::new(), covered: 0 }
    }

    /// Takes in what many entries are counted by; their order does not matter.
    ///
    /// # Errors
    /// [`Malformed`]; then some of it is counted, and the fold is of no use.
    pub fn add(&mut self, activity: &Activity) -> Result<(), Malformed> {
        let Self { params, times, users, by_reason, covered } = self;
        let (mut moments, before) = (activity.moments(), params.before());
        let mut acts: Vec<(&str, u64)> = Vec::new();
        activity.each_user(&mut |name, runs| {
            if !users.contains_key(name) {
                users.insert(name.to_owned(), User::default());
            }
            let user = users.get_mut(name).expect("it was just put there");
            for run in runs {
                let mut inside = 0;
                moments.next_run(run, |at, patient| {
                    if params.covers(at) {
                        inside += 1;
                        times.add(at);
                        patient.into_iter().for_each(|it| user.patients.add(it));
                    } else if before.is_some_and(|(from, to)| at >= from && at < to) {
                        user.earlier += 1;
                    }
                })?;
                if inside > 0 {
                    user.add(run, inside);
                    *covered += inside;
                    if acts.len() <= run.number {
                        acts.resize(run.number + 1, ("", 0));
                    }
                    acts[run.number] = (run.act.reason, acts[run.number].1 + inside);
                }
            }
            Ok(())
        })?;
        acts.iter().filter(|it| it.1 > 0).for_each(|(reason, n)| count_by(by_reason, reason, *n));
        Ok(())
    }

    /// To be called when everything is taken in, and before another fold is merged.
    pub fn settle(&mut self) {
        self.users.values_mut().for_each(|it| it.patients.sort());
    }

    /// Takes in what another fold of the same parameters took in.
    pub fn merge(&mut self, other: Self) {
        self.covered += other.covered;
        self.times.merge(&other.times);
        other.by_reason.iter().for_each(|(reason, n)| count_by(&mut self.by_reason, reason, *n));
        for (name, user) in other.users {
            match self.users.get_mut(&name) {
                Some(known) => known.merge(user),
                None => drop(self.users.insert(name, user)),
            }
        }
        self.settle();
    }

    /// Whether it stays within its bounds.
    pub fn fits(&self) -> bool {
        let pairs = || self.users.values().map(|it| it.patients.all.len()).sum::<usize>();
        self.users.len() <= MAX_USERS && pairs() <= MAX_PAIRS
    }

    /// How many entries lie in the period.
    pub fn covered(&self) -> u64 {
        self.covered
    }

    /// What the report says.
    pub fn sections(self) -> Vec<Section> {
        let mut by_role: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for user in self.users.values().filter(|it| it.total > 0) {
            by_role.entry(user.role()).or_default().push(user.total);
        }
        let medians: BTreeMap<&str, Cell> = by_role.iter_mut().map(|(role, all)| (*role, median(all))).collect();
        let rows = self.users.iter().filter(|(_, it)| it.total > 0).map(|(id, user)| {
            let median = medians.get(user.role()).cloned().unwrap_or(Cell::None);
            vec![
                Cell::text(id),
                Cell::text(user.role()),
                Cell::Count(user.total),
                Cell::Count(user.earlier),
                median,
                Cell::Count(user.patients.done as u64),
                super::percent(user.notes, user.total),
                Cell::Count(user.glass),
                Cell::Count(user.refused),
            ]
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_cached_key(|row| (std::cmp::Reverse(total(row)), row[0].shown()));
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
        let told = "Patients are told apart by their ids; blind ones by the id under each index key.";
        let mut out = vec![Section::table("Users", &columns, rows).with_text(told)];
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
