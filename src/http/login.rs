//! Logging in and out: a session in a cookie, for people with a browser.

use std::net::IpAddr;

use actix_web::cookie::time::Duration;
use actix_web::cookie::{Cookie, SameSite};
use actix_web::http::StatusCode;
use actix_web::http::header::AUTHORIZATION;
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::json;
use crate::vault::{EnrolIn, Enrolled, LogInIn, SessionView, VaultError};

use super::Api;
use super::body::{self, JSON};
use super::caller::{SESSION, check_same_site, held, peer};
use super::crowd::network;
use super::entries::{blocking, may};
use super::error::{ApiError, ApiResult, Problem};
use super::turn::{Turn, Turns};

/// How long a turn to try a password is waited for.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
/// Who may wait, from one network.
const MOST_WAITING: usize = 16;
/// Who says that he wants to log in has shown nothing yet, so he has little time and room for it.
const ASKING: std::time::Duration = std::time::Duration::from_secs(5);
const MOST_BYTES: usize = 8 << 10;

/// Choose how to log in
///
/// With your own token, and again when phone or password is lost: a password, and the secret for an authenticator, which is shown this once. From then on name, password and
/// code do what the token does, and end with it.
#[utoipa::path(post, path = "/v1/login/enrol", tag = "Sessions", request_body = EnrolIn, responses(
    (status = 201, description = "What the authenticator needs.", body = Enrolled), (status = 400, body = Problem, description = "The JSON is malformed."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only an officer, auditor or admin may, with the token itself."),
    (status = 408, body = Problem, description = "The body came too slowly."), (status = 413, body = Problem, description = "The body is too large."),
    (status = 415, body = Problem, description = "The body is not JSON."), (status = 422, body = Problem, description = "The password is weak, or the name is taken."),
    (status = 503, body = Problem, description = "Others log in just now, or it could not be recorded.")))]
pub(super) async fn enrol(
    api: Data<Api>,
    caller: Caller,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::LogIn, Action::LOGIN_ENROL).await?;
    if !request.headers().contains_key(AUTHORIZATION) {
        let detail = "A session cannot choose a new password: send the token itself as `Authorization: Bearer phv_…`.";
        return Err(ApiError::http(StatusCode::FORBIDDEN, "token_needed", detail));
    }
    let body = body::read(&api, &request, payload, &[JSON], api.limits.body_bytes).await?;
    let asked: EnrolIn = json::parse(&body)?;
    let from = peer(&request, &api.proxies);
    let turn = api.logins.enrolling(&caller).await?;
    let enrolled = blocking(move || {
        let _turn = turn;
        Ok(api.vault.enrol(&caller, asked, from)?)
    })
    .await?;
    Ok(HttpResponse::Created().json(enrolled))
}

/// Log in
///
/// Sets the cookie `__Host-phivault`, which a browser sends over TLS alone and never from another site. Five failures in a row make the
/// name wait, ever longer. Each login, logout and failure is an entry.
#[utoipa::path(post, path = "/v1/login", tag = "Sessions", request_body = LogInIn, security(()), responses(
    (status = 200, description = "Logged in; the session is in the cookie.", body = SessionView), (status = 400, body = Problem, description = "The JSON is malformed."),
    (status = 401, body = Problem, description = "Name, password or code is wrong; all look alike."), (status = 403, body = Problem, description = "Another site asks."),
    (status = 408, body = Problem, description = "The body came too slowly."), (status = 413, body = Problem, description = "The body is too large."),
    (status = 415, body = Problem, description = "The body is not JSON."), (status = 422, body = Problem, description = "A field is unknown or of the wrong type."),
    (status = 429, body = Problem, description = "There were too many failures under this name; see Retry-After."),
    (status = 503, body = Problem, description = "Others log in just now, or it could not be recorded.")))]
pub(super) async fn log_in(api: Data<Api>, request: HttpRequest, payload: Payload) -> ApiResult<HttpResponse> {
    check_same_site(&request)?;
    let limit = api.limits.body_bytes.min(MOST_BYTES);
    let body = body::read_within(&api, &request, payload, &[JSON], limit, api.body_deadline().min(ASKING)).await?;
    let asked: LogInIn = json::parse(&body)?;
    drop(body);
    let (from, before) = (peer(&request, &api.proxies), held(&request));
    // It goes with the work: who hangs up meanwhile does not make room for another.
    let turn = api.logins.turn(from.address).await?;
    let (session, view) = blocking(move || {
        let _turn = turn;
        let logged_in = api.vault.log_in(asked, from)?;
        // Whoever was logged in on this browser no longer is. The new session is there, so that this could not be recorded is no failure.
        if let Some((held, (caller, _))) = before.and_then(|held| Some((held.clone(), api.vault.session(&held, from)?)))
            && let Err(error) = api.vault.log_out(&caller, &held, from)
        {
            tracing::error!(%error, "the end of the session before could not be recorded");
        }
        Ok(logged_in)
    })
    .await?;
    Ok(HttpResponse::Ok().cookie(cookie(session.expose())).json(view))
}

/// Log out
#[utoipa::path(post, path = "/v1/logout", tag = "Sessions", security(("session" = [])), responses(
    (status = 204, description = "The session is ended."), (status = 401, body = Problem, description = "There is no session."),
    (status = 403, body = Problem, description = "Another site asks."), (status = 503, body = Problem, description = "It is ended, and could not be recorded.")))]
pub(super) async fn log_out(api: Data<Api>, request: HttpRequest) -> ApiResult<HttpResponse> {
    let (held, caller, _) = own_session(&api, &request)?;
    check_same_site(&request)?;
    let from = peer(&request, &api.proxies);
    blocking(move || Ok(api.vault.log_out(&caller, &held, from)?)).await?;
    let mut gone = cookie("");
    gone.set_max_age(Duration::ZERO);
    Ok(HttpResponse::NoContent().cookie(gone).finish())
}

/// See the session
#[utoipa::path(get, path = "/v1/session", tag = "Sessions", security(("session" = [])), responses(
    (status = 200, description = "Who is logged in, and for how long.", body = SessionView), (status = 401, body = Problem, description = "There is no session."),
    (status = 403, body = Problem, description = "Another site asks.")))]
pub(super) async fn session(api: Data<Api>, request: HttpRequest) -> ApiResult<HttpResponse> {
    let (_, _, view) = own_session(&api, &request)?;
    check_same_site(&request)?;
    Ok(HttpResponse::Ok().json(view))
}

/// The session of the cookie. With a token beside it nobody could say who is meant.
fn own_session(api: &Api, request: &HttpRequest) -> ApiResult<(String, Caller, SessionView)> {
    let held = held(request).filter(|_| !request.headers().contains_key(AUTHORIZATION));
    let held = held.ok_or_else(ApiError::unauthorized)?;
    let found = api.vault.session(&held, peer(request, &api.proxies));
    found.map(|(caller, view)| (held, caller, view)).ok_or_else(ApiError::unauthorized)
}

/// Who waits to log in. Each try takes 32 MiB and tens of milliseconds, so few are let in at a time, from each network in its turn.
pub(super) struct Turnstile {
    tries: Turns,
    enrolments: Turns,
}

impl Turnstile {
    pub(super) fn new() -> Self {
        Self {
            tries: Turns::with_patience(2, MOST_WAITING, PATIENCE),
            enrolments: Turns::with_patience(1, MOST_WAITING, PATIENCE),
        }
    }

    /// A turn to try a password from an address.
    ///
    /// # Errors
    /// 503 when too many wait there, or it takes too long.
    async fn turn(&self, from: Option<IpAddr>) -> ApiResult<Turn> {
        let network = from.map_or_else(|| "?".to_owned(), |it| network(it).to_string());
        self.tries.take(&network, 0).await.ok_or(ApiError::Vault(VaultError::Busy))
    }

    /// A turn for somebody who showed a token.
    async fn enrolling(&self, caller: &Caller) -> ApiResult<Turn> {
        self.enrolments.take(&caller.token_id, 0).await.ok_or(ApiError::Vault(VaultError::Busy))
    }
}

fn cookie(held: &str) -> Cookie<'static> {
    Cookie::build(SESSION, held.to_owned()).path("/").secure(true).http_only(true).same_site(SameSite::Strict).finish()
}
