//! A batch as it is sent: NDJSON or a JSON array, taken apart into the text of each submission without reading them.

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::issue::Issue;

/// The text of one submission of a batch, and its number.
pub type Line<'a> = (usize, &'a [u8]);

/// The lines that hold something; at most one more than there may be.
pub fn ndjson(body: &[u8], most: usize) -> Vec<Line<'_>> {
    let lines = (1..).zip(body.split(|byte| *byte == b'\n')).filter(|(_, line)| !line.trim_ascii().is_empty());
    lines.take(most + 1).collect()
}

/// The items of a JSON array; at most one more than there may be, so that a body of eight million of them takes no memory.
///
/// # Errors
/// `invalid_json` when it is no JSON array.
pub fn array(body: &[u8], most: usize) -> Result<Vec<Line<'_>>, Issue> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let items = Bounded(most + 1).deserialize(&mut reader).and_then(|items| reader.end().map(|()| items));
    let items = items.map_err(|_| {
        let detail =
            "The body is not a JSON array of submissions. For one submission a line send application/x-ndjson.";
        Issue::new("", "invalid_json", detail)
    })?;
    Ok((1..).zip(items).map(|(number, item)| (number, item.get().as_bytes())).collect())
}

/// Keeps the first so many items of an array, and reads over the rest.
struct Bounded(usize);

impl<'de> DeserializeSeed<'de> for Bounded {
    type Value = Vec<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Bounded {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut kept = Vec::new();
        while kept.len() < self.0 {
            let Some(item) = items.next_element()? else { return Ok(kept) };
            kept.push(item);
        }
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(kept)
    }
}
