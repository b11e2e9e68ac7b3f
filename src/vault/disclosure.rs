//! Showing one value to somebody outside, checkable against the ledger, and nothing else: selective disclosure.
//!
//! A disclosure holds the entry's leaf (metadata, and the commitment to all values), the commitments to each value, and for the
//! values shown their salts. Without its salt a commitment cannot be guessed, so the other values stay closed.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::crypto::seal;
use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::entry::{EntryView, Open, Place};
use crate::domain::issue::Issue;
use crate::domain::meta::Meta;
use crate::domain::submission::ReasonIn;
use crate::domain::time::Timestamp;
use crate::domain::value::Phi;
use crate::ledger::hash::leaf_hash;
use crate::ledger::leaf::parse_leaf_data;
use crate::ledger::policy::{Opened, Policy};
use crate::ledger::receipt::TlogProof;

use super::Vault;
use super::blinding::unblind;
use super::error::VaultError;
use super::evidence::leaf_bytes;
use super::record::Note;
use super::reveal::name_patients;
use super::search::{decode, entry_record};
use super::writer::find_id;

const FORMAT: &str = "phivault-disclosure/1";
/// The most values of one disclosure.
const MAX_PATHS: usize = 100;

/// A disclosure, as it is handed over.
#[derive(Serialize, ToSchema)]
pub struct Disclosure {
    /// phivault-disclosure/1.
    pub format: &'static str,
    /// The entry.
    pub id: Uuid,
    /// The bytes of its leaf, hex.
    pub leaf_data: String,
    /// The commitments to its values by rising path, and to the blinder, hex.
    pub commitments: Vec<String>,
    /// The values shown.
    pub disclosed: Vec<Disclosed>,
    /// The receipt that the leaf is in the ledger (C2SP tlog-proof).
    pub receipt: String,
}

/// One value that is shown.
#[derive(Serialize, ToSchema)]
pub struct Disclosed {
    /// Its place among the commitments.
    pub position: usize,
    /// Its path, such as changes/000/new or note.
    pub path: String,
    /// The salt of its commitment, hex.
    pub salt: String,
    /// The value.
    #[schema(value_type = serde_json::Value)]
    pub value: Open,
}

/// A disclosure as somebody else hands it over: nothing in it is to be believed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Claimed {
    format: String,
    id: Uuid,
    leaf_data: String,
    commitments: Vec<String>,
    disclosed: Vec<ClaimedValue>,
    receipt: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClaimedValue {
    position: usize,
    path: String,
    salt: String,
    value: Phi,
}

/// A disclosure that holds.
#[derive(Serialize)]
pub struct Verified {
    /// The metadata, as the ledger holds them.
    pub entry: EntryView,
    /// The paths and values that were shown.
    pub values: Vec<(String, Open)>,
    /// How many values the entry holds beside them, which stay closed.
    pub closed: usize,
    /// The checkpoint and who vouches for it.
    #[serde(skip)]
    pub opened: Opened,
}

impl Vault {
    /// Makes a disclosure of some values of an entry. A reveal like any other: recorded first.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `Invalid`, `NotFound`, `Shredded`, `Integrity`, or what recording says.
    pub fn disclose(
        &self,
        caller: &Caller,
        id: Uuid,
        paths: &[String],
        reason: ReasonIn,
    ) -> Result<Disclosure, VaultError> {
        self.allow(caller, Permission::Reveal, Action::REVEAL)?;
        let reason = self.reason(caller, Action::REVEAL, reason)?;
        let wrong = |code, detail: String| VaultError::Invalid(vec![Issue::new("/paths", code, detail)]);
        if !(1..=MAX_PATHS).contains(&paths.len()) {
            return Err(wrong("too_many", format!("Name 1 to {MAX_PATHS} paths, such as changes/0/new or note.")));
        }
        let row = find_id(&*self.store, id, 0..self.store.size())?.ok_or(VaultError::NotFound)?;
        let meta = decode(&row)?;
        let (commitments, shown) = self.open_for_disclosure(&row, &meta)?;
        let mut wanted: Vec<String> = paths.iter().map(|path| stored_path(path)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.iter().any(|path| !shown.iter().any(|it| it.item.path == *path)) {
            return Err(wrong("path_unknown", "This entry holds no value at one of these paths.".into()));
        }
        let receipt = self.receipt(row.sequence)?;
        let mut items: Vec<_> = shown.iter().map(|it| it.item.clone()).collect();
        let mut clear = meta.clone();
        unblind(&mut clear, &mut items);
        let mut note = Note::new(caller, Action::REVEAL, reason);
        name_patients(&mut note, meta.patients().zip(clear.patients().map(|it| it.id_text())).collect())?;
        note.record = Some(entry_record(id));
        note.facts.push(("disclosed_values".into(), wanted.len().to_string()));
        note.seal("paths", wanted.join(" "));
        self.record(note)?;
        let disclosed = shown.into_iter().filter(|it| wanted.contains(&it.item.path)).map(|it| Disclosed {
            position: it.position,
            path: it.item.path.clone(),
            salt: hex::encode(it.salt),
            value: Open::new(it.item.value),
        });
        Ok(Disclosure {
            format: FORMAT,
            id,
            leaf_data: hex::encode(leaf_bytes(&row)),
            commitments: commitments.iter().map(hex::encode).collect(),
            disclosed: disclosed.collect(),
            receipt,
        })
    }
}

/// `changes/0/new` and `/changes/0/new` mean what is stored as `changes/000/new`.
fn stored_path(path: &str) -> String {
    let path = path.trim_start_matches('/');
    let mut parts: Vec<String> = path.split('/').map(str::to_owned).collect();
    if let [first, number, _] = parts.as_mut_slice()
        && first == "changes"
        && let Ok(n) = number.parse::<u16>()
    {
        *number = format!("{n:03}");
    }
    parts.join("/")
}

/// Verifies a disclosure offline.
///
/// # Errors
/// A sentence that says what does not hold.
pub fn verify_disclosure(text: &str, policy: &Policy) -> Result<Verified, String> {
    let claimed: Claimed = serde_json::from_str(text).map_err(|_| "this is no disclosure".to_owned())?;
    if claimed.format != FORMAT {
        return Err("this is no disclosure of a format this program knows".into());
    }
    let data = hex::decode(&claimed.leaf_data).map_err(|_| "its leaf is not hex".to_owned())?;
    let receipt = TlogProof::parse(&claimed.receipt).map_err(|error| error.to_string())?;
    let opened = receipt.verify(&leaf_hash(&data), policy).map_err(|error| error.to_string())?;
    let (meta, commitment, sequenced) = parse_leaf_data(&data).ok_or("its leaf is no entry's")?;
    let meta = Meta::decode(meta).map_err(|_| "its leaf is no entry's".to_owned())?;
    if meta.id != claimed.id {
        return Err("its id is not the one of its leaf".into());
    }
    let mut places: Vec<usize> = claimed.disclosed.iter().map(|it| it.position).collect();
    places.sort_unstable();
    places.dedup();
    if places.is_empty() || places.len() != claimed.disclosed.len() {
        return Err("it shows no value, or one twice".into());
    }
    let array = |text: &String| hex::decode(text).ok().and_then(|it| <[u8; 32]>::try_from(it).ok());
    let commitments: Option<Vec<[u8; 32]>> = claimed.commitments.iter().map(array).collect();
    let commitments = commitments.ok_or("a commitment is not 32 bytes of hex")?;
    if seal::commit_all(&commitments) != commitment {
        return Err("its commitments are not those of the leaf".into());
    }
    let mut values = Vec::new();
    for shown in claimed.disclosed {
        let salt = array(&shown.salt).ok_or("a salt is not 32 bytes of hex")?;
        let wanted = commitments.get(shown.position).ok_or("a value has no place among the commitments")?;
        if seal::commit_one(&salt, &shown.path, &shown.value) != *wanted {
            return Err(format!("the value at {:?} is not the one the ledger committed to", shown.path));
        }
        values.push((shown.path, Open::new(shown.value)));
    }
    let place = Place {
        sequence: receipt.index,
        received_at: Timestamp(sequenced.received_at),
        patient_previous: sequenced.patient_previous,
        patient_number: sequenced.patient_number,
    };
    // The blinder is among the commitments and is no value.
    let closed = commitments.len().saturating_sub(1 + values.len());
    let entry = EntryView::new(&meta, place, leaf_hash(&data).to_string(), 0, &[]);
    Ok(Verified { entry, values, closed, opened })
}
