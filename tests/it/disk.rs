//! A disk that fills: applications are told in time, those who can help still work, and nothing goes unsaid.

use serde_json::json;

use crate::app::{App, entry};

#[tokio::test]
async fn while_the_disk_is_full_submissions_are_refused_and_officers_and_admins_still_work() {
    if !cfg!(debug_assertions) {
        return eprintln!(
            "SKIPPED: what a disk has left can only be said to a debug build; run cargo test without --release"
        );
    }
    let mut app = App::spawn().await;
    app.stop();
    let says = app.dir().join("free");
    let say = |mb: u64| std::fs::write(&says, (mb << 20).to_string()).unwrap();
    say(10_000);
    app.set("PHIVAULT_TEST_DISK_FREE", says.to_str().unwrap());
    app.set("PHIVAULT_STORAGE__RESERVE_MB", "100");
    app.start();
    let ready = async || app.admin().get("/readyz").await.json();
    let looked = || tokio::time::sleep(std::time::Duration::from_millis(700));
    assert_eq!(app.submitter().post("/v1/entries", &entry()).await.status, 201);
    say(150);
    looked().await;
    assert!(ready().await["problems"].to_string().contains("nearly full"));
    assert_eq!(app.submitter().post("/v1/entries", &entry()).await.status, 201, "it warns before it refuses");
    say(99);
    looked().await;
    for _ in 0..3 {
        let refused = app.submitter().post("/v1/entries", &entry()).await;
        assert_eq!((refused.status, refused.code().as_str()), (503, "disk_full"));
        assert_eq!(refused.headers["retry-after"], "30");
    }
    let batch = app.submitter().post("/v1/entries/batch", &json!([entry(), entry()])).await;
    assert_eq!((batch.status, batch.code().as_str()), (503, "disk_full"));
    let ready_now = ready().await;
    assert!(ready_now["status"] == "degraded" && ready_now["problems"].to_string().contains("the disk is full"));
    assert_eq!(app.auditor().get("/v1/entries").await.status, 200, "what is looked at is still recorded");
    app.make_token(phivault::domain::caller::Role::Officer, "helper").await;
    // A little room is not enough to go on: it would be gone at once.
    say(110);
    looked().await;
    assert_eq!(app.submitter().post("/v1/entries", &entry()).await.code(), "disk_full");
    say(126);
    looked().await;
    assert_eq!(app.submitter().post("/v1/entries", &entry()).await.status, 201);
    app.stop();
    app.start();
    let found = app.auditor().get("/v1/entries?action=submit&outcome=denied").await.json();
    let entries = found["entries"].as_array().unwrap();
    assert_eq!((entries.len(), &entries[0]["facts"]["refused_disk_full"]), (1, &json!("5")), "{found:#}");
    app.finish();
}
