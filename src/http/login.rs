//! Logging in and out: a session in a cookie, for people with a browser.

use actix_web::cookie::time::Duration;
use actix_web::cookie::{Cookie, SameSite};
use actix_web::http::StatusCode;
use actix_web::http::header::AUTHORIZATION;
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::json;
use crate::vault::{EnrolIn, Enrolled, LogInIn, SessionView};

use super::Api;
use super::body::{self, JSON};
use super::caller::{SESSION, check_same_site, held, peer};
use super::entries::{blocking, may};
use super::error::{ApiError, ApiResult, Problem};

/// Choose how to log in
///
/// With your own token, once: a password, and the secret for an authenticator, which is shown this once. From then on name, password and
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
    let enrolled = blocking(move || Ok(api.vault.enrol(&caller, asked)?)).await?;
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
    (status = 503, body = Problem, description = "Others log in just now, or it could not be recorded.")))]
pub(super) async fn log_in(api: Data<Api>, request: HttpRequest, payload: Payload) -> ApiResult<HttpResponse> {
    check_same_site(&request)?;
    let body = body::read(&api, &request, payload, &[JSON], api.limits.body_bytes).await?;
    let asked: LogInIn = json::parse(&body)?;
    drop(body);
    let (from, before) = (peer(&request, &api.proxies), held(&request));
    let (session, view) = blocking(move || {
        let logged_in = api.vault.log_in(asked, from)?;
        // Whoever was logged in on this browser no longer is.
        if let Some((held, caller)) = before.and_then(|held| Some((held.clone(), api.vault.session(&held, from)?))) {
            api.vault.log_out(&caller, &held)?;
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
pub(super) async fn log_out(api: Data<Api>, caller: Caller, request: HttpRequest) -> ApiResult<HttpResponse> {
    let held = held(&request).ok_or_else(ApiError::unauthorized)?;
    blocking(move || Ok(api.vault.log_out(&caller, &held)?)).await?;
    let mut gone = cookie("");
    gone.set_max_age(Duration::ZERO);
    Ok(HttpResponse::NoContent().cookie(gone).finish())
}

/// See the session
#[utoipa::path(get, path = "/v1/session", tag = "Sessions", security(("session" = [])), responses(
    (status = 200, description = "Who is logged in, and for how long.", body = SessionView), (status = 401, body = Problem, description = "There is no session.")))]
pub(super) async fn session(api: Data<Api>, caller: Caller, request: HttpRequest) -> ApiResult<HttpResponse> {
    let view = held(&request).and_then(|held| api.vault.see_session(&caller, &held));
    Ok(HttpResponse::Ok().json(view.ok_or_else(ApiError::unauthorized)?))
}

fn cookie(held: &str) -> Cookie<'static> {
    Cookie::build(SESSION, held.to_owned()).path("/").secure(true).http_only(true).same_site(SameSite::Strict).finish()
}
