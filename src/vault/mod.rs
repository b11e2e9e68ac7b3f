//! What may happen: the one guarded door to a vault. Every operation is authorised and recorded in the same step.
//!
//! This room never sees HTTP, command lines or SQL. Its methods block, but for [`Vault::submit`]; call them off the async
//! threads.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;

use tokio::sync::{Semaphore, oneshot};

use crate::crypto::password::PasswordHash;
use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission, Role};
use crate::domain::reason::Vocabulary;
use crate::domain::rules::Rules;
use crate::domain::time::Clock;
use crate::keyfile::ProcessLock;
use crate::store::Store;

mod approval;
mod backup;
mod blinding;
mod book;
mod breach;
mod certificate;
mod clockwatch;
mod create;
mod cursor;
mod daily;
mod disclosure;
mod disposal;
mod error;
mod evidence;
mod failed;
mod fault;
mod history;
mod hold;
mod indexing;
mod keys;
mod ledger;
mod login;
mod open;
mod peer;

mod record;
mod rekey;
mod report;
mod reporting;
mod reseal;
mod restate;
mod restoring;
mod reveal;
mod reviewing;
mod scrub;
mod search;
mod segments;
mod sessions;
mod signing;
mod space;
mod standing;
mod status;
mod steps;
mod submit;
mod tokens;
mod trail;
mod trust;
mod verify;
mod writer;

pub use crate::crypto::kek::{Cost, MIN_PASSPHRASE_BYTES, Unlock};
pub use crate::crypto::keyring::{Keyring, file_digest as keyring_digest};
pub use crate::crypto::lock::{MAIN_SLOT, Slot};
pub use crate::crypto::token::PlainToken;
pub use crate::ledger::tiles::TileName;
pub use approval::{Approval, Asked, Done, Operation, Stage};
pub use backup::{Manifest, RestoreAsked, back_up, check_backup, manifest_of, partial, restore};
pub use breach::{BreachAsked, BreachScope, RevealSeen};
pub use certificate::Certificate;
pub use create::{Creation, create, refuse_parts, unmake};
pub use cursor::Walk;
pub use disclosure::{Disclosure, verify_disclosure};
pub use disposal::{Disposed, PlannedBucket, Redacted, RetentionPlan};
pub use error::{OpenError, VaultError};
pub use evidence::{Consistency, Leaf, Proof};
pub use history::{
    FieldDiff, FieldLine, History, HistoryStep, MAX_HISTORY, RecordAsked, RecordContinuity, RecordDiff, RecordName,
    RecordState, ShownField,
};
pub use hold::{Hold, HoldIn, Scope};
pub use indexing::IndexKeys;
pub use keys::{KeyList, KeyVersion, Rotated};
pub use ledger::Signed;
pub use login::{EnrolIn, Enrolled, LogInIn, SessionView};
pub use open::{Opening, Restored};
pub use peer::{Peer, Source};
pub use rekey::{Destroyed, ReencryptIn, Reencryption, Slots};
pub use report::AccessAsked;
pub use reporting::{KeptReport, ReportChecked, ReportIn, check_report};
pub use restate::StateRotated;
pub use restoring::{
    ConfirmIn, Origin, Plan, PlanConflict, PlanStage, PlanView, PlannedChange, PlannedField, RestoreIn, SetByView,
};
pub use reveal::MAX_REVEAL;
pub use reviewing::{ReviewIn, Reviewed};
pub use search::Page;
pub use sessions::SessionLimits;
pub use signing::SigningRotated;
pub use status::{Counters, Readiness};
pub use steps::AsOf;
pub use submit::Outcome;
pub use tokens::{TokenIn, TokenMade, TokenView};
pub use trail::{Trail, TrailIn, verify_trail};
pub use verify::{Finding, Report as VerifyReport, Verdict, VerifyAsked, verify};
pub use writer::SEAL_EVERY;

/// What a site has decided about its vault.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The rules for entries.
    pub rules: Rules,
    /// Whether patient ids are blinded on disk.
    pub blind_patients: bool,
    /// Room in the writer's queue, KiB.
    pub queue_kib: usize,
    /// Entries a second that are gone through for damage; 0: none.
    pub scrub_per_second: u64,
    /// Whether what cannot be undone needs a second administrator.
    pub two_person: bool,
    /// How long a request waits for one, seconds.
    pub approval_seconds: i64,
    /// How long a plan to restore a record waits to be confirmed, seconds.
    pub restore_seconds: i64,
    /// Entries a second that a re-encryption moves unless it is asked for another rate; 0: no bound.
    pub reencrypt_per_second: u64,
    /// Days after which a new data-key version is made by itself; 0: never.
    pub rotate_days: i64,
    /// How long people stay logged in.
    pub sessions: SessionLimits,
    /// Bytes of the disk that are kept free for what administrators do; 0: none.
    pub disk_reserve: u64,
    /// How long backups of the keyring and the database are kept, days: until then they can undo what was destroyed.
    pub keyring_backup_days: i64,
}

/// An open vault.
pub struct Vault {
    settings: Settings,
    store: Arc<dyn Store>,
    /// The same store for those who submit, so that they do not wait for those who read much.
    intake: Arc<dyn Store>,
    /// Room for reports and other long reading.
    long: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
    keys: Arc<keys::Keys>,
    ledger: Arc<ledger::Ledger>,
    /// What the index is held against.
    segments: Arc<segments::Segments>,
    space: space::Space,
    vocabulary: Vocabulary,
    tokens: RwLock<tokens::Tokens>,
    /// Held while a token is made or revoked.
    changing_tokens: Mutex<()>,
    /// How people log in.
    logins: Mutex<BTreeMap<String, login::Login>>,
    sessions: sessions::Sessions,
    /// What the password of an unknown name is compared with.
    nobody: OnceLock<Option<PasswordHash>>,
    approvals: Mutex<BTreeMap<String, Approval>>,
    /// Reports that are kept.
    reports: Mutex<BTreeMap<String, KeptReport>>,
    /// Of patients to themselves, the newest last.
    patients_reports: Mutex<VecDeque<KeptReport>>,
    /// Whether a kept report's row was altered or removed: then nothing is made for a person.
    reports_untrusted: bool,
    /// Plans to restore records.
    restores: Mutex<BTreeMap<String, Plan>>,
    holds: Mutex<BTreeMap<String, Hold>>,
    /// Whether a hold's row was altered or removed: then nothing is disposed of.
    holds_untrusted: bool,
    /// Held while a request is approved or cancelled: one after the other.
    deciding: Mutex<()>,
    stated: reseal::Stated,
    /// Held by whoever replaces sealed records, or begins or stops a re-encryption.
    reencryption: Mutex<Option<rekey::Running>>,
    progress: Arc<rekey::Progress>,
    bounds: Bounds,
    queue: Mutex<writer::Queue>,
    room: Arc<Semaphore>,
    counters: Arc<Counters>,
    threads: Mutex<Option<Threads>>,
    _process_lock: ProcessLock,
}

/// What keeps callers from filling the ledger, and what is kept, for everybody.
#[derive(Default)]
struct Bounds {
    /// By the token.
    denials: Mutex<HashMap<String, record::Denials>>,
    failed_logins: failed::FailedLogins,
    daily: daily::Daily,
}

/// What runs in the background.
struct Threads {
    /// Tells whether it wrote all that it took.
    writer: JoinHandle<bool>,
    signer: JoinHandle<()>,
    stop_signer: Sender<()>,
    scrubber: Option<(JoinHandle<()>, Sender<()>)>,
}

impl Threads {
    /// Ends the scrubber, which writes like anybody else, before the writer ends.
    fn stop_scrubber(&mut self) {
        if let Some((thread, stop)) = self.scrubber.take() {
            drop(stop);
            drop(thread.join());
        }
    }
}

impl Vault {
    /// The vocabulary in force. It names nobody, so reading it is not recorded.
    ///
    /// # Errors
    /// [`VaultError::Denied`].
    pub fn vocabulary(&self, caller: &Caller) -> Result<&Vocabulary, VaultError> {
        if caller.role.may(Permission::Reasons) { Ok(&self.vocabulary) } else { Err(VaultError::Denied) }
    }

    /// Makes a token from the machine itself, as `init` and `demo` do. Whoever can open the vault may.
    ///
    /// # Errors
    /// [`VaultError::Invalid`], or what recording says.
    pub fn local_token(&self, role: Role, label: &str) -> Result<(TokenView, String), VaultError> {
        let caller = Caller { token_id: "local".into(), label: "local-admin".into(), role: Role::Admin };
        let view = tokens::check(Some(role.name().into()), Some(label.into()), None, None, self.clock.now())
            .map_err(VaultError::Invalid)?;
        let made = self.add_token(record::Note::new(&caller, Action::TOKEN_CREATE, record::default_reason()), view)?;
        Ok((made.view, made.token.expect("the vault made this token itself")))
    }

    /// Finishes what was taken, seals and signs it, and ends the background threads. Later submissions are refused.
    ///
    /// # Errors
    /// What recording the stop says, or [`VaultError::Unknown`] when the database failed on the way; the threads are ended all the same.
    pub fn stop(&self) -> Result<(), VaultError> {
        let Some(mut threads) = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        threads.stop_scrubber();
        self.stop_reencryption();
        let meta = writer::own_meta(Action::VAULT_STOP, Vec::new());
        let recorded = self.commit_now(vec![(meta, Vec::new())], Vec::new());
        let stopped = self.send(writer::Message::Stop);
        let wrote = threads.writer.join().unwrap_or(false);
        drop(threads.stop_signer);
        drop(threads.signer.join());
        recorded.map(|_| ()).and(stopped).and(if wrote { Ok(()) } else { Err(VaultError::Unknown) })
    }

    /// Covers everything committed so far by a seal entry and a signed checkpoint, now instead of within a second.
    ///
    /// # Errors
    /// [`VaultError::Unknown`] when the vault is stopping, or what signing says.
    pub fn settle(&self) -> Result<(), VaultError> {
        let (reply, done) = oneshot::channel();
        self.send(writer::Message::Seal(reply))?;
        done.blocking_recv().map_err(|_| VaultError::Unknown)?;
        self.ledger.sign()
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        // A vault that is dropped without `stop` still ends its threads; the process lock is given back after them.
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut threads) = threads {
            threads.stop_scrubber();
            self.stop_reencryption();
            let (dead, _) = channel();
            *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = dead;
            drop(threads.stop_signer);
            drop(threads.signer.join());
            drop(threads.writer.join());
        }
    }
}
