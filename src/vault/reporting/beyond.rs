//! What a report cannot tell of: entries that are not here, or that nobody finds by a patient's id any more.

use crate::domain::action::{Action, Kind};
use crate::domain::index::{Dimension, Term};
use crate::domain::meta::Meta;
use crate::domain::query::QueryIn;
use crate::domain::time::Timestamp;
use crate::store::{Order, Row};

use super::super::Vault;
use super::super::error::VaultError;
use super::super::search::decode;
use super::KeptReport;

/// Entries of a patient that are looked at in one go.
const FETCH: usize = 64;

impl Vault {
    /// Fills in what the report says of its own limits. It is kept with it, so that it comes out the same again.
    pub(super) fn note_limits(&self, kept: &mut KeptReport) -> Result<(), VaultError> {
        kept.beyond = self.not_restored(kept.ledger_size)?;
        if self.clock_is_behind() {
            let newest = self.receipt_time();
            kept.beyond.push(format!(
                "the clock of this machine is behind the newest entry: what comes in until it has caught up is dated {newest}, and so is in \
                 no period that ends before"
            ));
        }
        if let Some(patient) = kept.parameters.patient.clone() {
            kept.beyond.extend(self.not_found_by_patient(kept.ledger_size)?);
            kept.unknown_patient = !self.is_known(&patient, kept.ledger_size)?;
        }
        Ok(())
    }

    /// A ledger that goes on from a backup may lack entries of the one that it continues.
    fn not_restored(&self, bound: u64) -> Result<Vec<String>, VaultError> {
        let mut all = Vec::new();
        self.each_with(Action::VAULT_RESTORE, bound, &mut |row, meta| {
            let (origin, since) = (meta.fact("continues").unwrap_or_default(), Timestamp(row.received_at));
            let missing = match meta.fact("missing_entries") {
                Some("0") => "what that one received after the backup, if anything, is not here".to_owned(),
                Some(count) => format!("{count} entries of that one, or more, are not here"),
                None => "how many entries of that one are not here is not known".to_owned(),
            };
            all.push(format!("since {since} this ledger continues {origin} from a backup: {missing}"));
        })?;
        Ok(all)
    }

    /// Entries whose index key was destroyed name their patients in a form that cannot be worked out any more.
    fn not_found_by_patient(&self, bound: u64) -> Result<Option<String>, VaultError> {
        if !self.settings.blind_patients {
            return Ok(None);
        }
        let (mut newest, mut begun, mut gone) = (1, vec![(1, None)], Vec::new());
        self.each_with(Action::KEY_INDEX, bound, &mut |row, meta| {
            if let Some(version) = meta.fact("destroyed_index_version").and_then(|it| it.parse::<u32>().ok()) {
                gone.push(version);
            }
            let last = meta.fact("index_versions").and_then(|it| it.split(' ').next_back()?.parse::<u32>().ok());
            if let Some(last) = last.filter(|it| *it > newest) {
                newest = last;
                begun.push((last, Some(Timestamp(row.received_at))));
            }
        })?;
        let Some(last_gone) = gone.into_iter().max() else { return Ok(None) };
        let until = begun.iter().find(|(version, _)| *version > last_gone).and_then(|it| it.1);
        let when = until.map_or_else(String::new, |it| format!(" received before {it}"));
        Ok(Some(format!(
            "entries{when} may name this patient and are not found by the id any more: the index keys of their time were destroyed, up to \
             number {last_gone}"
        )))
    }

    /// Whether an application ever named this patient.
    fn is_known(&self, patient: &str, bound: u64) -> Result<bool, VaultError> {
        let forms = self.patient_forms(patient);
        let query = QueryIn { patient: Some(patient.to_owned()), ..QueryIn::default() };
        let terms = query.check(|_| forms.clone()).map_err(VaultError::Invalid)?.filter.terms();
        let mut position = Some(0);
        while let Some(from) = position {
            let found = self.store.find(&terms, from..bound, Order::OldestFirst, FETCH)?;
            for row in self.each_row(&found.sequences) {
                let meta = decode(&row?)?;
                // What was asked about the patient here tells nothing.
                if meta.action.kind() != Kind::Vault && meta.patients().any(|it| forms.contains(&it)) {
                    return Ok(true);
                }
            }
            position = found.next;
        }
        Ok(false)
    }

    fn each_with(&self, action: Action, bound: u64, each: &mut dyn FnMut(&Row, &Meta)) -> Result<(), VaultError> {
        let terms = [vec![Term::new(Dimension::Action, &[action.name().as_bytes()])]];
        self.each_of(&terms, bound, &mut |row| {
            let meta = decode(row)?;
            if meta.action == action {
                each(row, &meta);
            }
            Ok(())
        })
    }
}
