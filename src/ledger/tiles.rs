//! Names of tiles as they are served (C2SP tlog-tiles): level, index in groups of three digits, width of a partial one.

use super::tree::TILE_WIDTH;

/// The highest level a tile can have.
const MAX_LEVEL: u8 = 63;

/// Which tile, and how much of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TileName {
    /// Level, 0 for leaf hashes.
    pub level: u8,
    /// Position among the tiles of its level.
    pub index: u64,
    /// Hashes in it: 256, or fewer for a partial tile.
    pub width: usize,
}

impl TileName {
    /// Reads what follows `/tile/`; only the one way the specification writes it.
    pub fn parse(path: &str) -> Option<Self> {
        let (level, rest) = path.split_once('/')?;
        let level = decimal(level).filter(|it| *it <= u64::from(MAX_LEVEL))?;
        let (index, width) = match rest.split_once(".p/") {
            Some((index, width)) => (index, decimal(width).filter(|it| (1..TILE_WIDTH as u64).contains(it))?),
            None => (rest, TILE_WIDTH as u64),
        };
        let groups: Vec<&str> = index.split('/').collect();
        let (last, firsts) = groups.split_last()?;
        let mut number: u64 = 0;
        for group in firsts.iter().map(|it| it.strip_prefix('x')).chain([Some(*last)]) {
            number = number.checked_mul(1_000)?.checked_add(group?.parse().ok()?)?;
        }
        let name = Self { level: u8::try_from(level).ok()?, index: number, width: usize::try_from(width).ok()? };
        // Signs, missing digits, leading groups of zeros: no tile has two names.
        (name.to_string() == path).then_some(name)
    }
}

impl std::fmt::Display for TileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/", self.level)?;
        let mut groups = vec![format!("{:03}", self.index % 1_000)];
        let mut rest = self.index / 1_000;
        while rest > 0 {
            groups.push(format!("x{:03}", rest % 1_000));
            rest /= 1_000;
        }
        groups.reverse();
        f.write_str(&groups.join("/"))?;
        if self.width < TILE_WIDTH { write!(f, ".p/{}", self.width) } else { Ok(()) }
    }
}

fn decimal(text: &str) -> Option<u64> {
    text.parse::<u64>().ok().filter(|it| it.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for (text, level, index, width) in [
            ("0/000", 0, 0, 256),
            ("1/x001/234", 1, 1_234, 256),
            ("0/x001/x234/067", 0, 1_234_067, 256),
            ("2/999.p/1", 2, 999, 1),
            ("63/x018/x446/x744/x073/x709/x551/615.p/255", 63, u64::MAX, 255),
        ] {
            let name = TileName { level, index, width };
            assert_eq!(TileName::parse(text), Some(name));
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn other_names_are_none() {
        for text in [
            "",
            "0",
            "0/",
            "/000",
            "0/0",
            "0/00",
            "0/0000",
            "0/x000",
            "0/x000/001",
            "00/000",
            "64/000",
            "+1/000",
            "0/001/002",
            "0/x001/x002",
            "0/000.p/0",
            "0/000.p/256",
            "0/000.p/01",
            "0/000.p/",
            "0/000.p/+1",
            "0/000/.p/1",
            "-1/000",
            "0/x999/x999/x999/x999/x999/x999/999",
            "0/000 ",
            "0/٠٠٠",
            "entries/000",
        ] {
            assert_eq!(TileName::parse(text), None, "{text:?}");
        }
    }
}
