//! Good images: what goes in comes out, however it arrives, and nothing depends on the build host.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use sysupgrade_rs::digest::Digest;
use sysupgrade_rs::image::{self, Encoding, ImageError};
use sysupgrade_rs::report::Reason;

use crate::images::{
    BLOCK, BOTH, contents, good, key, noise, places, read, reason, spec, trust_one, verified,
};

#[test]
fn a_good_image_hands_out_what_went_into_it() {
    for encoding in BOTH {
        let image = good(encoding);
        let outcome = read(image.as_slice(), &trust_one());
        outcome.result.unwrap();
        assert_eq!(
            outcome.parts,
            Vec::from_iter(contents().clone()),
            "{encoding:?}"
        );
        let (config, _) = outcome.config.unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(config.as_slice()));
        let mut entries = archive.entries().unwrap();
        let mut network = entries
            .find(|one| one.as_ref().unwrap().path().unwrap().ends_with("network"))
            .unwrap()
            .unwrap();
        let mut bytes = Vec::new();
        network.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, noise(200));
    }
}

#[test]
fn an_image_that_arrives_byte_by_byte_is_the_same_image() {
    struct Drip<'a>(&'a [u8], bool);
    impl Read for Drip<'_> {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let count = bytes.len().min(1);
            self.0.read(&mut bytes[..count])
        }
    }
    let image = good(Encoding::Deflate);
    let outcome = read(Drip(&image, false), &trust_one());
    outcome.result.unwrap();
    assert_eq!(outcome.parts, Vec::from_iter(contents().clone()));
}

#[test]
fn a_failing_source_is_not_a_damaged_image() {
    struct Failing<'a>(&'a [u8]);
    impl Read for Failing<'_> {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            match self.0.read(bytes) {
                Ok(0) => Err(io::ErrorKind::ConnectionReset.into()),
                other => other,
            }
        }
    }
    let image = good(Encoding::Plain);
    for end in [0, 700, image.len() / 2, image.len() - 1] {
        let error = read(Failing(&image[..end]), &trust_one())
            .result
            .unwrap_err();
        assert_eq!(error.reason(), Reason::SourceFailed, "{error}");
        match error {
            ImageError::Source { offset, source } => {
                assert_eq!(offset, end as u64);
                assert_eq!(source.kind(), io::ErrorKind::ConnectionReset);
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn trailing_bytes_are_ignored_up_to_96_kib() {
    let image = good(Encoding::Plain);
    for (len, wanted) in [
        (0, None),
        (1, None),
        (10 << 10, None),
        (96 << 10, None),
        ((96 << 10) + 1, Some(Reason::Damaged)),
        (1 << 20, Some(Reason::Damaged)),
    ] {
        let mut longer = image.clone();
        longer.extend(noise(len));
        assert_eq!(reason(&longer, &trust_one()), wanted, "{len} bytes");
    }
}

#[test]
fn an_image_that_tar_packed_again_is_still_signed() {
    let dir = tempfile::tempdir().unwrap();
    let image = good(Encoding::Plain);
    let order = dir.path().join("order");
    let names: Vec<String> = places(&image)
        .iter()
        .map(|place| format!("sysupgrade-acme_router-1/{}\n", place.name))
        .collect();
    fs::write(&order, names.concat()).unwrap();
    system_tar(&["-xf", "-", "-C", dir.path().to_str().unwrap()], &image);
    for format in ["ustar", "gnu", "oldgnu"] {
        let again = system_tar(
            &[
                "-cf",
                "-",
                "--no-recursion",
                &format!("--format={format}"),
                "-C",
                dir.path().to_str().unwrap(),
                "-T",
                order.to_str().unwrap(),
            ],
            &[],
        );
        assert_ne!(again, image, "owners and times differ");
        assert_eq!(reason(&again, &trust_one()), None, "{format}");
    }
}

fn system_tar(args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut tar = Command::new("tar")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    tar.stdin.take().unwrap().write_all(input).unwrap();
    let output = tar.wait_with_output().unwrap();
    assert!(output.status.success(), "tar {args:?}");
    output.stdout
}

#[test]
fn the_system_tar_reads_what_the_builder_writes() {
    let image = good(Encoding::Plain);
    let list = String::from_utf8(system_tar(&["-tf", "-"], &image)).unwrap();
    let wanted = [
        "",
        "manifest.json",
        "manifest.sig",
        "CONTROL",
        "config.tar.gz",
        "kernel.blocks",
        "kernel",
        "root.blocks",
        "root",
    ];
    let wanted: Vec<String> = wanted
        .iter()
        .map(|name| format!("sysupgrade-acme_router-1/{name}"))
        .collect();
    assert_eq!(Vec::from_iter(list.lines()), wanted);
    let root = system_tar(&["-xOf", "-", "sysupgrade-acme_router-1/root"], &image);
    assert_eq!(root, contents()["root"]);
    let control = system_tar(&["-xOf", "-", "sysupgrade-acme_router-1/CONTROL"], &image);
    assert_eq!(control, b"BOARD=acme_router-1\n");
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    for encoding in BOTH {
        let first = tempfile::tempdir().unwrap();
        let second = tempfile::tempdir().unwrap();
        let mut images = Vec::new();
        for (dir, files) in [
            (&first, ["b", "a", "c"]),
            (&second, ["c", "b", "a"]), // another order in the directory, other times
        ] {
            let spec = spec(dir.path(), encoding);
            let defaults = spec.defaults.clone().unwrap();
            for name in files {
                fs::write(defaults.join("etc").join(name), name).unwrap();
            }
            if dir.path() == second.path() {
                let file = fs::File::open(defaults.join("etc/a")).unwrap();
                file.set_modified(std::time::UNIX_EPOCH).unwrap();
            }
            let mut image = Vec::new();
            image::build(&spec, &[key(1)], &mut image).unwrap();
            images.push(image);
        }
        assert!(images[0] == images[1], "{encoding:?}");
    }
}

#[test]
fn the_format_stays_what_it_is() {
    // An image in format 1 as the first release wrote it, without what a new version of the
    // compressor might change.
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(dir.path(), Encoding::Plain);
    spec.defaults = None;
    let mut image = Vec::new();
    image::build(&spec, &[key(1)], &mut image).unwrap();
    assert_eq!(
        Digest::of(&image).to_string(),
        "9c3e81e0dd2dd1aa16443c187b03b15236c48d939443f20b5db250af54767281"
    );
}

#[test]
fn config_tar_gz_keeps_modes_and_links_and_no_owners_or_times() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(dir.path(), Encoding::Plain);
    let etc = spec.defaults.clone().unwrap().join("etc");
    fs::write(etc.join("shadow"), "root:x\n").unwrap();
    fs::set_permissions(etc.join("shadow"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(etc.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(etc.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("../tmp/resolv.conf", etc.join("resolv.conf")).unwrap();
    let mut image = Vec::new();
    image::build(&spec, &[key(1)], &mut image).unwrap();
    let (config, _) = read(image.as_slice(), &trust_one()).config.unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(config.as_slice()));
    let mut seen = Vec::new();
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header();
        assert_eq!(header.uid().unwrap(), 0);
        assert_eq!(header.gid().unwrap(), 0);
        assert_eq!(header.mtime().unwrap(), 0);
        let path = entry.path().unwrap().display().to_string();
        let link = header.link_name().unwrap();
        let link = link.map(|target| target.display().to_string());
        seen.push((path, header.mode().unwrap(), link));
    }
    let row = |path: &str, mode, link: Option<&str>| (path.to_owned(), mode, link.map(Into::into));
    for wanted in [
        row("etc/shadow", 0o600, None),
        row("etc/run.sh", 0o755, None),
        row("etc/resolv.conf", 0o777, Some("../tmp/resolv.conf")),
    ] {
        assert!(seen.contains(&wanted), "{wanted:?} is not in {seen:?}");
    }
    let mut sorted = seen.clone();
    sorted.sort();
    assert_eq!(seen, sorted);
}

#[test]
fn what_has_no_place_in_a_configuration_stops_the_build() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(dir.path(), Encoding::Plain);
    let pipe = spec.defaults.clone().unwrap().join("etc/pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let error = image::build(&spec, &[], &mut Vec::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{} is neither file, directory nor link", pipe.display())
    );
}

#[test]
fn the_builder_refuses_what_the_reader_would_refuse() {
    let dir = tempfile::tempdir().unwrap();
    let good = spec(dir.path(), Encoding::Plain);
    let refused = |change: &dyn Fn(&mut image::Spec)| {
        let mut spec = good.clone();
        change(&mut spec);
        let mut image = Vec::new();
        image::build(&spec, &[], &mut image).unwrap_err();
        assert_eq!(image, b"", "nothing is written of an image that cannot be");
    };
    refused(&|spec| spec.boards.clear());
    refused(&|spec| spec.boards[0] = "a/b".into());
    refused(&|spec| spec.version = "a\nb".into());
    refused(&|spec| spec.compat = "1".into());
    refused(&|spec| spec.block_size = 5000);
    refused(&|spec| spec.block_size = 0);
    refused(&|spec| spec.parts.clear());
    refused(&|spec| spec.parts[0].name = "Kernel".into());
    refused(&|spec| spec.parts[0].name = "../kernel".into());
    refused(&|spec| spec.parts[0].name = "config.tar.gz".into());
    refused(&|spec| spec.parts[0].name = "root".into());
    refused(&|spec| spec.parts[0].path = dir.path().join("missing"));
    let empty = dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    refused(&|spec| spec.parts[0].path = empty.clone());
}

#[test]
fn a_part_that_changes_while_it_is_packed_stops_the_build() {
    /// Changes a file when the image begins to be written: after its digests were made.
    struct Meddler<'a>(&'a Path);
    impl Write for Meddler<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            fs::write(self.0, noise(2 * BLOCK))?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(dir.path(), Encoding::Plain);
    let root = dir.path().join("root");
    let error = image::build(&spec, &[], &mut Meddler(&root)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{} changed while it was read", root.display())
    );
}

#[test]
fn the_largest_block_may_fail_to_shrink() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(dir.path(), Encoding::Deflate);
    spec.block_size = 1 << 20;
    fs::write(dir.path().join("root"), noise(3 << 20)).unwrap();
    let mut image = Vec::new();
    image::build(&spec, &[key(1)], &mut image).unwrap();
    verified(&image).check().unwrap();
}
