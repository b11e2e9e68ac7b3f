//! Reports: recorded before they are made, kept with their parameters, and made again to the same bytes.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission, Role};
use crate::domain::document::Document;
use crate::domain::meta::{Patient, Record};
use crate::domain::query::QueryIn;
use crate::domain::reports::accounting::{Request, Suspension, suspended_until};
use crate::domain::reports::{Params, ReportKind, Withheld};
use crate::domain::rules::Item;
use crate::domain::submission::{ReasonIn, object};
use crate::domain::time::{Timestamp, parse_offset};
use crate::domain::value::Phi;

use super::Vault;
use super::approval::refused;
use super::book;
use super::error::VaultError;
use super::record::{CheckedReason, Note};
use super::standing::{STATE_DIGESTS, digest_of};

mod again;
mod build;
mod continuity;
mod counted;
mod head;
mod manifest;

pub use manifest::{ReportChecked, check_report};

/// The kind of a kept report's state row.
pub(super) const KIND: &str = "report";
/// The most reports that a vault keeps: ten a day for a decade.
const MAX_KEPT: usize = 40_000;
/// Bytes of a kept accounting that one sealed value holds.
const PIECE: usize = 48 * 1024;
/// The most bytes of an accounting that are kept whole.
const MAX_GIVEN: usize = 700 * 1024;

/// What a report is asked for. Which parts are needed depends on the report; all others may be left out.
#[derive(Deserialize, ToSchema, Default)]
#[serde(deny_unknown_fields)]
pub struct ReportIn {
    /// access, users, patient, disclosures, break-glass, review, logins, reasons, privileged, integrity, continuity or values.
    #[schema(required = true)]
    pub report: Option<String>,
    /// The user.
    pub actor: Option<String>,
    /// The patient.
    pub patient: Option<String>,
    /// The type of the records.
    pub record_type: Option<String>,
    /// One record.
    pub record_id: Option<String>,
    /// The numeric field of a values report.
    pub field: Option<String>,
    /// The column that the entries of an access report are sorted by.
    pub sort: Option<String>,
    /// Not before this time (RFC 3339), by the time things happened.
    pub from: Option<String>,
    /// Before this time; the time of the report if absent.
    pub to: Option<String>,
    /// The offset from UTC in which days and hours are counted: Z (default) or such as +02:00.
    pub time_zone: Option<String>,
    /// What an accounting of disclosures takes beside that.
    #[serde(default, deserialize_with = "object")]
    pub accounting: Option<Request>,
    /// Why it is made.
    #[schema(required = true)]
    #[serde(default, deserialize_with = "object")]
    pub reason: Option<ReasonIn>,
}

/// A report that is kept: all that it takes to make it again.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct KeptReport {
    /// Its id: that of the entry that recorded it before it was made.
    pub id: Uuid,
    /// Which report.
    pub report: ReportKind,
    /// What it was asked for.
    #[schema(value_type = Object)]
    pub parameters: Params,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub made_at: Timestamp,
    /// By whom.
    pub made_by: String,
    /// Why: the reason code.
    pub reason: String,
    /// The ledger held this many entries; later ones are not in it.
    pub ledger_size: u64,
    /// The signed checkpoint at that time.
    pub checkpoint: String,
    /// Whether the vault was verified then.
    pub verified: String,
    /// Entries in the period that it covers.
    pub entries_covered: u64,
    /// Entries that it was made of, others to compare with among them.
    pub entries_read: u64,
    /// The Merkle root over their leaves, so that none can be left out without a trace.
    pub entries_root: String,
    /// SHA-256 of the report as JSON.
    pub sha256: String,
    /// SHA-256 of what it says without its head: of the figures that the entries give.
    #[serde(default)]
    pub figures: String,
    /// Positions of entries that were not what the ledger holds when they were read.
    #[serde(default)]
    pub altered: Vec<u64>,
}

pub(super) type Reports<'a> = MutexGuard<'a, BTreeMap<String, KeptReport>>;

impl Vault {
    /// Makes a report. The entry that records it is on disk before anything is read.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `Invalid`, `Busy`, or what recording says; then there is no report.
    pub fn make_report(&self, caller: &Caller, asked: ReportIn) -> Result<(KeptReport, Document), VaultError> {
        self.allow(caller, Permission::MakeReport, Action::REPORT)?;
        let kind = asked.report.as_deref().and_then(ReportKind::parse).ok_or_else(|| {
            let known: Vec<_> = ReportKind::ALL.iter().map(|it| it.name()).collect();
            refused("/report", "report_unknown", format!("Reports: {}.", known.join(", ")))
        })?;
        if kind.shows_values() {
            self.allow(caller, Permission::Reveal, Action::REPORT)?;
        }
        let asked = self.for_patient(caller, kind, asked)?;
        let reason = self.reason(caller, Action::REPORT, asked.reason.clone().unwrap_or_default())?;
        let mut parameters = check(kind, asked)?;
        self.check_ids(&parameters)?;
        self.complete(kind, &mut parameters)?;
        let _room = self.long_read()?;
        if self.read_reports().len() >= MAX_KEPT {
            return Err(refused("", "too_many", format!("A vault keeps at most {MAX_KEPT} reports.")));
        }
        let receipt = self.record(self.asked_note(caller, reason.clone(), kind, &parameters))?;
        // The checkpoint of a report covers the entry that records it.
        self.sign_now();
        parameters.to = parameters.to.or(Some(receipt.received_at));
        let mut kept = KeptReport {
            id: receipt.id,
            report: kind,
            parameters,
            made_at: receipt.received_at,
            made_by: caller.label.clone(),
            reason: reason.0.code.clone(),
            ledger_size: receipt.sequence,
            checkpoint: self.ledger.checkpoint().note,
            verified: self.verified(),
            entries_covered: 0,
            entries_read: 0,
            entries_root: String::new(),
            sha256: String::new(),
            figures: String::new(),
            altered: Vec::new(),
        };
        let document = self.build(&mut kept)?;
        kept.sha256 = digest(&document);
        self.keep_report(caller, reason, &kept, &document)?;
        Ok((told(caller, kept), document))
    }

    /// What a patient's token may ask for: the report about the patient, whatever else it names.
    fn for_patient(&self, caller: &Caller, kind: ReportKind, asked: ReportIn) -> Result<ReportIn, VaultError> {
        if caller.role != Role::Patient {
            return Ok(asked);
        }
        if kind != ReportKind::Patient {
            self.allow(caller, Permission::Report, Action::REPORT)?;
        }
        let patient = Some(self.patient_of_token(&caller.token_id).ok_or(VaultError::Denied)?);
        if asked.patient.is_some() && asked.patient != patient {
            self.allow(caller, Permission::Report, Action::REPORT)?;
        }
        let ReportIn { report, from, to, time_zone, reason, .. } = asked;
        Ok(ReportIn { report, patient, from, to, time_zone, reason, ..ReportIn::default() })
    }

    /// Makes a kept report again, to the same bytes. Recorded.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `NotFound`, `Shredded` (something that it showed is gone), or what recording says.
    pub fn remake_report(&self, caller: &Caller, id: Uuid) -> Result<(KeptReport, Document), VaultError> {
        self.allow(caller, Permission::MakeReport, Action::REPORT)?;
        let kept = self.read_reports().get(&id.to_string()).cloned().ok_or(VaultError::NotFound)?;
        if caller.role == Role::Patient
            && (kept.report != ReportKind::Patient
                || kept.parameters.patient != self.patient_of_token(&caller.token_id))
        {
            return Err(VaultError::NotFound);
        }
        if kept.report.shows_values() {
            self.allow(caller, Permission::Reveal, Action::REPORT)?;
        }
        let _room = self.long_read()?;
        let reason = (crate::domain::meta::Reason { code: kept.reason.clone(), ..Default::default() }, Vec::new());
        let mut note = self.asked_note(caller, reason, kept.report, &kept.parameters);
        note.facts.push(("report".into(), id.to_string()));
        self.record(note)?;
        let mut again = kept.clone();
        let document = self.build(&mut again)?;
        if digest(&document) != kept.sha256 {
            return Err(VaultError::Shredded(None));
        }
        Ok((told(caller, kept), document))
    }

    /// The reports that are kept, newest first. Recorded, for their parameters name people.
    ///
    /// # Errors
    /// [`VaultError::Denied`], or what recording says.
    pub fn list_reports(&self, caller: &Caller) -> Result<Vec<KeptReport>, VaultError> {
        self.allow(caller, Permission::Report, Action::REPORT)?;
        self.record(Note::new(caller, Action::REPORT, super::record::searching()))?;
        let mut all: Vec<_> = self.read_reports().values().cloned().collect();
        all = all.into_iter().map(|it| told(caller, it)).collect();
        all.sort_by_key(|it| std::cmp::Reverse((it.made_at, it.id)));
        Ok(all)
    }

    /// What an accounting, or a report for the person, takes from the accountings before: suspensions that were named go on until
    /// they end, or until another accounting names others.
    fn complete(&self, kind: ReportKind, params: &mut Params) -> Result<(), VaultError> {
        if !matches!(kind, ReportKind::Disclosures | ReportKind::Patient) {
            return Ok(());
        }
        let today = params.zone_day(self.clock.now());
        let (mut suspensions, mut last) = (None, None);
        let reports = self.read_reports();
        let mut before: Vec<_> = reports.values().filter(|it| it.report == ReportKind::Disclosures).collect();
        before.retain(|it| it.parameters.patient == params.patient);
        before.sort_by_key(|it| (it.made_at, it.id));
        for it in before {
            let Some(request) = &it.parameters.accounting else { continue };
            suspensions = request.suspensions.clone().or(suspensions);
            last = if request.for_person { Some(it.parameters.zone_day(it.made_at)) } else { last };
        }
        if kind == ReportKind::Patient {
            let in_force = |it: &Suspension| suspended_until(it, today).is_some();
            let suspensions: Vec<_> = suspensions.into_iter().flatten().filter(in_force).collect();
            params.withheld = (!suspensions.is_empty()).then_some(Withheld { suspensions, on: today });
            return Ok(());
        }
        let request = params.accounting.get_or_insert_default();
        if request.requested_on.is_some_and(|it| it > today) {
            let detail =
                "The day of the request (requested_on) is a date such as 2026-11-24, and not later than today.";
            return Err(refused("/accounting/requested_on", "day_in_future", detail));
        }
        request.suspensions = request.suspensions.take().or(suspensions);
        request.last_accounting = request.last_accounting.or(last);
        let zone = Params { offset: params.offset, ..Params::default() };
        request.since = request.since.or(params.from.map(|it| zone.zone_day(it)));
        request.through = request.through.or(params.to.map(|it| zone.zone_day(Timestamp(it.0 - 1))));
        Ok(())
    }

    pub(super) fn read_reports(&self) -> Reports<'_> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is recorded before a report is made.
    fn asked_note<'a>(&self, caller: &'a Caller, reason: CheckedReason, kind: ReportKind, params: &Params) -> Note<'a> {
        let mut note = Note::new(caller, Action::REPORT, reason);
        note.record = Some(Record::new("Report", kind.name()));
        let time = |it: Option<Timestamp>| it.map(|it| it.to_string());
        for (name, text) in [
            ("actor", params.actor.clone()),
            ("patient", params.patient.clone()),
            ("record_type", params.record_type.clone()),
            ("record_id", params.record_id.clone()),
            ("field", params.field.clone()),
            ("from", time(params.from)),
            ("to", time(params.to)),
        ] {
            if let Some(text) = text {
                note.seal(&format!("filter/{name}"), text);
            }
        }
        if let Some(id) = &params.patient {
            // The patient's own trail shows that it was made.
            let form = self.patient_forms(id).into_iter().find(|it| it.is_plain() != self.settings.blind_patients);
            if form.as_ref().is_some_and(|it| !it.is_plain()) {
                note.items.push(Item { path: "patient/id".into(), value: Phi::text(id) });
            }
            note.patient = form.or_else(|| Some(Patient::Plain(id.clone())));
        }
        note
    }

    /// Keeps a report: the row and the entry that commits to it go in together. An accounting is kept as it was given, for that is a
    /// duty of its own (45 CFR 164.528(d)(2)).
    fn keep_report(
        &self,
        caller: &Caller,
        reason: CheckedReason,
        kept: &KeptReport,
        document: &Document,
    ) -> Result<(), VaultError> {
        // Held until it is kept, so that the state key does not change between the row and its entry.
        let mut reports = self.read_reports();
        let key = kept.id.to_string();
        let row = book::row(&self.keys.ring(), KIND, &key, kept);
        let mut note = Note::new(caller, Action::REPORT, reason);
        note.record = Some(Record::new("Report", kept.report.name()));
        note.facts.extend([
            (format!("{STATE_DIGESTS}{KIND}/{key}"), digest_of(&row)),
            ("entries".into(), kept.entries_read.to_string()),
            ("entries_root".into(), kept.entries_root.clone()),
            ("report".into(), key.clone()),
            ("sha256".into(), kept.sha256.clone()),
        ]);
        if kept.report == ReportKind::Disclosures {
            let text = serde_json::to_string(document).expect("a document is texts and numbers");
            if text.len() > MAX_GIVEN {
                let detail = "This accounting is too long to be kept as it was given; ask for a shorter time.";
                return Err(refused("", "too_large", detail));
            }
            let chars: Vec<char> = text.chars().collect();
            for (n, piece) in chars.chunks(PIECE / 4).enumerate() {
                note.seal(&format!("given/{n:03}"), piece.iter().collect::<String>());
            }
        }
        note.state.push(row);
        self.record(note)?;
        self.sign_now();
        reports.insert(key, kept.clone());
        Ok(())
    }

    /// Whether the vault is known to be sound, in words.
    fn verified(&self) -> String {
        use std::sync::atomic::Ordering::Relaxed;
        let findings = self.counters.integrity_failures.load(Relaxed) + self.counters.untrusted_state.load(Relaxed);
        let last = self.counters.last_scrub.load(Relaxed);
        let passed = if last == 0 {
            "the check of all entries and values since the start is still under way".to_owned()
        } else {
            format!("all entries and values were gone through by {}", Timestamp(last))
        };
        match findings {
            0 => format!("{passed}; nothing was found altered"),
            n => format!("{passed}; {n} findings since the start, see the integrity report"),
        }
    }

    fn check_ids(&self, params: &Params) -> Result<(), VaultError> {
        let query = QueryIn {
            actor: params.actor.clone(),
            patient: params.patient.clone(),
            record_type: params.record_type.clone(),
            record_id: params.record_id.clone(),
            field: params.field.clone(),
            ..QueryIn::default()
        };
        let in_body = |mut it: crate::domain::issue::Issue| {
            it.pointer = format!("/{}", it.pointer);
            it
        };
        let checked = query.check(|id| self.patient_forms(id));
        checked.map(|_| ()).map_err(|found| VaultError::Invalid(found.into_iter().map(in_body).collect()))
    }
}

/// The parameters of a report, if they make sense.
fn check(kind: ReportKind, asked: ReportIn) -> Result<Params, VaultError> {
    let time = |pointer: &str, text: Option<String>| {
        let wrong = || refused(pointer, "time_invalid", "This is no RFC 3339 time such as 2026-11-01T00:00:00Z.");
        text.map(|it| Timestamp::parse(&it).ok_or_else(wrong)).transpose()
    };
    let (from, to) = (time("/from", asked.from)?, time("/to", asked.to)?);
    if let (Some(from), Some(to)) = (from, to)
        && to <= from
    {
        return Err(refused("/to", "time_order", "The end (to) must lie after the beginning (from)."));
    }
    let offset = parse_offset(asked.time_zone.as_deref().unwrap_or("Z"))
        .ok_or_else(|| refused("/time_zone", "zone_invalid", "The time zone is Z or an offset such as +02:00."))?;
    let given = [
        ("actor", asked.actor.is_some()),
        ("patient", asked.patient.is_some()),
        ("record_type", asked.record_type.is_some()),
        ("record_id", asked.record_id.is_some()),
        ("field", asked.field.is_some()),
        ("sort", asked.sort.is_some()),
        ("accounting", asked.accounting.is_some()),
    ];
    if let Some(missing) = kind.required().iter().find(|it| !given.contains(&(**it, true))) {
        let detail = format!("The report {} needs {missing}.", kind.name());
        return Err(refused(&format!("/{missing}"), "missing", detail));
    }
    if let Some((more, _)) = given.iter().find(|it| it.1 && !kind.takes().contains(&it.0)) {
        let takes = kind.takes().join(", ");
        let takes = if takes.is_empty() { "only a period".to_owned() } else { takes };
        let detail = format!("The report {} does not go by {more}. It takes: {takes}.", kind.name());
        return Err(refused(&format!("/{more}"), "not_used", detail));
    }
    if let Some(sort) = &asked.sort
        && !crate::domain::reports::SORTS.contains(&sort.as_str())
    {
        let detail = format!("Columns to sort by: {}.", crate::domain::reports::SORTS.join(", "));
        return Err(refused("/sort", "column_unknown", detail));
    }
    if let Some(problem) = asked.accounting.as_ref().and_then(Request::problem) {
        return Err(refused("/accounting", "accounting_invalid", problem));
    }
    let ReportIn { actor, patient, record_type, record_id, field, sort, accounting, .. } = asked;
    let offset = offset.local_minus_utc();
    Ok(Params { actor, patient, record_type, record_id, field, sort, from, to, offset, accounting, withheld: None })
}

/// A kept report as a caller may see it: who asked for a suspension is not metadata.
fn told(caller: &Caller, kept: KeptReport) -> KeptReport {
    if caller.role.may(Permission::Reveal) {
        return kept;
    }
    KeptReport { parameters: kept.parameters.without_suspensions(), ..kept }
}

/// SHA-256 of a document as JSON.
fn digest(document: &Document) -> String {
    hex::encode(Sha256::digest(serde_json::to_vec(document).expect("a document is texts and numbers")))
}
