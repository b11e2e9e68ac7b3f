//! One submission in the making: the fields of `POST /v1/entries`, filled in by the scenes.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::people::Staff;

/// A submission under construction, and when it reaches the vault.
#[derive(Debug, Clone)]
pub(super) struct Submission {
    /// When it happened.
    pub(super) occurred_at: DateTime<Utc>,
    /// When it is sent: the same moment, but for late entries.
    pub(super) sent_at: DateTime<Utc>,
    body: Map<String, Value>,
}

impl Submission {
    /// What `who` did, when, and for which purpose of use.
    pub(super) fn new(who: &Staff, action: &str, occurred_at: DateTime<Utc>, purpose: &str) -> Self {
        let new = Self { occurred_at, sent_at: occurred_at, body: Map::new() };
        new.with("action", json!(action))
            .with("outcome", json!("success"))
            .with("occurred_at", json!(written(occurred_at)))
            .with("actor", json!({"id": who.id, "name": who.name, "role": who.role, "type": who.kind}))
            .with("reason", json!({"code": purpose}))
            .context("client_ip", who.client_ip)
            .context("user_agent", who.user_agent)
            .context("workstation", who.workstation)
            .context("facility", "riverbend-family-clinic")
    }

    pub(super) fn patient(self, id: &str) -> Self {
        self.with("patient", json!({"id": id}))
    }

    pub(super) fn record(self, kind: &str, id: &str) -> Self {
        self.with("record", json!({"type": kind, "id": id}))
    }

    pub(super) fn version(self, version: u32) -> Self {
        self.within("record", "version", json!(version.to_string()))
    }

    pub(super) fn category(self, category: &str) -> Self {
        self.with("category", json!(category))
    }

    /// Labels the entry, unless there is nothing to label.
    pub(super) fn sensitive(self, labels: &[&str]) -> Self {
        if labels.is_empty() { self } else { self.with("sensitivity", json!(labels)) }
    }

    pub(super) fn purpose(self, code: &str) -> Self {
        self.within("reason", "code", json!(code))
    }

    pub(super) fn change_code(self, code: &str) -> Self {
        self.within("reason", "change", json!(code))
    }

    pub(super) fn note(self, note: &str) -> Self {
        self.within("reason", "note", json!(note))
    }

    /// Adds a field that had no value before.
    pub(super) fn added(self, field: &str, new: impl Into<Value>) -> Self {
        self.push("changes", json!({"field": field, "new": new.into()}))
    }

    /// Adds a field that went from one value to another.
    pub(super) fn changed(self, field: &str, old: impl Into<Value>, new: impl Into<Value>) -> Self {
        self.push("changes", json!({"field": field, "old": old.into(), "new": new.into()}))
    }

    pub(super) fn related(self, kind: &str, id: &str) -> Self {
        self.push("related", json!({"type": kind, "id": id}))
    }

    pub(super) fn disclosed_to(self, name: &str, address: &str, description: &str, basis: &str) -> Self {
        let recipient = json!({"name": name, "address": address});
        self.with("disclosure", json!({"recipient": recipient, "description": description, "basis": basis}))
    }

    pub(super) fn outcome(self, outcome: &str) -> Self {
        self.with("outcome", json!(outcome))
    }

    pub(super) fn on_behalf_of(self, actor: &str) -> Self {
        self.within("actor", "on_behalf_of", json!(actor))
    }

    pub(super) fn ended_at(self, time: DateTime<Utc>) -> Self {
        self.with("ended_at", json!(written(time)))
    }

    /// Makes it a late entry: the data speaks of `effective_at`, and the vault hears of it only at `sent_at`.
    pub(super) fn late(mut self, effective_at: DateTime<Utc>, sent_at: DateTime<Utc>) -> Self {
        self.sent_at = sent_at;
        self.with("effective_at", json!(written(effective_at)))
    }

    pub(super) fn context(self, key: &str, value: &str) -> Self {
        self.within("context", key, json!(value))
    }

    /// The finished submission under its id.
    pub(super) fn finish(self, id: &str) -> Value {
        Value::Object(self.with("id", json!(id)).body)
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        self.body.insert(key.to_owned(), value);
        self
    }

    fn within(mut self, object: &str, key: &str, value: Value) -> Self {
        let object = self.body.entry(object).or_insert_with(|| json!({}));
        object[key] = value;
        self
    }

    fn push(mut self, list: &str, item: Value) -> Self {
        if let Value::Array(items) = self.body.entry(list).or_insert_with(|| json!([])) {
            items.push(item);
        }
        self
    }
}

/// A decimal number exactly as a laboratory writes it: `decimal(70, 1)` is 7.0, which is not 7.
pub(super) fn decimal(units: u32, places: u32) -> Value {
    let scale = 10_u32.pow(places);
    let text = match places {
        0 => units.to_string(),
        _ => format!("{}.{:0width$}", units / scale, units % scale, width = places as usize),
    };
    serde_json::from_str(&text).expect("digits around one point are a JSON number")
}

/// RFC 3339 in UTC with `Z`, whole seconds: all of one length, so their order as text is their order in time.
fn written(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::super::people::{LAB_INTERFACE, PHYSICIANS};
    use super::*;

    #[test]
    fn a_decimal_keeps_its_trailing_zero() {
        let written: Vec<String> =
            [(70, 1), (98, 0), (5, 2), (1_050, 2)].map(|(units, places)| decimal(units, places).to_string()).into();
        assert_eq!(written, ["7.0", "98", "0.05", "10.50"]);
    }

    #[test]
    fn a_submission_carries_what_was_put_in_and_no_empty_field() {
        let submission = Submission::new(&LAB_INTERFACE, "create", DateTime::UNIX_EPOCH, "TREAT")
            .on_behalf_of(PHYSICIANS[0].id)
            .patient("MRN-1")
            .record("Observation", "O-1")
            .sensitive(&[])
            .added("value", decimal(70, 1))
            .finish("x");
        assert_eq!(submission["occurred_at"], "1970-01-01T00:00:00Z");
        assert_eq!(submission["actor"]["type"], "system");
        assert_eq!(submission["actor"]["on_behalf_of"], PHYSICIANS[0].id);
        assert_eq!(submission["changes"].to_string(), r#"[{"field":"value","new":7.0}]"#);
        assert!(submission.get("sensitivity").is_none() && submission.get("related").is_none());
    }
}
