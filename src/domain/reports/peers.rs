//! One user among others of the same role.

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::RandomState;

use super::super::activity::{Activity, Malformed};
use super::super::document::{Cell, Section};
use super::{Params, count_by, median};

/// How many entries each user has in the period, by role.
pub struct Peers {
    params: Params,
    users: HashMap<String, BTreeMap<String, u64>, RandomState>,
}

impl Peers {
    /// Begins a count.
    pub fn new(params: &Params) -> Self {
        Self { params: params.clone(), users: HashMap::default() }
    }

    /// Counts from the heads alone, if the period does not begin or end among these entries; whether that was so. If not, nothing
    /// was counted.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn add_heads(&mut self, activity: &Activity) -> Result<bool, Malformed> {
        let (first, last) = activity.span()?;
        let outside = self.params.from.is_some_and(|from| last < from) || self.params.to.is_some_and(|to| first >= to);
        if outside {
            return Ok(true);
        }
        if !self.params.covers(first) || !self.params.covers(last) {
            return Ok(false);
        }
        activity.each_user(&mut |name, runs| {
            // Most users act in one role.
            for same in runs.chunk_by(|a, b| a.act.role == b.act.role) {
                self.count(name, same[0].act.role, same.iter().map(|it| it.count).sum());
            }
            Ok(())
        })?;
        Ok(true)
    }

    /// Counts moment by moment.
    ///
    /// # Errors
    /// [`Malformed`]; then some of it is counted, and the count is of no use.
    pub fn add(&mut self, activity: &Activity) -> Result<(), Malformed> {
        let mut moments = activity.moments();
        activity.each_user(&mut |name, runs| {
            for run in runs {
                let mut inside = 0;
                moments.next_run(run, |at, _| inside += u64::from(self.params.covers(at)))?;
                if inside > 0 {
                    self.count(name, run.act.role, inside);
                }
            }
            Ok(())
        })
    }

    fn count(&mut self, name: &str, role: &str, by: u64) {
        if !self.users.contains_key(name) {
            self.users.insert(name.to_owned(), BTreeMap::new());
        }
        count_by(self.users.get_mut(name).expect("it was just put there"), role, by);
    }

    /// Takes in what another count of the same parameters took in.
    pub fn merge(&mut self, other: Self) {
        for (name, roles) in other.users {
            roles.iter().for_each(|(role, n)| self.count(&name, role, *n));
        }
    }

    /// The user of the parameters among all whose most frequent role is the same.
    pub fn section(&self) -> Option<Section> {
        let user = self.params.actor.as_deref()?;
        let role = main_role(self.users.get(user)?);
        let total = |roles: &BTreeMap<String, u64>| roles.values().sum::<u64>();
        let of_role = self.users.iter().filter(|it| main_role(it.1) == role);
        let mut others: Vec<u64> = of_role.filter(|it| it.0 != user).map(|it| total(it.1)).collect();
        let own = total(&self.users[user]);
        let shown = if role.is_empty() { "no role given" } else { role };
        let more = others.iter().filter(|it| **it > own).count() as u64;
        let (count, most) = (others.len() as u64, others.iter().max().copied());
        let figure = |name: &str, figure: Cell| vec![Cell::text(name), figure];
        let rows = vec![
            figure("role acted in most", Cell::text(shown)),
            figure("entries of this user", Cell::Count(own)),
            figure("other users of this role", Cell::Count(count)),
            figure("their median", median(&mut others)),
            figure("their highest", most.map_or(Cell::None, Cell::Count)),
            figure("others with more entries", Cell::Count(more)),
        ];
        Some(Section::table("Compared with others of the same role", &["what", "this period"], rows))
    }
}

/// The role acted in most often.
pub(super) fn main_role(roles: &BTreeMap<String, u64>) -> &str {
    roles.iter().max_by(|a, b| a.1.cmp(b.1).then_with(|| b.0.cmp(a.0))).map_or("", |it| it.0)
}
