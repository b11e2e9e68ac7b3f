//! A clinical value: any JSON value, kept exactly as written, unprintable and wiped when dropped.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use zeroize::Zeroize;

/// serde_json hands a number over as a map with this one key when it keeps numbers as they are written.
const NUMBER_KEY: &str = "$serde_json::private::Number";

/// A JSON value. Numbers keep their written form (FHIR: the precision of a decimal is significant, 7.0 is not 7);
/// object keys are unique and sorted.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    /// `null`, which is not the same as an absent value.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number as it was written.
    Number(String),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Self>),
    /// An object.
    Object(BTreeMap<String, Self>),
}

impl Value {
    /// How deep arrays and objects nest: 0 for a scalar.
    pub fn depth(&self) -> usize {
        match self {
            Self::Array(items) => 1 + items.iter().map(Self::depth).max().unwrap_or(0),
            Self::Object(map) => 1 + map.values().map(Self::depth).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// Calls `check` with every string (keys too) and every number in the value.
    pub fn walk(&self, check: &mut dyn FnMut(Leaf<'_>)) {
        match self {
            Self::Null | Self::Bool(_) => {}
            Self::Number(text) => check(Leaf::Number(text)),
            Self::String(text) => check(Leaf::Text(text)),
            Self::Array(items) => items.iter().for_each(|item| item.walk(check)),
            Self::Object(map) => {
                for (key, item) in map {
                    check(Leaf::Text(key));
                    item.walk(check);
                }
            }
        }
    }
}

/// What [`Value::walk`] meets.
pub enum Leaf<'a> {
    /// A string or an object key.
    Text(&'a str),
    /// A number as written.
    Number(&'a str),
}

impl Zeroize for Value {
    fn zeroize(&mut self) {
        match self {
            Self::Null | Self::Bool(_) => {}
            Self::Number(text) | Self::String(text) => text.zeroize(),
            Self::Array(items) => items.iter_mut().for_each(Zeroize::zeroize),
            Self::Object(map) => {
                for (mut key, mut item) in std::mem::take(map) {
                    key.zeroize();
                    item.zeroize();
                }
            }
        }
        *self = Self::Null;
    }
}

/// Protected health information: a value that cannot be printed and is wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Phi(Value);

impl Phi {
    /// Takes a value into protection.
    pub fn new(value: Value) -> Self {
        Self(value)
    }

    /// A text in protection.
    pub fn text(text: impl Into<String>) -> Self {
        Self(Value::String(text.into()))
    }

    /// The value itself. Every call of this is a place where plaintext leaves protection.
    pub fn expose(&self) -> &Value {
        &self.0
    }
}

impl Drop for Phi {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Phi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Phi([sealed])")
    }
}

impl<'de> Deserialize<'de> for Phi {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

/// A key, or the word by which serde_json says that a number follows. It borrows that word; a key of the same text comes
/// as a copy when it was written with escapes, and is refused before parsing when it was not.
enum Key {
    Number,
    Text(String),
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E: de::Error>(self, key: &'de str) -> Result<Key, E> {
                if key == NUMBER_KEY { Ok(Key::Number) } else { Ok(Key::Text(key.to_owned())) }
            }

            fn visit_str<E: de::Error>(self, key: &str) -> Result<Key, E> {
                if key == NUMBER_KEY { Err(E::custom("a reserved word")) } else { Ok(Key::Text(key.to_owned())) }
            }
        }

        deserializer.deserialize_str(KeyVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = BTreeMap::new();
        while let Some(key) = map.next_key::<Key>()? {
            let key = match key {
                Key::Number => return Ok(Value::Number(map.next_value()?)),
                Key::Text(key) => key,
            };
            let item = map.next_value()?;
            if object.insert(key, item).is_some() {
                return Err(de::Error::custom("duplicate key"));
            }
        }
        Ok(Value::Object(object))
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(text) => match text.parse::<serde_json::Number>() {
                Ok(number) => number.serialize(serializer),
                Err(_) => Err(serde::ser::Error::custom("a stored number is no JSON number")),
            },
            Self::String(text) => serializer.serialize_str(text),
            Self::Array(items) => {
                let mut seq = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    seq.serialize_element(item)?;
                }
                seq.end()
            }
            Self::Object(map) => {
                let mut out = serializer.serialize_map(Some(map.len()))?;
                for (key, item) in map {
                    out.serialize_entry(key, item)?;
                }
                out.end()
            }
        }
    }
}

/// Whether a written number survives being read as JSON's numbers usually are: an integer of 64 bits, or an IEEE 754
/// double whose shortest decimal form is the same number (RFC 8259 section 6, RFC 7493 section 2.2).
pub fn number_is_kept(text: &str) -> bool {
    if !is_json_number(text) {
        return false;
    }
    if !text.contains(['.', 'e', 'E']) {
        return text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok();
    }
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => decimal(text) == decimal(&format!("{value:e}")),
        _ => false,
    }
}

/// Sign, digits without zeros at either end, and exponent of a written number; zero has no digits.
fn decimal(text: &str) -> Option<(bool, String, i64)> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (text, 0),
    };
    let negative = mantissa.starts_with('-');
    let mantissa = mantissa.trim_start_matches('-');
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let trimmed = digits.trim_end_matches('0');
    let exponent = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    let exponent = exponent.checked_add(i64::try_from(digits.len() - trimmed.len()).ok()?)?;
    let trimmed = trimmed.trim_start_matches('0');
    if trimmed.is_empty() { Some((negative, String::new(), 0)) } else { Some((negative, trimmed.to_owned(), exponent)) }
}

/// The number grammar of RFC 8259 section 6.
fn is_json_number(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let exponent_ok = exponent.is_none_or(|e| digits(e.strip_prefix(['+', '-']).unwrap_or(e)));
    digits(whole) && (whole == "0" || !whole.starts_with('0')) && fraction.is_none_or(digits) && exponent_ok
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_number_comes_back_as_it_was_written() {
        for text in ["7.0", "7", "0.010", "-12.50", "18446744073709551615", "1e3"] {
            assert_eq!(serde_json::to_string(&parse(text)).unwrap().to_lowercase().replace("e+", "e"), text);
        }
    }

    #[test]
    fn a_key_given_twice_is_refused() {
        assert!(serde_json::from_str::<Value>(r#"{"a":1,"a":2}"#).is_err());
        assert!(serde_json::from_str::<Value>(r#"[{"x":{"b":1,"b":1}}]"#).is_err());
    }

    #[test]
    fn null_differs_from_text_and_depth_counts_containers() {
        assert!(parse("null") == Value::Null);
        assert_eq!(parse("[[{\"a\":[]}]]").depth(), 4);
        assert_eq!(parse("5").depth(), 0);
    }

    #[test]
    fn numbers_that_a_double_loses_are_told_apart() {
        for kept in ["0", "-0.0", "0.1", "78.40", "1e21", "9223372036854775807", "123456789012345.6", "5e-324"] {
            assert!(number_is_kept(kept), "{kept}");
        }
        for lost in [
            "1e400",
            "18446744073709551616",
            "0.1234567890123456789",
            "1.00000000000000000001",
            "01",
            "1.",
            "+1",
            "NaN",
        ] {
            assert!(!number_is_kept(lost), "{lost}");
        }
    }

    #[test]
    fn phi_does_not_print() {
        assert_eq!(format!("{:?}", Phi::text("Hypertension")), "Phi([sealed])");
    }
}
