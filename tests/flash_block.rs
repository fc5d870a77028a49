//! Block devices: how one is found, and what is done to it besides writing. What the kernel tells in
//! sysfs is played by a directory, devices are played by files; loop devices, which are real, need root.
//!
//!     cargo test --test flash_block -- --ignored

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use sysupgrade_rs::board::BlockPlace;
use sysupgrade_rs::files::trace::{self, Op};
use sysupgrade_rs::flash::{BlockDevice, Device, FlashError};
use sysupgrade_rs::report::Reason;
use tempfile::TempDir;

const SIZE: usize = 64 << 10;

/// A machine: `sys` as the kernel shows it, and files in `dev`.
struct Machine(TempDir);

impl Machine {
    fn new() -> Self {
        let dir = TempDir::new().expect("there is room");
        for name in ["sys/class/block", "sys/devices", "dev"] {
            fs::create_dir_all(dir.path().join(name)).expect("there is room");
        }
        Self(dir)
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    /// A device in the directory of its parent, with its attributes.
    fn add(&self, parent: &str, name: &str, attributes: &[(&str, &str)]) -> PathBuf {
        let directory = self.root().join("sys/devices").join(parent).join(name);
        fs::create_dir_all(&directory).expect("there is room");
        let class = self.root().join("sys/class/block").join(name);
        symlink(&directory, class).expect("the name is free");
        for (attribute, text) in attributes {
            fs::write(directory.join(attribute), text).expect("there is room");
        }
        fs::write(self.node(name), vec![0; SIZE]).expect("there is room");
        directory
    }

    fn disk(&self, name: &str, attributes: &[(&str, &str)]) -> PathBuf {
        let directory = self.add("", name, attributes);
        fs::create_dir(directory.join("queue")).expect("there is room");
        directory
    }

    /// A disk with two partitions, as kernels show them that tell of labels only.
    fn disk_with_partitions(&self, name: &str, labels: [&str; 2]) {
        self.disk(name, &[("ro", "0\n")]);
        for (number, label, start) in [(1, labels[0], 2048), (2, labels[1], 4096)] {
            let partition = format!("{name}p{number}");
            let uevent = format!(
                "MAJOR=179\nDEVNAME={partition}\nDEVTYPE=partition\nPARTN={number}\nPARTNAME={label}\n"
            );
            let attributes = [
                ("uevent", uevent.as_str()),
                ("partition", &format!("{number}\n")),
                ("start", &format!("{start}\n")),
                ("ro", "0\n"),
            ];
            self.add(name, &partition, &attributes);
        }
    }

    fn node(&self, name: &str) -> PathBuf {
        self.root().join("dev").join(name)
    }

    fn find(&self, place: &BlockPlace) -> Result<BlockDevice, FlashError> {
        BlockDevice::find(self.root(), place)
    }

    /// That `place` is the device of this name: what is written there is in its node.
    #[track_caller]
    fn assert_is(&self, place: &BlockPlace, name: &str) {
        let device = self.find(place);
        let mut device = device.unwrap_or_else(|error| panic!("{name}: {error}"));
        device
            .write_image(&mut &b"this one"[..], 8, None)
            .expect("it can be written");
        let node = fs::read(self.node(name)).expect("it is there");
        assert_eq!(&node[..8], b"this one", "another one than {name}");
        fs::write(self.node(name), vec![0; SIZE]).expect("there is room");
    }

    #[track_caller]
    fn assert_not_found(&self, place: &BlockPlace, message: &str) {
        let error = refusal(self.find(place));
        assert_eq!(error.to_string(), message);
        assert_eq!(error.reason(), Reason::MediumMissing);
    }
}

#[track_caller]
fn refusal(found: Result<BlockDevice, FlashError>) -> FlashError {
    match found {
        Ok(device) => panic!("not refused, it holds {} bytes", device.capacity()),
        Err(error) => error,
    }
}

fn nowhere() -> BlockPlace {
    BlockPlace {
        path: None,
        partlabel: None,
        partuuid: None,
        disk: None,
        partition: None,
        discard: false,
    }
}

fn path(path: impl Into<PathBuf>) -> BlockPlace {
    BlockPlace {
        path: Some(path.into()),
        ..nowhere()
    }
}

fn label(label: &str) -> BlockPlace {
    BlockPlace {
        partlabel: Some(label.to_owned()),
        ..nowhere()
    }
}

fn uuid(uuid: &str) -> BlockPlace {
    BlockPlace {
        partuuid: Some(uuid.to_owned()),
        ..nowhere()
    }
}

fn partition(disk: &str, number: u32) -> BlockPlace {
    BlockPlace {
        disk: Some(disk.into()),
        partition: Some(number),
        ..nowhere()
    }
}

#[test]
fn a_partition_is_found_by_its_label() {
    let machine = Machine::new();
    machine.disk_with_partitions("mmcblk0", ["kernel-a", "kernel"]);
    machine.assert_is(&label("kernel"), "mmcblk0p2");
    machine.assert_is(&label("kernel-a"), "mmcblk0p1");
    machine.assert_not_found(
        &label("kernel-b"),
        "partition with label kernel-b: there is none",
    );
}

#[test]
fn a_label_that_two_partitions_have_is_refused_and_both_are_named() {
    let machine = Machine::new();
    machine.disk_with_partitions("mmcblk0", ["kernel", "root"]);
    machine.disk_with_partitions("sda", ["root", "else"]);
    machine.assert_not_found(
        &label("root"),
        "partition with label root: there is more than one: mmcblk0p2, sdap1",
    );
}

#[test]
fn a_partition_is_found_by_its_disk_and_number() {
    let machine = Machine::new();
    machine.disk_with_partitions("mmcblk0", ["kernel", "root"]);
    machine.disk_with_partitions("mmcblk1", ["kernel", "root"]);
    // The kernel shows it in the directory of its disk, too.
    machine.add("mmcblk0", "mmcblk0boot0", &[("ro", "1\n")]);
    machine.assert_is(&partition("/dev/mmcblk0", 2), "mmcblk0p2");
    machine.assert_is(&partition("/dev/mmcblk1", 1), "mmcblk1p1");
    machine.assert_not_found(
        &partition("/dev/mmcblk0", 3),
        "partition 3 of /dev/mmcblk0: there is none",
    );
    machine.assert_not_found(
        &partition("/dev/mmcblk2", 1),
        "partition 1 of /dev/mmcblk2: there is none",
    );
}

#[test]
fn a_partition_is_found_by_the_uuid_that_the_kernel_tells() {
    let machine = Machine::new();
    machine.disk_with_partitions("sda", ["kernel", "root"]);
    let tells = "DEVNAME=sdap2\nPARTUUID=FEDCBA98-02\n";
    let attribute = machine.root().join("sys/class/block/sdap2/uevent");
    fs::write(attribute, tells).expect("there is room");
    machine.assert_is(&uuid("fedcba98-02"), "sdap2");
}

/// Bytes 512..604 and 1024..1280 of a disk of 4 MiB after
/// `sgdisk -n 1:2048:3071 -c 1:kernel-a -u 1:01234567-89AB-CDEF-0123-456789ABCDEF
/// -n 2:4096:6143 -c 2:root-a -u 2:FEDCBA98-7654-3210-8899-AABBCCDDEEFF` (GPT fdisk 1.0.9).
const GPT_HEADER: &str = "\
    4546492050415254000001005c000000d1d602a1000000000100000000000000ff1f0000000000002200000000000000\
    de1f000000000000cb6bbdfc06167f43a33a1d096138b46b020000000000000080000000800000008dc1daa1";
const GPT_ENTRIES: &str = "\
    af3dc60f838472478e793d69d8477de467452301ab89efcd0123456789abcdef0008000000000000ff0b000000000000\
    00000000000000006b00650072006e0065006c002d006100000000000000000000000000000000000000000000000000\
    0000000000000000000000000000000000000000000000000000000000000000af3dc60f838472478e793d69d8477de4\
    98badcfe547610328899aabbccddeeff0010000000000000ff17000000000000000000000000000072006f006f007400\
    2d0061000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
    00000000000000000000000000000000";

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| {
        let pair = str::from_utf8(pair).expect("hex digits");
        u8::from_str_radix(pair, 16).expect("hex digits")
    };
    digits.chunks(2).map(byte).collect()
}

/// A disk whose partition table only itself knows.
fn machine_with_gpt(block: u64) -> Machine {
    let machine = Machine::new();
    machine.disk_with_partitions("sda", ["kernel-a", "root-a"]);
    if block != 512 {
        let queue = machine.root().join("sys/class/block/sda/queue");
        let text = format!("{block}\n");
        fs::write(queue.join("logical_block_size"), text).expect("there is room");
        for (partition, start) in [("sdap1", 2048), ("sdap2", 4096)] {
            let start = format!("{}\n", start * block / 512);
            let directory = machine.root().join("sys/class/block").join(partition);
            fs::write(directory.join("start"), start).expect("there is room");
        }
    }
    let disk = OpenOptions::new().write(true).open(machine.node("sda"));
    let disk = disk.expect("it is there");
    for (hex, offset) in [(GPT_HEADER, block), (GPT_ENTRIES, 2 * block)] {
        disk.write_all_at(&bytes_of(hex), offset)
            .expect("there is room");
    }
    machine
}

#[test]
fn a_partition_is_found_by_the_uuid_in_the_table_where_the_kernel_tells_none() {
    for block in [512, 4096] {
        let machine = machine_with_gpt(block);
        machine.assert_is(&uuid("fedcba98-7654-3210-8899-aabbccddeeff"), "sdap2");
        machine.assert_is(&uuid("01234567-89AB-CDEF-0123-456789ABCDEF"), "sdap1");
        machine.assert_not_found(
            &uuid("01234567-89ab-cdef-0123-456789abcdee"),
            "partition with UUID 01234567-89ab-cdef-0123-456789abcdee: there is none",
        );
    }
}

#[test]
fn a_table_that_is_not_the_one_the_kernel_has_read_names_nothing() {
    let place = uuid("fedcba98-7654-3210-8899-aabbccddeeff");
    let not_found = format!(
        "partition with UUID {}: there is none",
        place.partuuid.as_ref().expect("it is one")
    );
    let machine = machine_with_gpt(512);
    let start = machine.root().join("sys/class/block/sdap2/start");
    fs::write(start, "4097\n").expect("there is room");
    machine.assert_not_found(&place, &not_found);

    let changes: [(u64, &[u8]); 3] = [
        (512, b"EFI PARS"),
        (512 + 80, &[1, 0, 0, 0]),                             // one entry
        (512 + 72, &[255, 255, 255, 255, 255, 255, 255, 255]), // table beyond all
    ];
    for (offset, bytes) in changes {
        let machine = machine_with_gpt(512);
        let disk = OpenOptions::new().write(true).open(machine.node("sda"));
        let disk = disk.expect("it is there");
        disk.write_all_at(bytes, offset).expect("there is room");
        machine.assert_not_found(&place, &not_found);
    }
}

#[test]
fn a_device_that_the_kernel_keeps_read_only_is_refused_before_anything_is_written() {
    let machine = Machine::new();
    machine.disk("sda", &[("ro", "1\n")]);
    let error = refusal(machine.find(&path("/dev/sda")));
    assert_eq!(error.reason(), Reason::MediumReadOnly);
    let name = machine.node("sda");
    assert_eq!(
        error.to_string(),
        format!("{} is read-only", name.display())
    );
}

/// A boot partition of an eMMC, and its write protection.
fn boot_partition() -> (Machine, PathBuf) {
    let machine = Machine::new();
    machine.disk("mmcblk0", &[("ro", "0\n")]);
    let attributes = [("ro", "1\n"), ("force_ro", "1\n")];
    let directory = machine.add("mmcblk0", "mmcblk0boot0", &attributes);
    (machine, directory.join("force_ro"))
}

fn force_ro(attribute: &Path) -> String {
    fs::read_to_string(attribute).expect("it is there")
}

/// A source that looks at the protection while it is read.
struct Watching<'a> {
    attribute: &'a Path,
    seen: Vec<String>,
    bytes: &'a [u8],
}

impl Read for Watching<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.seen.push(force_ro(self.attribute));
        match self.bytes.is_empty() {
            true => Err(io::Error::other("no more")),
            false => self.bytes.read(bytes),
        }
    }
}

#[test]
fn an_emmc_boot_partition_is_writable_only_while_it_is_written() {
    let (machine, attribute) = boot_partition();
    let mut device = machine
        .find(&path("/dev/mmcblk0boot0"))
        .expect("it is there");
    assert_eq!(device.capacity(), SIZE as u64);
    assert_eq!(force_ro(&attribute), "1\n", "nothing is changed for a plan");
    let mut old = Vec::new();
    device.read_image(0..4, &mut old).expect("it can be read");
    assert_eq!(force_ro(&attribute), "1\n");

    let mut source = Watching {
        attribute: &attribute,
        seen: Vec::new(),
        bytes: b"loader",
    };
    device
        .write_image(&mut source, 6, None)
        .expect("there is room");
    assert_eq!(source.seen, ["0\n"]);
    let mut new = Vec::new();
    device.read_image(0..6, &mut new).expect("it can be read");
    assert_eq!(new, b"loader");
    device
        .write_image(&mut &b"LOADER"[..], 6, None)
        .expect("again");
    drop(device);
    assert_eq!(force_ro(&attribute), "1\n");
}

#[test]
fn an_emmc_boot_partition_is_protected_again_after_an_error() {
    let (machine, attribute) = boot_partition();
    let mut device = machine
        .find(&path("/dev/mmcblk0boot0"))
        .expect("it is there");
    let mut source = Watching {
        attribute: &attribute,
        seen: Vec::new(),
        bytes: b"load",
    };
    let error = device
        .write_image(&mut source, 6, None)
        .expect_err("it ends");
    assert!(matches!(error, FlashError::Source(_)), "{error:?}");
    assert_eq!(source.seen, ["0\n", "0\n"]);
    drop(device);
    assert_eq!(force_ro(&attribute), "1\n");

    let too_large = vec![0; SIZE + 1];
    let mut device = machine
        .find(&path("/dev/mmcblk0boot0"))
        .expect("it is there");
    let error = device.write_image(&mut &too_large[..], SIZE as u64 + 1, None);
    assert_eq!(error.expect_err("it is").reason(), Reason::TooLarge);
    assert_eq!(force_ro(&attribute), "1\n", "nothing was to be written");
}

#[test]
fn a_file_where_nobody_knows_discard_is_written_all_the_same() {
    let machine = Machine::new();
    let directory = machine.disk("sda", &[("ro", "0\n")]);
    let place = BlockPlace {
        discard: true,
        ..path("/dev/sda")
    };
    machine.assert_is(&place, "sda");
    for (name, text) in [
        ("discard_max_bytes", "4096\n"),
        ("discard_granularity", "512\n"),
    ] {
        fs::write(directory.join("queue").join(name), text).expect("there is room");
    }
    machine.assert_is(&place, "sda");
}

const PAGE: usize = 4096;

/// Offsets and lengths of what is written to a medium, in pages where they are whole; and syncs.
fn writes(ops: &[Op]) -> Vec<(u64, usize)> {
    let sync = ops.iter().position(|op| matches!(op, Op::Sync { .. }));
    assert_eq!(sync, Some(ops.len() - 1), "one sync, at the end");
    let write = |op: &Op| match op {
        Op::Write { offset, data, .. } => Some((*offset, data.len())),
        _ => None,
    };
    ops.iter().filter_map(write).collect()
}

#[test]
fn what_differs_is_written_in_runs_of_whole_pages_and_what_does_not_is_left_alone() {
    const LEN: usize = 400 * PAGE + 100;
    let page = |number: usize| (number * PAGE) as u64;
    let machine = Machine::new();
    machine.disk("sda", &[]);
    fs::write(machine.node("sda"), vec![7; 500 * PAGE]).expect("there is room");
    let mut image = vec![7; LEN];
    let write = |image: &[u8]| {
        let mut device = machine.find(&path("/dev/sda")).expect("it is there");
        let (written, ops) =
            trace::record(|| device.write_image(&mut &image[..], LEN as u64, None));
        let written = written.expect("there is room");
        assert_eq!(written.read, LEN as u64);
        assert_eq!(written.written + written.unchanged, LEN as u64);
        let writes = writes(&ops);
        let sum: usize = writes.iter().map(|(_, len)| len).sum();
        assert_eq!(written.written, sum as u64);
        let found = fs::read(machine.node("sda")).expect("it is there");
        assert!(found[..LEN] == *image, "the image");
        assert!(found[LEN..].iter().all(|byte| *byte == 7), "what follows");
        writes
    };
    assert_eq!(write(&image), []);

    image[PAGE - 1] = 8;
    image[5 * PAGE..8 * PAGE].fill(8);
    image[LEN - 1] = 8;
    let runs = [(0, PAGE), (page(5), 3 * PAGE), (page(400), 100)];
    assert_eq!(write(&image), runs);
    assert_eq!(write(&image), []);

    image.fill(9);
    for (offset, len) in write(&image) {
        assert_eq!(offset % 4096, 0);
        let is_last = offset + len as u64 == LEN as u64;
        assert!(is_last || len >= 64 << 10, "{len} bytes at {offset}");
    }
}

/// A real block device, of a file.
struct Loop {
    path: PathBuf,
    file: PathBuf,
    _dir: TempDir,
}

impl Loop {
    fn new(content: &[u8], options: &[&str]) -> Self {
        let dir = TempDir::new().expect("there is room");
        fs::write(dir.path().join("disk"), content).expect("there is room");
        Self::of_disk(dir, options)
    }

    /// Of the file `disk` in this directory.
    fn of_disk(dir: TempDir, options: &[&str]) -> Self {
        let file = dir.path().join("disk");
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .args(options)
            .arg(&file)
            .output()
            .expect("losetup is installed");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "losetup, as root: {words}");
        let path = String::from_utf8(output.stdout).expect("a path");
        Self {
            path: path.trim().into(),
            file,
            _dir: dir,
        }
    }

    fn place(&self) -> BlockPlace {
        path(&self.path)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let status = Command::new("losetup").arg("-d").arg(&self.path).status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "{:?}",
            self.path
        );
    }
}

fn find(place: &BlockPlace) -> Result<BlockDevice, FlashError> {
    BlockDevice::find(Path::new("/"), place)
}

#[test]
#[ignore = "needs root and a loop device"]
fn what_follows_the_image_on_a_real_device_is_discarded_only_if_asked_for() {
    let old = vec![7; SIZE];
    let image = vec![8; 10_000];
    for discard in [false, true] {
        let device = Loop::new(&old, &[]);
        let place = BlockPlace {
            discard,
            ..device.place()
        };
        let written = find(&place)
            .expect("it is free")
            .write_image(&mut &image[..], 10_000, None);
        assert_eq!(written.expect("there is room").written, 10_000);
        let found = fs::read(&device.file).expect("it is there");
        assert!(found[..10_000] == image, "the image");
        let kept = if discard { 12_288 } else { found.len() };
        assert!(found[10_000..kept].iter().all(|byte| *byte == 7), "kept");
        assert!(found[kept..].iter().all(|byte| *byte == 0), "discarded");
        let mut again = find(&place).expect("it is free");
        let written = again.write_image(&mut &image[..], 10_000, None);
        assert_eq!(written.expect("there is room").written, 0);
    }
}

#[test]
#[ignore = "needs root and a loop device"]
fn a_real_device_that_is_in_use_or_read_only_is_refused_before_anything_is_written() {
    let device = Loop::new(&[7; 4096], &[]);
    let held = File::options()
        .read(true)
        .custom_flags(libc::O_EXCL)
        .open(&device.path);
    let held = held.expect("it is free");
    let error = refusal(find(&device.place()));
    assert_eq!(error.reason(), Reason::MediumBusy);
    let words = format!("{} is in use", device.path.display());
    assert_eq!(error.to_string(), words);
    drop(held);
    find(&device.place()).expect("it is free");

    let device = Loop::new(&[7; 4096], &["--read-only"]);
    let error = refusal(find(&device.place()));
    assert_eq!(error.reason(), Reason::MediumReadOnly, "{error}");
}

#[test]
#[ignore = "needs root and a loop device"]
fn a_node_that_belongs_to_another_device_is_never_written() {
    let [ours, other] = [7, 9].map(|byte| Loop::new(&[byte; 4096], &[]));
    let name = |device: &Loop| {
        let name = device.path.file_name().expect("a device");
        name.to_str().expect("a name").to_owned()
    };
    let machine = Machine::new();
    machine.disk("sda", &[]);
    let uevent = format!("DEVNAME={}\nPARTNAME=root\n", name(&other));
    let attributes = [("uevent", uevent.as_str()), ("dev", "7:99999\n")];
    let directory = machine.add("sda", "sda1", &attributes);
    symlink(&other.path, machine.node(&name(&other))).expect("the name is free");
    let error = refusal(machine.find(&label("root")));
    assert!(
        error.to_string().ends_with("is the node of another device"),
        "{error}"
    );
    let number = fs::read(Path::new("/sys/class/block").join(name(&other)).join("dev"));
    fs::write(directory.join("dev"), number.expect("it is real")).expect("there is room");
    machine.find(&label("root")).expect("it is the node");
    drop(ours);
}

/// A source during which the device goes away.
struct Leaving<'a> {
    device: &'a Loop,
    sysfs: PathBuf,
    chunk: usize,
}

impl Read for Leaving<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.chunk += 1;
        if self.chunk == 3 {
            // No byte of it is left, and the kernel knows.
            File::create(&self.device.file)?;
            let losetup = Command::new("losetup")
                .arg("-c")
                .arg(&self.device.path)
                .status()?;
            assert!(losetup.success());
            fs::rename(&self.sysfs, self.sysfs.with_extension("gone"))?;
        }
        bytes.fill(1);
        Ok(bytes.len())
    }
}

/// A device whose cache holds eights, and its medium a nine among them.
fn device_with_stale_cache() -> (Loop, File) {
    let device = Loop::new(&vec![8; SIZE], &[]);
    let mut user = File::open(&device.path).expect("it is there");
    let mut cached = Vec::new();
    user.read_to_end(&mut cached).expect("it can be read");
    let medium = OpenOptions::new().write(true).open(&device.file);
    medium
        .and_then(|medium| medium.write_all_at(&[9], 5000))
        .expect("there is room");
    // As long as somebody has it open, the cache stays.
    (device, user)
}

#[test]
#[ignore = "needs root and a loop device"]
fn what_is_read_back_comes_from_the_medium_and_not_from_a_cache() {
    let (device, _user) = device_with_stale_cache();
    let mut found = Vec::new();
    find(&device.place())
        .expect("it is free")
        .read_image(0..SIZE as u64, &mut found)
        .expect("it can be read");
    assert_eq!((found[4999], found[5000]), (8, 9));
}

#[test]
#[ignore = "needs root and a loop device"]
fn a_page_that_only_a_cache_has_right_is_written() {
    let (device, _user) = device_with_stale_cache();
    let written = find(&device.place()).expect("it is free").write_image(
        &mut io::repeat(8),
        SIZE as u64,
        None,
    );
    assert_eq!(written.expect("there is room").written, PAGE as u64);
    let medium = fs::read(&device.file).expect("it is there");
    assert!(medium.iter().all(|byte| *byte == 8));
}

/// Writes an image of so many bytes. How many were read back while it was written, all that was read back, and
/// the image.
fn prove(
    device: &mut BlockDevice,
    len: usize,
    meanwhile: &mut dyn FnMut(u64),
) -> (usize, Vec<u8>, Vec<u8>) {
    let image: Vec<u8> = (0..len)
        .map(|at| u8::try_from(at / PAGE % 251).expect("less than 251"))
        .collect();
    let mut source = Meanwhile {
        image: &image,
        done: 0,
        meanwhile,
    };
    let mut proof = Vec::new();
    let written = device
        .write_image(&mut source, len as u64, Some(&mut proof))
        .expect("there is room");
    assert_eq!(written.written + written.unchanged, len as u64);
    let meanwhile = proof.len();
    device
        .read_image(meanwhile as u64..len as u64, &mut proof)
        .expect("it was written");
    (meanwhile, proof, image)
}

/// Tells somebody how much of an image has been taken.
struct Meanwhile<'a> {
    image: &'a [u8],
    done: usize,
    meanwhile: &'a mut dyn FnMut(u64),
}

impl Read for Meanwhile<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        (self.meanwhile)(self.done as u64);
        let count = (&self.image[self.done..]).read(bytes)?;
        self.done += count;
        Ok(count)
    }
}

#[test]
fn every_byte_is_read_back_once_while_it_is_written_or_afterwards() {
    const MIB: usize = 1 << 20;
    let dir = TempDir::new().expect("there is room");
    let disk = dir.path().join("disk");
    for len in [1, PAGE, 3 * MIB - 1, 3 * MIB, 7 * MIB + 700] {
        fs::write(&disk, vec![7; 8 * MIB]).expect("there is room");
        let mut device = BlockDevice::open(&disk).expect("it is free");
        let (_, proof, image) = prove(&mut device, len, &mut |_| ());
        assert!(proof == image, "{len} bytes");
    }
}

#[test]
#[ignore = "needs root and a loop device"]
fn what_is_read_back_while_it_is_written_comes_from_the_medium_and_not_from_a_cache() {
    const LEN: usize = 8 << 20;
    let device = Loop::new(&vec![8; LEN], &[]);
    let medium = OpenOptions::new().write(true).open(&device.file);
    let medium = medium.expect("it is there");
    let mut forgets = |done: u64| {
        // The cache keeps what it has when the medium has got it.
        if done == 1 << 20 {
            let user = File::open(&device.path).expect("it is there");
            user.sync_all().expect("there is room");
            medium.write_all_at(b"?", 5000).expect("there is room");
        }
    };
    let mut found = find(&device.place()).expect("it is free");
    let (meanwhile, proof, mut image) = prove(&mut found, LEN, &mut forgets);
    assert!(meanwhile > 5000, "{meanwhile} bytes while it was written");
    assert!(proof != image, "what the medium forgot was in the cache");
    image[5000] = b'?';
    assert!(proof == image, "and nothing else");
}

/// A file system in memory that holds so many MiB.
struct SmallFileSystem(PathBuf);

impl SmallFileSystem {
    fn mount(dir: &Path, mib: u64) -> Self {
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(dir)
            .status();
        assert!(status.is_ok_and(|status| status.success()), "{dir:?}");
        Self(dir.to_owned())
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(status.is_ok_and(|status| status.success()), "{:?}", self.0);
    }
}

#[test]
#[ignore = "needs root and a loop device"]
fn a_write_that_the_cache_took_and_the_medium_did_not_is_an_error() {
    const LEN: u64 = 8 << 20;
    let place = TempDir::new().expect("there is room");
    let _small = SmallFileSystem::mount(place.path(), 1);
    let dir = TempDir::new_in(place.path()).expect("there is room");
    let disk = File::create(dir.path().join("disk")).expect("there is room");
    disk.set_len(LEN).expect("holes need no room");
    let device = Loop::of_disk(dir, &[]);
    let mut found = find(&device.place()).expect("it is free");
    for proof in [None, Some(&mut io::sink() as &mut dyn Write)] {
        let error = found
            .write_image(&mut io::repeat(1), LEN, proof)
            .expect_err("a part of it fits");
        assert_eq!(error.reason(), Reason::MediumFailed);
        let words = format!("cannot sync {}", device.path.display());
        assert_eq!(error.to_string(), words);
    }
}

#[test]
#[ignore = "needs root and a loop device"]
fn a_device_that_goes_away_in_mid_write_is_told_as_such() {
    const LEN: usize = 4 << 20;
    let device = Loop::new(&vec![7; LEN], &[]);
    let machine = Machine::new();
    let name = device.path.file_name().expect("a device");
    let name = name.to_str().expect("a name");
    let sysfs = machine.root().join("sys/devices").join(name);
    fs::create_dir(&sysfs).expect("there is room");
    symlink(&sysfs, machine.root().join("sys/class/block").join(name)).expect("it is free");
    symlink(&device.path, machine.node(name)).expect("it is free");
    let mut found = machine
        .find(&path(Path::new("/dev").join(name)))
        .expect("it is free");
    let mut source = Leaving {
        device: &device,
        sysfs,
        chunk: 0,
    };
    let error = found
        .write_image(&mut source, LEN as u64, None)
        .expect_err("it is gone");
    assert_eq!(error.reason(), Reason::MediumFailed);
    let words = "it has gone away in the middle of the work";
    assert!(error.to_string().ends_with(words), "{error}");
}
