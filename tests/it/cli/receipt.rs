//! `verify-receipt`: a receipt checked on a machine that has nothing else.

use serde_json::json;

use super::{Cli, has, stderr, stdout};
use crate::app::{App, entry, program};

#[tokio::test]
async fn a_receipt_is_checked_offline_by_leaf_by_answer_and_by_the_whole_leaf() {
    let mut app = App::spawn().await;
    let answer = app.submitter().post("/v1/entries?wait=proof", &entry()).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let submitted = answer.json();
    let (id, leaf) = (submitted["id"].as_str().unwrap(), submitted["leaf_hash"].as_str().unwrap());
    assert_eq!(submitted["proof"]["leaf_hash"], json!(leaf), "the proof came with the answer");
    assert_eq!(submitted["proof"]["index"], submitted["sequence"]);
    let again = app.submitter().post("/v1/entries?wait=later", &entry()).await;
    assert_eq!((again.status, again.code().as_str()), (400, "parameter_invalid"));
    let receipt = app.submitter().get(&format!("/v1/entries/{id}/proof?format=text")).await.text;
    let whole = app.auditor().get(&format!("/v1/entries/{id}/leaf")).await.text;
    let vkey = std::fs::read_to_string(app.dir().join("keys/signing.vkey")).unwrap();
    app.stop();

    let here = Cli::new(app.url(), "none");
    std::fs::write(here.path("r"), &receipt).unwrap();
    std::fs::write(here.path("answer.json"), submitted.to_string()).unwrap();
    std::fs::write(here.path("leaf.json"), &whole).unwrap();
    std::fs::write(here.path("key"), &vkey).unwrap();
    std::fs::write(here.path("policy"), format!("log {}\nquorum none\n", vkey.trim())).unwrap();
    let run = |code, words: &[&str]| {
        let mut command = program();
        command.current_dir(here.folder.path()).arg("verify-receipt").args(words);
        super::expect(code, &mut command)
    };
    // As a mail program or an editor may leave them, and as the API answers them.
    std::fs::write(here.path("mailed"), format!("\u{feff}{}\r\n\r\n", receipt.replace('\n', "\r\n"))).unwrap();
    std::fs::write(here.path("key.crlf"), format!("\u{feff}{}\r\n", vkey.trim())).unwrap();
    std::fs::write(here.path("proof.json"), submitted["proof"].to_string()).unwrap();
    for words in [
        &["r", "--vkey", vkey.trim(), "--leaf", leaf][..],
        &["mailed", "--vkey", "key.crlf", "--leaf", leaf],
        &["answer.json", "--vkey", "key", "--entry", "answer.json"],
        &["proof.json", "--vkey", "key", "--vkey", "key", "--leaf", leaf],
        &["r", "--vkey", "key", "--entry", "answer.json"],
        &["r", "--policy", "policy", "--entry", "leaf.json"],
    ] {
        has(stdout(&run(0, words)), &["it holds: entry", "is under the checkpoint over"]);
    }
    let shown: serde_json::Value =
        serde_json::from_str(stdout(&run(0, &["r", "--json", "--vkey", "key", "--leaf", leaf]))).unwrap();
    assert_eq!((&shown["holds"], &shown["index"]), (&json!(true), &submitted["sequence"]));
    // What does not hold.
    has(stdout(&run(1, &["r", "--vkey", "key", "--leaf", &"00".repeat(32)])), &["does NOT hold"]);
    std::fs::write(here.path("cut"), &receipt[..receipt.len() - 9]).unwrap();
    has(stdout(&run(1, &["cut", "--vkey", "key", "--leaf", leaf])), &["does NOT hold"]);
    std::fs::write(here.path("no.json"), submitted["proof"].to_string().replacen("[\"", "[\"00", 1)).unwrap();
    has(stderr(&run(2, &["no.json", "--vkey", "key", "--leaf", leaf])), &["not a receipt as the vault writes it"]);
    std::fs::write(here.path("half"), &receipt[..40]).unwrap();
    has(stderr(&run(2, &["half", "--vkey", "key", "--leaf", leaf])), &["not a receipt as the vault writes it"]);
    let mistyped = vkey.trim().replace('A', "B");
    has(stderr(&run(2, &["r", "--vkey", &format!("{mistyped}x"), "--leaf", leaf])), &["--vkey is no public key"]);
    // What cannot be told.
    std::fs::write(here.path("forged.json"), whole.replace("00000", "00001")).unwrap();
    has(stderr(&run(2, &["r", "--vkey", "key", "--entry", "forged.json"])), &["does not have the leaf_hash"]);
    for words in [
        &["r", "--vkey", "key"][..],
        &["r", "--leaf", leaf],
        &["r", "--vkey", "key", "--policy", "policy", "--leaf", leaf],
        &["gone", "--vkey", "key", "--leaf", leaf],
        &["r", "--vkey", "gone", "--leaf", leaf],
        &["r", "--policy", "key", "--leaf", leaf],
        &["r", "--vkey", "key", "--leaf", "xyz"],
    ] {
        run(2, words);
    }
    app.start();
    app.finish();
}
