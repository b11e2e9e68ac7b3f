//! A report as CSV (RFC 4180): the head, then each table under its heading.

use crate::domain::document::{Cell, Chart, Document};
use crate::domain::report::csv_cell;

/// The file.
pub fn render(document: &Document) -> Vec<u8> {
    let mut out = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).flexible(true).from_writer(Vec::new());
    let mut line = |cells: &[String]| {
        // An empty record would be written as a quoted nothing.
        let cells = if cells.is_empty() { &[String::new()] } else { cells };
        out.write_record(cells.iter().map(|it| csv_cell(it))).expect("writing to memory does not fail");
    };
    line(std::slice::from_ref(&document.title));
    document.head.iter().for_each(|(label, text)| line(&[label.clone(), text.clone()]));
    for section in &document.sections {
        line(&[]);
        line(std::slice::from_ref(&section.heading));
        section.text.iter().for_each(|it| line(std::slice::from_ref(it)));
        match &section.chart {
            Some(Chart::Columns { counts } | Chart::Bars { counts }) => {
                counts.iter().for_each(|(name, count)| line(&[name.clone(), count.to_string()]));
            }
            Some(Chart::Week { counts }) => {
                let hours = (0..24).map(|hour| format!("{hour:02}"));
                line(&std::iter::once("weekday".to_owned()).chain(hours).collect::<Vec<_>>());
                for (day, row) in super::WEEKDAYS.iter().zip(counts) {
                    let cells = row.iter().map(u64::to_string);
                    line(&std::iter::once((*day).to_owned()).chain(cells).collect::<Vec<_>>());
                }
            }
            None => {}
        }
        if let Some(table) = &section.table {
            line(&table.columns.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>());
            for row in &table.rows {
                line(&row.iter().map(cell).collect::<Vec<_>>());
            }
        }
    }
    out.into_inner().expect("writing to memory does not fail")
}

/// Times to the microsecond: a spreadsheet may have to sort them.
fn cell(cell: &Cell) -> String {
    match cell {
        Cell::Time(time) => time.to_string(),
        other => other.shown(),
    }
}
