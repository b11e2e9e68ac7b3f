//! The manifest of a report's file: signed, so that the file can be checked by anybody who has the ledger's public key, and held
//! against a copy of the database for what it left out.

use std::path::Path;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::domain::entry::{EntryView, Place};
use crate::domain::meta::{Meta, Patient};
use crate::domain::query::Filter;
use crate::domain::reports::{Params, ReportKind};
use crate::domain::time::Timestamp;
use crate::ledger::checkpoint::{self, Checkpoint, CheckpointError};
use crate::ledger::leaf::{Sequenced, entry_leaf};
use crate::ledger::note::{Note, NoteError, VerifierKey};
use crate::ledger::tree::Edge;
use crate::store::sqlite::SqliteStore;

use super::super::Vault;
use super::super::error::VaultError;
use super::super::open::database;
use super::KeptReport;
use super::again::Again;
use super::build::filter_of;
use super::head::figures;

/// The first line: no name of a ledger, so that it can never be taken for a checkpoint.
const FIRST: &str = "phivault report manifest";

impl Vault {
    /// The signed manifest of a file that a report became.
    ///
    /// # Errors
    /// What signing says.
    pub fn report_manifest(&self, kept: &KeptReport, format: &str, file: &[u8]) -> Result<String, VaultError> {
        // A person's copy must not say who asked that the person is not told, nor how much there is beside it.
        let params = kept.parameters.without_suspensions();
        let parameters = serde_json::to_string(&params).expect("they are texts and times");
        let mut lines = vec![
            FIRST.to_owned(),
            format!("report {}", kept.id),
            format!("kind {}", kept.report.name()),
            format!("format {format}"),
            format!("bytes {}", file.len()),
            format!("sha256 {}", hex::encode(Sha256::digest(file))),
            format!("made {} by {}", kept.made_at, kept.made_by),
            format!("parameters {parameters}"),
            format!("ledger_size {}", kept.ledger_size),
            format!("figures {}", kept.figures),
            format!("verified {}", kept.verified),
            format!("checkpoint {}", hex::encode(&kept.checkpoint)),
        ];
        if !kept.is_for_person() {
            lines.push(format!("entries_read {}", kept.entries_read));
            lines.push(format!("entries_root {}", kept.entries_root));
        }
        let text = lines.join("\n") + "\n";
        self.ledger.sign_text(&text).map_err(|error| VaultError::Integrity(error.to_string()))
    }
}

/// What came of checking a report's file.
#[derive(Debug, Serialize)]
pub struct ReportChecked {
    /// What holds, in words.
    pub holds: Vec<String>,
    /// What does not.
    pub fails: Vec<String>,
    /// What could not be told.
    pub unknown: Vec<String>,
    /// What no such check can tell.
    pub beyond: Vec<String>,
}

/// Checks a file against its manifest, and with a copy of the database whether every entry that belongs into it was read.
///
/// # Errors
/// A sentence, when the manifest is none, or the database does not read.
pub fn check_report(
    file: &[u8],
    manifest: &str,
    keys: &[VerifierKey],
    data: Option<&Path>,
) -> Result<ReportChecked, String> {
    let mut checked = ReportChecked { holds: Vec::new(), fails: Vec::new(), unknown: Vec::new(), beyond: Vec::new() };
    let note = Note::parse(manifest).map_err(|error| format!("The manifest is no signed note: {error}."))?;
    if !note.text.starts_with(FIRST) {
        return Err("This is no manifest of a report.".into());
    }
    let mut say = |good: bool, holds: String, fails: String| {
        if good { checked.holds.push(holds) } else { checked.fails.push(fails) }
    };
    let signers = note.verify(keys);
    say(
        signers.is_ok(),
        signers.as_ref().map_or_else(|_| String::new(), |it| format!("the manifest is signed by {}", named(it))),
        signers
            .as_ref()
            .err()
            .map_or_else(String::new, |error| unsigned("the manifest", manifest, &error.clone().into())),
    );
    let field = |name: &str| note.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let digest = hex::encode(Sha256::digest(file));
    say(
        field("sha256") == Some(&digest) && field("bytes") == Some(&file.len().to_string()),
        format!("the file is the one that was made ({} bytes, SHA-256 {digest})", file.len()),
        "the file is not the one that the manifest is of: it was altered, or is another format of the report".into(),
    );
    let checkpoint = field("checkpoint").and_then(|it| hex::decode(it).ok()).and_then(|it| String::from_utf8(it).ok());
    let opened = checkpoint.as_deref().map(|it| opened(it, keys));
    let (holds, fails) = match &opened {
        Some(Ok(it)) => {
            (format!("it was made at the signed checkpoint of {} entries of {}", it.size, it.origin), String::new())
        }
        Some(Err(error)) => (
            String::new(),
            unsigned("the checkpoint that it was made at", checkpoint.as_deref().unwrap_or_default(), error),
        ),
        None => (String::new(), "it names no checkpoint".to_owned()),
    };
    let opened = opened.and_then(Result::ok);
    say(opened.is_some(), holds, fails);
    let Some(data) = data else {
        checked.unknown.push("whether entries were left out: give a copy of the database with --dir".into());
        return Ok(checked);
    };
    complete(&mut checked, &field, opened.as_ref(), data)?;
    Ok(checked)
}

fn named(keys: &[&VerifierKey]) -> String {
    keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// Why a signature does not count. That the key of that day was not given proves nothing against what it signed.
fn unsigned(what: &str, text: &str, error: &CheckpointError) -> String {
    let unknown = *error == CheckpointError::Note(NoteError::NoTrustedSignature);
    match Note::parse(text).ok().filter(|_| unknown) {
        None => format!("{what} is not genuine: {error}"),
        Some(note) => {
            let said = note.signatures.iter().map(|it| format!("{} with the key {:08x}", it.name, it.key_id));
            format!(
                "{what} is not signed by a key that was given; it says that it is by {}. If the ledger changed its signing key, or was \
                 restored, give the public key of that day as well (--vkey may be given several times)",
                said.collect::<Vec<_>>().join(" and ")
            )
        }
    }
}

/// The checkpoint, signed by one of the keys under its own origin.
fn opened(text: &str, keys: &[VerifierKey]) -> Result<Checkpoint, CheckpointError> {
    let origin = text.lines().next().unwrap_or_default();
    let own: Vec<_> = keys.iter().filter(|it| it.name() == origin).cloned().collect();
    checkpoint::open(text, origin, &own)
}

/// What a database holds of a report, and the tree over its first entries.
struct Held {
    tree: Edge,
    read: u64,
    edge: Edge,
    whole: bool,
    blind: bool,
}

/// Holds the report against the database: the tree is the one of the checkpoint, and the entries that belong into the report are
/// those that it was made of.
fn complete<'a>(
    checked: &mut ReportChecked,
    field: &dyn Fn(&str) -> Option<&'a str>,
    checkpoint: Option<&Checkpoint>,
    data: &Path,
) -> Result<(), String> {
    let damaged = || "The manifest lacks a line that it must have.".to_owned();
    let number = |name: &str| field(name).and_then(|it| it.parse::<u64>().ok()).ok_or_else(damaged);
    let kind = field("kind").and_then(ReportKind::parse).ok_or_else(damaged)?;
    let params: Params = field("parameters").and_then(|it| serde_json::from_str(it).ok()).ok_or_else(damaged)?;
    let bound = number("ledger_size")?;
    let filter = filter(kind, &params).ok_or_else(damaged)?;
    let held = read_held(data, checkpoint.map_or(bound, |it| it.size), bound, &|meta, received| {
        kind.belongs(meta, &filter, received)
    })?;
    let mut say = |good: bool, holds: &str, fails: &str| {
        if good { checked.holds.push(holds.into()) } else { checked.fails.push(fails.into()) }
    };
    if let Some(it) = checkpoint {
        say(
            held.whole && it.size == held.tree.size() && it.root == held.tree.root(),
            "the database is the one that the checkpoint was signed of",
            "the database is not the one that the checkpoint was signed of",
        );
    }
    if held.blind && params.patient.is_some() {
        let why =
            "whether entries were left out: patient ids are blind, so only the vault can tell whose entries are whose";
        checked.unknown.push(why.into());
        return Ok(());
    }
    if field("entries_read").is_none() {
        let why = "whether entries were left out: a copy for the person does not say how many it was made of";
        checked.unknown.push(why.into());
        return Ok(());
    }
    let read = held.read;
    say(
        number("entries_read")? == read && field("entries_root") == Some(&held.edge.root().to_string()),
        &format!("it was made of all {read} entries that belong into it, and of no other"),
        "it was not made of the entries that belong into it: some were left out, were altered when it was made, or do not belong there",
    );
    match figures_of(kind, &params, data, bound, held.blind)? {
        Some(figures) => say(
            field("figures") == Some(&figures),
            "its figures are those that the entries give, worked out again",
            "its figures are not those that the entries give",
        ),
        None => checked
            .beyond
            .push("its figures rest on what is sealed: only the vault, with its keys, can make them again".into()),
    }
    Ok(())
}

/// The digest of what a report says, worked out again from the entries; `None` if that takes keys.
fn figures_of(
    kind: ReportKind,
    params: &Params,
    data: &Path,
    bound: u64,
    blind: bool,
) -> Result<Option<String>, String> {
    if !kind.is_plain(blind) {
        return Ok(None);
    }
    let filter = filter(kind, params).ok_or("The manifest's parameters make no sense.")?;
    let mut again = Again::new(kind, params);
    if kind == ReportKind::BreakGlass {
        each_entry(data, bound, &mut |meta, place| {
            if meta.reason.break_glass {
                again.prepare(&EntryView::new(meta, place, String::new(), 0, &[]));
            }
        })?;
    }
    each_entry(data, bound, &mut |meta, place| {
        again.count(meta, place.received_at);
        if kind.belongs(meta, &filter, place.received_at) {
            again.add(meta, place);
        }
    })?;
    Ok(Some(figures(&again.sections())))
}

fn each_entry(data: &Path, bound: u64, each: &mut dyn FnMut(&Meta, Place)) -> Result<(), String> {
    let unread = |error| format!("The database does not read: {error}.");
    let store = SqliteStore::reader(&database(data)).map_err(unread)?;
    let scanned = store.scan(0..bound, &mut |sequence, row| {
        if let Some((meta, row)) = row.ok().and_then(|row| Some((Meta::decode(row.meta).ok()?, row))) {
            let (received_at, patient_previous, patient_number) =
                (Timestamp(row.received_at), row.patient_previous, row.patient_number);
            each(&meta, Place { sequence, received_at, patient_previous, patient_number });
        }
    });
    scanned.map_err(unread)
}

/// The filter of a report, where patient ids stand in clear.
fn filter(kind: ReportKind, params: &Params) -> Option<Filter> {
    filter_of(kind, params, |id| vec![Patient::Plain(id.to_owned())]).ok()
}

fn read_held(data: &Path, size: u64, bound: u64, belongs: &dyn Fn(&Meta, Timestamp) -> bool) -> Result<Held, String> {
    let unread = |error| format!("The database does not read: {error}.");
    let store = SqliteStore::reader(&database(data)).map_err(unread)?;
    let mut held = Held { tree: Edge::new(), read: 0, edge: Edge::new(), whole: true, blind: false };
    let scanned = store.scan(0..size, &mut |sequence, row| {
        let Ok(row) = row else { return held.whole = false };
        let (received_at, patient_previous, patient_number) =
            (row.received_at, row.patient_previous, row.patient_number);
        let leaf = entry_leaf(row.meta, row.commitment, Sequenced { received_at, patient_previous, patient_number });
        held.tree.append(leaf);
        match Meta::decode(row.meta) {
            Ok(meta) if sequence < bound => {
                held.blind |= meta.patients().any(|it| !it.is_plain());
                if belongs(&meta, Timestamp(received_at)) {
                    held.read += 1;
                    held.edge.append(leaf);
                }
            }
            Ok(_) => {}
            Err(_) => held.whole = false,
        }
    });
    scanned.map_err(unread)?;
    Ok(held)
}
