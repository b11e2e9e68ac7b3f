//! Data-key versions.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::json;
use crate::domain::submission::{ReasonIn, object};
use crate::vault::{IndexKeys, KeyList, ReencryptIn, Reencryption, Rotated, SigningRotated, StateRotated};

use super::Api;
use super::body::{self, JSON};
use super::entries::{blocking, may};
use super::error::{ApiResult, Problem};

/// Why it is done.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"reason": {"code": "HSYSADMIN", "note": "Quarterly rotation"}}))]
pub(super) struct BecauseIn {
    /// The reason.
    #[serde(default, deserialize_with = "object")]
    pub(super) reason: Option<ReasonIn>,
}

/// List key versions
#[utoipa::path(get, path = "/v1/keys", tag = "Keys", responses(
    (status = 200, description = "The versions.", body = KeyList), (status = 401, body = Problem, description = "The token is not valid."),
    (status = 403, body = Problem, description = "Only admins and auditors may."), (status = 503, body = Problem, description = "It could not be recorded.")))]
pub(super) async fn list(api: Data<Api>, caller: Caller) -> ApiResult<HttpResponse> {
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.list_keys(&caller)?)).await?))
}

/// Rotate the data key
///
/// A new version seals from now on; the ones before reveal only. Nothing stops, no proof changes.
#[utoipa::path(post, path = "/v1/keys/rotate", tag = "Keys", request_body = BecauseIn, responses(
    (status = 200, description = "The new version.", body = Rotated), (status = 400, body = Problem, description = "The JSON is malformed."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only an admin may."),
    (status = 408, body = Problem, description = "The body came too slowly."), (status = 413, body = Problem, description = "The body is too large."),
    (status = 415, body = Problem, description = "The body is not JSON."), (status = 422, body = Problem, description = "The reason will not do."),
    (status = 503, body = Problem, description = "It could not be recorded, so nothing was rotated.")))]
pub(super) async fn rotate(
    api: Data<Api>,
    caller: Caller,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::RotateKeys, Action::KEY_ROTATE).await?;
    let reason = because(&api, &request, payload).await?;
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.rotate_keys(&caller, reason)?)).await?))
}

/// Reads a body that only gives a reason.
pub(super) async fn because(api: &Data<Api>, request: &HttpRequest, payload: Payload) -> ApiResult<ReasonIn> {
    let body = body::read(api, request, payload, &[JSON], api.limits.body_bytes).await?;
    Ok(json::parse::<BecauseIn>(&body)?.reason.unwrap_or_default())
}

/// Change the key that signs checkpoints
///
/// An entry announces the new public key; one checkpoint is signed by both. Older checkpoints and receipts stay valid under the
/// older key. Give the new public key to whoever verifies.
#[utoipa::path(post, path = "/v1/keys/rotate-signing", tag = "Keys", request_body = BecauseIn, responses(
    (status = 200, description = "The new public key.", body = SigningRotated), (status = 400, body = Problem, description = "The JSON is malformed."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only an admin may."),
    (status = 408, body = Problem, description = "The body came too slowly."), (status = 413, body = Problem, description = "The body is too large."),
    (status = 415, body = Problem, description = "The body is not JSON."), (status = 422, body = Problem, description = "The reason will not do."),
    (status = 503, body = Problem, description = "It could not be recorded, so nothing was changed.")))]
pub(super) async fn rotate_signing(
    api: Data<Api>,
    caller: Caller,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::RotateKeys, Action::SIGNING_ROTATE).await?;
    let reason = because(&api, &request, payload).await?;
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.rotate_signing_key(&caller, reason)?)).await?))
}

/// Make a new key for blind patient ids
///
/// New entries are indexed under it; older ones stay under theirs, and are found as before.
#[utoipa::path(post, path = "/v1/keys/rotate-index", tag = "Keys", request_body = BecauseIn, responses(
    (status = 200, description = "The versions.", body = IndexKeys), (status = 400, body = Problem, description = "The JSON is malformed."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only an admin may."),
    (status = 408, body = Problem, description = "The body came too slowly."), (status = 413, body = Problem, description = "The body is too large."),
    (status = 415, body = Problem, description = "The body is not JSON."), (status = 422, body = Problem, description = "The reason will not do."),
    (status = 503, body = Problem, description = "It could not be recorded, so nothing was changed.")))]
pub(super) async fn rotate_index(
    api: Data<Api>,
    caller: Caller,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::RotateKeys, Action::KEY_INDEX).await?;
    let reason = because(&api, &request, payload).await?;
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.rotate_index_key(&caller, reason)?)).await?))
}

/// Make a new key for tokens, approvals and holds as they rest
///
/// Every row is written again under it, in one commit. Tokens go on working; cursors of open searches end.
#[utoipa::path(post, path = "/v1/keys/rotate-state", tag = "Keys", request_body = BecauseIn, responses(
    (status = 200, description = "What was written again.", body = StateRotated), (status = 400, body = Problem, description = "The JSON is malformed."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only an admin may."),
    (status = 408, body = Problem, description = "The body came too slowly."), (status = 413, body = Problem, description = "The body is too large."),
    (status = 415, body = Problem, description = "The body is not JSON."), (status = 422, body = Problem, description = "The reason will not do."),
    (status = 503, body = Problem, description = "It could not be recorded, so nothing was changed.")))]
pub(super) async fn rotate_state(
    api: Data<Api>,
    caller: Caller,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::RotateKeys, Action::KEY_STATE).await?;
    let reason = because(&api, &request, payload).await?;
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.rotate_state_key(&caller, reason)?)).await?))
}

/// Move everything to the newest data key
///
/// In the background, at a bounded rate. Each value is opened and held against its commitment before it is sealed again; no leaf
/// changes, no proof breaks. After a stop another call goes on where this one was.
#[utoipa::path(post, path = "/v1/keys/re-encrypt", tag = "Keys", request_body = ReencryptIn, responses(
    (status = 202, description = "It goes on.", body = Reencryption), (status = 400, body = Problem, description = "The JSON is malformed."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only an admin may."),
    (status = 408, body = Problem, description = "The body came too slowly."), (status = 413, body = Problem, description = "The body is too large."),
    (status = 415, body = Problem, description = "The body is not JSON."), (status = 422, body = Problem, description = "The reason will not do, or one goes on already."),
    (status = 503, body = Problem, description = "It could not be recorded, so nothing is moved.")))]
pub(super) async fn reencrypt(
    api: Data<Api>,
    caller: Caller,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::RotateKeys, Action::KEY_REENCRYPT).await?;
    let body = body::read(&api, &request, payload, &[JSON], api.limits.body_bytes).await?;
    let asked: ReencryptIn = json::parse(&body)?;
    Ok(HttpResponse::Accepted().json(blocking(move || Ok(api.vault.reencrypt(&caller, asked)?)).await?))
}

/// How far the last re-encryption got
#[utoipa::path(get, path = "/v1/keys/re-encrypt", tag = "Keys", responses(
    (status = 200, description = "How far it got.", body = Reencryption), (status = 401, body = Problem, description = "The token is not valid."),
    (status = 403, body = Problem, description = "Only admins and auditors may.")))]
pub(super) async fn reencryption(api: Data<Api>, caller: Caller) -> ApiResult<HttpResponse> {
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.reencryption(&caller)?)).await?))
}
