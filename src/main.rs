//! The phivault program: everything it can do is a command; see `phivault help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    phivault::cli::run()
}
