//! What those with special rights did, and what the vault found of itself.

use std::collections::BTreeMap;

use super::super::action::{Action, Outcome};
use super::super::document::{Cell, Section};
use super::super::entry::EntryView;
use super::super::rules::Item;
use super::super::time::Timestamp;
use super::{Fold, Rows, counts_table, time_of};

/// Keys, tokens, holds, disposal, restores and privileges.
pub(super) const ACTIONS: [Action; 20] = [
    Action::KEY_ROTATE,
    Action::KEY_REENCRYPT,
    Action::KEY_DESTROY,
    Action::KEY_REWRAP,
    Action::KEY_SLOT,
    Action::KEY_INDEX,
    Action::KEY_STATE,
    Action::SIGNING_ROTATE,
    Action::TOKEN_CREATE,
    Action::TOKEN_REVOKE,
    Action::APPROVAL,
    Action::RESTORE_PLAN,
    Action::HOLD_PLACE,
    Action::HOLD_LIFT,
    Action::DISPOSE,
    Action::REDACT,
    Action::VAULT_RESTORE,
    Action::VOCABULARY,
    Action::GRANT,
    Action::REVOKE,
];

/// What tells of the trail itself.
pub(super) const INTEGRITY: [Action; 8] = [
    Action::VAULT_CREATE,
    Action::VAULT_START,
    Action::VAULT_STOP,
    Action::VAULT_RESTORE,
    Action::INTEGRITY,
    Action::SIGNING_ROTATE,
    Action::VOCABULARY,
    Action::SEAL,
];

/// Facts that say nothing to a reader: they are for verifiers.
const FOR_VERIFIERS: [&str; 8] =
    ["keyring_digest", "state_digest", "token", "root", "entries_digest", "from", "to", "first"];

pub(super) struct PrivilegedFold {
    people: BTreeMap<String, u64>,
    actions: BTreeMap<String, u64>,
    rows: Rows,
}

impl Default for PrivilegedFold {
    fn default() -> Self {
        let rows = Rows::new(&["when", "who", "what", "outcome", "about", "reason", "facts"]);
        Self { people: BTreeMap::new(), actions: BTreeMap::new(), rows }
    }
}

impl Fold for PrivilegedFold {
    fn add(&mut self, entry: &EntryView, _: &[Item]) -> bool {
        // A re-encryption is one entry a range; only what a person asked for is listed.
        if entry.action == Action::KEY_REENCRYPT && entry.actor.id == "phivault" {
            return true;
        }
        // Plans that were listed or looked at.
        if entry.action == Action::RESTORE_PLAN && !entry.facts.contains_key("stage") {
            return true;
        }
        super::count(&mut self.people, &entry.actor.id);
        super::count(&mut self.actions, entry.action.name());
        let about = entry.record.as_ref().map(|it| format!("{} {}", it.kind, it.id));
        self.rows.push(vec![
            Cell::Time(time_of(entry)),
            Cell::text(&entry.actor.id),
            Cell::text(entry.action.name()),
            Cell::text(entry.outcome.name()),
            Cell::optional(about.as_deref()),
            Cell::text(&entry.reason.code),
            Cell::text(facts(entry)),
        ]);
        true
    }

    fn sections(mut self: Box<Self>) -> Vec<Section> {
        self.rows.rows.sort_by_key(|row| match row[0] {
            Cell::Time(time) => time,
            _ => Timestamp::default(),
        });
        vec![
            counts_table("By person", &["who", "entries"], &self.people),
            counts_table("By action", &["what", "entries"], &self.actions),
            self.rows.section("Each"),
        ]
    }
}

pub(super) struct IntegrityFold {
    seals: u64,
    segments: u64,
    sealed_to: Option<String>,
    findings: Rows,
    checks: Rows,
    rows: Rows,
}

impl Default for IntegrityFold {
    fn default() -> Self {
        let rows = Rows::new(&["when", "what", "facts"]);
        let findings = Rows::new(&["when", "what was altered"]);
        let checks = Rows::new(&["when", "entries gone through", "findings", "cosigned by witnesses up to"]);
        Self { seals: 0, segments: 0, sealed_to: None, findings, checks, rows }
    }
}

impl Fold for IntegrityFold {
    fn add(&mut self, entry: &EntryView, _: &[Item]) -> bool {
        if entry.action == Action::SEAL {
            self.seals += 1;
            self.sealed_to = entry.facts.get("to").cloned();
            return true;
        }
        let at = Cell::Time(time_of(entry));
        if let Some(checked) = entry.facts.get("checked_entries") {
            let fact = |name: &str| Cell::optional(entry.facts.get(name).map(String::as_str));
            self.checks.push(vec![at, Cell::text(checked), fact("findings"), fact("witnessed_size")]);
            return true;
        }
        if let Some(seconds) = entry.facts.get("clock_jump_seconds") {
            let what = format!("the machine's clock was set by {seconds} s");
            self.rows.push(vec![at, Cell::text(what), Cell::text("")]);
            return true;
        }
        if entry.facts.contains_key("index_postings") {
            self.segments += 1;
            return true;
        }
        if entry.outcome != Outcome::Success || entry.action == Action::INTEGRITY {
            let index = entry.facts.get("damaged_index").map(|n| format!("the index of segment {n}"));
            let damaged = entry.facts.get("damaged").cloned().or(index).unwrap_or_default();
            self.findings.push(vec![at, Cell::text(damaged)]);
            return true;
        }
        self.rows.push(vec![at, Cell::text(entry.action.name()), Cell::text(facts(entry))]);
        true
    }

    fn sections(self: Box<Self>) -> Vec<Section> {
        let upto = self.sealed_to.map_or_else(String::new, |to| format!(", the last one up to position {to}"));
        let seals = format!("{} seal entries commit to the sealed values of the period{upto}.", self.seals);
        let segments = format!("{} entries name the digests of the index of a full segment.", self.segments);
        vec![
            Section::text("Seals", vec![seals, segments]),
            self.checks.section("Checks").with_text(
                "The vault goes through all its entries, values and index again and again, and records one such pass a day.",
            ),
            self.findings.section("Damage that was found"),
            self.rows.section("Starts, stops, restores, keys, rules and the clock"),
        ]
    }
}

fn facts(entry: &EntryView) -> String {
    let told = entry.facts.iter().filter(|(name, _)| {
        !FOR_VERIFIERS.contains(&name.as_str()) && !name.starts_with("state_digest/") && !name.contains("verifier_key")
    });
    told.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", ")
}
