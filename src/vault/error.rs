//! Why the vault did not do as asked.

use crate::crypto::keyring::KeyringError;
use crate::domain::issue::Issue;
use crate::keyfile::FileError;
use crate::store::StoreError;
use uuid::Uuid;

/// Why an operation did not happen. Nothing in it names a patient or repeats a value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The caller's role does not allow it.
    #[error("the role of this token does not allow this")]
    Denied,
    /// The name, the password or the code is wrong, or nobody of the name logs in; all look alike.
    #[error("name, password or code is wrong")]
    LoginFailed,
    /// Too many failures; how many seconds until the next try.
    #[error("too many failures to log in")]
    LoginWait(u64),
    /// There is no entry or token of that id.
    #[error("there is nothing of that id here")]
    NotFound,
    /// The input is wrong; says all that is.
    #[error("the input is not acceptable")]
    Invalid(Vec<Issue>),
    /// An id was used before with other content.
    #[error("the id was used before with other content")]
    Conflict(Vec<Issue>),
    /// The cursor is not one of ours, or of another query.
    #[error("the cursor does not belong to this query")]
    BadCursor,
    /// The queue is full; nothing was taken.
    #[error("the vault is busy and took nothing; try again")]
    Busy,
    /// The disk is full; nothing was taken.
    #[error("the disk is full; nothing was taken")]
    Full,
    /// The vault is stopping, or the outcome of a write is unknown; retrying with the same id is safe.
    #[error("the vault could not confirm the write; try again with the same id")]
    Unknown,
    /// The values were disposed of, or the key that sealed them was destroyed; the certificate says by what right.
    #[error("the values were disposed of")]
    Shredded(Option<Uuid>),
    /// What was read does not agree with the ledger.
    #[error("what is stored does not agree with the ledger: {0}")]
    Integrity(String),
    /// The values of one of the entries asked for are not those the ledger committed to.
    #[error("the values of one entry are not those the ledger committed to")]
    Damaged(Issue),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key or lock file failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Why a vault did not open. Each sentence says what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The database.
    #[error("{}", told(.0))]
    Store(#[from] StoreError),
    /// A key file or the lock.
    #[error(transparent)]
    File(#[from] FileError),
    /// The keyring.
    #[error("The keyring {path} does not open: {source}. {remedy}")]
    Keyring {
        /// The file.
        path: String,
        /// Why.
        source: KeyringError,
        /// What to do.
        remedy: &'static str,
    },
    /// The parts of the vault do not belong together, or one was rolled back or altered.
    #[error("{0}")]
    Distrust(String),
}

/// What is wrong with the database, and what to do about it.
fn told(error: &StoreError) -> String {
    match error {
        StoreError::Unsuitable(sentence) => sentence.clone(),
        StoreError::Unavailable(_) => format!(
            "The database could not be read or written: {error}. Nothing is wrong with what it holds as far as is known; \
             see to the disk (is it full, writable, whole?) and start again."
        ),
        StoreError::Stale | StoreError::Corrupt(_) => format!(
            "The database cannot be used: {error}. Do not write to it. Run `phivault verify` to see what is wrong, then restore a backup."
        ),
    }
}
