//! `[sessions]`: how long people stay logged in.

use std::time::Duration;

use serde::Deserialize;

use crate::vault::SessionLimits;

/// `[sessions]`
#[derive(Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct Sessions {
    /// Seconds without a request after which a session ends (automatic logoff, 45 CFR 164.312(a)(2)(iii)).
    pub idle_seconds: u64,
    /// Seconds after which it ends at the latest.
    pub seconds: u64,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { idle_seconds: 900, seconds: 28_800 }
    }
}

impl Sessions {
    /// What is wrong with it.
    pub(super) fn problem(&self) -> Option<String> {
        let are_sound = (1..=86_400).contains(&self.seconds) && (1..=self.seconds).contains(&self.idle_seconds);
        (!are_sound).then(|| "sessions.seconds is 1 to 86400, and sessions.idle_seconds no more than that.".into())
    }

    /// The same for the vault.
    pub fn limits(&self) -> SessionLimits {
        SessionLimits { idle: Duration::from_secs(self.idle_seconds), whole: Duration::from_secs(self.seconds) }
    }
}
