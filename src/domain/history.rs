//! What a record was: its changes in order, its fields at a point, and where somebody changed it outside the trail.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::action::Action;
use super::entry::{Open, ReasonView};
use super::fields::as_number;
use super::time::Timestamp;
use super::value::{Phi, Value};

/// One entry of a record's history, opened.
pub struct Step {
    /// Its position in the ledger.
    pub sequence: u64,
    /// The entry.
    pub id: Uuid,
    /// When the vault took it in.
    pub received_at: Timestamp,
    /// When it happened; receipt if the application did not say.
    pub at: Timestamp,
    /// What was done.
    pub action: Action,
    /// Who did it.
    pub actor: String,
    /// Why.
    pub reason: ReasonView,
    /// What is worth a look.
    pub marks: Vec<String>,
    /// What changed, by the names of now.
    pub changes: Vec<Change>,
    /// Why its values cannot be shown.
    pub lost: Option<Lost>,
}

impl Step {
    /// Whether the record begins with it: what was known of it before no longer holds.
    pub fn begins(&self) -> bool {
        matches!(self.action, Action::CREATE | Action::BASELINE)
    }
}

/// One changed field.
pub struct Change {
    /// Its name of now.
    pub field: String,
    /// Its place in the entry.
    pub place: usize,
    /// The value before; `None`: the application gave none.
    pub old: Option<Phi>,
    /// The value after; `None`: there is none.
    pub new: Option<Phi>,
}

/// Why the values of an entry cannot be shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum Lost {
    /// They were disposed of or erased, or their key was destroyed.
    Disposed {
        /// By which certificate, if there is one.
        certificate: Option<Uuid>,
    },
    /// They are not what the ledger committed to.
    Damaged,
}

/// In which order entries are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Axis {
    /// By the time things happened: late entries stand where they belong.
    #[default]
    Occurred,
    /// By position in the ledger: what was known when. Late entries change nothing that was told before.
    Received,
}

impl Axis {
    /// The axis of that name; the default if there is none.
    pub fn parse(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("occurred") => Some(Self::Occurred),
            Some("received") => Some(Self::Received),
            Some(_) => None,
        }
    }
}

impl Axis {
    /// Where an entry stands.
    pub fn place(self, at: Timestamp, sequence: u64) -> (i64, u64) {
        match self {
            Self::Received => (0, sequence),
            Self::Occurred => (at.0, sequence),
        }
    }
}

/// Which change set a field.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct SetBy {
    /// The entry.
    pub id: Uuid,
    /// Its position in the ledger.
    pub sequence: u64,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Who did it.
    pub actor: String,
    /// The place of the change in the entry.
    #[serde(skip)]
    pub place: usize,
}

/// A field at a point.
pub struct FieldState {
    /// Its value; `None` when it cannot be shown any more.
    pub value: Option<Phi>,
    /// Why not.
    pub lost: Option<Lost>,
    /// Which change set it.
    pub set_by: SetBy,
}

/// A record at a point: the fold of its changes up to it.
#[derive(Default)]
pub struct State {
    /// Whether it is there: made, or known from a change, and not deleted since.
    pub exists: bool,
    /// Its fields by name, as they were when it was deleted if it is not there.
    pub fields: BTreeMap<String, FieldState>,
    /// Entries that made it so.
    pub entries: u64,
    /// The newest of them.
    pub newest: Option<u64>,
}

impl State {
    /// Takes in the next change.
    pub fn apply(&mut self, step: Step) {
        self.entries += 1;
        self.newest = self.newest.max(Some(step.sequence));
        if step.begins() {
            self.fields.clear();
        }
        if step.action == Action::DELETE {
            self.exists = false;
            return;
        }
        self.exists = true;
        let Step { id, sequence, at, actor, lost, changes, .. } = step;
        for Change { field, place, new, .. } in changes {
            let set_by = SetBy { id, sequence, at, actor: actor.clone(), place };
            match (new, lost) {
                (value, Some(_)) => drop(self.fields.insert(field, FieldState { value, lost, set_by })),
                (Some(value), None) => {
                    self.fields.insert(field, FieldState { value: Some(value), lost: None, set_by });
                }
                (None, None) => drop(self.fields.remove(&field)),
            }
        }
    }
}

/// Where an entry's old value is not what the trail says the field was.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct Break {
    /// The field.
    pub field: String,
    /// The entry whose old value does not follow.
    pub entry: Uuid,
    /// Its position in the ledger.
    pub sequence: u64,
    /// The entry that left the field otherwise.
    pub after: Uuid,
    /// Its position in the ledger.
    pub after_sequence: u64,
}

/// The last known value of a field, for the check of continuity. `V` is the value or a digest of it.
struct Last<V> {
    value: Option<V>,
    id: Uuid,
    sequence: u64,
}

/// The check of continuity of one record: changes go in by the time they happened.
pub struct Continuity<V> {
    last: BTreeMap<String, Last<V>>,
    deleted: bool,
    /// What was found.
    pub breaks: Vec<Break>,
}

impl<V> Default for Continuity<V> {
    fn default() -> Self {
        Self { last: BTreeMap::new(), deleted: false, breaks: Vec::new() }
    }
}

impl<V: PartialEq> Continuity<V> {
    /// Takes in the next change. An absent old value says nothing, for many applications do not know it; what is there must be
    /// what the last change left.
    pub fn add(&mut self, step: &Step, of: impl Fn(&Phi) -> V) {
        let known = |value: Option<&Phi>| value.filter(|it| *it.expose() != Value::Null).map(&of);
        // Values that are gone say nothing, but what was done still does.
        if step.lost.is_none() {
            let mut found: Vec<&str> = Vec::new();
            for change in &step.changes {
                // Old values speak of before the entry, also where it names a field twice.
                let odd = self.last.get(&change.field).filter(|last| self.does_not_follow(step, change, last, &known));
                if let Some(last) = odd.filter(|_| !found.contains(&change.field.as_str())) {
                    found.push(&change.field);
                    self.breaks.push(Break {
                        field: change.field.clone(),
                        entry: step.id,
                        sequence: step.sequence,
                        after: last.id,
                        after_sequence: last.sequence,
                    });
                }
            }
        }
        if step.begins() {
            self.last.clear();
        }
        for change in step.changes.iter().filter(|_| step.action != Action::DELETE) {
            if step.lost.is_some() {
                self.last.remove(&change.field);
                continue;
            }
            let last = Last { value: known(change.new.as_ref()), id: step.id, sequence: step.sequence };
            self.last.insert(change.field.clone(), last);
        }
        self.deleted = step.action == Action::DELETE;
    }

    /// Whether a change cannot follow what the trail last said of its field. A field that is null and one that is not there are
    /// the same to many applications.
    fn does_not_follow(
        &self,
        step: &Step,
        change: &Change,
        last: &Last<V>,
        known: &impl Fn(Option<&Phi>) -> Option<V>,
    ) -> bool {
        match step.action {
            // It was there: somebody deleted it outside the trail, or it was never made anew.
            Action::CREATE => !self.deleted,
            // What is found there is what it was, unless somebody changed it.
            Action::BASELINE => !self.deleted && known(change.new.as_ref()) != last.value,
            _ if change.old.is_none() => false,
            action => known(change.old.as_ref()) != last.value || (self.deleted && action != Action::RESTORE),
        }
    }
}

/// A form of a value under which 7, 7.0 and 7e0 are the same, also within lists and objects: a database may write a number otherwise
/// than the application.
pub fn comparable(value: &Phi) -> Vec<u8> {
    let mut bytes = Vec::new();
    super::canonical::put_value(&mut bytes, &plain_numbers(value.expose()));
    bytes
}

fn plain_numbers(value: &Value) -> Value {
    match value {
        // Beyond 2^53 two numbers may share a double.
        Value::Number(text) => match text.parse::<f64>() {
            Ok(number) if number.abs() < 9e15 => Value::Number(format!("{:e}", number + 0.0)),
            _ => value.clone(),
        },
        Value::Array(all) => Value::Array(all.iter().map(plain_numbers).collect()),
        Value::Object(all) => Value::Object(all.iter().map(|(name, it)| (name.clone(), plain_numbers(it))).collect()),
        _ => value.clone(),
    }
}

/// One value of a field, for its timeline.
#[derive(Serialize, ToSchema)]
pub struct Point {
    /// The entry's position in the ledger.
    pub sequence: u64,
    /// The entry.
    pub id: Uuid,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Who did it.
    pub actor: String,
    /// What was done.
    #[schema(value_type = String)]
    pub action: Action,
    /// The value after; absent when the field was removed, or the record deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    pub value: Option<Open>,
    /// The value as a number, for a chart.
    #[serde(skip)]
    pub number: Option<f64>,
    /// Why the value cannot be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<Lost>,
}

/// Follows one field through a record's changes.
#[derive(Default)]
pub struct Line {
    record: State,
}

impl Line {
    /// Takes in the next change; the point that it sets, if it names the field, or lets it come or go.
    pub fn add(&mut self, step: Step, field: &str) -> Option<Point> {
        let there = |record: &State| record.exists && record.fields.contains_key(field);
        let (before, named) = (there(&self.record), step.changes.iter().any(|it| it.field == field));
        let Step { sequence, id, at, action, .. } = step;
        let (actor, lost) = (step.actor.clone(), step.lost.filter(|_| named));
        self.record.apply(step);
        let now = there(&self.record);
        if before == now && (!named || action == Action::DELETE) {
            return None;
        }
        let value = if now { self.record.fields[field].value.clone() } else { None };
        let number = value.as_ref().and_then(|it| as_number(it.expose()));
        Some(Point { sequence, id, at, actor, action, value: value.map(Open::new), number, lost })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Phi {
        Phi::text(text)
    }

    fn step(sequence: u64, at: i64, action: Action, changes: &[(&str, Option<&str>, Option<&str>)]) -> Step {
        let change = |(place, (field, old, new)): (usize, &(&str, Option<&str>, Option<&str>))| Change {
            field: (*field).to_owned(),
            place,
            old: old.map(text),
            new: new.map(text),
        };
        Step {
            sequence,
            id: Uuid::from_u128(sequence.into()),
            received_at: Timestamp(sequence.try_into().unwrap()),
            at: Timestamp(at),
            action,
            actor: "a".into(),
            reason: ReasonView {
                code: "TREAT".into(),
                standard: None,
                change: None,
                note_given: false,
                break_glass: false,
            },
            marks: Vec::new(),
            changes: changes.iter().enumerate().map(change).collect(),
            lost: None,
        }
    }

    fn breaks(steps: &[Step]) -> Vec<(u64, u64)> {
        let mut check = Continuity::default();
        steps.iter().for_each(|it| check.add(it, comparable));
        check.breaks.iter().map(|it| (it.sequence, it.after_sequence)).collect()
    }

    fn shown(state: &State) -> Vec<(String, String)> {
        let value = |it: &FieldState| match it.value.as_ref().unwrap().expose() {
            Value::String(text) => text.clone(),
            _ => unreachable!(),
        };
        state.fields.iter().map(|(name, it)| (name.clone(), value(it))).collect()
    }

    #[test]
    fn a_change_that_does_not_follow_is_named_and_one_that_does_is_not() {
        let c = Action::CREATE;
        let u = Action::UPDATE;
        assert_eq!(
            breaks(&[
                step(1, 1, c, &[("x", None, Some("1"))]),
                step(2, 2, u, &[("x", Some("1"), Some("2"))]),
                step(3, 3, u, &[("x", Some("9"), Some("3")), ("y", Some("0"), Some("1"))]),
                step(4, 4, u, &[("x", None, Some("4"))]),
                step(5, 5, u, &[("x", Some("4"), None)]),
                step(6, 6, u, &[("x", Some("4"), Some("5"))]),
            ]),
            [(3, 2), (6, 5)]
        );
    }

    #[test]
    fn what_comes_after_a_deletion_is_a_break_unless_it_is_a_restore_or_a_new_beginning() {
        let begin = || step(1, 1, Action::CREATE, &[("x", None, Some("1"))]);
        let delete = || step(2, 2, Action::DELETE, &[("x", Some("1"), None)]);
        let then = |action| breaks(&[begin(), delete(), step(3, 3, action, &[("x", Some("1"), Some("2"))])]);
        assert_eq!(then(Action::UPDATE), [(3, 1)]);
        assert_eq!(then(Action::RESTORE), []);
        assert_eq!(then(Action::BASELINE), []);
    }

    #[test]
    fn a_deletion_hides_the_fields_and_a_restore_brings_them_back() {
        let mut state = State::default();
        state.apply(step(1, 1, Action::CREATE, &[("x", None, Some("1")), ("y", None, Some("2"))]));
        state.apply(step(2, 2, Action::DELETE, &[("x", Some("1"), None)]));
        assert!(!state.exists);
        state.apply(step(3, 3, Action::RESTORE, &[("y", None, Some("3"))]));
        assert!(state.exists);
        assert_eq!(shown(&state), [("x".into(), "1".into()), ("y".into(), "3".into())]);
        state.apply(step(4, 4, Action::CREATE, &[("z", None, Some("1"))]));
        assert_eq!(shown(&state), [("z".into(), "1".into())]);
        assert_eq!((state.entries, state.newest), (4, Some(4)));
    }

    #[test]
    fn numbers_are_compared_by_what_they_are() {
        let number = |text: &str| comparable(&Phi::new(Value::Number(text.into())));
        assert_eq!(number("7"), number("7.0"));
        assert_eq!(number("0"), number("-0.0"));
        assert_ne!(number("9007199254740993"), number("9007199254740992"));
        assert_ne!(number("7"), comparable(&text("7")));
    }

    proptest! {
        /// The state at any point is what a naive list of assignments up to it leaves, in either order.
        #[test]
        fn the_state_at_any_point_is_the_fold_of_the_changes_up_to_it(
            all in prop::collection::vec((0..5_i64, 0..4_usize, 0..3_usize, prop::option::of("[a-c]")), 0..20),
            cut in 0..20_usize,
            by_time: bool,
        ) {
            const ACTIONS: [Action; 4] = [Action::CREATE, Action::UPDATE, Action::DELETE, Action::RESTORE];
            const NAMES: [&str; 3] = ["x", "y", "z"];
            let axis = if by_time { Axis::Occurred } else { Axis::Received };
            let mut order: Vec<usize> = (0..all.len()).collect();
            order.sort_by_key(|n| axis.place(Timestamp(all[*n].0), *n as u64));
            let mut state = State::default();
            let (mut naive, mut exists): (BTreeMap<&str, &str>, bool) = (BTreeMap::new(), false);
            for n in order.into_iter().take(cut) {
                let (at, action, field, value) = &all[n];
                let (action, field) = (ACTIONS[*action], NAMES[*field]);
                state.apply(step(n as u64, *at, action, &[(field, None, value.as_deref())]));
                exists = action != Action::DELETE;
                if action == Action::CREATE {
                    naive = BTreeMap::new();
                }
                match value {
                    _ if action == Action::DELETE => {}
                    Some(value) => drop(naive.insert(field, value)),
                    None => drop(naive.remove(field)),
                }
            }
            let naive: Vec<_> = naive.into_iter().map(|(name, it)| (name.to_owned(), it.to_owned())).collect();
            prop_assert_eq!((state.exists, shown(&state)), (exists, naive));
        }
    }
}
