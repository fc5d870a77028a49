//! Writing raw flash takes the same little memory whatever the size of the image, with the largest
//! erase blocks there are. One test, for it measures this process.

use std::io::{self, Read, Write};

use sysupgrade_rs::board::{MtdPlace, Replace, UbiPlace, VolumeType};
use sysupgrade_rs::flash::mtd::{Geometry, Kind, RawMtd};
use sysupgrade_rs::flash::ubi::{RawUbi, UbiInfo, VolumeInfo};
use sysupgrade_rs::flash::{Device, MtdDevice, UbiDevice};
use sysupgrade_rs::sys;

/// An erase block of large NAND chips, and a page.
const ERASE: u32 = 256 << 10;
const PAGE: u32 = 4096;

const MIB: u64 = 1 << 20;

/// A chip that holds nothing: it is written, and reads as zeros.
struct Bottomless(Geometry);

impl RawMtd for Bottomless {
    fn geometry(&self) -> &Geometry {
        &self.0
    }

    fn is_bad(&mut self, offset: u64) -> io::Result<bool> {
        Ok(offset == u64::from(ERASE))
    }

    fn mark_bad(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn erase(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn program(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn read(&mut self, _: u64, bytes: &mut [u8]) -> io::Result<u32> {
        bytes.fill(0);
        Ok(0)
    }
}

/// The same behind UBI.
struct BottomlessUbi;

const LEB: u32 = ERASE - 2 * PAGE;

impl RawUbi for BottomlessUbi {
    fn info(&mut self) -> io::Result<UbiInfo> {
        Ok(UbiInfo {
            mtd: "ubi".to_owned(),
            leb_size: LEB,
            min_io_size: PAGE,
            available: 0,
            writable: true,
        })
    }

    fn volume(&mut self, name: &str) -> io::Result<Option<VolumeInfo>> {
        let reserved = 2048;
        Ok((name == "root").then(|| VolumeInfo {
            name: name.to_owned(),
            volume_type: VolumeType::Dynamic,
            reserved,
            usable_leb_size: LEB,
            data_bytes: u64::from(reserved) * u64::from(LEB),
            damaged: false,
        }))
    }

    fn create(&mut self, _: &str, _: VolumeType, _: u64) -> io::Result<()> {
        unreachable!("it is there")
    }

    fn remove(&mut self, _: &str) -> io::Result<()> {
        unreachable!("it stays")
    }

    fn resize(&mut self, _: &str, _: u64) -> io::Result<()> {
        unreachable!("it is large enough")
    }

    fn rename(&mut self, _: &[(&str, &str)]) -> io::Result<()> {
        unreachable!("it has its name")
    }

    fn update(&mut self, _: &str, _: u64, _: &mut dyn Read) -> io::Result<io::Result<()>> {
        unreachable!("a dynamic volume is written block by block")
    }

    fn change_block(&mut self, _: &str, _: u32, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn read(&mut self, _: &str, _: u64, bytes: &mut [u8]) -> io::Result<()> {
        bytes.fill(0);
        Ok(())
    }

    fn release_block_device(&mut self, _: &str) -> io::Result<()> {
        Ok(())
    }
}

fn nand() -> Box<dyn Device> {
    let geometry = Geometry {
        name: "root".to_owned(),
        kind: Kind::Nand,
        size: 512 * MIB,
        erase_size: ERASE,
        page_size: PAGE,
        bitflip_threshold: 3,
        writable: true,
    };
    let place = MtdPlace {
        mtd: "root".to_owned(),
        offset: 0,
        size: None,
        header_last: true,
    };
    let device = MtdDevice::new(Box::new(Bottomless(geometry)), &place);
    Box::new(device.expect("a good chip"))
}

fn ubi() -> Box<dyn Device> {
    let place = UbiPlace {
        mtd: "ubi".to_owned(),
        volume: "root".to_owned(),
        size: None,
        volume_type: VolumeType::Dynamic,
        replace: Replace::InPlace,
    };
    Box::new(UbiDevice::new(Box::new(BottomlessUbi), &place).expect("a good volume"))
}

/// Writes and reads back an image of so many bytes; the most memory that this process has had since
/// it began.
fn pass(mut device: Box<dyn Device>, len: u64) -> u64 {
    let written = device
        .write_image(&mut io::repeat(0x5a), len, None)
        .expect("written");
    assert_eq!(written.written, len, "all of it differs");
    device.read_image(0..len, &mut io::sink()).expect("read");
    sys::peak_memory().expect("/proc is mounted")
}

#[test]
fn memory_stays_flat_with_erase_blocks_of_256_kib() {
    let before = sys::peak_memory().expect("/proc is mounted");
    for (what, open) in [("NAND", nand as fn() -> Box<dyn Device>), ("UBI", ubi)] {
        let small = pass(open(), 4 * MIB);
        let large = pass(open(), 256 * MIB);
        writeln!(
            io::stderr(),
            "{what}, erase blocks of 256 KiB: {} KiB before, {} KiB after 4 MiB, {} KiB after 256 MiB",
            before >> 10,
            small >> 10,
            large >> 10,
        )
        .expect("stderr");
        // Three erase blocks with the header held back, and what an allocator needs.
        assert!(
            small.saturating_sub(before) < 2 * MIB,
            "{what}: {} KiB",
            small.saturating_sub(before) >> 10
        );
        assert!(
            large.saturating_sub(small) < MIB / 4,
            "{what}: {} KiB more",
            large.saturating_sub(small) >> 10
        );
    }
}
