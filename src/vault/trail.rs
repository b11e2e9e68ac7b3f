//! A patient's trail that can be shown to be complete: each entry names the one before and its running number, so whoever hides
//! one leaves a gap.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::issue::Issue;
use crate::domain::meta::{Meta, Patient};
use crate::domain::rules::identifier;
use crate::ledger::hash::{Hash, leaf_hash};
use crate::ledger::leaf::parse_leaf_data;
use crate::ledger::policy::{Opened, Policy};
use crate::ledger::receipt::TlogProof;

use super::Vault;
use super::error::VaultError;
use super::evidence::leaf_bytes;
use super::record::{Note, searching};
use super::writer::newest_of;

const FORMAT: &str = "phivault-trail/1";
/// The most entries of one trail; a longer one goes on in another.
const MAX_ENTRIES: usize = 1_000;

/// What a trail is asked for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrailIn {
    /// The patient.
    pub patient: Option<String>,
    /// Where to go on: the position that the part before gave as `next`.
    pub before: Option<u64>,
}

/// A patient's own entries, newest first, each with its proof.
#[derive(Serialize, ToSchema)]
pub struct Trail {
    /// phivault-trail/1.
    pub format: &'static str,
    /// The checkpoint that all proofs are for.
    pub checkpoint: String,
    /// The entries.
    pub entries: Vec<TrailEntry>,
    /// Where to go on, if there are older ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// One entry of a trail.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrailEntry {
    /// Its position.
    pub index: u64,
    /// The bytes of its leaf, hex.
    pub leaf_data: String,
    /// Its inclusion proof, hex.
    pub hashes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Claimed {
    format: String,
    checkpoint: String,
    entries: Vec<TrailEntry>,
    next: Option<u64>,
}

/// A trail that holds.
#[derive(Serialize)]
pub struct VerifiedTrail {
    /// How many entries it shows.
    pub entries: usize,
    /// The number of the newest one; there may be newer ones that it does not show.
    pub newest_number: u64,
    /// The number of the oldest one; 1 when it goes back to the beginning.
    pub oldest_number: u64,
    /// Where another part goes on, as the file says; then this is not the whole trail.
    pub goes_on_at: Option<u64>,
    /// The metadata, newest first.
    #[serde(skip)]
    pub metas: Vec<(u64, Meta)>,
    /// The checkpoint and who vouches for it.
    #[serde(skip)]
    pub opened: Opened,
}

impl Vault {
    /// A patient's trail with its proofs. Recorded, with the patient sealed.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `Invalid`, `NotFound` when there is no entry of that patient, or what recording says.
    pub fn trail(&self, caller: &Caller, asked: TrailIn) -> Result<Trail, VaultError> {
        self.allow(caller, Permission::Search, Action::SEARCH)?;
        let missing = || VaultError::Invalid(vec![Issue::new("/patient", "missing", "This field is required here.")]);
        let patient = identifier("/patient", asked.patient.ok_or_else(missing)?).map_err(VaultError::Invalid)?;
        let mut note = Note::new(caller, Action::SEARCH, searching());
        note.seal("filter/patient", patient.clone());
        self.record(note)?;
        let signed = self.ledger.served();
        let mut position = match asked.before {
            Some(before) => before,
            // The newest form first, whatever came last: an entry may have been blinded before a new index key, and placed after.
            None => self.first_chain(&self.patient_forms(&patient), signed.size)?.ok_or(VaultError::NotFound)?,
        };
        let (mut entries, mut form): (Vec<TrailEntry>, Option<Patient>) = (Vec::new(), None);
        let forms = self.patient_forms(&patient);
        let next = loop {
            if entries.len() == MAX_ENTRIES {
                break Some(position);
            }
            if position >= signed.size {
                return Err(VaultError::NotFound);
            }
            let row = self.store.rows(&[position])?.pop().ok_or(VaultError::NotFound)?;
            let meta = super::search::decode(&row)?;
            let of = meta.patient.filter(|it| forms.contains(it) && form.as_ref().is_none_or(|form| form == it));
            form = Some(of.ok_or(VaultError::NotFound)?);
            let hashes = self.ledger.inclusion_in(row.sequence, signed.size)?;
            let hashes = hashes.iter().map(ToString::to_string).collect();
            entries.push(TrailEntry { index: row.sequence, leaf_data: hex::encode(leaf_bytes(&row)), hashes });
            if row.patient_number <= 1 {
                // The chain under this form of the id is whole; an older index key may have another.
                let place = forms.iter().position(|it| Some(it) == form.as_ref()).unwrap_or(forms.len());
                break self.first_chain(forms.get(place + 1..).unwrap_or_default(), signed.size)?;
            }
            position = row.patient_previous;
        };
        Ok(Trail { format: FORMAT, checkpoint: signed.note, entries, next })
    }

    /// The newest entry under the first of these forms of an id that has one.
    fn first_chain(&self, forms: &[Patient], size: u64) -> Result<Option<u64>, VaultError> {
        for form in forms {
            if let Some(row) = newest_of(&*self.store, form, size)? {
                return Ok(Some(row.sequence));
            }
        }
        Ok(None)
    }
}

/// Verifies a trail offline: every entry is in the ledger, they are of one patient, and none is left out between them.
///
/// # Errors
/// A sentence that says what does not hold.
pub fn verify_trail(text: &str, policy: &Policy) -> Result<VerifiedTrail, String> {
    let claimed: Claimed = serde_json::from_str(text).map_err(|_| "this is no trail".to_owned())?;
    if claimed.format != FORMAT || claimed.entries.is_empty() {
        return Err("this is no trail of a format this program knows".into());
    }
    let mut metas: Vec<(u64, Meta)> = Vec::new();
    // The entry before and the running number of each.
    let mut numbers: Vec<(u64, u64)> = Vec::new();
    let mut opened = None;
    for entry in &claimed.entries {
        let place = entry.index;
        let data = hex::decode(&entry.leaf_data).map_err(|_| format!("the leaf of entry {place} is not hex"))?;
        let hashes: Option<Vec<Hash>> = entry.hashes.iter().map(|it| Hash::from_hex(it)).collect();
        let hashes = hashes.ok_or(format!("the proof of entry {place} is not hex"))?;
        let proof = TlogProof { extra: None, index: place, hashes, checkpoint: claimed.checkpoint.clone() };
        opened = Some(proof.verify(&leaf_hash(&data), policy).map_err(|error| format!("entry {place}: {error}"))?);
        let parsed = parse_leaf_data(&data).and_then(|(meta, _, at)| Some((Meta::decode(meta).ok()?, at)));
        let (meta, at) = parsed.ok_or(format!("the leaf of entry {place} is no entry's"))?;
        let of_one = meta.patient.is_some() && metas.last().is_none_or(|(_, newer)| newer.patient == meta.patient);
        if !of_one {
            return Err(format!("entry {place} is not of the same patient"));
        }
        if let Some((previous, number)) = numbers.last()
            && (*previous, number.checked_sub(1)) != (place, Some(at.patient_number))
        {
            return Err(format!(
                "an entry is left out: number {number} follows entry {previous}, and entry {place} is shown"
            ));
        }
        numbers.push((at.patient_previous, at.patient_number));
        metas.push((place, meta));
    }
    let (first, last) = (numbers.first(), numbers.last());
    let number = |it: Option<&(u64, u64)>| it.map_or(0, |(_, number)| *number);
    Ok(VerifiedTrail {
        entries: metas.len(),
        newest_number: number(first),
        oldest_number: number(last),
        goes_on_at: claimed.next,
        metas,
        opened: opened.ok_or("this is no trail")?,
    })
}
