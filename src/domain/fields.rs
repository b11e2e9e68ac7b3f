//! What a site knows of its fields: older names, and when a change is worth a mark.

use std::collections::HashMap;

use serde::Deserialize;

use super::meta::Meta;
use super::rules::Item;
use super::value::Value;

/// The mark of a numeric change beyond a share of the old value.
pub const LARGE_CHANGE: &str = "large_change";
/// The mark of a numeric value beyond a limit.
pub const HIGH_VALUE: &str = "high_value";
/// All marks, by rising name.
pub const MARKS: [&str; 2] = [HIGH_VALUE, LARGE_CHANGE];
/// The most fields a site describes.
const MAX_FIELDS: usize = 10_000;

/// What is known of the fields of a site.
#[derive(Clone, PartialEq, Debug)]
pub struct Fields {
    large_change_percent: f64,
    fields: HashMap<(String, String), Field>,
    /// The name of now, by record type and older name; and the schema that it is limited to.
    aliases: HashMap<(String, String), (String, Option<String>)>,
}

#[derive(Clone, PartialEq, Debug)]
struct Field {
    large_change_percent: Option<f64>,
    above: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    large_change_percent: f64,
    #[serde(default, rename = "field")]
    fields: Vec<FieldIn>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldIn {
    record: String,
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
    alias_schema: Option<String>,
    large_change_percent: Option<f64>,
    above: Option<f64>,
}

impl Fields {
    /// Reads `config/fields.toml`.
    ///
    /// # Errors
    /// One sentence with what would do.
    pub fn parse(text: &str) -> Result<Self, String> {
        let File { large_change_percent, fields } = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        let sane = |percent: f64| percent.is_finite() && percent >= 0.0;
        let percents = fields.iter().filter_map(|it| it.large_change_percent).chain([large_change_percent]);
        if !percents.into_iter().all(sane) || !fields.iter().filter_map(|it| it.above).all(f64::is_finite) {
            return Err("large_change_percent is 0 or more, and above is a number".into());
        }
        if fields.len() > MAX_FIELDS {
            return Err(format!("there are more than {MAX_FIELDS} fields"));
        }
        let mut known = Self { large_change_percent, fields: HashMap::new(), aliases: HashMap::new() };
        for it in fields {
            for alias in it.aliases {
                let place = (it.record.clone(), alias);
                if place.1 == it.name || known.aliases.contains_key(&place) {
                    return Err(format!("the alias {} of {} stands twice, or is its own name", place.1, it.record));
                }
                known.aliases.insert(place, (it.name.clone(), it.alias_schema.clone()));
            }
            let field = Field { large_change_percent: it.large_change_percent, above: it.above };
            if known.fields.insert((it.record.clone(), it.name.clone()), field).is_some() {
                return Err(format!("the field {} of {} stands twice", it.name, it.record));
            }
        }
        let chained = known
            .aliases
            .iter()
            .any(|((record, _), (name, _))| known.aliases.contains_key(&(record.clone(), name.clone())));
        if chained { Err("an alias must name a field of now, not another alias".into()) } else { Ok(known) }
    }

    /// The name of now of a field that an entry with this schema calls so.
    pub fn name<'a>(&'a self, record: &str, field: &'a str, schema: Option<&str>) -> &'a str {
        match self.aliases.get(&(record.to_owned(), field.to_owned())) {
            Some((name, None)) => name,
            Some((name, only)) if only.as_deref() == schema => name,
            _ => field,
        }
    }

    /// Every name that a field of now has or had.
    pub fn names<'a>(&'a self, record: &str, field: &'a str) -> Vec<&'a str> {
        let older = self.aliases.iter().filter(|((of, _), (name, _))| of == record && name == field);
        older.map(|((_, alias), _)| alias.as_str()).chain([field]).collect()
    }

    /// The marks of an entry: for each mark the places of the changes that earn it.
    pub(super) fn marks(&self, meta: &Meta, items: &[Item]) -> Vec<(String, String)> {
        let Some(record) = &meta.record else { return Vec::new() };
        let number = |n: usize, side: &str| {
            let path = format!("changes/{n:03}/{side}");
            items.iter().find(|it| it.path == path).and_then(|it| as_number(it.value.expose()))
        };
        let (mut large, mut high) = (Vec::new(), Vec::new());
        for (n, field) in meta.fields.iter().enumerate() {
            let Some(new) = number(n, "new") else { continue };
            let schema = record.schema.as_deref();
            let known = self.fields.get(&(record.kind.clone(), self.name(&record.kind, field, schema).to_owned()));
            let percent = known.and_then(|it| it.large_change_percent).unwrap_or(self.large_change_percent);
            if known.and_then(|it| it.above).is_some_and(|limit| new > limit) {
                high.push(n);
            }
            let beyond = |old: f64| (new - old).abs() * 100.0 > percent * old.abs();
            if percent > 0.0 && number(n, "old").is_some_and(beyond) {
                large.push(n);
            }
        }
        let places = |all: Vec<usize>| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let marked = [(HIGH_VALUE, high), (LARGE_CHANGE, large)].into_iter().filter(|(_, all)| !all.is_empty());
        marked.map(|(mark, all)| (mark.to_owned(), places(all))).collect()
    }
}

/// A value as a number: JSON numbers, and strings that are plain decimal numbers, as many applications send amounts.
pub fn as_number(value: &Value) -> Option<f64> {
    let (Value::Number(text) | Value::String(text)) = value else { return None };
    let plain = text.bytes().all(|it| it.is_ascii_digit() || b"+-.eE".contains(&it));
    text.parse::<f64>().ok().filter(|it| plain && it.is_finite())
}

/// What is marked in an entry, as `mark:field`.
pub fn marked<S: AsRef<str>>(meta: &Meta<S>) -> Vec<String> {
    let mut out = Vec::new();
    for mark in MARKS {
        for place in meta.fact(mark).filter(|_| meta.action.is_change()).into_iter().flat_map(str::split_whitespace) {
            if let Some(field) = place.parse().ok().and_then(|n: usize| meta.fields.get(n)) {
                out.push(format!("{mark}:{}", field.as_ref()));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::meta::Record;
    use crate::domain::value::Phi;

    const SITE: &str = r#"
        large_change_percent = 50
        [[field]]
        record = "Account"
        name = "balance"
        aliases = ["saldo"]
        above = 1000
        large_change_percent = 0
        [[field]]
        record = "Condition"
        name = "code"
        aliases = ["dx"]
        alias_schema = "1"
    "#;

    fn marks(record: &str, field: &str, old: &str, new: &str) -> Vec<(String, String)> {
        let mut meta = crate::domain::meta::tests::sample();
        meta.record = Some(Record { kind: record.into(), id: "1".into(), ..Record::default() });
        meta.fields = vec!["other".into(), field.into()];
        let item = |side: &str, text: &str| Item {
            path: format!("changes/001/{side}"),
            value: Phi::new(Value::Number(text.into())),
        };
        Fields::parse(SITE).unwrap().marks(&meta, &[item("old", old), item("new", new)])
    }

    #[test]
    fn a_change_beyond_its_share_is_marked_and_one_at_it_is_not() {
        let large = vec![(LARGE_CHANGE.to_owned(), "1".to_owned())];
        assert_eq!(marks("Item", "price", "100", "151"), large);
        assert_eq!(marks("Item", "price", "100", "49"), large);
        assert_eq!(marks("Item", "price", "-100", "51"), large);
        assert_eq!(marks("Item", "price", "0", "1"), large);
        for (old, new) in [("100", "150"), ("100", "50"), ("0", "0"), ("-10", "-5")] {
            assert_eq!(marks("Item", "price", old, new), Vec::new(), "{old} {new}");
        }
    }

    #[test]
    fn a_field_has_its_own_limits_under_every_name() {
        for name in ["balance", "saldo"] {
            assert_eq!(marks("Account", name, "1", "1001"), vec![(HIGH_VALUE.to_owned(), "1".to_owned())]);
            assert_eq!(marks("Account", name, "1", "1000"), Vec::new());
        }
    }

    #[test]
    fn an_alias_may_hold_for_one_schema_only() {
        let site = Fields::parse(SITE).unwrap();
        assert_eq!(site.name("Condition", "dx", Some("1")), "code");
        assert_eq!(site.name("Condition", "dx", Some("2")), "dx");
        assert_eq!(site.name("Observation", "saldo", None), "saldo");
        assert_eq!(site.names("Account", "balance"), ["saldo", "balance"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [
            "large_change_percent = -1",
            "large_change_percent = nan",
            "[[field]]\nrecord = 'a'\nname = 'b'\n[[field]]\nrecord = 'a'\nname = 'b'",
            "[[field]]\nrecord = 'a'\nname = 'b'\naliases = ['b']",
            "[[field]]\nrecord = 'a'\nname = 'b'\naliases = ['c', 'c']",
            "[[field]]\nrecord = 'a'\nname = 'b'\naliases = ['c']\n[[field]]\nrecord = 'a'\nname = 'c'\naliases = ['d']",
            "[[field]]\nrecord = 'a'",
        ] {
            assert!(Fields::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_in_texts_count_and_other_texts_do_not() {
        assert_eq!(as_number(&Value::String("12.50".into())), Some(12.5));
        for text in ["inf", "nan", "0x10", "12 kg", "", "1e999"] {
            assert_eq!(as_number(&Value::String(text.into())), None, "{text}");
        }
    }
}
