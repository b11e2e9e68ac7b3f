//! The keyring opened by a key in a security module: SoftHSM2, in a token of the test's own.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::app::{entry, http, program, text};
use crate::damage::refusal::serve;

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

fn tool(dir: &Path, name: &str, words: &[&str]) {
    let output = Command::new(name).args(words).env("SOFTHSM2_CONF", dir.join("softhsm2.conf")).output();
    let output = output.unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(output.status.success(), "{name} {words:?}: {}", text(&output));
}

#[tokio::test]
async fn a_key_that_never_leaves_its_module_opens_the_keyring_and_no_other_does() {
    if !Path::new(MODULE).exists() || Command::new("pkcs11-tool").arg("--version").output().is_err() {
        eprintln!("SKIPPED: needs Debian's softhsm2 and opensc: apt-get install softhsm2 opensc");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    std::fs::create_dir(dir.join("tokens")).unwrap();
    let conf = format!("directories.tokendir = {}\nobjectstore.backend = file\n", dir.join("tokens").display());
    std::fs::write(dir.join("softhsm2.conf"), conf).unwrap();
    tool(dir, "softhsm2-util", &["--init-token", "--free", "--label", "vault", "--so-pin", "5678", "--pin", "1234"]);
    let key = |label: &str| {
        let words =
            ["--module", MODULE, "--token-label", "vault", "--login", "--pin", "1234", "--keygen", "--key-type"];
        tool(
            dir,
            "pkcs11-tool",
            &[&words[..], &["GENERIC:32", "--label", label, "--usage-sign", "--sensitive"]].concat(),
        );
    };
    key("phivault");
    key("other");
    let pin = |name: &str, pin: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let path = dir.join(name);
        std::fs::write(&path, pin).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let (right, wrong) = (pin("pin", "1234\n"), pin("wrong", "9999\n"));
    let vault = dir.join("vault");
    let mut init = program();
    init.env("SOFTHSM2_CONF", dir.join("softhsm2.conf")).args(["init", "--dir"]).arg(&vault);
    init.args(["--pkcs11-module", MODULE, "--pkcs11-token", "vault", "--pkcs11-key", "phivault", "--pkcs11-pin-file"]);
    let output = init.arg(&right).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let admin = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let conf = dir.join("softhsm2.conf").display().to_string();
    let env = [("SOFTHSM2_CONF", conf.as_str())];
    let server = serve(&vault, &env).unwrap_or_else(|it| panic!("{}", it.said));
    let made = http().post(format!("{}/v1/tokens", server.url)).bearer_auth(&admin);
    let made = made.json(&json!({"role": "submitter", "label": "ehr"})).send().await.unwrap();
    let token = made.json::<serde_json::Value>().await.unwrap()["token"].as_str().unwrap().to_owned();
    let sent =
        http().post(format!("{}/v1/entries", server.url)).bearer_auth(&token).json(&entry()).send().await.unwrap();
    assert_eq!(sent.status().as_u16(), 201);
    server.stop();
    let settings = vault.join("phivault.toml");
    let plain = std::fs::read_to_string(&settings).unwrap();
    for (from, to, words) in [
        ("key = \"phivault\"".to_owned(), "key = \"other\"".to_owned(), "not the one this keyring was locked with"),
        ("key = \"phivault\"".to_owned(), "key = \"none\"".to_owned(), "0 secret keys"),
        ("token = \"vault\"".to_owned(), "token = \"x\"".to_owned(), "no token labelled"),
        (right.display().to_string(), wrong.display().to_string(), "does not accept the PIN"),
        (MODULE.to_owned(), "/no/such.so".to_owned(), "cannot be loaded"),
    ] {
        assert!(plain.contains(&from), "{plain}");
        std::fs::write(&settings, plain.replace(&from, &to)).unwrap();
        let Err(refused) = serve(&vault, &env) else { panic!("it started with {to}") };
        assert!(refused.said.contains(words) && !refused.said.contains("9999"), "{to}: {}", refused.said);
    }
    std::fs::write(&settings, plain).unwrap();
    serve(&vault, &env).unwrap_or_else(|it| panic!("{}", it.said)).stop();
}
