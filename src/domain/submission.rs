//! What an application sends: the wire form of an entry, before any rule has been applied.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use super::value::{Phi, Value};

/// One entry as an application submits it. Only `action`, `actor.id` and `reason.code` are always needed; which other
/// parts an action needs is said in the answer when they are missing.
#[derive(Deserialize, ToSchema, Clone)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "action": "update",
    "actor": {"id": "dr_smith", "role": "physician"},
    "patient": {"id": "MRN-12345"},
    "record": {"type": "Condition", "id": "c-77"},
    "reason": {"code": "TREAT", "change": "NEWDATA", "note": "Annual checkup, new diagnosis"},
    "changes": [{"field": "diagnosis", "old": "Hypertension", "new": "Hypertension, Type 2 Diabetes"}]
}))]
pub struct Submission {
    /// A UUID, the idempotency key for as long as the entry lives; version 7 is advised. Made by the server if absent.
    pub id: Option<String>,
    /// What was done: baseline, create, read, update, delete, restore, query, print, copy, export, disclose, merge, login, logout,
    /// login_failed, grant, revoke. A baseline begins the history of a record that was there before the vault.
    #[schema(required = true)]
    pub action: Option<String>,
    /// How it ended: success (default), failure or denied.
    pub outcome: Option<String>,
    /// When it happened (RFC 3339); the time of receipt if absent.
    pub occurred_at: Option<String>,
    /// When the access ended.
    pub ended_at: Option<String>,
    /// The time the data speaks of, if it was entered late.
    pub effective_at: Option<String>,
    /// Who did it.
    #[schema(required = true)]
    #[serde(default, deserialize_with = "object")]
    pub actor: Option<ActorIn>,
    /// Whose record it was.
    #[serde(default, deserialize_with = "object")]
    pub patient: Option<PatientIn>,
    /// Which record.
    #[serde(default, deserialize_with = "object")]
    pub record: Option<RecordIn>,
    /// The category of the content, such as problems, medications, results.
    pub category: Option<String>,
    /// How long the values are kept: a retention class of the site (`config/retention.toml`); that of the category, or the
    /// default, if absent.
    pub retention: Option<String>,
    /// Labels of specially protected data, such as SUD, HIV, PSY.
    pub sensitivity: Option<Vec<String>>,
    /// Why.
    #[schema(required = true)]
    #[serde(default, deserialize_with = "object")]
    pub reason: Option<ReasonIn>,
    /// What changed, for create, update and delete. Values are sealed.
    #[serde(default, deserialize_with = "objects")]
    pub changes: Option<Vec<ChangeIn>>,
    /// To whom it was disclosed (45 CFR 164.528).
    #[serde(default, deserialize_with = "object")]
    pub disclosure: Option<DisclosureIn>,
    /// What else it belongs to.
    #[serde(default, deserialize_with = "objects")]
    pub related: Option<Vec<RelatedIn>>,
    /// Where it came from: session_id, client_ip, user_agent, request_id, facility and device are kept as metadata; other
    /// keys are sealed with the values.
    #[serde(default, deserialize_with = "names")]
    pub context: Option<BTreeMap<String, Option<String>>>,
}

/// Who did it.
#[derive(Deserialize, ToSchema, Clone)]
#[serde(deny_unknown_fields)]
pub struct ActorIn {
    /// The user's unique id.
    pub id: Option<String>,
    /// The user's name; sealed.
    #[schema(value_type = Option<String>)]
    pub name: Option<Phi>,
    /// The role acted in.
    pub role: Option<String>,
    /// user (default) or system.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The user a system or delegate acted for.
    pub on_behalf_of: Option<String>,
}

/// Whose record it was.
#[derive(Deserialize, ToSchema, Clone)]
#[serde(deny_unknown_fields)]
pub struct PatientIn {
    /// The patient's id, such as a medical record number.
    pub id: Option<String>,
    /// The date of birth (YYYY-MM-DD): values of minors are kept longer. It is used for that and not stored.
    pub birth_date: Option<String>,
}

/// Which record.
#[derive(Deserialize, ToSchema, Clone)]
#[serde(deny_unknown_fields)]
pub struct RecordIn {
    /// Its type, such as Condition.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Its id within the type.
    pub id: Option<String>,
    /// Its version after the change.
    pub version: Option<String>,
    /// The version of your data model that fields are named by, if names may change one day.
    pub schema: Option<String>,
}

/// Why it was done; also what a reveal, a report or a key operation has to say.
#[derive(Deserialize, ToSchema, Clone, Default)]
#[serde(deny_unknown_fields)]
pub struct ReasonIn {
    /// A purpose of use code (`GET /v1/reasons` lists them).
    pub code: Option<String>,
    /// A change reason code.
    pub change: Option<String>,
    /// In words; sealed. Some codes require it.
    #[schema(value_type = Option<String>)]
    pub note: Option<Phi>,
}

/// One changed field.
#[derive(Deserialize, ToSchema, Clone)]
#[serde(deny_unknown_fields)]
pub struct ChangeIn {
    /// The name of the field. It is metadata: keep values out of it.
    pub field: Option<String>,
    /// The value before: any JSON value. Absent is not the same as null.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub old: Option<Phi>,
    /// The value after.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub new: Option<Phi>,
}

/// To whom data was disclosed; only with the action `disclose`. All of it but the basis is sealed. The accounting that the person
/// may ask for tells recipient, address and description, and `reason.note`, word for word.
#[derive(Deserialize, ToSchema, Clone)]
#[serde(deny_unknown_fields)]
pub struct DisclosureIn {
    /// Who received it.
    #[serde(default, deserialize_with = "object")]
    pub recipient: Option<RecipientIn>,
    /// A brief description of what was disclosed.
    #[schema(value_type = Option<String>)]
    pub description: Option<Phi>,
    /// The research protocol it was made under, as the site names it.
    #[schema(value_type = Option<String>)]
    pub protocol: Option<Phi>,
    /// The legal basis as a short code, such as 164.512(b): it decides whether the accounting tells of it. Without one the purpose
    /// decides, so that what a court got for the reason HLEGAL counts as the hospital's own legal services and is left out; with
    /// 164.512(e) it is told.
    pub basis: Option<String>,
}

/// Who received a disclosure.
#[derive(Deserialize, ToSchema, Clone)]
#[serde(deny_unknown_fields)]
pub struct RecipientIn {
    /// The name of the entity or person.
    #[schema(value_type = Option<String>)]
    pub name: Option<Phi>,
    /// The address, if known.
    #[schema(value_type = Option<String>)]
    pub address: Option<Phi>,
}

/// Something the entry belongs to.
#[derive(Deserialize, ToSchema, Clone)]
#[serde(deny_unknown_fields)]
pub struct RelatedIn {
    /// Its type, such as Encounter.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Its id.
    pub id: Option<String>,
}

/// Keeps `null` apart from absent: absent never gets here, null becomes the value null.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Phi>, D::Error> {
    Value::deserialize(deserializer).map(|value| Some(Phi::new(value)))
}

/// An object, and nothing else: serde would also take a struct from an array of its fields, by position.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Only<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Only<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Only(PhantomData))
    }
}

/// An optional object.
///
/// # Errors
/// A wrong type for anything but an object or null.
pub fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|it| it.0))
}

fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Vec<T>>, D::Error> {
    let items = Option::<Vec<Object<T>>>::deserialize(deserializer)?;
    Ok(items.map(|items| items.into_iter().map(|it| it.0).collect()))
}

/// Names and texts; a name given twice is refused.
fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BTreeMap<String, Option<String>>>, D::Error> {
    struct Names;

    impl<'de> Visitor<'de> for Names {
        type Value = BTreeMap<String, Option<String>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of texts")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut out = BTreeMap::new();
            while let Some((name, text)) = map.next_entry()? {
                if out.insert(name, text).is_some() {
                    return Err(A::Error::custom("duplicate key"));
                }
            }
            Ok(out)
        }
    }

    struct Wrapped(BTreeMap<String, Option<String>>);

    impl<'de> Deserialize<'de> for Wrapped {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_map(Names).map(Wrapped)
        }
    }

    Ok(Option::<Wrapped>::deserialize(deserializer)?.map(|it| it.0))
}
