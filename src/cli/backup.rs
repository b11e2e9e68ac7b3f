//! `phivault backup` and `phivault restore`, on the vault's own machine.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::config::Settings;
use crate::domain::time::Clock;
use crate::keyfile::{self, KeyPaths};
use crate::vault::{self, RestoreAsked};

use super::client::terminal;
use super::init::Unlocking;
use super::making::{self, LONGEST_STEP, Making};
use super::receipt::read;
use super::{init, local};

/// Write a backup: one file with the database as it is now, and the checkpoint that covers it
///
/// May run while the vault serves, and needs no keys. The copy is verified before the file is written. The keyring is not in it:
/// back that up apart (keys and data in one place do not count as secured), at every rotation.
#[derive(clap::Args)]
pub struct BackupArgs {
    /// The settings of the vault
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// The file to write; it must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Make a vault from a backup
///
/// The vault begins a new ledger over the restored entries, under a new name and signing key: the old one may have been longer, and
/// continuing it would contradict whoever holds a later checkpoint. Its first entry says what it continues and how many entries are
/// missing, as far as the newest checkpoint that is known tells. Tokens stay as they were in the backup.
#[derive(clap::Args)]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    backup: PathBuf,

    /// The folder to make the vault in; it must not hold one
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    /// The newest keyring of the old vault, from its own backup
    #[arg(long, value_name = "FILE")]
    keyring: PathBuf,

    /// The newest checkpoint known of the old ledger: its lock, or what a witness, an anchor or an auditor kept
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,

    /// The newest public key of the old ledger, its text or the file that holds it, if the signing key changed after the backup
    #[arg(long, value_name = "KEY|FILE")]
    vkey: Option<String>,

    /// What unlocks the keyring: a file with the passphrase (the prompt if neither is given)
    #[arg(long, value_name = "FILE", conflicts_with = "key_file")]
    passphrase_file: Option<PathBuf>,

    /// What unlocks the keyring: a key file
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,

    /// The pepper file, if the passphrase counts only together with one
    #[arg(long, value_name = "FILE")]
    pepper_file: Option<PathBuf>,

    /// The old vault kept patient ids blind, and so does this one
    #[arg(long)]
    blind: bool,

    /// A name for the new ledger, a URL without scheme; a random id is added
    #[arg(long, value_name = "NAME", default_value = "phivault.local")]
    name: String,
}

/// Writes a backup.
///
/// # Errors
/// One sentence with the remedy.
pub fn back_up(args: &BackupArgs) -> anyhow::Result<ExitCode> {
    let settings = Settings::load(&args.config, std::env::vars())?;
    // A folder that is made by the way may be a disk that is not mounted.
    let parent = args.out.parent().filter(|it| !it.as_os_str().is_empty());
    if let Some(parent) = parent.filter(|it| !it.is_dir()) {
        bail!(
            "There is no folder {}. Nothing was written. Correct the path, mount the disk, or make it.",
            parent.display()
        );
    }
    let partial = vault::partial(&args.out);
    if partial.symlink_metadata().is_ok() {
        bail!(
            "{} is left from a backup that was killed, or belongs to one that is being made. If none is, remove it.",
            partial.display()
        );
    }
    let (told, out) = (Arc::new(AtomicBool::new(false)), args.out.clone());
    let tell = Arc::clone(&told);
    making::when_told_to_end(move || {
        tell.store(true, Ordering::Release);
        // It may be writing there still.
        let began = Instant::now();
        while partial.exists() && std::fs::remove_dir_all(&partial).is_err() && began.elapsed() < LONGEST_STEP {
            std::thread::sleep(Duration::from_millis(5));
        }
        match (out.exists(), partial.exists()) {
            // It was made before it could be broken off, and says so itself.
            (true, _) => return,
            (false, false) => eprintln!("error: Broken off. No backup was made."),
            (false, true) => eprintln!("error: Broken off. No backup was made; remove {}.", partial.display()),
        }
        std::process::exit(130);
    })?;
    let bar = bar("verifying the copy");
    let now = local::SystemClock.now();
    let made =
        vault::back_up(&settings.storage.data_dir, &local::key_paths(&settings), &args.out, now, &mut |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        });
    bar.finish_and_clear();
    while made.is_err() && told.load(Ordering::Acquire) {
        // Whoever takes it back says how it ended.
        std::thread::park();
    }
    let made = made.map_err(anyhow::Error::msg)?;
    terminal::print(&format!(
        "{} entries of {} are in {}, verified; its checkpoint covers {}.\nBack up the keyring apart from it: {}",
        made.entries,
        made.origin,
        args.out.display(),
        made.checkpoint_size,
        settings.keys.keyring.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Restores one.
///
/// # Errors
/// One sentence with the remedy.
pub fn restore(args: &RestoreArgs) -> anyhow::Result<ExitCode> {
    making::refuse_a_vault(&args.dir)?;
    crate::telemetry::start(&crate::config::Log { level: "warn".into(), ..Default::default() })
        .map_err(|it| anyhow!(it))?;
    let unlock = match &args.key_file {
        Some(path) => keyfile::read_key_file(path)?,
        None => {
            local::passphrase(args.passphrase_file.as_deref(), None, "give --passphrase-file or --key-file", || {
                Ok(zeroize::Zeroizing::new(rpassword::prompt_password("Passphrase of the keyring: ")?))
            })?
        }
    };
    let unlock = local::peppered(unlock, args.pepper_file.as_deref())?;
    let last_known = args.checkpoint.as_deref().map(read).transpose()?;
    let making = Making::begin(&args.dir)?;
    let (dir, mut settings) = (making.dir.clone(), making.settings());
    if args.blind {
        settings.entries.patient_ids = crate::config::PatientIds::Blind;
    }
    let how = Unlocking {
        passphrase_file: args.passphrase_file.as_deref(),
        key_file: args.key_file.as_deref(),
        pepper_file: args.pepper_file.as_deref(),
        pkcs11: None,
        blind: args.blind,
    };
    let known = last_known.is_some();
    let keys = local::key_paths(&settings);
    let (restored, origin, problems, unreadable) = making.finish(&init::settings_text(&how)?, |making| {
        let restored = unpack(args, &settings, &keys, &unlock, last_known, making)?;
        making.go_on();
        let vault = local::open_new(&settings, &unlock, Some(restored.clone()))?;
        let begun = (restored, vault.origin().to_owned(), vault.readiness().problems, vault.unreadable()?);
        vault.stop()?;
        Ok(begun)
    })?;
    let bare = restored.entries.saturating_sub(restored.signed);
    let (entries, missing) = (restored.entries, restored.last_known.0.saturating_sub(restored.entries));
    let mut said = format!("{entries} entries are restored; the ledger {origin} begins over them.");
    said.push_str(&match (known, missing) {
        (false, _) => "\nNo newer checkpoint was given, so whether entries are missing is not known.".to_owned(),
        (true, 0) => "\nNothing is missing up to the checkpoint given.".to_owned(),
        (true, missing) => {
            format!("\n{missing} entries that the checkpoint given covers are MISSING; the ledger says so.")
        }
    });
    if unreadable > 0 {
        said.push_str(&format!(
            "\nThe values of {unreadable} entries were sealed under keys that were destroyed after the backup: they are GONE."
        ));
        if bare > 0 {
            said.push_str(&format!(
                "\nThe newest {bare} entries of the backup are covered by no checkpoint. Where their key was destroyed too, nobody can show any more that this vault wrote them; the ledger says so."
            ));
        }
    }
    let settings = dir.join("phivault.toml");
    said.push_str(&format!(
        "\nSettings are not in a backup: carry over what the old ones say beyond the paths (reasons, classes, limits, TLS, witnesses) to {}.\nNext: phivault serve --config {}",
        settings.display(),
        settings.display()
    ));
    terminal::print(&said)?;
    problems.iter().for_each(|problem| eprintln!("ATTENTION: {problem}"));
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn unpack(
    args: &RestoreArgs,
    settings: &Settings,
    keys: &KeyPaths,
    unlock: &vault::Unlock,
    last_known: Option<String>,
    making: &Making,
) -> anyhow::Result<vault::Restored> {
    let bar = bar("verifying the backup");
    let (backup, keyring, data): (&Path, &Path, &Path) = (&args.backup, &args.keyring, &settings.storage.data_dir);
    let mut progress = |done, all| {
        making.go_on();
        bar.set_length(all);
        bar.set_position(done);
    };
    let newer_key = args.vkey.as_deref().map(super::receipt::one_key).transpose()?;
    let asked = RestoreAsked {
        newer_key,
        backup,
        data,
        keys,
        keyring,
        unlock,
        last_known,
        name: &args.name,
        progress: &mut progress,
    };
    let restored = vault::restore(asked);
    bar.finish_and_clear();
    restored.map_err(anyhow::Error::msg)
}

fn bar(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {human_pos}/{human_len} entries, {eta} left") {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}
