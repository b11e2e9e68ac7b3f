//! Named points at which a test ends the process, as a power cut would. In release builds there are none.

/// Ends the process here if `PHIVAULT_TEST_DIE_AT` names this point. Nothing is unwound, nothing is flushed.
pub(super) fn point(name: &str) {
    if cfg!(debug_assertions) && std::env::var_os("PHIVAULT_TEST_DIE_AT").is_some_and(|it| it == name) {
        std::process::abort();
    }
}
