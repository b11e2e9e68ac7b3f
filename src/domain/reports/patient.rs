//! Who has looked at a patient's record, and why: for the patient, in plain words.

use std::collections::BTreeMap;

use super::super::action::{Action, Kind, Outcome};
use super::super::document::{Cell, Section};
use super::super::entry::EntryView;
use super::super::rules::Item;
use super::{Fold, Params, Rows, Times, count, counts_table, time_of};

pub(super) struct PatientFold {
    times: Times,
    people: BTreeMap<String, u64>,
    whys: BTreeMap<String, u64>,
    rows: Rows,
    of_the_vault: u64,
    in_vain: u64,
}

impl PatientFold {
    pub(super) fn new(params: &Params) -> Self {
        Self {
            times: Times::new(params),
            people: BTreeMap::new(),
            whys: BTreeMap::new(),
            rows: Rows::new(&["when", "who", "role", "what", "which part", "why"]),
            of_the_vault: 0,
            in_vain: 0,
        }
    }
}

impl Fold for PatientFold {
    fn add(&mut self, entry: &EntryView, _: &[Item]) -> bool {
        let time = time_of(entry);
        if entry.action.kind() == Kind::Vault && entry.action != Action::REVEAL {
            self.of_the_vault += 1;
            return true;
        }
        let why = why(entry);
        if entry.outcome == Outcome::Success {
            self.times.add(time);
            count(&mut self.people, &entry.actor.id);
            count(&mut self.whys, &why);
        } else {
            self.in_vain += 1;
        }
        let part = entry.category.clone().or_else(|| entry.record.as_ref().map(|it| it.kind.clone()));
        self.rows.push(vec![
            Cell::Time(time),
            Cell::text(&entry.actor.id),
            Cell::optional(entry.actor.role.as_deref()),
            Cell::text(what(entry)),
            Cell::optional(part.as_deref()),
            Cell::text(why),
        ]);
        self.people.len() < 1_000_000
    }

    fn sections(self: Box<Self>) -> Vec<Section> {
        let (people, times) = (self.people.len(), self.people.values().sum::<u64>());
        let mut summary = Section::text(
            "In short",
            vec![format!(
                "{} looked at this record or changed it, {} in all.",
                plural(people as u64, "person or program", "people or programs"),
                plural(times, "time", "times")
            )],
        );
        if self.in_vain > 0 {
            let tried = plural(self.in_vain, "try", "tries");
            summary =
                summary.with_text(format!("{tried} failed or were refused; they are listed below and not counted."));
        }
        if self.of_the_vault > 0 {
            let count = plural(self.of_the_vault, "search or report", "searches and reports");
            summary = summary
                .with_text(format!("Beside that the record was part of {count} of those who watch over the trail."));
        }
        let mut out = vec![summary];
        out.push(counts_table("Who", &["who", "times"], &self.people));
        out.push(counts_table("Why", &["why", "times"], &self.whys));
        out.extend(self.times.sections().into_iter().take(1));
        out.push(self.rows.section("Each time"));
        out
    }
}

fn plural(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn what(entry: &EntryView) -> String {
    let did = match entry.action.name() {
        "baseline" => "took it over into the system",
        "create" => "wrote something new",
        "read" => "looked at it",
        "update" => "changed it",
        "delete" => "removed it",
        "restore" => "put an earlier state back",
        "query" => "searched",
        "print" => "printed it",
        "copy" => "copied it",
        "export" => "exported it",
        "disclose" => "gave it to somebody outside",
        "merge" => "joined records",
        "reveal" => "looked at its history",
        other => other,
    };
    match entry.outcome {
        Outcome::Success => did.to_owned(),
        Outcome::Failure => format!("tried, and it failed: {did}"),
        Outcome::Denied => format!("tried, and was refused: {did}"),
    }
}

fn why(entry: &EntryView) -> String {
    let code = entry.reason.standard.as_deref().unwrap_or(&entry.reason.code);
    let Some(words) = words(code) else { return format!("reason {}", entry.reason.code) };
    if entry.reason.break_glass && words != "in an emergency" {
        return format!("{words}, breaking the glass");
    }
    words.to_owned()
}

/// A purpose of use as one would tell it to the person.
pub(super) fn words(code: &str) -> Option<&'static str> {
    Some(match code {
        "TREAT" | "CLINTRL" | "CAREMGT" | "COC" | "COORDCARE" | "TREATDS" | "POPHLTH" => "to treat you",
        "ETREAT" | "BTG" | "ERTREAT" => "in an emergency",
        "OVRER" => "in an emergency, where access was restricted",
        "OVRPJ" => "because a clinician judged it necessary, where access was restricted",
        "OVRPS" => "for public safety, where access was restricted",
        "OVRTPS" => "for the safety of somebody else, where access was restricted",
        "HPAYMT" | "CLMATTCH" | "COVAUTH" | "COVERAGE" | "ELIGDTRM" | "ELIGVER" | "ENROLLM" | "REMITADV" | "PMTDS"
        | "MEMADMIN" | "MILDCRG" => "for billing",
        "PATADMIN" => "to register you or to plan your visits",
        "PATSFTY" => "for the safety of patients",
        "HOPERAT" | "HCOMPL" | "HSYSADMIN" | "HACCRED" | "HQUALIMP" | "RECORDMGT" | "TRAIN" | "HDM" | "HOUTCOMS"
        | "HPRGRP" | "LABELING" | "METAMGT" | "PERFMSR" | "SYSDEV" | "HTEST" | "MLTRAINING" => "to run the hospital",
        "FRAUD" => "to find fraud",
        "HRESCH" | "BIORCH" | "CLINTRCH" | "CLINTRCHNPC" | "CLINTRCHPC" | "PRECLINTRCH" | "POARCH" | "TRANSRCH"
        | "DSRCH" => "for research",
        "PUBHLTH" | "HPRO" => "for public health",
        "DISASTER" => "because of a disaster",
        "DONAT" => "for a donation of organs or tissue",
        "HDECD" => "because of a death",
        "HDIRECT" => "for the directory of patients",
        "HMARKT" => "for marketing",
        "GOV" | "MILCDM" => "for the government or the armed forces",
        "PATRQT" | "FAMRQT" | "PWATRNY" | "SUPNWK" => "because you or your family asked",
        "HLEGAL" => "for a legal matter",
        "THREAT" => "because of a threat",
        "LAW" => "for law enforcement",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_purpose_that_is_shipped_is_told_in_plain_words() {
        let shipped: toml::Table = include_str!("../../../config/reasons.toml").parse().unwrap();
        let codes: Vec<_> =
            shipped["purpose"].as_array().unwrap().iter().map(|it| it["code"].as_str().unwrap()).collect();
        assert!(codes.len() > 50);
        let without: Vec<_> = codes.into_iter().filter(|it| super::words(it).is_none()).collect();
        assert!(without.is_empty(), "{without:?}");
    }
}
