//! `cargo bench`: what the vault does in a second on this machine, beside a bare SQLite table that takes the same bytes in
//! the same run. Figures are only believed after `verify` has found the result intact.
//!
//! `PHIVAULT_BENCH_ENTRIES` sets the size (default 200,000), `PHIVAULT_BENCH_DIR` the disk; with `PHIVAULT_BENCH_KEEP` the
//! vault is left there, to look into, and with `PHIVAULT_BENCH_OPEN` only readers are timed over such a one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mimalloc::MiMalloc;
use phivault::config::Settings;
use phivault::domain::caller::{Caller, Role};
use phivault::domain::query::QueryIn;
use phivault::domain::submission::{ReasonIn, Submission};
use phivault::domain::{json, time::Clock, time::Timestamp};
use phivault::keyfile::{self, KeyPaths};
use phivault::vault::{
    self, AccessAsked, AsOf, Cost, Creation, Opening, Outcome, RecordAsked, ReencryptIn, ReportIn, Vault, Verdict,
    VerifyAsked,
};

use zeroizing_alloc::ZeroAlloc;

mod limits;
mod parts;

use limits::{Limits, limits};
use parts::{Parts, REASONS, rules, used};

#[global_allocator]
static ALLOCATOR: ZeroAlloc<MiMalloc> = ZeroAlloc(MiMalloc);

const BATCH: usize = 500;
/// Threads that submit batches.
const SUBMITTERS: usize = 4;
/// How long submissions are timed.
const PACE: Duration = Duration::from_secs(4);
const USERS: u64 = 2_000;
const PATIENTS: u64 = 200_000;

struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        Timestamp(chrono::Utc::now().timestamp_micros())
    }
}

fn main() {
    // `cargo test --benches` only asks whether it still builds and runs.
    let smoke = std::env::args().any(|it| it == "--test");
    let entries = if smoke { 2_000 } else { number("PHIVAULT_BENCH_ENTRIES", 200_000) };
    let base = std::env::var("PHIVAULT_BENCH_DIR").map_or_else(|_| std::env::temp_dir(), PathBuf::from);
    if let Some(dir) = std::env::var_os("PHIVAULT_BENCH_OPEN") {
        let vault = open(Path::new(&dir));
        let entries = usize::try_from(vault.ledger_size()).expect("a size fits");
        let mut figures = probe(&vault, entries);
        figures.extend(reports(&vault));
        vault.stop().expect("the vault stops");
        figures.iter().for_each(|(what, microseconds)| println!("{what:<44} {microseconds:>11.0} us"));
        return;
    }
    let folder = tempfile::tempdir_in(base).expect("a folder to work in can be made");
    let dir = folder.path();
    println!(
        "entries {entries}, batches of {BATCH}, 300-byte values, {USERS} users, {PATIENTS} patients (skewed), fsync {:.0} us",
        fsync(dir)
    );
    create(dir);
    let vault = Arc::new(open(dir));
    let blocks = append(&vault, entries);
    if std::env::var_os("PHIVAULT_BENCH_APPEND").is_some() {
        vault.stop().expect("the vault stops");
        drop(vault);
        return appends(&blocks, &limits(dir, BATCH));
    }
    let mut ids = probe(&vault, entries);
    ids.extend(reports(&vault));
    let moved = reencrypt(&vault);
    let paces = paces(&vault);
    vault.settle().expect("the vault seals");
    let all = vault.ledger_size();
    vault.stop().expect("the vault stops");
    let keyless = verify(dir, None);
    let with_keys = verify(dir, Some(keyring(dir)));
    appends(&blocks, &limits(dir, BATCH));
    row("re-encryption, entries a second", moved, None);
    row("keyless verify, all cores, entries a second", keyless, None);
    row("verify with keys, all cores, entries a second", with_keys, None);
    for (what, microseconds) in paces {
        println!("{what:<44} {:>11.0} us", microseconds);
    }
    for (what, microseconds) in ids {
        println!("{what:<44} {:>11.0} us", microseconds);
    }
    let bytes = std::fs::metadata(dir.join("data/vault.db")).expect("the database is there").len();
    println!("{:<44} {:>14.0}", "bytes on disk an entry", bytes as f64 / all as f64);
    if std::env::var_os("PHIVAULT_BENCH_KEEP").is_some() {
        println!("kept in {}", folder.keep().display());
    }
}

/// How fast entries went in, by tenths, and what they cost.
fn appends(blocks: &[Block], limits: &Limits) {
    let raw = limits.raw;
    println!("\n{:<44} {:>14} {:>10}", "what", "figure", "of raw");
    let (all, cpu): (Duration, Duration) =
        (blocks.iter().map(|it| it.took).sum(), blocks.iter().map(|it| it.cpu).sum());
    let done: usize = blocks.iter().map(|it| it.entries).sum();
    row("durable append, entries a second", rate(done, all), Some(rate(done, all) / raw));
    row("  raw SQLite, the same bytes", raw, Some(1.0));
    for (n, it) in blocks.iter().enumerate() {
        let each = rate(it.entries, it.took);
        row(&format!("  block {} (of {})", n + 1, it.entries), each, Some(each / raw));
    }
    row("  SHA-256 of the same bytes, one core", limits.sha256, Some(limits.sha256 / raw));
    row("  AES-256-GCM of the same bytes, one core", limits.aes, Some(limits.aes / raw));
    row("  a scan of the same rows", limits.scan, Some(limits.scan / raw));
    let writer: Duration = blocks.iter().map(|it| it.writer).sum();
    let each = |took: Duration| took.as_secs_f64() * 1e6 / done as f64;
    let mut random = SplitMix64(11);
    let lines: Vec<String> = (0..20_000).map(|n| submission(&mut random, n, moment(n, 20_000))).collect();
    let parts = Parts::of(&lines);
    let named = [
        ("CPU an entry, all threads", each(cpu)),
        ("  parse", parts.parse),
        ("  check", parts.check),
        ("  seal", parts.seal),
        ("  hash: leaves and terms", parts.hash),
        ("  store: the writer's thread", each(writer)),
        ("  the rest: look-ups, queue, memory, index", each(cpu) - each(writer) - parts.sum()),
    ];
    named.iter().for_each(|(what, microseconds)| println!("{what:<44} {microseconds:>11.2} us"));
}

/// Repeatable chance (Steele, Lea and Flood, 2014).
struct SplitMix64(u64);

impl SplitMix64 {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Makes entries the way a hospital does: few users and patients do much, most do little.
fn submission(random: &mut SplitMix64, n: usize, at: Timestamp) -> String {
    let skewed = |random: &mut SplitMix64, count: u64| {
        let unit = random.next_u64() as f64 / u64::MAX as f64;
        ((count as f64).powf(unit) - 1.0) as u64
    };
    let (user, patient) = (skewed(random, USERS), skewed(random, PATIENTS));
    let value: String = (0..300).map(|_| char::from(b'a' + (random.next_u64() % 26) as u8)).collect();
    let id = uuid::Uuid::now_v7();
    let reason = ["TREAT", "ETREAT", "HPAYMT", "HOPERAT"][(random.next_u64() % 4) as usize];
    format!(
        r#"{{"id":"{id}","occurred_at":"{at}","action":"update","actor":{{"id":"user-{user}","role":"physician"}},"patient":{{"id":"MRN-{patient}"}},"record":{{"type":"Observation","id":"o-{patient}-{}"}},"reason":{{"code":"{reason}"}},"changes":[{{"field":"value","new":"{value}"}}],"context":{{"session_id":"s-{}"}}}}"#,
        n % 7,
        n / 12,
    )
}

/// When entry `n` of `entries` happened: spread over the year before now.
fn moment(n: usize, entries: usize) -> Timestamp {
    let left = 1.0 - n as f64 / entries as f64;
    Timestamp(WallClock.now().0 - (left * 365.0 * 86_400e6) as i64)
}

/// A part of all appends.
struct Block {
    entries: usize,
    took: Duration,
    cpu: Duration,
    /// What the writer's thread used of it.
    writer: Duration,
}

/// What this process has used of all cores so far.
fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).expect("nanoseconds fit"))
}

/// Appends from several threads, as connections would; each block is timed by itself, text to receipt.
fn append(vault: &Arc<Vault>, entries: usize) -> Vec<Block> {
    let block = (entries / 10).max(BATCH);
    let mut random = SplitMix64(7);
    let mut out = Vec::new();
    for from in (0..entries).step_by(block) {
        let batches: Vec<Vec<String>> = (from..entries.min(from + block))
            .collect::<Vec<_>>()
            .chunks(BATCH)
            .map(|chunk| chunk.iter().map(|n| submission(&mut random, *n, moment(*n, entries))).collect())
            .collect();
        let count = batches.iter().map(Vec::len).sum();
        let writer = || used(std::process::id(), "writer");
        let (began, busy, written) = (Instant::now(), cpu(), writer());
        std::thread::scope(|scope| {
            for own in 0..SUBMITTERS {
                let batches = &batches;
                scope.spawn(move || {
                    for batch in batches.iter().skip(own).step_by(SUBMITTERS) {
                        let lines = batch.iter().map(|line| json::parse::<Submission>(line.as_bytes()));
                        let outcomes =
                            vault.submit_batch(&caller(Role::Submitter), lines, false).expect("the batch goes in");
                        assert!(outcomes.iter().all(|it| matches!(it, Outcome::Accepted(_))));
                    }
                });
            }
        });
        out.push(Block { entries: count, took: began.elapsed(), cpu: cpu() - busy, writer: writer() - written });
    }
    out
}

/// Medians of what readers do.
fn probe(vault: &Vault, entries: usize) -> Vec<(&'static str, f64)> {
    let officer = caller(Role::Officer);
    let reason = || ReasonIn { code: Some("HCOMPL".into()), ..ReasonIn::default() };
    let search = |query: QueryIn| vault.search(&officer, query).expect("the search is answered");
    let newest =
        search(QueryIn { limit: Some(1000.min(entries / 2)), action: Some("update".into()), ..QueryIn::default() });
    let ids: Vec<_> = newest.entries.iter().map(|it| it.id).collect();
    let access = |actor: Option<&str>| {
        let offset = chrono::FixedOffset::east_opt(0).expect("zero is an offset");
        let asked = AccessAsked { actor: actor.map(Into::into), from: None, to: None, offset, reason: reason() };
        vault.access_report(&officer, asked).expect("the report is made")
    };
    vec![
        (
            "search: newest 50 of a patient",
            median(|| drop(search(QueryIn { patient: Some("MRN-3".into()), limit: Some(50), ..QueryIn::default() }))),
        ),
        (
            "search: newest 50 of a user",
            median(|| drop(search(QueryIn { actor: Some("user-9".into()), limit: Some(50), ..QueryIn::default() }))),
        ),
        (
            "search: newest 50 of a reason",
            median(|| drop(search(QueryIn { reason: Some("ETREAT".into()), limit: Some(50), ..QueryIn::default() }))),
        ),
        ("reveal: one entry", median(|| drop(vault.reveal(&officer, &ids[..1], reason())))),
        ("reveal: up to 1,000 entries", median(|| drop(vault.reveal(&officer, &ids, reason())))),
        ("report: one user", median(|| drop(access(Some("user-9"))))),
        ("report: all users", once(|| drop(access(None)))),
        ("proof of an entry", median(|| drop(vault.proof(&officer, ids[ids.len() / 2])))),
        (
            "key rotation",
            median(|| {
                drop(vault.rotate_keys(
                    &caller(Role::Admin),
                    ReasonIn { code: Some("HSYSADMIN".into()), ..ReasonIn::default() },
                ))
            }),
        ),
    ]
}

/// Medians of what officers ask for: reports that are kept, and a record of a thousand changes.
fn reports(vault: &Vault) -> Vec<(&'static str, f64)> {
    let officer = caller(Role::Officer);
    let reason = || Some(ReasonIn { code: Some("HCOMPL".into()), ..ReasonIn::default() });
    let report = |asked: ReportIn| drop(vault.make_report(&officer, asked).expect("the report is made"));
    let asked = |kind: &str| ReportIn { report: Some(kind.into()), reason: reason(), ..ReportIn::default() };
    let changes: Vec<String> = (0..1_000)
        .map(|n| {
            format!(
                r#"{{"action":"update","actor":{{"id":"bench"}},"patient":{{"id":"MRN-b"}},"record":{{"type":"Bench","id":"b"}},"reason":{{"code":"TREAT"}},"changes":[{{"field":"f{}","old":{n},"new":{}}}]}}"#,
                n % 10,
                n + 1
            )
        })
        .collect();
    let lines = changes.iter().map(|line| json::parse::<Submission>(line.as_bytes()));
    vault.submit_batch(&caller(Role::Submitter), lines, false).expect("the changes go in");
    let record = || RecordAsked {
        kind: "Bench".into(),
        id: "b".into(),
        reason: ReasonIn { code: Some("HCOMPL".into()), ..ReasonIn::default() },
    };
    vec![
        (
            "kept report: one of the busiest users",
            median(|| report(ReportIn { actor: Some("user-9".into()), ..asked("access") })),
        ),
        ("kept report: one user", median(|| report(ReportIn { actor: Some("user-260".into()), ..asked("access") }))),
        ("kept report: one patient", median(|| report(ReportIn { patient: Some("MRN-9".into()), ..asked("patient") }))),
        (
            "kept report: accounting for one patient",
            median(|| report(ReportIn { patient: Some("MRN-9".into()), ..asked("disclosures") })),
        ),
        ("kept report: all users", once(|| report(asked("users")))),
        ("kept report: continuity of all records", once(|| report(asked("continuity")))),
        (
            "state of a record of 1,000 changes",
            median(|| drop(vault.record_state(&officer, record(), AsOf::default()).expect("the state is told"))),
        ),
    ]
}

/// Everything under the newest key, as fast as it goes.
fn reencrypt(vault: &Vault) -> f64 {
    let reason = Some(ReasonIn { code: Some("HSYSADMIN".into()), ..ReasonIn::default() });
    let admin = caller(Role::Admin);
    let began = Instant::now();
    let mut far = vault.reencrypt(&admin, ReencryptIn { per_second: Some(0), reason }).expect("it begins");
    while far.running {
        std::thread::sleep(Duration::from_millis(5));
        far = vault.reencryption(&admin).expect("it tells");
    }
    assert!(far.problem.is_none() && far.damaged == 0 && far.done == far.total, "the re-encryption is whole");
    far.done as f64 / began.elapsed().as_secs_f64()
}

/// The 99th percentile of single submissions from two applications, microseconds: alone, while keys rotate, while values move.
fn paces(vault: &Arc<Vault>) -> Vec<(&'static str, f64)> {
    let admin = caller(Role::Admin);
    let reason = || ReasonIn { code: Some("HSYSADMIN".into()), ..ReasonIn::default() };
    let mut out = vec![("one submission, p99, alone", p99(vault, || std::thread::sleep(PACE)))];
    let rotate = || {
        let end = Instant::now() + PACE;
        while Instant::now() < end {
            vault.rotate_keys(&admin, reason()).expect("the keys rotate");
            std::thread::sleep(Duration::from_millis(250));
        }
    };
    out.push(("one submission, p99, keys rotate 4/s", p99(vault, rotate)));
    let per_second = Some((vault.ledger_size() / 40).max(5_000));
    let asked = ReencryptIn { per_second, reason: Some(reason()) };
    vault.reencrypt(&admin, asked).expect("it begins");
    out.push(("one submission, p99, paced re-encryption", p99(vault, || std::thread::sleep(PACE))));
    while vault.reencryption(&admin).expect("it tells").running {
        std::thread::sleep(Duration::from_millis(20));
    }
    out
}

fn p99(vault: &Arc<Vault>, meanwhile: impl FnOnce()) -> f64 {
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut all: Vec<f64> = std::thread::scope(|scope| {
        let submitters: Vec<_> = (0..2)
            .map(|n| {
                let stop = &stop;
                scope.spawn(move || {
                    let (mut random, mut times) = (SplitMix64(n), Vec::new());
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        let line = submission(&mut random, times.len(), WallClock.now());
                        times.push(once(|| {
                            let line = json::parse::<Submission>(line.as_bytes());
                            vault.submit_batch(&caller(Role::Submitter), [line], false).expect("no request fails");
                        }));
                    }
                    times
                })
            })
            .collect();
        meanwhile();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        submitters.into_iter().flat_map(|it| it.join().expect("a submitter does not panic")).collect()
    });
    all.sort_by(f64::total_cmp);
    all[all.len() * 99 / 100]
}

fn verify(dir: &Path, keyring: Option<(Arc<vault::Keyring>, String)>) -> f64 {
    let settings = Settings::in_folder(dir);
    let paths = KeyPaths::in_folder(&dir.join("keys"));
    let began = Instant::now();
    let asked = VerifyAsked {
        data: settings.storage.data_dir,
        verifier_key: paths.verifier_key(),
        lock: paths.lock,
        since: None,
        policy: None,
        keyring,
        progress: &mut |_, _| {},
    };
    let report = vault::verify(asked).expect("the vault can be verified");
    assert_eq!(report.verdict, Verdict::Intact, "{:?}", report.findings);
    rate(usize::try_from(report.entries).expect("a size fits"), began.elapsed())
}

fn keyring(dir: &Path) -> (Arc<vault::Keyring>, String) {
    let unlock = keyfile::read_key_file(&dir.join("unlock.key")).expect("the key file reads");
    let file = keyfile::read_private(&dir.join("keys/keyring"), "keyring").expect("the keyring reads");
    let keyring = vault::Keyring::decode(&file, &unlock).expect("the keyring opens").0;
    (Arc::new(keyring), vault::keyring_digest(&file))
}

fn create(dir: &Path) {
    keyfile::create_key_file(&dir.join("unlock.key")).expect("a key file can be made");
    let unlock = keyfile::read_key_file(&dir.join("unlock.key")).expect("the key file reads");
    let keys = KeyPaths::in_folder(&dir.join("keys"));
    let creation = Creation {
        data: dir.join("data"),
        keys,
        unlock: &unlock,
        cost: Cost::default(),
        name: "bench.phivault.local",
        blind: false,
    };
    vault::create(&creation, &WallClock).expect("a vault can be made");
}

fn open(dir: &Path) -> Vault {
    let unlock = keyfile::read_key_file(&dir.join("unlock.key")).expect("the key file reads");
    Vault::open(Opening {
        data: dir.join("data"),
        keys: KeyPaths::in_folder(&dir.join("keys")),
        unlock: &unlock,
        settings: vault::Settings {
            rules: rules(),
            blind_patients: false,
            queue_kib: 65_536,
            scrub_per_second: 0,
            two_person: false,
            restore_seconds: 604_800,
            approval_seconds: 60,
            reencrypt_per_second: 0,
            rotate_days: 0,
            sessions: vault::SessionLimits { idle: Duration::from_secs(900), whole: Duration::from_secs(28_800) },
            disk_reserve: 0,
            keyring_backup_days: 30,
        },
        vocabulary: REASONS,
        clock: Arc::new(WallClock),
        clock_state: "unknown",
        restored: None,
        fatal: Box::new(|| std::process::exit(70)),
    })
    .expect("the vault opens")
}

fn caller(role: Role) -> Caller {
    Caller { token_id: "bench".into(), label: "bench".into(), role }
}

/// Microseconds of a 4 KiB write that is synced, for scale.
fn fsync(dir: &Path) -> f64 {
    let mut file = std::fs::File::create(dir.join("fsync")).expect("a file can be made");
    median(|| {
        std::io::Write::write_all(&mut file, &[0; 4096]).expect("a page can be written");
        file.sync_data().expect("a page can be synced");
    })
}

fn median(mut run: impl FnMut()) -> f64 {
    let mut times: Vec<_> = (0..21).map(|_| once(&mut run)).collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn once(run: impl FnOnce()) -> f64 {
    let began = Instant::now();
    run();
    began.elapsed().as_secs_f64() * 1e6
}

fn rate(count: usize, spent: Duration) -> f64 {
    count as f64 / spent.as_secs_f64()
}

fn row(what: &str, figure: f64, ratio: Option<f64>) {
    match ratio {
        Some(ratio) => println!("{what:<44} {figure:>14.0} {ratio:>10.2}"),
        None => println!("{what:<44} {figure:>14.0}"),
    }
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|it| it.parse().ok()).unwrap_or(default)
}
