//! `phivault retention` and `phivault hold`: what falls due, disposing of it, and what must not be.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::cli::admin::{self, Because, Look, text};
use crate::cli::client::terminal::{self, moment};

/// See what falls due, dispose of it, and get certificates
///
/// Values are kept in buckets of one retention class and year. When that has ended, an administrator disposes of the bucket, and a
/// second one approves: its secret and its sealed values are destroyed; metadata and proofs stay.
#[derive(Debug, clap::Args)]
pub struct RetentionArgs {
    #[command(subcommand)]
    command: RetentionCommand,
}

#[derive(Debug, Subcommand)]
enum RetentionCommand {
    /// Show every bucket: its class, its end, how many entries, and what holds block (officer, auditor, admin)
    Plan(Look),
    /// Dispose of a bucket that is due (admin)
    Dispose(Dispose),
    /// Erase the values of one entry by order of a court or on a person's request (admin)
    Redact(Redact),
    /// Print the signed certificate of a disposal or redaction (officer, auditor, admin)
    Certificate(CertificateArgs),
}

#[derive(Debug, clap::Args)]
struct Dispose {
    /// The bucket, as `phivault retention plan` numbers it
    #[arg(value_name = "BUCKET")]
    bucket: u32,

    #[command(flatten)]
    because: Because,
}

#[derive(Debug, clap::Args)]
struct Redact {
    /// The entry's id
    #[arg(value_name = "ENTRY")]
    entry: uuid::Uuid,

    /// Who ordered it, with the reference (kept sealed)
    #[arg(long, value_name = "TEXT")]
    authority: String,

    #[command(flatten)]
    because: Because,
}

#[derive(Debug, clap::Args)]
struct CertificateArgs {
    /// The certificate's id
    #[arg(value_name = "ID")]
    id: String,

    #[command(flatten)]
    look: Look,
}

/// Place, list and lift legal holds
///
/// While a hold covers an entry, nothing of it is disposed of or erased, whatever its retention says.
#[derive(Debug, clap::Args)]
pub struct HoldArgs {
    #[command(subcommand)]
    command: HoldCommand,
}

#[derive(Debug, Subcommand)]
enum HoldCommand {
    /// List all holds (officer, auditor)
    List(Look),
    /// Place a hold (officer); all parts of the scope that are given must hold of an entry
    Place(Box<Place>),
    /// Lift a hold (officer)
    Lift(Lift),
}

#[derive(Debug, clap::Args)]
struct Place {
    /// A name for it, such as the case number
    #[arg(long, value_name = "TEXT")]
    name: String,

    /// Who ordered it: court, counsel, agency, with the reference (kept sealed)
    #[arg(long, value_name = "TEXT")]
    authority: String,

    /// Entries of this patient; the id then stands in the shell's history
    #[arg(long, value_name = "ID", conflicts_with = "patient_file")]
    patient: Option<String>,

    /// A file with the patient's id, alone on a line
    #[arg(long, value_name = "FILE")]
    patient_file: Option<std::path::PathBuf>,

    /// What this user did
    #[arg(long, value_name = "ID")]
    actor: Option<String>,

    /// Records of this type
    #[arg(long, value_name = "TYPE")]
    record_type: Option<String>,

    /// This record; needs --record-type
    #[arg(long, value_name = "ID", requires = "record_type")]
    record_id: Option<String>,

    /// Entries of this category
    #[arg(long, value_name = "NAME")]
    category: Option<String>,

    /// Received from this time on (RFC 3339)
    #[arg(long, value_name = "TIME")]
    from: Option<String>,

    /// Received before this time
    #[arg(long, value_name = "TIME")]
    to: Option<String>,

    #[command(flatten)]
    because: Because,
}

#[derive(Debug, clap::Args)]
struct Lift {
    /// The hold, as `phivault hold list` shows it
    #[arg(value_name = "ID")]
    id: String,

    #[command(flatten)]
    because: Because,
}

/// Does what the subcommand says.
///
/// # Errors
/// What the vault refuses.
pub async fn retention(args: RetentionArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        RetentionCommand::Plan(look) => look.get(&["v1", "retention", "plan"], plan).await?,
        RetentionCommand::Dispose(Dispose { bucket, because }) => {
            return admin::ask(&because, json!({"operation": "dispose", "bucket": bucket})).await;
        }
        RetentionCommand::Redact(Redact { entry, authority, because }) => {
            return admin::ask(&because, json!({"operation": "redact", "entry": entry, "authority": authority})).await;
        }
        RetentionCommand::Certificate(CertificateArgs { id, look }) => {
            let lines =
                |it: &Value| it["text"].as_str().unwrap_or_default().lines().map(terminal::escape).collect::<Vec<_>>();
            look.get(&["v1", "retention", "certificates", &id], |it| lines(it).join("\n")).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Does what the subcommand says.
///
/// # Errors
/// What the vault refuses.
pub async fn hold(args: HoldArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        HoldCommand::List(look) => look.get(&["v1", "holds"], holds).await?,
        HoldCommand::Place(place) => {
            let Place {
                name,
                authority,
                patient,
                patient_file,
                actor,
                record_type,
                record_id,
                category,
                from,
                to,
                because,
            } = *place;
            let patient = match patient_file {
                Some(path) => Some(super::receipt::read(&path)?.trim().to_owned()),
                None => patient,
            };
            let mut scope = serde_json::Map::new();
            let parts =
                [("patient", patient), ("actor", actor), ("record_type", record_type), ("record_id", record_id)];
            for (part, value) in parts.into_iter().chain([("category", category), ("from", from), ("to", to)]) {
                scope.extend(value.map(|it| (part.to_owned(), json!(it))));
            }
            let body = json!({"name": name, "authority": authority, "scope": scope, "reason": because.reason()});
            let answer = because.send(&["v1", "holds"], &body).await?;
            because.show(&answer, placed)?;
        }
        HoldCommand::Lift(Lift { id, because }) => {
            let body = json!({"reason": because.reason()});
            let answer = because.send(&["v1", "holds", &id, "lift"], &body).await?;
            because.show(&answer, |it| format!("The hold {} is lifted.", text(&it["name"])))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn plan(answer: &Value) -> String {
    let day = |value: &Value| value.as_str().map_or("never".to_owned(), |it| moment(it, None));
    let row = |it: &Value| {
        let held: Vec<_> = it["held_by"].as_array().into_iter().flatten().map(text).collect();
        let note = if held.is_empty() { text(&it["certificate"]) } else { format!("held by {}", held.join(", ")) };
        vec![
            text(&it["bucket"]),
            text(&it["class"]),
            day(&it["expires_at"]),
            text(&it["entries"]),
            text(&it["state"]),
            note,
        ]
    };
    let rows: Vec<_> = answer["buckets"].as_array().into_iter().flatten().map(row).collect();
    let table = terminal::table(&["BUCKET", "CLASS", "ENDS", "ENTRIES", "STATE", "HOLDS, OR CERTIFICATE"], &rows, &[5]);
    let due = answer["buckets"].as_array().into_iter().flatten().any(|it| it["state"] == "due");
    let next = if due {
        "An administrator can dispose of what is due: phivault retention dispose BUCKET --reason CODE"
    } else {
        "Nothing is due."
    };
    format!("{table}\n{next}")
}

fn placed(hold: &Value) -> String {
    let covered = hold["covered_when_placed"].as_u64().unwrap_or(0);
    let covers = match covered {
        0 => {
            "ATTENTION: it covers NO entry now, only those to come. Is everything written as the applications write it?"
                .to_owned()
        }
        1 => "It covers 1 entry now, and those to come.".to_owned(),
        n => format!("It covers {n} entries now, and those to come."),
    };
    format!("The hold {} is placed: {}\n{covers}", text(&hold["name"]), text(&hold["id"]))
}

fn holds(answer: &Value) -> String {
    let row = |it: &Value| {
        let scope: Vec<_> = it["scope"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| format!("{name} {}", text(value)))
            .collect();
        let state = if it["lifted_at"].is_null() { "in force" } else { "lifted" };
        let placed = moment(it["placed_at"].as_str().unwrap_or_default(), None);
        let entries = text(&it["covered_when_placed"]);
        let by = text(&it["placed_by"]);
        vec![
            text(&it["id"]),
            text(&it["name"]),
            state.to_owned(),
            scope.join(", "),
            entries,
            placed,
            by,
            text(&it["authority"]),
        ]
    };
    let rows: Vec<_> = answer["holds"].as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        return "There are no holds.".to_owned();
    }
    terminal::table(&["HOLD", "NAME", "STATE", "COVERS", "ENTRIES", "PLACED", "BY", "AUTHORITY"], &rows, &[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_shows_what_is_due_and_what_a_hold_blocks() {
        let answer = json!({"buckets": [
            {"bucket": 2, "class": "standard", "expires_at": "2037-01-01T00:00:00Z", "entries": 12, "state": "held", "held_by": ["case 7\u{1b}"], "certificate": null},
            {"bucket": 1, "class": "permanent", "expires_at": null, "entries": 3, "state": "kept", "held_by": [], "certificate": null}]});
        let text = plan(&answer);
        for part in ["held by case 7", "2037-01-01", "never", "permanent"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains('\u{1b}'));
    }
}
