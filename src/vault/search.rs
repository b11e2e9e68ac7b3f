//! Searching the trail: recorded first, then walked newest or oldest first, page by page.

use uuid::Uuid;

use crate::crypto::seal;
use crate::domain::action::{Action, Outcome};
use crate::domain::caller::{Caller, Permission};
use crate::domain::entry::{EntryView, Place};
use crate::domain::meta::{Meta, Record};
use crate::domain::query::{Filter, Query, QueryIn, TimeAxis};
use crate::domain::rules::Item;
use crate::domain::time::Timestamp;
use crate::store::{Order, Row};

use super::Vault;
use super::blinding::unblind;
use super::cursor::Walk;
use super::error::VaultError;
use super::record::{Note, searching};
use super::writer::find_id;

/// Candidates looked at for one page. A page may hold fewer entries than asked for when a filter is rare; `next` goes on.
const MAX_LOOKED_AT: usize = 200_000;
/// The most candidates fetched at a time; the first fetch is about as large as the page.
const FETCH: usize = 1_024;
/// Rows held in memory at a time.
pub(super) const ROWS: usize = 32;

/// One page.
pub struct Page {
    /// The entries.
    pub entries: Vec<EntryView>,
    /// Where to go on.
    pub next: Option<String>,
}

impl Vault {
    /// One page of a search. The first page of a query is recorded, with its filter sealed; the cursor carries that on.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `Invalid`, `BadCursor`, or what recording says.
    pub fn search(&self, caller: &Caller, asked: QueryIn) -> Result<Page, VaultError> {
        self.allow(caller, Permission::Search, Action::SEARCH)?;
        let described = asked.describe();
        let query = asked.check(|id| self.patient_forms(id)).map_err(VaultError::Invalid)?;
        let walk = match &query.cursor {
            Some(cursor) => self.read_cursor(caller, &query, cursor)?,
            None => self.begin(caller, &query, described)?,
        };
        self.walk(caller, &query, walk)
    }

    /// The metadata of one entry. Recorded.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `NotFound`, or what recording says.
    pub fn entry(&self, caller: &Caller, id: Uuid) -> Result<EntryView, VaultError> {
        self.view(&self.look_up(caller, id)?)
    }

    /// The row of an entry, for those who may see its metadata. Recorded, also when there is none.
    pub(super) fn look_up(&self, caller: &Caller, id: Uuid) -> Result<Row, VaultError> {
        self.allow(caller, Permission::Search, Action::SEARCH)?;
        let row = find_id(&*self.store, id, 0..self.store.size())?;
        let mut note = Note::new(caller, Action::SEARCH, searching());
        note.record = Some(entry_record(id));
        if row.is_none() {
            note.outcome = Outcome::Failure;
        }
        self.record(note)?;
        row.ok_or(VaultError::NotFound)
    }

    fn begin(&self, caller: &Caller, query: &Query, described: Vec<(&str, String)>) -> Result<Walk, VaultError> {
        let mut note = Note::new(caller, Action::SEARCH, searching());
        for (name, text) in described {
            note.seal(&format!("filter/{name}"), text);
        }
        let receipt = self.record(note)?;
        let position = if query.oldest_first { 0 } else { receipt.sequence };
        Ok(Walk { position, bound: receipt.sequence, recorded: receipt.id })
    }

    fn walk(&self, caller: &Caller, query: &Query, walk: Walk) -> Result<Page, VaultError> {
        let range = self.narrow(&query.filter, walk.bound)?;
        let terms = query.filter.terms();
        let mut entries = Vec::new();
        let mut position = walk.position;
        let mut looked_at = 0;
        let mut fetch = (query.limit + 1).clamp(ROWS, FETCH);
        loop {
            let (part, order) = if query.oldest_first {
                (position.max(range.start)..range.end, Order::OldestFirst)
            } else {
                (range.start..position.min(range.end), Order::NewestFirst)
            };
            let found = self.store.find(&terms, part, order, fetch)?;
            fetch = (fetch * 2).min(FETCH);
            for row in self.each_row(&found.sequences) {
                let row = row?;
                let meta = decode(&row)?;
                if query.filter.matches(&meta, Timestamp(row.received_at)) {
                    if entries.len() == query.limit {
                        // One more than fits: there is a next page, and it begins with this entry.
                        let position = if query.oldest_first { row.sequence } else { row.sequence + 1 };
                        return Ok(Page {
                            entries,
                            next: Some(self.write_cursor(caller, query, Walk { position, ..walk })),
                        });
                    }
                    entries.push(self.view(&row)?);
                }
                looked_at += 1;
            }
            let Some(next) = found.next else { return Ok(Page { entries, next: None }) };
            position = if query.oldest_first { next } else { next + 1 };
            if looked_at >= MAX_LOOKED_AT {
                return Ok(Page { entries, next: Some(self.write_cursor(caller, query, Walk { position, ..walk })) });
            }
        }
    }

    /// The positions that a filter on the time of receipt leaves; receipt times never fall along the ledger.
    fn narrow(&self, filter: &Filter, bound: u64) -> Result<std::ops::Range<u64>, VaultError> {
        if filter.time != TimeAxis::Received {
            return Ok(0..bound);
        }
        let begin = filter.from.map_or(Ok(0), |from| self.first_received_at(from, bound))?;
        let end = filter.to.map_or(Ok(bound), |to| self.first_received_at(to, bound))?;
        Ok(begin..end.max(begin))
    }

    fn first_received_at(&self, time: Timestamp, bound: u64) -> Result<u64, VaultError> {
        let (mut low, mut high) = (0, bound);
        while low < high {
            let middle = low + (high - low) / 2;
            let row = self.store.rows(&[middle])?.pop().expect("one row was asked for");
            if row.received_at < time.0 { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    fn write_cursor(&self, caller: &Caller, query: &Query, walk: Walk) -> String {
        let (token, filter) = (caller.token_id.as_bytes(), query.filter.canonical());
        walk.encode(self.keys.ring().cursor_key(), query.oldest_first, &[token, &filter])
    }

    fn read_cursor(&self, caller: &Caller, query: &Query, text: &str) -> Result<Walk, VaultError> {
        let (token, filter) = (caller.token_id.as_bytes(), query.filter.canonical());
        let walk = Walk::decode(text, self.keys.ring().cursor_key(), query.oldest_first, &[token, &filter]);
        walk.ok_or(VaultError::BadCursor)
    }

    /// Rows one after the other, a few in memory at a time: a single row may hold a mebibyte.
    pub(super) fn each_row(&self, sequences: &[u64]) -> impl Iterator<Item = Result<Row, VaultError>> {
        sequences.chunks(ROWS).flat_map(|chunk| match self.store.rows(chunk) {
            Ok(rows) => rows.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error.into())],
        })
    }

    /// The metadata of a row as a reader sees it. Blinded ids are opened for it; nothing else is. If they do not open they
    /// are shown as they rest, so that one damaged entry does not take a page or a report with it.
    pub(super) fn view(&self, row: &Row) -> Result<EntryView, VaultError> {
        let meta = decode(row)?;
        let (mut opened, mut sealed_ids) = (Vec::new(), None);
        if meta.patients().any(|it| !it.is_plain()) {
            match self.open_items(row, &meta) {
                Ok(items) => opened = items,
                Err(VaultError::Shredded(_)) => sealed_ids = Some("destroyed"),
                Err(VaultError::Integrity(what)) => {
                    tracing::error!(what, "blinded ids could not be opened; run phivault verify");
                    sealed_ids = Some("damaged");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(EntryView { sealed_ids, ..self.view_with(row, &meta, &opened) })
    }

    /// See [`Vault::view`]; for a row that is opened already.
    pub(super) fn view_with(&self, row: &Row, meta: &Meta, opened: &[Item]) -> EntryView {
        let version = seal::header(&row.sealed).map_or(0, |header| header.version);
        EntryView::new(meta, place(row), row.leaf.to_string(), version, opened)
    }

    /// Opens the values of a row and puts blinded ids back.
    pub(super) fn open_row(&self, row: &Row) -> Result<(Meta, Vec<Item>), VaultError> {
        let mut meta = decode(row)?;
        let mut items = self.open_items(row, &meta)?;
        unblind(&mut meta, &mut items);
        Ok((meta, items))
    }

    pub(super) fn open_items(&self, row: &Row, meta: &Meta) -> Result<Vec<Item>, VaultError> {
        self.opening(row, |keys| seal::open(keys, meta.id.as_bytes(), &row.meta, &row.sealed, &row.commitment))
    }

    pub(super) fn open_for_disclosure(
        &self,
        row: &Row,
        meta: &Meta,
    ) -> Result<(Vec<[u8; 32]>, Vec<seal::Shown>), VaultError> {
        self.opening(row, |keys| {
            seal::open_for_disclosure(keys, meta.id.as_bytes(), &row.meta, &row.sealed, &row.commitment)
        })
    }

    /// Opens a row with the keys that its header names.
    fn opening<T>(
        &self,
        row: &Row,
        open: impl FnOnce(&seal::SealKeys<'_>) -> Result<T, seal::OpenError>,
    ) -> Result<T, VaultError> {
        let wrong = |error: seal::OpenError| {
            self.counters.integrity_failures.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            VaultError::Integrity(format!("entry {}: {error}", row.sequence))
        };
        if let Some((_, certificate)) = seal::is_erased(&row.sealed) {
            return Err(VaultError::Shredded(Some(Uuid::from_bytes(certificate))));
        }
        let header = seal::header(&row.sealed).map_err(wrong)?;
        let ring = self.keys.ring();
        if !ring.knows(header) {
            return Err(wrong(seal::OpenError::Rejected));
        }
        let gone = || {
            let certificate = ring.bucket(header.bucket).and_then(|it| it.certificate);
            VaultError::Shredded(certificate.map(Uuid::from_bytes))
        };
        let keys = ring.opening(header).ok_or_else(gone)?;
        open(&keys).map_err(wrong)
    }
}

pub(super) fn decode(row: &Row) -> Result<Meta, VaultError> {
    Meta::decode(&row.meta).map_err(|error| {
        VaultError::Integrity(format!("the metadata of entry {} does not read: {error}", row.sequence))
    })
}

pub(super) fn place(row: &Row) -> Place {
    Place {
        sequence: row.sequence,
        received_at: Timestamp(row.received_at),
        patient_previous: row.patient_previous,
        patient_number: row.patient_number,
    }
}

pub(super) fn entry_record(id: Uuid) -> Record {
    Record::new("Entry", id.to_string())
}
