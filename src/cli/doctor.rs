//! `phivault doctor`: looks at an installation as somebody would who has seen many of them, and says what to do.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};

use crate::config::{PatientIds, Settings};
use crate::domain::reason::Vocabulary;
use crate::keyfile::{self, KeyPaths, LockFile};
use crate::ledger::checkpoint;

use super::local;

/// A backup that is older is not one of today.
const OLD_BACKUP: Duration = Duration::from_secs(26 * 3_600);
/// Days before the end of a certificate from which on somebody should renew it.
pub(super) const FEW_DAYS: i64 = 21;
/// How long a running vault may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Look at an installation
///
/// Reads the settings and looks at files, disk, clock and ways in; opens nothing, needs no passphrase and changes nothing. Ends with
/// 0 when all is well, 1 when something must be done, and 2 when the settings cannot be used.
#[derive(clap::Args)]
#[command(after_help = "Next: do what it says. `phivault verify` checks what the vault holds.")]
pub struct Args {
    /// The settings
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The folder of its backups, to see how old the newest is
    #[arg(long, value_name = "DIR")]
    backups: Option<PathBuf>,
}

/// How something stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stand {
    Well,
    /// It works; somebody should decide about it.
    Advice,
    Wrong,
}

struct Finding {
    stand: Stand,
    what: String,
}

impl Finding {
    fn of(well: bool, otherwise: Stand, good: impl Into<String>, bad: impl Into<String>) -> Self {
        if well { Self { stand: Stand::Well, what: good.into() } } else { Self { stand: otherwise, what: bad.into() } }
    }
}

/// Does it.
///
/// # Errors
/// When the settings cannot be used.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let settings = Settings::load(&args.config, std::env::vars())?;
    let mut all = files(&settings);
    all.extend(sound(&settings));
    all.extend(ways_in(&settings));
    all.extend(evidence(&settings));
    all.extend(machine(&settings));
    all.extend(args.backups.as_deref().map(|it| backups(it, &settings)));
    all.extend(args.backups.as_deref().and_then(left_over));
    all.sort_by_key(|it| std::cmp::Reverse(it.stand));
    for it in &all {
        let mark = match it.stand {
            Stand::Wrong => "WRONG",
            Stand::Advice => "advice",
            Stand::Well => "ok",
        };
        println!("{mark:<7} {}", it.what);
    }
    let wrong = all.iter().filter(|it| it.stand == Stand::Wrong).count();
    let advice = all.iter().filter(|it| it.stand == Stand::Advice).count();
    println!("\n{wrong} wrong, {advice} to decide about, {} well.", all.len() - wrong - advice);
    Ok(if wrong > 0 { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// Who may read what, and whether keys and data lie apart.
fn files(settings: &Settings) -> Vec<Finding> {
    let keys = &settings.keys;
    let secrets = [
        ("the keyring", Some(&keys.keyring)),
        ("the signing key", Some(&keys.signing_key)),
        ("the lock", Some(&keys.lock)),
        ("the passphrase file", keys.passphrase_file.as_ref()),
        ("the pepper file", keys.pepper_file.as_ref()),
        ("the key file", keys.key_file.as_ref()),
        ("the TLS key", settings.server.tls_key.as_ref()),
    ];
    let names = local::key_paths(settings).check_apart().map_err(anyhow::Error::from);
    let mut out = vec![usable("the key files have names of their own", names)];
    out.extend(secrets.into_iter().filter_map(|(what, path)| Some(private(what, path?, "chmod 600"))));
    let data = &settings.storage.data_dir;
    out.push(private("the folder of the data", data, "chmod 700"));
    let both = data.exists() && keys.keyring.exists();
    out.extend(both.then(|| Finding::of(
        !keyfile::same_device(data, &keys.keyring),
        Stand::Advice,
        "keys and data lie on different devices",
        "keys and data lie on one device: who steals it has both. Move the keys (keys.keyring, keys.signing_key, keys.lock)",
    )));
    let secret = keys.key_file.as_ref().or(keys.passphrase_file.as_ref()).filter(|it| it.exists());
    out.extend(secret.map(|secret| {
        Finding::of(
            !keyfile::same_device(secret, &keys.keyring),
            Stand::Advice,
            "what opens the keyring lies on another device than the keyring",
            "what opens the keyring lies beside it: give it as a systemd credential, by keys.command or keys.pkcs11",
        )
    }));
    out
}

/// Whether what a start reads first is what it must be, as far as that shows without a passphrase.
fn sound(settings: &Settings) -> Vec<Finding> {
    let keys = local::key_paths(settings);
    let named = [&keys.keyring, &keys.signing_key, &keys.lock].map(Clone::clone);
    let mut out = vec![
        usable("the keyring reads as one", keyring(&keys.keyring)),
        usable("the signing key is one", keyfile::read_signing_key(&keys.signing_key).map(drop).map_err(Into::into)),
        usable("the lock holds a checkpoint of this ledger", lock(&keys)),
        usable("the database is one", database(&settings.storage.data_dir)),
        usable("data and keys belong to one user", owners(&settings.storage.data_dir, &named)),
    ];
    let key_file = settings.keys.key_file.as_deref().map(|it| keyfile::read_key_file(it).map(drop));
    out.extend(key_file.map(|it| usable("the key file holds a key", it.map_err(Into::into))));
    out
}

fn keyring(path: &Path) -> anyhow::Result<()> {
    let text = keyfile::read_private(path, "keyring")?;
    let header = text.lines().next().and_then(|it| serde_json::from_str::<serde_json::Value>(it).ok());
    header
        .filter(|it| it.get("generation").is_some())
        .map(drop)
        .with_context(|| format!("The keyring {} is damaged. Put the newest one back from its backup.", path.display()))
}

fn lock(keys: &KeyPaths) -> anyhow::Result<()> {
    let note = LockFile::open(&keys.lock)?.note();
    let key = keyfile::read_verifier_key(&keys.verifier_key())?;
    checkpoint::open(&note, key.name(), std::slice::from_ref(&key)).map(drop).with_context(|| {
        format!(
            "The lock {} holds no checkpoint of this ledger. Put back the newest one that you have",
            keys.lock.display()
        )
    })
}

fn database(data: &Path) -> anyhow::Result<()> {
    let path = data.join("vault.db");
    let mut begin = [0; 16];
    std::fs::File::open(&path).and_then(|mut file| file.read_exact(&mut begin)).with_context(|| {
        format!("The database {} cannot be read. Restore a backup (phivault restore)", path.display())
    })?;
    // https://www.sqlite.org/fileformat.html, section 1.3
    ensure!(
        &begin == b"SQLite format 3\0",
        "The database {} is damaged. Restore a backup (phivault restore).",
        path.display()
    );
    Ok(())
}

/// What another user owns the vault cannot write, or could not read after a command of root.
fn owners(data: &Path, files: &[PathBuf]) -> anyhow::Result<()> {
    let there = std::fs::metadata(data);
    let owner = there.with_context(|| format!("The folder of the data {} cannot be looked at", data.display()))?.uid();
    for path in
        [&data.join("vault.db"), &data.join("vault.db-wal"), &data.join("vault.db-shm")].into_iter().chain(files)
    {
        let other = std::fs::metadata(path).map(|it| it.uid()).is_ok_and(|it| it != owner);
        ensure!(
            !other,
            "{} is not owned by user {owner}, who owns the data: chown {owner} {}",
            path.display(),
            path.display()
        );
    }
    Ok(())
}

fn private(what: &str, path: &Path, mend: &str) -> Finding {
    let shown = path.display();
    match std::fs::metadata(path) {
        // Made by systemd for the service alone, while it runs.
        Err(_) if path.starts_with("/run/credentials") => {
            Finding { stand: Stand::Advice, what: format!("{what} {shown} is a credential that only the service sees") }
        }
        Err(error) => Finding { stand: Stand::Wrong, what: format!("{what} {shown} cannot be looked at: {error}") },
        Ok(it) => Finding::of(
            it.permissions().mode() & 0o077 == 0,
            Stand::Wrong,
            format!("{what} is its owner's alone"),
            format!("{what} {shown} is open to others: {mend} {shown}"),
        ),
    }
}

/// Whether clients take the certificate today, and for how long.
pub(super) fn certificate(valid: &std::ops::Range<i64>, now: i64) -> (Stand, String) {
    let day = |seconds| {
        chrono::DateTime::from_timestamp(seconds, 0).map_or_else(String::new, |it| it.date_naive().to_string())
    };
    let (begin, end, days) = (day(valid.start), day(valid.end), (valid.end - now).div_euclid(86_400));
    let renew = "renew it; the vault takes the new one within a minute";
    match () {
        () if now < valid.start => {
            (Stand::Wrong, format!("the TLS certificate is valid only from {begin}: clients refuse it until then"))
        }
        () if now >= valid.end => {
            (Stand::Wrong, format!("the TLS certificate ended on {end}, clients refuse it: {renew}"))
        }
        () if days < FEW_DAYS => (Stand::Advice, format!("the TLS certificate ends in {days} days, on {end}: {renew}")),
        () => (Stand::Well, format!("the TLS certificate is valid until {end}, for {days} days")),
    }
}

/// How applications and people reach it.
fn ways_in(settings: &Settings) -> Vec<Finding> {
    let server = &settings.server;
    let beyond = settings.listen().is_ok_and(|it| !it.ip().is_loopback());
    let mut out = vec![match (server.tls_certificate.is_some(), beyond, server.behind_tls_proxy) {
        (true, _, _) => usable("the vault ends TLS itself", super::serve::tls(server).map(drop)),
        (false, true, _) => Finding {
            stand: Stand::Advice,
            what: format!(
                "it listens on {} in clear and trusts that a proxy ends TLS: make sure that nobody else reaches that address",
                server.listen
            ),
        },
        (false, false, _) => {
            Finding { stand: Stand::Well, what: "it listens on this machine only; TLS is a proxy's".into() }
        }
    }];
    if let Some(tls) = super::serve::tls(server).ok().flatten() {
        let (stand, what) = certificate(&tls.valid(), chrono::Utc::now().timestamp());
        out.push(Finding { stand, what });
    }
    out.push(Finding::of(
        beyond || server.tls_certificate.is_some() || !server.trusted_proxies.is_empty(),
        Stand::Advice,
        "it knows where requests come from",
        "it believes no proxy, so behind one all clients are this machine: set server.trusted_proxies, or tokens that are bound to networks and the patience with failed logins count for nothing",
    ));
    out.push(usable("reasons, retention classes and fields are ones it takes", lists(settings)));
    out.push(Finding::of(
        settings.limits.submits_per_second > 0,
        Stand::Advice,
        "a runaway application is held back",
        "no limit holds a runaway application back: set limits.submits_per_second to some times its busiest second",
    ));
    out.push(Finding::of(
        settings.admin.two_person,
        Stand::Advice,
        "what cannot be undone takes two administrators",
        "one administrator alone can destroy keys and values (admin.two_person = false)",
    ));
    out.push(Finding::of(
        settings.entries.patient_ids == PatientIds::Blind,
        Stand::Advice,
        "patient ids are blind on the disk",
        "patient ids stand in clear on the disk: a stolen one is a breach to report (entries.patient_ids = \"blind\")",
    ));
    if let Ok(address) = settings.listen() {
        out.push(running(address));
    }
    out
}

fn lists(settings: &Settings) -> anyhow::Result<()> {
    let (reasons, ..) = super::local::site_lists(settings)?;
    Vocabulary::parse(&reasons).map(drop).context("the reasons (entries.reasons) cannot be used")
}

/// Whether the vault would take something: by the same means as its start.
fn usable(good: &str, loaded: anyhow::Result<()>) -> Finding {
    match loaded {
        Ok(()) => Finding { stand: Stand::Well, what: good.into() },
        Err(error) => Finding { stand: Stand::Wrong, what: format!("{error:#}") },
    }
}

fn running(address: SocketAddr) -> Finding {
    let answers = TcpStream::connect_timeout(&address, PATIENCE).is_ok();
    let good = format!("something answers on {address}");
    Finding::of(answers, Stand::Advice, good, format!("nothing answers on {address}: is the vault running?"))
}

/// Who else remembers how far the ledger has come.
fn evidence(settings: &Settings) -> Vec<Finding> {
    let evidence = &settings.evidence;
    let anchored = evidence.policy.is_some() || evidence.anchor_file.is_some() || evidence.anchor_url.is_some();
    let mut out = vec![
        Finding::of(
            anchored,
            Stand::Advice,
            "witnesses or anchors remember checkpoints",
            "nobody else remembers how far the ledger has come: set evidence.policy, anchor_file or anchor_url; else who puts database and lock back together is not found",
        ),
        Finding::of(
            evidence.scrub_per_second > 0,
            Stand::Wrong,
            "all entries are gone through again and again",
            "nothing looks for damage (evidence.scrub_per_second = 0)",
        ),
        Finding::of(
            settings.keys.rotate_days > 0,
            Stand::Advice,
            "data keys are replaced by themselves",
            "data keys are never replaced by themselves (keys.rotate_days = 0)",
        ),
    ];
    if evidence.policy.is_some() {
        out.push(usable("the policy of witnesses is one it takes", super::serve::policy(settings).map(drop)));
    }
    out.extend(evidence.anchor_file.as_ref().map(|path| {
        Finding::of(
            !keyfile::same_device(path, &settings.storage.data_dir),
            Stand::Advice,
            "the anchor lies on another device than the data",
            "the anchor lies on the device of the data: who can put one back can put back the other",
        )
    }));
    out
}

/// Disk, clock, memory.
fn machine(settings: &Settings) -> Vec<Finding> {
    let storage = &settings.storage;
    let Ok(disk) = rustix::fs::statvfs(&storage.data_dir) else {
        let what =
            format!("there is no folder {}: mount its disk, or correct storage.data_dir", storage.data_dir.display());
        return vec![Finding { stand: Stand::Wrong, what }];
    };
    let free = (disk.f_bavail * disk.f_frsize) >> 20;
    let wanted = storage.reserve_mb.max(64) * 4;
    let swap = std::fs::read_to_string("/proc/swaps").is_ok_and(|it| it.lines().count() > 1);
    vec![
        Finding::of(
            free >= wanted,
            Stand::Wrong,
            format!("{free} MB of the disk are free"),
            format!(
                "only {free} MB of the disk are free; below {} MB entries are refused: make room",
                storage.reserve_mb
            ),
        ),
        Finding::of(
            storage.reserve_mb > 0,
            Stand::Advice,
            "a reserve of the disk is kept for administrators",
            "no reserve of the disk is kept (storage.reserve_mb = 0): when it is full, nobody can work",
        ),
        Finding::of(
            local::clock_state() == "synchronised",
            Stand::Advice,
            "something keeps the clock right",
            "nothing that is known keeps the clock right: install chrony or systemd-timesyncd; entries carry its time",
        ),
        Finding::of(
            !swap,
            Stand::Advice,
            "there is no swap that keys could get into",
            "there is swap: encrypt it, or let the unit lock memory (LimitMEMLOCK=infinity, as deploy/phivault.service does)",
        ),
    ]
}

/// The newest that is whole, of this ledger, and not old. Its bytes are held against its manifest.
fn backups(folder: &Path, settings: &Settings) -> Finding {
    let wrong = |what| Finding { stand: Stand::Wrong, what };
    let origin = keyfile::read_verifier_key(&local::key_paths(settings).verifier_key()).map(|it| it.name().to_owned());
    let all = std::fs::read_dir(folder).into_iter().flatten().filter_map(|it| {
        let it = it.ok()?;
        let modified = it.metadata().ok().filter(std::fs::Metadata::is_file)?.modified().ok()?;
        let manifest = crate::vault::manifest_of(&it.path()).ok()?;
        origin.as_ref().ok().is_none_or(|it| *it == manifest.origin).then_some((modified, it.path()))
    });
    let shown = folder.display();
    let Some((newest, path)) = all.max() else {
        return wrong(format!("there is no whole backup of this ledger in {shown}: phivault backup makes one"));
    };
    if let Err(error) = crate::vault::check_backup(&path) {
        return wrong(format!("{error} Remove it and make another: phivault backup"));
    }
    let age = SystemTime::now().duration_since(newest).unwrap_or_default();
    let hours = age.as_secs() / 3_600;
    Finding::of(
        age <= OLD_BACKUP,
        Stand::Wrong,
        format!("the newest backup is {hours} hours old, and what its manifest states"),
        format!("the newest backup in {shown} is {hours} hours old: is the timer running?"),
    )
}

/// What a killed backup left holds the whole database, and nothing else clears it away.
fn left_over(folder: &Path) -> Option<Finding> {
    let all = std::fs::read_dir(folder).into_iter().flatten().filter_map(|it| it.ok().map(|it| it.path()));
    let left = all.filter(|it| it.extension().is_some_and(|it| it == "partial")).min()?;
    let what = format!("{} is left from a backup that was killed: remove it, unless one is being made", left.display());
    Some(Finding { stand: Stand::Advice, what })
}
