//! `phivault report`: who looked at what, how often and why, as tables, CSV or JSON.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use chrono::{DateTime, FixedOffset, NaiveDate, NaiveTime, Offset as _, SecondsFormat, TimeZone as _, Utc};
use clap::Subcommand;
use indicatif::HumanCount;
use serde::Deserialize;
use serde_json::Value;

use crate::cli::client::terminal::{self, escape, moment};
use crate::cli::client::{Client, ConnectArgs};

mod breach;
mod kept;

/// Make reports for compliance (needs the role officer)
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Report who did what, and why: all users, or one in detail
    ///
    /// Making the report is itself recorded, with the reason. Without --actor there is a line for each user; with it,
    /// what this user did by reason, action, patient, day and hour, and each use of break-the-glass.
    Access(Access),
    /// Report what was readable under a data key in a time, and who revealed it: for a suspected breach
    ///
    /// Which entries, patients and categories were sealed under the version, by the rotations and re-encryptions that the
    /// ledger records, for the risk assessment of 45 CFR 164.402(2).
    BreachScope(breach::Args),
    #[command(flatten)]
    Kept(kept::Command),
}

#[derive(Debug, clap::Args)]
struct Access {
    /// Only this user, in detail
    #[arg(long, value_name = "ID")]
    actor: Option<String>,

    /// What happened from this time on: 2026-11-01T08:00:00Z, or a date, which means its midnight in --time-zone
    #[arg(long, value_name = "TIME")]
    from: Option<String>,

    /// What happened before this time; for all of November, give --to 2026-12-01
    #[arg(long, value_name = "TIME")]
    to: Option<String>,

    /// Why the report is made, as a code of the vault's vocabulary
    #[arg(long, value_name = "CODE", default_value = "HCOMPL")]
    reason: String,

    /// Where days begin and hours are counted, as an offset from UTC such as +02:00
    #[arg(long, value_name = "OFFSET", value_parser = parse_zone, default_value = "Z", allow_hyphen_values = true)]
    time_zone: FixedOffset,

    /// Write CSV to this new file (mode 600), or to standard output (-)
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    csv: Option<PathBuf>,

    /// Print the whole report as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// Does what the subcommand says.
///
/// # Errors
/// What the vault refuses, times that are not understood, and files that cannot be written.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Access(args) => access(&args).await?,
        Command::BreachScope(args) => breach::run(&args).await?,
        Command::Kept(command) => kept::run(command).await?,
    }
    Ok(ExitCode::SUCCESS)
}

const REPORT: &[&str] = &["v1", "reports", "access"];
/// Patients shown for one user; the whole list is in --json and --csv.
const SHOWN_PATIENTS: usize = 20;
const BAR_WIDTH: u64 = 30;

#[derive(Debug, Deserialize)]
struct Report {
    generated_at: String,
    from: Option<String>,
    to: Option<String>,
    entries_covered: u64,
    actors: Vec<Actor>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Actor {
    actor: String,
    total: u64,
    with_note: u64,
    first: Option<String>,
    last: Option<String>,
    break_glass: u64,
    failures: u64,
    denials: u64,
    by_action: Counts,
    by_outcome: Counts,
    by_reason: Counts,
    by_patient: Counts,
    by_record_type: Counts,
    by_day: Counts,
    by_hour: Counts,
    break_glass_uses: Vec<BreakGlass>,
}

type Counts = BTreeMap<String, u64>;

#[derive(Debug, Deserialize)]
struct BreakGlass {
    sequence: u64,
    id: String,
    at: String,
    patient: Option<String>,
    reason: Option<String>,
    #[serde(default)]
    note_given: bool,
}

async fn access(args: &Access) -> anyhow::Result<()> {
    let query = query(args)?;
    let mut query: Vec<(&str, &str)> = query.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let client = Client::connect(&args.connect)?;
    if let Some(path) = &args.csv {
        query.push(("format", "csv"));
        return download(&client, &query, path).await;
    }
    let answer: Value = client.get(REPORT, &query).await?;
    let text = if args.json {
        terminal::json(&answer)?
    } else {
        let report: Report =
            serde_json::from_value(answer).context("the vault's report has an unexpected form: try --json")?;
        if args.actor.is_some() { detailed(&report, args.time_zone) } else { overview(&report, args.time_zone) }
    };
    terminal::print(&text)?;
    Ok(())
}

fn query(args: &Access) -> anyhow::Result<Vec<(&'static str, String)>> {
    let mut query = vec![("reason", args.reason.clone()), ("time_zone", zone_name(args.time_zone))];
    if let Some(actor) = &args.actor {
        query.push(("actor", actor.clone()));
    }
    for (name, value) in [("from", &args.from), ("to", &args.to)] {
        if let Some(text) = value {
            let at = parse_time(text, args.time_zone).with_context(|| format!("--{name} {text}"))?;
            query.push((name, at.to_rfc3339_opts(SecondsFormat::Micros, true)));
        }
    }
    Ok(query)
}

/// A report that broke off half-way is removed: it would look complete.
async fn download(client: &Client, query: &[(&str, &str)], path: &Path) -> anyhow::Result<()> {
    if path == Path::new("-") {
        let out = io::stdout();
        if out.is_terminal() {
            client.download(REPORT, query, "text/csv", &mut Disarmed::new(out)).await?;
        } else {
            client.download(REPORT, query, "text/csv", &mut io::BufWriter::new(out)).await?;
        }
        return Ok(());
    }
    let shown = path.display();
    let mut file = terminal::private_file(path)
        .with_context(|| format!("{shown} cannot be created (an existing file is never overwritten)"))?;
    let outcome = match client.download(REPORT, query, "text/csv", &mut file).await {
        Ok(bytes) => file.sync_all().map(|()| bytes).with_context(|| format!("{shown} cannot be synced")),
        Err(error) => Err(error),
    };
    if outcome.is_err() {
        let _ = fs::remove_file(path);
    }
    eprintln!("{} bytes written to {shown} (mode 600: it may hold health data)", HumanCount(outcome?));
    Ok(())
}

/// Passes text on to a terminal without what could control it. Collected whole, for a character may be split
/// between two writes; what somebody reads on a screen is small.
struct Disarmed<W> {
    out: W,
    text: Vec<u8>,
}

impl<W: Write> Disarmed<W> {
    fn new(out: W) -> Self {
        Self { out, text: Vec::new() }
    }
}

impl<W: Write> Write for Disarmed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        for line in String::from_utf8_lossy(&self.text).lines() {
            writeln!(self.out, "{}", escape(line))?;
        }
        self.text.clear();
        self.out.flush()
    }
}

fn overview(report: &Report, zone: FixedOffset) -> String {
    let mut actors: Vec<&Actor> = report.actors.iter().collect();
    actors.sort_by(|a, b| b.total.cmp(&a.total).then_with(|| a.actor.cmp(&b.actor)));
    let row = |actor: &&Actor| {
        let time = |at: &Option<String>| at.as_deref().map_or(String::new(), |at| moment(at, Some(zone)));
        let main_reason = ranked(&actor.by_reason).first().map_or(String::new(), |(code, _)| (*code).to_owned());
        vec![
            actor.actor.clone(),
            count(actor.total),
            share(actor.with_note, actor.total),
            main_reason,
            count(actor.break_glass),
            count(actor.failures),
            count(actor.denials),
            time(&actor.first),
            time(&actor.last),
        ]
    };
    let rows: Vec<_> = actors.iter().map(row).collect();
    let header = ["USER", "ENTRIES", "WITH NOTE", "MAIN REASON", "BREAK-GLASS", "FAILED", "DENIED", "FIRST", "LAST"];
    let table =
        if rows.is_empty() { "no entries in this period".to_owned() } else { terminal::table(&header, &rows, &[0]) };
    format!("{}\n{table}", heading(report, zone))
}

fn detailed(report: &Report, zone: FixedOffset) -> String {
    let mut parts = vec![heading(report, zone)];
    if report.actors.is_empty() {
        parts.push("no entries of this user in this period".to_owned());
    }
    for actor in &report.actors {
        parts.push(format!(
            "User {}: {} entries, {} with a note, {} break-glass, {} failed, {} denied",
            escape(&actor.actor),
            count(actor.total),
            share(actor.with_note, actor.total),
            count(actor.break_glass),
            count(actor.failures),
            count(actor.denials)
        ));
        for (title, counts, limit) in [
            ("REASON", &actor.by_reason, usize::MAX),
            ("ACTION", &actor.by_action, usize::MAX),
            ("OUTCOME", &actor.by_outcome, usize::MAX),
            ("RECORD TYPE", &actor.by_record_type, usize::MAX),
            ("PATIENT", &actor.by_patient, SHOWN_PATIENTS),
        ] {
            parts.extend(breakdown(title, &ranked(counts), actor.total, limit));
        }
        for (title, counts) in [("DAY", &actor.by_day), ("HOUR", &actor.by_hour)] {
            let in_order: Vec<_> = counts.iter().map(|(key, n)| (key.as_str(), *n)).collect();
            parts.extend(histogram(title, &in_order));
        }
        parts.extend(glass_table(&actor.break_glass_uses, zone));
    }
    parts.join("\n\n")
}

fn heading(report: &Report, zone: FixedOffset) -> String {
    let end =
        |at: &Option<String>, open: &str| at.as_deref().map_or(open.to_owned(), |at| escape(&moment(at, Some(zone))));
    format!(
        "Access report, {} to {}, times in {}\n{} entries covered, made {}",
        end(&report.from, "the beginning"),
        end(&report.to, "now"),
        if zone == Utc.fix() { "UTC".to_owned() } else { format!("UTC{}", zone_name(zone)) },
        count(report.entries_covered),
        escape(&moment(&report.generated_at, Some(zone)))
    )
}

fn breakdown(title: &str, counts: &[(&str, u64)], total: u64, limit: usize) -> Option<String> {
    if counts.is_empty() {
        return None;
    }
    let rows: Vec<_> =
        counts.iter().take(limit).map(|(key, n)| vec![(*key).to_owned(), count(*n), share(*n, total)]).collect();
    let mut text = terminal::table(&[title, "ENTRIES", "SHARE"], &rows, &[0]);
    if counts.len() > limit {
        text.push_str(&format!("\n… and {} more: see --json or --csv", counts.len() - limit));
    }
    Some(text)
}

fn histogram(title: &str, counts: &[(&str, u64)]) -> Option<String> {
    let most = counts.iter().map(|(_, n)| *n).max().filter(|most| *most > 0)?;
    // Rounded up, so that one entry among thousands still shows.
    let bar = |n: u64| {
        "#".repeat(usize::try_from((u128::from(n) * u128::from(BAR_WIDTH)).div_ceil(u128::from(most))).unwrap_or(0))
    };
    let rows: Vec<_> = counts.iter().map(|(key, n)| vec![(*key).to_owned(), count(*n), bar(*n)]).collect();
    Some(terminal::table(&[title, "ENTRIES", ""], &rows, &[]))
}

fn glass_table(uses: &[BreakGlass], zone: FixedOffset) -> Option<String> {
    if uses.is_empty() {
        return None;
    }
    let row = |used: &BreakGlass| {
        vec![
            used.sequence.to_string(),
            moment(&used.at, Some(zone)),
            used.patient.clone().unwrap_or_default(),
            used.reason.clone().unwrap_or_default(),
            if used.note_given { "yes" } else { "no" }.to_owned(),
            used.id.clone(),
        ]
    };
    let rows: Vec<_> = uses.iter().map(row).collect();
    Some(format!(
        "Break-the-glass:\n{}",
        terminal::table(&["ENTRY", "RECEIVED", "PATIENT", "REASON", "NOTE", "ID"], &rows, &[2, 5])
    ))
}

/// Most first; equals by name.
fn ranked(counts: &Counts) -> Vec<(&str, u64)> {
    let mut ranked: Vec<_> = counts.iter().map(|(key, n)| (key.as_str(), *n)).collect();
    ranked.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    ranked
}

fn count(n: u64) -> String {
    HumanCount(n).to_string()
}

/// In tenths of a percent; "100%" means all of them and "0%" none, never nearly.
fn share(part: u64, whole: u64) -> String {
    match (part, whole) {
        (_, 0) => "-".to_owned(),
        (0, _) => "0%".to_owned(),
        (part, whole) if part >= whole => "100%".to_owned(),
        (part, whole) => {
            let tenths = ((u128::from(part) * 2000 / u128::from(whole)).div_ceil(2)).clamp(1, 999);
            format!("{}.{}%", tenths / 10, tenths % 10)
        }
    }
}

/// `Z`, `UTC`, or `+hh:mm` / `-hh:mm`, up to 14 hours.
fn parse_zone(text: &str) -> Result<FixedOffset, String> {
    let wrong = || "an offset such as +02:00 or -05:30, or Z, is needed".to_owned();
    if matches!(text, "Z" | "z" | "UTC") {
        return Ok(Utc.fix());
    }
    let (sign, rest) = match text.as_bytes().first() {
        Some(b'+') => (1, &text[1..]),
        Some(b'-') => (-1, &text[1..]),
        _ => return Err(wrong()),
    };
    let (hours, minutes) = rest
        .split_once(':')
        .filter(|(h, m)| [h, m].iter().all(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit())))
        .ok_or_else(wrong)?;
    let (Ok(hours), Ok(minutes)) = (hours.parse::<i32>(), minutes.parse::<i32>()) else { return Err(wrong()) };
    if minutes > 59 || hours * 60 + minutes > 14 * 60 {
        return Err(wrong());
    }
    FixedOffset::east_opt(sign * (hours * 60 + minutes) * 60).ok_or_else(wrong)
}

fn zone_name(zone: FixedOffset) -> String {
    zone.to_string()
}

/// A moment, or the midnight a date begins with.
fn parse_time(text: &str, zone: FixedOffset) -> anyhow::Result<DateTime<Utc>> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(at.with_timezone(&Utc));
    }
    let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") else {
        bail!("a time such as 2026-11-01T08:00:00Z or a date such as 2026-11-01 is needed");
    };
    let midnight = zone.from_local_datetime(&date.and_time(NaiveTime::MIN)).single();
    Ok(midnight.context("the date is beyond the calendar")?.with_timezone(&Utc))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report() -> Report {
        let actor = json!({"actor": "dr_smith\u{1b}[2J", "total": 3, "with_note": 1, "note_share": 0.33, "first": "2026-11-24T23:30:00Z", "last": null,
            "break_glass": 1, "failures": 0, "denials": 0, "by_action": {"read": 2, "update": 1}, "by_outcome": {"success": 3}, "by_reason": {"BTG": 1, "TREAT": 2},
            "by_patient": {"MRN-1": 3}, "by_record_type": {}, "by_day": {"2026-11-25": 3}, "by_hour": {"01": 1, "02": 2},
            "break_glass_uses": [{"sequence": 7, "id": "0193", "at": "2026-11-24T23:30:00Z", "patient": "MRN-1", "reason": "BTG", "note_given": true}]});
        serde_json::from_value(json!({"generated_at": "2026-11-25T00:00:00Z", "from": null, "to": null, "time_zone": "+02:00", "actor": null,
            "entries_covered": 3, "checkpoint": "…", "actors": [actor]}))
        .unwrap()
    }

    #[test]
    fn both_views_show_times_in_the_zone_and_no_control_character() {
        let zone = parse_zone("+02:00").unwrap();
        for text in [overview(&report(), zone), detailed(&report(), zone)] {
            assert!(
                text.contains("2026-11-25 01:30:00") && text.contains("33.3%") && text.contains("UTC+02:00"),
                "{text}"
            );
            assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        }
    }

    #[test]
    fn a_share_is_never_rounded_to_all_or_nothing() {
        let shares = [
            (0, 0, "-"),
            (0, 9, "0%"),
            (9, 9, "100%"),
            (1, 1_000_000, "0.1%"),
            (999_999, 1_000_000, "99.9%"),
            (1, 2, "50.0%"),
        ];
        for (part, whole, expected) in shares {
            assert_eq!(share(part, whole), expected);
        }
    }

    #[test]
    fn a_zone_is_an_offset_within_a_day() {
        for (text, seconds) in [("Z", 0), ("UTC", 0), ("+02:00", 7200), ("-05:30", -19_800), ("+14:00", 50_400)] {
            assert_eq!(parse_zone(text).unwrap().local_minus_utc(), seconds, "{text}");
        }
        for text in ["", "+2", "02:00", "+02:60", "+15:00", "+0200", "Europe/Berlin", "+-1:00", "é"] {
            assert!(parse_zone(text).is_err(), "{text}");
        }
        assert_eq!(zone_name(parse_zone("-05:30").unwrap()), "-05:30");
    }

    #[test]
    fn a_date_is_its_midnight_in_the_zone() {
        let zone = parse_zone("+02:00").unwrap();
        let shown = |text: &str| parse_time(text, zone).unwrap().to_rfc3339_opts(SecondsFormat::Secs, true);
        assert_eq!(shown("2026-11-01"), "2026-10-31T22:00:00Z");
        assert_eq!(shown("2026-11-01T08:00:00-01:00"), "2026-11-01T09:00:00Z");
        assert!(parse_time("yesterday", zone).is_err());
    }

    #[test]
    fn csv_on_a_terminal_is_disarmed_even_when_a_character_is_split() {
        let mut shown = Vec::new();
        let mut out = Disarmed::new(&mut shown);
        for byte in "a,\u{9b}\r\nb,é\n".bytes() {
            out.write_all(&[byte]).unwrap();
        }
        out.flush().unwrap();
        assert_eq!(String::from_utf8(shown).unwrap(), "a,\\u{9b}\nb,é\n");
    }
}
