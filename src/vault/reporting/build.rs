//! From the parameters of a report to its document: which entries are read, and what stands at its head.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::document::{Document, Section};
use crate::domain::entry::EntryView;
use crate::domain::meta::{Meta, Patient};
use crate::domain::query::{Filter, QueryIn, TimeAxis};
use crate::domain::reports::accounting::PROTOCOL;
use crate::domain::reports::{Params, ReportKind};
use crate::domain::time::Timestamp;
use crate::domain::value::Value;
use crate::ledger::tree::Edge;
use crate::store::{Order, Row};

use super::super::Vault;
use super::super::approval::refused;
use super::super::error::VaultError;
use super::super::search::{decode, place};
use super::KeptReport;

/// Entries fetched at a time.
const FETCH: usize = 4_096;

impl Vault {
    /// Makes the document, and fills in what it was made of.
    pub(super) fn build(&self, kept: &mut KeptReport) -> Result<Document, VaultError> {
        let kind = kept.report;
        let sections = match kind {
            ReportKind::Continuity => self.continuity(kept)?,
            ReportKind::Users => self.all_users(kept)?,
            ReportKind::Access => self.with_peers(kept)?,
            _ => self.folded(kept)?,
        };
        let title = match (&kept.parameters.actor, kind) {
            (Some(actor), ReportKind::Access) => format!("{} of {actor}", kind.title()),
            _ => kind.title().to_owned(),
        };
        Ok(Document { report: kind.name().to_owned(), title, made_at: kept.made_at, head: self.head(kept), sections })
    }

    /// What one user did, and how that compares.
    fn with_peers(&self, kept: &mut KeptReport) -> Result<Vec<Section>, VaultError> {
        let (bound, params) = (kept.ledger_size, kept.parameters.clone());
        let (mut sections, peers) = std::thread::scope(|scope| {
            let peers = scope.spawn(|| self.peers(bound, &params));
            let sections = self.folded(kept)?;
            Ok::<_, VaultError>((sections, peers.join().expect("counting does not panic")?))
        })?;
        // Behind the summary.
        sections.splice(1..1, peers.section());
        Ok(sections)
    }

    fn folded(&self, kept: &mut KeptReport) -> Result<Vec<Section>, VaultError> {
        let (kind, mut params) = (kept.report, kept.parameters.clone());
        if let Some(request) = params.accounting.as_mut().filter(|it| !it.protocols.is_empty()) {
            request.individuals = self.individuals(kept.ledger_size)?;
        }
        let mut fold = kind.fold(&params).expect("the others were made elsewhere");
        let blind = self.settings.blind_patients;
        self.each_read(kept, &mut |row, meta| {
            let items = if kind.shows_values() { self.items_left(row, meta)? } else { Vec::new() };
            let view = if !blind { EntryView::new(meta, place(row), String::new(), 0, &[]) } else { self.view(row)? };
            if fold.add(&view, &items) {
                return Ok(());
            }
            Err(refused("/from", "too_large", "This report would grow too large; ask for a shorter period."))
        })?;
        Ok(fold.sections())
    }

    /// How many people's records were disclosed under each research protocol.
    fn individuals(&self, bound: u64) -> Result<BTreeMap<String, u64>, VaultError> {
        let (terms, mut position) = (ReportKind::Disclosures.terms(), Some(0));
        let mut people: BTreeMap<String, BTreeSet<Patient>> = BTreeMap::new();
        while let Some(from) = position {
            let found = self.store.find(&terms, from..bound, Order::OldestFirst, FETCH)?;
            for row in self.each_row(&found.sequences) {
                let row = row?;
                let meta = decode(&row)?;
                let items = self.items_left(&row, &meta)?;
                let protocol = items.iter().find(|it| it.path == PROTOCOL).map(|it| it.value.expose());
                if let (Some(Value::String(protocol)), Some(patient)) = (protocol, meta.patient) {
                    people.entry(protocol.clone()).or_default().insert(patient);
                }
            }
            position = found.next;
        }
        Ok(people.into_iter().map(|(protocol, people)| (protocol, people.len() as u64)).collect())
    }

    fn items_left(&self, row: &Row, meta: &Meta) -> Result<Vec<crate::domain::rules::Item>, VaultError> {
        match self.open_items(row, meta) {
            Ok(items) => Ok(items),
            // What is gone does not take the whole report with it.
            Err(VaultError::Shredded(_) | VaultError::Integrity(_)) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Calls `each` with every entry that the report is made of, oldest first, and counts them.
    pub(super) fn each_read(
        &self,
        kept: &mut KeptReport,
        each: &mut dyn FnMut(&Row, &Meta) -> Result<(), VaultError>,
    ) -> Result<(), VaultError> {
        let (kind, params, bound) = (kept.report, kept.parameters.clone(), kept.ledger_size);
        let filter = self.filter(kind, &params)?;
        let (mut covered, mut read, mut edge) = (0, 0, Edge::new());
        let mut take = |row: &Row| {
            let meta = decode(row)?;
            let received = Timestamp(row.received_at);
            if !kind.counts(&meta) || !filter.matches(&meta, received) {
                return Ok(());
            }
            read += 1;
            covered += u64::from(params.covers(meta.occurred_at.unwrap_or(received)));
            edge.append(row.leaf);
            each(row, &meta)
        };
        let terms = [filter.terms(), kind.terms()].concat();
        if terms.is_empty() {
            let mut failed = None;
            self.store.scan(0..bound, &mut |row| {
                failed = take(&row).err();
                failed.is_none()
            })?;
            failed.map_or(Ok(()), Err)?;
        } else {
            let mut position = Some(0);
            while let Some(from) = position {
                let found = self.store.find(&terms, from..bound, Order::OldestFirst, FETCH)?;
                for row in self.each_row(&found.sequences) {
                    take(&row?)?;
                }
                position = found.next;
            }
        }
        (kept.entries_covered, kept.entries_read) = (covered, read);
        kept.entries_root = edge.root().to_string();
        Ok(())
    }

    /// The filter of a report. Some look beyond their period: at the one before, or at what was reviewed later.
    fn filter(&self, kind: ReportKind, params: &Params) -> Result<Filter, VaultError> {
        let query = QueryIn {
            actor: params.actor.clone(),
            patient: params.patient.clone(),
            record_type: params.record_type.clone(),
            record_id: params.record_id.clone(),
            ..QueryIn::default()
        };
        let mut filter = query.check(|id| self.patient_forms(id)).map_err(VaultError::Invalid)?.filter;
        filter.time = TimeAxis::Occurred;
        if !kind.looks_beyond() {
            (filter.from, filter.to) = (params.from, params.to);
        }
        Ok(filter)
    }

    /// What a report covers and what it rests on.
    fn head(&self, kept: &KeptReport) -> Vec<(String, String)> {
        let params = &kept.parameters;
        let time = |it: Option<Timestamp>, none: &str| it.map_or_else(|| none.to_owned(), |it| it.to_string());
        let about: Vec<String> = [
            ("user", &params.actor),
            ("patient", &params.patient),
            ("record type", &params.record_type),
            ("record", &params.record_id),
            ("field", &params.field),
        ]
        .into_iter()
        .filter_map(|(name, it)| Some(format!("{name} {}", it.as_ref()?)))
        .collect();
        let all = || if about.is_empty() { "everything".to_owned() } else { about.join(", ") };
        let line = |label: &str, text: String| (label.to_owned(), text);
        vec![
            line("About", all()),
            line("Period", format!("{} to {}", time(params.from, "the beginning"), time(params.to, "now"))),
            line("Time zone", format!("days and hours in UTC{}; times are UTC", params.zone())),
            line("Entries", format!("{} in the period, {} read", kept.entries_covered, kept.entries_read)),
            line("Made", format!("{} by {}, reason {}", kept.made_at, kept.made_by, kept.reason)),
            line("Report", kept.id.to_string()),
            line("Ledger", format!("{}, the first {} entries", self.origin(), kept.ledger_size)),
            line("Verified", kept.verified.clone()),
            line("Checkpoint", kept.checkpoint.trim_end().to_owned()),
        ]
    }
}
