//! What neither std nor rustix has of the kernel: some requests to devices, and a few numbers. The only
//! unsafe code of the crate.
#![allow(unsafe_code, reason = "this file is where it lives")]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::ioctl::opcode::{none, read, read_write, write};
use rustix::ioctl::{Ioctl, IoctlOutput, NoArg, Opcode, Setter};

/// `BLKFLSBUF` of linux/fs.h: `_IO(0x12, 97)`, no argument.
const BLKFLSBUF: Opcode = none(0x12, 97);

/// Writes back and drops the kernel's buffers of a block device.
///
/// # Errors
/// When the kernel refuses (needs `CAP_SYS_ADMIN`).
pub fn flush_block_buffers(device: &File) -> io::Result<()> {
    // SAFETY: BLKFLSBUF takes no argument and touches no memory of this process, on 32 and 64 bit alike.
    unsafe { rustix::ioctl::ioctl(device.as_fd(), NoArg::<BLKFLSBUF>::new()) }?;
    Ok(())
}

/// `BLKDISCARD` of linux/fs.h: `_IO(0x12, 119)`, with the address of two 64-bit numbers all the same.
const BLKDISCARD: Opcode = none(0x12, 119);

/// Tells a block device that nobody needs this range of it any more. Both numbers are in bytes and
/// multiples of the logical block.
///
/// # Errors
/// When the device knows no discard, or the file is none.
pub fn discard(device: &File, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: the kernel reads two u64 (blk_ioctl_discard: `uint64_t range[2]`), in the byte order of the
    // machine and of this size on 32 and 64 bit alike; they live in the `Setter` during the call.
    unsafe {
        let range = Setter::<BLKDISCARD, [u64; 2]>::new([offset, len]);
        rustix::ioctl::ioctl(device.as_fd(), range)
    }?;
    Ok(())
}

/// Starts writing a range of a file to its medium and returns at once. Only a hint: failures show
/// when the file is synced.
pub fn start_writeback(file: &File, offset: u64, len: u64) {
    use std::os::fd::AsRawFd;
    let (Ok(offset), Ok(len)) = (offset.try_into(), len.try_into()) else {
        return;
    };
    // SAFETY: the descriptor is open as long as `file` is borrowed; the call takes numbers only, and
    // libc passes 64-bit offsets in the registers that each architecture wants.
    let _ = unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE)
    };
}

// Watchdogs, linux/watchdog.h. The numbers are `int`s: 32 bits everywhere.

/// `struct watchdog_info`
#[repr(C)]
struct WatchdogInfo {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}
const _: () = assert!(size_of::<WatchdogInfo>() == 40);

const WDIOC_GETSUPPORT: Opcode = read::<WatchdogInfo>(b'W', 0);
const WDIOC_SETTIMEOUT: Opcode = read_write::<i32>(b'W', 6);
const WDIOC_GETTIMEOUT: Opcode = read::<i32>(b'W', 7);

/// `WDIOF_MAGICCLOSE`: to close the device does not stop it, unless a `V` was written before.
const WDIOF_MAGICCLOSE: u32 = 0x0100;

/// `WDIOF_CARDRESET` in the status of the last boot: it was the watchdog that reset the machine.
pub const WDIOF_CARDRESET: u32 = 0x0020;

/// Sets how many seconds a watchdog waits to be fed; returns what it takes that for.
/// (`WDIOC_SETTIMEOUT`)
///
/// # Errors
/// `EINVAL` for more than it can, `EOPNOTSUPP` if it cannot be set.
pub fn watchdog_set_timeout(device: &File, seconds: u32) -> io::Result<u32> {
    let mut seconds = i32::try_from(seconds).map_err(|_| Errno::INVAL)?;
    // SAFETY: WDIOC_SETTIMEOUT reads and writes an int.
    unsafe { request::<WDIOC_SETTIMEOUT, _>(device, &mut seconds) }?;
    u32::try_from(seconds).map_err(|_| Errno::INVAL.into())
}

/// How many seconds a watchdog waits to be fed. (`WDIOC_GETTIMEOUT`)
///
/// # Errors
/// When it does not say.
pub fn watchdog_timeout(device: &File) -> io::Result<u32> {
    let mut seconds: i32 = 0;
    // SAFETY: WDIOC_GETTIMEOUT writes an int.
    unsafe { request::<WDIOC_GETTIMEOUT, _>(device, &mut seconds) }?;
    u32::try_from(seconds).map_err(|_| Errno::INVAL.into())
}

/// True if a watchdog goes on when its device is closed without a word. (`WDIOC_GETSUPPORT`)
///
/// # Errors
/// When it does not say.
pub fn watchdog_outlives_close(device: &File) -> io::Result<bool> {
    let mut info = WatchdogInfo {
        options: 0,
        firmware_version: 0,
        identity: [0; 32],
    };
    // SAFETY: WDIOC_GETSUPPORT writes a watchdog_info, of which any bits are valid.
    unsafe { request::<WDIOC_GETSUPPORT, _>(device, &mut info) }?;
    Ok(info.options & WDIOF_MAGICCLOSE != 0)
}

/// The most memory this process has had resident, in bytes; `None` where `/proc` is not mounted.
///
/// `getrusage` would not do: its `ru_maxrss` begins with what the process had before `execve`, which is
/// the memory of the web server or the shell that started it.
#[must_use]
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

/// A request that points at a `T`, and answers with a number that is not negative.
struct Pointing<'a, const OPCODE: Opcode, T>(&'a mut T);

// SAFETY: the pointer is that of a live `T` that nobody else looks at until the request is over; whether
// a `T` is what OPCODE takes is what callers of `request` vouch for.
unsafe impl<const OPCODE: Opcode, T> Ioctl for Pointing<'_, OPCODE, T> {
    type Output = u32;

    // The kernel may write to it.
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        OPCODE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self.0).cast()
    }

    unsafe fn output_from_ptr(answer: IoctlOutput, _: *mut c_void) -> rustix::io::Result<u32> {
        u32::try_from(answer).map_err(|_| Errno::INVAL)
    }
}

/// Sends a request to a device.
///
/// # Safety
/// What OPCODE reads and writes at its pointer must be a `T`: same size, same layout, any bits valid.
unsafe fn request<const OPCODE: Opcode, T>(device: &File, argument: &mut T) -> io::Result<u32> {
    // SAFETY: as above. A driver that does not know the request answers ENOTTY and touches nothing.
    Ok(unsafe { rustix::ioctl::ioctl(device.as_fd(), Pointing::<OPCODE, T>(argument)) }?)
}

// MTD, mtd/mtd-abi.h. Every structure here is the same on all architectures: its members lie at multiples
// of their sizes, and its size is a multiple of the largest, so that it makes no difference that i386
// aligns 64-bit numbers to 4 bytes only.

/// `struct erase_info_user`, for the requests that never got a 64-bit form.
#[repr(C)]
struct Range32 {
    start: u32,
    len: u32,
}
const _: () = assert!(size_of::<Range32>() == 8);

/// `struct erase_info_user64`
#[repr(C)]
struct Range64 {
    start: u64,
    len: u64,
}
const _: () = assert!(size_of::<Range64>() == 16);

/// What error correction has seen since the chip was found (`struct mtd_ecc_stats`). The numbers wrap.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct EccStats {
    /// Bits that were corrected.
    pub corrected: u32,
    /// Pages, or the pieces of them that are corrected as one, that could not be corrected.
    pub failed: u32,
    /// Blocks that are marked bad.
    pub bad_blocks: u32,
    /// Blocks that hold the table of bad blocks.
    pub table_blocks: u32,
}
const _: () = assert!(size_of::<EccStats>() == 16);

const MEMLOCK: Opcode = write::<Range32>(b'M', 5);
const MEMUNLOCK: Opcode = write::<Range32>(b'M', 6);
/// The argument is a `__kernel_loff_t`: 64 bits everywhere.
const MEMGETBADBLOCK: Opcode = write::<i64>(b'M', 11);
const MEMSETBADBLOCK: Opcode = write::<i64>(b'M', 12);
const ECCGETSTATS: Opcode = read::<EccStats>(b'M', 18);
const MEMERASE64: Opcode = write::<Range64>(b'M', 20);
/// Its number says that the kernel writes the structure; it reads it, and returns the answer.
const MEMISLOCKED: Opcode = read::<Range32>(b'M', 23);

fn signed(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| Errno::OVERFLOW.into())
}

fn range32(start: u64, len: u64) -> io::Result<Range32> {
    match (u32::try_from(start), u32::try_from(len)) {
        (Ok(start), Ok(len)) => Ok(Range32 { start, len }),
        _ => Err(Errno::OVERFLOW.into()),
    }
}

/// Erases whole blocks of an MTD. (`MEMERASE64`)
///
/// # Errors
/// `EIO` for a block that is marked bad or does not take it, `EINVAL` for what is not whole blocks, `EROFS`
/// for a locked one.
pub fn mtd_erase(device: &File, start: u64, len: u64) -> io::Result<()> {
    // SAFETY: MEMERASE64 reads an erase_info_user64.
    unsafe { request::<MEMERASE64, _>(device, &mut Range64 { start, len }) }.map(drop)
}

/// True if the block of an MTD at `offset` is marked bad. (`MEMGETBADBLOCK`)
///
/// # Errors
/// `EOPNOTSUPP` where blocks do not go bad.
pub fn mtd_is_bad(device: &File, offset: u64) -> io::Result<bool> {
    // SAFETY: MEMGETBADBLOCK reads a loff_t.
    let answer = unsafe { request::<MEMGETBADBLOCK, _>(device, &mut signed(offset)?) }?;
    Ok(answer != 0)
}

/// Marks the block of an MTD at `offset` bad. (`MEMSETBADBLOCK`)
///
/// # Errors
/// `EOPNOTSUPP` where blocks do not go bad.
pub fn mtd_mark_bad(device: &File, offset: u64) -> io::Result<()> {
    // SAFETY: MEMSETBADBLOCK reads a loff_t.
    unsafe { request::<MEMSETBADBLOCK, _>(device, &mut signed(offset)?) }.map(drop)
}

/// What error correction has seen on an MTD; zeros where there is none. (`ECCGETSTATS`)
///
/// # Errors
/// When it is no MTD.
pub fn mtd_ecc_stats(device: &File) -> io::Result<EccStats> {
    let mut stats = EccStats::default();
    // SAFETY: ECCGETSTATS writes an mtd_ecc_stats, of which any bits are valid.
    unsafe { request::<ECCGETSTATS, _>(device, &mut stats) }?;
    Ok(stats)
}

/// True if all of a range of an MTD is protected from writing. (`MEMISLOCKED`)
///
/// # Errors
/// `EOPNOTSUPP` where nothing can be locked; `EOVERFLOW` past 4 GiB, where nothing that can be locked is.
pub fn mtd_is_locked(device: &File, start: u64, len: u64) -> io::Result<bool> {
    // SAFETY: MEMISLOCKED reads an erase_info_user.
    let answer = unsafe { request::<MEMISLOCKED, _>(device, &mut range32(start, len)?) }?;
    Ok(answer != 0)
}

/// Protects a range of an MTD from writing. (`MEMLOCK`)
///
/// # Errors
/// As [`mtd_is_locked`]; `EINVAL` for a range that the chip cannot lock without others.
pub fn mtd_lock(device: &File, start: u64, len: u64) -> io::Result<()> {
    // SAFETY: MEMLOCK reads an erase_info_user.
    unsafe { request::<MEMLOCK, _>(device, &mut range32(start, len)?) }.map(drop)
}

/// Takes the protection of a range away. (`MEMUNLOCK`)
///
/// # Errors
/// As [`mtd_lock`].
pub fn mtd_unlock(device: &File, start: u64, len: u64) -> io::Result<()> {
    // SAFETY: MEMUNLOCK reads an erase_info_user.
    unsafe { request::<MEMUNLOCK, _>(device, &mut range32(start, len)?) }.map(drop)
}

// UBI, mtd/ubi-user.h.

/// Longest name of a volume, in bytes (`UBI_MAX_VOLUME_NAME`).
pub const UBI_MAX_NAME: usize = 127;

/// How many volumes can be renamed at one instant (`UBI_MAX_RNVOL`).
pub const UBI_MAX_RENAMES: usize = 32;

/// `UBI_VOL_NUM_AUTO` and `UBI_DEV_NUM_AUTO`: the kernel takes the first free number.
const UBI_AUTO: i32 = -1;

/// A volume whose every block can be written at any time (`UBI_DYNAMIC_VOLUME`).
pub const UBI_DYNAMIC: i8 = 3;

/// A volume that is written as a whole, with checksums (`UBI_STATIC_VOLUME`).
pub const UBI_STATIC: i8 = 4;

/// `UBI_UNKNOWN` of the headers before Linux 3.7: no guess how long the content will live. Later kernels
/// ignore it, earlier ones refuse a zero.
const UBI_ANY_LIFETIME: i8 = 3;

/// `struct ubi_attach_req`
#[repr(C)]
struct Attach {
    ubi_num: i32,
    mtd_num: i32,
    vid_hdr_offset: i32,
    max_beb_per1024: i16,
    disable_fm: i8,
    padding: [i8; 9],
}
const _: () = assert!(size_of::<Attach>() == 24);

/// A name as UBI takes it: with a zero byte at its end.
type UbiName = [u8; UBI_MAX_NAME + 1];

/// `struct ubi_mkvol_req`. It is declared as packed, and would be no different if it were not.
#[repr(C)]
struct MakeVolume {
    vol_id: i32,
    alignment: i32,
    bytes: i64,
    vol_type: i8,
    flags: u8,
    name_len: i16,
    padding: [i8; 4],
    name: UbiName,
}
const _: () = assert!(size_of::<MakeVolume>() == 152);

/// `struct ubi_rsvol_req`. Packed: its size is a part of the request's number, and without it would be
/// 12 on i386 and 16 elsewhere.
#[repr(C, packed)]
struct ResizeVolume {
    bytes: i64,
    vol_id: i32,
}
const _: () = assert!(size_of::<ResizeVolume>() == 12);

/// One entry of `struct ubi_rnvol_req`.
#[repr(C)]
#[derive(Clone, Copy)]
struct NewName {
    vol_id: i32,
    name_len: i16,
    padding: [i8; 2],
    name: UbiName,
}
const _: () = assert!(size_of::<NewName>() == 136);

/// `struct ubi_rnvol_req`
#[repr(C)]
struct RenameVolumes {
    count: i32,
    padding: [i8; 12],
    entries: [NewName; UBI_MAX_RENAMES],
}
const _: () = assert!(size_of::<RenameVolumes>() == 16 + 32 * 136);

/// `struct ubi_leb_change_req`
#[repr(C)]
struct ChangeBlock {
    lnum: i32,
    bytes: i32,
    dtype: i8,
    padding: [i8; 7],
}
const _: () = assert!(size_of::<ChangeBlock>() == 16);

const UBI_IOCMKVOL: Opcode = write::<MakeVolume>(b'o', 0);
const UBI_IOCRMVOL: Opcode = write::<i32>(b'o', 1);
const UBI_IOCRSVOL: Opcode = write::<ResizeVolume>(b'o', 2);
const UBI_IOCRNVOL: Opcode = write::<RenameVolumes>(b'o', 3);
const UBI_IOCATT: Opcode = write::<Attach>(b'o', 64);
const UBI_IOCVOLUP: Opcode = write::<i64>(b'O', 0);
/// Its number says 4 bytes; the kernel reads a whole `struct ubi_leb_change_req`.
const UBI_IOCEBCH: Opcode = write::<i32>(b'O', 2);
const UBI_IOCVOLRMBLK: Opcode = none(b'O', 8);

/// A name in the form that UBI takes, and its length.
fn ubi_name(name: &str) -> io::Result<(UbiName, i16)> {
    let mut field = [0; UBI_MAX_NAME + 1];
    let len = i16::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
    match field.get_mut(..name.len()) {
        // The kernel looks for the zero itself, and refuses a name that has one inside.
        Some(start) if name.len() <= UBI_MAX_NAME => start.copy_from_slice(name.as_bytes()),
        _ => return Err(Errno::NAMETOOLONG.into()),
    }
    Ok((field, len))
}

/// Attaches UBI to the MTD of this number, and says which number UBI got. An MTD of which every block is
/// erased gets its volume table. (`UBI_IOCATT`, to `/dev/ubi_ctrl`)
///
/// # Errors
/// `EEXIST` if it is attached, others when it is no UBI.
pub fn ubi_attach(control: &File, mtd: i32) -> io::Result<i32> {
    let mut attach = Attach {
        ubi_num: UBI_AUTO,
        mtd_num: mtd,
        vid_hdr_offset: 0,
        max_beb_per1024: 0,
        disable_fm: 0,
        padding: [0; 9],
    };
    // SAFETY: UBI_IOCATT reads an ubi_attach_req, and writes a number into its first member.
    unsafe { request::<UBI_IOCATT, _>(control, &mut attach) }?;
    Ok(attach.ubi_num)
}

/// Makes a volume and says its number. (`UBI_IOCMKVOL`, to `/dev/ubiX`)
///
/// # Errors
/// `ENOSPC`, `EEXIST`, `EINVAL` for no bytes at all, `ENAMETOOLONG`.
pub fn ubi_make_volume(ubi: &File, name: &str, vol_type: i8, bytes: u64) -> io::Result<i32> {
    let (name, name_len) = ubi_name(name)?;
    let mut volume = MakeVolume {
        vol_id: UBI_AUTO,
        alignment: 1,
        bytes: signed(bytes)?,
        vol_type,
        flags: 0,
        name_len,
        padding: [0; 4],
        name,
    };
    // SAFETY: UBI_IOCMKVOL reads an ubi_mkvol_req, and writes a number into its first member.
    unsafe { request::<UBI_IOCMKVOL, _>(ubi, &mut volume) }?;
    Ok(volume.vol_id)
}

/// Removes a volume. (`UBI_IOCRMVOL`, to `/dev/ubiX`)
///
/// # Errors
/// `EBUSY` while somebody has it open.
pub fn ubi_remove_volume(ubi: &File, mut volume: i32) -> io::Result<()> {
    // SAFETY: UBI_IOCRMVOL reads an s32.
    unsafe { request::<UBI_IOCRMVOL, _>(ubi, &mut volume) }.map(drop)
}

/// Gives a volume room for so many bytes. (`UBI_IOCRSVOL`, to `/dev/ubiX`)
///
/// # Errors
/// `ENOSPC`, `EBUSY`.
pub fn ubi_resize_volume(ubi: &File, vol_id: i32, bytes: u64) -> io::Result<()> {
    let bytes = signed(bytes)?;
    // SAFETY: UBI_IOCRSVOL reads an ubi_rsvol_req.
    unsafe { request::<UBI_IOCRSVOL, _>(ubi, &mut ResizeVolume { bytes, vol_id }) }.map(drop)
}

/// Gives volumes other names, all at one instant. A volume that has one of the new names and gets none
/// itself is removed by it. (`UBI_IOCRNVOL`, to `/dev/ubiX`)
///
/// # Errors
/// `EINVAL` for more than [`UBI_MAX_RENAMES`], others.
pub fn ubi_rename_volumes(ubi: &File, names: &[(i32, &str)]) -> io::Result<()> {
    let unused = NewName {
        vol_id: 0,
        name_len: 0,
        padding: [0; 2],
        name: [0; UBI_MAX_NAME + 1],
    };
    if names.len() > UBI_MAX_RENAMES {
        return Err(Errno::INVAL.into());
    }
    let mut renames = RenameVolumes {
        count: i32::try_from(names.len()).map_err(|_| Errno::INVAL)?,
        padding: [0; 12],
        entries: [unused; UBI_MAX_RENAMES],
    };
    for (entry, (vol_id, name)) in renames.entries.iter_mut().zip(names) {
        entry.vol_id = *vol_id;
        (entry.name, entry.name_len) = ubi_name(name)?;
    }
    // SAFETY: UBI_IOCRNVOL reads an ubi_rnvol_req.
    unsafe { request::<UBI_IOCRNVOL, _>(ubi, &mut renames) }.map(drop)
}

/// Begins to replace the content of a volume: the next `len` bytes that are written to this file are the
/// new one. (`UBI_IOCVOLUP`, to `/dev/ubiX_Y`)
///
/// # Errors
/// `EBUSY` while somebody else has the volume open, `ENOSPC`, `EROFS`.
pub fn ubi_begin_update(volume: &File, len: u64) -> io::Result<()> {
    // SAFETY: UBI_IOCVOLUP reads an s64.
    unsafe { request::<UBI_IOCVOLUP, _>(volume, &mut signed(len)?) }.map(drop)
}

/// Begins to replace one logical erase block of a volume: the next `len` bytes that are written to this
/// file are its new content. (`UBI_IOCEBCH`, to `/dev/ubiX_Y`)
///
/// # Errors
/// `EROFS` for a static volume, `EBUSY`, `EINVAL` for more bytes than the block has.
pub fn ubi_begin_change(volume: &File, block: u32, len: u64) -> io::Result<()> {
    let mut change = ChangeBlock {
        lnum: i32::try_from(block).map_err(|_| Errno::INVAL)?,
        bytes: i32::try_from(len).map_err(|_| Errno::INVAL)?,
        dtype: UBI_ANY_LIFETIME,
        padding: [0; 7],
    };
    // SAFETY: UBI_IOCEBCH reads an ubi_leb_change_req, whatever its number says.
    unsafe { request::<UBI_IOCEBCH, _>(volume, &mut change) }.map(drop)
}

/// Takes the block device of a volume away. (`UBI_IOCVOLRMBLK`, to `/dev/ubiX_Y`)
///
/// # Errors
/// `ENODEV` if it has none, `ENOSYS` or `ENOTTY` if the kernel cannot make any, `EBUSY` while it is in use.
pub fn ubi_remove_block_device(volume: &File) -> io::Result<()> {
    // SAFETY: UBI_IOCVOLRMBLK takes no argument and touches no memory of this process.
    unsafe { rustix::ioctl::ioctl(volume.as_fd(), NoArg::<UBI_IOCVOLRMBLK>::new()) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    /// As a C compiler made them of the headers. The direction is two bits, but three on MIPS; the rest is
    /// the same everywhere.
    #[test]
    #[cfg(any(
        target_arch = "x86_64",
        target_arch = "x86",
        target_arch = "arm",
        target_arch = "aarch64",
        target_arch = "riscv64",
        target_arch = "mips"
    ))]
    fn requests_have_the_numbers_of_the_kernel_headers() {
        let numbers = [
            (MEMLOCK, 0x4008_4d05, 0x8008_4d05),
            (MEMUNLOCK, 0x4008_4d06, 0x8008_4d06),
            (MEMGETBADBLOCK, 0x4008_4d0b, 0x8008_4d0b),
            (MEMSETBADBLOCK, 0x4008_4d0c, 0x8008_4d0c),
            (ECCGETSTATS, 0x8010_4d12, 0x4010_4d12),
            (MEMERASE64, 0x4010_4d14, 0x8010_4d14),
            (MEMISLOCKED, 0x8008_4d17, 0x4008_4d17),
            (UBI_IOCMKVOL, 0x4098_6f00, 0x8098_6f00),
            (UBI_IOCRMVOL, 0x4004_6f01, 0x8004_6f01),
            (UBI_IOCRSVOL, 0x400c_6f02, 0x800c_6f02),
            (UBI_IOCRNVOL, 0x5110_6f03, 0x9110_6f03),
            (UBI_IOCATT, 0x4018_6f40, 0x8018_6f40),
            (UBI_IOCVOLUP, 0x4008_4f00, 0x8008_4f00),
            (UBI_IOCEBCH, 0x4004_4f02, 0x8004_4f02),
            (UBI_IOCVOLRMBLK, 0x0000_4f08, 0x2000_4f08),
            (BLKFLSBUF, 0x0000_1261, 0x2000_1261),
            (BLKDISCARD, 0x0000_1277, 0x2000_1277),
            (WDIOC_GETSUPPORT, 0x8028_5700, 0x4028_5700),
            (WDIOC_SETTIMEOUT, 0xc004_5706, 0xc004_5706),
            (WDIOC_GETTIMEOUT, 0x8004_5707, 0x4004_5707),
        ];
        for (ours, elsewhere, on_mips) in numbers {
            // Musl has them signed, glibc has not.
            let ours = u32::from_ne_bytes(ours.to_ne_bytes());
            let theirs = if cfg!(target_arch = "mips") {
                on_mips
            } else {
                elsewhere
            };
            assert_eq!(ours, theirs, "{ours:#x} is not {theirs:#x}");
        }
    }

    #[test]
    fn members_are_where_the_kernel_looks_for_them() {
        assert_eq!(offset_of!(Attach, max_beb_per1024), 12);
        assert_eq!(offset_of!(MakeVolume, bytes), 8);
        assert_eq!(offset_of!(MakeVolume, name_len), 18);
        assert_eq!(offset_of!(MakeVolume, name), 24);
        assert_eq!(offset_of!(ResizeVolume, vol_id), 8);
        assert_eq!(offset_of!(RenameVolumes, entries), 16);
        assert_eq!(offset_of!(NewName, name), 8);
        assert_eq!(offset_of!(ChangeBlock, dtype), 8);
    }

    #[test]
    fn peak_memory_has_what_was_touched_though_it_was_given_back() {
        let touched = vec![1_u8; 64 << 20];
        assert!(touched.iter().all(|byte| *byte == 1));
        drop(touched);
        // The kernel counts by thread, and adds up now and then: a little is missing.
        let peak = peak_memory().expect("/proc is mounted");
        assert!(peak >= 60 << 20, "{peak}");
    }
}
