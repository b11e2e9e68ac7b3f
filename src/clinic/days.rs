//! A day's routine: shifts, visits, laboratory results, billing and research.

use std::ops::RangeInclusive;

use chrono::{DateTime, Datelike, NaiveDate, TimeDelta, Timelike, Utc};

use super::Clinic;
use super::people::{
    self, BILLING, CONTROL, Chart, ESTABLISHED_COUNT, FRONT_DESK, INSURERS, LAB_INTERFACE, NURSES, PATIENT_COUNT,
    PHYSICIANS, RESEARCHER, Staff,
};
use super::submission::{Submission, decimal};

/// A visit that will be billed.
#[derive(Debug)]
pub(super) struct Claim {
    chart: usize,
    encounter: String,
    diagnosis: &'static str,
}

/// Who works today.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shift {
    pub(super) doctors: [&'static Staff; 2],
    pub(super) nurses: [&'static Staff; 2],
    pub(super) desk: &'static Staff,
    pub(super) billing: &'static Staff,
}

/// Work on one chart, step by step.
#[derive(Debug)]
pub(super) struct Session {
    /// The session's id; during a visit it is the encounter's.
    pub(super) id: String,
    pub(super) chart: usize,
    pub(super) clock: DateTime<Utc>,
    pub(super) purpose: &'static str,
    pub(super) facility: &'static str,
}

impl Clinic {
    /// One day, `back` days before the last one.
    pub(super) fn day(&mut self, day: NaiveDate, back: u64) {
        let open = back == 0 || day.weekday().number_from_monday() <= 5;
        // In the order of the hours, so that each old value in a chart is the new one of the change before.
        self.emergency(day, 10, 20..=320);
        if open {
            let shift = shift(day);
            self.logins(&shift, day);
            self.bill(shift.billing, day);
            self.visits(&shift, day);
            if day.ordinal().is_multiple_of(3) || back == 0 {
                self.research(day);
            }
            self.incidents(&shift, day, back);
        }
        self.emergency(day, if open { 0 } else { 60 }, 480..=1_100);
        self.emergency(day, 10, 1_175..=1_310);
    }

    /// The next step of a session, a few minutes after the one before.
    pub(super) fn step(&mut self, session: &mut Session, who: &Staff, action: &str, category: &str) -> Submission {
        session.clock += self.pause(35, 260);
        Submission::new(who, action, session.clock, session.purpose)
            .patient(&self.charts[session.chart].mrn)
            .category(category)
            .context("session_id", &session.id)
            .context("facility", session.facility)
    }

    /// Work on a chart outside of any visit.
    pub(super) fn session(&mut self, chart: usize, clock: DateTime<Utc>, purpose: &'static str) -> Session {
        Session { id: self.number("S"), chart, clock, purpose, facility: MAIN }
    }

    /// A chart from before this year, so that nothing can happen to it before its registration.
    pub(super) fn known_chart(&mut self) -> usize {
        self.chance.index(ESTABLISHED_COUNT)
    }

    /// One of the words, but not this one.
    fn other(&mut self, words: &[&'static str], than: &str) -> &'static str {
        let place = words.iter().position(|word| *word == than).unwrap_or(0);
        let step = 1 + self.chance.index(words.len() - 1);
        words[(place + step) % words.len()]
    }

    /// A login or a logout.
    pub(super) fn sign(&mut self, who: &Staff, action: &str, time: DateTime<Utc>) {
        let session = format!("L-{}-{}", time.format("%Y%m%d"), who.id);
        self.put(Submission::new(who, action, time, "HOPERAT").context("session_id", &session));
    }

    fn logins(&mut self, shift: &Shift, day: NaiveDate) {
        let [first, second] = shift.doctors;
        let [third, fourth] = shift.nurses;
        for who in [first, second, third, fourth, shift.desk, shift.billing] {
            let (start, stop) = (self.chance.between(421, 440), self.chance.between(1_075, 1_135));
            let (start, stop) = (self.at(day, start), self.at(day, stop));
            self.sign(who, "login", start);
            self.sign(who, "logout", stop);
        }
        let minute = self.chance.between(442, 446);
        let time = self.at(day, minute);
        self.put(
            Submission::new(shift.desk, "query", time, "PATADMIN")
                .category("demographics")
                .context("query", "appointments of the day"),
        );
    }

    fn visits(&mut self, shift: &Shift, day: NaiveDate) {
        let count = self.chance.between(3, 5);
        for place in 0..count {
            let minute = 448 + place * 680 / count + self.chance.between(0, 20);
            let clock = self.at(day, minute);
            let chart = self.chance.index(PATIENT_COUNT);
            self.visit(shift, place as usize, chart, clock);
        }
    }

    /// An ordinary visit: check-in, vital signs, consultation, check-out.
    pub(super) fn visit(&mut self, shift: &Shift, place: usize, chart: usize, clock: DateTime<Utc>) {
        let (doctor, nurse) = (shift.doctors[place % 2], shift.nurses[place % 2]);
        let id = self.number("E");
        let mut session = Session { id, chart, clock, purpose: "TREAT", facility: MAIN };
        self.check_in(&mut session, shift.desk);
        self.vital_signs(&mut session, nurse);
        let note = self.consultation(&mut session, doctor);
        self.check_out(&mut session, doctor, shift.desk, &note);
        let diagnosis = self.charts[chart].problems[0].kind.code;
        self.unbilled.push(Claim { chart, encounter: session.id, diagnosis });
    }

    fn check_in(&mut self, session: &mut Session, desk: &Staff) {
        let greet = if self.charts[session.chart].registered { "read" } else { "create" };
        let mrn = self.charts[session.chart].mrn.clone();
        let step = self.step(session, desk, greet, "demographics").purpose("PATADMIN").record("Patient", &mrn);
        let chart = &mut self.charts[session.chart];
        let step = if chart.registered {
            step.version(chart.version)
        } else {
            chart.registered = true;
            step.change_code("NEWDATA")
                .added("name", format!("{} {}", chart.given, chart.family))
                .added("birth_date", chart.birth_date.as_str())
                .added("phone", chart.phone.as_str())
                .added("address.line", chart.street.as_str())
                .added("coverage.payor", chart.insurer)
        };
        self.put(step);
        if greet == "read" && self.chance.percent(20) {
            self.moved(session, desk);
        }
        let step = self.step(session, desk, "create", "demographics").purpose("PATADMIN");
        let step = step.change_code("NEWDATA").record("Encounter", &session.id).version(1);
        self.put(step.added("status", "arrived").added("class", "ambulatory"));
    }

    /// The patient has a new telephone number, address or insurer.
    fn moved(&mut self, session: &mut Session, desk: &Staff) {
        let Chart { mut phone, mut street, .. } = self.charts[session.chart].clone();
        while phone == self.charts[session.chart].phone {
            phone = people::phone(&mut self.chance);
        }
        while street == self.charts[session.chart].street {
            street = people::street(&mut self.chance);
        }
        let insurer = self.other(&INSURERS, self.charts[session.chart].insurer);
        let which = self.chance.between(0, 2);
        let step = self.step(session, desk, "update", "demographics").purpose("PATADMIN").change_code("CHGDATA");
        let chart = &mut self.charts[session.chart];
        chart.version += 1;
        let step = step.record("Patient", &chart.mrn).version(chart.version);
        let step = match which {
            0 => step.changed("phone", std::mem::replace(&mut chart.phone, phone.clone()), phone),
            1 => step.changed("address.line", std::mem::replace(&mut chart.street, street.clone()), street),
            _ => step.changed("coverage.payor", std::mem::replace(&mut chart.insurer, insurer), insurer),
        };
        self.put(step);
    }

    /// A nurse goes through the medicines and measures; now and then a value is corrected at once.
    fn vital_signs(&mut self, session: &mut Session, nurse: &Staff) {
        if self.chance.percent(75) {
            let step = self.step(session, nurse, "read", "medications");
            let problem = &self.charts[session.chart].problems[0];
            let step = step.record("MedicationRequest", &problem.prescription).sensitive(problem.kind.sensitivity);
            self.put(step.related("Encounter", &session.id));
        }
        let record = self.number("O");
        let step = self.measured(session, nurse, &record);
        self.put(step);
        if self.chance.percent(15) {
            let wrong = self.charts[session.chart].vitals.pulse;
            let right = wrong - self.chance.between(3, 9);
            self.charts[session.chart].vitals.pulse = right;
            let step = self.step(session, nurse, "update", "vitals").change_code("FIXDATA");
            let step = step.record("Observation", &record).version(2).related("Encounter", &session.id);
            self.put(step.changed("pulse", wrong, right).note("Counted again over a full minute"));
        }
    }

    /// New vital signs, near those of the time before.
    pub(super) fn measured(&mut self, session: &mut Session, nurse: &Staff, record: &str) -> Submission {
        let step = self.step(session, nurse, "create", "vitals").change_code("NEWDATA").record("Observation", record);
        let vitals = &mut self.charts[session.chart].vitals;
        vitals.systolic = self.chance.between(108, 162);
        vitals.diastolic = self.chance.between(64, 98);
        vitals.pulse = self.chance.between(58, 99);
        vitals.weight = vitals.weight + self.chance.between(0, 24) - 12;
        step.version(1)
            .related("Encounter", &session.id)
            .added("systolic_mmhg", vitals.systolic)
            .added("diastolic_mmhg", vitals.diastolic)
            .added("pulse", vitals.pulse)
            .added("weight_kg", decimal(vitals.weight, 1))
    }

    /// The physician reads, decides, prescribes, orders and writes a note, whose id it returns.
    fn consultation(&mut self, session: &mut Session, doctor: &Staff) -> String {
        let (mrn, labels) = (self.charts[session.chart].mrn.clone(), self.charts[session.chart].labels());
        let list = format!("L-{}", mrn.trim_start_matches("MRN-"));
        let step = self.step(session, doctor, "read", "problems").record("List", &list).sensitive(&labels);
        let until = session.clock + self.pause(40, 400);
        self.put(step.ended_at(until).related("Encounter", &session.id));
        if let Some(result) = self.charts[session.chart].last_result.clone() {
            let step = self.step(session, doctor, "read", "results").record("Observation", &result);
            self.put(step.related("Encounter", &session.id));
        }
        self.problem(session, doctor);
        self.prescription(session, doctor);
        if self.chance.percent(50) {
            self.order(session, doctor);
        }
        let note = self.number("N");
        let plan = self.chance.pick(&PLANS);
        let step = self.step(session, doctor, "create", "notes").change_code("NEWDATA").sensitive(&labels);
        let step = step.record("DocumentReference", &note).version(1).related("Encounter", &session.id);
        self.put(step.added("title", "Progress note").added("plan", plan));
        note
    }

    fn problem(&mut self, session: &mut Session, doctor: &Staff) {
        if self.chance.percent(6) {
            let kind = people::common_disease(&mut self.chance);
            let number = self.number("C");
            let problem = people::problem(kind, number.trim_start_matches("C-"), None, &mut self.chance);
            let step = self.step(session, doctor, "create", "problems").change_code("NEWDATA").version(1);
            let step = step.record("Condition", &problem.record).sensitive(kind.sensitivity);
            let step = step.added("code", kind.code).added("display", kind.display);
            self.put(step.added("control", problem.control).related("Encounter", &session.id));
            self.charts[session.chart].problems.push(problem);
        } else if self.chance.percent(60) {
            let which = self.chance.index(self.charts[session.chart].problems.len());
            let now = self.charts[session.chart].problems[which].control;
            let control = self.other(&CONTROL, now);
            let step = self.step(session, doctor, "update", "problems").change_code("CHGDATA");
            let problem = &mut self.charts[session.chart].problems[which];
            problem.version += 1;
            let old = std::mem::replace(&mut problem.control, control);
            let step = step.record("Condition", &problem.record).version(problem.version);
            let step = step.sensitive(problem.kind.sensitivity).changed("control", old, control);
            self.put(step.related("Encounter", &session.id));
        }
    }

    /// Prescribes what was not prescribed yet, or changes a dose.
    fn prescription(&mut self, session: &mut Session, doctor: &Staff) {
        let which = self.chance.index(self.charts[session.chart].problems.len());
        let dose = self.charts[session.chart].problems[which].dose;
        if dose.is_some() && !self.chance.percent(55) {
            return;
        }
        let action = if dose.is_some() { "update" } else { "create" };
        let step = self.step(session, doctor, action, "medications");
        let problem = &mut self.charts[session.chart].problems[which];
        let step = step.record("MedicationRequest", &problem.prescription).sensitive(problem.kind.sensitivity);
        let new = dose.map_or(0, |dose| (dose + 1) % problem.kind.doses.len());
        problem.dose = Some(new);
        let step = if let Some(dose) = dose {
            problem.prescription_version += 1;
            step.change_code("CHGDATA").changed("dosage", problem.kind.doses[dose], problem.kind.doses[new])
        } else {
            step.change_code("NEWDATA")
                .added("medication", problem.kind.medicine)
                .added("dosage", problem.kind.doses[new])
        };
        let step = step.version(problem.prescription_version).related("Encounter", &session.id);
        self.put(step);
    }

    /// Orders a test; the result comes the same day, if the laboratory is quick enough.
    fn order(&mut self, session: &mut Session, doctor: &Staff) {
        let order = self.number("SR");
        let test = &TESTS[self.chance.index(TESTS.len())];
        let step = self.step(session, doctor, "create", "results").change_code("NEWDATA").version(1);
        let step = step.record("ServiceRequest", &order).related("Encounter", &session.id);
        self.put(step.added("code", test.loinc).added("display", test.display));
        let record = self.number("O");
        let time = session.clock + TimeDelta::hours(2) + self.pause(0, 10_000);
        let value = decimal(self.chance.between(test.low, test.high), test.places);
        let result = Submission::new(&LAB_INTERFACE, "create", time, "TREAT")
            .on_behalf_of(doctor.id)
            .patient(&self.charts[session.chart].mrn)
            .record("Observation", &record)
            .version(1)
            .category("results")
            .change_code("NEWDATA")
            .added("code", test.loinc)
            .added("display", test.display)
            .added("value", value)
            .added("unit", test.unit)
            .related("ServiceRequest", &order)
            .context("session_id", &session.id);
        self.put(result);
        if time.hour() < 17 && self.chance.percent(80) {
            let seen = Submission::new(doctor, "read", time + self.pause(300, 3_000), session.purpose)
                .patient(&self.charts[session.chart].mrn)
                .record("Observation", &record)
                .version(1)
                .category("results")
                .related("ServiceRequest", &order)
                .context("session_id", &session.id);
            self.put(seen);
        }
        self.charts[session.chart].last_result = Some(record);
    }

    fn check_out(&mut self, session: &mut Session, doctor: &Staff, desk: &Staff, note: &str) {
        let step = self.step(session, doctor, "update", "demographics").change_code("CHGDATA");
        let step = step.record("Encounter", &session.id).version(2);
        self.put(step.changed("status", "arrived", "finished"));
        if self.chance.percent(30) {
            let outcome = if self.chance.percent(8) { "failure" } else { "success" };
            let step = self.step(session, desk, "print", "notes").purpose("PATRQT").outcome(outcome);
            self.put(step.record("DocumentReference", note).related("Encounter", &session.id));
        }
    }

    /// Billing works on the visits of the open day before.
    fn bill(&mut self, clerk: &'static Staff, day: NaiveDate) {
        let mut clock = self.at(day, 545);
        for claim in std::mem::take(&mut self.unbilled) {
            let mut session = self.session(claim.chart, clock, "HPAYMT");
            let step = self.step(&mut session, clerk, "read", "billing").record("Encounter", &claim.encounter);
            self.put(step);
            let record = self.number("CL");
            let amount = decimal(self.chance.between(8_500, 42_000), 2);
            let step = self.step(&mut session, clerk, "create", "billing").record("Claim", &record).version(1);
            let step = step.change_code("NEWDATA").related("Encounter", &claim.encounter);
            self.put(step.added("diagnosis", claim.diagnosis).added("total_usd", amount).added("status", "draft"));
            let step = self.step(&mut session, clerk, "export", "billing").record("Claim", &record).version(1);
            let payor = self.charts[claim.chart].insurer;
            self.put(step.context("destination", payor));
            if self.chance.percent(60) {
                let step = self.step(&mut session, clerk, "update", "billing").record("Claim", &record).version(2);
                self.put(step.change_code("CHGDATA").changed("status", "draft", "submitted"));
            }
            clock = session.clock;
        }
    }

    /// The researcher looks for a cohort and exports its members; sensitive charts are not part of it.
    fn research(&mut self, day: NaiveDate) {
        let minute = self.chance.between(600, 720);
        let clock = self.at(day, minute);
        self.sign(&RESEARCHER, "login", clock);
        let diabetic = |chart: &Chart| chart.problems.iter().any(|problem| problem.kind.code == "E11.9");
        let cohort: Vec<usize> = (0..PATIENT_COUNT)
            .filter(|place| {
                self.charts[*place].registered
                    && diabetic(&self.charts[*place])
                    && self.charts[*place].labels().is_empty()
            })
            .collect();
        let query = Submission::new(&RESEARCHER, "query", clock + TimeDelta::seconds(70), "HRESCH");
        self.put(
            query
                .category("problems")
                .context("query", "E11.9 without sensitive labels")
                .related("ResearchStudy", STUDY),
        );
        let mut session = self.session(0, clock + TimeDelta::seconds(90), "HRESCH");
        let group = format!("G-t2dm-{}", day.format("%Y-%m"));
        for _ in 0..self.chance.between(1, 4) {
            // A cohort of nobody would leave nothing to export.
            let Some(chart) = cohort.get(self.chance.index(cohort.len())) else { break };
            session.chart = *chart;
            let step = self.step(&mut session, &RESEARCHER, "export", "results").record("Group", &group);
            self.put(step.related("ResearchStudy", STUDY));
        }
        if self.chance.percent(10) {
            session.chart = self.known_chart();
            let mrn = self.charts[session.chart].mrn.clone();
            let step = self.step(&mut session, &RESEARCHER, "read", "demographics").record("Patient", &mrn);
            self.put(step.outcome("denied"));
        }
        let stop = session.clock + self.pause(60, 900);
        self.sign(&RESEARCHER, "logout", stop);
    }

    /// Urgent care never closes: with this chance (percent) somebody comes within these minutes of the day.
    fn emergency(&mut self, day: NaiveDate, share: u32, minutes: RangeInclusive<u32>) {
        if !self.chance.percent(share) {
            return;
        }
        let minute = self.chance.between(*minutes.start(), *minutes.end());
        let chart = self.known_chart();
        let doctor =
            if self.chance.percent(70) { &PHYSICIANS[5] } else { &PHYSICIANS[self.chance.index(PHYSICIANS.len())] };
        let nurse = &NURSES[4];
        let purpose = if self.chance.percent(50) { "ETREAT" } else { "ERTREAT" };
        let (id, clock) = (self.number("E"), self.at(day, minute));
        let mut session = Session { id, chart, clock, purpose, facility: URGENT };
        let step = self.step(&mut session, nurse, "create", "demographics").change_code("NEWDATA");
        let step = step.record("Encounter", &session.id).version(1);
        self.put(step.added("status", "arrived").added("class", "emergency"));
        self.vital_signs(&mut session, nurse);
        self.consultation(&mut session, doctor);
        if self.charts[chart].labels().is_empty() {
            return;
        }
        // The patient had restricted access to this chart, and cannot be asked now.
        let step = self.step(&mut session, doctor, "read", "medications").purpose("OVRER");
        let labels = self.charts[chart].labels();
        let step = step.record("MedicationRequest", &self.charts[chart].problems[0].prescription).sensitive(&labels);
        self.put(step.note("Patient could not be asked; interactions had to be ruled out before sedation"));
    }
}

/// The teams take turns.
fn shift(day: NaiveDate) -> Shift {
    let turn = u64::from(day.num_days_from_ce().unsigned_abs());
    let turn = |len: usize, offset: u64| usize::try_from((turn + offset) % len as u64).unwrap_or(0);
    Shift {
        doctors: [&PHYSICIANS[turn(5, 0)], &PHYSICIANS[turn(5, 2)]],
        nurses: [&NURSES[turn(4, 0)], &NURSES[turn(4, 1)]],
        desk: &FRONT_DESK[turn(3, 0)],
        billing: &BILLING[turn(2, 0)],
    }
}

const MAIN: &str = "riverbend-family-clinic";
const URGENT: &str = "riverbend-urgent-care";
const STUDY: &str = "RS-0017";

const PLANS: [&str; 6] = [
    "Continue present treatment, return in three months",
    "Dose changed, telephone call in two weeks",
    "Laboratory work today, results by telephone",
    "Home readings for two weeks, then review",
    "Referral to physical therapy",
    "No change; annual visit",
];

/// A laboratory test with the range of its results in units of the last decimal place.
struct Test {
    loinc: &'static str,
    display: &'static str,
    unit: &'static str,
    low: u32,
    high: u32,
    places: u32,
}

const TESTS: [Test; 6] = [
    test("4548-4", "Hemoglobin A1c", "%", (52, 98), 1),
    test("2345-7", "Glucose", "mg/dL", (72, 210), 0),
    test("2160-0", "Creatinine", "mg/dL", (60, 160), 2),
    test("3016-3", "Thyrotropin", "m[IU]/L", (40, 620), 2),
    test("718-7", "Hemoglobin", "g/dL", (105, 165), 1),
    test("2823-3", "Potassium", "mmol/L", (34, 52), 1),
];

const fn test(
    loinc: &'static str,
    display: &'static str,
    unit: &'static str,
    (low, high): (u32, u32),
    places: u32,
) -> Test {
    Test { loinc, display, unit, low, high, places }
}
