//! State that is not the ledger and may name patients or people: approvals and holds. Each is a row, sealed and authenticated
//! under the state key, and tied to the entry that last changed it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::crypto::keyring::Keyring;
use crate::crypto::{boxed, label, mac};
use crate::store::StateRow;

use super::standing::Standing;

/// The row of a thing.
pub(super) fn row<T: Serialize>(ring: &Keyring, kind: &str, id: &str, thing: &T) -> StateRow {
    let json = zeroize::Zeroizing::new(serde_json::to_vec(thing).expect("it is made of text and numbers"));
    let body = boxed::seal(ring.state_key(), label::STATE_BODY, &place(kind, id), &json);
    tagged(ring, kind, id, body)
}

/// A state row with its tag.
pub(super) fn tagged(ring: &Keyring, kind: &str, id: &str, body: Vec<u8>) -> StateRow {
    let mut row = StateRow { kind: kind.to_owned(), id: id.to_owned(), body, tag: Vec::new() };
    row.tag = mac::tag(ring.state_key(), label::STATE, &parts(&row)).to_vec();
    row
}

/// Whether the tag of a state row is the right one. Rows of a restored backup may be under a former key; that they are the newest
/// is the ledger's to say.
pub(super) fn is_authentic(ring: &Keyring, row: &StateRow) -> bool {
    ring.state_keys().any(|key| mac::verify(key, label::STATE, &parts(row), &row.tag))
}

/// All things of a kind that are authentic and the newest the ledger knows; and how many rows are not.
pub(super) fn load<T: DeserializeOwned>(
    rows: &[StateRow],
    kind: &str,
    standing: &Standing,
    ring: &Keyring,
) -> (BTreeMap<String, T>, u64) {
    let (mut things, mut untrusted) = (BTreeMap::new(), 0);
    for row in rows.iter().filter(|row| row.kind == kind) {
        let authentic = is_authentic(ring, row) && standing.holds(row);
        let mut keys = ring.state_keys();
        let opened = keys.find_map(|key| boxed::open(key, label::STATE_BODY, &place(kind, &row.id), &row.body));
        let thing = opened.and_then(|json| serde_json::from_slice(&json).ok());
        match thing {
            Some(thing) if authentic => drop(things.insert(row.id.clone(), thing)),
            None if authentic => {
                untrusted += 1;
                tracing::error!(kind, id = %row.id, "a state row is genuine but does not read; it was written by another version");
            }
            _ => {
                untrusted += 1;
                tracing::error!(kind, id = %row.id, "a state row in the database is not authentic or not the newest; it is refused");
            }
        }
    }
    let gone = |(of, id): &(&str, &str)| *of == kind && !rows.iter().any(|row| row.kind == kind && row.id == *id);
    for (_, id) in standing.rows().filter(gone) {
        untrusted += 1;
        tracing::error!(kind, id, "a state row that the ledger records is gone from the database");
    }
    (things, untrusted)
}

/// What the tag of a state row covers.
fn parts(row: &StateRow) -> [&[u8]; 3] {
    [row.kind.as_bytes(), row.id.as_bytes(), &row.body]
}

fn place(kind: &str, id: &str) -> Vec<u8> {
    [kind.as_bytes(), b"/", id.as_bytes()].concat()
}
