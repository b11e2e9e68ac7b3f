//! The outermost layer: every request gets an id, every answer its headers, every failure its problem and one line in the
//! diagnostics. What is logged is method, route template, status, time and id; never a path, query, header or body.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web::{Bytes, Data};
use actix_web::{HttpMessage, HttpResponse, ResponseError};
use futures_core::Stream;
use uuid::Uuid;

use super::Api;
use super::error::{ApiError, Failure};
use super::guard::Activity;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Headers that every answer has unless a handler set them.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
];

/// Wraps every request.
pub(super) async fn frame(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let began = Instant::now();
    let request_id = Uuid::now_v7().to_string();
    let method = request.method().clone();
    let api = request.app_data::<Data<Api>>().cloned();
    own_headers(&mut request);
    let unread = hold_chunks(&mut request);
    // Held until the answer is made; then the connection waits for the next request again.
    let _in_flight = request.conn_data::<Rc<Activity>>().map(Activity::begin);
    // Handlers' errors arrive as responses; nothing below this layer fails otherwise.
    let mut response = next.call(request).await?.map_into_boxed_body();
    let route = response.request().match_pattern().unwrap_or_else(|| "unmatched".to_owned());
    let status = response.status();
    let failure = response.response().extensions().get::<Failure>().cloned();
    let failure =
        failure.or_else(|| (status.is_client_error() || status.is_server_error()).then(|| foreign(status)).flatten());
    if let Some(failure) = failure {
        if let Some(cause) = failure.cause {
            tracing::error!(request_id, route, cause, "a request failed");
        }
        let mut problem = failure.problem;
        problem.request_id.clone_from(&request_id);
        let body = serde_json::to_vec(&problem).expect("a problem is text and numbers");
        response = response.map_body(|head, _| {
            head.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
            BoxBody::new(body)
        });
    }
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        if !headers.contains_key(&name) {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        headers.insert(REQUEST_ID, value);
    }
    let milliseconds = began.elapsed().as_secs_f64() * 1e3;
    tracing::info!(request_id, %method, route, status = status.as_u16(), milliseconds, "request");
    if let Some(api) = api {
        api.metrics.request(method.as_str(), &route, status.as_u16(), began.elapsed());
    }
    Ok(match unread {
        Some(unread) => response.map_body(|_, body| BoxBody::new(Held { body, _unread: unread })),
        None => response,
    })
}

/// Gives a request headers of its own. As they are read they share the bytes that came with them, the beginning of the body included, and
/// actix keeps the heads of answered requests to use them again: values would stay in memory for as long.
fn own_headers(request: &mut ServiceRequest) {
    let headers = request.headers_mut();
    let mut own = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers.iter() {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            own.append(name.clone(), value);
        }
    }
    *headers = own;
}

/// A payload that handler and answer share.
type Shared = Rc<RefCell<Payload>>;

/// Takes a share of a body without a declared length.
///
/// actix waits without a deadline for the end of such a body once every reader of it is gone, so a client that never ends it
/// would keep its connection for ever. While a share lives until the answer is sent, actix closes the connection instead.
fn hold_chunks(request: &mut ServiceRequest) -> Option<Shared> {
    if !request.headers().contains_key(header::TRANSFER_ENCODING) {
        return None;
    }
    let shared = Rc::new(RefCell::new(request.take_payload()));
    request.set_payload(Payload::Stream { payload: Box::pin(Reading(shared.clone())) });
    Some(shared)
}

/// The handler's share of a payload.
struct Reading(Shared);

impl Stream for Reading {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_next(context)
    }
}

/// An answer's body that keeps its share of the request's until it is sent.
struct Held {
    body: BoxBody,
    _unread: Shared,
}

impl MessageBody for Held {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}

/// A failure that actix itself answered, such as a malformed request; its text is replaced by ours.
fn foreign(status: StatusCode) -> Option<Failure> {
    let error = ApiError::http(
        status,
        "request_refused",
        "The request was refused before it reached the vault; check method, path and headers.",
    );
    Some(Failure { problem: error.problem(), cause: None })
}

/// For paths that do not exist.
pub(super) async fn no_such_route() -> HttpResponse {
    ApiError::http(StatusCode::NOT_FOUND, "no_such_route", "There is nothing at this path. /docs lists what there is.")
        .error_response()
}

/// For methods that a path does not have; `allow` are those it has (RFC 9110 section 15.5.6).
pub(super) fn wrong_method(allow: &'static str) -> HttpResponse {
    let detail = "This path does not take this method. /docs lists what it takes.";
    let mut response = ApiError::http(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).error_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}
