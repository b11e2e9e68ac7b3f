//! The scope of a breach: what was readable under a data-key version in a time, and who revealed what meanwhile, for the four
//! factors of 45 CFR 164.402(2).
//!
//! Which version an entry was under, and when, follows from the ledger alone: from the rotations and the re-encryptions that it
//! records. Where a moment leaves it open (an entry sealed just before a rotation and sequenced just after), the entry counts.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::crypto::seal;
use crate::domain::action::{Action, Outcome};
use crate::domain::caller::{Caller, Permission};
use crate::domain::meta::{BLIND_PREFIX, Meta, Patient, Record};
use crate::domain::submission::ReasonIn;
use crate::domain::time::Timestamp;
use crate::store::Row;

use super::Vault;
use super::approval::refused;
use super::error::VaultError;
use super::record::Note;
use super::search::decode;
use super::writer::SELF;

/// The most patients, and the most reveals, that such a report lists.
const MAX_LISTED: usize = 200_000;
/// An entry may have waited this long between its sealing and its place, microseconds.
const IN_FLIGHT: i64 = 60_000_000;

/// What is asked.
pub struct BreachAsked {
    /// The data-key version that may be known to others.
    pub key_version: u32,
    /// From when; `None`: from the beginning.
    pub from: Option<String>,
    /// Before when; `None`: until now.
    pub to: Option<String>,
    /// Why the report is made.
    pub reason: ReasonIn,
}

/// What was readable under a key.
#[derive(Serialize, ToSchema)]
pub struct BreachScope {
    /// When the report was made.
    #[schema(value_type = String, format = DateTime)]
    pub generated_at: Timestamp,
    /// The entry that records it.
    pub recorded_as: Uuid,
    /// The data-key version.
    pub key_version: u32,
    /// From when.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Timestamp>,
    /// Before when.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub to: Option<Timestamp>,
    /// Entries whose values were readable under it in that time.
    pub entries: u64,
    /// Of these, how many still are: sealed under it today.
    pub entries_now: u64,
    /// Entries of each category; empty name: none given.
    pub by_category: BTreeMap<String, u64>,
    /// The patients, and how many entries of each.
    pub patients: BTreeMap<String, u64>,
    /// Reveals through the vault in that time that named one of these patients, oldest first.
    pub reveals: Vec<RevealSeen>,
    /// The newest checkpoint.
    pub checkpoint: String,
}

/// Somebody revealed values.
#[derive(Serialize, ToSchema)]
pub struct RevealSeen {
    /// The entry that records it.
    pub id: Uuid,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// How many entries.
    pub entries: u64,
}

/// What the ledger records of keys, on the way through it.
#[derive(Default)]
struct History {
    /// From which time which version sealed, by rising time.
    active: Vec<(i64, u32)>,
    /// Re-encryptions of each sealed range, by its first entry: its end, and what went when to which version.
    moves: BTreeMap<u64, (u64, Vec<Move>)>,
    /// When values were erased, by certificate.
    erased: BTreeMap<Uuid, i64>,
}

/// A commit of a re-encryption.
struct Move {
    at: i64,
    version: u32,
    /// The entries that it went through.
    first: u64,
    last: u64,
}

impl History {
    fn add(&mut self, meta: &Meta<&str>, at: i64) {
        let number = |name| meta.fact(name).and_then(|it| it.parse::<u64>().ok());
        let version = number("active_version").and_then(|it| u32::try_from(it).ok());
        if meta.outcome != Outcome::Success {
            return;
        }
        match meta.action {
            Action::VAULT_CREATE => self.active.push((at, 1)),
            Action::KEY_ROTATE | Action::VAULT_RESTORE => self.active.extend(version.map(|it| (at, it))),
            Action::KEY_REENCRYPT => {
                if let (Some(from), Some(to), Some(version)) = (number("from"), number("to"), version) {
                    let (first, last) = (number("first").unwrap_or(from), number("last").unwrap_or(to));
                    let moves = &mut self.moves.entry(from).or_insert((to, Vec::new())).1;
                    moves.push(Move { at, version, first, last });
                }
            }
            Action::ERASE => {
                let certificate = meta.fact("certificate").and_then(|it| it.parse().ok());
                self.erased.extend(certificate.map(|it: Uuid| (it, at)));
            }
            Action::REDACT => drop(self.erased.insert(meta.id, at)),
            _ => {}
        }
    }

    /// Whether an entry was, or may have been, under `version` at some time in `from..to`.
    fn was_under(&self, version: u32, row: &Row, (from, to): (i64, i64)) -> bool {
        let born = row.received_at;
        let moved = self.moves.range(..=row.sequence).next_back().filter(|(_, (end, _))| row.sequence < *end);
        let moves = moved.map(|(_, (_, moves))| moves.as_slice()).unwrap_or_default();
        let erased = seal::is_erased(&row.sealed).and_then(|(_, it)| self.erased.get(&Uuid::from_bytes(it)));
        let end = erased.copied().unwrap_or(i64::MAX);
        // The versions it may have been sealed under first.
        let current = self.active.partition_point(|(at, _)| *at <= born);
        let first = self.active[..current].iter().enumerate().filter(|(n, _)| {
            let until = self.active.get(n + 1).map_or(i64::MAX, |(at, _)| *at);
            until.saturating_add(IN_FLIGHT) > born
        });
        let current = seal::counted_under(&row.sealed).0;
        let (mut was, mut explained) = (false, false);
        for start in first.map(|(_, (_, version))| *version) {
            let (mut under, mut since) = (start, born);
            let concerns =
                |it: &&Move| it.at >= born && it.version > start && (it.first..=it.last).contains(&row.sequence);
            for Move { at, version: next, .. } in moves.iter().filter(concerns) {
                was |= under == version && since < to && (*at).min(end) > from;
                (under, since) = (*next, *at);
            }
            was |= under == version && since < to && end > from;
            explained |= under == current;
        }
        // What the record itself shows goes before what the ledger tells: under-reporting a breach is the worse mistake.
        was || (current == version && !explained && born < to)
    }
}

impl Vault {
    /// What was readable under a data-key version in a time. All entries are read twice.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `Invalid`, `Busy`, or what recording says.
    pub fn breach_scope(&self, caller: &Caller, asked: BreachAsked) -> Result<BreachScope, VaultError> {
        self.allow(caller, Permission::Report, Action::REPORT)?;
        let reason = self.reason(caller, Action::REPORT, asked.reason)?;
        let time = |name: &str, text: &Option<String>| match text.as_deref().map(Timestamp::parse) {
            None => Ok(None),
            Some(Some(time)) => Ok(Some(time)),
            Some(None) => Err(refused(name, "parameter_invalid", "This parameter is an RFC 3339 time.")),
        };
        let (from, to) = (time("from", &asked.from)?, time("to", &asked.to)?);
        let version = asked.key_version;
        if !self.keys.ring().versions().iter().any(|it| it.version == version) {
            return Err(refused("key_version", "unknown_version", "There is no data-key version of that number."));
        }
        let _room = self.long_read()?;
        let mut note = Note::new(caller, Action::REPORT, reason);
        note.record = Some(Record::new("Report", "breach-scope"));
        note.facts.push(("key_version".into(), version.to_string()));
        let receipt = self.record(note)?;
        let period = (from.map_or(i64::MIN, |it| it.0), to.map_or(i64::MAX, |it| it.0));
        let mut scope = Scope { version, period, history: self.history(receipt.sequence)?, ..Scope::default() };
        self.every_row(receipt.sequence, &mut |row| scope.add(self, row))?;
        self.every_row(receipt.sequence, &mut |row| scope.reveal(row))?;
        let Scope { entries, entries_now, by_category, names, counts, reveals, .. } = scope;
        let patients =
            counts.into_iter().map(|(patient, count)| (names.get(&patient).cloned().unwrap_or_default(), count));
        Ok(BreachScope {
            generated_at: receipt.received_at,
            recorded_as: receipt.id,
            key_version: version,
            from,
            to,
            entries,
            entries_now,
            by_category,
            patients: patients.fold(BTreeMap::new(), |mut all, (name, count)| {
                *all.entry(name).or_default() += count;
                all
            }),
            reveals,
            checkpoint: self.ledger.checkpoint().note,
        })
    }

    fn history(&self, bound: u64) -> Result<History, VaultError> {
        let mut history = History::default();
        self.every_row(bound, &mut |row| {
            let meta = Meta::borrow(&row.meta).map_err(|error| VaultError::Integrity(error.to_string()))?;
            if meta.source == SELF {
                history.add(&meta, row.received_at);
            }
            Ok(())
        })?;
        Ok(history)
    }

    /// The id of a blinded patient that an entry names, if its values still open.
    fn name_in(&self, row: &Row, patient: &Patient) -> Result<Option<String>, VaultError> {
        match self.open_row(row) {
            Ok((clear, _)) => {
                let blinded = decode(row)?;
                let place = blinded.patients().position(|it| it == *patient);
                Ok(place.and_then(|place| clear.patients().nth(place)).map(|it| it.id_text()))
            }
            Err(VaultError::Shredded(_) | VaultError::Integrity(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn every_row(&self, bound: u64, each: &mut dyn FnMut(&Row) -> Result<(), VaultError>) -> Result<(), VaultError> {
        let mut failed = None;
        self.store.scan(0..bound, &mut |row| {
            failed = each(&row).err();
            failed.is_none()
        })?;
        failed.map_or(Ok(()), Err)
    }
}

/// The report while it is made.
#[derive(Default)]
struct Scope {
    version: u32,
    period: (i64, i64),
    history: History,
    entries: u64,
    entries_now: u64,
    by_category: BTreeMap<String, u64>,
    /// How each patient is shown, once for each form on disk.
    names: BTreeMap<String, String>,
    counts: BTreeMap<String, u64>,
    reveals: Vec<RevealSeen>,
}

impl Scope {
    fn add(&mut self, vault: &Vault, row: &Row) -> Result<(), VaultError> {
        let meta = decode(row)?;
        if meta.source == SELF || !self.history.was_under(self.version, row, self.period) {
            return Ok(());
        }
        self.entries += 1;
        self.entries_now += u64::from(seal::counted_under(&row.sealed).0 == self.version);
        *self.by_category.entry(meta.category.clone().unwrap_or_default()).or_default() += 1;
        // Entries name patients beside their own, such as a newborn in the mother's record.
        for patient in meta.patients() {
            self.count_patient(vault, row, &patient)?;
        }
        Ok(())
    }

    fn count_patient(&mut self, vault: &Vault, row: &Row, patient: &Patient) -> Result<(), VaultError> {
        let form = patient.id_text();
        *self.counts.entry(form.clone()).or_default() += 1;
        if self.counts.len() > MAX_LISTED {
            let detail = format!("This report would list more than {MAX_LISTED} patients; ask for a shorter time.");
            return Err(refused("from", "too_large", detail));
        }
        if self.names.get(&form).is_none_or(|it| it.starts_with(BLIND_PREFIX)) {
            let shown = match patient {
                Patient::Plain(id) => id.clone(),
                Patient::Blind { .. } => vault.name_in(row, patient)?.unwrap_or_else(|| form.clone()),
            };
            self.names.insert(form, shown);
        }
        Ok(())
    }

    /// A reveal in that time that named one of the patients.
    fn reveal(&mut self, row: &Row) -> Result<(), VaultError> {
        let meta = decode(row)?;
        let in_time = (self.period.0..self.period.1).contains(&row.received_at);
        if meta.action != Action::REVEAL || meta.outcome != Outcome::Success || !in_time {
            return Ok(());
        }
        if !meta.patients().any(|it| self.counts.contains_key(&it.id_text())) {
            return Ok(());
        }
        if self.reveals.len() == MAX_LISTED {
            let detail = format!("This report would list more than {MAX_LISTED} reveals; ask for a shorter time.");
            return Err(refused("from", "too_large", detail));
        }
        self.reveals.push(RevealSeen {
            id: meta.id,
            at: Timestamp(row.received_at),
            entries: meta.fact("entries").and_then(|it| it.parse().ok()).unwrap_or(1),
            actor: meta.actor.id,
            reason: meta.reason.code,
        });
        Ok(())
    }
}
