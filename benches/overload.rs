//! `cargo bench --bench overload`: ten times what the vault can take, from clients that do not wait for each other, heed no
//! Retry-After and come back at once. What it could take and how long that took when it was quiet, and again a second after,
//! are measured in the same run. Figures are only believed when `verify` finds the vault intact, with every acknowledged entry.
//!
//! Clients and vault share the machine. What the clients could not send in time is told: single submissions come nowhere near
//! ten times, as asking costs about as much as answering.
//!
//! `PHIVAULT_BENCH_SECONDS` sets how long the overload lasts (default 20).

use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

mod server;

use server::{Bodies, address, program, start_vault};

/// Connections that the clients keep: one address has half of 500 at most.
const CLIENTS: usize = 240;
/// What comes, as times of what can be taken.
const OVERLOAD: f64 = 10.0;
/// What comes when it is quiet, as a share of that.
const QUIET: f64 = 0.25;

fn main() {
    let smoke = std::env::args().any(|it| it == "--test");
    let seconds = std::env::var("PHIVAULT_BENCH_SECONDS").ok().and_then(|it| it.parse().ok()).unwrap_or(20.0);
    let span = Duration::from_secs_f64(if smoke { 0.3 } else { seconds });
    for lines in [1, 100] {
        let folder = tempfile::tempdir().expect("a folder to work in can be made");
        let dir = folder.path().join("vault");
        let (mut vault, url, token) = start_vault(&dir);
        let target = Target { address: address(&url).to_owned(), token, lines };
        println!("{}", if lines == 1 { "Single submissions".to_owned() } else { format!("\nBatches of {lines}") });
        println!(
            "{:<22} {:>9} {:>9} {:>11} {:>8} {:>8} {:>8} {:>9} {:>8} {:>8} {:>7}",
            "", "asked/s", "late %", "entries/s", "p50 ms", "p99 ms", "max ms", "refused/s", "p50 ms", "p99 ms", "MB"
        );
        let mut all = Vec::new();
        let mut row = |name: &str, load: Load, span: Duration| {
            forget_peak(vault.id());
            let seen = run(&target, load, span);
            println!("{name:<22} {}  {:>5}", seen.show(lines), peak(vault.id()) >> 10);
            all.push(seen.accepted.len() * lines);
            seen
        };
        let short = span / 4;
        let capacity = row("as much as goes", Load { clients: if lines == 1 { 64 } else { 8 }, rate: None }, short);
        let can = capacity.accepted.len() as f64 / capacity.spent.as_secs_f64();
        let quiet = row("a quarter of it", Load { clients: CLIENTS, rate: Some(can * QUIET) }, short);
        let flood = row("ten times as much", Load { clients: CLIENTS, rate: Some(can * OVERLOAD) }, span);
        let ratio = at(&flood.accepted, 99.0) / at(&quiet.accepted, 99.0);
        std::thread::sleep(Duration::from_secs(1));
        row("a second later", Load { clients: CLIENTS, rate: Some(can * QUIET) }, short);
        let stopped = Command::new("kill").arg(vault.id().to_string()).status().expect("kill is there");
        assert!(stopped.success() && vault.wait().expect("it ends").success(), "the vault stops by itself");
        let entries = intact(&dir);
        let acknowledged: usize = all.iter().sum();
        assert!(entries >= acknowledged, "{acknowledged} were acknowledged and {entries} are there");
        println!(
            "p99 of what was taken, overloaded to quiet: {ratio:.1}; intact, {acknowledged} acknowledged, {entries} there"
        );
    }
}

/// The number of entries of a vault that must be intact.
fn intact(dir: &Path) -> usize {
    let verified = program().args(["verify", "--json", "--dir"]).arg(dir).output().expect("verify runs");
    let text = String::from_utf8_lossy(&verified.stdout);
    assert!(verified.status.success(), "{text}");
    let report: serde_json::Value = serde_json::from_str(&text).expect("a report");
    report["entries"].as_u64().expect("a count") as usize
}

struct Target {
    address: String,
    token: String,
    lines: usize,
}

#[derive(Clone, Copy)]
struct Load {
    clients: usize,
    /// Requests a second, each at its own moment; as many as go without.
    rate: Option<f64>,
}

/// What clients saw: microseconds from the request to its answer.
#[derive(Default)]
struct Seen {
    accepted: Vec<u32>,
    refused: Vec<u32>,
    late: usize,
    spent: Duration,
}

impl Seen {
    fn show(&self, lines: usize) -> String {
        let (asked, seconds) = (self.accepted.len() + self.refused.len(), self.spent.as_secs_f64());
        format!(
            "{:>9.0} {:>9.1} {:>11.0} {:>8.1} {:>8.1} {:>8.1} {:>9.0} {:>8.1} {:>8.1}",
            asked as f64 / seconds,
            self.late as f64 * 100.0 / asked.max(1) as f64,
            (self.accepted.len() * lines) as f64 / seconds,
            at(&self.accepted, 50.0),
            at(&self.accepted, 99.0),
            at(&self.accepted, 100.0),
            self.refused.len() as f64 / seconds,
            at(&self.refused, 50.0),
            at(&self.refused, 99.0),
        )
    }
}

/// A percentile of sorted times, milliseconds.
fn at(sorted: &[u32], percent: f64) -> f64 {
    let n = (sorted.len() as f64 * percent / 100.0) as usize;
    sorted.get(n.min(sorted.len().saturating_sub(1))).map_or(f64::NAN, |it| f64::from(*it) / 1e3)
}

/// One thread asks: the vault has at least the rest of the machine.
fn run(target: &Target, load: Load, span: Duration) -> Seen {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let (next, began) = (Rc::new(AtomicUsize::new(0)), Instant::now());
        let clients: Vec<_> = (0..load.clients)
            .map(|n| {
                let (next, requests) = (next.clone(), requests(target, n as u64));
                let address = target.address.clone();
                tokio::task::spawn_local(async move { client(&address, requests, &next, load.rate, began, span).await })
            })
            .collect();
        let mut all = Seen::default();
        for client in clients {
            let seen = client.await.expect("a client does not panic");
            all.accepted.extend(seen.accepted);
            all.refused.extend(seen.refused);
            all.late += seen.late;
        }
        all.spent = began.elapsed();
        all.accepted.sort_unstable();
        all.refused.sort_unstable();
        all
    })
}

/// The requests of one client without end. Entries have no id, so that each is a new one however often it is sent.
fn requests(target: &Target, seed: u64) -> Vec<u8> {
    let mut bodies = Bodies::new(seed + 1);
    let body: Vec<String> = (0..target.lines).map(|_| without_id(&bodies.next())).collect();
    let (path, kind) = if target.lines == 1 { ("/v1/entries", "json") } else { ("/v1/entries/batch", "x-ndjson") };
    let (body, Target { address, token, .. }) = (body.join("\n"), target);
    format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\ncontent-type: application/{kind}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn without_id(line: &str) -> String {
    let end = line.find(r#""action""#).expect("an entry has an action");
    format!("{{{}", &line[end..])
}

async fn client(
    address: &str,
    request: Vec<u8>,
    next: &AtomicUsize,
    rate: Option<f64>,
    began: Instant,
    span: Duration,
) -> Seen {
    let (mut seen, mut stream, mut buffer) = (Seen::default(), None, vec![0; 64 << 10]);
    loop {
        let due =
            rate.map_or(began, |it| began + Duration::from_secs_f64(next.fetch_add(1, Ordering::Relaxed) as f64 / it));
        if due.max(Instant::now()) >= began + span {
            return seen;
        }
        // Its timer has a grain of a millisecond.
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        if rate.is_some() && due.elapsed() > Duration::from_millis(10) {
            seen.late += 1;
        }
        let asked = Instant::now();
        let mut open = match stream.take() {
            Some(open) => open,
            None => connect(address).await,
        };
        let status = exchange(&mut open, &request, &mut buffer).await;
        let spent = u32::try_from(asked.elapsed().as_micros()).unwrap_or(u32::MAX);
        match status {
            Some((200 | 201, kept)) => {
                seen.accepted.push(spent);
                stream = kept.then_some(open);
            }
            Some((503, kept)) => {
                seen.refused.push(spent);
                stream = kept.then_some(open);
            }
            // An idle connection may be closed just as it is used; anything else would show among the entries.
            None => {}
            Some((other, _)) => panic!("an answer of {other}: {}", String::from_utf8_lossy(&buffer[..200])),
        }
    }
}

async fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).await.expect("it listens");
    stream.set_nodelay(true).expect("the option is known");
    stream
}

/// Status, and whether the connection stays. None if it broke before an answer.
async fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut [u8]) -> Option<(u16, bool)> {
    stream.write_all(request).await.ok()?;
    let mut have = 0;
    loop {
        let read = stream.read(&mut buffer[have..]).await.ok().filter(|it| *it > 0)?;
        have += read;
        let Some(end) = buffer[..have].windows(4).position(|it| it == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&buffer[..end]).ok()?.to_lowercase();
        let length: usize = head.lines().find_map(|it| it.strip_prefix("content-length:"))?.trim().parse().ok()?;
        while have < end + 4 + length {
            have += stream.read(&mut buffer[have..]).await.ok().filter(|it| *it > 0)?;
        }
        let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
        assert!(status != 503 || head.contains("retry-after:"), "{head}");
        return Some((status, !head.contains("connection: close")));
    }
}

/// The most memory a process held, KiB.
fn peak(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

/// Lets the peak begin again where memory stands.
fn forget_peak(process: u32) {
    // proc_pid_clear_refs(5). Where it is not allowed the peak is that of all loads so far.
    drop(std::fs::write(format!("/proc/{process}/clear_refs"), "5"));
}
