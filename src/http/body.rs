//! Reading request bodies: bounded in size and time, of the declared type, never compressed.

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::{StatusCode, header};
use actix_web::web::{Bytes, Payload};

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

/// Reads a body of at most `limit` bytes within `deadline`. actix bounds the time for headers, not for bodies.
///
/// # Errors
/// 415 for another type or a compressed body, 413 beyond the limit, 408 past the deadline, 400 when it breaks off.
pub(super) async fn read(
    request: &HttpRequest,
    payload: Payload,
    types: &[&str],
    limit: usize,
    deadline: Duration,
) -> ApiResult<Bytes> {
    let found = media_type(request);
    if !types.contains(&found.as_str()) {
        let detail = format!("Send the body with Content-Type: {}.", types.join(" or "));
        return Err(ApiError::http(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", detail));
    }
    if request.headers().contains_key(header::CONTENT_ENCODING) {
        let detail = "Compressed bodies are not taken; send it plain.";
        return Err(ApiError::http(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_encoding", detail));
    }
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|it| it.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    match tokio::time::timeout(deadline, payload.to_bytes_limited(limit)).await {
        Ok(Ok(Ok(body))) => Ok(body),
        Ok(Ok(Err(_))) => {
            Err(ApiError::http(StatusCode::BAD_REQUEST, "body_broken", "The body broke off; nothing was taken."))
        }
        Ok(Err(_)) => Err(too_large(limit)),
        Err(_) => Err(ApiError::http(
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            "The body did not arrive in time; nothing was taken.",
        )),
    }
}

fn too_large(limit: usize) -> ApiError {
    let detail = format!("The body is limited to {limit} bytes; nothing was taken. Send less at a time.");
    ApiError::http(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
}
