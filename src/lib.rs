//! phivault.
pub mod clinic;
pub mod crypto;
pub mod domain;
pub mod keyfile;
pub mod ledger;
pub mod store;
pub mod vault;
