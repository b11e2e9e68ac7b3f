//! What commands print and write: escaped text, tables that fit, JSON, files that hold health data.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use chrono::{DateTime, FixedOffset, Offset as _, Utc};
use comfy_table::{Table, presets};
use serde::Serialize;

/// Makes text from a server harmless: what could move the cursor, colour or reverse text is written as `\u{…}`.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_dangerous(c) {
            safe.extend(c.escape_unicode());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Pretty JSON in which no control character is left as it is; the value stays the same.
///
/// # Errors
/// Those of serialising `value`.
pub fn json(value: &impl Serialize) -> serde_json::Result<String> {
    let text = serde_json::to_string_pretty(value)?;
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\n' && is_dangerous(c) {
            // Such a character stands in a string only, where JSON takes it as UTF-16 units.
            for unit in c.encode_utf16(&mut [0; 2]) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            safe.push(c);
        }
    }
    Ok(safe)
}

/// Prints to standard output with a line end; a reader that has gone away (`| head`) is no error.
///
/// # Errors
/// Those of writing.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// A table for people. Cells are escaped; those of the columns `ids` are shortened, by `…` at their end, only when
/// standard output is a terminal too narrow for the whole.
pub fn table(header: &[&str], rows: &[Vec<String>], ids: &[usize]) -> String {
    fitted(header, rows, ids, terminal_width())
}

/// A moment from the server (RFC 3339) for people, to the second, in the given zone (UTC: marked `Z`).
pub fn moment(text: &str, zone: Option<FixedOffset>) -> String {
    let Ok(parsed) = DateTime::parse_from_rfc3339(text) else { return text.to_owned() };
    match zone.filter(|zone| *zone != Utc.fix()) {
        Some(zone) => parsed.with_timezone(&zone).format("%Y-%m-%d %H:%M:%S").to_string(),
        None => parsed.with_timezone(&Utc).format("%Y-%m-%d %H:%M:%SZ").to_string(),
    }
}

/// Creates a file for secrets or health data: mode 600, and never over an existing one.
///
/// # Errors
/// `AlreadyExists`, and those of the file system.
pub fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// The shortest an id is cut to; below, a table may be wider than its terminal.
const SHORTEST_ID: usize = 9;

/// Control characters (C0, DEL, C1) and the invisible ones that reorder or hide text (Unicode TR 36, bidi controls).
fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

fn terminal_width() -> Option<usize> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    rustix::termios::tcgetwinsize(&out).ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

fn fitted(header: &[&str], rows: &[Vec<String>], ids: &[usize], width: Option<usize>) -> String {
    let mut rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| escape(cell)).collect()).collect();
    if let Some(width) = width {
        shorten(header, &mut rows, ids, width);
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}

/// Takes columns from the widest id column until the table fits or every id is at its shortest.
fn shorten(header: &[&str], rows: &mut [Vec<String>], ids: &[usize], width: usize) {
    let length = |cell: &str| cell.chars().count();
    let mut widths: Vec<usize> = (0..header.len())
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| length(cell))
                .chain([length(header[column])])
                .max()
                .unwrap_or(0)
        })
        .collect();
    // Each column has a space on both sides and a line before it; one more line ends the row.
    while widths.iter().map(|width| width + 3).sum::<usize>() + 1 > width {
        let Some(&widest) = ids
            .iter()
            .filter(|column| widths.get(**column).is_some_and(|width| *width > SHORTEST_ID))
            .max_by_key(|column| widths[**column])
        else {
            break;
        };
        widths[widest] -= 1;
    }
    for row in rows {
        for &column in ids {
            if let Some(cell) = row.get_mut(column).filter(|cell| length(cell) > widths[column]) {
                *cell = cell.chars().take(widths[column] - 1).chain(['…']).collect();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn escaping_leaves_names_alone_and_disarms_control_characters() {
        assert_eq!(escape("Łukasz Müller, 中"), "Łukasz Müller, 中");
        assert_eq!(escape("a\x1b[31m\n\u{9b}\u{202e}b"), "a\\u{1b}[31m\\u{a}\\u{9b}\\u{202e}b");
    }

    #[test]
    fn json_is_disarmed_without_changing_its_value() {
        let value = serde_json::json!({"a": "x\u{9b}\u{7f}\u{202e}\n", "\u{e0001}": 1});
        let text = json(&value).unwrap();
        assert!(text.chars().all(|c| c == '\n' || !is_dangerous(c)), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn ids_are_cut_only_when_the_terminal_is_narrow() {
        let rows = vec![vec!["0193595e-7c1b-7abc-8def-0123456789ab".to_owned(), "forwarder".to_owned()]];
        for wide in [None, Some(80)] {
            assert!(fitted(&["ID", "LABEL"], &rows, &[0], wide).contains("0193595e-7c1b-7abc-8def-0123456789ab"));
        }
        let narrow = fitted(&["ID", "LABEL"], &rows, &[0], Some(40));
        assert!(narrow.contains('…') && narrow.contains("forwarder"), "{narrow}");
        assert!(narrow.lines().all(|line| line.chars().count() == 40), "{narrow}");
        assert!(fitted(&["ID", "LABEL"], &rows, &[0], Some(5)).contains("0193595e…"));
    }

    #[test]
    fn moments_are_shown_in_the_zone_asked_for() {
        let zone = FixedOffset::east_opt(2 * 3600);
        assert_eq!(moment("2026-11-24T23:30:00.123456Z", zone), "2026-11-25 01:30:00");
        assert_eq!(moment("2026-11-24T23:30:00.123456Z", None), "2026-11-24 23:30:00Z");
        assert_eq!(moment("soon", None), "soon");
    }

    #[test]
    fn a_private_file_is_for_its_owner_and_never_overwrites() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let file = private_file(&path).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(private_file(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
