//! People who log in: a password and a one-time code in the place of a token. What they may do is what their token may, and it ends
//! with it; so two-person rules, networks and revocation hold for them without a word here.

use std::collections::BTreeMap;
use std::sync::{LazyLock, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::crypto::keyring::Keyring;
use crate::crypto::password::PasswordHash;
use crate::crypto::token::PlainToken;
use crate::crypto::totp::TotpSecret;
use crate::domain::action::{Action, Outcome};
use crate::domain::caller::{Caller, Permission, Role};
use crate::domain::meta::Record;
use crate::domain::time::{Clock, Timestamp};
use crate::store::StateRow;

use super::Vault;
use super::approval::refused;
use super::book;
use super::error::VaultError;
use super::peer::Peer;
use super::record::{Note, default_reason, vault_itself};
use super::standing::{STATE_DIGEST, Standing, digest_of};

/// The kind of a login's state row.
pub(super) const KIND: &str = "login";
/// NIST SP 800-63B-4 asks for 8 beside a second factor.
const LEAST_CHARACTERS: usize = 12;
const MOST_BYTES: usize = 256;

/// How a person logs in; the row's id is that of the token.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Login {
    name: String,
    password: PasswordHash,
    totp: String,
    made_at: Timestamp,
    /// The step of the newest code that was used, while this process runs.
    #[serde(skip)]
    used: i64,
}

/// What a person chooses who will log in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrolIn {
    /// At least 12 characters. A few words are good.
    pub password: Option<String>,
}

/// What an authenticator needs; shown once.
#[derive(Serialize, ToSchema)]
pub struct Enrolled {
    /// The name to log in with: the token's label.
    pub name: String,
    /// The secret in base32, for typing.
    pub secret: String,
    /// The same as a link, for a QR code.
    pub uri: String,
}

/// Somebody logs in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogInIn {
    /// The label of the token.
    pub name: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// Six digits of the authenticator.
    pub code: Option<String>,
}

/// A session as its person sees it.
#[derive(Serialize, ToSchema)]
pub struct SessionView {
    /// Who.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Seconds without a request after which it ends.
    pub idle_seconds: u64,
    /// Seconds after which it ends at the latest.
    pub ends_in_seconds: u64,
}

impl Vault {
    /// Lets the holder of a token log in from now on: with this password and the codes of an authenticator. Done again it replaces both,
    /// and ends the sessions.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `Invalid`, or what recording says.
    pub fn enrol(&self, caller: &Caller, asked: EnrolIn) -> Result<Enrolled, VaultError> {
        self.allow(caller, Permission::LogIn, Action::LOGIN_ENROL)?;
        let password = Zeroizing::new(asked.password.unwrap_or_default());
        let is_long = password.chars().count() >= LEAST_CHARACTERS && password.len() <= MOST_BYTES;
        if !is_long || password.contains(&caller.label) {
            let detail =
                "The password has 12 characters to 256 bytes and does not hold the name; a few words are good.";
            return Err(refused("/password", "password_weak", detail));
        }
        let secret = TotpSecret::generate();
        let hash = self.stretched(|| PasswordHash::of(&password))?.ok_or(VaultError::Busy)?;
        let now = self.clock.now();
        let login = Login {
            name: caller.label.clone(),
            password: hash,
            totp: secret.text().to_string(),
            made_at: now,
            used: TotpSecret::step_at(now.0 / 1_000_000) - 2,
        };
        let mut logins = self.logins();
        let taken = |(id, it): (&String, &Login)| {
            *id != caller.token_id && it.name == login.name && self.caller_of(id, None).is_some()
        };
        if logins.iter().any(taken) {
            let detail =
                "Somebody else logs in under this name. An administrator gives you a token with a label of your own.";
            return Err(refused("", "name_taken", detail));
        }
        let row = book::row(&self.keys.ring(), KIND, &caller.token_id, &login);
        let mut note = Note::new(caller, Action::LOGIN_ENROL, default_reason());
        note.record = Some(Record::new("Login", &row.id));
        note.facts.push((STATE_DIGEST.into(), digest_of(&row)));
        note.state.push(row);
        self.record(note)?;
        self.sign_now();
        logins.insert(caller.token_id.clone(), login);
        self.sessions.end_all_of(&caller.token_id);
        let text = secret.text();
        let uri = format!("otpauth://totp/phivault:{}?secret={}&issuer=phivault", encoded(&caller.label), *text);
        Ok(Enrolled { name: caller.label.clone(), secret: text.to_string(), uri })
    }

    /// Logs somebody in. A name that nobody has, a wrong password and a wrong code look alike, and take as long.
    ///
    /// # Errors
    /// [`VaultError::LoginFailed`]; `LoginWait` after many failures; `Busy` while others log in; or what recording says.
    pub fn log_in(&self, asked: LogInIn, from: Peer) -> Result<(PlainToken, SessionView), VaultError> {
        let password = Zeroizing::new(asked.password.unwrap_or_default());
        let (name, code) = (asked.name.unwrap_or_default(), asked.code.unwrap_or_default());
        if name.is_empty() || name.len() > MOST_BYTES || password.len() > MOST_BYTES {
            return Err(VaultError::LoginFailed);
        }
        if let Some(wait) = self.sessions.wait(&name, Instant::now()) {
            return Err(VaultError::LoginWait(wait.as_secs().max(1)));
        }
        let found = self.find_login(&name, Some(from));
        let hash = found.as_ref().map_or(&*NOBODY, |(_, login)| &login.password);
        let is_password = self.stretched(|| hash.matches(&password))?;
        let passed = found.filter(|_| is_password).map(|(caller, _)| caller);
        let Some(caller) = passed.filter(|caller| self.use_code(&caller.token_id, &code)) else {
            return self.refuse_login(&name);
        };
        self.record(Note::new(&caller, Action::LOGIN, default_reason()))?;
        self.sessions.succeeded(&name);
        let held = self.sessions.begin(&caller.token_id, Instant::now());
        let view = self.session_view(&caller, self.sessions.limits().whole.as_secs());
        Ok((held, view))
    }

    /// Whose session this is, if it still lasts and its token still holds.
    pub fn session(&self, held: &str, from: Peer) -> Option<Caller> {
        let (token_id, _) = self.sessions.using(&PlainToken::parse(held)?, Instant::now())?;
        self.caller_of(&token_id, Some(from))
    }

    /// A session as its person sees it.
    pub fn see_session(&self, caller: &Caller, held: &str) -> Option<SessionView> {
        let (_, left) = self.sessions.using(&PlainToken::parse(held)?, Instant::now())?;
        Some(self.session_view(caller, left.as_secs()))
    }

    /// Ends a session.
    ///
    /// # Errors
    /// What recording says; it is ended all the same.
    pub fn log_out(&self, caller: &Caller, held: &str) -> Result<(), VaultError> {
        if let Some(held) = PlainToken::parse(held) {
            self.sessions.end(&held);
        }
        self.record(Note::new(caller, Action::LOGOUT, default_reason())).map(|_| ())
    }

    pub(super) fn logins(&self) -> MutexGuard<'_, BTreeMap<String, Login>> {
        self.logins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find_login(&self, name: &str, from: Option<Peer>) -> Option<(Caller, Login)> {
        let named: Vec<_> = self.logins().iter().filter(|(_, it)| it.name == name).map(|it| it.0.clone()).collect();
        let caller = named.iter().find_map(|id| self.caller_of(id, from))?;
        let login = self.logins().get(&caller.token_id).cloned()?;
        Some((caller, login))
    }

    /// Whether the code is right and was not used before; then it is used.
    fn use_code(&self, token_id: &str, code: &str) -> bool {
        let now = self.clock.now().0 / 1_000_000;
        let mut logins = self.logins();
        let Some(login) = logins.get_mut(token_id) else { return false };
        let accepted = TotpSecret::parse(&login.totp).and_then(|it| it.accept(code, now, login.used));
        login.used = accepted.unwrap_or(login.used);
        accepted.is_some()
    }

    fn refuse_login<T>(&self, name: &str) -> Result<T, VaultError> {
        self.sessions.failed(name, Instant::now());
        // What somebody typed for a name may be a password, so only a name that is known stands in the entry.
        let known = self.find_login(name, None).map(|(caller, _)| caller);
        let caller = known.clone().unwrap_or_else(vault_itself);
        let mut note = Note::new(&caller, Action::LOGIN_FAILED, default_reason());
        note.outcome = Outcome::Denied;
        if known.is_none() {
            note.facts.push(("name".into(), "unknown".into()));
        }
        self.record(note)?;
        Err(VaultError::LoginFailed)
    }

    /// Runs what takes 32 MiB, for a few at a time.
    fn stretched<T>(&self, run: impl FnOnce() -> T) -> Result<T, VaultError> {
        let _room = self.stretching.try_acquire().map_err(|_| VaultError::Busy)?;
        Ok(run())
    }

    fn session_view(&self, caller: &Caller, ends_in_seconds: u64) -> SessionView {
        let idle_seconds = self.sessions.limits().idle.as_secs();
        SessionView { name: caller.label.clone(), role: caller.role, idle_seconds, ends_in_seconds }
    }
}

/// Logins as a start reads them, and how many rows are not to be believed. No code of a step before the start counts, for nobody knows
/// any more which were used.
pub(super) fn load(
    rows: &[StateRow],
    standing: &Standing,
    ring: &Keyring,
    clock: &dyn Clock,
) -> (BTreeMap<String, Login>, u64) {
    let (mut logins, untrusted) = book::load::<Login>(rows, KIND, standing, ring);
    let step = TotpSecret::step_at(clock.now().0 / 1_000_000);
    logins.values_mut().for_each(|it| it.used = step);
    (logins, untrusted)
}

/// What a name that nobody has is compared with.
static NOBODY: LazyLock<PasswordHash> = LazyLock::new(|| {
    let password = Zeroizing::new(hex::encode(crate::crypto::random::array::<32>()));
    PasswordHash::of(&password).expect("there is memory for one hash")
});

/// A label within a link: everything but letters, digits and a few signs is escaped (RFC 3986).
fn encoded(label: &str) -> String {
    let sign = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    label.bytes().map(sign).collect()
}
