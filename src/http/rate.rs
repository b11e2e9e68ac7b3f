//! How much one token may ask for, so that one application that runs wild, or one officer's script, does not take the vault from all
//! others. Beyond its rate a token is answered 429 at once; how often stands in one entry a minute.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::domain::caller::{Caller, Role};

/// Seconds of its rate that a token may use at once.
const BURST: f64 = 2.0;

/// What each token has used.
pub(super) struct Rates {
    /// Entries a second from a submitter's token, requests a second from any other; 0: no bound.
    submits: f64,
    queries: f64,
    /// By token. Only tokens that are valid come here, so there are no more than the vault made.
    tokens: Mutex<HashMap<String, Bucket>>,
}

struct Bucket {
    caller: Caller,
    /// What is left of the burst; less than nothing after a large batch.
    left: f64,
    at: Instant,
    refused: u64,
}

/// How often tokens were refused, for the one who records it.
#[derive(Clone)]
pub struct OverLimit(Arc<Rates>);

impl OverLimit {
    pub(super) fn of(rates: Arc<Rates>) -> Self {
        Self(rates)
    }

    /// Who was refused since the last time, and how often.
    pub fn take(&self) -> Vec<(Caller, u64)> {
        let mut tokens = self.0.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = tokens.values_mut().filter(|it| it.refused > 0);
        refused.map(|it| (it.caller.clone(), std::mem::take(&mut it.refused))).collect()
    }
}

impl Rates {
    pub(super) fn new(submits: u32, queries: u32) -> Self {
        Self { submits: f64::from(submits), queries: f64::from(queries), tokens: Mutex::default() }
    }

    /// Lets a request pass, or says after how many seconds it may be tried again.
    pub(super) fn pass(&self, caller: &Caller, now: Instant) -> Result<(), u64> {
        self.with(caller, now, |bucket, rate| {
            if bucket.left >= 1.0 {
                bucket.left -= 1.0;
                return Ok(());
            }
            bucket.refused += 1;
            // Whole seconds, at least one; a debt is bounded by what the batches of all connections may hold.
            Err(((1.0 - bucket.left) / rate).ceil().max(1.0) as u64)
        })
        .unwrap_or(Ok(()))
    }

    /// Counts the other entries of a batch that has passed. They are taken; what comes next waits for them.
    pub(super) fn charge(&self, caller: &Caller, more: usize, now: Instant) {
        self.with(caller, now, |bucket, _| bucket.left -= more as f64);
    }

    fn with<T>(&self, caller: &Caller, now: Instant, then: impl FnOnce(&mut Bucket, f64) -> T) -> Option<T> {
        let rate = if caller.role == Role::Submitter { self.submits } else { self.queries };
        if rate == 0.0 {
            return None;
        }
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Bucket { caller: caller.clone(), left: rate * BURST, at: now, refused: 0 };
        let bucket = match tokens.get_mut(&caller.token_id) {
            Some(bucket) => bucket,
            None => tokens.entry(caller.token_id.clone()).or_insert_with(fresh),
        };
        let earned = now.saturating_duration_since(bucket.at).as_secs_f64() * rate;
        bucket.left = (bucket.left + earned).min(rate * BURST);
        bucket.at = bucket.at.max(now);
        Some(then(bucket, rate))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn caller(id: &str, role: Role) -> Caller {
        Caller { token_id: id.into(), label: id.into(), role }
    }

    #[test]
    fn a_token_may_use_its_rate_and_a_burst_and_no_other_pays_for_it() {
        let (rates, begin) = (Rates::new(10, 5), Instant::now());
        let (app, officer) = (caller("a", Role::Submitter), caller("o", Role::Officer));
        let passed =
            |who: &Caller, tries: usize, at: Instant| (0..tries).filter(|_| rates.pass(who, at).is_ok()).count();
        assert_eq!((passed(&app, 50, begin), passed(&officer, 50, begin)), (20, 10));
        assert_eq!(passed(&caller("b", Role::Submitter), 50, begin), 20);
        let later = begin + Duration::from_secs(1);
        assert_eq!((passed(&app, 50, later), passed(&officer, 50, later)), (10, 5));
        let much_later = begin + Duration::from_secs(3_600);
        assert_eq!(passed(&app, 50, much_later), 20, "what was not used is not saved up");
        let mut told: Vec<_> =
            OverLimit::of(Arc::new(rates)).take().into_iter().map(|(who, refused)| (who.label, refused)).collect();
        told.sort();
        assert_eq!(told, [("a".into(), 30 + 40 + 30), ("b".into(), 30), ("o".into(), 40 + 45)]);
    }

    #[test]
    fn a_batch_counts_by_its_entries_and_the_next_request_is_told_how_long_to_wait() {
        let (rates, begin) = (Rates::new(10, 5), Instant::now());
        let app = caller("a", Role::Submitter);
        assert!(rates.pass(&app, begin).is_ok());
        rates.charge(&app, 99, begin);
        assert_eq!(rates.pass(&app, begin), Err(9), "80 entries over, at 10 a second, and one of its own");
        assert!(rates.pass(&app, begin + Duration::from_secs(9)).is_ok());
    }

    #[test]
    fn without_a_rate_nothing_is_counted() {
        let rates = Rates::new(0, 0);
        let app = caller("a", Role::Submitter);
        assert!((0..10_000).all(|_| rates.pass(&app, Instant::now()).is_ok()));
    }
}
