//! Reading is recorded first (promise P6): while nothing can be recorded, nothing is revealed, however often it is asked for.

use std::time::Duration;

use phivault::domain::caller::Role;
use rusqlite::Connection;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::app::{App, entry};
use crate::chance::number;
use crate::check::entries;

/// Requests at a time, each on a connection of its own; the server takes 500.
const AT_A_TIME: u64 = 400;
/// Stands in what is sealed.
const VALUE: &str = "CANARY-4b1e-never-shown";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_nothing_can_be_recorded_nothing_is_revealed() {
    let asked = number("PHIVAULT_TEST_CLOSED_REVEALS", AT_A_TIME);
    let mut app = App::spawn().await;
    let mut sealed = entry();
    sealed["changes"][0]["new"] = json!(VALUE);
    let id = app.submitter().submit(&sealed).await["id"].as_str().unwrap().to_owned();
    let reason = json!({"reason": {"code": "HCOMPL"}});
    let shown = app.officer().post(&format!("/v1/entries/{id}/reveal"), &reason).await;
    assert!(shown.text.contains(VALUE), "it is shown while all is well: {shown:?}");
    let token = app.make_token(Role::Officer, "eager").await;
    let (mut sent, mut answered) = (0, 0);
    while sent < asked {
        let before = entries(app.dir()).len();
        // Somebody else writes, so the vault cannot; after five seconds its writer gives up and ends the process.
        let database = Connection::open(app.dir().join("data/vault.db")).unwrap();
        database.execute_batch("BEGIN IMMEDIATE").unwrap();
        let count = AT_A_TIME.min(asked - sent);
        let asking: Vec<_> =
            (0..count).map(|n| tokio::spawn(reveal(app.url().to_owned(), token.clone(), id.clone(), n))).collect();
        for it in asking {
            let heard = it.await.unwrap();
            answered += u64::from(!heard.is_empty());
            assert!(!heard.contains(VALUE), "it was revealed and not recorded: {heard}");
            assert!(heard.is_empty() || heard.starts_with("HTTP/1.1 503"), "{heard}");
        }
        sent += count;
        let mut server = app.take_server().unwrap();
        let status = tokio::task::spawn_blocking(move || server.wait().unwrap()).await.unwrap();
        assert!(!status.success(), "a server that cannot record does not go on");
        drop(database);
        assert_eq!(entries(app.dir()).len(), before, "nothing was recorded meanwhile");
        app.start();
    }
    println!("{sent} reveals while nothing could be recorded: none shown, {answered} told so, the others broke off");
    let shown = app.officer().post(&format!("/v1/entries/{id}/reveal"), &reason).await;
    assert!(shown.text.contains(VALUE), "it is shown again when it can be recorded: {shown:?}");
    app.finish();
}

/// Everything that a server says to one request, until the connection ends.
async fn reveal(url: String, token: String, id: String, n: u64) -> String {
    tokio::time::sleep(Duration::from_millis(n)).await;
    let Ok(mut stream) = TcpStream::connect(url.trim_start_matches("http://")).await else { return String::new() };
    let body = r#"{"reason":{"code":"HCOMPL"}}"#;
    let size = body.len();
    let head = format!(
        "POST /v1/entries/{id}/reveal HTTP/1.1\r\nHost: vault\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n{body}"
    );
    let mut heard = Vec::new();
    if stream.write_all(head.as_bytes()).await.is_ok() {
        let _ = stream.read_to_end(&mut heard).await;
    }
    String::from_utf8_lossy(&heard).into_owned()
}
