//! A virtual router: the hardware, boot loader, kernel and init that `board/virtual.toml` describes.
//!
//! A directory stands for the machine. Two directories in it stay when power goes, all else is what
//! the running system shows:
//!
//! ```text
//! flash/      kernel-a, root-a, kernel-b, root-b: the parts, files of fixed size; env: GRUB's block
//! data/       the data directory, and an overlay a slot
//! proc/cmdline, run/, rom/      as on a real one; rom is the read-only root of the running slot
//! etc/, ...   the root of the running slot with the upper directory of its overlay over it
//! ```
//!
//! The root part is a tar archive, padded to its partition. One that holds a file `broken` stands for
//! a system that panics as it starts.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use byteorder::NativeEndian;
use sysupgrade_rs::board::{Board, BootKind, Layout, Medium, Place};
use sysupgrade_rs::boot::{Bootloader, GrubEnv, UbootEnv};
use sysupgrade_rs::files::{self, below};
use sysupgrade_rs::flash::{self, Chips, Kernel};
use sysupgrade_rs::machine::Machine;
use sysupgrade_rs::slots::{BootState, Slot};
use sysupgrade_rs::system;

use super::gpt;
use super::loader;
use super::snapshot::{Entry, Snapshot};

/// What the virtual machine may fail with: a message for its operator.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Directories that hold their content without power.
pub const PERSISTENT: [&str; 2] = ["flash", "data"];

/// Directories of a running system that are no part of its root.
const NOT_IN_ROOT: [&str; 6] = ["flash", "data", "proc", "run", "rom", "tmp"];

/// Where a boot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Booted {
    /// This slot's system is up.
    Up(Slot),
    /// This slot's system panicked; the watchdog resets the machine.
    Panicked(Slot),
    /// First boot of this slot refused and asks for a reboot.
    Refused(Slot),
}

/// The flash chips of a machine that can be switched off.
pub trait Flash: Chips {
    /// Power goes, and comes back: what a driver or a chip only remembered is gone.
    fn power_cycle(&self);

    /// Makes a place hold these bytes, as the factory does.
    fn put(&self, place: &Place, offset: u64, bytes: &[u8]);

    /// What a kernel can read of a part on a chip, from its begin to the first byte that cannot be
    /// read.
    fn read(&self, medium: &Medium) -> Result<Vec<u8>>;
}

/// A machine without raw flash.
impl Flash for Kernel {
    fn power_cycle(&self) {}

    fn put(&self, place: &Place, _: u64, _: &[u8]) {
        panic!("{place} is on no chip of this machine");
    }

    fn read(&self, medium: &Medium) -> Result<Vec<u8>> {
        Err(format!("{medium:?} is on no chip of this machine").into())
    }
}

/// A router in a directory.
pub struct Router {
    dir: PathBuf,
    board: Board,
    flash: Rc<dyn Flash>,
}

impl Router {
    /// The router in this directory, whether there is one yet or not.
    pub fn at(dir: &Path) -> Result<Self> {
        let board = Board::parse(sysupgrade_rs::board::VIRTUAL, "board/virtual.toml")?;
        Ok(Self::of(dir, &board, Rc::new(Kernel::new(dir))))
    }

    /// A router of this board, with these chips.
    pub fn of(dir: &Path, board: &Board, flash: Rc<dyn Flash>) -> Self {
        Self {
            dir: dir.to_owned(),
            board: board.clone(),
            flash,
        }
    }

    /// A router without power in this directory, with this on its disk.
    pub fn with_disk(dir: &Path, disk: &Snapshot) -> Result<Self> {
        let router = Self::at(dir)?;
        router.set_disk(disk)?;
        Ok(router)
    }

    /// Gives a router without power another disk.
    pub fn set_disk(&self, disk: &Snapshot) -> Result<()> {
        if self.dir.exists() {
            fs::remove_dir_all(&self.dir)?;
        }
        Ok(disk.write(&self.dir)?)
    }

    /// As it is seen by the programs that run on it.
    pub fn machine(&self) -> Result<Machine> {
        let flash = Rc::clone(&self.flash);
        Ok(system::open_with(&self.dir, self.board.clone(), flash)?)
    }

    /// The boot environment.
    pub fn boot_environment(&self) -> Result<Box<dyn Bootloader>> {
        let flash: Rc<dyn Chips> = Rc::clone(&self.flash) as Rc<dyn Chips>;
        Ok(system::boot(&self.dir, &self.board, &flash))
    }

    /// What is left without power.
    pub fn disk(&self) -> Result<Snapshot> {
        let mut all = Snapshot::read(&self.dir)?;
        all.0
            .retain(|path, _| PERSISTENT.iter().any(|kept| path.starts_with(kept)));
        Ok(all)
    }

    /// The directory that stands for the machine.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Builds one as it leaves the factory: the first slot holds a system, the second nothing.
    pub fn create(&self, kernel: &[u8], root: &[u8], part_size: usize) -> Result<()> {
        fs::create_dir_all(self.dir.join("flash"))?;
        for slot in Slot::ALL {
            fs::create_dir_all(self.upper(slot)?.parent().unwrap_or(&self.dir))?;
            for part in self.part_names() {
                let system = match self.holds_root(part) {
                    true => root,
                    false => kernel,
                };
                let medium = self.medium(slot, part)?;
                if let Medium::File(file) = medium {
                    // An erased NOR flash is all ones.
                    fs::write(below(&self.dir, &file.path), vec![0xff; part_size])?;
                }
                if slot == Slot::First {
                    let mut device = flash::open(&self.dir, &*self.flash, medium)?;
                    device.write_image(&mut &*system, system.len() as u64, None)?;
                }
            }
        }
        self.create_environment()
    }

    fn create_environment(&self) -> Result<()> {
        let boot = &self.board.boot;
        let copies = match boot.kind {
            BootKind::GrubEnv => vec![GrubEnv::format(self.names(), &BootState::FACTORY)?],
            BootKind::UbootEnv => {
                let size = boot.store[0].size.ok_or("an environment without a size")?;
                let (size, copies) = (usize::try_from(size)?, boot.store.len());
                let others = match &boot.layout {
                    Layout::Order => Vec::new(),
                    Layout::Switch(switch) => loader::factory(switch),
                };
                let names = self.names();
                UbootEnv::format::<NativeEndian>(names, &BootState::FACTORY, &others, size, copies)?
            }
            BootKind::SystemdBoot => return self.create_entries(),
            BootKind::GptAttributes => {
                let names = boot.partitions.as_ref().ok_or("no partitions")?;
                let [a, b] = names.each_ref().map(String::as_str);
                // Successful, with priority 1; and not bootable.
                let slots = [(a, gpt::KERNEL, 0x0101 << 48), (b, gpt::KERNEL, 0)];
                vec![gpt::disk(512, &slots)]
            }
            kind => return Err(format!("no model boots {kind:?}").into()),
        };
        for (store, copy) in boot.store.iter().zip(copies) {
            let Place::Path(path) = &store.place else {
                self.flash.put(&store.place, store.offset, &copy);
                continue;
            };
            let path = below(&self.dir, path);
            let mut medium = fs::read(&path).unwrap_or_default();
            let (start, end) = (usize::try_from(store.offset)?, copy.len());
            medium.resize(medium.len().max(start + end), 0xff);
            medium[start..start + end].copy_from_slice(&copy);
            fs::write(path, medium)?;
        }
        Ok(())
    }

    /// What a builder puts on the EFI system partition: the entry of the first slot, and the texts of
    /// both.
    fn create_entries(&self) -> Result<()> {
        let entries = self.entries()?;
        fs::create_dir_all(&entries)?;
        let loader = entries.with_file_name("loader.conf");
        fs::write(loader, "timeout 0\ndefault sysupgrade-*\n")?;
        for name in self.names() {
            let text = format!("linux /{name}/vmlinuz\noptions sysupgrade.slot={name}\n");
            let copy = entries.with_file_name(format!("sysupgrade-{name}.conf"));
            fs::write(copy, &text)?;
            if name == self.name(Slot::First) {
                fs::write(entries.join(format!("sysupgrade-1-{name}.conf")), &text)?;
            }
        }
        Ok(())
    }

    fn entries(&self) -> Result<PathBuf> {
        let entries = self.board.boot.entries.as_ref();
        Ok(below(&self.dir, entries.ok_or("a board without entries")?))
    }

    /// Power on, as far as it goes. `first_boot` is the command of that name; it says whether the
    /// system may go on.
    pub fn boot(&self, first_boot: impl FnOnce() -> Result<bool>) -> Result<Booted> {
        self.pull_the_plug()?;
        let slot = self.choose()?;
        if !self.start(slot)? {
            self.pull_the_plug()?;
            return Ok(Booted::Panicked(slot));
        }
        if !first_boot()? {
            self.pull_the_plug()?;
            return Ok(Booted::Refused(slot));
        }
        self.mount_overlay(slot)?;
        Ok(Booted::Up(slot))
    }

    /// The boot loader: it chooses a slot and stores the count before it jumps there.
    pub fn choose(&self) -> Result<Slot> {
        if let Layout::Switch(switch) = &self.board.boot.layout {
            let flash: Rc<dyn Chips> = Rc::clone(&self.flash) as Rc<dyn Chips>;
            return loader::choose(&system::uboot_env(&self.dir, &self.board, &flash)?, switch);
        }
        if self.board.boot.kind == BootKind::SystemdBoot {
            let entry = loader::systemd_boot(&self.entries()?)?;
            let name = entry.trim_end().rsplit('=').next();
            let slot = name.and_then(|name| self.board.slot_named(name));
            return Ok(slot.ok_or_else(|| format!("this boots no slot: {entry}"))?);
        }
        let mut env = self.boot_environment()?;
        let before = env.load()?;
        let (slot, after) = before.boot();
        if after != before {
            env.store(&after)?;
        }
        Ok(slot)
    }

    /// The kernel: mounts the root part, writes its command line. False if it panics.
    fn start(&self, slot: Slot) -> Result<bool> {
        let root = self.part_names().find(|part| self.holds_root(part));
        let root = self.read_part(slot, root.ok_or("a slot without parts")?)?;
        let rom = Snapshot::from_tar(&root)?;
        fs::create_dir_all(self.dir.join("proc"))?;
        fs::create_dir_all(self.dir.join("run"))?;
        let name = self.name(slot);
        fs::write(
            self.dir.join("proc/cmdline"),
            format!("console=ttyS0 sysupgrade.slot={name}\n"),
        )?;
        rom.write(&self.dir.join("rom"))?;
        rom.write(&self.dir)?;
        Ok(!rom.0.contains_key(Path::new("broken")))
    }

    /// Init: lays the overlay of the slot over its root. What mounts an overlay makes its directory.
    fn mount_overlay(&self, slot: Slot) -> Result<()> {
        let upper = self.upper(slot)?;
        fs::create_dir_all(&upper)?;
        let rom = Snapshot::read(&self.dir.join("rom"))?;
        let view = overlay(&rom, &Snapshot::read(&upper)?);
        self.clear(|name| !NOT_IN_ROOT.contains(&name))?;
        Ok(view.write(&self.dir)?)
    }

    /// The slot that runs; `None` if power is off.
    pub fn running(&self) -> Result<Option<Slot>> {
        let Ok(line) = fs::read_to_string(self.dir.join("proc/cmdline")) else {
            return Ok(None);
        };
        let name = line
            .split_whitespace()
            .find_map(|word| word.strip_prefix("sysupgrade.slot="));
        Ok(name.and_then(|name| self.board.slot_named(name)))
    }

    /// What the running system shows.
    pub fn view(&self) -> Result<Snapshot> {
        let mut view = Snapshot::read(&self.dir)?;
        NOT_IN_ROOT.iter().for_each(|name| view.remove(name));
        Ok(view)
    }

    /// An orderly end: edits of the running system go where an overlay would have put them at once.
    pub fn off(&self) -> Result<()> {
        self.write_back()?;
        self.pull_the_plug()
    }

    /// Stores edits of the running system in the overlay of its slot.
    pub fn write_back(&self) -> Result<()> {
        let Some(slot) = self.running()? else {
            return Ok(());
        };
        let rom = Snapshot::read(&self.dir.join("rom"))?;
        let view = self.view()?;
        let upper = self.upper(slot)?;
        if view != overlay(&rom, &Snapshot::read(&upper)?) {
            files::remove_tree(&upper)?;
            difference(&rom, &view).write(&upper)?;
        }
        Ok(())
    }

    /// Power goes: what the running system showed is no more.
    pub fn pull_the_plug(&self) -> Result<()> {
        self.flash.power_cycle();
        self.clear(|name| !PERSISTENT.contains(&name))
    }

    fn clear(&self, goes: impl Fn(&str) -> bool) -> Result<()> {
        for name in files::list(&self.dir)? {
            if goes(&name.to_string_lossy()) {
                files::remove_tree(&self.dir.join(name))?;
            }
        }
        Ok(())
    }

    /// Name of a slot.
    pub fn name(&self, slot: Slot) -> &str {
        &self.board.slot(slot).name
    }

    fn names(&self) -> [String; 2] {
        Slot::ALL.map(|slot| self.name(slot).to_owned())
    }

    /// The directory that holds what differs from the root of a slot.
    pub fn upper(&self, slot: Slot) -> Result<PathBuf> {
        let overlay = self.board.slot(slot).overlay.as_ref();
        let overlay = overlay.ok_or("a slot without overlay")?;
        Ok(flash::overlay_dir(&self.dir, &*self.flash, overlay)?.join("upper"))
    }

    /// What its board file says.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Names of the parts of a slot.
    pub fn part_names(&self) -> impl Iterator<Item = &str> {
        self.board.slots[0].parts.keys().map(String::as_str)
    }

    /// True for the part that is the root file system: `root`, or the last one of a board without.
    pub fn holds_root(&self, part: &str) -> bool {
        let parts = &self.board.slots[0].parts;
        let last = parts.last_key_value().map(|(name, _)| name.as_str());
        match parts.contains_key("root") {
            true => part == "root",
            false => Some(part) == last,
        }
    }

    fn medium(&self, slot: Slot, part: &str) -> Result<&Medium> {
        let part = self.board.slot(slot).parts.get(part);
        Ok(part.ok_or("the board has no such part")?)
    }

    /// The file that is the medium of a part.
    pub fn part(&self, slot: Slot, part: &str) -> Result<PathBuf> {
        match self.medium(slot, part)? {
            Medium::File(file) => Ok(below(&self.dir, &file.path)),
            other => Err(format!("part {part} is no file: {other:?}").into()),
        }
    }

    /// What a kernel reads of a part.
    pub fn read_part(&self, slot: Slot, part: &str) -> Result<Vec<u8>> {
        match self.medium(slot, part)? {
            Medium::File(file) => Ok(fs::read(below(&self.dir, &file.path))?),
            other => self.flash.read(other),
        }
    }
}

/// What the kernel shows of an upper directory over a lower one.
fn overlay(lower: &Snapshot, upper: &Snapshot) -> Snapshot {
    let mut view = lower.clone();
    for (path, entry) in &upper.0 {
        let merges = matches!(entry, Entry::Dir { .. })
            && matches!(view.0.get(path), Some(Entry::Dir { .. }));
        if !merges {
            view.remove(path);
        }
        if *entry != Entry::Whiteout {
            view.0.insert(path.clone(), entry.clone());
        }
    }
    view
}

/// The upper directory that makes `lower` look like `view`.
fn difference(lower: &Snapshot, view: &Snapshot) -> Snapshot {
    let mut upper = Snapshot::default();
    let mut add = |path: &Path, entry: &Entry| {
        for dir in path.ancestors().skip(1) {
            if let Some(entry) = view.0.get(dir) {
                upper.0.insert(dir.to_owned(), entry.clone());
            }
        }
        upper.0.insert(path.to_owned(), entry.clone());
    };
    for (path, entry) in &view.0 {
        if lower.0.get(path) != Some(entry) {
            add(path, entry);
        }
    }
    for path in lower.0.keys().filter(|path| !view.0.contains_key(*path)) {
        // Below a directory that is gone as a whole there is nothing left to hide.
        let parent = path.parent().unwrap_or(Path::new(""));
        if parent == Path::new("") || matches!(view.0.get(parent), Some(Entry::Dir { .. })) {
            add(path, &Entry::Whiteout);
        }
    }
    upper
}
