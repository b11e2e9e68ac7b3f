//! The vault behind a real nginx with the settings that deploy/ hands out.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::{Certificate, Client};
use serde_json::json;

use crate::app::{App, entry};
use crate::tls::{authority, certified};

/// A running nginx. Dropping it ends it.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its master ends the workers.
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        drop(self.0.wait());
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// deploy/nginx.conf with only ports, paths and the name of the server changed.
fn settings(dir: &Path, port: u16, vault: &str) -> String {
    let handed_out = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nginx.conf");
    let mut text = fs::read_to_string(handed_out).unwrap();
    let place = dir.display().to_string();
    for (from, to) in [
        ("127.0.0.1:8321", vault.trim_start_matches("http://").to_owned()),
        ("    listen [::]:443 ssl default_server;\n", String::new()),
        ("    listen [::]:443 ssl;\n", String::new()),
        ("listen 443 ssl", format!("listen 127.0.0.1:{port} ssl")),
        ("vault.example.org", "localhost".into()),
        ("/etc/phivault/tls/fullchain.pem", format!("{place}/proxy.pem")),
        ("/etc/phivault/tls/key.pem", format!("{place}/proxy.key")),
        ("/var/log/nginx", place.clone()),
    ] {
        // The comment on the first lines names the vault's address as well.
        assert!(text.contains(from), "{from}");
        text = text.replace(from, &to);
    }
    let temporary =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|it| format!("{it}_temp_path {place}/{it};\n"));
    format!(
        "daemon off;\npid {place}/nginx.pid;\nerror_log {place}/nginx.log;\nevents {{}}\nhttp {{\n{}{text}}}\n",
        temporary.concat()
    )
}

#[tokio::test]
async fn behind_nginx_the_vault_is_itself_and_what_nginx_says_is_a_problem_too() {
    let nginx = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|it| Path::new(it).exists());
    let Some(nginx) = nginx else {
        return eprintln!(
            "SKIPPED: nginx (Debian package nginx) is not here; it stands in front of the vault in this test"
        );
    };
    let mut app = App::spawn().await;
    app.stop();
    let toml = app.dir().join("phivault.toml");
    let text = fs::read_to_string(&toml).unwrap();
    fs::write(&toml, format!("{text}\n[server]\ntrusted_proxies = [\"127.0.0.1\"]\n")).unwrap();
    app.start();
    let trusted = authority();
    let (certificate, key) = certified(&trusted, "localhost");
    fs::write(app.dir().join("proxy.pem"), certificate).unwrap();
    fs::write(app.dir().join("proxy.key"), key).unwrap();
    let port = free_port();
    let conf = app.dir().join("nginx.conf");
    fs::write(&conf, settings(app.dir(), port, app.url())).unwrap();
    let child = Command::new(nginx).arg("-c").arg(&conf).stderr(Stdio::null()).spawn().unwrap();
    let _nginx = Nginx(child);
    let root = Certificate::from_pem(trusted.pem().as_bytes()).unwrap();
    let http = Client::builder().no_proxy().timeout(Duration::from_secs(30)).tls_certs_only([root]).build().unwrap();
    let url = format!("https://localhost:{port}");
    for _ in 0..600 {
        if http.get(format!("{url}/healthz")).send().await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let post = |body: String| {
        let request = http.post(format!("{url}/v1/entries/batch")).bearer_auth(&app.submitter().token);
        request.header("content-type", "application/json").body(body).send()
    };
    let sent = post(json!([entry()]).to_string()).await.unwrap();
    assert_eq!(sent.status(), 200);
    assert!(sent.headers().contains_key("strict-transport-security") && sent.headers().contains_key("x-request-id"));
    let large = post("[".repeat((16 << 20) + 1)).await.unwrap();
    assert_eq!(
        (large.status().as_u16(), &large.headers()["content-type"]),
        (413, &"application/problem+json".parse().unwrap())
    );
    // Tokens that are bound to networks: nginx says where the client is, and nobody else does.
    for (network, expected) in [("127.0.0.1", 200), ("10.9.0.0/16", 401)] {
        let asked = json!({"role": "auditor", "label": network, "allowed_sources": [network]});
        let token = app.admin().post("/v1/tokens", &asked).await.json()["token"].as_str().unwrap().to_owned();
        let asked = http.get(format!("{url}/v1/reasons")).bearer_auth(token).header("x-forwarded-for", "10.9.1.1");
        assert_eq!(asked.send().await.unwrap().status(), expected, "{network}");
    }
    let smuggled = http.get(format!("{url}/%6detrics")).send().await.unwrap();
    assert_eq!(smuggled.status(), 200, "this machine may see the figures");
    app.kill();
    let gone = http.get(format!("{url}/v1/entries?patient=MRN-SECRET-1")).bearer_auth("x").send().await.unwrap();
    assert_eq!((gone.status().as_u16(), &gone.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    let said: serde_json::Value = serde_json::from_str(&gone.text().await.unwrap()).unwrap();
    assert_eq!(said["code"], "unknown_outcome");
    for log in ["phivault.log", "phivault.error.log", "nginx.log"] {
        let text = fs::read_to_string(app.dir().join(log)).unwrap_or_default();
        assert!(!text.contains("MRN-SECRET"), "{log}: {text}");
    }
    app.start();
    app.finish();
}
