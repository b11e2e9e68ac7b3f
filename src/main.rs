//! The phivault program: everything it can do is a command; see `phivault help`.

use std::process::ExitCode;

/// Entries are many small pieces that one thread makes and another gives back, which the C library's allocator does slowly.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    phivault::cli::run()
}
