//! Revocation records: each key directory ends as `ucert -R` leaves it, or with more keys revoked.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sysupgrade_rs::digest::Digest;
use sysupgrade_rs::report::Reason;
use sysupgrade_rs::trust::revoke::{self, Outcome};
use sysupgrade_rs::trust::usign::SecretKey;
use sysupgrade_rs::trust::{self, Trust, ucert};

use crate::vectors;

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
