//! The key of state rows (tokens, approvals, holds, …): a new one, and every row under it, in one commit.

use std::sync::PoisonError;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::submission::ReasonIn;
use crate::store::StateRow;

use super::error::VaultError;
use super::record::Note;
use super::standing::{STATE_DIGESTS, digest_of};
use super::writer::own_meta;
use super::{Vault, approval, book, hold, login, reporting, restoring};

/// Rows that one entry commits to; its metadata must stay under 65,536 bytes.
const ROWS_AN_ENTRY: usize = 256;

/// What changing the state key did.
#[derive(Serialize, ToSchema)]
pub struct StateRotated {
    /// State rows that are under the new key.
    pub rows: usize,
    /// The generation of the keyring file.
    pub keyring_generation: u64,
    /// The entry that records it.
    pub recorded_as: Uuid,
}

impl Vault {
    /// Makes a new key for state rows and one for cursors, at once. The rows are written from what the vault holds in memory,
    /// which it believed when it started, so a row that somebody altered since is not made genuine. The key before opens rows of
    /// restored backups only, as long as those are kept; open cursors end.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `Invalid` without a reason, or what writing says.
    pub fn rotate_state_key(&self, caller: &Caller, reason: ReasonIn) -> Result<StateRotated, VaultError> {
        self.allow(caller, Permission::RotateKeys, Action::KEY_STATE)?;
        let reason = self.reason(caller, Action::KEY_STATE, reason)?;
        // With all of these no row can change meanwhile. Whoever needs more than one of them takes them in this order.
        let _deciding = self.deciding.lock().unwrap_or_else(PoisonError::into_inner);
        let _tokens = self.changing_tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let (holds, approvals, plans) = (self.holds(), self.read_approvals(), self.read_plans());
        let (reports, logins) = (self.read_reports(), self.logins());
        let change = self.changing_keys();
        let now = self.clock.now();
        let kept_since = now.plus_seconds(-self.settings.keyring_backup_days * 86_400);
        let after = self.keys.ring().with_state_key(now, kept_since);
        let mut rows: Vec<StateRow> = self.read_tokens().rows(&after).collect();
        rows.extend(approvals.iter().map(|(id, it)| book::row(&after, approval::KIND, id, it)));
        rows.extend(plans.iter().map(|(id, it)| book::row(&after, restoring::KIND, id, it)));
        rows.extend(reports.iter().map(|(id, it)| book::row(&after, reporting::KIND, id, it)));
        rows.extend(holds.iter().map(|(id, it)| book::row(&after, hold::KIND, id, it)));
        rows.extend(logins.iter().map(|(id, it)| book::row(&after, login::KIND, id, it)));
        let count = rows.len();
        let mut note = Note::new(caller, Action::KEY_STATE, reason);
        note.facts.push(("rows".into(), count.to_string()));
        for part in rows.chunks(ROWS_AN_ENTRY) {
            let digest = |row: &StateRow| (format!("{STATE_DIGESTS}{}/{}", row.kind, row.id), digest_of(row));
            let mut facts: Vec<_> = part.iter().map(digest).collect();
            facts.sort();
            note.also.push(own_meta(Action::KEY_STATE, facts));
        }
        note.state = rows;
        let keyring_generation = after.generation();
        let recorded_as = self.change_keyring(change, note, after)?;
        Ok(StateRotated { rows: count, keyring_generation, recorded_as })
    }
}
