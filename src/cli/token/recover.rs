//! `phivault token recover`: a way back in when no admin token is left, for whoever has the machine and the keyring's key.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::anyhow;

use crate::cli::local;
use crate::config::Settings;
use crate::domain::caller::Role;
use crate::telemetry;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The settings of the vault, which must be stopped
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Who it is for; people read it later
    #[arg(long, value_name = "TEXT", default_value = "recovered-admin")]
    label: String,

    /// A file with the passphrase, if the one that the settings name is there for the service only (a systemd credential)
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Makes the token, and records that it was made on the machine itself.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut settings = Settings::load(&args.config, std::env::vars())?;
    if args.passphrase_file.is_some() {
        settings.keys.passphrase_file.clone_from(&args.passphrase_file);
    }
    telemetry::start(&settings.log).map_err(|error| anyhow!(error))?;
    let unlock = local::unlock(&settings)?;
    let vault = local::open(&settings, &unlock)?;
    let made = vault.local_token(Role::Admin, &args.label);
    vault.stop()?;
    let (view, token) = made.map_err(|error| anyhow!(error.to_string()))?;
    eprintln!("admin token {} is made and recorded; start the vault and revoke those that were lost", view.id);
    super::print_secret(&token)?;
    Ok(ExitCode::SUCCESS)
}
