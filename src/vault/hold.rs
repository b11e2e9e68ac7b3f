//! Legal holds: while one covers an entry, nothing of it is disposed of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::crypto::seal;
use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::meta::{Meta, Patient, Record, is_patient_type};
use crate::domain::query::{Filter, QueryIn};
use crate::domain::rules::{MAX_TEXT_BYTES, identifier};
use crate::domain::submission::{ReasonIn, object};
use crate::domain::time::Timestamp;
use crate::store::{Order, Row};

use super::Vault;
use super::approval::refused;
use super::book;
use super::error::VaultError;
use super::record::{CheckedReason, Note, default_reason};
use super::standing::{STATE_DIGEST, digest_of};

/// The kind of a hold's state row.
pub(super) const KIND: &str = "hold";
/// The most holds in force at a time.
const MAX_HOLDS: usize = 1_000;

/// What a hold covers: all given parts must hold of an entry, now or in the future.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// Whose record it is; entries that name the patient beside another are covered too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patient: Option<String>,
    /// Who did it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// The type of the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record_type: Option<String>,
    /// The id of the record; needs `record_type`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record_id: Option<String>,
    /// The category.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// Received not before this time (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Received before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// A hold as it is asked for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HoldIn {
    /// Its name, such as the case number.
    pub name: Option<String>,
    /// Who ordered it: court, counsel, agency, with the reference. Sealed.
    pub authority: Option<String>,
    /// What it covers; at least one part.
    #[serde(default, deserialize_with = "object")]
    pub scope: Option<Scope>,
    /// Why.
    #[serde(default, deserialize_with = "object")]
    pub reason: Option<ReasonIn>,
}

/// A legal hold.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Hold {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Who ordered it.
    pub authority: String,
    /// What it covers.
    pub scope: Scope,
    /// Who placed it.
    pub placed_by: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub placed_at: Timestamp,
    /// Entries that it covered when it was placed; those to come are covered too. None may be a mistyped id.
    pub covered_when_placed: u64,
    /// Who lifted it.
    pub lifted_by: Option<String>,
    /// When.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub lifted_at: Option<Timestamp>,
}

/// All holds. While it is taken, none can be placed or lifted.
pub(super) type Holds<'a> = MutexGuard<'a, BTreeMap<String, Hold>>;

/// The filters of the holds in force, by their names.
pub(super) struct InForce {
    filters: Vec<(String, Filter)>,
    /// The versions of the blind index that can still be told apart.
    index_versions: Vec<u32>,
}

impl InForce {
    pub(super) fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// The names of the holds that cover an entry. What cannot be read is covered by all.
    pub(super) fn covering<'a>(&'a self, row: &'a Row) -> impl Iterator<Item = &'a str> {
        let meta = Meta::decode(&row.meta).ok();
        let at = Timestamp(row.received_at);
        // Once an index key is destroyed nobody can tell whose an entry of its time is, so it is taken for each patient's.
        let unknown = |patient: &Patient| matches!(patient, Patient::Blind { version, .. } if !self.index_versions.contains(version));
        let anybodys = meta.as_ref().is_some_and(|meta| meta.patients().any(|it| unknown(&it)));
        let covers = move |filter: &Filter| {
            let Some(meta) = &meta else { return true };
            let rest = || Filter { patient: None, ..filter.clone() };
            filter.matches(meta, at) || (anybodys && filter.patient.is_some() && rest().matches(meta, at))
        };
        self.filters.iter().filter(move |(_, filter)| covers(filter)).map(|(name, _)| name.as_str())
    }

    /// Whether one of them is about a patient.
    pub(super) fn names_a_patient(&self) -> bool {
        let of_patient =
            |filter: &Filter| filter.patient.is_some() || filter.record_type.as_deref().is_some_and(is_patient_type);
        self.filters.iter().any(|(_, filter)| of_patient(filter))
    }
}

impl Vault {
    /// Places a hold, at once.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `Invalid`, or what recording says.
    pub fn place_hold(&self, caller: &Caller, asked: HoldIn) -> Result<Hold, VaultError> {
        self.allow(caller, Permission::ManageHolds, Action::HOLD_PLACE)?;
        let reason = self.reason(caller, Action::HOLD_PLACE, asked.reason.unwrap_or_default())?;
        let name = identifier("/name", asked.name.unwrap_or_default()).map_err(VaultError::Invalid)?;
        let authority = text("/authority", asked.authority)?;
        let scope = asked.scope.unwrap_or_default();
        if scope == Scope::default() {
            return Err(refused(
                "/scope",
                "missing",
                "Say what the hold covers: a patient, actor, record, category or time.",
            ));
        }
        let covered_when_placed = self.count_matches(&self.filter_of(&scope)?)?;
        let mut holds = self.holds();
        let in_force = |it: &&Hold| it.lifted_at.is_none();
        if holds.values().filter(in_force).count() >= MAX_HOLDS {
            return Err(refused("", "too_many", format!("At most {MAX_HOLDS} holds are in force at a time.")));
        }
        if holds.values().filter(in_force).any(|it| it.name == name) {
            return Err(refused("/name", "name_taken", "A hold of this name is in force; choose another name."));
        }
        let hold = Hold {
            id: format!("hold-{}", hex::encode(crate::crypto::random::array::<8>())),
            name,
            authority,
            scope,
            placed_by: caller.label.clone(),
            placed_at: self.clock.now(),
            covered_when_placed,
            lifted_by: None,
            lifted_at: None,
        };
        self.record_hold(caller, Action::HOLD_PLACE, reason, &hold)?;
        holds.insert(hold.id.clone(), hold.clone());
        Ok(hold)
    }

    /// Lifts a hold. What it covered follows its retention again.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `NotFound`, `Invalid`, or what recording says.
    pub fn lift_hold(&self, caller: &Caller, id: &str, reason: ReasonIn) -> Result<Hold, VaultError> {
        self.allow(caller, Permission::ManageHolds, Action::HOLD_LIFT)?;
        let reason = self.reason(caller, Action::HOLD_LIFT, reason)?;
        let mut holds = self.holds();
        let hold = holds.get(id).cloned().ok_or(VaultError::NotFound)?;
        if hold.lifted_at.is_some() {
            return Err(refused("/id", "lifted", "This hold was lifted already."));
        }
        let hold = Hold { lifted_by: Some(caller.label.clone()), lifted_at: Some(self.clock.now()), ..hold };
        self.record_hold(caller, Action::HOLD_LIFT, reason, &hold)?;
        holds.insert(hold.id.clone(), hold.clone());
        Ok(hold)
    }

    /// All holds, newest first. Recorded, for they name patients.
    ///
    /// # Errors
    /// [`VaultError::Denied`], or what recording says.
    pub fn list_holds(&self, caller: &Caller) -> Result<Vec<Hold>, VaultError> {
        self.allow(caller, Permission::ListHolds, Action::RETENTION_PLAN)?;
        self.record(Note::new(caller, Action::RETENTION_PLAN, default_reason()))?;
        let mut all: Vec<_> = self.holds().values().cloned().collect();
        all.sort_by(|a, b| (b.placed_at, &b.id).cmp(&(a.placed_at, &a.id)));
        Ok(all)
    }

    pub(super) fn holds(&self) -> Holds<'_> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The filters of the holds that are in force.
    pub(super) fn in_force(&self, holds: &Holds<'_>) -> Result<InForce, VaultError> {
        if self.holds_untrusted {
            let detail = "A legal hold's row in the database was altered or removed, so nobody can tell what is held. Nothing is destroyed until the database is restored from a backup that holds it (see `phivault verify`).";
            return Err(refused("", "holds_untrusted", detail));
        }
        let live = holds.values().filter(|it| it.lifted_at.is_none());
        let filters = live.map(|it| Ok((it.name.clone(), self.filter_of(&it.scope)?)));
        let index_versions = self.keys.ring().index_keys().iter().map(|it| it.version).collect();
        Ok(InForce { filters: filters.collect::<Result<_, VaultError>>()?, index_versions })
    }

    /// Which holds cover records of which buckets. All entries are read, for the index is not to be believed.
    pub(super) fn held_buckets(&self, in_force: &InForce) -> Result<BTreeMap<u32, BTreeSet<String>>, VaultError> {
        let mut held: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
        if in_force.is_empty() {
            return Ok(held);
        }
        self.store.scan(0..self.store.size(), &mut |row| {
            let (_, bucket) = seal::counted_under(&row.sealed);
            let mut names = in_force.covering(&row).map(str::to_owned).peekable();
            if names.peek().is_some() {
                held.entry(bucket).or_default().extend(names);
            }
            true
        })?;
        Ok(held)
    }

    /// How many entries a filter finds now.
    fn count_matches(&self, filter: &Filter) -> Result<u64, VaultError> {
        let (terms, size) = (filter.terms(), self.store.size());
        let meets = |row: &Row| {
            let meta = Meta::decode(&row.meta);
            u64::from(meta.is_ok_and(|meta| filter.matches(&meta, Timestamp(row.received_at))))
        };
        let (mut count, mut position) = (0, 0);
        if terms.is_empty() {
            self.store.scan(0..size, &mut |row| {
                count += meets(&row);
                true
            })?;
            return Ok(count);
        }
        loop {
            let found = self.store.find(&terms, position..size, Order::OldestFirst, 4_096)?;
            for row in self.each_row(&found.sequences) {
                count += meets(&row?);
            }
            match found.next {
                Some(next) => position = next,
                None => return Ok(count),
            }
        }
    }

    fn filter_of(&self, scope: &Scope) -> Result<Filter, VaultError> {
        let Scope { patient, actor, record_type, record_id, category, from, to } = scope.clone();
        let query = QueryIn { patient, actor, record_type, record_id, category, from, to, ..QueryIn::default() };
        let placed = |mut issue: crate::domain::issue::Issue| {
            issue.pointer = format!("/scope/{}", issue.pointer);
            issue
        };
        let checked = query.check(|id| self.patient_forms(id));
        checked.map(|it| it.filter).map_err(|found| VaultError::Invalid(found.into_iter().map(placed).collect()))
    }

    fn record_hold(
        &self,
        caller: &Caller,
        action: Action,
        reason: CheckedReason,
        hold: &Hold,
    ) -> Result<(), VaultError> {
        let row = book::row(&self.keys.ring(), KIND, &hold.id, hold);
        let mut note = Note::new(caller, action, reason);
        note.record = Some(Record::new("Hold", &row.id));
        note.facts = vec![(STATE_DIGEST.into(), digest_of(&row))];
        note.seal("hold", serde_json::to_string(hold).expect("it is made of text and times"));
        note.state.push(row);
        self.record(note)?;
        self.sign_now();
        Ok(())
    }
}

/// A sealed text that must be there.
pub(super) fn text(pointer: &str, text: Option<String>) -> Result<String, VaultError> {
    let text = text.map(|it| it.trim().to_owned()).unwrap_or_default();
    match text.len() {
        0 => Err(refused(pointer, "missing", "Say who ordered it, with the reference.")),
        1..=MAX_TEXT_BYTES => Ok(text),
        _ => Err(refused(pointer, "too_long", format!("This text is limited to {MAX_TEXT_BYTES} bytes."))),
    }
}
