//! A virtual router that stock images are for, with stock keys and lists, and the command under both
//! of its names.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::rc::Rc;

use flate2::read::GzDecoder;
use serde_json::Value;
use sysupgrade_rs::board::Board;
use sysupgrade_rs::flash::Kernel;
use sysupgrade_rs::image::{OpenWrtSigner, add_openwrt};
use sysupgrade_rs::slots::Slot;

use crate::images::copy_keys;
use crate::vectors;
use crate::world::router::{Booted, Router};
use crate::world::snapshot::Snapshot;
use crate::world::{secret_key, temporary_directory};

pub(crate) type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// Room in a part: the partitions of the recorded disks have 1 MiB and 2 MiB.
pub(crate) const PART_SIZE: usize = 3 << 20;

/// The day on which the recorded certificates are good.
const CLOCK: &str = "2026-06-15 12:00:00";

/// A running router, and a directory around it.
pub(crate) struct Site {
    dir: tempfile::TempDir,
    pub(crate) router: Router,
}

impl Site {
    /// Its slots have these parts; `unsigned` is the word of its board file.
    pub(crate) fn new(board_name: &str, parts: &[&str], unsigned: &str) -> Result<Self> {
        let dir = temporary_directory()?;
        let board = board_file(parts, unsigned, &dir.path().join("rebooted"));
        let tree = dir.path().join("tree");
        let root = system(&tree, "1.0", &board)?.to_tar()?;
        let at = dir.path().join("router");
        let parsed = Board::parse(&board, "board.toml")?;
        let router = Router::of(&at, &parsed, Rc::new(Kernel::new(&at)));
        router.create(b"kernel", &root, PART_SIZE)?;
        symlink(
            env!("CARGO_BIN_EXE_sysupgrade-rs"),
            dir.path().join("sysupgrade"),
        )?;
        let site = Self { dir, router };
        assert_eq!(site.router.boot(|| Ok(true))?, Booted::Up(Slot::First));
        site.started(board_name)?;
        fs::write(site.at("/etc/config/network"), "as edited\n")?;
        Ok(site)
    }

    /// What stock start-up scripts leave in `/tmp`.
    pub(crate) fn started(&self, board_name: &str) -> Result {
        fs::create_dir_all(self.at("/tmp/sysinfo"))?;
        let name = format!("{board_name}\n");
        Ok(fs::write(self.at("/tmp/sysinfo/board_name"), name)?)
    }

    /// A path on the router.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.router.dir().join(path.trim_start_matches('/'))
    }

    /// A path beside the router.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The command in the place of OpenWrt's, with the words of this line; paths in `/tmp` are the
    /// router's.
    pub(crate) fn stock(&self, line: &str) -> Command {
        self.called(&self.beside("sysupgrade"), line)
    }

    /// The command under its own name.
    pub(crate) fn ours(&self, line: &str) -> Command {
        self.called(Path::new(env!("CARGO_BIN_EXE_sysupgrade-rs")), line)
    }

    fn called(&self, program: &Path, line: &str) -> Command {
        let mut command = Command::new(program);
        let now = vectors::seconds(CLOCK).to_string();
        command
            .arg("--root")
            .arg(self.router.dir())
            .args(["--now", &now]);
        for word in line.split_whitespace() {
            match word.starts_with("/tmp/") {
                true => command.arg(self.at(word)),
                false => command.arg(word),
            };
        }
        command.stdin(Stdio::null());
        command
    }

    /// Lays a recorded image where web pages upload to.
    pub(crate) fn upload(&self, image: &str) -> Result {
        fs::copy(vectors::path(image), self.at("/tmp/firmware.bin"))?;
        Ok(())
    }

    /// The same with an image made here, signed by a key of the router.
    pub(crate) fn upload_made(&self, payload: &[u8], metadata: &str) -> Result {
        let path = self.at("/tmp/firmware.bin");
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(true);
        let mut file = options.open(path)?;
        file.write_all(payload)?;
        sign(&mut file, metadata)
    }

    pub(crate) fn status(&self) -> Result<Value> {
        Ok(document(&self.ours("--json status").output()?))
    }

    /// True if the other slot boots next.
    pub(crate) fn is_installed(&self) -> Result<bool> {
        Ok(self.status()?["next_boot"] == "b")
    }

    /// True once the command has rebooted the router.
    pub(crate) fn is_rebooted(&self) -> bool {
        self.beside("rebooted").exists()
    }

    /// The configuration that waits for the other slot: names and contents.
    pub(crate) fn carried(&self) -> Result<Option<BTreeMap<String, Vec<u8>>>> {
        let path = self.at("/data/sysupgrade-rs/archive-b.tar.gz");
        match path.exists() {
            true => Ok(Some(members(&fs::read(path)?)?)),
            false => Ok(None),
        }
    }

    /// What outlives power, without the record of what happened.
    pub(crate) fn persistent(&self) -> Result<[Snapshot; 2]> {
        let mut data = Snapshot::read(&self.at("/data"))?;
        data.remove("sysupgrade-rs");
        Ok([Snapshot::read(&self.at("/flash"))?, data])
    }
}

/// Adds metadata and the signature of a key that every router here has.
pub(crate) fn sign(file: &mut File, metadata: &str) -> Result {
    let signer = OpenWrtSigner {
        key: secret_key(),
        certificates: Vec::new(),
    };
    Ok(add_openwrt(file, metadata, Some(&signer))?)
}

/// The metadata of an image for this board.
pub(crate) fn metadata(board: &str, version: &str) -> String {
    format!(
        r#"{{"metadata_version":"1.1","compat_version":"1.0","supported_devices":["{board}"],"version":{{"dist":"OpenWrt","version":"{version}"}}}}"#
    )
}

/// The files of a `.tar.gz`.
pub(crate) fn members(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut archive = tar::Archive::new(GzDecoder::new(bytes));
    let mut members = BTreeMap::new();
    for member in archive.entries()? {
        let mut member = member?;
        let name = member.path()?.display().to_string();
        let mut content = Vec::new();
        member.read_to_end(&mut content)?;
        members.insert(name, content);
    }
    Ok(members)
}

/// The one JSON document of an answer.
pub(crate) fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("what is printed is text")
}

/// The root of a stock system, with its lists of what is kept, that knows the keys of the cases.
pub(crate) fn system(tree: &Path, version: &str, board: &str) -> Result<Snapshot> {
    let os_release = format!("VERSION_ID=\"{version}\"\n");
    for (path, content) in [
        ("etc/os-release", os_release.as_str()),
        ("etc/sysupgrade-rs/board.toml", board),
        ("etc/config/network", "as shipped\n"),
        ("etc/config/dhcp", "as shipped\n"),
        ("etc/hosts", "127.0.0.1 localhost\n"),
        ("etc/sysupgrade.conf", "## kept\n/etc/hosts\n"),
        ("lib/upgrade/keep.d/base", "/etc/config/\n"),
        (
            "usr/lib/opkg/status",
            "Package: dnsmasq\nVersion: 2\nStatus: install user installed\n",
        ),
        ("usr/lib/opkg/info/dnsmasq.control", "Package: dnsmasq\n"),
    ] {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().ok_or("a file in a tree")?)?;
        fs::write(path, content)?;
    }
    let keys = tree.join("etc/opkg/keys");
    copy_keys(&vectors::path("keydirs/keys"), &keys);
    let key = secret_key().public();
    fs::write(keys.join(key.id().to_string()), key.to_text("ours"))?;
    Ok(Snapshot::read(tree)?)
}

fn board_file(parts: &[&str], unsigned: &str, rebooted: &Path) -> String {
    let mut text = format!(
        r#"
name = "stock"
compatible = ["acme,router-a1"]
[trust]
keys = ["/etc/opkg/keys"]
unsigned = "{unsigned}"
[data]
dir = "/data/sysupgrade-rs"
[boot]
kind = "grub-env"
store = [{{ path = "/flash/env" }}]
layout = "order"
tries = 3
running = "cmdline:sysupgrade.slot"
reboot = ["touch", "{}"]
[config]
defaults = "/rom"
scope = "declared"
"#,
        rebooted.display()
    );
    for slot in ["a", "b"] {
        text.push_str(&format!(
            "[[slot]]\nname = \"{slot}\"\noverlay = \"/data/overlay-{slot}\"\n[slot.parts]\n"
        ));
        for part in parts {
            let path = format!("/flash/{part}-{slot}");
            text.push_str(&format!(
                "{part} = {{ kind = \"file\", path = \"{path}\" }}\n"
            ));
        }
    }
    text
}
