//! 45 CFR 164.528, case by case: what a person is told, what not and by which paragraph, and until when.

use chrono::NaiveDate;
use phivault::domain::reports::accounting::{
    Disclosure, Request, Suspension, Variant, Verdict, due, is_free, suspended_until, verdict,
};

/// day | basis | purpose | labels | variant | outcome: told, left out or suspended | paragraph | why it is so. The request is of
/// 2026-11-24.
const CASES: &str = "
2026-01-10 |                       | TREAT    |     | hipaa  | out       | 164.528(a)(1)(i)    | treatment
2026-01-10 |                       | ETREAT   |     | hipaa  | out       | 164.528(a)(1)(i)    | emergency treatment
2026-01-10 |                       | HPAYMT   |     | hipaa  | out       | 164.528(a)(1)(i)    | payment
2026-01-10 |                       | HOPERAT  |     | hipaa  | out       | 164.528(a)(1)(i)    | operations
2026-01-10 | 164.506(c)(2)         | PUBHLTH  |     | hipaa  | out       | 164.528(a)(1)(i)    | the basis decides, not the purpose
2026-01-10 |                       | HLEGAL   |     | hipaa  | out       | 164.528(a)(1)(i)    | own legal matters are operations
2026-01-10 |                       | PATRQT   |     | hipaa  | out       | 164.528(a)(1)(ii)   | to the person
2026-01-10 | 164.524               |          |     | hipaa  | out       | 164.528(a)(1)(ii)   | access by the person
2026-01-10 | 164.502(a)(1)(iii)    |          |     | hipaa  | out       | 164.528(a)(1)(iii)  | incidental
2026-01-10 | 164.508               |          |     | hipaa  | out       | 164.528(a)(1)(iv)   | authorization
2026-01-10 |                       | HMARKT   |     | hipaa  | out       | 164.528(a)(1)(iv)   | marketing takes an authorization
2026-01-10 | 164.508(b)(3)         | HRESCH   |     | hipaa  | out       | 164.528(a)(1)(iv)   | research with an authorization
2026-01-10 | 164.510(a)            |          |     | hipaa  | out       | 164.528(a)(1)(v)    | facility directory
2026-01-10 | 164.510(b)            |          |     | hipaa  | out       | 164.528(a)(1)(v)    | persons involved in the care
2026-01-10 |                       | FAMRQT   |     | hipaa  | out       | 164.528(a)(1)(v)    | family
2026-01-10 |                       | DISASTER |     | hipaa  | out       | 164.528(a)(1)(v)    | disaster relief, 164.510(b)(4)
2026-01-10 | 164.512(k)(2)         |          |     | hipaa  | out       | 164.528(a)(1)(vi)   | national security
2026-01-10 | 164.512(k)(5)         |          |     | hipaa  | out       | 164.528(a)(1)(vii)  | custody
2026-01-10 | 164.514(e)            | HRESCH   |     | hipaa  | out       | 164.528(a)(1)(viii) | limited data set
2003-04-13 | 164.512(b)            |          |     | hipaa  | out       | 164.528(a)(1)(ix)   | the day before the compliance date
2020-11-23 | 164.512(b)            |          |     | hipaa  | out       | 164.528(a)(1)       | a day more than six years ago
2020-11-24 | 164.512(b)            |          |     | hipaa  | told      | 164.512(b)          | six years ago to the day
2026-11-24 | 164.512(b)            |          |     | hipaa  | told      | 164.512(b)          | the day of the request
2026-11-25 | 164.512(b)            |          |     | hipaa  | out       | 164.528(a)(1)       | the day after it
2026-01-10 | 164.512(a)            |          |     | hipaa  | told      | 164.512(a)          | required by law
2026-01-10 | 45 CFR 164.512(c)     |          |     | hipaa  | told      | 164.512(c)          | abuse, however the basis is written
2026-01-10 | § 164.512 (d)         |          |     | hipaa  | told      | 164.512(d)          | oversight
2026-01-10 | 164.512(e)            | HLEGAL   |     | hipaa  | told      | 164.512(e)          | a court order
2026-01-10 | 164.512(f)(2)         |          |     | hipaa  | told      | 164.512(f)          | law enforcement
2026-01-10 | 164.512(g)            |          |     | hipaa  | told      | 164.512(g)          | coroner
2026-01-10 | 164.512(h)            |          |     | hipaa  | told      | 164.512(h)          | donation
2026-01-10 |                       | HRESCH   |     | hipaa  | told      | 164.512(i)          | research without an authorization
2026-01-10 | 164.512(j)            |          |     | hipaa  | told      | 164.512(j)          | a serious threat
2026-01-10 | 164.512(k)(1)         |          |     | hipaa  | told      | 164.512(k)          | military
2026-01-10 | 164.512(l)            |          |     | hipaa  | told      | 164.512(l)          | workers' compensation
2026-01-10 | 164.502(a)(2)(ii)     |          |     | hipaa  | told      | 164.502(a)(2)(ii)   | to the Secretary
2026-01-10 | 164.502(j)(1)         |          |     | hipaa  | told      | 164.502(j)          | a whistleblower
2026-01-10 |                       | PUBHLTH  |     | hipaa  | told      | 164.512(b)          | public health by purpose
2026-01-10 |                       | UNHEARD  |     | hipaa  | told      | 164.528(a)(1)       | leaving out what is unknown would be a guess
2026-01-10 | 45 C.F.R. 164.512(f)  | TREAT    |     | hipaa  | told      | 164.512(f)          | the basis decides, with dots
2026-01-10 | HIPAA 164.512(f)      | TREAT    |     | hipaa  | told      | 164.512(f)          | with a word before it
2026-01-10 | 45 CFR Part 164.512   | TREAT    |     | hipaa  | told      | 164.512             | without its paragraph
2026-01-10 | court order           | TREAT    |     | hipaa  | told      | 164.528(a)(1)       | a basis that cannot be read is no treatment
2026-01-10 | by mistake            |          |     | hipaa  | told      | 164.528(a)(1)       | a disclosure that no rule permits
2026-01-10 |                       | TREAT    |     | hitech | told      | 42 USC 17935(c)     | treatment through an electronic record
2023-11-24 |                       | HPAYMT   |     | hitech | told      | 42 USC 17935(c)     | three years ago to the day
2023-11-23 |                       | HPAYMT   |     | hitech | out       | 164.528(a)(1)(i)    | a day more
2026-01-10 | 164.508               |          |     | hitech | out       | 164.528(a)(1)(iv)   | HITECH adds only treatment, payment and operations
2026-01-10 | 42 CFR 2.31           |          | SUD | part2  | told      | 42 CFR 2.25         | with consent, of substance use disorder records
2026-01-10 |                       | TREAT    | SUD | part2  | told      | 42 CFR 2.25         | treatment through an electronic record
2026-01-10 |                       | TREAT    |     | part2  | out       | 164.528(a)(1)(i)    | not of that kind of record
2023-11-23 | 42 CFR 2.31           |          | SUD | part2  | out       | 164.528(a)(1)(iv)   | more than three years ago";

fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

fn request() -> Request {
    Request::on(day("2026-11-24"))
}

fn disclosure(on: &str, basis: &str) -> Disclosure {
    let basis = Some(basis.to_owned()).filter(|it| !it.is_empty());
    Disclosure { on: day(on), basis, recipient: "State Agency".into(), ..Disclosure::default() }
}

#[test]
fn each_disclosure_is_told_or_left_out_by_its_paragraph() {
    let cases: Vec<_> = CASES.lines().skip(1).collect();
    assert!(cases.len() >= 40);
    for case in cases {
        let [on, basis, purpose, label, variant, outcome, paragraph, _] =
            case.split('|').map(str::trim).collect::<Vec<_>>()[..]
        else {
            panic!("a case is not complete: {case}")
        };
        let variant = match variant {
            "hipaa" => Variant::Hipaa,
            "hitech" => Variant::Hitech,
            _ => Variant::Part2,
        };
        let sensitivity = if label.is_empty() { Vec::new() } else { vec![label.to_owned()] };
        let it = Disclosure { purpose: purpose.into(), sensitivity, ..disclosure(on, basis) };
        match verdict(&it, &Request { variant, ..request() }) {
            Verdict::Told { paragraph: found } => assert_eq!(("told", found), (outcome, paragraph), "{case}"),
            Verdict::Excluded { paragraph: found, .. } => assert_eq!(("out", found), (outcome, paragraph), "{case}"),
            it @ Verdict::Suspended { .. } => panic!("{case}: {it:?}"),
        }
    }
}

fn suspension(written: bool, from: &str, until: Option<&str>) -> Suspension {
    Suspension { agency: "state agency".into(), written, from: day(from), until: until.map(day) }
}

#[test]
fn a_suspension_holds_for_its_time_and_only_for_oversight_and_law_enforcement() {
    let on = day("2026-11-24");
    for (written, from, until, wanted, why) in [
        (true, "2026-11-01", Some("2027-05-01"), Some("2027-05-01"), "written: the time stated, (a)(2)(i)"),
        (true, "2026-11-01", Some("2026-11-24"), Some("2026-11-24"), "its last day counts"),
        (true, "2026-11-01", Some("2026-11-23"), None, "it has ended"),
        (true, "2026-11-25", Some("2027-05-01"), None, "it has not begun"),
        (false, "2026-11-01", None, Some("2026-12-01"), "oral: 30 days, (a)(2)(ii)(C)"),
        (false, "2026-11-01", Some("2027-05-01"), Some("2026-12-01"), "oral: 30 days, whatever was said"),
        (false, "2026-11-01", Some("2026-11-26"), Some("2026-11-26"), "oral: less, if less was said"),
        (false, "2026-10-25", None, Some("2026-11-24"), "the thirtieth day"),
        (false, "2026-10-24", None, None, "the thirty-first"),
        (true, "2026-11-01", None, Some("2026-12-01"), "a written one without a time is taken for an oral one"),
    ] {
        assert_eq!(suspended_until(&suspension(written, from, until), on), wanted.map(day), "{why}");
    }
    let held = Request { suspensions: Some(vec![suspension(true, "2026-11-01", Some("2027-05-01"))]), ..request() };
    let is_suspended =
        |basis: &str| matches!(verdict(&disclosure("2026-01-10", basis), &held), Verdict::Suspended { .. });
    assert!(is_suspended("164.512(d)") && is_suspended("164.512(f)"));
    assert!(!is_suspended("164.512(b)"), "public health cannot be suspended");
    // Judged on the day when the accounting is given, not on the day when it was asked for.
    let given = |on: &str| Request { given_on: day(on), ..held.clone() };
    let kept =
        |on: &str| matches!(verdict(&disclosure("2026-01-10", "164.512(f)"), &given(on)), Verdict::Suspended { .. });
    assert!(kept("2027-05-01") && !kept("2027-05-02"));
    let written = Disclosure { recipient: "STATE-AGENCY".into(), ..disclosure("2026-01-10", "164.512(d)") };
    assert!(matches!(verdict(&written, &held), Verdict::Suspended { .. }), "however it is written");
    let other = Disclosure { recipient: "Another Agency".into(), ..disclosure("2026-01-10", "164.512(d)") };
    assert_eq!(verdict(&other, &held), Verdict::Told { paragraph: "164.512(d)" });
}

#[test]
fn the_dates_of_an_accounting_are_those_of_paragraph_c() {
    assert_eq!(due(&request()), day("2027-01-23"), "60 days");
    assert_eq!(
        due(&Request { extension: Some("records on tape".into()), ..request() }),
        day("2027-02-22"),
        "30 more, once"
    );
    let after = |last: &str| is_free(&Request { last_accounting: Some(day(last)), ..request() });
    assert!(is_free(&request()) && after("2025-11-24") && !after("2025-11-25"), "the first in any twelve months");
    // Somebody may ask for a shorter time (a)(3), not for a longer one.
    let since = |it: &str| Request { since: Some(day(it)), ..request() };
    let told =
        |request: &Request| matches!(verdict(&disclosure("2024-05-05", "164.512(b)"), request), Verdict::Told { .. });
    assert!(told(&since("2024-05-05")) && !told(&since("2024-05-06")));
    let old = disclosure("2020-11-23", "164.512(b)");
    assert!(matches!(verdict(&old, &since("2010-01-01")), Verdict::Excluded { .. }));
    let leap = Request::on(day("2028-02-29"));
    let first = |on: &str| matches!(verdict(&disclosure(on, "164.512(b)"), &leap), Verdict::Told { .. });
    assert!(first("2022-02-28") && !first("2022-02-27"));
}
