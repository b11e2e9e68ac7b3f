//! Where everything stands on A4: lines are broken, tables go on over pages with their heads repeated.

use crate::domain::document::{Cell, Document, Section, Table};

use super::super::draw::Drawing;
use super::super::drawing;
use super::Face;

/// A4, in points.
const A4: (f32, f32) = (595.0, 842.0);
const MARGIN: f32 = 56.0;
/// A table of more columns than this turns the pages.
const NARROW: usize = 7;
const BODY: f32 = 9.0;
const SMALL: f32 = 7.5;
const CELL_GAP: f32 = 6.0;
/// Lines of one cell; a longer text is cut, and says so.
const MAX_CELL_LINES: usize = 40;

/// One thing on a page.
pub(super) enum Op {
    /// A text, from where its baseline begins.
    Text { at: (f32, f32), size: f32, bold: bool, text: String },
    /// A coloured area: left, top, width, height.
    Shade { at: [f32; 4], colour: [u8; 3] },
    /// A chart, from its upper left corner.
    Chart { at: (f32, f32), drawing: Drawing },
}

const HEAD_COLOUR: [u8; 3] = [238, 241, 244];
const RULE_COLOUR: [u8; 3] = [204, 204, 204];

/// The size of the pages: upright, or turned for wide tables.
pub(super) fn size(document: &Document) -> (f32, f32) {
    let tables = document.sections.iter().filter_map(|it| it.table.as_ref());
    if tables.into_iter().any(|it| it.columns.len() > NARROW && !it.rows.is_empty()) { (A4.1, A4.0) } else { A4 }
}

/// The pages.
pub(super) fn layout(document: &Document) -> Vec<Vec<Op>> {
    let page = size(document);
    let (width, floor) = (page.0 - 2.0 * MARGIN, page.1 - 64.0);
    let mut sheet = Sheet { pages: vec![Vec::new()], y: MARGIN, width, floor };
    sheet.paragraph(&document.title, 16.0, true);
    sheet.y += 6.0;
    for (label, text) in &document.head {
        sheet.labelled(label, text);
    }
    for section in &document.sections {
        sheet.section(section);
    }
    sheet.pages
}

/// What stands at the foot of each page.
pub(super) fn footer(document: &Document, page: usize, pages: usize) -> Vec<Op> {
    let sheet = size(document);
    let (y, width, count) = (sheet.1 - 36.0, sheet.0 - 2.0 * MARGIN, format!("{page} of {pages}"));
    let right = sheet.0 - MARGIN - Face::of(false).width(&count, SMALL);
    let title = wrap(&document.title, SMALL, false, width - 60.0).into_iter().next().unwrap_or_default();
    vec![
        Op::Shade { at: [MARGIN, y - 12.0, width, 0.5], colour: RULE_COLOUR },
        Op::Text { at: (MARGIN, y), size: SMALL, bold: false, text: title },
        Op::Text { at: (right, y), size: SMALL, bold: false, text: count },
    ]
}

struct Sheet {
    pages: Vec<Vec<Op>>,
    y: f32,
    width: f32,
    floor: f32,
}

impl Sheet {
    fn push(&mut self, op: Op) {
        self.pages.last_mut().expect("there is always a page").push(op);
    }

    /// Begins a new page unless there is room; whether it did.
    fn need(&mut self, height: f32) -> bool {
        let full = self.y + height > self.floor && self.y > MARGIN;
        if full {
            self.pages.push(Vec::new());
            self.y = MARGIN;
        }
        full
    }

    fn line(&mut self, x: f32, size: f32, bold: bool, text: String) {
        self.push(Op::Text { at: (x, self.y + size), size, bold, text });
    }

    fn paragraph(&mut self, text: &str, size: f32, bold: bool) {
        for line in wrap(text, size, bold, self.width) {
            self.need(size * 1.4);
            self.line(MARGIN, size, bold, line);
            self.y += size * 1.4;
        }
    }

    fn labelled(&mut self, label: &str, text: &str) {
        const LABEL: f32 = 110.0;
        let lines = wrap(text, SMALL, false, self.width - LABEL);
        for (n, line) in lines.into_iter().enumerate() {
            self.need(SMALL * 1.4);
            if n == 0 {
                self.line(MARGIN, SMALL, true, label.to_owned());
            }
            self.line(MARGIN + LABEL, SMALL, false, line);
            self.y += SMALL * 1.4;
        }
    }

    fn section(&mut self, section: &Section) {
        let chart = section.chart.as_ref().map(|it| drawing(&section.heading, it));
        // A heading does not stand alone at the foot of a page.
        let first = chart.as_ref().map_or(3.0 * BODY, |it| it.size.1);
        self.y += 12.0;
        self.need(11.0 * 1.4 + first + 8.0);
        self.paragraph(&section.heading, 11.0, true);
        self.push(Op::Shade { at: [MARGIN, self.y, self.width, 0.5], colour: RULE_COLOUR });
        self.y += 4.0;
        for text in &section.text {
            self.paragraph(text, BODY, false);
            self.y += 2.0;
        }
        if let Some(drawing) = chart {
            let height = drawing.size.1;
            self.need(height);
            self.push(Op::Chart { at: (MARGIN, self.y), drawing });
            self.y += height + 4.0;
        }
        match &section.table {
            Some(table) if table.rows.is_empty() => self.paragraph("None.", BODY, false),
            Some(table) => self.table(table),
            None => {}
        }
    }

    fn table(&mut self, table: &Table) {
        let texts: Vec<Vec<String>> = table.rows.iter().map(|row| row.iter().map(Cell::shown).collect()).collect();
        let widths = widths(table, &texts, self.width);
        let right: Vec<bool> = (0..widths.len()).map(|n| table.rows.iter().all(|row| row[n].is_number())).collect();
        let head: Vec<String> = table.columns.iter().map(|it| (*it).to_owned()).collect();
        self.row(&head, &widths, &right, true);
        for row in &texts {
            let lines = row.iter().zip(&widths).map(|(text, width)| cell_lines(text, false, *width).len()).max();
            if self.need(height_of(lines.unwrap_or(1))) {
                self.row(&head, &widths, &right, true);
            }
            self.row(row, &widths, &right, false);
        }
    }

    fn row(&mut self, cells: &[String], widths: &[f32], right: &[bool], bold: bool) {
        let cells: Vec<Vec<String>> =
            cells.iter().zip(widths).map(|(text, width)| cell_lines(text, bold, *width)).collect();
        let height = height_of(cells.iter().map(Vec::len).max().unwrap_or(1));
        if bold {
            self.need(height);
            self.push(Op::Shade { at: [MARGIN, self.y, self.width, height], colour: HEAD_COLOUR });
        }
        let (mut x, top) = (MARGIN + 2.0, self.y + 2.0);
        for ((lines, width), right) in cells.into_iter().zip(widths).zip(right) {
            for (n, text) in lines.into_iter().enumerate() {
                let shift = if *right { width - Face::of(bold).width(&text, SMALL) } else { 0.0 };
                #[expect(clippy::cast_precision_loss, reason = "a page has few lines")]
                let y = top + SMALL * (1.0 + 1.25 * n as f32);
                self.push(Op::Text { at: (x + shift.max(0.0), y), size: SMALL, bold, text });
            }
            x += width + CELL_GAP;
        }
        self.y += height;
        self.push(Op::Shade { at: [MARGIN, self.y, self.width, 0.25], colour: RULE_COLOUR });
    }
}

#[expect(clippy::cast_precision_loss, reason = "a page has few lines")]
fn height_of(lines: usize) -> f32 {
    SMALL * 1.25 * lines as f32 + 5.0
}

/// The width of each column: what its widest cell needs, and no more than its share when they do not all fit.
fn widths(table: &Table, texts: &[Vec<String>], width: f32) -> Vec<f32> {
    let count = table.columns.len();
    #[expect(clippy::cast_precision_loss, reason = "a table has few columns")]
    let room = width - 4.0 - CELL_GAP * (count.saturating_sub(1)) as f32;
    let need: Vec<f32> = (0..count)
        .map(|n| {
            let head = Face::of(true).width(table.columns[n], SMALL);
            // A few hundred rows tell how wide a column is.
            let cells = texts.iter().take(300).map(|row| Face::of(false).width(&row[n], SMALL));
            cells.fold(head, f32::max) + 1.0
        })
        .collect();
    let mut widths = need.clone();
    // Wide columns give way to narrow ones until all fit.
    let (mut low, mut high) = (8.0, room);
    if need.iter().sum::<f32>() > room {
        for _ in 0..30 {
            let cap = f32::midpoint(low, high);
            let total: f32 = need.iter().map(|it| it.min(cap)).sum();
            if total > room { high = cap } else { low = cap }
        }
        widths = need.iter().map(|it| it.min(low)).collect();
    }
    widths
}

fn cell_lines(text: &str, bold: bool, width: f32) -> Vec<String> {
    let mut lines = wrap(text, SMALL, bold, width);
    if lines.len() > MAX_CELL_LINES {
        lines.truncate(MAX_CELL_LINES - 1);
        lines.push("… (cut; whole in JSON and CSV)".into());
    }
    lines
}

/// A text broken into lines at spaces, and inside words that are too long for a line.
fn wrap(text: &str, size: f32, bold: bool, width: f32) -> Vec<String> {
    let face = Face::of(bold);
    let mut lines = Vec::new();
    for part in text.split('\n') {
        let mut line = String::new();
        for word in part.split(' ') {
            let with = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
            if face.width(&with, size) <= width {
                line = with;
                continue;
            }
            if !line.is_empty() {
                lines.push(std::mem::take(&mut line));
            }
            for c in word.chars() {
                if !line.is_empty() && face.width(&line, size) + face.width(c.encode_utf8(&mut [0; 4]), size) > width {
                    lines.push(std::mem::take(&mut line));
                }
                line.push(c);
            }
        }
        lines.push(line);
    }
    lines
}
