//! From the parameters of a report to its document: which entries are read, and what is made of them.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;

use crate::domain::action::{Action, Outcome};
use crate::domain::document::{Document, Section};
use crate::domain::entry::EntryView;
use crate::domain::index::{Dimension, Term};
use crate::domain::issue::Issue;
use crate::domain::meta::{Meta, Patient};
use crate::domain::query::{Filter, QueryIn, TimeAxis};
use crate::domain::reports::accounting::{Disclosure, RESEARCH, Request, Verdict, verdict};
use crate::domain::reports::{Params, ReportKind};
use crate::domain::rules::Item;
use crate::domain::time::Timestamp;
use crate::ledger::tree::Edge;
use crate::store::{Order, Row};

use super::super::Vault;
use super::super::approval::refused;
use super::super::error::VaultError;
use super::super::search::{decode, place};
use super::super::trust::leaf_of;
use super::KeptReport;
use super::head::figures;

/// Entries fetched at a time.
const FETCH: usize = 4_096;
/// The most altered entries that a report names.
pub(super) const MAX_ALTERED: usize = 1_000;

impl Vault {
    /// Makes the document, and fills in what it was made of.
    pub(super) fn build(&self, kept: &mut KeptReport) -> Result<Document, VaultError> {
        let kind = kept.report;
        let mut sections = match kind {
            ReportKind::Continuity => self.continuity(kept)?,
            ReportKind::Users => self.all_users(kept)?,
            ReportKind::Access => self.with_peers(kept)?,
            _ => self.folded(kept)?,
        };
        let title = match (&kept.parameters.actor, kind) {
            (Some(actor), ReportKind::Access) => format!("{} of {actor}", kind.title()),
            _ => kind.title().to_owned(),
        };
        kept.figures = figures(&sections);
        let (head, vouched) = self.head(kept);
        sections.extend(vouched);
        Ok(Document { report: kind.name().to_owned(), title, made_at: kept.made_at, head, sections })
    }

    /// What one user did, and how that compares.
    fn with_peers(&self, kept: &mut KeptReport) -> Result<Vec<Section>, VaultError> {
        let (bound, params) = (kept.ledger_size, kept.parameters.clone());
        let (mut sections, peers) = std::thread::scope(|scope| {
            let peers = scope.spawn(|| self.peers(bound, &params));
            let sections = self.folded(kept)?;
            Ok::<_, VaultError>((sections, peers.join().expect("counting does not panic")?))
        })?;
        let (peers, altered) = peers;
        kept.altered.extend(altered);
        kept.altered.sort_unstable();
        kept.altered.dedup();
        // Behind the summary.
        sections.splice(1..1, peers.section());
        Ok(sections)
    }

    fn folded(&self, kept: &mut KeptReport) -> Result<Vec<Section>, VaultError> {
        let (kind, mut params) = (kept.report, kept.parameters.clone());
        let given_on = params.zone_day(kept.made_at);
        if let Some(request) = &mut params.accounting {
            request.given_on = given_on;
            if !request.protocols.is_empty() {
                request.individuals = self.individuals(kept.ledger_size, &kept.parameters, given_on)?;
            }
        }
        let mut fold = kind.fold(&params).expect("the others were made elsewhere");
        if kind == ReportKind::BreakGlass {
            self.each_of(&[vec![Term::new(Dimension::BreakGlass, &[])]], kept.ledger_size, &mut |row| {
                fold.prepare(&self.view_for(kind, row, &decode(row)?)?);
                Ok(())
            })?;
        }
        self.each_read(kept, &mut |row, meta| {
            let items = if kind.shows_values() { self.items_left(row, meta)? } else { Vec::new() };
            if fold.add(&self.view_for(kind, row, meta)?, &items) {
                return Ok(());
            }
            Err(refused("/from", "too_large", "This report would grow too large; ask for a shorter period."))
        })?;
        Ok(fold.sections())
    }

    /// An entry as a fold sees it. Blinded ids are opened where patients are told apart or shown.
    fn view_for(&self, kind: ReportKind, row: &Row, meta: &Meta) -> Result<EntryView, VaultError> {
        if kind.is_plain(self.settings.blind_patients) {
            return Ok(EntryView::new(meta, place(row), String::new(), 0, &[]));
        }
        self.view(row)
    }

    /// How many people's records were disclosed under each research protocol, as far as the accounting covers it (b)(4).
    fn individuals(&self, bound: u64, params: &Params, on: NaiveDate) -> Result<BTreeMap<String, u64>, VaultError> {
        let request = Request { given_on: on, ..params.accounting.clone().unwrap_or_default() };
        let mut people: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        self.each_of(&ReportKind::Disclosures.terms(), bound, &mut |row| {
            let meta = decode(row)?;
            let items = self.items_left(row, &meta)?;
            let entry = self.view(row)?;
            let it = Disclosure::of(&entry, &items, params);
            let research = verdict(&it, &request) == Verdict::Told { paragraph: RESEARCH };
            if let (Outcome::Success, true, Some(protocol), Some(patient)) =
                (entry.outcome, research, it.protocol, entry.patient)
            {
                people.entry(protocol).or_default().insert(patient.id);
            }
            Ok(())
        })?;
        Ok(people.into_iter().map(|(protocol, people)| (protocol, people.len() as u64)).collect())
    }

    pub(super) fn items_left(&self, row: &Row, meta: &Meta) -> Result<Vec<Item>, VaultError> {
        match self.open_items(row, meta) {
            Ok(items) => Ok(items),
            // What is gone does not take the whole report with it.
            Err(VaultError::Shredded(_) | VaultError::Integrity(_)) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Calls `each` with every entry that the report is made of, oldest first, and counts them. Their leaves are worked out from what
    /// is counted, so that entries which were altered meanwhile do not pass for those of the ledger.
    pub(super) fn each_read(
        &self,
        kept: &mut KeptReport,
        each: &mut dyn FnMut(&Row, &Meta) -> Result<(), VaultError>,
    ) -> Result<(), VaultError> {
        let (kind, params, bound) = (kept.report, kept.parameters.clone(), kept.ledger_size);
        let filter = self.filter(kind, &params)?;
        let (mut covered, mut read, mut edge, mut altered) = (0, 0, Edge::new(), Vec::new());
        let mut take = |row: &Row| {
            let leaf = leaf_of(row);
            // Also of what does not belong here any more as it stands now.
            if leaf != row.leaf && altered.len() < MAX_ALTERED {
                altered.push(row.sequence);
            }
            let meta = decode(row)?;
            let received = Timestamp(row.received_at);
            if !kind.belongs(&meta, &filter, received) || self.is_withheld(&params, row, &meta)? {
                return Ok(());
            }
            read += 1;
            covered += u64::from(params.covers(meta.occurred_at.unwrap_or(received)));
            edge.append(leaf);
            each(row, &meta)
        };
        let terms = [filter.terms(), kind.terms()].concat();
        if kind.reads_reviews() && !terms.is_empty() {
            let reviews = [vec![Term::new(Dimension::Action, &[Action::REVIEW.name().as_bytes()])]];
            let mut all = self.all_of(&terms, bound)?;
            all.extend(self.all_of(&reviews, bound)?);
            all.sort_unstable();
            all.dedup();
            self.each_row(&all).try_for_each(|row| take(&row?))?;
        } else {
            self.each_of(&terms, bound, &mut take)?;
        }
        (kept.entries_covered, kept.entries_read) = (covered, read);
        kept.entries_root = edge.root().to_string();
        kept.altered = altered;
        Ok(())
    }

    /// Whether the person whom the report is for is not told of an entry yet.
    fn is_withheld(&self, params: &Params, row: &Row, meta: &Meta) -> Result<bool, VaultError> {
        let Some(withheld) = params.withheld.as_ref().filter(|_| meta.action == Action::DISCLOSE) else {
            return Ok(false);
        };
        Ok(withheld.covers(&self.view(row)?, &self.items_left(row, meta)?, params))
    }

    /// Calls `each` with every entry below `bound` that may have these terms, oldest first; with all if there are none.
    pub(super) fn each_of(
        &self,
        terms: &[Vec<Term>],
        bound: u64,
        each: &mut dyn FnMut(&Row) -> Result<(), VaultError>,
    ) -> Result<(), VaultError> {
        if terms.is_empty() {
            let mut failed = None;
            self.store.scan(0..bound, &mut |row| {
                failed = each(&row).err();
                failed.is_none()
            })?;
            return failed.map_or(Ok(()), Err);
        }
        let mut position = Some(0);
        while let Some(from) = position {
            let found = self.store.find(terms, from..bound, Order::OldestFirst, FETCH)?;
            self.each_row(&found.sequences).try_for_each(|row| each(&row?))?;
            position = found.next;
        }
        Ok(())
    }

    fn all_of(&self, terms: &[Vec<Term>], bound: u64) -> Result<Vec<u64>, VaultError> {
        Ok(self.store.find(terms, 0..bound, Order::OldestFirst, usize::MAX)?.sequences)
    }

    /// The filter of a report.
    fn filter(&self, kind: ReportKind, params: &Params) -> Result<Filter, VaultError> {
        filter_of(kind, params, |id| self.patient_forms(id)).map_err(VaultError::Invalid)
    }
}

/// The filter of a report, given the forms of a patient's id.
pub(super) fn filter_of(
    kind: ReportKind,
    params: &Params,
    forms: impl Fn(&str) -> Vec<Patient>,
) -> Result<Filter, Vec<Issue>> {
    let query = QueryIn {
        actor: params.actor.clone(),
        patient: params.patient.clone(),
        record_type: params.record_type.clone(),
        record_id: params.record_id.clone(),
        ..QueryIn::default()
    };
    let (from, to) = kind.reach(params);
    Ok(Filter { time: TimeAxis::Occurred, from, to, ..query.check(forms)?.filter })
}
