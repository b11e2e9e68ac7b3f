//! What an entry costs by part, each measured alone on one core, and what the threads of a process have used.

use std::time::{Duration, Instant};

use phivault::crypto::seal::{SealKeys, seal};
use phivault::crypto::secret::Secret;
use phivault::domain::fields::Fields;
use phivault::domain::index::Indexed;
use phivault::domain::json;
use phivault::domain::reason::Vocabulary;
use phivault::domain::retention::Retention;
use phivault::domain::rules::{Arrival, Draft, NoOp, Rules, draft};
use phivault::domain::submission::Submission;
use phivault::domain::time::Timestamp;
use phivault::ledger::hash::leaf_hash;
use phivault::ledger::leaf::{Sequenced, entry_leaf};

pub(crate) const REASONS: &str = include_str!("../config/reasons.toml");

/// Microseconds an entry.
pub(crate) struct Parts {
    /// From text to a submission.
    pub(crate) parse: f64,
    /// Rules and vocabulary, and the entry made of it.
    pub(crate) check: f64,
    /// Commitments, key derivation, cipher.
    pub(crate) seal: f64,
    /// Leaf, seal leaf, terms of the index.
    pub(crate) hash: f64,
}

impl Parts {
    pub(crate) fn sum(&self) -> f64 {
        self.parse + self.check + self.seal + self.hash
    }

    /// Measures them over the same entries, one part after the other.
    pub(crate) fn of(lines: &[String]) -> Self {
        let (rules, vocabulary) = (rules(), Vocabulary::parse(REASONS).expect("the reasons read"));
        let now = Timestamp(chrono::Utc::now().timestamp_micros());
        let each = |took: Duration| took.as_secs_f64() * 1e6 / lines.len() as f64;
        let began = Instant::now();
        let parsed: Vec<Submission> =
            lines.iter().map(|line| json::parse(line.as_bytes()).expect("a line is an entry")).collect();
        let parse = each(began.elapsed());
        let began = Instant::now();
        let drafts: Vec<Draft> = parsed
            .into_iter()
            .map(|it| {
                let arrival = Arrival { source: "bench", now, received: now, fresh_id: uuid::Uuid::nil() };
                draft(it, &arrival, &rules, &vocabulary).expect("an entry is good")
            })
            .collect();
        let check = each(began.elapsed());
        let (data, bucket) = (Secret::new([1; 32]), Secret::new([2; 32]));
        let keys = SealKeys { version: 1, data_key: &data, bucket: 1, bucket_secret: &bucket };
        let began = Instant::now();
        let sealed: Vec<_> = drafts
            .iter()
            .map(|it| {
                let bytes = it.meta.encode();
                (seal(&keys, it.meta.id.as_bytes(), &bytes, &it.items), bytes)
            })
            .collect();
        let seal = each(began.elapsed());
        let began = Instant::now();
        for (it, (sealed, bytes)) in drafts.iter().zip(&sealed) {
            let place = Sequenced { received_at: 1, patient_previous: 2, patient_number: 3 };
            let leaves = (entry_leaf(bytes, &sealed.commitment, place), leaf_hash(&sealed.bytes));
            std::hint::black_box((leaves, Indexed::of(&it.meta)));
        }
        Self { parse, check, seal, hash: each(began.elapsed()) }
    }
}

pub(crate) fn rules() -> Rules {
    let retention = Retention::parse(include_str!("../config/retention.toml")).expect("the classes read");
    let fields = Fields::parse(include_str!("../config/fields.toml")).expect("the fields read");
    Rules { require_patient: true, max_skew_seconds: 300, no_op: NoOp::Keep, retention, fields }
}

/// What the threads of a process whose names begin so have used so far.
pub(crate) fn used(process: u32, name: &str) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).expect("the process is there");
    let stats = threads.filter_map(|it| std::fs::read_to_string(it.ok()?.path().join("stat")).ok());
    let ticks = stats.filter_map(|stat| {
        let (front, rest) = stat.rsplit_once(") ")?;
        let own = front.split_once('(')?.1.starts_with(name);
        let fields: Vec<u64> = rest.split(' ').map(|it| it.parse().unwrap_or(0)).collect();
        // utime and stime (proc_pid_stat(5)), a hundredth of a second each.
        own.then(|| fields[11] + fields[12])
    });
    Duration::from_millis(ticks.sum::<u64>() * 10)
}
