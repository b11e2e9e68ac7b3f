//! Two people: what cannot be undone is asked for by one administrator and done when another approves.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::crypto::lock::Slot;
use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::issue::Issue;
use crate::domain::meta::Record;
use crate::domain::submission::ReasonIn;
use crate::domain::time::Timestamp;
use crate::domain::value::Value;

use super::Vault;
use super::book;
use super::disposal::{Disposed, Redacted};
use super::error::VaultError;
use super::fault;
use super::indexing::IndexKeys;
use super::record::{CheckedReason, Note, default_reason};
use super::rekey::{Destroyed, Slots};
use super::standing::{STATE_DIGEST, digest_of};
use super::tokens::TokenMade;

/// The kind of an approval's state row.
pub(super) const KIND: &str = "approval";
/// The most requests that wait at a time.
const MAX_PENDING: usize = 100;
/// The most requests that a vault keeps; decided ones stay, for they are evidence.
const MAX_KEPT: usize = 20_000;
/// The most that one administrator asks for in a day, so that nobody uses up what is kept.
const MAX_A_DAY: usize = 100;

/// What needs a second administrator.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "operation", rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    /// Destroys a retired data-key version that seals nothing any more.
    KeyDestroy {
        /// Which.
        version: u32,
    },
    /// Destroys an older blind index key: nobody finds a patient's entries of its time by the patient's id any more.
    IndexDestroy {
        /// Its version.
        version: u32,
    },
    /// Adds a slot that opens the keyring, or replaces the one of that name.
    SlotPut {
        /// The slot, made where the passphrase or key is; it holds no secret.
        #[schema(value_type = Object)]
        slot: Slot,
    },
    /// Removes a slot.
    SlotRemove {
        /// Its name.
        name: String,
    },
    /// Disposes of a bucket whose retention has ended.
    Dispose {
        /// Its number.
        bucket: u32,
    },
    /// Erases the values of one entry by order of a court or on a person's request.
    Redact {
        /// The entry.
        entry: Uuid,
        /// Who ordered it, with the reference; sealed.
        authority: String,
    },
    /// Makes another administrator.
    AdminToken {
        /// Whose.
        label: String,
        /// SHA-256 of the token, hex: whoever it is for makes it (`phivault token generate`), so that nobody else ever has it.
        token_hash: String,
        /// When it ends.
        expires_at: Option<String>,
        /// Networks it may be used from.
        allowed_sources: Option<Vec<String>>,
    },
}

impl Operation {
    /// What it is about, so that the same is not asked for twice at a time.
    fn target(&self) -> (Action, String) {
        let target = match self {
            Self::KeyDestroy { version } | Self::IndexDestroy { version } => version.to_string(),
            Self::SlotPut { slot } => slot.name.clone(),
            Self::SlotRemove { name } => name.clone(),
            Self::Dispose { bucket } => bucket.to_string(),
            Self::Redact { entry, .. } => entry.to_string(),
            Self::AdminToken { label, .. } => label.clone(),
        };
        (self.action(), target)
    }

    /// The action that its entry carries.
    fn action(&self) -> Action {
        match self {
            Self::KeyDestroy { .. } => Action::KEY_DESTROY,
            Self::IndexDestroy { .. } => Action::KEY_INDEX,
            Self::SlotPut { .. } | Self::SlotRemove { .. } => Action::KEY_SLOT,
            Self::Dispose { .. } => Action::DISPOSE,
            Self::Redact { .. } => Action::REDACT,
            Self::AdminToken { .. } => Action::TOKEN_CREATE,
        }
    }

    fn permission(&self) -> Permission {
        match self {
            Self::KeyDestroy { .. } | Self::IndexDestroy { .. } | Self::SlotPut { .. } | Self::SlotRemove { .. } => {
                Permission::RotateKeys
            }
            Self::Dispose { .. } | Self::Redact { .. } => Permission::Dispose,
            Self::AdminToken { .. } => Permission::ManageTokens,
        }
    }
}

/// Where a request stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It waits for a second administrator.
    Pending,
    /// It was approved and done.
    Done,
    /// It was withdrawn or refused.
    Cancelled,
    /// Nobody approved it in time.
    Expired,
}

/// A request for what needs two people.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Approval {
    /// Its id.
    pub id: String,
    /// What is asked for.
    pub request: Operation,
    /// What that would do, in words.
    pub effect: String,
    /// Where it stands.
    pub stage: Stage,
    /// Why it is asked for: the reason code.
    pub reason: String,
    /// Why, in words.
    pub note: Option<String>,
    /// Who asked.
    pub requested_by: String,
    /// With which token.
    pub requested_token: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub requested_at: Timestamp,
    /// Until when it can be approved.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// Who approved or cancelled it.
    pub decided_by: Option<String>,
    /// When.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub decided_at: Option<Timestamp>,
    /// The certificate of what was done, if it has one.
    pub certificate: Option<Uuid>,
}

/// What came of asking.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum Asked {
    /// It waits for a second administrator.
    Pending(Approval),
    /// It is done: this vault has switched off that two people are needed.
    Done(Done),
}

/// What was done.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum Done {
    /// A data-key version is gone.
    Destroyed(Destroyed),
    /// The blind index keys changed.
    Index(IndexKeys),
    /// The slots changed.
    Slots(Slots),
    /// A bucket was disposed of.
    Disposed(Disposed),
    /// An entry's values were erased.
    Redacted(Redacted),
    /// There is another administrator.
    Token(TokenMade),
}

/// Who does it, why, and who asked for it.
pub(super) struct By<'a> {
    pub(super) caller: &'a Caller,
    reason: CheckedReason,
    approval: Option<&'a Approval>,
}

impl<'a> By<'a> {
    /// A note that says all that.
    pub(super) fn note(&self, action: Action) -> Note<'a> {
        let mut note = Note::new(self.caller, action, self.reason.clone());
        note.facts = match self.approval {
            None => vec![("approval".into(), "off".into())],
            Some(approval) => vec![
                ("approval".into(), approval.id.clone()),
                ("approved_by".into(), self.caller.label.clone()),
                ("requested_by".into(), approval.requested_by.clone()),
                ("requested_token".into(), approval.requested_token.clone()),
            ],
        };
        note
    }
}

impl Vault {
    /// Asks for what needs two people. Where the vault has switched that off, it is done at once.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `Invalid` when it cannot be done as things are, or what recording says.
    pub fn ask(&self, caller: &Caller, operation: Operation, reason: ReasonIn) -> Result<Asked, VaultError> {
        self.allow(caller, operation.permission(), operation.action())?;
        let note = reason.note.as_ref().and_then(|it| match it.expose() {
            Value::String(text) => Some(text.clone()),
            _ => None,
        });
        let reason = self.reason(caller, operation.action(), reason)?;
        if !self.settings.two_person {
            return Ok(Asked::Done(self.carry_out(&By { caller, reason, approval: None }, &operation)?));
        }
        let effect = self.can_be_done(&operation)?;
        if !self.has_other_admin(&caller.token_id) {
            let detail = "There is no other administrator with a valid token who could approve it. Somebody else makes a token (`phivault token generate`), and you let it in: `phivault token create --role admin --label NAME --hash HEX`.";
            return Err(refused("", "no_second_admin", detail));
        }
        let mut approvals = self.read_approvals();
        let now = self.clock.now();
        let waits = |it: &&Approval| it.stage == Stage::Pending && it.expires_at > now;
        if let Some(same) = approvals.values().filter(waits).find(|it| it.request.target() == operation.target()) {
            let detail = format!("The same waits for approval already ({}); approve or cancel that one.", same.id);
            return Err(refused("/request", "already_asked", detail));
        }
        if approvals.values().filter(waits).count() >= MAX_PENDING {
            return Err(refused("", "too_many", "A hundred requests wait already; approve or cancel some first."));
        }
        if approvals.len() >= MAX_KEPT {
            return Err(refused("", "too_many", format!("A vault keeps at most {MAX_KEPT} requests in its life.")));
        }
        self.bounds.daily.one_more("operations", &caller.token_id, MAX_A_DAY)?;
        let approval = Approval {
            id: format!("apr-{}", hex::encode(crate::crypto::random::array::<8>())),
            request: operation,
            effect,
            stage: Stage::Pending,
            reason: reason.0.code.clone(),
            note,
            requested_by: caller.label.clone(),
            requested_token: caller.token_id.clone(),
            requested_at: now,
            expires_at: now.plus_seconds(self.settings.approval_seconds),
            decided_by: None,
            decided_at: None,
            certificate: None,
        };
        self.record_approval(caller, reason, &approval)?;
        approvals.insert(approval.id.clone(), approval.clone());
        Ok(Asked::Pending(approval))
    }

    /// Approves a request of another administrator, and does it.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `NotFound`, `Invalid` (one's own request, too late, or it cannot be done any more), or what
    /// recording says.
    pub fn approve(&self, caller: &Caller, id: &str, reason: ReasonIn) -> Result<Done, VaultError> {
        self.allow(caller, Permission::Approve, Action::APPROVAL)?;
        let reason = self.reason(caller, Action::APPROVAL, reason)?;
        // Held until it is done, so that nobody else approves or cancels it meanwhile; the list can be read.
        let _deciding = self.deciding.lock().unwrap_or_else(PoisonError::into_inner);
        let approval = self.read_approvals().get(id).cloned().ok_or(VaultError::NotFound)?;
        self.still_waits(&approval)?;
        if approval.requested_token == caller.token_id || approval.requested_by.eq_ignore_ascii_case(&caller.label) {
            let detail = "You asked for this yourself; another administrator must approve it.";
            return Err(refused("/id", "own_request", detail));
        }
        if !self.is_valid_admin(&approval.requested_token) {
            let detail = "Whoever asked for this is no administrator any more; cancel it, and ask again yourself if it is right.";
            return Err(refused("/id", "requester_gone", detail));
        }
        let by = By { caller, reason: reason.clone(), approval: Some(&approval) };
        let done = self.carry_out(&by, &approval.request)?;
        fault::point("carried-out");
        let certificate = match &done {
            Done::Disposed(it) => Some(it.certificate),
            Done::Redacted(it) => Some(it.certificate),
            _ => None,
        };
        self.decide(caller, reason, Approval { certificate, ..approval }, Stage::Done)?;
        Ok(done)
    }

    /// Cancels a request: one's own, or another's that should not be.
    ///
    /// # Errors
    /// As [`Vault::approve`].
    pub fn cancel_approval(&self, caller: &Caller, id: &str, reason: ReasonIn) -> Result<Approval, VaultError> {
        self.allow(caller, Permission::Approve, Action::APPROVAL)?;
        let reason = self.reason(caller, Action::APPROVAL, reason)?;
        let _deciding = self.deciding.lock().unwrap_or_else(PoisonError::into_inner);
        let approval = self.read_approvals().get(id).cloned().ok_or(VaultError::NotFound)?;
        self.still_waits(&approval)?;
        self.decide(caller, reason, approval, Stage::Cancelled)
    }

    /// All requests, newest first. Recorded.
    ///
    /// # Errors
    /// [`VaultError::Denied`], or what recording says.
    pub fn list_approvals(&self, caller: &Caller) -> Result<Vec<Approval>, VaultError> {
        self.allow(caller, Permission::ListApprovals, Action::APPROVAL)?;
        self.record(Note::new(caller, Action::APPROVAL, default_reason()))?;
        let approvals = self.read_approvals();
        let now = self.clock.now();
        let late = |it: &Approval| it.stage == Stage::Pending && it.expires_at <= now;
        let shown = |it: &Approval| Approval { stage: if late(it) { Stage::Expired } else { it.stage }, ..it.clone() };
        let mut all: Vec<_> = approvals.values().map(shown).collect();
        all.sort_by(|a, b| (b.requested_at, &b.id).cmp(&(a.requested_at, &a.id)));
        Ok(all)
    }

    fn still_waits(&self, approval: &Approval) -> Result<(), VaultError> {
        if approval.stage != Stage::Pending {
            return Err(refused("/id", "decided", "This request was decided already."));
        }
        if approval.expires_at <= self.clock.now() {
            return Err(refused("/id", "expired", "This request was not approved in time; ask again."));
        }
        Ok(())
    }

    fn decide(
        &self,
        caller: &Caller,
        reason: CheckedReason,
        approval: Approval,
        stage: Stage,
    ) -> Result<Approval, VaultError> {
        let (decided_by, decided_at) = (Some(caller.label.clone()), Some(self.clock.now()));
        let approval = Approval { stage, decided_by, decided_at, ..approval };
        self.record_approval(caller, reason, &approval)?;
        self.read_approvals().insert(approval.id.clone(), approval.clone());
        Ok(approval)
    }

    pub(super) fn read_approvals(&self) -> MutexGuard<'_, BTreeMap<String, Approval>> {
        self.approvals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The row and the entry that commits to it go in together.
    fn record_approval(&self, caller: &Caller, reason: CheckedReason, approval: &Approval) -> Result<(), VaultError> {
        let row = book::row(&self.keys.ring(), KIND, &approval.id, approval);
        let mut note = Note::new(caller, Action::APPROVAL, reason);
        note.record = Some(Record::new("Approval", &row.id));
        let stage = match approval.stage {
            Stage::Pending => "requested",
            Stage::Done => "done",
            Stage::Cancelled | Stage::Expired => "cancelled",
        };
        note.facts = vec![
            (STATE_DIGEST.into(), digest_of(&row)),
            ("operation".into(), approval.request.action().name().into()),
            ("stage".into(), stage.into()),
        ];
        note.seal("operation", serde_json::to_string(&approval.request).expect("it is made of text and numbers"));
        note.state.push(row);
        self.record(note)?;
        self.sign_now();
        Ok(())
    }

    /// Whether it could be done as things are, found out before somebody else is asked; and what it would do, for them to see.
    fn can_be_done(&self, operation: &Operation) -> Result<String, VaultError> {
        Ok(match operation {
            Operation::KeyDestroy { version } => {
                self.destroyable(*version)?;
                format!("destroys data-key version {version}, under which nothing is sealed")
            }
            Operation::IndexDestroy { version } => {
                self.index_without(*version)?;
                format!(
                    "destroys blind index key {version}: entries of its time are not found by the patient's id any more, and are \
                     missing from every search, report and accounting of a patient from then on"
                )
            }
            Operation::SlotPut { slot } => {
                let replaces = self.keys.ring().slots().iter().any(|it| it.name == slot.name);
                self.slots_with(slot)?;
                let (name, key) = (&slot.name, &slot.kek_id[..8]);
                if replaces {
                    format!("replaces the slot {name} of the keyring: what opened it does no more, the key {key} does")
                } else {
                    format!("adds the slot {name} to the keyring: the key {key} opens it too")
                }
            }
            Operation::SlotRemove { name } => {
                self.slots_without(name)?;
                format!("removes the slot {name}: what it stands for opens the keyring no more")
            }
            Operation::Dispose { bucket } => {
                let found = self.disposable(*bucket)?;
                let entries = self.counted(|it| it.version > 0 && it.bucket == *bucket)?;
                let end = found.expires_at.map_or_else(|| "never".to_owned(), |it| it.to_string());
                format!("destroys the values of {entries} entries: bucket {bucket}, class {}, ended {end}", found.class)
            }
            Operation::Redact { entry, authority } => {
                let meta = super::search::decode(&self.redactable(*entry, authority)?)?;
                format!("erases the values of entry {entry}: {} by {}", meta.action.name(), meta.actor.id)
            }
            Operation::AdminToken { label, token_hash, expires_at, allowed_sources } => {
                self.admin_token(label, token_hash, expires_at, allowed_sources)?;
                format!("makes {label} an administrator, with the token of hash {}", &token_hash[..8])
            }
        })
    }

    /// Does it. Whether it can be done as things are by now is looked at there once more.
    fn carry_out(&self, by: &By<'_>, operation: &Operation) -> Result<Done, VaultError> {
        Ok(match operation {
            Operation::KeyDestroy { version } => Done::Destroyed(self.destroy_key(by, *version)?),
            Operation::IndexDestroy { version } => Done::Index(self.destroy_index(by, *version)?),
            Operation::SlotPut { slot } => Done::Slots(self.change_slots(by, &slot.name, |it| it.slots_with(slot))?),
            Operation::SlotRemove { name } => Done::Slots(self.change_slots(by, name, |it| it.slots_without(name))?),
            Operation::Dispose { bucket } => Done::Disposed(self.dispose(by, *bucket)?),
            Operation::Redact { entry, authority } => Done::Redacted(self.redact(by, *entry, authority)?),
            Operation::AdminToken { label, token_hash, expires_at, allowed_sources } => {
                let (view, hash) = self.admin_token(label, token_hash, expires_at, allowed_sources)?;
                Done::Token(self.keep_token(by.note(Action::TOKEN_CREATE), view, hash, false)?)
            }
        })
    }
}

/// Something that cannot be done as asked.
pub(super) fn refused(pointer: &str, code: &'static str, detail: impl Into<String>) -> VaultError {
    VaultError::Invalid(vec![Issue::new(pointer, code, detail.into())])
}
