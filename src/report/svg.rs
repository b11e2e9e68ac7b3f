//! Charts as SVG: shapes and text, no script, no style sheet, nothing fetched.

use std::fmt::Write as _;

use super::draw::{Anchor, Drawing, Mark, TEXT_SIZE};

/// The chart as an SVG document that can stand alone or inside HTML.
pub fn render(drawing: &Drawing) -> String {
    let (width, height) = drawing.size;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.1} {height:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" role=\"img\" font-family=\"sans-serif\" font-size=\"{TEXT_SIZE}\"><title>{}</title>",
        escape(&drawing.title)
    );
    for mark in &drawing.marks {
        let written = match mark {
            Mark::Box { at: [x, y, w, h], shade } => write!(
                out,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" fill=\"#1f5f8b\" fill-opacity=\"{shade:.2}\"/>"
            ),
            Mark::Line { points, data } => {
                let path: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
                let (colour, width) = if *data { ("#1f5f8b", 1.5) } else { ("#999999", 0.5) };
                write!(
                    out,
                    "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>",
                    path.join(" ")
                )
            }
            Mark::Text { at: (x, y), anchor, text } => {
                let anchor = match anchor {
                    Anchor::Start => "start",
                    Anchor::Middle => "middle",
                    Anchor::End => "end",
                };
                write!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escape(text))
            }
        };
        written.expect("writing to memory does not fail");
    }
    out.push_str("</svg>");
    out
}

/// A text that is no mark-up, in XML and HTML alike.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // XML takes no other control characters, and nothing here needs them.
            c if c.is_control() && c != '\n' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_applications_submit_is_text_and_never_mark_up() {
        let drawing = super::super::draw::bars("<b>", &[("<script>alert('1')</script>&\u{1}".into(), 3)]);
        let svg = render(&drawing);
        assert!(!svg.contains("<script") && !svg.contains("<b>") && !svg.contains('\u{1}'), "{svg}");
        assert!(svg.contains("&lt;script&gt;") && svg.contains("<title>&lt;b&gt;</title>"), "{svg}");
    }
}
