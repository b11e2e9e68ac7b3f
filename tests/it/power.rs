//! Power cuts: a real server's writes and syncs are recorded, and replayed up to a moment at random with what was not synced lost, torn
//! or out of order. What was acknowledged before that moment is there, where it was told; the ledger has the root that the lock holds;
//! the vault starts. The same record with the syncs left out that `synchronous=NORMAL` leaves out must lose entries, or the harness
//! would see nothing.
//!
//! The cuts are simulated: the calls are real, the disk is a model (`power/disk.rs`). It keeps what was synced, for certain.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;

use phivault::crypto::keyring::Keyring;
use phivault::keyfile::{KeyPaths, read_key_file, read_verifier_key};
use phivault::ledger::checkpoint;
use phivault::ledger::hash::Hash;
use phivault::ledger::tree::Edge;
use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::{App, Client, entry, program, text, unlock_file, verify};
use crate::chance::{Chance, number};
use crate::faults::preloaded;

use disk::{Disk, Done};

mod disk;

/// Applications that submit at the same time.
const APPLICATIONS: usize = 4;
/// Requests of each in a part of the life.
const REQUESTS: usize = 12;
/// Cuts into one recorded life.
const CUTS_A_LIFE: u64 = 10_000;
/// One of so many cuts is followed by a real start and `phivault verify`, after the looks at the files.
const START_EVERY: u64 = 250;

/// An acknowledgement: when it was read (CLOCK_MONOTONIC, nanoseconds), the position, the leaf hash.
#[derive(Clone)]
struct Told {
    time: u64,
    sequence: usize,
    leaf: String,
}

/// A recorded life.
struct Life {
    folder: PathBuf,
    before: Disk,
    done: Vec<Done>,
    told: Vec<Told>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_power_cut_loses_what_was_acknowledged() {
    if !cfg!(target_os = "linux") {
        return eprintln!("SKIPPED: a library is preloaded under the server, which takes Linux");
    }
    if !cfg!(debug_assertions) {
        return eprintln!("SKIPPED: only a debug build moves its log often enough (cargo test without --release)");
    }
    let cuts = number("PHIVAULT_TEST_POWER_CUTS", 1_000);
    let seed = number("PHIVAULT_TEST_SEED", 20_261_129);
    println!("{cuts} power cuts, seed {seed} (PHIVAULT_TEST_POWER_CUTS, PHIVAULT_TEST_SEED)");
    let (mut lost_by_normal, mut entries) = ((0, 0), 0);
    for begun in (0..cuts).step_by(CUTS_A_LIFE as usize) {
        let cuts = CUTS_A_LIFE.min(cuts - begun);
        let mut app = App::spawn().await;
        let life = recorded(&mut app).await;
        assert!(life.told.len() > 200, "{} acknowledgements are too few", life.told.len());
        println!("{} calls recorded, {} entries acknowledged", life.done.len(), life.told.len());
        let full = replay(&life, cuts, seed + begun, false);
        println!("as it is: {full:?}");
        assert_eq!((full.lost, full.broken), (0, 0), "{full:?}");
        let normal = replay(&life, cuts / 5, seed + begun, true);
        println!("with synchronous=NORMAL: {normal:?}");
        assert!(normal.lost * 2 > normal.cuts, "the harness does not see the loss it must see: {normal:?}");
        assert_eq!(normal.broken, 0, "NORMAL loses, and breaks nothing: {normal:?}");
        lost_by_normal = (lost_by_normal.0 + normal.lost, lost_by_normal.1 + normal.cuts);
        entries += life.told.len();
        app.finish();
    }
    let (lost, of) = lost_by_normal;
    println!(
        "in all: {cuts} cuts into lives of {entries} acknowledged entries: 0 lost any, 0 broke anything; NORMAL lost some in {lost} of {of}"
    );
}

/// Lives under the recorder: load, kill -9, load with a rotation, a stop, a start.
async fn recorded(app: &mut App) -> Life {
    app.stop();
    let folders = [app.dir().join("data"), app.dir().join("keys")];
    let before = Disk::of(&folders);
    let record = app.dir().join("record");
    let recorder = preloaded("recorder.c", app.dir());
    app.set("LD_PRELOAD", recorder.to_str().unwrap());
    app.set("RECORD_TO", record.to_str().unwrap());
    // Both folders of the vault, and nothing else of it.
    app.set("RECORD_UNDER", app.dir().to_str().unwrap().to_owned().as_str());
    app.set("PHIVAULT_TEST_LOG_PAGES", "200");
    let mut told = Vec::new();
    for part in 0..4 {
        app.start();
        told.extend(load(app).await);
        if part == 1 {
            let rotated = app.admin().post("/v1/keys/rotate", &json!({"reason": {"code": "HSYSADMIN"}})).await;
            assert_eq!(rotated.status, 200, "{rotated:?}");
            told.extend(load(app).await);
        }
        if part % 2 == 0 { app.kill() } else { app.stop() }
    }
    app.set("LD_PRELOAD", "");
    let done: Vec<_> =
        disk::read(&record).into_iter().filter(|it| folders.iter().any(|of| it.path.starts_with(of))).collect();
    Life { folder: app.dir().to_owned(), before, done, told }
}

async fn load(app: &App) -> Vec<Told> {
    let working: Vec<_> = (0..APPLICATIONS).map(|n| tokio::spawn(submits(app.submitter(), n))).collect();
    let mut told = Vec::new();
    for it in working {
        told.extend(it.await.unwrap());
    }
    told
}

async fn submits(client: Client, application: usize) -> Vec<Told> {
    let mut told = Vec::new();
    for n in 0..REQUESTS {
        let bodies: Vec<_> = (0..if n % 3 == 0 { 7 } else { 1 })
            .map(|_| {
                let mut body = entry();
                body["id"] = json!(Uuid::now_v7());
                body["patient"]["id"] = json!(format!("MRN-{}", n + application));
                body
            })
            .collect();
        let answer = client.post("/v1/entries/batch", &json!(bodies)).await;
        let time = now();
        assert_eq!(answer.status, 200, "{answer:?}");
        let receipt = |it: &Value| Told {
            time,
            sequence: it["receipt"]["sequence"].as_u64().unwrap() as usize,
            leaf: it["receipt"]["leaf_hash"].as_str().unwrap().to_owned(),
        };
        told.extend(answer.json()["results"].as_array().unwrap().iter().map(receipt));
    }
    told
}

/// The clock of the recorder.
fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// What came of the cuts.
#[derive(Default, Debug)]
struct Sum {
    cuts: u64,
    /// Cuts after which something acknowledged was missing.
    lost: u64,
    /// The most entries that one cut lost.
    most: usize,
    /// Cuts after which the files were not those of a vault.
    broken: u64,
    /// Cuts followed by a start of the real thing.
    started: u64,
    /// What the first broken one looked like.
    first: Option<String>,
}

/// Cuts the power so many times, spread evenly over the life, on two threads.
fn replay(life: &Life, cuts: u64, seed: u64, lazy: bool) -> Sum {
    let sum = Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for half in 0..2 {
            let sum = &sum;
            scope.spawn(move || replay_half(life, half, cuts, &mut Chance(seed + half), lazy, sum));
        }
    });
    sum.into_inner().unwrap()
}

fn replay_half(life: &Life, half: u64, cuts: u64, chance: &mut Chance, lazy: bool, sum: &Mutex<Sum>) {
    let place = tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap();
    let mut disk = life.before.clone();
    let calls = life.done.len() as u64;
    let left_out = disk::left_out_by_normal(&life.done);
    for (n, done) in life.done.iter().enumerate() {
        let n = n as u64;
        // How many cuts come at this call.
        for cut in (n * cuts / calls)..((n + 1) * cuts / calls) {
            if cut % 2 != half {
                continue;
            }
            let outcome = cut_here(life, &disk, done.time, chance, place.path(), !lazy && cut % START_EVERY == half);
            let mut sum = sum.lock().unwrap();
            sum.cuts += 1;
            match outcome {
                Ok(missing) => {
                    sum.lost += u64::from(missing > 0);
                    sum.most = sum.most.max(missing);
                }
                Err(why) => {
                    sum.broken += 1;
                    sum.first.get_or_insert(format!("cut {cut} before call {n}: {why}"));
                }
            }
            sum.started += u64::from(!lazy && cut % START_EVERY == half);
        }
        disk.follow(done, lazy && left_out[n as usize]);
    }
}

/// One cut: how many acknowledged entries are missing, or why the files are no vault's.
fn cut_here(
    life: &Life,
    disk: &Disk,
    time: u64,
    chance: &mut Chance,
    place: &Path,
    start: bool,
) -> Result<usize, String> {
    lay_out(life, &disk.after_power_cut(chance), place);
    let leaves = leaves(place)?;
    check_keys(place, &leaves, &life.folder)?;
    let told = life.told.iter().filter(|it| it.time < time);
    let missing = told.filter(|it| leaves.get(it.sequence).map(hex::encode).as_ref() != Some(&it.leaf)).count();
    if start {
        starts(life, place)?;
    }
    Ok(missing)
}

/// Writes what the disk holds after the cut.
fn lay_out(life: &Life, files: &BTreeMap<PathBuf, Vec<u8>>, place: &Path) {
    for folder in ["data", "keys"] {
        let folder = place.join(folder);
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir(&folder).unwrap();
    }
    for (path, bytes) in files {
        let to = place.join(path.strip_prefix(&life.folder).unwrap());
        std::fs::write(&to, bytes).unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// Opens the database as the next start does, and reads the leaf of every entry.
fn leaves(place: &Path) -> Result<Vec<[u8; 32]>, String> {
    let database = Connection::open(place.join("data/vault.db")).map_err(|it| it.to_string())?;
    let sound: String =
        database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).map_err(|it| it.to_string())?;
    if sound != "ok" {
        return Err(sound);
    }
    let mut statement = database.prepare("SELECT sequence, leaf FROM entry ORDER BY sequence").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, [u8; 32]>(1)?))).unwrap();
    let rows: Vec<_> = rows.collect::<Result<_, _>>().map_err(|it| it.to_string())?;
    match rows.iter().enumerate().find(|(n, (sequence, _))| *n as i64 != *sequence) {
        None => Ok(rows.into_iter().map(|(_, leaf)| leaf).collect()),
        Some((n, _)) => Err(format!("position {n} is missing")),
    }
}

/// The lock holds a checkpoint of these leaves, and the keyring opens.
fn check_keys(place: &Path, leaves: &[[u8; 32]], from: &Path) -> Result<(), String> {
    let paths = KeyPaths::in_folder(&place.join("keys"));
    let key = read_verifier_key(&paths.verifier_key()).map_err(|it| it.to_string())?;
    let note = std::fs::read_to_string(&paths.lock).map_err(|it| format!("lock: {it}"))?;
    let signed =
        checkpoint::open(&note, key.name(), std::slice::from_ref(&key)).map_err(|it| format!("lock: {it:?}"))?;
    let covered = leaves.get(..signed.size as usize).ok_or("the lock is ahead of the database")?;
    let mut edge = Edge::new();
    covered.iter().for_each(|leaf| drop(edge.append(Hash(*leaf))));
    if edge.root() != signed.root {
        return Err("the lock holds another root".into());
    }
    let ring = std::fs::read_to_string(&paths.keyring).map_err(|it| format!("keyring: {it}"))?;
    let unlock = read_key_file(&unlock_file(from)).unwrap();
    Keyring::decode(&ring, &unlock).map(|_| ()).map_err(|it| format!("keyring: {it}"))
}

/// The real thing starts on what is left, stops, and is intact.
fn starts(life: &Life, place: &Path) -> Result<(), String> {
    std::fs::copy(life.folder.join("phivault.toml"), place.join("phivault.toml")).unwrap();
    let mut command = program();
    command.arg("serve").arg("--config").arg(place.join("phivault.toml")).env("PHIVAULT_SERVER__LISTEN", "127.0.0.1:0");
    let mut server = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut said).unwrap();
    if said.contains("http") {
        kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    }
    let output = server.wait_with_output().unwrap();
    let (code, report) = verify(place);
    match (output.status.success() && said.contains("http"), code) {
        (true, 0) => Ok(()),
        _ => Err(format!("it does not start, or is not intact: {}{report:#}", text(&output))),
    }
}
