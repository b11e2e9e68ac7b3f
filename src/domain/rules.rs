//! From a submission to a draft: every rule an entry must meet, checked at once, before anything is sealed or stored.

use uuid::Uuid;

use super::action::{Action, Kind, Outcome};
use super::canonical::{MAX_DEPTH, put_value};
use super::issue::{Issue, Issues};
use super::json::escape;
use super::meta::{Actor, Context, Meta, Patient, Record, Related};
use super::reason::{Given, Vocabulary};
use super::submission::{ActorIn, ChangeIn, DisclosureIn, ReasonIn, Submission};
use super::time::Timestamp;
use super::value::{Leaf, Phi, Value, number_is_kept};

/// The most changes of one entry.
pub const MAX_CHANGES: usize = 200;
/// The largest canonical form of one value, in bytes.
pub const MAX_VALUE_BYTES: usize = 64 * 1024;
/// The longest id, in bytes.
pub const MAX_ID_BYTES: usize = 256;
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
}

/// How a submission got here.
pub struct Arrival<'a> {
    /// The application that the token names.
    pub source: &'a str,
    /// The time now.
    pub now: Timestamp,
    /// The id it gets if it brings none.
    pub fresh_id: Uuid,
}

/// Checks a submission and makes a draft of it.
///
/// # Errors
/// Everything that is wrong with it, up to [`Issues::MAX`] findings.
pub fn draft(
    submission: Submission,
    arrival: &Arrival<'_>,
    rules: &Rules,
    vocabulary: &Vocabulary,
) -> Result<Draft, Vec<Issue>> {
    let mut check = Check { issues: Issues::default(), items: Vec::new() };
    let id = check.uuid(submission.id.as_deref(), arrival.fresh_id);
    let action = check.action(submission.action.as_deref());
    let outcome = check.outcome(submission.outcome.as_deref());
    let latest = arrival.now.plus_seconds(rules.max_skew_seconds);
    let occurred_at = check.time("/occurred_at", submission.occurred_at.as_deref(), Some(latest));
    let ended_at = check.time("/ended_at", submission.ended_at.as_deref(), Some(latest));
    let effective_at = check.time("/effective_at", submission.effective_at.as_deref(), None);
    if let (Some(begin), Some(end)) = (occurred_at, ended_at)
        && end < begin
    {
        check.issues.add("/ended_at", "time_order", "The end lies before the beginning (occurred_at).");
    }
    let actor = check.actor(submission.actor);
    let patient = submission.patient.and_then(|it| check.required_id("/patient/id", it.id)).map(Patient::Plain);
    let record = submission.record.and_then(|it| {
        let kind = check.required_id("/record/type", it.kind);
        let id = check.required_id("/record/id", it.id);
        let version = check.id("/record/version", it.version);
        Some(Record { kind: kind?, id: id?, version })
    });
    let category = check.id("/category", submission.category);
    let sensitivity = check.labels(submission.sensitivity.unwrap_or_default());
    let reason = check.reason(submission.reason.unwrap_or_default(), action, actor.role.as_deref(), vocabulary);
    let changes = submission.changes.unwrap_or_default();
    check.needs(action, rules, patient.is_some(), record.is_some(), !changes.is_empty());
    let fields = check.changes(changes, action, rules);
    let basis = check.disclosure(submission.disclosure, action);
    let related = submission.related.unwrap_or_default();
    check.at_most("/related", related.len(), MAX_LIST);
    let related = related.into_iter().enumerate().filter_map(|(n, it)| {
        let kind = check.required_id(&format!("/related/{n}/type"), it.kind);
        let id = check.required_id(&format!("/related/{n}/id"), it.id);
        Some(Related { kind: kind?, id: id? })
    });
    let related = related.collect();
    let context = check.context(submission.context.unwrap_or_default());
    let source = arrival.source.to_owned();
    let meta = Meta {
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
    if check.issues.is_empty() && meta.encode().len() > MAX_META_BYTES {
        check.issues.add(
            "",
            "too_large",
            "The metadata of one entry is limited to 60,000 bytes; put long texts into values.",
        );
    }
    let Check { issues, mut items } = check;
    items.sort_by(|a, b| a.path.cmp(&b.path));
    issues.finish(Draft { meta, items })
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
) -> Result<(super::meta::Reason, Vec<Item>), Vec<Issue>> {
    let mut check = Check { issues: Issues::default(), items: Vec::new() };
    let reason = check.reason(given, action, Some(role), vocabulary);
    check.issues.finish((reason, check.items))
}

/// Checks one text the way ids in entries are checked; for filters and tokens.
///
/// # Errors
/// One [`Issue`] at `pointer`.
pub fn identifier(pointer: &str, text: String) -> Result<String, Vec<Issue>> {
    let mut check = Check { issues: Issues::default(), items: Vec::new() };
    let checked = check.required_id(pointer, Some(text));
    check.issues.finish(()).map(|()| checked.unwrap_or_default())
}

struct Check {
    issues: Issues,
    items: Vec<Item>,
}

impl Check {
    fn uuid(&mut self, text: Option<&str>, fresh: Uuid) -> Uuid {
        let Some(text) = text else { return fresh };
        match Uuid::try_parse(text) {
            Ok(id) if text.len() == 36 && !id.is_nil() && !id.is_max() => id,
            _ => {
                self.issues.add("/id", "id_invalid", "The id must be a UUID such as 0193595e-7a3c-7cc2-9c1f-0d5c3f1b2a44 (RFC 9562; version 7 is advised).");
                Uuid::nil()
            }
        }
    }

    fn action(&mut self, name: Option<&str>) -> Action {
        match name.and_then(Action::parse) {
            Some(action) if action.kind() != Kind::Vault => action,
            _ => {
                let (code, what) =
                    if name.is_none() { ("action_missing", "is missing") } else { ("action_unknown", "is not known") };
                let known: Vec<_> = Action::submittable().collect();
                self.issues.add("/action", code, format!("The action {what}. Actions: {}.", known.join(", ")));
                Action::READ
            }
        }
    }

    fn outcome(&mut self, name: Option<&str>) -> Outcome {
        let Some(name) = name else { return Outcome::Success };
        Outcome::parse(name).unwrap_or_else(|| {
            self.issues.add(
                "/outcome",
                "outcome_unknown",
                "The outcome is not known. Outcomes: success, failure, denied.",
            );
            Outcome::Success
        })
    }

    fn time(&mut self, pointer: &str, text: Option<&str>, latest: Option<Timestamp>) -> Option<Timestamp> {
        let Some(time) = Timestamp::parse(text?) else {
            self.issues.add(
                pointer,
                "time_invalid",
                "This is no RFC 3339 time such as 2026-11-24T09:30:00Z (years 1800 to 2200).",
            );
            return None;
        };
        if latest.is_some_and(|latest| time > latest) {
            self.issues.add(
                pointer,
                "time_in_future",
                "This time lies in the future; check the clock of the sending machine.",
            );
        }
        Some(time)
    }

    fn required_id(&mut self, pointer: &str, text: Option<String>) -> Option<String> {
        if text.is_none() {
            self.issues.add(pointer, "missing", "This field is required here.");
        }
        self.id(pointer, text)
    }

    /// An id or label: 1 to 256 bytes, no control characters, nothing that turns the direction of text.
    fn id(&mut self, pointer: &str, text: Option<String>) -> Option<String> {
        let text = text?;
        if text.trim().is_empty() {
            self.issues.add(pointer, "empty", "This field must not be empty.");
        } else if text.len() > MAX_ID_BYTES {
            self.issues.add(pointer, "too_long", format!("This field is limited to {MAX_ID_BYTES} bytes."));
        } else if text.chars().any(is_unsafe) {
            self.issues.add(pointer, "control_character", "This field holds a control character.");
        } else {
            return Some(text);
        }
        None
    }

    fn at_most(&mut self, pointer: &str, count: usize, most: usize) {
        if count > most {
            self.issues.add(pointer, "too_many", format!("This list is limited to {most}."));
        }
    }

    fn labels(&mut self, labels: Vec<String>) -> Vec<String> {
        self.at_most("/sensitivity", labels.len(), MAX_LIST);
        labels.into_iter().enumerate().filter_map(|(n, it)| self.id(&format!("/sensitivity/{n}"), Some(it))).collect()
    }

    fn actor(&mut self, actor: Option<ActorIn>) -> Actor {
        let Some(actor) = actor else {
            self.issues.add("/actor/id", "missing", "Every entry names who did it.");
            return Actor::default();
        };
        if let Some(kind) = &actor.kind
            && !["user", "system"].contains(&kind.as_str())
        {
            self.issues.add("/actor/type", "actor_type_unknown", "The type of an actor is user or system.");
        }
        self.seal_text("/actor/name", "actor/name", actor.name);
        Actor {
            id: self.required_id("/actor/id", actor.id).unwrap_or_default(),
            role: self.id("/actor/role", actor.role),
            kind: actor.kind.filter(|kind| kind != "user"),
            on_behalf_of: self.id("/actor/on_behalf_of", actor.on_behalf_of),
        }
    }

    fn reason(
        &mut self,
        reason: ReasonIn,
        action: Action,
        role: Option<&str>,
        vocabulary: &Vocabulary,
    ) -> super::meta::Reason {
        let blank = |note: &Phi| {
            matches!(note.expose(), Value::Null)
                || matches!(note.expose(), Value::String(text) if text.trim().is_empty())
        };
        let note = reason.note.filter(|note| !blank(note));
        let given = Given {
            code: reason.code.as_deref(),
            change: reason.change.as_deref(),
            note: note.is_some(),
            action,
            role,
        };
        let checked = vocabulary.check(&given, &mut self.issues);
        self.seal_text("/reason/note", "note", note);
        checked
    }

    fn needs(&mut self, action: Action, rules: &Rules, patient: bool, record: bool, changes: bool) {
        let kind = action.kind();
        let touches_record = matches!(kind, Kind::Change | Kind::Access | Kind::Disclosure | Kind::Merge);
        if touches_record && rules.require_patient && !patient {
            self.issues.add("/patient/id", "patient_required", "This action needs the patient whose record it was.");
        }
        if (touches_record || kind == Kind::Privilege) && !record {
            self.issues.add("/record", "record_required", "This action needs the record: its type and id.");
        }
        if kind == Kind::Change && !changes {
            self.issues.add(
                "/changes",
                "changes_required",
                "This action needs at least one change with field, old and new.",
            );
        }
    }

    fn changes(&mut self, changes: Vec<ChangeIn>, action: Action, rules: &Rules) -> Vec<String> {
        if changes.len() > MAX_CHANGES {
            self.at_most("/changes", changes.len(), MAX_CHANGES);
            return Vec::new();
        }
        let mut fields = Vec::with_capacity(changes.len());
        for (n, change) in changes.into_iter().enumerate() {
            if let Some(field) = self.required_id(&format!("/changes/{n}/field"), change.field) {
                fields.push(field);
            }
            if change.old.is_none() && change.new.is_none() {
                self.issues.add(
                    format!("/changes/{n}"),
                    "change_empty",
                    "A change needs an old or a new value (null counts, absent does not).",
                );
            }
            if rules.no_op == NoOp::Reject
                && action == Action::UPDATE
                && change.old.is_some()
                && change.old == change.new
            {
                self.issues.add(
                    format!("/changes/{n}"),
                    "no_op",
                    "The new value equals the old one, and this vault refuses such changes.",
                );
            }
            self.seal(&format!("/changes/{n}/old"), format!("changes/{n:03}/old"), change.old);
            self.seal(&format!("/changes/{n}/new"), format!("changes/{n:03}/new"), change.new);
        }
        fields
    }

    fn disclosure(&mut self, disclosure: Option<DisclosureIn>, action: Action) -> Option<String> {
        let Some(disclosure) = disclosure else {
            if action == Action::DISCLOSE {
                self.issues.add(
                    "/disclosure",
                    "disclosure_required",
                    "A disclosure names its recipient (45 CFR 164.528(b)(2)).",
                );
            }
            return None;
        };
        let recipient = disclosure.recipient;
        if action == Action::DISCLOSE && recipient.as_ref().is_none_or(|it| it.name.is_none()) {
            self.issues.add(
                "/disclosure/recipient/name",
                "missing",
                "A disclosure names its recipient (45 CFR 164.528(b)(2)).",
            );
        }
        if let Some(recipient) = recipient {
            self.seal_text("/disclosure/recipient/name", "disclosure/recipient/name", recipient.name);
            self.seal_text("/disclosure/recipient/address", "disclosure/recipient/address", recipient.address);
        }
        self.seal_text("/disclosure/description", "disclosure/description", disclosure.description);
        self.id("/disclosure/basis", disclosure.basis)
    }

    fn context(&mut self, mut given: std::collections::BTreeMap<String, Option<String>>) -> Context {
        let mut take = |name: &str| {
            let text = given.remove(name).flatten();
            self.id(&format!("/context/{name}"), text)
        };
        let context = Context {
            session_id: take("session_id"),
            client_ip: take("client_ip"),
            user_agent: take("user_agent"),
            request_id: take("request_id"),
            facility: take("facility"),
            device: take("device"),
        };
        self.at_most("/context", given.len(), MAX_LIST);
        for (key, text) in given {
            let pointer = format!("/context/{}", escape(&key));
            let named =
                (1..=64).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
            if !named {
                self.issues.add(
                    "/context",
                    "key_invalid",
                    "A context key is 1 to 64 letters, digits, '_', '-' or '.'.",
                );
            } else if let Some(text) = text {
                self.seal_text(&pointer, &format!("context/{key}"), Some(Phi::text(text)));
            }
        }
        context
    }

    /// Takes a text to be sealed.
    fn seal_text(&mut self, pointer: &str, path: &str, value: Option<Phi>) {
        let Some(value) = value else { return };
        match value.expose() {
            Value::Null => return,
            Value::String(text) if text.len() > MAX_TEXT_BYTES => {
                self.issues.add(pointer, "too_long", format!("This text is limited to {MAX_TEXT_BYTES} bytes."));
            }
            Value::String(_) => {}
            _ => self.issues.add(pointer, "wrong_type", "The value has the wrong type; expected a string."),
        }
        self.seal(pointer, path.to_owned(), Some(value));
    }

    /// Takes a value to be sealed.
    fn seal(&mut self, pointer: &str, path: String, value: Option<Phi>) {
        let Some(value) = value else { return };
        if value.expose().depth() > MAX_DEPTH {
            self.issues.add(pointer, "too_deep", format!("A value may nest {MAX_DEPTH} deep."));
            return;
        }
        let (mut control, mut inexact) = (false, false);
        value.expose().walk(&mut |leaf| match leaf {
            Leaf::Text(text) => control |= text.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r')),
            Leaf::Number(text) => inexact |= !number_is_kept(text),
        });
        if control {
            self.issues.add(
                pointer,
                "control_character",
                "This value holds a control character other than tab and line end.",
            );
        }
        if inexact {
            self.issues.add(
                pointer,
                "number_inexact",
                "This number is beyond what JSON numbers keep (64-bit integer or double); send it as a string.",
            );
        }
        let mut bytes = Vec::new();
        put_value(&mut bytes, value.expose());
        let large = bytes.len() > MAX_VALUE_BYTES;
        zeroize::Zeroize::zeroize(&mut bytes);
        if large {
            self.issues.add(pointer, "value_too_large", format!("A value is limited to {MAX_VALUE_BYTES} bytes."));
        } else {
            self.items.push(Item { path, value });
        }
    }
}

/// Control characters, and the marks that reorder or hide text on a screen (Unicode Bidi_Control and line separators).
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061C}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}')
}
