//! Bearer tokens: `phv_`, 32 random bytes and a checksum, in hex. The vault keeps only the SHA-256 of a token.

use std::fmt;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

const PREFIX: &str = "phv_";

/// A token as its holder has it.
pub struct PlainToken(Zeroizing<String>);

/// What is stored of a token. A fast hash is enough because a token has 256 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HashedToken(pub [u8; 32]);

impl PlainToken {
    /// A fresh token.
    pub fn generate() -> Self {
        let secret = Zeroizing::new(super::random::array::<32>());
        let body = Zeroizing::new(hex::encode(*secret));
        Self(Zeroizing::new(format!("{PREFIX}{}{}", *body, checksum(&body))))
    }

    /// Reads a token; the checksum catches a mistyped or cut one before anything is looked up.
    pub fn parse(text: &str) -> Option<Self> {
        let body = text.strip_prefix(PREFIX)?;
        let (secret, sum) = body.split_at_checked(64)?;
        let hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        (hex(secret) && checksum(secret) == sum).then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// What the vault keeps.
    pub fn hashed(&self) -> HashedToken {
        HashedToken(Sha256::digest(self.0.as_bytes()).into())
    }

    /// The text, to be shown once to its holder.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PlainToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainToken([redacted])")
    }
}

impl fmt::Debug for HashedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashedToken")
    }
}

fn checksum(body: &str) -> String {
    hex::encode(&Sha256::digest(body.as_bytes())[..4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_a_token_nor_its_hash_is_ever_printed() {
        let token = PlainToken::generate();
        assert_eq!(format!("{token:?} {:?}", token.hashed()), "PlainToken([redacted]) HashedToken");
    }

    #[test]
    fn a_token_reads_back_and_a_damaged_one_does_not() {
        let token = PlainToken::generate();
        assert_eq!(PlainToken::parse(token.expose()).unwrap().hashed(), token.hashed());
        let text = token.expose();
        for bad in
            [&text[..text.len() - 1], &text[1..], "", "phv_", &text.to_uppercase(), &text.replace("phv_", "phv-")]
        {
            assert!(PlainToken::parse(bad).is_none());
        }
        let mut flipped = text.to_owned().into_bytes();
        flipped[10] = if flipped[10] == b'0' { b'1' } else { b'0' };
        assert!(PlainToken::parse(std::str::from_utf8(&flipped).unwrap()).is_none());
        assert_eq!(format!("{token:?}"), "PlainToken([redacted])");
    }
}
