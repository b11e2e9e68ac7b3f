//! The checks of one submission, part by part. Everything that is wrong is collected, with its JSON pointer.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::action::{Action, Kind, Outcome};
use super::canonical::{MAX_DEPTH, put_value};
use super::issue::Issues;
use super::json::escape;
use super::meta::{Actor, BLIND_PREFIX, Context, PATIENT_TYPE, Patient, Reason, Record, Related, is_patient_type};
use super::reason::{Given, Vocabulary};
use super::rules::{
    Item, MAX_CHANGES, MAX_CONTEXT_BYTES, MAX_ID_BYTES, MAX_LIST, MAX_TEXT_BYTES, MAX_VALUE_BYTES, NoOp, Rules,
};
use super::submission::{ActorIn, ChangeIn, DisclosureIn, ReasonIn, RecordIn, RelatedIn, Submission};
use super::time::Timestamp;
use super::value::{Leaf, Phi, Value, number_is_kept};

/// What was found so far, and what will be sealed.
#[derive(Default)]
pub(super) struct Check {
    pub(super) issues: Issues,
    pub(super) items: Vec<Item>,
}

impl Check {
    /// The date of birth and the retention class, if they are given and make sense.
    pub(super) fn keep(
        &mut self,
        submission: &Submission,
        rules: &Rules,
        now: Timestamp,
    ) -> (Option<chrono::NaiveDate>, Option<String>) {
        let given = submission.patient.as_ref().and_then(|it| it.birth_date.as_deref());
        let born = given.and_then(|text| {
            let day = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok();
            let sane = day.filter(|day| {
                *day <= now.to_utc().date_naive() && text.len() == 10 && chrono::Datelike::year(day) >= 1800
            });
            if sane.is_none() {
                self.issues.add(
                    "/patient/birth_date",
                    "date_invalid",
                    "A date of birth is YYYY-MM-DD and in the past.",
                );
            }
            sane
        });
        let class = submission.retention.clone();
        if class.as_deref().is_some_and(|it| !rules.retention.has(it)) {
            self.issues.add("/retention", "retention_unknown", "There is no such retention class at this site.");
        }
        (born, class)
    }

    pub(super) fn uuid(&mut self, text: Option<&str>, fresh: Uuid) -> Uuid {
        let Some(text) = text else { return fresh };
        match Uuid::try_parse(text) {
            Ok(id) if text.len() == 36 && !id.is_nil() && !id.is_max() => id,
            _ => {
                self.issues.add("/id", "id_invalid", "The id must be a UUID such as 0193595e-7a3c-7cc2-9c1f-0d5c3f1b2a44 (RFC 9562; version 7 is advised).");
                Uuid::nil()
            }
        }
    }

    pub(super) fn action(&mut self, name: Option<&str>) -> Action {
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

    pub(super) fn outcome(&mut self, name: Option<&str>) -> Outcome {
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

    pub(super) fn time(&mut self, pointer: &str, text: Option<&str>, latest: Option<Timestamp>) -> Option<Timestamp> {
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

    pub(super) fn times(
        &mut self,
        it: &Submission,
        latest: Timestamp,
    ) -> (Option<Timestamp>, Option<Timestamp>, Option<Timestamp>) {
        let occurred_at = self.time("/occurred_at", it.occurred_at.as_deref(), Some(latest));
        let ended_at = self.time("/ended_at", it.ended_at.as_deref(), Some(latest));
        let effective_at = self.time("/effective_at", it.effective_at.as_deref(), None);
        if let (Some(begin), Some(end)) = (occurred_at, ended_at)
            && end < begin
        {
            self.issues.add("/ended_at", "time_order", "The end lies before the beginning (occurred_at).");
        }
        (occurred_at, ended_at, effective_at)
    }

    pub(super) fn record(&mut self, it: RecordIn) -> Option<Record> {
        let kind = self.required_id("/record/type", it.kind);
        let id = self.required_id("/record/id", it.id).and_then(|id| self.of_type("/record/id", kind.as_deref(), id));
        let version = self.id("/record/version", it.version);
        let schema = self.id("/record/schema", it.schema);
        Some(Record { kind: kind?, id: id?, version, schema })
    }

    pub(super) fn related(&mut self, related: Vec<RelatedIn>) -> Vec<Related> {
        self.at_most("/related", related.len(), MAX_LIST);
        let one = |(n, it): (usize, RelatedIn)| {
            let kind = self.required_id(&format!("/related/{n}/type"), it.kind);
            let pointer = format!("/related/{n}/id");
            let id = self.required_id(&pointer, it.id).and_then(|id| self.of_type(&pointer, kind.as_deref(), id));
            Some(Related { kind: kind?, id: id? })
        };
        related.into_iter().enumerate().filter_map(one).collect()
    }

    pub(super) fn patient(&mut self, id: Option<String>) -> Option<Patient> {
        let pointer = "/patient/id";
        let id = self.required_id(pointer, id).and_then(|id| self.of_type(pointer, Some(PATIENT_TYPE), id));
        id.map(Patient::Plain)
    }

    /// An id of a patient must not look like one that the vault has blinded.
    fn of_type(&mut self, pointer: &str, kind: Option<&str>, id: String) -> Option<String> {
        if kind.is_some_and(is_patient_type) && id.starts_with(BLIND_PREFIX) {
            let detail = "The id of a patient must not begin with \"blind:\"; ids that the vault has hidden begin so.";
            self.issues.add(pointer, "id_reserved", detail);
            return None;
        }
        Some(id)
    }

    pub(super) fn required_id(&mut self, pointer: &str, text: Option<String>) -> Option<String> {
        if text.is_none() {
            self.issues.add(pointer, "missing", "This field is required here.");
        }
        self.id(pointer, text)
    }

    /// An id or label: 1 to 256 bytes, no control characters, nothing that turns the direction of text, no space around it
    /// (two users whose ids differ by a space look like one in every report).
    pub(super) fn id(&mut self, pointer: &str, text: Option<String>) -> Option<String> {
        self.short_text(pointer, text, MAX_ID_BYTES)
    }

    fn short_text(&mut self, pointer: &str, text: Option<String>, most: usize) -> Option<String> {
        let text = text?;
        if text.trim().is_empty() {
            self.issues.add(pointer, "empty", "This field must not be empty.");
        } else if text.len() > most {
            self.issues.add(pointer, "too_long", format!("This field is limited to {most} bytes."));
        } else if text.trim() != text {
            self.issues.add(pointer, "space_around", "This field begins or ends with a space.");
        } else if text.chars().any(is_unsafe) {
            self.issues.add(pointer, "control_character", "This field holds a control character.");
        } else {
            return Some(text);
        }
        None
    }

    pub(super) fn at_most(&mut self, pointer: &str, count: usize, most: usize) {
        if count > most {
            self.issues.add(pointer, "too_many", format!("This list is limited to {most}."));
        }
    }

    pub(super) fn labels(&mut self, labels: Vec<String>) -> Vec<String> {
        self.at_most("/sensitivity", labels.len(), MAX_LIST);
        labels.into_iter().enumerate().filter_map(|(n, it)| self.id(&format!("/sensitivity/{n}"), Some(it))).collect()
    }

    pub(super) fn actor(&mut self, actor: Option<ActorIn>) -> Actor {
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

    pub(super) fn reason(
        &mut self,
        reason: ReasonIn,
        action: Action,
        role: Option<&str>,
        vocabulary: &Vocabulary,
    ) -> Reason {
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

    pub(super) fn needs(&mut self, action: Action, rules: &Rules, patient: bool, record: bool, changes: bool) {
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

    pub(super) fn changes(&mut self, changes: Vec<ChangeIn>, action: Action, rules: &Rules) -> Vec<String> {
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

    pub(super) fn disclosure(&mut self, disclosure: Option<DisclosureIn>, action: Action) -> Option<String> {
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
        if action != Action::DISCLOSE {
            // It would be taken, and then be in no accounting.
            self.issues.add(
                "/disclosure",
                "disclosure_without_disclose",
                "Only entries with the action disclose are in an accounting of disclosures: submit it as an entry of its own with that action.",
            );
        }
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
        self.seal_text("/disclosure/protocol", "disclosure/protocol", disclosure.protocol);
        self.id("/disclosure/basis", disclosure.basis)
    }

    pub(super) fn context(&mut self, mut given: BTreeMap<String, Option<String>>) -> Context {
        let mut take = |name: &str| {
            // Browsers and gateways make long ones.
            let most = if ["session_id", "user_agent"].contains(&name) { MAX_CONTEXT_BYTES } else { MAX_ID_BYTES };
            self.short_text(&format!("/context/{name}"), given.remove(name).flatten(), most)
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
    pub(super) fn seal_text(&mut self, pointer: &str, path: &str, value: Option<Phi>) {
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
    pub(super) fn seal(&mut self, pointer: &str, path: String, value: Option<Phi>) {
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
