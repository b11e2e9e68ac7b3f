//! The files that are not the database: keyring, signing key, lock. The only code that touches `keys/`.
//!
//! Writing is always: temporary file, sync, rename, sync of the folder. Reading refuses a key file that others may read.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use zeroize::Zeroizing;

use crate::crypto::kek::Unlock;
use crate::crypto::keyring::MAX_FILE_BYTES;
use crate::crypto::secret::Secret;
use crate::ledger::note::{NoteSigner, VerifierKey};

/// Why a file could not be used. The sentence names the file and says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FileError(String);

impl FileError {
    fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// Where the key material of a vault is.
#[derive(Clone, Debug)]
pub struct KeyPaths {
    /// The keyring, sealed under the KEK.
    pub keyring: PathBuf,
    /// The key that signs checkpoints.
    pub signing_key: PathBuf,
    /// The lock: the newest checkpoint, kept outside the database.
    pub lock: PathBuf,
}

impl KeyPaths {
    /// The file names in a folder of keys.
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            keyring: folder.join("keyring"),
            signing_key: folder.join("signing.key"),
            lock: folder.join("checkpoint.lock"),
        }
    }

    /// The public half of the signing key, beside it, for verifiers.
    pub fn verifier_key(&self) -> PathBuf {
        self.signing_key.with_extension("vkey")
    }

    /// The public keys of before, a line each: what was signed in their time is checked with them.
    pub fn old_verifier_keys(&self) -> PathBuf {
        self.signing_key.with_extension("vkey.old")
    }

    /// Where the next signing key stands between its writing and the entry that announces it.
    pub fn next_signing_key(&self) -> PathBuf {
        self.signing_key.with_extension("next")
    }

    /// Where the next keyring stands between its writing and the entry that records it.
    pub fn next_keyring(&self) -> PathBuf {
        self.keyring.with_extension("next")
    }

    /// Every file that may stand beside these or in their place.
    pub fn all(&self) -> Vec<PathBuf> {
        let mut all = vec![self.verifier_key(), self.next_keyring(), self.next_signing_key()];
        let old = self.old_verifier_keys();
        let replaced = [&self.keyring, &self.signing_key, &self.lock, &old];
        all.extend(replaced.into_iter().flat_map(|it| [it.clone(), it.with_extension("tmp")]));
        all
    }

    /// Refuses names that differ only in their end: two files would be written by way of one name.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn check_apart(&self) -> Result<(), FileError> {
        let mut all = self.all();
        all.sort();
        match all.windows(2).find(|it| it[0] == it[1]) {
            None => Ok(()),
            Some(twice) => Err(FileError::new(format!(
                "keys.keyring, keys.signing_key and keys.lock must differ before their last dot: two of them would be written by way of {}. Rename one file and its setting.",
                twice[0].display()
            ))),
        }
    }
}

/// Reads a file that only its owner may read.
///
/// # Errors
/// [`FileError`] when it is not there, too large, or open to others.
pub fn read_private(path: &Path, what: &str) -> Result<Zeroizing<String>, FileError> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                "It is another user's: run this as the vault's user, or give that one the file (chown)."
            }
            _ => "Put it back from its backup, or mend the setting that names it.",
        };
        FileError::new(format!("The {what} {shown} cannot be read: {error}. {remedy}"))
    };
    let file = File::open(path).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    if meta.permissions().mode() & 0o077 != 0 && !is_credential(path, &meta) {
        return Err(FileError::new(format!("The {what} {shown} is open to other users. Run: chmod 600 {shown}")));
    }
    let mut text =
        Zeroizing::new(String::with_capacity(usize::try_from(meta.len()).unwrap_or(0).min(MAX_FILE_BYTES) + 1));
    match file.take(MAX_FILE_BYTES as u64 + 1).read_to_string(&mut text) {
        Ok(_) if text.len() <= MAX_FILE_BYTES => Ok(text),
        Ok(_) => Err(FileError::new(format!("The {what} {shown} is larger than such a file can be."))),
        Err(_) => {
            Err(FileError::new(format!("The {what} {shown} is damaged: it is not text. Restore it from a backup.")))
        }
    }
}

/// systemd hands credentials to a service as files of root that the service's group may read (systemd.exec, "Credentials").
fn is_credential(path: &Path, meta: &std::fs::Metadata) -> bool {
    path.starts_with("/run/credentials") && meta.uid() == 0 && meta.permissions().mode() & 0o037 == 0
}

/// Makes a file that must not exist yet, readable by its owner only, durable when it returns.
///
/// # Errors
/// [`FileError`] when it exists or cannot be written.
pub fn create_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let shown = path.display();
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                FileError::new(format!("{shown} exists already and is never overwritten."))
            }
            _ => FileError::new(format!("{shown} cannot be made: {error}.")),
        })?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(|error| FileError::new(format!("{shown} cannot be written: {error}.")));
    // Half a file would be in the way of the next attempt.
    written.and_then(|()| sync_folder(path)).inspect_err(|_| drop(std::fs::remove_file(path)))
}

/// Replaces a file so that at any moment either the old or the new one is there, whole.
///
/// # Errors
/// [`FileError`].
pub fn replace_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let temporary = path.with_extension("tmp");
    remove(&temporary)?;
    create_private(&temporary, bytes)?;
    rename(&temporary, path)
}

/// Renames a file and makes that durable.
///
/// # Errors
/// [`FileError`].
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    std::fs::rename(from, to)
        .map_err(|error| FileError::new(format!("{} cannot be put in place: {error}.", to.display())))?;
    sync_folder(to)
}

/// Removes a file if it is there.
///
/// # Errors
/// [`FileError`].
pub fn remove(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_folder(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(FileError::new(format!("{} cannot be removed: {error}.", path.display()))),
    }
}

/// Makes a folder that only its owner may enter; one that is there already is left as it is.
///
/// # Errors
/// [`FileError`].
pub fn create_folder(path: &Path) -> Result<(), FileError> {
    if path.is_dir() {
        return Ok(());
    }
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| FileError::new(format!("The folder {} cannot be made: {error}.", path.display())))?;
    sync_folder(path)
}

/// The key file that unlocks a keyring: 64 hex digits, or exactly 32 bytes.
///
/// # Errors
/// [`FileError`].
pub fn read_key_file(path: &Path) -> Result<Unlock, FileError> {
    let text = read_private(path, "key file")?;
    key_of_text(&text).ok_or_else(|| {
        let make = "openssl rand -hex 32";
        FileError::new(format!("The key file {} does not hold 64 hex digits. Make one with: {make}", path.display()))
    })
}

/// A pepper: 64 hex digits in a private file.
///
/// # Errors
/// [`FileError`].
pub fn read_pepper(path: &Path) -> Result<Secret, FileError> {
    let text = read_private(path, "pepper file")?;
    let bytes = hex::decode(text.trim()).map(Zeroizing::new).ok();
    bytes.and_then(|it| Secret::from_slice(&it)).ok_or_else(|| {
        FileError::new(format!(
            "The pepper file {} does not hold 64 hex digits (openssl rand -hex 32).",
            path.display()
        ))
    })
}

/// A key written as 64 hex digits.
pub fn key_of_text(text: &str) -> Option<Unlock> {
    let bytes = hex::decode(text.trim()).map(Zeroizing::new).ok()?;
    Unlock::of_key(&bytes)
}

/// Makes a key file with fresh random digits.
///
/// # Errors
/// [`FileError`] when it exists.
pub fn create_key_file(path: &Path) -> Result<(), FileError> {
    let digits = Zeroizing::new(hex::encode(Secret::random().expose()));
    create_private(path, digits.as_bytes())
}

/// The signing key.
///
/// # Errors
/// [`FileError`] when it is not there or not a key.
pub fn read_signing_key(path: &Path) -> Result<NoteSigner, FileError> {
    let text = read_private(path, "signing key")?;
    NoteSigner::from_private_text(text.trim_end_matches('\n')).map_err(|_| {
        FileError::new(format!("The signing key {} is damaged. Restore it from a backup.", path.display()))
    })
}

/// Puts the next signing key and its public half in place of the current ones; the public half of before is kept.
///
/// # Errors
/// [`FileError`].
pub fn place_signing_key(paths: &KeyPaths, key: &VerifierKey) -> Result<(), FileError> {
    // A start after a crash may find the new one in its place already.
    if let Ok(before) = read_verifier_key(&paths.verifier_key())
        && before != *key
    {
        keep_verifier_key(paths, &before)?;
    }
    replace_private(&paths.verifier_key(), format!("{key}\n").as_bytes())?;
    rename(&paths.next_signing_key(), &paths.signing_key)
}

/// Writes the public key where it is missing, as after the keys were moved without it.
///
/// # Errors
/// [`FileError`].
pub fn put_back_verifier_key(paths: &KeyPaths, key: &VerifierKey) -> Result<(), FileError> {
    let path = paths.verifier_key();
    if path.exists() { Ok(()) } else { replace_private(&path, format!("{key}\n").as_bytes()) }
}

/// Adds a public key to those of before.
///
/// # Errors
/// [`FileError`].
pub fn keep_verifier_key(paths: &KeyPaths, key: &VerifierKey) -> Result<(), FileError> {
    let path = paths.old_verifier_keys();
    let kept = match std::fs::read_to_string(&path) {
        Ok(kept) => kept,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(FileError::new(format!("{} cannot be read: {error}", path.display()))),
    };
    let line = key.to_string();
    if kept.lines().any(|it| it == line) {
        return Ok(());
    }
    replace_private(&path, format!("{kept}{line}\n").as_bytes())
}

/// The public key, for verifying.
///
/// # Errors
/// [`FileError`] when it is not there or not a key.
pub fn read_verifier_key(path: &Path) -> Result<VerifierKey, FileError> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| FileError::new(format!("The public key {shown} cannot be read: {error}. If the keys lie elsewhere, name the settings with --config.")))?;
    VerifierKey::parse(text.trim_end_matches('\n'))
        .map_err(|_| FileError::new(format!("The public key {shown} is damaged.")))
}

/// Refuses root at work on another user's vault: what it writes would be root's, and the vault could not go on.
///
/// # Errors
/// [`FileError`].
pub fn refuse_foreign_root(data: &Path) -> Result<(), FileError> {
    let (owner, group) = std::fs::metadata(data).map_or((0, 0), |it| (it.uid(), it.gid()));
    if owner == 0 || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(FileError::new(format!(
        "This runs as root, and the vault is that of user {owner}: what root writes that user could not read any more. Nothing was \
         changed. Run it as that user: setpriv --reuid={owner} --regid={group} --clear-groups phivault …"
    )))
}

/// Whether two paths lie on one device, where a thief of one has the other.
pub fn same_device(one: &Path, other: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).map(|it| it.dev()).ok();
    device(one).is_some() && device(one) == device(other)
}

/// The lock: the newest signed checkpoint, outside the database. Whoever rolls the database back does not have it back.
pub struct LockFile {
    path: PathBuf,
    known: Mutex<Known>,
}

/// What this process knows to stand in the lock.
struct Known {
    note: String,
    /// What it tried to put there last. If the folder could not be synced, this may stand there already.
    tried: Option<String>,
}

impl LockFile {
    /// Makes a new lock. Only `init` does this: a lock that is missing is never made up.
    ///
    /// # Errors
    /// [`FileError`] when there is one.
    pub fn create(path: &Path, note: &str) -> Result<(), FileError> {
        create_private(path, note.as_bytes())
    }

    /// Reads the lock.
    ///
    /// # Errors
    /// [`FileError`] when it is not there.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        if matches!(path.try_exists(), Ok(false)) {
            return Err(FileError::new(format!(
                "The lock {} is missing. It holds the newest checkpoint and shows whether the database was rolled back. \
                 It is never made up: put there, with mode 600, the newest signed checkpoint of this ledger that you have: a copy \
                 of the lock, or what a witness, an anchor or an auditor kept. An older one will do, and shows less.",
                path.display()
            )));
        }
        let note = read_private(path, "lock")?;
        Ok(Self { path: path.to_owned(), known: Mutex::new(Known { note: note.as_str().to_owned(), tried: None }) })
    }

    /// The note in it, as this process knows it.
    pub fn note(&self) -> String {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner).note.clone()
    }

    /// Puts a new note in place of the known one (compare and swap).
    ///
    /// # Errors
    /// [`FileError`] when something else stands in the file: another process signs for this ledger.
    pub fn swap(&self, note: &str) -> Result<(), FileError> {
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let found = read_private(&self.path, "lock")?;
        if *found != known.note && known.tried.as_deref() != Some(found.as_str()) {
            return Err(FileError::new(format!(
                "The lock {} was changed by something else. Two vaults may be running on one ledger; stop both and run `phivault verify`.",
                self.path.display()
            )));
        }
        known.tried = Some(note.to_owned());
        replace_private(&self.path, note.as_bytes())?;
        *known = Known { note: note.to_owned(), tried: None };
        Ok(())
    }
}

/// Keeps a second process off the same data. Held while it lives.
pub struct ProcessLock {
    file: File,
}

impl Drop for ProcessLock {
    fn drop(&mut self) {
        // Closing would not do: a child that is being started holds a copy until it runs its program.
        let _ = rustix::fs::flock(&self.file, rustix::fs::FlockOperation::Unlock);
    }
}

impl ProcessLock {
    /// Takes the lock of a data folder.
    ///
    /// # Errors
    /// [`FileError`] when another process has it.
    pub fn take(folder: &Path) -> Result<Self, FileError> {
        let path = folder.join("vault.pid");
        let shown = path.display();
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = open.map_err(|error| FileError::new(format!("{shown} cannot be opened: {error}.")))?;
        if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            return Err(FileError::new(format!(
                "Another phivault (process {}) is using {}. Stop it first.",
                holder.trim(),
                folder.display()
            )));
        }
        let write = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        write.map_err(|error| FileError::new(format!("{shown} cannot be written: {error}.")))?;
        Ok(Self { file })
    }
}

/// Makes the name of a file durable.
///
/// # Errors
/// [`FileError`].
pub fn sync_folder(path: &Path) -> Result<(), FileError> {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(folder)
        .and_then(|it| it.sync_all())
        .map_err(|error| FileError::new(format!("The folder {} cannot be synced: {error}.", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_open_to_others_is_refused_with_the_command_that_mends_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        create_private(&path, "ab".repeat(32).as_bytes()).unwrap();
        assert!(matches!(read_key_file(&path), Ok(Unlock::KeyFile(_))));
        assert!(create_private(&path, b"x").unwrap_err().to_string().contains("never overwritten"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read_key_file(&path).unwrap_err().to_string().contains("chmod 600"));
    }

    #[test]
    fn the_lock_is_only_swapped_by_who_knows_what_stands_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.lock");
        assert!(LockFile::open(&path).is_err(), "a lock is never made up");
        LockFile::create(&path, "one").unwrap();
        let (mine, other) = (LockFile::open(&path).unwrap(), LockFile::open(&path).unwrap());
        mine.swap("two").unwrap();
        assert!(other.swap("three").is_err());
        assert_eq!(LockFile::open(&path).unwrap().note(), "two");
    }

    #[test]
    fn one_process_has_the_data_folder() {
        let folder = tempfile::tempdir().unwrap();
        let held = ProcessLock::take(folder.path()).unwrap();
        assert!(ProcessLock::take(folder.path()).err().unwrap().to_string().contains("Stop it first"));
        let copy = held.file.try_clone().unwrap();
        drop(held);
        ProcessLock::take(folder.path()).unwrap();
        drop(copy);
    }
}
