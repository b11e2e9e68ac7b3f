//! The OpenAPI 3.1 document, generated from the handlers, and a page that shows it without internet.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use actix_web::HttpResponse;
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::header;
use actix_web::web::Bytes;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, RefOr};
use utoipa::{Modify, OpenApi};

use super::caller::SESSION;
use super::{
    admin, entries, files, health, history, keys, ledger, login, reports, restores, retention, reveal, tokens,
};

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
        description = "An encrypted, verifiable audit vault for health data. Applications submit every change to and access of health data with a reason; officers search, reveal and report; anybody can check the ledger. What is no HTTP at all is answered 400, 408 or 431 without a body.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    security(("bearer" = []), ("session" = [])),
    modifiers(&Bearer, &Limited, &Failures, &Required),
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
        (name = "Sessions", description = "For people: logging in with a password and a one-time code in the place of the token."),
        (name = "Operations", description = "For monitoring; no token needed.")
    ),
    paths(
        entries::submit, entries::batch, entries::search, entries::query, entries::entry, reveal::one, reveal::many, reveal::disclose, ledger::proof, ledger::trail,
        ledger::leaf, ledger::consistency, ledger::tile, ledger::checkpoint, history::history, history::state, history::diff, history::field, history::continuity, restores::plan, restores::list, restores::fetch, restores::approve, restores::cancel, restores::confirm, files::make, files::list, files::fetch, files::manifest, files::review, reports::access, reports::breach_scope, reports::reasons, tokens::list, tokens::create, tokens::revoke, login::enrol, login::log_in, login::log_out, login::session, keys::list, keys::rotate, keys::rotate_signing, keys::reencrypt, keys::reencryption, keys::rotate_index, keys::rotate_state,
        admin::ask, admin::list, admin::approve, admin::cancel, retention::plan, retention::certificate, retention::holds, retention::place, retention::lift,
        health::alive, health::ready, health::metrics
    )
)]
struct Document;

/// The media type of a problem (RFC 9457), and its schema.
const PROBLEM: &str = "application/problem+json";
const PROBLEM_SCHEMA: &str = "#/components/schemas/Problem";
/// Bytes of the document that are given to a connection at a time.
const SLICE: usize = 16 << 10;

struct Bearer;

/// Whatever takes a token may answer that it asks for too much.
struct Limited;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme =
            HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("A token such as phv_…")).build();
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
        let cookie = ApiKeyValue::with_description(SESSION, "Of a person who is logged in.");
        components.add_security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
    }
}

impl Modify for Limited {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        for operation in operations(openapi) {
            let all = &mut operation.responses.responses;
            if !all.contains_key("429")
                && let Some(RefOr::T(mut answer)) = all.get("401").cloned()
            {
                "The token asks for more than its share; see Retry-After.".clone_into(&mut answer.description);
                all.insert("429".to_owned(), RefOr::T(answer));
            }
        }
    }
}

/// Failures are problems, and every operation that reads can find damage.
struct Failures;

impl Modify for Failures {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        for operation in operations(openapi) {
            let all = &mut operation.responses.responses;
            if let Some(RefOr::T(mut answer)) = all.get("401").cloned() {
                "What is stored does not agree with the ledger; nothing was shown.".clone_into(&mut answer.description);
                all.insert("500".to_owned(), RefOr::T(answer));
            }
            for answer in all.values_mut() {
                let RefOr::T(answer) = answer else { continue };
                let is_problem = |it: &RefOr<Content>| match it {
                    RefOr::T(it) => matches!(&it.schema, Some(RefOr::Ref(to)) if to.ref_location == PROBLEM_SCHEMA),
                    RefOr::Ref(_) => false,
                };
                if answer.content.get("application/json").is_some_and(is_problem) {
                    let content = answer.content.shift_remove("application/json");
                    content.map(|it| answer.content.insert(PROBLEM.to_owned(), it));
                }
            }
        }
    }
}

/// A parameter that its text calls required is so for machines as well; it is read as optional so that a missing one is told like
/// everything else that is wrong.
struct Required;

impl Modify for Required {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        for operation in operations(openapi) {
            for parameter in operation.parameters.iter_mut().flatten() {
                let RefOr::T(parameter) = parameter else { continue };
                if parameter.description.as_ref().is_some_and(|it| it.trim_end().ends_with("Required.")) {
                    parameter.required = utoipa::openapi::Required::True;
                }
            }
        }
    }
}

fn operations(openapi: &mut utoipa::openapi::OpenApi) -> impl Iterator<Item = &mut Operation> {
    openapi.paths.paths.values_mut().flat_map(|it| [&mut it.get, &mut it.post, &mut it.delete]).flatten()
}

/// A text that all requests share, given to a connection in slices: whoever asks for it often and takes nothing of it does not fill
/// the memory with copies.
struct Slices(Bytes);

impl MessageBody for Slices {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.0.len() as u64)
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let next = self.0.len().min(SLICE);
        Poll::Ready((next > 0).then(|| Ok(self.0.split_to(next))))
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
        .body(Slices(TEXT.clone()))
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
