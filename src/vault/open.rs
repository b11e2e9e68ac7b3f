//! Opening a vault with distrust.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::crypto::kek::Unlock;
use crate::crypto::keyring::Keyring;
use crate::domain::action::{Action, Outcome};
use crate::domain::index::{Dimension, Term};
use crate::domain::meta::Meta;
use crate::domain::reason::Vocabulary;
use crate::domain::time::Clock;
use crate::keyfile::{KeyPaths, LockFile, ProcessLock};
use crate::ledger::tree::Edge;
use crate::store::sqlite::SqliteStore;
use crate::store::{Order, SEGMENT, Store, StoreError};

use super::approval::{self, Approval};
use super::book;
use super::clockwatch::ClockWatch;
use super::error::OpenError;
use super::hold::{self, Hold};
use super::keys::Keys;
use super::ledger::{Ledger, sign_in_background};
use super::login::{self, Login};
use super::reporting::{self, KeptReport};
use super::restoring::{self, Plan};
use super::scrub::Scrubber;
use super::segments::Segments;
use super::sessions::Sessions;
use super::signing;
use super::space::Space;
use super::standing::{KEYRING_DIGEST, KEYRING_GENERATION, KINDS, LEDGER, PATIENT_IDS, Standing, VERIFIER_KEY};
use super::status::Counters;
use super::tokens::Tokens;
use super::trust::{self};
use super::writer::{Message, Queue, Unsealed, Writer, own_meta};
use super::{Bounds, Settings, Threads, Vault};

/// The database's name in the data folder.
const DATABASE: &str = "vault.db";

/// Connections for proofs and for signing.
const LEDGER_READERS: usize = 2;
/// Connections for looking up what is submitted.
const INTAKE_READERS: usize = 4;
/// Reports and other long reading at a time; who comes later is told to try again.
const LONG_READS: usize = 2;

/// What is known of the ledger that a restored vault continues under another name.
#[derive(Clone)]
pub struct Restored {
    /// Its name.
    pub origin: String,
    /// The newest checkpoint that is known of it: size and root.
    pub last_known: (u64, String),
    /// How many entries the backup holds.
    pub entries: u64,
    /// How many of them a checkpoint of the old ledger covers: whatever comes after must open under the keys, for anybody could
    /// have added it.
    pub signed: u64,
}

/// What opening a vault needs.
pub struct Opening<'a> {
    /// The folder of the database.
    pub data: PathBuf,
    /// The key files.
    pub keys: KeyPaths,
    /// What unlocks the keyring.
    pub unlock: &'a Unlock,
    /// What the site has decided.
    pub settings: Settings,
    /// The text of the reason vocabulary.
    pub vocabulary: &'a str,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Whether the machine's clock is synchronised, as far as it is known; recorded.
    pub clock_state: &'static str,
    /// It was just restored from a backup, under a new signing key; a new ledger begins here.
    pub restored: Option<Restored>,
    /// Called when the writer can no longer work. A server's process must end then: a dead writer must not be a live server. What only
    /// opens a vault for a step of its own learns it from that step, or from [`Vault::stop`].
    pub fatal: Box<dyn Fn() + Send>,
}

/// The fact that lists entries whose values were found altered.
pub(super) const DAMAGED: &str = "damaged";

/// Where the database of a data folder is.
pub(super) fn database(data: &std::path::Path) -> PathBuf {
    data.join(DATABASE)
}

/// What a start has checked, and goes on with.
struct Sound {
    ledger: Arc<Ledger>,
    keys: Arc<Keys>,
    counters: Arc<Counters>,
    edge: Edge,
    unsealed: Unsealed,
    segments: Arc<Segments>,
    standing: Standing,
    tokens: Tokens,
    approvals: BTreeMap<String, Approval>,
    plans: BTreeMap<String, Plan>,
    reports: BTreeMap<String, KeptReport>,
    reports_untrusted: bool,
    holds: BTreeMap<String, Hold>,
    logins: BTreeMap<String, Login>,
    /// Whether a hold's row was altered or removed.
    holds_untrusted: bool,
    /// Entries whose values were altered.
    damaged: Vec<u64>,
    unproven: u64,
}

impl Sound {
    /// Checks all that was found on disk; only then files change.
    fn check(opening: &Opening<'_>, store: &Arc<dyn Store>) -> Result<Self, OpenError> {
        let signers = signing::signers(&opening.keys)?;
        trust::check_first(&**store)?;
        let edge = trust::rebuild_edge(&**store)?;
        let ledger = Arc::new(Ledger::open(
            store.apart(LEDGER_READERS),
            edge.clone(),
            signers.clone(),
            LockFile::open(&opening.keys.lock)?,
        )?);
        let (sealed_to, seal) = trust::newest_seal(&**store, &ledger)?;
        let is_new_ledger = opening.restored.is_some();
        check_patient_ids(seal.fact(PATIENT_IDS), opening.settings.blind_patients)?;
        let successor = if is_new_ledger { None } else { signing::choose(&ledger, &signers, &seal)? };
        let open_keys = if is_new_ledger { Keys::open_newer } else { Keys::open };
        let keys = Arc::new(open_keys(&opening.keys, opening.unlock, &seal)?);
        let counters = Arc::new(Counters::default());
        let trust::Tail { damaged, unproven } = {
            let signed = opening.restored.as_ref().map_or(ledger.checkpoint().size, |it| it.signed);
            trust::check_tail(&**store, &keys, sealed_to, signed, is_new_ledger)?
        };
        let (standing, rows) = trust::state_rows(&**store, &ledger, &seal, &KINDS)?;
        let (tokens, mut untrusted) = Tokens::load(&rows, &standing, &keys.ring());
        let (approvals, more) = book::load(&rows, approval::KIND, &standing, &keys.ring());
        untrusted += more;
        let (plans, more) = book::load(&rows, restoring::KIND, &standing, &keys.ring());
        untrusted += more;
        let (reports, more) = book::load(&rows, reporting::KIND, &standing, &keys.ring());
        let reports_untrusted = more > 0;
        untrusted += more;
        let (holds, more) = book::load(&rows, hold::KIND, &standing, &keys.ring());
        let holds_untrusted = more > 0;
        untrusted += more;
        let (logins, more) = login::load(&rows, &standing, &keys.ring(), &*opening.clock);
        counters.untrusted_state.store(untrusted + more, Ordering::Relaxed);
        let unsealed = trust::rebuild_unsealed(&**store, sealed_to)?;
        // Nothing here needs the counts yet, but the writer does: a page of theirs that does not read is better told now.
        store.usage()?;
        // Found sound: from here on files may change.
        if !is_new_ledger {
            keys.settle(&seal)?;
            signing::settle(&opening.keys, successor)?;
            crate::keyfile::put_back_verifier_key(&opening.keys, &ledger.verifier_key())?;
        }
        store.repair()?;
        Ok(Self {
            segments: Arc::new(Segments::new(store.clone(), ledger.clone())),
            ledger,
            keys,
            counters,
            edge,
            unsealed,
            standing,
            tokens,
            approvals,
            plans,
            reports,
            reports_untrusted,
            holds,
            logins,
            holds_untrusted,
            damaged,
            unproven,
        })
    }

    /// The writer, which goes on where the ledger ends, and the scrubber.
    fn workers(
        &self,
        opening: &Opening<'_>,
        store: &Arc<dyn Store>,
        queue: &Queue,
    ) -> Result<(Writer, Scrubber), StoreError> {
        let last_time = store.rows(&[store.size() - 1])?.pop().map_or(0, |row| row.received_at);
        let writer = Writer {
            store: store.apart(1),
            clock: opening.clock.clone(),
            keys: self.keys.clone(),
            ledger: self.ledger.clone(),
            counters: self.counters.clone(),
            edge: self.edge.clone(),
            last_time,
            unsealed: self.unsealed.clone(),
            standing: self.standing.clone(),
            heads: HashMap::default(),
            named: store.size() / SEGMENT,
        };
        let scrubber = Scrubber {
            store: store.apart(1),
            ledger: self.ledger.clone(),
            keys: self.keys.clone(),
            counters: self.counters.clone(),
            clock: opening.clock.clone(),
            queue: queue.clone(),
            segments: self.segments.clone(),
            rate: opening.settings.scrub_per_second,
            told: None,
            known: self.damaged.iter().copied().collect(),
            bent: HashSet::new(),
        };
        Ok((writer, scrubber))
    }
}

/// How patient ids rested so far, and how they are to rest from now on.
fn check_patient_ids(so_far: Option<&str>, blind: bool) -> Result<(), OpenError> {
    if so_far == Some("blind") && !blind {
        return Err(OpenError::Distrust(
            "This vault keeps patient ids blind; as it is set now they would be written in clear. Set entries.patient_ids = \"blind\" (for a restore: --blind).".into(),
        ));
    }
    if so_far == Some("plain") && blind {
        tracing::warn!(
            "patient ids are blind from now on; the entries from before keep them in clear on this disk, so it has no safe harbour (45 CFR 164.402)"
        );
    }
    Ok(())
}

impl Vault {
    /// Opens a vault. Nothing found on disk is believed before it is checked against the ledger and its lock.
    ///
    /// # Errors
    /// [`OpenError`], one sentence with the remedy; nothing was changed.
    pub fn open(opening: Opening<'_>) -> Result<Self, OpenError> {
        let vocabulary = Vocabulary::parse(opening.vocabulary).map_err(unusable)?;
        let database = existing_database(&opening.data)?;
        let process_lock = ProcessLock::take(&opening.data)?;
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&database)?);
        let sound = Sound::check(&opening, &store)?;
        let (queue, received) = channel();
        let (writer, scrubber) = sound.workers(&opening, &store, &queue)?;
        let Sound {
            ledger,
            keys,
            counters,
            segments,
            tokens,
            approvals,
            plans,
            reports,
            reports_untrusted,
            holds,
            logins,
            holds_untrusted,
            damaged,
            unproven,
            ..
        } = sound;
        let threads = start(writer, received, scrubber, opening.fatal)?;
        let vault = Self {
            room: Arc::new(Semaphore::new(opening.settings.queue_kib)),
            sessions: Sessions::new(opening.settings.sessions),
            space: Space::new(opening.settings.disk_reserve),
            settings: opening.settings,
            intake: store.apart(INTAKE_READERS),
            store,
            long: Arc::new(Semaphore::new(LONG_READS)),
            clock: opening.clock,
            keys,
            ledger,
            segments,
            vocabulary,
            tokens: RwLock::new(tokens),
            changing_tokens: Mutex::default(),
            approvals: Mutex::new(approvals),
            restores: Mutex::new(plans),
            reports: Mutex::new(reports),
            patients_reports: Mutex::default(),
            reports_untrusted,
            holds: Mutex::new(holds),
            logins: Mutex::new(logins),
            nobody: OnceLock::new(),
            holds_untrusted,
            deciding: Mutex::default(),
            stated: Arc::default(),
            reencryption: Mutex::default(),
            progress: Arc::default(),
            bounds: Bounds::default(),
            queue: Mutex::new(queue),
            counters,
            threads: Mutex::new(Some(threads)),
            _process_lock: process_lock,
        };
        if let Some(restored) = &opening.restored {
            vault.record_restore(restored, unproven).map_err(distrust)?;
        }
        vault.record_start(opening.vocabulary, opening.clock_state, &damaged).map_err(distrust)?;
        vault.finish_disposals().map_err(distrust)?;
        // The bucket that most entries will go into; others are made when they are needed.
        let usual = vault.settings.rules.retention.keep(None, None, vault.receipt_time(), None);
        vault.bucket_for(&usual).map_err(distrust)?;
        Ok(vault)
    }

    /// The first entry of the new ledger: what it continues, and how much of it is missing.
    fn record_restore(&self, restored: &Restored, unproven: u64) -> Result<(), super::VaultError> {
        let (size, root) = &restored.last_known;
        let ring = self.keys.ring();
        let mut facts = vec![
            (KEYRING_DIGEST.to_owned(), self.keys.file_digest()),
            (KEYRING_GENERATION.to_owned(), ring.generation().to_string()),
            (LEDGER.to_owned(), self.ledger.origin().to_owned()),
            (VERIFIER_KEY.to_owned(), self.ledger.verifier_key().to_string()),
            ("active_version".to_owned(), ring.newest().version.to_string()),
            ("continues".to_owned(), restored.origin.clone()),
            ("last_known_root".to_owned(), root.clone()),
            ("last_known_size".to_owned(), size.to_string()),
            // What was disposed of after the backup is disposed of here too, by these certificates.
            ("disposed".to_owned(), disposed(&ring)),
            ("missing_entries".to_owned(), size.saturating_sub(restored.entries).to_string()),
            ("restored_entries".to_owned(), restored.entries.to_string()),
            ("unproven_entries".to_owned(), unproven.to_string()),
        ];
        facts.sort();
        self.commit_now(vec![(own_meta(Action::VAULT_RESTORE, facts), Vec::new())], Vec::new())?;
        self.ledger.sign()
    }

    /// Records that the vault started, what was found damaged, and the vocabulary in force if it changed.
    fn record_start(&self, vocabulary: &str, clock_state: &str, damaged: &[u64]) -> Result<(), super::VaultError> {
        let mut entries = Vec::new();
        if !damaged.is_empty() {
            self.counters.integrity_failures.fetch_add(damaged.len() as u64, Ordering::Relaxed);
            tracing::error!(
                ?damaged,
                "values of these entries were altered and cannot be read any more; the ledger records it"
            );
            let list = damaged.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            let mut meta = own_meta(Action::INTEGRITY, vec![(DAMAGED.to_owned(), list)]);
            meta.outcome = Outcome::Failure;
            entries.push(meta);
        }
        let digest = hex::encode(Sha256::digest(vocabulary.as_bytes()));
        if newest_vocabulary(&*self.store)?.as_ref() != Some(&digest) {
            let facts =
                vec![("digest".to_owned(), digest), ("version".to_owned(), self.vocabulary.version().to_owned())];
            entries.push(own_meta(Action::VOCABULARY, facts));
        }
        let patient_ids = if self.settings.blind_patients { "blind" } else { "plain" };
        let two_person = if self.settings.two_person { "on" } else { "off" };
        if !self.settings.two_person {
            tracing::warn!(
                "approval by a second administrator is switched off: one administrator alone can destroy keys and values"
            );
        }
        let version = env!("CARGO_PKG_VERSION");
        let facts =
            [("clock", clock_state), (PATIENT_IDS, patient_ids), ("two_person", two_person), ("version", version)];
        entries.push(own_meta(
            Action::VAULT_START,
            facts.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        ));
        let entries = entries.into_iter().map(|meta| (meta, Vec::new())).collect();
        self.commit_now(entries, Vec::new()).map(|_| ())
    }
}

/// The certificates of all buckets that were disposed of.
fn disposed(ring: &Keyring) -> String {
    let each = ring.buckets().iter().filter_map(|it| it.certificate).map(|it| uuid::Uuid::from_bytes(it).to_string());
    each.collect::<Vec<_>>().join(" ")
}

fn existing_database(data: &std::path::Path) -> Result<PathBuf, OpenError> {
    let database = database(data);
    if database.exists() {
        return Ok(database);
    }
    let missing = format!("There is no vault at {}. Make one with `phivault init`.", data.display());
    Err(StoreError::Unsuitable(missing).into())
}

fn start(
    writer: Writer,
    received: std::sync::mpsc::Receiver<Message>,
    scrubber: Scrubber,
    fatal: Box<dyn Fn() + Send>,
) -> Result<Threads, OpenError> {
    let (queue, ledger, counters) = (scrubber.queue.clone(), scrubber.ledger.clone(), scrubber.counters.clone());
    let (stop_signer, stopped) = channel();
    let fail = |error: std::io::Error| OpenError::Distrust(format!("A thread could not be started: {error}."));
    let flag = counters.clone();
    let mut watch =
        ClockWatch::new(scrubber.clock.clone(), scrubber.keys.clone(), counters.clone(), scrubber.queue.clone());
    let writer = std::thread::Builder::new().name("writer".into()).spawn(move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| writer.run(&received)));
        flag.stopped.store(true, Ordering::Release);
        match result {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => {
                tracing::error!(%error, "the writer failed; whether the last batch is in is unknown, the process ends")
            }
            Err(_) => tracing::error!("the writer panicked; the process ends"),
        }
        fatal();
        false
    });
    let signer = std::thread::Builder::new().name("signer".into()).spawn(move || {
        let idle = move || {
            let (reply, done) = tokio::sync::oneshot::channel();
            if queue.send(Message::Seal(reply)).is_ok() {
                drop(done.blocking_recv());
            }
        };
        sign_in_background(&ledger, &counters, &stopped, idle, || watch.look());
    });
    let mut scrubbing = None;
    if scrubber.rate > 0 {
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name("scrubber".into()).spawn(move || scrubber.run(&stopped));
        scrubbing = Some((thread.map_err(fail)?, stop));
    }
    Ok(Threads { writer: writer.map_err(fail)?, signer: signer.map_err(fail)?, stop_signer, scrubber: scrubbing })
}

/// The digest of the vocabulary that was recorded last. Only a reminder: a wrong one leads to one more entry.
fn newest_vocabulary(store: &dyn Store) -> Result<Option<String>, StoreError> {
    let terms = [vec![Term::new(Dimension::Action, &[Action::VOCABULARY.name().as_bytes()])]];
    let found = store.find(&terms, 0..store.size(), Order::NewestFirst, 16)?;
    let metas = store.rows(&found.sequences)?.into_iter().filter_map(|row| Meta::decode(&row.meta).ok());
    Ok(metas.filter(|it| it.action == Action::VOCABULARY).find_map(|it| it.fact("digest").map(str::to_owned)))
}

fn unusable(error: impl std::fmt::Display) -> OpenError {
    OpenError::Distrust(format!(
        "The reason vocabulary cannot be used: {error}. Mend the file that `entries.reasons` names."
    ))
}

fn distrust(error: super::VaultError) -> OpenError {
    OpenError::Distrust(format!("The vault could not be opened: {error}. Run `phivault verify`."))
}
