//! Backups: one file with the database as it was at one moment and the checkpoint that covers it; and the way back.
//!
//! A restored vault never continues the ledger it was copied from: whoever holds a later checkpoint of that one would find it
//! shorter. It begins a new ledger over the same entries, under a new name and signing key, and its first entry says what it
//! continues and how many entries are missing.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::crypto::kek::Unlock;
use crate::crypto::keyring::Keyring;
use crate::crypto::random;
use crate::domain::time::Timestamp;
use crate::keyfile::{self, KeyPaths, LockFile};
use crate::ledger::checkpoint::{Checkpoint, open as open_checkpoint};
use crate::ledger::note::{Note, NoteSigner, VerifierKey};
use crate::store::Store;
use crate::store::sqlite::SqliteStore;

use super::create::{refuse_parts, unmake};
use super::open::{Restored, database};
use super::verify::{Report, Verdict, VerifyAsked, verify};

const DATABASE: &str = "vault.db";
const CHECKPOINT: &str = "checkpoint";
const VKEY: &str = "signing.vkey";
const MANIFEST: &str = "manifest.json";
/// A server that works signs what came in within a second.
const SIGNED_WITHIN: Duration = Duration::from_secs(3);
/// The largest of the small files in a backup, in bytes.
const MAX_SMALL_BYTES: u64 = 1 << 20;

/// What a backup says of itself.
#[derive(Serialize, Deserialize, Debug)]
pub struct Manifest {
    /// The version of this format.
    pub format: u32,
    /// When it was made.
    pub created_at: String,
    /// The ledger.
    pub origin: String,
    /// Entries in it.
    pub entries: u64,
    /// Entries that its checkpoint covers.
    pub checkpoint_size: u64,
    /// SHA-256 of the database, hex.
    pub database_sha256: String,
}

/// What a backup says of itself, without a look at the rest of it.
///
/// # Errors
/// One sentence.
pub fn manifest_of(backup: &Path) -> Result<Manifest, String> {
    let wrong = || format!("{} is no whole backup.", backup.display());
    let file = File::open(backup).map_err(|error| format!("{} cannot be read: {error}.", backup.display()))?;
    let length = file.metadata().map_or(0, |it| it.len());
    let mut archive = tar::Archive::new(file);
    let (mut manifest, mut end) = (None, 0);
    for item in archive.entries_with_seek().map_err(|_| wrong())? {
        let mut item = item.map_err(|_| wrong())?;
        end = item.raw_file_position() + item.size();
        if manifest.is_none() && item.size() <= MAX_SMALL_BYTES {
            let mut text = String::new();
            item.read_to_string(&mut text).map_err(|_| wrong())?;
            manifest = Some(serde_json::from_str(&text).map_err(|_| wrong())?);
        }
    }
    manifest.filter(|_| end <= length).ok_or_else(wrong)
}

/// Whether the database in a backup is the one that its manifest states, byte for byte.
///
/// # Errors
/// One sentence.
pub fn check_backup(backup: &Path) -> Result<Manifest, String> {
    let manifest = manifest_of(backup)?;
    let damaged = || format!("The database in {} is not what its manifest states.", backup.display());
    let file = File::open(backup).map_err(|error| format!("{} cannot be read: {error}.", backup.display()))?;
    let mut archive = tar::Archive::new(file);
    let mut items = archive.entries_with_seek().map_err(|_| damaged())?.filter_map(Result::ok);
    let database = items.find(|it| it.path().is_ok_and(|it| it == Path::new(DATABASE))).ok_or_else(damaged)?;
    let digest = digest_of(database).map_err(|_| damaged())?;
    if digest == manifest.database_sha256 { Ok(manifest) } else { Err(damaged()) }
}

/// The lock, once it covers what is in the database by now: a server signs within a second. What none covers a restore cannot prove.
fn lock_over(data: &Path, keys: &KeyPaths) -> Result<String, String> {
    let there = SqliteStore::reader(&database(data)).and_then(|it| it.size()).unwrap_or(0);
    let began = Instant::now();
    loop {
        let note = LockFile::open(&keys.lock).map_err(|error| error.to_string())?.note();
        let size = Note::parse(&note).ok().and_then(|it| Some(Checkpoint::parse(&it.text).ok()?.size));
        if size.is_none_or(|it| it >= there) || began.elapsed() > SIGNED_WITHIN {
            return Ok(note);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Makes a backup, also while a server runs, and verifies it without keys. The keyring is not in it: keys and data are never in
/// one place.
///
/// # Errors
/// One sentence with the remedy; then there is no backup.
pub fn back_up(
    data: &Path,
    keys: &KeyPaths,
    out: &Path,
    now: Timestamp,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Manifest, String> {
    refuse_old(out)?;
    refuse_beside(out, data)?;
    // The checkpoint comes first: what it covers is in the database that is copied after.
    let note = lock_over(data, keys)?;
    let key = keyfile::read_verifier_key(&keys.verifier_key()).map_err(|error| error.to_string())?;
    let work = Work::beside(out)?;
    SqliteStore::backup(&database(data), &database(&work.0)).map_err(|error| {
        format!("No copy could be made in {}: {error} Is the disk full, or failing?", work.0.display())
    })?;
    work.write(CHECKPOINT, &note)?;
    work.write(VKEY, &format!("{key}\n"))?;
    let report = work.verify(None, progress)?;
    if report.verdict != Verdict::Intact {
        let first = report.findings.first().map_or_else(String::new, ToString::to_string);
        return Err(format!("The database is altered, so no backup was made of it: {first}. Run `phivault verify`."));
    }
    let manifest = Manifest {
        format: 1,
        created_at: now.to_string(),
        origin: report.origin,
        entries: report.entries,
        checkpoint_size: report.checkpoint_size,
        database_sha256: digest(&work.path(DATABASE))?,
    };
    let text = serde_json::to_string_pretty(&manifest).map_err(|error| error.to_string())?;
    work.write(MANIFEST, &text)?;
    pack(&work, out)?;
    Ok(manifest)
}

/// What a vault is restored from and to.
pub struct RestoreAsked<'a> {
    /// The backup.
    pub backup: &'a Path,
    /// The folder of the new database, which must not hold one.
    pub data: &'a Path,
    /// Where the new key files go; none may exist.
    pub keys: &'a KeyPaths,
    /// The newest keyring of the old vault.
    pub keyring: &'a Path,
    /// What unlocks it.
    pub unlock: &'a Unlock,
    /// The newest checkpoint known of the old ledger: its lock, or what a witness or auditor kept.
    pub last_known: Option<String>,
    /// A newer public key of the old ledger, if its signing key changed after the backup.
    pub newer_key: Option<VerifierKey>,
    /// The name of the new ledger, a schemeless URL; a random id is added.
    pub name: &'a str,
    /// Called now and then while the backup is verified.
    pub progress: &'a mut dyn FnMut(u64, u64),
}

/// Unpacks and verifies a backup, and lays out a vault that begins a new ledger. Opening it with what is given back records
/// that in its first entry.
///
/// # Errors
/// One sentence with the remedy. Then nothing is left of what was made; the backup is never touched.
pub fn restore(asked: RestoreAsked<'_>) -> Result<Restored, String> {
    let (data, keys) = (asked.data, asked.keys);
    refuse_parts(data, keys)?;
    lay_out(asked).inspect_err(|_| unmake(data, keys))
}

fn lay_out(asked: RestoreAsked<'_>) -> Result<Restored, String> {
    let RestoreAsked { backup, data, keys, keyring, unlock, last_known, newer_key, name, progress } = asked;
    let database = database(data);
    let text = keyfile::read_private(keyring, "keyring").map_err(|error| error.to_string())?;
    Keyring::decode(&text, unlock)
        .map_err(|error| format!("The keyring {} does not open: {error}.", keyring.display()))?;
    keyfile::create_folder(data).map_err(|error| error.to_string())?;
    let work = Work::beside(&database)?;
    unpack(backup, &work)?;
    let manifest: Manifest = serde_json::from_str(&work.read(MANIFEST)?)
        .map_err(|_| format!("The manifest in {} does not read.", backup.display()))?;
    if manifest.format != 1 {
        return Err(format!("The backup is of format {}, made by a newer phivault. Use that one.", manifest.format));
    }
    if digest(&work.path(DATABASE))? != manifest.database_sha256 {
        return Err("The database in the backup is damaged: it has not the digest that its manifest states.".into());
    }
    let key: VerifierKey =
        work.read(VKEY)?.trim_end_matches('\n').parse().map_err(|_| "The public key in the backup is damaged.")?;
    let own = open_checkpoint(&work.read(CHECKPOINT)?, key.name(), std::slice::from_ref(&key));
    let own = own.map_err(|error| format!("The checkpoint in the backup is not of its ledger: {error}."))?;
    let own_size = own.size;
    if newer_key.as_ref().is_some_and(|it| it.name() != key.name()) {
        return Err(format!("The public key given (--vkey) is not one of the ledger {}.", key.name()));
    }
    let known = match &last_known {
        None => own,
        Some(note) => {
            let keys: Vec<_> = newer_key.iter().chain([&key]).cloned().collect();
            open_checkpoint(note, key.name(), &keys).map_err(|error| {
                format!(
                    "The checkpoint given is not one of the ledger {} under the backup's key: {error}. If the signing key changed after the backup, give the newer public key too (--vkey).",
                    key.name()
                )
            })?
        }
    };
    // One that the backup reaches must agree with it.
    let since = last_known.filter(|_| known.size <= manifest.entries);
    let report = work.verify(since, progress)?;
    if report.verdict != Verdict::Intact {
        let first = report.findings.first().map_or_else(String::new, ToString::to_string);
        return Err(format!("The backup is not intact: {first}. Take another one."));
    }
    if report.entries != manifest.entries {
        let (holds, states) = (report.entries, manifest.entries);
        return Err(format!("The backup holds {holds} entries, but its manifest states {states}. Take another one."));
    }
    std::fs::rename(work.path(DATABASE), &database).map_err(|error| format!("{}: {error}", database.display()))?;
    begin(keys, &text, &database, name)?;
    for key in newer_key.iter().chain([&key]) {
        keyfile::keep_verifier_key(keys, key).map_err(|error| error.to_string())?;
    }
    let signed = if known.size <= report.entries { own_size.max(known.size) } else { own_size };
    let last_known = (known.size, known.root.to_string());
    Ok(Restored { origin: key.name().to_owned(), last_known, entries: report.entries, signed })
}

/// Writes keyring, a new signing key, and a lock that begins the new ledger at what was restored.
fn begin(keys: &KeyPaths, keyring: &str, database: &Path, name: &str) -> Result<(), String> {
    let told = |error: keyfile::FileError| error.to_string();
    let origin = format!("{name}/{}", hex::encode(random::array::<8>()));
    let signer = NoteSigner::from_seed(&origin, &random::array())
        .map_err(|error| format!("The ledger name {name:?} cannot be used: {error}."))?;
    let store = SqliteStore::open(database).map_err(|error| error.to_string())?;
    let edge = super::trust::rebuild_edge(&store).map_err(|error| error.to_string())?;
    let head = Checkpoint { origin, size: store.size(), root: edge.root(), extensions: Vec::new() };
    let note = head.sign(&signer).map_err(|error| error.to_string())?;
    for folder in [&keys.keyring, &keys.signing_key, &keys.lock].into_iter().filter_map(|it| it.parent()) {
        keyfile::create_folder(folder).map_err(told)?;
    }
    keyfile::create_private(&keys.keyring, keyring.as_bytes()).map_err(told)?;
    keyfile::create_private(&keys.signing_key, format!("{}\n", signer.to_private_text()).as_bytes()).map_err(told)?;
    keyfile::create_private(&keys.verifier_key(), format!("{}\n", signer.verifier_key()).as_bytes()).map_err(told)?;
    LockFile::create(&keys.lock, &note).map_err(told)
}

/// Where a file is made that gets its name when it is whole.
pub fn partial(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    path.with_file_name(name)
}

/// A folder to work in; gone with everything in it when dropped.
struct Work(PathBuf);

impl Work {
    fn beside(path: &Path) -> Result<Self, String> {
        let folder = partial(path);
        if folder.symlink_metadata().is_ok() {
            return Err(format!("{} is left from an earlier attempt; remove it first.", folder.display()));
        }
        // From here on it is removed, whatever happens.
        let work = Self(folder);
        keyfile::create_folder(&work.0).map_err(|error| error.to_string())?;
        Ok(work)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), String> {
        keyfile::create_private(&self.path(name), text.as_bytes()).map_err(|error| error.to_string())
    }

    fn read(&self, name: &str) -> Result<String, String> {
        std::fs::read_to_string(self.path(name)).map_err(|_| format!("The backup holds no {name}."))
    }

    fn verify(&self, since: Option<String>, progress: &mut dyn FnMut(u64, u64)) -> Result<Report, String> {
        let (verifier_key, lock) = (self.path(VKEY), self.path(CHECKPOINT));
        verify(VerifyAsked { data: self.0.clone(), verifier_key, lock, since, policy: None, keyring: None, progress })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn refuse_old(out: &Path) -> Result<(), String> {
    match out.symlink_metadata() {
        Ok(_) => Err(format!("{} exists already; a backup is never overwritten.", out.display())),
        Err(_) => Ok(()),
    }
}

/// A file among those of the database could be taken for one of them.
fn refuse_beside(out: &Path, data: &Path) -> Result<(), String> {
    let folder = out.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (folder.canonicalize(), data.canonicalize()) {
        (Ok(folder), Ok(data)) if folder == data => Err(format!(
            "{} would lie among the files of the database. Choose another folder, on another disk.",
            out.display()
        )),
        _ => Ok(()),
    }
}

/// Packs beside it and gives it its name at the end: what bears the name is whole.
fn pack(work: &Work, out: &Path) -> Result<(), String> {
    let failed = |error| format!("{} cannot be written: {error}", out.display());
    let packed = work.path("backup");
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&packed).map_err(failed)?;
    let write = || {
        let mut tar = tar::Builder::new(&file);
        tar.mode(tar::HeaderMode::Deterministic);
        for name in [MANIFEST, CHECKPOINT, VKEY, DATABASE] {
            tar.append_path_with_name(work.path(name), name)?;
        }
        tar.into_inner()?;
        file.sync_all()
    };
    write().map_err(failed)?;
    refuse_old(out)?;
    // Its name must outlive a power cut, too.
    keyfile::rename(&packed, out).map_err(|error| error.to_string()).inspect_err(|_| drop(std::fs::remove_file(out)))
}

/// Takes out the four files and nothing else, each into the work folder whatever its name in the archive looks like.
fn unpack(backup: &Path, work: &Work) -> Result<(), String> {
    let shown = backup.display();
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => format!("{shown} is no whole backup: it ends early."),
        // What its first bytes are taken for could be anything.
        std::io::ErrorKind::Other | std::io::ErrorKind::InvalidData => {
            format!("{shown} is no whole backup of phivault.")
        }
        _ => format!("{shown} cannot be read: {error}."),
    };
    let file = File::open(backup).map_err(|error| format!("The backup {shown} cannot be read: {error}."))?;
    let mut archive = tar::Archive::new(file);
    for item in archive.entries().map_err(unreadable)? {
        let mut item = item.map_err(unreadable)?;
        let path = item.path().map_err(unreadable)?.into_owned();
        let known = [MANIFEST, CHECKPOINT, VKEY, DATABASE].into_iter().find(|it| path == Path::new(it));
        let name = known.ok_or(format!("{shown} is no whole backup: it holds something that is no part of one."))?;
        if name != DATABASE && item.size() > MAX_SMALL_BYTES {
            return Err(format!("{shown} is no whole backup: a part of it is too large."));
        }
        take_out(&mut item, &work.path(name), &unreadable)?;
    }
    Ok(())
}

/// One file of it. What the target's disk says is not the backup's fault.
fn take_out(
    item: &mut tar::Entry<'_, File>,
    to: &Path,
    unreadable: &dyn Fn(std::io::Error) -> String,
) -> Result<(), String> {
    let failed = |error| format!("{} cannot be written: {error}. The backup was only read.", to.display());
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(failed)?;
    let (mut left, mut part) = (item.size(), vec![0; 1 << 16]);
    while left > 0 {
        let count = item.read(&mut part).map_err(unreadable)?;
        if count == 0 {
            return Err(unreadable(std::io::ErrorKind::UnexpectedEof.into()));
        }
        file.write_all(&part[..count]).map_err(failed)?;
        left -= count as u64;
    }
    file.sync_all().map_err(failed)
}

fn digest(path: &Path) -> Result<String, String> {
    let told = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    File::open(path).and_then(digest_of).map_err(told)
}

fn digest_of(mut from: impl Read) -> std::io::Result<String> {
    let (mut hash, mut part) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let count = from.read(&mut part)?;
        if count == 0 {
            return Ok(hex::encode(hash.finalize()));
        }
        hash.update(&part[..count]);
    }
}
