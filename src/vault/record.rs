//! The guarded door: every operation is allowed here, and recorded here before its result leaves.

use std::net::IpAddr;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::crypto::keyring::OWN_BUCKET;
use crate::domain::action::{Action, Outcome};
use crate::domain::caller::{Caller, Permission, Role};
use crate::domain::entry::Receipt;
use crate::domain::meta::{Actor, Meta, Patient, Reason, Record, Related};
use crate::domain::rules::{Draft, Item, vault_reason};
use crate::domain::submission::ReasonIn;
use crate::domain::value::Phi;
use crate::store::StateRow;

use super::Vault;
use super::error::VaultError;
use super::writer::{Job, Message, Prepared, SELF, own_meta, prepare, prepare_in};

/// Denials of one token that are recorded within [`DENIAL_WINDOW`]; the rest are counted in the next one, so that a
/// stray script cannot fill the ledger.
const DENIALS_RECORDED: u32 = 20;
const DENIAL_WINDOW: Duration = Duration::from_secs(60);

/// The fact that tells how many denials were only counted.
pub(super) const NOT_RECORDED: &str = "denials_not_recorded";

/// A reason that was checked, with the note to be sealed.
pub(super) type CheckedReason = (Reason, Vec<Item>);

/// What the vault records of an operation on itself.
pub(super) struct Note<'a> {
    caller: &'a Caller,
    action: Action,
    pub(super) outcome: Outcome,
    reason: CheckedReason,
    /// Whose entries were touched, if it was one patient's.
    pub(super) patient: Option<Patient>,
    /// Which entry or token.
    pub(super) record: Option<Record>,
    /// Where it came from, if that is told.
    pub(super) client: Option<IpAddr>,
    /// What else was touched.
    pub(super) related: Vec<Related>,
    /// Facts in clear, for verifiers.
    pub(super) facts: Vec<(String, String)>,
    /// What is sealed beside the note, such as a filter.
    pub(super) items: Vec<Item>,
    /// State that changes with it.
    pub(super) state: Vec<StateRow>,
    /// Entries that go in with it.
    pub(super) also: Vec<Meta>,
    /// The id of the entry, if something that is written before must name it.
    pub(super) id: Option<Uuid>,
}

impl<'a> Note<'a> {
    pub(super) fn new(caller: &'a Caller, action: Action, reason: CheckedReason) -> Self {
        Self {
            caller,
            action,
            outcome: Outcome::Success,
            reason,
            patient: None,
            record: None,
            client: None,
            related: Vec::new(),
            facts: Vec::new(),
            items: Vec::new(),
            state: Vec::new(),
            also: Vec::new(),
            id: None,
        }
    }

    /// What was not allowed.
    pub(super) fn denied(caller: &'a Caller, action: Action) -> Self {
        Self { outcome: Outcome::Denied, ..Self::new(caller, action, default_reason()) }
    }

    /// With a fact that counts something, unless there was none of it.
    pub(super) fn counting(mut self, fact: &str, count: u64) -> Self {
        if count > 0 {
            self.facts.push((fact.into(), count.to_string()));
        }
        self
    }

    /// Seals a text with it.
    pub(super) fn seal(&mut self, path: &str, text: impl Into<String>) {
        self.items.push(Item { path: path.to_owned(), value: Phi::text(text) });
    }
}

/// The vault itself, for what it does unprompted.
pub(super) fn vault_itself() -> Caller {
    Caller { token_id: "vault".into(), label: SELF.into(), role: Role::Admin }
}

/// The reason of what needs none from the caller: running the system.
pub(super) fn default_reason() -> CheckedReason {
    (Reason { code: "HSYSADMIN".into(), ..Reason::default() }, Vec::new())
}

/// The reason of a search or of a look at an entry's metadata, for which none is asked: seeing to compliance.
pub(super) fn searching() -> CheckedReason {
    (Reason { code: "HCOMPL".into(), ..Reason::default() }, Vec::new())
}

/// How often one token was denied lately.
pub(super) struct Denials {
    since: Instant,
    recorded: u32,
    suppressed: u64,
    /// Of whom, and for what, at first.
    caller: Caller,
    action: Action,
}

impl Vault {
    /// Whether the caller may do that; a denial is recorded. For asking before the input is read: the operation itself asks
    /// again.
    ///
    /// # Errors
    /// [`VaultError::Denied`], or what recording says.
    pub fn may(&self, caller: &Caller, permission: Permission, action: Action) -> Result<(), VaultError> {
        self.allow(caller, permission, action)
    }

    /// Lets the caller through, or records the denial and refuses.
    pub(super) fn allow(&self, caller: &Caller, permission: Permission, action: Action) -> Result<(), VaultError> {
        if caller.role.may(permission) {
            return Ok(());
        }
        self.counters.denied.fetch_add(1, Ordering::Relaxed);
        if let Some(suppressed) = self.denial_to_record(caller, action) {
            self.record(Note::denied(caller, action).counting(NOT_RECORDED, suppressed))?;
        }
        Err(VaultError::Denied)
    }

    /// Records that a token was refused so often for asking more than its share.
    ///
    /// # Errors
    /// What recording says.
    pub fn record_refused(&self, caller: &Caller, refused: u64) -> Result<(), VaultError> {
        let action = if caller.role == Role::Submitter { Action::SUBMIT } else { Action::SEARCH };
        self.record(Note::denied(caller, action).counting("requests_refused", refused)).map(|_| ())
    }

    /// Records how many connections failed to agree on TLS since this was last asked: in a hospital each is a node that is not who it should
    /// be, or whose certificate has ended (IHE ATNA, ITI-19). One entry, for anybody can fail to.
    ///
    /// # Errors
    /// What recording says.
    pub fn record_handshakes(&self) -> Result<(), VaultError> {
        let counters = &self.counters;
        let told = counters.handshakes_told.load(Ordering::Relaxed);
        let new = counters.handshakes_failed.load(Ordering::Relaxed).saturating_sub(told);
        if new == 0 || self.disk().0 {
            return Ok(());
        }
        self.record(Note::denied(&vault_itself(), Action::LOGIN_FAILED).counting("tls_handshakes_failed", new))?;
        counters.handshakes_told.store(told + new, Ordering::Relaxed);
        Ok(())
    }

    /// Records how many denials and failed logins were only counted, once their minute is over.
    ///
    /// # Errors
    /// What recording says.
    pub fn record_suppressed(&self) -> Result<(), VaultError> {
        if self.disk().0 {
            return Ok(());
        }
        let counted: Vec<(Caller, Action, u64)> = {
            let mut denials = self.bounds.denials.lock().unwrap_or_else(PoisonError::into_inner);
            let of = denials.values_mut().filter(|it| it.suppressed > 0 && it.since.elapsed() >= DENIAL_WINDOW);
            of.map(|it| (it.caller.clone(), it.action, std::mem::take(&mut it.suppressed))).collect()
        };
        for (caller, action, count) in counted {
            self.record(Note::denied(&caller, action).counting(NOT_RECORDED, count))?;
        }
        let failed = self.bounds.failed_logins.counted(Instant::now());
        if failed > 0 {
            // Of whom is not kept: it is nobody's failure in particular.
            self.record(Note::denied(&vault_itself(), Action::LOGIN_FAILED).counting(NOT_RECORDED, failed))?;
        }
        Ok(())
    }

    /// Whether this denial is recorded, and how many before it were only counted.
    fn denial_to_record(&self, caller: &Caller, action: Action) -> Option<u64> {
        // By the machine's own count: the clock may be set.
        let now = Instant::now();
        let mut denials = self.bounds.denials.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Denials { since: now, recorded: 0, suppressed: 0, caller: caller.clone(), action };
        let mine = denials.entry(caller.token_id.clone()).or_insert_with(fresh);
        if now - mine.since >= DENIAL_WINDOW {
            (mine.since, mine.recorded) = (now, 0);
        }
        if mine.recorded == DENIALS_RECORDED {
            mine.suppressed += 1;
            return None;
        }
        mine.recorded += 1;
        Some(std::mem::take(&mut mine.suppressed))
    }

    /// Checks the reason a caller gives for an operation on the vault.
    pub(super) fn reason(
        &self,
        caller: &Caller,
        action: Action,
        reason: ReasonIn,
    ) -> Result<CheckedReason, VaultError> {
        vault_reason(reason, action, caller.role.name(), &self.vocabulary).map_err(VaultError::Invalid)
    }

    /// Records an operation, durably, before its result leaves. If this fails, the operation must not happen.
    pub(super) fn record(&self, mut note: Note<'_>) -> Result<Receipt, VaultError> {
        let also = std::mem::take(&mut note.also).into_iter().map(|it| (it, Vec::new()));
        let (meta, items, state) = self.compose(note);
        let receipts = self.commit_now(std::iter::once((meta, items)).chain(also).collect(), state)?;
        receipts.into_iter().next().ok_or(VaultError::Unknown)
    }

    /// The entry of a note: its metadata, what is sealed with it, and the state that changes with it.
    pub(super) fn compose(&self, note: Note<'_>) -> (Meta, Vec<Item>, Vec<StateRow>) {
        let Note {
            caller,
            action,
            outcome,
            reason: (reason, mut items),
            patient,
            record,
            client,
            related,
            mut facts,
            items: more,
            state,
            id,
            also: _,
        } = note;
        items.extend(more);
        items.sort_by(|a, b| a.path.cmp(&b.path));
        facts.push(("token".into(), caller.token_id.clone()));
        facts.sort();
        let mut meta = own_meta(action, facts);
        meta.outcome = outcome;
        meta.actor = Actor { id: caller.label.clone(), role: Some(caller.role.name().to_owned()), ..Actor::default() };
        (meta.patient, meta.record, meta.related, meta.reason) = (patient, record, related, reason);
        meta.context.client_ip = client.map(|it| it.to_canonical().to_string());
        if let Some(id) = id {
            meta.id = id;
        }
        (meta, items, state)
    }

    /// Commits entries of the vault's own. They do not wait for room in the queue: recording a reveal must not be starved by
    /// a flood of submissions.
    pub(super) fn commit_now(
        &self,
        metas: Vec<(Meta, Vec<Item>)>,
        state: Vec<StateRow>,
    ) -> Result<Vec<Receipt>, VaultError> {
        loop {
            let entries = metas.iter().map(|(meta, items)| prepare(&self.keys, meta, items)).collect();
            let (reply, answer) = oneshot::channel();
            // Ids of the vault's own entries are fresh, so there is nothing to look up and nobody to race with.
            let (looked_up_to, state, resealed) = (u64::MAX, state.clone(), Vec::new());
            self.send(Message::Job(Job {
                entries,
                looked_up_to,
                state,
                resealed,
                unchanged: None,
                reply,
                room: None,
            }))?;
            // Else sealed under a key that is just being destroyed: once more, under the keys of now.
            if let Ok(done) = answer.blocking_recv().map_err(|_| VaultError::Unknown)? {
                return Ok(done.receipts());
            }
        }
    }

    /// Signs at once what a change of tokens or keys committed, so that cutting it off shows from the moment it is answered.
    pub(super) fn sign_now(&self) {
        super::ledger::sign_counted(&self.ledger, &self.counters);
    }

    /// Room for a report or other long reading, held while it goes on.
    pub(super) fn long_read(&self) -> Result<tokio::sync::OwnedSemaphorePermit, VaultError> {
        self.long.clone().try_acquire_owned().map_err(|_| {
            self.counters.busy.fetch_add(1, Ordering::Relaxed);
            VaultError::Busy
        })
    }

    pub(super) fn send(&self, message: Message) -> Result<(), VaultError> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.send(message).map_err(|_| VaultError::Unknown)
    }

    /// Seals a draft for the writer, blinding it first where the vault blinds.
    pub(super) fn seal(&self, draft: &Draft) -> Prepared {
        let ring = self.keys.ring();
        let bucket = ring.bucket_of(&draft.keep.class, draft.keep.until).map_or(OWN_BUCKET, |it| it.id);
        if !self.settings.blind_patients {
            return prepare_in(&self.keys, bucket, &draft.meta, &draft.items);
        }
        let mut draft = draft.clone();
        super::blinding::blind(&mut draft, ring.index_keys().last().expect("a keyring has an index key"));
        prepare_in(&self.keys, bucket, &draft.meta, &draft.items)
    }

    /// The forms a patient id may have on disk: one per blind index key, the newest first, and in clear, for a vault may have been
    /// switched.
    pub(super) fn patient_forms(&self, id: &str) -> Vec<Patient> {
        let plain = Patient::Plain(id.to_owned());
        self.keys.ring().index_keys().iter().rev().map(|key| key.blind(id)).chain([plain]).collect()
    }
}

/// What is recorded of a set of entries: how many and a digest, so that the set can be shown later without listing it.
pub(super) fn set_facts(ids: &[Uuid]) -> Vec<(String, String)> {
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    let digest = sorted.iter().fold(Sha256::new(), |hash, id| hash.chain_update(id.as_bytes())).finalize();
    vec![("entries".into(), ids.len().to_string()), ("entries_digest".into(), hex::encode(digest))]
}
