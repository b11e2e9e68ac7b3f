//! The plaintext metadata of an entry, and its canonical bytes: what is stored, what is hashed, what authenticates the
//! sealed values.

use uuid::Uuid;

use super::action::{Action, Outcome};
use super::canonical::{NotCanonical, Reader, Writer, put_prefixed, take_prefixed, utf8};
use super::time::Timestamp;

/// The version of the canonical form of [`Meta`].
pub const META_VERSION: u8 = 1;

/// Everything about an entry but its values, note, names and free text; `Meta<&str>` lies in the bytes it was read from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meta<S = String> {
    /// The entry's id and idempotency key.
    pub id: Uuid,
    /// The application that submitted it, named by its token; `phivault` for the vault's own entries.
    pub source: S,
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
    pub actor: Actor<S>,
    /// Whose record it was.
    pub patient: Option<Patient<S>>,
    /// Which record.
    pub record: Option<Record<S>>,
    /// The category of the content, such as `problems`.
    pub category: Option<S>,
    /// Labels of specially protected data, such as `SUD`.
    pub sensitivity: Vec<S>,
    /// Why.
    pub reason: Reason<S>,
    /// The names of the changed fields, in the order submitted.
    pub fields: Vec<S>,
    /// The legal basis of a disclosure.
    pub basis: Option<S>,
    /// What else it belongs to.
    pub related: Vec<Related<S>>,
    /// Where it came from.
    pub context: Context<S>,
    /// Facts that the vault states, by rising name: about itself in its own entries, marks of changes in others.
    pub facts: Vec<(S, S)>,
}

/// Who did it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Actor<S = String> {
    /// The user's unique id (45 CFR 164.312(a)(2)(i)).
    pub id: S,
    /// The role acted in.
    pub role: Option<S>,
    /// `user` or `system`.
    pub kind: Option<S>,
    /// The user a system or delegate acted for.
    pub on_behalf_of: Option<S>,
}

/// Whose record it was.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Patient<S = String> {
    /// The id in clear.
    Plain(S),
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
pub struct Record<S = String> {
    /// Its type, such as `Condition`.
    pub kind: S,
    /// Its id within the type.
    pub id: S,
    /// Its version after the change.
    pub version: Option<S>,
    /// The version of the application's data model that its fields are named by.
    pub schema: Option<S>,
}

/// Why it was done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reason<S = String> {
    /// The code as submitted.
    pub code: S,
    /// The standard code it stands for, when it is a site's own.
    pub standard: Option<S>,
    /// The change reason code.
    pub change: Option<S>,
    /// Whether a note was given. The note itself is sealed.
    pub note_given: bool,
    /// Whether the vocabulary counts the code as break-the-glass.
    pub break_glass: bool,
}

/// Something an entry belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Related<S = String> {
    /// Its type, such as `Encounter`.
    pub kind: S,
    /// Its id.
    pub id: S,
}

/// Where it came from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Context<S = String> {
    /// The session of the application.
    pub session_id: Option<S>,
    /// The address of the user's machine.
    pub client_ip: Option<S>,
    /// The user's program.
    pub user_agent: Option<S>,
    /// The request in the application.
    pub request_id: Option<S>,
    /// The facility.
    pub facility: Option<S>,
    /// The device.
    pub device: Option<S>,
}

/// The type of a record or related thing that is a patient; with blind ids its id is blinded too.
pub const PATIENT_TYPE: &str = "Patient";

/// How a blind index is written where an id text stands. No submitted id of a patient may begin with it.
pub const BLIND_PREFIX: &str = "blind:";

/// Whether a type, however it is written, is [`PATIENT_TYPE`].
pub fn is_patient_type(kind: &str) -> bool {
    kind.eq_ignore_ascii_case(PATIENT_TYPE)
}

impl Record {
    /// A record of a type.
    pub fn new(kind: &str, id: impl Into<String>) -> Self {
        Self { kind: kind.to_owned(), id: id.into(), ..Self::default() }
    }
}

impl<S: AsRef<str>> Patient<S> {
    /// As an id text: the id itself, or `blind:<version>:<hex>`.
    pub fn id_text(&self) -> String {
        match self {
            Self::Plain(id) => id.as_ref().to_owned(),
            Self::Blind { version, token } => format!("{BLIND_PREFIX}{version}:{}", hex::encode(token)),
        }
    }

    /// The same patient, borrowed.
    pub fn borrowed(&self) -> Patient<&str> {
        match self {
            Self::Plain(id) => Patient::Plain(id.as_ref()),
            Self::Blind { version, token } => Patient::Blind { version: *version, token: *token },
        }
    }
}

impl Patient<&str> {
    /// The same patient, in memory of its own.
    pub fn owned(self) -> Patient {
        match self {
            Self::Plain(id) => Patient::Plain(id.to_owned()),
            Self::Blind { version, token } => Patient::Blind { version, token },
        }
    }
}

impl<'a, S: From<&'a str>> Patient<S> {
    /// What [`Patient::id_text`] wrote.
    pub fn from_id_text(text: &'a str) -> Self {
        let blind = text.strip_prefix(BLIND_PREFIX).and_then(|rest| {
            let (version, token) = rest.split_once(':')?;
            let token = <[u8; 16]>::try_from(hex::decode(token).ok()?).ok()?;
            Some(Self::Blind { version: version.parse().ok()?, token })
        });
        blind.unwrap_or_else(|| Self::Plain(text.into()))
    }
}

impl<S: AsRef<str>> Meta<S> {
    /// The value of a fact of that name.
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.facts.iter().find(|(key, _)| key.as_ref() == name).map(|(_, value)| value.as_ref())
    }

    /// The patients it names beside its own: a record or related things of type `Patient`.
    pub fn other_patients(&self) -> impl Iterator<Item = Patient<&str>> {
        let record = self.record.iter().map(|it| (&it.kind, &it.id));
        let named = record.chain(self.related.iter().map(|it| (&it.kind, &it.id)));
        let patients = named.filter(|(kind, _)| is_patient_type(kind.as_ref()));
        let own = self.patient.as_ref().map(Patient::borrowed);
        patients.map(|(_, id)| Patient::from_id_text(id.as_ref())).filter(move |it| Some(it) != own.as_ref())
    }

    /// Its own patient and every other it names.
    pub fn patients(&self) -> impl Iterator<Item = Patient> {
        self.patient.iter().map(Patient::borrowed).chain(self.other_patients()).map(Patient::owned)
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(META_VERSION);
        out.bytes(1, self.id.as_bytes());
        out.text(2, self.source.as_ref());
        out.text(3, self.action.name());
        out.text(4, self.outcome.name());
        for (tag, time) in [(5, self.occurred_at), (6, self.ended_at), (7, self.effective_at)] {
            if let Some(time) = time {
                out.bytes(tag, &time.0.to_be_bytes());
            }
        }
        out.text(8, self.actor.id.as_ref());
        out.optional(9, self.actor.role.as_ref().map(S::as_ref));
        out.optional(10, self.actor.kind.as_ref().map(S::as_ref));
        out.optional(11, self.actor.on_behalf_of.as_ref().map(S::as_ref));
        match &self.patient {
            None => {}
            Some(Patient::Plain(id)) => out.text(12, id.as_ref()),
            Some(Patient::Blind { version, token }) => {
                out.bytes(13, &[version.to_be_bytes().as_slice(), token.as_slice()].concat());
            }
        }
        if let Some(record) = &self.record {
            out.text(14, record.kind.as_ref());
            out.text(15, record.id.as_ref());
            out.optional(16, record.version.as_ref().map(S::as_ref));
        }
        out.optional(17, self.category.as_ref().map(S::as_ref));
        out.list(18, self.sensitivity.iter().map(|it| it.as_ref().as_bytes()));
        out.text(19, self.reason.code.as_ref());
        out.optional(20, self.reason.standard.as_ref().map(S::as_ref));
        out.optional(21, self.reason.change.as_ref().map(S::as_ref));
        out.bytes(22, &[u8::from(self.reason.note_given) | u8::from(self.reason.break_glass) << 1]);
        out.list(23, self.fields.iter().map(|it| it.as_ref().as_bytes()));
        out.optional(24, self.basis.as_ref().map(S::as_ref));
        let related: Vec<_> = self.related.iter().map(|it| pair(it.kind.as_ref(), it.id.as_ref())).collect();
        out.list(25, related.iter().map(Vec::as_slice));
        for (tag, value) in (26..).zip(self.context.parts()) {
            out.optional(tag, value.as_ref().map(S::as_ref));
        }
        let facts: Vec<_> = self.facts.iter().map(|(name, value)| pair(name.as_ref(), value.as_ref())).collect();
        out.list(40, facts.iter().map(Vec::as_slice));
        out.optional(41, self.record.as_ref().and_then(|it| it.schema.as_ref()).map(S::as_ref));
        out.finish()
    }
}

impl Meta {
    /// Reads canonical bytes back.
    ///
    /// # Errors
    /// [`NotCanonical`] for anything that [`Meta::encode`] would not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotCanonical> {
        Self::read(bytes)
    }
}

impl<'a> Meta<&'a str> {
    /// The same as [`Meta::decode`], without copying.
    ///
    /// # Errors
    /// As [`Meta::decode`].
    pub fn borrow(bytes: &'a [u8]) -> Result<Self, NotCanonical> {
        Self::read(bytes)
    }
}

impl<'a, S: From<&'a str> + AsRef<str> + Default> Meta<S> {
    fn read(bytes: &'a [u8]) -> Result<Self, NotCanonical> {
        let mut read = Reader::new(bytes, META_VERSION)?;
        let id = read.array::<16>(1)?.ok_or(NotCanonical("a required field is missing"))?;
        let source = read.required_text(2)?.into();
        let action = Action::parse(read.required_text(3)?).ok_or(NotCanonical("an unknown action"))?;
        let outcome = Outcome::parse(read.required_text(4)?).ok_or(NotCanonical("an unknown outcome"))?;
        let mut time = |tag| Ok(read.array::<8>(tag)?.map(|bytes| Timestamp(i64::from_be_bytes(bytes))));
        let (occurred_at, ended_at, effective_at) = (time(5)?, time(6)?, time(7)?);
        let actor = Actor {
            id: read.required_text(8)?.into(),
            role: read.text(9)?.map(S::from),
            kind: read.text(10)?.map(S::from),
            on_behalf_of: read.text(11)?.map(S::from),
        };
        let patient = read_patient(&mut read)?;
        let mut record = read_record(&mut read)?;
        let category = read.text(17)?.map(S::from);
        let sensitivity = texts(&read.list(18)?)?;
        let mut reason = Reason {
            code: read.required_text(19)?.into(),
            standard: read.text(20)?.map(S::from),
            change: read.text(21)?.map(S::from),
            ..Reason::default()
        };
        let [flags] = read.array::<1>(22)?.ok_or(NotCanonical("a required field is missing"))?;
        if flags > 3 {
            return Err(NotCanonical("an unknown flag"));
        }
        reason.note_given = flags & 1 != 0;
        reason.break_glass = flags & 2 != 0;
        let fields = texts(&read.list(23)?)?;
        let basis = read.text(24)?.map(S::from);
        let related = pairs(&read.list(25)?)?.into_iter().map(|(kind, id)| Related { kind, id }).collect();
        let context = Context {
            session_id: read.text(26)?.map(S::from),
            client_ip: read.text(27)?.map(S::from),
            user_agent: read.text(28)?.map(S::from),
            request_id: read.text(29)?.map(S::from),
            facility: read.text(30)?.map(S::from),
            device: read.text(31)?.map(S::from),
        };
        let facts = read_facts(&mut read)?;
        match (read.text(41)?, &mut record) {
            (None, _) => {}
            (Some(schema), Some(record)) => record.schema = Some(schema.into()),
            (Some(_), None) => return Err(NotCanonical("a schema without a record")),
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

impl<S> Context<S> {
    /// The parts in the order of their tags.
    fn parts(&self) -> [&Option<S>; 6] {
        [&self.session_id, &self.client_ip, &self.user_agent, &self.request_id, &self.facility, &self.device]
    }
}

fn read_patient<'a, S: From<&'a str>>(read: &mut Reader<'a>) -> Result<Option<Patient<S>>, NotCanonical> {
    let plain = read.text(12)?.map(|id| Patient::Plain(id.into()));
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

fn read_facts<'a, S: From<&'a str> + AsRef<str>>(read: &mut Reader<'a>) -> Result<Vec<(S, S)>, NotCanonical> {
    let facts: Vec<(S, S)> = pairs(&read.list(40)?)?;
    if facts.is_sorted_by(|a, b| a.0.as_ref() < b.0.as_ref()) {
        Ok(facts)
    } else {
        Err(NotCanonical("facts do not rise"))
    }
}

fn read_record<'a, S: From<&'a str>>(read: &mut Reader<'a>) -> Result<Option<Record<S>>, NotCanonical> {
    match (read.text(14)?, read.text(15)?, read.text(16)?) {
        (None, None, None) => Ok(None),
        (Some(kind), Some(id), version) => {
            Ok(Some(Record { kind: kind.into(), id: id.into(), version: version.map(S::from), schema: None }))
        }
        _ => Err(NotCanonical("a record is incomplete")),
    }
}

fn pair(first: &str, second: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + first.len() + second.len());
    put_prefixed(&mut out, first.as_bytes());
    put_prefixed(&mut out, second.as_bytes());
    out
}

fn pairs<'a, S: From<&'a str>>(items: &[&'a [u8]]) -> Result<Vec<(S, S)>, NotCanonical> {
    items
        .iter()
        .map(|item| {
            let mut rest = *item;
            let pair = (utf8(take_prefixed(&mut rest)?)?.into(), utf8(take_prefixed(&mut rest)?)?.into());
            if rest.is_empty() { Ok(pair) } else { Err(NotCanonical("a pair has a tail")) }
        })
        .collect()
}

fn texts<'a, S: From<&'a str>>(items: &[&'a [u8]]) -> Result<Vec<S>, NotCanonical> {
    items.iter().map(|item| utf8(item).map(S::from)).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> Meta {
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
            record: Some(Record::new("Condition", "c-77")),
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
