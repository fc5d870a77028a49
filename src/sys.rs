//! What neither std nor rustix has of the kernel: some requests to devices, and a few numbers. The only
//! unsafe code of the crate.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_memory_grows_by_what_was_touched_and_does_not_shrink_again() {
        let before = peak_memory().expect("/proc is mounted");
        let touched = vec![1_u8; 64 << 20];
        assert!(touched.iter().all(|byte| *byte == 1));
        drop(touched);
        let after = peak_memory().expect("/proc is mounted");
        assert!(
            after >= before + (60 << 20),
            "{before} before, {after} after"
        );
    }
}
