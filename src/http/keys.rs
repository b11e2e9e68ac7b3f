//! Data-key versions.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::json;
use crate::domain::submission::{ReasonIn, object};
use crate::vault::{KeyList, Rotated, SigningRotated};

use super::Api;
use super::body::{self, JSON};
use super::entries::{blocking, may};
use super::error::{ApiResult, Problem};

/// Why keys are rotated.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"reason": {"code": "HSYSADMIN", "note": "Quarterly rotation"}}))]
pub(super) struct RotateIn {
    /// The reason.
    #[serde(default, deserialize_with = "object")]
    reason: Option<ReasonIn>,
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
#[utoipa::path(post, path = "/v1/keys/rotate", tag = "Keys", request_body = RotateIn, responses(
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
    let body = body::read(&api, &request, payload, &[JSON], api.limits.body_bytes).await?;
    let asked: RotateIn = json::parse(&body)?;
    Ok(HttpResponse::Ok()
        .json(blocking(move || Ok(api.vault.rotate_keys(&caller, asked.reason.unwrap_or_default())?)).await?))
}

/// Change the key that signs checkpoints
///
/// An entry announces the new public key; one checkpoint is signed by both. Older checkpoints and receipts stay valid under the
/// older key. Give the new public key to whoever verifies.
#[utoipa::path(post, path = "/v1/keys/rotate-signing", tag = "Keys", request_body = RotateIn, responses(
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
    let body = body::read(&api, &request, payload, &[JSON], api.limits.body_bytes).await?;
    let asked: RotateIn = json::parse(&body)?;
    let reason = asked.reason.unwrap_or_default();
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.rotate_signing_key(&caller, reason)?)).await?))
}
