//! Submitting and searching entries.

use std::sync::atomic::Ordering;
use std::time::Instant;

use actix_web::http::StatusCode;
use actix_web::web::{Data, Path, Payload, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::action::Action;
use crate::domain::batch;
use crate::domain::caller::{Caller, Permission};
use crate::domain::entry::{EntryView, Receipt};
use crate::domain::issue::Issue;
use crate::domain::json;
use crate::domain::query::QueryIn;
use crate::domain::submission::Submission;
use crate::vault::{Outcome, Proof, VaultError};

use super::body::{self, JSON, NDJSON};
use super::error::{ApiError, ApiResult, Problem};
use super::turn::Turn;
use super::{Api, Limits};

/// Bytes of an entry as applications send them.
const TYPICAL: usize = 512;

/// The answer to a submission.
#[derive(Serialize, ToSchema)]
pub(super) struct Submitted {
    /// The entry's place in the ledger.
    #[serde(flatten)]
    receipt: Receipt,
    /// Whether it was in before, with the same content.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
    /// The inclusion proof, if it was waited for and a checkpoint covered the entry in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<Proof>,
}

/// How one entry is taken.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SubmitParams {
    /// proof: answer when a signed checkpoint covers the entry (about a second), with the proof. The entry is in and safe all
    /// the same if that takes too long; then the answer carries none.
    #[param(pattern = "^proof$")]
    wait: Option<String>,
}

/// The answer to a batch.
#[derive(Serialize, ToSchema)]
pub(super) struct BatchResult {
    /// Entries that are in, now.
    accepted: usize,
    /// Entries that were in before.
    duplicates: usize,
    /// Lines that were refused; only with `partial=true`.
    refused: usize,
    /// One result a line, in order.
    results: Vec<LineResult>,
}

/// What became of one line.
#[derive(Serialize, ToSchema)]
pub(super) struct LineResult {
    /// The line, from 1.
    line: usize,
    /// accepted, duplicate or refused.
    status: &'static str,
    /// The entry's place in the ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<Receipt>,
    /// What was wrong with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Issue>,
}

/// How a batch is taken.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BatchParams {
    /// true: every good line goes in and each line has its own result. Without it: all lines or none.
    partial: Option<bool>,
}

/// One page of entries.
#[derive(Serialize, ToSchema)]
pub(super) struct EntryPage {
    /// The entries. A page may hold fewer than asked for; go on while `next` is there.
    entries: Vec<EntryView>,
    /// The cursor of the next page.
    next: Option<String>,
}

/// Submit one entry
///
/// A 201 means the entry is on disk, synced, and in the ledger. Sending the same again with the same id answers 200 and
/// the first receipt.
#[utoipa::path(post, path = "/v1/entries", tag = "Entries", params(SubmitParams), request_body = Submission, responses(
    (status = 201, description = "It is in.", body = Submitted),
    (status = 200, description = "It was in before, with the same content.", body = Submitted),
    (status = 400, description = "The JSON or a parameter is wrong.", body = Problem), (status = 401, body = Problem, description = "The token is not valid."),
    (status = 403, body = Problem, description = "Only a submitter may."), (status = 408, body = Problem, description = "The body came too slowly."),
    (status = 409, body = Problem, description = "The id was used before with other content, or its entry was erased by order since (entry_gone)."),
    (status = 413, body = Problem, description = "The body is too large."), (status = 415, body = Problem, description = "The body is not JSON."),
    (status = 422, body = Problem, description = "Something in it is not acceptable; errors says all of it."),
    (status = 503, body = Problem, description = "The vault is busy; send the same again.")))]
pub(super) async fn submit(
    api: Data<Api>,
    caller: Caller,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::Submit, Action::SUBMIT).await?;
    let wait = match params::<SubmitParams>(&request)?.wait.as_deref() {
        None => false,
        Some("proof") => true,
        Some(_) => return Err(Issue::new("wait", "parameter_invalid", "This parameter is proof, or absent.").into()),
    };
    let body = body::read(&api, &request, payload, &[JSON], api.limits.body_bytes).await?;
    let submission: Submission = json::parse(&body)?;
    drop(body);
    let (status, receipt) = match api.vault.submit(&caller, submission).await? {
        Outcome::Accepted(receipt) => (StatusCode::CREATED, receipt),
        Outcome::Duplicate(receipt) => (StatusCode::OK, receipt),
        Outcome::Refused(issues) => return Err(VaultError::Invalid(issues).into()),
    };
    let mut proof = None;
    if wait {
        let id = receipt.id;
        // Whatever keeps the proof from coming, the entry is in, and that must be answered.
        proof = blocking(move || Ok(api.vault.proof(&caller, id)?)).await.ok();
    }
    let duplicate = status == StatusCode::OK;
    Ok(HttpResponse::build(status).json(Submitted { receipt, duplicate, proof }))
}

/// Submit many entries
///
/// NDJSON (one submission a line) or a JSON array; up to 10,000 lines and 16 MiB. All lines go in or none, unless
/// `partial=true`.
#[utoipa::path(post, path = "/v1/entries/batch", tag = "Entries", params(BatchParams),
    request_body(content((Vec<Submission> = "application/json"), (String = "application/x-ndjson"))), responses(
    (status = 200, description = "What became of each line.", body = BatchResult),
    (status = 400, description = "The JSON is malformed.", body = Problem), (status = 401, body = Problem, description = "The token is not valid."),
    (status = 403, body = Problem, description = "Only a submitter may."), (status = 408, body = Problem, description = "The body came too slowly."),
    (status = 409, body = Problem, description = "An id was used before with other content, or its entry was erased by order since (entry_gone); nothing was stored."),
    (status = 413, body = Problem, description = "Too many bytes or lines."), (status = 415, body = Problem, description = "The body is neither NDJSON nor JSON."),
    (status = 422, body = Problem, description = "A line is not acceptable; nothing was stored."),
    (status = 503, body = Problem, description = "The vault is busy; send the same again.")))]
pub(super) async fn batch(
    api: Data<Api>,
    caller: Caller,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::Submit, Action::SUBMIT).await?;
    let params = params::<BatchParams>(&request)?;
    let payload = hope(&api, &caller, &request, payload).await?;
    let body = body::read(&api, &request, payload, &[NDJSON, JSON], api.limits.batch_bytes).await?;
    let is_array = body::media_type(&request) == JSON;
    let partial = params.partial.unwrap_or(false);
    let turn = turn(&api, &caller, body.len()).await?;
    let result = blocking(move || {
        let _turn = turn;
        let lines = if is_array {
            // How many there are is not known of what does not read; it cost no less.
            let broken = |_: &_| api.rates.charge(&caller, body.len() / TYPICAL, Instant::now());
            batch::array(&body, api.limits.batch_lines).inspect_err(broken)?
        } else {
            batch::ndjson(&body, api.limits.batch_lines)
        };
        check_count(lines.len(), api.limits.batch_lines)?;
        let submissions = lines.iter().map(|(_, text)| one(text, &api.limits));
        let outcomes = api.vault.submit_batch(&caller, submissions, partial);
        // What the vault had no room for is sent again, and costs then.
        if !matches!(outcomes, Err(VaultError::Full | VaultError::Busy)) {
            api.rates.charge(&caller, lines.len().saturating_sub(1), Instant::now());
        }
        let outcomes = outcomes?;
        let numbers: Vec<_> = lines.iter().map(|(number, _)| *number).collect();
        Ok(batch_result(&numbers, outcomes))
    });
    Ok(HttpResponse::Ok().json(result.await?))
}

/// Who finds no turn in time has lost nothing, and is told when to come back.
async fn turn(api: &Api, caller: &Caller, bytes: usize) -> ApiResult<Turn> {
    api.batches.take(&caller.token_id, bytes).await.ok_or_else(|| busy(api))
}

/// In an overload most are told before room is made for their body: it would be read for nothing, and comes again.
async fn hope(api: &Api, caller: &Caller, request: &HttpRequest, payload: Payload) -> ApiResult<Payload> {
    if !api.batches.are_hopeless(&caller.token_id) {
        return Ok(payload);
    }
    body::skip(api, request, payload).await;
    Err(busy(api))
}

fn busy(api: &Api) -> ApiError {
    api.vault.counters().busy.fetch_add(1, Ordering::Relaxed);
    ApiError::Vault(VaultError::Busy)
}

/// Search the trail
///
/// Newest first unless asked otherwise. The search is itself recorded, with its filter sealed.
#[utoipa::path(get, path = "/v1/entries", tag = "Trail", params(QueryIn), responses(
    (status = 200, description = "One page.", body = EntryPage), (status = 400, body = Problem, description = "A parameter is wrong."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only officers and auditors may."),
    (status = 503, body = Problem, description = "The search could not be recorded, so it was not made.")))]
pub(super) async fn search(api: Data<Api>, caller: Caller, request: HttpRequest) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::Search, Action::SEARCH).await?;
    let asked = params::<QueryIn>(&request)?;
    page(api, caller, asked).await
}

/// Search the trail, with the filter in the body
///
/// The same as `GET /v1/entries`, for filters that must not stand in a URL, such as a patient's id.
#[utoipa::path(post, path = "/v1/entries/query", tag = "Trail", request_body = QueryIn, responses(
    (status = 200, description = "One page.", body = EntryPage), (status = 400, body = Problem, description = "A parameter is wrong."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only officers and auditors may."),
    (status = 408, body = Problem, description = "The body came too slowly."), (status = 413, body = Problem, description = "The body is too large."),
    (status = 415, body = Problem, description = "The body is not JSON."), (status = 422, body = Problem, description = "A field is unknown or of the wrong type."),
    (status = 503, body = Problem, description = "The search could not be recorded, so it was not made.")))]
pub(super) async fn query(
    api: Data<Api>,
    caller: Caller,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::Search, Action::SEARCH).await?;
    let body = body::read(&api, &request, payload, &[JSON], api.limits.body_bytes).await?;
    let asked = json::parse(&body)?;
    page(api, caller, asked).await
}

/// The metadata of one entry
#[utoipa::path(get, path = "/v1/entries/{id}", tag = "Trail", params(("id" = Uuid, Path, description = "The entry.")), responses(
    (status = 200, description = "The metadata.", body = EntryView), (status = 401, body = Problem, description = "The token is not valid."),
    (status = 403, body = Problem, description = "Only officers and auditors may."), (status = 404, body = Problem, description = "There is no such entry."),
    (status = 503, body = Problem, description = "The access could not be recorded, so it was not made.")))]
pub(super) async fn entry(api: Data<Api>, caller: Caller, id: Path<String>) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::Search, Action::SEARCH).await?;
    let id = entry_id(&id)?;
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.entry(&caller, id)?)).await?))
}

async fn page(api: Data<Api>, caller: Caller, asked: QueryIn) -> ApiResult<HttpResponse> {
    let page = blocking(move || Ok(api.vault.search(&caller, asked)?)).await?;
    Ok(HttpResponse::Ok().json(EntryPage { entries: page.entries, next: page.next }))
}

/// Refuses a wrong role before anything of its input is read. Recording the denial blocks, so it is done off the async
/// threads.
pub(super) async fn may(api: &Data<Api>, caller: &Caller, permission: Permission, action: Action) -> ApiResult<()> {
    if caller.role.may(permission) {
        return Ok(());
    }
    let (api, caller) = (api.clone(), caller.clone());
    blocking(move || Ok(api.vault.may(&caller, permission, action)?)).await
}

/// Runs what blocks off the async threads.
pub(super) async fn blocking<T: Send + 'static>(run: impl FnOnce() -> ApiResult<T> + Send + 'static) -> ApiResult<T> {
    actix_web::web::block(run).await.map_err(|_| ApiError::Vault(VaultError::Unknown))?
}

/// Reads query parameters; what is unknown or wrong is named.
pub(super) fn params<T: serde::de::DeserializeOwned>(request: &HttpRequest) -> ApiResult<T> {
    Query::<T>::from_query(request.query_string()).map(Query::into_inner).map_err(|error| {
        let text = match &error {
            actix_web::error::QueryPayloadError::Deserialize(error) => error.to_string(),
            _ => String::new(),
        };
        let mut issue = json::classify("", &text);
        issue.pointer = issue.pointer.trim_start_matches('/').to_owned();
        if issue.pointer.is_empty() {
            issue.pointer = "query".into();
        }
        issue.into()
    })
}

/// The id in a path. Something that is no UUID names no entry.
pub(super) fn entry_id(text: &str) -> ApiResult<Uuid> {
    Uuid::try_parse(text).ok().filter(|_| text.len() == 36).ok_or(ApiError::Vault(VaultError::NotFound))
}

/// One submission of a batch; it is bounded like one that comes alone.
fn one(text: &[u8], limits: &Limits) -> Result<Submission, Issue> {
    if text.len() > limits.body_bytes {
        let detail = format!("One submission is limited to {} bytes.", limits.body_bytes);
        return Err(Issue::new("", "too_large", detail));
    }
    json::parse(text)
}

fn check_count(count: usize, most: usize) -> ApiResult<()> {
    if count == 0 {
        return Err(Issue::new("", "empty", "The batch holds no submission.").into());
    }
    if count > most {
        let detail = format!("A batch holds at most {most} submissions; nothing was taken. Send it in parts.");
        return Err(ApiError::http(StatusCode::PAYLOAD_TOO_LARGE, "too_many_lines", detail));
    }
    Ok(())
}

fn batch_result(numbers: &[usize], outcomes: Vec<Outcome>) -> BatchResult {
    let mut result =
        BatchResult { accepted: 0, duplicates: 0, refused: 0, results: Vec::with_capacity(outcomes.len()) };
    for (line, outcome) in numbers.iter().copied().zip(outcomes) {
        let (status, receipt, errors) = match outcome {
            Outcome::Accepted(receipt) => {
                result.accepted += 1;
                ("accepted", Some(receipt), Vec::new())
            }
            Outcome::Duplicate(receipt) => {
                result.duplicates += 1;
                ("duplicate", Some(receipt), Vec::new())
            }
            Outcome::Refused(issues) => {
                result.refused += 1;
                ("refused", None, issues)
            }
        };
        result.results.push(LineResult { line, status, receipt, errors });
    }
    result
}
