//! What is true: entries, reasons, callers and permissions, queries, report folds, canonical bytes.
//!
//! This room is pure. It sees no I/O, no clock, no randomness, no SQL and no HTTP; what it needs of the outside (the
//! time, the vocabulary) is handed to it. Everything that is hashed or sealed gets its bytes here.

pub mod action;
pub mod activity;
pub mod batch;
pub mod caller;
pub mod canonical;
mod check;
pub mod document;
pub mod entry;
pub mod fields;
pub mod history;
pub mod index;
pub mod issue;
pub mod json;
pub mod meta;
pub mod query;
pub mod reason;
pub mod report;
pub mod reports;
pub mod retention;
pub mod rules;
pub mod submission;
pub mod time;
pub mod value;
