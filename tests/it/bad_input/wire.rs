//! Bytes that are no proper HTTP, bodies that do not come, and random damage to good submissions.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use proptest::prelude::*;

use super::{CANARY, full};
use crate::app::{App, Options};
use crate::ingest::size_of;

/// What came back on one connection, and the status of each answer in it.
struct Heard {
    text: String,
    statuses: Vec<u16>,
}

impl Heard {
    fn new(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let statuses = text.split("HTTP/1.1 ").skip(1).map(|it| it[..3].parse().unwrap()).collect();
        assert!(!text.contains(CANARY), "a value is echoed: {text}");
        Self { text, statuses }
    }

    /// The one answer with that status and code; it is a problem like any other.
    fn is_problem(&self, what: &str, status: u16, code: &str) {
        assert_eq!(self.statuses, [status], "{what}: {}", self.text);
        let (head, body) = self.text.split_once("\r\n\r\n").unwrap();
        let problem: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|it| panic!("{what}: {it}: {body}"));
        assert_eq!(problem["code"], code, "{what}");
        let id = format!("x-request-id: {}", problem["request_id"].as_str().unwrap());
        assert!(head.contains(&id) && head.contains("application/problem+json"), "{what}: {head}");
    }
}

fn connect(app: &App) -> TcpStream {
    let stream = TcpStream::connect(app.url().trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Everything the server says until it hangs up.
fn hear(what: &str, mut stream: TcpStream) -> Heard {
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        // A server that hangs up while bytes are unread resets the connection.
        let said = String::from_utf8_lossy(&bytes);
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{what}: the server does not hang up; it said {said:?}");
    }
    Heard::new(&bytes)
}

fn raw(app: &App, bytes: &[u8]) -> Heard {
    let mut stream = connect(app);
    // The server may hang up before it has read all of it.
    drop(stream.write_all(bytes));
    drop(stream.shutdown(Shutdown::Write));
    hear("a raw request", stream)
}

/// The head of a submission, open at its end.
fn head(app: &App, path: &str, more: &str) -> String {
    let token = app.submitter().token;
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{more}")
}

const JSON: &str = "Content-Type: application/json\r\n";

/// A whole good submission, as an attacker would hide one in something else.
fn hidden(app: &App) -> String {
    let body = full().to_string();
    format!("{}{JSON}Content-Length: {}\r\n\r\n{body}", head(app, "/v1/entries", ""), body.len())
}

#[tokio::test]
async fn what_is_no_http_is_refused_and_nothing_is_smuggled_in() {
    let app = App::spawn().await;
    let size = size_of(&app).await;
    let (post, hidden) = (head(&app, "/v1/entries", JSON), hidden(&app));
    let length = hidden.len();
    let headers: String = (0..5_000).map(|n| format!("X-{n}: {CANARY}\r\n")).collect();
    let long = "a".repeat(200_000);
    let chunked = "Transfer-Encoding: chunked\r\n";
    for (what, bytes) in [
        ("garbage", format!("\u{1}\u{2} {CANARY}\r\n\r\n")),
        ("a TLS hello", "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\u{fc}\u{3}\u{3}".into()),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into()),
        ("another version", format!("GET /{CANARY} HTTP/9.9\r\nHost: x\r\n\r\n")),
        ("no version", "GET /healthz\r\n\r\n".into()),
        ("a space too many", "GET  /healthz  HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("a NUL in a header", format!("GET /healthz HTTP/1.1\r\nX: {CANARY}\u{0}\r\n\r\n")),
        ("a header without name", format!("GET /healthz HTTP/1.1\r\n: {CANARY}\r\n\r\n")),
        ("a folded header", format!("GET /healthz HTTP/1.1\r\nX: a\r\n {CANARY}\r\n\r\n")),
        ("5,000 headers", format!("GET /healthz HTTP/1.1\r\n{headers}\r\n")),
        ("a long path", format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n")),
        ("a long query", format!("GET /v1/entries?actor={long} HTTP/1.1\r\nHost: x\r\n\r\n")),
        ("a long header", format!("GET /healthz HTTP/1.1\r\nX: {long}\r\n\r\n")),
        ("two lengths", format!("{post}Content-Length: 2\r\nContent-Length: {length}\r\n\r\n{hidden}")),
        ("two lengths in one", format!("{post}Content-Length: 2, {length}\r\n\r\n{{}}{hidden}")),
        ("a signed length", format!("{post}Content-Length: +2\r\n\r\n{{}}{hidden}")),
        ("a negative length", format!("{post}Content-Length: -1\r\n\r\n{hidden}")),
        ("a length beyond numbers", format!("{post}Content-Length: 99999999999999999999\r\n\r\n{hidden}")),
        ("length and chunks", format!("{post}Content-Length: 5\r\n{chunked}\r\n0\r\n\r\n{hidden}")),
        ("chunks and length", format!("{post}{chunked}Content-Length: {length}\r\n\r\n0\r\n\r\n{hidden}")),
        ("another encoding", format!("{post}Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n{hidden}")),
        ("a chunk of no size", format!("{post}{chunked}\r\nzz\r\n{hidden}\r\n0\r\n\r\n")),
        ("a chunk of 2^64", format!("{post}{chunked}\r\n10000000000000000\r\n{hidden}")),
    ] {
        let heard = raw(&app, bytes.as_bytes());
        assert!(heard.statuses.iter().all(|it| (400..500).contains(it)), "{what}: {}", heard.text);
        assert!(heard.statuses.len() <= 1, "{what} was taken for several requests: {}", heard.text);
        assert_eq!(size_of(&app).await, size, "{what}: nothing goes in");
    }
    assert!(!app.log().contains(CANARY), "the log holds a header or a path");
    // Without a trick the hidden request is a good one.
    let alone = raw(&app, hidden.as_bytes());
    assert_eq!(alone.statuses, [201], "{}", alone.text);
    app.finish();
}

#[tokio::test]
async fn the_unread_body_of_a_refused_request_is_never_taken_for_the_next_request() {
    let env = vec![("PHIVAULT_LIMITS__BODY_BYTES".into(), "100".into())];
    let app = App::spawn_with(Options { env, ..Options::default() }).await;
    let size = size_of(&app).await;
    let body = "{\"action\":\"login\",\"actor\":{\"id\":\"a\"},\"reason\":{\"code\":\"TREAT\"}}";
    let inner = format!("{}{JSON}Content-Length: {}\r\n\r\n{body}", head(&app, "/v1/entries", ""), body.len());
    assert_eq!(raw(&app, inner.as_bytes()).statuses, [201], "alone it is a good request");
    let framed = format!("Content-Length: {}\r\n\r\n{inner}", inner.len());
    let chunks = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    let anonymous = "POST /v1/entries HTTP/1.1\r\nHost: x\r\n".to_owned();
    for (what, start, status, code) in [
        ("another type", head(&app, "/v1/entries", "Content-Type: text/plain\r\n"), 415, "media_type"),
        (
            "compressed",
            head(&app, "/v1/entries", &format!("{JSON}Content-Encoding: gzip\r\n")),
            415,
            "content_encoding",
        ),
        ("too large", head(&app, "/v1/entries", JSON), 413, "body_too_large"),
        ("no token", anonymous, 401, "token_invalid"),
        ("no such path", head(&app, "/v1/nothing", JSON), 404, "no_such_route"),
        ("no such method", head(&app, "/v1/reports/access", JSON), 405, "method_not_allowed"),
        ("not allowed", head(&app, "/v1/keys", JSON), 405, "method_not_allowed"),
    ] {
        for rest in [&framed, &chunks] {
            raw(&app, format!("{start}{rest}").as_bytes()).is_problem(what, status, code);
        }
    }
    assert_eq!(size_of(&app).await, size + 1, "only the request that stood alone went in");
    app.finish();
}

#[tokio::test]
async fn a_body_without_a_length_is_bounded_all_the_same() {
    let env = vec![("PHIVAULT_LIMITS__BODY_BYTES".into(), "4000".into())];
    let app = App::spawn_with(Options { env, ..Options::default() }).await;
    let size = size_of(&app).await;
    let start = head(&app, "/v1/entries", &format!("{JSON}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"));
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let good = full().to_string();
    let pieces: String = good.as_bytes().chunks(100).map(|it| chunk(std::str::from_utf8(it).unwrap())).collect();
    assert_eq!(raw(&app, format!("{start}{pieces}0\r\n\r\n").as_bytes()).statuses, [201], "chunks are taken");
    let large = chunk(&" ".repeat(500)).repeat(9);
    raw(&app, format!("{start}{large}0\r\n\r\n").as_bytes()).is_problem("nine chunks", 413, "body_too_large");
    raw(&app, format!("{start}{}0\r\n\r\n", chunk(&" ".repeat(4_001))).as_bytes()).is_problem(
        "one chunk",
        413,
        "body_too_large",
    );
    assert_eq!(size_of(&app).await, size + 1, "nothing refused goes in");
    app.finish();
}

#[tokio::test]
async fn a_body_that_never_comes_or_breaks_off_is_given_up() {
    let env = vec![("PHIVAULT_LIMITS__BODY_SECONDS".into(), "1".into())];
    let app = App::spawn_with(Options { env, ..Options::default() }).await;
    let size = size_of(&app).await;
    let good = full().to_string();
    let fixed = format!("Content-Length: {}\r\n\r\n{}", good.len(), &good[..good.len() - 1]);
    let cut = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{good}\r\n", good.len());
    let mut waiting = Vec::new();
    for path in ["/v1/entries", "/v1/entries/batch"] {
        for rest in ["Content-Length: 200\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n", &fixed, &cut] {
            let mut stream = connect(&app);
            stream.write_all(format!("{}{rest}", head(&app, path, JSON)).as_bytes()).unwrap();
            waiting.push((format!("{path} {rest}"), stream));
        }
    }
    for (what, mut stream) in waiting {
        // Up to the end of the problem; whether the server then hangs up is another test's business.
        let mut said = Vec::new();
        while !said.ends_with(b"}") {
            let mut part = [0; 4_096];
            let count = stream.read(&mut part).unwrap_or_else(|it| panic!("{what}: the server is silent: {it}"));
            assert!(count > 0, "{what}: the server hung up without an answer");
            said.extend_from_slice(&part[..count]);
        }
        Heard::new(&said).is_problem(&what, 408, "body_timeout");
    }
    for rest in [&fixed, &cut] {
        let heard = raw(&app, format!("{}{rest}", head(&app, "/v1/entries", JSON)).as_bytes());
        assert!(heard.statuses.iter().all(|it| (400..500).contains(it)), "it broke off: {}", heard.text);
    }
    assert_eq!(size_of(&app).await, size, "a body that is not whole does not go in");
    assert!(!app.log().contains(CANARY), "the log holds a value");
    app.finish();
}

#[tokio::test]
async fn a_connection_whose_body_does_not_come_is_not_kept_for_ever() {
    let env = vec![("PHIVAULT_LIMITS__BODY_SECONDS".into(), "1".into())];
    let app = App::spawn_with(Options { env, ..Options::default() }).await;
    let chunked = "Transfer-Encoding: chunked\r\n\r\n";
    let rests =
        ["Content-Length: 200\r\n\r\n", chunked, &format!("{chunked}4\r\n{{\"ac"), &format!("{chunked}2\r\n{{}}\r\n")];
    let mut waiting = Vec::new();
    for rest in rests {
        for start in [
            head(&app, "/v1/entries", JSON),
            head(&app, "/v1/entries", "Content-Type: text/plain\r\n"),
            "POST /v1/entries HTTP/1.1\r\nHost: x\r\n".to_owned(),
            "POST /v1/nothing HTTP/1.1\r\nHost: x\r\n".to_owned(),
            "GET /healthz HTTP/1.1\r\nHost: x\r\n".to_owned(),
        ] {
            let mut stream = connect(&app);
            stream.write_all(format!("{start}{rest}").as_bytes()).unwrap();
            waiting.push((format!("{} {rest:?}", start.lines().next().unwrap()), stream));
        }
    }
    // The answer, and then the end of the connection: else a few of these, without any token, keep everybody out.
    for (what, stream) in waiting {
        assert_eq!(hear(&what, stream).statuses.len(), 1, "{what} gets one answer");
    }
    app.finish();
}

/// How long it takes until the server hangs up; `Err` if it does not within 20 seconds.
fn until_closed(mut stream: TcpStream, mut meanwhile: impl FnMut(&mut TcpStream)) -> Result<Duration, ()> {
    let began = std::time::Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    while began.elapsed() < Duration::from_secs(20) {
        match stream.read(&mut [0; 4_096]) {
            Ok(0) => return Ok(began.elapsed()),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => meanwhile(&mut stream),
            Err(_) => return Ok(began.elapsed()),
        }
    }
    Err(())
}

#[tokio::test]
async fn a_connection_is_not_kept_by_the_beginning_of_a_next_request() {
    let env = vec![("PHIVAULT_LIMITS__IDLE_SECONDS".into(), "2".into())];
    let app = App::spawn_with(Options { env, ..Options::default() }).await;
    let first = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    type Next<'a> = (&'a str, &'a str, &'a str);
    let nexts: [Next<'_>; 5] = [
        ("nothing", "", ""),
        ("a byte", "G", ""),
        ("half a line, then more of it now and then", "GET /he", "a"),
        ("blank lines", "\r\n", "\r\n"),
        ("a head that goes on", "GET /healthz HTTP/1.1\r\n", "X: y\r\n"),
    ];
    std::thread::scope(|scope| {
        for (what, then, drip) in nexts {
            let mut stream = connect(&app);
            scope.spawn(move || {
                stream.write_all(first.as_bytes()).unwrap();
                std::thread::sleep(Duration::from_millis(500));
                stream.write_all(then.as_bytes()).unwrap();
                let closed = until_closed(stream, |stream| drop(stream.write_all(drip.as_bytes())));
                assert!(closed.is_ok(), "{what} keeps the connection");
            });
        }
    });
    app.finish();
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answers_is_hung_up_on() {
    let env = vec![("PHIVAULT_LIMITS__WRITE_SECONDS".into(), "1".into())];
    let app = App::spawn_with(Options { env, ..Options::default() }).await;
    let mut stream = connect(&app);
    let requests = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2_000);
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    // Nothing is read, so answers pile up until the server gives up; then writing or reading says so.
    let began = std::time::Instant::now();
    let mut gone = stream.write_all(requests.as_bytes()).is_err();
    while !gone && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(100));
        gone = stream.write_all(b"\r\n").is_err();
    }
    assert!(gone, "the connection is kept for ever");
    // Who reads at a pace gets everything.
    let mut stream = connect(&app);
    let requests = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(50);
    stream.write_all(requests.as_bytes()).unwrap();
    let mut bytes = 0;
    for _ in 0..40 {
        std::thread::sleep(Duration::from_millis(50));
        bytes += stream.read(&mut vec![0; 64 << 10]).unwrap();
    }
    assert!(bytes > 1 << 20, "only {bytes} bytes came");
    app.finish();
}

#[test]
fn whatever_bytes_come_the_answer_is_proper_and_the_vault_stays_intact() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let app = runtime.block_on(App::spawn());
    let (good, client) = (full().to_string().into_bytes(), app.submitter());
    let edits = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..6);
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    let size = runtime.block_on(size_of(&app));
    let accepted = std::cell::Cell::new(0);
    proptest!(config, |(edits in edits)| {
        let mut body = good.clone();
        for (at, byte, how) in edits {
            // At least one byte stays to be edited.
            let at = at.index(body.len());
            match how {
                0 => body[at] = byte,
                2 if body.len() > 1 => drop(body.remove(at)),
                3 => body.truncate(at.max(1)),
                _ => body.insert(at, byte),
            }
        }
        let alone = runtime.block_on(client.post_text("/v1/entries", "application/json", body.clone()));
        prop_assert!([201, 400, 422].contains(&alone.status), "{alone:?}");
        if alone.status == 201 {
            accepted.set(accepted.get() + 1);
        } else {
            prop_assert_eq!(&alone.headers["content-type"], "application/problem+json");
            prop_assert!(alone.json()["errors"][0]["code"].is_string(), "{alone:?}");
            prop_assert!(!alone.text.contains(CANARY), "{alone:?}");
        }
        let batch = runtime.block_on(client.post_text("/v1/entries/batch?partial=true", "application/x-ndjson", body));
        prop_assert!([200, 422].contains(&batch.status), "{batch:?}");
        prop_assert!(!batch.text.contains(CANARY), "{batch:?}");
        accepted.set(accepted.get() + batch.json()["accepted"].as_u64().unwrap_or(0));
    });
    assert_eq!(runtime.block_on(size_of(&app)), size + accepted.get(), "what was accepted is in, and nothing else");
    assert!(!app.log().contains(CANARY), "the log holds a value");
    app.finish();
}
