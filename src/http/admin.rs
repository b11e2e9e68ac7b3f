//! What takes two administrators: asking, approving, cancelling.

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::json;
use crate::domain::submission::{ReasonIn, object};
use crate::vault::{Approval, Asked, Done, Operation};

use super::Api;
use super::body::{self, JSON};
use super::entries::{blocking, may};
use super::error::{ApiResult, Problem};
use super::keys::{BecauseIn, because};

/// What is asked for, and why.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"request": {"operation": "key_destroy", "version": 1}, "reason": {"code": "HSYSADMIN"}}))]
pub(super) struct OperationIn {
    /// What.
    request: Operation,
    /// Why.
    #[serde(default, deserialize_with = "object")]
    reason: Option<ReasonIn>,
}

/// All requests.
#[derive(Serialize, ToSchema)]
pub(super) struct ApprovalList {
    /// Newest first.
    approvals: Vec<Approval>,
}

/// Ask for what cannot be undone
///
/// Destroying a key, disposing of a bucket, erasing an entry's values, changing a slot of the keyring, adding an administrator: it
/// waits for another administrator (202), or is done at once (200) where the vault has switched that off.
#[utoipa::path(post, path = "/v1/admin/operations", tag = "Approvals", request_body = OperationIn, responses(
    (status = 200, description = "It is done.", body = Done), (status = 202, description = "It waits for another administrator.", body = Approval),
    (status = 400, body = Problem, description = "The JSON is malformed."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only an admin may."),
    (status = 404, body = Problem, description = "There is no such entry."),
    (status = 408, body = Problem, description = "The body came too slowly."), (status = 413, body = Problem, description = "The body is too large."),
    (status = 415, body = Problem, description = "The body is not JSON."), (status = 422, body = Problem, description = "It cannot be done as things are; says why."),
    (status = 503, body = Problem, description = "It could not be recorded, so nothing was done.")))]
pub(super) async fn ask(
    api: Data<Api>,
    caller: Caller,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::Approve, Action::APPROVAL).await?;
    let body = body::read(&api, &request, payload, &[JSON], api.limits.body_bytes).await?;
    let asked: OperationIn = json::parse(&body)?;
    let reason = asked.reason.unwrap_or_default();
    let asked = blocking(move || Ok(api.vault.ask(&caller, asked.request, reason)?)).await?;
    Ok(match asked {
        Asked::Pending(_) => HttpResponse::Accepted().json(asked),
        Asked::Done(_) => HttpResponse::Ok().json(asked),
    })
}

/// List what was asked for
#[utoipa::path(get, path = "/v1/approvals", tag = "Approvals", responses(
    (status = 200, description = "All requests.", body = ApprovalList), (status = 401, body = Problem, description = "The token is not valid."),
    (status = 403, body = Problem, description = "Only admins and auditors may."), (status = 503, body = Problem, description = "It could not be recorded.")))]
pub(super) async fn list(api: Data<Api>, caller: Caller) -> ApiResult<HttpResponse> {
    let approvals = blocking(move || Ok(api.vault.list_approvals(&caller)?)).await?;
    Ok(HttpResponse::Ok().json(ApprovalList { approvals }))
}

/// Approve what another administrator asked for
///
/// It is done before this answers. The answer is what was done.
#[utoipa::path(post, path = "/v1/approvals/{id}/approve", tag = "Approvals", params(("id" = String, Path, description = "The request's id.")), request_body = BecauseIn, responses(
    (status = 200, description = "It is done.", body = Done), (status = 400, body = Problem, description = "The JSON is malformed."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only an admin may."),
    (status = 404, body = Problem, description = "There is no such request."),
    (status = 408, body = Problem, description = "The body came too slowly."), (status = 413, body = Problem, description = "The body is too large."),
    (status = 415, body = Problem, description = "The body is not JSON."), (status = 422, body = Problem, description = "It is one's own, too late, or cannot be done any more."),
    (status = 503, body = Problem, description = "It could not be recorded, so nothing was done.")))]
pub(super) async fn approve(
    api: Data<Api>,
    caller: Caller,
    id: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::Approve, Action::APPROVAL).await?;
    let reason = because(&api, &request, payload).await?;
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.approve(&caller, &id, reason)?)).await?))
}

/// Cancel a request
#[utoipa::path(post, path = "/v1/approvals/{id}/cancel", tag = "Approvals", params(("id" = String, Path, description = "The request's id.")), request_body = BecauseIn, responses(
    (status = 200, description = "It is cancelled.", body = Approval), (status = 400, body = Problem, description = "The JSON is malformed."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only an admin may."),
    (status = 404, body = Problem, description = "There is no such request."),
    (status = 408, body = Problem, description = "The body came too slowly."), (status = 413, body = Problem, description = "The body is too large."),
    (status = 415, body = Problem, description = "The body is not JSON."), (status = 422, body = Problem, description = "It was decided already."),
    (status = 503, body = Problem, description = "It could not be recorded.")))]
pub(super) async fn cancel(
    api: Data<Api>,
    caller: Caller,
    id: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::Approve, Action::APPROVAL).await?;
    let reason = because(&api, &request, payload).await?;
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.cancel_approval(&caller, &id, reason)?)).await?))
}
