//! Who may do what: the roles, and the one permission table.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a token is for. No role includes another (promise P8: duties are separate).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A clinical application: writes entries, reads nothing back but receipts and proofs.
    Submitter,
    /// A compliance officer: searches, reveals, reports.
    Officer,
    /// An auditor: metadata, hashes and proofs, never a value.
    Auditor,
    /// An administrator: tokens and keys, never an entry's content.
    Admin,
    /// A patient, or a portal on the patient's behalf: who looked at the one record, and why, and nothing else.
    Patient,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 5] = [Self::Submitter, Self::Officer, Self::Auditor, Self::Admin, Self::Patient];

    /// The role of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// The name as it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Submitter => "submitter",
            Self::Officer => "officer",
            Self::Auditor => "auditor",
            Self::Admin => "admin",
            Self::Patient => "patient",
        }
    }

    /// Whether this role may do that. The whole permission table is [`TABLE`].
    pub fn may(self, permission: Permission) -> bool {
        let (_, roles) = TABLE.iter().find(|(it, _)| *it == permission).expect("the table names every permission");
        roles.contains(&self)
    }
}

/// Something that can be allowed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Permission {
    /// Submit entries.
    Submit,
    /// Search the trail and read an entry's metadata.
    Search,
    /// See sealed values.
    Reveal,
    /// Run a report.
    Report,
    /// Make and fetch a report; a patient only the one about the patient.
    MakeReport,
    /// Get an inclusion proof.
    Prove,
    /// Read the reason vocabulary.
    Reasons,
    /// List tokens.
    ListTokens,
    /// Create and revoke tokens.
    ManageTokens,
    /// List key versions.
    ListKeys,
    /// Rotate, re-encrypt and destroy keys, and change who opens the keyring.
    RotateKeys,
    /// Dispose of values whose retention has ended, and erase an entry's values by order.
    Dispose,
    /// Approve or cancel what another administrator asked for.
    Approve,
    /// List what waits for approval.
    ListApprovals,
    /// Place and lift legal holds.
    ManageHolds,
    /// List legal holds; they name patients.
    ListHolds,
    /// Sign off entries that were reviewed.
    Review,
    /// Plan, approve and cancel the restoring of a record.
    PlanRestore,
    /// Fetch a plan: officers any, an application those of its own records that were approved.
    FetchRestore,
    /// See what falls due, and certificates of disposal.
    SeeRetention,
    /// Log in with a password and a one-time code in the place of the token: people, not applications.
    LogIn,
}

/// The permission table.
pub const TABLE: [(Permission, &[Role]); 21] = [
    (Permission::Submit, &[Role::Submitter]),
    (Permission::Search, &[Role::Officer, Role::Auditor]),
    (Permission::Reveal, &[Role::Officer]),
    (Permission::Report, &[Role::Officer, Role::Auditor]),
    (Permission::MakeReport, &[Role::Officer, Role::Auditor, Role::Patient]),
    (Permission::Prove, &[Role::Submitter, Role::Officer, Role::Auditor, Role::Admin]),
    (Permission::Reasons, &Role::ALL),
    (Permission::ListTokens, &[Role::Admin]),
    (Permission::ManageTokens, &[Role::Admin]),
    (Permission::ListKeys, &[Role::Auditor, Role::Admin]),
    (Permission::RotateKeys, &[Role::Admin]),
    (Permission::Dispose, &[Role::Admin]),
    (Permission::Approve, &[Role::Admin]),
    (Permission::ListApprovals, &[Role::Auditor, Role::Admin]),
    (Permission::ManageHolds, &[Role::Officer]),
    (Permission::ListHolds, &[Role::Officer, Role::Auditor]),
    (Permission::Review, &[Role::Officer]),
    (Permission::PlanRestore, &[Role::Officer]),
    (Permission::FetchRestore, &[Role::Submitter, Role::Officer]),
    (Permission::SeeRetention, &[Role::Officer, Role::Auditor, Role::Admin]),
    (Permission::LogIn, &[Role::Officer, Role::Auditor, Role::Admin]),
];

/// Who is calling: a known token and what it may be used for.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The id of the token.
    pub token_id: String,
    /// Its label: the application's or person's name. It becomes the source of what is submitted with it.
    pub label: String,
    /// What it may do.
    pub role: Role,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duties_are_separate() {
        for role in Role::ALL {
            assert_eq!(role.may(Permission::Submit), role == Role::Submitter);
            assert_eq!(role.may(Permission::Reveal), role == Role::Officer);
            assert_eq!(role.may(Permission::RotateKeys), role == Role::Admin);
            assert_eq!(role.may(Permission::ManageTokens), role == Role::Admin);
            assert_eq!(Role::parse(role.name()), Some(role));
        }
        let patients = TABLE.iter().filter(|(_, roles)| roles.contains(&Role::Patient));
        assert_eq!(patients.map(|it| it.0).collect::<Vec<_>>(), [Permission::MakeReport, Permission::Reasons]);
        assert!(!Role::Admin.may(Permission::Search) && !Role::Auditor.may(Permission::Reveal));
    }
}
