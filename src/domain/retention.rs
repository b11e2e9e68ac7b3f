//! How long values are kept: retention classes, which entry belongs to which, and when its time ends.

use std::collections::BTreeMap;

use chrono::{Datelike, NaiveDate};
use serde::Deserialize;

use super::time::Timestamp;

/// The fewest years that a class may keep (45 CFR 164.316(b)(2)(i): six from creation or last effective date).
pub const LEAST_YEARS: u32 = 6;
/// The most years: beyond that, a class is kept for good.
const MOST_YEARS: u32 = 200;
/// The most classes.
const MAX_CLASSES: usize = 32;

/// The retention classes of a site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Retention {
    default: String,
    majority_years: u32,
    after_majority_years: u32,
    classes: BTreeMap<String, Option<u32>>,
    categories: BTreeMap<String, String>,
}

/// Under which class, and until when, an entry's values are kept.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Keep {
    /// The class.
    pub class: String,
    /// From when they may be disposed of; `None`: never.
    pub until: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: String,
    majority_years: u32,
    after_majority_years: u32,
    #[serde(rename = "class")]
    classes: Vec<Class>,
    #[serde(default)]
    categories: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Class {
    name: String,
    /// Absent: kept for good.
    years: Option<u32>,
    #[serde(rename = "title")]
    _title: Option<String>,
}

impl Retention {
    /// Reads `config/retention.toml`.
    ///
    /// # Errors
    /// One sentence with what would do.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        let mut classes = BTreeMap::new();
        for Class { name, years, .. } in file.classes {
            let plain = !name.is_empty()
                && name.len() <= 64
                && name.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it));
            if !plain {
                return Err("a class has a name of up to 64 letters, digits, - and _".into());
            }
            if years.is_some_and(|years| !(LEAST_YEARS..=MOST_YEARS).contains(&years)) {
                return Err(format!(
                    "class {name} must keep {LEAST_YEARS} to {MOST_YEARS} years (45 CFR 164.316(b)(2)(i) asks for {LEAST_YEARS}); leave years out to keep for good"
                ));
            }
            if classes.insert(name.clone(), years).is_some() {
                return Err(format!("class {name} stands twice"));
            }
        }
        if classes.len() > MAX_CLASSES {
            return Err(format!("there are more than {MAX_CLASSES} classes"));
        }
        for name in file.categories.values().chain([&file.default]) {
            if !classes.contains_key(name) {
                return Err(format!("the class {name} is named but not defined"));
            }
        }
        if !(16..=25).contains(&file.majority_years) || file.after_majority_years > 20 {
            return Err("majority_years is 16 to 25, and after_majority_years up to 20".into());
        }
        let File { default, majority_years, after_majority_years, categories, .. } = file;
        Ok(Self { default, majority_years, after_majority_years, classes, categories })
    }

    /// Whether there is a class of that name.
    pub fn has(&self, class: &str) -> bool {
        self.classes.contains_key(class)
    }

    /// How an entry is kept that was received then: under the class submitted, else that of its category, else the default. Time
    /// counts from receipt, which never falls along the ledger, to the end of a calendar year; for a minor no shorter than to
    /// some years after majority.
    pub fn keep(
        &self,
        submitted: Option<&str>,
        category: Option<&str>,
        received: Timestamp,
        born: Option<NaiveDate>,
    ) -> Keep {
        let class = submitted.or_else(|| self.categories.get(category?).map(String::as_str)).unwrap_or(&self.default);
        let years = self.classes.get(class).copied().flatten();
        let until = years.map(|years| {
            let plain = received.to_utc().year() + i32::try_from(years).unwrap_or(0);
            let grown = self.majority_years + self.after_majority_years;
            let minor = born.map_or(plain, |born| born.year() + i32::try_from(grown).unwrap_or(0));
            first_of(plain.max(minor) + 1)
        });
        Keep { class: class.to_owned(), until }
    }
}

/// The first moment of a year, UTC.
fn first_of(year: i32) -> Timestamp {
    let day = NaiveDate::from_ymd_opt(year, 1, 1).unwrap_or(NaiveDate::MAX);
    Timestamp(day.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../config/retention.toml");

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn values_are_kept_to_the_end_of_a_year_and_those_of_minors_longer() {
        let retention = Retention::parse(SHIPPED).unwrap();
        let received = at("2026-11-24T09:30:00Z");
        let keep = |born: Option<&str>| {
            retention.keep(None, None, received, born.map(|it| it.parse().unwrap())).until.unwrap()
        };
        assert_eq!(keep(None), at("2037-01-01T00:00:00Z"));
        assert_eq!(keep(Some("1950-05-05")), at("2037-01-01T00:00:00Z"));
        assert_eq!(keep(Some("2026-01-02")), at("2047-01-01T00:00:00Z"), "twenty years of age, to the end of the year");
        assert_eq!(retention.keep(Some("permanent"), None, received, None).until, None);
    }

    #[test]
    fn a_file_that_keeps_too_short_or_contradicts_itself_says_so() {
        let base =
            "default = \"a\"\nmajority_years = 18\nafter_majority_years = 2\n[[class]]\nname = \"a\"\nyears = 10\n";
        assert!(Retention::parse(base).is_ok());
        for (from, to, words) in [
            ("years = 10", "years = 5", "164.316"),
            ("default = \"a\"", "default = \"b\"", "not defined"),
            ("years = 10", "years = 10\n[[class]]\nname = \"a\"", "twice"),
            ("majority_years = 18", "majority_years = 2", "majority_years"),
            ("name = \"a\"", "name = \"a b\"", "name"),
            ("years = 10", "months = 10", "months"),
        ] {
            let error = Retention::parse(&base.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
