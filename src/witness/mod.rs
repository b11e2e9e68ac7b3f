//! Witnesses: others who remember how far the ledger has come, so that it cannot be put back or forked unnoticed.
//!
//! A vault sends its checkpoints to witnesses (`client`); `phivault witness serve` is one, for a second machine (`server`). Both
//! speak C2SP tlog-witness, so either side may be somebody else's.

pub mod client;
pub mod server;
