//! Submissions that are refused, with something planted in just the part that will not do.

use serde_json::{Value, json};

use super::{JSON, NDJSON, Scenario};

impl Scenario {
    /// Submissions in which one part will not do, with something planted in just that part.
    pub async fn be_refused(&mut self) {
        let mut parts: Vec<(&str, Value)> = Vec::new();
        let c = &mut self.canaries;
        for path in ["/action", "/outcome", "/id", "/occurred_at", "/ended_at", "/effective_at", "/reason/code"] {
            parts.push((path, json!(c.word("Part"))));
        }
        for path in ["/reason/change", "/actor/type", "/record", "/changes", "/context", "/reason", "/colour"] {
            parts.push((path, json!(c.word("Part"))));
        }
        for path in ["/actor/id", "/actor/role", "/patient/id", "/record/id", "/category", "/context/session_id"] {
            parts.push((path, json!(format!("{}\u{202e}", c.word("Reversed")))));
            parts.push((path, json!(c.word("Repeated").repeat(80))));
            parts.push((path, json!({c.word("Member"): c.word("Type")})));
        }
        for path in ["/actor/name", "/reason/note", "/disclosure/description", "/disclosure/recipient/name"] {
            parts.push((path, json!(c.text("Long").repeat(900))));
            parts.push((path, json!([c.text("Type")])));
            parts.push((path, json!({c.word("Member"): c.word("Type")})));
        }
        parts.push(("/context/bed", json!({c.word("Member"): c.word("Type")})));
        parts.push(("/changes/0/new", json!(c.text("Huge").repeat(5_000))));
        parts.push(("/changes/0/new", json!({c.text("Control"): format!("{}\u{1}", c.text("Control"))})));
        let deep = (0..40).fold(json!(c.text("Deep")), |inner, _| json!({c.text("Deep"): inner}));
        parts.push(("/changes/0/old", deep));
        for (path, part) in parts {
            let mut bad = self.refused();
            let (parent, name) = path.rsplit_once('/').unwrap();
            bad.pointer_mut(parent).unwrap()[name] = part;
            let answer = self.app.submitter().post("/v1/entries", &bad).await;
            self.refusal(path, answer);
        }
    }

    /// Bodies that are not what they should be.
    pub async fn be_malformed(&mut self) {
        let (plain, key, value) = (self.refused(), self.canaries.word("Key"), self.canaries.word("Value"));
        let with_new = |new: String| {
            let mut body = plain.clone();
            body["changes"][1]["new"] = json!("here");
            body.to_string().replace("\"here\"", &new)
        };
        let texts = [
            ("a doubled key", with_new(format!("{{\"{key}\": 1, \"{key}\": \"{value}\"}}"))),
            ("a doubled inner key", with_new(format!("{{\"{key}\": {{\"{key}\": \"{value}\", \"{key}\": 2}}}}"))),
            ("an endless number", with_new(format!("{{\"{key}\": 1e9999, \"{value}\": 0}}"))),
            ("a long number", with_new(format!("{{\"{key}\": 12345678901234567890123.5}}"))),
            ("half a character", with_new(format!("{{\"{key}\": \"{value}\\ud800\"}}"))),
            ("an open string", with_new(format!("{{\"{key}\": \"{value}"))),
            ("a bare word", with_new(format!("{{\"{key}\": {value}}}"))),
            ("deep objects", with_new(format!("{}1{}", format!("{{\"{value}\":").repeat(200), "}".repeat(200)))),
            ("a reserved key", with_new(format!("{{\"$serde_json::private::Number\": \"{value}\"}}"))),
            ("something after the end", format!("{plain} {value}")),
            ("an array", format!("[{plain}]")),
            ("a string", format!("\"{value}\"")),
            ("a doubled member", plain.to_string().replacen('{', &format!("{{\"action\": \"{value}\", "), 1)),
        ];
        for (what, text) in &texts {
            for (path, media, body) in [
                ("/v1/entries", JSON, text.clone()),
                ("/v1/entries/batch", NDJSON, text.clone()),
                ("/v1/entries/batch", JSON, format!("[{text}]")),
            ] {
                let answer = self.app.submitter().post_text(path, media, body).await;
                self.refusal(what, answer);
            }
        }
        let bytes = [value.as_bytes(), &[0xff, 0xfe]].concat();
        for (path, media) in [("/v1/entries", JSON), ("/v1/entries", "text/plain"), ("/v1/entries/batch", NDJSON)] {
            let answer = self.app.submitter().post_text(path, media, bytes.clone()).await;
            self.refusal("what is not UTF-8", answer);
        }
    }
}
