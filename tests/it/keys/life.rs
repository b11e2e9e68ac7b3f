//! A vault's life, at random: whatever administrators do and whenever the process dies, every value that should be readable is, byte
//! for byte, every one that should not be is not, and every proof ever given holds. `PHIVAULT_TEST_LIVES` sets how many lives.

use std::path::PathBuf;

use phivault::crypto::keyring::Keyring;
use phivault::crypto::seal;
use phivault::keyfile::{read_key_file, read_private};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{TEN_YEARS, Two, holds, proof, reason, reencrypt, reveal};
use crate::app::{entry, unlock_file, verify};

/// Lives of one run.
const LIVES: u32 = 12;

/// What happens to a vault.
#[derive(Clone, Debug)]
enum Event {
    /// An entry of a patient, in a class.
    Submit(u8, bool),
    Rotate,
    /// The keys of state rows and of the blind index.
    RotateOthers,
    Reencrypt,
    /// The oldest version that is not destroyed.
    Destroy,
    AddSlot,
    RemoveSlot,
    Hold(u8),
    Lift,
    Redact(prop::sample::Index),
    /// Eleven years pass.
    Years,
    Dispose,
    Prove(prop::sample::Index),
    Restart,
    Kill,
    /// Somebody puts the keyring of before back.
    OldKeyring,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..3_u8, any::<bool>()).prop_map(|(patient, long)| Event::Submit(patient, long)),
        3 => Just(Event::Rotate),
        1 => Just(Event::RotateOthers),
        2 => Just(Event::Reencrypt),
        3 => Just(Event::Destroy),
        1 => Just(Event::AddSlot),
        1 => Just(Event::RemoveSlot),
        2 => (0..3_u8).prop_map(Event::Hold),
        2 => Just(Event::Lift),
        2 => any::<prop::sample::Index>().prop_map(Event::Redact),
        1 => Just(Event::Years),
        3 => Just(Event::Dispose),
        2 => any::<prop::sample::Index>().prop_map(Event::Prove),
        1 => Just(Event::Restart),
        1 => Just(Event::Kill),
        1 => Just(Event::OldKeyring),
    ]
}

/// What an entry should be.
struct Expected {
    receipt: Value,
    patient: u8,
    changes: Value,
    /// The bucket that its values were in, if they were disposed of with it.
    disposed: bool,
    redacted: bool,
}

struct Life {
    two: Two,
    entries: Vec<Expected>,
    holds: Vec<(String, u8)>,
    proofs: Vec<(Value, String)>,
    /// Copies of the database from all along.
    copies: Vec<PathBuf>,
    folder: tempfile::TempDir,
    days: i64,
    keyring_before: Option<Vec<u8>>,
}

impl Life {
    async fn begin() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            two: Two::spawn().await,
            entries: Vec::new(),
            holds: Vec::new(),
            proofs: Vec::new(),
            copies: Vec::new(),
            folder,
            days: 0,
            keyring_before: None,
        }
    }

    fn keyring(&self) -> PathBuf {
        self.two.app.dir().join("keys/keyring")
    }

    /// Keeps a copy of the database, write-ahead log included.
    fn copy(&mut self) {
        let to = self.folder.path().join(format!("copy-{}", self.copies.len()));
        let from = Connection::open(self.two.app.dir().join("data/vault.db")).unwrap();
        from.execute("VACUUM INTO ?1", [to.to_str().unwrap()]).unwrap();
        self.copies.push(to);
    }

    async fn live(&mut self, event: &Event) {
        match event {
            Event::Submit(patient, long) => self.submit(*patient, *long).await,
            Event::Rotate => {
                self.keyring_before = Some(std::fs::read(self.keyring()).unwrap());
                self.two.rotate().await;
            }
            Event::RotateOthers => {
                for what in ["rotate-state", "rotate-index"] {
                    let path = format!("/v1/keys/{what}");
                    let answer = self.two.app.admin().post(&path, &json!({"reason": reason()})).await;
                    assert!(answer.status == 200 || answer.code() == "too_many_index_keys", "{answer:?}");
                }
            }
            Event::Reencrypt => {
                let moved = reencrypt(&self.two.app).await;
                assert!(moved["problem"].is_null() && moved["damaged"] == json!(0), "{moved:#}");
            }
            Event::Destroy => self.destroy().await,
            Event::AddSlot => {
                let slot = json!({"name": "recovery", "kek_id": "11".repeat(16), "kek": {"kind": "key_file"}, "public": format!("09{}", "00".repeat(31))});
                self.two.both(&json!({"operation": "slot_put", "slot": slot})).await;
            }
            Event::RemoveSlot => {
                let body = json!({"request": {"operation": "slot_remove", "name": "recovery"}, "reason": reason()});
                let asked = self.two.app.admin().post("/v1/admin/operations", &body).await;
                if asked.status == 202 {
                    assert_eq!(self.two.approve(asked.json()["id"].as_str().unwrap()).await.status, 200);
                } else {
                    assert_eq!(asked.code(), "unknown_slot");
                }
            }
            Event::Hold(patient) => self.hold(*patient).await,
            Event::Lift => {
                if let Some((id, _)) = self.holds.pop() {
                    let path = format!("/v1/holds/{id}/lift");
                    let answer = self.two.app.officer().post(&path, &json!({"reason": {"code": "HLEGAL"}})).await;
                    assert_eq!(answer.status, 200, "{answer:?}");
                }
            }
            Event::Redact(which) => self.redact(which).await,
            Event::Years => {
                self.days += TEN_YEARS;
                self.two.app.stop();
                self.two.app.set("PHIVAULT_TEST_DAYS_AHEAD", &self.days.to_string());
                self.two.app.start();
            }
            Event::Dispose => self.dispose().await,
            Event::Prove(which) => {
                if !self.entries.is_empty() {
                    let receipt = &which.get(&self.entries).receipt;
                    self.proofs.push((receipt.clone(), proof(&self.two.app, receipt).await));
                }
            }
            Event::Restart => {
                self.two.app.stop();
                self.two.app.start();
            }
            Event::Kill => {
                self.two.app.kill();
                self.two.app.start();
            }
            Event::OldKeyring => self.old_keyring(),
        }
    }

    async fn submit(&mut self, patient: u8, long: bool) {
        let mut it = entry();
        it["patient"]["id"] = json!(format!("MRN-{patient}"));
        it["changes"][0]["new"] = json!(format!("value {}", self.entries.len()));
        if long {
            it["retention"] = json!("extended");
        }
        let receipt = self.two.app.submitter().submit(&it).await;
        let changes = it["changes"].clone();
        self.entries.push(Expected { receipt, patient, changes, disposed: false, redacted: false });
    }

    async fn destroy(&mut self) {
        let keys = self.two.app.auditor().get("/v1/keys").await.json();
        let versions = keys["versions"].as_array().unwrap();
        let oldest = versions.iter().find(|it| it["state"] != "destroyed").unwrap();
        let request = json!({"operation": "key_destroy", "version": oldest["version"]});
        if oldest["state"] == "active" {
            assert_eq!(self.two.refused(&request).await, "version_active");
        } else if oldest["entries"].as_u64().unwrap() > 0 {
            assert_eq!(self.two.refused(&request).await, "version_in_use");
        } else {
            self.two.both(&request).await;
        }
    }

    async fn hold(&mut self, patient: u8) {
        let body = json!({"name": format!("case {patient}"), "authority": "court", "reason": {"code": "HLEGAL"},
            "scope": {"patient": format!("MRN-{patient}")}});
        let answer = self.two.app.officer().post("/v1/holds", &body).await;
        if self.holds.iter().any(|(_, it)| *it == patient) {
            assert_eq!(answer.code(), "name_taken");
        } else {
            assert_eq!(answer.status, 201, "{answer:?}");
            self.holds.push((answer.json()["id"].as_str().unwrap().to_owned(), patient));
        }
    }

    fn is_held(&self, patient: u8) -> bool {
        self.holds.iter().any(|(_, it)| *it == patient)
    }

    async fn redact(&mut self, which: &prop::sample::Index) {
        if self.entries.is_empty() {
            return;
        }
        let n = which.index(self.entries.len());
        let request = json!({"operation": "redact", "entry": self.entries[n].receipt["id"], "authority": "order"});
        if self.entries[n].disposed || self.entries[n].redacted {
            assert_eq!(self.two.refused(&request).await, "erased");
        } else if self.is_held(self.entries[n].patient) {
            assert_eq!(self.two.refused(&request).await, "held");
        } else {
            self.two.both(&request).await;
            self.entries[n].redacted = true;
        }
    }

    /// Every bucket that the plan calls due is disposed of; every one it calls held is refused.
    async fn dispose(&mut self) {
        let plan = self.two.app.officer().get("/v1/retention/plan").await.json();
        for bucket in plan["buckets"].as_array().unwrap() {
            let request = json!({"operation": "dispose", "bucket": bucket["bucket"]});
            match bucket["state"].as_str().unwrap() {
                "held" => assert_eq!(self.two.refused(&request).await, "held"),
                "due" => {
                    let readable = self.readable().await;
                    self.copy();
                    let done = self.two.both(&request).await;
                    let after = self.readable().await;
                    let lost: Vec<_> = (0..readable.len()).filter(|n| readable[*n] && !after[*n]).collect();
                    assert_eq!(json!(lost.len()), count_of(&done, &self.two).await, "{done:#}");
                    assert!(lost.iter().all(|n| !self.is_held(self.entries[*n].patient)), "nothing held is lost");
                    lost.into_iter().for_each(|n| self.entries[n].disposed = true);
                }
                _ => {}
            }
        }
    }

    async fn readable(&self) -> Vec<bool> {
        let mut all = Vec::new();
        for it in &self.entries {
            all.push(reveal(&self.two.app, &it.receipt).await.status == 200);
        }
        all
    }

    fn old_keyring(&mut self) {
        let Some(before) = &self.keyring_before else { return };
        self.two.app.stop();
        let now = std::fs::read(self.keyring()).unwrap();
        std::fs::write(self.keyring(), before).unwrap();
        let refused = self.two.app.try_start().unwrap_err();
        assert!(refused.contains("not the one the ledger recorded last"), "{refused}");
        std::fs::write(self.keyring(), now).unwrap();
        self.two.app.start();
    }

    /// Everything is as it should be.
    async fn check(&self) {
        for it in &self.entries {
            let shown = reveal(&self.two.app, &it.receipt).await;
            if it.disposed || it.redacted {
                assert_eq!(shown.status, 410, "{shown:?}");
            } else {
                assert_eq!(shown.status, 200, "{shown:?}");
                assert_eq!(
                    (&shown.json()["changes"], &shown.json()["leaf_hash"]),
                    (&it.changes, &it.receipt["leaf_hash"])
                );
            }
        }
    }

    async fn end(mut self) {
        self.check().await;
        self.copy();
        for (receipt, proof) in &self.proofs {
            holds(&self.two.app, receipt, proof);
        }
        self.two.app.stop();
        assert_eq!(verify(self.two.app.dir()).0, 0);
        // Whatever copy of the database there is, the keyring of now opens nothing that was disposed of. (A single redacted entry is
        // gone from the database, but a copy of it from before opens as long as its bucket lives; its certificate says until when.)
        let file = read_private(&self.keyring(), "keyring").unwrap();
        let (ring, _) = Keyring::decode(&file, &read_key_file(&unlock_file(self.two.app.dir())).unwrap()).unwrap();
        for copy in &self.copies {
            let database = Connection::open(copy).unwrap();
            for it in self.entries.iter().filter(|it| it.disposed) {
                let sql = "SELECT sealed FROM entry WHERE sequence = ?1";
                let sealed = database.query_row(sql, [it.receipt["sequence"].as_i64()], |row| row.get::<_, Vec<u8>>(0));
                let Ok(sealed) = sealed else { continue };
                let opening = seal::header(&sealed).ok().and_then(|header| ring.opening(header));
                assert!(opening.is_none(), "a disposed value opens from a copy");
            }
        }
        self.two.app.start();
        self.two.app.finish();
    }
}

/// What a disposal says it took, without the entries of the vault itself, which are in no such bucket.
async fn count_of(done: &Value, two: &Two) -> Value {
    let plan = two.app.officer().get("/v1/retention/plan").await.json();
    let bucket = plan["buckets"].as_array().unwrap().iter().find(|it| it["bucket"] == done["bucket"]).unwrap().clone();
    assert_eq!((&bucket["state"], &bucket["entries"]), (&json!("disposed"), &json!(0)));
    done["entries"].clone()
}

#[test]
fn whatever_happens_in_its_life_a_vault_keeps_what_it_must_and_nothing_else() {
    let lives = std::env::var("PHIVAULT_TEST_LIVES").ok().and_then(|it| it.parse().ok()).unwrap_or(LIVES);
    let config = Config { cases: lives, max_shrink_iters: 20, failure_persistence: None, ..Config::default() };
    let life = prop::collection::vec(event(), 10..40);
    TestRunner::new(config)
        .run(&life, |events| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut life = Life::begin().await;
                for event in &events {
                    life.live(event).await;
                    if matches!(event, Event::Restart | Event::Kill | Event::Years | Event::Reencrypt | Event::Dispose)
                    {
                        life.check().await;
                    }
                }
                life.end().await;
            });
            Ok(())
        })
        .unwrap();
    println!("{lives} lives of 10 to 40 events each: kept what they must and nothing else");
}
