//! Reports: recorded before they are made, kept with their parameters, and made again to the same bytes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission, Role};
use crate::domain::document::Document;
use crate::domain::meta::{Patient, Record};
use crate::domain::reports::{Params, ReportKind};
use crate::domain::rules::Item;
use crate::domain::time::Timestamp;
use crate::domain::value::Phi;

use super::Vault;
use super::approval::refused;
use super::book;
use super::error::VaultError;
use super::record::{CheckedReason, Note};
use super::standing::{STATE_DIGESTS, digest_of};

mod again;
mod asked;
mod beyond;
mod build;
mod continuity;
mod counted;
mod head;
mod manifest;

pub use asked::ReportIn;
pub use manifest::{ReportChecked, check_report};

/// The kind of a kept report's state row.
pub(super) const KIND: &str = "report";
/// The most reports that a vault keeps: ten a day for a decade.
const MAX_KEPT: usize = 40_000;
/// The most that one caller makes in a day, so that nobody uses up what is kept.
const MAX_A_DAY: usize = 300;
const MAX_OF_A_PATIENT_A_DAY: usize = 20;
/// The most reports of patients to themselves that can be fetched still. Those are not kept: they can be made again at any time.
const MAX_OF_PATIENTS: usize = 1_000;
const MAX_OF_ONE_PATIENT: usize = 5;
/// Bytes of a kept accounting that one sealed value holds.
const PIECE: usize = 48 * 1024;
/// The most bytes of an accounting that are kept whole.
const MAX_GIVEN: usize = 700 * 1024;

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
    /// What it cannot tell of, in words: entries missing since a restore, or not found by a patient's id any more.
    #[serde(default)]
    pub beyond: Vec<String>,
    /// Whether no application ever named the patient whom it is about.
    #[serde(default)]
    pub unknown_patient: bool,
}

pub(super) type Reports<'a> = MutexGuard<'a, BTreeMap<String, KeptReport>>;

impl KeptReport {
    /// Whether it is a copy for the person, which does not say how many entries it was made of. Every report to a patient is one,
    /// whether something is withheld or not: otherwise the difference would tell.
    fn is_for_person(&self) -> bool {
        self.report == ReportKind::Patient || self.parameters.accounting.as_ref().is_some_and(|it| it.for_person)
    }
}

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
        let mut parameters = asked::check(kind, asked)?;
        self.check_ids(&parameters)?;
        self.complete(kind, &mut parameters)?;
        let _room = self.long_read()?;
        self.room_for_report(caller)?;
        let receipt = self.record(self.asked_note(caller, reason.clone(), kind, &parameters))?;
        // The checkpoint of a report covers the entry that records it.
        self.sign_now();
        // Also what was received in this very microsecond: it is many entries while a clock that was ahead is waited for.
        parameters.to = parameters.to.or(Some(Timestamp(receipt.received_at.0 + 1)));
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
            beyond: Vec::new(),
            unknown_patient: false,
        };
        self.note_limits(&mut kept)?;
        let document = self.build(&mut kept)?;
        kept.sha256 = digest(&document);
        self.keep_report(caller, reason, &kept, &document)?;
        Ok((told(caller, kept), document))
    }

    /// What patients make for themselves is not kept, and so needs no room; but each takes time, and entries.
    fn room_for_report(&self, caller: &Caller) -> Result<(), VaultError> {
        if caller.role == Role::Patient {
            return self.bounds.daily.one_more("reports", &caller.token_id, MAX_OF_A_PATIENT_A_DAY);
        }
        if self.read_reports().len() >= MAX_KEPT {
            return Err(refused("", "too_many", format!("A vault keeps at most {MAX_KEPT} reports.")));
        }
        self.bounds.daily.one_more("reports", &caller.token_id, MAX_A_DAY)
    }

    /// A report that is kept, or that a patient made lately.
    fn find_report(&self, id: Uuid) -> Result<KeptReport, VaultError> {
        let kept = self.read_reports().get(&id.to_string()).cloned();
        kept.or_else(|| self.reports_of_patients().iter().find(|it| it.id == id).cloned()).ok_or(VaultError::NotFound)
    }

    fn reports_of_patients(&self) -> MutexGuard<'_, VecDeque<KeptReport>> {
        self.patients_reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a kept report again, to the same bytes. Recorded.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `NotFound`, `Shredded` (something that it showed is gone), or what recording says.
    pub fn remake_report(&self, caller: &Caller, id: Uuid) -> Result<(KeptReport, Document), VaultError> {
        self.allow(caller, Permission::MakeReport, Action::REPORT)?;
        let kept = self.find_report(id)?;
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
        if caller.role == Role::Patient {
            return self.keep_for_a_while(caller, reason, kept);
        }
        // Held until it is kept, so that the state key does not change between the row and its entry.
        let mut reports = self.read_reports();
        let key = kept.id.to_string();
        let row = book::row(&self.keys.ring(), KIND, &key, kept);
        let mut note = Note::new(caller, Action::REPORT, reason);
        note.record = Some(Record::new("Report", kept.report.name()));
        note.facts = facts(kept);
        note.facts.push((format!("{STATE_DIGESTS}{KIND}/{key}"), digest_of(&row)));
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

    /// A patient's own report can be fetched until newer ones take its place, this patient's own first; then it is made again.
    fn keep_for_a_while(&self, caller: &Caller, reason: CheckedReason, kept: &KeptReport) -> Result<(), VaultError> {
        let mut note = Note::new(caller, Action::REPORT, reason);
        note.record = Some(Record::new("Report", kept.report.name()));
        note.facts = facts(kept);
        self.record(note)?;
        let mut all = self.reports_of_patients();
        let own = |it: &KeptReport| it.made_by == kept.made_by;
        if all.iter().filter(|it| own(it)).count() >= MAX_OF_ONE_PATIENT
            && let Some(oldest) = all.iter().position(own)
        {
            all.remove(oldest);
        }
        if all.len() >= MAX_OF_PATIENTS {
            all.pop_front();
        }
        all.push_back(kept.clone());
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
}

/// A kept report as a caller may see it: who asked for a suspension is not metadata.
fn told(caller: &Caller, kept: KeptReport) -> KeptReport {
    if caller.role.may(Permission::Reveal) {
        return kept;
    }
    // Nor whether nothing at all is known of them: the difference to what is only withheld would tell.
    let kept = KeptReport { unknown_patient: false, ..kept };
    KeptReport { parameters: kept.parameters.without_suspensions(), ..kept }
}

/// What the entry says of a report that was made.
fn facts(kept: &KeptReport) -> Vec<(String, String)> {
    vec![
        ("entries".into(), kept.entries_read.to_string()),
        ("entries_root".into(), kept.entries_root.clone()),
        ("report".into(), kept.id.to_string()),
        ("sha256".into(), kept.sha256.clone()),
    ]
}

/// SHA-256 of a document as JSON.
fn digest(document: &Document) -> String {
    hex::encode(Sha256::digest(serde_json::to_vec(document).expect("a document is texts and numbers")))
}
