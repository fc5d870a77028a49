//! What of a system goes into an archive, and that it comes out on the other side as it went in,
//! or not at all.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{Cursor, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use sysupgrade_rs::config::archive::{self, Origin, Source, Unpacked};
use sysupgrade_rs::config::bundle::{BUNDLE, Bundle, Deletion, OldDefault, Scope};
use sysupgrade_rs::config::keep::KeepList;
use sysupgrade_rs::config::report::{Notice, NoticeKind};
use sysupgrade_rs::config::{ConfigError, Content, EntryPath, Tree};
use sysupgrade_rs::digest::Digest;
use sysupgrade_rs::files;
use tar::{EntryType, Header};

/// A directory for one test, in memory where that is possible: some tests unpack thousands of times.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    dir.expect("a temporary directory")
}

fn path(name: &str) -> EntryPath {
    EntryPath::try_from(name.as_bytes()).expect("a path")
}

/// A running system and the defaults that it came from.
struct System {
    dir: tempfile::TempDir,
}

impl System {
    fn new() -> Self {
        let dir = scratch();
        for tree in ["root/etc/config", "root/lib/upgrade/keep.d", "rom/etc"] {
            fs::create_dir_all(dir.path().join(tree)).expect("directories");
        }
        let system = Self { dir };
        system.write("root/lib/upgrade/keep.d/base", "/etc/config/\n");
        system
    }

    fn at(&self, place: &str) -> PathBuf {
        self.dir.path().join(place)
    }

    fn write(&self, place: &str, text: impl AsRef<[u8]>) {
        let place = self.at(place);
        fs::create_dir_all(place.parent().expect("a parent")).expect("directories");
        fs::write(place, text).expect("write");
    }

    fn link(&self, place: &str, target: &str) {
        let place = self.at(place);
        fs::create_dir_all(place.parent().expect("a parent")).expect("directories");
        symlink(target, place).expect("link");
    }

    fn archive(&self) -> Vec<u8> {
        self.try_archive(Scope::Declared).expect("an archive")
    }

    /// What the archive of scope etc says.
    fn bundle(&self) -> Bundle {
        let bytes = self.try_archive(Scope::Etc).expect("an archive");
        archive::verify(&*bytes).expect("a bundle")
    }

    fn try_archive(&self, scope: Scope) -> Result<Vec<u8>, ConfigError> {
        let root = self.at("root");
        let defaults = self.at("rom");
        let mut bytes = Vec::new();
        let source = Source {
            root: &root,
            keep: &KeepList::read(&root)?,
            defaults: Some(&defaults),
            scope,
            from_version: "1",
            board: "test",
        };
        archive::write(&mut bytes, &source)?;
        Ok(bytes)
    }
}

/// A typical small system: a changed, an unchanged and a new file, a deleted one, links.
fn typical() -> System {
    let system = System::new();
    for (file, text) in [
        ("rom/etc/config/network", "shipped"),
        ("root/etc/config/network", "edited"),
        ("rom/etc/config/system", "same"),
        ("root/etc/config/system", "same"),
        ("rom/etc/config/gone", "deleted by the user"),
        ("root/etc/config/mine", "only mine"),
    ] {
        system.write(file, text);
    }
    system.link("root/etc/config/link", "../hosts");
    system.link("rom/etc/config/turned", "old");
    system.link("root/etc/config/turned", "new");
    files::set_mode(&system.at("root/etc/config/mine"), 0o640).expect("chmod");
    files::set_modified(&system.at("root/etc/config/mine"), 1_234_567).expect("a time");
    for file in ["rom/etc/config/system", "root/etc/config/system"] {
        files::set_modified(&system.at(file), 7).expect("a time");
    }
    system
}

fn unpack(bytes: &[u8], into: &Path) -> Result<Unpacked, ConfigError> {
    archive::unpack(bytes, into)
}

/// Kind and content of everything in a tree.
fn told(tree: &Tree) -> BTreeMap<String, String> {
    let told = tree.iter().map(|(path, entry)| {
        let content = match &entry.content {
            Content::File { .. } => {
                let bytes = tree.bytes(path, 1 << 20).expect("bytes").expect("a file");
                format!("{:o} {}", entry.meta.mode, String::from_utf8_lossy(&bytes))
            }
            Content::Link { target } => format!("-> {}", String::from_utf8_lossy(target)),
            Content::Dir => format!("{:o}/", entry.meta.mode),
        };
        (path.to_string(), content)
    });
    told.collect()
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter().map(|(key, value)| (*key, *value));
    pairs
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}

#[test]
fn what_was_written_is_unpacked_as_the_trees_it_was_taken_from() {
    let system = typical();
    let bytes = system.archive();
    let into = system.at("into");
    let unpacked = unpack(&bytes, &into).expect("unpacked");

    assert_eq!(unpacked.origin, Origin::Own);
    assert_eq!(unpacked.size, bytes.len() as u64);
    assert_eq!(unpacked.sha256, Digest::of(&bytes));
    assert_eq!(
        told(&unpacked.user),
        map(&[
            ("etc", "755/"),
            ("etc/config", "755/"),
            ("etc/config/link", "-> ../hosts"),
            ("etc/config/mine", "640 only mine"),
            ("etc/config/network", "644 edited"),
            ("etc/config/system", "644 same"),
            ("etc/config/turned", "-> new"),
        ])
    );
    assert_eq!(
        told(&unpacked.base),
        map(&[
            ("etc", "755/"),
            ("etc/config", "755/"),
            ("etc/config/gone", "644 deleted by the user"),
            ("etc/config/network", "644 shipped"),
            ("etc/config/system", "644 same"),
            ("etc/config/turned", "-> old"),
        ])
    );
}

#[test]
fn unpacked_files_are_the_owners_alone_and_keep_their_time() {
    let system = typical();
    let into = system.at("into");
    unpack(&system.archive(), &into).expect("unpacked");
    let mut times = Vec::new();
    for dir in ["user", "baseline"] {
        let dir = into.join(dir);
        let metadata = fs::symlink_metadata(&dir).expect("metadata");
        assert_eq!(metadata.mode() & 0o7777, 0o700);
        for file in below(&dir) {
            let metadata = fs::symlink_metadata(&file).expect("metadata");
            assert_eq!(metadata.mode() & 0o7777, 0o600, "{}", file.display());
            assert!(metadata.is_file(), "{}", file.display());
            times.push(metadata.mtime());
        }
    }
    // mine, network, system; of the defaults only what differs: gone, network
    assert_eq!(times.len(), 5);
    assert!(
        times.contains(&1_234_567) && times.contains(&7),
        "{times:?}"
    );
}

/// A member of an archive that nobody wrote by accident.
struct Member<'a> {
    name: &'a str,
    kind: EntryType,
    text: &'a str,
}

fn file<'a>(name: &'a str, text: &'a str) -> Member<'a> {
    let kind = EntryType::Regular;
    Member { name, kind, text }
}

fn link<'a>(name: &'a str, text: &'a str) -> Member<'a> {
    let kind = EntryType::Symlink;
    Member { name, kind, text }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("gzip");
    encoder.finish().expect("gzip")
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut decoder = GzDecoder::new(bytes);
    decoder.read_to_end(&mut plain).expect("gunzip");
    plain
}

fn append(tar: &mut Vec<u8>, member: &Member) {
    let has_content = matches!(member.kind, EntryType::Regular | EntryType::GNULongName);
    let mut header = Header::new_gnu();
    // Not `set_path`, which refuses what is tried here.
    let field = &mut header.as_old_mut().name;
    field[..member.name.len()].copy_from_slice(member.name.as_bytes());
    header.set_entry_type(member.kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let text = if has_content { member.text } else { "" };
    if member.kind == EntryType::Symlink {
        header.set_link_name_literal(member.text).expect("a target");
    }
    header.set_size(text.len() as u64);
    header.set_cksum();
    tar.extend_from_slice(header.as_bytes());
    tar.extend_from_slice(text.as_bytes());
    tar.resize(tar.len().next_multiple_of(512), 0);
}

fn tar(members: &[Member]) -> Vec<u8> {
    let mut tar = Vec::new();
    for member in members {
        append(&mut tar, member);
    }
    tar.resize(tar.len() + 1024, 0);
    gzip(&tar)
}

/// What is in a directory.
fn below(dir: &Path) -> Vec<PathBuf> {
    let names = files::list(dir).expect("a directory");
    names.into_iter().map(|name| dir.join(name)).collect()
}

#[test]
fn an_archive_without_a_bundle_is_unpacked_as_what_the_user_has() {
    let dir = scratch();
    let into = dir.path().join("into");
    let bytes = tar(&[
        file("etc/hosts", "hosts"),
        link("etc/localtime", "/tmp/TZ"),
        file("etc/sysupgrade/state.json", "not taken"),
    ]);
    let unpacked = unpack(&bytes, &into).expect("unpacked");
    assert_eq!(unpacked.origin, Origin::Foreign);
    assert_eq!(
        told(&unpacked.user),
        map(&[("etc/hosts", "644 hosts"), ("etc/localtime", "-> /tmp/TZ")])
    );
    assert!(told(&unpacked.base).is_empty());
    assert_eq!(below(&into.join("user")).len(), 1);
}

#[test]
fn an_archive_that_would_leave_its_place_or_contradicts_itself_is_refused() {
    let dir_member = |name| Member {
        name,
        kind: EntryType::Directory,
        text: "",
    };
    for (why, members) in [
        ("upward", vec![file("../evil", "x")]),
        ("upward inside", vec![file("etc/../../evil", "x")]),
        ("file below file", vec![file("a", "x"), file("a/b", "y")]),
        ("file onto parent", vec![file("a/b", "x"), file("a", "y")]),
        (
            "file through link",
            vec![link("a", ".."), file("a/evil", "x")],
        ),
        ("link onto parent", vec![file("a/b", "x"), link("a", "..")]),
        ("twice", vec![file("a", "x"), file("a", "y")]),
        (
            "twice, in other words",
            vec![file("a", "x"), file("./a", "y")],
        ),
        (
            "link, then file",
            vec![link("a", "../evil"), file("a", "x")],
        ),
        (
            "directory, then file",
            vec![dir_member("a/"), file("a", "x")],
        ),
        ("no name", vec![file("/", "x")]),
    ] {
        let dir = scratch();
        let into = dir.path().join("into");
        let error = unpack(&tar(&members), &into).expect_err(why);
        assert!(
            matches!(error, ConfigError::Damaged { .. }),
            "{why}: {error}"
        );
        assert_eq!(below(dir.path()), [into], "{why}");
    }
}

#[test]
fn an_absolute_name_is_one_below_the_place() {
    let dir = scratch();
    let into = dir.path().join("into");
    let unpacked = unpack(&tar(&[file("/etc/hosts", "x")]), &into).expect("unpacked");
    assert!(unpacked.user.get(&path("etc/hosts")).is_some());
}

/// The archive with its bundle changed, or with other members before it.
fn with_lie(bytes: &[u8], lie: impl FnOnce(&mut serde_json::Value), more: &[Member]) -> Vec<u8> {
    let plain = gunzip(bytes);
    let mut archive = tar::Archive::new(Cursor::new(&plain));
    let mut begin = 0;
    let mut text = Vec::new();
    for entry in archive.entries().expect("entries") {
        let mut entry = entry.expect("an entry");
        if entry.path_bytes() == BUNDLE.as_bytes() {
            begin = usize::try_from(entry.raw_header_position()).expect("a position");
            entry.read_to_end(&mut text).expect("the bundle");
        }
    }
    let mut bundle = serde_json::from_slice(&text).expect("json");
    lie(&mut bundle);
    let mut tar = plain[..begin].to_vec();
    for member in more {
        append(&mut tar, member);
    }
    append(&mut tar, &file(BUNDLE, &bundle.to_string()));
    tar.resize(tar.len() + 1024, 0);
    gzip(&tar)
}

#[test]
fn a_bundle_that_lies_is_refused() {
    type Lie = fn(&mut serde_json::Value);
    let bytes = typical().archive();
    let refused = |why: &str, bytes: &[u8]| {
        let dir = scratch();
        unpack(bytes, &dir.path().join("into")).expect_err(why);
        archive::inspect(bytes).expect_err(why);
    };
    let truth = with_lie(&bytes, |_| {}, &[]);
    archive::verify(&*truth).expect("the truth is accepted");
    let lies: [(&str, Lie); 16] = [
        ("size", |b| b["members"][1]["size"] = 3.into()),
        ("digest", |b| {
            b["members"][1]["sha256"] = Digest::of(b"").to_string().into();
        }),
        ("mode", |b| b["members"][1]["mode"] = 0o777.into()),
        ("owner", |b| b["members"][1]["uid"] = 4711.into()),
        ("target", |b| b["members"][0]["target"] = "else".into()),
        ("name", |b| b["members"][1]["path"] = "etc/else".into()),
        ("order", |b| {
            b["members"].as_array_mut().expect("members").swap(0, 1);
        }),
        ("member missing", |b| {
            b["members"].as_array_mut().expect("members").pop();
        }),
        ("member too many", |b| {
            let members = b["members"].as_array_mut().expect("members");
            members.push(members[1].clone());
        }),
        ("same", |b| b["members"][2]["default"] = "same".into()),
        ("no default", |b| b["members"][2]["default"] = "none".into()),
        ("changed", |b| b["members"][1]["default"] = "changed".into()),
        ("deletions", |b| b["deletions"] = serde_json::json!([])),
        ("directory", |b| {
            b["directories"][0]["path"] = "etc/config/network".into();
        }),
        ("format", |b| b["format"] = 2.into()),
        ("service", |b| {
            b["services"] = serde_json::json!({"user": ["../init"]});
        }),
    ];
    for (why, lie) in lies {
        refused(why, &with_lie(&bytes, lie, &[]));
    }
    refused("unlisted", &with_lie(&bytes, |_| {}, &[file("etc/x", "")]));
    let mut after = gunzip(&bytes);
    after.truncate(after.len() - 1024);
    append(&mut after, &file("etc/x", ""));
    after.resize(after.len() + 1024, 0);
    refused("after the bundle", &gzip(&after));
    let mut tail = gunzip(&bytes);
    tail.extend_from_slice(b"tail");
    refused("bytes after the end", &gzip(&tail));
    refused("bytes after gzip", &[&bytes[..], b"x"].concat());
}

#[test]
fn an_archive_that_is_cut_anywhere_is_refused() {
    let system = typical();
    let bytes = system.archive();
    let into = system.at("into");
    for length in 0..bytes.len() {
        assert!(unpack(&bytes[..length], &into).is_err(), "{length}");
        files::remove_tree(&into).expect("removed");
    }
}

#[test]
fn no_flipped_bit_panics_or_changes_what_is_unpacked() {
    let system = typical();
    let bytes = system.archive();
    let into = system.at("into");
    let whole = unpack(&bytes, &into).expect("unpacked");
    files::remove_tree(&into).expect("removed");
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(unpacked) = unpack(&flipped, &into) {
            // Some bits of gzip say nothing, or the same in another way.
            assert_eq!(unpacked.bundle, whole.bundle, "bit {bit}");
            assert_ne!(unpacked.sha256, whole.sha256, "bit {bit}");
        }
        files::remove_tree(&into).expect("removed");
    }
}

#[test]
fn no_flipped_bit_of_the_tar_panics_or_changes_a_member() {
    let system = System::new();
    system.write("root/etc/config/a", "one small file");
    let mut plain = gunzip(&system.archive());
    let whole = archive::verify(&*gzip(&plain)).expect("whole");
    for bit in 0..plain.len() * 8 {
        plain[bit / 8] ^= 1 << (bit % 8);
        let mut packed = GzEncoder::new(Vec::new(), Compression::none());
        packed.write_all(&plain).expect("gzip");
        if let Ok((bundle, Origin::Own)) = archive::inspect(&*packed.finish().expect("gzip")) {
            // Padding, and text of the bundle that has no copy elsewhere.
            assert_eq!(bundle.members, whole.members, "bit {bit}");
        }
        plain[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn an_archive_that_announces_more_than_a_configuration_is_refused_before_it_is_read() {
    let dir = scratch();
    let mut tar = Vec::new();
    append(&mut tar, &file("etc/big", ""));
    let mut header = Header::from_byte_slice(&tar[..512]).clone();
    header.set_size(2 << 30);
    header.set_cksum();
    tar[..512].copy_from_slice(header.as_bytes());
    let error = unpack(&gzip(&tar), &dir.path().join("into")).expect_err("too much");
    assert!(matches!(error, ConfigError::TooMuch { .. }), "{error}");
}

#[test]
fn more_names_than_a_bundle_could_list_are_refused() {
    let long = ["d".repeat(250).as_str(); 15].join("/");
    let mut tar = Vec::new();
    for number in 0..9_000 {
        let name = format!("{long}/{number}");
        let record = Member {
            name: "././@LongLink",
            kind: EntryType::GNULongName,
            text: &name,
        };
        append(&mut tar, &record);
        append(&mut tar, &link("short", "x"));
    }
    tar.resize(tar.len() + 1024, 0);
    let error = archive::inspect(&*gzip(&tar)).expect_err("too many");
    let told = error.to_string();
    assert!(told.contains("length of all names"), "{told}");
}

#[test]
fn a_time_that_no_clock_shows_is_refused() {
    let dir = scratch();
    let mut tar = Vec::new();
    append(&mut tar, &file("etc/hosts", "x"));
    let mut header = Header::from_byte_slice(&tar[..512]).clone();
    header.set_mtime(u64::MAX);
    header.set_cksum();
    tar[..512].copy_from_slice(header.as_bytes());
    tar.resize(tar.len() + 1024, 0);
    let error = unpack(&gzip(&tar), &dir.path().join("into")).expect_err("no time");
    assert!(error.to_string().contains("set the time of"), "{error}");
}

#[test]
fn the_archive_tells_services_owners_state_and_decisions() {
    let system = typical();
    for (place, target) in [
        ("rom/etc/rc.d/S50uhttpd", "../init.d/uhttpd"),
        ("rom/etc/rc.d/S19dnsmasq", "../init.d/dnsmasq"),
        ("root/etc/rc.d/S19dnsmasq", "../init.d/dnsmasq"),
        ("root/etc/rc.d/K15dnsmasq", "../init.d/dnsmasq"),
        ("root/etc/rc.d/S99mine", "../init.d/mine"),
    ] {
        system.link(place, target);
    }
    system.write(
        "root/etc/sysupgrade/state.json",
        r#"{"format":1,"applied":[{"id":"x"}]}"#,
    );
    system.write("root/etc/sysupgrade/resolutions.json", "[]");
    let owner = fs::metadata(system.at("root/etc/config")).expect("metadata");
    system.write(
        "root/etc/passwd",
        format!("me:x:{}:0::/:\nother:x:4711:0::/:\n", owner.uid()),
    );
    let bundle = archive::verify(&*system.archive()).expect("an archive");

    let services = bundle.services.expect("services");
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(services.default, Some(names(&["dnsmasq", "uhttpd"])));
    assert_eq!(services.user, names(&["dnsmasq", "mine"]));
    assert_eq!(bundle.owners.users.len(), 1);
    assert_eq!(bundle.owners.users[&owner.uid()], "me");
    let state = serde_json::json!({"format": 1, "applied": [{"id": "x"}]});
    assert_eq!(bundle.state, Some(state));
    assert_eq!(bundle.resolutions, Some(serde_json::json!([])));
}

#[test]
fn the_owner_of_a_directory_is_named_though_it_has_no_files() {
    let system = System::new();
    let owner = fs::metadata(system.at("root/etc/config")).expect("metadata");
    system.write("root/etc/passwd", format!("me:x:{}:0::/:\n", owner.uid()));
    let bundle = archive::verify(&*system.archive()).expect("an archive");
    assert!(bundle.members.is_empty());
    assert_eq!(bundle.owners.users[&owner.uid()], "me");
}

#[test]
fn a_state_that_cannot_be_read_is_refused_by_name() {
    for (name, text, why) in [
        ("root/etc/sysupgrade/state.json", "{".into(), "no JSON"),
        (
            "root/etc/sysupgrade/resolutions.json",
            "[] []".into(),
            "no JSON",
        ),
        (
            "root/etc/sysupgrade/state.json",
            " ".repeat(2 << 20),
            "read",
        ),
    ] {
        let system = typical();
        system.write(name, text);
        let error = system.try_archive(Scope::Declared).expect_err(name);
        let (_, file) = name.split_once('/').expect("a path");
        let told = error.to_string();
        assert!(told.contains(file) && told.contains(why), "{told}");
    }
}

// --- scope -------------------------------------------------------------------------------------

/// Kept paths with what their default was; directories with a slash.
fn kept(bundle: &Bundle) -> Vec<(String, OldDefault)> {
    let members = bundle.kept().map(|member| {
        let default = member.default.expect("a default");
        (member.path.to_string(), default)
    });
    let directories = bundle.directories.iter();
    let directories = directories.map(|dir| (format!("{}/", dir.path), dir.default));
    members.chain(directories).collect()
}

fn deleted(bundle: &Bundle) -> Vec<String> {
    let deletions = bundle.deletions.iter();
    deletions
        .map(|Deletion { path, .. }| path.to_string())
        .collect()
}

fn not_kept(bundle: &Bundle) -> Vec<&str> {
    let notices = bundle.notices.iter();
    notices
        .filter(|notice| notice.kind == NoticeKind::NotKept)
        .map(|notice| notice.path.as_str())
        .collect()
}

/// A system in which something of every sort was done below /etc.
fn worked_on() -> System {
    let system = System::new();
    for file in [
        "etc/banner",
        "etc/config/network",
        "etc/deep/er/file",
        "etc/hosts",
        "etc/os-release",
        "etc/same",
        "etc/secret",
        "etc/uci-defaults/10_x",
        "etc/unlinked",
        "etc/urandom.seed",
    ] {
        for tree in ["rom", "root"] {
            system.write(&format!("{tree}/{file}"), "shipped");
        }
    }
    system.link("rom/etc/localtime", "/tmp/TZ");
    system.link("rom/etc/resolv.conf", "/tmp/resolv.conf");
    system.link("root/etc/localtime", "/usr/share/zoneinfo/UTC");
    system.write("root/etc/resolv.conf", "a file instead");
    system.write("root/etc/banner", "changed");
    system.write("root/etc/os-release", "changed");
    system.write("root/etc/urandom.seed", "changed");
    system.write("root/etc/mine/notes", "added");
    system.write("root/etc/firewall-opkg", "left over");
    system.write("root/root/.ssh/config", "not below /etc");
    files::set_mode(&system.at("root/etc/secret"), 0o600).expect("chmod");
    fs::create_dir(system.at("root/etc/empty")).expect("a directory");
    for file in ["etc/uci-defaults/10_x", "etc/unlinked", "etc/deep/er/file"] {
        fs::remove_file(system.at("root").join(file)).expect("removed");
    }
    fs::remove_dir(system.at("root/etc/deep/er")).expect("removed");
    system
}

#[test]
fn scope_etc_carries_what_the_user_did_below_etc_and_nothing_else() {
    use OldDefault::{Changed, None, Same};
    let system = worked_on();
    let bundle = system.bundle();
    assert_eq!(bundle.scope, Scope::Etc);
    let wanted = [
        ("etc/banner", Changed),
        ("etc/config/network", Same), // declared
        ("etc/localtime", Changed),
        ("etc/mine/notes", None),
        ("etc/os-release", Changed), // the image's own, but set aside at the other end
        ("etc/resolv.conf", Changed),
        ("etc/secret", Changed),
        ("etc/", Same),
        ("etc/config/", Same),
        ("etc/empty/", None),
        ("etc/mine/", None),
    ];
    let wanted: Vec<_> = wanted
        .map(|(path, default)| (path.to_owned(), default))
        .into();
    assert_eq!(kept(&bundle), wanted);
    assert_eq!(deleted(&bundle), ["etc/deep/er/file", "etc/unlinked"]);
    assert_eq!(not_kept(&bundle), ["root/.ssh/config"]);
}

#[test]
fn scope_declared_tells_what_scope_etc_would_carry() {
    let system = worked_on();
    let bundle = archive::verify(&*system.archive()).expect("a bundle");
    assert_eq!(bundle.scope, Scope::Declared);
    let paths: Vec<_> = kept(&bundle).into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["etc/config/network", "etc/", "etc/config/"]);
    assert!(bundle.deletions.is_empty());
    let wanted = [
        "etc/banner",
        "etc/localtime",
        "etc/mine/notes",
        "etc/resolv.conf",
        "root/.ssh/config",
    ];
    assert_eq!(not_kept(&bundle), wanted);
}

#[test]
fn a_change_of_permissions_or_owner_of_a_directory_is_a_change() {
    let system = System::new();
    for tree in ["rom", "root"] {
        system.write(&format!("{tree}/etc/shut/file"), "x");
    }
    files::set_mode(&system.at("root/etc/shut"), 0o700).expect("chmod");
    let bundle = system.bundle();
    let shut = ("etc/shut/".to_owned(), OldDefault::Changed);
    assert!(kept(&bundle).contains(&shut), "{:?}", kept(&bundle));
    assert!(
        !kept(&bundle)
            .iter()
            .any(|(path, _)| path == "etc/shut/file")
    );
}

#[test]
fn without_known_defaults_scope_etc_carries_all_that_is_not_the_images() {
    let system = worked_on();
    files::remove_tree(&system.at("rom")).expect("removed");
    let bundle = system.bundle();
    let files: Vec<_> = bundle
        .kept()
        .map(|member| member.path.to_string())
        .collect();
    assert_eq!(
        files,
        [
            "etc/banner",
            "etc/config/network",
            "etc/hosts",
            "etc/localtime",
            "etc/mine/notes",
            "etc/resolv.conf",
            "etc/same",
            "etc/secret",
        ]
    );
    assert!(bundle.deletions.is_empty());
    let no_baseline = |notice: &Notice| notice.kind == NoticeKind::NoBaseline;
    assert!(bundle.notices.iter().any(no_baseline));
}

#[test]
fn the_policies_of_image_and_user_say_what_does_not_travel() {
    let system = System::new();
    for file in ["cache/a", "cache/keep", "spool/b", "mine"] {
        system.write(&format!("root/etc/{file}"), "x");
    }
    system.write(
        "root/lib/upgrade/policy.d/50-x.conf",
        "/etc/cache drop
",
    );
    system.write(
        "root/lib/upgrade/policy.d/60-x.conf",
        "/etc/cache/keep
what
",
    );
    system.write(
        "root/lib/upgrade/policy.d/not-read",
        "/etc/mine drop
",
    );
    system.write(
        "root/etc/sysupgrade.policy",
        "/etc/spool drop
",
    );
    let bundle = system.bundle();
    let files: Vec<_> = bundle
        .kept()
        .map(|member| member.path.to_string())
        .collect();
    assert_eq!(
        files,
        ["etc/cache/keep", "etc/mine", "etc/sysupgrade.policy"]
    );
    assert_eq!(not_kept(&bundle), [""; 0]);
    let odd = |notice: &&Notice| notice.kind == NoticeKind::PolicyLine;
    let odd: Vec<_> = bundle.notices.iter().filter(odd).collect();
    assert_eq!(odd.len(), 1);
    let line = odd[0].line.as_ref().expect("a line");
    assert_eq!(line.file, "lib/upgrade/policy.d/60-x.conf");
}

#[test]
fn policy_and_keep_list_travel_though_no_list_names_them() {
    let system = System::new();
    system.write(
        "root/etc/sysupgrade.conf",
        "# nothing
",
    );
    system.write(
        "root/etc/sysupgrade.policy",
        "/etc/x keep
",
    );
    let bundle = archive::verify(&*system.archive()).expect("a bundle");
    let files: Vec<_> = bundle
        .kept()
        .map(|member| member.path.to_string())
        .collect();
    assert_eq!(files, ["etc/sysupgrade.conf", "etc/sysupgrade.policy"]);

    system.write(
        "rom/etc/sysupgrade.conf",
        "# shipped
",
    );
    files::remove_file(&system.at("root/etc/sysupgrade.conf")).expect("removed");
    let bundle = archive::verify(&*system.archive()).expect("a bundle");
    assert_eq!(deleted(&bundle), ["etc/sysupgrade.conf"]);
}

#[test]
fn links_of_services_travel_as_files_only_where_a_list_names_them_for_stock_systems() {
    let system = System::new();
    system.write(
        "root/etc/sysupgrade.conf",
        "/etc/rc.d/
",
    );
    system.link("root/etc/rc.d/S50mine", "../init.d/mine");
    system.link("root/etc/rc.d/K50mine", "../init.d/mine");
    system.link("rom/etc/rc.d/S50gone", "../init.d/gone");
    system.write(
        "root/etc/rc.d/rc.local",
        "#!/bin/sh
",
    ); // other systems have scripts there
    for scope in [Scope::Declared, Scope::Etc] {
        let bytes = system.try_archive(scope).expect("an archive");
        let bundle = archive::verify(&*bytes).expect("a bundle");
        let files: Vec<_> = bundle
            .kept()
            .map(|member| member.path.to_string())
            .collect();
        let links = ["etc/rc.d/K50mine", "etc/rc.d/S50mine"];
        assert_eq!(files[..2], links);
        assert_eq!(files[2..], ["etc/rc.d/rc.local", "etc/sysupgrade.conf"]);
        assert_eq!(deleted(&bundle), [""; 0]);
        let services = bundle.services.expect("services");
        assert!(services.user.contains("mine"));
        assert!(services.default.expect("defaults").contains("gone"));
    }
    system.write("root/etc/sysupgrade.conf", "");
    for bundle in [
        system.bundle(),
        archive::verify(&*system.archive()).expect("a bundle"),
    ] {
        assert!(
            !bundle
                .kept()
                .any(|member| member.path == path("etc/rc.d/S50mine"))
        );
    }
}

// --- hostile systems -----------------------------------------------------------------------------

#[test]
fn a_link_in_the_place_of_a_directory_is_carried_and_nothing_behind_it_is_read() {
    let system = System::new();
    let outside = scratch();
    fs::write(outside.path().join("shadow"), "not of this system").expect("write");
    fs::remove_dir(system.at("root/etc/config")).expect("empty");
    system.link("root/etc/config", outside.path().to_str().expect("text"));
    system.write("rom/etc/config/network", "shipped");
    for scope in [Scope::Declared, Scope::Etc] {
        let bytes = system.try_archive(scope).expect("an archive");
        let plain = gunzip(&bytes);
        let secret = b"not of this system";
        assert!(!plain.windows(secret.len()).any(|text| text == secret));
        let into = system.at("into");
        let unpacked = unpack(&bytes, &into).expect("unpacked");
        let config = unpacked.user.get(&path("etc/config")).expect("a link");
        assert!(matches!(config.content, Content::Link { .. }), "{config:?}");
        assert!(unpacked.base.get(&path("etc/config/network")).is_some());
        files::remove_tree(&into).expect("removed");
    }
}

#[test]
fn more_files_than_an_archive_holds_are_refused_and_not_cut() {
    let system = System::new();
    let dir = system.at("root/etc/many");
    fs::create_dir(&dir).expect("a directory");
    let one = dir.join("0");
    fs::write(&one, "").expect("write");
    for number in 1..70_000 {
        fs::hard_link(&one, dir.join(number.to_string())).expect("link");
    }
    let error = system.try_archive(Scope::Etc).expect_err("too many");
    let told = error.to_string();
    assert!(
        told.contains("number of kept files is more than 65536"),
        "{told}"
    );
    // What only stays behind refuses no upgrade.
    let bundle = archive::verify(&*system.archive()).expect("a bundle");
    assert_eq!(bundle.kept().count(), 0);
    assert_eq!(not_kept(&bundle).last(), Some(&"69800 more"));
}

#[test]
fn what_is_too_deep_is_told_and_what_is_deep_travels() {
    let system = System::new();
    let deep = format!("etc/{}", ["d"; 62].join("/"));
    system.write(&format!("root/{deep}/file"), "deep");
    system.write(&format!("root/{deep}/d/file"), "too deep");
    let bundle = system.bundle();
    let files: Vec<_> = bundle
        .kept()
        .map(|member| member.path.to_string())
        .collect();
    assert_eq!(files, [format!("{deep}/file")]);
    let notices = bundle.notices.iter();
    let too_deep: Vec<_> = notices
        .filter(|notice| notice.kind == NoticeKind::TooDeep)
        .map(|notice| notice.path.clone())
        .collect();
    assert_eq!(too_deep, [format!("{deep}/d/file")]);
}

#[test]
fn names_of_any_bytes_cross_the_archive_in_scope_etc() {
    let system = System::new();
    let names: [&[u8]; 7] = [
        b"new\nline",
        b" blank ",
        b"-rf",
        b"back\\slash",
        b"bad\xff",
        b".hidden.new",
        b"hidden",
    ];
    for name in names {
        let place = system.at("root/etc/odd");
        fs::create_dir_all(&place).expect("directories");
        fs::write(place.join(OsStr::from_bytes(name)), name).expect("write");
    }
    let bytes = system.try_archive(Scope::Etc).expect("an archive");
    let unpacked = unpack(&bytes, &system.at("into")).expect("unpacked");
    for name in names {
        let path = [b"etc/odd/", name].concat();
        let path = EntryPath::try_from(&path[..]).expect("a path");
        let content = unpacked.user.bytes(&path, 100).expect("bytes");
        assert_eq!(content.expect("a file"), name, "{path}");
    }
}

#[test]
fn sockets_are_told_and_do_not_travel() {
    let system = System::new();
    let _socket = UnixListener::bind(system.at("root/etc/control")).expect("a socket");
    let bundle = system.bundle();
    assert_eq!(bundle.kept().count(), 0);
    let notices = bundle.notices.iter();
    let special: Vec<_> = notices
        .filter(|notice| notice.kind == NoticeKind::SpecialFile)
        .map(|notice| notice.path.as_str())
        .collect();
    assert_eq!(special, ["etc/control"]);
}

#[test]
fn a_system_comes_out_of_an_archive_as_its_whole_trees() {
    let system = worked_on();
    let bytes = system.try_archive(Scope::Etc).expect("an archive");
    let unpacked = unpack(&bytes, &system.at("into")).expect("unpacked");
    let mut whole = [Tree::default(), Tree::default()];
    for (tree, root) in whole.iter_mut().zip(["root", "rom"]) {
        tree.read(&system.at(root), "etc").expect("read");
    }
    let [user, base] = whole;
    let top = path("etc"); // the whole trees were read below it
    for (unpacked, whole) in [(&unpacked.user, &user), (&unpacked.base, &base)] {
        for (path, entry) in unpacked.iter().filter(|(path, _)| **path != top) {
            assert_eq!(Some(entry), whole.get(path), "{path}");
        }
    }
    // What is in neither is the same in both, or none of what travels.
    for (path, entry) in user.iter() {
        let carried = unpacked.user.get(path).is_some();
        let same = base.get(path) == Some(entry);
        let dropped = ["etc/urandom.seed", "etc/firewall-opkg"];
        assert!(
            carried || same || dropped.contains(&&*path.to_string()),
            "{path}"
        );
    }
    for (path, _) in base.iter() {
        let gone = user.get(path).is_none() && !path.to_string().starts_with("etc/uci-defaults");
        let file = base
            .get(path)
            .is_some_and(|entry| entry.content != Content::Dir);
        if gone && file {
            assert!(unpacked.base.get(path).is_some(), "{path}");
            assert!(unpacked.user.get(path).is_none(), "{path}");
        }
    }
}
