//! `[reports]`: reports that are made by themselves.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Deserialize;

use crate::domain::reports::ReportKind;
use crate::domain::time::parse_offset;

/// `[reports]`
#[derive(Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Reports {
    /// The folder that they are written to.
    pub folder: Option<PathBuf>,
    /// Which, and how often.
    pub schedule: Vec<Schedule>,
}

/// `[[reports.schedule]]`
#[derive(Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// The beginning of the names of its files.
    pub name: String,
    /// The report.
    pub report: String,
    /// How often: for each past day, week (from Monday) or month.
    pub every: Every,
    /// json, csv, html or pdf.
    #[serde(default = "pdf")]
    pub format: String,
    /// Where days begin.
    #[serde(default = "utc")]
    pub time_zone: String,
    /// Why it is made: a reason code.
    #[serde(default = "compliance")]
    pub reason: String,
    /// The user of an access report.
    pub actor: Option<String>,
    /// The patient.
    pub patient: Option<String>,
    /// The type of the records.
    pub record_type: Option<String>,
    /// The field of a values report.
    pub field: Option<String>,
}

/// How often a report is made.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Every {
    /// For each past day.
    Day,
    /// For each past week, from Monday.
    Week,
    /// For each past month.
    Month,
}

fn pdf() -> String {
    "pdf".into()
}

fn utc() -> String {
    "Z".into()
}

fn compliance() -> String {
    "HCOMPL".into()
}

impl Schedule {
    fn has_what_it_takes(&self) -> bool {
        let Some(kind) = ReportKind::parse(&self.report) else { return false };
        let given = [
            ("actor", &self.actor),
            ("patient", &self.patient),
            ("record_type", &self.record_type),
            ("field", &self.field),
        ];
        let given: Vec<&str> = given.iter().filter(|it| it.1.is_some()).map(|it| it.0).collect();
        kind.required().iter().all(|it| given.contains(it)) && given.iter().all(|it| kind.takes().contains(it))
    }
}

impl Reports {
    /// What is wrong with it, in one sentence.
    pub(super) fn problem(&self) -> Option<String> {
        if !self.schedule.is_empty() && self.folder.is_none() {
            return Some("reports.folder must say where scheduled reports are written.".into());
        }
        let mut names = BTreeSet::new();
        for it in &self.schedule {
            let plain = (1..=64).contains(&it.name.len())
                && it.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
            let wrong = if !plain || !names.insert(&it.name) {
                "name is up to 64 letters, digits, - and _, and stands once"
            } else if ReportKind::parse(&it.report).is_none() {
                "report is none of those that POST /v1/reports takes"
            } else if !it.has_what_it_takes() {
                "the report lacks what it is about, or is given what it does not go by (actor, patient, record_type, field)"
            } else if !["json", "csv", "html", "pdf"].contains(&it.format.as_str()) {
                "format is json, csv, html or pdf"
            } else if parse_offset(&it.time_zone).is_none() {
                "time_zone is Z or an offset such as +02:00"
            } else {
                continue;
            };
            return Some(format!("reports.schedule {:?}: {wrong}.", it.name));
        }
        None
    }
}
