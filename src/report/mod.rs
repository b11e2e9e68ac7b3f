//! How reports look: charts, tables, pages. The same report as JSON, CSV, HTML and PDF, to the same bytes each time.
//!
//! This room sees the domain's documents and nothing else: no vault, no HTTP, no clock.

use crate::domain::document::{Chart, Document};

pub mod csv;
pub mod draw;
pub mod html;
pub mod pdf;
pub mod svg;

use draw::Drawing;

/// The days of a week, as rows of a chart.
pub const WEEKDAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// What file a report becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// The document as JSON.
    Json,
    /// Its tables.
    Csv,
    /// A page to be read or printed.
    Html,
    /// PDF/A-2b.
    Pdf,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Json, Self::Csv, Self::Html, Self::Pdf];

    /// The format of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }

    /// Its name, which is the ending of its files too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Html => "html",
            Self::Pdf => "pdf",
        }
    }

    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Csv => "text/csv; charset=utf-8",
            Self::Html => "text/html; charset=utf-8",
            Self::Pdf => "application/pdf",
        }
    }
}

/// A report as a file.
///
/// # Errors
/// A sentence, when a PDF cannot be made of it.
pub fn render(document: &Document, format: Format) -> Result<Vec<u8>, String> {
    Ok(match format {
        Format::Json => {
            let mut bytes = serde_json::to_vec_pretty(document).expect("a document is texts and numbers");
            bytes.push(b'\n');
            bytes
        }
        Format::Csv => csv::render(document),
        Format::Html => html::render(document).into_bytes(),
        Format::Pdf => pdf::render(document)?,
    })
}

fn drawing(title: &str, chart: &Chart) -> Drawing {
    match chart {
        Chart::Columns { counts } => draw::columns(title, counts),
        Chart::Bars { counts } => draw::bars(title, counts),
        Chart::Week { counts } => {
            let hours: Vec<_> = (0..24).map(|hour| format!("{hour:02}")).collect();
            draw::heat(title, &WEEKDAYS, &hours, counts)
        }
    }
}
