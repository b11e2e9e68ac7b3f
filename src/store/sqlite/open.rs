//! Opening the database with distrust: version, file system, identity, schema text and settings are checked, never assumed.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use sha2::{Digest, Sha256};

use super::super::StoreError;
use super::unavailable;

/// Marks the file as a phivault database ("PHIV").
pub const APPLICATION_ID: i64 = 0x5048_4956;
/// The schema this program reads and writes.
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// What leads from each schema version to the next, and SHA-256 over the schema text that it leaves behind: an edited trigger or
/// table shows.
const MIGRATIONS: [(&str, &str); 2] = [
    (include_str!("migrations/0001_init.sql"), "9166885f1c21587c8d3138c337b0d2689b1f9d48e36a6846b369a1afc0587a8c"),
    (
        include_str!("migrations/0002_no_insert_trigger.sql"),
        "28854b9b4e254323b0762b788afb85ce328021073f63564d60f7dffa508e090d",
    ),
];
/// Versions before 3.51.3 can lose a commit when a WAL reset meets a checkpoint.
const OLDEST_SQLITE: i32 = 3_051_003;
/// WAL pages after which the writer checkpoints: 48 MB. A checkpoint keeps commits waiting for some milliseconds, so that with a
/// smaller log every hundredth request would meet one; a thread beside the writer does not help, for both wait for the same disk.
const CHECKPOINT_PAGES: i64 = 6_000;

/// Settings of the writing connection, each read back after it is set.
const WRITER_PRAGMAS: [(&str, &str); 10] = [
    ("journal_mode", "wal"),
    ("synchronous", "2"),
    ("foreign_keys", "1"),
    ("recursive_triggers", "1"),
    ("trusted_schema", "0"),
    ("cell_size_check", "1"),
    ("secure_delete", "1"),
    ("temp_store", "2"),
    ("busy_timeout", "5000"),
    ("journal_size_limit", "67108864"),
];

/// Makes the database file, its folder entry included, durable before it returns.
pub(super) fn create(path: &Path) -> Result<(), StoreError> {
    check_version()?;
    let flags = OpenOptions::new().write(true).create_new(true).clone();
    let file = create_private(flags, path).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            StoreError::Unsuitable(format!("There is a database at {} already; nothing was changed.", path.display()))
        }
        _ => StoreError::Unsuitable(format!("The database {} could not be made: {error}", path.display())),
    })?;
    drop(file);
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(unavailable)?;
    connection
        .execute_batch("PRAGMA page_size = 8192; PRAGMA auto_vacuum = NONE; PRAGMA synchronous = EXTRA;")
        .map_err(unavailable)?;
    migrate(&connection, 0)?;
    set(&connection, &WRITER_PRAGMAS)?;
    connection.close().map_err(|(_, error)| unavailable(error))?;
    sync_folder(path)
}

/// The writing connection of an existing database.
pub(super) fn writer(path: &Path) -> Result<Connection, StoreError> {
    check_version()?;
    check_present(path)?;
    check_file_system(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(unavailable)?;
    keep_log(&connection)?;
    // Identity first: nothing is set on a file that is not ours.
    connection.execute_batch("PRAGMA busy_timeout = 5000").map_err(unavailable)?;
    let version = check_known(&connection, path)?;
    set(&connection, &WRITER_PRAGMAS)?;
    if version < SCHEMA_VERSION {
        tracing::info!("the schema of the database is brought from version {version} to {SCHEMA_VERSION}");
        migrate(&connection, version)?;
    }
    set(&connection, &[("wal_autocheckpoint", &checkpoint_pages().to_string())])?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true).map_err(unavailable)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn checkpoint_pages() -> i64 {
    // A test moves the log often within a short life; there is no such variable in a release build.
    let told = std::env::var("PHIVAULT_TEST_LOG_PAGES").ok().filter(|_| cfg!(debug_assertions));
    told.and_then(|it| it.parse().ok()).unwrap_or(CHECKPOINT_PAGES)
}

/// A read-only connection.
pub(super) fn reader(path: &Path) -> Result<Connection, StoreError> {
    check_version()?;
    check_present(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(unavailable)?;
    keep_log(&connection)?;
    let pragmas = [
        ("query_only", "1"),
        ("trusted_schema", "0"),
        ("cell_size_check", "1"),
        ("busy_timeout", "5000"),
        ("temp_store", "2"),
    ];
    set(&connection, &pragmas)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// Leaves the write-ahead log alone when a connection closes. By itself SQLite moves it into the database then and deletes it; but when
/// the disk failed while the shared memory beside it was made, it may take the log for empty, and deletes what was committed (seen with
/// 3.54.1). The log is moved while all is well, by [`empty_log`].
fn keep_log(connection: &Connection) -> Result<(), StoreError> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(|_| ()).map_err(unavailable)
}

/// Moves the write-ahead log into the database and empties it, so that one file is all of it. Whether that was done; if not, all of it
/// still lies in both.
pub(super) fn empty_log(connection: &Connection) -> Result<bool, StoreError> {
    let busy: i64 =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).map_err(unavailable)?;
    Ok(busy == 0)
}

/// Copies all pages in one step, which is one read transaction; the copy must not exist.
pub(super) fn copy(source: &Connection, to: &Path) -> Result<(), StoreError> {
    let unwritable = |error: std::io::Error| StoreError::Unavailable(format!("{}: {error}", to.display()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    drop(create_private(options, to).map_err(unwritable)?);
    let mut target = Connection::open(to).map_err(unavailable)?;
    {
        let backup = rusqlite::backup::Backup::new(source, &mut target).map_err(unavailable)?;
        if backup.step(-1).map_err(unavailable)? != rusqlite::backup::StepResult::Done {
            return Err(StoreError::Unavailable("the database is busy; try again".into()));
        }
    }
    target.close().map_err(|(_, error)| unavailable(error))?;
    File::open(to).and_then(|it| it.sync_all()).map_err(unwritable)
}

/// Brings the schema from a version to the newest, in one transaction.
fn migrate(connection: &Connection, from: i64) -> Result<(), StoreError> {
    let steps: String = MIGRATIONS.iter().skip(usize::try_from(from).unwrap_or(0)).map(|it| it.0).collect();
    let whole = format!(
        "BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; {steps} COMMIT;"
    );
    connection.execute_batch(&whole).map_err(unavailable)
}

/// Checks that the file is a phivault database of this program's schema.
pub(super) fn check_identity(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    match check_known(connection, path)? {
        SCHEMA_VERSION => Ok(()),
        version => Err(StoreError::Unsuitable(format!(
            "{} has schema version {version}; this program works with {SCHEMA_VERSION}. Start it once (phivault serve), which upgrades the database.",
            path.display()
        ))),
    }
}

/// Checks that the file is a phivault database of a schema this program knows, with the schema text it should have; which version.
fn check_known(connection: &Connection, path: &Path) -> Result<i64, StoreError> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let broken = |error: rusqlite::Error| {
        StoreError::Unsuitable(format!(
            "{} is not a readable SQLite database ({error}). Restore it from a backup.",
            path.display()
        ))
    };
    let (application, version) = (number("application_id").map_err(broken)?, number("user_version").map_err(broken)?);
    if application != APPLICATION_ID {
        return Err(StoreError::Unsuitable(format!(
            "{} is not a phivault database. Check the path `data_dir` in the settings.",
            path.display()
        )));
    }
    let known = usize::try_from(version).ok().and_then(|it| MIGRATIONS.get(it.checked_sub(1)?));
    let Some((_, digest)) = known else {
        return Err(StoreError::Unsuitable(format!(
            "{} has schema version {version}, this program knows {SCHEMA_VERSION}. Use the phivault version that wrote it, or a newer one.",
            path.display()
        )));
    };
    if schema_digest(connection)? != *digest {
        return Err(StoreError::Unsuitable(format!(
            "The schema of {} was altered (a table or trigger differs). Do not write to it: run `phivault verify`, then restore a backup.",
            path.display()
        )));
    }
    Ok(version)
}

/// SHA-256 over the schema text of a database.
///
/// # Errors
/// [`StoreError::Unavailable`] when it cannot be read.
pub(super) fn schema_digest(connection: &Connection) -> Result<String, StoreError> {
    let sql = "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name";
    let mut statement = connection.prepare(sql).map_err(unavailable)?;
    let mut rows = statement.query([]).map_err(unavailable)?;
    let mut text = String::new();
    while let Some(row) = rows.next().map_err(unavailable)? {
        for column in 0..4 {
            let part: String = row.get(column).map_err(unavailable)?;
            write!(text, "{}:{part};", part.len()).expect("writing to a string does not fail");
        }
    }
    Ok(hex::encode(Sha256::digest(text.as_bytes())))
}

/// `path` with something appended to its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn set(connection: &Connection, pragmas: &[(&str, &str)]) -> Result<(), StoreError> {
    for (name, wanted) in pragmas {
        connection.execute_batch(&format!("PRAGMA {name} = {wanted}")).map_err(unavailable)?;
        let found = connection.pragma_query_value(None, name, |row| match row.get_ref(0)? {
            rusqlite::types::ValueRef::Integer(number) => Ok(number.to_string()),
            other => Ok(other.as_str().unwrap_or_default().to_owned()),
        });
        let found = found.map_err(unavailable)?;
        if found != *wanted {
            return Err(StoreError::Unsuitable(format!(
                "SQLite did not take the setting {name} = {wanted} (it is {found}). The file system may not support it; use a local disk."
            )));
        }
    }
    Ok(())
}

fn check_version() -> Result<(), StoreError> {
    if rusqlite::version_number() >= OLDEST_SQLITE {
        return Ok(());
    }
    Err(StoreError::Unsuitable(format!(
        "SQLite {} can lose commits; 3.51.3 or newer is needed. Build with the bundled one.",
        rusqlite::version()
    )))
}

fn check_present(path: &Path) -> Result<(), StoreError> {
    if path.is_file() {
        return Ok(());
    }
    Err(StoreError::Unsuitable(format!(
        "There is no database at {}. `phivault init` makes a vault; `data_dir` in the settings says where it is.",
        path.display()
    )))
}

/// WAL needs shared memory between processes of one machine; network file systems do not give it.
fn check_file_system(path: &Path) -> Result<(), StoreError> {
    const NETWORK: [(i64, &str); 6] = [
        (0x6969, "NFS"),
        (0xff53_4d42, "CIFS"),
        (0xfe53_4d42, "SMB2"),
        (0x517b, "SMB"),
        (0x0102_1997, "9p"),
        (0x00c3_6400, "Ceph"),
    ];
    let Ok(file_system) = rustix::fs::statfs(path) else { return Ok(()) };
    #[expect(clippy::unnecessary_cast, reason = "the type differs between platforms")]
    let kind = file_system.f_type as i64;
    match NETWORK.iter().find(|(magic, _)| *magic == kind) {
        None => Ok(()),
        Some((_, name)) => Err(StoreError::Unsuitable(format!(
            "{} lies on a network file system ({name}), where SQLite cannot keep its promises. Put `data_dir` on a local disk.",
            path.display()
        ))),
    }
}

fn create_private(mut options: OpenOptions, path: &Path) -> std::io::Result<File> {
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn sync_folder(path: &Path) -> Result<(), StoreError> {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(folder).and_then(|it| it.sync_all()).map_err(|error| StoreError::Unavailable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vault.db");
        create(&path).unwrap();
        (folder, path)
    }

    fn refusal(path: &Path) -> String {
        writer(path).err().unwrap().to_string()
    }

    #[test]
    fn a_new_database_has_the_schema_that_is_compiled_in() {
        let (_folder, path) = fresh();
        assert_eq!(schema_digest(&reader(&path).unwrap()).unwrap(), MIGRATIONS[MIGRATIONS.len() - 1].1);
        writer(&path).unwrap();
        assert!(create(&path).unwrap_err().to_string().contains("already"));
    }

    #[test]
    fn a_database_of_each_earlier_schema_is_upgraded_by_the_writer_and_refused_by_readers_until_then() {
        for version in 1..SCHEMA_VERSION {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("vault.db");
            let raw = Connection::open(&path).unwrap();
            for (step, _) in &MIGRATIONS[..usize::try_from(version).unwrap()] {
                raw.execute_batch(step).unwrap();
            }
            let identity = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version}");
            raw.execute_batch(&identity).unwrap();
            raw.execute_batch("INSERT INTO entry VALUES (0, x'01', 1, 0, 0, zeroblob(32), zeroblob(32), x'02')")
                .unwrap();
            drop(raw);
            let old = reader(&path).unwrap();
            assert!(check_identity(&old, &path).unwrap_err().to_string().contains("phivault serve"));
            drop(old);
            let upgraded = writer(&path).unwrap();
            check_identity(&upgraded, &path).unwrap();
            let kept: i64 = upgraded.query_row("SELECT count(*) FROM entry", [], |row| row.get(0)).unwrap();
            assert_eq!(kept, 1);
        }
    }

    #[test]
    fn an_altered_trigger_a_newer_schema_and_a_foreign_file_are_refused_with_the_remedy() {
        let (_folder, path) = fresh();
        let raw = Connection::open(&path).unwrap();
        raw.execute_batch("DROP TRIGGER entry_stays").unwrap();
        assert!(refusal(&path).contains("schema"), "{}", refusal(&path));
        raw.execute_batch("PRAGMA user_version = 99").unwrap();
        assert!(refusal(&path).contains("version 99"));
        raw.execute_batch("PRAGMA application_id = 1").unwrap();
        assert!(refusal(&path).contains("not a phivault database"));
        drop(raw);
        std::fs::write(&path, b"not a database at all, but long enough to be looked at").unwrap();
        assert!(refusal(&path).contains("not a readable SQLite database"), "{}", refusal(&path));
        std::fs::remove_file(&path).unwrap();
        assert!(refusal(&path).contains("phivault init"));
    }

    #[test]
    fn entries_can_neither_be_changed_nor_deleted_nor_replaced() {
        let (_folder, path) = fresh();
        let raw = writer(&path).unwrap();
        let insert = "INSERT INTO entry VALUES (?1, x'01', 1, 0, 0, zeroblob(32), zeroblob(32), x'02')";
        raw.execute(insert, [0]).unwrap();
        for statement in [
            "UPDATE entry SET meta = x'09'",
            "UPDATE entry SET received_at = 2",
            "DELETE FROM entry",
            "INSERT OR REPLACE INTO entry VALUES (0, x'09', 1, 0, 0, zeroblob(32), zeroblob(32), x'02')",
        ] {
            assert!(raw.execute_batch(statement).is_err(), "{statement}");
        }
        raw.execute("UPDATE entry SET sealed = x'03'", []).unwrap();
    }
}
