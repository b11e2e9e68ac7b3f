//! Vaults that earlier versions of the schema left behind, as they were written then: each is upgraded by its next start, and nothing of
//! it changes that anybody could notice.
//!
//! `tests/fixtures/schema-N.tar.gz` is the folder of a vault with five entries and one rotation, made by the last program of that
//! version, with its key (`unlock.key`) and the tokens of an administrator and an officer (`tokens`). A new version adds one.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::app::{entry, http, program, verify};
use crate::check::{check_vault, entries};
use crate::damage::refusal::serve;

const ID: &str = "0193595e-0000-7000-8000-00000000000";

fn unpack(fixture: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    tar::Archive::new(flate2::read::GzDecoder::new(File::open(fixture).unwrap())).unpack(folder.path()).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    folder
}

fn token(dir: &Path, role: &str) -> String {
    let all = fs::read_to_string(dir.join("tokens")).unwrap();
    all.lines().find_map(|it| it.strip_prefix(role)).unwrap().trim().to_owned()
}

async fn post(url: &str, token: &str, body: &Value) -> (u16, Value) {
    let answer = http().post(url).bearer_auth(token).json(body).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn a_vault_of_each_earlier_schema_is_upgraded_by_its_next_start_and_keeps_all_it_had() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let fixtures: Vec<_> = fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
    assert!(!fixtures.is_empty());
    for fixture in fixtures {
        let vault = unpack(&fixture);
        let dir = vault.path();
        let version = |dir: &Path| -> i64 {
            let database = Connection::open(dir.join("data/vault.db")).unwrap();
            database.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
        };
        let (old, before) = (version(dir), entries(dir));
        let named = fixture.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(named, format!("schema-{old}.tar.gz"));
        let lock = fs::read(dir.join("keys/checkpoint.lock")).unwrap();
        let output = program().arg("verify").arg("--dir").arg(dir).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{named}: without the upgrade verify can tell nothing: {output:?}");
        assert_eq!(fs::read(dir.join("keys/checkpoint.lock")).unwrap(), lock, "{named}");
        let server = serve(dir, &[]).unwrap();
        let url = server.url.clone();
        assert!(version(dir) > old, "{named}");
        for n in 1..=5 {
            let reason = json!({"reason": {"code": "HCOMPL"}});
            let (status, shown) =
                post(&format!("{url}/v1/entries/{ID}{n}/reveal"), &token(dir, "officer"), &reason).await;
            assert_eq!(
                (status, &shown["changes"][0]["new"]),
                (200, &json!(format!("value {n}"))),
                "{named}: {shown:#}"
            );
        }
        let asked = json!({"role": "submitter", "label": "new-app"});
        let (status, made) = post(&format!("{url}/v1/tokens"), &token(dir, "admin"), &asked).await;
        assert_eq!(status, 201, "{named}: {made:#}");
        let (status, answer) = post(&format!("{url}/v1/entries"), made["token"].as_str().unwrap(), &entry()).await;
        assert_eq!(status, 201, "{named}: {answer:#}");
        server.stop();
        let after = entries(dir);
        for (n, (was, is)) in before.iter().zip(&after).enumerate() {
            assert_eq!(
                (was.leaf, &was.sealed, was.received_at),
                (is.leaf, &is.sealed, is.received_at),
                "{named}: entry {n}"
            );
        }
        assert_eq!(verify(dir).0, 0, "{named}");
        check_vault(dir);
    }
}
