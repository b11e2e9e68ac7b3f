//! What an accounting says: the rows of (b)(2), repeated disclosures summed up as (b)(3) allows, what was left out, and the dates of
//! paragraph (c).

use std::collections::BTreeMap;

use super::super::super::document::{Cell, Section};
use super::{
    Disclosure, MANY, Protocol, Request, Suspension, Variant, Verdict, YEARS, due, is_free, looks_back_to,
    suspended_until, verdict,
};

pub(super) fn sections(request: &Request, all: &[Disclosure]) -> Vec<Section> {
    let mut groups: BTreeMap<Same<'_>, Vec<&Disclosure>> = BTreeMap::new();
    let (mut excluded, mut suspended, mut alone) = (Vec::new(), Vec::new(), false);
    let mut research: BTreeMap<&str, &Protocol> = BTreeMap::new();
    for it in all {
        match verdict(it, request) {
            Verdict::Told { paragraph: "164.512(i)" } if large(request, it).is_some() => {
                research.extend(large(request, it).map(|it| (it.id.as_str(), it)));
            }
            Verdict::Told { paragraph } => {
                groups.entry(Same::of(it, paragraph)).or_default().push(it);
            }
            Verdict::Excluded { paragraph, because } => {
                let guessed = it.is_by_purpose_alone(paragraph);
                alone |= guessed;
                excluded.push(vec![
                    Cell::text(it.on.to_string()),
                    Cell::text(&it.recipient),
                    Cell::text(&it.purpose),
                    Cell::optional(it.basis.as_deref()),
                    Cell::text(paragraph),
                    Cell::text(if guessed { format!("{because}, by its purpose alone") } else { because.to_owned() }),
                    Cell::text(it.entry.to_string()),
                ]);
            }
            Verdict::Suspended { until, agency } => suspended.push(vec![
                Cell::text(it.on.to_string()),
                Cell::text(agency),
                Cell::text(until.to_string()),
                Cell::text(it.entry.to_string()),
            ]),
        }
    }
    let mut rows: Vec<_> =
        groups.into_iter().map(|(same, group)| (group[0].at, told(same.paragraph, &group))).collect();
    rows.sort_by_key(|it| it.0);
    let rows = rows.into_iter().map(|it| it.1).collect();
    let columns = ["date", "recipient", "address", "what was disclosed", "purpose", "under", "repeated"];
    let told = Section::table("Disclosures", &columns, rows).with_text(
        "Of repeated disclosures to the same recipient for the same purpose the first stands in full, with how many there were, how often, and the last date (b)(3).",
    );
    let research: Vec<_> = research.into_values().map(protocol).collect();
    let mut out = vec![Section::text("This accounting", terms(request)), told];
    if !research.is_empty() {
        out.push(Section::table("Research", &RESEARCH, research).with_text(
            "Under these protocols records of 50 people or more were disclosed; yours may or may not have been among them. If it is reasonably likely that it was, the office helps to reach the sponsor and the researcher (b)(4)(ii).",
        ));
    }
    if !request.for_person {
        let stamp = "FOR THE OFFICE ONLY. This copy names what is suspended or was left out: do not give it to the person. The copy for the person is made with for_person (--for-person).";
        out.insert(0, Section::text("Office copy", vec![stamp.to_owned()]));
        let held = Section::table("Suspended for now", &["date", "agency", "until", "entry"], suspended);
        out.push(unmatched(request, all).into_iter().fold(held, Section::with_text));
        let columns = ["date", "recipient", "purpose", "basis", "paragraph", "because", "entry"];
        let left_out = Section::table("Left out", &columns, excluded);
        out.push(if alone { left_out.with_text(ALONE) } else { left_out });
    }
    out
}

const ALONE: &str = "ATTENTION: some were left out by their purpose alone, for the application gave no legal basis. Look at their recipients: what a court, an agency or the police got belongs into the accounting, and the application should say so (disclosure.basis).";

/// Suspensions in force that keep nothing back: perhaps the agency is written otherwise in the entries.
fn unmatched(request: &Request, all: &[Disclosure]) -> Vec<String> {
    let in_force = |it: &&Suspension| suspended_until(it, request.given_on).is_some();
    let idle = |it: &&Suspension| !all.iter().any(|one| it.is(&one.recipient));
    let named = request.suspensions.iter().flatten().filter(in_force).filter(idle);
    named
        .map(|it| {
            format!(
                "ATTENTION: no disclosure names {} as its recipient. Is the agency written as in the entries?",
                it.agency
            )
        })
        .collect()
}

/// What repeated disclosures must have in common to be told in one row.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Same<'a> {
    recipient: String,
    paragraph: &'static str,
    /// What else they share. Only disclosures to the Secretary and under 164.512 may be summed up (b)(3), and only those for a single
    /// purpose: those told in other words stand by themselves.
    words: [Option<&'a str>; 5],
    alone: Option<uuid::Uuid>,
}

impl<'a> Same<'a> {
    fn of(it: &'a Disclosure, paragraph: &'static str) -> Self {
        let may = paragraph.starts_with("164.512") || paragraph == "164.502(a)(2)(ii)";
        Self {
            recipient: it.recipient.trim().to_lowercase(),
            paragraph,
            words: [
                Some(&it.purpose),
                it.protocol.as_deref(),
                it.statement.as_deref(),
                it.description.as_deref(),
                it.address.as_deref(),
            ],
            alone: (!may).then_some(it.entry),
        }
    }
}

const RESEARCH: [&str; 5] = ["protocol", "what it is for", "kind of information", "period", "sponsor and researcher"];

/// The protocol of a disclosure, if it may be told as a whole.
fn large<'a>(request: &'a Request, disclosure: &Disclosure) -> Option<&'a Protocol> {
    let id = disclosure.protocol.as_deref()?;
    let many = request.individuals.get(id).is_some_and(|count| *count >= MANY);
    request.protocols.iter().find(|it| many && it.id == id)
}

fn protocol(it: &Protocol) -> Vec<Cell> {
    [&it.name, &it.description, &it.information, &it.period, &it.contacts].into_iter().map(Cell::text).collect()
}

/// The row of (b)(2), and for repeated disclosures what (b)(3) asks for.
fn told(paragraph: &'static str, group: &[&Disclosure]) -> Vec<Cell> {
    let (first, last) = (group[0], group[group.len() - 1]);
    let repeated = match group.len() {
        1 => Cell::None,
        n => {
            let days = (last.on - first.on).num_days();
            let often = if days == 0 {
                "all on one day".to_owned()
            } else {
                format!("about every {} days", (days / (n as i64 - 1)).max(1))
            };
            Cell::text(format!("{n} times, {often}, last on {}", last.on))
        }
    };
    let words = super::super::patient::words(&first.purpose);
    let purpose = words.map_or_else(|| first.purpose.clone(), |words| format!("{words} ({})", first.purpose));
    let purpose = first.statement.as_ref().map_or(purpose.clone(), |statement| format!("{purpose}: {statement}"));
    vec![
        Cell::text(first.on.to_string()),
        Cell::text(&first.recipient),
        Cell::optional(first.address.as_deref()),
        Cell::optional(first.description.as_deref()),
        Cell::text(purpose),
        Cell::text(paragraph),
        repeated,
    ]
}

fn terms(request: &Request) -> Vec<String> {
    let (since, last) = (looks_back_to(request, YEARS), request.last_day());
    let asked = match request.requested_on {
        Some(day) => format!("Asked for on {day}, it"),
        None => format!("No day of a request was given, so the days below count from {}. It", request.given_on),
    };
    let mut out = vec![
        format!("{asked} covers disclosures from {since} to {last} (45 CFR 164.528(a))."),
        if !request.for_person && request.given_on > due(request) {
            format!("It had to be given by {} (c)(1), and is LATE.", due(request))
        } else {
            format!("It must be given by {} (c)(1).", due(request))
        },
    ];
    let whole = Request { since: None, through: None, ..request.clone() };
    if since > looks_back_to(&whole, YEARS) || last < whole.last_day() {
        out.push("This is only a part of the six years before the request that a person may ask for (a)(3).".into());
    }
    if let Some(reasons) = &request.extension {
        out.push(format!("The time was extended by 30 days, once, because: {reasons} (c)(1)(ii)."));
    }
    out.push(if is_free(request) {
        "It is free: the first one in twelve months that this vault knows of (c)(2).".to_owned()
    } else {
        "It is not the first one in twelve months: a reasonable, cost-based fee may be asked if the person was told so before and could withdraw (c)(2).".to_owned()
    });
    match request.variant {
        Variant::Hipaa => {}
        Variant::Hitech => out.push(
            "Disclosures for treatment, payment and operations through the electronic record of the last three years are part of it (42 USC 17935(c)).".into(),
        ),
        Variant::Part2 => out.push(
            "Disclosures of substance use disorder records made with consent in the last three years are part of it (42 CFR 2.25).".into(),
        ),
    }
    if let Some(office) = &request.office {
        out.push(format!("Responsible for requests: {office} (d)(3)."));
    }
    out
}
