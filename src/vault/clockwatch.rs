//! Whether the machine's clock was set while the vault runs. Times of receipt never go back whatever it does; that it was set is
//! recorded, for every time that is told afterwards rests on it (NIST AU-8).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::domain::action::Action;
use crate::domain::time::Clock;

use super::keys::Keys;
use super::status::Counters;
use super::writer::{Queue, commit_own, own_meta};

/// Seconds that the clock may move against the machine's own count within an hour: slewing moves it 1.8 (adjtimex(2), 500 ppm).
const TOLERANCE: i64 = 2;
/// Microseconds.
const AN_HOUR: i64 = 3_600_000_000;
/// The fact that says by how much.
const JUMP: &str = "clock_jump_seconds";

pub(super) struct ClockWatch {
    clock: Arc<dyn Clock>,
    keys: Arc<Keys>,
    counters: Arc<Counters>,
    queue: Queue,
    /// The clock, and the machine's own count, at a look of a while ago.
    last: (i64, Instant),
}

impl ClockWatch {
    pub(super) fn new(clock: Arc<dyn Clock>, keys: Arc<Keys>, counters: Arc<Counters>, queue: Queue) -> Self {
        let last = (clock.now().0, Instant::now());
        Self { clock, keys, counters, queue, last }
    }

    /// Looks at the clock, about once a second.
    pub(super) fn look(&mut self) {
        let now = (self.clock.now().0, Instant::now());
        let passed = i64::try_from(now.1.duration_since(self.last.1).as_micros()).unwrap_or(i64::MAX);
        let jump = (now.0.saturating_sub(self.last.0).saturating_sub(passed)) / 1_000_000;
        if jump.abs() < TOLERANCE {
            // Held against a look of a while ago, so that many small steps show as well; what keeps clocks right moves them less.
            if passed >= AN_HOUR {
                self.last = now;
            }
            return;
        }
        self.last = now;
        self.counters.clock_jumps.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            seconds = jump,
            "the clock of this machine was set; times of receipt do not go back, but see who set it"
        );
        commit_own(&self.queue, &self.keys, &own_meta(Action::INTEGRITY, vec![(JUMP.into(), jump.to_string())]));
    }
}
