//! What the reports about all users count by, of many entries at once: who, acting how and why, when, and about whom.
//!
//! A report over millions of entries cannot read each. So the entries of a segment are also kept as columns, in an order that makes
//! them small: by user, then by act (role, action, outcome, reason), then by time. Nothing in it is not in the metadata.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::action::{Action, Outcome};
use super::index::{Dimension, Term};
use super::meta::Meta;
use super::time::Timestamp;

/// The version of the bytes.
const VERSION: u8 = 1;

const NOTE: u8 = 1;
const GLASS: u8 = 2;
const PATIENT: u8 = 4;

/// What is counted of one entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deed {
    actor: Box<str>,
    /// The act as it is written.
    act: Box<[u8]>,
    /// When it happened; its receipt if the application did not say.
    occurred: Option<Timestamp>,
    patient: Option<u64>,
}

impl Deed {
    /// What is counted of an entry that has these terms.
    pub fn of<S: AsRef<str>>(meta: &Meta<S>, terms: &[Term]) -> Self {
        let mut act = Vec::with_capacity(48);
        let flags =
            [(meta.reason.note_given, NOTE), (meta.reason.break_glass, GLASS), (meta.patient.is_some(), PATIENT)];
        act.push(flags.iter().filter(|it| it.0).map(|it| it.1).sum());
        act.push(meta.outcome as u8);
        for text in [meta.action.name(), meta.reason.code.as_ref(), meta.actor.role.as_ref().map_or("", AsRef::as_ref)]
        {
            put_text(&mut act, text);
        }
        let patient = terms.iter().find(|it| it.dimension == Dimension::Patient).map(|it| it.key);
        Self { actor: meta.actor.id.as_ref().into(), act: act.into(), occurred: meta.occurred_at, patient }
    }
}

/// One entry among others of the same user and act.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Moment {
    at: i64,
    patient: u64,
    position: u16,
}

/// Gathers entries of one segment.
#[derive(Clone, Default)]
pub struct Gathering {
    acts: HashMap<Box<[u8]>, u32, RandomState>,
    users: HashMap<Box<str>, u32, RandomState>,
    /// By user and act.
    runs: HashMap<(u32, u32), Vec<Moment>, RandomState>,
}

impl Gathering {
    /// Takes in an entry at a position of the segment.
    pub fn add(&mut self, deed: &Deed, received: Timestamp, position: u16) {
        let at = deed.occurred.unwrap_or(received).0;
        let run = (number_of(&mut self.users, &deed.actor), number_of(&mut self.acts, &deed.act));
        self.runs.entry(run).or_default().push(Moment { at, patient: deed.patient.unwrap_or(0), position });
    }

    /// The entries below a position, as bytes: the heads of all users, and their moments. The same entries give the same bytes.
    pub fn finish(self, below: u32) -> Activity {
        let mut acts: Vec<(Box<[u8]>, u32)> = self.acts.into_iter().collect();
        acts.sort_unstable();
        let mut places = vec![0_usize; acts.len()];
        let (mut heads, mut moments, mut span) = (Vec::new(), Vec::new(), None);
        put_number(&mut heads, acts.len() as u64);
        for (place, (act, number)) in acts.iter().enumerate() {
            places[*number as usize] = place;
            heads.extend_from_slice(act);
        }
        let mut names: Vec<_> = self.users.into_iter().collect();
        names.sort_unstable();
        let mut runs: Vec<Vec<(usize, Vec<Moment>)>> = vec![Vec::new(); names.len()];
        for ((user, act), mut run) in self.runs {
            run.retain(|it| u32::from(it.position) < below);
            if !run.is_empty() {
                run.sort_unstable();
                runs[user as usize].push((places[act as usize], run));
            }
        }
        for (name, user) in names {
            let mut runs = std::mem::take(&mut runs[user as usize]);
            if runs.is_empty() {
                continue;
            }
            runs.sort_unstable_by_key(|run| run.0);
            put_text(&mut heads, &name);
            put_number(&mut heads, runs.len() as u64);
            for (place, run) in runs {
                put_number(&mut heads, place as u64);
                put_number(&mut heads, run.len() as u64);
                let (begin, end) = (run[0].at, run[run.len() - 1].at);
                span = Some(span.map_or((begin, end), |it: (i64, i64)| (it.0.min(begin), it.1.max(end))));
                put_signed(&mut heads, begin);
                put_number(&mut heads, end.abs_diff(begin));
                put_run(&mut moments, &run, acts[place].0[0] & PATIENT != 0);
            }
        }
        let (begin, end) = span.unwrap_or_default();
        let mut front = vec![VERSION];
        put_signed(&mut front, begin);
        put_number(&mut front, end.abs_diff(begin));
        front.append(&mut heads);
        Activity { heads: front, moments }
    }
}

/// The number of a name; the next one if it is new.
fn number_of<T: Eq + std::hash::Hash + Clone>(numbers: &mut HashMap<T, u32, RandomState>, name: &T) -> u32 {
    let next = u32::try_from(numbers.len()).expect("a segment has fewer entries");
    match numbers.get(name) {
        Some(number) => *number,
        None => *numbers.entry(name.clone()).or_insert(next),
    }
}

fn put_run(out: &mut Vec<u8>, run: &[Moment], patients: bool) {
    let mut last = run[0].at;
    for moment in run {
        put_number(out, moment.at.abs_diff(last));
        last = moment.at;
        if patients {
            out.extend_from_slice(&moment.patient.to_be_bytes());
        }
    }
}

/// What is counted of many entries.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Activity {
    /// Acts, users, and of each user how often each act was done between when and when.
    pub heads: Vec<u8>,
    /// The moments of all these, one after the other.
    pub moments: Vec<u8>,
}

/// How a user acted, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Act<'a> {
    /// The role; empty if none was given.
    pub role: &'a str,
    /// What was done.
    pub action: Action,
    /// How it ended.
    pub outcome: Outcome,
    /// The reason code as submitted.
    pub reason: &'a str,
    /// Whether a note was given.
    pub note: bool,
    /// Whether the reason is break-the-glass.
    pub glass: bool,
    patients: bool,
}

/// Entries of one user and act.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// How.
    pub act: Act<'a>,
    /// The number of the act among those of this activity.
    pub number: usize,
    /// How many.
    pub count: u64,
    /// The first time.
    pub first: Timestamp,
    /// The last time.
    pub last: Timestamp,
}

/// What is called with each user and the user's runs.
pub type EachUser<'c, 'a> = &'c mut dyn FnMut(&'a str, &[Run<'a>]) -> Result<(), Malformed>;

/// The bytes are not what [`Gathering::finish`] writes.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

impl Activity {
    /// The first and the last time.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn span(&self) -> Result<(Timestamp, Timestamp), Malformed> {
        take_span(&mut self.heads.as_slice())
    }

    /// Calls `each` with every user and the user's runs, by rising name, until it fails.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn each_user<'a>(&'a self, each: EachUser<'_, 'a>) -> Result<(), Malformed> {
        let mut rest = self.heads.as_slice();
        take_span(&mut rest)?;
        let mut acts = Vec::new();
        for _ in 0..take_number(&mut rest)? {
            acts.push(take_act(&mut rest)?);
        }
        let mut runs = Vec::new();
        while !rest.is_empty() {
            let name = take_text(&mut rest)?;
            runs.clear();
            for _ in 0..take_number(&mut rest)? {
                let number = usize::try_from(take_number(&mut rest)?).map_err(|_| Malformed)?;
                let act = acts.get(number).ok_or(Malformed)?;
                let (count, first) = (take_number(&mut rest)?, take_signed(&mut rest)?);
                let last = first.checked_add_unsigned(take_number(&mut rest)?).ok_or(Malformed)?;
                runs.push(Run { act: *act, number, count, first: Timestamp(first), last: Timestamp(last) });
            }
            each(name, &runs)?;
        }
        Ok(())
    }

    /// Reads the moments, run after run in the order of [`Activity::each_user`].
    pub fn moments(&self) -> Moments<'_> {
        Moments { rest: &self.moments }
    }
}

/// Reads moments in order.
pub struct Moments<'a> {
    rest: &'a [u8],
}

impl Moments<'_> {
    /// Calls `each` with time and patient of each entry of the next run, by rising time.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn next_run(&mut self, run: &Run<'_>, mut each: impl FnMut(Timestamp, Option<u64>)) -> Result<(), Malformed> {
        let mut at = run.first.0;
        for _ in 0..run.count {
            at = at.checked_add_unsigned(take_number(&mut self.rest)?).ok_or(Malformed)?;
            let patient = if run.act.patients {
                let bytes = take(&mut self.rest, 8)?;
                Some(u64::from_be_bytes(bytes.try_into().map_err(|_| Malformed)?))
            } else {
                None
            };
            each(Timestamp(at), patient);
        }
        if at == run.last.0 { Ok(()) } else { Err(Malformed) }
    }
}

fn take_span(rest: &mut &[u8]) -> Result<(Timestamp, Timestamp), Malformed> {
    if take(rest, 1)? != [VERSION] {
        return Err(Malformed);
    }
    let first = take_signed(rest)?;
    let last = first.checked_add_unsigned(take_number(rest)?).ok_or(Malformed)?;
    Ok((Timestamp(first), Timestamp(last)))
}

fn take_act<'a>(rest: &mut &'a [u8]) -> Result<Act<'a>, Malformed> {
    let (flags, outcome) = (take(rest, 1)?[0], take(rest, 1)?[0]);
    let outcome = *Outcome::ALL.get(usize::from(outcome)).ok_or(Malformed)?;
    let action = Action::parse(take_text(rest)?).ok_or(Malformed)?;
    let (reason, role) = (take_text(rest)?, take_text(rest)?);
    let has = |flag: u8| flags & flag != 0;
    Ok(Act { role, action, outcome, reason, note: has(NOTE), glass: has(GLASS), patients: has(PATIENT) })
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_number(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Seven bits a byte, the low ones first (LEB128).
fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// The sign in the lowest bit.
fn put_signed(out: &mut Vec<u8>, number: i64) {
    put_number(out, ((number << 1) ^ (number >> 63)).cast_unsigned());
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (head, tail) = rest.split_at_checked(length).ok_or(Malformed)?;
    *rest = tail;
    Ok(head)
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, Malformed> {
    let length = usize::try_from(take_number(rest)?).map_err(|_| Malformed)?;
    std::str::from_utf8(take(rest, length)?).map_err(|_| Malformed)
}

fn take_number(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut number = 0;
    for (n, byte) in rest.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            *rest = &rest[n + 1..];
            return Ok(number);
        }
    }
    Err(Malformed)
}

fn take_signed(rest: &mut &[u8]) -> Result<i64, Malformed> {
    let number = take_number(rest)?;
    Ok((number >> 1).cast_signed() ^ -((number & 1).cast_signed()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::index::Indexed;
    use crate::domain::meta::{Patient, tests::sample};

    fn meta(n: u64) -> Meta {
        let mut meta = sample();
        meta.actor.id = format!("user-{}", n % 7);
        meta.actor.role = (!n.is_multiple_of(3)).then(|| format!("role-{}", n % 3));
        meta.reason.code = format!("R{}", n % 5);
        (meta.reason.note_given, meta.reason.break_glass) = (n.is_multiple_of(2), n.is_multiple_of(11));
        meta.outcome = Outcome::ALL[(n % 13 % 3) as usize];
        meta.action = if n.is_multiple_of(17) { Action::LOGIN } else { Action::READ };
        meta.patient = (!n.is_multiple_of(17)).then(|| Patient::Plain(format!("p{}", n % 29)));
        meta.occurred_at = (!n.is_multiple_of(4)).then(|| Timestamp((n as i64 % 1_000 - 500) * 7_919_000_003));
        meta
    }

    /// Everything that is in it: user, role, action, outcome, reason, note, glass, time, patient.
    type Said = (String, String, &'static str, Outcome, String, bool, bool, i64, Option<u64>);

    fn said(activity: &Activity) -> Vec<Said> {
        let (mut out, mut moments) = (Vec::new(), activity.moments());
        activity
            .each_user(&mut |user, runs| {
                for run in runs {
                    let Act { role, action, outcome, reason, note, glass, .. } = run.act;
                    moments.next_run(run, |at, patient| {
                        let (user, role, reason) = (user.to_owned(), role.to_owned(), reason.to_owned());
                        out.push((user, role, action.name(), outcome, reason, note, glass, at.0, patient));
                    })?;
                }
                Ok(())
            })
            .unwrap();
        out.sort();
        out
    }

    proptest! {
        #[test]
        fn what_is_gathered_comes_back_whole_and_its_order_does_not_matter(
            seeds in prop::collection::vec(any::<u64>(), 0..300), below in 0_u32..400
        ) {
            let deeds: Vec<_> = seeds.iter().map(|n| meta(*n)).zip(0_u16..).collect();
            let gather = |deeds: &mut dyn Iterator<Item = &(Meta, u16)>| {
                let mut all = Gathering::default();
                deeds.for_each(|(meta, at)| all.add(&Indexed::of(meta).deed, Timestamp(i64::from(*at)), *at));
                all
            };
            let activity = gather(&mut deeds.iter()).finish(below);
            let mut wanted: Vec<Said> = deeds.iter().filter(|it| u32::from(it.1) < below).map(|(meta, at)| (
                meta.actor.id.clone(),
                meta.actor.role.clone().unwrap_or_default(),
                meta.action.name(),
                meta.outcome,
                meta.reason.code.clone(),
                meta.reason.note_given,
                meta.reason.break_glass,
                meta.occurred_at.map_or(i64::from(*at), |it| it.0),
                meta.patient.as_ref().map(|it| Term::patient(Dimension::Patient, it).key),
            )).collect();
            wanted.sort();
            prop_assert_eq!(said(&activity), wanted);
            // The acts of entries above the bound stay in the list of acts, so only a whole segment is compared.
            let whole = gather(&mut deeds.iter()).finish(u32::MAX);
            prop_assert_eq!(&gather(&mut deeds.iter().rev()).finish(u32::MAX), &whole);
        }

        #[test]
        fn bytes_that_are_no_activity_are_refused_without_harm(heads in any::<Vec<u8>>(), moments in any::<Vec<u8>>()) {
            let activity = Activity { heads: [vec![VERSION], heads].concat(), moments };
            let mut moments = activity.moments();
            let _ = activity.each_user(&mut |_, runs| {
                runs.iter().try_for_each(|run| moments.next_run(run, |_, _| {}))
            });
        }
    }
}
