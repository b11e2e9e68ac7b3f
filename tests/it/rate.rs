//! What one token may ask for: beyond its share it is refused at once, counted, and nobody else pays for it.

use phivault::domain::caller::Role;
use serde_json::json;

use crate::app::{App, entry};

#[tokio::test]
async fn a_token_beyond_its_share_is_refused_and_counted_exactly_and_others_are_not_held_up() {
    let mut app = App::spawn().await;
    let other = app.make_token(Role::Submitter, "other-app").await;
    app.stop();
    app.set("PHIVAULT_LIMITS__SUBMITS_PER_SECOND", "10");
    app.set("PHIVAULT_LIMITS__QUERIES_PER_SECOND", "10");
    app.start();
    let mut refused = 0;
    for _ in 0..60 {
        let answer = app.submitter().post("/v1/entries", &entry()).await;
        match answer.status {
            201 => {}
            429 => {
                refused += 1;
                assert_eq!(
                    (answer.code().as_str(), answer.headers["retry-after"].to_str().unwrap()),
                    ("too_many_requests", "1")
                );
            }
            _ => panic!("{answer:?}"),
        }
    }
    assert!(refused > 20, "{refused}");
    assert_eq!(app.with_token(&other).post("/v1/entries", &entry()).await.status, 201, "others are not held up");
    // A batch counts by its entries: it is taken, and the next request waits for it.
    let batch: Vec<_> = (0..100).map(|_| entry()).collect();
    assert_eq!(app.with_token(&other).post("/v1/entries/batch", &json!(batch)).await.status, 200);
    let late = app.with_token(&other).post("/v1/entries", &entry()).await;
    assert_eq!(late.status, 429);
    assert!(late.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 5, "{late:?}");
    let mut searches = 0;
    for _ in 0..40 {
        searches += u64::from(app.auditor().get("/v1/entries?limit=1").await.status == 429);
    }
    assert!(searches > 10, "{searches}");
    app.stop();
    app.set("PHIVAULT_LIMITS__SUBMITS_PER_SECOND", "0");
    app.set("PHIVAULT_LIMITS__QUERIES_PER_SECOND", "0");
    app.start();
    let found = app.auditor().get("/v1/entries?outcome=denied&limit=100").await.json();
    let told = |action: &str, label: &str| -> u64 {
        let all = found["entries"].as_array().unwrap().iter();
        let own = all.filter(|it| it["action"] == action && it["actor"]["id"] == label);
        own.map(|it| it["facts"]["requests_refused"].as_str().unwrap().parse::<u64>().unwrap()).sum()
    };
    assert_eq!(
        (told("submit", "submitter-app"), told("submit", "other-app"), told("search", "auditor-app")),
        (refused, 1, searches)
    );
    app.finish();
}
