//! Starting a server that may refuse: what it says, with which exit code, and that it changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Seek};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};

use rusqlite::Connection;
use sha2::{Digest, Sha256};

use crate::app::program;
use crate::check::check_vault;
use crate::tamper::edits::{copy, copy_into, edit};

/// A server on a vault folder that is not an [`App`]'s. Dropping it kills the server.
pub struct Running {
    child: Child,
    /// Where it listens.
    pub url: String,
}

impl Running {
    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM; the server must end by itself with exit code 0.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "a server that was told to stop ended with {status}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// How a server that did not start ended.
#[derive(Debug)]
pub struct Refusal {
    pub code: Option<i32>,
    /// What it said from the word "error" on.
    pub said: String,
}

/// `phivault serve` on the vault in a folder.
pub fn serve(dir: &Path, env: &[(&str, &str)]) -> Result<Running, Refusal> {
    let mut log = tempfile::tempfile().unwrap();
    let mut command = program();
    command.arg("serve").arg("--config").arg(dir.join("phivault.toml"));
    command.env("PHIVAULT_SERVER__LISTEN", "127.0.0.1:0").envs(env.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if let Some(url) = line.split_whitespace().find(|it| it.starts_with("http://")) {
        return Ok(Running { child, url: url.to_owned() });
    }
    let code = child.wait().unwrap().code();
    let mut said = String::new();
    log.rewind().unwrap();
    log.read_to_string(&mut said).unwrap();
    let said = said.find("error: ").map_or(said.clone(), |at| said[at..].to_owned());
    Err(Refusal { code, said })
}

/// One way to damage a vault.
pub struct Damage {
    name: String,
    /// Words the refusal must hold; of words with `|` between, one.
    says: Vec<String>,
    how: Box<dyn Fn(&Path)>,
}

/// A vault whose files were changed.
pub fn damage(name: &str, says: &[&str], how: impl Fn(&Path) + 'static) -> Damage {
    let says = says.iter().map(|it| (*it).to_owned()).collect();
    Damage { name: name.to_owned(), says, how: Box::new(how) }
}

/// A database edited with its triggers out of the way and back in place.
pub fn edited(name: &str, says: &[&str], change: impl Fn(&Connection) + 'static) -> Damage {
    damage(name, says, move |dir| edit(dir, &change))
}

/// Each of the damages is refused, changes nothing, and leaves a sound vault once it is undone.
pub fn expect_refusals(original: &Path, damages: &[Damage]) {
    let tried = damages.iter().filter_map(|it| refuse(original, it).err().map(|what| format!("{}: {what}", it.name)));
    let wrong: Vec<String> = tried.collect();
    assert!(wrong.is_empty(), "{} of {} damages went wrong:\n{}", wrong.len(), damages.len(), wrong.join("\n"));
}

fn refuse(original: &Path, damage: &Damage) -> Result<(), String> {
    let vault = copy(original);
    let dir = vault.path();
    (damage.how)(dir);
    refused_unchanged(dir, &[], &damage.says)?;
    fs::remove_dir_all(dir).unwrap();
    fs::create_dir(dir).unwrap();
    copy_into(original, dir);
    serve(dir, &[]).map_err(|it| format!("did not start after the damage was undone: {it:?}"))?.stop();
    check_vault(dir);
    Ok(())
}

/// `serve` ends with exit code 2, says these words once, and no file of the folder differs afterwards.
pub fn refused_unchanged(dir: &Path, env: &[(&str, &str)], says: &[impl AsRef<str>]) -> Result<(), String> {
    let before = hashes(dir);
    let refusal = match serve(dir, env) {
        Err(refusal) => refusal,
        Ok(running) => {
            running.stop();
            return Err("the server started".into());
        }
    };
    let Refusal { code, said } = refusal;
    let after = hashes(dir);
    let mut wrong = Vec::new();
    if code != Some(2) {
        wrong.push(format!("exit code {code:?}"));
    }
    let missing = says.iter().map(AsRef::as_ref).filter(|word| !word.split('|').any(|it| said.contains(it)));
    wrong.extend(missing.map(|word| format!("does not say {word:?}")));
    let tail = said.trim_end().rsplit(": ").next().unwrap_or_default();
    if tail.len() > 12 && said.matches(tail).count() > 1 {
        wrong.push(format!("says {tail:?} twice"));
    }
    let differs = |name: &&String| before.get(*name) != after.get(*name);
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).filter(differs).collect();
    wrong.extend(names.into_iter().map(|name| format!("changed {name}")));
    if wrong.is_empty() { Ok(()) } else { Err(format!("{} ({})", wrong.join(", "), said.trim())) }
}

/// Mode and hash of each file, but for those that only say who runs. An empty write-ahead log is none.
pub fn hashes(dir: &Path) -> BTreeMap<String, (u32, String)> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let (path, meta) = (item.path(), item.metadata().unwrap());
            let name = path.strip_prefix(dir).unwrap().display().to_string();
            let fleeting = ["server.log", "vault.pid", "-shm"].iter().any(|it| name.ends_with(it))
                || (name.ends_with("-wal") && meta.len() == 0);
            if meta.is_dir() {
                folders.push(path);
            } else if !fleeting {
                let hash = hex::encode(Sha256::digest(fs::read(&path).unwrap()));
                found.insert(name, (meta.permissions().mode() & 0o777, hash));
            }
        }
    }
    found
}
