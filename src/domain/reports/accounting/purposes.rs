//! Which disclosure is accountable: by its legal basis if one was given, else by its purpose.

use chrono::NaiveDate;

use super::{Disclosure, FEW_YEARS, Request, Suspension, Variant, Verdict, YEARS, looks_back_to, suspended_until};

/// The compliance date: nothing before it is accounted for (a)(1)(ix).
const COMPLIANCE: (i32, u32, u32) = (2003, 4, 14);

/// What a basis or purpose comes to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Treatment, payment, operations.
    Operations,
    /// To the person.
    Person,
    /// Incident to a permitted use.
    Incidental,
    /// Under an authorization.
    Authorized,
    /// Facility directory, or persons involved in the care.
    Involved,
    /// National security.
    Security,
    /// Correctional institutions and custody.
    Custody,
    /// A limited data set.
    Limited,
    /// With consent, of substance use disorder records.
    Consented,
    /// Told, under this paragraph.
    Told(&'static str),
}

/// What becomes of a disclosure on a request.
pub fn verdict(disclosure: &Disclosure, request: &Request) -> Verdict {
    let Disclosure { on, .. } = *disclosure;
    let excluded = |paragraph, because| Verdict::Excluded { paragraph, because };
    let (year, month, day) = COMPLIANCE;
    if NaiveDate::from_ymd_opt(year, month, day).is_some_and(|compliance| on < compliance) {
        return excluded("164.528(a)(1)(ix)", "before the compliance date");
    }
    if on > request.last_day() {
        return excluded("164.528(a)(1)", "after the time that the accounting covers");
    }
    if on < looks_back_to(request, YEARS) {
        return excluded("164.528(a)(1)", "before the time that the accounting covers");
    }
    let recent = on >= looks_back_to(request, FEW_YEARS);
    let class = class(disclosure);
    let told = match class {
        Class::Told(paragraph) => paragraph,
        Class::Operations if request.variant == Variant::Hitech && recent => "42 USC 17935(c)",
        Class::Consented | Class::Operations if request.variant == Variant::Part2 && recent && is_sud(disclosure) => {
            "42 CFR 2.25"
        }
        other => {
            let (paragraph, because) = exclusion(other);
            return excluded(paragraph, because);
        }
    };
    match suspended(disclosure, request.suspensions.as_deref().unwrap_or_default(), request.given_on) {
        Some((until, it)) => Verdict::Suspended { until, agency: it.agency.clone() },
        None => Verdict::Told { paragraph: told },
    }
}

/// The suspension that keeps a disclosure from the person on a day, and its end.
fn suspended<'a>(
    disclosure: &'a Disclosure,
    suspensions: &'a [Suspension],
    on: NaiveDate,
) -> Option<(NaiveDate, &'a Suspension)> {
    those_of(disclosure, suspensions).filter_map(|it| Some((suspended_until(it, on)?, it))).max_by_key(|it| it.0)
}

/// The suspensions that may be meant for a disclosure, whenever they hold.
pub(super) fn those_of<'a>(
    disclosure: &'a Disclosure,
    suspensions: &'a [Suspension],
) -> impl Iterator<Item = &'a Suspension> {
    let suspendable = matches!(class(disclosure), Class::Told(paragraph) if may_suspend(paragraph));
    // That a recipient was redacted must not tell the person what its agency asked to keep back.
    suspensions.iter().filter(move |it| suspendable && (disclosure.unread || it.is(&disclosure.recipient)))
}

/// Only disclosures to a health oversight agency or law enforcement official can be suspended (a)(2)(i); where the basis does not
/// tell, the agency's statement does.
fn may_suspend(paragraph: &str) -> bool {
    ["164.512(d)", "164.512(f)", "164.512", "164.528(a)(1)"].contains(&paragraph)
}

fn is_sud(disclosure: &Disclosure) -> bool {
    disclosure.sensitivity.iter().any(|it| it.eq_ignore_ascii_case("SUD") || it.eq_ignore_ascii_case("ETH"))
}

fn exclusion(class: Class) -> (&'static str, &'static str) {
    match class {
        Class::Operations => ("164.528(a)(1)(i)", "treatment, payment or health care operations"),
        Class::Person => ("164.528(a)(1)(ii)", "to the person"),
        Class::Incidental => ("164.528(a)(1)(iii)", "incident to a permitted use"),
        Class::Authorized | Class::Consented => ("164.528(a)(1)(iv)", "under an authorization"),
        Class::Involved => ("164.528(a)(1)(v)", "facility directory, or to persons involved in the care"),
        Class::Security => ("164.528(a)(1)(vi)", "national security or intelligence"),
        Class::Custody => ("164.528(a)(1)(vii)", "correctional institution or law enforcement custody"),
        Class::Limited => ("164.528(a)(1)(viii)", "part of a limited data set"),
        Class::Told(paragraph) => (paragraph, "accountable"),
    }
}

/// By the basis, which decides; else by the purpose. What is neither known is told: leaving it out would be a guess.
fn class(disclosure: &Disclosure) -> Class {
    // So is a basis that was given and cannot be read: the purpose beside it may be the record's, not the disclosure's.
    let class = match disclosure.basis.as_deref().filter(|it| !it.trim().is_empty()) {
        Some(basis) => by_basis(basis),
        None => by_purpose(&disclosure.purpose),
    };
    class.unwrap_or(Class::Told("164.528(a)(1)"))
}

/// Paragraphs of subpart E; a longer one stands before what it belongs to.
const BASES: [(&str, Class); 27] = [
    ("164.502(a)(1)(i)", Class::Person),
    ("164.502(a)(1)(iii)", Class::Incidental),
    ("164.502(a)(2)(i)", Class::Person),
    ("164.502(a)(2)(ii)", Class::Told("164.502(a)(2)(ii)")),
    ("164.502(a)(1)(ii)", Class::Operations),
    ("164.502(j)", Class::Told("164.502(j)")),
    ("164.506", Class::Operations),
    ("164.508", Class::Authorized),
    ("164.510", Class::Involved),
    ("164.512(k)(2)", Class::Security),
    ("164.512(k)(5)", Class::Custody),
    ("164.512(a)", Class::Told("164.512(a)")),
    ("164.512(b)", Class::Told("164.512(b)")),
    ("164.512(c)", Class::Told("164.512(c)")),
    ("164.512(d)", Class::Told("164.512(d)")),
    ("164.512(e)", Class::Told("164.512(e)")),
    ("164.512(f)", Class::Told("164.512(f)")),
    ("164.512(g)", Class::Told("164.512(g)")),
    ("164.512(h)", Class::Told("164.512(h)")),
    ("164.512(i)", Class::Told("164.512(i)")),
    ("164.512(j)", Class::Told("164.512(j)")),
    ("164.512(k)", Class::Told("164.512(k)")),
    ("164.512(l)", Class::Told("164.512(l)")),
    ("164.512", Class::Told("164.512")),
    ("164.514(e)", Class::Limited),
    ("164.524", Class::Person),
    ("2.31", Class::Consented),
];

fn by_basis(text: &str) -> Option<Class> {
    // 45 C.F.R. § 164.512 (f), HIPAA 164.512(f), 45 CFR Part 164.512(f): whatever stands before the section.
    let plain: String = text.to_ascii_lowercase().chars().filter(|c| !c.is_whitespace()).collect();
    let plain = ["164.", "2.31"].iter().filter_map(|it| plain.find(it)).min().map_or("", |at| &plain[at..]);
    BASES.iter().find(|(paragraph, _)| plain.starts_with(paragraph)).map(|it| it.1)
}

/// Purposes of use: HL7 v3 codes and those of the US exchange (NHIN), as `nhin_purpose_map.csv` reads them.
fn by_purpose(code: &str) -> Option<Class> {
    Some(match code {
        "TREAT" | "ETREAT" | "BTG" | "CAREMGT" | "COC" | "COORDCARE" | "CLINTRL" | "ERTREAT" | "HPAYMT"
        | "CLMATTCH" | "COVAUTH" | "COVERAGE" | "ELIGDTRM" | "ELIGVER" | "ENROLLM" | "REMITADV" | "PMTDS"
        | "MILDCRG" | "HOPERAT" | "HACCRED" | "HQUALIMP" | "HSYSADMIN" | "RECORDMGT" | "TRAIN" | "HLEGAL" | "FRAUD"
        | "TREATMENT" | "PAYMENT" | "OPERATIONS" | "SYSADMIN" | "TRAINING" | "LEGAL" | "EMERGENCY" => Class::Operations,
        "PATRQT" | "REQUEST" | "PWATRNY" => Class::Person,
        "HMARKT" | "MARKETING" | "PSYCHOTHERAPY" => Class::Authorized,
        "HDIRECT" | "FAMRQT" | "SUPNWK" | "DISASTER" | "DIRECTORY" | "FAMILY" | "PRESENT" => Class::Involved,
        "PUBHLTH" | "HPRO" | "PUBLICHEALTH" => Class::Told("164.512(b)"),
        "ABUSE" => Class::Told("164.512(c)"),
        "HCOMPL" | "OVERSIGHT" => Class::Told("164.512(d)"),
        "JUDICIAL" => Class::Told("164.512(e)"),
        "LAW" => Class::Told("164.512(f)"),
        "HDECD" | "DECEASED" => Class::Told("164.512(g)"),
        "DONAT" | "DONATION" => Class::Told("164.512(h)"),
        "HRESCH" | "BIORCH" | "CLINTRCH" | "DSRCH" | "POARCH" | "TRANSRCH" | "CLINTRCHNPC" | "CLINTRCHPC"
        | "PRECLINTRCH" | "RESEARCH" => Class::Told("164.512(i)"),
        "THREAT" => Class::Told("164.512(j)"),
        "GOV" | "GOVERNMENT" => Class::Told("164.512(k)"),
        "WORKERSCOMP" => Class::Told("164.512(l)"),
        _ => return None,
    })
}
