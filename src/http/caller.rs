//! Who is calling: the bearer token of a request, or the session of a browser, becomes a [`Caller`], or the request ends.

use std::future::{Ready, ready};
use std::net::IpAddr;
use std::time::Instant;

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::AUTHORIZATION;
use actix_web::web::Data;
use actix_web::{FromRequest, HttpRequest};
use ipnet::IpNet;

use crate::domain::caller::Caller;
use crate::vault::Peer;

use super::Api;
use super::error::ApiError;
use super::tls::ClientCertificate;

/// The cookie of a session. The prefix makes browsers insist on TLS, this host and the path `/` (RFC 6265bis, section 4.1.3.2).
pub(super) const SESSION: &str = "__Host-phivault";
/// Proxies that are looked past.
const MAX_HOPS: usize = 16;

impl FromRequest for Caller {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(authenticate(request).and_then(|caller| within(request, caller)))
    }
}

/// Lets the caller pass, unless it asks for more than its share.
fn within(request: &HttpRequest, caller: Caller) -> Result<Caller, ApiError> {
    let passed = request.app_data::<Data<Api>>().map_or(Ok(()), |api| api.rates.pass(&caller, Instant::now()));
    passed.map_err(ApiError::TooMany)?;
    Ok(caller)
}

/// By the token, or, where none is sent, by the session.
fn authenticate(request: &HttpRequest) -> Result<Caller, ApiError> {
    let api = request.app_data::<Data<Api>>().ok_or_else(ApiError::unauthorized)?;
    let from = peer(request, &api.proxies);
    if request.headers().contains_key(AUTHORIZATION) {
        return bearer(request).and_then(|it| api.vault.authenticate(it, from)).ok_or_else(ApiError::unauthorized);
    }
    let caller = held(request)
        .and_then(|held| api.vault.session(&held, from))
        .map(|it| it.0)
        .ok_or_else(ApiError::unauthorized)?;
    // Looking is an act, too: it stands in the ledger in the caller's name.
    check_same_site(request)?;
    Ok(caller)
}

fn bearer(request: &HttpRequest) -> Option<&str> {
    let mut headers = request.headers().get_all(AUTHORIZATION);
    let header = headers.next()?.to_str().ok()?;
    if headers.next().is_some() {
        return None;
    }
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// What the browser holds of a session.
pub(super) fn held(request: &HttpRequest) -> Option<String> {
    request.cookie(SESSION).map(|it| it.value().to_owned())
}

/// A browser sends a cookie wherever its page wants, so what is not only read must come from a page of this server: by
/// Sec-Fetch-Site, or by Origin where that is not sent. What is no browser sends neither.
///
/// # Errors
/// 403 `cross_site`.
pub(super) fn check_same_site(request: &HttpRequest) -> Result<(), ApiError> {
    // Two of one name are of no browser.
    let header = |name| {
        let mut all = request.headers().get_all(name);
        all.next().map(|it| if all.next().is_some() { "?" } else { it.to_str().unwrap_or("?") })
    };
    let is_own = match (header("sec-fetch-site"), header("origin"), header("host")) {
        (Some(site), ..) => matches!(site, "same-origin" | "none"),
        (None, Some(origin), Some(host)) => origin.split_once("://").is_some_and(|(_, it)| it == host),
        (None, Some(_), None) => false,
        (None, None, _) => true,
    };
    let detail = "This came from a page of another site, so it was not done.";
    if is_own { Ok(()) } else { Err(ApiError::http(StatusCode::FORBIDDEN, "cross_site", detail)) }
}

/// Where a request comes from. X-Forwarded-For counts only when a proxy that the settings name has connected; then the last address in
/// it that is not such a proxy's, for anybody can write what stands before. If that does not read, nobody knows.
pub(super) fn peer(request: &HttpRequest, proxies: &[IpNet]) -> Peer {
    let certificate = request.conn_data::<ClientCertificate>().map(|it| it.0);
    let address = request.peer_addr().map(|it| it.ip().to_canonical());
    let is_proxy = |address: &IpAddr| proxies.iter().any(|net| net.contains(address));
    let headers: Vec<_> = request.headers().get_all("x-forwarded-for").collect();
    if headers.is_empty() || !address.as_ref().is_some_and(is_proxy) {
        return Peer { address, certificate };
    }
    let hops = headers.iter().rev().flat_map(|it| it.to_str().unwrap_or("?").rsplit(','));
    let hops = hops.map(|it| it.trim().parse::<IpAddr>().ok().map(|it| it.to_canonical())).take(MAX_HOPS + 1);
    let hops: Vec<Option<IpAddr>> = hops.collect();
    // Where all are proxies, the farthest is the client: this machine's own monitoring, say.
    let client = hops.iter().find(|it| !it.as_ref().is_some_and(is_proxy)).or(hops.last());
    Peer { address: client.copied().flatten().filter(|_| hops.len() <= MAX_HOPS), certificate }
}
