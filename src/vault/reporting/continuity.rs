//! Where records were changed outside the trail, over all of them: first by digests, then the suspects one by one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use foldhash::fast::RandomState;

use crate::crypto::random;
use crate::domain::action::{Action, Outcome};
use crate::domain::document::{Cell, Section};
use crate::domain::history::{Change, Step, comparable};
use crate::domain::meta::Record;
use crate::domain::query::Filter;
use crate::domain::reports::{MAX_ROWS, Params};
use crate::domain::value::{Phi, Value};

use super::super::Vault;
use super::super::approval::refused;
use super::super::error::VaultError;
use super::super::steps::Seen;
use super::KeptReport;

/// Fields and records that are followed at a time; each takes about 60 bytes.
const MAX_FIELDS: usize = 4_000_000;

/// The check of continuity of many records at once, in the order of receipt. Values are held as digests under a key of this run.
struct Coarse {
    key: [u8; 32],
    records: HashMap<u128, Life, RandomState>,
    last: HashMap<u128, Option<u128>, RandomState>,
}

#[derive(Clone, Copy, Default)]
struct Life {
    /// How often it began.
    begun: u32,
    deleted: bool,
}

impl Coarse {
    fn new() -> Self {
        Self { key: random::array(), records: HashMap::default(), last: HashMap::default() }
    }

    fn hash(&self, parts: &[&[u8]]) -> u128 {
        let digest = crate::crypto::mac::digest(&self.key, parts);
        u128::from_be_bytes(digest[..16].try_into().expect("a digest has 32 bytes"))
    }

    fn value(&self, value: Option<&Phi>) -> Option<u128> {
        value.filter(|it| *it.expose() != Value::Null).map(|it| self.hash(&[&comparable(it)]))
    }

    /// Takes in the next change; whether it does not follow. The rules are those of [`crate::domain::history::Continuity`].
    fn is_odd(&mut self, record: &Record, step: &Step) -> bool {
        let whole = self.hash(&[record.kind.as_bytes(), record.id.as_bytes()]);
        let mut life = self.records.get(&whole).copied().unwrap_or_default();
        let place = |it: &Self, life: Life, change: &Change| {
            it.hash(&[&whole.to_be_bytes(), &life.begun.to_be_bytes(), change.field.as_bytes()])
        };
        let mut odd = false;
        for change in step.changes.iter().filter(|_| step.lost.is_none()) {
            let Some(last) = self.last.get(&place(self, life, change)) else { continue };
            odd |= match step.action {
                Action::CREATE => !life.deleted,
                Action::BASELINE => !life.deleted && self.value(change.new.as_ref()) != *last,
                _ if change.old.is_none() => false,
                action => self.value(change.old.as_ref()) != *last || (life.deleted && action != Action::RESTORE),
            };
        }
        life.begun += u32::from(step.begins());
        for change in step.changes.iter().filter(|_| step.action != Action::DELETE) {
            let place = place(self, life, change);
            if step.lost.is_some() {
                self.last.remove(&place);
            } else {
                let value = self.value(change.new.as_ref());
                self.last.insert(place, value);
            }
        }
        life.deleted = step.action == Action::DELETE;
        self.records.insert(whole, life);
        odd
    }
}

impl Vault {
    /// Every record of which a change does not follow the one before. What seems to be broken in the order of receipt is looked at
    /// once more in the order in which things happened.
    pub(super) fn continuity(&self, kept: &mut KeptReport) -> Result<Vec<Section>, VaultError> {
        let (mut coarse, mut seen) = (Coarse::new(), Seen::default());
        let (mut suspects, mut all): (BTreeSet<(String, String)>, bool) = (BTreeSet::new(), true);
        self.each_read(kept, &mut |row, meta| {
            let Some(record) = meta.record.as_ref().filter(|_| meta.outcome == Outcome::Success) else {
                return Ok(());
            };
            let step = self.step(row, &mut seen)?;
            seen = Seen::default();
            if coarse.is_odd(record, &step) {
                all &= suspects.len() < MAX_ROWS;
                if all {
                    suspects.insert((record.kind.clone(), record.id.clone()));
                }
            }
            if coarse.last.len() + coarse.records.len() > MAX_FIELDS {
                let detail = "There are too many records to check at once; name a record_type or a shorter period.";
                return Err(refused("/record_type", "too_large", detail));
            }
            Ok(())
        })?;
        let params = kept.parameters.clone();
        self.breaks_of(suspects, all, &params, kept.ledger_size)
    }

    fn breaks_of(
        &self,
        suspects: BTreeSet<(String, String)>,
        all: bool,
        params: &Params,
        bound: u64,
    ) -> Result<Vec<Section>, VaultError> {
        let (mut rows, mut by_field) = (Vec::new(), BTreeMap::new());
        for (kind, id) in suspects {
            let record_id = Some(vec![id.clone()]);
            let filter = Filter { record_type: Some(kind.clone()), record_id, ..Filter::default() };
            let places = self.places(&filter, bound)?;
            let (breaks, _) = self.breaks_among(&places)?;
            let inside = |sequence| places.iter().any(|it| it.sequence == sequence && params.covers(it.at));
            for it in breaks.into_iter().filter(|it| inside(it.sequence)) {
                *by_field.entry(format!("{kind} {}", it.field)).or_insert(0_u64) += 1;
                rows.push(vec![
                    Cell::text(&kind),
                    Cell::text(&id),
                    Cell::text(it.field),
                    Cell::text(it.entry.to_string()),
                    Cell::Count(it.sequence),
                    Cell::text(it.after.to_string()),
                    Cell::Count(it.after_sequence),
                ]);
            }
        }
        let all = all && rows.len() <= MAX_ROWS;
        rows.truncate(MAX_ROWS);
        let mut summary = match rows.len() {
            0 if all => "Every change follows the one before: nothing was changed outside the trail, as far as old values were given.".to_owned(),
            1 => "1 change does not follow the one before: somebody changed this field outside the trail, or an entry is missing.".to_owned(),
            n => format!("{n} changes do not follow the one before: somebody changed these fields outside the trail, or an entry is missing."),
        };
        if !all {
            summary.push_str(" THERE MAY BE MORE: more than 20,000 records or changes would have to be looked at. Name a record type or a shorter period.");
        }
        let fields = by_field.into_iter().map(|(field, count)| vec![Cell::text(field), Cell::Count(count)]).collect();
        let columns = ["type", "record", "field", "entry", "position", "after entry", "after position"];
        Ok(vec![
            Section::text("In short", vec![summary]),
            Section::table("By field", &["field", "breaks"], fields),
            Section::table("Each", &columns, rows),
        ])
    }
}
