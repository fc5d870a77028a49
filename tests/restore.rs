//! A backup of anybody is put back without harm: what cannot be restored is left out and told, and
//! a damaged one changes nothing.
//!
//! The archives below `tests/vectors/openwrt/restore` were made by hand; what the stock tools did
//! with each is recorded beside them.

mod world;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use sysupgrade_rs::config::archive::{self, Source};
use sysupgrade_rs::config::bundle::Scope;
use sysupgrade_rs::config::keep::KeepList;
use sysupgrade_rs::config::report::NoticeKind::{self, *};
use sysupgrade_rs::config::restore::{Restored, restore};
use sysupgrade_rs::config::{ConfigError, MAX_CONTENT};
use sysupgrade_rs::files;
use world::snapshot::{Entry, Snapshot};

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/openwrt/restore");

/// The small system of the record: files, a link to a directory, a link to a file.
struct Router {
    dir: tempfile::TempDir,
}

impl Router {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let router = Self {
            dir: dir.expect("a temporary directory"),
        };
        for tree in ["root", "rom"] {
            let record = record();
            for (path, text) in record["target"].as_object().expect("files") {
                router.write(tree, path, text.as_str().expect("a text"));
            }
            for (path, target) in record["target_links"].as_object().expect("links") {
                let target = target.as_str().expect("a target");
                symlink(target, router.place(tree, path)).expect("a link");
            }
        }
        router
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn place(&self, tree: &str, path: &str) -> PathBuf {
        self.dir
            .path()
            .join(tree)
            .join(path.trim_start_matches('/'))
    }

    fn write(&self, tree: &str, path: &str, content: impl AsRef<[u8]>) {
        let place = self.place(tree, path);
        fs::create_dir_all(place.parent().expect("a parent")).expect("directories");
        fs::write(place, content).expect("write");
    }

    fn restore(&self, source: impl Read) -> Result<Restored, ConfigError> {
        let defaults = self.dir.path().join("rom");
        restore(&self.root(), Some(&defaults), source)
    }

    /// Everything in the temporary directory, but for the program's own directory.
    fn everything(&self) -> Snapshot {
        let mut all = Snapshot::read(self.dir.path()).expect("read");
        all.remove("root/etc/sysupgrade");
        all
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.place("root", path)).expect(path)
    }
}

fn record() -> serde_json::Value {
    let text = fs::read_to_string(format!("{VECTORS}/expected.json")).expect("the record");
    serde_json::from_str(&text).expect("json")
}

/// Files (their text) and links (their target) that the stock tools created or changed.
fn stock(name: &str) -> BTreeMap<String, String> {
    let record = record();
    let cases = record["cases"].as_array().expect("cases");
    let case = cases
        .iter()
        .find(|case| case["name"] == name)
        .expect("the case");
    let changed = case["boot_restore"]["changed"]
        .as_object()
        .expect("changes");
    let word = |entry: &serde_json::Value, key: &str| entry[key].as_str().map(str::to_owned);
    (changed.iter())
        .filter_map(|(path, entry)| {
            let content = word(entry, "text").or_else(|| word(entry, "target"))?;
            Some((path.clone(), content))
        })
        .collect()
}

/// The same of us.
fn changes(before: &Snapshot, after: &Snapshot) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (path, entry) in &after.0 {
        if before.0.get(path) == Some(entry) {
            continue;
        }
        let path = path.strip_prefix("root").expect("only the root changes");
        let content = match entry {
            Entry::File { data, .. } => String::from_utf8_lossy(data).into_owned(),
            Entry::Link { target } => target.display().to_string(),
            Entry::Dir { .. } | Entry::Whiteout => continue,
        };
        found.insert(format!("/{}", path.display()), content);
    }
    for path in before.0.keys() {
        assert!(after.0.contains_key(path), "{} is gone", path.display());
    }
    found
}

fn told(restored: &Restored) -> Vec<(NoticeKind, &str)> {
    let notices = restored.notices.iter();
    notices
        .map(|notice| (notice.kind, notice.path.as_str()))
        .collect()
}

fn archive(name: &str) -> Vec<u8> {
    fs::read(format!("{VECTORS}/{name}.tgz")).expect("an archive")
}

#[test]
fn what_is_harmless_is_restored_as_stock_tools_do() {
    for name in [
        "plain",
        "gzip-with-name",
        "hardlink",
        "dir-entries",
        "long-names-gnu",
        "long-names-pax",
        "lone-zero-block",
        "two-gzip-members",
        "overwrite-existing-symlink",
        "accounts",
    ] {
        let router = Router::new();
        let before = router.everything();
        let restored = router.restore(archive(name).as_slice()).expect(name);
        assert_eq!(
            changes(&before, &router.everything()),
            stock(&format!("{name}.tgz")),
            "{name}"
        );
        let kinds: Vec<_> = restored.notices.iter().map(|notice| notice.kind).collect();
        let wanted = if name == "accounts" {
            vec![AccountRestored; 3]
        } else {
            Vec::new()
        };
        assert_eq!(kinds, wanted, "{name}");
        assert!(!restored.needs_review(), "{name}");
    }
}

#[test]
fn what_is_not_restored_as_stock_tools_do_is_told() {
    /// Name, changes, notices.
    type Case = (
        &'static str,
        &'static [(&'static str, &'static str)],
        &'static [(NoticeKind, &'static str)],
    );
    let cases: [Case; 13] = [
        (
            "absolute-names",
            &[("/etc/abs", "new\n"), ("/outside/abs", "new\n")],
            &[(AbsoluteName, "etc/abs"), (AbsoluteName, "outside/abs")],
        ),
        (
            "dotdot",
            &[("/etc/ok1", "new\n"), ("/etc/ok2", "new\n")],
            &[
                (NameLeadsOut, "etc/../outside/dd"),
                (NameLeadsOut, "../outside/dd2"),
            ],
        ),
        (
            "symlink-escape-abs",
            &[("/etc/esc", "/outside"), ("/etc/ok1", "new\n")],
            &[(ThroughLink, "etc/esc/written")],
        ),
        (
            "symlink-escape-rel",
            &[("/etc/esc", "../outside")],
            &[(ThroughLink, "etc/esc/written")],
        ),
        (
            "symlink-inside",
            &[("/etc/d2/x", "new\n"), ("/etc/in", "d2")],
            &[(ThroughLink, "etc/in/y")],
        ),
        (
            "existing-dir-replaced-by-symlink",
            &[],
            &[(OtherKind, "etc/existingdir")],
        ),
        (
            "existing-file-replaced-by-dir",
            &[],
            &[
                (OtherKind, "etc/existingfile"),
                (OtherKind, "etc/existingfile/x"),
            ],
        ),
        (
            "through-existing-symlink",
            &[],
            &[(ThroughLink, "etc/linkdir/new")],
        ),
        (
            "hardlink-outside",
            &[("/etc/ok1", "new\n")],
            &[(HardLinkOutside, "etc/h3")],
        ),
        (
            "device-and-fifo",
            &[("/etc/ok1", "new\n")],
            &[(SpecialFile, "etc/null"), (SpecialFile, "etc/fifo")],
        ),
        (
            "setuid-owner",
            &[("/etc/su", "new\n")],
            &[(SetIdCleared, "etc/su")],
        ),
        (
            "duplicate-member",
            &[("/etc/dup", "second, longer\n")],
            &[(Duplicate, "etc/dup")],
        ),
        (
            "two-zero-blocks",
            &[("/etc/one", "new\n")],
            &[(TrailingBytes, "")],
        ),
    ];
    for (name, wanted, notices) in cases {
        let router = Router::new();
        let before = router.everything();
        let restored = router.restore(archive(name).as_slice()).expect(name);
        let wanted: BTreeMap<String, String> = (wanted.iter())
            .map(|(path, content)| ((*path).to_owned(), (*content).to_owned()))
            .collect();
        assert_eq!(changes(&before, &router.everything()), wanted, "{name}");
        assert_eq!(told(&restored), notices, "{name}");
    }
}

#[test]
fn a_damaged_archive_changes_nothing() {
    for name in [
        "truncated-gzip",
        "bad-gzip-crc",
        "bad-tar-checksum",
        "not-gzip",
        "empty",
    ] {
        let router = Router::new();
        let before = router.everything();
        let error = router.restore(archive(name).as_slice()).expect_err(name);
        assert!(matches!(error, ConfigError::Read(_)), "{name}: {error:?}");
        assert_eq!(router.everything(), before, "{name}");
        let left = files::list(&router.root().join("etc/sysupgrade")).expect("list");
        assert_eq!(left, [""; 0], "{name}");
    }
}

#[test]
fn bytes_after_the_archive_are_told() {
    let router = Router::new();
    let before = router.everything();
    let restored = router
        .restore(archive("trailing-garbage").as_slice())
        .expect("restored");
    assert_eq!(
        changes(&before, &router.everything()),
        stock("trailing-garbage.tgz")
    );
    assert_eq!(told(&restored), [(TrailingBytes, "")]);
}

#[test]
fn a_passwd_without_a_last_newline_does_not_swallow_the_next_account() {
    let router = Router::new();
    router
        .restore(archive("accounts-no-final-newline").as_slice())
        .expect("restored");
    let passwd = router.text("etc/passwd");
    assert!(stock("accounts-no-final-newline.tgz")["/etc/passwd"].contains("/bin/ashntp:"));
    assert_eq!(passwd.lines().count(), 4, "{passwd}");
    assert!(passwd.contains("\nntp:x:123:"), "{passwd}");
}

#[test]
fn permissions_are_restored_without_set_id_bits() {
    let router = Router::new();
    router
        .restore(archive("setuid-owner").as_slice())
        .expect("restored");
    router
        .restore(archive("plain").as_slice())
        .expect("restored");
    for (path, mode, owner) in [("etc/su", 0o755, (99, 98)), ("etc/b", 0o600, (1000, 1001))] {
        let metadata = fs::metadata(router.place("root", path)).expect("metadata");
        assert_eq!(metadata.mode() & 0o7777, mode, "{path}");
        if rustix::process::geteuid().is_root() {
            assert_eq!((metadata.uid(), metadata.gid()), owner, "{path}");
        }
    }
}

#[test]
fn cutting_any_archive_anywhere_changes_nothing() {
    for name in ["plain", "accounts", "hardlink", "two-gzip-members"] {
        let bytes = archive(name);
        let router = Router::new();
        let before = router.everything();
        for length in 0..bytes.len() {
            let cut = &bytes[..length];
            if router.restore(cut).is_ok() {
                // The first of two gzip members is an archive whose tar does not end.
                panic!("{length} bytes of {name} were taken for a whole archive");
            }
            assert_eq!(router.everything(), before, "{length} bytes of {name}");
        }
    }
}

#[test]
fn flipped_bits_never_harm_what_lies_outside_of_the_root() {
    for name in ["plain", "symlink-escape-rel", "long-names-pax"] {
        let plain = gunzip(&archive(name));
        let router = Router::new();
        let outside = |router: &Router| {
            let mut all = router.everything();
            all.remove("root");
            all
        };
        let before = outside(&router);
        for at in 0..plain.len().min(5 * 512) {
            let mut flipped = plain.clone();
            flipped[at] ^= 1 << (at % 8);
            fix_checksums(&mut flipped);
            // Restored or refused, but never a panic.
            let _ = router.restore(gzip(&flipped).as_slice());
            assert_eq!(outside(&router), before, "byte {at} of {name}");
        }
    }
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes)
        .read_to_end(&mut plain)
        .expect("gzip");
    plain
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).expect("gzip");
    gzip.finish().expect("gzip")
}

/// Gives every block that looks like a header a right checksum, so that the flip is believed.
fn fix_checksums(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

fn tar_of(members: &[(&str, tar::EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, target, content) in members {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, *content).expect("append");
    }
    gzip(&builder.into_inner().expect("a tar"))
}

#[test]
fn a_link_that_climbs_out_of_the_root_is_not_made() {
    use tar::EntryType::{Link, Regular, Symlink};
    let router = Router::new();
    let before = router.everything();
    let hostile = tar_of(&[
        ("etc/up", Symlink, "../../outside", b""),
        ("etc/abs-up", Symlink, "/../x", b""),
        ("etc/fine", Symlink, "../outside/secret", b""),
        ("etc/hard", Link, "../../etc/passwd", b""),
        ("etc/through", Symlink, "/outside", b""),
        ("etc/through/new", Regular, "", b"bad"),
        ("etc/swap", Regular, "", b"first"),
        ("etc/swap", Symlink, "/outside/target", b""),
        ("etc/swap", Regular, "", b"last"),
    ]);
    let restored = router.restore(hostile.as_slice()).expect("restored");
    assert_eq!(
        changes(&before, &router.everything()),
        [
            ("/etc/fine", "../outside/secret"),
            ("/etc/swap", "last"),
            ("/etc/through", "/outside"),
        ]
        .map(|(path, content)| (path.to_owned(), content.to_owned()))
        .into()
    );
    assert_eq!(
        told(&restored),
        [
            (LinkLeadsOut, "etc/up"),
            (LinkLeadsOut, "etc/abs-up"),
            (HardLinkOutside, "etc/hard"),
            (Duplicate, "etc/swap"),
            (Duplicate, "etc/swap"),
            (ThroughLink, "etc/through/new"),
        ]
    );
    assert!(restored.needs_review());
}

#[test]
fn the_programs_own_files_are_never_restored() {
    use tar::EntryType::Regular;
    let router = Router::new();
    let before = router.everything();
    let hostile = tar_of(&[
        ("etc/sysupgrade/state.json", Regular, "", b"{}"),
        ("etc/sysupgrade/baseline/etc/passwd", Regular, "", b"evil"),
        (
            "./etc/./sysupgrade//transaction/journal.json",
            Regular,
            "",
            b"{}",
        ),
    ]);
    let restored = router.restore(hostile.as_slice()).expect("restored");
    assert_eq!(router.everything(), before);
    assert_eq!(restored.paths, []);
    let left = files::list(&router.root().join("etc/sysupgrade")).expect("list");
    assert_eq!(left, [""; 0]);
}

#[test]
fn an_archive_of_unreasonable_size_is_refused_by_what_it_announces() {
    let router = Router::new();
    let before = router.everything();
    let small = gunzip(&tar_of(&[("etc/big", tar::EntryType::Regular, "", b"")]));
    let mut header = tar::Header::from_byte_slice(&small[..512]).clone();
    header.set_size(MAX_CONTENT + 1);
    header.set_cksum();
    let error = router
        .restore(gzip(header.as_bytes()).as_slice())
        .expect_err("refused");
    assert!(matches!(error, ConfigError::TooMuch { .. }), "{error:?}");
    assert_eq!(router.everything(), before);
}

#[test]
fn our_own_backup_comes_back_and_a_changed_one_is_refused() {
    let router = Router::new();
    router.write("root", "lib/upgrade/keep.d/base", "/etc\n");
    router.write("root", "etc/config/network", "mine\n");
    let root = router.root();
    let source = Source {
        root: &root,
        keep: &KeepList::read(&root).expect("a keep list"),
        defaults: Some(&router.dir.path().join("rom")),
        scope: Scope::Declared,
        from_version: "1",
        board: "test",
    };
    let mut bytes = Vec::new();
    archive::write(&mut bytes, &source).expect("an archive");
    let before = router.everything();
    files::remove_tree(&root.join("etc")).expect("lost");
    let mut wrong = gunzip(&bytes);
    let at = wrong
        .windows(5)
        .position(|text| text == b"mine\n")
        .expect("the file");
    wrong[at] = b'M';
    router
        .restore(gzip(&wrong).as_slice())
        .expect_err("not what the bundle says");
    assert!(!root.join("etc/config").exists());
    let restored = router.restore(bytes.as_slice()).expect("restored");
    assert_eq!(restored.notices, []);
    let after = router.everything();
    assert_eq!(after, before, "{}", after.differences(&before));
}

#[test]
fn archives_of_gnu_and_busybox_tar_come_back_whole() {
    for command in [["tar"].as_slice(), &["busybox", "tar"]] {
        let router = Router::new();
        router.write(
            "root",
            &format!("etc/{}/{}", "d".repeat(90), "f".repeat(90)),
            "long\n",
        );
        router.write("root", "etc/empty", "");
        let archive = router.dir.path().join("backup.tar.gz");
        let made = Command::new(command[0])
            .args(&command[1..])
            .arg("-czf")
            .arg(&archive)
            .arg("-C")
            .arg(router.root())
            .arg(".")
            .status()
            .expect("tar runs");
        assert!(made.success());
        let before = router.everything();
        files::remove_tree(&router.root()).expect("lost");
        fs::create_dir(router.root()).expect("a new system");
        let restored = router
            .restore(fs::File::open(&archive).expect("open"))
            .expect("restored");
        assert_eq!(restored.notices, [], "{command:?}");
        let after = router.everything();
        assert_eq!(after, before, "{command:?}\n{}", after.differences(&before));
    }
}
