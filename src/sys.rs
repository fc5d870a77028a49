//! System calls that neither std nor rustix wraps. The only unsafe code of the crate.
#![allow(unsafe_code, reason = "this file is where it lives")]

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{NoArg, Opcode};

/// `BLKFLSBUF` of linux/fs.h: `_IO(0x12, 97)`, no argument.
const BLKFLSBUF: Opcode = rustix::ioctl::opcode::none(0x12, 97);

/// Writes back and drops the kernel's buffers of a block device.
///
/// # Errors
/// When the kernel refuses (needs `CAP_SYS_ADMIN`).
pub fn flush_block_buffers(device: &File) -> io::Result<()> {
    // SAFETY: BLKFLSBUF takes no argument and touches no memory of this process, on 32 and 64 bit alike.
    unsafe { rustix::ioctl::ioctl(device.as_fd(), NoArg::<BLKFLSBUF>::new()) }?;
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
