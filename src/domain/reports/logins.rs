//! Log-in monitoring (45 CFR 164.308(a)(5)(ii)(C)): who logged in, who failed, and failures that ended in success.

use std::collections::BTreeMap;

use super::super::action::Action;
use super::super::document::{Cell, Section};
use super::super::entry::EntryView;
use super::super::rules::Item;
use super::super::time::Timestamp;
use super::{Fold, Rows, time_of};

/// Failures after which a success is worth a look, and within what time, microseconds.
const SUSPECT: usize = 5;
const WITHIN: i64 = 3_600_000_000;

#[derive(Default)]
pub(super) struct LoginsFold {
    users: BTreeMap<String, User>,
    sources: BTreeMap<String, u64>,
    suspects: Vec<Vec<Cell>>,
}

#[derive(Default)]
struct User {
    logins: u64,
    logouts: u64,
    failures: u64,
    last_failure: Option<Timestamp>,
    recent: Vec<Timestamp>,
}

impl Fold for LoginsFold {
    fn add(&mut self, entry: &EntryView, _: &[Item]) -> bool {
        let time = time_of(entry);
        let user = self.users.entry(entry.actor.id.clone()).or_default();
        let address = entry.context.get("client_ip").cloned();
        if entry.action == Action::LOGIN_FAILED || entry.outcome != super::super::action::Outcome::Success {
            user.failures += 1;
            user.last_failure = Some(time);
            user.recent.push(time);
            super::count(&mut self.sources, address.as_deref().unwrap_or("unknown"));
        } else if entry.action == Action::LOGOUT {
            user.logouts += 1;
        } else {
            user.logins += 1;
            user.recent.retain(|it| time.0 - it.0 <= WITHIN);
            if user.recent.len() >= SUSPECT {
                self.suspects.push(vec![
                    Cell::text(&entry.actor.id),
                    Cell::Count(user.recent.len() as u64),
                    Cell::Time(time),
                    Cell::optional(address.as_deref()),
                ]);
            }
            user.recent.clear();
        }
        self.users.len() < 1_000_000 && self.suspects.len() < super::MAX_ROWS
    }

    fn sections(self: Box<Self>) -> Vec<Section> {
        let mut rows = Rows::new(&["user", "log-ins", "log-outs", "failures", "last failure"]);
        let mut users: Vec<_> = self.users.into_iter().collect();
        users.sort_by(|a, b| b.1.failures.cmp(&a.1.failures).then_with(|| a.0.cmp(&b.0)));
        for (id, it) in users {
            let last = it.last_failure.map_or(Cell::None, Cell::Time);
            rows.push(vec![
                Cell::text(id),
                Cell::Count(it.logins),
                Cell::Count(it.logouts),
                Cell::Count(it.failures),
                last,
            ]);
        }
        let suspects = Section::table(
            "Many failures, then success",
            &["user", "failures", "success at", "address"],
            self.suspects,
        )
        .with_text(format!("{SUSPECT} or more failed log-ins within an hour before one that succeeded."));
        vec![
            suspects,
            rows.section("Users"),
            super::counts_table("Failures by address", &["address", "failures"], &self.sources),
        ]
    }
}
