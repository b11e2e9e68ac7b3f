//! Revealing values.

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::entry::Revealed;
use crate::domain::issue::Issue;
use crate::domain::json;
use crate::domain::submission::{ReasonIn, object};
use crate::vault::{Disclosure, MAX_REVEAL};

use super::Api;
use super::body::{self, JSON};
use super::entries::{blocking, entry_id, may};
use super::error::{ApiResult, Problem};

/// Why one entry is revealed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"reason": {"code": "HCOMPL", "note": "Case 2026-117"}}))]
pub(super) struct RevealIn {
    /// The reason.
    #[serde(default, deserialize_with = "object")]
    reason: Option<ReasonIn>,
}

/// Which entries are revealed, and why.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RevealManyIn {
    /// Up to 1,000 entries.
    #[schema(value_type = Vec<Uuid>)]
    ids: Option<Vec<String>>,
    /// The reason.
    #[serde(default, deserialize_with = "object")]
    reason: Option<ReasonIn>,
}

/// Revealed entries.
#[derive(Serialize, ToSchema)]
pub(super) struct RevealedMany {
    /// In the order asked for.
    entries: Vec<Revealed>,
}

/// Reveal the values of one entry
///
/// The reveal is recorded, on disk, before the values leave; if it cannot be recorded, it does not happen.
#[utoipa::path(post, path = "/v1/entries/{id}/reveal", tag = "Trail", params(("id" = Uuid, Path, description = "The entry.")), request_body = RevealIn, responses(
    (status = 200, description = "The values.", body = Revealed), (status = 400, body = Problem, description = "The JSON is malformed."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only an officer may."),
    (status = 404, body = Problem, description = "There is no such entry."), (status = 408, body = Problem, description = "The body came too slowly."),
    (status = 410, body = Problem, description = "The key was destroyed."), (status = 413, body = Problem, description = "The body is too large."),
    (status = 415, body = Problem, description = "The body is not JSON."), (status = 422, body = Problem, description = "The reason will not do."),
    (status = 503, body = Problem, description = "The reveal could not be recorded, so nothing is shown.")))]
pub(super) async fn one(
    api: Data<Api>,
    caller: Caller,
    id: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::Reveal, Action::REVEAL).await?;
    let id = entry_id(&id)?;
    let body = body::read(&api, &request, payload, &[JSON], api.limits.body_bytes).await?;
    let asked: RevealIn = json::parse(&body)?;
    let mut revealed =
        blocking(move || Ok(api.vault.reveal(&caller, &[id], asked.reason.unwrap_or_default())?)).await?;
    Ok(HttpResponse::Ok().json(revealed.pop()))
}

/// Reveal the values of many entries
///
/// All or none, recorded as one entry that names each patient.
#[utoipa::path(post, path = "/v1/reveal", tag = "Trail", request_body = RevealManyIn, responses(
    (status = 200, description = "The values.", body = RevealedMany), (status = 400, body = Problem, description = "The JSON is malformed."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only an officer may."),
    (status = 404, body = Problem, description = "One of them does not exist."), (status = 408, body = Problem, description = "The body came too slowly."),
    (status = 410, body = Problem, description = "The key of one was destroyed."), (status = 413, body = Problem, description = "The body is too large."),
    (status = 415, body = Problem, description = "The body is not JSON."), (status = 422, body = Problem, description = "The reason or the list will not do."),
    (status = 503, body = Problem, description = "The reveal could not be recorded, so nothing is shown.")))]
pub(super) async fn many(
    api: Data<Api>,
    caller: Caller,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::Reveal, Action::REVEAL).await?;
    let body = body::read(&api, &request, payload, &[JSON], api.limits.body_bytes).await?;
    let asked: RevealManyIn = json::parse(&body)?;
    let ids = asked.ids.unwrap_or_default();
    if ids.len() > MAX_REVEAL {
        return Err(Issue::new("/ids", "too_many", format!("Name 1 to {MAX_REVEAL} entries.")).into());
    }
    let parse = |(n, id): (usize, &String)| {
        entry_id(id).map_err(|_| Issue::new(format!("/ids/{n}"), "id_invalid", "An id is a UUID."))
    };
    let ids = ids.iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
    let entries = blocking(move || Ok(api.vault.reveal(&caller, &ids, asked.reason.unwrap_or_default())?)).await?;
    Ok(HttpResponse::Ok().json(RevealedMany { entries }))
}

/// Which values of an entry are disclosed, and why.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"paths": ["changes/0/new"], "reason": {"code": "HLEGAL"}}))]
pub(super) struct DiscloseIn {
    /// Their paths, such as changes/0/new, note or actor/name.
    paths: Option<Vec<String>>,
    /// The reason.
    #[serde(default, deserialize_with = "object")]
    reason: Option<ReasonIn>,
}

/// Disclose values of one entry, provably
///
/// For a court or an auditor outside: the values asked for with their salts, checkable against the ledger offline
/// (`phivault verify-disclosure`); the entry's other values stay closed. Recorded first, like a reveal.
#[utoipa::path(post, path = "/v1/entries/{id}/disclose", tag = "Trail", params(("id" = Uuid, Path, description = "The entry.")), request_body = DiscloseIn, responses(
    (status = 200, description = "The disclosure.", body = Disclosure), (status = 400, body = Problem, description = "The JSON is malformed."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only an officer may."),
    (status = 404, body = Problem, description = "There is no such entry."), (status = 408, body = Problem, description = "The body came too slowly."),
    (status = 410, body = Problem, description = "The key was destroyed."), (status = 413, body = Problem, description = "The body is too large."),
    (status = 415, body = Problem, description = "The body is not JSON."), (status = 422, body = Problem, description = "The reason or the paths will not do."),
    (status = 503, body = Problem, description = "It could not be recorded, so nothing is shown.")))]
pub(super) async fn disclose(
    api: Data<Api>,
    caller: Caller,
    id: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::Reveal, Action::REVEAL).await?;
    let id = entry_id(&id)?;
    let body = body::read(&api, &request, payload, &[JSON], api.limits.body_bytes).await?;
    let asked: DiscloseIn = json::parse(&body)?;
    let (paths, reason) = (asked.paths.unwrap_or_default(), asked.reason.unwrap_or_default());
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.disclose(&caller, id, &paths, reason)?)).await?))
}
