//! What a report is asked for: checked, narrowed to what the caller may ask, and completed from the reports before.

use chrono::NaiveDate;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission, Role};
use crate::domain::query::QueryIn;
use crate::domain::reports::accounting::{Request, Suspension};
use crate::domain::reports::{Params, ReportKind, SORTS, Withheld};
use crate::domain::submission::{ReasonIn, object};
use crate::domain::time::{Timestamp, parse_offset};

use super::super::Vault;
use super::super::approval::refused;
use super::super::error::VaultError;
use super::KeptReport;

/// No clock on earth is further from UTC, seconds.
const FURTHEST_ZONE: i64 = 14 * 3_600;

/// What a report is asked for. Which parts are needed depends on the report; all others may be left out.
#[derive(Deserialize, ToSchema, Default)]
#[serde(deny_unknown_fields)]
pub struct ReportIn {
    /// access, users, patient, disclosures, break-glass, review, logins, reasons, privileged, integrity, continuity or values.
    #[schema(required = true)]
    pub report: Option<String>,
    /// The user.
    pub actor: Option<String>,
    /// The patient.
    pub patient: Option<String>,
    /// The type of the records.
    pub record_type: Option<String>,
    /// One record.
    pub record_id: Option<String>,
    /// The numeric field of a values report.
    pub field: Option<String>,
    /// The column that the entries of an access report are sorted by.
    pub sort: Option<String>,
    /// Not before this time (RFC 3339), by the time things happened.
    pub from: Option<String>,
    /// Before this time; the time of the report if absent.
    pub to: Option<String>,
    /// The offset from UTC in which days and hours are counted: Z (default) or such as +02:00.
    pub time_zone: Option<String>,
    /// What an accounting of disclosures takes beside that.
    #[serde(default, deserialize_with = "object")]
    pub accounting: Option<Request>,
    /// Why it is made.
    #[schema(required = true)]
    #[serde(default, deserialize_with = "object")]
    pub reason: Option<ReasonIn>,
}

impl Vault {
    /// What a patient's token may ask for: the report about the patient.
    pub(super) fn for_patient(
        &self,
        caller: &Caller,
        kind: ReportKind,
        asked: ReportIn,
    ) -> Result<ReportIn, VaultError> {
        if caller.role != Role::Patient {
            return Ok(asked);
        }
        if kind != ReportKind::Patient {
            self.allow(caller, Permission::Report, Action::REPORT)?;
        }
        let patient = Some(self.patient_of_token(&caller.token_id).ok_or(VaultError::Denied)?);
        if asked.patient.is_some() && asked.patient != patient {
            self.allow(caller, Permission::Report, Action::REPORT)?;
        }
        Ok(ReportIn { patient, ..asked })
    }

    /// What an accounting, or a report for the person, takes from the accountings of the person before.
    ///
    /// # Errors
    /// [`VaultError::Invalid`]; [`VaultError::Integrity`] when kept reports were altered or removed, for then nobody knows what the
    /// person must not be told.
    pub(super) fn complete(&self, kind: ReportKind, params: &mut Params) -> Result<(), VaultError> {
        let for_person = kind == ReportKind::Patient || params.accounting.as_ref().is_some_and(|it| it.for_person);
        if for_person && self.reports_untrusted {
            let what = "kept reports were altered or removed, so it is not known what the person must not be told; run phivault verify";
            return Err(VaultError::Integrity(what.into()));
        }
        if !matches!(kind, ReportKind::Disclosures | ReportKind::Patient) {
            return Ok(());
        }
        let now = self.clock.now();
        // The zone is the caller's choice, so it does not decide when a suspension begins or ends.
        let day = |seconds: i64| now.plus_seconds(seconds).to_utc().date_naive();
        let (first, last) = (day(-FURTHEST_ZONE), day(FURTHEST_ZONE));
        let before = self.accountings_before(params.patient.as_deref());
        let mut suspensions = before.iter().fold(Vec::new(), |all, it| {
            let named = it.parameters.accounting.as_ref().and_then(|it| it.suspensions.as_deref());
            added(all, named)
        });
        if kind == ReportKind::Patient {
            suspensions.retain(|it| it.from <= last && !it.is_over(first));
            params.withheld = (!suspensions.is_empty()).then_some(Withheld { suspensions });
            return Ok(());
        }
        suspensions.retain(|it| !it.is_over(first));
        let (today, zone) = (params.zone_day(now), Params { offset: params.offset, ..Params::default() });
        let request = params.accounting.get_or_insert_default();
        request.given_on = today;
        let asked = request.asked_on();
        if asked > today {
            let detail =
                "The day of the request (requested_on) is a date such as 2026-11-24, and not later than today.";
            return Err(refused("/accounting/requested_on", "day_in_future", detail));
        }
        // That all were lifted is kept, too.
        let said = request.suspensions.is_some();
        request.suspensions =
            Some(added(suspensions, request.suspensions.as_deref())).filter(|it| said || !it.is_empty());
        request.last_accounting = request.last_accounting.or_else(|| given_before(&before, asked));
        request.since = request.since.or(params.from.map(|it| zone.zone_day(it)));
        request.through = request.through.or(params.to.map(|it| zone.zone_day(Timestamp(it.0 - 1))));
        if request.since.is_some_and(|since| since > request.last_day()) {
            let detail = "The time that is accounted for begins (from, since) after it ends (to, through) or after the day of the request (requested_on).";
            return Err(refused("/accounting", "time_order", detail));
        }
        Ok(())
    }

    /// The accountings of a person that are kept, oldest first.
    fn accountings_before(&self, patient: Option<&str>) -> Vec<KeptReport> {
        let is = |it: &&KeptReport| it.report == ReportKind::Disclosures && it.parameters.patient.as_deref() == patient;
        let mut before: Vec<_> = self.read_reports().values().filter(is).cloned().collect();
        before.sort_by_key(|it| (it.made_at, it.id));
        before
    }

    pub(super) fn check_ids(&self, params: &Params) -> Result<(), VaultError> {
        let query = QueryIn {
            actor: params.actor.clone(),
            patient: params.patient.clone(),
            record_type: params.record_type.clone(),
            record_id: params.record_id.clone(),
            field: params.field.clone(),
            ..QueryIn::default()
        };
        let in_body = |mut it: crate::domain::issue::Issue| {
            it.pointer = format!("/{}", it.pointer);
            it
        };
        let checked = query.check(|id| self.patient_forms(id));
        checked.map(|_| ()).map_err(|found| VaultError::Invalid(found.into_iter().map(in_body).collect()))
    }
}

/// Suspensions with those of a new statement: of an agency that is named again the new ones count. An empty list lifts all.
fn added(before: Vec<Suspension>, named: Option<&[Suspension]>) -> Vec<Suspension> {
    match named {
        None => before,
        Some([]) => Vec::new(),
        Some(named) => {
            let kept = before.into_iter().filter(|it| !named.iter().any(|new| new.is(&it.agency)));
            kept.chain(named.iter().cloned()).collect()
        }
    }
}

/// When an accounting was last given to the person on an earlier request. Copies of the same one are not counted (c)(2).
fn given_before(before: &[KeptReport], asked: NaiveDate) -> Option<NaiveDate> {
    let given = before.iter().filter_map(|it| {
        let (request, day) = (it.parameters.accounting.as_ref()?, it.parameters.zone_day(it.made_at));
        (request.for_person && request.requested_on.unwrap_or(day) < asked).then_some(day)
    });
    given.max()
}

/// The parameters of a report, if they make sense.
pub(super) fn check(kind: ReportKind, asked: ReportIn) -> Result<Params, VaultError> {
    let time = |pointer: &str, text: Option<String>| {
        let wrong = || refused(pointer, "time_invalid", "This is no RFC 3339 time such as 2026-11-01T00:00:00Z.");
        text.map(|it| Timestamp::parse(&it).ok_or_else(wrong)).transpose()
    };
    let (from, to) = (time("/from", asked.from)?, time("/to", asked.to)?);
    if let (Some(from), Some(to)) = (from, to)
        && to <= from
    {
        return Err(refused("/to", "time_order", "The end (to) must lie after the beginning (from)."));
    }
    let offset = parse_offset(asked.time_zone.as_deref().unwrap_or("Z"))
        .ok_or_else(|| refused("/time_zone", "zone_invalid", "The time zone is Z or an offset such as +02:00."))?;
    let given = [
        ("actor", asked.actor.is_some()),
        ("patient", asked.patient.is_some()),
        ("record_type", asked.record_type.is_some()),
        ("record_id", asked.record_id.is_some()),
        ("field", asked.field.is_some()),
        ("sort", asked.sort.is_some()),
        ("accounting", asked.accounting.is_some()),
    ];
    if let Some(missing) = kind.required().iter().find(|it| !given.contains(&(**it, true))) {
        let detail = format!("The report {} needs {missing}.", kind.name());
        return Err(refused(&format!("/{missing}"), "missing", detail));
    }
    if let Some((more, _)) = given.iter().find(|it| it.1 && !kind.takes().contains(&it.0)) {
        let takes = kind.takes().join(", ");
        let takes = if takes.is_empty() { "only a period".to_owned() } else { takes };
        let detail = format!("The report {} does not go by {more}. It takes: {takes}.", kind.name());
        return Err(refused(&format!("/{more}"), "not_used", detail));
    }
    if asked.sort.as_ref().is_some_and(|it| !SORTS.contains(&it.as_str())) {
        let detail = format!("Columns to sort by: {}.", SORTS.join(", "));
        return Err(refused("/sort", "column_unknown", detail));
    }
    if let Some(problem) = asked.accounting.as_ref().and_then(Request::problem) {
        return Err(refused("/accounting", "accounting_invalid", problem));
    }
    let ReportIn { actor, patient, record_type, record_id, field, sort, accounting, .. } = asked;
    let offset = offset.local_minus_utc();
    Ok(Params { actor, patient, record_type, record_id, field, sort, from, to, offset, accounting, withheld: None })
}
