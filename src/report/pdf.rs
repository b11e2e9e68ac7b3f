//! A report as PDF/A-2b, which archives take: fonts embedded, no script, the same bytes each time.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::LazyLock;

use chrono::{Datelike as _, Timelike as _};
use krilla::color::rgb;
use krilla::configure::{Archival, ConfigurationBuilder};
use krilla::geom::{PathBuilder, Point, Rect};
use krilla::metadata::{DateTime, Metadata};
use krilla::num::NormalizedF32;
use krilla::page::PageSettings;
use krilla::paint::{Fill, Stroke};
use krilla::surface::Surface;
use krilla::text::{Font, GlyphId, KrillaGlyph};
use krilla::{Document as File, SerializeSettings};
use skrifa::instance::{LocationRef, Size};
use skrifa::{FontRef, MetadataProvider as _};

use crate::domain::document::Document;

use super::draw::{Anchor, Mark, TEXT_SIZE};

mod layout;

use layout::{Op, layout};

const REGULAR: &[u8] = include_bytes!("fonts/DejaVuSans.ttf");
const BOLD: &[u8] = include_bytes!("fonts/DejaVuSans-Bold.ttf");
/// What is drawn for a letter that the font lacks: something must stand there, and PDF/A wants it to be a letter.
const MISSING: char = '\u{fffd}';

/// A font, with what measuring takes.
pub(super) struct Face {
    font: Font,
    map: skrifa::charmap::Charmap<'static>,
    widths: skrifa::metrics::GlyphMetrics<'static>,
}

static FACES: LazyLock<[Face; 2]> = LazyLock::new(|| [REGULAR, BOLD].map(Face::new));

impl Face {
    fn new(bytes: &'static [u8]) -> Self {
        let font = Font::new(bytes.into(), 0).expect("the font is part of the program");
        let read = FontRef::new(bytes).expect("the font is part of the program");
        // At one unit an em, widths are shares of the size of the text.
        let widths = read.glyph_metrics(Size::new(1.0), LocationRef::default());
        Self { font, map: read.charmap(), widths }
    }

    /// The regular one, or the bold one.
    pub(super) fn of(bold: bool) -> &'static Self {
        &FACES[usize::from(bold)]
    }

    fn glyph(&self, c: char) -> (skrifa::GlyphId, f32) {
        let id = self.map.map(c).or_else(|| self.map.map(MISSING)).unwrap_or_default();
        (id, self.widths.advance_width(id).unwrap_or(0.5))
    }

    /// How wide a text is.
    pub(super) fn width(&self, text: &str, size: f32) -> f32 {
        text.chars().map(|c| self.glyph(c).1).sum::<f32>() * size
    }

    fn draw(&self, surface: &mut Surface<'_>, at: (f32, f32), size: f32, text: &str) {
        // What the font lacks is missing in the text too: the letters that can be copied out are those that are seen.
        let text: String = text.chars().map(|c| if self.map.map(c).is_some() { c } else { MISSING }).collect();
        let glyph = |(at, c): (usize, char)| {
            let (id, width) = self.glyph(c);
            KrillaGlyph::new(GlyphId::new(id.to_u32()), width, 0.0, 0.0, 0.0, at..at + c.len_utf8(), None)
        };
        let glyphs: Vec<_> = text.char_indices().map(glyph).collect();
        if !glyphs.is_empty() {
            surface.draw_glyphs(Point::from_xy(at.0, at.1), &glyphs, self.font.clone(), &text, size, false);
        }
    }
}

/// The file.
///
/// # Errors
/// A sentence with what the standard does not allow.
pub fn render(document: &Document) -> Result<Vec<u8>, String> {
    let document = &*saying_what_is_missing(document);
    let configuration = ConfigurationBuilder::new().with_archival_validator(Archival::A2_B).finish();
    let configuration = configuration.map_err(|error| format!("{error:?}"))?;
    let mut file = File::new_with(SerializeSettings { configuration, ..SerializeSettings::default() });
    file.set_metadata(
        Metadata::new()
            .title(document.title.clone())
            .language("en".into())
            .creation_date(date(document))
            .creator(concat!("phivault ", env!("CARGO_PKG_VERSION")).into()),
    );
    let (pages, size) = (layout(document), layout::size(document));
    let count = pages.len();
    for (n, ops) in pages.into_iter().enumerate() {
        let settings = PageSettings::from_wh(size.0, size.1).expect("A4 is a size");
        let mut page = file.start_page_with(settings);
        let mut surface = page.surface();
        ops.iter().for_each(|op| draw(&mut surface, op));
        layout::footer(document, n + 1, count).iter().for_each(|op| draw(&mut surface, op));
        surface.finish();
        page.finish();
    }
    file.finish().map_err(|error| format!("{error:?}"))
}

/// A name that cannot be read must not look as if it had been written so: which letters the fonts lack is said at the head.
fn saying_what_is_missing(document: &Document) -> Cow<'_, Document> {
    let text = serde_json::to_string(document).expect("a document is texts and numbers");
    let letters: BTreeSet<char> = text.chars().filter(|c| !c.is_control()).collect();
    let Some(first) = letters.into_iter().find(|c| Face::of(false).map.map(*c).is_none()) else {
        return Cow::Borrowed(document);
    };
    let mut document = document.clone();
    let what = format!(
        "some letters, such as U+{:04X}, are not in the fonts of this file and stand as {MISSING}. The same report as HTML shows them.",
        u32::from(first)
    );
    document.head.insert(0, ("ATTENTION".to_owned(), what));
    Cow::Owned(document)
}

/// When it was made, to the second.
fn date(document: &Document) -> DateTime {
    let at = document.made_at.to_utc();
    let small = |n: u32| u8::try_from(n).unwrap_or(0);
    DateTime::new(u16::try_from(at.year()).unwrap_or(0))
        .month(small(at.month()))
        .day(small(at.day()))
        .hour(small(at.hour()))
        .minute(small(at.minute()))
        .second(small(at.second()))
}

fn draw(surface: &mut Surface<'_>, op: &Op) {
    match op {
        Op::Text { at, size, bold, text } => {
            surface.set_stroke(None);
            surface.set_fill(Some(fill(INK, 1.0)));
            Face::of(*bold).draw(surface, *at, *size, text);
        }
        Op::Shade { at, colour } => area(surface, *at, *colour, 1.0),
        Op::Chart { at, drawing } => {
            for mark in &drawing.marks {
                chart_mark(surface, *at, mark);
            }
        }
    }
}

/// The colours of text, of data, of axes and of table heads.
const INK: [u8; 3] = [26, 26, 26];
const DATA: [u8; 3] = [31, 95, 139];
const AXIS: [u8; 3] = [153, 153, 153];

fn chart_mark(surface: &mut Surface<'_>, (left, top): (f32, f32), mark: &Mark) {
    match mark {
        Mark::Box { at: [x, y, w, h], shade } => area(surface, [left + x, top + y, *w, *h], DATA, *shade),
        Mark::Line { points, data } => {
            let mut path = PathBuilder::new();
            for (n, (x, y)) in points.iter().enumerate() {
                if n == 0 { path.move_to(left + x, top + y) } else { path.line_to(left + x, top + y) }
            }
            let (colour, width) = if *data { (DATA, 1.2) } else { (AXIS, 0.5) };
            surface.set_fill(None);
            surface.set_stroke(Some(Stroke { paint: colour_of(colour).into(), width, ..Stroke::default() }));
            path.finish().iter().for_each(|path| surface.draw_path(path));
        }
        Mark::Text { at: (x, y), anchor, text } => {
            let face = Face::of(false);
            let width = face.width(text, TEXT_SIZE);
            let back = match anchor {
                Anchor::Start => 0.0,
                Anchor::Middle => width / 2.0,
                Anchor::End => width,
            };
            surface.set_stroke(None);
            surface.set_fill(Some(fill(INK, 1.0)));
            face.draw(surface, (left + x - back, top + y), TEXT_SIZE, text);
        }
    }
}

fn area(surface: &mut Surface<'_>, [x, y, w, h]: [f32; 4], colour: [u8; 3], opacity: f32) {
    // A count of almost nothing has no area to fill.
    let Some(rect) = Rect::from_xywh(x, y, w, h) else { return };
    let mut path = PathBuilder::new();
    path.push_rect(rect);
    surface.set_stroke(None);
    surface.set_fill(Some(fill(colour, opacity)));
    path.finish().iter().for_each(|path| surface.draw_path(path));
}

fn fill(colour: [u8; 3], opacity: f32) -> Fill {
    Fill {
        paint: colour_of(colour).into(),
        opacity: NormalizedF32::new(opacity).unwrap_or(NormalizedF32::ONE),
        ..Fill::default()
    }
}

fn colour_of([r, g, b]: [u8; 3]) -> rgb::Color {
    rgb::Color::new(r, g, b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::document::{Cell, Chart, Section};

    fn document(rows: usize) -> Document {
        let row = |n: usize| {
            let long = "word ".repeat(n % 40) + &"x".repeat(n % 90);
            vec![Cell::Count(n as u64), Cell::text(long), Cell::text("Zoë Ołówek Ψ 患者 🩺\u{1}")]
        };
        Document {
            report: "test".into(),
            made_at: crate::domain::time::Timestamp(1_700_000_000_000_000),
            title: "A title that is so long that it does not fit on one line ".repeat(3),
            head: vec![("Period".into(), "always\nand ever".into())],
            sections: vec![
                Section::text("Words", vec!["A sentence. ".repeat(60)]),
                Section::chart("Chart", Chart::Week { counts: vec![vec![3; 24]; 7] }),
                Section::table("Table", &["n", "text", "letters"], (0..rows).map(row).collect()),
                Section::table("Empty", &["n"], Vec::new()),
            ],
        }
    }

    #[test]
    fn any_text_becomes_a_valid_archive_and_the_same_bytes_each_time() {
        for rows in [0, 1, 500] {
            let one = render(&document(rows)).unwrap();
            assert!(one.starts_with(b"%PDF-1.7"));
            assert!(one == render(&document(rows)).unwrap(), "{rows} rows");
        }
    }
}
