//! From a submission to a draft: every rule an entry must meet, checked at once, before anything is sealed or stored.

use uuid::Uuid;

use super::action::Action;
use super::check::Check;
use super::fields::Fields;
use super::issue::Issue;
use super::meta::{Meta, Reason};
use super::reason::Vocabulary;
use super::retention::{Keep, Retention};
use super::submission::{ReasonIn, Submission};
use super::time::Timestamp;
use super::value::Phi;

/// The most changes of one entry.
pub const MAX_CHANGES: usize = 200;
/// The largest canonical form of one value, in bytes.
pub const MAX_VALUE_BYTES: usize = 64 * 1024;
/// The longest id, in bytes.
pub const MAX_ID_BYTES: usize = 256;
/// The longest session id or user agent, in bytes.
pub const MAX_CONTEXT_BYTES: usize = 1_024;
/// The longest note or other sealed text, in bytes.
pub const MAX_TEXT_BYTES: usize = 8 * 1024;
/// The most related things, sensitivity labels or further context keys.
pub const MAX_LIST: usize = 32;
/// The largest canonical metadata, in bytes, so that a leaf stays below the 65,535 of C2SP tlog-tiles.
pub const MAX_META_BYTES: usize = 60_000;

/// A checked entry, ready to be sealed.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The plaintext metadata.
    pub meta: Meta,
    /// What will be sealed, by rising path.
    pub items: Vec<Item>,
    /// How long that is kept.
    pub keep: Keep,
}

/// One value to be sealed, and its place in the entry, such as `changes/0/old`.
#[derive(Clone, Debug)]
pub struct Item {
    /// The place.
    pub path: String,
    /// The value.
    pub value: Phi,
}

/// Whether a change whose old value equals its new one is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoOp {
    /// It is kept: a second measurement of the same value is an event.
    Keep,
    /// It is refused.
    Reject,
}

/// What a site has decided about its entries.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Whether an action on a record must name the patient.
    pub require_patient: bool,
    /// How far in the future an application's clock may be, in seconds.
    pub max_skew_seconds: i64,
    /// What becomes of a change that changes nothing.
    pub no_op: NoOp,
    /// How long values are kept.
    pub retention: Retention,
    /// What is known of fields.
    pub fields: Fields,
}

/// How a submission got here.
pub struct Arrival<'a> {
    /// The application that the token names.
    pub source: &'a str,
    /// The time now.
    pub now: Timestamp,
    /// The time that it is received at: not before that of any entry, though the clock may be.
    pub received: Timestamp,
    /// The id it gets if it brings none.
    pub fresh_id: Uuid,
}

/// Checks a submission and makes a draft of it.
///
/// # Errors
/// Everything that is wrong with it, up to [`super::issue::Issues::MAX`] findings.
pub fn draft(
    submission: Submission,
    arrival: &Arrival<'_>,
    rules: &Rules,
    vocabulary: &Vocabulary,
) -> Result<Draft, Vec<Issue>> {
    let mut check = Check::default();
    let id = check.uuid(submission.id.as_deref(), arrival.fresh_id);
    let action = check.action(submission.action.as_deref());
    let outcome = check.outcome(submission.outcome.as_deref());
    let latest = arrival.now.plus_seconds(rules.max_skew_seconds);
    let (occurred_at, ended_at, effective_at) = check.times(&submission, latest);
    let (born, class) = check.keep(&submission, rules, arrival.now);
    let actor = check.actor(submission.actor);
    let patient = submission.patient.and_then(|it| check.patient(it.id));
    let record = submission.record.and_then(|it| check.record(it));
    let category = check.id("/category", submission.category);
    let sensitivity = check.labels(submission.sensitivity.unwrap_or_default());
    let reason = check.reason(submission.reason.unwrap_or_default(), action, actor.role.as_deref(), vocabulary);
    let changes = submission.changes.unwrap_or_default();
    check.needs(action, rules, patient.is_some(), record.is_some(), !changes.is_empty());
    let fields = check.changes(changes, action, rules);
    let basis = check.disclosure(submission.disclosure, action);
    let related = check.related(submission.related.unwrap_or_default());
    let context = check.context(submission.context.unwrap_or_default());
    let source = arrival.source.to_owned();
    let mut meta = Meta {
        id,
        source,
        action,
        outcome,
        occurred_at,
        ended_at,
        effective_at,
        actor,
        patient,
        record,
        category,
        sensitivity,
        reason,
        fields,
        basis,
        related,
        context,
        facts: Vec::new(),
    };
    meta.facts = if action.is_change() { rules.fields.marks(&meta, &check.items) } else { Vec::new() };
    if check.issues.is_empty() && meta.encode().len() > MAX_META_BYTES {
        check.issues.add(
            "",
            "too_large",
            "The metadata of one entry is limited to 60,000 bytes; put long texts into values.",
        );
    }
    let Check { issues, mut items } = check;
    items.sort_by(|a, b| a.path.cmp(&b.path));
    let keep = rules.retention.keep(class.as_deref(), meta.category.as_deref(), arrival.received, born);
    issues.finish(Draft { meta, items, keep })
}

/// Checks a reason that the vault itself asks for, for a reveal, a report or a key operation.
///
/// # Errors
/// What is wrong with it, at `/reason`.
pub fn vault_reason(
    given: ReasonIn,
    action: Action,
    role: &str,
    vocabulary: &Vocabulary,
) -> Result<(Reason, Vec<Item>), Vec<Issue>> {
    let mut check = Check::default();
    let reason = check.reason(given, action, Some(role), vocabulary);
    check.issues.finish((reason, check.items))
}

/// Checks one text the way ids in entries are checked; for filters and tokens.
///
/// # Errors
/// One [`Issue`] at `pointer`.
pub fn identifier(pointer: &str, text: String) -> Result<String, Vec<Issue>> {
    let mut check = Check::default();
    let checked = check.required_id(pointer, Some(text));
    check.issues.finish(()).map(|()| checked.unwrap_or_default())
}
