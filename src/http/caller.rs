//! Who is calling: the bearer token of a request becomes a [`Caller`], or the request ends.

use std::future::{Ready, ready};
use std::time::Instant;

use actix_web::dev::Payload;
use actix_web::http::header::AUTHORIZATION;
use actix_web::web::Data;
use actix_web::{FromRequest, HttpRequest};

use crate::domain::caller::Caller;

use super::Api;
use super::error::ApiError;

impl FromRequest for Caller {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(authenticate(request).ok_or_else(ApiError::unauthorized).and_then(|caller| within(request, caller)))
    }
}

/// Lets the caller pass, unless it asks for more than its share.
fn within(request: &HttpRequest, caller: Caller) -> Result<Caller, ApiError> {
    let passed = request.app_data::<Data<Api>>().map_or(Ok(()), |api| api.rates.pass(&caller, Instant::now()));
    passed.map_err(ApiError::TooMany)?;
    Ok(caller)
}

fn authenticate(request: &HttpRequest) -> Option<Caller> {
    let api = request.app_data::<Data<Api>>()?;
    let mut headers = request.headers().get_all(AUTHORIZATION);
    let header = headers.next()?.to_str().ok()?;
    if headers.next().is_some() {
        return None;
    }
    let (scheme, token) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    // The peer of the connection, never a header: anybody can write X-Forwarded-For.
    api.vault.authenticate(token.trim(), request.peer_addr().map(|it| it.ip()))
}
