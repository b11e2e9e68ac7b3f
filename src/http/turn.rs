//! Turns: how much is worked on at a time, for whom, and how long the next may wait for it.
//!
//! While more comes than can be done, waiting only makes everybody late, however long the queue is. So who waits has
//! patience while the queue was empty a moment ago, for that is a burst and passes; when it was never empty, nobody waits
//! longer than about the time that his own work takes (controlled delay: Nichols and Jacobson, ACM Queue 10(5), 2012).
//! Each token (or network, where there is none yet) has a queue of its own and its share of the turns, and one share is always
//! left for who comes next, so that one application that floods the vault is late by itself.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

/// A queue that was never empty for so long is more than a burst.
const BURST: Duration = Duration::from_millis(100);
/// An overload is over when so long nobody was sent away. Less, and the queue would fill again each time it was empty for a moment.
const RELIEF: Duration = Duration::from_secs(1);
/// How long one waits in an overload, and a millisecond more for so many bytes: about what a core does in that.
const LITTLE: Duration = Duration::from_millis(5);
const BYTES_A_MILLISECOND: usize = 8 << 10;
/// How many times as long one waits in a burst.
const PATIENCE: u32 = 10;

/// Turns at one kind of work.
pub(super) struct Turns(Arc<Desk>);

/// A turn. It ends when it is dropped, and the next has it.
pub(super) struct Turn {
    desk: Arc<Desk>,
    token: String,
}

struct Desk {
    at_a_time: usize,
    /// Those of one token who may wait.
    waiting: usize,
    /// How long one waits, whatever comes; else it goes by the work and the load.
    patience: Option<Duration>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: usize,
    /// Turns that were given so far.
    given: u64,
    /// By token: those that hold a turn or wait for one.
    tokens: HashMap<String, Share>,
}

struct Share {
    held: usize,
    /// When it came or had a turn last, as a number of `given`.
    served: u64,
    queue: VecDeque<oneshot::Sender<Turn>>,
    /// When nobody waited last.
    calm: Instant,
    /// When somebody was sent away last in an overload.
    pressed: Option<Instant>,
}

impl Turns {
    /// So many at a time, and so many of one token who may wait. One token alone has half of them at most.
    pub(super) fn new(at_a_time: usize, waiting: usize) -> Self {
        Self(Arc::new(Desk { at_a_time, waiting, patience: None, state: Mutex::default() }))
    }

    /// The same, where each waits so long, whatever comes.
    pub(super) fn with_patience(at_a_time: usize, waiting: usize, patience: Duration) -> Self {
        Self(Arc::new(Desk { at_a_time, waiting, patience: Some(patience), state: Mutex::default() }))
    }

    /// Whether there is no turn to be had soon, so that not even the work need be read.
    pub(super) fn are_hopeless(&self, token: &str) -> bool {
        let mut state = self.0.state();
        let free = state.are_free(&self.0, token);
        state.tokens.get_mut(token).is_some_and(|share| !free && share.is_full(&self.0))
    }

    /// A turn at work of so many bytes. None when too many wait or it takes too long.
    pub(super) async fn take(&self, token: &str, bytes: usize) -> Option<Turn> {
        let (sender, turn) = oneshot::channel();
        let patience = {
            let mut state = self.0.state();
            let share = match state.tokens.get_mut(token) {
                Some(share) => share,
                None => {
                    let given = state.given;
                    state.tokens.entry(token.to_owned()).or_insert_with(|| Share::new(given))
                }
            };
            share.queue.retain(|it| !it.is_closed());
            if share.queue.is_empty() {
                share.calm = Instant::now();
            }
            if share.is_full(&self.0) {
                return None;
            }
            share.queue.push_back(sender);
            self.0.patience.unwrap_or_else(|| share.patience(bytes))
        };
        self.0.serve();
        let turn = tokio::time::timeout(patience, turn).await.ok().and_then(Result::ok);
        if turn.is_none()
            && let Some(share) = self.0.state().tokens.get_mut(token)
        {
            share.is_pressed();
        }
        turn
    }
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives turns that are free to those who wait.
    fn serve(self: &Arc<Self>) {
        while let Some((token, next)) = self.next() {
            // Who gave up this moment gives it back by dropping it; the lock must be free for that.
            drop(next.send(Turn { desk: self.clone(), token }));
        }
    }

    /// The first in the queue of the token that has fewest turns, and among those came, or had its last one, longest ago.
    fn next(&self) -> Option<(String, oneshot::Sender<Turn>)> {
        let mut state = self.state();
        state.tokens.retain(|_, share| {
            share.queue.retain(|it| !it.is_closed());
            share.held > 0 || !share.queue.is_empty()
        });
        let waiting = state.tokens.iter().filter(|(_, share)| !share.queue.is_empty());
        let token = waiting.min_by_key(|(_, share)| (share.held, share.served))?.0.clone();
        if !state.are_free(self, &token) {
            return None;
        }
        state.given += 1;
        let given = state.given;
        let share = state.tokens.get_mut(&token)?;
        let next = share.queue.pop_front()?;
        (share.held, share.served) = (share.held + 1, given);
        state.held += 1;
        Some((token, next))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        {
            let mut state = self.desk.state();
            state.held -= 1;
            if let Some(share) = state.tokens.get_mut(&self.token) {
                share.held -= 1;
            }
        }
        self.desk.serve();
    }
}

impl State {
    /// Whether a token may have one turn more: as many as every other that asks, with a share to spare.
    fn are_free(&self, desk: &Desk, token: &str) -> bool {
        let (held, known) = self.tokens.get(token).map_or((0, 0), |it| (it.held, 1));
        let asking = self.tokens.len() + 1 - known;
        self.held < desk.at_a_time && held < (desk.at_a_time / (asking + 1)).max(1)
    }
}

impl Share {
    fn new(given: u64) -> Self {
        Self { held: 0, served: given, queue: VecDeque::new(), calm: Instant::now(), pressed: None }
    }

    /// Whether nobody else may wait. In an overload few may, just so many that the next turn is taken at once.
    fn is_full(&mut self, desk: &Desk) -> bool {
        let most = if desk.patience.is_none() && self.is_overload() {
            self.held.div_ceil(2).clamp(1, desk.waiting)
        } else {
            desk.waiting
        };
        if self.queue.len() >= most {
            self.queue.retain(|it| !it.is_closed());
        }
        let is_full = self.queue.len() >= most;
        if is_full {
            self.is_pressed();
        }
        is_full
    }

    fn patience(&self, bytes: usize) -> Duration {
        let own_work = LITTLE + Duration::from_millis((bytes / BYTES_A_MILLISECOND) as u64);
        if self.is_overload() { own_work } else { own_work * PATIENCE }
    }

    fn is_overload(&self) -> bool {
        self.calm.elapsed() >= BURST || self.pressed.is_some_and(|it| it.elapsed() < RELIEF)
    }

    /// Somebody was sent away.
    fn is_pressed(&mut self) {
        if self.is_overload() {
            self.pressed = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests;
