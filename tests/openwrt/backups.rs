//! The recorded backups: what stock `sysupgrade -l` and `-b` made of a tree, ours makes of it, too.
//!
//! | where ours is not the same | why |
//! | --- | --- |
//! | `odd-lines`, `dash-line`, `paren-line` | stock loses files without a word; ours keeps what was meant and names the line |
//! | `apk-overlay -o` | stock loses every changed configuration file of a package; ours keeps them |
//! | `-k` | stock lists packages in the order of the directory; ours by name, with the age of the database |
//! | below `etc/sysupgrade/` | what our own systems need beyond it |

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::read::GzDecoder;
use serde_json::Value;
use sysupgrade_rs::config::archive::{self, Source};
use sysupgrade_rs::config::bundle::Scope;
use sysupgrade_rs::config::keep::{Changed, KeepList, Listing, PACKAGE_LIST};
use sysupgrade_rs::config::{ConfigError, baseline};
use sysupgrade_rs::files;

use crate::vectors;

/// Builds a recorded tree; as far as whoever runs the tests may: owners and devices are root's to make.
pub(crate) fn build(root: &Path, tree: &Value) {
    let entries = tree.as_array().expect("a list of entries");
    for entry in entries {
        let text = |key: &str| entry[key].as_str();
        let place = under(root, text("path").expect("a path"));
        fs::create_dir_all(place.parent().expect("a parent")).expect("directories");
        match text("type") {
            Some("file") => fs::write(&place, text("text").expect("a text")).expect("a file"),
            Some("symlink") => symlink(text("target").expect("a target"), &place).expect("a link"),
            Some("dir") => fs::create_dir_all(&place).expect("a directory"),
            Some("fifo") => run(Command::new("mkfifo").arg(&place)),
            Some("whiteout") if is_root() => {
                run(Command::new("mknod").arg(&place).args(["c", "0", "0"]));
            }
            Some("whiteout") => continue,
            kind => panic!("{kind:?} of {}", place.display()),
        }
        let number = |key: &str| entry[key].as_u64().and_then(|id| u32::try_from(id).ok());
        if is_root()
            && let (Some(uid), Some(gid)) = (number("uid"), number("gid"))
        {
            lchown(&place, Some(uid), Some(gid)).expect("an owner");
        }
        if let Some(mode) = text("mode") {
            let mode = u32::from_str_radix(mode, 8).expect("a mode");
            fs::set_permissions(&place, PermissionsExt::from_mode(mode)).expect("a mode");
        }
    }
    for entry in entries {
        let is_plain = matches!(entry["type"].as_str(), Some("file" | "dir"));
        if let Some(time) = entry["mtime"].as_u64().filter(|_| is_plain) {
            let place = under(root, entry["path"].as_str().expect("a path"));
            files::set_modified(&place, time).expect("a time");
        }
    }
}

fn under(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn run(command: &mut Command) {
    assert!(
        command.status().expect("it starts").success(),
        "{command:?}"
    );
}

fn is_root() -> bool {
    fs::metadata("/proc/self").expect("proc").uid() == 0
}

/// One recorded tree.
struct Case {
    name: String,
    root: tempfile::TempDir,
    runs: Vec<Value>,
}

fn cases() -> Vec<Case> {
    let expected = vectors::json("backup/expected.json");
    let cases = expected["cases"].as_array().expect("cases");
    let case = |case: &Value| {
        let root = tempfile::tempdir().expect("a directory");
        build(
            root.path(),
            &vectors::json(case["tree"].as_str().expect("a tree")),
        );
        Case {
            name: case["name"].as_str().expect("a name").to_owned(),
            root,
            runs: case["runs"].as_array().expect("runs").clone(),
        }
    };
    cases.iter().map(case).collect()
}

fn listing(run: &Value) -> Listing {
    let mut listing = Listing::default();
    for flag in run["flags"].as_array().expect("flags") {
        match flag.as_str() {
            Some("-c") => listing.changed = Some(Changed::Etc),
            Some("-o") => listing.changed = Some(Changed::Everything),
            Some("-u") => listing.skip_unchanged = true,
            Some("-k") => listing.packages = true,
            flag => panic!("{flag:?}"),
        }
    }
    listing
}

/// What the recorded list should have been, sorted; `-k` names its own file at the end.
fn wanted(name: &str, listing: Listing, run: &Value) -> Vec<String> {
    let lines = run["list"].as_array().expect("a list");
    let mut list: Vec<String> = (lines.iter())
        .map(|line| line.as_str().expect("a line").to_owned())
        .filter(|line| !(listing.packages && line.ends_with(PACKAGE_LIST)))
        .collect();
    let more: &[&str] = match (name, listing.changed, listing.skip_unchanged) {
        ("apk-overlay", Some(Changed::Everything), false) => {
            &["/etc/config/fw", "/etc/config/network"]
        }
        ("odd-lines", ..) => &["/etc/a", "/etc/cr", "/etc/q", "/etc/sp ace/f"],
        ("dash-line", ..) => &[
            "/etc/first",
            "/etc/group",
            "/etc/hosts",
            "/etc/passwd",
            "/etc/second",
            "/etc/shadow",
        ],
        ("paren-line", ..) => &[
            "/etc/first",
            "/etc/group",
            "/etc/hosts",
            "/etc/passwd",
            "/etc/shadow",
        ],
        _ => &[],
    };
    list.extend(more.iter().map(|path| (*path).to_owned()));
    if name == "odd-lines" {
        // Two spellings of what is listed anyway.
        list.retain(|path| path != "/etc//dup" && path != "/etc/dir/sub/../.hidden");
    }
    list.sort();
    list
}

#[test]
fn lists_are_those_of_stock_tools_but_for_what_these_lose() {
    let mut runs = 0;
    for case in cases() {
        for run in &case.runs {
            let listing = listing(run);
            let what = format!("{} {}", case.name, run["flags"]);
            let list = KeepList::read_with(case.root.path(), listing);
            runs += 1;
            if run["list_exit"] != 0 {
                let error = list.expect_err(&what);
                let fits = match listing.changed {
                    Some(_) => matches!(error, ConfigError::NoOverlay),
                    None => matches!(error, ConfigError::NoRom),
                };
                assert!(fits, "{what}: {error}");
                continue;
            }
            let list = list.expect(&what);
            let paths: Vec<String> = list.paths().map(|path| format!("/{path}")).collect();
            assert_eq!(paths, wanted(&case.name, listing, run), "{what}");
            assert_eq!(list.listing(), listing);
        }
    }
    assert_eq!(runs, 25);
}

/// A member of an archive, as far as the record tells.
#[derive(Debug, PartialEq, Eq)]
struct Member {
    kind: String,
    mode: u32,
    owner: (u64, u64),
    /// Of what is made. Of other files stock names the owner by its own accounts.
    names: Option<(String, String)>,
    link: Option<String>,
    modified: Option<u64>,
    content: Vec<u8>,
}

fn members(archive: &[u8]) -> Vec<(String, Member)> {
    let mut tar = tar::Archive::new(GzDecoder::new(archive));
    tar.set_ignore_zeros(true); // `script-512`
    let entries = tar.entries().expect("members");
    let read = |entry: std::io::Result<tar::Entry<'_, _>>| {
        let mut entry = entry.expect("a member");
        let name = String::from_utf8(entry.path_bytes().into_owned()).expect("a name");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("content");
        let header = entry.header();
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into();
        let link = entry.link_name_bytes();
        let link = link.map(|link| String::from_utf8_lossy(&link).into_owned());
        let is_list = name == PACKAGE_LIST;
        let is_made = is_list || name == "etc/uci-defaults/10_disable_services";
        if is_list {
            let mut lines: Vec<&[u8]> = content.split(|byte| *byte == b'\n').collect();
            lines.sort_unstable();
            content = lines.join(&b'\n');
        }
        let member = Member {
            kind: format!("{:?}", header.entry_type()),
            mode: header.mode().expect("a mode"),
            owner: (header.uid().expect("uid"), header.gid().expect("gid")),
            names: is_made.then(|| {
                (
                    text(header.username_bytes()),
                    text(header.groupname_bytes()),
                )
            }),
            // Of the list it is the time of the run; of links the tests cannot set it.
            modified: (!is_list && link.is_none()).then(|| header.mtime().expect("a time")),
            link,
            content,
        };
        (name, member)
    };
    entries.map(read).collect()
}

fn backup(root: &Path, keep: &KeepList) -> Result<Vec<u8>, ConfigError> {
    let defaults = baseline::find_defaults(root);
    let source = Source {
        root,
        keep,
        defaults: defaults.as_deref(),
        scope: Scope::Declared,
        from_version: "",
        board: "",
    };
    let mut bytes = Vec::new();
    archive::write_backup(&mut bytes, &source)?;
    Ok(bytes)
}

#[test]
fn backups_have_the_members_of_stock_backups_and_else_only_our_own() {
    let mut compared = 0;
    for case in cases() {
        let root = case.root.path();
        for run in &case.runs {
            let what = format!("{} {}", case.name, run["flags"]);
            let listing = listing(run);
            let Ok(keep) = KeepList::read_with(root, listing) else {
                continue; // no list, no backup
            };
            let Some(file) = run["backup_file"].as_str() else {
                match backup(root, &keep) {
                    // Stock says after the fact that it has lost the whole list.
                    Ok(_) => assert!(case.name.ends_with("-line"), "{what}"),
                    Err(error) => assert!(matches!(error, ConfigError::NoPackages), "{error}"),
                }
                continue;
            };
            let bytes = backup(root, &keep).expect(&what);
            let header = run["gzip_header_hex"].as_str().expect("a header");
            let ours: String = bytes[..10]
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!(
                ours, header,
                "{what}: what a carrier on a block device looks for"
            );
            let mut stock = members(&fs::read(vectors::path(file)).expect("an archive"));
            let mut ours = members(&bytes);
            ours.retain(|(name, _)| !name.starts_with("etc/sysupgrade/"));
            if case.name == "odd-lines" || what == "apk-overlay [\"-o\"]" {
                let names: Vec<&String> = ours.iter().map(|(name, _)| name).collect();
                let list = wanted(&case.name, listing, run);
                assert!(
                    names
                        .iter()
                        .skip(1)
                        .all(|name| list.contains(&format!("/{name}")))
                );
                assert_eq!(names.len(), list.len() + 1, "{what}: {names:?}");
                let ours: BTreeMap<_, _> = ours.into_iter().collect();
                stock.retain(|(name, _)| ours.contains_key(name));
                for (name, member) in stock {
                    assert_eq!(ours[&name], member, "{what} {name}");
                }
                continue;
            }
            if listing.changed.is_some() {
                stock[1..].sort_by(|(a, _), (b, _)| a.cmp(b)); // in the order of directories
            }
            if !is_root() {
                for (_, member) in stock.iter_mut().chain(&mut ours) {
                    member.owner = (0, 0);
                }
            }
            let names = |members: &[(String, Member)]| -> Vec<String> {
                members.iter().map(|(name, _)| name.clone()).collect()
            };
            assert_eq!(names(&ours), names(&stock), "{what}");
            for ((name, ours), (_, stock)) in ours.iter().zip(&stock) {
                assert_eq!(ours, stock, "{what} {name}");
            }
            compared += 1;
        }
    }
    assert_eq!(compared, 15); // of 17: two differ on purpose
}

#[test]
fn a_backup_of_nothing_is_an_error_and_no_archive() {
    let root = tempfile::tempdir().expect("a directory");
    fs::create_dir(root.path().join("etc")).expect("etc");
    fs::write(root.path().join("etc/sysupgrade.conf"), "# nothing\n").expect("a list");
    let keep = KeepList::read(root.path()).expect("a list");
    let error = backup(root.path(), &keep).expect_err("refused");
    assert!(matches!(error, ConfigError::NothingKept), "{error}");
}

#[test]
fn a_stock_tar_unpacks_our_backup_to_the_tree_it_was_taken_from() {
    for case in cases() {
        let into = tempfile::tempdir().expect("a directory");
        let keep = KeepList::read(case.root.path()).expect("a list");
        let archive = into.path().join("backup.tgz");
        fs::write(&archive, backup(case.root.path(), &keep).expect("a backup")).expect("written");
        let root = into.path().join("root");
        fs::create_dir(&root).expect("a root");
        run(Command::new("busybox")
            .arg("tar")
            .arg("-xzf")
            .arg(&archive)
            .arg("-C")
            .arg(&root));
        for path in keep.paths() {
            let (old, new) = (
                case.root.path().join(path.as_path()),
                root.join(path.as_path()),
            );
            let told = |place: &Path| {
                let metadata = fs::symlink_metadata(place).expect("metadata");
                match metadata.is_symlink() {
                    true => (
                        0o777,
                        0,
                        fs::read_link(place)
                            .expect("a link")
                            .into_os_string()
                            .into_encoded_bytes(),
                    ),
                    false => (
                        metadata.mode(),
                        metadata.mtime(),
                        fs::read(place).expect("a file"),
                    ),
                }
            };
            assert_eq!(told(&new), told(&old), "{} {path}", case.name);
        }
        let script = root.join("etc/uci-defaults/10_disable_services");
        let text = fs::read_to_string(script).expect("the script");
        assert!(text.ends_with("\nexit 0"), "{text}");
    }
}

fn put(root: &Path, path: &str, text: &str) {
    let place = root.join(path);
    fs::create_dir_all(place.parent().expect("a parent")).expect("directories");
    fs::write(place, text).expect("a file");
}

#[test]
fn a_link_whose_target_was_changed_is_no_unchanged_link() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path();
    put(
        root,
        "etc/sysupgrade.conf",
        "/etc/a /etc/b /etc/shared /etc/nowhere\n",
    );
    for (file, theirs, ours) in [("file-a", "shipped", "edited"), ("file-b", "same", "same")] {
        put(root, &format!("rom/etc/{file}"), theirs);
        put(root, &format!("etc/{file}"), ours);
    }
    for tree in ["etc", "rom/etc"] {
        symlink("file-a", root.join(tree).join("a")).expect("a link");
        symlink("file-b", root.join(tree).join("b")).expect("a link");
        symlink("/tmp/shared", root.join(tree).join("shared")).expect("a link");
        symlink("/nowhere", root.join(tree).join("nowhere")).expect("a link");
    }
    put(root, "tmp/shared", "one file for both");
    let listing = Listing {
        skip_unchanged: true,
        ..Listing::default()
    };
    let list = KeepList::read_with(root, listing).expect("a list");
    let paths: Vec<String> = list.paths().map(ToString::to_string).collect();
    assert_eq!(paths, ["etc/a", "etc/nowhere"]);
}

#[test]
fn what_an_earlier_backup_left_on_the_system_is_replaced_and_not_doubled() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path();
    put(
        root,
        "etc/sysupgrade.conf",
        "/etc/uci-defaults/ /etc/backup/ /etc/hosts\n",
    );
    put(root, "etc/hosts", "hosts");
    put(root, "etc/uci-defaults/10_disable_services", "old");
    put(root, PACKAGE_LIST, "old");
    put(root, "etc/init.d/lamp", "START=10\n");
    put(root, "usr/lib/opkg/info/lamp.control", "");
    for packages in [true, false] {
        let listing = Listing {
            packages,
            ..Listing::default()
        };
        let keep = KeepList::read_with(root, listing).expect("a list");
        let bytes = backup(root, &keep).expect("a backup");
        archive::verify(&*bytes).expect("it holds every name once");
        let members: BTreeMap<_, _> = members(&bytes).into_iter().collect();
        let script = &members["etc/uci-defaults/10_disable_services"].content;
        assert_eq!(*script, b"/etc/init.d/lamp disable\n\nexit 0");
        let list = if packages {
            &b"lamp\tunknown"[..]
        } else {
            b"old"
        };
        assert_eq!(members[PACKAGE_LIST].content, list);
    }
}
