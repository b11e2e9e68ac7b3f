//! What stands at the head of a report: what it covers, and what it rests on.

use sha2::{Digest as _, Sha256};

use crate::domain::document::Section;
use crate::domain::reports::accounting::looks_back_to;
use crate::domain::reports::{Params, ReportKind};
use crate::domain::time::Timestamp;

use super::super::Vault;
use super::KeptReport;

/// Positions of altered entries that are named.
const NAMED: usize = 10;

/// Label and text.
type Lines = Vec<(String, String)>;

impl Vault {
    /// The head, and what vouches for the report if that stands at its end: in what is given to a person it would be in the way.
    pub(super) fn head(&self, kept: &KeptReport) -> (Lines, Option<Section>) {
        let params = &kept.parameters;
        let line = |label: &str, text: String| (label.to_owned(), text);
        let mut head = vec![line("About", about(params))];
        head.push(line("Period", period(kept)));
        let of_person = kept.is_for_person();
        let zone = format!("days and hours in UTC{}; times are UTC", params.zone());
        let made = format!("{} by {}, reason {}", seconds(kept.made_at), kept.made_by, kept.reason);
        let mut vouched = vec![
            line("Made", made),
            line("Report", kept.id.to_string()),
            line("Ledger", format!("{}, the first {} entries", ledger_of(kept), kept.ledger_size)),
            line("Verified", kept.verified.clone()),
            line("Checkpoint", kept.checkpoint.trim_end().to_owned()),
        ];
        head.push(line("Time zone", zone));
        if !of_person {
            let (covered, read) = (kept.entries_covered, kept.entries_read);
            head.push(line("Entries", format!("{covered} in the period; {read} were read for it")));
        }
        head.extend(kept.beyond.iter().map(|it| line("NOT COVERED", it.clone())));
        head.extend(nothing_found(kept).map(|it| line("ATTENTION", it)));
        if !kept.altered.is_empty() {
            head.push(line("ALTERED", altered(&kept.altered)));
        }
        if of_person {
            let text = vouched.into_iter().map(|(label, text)| format!("{label}: {text}")).collect();
            return (head, Some(Section::text("What vouches for this", text)));
        }
        head.append(&mut vouched);
        (head, None)
    }
}

/// The ledger that a report was made of: after a restore another goes on.
fn ledger_of(kept: &KeptReport) -> &str {
    kept.checkpoint.lines().next().unwrap_or_default()
}

/// SHA-256 of what a report says, without its head.
pub(super) fn figures(sections: &[Section]) -> String {
    hex::encode(Sha256::digest(serde_json::to_vec(sections).expect("sections are texts and numbers")))
}

fn about(params: &Params) -> String {
    let named: Vec<String> = [
        ("user", &params.actor),
        ("patient", &params.patient),
        ("record type", &params.record_type),
        ("record", &params.record_id),
        ("field", &params.field),
    ]
    .into_iter()
    .filter_map(|(name, it)| Some(format!("{name} {}", it.as_ref()?)))
    .collect();
    if named.is_empty() { "everything".to_owned() } else { named.join(", ") }
}

/// What whoever looks it over must know when nothing was found. The person is told that there were none, and not whether there is
/// something else: that would tell of what is withheld.
fn nothing_found(kept: &KeptReport) -> Option<String> {
    let params = &kept.parameters;
    if kept.entries_read > 0 || !asks_for_something(params) || kept.is_for_person() {
        return None;
    }
    if kept.unknown_patient {
        return Some(
            "no application ever wrote anything about this patient's id. Is it written as they write it?".into(),
        );
    }
    let known = "entries of this patient there are";
    Some(match (kept.report, &params.patient) {
        (ReportKind::Disclosures, Some(_)) => format!("{known}, but no disclosure among them."),
        (_, Some(_)) => format!("{known}, but none that this is about."),
        (_, None) => "no entry of the trail is about this. Is everything written as the applications write it?".into(),
    })
}

fn asks_for_something(params: &Params) -> bool {
    [&params.actor, &params.patient, &params.record_type, &params.record_id].iter().any(|it| it.is_some())
}

fn period(kept: &KeptReport) -> String {
    let params = &kept.parameters;
    if let Some(request) = params.accounting.as_ref().filter(|_| kept.report == ReportKind::Disclosures) {
        let mut request = request.clone();
        request.given_on = params.zone_day(kept.made_at);
        return format!("{} to {}, both days included", looks_back_to(&request, 6), request.last_day());
    }
    let time = |it: Option<Timestamp>, none: &str| it.map_or_else(|| none.to_owned(), seconds);
    format!("{} to {}", time(params.from, "the beginning"), time(params.to, "now"))
}

fn altered(positions: &[u64]) -> String {
    let named: Vec<_> = positions.iter().take(NAMED).map(ToString::to_string).collect();
    format!(
        "{} entries are not what the ledger holds, at positions {}{}. Do not trust these figures; run phivault verify.",
        positions.len(),
        named.join(", "),
        if positions.len() > NAMED { " and more" } else { "" }
    )
}

/// To the second, as people read it.
fn seconds(time: Timestamp) -> String {
    time.to_utc().format("%Y-%m-%d %H:%M:%SZ").to_string()
}
