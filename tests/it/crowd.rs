//! Many at once: who reads much or sends slowly keeps nobody else waiting for ever.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;

use serde_json::json;

use crate::app::{App, Options, entry};

/// 20,000 entries of many users.
async fn fill(app: &App) {
    for part in 0..4 {
        let lines: String = (0..5_000)
            .map(|n| {
                let mut sent = entry();
                sent["actor"]["id"] = json!(format!("u{}", (part * 5_000 + n) % 701));
                format!("{sent}\n")
            })
            .collect();
        let answer = app.submitter().post_text("/v1/entries/batch", "application/x-ndjson", lines).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[tokio::test]
async fn many_reports_at_once_keep_nobody_from_submitting() {
    let app = App::spawn().await;
    fill(&app).await;
    let reports = (0..24).map(|_| {
        let officer = app.officer();
        tokio::spawn(async move { officer.get("/v1/reports/access?reason=HCOMPL").await })
    });
    let reports: Vec<_> = reports.collect();
    // These go in while reports run, and after.
    let mut submitted = 0;
    while submitted < 50 || !reports.iter().all(tokio::task::JoinHandle::is_finished) {
        app.submitter().submit(&entry()).await;
        assert_eq!(app.with_token("none").get("/healthz").await.status, 200);
        submitted += 1;
    }
    let mut made = 0;
    for report in reports {
        let answer = report.await.unwrap();
        match answer.status {
            200 => made += 1,
            _ => {
                assert_eq!((answer.status, answer.code().as_str()), (503, "busy"), "{answer:?}");
                assert_eq!(answer.headers["retry-after"], "1");
            }
        }
    }
    assert!(made > 0, "some are made");
    let recorded = app.officer().get("/v1/entries?action=report&limit=1000").await.json();
    assert_eq!(
        recorded["entries"].as_array().unwrap().len(),
        made,
        "one entry a report that was made, none for the others"
    );
    app.finish();
}

#[tokio::test]
async fn room_for_bodies_is_taken_by_what_came_not_by_what_was_announced() {
    let limits = [("BODIES_KIB", "3600"), ("BATCH_BYTES", "3500000")];
    let env = limits.map(|(name, value)| (format!("PHIVAULT_LIMITS__{name}"), value.to_owned())).to_vec();
    let app = App::spawn_with(Options { env, ..Options::default() }).await;
    let token = app.submitter().token;
    let slow = |body: &str| {
        let mut stream = TcpStream::connect(app.url().trim_start_matches("http://")).unwrap();
        let head = format!(
            "POST /v1/entries/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/x-ndjson\r\nContent-Length: 3400000\r\n\r\n{body}"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let lines = |count| format!("{}\n", entry()).repeat(count);
    let send = async |count| app.submitter().post_text("/v1/entries/batch", "application/x-ndjson", lines(count)).await;
    let announced: Vec<TcpStream> = (0..16).map(|_| slow("{")).collect();
    assert_eq!(send(8_000).await.status, 200, "16 announced bodies of which one byte came take no room");
    let refused = |stream: &TcpStream| {
        stream.set_nonblocking(true).unwrap();
        !matches!(stream.peek(&mut [0; 1]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    };
    let (mut came, mut turned_away) = (slow(&lines(8_000)), None);
    for _ in 0..40 {
        // Whichever comes first has the room.
        if refused(&came) {
            came = slow(&lines(8_000));
        }
        turned_away = Some(send(8_000).await).filter(|it| it.status != 200);
        if turned_away.is_some() {
            break;
        }
    }
    let answer = turned_away.expect("there is no room for both");
    assert_eq!((answer.status, answer.code().as_str()), (503, "busy"), "{answer:?}");
    drop((announced, came));
    let mut after = Vec::new();
    while after.last() != Some(&200) && after.len() < 1_000 {
        after.push(send(8_000).await.status);
    }
    assert_eq!(after.last(), Some(&200), "the room is given back");
    app.finish();
}
