//! What was done: the verbs of an entry, and what each needs beside it.

use serde::{Serialize, Serializer};

/// The verb of an entry. ASTM E2147-18 section 7.1.8 asks for creations, changes, deletions, queries, accesses, copies
/// and prints; 45 CFR 164.528 for disclosures; 164.308(a)(5)(ii)(C) for log-ins; 170.210(e)(1) for privilege changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Action(&'static Row);

#[derive(PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct Row {
    name: &'static str,
    kind: Kind,
}

/// What kind of verb an action is; it decides which parts an entry needs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Alters a record: needs the record and its changes (and the patient, unless the site allows otherwise).
    Change,
    /// Touches a record without altering it: needs the record (and the patient).
    Access,
    /// Like an access, and names the recipient.
    Disclosure,
    /// Joins two records or patients: needs the record.
    Merge,
    /// Needs nothing but the actor.
    Session,
    /// Changes what a user may do: needs the record, which is the user or role.
    Privilege,
    /// Written by the vault about itself; never accepted from outside.
    Vault,
}

macro_rules! actions {
    ($($constant:ident $name:literal $kind:ident,)*) => {
        const ROWS: &[Row] = &[$(Row { name: $name, kind: Kind::$kind },)*];
        impl Action {
            $(#[doc = concat!("The action `", $name, "`.")]
            pub const $constant: Self = Self(&Row { name: $name, kind: Kind::$kind });)*
        }
    };
}

actions! {
    BASELINE "baseline" Change,
    CREATE "create" Change,
    READ "read" Access,
    UPDATE "update" Change,
    DELETE "delete" Change,
    RESTORE "restore" Change,
    QUERY "query" Session,
    PRINT "print" Access,
    COPY "copy" Access,
    EXPORT "export" Access,
    DISCLOSE "disclose" Disclosure,
    MERGE "merge" Merge,
    LOGIN "login" Session,
    LOGOUT "logout" Session,
    LOGIN_FAILED "login_failed" Session,
    GRANT "grant" Privilege,
    REVOKE "revoke" Privilege,
    VAULT_CREATE "vault_create" Vault,
    VAULT_START "vault_start" Vault,
    VAULT_STOP "vault_stop" Vault,
    VOCABULARY "vocabulary" Vault,
    SEAL "seal" Vault,
    INTEGRITY "integrity" Vault,
    SEARCH "search" Vault,
    REVEAL "reveal" Vault,
    REPORT "report" Vault,
    REVIEW "review" Vault,
    KEY_ROTATE "key_rotate" Vault,
    KEY_REENCRYPT "key_reencrypt" Vault,
    KEY_DESTROY "key_destroy" Vault,
    KEY_REWRAP "key_rewrap" Vault,
    KEY_SLOT "key_slot" Vault,
    KEY_BUCKET "key_bucket" Vault,
    KEY_INDEX "key_index" Vault,
    KEY_STATE "key_state" Vault,
    APPROVAL "approval" Vault,
    RESTORE_PLAN "restore_plan" Vault,
    HOLD_PLACE "hold_place" Vault,
    HOLD_LIFT "hold_lift" Vault,
    RETENTION_PLAN "retention_plan" Vault,
    DISPOSE "dispose" Vault,
    ERASE "erase" Vault,
    REDACT "redact" Vault,
    KEY_LIST "key_list" Vault,
    SIGNING_ROTATE "signing_rotate" Vault,
    VAULT_RESTORE "vault_restore" Vault,
    TOKEN_CREATE "token_create" Vault,
    TOKEN_REVOKE "token_revoke" Vault,
    TOKEN_LIST "token_list" Vault,
    LOGIN_ENROL "login_enrol" Vault,
    SUBMIT "submit" Vault,
}

impl Action {
    /// The action of that name, the vault's own included.
    pub fn parse(name: &str) -> Option<Self> {
        ROWS.iter().find(|row| row.name == name).map(Self)
    }

    /// The name as it stands in an entry.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// What kind of verb this is.
    pub fn kind(self) -> Kind {
        self.0.kind
    }

    /// The names an application may submit, for messages.
    pub fn submittable() -> impl Iterator<Item = &'static str> {
        ROWS.iter().filter(|row| row.kind != Kind::Vault).map(|row| row.name)
    }

    /// Whether the entry alters a record, so that the rules for changes hold.
    pub fn is_change(self) -> bool {
        matches!(self.0.kind, Kind::Change | Kind::Merge)
    }
}

impl Serialize for Action {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Outcome {
    /// It was done.
    #[default]
    Success,
    /// It was tried and did not work.
    Failure,
    /// It was refused.
    Denied,
}

impl Outcome {
    /// All outcomes, for messages and tables.
    pub const ALL: [Self; 3] = [Self::Success, Self::Failure, Self::Denied];

    /// The outcome of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.name() == name)
    }

    /// The name as it stands in an entry.
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Denied => "denied",
        }
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_finds_its_action_and_the_vaults_own_are_not_submittable() {
        for row in ROWS {
            assert_eq!(Action::parse(row.name).unwrap().name(), row.name);
        }
        assert_eq!(Action::parse("create"), Some(Action::CREATE));
        assert_eq!(Action::parse("CREATE"), None);
        assert!(Action::submittable().all(|name| name != "reveal" && name != "vault_create"));
        assert_eq!(Action::submittable().count(), 17);
    }
}
