//! Reports and the reason vocabulary.

use actix_web::http::header;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::issue::Issue;
use crate::domain::reason::{Change, Purpose, Site};
use crate::domain::report::{AccessReport, ActorReport, csv_cell};
use crate::domain::submission::ReasonIn;
use crate::domain::time::parse_offset;
use crate::vault::{AccessAsked, BreachAsked, BreachScope};

use super::Api;
use super::entries::{blocking, may, params};
use super::error::{ApiError, ApiResult, Problem};

/// What an access report is asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AccessParams {
    /// The user; without it: a summary of all users.
    actor: Option<String>,
    /// Not before this time (RFC 3339), by the time things happened.
    from: Option<String>,
    /// Before this time.
    to: Option<String>,
    /// Why the report is made: a reason code, such as HCOMPL. Required.
    reason: Option<String>,
    /// The offset from UTC in which days and hours are counted: Z (default) or such as +02:00.
    time_zone: Option<String>,
    /// json (default) or csv.
    format: Option<String>,
}

/// The vocabulary in force.
#[derive(Serialize, ToSchema)]
pub(super) struct Reasons {
    /// Its version.
    version: String,
    /// The code system of the purposes.
    system: String,
    /// Purposes of use.
    purposes: Vec<Purpose>,
    /// Change reasons.
    changes: Vec<Change>,
    /// The site's own codes.
    sites: Vec<Site>,
}

/// Per-user access report
///
/// What each user did in a period, with reasons (45 CFR 164.308(a)(1)(ii)(D)). The report is recorded before it is made.
#[utoipa::path(get, path = "/v1/reports/access", tag = "Reports", params(AccessParams), responses(
    (status = 200, description = "The report.", content((AccessReport = "application/json"), (String = "text/csv"))),
    (status = 400, body = Problem, description = "A parameter is wrong."), (status = 401, body = Problem, description = "The token is not valid."),
    (status = 403, body = Problem, description = "Only officers and auditors may."), (status = 422, body = Problem, description = "The reason will not do."),
    (status = 503, body = Problem, description = "The report could not be recorded, so it was not made.")))]
pub(super) async fn access(api: Data<Api>, caller: Caller, request: HttpRequest) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::Report, Action::REPORT).await?;
    let params = params::<AccessParams>(&request)?;
    let zone = params.time_zone.as_deref().unwrap_or("Z");
    // In a query string a bare + means a space; people write +02:00 all the same.
    let offset = parse_offset(&zone.replace(' ', "+")).ok_or_else(|| {
        ApiError::from(Issue::new("time_zone", "parameter_invalid", "This parameter is Z or an offset such as +02:00."))
    })?;
    let csv = match params.format.as_deref() {
        None | Some("json") => false,
        Some("csv") => true,
        Some(_) => return Err(Issue::new("format", "parameter_invalid", "This parameter is json or csv.").into()),
    };
    let reason = ReasonIn { code: params.reason, ..ReasonIn::default() };
    let asked = AccessAsked { actor: params.actor, from: params.from, to: params.to, offset, reason };
    let report = blocking(move || Ok(api.vault.access_report(&caller, asked)?)).await?;
    if !csv {
        return Ok(HttpResponse::Ok().json(report));
    }
    let day = &report.generated_at.to_string()[..10];
    let name = format!("attachment; filename=\"access-report_{day}_UTC{}.csv\"", report.time_zone.replace(':', ""));
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/csv; charset=utf-8"))
        .insert_header((header::CONTENT_DISPOSITION, name))
        .body(render_csv(&report)))
}

/// What a breach scope is asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BreachParams {
    /// The data-key version that may be known to others. Required.
    key_version: Option<u32>,
    /// From this time (RFC 3339); from the beginning if absent.
    from: Option<String>,
    /// Before this time; until now if absent.
    to: Option<String>,
    /// Why the report is made: a reason code, such as HCOMPL. Required.
    reason: Option<String>,
}

/// Scope of a breach
///
/// Which entries, patients and categories were readable under a data-key version in a time, and who revealed values of these
/// patients meanwhile: for the risk assessment of 45 CFR 164.402(2). The report is recorded before it is made.
#[utoipa::path(get, path = "/v1/reports/breach-scope", tag = "Reports", params(BreachParams), responses(
    (status = 200, description = "The report.", body = BreachScope),
    (status = 400, body = Problem, description = "A parameter is wrong."), (status = 401, body = Problem, description = "The token is not valid."),
    (status = 403, body = Problem, description = "Only officers and auditors may."), (status = 422, body = Problem, description = "The reason will not do."),
    (status = 503, body = Problem, description = "The report could not be recorded, so it was not made.")))]
pub(super) async fn breach_scope(api: Data<Api>, caller: Caller, request: HttpRequest) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::Report, Action::REPORT).await?;
    let params = params::<BreachParams>(&request)?;
    let key_version = params.key_version.ok_or_else(|| {
        ApiError::from(Issue::new(
            "key_version",
            "parameter_missing",
            "Say which data-key version; GET /v1/keys lists them.",
        ))
    })?;
    let reason = ReasonIn { code: params.reason, ..ReasonIn::default() };
    let asked = BreachAsked { key_version, from: params.from, to: params.to, reason };
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.breach_scope(&caller, asked)?)).await?))
}

/// The reason codes in force
#[utoipa::path(get, path = "/v1/reasons", tag = "Reasons", responses(
    (status = 200, description = "The vocabulary.", body = Reasons), (status = 401, body = Problem, description = "The token is not valid."),
    (status = 403, body = Problem, description = "Another site asks, with a session.")))]
pub(super) async fn reasons(api: Data<Api>, caller: Caller) -> ApiResult<HttpResponse> {
    let vocabulary = api.vault.vocabulary(&caller)?;
    Ok(HttpResponse::Ok().json(Reasons {
        version: vocabulary.version().to_owned(),
        system: vocabulary.system().to_owned(),
        purposes: vocabulary.purposes().cloned().collect(),
        changes: vocabulary.changes().cloned().collect(),
        sites: vocabulary.sites().cloned().collect(),
    }))
}

/// One line a figure: user, measure, key, value. The time zone stands in the header.
fn render_csv(report: &AccessReport) -> Vec<u8> {
    let mut out = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    let mut line = |cells: [&str; 4]| {
        out.write_record(cells.map(csv_cell)).expect("writing to memory does not fail");
    };
    line(["actor", "measure", &format!("key (times in UTC{})", report.time_zone), "value"]);
    for row in &report.actors {
        for (measure, key, value) in figures(row) {
            line([&row.actor, measure, &key, &value]);
        }
    }
    line(["", "entries_covered", "", &report.entries_covered.to_string()]);
    line(["", "ledger_size", "", &report.ledger_size.to_string()]);
    line(["", "generated_at", "", &report.generated_at.to_string()]);
    out.into_inner().expect("writing to memory does not fail")
}

fn figures(row: &ActorReport) -> Vec<(&'static str, String, String)> {
    let time = |time: Option<crate::domain::time::Timestamp>| time.map_or_else(String::new, |it| it.to_string());
    let mut out = vec![
        ("total", String::new(), row.total.to_string()),
        ("with_note", String::new(), row.with_note.to_string()),
        ("note_share", String::new(), row.note_share.to_string()),
        ("first", String::new(), time(row.first)),
        ("last", String::new(), time(row.last)),
        ("break_glass", String::new(), row.break_glass.to_string()),
        ("failures", String::new(), row.failures.to_string()),
        ("denials", String::new(), row.denials.to_string()),
        ("patients", String::new(), row.patients.to_string()),
    ];
    for (measure, map) in [
        ("by_action", &row.by_action),
        ("by_outcome", &row.by_outcome),
        ("by_reason", &row.by_reason),
        ("by_patient", &row.by_patient),
        ("by_record_type", &row.by_record_type),
        ("by_day", &row.by_day),
        ("by_hour", &row.by_hour),
    ] {
        out.extend(map.iter().map(|(key, count)| (measure, key.clone(), count.to_string())));
    }
    out.extend(row.break_glass_uses.iter().map(|it| ("break_glass_use", it.at.to_string(), it.id.to_string())));
    out
}
