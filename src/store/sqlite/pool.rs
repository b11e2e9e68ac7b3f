//! Read-only connections, opened when needed, kept, and bounded in number.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

use rusqlite::Connection;

use super::super::StoreError;
use super::open;

pub(super) struct Pool {
    path: PathBuf,
    /// The most connections at a time; who comes later waits.
    most: usize,
    state: Mutex<State>,
    returned: Condvar,
}

struct State {
    idle: Vec<Connection>,
    out: usize,
}

impl Pool {
    pub(super) fn new(path: &Path, most: usize) -> Self {
        Self {
            path: path.to_owned(),
            most,
            state: Mutex::new(State { idle: Vec::new(), out: 0 }),
            returned: Condvar::new(),
        }
    }

    /// Runs something with a connection.
    pub(super) fn with<T>(&self, run: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        run(self.on_demand().get()?)
    }

    /// A connection that is taken when it is first needed.
    pub(super) fn on_demand(&self) -> OnDemand<'_> {
        OnDemand { pool: self, connection: OnceCell::new() }
    }

    fn take(&self) -> Result<Connection, StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.out == self.most {
            state = self.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.out += 1;
        if let Some(connection) = state.idle.pop() {
            return Ok(connection);
        }
        drop(state);
        open::reader(&self.path).inspect_err(|_| self.give(None))
    }

    fn give(&self, connection: Option<Connection>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.out -= 1;
        state.idle.extend(connection);
        drop(state);
        self.returned.notify_one();
    }
}

/// Gives the connection back however the work with it ends.
pub(super) struct OnDemand<'a> {
    pool: &'a Pool,
    connection: OnceCell<Connection>,
}

impl OnDemand<'_> {
    pub(super) fn get(&self) -> Result<&Connection, StoreError> {
        if self.connection.get().is_none() {
            // Nobody else can have filled it meanwhile: the cell is of one thread.
            drop(self.connection.set(self.pool.take()?));
        }
        Ok(self.connection.get().expect("it was filled just now"))
    }
}

impl Drop for OnDemand<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.give(Some(connection));
        }
    }
}
