//! The end of values: what falls due, disposing of a bucket, and erasing one entry's values by order. Metadata and proofs stay.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::crypto::keyring::{Bucket, OWN_BUCKET};
use crate::crypto::seal;
use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::retention::Keep;
use crate::domain::time::Timestamp;
use crate::store::Row;

use super::Vault;
use super::approval::{By, refused};
use super::error::VaultError;
use super::fault;
use super::hold::{InForce, text};
use super::keys::Barred;
use super::record::{Note, default_reason, vault_itself};
use super::reseal::{Fate, Resealer, Work, count};
use super::search::{decode, entry_record};
use super::writer::find_id;

/// The most buckets of a vault: some dozens a year are usual, and the keyring must stay small enough to be read.
const MAX_BUCKETS: usize = 8_192;

/// What falls due when.
#[derive(Serialize, ToSchema)]
pub struct RetentionPlan {
    /// The time now, as the vault sees it.
    #[schema(value_type = String, format = DateTime)]
    pub now: Timestamp,
    /// All buckets, those due first.
    pub buckets: Vec<PlannedBucket>,
}

/// What dies together.
#[derive(Serialize, ToSchema)]
pub struct PlannedBucket {
    /// Its number.
    pub bucket: u32,
    /// Its retention class.
    pub class: String,
    /// When its retention ends; absent: never.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Entries whose values are in it.
    pub entries: u64,
    /// kept, due, held or disposed.
    pub state: &'static str,
    /// The holds that cover something in it.
    pub held_by: Vec<String>,
    /// The certificate of its disposal.
    pub certificate: Option<Uuid>,
}

/// A bucket that was disposed of.
#[derive(Serialize, ToSchema)]
pub struct Disposed {
    /// The certificate: the id of the entry that records it.
    pub certificate: Uuid,
    /// The bucket.
    pub bucket: u32,
    /// Entries whose values are gone.
    pub entries: u64,
    /// The generation of the keyring file.
    pub keyring_generation: u64,
    /// Until when a backup of the keyring may still hold its secret, as the settings say how long those are kept.
    #[schema(value_type = String, format = DateTime)]
    pub undoable_until: Timestamp,
}

/// An entry whose values were erased.
#[derive(Serialize, ToSchema)]
pub struct Redacted {
    /// The certificate: the id of the entry that records it.
    pub certificate: Uuid,
    /// The entry.
    pub redacted: Uuid,
    /// Until when a backup of the database may still hold its values, as the settings say how long those are kept.
    #[schema(value_type = String, format = DateTime)]
    pub undoable_until: Timestamp,
}

impl Vault {
    /// What falls due, and what holds block. Recorded.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `Busy`, or what recording says.
    pub fn retention_plan(&self, caller: &Caller) -> Result<RetentionPlan, VaultError> {
        self.allow(caller, Permission::SeeRetention, Action::RETENTION_PLAN)?;
        let _room = self.long_read()?;
        self.record(Note::new(caller, Action::RETENTION_PLAN, default_reason()))?;
        let in_force = self.in_force(&self.holds())?;
        let held = self.held_buckets(&in_force)?;
        let mut entries: BTreeMap<u32, u64> = BTreeMap::new();
        for it in self.store.usage()?.iter().filter(|it| it.version > 0) {
            *entries.entry(it.bucket).or_default() += u64::try_from(it.entries).unwrap_or(0);
        }
        let now = self.clock.now();
        let mut buckets: Vec<_> =
            self.keys.ring().buckets().iter().map(|it| planned(it, &entries, &held, now)).collect();
        buckets.sort_by_key(|it| (it.state == "disposed", it.expires_at.map_or(i64::MAX, |it| it.0), it.bucket));
        Ok(RetentionPlan { now, buckets })
    }

    /// Whether a bucket can be disposed of: its time has ended, and no hold covers anything in it.
    pub(super) fn disposable(&self, bucket: u32) -> Result<Bucket, VaultError> {
        let _room = self.long_read()?;
        let in_force = self.in_force(&self.holds())?;
        self.disposable_under(bucket, &in_force)
    }

    fn disposable_under(&self, bucket: u32, in_force: &InForce) -> Result<Bucket, VaultError> {
        let ring = self.keys.ring();
        let found = ring.bucket(bucket).filter(|it| it.id != OWN_BUCKET);
        let found = found.ok_or_else(|| {
            let detail = "There is no bucket of this number that is ever disposed of; bucket 1 holds the vault's own entries and stays.";
            refused("/bucket", "unknown_bucket", detail)
        })?;
        if found.certificate.is_some() {
            return Err(refused("/bucket", "disposed", "This bucket was disposed of already."));
        }
        if found.expires_at.is_none_or(|end| end > self.clock.now()) {
            let end = found.expires_at.map_or_else(|| "never ends".to_owned(), |it| format!("ends {it}"));
            return Err(refused(
                "/bucket",
                "not_due",
                format!("The retention of this bucket (class {}) {end}.", found.class),
            ));
        }
        let held = self.held_buckets(in_force)?;
        match held.get(&bucket) {
            Some(names) => Err(held_by(names.iter().map(String::as_str))),
            None => Ok(found.clone()),
        }
    }

    /// Disposes of a bucket: its secret is destroyed first, then the sealed records are erased. If the process dies between, the
    /// next start erases them.
    pub(super) fn dispose(&self, by: &By<'_>, bucket: u32) -> Result<Disposed, VaultError> {
        let _room = self.long_read()?;
        let _alone = self.alone();
        let _bar = self.keys.bar(Barred::Bucket(bucket));
        self.drain()?;
        // From here on no hold can be placed or lifted until the secret is gone.
        let holds = self.holds();
        let found = self.disposable_under(bucket, &self.in_force(&holds)?)?;
        let entries: u64 = count(&*self.store)?
            .iter()
            .filter(|((version, it), _)| *version > 0 && *it == bucket)
            .map(|(_, n)| n)
            .sum();
        let certificate = Uuid::now_v7();
        let change = self.changing_keys();
        let after = self.keys.ring().without_bucket(bucket, *certificate.as_bytes());
        let after = after.ok_or_else(|| refused("/bucket", "disposed", "This bucket cannot be disposed of."))?;
        let mut note = by.note(Action::DISPOSE);
        note.id = Some(certificate);
        let undoable_until = self.undoable_until();
        note.facts.extend([
            ("bucket".to_owned(), bucket.to_string()),
            ("class".to_owned(), found.class),
            ("entries".to_owned(), entries.to_string()),
            ("expired_at".to_owned(), found.expires_at.map_or_else(String::new, |it| it.to_string())),
            ("undoable_until".to_owned(), undoable_until.to_string()),
        ]);
        let keyring_generation = after.generation();
        self.change_keyring(change, note, after)?;
        drop(holds);
        fault::point("secret-gone");
        self.erase(bucket, certificate)?;
        Ok(Disposed { certificate, bucket, entries, keyring_generation, undoable_until })
    }

    /// Erases the records of buckets whose secret is gone, as a start does after a crash.
    pub(super) fn finish_disposals(&self) -> Result<(), VaultError> {
        let ring = self.keys.ring();
        let left = self.store.usage()?;
        for bucket in ring.buckets() {
            let Some(certificate) = bucket.certificate else { continue };
            if left.iter().any(|it| it.version > 0 && it.bucket == bucket.id) {
                self.erase(bucket.id, Uuid::from_bytes(certificate))?;
            }
        }
        Ok(())
    }

    /// Erases the records of a bucket. Its secret is gone already; nobody else replaces records meanwhile.
    fn erase(&self, bucket: u32, certificate: Uuid) -> Result<(), VaultError> {
        let segments = self.store.usage()?.into_iter().filter(|it| it.version > 0 && it.bucket == bucket);
        let mut resealer = self.resealer();
        let mut position = 0;
        for segment in segments.map(|it| it.segment).collect::<std::collections::BTreeSet<_>>() {
            position = position.max(segment * crate::store::SEGMENT);
            let end = self.store.size().min((segment + 1) * crate::store::SEGMENT);
            while position < end {
                let range = resealer.range_of(position)?;
                position = range.end;
                let work = Work {
                    action: Action::ERASE,
                    facts: vec![("certificate".to_owned(), certificate.to_string())],
                    note: None,
                    wanted: &|_, sealed| matches!(seal::counted_under(sealed), (1.., it) if it == bucket),
                    fate: &|_| Fate::Replaced(seal::erased(bucket, certificate.as_bytes())),
                    go_on: &|_| true,
                };
                match resealer.replace(range, &work) {
                    Ok(_) => {}
                    // Somebody altered a record of this range; nothing in it can be read any more all the same.
                    Err(VaultError::Integrity(what)) => {
                        self.counters.integrity_failures.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        tracing::error!(what, "a range was not erased; run phivault verify");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        resealer.finish()?;
        self.flush();
        Ok(())
    }

    /// What was replaced leaves the write-ahead log too, now if nobody is reading.
    fn flush(&self) {
        if let Err(error) = self.store.flush() {
            tracing::warn!(%error, "the write-ahead log still holds what was erased, until the next checkpoint or start");
        }
    }

    pub(super) fn resealer(&self) -> Resealer {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Resealer::new(self.store.apart(1), self.keys.clone(), self.ledger.clone(), queue, self.stated.clone())
    }

    /// Whether the values of an entry can be erased.
    pub(super) fn redactable(&self, id: Uuid, authority: &str) -> Result<Row, VaultError> {
        let in_force = self.in_force(&self.holds())?;
        self.redactable_under(id, authority, &in_force)
    }

    fn redactable_under(&self, id: Uuid, authority: &str, in_force: &InForce) -> Result<Row, VaultError> {
        text("/authority", Some(authority.to_owned()))?;
        let row = find_id(&*self.store, id, 0..self.store.size())?.ok_or(VaultError::NotFound)?;
        if decode(&row)?.source == super::writer::SELF {
            return Err(refused("/entry", "own_entry", "This is the vault's own record of what it did; it stays."));
        }
        if seal::is_erased(&row.sealed).is_some() {
            return Err(refused("/entry", "erased", "The values of this entry were erased already."));
        }
        let names: Vec<_> = in_force.covering(&row).map(str::to_owned).collect();
        if names.is_empty() { Ok(row) } else { Err(held_by(names.iter().map(String::as_str))) }
    }

    /// Erases the values of one entry, in one commit with the entry that records it.
    pub(super) fn redact(&self, by: &By<'_>, id: Uuid, authority: &str) -> Result<Redacted, VaultError> {
        let _alone = self.alone();
        // A hold that was placed before this is seen, and one that comes now waits until it is done.
        let holds = self.holds();
        let row = self.redactable_under(id, authority, &self.in_force(&holds)?)?;
        let certificate = Uuid::now_v7();
        let mut note = by.note(Action::REDACT);
        note.id = Some(certificate);
        note.patient = decode(&row)?.patient;
        note.record = Some(entry_record(id));
        note.seal("authority", authority);
        let undoable_until = self.undoable_until();
        note.facts.push(("undoable_until".to_owned(), undoable_until.to_string()));
        let (meta, items, _) = self.compose(note);
        let mut resealer = self.resealer();
        let range = resealer.range_of(row.sequence)?;
        let (_, bucket) = seal::counted_under(&row.sealed);
        let work = Work {
            action: Action::REDACT,
            facts: Vec::new(),
            note: Some((meta, items)),
            wanted: &|sequence, _| sequence == row.sequence,
            fate: &|_| Fate::Replaced(seal::erased(bucket, certificate.as_bytes())),
            go_on: &|_| true,
        };
        resealer.replace(range, &work)?;
        resealer.finish()?;
        self.sign_now();
        self.flush();
        Ok(Redacted { certificate, redacted: id, undoable_until })
    }

    /// The bucket that values are sealed in; made when it is the first of its class and year.
    pub(super) fn bucket_for(&self, keep: &Keep) -> Result<u32, VaultError> {
        if let Some(bucket) = self.keys.ring().bucket_of(&keep.class, keep.until) {
            return Ok(bucket.id);
        }
        let change = self.changing_keys();
        let ring = self.keys.ring();
        if ring.buckets().len() >= MAX_BUCKETS {
            return Err(refused("", "too_many_buckets", "The keyring holds as many retention buckets as it can."));
        }
        if let Some(bucket) = ring.bucket_of(&keep.class, keep.until) {
            return Ok(bucket.id);
        }
        let after = ring.with_bucket(&keep.class, keep.until);
        let bucket = after.buckets().last().map_or(OWN_BUCKET, |it| it.id);
        let vault = vault_itself();
        let mut note = Note::new(&vault, Action::KEY_BUCKET, default_reason());
        note.facts.push(("bucket".into(), bucket.to_string()));
        // When it ends may tell a minor's age, so that is sealed.
        note.seal("bucket", format!("{} until {}", keep.class, keep.until.map_or("ever".into(), |it| it.to_string())));
        self.change_keyring(change, note, after)?;
        Ok(bucket)
    }
}

fn planned(
    bucket: &Bucket,
    entries: &BTreeMap<u32, u64>,
    held: &BTreeMap<u32, std::collections::BTreeSet<String>>,
    now: Timestamp,
) -> PlannedBucket {
    let held_by: Vec<_> = held.get(&bucket.id).into_iter().flatten().cloned().collect();
    let state = match (bucket.certificate, bucket.expires_at) {
        (Some(_), _) => "disposed",
        (None, Some(end)) if end <= now && held_by.is_empty() => "due",
        (None, Some(end)) if end <= now => "held",
        _ => "kept",
    };
    PlannedBucket {
        bucket: bucket.id,
        class: bucket.class.clone(),
        expires_at: bucket.expires_at,
        entries: entries.get(&bucket.id).copied().unwrap_or(0),
        state,
        held_by,
        certificate: bucket.certificate.map(Uuid::from_bytes),
    }
}

fn held_by<'a>(names: impl Iterator<Item = &'a str>) -> VaultError {
    let names = names.collect::<Vec<_>>().join(", ");
    refused(
        "",
        "held",
        format!("A legal hold covers this: {names}. Nothing was destroyed; an officer can lift a hold."),
    )
}
