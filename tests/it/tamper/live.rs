//! What somebody does to the files under a vault that runs: nothing is acknowledged that is not in.

use rusqlite::Connection;

use super::edits::copy;
use crate::app::{App, entry, verify};
use crate::check::check_vault;
use crate::damage::refusal::serve;

/// Submits once more; it must not be taken, and the server ends by itself, not as if all were well.
async fn ends(app: &mut App) {
    let client = app.submitter();
    let request = client.request(reqwest::Method::POST, "/v1/entries").json(&entry());
    if let Ok(answer) = client.try_send(request).await {
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    let status = app.take_server().unwrap().wait().unwrap();
    assert_eq!(status.code(), Some(70), "{}", app.log());
}

#[tokio::test]
async fn a_trigger_that_lets_entries_vanish_is_found_before_one_is_acknowledged() {
    let mut app = App::spawn().await;
    let db = Connection::open(app.dir().join("data/vault.db")).unwrap();
    for (plant, remove) in [
        ("CREATE TRIGGER evil BEFORE INSERT ON entry BEGIN SELECT RAISE(IGNORE); END", "DROP TRIGGER evil"),
        (
            "CREATE TRIGGER evil AFTER INSERT ON entry WHEN new.sequence % 2 BEGIN DELETE FROM entry WHERE 0; END",
            "DROP TRIGGER evil",
        ),
        ("CREATE VIEW more AS SELECT * FROM entry", "DROP VIEW more"),
    ] {
        app.submitter().submit(&entry()).await;
        db.execute_batch(plant).unwrap();
        ends(&mut app).await;
        assert!(app.log().contains("schema of the database was changed"), "{}", app.log());
        assert!(app.try_start().is_err(), "nor does it start so");
        db.execute_batch(remove).unwrap();
        app.start();
        app.submitter().submit(&entry()).await;
    }
    drop(db);
    app.stop();
    check_vault(app.dir());
    app.start();
    app.finish();
}

#[tokio::test]
async fn a_row_that_is_planted_far_beyond_the_end_keeps_nobody_busy() {
    let mut app = App::spawn().await;
    app.submitter().submit(&entry()).await;
    app.stop();
    for position in [1_u64 << 30, 1 << 40, i64::MAX as u64] {
        let vault = copy(app.dir());
        let db = Connection::open(vault.path().join("data/vault.db")).unwrap();
        let sql = "INSERT INTO entry SELECT ?1, meta, received_at, patient_previous, patient_number, commitment, leaf, sealed \
                   FROM entry WHERE sequence = 3";
        db.execute(sql, [position as i64]).unwrap();
        drop(db);
        let began = std::time::Instant::now();
        let (code, report) = verify(vault.path());
        assert_eq!((code, report["verdict"].as_str()), (1, Some("altered")), "{report:#}");
        assert!(serve(vault.path(), &[]).is_err());
        assert!(began.elapsed() < std::time::Duration::from_secs(20), "it ends at once, not after 2^30 steps");
    }
    app.start();
    app.finish();
}

#[tokio::test]
async fn a_database_that_is_removed_or_replaced_under_a_vault_is_noticed_at_the_next_entry() {
    let mut app = App::spawn().await;
    let (path, away) = (app.dir().join("data/vault.db"), app.dir().join("data/away.db"));
    let log = app.dir().join("data/vault.db-wal");
    for replaced in [false, true] {
        app.submitter().submit(&entry()).await;
        std::fs::rename(&path, &away).unwrap();
        if replaced {
            std::fs::copy(&away, &path).unwrap();
        }
        ends(&mut app).await;
        assert!(app.log().contains("removed or replaced"), "{}", app.log());
        std::fs::rename(&away, &path).unwrap();
        app.start();
    }
    app.submitter().submit(&entry()).await;
    let kept = std::fs::read(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
    ends(&mut app).await;
    // What the log held went into the database as the process ended.
    assert!(!log.exists() && !kept.is_empty());
    app.start();
    app.submitter().submit(&entry()).await;
    app.stop();
    check_vault(app.dir());
    app.start();
    app.finish();
}
