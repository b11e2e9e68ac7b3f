//! What went wrong between this command and the vault, said so that somebody can act on it.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::Url;
use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER};
use serde::{Deserialize, Serialize};

use super::terminal::escape;

/// Why a request brought no result: a refusal by the vault (RFC 9457), or no usable answer at all.
///
/// Its `Display` is for people: what was wrong, where, and what to do next. Text from the server is escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status; `None` when there was no answer.
    pub status: Option<u16>,
    /// The stable code of the vault, or one of `unreachable`, `timeout`, `untrusted`, `interrupted`,
    /// `not_understood` when the vault did not speak.
    pub code: String,
    /// One sentence on what was wrong.
    pub title: String,
    /// More about it; may be empty.
    pub detail: String,
    /// What the vault calls this request in its own diagnostics.
    pub request_id: Option<String>,
    /// The fields that were wrong.
    pub errors: Vec<FieldError>,
    /// How long the vault asks to wait (`Retry-After`, RFC 9110 section 10.2.3).
    pub retry_after: Option<Duration>,
    needs_role: &'static str,
}

/// One thing that was wrong with what was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// The line of a batch, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// A JSON pointer (RFC 6901) to the field; empty for the whole.
    #[serde(default)]
    pub pointer: String,
    /// A stable code.
    #[serde(default)]
    pub code: String,
    /// One sentence for people; never a value that was sent.
    #[serde(default)]
    pub detail: String,
}

impl Problem {
    /// Whether trying the same again later may help.
    pub fn is_transient(&self) -> bool {
        match self.status {
            None => matches!(self.code.as_str(), "unreachable" | "timeout" | "interrupted"),
            Some(status) => matches!(status, 429 | 502 | 503 | 504),
        }
    }

    /// Whether a request that changes something may have done so, although no answer of the vault came.
    pub fn is_uncertain(&self) -> bool {
        match self.status {
            None => matches!(self.code.as_str(), "timeout" | "interrupted" | "not_understood"),
            Some(status) => matches!(status, 502 | 504),
        }
    }

    /// What the title and detail say, on one line, without advice.
    pub fn summary(&self) -> String {
        let mut text = escape(&self.title);
        if !self.detail.is_empty() && self.detail != self.title {
            text.push_str(": ");
            text.push_str(&escape(&self.detail));
        }
        text
    }

    pub(super) fn no_answer(error: &reqwest::Error, base: &Url) -> Self {
        let place = place(base);
        let cause = root_cause(error);
        let (code, title) = if cause.contains("CertificateRequired") {
            ("certificate_required", format!("{place} asks for a client certificate"))
        } else if cause.contains("certificate") {
            ("untrusted", format!("the certificate of {place} was not accepted"))
        } else if error.is_timeout() {
            ("timeout", format!("{place} did not answer in time"))
        } else if error.is_connect() {
            ("unreachable", format!("no connection to {place}"))
        } else {
            ("interrupted", format!("the connection to {place} broke"))
        };
        Self::local(code, title, cause)
    }

    pub(super) fn not_understood(base: &Url) -> Self {
        Self::local(
            "not_understood",
            format!("{} answered with something that is not phivault's", place(base)),
            String::new(),
        )
    }

    pub(super) fn from_answer(status: u16, headers: &HeaderMap, body: &[u8], needs_role: &'static str) -> Self {
        // Proxies on the way answer with pages of their own, of which only the status is of use.
        let said: Body = serde_json::from_slice(body).unwrap_or_default();
        let title = if said.title.is_empty() {
            format!("the vault, or something before it, answered {status}")
        } else {
            said.title
        };
        let mut detail = said.detail;
        if let Some(target) = headers.get(LOCATION).filter(|_| (300..400).contains(&status)) {
            detail = format!("it points to {}", String::from_utf8_lossy(target.as_bytes()));
        }
        Self {
            status: Some(status),
            code: said.code,
            title,
            detail,
            request_id: said.request_id,
            errors: said.errors,
            retry_after: headers
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok())
                .and_then(|text| parse_retry_after(text, Utc::now())),
            needs_role,
        }
    }

    fn local(code: &str, title: String, detail: String) -> Self {
        Self {
            status: None,
            code: code.to_owned(),
            title,
            detail,
            request_id: None,
            errors: Vec::new(),
            retry_after: None,
            needs_role: "",
        }
    }

    fn advice(&self) -> String {
        let text = match (self.status, self.code.as_str()) {
            (None, "unreachable") => "is the vault running? Start it with `phivault serve --config …`, and check --url",
            (None, "certificate_required") => {
                "name a file with your certificate and its private key with --client-certificate; an admin of the vault says whose"
            }
            (None, "untrusted") if self.detail.contains("CaUsedAsEndEntity") => {
                "the server shows an authority's certificate; it needs one that is none (openssl req -x509 … -addext basicConstraints=critical,CA:FALSE), or one that the authority signed"
            }
            (None, "untrusted") => {
                "check the host name in --url; if your own authority signed the certificate, name it with --ca-file"
            }
            (None, "timeout") => {
                "try again; if it stays slow, ask whoever runs the vault, or give --timeout more seconds"
            }
            (None, "interrupted") => "try again; what was sent may or may not have arrived",
            (None, _) => "check that --url is the address of a vault",
            (Some(300..=399), _) => {
                "redirects are not followed, since the token would go with them: give the final address as --url"
            }
            (Some(401), _) => {
                "the token is unknown, expired or revoked: ask an admin for a new one, made with `phivault token create`, and put it into the --token-file"
            }
            (Some(403), _) => return self.role_advice(),
            (Some(404), _) => "check the id, and that --url is the address of a vault",
            (Some(409), "id_conflict") => "this id is taken by something else: use a new one",
            // The sentence above says it: there is nothing to correct.
            (Some(409), _) | (_, "held" | "own_request" | "decided" | "version_in_use") => return String::new(),
            (Some(413), _) => "send less at once",
            (Some(400 | 422), _) => "correct what is named above and send it again",
            (Some(429 | 503), _) => return self.wait_advice(),
            (Some(500..), _) => "try again; if it stays, ask whoever runs the vault to look at its diagnostics",
            _ => return String::new(),
        };
        text.to_owned()
    }

    fn role_advice(&self) -> String {
        if self.needs_role.is_empty() {
            return "the token's role does not allow this, or the token is not for this computer: ask an admin"
                .to_owned();
        }
        format!(
            "this needs a token of the role {}, used from a computer the token is for: ask an admin",
            self.needs_role
        )
    }

    fn wait_advice(&self) -> String {
        match self.retry_after {
            Some(wait) => format!("the vault is busy or not ready: try again in {} s", wait.as_secs().max(1)),
            None => "the vault is busy or not ready: try again in a moment".to_owned(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary())?;
        match (self.status, self.code.as_str()) {
            (Some(status), "") => write!(f, " ({status})")?,
            (Some(status), code) => write!(f, " ({status} {})", escape(code))?,
            (None, _) => {}
        }
        for error in self.errors.iter().take(SHOWN_ERRORS) {
            if self.errors.len() == 1 && error.detail == self.detail {
                // The sentence stands above already.
                if !error.pointer.is_empty() {
                    write!(f, "\n  at {}", escape(&error.pointer))?;
                }
            } else {
                write!(f, "\n  {error}")?;
            }
        }
        if let Some(more) = self.errors.len().checked_sub(SHOWN_ERRORS).filter(|more| *more > 0) {
            write!(f, "\n  … and {more} more")?;
        }
        let advice = self.advice();
        if !advice.is_empty() {
            write!(f, "\nWhat to do: {advice}")?;
        }
        if let Some(id) = &self.request_id {
            write!(f, "\nRequest id: {}", escape(id))?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

impl FieldError {
    /// An error found before anything was sent.
    pub fn new(pointer: &str, code: &str, detail: impl Into<String>) -> Self {
        Self { line: None, pointer: pointer.to_owned(), code: code.to_owned(), detail: detail.into() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.pointer.is_empty() {
            write!(f, "{}: ", escape(&self.pointer))?;
        }
        match (self.detail.as_str(), self.code.as_str()) {
            ("", code) => f.write_str(&escape(code)),
            (detail, "") => f.write_str(&escape(detail)),
            (detail, code) => write!(f, "{} ({})", escape(detail), escape(code)),
        }
    }
}

const SHOWN_ERRORS: usize = 20;

/// The members of RFC 9457 that are used, and ours.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    title: String,
    code: String,
    detail: String,
    request_id: Option<String>,
    errors: Vec<FieldError>,
}

fn place(base: &Url) -> String {
    let host = base.host_str().unwrap_or("the vault");
    match base.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// The innermost cause: the outer ones only repeat that a request failed, and name the full address.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    while let Some(inner) = cause.and_then(|outer| outer.source()) {
        cause = Some(inner);
    }
    cause.map(ToString::to_string).unwrap_or_default()
}

/// Seconds or an HTTP date; `None` for anything else.
fn parse_retry_after(text: &str, now: DateTime<Utc>) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTime::parse_from_rfc2822(text.trim()).ok()?;
    Some((date.with_timezone(&Utc) - now).to_std().unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Problem {
        Problem::from_answer(status, &HeaderMap::new(), body.as_bytes(), "admin")
    }

    #[test]
    fn a_problem_says_what_was_wrong_where_and_what_to_do() {
        let body = r#"{"type":"https://phivault.dev/problems/invalid_entry","title":"The entry is not valid","status":422,"code":"invalid_entry",
            "detail":"one field is wrong","request_id":"r-1","errors":[{"line":3,"pointer":"/reason/code","code":"reason_unknown","detail":"no such reason"}]}"#;
        let expected = "The entry is not valid: one field is wrong (422 invalid_entry)\n  line 3: /reason/code: no such reason (reason_unknown)\n\
            What to do: correct what is named above and send it again\nRequest id: r-1";
        assert_eq!(answer(422, body).to_string(), expected);
    }

    #[test]
    fn a_refused_caller_learns_whom_to_ask_and_for_what() {
        assert!(answer(401, "{}").to_string().contains("phivault token create"));
        assert!(answer(403, "{}").to_string().contains("role admin"));
    }

    #[test]
    fn the_page_of_a_proxy_is_not_shown() {
        let text = answer(502, "<html>\u{1b}[2J</html>").to_string();
        assert!(text.contains("502") && !text.contains("html"), "{text}");
    }

    #[test]
    fn control_characters_of_the_server_do_not_reach_the_terminal() {
        let text = answer(400, r#"{"title":"a\u001b[2Jb","code":"\u009b","errors":[{"pointer":"/\u0007","code":"c\r","detail":"d\u202e"}]}"#).to_string();
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(!text.contains('\u{202e}'));
    }

    #[test]
    fn a_redirect_says_where_it_points_and_that_it_was_not_followed() {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, "https://elsewhere.example".parse().unwrap());
        let text = Problem::from_answer(307, &headers, b"", "").to_string();
        assert!(text.contains("https://elsewhere.example") && text.contains("not followed"), "{text}");
    }

    #[test]
    fn busy_and_broken_are_transient_and_refusals_are_not() {
        for status in [429, 502, 503, 504] {
            assert!(answer(status, "").is_transient(), "{status}");
        }
        for status in [400, 401, 403, 409, 413, 422, 500] {
            assert!(!answer(status, "").is_transient(), "{status}");
        }
        assert!(Problem::local("unreachable", String::new(), String::new()).is_transient());
        assert!(!Problem::local("untrusted", String::new(), String::new()).is_transient());
    }

    #[test]
    fn only_a_lost_answer_leaves_it_open_whether_something_happened() {
        for code in ["timeout", "interrupted"] {
            assert!(Problem::local(code, String::new(), String::new()).is_uncertain(), "{code}");
        }
        assert!(answer(504, "").is_uncertain());
        assert!(!Problem::local("unreachable", String::new(), String::new()).is_uncertain());
        assert!(!answer(503, "").is_uncertain());
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = DateTime::parse_from_rfc3339("2026-11-24T09:00:00Z").unwrap().with_timezone(&Utc);
        assert_eq!(parse_retry_after("7", now), Some(Duration::from_secs(7)));
        assert_eq!(parse_retry_after("Tue, 24 Nov 2026 09:01:00 GMT", now), Some(Duration::from_secs(60)));
        assert_eq!(parse_retry_after("Tue, 24 Nov 2026 08:01:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(parse_retry_after("soon", now), None);
    }

    #[test]
    fn a_long_list_of_errors_is_cut_with_a_count() {
        let errors: Vec<_> = (1..=25)
            .map(|line| FieldError { line: Some(line), ..FieldError::new("/action", "missing", "action is missing") })
            .collect();
        let text = Problem { errors, ..answer(422, "{}") }.to_string();
        assert!(text.contains("line 20:") && !text.contains("line 21:") && text.contains("… and 5 more"), "{text}");
    }
}
