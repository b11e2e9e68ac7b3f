//! Who works at the clinic and who comes to it. All of them are invented.

use super::random::Chance;

/// Somebody who appears as an actor.
#[derive(Debug)]
pub(super) struct Staff {
    pub(super) id: &'static str,
    pub(super) name: &'static str,
    pub(super) role: &'static str,
    /// `user` or `system`.
    pub(super) kind: &'static str,
    pub(super) workstation: &'static str,
    pub(super) client_ip: &'static str,
    pub(super) user_agent: &'static str,
}

/// The physicians; the last one works in urgent care.
pub(super) static PHYSICIANS: [Staff; 6] = [
    user("dr_okafor", "Ifeya Okafor", "physician", "exam-1", "10.20.1.11"),
    user("dr_velde", "Joris Velde", "physician", "exam-2", "10.20.1.12"),
    user("dr_sorrel", "Linnet Sorrel", "physician", "exam-3", "10.20.1.13"),
    user("dr_tamsin", "Oriel Tamsin", "physician", "exam-4", "10.20.1.14"),
    user("dr_brandeis", "Corwin Brandeis", "physician", "exam-5", "10.20.1.15"),
    user("dr_ekwall", "Stellan Ekwall", "physician", "urgent-1", "10.20.2.11"),
];

/// The nurses; the last one works in urgent care.
pub(super) static NURSES: [Staff; 5] = [
    user("rn_lind", "Tove Lind", "nurse", "triage-1", "10.20.1.31"),
    user("rn_castor", "Pia Castor", "nurse", "triage-2", "10.20.1.32"),
    user("rn_adeyo", "Bisi Adeyo", "nurse", "triage-3", "10.20.1.33"),
    user("rn_moss", "Garrick Moss", "nurse", "triage-4", "10.20.1.34"),
    user("rn_farrow", "Wren Farrow", "nurse", "urgent-2", "10.20.2.12"),
];

/// The front desk; [`NOSY`] is one of them.
pub(super) static FRONT_DESK: [Staff; 3] = [
    user("fd_marsh", "Della Marsh", "front_desk", "desk-1", "10.20.1.51"),
    user("fd_pruitt", "Odell Pruitt", "front_desk", "desk-2", "10.20.1.52"),
    user("fd_quill", "Rowan Quill", "front_desk", "desk-3", "10.20.1.53"),
];

/// The clerk who reads charts out of curiosity, after hours.
pub(super) static NOSY: &Staff = &FRONT_DESK[2];

pub(super) static BILLING: [Staff; 2] = [
    user("bl_hatch", "Nerys Hatch", "billing", "office-1", "10.20.1.71"),
    user("bl_tern", "Ansel Tern", "billing", "office-2", "10.20.1.72"),
];

pub(super) static RESEARCHER: Staff = user("rs_ivory", "Selma Ivory", "researcher", "research-1", "10.20.3.11");

/// Keeps the master index of patients, answers courts and patients who ask for copies.
pub(super) static RECORDS: Staff = user("him_crane", "Lorna Crane", "records", "office-3", "10.20.1.73");

/// Grants and revokes access.
pub(super) static ADMINISTRATOR: Staff = user("adm_bolt", "Casper Bolt", "administrator", "office-4", "10.20.1.74");

/// The interface through which the laboratory delivers results.
pub(super) static LAB_INTERFACE: Staff = Staff {
    id: "lab-interface",
    name: "Laboratory interface",
    role: "integration",
    kind: "system",
    workstation: "lab-gateway",
    client_ip: "10.20.9.5",
    user_agent: "LabBridge/3.4",
};

/// How many patients the clinic has, merged ones not counted.
pub(super) const PATIENT_COUNT: usize = 320;

/// How many of them have been coming since before this year.
pub(super) const ESTABLISHED_COUNT: usize = 250;

/// The chart of a well-known person.
pub(super) const VIP: usize = 41;

/// The chart of somebody who is in court, MRN-100472.
pub(super) const LITIGANT: usize = 34;

/// Charts of people who work here, and whose they are.
pub(super) const COLLEAGUES: [(usize, &str); 4] =
    [(12, "rn_castor"), (77, "dr_velde"), (130, "fd_marsh"), (208, "bl_tern")];

/// A patient as the clinic knows them at one moment; the scenes change it, so that old values are the true ones.
#[derive(Debug, Clone)]
pub(super) struct Chart {
    pub(super) mrn: String,
    pub(super) given: &'static str,
    pub(super) family: &'static str,
    pub(super) birth_date: String,
    pub(super) phone: String,
    pub(super) street: String,
    pub(super) insurer: &'static str,
    /// Whether the demographics were entered before this year.
    pub(super) registered: bool,
    /// Version of the demographics.
    pub(super) version: u32,
    pub(super) vitals: Vitals,
    pub(super) problems: Vec<Problem>,
    /// The newest laboratory result.
    pub(super) last_result: Option<String>,
}

impl Chart {
    /// The sensitivity labels of all problems in this chart, each once.
    pub(super) fn labels(&self) -> Vec<&'static str> {
        let mut labels: Vec<_> = self.problems.iter().flat_map(|problem| problem.kind.sensitivity).copied().collect();
        labels.sort_unstable();
        labels.dedup();
        labels
    }
}

#[derive(Debug, Clone)]
pub(super) struct Vitals {
    pub(super) systolic: u32,
    pub(super) diastolic: u32,
    pub(super) pulse: u32,
    /// Tenths of a kilogram.
    pub(super) weight: u32,
}

/// A condition with the medicine prescribed for it.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) kind: &'static Disease,
    pub(super) record: String,
    pub(super) version: u32,
    pub(super) control: &'static str,
    pub(super) prescription: String,
    pub(super) prescription_version: u32,
    /// Position in [`Disease::doses`], none before the first prescription.
    pub(super) dose: Option<usize>,
}

/// A disease this clinic sees often.
#[derive(Debug)]
pub(super) struct Disease {
    /// ICD-10-CM.
    pub(super) code: &'static str,
    pub(super) display: &'static str,
    pub(super) sensitivity: &'static [&'static str],
    pub(super) medicine: &'static str,
    pub(super) doses: [&'static str; 3],
}

/// How well a disease is controlled.
pub(super) const CONTROL: [&str; 4] = ["well controlled", "stable", "worsening", "poorly controlled"];

pub(super) static DISEASES: [Disease; 12] = [
    disease("I10", "Essential hypertension", &[], "lisinopril", ["5 mg daily", "10 mg daily", "20 mg daily"]),
    disease(
        "E11.9",
        "Type 2 diabetes mellitus",
        &[],
        "metformin",
        ["500 mg daily", "500 mg twice daily", "1000 mg twice daily"],
    ),
    disease("E78.5", "Hyperlipidemia", &[], "atorvastatin", ["10 mg nightly", "20 mg nightly", "40 mg nightly"]),
    disease(
        "J45.30",
        "Mild persistent asthma",
        &[],
        "budesonide inhaler",
        ["180 mcg daily", "180 mcg twice daily", "360 mcg twice daily"],
    ),
    disease(
        "M54.50",
        "Low back pain",
        &[],
        "naproxen",
        ["250 mg as needed", "250 mg twice daily", "500 mg twice daily"],
    ),
    disease(
        "K21.9",
        "Gastro-esophageal reflux disease",
        &[],
        "omeprazole",
        ["10 mg daily", "20 mg daily", "40 mg daily"],
    ),
    disease("E03.9", "Hypothyroidism", &[], "levothyroxine", ["50 mcg daily", "75 mcg daily", "100 mcg daily"]),
    disease(
        "F33.1",
        "Major depressive disorder, recurrent",
        &["PSY"],
        "sertraline",
        ["50 mg daily", "100 mg daily", "150 mg daily"],
    ),
    disease(
        "F41.1",
        "Generalized anxiety disorder",
        &["PSY"],
        "escitalopram",
        ["5 mg daily", "10 mg daily", "20 mg daily"],
    ),
    disease(
        "F11.20",
        "Opioid dependence",
        &["SUD"],
        "buprenorphine/naloxone",
        ["4 mg daily", "8 mg daily", "16 mg daily"],
    ),
    disease(
        "F10.20",
        "Alcohol dependence",
        &["SUD"],
        "naltrexone",
        ["25 mg daily", "50 mg daily", "100 mg every other day"],
    ),
    disease(
        "Z21",
        "Asymptomatic HIV infection",
        &["HIV"],
        "bictegravir combination",
        ["one tablet daily", "one tablet at noon", "one tablet at night"],
    ),
];

/// How often each of [`DISEASES`] is found, as weights.
const FREQUENCY: [u32; 12] = [24, 16, 16, 9, 12, 9, 7, 7, 6, 3, 3, 2];

/// All charts as they stand on the first morning.
pub(super) fn charts(chance: &mut Chance) -> Vec<Chart> {
    (0..PATIENT_COUNT).map(|place| chart(place, chance)).collect()
}

/// The medical record number of the patient in this place.
pub(super) fn mrn(place: usize) -> String {
    format!("MRN-{}", 100_234 + place * 7)
}

fn chart(place: usize, chance: &mut Chance) -> Chart {
    let (born, month, day) = (chance.between(1938, 2006), chance.between(1, 12), chance.between(1, 28));
    let house = chance.between(2, 480);
    let weight = chance.between(520, 1_120);
    let mut chart = Chart {
        mrn: mrn(place),
        given: chance.pick(&GIVEN),
        family: chance.pick(&FAMILY),
        birth_date: format!("{born}-{month:02}-{day:02}"),
        phone: phone(chance),
        street: format!("{house} {}", chance.pick(&STREETS)),
        insurer: chance.pick(&INSURERS),
        registered: place < ESTABLISHED_COUNT,
        version: 1,
        vitals: Vitals { systolic: 124, diastolic: 78, pulse: 72, weight },
        problems: Vec::new(),
        last_result: None,
    };
    for slot in 0..chance.between(1, 3) {
        let kind = common_disease(chance);
        if chart.problems.iter().all(|problem| problem.kind.code != kind.code) {
            let dose = chance.percent(70).then_some(0);
            chart.problems.push(problem(kind, &format!("{place:04}{slot}"), dose, chance));
        }
    }
    chart
}

/// A problem whose records are numbered `number`.
pub(super) fn problem(kind: &'static Disease, number: &str, dose: Option<usize>, chance: &mut Chance) -> Problem {
    Problem {
        kind,
        record: format!("C-{number}"),
        version: 1,
        control: chance.pick(&CONTROL),
        prescription: format!("RX-{number}"),
        prescription_version: 1,
        dose,
    }
}

/// A disease, the common ones more often.
pub(super) fn common_disease(chance: &mut Chance) -> &'static Disease {
    let mut left = chance.between(0, FREQUENCY.iter().sum::<u32>() - 1);
    for (disease, weight) in DISEASES.iter().zip(FREQUENCY) {
        if left < weight {
            return disease;
        }
        left -= weight;
    }
    &DISEASES[0]
}

/// A number of the range set aside for fiction.
pub(super) fn phone(chance: &mut Chance) -> String {
    format!("+1-{}-555-01{:02}", chance.pick(&AREAS), chance.between(0, 99))
}

/// A street address without its town.
pub(super) fn street(chance: &mut Chance) -> String {
    format!("{} {}", chance.between(2, 480), chance.pick(&STREETS))
}

pub(super) const INSURERS: [&str; 5] =
    ["Harbor Mutual", "Prairie Health Plan", "Bluestem Care", "Public program", "Self-pay"];

const AREAS: [&str; 3] = ["206", "503", "971"];

const STREETS: [&str; 8] = [
    "Alder Lane",
    "Quarry Road",
    "Mill Street",
    "Heron Way",
    "Larch Avenue",
    "Ferry Street",
    "Orchard Close",
    "Tannery Row",
];

const GIVEN: [&str; 24] = [
    "Aveline", "Bram", "Cressida", "Dorian", "Elowen", "Fintan", "Greta", "Hollis", "Imre", "Junia", "Kester",
    "Lavinia", "Mirek", "Nadira", "Osric", "Petra", "Quentin", "Rosalba", "Sunniva", "Thaddeus", "Ulrike", "Vesna",
    "Wystan", "Yara",
];

const FAMILY: [&str; 24] = [
    "Abernook",
    "Birchall",
    "Cordwin",
    "Dunmarrow",
    "Eastlake",
    "Fennick",
    "Garrowby",
    "Hartsel",
    "Ilverton",
    "Jessamy",
    "Kolvane",
    "Lindqual",
    "Marrable",
    "Northcutt",
    "Ostrander",
    "Penhollow",
    "Quarles",
    "Rushby",
    "Selwater",
    "Tarrowin",
    "Umberlee",
    "Vantrell",
    "Whitlow",
    "Yarborne",
];

const fn user(
    id: &'static str,
    name: &'static str,
    role: &'static str,
    workstation: &'static str,
    client_ip: &'static str,
) -> Staff {
    Staff { id, name, role, kind: "user", workstation, client_ip, user_agent: "RiverbendEHR/8.2" }
}

const fn disease(
    code: &'static str,
    display: &'static str,
    sensitivity: &'static [&'static str],
    medicine: &'static str,
    doses: [&'static str; 3],
) -> Disease {
    Disease { code, display, sensitivity, medicine, doses }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_patient_has_a_number_of_their_own_and_a_problem() {
        let charts = charts(&mut Chance::new(1));
        let numbers: BTreeSet<&str> = charts.iter().map(|chart| chart.mrn.as_str()).collect();
        assert_eq!(numbers.len(), PATIENT_COUNT);
        assert!(charts.iter().all(|chart| !chart.problems.is_empty()));
    }

    #[test]
    fn the_colleagues_and_the_well_known_patient_are_in_the_charts_from_the_start() {
        let charts = charts(&mut Chance::new(1));
        assert!(charts[VIP].registered && charts[LITIGANT].registered);
        assert!(COLLEAGUES.iter().all(|(place, who)| charts[*place].registered && *who != NOSY.id));
    }

    #[test]
    fn sensitive_diseases_occur_but_are_the_minority() {
        let charts = charts(&mut Chance::new(1));
        for label in ["SUD", "HIV", "PSY"] {
            let carriers = charts
                .iter()
                .filter(|chart| chart.problems.iter().any(|problem| problem.kind.sensitivity.contains(&label)))
                .count();
            assert!((1..PATIENT_COUNT / 2).contains(&carriers), "{label}: {carriers}");
        }
    }
}
