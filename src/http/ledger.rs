//! The ledger's evidence: hashes and signatures, and the exact bytes of a leaf.

use actix_web::http::{StatusCode, header};
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::issue::Issue;
use crate::domain::json;
use crate::vault::{Consistency, Leaf, Proof, TileName, Trail, TrailIn};

use super::Api;
use super::body::{self, JSON};
use super::entries::{blocking, entry_id, may, params};
use super::error::{ApiError, ApiResult, Problem};

/// The form of a proof.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ProofParams {
    /// json (default), or text: a receipt in one file (C2SP tlog-proof), for `phivault verify-receipt` and other tools.
    format: Option<String>,
}

/// From which tree a consistency proof leads.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ConsistencyParams {
    /// The size of the older checkpoint.
    from: Option<u64>,
}

/// The newest signed checkpoint
///
/// A C2SP signed note of the tree head: origin, size, root, and the cosignatures of witnesses. Public, for it holds hashes only.
#[utoipa::path(get, path = "/checkpoint", tag = "Ledger", security(()), responses((status = 200, description = "The signed note.", body = String, content_type = "text/plain")))]
pub(super) async fn checkpoint(api: Data<Api>) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/plain; charset=utf-8"))
        .insert_header((header::CACHE_CONTROL, "public, max-age=1"))
        .body(api.vault.checkpoint().note)
}

/// A tile of the Merkle tree
///
/// Hashes only (C2SP tlog-tiles): level, index in groups of three digits, and `.p/<width>` for a partial tile. Public. There are
/// no entry bundles: metadata never leaves this way.
#[utoipa::path(get, path = "/tile/{tile}", tag = "Ledger", security(()), params(("tile" = String, Path, description = "Such as 0/x001/067 or 0/000.p/17.")), responses(
    (status = 200, description = "32 bytes a hash.", body = Vec<u8>, content_type = "application/octet-stream"),
    (status = 404, description = "No signed checkpoint covers such a tile.", body = Problem), (status = 503, body = Problem, description = "The store did not answer.")))]
pub(super) async fn tile(api: Data<Api>, path: Path<String>) -> ApiResult<HttpResponse> {
    let missing = || {
        ApiError::http(
            StatusCode::NOT_FOUND,
            "no_such_tile",
            "No signed checkpoint covers a tile of this name; see C2SP tlog-tiles.",
        )
    };
    let name = TileName::parse(&path).ok_or_else(missing)?;
    let bytes = blocking(move || Ok(api.vault.tile(name)?)).await?.ok_or_else(missing)?;
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "application/octet-stream"))
        .insert_header((header::CACHE_CONTROL, "public, max-age=31536000, immutable"))
        .body(bytes))
}

/// The proof that the newest checkpoint extends an older one
///
/// Together with the older checkpoint it shows that entries were only added since. Public.
#[utoipa::path(get, path = "/v1/ledger/consistency", tag = "Ledger", security(()), params(ConsistencyParams), responses(
    (status = 200, description = "The proof.", body = Consistency), (status = 400, body = Problem, description = "There is no such older tree."),
    (status = 503, body = Problem, description = "The store did not answer.")))]
pub(super) async fn consistency(api: Data<Api>, request: HttpRequest) -> ApiResult<HttpResponse> {
    let from = params::<ConsistencyParams>(&request)?.from.unwrap_or(0);
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.consistency(from)?)).await?))
}

/// The inclusion proof of an entry
///
/// Together with the checkpoint it shows that the entry is in the ledger, to anybody, without keys.
#[utoipa::path(get, path = "/v1/entries/{id}/proof", tag = "Ledger", params(("id" = Uuid, Path, description = "The entry."), ProofParams), responses(
    (status = 200, description = "The proof.", content((Proof = "application/json"), (String = "text/plain"))),
    (status = 400, body = Problem, description = "A parameter is wrong."), (status = 401, body = Problem, description = "The token is not valid."),
    (status = 403, body = Problem, description = "A patient may not."),
    (status = 404, body = Problem, description = "There is no such entry."), (status = 503, body = Problem, description = "No checkpoint covers it yet, or the store did not answer.")))]
pub(super) async fn proof(
    api: Data<Api>,
    caller: Caller,
    id: Path<String>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    let text = match params::<ProofParams>(&request)?.format.as_deref() {
        None | Some("json") => false,
        Some("text") => true,
        Some(_) => return Err(Issue::new("format", "parameter_invalid", "This parameter is json or text.").into()),
    };
    let id = entry_id(&id)?;
    let proof = blocking(move || Ok(api.vault.proof(&caller, id)?)).await?;
    if !text {
        return Ok(HttpResponse::Ok().json(proof));
    }
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/plain; charset=utf-8"))
        .insert_header((header::CONTENT_DISPOSITION, format!("attachment; filename=\"{id}.tlog-proof\"")))
        .body(proof.to_receipt()))
}

/// The exact leaf of an entry
///
/// The bytes whose hash stands in the tree: all metadata, and a commitment instead of the values. Recorded like a search.
#[utoipa::path(get, path = "/v1/entries/{id}/leaf", tag = "Ledger", params(("id" = Uuid, Path, description = "The entry.")), responses(
    (status = 200, description = "The leaf.", body = Leaf), (status = 401, body = Problem, description = "The token is not valid."),
    (status = 403, body = Problem, description = "Only officers and auditors may."), (status = 404, body = Problem, description = "There is no such entry."),
    (status = 503, body = Problem, description = "The access could not be recorded, so it was not made.")))]
pub(super) async fn leaf(api: Data<Api>, caller: Caller, id: Path<String>) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::Search, Action::SEARCH).await?;
    let id = entry_id(&id)?;
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.leaf(&caller, id)?)).await?))
}

/// A patient's trail, with proofs
///
/// The patient's own entries, newest first, each with its leaf and proof. Each names the one before and its running number, so
/// `phivault verify-trail` tells offline whether one was left out. Recorded like a search.
#[utoipa::path(post, path = "/v1/entries/trail", tag = "Ledger", request_body = TrailIn, responses(
    (status = 200, description = "The trail.", body = Trail), (status = 400, body = Problem, description = "The JSON is malformed."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only officers and auditors may."),
    (status = 404, body = Problem, description = "No entry of that patient is under a checkpoint."), (status = 408, body = Problem, description = "The body came too slowly."),
    (status = 413, body = Problem, description = "The body is too large."), (status = 415, body = Problem, description = "The body is not JSON."),
    (status = 422, body = Problem, description = "The patient is missing."), (status = 503, body = Problem, description = "The access could not be recorded, so it was not made.")))]
pub(super) async fn trail(
    api: Data<Api>,
    caller: Caller,
    request: HttpRequest,
    payload: Payload,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::Search, Action::SEARCH).await?;
    let body = body::read(&api, &request, payload, &[JSON], api.limits.body_bytes).await?;
    let asked: TrailIn = json::parse(&body)?;
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.trail(&caller, asked)?)).await?))
}
