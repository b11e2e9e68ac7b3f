//! A disk that forgets: what a recorder saw a process do to its files, replayed up to a moment, with any part of what was not synced
//! lost. Writes persist in pieces of a sector and in any order; sizes and names follow only a sync, or chance.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use crate::chance::Chance;

/// What a disk writes as a whole, in bytes.
const SECTOR: usize = 512;

/// Something done to the disk, and when it had returned (CLOCK_MONOTONIC, nanoseconds).
pub struct Done {
    pub time: u64,
    pub path: PathBuf,
    pub what: What,
}

pub enum What {
    Made,
    Written(usize, Vec<u8>),
    Cut(usize),
    Synced,
    Removed,
    Renamed(PathBuf),
}

/// Reads what `tests/fault/recorder.c` wrote.
pub fn read(record: &Path) -> Vec<Done> {
    let bytes = std::fs::read(record).unwrap();
    let mut rest = bytes.as_slice();
    let mut all = Vec::new();
    while !rest.is_empty() {
        let mut number = || {
            let (first, more) = rest.split_first_chunk::<8>().unwrap();
            rest = more;
            u64::from_le_bytes(*first)
        };
        let [kind, time, at, path, length] = std::array::from_fn(|_| number());
        let (path, more) = rest.split_at(path as usize);
        let (body, more) = more.split_at(length as usize);
        rest = more;
        let path_of = |it: &[u8]| PathBuf::from(std::str::from_utf8(it).unwrap());
        let what = match char::from_u32(kind as u32).unwrap() {
            'c' => What::Made,
            'w' => What::Written(at as usize, body.to_vec()),
            't' => What::Cut(at as usize),
            's' => What::Synced,
            'u' => What::Removed,
            'r' => What::Renamed(path_of(body)),
            other => panic!("the recorder wrote {other}"),
        };
        all.push(Done { time, path: path_of(path), what });
    }
    all
}

/// Which syncs of a record `synchronous=NORMAL` would not have made: those of the write-ahead log after a commit. It makes those of
/// the log's header, and before a checkpoint writes the database.
pub fn left_out_by_normal(all: &[Done]) -> Vec<bool> {
    let is_log = |it: &Path| it.to_str().is_some_and(|it| it.ends_with("-wal"));
    let mut header = false;
    let mut left_out = vec![false; all.len()];
    for (n, done) in all.iter().enumerate().filter(|(_, it)| is_log(&it.path)) {
        match done.what {
            What::Written(at, _) => header = at == 0,
            What::Synced if !header => {
                let next = all[n + 1..].iter().find(|it| matches!(it.what, What::Written(..)));
                left_out[n] = next.is_some_and(|it| is_log(&it.path));
            }
            _ => {}
        }
    }
    left_out
}

/// What a file holds for certain, and what was done to it since its last sync.
#[derive(Clone, Default)]
struct File {
    safe: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Cut(usize),
}

/// A change of names that no sync of its folder followed yet.
#[derive(Clone)]
enum Name {
    Is(PathBuf, usize),
    IsGone(PathBuf),
}

/// The disk at some moment.
#[derive(Clone, Default)]
pub struct Disk {
    files: Vec<File>,
    /// The names as the running process sees them.
    seen: HashMap<PathBuf, usize>,
    /// The names that survive for certain.
    safe: BTreeMap<PathBuf, usize>,
    /// By folder, in the order they were made.
    unsynced: BTreeMap<PathBuf, Vec<Name>>,
}

impl Disk {
    /// What lies in these folders, all of it safe.
    pub fn of(folders: &[PathBuf]) -> Self {
        let mut disk = Self::default();
        for entry in folders.iter().flat_map(|it| std::fs::read_dir(it).unwrap()) {
            let path = entry.unwrap().path();
            if is_kept(&path) {
                disk.files.push(File { safe: std::fs::read(&path).unwrap(), unsynced: Vec::new() });
                disk.seen.insert(path.clone(), disk.files.len() - 1);
                disk.safe.insert(path, disk.files.len() - 1);
            }
        }
        disk
    }

    /// Does what was done; `forgets` leaves a sync out.
    pub fn follow(&mut self, done: &Done, forgets: bool) {
        if !is_kept(&done.path) {
            return;
        }
        match &done.what {
            What::Made => {
                self.files.push(File::default());
                self.named(&done.path, Name::Is(done.path.clone(), self.files.len() - 1));
            }
            What::Written(at, bytes) => self.file(&done.path).unsynced.push(Change::Write(*at, bytes.clone())),
            What::Cut(size) => self.file(&done.path).unsynced.push(Change::Cut(*size)),
            What::Synced if forgets => {}
            What::Synced => self.sync(&done.path),
            What::Removed => self.named(&done.path, Name::IsGone(done.path.clone())),
            What::Renamed(to) => {
                let file = self.seen[&done.path];
                self.named(to, Name::Is(to.clone(), file));
                self.named(&done.path, Name::IsGone(done.path.clone()));
            }
        }
    }

    fn file(&mut self, path: &Path) -> &mut File {
        let file = *self.seen.get(path).unwrap_or_else(|| panic!("{} was written before it was made", path.display()));
        &mut self.files[file]
    }

    fn named(&mut self, path: &Path, name: Name) {
        match &name {
            Name::Is(path, file) => drop(self.seen.insert(path.clone(), *file)),
            Name::IsGone(path) => drop(self.seen.remove(path)),
        }
        self.unsynced.entry(path.parent().unwrap().to_owned()).or_default().push(name);
    }

    fn sync(&mut self, path: &Path) {
        if let Some(file) = self.seen.get(path) {
            let file = &mut self.files[*file];
            for change in std::mem::take(&mut file.unsynced) {
                change.persist(&mut file.safe, |_| true);
            }
        } else {
            // A folder.
            for name in self.unsynced.remove(path).unwrap_or_default() {
                name.persist(&mut self.safe);
            }
        }
    }

    /// What a start after a power cut may find: files and their content.
    pub fn after_power_cut(&self, chance: &mut Chance) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut names = self.safe.clone();
        for changes in self.unsynced.values() {
            // A journal of names keeps their order.
            let kept = chance.below(changes.len() as u64 + 1) as usize;
            changes[..kept].iter().for_each(|it| it.persist(&mut names));
        }
        // How much of the unsynced persists differs from cut to cut: nothing, nearly all, or anything between.
        let share = [0, 50, 500, 950, 1_000][chance.below(5) as usize];
        let content = |file: &File, chance: &mut Chance| {
            let mut bytes = file.safe.clone();
            for change in &file.unsynced {
                match change {
                    // Torn: each of its sectors by itself.
                    Change::Write(..) if chance.below(3) == 0 => {
                        change.persist(&mut bytes, |_| chance.below(1_000) < share);
                    }
                    _ if chance.below(1_000) < share => change.persist(&mut bytes, |_| true),
                    _ => {}
                }
            }
            bytes
        };
        names.into_iter().map(|(path, file)| (path, content(&self.files[file], chance))).collect()
    }
}

impl Change {
    /// Brings a change to the disk, of a write only the sectors that are told to persist.
    fn persist(&self, bytes: &mut Vec<u8>, mut persists: impl FnMut(usize) -> bool) {
        match self {
            Self::Cut(size) => bytes.resize(*size, 0),
            Self::Write(at, written) => {
                let mut from = 0;
                while from < written.len() {
                    let sector = (at + from) / SECTOR;
                    let to = written.len().min((sector + 1) * SECTOR - at);
                    if persists(sector) {
                        bytes.resize(bytes.len().max(at + to), 0);
                        bytes[at + from..at + to].copy_from_slice(&written[from..to]);
                    }
                    from = to;
                }
            }
        }
    }
}

impl Name {
    fn persist(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Is(path, file) => drop(names.insert(path.clone(), *file)),
            Self::IsGone(path) => drop(names.remove(path)),
        }
    }
}

/// The shared memory beside a log is no file of the disk: whoever opens the database first makes it anew.
fn is_kept(path: &Path) -> bool {
    !path.to_str().unwrap().ends_with("-shm")
}

#[test]
fn what_was_synced_survives_and_what_was_not_may_be_lost_in_part() {
    let (folder, file) = (PathBuf::from("/d"), PathBuf::from("/d/f"));
    let mut disk = Disk::default();
    let done = |path: &Path, what| Done { time: 0, path: path.to_owned(), what };
    for it in [
        done(&file, What::Made),
        done(&file, What::Written(0, vec![1; 1_024])),
        done(&file, What::Synced),
        done(&folder, What::Synced),
        done(&file, What::Written(0, vec![2; 1_024])),
    ] {
        disk.follow(&it, false);
    }
    let mut chance = Chance(7);
    let mut kinds: Vec<Vec<u8>> = (0..500).map(|_| disk.after_power_cut(&mut chance).remove(&file).unwrap()).collect();
    kinds.sort();
    kinds.dedup();
    let sectors = |a, b| [vec![a; 512], vec![b; 512]].concat();
    assert_eq!(kinds, [sectors(1, 1), sectors(1, 2), sectors(2, 1), sectors(2, 2)]);
}
