//! A vault's side: brings its checkpoints to witnesses and anchors, in the background. Whatever fails there keeps no writer
//! waiting; it shows in readiness and metrics.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use reqwest::{StatusCode, Url, redirect};
use tokio::task::JoinSet;

use crate::ledger::note::{Note, Signature};
use crate::ledger::policy::{Policy, Witness};
use crate::ledger::witness::{AddCheckpoint, cosignatures};
use crate::vault::{Signed, Vault};

/// How often it looks for a new checkpoint.
const EVERY: Duration = Duration::from_secs(1);
/// How long a witness or anchor may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 16 << 10;
/// After a failure a witness is left alone for this long, doubled each time up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Where evidence goes.
pub struct Evidence {
    /// Whom to ask for cosignatures.
    pub policy: Option<Policy>,
    /// A file that checkpoints are appended to.
    pub anchor_file: Option<PathBuf>,
    /// A URL that checkpoints are posted to.
    pub anchor_url: Option<Url>,
    /// Seconds between two anchors.
    pub anchor_every: Duration,
}

/// What is known of one witness.
struct Peer {
    witness: Witness,
    url: Url,
    /// The size it cosigned last, as far as is known.
    size: u64,
    failures: u32,
    not_before: Instant,
}

/// Brings evidence out until the process ends.
pub struct Courier {
    vault: Arc<Vault>,
    http: reqwest::Client,
    evidence: Evidence,
    peers: Vec<Peer>,
    anchored: (u64, Option<Instant>),
}

impl Courier {
    /// Prepares the work.
    ///
    /// # Errors
    /// One sentence when a URL cannot be used.
    pub fn new(vault: Arc<Vault>, evidence: Evidence) -> anyhow::Result<Self> {
        // An error means that a provider is installed already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .user_agent(concat!("phivault/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .timeout(TIMEOUT)
            .build()
            .context("the HTTP client for witnesses could not be prepared")?;
        let mut peers = Vec::new();
        if let Some(policy) = &evidence.policy {
            if !policy.logs.contains(&vault.verifier_key()) {
                let key = vault.verifier_key();
                bail!("The policy of evidence.policy does not name this ledger's key of now; add: log {key}");
            }
            for witness in policy.witnesses.iter().filter(|it| it.url.is_some()) {
                let url = usable(witness.url.as_deref().unwrap_or_default())
                    .with_context(|| format!("The URL of the witness {} cannot be used", witness.name))?;
                let (witness, not_before) = (witness.clone(), Instant::now());
                peers.push(Peer { witness, url, size: 0, failures: 0, not_before });
            }
            vault.expect_witnesses(policy.clone());
        }
        Ok(Self { vault, http, evidence, peers, anchored: (0, None) })
    }

    /// Works for ever.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(EVERY).await;
            let signed = self.vault.latest_checkpoint();
            self.witness(&signed).await;
            self.anchor(&signed).await;
        }
    }

    /// Asks all witnesses about one checkpoint, side by side: a slow one keeps no other waiting, and all sign the same.
    async fn witness(&mut self, signed: &Signed) {
        let now = Instant::now();
        let (due, resting) = self.peers.drain(..).partition(|it| it.not_before <= now && it.size < signed.size);
        self.peers = resting;
        let due: Vec<Peer> = due;
        let mut asked = JoinSet::new();
        for mut peer in due {
            let (http, vault, signed) = (self.http.clone(), self.vault.clone(), signed.clone());
            asked.spawn(async move {
                let answer = ask(&http, &vault, &mut peer, &signed).await;
                (peer, answer)
            });
        }
        while let Some(done) = asked.join_next().await {
            let Ok((mut peer, answer)) = done else { continue };
            match answer {
                Ok(lines) => {
                    (peer.size, peer.failures) = (signed.size, 0);
                    self.vault.add_cosignatures(signed, &lines);
                }
                Err(error) => {
                    peer.failures = (peer.failures + 1).min(16);
                    let pause = FIRST_PAUSE.saturating_mul(1 << (peer.failures - 1)).min(MAX_PAUSE);
                    peer.not_before = Instant::now() + pause;
                    tracing::warn!(witness = %peer.witness.name, error = format!("{error:#}"), "no cosignature");
                }
            }
            self.peers.push(peer);
        }
    }

    async fn anchor(&mut self, signed: &Signed) {
        let due = self.anchored.1.is_none_or(|last| last.elapsed() >= self.evidence.anchor_every);
        if !due || self.anchored.0 >= signed.size {
            return;
        }
        let (size, note) = (signed.size, self.vault.checkpoint().note);
        let mut failed = false;
        if let Some(path) = self.evidence.anchor_file.clone() {
            let text = format!("{note}\n");
            let written = tokio::task::spawn_blocking(move || append(&path, &text)).await;
            if let Ok(Err(error)) = written {
                failed = true;
                tracing::warn!(error = format!("{error:#}"), "a checkpoint could not be appended to the anchor file");
            }
        }
        if let Some(url) = self.evidence.anchor_url.clone() {
            let sent = self.http.post(url).header("content-type", "text/plain; charset=utf-8").body(note).send().await;
            if let Err(error) = sent.and_then(reqwest::Response::error_for_status) {
                failed = true;
                tracing::warn!(error = %error.without_url(), "a checkpoint could not be posted to the anchor");
            }
        }
        self.vault.anchored(!failed);
        self.anchored = (if failed { self.anchored.0 } else { size }, Some(Instant::now()));
    }
}

/// Asks one witness for its cosignature; twice if it knows another size than was thought.
async fn ask(
    http: &reqwest::Client,
    vault: &Arc<Vault>,
    peer: &mut Peer,
    signed: &Signed,
) -> anyhow::Result<Vec<Signature>> {
    // The bare checkpoint: some witnesses refuse notes with lines of others.
    let text = Note::parse(&signed.note).map_err(|error| anyhow!(error))?.text;
    for _ in 0..2 {
        let (old, new) = (peer.size, signed.size);
        let proof = if old == 0 || old == new {
            Vec::new()
        } else {
            let vault = vault.clone();
            tokio::task::spawn_blocking(move || vault.consistency_proof(old, new)).await??
        };
        let request = AddCheckpoint { old, proof, note: signed.note.clone() }.to_string();
        let url = peer.url.join("add-checkpoint").context("the URL cannot be joined")?;
        let answer = http.post(url).body(request).send().await.map_err(reqwest::Error::without_url)?;
        let status = answer.status();
        let body = short(answer).await?;
        if status == StatusCode::OK {
            let lines = cosignatures(&body, &text, &peer.witness.key);
            return if lines.is_empty() { Err(anyhow!("the answer holds no signature of its key")) } else { Ok(lines) };
        }
        let known = body.trim_end_matches('\n').parse::<u64>().ok();
        match (status, known) {
            (StatusCode::CONFLICT, Some(known)) if known <= new && known != old => peer.size = known,
            (StatusCode::CONFLICT, Some(known)) if known > new => {
                bail!("it knows this ledger at size {known}, beyond ours of {new}: the vault may have been rolled back")
            }
            _ => bail!("it answered {status}"),
        }
    }
    bail!("its size changes while it is asked")
}

async fn short(mut answer: reqwest::Response) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
        bytes.extend_from_slice(&part);
        if bytes.len() > MAX_ANSWER_BYTES {
            bail!("its answer is too long");
        }
    }
    String::from_utf8(bytes).map_err(|_| anyhow!("its answer is not text"))
}

fn append(path: &std::path::Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(file.sync_all()?)
}

/// A URL that checkpoints may be sent to: https, or this machine. They are public, but an answer in clear could be anybody's.
///
/// # Errors
/// One sentence.
pub fn usable(text: &str) -> anyhow::Result<Url> {
    let with_slash = if text.ends_with('/') { text.to_owned() } else { format!("{text}/") };
    let url = Url::parse(&with_slash).map_err(|error| anyhow!("{text:?} is no URL: {error}"))?;
    let here = url
        .host_str()
        .is_some_and(|host| host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|it| it.is_loopback()));
    match url.scheme() {
        "https" => Ok(url),
        "http" if here => Ok(url),
        _ => bail!("{text:?} is neither https nor on this machine"),
    }
}
