//! What stands at a point of the ledger beside its entries: the newest keyring, and the newest form of each state row.
//!
//! Entries say what changes (a token is made, a keyring written); each seal entry says what stands after all changes before
//! it. A commit that changes anything ends with a seal entry, so the newest seal entry alone tells a start what to believe,
//! without the index, which somebody with the disk could have altered.

use std::collections::BTreeMap;

use crate::crypto::{label, mac};
use crate::domain::action::{Action, Kind, Outcome};
use crate::domain::meta::Meta;
use crate::store::StateRow;

/// The fact that names a keyring file: in the entry that records it, and in each seal entry after.
pub(super) const KEYRING_DIGEST: &str = "keyring_digest";
/// Which generation of the keyring that is.
pub(super) const KEYRING_GENERATION: &str = "keyring_generation";
/// The fact that names the ledger: the origin of its checkpoints.
pub(super) const LEDGER: &str = "ledger";
/// The fact that names the key that signs it.
pub(super) const VERIFIER_KEY: &str = "verifier_key";
/// The fact that says whether patient ids are blinded on disk: `plain` or `blind`.
pub(super) const PATIENT_IDS: &str = "patient_ids";
/// The fact by which an entry commits to one state row.
pub(super) const STATE_DIGEST: &str = "state_digest";
/// With kind and id behind it, the fact by which an entry commits to one of many state rows.
pub(super) const STATE_DIGESTS: &str = "state_digest/";
/// The fact by which a seal entry commits to all state rows.
pub(super) const STATE_ROOT: &str = "state_root";

/// The kinds of state rows.
pub(super) const KINDS: [&str; 6] = ["token", "approval", "hold", "restore", "report", "login"];

/// What stands.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Standing {
    /// Digest and generation of the keyring.
    pub(super) keyring: (String, String),
    /// The ledger's name and the key that signs it.
    pub(super) ledger: (String, String),
    /// Whether patient ids are blinded on disk; empty before the first start.
    pub(super) patient_ids: String,
    /// The digest of each state row, by kind and id.
    rows: BTreeMap<(String, String), String>,
}

impl Standing {
    /// What stands when a seal entry states this and these are the state rows.
    pub(super) fn of_rows<'a>(seal: &Meta, rows: impl IntoIterator<Item = &'a StateRow>) -> Self {
        let fact = |name| seal.fact(name).unwrap_or_default().to_owned();
        let rows = rows.into_iter().map(|row| ((row.kind.clone(), row.id.clone()), digest_of(row)));
        Self {
            keyring: (fact(KEYRING_DIGEST), fact(KEYRING_GENERATION)),
            ledger: (fact(LEDGER), fact(VERIFIER_KEY)),
            patient_ids: fact(PATIENT_IDS),
            rows: rows.collect(),
        }
    }

    /// Takes in what an entry changes; whether it changes anything, so that a seal entry must follow.
    pub(super) fn apply(&mut self, meta: &Meta) -> bool {
        if meta.outcome != Outcome::Success {
            return false;
        }
        if meta.action.kind() != Kind::Vault || meta.action == Action::SEAL {
            return false;
        }
        let mut changes = false;
        let mut set = |place: &mut String, name| {
            if let Some(value) = meta.fact(name).filter(|value| *value != place.as_str()) {
                value.clone_into(place);
                changes = true;
            }
        };
        set(&mut self.keyring.0, KEYRING_DIGEST);
        set(&mut self.keyring.1, KEYRING_GENERATION);
        set(&mut self.ledger.0, LEDGER);
        set(&mut self.ledger.1, VERIFIER_KEY);
        set(&mut self.patient_ids, PATIENT_IDS);
        if let (Some(record), Some(digest)) = (&meta.record, meta.fact(STATE_DIGEST)) {
            self.rows.insert((record.kind.to_lowercase(), record.id.clone()), digest.to_owned());
            changes = true;
        }
        for (name, digest) in &meta.facts {
            if let Some((kind, id)) = name.strip_prefix(STATE_DIGESTS).and_then(|it| it.split_once('/')) {
                self.rows.insert((kind.to_owned(), id.to_owned()), digest.clone());
                changes = true;
            }
        }
        // Entry 0 is not followed by a seal entry: the first start sees to that.
        changes && meta.action != Action::VAULT_CREATE
    }

    /// Whether an entry may say something about what stands.
    pub(super) fn concerns(meta: &Meta<&str>) -> bool {
        meta.action.kind() == Kind::Vault
            && meta.facts.iter().any(|(name, _)| {
                [KEYRING_DIGEST, VERIFIER_KEY, PATIENT_IDS, STATE_DIGEST].contains(name)
                    || name.starts_with(STATE_DIGESTS)
            })
    }

    /// Whether the newest form of a state row is this one.
    pub(super) fn holds(&self, row: &StateRow) -> bool {
        self.rows.get(&(row.kind.clone(), row.id.clone())).is_some_and(|digest| *digest == digest_of(row))
    }

    /// The digest that a state row should have.
    pub(super) fn of(&self, kind: &str, id: &str) -> Option<&str> {
        self.rows.get(&(kind.to_owned(), id.to_owned())).map(String::as_str)
    }

    /// Kind and id of every state row there should be.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&str, &str)> {
        self.rows.keys().map(|(kind, id)| (kind.as_str(), id.as_str()))
    }

    /// One digest over all state rows.
    pub(super) fn state_root(&self) -> String {
        let parts: Vec<&[u8]> = self
            .rows
            .iter()
            .flat_map(|((kind, id), digest)| [kind.as_bytes(), id.as_bytes(), digest.as_bytes()])
            .collect();
        hex::encode(mac::digest(label::STATE_ROOT, &parts))
    }

    /// What a seal entry states, by rising name.
    pub(super) fn facts(&self) -> Vec<(String, String)> {
        vec![
            (KEYRING_DIGEST.to_owned(), self.keyring.0.clone()),
            (KEYRING_GENERATION.to_owned(), self.keyring.1.clone()),
            (LEDGER.to_owned(), self.ledger.0.clone()),
            (PATIENT_IDS.to_owned(), self.patient_ids.clone()),
            (STATE_ROOT.to_owned(), self.state_root()),
            (VERIFIER_KEY.to_owned(), self.ledger.1.clone()),
        ]
    }
}

/// The digest of a state row, its tag included.
pub(super) fn digest_of(row: &StateRow) -> String {
    hex::encode(mac::digest(label::STATE_DIGEST, &[row.kind.as_bytes(), row.id.as_bytes(), &row.body, &row.tag]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::meta::Record;
    use crate::vault::writer::own_meta;

    fn row(id: &str, body: &[u8]) -> StateRow {
        StateRow { kind: "token".into(), id: id.into(), body: body.to_vec(), tag: vec![7; 32] }
    }

    fn about(row: &StateRow, outcome: Outcome) -> Meta {
        let mut meta = own_meta(Action::TOKEN_CREATE, vec![(STATE_DIGEST.into(), digest_of(row))]);
        meta.record = Some(Record::new("Token", &row.id));
        Meta { outcome, ..meta }
    }

    #[test]
    fn entries_and_rows_come_to_the_same() {
        let rows = [row("a", b"1"), row("b", b"2")];
        let mut standing = Standing::default();
        assert!(standing.apply(&about(&rows[1], Outcome::Success)));
        assert!(standing.apply(&about(&row("a", b"0"), Outcome::Success)));
        assert!(standing.apply(&about(&rows[0], Outcome::Success)));
        assert_eq!(standing, Standing::of_rows(&own_meta(Action::SEAL, Vec::new()), &rows));
        assert!(standing.holds(&rows[0]) && !standing.holds(&row("a", b"0")));
    }

    #[test]
    fn a_denied_change_changes_nothing() {
        let mut standing = Standing::default();
        assert!(!standing.apply(&about(&row("a", b"1"), Outcome::Denied)));
        assert_eq!(standing, Standing::default());
    }

    #[test]
    fn every_part_of_a_row_counts() {
        let none = own_meta(Action::SEAL, Vec::new());
        let root = |row: StateRow| Standing::of_rows(&none, [&row]).state_root();
        let base = root(row("a", b"1"));
        assert_ne!(base, root(row("b", b"1")));
        assert_ne!(base, root(row("a", b"2")));
        assert_ne!(base, root(StateRow { tag: vec![8; 32], ..row("a", b"1") }));
        assert_ne!(base, root(StateRow { kind: "user".into(), ..row("a", b"1") }));
        assert_ne!(base, Standing::default().state_root());
    }
}
