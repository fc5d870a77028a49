//! Stock images, written into the slots of a virtual router: which bytes land where, what is refused,
//! and how the router tells of it afterwards.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::process::Output;
use std::sync::atomic::AtomicBool;

use flate2::read::GzDecoder;
use serde_json::Value;
use sysupgrade_rs::data::Update;
use sysupgrade_rs::health::Before;
use sysupgrade_rs::image::ImageError;
use sysupgrade_rs::image::candidate::Candidate;
use sysupgrade_rs::image::openwrt::Stock;
use sysupgrade_rs::install::{self, Done, InstallError, Upgrade, Watch, Wish};
use sysupgrade_rs::slots::{Condition, Slot};
use sysupgrade_rs::system;

use crate::site::{self, PART_SIZE, Result, Site, document, metadata, sign, text};
use crate::vectors;
use crate::world::router::Booted;

const BOARD: &str = "acme,router-a1";
const NAND: &str = "acme,nand-x2";
const IMAGE: &str = "/tmp/firmware.bin";

/// What the medium of a part in the other slot holds.
fn written(site: &Site, part: &str) -> Result<Vec<u8>> {
    Ok(fs::read(site.router.part(Slot::Second, part)?)?)
}

/// The begin of a part is this, and behind it nothing was touched.
fn holds(site: &Site, part: &str, expected: &[u8]) -> Result<bool> {
    let found = written(site, part)?;
    let (begin, rest) = found
        .split_at_checked(expected.len())
        .ok_or("more than there is room for")?;
    Ok(begin == expected && rest.iter().all(|byte| *byte == 0xff))
}

fn refusal(output: &Output) -> String {
    let answer = document(output);
    answer["refusals"][0]["reason"]
        .as_str()
        .unwrap_or("none")
        .to_owned()
}

fn unpacked(image: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    GzDecoder::new(File::open(vectors::path(image))?).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The file of this name in a tar, whatever follows its end.
fn member(tar: &[u8], name: &str) -> Result<Vec<u8>> {
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        if entry.path()?.ends_with(name) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            return Ok(bytes);
        }
    }
    Err(format!("no {name} in the tar").into())
}

fn number(bytes: &[u8], at: usize, width: usize) -> usize {
    bytes[at..at + width]
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// Partitions 1 and 2 of a disk with an MBR, or a GPT.
fn partitions(disk: &[u8], gpt: bool) -> [&[u8]; 2] {
    [0, 1].map(|index| {
        let (first, count) = if gpt {
            let entry = 1024 + 128 * index;
            let first = number(disk, entry + 32, 8);
            (first, number(disk, entry + 40, 8) - first + 1)
        } else {
            let entry = 446 + 16 * index;
            (number(disk, entry + 8, 4), number(disk, entry + 12, 4))
        };
        &disk[first * 512..(first + count) * 512]
    })
}

#[test]
fn each_part_of_the_other_slot_gets_its_bytes_of_a_stock_image_and_no_others() -> Result {
    let raw = fs::read(vectors::path("images/raw-no-trailer.bin"))?;
    let squashfs = raw.windows(4).position(|four| four == b"hsqs");
    let (kernel, root) = raw.split_at(squashfs.ok_or("no squashfs")?);
    let tar = fs::read(vectors::path("images/tar-signed.bin"))?;
    let tar_gz = unpacked("images/tar-gz-unsigned.bin")?;
    let tar = [member(&tar, "kernel")?, member(&tar, "root")?];
    let tar_gz = [member(&tar_gz, "kernel")?, member(&tar_gz, "root")?];
    let mbr = unpacked("images/x86-mbr.img.gz.bin")?;
    let gpt = unpacked("images/x86-gpt.img.gz.bin")?;
    let (mbr, gpt) = (partitions(&mbr, false), partitions(&gpt, true));
    type Case<'a> = (&'a str, &'a str, &'a str, Vec<(&'a str, &'a [u8])>);
    let cases: Vec<Case<'_>> = vec![
        ("raw-signed.bin", BOARD, "refuse", vec![("firmware", &raw)]),
        (
            "raw-signed.bin",
            BOARD,
            "refuse",
            vec![("kernel", kernel), ("root", root)],
        ),
        (
            "raw-signed-by-delegate.bin",
            BOARD,
            "refuse",
            vec![("kernel", kernel), ("rootfs", root)],
        ),
        (
            "tar-signed.bin",
            NAND,
            "refuse",
            vec![("kernel", &tar[0]), ("root", &tar[1])],
        ),
        (
            "tar-gz-unsigned.bin",
            NAND,
            "allow",
            vec![("kernel", &tar_gz[0]), ("rootfs", &tar_gz[1])],
        ),
        (
            "x86-mbr.img.gz.bin",
            "generic",
            "allow",
            vec![("boot", mbr[0]), ("root", mbr[1])],
        ),
        (
            "x86-mbr.img.gz.bin",
            "generic",
            "allow",
            vec![("kernel", mbr[0]), ("rootfs", mbr[1])],
        ),
        (
            "x86-gpt.img.gz.bin",
            "generic",
            "allow",
            vec![("kernel", gpt[0]), ("root", gpt[1])],
        ),
    ];
    for (image, board, unsigned, parts) in cases {
        let names: Vec<_> = parts.iter().map(|(name, _)| *name).collect();
        let site = Site::new(board, &names, unsigned)?;
        site.upload(&format!("images/{image}"))?;
        let running: Result<Vec<_>> = names
            .iter()
            .map(|name| Ok(fs::read(site.router.part(Slot::First, name)?)?))
            .collect();
        let running = running?;
        let output = site.stock(&format!("-n {IMAGE}")).output()?;
        assert_eq!(output.status.code(), Some(0), "{image}: {output:?}");
        for (name, bytes) in &parts {
            assert!(holds(&site, name, bytes)?, "{name} of {image}");
        }
        for (name, before) in names.iter().zip(running) {
            let now = fs::read(site.router.part(Slot::First, name)?)?;
            assert!(now == before, "{name} of the running slot, {image}");
        }
        assert!(site.is_installed()?, "{image}");
    }
    Ok(())
}

#[test]
fn an_image_without_all_parts_of_the_slot_is_refused() -> Result {
    for image in ["images/tar-kernel-only.bin", "images/tar-root-only.bin"] {
        let site = Site::new(NAND, &["kernel", "root"], "allow")?;
        site.upload(image)?;
        let output = site.ours(&format!("--json -F {IMAGE}")).output()?;
        assert_eq!(output.status.code(), Some(20), "{image}: {output:?}");
        assert_eq!(refusal(&output), "wrong-parts", "{image}");
        assert!(!site.is_installed()?);
    }
    Ok(())
}

#[test]
fn what_nobody_has_signed_is_installed_only_where_the_board_file_says_so_and_status_tells() -> Result
{
    for (unsigned, code) in [("refuse", 11), ("allow", 0)] {
        let site = Site::new(BOARD, &["firmware"], unsigned)?;
        site.upload("images/raw-unsigned.bin")?;
        let output = site.ours(&format!("--json -F {IMAGE}")).output()?;
        assert_eq!(output.status.code(), Some(code), "{unsigned}: {output:?}");
        assert_eq!(site.is_installed()?, code == 0, "{unsigned}");
        let allowed = &site.status()?["unsigned_allowed"];
        assert_eq!(*allowed, unsigned == "allow", "{unsigned}");
    }
    Ok(())
}

#[test]
fn force_installs_what_is_for_another_board_and_never_what_has_a_bad_signature() -> Result {
    for (image, board, code, reason) in [
        ("images/raw-signed.bin", "other,board", 0, "none"),
        ("images/raw-compat-2.0.bin", BOARD, 0, "none"),
        ("images/sig-wrong-key.bin", BOARD, 11, "unknown-key"),
        (
            "images/sig-payload-changed-crc-fixed.bin",
            BOARD,
            11,
            "bad-signature",
        ),
        ("images/sig-over-other-data.bin", BOARD, 11, "bad-signature"),
        (
            "images/sig-metadata-changed.bin",
            BOARD,
            11,
            "bad-signature",
        ),
    ] {
        // Even where unsigned images pass: a bad signature is not none.
        let site = Site::new(board, &["firmware"], "allow")?;
        site.upload(image)?;
        let before = site.persistent()?;
        let output = site.ours(&format!("--json -F {IMAGE}")).output()?;
        assert_eq!(output.status.code(), Some(code), "{image}: {output:?}");
        assert_eq!(refusal(&output), reason, "{image}: {output:?}");
        assert_eq!(site.is_installed()?, code == 0, "{image}");
        assert_eq!(site.persistent()? == before, code != 0, "{image}");
    }
    Ok(())
}

#[test]
fn what_is_no_file_is_laid_in_tmp_and_leaves_nothing_there() -> Result {
    let raw = fs::read(vectors::path("images/raw-no-trailer.bin"))?;
    let image = fs::read(vectors::path("images/raw-signed.bin"))?;
    for from_network in [false, true] {
        let site = Site::new(BOARD, &["firmware"], "refuse")?;
        // Somebody has laid a link there, to a file that is not to be written.
        let spool = site.at("/tmp/sysupgrade.img");
        symlink(site.at("/etc/hosts"), &spool)?;
        let output = if from_network {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let url = format!("http://{}/firmware.bin", listener.local_addr()?);
            let image = image.clone();
            let server = std::thread::spawn(move || serve(&listener, &image));
            let output = site.stock(&url).output()?;
            server.join().map_err(|_| "the server panicked")??;
            output
        } else {
            let mut command = site.stock("-");
            command.stdin(File::open(vectors::path("images/raw-signed.bin"))?);
            command.output()?
        };
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(holds(&site, "firmware", &raw)?);
        assert!(spool.symlink_metadata().is_err(), "something is left");
        let hosts = fs::read_to_string(site.at("/etc/hosts"))?;
        assert_eq!(hosts, "127.0.0.1 localhost\n");
    }
    Ok(())
}

fn serve(listener: &TcpListener, body: &[u8]) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    let mut request = [0; 1024];
    let _ = stream.read(&mut request)?;
    let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}

/// No two blocks are alike, and none is what an erased medium holds.
fn payload(len: usize) -> Vec<u8> {
    let words = (0_u32..).map(|number| number.wrapping_mul(0x9e37_79b1));
    words.flat_map(u32::to_le_bytes).take(len).collect()
}

/// A file of which a byte changes when its begin is sought for the n-th time.
struct Changing {
    file: Cursor<Vec<u8>>,
    at: usize,
    starts_left: u32,
}

impl Read for Changing {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.file.read(bytes)
    }
}

impl Seek for Changing {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        if to == SeekFrom::Start(0) && self.starts_left > 0 {
            self.starts_left -= 1;
            if self.starts_left == 0 {
                self.file.get_mut()[self.at] ^= 0x10;
            }
        }
        self.file.seek(to)
    }
}

/// Installs an image that is no file, as a process would.
fn install(site: &Site, source: Changing) -> Result<std::result::Result<Done, InstallError>> {
    let mut machine = site.router.machine()?;
    let (mut tell, stop) = (|_| (), AtomicBool::new(false));
    let mut upgrade = Upgrade {
        lock: machine.lock()?,
        trust: system::open_trust(&machine, 0)?,
        parts: system::open_parts(&machine, machine.target()),
        machine: &mut machine,
        wish: Wish::default(),
        before: Before::default(),
        watch: Watch::new(&mut tell, &stop),
    };
    let stock = match Stock::open(source) {
        Ok(stock) => stock,
        Err(error) => return Ok(Err(error.into())),
    };
    let image: Candidate<io::Empty> = Candidate::Stock(Box::new(stock));
    Ok(install::install(&mut upgrade, image))
}

#[test]
fn an_image_that_changes_after_it_was_verified_is_never_activated() -> Result {
    let raw = payload(200_000);
    let path = tempfile::NamedTempFile::new()?;
    let mut file = path.reopen()?;
    file.write_all(&raw)?;
    sign(&mut file, &metadata(BOARD, "24.10.9"))?;
    let image = fs::read(path.path())?;
    let (mut before, mut within) = (0, 0);
    for starts_left in 1.. {
        let site = Site::new(BOARD, &["firmware"], "refuse")?;
        let running = fs::read(site.router.part(Slot::First, "firmware")?)?;
        let source = Changing {
            file: Cursor::new(image.clone()),
            at: 150_000,
            starts_left,
        };
        let result = install(&site, source)?;
        let state = site.router.boot_environment()?.load()?;
        let now = fs::read(site.router.part(Slot::First, "firmware")?)?;
        assert!(now == running, "the running slot was written");
        match result {
            // It changed when nobody looked any more.
            Ok(_) => {
                assert_eq!(state.primary, Slot::Second);
                assert!(holds(&site, "firmware", &raw)?);
                break;
            }
            Err(InstallError::Unfinished { source, .. }) => {
                let changed = matches!(*source, InstallError::Image(ImageError::Changed { .. }));
                assert!(changed, "{starts_left}: {source:?}");
                assert_eq!(state.primary, Slot::First);
                assert_eq!(state.condition(Slot::Second), Condition::Unbootable);
                within += 1;
            }
            Err(error) => {
                assert_eq!(state.primary, Slot::First, "{error}");
                assert!(holds(&site, "firmware", b"")?, "{starts_left}: {error}");
                before += usize::from(matches!(
                    error,
                    InstallError::Image(ImageError::Changed { .. })
                ));
            }
        }
        assert!(starts_left < 20, "it is read for ever");
    }
    // It is read twice more after its signature was checked, and then written.
    assert_eq!((before, within), (2, 1));
    Ok(())
}

#[test]
fn an_image_that_fills_the_slot_fits_and_one_byte_more_does_not() -> Result {
    let site = Site::new(BOARD, &["firmware"], "refuse")?;
    let before = site.persistent()?;
    site.upload_made(&payload(PART_SIZE + 1), &metadata(BOARD, "2"))?;
    let output = site.ours(&format!("--json {IMAGE}")).output()?;
    assert_eq!(output.status.code(), Some(21), "{output:?}");
    let stock = site.stock(IMAGE).output()?;
    assert_eq!(stock.status.code(), Some(1), "{stock:?}");
    assert!(site.persistent()? == before, "something was written");

    let whole = payload(PART_SIZE);
    site.upload_made(&whole, &metadata(BOARD, "2"))?;
    let output = site.stock(IMAGE).output()?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(holds(&site, "firmware", &whole)?);
    Ok(())
}

#[test]
fn a_floor_above_zero_refuses_every_stock_image() -> Result {
    for (floor, code) in [(0, 0), (1, 12)] {
        let site = Site::new(BOARD, &["firmware"], "refuse")?;
        site.upload("images/raw-signed.bin")?;
        let machine = site.router.machine()?;
        machine.data.create()?;
        machine.data.record(&Update {
            floor: Some(floor),
            ..Update::default()
        })?;
        let output = site.ours(&format!("--json -F {IMAGE}")).output()?;
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert_eq!(site.is_installed()?, code == 0, "floor {floor}");
    }
    Ok(())
}

/// A tar as OpenWrt's image builder lays it out.
fn stock_tar(board: &str, kernel: &[u8], root: &[u8]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let directory = format!("sysupgrade-{}/", board.replace(',', "_"));
    let mut header = tar::Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    header.set_size(0);
    tar.append_data(&mut header, &directory, &b""[..])?;
    let control = format!("BOARD={board}\n");
    for (name, bytes) in [
        ("CONTROL", control.as_bytes()),
        ("kernel", kernel),
        ("root", root),
    ] {
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, format!("{directory}{name}"), bytes)?;
    }
    Ok(tar.into_inner()?)
}

#[test]
fn a_stock_system_is_tried_confirmed_and_remembered_by_the_version_of_its_image() -> Result {
    let site = Site::new(NAND, &["kernel", "root"], "refuse")?;
    let board = fs::read_to_string(site.at("/etc/sysupgrade-rs/board.toml"))?;
    let root = site::system(&site.beside("next"), "24.10.9", &board)?.to_tar()?;
    let tar = stock_tar(NAND, &payload(50_000), &root)?;
    site.upload_made(&tar, &metadata(NAND, "24.10.9"))?;
    let output = site.stock(IMAGE).output()?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");

    site.router.off()?;
    let first_boot = || Ok(site.ours("first-boot").status()?.success());
    assert_eq!(site.router.boot(first_boot)?, Booted::Up(Slot::Second));
    site.started(NAND)?;
    let network = fs::read_to_string(site.at("/etc/config/network"))?;
    assert_eq!(network, "as edited\n");
    let status = site.status()?;
    assert_eq!(status["standing"], "on-trial", "{status}");
    assert_eq!(status["running"]["version"], "24.10.9", "{status}");
    assert_eq!(status["other"]["version"], "1.0", "{status}");

    let output = site.ours("--json confirm").output()?;
    assert_eq!(document(&output)["changed"], true, "{output:?}");
    let status = site.status()?;
    assert_eq!(status["standing"], "good", "{status}");
    assert_eq!(status["floor"], 0, "a stock image raises no floor");
    let output = site.ours("history").output()?;
    assert!(text(&output.stdout).contains("24.10.9"), "{output:?}");
    Ok(())
}

/// The most memory that installing a payload of so many MiB took.
fn peak(mebibytes: usize) -> Result<u64> {
    let site = Site::new(BOARD, &["firmware"], "refuse")?;
    let size = mebibytes << 20;
    let part = site.router.part(Slot::Second, "firmware")?;
    OpenOptions::new()
        .write(true)
        .open(part)?
        .set_len(size as u64)?;
    site.upload_made(&payload(size), &metadata(BOARD, "2"))?;
    let output = site.ours(&format!("--json -n {IMAGE}")).output()?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let answer: Value = document(&output);
    Ok(answer["cost"]["peak_memory"].as_u64().ok_or("no peak")?)
}

#[test]
fn a_large_stock_image_takes_no_more_memory_than_a_small_one() -> Result {
    let (small, large) = (peak(1)?, peak(64)?);
    let figures = format!("1 MiB: {} KiB, 64 MiB: {} KiB", small >> 10, large >> 10);
    writeln!(io::stdout(), "{figures}")?;
    // The digests of 1024 blocks are 32 KiB.
    assert!(large < small + (1 << 20), "{small} and {large} bytes");
    Ok(())
}
