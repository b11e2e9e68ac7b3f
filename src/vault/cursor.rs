//! Cursors: where a paged search goes on, in a text that only its vault can write and only its asker can use.

use uuid::Uuid;

use crate::crypto::secret::Secret;
use crate::crypto::{label, mac};

/// Version, order, position, bound, id of the recording entry, tag.
const BYTES: usize = 1 + 1 + 8 + 8 + 16 + 32;
const VERSION: u8 = 1;

/// Where a walk stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Walk {
    /// The next position to look at.
    pub position: u64,
    /// Entries at or beyond this came after the first page and are not part of the answer.
    pub bound: u64,
    /// The entry that recorded the query.
    pub recorded: Uuid,
}

impl Walk {
    /// The cursor, under a key and bound to what it belongs to: token and filter.
    pub fn encode(&self, key: &Secret, oldest_first: bool, of: &[&[u8]; 2]) -> String {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(&[VERSION, u8::from(oldest_first)]);
        bytes.extend_from_slice(&self.position.to_be_bytes());
        bytes.extend_from_slice(&self.bound.to_be_bytes());
        bytes.extend_from_slice(self.recorded.as_bytes());
        let tag = mac::tag(key, label::CURSOR, &[of[0], of[1], &bytes]);
        bytes.extend_from_slice(&tag);
        hex::encode(bytes)
    }

    /// Reads a cursor; nothing if it was not written under this key for the same token, filter and order.
    pub fn decode(text: &str, key: &Secret, oldest_first: bool, of: &[&[u8]; 2]) -> Option<Self> {
        let bytes = hex::decode(text).ok().filter(|it| it.len() == BYTES)?;
        let (body, tag) = bytes.split_at(BYTES - 32);
        if !mac::verify(key, label::CURSOR, &[of[0], of[1], body], tag)
            || body[..2] != [VERSION, u8::from(oldest_first)]
        {
            return None;
        }
        let number = |at: usize| Some(u64::from_be_bytes(body.get(at..at + 8)?.try_into().ok()?));
        Some(Self { position: number(2)?, bound: number(10)?, recorded: Uuid::from_slice(body.get(18..34)?).ok()? })
    }
}
