//! The one mapping from what went wrong to what a client is told (RFC 9457), and what the diagnostics are told.

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::issue::Issue;
use crate::vault::VaultError;

/// What handlers answer.
pub(super) type ApiResult<T> = Result<T, ApiError>;

/// Seconds after which a busy vault may be tried again.
const RETRY_AFTER: u64 = 1;
/// And one whose disk is full.
const RETRY_WHEN_FULL: u64 = 30;

/// Why a request was not served.
#[derive(Debug)]
pub enum ApiError {
    /// The vault said so.
    Vault(VaultError),
    /// The token asks for more than its share; after so many seconds it may again.
    TooMany(u64),
    /// HTTP itself: status, stable code, what to do.
    Http(StatusCode, &'static str, String),
}

/// An RFC 9457 problem. It never repeats a value that was sent.
#[derive(Serialize, ToSchema, Clone, Debug)]
pub(super) struct Problem {
    /// A name for this kind of problem; it need not resolve.
    #[serde(rename = "type")]
    #[schema(example = "https://phivault.dev/problems/reason_missing")]
    pub kind: String,
    /// The kind in words.
    #[schema(example = "Unprocessable Entity")]
    pub title: String,
    /// The HTTP status.
    #[schema(example = 422)]
    pub status: u16,
    /// A stable code for programs.
    #[schema(example = "reason_missing")]
    pub code: String,
    /// What was wrong and what to do.
    pub detail: String,
    /// Names this request in the vault's diagnostics.
    pub request_id: String,
    /// Each thing that was wrong with the input.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Issue>,
}

impl ApiError {
    /// A refusal that HTTP itself gives.
    pub(super) fn http(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self::Http(status, code, detail.into())
    }

    /// The token is missing, malformed, unknown, revoked, expired, or used from elsewhere; all look alike.
    pub(super) fn unauthorized() -> Self {
        let detail = "This needs a valid token: send `Authorization: Bearer phv_…`. An unknown, expired or revoked token, or one used from a network it is not for, is refused the same way.";
        Self::http(StatusCode::UNAUTHORIZED, "token_invalid", detail)
    }

    /// The problem, without its request id.
    pub(super) fn problem(&self) -> Problem {
        let (status, code, detail, errors) = self.parts();
        Problem {
            kind: format!("https://phivault.dev/problems/{code}"),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            code: code.to_owned(),
            detail,
            request_id: String::new(),
            errors,
        }
    }

    fn parts(&self) -> (StatusCode, &'static str, String, Vec<Issue>) {
        match self {
            Self::Http(status, code, detail) => (*status, code, detail.clone(), Vec::new()),
            Self::TooMany(seconds) => {
                let detail =
                    format!("This token asks for more than its share. Nothing was done; try again in {seconds} s.");
                (StatusCode::TOO_MANY_REQUESTS, "too_many_requests", detail, Vec::new())
            }
            Self::Vault(VaultError::Invalid(issues)) => invalid(issues),
            Self::Vault(error) => {
                let (status, code, detail) = told(error);
                let issues = match error {
                    VaultError::Conflict(issues) => issues.clone(),
                    VaultError::Damaged(issue) => vec![issue.clone()],
                    VaultError::Shredded(Some(certificate)) => {
                        let detail = format!(
                            "By what authority: GET /v1/retention/certificates/{certificate} (officer, auditor, admin)."
                        );
                        vec![Issue::new("", "certificate", detail)]
                    }
                    _ => Vec::new(),
                };
                (status, code, detail.to_owned(), issues)
            }
        }
    }

    /// What the diagnostics learn: the cause, without anything of the request.
    pub(super) fn cause(&self) -> Option<String> {
        match self {
            Self::Vault(
                VaultError::Integrity(_) | VaultError::Store(_) | VaultError::File(_) | VaultError::Unknown,
            ) => Some(self.to_string()),
            _ => None,
        }
    }
}

/// Status, stable code and sentence for what the vault says.
fn told(error: &VaultError) -> (StatusCode, &'static str, &'static str) {
    let (status, code, detail) = match error {
        VaultError::Denied => (
            403,
            "forbidden",
            "The role of this token does not allow this. Ask an administrator for a token of the right role.",
        ),
        VaultError::LoginFailed => (
            401,
            "login_failed",
            "Name, password or code is wrong, or this name does not log in. A code counts once; wait for the next one.",
        ),
        VaultError::LoginWait(_) => (
            429,
            "login_wait",
            "There were too many failures under this name; it is not tried before the time in Retry-After. Who holds its token can use that meanwhile.",
        ),
        VaultError::NotFound => (404, "not_found", "There is nothing of that id here."),
        VaultError::Invalid(_) => (422, "invalid", "The input is not acceptable."),
        VaultError::Conflict(issues) if issues.iter().any(|it| it.code == "entry_gone") => (
            409,
            "entry_gone",
            "The entry is in the vault, and its values were disposed of or erased by order. Do not send it again, under no other id either.",
        ),
        VaultError::Conflict(_) => (
            409,
            "id_conflict",
            "This id was used before for an entry with other content. Use a new id for a new entry.",
        ),
        VaultError::BadCursor => (
            400,
            "cursor_invalid",
            "This cursor does not belong to this query and token. Repeat the query without a cursor.",
        ),
        VaultError::Busy => (503, "busy", "The vault is busy and took nothing. Send the same again, with the same id."),
        VaultError::Full => (
            503,
            "disk_full",
            "The vault's disk is full, and it took nothing. Keep the entry and send it again, with the same id, once an administrator has made room.",
        ),
        VaultError::Unknown => (
            503,
            "unknown_outcome",
            "The vault could not confirm the write. Send the same again, with the same id; it will not be stored twice.",
        ),
        VaultError::Shredded(_) => (
            410,
            "shredded",
            "These values were disposed of, or their key was destroyed; they cannot be read any more. Metadata and proofs remain.",
        ),
        VaultError::Integrity(_) | VaultError::Damaged(_) => (
            500,
            "integrity",
            "What is stored does not agree with the ledger. Nothing was shown. An administrator must run `phivault verify`.",
        ),
        VaultError::Store(_) => (
            503,
            "store_unavailable",
            "The database did not answer as it must. An administrator finds the cause in the vault's log under this request id.",
        ),
        VaultError::File(_) => (
            503,
            "file_unavailable",
            "A key or lock file could not be used. An administrator finds the cause in the vault's log under this request id.",
        ),
    };
    (StatusCode::from_u16(status).expect("each of these is an HTTP status"), code, detail)
}

fn invalid(issues: &[Issue]) -> (StatusCode, &'static str, String, Vec<Issue>) {
    let first = issues.first();
    let code = first.map_or("invalid", |it| it.code);
    let in_body = first.is_none_or(|it| it.pointer.is_empty() || it.pointer.starts_with('/'));
    let status =
        if code == "invalid_json" || !in_body { StatusCode::BAD_REQUEST } else { StatusCode::UNPROCESSABLE_ENTITY };
    let detail = match issues {
        [only] => only.detail.clone(),
        many => format!("{} things are wrong; see errors. Nothing was stored.", many.len()),
    };
    (status, code, detail, issues.to_vec())
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Vault(error) => error.fmt(f),
            Self::Http(_, code, _) => f.write_str(code),
            Self::TooMany(_) => f.write_str("too_many_requests"),
        }
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.parts().0
    }

    /// The body is written by the outermost layer, which knows the request id.
    fn error_response(&self) -> HttpResponse {
        let status = self.status_code();
        let mut response = HttpResponse::build(status);
        if status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS {
            let seconds = match self {
                Self::TooMany(seconds) | Self::Vault(VaultError::LoginWait(seconds)) => *seconds,
                Self::Vault(VaultError::Full) => RETRY_WHEN_FULL,
                _ => RETRY_AFTER,
            };
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        if status == StatusCode::REQUEST_TIMEOUT || status == StatusCode::PAYLOAD_TOO_LARGE {
            // The rest of a body of declared length is not waited for; `frame` sees to the others.
            response.force_close();
        }
        let mut response = response.finish();
        response.extensions_mut().insert(Failure { problem: self.problem(), cause: self.cause() });
        response
    }
}

/// What a failed response carries to the outermost layer.
#[derive(Clone)]
pub(super) struct Failure {
    /// What the client is told.
    pub problem: Problem,
    /// What the diagnostics are told.
    pub cause: Option<String>,
}

impl From<VaultError> for ApiError {
    fn from(error: VaultError) -> Self {
        Self::Vault(error)
    }
}

impl From<Issue> for ApiError {
    fn from(issue: Issue) -> Self {
        Self::Vault(VaultError::Invalid(vec![issue]))
    }
}
