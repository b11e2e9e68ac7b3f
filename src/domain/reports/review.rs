//! Activity review (45 CFR 164.308(a)(1)(ii)(D)): what must be looked at, what was decided of it, and what nobody looked at.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::super::action::{Action, Kind, Outcome};
use super::super::document::{Cell, Section};
use super::super::entry::EntryView;
use super::super::rules::Item;
use super::super::time::Timestamp;
use super::{Fold, MAX_ROWS, Params, Rows, time_of};

/// Days within which what is in the queue should be reviewed.
pub(super) const REVIEW_DAYS: i64 = 7;
/// What a review may come to.
pub const OUTCOMES: [&str; 4] = ["appropriate", "inappropriate", "unclear", "escalated"];

/// What was decided of an entry.
#[derive(Clone)]
pub(super) struct Review {
    pub(super) by: String,
    pub(super) at: Timestamp,
    pub(super) outcome: String,
}

/// What a review entry says, by the entries it is about.
pub(super) fn reviews(entry: &EntryView) -> impl Iterator<Item = (Uuid, Review)> {
    let outcome = entry.facts.get("outcome").cloned().unwrap_or_default();
    let review = Review { by: entry.actor.id.clone(), at: entry.received_at, outcome };
    let about = entry.related.iter().filter(|it| it.kind == "Entry");
    about.filter_map(move |it| Some((Uuid::parse_str(&it.id).ok()?, review.clone())))
}

pub(super) struct ReviewFold {
    params: Params,
    queue: Vec<(Uuid, Timestamp, Vec<Cell>)>,
    by_cause: BTreeMap<String, u64>,
    reviews: BTreeMap<Uuid, Vec<Review>>,
    newest: Timestamp,
    left_out: u64,
}

impl ReviewFold {
    pub(super) fn new(params: &Params) -> Self {
        Self {
            params: params.clone(),
            queue: Vec::new(),
            by_cause: BTreeMap::new(),
            reviews: BTreeMap::new(),
            newest: Timestamp::default(),
            left_out: 0,
        }
    }
}

/// Why an entry must be looked at.
fn causes(entry: &EntryView) -> Vec<String> {
    let mut causes = Vec::new();
    let mut add = |is: bool, cause: &str| causes.extend(is.then(|| cause.to_owned()));
    add(entry.reason.break_glass, "break-the-glass");
    add(entry.outcome == Outcome::Denied, "denied");
    add(!entry.sensitivity.is_empty(), "specially protected");
    add(entry.action.kind() == Kind::Privilege, "privilege change");
    add(entry.action == Action::EXPORT || entry.action == Action::PRINT, "left the system");
    causes.extend(entry.marks.iter().map(|it| it.split(':').next().unwrap_or(it).replace('_', " ")));
    causes
}

impl Fold for ReviewFold {
    fn add(&mut self, entry: &EntryView, _: &[Item]) -> bool {
        self.newest = self.newest.max(entry.received_at);
        if entry.action == Action::REVIEW {
            reviews(entry).for_each(|(id, review)| self.reviews.entry(id).or_default().push(review));
            return true;
        }
        let time = time_of(entry);
        if entry.action.kind() == Kind::Vault || !self.params.covers(time) {
            return true;
        }
        let causes = causes(entry);
        if causes.is_empty() {
            return true;
        }
        causes.iter().for_each(|it| super::count(&mut self.by_cause, it));
        if self.queue.len() == MAX_ROWS {
            self.left_out += 1;
            return true;
        }
        let row = vec![
            Cell::Time(time),
            Cell::text(&entry.actor.id),
            Cell::optional(entry.patient.as_ref().map(|it| it.id.as_str())),
            Cell::text(entry.action.name()),
            Cell::text(&entry.reason.code),
            Cell::text(causes.join(", ")),
            Cell::text(entry.id.to_string()),
        ];
        self.queue.push((entry.id, time, row));
        true
    }

    fn sections(self: Box<Self>) -> Vec<Section> {
        let mut waiting =
            Rows::new(&["when", "user", "patient", "action", "reason", "because of", "entry", "review due", "overdue"]);
        let mut done = Rows::new(&[
            "when",
            "user",
            "patient",
            "action",
            "reason",
            "because of",
            "entry",
            "reviewed by",
            "at",
            "outcome",
            "before that",
        ]);
        let mut overdue = 0_u64;
        for (id, time, mut row) in self.queue {
            match self.reviews.get(&id).map(Vec::as_slice) {
                Some([earlier @ .., review]) => {
                    let one = |it: &Review| format!("{} by {}", it.outcome, it.by);
                    let before = earlier.iter().map(one).collect::<Vec<_>>().join(", ");
                    row.extend([Cell::text(&review.by), Cell::Time(review.at), Cell::text(&review.outcome)]);
                    row.push(if before.is_empty() { Cell::None } else { Cell::text(before) });
                    done.push(row);
                }
                Some([]) | None => {
                    let due = time.plus_seconds(REVIEW_DAYS * 86_400);
                    let late = due < self.newest;
                    overdue += u64::from(late);
                    row.extend([Cell::Time(due), if late { Cell::text("overdue") } else { Cell::None }]);
                    waiting.push(row);
                }
            }
        }
        waiting.left_out = self.left_out;
        let summary = format!(
            "{} entries wait for review, {overdue} of them for more than {REVIEW_DAYS} days; {} were reviewed.",
            waiting.rows.len(),
            done.rows.len()
        );
        vec![
            Section::text("In short", vec![summary]),
            super::counts_table("Because of", &["cause", "entries"], &self.by_cause),
            waiting.section("Not reviewed"),
            done.section("Reviewed"),
        ]
    }
}
