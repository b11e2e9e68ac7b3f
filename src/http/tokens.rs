//! Tokens.

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::json;
use crate::domain::submission::ReasonIn;
use crate::vault::{Approval, Asked, TokenIn, TokenMade, TokenView};

use super::Api;
use super::body::{self, JSON};
use super::entries::{blocking, may, params};
use super::error::{ApiResult, Problem};

/// All tokens.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenList {
    /// Without their secrets, oldest first.
    tokens: Vec<TokenView>,
}

/// Why a token is revoked.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RevokeParams {
    /// The reason code; system administration if absent.
    reason: Option<String>,
}

/// List tokens
#[utoipa::path(get, path = "/v1/tokens", tag = "Tokens", responses(
    (status = 200, description = "All tokens, without their secrets.", body = TokenList), (status = 401, body = Problem, description = "The token is not valid."),
    (status = 403, body = Problem, description = "Only an admin may."), (status = 503, body = Problem, description = "It could not be recorded.")))]
pub(super) async fn list(api: Data<Api>, caller: Caller) -> ApiResult<HttpResponse> {
    let tokens = blocking(move || Ok(api.vault.list_tokens(&caller)?)).await?;
    Ok(HttpResponse::Ok().json(TokenList { tokens }))
}

/// Make a token
///
/// The token is shown once. Its label becomes the source of what is submitted with it.
#[utoipa::path(post, path = "/v1/tokens", tag = "Tokens", request_body = TokenIn, responses(
    (status = 201, description = "The token.", body = TokenMade),
    (status = 202, description = "Another administrator takes a second one's approval; it waits for that.", body = Approval), (status = 400, body = Problem, description = "The JSON is malformed."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only an admin may."),
    (status = 408, body = Problem, description = "The body came too slowly."), (status = 413, body = Problem, description = "The body is too large."),
    (status = 415, body = Problem, description = "The body is not JSON."), (status = 422, body = Problem, description = "Something in it will not do."),
    (status = 503, body = Problem, description = "It could not be recorded, so there is no token.")))]
pub(super) async fn create(
    api: Data<Api>,
    caller: Caller,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::ManageTokens, Action::TOKEN_CREATE).await?;
    let body = body::read(&api, &request, payload, &[JSON], api.limits.body_bytes).await?;
    let asked: TokenIn = json::parse(&body)?;
    let asked = blocking(move || Ok(api.vault.create_token(&caller, asked)?)).await?;
    Ok(match asked {
        Asked::Pending(_) => HttpResponse::Accepted().json(asked),
        Asked::Done(_) => HttpResponse::Created().json(asked),
    })
}

/// Revoke a token
///
/// At once. Revoking it again changes nothing.
#[utoipa::path(delete, path = "/v1/tokens/{id}", tag = "Tokens", params(("id" = String, Path, description = "The token's id."), RevokeParams), responses(
    (status = 204, description = "It is revoked."), (status = 400, body = Problem, description = "A parameter is wrong."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only an admin may."),
    (status = 404, body = Problem, description = "There is no such token."), (status = 422, body = Problem, description = "The reason will not do."),
    (status = 503, body = Problem, description = "It could not be recorded, so it still holds.")))]
pub(super) async fn revoke(
    api: Data<Api>,
    caller: Caller,
    id: Path<String>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::ManageTokens, Action::TOKEN_REVOKE).await?;
    let reason =
        params::<RevokeParams>(&request)?.reason.map(|code| ReasonIn { code: Some(code), ..ReasonIn::default() });
    blocking(move || Ok(api.vault.revoke_token(&caller, &id, reason)?)).await?;
    Ok(HttpResponse::NoContent().finish())
}
