//! Any board file on simulated hardware.
//!
//! What the board keeps on an MTD or in a UBI volume gets a simulated chip, small enough to be cut
//! everywhere; what it keeps on disks becomes files, whose disk is simulated by
//! [`Disk`](super::Disk). Names, kinds and options stay; sizes, offsets and paths are ours.

use std::collections::BTreeMap;

use sysupgrade_rs::board::{
    Board, BootKind, Carrier, Data, FilePlace, Medium, Overlay, Place, Replace, Running, Store,
    Volume, VolumeType,
};

use super::chips::{Chips, NandFaults};
use crate::world::PART_SIZE;
use crate::world::router::{Flash, Result};

/// Bytes of an erase block, and of a page of NAND.
const ERASE: u32 = 4096;
const PAGE: u32 = 512;

/// Bytes of a logical erase block: no power of two, as on real ones, and whole pages.
const LEB: u32 = ERASE - 2 * PAGE;

/// Bytes of a copy of a U-Boot environment; of those on flash, so many erase blocks are theirs.
const ENVIRONMENT: u64 = 2048;
const ENVIRONMENT_BLOCKS: u64 = 3;

/// Erase blocks that a part has more than its image needs, to step over bad ones.
const SPARE_BLOCKS: u64 = 4;

/// What a raw MTD is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raw {
    Nor,
    /// With a factory-bad block in every part and in every copy of the environment.
    Nand,
}

/// A board that can be worked here, and its chips.
pub fn simulated(board: &Board, raw: Raw, seed: u64) -> (Board, Chips) {
    let mut plan = Plan::default();
    let mut board = board.clone();
    if let Some(data) = &mut board.data {
        *data = Data {
            dir: "/data/sysupgrade-rs".into(),
        };
    }
    board.trust.keys = vec!["/etc/sysupgrade-rs/keys".into()];
    board.trust.threshold = 1;
    board.config.defaults = Some("/rom".into());
    board.boot.running = Running::CommandLine("sysupgrade.slot".to_owned());
    board.boot.reboot = Vec::new();
    board.boot.tries = 3;
    if let Some(entries) = &mut board.boot.entries {
        *entries = "/flash/loader/entries".into();
    }
    if board.boot.fw_env_config.take().is_some() {
        let store = Store {
            place: Place::Path("/flash/env".into()),
            offset: 0,
            size: Some(ENVIRONMENT),
            window: None,
        };
        board.boot.store = vec![store.clone(), store];
    }
    for (index, store) in board.boot.store.iter_mut().enumerate() {
        match &mut store.place {
            Place::Path(path) => {
                *path = "/flash/env".into();
                store.offset = index as u64 * ENVIRONMENT;
            }
            Place::Mtd(mtd) => {
                store.offset = plan.raw(mtd, ENVIRONMENT_BLOCKS);
                store.window = Some(ENVIRONMENT_BLOCKS * u64::from(ERASE));
            }
            // Made when the factory writes it.
            Place::Ubi(volume) => plan.volume(volume, ENVIRONMENT, None),
        }
        if board.boot.kind == BootKind::UbootEnv {
            store.size = Some(ENVIRONMENT);
        }
    }
    for slot in &mut board.slots {
        let name = &slot.name;
        slot.running = None;
        for (part, medium) in &mut slot.parts {
            plan.medium(medium, &format!("{part}-{name}"));
        }
        if let Some(Carrier::Medium(medium)) = &mut slot.carrier {
            plan.medium(medium, &format!("carrier-{name}"));
        }
        match &mut slot.overlay {
            Some(Overlay::Dir(dir)) => *dir = format!("/data/overlay-{name}").into(),
            Some(Overlay::Ubifs(volume)) => {
                plan.volume(volume, u64::from(LEB), Some(VolumeType::Dynamic));
            }
            None => {}
        }
    }
    let chips = plan.solder(raw, seed);
    (board, chips)
}

/// What has to be on the chips.
#[derive(Default)]
struct Plan {
    /// Erase blocks of each range of an MTD.
    raw: BTreeMap<String, Vec<u64>>,
    volumes: BTreeMap<String, Vec<Wanted>>,
}

/// A volume of an MTD.
struct Wanted {
    name: String,
    /// Room that it takes.
    bytes: u64,
    /// What it is, if it is there from the begin.
    made: Option<VolumeType>,
}

impl Plan {
    /// Takes erase blocks of an MTD; where they begin.
    fn raw(&mut self, mtd: &str, blocks: u64) -> u64 {
        let ranges = self.raw.entry(mtd.to_owned()).or_default();
        let start = ranges.iter().sum::<u64>() * u64::from(ERASE);
        ranges.push(blocks);
        start
    }

    fn volume(&mut self, volume: &Volume, bytes: u64, made: Option<VolumeType>) {
        let volumes = self.volumes.entry(volume.mtd.clone()).or_default();
        volumes.push(Wanted {
            name: volume.volume.clone(),
            bytes,
            made,
        });
    }

    /// Finds a place for a part or a carrier.
    fn medium(&mut self, medium: &mut Medium, name: &str) {
        let bytes = PART_SIZE as u64;
        match medium {
            Medium::File(_) | Medium::Block(_) => {
                *medium = Medium::File(FilePlace {
                    path: format!("/flash/{name}").into(),
                });
            }
            Medium::Mtd(place) => {
                let blocks = bytes / u64::from(ERASE) + SPARE_BLOCKS;
                place.offset = self.raw(&place.mtd, blocks);
                place.size = Some(blocks * u64::from(ERASE));
            }
            Medium::Ubi(place) => {
                // One that can be made when it is needed is not there at first.
                let made = match place.size {
                    Some(_) => None,
                    None => Some(place.volume_type),
                };
                place.size = place.size.map(|_| bytes);
                self.volume(&place.volume(), bytes, made);
                if place.replace == Replace::Rename {
                    let [beside, _] = place.beside();
                    let mtd = place.mtd.clone();
                    let beside = Volume {
                        mtd,
                        volume: beside,
                    };
                    self.volume(&beside, bytes, None);
                }
            }
        }
    }

    fn solder(self, raw: Raw, seed: u64) -> Chips {
        let chips = Chips::new(seed);
        for (mtd, ranges) in self.raw {
            let size = ranges.iter().sum::<u64>() * u64::from(ERASE);
            match raw {
                Raw::Nor => chips.add_nor(&mtd, size, ERASE),
                Raw::Nand => {
                    let mut start = 0;
                    let bad = ranges.iter().map(|blocks| {
                        let block = usize::try_from(start + 1).expect("a small chip");
                        start += blocks;
                        block
                    });
                    let faults = NandFaults {
                        factory_bad: bad.collect(),
                    };
                    chips.add_nand(&mtd, size, ERASE, PAGE, &faults);
                }
            }
        }
        for (mtd, volumes) in self.volumes {
            let blocks = volumes
                .iter()
                .map(|wanted| wanted.bytes.div_ceil(u64::from(LEB)));
            let blocks = u32::try_from(blocks.sum::<u64>()).expect("a small chip");
            chips.add_ubi(&mtd, LEB, blocks);
            for Wanted { name, bytes, made } in volumes {
                if let Some(volume_type) = made {
                    chips.put_volume(&mtd, &name, volume_type, bytes, b"");
                }
            }
        }
        chips
    }
}

impl Flash for Chips {
    fn power_cycle(&self) {
        self.power_cycle();
    }

    fn put(&self, place: &Place, offset: u64, bytes: &[u8]) {
        match place {
            Place::Path(path) => panic!("{} is on no chip", path.display()),
            Place::Mtd(mtd) => self.put(mtd, offset, bytes),
            Place::Ubi(Volume { mtd, volume }) => {
                let room = bytes.len() as u64;
                self.put_volume(mtd, volume, VolumeType::Dynamic, room, bytes);
            }
        }
    }

    fn read(&self, medium: &Medium) -> Result<Vec<u8>> {
        match medium {
            Medium::Ubi(place) => {
                let content = self.volume(&place.mtd, &place.volume);
                Ok(content.ok_or("there is no such volume")??)
            }
            Medium::Mtd(place) => {
                // The longest begin of it that can be read: most of the time nearly all.
                let pages = place.size.unwrap_or_default() / u64::from(PAGE);
                let read = |pages| self.part(&place.mtd, place.offset, pages * u64::from(PAGE));
                let begin = (1..=pages).rev().find_map(|pages| read(pages).ok());
                Ok(begin.unwrap_or_default())
            }
            other => Err(format!("{other:?} is on no chip").into()),
        }
    }
}
