//! Lines of a file become submissions with an id, in batches of bounded size.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};
use uuid::{Uuid, uuid};

use crate::cli::client::FieldError;

/// How much may stand in one batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Lines, 1 to 10,000 (what the server takes).
    pub(super) lines: usize,
    /// Bytes of the request body; also the longest line, less room for an id.
    pub(super) bytes: usize,
}

/// A line that is sent.
#[derive(Debug)]
pub(super) struct Item {
    /// Its number in the input, from 1.
    pub(super) line: u64,
    /// The line as it was read, without white space around it.
    pub(super) raw: Vec<u8>,
    /// The id to put in front; `None` when the line brings its own or is no object.
    pub(super) id: Option<Uuid>,
}

/// A line that is not stored, and why.
#[derive(Debug)]
pub(super) struct Refused {
    /// Its number in the input, from 1.
    pub(super) line: u64,
    /// What was wrong; never empty.
    pub(super) errors: Vec<FieldError>,
    /// The line as it was read; empty if it was too long to keep.
    pub(super) raw: Vec<u8>,
}

/// Consecutive lines of the input.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// To be sent, in order.
    pub(super) items: Vec<Item>,
    /// Not worth sending.
    pub(super) refused: Vec<Refused>,
    /// The number of the last line read for this batch.
    pub(super) last_line: u64,
}

/// Reads batches from a stream of NDJSON.
///
/// Memory: one batch, and about 25 bytes for each distinct line without an id.
pub(super) struct Lines<R> {
    input: R,
    limits: Limits,
    from_line: u64,
    line: u64,
    seen: HashMap<[u8; 16], u32>,
    kept_back: Option<Item>,
    failure: Option<io::Error>,
}

impl<R: BufRead> Lines<R> {
    /// Reads all of `input`, but yields nothing before line `from_line`: the skipped lines still count towards
    /// which occurrence of a repeated line a later one is, so that its id is the same as without skipping.
    pub(super) fn new(input: R, limits: Limits, from_line: u64) -> Self {
        Self { input, limits, from_line, line: 0, seen: HashMap::new(), kept_back: None, failure: None }
    }

    /// The next lines; `None` at the end. What was read before an error is yielded before the error.
    pub(super) fn next_batch(&mut self) -> io::Result<Option<Batch>> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        if let Some(item) = self.kept_back.take() {
            bytes += item.size();
            batch.last_line = item.line;
            batch.items.push(item);
        }
        while self.failure.is_none() && batch.items.len() + batch.refused.len() < self.limits.lines {
            let read = match self.read_line() {
                Ok(Some(read)) => read,
                Ok(None) => break,
                Err(error) => {
                    self.failure = Some(error);
                    break;
                }
            };
            match self.sort(read) {
                Sorted::Nothing => {}
                Sorted::Refused(refused) => {
                    bytes += refused.raw.len();
                    batch.refused.push(refused);
                }
                Sorted::Item(item) if bytes + item.size() > self.limits.bytes && bytes > 0 => {
                    self.kept_back = Some(item);
                    return Ok(Some(batch));
                }
                Sorted::Item(item) => {
                    bytes += item.size();
                    batch.items.push(item);
                }
            }
            batch.last_line = self.line;
        }
        if !batch.items.is_empty() || !batch.refused.is_empty() {
            return Ok(Some(batch));
        }
        self.failure.take().map_or(Ok(None), Err)
    }

    fn longest_line(&self) -> usize {
        self.limits.bytes - ID_MEMBER_BYTES
    }

    /// A line without its end; `Err` inside if it was too long, in which case the rest of it is skipped.
    fn read_line(&mut self) -> io::Result<Option<Result<Vec<u8>, TooLong>>> {
        let longest = self.longest_line();
        let mut bytes = Vec::new();
        let read = self.input.by_ref().take(longest as u64 + 2).read_until(b'\n', &mut bytes)?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        if self.line == 1 && bytes.starts_with(BYTE_ORDER_MARK) {
            bytes.drain(..BYTE_ORDER_MARK.len());
        }
        let ended = bytes.last() == Some(&b'\n');
        if !ended && bytes.len() > longest {
            self.input.skip_until(b'\n')?;
            return Ok(Some(Err(TooLong)));
        }
        Ok(Some(Ok(bytes)))
    }

    fn sort(&mut self, read: Result<Vec<u8>, TooLong>) -> Sorted {
        let line = self.line;
        let skipped = line < self.from_line;
        let Ok(bytes) = read else {
            let detail = format!("the line is longer than {} bytes", self.longest_line());
            return refused(skipped, line, Vec::new(), FieldError::new("", "line_too_long", detail));
        };
        let raw = bytes.trim_ascii();
        if raw.is_empty() {
            return Sorted::Nothing;
        }
        match presence_of_id(raw) {
            Err(error) => refused(skipped, line, raw.to_vec(), error),
            Ok(Presence::Absent) => {
                let id = self.derive_id(raw);
                if skipped { Sorted::Nothing } else { Sorted::Item(Item { line, raw: raw.to_vec(), id: Some(id) }) }
            }
            Ok(_) if skipped => Sorted::Nothing,
            Ok(_) => Sorted::Item(Item { line, raw: raw.to_vec(), id: None }),
        }
    }

    fn derive_id(&mut self, raw: &[u8]) -> Uuid {
        let count = self.seen.entry(Uuid::new_v5(&NAMESPACE, raw).into_bytes()).or_insert(0);
        *count = count.saturating_add(1);
        id_of(raw, *count)
    }
}

impl Item {
    /// Bytes it takes in a request body, with its line end.
    fn size(&self) -> usize {
        self.raw.len() + 1 + if self.id.is_some() { ID_MEMBER_BYTES } else { 0 }
    }

    /// The line as it is sent: with the id as its first member and every other byte as it was, so that a number
    /// stays as it was written.
    pub(super) fn write(&self, body: &mut Vec<u8>) {
        match (self.id, self.raw.split_first()) {
            (Some(id), Some((b'{', rest))) => {
                let comma = if rest.trim_ascii_start().starts_with(b"}") { "" } else { "," };
                body.extend_from_slice(format!("{{\"id\":\"{id}\"{comma}").as_bytes());
                body.extend_from_slice(rest);
            }
            _ => body.extend_from_slice(&self.raw),
        }
        body.push(b'\n');
    }
}

/// Unpacks `input` if it begins as gzip does (RFC 1952: 1f 8b), whatever the file is called.
pub(super) fn unpacked(mut input: impl Read + Send + 'static) -> io::Result<Box<dyn BufRead + Send>> {
    let mut head = Vec::with_capacity(2);
    input.by_ref().take(2).read_to_end(&mut head)?;
    let packed = head == [0x1f, 0x8b];
    let whole = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(head).chain(input));
    Ok(if packed {
        Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(whole)))
    } else {
        Box::new(whole)
    })
}

/// Never changes: an import repeated years later must find its entries again.
const NAMESPACE: Uuid = uuid!("6f0f3c5e-3d0a-4c53-9a3b-2c8f4b1f7d21");
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const BUFFER_BYTES: usize = 256 * 1024;
/// `"id":"…",` with a UUID of 36 characters, rounded up.
const ID_MEMBER_BYTES: usize = 48;

enum Sorted {
    Nothing,
    Item(Item),
    Refused(Refused),
}

struct TooLong;

/// Whether an object has a member `id`.
#[derive(Debug, Default, PartialEq, Eq)]
enum Presence {
    #[default]
    Absent,
    Null,
    Given,
    NotAnObject,
}

impl<'de> Deserialize<'de> for Presence {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Option::<IgnoredAny>::deserialize(deserializer)?;
        Ok(if value.is_some() { Self::Given } else { Self::Null })
    }
}

#[derive(Deserialize)]
struct Identity {
    #[serde(default)]
    id: Presence,
}

fn presence_of_id(raw: &[u8]) -> Result<Presence, FieldError> {
    let invalid = |detail: String| FieldError::new("", "invalid_json", detail);
    if let Err(error) = std::str::from_utf8(raw) {
        return Err(invalid(format!("not UTF-8 from byte {} of the line", error.valid_up_to() + 1)));
    }
    if raw.first() != Some(&b'{') {
        // Sent as it is: what is JSON but no entry is for the server to refuse.
        return serde_json::from_slice::<IgnoredAny>(raw)
            .map(|_| Presence::NotAnObject)
            .map_err(|error| invalid(syntax(&error)));
    }
    match serde_json::from_slice::<Identity>(raw) {
        Ok(Identity { id: Presence::Null }) => Err(FieldError::new(
            "/id",
            "id_null",
            "id is null: leave it out, then one is derived from the line, or give a UUID",
        )),
        Ok(Identity { id }) => Ok(id),
        Err(error) if error.is_data() => Err(invalid("the member id stands there more than once".to_owned())),
        Err(error) => Err(invalid(syntax(&error))),
    }
}

/// Where JSON ends to be JSON, without a word of the line itself.
fn syntax(error: &serde_json::Error) -> String {
    format!("not valid JSON from column {} of the line", error.column())
}

fn refused(skipped: bool, line: u64, raw: Vec<u8>, error: FieldError) -> Sorted {
    if skipped { Sorted::Nothing } else { Sorted::Refused(Refused { line, errors: vec![error], raw }) }
}

/// The id of the `occurrence`th (from 1) line with this content: UUIDv5 (RFC 9562 section 5.5) of content and number.
fn id_of(raw: &[u8], occurrence: u32) -> Uuid {
    let mut name = raw.to_vec();
    name.extend_from_slice(format!("#{occurrence}").as_bytes());
    Uuid::new_v5(&NAMESPACE, &name)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const LIMITS: Limits = Limits { lines: 500, bytes: 8 << 20 };

    fn all(input: &[u8], limits: Limits, from_line: u64) -> Vec<Batch> {
        let mut lines = Lines::new(input, limits, from_line);
        std::iter::from_fn(|| lines.next_batch().unwrap()).collect()
    }

    fn sent(input: &[u8], from_line: u64) -> Vec<(u64, String)> {
        let items = all(input, LIMITS, from_line).into_iter().flat_map(|batch| batch.items);
        items
            .map(|item| {
                let mut body = Vec::new();
                item.write(&mut body);
                (item.line, String::from_utf8(body).unwrap())
            })
            .collect()
    }

    fn codes(input: &[u8]) -> Vec<(u64, String)> {
        let refused = all(input, LIMITS, 1).into_iter().flat_map(|batch| batch.refused);
        refused.map(|refused| (refused.line, refused.errors[0].code.clone())).collect()
    }

    #[test]
    fn an_id_is_put_in_front_and_every_other_byte_stays() {
        let line = br#" { "action":"read","n": 7.0, "big":123456789012345678901234567890 } "#;
        let id = id_of(line.trim_ascii(), 1);
        let expected = format!(r#"{{"id":"{id}", "action":"read","n": 7.0, "big":123456789012345678901234567890 }}"#);
        assert_eq!(sent(line, 1), [(1, expected + "\n")]);
    }

    #[test]
    fn an_empty_object_gets_an_id_and_stays_json() {
        let text = &sent(b"{ }\n", 1)[0].1;
        assert!(serde_json::from_str::<serde_json::Value>(text).unwrap()["id"].is_string(), "{text}");
    }

    #[test]
    fn the_derived_id_never_changes_between_releases() {
        assert_eq!(id_of(br#"{"action":"read"}"#, 1).to_string(), "63cc10dd-8094-51a7-83ae-4417c260184b");
    }

    #[test]
    fn a_line_with_an_id_is_sent_as_it_is() {
        for line in ["{\"id\":\"x\",\"a\":1}\n", "{\"a\":{\"b\":[]},\"\\u0069d\":7}\n", "[\"id\"]\n", "42\n"] {
            assert_eq!(sent(line.as_bytes(), 1), [(1, line.to_owned())]);
        }
        assert!(sent(b"{\"a\":{\"id\":1}}\n", 1)[0].1.starts_with("{\"id\":\""), "an id further in is not the entry's");
    }

    #[test]
    fn identical_lines_are_different_entries_and_have_the_same_ids_in_every_run() {
        let input = b"{\"a\":1}\r\n{\"a\":2}\n  {\"a\":1}\n{\"a\":1}";
        let first = sent(input, 1);
        let ids: std::collections::HashSet<_> = first.iter().map(|(_, text)| text.clone()).collect();
        assert_eq!((first.len(), ids.len()), (4, 4));
        assert_eq!(first, sent(input, 1));
        assert_eq!(first[2..], sent(input, 3), "lines that are skipped still count");
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_line_number() {
        let input = b"{\"a\":1}\n\n{\"a\":\n{\"a\":\"\xff\"}\n{\"id\":null}\n{\"id\":1,\"id\":2}\n{} {}\n";
        let invalid = |line| (line, "invalid_json".to_owned());
        assert_eq!(codes(input), [invalid(3), invalid(4), (5, "id_null".to_owned()), invalid(6), invalid(7)]);
        assert_eq!(sent(input, 1).len(), 1);
    }

    #[test]
    fn a_refusal_does_not_repeat_the_line() {
        let batch = &all(b"{\"patient\": secret}\n", LIMITS, 1)[0];
        assert!(!batch.refused[0].errors[0].to_string().contains("secret"));
        assert_eq!(batch.refused[0].raw, b"{\"patient\": secret}");
    }

    #[test]
    fn batches_keep_their_limits_and_lose_no_line() {
        let input: Vec<u8> = (0..100).flat_map(|n| format!("{{\"a\":\"{n:020}\"}}\n").into_bytes()).collect();
        for (lines, bytes) in [(7, 1 << 20), (100, 200), (1, 100), (3, 250)] {
            let batches = all(&input, Limits { lines, bytes }, 1);
            for batch in &batches {
                assert!(batch.items.len() <= lines);
                assert!(batch.items.iter().map(Item::size).sum::<usize>() <= bytes);
                assert_eq!(batch.last_line, batch.items.last().unwrap().line);
            }
            let numbers: Vec<_> = batches.iter().flat_map(|batch| &batch.items).map(|item| item.line).collect();
            assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_refused_and_the_next_one_read() {
        let limits = Limits { lines: 10, bytes: 100 };
        let long = format!("{{\"a\":\"{}\"}}\n{{\"a\":1}}\n", "x".repeat(500_000));
        let batch = &all(long.as_bytes(), limits, 1)[0];
        assert_eq!((batch.refused[0].line, batch.refused[0].errors[0].code.as_str()), (1, "line_too_long"));
        assert_eq!(batch.items[0].line, 2);
    }

    #[test]
    fn gzip_is_known_by_its_first_bytes_and_may_have_several_members() {
        let mut packed = Vec::new();
        for line in ["{\"a\":1}\n", "{\"a\":2}\n"] {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(line.as_bytes()).unwrap();
            packed.extend(encoder.finish().unwrap());
        }
        let read = |bytes: Vec<u8>| io::read_to_string(unpacked(Cursor::new(bytes)).unwrap());
        assert_eq!(read(packed.clone()).unwrap(), "{\"a\":1}\n{\"a\":2}\n");
        assert_eq!(read(b"{}".to_vec()).unwrap(), "{}");
        assert_eq!(read(Vec::new()).unwrap(), "");
        packed.truncate(packed.len() - 4);
        assert!(read(packed).is_err(), "a file that was cut is not taken for whole");
    }

    #[test]
    fn lines_before_a_read_error_are_yielded_first() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("disk"))
            }
        }
        let mut lines = Lines::new(BufReader::new(Cursor::new(b"{}\n").chain(Broken)), LIMITS, 1);
        assert_eq!(lines.next_batch().unwrap().unwrap().items.len(), 1);
        assert!(lines.next_batch().is_err());
    }
}
