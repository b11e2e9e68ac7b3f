//! `phivault token`: makes, lists and revokes access tokens on a running vault.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use clap::{Subcommand, ValueEnum};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::cli::admin::Look;
use crate::cli::client::terminal::{self, escape, moment};
use crate::cli::client::{Client, ConnectArgs};
use crate::vault::Source;

mod generate;
mod recover;

/// Make, list and revoke access tokens (needs the role admin); recover when none is left
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a token and show it, this once
    ///
    /// The vault keeps only a hash of it: a token that was lost cannot be shown again, only revoked and replaced.
    /// Standard output gets the token and nothing else, so it can be piped to where it is needed; --out puts it into
    /// a file without showing it.
    Create(Create),
    /// Make a token on this computer, for an administrator to have it accepted by its hash
    ///
    /// The token goes into the new file (mode 600), ready for --token-file, and is nobody's but yours. Its hash, which is printed,
    /// goes to the administrator who asks for you: phivault token create --role admin --label YOU --hash HEX.
    Generate(generate::Args),
    /// List all tokens, without their secret part
    List(Look),
    /// Revoke a token; requests with it are refused from now on
    Revoke(Revoke),
    /// Make an admin token on the vault's own machine, when the last one is lost or has expired
    ///
    /// Stop the vault first. Needs what unlocks the keyring, as `phivault serve` does, and no token. The ledger records
    /// that the token was made here. Standard output gets the token and nothing else.
    Recover(recover::Args),
}

#[derive(Debug, clap::Args)]
struct Create {
    /// What the token may do
    #[arg(long, value_enum)]
    role: Role,

    /// Who or what uses it, for people who read the list later
    #[arg(long, value_name = "TEXT")]
    label: String,

    /// Whose record it is about, for the role patient
    #[arg(long, value_name = "ID", required_if_eq("role", "patient"))]
    patient: Option<String>,

    /// When it ends: in 12h, 90d, 26w or 1y (365 days), or at a time such as 2027-01-31T00:00:00Z [default: never]
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,

    /// Accept it only from these networks, such as 10.1.0.0/16, and with these client certificates (cert: and the SHA-256 that `openssl x509
    /// -noout -fingerprint -sha256` prints); may be given more than once [default: any]
    #[arg(long = "allow", value_name = "SOURCE", value_parser = parse_source)]
    allowed: Vec<String>,

    /// The hash of a token that its holder has made with `phivault token generate`; needed for an administrator
    ///
    /// So nobody but its holder ever has it. Nothing is shown then, and a further administrator waits for a second one's approval.
    #[arg(long, value_name = "HEX", conflicts_with = "out")]
    hash: Option<String>,

    /// Why, as a code of the vault's vocabulary
    #[arg(long, value_name = "CODE", default_value = "HSYSADMIN")]
    reason: String,

    /// Why, in words (kept sealed)
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,

    /// Write the token to this new file (mode 600), ready for --token-file, instead of showing it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Print everything about the token as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, clap::Args)]
struct Revoke {
    /// The token's id, as the list shows it; not the token itself
    #[arg(value_name = "ID", value_parser = parse_id)]
    id: String,

    /// Why, as a code of the vault's vocabulary
    #[arg(long, value_name = "CODE", default_value = "HSYSADMIN")]
    reason: String,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    /// Clinical apps: adds entries, reads nothing
    Submitter,
    /// Compliance: queries, reveals values, makes reports
    Officer,
    /// Verification: sees hashes and metadata only
    Auditor,
    /// Operation: tokens and keys, reveals nothing
    Admin,
    /// A patient: who looked at this patient's record and why, nothing else
    Patient,
}

/// Does what the subcommand says.
///
/// # Errors
/// What the vault refuses, and files that cannot be written.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Create(args) => super::remote(create(args))?,
        Command::Generate(args) => generate::run(&args)?,
        Command::List(args) => super::remote(list(args))?,
        Command::Revoke(args) => super::remote(revoke(args))?,
        Command::Recover(args) => return recover::run(&args),
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Deserialize)]
struct Listing {
    tokens: Vec<Token>,
}

#[derive(Debug, Deserialize)]
struct Token {
    id: String,
    #[serde(default)]
    label: String,
    role: String,
    created_at: String,
    expires_at: Option<String>,
    revoked_at: Option<String>,
    #[serde(default)]
    allowed_sources: Vec<String>,
}

const TOKENS: &[&str] = &["v1", "tokens"];
const MADE_PERHAPS: &str = "a token may have been made all the same (see `phivault token list`, and revoke it)";

async fn create(args: Create) -> anyhow::Result<()> {
    let expires = args.expires.as_deref().map(|text| parse_expiry(text, Utc::now())).transpose()?;
    let client = Client::connect(&args.connect)?;
    // The file comes first: a token that could not be written would be lost, and valid.
    let file = args.out.as_deref().map(new_token_file).transpose()?;
    let made = client.post::<Map<String, Value>>(TOKENS, &creation(&args, expires)).await;
    let mut made = match made {
        Ok(made) => made,
        Err(problem) => {
            if let Some((path, _)) = &file {
                let _ = fs::remove_file(path);
            }
            let uncertain = problem.is_uncertain();
            let error = anyhow::Error::new(problem);
            return Err(if uncertain { error.context(MADE_PERHAPS) } else { error });
        }
    };
    if made.get("stage").is_some() {
        if let Some((path, _)) = &file {
            let _ = fs::remove_file(path);
        }
        let answer = Value::Object(made);
        terminal::print(&if args.json { terminal::json(&answer)? } else { super::admin::asked(&answer) })?;
        return Ok(());
    }
    let id = made.get("id").and_then(Value::as_str).map(escape).unwrap_or_default();
    if args.hash.is_some() {
        let answer = Value::Object(made);
        let text = if args.json {
            terminal::json(&answer)?
        } else {
            format!("token {id} ({}) is accepted", role_name(args.role))
        };
        terminal::print(&text)?;
        return Ok(());
    }
    show(&args, file, &mut made)
        .with_context(|| format!("the token {id} was made, but not handed over: revoke it and make another"))?;
    if !args.json {
        let end = made
            .get("expires_at")
            .and_then(Value::as_str)
            .map_or("never expires".to_owned(), |at| format!("expires {}", escape(&moment(at, None))));
        eprintln!("token {id} ({}) {end}; it is not shown again", role_name(args.role));
    }
    Ok(())
}

/// Hands the token over on exactly one way: the file, the JSON object, or a line.
fn show(args: &Create, file: Option<(&Path, File)>, made: &mut Map<String, Value>) -> anyhow::Result<()> {
    let Some(token) = made.get("token").and_then(Value::as_str).map(|token| Zeroizing::new(escape(token))) else {
        bail!("the vault's answer holds no token");
    };
    let to_file = file.is_some();
    if let Some((path, mut file)) = file {
        let written = writeln!(file, "{}", *token).and_then(|()| file.sync_all());
        written.with_context(|| format!("{} cannot be written", path.display()))?;
        made.remove("token");
        made.insert("token_file".to_owned(), json!(path));
    }
    if args.json {
        print_secret(&terminal::json(made)?)?;
    } else if !to_file {
        print_secret(&token)?;
    }
    Ok(())
}

/// Unlike other output, a token must reach its reader: a closed pipe is an error here.
fn print_secret(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("standard output cannot be written")
}

async fn list(args: Look) -> anyhow::Result<()> {
    let client = Client::connect(&args.connect)?;
    if args.json {
        let tokens: Value = client.get(TOKENS, &[]).await?;
        terminal::print(&terminal::json(&tokens)?)?;
        return Ok(());
    }
    let listing: Listing = client.get(TOKENS, &[]).await?;
    terminal::print(&overview(&listing.tokens, Utc::now()))?;
    Ok(())
}

async fn revoke(args: Revoke) -> anyhow::Result<()> {
    let client = Client::connect(&args.connect)?;
    client.delete(&["v1", "tokens", &args.id], &[("reason", &args.reason)]).await?;
    let text = if args.json {
        json!({"id": args.id, "revoked": true}).to_string()
    } else {
        format!("revoked {}", escape(&args.id))
    };
    terminal::print(&text)?;
    Ok(())
}

fn creation(args: &Create, expires: Option<DateTime<Utc>>) -> Value {
    let mut reason = json!({"code": args.reason});
    if let Some(note) = &args.note {
        reason["note"] = json!(note);
    }
    let mut body = json!({"role": role_name(args.role), "label": args.label, "reason": reason});
    if let Some(patient) = &args.patient {
        body["patient"] = json!(patient);
    }
    if let Some(at) = expires {
        body["expires_at"] = json!(at.to_rfc3339_opts(SecondsFormat::Micros, true));
    }
    if let Some(hash) = &args.hash {
        body["token_hash"] = json!(hash);
    }
    if !args.allowed.is_empty() {
        body["allowed_sources"] = json!(args.allowed);
    }
    body
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Submitter => "submitter",
        Role::Officer => "officer",
        Role::Auditor => "auditor",
        Role::Admin => "admin",
        Role::Patient => "patient",
    }
}

fn overview(tokens: &[Token], now: DateTime<Utc>) -> String {
    if tokens.is_empty() {
        return "no tokens".to_owned();
    }
    let row = |token: &Token| {
        let sources = if token.allowed_sources.is_empty() { "any".to_owned() } else { token.allowed_sources.join(" ") };
        let expires = token.expires_at.as_deref().map_or("never".to_owned(), |at| moment(at, None));
        vec![
            token.id.clone(),
            token.label.clone(),
            token.role.clone(),
            state(token, now),
            moment(&token.created_at, None),
            expires,
            sources,
        ]
    };
    let rows: Vec<_> = tokens.iter().map(row).collect();
    terminal::table(&["ID", "LABEL", "ROLE", "STATE", "CREATED", "EXPIRES", "FROM"], &rows, &[0])
}

fn state(token: &Token, now: DateTime<Utc>) -> String {
    let past = |at: &str| DateTime::parse_from_rfc3339(at).is_ok_and(|at| at <= now);
    match (&token.revoked_at, &token.expires_at) {
        (Some(at), _) => format!("revoked {}", moment(at, None)),
        (None, Some(at)) if past(at) => "expired".to_owned(),
        _ => "valid".to_owned(),
    }
}

fn new_token_file(path: &Path) -> anyhow::Result<(&Path, File)> {
    let file = terminal::private_file(path)
        .with_context(|| format!("{} cannot be created (an existing file is never overwritten)", path.display()))?;
    Ok((path, file))
}

/// An id, and not by mistake a token, which would then stand in the shell's history and in the server's URL.
fn parse_id(text: &str) -> Result<String, String> {
    match text {
        "" | "." | ".." => Err("give the id that `phivault token list` shows".to_owned()),
        _ if text.starts_with("phv_") => Err("this is a token, not its id: see `phivault token list`".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

/// A network, an address, which becomes a network of one, or a client certificate.
fn parse_source(text: &str) -> Result<String, String> {
    let source = Source::parse(text).map(|it| it.to_string());
    source.ok_or(
        "an address, a network such as 10.1.0.0/16 or fd00::/8, or cert: and the SHA-256 of a client certificate"
            .to_owned(),
    )
}

/// A span from `now`, or a moment after it.
fn parse_expiry(text: &str, now: DateTime<Utc>) -> anyhow::Result<DateTime<Utc>> {
    const FORM: &str = "--expires takes a span such as 12h, 90d, 26w, 1y, or a time such as 2027-01-31T00:00:00Z";
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        let at = at.with_timezone(&Utc);
        if at <= now {
            bail!("--expires {text} has passed already");
        }
        return Ok(at);
    }
    let Some((number, hours)) = [("h", 1), ("d", 24), ("w", 24 * 7), ("y", 24 * 365)]
        .iter()
        .find_map(|(unit, hours)| Some((text.strip_suffix(unit)?, hours)))
    else {
        bail!(FORM);
    };
    // parse alone would take a sign
    if !number.bytes().all(|b| b.is_ascii_digit()) {
        bail!(FORM);
    }
    let Ok(number) = number.parse::<u32>() else { bail!(FORM) };
    let span = TimeDelta::try_hours(i64::from(number) * hours)
        .filter(|span| *span > TimeDelta::zero() && *span <= TimeDelta::days(LONGEST_DAYS));
    let Some(span) = span else { bail!("--expires takes spans from an hour to 100 years") };
    now.checked_add_signed(span).context("--expires is beyond the calendar")
}

const LONGEST_DAYS: i64 = 100 * 365;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().with_timezone(&Utc)
    }

    #[test]
    fn an_expiry_is_a_span_or_a_moment_to_come() {
        let now = at("2026-11-24T09:00:00Z");
        for (text, expected) in [
            ("12h", "2026-11-24T21:00:00Z"),
            ("90d", "2027-02-22T09:00:00Z"),
            ("2w", "2026-12-08T09:00:00Z"),
            ("1y", "2027-11-24T09:00:00Z"),
            ("2027-01-31T00:00:00+02:00", "2027-01-30T22:00:00Z"),
        ] {
            assert_eq!(parse_expiry(text, now).unwrap(), at(expected), "{text}");
        }
        for text in [
            "",
            "d",
            "0d",
            "-1d",
            "+1d",
            "1.5d",
            "90",
            "90 d",
            "101y",
            "99999999999d",
            "90m",
            "2026-11-24T09:00:00Z",
            "2020-01-01",
            "ü",
        ] {
            assert!(parse_expiry(text, now).is_err(), "{text}");
        }
    }

    #[test]
    fn a_source_is_an_address_or_a_network() {
        for (text, expected) in
            [("10.1.0.0/16", "10.1.0.0/16"), ("10.1.2.3", "10.1.2.3/32"), ("fd00::/8", "fd00::/8"), ("::1", "::1/128")]
        {
            assert_eq!(parse_source(text).as_deref(), Ok(expected));
        }
        for text in ["", "10.1.0.0/33", "10.1/16", "::/129", "host", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(parse_source(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_is_not_taken_for_an_id() {
        assert!(parse_id("phv_abc").is_err());
        assert_eq!(parse_id("t-1").as_deref(), Ok("t-1"));
    }

    #[test]
    fn the_list_tells_valid_expired_and_revoked_apart() {
        let token = |expires: Option<&str>, revoked: Option<&str>| Token {
            id: "t-1".to_owned(),
            label: "forwarder\u{1b}[2J".to_owned(),
            role: "submitter".to_owned(),
            created_at: "2026-01-01T00:00:00Z".to_owned(),
            expires_at: expires.map(str::to_owned),
            revoked_at: revoked.map(str::to_owned),
            allowed_sources: Vec::new(),
        };
        let now = at("2026-11-24T09:00:00Z");
        assert_eq!(state(&token(None, None), now), "valid");
        assert_eq!(state(&token(Some("2026-11-25T00:00:00Z"), None), now), "valid");
        assert_eq!(state(&token(Some("2026-11-24T09:00:00Z"), None), now), "expired");
        assert_eq!(state(&token(None, Some("2026-11-01T00:00:00Z")), now), "revoked 2026-11-01 00:00:00Z");
        assert!(!overview(&[token(None, None)], now).contains('\u{1b}'));
    }

    #[test]
    fn a_token_written_to_a_file_is_not_shown_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let connect = ConnectArgs {
            url: "http://localhost".to_owned(),
            token_file: path.clone(),
            ca_file: None,
            client_certificate: None,
            timeout: 1,
            insecure_http: false,
        };
        let args = Create {
            role: Role::Officer,
            label: "x".to_owned(),
            patient: None,
            expires: None,
            allowed: Vec::new(),
            hash: None,
            reason: "HSYSADMIN".to_owned(),
            note: None,
            out: Some(path.clone()),
            json: false,
            connect,
        };
        let mut made = Map::from_iter([("id".to_owned(), json!("t-1")), ("token".to_owned(), json!("phv_secret"))]);
        show(&args, Some(new_token_file(&path).unwrap()), &mut made).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "phv_secret\n");
        assert!(!made.contains_key("token"));
        assert!(new_token_file(&path).is_err(), "it is never overwritten");
    }
}
