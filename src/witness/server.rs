//! A witness: cosigns checkpoints of the logs it follows, if each extends the one it cosigned before.
//!
//! What it cosigned last is on disk, synced, before it answers: a witness that forgets could be shown two histories.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web::{Data, Path as UrlPath, Payload};
use actix_web::{App, HttpResponse, HttpServer, web};
use anyhow::{Context, anyhow, bail};
use sha2::{Digest, Sha256};

use crate::keyfile::{self, ProcessLock};
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::note::{KeyKind, Note, NoteSigner, VerifierKey};
use crate::ledger::policy::Policy;
use crate::ledger::witness::{AddCheckpoint, MAX_REQUEST_BYTES, Refusal};

/// The private key, readable by its owner only.
const KEY: &str = "witness.key";
/// The public key, to give to whom relies on this witness.
const VERIFIER_KEY: &str = "witness.vkey";
/// The logs it follows: a tlog-policy with `log` lines.
const LOGS: &str = "logs.policy";
/// How long a request's body may take.
const BODY_SECONDS: u64 = 10;

/// A witness's state.
pub struct Witness {
    folder: PathBuf,
    signer: NoteSigner,
    logs: Vec<VerifierKey>,
    /// Held from the look at what was cosigned last to the answer: compare and swap.
    changing: Mutex<()>,
    _process_lock: ProcessLock,
}

/// Makes a witness: its key, and an empty list of logs. Refuses to overwrite anything. Gives back its public key.
///
/// # Errors
/// One sentence with the remedy.
pub fn create(folder: &Path, name: &str) -> anyhow::Result<VerifierKey> {
    let signer = NoteSigner::of_kind(name, KeyKind::Witness, &crate::crypto::random::array())
        .with_context(|| format!("The name {name:?} cannot be used"))?;
    keyfile::create_folder(folder)?;
    keyfile::create_folder(&folder.join("seen"))?;
    keyfile::create_private(&folder.join(KEY), format!("{}\n", signer.to_private_text()).as_bytes())?;
    let key = signer.verifier_key().clone();
    keyfile::create_private(&folder.join(VERIFIER_KEY), format!("{key}\n").as_bytes())?;
    let logs = "# The logs this witness follows, one a line: log <public key of the log>\nquorum none\n";
    keyfile::create_private(&folder.join(LOGS), logs.as_bytes())?;
    Ok(key)
}

impl Witness {
    /// Opens a witness's folder.
    ///
    /// # Errors
    /// One sentence with the remedy.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(KEY);
        if !path.exists() {
            bail!("There is no witness at {}. Make one with `phivault witness init`.", folder.display());
        }
        let process_lock = ProcessLock::take(folder)?;
        let text = keyfile::read_private(&path, "witness key")?;
        let signer = NoteSigner::from_private_text(text.trim_end_matches('\n'));
        let signer = signer.map_err(|_| anyhow!("The witness key {} is damaged. Restore it.", path.display()))?;
        if signer.verifier_key().kind() != KeyKind::Witness {
            bail!("The key {} is not one of a witness.", path.display());
        }
        let path = folder.join(LOGS);
        let text = std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        let logs = Policy::parse(&text).with_context(|| format!("{} cannot be used", path.display()))?.logs;
        let (folder, changing) = (folder.to_owned(), Mutex::default());
        Ok(Self { folder, signer, logs, changing, _process_lock: process_lock })
    }

    /// The public key.
    pub fn verifier_key(&self) -> &VerifierKey {
        self.signer.verifier_key()
    }

    /// How many logs it follows.
    pub fn logs(&self) -> usize {
        self.logs.len()
    }

    /// Answers a request with a cosignature line. `now` in seconds since 1970.
    ///
    /// # Errors
    /// [`Refusal`] inside, or what the disk says outside; then nothing was cosigned.
    fn add_checkpoint(&self, body: &str, now: u64) -> anyhow::Result<Result<String, Refusal>> {
        let request = match AddCheckpoint::parse(body) {
            Ok(request) => request,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let _changing = self.changing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut broken = None;
        let mut known = |origin: &str| {
            self.seen(&hash_of(origin)).unwrap_or_else(|error| {
                broken = Some(error);
                None
            })
        };
        let judged = request.judge(&self.logs, |origin| known(origin).map(|(head, _)| head));
        if let Some(error) = broken {
            return Err(error);
        }
        let (head, note, key) = match judged {
            Ok(judged) => judged,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let line = self.signer.cosign(&note.text, now);
        let of_log =
            note.signatures.into_iter().filter(|it| it.name == key.name() && it.key_id == key.key_id()).take(1);
        let cosigned = Note { text: note.text, signatures: of_log.chain([line.clone()]).collect() };
        keyfile::replace_private(&self.path(&hash_of(&head.origin)), cosigned.to_string().as_bytes())?;
        Ok(Ok(line.to_string()))
    }

    /// What was cosigned last for a log, by the hash of its origin: the checkpoint, and the note.
    fn seen(&self, hash: &str) -> anyhow::Result<Option<(Checkpoint, String)>> {
        let path = self.path(hash);
        if !path.exists() {
            return Ok(None);
        }
        let note = keyfile::read_private(&path, "cosigned checkpoint")?;
        let damaged = || anyhow!("{} is damaged: it is not what this witness wrote", path.display());
        let read = Note::parse(&note).map_err(|_| damaged())?;
        // Its own signature is what it believes, not the file.
        read.verify(std::slice::from_ref(self.verifier_key())).map_err(|_| damaged())?;
        let head = Checkpoint::parse(&read.text).map_err(|_| damaged())?;
        Ok(Some((head, note.to_string())))
    }

    fn path(&self, hash: &str) -> PathBuf {
        self.folder.join("seen").join(hash)
    }
}

/// Serves a witness until it is stopped. `announce` is told the address.
///
/// # Errors
/// What the system says.
pub async fn serve(
    witness: Witness,
    listen: std::net::SocketAddr,
    announce: impl FnOnce(std::net::SocketAddr),
) -> anyhow::Result<()> {
    let witness = Data::new(witness);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(witness.clone())
            .service(web::resource("/add-checkpoint").route(web::post().to(add_checkpoint)))
            .service(web::resource("/{origin}/checkpoint").route(web::get().to(monitor)))
            .service(web::resource("/healthz").route(web::get().to(alive)))
    })
    .workers(1)
    .max_connections(256)
    .client_request_timeout(Duration::from_secs(5))
    .client_disconnect_timeout(Duration::from_secs(2))
    // One request a connection: nobody holds one by beginning a second.
    .keep_alive(actix_web::http::KeepAlive::Disabled)
    .bind(listen)
    .with_context(|| format!("{listen} cannot be listened on"))?;
    announce(*server.addrs().first().context("the server has no address")?);
    server.run().await.context("The server failed")
}

async fn add_checkpoint(witness: Data<Witness>, payload: Payload) -> HttpResponse {
    let body =
        tokio::time::timeout(Duration::from_secs(BODY_SECONDS), payload.to_bytes_limited(MAX_REQUEST_BYTES)).await;
    let Ok(Ok(Ok(body))) = body else { return refuse(&Refusal::Malformed("the body is too long, too slow or broken")) };
    let Ok(body) = String::from_utf8(body.to_vec()) else { return refuse(&Refusal::Malformed("it is not UTF-8")) };
    let now = u64::try_from(chrono::Utc::now().timestamp()).unwrap_or(0);
    let answer = web::block(move || witness.add_checkpoint(&body, now)).await;
    match answer {
        Ok(Ok(Ok(line))) => plain(StatusCode::OK, line),
        Ok(Ok(Err(refusal))) => refuse(&refusal),
        Ok(Err(error)) => {
            tracing::error!(error = format!("{error:#}"), "nothing was cosigned");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "the witness could not write; nothing was cosigned\n".into())
        }
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the witness failed\n".into()),
    }
}

/// What this witness cosigned last, for monitors: named by the SHA-256 of the log's origin in hex.
async fn monitor(witness: Data<Witness>, origin: UrlPath<String>) -> HttpResponse {
    let hash = origin.into_inner();
    if hash.len() != 64 || !hash.bytes().all(|it| it.is_ascii_digit() || (b'a'..=b'f').contains(&it)) {
        return plain(StatusCode::NOT_FOUND, "unknown log\n".into());
    }
    match web::block(move || witness.seen(&hash)).await {
        Ok(Ok(Some((_, note)))) => plain(StatusCode::OK, note),
        Ok(Ok(None)) => plain(StatusCode::NOT_FOUND, "unknown log\n".into()),
        _ => plain(StatusCode::INTERNAL_SERVER_ERROR, "the witness could not read\n".into()),
    }
}

async fn alive() -> HttpResponse {
    plain(StatusCode::OK, "ok\n".into())
}

fn refuse(refusal: &Refusal) -> HttpResponse {
    let status = StatusCode::from_u16(refusal.status()).expect("each refusal has an HTTP status");
    match refusal {
        Refusal::Conflict(size) => {
            HttpResponse::build(status).content_type("text/x.tlog.size").body(format!("{size}\n"))
        }
        other => plain(status, format!("{other}\n")),
    }
}

fn plain(status: StatusCode, body: String) -> HttpResponse {
    HttpResponse::build(status)
        .content_type("text/plain; charset=utf-8")
        .insert_header(("x-content-type-options", "nosniff"))
        .insert_header(("cache-control", "no-store"))
        .body(body)
}

fn hash_of(origin: &str) -> String {
    hex::encode(Sha256::digest(origin))
}
