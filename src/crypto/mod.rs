//! How bytes are protected: sealing, keyring, wrapping, blind index, tokens, message authentication.
//!
//! This room sees no files, no environment and no clock. Randomness comes from the operating system through one function.
//! Keys are types of their own; none of them can be printed, all are wiped when dropped.

pub mod blind;
pub mod boxed;
pub mod kek;
pub mod keyring;
pub mod label;
pub mod lock;
pub mod mac;
pub mod password;
pub mod random;
pub mod seal;
pub mod secret;
pub mod token;
pub mod totp;
