//! What must stay as it was while a vault serves: the schema, and the files that its paths name. Whoever can write to them plants a
//! trigger that lets entries vanish, or removes the file under the vault; then nothing more is acknowledged.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::super::StoreError;
use super::{open, unavailable};

/// Device and inode.
type Identity = (u64, u64);

pub(super) struct Guard {
    schema: i64,
    /// The database, the log and the log's index.
    files: [(PathBuf, Identity); 3],
}

impl Guard {
    /// Notes how things are. The schema is looked at after its number was, so that what changes it in between is seen as well.
    pub(super) fn new(path: &Path, writer: &Connection) -> Result<Self, StoreError> {
        let schema = schema(writer)?;
        open::check_identity(writer, path)?;
        let file = |ending: &str| {
            let mut name = path.to_owned().into_os_string();
            name.push(ending);
            let path = PathBuf::from(name);
            Ok((path.clone(), identity(&path)?.ok_or_else(|| gone(&path))?))
        };
        // Reading made the other two.
        Ok(Self { schema, files: [file("")?, file("-wal")?, file("-shm")?] })
    }

    /// Holds it against how things are, within a transaction that has the lock for writing: until it ends nobody else can change the
    /// schema.
    pub(super) fn check(&self, transaction: &Connection) -> Result<(), StoreError> {
        if schema(transaction)? != self.schema {
            let what = "the schema of the database was changed while the vault runs; nothing more is taken";
            return Err(StoreError::Corrupt(what.into()));
        }
        for (path, own) in &self.files {
            if identity(path)? != Some(*own) {
                return Err(gone(path));
            }
        }
        Ok(())
    }
}

/// Changes with every change of the schema.
fn schema(connection: &Connection) -> Result<i64, StoreError> {
    let mut asked = connection.prepare_cached("PRAGMA schema_version").map_err(unavailable)?;
    asked.query_row([], |row| row.get(0)).map_err(unavailable)
}

/// What stands under a path; `None` if nothing does.
fn identity(path: &Path) -> Result<Option<Identity>, StoreError> {
    match std::fs::symlink_metadata(path) {
        Ok(it) => Ok(Some((it.dev(), it.ino()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::Unavailable(format!("{}: {error}", path.display()))),
    }
}

fn gone(path: &Path) -> StoreError {
    StoreError::Corrupt(format!(
        "{} was removed or replaced while the vault runs; what it would write would be lost, so nothing more is taken",
        path.display()
    ))
}
