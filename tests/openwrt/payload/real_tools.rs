//! What the real programs write is read; a program that is not installed is a failure.

use std::fs;
use std::path::Path;
use std::process::Command;

use sysupgrade_rs::image::openwrt::payload::{Kind, Payload};

use super::{BOARD, check, look, samples, triples};

fn run(dir: &Path, line: &str) {
    let words: Vec<_> = line.split_whitespace().collect();
    let output = Command::new(words[0])
        .args(&words[1..])
        .current_dir(dir)
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .output()
        .unwrap_or_else(|error| panic!("{} is needed for this test: {error}", words[0]));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {stderr}");
}

/// A directory with the beginnings of a system: `tree`, `kernel`, `kernel.uimage`, `root.squashfs`.
fn bench() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path();
    fs::create_dir(at.join("tree")).expect("a directory");
    for (number, seed) in (0..20).zip(1..) {
        fs::write(
            at.join(format!("tree/{number}")),
            samples::noise(9000, seed),
        )
        .expect("a file");
    }
    fs::write(at.join("kernel"), samples::noise(150_001, 3)).expect("a file");
    run(
        at,
        "mksquashfs tree root.squashfs -noappend -no-progress -all-root -b 64K",
    );
    run(
        at,
        "mkimage -A mips -O linux -T kernel -C lzma -n Linux-6.6 -d kernel kernel.uimage",
    );
    dir
}

fn read(at: &Path, name: &str) -> Vec<u8> {
    fs::read(at.join(name)).expect(name)
}

/// The payload as it is, and refused when its last block is missing.
#[track_caller]
fn whole(bytes: &[u8], kind: Kind) -> Payload {
    let payload = check(bytes).unwrap_or_else(|error| panic!("{kind}: {error}"));
    assert_eq!(payload.kind, kind);
    // An odd number: a UBI image that loses whole erase blocks still looks whole.
    for cut in [4096, (bytes.len() / 2) | 1] {
        assert!(
            check(&bytes[..bytes.len() - cut]).is_err(),
            "{kind} without {cut} bytes"
        );
    }
    payload
}

#[test]
fn images_for_raw_flash_as_mkimage_and_mksquashfs_write_them() {
    let bench = bench();
    let at = bench.path();
    let root = read(at, "root.squashfs");
    let kernel = read(at, "kernel.uimage");
    whole(&root, Kind::Squashfs);
    whole(&kernel, Kind::Kernel);
    for alignment in [4 << 10, 64 << 10] {
        let mut image = kernel.clone();
        image.resize(image.len().next_multiple_of(alignment), 0);
        let start = image.len() as u64;
        image.extend(&root);
        let payload = whole(&image, Kind::Firmware);
        assert_eq!(triples(&payload), [("firmware", 0, image.len() as u64)]);
        let payload = look(&image, None, Some(&["kernel", "rootfs"])).expect("a slot for it");
        let parts = [("kernel", 0, start), ("rootfs", start, root.len() as u64)];
        assert_eq!(triples(&payload), parts);
    }
}

#[test]
fn a_tar_as_gnu_tar_and_gzip_write_it() {
    let bench = bench();
    let at = bench.path();
    let name = "sysupgrade-acme_nand-x2";
    fs::create_dir(at.join(name)).expect("a directory");
    for (member, file) in [("kernel", "kernel.uimage"), ("root", "root.squashfs")] {
        fs::copy(at.join(file), at.join(name).join(member)).expect("a copy");
    }
    fs::write(at.join(name).join("CONTROL"), "BOARD=acme_nand-x2\n").expect("a file");
    for format in ["gnu", "ustar"] {
        run(
            at,
            &format!(
                "tar -c --format={format} --numeric-owner --owner=0 --group=0 --sort=name -f image.{format} {name}"
            ),
        );
        let image = read(at, &format!("image.{format}"));
        run(at, &format!("gzip -9nk image.{format}"));
        let packed = read(at, &format!("image.{format}.gz"));
        for bytes in [&image, &packed] {
            let payload = look(bytes, Some(BOARD), Some(&["kernel", "root"])).expect(format);
            assert_eq!(payload.kind, Kind::Tar);
            assert_eq!(payload.parts.len(), 2);
            for (extent, file) in payload.parts.iter().zip(["kernel.uimage", "root.squashfs"]) {
                let start = usize::try_from(extent.start).expect("small");
                let len = usize::try_from(extent.len).expect("small");
                assert!(image[start..start + len] == read(at, file), "{file}");
            }
        }
    }
}

#[test]
fn a_flattened_image_tree_as_mkimage_writes_it() {
    let bench = bench();
    let at = bench.path();
    run(
        at,
        "mkimage -f auto -A arm64 -O linux -T kernel -C none -a 0 -e 0 -n x -d kernel inside.itb",
    );
    let payload = whole(&read(at, "inside.itb"), Kind::Fit);
    assert_eq!(payload.parts[0].start, 0);
    // With the data behind the tree, as systems boot whose root is in the same image.
    run(
        at,
        "mkimage -E -B 0x1000 -f auto -A arm64 -O linux -T kernel -C none -a 0 -e 0 -n x -d kernel behind.itb",
    );
    let bytes = read(at, "behind.itb");
    let payload = look(&bytes, None, Some(&["firmware"])).expect("a slot for it");
    assert_eq!(triples(&payload), [("firmware", 0, bytes.len() as u64)]);
}

#[test]
fn ubi_and_ubifs_as_mtd_utils_write_them() {
    let bench = bench();
    let at = bench.path();
    run(at, "mkfs.ubifs -r tree -m 2048 -e 126976 -c 200 root.ubifs");
    let root = read(at, "root.ubifs");
    let payload = whole(&root, Kind::Ubifs);
    assert_eq!(triples(&payload), [("root", 0, root.len() as u64)]);
    let volume = |id: u32, name: &str, image: &str| {
        format!(
            "[{name}]\nmode=ubi\nvol_id={id}\nvol_type=dynamic\nvol_name={name}\nimage={image}\n"
        )
    };
    let config = volume(0, "kernel", "kernel.uimage")
        + &volume(1, "rootfs", "root.ubifs")
        + "[rootfs_data]\nmode=ubi\nvol_id=2\nvol_type=dynamic\nvol_name=rootfs_data\nvol_size=1MiB\nvol_flags=autoresize\n";
    fs::write(at.join("ubi.ini"), config).expect("a file");
    for geometry in [
        "-p 128KiB -m 2048",
        "-p 16KiB -m 512 -s 512",
        "-p 64KiB -m 1",
    ] {
        run(at, &format!("ubinize {geometry} -o image.ubi ubi.ini"));
        let bytes = read(at, "image.ubi");
        let payload = whole(&bytes, Kind::Ubi);
        assert_eq!(triples(&payload), [("ubi", 0, bytes.len() as u64)]);
    }
}

#[test]
fn a_disk_as_sgdisk_writes_it() {
    let bench = bench();
    let at = bench.path();
    let file = fs::File::create(at.join("disk")).expect("a file");
    file.set_len(8 << 20).expect("a length");
    run(
        at,
        "sgdisk -a 1 -n 1:512:+2M -n 2:6000:+3M -n 128:34:511 -t 128:ef02 disk",
    );
    let mut bytes = read(at, "disk");
    bytes[..2].copy_from_slice(&[0xeb, 0x63]);
    let payload = look(&bytes, None, Some(&["boot", "rootfs"])).expect("a GPT");
    let sector = 512;
    let parts = [
        ("boot", 512 * sector, 2 << 20),
        ("rootfs", 6000 * sector, 3 << 20),
    ];
    assert_eq!(
        (payload.kind, triples(&payload)),
        (Kind::Gpt, parts.to_vec())
    );
    run(at, "sgdisk -d 128 -m 1:2 disk");
    let mut bytes = read(at, "disk");
    bytes[..2].copy_from_slice(&[0xeb, 0x48]);
    let payload = look(&bytes, None, Some(&["boot", "rootfs"])).expect("an MBR");
    assert_eq!(
        (payload.kind, triples(&payload)),
        (Kind::Mbr, parts.to_vec())
    );
}
