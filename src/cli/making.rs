//! A vault that is being made: whole or not at all, by one command at a time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Settings;
use crate::keyfile;
use crate::vault;

use super::local;

/// How long the next rest is waited for.
pub(super) const LONGEST_STEP: Duration = Duration::from_secs(20);

/// A vault is never made over another.
///
/// # Errors
/// When there are settings, if only a link that leads nowhere.
pub(super) fn refuse_a_vault(dir: &Path) -> anyhow::Result<()> {
    let settings = dir.join("phivault.toml");
    if settings.symlink_metadata().is_ok() {
        bail!("{} exists already, so there is a vault or there shall be one. Nothing was changed.", settings.display());
    }
    Ok(())
}

/// The making of one vault. A mark in its folder keeps a second command away, and tells a vault from an attempt that was killed.
pub(super) struct Making {
    /// Where it will be, in its one spelling.
    pub(super) dir: PathBuf,
    settings: Settings,
    undo: Undo,
    stage: Arc<Stage>,
}

/// How far the making and the end that somebody asked for have come.
#[derive(Default)]
struct Stage {
    /// What is there of a vault is this command's, from the mark on.
    owned: AtomicBool,
    /// It is whole, or it was given up.
    over: AtomicBool,
    /// Somebody wants it to end.
    told: AtomicBool,
    /// The making rests, so that what is undone is not made at the same time.
    rests: AtomicBool,
}

/// What takes back an attempt: only files that this command made.
#[derive(Clone)]
struct Undo {
    settings: Settings,
    file: PathBuf,
    mark: PathBuf,
    /// Folders that were not there before, the innermost first.
    folders: Vec<PathBuf>,
}

impl Undo {
    fn run(&self) {
        vault::unmake(&self.settings.storage.data_dir, &local::key_paths(&self.settings));
        drop(std::fs::remove_file(&self.file));
        drop(std::fs::remove_file(&self.mark));
        // What is not empty stays.
        self.folders.iter().for_each(|it| drop(std::fs::remove_dir(it)));
    }
}

impl Making {
    /// Begins it in a folder that holds no part of a vault.
    ///
    /// # Errors
    /// One sentence with the remedy; then nothing was changed.
    pub(super) fn begin(dir: &Path) -> anyhow::Result<Self> {
        refuse_a_vault(dir)?;
        let wanted = std::path::absolute(dir)?;
        let fresh: Vec<_> = wanted.ancestors().take_while(|it| !it.exists()).map(Path::to_path_buf).collect();
        keyfile::create_folder(dir)?;
        let dir = dir.canonicalize().with_context(|| format!("The folder {} cannot be used", dir.display()))?;
        let settings = Settings::in_folder(&dir);
        let keys = local::key_paths(&settings);
        let mark = dir.join("vault.making");
        if mark.symlink_metadata().is_ok() {
            bail!(
                "{} says that a vault is being made here, or that this was broken off; then it was never used. If no other command is \
                 at it, remove that file, the database in {} and the keyring, signing key and checkpoint in {}, and give the same command again.",
                mark.display(),
                settings.storage.data_dir.display(),
                dir.join("keys").display()
            );
        }
        vault::refuse_parts(&settings.storage.data_dir, &keys).map_err(anyhow::Error::msg)?;
        let below = [settings.storage.data_dir.clone(), dir.join("keys")].into_iter().filter(|it| !it.exists());
        let folders = below.chain(fresh.iter().cloned()).collect();
        let undo = Undo { settings: settings.clone(), file: dir.join("phivault.toml"), mark, folders };
        let stage = Arc::default();
        undo_when_told_to_end(undo.clone(), Arc::clone(&stage))?;
        keyfile::create_private(&undo.mark, b"A vault is being made here.\n").inspect_err(|_| {
            fresh.iter().for_each(|it| drop(std::fs::remove_dir(it)));
        })?;
        // Another command may have come to its end between the first look and the mark.
        let looked = refuse_a_vault(&dir)
            .and_then(|()| vault::refuse_parts(&settings.storage.data_dir, &keys).map_err(anyhow::Error::msg));
        looked.inspect_err(|_| drop(std::fs::remove_file(&undo.mark)))?;
        stage.owned.store(true, Ordering::Release);
        let making = Self { dir, settings, undo, stage };
        making.go_on();
        Ok(making)
    }

    /// Rests for ever if somebody wants it to end; called between steps.
    pub(super) fn go_on(&self) {
        while self.stage.told.load(Ordering::Acquire) {
            self.stage.rests.store(true, Ordering::Release);
            std::thread::park();
        }
    }

    /// The settings of the vault before the site says anything.
    pub(super) fn settings(&self) -> Settings {
        self.settings.clone()
    }

    /// Does the steps of it, and writes the settings at the end. If one of them fails nothing is left, so that the same command can be
    /// given again.
    ///
    /// # Errors
    /// What failed.
    pub(super) fn finish<T>(self, text: &str, steps: impl FnOnce(&Self) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let made = steps(&self).and_then(|made| {
            self.go_on();
            keyfile::create_private(&self.undo.file, text.as_bytes())?;
            keyfile::remove(&self.undo.mark)?;
            Ok(made)
        });
        self.go_on();
        self.stage.over.store(true, Ordering::Release);
        made.inspect_err(|_| self.undo.run()).context("The vault could not be made, and nothing of it was kept")
    }
}

/// Does something, and ends, when Ctrl-C, SIGTERM or the end of the terminal comes; from when this returns.
pub(super) fn when_told_to_end(then: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Under nohup it outlives its terminal.
    let third = if ignores_hangup() { SignalKind::terminate() } else { SignalKind::hangup() };
    let (mut interrupt, mut end, mut third) = runtime.block_on(async {
        std::io::Result::Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(third)?))
    })?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {}, _ = end.recv() => {}, _ = third.recv() => {} }
        });
        then();
    });
    Ok(())
}

/// proc_pid_status(5): the mask of ignored signals, of which SIGHUP is the first.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|it| it.strip_prefix("SigIgn:"));
    mask.and_then(|it| u64::from_str_radix(it.trim(), 16).ok()).is_some_and(|it| it & 1 == 1)
}

/// Takes back what was made.
fn undo_when_told_to_end(undo: Undo, stage: Arc<Stage>) -> std::io::Result<()> {
    when_told_to_end(move || {
        stage.told.store(true, Ordering::Release);
        let began = Instant::now();
        let over = || stage.over.load(Ordering::Acquire);
        while !over() && !stage.rests.load(Ordering::Acquire) && began.elapsed() < LONGEST_STEP {
            std::thread::sleep(Duration::from_millis(5));
        }
        if !over() {
            if stage.owned.load(Ordering::Acquire) {
                undo.run();
            }
            eprintln!("error: Broken off. Nothing of the vault was kept.");
            std::process::exit(130);
        }
    })
}
