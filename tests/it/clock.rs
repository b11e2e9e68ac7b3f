//! A clock that is set while the vault runs.

use serde_json::json;

use crate::app::{App, entry};

#[tokio::test]
async fn a_clock_that_is_set_is_recorded_and_no_time_of_receipt_goes_back() {
    if !cfg!(debug_assertions) {
        return eprintln!(
            "SKIPPED: only the clock of a debug build can be set by a test; run cargo test without --release"
        );
    }
    let mut app = App::spawn().await;
    app.stop();
    let says = app.dir().join("clock");
    std::fs::write(&says, "0").unwrap();
    app.set("PHIVAULT_TEST_CLOCK", says.to_str().unwrap());
    app.start();
    let (hour, year) = (3_600_i64, 31_536_000_i64);
    let mut times = Vec::new();
    for (jumps, set_to) in [0, -hour, year, 0].iter().enumerate() {
        std::fs::write(&says, set_to.to_string()).unwrap();
        // It looks about once a second; a busy machine may take longer.
        for _ in 0..300 {
            let metrics = app.admin().get("/metrics").await.text;
            if metrics.contains(&format!("phivault_clock_jumps_total {jumps}\n")) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        times.push(app.submitter().submit(&entry()).await["received_at"].as_str().unwrap().to_owned());
    }
    assert!(times.is_sorted(), "{times:?}");
    let found = app.auditor().get("/v1/entries?action=integrity&limit=100").await.json();
    let jumps: Vec<i64> = found["entries"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|it| it["facts"]["clock_jump_seconds"].as_str()?.parse().ok())
        .collect();
    let wanted = [-year, year + hour, -hour];
    assert_eq!(jumps.len(), 3, "{found:#}");
    assert!(jumps.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() <= 2), "newest first: {jumps:?}");
    let ready = app.admin().get("/readyz").await.text;
    assert!(ready.contains("the clock is behind the newest entry"), "{ready}");
    // Entries that share their time of receipt with the report itself are in it.
    let asked = json!({"report": "access", "actor": "dr_smith", "reason": {"code": "HCOMPL"}});
    let made = app.officer().post("/v1/reports", &asked).await.json();
    assert_eq!(made["entries_covered"], 4, "{made:#}");
    let metrics = app.admin().get("/metrics").await.text;
    assert!(metrics.contains("phivault_clock_jumps_total 3"), "{metrics}");
    let asked = json!({"report": "integrity", "reason": {"code": "HCOMPL"}});
    let made = app.officer().post("/v1/reports", &asked).await.json();
    let told = app.officer().get(&format!("/v1/reports/{}", made["id"].as_str().unwrap())).await.text;
    assert!(told.contains("the machine's clock was set by"), "{told}");
    app.finish();
}
