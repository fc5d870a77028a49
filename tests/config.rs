//! What the user configured crosses an upgrade: kept as declared, whole, and merged with the
//! defaults of the new image.
#![allow(
    clippy::print_stdout,
    reason = "a power-cut test says how many cuts it made"
)]

mod sim;
mod world;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sysupgrade_rs::config::apply::{self, Inputs, Target, To};
use sysupgrade_rs::config::archive::{self, Source, Summary};
use sysupgrade_rs::config::bundle::{Bundle, Scope};
use sysupgrade_rs::config::keep::KeepList;
use sysupgrade_rs::config::report::{NoticeKind, Report};
use sysupgrade_rs::config::{ConfigError, Deadline, reports};
use sysupgrade_rs::digest::Digest;
use sysupgrade_rs::files::{self, trace};
use world::lived_in;
use world::snapshot::{Entry, Snapshot};

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/openwrt");

/// A directory for one test, in memory where that is possible: these tests sync a great deal.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    dir.expect("a temporary directory")
}

/// A running system, the image that it came from, and the next one.
struct Upgrade {
    dir: tempfile::TempDir,
}

impl Upgrade {
    /// Keeps `/etc/config/` and what `keep` says.
    fn new(keep: &str) -> Self {
        let upgrade = Self { dir: scratch() };
        for tree in ["root", "rom", "new"] {
            fs::create_dir_all(upgrade.tree(tree).join("etc/config")).expect("directories");
        }
        upgrade.write("root", "lib/upgrade/keep.d/base", "/etc/config/\n");
        upgrade.write("root", "lib/upgrade/keep.d/more", keep);
        upgrade
    }

    fn tree(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, tree: &str, path: impl AsRef<Path>, text: impl AsRef<[u8]>) {
        let place = self.tree(tree).join(path);
        fs::create_dir_all(place.parent().expect("a parent")).expect("directories");
        fs::write(place, text).expect("write");
    }

    fn chmod(&self, tree: &str, path: &str, mode: u32) {
        files::set_mode(&self.tree(tree).join(path), mode).expect("chmod");
    }

    fn link(&self, tree: &str, path: &str, target: &str) {
        let place = self.tree(tree).join(path);
        fs::create_dir_all(place.parent().expect("a parent")).expect("directories");
        symlink(target, place).expect("link");
    }

    fn keep(&self) -> KeepList {
        KeepList::read(&self.tree("root")).expect("a keep list")
    }

    fn archive(&self) -> (Vec<u8>, Summary) {
        let mut bytes = Vec::new();
        let root = self.tree("root");
        let defaults = self.tree("rom");
        let source = Source {
            root: &root,
            keep: &self.keep(),
            defaults: Some(&defaults),
            scope: Scope::Declared,
            from_version: "1",
            board: "test",
        };
        let summary = archive::write(&mut bytes, &source).expect("an archive");
        (bytes, summary)
    }

    fn save(&self) -> PathBuf {
        let path = self.tree("archive.tar.gz");
        fs::write(&path, self.archive().0).expect("write");
        path
    }

    fn apply(&self, archive: &Path) -> Result<Report, ConfigError> {
        apply::apply(&Inputs {
            archive: &apply::in_file(archive),
            digest: Digest::of(&fs::read(archive).expect("the archive")),
            new_root: &self.tree("new"),
            to: To {
                version: "2",
                compat: None,
            },
            target: Target::Overlay(&self.tree("overlay")),
        })
    }

    /// The new root with the upper layer over it, without what the program keeps for itself.
    fn result(&self) -> Snapshot {
        let mut result = Snapshot::read(&self.tree("new")).expect("the new root");
        let upper = Snapshot::read(&self.tree("overlay/upper")).expect("the upper layer");
        result.lay_over(upper);
        result.remove("etc/sysupgrade");
        result
    }

    fn text(&self, path: &str) -> Option<String> {
        let result = self.result();
        Some(String::from_utf8_lossy(result.data(path)?).into_owned())
    }
}

fn actions(report: &Report) -> BTreeMap<String, &'static str> {
    let entries = report.entries.iter();
    entries
        .map(|entry| (entry.path.to_string(), entry.action.name()))
        .collect()
}

fn conflicts(report: &Report) -> Vec<String> {
    let mut all = Vec::new();
    for entry in &report.entries {
        for conflict in &entry.conflicts {
            let json = serde_json::to_value(conflict).expect("json");
            all.push(format!(
                "{} {} {}",
                entry.path,
                json["kind"].as_str().expect("a word"),
                json["resolved"].as_str().expect("a word")
            ));
        }
    }
    all
}

fn kinds(keep: &KeepList) -> Vec<(NoticeKind, &str)> {
    let notices = keep.notices().iter();
    notices
        .map(|notice| (notice.kind, notice.path.as_str()))
        .collect()
}

fn paths(keep: &KeepList) -> Vec<String> {
    keep.paths().map(|path| format!("/{path}")).collect()
}

/// A tree that was recorded with what the stock tools made of it.
fn recorded(case: &str) -> tempfile::TempDir {
    let text = fs::read_to_string(format!("{VECTORS}/backup/{case}/tree.json")).expect("a tree");
    let entries: Vec<serde_json::Value> = serde_json::from_str(&text).expect("json");
    let dir = scratch();
    for entry in &entries {
        let word = |key: &str| entry[key].as_str();
        let place = dir
            .path()
            .join(word("path").expect("a path").trim_start_matches('/'));
        fs::create_dir_all(place.parent().expect("a parent")).expect("directories");
        match word("type").expect("a type") {
            "dir" => fs::create_dir_all(&place).expect("a directory"),
            "file" => fs::write(&place, word("text").expect("a text")).expect("a file"),
            "symlink" => symlink(word("target").expect("a target"), &place).expect("a link"),
            "fifo" => {
                let made = Command::new("mkfifo").arg(&place).status().expect("mkfifo");
                assert!(made.success());
            }
            "whiteout" => files::whiteout(&place).expect("a whiteout"),
            other => panic!("what is a {other}"),
        }
        if let Some(mode) = word("mode").filter(|_| word("type") == Some("file")) {
            let mode = u32::from_str_radix(mode, 8).expect("a mode");
            files::set_mode(&place, mode).expect("chmod");
        }
    }
    dir
}

/// The list that the stock tools made of a recorded tree, without flags.
fn stock_list(case: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("{VECTORS}/backup/expected.json")).expect("the record");
    let record: serde_json::Value = serde_json::from_str(&text).expect("json");
    let cases = record["cases"].as_array().expect("cases");
    let case = cases
        .iter()
        .find(|one| one["name"] == case)
        .expect("the case");
    let runs = case["runs"].as_array().expect("runs");
    let run = runs
        .iter()
        .find(|run| run["flags"].as_array().is_some_and(Vec::is_empty))
        .expect("a run without flags");
    let list = run["list"].as_array().expect("a list").iter();
    list.map(|path| path.as_str().expect("a path").to_owned())
        .collect()
}

// --- the keep list ---------------------------------------------------------------------------

#[test]
fn a_keep_list_without_oddities_is_that_of_the_stock_tools() {
    for case in ["opkg-overlay", "apk-overlay", "no-overlay", "script-512"] {
        let root = recorded(case);
        let keep = KeepList::read(root.path()).expect("a keep list");
        let stock = stock_list(case);
        assert!(!stock.is_empty());
        // The script that stock tools generate is part of their archive, not of this list.
        assert_eq!(paths(&keep), stock, "{case}");
    }
}

#[test]
fn an_odd_line_empties_nothing_and_is_told() {
    for (case, word) in [("dash-line", "-name"), ("paren-line", "(")] {
        assert_eq!(
            stock_list(case),
            Vec::<String>::new(),
            "stock loses all of it"
        );
        let root = recorded(case);
        let keep = KeepList::read(root.path()).expect("a keep list");
        let mut wanted = vec!["/etc/first", "/etc/group", "/etc/hosts", "/etc/passwd"];
        wanted.extend((case == "dash-line").then_some("/etc/second"));
        wanted.push("/etc/shadow");
        assert_eq!(paths(&keep), wanted, "{case}");
        assert!(kinds(&keep).contains(&(NoticeKind::Option, word)), "{case}");
    }
}

#[test]
fn odd_lines_are_kept_as_they_were_meant() {
    let root = recorded("odd-lines");
    let keep = KeepList::read(root.path()).expect("a keep list");
    let ours = paths(&keep);
    // Stock has one file under two names, and one under a name that restores elsewhere.
    let spelled = |path: &String| match path.as_str() {
        "/etc//dup" => "/etc/dup".to_owned(),
        "/etc/dir/sub/../.hidden" => "/etc/dir/.hidden".to_owned(),
        path => path.to_owned(),
    };
    for path in stock_list("odd-lines").iter().map(spelled) {
        assert!(ours.contains(&path), "{path} is kept by stock tools");
    }
    // These stock tools lose without a word.
    for path in ["/etc/a", "/etc/cr", "/etc/q", "/etc/sp ace/f"] {
        assert!(ours.iter().any(|kept| kept == path), "{path} was meant");
    }
    for path in ["/etc/d", "/etc/e", "/etc/#hash"] {
        assert!(
            !ours.iter().any(|kept| kept == path),
            "{path} was not meant"
        );
    }
    let found = kinds(&keep);
    for wanted in [
        (NoticeKind::ByteOrderMark, ""),
        (NoticeKind::CarriageReturn, ""),
        (NoticeKind::Quotes, "\"/etc/q\""),
        (NoticeKind::Blanks, "etc/sp ace"),
        (NoticeKind::Upward, "/etc/dir/sub/../.hidden"),
        (NoticeKind::TrailingComment, "/etc/trail # comment"),
        (NoticeKind::MatchesNothing, "/etc/missing*"),
        (NoticeKind::MatchesNothing, ";/etc/e"),
        (NoticeKind::Relative, "~/x"),
    ] {
        assert!(found.contains(&wanted), "{wanted:?} in {found:?}");
    }
    let notice = (keep.notices().iter())
        .find(|notice| notice.kind == NoticeKind::Quotes)
        .expect("a notice");
    assert!(
        notice.to_string().starts_with("etc/sysupgrade.conf:8: "),
        "{notice}"
    );
}

#[test]
fn a_list_of_odd_bytes_never_loses_its_other_lines() {
    let mut random = sim::Random(7);
    let pieces: [&[u8]; 14] = [
        b"/etc/*", b"-", b"(", b"[", b"\xff", b"\0", b"..", b"\\", b"'", b"\"", b"#", b" ", b"/",
        b"\r",
    ];
    for _ in 0..300 {
        let mut line = Vec::new();
        for _ in 0..random.below(6) {
            line.extend_from_slice(pieces[random.below(pieces.len())]);
        }
        let upgrade = Upgrade::new("");
        upgrade.write("root", "etc/first", "1");
        upgrade.write("root", "etc/second", "2");
        let list = [b"/etc/first\n", line.as_slice(), b"\n/etc/second\n"].concat();
        upgrade.write("root", "etc/sysupgrade.conf", &list);
        let kept = paths(&upgrade.keep());
        for path in ["/etc/first", "/etc/second"] {
            assert!(kept.iter().any(|kept| kept == path), "{line:?}: {kept:?}");
        }
    }
}

#[test]
fn links_are_kept_as_links_and_special_files_are_told() {
    let upgrade = Upgrade::new("/etc/dropbear\n/etc/out\n/etc/behind/x\n");
    upgrade.write("root", "etc/real/inner", "x");
    upgrade.write("root", "etc/dropbear/.hidden/key", "k");
    upgrade.link("root", "etc/dropbear/to", "../real");
    upgrade.link("root", "etc/out", "../../outside");
    upgrade.link("root", "etc/behind", "real");
    let fifo = upgrade.tree("root").join("etc/dropbear/pipe");
    assert!(
        Command::new("mkfifo")
            .arg(fifo)
            .status()
            .expect("mkfifo")
            .success()
    );
    let keep = upgrade.keep();
    assert_eq!(
        paths(&keep),
        ["/etc/dropbear/.hidden/key", "/etc/dropbear/to", "/etc/out"]
    );
    let found = kinds(&keep);
    for wanted in [
        (NoticeKind::SpecialFile, "etc/dropbear/pipe"),
        (NoticeKind::LeadsOut, "etc/out"),
        (NoticeKind::BehindLink, "/etc/behind/x"),
    ] {
        assert!(found.contains(&wanted), "{wanted:?} in {found:?}");
    }
}

#[test]
fn a_name_longer_than_names_can_be_costs_only_its_own_line() {
    let upgrade = Upgrade::new("");
    upgrade.write("root", "etc/first", "1");
    let list = format!(
        "/etc/{}\n/etc/first\n/etc/{}/x\n",
        "n".repeat(256),
        "d/".repeat(70)
    );
    upgrade.write("root", "etc/sysupgrade.conf", list);
    let keep = upgrade.keep();
    assert_eq!(paths(&keep), ["/etc/first"]);
    let kinds: Vec<_> = keep.notices().iter().map(|notice| notice.kind).collect();
    assert_eq!(kinds, [NoticeKind::NotAPath, NoticeKind::TooDeep]);
}

#[test]
fn what_lies_behind_a_link_is_kept_under_its_real_name() {
    let upgrade = Upgrade::new("");
    let words = "/etc/linked/\n/etc/bare\n/lib/app/x\n/etc/loop/x\n/etc/dangling/x\n";
    upgrade.write("root", "etc/sysupgrade.conf", words);
    upgrade.write("root", "etc/real/inner", "x");
    upgrade.write("root", "usr/lib/app/x", "x");
    upgrade.write("root", "usr/lib/app/other", "x");
    for (path, target) in [
        ("etc/linked", "real"),
        ("etc/bare", "real"),
        ("etc/loop", "loop"),
        ("etc/dangling", "/nowhere"),
    ] {
        upgrade.link("root", path, target);
    }
    fs::rename(
        upgrade.tree("root").join("lib/upgrade"),
        upgrade.tree("root").join("usr/lib/upgrade"),
    )
    .expect("moved");
    fs::remove_dir(upgrade.tree("root").join("lib")).expect("empty");
    upgrade.link("root", "lib", "/etc/../../usr/lib"); // the root is above the root
    let keep = upgrade.keep();
    assert_eq!(
        paths(&keep),
        [
            "/etc/bare",
            "/etc/linked",
            "/etc/real/inner",
            "/usr/lib/app/x"
        ]
    );
    assert_eq!(
        kinds(&keep),
        [
            (NoticeKind::BehindLink, "/etc/linked/"),
            (NoticeKind::BehindLink, "/lib/app/x"),
            (NoticeKind::MatchesNothing, "/etc/loop/x"),
            (NoticeKind::MatchesNothing, "/etc/dangling/x"),
        ]
    );
}

#[test]
fn the_live_tree_is_never_taken_for_its_own_defaults() {
    let upgrade = Upgrade::new("");
    upgrade.write("root", "etc/config/network", "mine\n");
    fs::remove_dir_all(upgrade.tree("rom")).expect("tidy");
    symlink(upgrade.tree("root"), upgrade.tree("rom")).expect("link");
    let report = upgrade.apply(&upgrade.save()).expect("applied");
    assert_eq!(
        upgrade.text("etc/config/network").as_deref(),
        Some("mine\n")
    );
    assert_eq!(actions(&report)["etc/config/network"], "user-added");
    assert_eq!(report.notices[0].kind, NoticeKind::NoBaseline);
}

#[test]
fn what_was_changed_and_is_not_kept_is_named() {
    let upgrade = Upgrade::new("/root/backup.sh\n");
    for (path, shipped, user) in [
        ("etc/config/system", Some("s"), "kept anyway"),
        ("etc/banner", Some("b"), "changed"),
        ("etc/untouched", Some("u"), "u"),
        ("etc/notes.txt", None, "added"),
        ("etc/board.json", None, "{}"),
        ("etc/config.apk-new", None, "theirs"),
        ("etc/sysupgrade/reports/1", None, "ours"),
        ("root/scratch", None, "in the home of root"),
        ("srv/scratch", None, "not watched"),
    ] {
        upgrade.write("root", path, user);
        if let Some(text) = shipped {
            upgrade.write("rom", path, text);
        }
    }
    upgrade.link("root", "etc/rc.d/S10x", "../init.d/x");
    let (_, summary) = upgrade.archive();
    let named: Vec<_> = (summary.notices.iter())
        .filter(|notice| notice.kind == NoticeKind::NotKept)
        .map(|notice| notice.path.as_str())
        .collect();
    assert_eq!(named, ["etc/banner", "etc/notes.txt", "root/scratch"]);
    upgrade.write("new", "etc/config/system", "s");
    let report = upgrade.apply(&upgrade.save()).expect("applied");
    assert!(
        report
            .notices
            .iter()
            .any(|notice| notice.path == "etc/banner")
    );
    assert!(!report.needs_review());
}

#[test]
fn a_long_list_of_what_is_not_kept_is_counted_and_not_cut_in_silence() {
    let upgrade = Upgrade::new("");
    for number in 0..250 {
        upgrade.write("root", format!("etc/left/{number:03}"), "x");
    }
    let (_, summary) = upgrade.archive();
    let named: Vec<_> = (summary.notices.iter())
        .filter(|notice| notice.kind == NoticeKind::NotKept)
        .collect();
    assert_eq!(named.len(), 201);
    assert_eq!(named[200].path, "50 more");
}

// --- the archive -----------------------------------------------------------------------------

/// A system with all that an archive must carry.
fn rich() -> Upgrade {
    let upgrade = Upgrade::new("/etc/dropbear/\n/etc/long/\n");
    upgrade.write("rom", "etc/config/network", "lan\n");
    upgrade.write("root", "etc/config/network", "lan and wan\n");
    upgrade.write("rom", "etc/config/same", "same\n");
    upgrade.write("root", "etc/config/same", "same\n");
    upgrade.write("rom", "etc/config/deleted", "was here\n");
    upgrade.write("root", "etc/dropbear/key", [0_u8, 255, 1].repeat(3000));
    upgrade.chmod("root", "etc/dropbear/key", 0o600);
    upgrade.write("root", "etc/dropbear/empty", "");
    upgrade.link(
        "root",
        "etc/config/link",
        &format!("../{}", "t".repeat(150)),
    );
    upgrade.write("root", format!("etc/long/{}", "n".repeat(255)), "long\n");
    upgrade.write(
        "root",
        format!("etc/long/{}/file", "d".repeat(120)),
        "deep\n",
    );
    upgrade
}

fn tar(dir: &Path, arguments: &[&str], archive: &Path) -> String {
    let output = Command::new("tar")
        .args(arguments)
        .arg(archive)
        .arg("-C")
        .arg(dir)
        .output()
        .expect("tar runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{errors}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn stock_tools_know_the_archive_by_its_first_bytes() {
    let (bytes, summary) = rich().archive();
    assert_eq!(&bytes[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]);
    assert_eq!((summary.files, summary.deletions), (7, 1));
}

#[test]
fn what_tar_unpacks_equals_what_was_kept() {
    let upgrade = rich();
    let archive = upgrade.save();
    let listed = tar(
        upgrade.dir.path(),
        &["--quoting-style=literal", "-tzf"],
        &archive,
    );
    let names: Vec<&str> = listed.lines().collect();
    let kept = paths(&upgrade.keep());
    let wanted: Vec<&str> = kept.iter().map(|path| &path[1..]).collect();
    assert_eq!(
        names[..kept.len()],
        wanted,
        "kept files first, as stock lays them out"
    );
    assert_eq!(
        names[kept.len()..],
        [
            "etc/sysupgrade/baseline/etc/config/network",
            "etc/sysupgrade/baseline/etc/config/deleted",
            "etc/sysupgrade/bundle.json"
        ]
    );
    for command in [["tar"].as_slice(), &["busybox", "tar"]] {
        let unpacked = scratch();
        let output = Command::new(command[0])
            .args(&command[1..])
            .args(["-xzpf"])
            .arg(&archive)
            .arg("-C")
            .arg(unpacked.path())
            .output()
            .expect("tar runs");
        assert!(output.status.success(), "{output:?}");
        for path in &wanted {
            let (from, to) = (upgrade.tree("root").join(path), unpacked.path().join(path));
            let (before, after) = (fs::symlink_metadata(&from), fs::symlink_metadata(&to));
            let (before, after) = (before.expect("the original"), after.expect(path));
            assert_eq!(before.mode(), after.mode(), "{command:?} {path}");
            assert_eq!((before.uid(), before.gid()), (after.uid(), after.gid()));
            if before.is_symlink() {
                assert_eq!(
                    fs::read_link(from).expect("link"),
                    fs::read_link(to).expect("link")
                );
            } else {
                assert_eq!(before.mtime(), after.mtime(), "{command:?} {path}");
                assert_eq!(fs::read(from).expect("read"), fs::read(to).expect("read"));
            }
        }
    }
}

#[test]
fn the_same_system_gives_the_same_archive_and_verifies() {
    let upgrade = rich();
    let (first, _) = upgrade.archive();
    assert_eq!(first, upgrade.archive().0);
    let bundle = archive::verify(first.as_slice()).expect("verified");
    assert_eq!(bundle.from_version, "1");
    assert_eq!(bundle.kept().count(), 7);
    let path = upgrade.save();
    tar(upgrade.dir.path(), &["-xzf"], &path);
    let json = fs::read(upgrade.dir.path().join("etc/sysupgrade/bundle.json")).expect("read");
    let read: Bundle = serde_json::from_slice(&json).expect("a bundle");
    assert_eq!(read, bundle);
}

#[test]
fn names_of_any_bytes_cross_an_upgrade() {
    let upgrade = Upgrade::new("");
    let names: [&[u8]; 6] = [
        b"new\nline",
        "gr\u{fc}n".as_bytes(),
        b"not \xff utf-8 \xc3",
        b"back\\slash \\x41",
        b" blanks ",
        b"-dash",
    ];
    for name in names {
        let path = Path::new("etc/config").join(OsStr::from_bytes(name));
        upgrade.write("root", &path, name);
        symlink(
            OsStr::from_bytes(name),
            upgrade
                .tree("root")
                .join("etc/config")
                .join(OsStr::from_bytes(&[name, b".link"].concat())),
        )
        .expect("link");
    }
    let report = upgrade.apply(&upgrade.save()).expect("applied");
    assert_eq!(report.entries.len(), 2 * names.len());
    let result = upgrade.result();
    for name in names {
        let path = Path::new("etc/config").join(OsStr::from_bytes(name));
        assert_eq!(result.data(&path), Some(name), "{path:?}");
    }
    let before = Snapshot::read(&upgrade.tree("root"))
        .expect("read")
        .below("etc/config");
    let after = result.below("etc/config");
    assert_eq!(after, before, "{}", after.differences(&before));
}

/// What an archive does to a system, if it does anything.
fn outcome(upgrade: &Upgrade, bytes: &[u8]) -> Option<Snapshot> {
    let path = upgrade.tree("tried.tar.gz");
    fs::write(&path, bytes).expect("write");
    files::remove_tree(&upgrade.tree("overlay")).expect("tidy");
    match upgrade.apply(&path) {
        Ok(_) => Some(upgrade.result()),
        Err(_) => {
            assert!(
                !upgrade.tree("overlay/upper").exists(),
                "refused, and yet something was applied"
            );
            None
        }
    }
}

#[test]
fn an_archive_cut_at_any_length_applies_nothing() {
    let upgrade = rich();
    let (bytes, _) = upgrade.archive();
    for length in 0..bytes.len() {
        let cut = &bytes[..length];
        assert!(
            archive::verify(cut).is_err(),
            "{length} of {} bytes",
            bytes.len()
        );
    }
    for length in (0..bytes.len()).step_by(512) {
        assert_eq!(outcome(&upgrade, &bytes[..length]), None, "{length} bytes");
    }
}

#[test]
fn a_flipped_bit_is_an_error_or_without_effect() {
    let upgrade = rich();
    let (bytes, _) = upgrade.archive();
    let original = archive::verify(bytes.as_slice()).expect("verified");
    let whole = outcome(&upgrade, &bytes).expect("applied");
    let mut harmless = 0;
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        match archive::verify(flipped.as_slice()) {
            Ok(bundle) => {
                assert_eq!(bundle, original, "byte {at}");
                assert_eq!(
                    outcome(&upgrade, &flipped).as_ref(),
                    Some(&whole),
                    "byte {at}"
                );
                harmless += 1;
            }
            Err(_) if at % 16 == 0 => assert_eq!(outcome(&upgrade, &flipped), None, "byte {at}"),
            Err(_) => {}
        }
    }
    // The time and system in the gzip header, and bits of the deflate stream that stand for nothing.
    assert!(harmless < 32, "{harmless} of {} bytes", bytes.len());
}

/// The tar inside an archive, changed, and packed again with a right checksum.
fn repacked(bytes: &[u8], change: impl FnOnce(&mut Vec<(tar::Header, Vec<u8>)>)) -> Vec<u8> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes));
    let mut members = Vec::new();
    for member in archive.entries().expect("entries") {
        let mut member = member.expect("a member");
        let mut content = Vec::new();
        member.read_to_end(&mut content).expect("content");
        members.push((member.header().clone(), content));
    }
    change(&mut members);
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut builder = tar::Builder::new(gzip);
    for (header, content) in &mut members {
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(header, content.as_slice()).expect("append");
    }
    let gzip = builder.into_inner().expect("a tar");
    gzip.finish().expect("gzip")
}

#[test]
fn a_full_disk_is_an_error_at_every_byte_of_the_archive() {
    /// Takes so many bytes.
    struct Disk(usize);
    impl std::io::Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            let count = bytes.len().min(self.0);
            self.0 -= count;
            Ok(count)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let upgrade = rich();
    let root = upgrade.tree("root");
    let source = Source {
        root: &root,
        keep: &upgrade.keep(),
        defaults: None,
        scope: Scope::Declared,
        from_version: "1",
        board: "test",
    };
    let mut whole = Vec::new();
    archive::write(&mut whole, &source).expect("an archive");
    for room in 0..whole.len() {
        let error = archive::write(Disk(room), &source).expect_err("full");
        assert!(matches!(error, ConfigError::Write(_)), "{room}: {error}");
    }
    archive::write(Disk(whole.len()), &source).expect("just enough");
}

#[test]
fn an_archive_is_verified_against_its_own_bundle() {
    let upgrade = Upgrade::new("");
    upgrade.write("rom", "etc/config/a", "default\n");
    upgrade.write("root", "etc/config/a", "mine\n");
    upgrade.write("root", "etc/config/b", "more\n");
    let (bytes, _) = upgrade.archive();
    let tried = |change: fn(&mut Vec<(tar::Header, Vec<u8>)>)| {
        let changed = repacked(&bytes, change);
        let error = archive::verify(changed.as_slice()).err();
        assert!(error.is_none() || outcome(&upgrade, &changed).is_none());
        error.map(|error| error.to_string())
    };
    assert_eq!(tried(|_| {}), None);
    for (what, words, change) in [
        (
            "a member too few",
            "stands where the bundle lists",
            (|members| drop(members.remove(1))) as fn(&mut Vec<(tar::Header, Vec<u8>)>),
        ),
        (
            "the last baseline gone",
            "lists 3 members, there are 2",
            |members| {
                members.remove(2);
            },
        ),
        ("members in another order", "stands where", |members| {
            members.swap(0, 1);
        }),
        ("a member twice", "stands where", |members| {
            members.insert(0, members[0].clone());
        }),
        ("other content", "is not what the bundle says", |members| {
            members[1].1 = b"MORE\n".to_vec();
        }),
        (
            "shorter content",
            "is not what the bundle says",
            |members| members[1].1.clear(),
        ),
        ("another mode", "is not what the bundle says", |members| {
            members[0].0.set_mode(0o777);
        }),
        ("another owner", "is not what the bundle says", |members| {
            members[0].0.set_uid(4711);
        }),
        ("a device", "", |members| {
            members[0].0.set_entry_type(tar::EntryType::Char);
        }),
        (
            "a member after the bundle",
            "follows the bundle",
            |members| {
                members.push(members[0].clone());
            },
        ),
        (
            "a format of the future",
            "format 2 is not known",
            |members| {
                let bundle = &mut members[3].1;
                let text = String::from_utf8_lossy(bundle).replace("\"format\":1", "\"format\":2");
                *bundle = text.into_bytes();
            },
        ),
        ("a bundle that climbs", "holds `..`", |members| {
            let bundle = &mut members[3].1;
            let text = String::from_utf8_lossy(bundle).replace("etc/config/b", "etc/../../b");
            *bundle = text.into_bytes();
        }),
        ("a wrong mark", "its old default is missing", |members| {
            let bundle = &mut members[3].1;
            let text = String::from_utf8_lossy(bundle)
                .replace("\"default\":\"none\"", "\"default\":\"changed\"");
            *bundle = text.into_bytes();
        }),
    ] {
        let error = tried(change).unwrap_or_else(|| panic!("{what} was accepted"));
        assert!(error.contains(words), "{what}: {error}");
    }
}

// --- first boot ------------------------------------------------------------------------------

#[test]
fn every_row_of_the_decision_table_holds_from_archive_to_overlay() {
    let upgrade = Upgrade::new("");
    // name, B, U, N, result, action
    let rows = [
        (
            "added",
            None,
            Some("u"),
            None,
            Some("u"),
            Some("user-added"),
        ),
        (
            "agreed-add",
            None,
            Some("u"),
            Some("u"),
            Some("u"),
            Some("converged"),
        ),
        (
            "add-add",
            None,
            Some("u"),
            Some("n"),
            Some("u"),
            Some("conflict-user"),
        ),
        ("gone", Some("b"), None, None, None, None),
        (
            "deleted",
            Some("b"),
            None,
            Some("b"),
            None,
            Some("stay-deleted"),
        ),
        (
            "deleted-changed",
            Some("b"),
            None,
            Some("n"),
            None,
            Some("stay-deleted"),
        ),
        ("removed", Some("b"), Some("b"), None, None, Some("removed")),
        (
            "same",
            Some("b"),
            Some("b"),
            Some("b"),
            Some("b"),
            Some("same"),
        ),
        (
            "updated",
            Some("b"),
            Some("b"),
            Some("n"),
            Some("n"),
            Some("updated"),
        ),
        (
            "orphan",
            Some("b"),
            Some("u"),
            None,
            Some("u"),
            Some("kept-orphan"),
        ),
        (
            "kept",
            Some("b"),
            Some("u"),
            Some("b"),
            Some("u"),
            Some("kept"),
        ),
        (
            "agreed",
            Some("b"),
            Some("n"),
            Some("n"),
            Some("n"),
            Some("converged"),
        ),
        (
            "both",
            Some("b"),
            Some("u"),
            Some("n"),
            Some("u"),
            Some("conflict-user"),
        ),
        ("new", None, None, Some("n"), Some("n"), None),
    ];
    for (name, base, user, new, ..) in rows {
        let path = format!("etc/config/{name}");
        for (tree, text) in [("rom", base), ("root", user), ("new", new)] {
            if let Some(text) = text {
                upgrade.write(tree, &path, text);
            }
        }
    }
    let report = upgrade.apply(&upgrade.save()).expect("applied");
    let found = actions(&report);
    for (name, _, _, _, result, action) in rows {
        let path = format!("etc/config/{name}");
        assert_eq!(upgrade.text(&path).as_deref(), result, "{name}");
        assert_eq!(found.get(&path).copied(), action, "{name}");
    }
    assert_eq!(
        conflicts(&report),
        [
            "etc/config/add-add add-add user",
            "etc/config/both unmergeable user",
            "etc/config/orphan change-delete user"
        ]
    );
    assert!(report.needs_review());
    let told: Vec<_> = report
        .notices
        .iter()
        .map(|n| (n.kind, n.path.as_str()))
        .collect();
    assert_eq!(
        told,
        [(NoticeKind::DeleteChange, "etc/config/deleted-changed")]
    );
}

#[test]
fn only_the_difference_to_the_new_image_is_written() {
    let upgrade = Upgrade::new("");
    for tree in ["rom", "root", "new"] {
        upgrade.write(tree, "etc/config/same", "same");
    }
    upgrade.write("new", "etc/config/agreed", "both");
    upgrade.write("root", "etc/config/agreed", "both");
    upgrade.write("root", "etc/config/mine", "mine");
    upgrade.apply(&upgrade.save()).expect("applied");
    let upper = Snapshot::read(&upgrade.tree("overlay/upper")).expect("read");
    let names: Vec<_> = upper.0.keys().filter_map(|path| path.to_str()).collect();
    assert_eq!(
        names,
        [
            "etc",
            "etc/config",
            "etc/config/mine",
            "etc/sysupgrade",
            "etc/sysupgrade/reports",
            "etc/sysupgrade/reports/00001.json"
        ]
    );
    assert!(!upgrade.tree("overlay/upper.new").exists());
}

#[test]
fn permissions_follow_whoever_changed_them() {
    let upgrade = Upgrade::new("/etc/keys\n");
    for (name, base, user, new) in [
        ("relaxed", 0o600, 0o600, 0o644),
        ("tightened", 0o644, 0o600, 0o644),
        ("disputed", 0o644, 0o600, 0o640),
    ] {
        let path = format!("etc/config/{name}");
        for (tree, mode) in [("rom", base), ("root", user), ("new", new)] {
            upgrade.write(tree, &path, "x");
            upgrade.chmod(tree, &path, mode);
        }
    }
    upgrade.write("root", "etc/keys/id", "secret");
    upgrade.chmod("root", "etc/keys", 0o700);
    upgrade.chmod("root", "etc/keys/id", 0o4700);
    for tree in ["rom", "new"] {
        upgrade.write(tree, "etc/keys/README", "");
        upgrade.chmod(tree, "etc/keys", 0o755);
    }
    upgrade.write("root", "etc/keys/README", "");
    let report = upgrade.apply(&upgrade.save()).expect("applied");
    let result = upgrade.result();
    let mode = |path: &str| match result.0.get(Path::new(path)) {
        Some(Entry::File { mode, .. } | Entry::Dir { mode }) => *mode,
        other => panic!("{path}: {other:?}"),
    };
    assert_eq!(mode("etc/config/relaxed"), 0o644);
    assert_eq!(mode("etc/config/tightened"), 0o600);
    assert_eq!(mode("etc/config/disputed"), 0o600);
    assert_eq!(mode("etc/keys"), 0o700, "the user closed the directory");
    assert_eq!(
        mode("etc/keys/id"),
        0o700,
        "no set-id bits that the image does not have"
    );
    assert_eq!(conflicts(&report), ["etc/config/disputed mode user"]);
    let cleared = report.entries.iter().filter(|entry| entry.set_id_cleared);
    let cleared: Vec<_> = cleared.map(|entry| entry.path.to_string()).collect();
    assert_eq!(cleared, ["etc/keys/id"]);
}

#[test]
fn a_directory_of_the_image_wins_over_a_file_which_goes_to_the_attic() {
    let upgrade = Upgrade::new("/etc/nftables.d\n/etc/was-dir/\n/etc/link\n");
    upgrade.write("root", "etc/nftables.d", "my rules\n");
    upgrade.write("new", "etc/nftables.d/README", "a directory now\n");
    // The other way round: below what is a file in the new image.
    upgrade.write("rom", "etc/was-dir/shipped", "s");
    upgrade.write("root", "etc/was-dir/shipped", "s");
    upgrade.write("root", "etc/was-dir/mine", "m");
    upgrade.write("new", "etc/was-dir", "a file now\n");
    // The user made a link of what the image has as a directory, and still has.
    upgrade.write("rom", "etc/link/x", "x");
    upgrade.write("new", "etc/link/x", "x");
    upgrade.link("root", "etc/link", "/data/link");
    let report = upgrade.apply(&upgrade.save()).expect("applied");
    assert_eq!(
        upgrade.text("etc/nftables.d/README").as_deref(),
        Some("a directory now\n")
    );
    assert_eq!(upgrade.text("etc/was-dir").as_deref(), Some("a file now\n"));
    assert_eq!(
        upgrade.result().0.get(Path::new("etc/link")),
        Some(&Entry::Link {
            target: "/data/link".into()
        })
    );
    let upper = upgrade.tree("overlay/upper/etc/sysupgrade/attic/00001/etc");
    assert_eq!(
        fs::read(upper.join("nftables.d")).expect("attic"),
        b"my rules\n"
    );
    assert_eq!(fs::read(upper.join("was-dir/mine")).expect("attic"), b"m");
    assert_eq!(
        conflicts(&report),
        ["etc/nftables.d type new", "etc/was-dir type new"]
    );
    assert_eq!(actions(&report)["etc/link"], "kept");
    assert_eq!(actions(&report)["etc/was-dir/shipped"], "removed");
}

#[test]
fn what_does_not_fit_into_the_attic_is_named() {
    let upgrade = Upgrade::new("/etc/big\n/etc/small\n");
    upgrade.write("root", "etc/big", vec![1; 300 << 10]);
    upgrade.write("root", "etc/small", "small");
    upgrade.write("new", "etc/big/x", "");
    upgrade.write("new", "etc/small/x", "");
    let report = upgrade.apply(&upgrade.save()).expect("applied");
    let told: Vec<_> = report
        .notices
        .iter()
        .map(|n| (n.kind, n.path.as_str()))
        .collect();
    assert_eq!(told, [(NoticeKind::AtticFull, "etc/big")]);
    let attic = upgrade.tree("overlay/upper/etc/sysupgrade/attic/00001/etc");
    assert!(attic.join("small").exists() && !attic.join("big").exists());
}

#[test]
fn a_generated_default_is_carried_until_an_image_ships_one() {
    let upgrade = Upgrade::new("");
    let store = "etc/sysupgrade/baseline/etc/config";
    for (name, user) in [
        ("network", "made\n"),
        ("wireless", "mine\n"),
        ("system", "made\n"),
    ] {
        upgrade.write("root", format!("{store}/{name}"), "made\n");
        upgrade.write("root", format!("etc/config/{name}"), user);
    }
    upgrade.write("root", format!("{store}/deleted"), "made\n");
    upgrade.write("new", "etc/config/system", "shipped\n");
    let archive = upgrade.save();
    let report = upgrade.apply(&archive).expect("applied");
    let actions = actions(&report);
    assert_eq!(actions["etc/config/network"], "same");
    assert_eq!(
        actions["etc/config/wireless"], "kept",
        "no image dropped it"
    );
    assert_eq!(actions["etc/config/system"], "updated");
    assert_eq!(actions["etc/config/deleted"], "stay-deleted");
    assert_eq!(
        upgrade.text("etc/config/network").as_deref(),
        Some("made\n")
    );
    assert_eq!(
        upgrade.text("etc/config/wireless").as_deref(),
        Some("mine\n")
    );
    assert_eq!(
        upgrade.text("etc/config/system").as_deref(),
        Some("shipped\n")
    );
    let carried = Snapshot::read(&upgrade.tree("overlay/upper").join(store)).expect("read");
    let names: Vec<_> = carried.0.keys().filter_map(|path| path.to_str()).collect();
    assert_eq!(names, ["deleted", "network", "wireless"]);
    assert_eq!(carried.data("wireless"), Some(&b"made\n"[..]));
}

#[test]
fn applying_twice_is_applying_once_and_edits_of_the_new_system_stay() {
    let upgrade = rich();
    let archive = upgrade.save();
    let first = upgrade.apply(&archive).expect("applied");
    assert!(!first.already_done);
    upgrade.write("overlay", "upper/etc/config/edited", "on trial");
    let before = Snapshot::read(&upgrade.tree("overlay")).expect("read");
    let second = upgrade.apply(&archive).expect("applied");
    assert!(second.already_done);
    assert_eq!(second.entries, first.entries);
    assert_eq!(
        Snapshot::read(&upgrade.tree("overlay")).expect("read"),
        before
    );
}

#[test]
fn a_leftover_of_a_cut_first_boot_leaves_no_trace() {
    let upgrade = rich();
    let archive = upgrade.save();
    upgrade.apply(&archive).expect("applied");
    let wanted = Snapshot::read(&upgrade.tree("overlay")).expect("read");
    files::remove_tree(&upgrade.tree("overlay")).expect("tidy");
    upgrade.write("overlay", "upper.new/etc/config/garbage", "half");
    upgrade.apply(&archive).expect("applied");
    let found = Snapshot::read(&upgrade.tree("overlay")).expect("read");
    assert_eq!(found, wanted, "{}", found.differences(&wanted));
}

#[test]
fn the_report_in_the_new_tree_is_the_one_returned() {
    let upgrade = rich();
    let report = upgrade.apply(&upgrade.save()).expect("applied");
    assert_eq!((report.from.as_str(), report.to.as_str()), ("1", "2"));
    let stored = reports::latest(&upgrade.tree("overlay/upper")).expect("read");
    assert_eq!(stored, Some(report));
    let state = upgrade.tree("overlay/upper/etc/sysupgrade");
    for (path, mode) in [
        ("", 0o700),
        ("reports", 0o700),
        ("reports/00001.json", 0o600),
    ] {
        let metadata = fs::metadata(state.join(path)).expect("metadata");
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{path}");
    }
}

#[test]
fn a_secret_is_neither_in_the_report_nor_readable_by_others() {
    let upgrade = Upgrade::new("/etc/shadow\n");
    upgrade.write(
        "root",
        "etc/shadow",
        "root:$1$PLANTED$hash:0:0:99999:7:::\n",
    );
    upgrade.chmod("root", "etc/shadow", 0o600);
    upgrade.write(
        "new",
        "etc/shadow",
        "root:::0:99999:7:::\nntp:x:0:0:99999:7:::\n",
    );
    let report = upgrade.apply(&upgrade.save()).expect("applied");
    let json = serde_json::to_string(&report).expect("json");
    assert!(!json.contains("PLANTED"));
    assert_eq!(
        upgrade.text("etc/shadow").as_deref(),
        Some("root:$1$PLANTED$hash:0:0:99999:7:::\nntp:x:0:0:99999:7:::\n"),
        "the account that the new image needs is there"
    );
}

#[test]
fn an_archive_of_other_tools_is_applied_without_a_baseline() {
    for command in [["tar"].as_slice(), &["busybox", "tar"]] {
        let upgrade = Upgrade::new("");
        upgrade.write("root", "etc/config/network", "mine\n");
        upgrade.write("root", format!("etc/config/{}", "x".repeat(130)), "long\n");
        upgrade.write("root", "etc/sysupgrade/state.json", "{}");
        upgrade.link("root", "etc/config/link", "network");
        upgrade.write("new", "etc/config/network", "new\n");
        upgrade.write("new", "etc/config/system", "new\n");
        let archive = upgrade.tree("stock.tar.gz");
        let status = Command::new(command[0])
            .args(&command[1..])
            .arg("-czf")
            .arg(&archive)
            .args(["-C", upgrade.tree("root").to_str().expect("a path")])
            .args(["etc/config", "etc/sysupgrade/state.json"])
            .status()
            .expect("tar runs");
        assert!(status.success());
        assert!(archive::verify(fs::File::open(&archive).expect("open")).is_err());
        let report = upgrade.apply(&archive).expect("applied");
        assert_eq!(
            upgrade.text("etc/config/network").as_deref(),
            Some("mine\n")
        );
        assert_eq!(upgrade.text("etc/config/system").as_deref(), Some("new\n"));
        assert_eq!(actions(&report)["etc/config/link"], "user-added");
        assert_eq!(conflicts(&report), ["etc/config/network add-add user"]);
        let told: Vec<_> = report
            .notices
            .iter()
            .map(|n| (n.kind, n.path.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                (NoticeKind::StateFile, "etc/sysupgrade/state.json"),
                (NoticeKind::NoBaseline, "")
            ]
        );
        assert!(
            !upgrade
                .tree("overlay/upper/etc/sysupgrade/state.json")
                .exists()
        );
    }
}

#[test]
fn backups_of_stock_tools_are_applied_as_they_were_recorded() {
    for case in ["opkg-overlay", "apk-overlay", "script-512", "odd-lines"] {
        let bytes = fs::read(format!("{VECTORS}/backup/{case}/backup.tgz")).expect("a backup");
        match archive::inspect(bytes.as_slice()) {
            Ok((bundle, archive::Origin::Foreign)) => {
                let mut wanted = stock_list(case);
                wanted.sort();
                let mut found: Vec<_> = bundle.kept().map(|m| format!("/{}", m.path)).collect();
                found.sort();
                assert_eq!(found, wanted, "{case}");
                let services = bundle.services.expect("services");
                let off = services.default.expect("what the script disables");
                assert!(services.user.is_empty() && !off.is_empty(), "{case}");
            }
            // The same file under two names, and one with `..`: never as configuration.
            Err(error) => assert_eq!(case, "odd-lines", "{error}"),
            Ok(_) => panic!("{case} has a bundle"),
        }
    }
}

#[test]
fn services_that_a_stock_backup_turns_off_stay_off_and_its_script_is_no_file_of_the_system() {
    let upgrade = Upgrade::new("");
    for (service, link) in [
        ("alpha", "S10alpha"),
        ("bravo", "S50bravo"),
        ("new", "S20new"),
    ] {
        upgrade.write("new", format!("etc/init.d/{service}"), "START=10\n");
        upgrade.link(
            "new",
            &format!("etc/rc.d/{link}"),
            &format!("../init.d/{service}"),
        );
    }
    let archive = PathBuf::from(format!("{VECTORS}/backup/opkg-overlay/backup.tgz"));
    let report = upgrade.apply(&archive).expect("applied");
    let result = upgrade.result();
    let has = |path: &str| result.0.contains_key(Path::new(path));
    assert!(
        has("etc/rc.d/S10alpha") && has("etc/rc.d/S20new"),
        "on in the image, not turned off"
    );
    assert!(!has("etc/rc.d/S50bravo"), "turned off by the user");
    assert!(!has("etc/uci-defaults/10_disable_services"));
    assert!(!actions(&report).contains_key("etc/uci-defaults/10_disable_services"));
    assert_eq!(report.services.len(), 1, "{:?}", report.services);
}

#[test]
fn a_list_of_packages_that_was_asked_for_is_there_after_the_upgrade() {
    let upgrade = Upgrade::new("");
    let archive = PathBuf::from(format!("{VECTORS}/backup/opkg-overlay/backup-k.tgz"));
    upgrade.apply(&archive).expect("applied");
    let list = upgrade.text("etc/backup/installed_packages.txt");
    assert_eq!(
        list.as_deref(),
        Some("unk\tunknown\nextra\toverlay\nnetifd\trom")
    );
}

#[test]
fn ten_thousand_files_and_deep_directories_cross_an_upgrade() {
    let upgrade = Upgrade::new("");
    for number in 0..10_000 {
        let path = format!("etc/config/{}/{number}", number % 100);
        upgrade.write("root", path, number.to_string());
    }
    let deep = format!("etc/config/{}file", "d/".repeat(60));
    let too_deep = format!("etc/config/{}file", "d/".repeat(70));
    upgrade.write("root", &deep, "deep");
    upgrade.write("root", too_deep, "too deep");
    let keep = upgrade.keep();
    assert_eq!(keep.paths().count(), 10_001);
    let kinds: Vec<_> = keep.notices().iter().map(|notice| notice.kind).collect();
    assert_eq!(kinds, [NoticeKind::TooDeep]);
    let report = upgrade.apply(&upgrade.save()).expect("applied");
    assert_eq!(report.entries.len(), 10_001);
    assert_eq!(upgrade.text(&deep).as_deref(), Some("deep"));
    assert_eq!(upgrade.text("etc/config/99/9999").as_deref(), Some("9999"));
}

#[test]
fn an_unreasonable_number_of_files_is_refused_and_not_cut() {
    let upgrade = Upgrade::new("");
    let dir = upgrade.tree("root").join("etc/config");
    for number in 0..=sysupgrade_rs::config::MAX_ENTRIES {
        symlink("x", dir.join(number.to_string())).expect("link");
    }
    let error = KeepList::read(&upgrade.tree("root")).expect_err("refused");
    assert!(matches!(error, ConfigError::TooMuch { .. }), "{error}");
}

// --- in place --------------------------------------------------------------------------------

fn apply_in_place(archive: &Path, root: &Path) -> Result<Report, ConfigError> {
    apply::apply(&Inputs {
        archive: &apply::in_file(archive),
        digest: Digest::of(&fs::read(archive).expect("the archive")),
        new_root: root,
        to: To {
            version: "2",
            compat: None,
        },
        target: Target::InPlace(root),
    })
}

/// A system whose upgrade replaces, adds and removes files, links and directories.
fn varied() -> Upgrade {
    let upgrade = Upgrade::new("/etc/link\n/etc/turned\n");
    upgrade.write("rom", "etc/config/network", "lan\n");
    upgrade.write("root", "etc/config/network", "lan and wan\n");
    upgrade.write("new", "etc/config/network", "lan\n");
    upgrade.write("rom", "etc/config/deleted", "b\n");
    upgrade.write("new", "etc/config/deleted", "b\n");
    upgrade.write("root", "etc/config/own/added", "mine\n");
    upgrade.write("new", "etc/config/fresh", "new\n");
    upgrade.link("rom", "etc/link", "a");
    upgrade.link("root", "etc/link", "b");
    upgrade.link("new", "etc/link", "a");
    upgrade.write("rom", "etc/turned/x", "x");
    upgrade.write("new", "etc/turned/x", "x");
    upgrade.write("root", "etc/turned", "a file instead\n");
    upgrade
}

fn configuration(tree: &Snapshot) -> Snapshot {
    let mut tree = tree.clone();
    tree.remove("etc/sysupgrade");
    tree
}

#[test]
fn in_place_and_overlay_come_to_the_same_result() {
    for upgrade in [varied(), rich()] {
        let archive = upgrade.save();
        let overlay = upgrade.apply(&archive).expect("applied");
        let wanted = upgrade.result();
        let root = upgrade.tree("new");
        let report = apply_in_place(&archive, &root).expect("applied");
        assert_eq!(report, overlay);
        let found = configuration(&Snapshot::read(&root).expect("read"));
        assert_eq!(found, wanted, "{}", found.differences(&wanted));
        assert!(!root.join("etc/sysupgrade/transaction").exists());
        let again = apply_in_place(&archive, &root).expect("applied");
        assert!(again.already_done);
        assert_eq!(again.entries, report.entries);
    }
}

#[test]
fn the_last_five_reports_are_kept_in_place() {
    let upgrade = varied();
    let root = upgrade.tree("new");
    for number in 1..=7 {
        upgrade.write("root", "etc/config/network", format!("{number}\n"));
        let report = apply_in_place(&upgrade.save(), &root).expect("applied");
        assert_eq!(reports::latest(&root).expect("read"), Some(report));
    }
    let names = files::list(&root.join("etc/sysupgrade/reports")).expect("list");
    assert_eq!(
        names,
        [
            "00003.json",
            "00004.json",
            "00005.json",
            "00006.json",
            "00007.json"
        ]
    );
}

/// Cuts an upgrade in place in every operation, and a few of the runs that recover once more.
fn cut_in_place(title: &str, upgrade: &Upgrade, random: &mut sim::Random) {
    const ONE_IN: usize = 100;
    const SECOND_CUTS: usize = 20;
    let seed = random.0;
    let archive = upgrade.save();
    let bytes = fs::read(&archive).expect("the archive");
    let root = upgrade.tree("new");
    let start = Snapshot::read(&root).expect("read");
    let (done, log) = trace::record(|| apply_in_place(&archive, &root));
    done.expect("applied");
    let end = Snapshot::read(&root).expect("read");
    let place = upgrade.tree("crashed");
    let recover = |crash: &sim::Crash| {
        files::remove_tree(&place).expect("tidy");
        crash.disk.write(&place).expect("write");
        let (done, log) = trace::record(|| apply_in_place(&archive, &place));
        let report = done.unwrap_or_else(|error| panic!("{}: {error}", crash.story));
        let done_before = !crash.after_the_end || report.already_done;
        assert!(done_before, "{}", crash.story);
        let found = Snapshot::read(&place).expect("read");
        assert_eq!(found, end, "{}\n{}", crash.story, found.differences(&end));
        log
    };
    let (mut crashes, cuts) = sim::cuts(&root, &start, &log, random);
    if log.len() > 200 {
        crashes = sim::one_each(crashes, random);
    }
    let mut twice = 0;
    for crash in &crashes {
        let log = recover(crash);
        if random.below(ONE_IN) == 0 {
            let (again, _) = sim::cuts(&place, &crash.disk, &log, random);
            for _ in 0..SECOND_CUTS {
                twice += 1;
                recover(&again[random.below(again.len())]);
            }
        }
    }
    assert!(fs::read(&archive).expect("the archive") == bytes);
    println!(
        "{title}: {cuts} cuts in {} operations, {} different disks tried, {twice} cut twice, seed {seed}",
        log.len(),
        crashes.len()
    );
    assert!(cuts > 500, "{cuts}");
}

#[test]
fn power_may_go_at_any_moment_of_an_upgrade_in_place() {
    cut_in_place("in place", &varied(), &mut sim::Random(3));
}

/// A system that was lived in, and its upgrade.
fn lived_in_upgrade(old: &Snapshot, running: &Snapshot, new: &Snapshot) -> Upgrade {
    let upgrade = Upgrade { dir: scratch() };
    for (tree, content) in [("rom", old), ("root", running), ("new", new)] {
        content.write(&upgrade.tree(tree)).expect("written");
    }
    upgrade
}

/// From version 1 to 2, and from what that leads to in place to version 3.
fn lived_in_upgrades() -> [Upgrade; 2] {
    let [old, new, last] = [1, 2, 3].map(|version| lived_in::system(version).root);
    let forward = lived_in_upgrade(&old, &old, &new);
    lived_in::generate(&forward.tree("root")).expect("generated");
    lived_in::move_in(&forward.tree("root"), "one").expect("moved in");
    let there = lived_in_upgrade(
        &old,
        &Snapshot::read(&forward.tree("root")).expect("read"),
        &new,
    );
    apply_in_place(&there.save(), &there.tree("new")).expect("applied");
    let running = Snapshot::read(&there.tree("new")).expect("read");
    let back = lived_in_upgrade(&new, &running, &last);
    lived_in::move_in(&back.tree("root"), "two").expect("moved in");
    [forward, back]
}

#[test]
fn power_may_go_at_any_moment_of_an_upgrade_of_a_lived_in_system_in_place() {
    let [forward, back] = lived_in_upgrades();
    cut_in_place("forward in place", &forward, &mut sim::Random(5));
    cut_in_place("back in place", &back, &mut sim::Random(6));
    lived_in::check_way_back(&Snapshot::read(&back.tree("new")).expect("read"));
}

#[test]
fn a_disk_that_is_full_at_any_write_of_an_upgrade_in_place_costs_nothing() {
    let [upgrade, _] = lived_in_upgrades();
    let archive = upgrade.save();
    let start = Snapshot::read(&upgrade.tree("new")).expect("read");
    let root = upgrade.tree("new");
    let (done, changes) = trace::full(&root, 0..0, || apply_in_place(&archive, &root));
    done.expect("applied");
    let end = Snapshot::read(&root).expect("read");
    let place = upgrade.tree("crashed");
    for first in 0..changes {
        files::remove_tree(&place).expect("tidy");
        start.write(&place).expect("write");
        let full = first..usize::MAX;
        let (done, _) = trace::full(&place, full, || apply_in_place(&archive, &place));
        let error = done.expect_err("a write that failed was not told");
        let reason = sysupgrade_rs::install::describe(&error);
        assert!(
            reason.contains("No space left") && reason.contains("/crashed"),
            "{reason}"
        );
        let journal = place.join("etc/sysupgrade/transaction/journal.json");
        let found = configuration(&Snapshot::read(&place).expect("read"));
        let untouched = found == configuration(&start);
        let done = found == configuration(&end);
        assert!(
            untouched || done || journal.exists(),
            "change {first}: {reason}"
        );
        apply_in_place(&archive, &place).expect("there is room again");
        let found = Snapshot::read(&place).expect("read");
        assert_eq!(found, end, "{}", found.differences(&end));
    }
}

#[test]
fn power_may_go_at_any_moment_of_an_upgrade_into_an_overlay() {
    let upgrade = varied();
    let archive = upgrade.save();
    let overlay = upgrade.tree("overlay");
    fs::create_dir(&overlay).expect("a directory");
    let start = Snapshot::read(&overlay).expect("read");
    let (done, log) = trace::record(|| upgrade.apply(&archive));
    done.expect("applied");
    let end = Snapshot::read(&overlay).expect("read");
    let (crashes, cuts) = sim::cuts(&overlay, &start, &log, &mut sim::Random(4));
    println!(
        "{cuts} cuts in {} operations, {} different disks",
        log.len(),
        crashes.len()
    );
    assert!(cuts > 200, "{cuts}");
    for crash in crashes {
        files::remove_tree(&overlay).expect("tidy");
        crash.disk.write(&overlay).expect("write");
        let upper = crash.disk.below("upper");
        let whole = end.below("upper");
        if overlay.join("upper").exists() {
            assert_eq!(
                upper,
                whole,
                "{}\n{}",
                crash.story,
                upper.differences(&whole)
            );
        } else {
            assert!(!crash.after_the_end, "{}", crash.story);
        }
        upgrade
            .apply(&archive)
            .unwrap_or_else(|error| panic!("{}: {error}", crash.story));
        let found = Snapshot::read(&overlay).expect("read");
        assert_eq!(found, end, "{}\n{}", crash.story, found.differences(&end));
    }
}

#[test]
fn a_first_boot_that_takes_too_long_applies_nothing() {
    let upgrade = rich();
    let archive = upgrade.save();
    let (overlay, new) = (upgrade.tree("overlay"), upgrade.tree("new"));
    let inputs = Inputs {
        archive: &apply::in_file(&archive),
        digest: Digest::of(&fs::read(&archive).expect("the archive")),
        new_root: &new,
        to: To {
            version: "2",
            compat: None,
        },
        target: Target::Overlay(&overlay),
    };
    let late = apply::apply_by(Deadline::after(Duration::ZERO), &inputs);
    let error = late.expect_err("too late");
    assert!(matches!(error, ConfigError::TooSlow { .. }), "{error}");
    assert_eq!(files::list(&overlay).expect("the overlay").len(), 0);
    let report = apply::apply(&inputs).expect("in time");
    assert!(!report.already_done);
}

#[test]
fn a_step_that_was_taken_is_remembered_and_undone_by_an_image_that_does_not_have_it() {
    let steps = r#"{"format":1,"steps":[{"id":"wide","component":"c","seq":1,"steps":[
        {"op":"text.replace_line","path":"/etc/mode","match":"narrow","replace":"wide"}]}]}"#;
    let up = Upgrade::new("/etc/mode\n");
    up.write("rom", "etc/mode", "one\nnarrow\nlast\n");
    up.write("root", "etc/mode", "mine\nnarrow\nlast\n");
    up.write("new", "etc/mode", "one\nwide\nlast\n");
    up.write("new", "lib/upgrade/migrations.json", steps);
    let report = up.apply(&up.save()).expect("applied");
    assert_eq!(report.steps.len(), 1);
    assert_eq!(up.text("etc/mode").as_deref(), Some("mine\nwide\nlast\n"));
    let state = up.tree("overlay/upper/etc/sysupgrade/state.json");
    let state = fs::read_to_string(state).expect("the state");

    // The same image again: nothing is left to do.
    let again = Upgrade::new("/etc/mode\n");
    for (tree, text) in [("rom", "one"), ("root", "mine"), ("new", "one")] {
        again.write(tree, "etc/mode", format!("{text}\nwide\nlast\n"));
    }
    again.write("root", "etc/sysupgrade/state.json", &state);
    again.write("new", "lib/upgrade/migrations.json", steps);
    let report = again.apply(&again.save()).expect("applied");
    assert_eq!(report.steps.len(), 0, "{:?}", report.steps);

    // An older image, which has never heard of the step.
    let down = Upgrade::new("/etc/mode\n");
    down.write("rom", "etc/mode", "one\nwide\nlast\n");
    down.write("root", "etc/mode", "mine\nwide\nlast\n");
    down.write("new", "etc/mode", "one\nnarrow\nlast\n");
    down.write("root", "etc/sysupgrade/state.json", &state);
    let report = down.apply(&down.save()).expect("applied");
    assert_eq!(report.steps.len(), 1, "{:?}", report.steps);
    assert_eq!(
        down.text("etc/mode").as_deref(),
        Some("mine\nnarrow\nlast\n")
    );
}

#[test]
fn extended_attributes_go_with_the_file_whose_content_they_belong_to() {
    let upgrade = Upgrade::new("/etc/tool\n/etc/theirs\n/etc/both\n");
    let tool = upgrade.tree("root").join("etc/tool");
    upgrade.write("root", "etc/tool", "mine");
    for (tree, text) in [
        ("rom", "a\nb\nc\n"),
        ("root", "A\nb\nc\n"),
        ("new", "a\nb\nC\n"),
    ] {
        upgrade.write(tree, "etc/both", text);
    }
    for tree in ["rom", "root"] {
        upgrade.write(tree, "etc/theirs", "old");
    }
    upgrade.write("new", "etc/theirs", "new");
    let mark = |path: &Path, value: &[u8]| {
        let attributes = [("user.origin".to_owned(), value.to_vec())].into();
        files::set_attributes(path, &attributes).expect("set");
        assert_eq!(files::attributes(path).expect("read"), attributes);
    };
    mark(&tool, b"\x00odd\xff\\");
    mark(&upgrade.tree("root").join("etc/both"), b"merged");
    mark(&upgrade.tree("root").join("etc/theirs"), b"untouched");
    upgrade.apply(&upgrade.save()).expect("applied");
    let found = |path: &str| {
        let path = upgrade.tree("overlay/upper").join(path);
        files::attributes(&path)
            .expect("read")
            .remove("user.origin")
    };
    assert_eq!(found("etc/tool").as_deref(), Some(&b"\x00odd\xff\\"[..]));
    assert_eq!(found("etc/both").as_deref(), Some(&b"merged"[..]));
    assert!(!upgrade.tree("overlay/upper/etc/theirs").exists());

    let root = upgrade.tree("new");
    apply_in_place(&upgrade.save(), &root).expect("applied in place");
    let attributes = files::attributes(&root.join("etc/tool")).expect("read");
    assert_eq!(attributes["user.origin"], b"\x00odd\xff\\");
}
