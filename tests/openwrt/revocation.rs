//! Revocation records: each key directory ends as `ucert -R` leaves it, or with more keys revoked.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sysupgrade_rs::digest::Digest;
use sysupgrade_rs::files::{self, trace};
use sysupgrade_rs::report::Reason;
use sysupgrade_rs::trust::revoke::{self, Outcome};
use sysupgrade_rs::trust::usign::{KeyId, SecretKey};
use sysupgrade_rs::trust::{self, Trust, ucert};

use crate::world::snapshot::Snapshot;
use crate::{sim, vectors};

/// June 2026, the clock of the recorded run.
const NOW: &str = "2026-06-15 12:00:00";

const BUILD: &str = "ef907fab69385a8d";
const DELEGATE: &str = "fd765781ec81f227";

fn load(dir: &Path) -> Trust {
    let mut trust = trust::load(&[dir.to_owned()], 1, 0).expect("keys");
    trust.now = vectors::seconds(NOW);
    trust
}

/// The directory, as the recorded results show it.
fn content(dir: &Path) -> BTreeMap<String, Value> {
    let entry = |entry: fs::DirEntry| {
        let value = match fs::read_link(entry.path()) {
            Ok(target) => json!({ "symlink": target }),
            Err(_) => {
                let bytes = fs::read(entry.path()).expect("a file");
                json!({ "sha256": Digest::of(&bytes).to_string() })
            }
        };
        (entry.file_name().into_string().expect("text"), value)
    };
    fs::read_dir(dir)
        .expect("a directory")
        .map(|one| entry(one.expect("an entry")))
        .collect()
}

/// One word for each record.
fn words(outcomes: &[Outcome]) -> Vec<String> {
    let word = |outcome: &Outcome| match outcome {
        Outcome::Applied(id) => format!("applied {id}"),
        Outcome::Already(id) => format!("already {id}"),
        Outcome::Refused(error) => format!("refused {:?}", error.reason()),
    };
    outcomes.iter().map(word).collect()
}

#[test]
fn every_recorded_list_leaves_the_recorded_directory_or_revokes_more() {
    let applied = |id| format!("applied {id}");
    let already = |id| format!("already {id}");
    let refused = |reason: Reason| format!("refused {reason:?}");
    let outcomes = BTreeMap::from([
        ("delegate-by-root", vec![applied(DELEGATE)]),
        ("build-by-itself", vec![applied(BUILD)]),
        ("build-by-root", vec![applied(BUILD)]),
        ("build-by-attacker", vec![refused(Reason::UnknownKey)]),
        (
            "not-yet-valid",
            vec![refused(Reason::CertificateNotYetValid)],
        ),
        ("two-records", vec![applied(DELEGATE), applied(BUILD)]),
        ("already-revoked", vec![already(BUILD)]),
        (
            "already-revoked-then-new",
            vec![already(DELEGATE), applied(BUILD)],
        ),
        ("certificate-instead", vec![refused(Reason::BadSignature)]),
        ("garbage", vec![refused(Reason::BadSignature)]),
        ("revoked-signer", vec![refused(Reason::RevokedKey)]),
    ]);
    let expected = vectors::json("expected.json");
    let cases = expected["revocation"].as_array().expect("a list");
    assert_eq!(cases.len(), outcomes.len());
    for case in cases {
        let text = |field: &str| case[field].as_str().expect("text");
        let name = text("name");
        let dir = vectors::key_dir(text("keydir").trim_start_matches("keydirs/"));
        let records = fs::read(vectors::path(text("file"))).expect(name);
        let mut trust = load(dir.path());
        let found = revoke::apply(&records, &mut trust, dir.path()).expect(name);
        assert_eq!(words(&found), outcomes[name], "{name}");

        let mut wanted = case["keydir_after"].clone();
        if name == "already-revoked-then-new" {
            // `ucert -R` stops at the first record, which is no news.
            wanted[BUILD] = json!({ "symlink": ".revoked." });
        }
        assert_eq!(json!(content(dir.path())), wanted, "{name}");
        assert_eq!(load(dir.path()).revoked, trust.revoked, "{name}");

        let again = revoke::apply(&records, &mut load(dir.path()), dir.path()).expect(name);
        let nothing_new = |one: &Outcome| !matches!(one, Outcome::Applied(_));
        assert!(again.iter().all(nothing_new), "{name}: {again:?}");
        assert_eq!(json!(content(dir.path())), wanted, "{name}");
    }
}

fn secret(name: &str) -> SecretKey {
    let file = fs::read(vectors::path(&format!("keys-material/{name}.sec"))).expect(name);
    SecretKey::parse(&file).expect(name)
}

/// A record by one of the recorded keys, valid since 2026-03-01.
fn record(by: &str, against: &str) -> Vec<u8> {
    ucert::revoke(&secret(by), secret(against).public().id(), 1_772_323_200)
}

/// Applies these records, one after the other in one list, to a directory of three keys.
fn apply(records: &[Vec<u8>]) -> Vec<String> {
    let dir = vectors::key_dir("keys");
    let mut trust = load(dir.path());
    words(&revoke::apply(&records.concat(), &mut trust, dir.path()).expect("a directory"))
}

#[test]
fn a_record_that_is_refused_saves_no_key_from_the_others() {
    let good = record("root", "build");
    let applied = format!("applied {BUILD}");
    for bad in [record("attacker", "root"), record("delegate", "root")] {
        let found = apply(&[bad.clone(), good.clone(), bad]);
        assert_eq!(
            found,
            ["refused UnknownKey", &applied, "refused UnknownKey"]
        );
    }
    let mut changed = record("root", "signify");
    *changed.last_mut().expect("bytes") ^= 1;
    assert_eq!(
        apply(&[good.clone(), changed]),
        [&applied, "refused BadSignature"]
    );
    for garbage in [&b"\0"[..], b"garbage", &[0xff; 40]] {
        let found = apply(&[good.clone(), garbage.to_vec(), good.clone()]);
        assert_eq!(found, [&applied, "refused BadSignature"], "{garbage:?}");
    }
}

#[test]
fn a_key_that_was_revoked_a_record_ago_revokes_nothing() {
    let found = apply(&[record("build", "build"), record("build", "root")]);
    assert_eq!(found, [&format!("applied {BUILD}"), "refused RevokedKey"]);
}

#[test]
fn a_list_is_as_long_as_ucert_reads_at_most() {
    let record = record("root", "build");
    let most = ucert::MAX_CHAIN / record.len();
    assert_eq!(apply(&vec![record.clone(); most]).len(), most);
    assert_eq!(apply(&vec![record; most + 1]), ["refused BadSignature"]);
}

#[test]
fn a_record_waits_for_a_clock_that_is_set() {
    let dir = vectors::key_dir("keys");
    let mut trust = load(dir.path());
    trust.now = 30;
    let records = record("root", "build");
    let outcomes = revoke::apply(&records, &mut trust, dir.path()).expect("a directory");
    assert_eq!(words(&outcomes), ["refused ClockNotSet"]);
    assert!(load(dir.path()).revoked.is_empty());
}

#[test]
fn power_may_go_at_any_moment_and_there_is_the_key_or_the_link() {
    let dir = vectors::key_dir("keys");
    let root = dir.path();
    let records = [record("root", "delegate"), record("root", "build")].concat();
    let start = Snapshot::read(root).expect("read");
    let (done, log) = trace::record(|| revoke::apply(&records, &mut load(root), root));
    done.expect("applied");
    let end = Snapshot::read(root).expect("read");
    let (crashes, cuts) = sim::cuts(root, &start, &log, &mut sim::Random(7));
    assert!(cuts > 20, "{cuts}");
    for crash in crashes {
        for name in files::list(root).expect("a directory") {
            files::remove_tree(&root.join(name)).expect("tidy");
        }
        crash.disk.write(root).expect("write");
        let mut trust = load(root);
        let build = KeyId::parse(BUILD).expect("an id");
        let there = trust.keys.contains_key(&build) || trust.revoked.contains(&build);
        assert!(there, "{}", crash.story);
        assert!(
            !crash.after_the_end || trust.revoked.len() == 2,
            "{}",
            crash.story
        );
        revoke::apply(&records, &mut trust, root).expect("applied");
        let found = Snapshot::read(root).expect("read");
        // What a cut has left under another name is of no harm, and goes when it is needed again.
        let mut found_keys = found.clone();
        found_keys.0.retain(|path, _| end.0.contains_key(path));
        assert_eq!(
            found_keys,
            end,
            "{}\n{}",
            crash.story,
            found.differences(&end)
        );
    }
}
