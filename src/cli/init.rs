//! `phivault init`: makes a vault.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use zeroize::Zeroizing;

use crate::domain::caller::Role;
use crate::keyfile;
use crate::vault::{self, Cost, Creation, MIN_PASSPHRASE_BYTES, Unlock};

use crate::config::Pkcs11;

use super::hsm::{self, Pkcs11Args};
use super::local;
use super::making::{self, Making};

/// Make a vault: database, keyring, signing key, lock and settings, and the first admin token
///
/// Everything goes into DIR: phivault.toml, data/ and keys/. Nothing that exists is overwritten. The keyring is sealed under
/// a passphrase (asked for twice, or from a file or descriptor) or under a key file. Without it no value can ever be
/// read again, so keep it twice, apart from the data. The admin token is shown once.
///
/// Afterwards: phivault serve --config DIR/phivault.toml
#[derive(clap::Args)]
pub struct Args {
    /// The folder of the new vault
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    /// A file whose first line is the passphrase (readable by its owner only)
    #[arg(long, value_name = "FILE", group = "unlock")]
    passphrase_file: Option<PathBuf>,

    /// An open file descriptor that holds the passphrase
    #[arg(long, value_name = "N", group = "unlock")]
    passphrase_fd: Option<i32>,

    /// A file with 64 hex digits that the passphrase shall count only together with (make one: openssl rand -hex 32)
    #[arg(long, value_name = "FILE", conflicts_with = "key_file")]
    pepper_file: Option<PathBuf>,

    /// A key file with 64 hex digits instead of a passphrase (make one: openssl rand -hex 32)
    #[arg(long, value_name = "FILE", group = "unlock")]
    key_file: Option<PathBuf>,

    #[command(flatten)]
    pkcs11: Pkcs11Args,

    /// Blind patient ids on disk (recommended for production)
    #[arg(long)]
    blind: bool,

    /// The name of the ledger, your own domain; a random id is added
    #[arg(long, value_name = "NAME", default_value = "phivault.local")]
    name: String,

    /// Memory for stretching the passphrase, MiB (Argon2id, RFC 9106)
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..=4096))]
    argon2_mib: u32,
}

/// How a new passphrase can be given.
const WAYS: &str = "give --passphrase-file, --passphrase-fd or --key-file, or run it on a terminal";

/// Does it.
///
/// # Errors
/// One sentence with the remedy.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    making::refuse_a_vault(&args.dir)?;
    let pkcs11 = args.pkcs11.given();
    let unlock = match (&args.key_file, &pkcs11) {
        (Some(path), _) => keyfile::read_key_file(path)?,
        (None, Some(pkcs11)) => hsm::unlock(pkcs11)?,
        (None, None) => {
            let unlock = new_passphrase(args.passphrase_file.as_deref(), args.passphrase_fd, WAYS)?;
            local::peppered(unlock, args.pepper_file.as_deref())?
        }
    };
    let how = Unlocking {
        passphrase_file: args.passphrase_file.as_deref(),
        key_file: args.key_file.as_deref(),
        pepper_file: args.pepper_file.as_deref(),
        pkcs11: pkcs11.as_ref(),
        blind: args.blind,
    };
    crate::telemetry::start(&crate::config::Log { level: "warn".into(), ..Default::default() })
        .map_err(|error| anyhow!(error))?;
    let token =
        make(&args.dir, &how, &unlock, Cost { memory_kib: args.argon2_mib * 1024, ..Cost::default() }, &args.name)?;
    let dir = args.dir.display();
    eprintln!("The vault is made. Next:");
    eprintln!("  1. Keep the passphrase or key file twice, apart from the data: without it nothing can be revealed.");
    eprintln!("  2. Back up {dir}/keys, and the lock ({dir}/keys/checkpoint.lock) apart from the database.");
    eprintln!("  3. phivault serve --config {}", args.dir.join("phivault.toml").display());
    eprintln!("The admin token, shown this once (give it to `phivault token create` in a file):");
    let mut out = std::io::stdout().lock();
    writeln!(out, "{token}").and_then(|()| out.flush()).context(
        "The vault is made, but its admin token could not be shown; `phivault token recover` makes another one",
    )?;
    Ok(ExitCode::SUCCESS)
}

/// What goes into the settings of a new vault.
pub struct Unlocking<'a> {
    /// Where the passphrase is.
    pub passphrase_file: Option<&'a Path>,
    /// Where the key file is.
    pub key_file: Option<&'a Path>,
    /// Where the pepper is.
    pub pepper_file: Option<&'a Path>,
    /// Which key of a security module.
    pub pkcs11: Option<&'a Pkcs11>,
    /// Whether patient ids are blinded.
    pub blind: bool,
}

/// Makes a vault in a folder and gives back its first admin token; `demo` uses it too.
///
/// # Errors
/// One sentence with the remedy.
pub fn make(dir: &Path, how: &Unlocking<'_>, unlock: &Unlock, cost: Cost, name: &str) -> anyhow::Result<String> {
    let text = settings_text(how)?;
    let making = Making::begin(dir)?;
    let mut settings = making.settings();
    if how.blind {
        settings.entries.patient_ids = crate::config::PatientIds::Blind;
    }
    making.finish(&text, |making| {
        let (data, keys, blind) = (settings.storage.data_dir.clone(), local::key_paths(&settings), how.blind);
        let creation = Creation { data, keys, unlock, cost, name, blind };
        vault::create(&creation, &local::SystemClock).map_err(|error| anyhow!(error.to_string()))?;
        making.go_on();
        let vault = local::open_new(&settings, unlock, None)?;
        making.go_on();
        let (_, token) = vault.local_token(Role::Admin, "admin")?;
        vault.stop()?;
        Ok(token)
    })
}

/// A new passphrase from a file or descriptor, or asked for twice.
pub(super) fn new_passphrase(file: Option<&Path>, fd: Option<i32>, ways: &str) -> anyhow::Result<Unlock> {
    let unlock = local::passphrase(file, fd, ways, || {
        let first = Zeroizing::new(rpassword::prompt_password("New passphrase for the keyring: ")?);
        let again = Zeroizing::new(rpassword::prompt_password("The same again: ")?);
        if *first != *again {
            bail!("The two passphrases differ. Nothing was made.");
        }
        Ok(first)
    })?;
    match &unlock {
        Unlock::Passphrase(text) if text.len() < MIN_PASSPHRASE_BYTES => {
            bail!(
                "The passphrase has fewer than {MIN_PASSPHRASE_BYTES} bytes. Five random words are easy to keep and hard to guess."
            )
        }
        _ => Ok(unlock),
    }
}

pub(super) fn settings_text(how: &Unlocking<'_>) -> anyhow::Result<String> {
    let mut text = String::from(
        "# Settings of this vault; config/default.toml of phivault documents every one.\n\n[storage]\ndata_dir = \"data\"\n\n",
    );
    text.push_str(
        "[keys]\nkeyring = \"keys/keyring\"\nsigning_key = \"keys/signing.key\"\nlock = \"keys/checkpoint.lock\"\n",
    );
    let paths =
        [("passphrase_file", how.passphrase_file), ("pepper_file", how.pepper_file), ("key_file", how.key_file)];
    for (name, path) in paths {
        if let Some(path) = path {
            let path = path.canonicalize().with_context(|| format!("{} cannot be found", path.display()))?;
            text.push_str(&format!("{name} = {}\n", toml::Value::from(path.display().to_string())));
        }
    }
    if let Some(pkcs11) = how.pkcs11 {
        text.push_str(&format!(
            "\n[keys.pkcs11]\n{}",
            toml::to_string(pkcs11).context("The settings cannot be written")?
        ));
    }
    let patient_ids = if how.blind { "blind" } else { "plain" };
    text.push_str(&format!("\n[entries]\npatient_ids = \"{patient_ids}\"\n"));
    Ok(text)
}
