//! Reports that are made by themselves: for each past day, week or month, written to a folder. The folder tells what is done: what was
//! missed while the vault did not run is caught up.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, anyhow};
use chrono::{DateTime, Datelike as _, Days, FixedOffset, Months, NaiveDate, SecondsFormat, TimeZone as _, Utc};

use crate::config::{Every, Reports, Schedule};
use crate::domain::caller::{Caller, Role};
use crate::domain::submission::ReasonIn;
use crate::domain::time::parse_offset;
use crate::report::{self, Format};
use crate::vault::{ReportIn, Vault};

/// The most reports of one schedule that are caught up at a time; older ones are not made.
const MOST_MISSED: usize = 60;

/// Makes what is due. What fails is told in the diagnostics, and tried again next time.
pub(super) fn make_due(vault: &Arc<Vault>, reports: &Reports, now: DateTime<Utc>) {
    let Some(folder) = &reports.folder else { return };
    let mut late = false;
    if !reports.schedule.is_empty() && vault.clock_is_behind() {
        // It would make those of days long past, one after the other.
        tracing::error!("no scheduled report is made while the clock is behind the newest entry");
        return vault.counters().late_reports.store(true, Ordering::Relaxed);
    }
    for it in &reports.schedule {
        if let Err(error) = catch_up(vault, folder, it, now) {
            tracing::error!(name = it.name, "a scheduled report could not be made: {error:#}");
            late = true;
        }
    }
    vault.counters().late_reports.store(late, Ordering::Relaxed);
}

fn catch_up(vault: &Arc<Vault>, folder: &Path, it: &Schedule, now: DateTime<Utc>) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let zone = parse_offset(&it.time_zone).context("the time zone is checked with the settings")?;
    for begin in due(it, &done(folder, it)?, now.with_timezone(&zone).date_naive()) {
        let (kept, file) = make(vault, it, begin, zone)?;
        let manifest = vault.report_manifest(&kept, &it.format, &file)?;
        let path = folder.join(format!("{}_{begin}.{}", it.name, it.format));
        // The manifest first: a report is there when both are.
        write(&folder.join(format!("{}_{begin}.{}.manifest", it.name, it.format)), manifest.as_bytes())?;
        write(&path, &file)?;
        tracing::info!(name = it.name, begin = %begin, report = %kept.id, "a scheduled report was written");
    }
    Ok(())
}

/// The first days of the periods that have a file.
fn done(folder: &Path, it: &Schedule) -> anyhow::Result<Vec<NaiveDate>> {
    let (prefix, suffix) = (format!("{}_", it.name), format!(".{}", it.format));
    let mut done = Vec::new();
    for file in fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))? {
        let name = file?.file_name();
        let day: Option<NaiveDate> =
            name.to_str().and_then(|it| it.strip_prefix(&prefix)?.strip_suffix(&suffix)?.parse().ok());
        done.extend(day);
    }
    done.sort_unstable();
    Ok(done)
}

/// The first days of the periods that are over and have no file: the newest one if there is none yet, else all since the first.
fn due(it: &Schedule, done: &[NaiveDate], today: NaiveDate) -> Vec<NaiveDate> {
    let begin_of = |day: NaiveDate| match it.every {
        Every::Day => day,
        Every::Week => day - Days::new(day.weekday().num_days_from_monday().into()),
        Every::Month => day.with_day(1).unwrap_or(day),
    };
    let before = |begin: NaiveDate| match it.every {
        Every::Day => begin - Days::new(1),
        Every::Week => begin - Days::new(7),
        Every::Month => begin - Months::new(1),
    };
    let newest = before(begin_of(today));
    let oldest = done.first().copied().unwrap_or(newest);
    let mut all = Vec::new();
    let mut begin = newest;
    while begin >= oldest && all.len() < MOST_MISSED {
        if !done.contains(&begin) {
            all.push(begin);
        }
        begin = before(begin);
    }
    all.reverse();
    all
}

fn end_of(it: &Schedule, begin: NaiveDate) -> NaiveDate {
    match it.every {
        Every::Day => begin + Days::new(1),
        Every::Week => begin + Days::new(7),
        Every::Month => begin + Months::new(1),
    }
}

fn make(
    vault: &Arc<Vault>,
    it: &Schedule,
    begin: NaiveDate,
    zone: FixedOffset,
) -> anyhow::Result<(crate::vault::KeptReport, Vec<u8>)> {
    let midnight = |day: NaiveDate| {
        let at = day.and_hms_opt(0, 0, 0).and_then(|it| zone.from_local_datetime(&it).single());
        at.map(|it| it.to_rfc3339_opts(SecondsFormat::Micros, true)).context("midnight is a time in every fixed zone")
    };
    let caller = Caller { token_id: "schedule".into(), label: "phivault-schedule".into(), role: Role::Officer };
    let asked = ReportIn {
        report: Some(it.report.clone()),
        actor: it.actor.clone(),
        patient: it.patient.clone(),
        record_type: it.record_type.clone(),
        field: it.field.clone(),
        from: Some(midnight(begin)?),
        to: Some(midnight(end_of(it, begin))?),
        time_zone: Some(it.time_zone.clone()),
        reason: Some(ReasonIn { code: Some(it.reason.clone()), ..ReasonIn::default() }),
        ..ReportIn::default()
    };
    let (kept, document) = vault.make_report(&caller, asked).map_err(|error| anyhow!("{}", told(&error)))?;
    let format = Format::parse(&it.format).context("the format is checked with the settings")?;
    let file = report::render(&document, format).map_err(|error| anyhow!(error))?;
    Ok((kept, file))
}

fn told(error: &crate::vault::VaultError) -> String {
    match error {
        crate::vault::VaultError::Invalid(issues) => {
            issues.iter().map(|it| format!("{} {}", it.pointer, it.detail)).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

/// Writes a file whole or not at all; nobody but the vault's user reads it.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let next = PathBuf::from(format!("{}.new", path.display()));
    let shown = next.display();
    let open = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next);
    let mut file = open.with_context(|| format!("{shown} cannot be made"))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(|| format!("{shown} cannot be written"))?;
    fs::rename(&next, path).with_context(|| format!("{} cannot be put in place", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(every: Every) -> Schedule {
        let text = format!("name = 'x'\nreport = 'users'\nevery = '{}'", format!("{every:?}").to_lowercase());
        toml::from_str(&text).unwrap()
    }

    fn days(text: &str) -> Vec<NaiveDate> {
        text.split_whitespace().map(|it| it.parse().unwrap()).collect()
    }

    #[test]
    fn the_last_period_is_due_and_so_is_what_was_missed_since_the_first_file() {
        for (every, done, today, wanted) in [
            (Every::Day, "", "2026-03-01", "2026-02-28"),
            (Every::Day, "2026-02-28", "2026-03-01", ""),
            (Every::Day, "2026-02-25 2026-02-27", "2026-03-01", "2026-02-26 2026-02-28"),
            (Every::Week, "", "2026-11-24", "2026-11-16"),
            (Every::Week, "", "2026-11-23", "2026-11-16"),
            (Every::Week, "", "2026-11-22", "2026-11-09"),
            (Every::Month, "2026-10-01", "2027-01-31", "2026-11-01 2026-12-01"),
        ] {
            let found = due(&schedule(every), &days(done), today.parse().unwrap());
            assert_eq!(found, days(wanted), "{every:?} {done} {today}");
        }
        let long_ago = due(&schedule(Every::Day), &days("2020-01-01"), "2026-03-01".parse().unwrap());
        assert!(long_ago.len() == MOST_MISSED && *long_ago.last().unwrap() == "2026-02-28".parse().unwrap());
    }
}
