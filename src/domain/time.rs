//! Points in time: UTC, whole microseconds, the only form in which phivault hashes or stores a time.

use std::fmt;

use chrono::{DateTime, Datelike, FixedOffset, SecondsFormat, Utc};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Reads an RFC 3339 time. Digits beyond the microsecond are cut off; years outside 1800 to 2200 are refused, they
    /// are mistakes.
    pub fn parse(text: &str) -> Option<Self> {
        let time = DateTime::parse_from_rfc3339(text).ok()?;
        (1800..=2200).contains(&time.year()).then(|| Self(time.timestamp_micros()))
    }

    /// The same instant as chrono sees it, for calendars and time zones.
    pub fn to_utc(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).unwrap_or_default()
    }

    /// The wall clock at this instant in a place with that offset from UTC.
    pub fn at_offset(self, offset: FixedOffset) -> DateTime<FixedOffset> {
        self.to_utc().with_timezone(&offset)
    }

    /// This time moved by whole seconds, saturating at the ends of what a timestamp holds.
    pub fn plus_seconds(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1_000_000)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_utc().to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("not an RFC 3339 time"))
    }
}

/// Where the time comes from. The vault is given one; tests give it another.
pub trait Clock: Send + Sync {
    /// The time now, as the machine believes it.
    fn now(&self) -> Timestamp;
}

/// Reads an offset from UTC written as `Z`, `+02:00` or `-0530`.
pub fn parse_offset(text: &str) -> Option<FixedOffset> {
    if matches!(text, "Z" | "z" | "UTC") {
        return FixedOffset::east_opt(0);
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let digits: String = text[1..].chars().filter(|c| *c != ':').collect();
    if digits.len() != 4 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let hours: i32 = digits[..2].parse().ok()?;
    let minutes: i32 = digits[2..].parse().ok()?;
    if hours > 14 || minutes > 59 {
        return None;
    }
    FixedOffset::east_opt(sign * (hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_kept_to_the_microsecond_in_utc() {
        let time = Timestamp::parse("2026-11-24T10:30:00.123456789+01:00").unwrap();
        assert_eq!(time.to_string(), "2026-11-24T09:30:00.123456Z");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "2026-11-24", "2026-13-01T00:00:00Z", "0001-01-01T00:00:00Z", "now", "2026-11-24T09:30:00"] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }

    #[test]
    fn offsets_are_read_strictly() {
        assert_eq!(parse_offset("+02:00").unwrap().local_minus_utc(), 7200);
        assert_eq!(parse_offset("-0530").unwrap().local_minus_utc(), -19800);
        for text in ["", "+2", "+25:00", "02:00", "+02:60", "+é0:0"] {
            assert!(parse_offset(text).is_none(), "{text}");
        }
    }
}
