//! The OpenAPI 3.1 document, generated from the handlers, and a page that shows it without internet.

use std::sync::LazyLock;

use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web::Bytes;
use utoipa::openapi::RefOr;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{admin, entries, files, health, history, keys, ledger, reports, restores, retention, reveal, tokens};

/// What the page may load: its own style and script, and the document.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The document.
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "phivault",
        description = "An encrypted, verifiable audit vault for health data. Applications submit every change to and access of health data with a reason; officers search, reveal and report; anybody can check the ledger.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    security(("bearer" = [])),
    modifiers(&Bearer, &Limited),
    tags(
        (name = "Entries", description = "For clinical applications: submitting."),
        (name = "Trail", description = "For officers and auditors: searching and revealing. Every access is itself recorded."),
        (name = "History", description = "For officers: what a record was, and who made it so."),
        (name = "Reports", description = "For officers and auditors."),
        (name = "Reasons", description = "The reason codes in force."),
        (name = "Ledger", description = "Evidence that outsiders can check."),
        (name = "Keys", description = "For admins: data-key versions."),
        (name = "Approvals", description = "For admins: what takes two of them."),
        (name = "Retention", description = "For officers and admins: what falls due, legal holds, disposal certificates."),
        (name = "Tokens", description = "For admins: who may call."),
        (name = "Operations", description = "For monitoring; no token needed.")
    ),
    paths(
        entries::submit, entries::batch, entries::search, entries::query, entries::entry, reveal::one, reveal::many, reveal::disclose, ledger::proof, ledger::trail,
        ledger::leaf, ledger::consistency, ledger::tile, ledger::checkpoint, history::history, history::state, history::diff, history::field, history::continuity, restores::plan, restores::list, restores::fetch, restores::approve, restores::cancel, restores::confirm, files::make, files::list, files::fetch, files::manifest, files::review, reports::access, reports::breach_scope, reports::reasons, tokens::list, tokens::create, tokens::revoke, keys::list, keys::rotate, keys::rotate_signing, keys::reencrypt, keys::reencryption, keys::rotate_index, keys::rotate_state,
        admin::ask, admin::list, admin::approve, admin::cancel, retention::plan, retention::certificate, retention::holds, retention::place, retention::lift,
        health::alive, health::ready, health::metrics
    )
)]
struct Document;

struct Bearer;

/// Whatever takes a token may answer that it asks for too much.
struct Limited;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme =
            HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("A token such as phv_…")).build();
        openapi.components.get_or_insert_default().add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

impl Modify for Limited {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        for path in openapi.paths.paths.values_mut() {
            for operation in [&mut path.get, &mut path.post, &mut path.delete].into_iter().flatten() {
                let all = &mut operation.responses.responses;
                if let Some(RefOr::T(mut answer)) = all.get("401").cloned() {
                    "The token asks for more than its share; see Retry-After.".clone_into(&mut answer.description);
                    all.insert("429".to_owned(), RefOr::T(answer));
                }
            }
        }
    }
}

/// The document as JSON.
pub(super) async fn json() -> HttpResponse {
    // Made once: a flood of requests for it shares one copy.
    static TEXT: LazyLock<Bytes> =
        LazyLock::new(|| serde_json::to_vec(&document()).expect("the document is text and numbers").into());
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "public, max-age=60"))
        .content_type("application/json")
        .body(TEXT.clone())
}

/// The page.
pub(super) async fn page() -> HttpResponse {
    file("text/html; charset=utf-8", include_str!("docs/index.html"))
}

/// Its style.
pub(super) async fn style() -> HttpResponse {
    file("text/css; charset=utf-8", include_str!("docs/docs.css"))
}

/// Its script.
pub(super) async fn script() -> HttpResponse {
    file("text/javascript; charset=utf-8", include_str!("docs/docs.js"))
}

fn file(media_type: &'static str, text: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, media_type))
        .insert_header((header::CACHE_CONTROL, "public, max-age=60"))
        .insert_header((header::CONTENT_SECURITY_POLICY, PAGE_POLICY))
        .body(text)
}
