//! phivault: an encrypted, verifiable audit vault for health data.
//!
//! The library is the list of rooms below; ARCHITECTURE.md is the map. Dependencies point one way:
//!
//! ```text
//! domain <- crypto <- ledger <- store <- vault <- { http, cli } <- main
//! ```
//!
//! - [`domain`] what is true: entries, reasons, permissions, queries, report folds, canonical bytes
//! - [`crypto`] how bytes are protected: sealing, keyring, tokens
//! - [`ledger`] why nobody can rewrite it: tiles, proofs, checkpoints
//! - [`store`] where it rests
//! - [`vault`] what may happen: the one guarded door
//! - [`report`] how reports look: charts, pages, files
//! - [`http`] and [`cli`] translation only
//! - [`config`], [`keyfile`], [`telemetry`] composition: settings, key files, diagnostics
//! - [`witness`] both sides of C2SP tlog-witness
//! - [`clinic`] the synthetic clinic of `phivault demo`

pub mod cli;
pub mod clinic;
pub mod config;
pub mod crypto;
pub mod domain;
pub mod http;
pub mod keyfile;
pub mod ledger;
pub mod report;
pub mod store;
pub mod telemetry;
pub mod vault;
pub mod witness;
