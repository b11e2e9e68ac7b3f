//! Keys for ten years: moving values to the newest key while the vault works, destroying old keys, and who opens the keyring.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::crypto::keyring::{KeyState, Keyring};
use crate::crypto::lock::{MAX_SLOTS, Slot};
use crate::crypto::seal::{self, Header};
use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::meta::Meta;
use crate::domain::submission::{ReasonIn, object};
use crate::domain::time::Timestamp;
use crate::store::{Row, SEGMENT};

use super::Vault;
use super::approval::{By, refused};
use super::error::VaultError;
use super::keys::Barred;
use super::record::Note;
use super::reseal::{Fate, Resealer, Work, count};
use super::writer::Message;

/// The fastest that may be asked for; 0 asks for no bound.
const MAX_RATE: u64 = 10_000_000;

/// How a re-encryption should go.
#[derive(Deserialize, ToSchema, Default)]
#[serde(deny_unknown_fields)]
pub struct ReencryptIn {
    /// Entries a second at most; 0: as fast as it goes. The setting `keys.reencrypt_per_second` if absent.
    pub per_second: Option<u64>,
    /// Why.
    #[serde(default, deserialize_with = "object")]
    pub reason: Option<ReasonIn>,
}

/// How far the last re-encryption got.
#[derive(Clone, Serialize, ToSchema)]
pub struct Reencryption {
    /// Whether it is going on.
    pub running: bool,
    /// The version that everything moves to.
    pub version: u32,
    /// Entries that were moved.
    pub done: u64,
    /// Entries that were under older versions when it began.
    pub total: u64,
    /// Entries whose values do not open; they stay where they are, and the ledger names them.
    pub damaged: u64,
    /// Why it stopped before its end; another one goes on where it stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<&'static str>,
}

/// What is known of the last re-encryption, for its thread and for those who ask.
#[derive(Default)]
pub(super) struct Progress {
    running: AtomicBool,
    failed: AtomicBool,
    version: AtomicU64,
    pub(super) done: AtomicU64,
    pub(super) total: AtomicU64,
    damaged: AtomicU64,
}

/// A re-encryption that goes on.
pub(super) struct Running {
    thread: JoinHandle<()>,
    stop: Sender<()>,
    version: u32,
    rate: u64,
}

/// While it is held no re-encryption moves anything, and nobody else replaces records; then the one that was stopped goes on.
pub(super) struct Alone<'a> {
    vault: &'a Vault,
    running: MutexGuard<'a, Option<Running>>,
    /// Version and rate of the one that was stopped.
    stopped: Option<(u32, u64)>,
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        if let Some((version, rate)) = self.stopped {
            self.vault.progress.go_on();
            match self.vault.begin_to_move(version, rate) {
                Ok(running) => *self.running = Some(running),
                Err(_) => {
                    tracing::error!("the re-encryption that was stopped could not go on; begin it again");
                    self.vault.progress.fail();
                }
            }
        }
    }
}

impl Running {
    /// Ends it where it is; what was committed stays.
    pub(super) fn stop(self) {
        drop(self.stop);
        drop(self.thread.join());
    }
}

/// A destroyed data-key version.
#[derive(Serialize, ToSchema)]
pub struct Destroyed {
    /// Its number.
    pub destroyed_version: u32,
    /// The generation of the keyring file.
    pub keyring_generation: u64,
    /// The entry that records it.
    pub recorded_as: Uuid,
    /// Until when a backup of the keyring may still hold it, as the settings say how long those are kept.
    #[schema(value_type = String, format = DateTime)]
    pub undoable_until: Timestamp,
}

/// The slots that open the keyring.
#[derive(Serialize, ToSchema)]
pub struct Slots {
    /// Their names.
    pub slots: Vec<String>,
    /// The generation of the keyring file.
    pub keyring_generation: u64,
    /// The entry that records it.
    pub recorded_as: Uuid,
}

impl Vault {
    /// Begins to move everything that is sealed under older versions to the newest one, in the background. What was moved stays
    /// moved: after a stop or crash another one goes on where this one was.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `Invalid` (no reason, or one is going on), or what recording says.
    pub fn reencrypt(&self, caller: &Caller, asked: ReencryptIn) -> Result<Reencryption, VaultError> {
        self.allow(caller, Permission::RotateKeys, Action::KEY_REENCRYPT)?;
        let reason = self.reason(caller, Action::KEY_REENCRYPT, asked.reason.unwrap_or_default())?;
        let rate = asked.per_second.unwrap_or(self.settings.reencrypt_per_second);
        if rate > MAX_RATE {
            return Err(refused("/per_second", "out_of_range", "per_second is 0 to 10000000."));
        }
        let mut running = match self.reencryption.try_lock() {
            Ok(running) => running,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Something is being erased.
            Err(TryLockError::WouldBlock) => return Err(VaultError::Busy),
        };
        if running.is_some() && self.progress.running.load(Ordering::Acquire) {
            return Err(refused(
                "",
                "already_running",
                "A re-encryption is going on; GET /v1/keys/re-encrypt shows it.",
            ));
        }
        let version = self.keys.ring().newest().version;
        let mut note = Note::new(caller, Action::KEY_REENCRYPT, reason);
        note.facts.push(("active_version".into(), version.to_string()));
        self.record(note)?;
        self.progress.begin(version, self.to_move(version)?);
        *running = Some(self.begin_to_move(version, rate)?);
        Ok(self.progress.show())
    }

    fn begin_to_move(&self, version: u32, rate: u64) -> Result<Running, VaultError> {
        let (stop, stopped) = channel();
        let progress = self.progress.clone();
        let pace = Pace { rate, began: Instant::now(), done_before: progress.done.load(Ordering::Relaxed) };
        let mut mover = Mover { resealer: self.resealer(), progress, pace, version, stopped };
        let thread = std::thread::Builder::new().name("re-encrypt".into()).spawn(move || mover.run());
        Ok(Running { thread: thread.map_err(|_| VaultError::Busy)?, stop, version, rate })
    }

    /// Entries under versions older than `version` whose values still open.
    fn to_move(&self, version: u32) -> Result<u64, VaultError> {
        let ring = self.keys.ring();
        self.counted(|it| {
            let header = Header { version: it.version, bucket: it.bucket };
            (1..version).contains(&it.version) && ring.opening(header).is_some()
        })
    }

    /// Ends a re-encryption that goes on, for good.
    pub(super) fn stop_reencryption(&self) {
        let mut alone = self.alone();
        alone.stopped = None;
    }

    /// Stops a re-encryption that goes on, until what is given back is dropped.
    pub(super) fn alone(&self) -> Alone<'_> {
        let mut running = self.reencryption.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stopped = None;
        if let Some(it) = running.take() {
            // One that has come to its end meanwhile finds nothing to move.
            stopped = (!it.thread.is_finished()).then_some((it.version, it.rate));
            it.stop();
        }
        Alone { vault: self, running, stopped }
    }

    /// How far the last re-encryption got. Asked again and again, so it is not recorded; it names nobody.
    ///
    /// # Errors
    /// [`VaultError::Denied`].
    pub fn reencryption(&self, caller: &Caller) -> Result<Reencryption, VaultError> {
        self.allow(caller, Permission::ListKeys, Action::KEY_LIST)?;
        Ok(self.progress.show())
    }

    /// Whether a version can be destroyed: it is retired, and by the counts of the database nothing is sealed under it.
    pub(super) fn destroyable(&self, version: u32) -> Result<(), VaultError> {
        let ring = self.keys.ring();
        match ring.versions().iter().find(|it| it.version == version).map(|it| it.state) {
            None => return Err(refused("/version", "unknown_version", "There is no data-key version of that number.")),
            Some(KeyState::Active) => {
                let detail = "This version seals new entries. Rotate the keys, re-encrypt, then destroy it.";
                return Err(refused("/version", "version_active", detail));
            }
            Some(KeyState::Destroyed) => {
                return Err(refused("/version", "version_destroyed", "This version was destroyed already."));
            }
            Some(KeyState::Retired) => {}
        }
        let entries = self.counted(|it| it.version == version)?;
        if entries > 0 { Err(in_use(entries)) } else { Ok(()) }
    }

    /// Destroys a version, once the records themselves show that nothing is sealed under it.
    pub(super) fn destroy_key(&self, by: &By<'_>, version: u32) -> Result<Destroyed, VaultError> {
        self.destroyable(version)?;
        let _room = self.long_read()?;
        let _bar = self.keys.bar(Barred::Version(version));
        // What waits in the queue is committed before the records are counted; what comes later is barred.
        self.drain()?;
        let found: u64 = count(&*self.store)?.iter().filter(|((it, _), _)| *it == version).map(|(_, n)| n).sum();
        if found > 0 {
            return Err(in_use(found));
        }
        let change = self.changing_keys();
        let after = self.keys.ring().without_version(version, self.clock.now());
        let after =
            after.ok_or_else(|| refused("/version", "version_destroyed", "This version cannot be destroyed."))?;
        let mut note = by.note(Action::KEY_DESTROY);
        note.facts.push(("destroyed_version".into(), version.to_string()));
        let keyring_generation = after.generation();
        let recorded_as = self.change_keyring(change, note, after)?;
        let undoable_until = self.undoable_until();
        Ok(Destroyed { destroyed_version: version, keyring_generation, recorded_as, undoable_until })
    }

    /// Until when backups of the keyring may hold what is destroyed now.
    pub(super) fn undoable_until(&self) -> Timestamp {
        self.clock.now().plus_seconds(self.settings.keyring_backup_days * 86_400)
    }

    /// Commits what waits in the queue.
    pub(super) fn drain(&self) -> Result<(), VaultError> {
        let (reply, done) = oneshot::channel();
        self.send(Message::Seal(reply))?;
        done.blocking_recv().map_err(|_| VaultError::Unknown)
    }

    /// The slots with one more, or with another in place of the one of its name.
    pub(super) fn slots_with(&self, slot: &Slot) -> Result<Vec<Slot>, VaultError> {
        if !slot.is_sound() {
            let detail = "This is no slot that opens anything; make it with `phivault keys add-slot` or `rewrap`. Its name is up to 64 letters, digits, -, _ and dots.";
            return Err(refused("/slot", "slot_malformed", detail));
        }
        let mut slots = self.keys.ring().slots().to_vec();
        match slots.iter().position(|it| it.name == slot.name) {
            Some(there) => slots[there] = slot.clone(),
            None if slots.len() == MAX_SLOTS => {
                return Err(refused(
                    "/slot",
                    "too_many",
                    format!("A keyring has at most {MAX_SLOTS} slots; remove one."),
                ));
            }
            None => slots.push(slot.clone()),
        }
        Ok(slots)
    }

    /// The slots without one.
    pub(super) fn slots_without(&self, name: &str) -> Result<Vec<Slot>, VaultError> {
        let mut slots = self.keys.ring().slots().to_vec();
        let before = slots.len();
        slots.retain(|it| it.name != name);
        match (before - slots.len(), slots.is_empty()) {
            (0, _) => Err(refused("/name", "unknown_slot", "There is no slot of that name.")),
            (_, true) => Err(refused("/name", "last_slot", "This is the last slot; nobody could open the keyring.")),
            _ if !slots.iter().any(|it| it.kek_id == self.keys.opened_with.kek_id)
                && name != self.keys.opened_with.name =>
            {
                let detail = "The slot that the vault was started with was changed since, and nobody has shown that what is left opens the keyring. Restart the vault first.";
                Err(refused("/name", "slot_unproven", detail))
            }
            _ if name == self.keys.opened_with.name => {
                let detail = "The vault was started with this slot; nobody has shown since that another one opens. Start it with another one, then remove this.";
                Err(refused("/name", "slot_in_use", detail))
            }
            _ => Ok(slots),
        }
    }

    /// Writes the keyring with other slots.
    pub(super) fn change_slots(
        &self,
        by: &By<'_>,
        name: &str,
        slots: impl FnOnce(&Self) -> Result<Vec<Slot>, VaultError>,
    ) -> Result<Slots, VaultError> {
        let change = self.changing_keys();
        let slots = slots(self)?;
        let names: Vec<_> = slots.iter().map(|it| it.name.clone()).collect();
        let after = self.keys.ring().with_slots(slots);
        let mut note = by.note(Action::KEY_SLOT);
        note.facts.push(("slot".into(), name.to_owned()));
        note.facts.push(("slots".into(), names.join(" ")));
        let keyring_generation = after.generation();
        let recorded_as = self.change_keyring(change, note, after)?;
        Ok(Slots { slots: names, keyring_generation, recorded_as })
    }
}

fn in_use(entries: u64) -> VaultError {
    let plural = if entries == 1 { "entry is" } else { "entries are" };
    refused(
        "/version",
        "version_in_use",
        format!("{entries} {plural} still sealed under this version. Re-encrypt first."),
    )
}

impl Progress {
    fn begin(&self, version: u32, total: u64) {
        self.version.store(version.into(), Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
        self.damaged.store(0, Ordering::Relaxed);
        self.failed.store(false, Ordering::Relaxed);
        self.running.store(true, Ordering::Release);
    }

    /// It was stopped, and goes on.
    fn go_on(&self) {
        self.failed.store(false, Ordering::Relaxed);
        self.running.store(true, Ordering::Release);
    }

    fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
        self.running.store(false, Ordering::Release);
    }

    fn show(&self) -> Reencryption {
        let number = |it: &AtomicU64| it.load(Ordering::Relaxed);
        let running = self.running.load(Ordering::Acquire);
        let stopped = "It is not whole; the log says why. Begin another, it goes on where this one was.";
        Reencryption {
            running,
            version: u32::try_from(number(&self.version)).unwrap_or(u32::MAX),
            done: number(&self.done),
            total: number(&self.total),
            damaged: number(&self.damaged),
            problem: self.failed.load(Ordering::Relaxed).then_some(stopped),
        }
    }
}

/// Moves entries to the newest version.
struct Mover {
    resealer: Resealer,
    progress: Arc<Progress>,
    pace: Pace,
    version: u32,
    stopped: Receiver<()>,
}

/// How fast it may go: entries a second since it began, with so many done before.
struct Pace {
    rate: u64,
    began: Instant,
    done_before: u64,
}

impl Mover {
    fn run(&mut self) {
        match self.all() {
            Ok(true) => tracing::info!(version = self.version, "the re-encryption is done"),
            Ok(false) => self.progress.failed.store(true, Ordering::Relaxed),
            Err(error) => {
                tracing::error!(%error, "the re-encryption stopped");
                self.progress.failed.store(true, Ordering::Relaxed);
            }
        }
        self.progress.running.store(false, Ordering::Release);
    }

    /// `false` when it was told to stop, or could not move everything.
    fn all(&mut self) -> Result<bool, VaultError> {
        let version = self.version;
        let older = |counted: u32| (1..version).contains(&counted);
        let mut segments: Vec<u64> =
            self.resealer.store.usage()?.iter().filter(|it| older(it.version)).map(|it| it.segment).collect();
        segments.dedup();
        let (mut position, mut whole) = (0, true);
        for segment in segments {
            position = position.max(segment * SEGMENT);
            let end = self.resealer.store.size().min((segment + 1) * SEGMENT);
            while position < end {
                let range = self.resealer.range_of(position)?;
                position = range.end;
                // A version that is destroyed meanwhile seals nothing: its records were counted.
                let ring = self.resealer.keys.ring();
                let work = Work {
                    action: Action::KEY_REENCRYPT,
                    facts: vec![("active_version".into(), version.to_string())],
                    note: None,
                    wanted: &|_, sealed| older(seal::counted_under(sealed).0) && has_bucket(&ring, sealed, version),
                    fate: &|row| again(&ring, row, version),
                    go_on: &|done| {
                        self.progress.damaged.fetch_add(done.damaged.len() as u64, Ordering::Relaxed);
                        self.progress.done.fetch_add(done.replaced, Ordering::Relaxed);
                        keep_pace(&self.progress, &self.pace, &self.stopped)
                    },
                };
                match self.resealer.replace(range, &work) {
                    Ok(true) => {}
                    Ok(false) => {
                        self.resealer.finish()?;
                        return Ok(false);
                    }
                    // Somebody altered a record of this range. The rest is moved all the same.
                    Err(VaultError::Integrity(what)) => {
                        tracing::error!(what, "a range was not re-encrypted; run phivault verify");
                        whole = false;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        self.resealer.finish()?;
        Ok(whole)
    }
}

/// Waits until what was done is due at the rate; `false` when it is time to stop.
fn keep_pace(progress: &Progress, pace: &Pace, stopped: &Receiver<()>) -> bool {
    let done = progress.done.load(Ordering::Relaxed).saturating_sub(pace.done_before);
    let due = done.checked_mul(1_000_000).and_then(|it| it.checked_div(pace.rate)).unwrap_or(0);
    let wait = Duration::from_micros(due).saturating_sub(pace.began.elapsed());
    matches!(stopped.recv_timeout(wait), Err(RecvTimeoutError::Timeout))
}

/// Whether the bucket of a record is still there; what was disposed of is erased, not moved.
fn has_bucket(ring: &Keyring, sealed: &[u8], version: u32) -> bool {
    seal::header(sealed).is_ok_and(|header| ring.resealing(header, version).is_some())
}

/// A record under the version that everything moves to (the ledger says which, so it stays the same if the keys rotate
/// meanwhile), once it has shown that it is what the ledger committed to.
fn again(ring: &Keyring, row: &Row, version: u32) -> Fate {
    let (Ok(header), Ok(meta)) = (seal::header(&row.sealed), Meta::borrow(&row.meta)) else { return Fate::Damaged };
    match (ring.opening(header), ring.resealing(header, version)) {
        (Some(old), Some(new)) => {
            seal::reseal((&old, &new), meta.id.as_bytes(), &row.meta, &row.sealed, &row.commitment)
                .map_or(Fate::Damaged, Fate::Replaced)
        }
        _ if ring.knows(header) => Fate::Left,
        _ => Fate::Damaged,
    }
}
