//! How the vault is doing: counters for metrics, readiness for load balancers. Nothing here names a person.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::time::Timestamp;

use crate::crypto::seal::Header;
use crate::store::Usage;

use super::Vault;
use super::error::VaultError;

/// Microseconds that the clock may be behind the newest entry.
const BEHIND: i64 = 2_000_000;
/// From when on reports tell of it, and none is made by itself: what keeps clocks right steps them by less.
const WELL_BEHIND: i64 = 60_000_000;
/// Said where one administrator alone may do everything.
const ALONE: &str = "approval by a second administrator is switched off (admin.two_person)";

/// What is counted while the vault runs.
#[derive(Default)]
pub struct Counters {
    /// Entries committed since the start.
    pub entries: AtomicU64,
    /// Commits since the start.
    pub commits: AtomicU64,
    /// Time of the last commit, microseconds since 1970.
    pub last_commit: AtomicI64,
    /// Submissions that were refused as wrong.
    pub refused: AtomicU64,
    /// Submissions that were there already.
    pub duplicates: AtomicU64,
    /// Requests turned away because the queue was full.
    pub busy: AtomicU64,
    /// Requests with a known token that its role does not allow.
    pub denied: AtomicU64,
    /// Entries revealed.
    pub revealed: AtomicU64,
    /// Checkpoints signed.
    pub checkpoints: AtomicU64,
    /// Signing a checkpoint failed; writes go on, the lock does not advance.
    pub checkpoint_failures: AtomicU64,
    /// The last attempt to sign failed.
    pub unsigned: AtomicBool,
    /// The newest anchor could not be set.
    pub unanchored: AtomicBool,
    /// A scheduled report could not be made.
    pub late_reports: AtomicBool,
    /// State rows that were not authentic.
    pub untrusted_state: AtomicU64,
    /// Entries whose values did not agree with the ledger when they were opened.
    pub integrity_failures: AtomicU64,
    /// Times that the scrubber went through all entries.
    pub scrub_passes: AtomicU64,
    /// When it did last, microseconds since 1970; 0: not yet.
    pub last_scrub: AtomicI64,
    /// Times that the machine's clock was set while the vault ran.
    pub clock_jumps: AtomicU64,
    /// Connections whose TLS handshake failed, such as those of nodes without the right certificate.
    pub handshakes_failed: AtomicU64,
    /// Logins that were refused.
    pub logins_failed: AtomicU64,
    /// How many of them stand in entries.
    pub(super) handshakes_told: AtomicU64,
    /// The writer has ended.
    pub stopped: AtomicBool,
}

/// Whether the vault can do its work.
#[derive(Serialize, ToSchema)]
pub struct Readiness {
    /// ready, degraded (it works, something needs attention) or stopped.
    pub status: &'static str,
    /// Entries in the ledger.
    pub ledger_size: u64,
    /// Entries the newest checkpoint covers.
    pub checkpoint_size: u64,
    /// When all entries were last gone through for damage; absent: not since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub scrubbed_at: Option<Timestamp>,
    /// What needs attention.
    pub problems: Vec<&'static str>,
    /// What was chosen and weakens the vault.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<&'static str>,
}

impl Vault {
    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The time now, as the vault sees it.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The time that what comes in now is received at: it never falls along the ledger, whatever the clock of the machine does.
    pub(super) fn receipt_time(&self) -> Timestamp {
        self.clock.now().max(Timestamp(self.counters.last_commit.load(Ordering::Relaxed)))
    }

    /// Whether the clock shows a time before the newest entry, by more than so many microseconds.
    fn is_behind_by(&self, least: i64) -> bool {
        self.counters.last_commit.load(Ordering::Relaxed).saturating_sub(self.clock.now().0) > least
    }

    /// Whether the clock shows a time well before the newest entry.
    pub fn clock_is_behind(&self) -> bool {
        self.is_behind_by(WELL_BEHIND)
    }

    /// Entries in the ledger.
    pub fn ledger_size(&self) -> u64 {
        self.store.size()
    }

    /// Bytes of the database.
    pub fn disk_bytes(&self) -> u64 {
        self.store.disk_bytes()
    }

    /// Bytes that are free on the disk of the database.
    pub fn disk_free(&self) -> u64 {
        self.store.disk_free()
    }

    /// KiB waiting in the writer's queue.
    pub fn queue_kib(&self) -> usize {
        self.settings.queue_kib.saturating_sub(self.room.available_permits())
    }

    /// How many records the database counts that meet a condition.
    pub(super) fn counted(&self, of: impl Fn(&Usage) -> bool) -> Result<u64, VaultError> {
        let all = self.store.usage()?;
        let counts = all.iter().filter(|it| of(it)).map(|it| u64::try_from(it.entries).unwrap_or(0));
        Ok(counts.fold(0, u64::saturating_add))
    }

    /// Entries whose values were sealed under keys that this keyring has not any more, as after a restore of a backup that is
    /// older than their destruction.
    ///
    /// # Errors
    /// [`VaultError::Store`].
    pub fn unreadable(&self) -> Result<u64, VaultError> {
        let ring = self.keys.ring();
        self.counted(|it| {
            let header = Header { version: it.version, bucket: it.bucket };
            it.version > 0 && ring.opening(header).is_none()
        })
    }

    /// Whether the vault can do its work.
    pub fn readiness(&self) -> Readiness {
        let mut problems = Vec::new();
        if self.counters.unsigned.load(Ordering::Relaxed) {
            problems.push("a checkpoint could not be signed or locked; see the log");
        }
        if self.ledger.witnessed().is_some_and(|(_, behind)| behind) {
            problems.push("too few witnesses cosigned the newest checkpoints; see the log");
        }
        let mut warnings = if self.settings.two_person { Vec::new() } else { vec![ALONE] };
        if self.is_behind_by(BEHIND) {
            warnings.push("the clock is behind the newest entry; times of receipt stand still until it has caught up");
        }
        let (full, filling) = self.disk();
        if full {
            problems.push("the disk is full; submissions are refused until there is room");
        } else if filling {
            problems.push("the disk is nearly full; less than twice the reserve is left");
        }
        if self.counters.unanchored.load(Ordering::Relaxed) {
            problems.push("a checkpoint could not be anchored; see the log");
        }
        if self.counters.late_reports.load(Ordering::Relaxed) {
            problems.push("a scheduled report could not be made; see the log");
        }
        if self.counters.untrusted_state.load(Ordering::Relaxed) > 0 {
            problems.push("a state row is not authentic and was refused; run phivault verify");
        }
        if self.counters.integrity_failures.load(Ordering::Relaxed) > 0 {
            problems.push("stored values do not agree with the ledger; run phivault verify");
        }
        let stopped = self.counters.stopped.load(Ordering::Acquire);
        let status = if stopped {
            "stopped"
        } else if problems.is_empty() {
            "ready"
        } else {
            "degraded"
        };
        let scrubbed = self.counters.last_scrub.load(Ordering::Relaxed);
        Readiness {
            status,
            ledger_size: self.ledger_size(),
            checkpoint_size: self.ledger.checkpoint().size,
            scrubbed_at: (scrubbed > 0).then_some(Timestamp(scrubbed)),
            problems,
            warnings,
        }
    }
}
