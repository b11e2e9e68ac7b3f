//! Diagnostics: one line an event on standard error, as text or JSON.
//!
//! What is never logged: values, notes, patients, actors, queries, headers, bodies, tokens, keys. Request lines carry the
//! route's template, not its path. Strings from outside go through field formatting, which escapes control characters.

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Where actix reads the heads of requests.
const PARSER: &str = "actix_http::h1::dispatcher";

/// Starts diagnostics for the process. A second call changes nothing.
///
/// # Errors
/// A sentence when `log.level` is no filter.
pub fn start(log: &Log) -> Result<(), String> {
    // actix tells of every head that is no HTTP as an error, so that anybody could fill the disk with it.
    let quiet = if log.level.contains(PARSER) { String::new() } else { format!(",{PARSER}=off") };
    let filter = EnvFilter::try_new(format!("{}{quiet}", log.level))
        .map_err(|_| format!("log.level = {:?} is no level or filter; use error, warn, info or debug.", log.level))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    drop(started);
    Ok(())
}
