//! What stands in the memory of a running vault: keys where they must be, nothing of the passphrase, and nothing of a request once it
//! is answered.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use phivault::crypto::kek::{Kek, Unlock};
use phivault::crypto::keyring::Keyring;
use phivault::keyfile::read_private;
use serde_json::json;
use zeroize::Zeroizing;

use crate::app::{entry, http, program, text};
use crate::damage::refusal::serve;

const PASSPHRASE: &str = "Kv7-passphrase-that-stands-nowhere-else-9Qx";

/// Where a needle stands in the memory of a process: the name of the region, and how often.
fn find(pid: u32, needle: &[u8]) -> Vec<String> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut found = Vec::new();
    for line in maps.lines() {
        let mut parts = line.split_whitespace();
        let (range, rights) = (parts.next().unwrap(), parts.next().unwrap());
        let name = line.split_whitespace().nth(5).unwrap_or("anonymous").to_owned();
        if !rights.starts_with('r') || name == "[vvar]" || name == "[vsyscall]" {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        let Ok(read) = memory.read_at(&mut bytes, from) else { continue };
        let count = bytes[..read].windows(needle.len()).filter(|it| *it == needle).count();
        found.extend(std::iter::repeat_n(name, count));
    }
    found
}

fn vault(dir: &Path) -> String {
    let file = dir.join("passphrase");
    std::fs::write(&file, PASSPHRASE).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut init = program();
    init.args(["init", "--argon2-mib", "8", "--dir"]).arg(dir).arg("--passphrase-file").arg(&file);
    let output = init.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn after_the_start_nothing_of_the_passphrase_is_in_memory_and_keys_are_on_the_heap_alone() {
    let folder = tempfile::tempdir().unwrap();
    let admin = vault(folder.path());
    // The allocator sets less address space aside, for all of it is searched.
    let server = serve(folder.path(), &[("MIMALLOC_ARENA_RESERVE", "16384")]).unwrap();
    let pid = server.pid();
    if File::open(format!("/proc/{pid}/mem")).is_err() {
        eprintln!(
            "SKIPPED: only root can look into the memory of a vault, which is not dumpable; run the tests as root"
        );
        server.stop();
        return;
    }
    // It seals, rotates, and seals again.
    let made = http().post(format!("{}/v1/tokens", server.url)).bearer_auth(&admin);
    let made = made.json(&json!({"role": "submitter", "label": "ehr"})).send().await.unwrap();
    let token = made.json::<serde_json::Value>().await.unwrap()["token"].as_str().unwrap().to_owned();
    for rotate in [false, true] {
        if rotate {
            let rotated = http().post(format!("{}/v1/keys/rotate", server.url)).bearer_auth(&admin);
            let rotated = rotated.json(&json!({"reason": {"code": "HSYSADMIN"}})).send().await.unwrap();
            assert_eq!(rotated.status().as_u16(), 200);
        }
        let sent = http().post(format!("{}/v1/entries", server.url)).bearer_auth(&token).json(&entry());
        assert_eq!(sent.send().await.unwrap().status().as_u16(), 201);
    }
    let unlock = Unlock::Passphrase(Zeroizing::new(PASSPHRASE.as_bytes().to_vec()));
    let file = read_private(&folder.path().join("keys/keyring"), "keyring").unwrap();
    let (ring, _) = Keyring::decode(&file, &unlock).unwrap();
    let kek = Kek::derive(ring.slots()[0].kek.clone(), &unlock).unwrap();
    let nowhere = |what: &str, secret: &[u8]| {
        let found = find(pid, secret);
        assert!(found.is_empty(), "{what} is in memory: {found:?}");
    };
    nowhere("the passphrase", PASSPHRASE.as_bytes());
    nowhere("the end of the passphrase", &PASSPHRASE.as_bytes()[12..]);
    nowhere("the key that the passphrase gives", kek.secret());
    // The search finds what is there.
    assert!(!find(pid, ring.state_key().expose()).is_empty());
    for (what, secret) in ring.secrets() {
        let found = find(pid, secret);
        let elsewhere: Vec<_> = found.iter().filter(|it| *it != "[heap]" && *it != "anonymous").collect();
        assert!(elsewhere.is_empty(), "{what} is in {elsewhere:?}");
        assert!(found.len() <= 3, "{what} stands {} times: {found:?}", found.len());
    }
    server.stop();
}

#[tokio::test]
async fn a_second_after_a_request_no_value_and_no_password_of_it_is_in_memory() {
    const VALUE: &str = "Zq7-value-that-was-sealed-and-shown-4Kd";
    const PASSWORD: &str = "Wm3-password-that-logs-in-8Rt";
    let folder = tempfile::tempdir().unwrap();
    let admin = vault(folder.path());
    let server = serve(folder.path(), &[("MIMALLOC_ARENA_RESERVE", "16384")]).unwrap();
    if File::open(format!("/proc/{}/mem", server.pid())).is_err() {
        eprintln!("SKIPPED: only root can look into the memory of a vault; run the tests as root");
        server.stop();
        return;
    }
    // Each on a connection of its own, which ends with it.
    let post = async |path: &str, token: &str, body: serde_json::Value| {
        let answer = http().post(format!("{}{path}", server.url)).bearer_auth(token).json(&body).send().await.unwrap();
        let (status, answer) = (answer.status().as_u16(), answer.json::<serde_json::Value>().await.unwrap());
        assert!(status < 300, "{path}: {answer}");
        answer
    };
    let token = async |role: &str| {
        let made = post("/v1/tokens", &admin, json!({"role": role, "label": format!("{role}-app")})).await;
        made["token"].as_str().unwrap().to_owned()
    };
    let (submitter, officer) = (token("submitter").await, token("officer").await);
    let mut body = entry();
    body["changes"][0]["new"] = json!({"text": VALUE, "list": [VALUE, 1]});
    body["reason"]["note"] = json!(VALUE);
    let id = post("/v1/entries", &submitter, body.clone()).await["id"].as_str().unwrap().to_owned();
    post("/v1/entries/batch", &submitter, json!([body, body])).await;
    let reason = json!({"code": "HCOMPL", "note": VALUE});
    let shown = post(&format!("/v1/entries/{id}/reveal"), &officer, json!({"reason": reason})).await;
    assert!(shown.to_string().contains(VALUE), "{shown}");
    post("/v1/login/enrol", &officer, json!({"password": PASSWORD})).await;
    let login = json!({"name": "officer-app", "password": PASSWORD, "code": "000000"});
    let refused = http().post(format!("{}/v1/login", server.url)).json(&login).send().await.unwrap();
    assert_eq!(refused.status().as_u16(), 401);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    for (what, text) in [("a value", VALUE), ("a password", PASSWORD)] {
        let found = find(server.pid(), text.as_bytes());
        assert!(found.is_empty(), "{what} is in memory: {found:?}");
    }
    server.stop();
}
