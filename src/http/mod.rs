//! The JSON API: translation between HTTP and the vault, and nothing else.
//!
//! Handlers take the caller, read the input, call one method of the vault and wrap the answer. What is allowed and what is
//! recorded is decided behind that method.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{Extensions, HttpService, Protocol};
use actix_service::{IntoServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::dev::{AppConfig, ServerHandle};
use actix_web::middleware::from_fn;
use actix_web::rt::net::TcpStream;
use actix_web::web::Data;
use actix_web::{App, web};
use ipnet::IpNet;
use tokio::sync::{Semaphore, watch};

use crate::vault::Vault;

mod admin;
mod body;
mod caller;
mod crowd;
mod entries;
mod error;
mod files;
mod frame;
mod guard;
mod health;
mod history;
mod keys;
mod ledger;
mod login;
mod openapi;
mod rate;
mod reports;
mod restores;
mod retention;
mod reveal;
mod routes;
mod tls;
mod tokens;
mod turn;

use crowd::{Counted, Crowd};
use guard::{Guarded, Patience};
use rate::Rates;
use tls::Wire;
use turn::Turns;

pub use error::ApiError;
pub use openapi::document;
pub use rate::OverLimit;
pub use tls::{Tls, TlsError, TlsFiles};

/// Threads that parse and answer; what blocks runs beside them.
const WORKERS: usize = 2;
/// Batches that are worked on at a time, of which each has a thread and memory of its own, and those of one token that may wait. Single
/// submissions need no turns: to refuse one costs what it costs to take it.
const BATCHES: [usize; 2] = [16, 64];

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
    /// Entries a second that one submitter's token may bring; 0: no bound.
    pub submits_per_second: u32,
    /// Requests a second that any other token may make; 0: no bound.
    pub queries_per_second: u32,
    /// Open connections.
    pub connections: usize,
    /// Time for the next request to come on an open connection.
    pub idle_seconds: u64,
    /// Time that a client may keep an answer waiting, beside what it earns by taking bytes.
    pub write_seconds: u64,
}

impl Limits {
    fn patience(&self) -> Patience {
        Patience { idle: Duration::from_secs(self.idle_seconds), write: Duration::from_secs(self.write_seconds) }
    }
}

/// What handlers share.
pub struct Api {
    /// The vault.
    vault: Arc<Vault>,
    limits: Limits,
    /// Room for bodies in flight, KiB.
    bodies: Arc<Semaphore>,
    metrics: health::Metrics,
    rates: Arc<Rates>,
    batches: Turns,
    /// Who waits to log in.
    logins: login::Turnstile,
    /// Proxies that are believed where a request comes from.
    proxies: Vec<IpNet>,
    /// What ends TLS, if the vault does so itself.
    tls: Option<Tls>,
}

impl Api {
    fn body_deadline(&self) -> Duration {
        Duration::from_secs(self.limits.body_seconds)
    }
}

/// Where the server is reached, and how.
pub struct Door {
    /// Address and port.
    pub listen: SocketAddr,
    /// What ends TLS, if the vault does so itself.
    pub tls: Option<Tls>,
    /// Networks of proxies whose X-Forwarded-For is believed.
    pub proxies: Vec<IpNet>,
}

/// A bound server that does not answer yet.
pub struct Server {
    server: actix_web::dev::Server,
    closing: watch::Sender<bool>,
    address: SocketAddr,
    over_limit: OverLimit,
}

/// Stops a server.
pub struct Handle {
    server: ServerHandle,
    closing: watch::Sender<bool>,
}

impl Handle {
    /// No new connections and requests; what was taken is finished.
    pub async fn stop(self) {
        self.closing.send_replace(true);
        self.server.stop(true).await;
    }
}

/// What is done with a new connection before its first request.
async fn connected(
    io: TcpStream,
    counted: Counted,
    tls: Option<Tls>,
    vault: Arc<Vault>,
    patience: Patience,
) -> Result<(Guarded, Protocol, Option<SocketAddr>), DispatchError> {
    drop(io.set_nodelay(true));
    let peer = io.peer_addr().ok();
    let wire = match tls {
        None => Wire::Plain(io),
        Some(tls) => tls.accept(io).await.map_err(|error| {
            // Who only looks whether something listens says nothing before it goes.
            if error.kind() != std::io::ErrorKind::UnexpectedEof {
                vault.counters().handshakes_failed.fetch_add(1, Ordering::Relaxed);
            }
            tracing::debug!(%error, "a TLS handshake failed");
            DispatchError::Io(error)
        })?,
    };
    Ok((Guarded::new(wire, counted, patience), Protocol::Http1, peer))
}

impl Server {
    /// Binds the address; port 0 takes a free one.
    ///
    /// # Errors
    /// What the system says, such as that the port is taken.
    pub fn bind(vault: Arc<Vault>, door: Door, limits: Limits) -> std::io::Result<Self> {
        let Door { listen, tls, proxies } = door;
        let listener = TcpListener::bind(listen)?;
        let address = listener.local_addr()?;
        let (connections, patience) = (limits.connections, limits.patience());
        let bodies = Arc::new(Semaphore::new(limits.bodies_kib));
        let rates = Arc::new(Rates::new(limits.submits_per_second, limits.queries_per_second));
        let (over_limit, crowd) = (OverLimit::of(rates.clone()), Crowd::new(connections, &proxies));
        let api = Data::new(Api {
            vault,
            limits,
            bodies,
            metrics: health::Metrics::default(),
            rates,
            batches: Turns::new(BATCHES[0], BATCHES[1]),
            logins: login::Turnstile::new(),
            proxies,
            tls: tls.clone(),
        });
        let vault = api.vault.clone();
        let (closing, closed) = watch::channel(false);
        // What actix_web::HttpServer does, with a guard around each connection.
        let server = actix_server::Server::build()
            .workers(WORKERS)
            // Actix shares 512 among the processors, however few workers there are.
            .worker_max_blocking_threads(256)
            // The bound is each worker's own.
            .max_concurrent_connections(connections.div_ceil(WORKERS))
            .shutdown_timeout(30)
            // Signals are the program's business: it stops the server, then the vault.
            .disable_signals()
            .listen("http", listener, move || {
                let app = App::new()
                    .app_data(api.clone())
                    // Outermost: names the request, writes problems, headers and diagnostics.
                    .wrap(from_fn(frame::frame))
                    .configure(routes::all)
                    .default_service(web::to(frame::no_such_route));
                let app =
                    map_config(app.into_factory().map_err(|error| error.error_response()), |()| AppConfig::default());
                let closed = closed.clone();
                let http = HttpService::build()
                    .keep_alive(patience.idle)
                    .client_request_timeout(Duration::from_secs(5))
                    .client_disconnect_timeout(Duration::from_secs(2))
                    .graceful_shutdown_signal(move || {
                        let mut closed = closed.clone();
                        async move { drop(closed.wait_for(|it| *it).await) }
                    })
                    .on_connect_ext(|io: &Guarded, data: &mut Extensions| io.describe(data))
                    .finish(app);
                let (tls, vault, crowd) = (tls.clone(), vault.clone(), crowd.clone());
                fn_service(move |io: TcpStream| {
                    let from = io.peer_addr().ok().map(|it| it.ip());
                    let (counted, tls, vault) = (crowd.enter(from), tls.clone(), vault.clone());
                    async move {
                        let counted = counted.ok_or(DispatchError::DisconnectTimeout)?;
                        connected(io, counted, tls, vault, patience).await
                    }
                })
                .and_then(http)
            })?
            .run();
        Ok(Self { server, closing, address, over_limit })
    }

    /// The address it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often tokens were refused for asking too much.
    pub fn over_limit(&self) -> OverLimit {
        self.over_limit.clone()
    }

    /// Stops the server.
    pub fn handle(&self) -> Handle {
        Handle { server: self.server.handle(), closing: self.closing.clone() }
    }

    /// Serves until it is stopped.
    ///
    /// # Errors
    /// What the system says.
    pub async fn run(self) -> std::io::Result<()> {
        self.server.await
    }
}
