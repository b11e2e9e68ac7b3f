//! What is handed to those who run a vault names only what there is: figures, commands, flags, settings.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::app::{App, program, text};
use crate::tls;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

#[tokio::test]
async fn every_figure_that_an_alert_looks_at_is_among_the_metrics() {
    let mut app = App::spawn().await;
    app.stop();
    let (servers, clients) = (tls::authority(), tls::authority());
    let list = tls::put(app.dir(), "revoked.pem", &tls::revoked(&clients, &[], 30));
    app.set("PHIVAULT_SERVER__TLS_CLIENT_REVOCATIONS", &list);
    tls::start_with_clients(&mut app, &servers, &clients);
    let client = tls::client(&servers, Some(&tls::certified(&clients, "prometheus")));
    let fetch =
        async |path: &str| client.get(format!("{}{path}", app.url())).send().await.unwrap().text().await.unwrap();
    fetch("/readyz").await;
    let metrics = fetch("/metrics").await;
    let there: BTreeSet<&str> =
        metrics.lines().filter(|it| !it.starts_with('#')).filter_map(|it| it.split([' ', '{']).next()).collect();
    let alerts = read("alerts.yml");
    for text in [&alerts, &read("grafana.json")] {
        let asked: BTreeSet<&str> = text
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|it| it.starts_with("phivault_"))
            .collect();
        assert!(asked.len() > 8, "{asked:?}");
        let unknown: Vec<_> = asked.difference(&there).collect();
        assert!(unknown.is_empty(), "{unknown:?} of {there:?}");
    }
    let dashboard: serde_json::Value = serde_json::from_str(&read("grafana.json")).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 10);
    let rules = alerts.matches("- alert:").count();
    assert_eq!((alerts.matches("what_to_do:").count(), alerts.matches("severity:").count()), (rules, rules));
    app.finish();
}

#[test]
fn each_alert_fires_when_it_must_and_not_otherwise() {
    let Ok(found) = Command::new("promtool").arg("--version").output() else {
        return eprintln!("SKIPPED: promtool (Debian package prometheus) is not here; it tries the alerts");
    };
    assert!(found.status.success());
    let tried =
        Command::new("promtool").args(["test", "rules", "alerts_test.yml"]).current_dir(folder()).output().unwrap();
    assert!(tried.status.success(), "{}", text(&tried));
    let (rules, tests) = (read("alerts.yml"), read("alerts_test.yml"));
    for name in rules.lines().filter_map(|it| it.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("alertname: {name}")), "{name} is not tried");
    }
}

#[test]
fn the_units_call_commands_that_exist_and_systemd_has_nothing_against_them() {
    for unit in ["phivault.service", "phivault-backup.service"] {
        let unit = read(unit);
        let calls = unit.lines().filter_map(|it| it.split_once("/usr/local/bin/phivault ")).map(|it| it.1);
        let calls: Vec<Vec<&str>> = calls.map(|it| it.split_whitespace().collect()).collect();
        assert!(!calls.is_empty());
        for call in calls {
            let help = text(&program().arg(call[0]).arg("--help").output().unwrap());
            let flags = call.iter().filter(|it| it.starts_with("--"));
            flags.for_each(|flag| assert!(help.contains(flag), "{flag} in {call:?}: {help}"));
        }
    }
    let Ok(found) = Command::new("systemd-analyze").arg("--version").output() else {
        return eprintln!("SKIPPED: systemd-analyze is not here; it rates the hardening of deploy/phivault.service");
    };
    assert!(found.status.success());
    for unit in ["phivault.service", "phivault-backup.service"] {
        let rated = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--threshold=20", "--no-pager"])
            .arg(folder().join(unit))
            .output()
            .unwrap();
        assert!(rated.status.success(), "the exposure of {unit} is above 2.0: {}", text(&rated));
    }
}

#[test]
fn the_production_settings_are_ones_that_the_vault_takes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/example.production.toml");
    phivault::config::Settings::load(&path, std::iter::empty()).unwrap();
}

#[test]
fn every_test_that_the_documents_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = String::new();
    let mut folders = vec![root.join("src"), root.join("tests/it")];
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()) {
            if item.is_dir() {
                folders.push(item);
            } else if item.extension().is_some_and(|it| it == "rs") {
                sources += &std::fs::read_to_string(item).unwrap();
            }
        }
    }
    let mut named = 0;
    for page in ["docs/security.md", "docs/controls.md"] {
        let text = std::fs::read_to_string(root.join(page)).unwrap();
        // What stands in the last column, between ticks.
        for row in text.lines().filter(|it| it.starts_with("| ") && it.matches('|').count() >= 4) {
            let cell = row.trim_end_matches('|').rsplit('|').next().unwrap();
            for test in cell.split('`').skip(1).step_by(2) {
                assert!(sources.contains(&format!("fn {test}(")), "{page} names {test}");
                named += 1;
            }
        }
    }
    assert!(named > 50, "{named}");
}
