//! Values, notes and bodies: what JSON cannot carry, what is too large, too deep or too many, and what is no JSON at all.

use serde_json::{Value, json};

use super::{CANARY, UNKNOWN, case, disclosing, expect_refusals, full, refused, with};
use crate::app::{App, Client, Options};
use crate::ingest::size_of;

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

/// An acceptable submission whose `old` value is this JSON text.
fn old_is(text: &str) -> String {
    with("/changes/0/old", json!("HERE")).to_string().replace("\"HERE\"", text)
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(CANARY), |inner, n| if n % 2 == 0 { json!([inner]) } else { json!({ "a": inner }) })
}

fn changes(count: usize) -> Value {
    (0..count).map(|n| json!({"field": format!("f{n}"), "new": CANARY})).collect()
}

#[tokio::test]
async fn values_and_notes_keep_to_their_limits() {
    let app = App::spawn().await;
    let values = ["/changes/0/old", "/changes/0/new"];
    let texts = "/reason/note /actor/name /disclosure/recipient/name /disclosure/recipient/address /disclosure/description /context/ward";
    let mut cases = vec![
        case("201 changes", with("/changes", changes(201)), "too_many", "/changes"),
        case("33 labels", with("/sensitivity", json!(vec![CANARY; 33])), "too_many", "/sensitivity"),
        case(
            "33 related",
            with("/related", json!(vec![json!({"type": CANARY, "id": "a"}); 33])),
            "too_many",
            "/related",
        ),
        case(
            "33 context keys",
            with("/context", (0..33).map(|n| (format!("k{n}"), CANARY)).collect()),
            "too_many",
            "/context",
        ),
    ];
    for place in values {
        cases.push(case("33 deep", with(place, nested(33)), "too_deep", place));
        let large = format!("{CANARY}{}", "x".repeat(65_536));
        cases.push(case("a large text", with(place, json!(large)), "value_too_large", place));
        cases.push(case("a large list", with(place, json!(vec![CANARY; 4_000])), "value_too_large", place));
    }
    for place in values.into_iter().chain(texts.split(' ')) {
        for control in ["\u{0}", "\u{1b}[2J", "\u{7f}", "\u{9b}"] {
            let text = json!(format!("{CANARY}{control}"));
            cases.push(case(format!("{control:?} in {place}"), with(place, text), "control_character", place));
        }
    }
    for place in texts.split(' ') {
        let long = format!("{CANARY}{}", "x".repeat(8_192));
        cases.push(case(format!("a long {place}"), with(place, json!(long)), "too_long", place));
    }
    cases.push(case(
        "a control in a key",
        with("/changes/0/old", json!({"a\u{0}": CANARY})),
        "control_character",
        "/changes/0/old",
    ));
    expect_refusals(&app, &cases).await;
    let size = size_of(&app).await;
    let just = [
        with("/changes/0/old", nested(32)),
        with("/changes/0/new", json!("x".repeat(65_000))),
        with("/changes/0/old", json!("tab\tand\r\nlines, \u{202e} and 𝒱")),
        with("/reason/note", json!("x".repeat(8_192))),
        with("/changes", changes(200)),
        with("/sensitivity", json!(vec![CANARY; 32])),
    ];
    for sent in &just {
        app.submitter().submit(sent).await;
    }
    assert_eq!(size_of(&app).await, size + just.len() as u64, "the limits themselves are allowed");
    app.finish();
}

#[tokio::test]
async fn numbers_that_json_does_not_keep_are_refused() {
    let app = App::spawn().await;
    let size = size_of(&app).await;
    let lost = "1e400 -1E+400 1e-400 18446744073709551616 -9223372036854775809 0.12345678901234567890 1.00000000000000000001 \
        100000000000000000000 123456789012345678.5";
    for number in lost.split_whitespace() {
        for text in [number.to_owned(), format!("[{number}]"), format!("{{\"a\":{{\"b\":{number}}}}}")] {
            let answer = app.submitter().post_text("/v1/entries", JSON, old_is(&text)).await;
            refused(&text, &answer, 422, "number_inexact", Some("/changes/0/old"));
        }
    }
    for text in ["01", "1.", ".5", "+1", "0x10", "NaN", "Infinity", "-", "1e", "1_000", "TRUE", "'a'", "undefined"] {
        let answer = app.submitter().post_text("/v1/entries", JSON, old_is(text)).await;
        refused(text, &answer, 400, "invalid_json", Some(""));
    }
    assert_eq!(size_of(&app).await, size, "nothing refused goes in");
    for text in ["18446744073709551615", "-9223372036854775808", "7.0", "0.1", "1e21", "-0.0"] {
        let answer = app.submitter().post_text("/v1/entries", JSON, old_is(text)).await;
        assert_eq!(answer.status, 201, "{text}: {answer:?}");
        let reason = json!({"reason": {"code": "HCOMPL"}});
        let id = answer.json()["id"].as_str().unwrap().to_owned();
        let shown = app.officer().post(&format!("/v1/entries/{id}/reveal"), &reason).await;
        assert!(shown.text.replace("e+", "e").contains(&format!("\"old\":{text}")), "{text}: {}", shown.text);
    }
    app.finish();
}

#[tokio::test]
async fn a_key_given_twice_is_refused_at_every_level() {
    let app = App::spawn().await;
    let size = size_of(&app).await;
    let good = disclosing().to_string();
    let twice = |place: &str, extra: &str| {
        assert!(good.contains(place), "{place} stands in {good}");
        good.replacen(place, &format!("{place}{extra},"), 1)
    };
    for (what, body) in [
        ("top", twice("{", "\"action\":\"read\"")),
        ("actor", twice("\"actor\":{", &format!("\"id\":\"{CANARY}\""))),
        ("reason", twice("\"reason\":{", "\"code\":\"BTG\"")),
        ("change", twice("\"changes\":[{", &format!("\"new\":\"{CANARY}\""))),
        ("recipient", twice("\"recipient\":{", &format!("\"name\":\"{CANARY}\""))),
        ("value", old_is(&format!("{{\"a\":\"{CANARY}\",\"a\":1}}"))),
        ("deep in a value", old_is(&format!("[[{{\"x\":{{\"b\":\"{CANARY}\",\"b\":\"{CANARY}\"}}}}]]"))),
        ("under a key of a value", old_is(&format!("{{\"{CANARY}\":[{{\"b\":1,\"b\":2}}]}}"))),
        ("escaped", old_is(&format!("{{\"a\":\"{CANARY}\",\"\\u0061\":1}}"))),
    ] {
        let answer = app.submitter().post_text("/v1/entries", JSON, body.clone()).await;
        refused(what, &answer, 422, "duplicate_key", None);
        let answer = app.submitter().post_text("/v1/entries/batch", NDJSON, body).await;
        refused(what, &answer, 422, "duplicate_key", None);
    }
    assert_eq!(size_of(&app).await, size, "nothing refused goes in");
    app.finish();
}

#[tokio::test]
async fn a_key_given_twice_in_the_context_is_refused() {
    let app = App::spawn().await;
    let size = size_of(&app).await;
    for (name, text) in [("ward", CANARY), ("session_id", "another"), ("device", "a\",\"device\":\"b")] {
        let body = full().to_string().replace("\"context\":{", &format!("\"context\":{{\"{name}\":\"{text}\","));
        let answer = app.submitter().post_text("/v1/entries", JSON, body).await;
        assert_eq!(answer.status, 422, "{name}: one of its two texts would be lost: {answer:?}");
        refused(name, &answer, 422, "duplicate_key", None);
    }
    assert_eq!(size_of(&app).await, size, "nothing refused goes in");
    app.finish();
}

#[tokio::test]
async fn an_object_with_the_parsers_own_word_for_a_number_does_not_become_one() {
    let app = App::spawn().await;
    let size = size_of(&app).await;
    let plain = "$serde_json::private::Number";
    for word in [
        plain,
        "\\u0024serde_json::private::Number",
        "$serde\\u005fjson::private::Number",
        "$serde_json::private::Num\\u0062er",
    ] {
        let body = old_is(&format!("{{\"{word}\":\"5\"}}"));
        let answer = app.submitter().post_text("/v1/entries", JSON, body).await;
        assert_eq!(answer.status, 400, "{word}: what is stored is not what was sent: {answer:?}");
        refused(word, &answer, 400, "invalid_json", Some(""));
    }
    assert_eq!(size_of(&app).await, size, "nothing refused goes in");
    app.finish();
}

#[tokio::test]
async fn bodies_that_are_no_json_are_refused() {
    let app = App::spawn().await;
    let size = size_of(&app).await;
    let good = full().to_string();
    let bytes = |text: &str| text.as_bytes().to_vec();
    let spoilt = |byte: &[u8]| [&good.as_bytes()[..20], byte, &good.as_bytes()[20..]].concat();
    let mut bodies = vec![
        ("nothing", Vec::new()),
        ("blanks", bytes(" \r\n\t ")),
        ("a word", bytes(CANARY)),
        ("a tail", bytes(&format!("{good} {CANARY}"))),
        ("two", bytes(&format!("{good}{good}"))),
        ("a comma too many", bytes(&good.replacen("}]", "},]", 1))),
        ("a comment", bytes(&format!("/* {CANARY} */ {good}"))),
        ("a byte order mark", bytes(&format!("\u{feff}{good}"))),
        ("no UTF-8", spoilt(&[0xff, 0xfe])),
        ("half a character", spoilt(&[0xc3])),
        ("an overlong slash", spoilt(&[0xc0, 0xaf])),
        ("UTF-16", good.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("a raw NUL", bytes(&old_is("\"\u{0}\""))),
        ("a raw line end in a text", bytes(&old_is("\"\n\""))),
        ("a lone high surrogate", bytes(&old_is("\"\\ud800\""))),
        ("a lone low surrogate", bytes(&old_is("\"\\udc00x\""))),
        ("surrogates the wrong way", bytes(&old_is("\"\\udc00\\ud800\""))),
        ("a lone surrogate in a key", bytes(&old_is("{\"\\ud800\":1}"))),
        ("an escape that is none", bytes(&old_is("\"\\x41\""))),
        ("60,000 brackets in a value", bytes(&old_is(&"[".repeat(60_000)))),
        ("60,000 objects in a value", bytes(&old_is(&"{\"a\":".repeat(60_000)))),
        ("200 closed brackets in a value", bytes(&old_is(&format!("{}{}", "[".repeat(200), "]".repeat(200))))),
    ];
    bodies.extend((1..good.len()).step_by(97).map(|end| ("cut off", good.as_bytes()[..end].to_vec())));
    for (what, body) in bodies {
        let answer = app.submitter().post_text("/v1/entries", JSON, body).await;
        refused(what, &answer, 400, "invalid_json", Some(""));
        assert_eq!(size_of(&app).await, size, "{what}: nothing refused goes in");
    }
    for text in ["null", "7", "true", "\"CANARY-7f3a91c2d4\"", &format!("[{good}]"), "[]", &"[".repeat(60_000)] {
        let answer = app.submitter().post_text("/v1/entries", JSON, text.to_owned()).await;
        refused(&text[..text.len().min(20)], &answer, 422, "wrong_type", Some(""));
    }
    assert!(!app.log().contains(CANARY), "the log holds a value");
    app.finish();
}

/// Every route that takes a body, who may call it, and which types it takes.
fn taking(app: &App) -> Vec<(Client, String, &'static str)> {
    vec![
        (app.submitter(), "/v1/entries".into(), JSON),
        (app.submitter(), "/v1/entries/batch".into(), NDJSON),
        (app.officer(), "/v1/entries/query".into(), JSON),
        (app.officer(), format!("/v1/entries/{UNKNOWN}/reveal"), JSON),
        (app.officer(), "/v1/reveal".into(), JSON),
        (app.admin(), "/v1/tokens".into(), JSON),
        (app.admin(), "/v1/keys/rotate".into(), JSON),
    ]
}

#[tokio::test]
async fn every_route_refuses_bodies_of_another_type_and_broken_or_unknown_ones() {
    let app = App::spawn().await;
    let size = size_of(&app).await;
    for (client, path, kind) in taking(&app) {
        for other in ["text/plain", "text/json", "application/xml", "multipart/form-data; boundary=x", "", "*/*"] {
            let answer = client.post_text(&path, other, "{}").await;
            refused(&format!("{path} {other}"), &answer, 415, "media_type", None);
        }
        let bare = client.request(reqwest::Method::POST, &path).body("{}");
        refused(&format!("{path} without type"), &client.send(bare).await, 415, "media_type", None);
        for encoding in ["gzip", "br", "identity"] {
            let request = client.request(reqwest::Method::POST, &path).header("content-type", kind);
            let request = request.header("content-encoding", encoding).body(full().to_string());
            refused(&format!("{path} {encoding}"), &client.send(request).await, 415, "content_encoding", None);
        }
        let secret = format!("{{\"secret\":\"{CANARY}\"}}");
        let surplus = format!("{{\"reason\":{{\"code\":\"HCOMPL\",\"secret\":\"{CANARY}\"}}}}");
        let twice = "{\"reason\":{\"code\":\"HCOMPL\",\"code\":\"TREAT\"}}";
        let cut = format!("{{\"{CANARY}");
        for (body, status, code) in [
            (cut.as_str(), 400, "invalid_json"),
            ("{} {}", 400, "invalid_json"),
            ("[{}]", 422, "wrong_type"),
            ("7", 422, "wrong_type"),
            (secret.as_str(), 422, "unknown_field"),
        ] {
            refused(
                &format!("{path} {body}"),
                &client.post_text(&path, kind, body.to_owned()).await,
                status,
                code,
                None,
            );
        }
        let inner = [(surplus.as_str(), "unknown_field"), (twice, "duplicate_key")];
        // A query has no reason in its body.
        for (body, code) in inner.into_iter().filter(|_| !path.ends_with("query")) {
            refused(&format!("{path} {body}"), &client.post_text(&path, kind, body.to_owned()).await, 422, code, None);
        }
    }
    assert_eq!(size_of(&app).await, size, "nothing refused is recorded as done");
    assert!(!app.log().contains(CANARY), "the log holds a value");
    let charset = app.submitter().post_text("/v1/entries", "Application/JSON; charset=utf-8", full().to_string()).await;
    assert_eq!(charset.status, 201, "{charset:?}");
    app.finish();
}

#[tokio::test]
async fn bodies_and_batches_beyond_their_limits_are_refused_whole() {
    let limits = [("BODY_BYTES", "4000"), ("BATCH_BYTES", "20000"), ("BATCH_LINES", "5")];
    let env = limits.map(|(name, value)| (format!("PHIVAULT_LIMITS__{name}"), value.to_owned())).to_vec();
    let app = App::spawn_with(Options { env, ..Options::default() }).await;
    let size = size_of(&app).await;
    let long = |bytes: usize| with("/changes/0/old", json!("x".repeat(bytes)));
    for (client, path, kind) in taking(&app) {
        let body = format!("\"{}", "x".repeat(if kind == NDJSON { 20_000 } else { 4_000 }));
        refused(&path, &client.post_text(&path, kind, body).await, 413, "body_too_large", None);
    }
    let batch = "/v1/entries/batch";
    let lines = |count: usize| format!("{}\n", full()).repeat(count);
    let array = |count: usize| Value::Array(vec![full(); count]).to_string();
    for (what, kind, body, status, code) in [
        ("six lines", NDJSON, lines(6), 413, "too_many_lines"),
        ("six in an array", JSON, array(6), 413, "too_many_lines"),
        ("a long line", NDJSON, format!("{}{}", lines(1), long(4_000)), 422, "too_large"),
        ("a long item", JSON, json!([full(), long(4_000)]).to_string(), 422, "too_large"),
        ("no line", NDJSON, "\n \n\r\n".into(), 422, "empty"),
        ("no byte", NDJSON, String::new(), 422, "empty"),
        ("no item", JSON, "[]".into(), 422, "empty"),
        ("no array", JSON, full().to_string(), 400, "invalid_json"),
        ("lines for an array", JSON, lines(2), 400, "invalid_json"),
        ("an array cut off", JSON, array(2).replace(']', ""), 400, "invalid_json"),
        ("an array on a line", NDJSON, array(2), 422, "wrong_type"),
        ("a cut line", NDJSON, format!("{}{{\"actor\":\"{CANARY}", lines(2)), 400, "invalid_json"),
    ] {
        for partial in ["", "?partial=true"] {
            let answer = app.submitter().post_text(&format!("{batch}{partial}"), kind, body.clone()).await;
            let of_line = ["too_large", "wrong_type"].contains(&code) || what == "a cut line";
            if partial.is_empty() || !of_line {
                refused(&format!("{what} {partial}"), &answer, status, code, None);
            } else {
                assert!(!answer.text.contains(CANARY) && answer.json()["refused"] == 1, "{what}: {answer:?}");
            }
        }
    }
    let items = format!("[{}1]", "1,".repeat(9_000));
    let answer = app.submitter().post_text(batch, "application/json", items).await;
    refused("an array of 9,001 items", &answer, 413, "too_many_lines", None);
    let answer = app.submitter().post_text(batch, NDJSON, format!("{}{}", lines(1), long(4_000))).await;
    assert_eq!(answer.json()["errors"][0]["line"], json!(2), "the line is named");
    // The partial batches' good lines: one, one, and two.
    assert_eq!(size_of(&app).await, size + 4, "only the good lines of partial batches went in");
    assert_eq!(app.submitter().post_text(batch, NDJSON, lines(5)).await.status, 200, "the limit itself is allowed");
    app.finish();
}

#[tokio::test]
async fn an_id_used_before_for_something_else_is_a_conflict() {
    let app = App::spawn().await;
    let sent = with("/id", json!("0193595e-7a3c-7cc2-9c1f-0d5c3f1b2a44"));
    app.submitter().submit(&sent).await;
    let size = size_of(&app).await;
    for place in ["/changes/0/new", "/reason/note", "/actor/id", "/patient/id", "/context/ward", "/effective_at"] {
        let mut other = sent.clone();
        *other.pointer_mut(place).unwrap() = json!("2026-01-01T00:00:01Z");
        let answer = app.submitter().post("/v1/entries", &other).await;
        refused(place, &answer, 409, "id_conflict", Some("/id"));
        let answer = app.submitter().post("/v1/entries/batch", &json!([full(), other])).await;
        refused(place, &answer, 409, "id_conflict", Some("/id"));
        assert_eq!(answer.json()["errors"][0]["line"], json!(2), "{place}");
    }
    let stranger = app.with_token(&app.make_token(phivault::domain::caller::Role::Submitter, "stranger").await);
    refused("another application", &stranger.post("/v1/entries", &sent).await, 409, "id_conflict", Some("/id"));
    // The token that was made is recorded, and a seal entry after it.
    assert_eq!(size_of(&app).await, size + 2, "nothing refused goes in");
    app.finish();
}
