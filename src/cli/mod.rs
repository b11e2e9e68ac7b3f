//! The command line. Help is documentation: each command says what it does, what it needs and what comes next.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod admin;
pub mod backup;
pub mod client;
pub mod demo;
pub mod doctor;
pub mod evidence;
pub mod hsm;
pub mod import;
pub mod init;
pub mod keys;
pub mod local;
mod making;
pub mod receipt;
pub mod record;
pub mod report;
pub mod retention;
mod schedule;
pub mod serve;
pub mod token;
pub mod verify;
pub mod verify_report;
pub mod witness;

/// An encrypted, verifiable audit vault for health data.
///
/// Applications submit every change to and access of health data with a reason; values are sealed, everything is chained
/// in a ledger; officers search, reveal and report; anybody can verify.
#[derive(Parser)]
#[command(
    name = "phivault",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    after_help = "To look at it: phivault demo\nTo set one up: phivault init --dir DIR, then phivault serve --config DIR/phivault.toml"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Args),
    Init(init::Args),
    Serve(serve::Args),
    Doctor(doctor::Args),
    Import(import::Args),
    Verify(verify::Args),
    VerifyReceipt(receipt::Args),
    Disclose(evidence::DiscloseArgs),
    VerifyDisclosure(evidence::VerifyDisclosureArgs),
    Trail(evidence::TrailArgs),
    VerifyTrail(evidence::VerifyTrailArgs),
    VerifyReport(verify_report::Args),
    Backup(backup::BackupArgs),
    Restore(backup::RestoreArgs),
    Report(report::Args),
    Record(record::Args),
    Token(token::Args),
    Keys(keys::Args),
    Approval(admin::Args),
    Retention(retention::RetentionArgs),
    Hold(retention::HoldArgs),
    Witness(witness::Args),
}

/// Runs what was asked for; 0 is success, 1 a finding or refusal, 2 that it could not be done.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = local::harden() {
        eprintln!("warning: {error}");
    }
    let result = match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Init(args) => init::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::VerifyReceipt(args) => receipt::run(&args),
        Command::Disclose(args) => remote(evidence::disclose(args)),
        Command::VerifyDisclosure(args) => evidence::check_disclosure(&args),
        Command::Trail(args) => remote(evidence::trail(args)),
        Command::VerifyTrail(args) => evidence::check_trail(&args),
        Command::VerifyReport(args) => verify_report::run(&args),
        Command::Backup(args) => backup::back_up(&args),
        Command::Restore(args) => backup::restore(&args),
        Command::Import(args) => remote(import::run(args)),
        Command::Report(args) => remote(report::run(args)),
        Command::Record(args) => remote(record::run(args)),
        Command::Token(args) => token::run(args),
        Command::Witness(args) => witness::run(args),
        Command::Keys(args) => remote(keys::run(args)),
        Command::Approval(args) => remote(admin::run(args)),
        Command::Retention(args) => remote(retention::retention(args)),
        Command::Hold(args) => remote(retention::hold(args)),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}

/// Runs a command that speaks to a server.
fn remote<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
