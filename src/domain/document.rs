//! A report as it is read: head, sections, tables and charts, whatever file it becomes.

use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

use super::time::Timestamp;

/// A report.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Document {
    /// Which report, such as `access`.
    pub report: String,
    /// Its title.
    pub title: String,
    /// When it was made.
    pub made_at: Timestamp,
    /// What it covers and what it rests on: period, time zone, filter, entries, checkpoint. Label and text, in order.
    pub head: Vec<(String, String)>,
    /// What it says.
    pub sections: Vec<Section>,
}

/// A part of a report.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Section {
    /// Its heading.
    pub heading: String,
    /// Sentences before the rest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub text: Vec<String>,
    /// A chart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chart: Option<Chart>,
    /// A table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<Table>,
}

/// What a chart shows.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Chart {
    /// Counts side by side, in order of time.
    Columns {
        /// Label and count.
        counts: Vec<(String, u64)>,
    },
    /// Counts by name.
    Bars {
        /// Name and count.
        counts: Vec<(String, u64)>,
    },
    /// Counts by weekday and hour.
    Week {
        /// Seven rows from Monday, each of 24 hours.
        counts: Vec<Vec<u64>>,
    },
}

/// A table; every row has as many cells as there are columns.
#[derive(Clone, PartialEq, Debug)]
pub struct Table {
    /// The names of the columns, which are keys in JSON too.
    pub columns: Vec<&'static str>,
    /// The rows.
    pub rows: Vec<Vec<Cell>>,
}

/// A cell of a table.
#[derive(Clone, PartialEq, Debug)]
pub enum Cell {
    /// Nothing.
    None,
    /// A text.
    Text(String),
    /// A number.
    Count(u64),
    /// A number with decimals, as it is written.
    Decimal(String),
    /// A time.
    Time(Timestamp),
}

impl Section {
    /// A section with a table.
    pub fn table(heading: &str, columns: &[&'static str], rows: Vec<Vec<Cell>>) -> Self {
        debug_assert!(rows.iter().all(|row| row.len() == columns.len()), "{heading}: a row is not complete");
        let table = Some(Table { columns: columns.to_vec(), rows });
        Self { heading: heading.to_owned(), table, ..Self::default() }
    }

    /// A section with sentences.
    pub fn text(heading: &str, text: Vec<String>) -> Self {
        Self { heading: heading.to_owned(), text, ..Self::default() }
    }

    /// A section with a chart.
    pub fn chart(heading: &str, chart: Chart) -> Self {
        Self { heading: heading.to_owned(), chart: Some(chart), ..Self::default() }
    }

    /// The same with sentences before it.
    pub fn with_text(mut self, text: impl Into<String>) -> Self {
        self.text.push(text.into());
        self
    }
}

impl Cell {
    /// A text, or nothing.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// An optional text.
    pub fn optional(text: Option<&str>) -> Self {
        text.map_or(Self::None, Self::text)
    }

    /// As people read it; times to the second, in UTC.
    pub fn shown(&self) -> String {
        match self {
            Self::None => String::new(),
            Self::Text(text) | Self::Decimal(text) => text.clone(),
            Self::Count(count) => count.to_string(),
            Self::Time(time) => time.to_utc().format("%Y-%m-%d %H:%M:%SZ").to_string(),
        }
    }

    /// Whether it stands to the right.
    pub fn is_number(&self) -> bool {
        matches!(self, Self::Count(_) | Self::Decimal(_))
    }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_none(),
            Self::Text(text) | Self::Decimal(text) => serializer.serialize_str(text),
            Self::Count(count) => serializer.serialize_u64(*count),
            Self::Time(time) => time.serialize(serializer),
        }
    }
}

/// Rows as objects, keyed by the columns in their order.
impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Row<'a>(&'a [&'static str], &'a [Cell]);

        impl Serialize for Row<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(Some(self.0.len()))?;
                for (column, cell) in self.0.iter().zip(self.1) {
                    map.serialize_entry(&column.replace(' ', "_"), cell)?;
                }
                map.end()
            }
        }

        let mut rows = serializer.serialize_seq(Some(self.rows.len()))?;
        for row in &self.rows {
            rows.serialize_element(&Row(&self.columns, row))?;
        }
        rows.end()
    }
}
