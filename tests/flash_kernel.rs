//! Raw flash of the kernel. What is looked up in sysfs is tried on made-up trees; what is done with
//! ioctls, on simulated chips in a virtual machine, by the tests of [`real`].

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use sysupgrade_rs::board::{MtdPlace, Replace, UbiPlace, Volume, VolumeType};
use sysupgrade_rs::flash::mtd::{Geometry, Kind, RawMtd};
use sysupgrade_rs::flash::ubi::{RawUbi, UbiInfo, VolumeInfo};
use sysupgrade_rs::flash::{Chips, Device, FlashError, Kernel, MtdDevice, UbiDevice, Written};
use tempfile::TempDir;

/// A made-up `/sys`, `/proc` and `/dev`. Every device is `/dev/null`: it is a character device and knows
/// none of our requests.
struct System {
    root: TempDir,
}

const NULL: &str = "1:3";

impl System {
    fn new() -> Self {
        let root = TempDir::new().expect("a directory");
        fs::create_dir(root.path().join("dev")).expect("a fresh directory");
        Self { root }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn device(&self, class: &str, name: &str, attributes: &[(&str, &str)]) {
        let dir = self.path("sys/class").join(class).join(name);
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join("dev"), format!("{NULL}\n")).expect("an attribute");
        for (attribute, value) in attributes {
            fs::write(dir.join(attribute), format!("{value}\n")).expect("an attribute");
        }
        let node = self.path("dev").join(name);
        if !node.exists() {
            symlink("/dev/null", node).expect("a node");
        }
    }

    /// A NOR chip of 1 MiB, where `changed` does not say otherwise.
    fn mtd(&self, number: u32, name: &str, changed: &[(&str, &str)]) {
        let mut attributes = vec![
            ("name", name),
            ("type", "nor"),
            ("size", "1048576"),
            ("erasesize", "65536"),
            ("writesize", "1"),
            ("bitflip_threshold", "0"),
            ("flags", "0xc00"),
        ];
        attributes.extend_from_slice(changed);
        self.device("mtd", &format!("mtd{number}"), &attributes);
        // The kernel lists each MTD twice.
        self.device("mtd", &format!("mtd{number}ro"), &attributes);
    }

    fn ubi(&self, number: u32, mtd: &str) {
        let attributes = [
            ("mtd_num", mtd),
            ("eraseblock_size", "126976"),
            ("min_io_size", "2048"),
            ("avail_eraseblocks", "17"),
            ("ro_mode", "0"),
        ];
        self.device("ubi", &format!("ubi{number}"), &attributes);
        fs::write(self.path("sys/class/ubi/version"), "1\n").expect("a file");
    }

    fn volume(&self, node: &str, name: &str, changed: &[(&str, &str)]) {
        let mut attributes = vec![
            ("name", name),
            ("type", "dynamic"),
            ("reserved_ebs", "4"),
            ("usable_eb_size", "126976"),
            ("data_bytes", "507904"),
            ("upd_marker", "0"),
            ("corrupted", "0"),
        ];
        attributes.extend_from_slice(changed);
        self.device("ubi", node, &attributes);
    }

    fn chips(&self) -> Kernel {
        Kernel::new(self.root.path())
    }

    fn open_mtd(&self, name: &str) -> Result<Box<dyn RawMtd>, String> {
        self.chips().mtd(name).map_err(|error| in_full(&error))
    }

    fn open_ubi(&self, mtd: &str) -> Result<Box<dyn RawUbi>, String> {
        self.chips().ubi(mtd).map_err(|error| in_full(&error))
    }
}

/// An error with its causes, as people get to see it.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn refusal<T>(result: Result<T, String>) -> String {
    match result {
        Ok(_) => panic!("it was not refused"),
        Err(text) => text,
    }
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or_default()
}

const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const ENOTTY: i32 = 25;

#[test]
fn an_mtd_is_found_by_its_name_and_told_with_its_shape() {
    let system = System::new();
    system.mtd(0, "kernel", &[]);
    // Six gigabytes: more than the old requests have room for.
    let nand = [
        ("type", "nand"),
        ("size", "6442450944"),
        ("erasesize", "262144"),
        ("writesize", "4096"),
        ("bitflip_threshold", "6"),
        ("flags", "0x400"),
    ];
    system.mtd(10, "ubi of slot a", &nand);
    system.mtd(2, "factory", &[("flags", "0x800")]);
    let geometry = |name| {
        system
            .open_mtd(name)
            .expect("it is there")
            .geometry()
            .clone()
    };
    let wanted = Geometry {
        name: "ubi of slot a".to_owned(),
        kind: Kind::Nand,
        size: 6 << 30,
        erase_size: 256 << 10,
        page_size: 4096,
        bitflip_threshold: 6,
        writable: true,
    };
    assert_eq!(geometry("ubi of slot a"), wanted);
    let kernel = geometry("kernel");
    assert_eq!((kernel.kind, kernel.page_size), (Kind::Nor, 1));
    assert!(kernel.writable);
    assert!(!geometry("factory").writable);
}

#[test]
fn a_name_that_two_mtds_have_is_the_name_of_neither() {
    let system = System::new();
    system.mtd(3, "firmware", &[]);
    system.mtd(7, "firmware", &[]);
    system.mtd(8, "firmware2", &[]);
    let text = refusal(system.open_mtd("firmware"));
    assert_eq!(text, "mtd firmware: mtd3 and mtd7 have this name");
    assert_eq!(refusal(system.open_ubi("firmware")), text);
}

#[test]
fn a_name_that_no_mtd_has_is_refused_with_those_that_there_are() {
    let system = System::new();
    let text = refusal(system.open_mtd("ubi"));
    assert_eq!(text, "mtd ubi: this system has no mtd at all");
    system.mtd(1, "u-boot", &[]);
    system.mtd(0, "kernel ", &[]);
    for name in ["ubi", "mtd1", "1", "kernel", "u-boo", ""] {
        let text = refusal(system.open_mtd(name));
        let wanted = format!("mtd {name}: there are only kernel , u-boot");
        assert_eq!(text, wanted);
    }
}

#[test]
fn a_node_of_another_device_is_never_opened() {
    let system = System::new();
    system.mtd(4, "kernel", &[("dev", "90:8")]);
    let text = refusal(system.open_mtd("kernel"));
    assert!(
        text.ends_with("dev/mtd4: not the character device 90:8"),
        "{text}"
    );

    let node = system.path("dev/mtd4");
    fs::remove_file(&node).expect("it was made");
    fs::write(&node, "a file").expect("a file");
    let text = refusal(system.open_mtd("kernel"));
    assert!(
        text.ends_with("dev/mtd4: not the character device 90:8"),
        "{text}"
    );

    fs::remove_file(&node).expect("it was made");
    let text = refusal(system.open_mtd("kernel"));
    assert!(
        text.contains("cannot open") && text.contains("No such file"),
        "{text}"
    );
}

#[test]
fn what_cannot_be_written_by_its_kind_is_refused() {
    let system = System::new();
    for (number, kind) in ["rom", "absent", "ubi", "nand2"].into_iter().enumerate() {
        system.mtd(u32::try_from(number).expect("few"), kind, &[("type", kind)]);
        let text = refusal(system.open_mtd(kind));
        assert_eq!(
            text,
            format!("mtd {kind}: of type {kind}, which cannot be written")
        );
    }
    for (number, kind) in ["mlc-nand", "dataflash", "ram"].into_iter().enumerate() {
        let number = 10 + u32::try_from(number).expect("few");
        system.mtd(number, kind, &[("type", kind), ("writesize", "528")]);
        let geometry = system.open_mtd(kind).expect("it can be").geometry().clone();
        assert_eq!(geometry.kind == Kind::Nand, kind == "mlc-nand");
        assert_eq!(geometry.page_size, 528);
    }
}

#[test]
fn an_attribute_that_makes_no_sense_is_an_error_with_its_name() {
    for (attribute, value, wanted) in [
        ("size", "-1", "no number that fits: \"-1\""),
        (
            "erasesize",
            "4294967296",
            "no number that fits: \"4294967296\"",
        ),
        ("erasesize", "0", "have no size"),
        ("writesize", "0", "have no size"),
        ("flags", "400", "no hexadecimal number: \"400\""),
    ] {
        let system = System::new();
        system.mtd(0, "kernel", &[(attribute, value)]);
        let text = refusal(system.open_mtd("kernel"));
        assert!(text.ends_with(wanted), "{attribute}: {text}");
    }
}

/// The request itself is more than `/dev/null` can do.
fn was_tried(result: io::Result<()>) -> bool {
    errno(&result.expect_err("no chip")) == ENOTTY
}

#[test]
fn an_mtd_is_not_written_under_ubi_or_a_file_system() {
    let system = System::new();
    system.mtd(1, "kernel", &[]);
    system.mtd(2, "root", &[]);
    system.ubi(5, "12");
    fs::create_dir_all(system.path("proc/self")).expect("a directory");
    let mounts = "21 1 31:2 / /rom ro,relatime - squashfs /dev/root ro\n\
                  22 21 0:31 / /proc rw - proc proc rw\n";
    fs::write(system.path("proc/self/mountinfo"), mounts).expect("a file");

    let writes: [fn(&mut dyn RawMtd) -> io::Result<()>; 3] = [
        |mtd| mtd.erase(0),
        |mtd| mtd.program(0, b"data"),
        |mtd| mtd.mark_bad(0),
    ];
    for write in writes {
        let open = |name| system.open_mtd(name).expect("it is there");
        let error = write(&mut *open("root")).expect_err("it is mounted");
        assert_eq!(error.kind(), ErrorKind::ResourceBusy);
        assert_eq!(error.to_string(), "mtd2 is mounted on /rom");
    }
    let mut kernel = system.open_mtd("kernel").expect("it is there");
    assert!(was_tried(kernel.erase(0)), "nobody else has it");

    system.ubi(6, "1");
    for write in writes {
        let mut kernel = system.open_mtd("kernel").expect("it is there");
        let error = write(&mut *kernel).expect_err("ubi has it");
        assert_eq!(error.kind(), ErrorKind::ResourceBusy);
        assert_eq!(error.to_string(), "ubi6 is attached to mtd1");
    }
}

/// As `firmware` of many routers, of which the kernel makes `kernel` and `root` once it has looked inside.
#[test]
fn an_mtd_is_not_written_under_what_is_cut_out_of_it_or_it_is_cut_out_of() {
    let system = System::new();
    for (number, name) in ["firmware", "kernel", "root", "firmware2"]
        .iter()
        .enumerate()
    {
        let number = u32::try_from(number).expect("few");
        system.mtd(number, name, &[]);
        // The class has links; the devices are below their chip or partition.
        let link = system.path(&format!("sys/class/mtd/mtd{number}"));
        let parent = if matches!(number, 1 | 2) {
            "chip/mtd0"
        } else {
            "chip"
        };
        let parent = system.path("sys/devices").join(parent);
        fs::create_dir_all(&parent).expect("a directory");
        let place = parent.join(format!("mtd{number}"));
        fs::rename(&link, &place).expect("one file system");
        symlink(&place, &link).expect("the name is free");
    }
    let erase = |name| {
        let mut mtd = system.open_mtd(name).expect("it is there");
        mtd.erase(0).expect_err("no chip").to_string()
    };
    for name in ["firmware", "kernel", "root", "firmware2"] {
        assert!(erase(name).starts_with("Inappropriate ioctl"), "{name}");
    }
    system.ubi(0, "2");
    assert_eq!(erase("firmware"), "ubi0 is attached to mtd2");
    assert_eq!(erase("root"), "ubi0 is attached to mtd2");
    assert!(erase("kernel").starts_with("Inappropriate ioctl"));
    assert!(erase("firmware2").starts_with("Inappropriate ioctl"));
    system.ubi(0, "0");
    assert_eq!(erase("kernel"), "ubi0 is attached to mtd0");
    assert!(erase("firmware2").starts_with("Inappropriate ioctl"));
}

#[test]
fn ubi_is_found_by_the_name_of_its_mtd_and_its_volumes_by_theirs() {
    let system = System::new();
    system.mtd(2, "ubi", &[]);
    system.mtd(12, "other", &[]);
    system.ubi(0, "12");
    system.ubi(1, "2");
    system.volume("ubi0_0", "root-a", &[]);
    system.volume("ubi1_0", "root-b", &[]);
    let fixed = [
        ("type", "static"),
        ("data_bytes", "5000"),
        ("upd_marker", "1"),
    ];
    system.volume("ubi1_1", "root-a", &fixed);
    system.volume("ubi1_11", "broken", &[("corrupted", "1")]);
    system.volume("ubi11_2", "root-c", &[]);

    let mut ubi = system.open_ubi("ubi").expect("it is attached");
    let wanted = UbiInfo {
        mtd: "ubi".to_owned(),
        leb_size: 126_976,
        min_io_size: 2048,
        available: 17,
        writable: true,
    };
    assert_eq!(ubi.info().expect("it is there"), wanted);
    fs::write(system.path("sys/class/ubi/ubi1/ro_mode"), "1\n").expect("a file");
    assert!(!ubi.info().expect("it is there").writable);

    let wanted = VolumeInfo {
        name: "root-a".to_owned(),
        volume_type: VolumeType::Static,
        reserved: 4,
        usable_leb_size: 126_976,
        data_bytes: 5000,
        damaged: true,
    };
    let mut volume = |name| ubi.volume(name).expect("it can be read");
    assert_eq!(volume("root-a"), Some(wanted));
    assert!(!volume("root-b").expect("it is there").damaged);
    assert!(volume("broken").expect("it is there").damaged);
    assert_eq!(volume("root-c"), None);
    assert_eq!(volume("root"), None);
}

#[test]
fn a_volume_is_not_taken_for_one_that_had_its_number() {
    let system = System::new();
    system.mtd(0, "ubi", &[]);
    system.ubi(0, "0");
    system.volume("ubi0_0", "root-a", &[("reserved_ebs", "7")]);
    system.volume("ubi0_1", "root-b", &[]);
    let mut ubi = system.open_ubi("ubi").expect("it is attached");
    let before = ubi
        .volume("root-a")
        .expect("it can be read")
        .expect("it is there");
    assert_eq!(before.reserved, 7);
    system.volume("ubi0_0", "root-b", &[("reserved_ebs", "7")]);
    system.volume("ubi0_1", "root-a", &[]);
    let after = ubi
        .volume("root-a")
        .expect("it can be read")
        .expect("it is there");
    assert_eq!(after.reserved, 4);
}

#[test]
fn a_volume_is_not_renamed_to_a_name_that_stays_taken() {
    let system = System::new();
    system.mtd(0, "ubi", &[]);
    system.ubi(0, "0");
    for (node, name) in [("ubi0_0", "a"), ("ubi0_1", "b"), ("ubi0_2", "c")] {
        system.volume(node, name, &[]);
    }
    let mut ubi = system.open_ubi("ubi").expect("it is attached");
    let mut rename = |pairs: &[_]| errno(&ubi.rename(pairs).expect_err("there is no ubi"));
    assert_eq!(rename(&[("a", "b")]), EEXIST);
    assert_eq!(rename(&[("a", "b"), ("b", "c")]), EEXIST);
    assert_eq!(rename(&[("none", "d")]), ENOENT);
    assert_eq!(rename(&[("a", "b"), ("b", "a")]), ENOTTY, "it may be tried");
    assert_eq!(rename(&[("a", "d"), ("b", "a")]), ENOTTY, "it may be tried");
}

#[test]
fn a_volume_that_is_not_there_is_enoent_for_every_request() {
    let system = System::new();
    system.mtd(0, "ubi", &[]);
    system.ubi(0, "0");
    let mut ubi = system.open_ubi("ubi").expect("it is attached");
    let results = [
        ubi.remove("none"),
        ubi.resize("none", 1),
        ubi.update("none", 1, &mut &b"x"[..]).map(drop),
        ubi.change_block("none", 0, b"x"),
        ubi.read("none", 0, &mut [0]),
        ubi.release_block_device("none"),
    ];
    for result in results {
        assert_eq!(errno(&result.expect_err("there is none")), ENOENT);
    }
    assert_eq!(ubi.volume("none").expect("it can be asked"), None);
}

#[test]
fn a_volume_without_a_block_device_needs_no_release() {
    let system = System::new();
    system.mtd(0, "ubi", &[]);
    system.ubi(0, "0");
    system.volume("ubi0_0", "root", &[]);
    let mut ubi = system.open_ubi("ubi").expect("it is attached");
    ubi.release_block_device("root")
        .expect("/dev/null knows no such request");
}

#[test]
fn a_name_that_is_too_long_for_ubi_is_refused_whole() {
    let system = System::new();
    system.mtd(0, "ubi", &[]);
    system.ubi(0, "0");
    let mut ubi = system.open_ubi("ubi").expect("it is attached");
    let mut create = |len: usize| {
        let result = ubi.create(&"n".repeat(len), VolumeType::Dynamic, 1);
        errno(&result.expect_err("there is no ubi"))
    };
    const ENAMETOOLONG: i32 = 36;
    assert_eq!(create(127), ENOTTY, "it may be tried");
    for len in [128, 129, 40_000] {
        assert_eq!(create(len), ENAMETOOLONG, "{len}");
    }
}

#[test]
fn a_kernel_without_ubi_is_refused_with_these_words() {
    let system = System::new();
    system.mtd(0, "ubi", &[]);
    let text = refusal(system.open_ubi("ubi"));
    assert!(
        text.starts_with("mtd ubi: this kernel offers no ubi: "),
        "{text}"
    );
}

#[test]
fn a_volume_to_mount_that_is_not_there_is_refused_with_those_that_there_are() {
    let system = System::new();
    system.mtd(0, "ubi", &[]);
    system.ubi(0, "0");
    let wanted = Volume {
        mtd: "ubi".to_owned(),
        volume: "data".to_owned(),
    };
    let mount = || {
        refusal(
            system
                .chips()
                .mount(&wanted)
                .map_err(|error| in_full(&error)),
        )
    };
    assert_eq!(mount(), "ubi ubi:data: there is no volume at all");
    system.volume("ubi0_0", "root-b", &[]);
    system.volume("ubi0_1", "root-a", &[]);
    assert_eq!(
        mount(),
        "ubi ubi:data: there are only the volumes root-a, root-b"
    );
}

/// On the chips that `nandsim`, `mtdram` and UBI simulate, in a virtual machine that is thrown away:
///
/// ```text
/// modprobe nandsim id_bytes=0x20,0xa1,0x00,0x15 parts=8,8,400 badblocks=3,420 gravepages=320:1 weakblocks=9:2,422:1 bitflips=1
/// modprobe mtdram total_size=1024 erase_size=64
/// modprobe mtdblock; modprobe jffs2; modprobe ubi; modprobe ubifs
/// insmod lockflash.ko
/// flash_kernel --ignored --test-threads 1
/// ```
///
/// `ubiblock`, `mount` and `umount` are used; `lockflash.ko` is made of `qemu/lockflash.c`.
///
/// Partition 0 of the NAND chip has a bad block (3) and a page that cannot be corrected when it is read
/// for the second time (the first of block 5); in partition 1 block 1 can be erased twice. In
/// partition 3 block 4 is bad, and block 6 can be erased once.
mod real {
    use std::process::Command;

    use super::*;

    const EIO: i32 = 5;
    const EROFS: i32 = 30;
    const ENOSPC: i32 = 28;
    const EBUSY: i32 = 16;
    const EBADMSG: i32 = 74;

    const BLOCK: usize = 128 << 10;
    const PAGE: usize = 2048;

    /// What UBI leaves of a block: nandsim has sub-pages, so that both headers are in the first page.
    const LEB: usize = 126 << 10;
    const ROOM: u64 = 126 << 10;

    fn nand(partition: u32) -> String {
        format!("NAND simulator partition {partition}")
    }

    fn open(name: &str) -> Box<dyn RawMtd> {
        Kernel::new(Path::new("/"))
            .mtd(name)
            .expect("the module is loaded")
    }

    fn pattern(len: usize, seed: u8) -> Vec<u8> {
        let byte = |at: usize| at.to_le_bytes()[0].wrapping_mul(31) ^ at.to_le_bytes()[1] ^ seed;
        (0..len).map(byte).collect()
    }

    #[test]
    #[ignore = "needs nandsim"]
    fn nand_is_erased_programmed_and_read_and_its_bad_blocks_are_told() {
        let mut mtd = open(&nand(0));
        let wanted = Geometry {
            name: nand(0),
            kind: Kind::Nand,
            size: 8 << 17,
            erase_size: 128 << 10,
            page_size: 2048,
            bitflip_threshold: 1,
            writable: true,
        };
        assert_eq!(*mtd.geometry(), wanted);
        let offset = |block: u64| block << 17;
        let bad: Vec<u64> = (0..8)
            .filter(|block| mtd.is_bad(offset(*block)).expect("it can be asked"))
            .collect();
        assert_eq!(bad, [3]);
        assert_eq!(errno(&mtd.erase(offset(3)).expect_err("it is bad")), EIO);

        let bytes = pattern(BLOCK, 1);
        let mut back = vec![0; BLOCK];
        mtd.erase(offset(1)).expect("a good block");
        mtd.read(offset(1), &mut back).expect("it is erased");
        assert!(back.iter().all(|byte| *byte == 0xff));
        mtd.program(offset(1), &bytes[..PAGE]).expect("a page");
        mtd.program(offset(1) + PAGE as u64, &bytes[PAGE..])
            .expect("the other pages");
        mtd.read(offset(1), &mut back).expect("it was programmed");
        assert!(back == bytes, "another content came back");
        mtd.program(offset(2), &bytes[..100])
            .expect_err("no whole page");
        mtd.read(offset(8) - 10, &mut back)
            .expect_err("it ends there");

        mtd.mark_bad(offset(6)).expect("it can be marked");
        assert!(mtd.is_bad(offset(6)).expect("it can be asked"));
        assert!(open(&nand(0)).is_bad(offset(6)).expect("it can be asked"));
    }

    #[test]
    #[ignore = "needs nandsim"]
    fn a_page_that_cannot_be_corrected_is_an_error_and_not_data() {
        let mut mtd = open(&nand(0));
        let bytes = pattern(PAGE, 2);
        let mut back = vec![0; PAGE];
        mtd.erase(5 << 17).expect("a good block");
        mtd.program(5 << 17, &bytes).expect("a page");
        let mut results = (0..4).map(|_| mtd.read(5 << 17, &mut back));
        assert!(
            results.any(|result| result.is_err_and(|error| errno(&error) == EBADMSG)),
            "lost bits were given out as data"
        );
    }

    #[test]
    #[ignore = "needs nandsim"]
    fn bits_that_were_corrected_are_counted_and_the_data_is_right() {
        let mut mtd = open(&nand(1));
        let bytes = pattern(BLOCK, 3);
        let mut back = vec![0; BLOCK];
        mtd.erase(0).expect("a good block");
        mtd.program(0, &bytes).expect("a good block");
        let mut corrected = 0;
        // About one page of a thousand has a flipped bit; a block has 64.
        for _ in 0..1000 {
            corrected += mtd.read(0, &mut back).expect("one bit can be corrected");
            assert!(back == bytes, "another content came back");
            if corrected > 0 {
                return;
            }
        }
        panic!("no bit was corrected in 64000 pages");
    }

    #[test]
    #[ignore = "needs nandsim"]
    fn a_block_that_is_worn_out_is_an_error() {
        let mut mtd = open(&nand(1));
        let results: Vec<_> = (0..4).map(|_| mtd.erase(1 << 17).is_ok()).collect();
        assert_eq!(results, [true, true, false, false]);
    }

    #[test]
    #[ignore = "needs mtdram"]
    fn nor_is_programmed_byte_by_byte_and_has_no_bad_blocks() {
        let mut mtd = open("mtdram test device");
        assert_eq!(
            (mtd.geometry().kind, mtd.geometry().page_size),
            (Kind::Nor, 1)
        );
        assert!(!mtd.is_bad(0).expect("it can be asked"));
        mtd.mark_bad(0).expect_err("nobody could mark it");
        mtd.erase(64 << 10).expect("a block");
        mtd.program((64 << 10) + 3, b"odd").expect("three bytes");
        let mut back = [0; 8];
        assert_eq!(mtd.read(64 << 10, &mut back).expect("it is there"), 0);
        assert_eq!(&back, b"\xff\xff\xffodd\xff\xff");
    }

    fn ubi() -> Box<dyn RawUbi> {
        Kernel::new(Path::new("/"))
            .ubi(&nand(2))
            .expect("it can be attached")
    }

    fn clean(ubi: &mut dyn RawUbi) {
        for name in ["a", "b", "c", "old", "fixed", "a-new", "a-old"] {
            if ubi.volume(name).expect("it can be asked").is_some() {
                ubi.remove(name).expect("nobody uses it");
            }
        }
    }

    /// The node of a volume.
    fn node_of(name: &str) -> PathBuf {
        let volume = fs::read_dir("/sys/class/ubi")
            .expect("ubi is there")
            .map(|entry| entry.expect("an entry").path())
            .find(|path| {
                fs::read_to_string(path.join("name"))
                    .is_ok_and(|its_name| its_name.trim_end() == name)
            })
            .expect("the volume is there");
        Path::new("/dev").join(volume.file_name().expect("a name"))
    }

    #[test]
    #[ignore = "needs nandsim and ubi"]
    fn ubi_is_attached_once_and_guards_its_mtd() {
        let info = ubi().info().expect("it is there");
        assert_eq!(
            (info.mtd, info.leb_size, info.min_io_size),
            (nand(2), 126 << 10, 2048)
        );
        assert!(info.writable);
        let again = ubi().info().expect("it is there");
        assert_eq!(again.available, info.available);
        let error = open(&nand(2)).erase(0).expect_err("ubi is on it");
        assert_eq!(error.kind(), ErrorKind::ResourceBusy);
        assert_eq!(error.to_string(), "ubi0 is attached to mtd2");
        open(&nand(2))
            .read(0, &mut [0; PAGE])
            .expect("reading does no harm");
    }

    #[test]
    #[ignore = "needs nandsim and ubi"]
    fn volumes_are_made_resized_renamed_and_removed() {
        let mut ubi = ubi();
        clean(&mut *ubi);
        let before = ubi.info().expect("it is there").available;
        ubi.create("a", VolumeType::Dynamic, 3 * ROOM)
            .expect("there is room");
        ubi.create("b", VolumeType::Static, 1)
            .expect("there is room");
        let taken = ubi
            .create("a", VolumeType::Dynamic, 1)
            .expect_err("it is taken");
        assert_eq!(errno(&taken), EEXIST);
        let full = ubi
            .create("c", VolumeType::Dynamic, 1 << 40)
            .expect_err("no room");
        assert_eq!(errno(&full), ENOSPC);
        let reserved = |ubi: &mut dyn RawUbi, name: &str| {
            let volume = ubi.volume(name).expect("it can be asked");
            volume.map(|volume| (volume.volume_type, volume.reserved))
        };
        assert_eq!(reserved(&mut *ubi, "a"), Some((VolumeType::Dynamic, 3)));
        assert_eq!(reserved(&mut *ubi, "b"), Some((VolumeType::Static, 1)));
        assert_eq!(ubi.info().expect("it is there").available, before - 4);

        ubi.resize("b", 2 * ROOM + 1).expect("there is room");
        assert_eq!(reserved(&mut *ubi, "b"), Some((VolumeType::Static, 3)));
        ubi.resize("a", ROOM).expect("it shrinks");
        assert_eq!(
            errno(&ubi.resize("a", 400 * ROOM).expect_err("no room")),
            ENOSPC
        );

        ubi.rename(&[("a", "b"), ("b", "a")])
            .expect("they change places");
        assert_eq!(reserved(&mut *ubi, "a"), Some((VolumeType::Static, 3)));
        assert_eq!(reserved(&mut *ubi, "b"), Some((VolumeType::Dynamic, 1)));
        ubi.rename(&[("a", "old"), ("b", "a")])
            .expect("the name becomes free");
        assert_eq!(reserved(&mut *ubi, "a"), Some((VolumeType::Dynamic, 1)));
        assert_eq!(reserved(&mut *ubi, "old"), Some((VolumeType::Static, 3)));
        assert_eq!(
            errno(&ubi.rename(&[("a", "old")]).expect_err("it is taken")),
            EEXIST
        );
        assert_eq!(reserved(&mut *ubi, "old"), Some((VolumeType::Static, 3)));

        let long = "n".repeat(127);
        ubi.rename(&[("a", &long)]).expect("the longest name");
        ubi.rename(&[(&long, "a")]).expect("and back");
        ubi.remove("old").expect("nobody uses it");
        ubi.remove("a").expect("nobody uses it");
        assert_eq!(ubi.info().expect("it is there").available, before);
    }

    #[test]
    #[ignore = "needs nandsim and ubi"]
    fn a_volume_holds_what_it_was_updated_with_or_is_damaged() {
        let mut ubi = ubi();
        clean(&mut *ubi);
        let bytes = pattern(300_001, 4);
        for (name, volume_type) in [("a", VolumeType::Dynamic), ("b", VolumeType::Static)] {
            ubi.create(name, volume_type, 400_000)
                .expect("there is room");
            let mut update = |len: u64, mut bytes: &[u8]| ubi.update(name, len, &mut bytes);
            update(300_001, &bytes)
                .expect("it is written")
                .expect("the source is fine");
            let volume = ubi
                .volume(name)
                .expect("it can be asked")
                .expect("it is there");
            assert!(!volume.damaged);
            if volume_type == VolumeType::Static {
                assert_eq!(volume.data_bytes, 300_001);
            }
            let mut back = vec![0; 299_000];
            ubi.read(name, 1001, &mut back).expect("it was written");
            assert!(back == bytes[1001..], "another content came back");

            let mut update = |len: u64, mut bytes: &[u8]| ubi.update(name, len, &mut bytes);
            let source = update(300_001, &bytes[..200_000]).expect("flash is fine");
            assert_eq!(
                source.expect_err("it ends early").kind(),
                ErrorKind::UnexpectedEof
            );
            let volume = ubi
                .volume(name)
                .expect("it can be asked")
                .expect("it is there");
            assert!(volume.damaged);
            let error = ubi.read(name, 0, &mut [0]).expect_err("it is damaged");
            assert_eq!(errno(&error), EIO);

            let mut update = |len: u64, mut bytes: &[u8]| ubi.update(name, len, &mut bytes);
            update(0, &[])
                .expect("it is emptied")
                .expect("nothing was asked");
            let volume = ubi
                .volume(name)
                .expect("it can be asked")
                .expect("it is there");
            assert!(!volume.damaged);
            let too_much = ubi.update(name, 1 << 20, &mut io::repeat(0));
            assert!(too_much.is_err(), "more than it has room for");
        }
        clean(&mut *ubi);
    }

    #[test]
    #[ignore = "needs nandsim and ubi"]
    fn one_block_of_a_dynamic_volume_is_changed_and_the_others_stay() {
        let mut ubi = ubi();
        clean(&mut *ubi);
        ubi.create("a", VolumeType::Dynamic, 3 * ROOM)
            .expect("there is room");
        ubi.create("fixed", VolumeType::Static, ROOM)
            .expect("there is room");
        let bytes = pattern(100_001, 5);
        ubi.change_block("a", 1, &bytes).expect("a block");
        let mut back = vec![0; 3 * LEB];
        ubi.read("a", 0, &mut back).expect("it can be read");
        assert!(back[..LEB].iter().all(|byte| *byte == 0xff));
        assert!(back[LEB..][..100_001] == bytes);
        assert!(back[LEB + 100_001..].iter().all(|byte| *byte == 0xff));
        ubi.change_block("a", 1, b"other").expect("a block");
        ubi.read("a", ROOM, &mut back[..10])
            .expect("it can be read");
        assert_eq!(&back[..10], b"other\xff\xff\xff\xff\xff");
        ubi.change_block("a", 3, b"x").expect_err("it has three");
        ubi.change_block("a", 0, &[0; LEB + 1])
            .expect_err("longer than a block");
        let error = ubi
            .change_block("fixed", 0, b"x")
            .expect_err("a static one");
        assert_eq!(errno(&error), EROFS);
        clean(&mut *ubi);
    }

    #[test]
    #[ignore = "needs nandsim and ubi"]
    fn a_volume_that_somebody_has_open_is_busy() {
        let mut ubi = ubi();
        clean(&mut *ubi);
        ubi.create("a", VolumeType::Dynamic, ROOM)
            .expect("there is room");
        let node = node_of("a");
        let reader = fs::File::open(node).expect("a reader");
        let results = [
            ubi.update("a", 1, &mut &b"x"[..]).map(drop),
            ubi.remove("a"),
            ubi.change_block("a", 0, b"x"),
        ];
        for result in results {
            assert_eq!(errno(&result.expect_err("a reader has it")), EBUSY);
        }
        drop(reader);
        ubi.release_block_device("a").expect("there is none");
        ubi.remove("a").expect("nobody has it now");
    }

    #[test]
    #[ignore = "needs nandsim and ubi"]
    fn the_block_device_of_a_volume_is_taken_away_unless_it_is_in_use() {
        let mut ubi = ubi();
        clean(&mut *ubi);
        ubi.create("a", VolumeType::Dynamic, ROOM)
            .expect("there is room");
        let node = node_of("a");
        let made = Command::new("ubiblock").arg("--create").arg(&node).status();
        assert!(made.expect("ubiblock is there").success());
        let number = node.to_str().and_then(|path| path.strip_prefix("/dev/ubi"));
        let block = PathBuf::from(format!("/dev/ubiblock{}", number.expect("its name")));
        let user = fs::File::open(&block).expect("it was made");
        let error = ubi.release_block_device("a").expect_err("it is in use");
        assert_eq!(errno(&error), EBUSY);
        drop(user);
        ubi.release_block_device("a").expect("nobody uses it");
        assert!(!block.exists());
        ubi.release_block_device("a")
            .expect("there is none any more");
        clean(&mut *ubi);
    }

    #[test]
    #[ignore = "needs mtdram, mtdblock and jffs2"]
    fn an_mtd_that_is_mounted_is_not_written() {
        let mut mtd = open("mtdram test device");
        mtd.erase(0).expect("nobody has it");
        let number = fs::read_dir("/sys/class/mtd")
            .expect("there are some")
            .map(|entry| entry.expect("an entry"))
            .find(|entry| {
                fs::read_to_string(entry.path().join("name"))
                    .is_ok_and(|name| name == "mtdram test device\n")
            })
            .and_then(|entry| entry.file_name().to_str()?.get(3..4).map(str::to_owned))
            .expect("it is there");
        let device = format!("/dev/mtdblock{number}");
        let mount = ["-t", "jffs2", &device, "/mnt"];
        let mounted = Command::new("mount").args(mount).status();
        assert!(mounted.expect("mount is there").success());
        let error = open("mtdram test device")
            .erase(0)
            .expect_err("it is mounted");
        assert_eq!(error.to_string(), format!("mtd{number} is mounted on /mnt"));
        let unmounted = Command::new("umount").arg("/mnt").status();
        assert!(unmounted.expect("umount is there").success());
        open("mtdram test device")
            .erase(0)
            .expect("nobody has it any more");
    }

    /// On a chip that ignores writes to protected blocks, as SPI chips do.
    #[test]
    #[ignore = "needs lockflash"]
    fn what_is_write_protected_is_opened_as_far_as_needed_and_closed_again() {
        let locked = |name: &str| {
            let number = (0..20)
                .find(|number| {
                    fs::read_to_string(format!("/sys/class/mtd/mtd{number}/name"))
                        .is_ok_and(|its_name| its_name.trim_end() == name)
                })
                .expect("the chip is there");
            let device = fs::File::open(format!("/dev/mtd{number}")).expect("its node");
            (0..8_u64)
                .map(|block| {
                    sysupgrade_rs::sys::mtd_is_locked(&device, block << 16, 64 << 10)
                        .expect("it can be asked")
                })
                .collect::<Vec<_>>()
        };
        for (name, others) in [("lock blocks", true), ("lock whole", false)] {
            let mut mtd = open(name);
            assert_eq!(locked(name), [true; 8]);
            mtd.read(0, &mut [0; 10]).expect("reading needs no key");
            assert_eq!(locked(name), [true; 8]);
            mtd.erase(3 << 16).expect("it is opened");
            mtd.program((3 << 16) + 70, b"data").expect("it is open");
            mtd.program(5 << 16, b"").expect("nothing");
            let mut back = [0; 5];
            mtd.read((3 << 16) + 70, &mut back).expect("it was written");
            assert_eq!(&back, b"data\xff");
            let now = locked(name);
            assert_eq!(
                (now[3], now[5], now[0], now[7]),
                (false, false, others, others)
            );
            drop(mtd);
            assert_eq!(locked(name), [true; 8]);
        }
    }

    #[test]
    #[ignore = "needs nandsim, ubi and ubifs"]
    fn an_empty_volume_is_mounted_as_an_empty_file_system_once() {
        let chips = Kernel::new(Path::new("/"));
        let mut ubi = ubi();
        let data = Volume {
            mtd: nand(2),
            volume: "data".to_owned(),
        };
        let error = chips.mount(&data).expect_err("it was not made yet");
        assert!(matches!(error, FlashError::NotFound { .. }), "{error}");
        ubi.create("data", VolumeType::Dynamic, 8 << 20)
            .expect("there is room");
        let point = chips.mount(&data).expect("an empty volume");
        assert_eq!(fs::read_dir(&point).expect("a directory").count(), 0);
        fs::write(point.join("file"), "kept").expect("there is room");
        assert_eq!(chips.mount(&data).expect("it is mounted"), point);
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
        assert_eq!(mounts.matches("ubifs").count(), 1, "{mounts}");
        assert_eq!(
            errno(&ubi.remove("data").expect_err("it is mounted")),
            EBUSY
        );
        assert_eq!(
            fs::read_to_string(point.join("file")).expect("it was written"),
            "kept"
        );
    }

    /// Writes an image, and demands that the same bytes come back.
    fn write(device: &mut dyn Device, bytes: &[u8]) -> Written {
        let len = bytes.len() as u64;
        let written = device
            .write_image(&mut &*bytes, len, None)
            .expect("it fits");
        let mut back = Vec::new();
        device
            .read_image(0..len, &mut back)
            .expect("it was written");
        assert!(back == bytes, "another content came back");
        written
    }

    #[test]
    #[ignore = "needs nandsim"]
    fn an_image_goes_around_blocks_that_are_bad_and_that_go_bad() {
        let place = MtdPlace {
            mtd: nand(3),
            offset: 0,
            size: Some(12 << 17),
            header_last: true,
        };
        let device = || MtdDevice::new(open(&nand(3)), &place).expect("a part");
        assert_eq!(device().capacity(), 11 << 17);
        let image = |seed| pattern(8 * BLOCK + 1000, seed);
        let gone_bad: u64 = (6..9)
            .map(|seed| write(&mut device(), &image(seed)).gone_bad)
            .sum();
        assert_eq!(gone_bad, 1);
        assert_eq!(device().capacity(), 10 << 17);
        // A block with a flipped bit is written again, and in about every other round there is one.
        let again = (0..20)
            .map(|_| write(&mut device(), &image(8)))
            .find(|written| written.erased == 0)
            .expect("a round without flipped bits");
        assert_eq!(again.written, 0);
        assert_eq!(again.unchanged, 8 * BLOCK as u64 + 1000);
    }

    #[test]
    #[ignore = "needs nandsim and ubi"]
    fn an_image_goes_into_a_volume_of_either_type_in_either_way() {
        for volume_type in [VolumeType::Dynamic, VolumeType::Static] {
            for replace in [Replace::InPlace, Replace::Rename] {
                clean(&mut *ubi());
                let place = UbiPlace {
                    mtd: nand(2),
                    volume: "a".to_owned(),
                    size: Some(1 << 20),
                    volume_type,
                    replace,
                };
                let device = || UbiDevice::new(ubi(), &place).expect("there is room");
                for seed in [1, 2] {
                    let written = write(&mut device(), &pattern(700_000, seed));
                    assert_eq!(written.unchanged + written.written, 700_000);
                }
                let volume = ubi()
                    .volume("a")
                    .expect("it can be asked")
                    .expect("it is there");
                assert_eq!(volume.volume_type, volume_type);
            }
        }
        clean(&mut *ubi());
    }
}
