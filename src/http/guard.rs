//! Connections that nobody can hold for nothing: between requests a client has so long to send the next head, and while it is
//! answered it must take the answer at some pace. actix bounds the first head and the silence of an idle connection, not the rest.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use actix_http::Extensions;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::crowd::Counted;
use super::tls::Wire;

/// Bytes a second that a client must take while it keeps the server waiting.
const LEAST_PACE: u64 = 16 << 10;

/// What the connection and the requests on it tell each other.
pub(super) struct Activity {
    in_flight: Cell<u32>,
    /// When the last request ended, or bytes of its answer were last taken.
    idle_since: Cell<Instant>,
    requests: Cell<u64>,
}

impl Activity {
    fn new() -> Rc<Self> {
        Rc::new(Self { in_flight: Cell::new(0), idle_since: Cell::new(Instant::now()), requests: Cell::new(0) })
    }

    /// A request has begun: its head is read. It ends when what is given back is dropped.
    pub(super) fn begin(self: &Rc<Self>) -> InFlight {
        self.in_flight.set(self.in_flight.get() + 1);
        self.requests.set(self.requests.get() + 1);
        InFlight(self.clone())
    }
}

/// A request that is being answered.
pub(super) struct InFlight(Rc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get().saturating_sub(1));
        self.0.idle_since.set(Instant::now());
    }
}

/// How long a connection may idle, and may keep an answer waiting.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    pub(super) idle: Duration,
    pub(super) write: Duration,
}

/// A connection with deadlines.
pub(super) struct Guarded {
    io: Wire,
    _counted: Counted,
    patience: Patience,
    activity: Rc<Activity>,
    idle: Option<Pin<Box<Sleep>>>,
    writing: Writing,
}

/// How an answer is taken, since the request began.
#[derive(Default)]
struct Writing {
    request: u64,
    written: u64,
    waited: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Guarded {
    pub(super) fn new(io: Wire, counted: Counted, patience: Patience) -> Self {
        Self { io, _counted: counted, patience, activity: Activity::new(), idle: None, writing: Writing::default() }
    }

    /// What handlers may know of the connection.
    pub(super) fn describe(&self, data: &mut Extensions) {
        data.insert(self.activity.clone());
        if let Some(brought) = self.io.client_certificate() {
            data.insert(brought);
        }
    }

    /// Whether nothing is being answered and the client has had its time.
    fn is_overdue(&self) -> bool {
        let answering = self.activity.in_flight.get() > 0 || self.writing.waiting.is_some();
        !answering && self.activity.idle_since.get().elapsed() >= self.patience.idle
    }

    /// The time left to take the answer: some at first, and more as bytes are taken.
    fn pace_left(&self) -> Duration {
        let earned = Duration::from_secs_f64(self.writing.written as f64 / LEAST_PACE as f64);
        (self.patience.write + earned).saturating_sub(self.writing.waited)
    }

    fn after_write(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let request = self.activity.requests.get();
        if self.writing.request != request {
            self.writing = Writing { request, ..Writing::default() };
        }
        match polled {
            Poll::Ready(result) => {
                if let Some((since, _)) = self.writing.waiting.take() {
                    self.writing.waited += since.elapsed();
                }
                if let Ok(count) = &result {
                    self.writing.written += *count as u64;
                    self.activity.idle_since.set(Instant::now());
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                let left = self.pace_left();
                let (_, sleep) =
                    self.writing.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
                ready!(sleep.as_mut().poll(context));
                Poll::Ready(Err(timed_out("the client does not take its answer")))
            }
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Poll::Ready(result) = Pin::new(&mut this.io).poll_read(context, buffer) {
            // A byte now and then does not buy time.
            let overdue = this.is_overdue();
            return Poll::Ready(if overdue { Err(timed_out("no request came")) } else { result });
        }
        loop {
            if this.is_overdue() {
                return Poll::Ready(Err(timed_out("no request came")));
            }
            // While something is answered this only looks again now and then.
            let left = this.patience.idle.saturating_sub(this.activity.idle_since.get().elapsed());
            let left = left.max(Duration::from_millis(100));
            let sleep = this.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep(left)));
            ready!(sleep.as_mut().poll(context));
            this.idle = None;
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(context, bytes);
        self.after_write(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(context, parts);
        self.after_write(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

fn timed_out(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}
