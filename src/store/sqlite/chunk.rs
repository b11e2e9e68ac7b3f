//! Chunks of postings: the terms of one segment and dimension by rising key, each with its positions, cut to fit a page.

use super::super::StoreError;

/// The most bytes of a chunk; with their row headers two fit into one page of 8,192 bytes.
pub(super) const MAX_BYTES: usize = 4_000;
/// Key and count in front of positions.
const GROUP_BYTES: usize = 8 + 2;

/// A chunk and the first key in it.
pub(super) struct Chunk {
    pub(super) first: u64,
    pub(super) bytes: Vec<u8>,
}

/// Cuts sorted groups of (key, positions) into chunks. A group that does not fit goes on in the next chunk.
pub(super) fn cut<'a>(groups: impl Iterator<Item = (u64, &'a [u16])>) -> Vec<Chunk> {
    let mut out: Vec<Chunk> = Vec::new();
    for (key, mut positions) in groups {
        while !positions.is_empty() {
            let room = out.last().map_or(0, |it| MAX_BYTES.saturating_sub(it.bytes.len() + GROUP_BYTES) / 2);
            if room == 0 {
                out.push(Chunk { first: key, bytes: Vec::with_capacity(MAX_BYTES) });
                continue;
            }
            let (now, later) = positions.split_at(positions.len().min(room));
            let chunk = out.last_mut().expect("a chunk with room was found");
            chunk.bytes.extend_from_slice(&key.to_be_bytes());
            chunk
                .bytes
                .extend_from_slice(&u16::try_from(now.len()).expect("a chunk holds fewer than 2,000").to_be_bytes());
            now.iter().for_each(|position| chunk.bytes.extend_from_slice(&position.to_be_bytes()));
            positions = later;
        }
    }
    out
}

/// Calls `each` with every group of a chunk.
pub(super) fn groups(
    mut bytes: &[u8],
    each: &mut dyn FnMut(u64, &mut dyn Iterator<Item = u16>),
) -> Result<(), StoreError> {
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at_checked(GROUP_BYTES).ok_or_else(corrupt)?;
        let key = u64::from_be_bytes(head[..8].try_into().expect("eight bytes of a checked head"));
        let count = usize::from(u16::from_be_bytes(head[8..].try_into().expect("two bytes of a checked head")));
        let (body, rest) = rest.split_at_checked(count * 2).ok_or_else(corrupt)?;
        each(key, &mut body.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])));
        bytes = rest;
    }
    Ok(())
}

fn corrupt() -> StoreError {
    StoreError::Corrupt("a chunk of the index is cut".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_come_back_whole_however_they_are_cut() {
        let groups: Vec<(u64, Vec<u16>)> = (0..300_u16).map(|n| (u64::from(n) * 7, (0..n * 11).collect())).collect();
        let chunks = cut(groups.iter().map(|(key, positions)| (*key, positions.as_slice())));
        assert!(chunks.len() > 10 && chunks.iter().all(|it| it.bytes.len() <= MAX_BYTES));
        assert!(chunks.is_sorted_by_key(|it| it.first));
        let mut again: Vec<(u64, Vec<u16>)> = Vec::new();
        for chunk in &chunks {
            super::groups(&chunk.bytes, &mut |key, positions| match again.last_mut() {
                Some((last, all)) if *last == key => all.extend(positions),
                _ => again.push((key, positions.collect())),
            })
            .unwrap();
        }
        let wanted: Vec<_> = groups.into_iter().filter(|(_, positions)| !positions.is_empty()).collect();
        assert_eq!(again, wanted);
        assert!(super::groups(&chunks[0].bytes[..15], &mut |_, _| {}).is_err());
    }
}
