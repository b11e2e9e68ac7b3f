//! A clock that is set while the vault runs.

use std::time::Duration;

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

#[tokio::test]
async fn a_clock_that_is_years_behind_shortens_no_retention_and_no_report_hides_it() {
    let Some((mut app, clock)) = crate::login::vault().await else { return };
    app.stop();
    clock.forward(-500_000_000);
    app.start();
    let sent = app.submitter().submit(&entry()).await;
    let year = |it: &serde_json::Value| it.as_str().unwrap()[..4].parse::<i32>().unwrap();
    let received = year(&sent["received_at"]);
    let asked = json!({"report": "access", "actor": "dr_smith", "reason": {"code": "HCOMPL"}});
    let made = app.officer().post("/v1/reports", &asked).await.json();
    assert!(made["beyond"][0].as_str().unwrap().contains("clock of this machine is behind"), "{made:#}");
    clock.forward(500_000_000);
    app.stop();
    app.start();
    let plan = app.officer().get("/v1/retention/plan").await.json();
    let ends: Vec<i32> = plan["buckets"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|it| !it["expires_at"].is_null())
        .map(|it| year(&it["expires_at"]))
        .collect();
    assert!(!ends.is_empty() && ends.iter().all(|it| *it >= received + 6), "{plan:#}");
    app.finish();
}

/// Where Debian puts libfaketime.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

#[tokio::test]
async fn under_a_machine_s_clock_that_jumps_and_races_the_order_holds_and_each_jump_is_noticed() {
    if !std::path::Path::new(FAKETIME).exists() {
        return eprintln!(
            "SKIPPED: libfaketime (Debian package faketime) is not here; it sets the clock under a real server"
        );
    }
    let mut app = App::spawn().await;
    app.stop();
    let told = app.dir().join("faketime");
    let tell = |text: &str| std::fs::write(&told, text).unwrap();
    tell("+0");
    app.set("LD_PRELOAD", FAKETIME);
    app.set("FAKETIME_TIMESTAMP_FILE", told.to_str().unwrap());
    app.set("FAKETIME_NO_CACHE", "1");
    // The monotonic clock of a kernel never jumps.
    app.set("DONT_FAKE_MONOTONIC", "1");
    app.start();
    let jumps = async || {
        let figures = app.admin().get("/metrics").await.text;
        let line = figures.lines().find_map(|it| it.strip_prefix("phivault_clock_jumps_total ").map(str::to_owned));
        line.unwrap().parse::<f64>().unwrap()
    };
    let (mut last, mut sizes) = (String::new(), 0);
    for clock in ["-365d", "+365d", "+0", "-1h", "+0", "+0 x100", "+0"] {
        let before = jumps().await;
        tell(clock);
        let mut noticed = false;
        for _ in 0..100 {
            let receipt = app.submitter().submit(&entry()).await;
            let received = receipt["received_at"].as_str().unwrap().to_owned();
            assert!(received >= last, "{clock}: {received} after {last}");
            last = received;
            noticed = jumps().await > before;
            if noticed {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(noticed, "{clock} was not noticed");
        let note = app.auditor().get("/checkpoint").await.text;
        let size: u64 = note.lines().nth(1).unwrap().parse().unwrap();
        assert!(size >= sizes, "{clock}: a checkpoint of {size} after one of {sizes}");
        sizes = size;
    }
    app.set("LD_PRELOAD", "");
    app.finish();
}
