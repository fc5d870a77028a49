//! Keys and signatures are those of usign and OpenBSD's signify: what one makes the other takes, in
//! both directions, and what either of them refuses is refused here.
//!
//! Needs the program `signify-openbsd`; without it these tests fail.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod images;
mod programs;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use images::{Pieces, contents, good, key, place, read, reason, trust};
use programs::{fails, succeeds};
use serde_json::{Value, json};
use sysupgrade_rs::digest::Digest;
use sysupgrade_rs::image::{Encoding, Unverified};
use sysupgrade_rs::report::Reason;
use sysupgrade_rs::trust::usign::{KeyId, PublicKey, SecretKey, Signature};
use sysupgrade_rs::trust::{self, KeysError, Trust};

fn run(program: &str, args: &[&str], dir: &Path) -> Output {
    Command::new(program)
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"))
}

fn signify(args: &[&str], dir: &Path) -> Output {
    run("signify-openbsd", args, dir)
}

fn pack(args: &[&str], dir: &Path) -> Output {
    run(env!("CARGO_BIN_EXE_sysupgrade-pack"), args, dir)
}

/// A directory with a key pair k.sec, k.pub made by signify.
fn with_signify_key() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    succeeds(&signify(
        &["-G", "-n", "-p", "k.pub", "-s", "k.sec"],
        dir.path(),
    ));
    dir
}

/// A directory with a key pair k.sec, k.pub made by us.
fn with_our_key() -> (tempfile::TempDir, KeyId) {
    let dir = tempfile::tempdir().unwrap();
    let args = ["keygen", "--secret", "k.sec", "--public", "k.pub"];
    let id = succeeds(&pack(&args, dir.path()));
    let id = KeyId::parse(id.trim_end()).unwrap();
    (dir, id)
}

fn public_key(dir: &Path) -> PublicKey {
    PublicKey::parse(&fs::read(dir.join("k.pub")).unwrap()).unwrap()
}

#[test]
fn signify_verifies_what_we_sign() {
    let (dir, _) = with_our_key();
    let dir = dir.path();
    fs::write(dir.join("part"), &contents()["root"]).unwrap();
    #[rustfmt::skip]
    let args = [
        "build", "--board", "acme,router-1", "--version", "1", "--security", "7",
        "--part", "root=part", "--key", "k.sec", "-o", "image",
    ];
    succeeds(&pack(&args, dir));
    succeeds(&run("tar", &["-xf", "image"], dir));
    let head = dir.join("sysupgrade-acme_router-1");
    #[rustfmt::skip]
    let args = ["-V", "-p", "../k.pub", "-m", "manifest.json", "-x", "manifest.sig"];
    succeeds(&signify(&args, &head));

    let manifest = fs::read_to_string(head.join("manifest.json")).unwrap();
    fs::write(head.join("manifest.json"), manifest.replace("7", "8")).unwrap();
    fails(&signify(&args, &head), 1);
}

#[test]
fn signify_verifies_each_signature_that_is_added() {
    let (dir, _) = with_our_key();
    let other = with_signify_key();
    let dir = dir.path();
    fs::write(dir.join("image"), good(Encoding::Plain)).unwrap();
    let other_key = other.path().join("k.sec");
    let other_key = other_key.to_str().unwrap();
    succeeds(&pack(
        &["sign", "--key", "k.sec", "--key", other_key, "image"],
        dir,
    ));
    succeeds(&run("tar", &["-xf", "image", "--strip-components=1"], dir));
    let all = fs::read_to_string(dir.join("manifest.sig")).unwrap();
    let lines: Vec<&str> = all.lines().collect();
    assert_eq!(lines.len(), 6, "{all}");
    for (number, public) in [(1, dir.join("k.pub")), (2, other.path().join("k.pub"))] {
        let one = format!("{}\n{}\n", lines[2 * number], lines[2 * number + 1]);
        fs::write(dir.join("one.sig"), one).unwrap();
        let public = public.to_str().unwrap();
        let args = ["-V", "-p", public, "-m", "manifest.json", "-x", "one.sig"];
        succeeds(&signify(&args, dir));
    }
}

#[test]
fn signify_signs_with_our_key_what_we_verify() {
    let (dir, id) = with_our_key();
    fs::write(dir.path().join("message"), "message").unwrap();
    let args = ["-S", "-s", "k.sec", "-m", "message", "-x", "message.sig"];
    succeeds(&signify(&args, dir.path()));
    let file = fs::read(dir.path().join("message.sig")).unwrap();
    let [signature] = &Signature::parse_all(&file).unwrap()[..] else {
        panic!("not one signature");
    };
    assert_eq!(signature.id(), id);
    assert!(public_key(dir.path()).verifies(b"message", signature));
    assert!(!public_key(dir.path()).verifies(b"massage", signature));
}

#[test]
fn a_key_made_by_signify_signs_the_same_bytes_here_as_there() {
    let dir = with_signify_key();
    let secret = SecretKey::parse(&fs::read(dir.path().join("k.sec")).unwrap()).unwrap();
    assert_eq!(secret.public(), public_key(dir.path()));
    for message in [&b"m"[..], &[0; 512], &images::noise(40_000)] {
        fs::write(dir.path().join("message"), message).unwrap();
        let args = ["-S", "-s", "k.sec", "-m", "message", "-x", "message.sig"];
        succeeds(&signify(&args, dir.path()));
        let file = fs::read(dir.path().join("message.sig")).unwrap();
        let theirs = Signature::parse_all(&file).unwrap();
        assert_eq!(theirs, [secret.sign(message)]);
    }
}

#[test]
fn an_image_made_by_other_tools_is_an_image() {
    // Digests by sha256sum, signature by signify, archive by tar: what the module docs say is enough
    // to make an image.
    let dir = with_signify_key();
    let path = dir.path().join("sysupgrade-acme_router-1");
    fs::create_dir(&path).unwrap();
    let root = &contents()["root"];
    let table: Vec<u8> = root
        .chunks(4096)
        .flat_map(|block| Digest::of(block).0)
        .collect();
    fs::write(path.join("CONTROL"), "BOARD=acme_router-1\n").unwrap();
    fs::write(path.join("root.blocks"), table).unwrap();
    fs::write(path.join("root"), root).unwrap();
    let member = |name: &str| {
        let sum = succeeds(&run("sha256sum", &[name], &path));
        let size = fs::metadata(path.join(name)).unwrap().len();
        json!({ "name": name, "size": size, "sha256": sum[..64] })
    };
    let mut part = member("root");
    part["slot_part"] = json!("root");
    part["raw_size"] = part["size"].clone();
    part["raw_sha256"] = part["sha256"].clone();
    part["block_size"] = json!(4096);
    part["encoding"] = json!("plain");
    let manifest = json!({
        "format": 1, "hash": "sha256", "board": ["acme,router-1"], "version": "1",
        "security": 7, "compat": "1.0", "engine": 1,
        "members": [member("CONTROL"), member("root.blocks"), part],
    });
    fs::write(path.join("manifest.json"), manifest.to_string()).unwrap();
    #[rustfmt::skip]
    let args = ["-S", "-s", "../k.sec", "-m", "manifest.json", "-x", "manifest.sig"];
    succeeds(&signify(&args, &path));
    let names = [
        "",
        "manifest.json",
        "manifest.sig",
        "CONTROL",
        "root.blocks",
        "root",
    ];
    let names = names.map(|name| format!("sysupgrade-acme_router-1/{name}"));
    let mut args = vec!["--no-recursion", "-cf", "image"];
    args.extend(names.iter().map(String::as_str));
    succeeds(&run("tar", &args, dir.path()));

    let trust = Trust::in_any_of([public_key(dir.path())]);
    let image = fs::read(dir.path().join("image")).unwrap();
    let outcome = read(image.as_slice(), &trust);
    outcome.result.unwrap();
    assert_eq!(outcome.parts, [("root".to_owned(), root.clone())]);
}

// Key directories

/// A key directory with these keys.
fn key_dir(keys: &[SecretKey]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for key in keys {
        let public = key.public();
        let path = dir.path().join(public.id().to_string());
        fs::write(path, public.to_text("test")).unwrap();
    }
    dir
}

fn load(dirs: &[&tempfile::TempDir]) -> Result<Trust, KeysError> {
    let dirs: Vec<PathBuf> = dirs.iter().map(|dir| dir.path().to_owned()).collect();
    trust::load(&dirs, 1, 0)
}

#[test]
fn keys_of_several_directories_are_accepted_and_other_files_are_not_keys() {
    let (one, two) = (key_dir(&[key(1)]), key_dir(&[key(1), key(2)]));
    for name in [
        ".keep",
        "README",
        "0101010101010101.pub",
        "ABABABABABABABAB",
        "010101010101010",
    ] {
        fs::write(one.path().join(name), "no key").unwrap();
    }
    let trust = load(&[&one, &two]).unwrap();
    let ids: Vec<String> = trust.keys.keys().map(ToString::to_string).collect();
    assert_eq!(ids, ["0101010101010101", "0202020202020202"]);
    assert!(trust.revoked.is_empty());
}

#[test]
fn a_link_to_nowhere_revokes_its_key_in_all_directories() {
    let (one, two) = (key_dir(&[key(1), key(2)]), key_dir(&[]));
    symlink(".revoked.", two.path().join("0101010101010101")).unwrap();
    for dirs in [[&one, &two], [&two, &one]] {
        let trust = load(&dirs).unwrap();
        let found = reason(&good(Encoding::Plain), &trust);
        assert_eq!(found, Some(Reason::RevokedKey));
    }
}

#[test]
fn a_link_to_a_key_is_a_key() {
    let (one, two) = (key_dir(&[key(1)]), key_dir(&[]));
    let name = "0101010101010101";
    symlink(one.path().join(name), two.path().join(name)).unwrap();
    assert_eq!(
        reason(&good(Encoding::Plain), &load(&[&two]).unwrap()),
        None
    );
}

#[test]
fn a_broken_key_directory_is_an_error_and_not_a_key_less() {
    let name = "0101010101010101";
    let empty = || key_dir(&[]);

    let dir = empty();
    fs::write(dir.path().join(name), "no key").unwrap();
    assert!(matches!(load(&[&dir]), Err(KeysError::NotAKey { .. })));

    let dir = empty();
    fs::write(dir.path().join(name), key(2).public().to_text("")).unwrap();
    match load(&[&dir]) {
        Err(KeysError::Misnamed { found, .. }) => assert_eq!(found, key(2).public().id()),
        other => panic!("{other:?}"),
    }

    let (one, two) = (key_dir(&[key(1)]), empty());
    let impostor = SecretKey::from_seed([1; 8], &[9; 32]).public();
    fs::write(two.path().join(name), impostor.to_text("")).unwrap();
    assert!(matches!(
        load(&[&one, &two]),
        Err(KeysError::Conflict { .. })
    ));

    let dir = empty();
    symlink("nowhere", dir.path().join(name)).unwrap();
    assert!(matches!(load(&[&dir]), Err(KeysError::File(_))));

    let dir = empty();
    fs::write(dir.path().join(name), vec![b'a'; 5000]).unwrap();
    assert!(matches!(load(&[&dir]), Err(KeysError::File(_))));

    let missing = empty();
    fs::remove_dir(missing.path()).unwrap();
    assert!(matches!(load(&[&missing]), Err(KeysError::File(_))));

    let dirs = [key_dir(&[key(1)]).path().to_owned()];
    assert!(matches!(
        trust::load(&dirs, 0, 0),
        Err(KeysError::NoThreshold)
    ));
}

// The command

#[test]
fn a_key_is_never_overwritten_and_its_secret_is_for_its_owner_only() {
    let (dir, id) = with_our_key();
    let secret = dir.path().join("k.sec");
    let mode = fs::metadata(&secret).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(public_key(dir.path()).id(), id);
    let before = fs::read(&secret).unwrap();
    for args in [
        ["keygen", "--secret", "k.sec", "--public", "new.pub"],
        ["keygen", "--secret", "new.sec", "--public", "k.pub"],
    ] {
        let error = fails(&pack(&args, dir.path()), 1);
        assert!(error.contains("exists already"), "{error}");
    }
    assert_eq!(fs::read(&secret).unwrap(), before);
    assert!(!dir.path().join("new.sec").exists());
    assert!(!dir.path().join("new.pub").exists());
}

#[test]
fn two_keys_are_two_keys() {
    let (one, _) = with_our_key();
    let (two, _) = with_our_key();
    assert_ne!(public_key(one.path()).id(), public_key(two.path()).id());
    assert_ne!(
        public_key(one.path()).as_bytes(),
        public_key(two.path()).as_bytes()
    );
}

#[test]
fn pack_builds_signs_and_shows_an_image() {
    let (dir, first) = with_our_key();
    let second = with_signify_key();
    let dir = dir.path();
    for (name, bytes) in contents() {
        fs::write(dir.join(name), bytes).unwrap();
    }
    #[rustfmt::skip]
    let args = [
        "build", "--board", "acme,router-1", "--board", "acme,router-1b", "--version", "24.10 r1",
        "--security", "7", "--part", "kernel=kernel", "--part", "root=root", "--deflate",
        "--block-size", "4096", "-o", "image",
    ];
    succeeds(&pack(&args, dir));
    let shown = succeeds(&pack(&["inspect", "image"], dir));
    assert!(shown.starts_with("NOT VERIFIED"), "{shown}");
    assert!(shown.contains("signature  none"), "{shown}");

    let other_key = second.path().join("k.sec");
    succeeds(&pack(&["sign", "--key", "k.sec", "image"], dir));
    succeeds(&pack(
        &["sign", "--key", other_key.to_str().unwrap(), "image"],
        dir,
    ));
    let error = fails(&pack(&["sign", "--key", "k.sec", "image"], dir), 1);
    assert!(
        error.contains(&format!("key {first} has signed already")),
        "{error}"
    );

    let shown = succeeds(&pack(&["inspect", "--json", "image"], dir));
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["verified"], json!(false));
    let second = public_key(second.path());
    let ids = json!([first.to_string(), second.id().to_string()]);
    assert_eq!(shown["signatures"], ids);
    assert_eq!(shown["manifest"]["version"], json!("24.10 r1"));

    let mut trust = Trust::in_any_of([public_key(dir), second]);
    trust.threshold = 2.try_into().unwrap();
    assert_eq!(reason(&fs::read(dir.join("image")).unwrap(), &trust), None);
}

#[test]
fn a_failed_run_leaves_the_image_that_was_there() {
    let (dir, _) = with_our_key();
    let dir = dir.path();
    let mut image = good(Encoding::Plain);
    let root = place(&image, "root");
    image[root.content] ^= 1;
    fs::write(dir.join("image"), &image).unwrap();
    let error = fails(&pack(&["sign", "--key", "k.sec", "image"], dir), 10);
    assert!(error.contains("block 0 of root"), "{error}");
    #[rustfmt::skip]
    let args = [
        "build", "--board", "a", "--version", "1", "--security", "7",
        "--part", "root=missing", "-o", "image",
    ];
    let error = fails(&pack(&args, dir), 1);
    assert!(error.contains("cannot open missing"), "{error}");
    assert!(fs::read(dir.join("image")).unwrap() == image);
    let mut left: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|one| one.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["image", "k.pub", "k.sec"]);
}

#[test]
fn what_a_hostile_image_says_cannot_reach_a_terminal_raw() {
    let mut pieces = Pieces::of_good(Encoding::Plain);
    pieces.members[0].0 = "manifest.\u{1b}[2J".into();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("image"), pieces.image()).unwrap();
    let error = fails(&pack(&["inspect", "image"], dir.path()), 10);
    assert!(error.contains("\\u{1b}[2J"), "{error}");
    assert!(!error.contains('\u{1b}'), "{error:?}");

    let pieces = Pieces::of_good(Encoding::Plain);
    let lie = pieces.lie(|manifest| manifest["version"] = json!("1\u{1b}[2J\n2"));
    fs::write(dir.path().join("image"), lie.image()).unwrap();
    let error = fails(&pack(&["inspect", "image"], dir.path()), 10);
    assert!(!error.contains('\u{1b}'), "{error:?}");
    assert_eq!(error.lines().count(), 1, "{error:?}");
}

#[test]
fn a_command_line_that_makes_no_sense_is_a_usage_error() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &[][..],
        &["frobnicate"],
        &["keygen"],
        &["sign", "image"],
        &[
            "build",
            "--board",
            "a",
            "--version",
            "1",
            "--security",
            "x",
            "--part",
            "a=b",
            "-o",
            "c",
        ],
        &[
            "build",
            "--board",
            "a",
            "--version",
            "1",
            "--security",
            "1",
            "--part",
            "a",
            "-o",
            "c",
        ],
        &[
            "build",
            "--board",
            "a",
            "--version",
            "1",
            "--security",
            "1",
            "-o",
            "c",
        ],
    ] {
        fails(&pack(args, dir.path()), 2);
    }
    succeeds(&pack(&["--help"], dir.path()));
    succeeds(&pack(&["build", "--help"], dir.path()));
}

#[test]
fn key_ids_of_signatures_are_shown_without_any_key() {
    let image = good(Encoding::Plain);
    let unverified = Unverified::open(image.as_slice()).unwrap();
    let ids: Vec<KeyId> = unverified
        .signatures()
        .unwrap()
        .iter()
        .map(Signature::id)
        .collect();
    assert_eq!(ids, [key(1).public().id()]);
    assert_eq!(
        reason(&image, &trust(&[key(2)], 1)),
        Some(Reason::UnknownKey)
    );
}
