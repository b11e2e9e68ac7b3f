//! A small clinic that never was: a year of submissions from a seed, for demonstrations and tests.
//!
//! A family clinic with urgent care: six physicians, five nurses, a front desk, billing, a researcher, a records
//! office, an administrator and the interface of a laboratory see a few hundred patients. Most of it is routine; in
//! between come emergencies, broken glass with and without a note, a clerk who is curious after hours, late entries,
//! entries in error, disclosures, refused logins and a patient who was registered twice.
//!
//! Pure: the same seed and the same end give the same bytes on every machine, for there is no clock, no input and no
//! output here. The clinic keeps UTC and opens from 7 to 19 on weekdays. The day before the end is always an open one,
//! whatever its weekday, and has most of the unusual events on it, so that a demonstration finds them on "yesterday".
//!
//! | file | what it holds |
//! |---|---|
//! | `people.rs` | staff, patients and their charts |
//! | `days.rs` | a day's routine: shifts, visits, results, billing, research |
//! | `incidents.rs` | what a compliance officer looks for |
//! | `submission.rs` | the fields of one submission |
//! | `random.rs` | repeatable chance |

mod days;
mod incidents;
mod people;
mod random;
mod submission;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta, Utc};
use serde_json::Value;
use uuid::Builder;

use self::people::{Chart, NOSY};
use self::random::{Chance, mix};
use self::submission::Submission;

/// The user id of the employee who reads charts out of curiosity.
pub fn nosy_actor() -> &'static str {
    NOSY.id
}

/// The patient whose record courts ask for.
pub fn litigant() -> String {
    people::mrn(people::LITIGANT)
}

/// About 20,000 submissions of one year, in the order in which the clinic sends them: by `occurred_at`, but for the
/// late entries. The last of them are of the day (UTC) before `end`; none is later than `end`.
///
/// The same seed and the same day of `end` give the same bytes. Each has an `id`, a UUID of version 8 that starts with
/// the time of the event (as version 7 does) and goes on with bits from seed, day of `end` and position. `end` may be
/// any time from the year 2 to 9999.
pub fn year(seed: u64, end: DateTime<Utc>) -> Vec<Value> {
    Clinic::new(seed, end).into_year()
}

/// What [`year`] with the same arguments contains, counted over the submissions themselves.
pub fn facts(seed: u64, end: DateTime<Utc>) -> Facts {
    Facts::of(&year(seed, end))
}

/// What a tester can look for in the submissions of a year.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Number of submissions.
    pub total: u64,
    /// Submissions for each actor id.
    pub by_actor: BTreeMap<String, u64>,
    /// The actor who reads charts out of curiosity.
    pub nosy_actor: String,
    /// Reads by the nosy actor before 7 or after 19 o'clock UTC.
    pub nosy_reads: u64,
    /// Whose charts these were: colleagues and a well-known person.
    pub nosy_patients: BTreeSet<String>,
    /// Entries with reason BTG and a note.
    pub break_glass_with_note: u64,
    /// Entries with reason BTG and no note.
    pub break_glass_without_note: u64,
    /// Entries with a consent override (OVRER, OVRPJ, OVRPS, OVRTPS).
    pub overrides: u64,
    /// Patients that became one.
    pub merges: Vec<Merge>,
    /// Entries whose data speak of an earlier time (`effective_at` before `occurred_at`), sent after younger ones.
    pub late_entries: u64,
}

/// Two patient ids that became one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    /// The id that stays in use.
    pub kept: String,
    /// The id that must not be used again.
    pub retired: String,
}

impl Facts {
    /// Counts these submissions, which must be in the order in which they are sent.
    pub fn of(submissions: &[Value]) -> Self {
        let mut facts = Self { nosy_actor: NOSY.id.to_owned(), ..Self::default() };
        let mut newest = "";
        for submission in submissions {
            facts.count(submission);
            let occurred = text(submission, "/occurred_at");
            // Times are all written alike, so their order as text is their order in time.
            let effective = text(submission, "/effective_at");
            if !effective.is_empty() && effective < occurred && occurred < newest {
                facts.late_entries += 1;
            }
            newest = newest.max(occurred);
        }
        facts
    }

    fn count(&mut self, submission: &Value) {
        let (actor, action) = (text(submission, "/actor/id"), text(submission, "/action"));
        self.total += 1;
        *self.by_actor.entry(actor.to_owned()).or_default() += 1;
        if actor == NOSY.id && action == "read" && is_after_hours(text(submission, "/occurred_at")) {
            self.nosy_reads += 1;
            self.nosy_patients.insert(text(submission, "/patient/id").to_owned());
        }
        match (text(submission, "/reason/code"), text(submission, "/reason/note")) {
            ("BTG", "") => self.break_glass_without_note += 1,
            ("BTG", _) => self.break_glass_with_note += 1,
            ("OVRER" | "OVRPJ" | "OVRPS" | "OVRTPS", _) => self.overrides += 1,
            _ => {}
        }
        if action == "merge" {
            self.merges.push(Merge {
                kept: text(submission, "/patient/id").to_owned(),
                retired: text(submission, "/related/0/id").to_owned(),
            });
        }
    }
}

/// A clinic at work: its charts as they stand, and what it has written into its book so far.
#[derive(Debug)]
pub struct Clinic {
    seed: u64,
    chance: Chance,
    /// The day before the end; the year is this day and the 364 before it.
    last_day: NaiveDate,
    charts: Vec<Chart>,
    /// Records numbered so far.
    numbered: u32,
    book: Vec<Submission>,
    /// Visits that billing has not seen yet.
    unbilled: Vec<days::Claim>,
}

impl Clinic {
    /// The clinic on the morning of its first day. Arguments as for [`year`].
    pub fn new(seed: u64, end: DateTime<Utc>) -> Self {
        let mut chance = Chance::new(seed);
        let charts = people::charts(&mut chance);
        Self {
            seed,
            chance,
            last_day: end.date_naive() - Days::new(1),
            charts,
            numbered: 0,
            book: Vec::new(),
            unbilled: Vec::new(),
        }
    }

    /// Lives through the year and hands out its submissions, as [`year`] describes them.
    pub fn into_year(mut self) -> Vec<Value> {
        for back in (0..DAYS_OF_YEAR).rev() {
            self.day(self.last_day - Days::new(back), back);
        }
        let Self { seed, last_day, mut book, .. } = self;
        // A stable sort, so that what happens in one second stays in the order in which it was told.
        book.sort_by_key(|submission| submission.sent_at);
        let stream = mix(seed) ^ mix(last_day.to_epoch_days().unsigned_abs().into());
        (0..)
            .zip(book)
            .map(|(count, submission)| {
                let id = identifier(submission.occurred_at, stream, count);
                submission.finish(&id)
            })
            .collect()
    }

    /// Writes one submission into the book, unless the year is over by then.
    fn put(&mut self, submission: Submission) {
        if submission.sent_at.date_naive() > self.last_day {
            return;
        }
        let request = format!("req-{:016x}", self.chance.draw());
        self.book.push(submission.context("request_id", &request));
    }

    /// A new record id.
    fn number(&mut self, prefix: &str) -> String {
        self.numbered += 1;
        format!("{prefix}-{:06}", self.numbered)
    }

    /// Some second within this minute (counted from midnight) of a day.
    fn at(&mut self, day: NaiveDate, minute: u32) -> DateTime<Utc> {
        midnight(day) + TimeDelta::minutes(minute.into()) + self.pause(0, 59)
    }

    /// A while of so many seconds.
    fn pause(&mut self, low: u32, high: u32) -> TimeDelta {
        TimeDelta::seconds(self.chance.between(low, high).into())
    }
}

const DAYS_OF_YEAR: u64 = 365;

fn midnight(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(NaiveTime::MIN).and_utc()
}

/// UUID of version 8 (RFC 9562): 48 bits of Unix milliseconds, then bits that depend on the stream and the position.
fn identifier(time: DateTime<Utc>, stream: u64, count: u64) -> String {
    let milliseconds = u64::try_from(time.timestamp_millis()).unwrap_or(0);
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&milliseconds.to_be_bytes()[2..]);
    bytes[6..8].copy_from_slice(&mix(stream.wrapping_sub(count)).to_be_bytes()[..2]);
    bytes[8..].copy_from_slice(&mix(stream.wrapping_add(count)).to_be_bytes());
    Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

/// The text in this place, empty if there is none.
fn text<'a>(submission: &'a Value, pointer: &str) -> &'a str {
    submission.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Whether a time as the clinic writes it is outside the hours from 7 to 19.
fn is_after_hours(time: &str) -> bool {
    let hour = time.get(11..13).unwrap_or_default();
    !("07".."19").contains(&hour)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    /// One year for all tests that only look at it.
    static YEAR: LazyLock<Vec<Value>> = LazyLock::new(|| year(SEED, end()));

    const SEED: u64 = 2_026;
    const END: &str = "2026-11-24T09:30:00Z";

    fn end() -> DateTime<Utc> {
        END.parse().expect("a fixed valid time")
    }

    /// How many submissions have this text in this place.
    fn count(submissions: &[Value], pointer: &str, wanted: &str) -> usize {
        submissions.iter().filter(|submission| text(submission, pointer) == wanted).count()
    }

    #[test]
    fn the_same_seed_and_end_give_the_same_bytes() {
        let bytes = |submissions: &[Value]| submissions.iter().map(Value::to_string).collect::<Vec<_>>();
        assert!(bytes(&YEAR) == bytes(&year(SEED, end())));
    }

    #[test]
    fn two_seeds_or_two_ends_never_share_an_id() {
        let ids =
            |submissions: &[Value]| submissions.iter().map(|s| text(s, "/id").to_owned()).collect::<BTreeSet<_>>();
        let first = ids(&YEAR);
        assert_eq!(first.len(), YEAR.len(), "an id is given twice");
        assert!(first.is_disjoint(&ids(&year(SEED + 1, end()))));
        assert!(first.is_disjoint(&ids(&year(SEED, end() - TimeDelta::days(1)))));
    }

    #[test]
    fn every_submission_keeps_the_rules() {
        for seed in [SEED, 0, u64::MAX] {
            for submission in year(seed, end()) {
                let broken = broken_rules(&submission);
                assert!(broken.is_empty(), "{broken:?}: {submission}");
            }
        }
    }

    #[test]
    fn a_year_has_about_twenty_thousand_submissions_whatever_the_seed_and_the_end() {
        for (seed, end) in [(SEED, END), (0, "2024-02-29T23:59:59Z"), (7, "2026-11-22T00:00:00Z")] {
            let total = year(seed, end.parse().expect("a fixed valid time")).len();
            assert!((18_000..=22_000).contains(&total), "{total}");
        }
    }

    #[test]
    fn the_day_before_the_end_has_the_unusual_events_even_on_a_sunday() {
        let end: DateTime<Utc> = "2026-11-23T00:00:00Z".parse().expect("a fixed valid time");
        let mut day = year(SEED, end);
        day.retain(|submission| text(submission, "/occurred_at").starts_with("2026-11-22"));
        let facts = Facts::of(&day);
        assert!(day.len() > 60, "{} submissions", day.len());
        assert!(facts.break_glass_with_note > 0 && facts.break_glass_without_note > 0, "{facts:?}");
        assert!(facts.nosy_reads > 0 && facts.late_entries > 0, "{facts:?}");
        assert!(count(&day, "/reason/change", "EIE") > 0);
        assert!(count(&day, "/action", "login_failed") > 0);
        assert!(count(&day, "/action", "disclose") > 0);
    }

    #[test]
    fn only_late_entries_are_out_of_order() {
        let submissions = &*YEAR;
        let (mut newest, mut late) = ("", 0);
        for submission in submissions {
            let occurred = text(submission, "/occurred_at");
            assert!(occurred >= newest || !text(submission, "/effective_at").is_empty(), "{submission}");
            newest = newest.max(occurred);
            late += u64::from(!text(submission, "/effective_at").is_empty());
        }
        assert_eq!(Facts::of(submissions).late_entries, late);
        assert!(late > 10, "{late}");
    }

    #[test]
    fn each_special_case_is_there() {
        let submissions = &*YEAR;
        for action in ACTIONS {
            assert!(count(submissions, "/action", action) > 0, "{action}");
        }
        for code in CODES {
            assert!(count(submissions, "/reason/code", code) > 0, "{code}");
        }
        for change in CHANGE_CODES {
            assert!(count(submissions, "/reason/change", change) > 0, "{change}");
        }
        for label in ["SUD", "HIV", "PSY"] {
            let labelled = submissions.iter().filter(|s| s["sensitivity"].to_string().contains(label)).count();
            assert!(labelled > 0 && labelled < submissions.len() / 4, "{label}: {labelled}");
        }
        assert!(count(submissions, "/outcome", "denied") > 0);
        assert!(submissions.iter().any(|s| !text(s, "/actor/on_behalf_of").is_empty()));
        let of_glass = |s: &&Value| text(s, "/reason/code") == "BTG";
        let breakers: BTreeSet<_> = submissions.iter().filter(of_glass).map(|s| text(s, "/actor/id")).collect();
        assert!(breakers.len() >= 3, "{breakers:?}");
    }

    #[test]
    fn only_the_nosy_clerk_does_patient_administration_at_night() {
        let submissions = &*YEAR;
        let at_night = |s: &&Value| text(s, "/reason/code") == "PATADMIN" && is_after_hours(text(s, "/occurred_at"));
        assert!(submissions.iter().filter(at_night).all(|s| text(s, "/actor/id") == NOSY.id));
        let facts = Facts::of(submissions);
        assert_eq!(facts.nosy_reads, submissions.iter().filter(at_night).count() as u64);
        let watched = people::COLLEAGUES.iter().map(|(place, _)| *place).chain([people::VIP]);
        assert_eq!(facts.nosy_patients, watched.map(people::mrn).collect());
    }

    #[test]
    fn the_retired_id_of_a_merge_was_in_use_before_and_never_after() {
        let submissions = &*YEAR;
        let [merge] = &Facts::of(submissions).merges[..] else { panic!("one merge in a year") };
        let place = submissions.iter().position(|s| text(s, "/action") == "merge").expect("counted just above");
        let (before, after) = submissions.split_at(place);
        assert!(count(before, "/patient/id", &merge.retired) > 10);
        assert!(count(before, "/patient/id", &merge.kept) > 0);
        assert_eq!(count(after, "/patient/id", &merge.retired), 0);
    }

    #[test]
    fn nothing_is_known_about_a_patient_before_their_registration() {
        let mut submissions = YEAR.clone();
        submissions.sort_by_key(|submission| text(submission, "/occurred_at").to_owned());
        let (mut seen, mut registrations) = (BTreeSet::new(), 0);
        for submission in &submissions {
            let is_new = seen.insert(text(submission, "/patient/id"));
            if text(submission, "/action") == "create" && text(submission, "/record/type") == "Patient" {
                assert!(is_new, "{submission}");
                registrations += 1;
            }
        }
        assert!(registrations > 20, "{registrations}");
    }

    #[test]
    fn an_old_value_is_the_new_one_of_the_change_before() {
        let mut submissions = YEAR.clone();
        submissions.sort_by_key(|submission| text(submission, "/occurred_at").to_owned());
        let (mut values, mut followed) = (BTreeMap::new(), 0);
        for submission in &submissions {
            for change in submission["changes"].as_array().into_iter().flatten() {
                let place = (text(submission, "/record/id"), text(change, "/field"));
                let before = values.insert(place, &change["new"]);
                if let (Some(before), Some(old)) = (before, change.get("old")) {
                    assert_eq!(before, old, "{submission}");
                    followed += 1;
                }
            }
        }
        assert!(followed > 1_000, "{followed}");
    }

    #[test]
    fn a_result_keeps_the_way_the_laboratory_wrote_it() {
        let from_laboratory = |entry: &&Value| text(entry, "/actor/id") == people::LAB_INTERFACE.id;
        let values: Vec<String> =
            YEAR.iter().filter(from_laboratory).map(|s| s["changes"][2]["new"].to_string()).collect();
        for ending in [".0", ".50"] {
            assert!(values.iter().any(|value| value.ends_with(ending)), "{ending}");
        }
    }

    /// The rules of a submission that this one breaks.
    fn broken_rules(entry: &Value) -> Vec<&'static str> {
        let has = |pointer: &str| !text(entry, pointer).is_empty();
        let is_one_of = |pointer: &str, words: &[&str]| words.contains(&text(entry, pointer));
        let is_change = is_one_of("/action", &["create", "update", "delete"]);
        let is_use = is_one_of("/action", &["read", "print", "copy", "export", "merge", "disclose"]);
        let needs_note = is_one_of("/reason/code", &["OVRER", "OVRPJ", "OVRPS", "OVRTPS"])
            || text(entry, "/reason/change") == "EIE"
            || (is_change && text(entry, "/reason/code") == "BTG");
        let times = ["/occurred_at", "/ended_at", "/effective_at"].map(|pointer| text(entry, pointer));
        let rules = [
            ("known keys", has_known_keys(entry)),
            ("action", is_one_of("/action", &ACTIONS)),
            ("outcome", is_one_of("/outcome", &["success", "failure", "denied"])),
            ("id", text(entry, "/id").parse::<uuid::Uuid>().is_ok_and(|id| id.get_version_num() == 8)),
            ("actor", has("/actor/id") && has("/actor/role") && is_one_of("/actor/type", &["user", "system"])),
            ("time", is_time(times[0]) && times.iter().all(|time| time.is_empty() || is_time(time))),
            ("reason", is_one_of("/reason/code", &CODES)),
            ("change code", is_change == has("/reason/change") || text(entry, "/action") == "merge"),
            ("known change code", !has("/reason/change") || is_one_of("/reason/change", &CHANGE_CODES)),
            ("patient", !(is_change || is_use) || has("/patient/id")),
            ("record", has("/record/type") == has("/record/id") && (!(is_change || is_use) || has("/record/id"))),
            ("changes", is_change == has("/changes/0/field") && has_true_changes(entry)),
            ("user", !is_one_of("/action", &["grant", "revoke"]) || text(entry, "/record/type") == "User"),
            ("recipient", (text(entry, "/action") == "disclose") == has("/disclosure/recipient/name")),
            ("note", !needs_note || has("/reason/note")),
        ];
        rules.into_iter().filter_map(|(rule, kept)| (!kept).then_some(rule)).collect()
    }

    fn has_known_keys(entry: &Value) -> bool {
        let knows = |value: &Value, keys: &str| {
            let mut found = value.as_object().into_iter().flatten();
            found.all(|(key, _)| keys.split(' ').any(|known| known == key))
        };
        let all_know = |list: &Value, keys: &str| list.as_array().into_iter().flatten().all(|item| knows(item, keys));
        let top = "id action outcome occurred_at ended_at effective_at actor patient record category sensitivity \
                   reason changes disclosure related context";
        knows(entry, top)
            && knows(&entry["actor"], "id name role type on_behalf_of")
            && knows(&entry["patient"], "id")
            && knows(&entry["record"], "type id version")
            && knows(&entry["reason"], "code change note")
            && all_know(&entry["changes"], "field old new")
            && knows(&entry["disclosure"], "recipient description basis")
            && knows(&entry["disclosure"]["recipient"], "name address")
            && all_know(&entry["related"], "type id")
            && entry["context"].as_object().is_some_and(|context| context.values().all(Value::is_string))
    }

    /// Whether each change leads from one value to another.
    fn has_true_changes(entry: &Value) -> bool {
        let changes = entry["changes"].as_array().into_iter().flatten();
        changes.into_iter().all(|change| change.get("old") != change.get("new"))
    }

    /// RFC 3339 with `Z`, in whole seconds, and not after the end.
    fn is_time(time: &str) -> bool {
        time.len() == END.len() && time.ends_with('Z') && time.parse::<DateTime<Utc>>().is_ok_and(|time| time <= end())
    }

    #[rustfmt::skip]
    const ACTIONS: [&str; 15] = [
        "create", "read", "update", "delete", "query", "print", "copy", "export", "disclose", "login", "logout",
        "login_failed", "grant", "revoke", "merge",
    ];

    #[rustfmt::skip]
    const CODES: [&str; 16] = [
        "TREAT", "ETREAT", "ERTREAT", "BTG", "OVRER", "OVRTPS", "PATADMIN", "HPAYMT", "HRESCH", "HOPERAT", "HSYSADMIN",
        "HLEGAL", "PUBHLTH", "PATRQT", "FAMRQT", "RECORDMGT",
    ];

    const CHANGE_CODES: [&str; 6] = ["FIXDATA", "CHGDATA", "NEWDATA", "MDATA", "EIE", "ALTD"];
}
