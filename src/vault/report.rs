//! Reports: recorded first, then folded from entries.

use chrono::FixedOffset;

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::issue::Issue;
use crate::domain::meta::Record;
use crate::domain::query::{Filter, QueryIn, TimeAxis};
use crate::domain::report::{AccessFold, AccessReport, MAX_FIGURES};
use crate::domain::submission::ReasonIn;
use crate::domain::time::Timestamp;
use crate::store::{Order, Row};

use super::Vault;
use super::error::VaultError;
use super::record::Note;
use super::search::{decode, place};
use crate::domain::entry::EntryView;

/// Entries fetched at a time.
const FETCH: usize = 4_096;

/// What an access report is asked for.
pub struct AccessAsked {
    /// The user; `None`: a summary of all users.
    pub actor: Option<String>,
    /// Not before, by the time things happened.
    pub from: Option<String>,
    /// Before.
    pub to: Option<String>,
    /// The offset from UTC in which days and hours are counted.
    pub offset: FixedOffset,
    /// Why.
    pub reason: ReasonIn,
}

impl Vault {
    /// The access report: what each user did in a period, with reasons (45 CFR 164.308(a)(1)(ii)(D)). Recorded first.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `Invalid`, or what recording says.
    pub fn access_report(&self, caller: &Caller, asked: AccessAsked) -> Result<AccessReport, VaultError> {
        self.allow(caller, Permission::Report, Action::REPORT)?;
        let reason = self.reason(caller, Action::REPORT, asked.reason)?;
        let _room = self.long_read()?;
        let query = QueryIn {
            actor: asked.actor,
            from: asked.from,
            to: asked.to,
            time: Some("occurred".into()),
            ..QueryIn::default()
        };
        let described = query.describe();
        let filter = query.check(|id| self.patient_forms(id)).map_err(VaultError::Invalid)?.filter;
        let mut note = Note::new(caller, Action::REPORT, reason);
        note.record = Some(Record::new("Report", "access"));
        for (name, text) in described {
            note.seal(&format!("filter/{name}"), text);
        }
        let receipt = self.record(note)?;
        let detailed = filter.actor.is_some();
        let mut fold = AccessFold::new(asked.offset, detailed);
        self.each_match(&filter, receipt.sequence, &mut |row| {
            if fold.add(&self.report_view(row, detailed)?) {
                return Ok(());
            }
            let detail = format!("This report would hold more than {MAX_FIGURES} figures; ask for a shorter period.");
            Err(VaultError::Invalid(vec![Issue::new("from", "too_large", detail)]))
        })?;
        let (entries_covered, actors) = fold.finish();
        Ok(AccessReport {
            generated_at: receipt.received_at,
            recorded_as: receipt.id,
            from: filter.from,
            to: filter.to,
            time_zone: asked.offset.to_string(),
            actor: filter.actor,
            entries_covered,
            ledger_size: receipt.sequence,
            checkpoint: self.ledger.checkpoint().note,
            actors,
        })
    }

    /// Ids are opened only where the report lists patients.
    fn report_view(&self, row: &Row, detailed: bool) -> Result<EntryView, VaultError> {
        if detailed {
            return self.view(row);
        }
        Ok(EntryView::new(&decode(row)?, place(row), String::new(), 0, &[]))
    }

    /// Calls `each` with every entry below `bound` that meets the filter, oldest first.
    fn each_match(
        &self,
        filter: &Filter,
        bound: u64,
        each: &mut dyn FnMut(&Row) -> Result<(), VaultError>,
    ) -> Result<(), VaultError> {
        debug_assert!(filter.time == TimeAxis::Occurred, "times of receipt would be narrowed first");
        let terms = filter.terms();
        let mut check = |row: &Row| {
            let matches = filter.matches(&decode(row)?, Timestamp(row.received_at));
            if matches { each(row) } else { Ok(()) }
        };
        if terms.is_empty() {
            let mut failed = None;
            self.store.scan(0..bound, &mut |row| {
                failed = check(&row).err();
                failed.is_none()
            })?;
            return failed.map_or(Ok(()), Err);
        }
        let mut position = 0;
        loop {
            let found = self.store.find(&terms, position..bound, Order::OldestFirst, FETCH)?;
            for row in self.each_row(&found.sequences) {
                check(&row?)?;
            }
            match found.next {
                Some(next) => position = next,
                None => return Ok(()),
            }
        }
    }
}
