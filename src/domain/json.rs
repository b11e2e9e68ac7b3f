//! Strict reading of JSON: unknown members are named, wrong types are placed, and no value is repeated in an error.

use serde::de::DeserializeOwned;

use super::issue::Issue;

/// Fields whose content is sealed.
const SEALED: [&str; 6] = ["old", "new", "note", "name", "address", "description"];
/// serde_json uses this word in-band for numbers; a body that contains it is trying something.
const RESERVED: &str = "$serde_json::private";

/// Reads one JSON object into `T`.
///
/// # Errors
/// One [`Issue`] with a JSON pointer: `invalid_json`, `unknown_field`, `wrong_type`, `duplicate_key` or `missing`.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Issue> {
    let text =
        std::str::from_utf8(bytes).map_err(|_| Issue::new("", "invalid_json", "The body is not valid UTF-8."))?;
    if text.contains('$') && text.contains(RESERVED) {
        return Err(Issue::new("", "invalid_json", "The body uses a reserved word as a key."));
    }
    // serde would also take a struct from an array of its fields; nobody means that.
    let start = text.trim_ascii_start();
    if start.starts_with('[') || start.trim_ascii_end() == "null" {
        return Err(Issue::new("", "wrong_type", "The value has the wrong type; expected an object."));
    }
    match serde_json::from_str(text) {
        Ok(value) => Ok(value),
        // The path costs time, so it is only worked out for what is refused.
        Err(error) => Err(explain::<T>(text, &error)),
    }
}

fn explain<T: DeserializeOwned>(text: &str, error: &serde_json::Error) -> Issue {
    if !error.is_data() {
        let detail = if error.to_string().starts_with("recursion limit") {
            "The JSON nests too deeply.".to_owned()
        } else {
            let place = if error.line() > 1 { format!("line {}, ", error.line()) } else { String::new() };
            format!("This is not valid JSON (RFC 8259) at {place}column {}.", error.column())
        };
        return Issue::new("", "invalid_json", detail);
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Ok(_) => Issue::new("", "invalid_json", "The JSON could not be read."),
        Err(error) => classify(&pointer(error.path()), &error.inner().to_string()),
    }
}

/// Turns serde's sentence into ours. Only the parts that serde makes from our own types are kept, never the value.
pub fn classify(pointer: &str, message: &str) -> Issue {
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let name: String = rest.split('`').next().unwrap_or("").chars().filter(|c| !c.is_control()).take(64).collect();
        let parent = pointer.strip_suffix(&format!("/{}", escape(&name))).unwrap_or(pointer);
        let expected = rest.split_once("expected ").map_or("", |(_, list)| list);
        let expected = expected.split(" at line ").next().unwrap_or("");
        let detail = format!("The field \"{name}\" is not known here. Known: {expected}.");
        return Issue::new(format!("{parent}/{}", escape(&name)), "unknown_field", detail);
    }
    if message.starts_with("duplicate field") || message.starts_with("duplicate key") {
        return Issue::new(pointer, "duplicate_key", "An object holds the same key twice.");
    }
    if message.starts_with("a reserved word") {
        return Issue::new("", "invalid_json", "The body uses a reserved word as a key.");
    }
    if message.starts_with("missing field") {
        return Issue::new(pointer, "missing", "A required field is missing here.");
    }
    if message.contains("invalid digit")
        || message.contains("cannot parse integer")
        || message.contains("number too large")
    {
        return Issue::new(
            pointer,
            "wrong_type",
            "The value has the wrong type; expected a whole number, not negative.",
        );
    }
    // What chrono says of a text that is no day.
    if message.starts_with("input ")
        || message.starts_with("premature end of input")
        || message.starts_with("trailing input")
    {
        return Issue::new(pointer, "wrong_type", "This is no date such as 2026-11-24.");
    }
    if message.contains("was not `true` or `false`") {
        return Issue::new(pointer, "wrong_type", "The value has the wrong type; expected true or false.");
    }
    let expected = message.rsplit_once("expected ").map_or("another type", |(_, expected)| expected);
    let expected = expected.split(" at line ").next().unwrap_or("another type");
    // serde names the type; outside it is an object.
    let expected = if expected.starts_with("struct ") { "an object" } else { expected };
    Issue::new(pointer, "wrong_type", format!("The value has the wrong type; expected {expected}."))
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut out = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => out.push_str(&format!("/{index}")),
            Segment::Map { key } => {
                out.push_str(&format!("/{}", escape(key)));
                if SEALED.contains(&key.as_str()) {
                    // What lies below is part of a value, keys included, and is not repeated.
                    return out;
                }
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    out
}

/// Escapes a name for a JSON pointer (RFC 6901 section 3).
pub fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "only parsed")]
        inner: Option<Vec<Inner>>,
    }

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only parsed")]
        name: String,
    }

    fn issue(text: &str) -> Issue {
        parse::<Outer>(text.as_bytes()).err().unwrap()
    }

    #[test]
    fn an_unknown_field_is_named_with_its_place() {
        let issue = issue(r#"{"inner":[{"name":"a","secret":"x"}]}"#);
        assert_eq!((issue.pointer.as_str(), issue.code), ("/inner/0/secret", "unknown_field"));
        assert!(issue.detail.contains("\"secret\""));
    }

    #[test]
    fn a_wrong_type_is_placed_and_its_value_not_repeated() {
        let issue = issue(r#"{"inner":[{"name":["Hypertension"]}]}"#);
        assert_eq!((issue.pointer.as_str(), issue.code), ("/inner/0/name", "wrong_type"));
        assert!(!issue.detail.contains("Hypertension"));
        let issue = self::issue(r#"{"inner":"Hypertension"}"#);
        assert!(!issue.detail.contains("Hypertension"), "{}", issue.detail);
    }

    #[test]
    fn broken_json_doubled_keys_and_lone_surrogates_are_refused() {
        assert_eq!(issue("{").code, "invalid_json");
        assert_eq!(issue("{} x").code, "invalid_json");
        assert_eq!(issue(r#"{"inner":null,"inner":null}"#).code, "duplicate_key");
        assert_eq!(issue(r#"{"inner":[{"name":"\ud800"}]}"#).code, "invalid_json");
        assert_eq!(issue(&"[".repeat(60_000)).code, "wrong_type");
        assert_eq!(issue(r#"{"$serde_json::private::Number":"1"}"#).code, "invalid_json");
    }
}
