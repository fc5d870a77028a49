//! The only place that changes a file system.
//!
//! Three ways of writing, each with one durability:
//!
//! * [`NewFile`]: a file that appears whole under its name or not at all
//!   (temporary name, fsync, rename, fsync of the directory);
//! * [`InPlace`]: an existing file or block device that is written at offsets and synced by its user;
//! * the tree functions ([`make_dir`], [`symlink`], [`remove_tree`], ...): not durable by themselves,
//!   for building a tree that [`sync_tree`] and then [`rename`] make real.
//!
//! Errors carry the verb and the path. With the feature `powercut` every change is recorded, and
//! may be refused as a full disk refuses it, see [`trace`].

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{
    DirBuilderExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt,
};
use std::path::{Path, PathBuf};
use std::str;

use rustix::fs::{Advice, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use thiserror::Error;

#[cfg(feature = "powercut")]
pub mod trace;

/// Tells the recorder of the power-cut tests; nothing in a router's binary.
macro_rules! record {
    ($op:expr) => {
        #[cfg(feature = "powercut")]
        trace::push(|| {
            #[allow(unused_imports, reason = "not every operation needs every name")]
            use trace::Op::*;
            $op
        });
    };
}

/// Lets the tests refuse a change, as a full disk would; in a router's binary, always room.
#[cfg(not(feature = "powercut"))]
fn room(_: &Path) -> io::Result<()> {
    Ok(())
}
#[cfg(feature = "powercut")]
use trace::room;

/// An operation on a file that failed.
#[derive(Debug, Error)]
#[error("cannot {verb} {}", path.display())]
pub struct FileError {
    /// What was attempted: `read`, `write`, `rename`, ...
    pub verb: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// For `map_err`: `File::open(p).map_err(FileError::at("open", p))`.
    pub fn at<E: Into<io::Error>>(verb: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self {
            verb,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// What to do now, where the kind of trouble tells.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self.source.kind() {
            io::ErrorKind::PermissionDenied => "this needs the rights of root",
            io::ErrorKind::StorageFull => "free some space there",
            io::ErrorKind::ReadOnlyFilesystem => "mount it for writing",
            _ => return None,
        })
    }

    /// True if the file or a directory on the way to it does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Result of a file operation.
pub type Result<T> = std::result::Result<T, FileError>;

/// `path` of a system whose root is at `root`.
#[must_use]
pub fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Reads a whole file of at most `max` bytes.
///
/// # Errors
/// Also when the file is longer than `max`.
pub fn read(path: &Path, max: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(FileError::at("open", path))?;
    let mut bytes = Vec::new();
    file.take(max + 1)
        .read_to_end(&mut bytes)
        .map_err(FileError::at("read", path))?;
    if bytes.len() as u64 > max {
        let source = io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("longer than {max} bytes"),
        );
        return Err(FileError {
            verb: "read",
            path: path.to_owned(),
            source,
        });
    }
    Ok(bytes)
}

/// [`read`], or `None` if there is no such file.
///
/// # Errors
/// As [`read`], but for a file that does not exist.
pub fn read_if_exists(path: &Path, max: u64) -> Result<Option<Vec<u8>>> {
    match read(path, max) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The name under which what will stand at `path` is made: `.NAME.sysupgrade-new` in the same
/// directory, which nobody else calls a file of his. Of a name so long that this would be none, only
/// the begin is used.
#[must_use]
pub fn temporary_beside(path: &Path) -> PathBuf {
    /// The longest name of most file systems is 255 bytes.
    const MOST: usize = 255 - ".".len() - ENDING.len();
    const ENDING: &str = ".sysupgrade-new";
    let name = path.file_name().unwrap_or_default().as_bytes();
    let begin = name.get(..MOST).unwrap_or(name);
    let mut temporary = OsString::from(".");
    temporary.push(OsStr::from_bytes(begin));
    temporary.push(ENDING);
    path.with_file_name(temporary)
}

/// A file that appears whole under its name, or not at all.
///
/// It grows at its end, under a temporary name beside its place; what is in it can be read back from
/// anywhere. Dropped before [`commit`](Self::commit), it is
/// removed; after a power cut the temporary name may remain, and the next `create` reuses it.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    temporary: PathBuf,
    file: Option<File>,
    mode: u32,
    len: u64,
}

impl NewFile {
    /// Opens the temporary file, in the same directory, with these permission bits.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(path: &Path, mode: u32) -> Result<Self> {
        let temporary = temporary_beside(path);
        if fs::symlink_metadata(&temporary).is_ok() {
            remove_file(&temporary)?; // a leftover, perhaps with other permissions
        }
        Self::create_at(path, &temporary, mode)
    }

    /// Opens the file right under its name, which must be free: for a tree that nobody looks at
    /// before it is whole.
    ///
    /// # Errors
    /// When the name is taken, or the file cannot be created.
    pub fn create_directly(path: &Path, mode: u32) -> Result<Self> {
        Self::create_at(path, path, mode)
    }

    fn create_at(path: &Path, temporary: &Path, mode: u32) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(mode);
        let file = room(temporary)
            .and_then(|()| options.open(temporary))
            .map_err(FileError::at("create", temporary))?;
        file.set_permissions(fs::Permissions::from_mode(mode))
            .map_err(FileError::at("set the mode of", temporary))?;
        record!(Create {
            path: temporary.to_owned(),
            mode
        });
        Ok(Self {
            path: path.to_owned(),
            temporary: temporary.to_owned(),
            file: Some(file),
            mode,
            len: 0,
        })
    }

    /// Gives the file to this user and group (numeric).
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set_owner(&self, uid: u32, gid: u32) -> Result<()> {
        set_owner(&self.temporary, uid, gid)?;
        if self.mode & 0o6000 != 0 {
            set_mode(&self.temporary, self.mode)?; // a change of owner has cleared the set-id bits
        }
        Ok(())
    }

    /// As [`set_attributes`]; once all is written.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set_attributes(&self, attributes: &Attributes) -> Result<()> {
        set_attributes(&self.temporary, attributes)
    }

    /// Makes it durable under its name: fsync, rename, fsync of the directory.
    ///
    /// # Errors
    /// When one of them fails; the old file, if any, is then still in its place unless only the last
    /// step failed.
    pub fn commit(mut self) -> Result<()> {
        let Some(file) = self.file.take() else {
            return Ok(());
        };
        room(&self.temporary)
            .and_then(|()| file.sync_all())
            .map_err(FileError::at("sync", &self.temporary))?;
        record!(Sync {
            path: self.temporary.clone()
        });
        drop(file);
        self.take_name()?;
        sync_dir(parent_of(&self.path))
    }

    /// Puts it under its name without any sync: for trees that [`sync_tree`] makes durable later.
    ///
    /// # Errors
    /// When the rename fails.
    pub fn place(mut self) -> Result<()> {
        drop(self.file.take());
        self.take_name()
    }

    fn take_name(&self) -> Result<()> {
        if self.temporary == self.path {
            return Ok(());
        }
        rename(&self.temporary, &self.path)
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(file) = self.file.as_mut() else {
            return Err(io::Error::other("file is closed"));
        };
        // Wherever it was read last.
        let count = room(&self.temporary).and_then(|()| file.write_at(bytes, self.len))?;
        record!(Write {
            path: self.temporary.clone(),
            offset: self.len,
            data: bytes[..count].to_vec()
        });
        self.len += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for NewFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.file.as_mut() {
            Some(file) => file.read(buffer),
            None => Err(io::Error::other("file is closed")),
        }
    }
}

impl Seek for NewFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self.file.as_mut() {
            Some(file) => file.seek(to),
            None => Err(io::Error::other("file is closed")),
        }
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // Only tidiness: a leftover is replaced by the next `create`.
            if let Err(error) = remove_file(&self.temporary) {
                log::debug!("{error}: {}", error.source);
            }
        }
    }
}

/// Replaces a small file durably.
///
/// # Errors
/// As [`NewFile`].
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut file = NewFile::create(path, mode)?;
    file.write_all(bytes)
        .map_err(FileError::at("write", path))?;
    file.commit()
}

/// An existing regular file or block device, written at offsets. Never creates, never grows.
#[derive(Debug)]
pub struct InPlace {
    path: PathBuf,
    file: File,
    len: u64,
    block_device: bool,
}

impl InPlace {
    /// Opens for reading and writing. A block device that is mounted or otherwise held is refused
    /// by the kernel (`EBUSY`): nobody writes under a live file system.
    ///
    /// # Errors
    /// When it does not exist, is neither file nor block device, or is in use.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, true, OFlags::EXCL)
    }

    /// Opens for reading and writing a medium of which others use other parts: a boot environment
    /// lies in a gap between the partitions of a disk, and these are mounted.
    ///
    /// # Errors
    /// When it does not exist or is neither file nor block device.
    pub fn open_shared(path: &Path) -> Result<Self> {
        Self::open_with(path, true, OFlags::empty())
    }

    /// Opens for reading only.
    ///
    /// # Errors
    /// When it does not exist or is neither file nor block device.
    pub fn open_read_only(path: &Path) -> Result<Self> {
        Self::open_with(path, false, OFlags::empty())
    }

    /// Opens it once more, for reading past the cache. The kernel lets the medium have what was written to the
    /// place that is read first. Place, length and memory are to be whole pages, and not every medium
    /// can do it even so.
    ///
    /// # Errors
    /// Where the file system cannot.
    pub fn open_direct(&self) -> Result<Self> {
        Self::open_with(&self.path, false, OFlags::DIRECT)
    }

    fn open_with(path: &Path, write: bool, how: OFlags) -> Result<Self> {
        let open_error = FileError::at("open", path);
        let kind = match fs::metadata(path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) => return Err(open_error(error)),
        };
        let block_device = kind.is_block_device();
        if !block_device && !kind.is_file() {
            let source = io::Error::new(
                io::ErrorKind::InvalidInput,
                "neither a file nor a block device",
            );
            return Err(open_error(source));
        }
        let mut flags = OFlags::CLOEXEC | how;
        if !block_device {
            flags.remove(OFlags::EXCL);
        }
        // The flags of the three access modes come from `read` and `write`.
        #[expect(
            clippy::cast_possible_wrap,
            reason = "open flags are an int on every Linux"
        )]
        let mut file = OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(flags.bits() as i32)
            .open(path)
            .map_err(open_error)?;
        // A block device has no length in its metadata; its end does.
        let len = file
            .seek(SeekFrom::End(0))
            .map_err(FileError::at("measure", path))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            len,
            block_device,
        })
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True for a medium of no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of a sector (the logical block) of a block device; a file has none.
    ///
    /// # Errors
    /// When the device does not say.
    pub fn sector_size(&self) -> Result<Option<u32>> {
        if !self.block_device {
            return Ok(None);
        }
        rustix::fs::ioctl_blksszget(&self.file)
            .map(Some)
            .map_err(FileError::at("measure", &self.path))
    }

    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    /// Also when the medium ends before.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        self.file
            .read_exact_at(bytes, offset)
            .map_err(FileError::at("read", &self.path))
    }

    /// Writes all of `bytes` at `offset`; not durable before [`sync`](Self::sync).
    ///
    /// # Errors
    /// Also when the medium ends before: it never grows.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            let source = io::Error::new(
                io::ErrorKind::StorageFull,
                format!("it ends at byte {}", self.len),
            );
            return Err(FileError {
                verb: "write",
                path: self.path.clone(),
                source,
            });
        }
        self.file
            .write_all_at(bytes, offset)
            .map_err(FileError::at("write", &self.path))?;
        record!(Write {
            path: self.path.clone(),
            offset,
            data: bytes.to_vec()
        });
        Ok(())
    }

    /// Tells the kernel to start writing this range now, so that flash and processor work at the
    /// same time. Only a hint: durability comes from [`sync`](Self::sync).
    pub fn start_writeback(&self, offset: u64, len: u64) {
        crate::sys::start_writeback(&self.file, offset, len);
    }

    /// Tells a block device that nobody needs this range any more; what it holds then is unknown.
    ///
    /// # Errors
    /// When the device knows no discard, or this is none.
    pub fn discard(&self, offset: u64, len: u64) -> Result<()> {
        crate::sys::discard(&self.file, offset, len)
            .map_err(FileError::at("discard a part of", &self.path))
    }

    /// Returns when the medium holds everything that was written. Length and place of the content do not
    /// change, and its times matter to nobody: the file's data are synced, and no more.
    ///
    /// # Errors
    /// When the medium reports a failed write; what it holds is then unknown.
    pub fn sync(&self) -> Result<()> {
        self.file
            .sync_data()
            .map_err(FileError::at("sync", &self.path))?;
        record!(Sync {
            path: self.path.clone()
        });
        Ok(())
    }

    /// Drops what the kernel caches of this file, so that the next read asks the medium.
    /// Clean pages only: call [`sync`](Self::sync) before.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn drop_cache(&self) -> Result<()> {
        if self.block_device {
            crate::sys::flush_block_buffers(&self.file)
                .map_err(FileError::at("drop the cache of", &self.path))?;
        }
        rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed)
            .map_err(FileError::at("drop the cache of", &self.path))
    }
}

/// Creates one directory with these permission bits; one that exists is left as it is.
///
/// # Errors
/// When it cannot be created, or something else has that name.
pub fn make_dir(path: &Path, mode: u32) -> Result<()> {
    match room(path).and_then(|()| fs::DirBuilder::new().mode(mode).create(path)) {
        Ok(()) => {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
                .map_err(FileError::at("set the mode of", path))?;
            record!(MakeDir {
                path: path.to_owned(),
                mode
            });
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_dir(path) => Ok(()),
        Err(error) => Err(FileError::at("create the directory", path)(error)),
    }
}

/// Creates a directory and those above it that are missing, durably. A link to a directory, as `/run`
/// is on many systems, is one that exists.
///
/// # Errors
/// As [`make_dir`] and [`sync_dir`].
pub fn make_dirs(path: &Path, mode: u32) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent_of(path);
    if parent != path {
        make_dirs(parent, mode)?;
    }
    make_dir(path, mode)?;
    sync_dir(parent)
}

/// True for a directory, not for a link to one.
#[must_use]
pub fn is_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// True for a file, or a link to one, that somebody may execute.
#[must_use]
pub fn is_program(path: &Path) -> bool {
    fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// True if anything has that name, a dangling link included.
#[must_use]
pub fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Makes a symbolic link at `path`.
///
/// # Errors
/// When the name is taken or the system refuses.
pub fn symlink(target: &Path, path: &Path) -> Result<()> {
    room(path)
        .and_then(|()| std::os::unix::fs::symlink(target, path))
        .map_err(FileError::at("link", path))?;
    record!(Symlink {
        path: path.to_owned(),
        target: target.to_owned()
    });
    Ok(())
}

/// Makes an overlayfs whiteout (character device 0/0): the name is hidden in the lower layer.
///
/// # Errors
/// When the name is taken or the file system knows no device nodes.
pub fn whiteout(path: &Path) -> Result<()> {
    let make = || {
        let (kind, device) = (FileType::CharacterDevice, rustix::fs::makedev(0, 0));
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, Mode::empty(), device)
    };
    room(path)
        .and_then(|()| Ok(make()?))
        .map_err(FileError::at("hide", path))?;
    record!(Whiteout {
        path: path.to_owned()
    });
    Ok(())
}

/// True for an overlayfs whiteout.
#[must_use]
pub fn is_whiteout(metadata: &fs::Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

/// Sets permission bits; never follows a link (links have none).
///
/// # Errors
/// When the system refuses.
pub fn set_mode(path: &Path, mode: u32) -> Result<()> {
    room(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .map_err(FileError::at("set the mode of", path))?;
    record!(SetMode {
        path: path.to_owned(),
        mode
    });
    Ok(())
}

/// Sets numeric owner and group of a file, or of a link itself.
///
/// # Errors
/// When the system refuses (only root may give files away).
pub fn set_owner(path: &Path, uid: u32, gid: u32) -> Result<()> {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid))
        .map_err(FileError::at("set the owner of", path))
}

/// Sets the modification time, in whole seconds since 1970.
///
/// # Errors
/// When the system refuses.
pub fn set_modified(path: &Path, seconds: u64) -> Result<()> {
    let since = std::time::Duration::from_secs(seconds);
    let time = (std::time::UNIX_EPOCH.checked_add(since))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no clock shows that time"));
    File::open(path)
        .and_then(|file| file.set_modified(time?))
        .map_err(FileError::at("set the time of", path))
}

/// Removes one file or link.
///
/// # Errors
/// When there is none or the system refuses.
pub fn remove_file(path: &Path) -> Result<()> {
    fs::remove_file(path).map_err(FileError::at("remove", path))?;
    record!(Remove {
        path: path.to_owned()
    });
    Ok(())
}

/// Removes one file or link durably, if it is there.
///
/// # Errors
/// When the system refuses.
pub fn remove_durably(path: &Path) -> Result<()> {
    match remove_file(path) {
        Ok(()) => sync_dir(parent_of(path)),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes whatever has that name, with everything below it, if it is there. Links are not followed.
///
/// # Errors
/// When the system refuses; a part may be gone then.
pub fn remove_tree(path: &Path) -> Result<()> {
    if !exists(path) {
        return Ok(());
    }
    if !is_dir(path) {
        return remove_file(path);
    }
    for name in list(path)? {
        remove_tree(&path.join(name))?;
    }
    fs::remove_dir(path).map_err(FileError::at("remove", path))?;
    record!(RemoveDir {
        path: path.to_owned()
    });
    Ok(())
}

/// Extended attributes by name.
pub type Attributes = BTreeMap<String, Vec<u8>>;

/// The most bytes of all names, and of one value: as many as Linux gives.
const MAX_ATTRIBUTE: usize = 64 << 10;

/// True for an extended attribute that goes with the content of a file.
#[must_use]
pub fn is_carried_attribute(name: &str) -> bool {
    name == "security.capability" || name.starts_with("user.")
}

/// The extended attributes of a file that go with its content: the user's own, and capabilities.
/// Others, access lists and labels, belong to the system that gave them. None where the file system
/// knows none.
///
/// # Errors
/// When they cannot be read.
pub fn attributes(path: &Path) -> Result<Attributes> {
    let failed = |error: Errno| FileError::at("read attributes of", path)(error);
    let mut names = vec![0; 256]; // nearly no file has any
    let length = loop {
        match rustix::fs::llistxattr(path, &mut *names) {
            Ok(length) => break length,
            Err(Errno::RANGE) if names.len() < MAX_ATTRIBUTE => names.resize(MAX_ATTRIBUTE, 0),
            Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Attributes::new()),
            Err(error) => return Err(failed(error)),
        }
    };
    let names = names.get(..length).unwrap_or_default();
    let mut found = Attributes::new();
    for name in names
        .split(|byte| *byte == 0)
        .filter_map(|name| str::from_utf8(name).ok())
    {
        if !is_carried_attribute(name) {
            continue;
        }
        let mut value = vec![0; MAX_ATTRIBUTE];
        match rustix::fs::lgetxattr(path, name, &mut *value) {
            Ok(length) => value.truncate(length),
            Err(Errno::NODATA) => continue, // taken away meanwhile
            Err(error) => return Err(failed(error)),
        }
        found.insert(name.to_owned(), value);
    }
    Ok(found)
}

/// Gives a file these extended attributes; after its owner and content, whose change would take
/// capabilities away. A file system that has none, and a user who may not give capabilities, leave
/// the file without. No recording: what a power cut takes of a file not yet durable, it takes whole.
///
/// # Errors
/// When the system refuses for another reason.
pub fn set_attributes(path: &Path, attributes: &Attributes) -> Result<()> {
    for (name, value) in attributes {
        match rustix::fs::lsetxattr(path, name.as_str(), value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(error @ (Errno::NOTSUP | Errno::PERM)) => {
                log::debug!("{}: attribute {name}: {error}", path.display());
            }
            Err(error) => return Err(FileError::at("set attributes of", path)(error)),
        }
    }
    Ok(())
}

/// Bytes of all files of a tree; nothing if there is none.
///
/// # Errors
/// When something cannot be examined.
pub fn tree_size(path: &Path) -> Result<u64> {
    let mut size = 0_u64;
    let mut pending = vec![path.to_owned()];
    while let Some(place) = pending.pop() {
        match fs::symlink_metadata(&place) {
            Ok(metadata) if metadata.is_dir() => {
                let names = list(&place)?;
                pending.extend(names.iter().map(|name| place.join(name)));
            }
            Ok(metadata) if metadata.is_file() => size = size.saturating_add(metadata.len()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(FileError::at("examine", &place)(error)),
        }
    }
    Ok(size)
}

/// Names in a directory, sorted bytewise.
///
/// # Errors
/// When it cannot be read.
pub fn list(path: &Path) -> Result<Vec<OsString>> {
    let mut names = fs::read_dir(path)
        .and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.file_name()))
                .collect::<io::Result<Vec<_>>>()
        })
        .map_err(FileError::at("list", path))?;
    names.sort();
    Ok(names)
}

/// Renames; on one file system this is atomic, and durable after [`sync_dir`].
///
/// # Errors
/// When the system refuses.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    room(to)
        .and_then(|()| fs::rename(from, to))
        .map_err(FileError::at("rename", from))?;
    record!(Rename {
        from: from.to_owned(),
        to: to.to_owned()
    });
    Ok(())
}

/// Renames within one directory, durably: once there is one name again, it is on the medium.
///
/// # Errors
/// As [`rename`] and [`sync_name`].
pub fn rename_durably(from: &Path, to: &Path) -> Result<()> {
    rename(from, to)?;
    sync_name(to)
}

/// Returns when a file is on the medium under the name that it has.
///
/// The file comes first. FAT has no inodes: an entry of a directory holds the name, the length, and
/// where the content begins, and Linux fills in the last two of a new name only when it writes the
/// file back. A directory that is synced before that has the new name, of an empty file, and
/// not the old one any more.
///
/// # Errors
/// When the medium fails.
pub fn sync_name(path: &Path) -> Result<()> {
    sync(path)?;
    sync_dir(parent_of(path))
}

/// Returns when the names in this directory are on the medium.
///
/// # Errors
/// When the medium fails.
pub fn sync_dir(path: &Path) -> Result<()> {
    sync(path)
}

/// Returns when a file, or the names in a directory, are on the medium.
fn sync(path: &Path) -> Result<()> {
    room(path)
        .and_then(|()| File::open(path))
        .and_then(|file| file.sync_all())
        .map_err(FileError::at("sync", path))?;
    record!(Sync {
        path: path.to_owned()
    });
    Ok(())
}

/// Returns when a whole tree is on the medium: files first, each directory after what is in it.
///
/// # Errors
/// When the medium fails.
pub fn sync_tree(path: &Path) -> Result<()> {
    // All at once first: one commit of the file system instead of one a file, and after it each
    // sync finds its work done. It is the single syncs that are relied on, and that see errors.
    File::open(path)
        .and_then(|dir| Ok(rustix::fs::syncfs(dir)?))
        .map_err(FileError::at("sync", path))?;
    sync_each(path)
}

fn sync_each(path: &Path) -> Result<()> {
    for name in list(path)? {
        let entry = path.join(name);
        let metadata = fs::symlink_metadata(&entry).map_err(FileError::at("examine", &entry))?;
        if metadata.is_dir() {
            sync_each(&entry)?;
        } else if metadata.is_file() {
            sync(&entry)?;
        }
    }
    sync_dir(path)
}

/// Opens a file for reading what the medium holds of it, not what a cache remembers.
///
/// # Errors
/// When there is none, or the kernel refuses to drop its cache.
pub fn open_past_cache(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(FileError::at("open", path))?;
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)
        .map_err(FileError::at("drop the cache of", path))?;
    Ok(file)
}

/// Opens a lock file, creating it and its directory. Locks live in `/run` and hold nothing, so that
/// durability does not matter; the file stays.
///
/// # Errors
/// When it cannot be created.
pub fn open_lock(path: &Path) -> Result<File> {
    make_dirs(parent_of(path), 0o755)?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(FileError::at("open", path))
}

/// Bytes that an unprivileged process may still write on the file system that a path is on, or will be
/// on once it is made.
///
/// # Errors
/// When the system cannot tell.
pub fn free_space(path: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(existing(path)).map_err(FileError::at("measure", path))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// True if a path is on FAT, or will be. FAT knows neither owners nor permissions, and of a new file
/// that takes a known name it may keep the name alone when power goes (see [`sync_name`]).
///
/// # Errors
/// When the system cannot tell.
pub fn is_on_fat(path: &Path) -> Result<bool> {
    /// `MSDOS_SUPER_MAGIC` of Linux, of vfat and msdos alike (`include/uapi/linux/magic.h`).
    const FAT: u64 = 0x4d44;
    let stat = rustix::fs::statfs(existing(path)).map_err(FileError::at("examine", path))?;
    Ok(u64::try_from(stat.f_type).is_ok_and(|magic| magic == FAT))
}

/// The nearest directory that there is already.
fn existing(path: &Path) -> &Path {
    let dir = path.ancestors().find(|dir| dir.is_dir());
    dir.unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_grows_at_its_end_wherever_it_was_read() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("new");
        let mut file = NewFile::create(&path, 0o644).expect("created");
        file.write_all(b"payload").expect("written");
        let mut text = [0; 3];
        file.rewind().expect("moved");
        file.read_exact(&mut text).expect("read");
        assert_eq!(&text, b"pay");
        file.write_all(b" and more").expect("written");
        file.commit().expect("placed");
        assert_eq!(fs::read(&path).expect("there"), b"payload and more");
    }

    #[test]
    fn directories_are_made_below_a_link_to_a_directory_too() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("tmp")).expect("made");
        std::os::unix::fs::symlink("tmp", dir.path().join("run")).expect("linked");
        make_dirs(&dir.path().join("run/tool/mnt"), 0o700).expect("made");
        assert!(dir.path().join("tmp/tool/mnt").is_dir());
        fs::write(dir.path().join("file"), b"").expect("written");
        make_dirs(&dir.path().join("file/tool"), 0o700).expect_err("below a file");
    }
}
