//! The one byte form of everything that is hashed, sealed or authenticated: tag, length, value.
//!
//! A structure is a version byte followed by fields. A field is a tag (1 byte), the length of its value (4 bytes, big
//! endian) and the value. Tags rise strictly, an absent field is left out, integers are big endian, times are signed
//! microseconds, text is UTF-8 as received. There is one way to write each thing, and reading accepts only that one.

use std::collections::BTreeMap;

use super::value::{Value, number_is_kept};

/// Why bytes are no canonical form. Never says what they hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the bytes are not in canonical form: {0}")]
pub struct NotCanonical(pub &'static str);

/// Writes a structure.
pub struct Writer {
    bytes: Vec<u8>,
    last: Option<u8>,
}

impl Writer {
    /// Begins a structure of that version.
    pub fn new(version: u8) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.push(version);
        Self { bytes, last: None }
    }

    /// Writes a field. Tags must rise; that is a property of the calling code, checked here.
    pub fn bytes(&mut self, tag: u8, value: &[u8]) {
        assert!(self.last.is_none_or(|last| last < tag), "tags rise strictly within a structure");
        self.last = Some(tag);
        self.bytes.push(tag);
        self.bytes.extend_from_slice(&length(value.len()));
        self.bytes.extend_from_slice(value);
    }

    /// Writes a text field.
    pub fn text(&mut self, tag: u8, value: &str) {
        self.bytes(tag, value.as_bytes());
    }

    /// Writes a text field if there is one.
    pub fn optional(&mut self, tag: u8, value: Option<&str>) {
        if let Some(value) = value {
            self.text(tag, value);
        }
    }

    /// Writes a list of byte strings, each with its length; an empty list is left out.
    pub fn list<'a>(&mut self, tag: u8, items: impl IntoIterator<Item = &'a [u8]>) {
        let mut inner = Vec::new();
        for item in items {
            inner.extend_from_slice(&length(item.len()));
            inner.extend_from_slice(item);
        }
        if !inner.is_empty() {
            self.bytes(tag, &inner);
        }
    }

    /// The finished structure.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads a structure written by [`Writer`].
pub struct Reader<'a> {
    rest: &'a [u8],
    last: Option<u8>,
}

impl<'a> Reader<'a> {
    /// Begins to read a structure that must be of that version.
    ///
    /// # Errors
    /// [`NotCanonical`] when the version differs.
    pub fn new(bytes: &'a [u8], version: u8) -> Result<Self, NotCanonical> {
        match bytes.split_first() {
            Some((first, rest)) if *first == version => Ok(Self { rest, last: None }),
            _ => Err(NotCanonical("unknown version")),
        }
    }

    /// The field with that tag, if it is the next one.
    ///
    /// # Errors
    /// [`NotCanonical`] when lengths do not fit or tags do not rise.
    pub fn field(&mut self, tag: u8) -> Result<Option<&'a [u8]>, NotCanonical> {
        match self.rest.first() {
            None => Ok(None),
            Some(next) if self.last.is_some_and(|last| *next <= last) => Err(NotCanonical("tags do not rise")),
            Some(next) if *next != tag => Ok(None),
            Some(_) => {
                let mut rest = &self.rest[1..];
                let value = take_prefixed(&mut rest)?;
                self.rest = rest;
                self.last = Some(tag);
                Ok(Some(value))
            }
        }
    }

    /// A field that must be there.
    ///
    /// # Errors
    /// [`NotCanonical`] when it is not.
    pub fn required(&mut self, tag: u8) -> Result<&'a [u8], NotCanonical> {
        self.field(tag)?.ok_or(NotCanonical("a required field is missing"))
    }

    /// A text field.
    ///
    /// # Errors
    /// [`NotCanonical`] when it is no UTF-8.
    pub fn text(&mut self, tag: u8) -> Result<Option<&'a str>, NotCanonical> {
        self.field(tag)?.map(utf8).transpose()
    }

    /// A text field that must be there.
    ///
    /// # Errors
    /// [`NotCanonical`] when it is not there or no UTF-8.
    pub fn required_text(&mut self, tag: u8) -> Result<&'a str, NotCanonical> {
        utf8(self.required(tag)?)
    }

    /// A field of exactly `N` bytes.
    ///
    /// # Errors
    /// [`NotCanonical`] when its length differs.
    pub fn array<const N: usize>(&mut self, tag: u8) -> Result<Option<[u8; N]>, NotCanonical> {
        let Some(value) = self.field(tag)? else { return Ok(None) };
        value.try_into().map(Some).map_err(|_| NotCanonical("a field has the wrong length"))
    }

    /// A list of byte strings; absent reads as empty.
    ///
    /// # Errors
    /// [`NotCanonical`] when a list is present but empty, or its lengths do not fit.
    pub fn list(&mut self, tag: u8) -> Result<Vec<&'a [u8]>, NotCanonical> {
        let Some(mut inner) = self.field(tag)? else { return Ok(Vec::new()) };
        if inner.is_empty() {
            return Err(NotCanonical("an empty list is left out"));
        }
        let mut items = Vec::new();
        while !inner.is_empty() {
            items.push(take_prefixed(&mut inner)?);
        }
        Ok(items)
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`NotCanonical`] when anything is left over.
    pub fn finish(self) -> Result<(), NotCanonical> {
        if self.rest.is_empty() { Ok(()) } else { Err(NotCanonical("an unknown field or trailing bytes")) }
    }
}

/// Bytes as text.
///
/// # Errors
/// [`NotCanonical`] when they are no UTF-8.
pub fn utf8(bytes: &[u8]) -> Result<&str, NotCanonical> {
    std::str::from_utf8(bytes).map_err(|_| NotCanonical("text is not UTF-8"))
}

fn length(len: usize) -> [u8; 4] {
    u32::try_from(len).expect("every bounded field is far below 4 GiB").to_be_bytes()
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], NotCanonical> {
    let (head, tail) = rest.split_at_checked(count).ok_or(NotCanonical("a length reaches past the end"))?;
    *rest = tail;
    Ok(head)
}

fn take_length(rest: &mut &[u8]) -> Result<usize, NotCanonical> {
    let bytes: [u8; 4] = take(rest, 4)?.try_into().expect("four bytes were taken");
    usize::try_from(u32::from_be_bytes(bytes)).map_err(|_| NotCanonical("a length is too large"))
}

/// Takes a length-prefixed byte string off the front.
///
/// # Errors
/// [`NotCanonical`] when the length reaches past the end.
pub fn take_prefixed<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], NotCanonical> {
    let len = take_length(rest)?;
    take(rest, len)
}

/// Appends a length-prefixed byte string.
pub fn put_prefixed(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&length(bytes.len()));
    out.extend_from_slice(bytes);
}

/// Appends the canonical form of a clinical value: a kind byte, then what the kind needs. Object keys are sorted.
pub fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(0),
        Value::Bool(false) => out.push(1),
        Value::Bool(true) => out.push(2),
        Value::Number(text) => {
            out.push(3);
            put_prefixed(out, text.as_bytes());
        }
        Value::String(text) => {
            out.push(4);
            put_prefixed(out, text.as_bytes());
        }
        Value::Array(items) => {
            out.push(5);
            out.extend_from_slice(&length(items.len()));
            items.iter().for_each(|item| put_value(out, item));
        }
        Value::Object(map) => {
            out.push(6);
            out.extend_from_slice(&length(map.len()));
            for (key, item) in map {
                put_prefixed(out, key.as_bytes());
                put_value(out, item);
            }
        }
    }
}

/// Takes a canonical clinical value off the front.
///
/// # Errors
/// [`NotCanonical`] for anything [`put_value`] would not write, and for nesting beyond [`MAX_DEPTH`].
pub fn take_value(rest: &mut &[u8]) -> Result<Value, NotCanonical> {
    take_nested(rest, 0)
}

/// How deep a value may nest.
pub const MAX_DEPTH: usize = 32;

fn take_nested(rest: &mut &[u8], depth: usize) -> Result<Value, NotCanonical> {
    if depth > MAX_DEPTH {
        return Err(NotCanonical("a value nests too deeply"));
    }
    match take(rest, 1)?[0] {
        0 => Ok(Value::Null),
        1 => Ok(Value::Bool(false)),
        2 => Ok(Value::Bool(true)),
        3 => {
            let text = utf8(take_prefixed(rest)?)?;
            if !number_is_kept(text) {
                return Err(NotCanonical("a number is malformed"));
            }
            Ok(Value::Number(text.to_owned()))
        }
        4 => Ok(Value::String(utf8(take_prefixed(rest)?)?.to_owned())),
        5 => {
            let count = take_length(rest)?;
            let mut items = Vec::new();
            for _ in 0..count {
                items.push(take_nested(rest, depth + 1)?);
            }
            Ok(Value::Array(items))
        }
        6 => {
            let count = take_length(rest)?;
            let mut map = BTreeMap::new();
            for _ in 0..count {
                let key = utf8(take_prefixed(rest)?)?;
                if map.last_key_value().is_some_and(|(last, _): (&String, _)| last.as_str() >= key) {
                    return Err(NotCanonical("object keys do not rise"));
                }
                map.insert(key.to_owned(), take_nested(rest, depth + 1)?);
            }
            Ok(Value::Object(map))
        }
        _ => Err(NotCanonical("an unknown kind of value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        put_value(&mut out, &serde_json::from_str(text).unwrap());
        out
    }

    #[test]
    fn a_value_has_one_form_whatever_the_order_of_its_keys() {
        assert_eq!(bytes(r#"{"b":1,"a":[true,null]}"#), bytes(r#"{ "a":[true,null], "b":1 }"#));
        assert_ne!(bytes("1"), bytes("1.0"));
        assert_ne!(bytes("null"), bytes("\"\""));
    }

    #[test]
    fn a_golden_value_reads_back_and_its_invalid_siblings_do_not() {
        let golden = bytes(r#"{"a":[7.0,"x"],"b":null}"#);
        assert_eq!(
            hex::encode(&golden),
            "060000000200000001610500000002030000000337\
                                          2e3004000000017800000001620\
                                          0"
            .replace(' ', "")
        );
        let mut rest = golden.as_slice();
        let mut again = Vec::new();
        put_value(&mut again, &take_value(&mut rest).unwrap());
        assert!(rest.is_empty() && again == golden);
        for cut in 0..golden.len() {
            assert!(take_value(&mut &golden[..cut]).is_err(), "cut at {cut}");
        }
        let doubled_key = "0600000002000000016100000000016100";
        let unsorted = "0600000002000000016200000000016100";
        let bad_number = "03000000023031";
        let bad_kind = "07";
        for bad in [doubled_key, unsorted, bad_number, bad_kind] {
            assert!(take_value(&mut hex::decode(bad).unwrap().as_slice()).is_err(), "{bad}");
        }
    }

    #[test]
    fn structures_refuse_wrong_versions_falling_tags_and_leftovers() {
        let mut writer = Writer::new(1);
        writer.text(1, "a");
        writer.list(2, [b"x".as_slice(), b"yz"]);
        let good = writer.finish();
        let mut reader = Reader::new(&good, 1).unwrap();
        assert_eq!(reader.required_text(1).unwrap(), "a");
        assert_eq!(reader.list(2).unwrap(), [b"x".as_slice(), b"yz"]);
        reader.finish().unwrap();

        assert!(Reader::new(&good, 2).is_err());
        let mut reader = Reader::new(&good, 1).unwrap();
        reader.required_text(1).unwrap();
        assert!(reader.finish().is_err(), "a field was not read");
        let mut falling = good.clone();
        falling.extend_from_slice(&[1, 0, 0, 0, 0]);
        let mut reader = Reader::new(&falling, 1).unwrap();
        reader.required_text(1).unwrap();
        reader.list(2).unwrap();
        assert!(reader.field(3).is_err());
    }
}
