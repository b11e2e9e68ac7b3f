//! The plaintext metadata of an entry, and its canonical bytes: what is stored, what is hashed, what authenticates the
//! sealed values.

use uuid::Uuid;

use super::action::{Action, Outcome};
use super::canonical::{NotCanonical, Reader, Writer, put_prefixed, take_prefixed, utf8};
use super::time::Timestamp;

/// The version of the canonical form of [`Meta`].
pub const META_VERSION: u8 = 1;

/// Everything about an entry but its values, note, names and free text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meta {
    /// The entry's id and idempotency key.
    pub id: Uuid,
    /// The application that submitted it, named by its token; `phivault` for the vault's own entries.
    pub source: String,
    /// What was done.
    pub action: Action,
    /// How it ended.
    pub outcome: Outcome,
    /// When it happened, as the application says.
    pub occurred_at: Option<Timestamp>,
    /// When the access ended (ASTM E2147-18 section 7.1.1).
    pub ended_at: Option<Timestamp>,
    /// The time the data speaks of, for late entries (ASTM E2147-18 section 7.1.2).
    pub effective_at: Option<Timestamp>,
    /// Who did it.
    pub actor: Actor,
    /// Whose record it was.
    pub patient: Option<Patient>,
    /// Which record.
    pub record: Option<Record>,
    /// The category of the content, such as `problems`.
    pub category: Option<String>,
    /// Labels of specially protected data, such as `SUD`.
    pub sensitivity: Vec<String>,
    /// Why.
    pub reason: Reason,
    /// The names of the changed fields, in the order submitted.
    pub fields: Vec<String>,
    /// The legal basis of a disclosure.
    pub basis: Option<String>,
    /// What else it belongs to.
    pub related: Vec<Related>,
    /// Where it came from.
    pub context: Context,
    /// Facts that the vault states about itself, by rising name; only in its own entries.
    pub facts: Vec<(String, String)>,
}

/// Who did it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Actor {
    /// The user's unique id (45 CFR 164.312(a)(2)(i)).
    pub id: String,
    /// The role acted in.
    pub role: Option<String>,
    /// `user` or `system`.
    pub kind: Option<String>,
    /// The user a system or delegate acted for.
    pub on_behalf_of: Option<String>,
}

/// Whose record it was.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Patient {
    /// The id in clear.
    Plain(String),
    /// A keyed blind index of the id, which itself is sealed.
    Blind {
        /// Which index key made it.
        version: u32,
        /// The first 128 bits of HMAC-SHA-256 over the id.
        token: [u8; 16],
    },
}

/// Which record.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// Its type, such as `Condition`.
    pub kind: String,
    /// Its id within the type.
    pub id: String,
    /// Its version after the change.
    pub version: Option<String>,
}

/// Why it was done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reason {
    /// The code as submitted.
    pub code: String,
    /// The standard code it stands for, when it is a site's own.
    pub standard: Option<String>,
    /// The change reason code.
    pub change: Option<String>,
    /// Whether a note was given. The note itself is sealed.
    pub note_given: bool,
    /// Whether the vocabulary counts the code as break-the-glass.
    pub break_glass: bool,
}

/// Something an entry belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Related {
    /// Its type, such as `Encounter`.
    pub kind: String,
    /// Its id.
    pub id: String,
}

/// Where it came from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Context {
    /// The session of the application.
    pub session_id: Option<String>,
    /// The address of the user's machine.
    pub client_ip: Option<String>,
    /// The user's program.
    pub user_agent: Option<String>,
    /// The request in the application.
    pub request_id: Option<String>,
    /// The facility.
    pub facility: Option<String>,
    /// The device.
    pub device: Option<String>,
}

/// The type of a record or related thing that is a patient; with blind ids its id is blinded too.
pub const PATIENT_TYPE: &str = "Patient";

/// How a blind index is written where an id text stands. No submitted id of a patient may begin with it.
pub const BLIND_PREFIX: &str = "blind:";

/// Whether a type, however it is written, is [`PATIENT_TYPE`].
pub fn is_patient_type(kind: &str) -> bool {
    kind.eq_ignore_ascii_case(PATIENT_TYPE)
}

impl Patient {
    /// As an id text: the id itself, or `blind:<version>:<hex>`.
    pub fn id_text(&self) -> String {
        match self {
            Self::Plain(id) => id.clone(),
            Self::Blind { version, token } => format!("{BLIND_PREFIX}{version}:{}", hex::encode(token)),
        }
    }

    /// What [`Patient::id_text`] wrote.
    pub fn from_id_text(text: &str) -> Self {
        let blind = text.strip_prefix(BLIND_PREFIX).and_then(|rest| {
            let (version, token) = rest.split_once(':')?;
            let token = <[u8; 16]>::try_from(hex::decode(token).ok()?).ok()?;
            Some(Self::Blind { version: version.parse().ok()?, token })
        });
        blind.unwrap_or_else(|| Self::Plain(text.to_owned()))
    }
}

impl Meta {
    /// The value of a fact of that name.
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.facts.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The patients it names beside its own: a record or related things of type `Patient`.
    pub fn other_patients(&self) -> impl Iterator<Item = Patient> {
        let record = self.record.iter().map(|it| (&it.kind, &it.id));
        let named = record.chain(self.related.iter().map(|it| (&it.kind, &it.id)));
        let patients = named.filter(|(kind, _)| is_patient_type(kind)).map(|(_, id)| Patient::from_id_text(id));
        patients.filter(|it| Some(it) != self.patient.as_ref())
    }

    /// Its own patient and every other it names.
    pub fn patients(&self) -> impl Iterator<Item = Patient> {
        self.patient.iter().cloned().chain(self.other_patients())
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(META_VERSION);
        out.bytes(1, self.id.as_bytes());
        out.text(2, &self.source);
        out.text(3, self.action.name());
        out.text(4, self.outcome.name());
        for (tag, time) in [(5, self.occurred_at), (6, self.ended_at), (7, self.effective_at)] {
            if let Some(time) = time {
                out.bytes(tag, &time.0.to_be_bytes());
            }
        }
        out.text(8, &self.actor.id);
        out.optional(9, self.actor.role.as_deref());
        out.optional(10, self.actor.kind.as_deref());
        out.optional(11, self.actor.on_behalf_of.as_deref());
        match &self.patient {
            None => {}
            Some(Patient::Plain(id)) => out.text(12, id),
            Some(Patient::Blind { version, token }) => {
                out.bytes(13, &[version.to_be_bytes().as_slice(), token.as_slice()].concat());
            }
        }
        if let Some(record) = &self.record {
            out.text(14, &record.kind);
            out.text(15, &record.id);
            out.optional(16, record.version.as_deref());
        }
        out.optional(17, self.category.as_deref());
        out.list(18, self.sensitivity.iter().map(String::as_bytes));
        out.text(19, &self.reason.code);
        out.optional(20, self.reason.standard.as_deref());
        out.optional(21, self.reason.change.as_deref());
        out.bytes(22, &[u8::from(self.reason.note_given) | u8::from(self.reason.break_glass) << 1]);
        out.list(23, self.fields.iter().map(String::as_bytes));
        out.optional(24, self.basis.as_deref());
        let related: Vec<_> = self.related.iter().map(|it| pair(&it.kind, &it.id)).collect();
        out.list(25, related.iter().map(Vec::as_slice));
        for (tag, value) in (26..).zip(self.context.parts()) {
            out.optional(tag, value.as_deref());
        }
        let facts: Vec<_> = self.facts.iter().map(|(name, value)| pair(name, value)).collect();
        out.list(40, facts.iter().map(Vec::as_slice));
        out.finish()
    }

    /// Reads canonical bytes back.
    ///
    /// # Errors
    /// [`NotCanonical`] for anything that [`Meta::encode`] would not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotCanonical> {
        let mut read = Reader::new(bytes, META_VERSION)?;
        let id = read.array::<16>(1)?.ok_or(NotCanonical("a required field is missing"))?;
        let source = read.required_text(2)?;
        let action = Action::parse(&read.required_text(3)?).ok_or(NotCanonical("an unknown action"))?;
        let outcome = Outcome::parse(&read.required_text(4)?).ok_or(NotCanonical("an unknown outcome"))?;
        let mut time = |tag| Ok(read.array::<8>(tag)?.map(|bytes| Timestamp(i64::from_be_bytes(bytes))));
        let (occurred_at, ended_at, effective_at) = (time(5)?, time(6)?, time(7)?);
        let actor = Actor {
            id: read.required_text(8)?,
            role: read.text(9)?,
            kind: read.text(10)?,
            on_behalf_of: read.text(11)?,
        };
        let patient = read_patient(&mut read)?;
        let record = read_record(&mut read)?;
        let category = read.text(17)?;
        let sensitivity = texts(&read.list(18)?)?;
        let mut reason = Reason {
            code: read.required_text(19)?,
            standard: read.text(20)?,
            change: read.text(21)?,
            ..Reason::default()
        };
        let [flags] = read.array::<1>(22)?.ok_or(NotCanonical("a required field is missing"))?;
        if flags > 3 {
            return Err(NotCanonical("an unknown flag"));
        }
        reason.note_given = flags & 1 != 0;
        reason.break_glass = flags & 2 != 0;
        let fields = texts(&read.list(23)?)?;
        let basis = read.text(24)?;
        let related = pairs(&read.list(25)?)?.into_iter().map(|(kind, id)| Related { kind, id }).collect();
        let context = Context {
            session_id: read.text(26)?,
            client_ip: read.text(27)?,
            user_agent: read.text(28)?,
            request_id: read.text(29)?,
            facility: read.text(30)?,
            device: read.text(31)?,
        };
        let facts = pairs(&read.list(40)?)?;
        if !facts.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(NotCanonical("facts do not rise"));
        }
        read.finish()?;
        let id = Uuid::from_bytes(id);
        Ok(Self {
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
            facts,
        })
    }
}

impl Context {
    /// The parts in the order of their tags.
    fn parts(&self) -> [&Option<String>; 6] {
        [&self.session_id, &self.client_ip, &self.user_agent, &self.request_id, &self.facility, &self.device]
    }
}

fn read_patient(read: &mut Reader<'_>) -> Result<Option<Patient>, NotCanonical> {
    let plain = read.text(12)?.map(Patient::Plain);
    let blind = read.array::<20>(13)?.map(|bytes| {
        let (version, token) = bytes.split_at(4);
        Patient::Blind {
            version: u32::from_be_bytes(version.try_into().expect("four bytes were split off")),
            token: token.try_into().expect("sixteen bytes are left"),
        }
    });
    match (plain, blind) {
        (Some(_), Some(_)) => Err(NotCanonical("a patient stands twice")),
        (plain, blind) => Ok(plain.or(blind)),
    }
}

fn read_record(read: &mut Reader<'_>) -> Result<Option<Record>, NotCanonical> {
    match (read.text(14)?, read.text(15)?, read.text(16)?) {
        (None, None, None) => Ok(None),
        (Some(kind), Some(id), version) => Ok(Some(Record { kind, id, version })),
        _ => Err(NotCanonical("a record is incomplete")),
    }
}

fn pair(first: &str, second: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + first.len() + second.len());
    put_prefixed(&mut out, first.as_bytes());
    put_prefixed(&mut out, second.as_bytes());
    out
}

fn pairs(items: &[&[u8]]) -> Result<Vec<(String, String)>, NotCanonical> {
    items
        .iter()
        .map(|item| {
            let mut rest = *item;
            let pair = (utf8(take_prefixed(&mut rest)?)?, utf8(take_prefixed(&mut rest)?)?);
            if rest.is_empty() { Ok(pair) } else { Err(NotCanonical("a pair has a tail")) }
        })
        .collect()
}

fn texts(items: &[&[u8]]) -> Result<Vec<String>, NotCanonical> {
    items.iter().map(|item| utf8(item)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Meta {
        Meta {
            id: Uuid::from_bytes([7; 16]),
            source: "ehr".into(),
            action: Action::UPDATE,
            outcome: Outcome::Success,
            occurred_at: Some(Timestamp(-1)),
            ended_at: None,
            effective_at: None,
            actor: Actor { id: "dr_smith".into(), role: Some("physician".into()), ..Actor::default() },
            patient: Some(Patient::Plain("MRN-1".into())),
            record: Some(Record { kind: "Condition".into(), id: "c-77".into(), version: None }),
            category: None,
            sensitivity: vec!["SUD".into()],
            reason: Reason { code: "TREAT".into(), note_given: true, ..Reason::default() },
            fields: vec!["diagnosis".into()],
            basis: None,
            related: vec![Related { kind: "Encounter".into(), id: "e-9".into() }],
            context: Context { session_id: Some("s".into()), ..Context::default() },
            facts: Vec::new(),
        }
    }

    #[test]
    fn the_golden_bytes_do_not_change() {
        let golden = "01010000001007070707070707070707070707070707020000000365687203000000067570646174650400000007737563636573730500000008ffffffffffffffff\
                      080000000864725f736d697468090000000970687973696369616e0c000000054d524e2d310e00000009436f6e646974696f6e0f00000004632d3737\
                      12000000070000000353554413000000055452454154160000000101170000000d00000009646961676e6f736973\
                      19000000180000001400000009456e636f756e74657200000003652d391a0000000173";
        assert_eq!(hex::encode(sample().encode()), golden);
        assert_eq!(Meta::decode(&hex::decode(golden).unwrap()).unwrap(), sample());
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_refused_or_means_something_else() {
        let bytes = sample().encode();
        for cut in 0..bytes.len() {
            if let Ok(meta) = Meta::decode(&bytes[..cut]) {
                assert_ne!(meta, sample());
                assert_eq!(meta.encode(), &bytes[..cut]);
            }
        }
        for position in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[position / 8] ^= 1 << (position % 8);
            if let Ok(meta) = Meta::decode(&flipped) {
                assert_eq!(meta.encode(), flipped, "accepted bytes are the canonical ones");
            }
        }
    }

    #[test]
    fn a_patient_is_plain_or_blind_never_both() {
        let mut meta = sample();
        meta.patient = Some(Patient::Blind { version: 3, token: [9; 16] });
        assert_eq!(Meta::decode(&meta.encode()).unwrap(), meta);
        let plain = sample().encode();
        let at = plain.windows(5).position(|window| window == b"MRN-1").unwrap() + 5;
        let mut both = plain[..at].to_vec();
        both.extend_from_slice(&[13, 0, 0, 0, 20]);
        both.extend_from_slice(&[0; 20]);
        both.extend_from_slice(&plain[at..]);
        assert!(Meta::decode(&both).is_err());
    }
}
