//! TLS at the vault's own door, with certificates made for the occasion.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use reqwest::{Certificate, Client, Identity};
use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::app::{App, entry};

pub type Authority = CertifiedIssuer<'static, KeyPair>;

pub fn authority() -> Authority {
    named_authority("an authority")
}

fn named_authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for a name, and its key, as PEM.
pub fn certified(authority: &Authority, name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

pub fn put(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A client that trusts one authority, and brings a certificate of its own if it has one. Each makes connections of its own.
pub fn client(authority: &Authority, own: Option<&(String, String)>) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let root = Certificate::from_pem(authority.pem().as_bytes()).unwrap();
    let mut builder = Client::builder().no_proxy().timeout(Duration::from_secs(10)).tls_certs_only([root]);
    if let Some((certificate, key)) = own {
        builder = builder.identity(Identity::from_pem(format!("{certificate}{key}").as_bytes()).unwrap());
    }
    builder.build().unwrap()
}

/// Starts a stopped vault that ends TLS.
pub fn start_with_tls(app: &mut App, servers: &Authority) {
    let dir = app.dir().to_owned();
    let (certificate, key) = certified(servers, "127.0.0.1");
    app.set("PHIVAULT_SERVER__TLS_CERTIFICATE", &put(&dir, "tls.pem", &certificate));
    app.set("PHIVAULT_SERVER__TLS_KEY", &put(&dir, "tls.key", &key));
    app.start();
}

/// Starts a stopped vault that ends TLS and asks its clients for certificates.
pub fn start_with_clients(app: &mut App, servers: &Authority, clients: &Authority) {
    app.set("PHIVAULT_SERVER__TLS_CLIENT_AUTHORITIES", &put(app.dir(), "clients.pem", &clients.pem()));
    start_with_tls(app, servers);
}

async fn healthy(app: &App, client: &Client) -> bool {
    client.get(format!("{}/healthz", app.url())).send().await.is_ok_and(|it| it.status() == 200)
}

/// Whether something comes true within five seconds.
async fn until(it: impl AsyncFn() -> bool) -> bool {
    for _ in 0..50 {
        if it().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    false
}

/// The list of what an authority has revoked, as PEM.
pub fn revoked(authority: &Authority, serials: &[u64], days: u64) -> String {
    let now = rcgen::date_time_ymd(1970, 1, 1) + SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let (begin, end) = (
        now - Duration::from_secs(86_400 * 30),
        now - Duration::from_secs(86_400 * 2) + Duration::from_secs(86_400 * days),
    );
    let one = |serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: begin,
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: begin,
        next_update: end,
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(one).collect(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    list.signed_by(authority).unwrap().pem().unwrap()
}

/// A connection that is kept open.
struct Open(rustls::StreamOwned<rustls::ClientConnection, std::net::TcpStream>);

impl Open {
    fn to(app: &App, servers: &Authority, own: &(String, String)) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(servers.pem().as_bytes()).unwrap()).unwrap();
        let (chain, key) = (
            CertificateDer::from_pem_slice(own.0.as_bytes()).unwrap(),
            rustls::pki_types::PrivateKeyDer::from_pem_slice(own.1.as_bytes()).unwrap(),
        );
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = rustls::ClientConfig::builder().with_root_certificates(roots);
        let config = config.with_client_auth_cert(vec![chain], key).unwrap();
        let name = "127.0.0.1".try_into().unwrap();
        let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let address = app.url().split("://").nth(1).unwrap();
        let io = std::net::TcpStream::connect(address).unwrap();
        io.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self(rustls::StreamOwned::new(connection, io))
    }

    /// Whether it answers one more request.
    fn asks(&mut self) -> bool {
        use std::io::{Read as _, Write as _};
        let mut answer = [0; 4096];
        let sent = self.0.write_all(b"GET /healthz HTTP/1.1\r\nhost: vault\r\n\r\n");
        sent.is_ok() && self.0.read(&mut answer).is_ok_and(|count| answer[..count].starts_with(b"HTTP/1.1 200"))
    }
}

#[tokio::test]
async fn a_client_whose_certificate_was_revoked_is_shut_out_from_the_next_list_on() {
    let mut app = App::spawn().await;
    app.stop();
    let (servers, clients, strangers) = (authority(), authority(), named_authority("strangers"));
    let ours = [7_u64, 8].map(|serial| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["ehr".to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        (params.signed_by(&key, &clients).unwrap().pem(), key.serialize_pem())
    });
    let dir = app.dir().to_owned();
    app.set("PHIVAULT_SERVER__TLS_CLIENT_REVOCATIONS", &put(&dir, "revoked.pem", &revoked(&clients, &[], 30)));
    start_with_clients(&mut app, &servers, &clients);
    let (mut held, mut kept) = (Open::to(&app, &servers, &ours[0]), Open::to(&app, &servers, &ours[1]));
    assert!(held.asks() && held.asks() && kept.asks(), "{}", app.log());
    put(&dir, "revoked.pem", &revoked(&clients, &[7], 30));
    app.signal(Signal::HUP);
    assert!(until(async || !healthy(&app, &client(&servers, Some(&ours[0]))).await).await, "{}", app.log());
    assert!(healthy(&app, &client(&servers, Some(&ours[1]))).await, "the other was not revoked");
    assert!(!held.asks(), "nor on a connection that is open since before");
    assert!(kept.asks(), "the other's goes on");
    // What cannot be read leaves the list before in force.
    put(&dir, "revoked.pem", "no list");
    app.signal(Signal::HUP);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(healthy(&app, &client(&servers, Some(&ours[1]))).await, "{}", app.log());
    assert!(!healthy(&app, &client(&servers, Some(&ours[0]))).await);
    // Nor does one that would shut everybody out: out of date, twice, of another authority, not of all.
    let (list, other) = (revoked(&clients, &[7], 30), revoked(&strangers, &[7], 30));
    for (text, says) in [
        (revoked(&clients, &[7], 1), "is out of date"),
        (format!("{list}{list}"), "is there twice"),
        (format!("{list}{other}"), "of no authority"),
        (revoked(&authority(), &[7], 30), "is not signed with the key"),
    ] {
        put(&dir, "revoked.pem", &text);
        app.signal(Signal::HUP);
        assert!(until(async || app.log().contains(says)).await, "{says}: {}", app.log());
        assert!(healthy(&app, &client(&servers, Some(&ours[1]))).await, "{says}: {}", app.log());
        assert!(!healthy(&app, &client(&servers, Some(&ours[0]))).await, "{says}");
    }
    app.stop();
    let refused = app.try_start().unwrap_err();
    assert!(refused.contains("server.tls_client_revocations") && refused.contains("not signed"), "{refused}");
    put(&dir, "revoked.pem", &list);
    put(&dir, "clients.pem", &format!("{}{}", clients.pem(), strangers.pem()));
    assert!(app.try_start().unwrap_err().contains("there is no list of"), "each authority needs one");
    put(&dir, "clients.pem", &format!("{}{}", clients.pem(), authority().pem()));
    assert!(app.try_start().unwrap_err().contains("two authorities bear the name"));
    // Whoever holds the key of a client could vouch for others.
    put(&dir, "clients.pem", &format!("{}{}", clients.pem(), ours[0].0));
    assert!(app.try_start().unwrap_err().contains("is no authority's"));
}

#[tokio::test]
async fn the_vault_ends_tls_itself_and_takes_up_a_renewed_certificate_while_it_serves() {
    let mut app = App::spawn().await;
    app.stop();
    let (first, second) = (authority(), authority());
    let dir = app.dir().to_owned();
    start_with_tls(&mut app, &first);
    assert!(app.url().starts_with("https://"), "{}", app.url());
    assert!(healthy(&app, &client(&first, None)).await);
    assert!(!healthy(&app, &client(&second, None)).await, "another authority's client does not trust it");
    let clear = app.url().replace("https", "http");
    assert!(crate::app::http().get(format!("{clear}/healthz")).send().await.is_err(), "nothing is said in clear");
    let sent = client(&first, None)
        .post(format!("{}/v1/entries", app.url()))
        .bearer_auth(&app.submitter().token)
        .json(&entry())
        .send()
        .await
        .unwrap();
    assert_eq!(sent.status(), 201);
    // A file that is half written is passed over.
    let certificate = fs::read_to_string(dir.join("tls.pem")).unwrap();
    put(&dir, "tls.pem", &certificate[..certificate.len() / 2]);
    app.signal(Signal::HUP);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(healthy(&app, &client(&first, None)).await);
    let (certificate, key) = certified(&second, "127.0.0.1");
    put(&dir, "tls.key", &key);
    put(&dir, "tls.pem", &certificate);
    app.signal(Signal::HUP);
    assert!(until(async || healthy(&app, &client(&second, None)).await).await, "{}", app.log());
    app.stop();
}

#[tokio::test]
async fn everybody_is_told_before_the_certificate_ends() {
    let mut app = App::spawn().await;
    app.stop();
    let servers = authority();
    start_with_tls(&mut app, &servers);
    for (begins, ends, says) in [
        (-1, 400, "is valid until"),
        (-90, 20, "the TLS certificate ends in 19 days"),
        (-90, -1, "clients refuse it: renew it"),
        (2, 90, "is valid only from"),
    ] {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let day =
            |days: i64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs((now + days * 86_400 - 3_600) as u64);
        (params.not_before, params.not_after) = (day(begins), day(ends));
        let key = KeyPair::generate().unwrap();
        put(app.dir(), "tls.key", &key.serialize_pem());
        put(app.dir(), "tls.pem", &params.signed_by(&key, &servers).unwrap().pem());
        let mut doctor = crate::app::program();
        doctor.arg("doctor").arg("--config").arg(app.dir().join("phivault.toml"));
        for name in ["certificate", "key"] {
            let path = app.dir().join("tls").with_extension(if name == "key" { "key" } else { "pem" });
            doctor.env(format!("PHIVAULT_SERVER__TLS_{}", name.to_uppercase()), path);
        }
        let said = crate::app::text(&doctor.output().unwrap());
        assert!(said.contains(says), "{said}");
    }
    // The server looks at its files when it starts, and every minute.
    app.stop();
    app.start();
    let log = app.log();
    assert!(!log.contains("the TLS certificate ends"), "it is valid from the day after tomorrow, for months: {log}");
    app.stop();
}

#[tokio::test]
async fn a_reload_without_tls_ends_nothing() {
    let app = App::spawn().await;
    app.signal(Signal::HUP);
    tokio::time::sleep(Duration::from_millis(200)).await;
    app.submitter().submit(&entry()).await;
    app.finish();
}

#[tokio::test]
async fn with_client_authorities_only_their_clients_are_let_in() {
    let mut app = App::spawn().await;
    app.stop();
    let (servers, clients, strangers) = (authority(), authority(), authority());
    start_with_clients(&mut app, &servers, &clients);
    let (ours, theirs) = (certified(&clients, "ehr"), certified(&strangers, "ehr"));
    assert!(healthy(&app, &client(&servers, Some(&ours))).await);
    assert!(!healthy(&app, &client(&servers, None)).await);
    assert!(!healthy(&app, &client(&servers, Some(&theirs))).await);
    // An authority that is taken out while it serves lets nobody in any more; one that is put in does.
    put(app.dir(), "clients.pem", &strangers.pem());
    app.signal(Signal::HUP);
    assert!(until(async || healthy(&app, &client(&servers, Some(&theirs))).await).await, "{}", app.log());
    assert!(!healthy(&app, &client(&servers, Some(&ours))).await);
    put(app.dir(), "clients.pem", &clients.pem());
    app.signal(Signal::HUP);
    assert!(until(async || healthy(&app, &client(&servers, Some(&ours))).await).await, "{}", app.log());
    let metrics = client(&servers, Some(&ours)).get(format!("{}/metrics", app.url())).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let failed = metrics.lines().find_map(|it| it.strip_prefix("phivault_tls_handshakes_failed_total ")).unwrap();
    app.stop();
    // How many stands in an entry, at the latest when it stops.
    let rows = crate::check::entries(app.dir());
    let told = rows.iter().filter_map(|it| it.meta.fact("tls_handshakes_failed")?.parse::<u64>().ok());
    assert_eq!(told.sum::<u64>(), failed.parse::<u64>().unwrap());
}

/// Sends as that client with a token.
async fn reasons(app: &App, client: &Client, token: &str) -> u16 {
    client.get(format!("{}/v1/reasons", app.url())).bearer_auth(token).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_token_that_is_bound_to_a_client_certificate_is_nobody_s_without_it() {
    let mut app = App::spawn().await;
    let (servers, clients) = (authority(), authority());
    let (ours, other) = (certified(&clients, "ehr"), certified(&clients, "lab"));
    let der = CertificateDer::from_pem_slice(ours.0.as_bytes()).unwrap();
    let source = format!("cert:{}", hex::encode(Sha256::digest(&der)).to_uppercase());
    let asked = json!({"role": "submitter", "label": "ehr", "allowed_sources": [source]});
    let made = app.admin().post("/v1/tokens", &asked).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.json()["allowed_sources"], json!([source.to_lowercase()]));
    let token = made.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(app.with_token(&token).get("/v1/reasons").await.status, 401, "no certificate in clear");
    app.stop();
    let dir = app.dir().to_owned();
    start_with_clients(&mut app, &servers, &clients);
    assert_eq!(reasons(&app, &client(&servers, Some(&ours)), &token).await, 200);
    assert_eq!(reasons(&app, &client(&servers, Some(&other)), &token).await, 401, "another node of the same authority");
    assert_eq!(
        reasons(&app, &client(&servers, Some(&other)), &app.submitter().token).await,
        200,
        "a token bound to none"
    );
    // The command line brings it, too.
    let listed = |certificate: Option<&str>| {
        let mut command = crate::app::program();
        command.args(["token", "list", "--json", "--url", app.url()]).arg("--ca-file").arg(put(
            &dir,
            "ca.pem",
            &servers.pem(),
        ));
        command.arg("--token-file").arg(put(&dir, "admin.token", &app.admin().token));
        command.args(certificate.into_iter().flat_map(|it| ["--client-certificate", it]));
        command.output().unwrap()
    };
    let held = put(&dir, "ours.pem", &format!("{}{}", ours.0, ours.1));
    let (with, without) = (listed(Some(&held)), listed(None));
    assert!(
        with.status.success() && !without.status.success(),
        "{}{}",
        crate::app::text(&with),
        crate::app::text(&without)
    );
    app.stop();
}

#[tokio::test]
async fn only_a_trusted_proxy_says_where_a_request_comes_from() {
    let mut app = App::spawn().await;
    let asked = |sources: &[&str]| json!({"role": "auditor", "label": sources.join(" "), "allowed_sources": sources});
    let mut tokens = Vec::new();
    for sources in [&["10.9.0.0/16"], &["127.0.0.1"]] {
        let made = app.admin().post("/v1/tokens", &asked(sources)).await;
        tokens.push(made.json()["token"].as_str().unwrap().to_owned());
    }
    let status = async |app: &App, token: &str, forwarded: &[&str]| {
        let client = app.with_token(token);
        let request = forwarded.iter().fold(client.request(reqwest::Method::GET, "/v1/reasons"), |it, header| {
            it.header("x-forwarded-for", *header)
        });
        client.send(request).await.status
    };
    // Nobody is trusted: the header counts for nothing.
    assert_eq!(status(&app, &tokens[0], &["10.9.1.1"]).await, 401);
    assert_eq!(status(&app, &tokens[1], &["10.9.1.1"]).await, 200);
    app.stop();
    let settings = app.dir().join("phivault.toml");
    let text = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, format!("{text}\n[server]\ntrusted_proxies = [\"127.0.0.1\", \"192.0.2.0/24\"]\n")).unwrap();
    app.start();
    let (far, near) = (&tokens[0], &tokens[1]);
    for (forwarded, expected) in [
        (&["10.9.1.1"][..], (200, 401)),
        // What a client wrote itself stands before what the proxy adds.
        (&["127.0.0.1, 10.9.1.1"], (200, 401)),
        (&["10.9.1.1, 203.0.113.5"], (401, 401)),
        (&["10.9.1.1", "203.0.113.5"], (401, 401)),
        // A second proxy in front of the first.
        (&["10.9.1.1, 192.0.2.9"], (200, 401)),
        (&["10.9.1.1, nonsense"], (401, 401)),
        (&[""], (401, 401)),
        // Straight from this machine, past the proxy.
        (&[], (401, 200)),
    ] {
        let found = (status(&app, far, forwarded).await, status(&app, near, forwarded).await);
        assert_eq!(found, expected, "{forwarded:?}");
    }
    app.finish();
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_refused_at_the_start_with_the_file_that_is_wrong() {
    let mut app = App::spawn().await;
    app.stop();
    let dir = app.dir().to_owned();
    let of = authority();
    let (certificate, key) = certified(&of, "127.0.0.1");
    let other = certified(&of, "127.0.0.1").1;
    let good = put(&dir, "good.pem", &certificate);
    let open = put(&dir, "open.key", &key);
    fs::set_permissions(dir.join("open.key"), fs::Permissions::from_mode(0o644)).unwrap();
    for (certificate, key, words) in [
        (good.clone(), put(&dir, "other.key", &other), ["server.tls_key", "go together"]),
        (good.clone(), put(&dir, "no.key", "nothing"), ["server.tls_key", "private key"]),
        (good, open, ["open.key", "600"]),
        (put(&dir, "none.pem", "nothing"), put(&dir, "good.key", &key), ["server.tls_certificate", "no certificate"]),
        (dir.join("gone.pem").display().to_string(), put(&dir, "good.key", &key), ["gone.pem", "cannot be read"]),
    ] {
        app.set("PHIVAULT_SERVER__TLS_CERTIFICATE", &certificate);
        app.set("PHIVAULT_SERVER__TLS_KEY", &key);
        let said = app.try_start().unwrap_err();
        assert!(words.iter().all(|it| said.contains(it)), "{words:?}: {said}");
    }
}
