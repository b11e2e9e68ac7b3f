//! TLS at the vault's own door: 1.2 and 1.3, files that are renewed while it serves, and client certificates if they are asked for.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use actix_web::rt::net::TcpStream;
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::time::Time;
use zeroize::Zeroizing;

mod clients;

/// How long a client may take to agree on keys.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a client's certificate is believed on an open connection, unless the files are renewed before.
const BELIEVED: Duration = Duration::from_secs(60);

/// TLS cannot be offered; says what is wrong with which file, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

/// The files that TLS needs.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The server's certificate, and those that lead to its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities of client certificates; without them clients need none.
    pub client_authorities: Option<PathBuf>,
    /// What those authorities have revoked, as CRLs (RFC 5280, section 5), one of each of them.
    pub client_revocations: Option<PathBuf>,
    /// Reads the private key, and refuses one that is open to others.
    pub read_key: fn(&Path) -> Result<Zeroizing<String>, String>,
}

/// What ends TLS.
#[derive(Clone)]
pub struct Tls {
    served: Arc<Served>,
}

struct Served {
    files: TlsFiles,
    now: RwLock<Shown>,
    /// When its files were last written.
    written: Mutex<Option<Vec<SystemTime>>>,
}

/// What new connections get.
struct Shown {
    acceptor: TlsAcceptor,
    /// Judges the certificates of clients.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// From when until when the certificate is valid, in seconds since 1970.
    valid: Range<i64>,
    /// When the first list of revoked certificates is out of date.
    lists_end: Option<i64>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let written = Mutex::new(written(&files));
        let now = RwLock::new(read(&files)?);
        Ok(Self { served: Arc::new(Served { files, now, written }) })
    }

    /// Reads all files again if one was written since or `anyway`; whether it did. Connections that are open go on if their clients'
    /// certificates hold under the new files; none is resumed that began under the files before.
    ///
    /// # Errors
    /// [`TlsError`]; then what was read before still counts.
    pub fn renew(&self, anyway: bool) -> Result<bool, TlsError> {
        let written = written(&self.served.files);
        let mut known = self.served.written.lock().unwrap_or_else(PoisonError::into_inner);
        if !anyway && (written.is_none() || *known == written) {
            return Ok(false);
        }
        let read = read(&self.served.files)?;
        *self.served.now.write().unwrap_or_else(PoisonError::into_inner) = read;
        *known = written;
        Ok(true)
    }

    /// From when until when the certificate that is shown now is valid, in seconds since 1970 (RFC 5280, section 4.1.2.5).
    pub fn valid(&self) -> Range<i64> {
        self.served.now.read().unwrap_or_else(PoisonError::into_inner).valid.clone()
    }

    /// When the first list of revoked client certificates is out of date, in seconds since 1970; from then on no client is let in.
    pub fn lists_end(&self) -> Option<i64> {
        self.served.now.read().unwrap_or_else(PoisonError::into_inner).lists_end
    }

    pub(super) async fn accept(&self, io: TcpStream) -> io::Result<Wire> {
        let (acceptor, verifier) = {
            let now = self.served.now.read().unwrap_or_else(PoisonError::into_inner);
            (now.acceptor.clone(), now.verifier.clone())
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the client took too long to agree on keys");
        let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(io)).await.map_err(late)??;
        let judged = verifier.map(|by| Judged { by, at: Instant::now(), served: self.served.clone() });
        Ok(Wire::Tls(Box::new(stream), judged))
    }
}

fn read(files: &TlsFiles) -> Result<Shown, TlsError> {
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| TlsError(format!("TLS cannot be set up: {error}.")))?;
    let (config, verifier, lists_end) = match &files.client_authorities {
        None => (config.with_no_client_auth(), None, None),
        Some(path) => {
            let (verifier, lists_end) = clients::verifier(path, files.client_revocations.as_deref())?;
            (config.with_client_cert_verifier(verifier.clone()), Some(verifier), lists_end)
        }
    };
    let chain = certificates(&files.certificate, "server.tls_certificate")?;
    let valid = validity(&chain).ok_or_else(|| {
        let shown = files.certificate.display();
        TlsError(format!("{shown} (server.tls_certificate): one of them is no X.509 certificate."))
    })?;
    let wrong = |what: &str| TlsError(format!("{} (server.tls_key): {what}.", files.key.display()));
    let text = (files.read_key)(&files.key).map_err(TlsError)?;
    let key =
        PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| wrong("this is no private key in PEM form"))?;
    let mut config = config.with_single_cert(chain, key).map_err(|error| {
        wrong(&format!(
            "key and certificate do not go together ({error}); the server's own certificate stands first in its file"
        ))
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if files.client_authorities.is_some() {
        // Who comes again is judged again: the certificate may have been revoked since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Shown { acceptor: TlsAcceptor::from(Arc::new(config)), verifier, valid, lists_end })
}

/// When all of a chain are valid: clients refuse it as soon as one of them is not.
fn validity(chain: &[CertificateDer<'_>]) -> Option<Range<i64>> {
    let of = |it: &CertificateDer<'_>| {
        let read = Certificate::from_der(it).ok()?;
        let validity = read.tbs_certificate().validity();
        Some(seconds(validity.not_before)?..seconds(validity.not_after)?)
    };
    let all: Vec<Range<i64>> = chain.iter().map(of).collect::<Option<_>>()?;
    Some(all.iter().map(|it| it.start).max()?..all.iter().map(|it| it.end).min()?)
}

fn seconds(time: Time) -> Option<i64> {
    i64::try_from(time.to_unix_duration().as_secs()).ok()
}

fn certificates(path: &Path, setting: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    pem(path, setting, "certificate")
}

/// Everything of a kind in a PEM file, at least one.
fn pem<T: PemObject>(path: &Path, setting: &str, kind: &str) -> Result<Vec<T>, TlsError> {
    let wrong = |what: String| TlsError(format!("{} ({setting}): {what}.", path.display()));
    let all = T::pem_file_iter(path).map_err(|error| wrong(format!("it cannot be read ({error})")))?;
    let all: Vec<_> = all.collect::<Result<_, _>>().map_err(|error| wrong(format!("it is not PEM ({error})")))?;
    if all.is_empty() { Err(wrong(format!("there is no {kind} in it"))) } else { Ok(all) }
}

/// When the files were written; nothing while one of them is missing.
fn written(files: &TlsFiles) -> Option<Vec<SystemTime>> {
    let all = [
        Some(&files.certificate),
        Some(&files.key),
        files.client_authorities.as_ref(),
        files.client_revocations.as_ref(),
    ];
    all.into_iter().flatten().map(|path| std::fs::metadata(path).and_then(|it| it.modified()).ok()).collect()
}

/// SHA-256 of the certificate that the client of a connection brought, which was verified.
#[derive(Clone, Copy)]
pub(super) struct ClientCertificate(pub(super) [u8; 32]);

/// The bytes of a connection, in clear or through TLS.
pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>, Option<Judged>),
}

/// By what, and when, the certificate of a client was found good.
pub(super) struct Judged {
    by: Arc<dyn ClientCertVerifier>,
    at: Instant,
    served: Arc<Served>,
}

impl Judged {
    /// Whether the certificate still holds: a connection may last for days, and it may be revoked or end meanwhile.
    fn holds(&mut self, stream: &TlsStream<TcpStream>) -> bool {
        let by = self.served.now.read().unwrap_or_else(PoisonError::into_inner).verifier.clone();
        let Some(by) = by.filter(|it| !Arc::ptr_eq(it, &self.by) || self.at.elapsed() > BELIEVED) else { return true };
        let brought = stream.get_ref().1.peer_certificates().and_then(<[_]>::split_first);
        let good = brought.is_some_and(|(own, others)| by.verify_client_cert(own, others, UnixTime::now()).is_ok());
        if good {
            (self.by, self.at) = (by, Instant::now());
        }
        good
    }
}

impl Wire {
    pub(super) fn client_certificate(&self) -> Option<ClientCertificate> {
        let Self::Tls(stream, _) = self else { return None };
        let brought = stream.get_ref().1.peer_certificates()?.first()?;
        Some(ClientCertificate(Sha256::digest(brought).into()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(context, buffer),
            Self::Tls(io, judged) => {
                if judged.as_mut().is_some_and(|it| !it.holds(io)) {
                    return Poll::Ready(Err(io::Error::other("the client's certificate does not hold any more")));
                }
                Pin::new(io).poll_read(context, buffer)
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(context, bytes),
            Self::Tls(io, _) => Pin::new(io).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write_vectored(context, parts),
            Self::Tls(io, _) => Pin::new(io).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io, _) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(context),
            Self::Tls(io, _) => Pin::new(io).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(context),
            Self::Tls(io, _) => Pin::new(io).poll_shutdown(context),
        }
    }
}
