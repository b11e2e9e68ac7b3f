//! The phivault program: everything it can do is a command; see `phivault help`.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use zeroizing_alloc::ZeroAlloc;

/// Entries are many small pieces that one thread makes and another gives back, which the C library's allocator does slowly. What is given
/// back is wiped: values and passwords pass through the buffers of libraries that know nothing of them.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<MiMalloc> = ZeroAlloc(MiMalloc);

fn main() -> ExitCode {
    phivault::cli::run()
}
