//! Disposal certificates: a signed text that says what was disposed of, how much, by what authority, and where the ledger holds it.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::action::{Action, Outcome};
use crate::domain::caller::{Caller, Permission};
use crate::domain::meta::Meta;
use crate::domain::time::Timestamp;

use super::Vault;
use super::error::VaultError;
use super::record::{Note, default_reason};
use super::search::{decode, entry_record};
use super::writer::find_id;

/// A disposal certificate.
#[derive(Serialize, ToSchema)]
pub struct Certificate {
    /// Its id: that of the entry that records the disposal.
    pub id: Uuid,
    /// A C2SP signed note, signed by the key that signs checkpoints: `phivault verify-receipt` shows that the ledger holds its
    /// entry, this that the vault stands by the words.
    pub text: String,
}

impl Vault {
    /// The certificate of a disposal or redaction. Recorded.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `NotFound`, or what recording says.
    pub fn certificate(&self, caller: &Caller, id: Uuid) -> Result<Certificate, VaultError> {
        self.allow(caller, Permission::SeeRetention, Action::RETENTION_PLAN)?;
        let text = match find_id(&*self.store, id, 0..self.store.size())? {
            Some(row) => {
                let meta = decode(&row)?;
                if ![Action::DISPOSE, Action::REDACT].contains(&meta.action) || meta.outcome != Outcome::Success {
                    return Err(VaultError::NotFound);
                }
                let place = [row.sequence.to_string(), row.leaf.to_string()].join(" ");
                words(&meta, self.origin(), &place, Timestamp(row.received_at))
            }
            None => self.tombstone(id).ok_or(VaultError::NotFound)?,
        };
        let mut note = Note::new(caller, Action::RETENTION_PLAN, default_reason());
        note.record = Some(entry_record(id));
        self.record(note)?;
        let text = self.ledger.sign_text(&text).map_err(|error| VaultError::Integrity(error.to_string()))?;
        Ok(Certificate { id, text })
    }

    /// What the keyring knows of a disposal whose entry is among those that a restored backup lacks.
    fn tombstone(&self, certificate: Uuid) -> Option<String> {
        let ring = self.keys.ring();
        let bucket = ring.buckets().iter().find(|it| it.certificate == Some(*certificate.as_bytes()))?;
        let end = bucket.expires_at.map_or_else(|| "never".to_owned(), |it| it.to_string());
        let lines = [
            "phivault disposal certificate".to_owned(),
            format!("certificate {certificate}"),
            format!("ledger {}", self.origin()),
            "entry in the ledger that this one continues, among those missing since the restore".to_owned(),
            format!("what the values of bucket {}", bucket.id),
            format!("authority retention class {}, ended {end}", bucket.class),
            "the keyring holds its tombstone, and no secret; metadata, commitments and proofs remain".to_owned(),
        ];
        Some(lines.join("\n") + "\n")
    }
}

/// The text: one fact a line. Its first line is no name of a ledger, so that it can never be taken for a checkpoint.
fn words(meta: &Meta, origin: &str, place: &str, at: Timestamp) -> String {
    let mut lines = vec![
        "phivault disposal certificate".to_owned(),
        format!("certificate {}", meta.id),
        format!("ledger {origin}"),
        format!("entry {place}"),
        format!("recorded {at}"),
    ];
    if meta.action == Action::REDACT {
        let entry = meta.record.as_ref().map_or("unknown", |it| it.id.as_str());
        lines.push(format!("what the values of entry {entry}"));
        lines.push("authority an order, sealed with the entry".to_owned());
        let until = meta.fact("undoable_until").unwrap_or("unknown");
        lines.push(format!("backups of the database may undo it until {until}"));
    } else {
        let fact = |name| meta.fact(name).unwrap_or("unknown");
        lines.push(format!("what the values of bucket {}", fact("bucket")));
        lines.push(format!("entries {}", fact("entries")));
        lines.push(format!("authority retention class {}, ended {}", fact("class"), fact("expired_at")));
        lines.push(format!("backups of the keyring may undo it until {}", fact("undoable_until")));
    }
    match meta.fact("requested_by") {
        Some(asked) => lines.push(format!("requested by {asked}")),
        None => lines.push("approval by a second administrator was switched off".to_owned()),
    }
    lines.push(format!("done by {}", meta.actor.id));
    lines.push("metadata, commitments and proofs remain".to_owned());
    lines.join("\n") + "\n"
}
