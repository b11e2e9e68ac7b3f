//! What a compliance officer looks for among the routine.

use chrono::{Datelike, NaiveDate, TimeDelta, Weekday};

use super::Clinic;
use super::days::Shift;
use super::people::{
    ADMINISTRATOR, COLLEAGUES, Chart, FRONT_DESK, LITIGANT, NOSY, NURSES, PATIENT_COUNT, PHYSICIANS, RECORDS,
    RESEARCHER, Staff, VIP,
};
use super::submission::Submission;

impl Clinic {
    /// The unusual events of an open day, `back` days before the last one. The last day has nearly all of them.
    pub(super) fn incidents(&mut self, shift: &Shift, day: NaiveDate, back: u64) {
        let last = back == 0;
        if last || self.chance.percent(8) {
            self.break_glass(day, true);
        }
        if last || self.chance.percent(7) {
            self.break_glass(day, false);
        }
        // Curiosity grows: nothing in spring, most in the last months.
        if last || (back < 200 && self.chance.percent(if back < 60 { 30 } else { 10 })) {
            self.snoop(day);
        }
        if last || self.chance.percent(12) {
            self.late_entry(shift, day);
        }
        if last || self.chance.percent(7) {
            self.entered_in_error(shift, day);
        }
        if self.chance.percent(4) {
            self.altered_decision(shift, day);
        }
        if last || self.chance.percent(9) {
            self.failed_logins(shift.nurses[0], day);
        }
        if self.chance.percent(5) {
            self.refused_read(day);
        }
        if last || self.chance.percent(18) {
            self.copies(day);
        }
        if last || self.chance.percent(9) {
            self.report_to_public_health(shift, day);
        }
        self.rare(shift, day, back);
    }

    /// What happens a few times a year, whatever the seed: on its day, or on the Monday after if that is a closed one.
    fn rare(&mut self, shift: &Shift, day: NaiveDate, back: u64) {
        let covered = if day.weekday() == Weekday::Mon { 3 } else { 1 };
        let is_due = |dates: &[u64]| dates.iter().any(|date| (back..back + covered).contains(date));
        if is_due(&[3, 95, 190, 300]) {
            self.access_rights(day);
        }
        if is_due(&[REGISTERED_TWICE]) {
            self.register_twice(shift, day);
        }
        if is_due(&[MERGED]) {
            self.merge(day);
        }
        if is_due(&[31, 121, 251]) {
            self.answer_court(day);
        }
        if is_due(&[71]) {
            self.warn_third_party(shift, day);
        }
    }

    /// A physician opens the chart of somebody else's patient in an emergency.
    fn break_glass(&mut self, day: NaiveDate, noted: bool) {
        let doctor = &PHYSICIANS[self.chance.pick(&[0, 2, 5, 5])];
        let minute =
            if self.chance.percent(35) { self.chance.between(1_180, 1_290) } else { self.chance.between(500, 1_000) };
        let (chart, clock) = (self.known_chart(), self.at(day, minute));
        let note = self.chance.pick(&BREAK_GLASS_NOTES);
        let labels = self.charts[chart].labels();
        let (list, prescription) = (list_of(&self.charts[chart]), self.charts[chart].problems[0].prescription.clone());
        let mut session = self.session(chart, clock, "BTG");
        let views = [("problems", "List", list), ("medications", "MedicationRequest", prescription)];
        for (category, kind, record) in &views {
            let step = self.step(&mut session, doctor, "read", category).record(kind, record).sensitive(&labels);
            self.put(if noted { step.note(note) } else { step });
        }
        if noted && self.chance.percent(60) {
            let record = self.number("N");
            let step = self.step(&mut session, doctor, "create", "notes").record("DocumentReference", &record);
            let step = step.version(1).change_code("NEWDATA").sensitive(&labels).note(note);
            self.put(step.added("title", "Emergency note").added("plan", "Stabilized; own physician informed"));
        }
    }

    /// The nosy clerk comes back after hours and reads the charts of colleagues and of a well-known patient.
    fn snoop(&mut self, day: NaiveDate) {
        let minute = self.chance.between(1_170, 1_330);
        let clock = self.at(day, minute);
        self.sign(NOSY, "login", clock);
        let mut session = self.session(VIP, clock, "PATADMIN");
        for turn in 0..self.chance.between(2, 5) {
            let colleague = COLLEAGUES[self.chance.index(COLLEAGUES.len())].0;
            session.chart = if turn % 2 == 1 || self.chance.percent(25) { VIP } else { colleague };
            let (mrn, list) = (self.charts[session.chart].mrn.clone(), list_of(&self.charts[session.chart]));
            let labels = self.charts[session.chart].labels();
            let step = self.step(&mut session, NOSY, "read", "demographics").record("Patient", &mrn);
            self.put(step);
            if self.chance.percent(70) {
                let step = self.step(&mut session, NOSY, "read", "problems").record("List", &list).sensitive(&labels);
                self.put(step);
            }
        }
        let stop = session.clock + self.pause(30, 200);
        self.sign(NOSY, "logout", stop);
    }

    /// Vital signs taken down on paper and entered later, on a device that reached the vault only in the evening.
    fn late_entry(&mut self, shift: &Shift, day: NaiveDate) {
        let (chart, nurse) = (self.known_chart(), shift.nurses[1]);
        let (minute, sent) = (self.chance.between(560, 680), self.chance.between(1_050, 1_110));
        let (clock, sent_at) = (self.at(day, minute), self.at(day, sent));
        let (id, record) = (self.number("E"), self.number("O"));
        let mut session = self.session(chart, clock, "TREAT");
        session.id = id;
        let step = self.measured(&mut session, nurse, &record);
        let days = if self.chance.percent(30) { self.chance.between(1, 4) } else { 0 };
        let effective_at = session.clock - TimeDelta::days(days.into()) - self.pause(2_700, 9_000);
        let note = self.chance.pick(&LATE_NOTES);
        self.put(step.late(effective_at, sent_at).note(note));
    }

    /// Vital signs written into the wrong chart, and taken out again.
    fn entered_in_error(&mut self, shift: &Shift, day: NaiveDate) {
        let (chart, nurse, minute) = (self.known_chart(), shift.nurses[0], self.chance.between(520, 980));
        let (id, record, clock) = (self.number("E"), self.number("O"), self.at(day, minute));
        let mut session = self.session(chart, clock, "TREAT");
        session.id = id;
        let step = self.measured(&mut session, nurse, &record);
        self.put(step);
        session.clock += self.pause(300, 2_400);
        let step = self.step(&mut session, nurse, "delete", "vitals").change_code("EIE").record("Observation", &record);
        let step = step.version(2).changed("status", "final", "entered-in-error");
        let note = self.chance.pick(&ERROR_NOTES);
        self.put(step.note(note));
    }

    /// A prescription withdrawn before it was dispensed.
    fn altered_decision(&mut self, shift: &Shift, day: NaiveDate) {
        let (chart, doctor, minute) = (self.known_chart(), shift.doctors[0], self.chance.between(520, 980));
        let (record, clock) = (self.number("RX"), self.at(day, minute));
        let mut session = self.session(chart, clock, "TREAT");
        let step = self.step(&mut session, doctor, "create", "medications").change_code("NEWDATA");
        let step = step.record("MedicationRequest", &record).version(1);
        self.put(step.added("medication", "amoxicillin").added("dosage", "500 mg three times daily"));
        let step = self.step(&mut session, doctor, "update", "medications").change_code("ALTD");
        let step = step.record("MedicationRequest", &record).version(2).changed("status", "active", "cancelled");
        self.put(step.note("Allergy to penicillin found in the outside record"));
    }

    /// A forgotten password; sometimes many tries at night from an address that is not ours.
    fn failed_logins(&mut self, who: &Staff, day: NaiveDate) {
        let attack = self.chance.percent(15);
        let minute = if attack { self.chance.between(150, 230) } else { self.chance.between(410, 418) };
        let mut time = self.at(day, minute);
        let tries = if attack { self.chance.between(5, 9) } else { self.chance.between(1, 3) };
        for _ in 0..tries {
            time += self.pause(8, 40);
            let failed = Submission::new(who, "login_failed", time, "HOPERAT").outcome("failure");
            let failed = if attack {
                // An address of the range set aside for documentation (RFC 5737).
                failed.context("client_ip", "203.0.113.77").context("workstation", "unknown")
            } else {
                failed
            };
            self.put(failed);
        }
    }

    /// Somebody asks for what their role does not give them, and is denied it.
    fn refused_read(&mut self, day: NaiveDate) {
        let clerk = [&FRONT_DESK[0], &FRONT_DESK[1], &RESEARCHER][self.chance.index(3)];
        let purpose = if clerk.id == RESEARCHER.id { "HRESCH" } else { "PATADMIN" };
        let (chart, minute) = (self.known_chart(), self.chance.between(500, 1_000));
        let (record, clock) = (self.number("N"), self.at(day, minute));
        let mut session = self.session(chart, clock, purpose);
        let labels = self.charts[chart].labels();
        let step = self.step(&mut session, clerk, "read", "notes").record("DocumentReference", &record);
        self.put(step.sensitive(&labels).outcome("denied"));
    }

    /// Copies for a patient, or for family with the patient's consent.
    fn copies(&mut self, day: NaiveDate) {
        let (chart, minute) = (self.known_chart(), self.chance.between(540, 1_000));
        let purpose = if self.chance.percent(75) { "PATRQT" } else { "FAMRQT" };
        let clock = self.at(day, minute);
        let mut session = self.session(chart, clock, purpose);
        let list = list_of(&self.charts[chart]);
        for action in ["read", if self.chance.percent(50) { "copy" } else { "print" }] {
            let step = self.step(&mut session, &RECORDS, action, "problems").record("List", &list);
            let labels = self.charts[chart].labels();
            self.put(step.sensitive(&labels));
        }
    }

    /// A notifiable disease.
    fn report_to_public_health(&mut self, shift: &Shift, day: NaiveDate) {
        let (chart, minute) = (self.known_chart(), self.chance.between(600, 1_000));
        let (number, clock) = (self.number("O"), self.at(day, minute));
        let record = self.charts[chart].last_result.clone().unwrap_or(number);
        let (disease, doctor) = (self.chance.pick(&NOTIFIABLE), shift.doctors[1]);
        let mut session = self.session(chart, clock, "PUBHLTH");
        let step = self.step(&mut session, doctor, "disclose", "results").record("Observation", &record);
        self.put(step.disclosed_to(
            "Riverbend County Health Department",
            "14 Courthouse Square, Riverbend",
            &format!("Case report: {disease}"),
            "45 CFR 164.512(b), public health activities",
        ));
    }

    fn answer_court(&mut self, day: NaiveDate) {
        let (chart, minute) = (LITIGANT, self.chance.between(600, 1_000));
        let clock = self.at(day, minute);
        let mut session = self.session(chart, clock, "HLEGAL");
        let list = list_of(&self.charts[chart]);
        let step = self.step(&mut session, &RECORDS, "read", "problems").record("List", &list);
        self.put(step.note("Court order checked: covers one year, sensitive notes left out"));
        let step = self.step(&mut session, &RECORDS, "disclose", "problems").record("List", &list);
        self.put(step.note("Sent by courier against signature").disclosed_to(
            "Riverbend County Superior Court",
            "1 Courthouse Square, Riverbend",
            "Problem list and visits of one year",
            "45 CFR 164.512(e), order of a court",
        ));
    }

    /// A threat against somebody, told to the police.
    fn warn_third_party(&mut self, shift: &Shift, day: NaiveDate) {
        let (chart, minute) = (self.known_chart(), self.chance.between(600, 1_000));
        let (record, clock) = (self.number("N"), self.at(day, minute));
        let mut session = self.session(chart, clock, "OVRTPS");
        let step = self.step(&mut session, shift.doctors[0], "disclose", "notes").record("DocumentReference", &record);
        self.put(step.note("Serious and imminent threat against a named person").disclosed_to(
            "Riverbend Police Department",
            "3 Courthouse Square, Riverbend",
            "Name of the patient and of the threatened person",
            "45 CFR 164.512(j), serious threat to safety",
        ));
    }

    /// Access to urgent care for a while.
    fn access_rights(&mut self, day: NaiveDate) {
        let (who, minute) = (&NURSES[self.chance.index(4)], self.chance.between(480, 600));
        let time = self.at(day, minute);
        for (action, time, note) in [
            ("grant", time, "Covers urgent care this afternoon"),
            ("revoke", time + TimeDelta::hours(8), "Cover ended"),
        ] {
            let change = Submission::new(&ADMINISTRATOR, action, time, "HSYSADMIN").record("User", who.id);
            self.put(change.note(note).context("permission", "urgent-care-charts"));
        }
    }

    /// A new clerk does not find the patient and registers them again; the visit goes into the second chart.
    fn register_twice(&mut self, shift: &Shift, day: NaiveDate) {
        let mut second = self.charts[TWICE].clone();
        second.mrn = "MRN-199871".to_owned();
        second.registered = false;
        second.version = 1;
        second.last_result = None;
        for problem in &mut second.problems {
            problem.record.push_str("-2");
            problem.prescription.push_str("-2");
            problem.version = 1;
            problem.prescription_version = 1;
            problem.dose = None;
        }
        // The second chart stands behind those of all patients, where no routine finds it.
        self.charts.push(second);
        let clock = self.at(day, 840);
        self.visit(shift, 1, PATIENT_COUNT, clock);
    }

    /// The records office finds the double registration and merges the two.
    fn merge(&mut self, day: NaiveDate) {
        let retired = self.charts[PATIENT_COUNT].mrn.clone();
        let kept = self.charts[TWICE].mrn.clone();
        let clock = self.at(day, 620);
        let mut session = self.session(PATIENT_COUNT, clock, "RECORDMGT");
        let step = self.step(&mut session, &RECORDS, "read", "demographics").record("Patient", &retired);
        self.put(step);
        session.chart = TWICE;
        let step = self.step(&mut session, &RECORDS, "read", "demographics").record("Patient", &kept);
        self.put(step);
        let step = self.step(&mut session, &RECORDS, "merge", "demographics").record("Patient", &kept);
        let step = step.change_code("MDATA").related("Patient", &retired);
        self.put(step.note("Same person registered twice: name, birth date and telephone agree"));
    }
}

/// The patient who is registered twice.
const TWICE: usize = 164;

/// When this happened, and when it was put right, in days before the last one.
const REGISTERED_TWICE: u64 = 215;
const MERGED: u64 = 187;

fn list_of(chart: &Chart) -> String {
    format!("L-{}", chart.mrn.trim_start_matches("MRN-"))
}

const BREAK_GLASS_NOTES: [&str; 5] = [
    "Unresponsive on arrival, medicines unknown",
    "Chest pain in the waiting room, own physician not reachable",
    "Seizure; list of medicines needed at once",
    "Ambulance handover, patient could not give a history",
    "Severe allergic reaction, allergies and medicines checked",
];

const LATE_NOTES: [&str; 3] = [
    "Network down in the exam room, copied from paper",
    "Measured at a home visit, entered after return",
    "Device was offline",
];

const ERROR_NOTES: [&str; 3] = [
    "Vital signs of another patient entered into this chart",
    "Wrong chart was open",
    "Cuff of the wrong size; measured again on a new record",
];

const NOTIFIABLE: [&str; 4] = ["pertussis", "salmonellosis", "latent tuberculosis", "Lyme disease"];
