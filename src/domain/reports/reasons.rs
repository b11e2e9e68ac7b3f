//! How reasons are given: which, with or without a note, how rare, and whether role and reason fit each other.

use std::collections::BTreeMap;

use super::super::action::Kind;
use super::super::document::{Cell, Chart, Section};
use super::super::entry::EntryView;
use super::super::rules::Item;
use super::{Fold, MAX_ROWS, percent, top};

/// A code that a role uses in fewer than this many of a thousand entries is rare for it.
const RARE_PER_MILLE: u64 = 10;
/// Entries of a role below which nothing can be called rare.
const ENOUGH: u64 = 100;

#[derive(Default)]
pub(super) struct ReasonsFold {
    codes: BTreeMap<String, Code>,
    /// By role and code.
    roles: BTreeMap<String, BTreeMap<String, u64>>,
}

#[derive(Default)]
struct Code {
    total: u64,
    notes: u64,
    changes: u64,
    without_change_code: u64,
}

impl Fold for ReasonsFold {
    fn add(&mut self, entry: &EntryView, _: &[Item]) -> bool {
        if entry.action.kind() == Kind::Vault && entry.source == "phivault" && entry.actor.id == "phivault" {
            return true;
        }
        let code = self.codes.entry(entry.reason.code.clone()).or_default();
        code.total += 1;
        code.notes += u64::from(entry.reason.note_given);
        code.changes += u64::from(entry.action.is_change());
        code.without_change_code += u64::from(entry.action.is_change() && entry.reason.change.is_none());
        let role = self.roles.entry(entry.actor.role.clone().unwrap_or_else(|| "no role".into())).or_default();
        super::count(role, &entry.reason.code);
        self.roles.len() < 100_000
    }

    fn sections(self: Box<Self>) -> Vec<Section> {
        let totals: BTreeMap<String, u64> = self.codes.iter().map(|(code, it)| (code.clone(), it.total)).collect();
        let mut codes: Vec<_> = self.codes.into_iter().collect();
        codes.sort_by(|a, b| b.1.total.cmp(&a.1.total).then_with(|| a.0.cmp(&b.0)));
        let rows = codes.into_iter().map(|(code, it)| {
            vec![
                Cell::text(code),
                Cell::Count(it.total),
                Cell::Count(it.total - it.notes),
                percent(it.notes, it.total),
                Cell::Count(it.changes),
                Cell::Count(it.without_change_code),
            ]
        });
        let columns = ["reason", "entries", "without a note", "notes %", "changes", "changes without a change code"];
        let codes = Section::table("Reasons", &columns, rows.collect());
        let mut odd = Vec::new();
        for (role, codes) in &self.roles {
            let whole: u64 = codes.values().sum();
            for (code, count) in codes {
                if whole >= ENOUGH && count * 1_000 < whole * RARE_PER_MILLE && odd.len() < MAX_ROWS {
                    odd.push(vec![Cell::text(role), Cell::text(code), Cell::Count(*count), Cell::Count(whole)]);
                }
            }
        }
        let odd = Section::table("Role and reason that seldom go together", &["role", "reason", "entries", "of the role"], odd)
            .with_text(format!(
                "A reason in fewer than {RARE_PER_MILLE} of 1,000 entries of a role with at least {ENOUGH} entries: a mistake, or worth a question."
            ));
        vec![Section::chart("By reason", Chart::Bars { counts: top(&totals, 15) }), codes, odd]
    }
}
