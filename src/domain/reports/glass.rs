//! Break-the-glass: each use from its first entry to its last, what was done with it, and whether anybody reviewed it.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::super::action::{Action, Kind};
use super::super::document::{Cell, Section};
use super::super::entry::EntryView;
use super::super::rules::Item;
use super::super::time::Timestamp;
use super::review::{REVIEW_DAYS, Review, reviews};
use super::{Fold, Params, Rows, time_of};

/// An access of the same user to the same patient this long after the last one still belongs to it, microseconds.
const LINKED: i64 = 4 * 3_600_000_000;

/// The most entries of users who broke the glass that are looked at.
const MAX_EVENTS: usize = 3_000_000;

pub(super) struct GlassFold {
    params: Params,
    /// Users and patients of break-the-glass, which are looked for first, and all their entries.
    pairs: BTreeMap<(String, String), Vec<Event>>,
    events: usize,
    reviews: BTreeMap<Uuid, Review>,
}

struct Event {
    at: Timestamp,
    id: Uuid,
    role: Option<String>,
    /// The reason, if it is break-the-glass.
    glass: Option<String>,
    noted: bool,
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
        Self { params: params.clone(), pairs: BTreeMap::new(), events: 0, reviews: BTreeMap::new() }
    }

    /// The uses that began in the period, by the time things happened: entries may come in in another order.
    fn uses(&mut self) -> Vec<Use> {
        let mut uses: Vec<Use> = Vec::new();
        for ((actor, patient), events) in &mut self.pairs {
            events.sort_by_key(|it| (it.at, it.glass.is_none(), it.id));
            let mut open = None;
            for it in events {
                let current: Option<&mut Use> = open.and_then(|n: usize| uses.get_mut(n));
                match (current.filter(|one| it.at.0 - one.last.0 <= LINKED), &it.glass) {
                    (None, None) => {}
                    (Some(one), None) => {
                        one.linked += 1;
                        one.last = it.at;
                    }
                    (Some(one), Some(_)) => {
                        one.ids.push(it.id);
                        one.noted |= it.noted;
                        one.last = it.at;
                    }
                    (None, Some(reason)) => {
                        open = Some(uses.len());
                        uses.push(Use {
                            first: it.at,
                            last: it.at,
                            actor: actor.clone(),
                            role: it.role.clone(),
                            patient: patient.clone(),
                            reason: reason.clone(),
                            noted: it.noted,
                            linked: 0,
                            ids: vec![it.id],
                        });
                    }
                }
            }
        }
        uses.retain(|it| self.params.covers(it.first));
        uses.sort_by_key(|it| (it.first, it.ids[0]));
        uses
    }
}

fn pair(entry: &EntryView) -> (String, String) {
    (entry.actor.id.clone(), entry.patient.as_ref().map_or_else(String::new, |it| it.id.clone()))
}

impl Fold for GlassFold {
    fn prepare(&mut self, entry: &EntryView) {
        self.pairs.entry(pair(entry)).or_default();
    }

    fn add(&mut self, entry: &EntryView, _: &[Item]) -> bool {
        if entry.action == Action::REVIEW {
            self.reviews.extend(reviews(entry));
            return true;
        }
        if entry.action.kind() == Kind::Vault {
            return true;
        }
        if let Some(events) = self.pairs.get_mut(&pair(entry)) {
            events.push(Event {
                at: time_of(entry),
                id: entry.id,
                role: entry.actor.role.clone(),
                glass: entry.reason.break_glass.then(|| entry.reason.code.clone()),
                noted: entry.reason.note_given,
            });
            self.events += 1;
        }
        self.events <= MAX_EVENTS
    }

    fn sections(mut self: Box<Self>) -> Vec<Section> {
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
            "reviewed",
            "by",
            "outcome",
            "first entry",
        ]);
        let (uses, mut open, mut users) = (self.uses(), 0_u64, BTreeMap::new());
        for it in &uses {
            let reviewed: Vec<&Review> = it.ids.iter().filter_map(|id| self.reviews.get(id)).collect();
            let newest = reviewed.iter().max_by_key(|it| it.at);
            open += u64::from(reviewed.len() < it.ids.len());
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
                Cell::text(format!("{} of {}", reviewed.len(), it.ids.len())),
                Cell::optional(newest.map(|it| it.by.as_str())),
                Cell::optional(newest.map(|it| it.outcome.as_str())),
                Cell::text(it.ids[0].to_string()),
            ]);
        }
        let summary = format!(
            "{} uses by {} users; {open} are not wholly reviewed. A use goes on while the same user touches the same patient's record within four hours.",
            uses.len(),
            users.len()
        );
        vec![
            Section::text("In short", vec![summary]),
            super::counts_table("By user", &["user", "uses"], &users),
            rows.section("Each use"),
        ]
    }
}
