//! `[server]`: where the vault listens, and how the way to it is protected.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;

use crate::vault::Source;

use super::ConfigError;

/// `[server]`
#[derive(Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Address and port.
    pub listen: String,
    /// A proxy in front ends TLS, so listening beyond this machine is meant.
    pub behind_tls_proxy: bool,
    /// The server's certificate and those that lead to its authority (PEM). With it the vault ends TLS itself.
    pub tls_certificate: Option<PathBuf>,
    /// Its private key (PEM), readable by its owner alone.
    pub tls_key: Option<PathBuf>,
    /// Authorities (PEM) of client certificates. With them only clients that bring one are let in (IHE ATNA node authentication).
    pub tls_client_authorities: Option<PathBuf>,
    /// What those authorities have revoked (PEM, RFC 5280 CRLs): one list of each, none out of date, or no client is let in.
    pub tls_client_revocations: Option<PathBuf>,
    /// Addresses or networks of proxies in front whose X-Forwarded-For is believed: where a request comes from counts for tokens that
    /// are bound to networks.
    pub trusted_proxies: Vec<String>,
    /// Open connections at a time.
    pub connections: usize,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8321".into(),
            behind_tls_proxy: false,
            tls_certificate: None,
            tls_key: None,
            tls_client_authorities: None,
            tls_client_revocations: None,
            trusted_proxies: Vec::new(),
            connections: 500,
        }
    }
}

impl Server {
    /// The files that it names.
    pub(super) fn files(&mut self) -> [Option<&mut PathBuf>; 4] {
        [
            self.tls_certificate.as_mut(),
            self.tls_key.as_mut(),
            self.tls_client_authorities.as_mut(),
            self.tls_client_revocations.as_mut(),
        ]
    }

    /// The address to listen on.
    ///
    /// # Errors
    /// When it is no address, or lies beyond this machine without TLS; when what TLS needs is not all there.
    pub(super) fn address(&self) -> Result<SocketAddr, ConfigError> {
        let address: SocketAddr = self.listen.parse().map_err(|_| {
            ConfigError(format!("server.listen = {:?} is no address and port such as 127.0.0.1:8321.", self.listen))
        })?;
        if self.tls_certificate.is_some() != self.tls_key.is_some() {
            return Err(ConfigError("server.tls_certificate and server.tls_key belong together: set both.".into()));
        }
        if self.tls_client_authorities.is_some() && self.tls_certificate.is_none() {
            return Err(ConfigError(
                "server.tls_client_authorities needs server.tls_certificate and server.tls_key: clients can only bring certificates when the vault ends TLS itself.".into(),
            ));
        }
        if self.tls_client_revocations.is_some() && self.tls_client_authorities.is_none() {
            return Err(ConfigError(
                "server.tls_client_revocations needs server.tls_client_authorities: without them no client brings a certificate.".into(),
            ));
        }
        if !address.ip().is_loopback() && !self.behind_tls_proxy && self.tls_certificate.is_none() {
            return Err(ConfigError(format!(
                "server.listen = {address} reaches beyond this machine, where tokens and health data must not travel in clear. \
                 Set server.tls_certificate and server.tls_key; or listen on 127.0.0.1 behind a proxy that ends TLS, or set \
                 server.behind_tls_proxy = true if one stands in front."
            )));
        }
        Ok(address)
    }

    /// The networks of trusted proxies.
    ///
    /// # Errors
    /// When one is no address and no network.
    pub fn proxies(&self) -> Result<Vec<IpNet>, ConfigError> {
        let read = |text: &String| match Source::parse(text) {
            Some(Source::Network(net)) if net.prefix_len() > 0 => Ok(net),
            _ => Err(ConfigError(format!(
                "server.trusted_proxies: {text:?} is no address and no network such as 10.1.0.0/24, or it is everybody."
            ))),
        };
        self.trusted_proxies.iter().map(read).collect()
    }
}
