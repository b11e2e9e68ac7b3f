//! `cargo bench --bench http`: one entry a request, as applications send them, beside a bare service that parses the same JSON and
//! appends it to one table by the same group commit, without sealing, ledger or index. Both are processes of their own, and are asked
//! by the same clients in turns. Figures are only believed when every answer was 201 and `verify` finds the vault intact.
//!
//! `PHIVAULT_BENCH_SECONDS` sets how long each point is measured (default 5).

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix_web::{App, HttpResponse, HttpServer, web};
use phivault::domain::json;
use phivault::domain::submission::Submission;
use rusqlite::{Connection, params};
use tokio::sync::{mpsc, oneshot};

mod parts;
mod server;

use parts::{Parts, used};
use server::{Bodies, address, announced, program, start_vault};

#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<mimalloc::MiMalloc> = zeroizing_alloc::ZeroAlloc(mimalloc::MiMalloc);

/// Connections at a time.
const POINTS: [usize; 5] = [1, 8, 16, 32, 64];
/// Entries of one NDJSON request.
const BATCH: usize = 500;
/// Each point is measured so often, the services in turns; the middle one counts.
const ROUNDS: usize = 3;

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if let Some(at) = words.iter().position(|it| it == "--bare") {
        return bare(Path::new(&words[at + 1]));
    }
    let smoke = words.iter().any(|it| it == "--test");
    let seconds = std::env::var("PHIVAULT_BENCH_SECONDS").ok().and_then(|it| it.parse().ok()).unwrap_or(5.0);
    let span = Duration::from_secs_f64(if smoke { 0.2 } else { seconds });
    let folder = tempfile::tempdir().expect("a folder to work in can be made");
    let (mut bare, bare_url) = start_bare(&folder.path().join("bare.db"));
    let (mut vault, vault_url, token) = start_vault(&folder.path().join("vault"));
    println!(
        "{:<12} {:>12} {:>10} {:>10} {:>12} {:>10} {:>10} {:>7} {:>7}",
        "connections", "vault/s", "p50 us", "p99 us", "bare/s", "p50 us", "p99 us", "ratio", "p99"
    );
    for clients in POINTS {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push((load(&vault_url, &token, clients, span), load(&bare_url, &token, clients, span)));
        }
        rounds.sort_by(|a, b| (a.0.rate / a.1.rate).total_cmp(&(b.0.rate / b.1.rate)));
        let (of_vault, of_bare) = &rounds[ROUNDS / 2];
        println!(
            "{clients:<12} {:>12.0} {:>10.0} {:>10.0} {:>12.0} {:>10.0} {:>10.0} {:>7.2} {:>7.2}",
            of_vault.rate,
            of_vault.p50,
            of_vault.p99,
            of_bare.rate,
            of_bare.p50,
            of_bare.p99,
            of_vault.rate / of_bare.rate,
            of_vault.p99 / of_bare.p99
        );
    }
    batches(&vault_url, &token, span);
    parts(&vault, &bare, (&vault_url, &bare_url), &token, span);
    closing(&vault_url, &token, span);
    bare.kill().expect("the bare service ends");
    bare.wait().expect("it is gone");
    let stopped = Command::new("kill").arg(vault.id().to_string()).status().expect("kill is there");
    assert!(stopped.success() && vault.wait().expect("it ends").success(), "the vault stops by itself");
    let verified = program().args(["verify", "--dir"]).arg(folder.path().join("vault")).output().expect("verify runs");
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    println!("{}", String::from_utf8_lossy(&verified.stdout).lines().next().unwrap_or_default());
}

fn start_bare(database: &Path) -> (Child, String) {
    let mut command = Command::new(std::env::current_exe().expect("this program is there"));
    command.arg("--bare").arg(database);
    announced(command)
}

struct Figures {
    requests: usize,
    rate: f64,
    p50: f64,
    p99: f64,
}

/// Batches of many lines, from few connections.
fn batches(url: &str, token: &str, span: Duration) {
    for clients in [1, 4] {
        let (stop, began) = (AtomicBool::new(false), Instant::now());
        let sent: usize = std::thread::scope(|scope| {
            let all: Vec<_> = (0..clients)
                .map(|n| {
                    let stop = &stop;
                    scope.spawn(move || batch_client(address(url), token, n, stop))
                })
                .collect();
            std::thread::sleep(span);
            stop.store(true, Ordering::Relaxed);
            all.into_iter().map(|it| it.join().expect("a client does not panic")).sum()
        });
        let rate = sent as f64 / began.elapsed().as_secs_f64();
        println!("NDJSON, {BATCH} lines a request, {clients} connections: {rate:.0} entries/s");
    }
}

fn batch_client(address: &str, token: &str, seed: u64, stop: &AtomicBool) -> usize {
    let (mut stream, mut bodies, mut buffer, mut sent) =
        (connect(address), Bodies::new(seed + 1_000), vec![0; 1 << 20], 0);
    while !stop.load(Ordering::Relaxed) {
        let lines: Vec<String> = (0..BATCH).map(|_| bodies.next()).collect();
        let body = lines.join("\n");
        let head = format!(
            "POST /v1/entries/batch HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\ncontent-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).expect("it takes it");
        answer(&mut stream, &mut buffer, "200");
        sent += BATCH;
    }
    sent
}

/// What one request costs, by part, and how much of what the process used that explains.
fn parts(vault: &Child, bare: &Child, urls: (&str, &str), token: &str, span: Duration) {
    let mut bodies = Bodies::new(7);
    let lines: Vec<String> = (0..20_000).map(|_| bodies.next()).collect();
    let parts = Parts::of(&lines);
    let measure = |child: &Child, url: &str, names: [&str; 2]| {
        let before = names.map(|it| used(child.id(), it));
        let done = load(url, token, 64, span).requests as f64;
        let after = names.map(|it| used(child.id(), it));
        [0, 1].map(|n| (after[n] - before[n]).as_secs_f64() * 1e6 / done)
    };
    let [workers, writer] = measure(vault, urls.0, ["actix-rt", "writer"]);
    let [bare_workers, bare_writer] = measure(bare, urls.1, ["actix-rt", "append"]);
    // The bare service parses too; what is left of it is HTTP and the system.
    let http = bare_workers - parts.parse;
    println!("\nCPU of a request at 64 connections, us");
    for (what, microseconds) in [
        ("HTTP and system, as in the bare service", http),
        ("parse", parts.parse),
        ("check", parts.check),
        ("seal", parts.seal),
        ("hash", parts.hash),
        ("store: the writer's thread", writer),
        ("  the bare service's", bare_writer),
    ] {
        println!("  {what:<42} {microseconds:>7.2}");
    }
    let (explained, all) = (http + parts.sum() + writer, workers + writer);
    println!("  {:<42} {explained:>7.2} of {all:.2}: {:.0} %", "sum", explained / all * 100.0);
}

/// What writers meet while a segment closes: the second of the worst p99 against the middle one.
fn closing(url: &str, token: &str, span: Duration) {
    let mut all: Vec<f64> =
        (0..12).map(|_| load(url, token, 64, (span / 4).max(Duration::from_millis(100))).p99).collect();
    all.sort_by(f64::total_cmp);
    println!(
        "p99 at 64 connections over {} parts of a load in which segments close: middle {:.0} us, worst {:.0} us ({:.1} times)",
        all.len(),
        all[all.len() / 2],
        all[all.len() - 1],
        all[all.len() - 1] / all[all.len() / 2]
    );
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_nodelay(true).expect("the option is known");
    stream
}

/// Requests by so many connections for a time, each with a new entry.
fn load(url: &str, token: &str, clients: usize, span: Duration) -> Figures {
    let address = address(url);
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let mut times: Vec<u32> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..clients)
            .map(|n| {
                let stop = &stop;
                scope.spawn(move || client(address, token, n as u64, stop))
            })
            .collect();
        std::thread::sleep(span);
        stop.store(true, Ordering::Relaxed);
        all.into_iter().flat_map(|it| it.join().expect("a client does not panic")).collect()
    });
    let spent = began.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |share: usize| f64::from(times[(times.len() * share / 100).min(times.len() - 1)]);
    Figures { requests: times.len(), rate: times.len() as f64 / spent, p50: at(50), p99: at(99) }
}

fn client(address: &str, token: &str, seed: u64, stop: &AtomicBool) -> Vec<u32> {
    let (mut stream, mut bodies) = (connect(address), Bodies::new(seed + 1));
    let (mut times, mut buffer) = (Vec::new(), vec![0; 16_384]);
    while !stop.load(Ordering::Relaxed) {
        let body = bodies.next();
        let request = format!(
            "POST /v1/entries HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let began = Instant::now();
        stream.write_all(request.as_bytes()).expect("it takes the request");
        answer(&mut stream, &mut buffer, "201");
        times.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    times
}

/// Reads one answer whole; it must have that status.
fn answer(stream: &mut TcpStream, buffer: &mut [u8], status: &str) {
    let mut have = 0;
    loop {
        let read = stream.read(&mut buffer[have..]).expect("it answers");
        assert!(read > 0, "it hung up: {}", String::from_utf8_lossy(&buffer[..have]));
        have += read;
        let Some(end) = buffer[..have].windows(4).position(|it| it == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
        assert!(head.split(' ').nth(1) == Some(status), "{}", String::from_utf8_lossy(&buffer[..have]));
        let length = head
            .lines()
            .find_map(|it| it.strip_prefix("content-length:"))
            .and_then(|it| it.trim().parse::<usize>().ok());
        if have >= end + 4 + length.unwrap_or(0) {
            return;
        }
    }
}

/// A body that waits for its commit.
type Waiting = (Vec<u8>, oneshot::Sender<i64>);

/// The bare service: parse, append, commit together what has come, answer.
fn bare(database: &Path) {
    let mut db = Connection::open(database).expect("a database can be made");
    db.execute_batch(
        "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 6000;
        CREATE TABLE entry (sequence INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT",
    )
    .expect("the table can be made");
    let (queue, mut queued) = mpsc::unbounded_channel::<Waiting>();
    let append = std::thread::Builder::new().name("append".into());
    let append = append.spawn(move || {
        let mut sequence = 0;
        while let Some(first) = queued.blocking_recv() {
            let mut all = vec![first];
            while let Ok(next) = queued.try_recv() {
                all.push(next);
            }
            let transaction = db.transaction().expect("a transaction begins");
            for (body, _) in &all {
                let mut insert =
                    transaction.prepare_cached("INSERT INTO entry VALUES (?1, ?2)").expect("the statement is right");
                insert.execute(params![sequence, body]).expect("a row goes in");
                sequence += 1;
            }
            transaction.commit().expect("the commit holds");
            for (n, (_, reply)) in (sequence - all.len() as i64..).zip(all) {
                let _ = reply.send(n);
            }
        }
    });
    append.expect("a thread can be made");
    let serve = async move {
        let queue = web::Data::new(queue);
        let server =
            HttpServer::new(move || App::new().app_data(queue.clone()).route("/v1/entries", web::post().to(take)));
        let server = server.workers(2).bind("127.0.0.1:0").expect("a port is free");
        println!("http://{}", server.addrs()[0]);
        server.run().await.expect("it serves");
    };
    actix_web::rt::System::new().block_on(serve);
}

async fn take(body: web::Bytes, queue: web::Data<mpsc::UnboundedSender<Waiting>>) -> HttpResponse {
    if json::parse::<Submission>(&body).is_err() {
        return HttpResponse::BadRequest().finish();
    }
    let (reply, answer) = oneshot::channel();
    queue.send((body.to_vec(), reply)).expect("the writer lives");
    let sequence = answer.await.expect("the writer answers");
    HttpResponse::Created().content_type("application/json").body(format!(r#"{{"sequence":{sequence}}}"#))
}
