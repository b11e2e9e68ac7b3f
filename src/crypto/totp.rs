//! One-time codes of an authenticator (TOTP, RFC 6238): SHA-1, six digits, thirty seconds, which is what all of them understand.

use data_encoding::BASE32_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::random;

/// Seconds that a code holds.
const STEP_SECONDS: i64 = 30;
/// Steps that a clock may be off, to both sides.
const DRIFT: i64 = 1;

/// The secret that an authenticator shares with the vault.
#[derive(Clone)]
pub struct TotpSecret(Zeroizing<[u8; 20]>);

impl TotpSecret {
    /// A fresh one: 160 bits, as RFC 4226 advises (section 4, R6).
    pub fn generate() -> Self {
        Self(Zeroizing::new(random::array()))
    }

    /// Base32, as authenticators take it.
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE32_NOPAD.encode(self.0.as_slice()))
    }

    /// Reads what [`TotpSecret::text`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(BASE32_NOPAD.decode(text.as_bytes()).ok()?);
        Some(Self(Zeroizing::new(bytes.as_slice().try_into().ok()?)))
    }

    /// The step a time lies in.
    pub fn step_at(seconds: i64) -> i64 {
        seconds.div_euclid(STEP_SECONDS)
    }

    /// The last step whose code is accepted at a time.
    pub fn last_accepted_at(seconds: i64) -> i64 {
        Self::step_at(seconds) + DRIFT
    }

    /// The step whose code this is, if it is near now and comes after `used`: a code counts once.
    pub fn accept(&self, code: &str, now: i64, used: i64) -> Option<i64> {
        let mut near = (Self::step_at(now) - DRIFT..=Self::step_at(now) + DRIFT).rev();
        near.find(|step| *step > used && bool::from(self.code(*step).as_bytes().ct_eq(code.as_bytes())))
    }

    /// The code of a step.
    pub fn code(&self, step: i64) -> String {
        let mut mac =
            <Hmac<Sha1> as KeyInit>::new_from_slice(self.0.as_slice()).expect("HMAC takes keys of any length");
        mac.update(&step.to_be_bytes());
        let hash: [u8; 20] = mac.finalize().into_bytes().into();
        let at = usize::from(hash[19] & 0xf);
        let four: [u8; 4] = hash[at..at + 4].try_into().expect("four of twenty bytes, from the sixteenth at most");
        let number = u32::from_be_bytes(four) & 0x7fff_ffff;
        format!("{:06}", number % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_of_rfc_6238() {
        let secret = TotpSecret(Zeroizing::new(*b"12345678901234567890"));
        for (seconds, code) in
            [(59, "287082"), (1_111_111_109, "081804"), (1_234_567_890, "005924"), (20_000_000_000, "353130")]
        {
            assert_eq!(
                secret.code(TotpSecret::step_at(seconds)),
                code,
                "appendix B, the last six digits, at {seconds}"
            );
        }
        assert_eq!(TotpSecret::parse(&secret.text()).unwrap().0, secret.0);
        assert!(TotpSecret::parse("ABC").is_none() && TotpSecret::parse("ä").is_none());
    }

    #[test]
    fn a_code_counts_once_and_near_its_time() {
        let secret = TotpSecret::generate();
        let now = 1_800_000_015;
        let step = TotpSecret::step_at(now);
        assert_eq!(secret.accept(&secret.code(step), now, 0), Some(step));
        assert_eq!(secret.accept(&secret.code(step), now, step), None, "used");
        assert_eq!(secret.accept(&secret.code(step - 1), now, step - 2), Some(step - 1));
        assert_eq!(secret.accept(&secret.code(step + 1), now, step), Some(step + 1), "its clock is ahead");
        for far in [step - 5, step - 2, step + 2] {
            assert_eq!(secret.accept(&secret.code(far), now, 0), None, "{far} at {step}");
        }
        assert_eq!(TotpSecret::last_accepted_at(now), step + 1, "after that none that was accepted counts again");
        for wrong in ["", "12345", "1234567", "abcdef"] {
            assert_eq!(secret.accept(wrong, now, 0), None);
        }
    }
}
