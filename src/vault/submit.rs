//! An entry's way in: check, look whether it is there, seal, queue, commit, answer.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use uuid::Uuid;

use crate::domain::action::Action;
use crate::domain::caller::{Caller, Permission};
use crate::domain::entry::Receipt;
use crate::domain::issue::Issue;
use crate::domain::rules::{Arrival, Draft, draft};
use crate::domain::submission::Submission;

use super::Vault;
use super::error::VaultError;
use super::writer::{Answer, Job, Message, Raced, find_id, receipt};

/// How often a submission is looked up again after another request brought the same id meanwhile.
const RACES: usize = 4;

/// What became of one submission.
#[derive(Debug)]
pub enum Outcome {
    /// It is in, now.
    Accepted(Receipt),
    /// It was in before, with the same content.
    Duplicate(Receipt),
    /// It was refused.
    Refused(Vec<Issue>),
}

/// What is known of a draft's id.
enum Known {
    Fresh,
    Same(Receipt),
    Other,
    /// Its values are gone, so there is no telling whether they were the same.
    Gone,
}

impl Vault {
    /// Takes one submission. When this returns `Accepted`, it is on disk, synced.
    ///
    /// # Errors
    /// [`VaultError::Denied`], `Invalid`, `Conflict`, `Busy` (nothing was taken) or `Unknown` (retry with the same id).
    pub async fn submit(&self, caller: &Caller, submission: Submission) -> Result<Outcome, VaultError> {
        if !caller.role.may(Permission::Submit) {
            // Recording blocks, so callers ask [`Vault::may`] first; this only makes sure.
            return Err(VaultError::Denied);
        }
        let draft = self.check(caller, submission).map_err(|issues| {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            VaultError::Invalid(issues)
        })?;
        self.room_on_disk()?;
        self.make_bucket(&draft)?;
        for _ in 0..RACES {
            let looked_up_to = self.store.size();
            match self.known(&draft)? {
                Known::Same(receipt) => {
                    self.counters.duplicates.fetch_add(1, Ordering::Relaxed);
                    return Ok(Outcome::Duplicate(receipt));
                }
                Known::Other => return Err(VaultError::Conflict(vec![conflict()])),
                Known::Gone => return Err(VaultError::Conflict(vec![gone()])),
                Known::Fresh => {}
            }
            let answer = self.enqueue(&[&draft], looked_up_to)?.await.map_err(|_| VaultError::Unknown)?;
            if let Ok(done) = answer {
                return done.receipts().pop().map(Outcome::Accepted).ok_or(VaultError::Unknown);
            }
        }
        Err(VaultError::Busy)
    }

    /// Takes a batch, line by line in order; lines are read one by one, for a batch may be large. With `partial` every good
    /// line goes in; without it, all lines or none. Blocks until it is on disk.
    ///
    /// # Errors
    /// As [`Vault::submit`]; the issues carry their lines.
    pub fn submit_batch(
        &self,
        caller: &Caller,
        lines: impl IntoIterator<Item = Result<Submission, Issue>>,
        partial: bool,
    ) -> Result<Vec<Outcome>, VaultError> {
        self.allow(caller, Permission::Submit, Action::SUBMIT)?;
        self.room_on_disk()?;
        let checked: Vec<_> = lines
            .into_iter()
            .map(|line| line.map_err(|issue| vec![issue]).and_then(|it| self.check(caller, it)))
            .collect();
        checked.iter().flatten().try_for_each(|draft| self.make_bucket(draft))?;
        for _ in 0..RACES {
            let looked_up_to = self.store.size();
            let plan = self.plan(&checked)?;
            if !partial {
                refuse_whole(&plan)?;
            }
            let is_fresh = |(planned, _): &(&Planned, _)| matches!(planned, Planned::Fresh(_));
            let fresh: Vec<&Draft> =
                plan.iter().zip(&checked).filter(is_fresh).filter_map(|(_, it)| it.as_ref().ok()).collect();
            let receipts = if fresh.is_empty() {
                Vec::new()
            } else {
                match self.enqueue(&fresh, looked_up_to)?.blocking_recv().map_err(|_| VaultError::Unknown)? {
                    Ok(done) => done.receipts(),
                    Err(Raced) => continue,
                }
            };
            return Ok(self.outcomes(plan, &receipts));
        }
        Err(VaultError::Busy)
    }

    /// Makes the bucket that a draft's values belong into, if it is the first of its class and year. That writes the keyring,
    /// so it takes some milliseconds, a few times a year; a thread of its own, for this one may be asynchronous.
    pub(super) fn make_bucket(&self, draft: &Draft) -> Result<(), VaultError> {
        if self.keys.ring().bucket_of(&draft.keep.class, draft.keep.until).is_some() {
            return Ok(());
        }
        let made = std::thread::scope(|scope| scope.spawn(|| self.bucket_for(&draft.keep)).join());
        made.map_err(|_| VaultError::Unknown)?.map(|_| ())
    }

    pub(super) fn check(&self, caller: &Caller, submission: Submission) -> Result<Draft, Vec<Issue>> {
        // Only if it brings none: made of the operating system's randomness, an id costs a system call.
        let fresh_id = if submission.id.is_none() { Uuid::now_v7() } else { Uuid::nil() };
        let (now, received) = (self.clock.now(), self.receipt_time());
        let arrival = Arrival { source: &caller.label, now, received, fresh_id };
        draft(submission, &arrival, &self.settings.rules, &self.vocabulary)
    }

    /// What is to be done with each line.
    fn plan(&self, checked: &[Result<Draft, Vec<Issue>>]) -> Result<Vec<Planned>, VaultError> {
        let mut first_of: HashMap<Uuid, usize> = HashMap::new();
        let mut fresh = 0;
        let mut plan = Vec::with_capacity(checked.len());
        for line in checked {
            let planned = match line {
                Err(issues) => Planned::Refused(issues.clone(), false),
                Ok(draft) => match first_of.get(&draft.meta.id) {
                    Some(&earlier) => match (&checked[earlier], &plan[earlier]) {
                        (Ok(other), Planned::Fresh(n)) if same(other, draft) => Planned::SameAsLine(*n),
                        (Ok(other), Planned::Same(receipt)) if same(other, draft) => Planned::Same(receipt.clone()),
                        (_, Planned::Refused(issues, true)) => Planned::Refused(issues.clone(), true),
                        _ => Planned::Refused(vec![conflict()], true),
                    },
                    None => match self.known(draft)? {
                        Known::Fresh => {
                            fresh += 1;
                            Planned::Fresh(fresh - 1)
                        }
                        Known::Same(receipt) => Planned::Same(receipt),
                        Known::Other => Planned::Refused(vec![conflict()], true),
                        Known::Gone => Planned::Refused(vec![gone()], true),
                    },
                },
            };
            if let Ok(draft) = line {
                first_of.entry(draft.meta.id).or_insert(plan.len());
            }
            plan.push(planned);
        }
        Ok(plan)
    }

    fn outcomes(&self, plan: Vec<Planned>, receipts: &[Receipt]) -> Vec<Outcome> {
        plan.into_iter()
            .map(|planned| match planned {
                Planned::Fresh(n) => Outcome::Accepted(receipts[n].clone()),
                Planned::SameAsLine(n) => {
                    self.counters.duplicates.fetch_add(1, Ordering::Relaxed);
                    Outcome::Duplicate(receipts[n].clone())
                }
                Planned::Same(receipt) => {
                    self.counters.duplicates.fetch_add(1, Ordering::Relaxed);
                    Outcome::Duplicate(receipt)
                }
                Planned::Refused(issues, _) => {
                    self.counters.refused.fetch_add(1, Ordering::Relaxed);
                    Outcome::Refused(issues)
                }
            })
            .collect()
    }

    /// Seals drafts and puts them into the writer's queue, if there is room.
    fn enqueue(&self, drafts: &[&Draft], looked_up_to: u64) -> Result<Answer, VaultError> {
        let entries: Vec<_> = drafts.iter().map(|draft| self.seal(draft)).collect();
        let bytes: usize = entries.iter().map(|it| 512 + it.bytes.len() + it.sealed.len()).sum();
        let room = Some(self.take_room(bytes.div_ceil(1024))?);
        let (reply, answer) = oneshot::channel();
        self.send(Message::Job(Job {
            entries,
            looked_up_to,
            state: Vec::new(),
            resealed: Vec::new(),
            unchanged: None,
            reply,
            room,
        }))?;
        Ok(answer)
    }

    fn take_room(&self, kib: usize) -> Result<OwnedSemaphorePermit, VaultError> {
        // A batch larger than the whole queue may still pass when the queue is empty.
        let kib = u32::try_from(kib.min(self.settings.queue_kib)).unwrap_or(u32::MAX);
        self.room.clone().try_acquire_many_owned(kib).map_err(|_| {
            self.counters.busy.fetch_add(1, Ordering::Relaxed);
            VaultError::Busy
        })
    }

    /// Looks whether an entry of that id is there, and whether it says the same.
    fn known(&self, draft: &Draft) -> Result<Known, VaultError> {
        let Some(row) = find_id(&*self.intake, draft.meta.id, 0..self.intake.size())? else { return Ok(Known::Fresh) };
        let (meta, items) = match self.open_row(&row) {
            Ok(opened) => opened,
            Err(VaultError::Shredded(_)) => return Ok(Known::Gone),
            Err(VaultError::Integrity(_)) => return Ok(Known::Other),
            Err(error) => return Err(error),
        };
        Ok(if same(&Draft { meta, items, keep: draft.keep.clone() }, draft) {
            Known::Same(receipt(&row))
        } else {
            Known::Other
        })
    }
}

enum Planned {
    /// The n-th new entry of this batch.
    Fresh(usize),
    /// A repetition of the n-th new entry of this batch.
    SameAsLine(usize),
    /// In the ledger already.
    Same(Receipt),
    /// Refused; `true` when it is a conflict of ids.
    Refused(Vec<Issue>, bool),
}

fn refuse_whole(plan: &[Planned]) -> Result<(), VaultError> {
    let mut only_conflicts = true;
    let mut issues = Vec::new();
    for (line, planned) in (1..).zip(plan) {
        if let Planned::Refused(found, conflict) = planned {
            only_conflicts &= conflict;
            issues.extend(found.iter().cloned().map(|issue| issue.on_line(line)));
        }
    }
    issues.truncate(100);
    match (issues.is_empty(), only_conflicts) {
        (true, _) => Ok(()),
        (false, true) => Err(VaultError::Conflict(issues)),
        (false, false) => Err(VaultError::Invalid(issues)),
    }
}

/// Whether two drafts say the same. What the vocabulary makes of the code does not count, nor do marks: the site's files may
/// have changed between the first submission and its repetition.
fn same(one: &Draft, other: &Draft) -> bool {
    let submitted = |it: &Draft| {
        let mut meta = it.meta.clone();
        (meta.reason.standard, meta.reason.break_glass) = (None, false);
        meta.facts.clear();
        meta
    };
    submitted(one) == submitted(other)
        && one.items.len() == other.items.len()
        && one.items.iter().zip(&other.items).all(|(a, b)| a.path == b.path && a.value == b.value)
}

/// Under a new id it would bring back what was erased by order.
fn gone() -> Issue {
    Issue::new(
        "/id",
        "entry_gone",
        "The entry of this id is in the vault, and its values were disposed of or erased by order. Do not send it again, under no other id either.",
    )
}

fn conflict() -> Issue {
    Issue::new(
        "/id",
        "id_conflict",
        "This id was used before for an entry with other content. Use a new id for a new entry.",
    )
}
