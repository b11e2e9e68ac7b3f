//! Whom to trust: logs, witnesses, and how many of them must have cosigned (C2SP tlog-policy).
//!
//! ```text
//! log <vkey> [<url>]
//! witness <name> <vkey> [<url>]
//! group <name> any|all|<k> <name>...
//! quorum <name>|none
//! ```
//! Fields are parted by blanks; a line that begins with `#` is a comment. Names are defined before they are used.

use std::collections::HashMap;

use thiserror::Error;

use super::checkpoint::{Checkpoint, CheckpointError};
use super::note::{Note, NoteError, VerifierKey};

/// The longest policy read, in bytes.
pub const MAX_POLICY_BYTES: usize = 64 << 10;

/// Why a policy or a checkpoint was refused.
#[derive(Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A line of the policy is wrong.
    #[error("line {0} of the policy: {1}")]
    Line(usize, String),
    /// The policy as a whole is wrong.
    #[error("the policy {0}")]
    Whole(&'static str),
    /// The checkpoint is malformed, or of no log that the policy names.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A signature of a trusted key is wrong.
    #[error(transparent)]
    Note(#[from] NoteError),
}

/// A witness: who it is and where it answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Witness {
    /// Its name in the policy.
    pub name: String,
    /// Its key.
    pub key: VerifierKey,
    /// Its submission prefix.
    pub url: Option<String>,
}

/// Whom to trust.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// The logs.
    pub logs: Vec<VerifierKey>,
    /// The witnesses.
    pub witnesses: Vec<Witness>,
    groups: Vec<Group>,
    quorum: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Group {
    name: String,
    threshold: usize,
    members: Vec<String>,
}

/// A checkpoint that a trusted log signed, and who vouches for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The names of the witnesses that cosigned it, and when (seconds since 1970), if their signature says.
    pub witnesses: Vec<(String, Option<u64>)>,
    /// Whether they are as many as the policy asks for.
    pub quorum: bool,
}

impl Policy {
    /// Trusts these keys of logs and asks for no witness.
    pub fn of_logs(logs: Vec<VerifierKey>) -> Self {
        Self { logs, witnesses: Vec::new(), groups: Vec::new(), quorum: None }
    }

    /// Reads a policy.
    ///
    /// # Errors
    /// [`PolicyError`], with the line.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_POLICY_BYTES {
            return Err(PolicyError::Whole("is longer than 64 KiB"));
        }
        let mut policy = Self { logs: Vec::new(), witnesses: Vec::new(), groups: Vec::new(), quorum: None };
        let mut quorum = None;
        for (number, line) in (1..).zip(text.lines()) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let wrong = |what: &str| PolicyError::Line(number, what.to_owned());
            match fields.as_slice() {
                [] => {}
                [first, ..] if first.starts_with('#') => {}
                ["log", key, url @ ..] if url.len() <= 1 => {
                    policy.logs.push(key.parse().map_err(|error: NoteError| wrong(&error.to_string()))?);
                }
                ["witness", name, key, url @ ..] if url.len() <= 1 => {
                    policy.undefined(name).map_err(wrong)?;
                    let key = key.parse().map_err(|error: NoteError| wrong(&error.to_string()))?;
                    if policy.witnesses.iter().any(|it| it.key == key) {
                        return Err(wrong("this key is another witness's already; it would count twice"));
                    }
                    let url = url.first().map(|it| (*it).to_owned());
                    policy.witnesses.push(Witness { name: (*name).to_owned(), key, url });
                }
                ["group", name, threshold, members @ ..] => {
                    policy.group(name, threshold, members).map_err(|what| wrong(&what))?;
                }
                ["quorum", name] => {
                    if quorum.replace((*name).to_owned()).is_some() {
                        return Err(wrong("there is a quorum already"));
                    }
                    if *name != "none" && !policy.knows(name) {
                        return Err(wrong("the quorum names nothing that was defined above"));
                    }
                }
                _ => return Err(wrong("it is no log, witness, group or quorum with its fields")),
            }
        }
        policy.quorum = Some(quorum.ok_or(PolicyError::Whole("has no quorum line"))?).filter(|it| it != "none");
        Ok(policy)
    }

    /// Opens a checkpoint: one of the logs must have signed it, under its own origin. A wrong signature of any trusted key
    /// refuses it; too few witnesses do not, they show in [`Opened::quorum`].
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn open(&self, text: &str) -> Result<Opened, PolicyError> {
        let note = Note::parse(text)?;
        let signers = note.verify(&self.logs)?;
        let checkpoint = Checkpoint::parse(&note.text)?;
        if !signers.iter().any(|key| key.name() == checkpoint.origin) {
            let (expected, found) = (signers[0].name().to_owned(), checkpoint.origin);
            return Err(CheckpointError::OriginMismatch { expected, found }.into());
        }
        let mut witnesses = Vec::new();
        for witness in &self.witnesses {
            match note.verify(std::slice::from_ref(&witness.key)) {
                Ok(_) => witnesses.push((witness.name.clone(), newest_time(&note, &witness.key))),
                Err(NoteError::NoTrustedSignature) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let quorum = self.quorum.as_deref().is_none_or(|name| self.holds(name, &witnesses));
        Ok(Opened { checkpoint, witnesses, quorum })
    }

    /// Whether the policy asks for witnesses at all.
    pub fn asks_for_witnesses(&self) -> bool {
        self.quorum.is_some()
    }

    fn group(&mut self, name: &str, threshold: &str, members: &[&str]) -> Result<(), String> {
        self.undefined(name)?;
        if members.is_empty() {
            return Err("a group needs members".into());
        }
        let mut seen = HashMap::new();
        for member in members {
            if !self.knows(member) {
                return Err("a member names nothing that was defined above".into());
            }
            if seen.insert(*member, ()).is_some() {
                return Err("a member is named twice".into());
            }
        }
        let threshold = match threshold {
            "any" => 1,
            "all" => members.len(),
            number => number.parse().map_err(|_| "the threshold is any, all or a number")?,
        };
        if !(1..=members.len()).contains(&threshold) {
            return Err("the threshold is from 1 to the number of members".into());
        }
        let members = members.iter().map(|it| (*it).to_owned()).collect();
        self.groups.push(Group { name: name.to_owned(), threshold, members });
        Ok(())
    }

    fn knows(&self, name: &str) -> bool {
        self.witnesses.iter().any(|it| it.name == name) || self.groups.iter().any(|it| it.name == name)
    }

    fn undefined(&self, name: &str) -> Result<(), &'static str> {
        if name == "none" || self.knows(name) { Err("this name is taken") } else { Ok(()) }
    }

    fn holds(&self, name: &str, witnesses: &[(String, Option<u64>)]) -> bool {
        match self.groups.iter().find(|it| it.name == name) {
            // Members are defined before their group, so this ends.
            Some(group) => group.members.iter().filter(|it| self.holds(it, witnesses)).count() >= group.threshold,
            None => witnesses.iter().any(|(it, _)| it == name),
        }
    }
}

fn newest_time(note: &Note, key: &VerifierKey) -> Option<u64> {
    let of_key = note.signatures.iter().filter(|it| it.name == key.name() && it.key_id == key.key_id());
    of_key.filter_map(|it| key.stated_time(&it.bytes)).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::hash::leaf_hash;
    use crate::ledger::note::{KeyKind, NoteSigner};

    fn witness(n: u8) -> NoteSigner {
        NoteSigner::of_kind(&format!("w{n}.example"), KeyKind::Witness, &[100 + n; 32]).unwrap()
    }

    fn log() -> NoteSigner {
        NoteSigner::from_seed("log.example", &[1; 32]).unwrap()
    }

    fn policy(groups: &str) -> Result<Policy, PolicyError> {
        let mut text = format!("# whom we trust\n\nlog {} https://log.example/\n", log().verifier_key());
        for n in 0..4 {
            text.push_str(&format!("witness w{n} {} https://w{n}.example/\n", witness(n).verifier_key()));
        }
        Policy::parse(&format!("{text}{groups}"))
    }

    fn note(cosigners: &[u8]) -> String {
        let head = Checkpoint { origin: "log.example".into(), size: 1, root: leaf_hash(b"x"), extensions: Vec::new() };
        let mut note = Note::parse(&head.sign(&log()).unwrap()).unwrap();
        for n in cosigners {
            note.signatures.push(witness(*n).cosign(&note.text, 1_000 + u64::from(*n)));
        }
        note.to_string()
    }

    #[test]
    fn quorums_hold_as_they_are_written() {
        let nested = "group a 2 w0 w1 w2\ngroup b all w2 w3\ngroup top any a b\nquorum top\n";
        for (groups, cosigners, holds) in [
            ("quorum none\n", &[][..], true),
            ("quorum w0\n", &[][..], false),
            ("quorum w0\n", &[0][..], true),
            ("group g any w0 w1\nquorum g\n", &[1][..], true),
            ("group g all w0 w1\nquorum g\n", &[1][..], false),
            ("group g 2 w0 w1 w2\nquorum g\n", &[0, 2][..], true),
            (nested, &[0, 3][..], false),
            (nested, &[2, 3][..], true),
            (nested, &[0, 1][..], true),
        ] {
            let opened = policy(groups).unwrap().open(&note(cosigners)).unwrap();
            assert_eq!(opened.quorum, holds, "{groups} with {cosigners:?}");
            let names: Vec<_> = cosigners.iter().map(|n| (format!("w{n}"), Some(1_000 + u64::from(*n)))).collect();
            assert_eq!(opened.witnesses, names);
        }
    }

    #[test]
    fn a_wrong_cosignature_a_foreign_log_and_a_foreign_origin_are_refused() {
        let policy = policy("quorum none\n").unwrap();
        let mut forged = Note::parse(&note(&[0])).unwrap();
        forged.signatures[1].bytes[7] ^= 1;
        assert!(matches!(policy.open(&forged.to_string()), Err(PolicyError::Note(NoteError::WrongSignature(_)))));
        let stranger = NoteSigner::from_seed("log.example", &[9; 32]).unwrap();
        let head = Checkpoint { origin: "log.example".into(), size: 1, root: leaf_hash(b"x"), extensions: Vec::new() };
        assert!(policy.open(&head.sign(&stranger).unwrap()).is_err());
        let other = Checkpoint { origin: "other.example".into(), ..head };
        assert!(matches!(
            policy.open(&other.sign(&log()).unwrap()),
            Err(PolicyError::Checkpoint(CheckpointError::OriginMismatch { .. }))
        ));
    }

    #[test]
    fn a_policy_asks_for_witnesses_unless_its_quorum_is_none() {
        for (groups, asks) in [("quorum none\n", false), ("quorum w0\n", true)] {
            assert_eq!(policy(groups).unwrap().asks_for_witnesses(), asks, "{groups}");
        }
        assert!(!Policy::of_logs(vec![log().verifier_key().clone()]).asks_for_witnesses());
    }

    #[test]
    fn the_time_that_counts_is_the_newest_of_that_key_and_no_other() {
        let mut note = Note::parse(&note(&[0])).unwrap();
        let text = note.text.clone();
        note.signatures.push(witness(0).cosign(&text, 900));
        note.signatures.push(witness(1).cosign(&text, 5_000));
        // Another key of the same name: its time is not this one's.
        let name = witness(0).verifier_key().name().to_owned();
        note.signatures.push(NoteSigner::of_kind(&name, KeyKind::Witness, &[99; 32]).unwrap().cosign(&text, 6_000));
        let opened = policy("quorum w0\n").unwrap().open(&note.to_string()).unwrap();
        assert_eq!(opened.witnesses, [("w0".to_owned(), Some(1_000)), ("w1".to_owned(), Some(5_000))]);
    }

    #[test]
    fn malformed_policies_are_refused_with_their_line() {
        for (groups, word) in [
            ("", "no quorum"),
            ("quorum none\nquorum none\n", "already"),
            ("quorum nobody\n", "names nothing"),
            ("group g any\nquorum g\n", "members"),
            ("group g any w9\nquorum g\n", "names nothing"),
            ("group g any w0 w0\nquorum g\n", "twice"),
            ("group g 3 w0 w1\nquorum g\n", "threshold"),
            ("group g 0 w0\nquorum g\n", "threshold"),
            ("group g some w0\nquorum g\n", "threshold"),
            ("group w0 any w1\nquorum w0\n", "taken"),
            ("group none any w1\nquorum none\n", "taken"),
            ("group g any g\nquorum g\n", "names nothing"),
            (&format!("witness again {}\nquorum none\n", witness(0).verifier_key()), "count twice"),
            ("log x\nquorum none\n", "key"),
            ("witness w9\nquorum none\n", "fields"),
            (&format!("log {} https://a.example/ b\nquorum none\n", log().verifier_key()), "fields"),
            (&format!("witness w9 {} https://a.example/ b\nquorum none\n", witness(9).verifier_key()), "fields"),
            ("quorum\n", "fields"),
            ("hello\n", "fields"),
        ] {
            let error = policy(groups).unwrap_err().to_string();
            assert!(error.contains(word), "{groups:?}: {error}");
        }
        // A comment fills it up to the limit, and by one byte beyond it.
        let head = format!("log {}\nquorum none\n#", log().verifier_key());
        let full = format!("{head}{}", "x".repeat(MAX_POLICY_BYTES - head.len()));
        assert!(Policy::parse(&full).is_ok());
        for more in ["x", "xx"] {
            assert_eq!(
                Policy::parse(&format!("{full}{more}")).err().unwrap().to_string(),
                PolicyError::Whole("is longer than 64 KiB").to_string()
            );
        }
    }
}
