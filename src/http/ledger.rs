//! The ledger's evidence: hashes only.

use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web::{Data, Path};

use crate::domain::caller::Caller;
use crate::vault::Proof;

use super::Api;
use super::entries::{blocking, entry_id};
use super::error::{ApiResult, Problem};

/// The newest signed checkpoint
///
/// A C2SP signed note of the tree head: origin, size, root. Public, for it holds hashes only.
#[utoipa::path(get, path = "/checkpoint", tag = "Ledger", security(()), responses((status = 200, description = "The signed note.", body = String, content_type = "text/plain")))]
pub(super) async fn checkpoint(api: Data<Api>) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/plain; charset=utf-8"))
        .insert_header((header::CACHE_CONTROL, "public, max-age=1"))
        .body(api.vault.checkpoint().note)
}

/// The inclusion proof of an entry
///
/// Together with the checkpoint it shows that the entry is in the ledger, to anybody, without keys.
#[utoipa::path(get, path = "/v1/entries/{id}/proof", tag = "Ledger", params(("id" = Uuid, Path, description = "The entry.")), responses(
    (status = 200, description = "The proof.", body = Proof), (status = 401, body = Problem, description = "The token is not valid."),
    (status = 404, body = Problem, description = "There is no such entry."), (status = 503, body = Problem, description = "The store did not answer.")))]
pub(super) async fn proof(api: Data<Api>, caller: Caller, id: Path<String>) -> ApiResult<HttpResponse> {
    let id = entry_id(&id)?;
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.proof(&caller, id)?)).await?))
}
