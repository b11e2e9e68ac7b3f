//! `phivault doctor` on a real vault: what is well, what is wrong, and what to do.

use std::os::unix::fs::PermissionsExt as _;

use crate::app::{App, program};

#[tokio::test]
async fn the_doctor_finds_open_files_old_backups_and_careless_settings_and_says_what_to_do() {
    let mut app = App::spawn().await;
    app.stop();
    let (config, backups) = (app.dir().join("phivault.toml"), app.dir().join("backups"));
    std::fs::create_dir(&backups).unwrap();
    let doctor = |environment: &[(&str, &str)]| {
        let mut command = program();
        command.arg("doctor").arg("--config").arg(&config).arg("--backups").arg(&backups);
        // Where nobody listens, not even a demo that runs here by chance.
        command.env("PHIVAULT_SERVER__LISTEN", "127.0.0.1:1").envs(environment.iter().copied());
        let done = command.output().unwrap();
        (done.status.code().unwrap(), String::from_utf8(done.stdout).unwrap())
    };
    let (code, said) = doctor(&[]);
    assert!(code == 1 && said.contains("WRONG   there is no whole backup"), "{said}");
    assert!(said.contains("keys and data lie on one device") && said.contains("nothing answers on"), "{said}");
    let backup = backups.join("monday");
    std::fs::write(&backup, "").unwrap();
    assert!(doctor(&[]).1.contains("WRONG   there is no whole backup"), "an empty file is none");
    std::fs::remove_file(&backup).unwrap();
    let mut made = program();
    made.arg("backup").arg("--config").arg(&config).arg("--out").arg(&backup);
    assert!(made.output().unwrap().status.success());
    let whole = std::fs::read(&backup).unwrap();
    std::fs::write(&backup, &whole[..whole.len() / 2]).unwrap();
    assert!(doctor(&[]).1.contains("WRONG   there is no whole backup"), "half of one is none");
    std::fs::write(&backup, &whole).unwrap();
    let (code, said) = doctor(&[]);
    assert!(code == 0 && said.contains("ok      the newest backup is 0 hours old"), "{said}");
    // One that was altered, or is of another vault, is none.
    let mut altered = whole.clone();
    let at = altered.len() * 3 / 4;
    altered[at] ^= 1;
    std::fs::write(&backup, altered).unwrap();
    assert!(doctor(&[]).1.contains("is not what its manifest states"));
    let other = App::spawn().await;
    let mut made = program();
    made.arg("backup").arg("--config").arg(other.dir().join("phivault.toml")).arg("--out").arg(backups.join("other"));
    assert!(made.output().unwrap().status.success());
    std::fs::remove_file(&backup).unwrap();
    assert!(doctor(&[]).1.contains("WRONG   there is no whole backup of this ledger"));
    other.finish();
    std::fs::write(&backup, &whole).unwrap();
    // What a start would not find, or not take.
    for (file, says) in [
        ("keys/checkpoint.lock", "put there, with mode 600, the newest signed checkpoint"),
        ("keys/keyring", "Put the newest one back"),
        ("keys/signing.key", "Restore it from a backup"),
        ("data/vault.db", "Restore a backup"),
    ] {
        let path = app.dir().join(file);
        let before = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let (code, said) = doctor(&[]);
        let gone = file != "keys/checkpoint.lock" || said.contains(says);
        assert!(code == 1 && gone && said.contains(file), "{file}: {said}");
        crate::tls::put(app.dir(), file, "rubbish");
        let (code, said) = doctor(&[]);
        assert!(code == 1 && said.contains(file), "{file}: {said}");
        std::fs::write(&path, before).unwrap();
        assert_eq!(doctor(&[]).0, 0, "{file}");
    }
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(30 * 3_600);
    std::fs::File::options().write(true).open(&backup).unwrap().set_modified(old).unwrap();
    let (code, said) = doctor(&[]);
    assert!(code == 1 && said.contains("is 30 hours old"), "{said}");
    let keyring = app.dir().join("keys/keyring");
    std::fs::set_permissions(&keyring, std::fs::Permissions::from_mode(0o640)).unwrap();
    let (_, said) = doctor(&[]);
    assert!(
        said.starts_with("WRONG   the keyring") && said.contains("chmod 600"),
        "what is worst stands first: {said}"
    );
    std::fs::set_permissions(&keyring, std::fs::Permissions::from_mode(0o600)).unwrap();
    let careless = [("PHIVAULT_EVIDENCE__SCRUB_PER_SECOND", "0"), ("PHIVAULT_STORAGE__RESERVE_MB", "100000000")];
    let (_, said) = doctor(&careless);
    assert!(said.contains("nothing looks for damage") && said.contains("make room"), "{said}");
    // What a start would refuse, it refuses too.
    let gone = [
        ("PHIVAULT_SERVER__TLS_CERTIFICATE", "/gone.pem"),
        ("PHIVAULT_SERVER__TLS_KEY", keyring.to_str().unwrap()),
        ("PHIVAULT_EVIDENCE__POLICY", "/gone.policy"),
        ("PHIVAULT_ENTRIES__REASONS", "/gone.reasons"),
    ];
    let (code, said) = doctor(&gone);
    let wrong = said.lines().filter(|it| it.starts_with("WRONG") && it.contains("/gone.")).count();
    assert_eq!((code, wrong), (1, 3), "{said}");
    let (code, said) = doctor(&[("PHIVAULT_SERVER__LISTEN", "0.0.0.0:1")]);
    assert!(code == 2 && said.is_empty(), "settings that cannot be used are not looked over: {said}");
    app.start();
    app.finish();
}
