//! `phivault demo`: a throw-away vault with a small synthetic clinic, served on this machine.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use indicatif::{ProgressBar, ProgressStyle};

use crate::clinic;
use crate::config::Settings;
use crate::domain::caller::{Caller, Role};
use crate::domain::json;
use crate::keyfile::{self, KeyPaths};
use crate::telemetry;
use crate::vault::{Cost, Outcome, Vault, Verdict};

use super::init::{Unlocking, make};
use super::{local, making, serve, verify};

/// Look at phivault: a throw-away vault with a small synthetic clinic
///
/// Makes a vault in DIR with a token for each role, fills it with a year of a made-up clinic (about 20,000 entries: reads and
/// changes, emergencies, break-the-glass, one nosy employee), verifies it and serves it on this machine only. Run it
/// again and it picks up the same vault. This is a trial: its key file lies beside the data. Never put real data in.
#[derive(clap::Args)]
pub struct Args {
    /// The folder of the trial vault
    #[arg(long, value_name = "DIR", default_value = "phivault-demo")]
    dir: PathBuf,

    /// The port on 127.0.0.1; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 8321)]
    port: u16,

    /// Make no entries
    #[arg(long)]
    empty: bool,

    /// Patient ids blinded on disk
    #[arg(long)]
    blind: bool,
}

/// The name of every trial's ledger.
const LEDGER: &str = "demo.phivault.local";
/// The seed of the clinic: everybody sees the same one.
const SEED: u64 = 20_261_124;
/// Entries of one batch.
const BATCH: usize = 2_000;
/// The application that the demo's entries come from; the submitter token has the same label.
const SOURCE: &str = "demo-ehr";

/// The tokens of a trial; each stands in a file, `officer.token` and so on, that commands take.
struct Tokens {
    submitter: String,
    officer: String,
    auditor: String,
    admin: String,
}

/// Does it.
///
/// # Errors
/// One sentence with the remedy.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match args.dir.join("phivault.toml").symlink_metadata() {
        Ok(_) => refuse_others(&args.dir)?,
        Err(_) => create(args)?,
    }
    let mut settings = Settings::load(&args.dir.join("phivault.toml"), std::env::vars())?;
    settings.server.listen = format!("127.0.0.1:{}", args.port);
    settings.log.level = std::env::var("PHIVAULT_LOG__LEVEL").unwrap_or_else(|_| "warn".into());
    telemetry::start(&settings.log).map_err(anyhow::Error::msg)?;
    let unlock = local::unlock(&settings)?;
    let vault = Arc::new(local::open(&settings, &unlock)?);
    let tokens = tokens(&args.dir, &vault)?;
    let ends = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&ends);
    making::when_told_to_end(move || told.store(true, Ordering::Relaxed))?;
    let go_on = || match ends.load(Ordering::Relaxed) {
        true => bail!("Broken off. What went in is kept; the same command goes on."),
        false => Ok(()),
    };
    if !args.empty {
        fill(&args.dir, &vault, &go_on)?;
    }
    vault.settle()?;
    let report = verify::check(&settings, verify::Against::default()).map_err(anyhow::Error::msg)?;
    println!("{}", verify::describe(&report));
    if report.verdict != Verdict::Intact {
        bail!("The trial vault was altered. Remove {} and start again.", args.dir.display());
    }
    go_on()?;
    serve::serve(&settings, &vault, |address| introduce(&address.to_string(), &args.dir, &tokens))
}

/// A vault that no demo made is not filled with made-up entries.
fn refuse_others(dir: &Path) -> anyhow::Result<()> {
    let ledger = keyfile::read_verifier_key(&KeyPaths::in_folder(&dir.join("keys")).verifier_key());
    if ledger.is_ok_and(|it| it.name().starts_with(&format!("{LEDGER}/"))) {
        return Ok(());
    }
    bail!("{} holds a vault that is no trial. Nothing was changed. Choose another folder with --dir.", dir.display());
}

fn create(args: &Args) -> anyhow::Result<()> {
    // A demo that was broken off as it began left its key file, and nothing under it.
    let is_other = |it: std::io::Result<std::fs::DirEntry>| it.is_ok_and(|it| it.file_name() != "unlock.key");
    if std::fs::read_dir(&args.dir).is_ok_and(|mut it| it.any(is_other)) {
        bail!(
            "{} is not empty and holds no trial vault. Choose another folder with --dir, or remove it.",
            args.dir.display()
        );
    }
    keyfile::create_folder(&args.dir)?;
    let key_file = args.dir.join("unlock.key");
    if !key_file.exists() {
        keyfile::create_key_file(&key_file)?;
    }
    let unlock = keyfile::read_key_file(&key_file)?;
    let how = Unlocking {
        passphrase_file: None,
        key_file: Some(&key_file),
        pepper_file: None,
        pkcs11: None,
        blind: args.blind,
    };
    let admin = make(&args.dir, &how, &unlock, Cost::default(), LEDGER)?;
    keyfile::create_private(&args.dir.join("admin.token"), format!("{admin}\n").as_bytes())?;
    eprintln!("A trial vault was made in {}.", args.dir.display());
    Ok(())
}

/// One token a role, made once.
fn tokens(dir: &Path, vault: &Vault) -> anyhow::Result<Tokens> {
    let made = |role: Role, label: &str| {
        let path = dir.join(format!("{}.token", role.name()));
        if !path.exists() {
            keyfile::create_private(&path, format!("{}\n", vault.local_token(role, label)?.1).as_bytes())?;
        }
        anyhow::Ok(keyfile::read_private(&path, "token file")?.trim().to_owned())
    };
    Ok(Tokens {
        submitter: made(Role::Submitter, SOURCE)?,
        officer: made(Role::Officer, "officer-demo")?,
        auditor: made(Role::Auditor, "auditor-demo")?,
        admin: made(Role::Admin, "admin")?,
    })
}

/// Submits the clinic's year through the vault's own door. The entries' ids are the same each time, so a run that was
/// broken off goes on where it stopped, and a finished one changes nothing.
fn fill(dir: &Path, vault: &Vault, go_on: &dyn Fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let marker = dir.join("clinic.until");
    let done = dir.join("clinic.done");
    if done.exists() {
        return Ok(());
    }
    if !marker.exists() {
        keyfile::create_private(&marker, Utc::now().to_rfc3339().as_bytes())?;
    }
    let until: DateTime<Utc> = keyfile::read_private(&marker, "marker")?
        .parse()
        .context("The trial vault is damaged; remove it and start again")?;
    let submissions = clinic::year(SEED, until);
    let bar = ProgressBar::new(submissions.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("filling {bar:30} {human_pos}/{human_len} entries, {per_sec}") {
        bar.set_style(style);
    }
    let caller = Caller { token_id: "local".into(), label: SOURCE.into(), role: Role::Submitter };
    let (mut accepted, began) = (0, std::time::Instant::now());
    for batch in submissions.chunks(BATCH) {
        go_on()?;
        let lines = batch.iter().map(|it| serde_json::to_vec(it).map(|bytes| json::parse(&bytes)));
        for outcome in vault.submit_batch(&caller, lines.collect::<Result<Vec<_>, _>>()?, false)? {
            accepted += u64::from(matches!(outcome, Outcome::Accepted(_)));
        }
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    keyfile::create_private(&done, b"")?;
    println!(
        "{accepted} entries of a synthetic clinic went in, each sealed and on disk, in {:.1} s.",
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

fn introduce(address: &str, dir: &Path, tokens: &Tokens) {
    let url = format!("http://{address}");
    let (nosy, litigant, folder) = (clinic::nosy_actor(), clinic::litigant(), dir.display());
    let program = std::env::args().next().unwrap_or_else(|| "phivault".into());
    println!(
        "
phivault listens on {url} (docs at {url}/docs)
This is a TRIAL on this machine only. Its key lies beside its data in {folder}; never put real data in.

Submit an entry, as a clinical application:
  curl -s {url}/v1/entries -H 'Authorization: Bearer {}' -H 'Content-Type: application/json' \\
    -d '{{\"action\":\"update\",\"actor\":{{\"id\":\"dr_smith\"}},\"patient\":{{\"id\":\"MRN-1\"}},\"record\":{{\"type\":\"Condition\",\"id\":\"c-1\"}},\"reason\":{{\"code\":\"TREAT\"}},\"changes\":[{{\"field\":\"diagnosis\",\"old\":\"Hypertension\",\"new\":\"Hypertension, Type 2 Diabetes\"}}]}}'

Read a user's access report, as a compliance officer (who is {nosy}, and why after hours?):
  curl -s '{url}/v1/reports/access?actor={nosy}&reason=HCOMPL' -H 'Authorization: Bearer {}'

Search the trail, as an auditor:
  curl -s '{url}/v1/entries?break_glass=true&limit=5' -H 'Authorization: Bearer {}'

Rotate the data key, as an admin:
  curl -s {url}/v1/keys/rotate -H 'Authorization: Bearer {}' -H 'Content-Type: application/json' -d '{{\"reason\":{{\"code\":\"HSYSADMIN\"}}}}'

The same with the command line, for which the tokens lie in {folder} (another shell, in this folder):
  export PHIVAULT_URL={url} PHIVAULT_TOKEN_FILE={folder}/officer.token
  {program} report access --actor {nosy} --reason HCOMPL
  {program} report make disclosures --patient {litigant} --for-person --reason HCOMPL --out accounting.pdf

Check that nothing was altered, as anybody: {program} verify --dir {folder}
Ctrl-C stops it; the same command picks it up again. Remove {folder} when you are done.",
        tokens.submitter, tokens.officer, tokens.auditor, tokens.admin,
    );
}
