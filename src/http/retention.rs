//! Retention and legal holds.

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::json;
use crate::vault::{Certificate, Hold, HoldIn, RetentionPlan, VaultError};

use super::Api;
use super::body::{self, JSON};
use super::entries::{blocking, may};
use super::error::{ApiResult, Problem};
use super::keys::{BecauseIn, because};

/// All holds.
#[derive(Serialize, ToSchema)]
pub(super) struct HoldList {
    /// Newest first.
    holds: Vec<Hold>,
}

/// What falls due, and what holds block
#[utoipa::path(get, path = "/v1/retention/plan", tag = "Retention", responses(
    (status = 200, description = "All buckets, those due first.", body = RetentionPlan), (status = 401, body = Problem, description = "The token is not valid."),
    (status = 403, body = Problem, description = "Only officers, auditors and admins may."), (status = 503, body = Problem, description = "Busy, or it could not be recorded.")))]
pub(super) async fn plan(api: Data<Api>, caller: Caller) -> ApiResult<HttpResponse> {
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.retention_plan(&caller)?)).await?))
}

/// The certificate of a disposal
#[utoipa::path(get, path = "/v1/retention/certificates/{id}", tag = "Retention", params(("id" = String, Path, description = "The certificate's id.")), responses(
    (status = 200, description = "The signed certificate.", body = Certificate), (status = 401, body = Problem, description = "The token is not valid."),
    (status = 403, body = Problem, description = "Only officers, auditors and admins may."), (status = 404, body = Problem, description = "There is no such certificate."),
    (status = 503, body = Problem, description = "It could not be recorded.")))]
pub(super) async fn certificate(api: Data<Api>, caller: Caller, id: Path<String>) -> ApiResult<HttpResponse> {
    let id = Uuid::parse_str(&id).map_err(|_| VaultError::NotFound)?;
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.certificate(&caller, id)?)).await?))
}

/// List legal holds
#[utoipa::path(get, path = "/v1/holds", tag = "Retention", responses(
    (status = 200, description = "All holds.", body = HoldList), (status = 401, body = Problem, description = "The token is not valid."),
    (status = 403, body = Problem, description = "Only officers and auditors may."), (status = 503, body = Problem, description = "It could not be recorded.")))]
pub(super) async fn holds(api: Data<Api>, caller: Caller) -> ApiResult<HttpResponse> {
    let holds = blocking(move || Ok(api.vault.list_holds(&caller)?)).await?;
    Ok(HttpResponse::Ok().json(HoldList { holds }))
}

/// Place a legal hold
///
/// From now on nothing that it covers is disposed of or erased, until it is lifted.
#[utoipa::path(post, path = "/v1/holds", tag = "Retention", request_body = HoldIn, responses(
    (status = 201, description = "The hold.", body = Hold), (status = 400, body = Problem, description = "The JSON is malformed."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only an officer may."),
    (status = 408, body = Problem, description = "The body came too slowly."), (status = 413, body = Problem, description = "The body is too large."),
    (status = 415, body = Problem, description = "The body is not JSON."), (status = 422, body = Problem, description = "Something in it will not do."),
    (status = 503, body = Problem, description = "It could not be recorded, so there is no hold.")))]
pub(super) async fn place(
    api: Data<Api>,
    caller: Caller,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::ManageHolds, Action::HOLD_PLACE).await?;
    let body = body::read(&api, &request, payload, &[JSON], api.limits.body_bytes).await?;
    let asked: HoldIn = json::parse(&body)?;
    Ok(HttpResponse::Created().json(blocking(move || Ok(api.vault.place_hold(&caller, asked)?)).await?))
}

/// Lift a legal hold
#[utoipa::path(post, path = "/v1/holds/{id}/lift", tag = "Retention", params(("id" = String, Path, description = "The hold's id.")), request_body = BecauseIn, responses(
    (status = 200, description = "The hold, lifted.", body = Hold), (status = 400, body = Problem, description = "The JSON is malformed."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only an officer may."),
    (status = 404, body = Problem, description = "There is no such hold."),
    (status = 408, body = Problem, description = "The body came too slowly."), (status = 413, body = Problem, description = "The body is too large."),
    (status = 415, body = Problem, description = "The body is not JSON."), (status = 422, body = Problem, description = "It was lifted already."),
    (status = 503, body = Problem, description = "It could not be recorded, so it still holds.")))]
pub(super) async fn lift(
    api: Data<Api>,
    caller: Caller,
    id: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::ManageHolds, Action::HOLD_LIFT).await?;
    let reason = because(&api, &request, payload).await?;
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.lift_hold(&caller, &id, reason)?)).await?))
}
