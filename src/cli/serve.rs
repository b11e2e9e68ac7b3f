//! `phivault serve`: runs a vault until it is told to stop.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{Reports, Settings};
use crate::http::{Door, Limits, OverLimit, Server, Tls, TlsFiles};
use crate::keyfile;
use crate::ledger::policy::Policy;
use crate::telemetry;
use crate::vault::Vault;
use crate::witness::client::{Courier, Evidence, usable};

use super::{local, schedule};

/// Run a vault
///
/// Reads the settings, unlocks the keyring, checks the database against the ledger and its lock, then serves. SIGTERM or
/// Ctrl-C stop it: no new connections, what was taken is finished and synced, a last checkpoint is signed.
///
/// Settings can be overridden by the environment, for example PHIVAULT_SERVER__LISTEN=127.0.0.1:9000.
#[derive(clap::Args)]
pub struct Args {
    /// The settings (`phivault init` writes DIR/phivault.toml)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Does it.
///
/// # Errors
/// One sentence with the remedy.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let settings = Settings::load(&args.config, std::env::vars())?;
    telemetry::start(&settings.log).map_err(|error| anyhow!(error))?;
    local::lock_memory();
    let unlock = local::unlock(&settings)?;
    let vault = Arc::new(local::open(&settings, &unlock)?);
    drop(unlock);
    let scheme = if settings.server.tls_certificate.is_some() { "https" } else { "http" };
    serve(&settings, &vault, |address| {
        println!("phivault listens on {scheme}://{address} (docs at {scheme}://{address}/docs)")
    })
}

/// The policy of witnesses, if the settings name one.
pub(super) fn policy(settings: &Settings) -> anyhow::Result<Option<Policy>> {
    let read = |path: &PathBuf| {
        let text = super::receipt::read(path)?;
        Policy::parse(&text).with_context(|| format!("{} (evidence.policy) cannot be used", path.display()))
    };
    settings.evidence.policy.as_ref().map(read).transpose()
}

/// What brings checkpoints to witnesses and anchors, if the settings name any.
fn courier(settings: &Settings, vault: &Arc<Vault>) -> anyhow::Result<Option<Courier>> {
    let wanted = &settings.evidence;
    if wanted.policy.is_none() && wanted.anchor_file.is_none() && wanted.anchor_url.is_none() {
        return Ok(None);
    }
    let policy = policy(settings)?;
    let anchor_url =
        wanted.anchor_url.as_deref().map(usable).transpose().context("evidence.anchor_url cannot be used")?;
    let anchor_every = Duration::from_secs(wanted.anchor_seconds);
    let evidence = Evidence { policy, anchor_file: wanted.anchor_file.clone(), anchor_url, anchor_every };
    Courier::new(vault.clone(), evidence).map(Some)
}

/// What ends TLS, if the vault does it itself.
pub(super) fn tls(settings: &crate::config::Server) -> anyhow::Result<Option<Tls>> {
    let (Some(certificate), Some(key)) = (settings.tls_certificate.clone(), settings.tls_key.clone()) else {
        return Ok(None);
    };
    let (client_authorities, client_revocations) =
        (settings.tls_client_authorities.clone(), settings.tls_client_revocations.clone());
    let read_key = |path: &Path| keyfile::read_private(path, "TLS key").map_err(|error| error.to_string());
    Ok(Some(Tls::load(TlsFiles { certificate, key, client_authorities, client_revocations, read_key })?))
}

/// Whole days until the certificate ends, if they are few; less than none after its end.
fn days_left(tls: &Tls) -> Option<i64> {
    let days = (tls.valid().end - chrono::Utc::now().timestamp()).div_euclid(86_400);
    (days < super::doctor::FEW_DAYS).then_some(days)
}

/// Shows a renewed certificate without a restart: within a minute, or at SIGHUP.
async fn renew(tls: Option<Tls>, mut hangup: Signal) {
    let mut often = tokio::time::interval(Duration::from_secs(60));
    let mut told = None;
    loop {
        let asked = tokio::select! { _ = often.tick() => false, _ = hangup.recv() => true };
        let Some(tls) = &tls else { continue };
        // Once a day, and after a renewal that did not help.
        let now = days_left(tls);
        if now.is_some() && told != now {
            tracing::warn!("{}", super::doctor::certificate(&tls.valid(), chrono::Utc::now().timestamp()).1);
        }
        told = now;
        if tls.lists_end().is_some_and(|it| it <= chrono::Utc::now().timestamp()) {
            tracing::error!(
                "a list of revoked client certificates is out of date: no client is let in before its next one is there (server.tls_client_revocations)"
            );
        }
        match tls.renew(asked) {
            Ok(true) => tracing::info!("the files of TLS were read again"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%error, "the renewed files of TLS cannot be used; those before still count");
            }
        }
    }
}

/// What is done now and then without anybody asking: keys do not outlive their cryptoperiod.
async fn keep(vault: Arc<Vault>) {
    let mut hourly = tokio::time::interval(Duration::from_secs(3_600));
    loop {
        hourly.tick().await;
        let vault = vault.clone();
        match actix_web::rt::task::spawn_blocking(move || vault.rotate_if_due()).await {
            Ok(Ok(Some(rotated))) => tracing::info!(
                version = rotated.active,
                generation = rotated.keyring_generation,
                "a new data key seals from now on; back up the keyring"
            ),
            Ok(Ok(None)) | Err(_) => {}
            Ok(Err(error)) => tracing::error!(%error, "the data key is due for rotation and could not be rotated"),
        }
    }
}

/// Records now and then what was refused: tokens that asked for more than their share, submissions for which the disk had no room.
async fn tell(vault: Arc<Vault>, over_limit: OverLimit) {
    let mut often = tokio::time::interval(Duration::from_secs(60));
    loop {
        often.tick().await;
        let (vault, over_limit) = (vault.clone(), over_limit.clone());
        drop(actix_web::rt::task::spawn_blocking(move || tell_now(&vault, &over_limit)).await);
    }
}

fn tell_now(vault: &Vault, over_limit: &OverLimit) {
    if let Err(error) = vault.record_room() {
        tracing::error!(%error, "how many submissions a full disk refused could not be recorded");
    }
    if let Err(error) = vault.record_handshakes() {
        tracing::error!(%error, "how many TLS handshakes failed could not be recorded");
    }
    if let Err(error) = vault.record_suppressed() {
        tracing::error!(%error, "how many denials were only counted could not be recorded");
    }
    for (caller, refused) in over_limit.take() {
        tracing::warn!(token = caller.token_id, refused, "a token asked for more than its share (limits.*_per_second)");
        if let Err(error) = vault.record_refused(&caller, refused) {
            tracing::error!(%error, "that a token was refused could not be recorded");
        }
    }
}

/// Makes the reports that are due, now and every few minutes.
async fn report(vault: Arc<Vault>, reports: Reports) {
    let mut often = tokio::time::interval(Duration::from_secs(300));
    loop {
        often.tick().await;
        let (vault, reports) = (vault.clone(), reports.clone());
        let made = actix_web::rt::task::spawn_blocking(move || {
            schedule::make_due(&vault, &reports, vault.now().to_utc());
        });
        if made.await.is_err() {
            tracing::error!("making scheduled reports broke off; it is tried again");
        }
    }
}

/// Serves an open vault; `demo` uses it too. `announce` is told the address when the first request can come.
///
/// # Errors
/// One sentence with the remedy.
pub fn serve(
    settings: &Settings,
    vault: &Arc<Vault>,
    announce: impl FnOnce(std::net::SocketAddr),
) -> anyhow::Result<ExitCode> {
    let listen = settings.listen()?;
    let limits = Limits {
        body_bytes: settings.limits.body_bytes,
        batch_bytes: settings.limits.batch_bytes,
        batch_lines: settings.limits.batch_lines,
        bodies_kib: settings.limits.bodies_kib,
        body_seconds: settings.limits.body_seconds,
        submits_per_second: settings.limits.submits_per_second,
        queries_per_second: settings.limits.queries_per_second,
        connections: settings.server.connections,
        idle_seconds: settings.limits.idle_seconds,
        write_seconds: settings.limits.write_seconds,
    };
    let tls = tls(&settings.server)?;
    let door = Door { listen, tls: tls.clone(), proxies: settings.server.proxies()? };
    let refused = std::cell::OnceCell::new();
    let served = actix_web::rt::System::new().block_on(async {
        let server = Server::bind(vault.clone(), door, limits).with_context(|| {
            format!("{listen} cannot be listened on; is another phivault running? Set server.listen (demo: --port) to a free port")
        })?;
        let handle = server.handle();
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        actix_web::rt::spawn(async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            tracing::info!("stopping: finishing what was taken");
            handle.stop().await;
        });
        if let Some(courier) = courier(settings, vault)? {
            actix_web::rt::spawn(courier.run());
        }
        actix_web::rt::spawn(keep(vault.clone()));
        // Listened to without TLS, too: by itself SIGHUP ends a process, and `systemctl reload` sends it.
        actix_web::rt::spawn(renew(tls, signal(SignalKind::hangup())?));
        if !settings.reports.schedule.is_empty() {
            actix_web::rt::spawn(report(vault.clone(), settings.reports.clone()));
        }
        let over_limit = refused.get_or_init(|| server.over_limit()).clone();
        actix_web::rt::spawn(tell(vault.clone(), over_limit));
        announce(server.address());
        server.run().await.context("The server failed")
    });
    refused.get().into_iter().for_each(|it| tell_now(vault, it));
    // The vault is stopped whatever happened to the server: what was taken is committed, sealed and signed.
    let stopped = vault.stop();
    served?;
    stopped?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}
