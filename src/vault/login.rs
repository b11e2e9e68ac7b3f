//! People who log in: a password and a one-time code in the place of a token. What they may do is what their token may, and it ends
//! with it; so two-person rules, networks and revocation hold for them without a word here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::crypto::keyring::Keyring;
use crate::crypto::password::PasswordHash;
use crate::crypto::token::PlainToken;
use crate::crypto::totp::TotpSecret;
use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission, Role};
use crate::domain::meta::Record;
use crate::domain::time::Clock;
use crate::store::StateRow;

use super::Vault;
use super::approval::refused;
use super::book;
use super::error::VaultError;
use super::peer::Peer;
use super::record::{CheckedReason, Note, default_reason, searching, vault_itself};
use super::standing::{STATE_DIGEST, Standing, digest_of};

/// The kind of a login's state row.
pub(super) const KIND: &str = "login";
/// NIST SP 800-63B-4 asks for 8 beside a second factor.
const LEAST_CHARACTERS: usize = 12;
const MOST_BYTES: usize = 256;

/// Codes that are remembered as used, of one login: those of hours.
const REMEMBERED: usize = 256;

/// How a person logs in; the row's id is that of the token.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Login {
    name: String,
    password: PasswordHash,
    totp: String,
    /// The step of the newest code that was used, while this process runs.
    #[serde(skip)]
    used: i64,
    /// The steps of the newest ones: whatever the clock does, none counts twice.
    #[serde(skip)]
    spent: VecDeque<i64>,
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
    /// ends the sessions, and forgives the failures.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `Invalid`, or what recording says.
    pub fn enrol(&self, caller: &Caller, asked: EnrolIn, from: Peer) -> Result<Enrolled, VaultError> {
        self.allow(caller, Permission::LogIn, Action::LOGIN_ENROL)?;
        let password = Zeroizing::new(asked.password.unwrap_or_default());
        if !is_strong(&password, &caller.label) {
            let detail = "The password has 12 characters to 256 bytes, more than four different ones, is no row of the alphabet or of digits, and does not hold the name; a few words are good.";
            return Err(refused("/password", "password_weak", detail));
        }
        let secret = TotpSecret::generate();
        let hash = PasswordHash::of(&password).ok_or(VaultError::Busy)?;
        let used = TotpSecret::step_at(self.clock.now().0 / 1_000_000) - 2;
        let login = Login {
            name: caller.label.clone(),
            password: hash,
            totp: secret.text().to_string(),
            used,
            spent: VecDeque::new(),
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
        let mut note = Note::new(caller, Action::LOGIN_ENROL, purpose(caller));
        note.client = from.address;
        note.record = Some(Record::new("Login", &row.id));
        note.facts.push((STATE_DIGEST.into(), digest_of(&row)));
        note.state.push(row);
        self.record(note)?;
        self.sign_now();
        logins.insert(caller.token_id.clone(), login);
        self.sessions.end_all_of(&caller.token_id);
        self.sessions.forgive(&caller.label, from.address);
        let text = secret.text();
        let uri = format!("otpauth://totp/phivault:{}?secret={}&issuer=phivault", encoded(&caller.label), *text);
        Ok(Enrolled { name: caller.label.clone(), secret: text.to_string(), uri })
    }

    /// Logs somebody in. A name that nobody has, a wrong password and a wrong code look alike, and take as long. It takes 32 MiB and some
    /// tens of milliseconds of one core, so whoever calls it lets few in at a time.
    ///
    /// # Errors
    /// [`VaultError::LoginFailed`]; `LoginWait` after many failures; or what recording says.
    pub fn log_in(&self, asked: LogInIn, from: Peer) -> Result<(PlainToken, SessionView), VaultError> {
        let password = Zeroizing::new(asked.password.unwrap_or_default());
        let (name, code) = (asked.name.unwrap_or_default(), asked.code.unwrap_or_default());
        if name.is_empty() || name.len() > MOST_BYTES || password.len() > MOST_BYTES {
            return Err(VaultError::LoginFailed);
        }
        if let Some(wait) = self.sessions.wait(&name, from.address, Instant::now()) {
            return Err(VaultError::LoginWait(wait.as_secs() + 1));
        }
        // Made by the first try, whoever it names, so that no name shows by the time it takes.
        let nobody = self.nobody.get_or_init(nobody).as_ref().ok_or(VaultError::Busy)?;
        let found = self.find_login(&name, from);
        let hash = found.as_ref().map_or(nobody, |(_, login)| &login.password);
        let is_password = hash.matches(&password);
        let passed = found.filter(|_| is_password).map(|(caller, _)| caller);
        let begun = passed.and_then(|caller| Some((self.use_code(&caller.token_id, &code)?, caller)));
        let Some((held, caller)) = begun else { return self.refuse_login(&name, from) };
        let mut note = Note::new(&caller, Action::LOGIN, purpose(&caller));
        note.client = from.address;
        if let Err(error) = self.record(note) {
            self.sessions.end(&held);
            return Err(error);
        }
        self.sessions.forgive(&name, from.address);
        let view = self.session_view(&caller, self.sessions.limits().whole.as_secs());
        Ok((held, view))
    }

    /// Whose session this is, if it still lasts and its token still holds there. It is used now.
    pub fn session(&self, held: &str, from: Peer) -> Option<(Caller, SessionView)> {
        let (held, now) = (PlainToken::parse(held)?, Instant::now());
        let (token_id, left) = self.sessions.find(&held, now)?;
        let caller = self.caller_of(&token_id, Some(from))?;
        self.sessions.used(&held, now);
        let view = self.session_view(&caller, left.as_secs());
        Some((caller, view))
    }

    /// Ends the session of a caller, and records that if there was one.
    ///
    /// # Errors
    /// What recording says; it is ended all the same.
    pub fn log_out(&self, caller: &Caller, held: &str, from: Peer) -> Result<(), VaultError> {
        let was_there = PlainToken::parse(held).is_some_and(|it| self.sessions.end(&it));
        if was_there {
            let mut note = Note::new(caller, Action::LOGOUT, purpose(caller));
            note.client = from.address;
            self.record(note)?;
        }
        Ok(())
    }

    pub(super) fn logins(&self) -> MutexGuard<'_, BTreeMap<String, Login>> {
        self.logins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find_login(&self, name: &str, from: Peer) -> Option<(Caller, Login)> {
        let logins = self.logins();
        let mut named = logins.iter().filter(|(_, it)| it.name == name);
        named.find_map(|(id, login)| Some((self.caller_of(id, Some(from))?, login.clone())))
    }

    /// Begins a session if the code is right and was not used before; then it is used. While the logins are held, so that whoever enrols
    /// anew ends the session with all others; it is given out once it is recorded.
    fn use_code(&self, token_id: &str, code: &str) -> Option<PlainToken> {
        let now = self.clock.now().0 / 1_000_000;
        let mut logins = self.logins();
        let login = logins.get_mut(token_id)?;
        // A code of a time that is still to come was used before the clock was set back: from here on, only newer ones than now.
        if login.used > TotpSecret::last_accepted_at(now) {
            login.used = TotpSecret::step_at(now);
        }
        let step = TotpSecret::parse(&login.totp)?.accept(code, now, login.used)?;
        if login.spent.contains(&step) {
            return None;
        }
        login.spent.push_back(step);
        login.spent.drain(..login.spent.len().saturating_sub(REMEMBERED));
        login.used = step;
        Some(self.sessions.begin(token_id, Instant::now()))
    }

    /// Refuses, and records that: so many a minute, known names and others alike, the rest as a number. Anybody can come here, so nothing
    /// is written any more once the disk is down to its reserve.
    fn refuse_login<T>(&self, name: &str, from: Peer) -> Result<T, VaultError> {
        self.sessions.failed(name, from.address, Instant::now());
        self.counters.logins_failed.fetch_add(1, Ordering::Relaxed);
        let known = self.find_login(name, from).map(|(caller, _)| caller);
        // What somebody typed for a name may be a password, so only a name that is known stands in the entry.
        let nobody = || Caller { token_id: "unknown".into(), ..vault_itself() };
        let caller = known.unwrap_or_else(nobody);
        if self.disk().0 {
            return Err(VaultError::LoginFailed);
        }
        if self.bounds.failed_logins.is_recorded(name, Instant::now()) {
            let mut note = Note::denied(&caller, Action::LOGIN_FAILED);
            note.client = from.address;
            self.record(note)?;
        }
        Err(VaultError::LoginFailed)
    }

    fn session_view(&self, caller: &Caller, ends_in_seconds: u64) -> SessionView {
        let idle_seconds = self.sessions.limits().idle.as_secs();
        SessionView { name: caller.label.clone(), role: caller.role, idle_seconds, ends_in_seconds }
    }
}

/// Logins as a start reads them, and how many rows are not to be believed. No code that could have been used before the start counts, for
/// nobody knows any more which were.
pub(super) fn load(
    rows: &[StateRow],
    standing: &Standing,
    ring: &Keyring,
    clock: &dyn Clock,
) -> (BTreeMap<String, Login>, u64) {
    let (mut logins, untrusted) = book::load::<Login>(rows, KIND, standing, ring);
    let step = TotpSecret::last_accepted_at(clock.now().0 / 1_000_000);
    logins.values_mut().for_each(|it| it.used = step);
    (logins, untrusted)
}

/// Why somebody logs in: to administer, or to see to compliance.
fn purpose(caller: &Caller) -> CheckedReason {
    if caller.role == Role::Admin { default_reason() } else { searching() }
}

/// What the password of a name that nobody has is compared with; nothing without memory for it.
fn nobody() -> Option<PasswordHash> {
    let password = Zeroizing::new(hex::encode(crate::crypto::random::array::<32>()));
    PasswordHash::of(&password)
}

/// Long enough, not of a few letters, no row of them, and not the name.
fn is_strong(password: &str, name: &str) -> bool {
    let different: BTreeSet<char> = password.chars().collect();
    let holds_name = name.chars().count() >= 4 && password.to_lowercase().contains(&name.to_lowercase());
    let rises = password.as_bytes().windows(2).all(|it| it[1] == it[0].wrapping_add(1) || it == b"90");
    password.chars().count() >= LEAST_CHARACTERS
        && password.len() <= MOST_BYTES
        && different.len() > 4
        && !rises
        && !holds_name
}

/// A label within a link: everything but letters, digits and a few signs is escaped (RFC 3986).
fn encoded(label: &str) -> String {
    let sign = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    label.bytes().map(sign).collect()
}
