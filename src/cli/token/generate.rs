//! `phivault token generate`: a token that nobody but its holder ever has.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;

use crate::cli::client::terminal;
use crate::vault::PlainToken;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The new file
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Writes the token and prints its hash.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let token = PlainToken::generate();
    let (path, mut file) = super::new_token_file(&args.out)?;
    let written = writeln!(file, "{}", token.expose()).and_then(|()| file.sync_all());
    written.with_context(|| format!("{} cannot be written", path.display()))?;
    terminal::print(&hex::encode(token.hashed().0))?;
    Ok(())
}
