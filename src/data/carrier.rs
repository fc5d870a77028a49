//! Archives on boards whose slots share no file system: each slot has a carrier, in which the
//! archive on its way into that slot lies.
//!
//! On a medium of its own the archive is framed, from the first byte of the medium on. Numbers are
//! big-endian, whatever the processor.
//!
//! ```text
//! offset  bytes
//!      0      8  magic, "SYSUPARC"
//!      8      4  version of the frame, 1
//!     12      8  length of the archive; 0: there is none
//!     20     32  SHA-256 of the archive
//!     52      4  CRC-32 (IEEE 802.3) of the 52 bytes before
//!     56    len  archive
//! ```
//!
//! What follows is not looked at. A frame is written in one go, and believed only where it agrees
//! with the record of the slot: whatever a cut leaves of one is either refused or was never recorded.
//! An archive that is not needed any more is overwritten, since there are passwords in it.
//!
//! In an overlay the archive is a file beside `upper`, [`FILE`].

use std::io::{self, Cursor, Read, Write};
use std::path::PathBuf;
use std::rc::Rc;

use byteorder::{BigEndian, ByteOrder};

use super::{ArchiveRef, DataError, MODE};
use crate::board::{Carrier, SlotSpec};
use crate::digest::Digest;
use crate::files::{self, NewFile};
use crate::flash::{self, Chips, Device};

/// Name of an archive in an overlay. (Stock OpenWrt takes `sysupgrade.tgz` there for its own.)
pub const FILE: &str = "sysupgrade-rs-archive.tar.gz";

/// Bytes of the head.
pub const HEAD_LEN: usize = 56;

const MAGIC: &[u8; 8] = b"SYSUPARC";
const VERSION: u32 = 1;
const CRC_AT: usize = HEAD_LEN - 4;

/// What an erased flash is: a carrier that never held anything is not written to make it empty.
const BLANK: u8 = 0xff;

/// The head of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head(
    /// The archive that follows.
    pub ArchiveRef,
);

impl Head {
    /// The bytes of it.
    #[must_use]
    pub fn encode(&self) -> [u8; HEAD_LEN] {
        let mut bytes = [0; HEAD_LEN];
        bytes[..8].copy_from_slice(MAGIC);
        BigEndian::write_u32(&mut bytes[8..12], VERSION);
        BigEndian::write_u64(&mut bytes[12..20], self.0.size);
        bytes[20..CRC_AT].copy_from_slice(&self.0.sha256.0);
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        BigEndian::write_u32(&mut bytes[CRC_AT..], crc);
        bytes
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it, lower case, no full stop.
    pub fn decode(bytes: &[u8; HEAD_LEN]) -> Result<Self, String> {
        if &bytes[..8] != MAGIC {
            return Err("it holds no archive".to_owned());
        }
        let version = BigEndian::read_u32(&bytes[8..12]);
        if version != VERSION {
            return Err(format!(
                "its frame has version {version}, known is {VERSION}"
            ));
        }
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        let stored = BigEndian::read_u32(&bytes[CRC_AT..]);
        if crc != stored {
            return Err(format!(
                "the head of its frame is damaged: its CRC is {stored:08x}, its bytes have {crc:08x}"
            ));
        }
        let mut sha256 = Digest([0; 32]);
        sha256.0.copy_from_slice(&bytes[20..CRC_AT]);
        Ok(Self(ArchiveRef {
            size: BigEndian::read_u64(&bytes[12..20]),
            sha256,
        }))
    }

    fn empty() -> Self {
        Self(ArchiveRef {
            size: 0,
            sha256: Digest::of(b""),
        })
    }
}

/// The carriers of a machine, opened when they are needed.
pub(super) struct Carriers {
    pub(super) root: PathBuf,
    pub(super) chips: Rc<dyn Chips>,
    pub(super) slots: Vec<SlotSpec>,
}

/// A carrier, opened.
enum Place {
    /// The overlay, whose directory this is.
    Overlay(PathBuf),
    Medium(Box<dyn Device>),
}

impl Carriers {
    fn spec(&self, slot: &str) -> Option<&SlotSpec> {
        self.slots.iter().find(|spec| spec.name == slot)
    }

    fn open(&self, slot: &str) -> Result<Place, DataError> {
        let failed = |source| DataError::Flash {
            slot: slot.to_owned(),
            source,
        };
        let spec = self.spec(slot);
        match spec.and_then(|spec| Some((spec.carrier.as_ref()?, &spec.overlay))) {
            Some((Carrier::Medium(medium), _)) => {
                let device = flash::open(&self.root, &*self.chips, medium);
                Ok(Place::Medium(device.map_err(failed)?))
            }
            Some((Carrier::Overlay, Some(overlay))) => {
                let dir = flash::overlay_dir(&self.root, &*self.chips, overlay);
                Ok(Place::Overlay(dir.map_err(failed)?))
            }
            // Refused when the board file was read.
            _ => Err(damaged(slot, "the board file has none".to_owned())),
        }
    }

    /// How long an archive of this slot may be, once what is in the overlay now is gone.
    pub(super) fn room(&self, slot: &str) -> Result<u64, DataError> {
        Ok(match self.open(slot)? {
            Place::Medium(device) => device.capacity().saturating_sub(HEAD_LEN as u64),
            Place::Overlay(dir) => files::free_space(&dir)?.saturating_add(files::tree_size(&dir)?),
        })
    }

    /// Where the archive of a slot is.
    pub(super) fn describe(&self, slot: &str) -> String {
        match self.spec(slot).and_then(|spec| spec.carrier.as_ref()) {
            Some(Carrier::Medium(medium)) => medium.to_string(),
            Some(Carrier::Overlay) => format!("{FILE} in its overlay"),
            None => "none".to_owned(),
        }
    }

    pub(super) fn new_archive(&self, slot: &str) -> Result<NewCarried, DataError> {
        Ok(match self.open(slot)? {
            Place::Overlay(dir) => {
                files::make_dirs(&dir, 0o755)?;
                NewCarried::File(NewFile::create(&dir.join(FILE), MODE)?)
            }
            Place::Medium(device) => NewCarried::Frame(Frame {
                slot: slot.to_owned(),
                room: device.capacity().saturating_sub(HEAD_LEN as u64),
                device,
                archive: Vec::new(),
            }),
        })
    }

    pub(super) fn open_archive(
        &self,
        slot: &str,
        wanted: &ArchiveRef,
    ) -> Result<Box<dyn Read>, DataError> {
        Ok(match self.open(slot)? {
            Place::Overlay(dir) => Box::new(files::open_past_cache(&dir.join(FILE))?),
            Place::Medium(mut device) => Box::new(read_frame(slot, &mut *device, wanted)?),
        })
    }

    /// Leaves nothing of any archive. On a medium, all of it is made blank behind an empty frame:
    /// what is blank already is only read, and what an earlier run left there is found, whatever it
    /// is. After a cut this is to be done again.
    pub(super) fn remove_archive(&self, slot: &str) -> Result<(), DataError> {
        match self.open(slot)? {
            Place::Overlay(dir) => Ok(files::remove_durably(&dir.join(FILE))?),
            Place::Medium(mut device) => {
                let len = device.capacity();
                let head = Head::empty().encode();
                let mut blank = head.as_slice().chain(io::repeat(BLANK)).take(len);
                write(slot, &mut *device, &mut blank, len)
            }
        }
    }
}

fn write(
    slot: &str,
    device: &mut dyn Device,
    source: &mut dyn Read,
    len: u64,
) -> Result<(), DataError> {
    let written = device.write_image(source, len, None);
    written.map(drop).map_err(|source| DataError::Flash {
        slot: slot.to_owned(),
        source,
    })
}

fn damaged(slot: &str, problem: String) -> DataError {
    DataError::Carrier {
        slot: slot.to_owned(),
        problem,
    }
}

/// Reads a framed archive, which must be the one that is wanted. No more is read than that one has.
fn read_frame(
    slot: &str,
    device: &mut dyn Device,
    wanted: &ArchiveRef,
) -> Result<Cursor<Vec<u8>>, DataError> {
    let mut read = |len: u64| {
        let mut bytes = Vec::new();
        let read = device.read_image(0..len, &mut bytes);
        read.map(|()| bytes).map_err(|source| DataError::Flash {
            slot: slot.to_owned(),
            source,
        })
    };
    let head = read(HEAD_LEN as u64)?;
    let head = head.as_slice().try_into();
    let head = head.map_err(|_| damaged(slot, "it is too short for a frame".to_owned()))?;
    let Head(found) = Head::decode(head).map_err(|problem| damaged(slot, problem))?;
    if found != *wanted {
        let told =
            |archive: &ArchiveRef| format!("{} bytes with sha256 {}", archive.size, archive.sha256);
        let problem = format!(
            "it holds {}, the install saved {}",
            told(&found),
            told(wanted)
        );
        return Err(damaged(slot, problem));
    }
    let end = wanted.size.checked_add(HEAD_LEN as u64);
    let end = end.ok_or_else(|| damaged(slot, "its archive is too long".to_owned()))?;
    let bytes = read(end)?;
    let archive = bytes.get(HEAD_LEN..).unwrap_or_default();
    let sha256 = Digest::of(archive);
    if archive.len() as u64 != wanted.size || sha256 != wanted.sha256 {
        let problem = format!(
            "its archive is damaged: it has sha256 {sha256}, the install saved {}",
            wanted.sha256
        );
        return Err(damaged(slot, problem));
    }
    let mut archive = Cursor::new(bytes);
    archive.set_position(HEAD_LEN as u64);
    Ok(archive)
}

/// An archive that is being written.
pub(super) enum NewCarried {
    File(NewFile),
    Frame(Frame),
}

/// A framed archive; it is collected, since a medium wants to know the length first.
pub(super) struct Frame {
    slot: String,
    device: Box<dyn Device>,
    room: u64,
    archive: Vec<u8>,
}

impl Frame {
    pub(super) fn commit(mut self) -> Result<(), DataError> {
        let head = Head(ArchiveRef {
            size: self.archive.len() as u64,
            sha256: Digest::of(&self.archive),
        });
        let head = head.encode();
        let mut frame = head.as_slice().chain(self.archive.as_slice());
        let len = (HEAD_LEN + self.archive.len()) as u64;
        write(&self.slot, &mut *self.device, &mut frame, len)
    }
}

impl Write for Frame {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let need = self.archive.len() as u64 + bytes.len() as u64;
        if need > self.room {
            let problem = format!(
                "the carrier of slot {} has room for {} bytes, the archive has {need} or more",
                self.slot, self.room
            );
            return Err(io::Error::new(io::ErrorKind::StorageFull, problem));
        }
        self.archive.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
