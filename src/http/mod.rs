//! The JSON API: translation between HTTP and the vault, and nothing else.
//!
//! Handlers take the caller, read the input, call one method of the vault and wrap the answer. What is allowed and what is
//! recorded is decided behind that method.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::middleware::from_fn;
use actix_web::web::Data;
use actix_web::{App, HttpServer, web};
use tokio::sync::Semaphore;

use crate::vault::Vault;

mod body;
mod caller;
mod entries;
mod error;
mod frame;
mod health;
mod keys;
mod ledger;
mod openapi;
mod reports;
mod reveal;
mod routes;
mod tokens;

pub use error::ApiError;
pub use openapi::document;

/// Threads that parse and answer; what blocks runs beside them.
const WORKERS: usize = 2;

/// What the server is bounded by.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one submission or other small body.
    pub body_bytes: usize,
    /// Bytes of a batch.
    pub batch_bytes: usize,
    /// Lines of a batch.
    pub batch_lines: usize,
    /// KiB of all bodies in flight.
    pub bodies_kib: usize,
    /// Time for a body to arrive.
    pub body_seconds: u64,
    /// Open connections.
    pub connections: usize,
}

/// What handlers share.
pub struct Api {
    /// The vault.
    vault: Arc<Vault>,
    limits: Limits,
    /// Room for bodies in flight, KiB.
    bodies: Arc<Semaphore>,
    metrics: health::Metrics,
}

impl Api {
    fn body_deadline(&self) -> Duration {
        Duration::from_secs(self.limits.body_seconds)
    }
}

/// A bound server that does not answer yet.
pub struct Server {
    server: actix_web::dev::Server,
    addresses: Vec<SocketAddr>,
}

impl Server {
    /// Binds the address; port 0 takes a free one.
    ///
    /// # Errors
    /// What the system says, such as that the port is taken.
    pub fn bind(vault: Arc<Vault>, listen: SocketAddr, limits: Limits) -> std::io::Result<Self> {
        let connections = limits.connections;
        let bodies = Arc::new(Semaphore::new(limits.bodies_kib));
        let api = Data::new(Api { vault, limits, bodies, metrics: health::Metrics::default() });
        let server = HttpServer::new(move || {
            App::new()
                .app_data(api.clone())
                // Outermost: names the request, writes problems, headers and diagnostics.
                .wrap(from_fn(frame::frame))
                .configure(routes::all)
                .default_service(web::to(frame::no_such_route))
        })
        .workers(WORKERS)
        // The bound is each worker's own.
        .max_connections(connections.div_ceil(WORKERS))
        .keep_alive(Duration::from_secs(15))
        .client_request_timeout(Duration::from_secs(5))
        .client_disconnect_timeout(Duration::from_secs(2))
        .shutdown_timeout(30)
        // Signals are the program's business: it stops the server, then the vault.
        .disable_signals()
        .bind(listen)?;
        let addresses = server.addrs();
        Ok(Self { server: server.run(), addresses })
    }

    /// The address it is bound to.
    pub fn address(&self) -> SocketAddr {
        *self.addresses.first().expect("a bound server has an address")
    }

    /// Stops the server: no new connections, what was taken is finished.
    pub fn handle(&self) -> ServerHandle {
        self.server.handle()
    }

    /// Serves until it is stopped.
    ///
    /// # Errors
    /// What the system says.
    pub async fn run(self) -> std::io::Result<()> {
        self.server.await
    }
}
