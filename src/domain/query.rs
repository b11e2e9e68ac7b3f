//! What can be asked of the trail: the filter, its limits, and whether an entry meets it.

use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::action::{Action, Outcome};
use super::canonical::Writer;
use super::fields::MARKS;
use super::index::{Dimension, Term};
use super::issue::{Issue, Issues};
use super::meta::{Meta, Patient, is_patient_type};
use super::rules::identifier;
use super::time::Timestamp;

/// The largest page.
pub const MAX_LIMIT: usize = 1000;
/// The page if none is asked for.
pub const DEFAULT_LIMIT: usize = 100;

/// A search as it is asked: every part is optional and all given parts must hold.
#[derive(Deserialize, IntoParams, ToSchema, Default, Clone)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct QueryIn {
    /// Who did it.
    pub actor: Option<String>,
    /// Whose record it was; entries that name the patient beside another are found too.
    pub patient: Option<String>,
    /// The type of the record.
    pub record_type: Option<String>,
    /// The id of the record; needs `record_type`.
    pub record_id: Option<String>,
    /// A changed field.
    pub field: Option<String>,
    /// The action.
    pub action: Option<String>,
    /// success, failure or denied.
    pub outcome: Option<String>,
    /// The reason code; a standard code also finds the site codes that map to it.
    pub reason: Option<String>,
    /// The category.
    pub category: Option<String>,
    /// The session.
    pub session: Option<String>,
    /// The submitting application.
    pub source: Option<String>,
    /// true: only break-the-glass; false: none of it.
    pub break_glass: Option<bool>,
    /// Only entries with this mark: large_change or high_value.
    pub mark: Option<String>,
    /// Not before this time (RFC 3339).
    pub from: Option<String>,
    /// Before this time.
    pub to: Option<String>,
    /// Which time `from` and `to` mean: received (default) or occurred.
    pub time: Option<String>,
    /// newest (default) or oldest first, by sequence.
    pub order: Option<String>,
    /// Entries a page, up to 1,000 (default 100).
    pub limit: Option<usize>,
    /// `next` of the page before; everything else must be as it was.
    pub cursor: Option<String>,
}

/// Which of an entry's times is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TimeAxis {
    /// When the vault received it.
    #[default]
    Received,
    /// When it happened, as the application said; receipt if it did not.
    Occurred,
}

/// A checked filter.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Who did it.
    pub actor: Option<String>,
    /// Whose record: the forms its id may have on disk (one in clear, or one per blind index version). `Some(vec![])` finds nothing.
    pub patient: Option<Vec<Patient>>,
    /// The type of the record.
    pub record_type: Option<String>,
    /// The ids the record may have on disk.
    pub record_id: Option<Vec<String>>,
    /// A changed field.
    pub field: Option<String>,
    /// The action.
    pub action: Option<Action>,
    /// The outcome.
    pub outcome: Option<Outcome>,
    /// The reason code.
    pub reason: Option<String>,
    /// The category.
    pub category: Option<String>,
    /// The session.
    pub session: Option<String>,
    /// The submitting application.
    pub source: Option<String>,
    /// Whether break-the-glass.
    pub break_glass: Option<bool>,
    /// Only with this mark.
    pub mark: Option<&'static str>,
    /// Not before.
    pub from: Option<Timestamp>,
    /// Before.
    pub to: Option<Timestamp>,
    /// Which time is meant.
    pub time: TimeAxis,
}

/// A checked query: filter, order and size of a page.
#[derive(Clone, Debug)]
pub struct Query {
    /// The filter.
    pub filter: Filter,
    /// Oldest first.
    pub oldest_first: bool,
    /// Entries a page.
    pub limit: usize,
    /// Where to go on.
    pub cursor: Option<String>,
}

impl QueryIn {
    /// Checks the query. `patient` holds the forms a patient id may have on disk; `forms` makes them.
    ///
    /// # Errors
    /// Everything that is wrong, each with the name of the parameter.
    pub fn check(self, forms: impl Fn(&str) -> Vec<Patient>) -> Result<Query, Vec<Issue>> {
        let mut issues = Issues::default();
        let record_is_patient = self.record_type.as_deref().is_some_and(is_patient_type);
        if self.record_id.is_some() && self.record_type.is_none() {
            issues.add("record_id", "missing", "A record id needs its record_type beside it.");
        }
        let mut text = |name: &str, value: Option<String>| match identifier(name, value?) {
            Ok(value) => Some(value),
            Err(found) => {
                found.into_iter().for_each(|it| issues.add(it.pointer, it.code, it.detail));
                None
            }
        };
        let mut filter = Filter {
            actor: text("actor", self.actor),
            patient: text("patient", self.patient).map(|id| forms(&id)),
            record_type: text("record_type", self.record_type),
            record_id: text("record_id", self.record_id)
                .map(|id| if record_is_patient { forms(&id).iter().map(Patient::id_text).collect() } else { vec![id] }),
            field: text("field", self.field),
            reason: text("reason", self.reason),
            category: text("category", self.category),
            session: text("session", self.session),
            source: text("source", self.source),
            break_glass: self.break_glass,
            ..Filter::default()
        };
        filter.action = pick(&mut issues, "action", self.action, Action::parse, "an action such as read or update");
        filter.outcome = pick(&mut issues, "outcome", self.outcome, Outcome::parse, "success, failure or denied");
        let mark = |name: &str| MARKS.into_iter().find(|it| *it == name);
        filter.mark = pick(&mut issues, "mark", self.mark, mark, "large_change or high_value");
        filter.from =
            pick(&mut issues, "from", self.from, Timestamp::parse, "an RFC 3339 time such as 2026-11-01T00:00:00Z");
        filter.to = pick(&mut issues, "to", self.to, Timestamp::parse, "an RFC 3339 time such as 2026-12-01T00:00:00Z");
        if let (Some(from), Some(to)) = (filter.from, filter.to)
            && to <= from
        {
            issues.add("to", "time_order", "The end (to) must lie after the beginning (from).");
        }
        let axis = |name: &str| {
            [("received", TimeAxis::Received), ("occurred", TimeAxis::Occurred)]
                .into_iter()
                .find(|it| it.0 == name)
                .map(|it| it.1)
        };
        filter.time = pick(&mut issues, "time", self.time, axis, "received or occurred").unwrap_or_default();
        let order =
            |name: &str| [("newest", false), ("oldest", true)].into_iter().find(|it| it.0 == name).map(|it| it.1);
        let oldest_first = pick(&mut issues, "order", self.order, order, "newest or oldest").unwrap_or(false);
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            issues.add("limit", "limit_invalid", format!("A page holds 1 to {MAX_LIMIT} entries."));
        }
        issues.finish(Query { filter, oldest_first, limit, cursor: self.cursor })
    }

    /// What was asked, as text for the sealed part of the entry that records the query.
    pub fn describe(&self) -> Vec<(&'static str, String)> {
        let parts = [
            ("actor", &self.actor),
            ("patient", &self.patient),
            ("record_type", &self.record_type),
            ("record_id", &self.record_id),
            ("field", &self.field),
            ("action", &self.action),
            ("outcome", &self.outcome),
            ("reason", &self.reason),
            ("category", &self.category),
            ("session", &self.session),
            ("source", &self.source),
            ("mark", &self.mark),
            ("from", &self.from),
            ("to", &self.to),
            ("time", &self.time),
            ("order", &self.order),
        ];
        let mut out: Vec<_> = parts.into_iter().filter_map(|(name, it)| Some((name, it.clone()?))).collect();
        out.extend(self.break_glass.map(|it| ("break_glass", it.to_string())));
        out
    }
}

fn pick<T>(
    issues: &mut Issues,
    name: &str,
    text: Option<String>,
    parse: impl Fn(&str) -> Option<T>,
    wanted: &str,
) -> Option<T> {
    let parsed = parse(text.as_deref()?);
    if parsed.is_none() {
        issues.add(name, "parameter_invalid", format!("This parameter is {wanted}."));
    }
    parsed
}

impl Filter {
    /// The terms an entry must have: one of each inner list. Empty when nothing indexed is asked for.
    pub fn terms(&self) -> Vec<Vec<Term>> {
        let one =
            |dimension, value: &Option<String>| value.as_ref().map(|it| vec![Term::new(dimension, &[it.as_bytes()])]);
        let mut all = vec![
            one(Dimension::Actor, &self.actor),
            one(Dimension::Field, &self.field),
            one(Dimension::Reason, &self.reason),
            one(Dimension::Category, &self.category),
            one(Dimension::Session, &self.session),
            one(Dimension::Source, &self.source),
            self.action.map(|it| vec![Term::new(Dimension::Action, &[it.name().as_bytes()])]),
            self.outcome
                .filter(|it| *it != Outcome::Success)
                .map(|it| vec![Term::new(Dimension::Outcome, &[it.name().as_bytes()])]),
            self.break_glass.filter(|it| *it).map(|_| vec![Term::new(Dimension::BreakGlass, &[])]),
            self.mark.map(|it| vec![Term::new(Dimension::Mark, &[it.as_bytes()])]),
        ];
        all.push(self.patient.as_ref().map(|forms| {
            let either = [Dimension::Patient, Dimension::OtherPatient];
            forms.iter().flat_map(|form| either.map(|dimension| Term::patient(dimension, form))).collect()
        }));
        all.push(match (&self.record_type, &self.record_id) {
            (Some(kind), Some(ids)) => {
                Some(ids.iter().map(|id| Term::new(Dimension::Record, &[kind.as_bytes(), id.as_bytes()])).collect())
            }
            (Some(kind), None) => Some(vec![Term::new(Dimension::RecordType, &[kind.as_bytes()])]),
            (None, _) => None,
        });
        all.into_iter().flatten().collect()
    }

    /// Whether an entry meets the filter.
    pub fn matches(&self, meta: &Meta, received_at: Timestamp) -> bool {
        let is =
            |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|wanted| found == Some(wanted));
        let time = match self.time {
            TimeAxis::Received => received_at,
            TimeAxis::Occurred => meta.occurred_at.unwrap_or(received_at),
        };
        is(&self.actor, Some(&meta.actor.id))
            && self.patient.as_ref().is_none_or(|forms| {
                let is = |form: &Patient| {
                    meta.patient.as_ref() == Some(form) || meta.other_patients().any(|it| it == form.borrowed())
                };
                forms.iter().any(is)
            })
            && is(&self.record_type, meta.record.as_ref().map(|it| it.kind.as_str()))
            && self.record_id.as_ref().is_none_or(|ids| meta.record.as_ref().is_some_and(|it| ids.contains(&it.id)))
            && self.field.as_ref().is_none_or(|field| meta.fields.contains(field))
            && self.action.is_none_or(|action| action == meta.action)
            && self.outcome.is_none_or(|outcome| outcome == meta.outcome)
            && self
                .reason
                .as_ref()
                .is_none_or(|code| *code == meta.reason.code || Some(code) == meta.reason.standard.as_ref())
            && is(&self.category, meta.category.as_deref())
            && is(&self.session, meta.context.session_id.as_deref())
            && is(&self.source, Some(&meta.source))
            && self.break_glass.is_none_or(|wanted| wanted == meta.reason.break_glass)
            && self.mark.is_none_or(|mark| meta.action.is_change() && meta.fact(mark).is_some())
            && self.from.is_none_or(|from| time >= from)
            && self.to.is_none_or(|to| time < to)
    }

    /// The filter as bytes, so that a cursor can be bound to it.
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = Writer::new(1);
        out.optional(1, self.actor.as_deref());
        let forms: Option<Vec<_>> = self.patient.as_ref().map(|forms| forms.iter().map(Patient::id_text).collect());
        out.optional(2, forms.map(|forms| forms.join(" ")).as_deref());
        out.optional(3, self.record_type.as_deref());
        out.optional(4, self.record_id.as_ref().map(|ids| ids.join(" ")).as_deref());
        out.optional(5, self.field.as_deref());
        out.optional(6, self.action.map(Action::name));
        out.optional(7, self.outcome.map(Outcome::name));
        out.optional(8, self.reason.as_deref());
        out.optional(9, self.category.as_deref());
        out.optional(10, self.session.as_deref());
        out.optional(11, self.source.as_deref());
        out.optional(12, self.break_glass.map(|it| if it { "true" } else { "false" }));
        out.optional(13, self.from.map(|it| it.to_string()).as_deref());
        out.optional(14, self.to.map(|it| it.to_string()).as_deref());
        out.bytes(15, &[u8::from(self.time == TimeAxis::Occurred)]);
        out.optional(16, self.mark);
        out.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(id: &str) -> Vec<Patient> {
        vec![Patient::Plain(id.to_owned())]
    }

    #[test]
    fn every_wrong_parameter_is_named() {
        let query = QueryIn {
            action: Some("fly".into()),
            outcome: Some("maybe".into()),
            from: Some("yesterday".into()),
            time: Some("later".into()),
            order: Some("random".into()),
            limit: Some(1001),
            record_id: Some("c-1".into()),
            actor: Some("a\u{0}b".into()),
            ..QueryIn::default()
        };
        let found: Vec<_> = query.check(plain).unwrap_err().into_iter().map(|it| it.pointer).collect();
        for name in ["action", "outcome", "from", "time", "order", "limit", "record_id", "actor"] {
            assert!(found.iter().any(|it| it == name), "{name} in {found:?}");
        }
    }

    #[test]
    fn different_filters_have_different_bytes() {
        let filter = |query: QueryIn| query.check(plain).unwrap().filter.canonical();
        let actor = filter(QueryIn { actor: Some("a".into()), ..QueryIn::default() });
        let source = filter(QueryIn { source: Some("a".into()), ..QueryIn::default() });
        assert_ne!(actor, source);
        assert_ne!(actor, filter(QueryIn::default()));
        let marked = filter(QueryIn { mark: Some("large_change".into()), ..QueryIn::default() });
        assert_ne!(marked, filter(QueryIn::default()));
    }
}
