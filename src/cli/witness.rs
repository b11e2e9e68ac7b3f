//! `phivault witness`: a witness for other machines' ledgers.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::Subcommand;

use crate::config::Log;
use crate::telemetry;
use crate::witness::server::{self, Witness};

use super::client::terminal;

/// Be a witness: remember how far ledgers have come, so that none is put back or forked unnoticed (C2SP tlog-witness)
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a witness's folder with its key, and print its public key
    Init(Init),
    /// Answer the ledgers that DIR/logs.policy names
    ///
    /// Run it on another machine than the vaults it follows, under another administrator. It writes what it cosigns before it
    /// answers. Anybody may ask for the newest checkpoint it knows of a ledger: GET /<SHA-256 of the origin, hex>/checkpoint.
    Serve(Serve),
}

#[derive(clap::Args)]
struct Init {
    /// The folder to make
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    /// A name for it, a URL without scheme
    #[arg(long, value_name = "NAME")]
    name: String,
}

#[derive(clap::Args)]
struct Serve {
    /// The witness's folder
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    /// The address and port; beyond this machine put a proxy with TLS in front
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8322")]
    listen: std::net::SocketAddr,
}

/// Does it.
///
/// # Errors
/// One sentence with the remedy.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Init(args) => {
            let key = server::create(&args.dir, &args.name)?;
            let dir = args.dir.display();
            eprintln!("The witness is made. Name the ledgers it follows in {dir}/logs.policy, one line each:");
            eprintln!("  log <contents of the ledger's signing.vkey>");
            eprintln!(
                "then run: phivault witness serve --dir {dir}. Its public key, for the policies of those ledgers:"
            );
            terminal::print(&key.to_string())?;
        }
        Command::Serve(args) => {
            telemetry::start(&Log::default()).map_err(|error| anyhow!(error))?;
            let witness = Witness::open(&args.dir)?;
            if witness.logs() == 0 {
                return Err(anyhow!(
                    "{}/logs.policy names no log; add: log <contents of the ledger's signing.vkey>",
                    args.dir.display()
                ));
            }
            let announce = |address| println!("phivault witness listens on http://{address}");
            actix_web::rt::System::new()
                .block_on(server::serve(witness, args.listen, announce))
                .context("The witness failed")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
