//! How reports look: charts, tables, pages. The same figures as JSON, CSV, HTML and PDF, to the same bytes each time.
//!
//! This room sees the domain's reports and nothing else: no vault, no HTTP, no clock.

pub mod draw;
pub mod svg;
