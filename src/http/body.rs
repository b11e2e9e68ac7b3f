//! Reading request bodies: bounded in size and time, of the declared type, never compressed.

use std::pin::Pin;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::{StatusCode, header};
use actix_web::web::Payload;
use futures_core::Stream;
use tokio::sync::OwnedSemaphorePermit;

use crate::vault::VaultError;

use super::Api;
use super::error::{ApiError, ApiResult};

/// JSON.
pub(super) const JSON: &str = "application/json";
/// One JSON text a line.
pub(super) const NDJSON: &str = "application/x-ndjson";

/// The media type of a body, without parameters.
pub(super) fn media_type(request: &HttpRequest) -> String {
    let header = request.headers().get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or("");
    header.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
}

/// Room made for a body before its first byte; the rest as it grows.
const FIRST_ROOM: usize = 64 << 10;

/// A body and the room it takes of all that are in flight; dropped together.
pub(super) struct Body {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl std::ops::Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a body of at most `limit` bytes within the deadline. actix bounds the time for headers, not for bodies; and all
/// bodies together are bounded, so that many large ones cannot exhaust the memory.
///
/// # Errors
/// 415 for another type or a compressed body, 413 beyond the limit, 408 past the deadline, 400 when it breaks off, 503
/// when too many are in flight.
pub(super) async fn read(
    api: &Api,
    request: &HttpRequest,
    payload: Payload,
    types: &[&str],
    limit: usize,
) -> ApiResult<Body> {
    read_within(api, request, payload, types, limit, api.body_deadline()).await
}

/// The same within another time.
pub(super) async fn read_within(
    api: &Api,
    request: &HttpRequest,
    payload: Payload,
    types: &[&str],
    limit: usize,
    deadline: Duration,
) -> ApiResult<Body> {
    let found = media_type(request);
    if !types.contains(&found.as_str()) {
        let detail = format!("Send the body with Content-Type: {}.", types.join(" or "));
        return Err(ApiError::http(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", detail));
    }
    if request.headers().contains_key(header::CONTENT_ENCODING) {
        let detail = "Compressed bodies are not taken; send it plain.";
        return Err(ApiError::http(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_encoding", detail));
    }
    let declared = declared(request);
    if declared.is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    match tokio::time::timeout(deadline, collect(api, payload, declared.unwrap_or(0), limit)).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::http(
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            "The body did not arrive in time; nothing was taken.",
        )),
    }
}

/// Reads a small body past, so that the connection stays; with a large one unread it is closed.
pub(super) async fn skip(api: &Api, request: &HttpRequest, mut payload: Payload) {
    if declared(request).is_some_and(|length| length <= FIRST_ROOM) {
        let rest = async {
            while std::future::poll_fn(|context| Pin::new(&mut payload).poll_next(context))
                .await
                .is_some_and(|it| it.is_ok())
            {}
        };
        // Whether it came whole or not, the answer is the same.
        drop(tokio::time::timeout(api.body_deadline(), rest).await);
    }
}

fn declared(request: &HttpRequest) -> Option<usize> {
    request.headers().get(header::CONTENT_LENGTH).and_then(|it| it.to_str().ok()?.parse().ok())
}

/// Takes room as bytes arrive, not as they are announced: who sends slowly holds only what was sent.
async fn collect(api: &Api, mut payload: Payload, declared: usize, limit: usize) -> ApiResult<Body> {
    let mut bytes = Vec::with_capacity(declared.min(FIRST_ROOM));
    let mut room = take_room(api, 0)?;
    while let Some(part) = std::future::poll_fn(|context| Pin::new(&mut payload).poll_next(context)).await {
        let part = part.map_err(|_| {
            ApiError::http(StatusCode::BAD_REQUEST, "body_broken", "The body broke off; nothing was taken.")
        })?;
        if bytes.len() + part.len() > limit {
            return Err(too_large(limit));
        }
        let (before, after) = (bytes.len().div_ceil(1024), (bytes.len() + part.len()).div_ceil(1024));
        room.merge(take_room(api, after - before)?);
        bytes.extend_from_slice(&part);
    }
    Ok(Body { bytes, _room: room })
}

fn take_room(api: &Api, kib: usize) -> ApiResult<OwnedSemaphorePermit> {
    let kib = u32::try_from(kib).unwrap_or(u32::MAX);
    api.bodies.clone().try_acquire_many_owned(kib).map_err(|_| ApiError::Vault(VaultError::Busy))
}

fn too_large(limit: usize) -> ApiError {
    let detail = format!("The body is limited to {limit} bytes; nothing was taken. Send less at a time.");
    ApiError::http(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
}
