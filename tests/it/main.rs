//! Behaviour of the real thing: spawned servers, real SQLite files, real key files. One binary, for link time.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here")]
#![expect(unreachable_pub, reason = "modules of one test binary share their helpers")]

mod accounting;
mod app;
mod backup;
mod bad_input;
mod blind;
mod canary;
mod chance;
mod check;
mod cli;
mod clock;
mod closed;
mod corpus;
mod crowd;
mod damage;
mod deploy;
mod disk;
mod doctor;
mod faults;
mod golden;
mod history;
mod ingest;
mod keys;
mod kill;
mod ledger;
mod login;
mod making;
mod memory;
mod permissions;
#[cfg(feature = "pkcs11")]
mod pkcs11;
mod power;
mod proxy;
mod rate;
mod reports;
mod restores;
mod rotate;
mod search;
mod seeds;
mod soak;
mod supply;
mod synthea;
mod tamper;
mod tidy;
mod tls;
mod truth;
mod upgrade;
mod witness;
