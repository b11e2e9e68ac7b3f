//! The reason vocabulary: HL7 v3 PurposeOfUse, consent overrides, change reasons and a site's own codes, with rules.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::action::{Action, Kind};
use super::issue::Issues;
use super::meta::Reason;

/// The codes an entry may carry and the rules for each. Made by [`Vocabulary::parse`], which checks the whole.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    version: String,
    purposes: BTreeMap<String, Purpose>,
    changes: BTreeMap<String, Change>,
    sites: BTreeMap<String, Site>,
    system: String,
}

/// When a code requires a note.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NoteRule {
    /// The note is optional.
    #[default]
    Never,
    /// Required on create, update, delete and merge.
    Changes,
    /// Always required.
    Always,
}

/// A purpose of use.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Purpose {
    /// The code.
    pub code: String,
    /// Its name for people.
    pub display: String,
    /// The code above it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// When a note is required.
    #[serde(default)]
    pub note: NoteRule,
    /// Whether it counts as break-the-glass.
    #[serde(default)]
    pub break_glass: bool,
    /// Only with these actions; empty: any.
    #[serde(default)]
    pub actions: Vec<String>,
    /// Only for actors in these roles; empty: any.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Whether a change code must stand beside it on changes.
    #[serde(default)]
    pub change_required: bool,
    /// No longer accepted; old entries stay readable.
    #[serde(default)]
    pub retired: bool,
}

/// A change reason.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The code.
    pub code: String,
    /// Its name for people.
    pub display: String,
    /// When a note is required.
    #[serde(default)]
    pub note: NoteRule,
    /// Only with these actions; empty: any change.
    #[serde(default)]
    pub actions: Vec<String>,
    /// No longer accepted.
    #[serde(default)]
    pub retired: bool,
}

/// A site's own code for a standard purpose.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// The code.
    pub code: String,
    /// Its name for people.
    pub display: String,
    /// The standard purpose whose rules it follows.
    pub maps_to: String,
    /// No longer accepted.
    #[serde(default)]
    pub retired: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: String,
    system: String,
    #[serde(default)]
    purpose: Vec<Purpose>,
    #[serde(default)]
    change: Vec<Change>,
    #[serde(default)]
    site: Vec<Site>,
}

/// Why a vocabulary file is not usable.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct VocabularyError(String);

impl Vocabulary {
    /// Reads the TOML text of a vocabulary and checks it as a whole.
    ///
    /// # Errors
    /// One sentence with the offending code or line.
    pub fn parse(text: &str) -> Result<Self, VocabularyError> {
        let file: File = toml::from_str(text).map_err(|error| VocabularyError(error.to_string()))?;
        let mut seen = BTreeSet::new();
        let codes = file.purpose.iter().map(|it| &it.code).chain(file.site.iter().map(|it| &it.code));
        for code in codes.chain(file.change.iter().map(|it| &it.code)) {
            if code.is_empty()
                || code.len() > 64
                || !code.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            {
                return Err(VocabularyError(format!(
                    "the code {code:?} is not 1 to 64 letters, digits, '-', '_' or '.'"
                )));
            }
            if !seen.insert(code.clone()) {
                return Err(VocabularyError(format!("the code {code:?} stands twice")));
            }
        }
        let actions =
            file.purpose.iter().flat_map(|it| &it.actions).chain(file.change.iter().flat_map(|it| &it.actions));
        if let Some(unknown) = actions.into_iter().find(|name| Action::parse(name).is_none()) {
            return Err(VocabularyError(format!("{unknown:?} is not an action")));
        }
        let purposes: BTreeMap<_, _> = file.purpose.into_iter().map(|it| (it.code.clone(), it)).collect();
        if purposes.is_empty() {
            return Err(VocabularyError("there is no [[purpose]]; without one every entry would be refused".into()));
        }
        if let Some(site) = file.site.iter().find(|site| !purposes.contains_key(&site.maps_to)) {
            return Err(VocabularyError(format!(
                "the site code {:?} maps to {:?}, which is no purpose here",
                site.code, site.maps_to
            )));
        }
        Ok(Self {
            version: file.version,
            system: file.system,
            purposes,
            changes: file.change.into_iter().map(|it| (it.code.clone(), it)).collect(),
            sites: file.site.into_iter().map(|it| (it.code.clone(), it)).collect(),
        })
    }

    /// The version the file gives itself.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The code system of the purposes.
    pub fn system(&self) -> &str {
        &self.system
    }

    /// All purposes by rising code.
    pub fn purposes(&self) -> impl Iterator<Item = &Purpose> {
        self.purposes.values()
    }

    /// All change reasons by rising code.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.changes.values()
    }

    /// All site codes by rising code.
    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        self.sites.values()
    }

    /// Checks a reason against the rules. `actor_role` is the role of the acting user, if known. What is wrong goes to
    /// `issues`, at `/reason`; the answer is the reason as it will stand in the entry.
    pub fn check(&self, given: &Given<'_>, issues: &mut Issues) -> Reason {
        let mut reason = Reason { note_given: given.note, ..Reason::default() };
        self.check_purpose(given, &mut reason, issues);
        self.check_change(given, &mut reason, issues);
        reason
    }

    fn check_purpose(&self, given: &Given<'_>, reason: &mut Reason, issues: &mut Issues) {
        let Some(code) = given.code.filter(|code| !code.is_empty()) else {
            let detail = format!("Every entry needs a reason. {}", self.suggest(given));
            issues.add("/reason/code", "reason_missing", detail);
            return;
        };
        reason.code = code.to_owned();
        let site = self.sites.get(code);
        if let Some(site) = site {
            reason.standard = Some(site.maps_to.clone());
        }
        let Some(purpose) = self.purposes.get(site.map_or(code, |site| &site.maps_to)) else {
            issues.add(
                "/reason/code",
                "reason_unknown",
                format!("This reason code is not in the vocabulary. {}", self.suggest_near(code, given)),
            );
            return;
        };
        reason.break_glass = purpose.break_glass;
        if purpose.retired || site.is_some_and(|site| site.retired) {
            issues.add(
                "/reason/code",
                "reason_retired",
                format!("This reason code is no longer accepted. {}", self.suggest(given)),
            );
        } else if !purpose.fits(given) {
            let detail = format!("This reason code is not for that action or role. {}", self.suggest(given));
            issues.add("/reason/code", "reason_not_allowed", detail);
        }
        if requires(purpose.note, given.action) && !given.note {
            issues.add("/reason/note", "note_required", "This reason code requires a note: say in words why.");
        }
        if purpose.change_required && given.action.is_change() && given.change.is_none() {
            let detail =
                format!("This reason code requires a change code beside it. {}", self.suggest_change(given.action));
            issues.add("/reason/change", "change_missing", detail);
        }
    }

    fn check_change(&self, given: &Given<'_>, reason: &mut Reason, issues: &mut Issues) {
        let Some(code) = given.change else { return };
        reason.change = Some(code.to_owned());
        let fits = |change: &Change| {
            change.actions.is_empty() || change.actions.iter().any(|name| name == given.action.name())
        };
        match self.changes.get(code) {
            Some(change) if !change.retired && given.action.is_change() && fits(change) => {
                if requires(change.note, given.action) && !given.note {
                    issues.add("/reason/note", "note_required", "This change code requires a note: say in words why.");
                }
            }
            Some(_) => {
                let detail = format!(
                    "This change code is retired or not for that action. {}",
                    self.suggest_change(given.action)
                );
                issues.add("/reason/change", "change_not_allowed", detail);
            }
            None => {
                let detail =
                    format!("This change code is not in the vocabulary. {}", self.suggest_change(given.action));
                issues.add("/reason/change", "change_unknown", detail);
            }
        }
    }

    /// Codes that look or read like what was given, which is not repeated: it may be anything.
    fn suggest_near(&self, code: &str, given: &Given<'_>) -> String {
        let (code, mut near) = (code.to_lowercase(), Vec::new());
        for it in self.purposes.values().filter(|it| !it.retired && it.fits(given)) {
            let like = |text: &str| strsim::jaro_winkler(&code, &text.to_lowercase());
            near.push((like(&it.code).max(like(&it.display)), it));
        }
        near.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.code.cmp(&b.1.code)));
        let near: Vec<_> = near
            .iter()
            .take(3)
            .filter(|it| it.0 > NEAR)
            .map(|it| format!("{} ({})", it.1.code, it.1.display))
            .collect();
        let rest = self.suggest(given);
        if near.is_empty() { rest } else { format!("Did you mean {}? {rest}", near.join(" or ")) }
    }

    /// A sentence with the codes that would do, the usual ones if there are many.
    fn suggest(&self, given: &Given<'_>) -> String {
        let fitting = self.purposes.values().filter(|it| !it.retired && it.fits(given)).map(|it| it.code.as_str());
        let sites = self.sites.values().filter(|it| !it.retired).map(|it| it.code.as_str());
        let codes: Vec<_> = sites.chain(fitting).collect();
        if codes.len() <= FEW {
            return format!("Codes that would do: {} (GET /v1/reasons explains them).", codes.join(", "));
        }
        let usual: Vec<_> = USUAL.into_iter().filter(|it| codes.contains(it)).collect();
        format!(
            "Often used: {}. GET /v1/reasons lists and explains all {} that would do.",
            usual.join(", "),
            codes.len()
        )
    }

    fn suggest_change(&self, action: Action) -> String {
        let fitting = |it: &&Change| {
            !it.retired && (it.actions.is_empty() || it.actions.iter().any(|name| name == action.name()))
        };
        let codes: Vec<_> = self.changes.values().filter(fitting).map(|it| it.code.as_str()).collect();
        if !action.is_change() || codes.is_empty() {
            return "Leave it out for this action.".to_owned();
        }
        format!("Codes that would do: {}.", codes.join(", "))
    }
}

/// How alike two texts must be for one to be meant by the other, of 1.
const NEAR: f64 = 0.82;
/// Codes that are named one by one.
const FEW: usize = 12;
/// Codes that most entries are for.
const USUAL: [&str; 8] = ["TREAT", "ETREAT", "BTG", "HPAYMT", "HOPERAT", "HCOMPL", "HSYSADMIN", "PATRQT"];

/// A reason as it was given, with what decides whether it fits.
pub struct Given<'a> {
    /// The purpose code.
    pub code: Option<&'a str>,
    /// The change code.
    pub change: Option<&'a str>,
    /// Whether there is a note.
    pub note: bool,
    /// What is being done.
    pub action: Action,
    /// The role of who does it.
    pub role: Option<&'a str>,
}

impl Purpose {
    fn fits(&self, given: &Given<'_>) -> bool {
        let action = self.actions.is_empty() || self.actions.iter().any(|name| name == given.action.name());
        let role = self.roles.is_empty() || given.role.is_some_and(|role| self.roles.iter().any(|name| name == role));
        action && role
    }
}

fn requires(rule: NoteRule, action: Action) -> bool {
    match rule {
        NoteRule::Never => false,
        NoteRule::Changes => matches!(action.kind(), Kind::Change | Kind::Merge),
        NoteRule::Always => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../config/reasons.toml");

    fn given<'a>(code: &'a str, note: bool, action: Action) -> Given<'a> {
        Given { code: Some(code), change: None, note, action, role: None }
    }

    fn codes(vocabulary: &Vocabulary, given: &Given<'_>) -> Vec<&'static str> {
        let mut issues = Issues::default();
        vocabulary.check(given, &mut issues);
        issues.finish(()).err().unwrap_or_default().into_iter().map(|issue| issue.code).collect()
    }

    #[test]
    fn the_shipped_vocabulary_has_the_standard_codes() {
        let vocabulary = Vocabulary::parse(SHIPPED).unwrap();
        assert_eq!(vocabulary.purposes().filter(|it| !it.code.starts_with("OVR")).count(), 62);
        assert_eq!(vocabulary.purposes().filter(|it| it.code.starts_with("OVR")).count(), 4);
        assert_eq!(vocabulary.changes().count(), 8);
    }

    #[test]
    fn overrides_and_errors_need_a_note_and_break_the_glass_needs_one_for_changes() {
        let vocabulary = Vocabulary::parse(SHIPPED).unwrap();
        assert_eq!(codes(&vocabulary, &given("OVRER", false, Action::READ)), ["note_required"]);
        assert_eq!(codes(&vocabulary, &given("BTG", false, Action::UPDATE)), ["note_required"]);
        assert!(codes(&vocabulary, &given("BTG", false, Action::READ)).is_empty());
        let mut eie = given("TREAT", false, Action::DELETE);
        eie.change = Some("EIE");
        assert_eq!(codes(&vocabulary, &eie), ["note_required"]);
        eie.note = true;
        assert!(codes(&vocabulary, &eie).is_empty());
    }

    #[test]
    fn unknown_retired_and_misplaced_codes_are_refused_and_the_refusal_says_what_would_do() {
        let text = "version='1'\nsystem='s'\n[[purpose]]\ncode='A'\ndisplay='a'\n[[purpose]]\ncode='B'\ndisplay='b'\nretired=true\n\
                    [[purpose]]\ncode='C'\ndisplay='c'\nactions=['read']\nroles=['nurse']\n[[site]]\ncode='MY'\ndisplay='m'\nmaps_to='A'\n";
        let vocabulary = Vocabulary::parse(text).unwrap();
        assert_eq!(codes(&vocabulary, &given("X", true, Action::READ)), ["reason_unknown"]);
        assert_eq!(codes(&vocabulary, &given("", true, Action::READ)), ["reason_missing"]);
        assert_eq!(codes(&vocabulary, &given("B", true, Action::READ)), ["reason_retired"]);
        assert_eq!(codes(&vocabulary, &given("C", true, Action::UPDATE)), ["reason_not_allowed"]);
        assert!(codes(&vocabulary, &Given { role: Some("nurse"), ..given("C", true, Action::READ) }).is_empty());
        let mut issues = Issues::default();
        let reason = vocabulary.check(&given("MY", true, Action::READ), &mut issues);
        assert_eq!(reason.standard.as_deref(), Some("A"));
        let mut issues = Issues::default();
        vocabulary.check(&given("X", true, Action::READ), &mut issues);
        assert!(issues.finish(()).unwrap_err()[0].detail.contains("MY, A"));
    }

    #[test]
    fn a_broken_vocabulary_says_what_is_wrong() {
        let head = "version='1'\nsystem='s'\n";
        let a = "[[purpose]]\ncode='A'\ndisplay='a'\n";
        for (text, word) in [
            (head.to_owned(), "no [[purpose]]"),
            (format!("{head}{a}{a}"), "twice"),
            (format!("{head}{a}[[site]]\ncode='M'\ndisplay='m'\nmaps_to='Z'\n"), "maps to"),
            (format!("{head}{a}actions=['fly']\n"), "not an action"),
            (format!("{head}[[purpose]]\ncode='a b'\ndisplay='a'\n"), "letters"),
            (format!("{head}{a}colour='red'\n"), "colour"),
        ] {
            let error = Vocabulary::parse(&text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
