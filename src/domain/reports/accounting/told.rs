//! What an accounting says: the rows of (b)(2), repeated disclosures summed up as (b)(3) allows, what was left out, and the dates of
//! paragraph (c).

use std::collections::BTreeMap;

use super::super::super::document::{Cell, Section};
use super::{Disclosure, MANY, Protocol, Request, Variant, Verdict, YEARS, due, is_free, looks_back_to, verdict};

pub(super) fn sections(request: &Request, all: &[Disclosure]) -> Vec<Section> {
    // To the same recipient, for the same purpose, under the same paragraph.
    let mut groups: BTreeMap<(String, String, Option<&str>, &'static str), Vec<&Disclosure>> = BTreeMap::new();
    let (mut excluded, mut suspended) = (Vec::new(), Vec::new());
    let mut research: BTreeMap<&str, &Protocol> = BTreeMap::new();
    for it in all {
        match verdict(it, request) {
            Verdict::Told { paragraph: "164.512(i)" } if large(request, it).is_some() => {
                research.extend(large(request, it).map(|it| (it.id.as_str(), it)));
            }
            Verdict::Told { paragraph } => {
                let key = (it.recipient.trim().to_lowercase(), it.purpose.clone(), it.protocol.as_deref(), paragraph);
                groups.entry(key).or_default().push(it);
            }
            Verdict::Excluded { paragraph, because } => excluded.push(vec![
                Cell::text(it.on.to_string()),
                Cell::text(&it.purpose),
                Cell::optional(it.basis.as_deref()),
                Cell::text(paragraph),
                Cell::text(because),
                Cell::text(it.entry.to_string()),
            ]),
            Verdict::Suspended { until, agency } => suspended.push(vec![
                Cell::text(it.on.to_string()),
                Cell::text(agency),
                Cell::text(until.to_string()),
                Cell::text(it.entry.to_string()),
            ]),
        }
    }
    let mut rows: Vec<_> =
        groups.into_iter().map(|((_, _, _, paragraph), group)| (group[0].at, told(paragraph, &group))).collect();
    rows.sort_by_key(|it| it.0);
    let rows = rows.into_iter().map(|it| it.1).collect();
    let columns = ["date", "recipient", "address", "what was disclosed", "purpose", "under", "repeated"];
    let told = Section::table("Disclosures", &columns, rows).with_text(
        "Of repeated disclosures to the same recipient for the same purpose the first stands in full, with how many there were, how often, and the last date (b)(3).",
    );
    let research = research.into_values().map(protocol).collect();
    let inside = "For the office: for_person makes the accounting without it, as it is given to the person.";
    let mut out = vec![
        Section::text("This accounting", terms(request)),
        told,
        Section::table("Research", &RESEARCH, research).with_text(
            "Under these protocols records of 50 people or more were disclosed; yours may or may not have been among them. If it is reasonably likely that it was, the office helps to reach the sponsor and the researcher (b)(4)(ii).",
        ),
    ];
    if !request.for_person {
        out.push(
            Section::table("Suspended for now", &["date", "agency", "until", "entry"], suspended).with_text(inside),
        );
        out.push(
            Section::table("Left out", &["date", "purpose", "basis", "paragraph", "because", "entry"], excluded)
                .with_text(inside),
        );
    }
    out
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
    let purpose = match &first.statement {
        Some(statement) => format!("{}: {statement}", first.purpose),
        None => first.purpose.clone(),
    };
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
    let since = looks_back_to(request, YEARS);
    let mut out = vec![
        format!(
            "Asked for on {}, it covers disclosures from {since} to that day (45 CFR 164.528(a)).",
            request.requested_on
        ),
        format!("It must be given by {} (c)(1).", due(request)),
    ];
    if let Some(reasons) = &request.extension {
        out.push(format!("The time was extended by 30 days, once, because: {reasons} (c)(1)(ii)."));
    }
    out.push(if is_free(request) {
        "It is free: the first one in twelve months (c)(2).".to_owned()
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
