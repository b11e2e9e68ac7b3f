//! Tokens: who may call. Rows of state, each authenticated under the state key and tied to the entry that made it.

use std::collections::HashMap;
use std::sync::PoisonError;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::crypto::keyring::Keyring;
use crate::crypto::token::{HashedToken, PlainToken};
use crate::crypto::{boxed, label};
use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission, Role};
use crate::domain::canonical::{NotCanonical, Reader, Writer, utf8};
use crate::domain::issue::{Issue, Issues};
use crate::domain::meta::Record;
use crate::domain::rules::identifier;
use crate::domain::submission::{ReasonIn, object};
use crate::domain::time::Timestamp;
use crate::store::StateRow;

use super::Vault;
use super::approval::{Asked, Done, Operation, refused};
use super::book;
use super::error::VaultError;
use super::peer::{Peer, Source};
use super::record::{CheckedReason, Note, default_reason};
use super::standing::{STATE_DIGEST, Standing, digest_of};

/// The kind of a token's state row.
pub(super) const KIND: &str = "token";
/// The most tokens of a vault that are neither revoked nor expired.
const MAX_LIVE: usize = 10_000;
/// The most tokens a vault keeps, so that the list of them stays a list.
const MAX_TOKENS: usize = 100_000;
/// The most allowed sources of one token.
const MAX_SOURCES: usize = 32;

/// A token without its secret.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TokenView {
    /// Its id.
    pub id: String,
    /// The application or person it was given to.
    pub label: String,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it ends.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub revoked_at: Option<Timestamp>,
    /// The networks it may be used from, and the client certificates it must come with; empty: any.
    pub allowed_sources: Vec<String>,
    /// The patient of a patient's token; not shown to administrators.
    #[serde(skip)]
    pub(super) patient: Option<String>,
}

impl TokenView {
    /// Whether it is neither revoked nor expired.
    fn is_valid(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

/// What a new token should be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenIn {
    /// submitter, officer, auditor, admin or patient.
    pub role: Option<String>,
    /// The application or person it is for.
    pub label: Option<String>,
    /// The patient, for the role patient: the token makes the report of who looked at this patient's record, and nothing else.
    pub patient: Option<String>,
    /// When it ends (RFC 3339).
    pub expires_at: Option<String>,
    /// Networks it may be used from, such as 10.1.0.0/16, and client certificates it must come with: `cert:` and the SHA-256 of the
    /// certificate in hex (RFC 8705, section 3.1).
    pub allowed_sources: Option<Vec<String>>,
    /// SHA-256 of a token that whoever it is for has made (`phivault token generate`), hex. Needed for a further administrator;
    /// made by the vault, and shown once, if absent.
    pub token_hash: Option<String>,
    /// Why; system administration if absent.
    #[serde(default, deserialize_with = "object")]
    pub reason: Option<ReasonIn>,
}

/// A new token, shown once.
#[derive(Serialize, ToSchema)]
pub struct TokenMade {
    /// The token without its secret.
    #[serde(flatten)]
    pub view: TokenView,
    /// The token itself; it cannot be shown again. Absent when its hash was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// All tokens, in memory.
#[derive(Default)]
pub(super) struct Tokens {
    by_hash: HashMap<HashedToken, TokenRow>,
}

#[derive(Clone)]
struct TokenRow {
    view: TokenView,
    hash: HashedToken,
}

impl Tokens {
    /// Takes the tokens from state rows, and leaves out every row that is not authentic or not the newest the ledger knows;
    /// how many those are.
    pub(super) fn load(rows: &[StateRow], standing: &Standing, ring: &Keyring) -> (Self, u64) {
        let (mut tokens, mut untrusted) = (Self::default(), 0);
        for row in rows.iter().filter(|row| row.kind == KIND) {
            let authentic = book::is_authentic(ring, row);
            match TokenRow::decode(&row.body, ring) {
                Ok(token) if authentic && standing.holds(row) && token.view.id == row.id => {
                    tokens.by_hash.insert(token.hash, token);
                }
                _ => {
                    untrusted += 1;
                    tracing::error!(token = %row.id, "a token row in the database is not authentic or not the newest; it is refused");
                }
            }
        }
        let gone = |(kind, id): &(&str, &str)| *kind == KIND && !rows.iter().any(|row| row.id == *id);
        for (_, id) in standing.rows().filter(gone) {
            untrusted += 1;
            tracing::error!(token = %id, "the row of a token that the ledger records is gone from the database");
        }
        (tokens, untrusted)
    }

    /// The rows of all of them under a keyring.
    pub(super) fn rows<'a>(&'a self, ring: &'a Keyring) -> impl Iterator<Item = StateRow> + 'a {
        self.by_hash.values().map(|it| book::tagged(ring, KIND, &it.view.id, it.encode(ring)))
    }
}

impl Vault {
    /// Who a token belongs to, if it is known, not revoked, not expired and used from where it may be.
    pub fn authenticate(&self, token: &str, from: Peer) -> Option<Caller> {
        let token = PlainToken::parse(token)?;
        let tokens = self.read_tokens();
        self.caller_by(tokens.by_hash.get(&token.hashed())?, Some(from))
    }

    /// Who a token of that id belongs to, if it holds now; and from there, if that is known.
    pub(super) fn caller_of(&self, id: &str, from: Option<Peer>) -> Option<Caller> {
        let tokens = self.read_tokens();
        self.caller_by(tokens.by_hash.values().find(|it| it.view.id == id)?, from)
    }

    fn caller_by(&self, found: &TokenRow, from: Option<Peer>) -> Option<Caller> {
        let view = &found.view;
        let is_placed = from.is_none_or(|from| from.is_among(&view.allowed_sources));
        let caller = || Caller { token_id: view.id.clone(), label: view.label.clone(), role: view.role };
        (view.is_valid(self.clock.now()) && is_placed).then(caller)
    }

    /// All tokens without their secrets, by time of creation. Recorded.
    ///
    /// # Errors
    /// [`VaultError::Denied`], or what recording says.
    pub fn list_tokens(&self, caller: &Caller) -> Result<Vec<TokenView>, VaultError> {
        self.allow(caller, Permission::ListTokens, Action::TOKEN_LIST)?;
        self.record(Note::new(caller, Action::TOKEN_LIST, default_reason()))?;
        let tokens = self.read_tokens();
        let mut views: Vec<_> = tokens.by_hash.values().map(|it| it.view.clone()).collect();
        views.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(views)
    }

    /// Makes a token.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `Invalid`, or what recording says.
    pub fn create_token(&self, caller: &Caller, asked: TokenIn) -> Result<Asked, VaultError> {
        self.allow(caller, Permission::ManageTokens, Action::TOKEN_CREATE)?;
        let for_admin = asked.role.as_deref() == Some(Role::Admin.name()) && self.settings.two_person;
        if for_admin && asked.token_hash.is_none() {
            let detail = "Whoever is to be an administrator makes the token, so that nobody else ever has it: they run `phivault token generate`, and you give its hash here.";
            return Err(refused("/token_hash", "token_hash_missing", detail));
        }
        if for_admin && self.admins_need_approval() {
            let TokenIn { label, expires_at, allowed_sources, token_hash, reason, .. } = asked;
            let (label, token_hash) = (label.unwrap_or_default(), token_hash.unwrap_or_default());
            let operation = Operation::AdminToken { label, token_hash, expires_at, allowed_sources };
            let reason = reason.unwrap_or_else(|| ReasonIn { code: Some("HSYSADMIN".into()), ..ReasonIn::default() });
            return self.ask(caller, operation, reason);
        }
        let reason = self.token_reason(caller, Action::TOKEN_CREATE, asked.reason)?;
        let now = self.clock.now();
        let mut view = check(asked.role, asked.label, asked.expires_at, asked.allowed_sources, now)
            .map_err(VaultError::Invalid)?;
        let mut note = Note::new(caller, Action::TOKEN_CREATE, reason);
        view.patient = patient_of(&view, asked.patient)?;
        if let Some(patient) = &view.patient {
            note.seal("patient", patient.clone());
        }
        let made = match &asked.token_hash {
            None => self.add_token(note, view)?,
            Some(hash) => self.keep_token(note, view, hash_of(hash)?, for_admin)?,
        };
        Ok(Asked::Done(Done::Token(made)))
    }

    /// The second administrator of a vault there ever was is made by the first alone; from then on it takes two.
    fn admins_need_approval(&self) -> bool {
        let ever = self.read_tokens().by_hash.values().filter(|it| it.view.role == Role::Admin).count();
        // With rows altered or removed nobody knows how many there were.
        let doubtful = self.counters.untrusted_state.load(std::sync::atomic::Ordering::Relaxed) > 0;
        self.settings.two_person && (ever > 1 || doubtful)
    }

    /// What another administrator's token would be, and its hash.
    pub(super) fn admin_token(
        &self,
        label: &str,
        hash: &str,
        expires_at: &Option<String>,
        sources: &Option<Vec<String>>,
    ) -> Result<(TokenView, HashedToken), VaultError> {
        let role = Some(Role::Admin.name().to_owned());
        let now = self.clock.now();
        let view = check(role, Some(label.to_owned()), expires_at.clone(), sources.clone(), now)
            .map_err(VaultError::Invalid)?;
        let hash = hash_of(hash)?;
        if self.read_tokens().by_hash.contains_key(&hash) {
            return Err(refused("/token_hash", "token_known", "There is a token of this hash already."));
        }
        Ok((view, hash))
    }

    /// Whether a token is that of an administrator, and valid.
    pub(super) fn is_valid_admin(&self, id: &str) -> bool {
        let now = self.clock.now();
        self.read_tokens()
            .by_hash
            .values()
            .any(|it| it.view.id == id && it.view.role == Role::Admin && it.view.is_valid(now))
    }

    /// Whether there is a valid administrator beside this one.
    pub(super) fn has_other_admin(&self, id: &str) -> bool {
        let now = self.clock.now();
        let other = |it: &TokenRow| it.view.id != id && it.view.role == Role::Admin && it.view.is_valid(now);
        self.read_tokens().by_hash.values().any(other)
    }

    /// Makes a token for a checked view; `init` and `demo` use it too.
    pub(super) fn add_token(&self, note: Note<'_>, view: TokenView) -> Result<TokenMade, VaultError> {
        let token = PlainToken::generate();
        let made = self.keep_token(note, view, token.hashed(), false)?;
        Ok(TokenMade { token: Some(token.expose().to_owned()), ..made })
    }

    /// Keeps a token whose hash is known. `alone`: of an administrator whom nobody approved.
    pub(super) fn keep_token(
        &self,
        note: Note<'_>,
        view: TokenView,
        hash: HashedToken,
        alone: bool,
    ) -> Result<TokenMade, VaultError> {
        // One change after the other, but callers are looked up all the while: recording waits for the disk.
        let _changing = self.changing_tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if alone && self.admins_need_approval() {
            return Err(refused(
                "/role",
                "approval_needed",
                "There is a second administrator by now; ask again, it takes an approval.",
            ));
        }
        let now = self.clock.now();
        let (live, all) = {
            let tokens = self.read_tokens();
            (tokens.by_hash.values().filter(|it| it.view.is_valid(now)).count(), tokens.by_hash.len())
        };
        if live >= MAX_LIVE || all >= MAX_TOKENS {
            let detail = format!(
                "A vault holds at most {MAX_LIVE} valid tokens, and {MAX_TOKENS} in all; revoke some that are not used."
            );
            return Err(VaultError::Invalid(vec![Issue::new("", "too_many", detail)]));
        }
        let row = TokenRow { view, hash };
        self.record_token(note, &row)?;
        let made = TokenMade { view: row.view.clone(), token: None };
        self.put_token(row);
        Ok(made)
    }

    /// Revokes a token, at once. Revoking it again changes nothing.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `NotFound`, `Invalid`, or what recording says.
    pub fn revoke_token(&self, caller: &Caller, id: &str, reason: Option<ReasonIn>) -> Result<(), VaultError> {
        self.allow(caller, Permission::ManageTokens, Action::TOKEN_REVOKE)?;
        let reason = self.token_reason(caller, Action::TOKEN_REVOKE, reason)?;
        let _changing = self.changing_tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let found = self.read_tokens().by_hash.values().find(|it| it.view.id == id).cloned();
        let mut row = found.ok_or(VaultError::NotFound)?;
        if row.view.revoked_at.is_some() {
            return Ok(());
        }
        if self.is_last_admin(&row.view) {
            let detail = "This is the last admin token that is valid; make another one first, or nobody can administer the vault.";
            return Err(VaultError::Invalid(vec![Issue::new("/id", "last_admin", detail)]));
        }
        row.view.revoked_at = Some(self.clock.now());
        self.record_token(Note::new(caller, Action::TOKEN_REVOKE, reason), &row)?;
        self.sessions.end_all_of(id);
        self.put_token(row);
        Ok(())
    }

    fn is_last_admin(&self, view: &TokenView) -> bool {
        let now = self.clock.now();
        let other = |it: &TokenRow| it.view.role == Role::Admin && it.view.id != view.id && it.view.is_valid(now);
        view.role == Role::Admin && view.is_valid(now) && !self.read_tokens().by_hash.values().any(other)
    }

    /// The patient of a patient's token.
    pub(super) fn patient_of_token(&self, id: &str) -> Option<String> {
        self.read_tokens().by_hash.values().find(|it| it.view.id == id)?.view.patient.clone()
    }

    pub(super) fn read_tokens(&self) -> std::sync::RwLockReadGuard<'_, Tokens> {
        self.tokens.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_token(&self, row: TokenRow) {
        self.tokens.write().unwrap_or_else(PoisonError::into_inner).by_hash.insert(row.hash, row);
    }

    fn token_reason(
        &self,
        caller: &Caller,
        action: Action,
        reason: Option<ReasonIn>,
    ) -> Result<CheckedReason, VaultError> {
        reason.map_or_else(|| Ok(default_reason()), |reason| self.reason(caller, action, reason))
    }

    /// The row and the entry that commits to it go in together.
    fn record_token(&self, mut note: Note<'_>, token: &TokenRow) -> Result<(), VaultError> {
        let ring = self.keys.ring();
        let row = book::tagged(&ring, KIND, &token.view.id, token.encode(&ring));
        note.record = Some(Record::new("Token", &row.id));
        note.facts.extend([
            (STATE_DIGEST.into(), digest_of(&row)),
            ("label".into(), token.view.label.clone()),
            ("role".into(), token.view.role.name().into()),
        ]);
        note.state.push(row);
        self.record(note)?;
        self.sign_now();
        Ok(())
    }
}

/// The patient that a patient's token is for; no other token has one.
fn patient_of(view: &TokenView, given: Option<String>) -> Result<Option<String>, VaultError> {
    match (view.role, given) {
        (Role::Patient, Some(id)) => identifier("/patient", id).map(Some).map_err(VaultError::Invalid),
        (Role::Patient, None) => Err(refused("/patient", "missing", "Say whose record this token is about.")),
        (_, None) => Ok(None),
        (_, Some(_)) => {
            Err(refused("/patient", "not_allowed", "Only a token of the role patient is about one patient."))
        }
    }
}

/// A token's hash as it is given.
fn hash_of(text: &str) -> Result<HashedToken, VaultError> {
    let hash = hex::decode(text).ok().and_then(|it| <[u8; 32]>::try_from(it).ok());
    hash.map(HashedToken).ok_or_else(|| {
        let detail = "The hash of a token is 64 hex digits, as `phivault token generate` prints it.";
        refused("/token_hash", "token_hash_malformed", detail)
    })
}

/// A view of a new token, if all of it is acceptable.
pub(super) fn check(
    role: Option<String>,
    label: Option<String>,
    expires_at: Option<String>,
    allowed_sources: Option<Vec<String>>,
    now: Timestamp,
) -> Result<TokenView, Vec<Issue>> {
    let mut issues = Issues::default();
    let role = role.as_deref().and_then(Role::parse).unwrap_or_else(|| {
        issues.add("/role", "role_unknown", "The role is submitter, officer, auditor, admin or patient.");
        Role::Auditor
    });
    let label = identifier("/label", label.unwrap_or_default()).unwrap_or_else(|found| {
        found.into_iter().for_each(|it| issues.add(it.pointer, it.code, it.detail));
        String::new()
    });
    let own = label.to_ascii_lowercase();
    if own == super::writer::SELF || own.starts_with("phivault-") {
        issues.add("/label", "label_reserved", "Labels like this are the vault's own; choose another.");
    }
    let expires_at = expires_at.and_then(|text| match Timestamp::parse(&text) {
        Some(time) if time > now => Some(time),
        _ => {
            issues.add("/expires_at", "time_invalid", "The end is an RFC 3339 time in the future.");
            None
        }
    });
    let sources = allowed_sources.unwrap_or_default();
    if sources.len() > MAX_SOURCES {
        issues.add("/allowed_sources", "too_many", format!("This list is limited to {MAX_SOURCES}."));
    }
    let mut allowed_sources = Vec::new();
    for (n, source) in sources.iter().take(MAX_SOURCES).enumerate() {
        match Source::parse(source) {
            Some(source) => allowed_sources.push(source.to_string()),
            None => issues.add(
                format!("/allowed_sources/{n}"),
                "network_invalid",
                "A source is an address, a network such as 10.1.0.0/16, or cert: and the SHA-256 of a client certificate.",
            ),
        }
    }
    let id = format!("tok-{}", hex::encode(crate::crypto::random::array::<8>()));
    let (revoked_at, patient) = (None, None);
    issues.finish(TokenView { id, label, role, created_at: now, expires_at, revoked_at, allowed_sources, patient })
}

impl TokenRow {
    fn encode(&self, ring: &Keyring) -> Vec<u8> {
        let mut out = Writer::new(1);
        out.text(1, &self.view.id);
        out.text(2, &self.view.label);
        out.text(3, self.view.role.name());
        out.bytes(4, &self.hash.0);
        for (tag, time) in [(5, Some(self.view.created_at)), (6, self.view.expires_at), (7, self.view.revoked_at)] {
            if let Some(time) = time {
                out.bytes(tag, &time.0.to_be_bytes());
            }
        }
        out.list(8, self.view.allowed_sources.iter().map(String::as_bytes));
        let place = format!("{KIND}/{}/patient", self.view.id);
        let seal = |it: &String| boxed::seal(ring.state_key(), label::STATE_BODY, place.as_bytes(), it.as_bytes());
        let patient: Vec<_> = self.view.patient.iter().map(seal).collect();
        out.list(9, patient.iter().map(Vec::as_slice));
        out.finish()
    }

    fn decode(bytes: &[u8], ring: &Keyring) -> Result<Self, NotCanonical> {
        let mut read = Reader::new(bytes, 1)?;
        let (id, name) = (read.required_text(1)?.to_owned(), read.required_text(2)?.to_owned());
        let role = Role::parse(read.required_text(3)?).ok_or(NotCanonical("an unknown role"))?;
        let hash = HashedToken(read.array::<32>(4)?.ok_or(NotCanonical("a required field is missing"))?);
        let mut time = |tag| Ok(read.array::<8>(tag)?.map(|bytes| Timestamp(i64::from_be_bytes(bytes))));
        let created_at = time(5)?.ok_or(NotCanonical("a required field is missing"))?;
        let (expires_at, revoked_at) = (time(6)?, time(7)?);
        let allowed_sources =
            read.list(8)?.into_iter().map(|it| utf8(it).map(str::to_owned)).collect::<Result<_, _>>()?;
        let sealed = read.list(9)?;
        read.finish()?;
        let place = format!("{KIND}/{id}/patient");
        let open = |sealed: &[u8]| {
            let mut keys = ring.state_keys();
            let text = keys.find_map(|key| boxed::open(key, label::STATE_BODY, place.as_bytes(), sealed));
            text.and_then(|it| String::from_utf8(it.to_vec()).ok()).ok_or(NotCanonical("a patient that does not open"))
        };
        let patient = sealed.first().map(|it| open(it)).transpose()?;
        if sealed.len() > 1 || (role == Role::Patient) != patient.is_some() {
            return Err(NotCanonical("a patient where none belongs, or none where one does"));
        }
        let view = TokenView { id, label: name, role, created_at, expires_at, revoked_at, allowed_sources, patient };
        Ok(Self { view, hash })
    }
}
