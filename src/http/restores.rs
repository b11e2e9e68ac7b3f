//! A way back for a record: plans, their approval, and the application's confirmation.

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::entry::Receipt;
use crate::domain::json;
use crate::vault::{ConfirmIn, Plan, PlanView, RecordName, RestoreIn};

use super::Api;
use super::body::{self, JSON};
use super::entries::{blocking, may};
use super::error::{ApiResult, Problem};
use super::keys::{BecauseIn, because};

/// All plans.
#[derive(Serialize, ToSchema)]
pub(super) struct PlanList {
    /// Newest first, without values.
    plans: Vec<Plan>,
}

/// Plan to restore a record
///
/// To what it was at a time or position, or without one entry. The answer holds the exact changes to make and names what conflicts;
/// nothing is applied. Another officer approves the plan, then the application that owns the record fetches, applies and confirms it.
#[utoipa::path(post, path = "/v1/records/{type}/{id}/restore", tag = "History", params(("type" = String, Path, description = "The record's type."), ("id" = String, Path, description = "The record's id.")), request_body = RestoreIn, responses(
    (status = 201, description = "The plan.", body = PlanView), (status = 400, body = Problem, description = "The JSON is malformed."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only an officer may."),
    (status = 404, body = Problem, description = "The vault knows no change of this record."), (status = 408, body = Problem, description = "The body came too slowly."),
    (status = 410, body = Problem, description = "Values that are needed were disposed of."),
    (status = 413, body = Problem, description = "The body is too large."), (status = 415, body = Problem, description = "The body is not JSON."),
    (status = 422, body = Problem, description = "There is nothing to restore, or something in it will not do."),
    (status = 503, body = Problem, description = "Busy, or it could not be recorded, so there is no plan.")))]
pub(super) async fn plan(
    api: Data<Api>,
    caller: Caller,
    record: Path<(String, String)>,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::PlanRestore, Action::RESTORE_PLAN).await?;
    let body = body::read(&api, &request, payload, &[JSON], api.limits.body_bytes).await?;
    let asked: RestoreIn = json::parse(&body)?;
    let (kind, id) = record.into_inner();
    let make = move || Ok(api.vault.plan_restore(&caller, RecordName { kind, id }, asked)?);
    Ok(HttpResponse::Created().json(blocking(make).await?))
}

/// List plans
#[utoipa::path(get, path = "/v1/restores", tag = "History", responses(
    (status = 200, description = "All plans.", body = PlanList), (status = 401, body = Problem, description = "The token is not valid."),
    (status = 403, body = Problem, description = "Only an officer may."), (status = 503, body = Problem, description = "It could not be recorded.")))]
pub(super) async fn list(api: Data<Api>, caller: Caller) -> ApiResult<HttpResponse> {
    let plans = blocking(move || Ok(api.vault.list_plans(&caller)?)).await?;
    Ok(HttpResponse::Ok().json(PlanList { plans }))
}

/// Fetch a plan with the changes to make
///
/// For officers, and for the application that owns the record once the plan is approved. It is recorded.
#[utoipa::path(get, path = "/v1/restores/{id}", tag = "History", params(("id" = String, Path, description = "The plan's id.")), responses(
    (status = 200, description = "The plan.", body = PlanView), (status = 401, body = Problem, description = "The token is not valid."),
    (status = 403, body = Problem, description = "Only officers and submitters may."), (status = 404, body = Problem, description = "There is no such plan for this caller."),
    (status = 410, body = Problem, description = "Its values were disposed of."), (status = 422, body = Problem, description = "It is not approved, or the record moved on."),
    (status = 503, body = Problem, description = "It could not be recorded, so nothing is shown.")))]
pub(super) async fn fetch(api: Data<Api>, caller: Caller, id: Path<String>) -> ApiResult<HttpResponse> {
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.fetch_plan(&caller, &id)?)).await?))
}

/// Approve a plan of another officer
#[utoipa::path(post, path = "/v1/restores/{id}/approve", tag = "History", params(("id" = String, Path, description = "The plan's id.")), request_body = BecauseIn, responses(
    (status = 200, description = "The plan, approved.", body = Plan), (status = 400, body = Problem, description = "The JSON is malformed."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only an officer may."),
    (status = 404, body = Problem, description = "There is no such plan."), (status = 408, body = Problem, description = "The body came too slowly."),
    (status = 413, body = Problem, description = "The body is too large."), (status = 415, body = Problem, description = "The body is not JSON."),
    (status = 422, body = Problem, description = "One's own, too late, or the record moved on."), (status = 503, body = Problem, description = "It could not be recorded.")))]
pub(super) async fn approve(
    api: Data<Api>,
    caller: Caller,
    id: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::PlanRestore, Action::RESTORE_PLAN).await?;
    let reason = because(&api, &request, payload).await?;
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.approve_plan(&caller, &id, reason)?)).await?))
}

/// Cancel a plan
#[utoipa::path(post, path = "/v1/restores/{id}/cancel", tag = "History", params(("id" = String, Path, description = "The plan's id.")), request_body = BecauseIn, responses(
    (status = 200, description = "The plan, cancelled.", body = Plan), (status = 400, body = Problem, description = "The JSON is malformed."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only an officer may."),
    (status = 404, body = Problem, description = "There is no such plan."), (status = 408, body = Problem, description = "The body came too slowly."),
    (status = 413, body = Problem, description = "The body is too large."), (status = 415, body = Problem, description = "The body is not JSON."),
    (status = 422, body = Problem, description = "It was decided already."), (status = 503, body = Problem, description = "It could not be recorded.")))]
pub(super) async fn cancel(
    api: Data<Api>,
    caller: Caller,
    id: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::PlanRestore, Action::RESTORE_PLAN).await?;
    let reason = because(&api, &request, payload).await?;
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.cancel_plan(&caller, &id, reason)?)).await?))
}

/// Confirm that a plan was applied
///
/// By the application that owns the record, after it made the changes. It becomes an entry with the action restore, linked to the
/// plan and to the entries it goes back to. Asking again answers the same receipt.
#[utoipa::path(post, path = "/v1/restores/{id}/confirm", tag = "History", params(("id" = String, Path, description = "The plan's id.")), request_body = ConfirmIn, responses(
    (status = 201, description = "The entry that confirms it.", body = Receipt), (status = 400, body = Problem, description = "The JSON is malformed."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only a submitter may."),
    (status = 404, body = Problem, description = "There is no such plan for this application."), (status = 408, body = Problem, description = "The body came too slowly."),
    (status = 410, body = Problem, description = "Its values were disposed of."), (status = 413, body = Problem, description = "The body is too large."),
    (status = 415, body = Problem, description = "The body is not JSON."), (status = 422, body = Problem, description = "It is not approved, too late, or the record moved on."),
    (status = 503, body = Problem, description = "It could not be recorded.")))]
pub(super) async fn confirm(
    api: Data<Api>,
    caller: Caller,
    id: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::Submit, Action::RESTORE_PLAN).await?;
    let body = body::read(&api, &request, payload, &[JSON], api.limits.body_bytes).await?;
    let said: ConfirmIn = json::parse(&body)?;
    Ok(HttpResponse::Created().json(blocking(move || Ok(api.vault.confirm_plan(&caller, &id, said)?)).await?))
}
