//! `/etc/fw_env.config`: which environment is found by it. What the tools of others make of such files is
//! in `boot_env_vectors.rs`.

use std::fs;
use std::path::Path;
use std::rc::Rc;

use sysupgrade_rs::board::{self, Board, Place, Store, Volume};
use sysupgrade_rs::boot::{BootError, fw_env_config};
use sysupgrade_rs::flash::{Chips, Kernel};
use sysupgrade_rs::system;
use tempfile::TempDir;

const CONFIG: &str = "/etc/fw_env.config";

/// The virtual router, but with U-Boot.
fn router() -> Board {
    let text = board::VIRTUAL
        .replace("kind = \"grub-env\"", "kind = \"uboot-env\"")
        .replace(
            "store = [{ path = \"/flash/env\" }]",
            &format!("fw_env_config = \"{CONFIG}\""),
        );
    Board::parse(&text, "board.toml").expect("a board")
}

/// A root with such a file.
fn root(config: &str) -> TempDir {
    let root = TempDir::new().expect("a directory");
    fs::create_dir(root.path().join("etc")).expect("a fresh directory");
    fs::write(root.path().join("etc/fw_env.config"), config).expect("there is room");
    root
}

fn read(root: &Path) -> Result<Vec<Store>, BootError> {
    fw_env_config::read(root, Path::new(CONFIG), &router())
}

/// What is wrong, and in which line.
fn refusal(root: &TempDir) -> (usize, String) {
    match read(root.path()) {
        Err(BootError::Config { line, problem, .. }) => (line, problem),
        other => panic!("not refused for the file: {other:?}"),
    }
}

fn refused(config: &str) -> (usize, String) {
    refusal(&root(config))
}

#[test]
fn numbers_are_read_as_c_reads_them() {
    for (fields, offset, size, window) in [
        ("0 2000", 0, 0x2000, 0x2000),
        ("+16 0X2000", 16, 0x2000, 0x2000),
        ("0x10 0x2000 1000", 16, 0x2000, 0x2000),
        ("020 0x2001 0x1000", 16, 0x2001, 0x3000),
        ("-0x20 0x2000 0x1000 10", -32, 0x2000, 0x10000),
        ("-020 0x2000 0x1000 0x4 0x1 words", -16, 0x2000, 0x4000),
        ("16 0x2000 # 1000 4", 16, 0x2000, 0x2000),
        ("16 0x2000 0 0", 16, 0x2000, 0x2000),
        ("16 0x2000 and so on", 16, 0x2000, 0x2000),
        ("16 0x2000 c00 3 4", 16, 0x2000, 0x2400),
    ] {
        let entries = fw_env_config::parse(&format!("#\n/env {fields}\n")).expect(fields);
        let [entry] = entries.as_slice() else {
            panic!("{fields}: {entries:?}");
        };
        assert_eq!(
            (entry.line, entry.offset, entry.size, entry.window),
            (2, offset, size, window),
            "{fields}"
        );
    }
}

#[test]
fn a_number_of_which_only_the_beginning_is_one_is_refused_with_its_line() {
    for (fields, problem) in [
        ("0x 0x2000", "the offset is `0x`"),
        ("09 0x2000", "the offset is `09`"),
        ("16k 0x2000", "the offset is `16k`"),
        (
            "0x8000000000000000 0x2000",
            "the offset is `0x8000000000000000`",
        ),
        ("--1 0x2000", "the offset is `--1`"),
        ("0 2000k", "the size is `2000k`"),
        ("0 0x-1", "the size is `0x-1`"),
        ("0 10000000000000000", "the size is `10000000000000000`"),
        ("0 0x2000 4k", "the sector size is `4k`"),
        (
            "0 0x2000 0x1000 2\u{1b}",
            "the number of sectors is `2\\u{1b}`",
        ),
    ] {
        let refused = refused(&format!("# comment\n\n/env {fields}\n"));
        assert_eq!(refused, (3, format!("{problem}, which is no number")));
    }
    assert_eq!(
        refused("/env 0 0x2000 ffffffffffffffff 2"),
        (1, "the sectors are more than any device has".to_owned())
    );
}

#[test]
fn of_three_places_the_third_is_not_looked_at() {
    let entries = fw_env_config::parse("/e 0 1k\n/f 0 0x2000\n/g 0 0x2000\n");
    assert!(entries.is_err(), "the first one is wrong");
    let entries =
        fw_env_config::parse("/e 0 0x2000\n/f 0 0x2000\n/g 0 1k\n").expect("two are enough");
    let devices: Vec<_> = entries.iter().map(|entry| &*entry.device).collect();
    assert_eq!(devices, ["/e", "/f"]);
}

#[test]
fn the_yaml_of_libubootenv_is_refused_as_what_it_is() {
    let yaml = "# made by a builder\nuboot:\n  size : 0x4000\n  lockfile : /run/lock\n  devices:\n    - path : \
                /dev/mmcblk0\n      offset : 0xE000\n      disable-lock: yes\n";
    let (line, problem) = refused(yaml);
    assert_eq!(line, 2);
    assert!(problem.starts_with("this is the YAML form"), "{problem}");
}

#[test]
fn a_file_that_names_no_place_is_refused_and_so_is_one_that_is_not_there() {
    for text in ["", "\n", "# /env 0 0x2000\n/env 0\n/env offset size\n"] {
        let (_, problem) = refused(text);
        assert_eq!(
            problem, "no line names a place of the environment",
            "{text}"
        );
    }
    let root = root("");
    fs::remove_file(root.path().join("etc/fw_env.config")).expect("it is there");
    let error = read(root.path()).expect_err("it is gone");
    assert!(matches!(error, BootError::File(_)), "{error:?}");
}

#[test]
fn places_are_held_to_the_rules_of_the_board_file() {
    for (config, line, expected) in [
        (
            "/e 0 0x2000\n# other\n/f 0 0x4000\n",
            3,
            "the copies have 8192 and 16384 bytes, U-Boot wants them equal",
        ),
        (
            "/e 0 0x2000\n/e 0x1000 0x2000\n",
            2,
            "the two copies overlap: a cut would damage both",
        ),
        (
            "/e 0 0x2000\n/e 0 0x2000\n",
            2,
            "the two copies overlap: a cut would damage both",
        ),
        (
            "/e 0 0\n/e 0x2000 0x2000",
            1,
            "size is 0, 1 to 1048576 bytes are possible",
        ),
        (
            "e 0 0x2000",
            1,
            "e: a path begins with / and has no .. in it",
        ),
        (
            "/e 0 0x2000\n/flash/root-b 0 0x2000",
            2,
            "/flash/root-b is not apart from /flash/root-b: slots share nothing",
        ),
        (
            "/e -0x2000 0x2000",
            1,
            "a negative offset counts from the end of a block device, ",
        ),
        ("/dev/mtd7 0 0x2000", 1, "cannot open "),
    ] {
        let (at, problem) = refused(config);
        assert_eq!(at, line, "{config}: {problem}");
        assert!(problem.starts_with(expected), "{config}: {problem}");
    }
}

/// The MTDs `u_env` and `ubi`, and UBI on the second with a volume `env two`.
fn with_flash(config: &str) -> TempDir {
    let root = root(config);
    for (attribute, value) in [
        ("mtd/mtd3/name", "u_env"),
        ("mtd/mtd5/name", "ubi"),
        ("ubi/ubi1/mtd_num", "5"),
        ("ubi/ubi1_2/name", "env two"),
    ] {
        let path = root.path().join("sys/class").join(attribute);
        fs::create_dir_all(path.parent().expect("a directory")).expect("there is room");
        fs::write(path, format!("{value}\n")).expect("there is room");
    }
    root
}

#[test]
fn raw_flash_is_known_by_its_name_whatever_its_number() {
    let ubi = |volume: &str| {
        Place::Ubi(Volume {
            mtd: "ubi".into(),
            volume: volume.into(),
        })
    };
    let u_env = || Place::Mtd("u_env".into());
    for (device, place) in [
        ("/dev/mtd3", u_env()),
        ("/dev/ubi1_2", ubi("env two")),
        ("/dev/ubi1:env", ubi("env")),
        ("/dev/ubi1:env_2", ubi("env_2")),
        ("/dev/mtdblock3", Place::Path("/dev/mtdblock3".into())),
        ("/dev/ubiblock1_2", Place::Path("/dev/ubiblock1_2".into())),
        ("/flash/mtd3", Place::Path("/flash/mtd3".into())),
    ] {
        let root = with_flash(&format!("{device} 0 0x2000 0x4000 3"));
        let stores = read(root.path()).expect(device);
        let window = (place == u_env()).then_some(0xc000);
        let store = Store {
            place,
            offset: 0,
            size: Some(0x2000),
            window,
        };
        assert_eq!(stores, [store], "{device}");
    }
}

#[test]
fn on_raw_flash_a_copy_has_sectors_enough_and_no_offset_from_the_end_and_in_ubi_none_at_all() {
    for (config, expected) in [
        (
            "/dev/mtd3 0 0x2000 0x1000 1",
            "its sectors have 4096 bytes, the environment has 8192",
        ),
        (
            "/dev/mtd3 -0x2000 0x2000",
            "a negative offset counts from the end of a block device, /dev/mtd3 is none",
        ),
        (
            "/dev/ubi1:env 0x2000 0x2000",
            "in a UBI volume the environment begins at its first byte",
        ),
        (
            "/dev/mtd3 0 0x2000 0x4000\n/dev/mtd3 0x2000 0x2000 0x4000",
            "the two copies overlap: a cut would damage both",
        ),
    ] {
        let (_, problem) = refusal(&with_flash(config));
        assert_eq!(problem, expected, "{config}");
    }
    let root = with_flash("/dev/mtd3 0 0x2000 0x4000\n/dev/mtd3 0x4000 0x2000 0x4000");
    let stores = read(root.path()).expect("they only touch");
    assert_eq!(stores.len(), 2);
}

#[test]
fn a_machine_whose_file_is_wrong_can_be_opened_and_says_so_when_the_environment_is_read() {
    let root = root("/env 0 2k");
    let chips: Rc<dyn Chips> = Rc::new(Kernel::new(root.path()));
    let mut boot = system::boot(root.path(), &router(), &chips);
    let error = boot.load().expect_err("it cannot be found");
    let path = root.path().join("etc/fw_env.config");
    assert_eq!(
        error.to_string(),
        format!("{}:1: the size is `2k`, which is no number", path.display())
    );
}
