//! How much each caller makes in a day of what is kept for good, so that nobody uses it up for all. By the machine's own count of time, for
//! its clock may be set; a restart forgets it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::approval::refused;
use super::error::VaultError;

const DAY: Duration = Duration::from_secs(86_400);

/// What, and by whose token.
type Asked = (&'static str, String);

/// Since when, and how often.
#[derive(Default)]
pub(super) struct Daily(Mutex<HashMap<Asked, (Instant, usize)>>);

impl Daily {
    /// Counts one more.
    ///
    /// # Errors
    /// [`VaultError::Invalid`] when it would be more than so many within a day.
    pub(super) fn one_more(&self, what: &'static str, token_id: &str, most: usize) -> Result<(), VaultError> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (since, _)| since.elapsed() < DAY);
        let (_, count) = all.entry((what, token_id.to_owned())).or_insert_with(|| (Instant::now(), 0));
        if *count == most {
            let detail = format!("You asked for {most} {what} within a day; go on tomorrow, or let somebody else ask.");
            return Err(refused("", "too_many_today", detail));
        }
        *count += 1;
        Ok(())
    }
}
