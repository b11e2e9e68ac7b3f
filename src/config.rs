//! Settings: a TOML file, then `PHIVAULT_SECTION__NAME` variables, checked once at the start. Nothing is created here.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::domain::fields::Fields;
use crate::domain::retention::Retention;
use crate::domain::rules::{NoOp, Rules};

mod reports;
mod server;
mod sessions;

pub use reports::{Every, Reports, Schedule};
pub use server::Server;
pub use sessions::Sessions;

/// All settings. `config/default.toml` documents each one and holds the defaults.
#[derive(Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How it listens.
    pub server: Server,
    /// Where data lies.
    pub storage: Storage,
    /// Where key files lie and how the keyring is unlocked.
    pub keys: Keys,
    /// What takes two administrators.
    pub admin: Admin,
    /// How long people stay logged in.
    pub sessions: Sessions,
    /// The rules for entries.
    pub entries: Entries,
    /// What is bounded.
    pub limits: Limits,
    /// Who else remembers how far the ledger has come.
    pub evidence: Evidence,
    /// Reports that are made by themselves.
    pub reports: Reports,
    /// Diagnostics.
    pub log: Log,
}

/// `[storage]`
#[derive(Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// The folder of the database.
    pub data_dir: PathBuf,
    /// MB of its disk that are kept free for what administrators do; 0: none.
    pub reserve_mb: u64,
}

/// `[keys]`
#[derive(Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct Keys {
    /// The keyring.
    pub keyring: PathBuf,
    /// The key that signs checkpoints.
    pub signing_key: PathBuf,
    /// The lock.
    pub lock: PathBuf,
    /// A file with the passphrase.
    pub passphrase_file: Option<PathBuf>,
    /// A file with 64 hex digits that the passphrase counts only together with.
    pub pepper_file: Option<PathBuf>,
    /// An open file descriptor with the passphrase.
    pub passphrase_fd: Option<i32>,
    /// A key file instead of a passphrase.
    pub key_file: Option<PathBuf>,
    /// A command whose standard output is the key, such as that of a KMS or HSM; program and arguments.
    pub command: Option<Vec<String>>,
    /// A key in a security module.
    pub pkcs11: Option<Pkcs11>,
    /// Entries a second that a re-encryption moves unless it is asked for another rate; 0: no bound.
    pub reencrypt_per_second: u64,
    /// Days after which a new data-key version is made by itself; 0: never.
    pub rotate_days: i64,
    /// How long backups of the keyring and the database are kept, days.
    pub backup_days: i64,
}

/// `[keys.pkcs11]`
#[derive(Deserialize, serde::Serialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Pkcs11 {
    /// The PKCS #11 library.
    pub module: PathBuf,
    /// The label of the token.
    pub token: String,
    /// The label of the key.
    pub key: String,
    /// A file with the user's PIN.
    pub pin_file: PathBuf,
}

/// `[admin]`
#[derive(Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Whether what cannot be undone needs a second administrator.
    pub two_person: bool,
    /// How long a request waits for one, seconds.
    pub approval_seconds: i64,
    /// How long a plan to restore a record waits to be confirmed, seconds.
    pub restore_seconds: i64,
}

/// How patient ids rest.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum PatientIds {
    /// In clear.
    Plain,
    /// As a keyed blind index; the id is sealed.
    Blind,
}

/// `[entries]`
#[derive(Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct Entries {
    /// How patient ids rest.
    pub patient_ids: PatientIds,
    /// Whether actions on records must name the patient.
    pub require_patient: bool,
    /// What becomes of a change whose old value equals its new one.
    pub no_op: NoOp,
    /// How far an application's clock may be ahead, seconds.
    pub max_skew_seconds: i64,
    /// The reason vocabulary; the built-in one if absent.
    pub reasons: Option<PathBuf>,
    /// The retention classes; the built-in ones if absent.
    pub retention: Option<PathBuf>,
    /// What is known of fields; the built-in file if absent.
    pub fields: Option<PathBuf>,
}

/// `[limits]`
#[derive(Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of one submission.
    pub body_bytes: usize,
    /// Bytes of a batch.
    pub batch_bytes: usize,
    /// Lines of a batch.
    pub batch_lines: usize,
    /// KiB of all bodies in flight.
    pub bodies_kib: usize,
    /// Seconds for a body to arrive.
    pub body_seconds: u64,
    /// Seconds for the next request to come on an open connection.
    pub idle_seconds: u64,
    /// Seconds that a client may keep an answer waiting.
    pub write_seconds: u64,
    /// KiB waiting to be committed.
    pub queue_kib: usize,
    /// Entries a second from one submitter's token; 0: no bound.
    pub submits_per_second: u32,
    /// Requests a second from any other token; 0: no bound.
    pub queries_per_second: u32,
}

/// `[evidence]`
#[derive(Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct Evidence {
    /// A C2SP tlog-policy with witnesses and their URLs.
    pub policy: Option<PathBuf>,
    /// A file that checkpoints are appended to.
    pub anchor_file: Option<PathBuf>,
    /// A URL that checkpoints are posted to.
    pub anchor_url: Option<String>,
    /// Seconds between two anchors.
    pub anchor_seconds: u64,
    /// Entries a second that are gone through for damage.
    pub scrub_per_second: u64,
}

/// `[log]`
#[derive(Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// error, warn, info, debug, or a filter such as `info,phivault=debug`.
    pub level: String,
    /// text or json.
    pub format: LogFormat,
}

/// How diagnostics are written.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

impl Default for Storage {
    fn default() -> Self {
        Self { data_dir: "data".into(), reserve_mb: 256 }
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            keyring: "keys/keyring".into(),
            signing_key: "keys/signing.key".into(),
            lock: "keys/checkpoint.lock".into(),
            passphrase_file: None,
            passphrase_fd: None,
            pepper_file: None,
            key_file: None,
            command: None,
            pkcs11: None,
            reencrypt_per_second: 5_000,
            rotate_days: 90,
            backup_days: 30,
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { two_person: true, approval_seconds: 86_400, restore_seconds: 604_800 }
    }
}

impl Default for Entries {
    fn default() -> Self {
        Self {
            patient_ids: PatientIds::Plain,
            require_patient: true,
            no_op: NoOp::Keep,
            max_skew_seconds: 300,
            reasons: None,
            retention: None,
            fields: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 1 << 20,
            batch_bytes: 16 << 20,
            batch_lines: 10_000,
            bodies_kib: 64 << 10,
            body_seconds: 30,
            idle_seconds: 15,
            write_seconds: 30,
            queue_kib: 64 << 10,
            submits_per_second: 0,
            queries_per_second: 1_000,
        }
    }
}

impl Default for Evidence {
    fn default() -> Self {
        Self { policy: None, anchor_file: None, anchor_url: None, anchor_seconds: 60, scrub_per_second: 2_000 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

/// Why settings cannot be used: what is wrong and what would do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Settings {
    /// Reads a file and the environment. Relative paths in the file are relative to the file.
    ///
    /// # Errors
    /// One sentence with the setting and the remedy.
    pub fn load(path: &Path, environment: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            ConfigError(format!(
                "The settings {} cannot be read: {error}. `phivault init` writes them.",
                path.display()
            ))
        })?;
        Self::parse(&text, path, environment)
    }

    /// Reads the text of a file; see [`Settings::load`].
    ///
    /// # Errors
    /// One sentence with the setting and the remedy.
    pub fn parse(
        text: &str,
        path: &Path,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut table: toml::Table = text
            .parse()
            .map_err(|error| ConfigError(format!("The settings {} are not TOML: {error}", path.display())))?;
        let overlaid = overlay(&mut table, environment)?;
        let mut settings: Self = table.try_into().map_err(|error: toml::de::Error| {
            let from = if overlaid.is_empty() { String::new() } else { format!(" or in {}", overlaid.join(", ")) };
            ConfigError(format!(
                "A setting in {}{from} cannot be used: {error}\nconfig/default.toml documents every setting.",
                path.display()
            ))
        })?;
        settings.resolve(path.parent().unwrap_or_else(|| Path::new(".")));
        settings.check()?;
        Ok(settings)
    }

    /// The settings of a vault in one folder, as `init` lays it out.
    pub fn in_folder(folder: &Path) -> Self {
        let mut settings = Self::default();
        settings.resolve(folder);
        settings
    }

    /// The address to listen on.
    ///
    /// # Errors
    /// When it is no address, or lies beyond this machine without TLS in front.
    pub fn listen(&self) -> Result<SocketAddr, ConfigError> {
        self.server.address()
    }

    /// The rules for entries.
    pub fn rules(&self, retention: Retention, fields: Fields) -> Rules {
        let entries = &self.entries;
        Rules {
            require_patient: entries.require_patient,
            max_skew_seconds: entries.max_skew_seconds,
            no_op: entries.no_op,
            retention,
            fields,
        }
    }

    fn resolve(&mut self, folder: &Path) {
        let keys = &mut self.keys;
        let required = [&mut self.storage.data_dir, &mut keys.keyring, &mut keys.signing_key, &mut keys.lock];
        let evidence = &mut self.evidence;
        let optional = [
            keys.passphrase_file.as_mut(),
            keys.pepper_file.as_mut(),
            keys.key_file.as_mut(),
            self.entries.reasons.as_mut(),
            self.entries.retention.as_mut(),
            self.entries.fields.as_mut(),
            evidence.policy.as_mut(),
            evidence.anchor_file.as_mut(),
            self.reports.folder.as_mut(),
        ];
        let optional = optional.into_iter().chain(self.server.files());
        for path in required.into_iter().chain(optional.flatten()) {
            if path.is_relative() {
                *path = folder.join(&*path);
            }
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.listen()?;
        self.server.proxies()?;
        if let Some(problem) = self.reports.problem() {
            return Err(ConfigError(problem));
        }
        if let Some(problem) = self.sessions.problem() {
            return Err(ConfigError(problem));
        }
        let (limits, keys) = (&self.limits, &self.keys);
        let ways = [
            keys.passphrase_file.is_some(),
            keys.passphrase_fd.is_some(),
            keys.key_file.is_some(),
            keys.command.is_some(),
            keys.pkcs11.is_some(),
        ];
        let rules = [
            (
                ways.into_iter().filter(|it| *it).count() <= 1,
                "keys: set one of passphrase_file, passphrase_fd, key_file, command and pkcs11, not several.",
            ),
            ((1..=64 << 20).contains(&limits.body_bytes), "limits.body_bytes is 1 to 67108864."),
            ((1..=256 << 20).contains(&limits.batch_bytes), "limits.batch_bytes is 1 to 268435456."),
            ((1..=100_000).contains(&limits.batch_lines), "limits.batch_lines is 1 to 100000."),
            (
                limits.bodies_kib > limits.batch_bytes.max(limits.body_bytes) / 1024 && limits.bodies_kib <= 16 << 20,
                "limits.bodies_kib is more than the largest body, up to 16777216.",
            ),
            ((1..=600).contains(&limits.body_seconds), "limits.body_seconds is 1 to 600."),
            ((1..=600).contains(&limits.idle_seconds), "limits.idle_seconds is 1 to 600."),
            ((1..=600).contains(&limits.write_seconds), "limits.write_seconds is 1 to 600."),
            ((1_024..=4 << 20).contains(&limits.queue_kib), "limits.queue_kib is 1024 to 4194304."),
            ((1..=100_000).contains(&self.server.connections), "server.connections is 1 to 100000."),
            (keys.command.as_ref().is_none_or(|it| !it.is_empty()), "keys.command is a program and its arguments."),
            (keys.reencrypt_per_second <= 10_000_000, "keys.reencrypt_per_second is 0 to 10000000."),
            ((0..=3_650).contains(&keys.rotate_days), "keys.rotate_days is 0 to 3650."),
            ((0..=36_500).contains(&keys.backup_days), "keys.backup_days is 0 to 36500."),
            ((60..=2_592_000).contains(&self.admin.approval_seconds), "admin.approval_seconds is 60 to 2592000."),
            ((60..=31_536_000).contains(&self.admin.restore_seconds), "admin.restore_seconds is 60 to 31536000."),
            (self.evidence.scrub_per_second <= 1_000_000, "evidence.scrub_per_second is 0 to 1000000."),
            ((1..=86_400).contains(&self.evidence.anchor_seconds), "evidence.anchor_seconds is 1 to 86400."),
            ((0..=86_400).contains(&self.entries.max_skew_seconds), "entries.max_skew_seconds is 0 to 86400."),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, sentence)) => Err(ConfigError(sentence.to_owned())),
            None => Ok(()),
        }
    }
}

/// Puts `PHIVAULT_SECTION__NAME` variables over the file; gives back their names.
fn overlay(
    table: &mut toml::Table,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Vec<String>, ConfigError> {
    let mut names = Vec::new();
    for (name, text) in environment {
        let Some((section, key)) = name.strip_prefix("PHIVAULT_").and_then(|rest| rest.split_once("__")) else {
            continue;
        };
        let value = match (text.parse::<i64>(), text.parse::<bool>()) {
            (Ok(number), _) => toml::Value::Integer(number),
            (_, Ok(truth)) => toml::Value::Boolean(truth),
            _ => toml::Value::String(text),
        };
        let section = table.entry(section.to_lowercase()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        let Some(section) = section.as_table_mut() else {
            return Err(ConfigError(format!("{name} names a section that is not one.")));
        };
        section.insert(key.to_lowercase(), value);
        names.push(name);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, environment: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("phivault.toml");
        std::fs::write(&path, text).unwrap();
        Settings::load(&path, environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn the_shipped_file_documents_every_setting_with_its_default() {
        let shipped: Settings = toml::from_str(include_str!("../config/default.toml")).unwrap();
        assert_eq!(shipped, Settings::default());
    }

    #[test]
    fn every_field_of_every_section_stands_in_the_shipped_file() {
        let text = include_str!("../config/default.toml");
        let debug = format!("{:?}", Settings::default());
        let names = debug.split([' ', '{', ',']).filter_map(|word| word.strip_suffix(':')).collect::<Vec<_>>();
        assert!(names.len() > 20);
        for name in names {
            assert!(text.contains(name), "{name} is not documented");
        }
    }

    #[test]
    fn variables_go_over_the_file_and_wrong_settings_say_what_would_do() {
        let settings = load(
            "[server]\nlisten = \"127.0.0.1:1\"",
            &[("PHIVAULT_SERVER__LISTEN", "127.0.0.1:2"), ("PHIVAULT_URL", "x")],
        )
        .unwrap();
        assert_eq!(settings.server.listen, "127.0.0.1:2");
        for (text, environment, word) in [
            ("[server]\nlisten = \"0.0.0.0:1\"", [("A", "b")], "behind_tls_proxy"),
            ("[server]\nlisten = \"here\"", [("A", "b")], "127.0.0.1:8321"),
            ("[server]\ncolour = 1", [("A", "b")], "colour"),
            ("[limits]\nqueue_kib = 1", [("A", "b")], "queue_kib"),
            ("not toml", [("A", "b")], "not TOML"),
            ("[keys]\nkey_file = \"a\"\npassphrase_fd = 3", [("A", "b")], "not several"),
            ("", [("PHIVAULT_LIMITS__NOTHING", "1")], "PHIVAULT_LIMITS__NOTHING"),
        ] {
            let error = load(text, &environment).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
