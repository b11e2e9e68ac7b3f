//! The HTTP client the remote commands share: where the vault is, with whose token, within which limits.

pub mod problem;
pub mod terminal;

use std::fs::File;
use std::io::{Read as _, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Certificate, Identity, Method, RequestBuilder, Response, Url, redirect};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::keyfile;

pub use self::problem::{FieldError, Problem};

/// Where the vault is, and with which token to speak to it.
#[derive(Debug, Clone, clap::Args)]
#[command(about = None, long_about = None, next_help_heading = "Connection")]
pub struct ConnectArgs {
    /// Address of the vault, for example `https://vault.example.org`
    ///
    /// Plain http:// is taken only for this computer (localhost, 127.0.0.1, ::1): on a network anybody on the
    /// way could read the token and the health data. Redirects are not followed, so give the final address.
    #[arg(long, env = "PHIVAULT_URL", value_name = "URL")]
    pub url: String,

    /// File that holds the token (phv_…), alone on a line
    ///
    /// A token is never given as an argument, where other users of this computer and the shell's history would
    /// see it. The file should be readable by its owner only (chmod 600).
    #[arg(long, env = "PHIVAULT_TOKEN_FILE", value_name = "FILE")]
    pub token_file: PathBuf,

    /// Trust only the certificate authorities in this PEM file, instead of those of this computer
    #[arg(long, env = "PHIVAULT_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,

    /// The certificate of this computer or person and its private key, in one PEM file, for a vault that asks clients for one
    ///
    /// Made by the authority that the vault trusts (server.tls_client_authorities); readable by its owner only (chmod 600).
    #[arg(long, env = "PHIVAULT_CLIENT_CERTIFICATE", value_name = "FILE")]
    pub client_certificate: Option<PathBuf>,

    /// Seconds to wait for an answer
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,

    /// Send the token and the data unencrypted to another computer (for a tunnel that encrypts by itself)
    #[arg(long)]
    pub insecure_http: bool,
}

/// A connection to one vault with one token.
///
/// Nothing is sent before the first request. Redirects are never followed, because the token would go with them.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    timeout: Duration,
}

impl Client {
    /// Reads the token file and prepares the client.
    ///
    /// # Errors
    /// An address that is not usable or not safe, a token file that cannot be read or holds no token, a CA file
    /// without certificates.
    pub fn connect(args: &ConnectArgs) -> anyhow::Result<Self> {
        let base = parse_base(&args.url, args.insecure_http)?;
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, authorization(&args.token_file)?);

        // An error means that a provider is installed already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let timeout = Duration::from_secs(args.timeout);
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("phivault/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .redirect(redirect::Policy::none())
            // Less than limits.idle_seconds of a vault, so that no request goes to a connection that it is just closing.
            .pool_idle_timeout(Duration::from_secs(10))
            .connect_timeout(timeout.min(Duration::from_secs(10)))
            .read_timeout(timeout);
        if base.scheme() == "http" {
            // A proxy would read the token. No certificate is needed, so a computer without any may call, too.
            builder = builder.no_proxy().tls_certs_only([]);
        } else if let Some(path) = &args.ca_file {
            builder = builder.tls_certs_only(authorities(path)?);
        }
        if let Some(path) = &args.client_certificate {
            builder = builder.identity(identity(path)?);
        }
        let http = builder.build().context(
            "the HTTP client could not be prepared (does this computer have CA certificates? see --ca-file)",
        )?;
        Ok(Self { http, base, timeout })
    }

    /// `GET`: the answer as JSON. `path` is given by segments, which are percent-encoded.
    ///
    /// # Errors
    /// A [`Problem`] when the vault cannot be reached, refuses, or answers with something else.
    pub async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, &str)]) -> Result<T, Problem> {
        let request = self.request(Method::GET, path, query).timeout(self.timeout);
        self.json(self.exchange(request, path).await?).await
    }

    /// `POST` of a JSON body: the answer as JSON.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post<T: DeserializeOwned>(&self, path: &[&str], body: &impl Serialize) -> Result<T, Problem> {
        let request = self.request(Method::POST, path, &[]).timeout(self.timeout).json(body);
        self.json(self.exchange(request, path).await?).await
    }

    /// `POST` of lines of JSON (`application/x-ndjson`): the answer as JSON.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post_ndjson<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<T, Problem> {
        let request = self
            .request(Method::POST, path, query)
            .timeout(self.timeout)
            .header(CONTENT_TYPE, "application/x-ndjson")
            .body(body);
        self.json(self.exchange(request, path).await?).await
    }

    /// `DELETE`; the answer's body is not looked at.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn delete(&self, path: &[&str], query: &[(&str, &str)]) -> Result<(), Problem> {
        let request = self.request(Method::DELETE, path, query).timeout(self.timeout);
        self.exchange(request, path).await.map(drop)
    }

    /// `GET` of a document of any size, passed on as it arrives: the number of bytes written to `sink`.
    ///
    /// # Errors
    /// A [`Problem`], or what `sink` says. Part of the document may be written by then.
    pub async fn download(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        accept: &str,
        sink: &mut impl Write,
    ) -> anyhow::Result<u64> {
        let request = self.request(Method::GET, path, query).header(ACCEPT, accept);
        let mut response = self.exchange(request, path).await?;
        let mut written = 0;
        while let Some(chunk) = response.chunk().await.map_err(|error| Problem::no_answer(&error, &self.base))? {
            sink.write_all(&chunk).context("the answer could not be written")?;
            written += chunk.len() as u64;
        }
        sink.flush().context("the answer could not be written")?;
        Ok(written)
    }

    fn request(&self, method: Method, path: &[&str], query: &[(&str, &str)]) -> RequestBuilder {
        self.http.request(method, address(&self.base, path, query))
    }

    async fn exchange(&self, request: RequestBuilder, path: &[&str]) -> Result<Response, Problem> {
        let response = request.send().await.map_err(|error| Problem::no_answer(&error, &self.base))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        // A refusal whose explanation does not arrive is still a refusal.
        let body = self.body(response, MAX_PROBLEM_BYTES).await.unwrap_or_default();
        Err(Problem::from_answer(status, &headers, &body, role_needed(path)))
    }

    async fn json<T: DeserializeOwned>(&self, response: Response) -> Result<T, Problem> {
        let body = self.body(response, MAX_ANSWER_BYTES).await?;
        serde_json::from_slice(&body).map_err(|_| Problem::not_understood(&self.base))
    }

    async fn body(&self, mut response: Response, limit: usize) -> Result<Vec<u8>, Problem> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| Problem::no_answer(&error, &self.base))? {
            if body.len() + chunk.len() > limit {
                return Err(Problem::not_understood(&self.base));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// A JSON answer beyond this is no answer of ours; what may be larger is downloaded as it arrives.
const MAX_ANSWER_BYTES: usize = 256 << 20;
const MAX_PROBLEM_BYTES: usize = 4 << 20;
const MAX_TOKEN_FILE_BYTES: u64 = 4096;

/// The role an operation asks for, so that a 403 can say it.
fn role_needed(path: &[&str]) -> &'static str {
    match path {
        ["v1", "entries"] | ["v1", "entries", "batch"] => "submitter",
        ["v1", "reports", ..] => "officer",
        ["v1", "tokens" | "keys", ..] => "admin",
        _ => "",
    }
}

fn parse_base(text: &str, insecure_http: bool) -> anyhow::Result<Url> {
    // The text itself is not repeated: somebody may have put a password into it.
    let url =
        Url::parse(text).context("--url is not an address: it should look like https://vault.example.org:8443")?;
    if url.username() != "" || url.password().is_some() {
        bail!("--url must not carry a user name or a password: the token in --token-file says who you are");
    }
    if url.query().is_some() || url.fragment().is_some() {
        bail!("--url must end before any ? or #");
    }
    match url.scheme() {
        "https" => {}
        "http" if insecure_http || is_loopback(&url) => {}
        "http" => bail!(
            "http:// to another computer would send the token and health data in clear: use https://, or --insecure-http if a tunnel encrypts the way"
        ),
        _ => bail!("--url must begin with https:// (or http:// on this computer)"),
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn address(base: &Url, path: &[&str], query: &[(&str, &str)]) -> Url {
    let mut url = base.clone();
    url.path_segments_mut().expect("an http address always has a path").pop_if_empty().extend(path);
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    url
}

fn identity(path: &Path) -> anyhow::Result<Identity> {
    let wrong =
        || format!("the client certificate {} is not a certificate and its private key in PEM form", path.display());
    let pem = keyfile::read_private(path, "client certificate")?;
    Identity::from_pem(pem.as_bytes()).with_context(wrong)
}

fn authorities(path: &Path) -> anyhow::Result<Vec<Certificate>> {
    let pem = std::fs::read(path).with_context(|| format!("the CA file {} cannot be read", path.display()))?;
    let found =
        Certificate::from_pem_bundle(&pem).with_context(|| format!("the CA file {} is not PEM", path.display()))?;
    if found.is_empty() {
        bail!("the CA file {} holds no certificate", path.display());
    }
    Ok(found)
}

fn authorization(path: &Path) -> anyhow::Result<HeaderValue> {
    let unreadable = || format!("the token file {} cannot be read", path.display());
    let file = File::open(path).with_context(unreadable)?;
    let metadata = file.metadata().with_context(unreadable)?;
    if metadata.is_file() && metadata.permissions().mode() & 0o044 != 0 {
        eprintln!("warning: other users can read the token file {0}: chmod 600 {0}", path.display());
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_TOKEN_FILE_BYTES).read_to_string(&mut text).with_context(unreadable)?;
    let Some(token) = token_in(&text) else {
        bail!("the token file {} should hold one line, a token that begins with phv_", path.display());
    };
    let line = Zeroizing::new(format!("Bearer {token}"));
    let mut value = HeaderValue::from_str(&line).context("the token file holds characters no token has")?;
    value.set_sensitive(true);
    Ok(value)
}

/// The one line that is neither empty nor a comment, if it looks like a token.
fn token_in(text: &str) -> Option<&str> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let token = lines.next()?;
    let shaped = token.strip_prefix("phv_").is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    });
    (shaped && lines.next().is_none()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_taken_for_this_computer_only() {
        for safe in ["http://localhost:8080", "http://127.0.0.1", "http://[::1]:9", "https://vault.example.org/phi"] {
            assert!(parse_base(safe, false).is_ok(), "{safe}");
        }
        for unsafe_one in [
            "http://vault.example.org",
            "http://10.0.0.4:80",
            "http://localhost.example.org",
            "http://127.0.0.1.nip.io",
        ] {
            assert!(parse_base(unsafe_one, false).is_err(), "{unsafe_one}");
            assert!(parse_base(unsafe_one, true).is_ok(), "{unsafe_one}");
        }
    }

    #[test]
    fn an_address_with_a_password_is_refused_and_not_repeated() {
        let error = parse_base("https://me:secret@vault.example.org", false).unwrap_err();
        assert!(!format!("{error:#}").contains("secret"));
        assert!(parse_base("ftp://vault.example.org", true).is_err());
        assert!(parse_base("https://vault.example.org/?token=1", false).is_err());
    }

    #[test]
    fn path_segments_cannot_leave_their_place() {
        let base = parse_base("https://vault.example.org/phi/", false).unwrap();
        let url = address(&base, &["v1", "tokens", "a/../b?c"], &[("reason", "A&B")]);
        assert_eq!(url.as_str(), "https://vault.example.org/phi/v1/tokens/a%2F..%2Fb%3Fc?reason=A%26B");
    }

    #[test]
    fn a_token_file_holds_one_token_and_perhaps_comments() {
        assert_eq!(token_in("# for the forwarder\n phv_abc-1 \r\n\n"), Some("phv_abc-1"));
        for wrong in ["", "abc", "phv_", "phv_a b", "phv_a\nphv_b", "phv_ä"] {
            assert_eq!(token_in(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_authorization_header_does_not_show_its_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "phv_abc\n").unwrap();
        let header = authorization(&path).unwrap();
        assert_eq!(header.to_str().unwrap(), "Bearer phv_abc");
        assert!(!format!("{header:?}").contains("phv_abc"));
    }
}
