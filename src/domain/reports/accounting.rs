//! Accounting of disclosures, 45 CFR 164.528: which disclosures a person must be told of, which not and why, and what is told.
//!
//! The rules are tried in the order of paragraph (a)(1). What was left out stays in the report with its paragraph, so that the
//! decision can be checked.

use chrono::{Datelike as _, NaiveDate};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::document::Section;
use super::super::entry::EntryView;
use super::super::rules::Item;
use super::super::time::Timestamp;
use super::super::value::Value;
use super::{Fold, Params, time_of};

mod purposes;
mod told;

pub use purposes::verdict;

/// Where the research protocol of a disclosure stands among its sealed values.
pub const PROTOCOL: &str = "disclosure/protocol";
/// The paragraph of research without an authorization.
pub const RESEARCH: &str = "164.512(i)";
/// The largest request, in bytes.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// People from whom on disclosures under one protocol may be told as a whole (b)(4)(i).
pub const MANY: u64 = 50;
/// Years that an accounting looks back (a)(1); three for what HITECH 13405(c) and 42 CFR 2.25 add.
const YEARS: i32 = 6;
const FEW_YEARS: i32 = 3;

/// Which rules hold beside 164.528 itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// 164.528 as it stands.
    #[default]
    Hipaa,
    /// With treatment, payment and operations through an electronic record, for three years (42 USC 17935(c)).
    Hitech,
    /// With disclosures of substance use disorder records made with consent, for three years (42 CFR 2.25).
    Part2,
}

/// An agency or official has asked that the person is not told (a)(2).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Suspension {
    /// The agency or official, as it is named as a recipient.
    pub agency: String,
    /// Whether the statement is in writing; an oral one must be documented and holds for 30 days.
    pub written: bool,
    /// From this day.
    pub from: NaiveDate,
    /// To the day that the written statement names.
    pub until: Option<NaiveDate>,
}

/// A research protocol under which records of many people were disclosed (b)(4).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Protocol {
    /// As disclosures name it.
    pub id: String,
    /// Its name (b)(4)(i)(A).
    pub name: String,
    /// In plain language what it is for, and how records were selected (b)(4)(i)(B).
    pub description: String,
    /// What kind of information was disclosed (b)(4)(i)(C).
    pub information: String,
    /// When, with the date of the last (b)(4)(i)(D).
    pub period: String,
    /// Name, address and telephone number of the sponsor and of the researcher (b)(4)(i)(E).
    pub contacts: String,
}

/// What the accounting is asked for.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The day the person asked; the day of the accounting if it is not said.
    pub requested_on: Option<NaiveDate>,
    /// Which rules hold.
    #[serde(default)]
    pub variant: Variant,
    /// Only since this day, if the person asked for a shorter time (a)(3).
    pub since: Option<NaiveDate>,
    /// Suspensions. Those that accountings of this person named before go on until they end, but those of an agency that is named
    /// again: the new statement takes their place. An empty list lifts all.
    pub suspensions: Option<Vec<Suspension>>,
    /// Why more time is needed, if the extension of (c)(1)(ii) is used; the person must have been told so within 60 days.
    pub extension: Option<String>,
    /// The day of the accounting before: the first in twelve months is free (c)(2). If absent, the last one that this vault made
    /// to be given to the person.
    pub last_accounting: Option<NaiveDate>,
    /// Who is responsible for receiving and processing requests (d)(3).
    pub office: Option<String>,
    /// Only what is given to the person: nothing of what is suspended or was left out.
    #[serde(default)]
    pub for_person: bool,
    /// Research protocols; one with 50 people or more is told as a whole (b)(4).
    #[serde(default)]
    pub protocols: Vec<Protocol>,
    /// People whose records were disclosed under each protocol, counted by the vault.
    #[serde(skip)]
    pub individuals: std::collections::BTreeMap<String, u64>,
    /// The day on which the accounting is made, and so given.
    #[serde(skip)]
    pub given_on: NaiveDate,
    /// The last day that it covers, if not the day of the request.
    pub through: Option<NaiveDate>,
}

/// A disclosure, as the trail holds it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Disclosure {
    /// The day it was made.
    pub on: NaiveDate,
    /// When exactly.
    pub at: Timestamp,
    /// The purpose: the reason code, or the standard one it stands for.
    pub purpose: String,
    /// The legal basis, such as 164.512(b).
    pub basis: Option<String>,
    /// Labels of specially protected data.
    pub sensitivity: Vec<String>,
    /// Who received it (b)(2)(ii).
    pub recipient: String,
    /// The address, if known.
    pub address: Option<String>,
    /// A brief description of what was disclosed (b)(2)(iii).
    pub description: Option<String>,
    /// In words why (b)(2)(iv).
    pub statement: Option<String>,
    /// The research protocol.
    pub protocol: Option<String>,
    /// Its values are gone or damaged, so that nobody can tell who received it.
    pub unread: bool,
    /// The entry.
    pub entry: uuid::Uuid,
}

impl Disclosure {
    /// Whether only its purpose speaks for leaving it out under that paragraph.
    fn is_by_purpose_alone(&self, paragraph: &str) -> bool {
        let by_class = paragraph.starts_with("164.528(a)(1)(") && paragraph != "164.528(a)(1)(ix)";
        by_class && self.basis.as_deref().is_none_or(|it| it.trim().is_empty())
    }

    /// What an entry says of one.
    pub fn of(entry: &EntryView, items: &[Item], params: &Params) -> Self {
        let text = |path: &str| match items.iter().find(|it| it.path == path)?.value.expose() {
            Value::String(text) => Some(text.clone()),
            _ => None,
        };
        let at = time_of(entry);
        let recipient = text("disclosure/recipient/name");
        Self {
            on: at.at_offset(params.zone()).date_naive(),
            at,
            purpose: entry.reason.standard.clone().unwrap_or_else(|| entry.reason.code.clone()),
            basis: entry.disclosure_basis.clone(),
            sensitivity: entry.sensitivity.clone(),
            unread: recipient.is_none(),
            recipient: recipient.unwrap_or_else(|| "(disposed of)".into()),
            address: text("disclosure/recipient/address"),
            description: text("disclosure/description"),
            statement: text("note"),
            protocol: text(PROTOCOL),
            entry: entry.id,
        }
    }

    /// Whether one of these suspensions may be meant for it. Where the recipient cannot be read any more, any may.
    pub fn may_be_of(&self, suspensions: &[Suspension]) -> bool {
        purposes::those_of(self, suspensions).next().is_some()
    }
}

impl Suspension {
    /// Whether a recipient is this agency, however the two are written: F.B.I. is the FBI.
    pub fn is(&self, recipient: &str) -> bool {
        let plain =
            |text: &str| text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect::<String>();
        plain(&self.agency) == plain(recipient)
    }

    /// Whether its time is over on a day.
    pub fn is_over(&self, on: NaiveDate) -> bool {
        self.end() < on
    }

    /// The last day of it. An oral statement holds 30 days at most (a)(2)(ii)(C).
    fn end(&self) -> NaiveDate {
        let most = self.from + chrono::Days::new(30);
        match (self.written, self.until) {
            (true, Some(until)) => until,
            // A written statement must name its time (a)(2)(i); one without is taken for an oral one.
            (true, None) => most,
            (false, until) => until.map_or(most, |it| it.min(most)),
        }
    }
}

/// What becomes of a disclosure.
#[derive(Clone, PartialEq, Debug)]
pub enum Verdict {
    /// The person is told, under this paragraph.
    Told {
        /// Why.
        paragraph: &'static str,
    },
    /// The person need not be told.
    Excluded {
        /// Why not.
        paragraph: &'static str,
        /// In words.
        because: &'static str,
    },
    /// The person is not told yet (a)(2).
    Suspended {
        /// Until this day.
        until: NaiveDate,
        /// By whom.
        agency: String,
    },
}

/// The first day that an accounting covers: this many years before the request, or later if the person asked so.
pub fn looks_back_to(request: &Request, years: i32) -> NaiveDate {
    let day = request.asked_on();
    // A request on 29 February looks back to 28 February of a common year.
    let begin = NaiveDate::from_ymd_opt(day.year() - years, day.month(), day.day())
        .or_else(|| NaiveDate::from_ymd_opt(day.year() - years, day.month(), 28))
        .unwrap_or(day);
    request.since.map_or(begin, |since| since.max(begin))
}

/// The day by which the accounting must be given (c)(1): 60 days, and at most 30 more with a statement of the reasons.
pub fn due(request: &Request) -> NaiveDate {
    let days = if request.extension.is_some() { 90 } else { 60 };
    request.asked_on() + chrono::Days::new(days)
}

/// Whether this accounting is free (c)(2)(i): the first in any twelve months.
pub fn is_free(request: &Request) -> bool {
    request.last_accounting.is_none_or(|last| last + chrono::Months::new(12) <= request.asked_on())
}

/// Whether a suspension holds on the day when the accounting is given, and until when.
pub fn suspended_until(suspension: &Suspension, on: NaiveDate) -> Option<NaiveDate> {
    (suspension.from <= on && !suspension.is_over(on)).then_some(suspension.end())
}

pub(super) struct AccountingFold {
    params: Params,
    request: Request,
    all: Vec<Disclosure>,
}

impl AccountingFold {
    pub(super) fn new(params: &Params) -> Self {
        let request = params.accounting.clone().unwrap_or_default();
        Self { params: params.clone(), request, all: Vec::new() }
    }
}

impl Request {
    /// What is wrong with it.
    pub fn problem(&self) -> Option<&'static str> {
        let suspended = self.suspensions.iter().flatten().flat_map(|it| [Some(it.from), it.until]);
        let mut days =
            [self.requested_on, self.since, self.through, self.last_accounting].into_iter().chain(suspended).flatten();
        if !days.all(|day| (1900..=2200).contains(&day.year())) {
            return Some("A day in it is not in the years 1900 to 2200.");
        }
        let given = self.suspensions.as_deref().unwrap_or_default();
        if given.iter().any(|it| it.until.is_some_and(|until| until < it.from)) {
            return Some("A suspension ends (until) before it begins (from).");
        }
        if given.iter().any(|it| it.written && it.until.is_none()) {
            return Some(
                "A written statement names its end (until) (a)(2)(i); one that names none is an oral one (written: false).",
            );
        }
        if given.iter().any(|it| !it.agency.contains(char::is_alphanumeric)) {
            return Some("A suspension names no agency.");
        }
        let size = serde_json::to_vec(self).map_or(usize::MAX, |it| it.len());
        (size > MAX_REQUEST_BYTES).then_some("It is larger than 64 KiB.")
    }

    /// A plain request of a day, answered on that day.
    pub fn on(day: NaiveDate) -> Self {
        Self { requested_on: Some(day), given_on: day, ..Self::default() }
    }

    /// The day the person asked.
    pub fn asked_on(&self) -> NaiveDate {
        self.requested_on.unwrap_or(self.given_on)
    }

    /// The last day that it covers.
    pub fn last_day(&self) -> NaiveDate {
        self.through.map_or(self.asked_on(), |it| it.min(self.asked_on()))
    }
}

impl Fold for AccountingFold {
    fn add(&mut self, entry: &EntryView, items: &[Item]) -> bool {
        if entry.outcome != super::super::action::Outcome::Success {
            // What failed or was refused was not disclosed.
            return true;
        }
        self.all.push(Disclosure::of(entry, items, &self.params));
        self.all.len() <= super::MAX_ROWS
    }

    fn sections(mut self: Box<Self>) -> Vec<Section> {
        self.all.sort_by_key(|it| (it.at, it.entry));
        told::sections(&self.request, &self.all)
    }
}
