//! `phivault import`: brings a file of submissions into a vault, safely repeatable.

mod lines;
mod refused;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use self::lines::{Batch, Item, Limits, Lines, Refused};
use self::refused::{RefusedFile, default_path};
use crate::cli::client::terminal;
use crate::cli::client::{Client, ConnectArgs, FieldError, Problem};

/// Bring a file of entries into the vault, one JSON object a line
///
/// FILE is NDJSON, plain or gzip, of any size; `-` reads standard input. Each line is a submission as POST /v1/entries
/// takes it. It is sent byte for byte; only a line without an "id" gets one, derived from the line itself and from
/// how often the same line came before. So a second import of the same file stores nothing twice: everything already
/// in is counted as a duplicate, and running the command again is how an import that stopped is finished. (The same
/// line in two files is one entry for the same reason: give lines ids if that is not meant.)
///
/// Lines the vault refuses do not stop the others. They go, unchanged and with the reasons, to the --refused file, from
/// which `jq -c .submission` gets them back after correction.
///
/// The exit code is 0 when every line is in, 1 when some were refused, 2 when the import stopped early.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// NDJSON, plain or gzip; `-` for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Lines to send at once, at most (a batch is also at most 8 MiB)
    #[arg(long, value_name = "LINES", default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    batch: u16,

    /// Where refused lines go [default: FILE.refused.ndjson]
    ///
    /// Made only when a line is refused, readable by its owner only, since it may hold health data. A run from the
    /// first line replaces the file of an earlier run; one with --from-line, or from standard input, adds to it.
    #[arg(long, value_name = "FILE")]
    refused: Option<PathBuf>,

    /// How often to try a batch again when the vault is busy or cannot be reached
    ///
    /// Waits grow from a quarter of a second to half a minute, or are as long as the vault asks.
    #[arg(long, value_name = "TIMES", default_value_t = 8, value_parser = clap::value_parser!(u32).range(0..=1000))]
    retries: u32,

    /// Skip the lines before this one
    #[arg(long, value_name = "LINE", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    from_line: u64,

    /// Print the result as a JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs the import to its end, or to what stops it; either is reported here and told by the exit code.
///
/// # Errors
/// Those of printing the result.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (mut job, input) = match Job::new(&args).and_then(|job| Ok((job, open(&args.file)?))) {
        Ok(ready) => ready,
        Err(error) => {
            eprintln!("error: {error:#}");
            return Ok(ExitCode::from(EXIT_STOPPED));
        }
    };
    // Stopping between two steps is safe: a batch under way is either in or not, and the next run finds out.
    let outcome = tokio::select! {
        outcome = job.work(input) => outcome,
        Ok(()) = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    job.report(outcome)
}

const MAX_BATCH_BYTES: usize = 8 << 20;
const EXIT_REFUSED: u8 = 1;
const EXIT_STOPPED: u8 = 2;
const SHOWN_REFUSALS: usize = 20;
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// What an import did, as `--json` prints it.
#[derive(Debug, Default, Serialize)]
struct Summary {
    /// Lines looked at that were not blank.
    lines: u64,
    accepted: u64,
    duplicates: u64,
    refused: u64,
    refused_file: Option<PathBuf>,
    /// Requests that were sent again; what the first try stored, the second finds as duplicates.
    retried: u64,
    complete: bool,
    /// Where to go on with `--from-line` if it is not complete.
    next_line: u64,
    seconds: f64,
}

/// The answer to a batch with `partial=true`.
#[derive(Debug, Deserialize)]
struct BatchAnswer {
    results: Vec<LineResult>,
}

#[derive(Debug, Deserialize)]
struct LineResult {
    line: u64,
    status: Status,
    #[serde(default)]
    errors: Vec<FieldError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Accepted,
    Duplicate,
    Refused,
}

struct Job<'a> {
    args: &'a Args,
    client: Client,
    bar: ProgressBar,
    refused: RefusedFile,
    shown: Vec<String>,
    summary: Summary,
    /// Lines a request may have, fewer once something on the way found a batch too large.
    ceiling: usize,
    started: Instant,
}

impl<'a> Job<'a> {
    fn new(args: &'a Args) -> anyhow::Result<Self> {
        let client = Client::connect(&args.connect)?;
        let path = args.refused.clone().unwrap_or_else(|| default_path(&args.file));
        let refused = RefusedFile::new(path, &args.file, args.from_line > 1 || is_stdin(&args.file))?;
        let summary = Summary { next_line: args.from_line, ..Summary::default() };
        let ceiling = usize::from(args.batch);
        Ok(Self {
            args,
            client,
            bar: ProgressBar::hidden(),
            refused,
            shown: Vec::new(),
            summary,
            ceiling,
            started: Instant::now(),
        })
    }

    /// Sends batch after batch, while the next ones are read.
    async fn work(&mut self, (input, size): Input) -> anyhow::Result<()> {
        self.bar = progress_bar(size);
        let mut batches = read_ahead(self.bar.wrap_read(input), self.args);
        while let Some(batch) = batches.recv().await {
            let batch = batch.with_context(|| format!("{} cannot be read on", self.args.file.display()))?;
            let next_line = batch.last_line + 1;
            self.settle(batch).await?;
            self.summary.next_line = next_line;
            self.bar.set_message(self.summary.counts());
        }
        Ok(())
    }

    /// Brings one batch in. Its refused lines are written at the end and in order, so that a batch that stopped
    /// half-way can be repeated without writing any twice.
    async fn settle(&mut self, batch: Batch) -> anyhow::Result<()> {
        let mut refused = batch.refused;
        let mut open: Vec<&[Item]> = batch.items.chunks(self.ceiling).rev().collect();
        while let Some(part) = open.pop() {
            match self.send(part).await {
                Ok(answer) => self.count(part, answer, &mut refused)?,
                Err(problem) if problem.status == Some(413) && part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    self.ceiling = self.ceiling.min(second.len());
                    open.extend([second, first]);
                }
                Err(problem) if problem.status == Some(413) => {
                    let error = FieldError::new(
                        "",
                        "too_large",
                        "the vault, or something before it, takes no request of this size",
                    );
                    refused.extend(part.iter().map(|item| refusal(item, vec![error.clone()])));
                }
                Err(problem) => return Err(problem.into()),
            }
        }
        refused.sort_by_key(|refused| refused.line);
        self.refused.write(&refused)?;
        self.summary.refused += refused.len() as u64;
        let room = SHOWN_REFUSALS.saturating_sub(self.shown.len());
        let described = refused
            .iter()
            .flat_map(|refused| refused.errors.iter().map(|error| format!("line {}: {error}", refused.line)));
        self.shown.extend(described.take(room));
        Ok(())
    }

    async fn send(&mut self, part: &[Item]) -> Result<BatchAnswer, Problem> {
        let mut body = Vec::new();
        for item in part {
            item.write(&mut body);
        }
        let mut attempt = 0;
        loop {
            let sent = self.client.post_ndjson(&["v1", "entries", "batch"], &[("partial", "true")], body.clone()).await;
            let Err(problem) = sent else { return sent };
            if !problem.is_transient() || attempt >= self.args.retries {
                return Err(problem);
            }
            let wait = backoff(attempt, problem.retry_after, getrandom::u32().unwrap_or(u32::MAX / 2));
            attempt += 1;
            self.summary.retried += 1;
            let text = format!(
                "{}; trying again in {:.1} s ({attempt} of {})",
                problem.summary(),
                wait.as_secs_f64(),
                self.args.retries
            );
            self.bar.suspend(|| eprintln!("{text}"));
            tokio::time::sleep(wait).await;
        }
    }

    /// Counts what the vault said of each line, having checked that it spoke of every line once.
    fn count(&mut self, part: &[Item], answer: BatchAnswer, refused: &mut Vec<Refused>) -> anyhow::Result<()> {
        let told = answer.results.iter().map(|result| result.line);
        if !told.eq(1..=part.len() as u64) {
            bail!(
                "the vault did not answer for each of the {} lines sent: is --url the address of a vault of this version?",
                part.len()
            );
        }
        for (item, result) in part.iter().zip(answer.results) {
            match result.status {
                Status::Accepted => self.summary.accepted += 1,
                Status::Duplicate => self.summary.duplicates += 1,
                Status::Refused if result.errors.is_empty() => {
                    refused.push(refusal(item, vec![FieldError::new("", "refused", "the vault gave no reason")]));
                }
                Status::Refused => refused.push(refusal(item, result.errors)),
            }
        }
        Ok(())
    }

    fn report(mut self, outcome: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
        self.bar.finish_and_clear();
        let outcome = self.refused.finish().map(|path| path.map(Path::to_owned)).and_then(|path| {
            self.summary.refused_file = path;
            outcome
        });
        self.summary.lines = self.summary.accepted + self.summary.duplicates + self.summary.refused;
        self.summary.complete = outcome.is_ok();
        self.summary.seconds = (self.started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        self.explain_refusals();
        if let Err(error) = &outcome {
            eprintln!("error: stopped before line {}: {error:#}", self.summary.next_line);
            let again = if is_stdin(&self.args.file) { " (with the same input)" } else { "" };
            eprintln!("Go on with{again}:\n  {}", resume_command(self.args, self.summary.next_line));
        }
        if self.summary.complete && self.summary.lines == 0 && self.args.from_line > 1 {
            eprintln!("warning: the input has no line {} or later; nothing was brought in", self.args.from_line);
        }
        let text = if self.args.json { serde_json::to_string(&self.summary)? } else { self.summary.to_string() };
        terminal::print(&text)?;
        Ok(match outcome {
            Err(_) => ExitCode::from(EXIT_STOPPED),
            Ok(()) if self.summary.refused > 0 => ExitCode::from(EXIT_REFUSED),
            Ok(()) => ExitCode::SUCCESS,
        })
    }

    fn explain_refusals(&self) {
        for line in &self.shown {
            eprintln!("{line}");
        }
        if let Some(path) = &self.summary.refused_file {
            eprintln!("{} refused lines, with all reasons: {}", HumanCount(self.summary.refused), path.display());
        }
    }
}

impl Summary {
    fn counts(&self) -> String {
        let (accepted, duplicates) = (HumanCount(self.accepted), HumanCount(self.duplicates));
        format!("{accepted} accepted, {duplicates} duplicates, {} refused", HumanCount(self.refused))
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} lines in {:.1} s: {}", HumanCount(self.lines), self.seconds, self.counts())?;
        if self.retried > 0 && self.duplicates > 0 {
            write!(
                f,
                " ({} requests were repeated, which may have made duplicates of lines this run brought in)",
                HumanCount(self.retried)
            )?;
        }
        Ok(())
    }
}

fn refusal(item: &Item, errors: Vec<FieldError>) -> Refused {
    Refused { line: item.line, errors, raw: item.raw.clone() }
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// The input and, if it is a plain file, its size in bytes.
type Input = (Box<dyn Read + Send>, Option<u64>);

fn open(path: &Path) -> anyhow::Result<Input> {
    if is_stdin(path) {
        return Ok((Box::new(io::stdin()), None));
    }
    let failed = || format!("{} cannot be read", path.display());
    let file = File::open(path).with_context(failed)?;
    let metadata = file.metadata().with_context(failed)?;
    if metadata.is_dir() {
        bail!("{} is a folder: name a file", path.display());
    }
    let size = metadata.is_file().then_some(metadata.len());
    Ok((Box::new(file), size))
}

/// On standard error, and drawn only if that is a terminal.
fn progress_bar(size: Option<u64>) -> ProgressBar {
    let (bar, template) = match size {
        Some(size) => (ProgressBar::new(size), "{bar:30} {percent:>3}% {binary_bytes_per_sec}, {eta} left  {msg}"),
        None => (ProgressBar::new_spinner(), "{spinner} {binary_bytes} {binary_bytes_per_sec}  {msg}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Reads in a thread of its own, at most two batches ahead. The thread ends with the process: a read from an idle
/// terminal cannot be called off, and must not hold up the end of a failed import.
fn read_ahead(input: impl Read + Send + 'static, args: &Args) -> mpsc::Receiver<io::Result<Batch>> {
    let (sender, receiver) = mpsc::channel(2);
    let limits = Limits { lines: usize::from(args.batch), bytes: MAX_BATCH_BYTES };
    let from_line = args.from_line;
    std::thread::spawn(move || {
        let mut lines = match lines::unpacked(input) {
            Ok(input) => Lines::new(input, limits, from_line),
            Err(error) => return drop(sender.blocking_send(Err(error))),
        };
        while let Some(batch) = lines.next_batch().transpose() {
            let last = batch.is_err();
            if sender.blocking_send(batch).is_err() || last {
                return;
            }
        }
    });
    receiver
}

/// How long to wait before the next try: doubling, the upper half at random so that many importers do not come back
/// at once, and never sooner than the vault asked for.
fn backoff(attempt: u32, retry_after: Option<Duration>, random: u32) -> Duration {
    let full = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(attempt)).min(LONGEST_WAIT);
    let jittered = full / 2 + (full / 2).mul_f64(f64::from(random) / f64::from(u32::MAX));
    match retry_after {
        Some(asked) => asked.min(LONGEST_RETRY_AFTER) + jittered / 4,
        None => jittered,
    }
}

/// The command that goes on, ready for a POSIX shell.
fn resume_command(args: &Args, next_line: u64) -> String {
    let mut words = vec!["phivault".to_owned(), "import".to_owned(), quote(args.file.as_os_str())];
    words.extend(["--url".to_owned(), quote(OsStr::new(&args.connect.url))]);
    words.extend(["--token-file".to_owned(), quote(args.connect.token_file.as_os_str())]);
    if let Some(path) = &args.connect.ca_file {
        words.extend(["--ca-file".to_owned(), quote(path.as_os_str())]);
    }
    if args.connect.insecure_http {
        words.push("--insecure-http".to_owned());
    }
    if let Some(path) = &args.refused {
        words.extend(["--refused".to_owned(), quote(path.as_os_str())]);
    }
    words.push(format!("--batch {} --from-line {next_line}", args.batch));
    words.join(" ")
}

fn quote(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:@%+=,".contains(&b));
    if plain { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn args(extra: &[&str]) -> Args {
        let words = ["import", "--url", "https://vault.example.org", "--token-file", "/run/token"];
        Command::try_parse_from(words.iter().chain(extra)).unwrap().args
    }

    #[test]
    fn waits_double_with_jitter_up_to_a_limit() {
        assert_eq!(backoff(0, None, 0), Duration::from_millis(125));
        assert_eq!(backoff(0, None, u32::MAX), Duration::from_millis(250));
        assert_eq!(backoff(3, None, u32::MAX), Duration::from_secs(2));
        assert_eq!(backoff(900, None, u32::MAX), LONGEST_WAIT);
    }

    #[test]
    fn a_wait_is_never_shorter_than_the_vault_asks_within_reason() {
        assert!(backoff(0, Some(Duration::from_secs(9)), 0) >= Duration::from_secs(9));
        assert!(backoff(0, Some(Duration::from_secs(86_400)), 0) <= LONGEST_RETRY_AFTER + Duration::from_secs(1));
    }

    #[test]
    fn the_command_to_go_on_can_be_pasted_into_a_shell() {
        let text = resume_command(&args(&["it's here.gz", "--batch", "100"]), 501);
        let expected = r"phivault import 'it'\''s here.gz' --url https://vault.example.org --token-file /run/token --batch 100 --from-line 501";
        assert_eq!(text, expected);
    }

    #[test]
    fn batches_outside_what_the_vault_takes_are_refused() {
        for size in ["0", "10001"] {
            let words = ["import", "f", "--url", "https://v", "--token-file", "t", "--batch", size];
            assert!(Command::try_parse_from(words).is_err(), "{size}");
        }
    }

    #[test]
    fn an_answer_that_leaves_out_a_line_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, "phv_abc").unwrap();
        let mut args = args(&["-"]);
        args.connect.url = "http://localhost:1".to_owned();
        args.connect.token_file = token;
        let mut job = Job::new(&args).unwrap();
        let item = |line| Item { line, raw: b"{}".to_vec(), id: None };
        let answer = |lines: &[u64]| BatchAnswer {
            results: lines
                .iter()
                .map(|&line| LineResult { line, status: Status::Accepted, errors: Vec::new() })
                .collect(),
        };
        for lines in [&[1][..], &[1, 1], &[2, 1], &[1, 2, 3]] {
            assert!(job.count(&[item(4), item(6)], answer(lines), &mut Vec::new()).is_err(), "{lines:?}");
        }
        job.count(&[item(4), item(6)], answer(&[1, 2]), &mut Vec::new()).unwrap();
        assert_eq!(job.summary.accepted, 2);
    }
}
