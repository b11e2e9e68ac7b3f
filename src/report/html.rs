//! A report as one HTML page to be read or printed: no script, nothing fetched.

use std::fmt::Write as _;

use crate::domain::document::{Document, Section, Table};

use super::svg::{self, escape};

/// What the page looks like, on a screen and on paper.
const STYLE: &str = "body{font:14px/1.45 system-ui,sans-serif;color:#1a1a1a;max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem;margin:0 0 1rem}h2{font-size:1.1rem;margin:1.8rem 0 .5rem;border-bottom:1px solid #ccc;padding-bottom:.2rem}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:0}dt{color:#555}dd{margin:0;overflow-wrap:anywhere;white-space:pre-line}\
table{border-collapse:collapse;width:100%;font-size:.85rem}th,td{text-align:left;padding:.25rem .5rem;border-bottom:1px solid #e2e2e2;vertical-align:top;overflow-wrap:anywhere}\
th{background:#f3f5f7}td.n,th.n{text-align:right}thead{display:table-header-group}tr{break-inside:avoid}svg{max-width:100%;height:auto}\
@media print{body{margin:0;max-width:none;font-size:11px}h2{break-after:avoid}@page{size:A4;margin:18mm}}";

/// The policy under which a browser should show it: style stands in it, nothing else may load or run.
pub const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The page.
pub fn render(document: &Document) -> String {
    let title = escape(&document.title);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n<dl>"
    );
    for (label, text) in &document.head {
        add(&mut out, format_args!("<dt>{}</dt><dd>{}</dd>", escape(label), escape(text)));
    }
    out.push_str("</dl>\n");
    document.sections.iter().for_each(|it| section(&mut out, it));
    out.push_str("</body></html>\n");
    out
}

fn section(out: &mut String, section: &Section) {
    add(out, format_args!("<h2>{}</h2>\n", escape(&section.heading)));
    for text in &section.text {
        add(out, format_args!("<p>{}</p>\n", escape(text)));
    }
    if let Some(chart) = &section.chart {
        out.push_str(&svg::render(&super::drawing(&section.heading, chart)));
        out.push('\n');
    }
    if let Some(it) = &section.table {
        table(out, it);
    }
}

fn table(out: &mut String, table: &Table) {
    if table.rows.is_empty() {
        out.push_str("<p>None.</p>\n");
        return;
    }
    let numbers: Vec<bool> =
        (0..table.columns.len()).map(|n| table.rows.iter().all(|row| row[n].is_number())).collect();
    let class = |n: usize| if numbers[n] { " class=\"n\"" } else { "" };
    out.push_str("<table><thead><tr>");
    for (n, column) in table.columns.iter().enumerate() {
        add(out, format_args!("<th{}>{}</th>", class(n), escape(column)));
    }
    out.push_str("</tr></thead><tbody>\n");
    for row in &table.rows {
        out.push_str("<tr>");
        for (n, cell) in row.iter().enumerate() {
            add(out, format_args!("<td{}>{}</td>", class(n), escape(&cell.shown())));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table>\n");
}

fn add(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to memory does not fail");
}
