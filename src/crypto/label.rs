//! Every derivation label and domain separator, in one place. A label names the use and the version of the format; none is
//! the prefix of another, and none is ever reused for something else.

/// Key and nonce of a sealed record (HKDF info).
pub const SEAL: &[u8] = b"phivault/v1/seal";
/// Associated data of a sealed record.
pub const SEAL_AAD: &[u8] = b"phivault/v1/aad-seal";
/// Salt of one value's commitment (HKDF info).
pub const SALT: &[u8] = b"phivault/v1/salt";
/// Commitment to one value.
pub const COMMIT: &[u8] = b"phivault/v1/commit";
/// Commitment to all values of an entry.
pub const COMMIT_ALL: &[u8] = b"phivault/v1/all-commitments";
/// Key encryption key from a passphrase or key file (HKDF info).
pub const KEK: &[u8] = b"phivault/v1/kek";
/// The name of a key encryption key, which tells a wrong passphrase from a damaged file (HKDF info).
pub const KEK_ID: &[u8] = b"phivault/v1/name-of-kek";
/// Key and nonce that wrap the keyring's master key for a slot (HKDF info).
pub const SLOT: &[u8] = b"phivault/v1/slot";
/// What a security module computes HMAC-SHA-256 over, for the keyring to be opened with.
#[cfg(feature = "pkcs11")]
pub const PKCS11: &[u8] = b"phivault/v1/hsm";
/// Key and nonce of the keyring body (HKDF info).
pub const KEYRING: &[u8] = b"phivault/v1/ring";
/// Blind index of a patient id (HMAC).
pub const BLIND_PATIENT: &[u8] = b"phivault/v1/blind-patient";
/// Authentication of a state row (HMAC).
pub const STATE: &[u8] = b"phivault/v1/state-row";
/// The body of a state row whose text may name a patient (HKDF info).
pub const STATE_BODY: &[u8] = b"phivault/v1/body-of-state";
/// Authentication of a page cursor (HMAC).
pub const CURSOR: &[u8] = b"phivault/v1/cursor";
/// Digest of a state row that an entry commits to.
pub const STATE_DIGEST: &[u8] = b"phivault/v1/digest-of-state";
/// Leaf of the tree that a seal entry commits to.
pub const SEAL_LEAF: &[u8] = b"phivault/v1/leaf-of-seal";
/// Digest over all state rows that a seal entry commits to.
pub const STATE_ROOT: &[u8] = b"phivault/v1/root-of-state";
