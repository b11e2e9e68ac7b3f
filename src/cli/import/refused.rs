//! The file of refused lines: what an import could not bring in, unchanged, each with its reasons.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::lines::Refused;
use crate::cli::client::FieldError;
use crate::cli::client::terminal;

/// Refused lines on disk, mode 600, made when the first line is refused.
///
/// One JSON object a line: `{"line":n,"errors":[…],"submission":…}`. The submission is the line as it was read, or,
/// if that is no JSON, a string of it (and `submission_hex` with its exact bytes if it is no UTF-8 either).
pub(super) struct RefusedFile {
    path: PathBuf,
    keep: bool,
    file: Option<BufWriter<File>>,
}

impl RefusedFile {
    /// Looks at what is at `path`, writes nothing. With `keep`, lines are added to those of an earlier run;
    /// otherwise they replace them.
    ///
    /// # Errors
    /// A file that is the input, or was not made by an import: it is not ours to change.
    pub(super) fn new(path: PathBuf, input: &Path, keep: bool) -> anyhow::Result<Self> {
        let shown = path.display();
        if path.exists() {
            if same_file(&path, input) {
                bail!("--refused {shown} is the input itself: name another file");
            }
            let known = is_ours(&path).with_context(|| format!("{shown} cannot be read"))?;
            if !known {
                bail!("{shown} exists and holds no refused lines: move it away, or name another file with --refused");
            }
        }
        Ok(Self { path, keep, file: None })
    }

    /// Writes these lines and hands them to the operating system.
    ///
    /// # Errors
    /// Those of the file system, with the path.
    pub(super) fn write(&mut self, lines: &[Refused]) -> anyhow::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let shown = self.path.display().to_string();
        let failed = || format!("refused lines cannot be written to {shown}");
        let mut file = match self.file.take() {
            Some(file) => file,
            None => BufWriter::new(self.create().with_context(failed)?),
        };
        for line in lines {
            write_line(&mut file, line).with_context(failed)?;
        }
        file.flush().with_context(failed)?;
        self.file = Some(file);
        Ok(())
    }

    /// Syncs the file, if lines were written, and returns its path.
    ///
    /// # Errors
    /// Those of the file system, with the path.
    pub(super) fn finish(&mut self) -> anyhow::Result<Option<&Path>> {
        let Some(file) = &self.file else { return Ok(None) };
        file.get_ref().sync_all().with_context(|| format!("{} cannot be synced", self.path.display()))?;
        Ok(Some(&self.path))
    }

    fn create(&self) -> io::Result<File> {
        if !self.path.exists() {
            return terminal::private_file(&self.path);
        }
        if !self.keep {
            // A new file rather than an emptied one: its mode is ours, and a link is not followed.
            fs::remove_file(&self.path)?;
            return terminal::private_file(&self.path);
        }
        File::options().append(true).open(&self.path)
    }
}

/// Where refused lines go if nothing else is said: beside the input, or here for standard input.
pub(super) fn default_path(input: &Path) -> PathBuf {
    let mut name = if input == Path::new("-") { OsString::from("stdin") } else { input.as_os_str().to_owned() };
    name.push(".refused.ndjson");
    PathBuf::from(name)
}

/// The first line of a file made here is surely shorter: a line is at most 8 MiB, twice that as escaped text.
const LONGEST_LINE: u64 = 64 << 20;

#[derive(Serialize)]
struct Head<'a> {
    line: u64,
    errors: &'a [FieldError],
}

/// What tells a file of refused lines from any other.
#[derive(Deserialize)]
struct Known {
    #[serde(rename = "line")]
    _line: u64,
    #[serde(rename = "errors")]
    _errors: Vec<FieldError>,
    #[serde(rename = "submission")]
    _submission: IgnoredAny,
}

fn write_line(out: &mut impl Write, refused: &Refused) -> io::Result<()> {
    let head = serde_json::to_vec(&Head { line: refused.line, errors: &refused.errors })?;
    out.write_all(&head[..head.len() - 1])?;
    out.write_all(b",\"submission\":")?;
    match std::str::from_utf8(&refused.raw) {
        Ok("") => out.write_all(b"null")?,
        Ok(text) if serde_json::from_str::<IgnoredAny>(text).is_ok() => out.write_all(text.as_bytes())?,
        Ok(text) => serde_json::to_writer(&mut *out, text)?,
        Err(_) => {
            serde_json::to_writer(&mut *out, &String::from_utf8_lossy(&refused.raw))?;
            write!(out, ",\"submission_hex\":\"{}\"", hex::encode(&refused.raw))?;
        }
    }
    out.write_all(b"}\n")
}

fn same_file(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

fn is_ours(path: &Path) -> io::Result<bool> {
    if !fs::metadata(path)?.is_file() {
        return Ok(false);
    }
    let mut line = Vec::new();
    BufReader::new(File::open(path)?).take(LONGEST_LINE).read_until(b'\n', &mut line)?;
    Ok(line.is_empty() || serde_json::from_slice::<Known>(&line).is_ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn refused(line: u64, raw: &[u8]) -> Refused {
        Refused { line, errors: vec![FieldError::new("/action", "missing", "action is missing")], raw: raw.to_vec() }
    }

    fn text_of(raw: &[u8]) -> String {
        let mut out = Vec::new();
        write_line(&mut out, &refused(7, raw)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_refused_line_is_kept_as_it_was_with_its_reasons() {
        let head =
            r#"{"line":7,"errors":[{"pointer":"/action","code":"missing","detail":"action is missing"}],"submission":"#;
        assert_eq!(text_of(br#"{"n": 7.0}"#), format!("{head}{{\"n\": 7.0}}}}\n"));
        assert_eq!(text_of(br#"{"n":"#), format!("{head}\"{{\\\"n\\\":\"}}\n"));
        assert_eq!(text_of(b""), format!("{head}null}}\n"));
        assert!(text_of(b"{\xff").ends_with("\"submission_hex\":\"7bff\"}\n"));
    }

    #[test]
    fn the_file_is_made_only_when_needed_and_for_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.refused.ndjson");
        let mut file = RefusedFile::new(path.clone(), Path::new("-"), false).unwrap();
        file.write(&[]).unwrap();
        assert!(file.finish().unwrap().is_none() && !path.exists());
        file.write(&[refused(1, b"{}")]).unwrap();
        assert_eq!(file.finish().unwrap(), Some(path.as_path()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_earlier_file_is_replaced_or_added_to_as_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.refused.ndjson");
        for (keep, expected) in [(false, 1), (true, 2), (false, 1)] {
            RefusedFile::new(path.clone(), Path::new("-"), keep).unwrap().write(&[refused(1, b"{}")]).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), expected);
        }
    }

    #[test]
    fn a_file_that_is_not_ours_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.ndjson");
        fs::write(&path, "{\"action\":\"read\"}\n").unwrap();
        assert!(RefusedFile::new(path.clone(), Path::new("-"), false).is_err());
        assert!(RefusedFile::new(folder.path().to_owned(), Path::new("-"), false).is_err());
        fs::write(&path, "").unwrap();
        assert!(RefusedFile::new(path.clone(), &path, false).is_err(), "the input itself");
    }
}
