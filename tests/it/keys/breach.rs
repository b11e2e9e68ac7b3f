//! The scope of a breach: what was readable under a key, when, and who looked.

use serde_json::{Value, json};

use super::{Two, certificate, reencrypt, reveal};
use crate::app::{App, entry};

async fn scope(app: &App, version: u64, from: Option<&str>, to: Option<&str>) -> Value {
    let mut path = format!("/v1/reports/breach-scope?key_version={version}&reason=HCOMPL");
    from.into_iter().for_each(|it| path.push_str(&format!("&from={it}")));
    to.into_iter().for_each(|it| path.push_str(&format!("&to={it}")));
    let answer = app.officer().get(&path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

async fn submit(app: &App, patient: &str, category: &str) -> Value {
    let mut it = entry();
    (it["patient"]["id"], it["category"]) = (json!(patient), json!(category));
    app.submitter().submit(&it).await
}

/// A moment after everything so far and before everything to come.
async fn now() -> String {
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    let text = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    text
}

#[tokio::test]
async fn what_moves_while_the_keys_rotate_is_counted_where_it_went() {
    let two = Two::spawn().await;
    let lines: String = (0..3_000).map(|_| format!("{}\n", entry())).collect();
    two.app.submitter().post_text("/v1/entries/batch", "application/x-ndjson", lines).await;
    two.rotate().await;
    let body = json!({"per_second": 0, "reason": {"code": "HSYSADMIN"}});
    assert_eq!(two.app.admin().post("/v1/keys/re-encrypt", &body).await.status, 202);
    two.rotate().await;
    super::until_moved(&two.app).await;
    submit(&two.app, "MRN-3", "problems").await;
    let keys = two.app.auditor().get("/v1/keys").await.json();
    for (version, least) in [(1, 3_000), (2, 3_000), (3, 1)] {
        let told = scope(&two.app, version, None, None).await;
        assert!(told["entries"].as_u64().unwrap() >= least, "{version}: {told:#} {keys:#}");
        assert!(told["entries_now"].as_u64() <= told["entries"].as_u64());
    }
    two.app.finish();
}

#[tokio::test]
async fn the_scope_follows_entries_from_key_to_key_and_names_who_looked() {
    let two = Two::spawn().await;
    let app = &two.app;
    let first = submit(app, "MRN-1", "problems").await;
    submit(app, "MRN-1", "results").await;
    let erased = submit(app, "MRN-2", "results").await;
    let before = now().await;
    two.rotate().await;
    reencrypt(app).await;
    let moved = now().await;
    reveal(app, &first).await;
    let done = two.both(&json!({"operation": "redact", "entry": erased["id"], "authority": "order"})).await;
    certificate(app, &done["certificate"]).await;
    let later = now().await;

    // Under version 1 until they were moved.
    let all = scope(app, 1, None, None).await;
    assert_eq!((&all["entries"], &all["entries_now"]), (&json!(3), &json!(0)), "{all:#}");
    // With blind ids, the id of whom everything was erased is gone as well.
    let patients = all["patients"].as_object().unwrap();
    assert!(patients["MRN-1"] == json!(2) && patients.len() == 2, "{all:#}");
    assert!(patients.contains_key("MRN-2") || patients.keys().any(|it| it.starts_with("blind:")), "{all:#}");
    assert_eq!(all["by_category"], json!({"problems": 1, "results": 2}));
    assert_eq!(scope(app, 1, None, Some(&before)).await["entries"], json!(3));
    assert_eq!(scope(app, 1, Some(&moved), None).await["entries"], json!(0));
    // Under version 2 since then; what was erased only until it was.
    assert_eq!(scope(app, 2, None, Some(&before)).await["entries"], json!(0), "nothing was under it yet");
    let still = scope(app, 2, Some(&later), None).await;
    assert_eq!((&still["entries"], &still["patients"]), (&json!(2), &json!({"MRN-1": 2})), "{still:#}");
    assert_eq!(scope(app, 2, Some(&moved), Some(&later)).await["entries"], json!(3));
    // Who looked.
    let seen = scope(app, 2, Some(&moved), Some(&later)).await;
    let reveals = seen["reveals"].as_array().unwrap();
    assert_eq!(
        (reveals.len(), &reveals[0]["actor"], &reveals[0]["entries"]),
        (1, &json!("officer-app"), &json!(1)),
        "{seen:#}"
    );
    assert!(scope(app, 2, Some(&later), None).await["reveals"].as_array().unwrap().is_empty());
    for (query, status) in [
        ("key_version=9&reason=HCOMPL", 400),
        ("reason=HCOMPL", 400),
        ("key_version=1", 422),
        ("key_version=1&reason=HCOMPL&from=now", 400),
    ] {
        let answer = app.officer().get(&format!("/v1/reports/breach-scope?{query}")).await;
        assert_eq!(answer.status, status, "{query}: {answer:?}");
    }
    two.app.finish();
}
