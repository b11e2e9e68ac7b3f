//! What is planted, and the search for it in every form it might take.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Value, json};

use crate::app::{program, text};

/// Letters only: no escaping for JSON, URLs, logs or files changes them.
pub const MARK: &str = "KanarienVogel";

/// Makes values to plant, each once.
#[derive(Default)]
pub struct Canaries(u32);

impl Canaries {
    /// One that may stand in an id or a URL.
    pub fn word(&mut self, what: &str) -> String {
        self.0 += 1;
        format!("{MARK}{what}{}{MARK}", self.0)
    }

    /// One with everything that is escaped somewhere.
    pub fn text(&mut self, what: &str) -> String {
        self.0 += 1;
        format!("{MARK} \"{what}\" \\ Ä€ \n\t<{}> {MARK}", self.0)
    }
}

/// What is searched for: its name, and its bytes as text in which each byte is one character, which the standard library
/// searches fast even in a debug build.
pub struct Search(Vec<(String, String)>);

impl Search {
    pub fn new(what: &str, secret: &[u8]) -> Self {
        Self(Vec::new()).and(what, secret)
    }

    /// Adds every form in which a secret could hide in bytes.
    pub fn and(mut self, what: &str, secret: &[u8]) -> Self {
        let mut add = |form: &str, bytes: &[u8]| self.0.push((format!("{what} {form}"), latin(bytes)));
        add("in clear", secret);
        add("in small letters", &secret.to_ascii_lowercase());
        add("in capitals", &secret.to_ascii_uppercase());
        add("in hex", hex::encode(secret).as_bytes());
        add("in HEX", hex::encode_upper(secret).as_bytes());
        add("as UTF-16LE", &secret.iter().flat_map(|it| [*it, 0]).collect::<Vec<_>>());
        add("as UTF-16BE", &secret.iter().flat_map(|it| [0, *it]).collect::<Vec<_>>());
        add("JSON-escaped", secret.iter().map(|it| format!("\\u{it:04x}")).collect::<String>().as_bytes());
        add("as a list of numbers", secret.iter().map(|it| format!("{it}, ")).collect::<String>().as_bytes());
        for shift in 0..3 {
            let shifted = [vec![0; shift], secret.to_vec()].concat();
            // Only the characters that no neighbour has a part in.
            let (from, to) = ((shift * 8).div_ceil(6), shifted.len() * 8 / 6);
            add("in base64", &STANDARD.encode(&shifted).as_bytes()[from..to]);
            add("in base64url", &URL_SAFE.encode(&shifted).as_bytes()[from..to]);
        }
        self
    }

    /// The first form that is found, and what stands around it.
    pub fn find(&self, bytes: &[u8]) -> Option<String> {
        let text = latin(bytes);
        self.0.iter().find_map(|(name, form)| {
            let at = text[..text.find(form)?].chars().count();
            let around = &bytes[at.saturating_sub(60)..bytes.len().min(at + 120)];
            Some(format!("{name}: …{}…", around.escape_ascii()))
        })
    }

    #[track_caller]
    pub fn finds_nothing_in(&self, place: &str, bytes: &[u8]) {
        if let Some(found) = self.find(bytes) {
            panic!("{place} holds {found}");
        }
    }
}

pub fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|it| char::from(*it)).collect()
}

/// All files below a folder but the key file, which the test itself put there.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut folders, mut files) = (vec![dir.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().unwrap() != "unlock.key" {
                files.push(path);
            }
        }
    }
    files
}

/// Searches every file, and shows that the search would have found what stands there in clear.
pub fn search_files(dir: &Path, search: &Search, in_clear: &str) {
    let control = Search::new("metadata", in_clear.as_bytes());
    let mut found = Vec::new();
    for path in files(dir) {
        let bytes = std::fs::read(&path).unwrap();
        search.finds_nothing_in(&path.display().to_string(), &bytes);
        if control.find(&bytes).is_some() {
            found.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    assert!(found.iter().any(|it| it.starts_with("vault.db")), "{in_clear} was found in {found:?} only");
}

pub fn search_verify(dir: &Path, search: &Search) {
    for more in [&[][..], &["--json"]] {
        let output = program().arg("verify").arg("--dir").arg(dir).args(more).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        search.finds_nothing_in("the output of verify", text(&output).as_bytes());
    }
}

/// Every string and key of a JSON value.
pub fn strings(value: &Value, out: &mut HashSet<String>) {
    match value {
        Value::String(text) => drop(out.insert(text.clone())),
        Value::Array(items) => items.iter().for_each(|it| strings(it, out)),
        Value::Object(map) => map.iter().for_each(|(key, it)| {
            out.insert(key.clone());
            strings(it, out);
        }),
        _ => {}
    }
}

#[test]
fn the_search_finds_what_was_planted_in_every_form_and_nothing_else() {
    let search = Search::new("it", MARK.as_bytes());
    let planted = Canaries::default().text("Planted");
    let within = |bytes: &[u8]| [&b"before \x00\xff"[..], bytes, b"\xfe after"].concat();
    let utf16 = |to: fn(u16) -> [u8; 2]| planted.encode_utf16().flat_map(to).collect::<Vec<u8>>();
    let mut forms = vec![
        planted.clone().into_bytes(),
        json!([planted]).to_string().into_bytes(),
        format!("{planted:?}").into_bytes(),
        hex::encode(&planted).into_bytes(),
        hex::encode_upper(&planted).into_bytes(),
        utf16(u16::to_le_bytes),
        utf16(u16::to_be_bytes),
        format!("{:?}", planted.as_bytes()).into_bytes(),
        planted.chars().map(|it| format!("\\u{:04x}", it as u32)).collect::<String>().into_bytes(),
        planted.to_lowercase().into_bytes(),
    ];
    for shift in 0..3 {
        let shifted = format!("{}{planted}", &"abc"[..shift]);
        forms.push(STANDARD.encode(&shifted).into_bytes());
        forms.push(URL_SAFE.encode(&shifted).into_bytes());
    }
    for form in &forms {
        assert!(search.find(&within(form)).is_some(), "not found: {}", String::from_utf8_lossy(form));
        assert_eq!(search.find(&within(&form[form.len() / 2..form.len() / 2 + 8])), None, "part of a form is no find");
    }
    assert_eq!(search.find(&[0; 4_096]), None);
}
