//! Break-the-glass: each use from its first entry to its last, what was done with it, and whether anybody reviewed it.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::super::action::{Action, Kind};
use super::super::document::{Cell, Section};
use super::super::entry::EntryView;
use super::super::rules::Item;
use super::super::time::Timestamp;
use super::review::{REVIEW_DAYS, Review, reviews};
use super::{Fold, MAX_ROWS, Params, Rows, time_of};

/// An access of the same user to the same patient this long after the last one still belongs to it, microseconds.
const LINKED: u64 = 4 * 3_600_000_000;

pub(super) struct GlassFold {
    params: Params,
    /// The newest use by user and patient, as an index into `uses`.
    open: BTreeMap<(String, String), usize>,
    uses: Vec<Use>,
    reviews: BTreeMap<Uuid, Review>,
}

struct Use {
    first: Timestamp,
    last: Timestamp,
    actor: String,
    role: Option<String>,
    patient: String,
    reason: String,
    noted: bool,
    linked: u64,
    ids: Vec<Uuid>,
}

impl GlassFold {
    pub(super) fn new(params: &Params) -> Self {
        Self { params: params.clone(), open: BTreeMap::new(), uses: Vec::new(), reviews: BTreeMap::new() }
    }
}

impl Fold for GlassFold {
    fn add(&mut self, entry: &EntryView, _: &[Item]) -> bool {
        if entry.action == Action::REVIEW {
            self.reviews.extend(reviews(entry));
            return true;
        }
        if entry.action.kind() == Kind::Vault {
            return true;
        }
        let time = time_of(entry);
        let patient = entry.patient.as_ref().map_or_else(String::new, |it| it.id.clone());
        let who = (entry.actor.id.clone(), patient.clone());
        let open = self.open.get(&who).copied().filter(|n| time.0.abs_diff(self.uses[*n].last.0) <= LINKED);
        if let Some(n) = open {
            let it = &mut self.uses[n];
            it.last = it.last.max(time);
            if entry.reason.break_glass {
                it.ids.push(entry.id);
                it.noted |= entry.reason.note_given;
            } else {
                it.linked += 1;
            }
        } else if entry.reason.break_glass && self.params.covers(time) {
            self.open.insert(who, self.uses.len());
            self.uses.push(Use {
                first: time,
                last: time,
                actor: entry.actor.id.clone(),
                role: entry.actor.role.clone(),
                patient,
                reason: entry.reason.code.clone(),
                noted: entry.reason.note_given,
                linked: 0,
                ids: vec![entry.id],
            });
        }
        self.uses.len() < MAX_ROWS
    }

    fn sections(self: Box<Self>) -> Vec<Section> {
        let mut rows = Rows::new(&[
            "from",
            "to",
            "user",
            "role",
            "patient",
            "reason",
            "note",
            "uses",
            "linked accesses",
            "review due",
            "reviewed by",
            "outcome",
            "first entry",
        ]);
        let (mut open, mut users) = (0_u64, BTreeMap::new());
        for it in &self.uses {
            let review = it.ids.iter().find_map(|id| self.reviews.get(id));
            open += u64::from(review.is_none());
            super::count(&mut users, &it.actor);
            rows.push(vec![
                Cell::Time(it.first),
                Cell::Time(it.last),
                Cell::text(&it.actor),
                Cell::optional(it.role.as_deref()),
                Cell::text(&it.patient),
                Cell::text(&it.reason),
                Cell::text(if it.noted { "yes" } else { "no" }),
                Cell::Count(it.ids.len() as u64),
                Cell::Count(it.linked),
                Cell::Time(it.first.plus_seconds(REVIEW_DAYS * 86_400)),
                Cell::optional(review.map(|it| it.by.as_str())),
                Cell::optional(review.map(|it| it.outcome.as_str())),
                Cell::text(it.ids[0].to_string()),
            ]);
        }
        let summary = format!(
            "{} uses by {} users; {open} are not reviewed. A use goes on while the same user touches the same patient's record within four hours.",
            self.uses.len(),
            users.len()
        );
        vec![
            Section::text("In short", vec![summary]),
            super::counts_table("By user", &["user", "uses"], &users),
            rows.section("Each use"),
        ]
    }
}
