//! Reports as files: made, kept, made again, with a signed manifest; and the review of entries.

use actix_web::http::header;
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::document::Document;
use crate::domain::issue::Issue;
use crate::domain::json;
use crate::report::{self, Format};
use crate::vault::{KeptReport, ReportIn, ReviewIn, Reviewed, VaultError};

use super::Api;
use super::body::{self, JSON};
use super::entries::{blocking, may, params};
use super::error::{ApiResult, Problem};

/// As what file.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FileParams {
    /// json (default), csv, html or pdf.
    format: Option<String>,
}

/// The reports that are kept.
#[derive(Serialize, ToSchema)]
pub(super) struct ReportList {
    /// Newest first.
    reports: Vec<KeptReport>,
}

/// The manifest of a file.
#[derive(Serialize, ToSchema)]
pub(super) struct Manifest {
    /// The report.
    id: Uuid,
    /// A C2SP signed note: `phivault verify-report` holds a file against it.
    text: String,
}

/// Make a report
///
/// It is recorded before it is made, kept with its parameters, and can be fetched again, as JSON, CSV, HTML or PDF, to the same bytes.
/// Reports: access, users, patient, disclosures, break-glass, review, logins, reasons, privileged, integrity, continuity, values.
#[utoipa::path(post, path = "/v1/reports", tag = "Reports", request_body = ReportIn, responses(
    (status = 201, description = "What is kept of it; GET /v1/reports/{id} gives the file.", body = KeptReport), (status = 400, body = Problem, description = "The JSON is malformed."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only officers, auditors and patients may; disclosures and values only officers, patients only their own."),
    (status = 408, body = Problem, description = "The body came too slowly."), (status = 413, body = Problem, description = "The body is too large."),
    (status = 415, body = Problem, description = "The body is not JSON."), (status = 422, body = Problem, description = "Something in it will not do."),
    (status = 503, body = Problem, description = "Busy, or it could not be recorded, so it was not made.")))]
pub(super) async fn make(
    api: Data<Api>,
    caller: Caller,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::MakeReport, Action::REPORT).await?;
    let body = body::read(&api, &request, payload, &[JSON], api.limits.body_bytes).await?;
    let asked: ReportIn = json::parse(&body)?;
    let (kept, _) = blocking(move || Ok(api.vault.make_report(&caller, asked)?)).await?;
    Ok(HttpResponse::Created().json(kept))
}

/// List the reports that are kept
#[utoipa::path(get, path = "/v1/reports", tag = "Reports", responses(
    (status = 200, description = "Newest first.", body = ReportList), (status = 401, body = Problem, description = "The token is not valid."),
    (status = 403, body = Problem, description = "Only officers and auditors may."), (status = 503, body = Problem, description = "It could not be recorded.")))]
pub(super) async fn list(api: Data<Api>, caller: Caller) -> ApiResult<HttpResponse> {
    let reports = blocking(move || Ok(api.vault.list_reports(&caller)?)).await?;
    Ok(HttpResponse::Ok().json(ReportList { reports }))
}

/// Fetch a report
///
/// It is made again from the same entries, to the same bytes. Where values or ids that it showed were disposed of since, it answers 410.
#[utoipa::path(get, path = "/v1/reports/{id}", tag = "Reports", params(("id" = String, Path, description = "The report's id."), FileParams), responses(
    (status = 200, description = "The file.", content((serde_json::Value = "application/json"), (String = "text/csv"), (String = "text/html"), (String = "application/pdf"))),
    (status = 400, body = Problem, description = "A parameter is wrong."), (status = 401, body = Problem, description = "The token is not valid."),
    (status = 403, body = Problem, description = "Only officers, auditors and patients may; disclosures and values only officers, patients only their own."), (status = 404, body = Problem, description = "There is no such report."),
    (status = 410, body = Problem, description = "What it showed was disposed of."), (status = 422, body = Problem, description = "The report cannot be made any more."),
    (status = 503, body = Problem, description = "Busy, or it could not be recorded.")))]
pub(super) async fn fetch(
    api: Data<Api>,
    caller: Caller,
    id: Path<String>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::MakeReport, Action::REPORT).await?;
    let format = format(&request)?;
    let (kept, file) = again(api, caller, &id, format).await?;
    let day = &kept.made_at.to_string()[..10];
    let zone = kept.parameters.zone().to_string().replace(':', "");
    let name = format!("{}_{day}_UTC{zone}.{}", kept.report.name(), format.name());
    let mut answer = HttpResponse::Ok();
    answer.insert_header((header::CONTENT_TYPE, format.media_type()));
    if format == Format::Html {
        answer.insert_header((header::CONTENT_SECURITY_POLICY, report::html::POLICY));
    } else {
        answer.insert_header((header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")));
    }
    Ok(answer.body(file))
}

/// The signed manifest of a report's file
#[utoipa::path(get, path = "/v1/reports/{id}/manifest", tag = "Reports", params(("id" = String, Path, description = "The report's id."), FileParams), responses(
    (status = 200, description = "The manifest of the file in that format.", body = Manifest), (status = 400, body = Problem, description = "A parameter is wrong."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only officers, auditors and patients may; disclosures and values only officers, patients only their own."),
    (status = 404, body = Problem, description = "There is no such report."), (status = 410, body = Problem, description = "What it showed was disposed of."),
    (status = 422, body = Problem, description = "The report cannot be made any more."), (status = 503, body = Problem, description = "Busy, or it could not be recorded.")))]
pub(super) async fn manifest(
    api: Data<Api>,
    caller: Caller,
    id: Path<String>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::MakeReport, Action::REPORT).await?;
    let format = format(&request)?;
    let (kept, file) = again(api.clone(), caller, &id, format).await?;
    let text = blocking(move || Ok(api.vault.report_manifest(&kept, format.name(), &file)?)).await?;
    let id = Uuid::parse_str(&id).map_err(|_| VaultError::NotFound)?;
    Ok(HttpResponse::Ok().json(Manifest { id, text }))
}

/// Sign off entries that were reviewed
#[utoipa::path(post, path = "/v1/reviews", tag = "Reports", request_body = ReviewIn, responses(
    (status = 201, description = "The entry that records it.", body = Reviewed), (status = 400, body = Problem, description = "The JSON is malformed."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only an officer may."),
    (status = 404, body = Problem, description = "One of the entries is not there."),
    (status = 408, body = Problem, description = "The body came too slowly."), (status = 413, body = Problem, description = "The body is too large."),
    (status = 415, body = Problem, description = "The body is not JSON."), (status = 422, body = Problem, description = "Something in it will not do."),
    (status = 503, body = Problem, description = "It could not be recorded.")))]
pub(super) async fn review(
    api: Data<Api>,
    caller: Caller,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::Review, Action::REVIEW).await?;
    let body = body::read(&api, &request, payload, &[JSON], api.limits.body_bytes).await?;
    let asked: ReviewIn = json::parse(&body)?;
    Ok(HttpResponse::Created().json(blocking(move || Ok(api.vault.review(&caller, asked)?)).await?))
}

fn format(request: &HttpRequest) -> ApiResult<Format> {
    let params = params::<FileParams>(request)?;
    let wrong = || Issue::new("format", "parameter_invalid", "This parameter is json, csv, html or pdf.").into();
    Format::parse(params.format.as_deref().unwrap_or("json")).ok_or_else(wrong)
}

async fn again(api: Data<Api>, caller: Caller, id: &str, format: Format) -> ApiResult<(KeptReport, Vec<u8>)> {
    let id = Uuid::parse_str(id).map_err(|_| VaultError::NotFound)?;
    blocking(move || {
        let (kept, document): (KeptReport, Document) = api.vault.remake_report(&caller, id)?;
        let file = report::render(&document, format).map_err(|error| {
            tracing::error!(error, format = format.name(), "a report could not be rendered");
            Issue::new("", "not_rendered", "The report cannot be made in this format; the others hold the same.")
        })?;
        Ok((kept, file))
    })
    .await
}
