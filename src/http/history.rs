//! A record's history.

use actix_web::http::header;
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::history::Axis;
use crate::domain::issue::Issue;
use crate::domain::report::csv_cell;
use crate::domain::submission::ReasonIn;
use crate::domain::time::Timestamp;
use crate::report::{draw, svg};
use crate::vault::{AsOf, FieldLine, History, RecordAsked, RecordContinuity, RecordDiff, RecordState};

use super::Api;
use super::entries::{blocking, may, params};
use super::error::{ApiResult, Problem};

/// Changes a page if none is asked for.
const DEFAULT_LIMIT: usize = 100;

/// Which page of a history.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryParams {
    /// Why it is looked at: a reason code, such as HCOMPL. Required.
    reason: Option<String>,
    /// In which order: occurred (default; by the time things happened) or received (by position in the ledger).
    by: Option<String>,
    /// Changes a page, up to 1,000 (default 100).
    limit: Option<usize>,
    /// `next` of the page before.
    after: Option<String>,
}

/// Which point.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StateParams {
    /// Why it is looked at: a reason code, such as HCOMPL. Required.
    reason: Option<String>,
    /// As of this time (RFC 3339), or this position in the ledger; now if absent.
    at: Option<String>,
    /// Which time is meant: occurred (default; what was so then, late entries included) or received (what was known then). A
    /// position always means what was known then.
    by: Option<String>,
}

/// Which two points.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DiffParams {
    /// Why it is looked at: a reason code, such as HCOMPL. Required.
    reason: Option<String>,
    /// From this time or position. Required.
    from: Option<String>,
    /// To this time or position; now if absent.
    to: Option<String>,
    /// Which time is meant: occurred (default) or received.
    by: Option<String>,
}

/// How a field's line is given.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FieldParams {
    /// Why it is looked at: a reason code, such as HCOMPL. Required.
    reason: Option<String>,
    /// In which order: occurred (default) or received.
    by: Option<String>,
    /// json (default), csv, or svg: a chart of the numbers among the values.
    format: Option<String>,
}

/// Why.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReasonParams {
    /// Why it is looked at: a reason code, such as HCOMPL. Required.
    reason: Option<String>,
}

/// A record's history
///
/// Every change of the record with its values, oldest first, under the names of now; late entries are marked. It is a reveal:
/// recorded with its reason before anything is shown.
#[utoipa::path(get, path = "/v1/records/{type}/{id}/history", tag = "History", params(("type" = String, Path, description = "The record's type."), ("id" = String, Path, description = "The record's id."), HistoryParams), responses(
    (status = 200, description = "One page.", body = History), (status = 400, body = Problem, description = "A parameter is wrong."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only an officer may."),
    (status = 404, body = Problem, description = "The vault knows no change of this record."), (status = 422, body = Problem, description = "The reason will not do."),
    (status = 503, body = Problem, description = "Busy, or it could not be recorded, so nothing is shown.")))]
pub(super) async fn history(
    api: Data<Api>,
    caller: Caller,
    record: Path<(String, String)>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::Reveal, Action::REVEAL).await?;
    let params = params::<HistoryParams>(&request)?;
    let (axis, limit) = (axis(params.by.as_deref())?, params.limit.unwrap_or(DEFAULT_LIMIT));
    let asked = asked(record, params.reason);
    let look = move || Ok(api.vault.record_history(&caller, asked, axis, limit, params.after.as_deref())?);
    Ok(HttpResponse::Ok().json(blocking(look).await?))
}

/// A record as it was
///
/// Rebuilt from its changes up to a time or position; each field names the entry that set it. A reveal, as above.
#[utoipa::path(get, path = "/v1/records/{type}/{id}/state", tag = "History", params(("type" = String, Path, description = "The record's type."), ("id" = String, Path, description = "The record's id."), StateParams), responses(
    (status = 200, description = "The record at that point.", body = RecordState), (status = 400, body = Problem, description = "A parameter is wrong."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only an officer may."),
    (status = 404, body = Problem, description = "The vault knows no change of this record."), (status = 422, body = Problem, description = "The reason will not do."),
    (status = 503, body = Problem, description = "Busy, or it could not be recorded, so nothing is shown.")))]
pub(super) async fn state(
    api: Data<Api>,
    caller: Caller,
    record: Path<(String, String)>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::Reveal, Action::REVEAL).await?;
    let params = params::<StateParams>(&request)?;
    let as_of = as_of("at", params.at.as_deref(), axis(params.by.as_deref())?)?;
    let asked = asked(record, params.reason);
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.record_state(&caller, asked, as_of)?)).await?))
}

/// What differs between two points of a record
#[utoipa::path(get, path = "/v1/records/{type}/{id}/diff", tag = "History", params(("type" = String, Path, description = "The record's type."), ("id" = String, Path, description = "The record's id."), DiffParams), responses(
    (status = 200, description = "The fields that differ, each with the entries that set it.", body = RecordDiff), (status = 400, body = Problem, description = "A parameter is wrong."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only an officer may."),
    (status = 404, body = Problem, description = "The vault knows no change of this record."), (status = 422, body = Problem, description = "The reason will not do."),
    (status = 503, body = Problem, description = "Busy, or it could not be recorded, so nothing is shown.")))]
pub(super) async fn diff(
    api: Data<Api>,
    caller: Caller,
    record: Path<(String, String)>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::Reveal, Action::REVEAL).await?;
    let params = params::<DiffParams>(&request)?;
    let axis = axis(params.by.as_deref())?;
    if params.from.is_none() {
        return Err(Issue::new("from", "parameter_missing", "Say from which time or position.").into());
    }
    let points = [as_of("from", params.from.as_deref(), axis)?, as_of("to", params.to.as_deref(), axis)?];
    let asked = asked(record, params.reason);
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.record_diff(&caller, asked, points)?)).await?))
}

/// The line of one field
///
/// Every value it had, under every name it had; as a table, or as a chart of the numbers.
#[utoipa::path(get, path = "/v1/records/{type}/{id}/fields/{field}", tag = "History", params(("type" = String, Path, description = "The record's type."), ("id" = String, Path, description = "The record's id."), ("field" = String, Path, description = "The field's name of now."), FieldParams), responses(
    (status = 200, description = "The values in order.", content((FieldLine = "application/json"), (String = "text/csv"), (String = "image/svg+xml"))),
    (status = 400, body = Problem, description = "A parameter is wrong."), (status = 401, body = Problem, description = "The token is not valid."),
    (status = 403, body = Problem, description = "Only an officer may."), (status = 404, body = Problem, description = "The vault knows no value of this field."),
    (status = 422, body = Problem, description = "The reason will not do."), (status = 503, body = Problem, description = "Busy, or it could not be recorded, so nothing is shown.")))]
pub(super) async fn field(
    api: Data<Api>,
    caller: Caller,
    place: Path<(String, String, String)>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::Reveal, Action::REVEAL).await?;
    let params = params::<FieldParams>(&request)?;
    let axis = axis(params.by.as_deref())?;
    let format = params.format.as_deref().unwrap_or("json").to_owned();
    if !["json", "csv", "svg"].contains(&format.as_str()) {
        return Err(Issue::new("format", "parameter_invalid", "This parameter is json, csv or svg.").into());
    }
    let (kind, id, field) = place.into_inner();
    let asked = RecordAsked { kind, id, reason: reason(params.reason) };
    let line = blocking(move || Ok(api.vault.record_field(&caller, asked, &field, axis)?)).await?;
    Ok(match format.as_str() {
        "csv" => HttpResponse::Ok()
            .insert_header((header::CONTENT_TYPE, "text/csv; charset=utf-8"))
            .insert_header((header::CONTENT_DISPOSITION, "attachment; filename=\"field-history_UTC.csv\""))
            .body(line_csv(&line)),
        "svg" => HttpResponse::Ok().insert_header((header::CONTENT_TYPE, "image/svg+xml")).body(line_svg(&line)),
        _ => HttpResponse::Ok().json(line),
    })
}

/// Where a record was changed outside the trail
///
/// An entry whose old value is not what the entry before left. Values are compared and not shown. Recorded as a report.
#[utoipa::path(get, path = "/v1/records/{type}/{id}/continuity", tag = "History", params(("type" = String, Path, description = "The record's type."), ("id" = String, Path, description = "The record's id."), ReasonParams), responses(
    (status = 200, description = "What does not follow; nothing if the list is empty.", body = RecordContinuity), (status = 400, body = Problem, description = "A parameter is wrong."),
    (status = 401, body = Problem, description = "The token is not valid."), (status = 403, body = Problem, description = "Only officers and auditors may."),
    (status = 404, body = Problem, description = "The vault knows no change of this record."), (status = 422, body = Problem, description = "The reason will not do."),
    (status = 503, body = Problem, description = "Busy, or it could not be recorded, so nothing is shown.")))]
pub(super) async fn continuity(
    api: Data<Api>,
    caller: Caller,
    record: Path<(String, String)>,
    request: HttpRequest,
) -> ApiResult<HttpResponse> {
    may(&api, &caller, Permission::Report, Action::REPORT).await?;
    let params = params::<ReasonParams>(&request)?;
    let asked = asked(record, params.reason);
    Ok(HttpResponse::Ok().json(blocking(move || Ok(api.vault.record_continuity(&caller, asked)?)).await?))
}

fn asked(record: Path<(String, String)>, code: Option<String>) -> RecordAsked {
    let (kind, id) = record.into_inner();
    RecordAsked { kind, id, reason: reason(code) }
}

pub(super) fn reason(code: Option<String>) -> ReasonIn {
    ReasonIn { code, ..ReasonIn::default() }
}

fn axis(text: Option<&str>) -> ApiResult<Axis> {
    let wrong = || Issue::new("by", "parameter_invalid", "This parameter is occurred or received.").into();
    Axis::parse(text).ok_or_else(wrong)
}

/// A point: a time, or a position in the ledger.
fn as_of(name: &str, text: Option<&str>, axis: Axis) -> ApiResult<AsOf> {
    let mut point = AsOf { axis, ..AsOf::default() };
    let Some(text) = text else { return Ok(point) };
    // In a query string a bare + means a space; people write +02:00 all the same.
    let text = text.replace(' ', "+");
    point.sequence = text.parse().ok();
    if point.sequence.is_some() {
        point.axis = Axis::Received;
    }
    point.at = Timestamp::parse(&text);
    if point.sequence.is_none() && point.at.is_none() {
        let detail = "This parameter is an RFC 3339 time such as 2026-11-24T09:30:00Z, or a position in the ledger.";
        return Err(Issue::new(name, "parameter_invalid", detail).into());
    }
    Ok(point)
}

fn line_csv(line: &FieldLine) -> Vec<u8> {
    let mut out = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    let mut write = |cells: [&str; 6]| {
        out.write_record(cells.map(csv_cell)).expect("writing to memory does not fail");
    };
    write(["at (UTC)", "value", "action", "actor", "sequence", "entry"]);
    for point in &line.points {
        let value = match &point.value {
            Some(value) => match serde_json::to_value(value).expect("a value is JSON") {
                serde_json::Value::String(text) => text,
                other => other.to_string(),
            },
            None => String::new(),
        };
        let (at, sequence, id) = (point.at.to_string(), point.sequence.to_string(), point.id.to_string());
        write([&at, &value, point.action.name(), &point.actor, &sequence, &id]);
    }
    out.into_inner().expect("writing to memory does not fail")
}

fn line_svg(line: &FieldLine) -> String {
    let numbers: Vec<_> = line.points.iter().filter_map(|it| Some((it.at, it.number?))).collect();
    let title = format!("{} of {} {}", line.field, line.record.kind, line.record.id);
    svg::render(&draw::line(&title, &numbers))
}
