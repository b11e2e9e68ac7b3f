//! What the commands on the vault's own machine share: unlocking, opening, the clock, and keeping memory off the disk.

use std::io::{BufRead as _, IsTerminal, Read};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use zeroize::Zeroizing;

use crate::config::{PatientIds, Settings};
use crate::domain::fields::Fields;
use crate::domain::retention::Retention;
use crate::domain::time::{Clock, Timestamp};
use crate::keyfile::{self, KeyPaths};
use crate::vault::{Opening, Restored, Unlock, Vault};

/// The vocabulary that ships with the program.
const REASONS: &str = include_str!("../../config/reasons.toml");
/// The retention classes that ship with the program.
const RETENTION: &str = include_str!("../../config/retention.toml");
/// What ships with the program about fields.
const FIELDS: &str = include_str!("../../config/fields.toml");
/// How long a command that gives the key may take.
const COMMAND_SECONDS: u64 = 30;
/// A passphrase in the environment; works, with a warning.
const PASSPHRASE_VARIABLE: &str = "PHIVAULT_PASSPHRASE";
/// The longest passphrase that is read, in bytes.
const MAX_PASSPHRASE_BYTES: u64 = 4_096;

/// The machine's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let now = Timestamp(chrono::Utc::now().timestamp_micros());
        if !cfg!(debug_assertions) {
            return now;
        }
        // Tests of what happens in ten years; there is no such variable in a release build.
        let days = std::env::var("PHIVAULT_TEST_DAYS_AHEAD").ok().and_then(|it| it.parse::<i64>().ok());
        // And of a clock that is set while the vault runs: a file says by how many seconds.
        let said = std::env::var_os("PHIVAULT_TEST_CLOCK").and_then(|path| std::fs::read_to_string(path).ok());
        let seconds = said.and_then(|it| it.trim().parse::<i64>().ok()).unwrap_or(0);
        now.plus_seconds(days.unwrap_or(0) * 86_400 + seconds)
    }
}

/// Keeps secrets out of core dumps and other processes' reach.
///
/// # Errors
/// A sentence when the system does not allow it.
pub fn harden() -> anyhow::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .context("core dumps could not be switched off")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("the process memory could not be made private")
}

/// Keeps keys out of swap, where the system lets this process lock all of its memory (`LimitMEMLOCK=infinity`); under a limit an
/// allocation could fail later, so then nothing is locked.
pub fn lock_memory() {
    use rustix::mm::{MlockAllFlags, mlockall};
    use rustix::process::{Resource, getrlimit};
    let unlimited = getrlimit(Resource::Memlock).current.is_none();
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if unlimited && mlockall(flags).is_ok() {
        tracing::info!("all memory is locked: keys do not get into swap");
    } else {
        tracing::info!("memory is not locked (no LimitMEMLOCK=infinity): encrypt the swap, or have none");
    }
}

/// The key files that the settings name.
pub fn key_paths(settings: &Settings) -> KeyPaths {
    let keys = &settings.keys;
    KeyPaths { keyring: keys.keyring.clone(), signing_key: keys.signing_key.clone(), lock: keys.lock.clone() }
}

/// Opens the vault that the settings name.
///
/// # Errors
/// One sentence with the remedy.
pub fn open(settings: &Settings, unlock: &Unlock) -> anyhow::Result<Vault> {
    // Answers that wait are given up; clients retry with the same ids. A dead writer is never a live server.
    open_with(settings, unlock, None, Box::new(|| std::process::exit(70)))
}

/// Opens a vault that is just being made, after a backup or as a new one. If its disk fails the step that wanted it says so.
///
/// # Errors
/// One sentence with the remedy.
pub fn open_new(settings: &Settings, unlock: &Unlock, restored: Option<Restored>) -> anyhow::Result<Vault> {
    open_with(settings, unlock, restored, Box::new(|| ()))
}

/// The site's lists: the text of its reasons, its retention classes and fields.
///
/// # Errors
/// One sentence with the remedy.
pub fn site_lists(settings: &Settings) -> anyhow::Result<(String, Retention, Fields)> {
    let entries = &settings.entries;
    let vocabulary = site_file(entries.reasons.as_deref(), REASONS, "entries.reasons")?;
    let retention = Retention::parse(&site_file(entries.retention.as_deref(), RETENTION, "entries.retention")?)
        .map_err(|error| anyhow!("The retention classes cannot be used: {error}."))?;
    let fields = Fields::parse(&site_file(entries.fields.as_deref(), FIELDS, "entries.fields")?)
        .map_err(|error| anyhow!("The fields cannot be used: {error}. Mend the file that entries.fields names."))?;
    Ok((vocabulary, retention, fields))
}

fn open_with(
    settings: &Settings,
    unlock: &Unlock,
    restored: Option<Restored>,
    fatal: Box<dyn Fn() + Send>,
) -> anyhow::Result<Vault> {
    let (vocabulary, retention, fields) = site_lists(settings)?;
    key_paths(settings).check_apart()?;
    keyfile::refuse_foreign_root(&settings.storage.data_dir)?;
    if keyfile::same_device(&settings.storage.data_dir, &settings.keys.keyring) {
        tracing::warn!("keys and data lie on one device: who steals it has both; put [keys] on another device");
    }
    let opening = Opening {
        data: settings.storage.data_dir.clone(),
        keys: key_paths(settings),
        unlock,
        settings: crate::vault::Settings {
            rules: settings.rules(retention, fields),
            blind_patients: settings.entries.patient_ids == PatientIds::Blind,
            queue_kib: settings.limits.queue_kib,
            scrub_per_second: settings.evidence.scrub_per_second,
            two_person: settings.admin.two_person,
            approval_seconds: settings.admin.approval_seconds,
            restore_seconds: settings.admin.restore_seconds,
            reencrypt_per_second: settings.keys.reencrypt_per_second,
            rotate_days: settings.keys.rotate_days,
            sessions: settings.sessions.limits(),
            disk_reserve: settings.storage.reserve_mb.saturating_mul(1 << 20),
            keyring_backup_days: settings.keys.backup_days,
        },
        vocabulary: &vocabulary,
        clock: Arc::new(SystemClock),
        clock_state: clock_state(),
        restored,
        fatal,
    };
    // The sentence holds its cause already; a chain would say it twice.
    Vault::open(opening).map_err(|error| anyhow!(error.to_string()))
}

/// What unlocks an existing keyring, as the settings say.
///
/// # Errors
/// One sentence with the remedy.
pub fn unlock(settings: &Settings) -> anyhow::Result<Unlock> {
    let keys = &settings.keys;
    if let Some(path) = &keys.key_file {
        return Ok(keyfile::read_key_file(path)?);
    }
    if let Some(pkcs11) = &keys.pkcs11 {
        return super::hsm::unlock(pkcs11);
    }
    if let Some(command) = &keys.command {
        return key_of_command(command);
    }
    let ways = "set keys.passphrase_file, keys.passphrase_fd or keys.key_file, or start it on a terminal";
    let unlock = passphrase(keys.passphrase_file.as_deref(), keys.passphrase_fd, ways, || {
        Ok(Zeroizing::new(rpassword::prompt_password("Passphrase of the keyring: ")?))
    })?;
    peppered(unlock, keys.pepper_file.as_deref())
}

/// The same with the pepper of a file, if there is one.
///
/// # Errors
/// One sentence with the remedy.
pub fn peppered(unlock: Unlock, pepper: Option<&Path>) -> anyhow::Result<Unlock> {
    match pepper {
        None => Ok(unlock),
        Some(path) => Ok(unlock.with_pepper(&keyfile::read_pepper(path)?)),
    }
}

/// The key that a command writes to its standard output.
///
/// # Errors
/// One sentence with the remedy; nothing of what the command wrote is in it.
pub fn key_of_command(command: &[String]) -> anyhow::Result<Unlock> {
    let (program, arguments) = command.split_first().ok_or_else(|| anyhow!("keys.command names no program"))?;
    let mut child = std::process::Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .with_context(|| format!("The command {program} of keys.command cannot be started"))?;
    let output = child.stdout.take().ok_or_else(|| anyhow!("{program} has no output"))?;
    let (sender, received) = std::sync::mpsc::channel();
    // A thread of its own: something that the command left running may keep its output open.
    std::thread::spawn(move || {
        let mut text = Zeroizing::new(String::with_capacity(MAX_PASSPHRASE_BYTES as usize));
        let read = std::io::BufReader::new(output.take(MAX_PASSPHRASE_BYTES)).read_line(&mut text);
        // Whoever waits may have given up.
        let _ = sender.send(read.ok().map(|_| text));
    });
    let end = std::time::Instant::now() + std::time::Duration::from_secs(COMMAND_SECONDS);
    let status = loop {
        match child.try_wait().with_context(|| format!("{program} cannot be waited for"))? {
            Some(status) => break status,
            None if std::time::Instant::now() > end => {
                drop(child.kill());
                drop(child.wait());
                bail!("The command {program} of keys.command did not end within {COMMAND_SECONDS} seconds.");
            }
            None => std::thread::sleep(std::time::Duration::from_millis(20)),
        }
    };
    if !status.success() {
        bail!("The command {program} of keys.command failed ({status}); its own message stands above.");
    }
    let left = end.saturating_duration_since(std::time::Instant::now());
    let text = received.recv_timeout(left).ok().flatten();
    let text = text.ok_or_else(|| anyhow!("The command {program} of keys.command did not write text."))?;
    keyfile::key_of_text(&text)
        .ok_or_else(|| anyhow!("The command {program} of keys.command must write 64 hex digits, and did not."))
}

/// A passphrase from a file, a descriptor (of both the first line), the environment or a prompt. `ways` says how to give one.
///
/// # Errors
/// One sentence with the remedy.
pub fn passphrase(
    file: Option<&Path>,
    fd: Option<i32>,
    ways: &str,
    prompt: impl FnOnce() -> anyhow::Result<Zeroizing<String>>,
) -> anyhow::Result<Unlock> {
    let text = if let Some(path) = file {
        keyfile::read_private(path, "passphrase file")?
    } else if let Some(fd) = fd {
        read_descriptor(fd)?
    } else if let Ok(text) = std::env::var(PASSPHRASE_VARIABLE) {
        eprintln!(
            "warning: {PASSPHRASE_VARIABLE} is set; other programs of this user can read it. Use a file, a descriptor or the prompt."
        );
        Zeroizing::new(text)
    } else if std::io::stdin().is_terminal() {
        prompt()?
    } else {
        bail!("There is no passphrase: {ways}.");
    };
    let bytes = text.lines().next().unwrap_or_default().as_bytes().to_vec();
    if bytes.is_empty() {
        bail!("The passphrase is empty.");
    }
    Ok(Unlock::Passphrase(Zeroizing::new(bytes)))
}

fn read_descriptor(fd: i32) -> anyhow::Result<Zeroizing<String>> {
    // Through /proc, since taking over a descriptor by number needs unsafe code.
    let file = std::fs::File::open(format!("/proc/self/fd/{fd}"))
        .map_err(|error| anyhow!("The passphrase descriptor {fd} cannot be read: {error}"))?;
    let mut text = Zeroizing::new(String::with_capacity(MAX_PASSPHRASE_BYTES as usize));
    file.take(MAX_PASSPHRASE_BYTES)
        .read_to_string(&mut text)
        .map_err(|_| anyhow!("The passphrase descriptor {fd} does not hold text"))?;
    Ok(text)
}

/// Whether something keeps the machine's clock right, as far as a file can tell.
pub fn clock_state() -> &'static str {
    let synchronised = ["/run/systemd/timesync/synchronized", "/run/chrony/chronyd.pid", "/run/ntpd.pid"];
    if synchronised.iter().any(|path| Path::new(path).exists()) { "synchronised" } else { "unknown" }
}

/// The text of a file of the site, or what ships with the program.
fn site_file(path: Option<&Path>, built_in: &str, setting: &str) -> anyhow::Result<String> {
    let read = |path: &Path| {
        std::fs::read_to_string(path)
            .with_context(|| format!("The file {} that {setting} names cannot be read", path.display()))
    };
    path.map_or_else(|| Ok(built_in.to_owned()), read)
}
