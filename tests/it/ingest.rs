//! Submitting: receipts, idempotency, batches, durability across restarts.

use serde_json::{Value, json};

use crate::app::{App, entry};

#[tokio::test]
async fn an_entry_goes_in_comes_out_in_a_search_and_reveals_exactly() {
    let app = App::spawn().await;
    let mut sent = entry();
    sent["changes"] = serde_json::from_str(r#"[{"field":"hba1c","old":7.0,"new":{"value":0.0710,"unit":"1","flags":[null,true,"é\n"]}},{"field":"gone","old":null}]"#).unwrap();
    sent["actor"]["name"] = json!("Ada Smith");
    let receipt = app.submitter().submit(&sent).await;
    let page = app.officer().get("/v1/entries?patient=MRN-12345").await.json();
    let found = &page["entries"][0];
    assert_eq!(found["id"], receipt["id"]);
    assert_eq!(found["sequence"], receipt["sequence"]);
    assert_eq!(found["leaf_hash"], receipt["leaf_hash"]);
    assert_eq!((&found["patient"]["number"], &found["source"]), (&json!(1), &json!("submitter-app")));
    let shown = app
        .officer()
        .post(
            &format!("/v1/entries/{}/reveal", receipt["id"].as_str().unwrap()),
            &json!({"reason": {"code": "HCOMPL"}}),
        )
        .await;
    assert_eq!(shown.status, 200, "{shown:?}");
    assert!(shown.text.contains(r#""old":7.0"#) && shown.text.contains(r#""value":0.0710"#), "{}", shown.text);
    let shown = shown.json();
    assert_eq!(shown["changes"], sent["changes"]);
    assert_eq!((&shown["note"], &shown["actor_name"]), (&json!("Annual checkup"), &json!("Ada Smith")));
    assert!(shown["changes"][1].get("new").is_none(), "absent is not null");
    app.finish();
}

#[tokio::test]
async fn the_same_id_with_the_same_content_gets_the_first_receipt_and_other_content_a_conflict() {
    let mut app = App::spawn().await;
    let mut sent = entry();
    sent["id"] = json!("0193595e-7a3c-7cc2-9c1f-0d5c3f1b2a44");
    let first = app.submitter().submit(&sent).await;
    for restart in [false, true] {
        if restart {
            app.stop();
            app.start();
        }
        let again = app.submitter().post("/v1/entries", &sent).await;
        assert_eq!(again.status, 200, "{again:?}");
        let mut again = again.json();
        assert_eq!(again["duplicate"].take(), json!(true));
        for name in ["id", "sequence", "leaf_hash", "received_at"] {
            assert_eq!(again[name], first[name], "{name}");
        }
        let mut other = sent.clone();
        other["changes"][0]["new"] = json!("Asthma");
        let conflict = app.submitter().post("/v1/entries", &other).await;
        assert_eq!((conflict.status, conflict.code().as_str()), (409, "id_conflict"));
    }
    app.finish();
}

#[tokio::test]
async fn an_atomic_batch_goes_in_whole_or_not_at_all() {
    let app = App::spawn().await;
    let lines = |bad: bool| {
        let mut lines: Vec<Value> = (0..50)
            .map(|n| {
                let mut it = entry();
                it["record"]["id"] = json!(format!("c-{n}"));
                it
            })
            .collect();
        if bad {
            lines[30]["reason"]["code"] = json!("NOPE");
        }
        lines.iter().map(|it| format!("{it}\n")).collect::<String>()
    };
    let size = size_of(&app).await;
    let refused = app.submitter().post_text("/v1/entries/batch", "application/x-ndjson", lines(true)).await;
    assert_eq!((refused.status, refused.code().as_str()), (422, "reason_unknown"));
    assert_eq!(refused.json()["errors"][0]["line"], json!(31));
    assert_eq!(size_of(&app).await, size, "nothing went in");
    let partial =
        app.submitter().post_text("/v1/entries/batch?partial=true", "application/x-ndjson", lines(true)).await.json();
    assert_eq!((&partial["accepted"], &partial["refused"]), (&json!(49), &json!(1)));
    assert_eq!(partial["results"][30]["errors"][0]["pointer"], json!("/reason/code"));
    let array = Value::Array((0..3).map(|_| entry()).collect());
    let whole = app.submitter().post("/v1/entries/batch", &array).await;
    assert_eq!(whole.json()["accepted"], json!(3), "{whole:?}");
    app.finish();
}

#[tokio::test]
async fn an_id_repeated_within_a_batch_is_one_entry_or_a_conflict() {
    let app = App::spawn().await;
    let mut sent = entry();
    sent["id"] = json!("0193595e-7a3c-7cc2-9c1f-0d5c3f1b2a45");
    let mut other = sent.clone();
    other["changes"][0]["new"] = json!("Asthma");
    let body = format!("{sent}\n{sent}\n{other}\n");
    let conflict = app.submitter().post_text("/v1/entries/batch", "application/x-ndjson", body.clone()).await;
    assert_eq!((conflict.status, conflict.code().as_str()), (409, "id_conflict"));
    let partial =
        app.submitter().post_text("/v1/entries/batch?partial=true", "application/x-ndjson", body).await.json();
    let statuses: Vec<_> =
        partial["results"].as_array().unwrap().iter().map(|it| it["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["accepted", "duplicate", "refused"]);
    assert_eq!(partial["results"][0]["receipt"], partial["results"][1]["receipt"]);
    app.finish();
}

#[tokio::test]
async fn the_same_new_id_sent_by_many_at_once_is_stored_once() {
    let app = App::spawn().await;
    let mut sent = entry();
    sent["id"] = json!("0193595e-7a3c-7cc2-9c1f-0d5c3f1b2a46");
    let tasks: Vec<_> = (0..24)
        .map(|_| {
            let (client, sent) = (app.submitter(), sent.clone());
            tokio::spawn(async move { client.post("/v1/entries", &sent).await })
        })
        .collect();
    let mut created = 0;
    for task in tasks {
        let answer = task.await.unwrap();
        assert!([200, 201].contains(&answer.status), "{answer:?}");
        created += usize::from(answer.status == 201);
    }
    assert_eq!(created, 1);
    app.finish();
}

#[tokio::test]
async fn a_full_queue_is_said_at_once_and_loses_nothing() {
    let options =
        crate::app::Options { env: vec![("PHIVAULT_LIMITS__QUEUE_KIB".into(), "1024".into())], ..Default::default() };
    let app = App::spawn_with(options).await;
    let body: String = (0..400)
        .map(|_| {
            let mut it = entry();
            it["changes"][0]["new"] = json!("x".repeat(2_000));
            format!("{it}\n")
        })
        .collect();
    let tasks: Vec<_> = (0..40)
        .map(|_| {
            let (client, body) = (app.submitter(), body.clone());
            tokio::spawn(async move { client.post_text("/v1/entries/batch", "application/x-ndjson", body).await })
        })
        .collect();
    let (mut accepted, mut busy) = (0, 0);
    for task in tasks {
        let answer = task.await.unwrap();
        match answer.status {
            200 => accepted += 400,
            503 => {
                assert_eq!(answer.headers["retry-after"], "1");
                assert_eq!(answer.code(), "busy");
                busy += 1;
            }
            _ => panic!("{answer:?}"),
        }
    }
    assert!(busy > 0, "the queue never filled");
    let stored = crate::check::entries(app.dir()).iter().filter(|it| it.meta.source == "submitter-app").count();
    assert_eq!(stored, accepted, "what was accepted is there, and nothing else");
    app.finish();
}

/// How many entries the ledger holds.
pub async fn size_of(app: &App) -> u64 {
    app.auditor().get("/readyz").await.json()["ledger_size"].as_u64().unwrap()
}
