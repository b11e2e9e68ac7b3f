//! Log-in monitoring (45 CFR 164.308(a)(5)(ii)(C)): who logged in, who failed, and failures that ended in success.

use std::collections::BTreeMap;

use super::super::action::{Action, Outcome};
use super::super::document::{Cell, Section};
use super::super::entry::EntryView;
use super::super::rules::Item;
use super::super::time::Timestamp;
use super::{Fold, Params, Rows, time_of};

/// Failures after which a success is worth a look, and within what time, microseconds.
const SUSPECT: usize = 5;
const WITHIN: i64 = 3_600_000_000;

/// The fact that counts failures.
const ONLY_COUNTED: &str = "denials_not_recorded";

/// The most log-ins that are looked at.
const MAX_EVENTS: usize = 5_000_000;

pub(super) struct LoginsFold {
    params: Params,
    users: BTreeMap<String, User>,
    sources: BTreeMap<String, u64>,
    addresses: Vec<String>,
    numbers: BTreeMap<String, u32>,
    events: usize,
    /// Failures that were too many to stand in entries of their own.
    only_counted: u64,
}

#[derive(Default)]
struct User {
    logins: u64,
    logouts: u64,
    failures: u64,
    last_failure: Option<Timestamp>,
    /// When, whether it succeeded, and from which address; also shortly before the period.
    attempts: Vec<(Timestamp, bool, Option<u32>)>,
}

impl LoginsFold {
    pub(super) fn new(params: &Params) -> Self {
        Self {
            params: params.clone(),
            users: BTreeMap::new(),
            sources: BTreeMap::new(),
            addresses: Vec::new(),
            numbers: BTreeMap::new(),
            events: 0,
            only_counted: 0,
        }
    }

    fn number(&mut self, address: &str) -> u32 {
        let next = u32::try_from(self.addresses.len()).expect("there are fewer addresses than log-ins");
        *self.numbers.entry(address.to_owned()).or_insert_with(|| {
            self.addresses.push(address.to_owned());
            next
        })
    }

    /// Successes behind many failures, by the time they happened: entries may come in in another order.
    fn suspects(&mut self) -> Rows {
        let mut rows = Rows::new(&["user", "failures", "success at", "address"]);
        for (id, user) in &mut self.users {
            user.attempts.sort_by_key(|it| (it.0, it.1));
            let mut failures: Vec<Timestamp> = Vec::new();
            for (time, success, address) in &user.attempts {
                if !success {
                    failures.push(*time);
                    continue;
                }
                failures.retain(|it| time.0 - it.0 <= WITHIN);
                if failures.len() >= SUSPECT && self.params.covers(*time) {
                    let address = address.map(|it| self.addresses[it as usize].as_str());
                    let count = Cell::Count(failures.len() as u64);
                    rows.push(vec![Cell::text(id), count, Cell::Time(*time), Cell::optional(address)]);
                }
                failures.clear();
            }
        }
        rows
    }
}

impl Fold for LoginsFold {
    fn add(&mut self, entry: &EntryView, _: &[Item]) -> bool {
        let (time, success) = (time_of(entry), entry.outcome == Outcome::Success);
        if let Some(count) = entry.facts.get(ONLY_COUNTED).and_then(|it| it.parse::<u64>().ok()) {
            self.only_counted += if self.params.covers(time) { count } else { 0 };
            return true;
        }
        let address = entry.context.get("client_ip").cloned();
        let number = address.as_deref().map(|it| self.number(it));
        let (covered, user) = (self.params.covers(time), self.users.entry(entry.actor.id.clone()).or_default());
        if entry.action == Action::LOGOUT {
            user.logouts += u64::from(covered && success);
            return self.users.len() < 1_000_000;
        }
        let failed = entry.action == Action::LOGIN_FAILED || !success;
        user.attempts.push((time, !failed, number));
        if covered && failed {
            user.failures += 1;
            user.last_failure = user.last_failure.max(Some(time));
            super::count(&mut self.sources, address.as_deref().unwrap_or("unknown"));
        } else if covered {
            user.logins += 1;
        }
        self.events += 1;
        self.users.len() < 1_000_000 && self.events <= MAX_EVENTS
    }

    fn sections(mut self: Box<Self>) -> Vec<Section> {
        let suspects = self.suspects();
        let mut rows = Rows::new(&["user", "log-ins", "log-outs", "failures", "last failure"]);
        let mut users: Vec<_> = self.users.into_iter().collect();
        users.sort_by(|a, b| b.1.failures.cmp(&a.1.failures).then_with(|| a.0.cmp(&b.0)));
        for (id, it) in users.into_iter().filter(|(_, it)| it.logins + it.logouts + it.failures > 0) {
            let last = it.last_failure.map_or(Cell::None, Cell::Time);
            rows.push(vec![
                Cell::text(id),
                Cell::Count(it.logins),
                Cell::Count(it.logouts),
                Cell::Count(it.failures),
                last,
            ]);
        }
        let told = format!("{SUSPECT} or more failed log-ins within an hour before one that succeeded.");
        let mut suspects = suspects.section("Many failures, then success").with_text(told);
        if self.only_counted > 0 {
            suspects = suspects.with_text(format!(
                "{} further failures came too fast to be recorded one by one; they may be of anybody and are not among these.",
                self.only_counted
            ));
        }
        vec![
            suspects,
            rows.section("Users"),
            super::counts_table("Failures by address", &["address", "failures"], &self.sources),
        ]
    }
}
