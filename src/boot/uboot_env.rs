//! U-Boot's environment: one copy, or two of which the older is replaced. The bytes of one are in
//! [`copy`].
//!
//! # Two copies
//!
//! A copy with a wrong CRC does not count at all. Of two whole ones `flags` tells which counts:
//!
//! ```text
//! files, block devices,    a counter: the greater value, except that 0 is newer than 255;
//! NAND, UBI                of two equal ones the first
//! NOR                      1 is active, 0 obsolete, 0xff being written: see `newest`
//! ```
//!
//! A store writes the older or damaged copy, with the counter of the newer plus one, so that at every
//! instant one whole copy is on the medium: **a cut leaves the old state or the new one**. On NOR the
//! new copy is active from the start, and when it is proven a single 0 is programmed over the flags of
//! the old one, without an erase. Between these two both are active and the first counts: the old one
//! or the new.
//!
//! A newest copy on NAND that the chip could read only with many corrected bits is not relied on: a
//! program that was cut may have left it, and it may be lost the next time. To erase the older one then,
//! and be cut again, could lose both. So the new one goes over the weak one; a cut leaves the older one,
//! which is the state before the store that was cut first.
//!
//! Two copies that are both damaged are refused, and never written over: what they held is lost
//! only when somebody decides so ([`Bootloader::repair`]). Then both are written anew, one after the
//! other, from `/etc/u-boot-initial-env`: a U-Boot that finds an environment without `bootcmd` boots
//! nothing, so without that file there is no repair. A cut leaves both damaged or one whole. An
//! environment that is whole in another form (of one copy where the board file says two, of the other
//! byte order) is none that is damaged: the board file is wrong, and nothing is written.
//!
//! # One copy
//!
//! In one logical erase block of a dynamic UBI volume it is safe: UBI replaces such a block at one
//! instant. Elsewhere nothing can make it so. While it is written the CRC is wrong, and a cut in that
//! time leaves U-Boot with the environment that is compiled into it. Boards with one copy are for
//! boot loaders that were built so; a board that can have two should.
//!
//! # Others who write
//!
//! Every change is made under the locks of U-Boot's tools ([`lock`]), from the reading on, and no variable
//! is changed that U-Boot itself would not change ([`access`]).

mod access;
mod copy;
mod lock;
mod medium;
mod mtd;

use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use byteorder::{BigEndian, ByteOrder, LittleEndian, NativeEndian};

use super::layout::Layout;
use super::order::Order;
use super::{BootError, Bootloader};
use crate::board::{self, MAX_ENVIRONMENT, Store};
use crate::files::{self, below};
use crate::flash::Chips;
use crate::report::printable;
use crate::slots::{BootState, MAX_TRIES};
use access::Access;
use copy::{ACTIVE, OBSOLETE};
pub use copy::{Environment, Kind, StoredCopy};
use lock::Locks;
use medium::{Flags, Health, Medium, Purpose, System};

/// `name=value` lines with which U-Boot was built, where libubootenv looks for them, too.
const INITIAL: &str = "/etc/u-boot-initial-env";

/// A U-Boot environment in files, on block devices or on flash.
pub struct UbootEnv {
    stores: Vec<Store>,
    names: [String; 2],
    layout: Layout,
    root: PathBuf,
    chips: Rc<dyn Chips>,
}

/// One copy on its medium.
struct Place {
    name: PathBuf,
    offset: u64,
    medium: Box<dyn Medium>,
    bytes: Vec<u8>,
    health: Health,
    copy: Result<StoredCopy, String>,
}

impl UbootEnv {
    /// The environment in these places, one or two, of the system whose root is at `root`, for slots of
    /// these names (in the order of the board file), with the layout `order`. The places are opened when
    /// it is read or written.
    #[must_use]
    pub fn new(
        root: &Path,
        mut stores: Vec<Store>,
        names: [String; 2],
        chips: Rc<dyn Chips>,
    ) -> Self {
        for store in &mut stores {
            if let board::Place::Path(path) = &mut store.place {
                *path = below(root, path);
            }
        }
        Self {
            root: root.to_owned(),
            stores,
            layout: Layout::new(&board::Layout::Order, names.clone(), MAX_TRIES),
            names,
            chips,
        }
    }

    /// With this layout, and trials of so many boots.
    #[must_use]
    pub fn with_layout(mut self, layout: &board::Layout, tries: u8) -> Self {
        self.layout = Layout::new(layout, self.names.clone(), tries);
        self
    }

    /// The bytes of all copies of a new environment that holds `state` and other variables, as a
    /// factory image has them.
    ///
    /// # Errors
    /// [`BootError::Full`].
    pub fn format<E: ByteOrder>(
        names: [String; 2],
        state: &BootState,
        others: &[(&str, &str)],
        size: usize,
        copies: usize,
    ) -> Result<Vec<Vec<u8>>, BootError> {
        let mut environment = Environment::default();
        for (name, value) in Order::new(names).variables(state) {
            environment.set(&name, &value);
        }
        for (name, value) in others {
            environment.set(name, value);
        }
        let kind = Kind::of(copies);
        let flags = [1, 0]; // the first copy is the newer one
        let copies = flags.iter().take(copies).map(|flags| StoredCopy {
            flags: *flags,
            environment: environment.clone(),
        });
        let full = |need| full(Path::new("a new U-Boot environment"), need, size);
        copies
            .map(|copy| copy.encode::<E>(kind, size).map_err(full))
            .collect()
    }

    /// All variables, those that say nothing of slots among them.
    ///
    /// # Errors
    /// When no copy is whole, or a place cannot be opened.
    pub fn variables(&self) -> Result<Environment, BootError> {
        Ok(self.current()?.1)
    }

    /// Sets variables, or removes those that are to have no value, all in one store: a cut leaves the
    /// old values of all of them or the new ones (where there are two copies). Returns when the medium
    /// holds them. The variables that say which slot boots are for
    /// [`Bootloader::store`] alone.
    ///
    /// # Errors
    /// [`BootError::Variable`] for a name or a value that no environment can hold, and for a variable that
    /// U-Boot lets nobody change; others as [`Bootloader::store`].
    pub fn change(&self, changes: &[(&str, Option<&str>)]) -> Result<(), BootError> {
        self.check_names(changes)?;
        self.replace(|environment| environment.apply(changes))
    }

    /// Complains of what [`change`](Self::change) would refuse; nothing is written.
    ///
    /// # Errors
    /// [`BootError::Full`] when there is no room; others as [`change`](Self::change).
    pub fn check(&self, changes: &[(&str, Option<&str>)]) -> Result<(), BootError> {
        self.check_names(changes)?;
        let places = self.open(Purpose::Read)?;
        let (newest, copy) = newest(&places)?;
        let mut copy = copy.clone();
        let old = copy.environment.clone();
        copy.environment.apply(changes);
        self.check_access(&old, &copy.environment)?;
        let (place, kind) = (&places[newest], Kind::of(places.len()));
        let size = place.bytes.len();
        let encoded = copy.encode::<NativeEndian>(kind, size);
        encoded
            .map(drop)
            .map_err(|need| full(&place.name, need, size))
    }

    fn check_names(&self, changes: &[(&str, Option<&str>)]) -> Result<(), BootError> {
        for (name, value) in changes {
            let wrong = if name.is_empty() || name.contains(['=', '\0']) {
                "is no name for a variable"
            } else if value.is_some_and(|value| value.contains('\0')) {
                "a value has no NUL in it"
            } else {
                continue;
            };
            return Err(BootError::Variable {
                path: self.name(),
                name: printable(name),
                problem: wrong.to_owned(),
            });
        }
        Ok(())
    }

    /// Complains of a variable that was changed and may not be.
    fn check_access(&self, old: &Environment, new: &Environment) -> Result<(), BootError> {
        match access::forbidden(old, new) {
            None => Ok(()),
            Some((name, access)) => Err(BootError::Variable {
                path: self.name(),
                name: printable(&String::from_utf8_lossy(&name)),
                problem: format!("is {}: U-Boot lets nobody change it", access.word()),
            }),
        }
    }

    /// Complains of a layout that would set a variable that may not be set more than once.
    fn check_layout(&self, environment: &Environment) -> Result<(), BootError> {
        for (name, _) in self.layout.variables(&BootState::FACTORY) {
            let access = Access::of(environment, name.as_bytes());
            if access != Access::Anybody {
                return Err(BootError::Variable {
                    path: self.name(),
                    name: printable(&name),
                    problem: format!(
                        "is {}: the layout in the board file must not set it",
                        access.word()
                    ),
                });
            }
        }
        Ok(())
    }

    /// What messages call it: its first place.
    fn name(&self) -> PathBuf {
        let first = self.stores.first();
        first.map_or_else(PathBuf::new, |store| store.place.to_string().into())
    }

    /// The copy that counts, and where it is.
    fn current(&self) -> Result<(PathBuf, Environment), BootError> {
        let places = self.open(Purpose::Read)?;
        let (newest, copy) = newest(&places)?;
        Ok((places[newest].name.clone(), copy.environment.clone()))
    }

    /// Opens and reads all places. A copy that cannot be read is as good as a damaged one: that
    /// there are two is for this.
    fn open(&self, purpose: Purpose) -> Result<Vec<Place>, BootError> {
        let kind = Kind::of(self.stores.len());
        let system = System {
            root: &self.root,
            chips: &*self.chips,
        };
        let open = |store| Place::open(store, kind, system, purpose);
        let places: Vec<_> = self.stores.iter().map(open).collect::<Result<_, _>>()?;
        if let [first, second] = places.as_slice() {
            first.fits(second)?;
        }
        Ok(places)
    }

    /// Replaces the older copy by the newer one with what `change` makes of its variables.
    fn replace(&self, change: impl FnOnce(&mut Environment)) -> Result<(), BootError> {
        let _locks = Locks::take(&self.root)?;
        let mut places = self.open(Purpose::Change)?;
        let none_is_sound = !places.iter().any(Place::is_sound);
        self.write(&mut places, change)?;
        if none_is_sound && places.len() == 2 {
            // The one that was relied on until now.
            self.write(&mut self.open(Purpose::Change)?, |_| {})?;
        }
        Ok(())
    }

    fn write(
        &self,
        places: &mut [Place],
        change: impl FnOnce(&mut Environment),
    ) -> Result<(), BootError> {
        let (newest, current) = newest(places)?;
        let other = (newest + 1) % places.len();
        let mut copy = current.clone();
        change(&mut copy.environment);
        self.check_access(&current.environment, &copy.environment)?;
        let flags = places[newest].medium.flags();
        if flags == Flags::Boolean {
            copy.flags = ACTIVE;
        }
        if copy == *current && places.iter().all(Place::is_sound) {
            // Nothing to write, only to make sure of.
            let place = &mut places[newest];
            place.medium.settle(&place.bytes)?;
            if other != newest {
                places[other].medium.obsolete()?;
            }
            return Ok(());
        }
        // Not on a weak copy alone may a store rely: it goes over that one if the older one is sound.
        let target = match places[newest].is_sound() || !places[other].is_sound() {
            true => other,
            false => newest,
        };
        if flags == Flags::Counter {
            copy.flags = current.flags.wrapping_add(1);
        }
        let kind = Kind::of(places.len());
        let place = &mut places[target];
        let size = place.bytes.len();
        let bytes = copy
            .encode::<NativeEndian>(kind, size)
            .map_err(|need| full(&place.name, need, size))?;
        place.medium.replace(&place.bytes, &bytes)?;
        if target != newest {
            places[newest].medium.obsolete()?;
        }
        Ok(())
    }

    /// Writes all copies anew, when none of them says anything any more.
    fn renew(&self, mut places: Vec<Place>, state: &BootState) -> Result<(), BootError> {
        let kind = Kind::of(places.len());
        for place in &places {
            if let Some(form) = place.other_form(kind) {
                return Err(self.irreparable(format!(
                    "{place} is whole {form}: correct the board file, or `fw_env.config`"
                )));
            }
        }
        let mut environment = self.initial()?;
        self.check_layout(&environment)?;
        for (name, value) in self.layout.variables(state) {
            environment.set(&name, &value);
        }
        let get = |name: &str| environment.get(name).map(<[u8]>::to_vec);
        self.layout.read(&self.name(), get)?;
        let mut copies = Vec::new();
        // The first copy is the newer one, of both flag conventions.
        for (place, flags) in places.iter().zip([ACTIVE, OBSOLETE]) {
            let environment = environment.clone();
            let copy = StoredCopy { flags, environment };
            let size = place.bytes.len();
            let bytes = copy.encode::<NativeEndian>(kind, size);
            copies.push(bytes.map_err(|need| full(&place.name, need, size))?);
        }
        for (place, bytes) in places.iter_mut().zip(&copies) {
            place.medium.replace(&place.bytes, bytes)?;
        }
        Ok(())
    }

    /// The variables with which U-Boot was built.
    fn initial(&self) -> Result<Environment, BootError> {
        let path = below(&self.root, Path::new(INITIAL));
        let Some(text) = files::read_if_exists(&path, MAX_ENVIRONMENT)? else {
            let problem = format!("no copy is whole, and there is no {INITIAL} to make one of");
            return Err(self.irreparable(problem));
        };
        let mut environment = Environment::default();
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let name = line.iter().position(|byte| *byte == b'=');
            if line.contains(&0) || name.is_none_or(|len| len == 0) {
                let problem = format!("line {} of {INITIAL} is no `name=value`", index + 1);
                return Err(self.irreparable(problem));
            }
            if name.is_some_and(|len| len + 1 < line.len()) {
                environment.push(line);
            }
        }
        if environment.get("bootcmd").is_none() {
            let problem = format!("{INITIAL} has no `bootcmd`, U-Boot would boot nothing");
            return Err(self.irreparable(problem));
        }
        Ok(environment)
    }

    fn irreparable(&self, problem: String) -> BootError {
        BootError::Irreparable {
            path: self.name(),
            problem,
        }
    }
}

/// What is wrong with copies of which one can be read, a sentence each.
fn flaws(places: &[Place]) -> Vec<String> {
    let mut flaws = Vec::new();
    for place in places {
        match &place.copy {
            Err(problem) => flaws.push(format!("{place} is damaged: {problem}")),
            Ok(_) if place.health == Health::Weak => {
                flaws.push(format!("{place} could hardly be read and may soon be lost"));
            }
            Ok(_) => {}
        }
    }
    if let [first, second] = places
        && let (Ok(one), Ok(two)) = (&first.copy, &second.copy)
        && first.medium.flags() == Flags::Boolean
        && !matches!(
            (one.flags, two.flags),
            (ACTIVE, OBSOLETE) | (OBSOLETE, ACTIVE)
        )
    {
        flaws.push(format!(
            "{first} has the flags {}, the other one {}: not one active, one obsolete",
            one.flags, two.flags
        ));
    }
    flaws
}

/// The copy that counts, and its position.
fn newest(places: &[Place]) -> Result<(usize, &StoredCopy), BootError> {
    places
        .iter()
        .enumerate()
        .filter_map(|(index, place)| Some((index, place.copy.as_ref().ok()?)))
        .reduce(|first, second| {
            let first_counts = match places[first.0].medium.flags() {
                Flags::Counter => first.1.is_newer_than(second.1),
                Flags::Boolean => first.1.is_active_rather_than(second.1),
            };
            if first_counts { first } else { second }
        })
        .ok_or_else(|| {
            let path = places.first().map(|place| place.name.clone());
            let problems = places.iter().filter_map(|place| place.copy.as_ref().err());
            BootError::Damaged {
                path: path.unwrap_or_default(),
                problem: format!(
                    "no copy of the environment is whole: {}",
                    problems.cloned().collect::<Vec<_>>().join("; the other: ")
                ),
            }
        })
}

impl Bootloader for UbootEnv {
    fn load(&mut self) -> Result<BootState, BootError> {
        let (path, environment) = self.current()?;
        self.check_layout(&environment)?;
        self.layout
            .read(&path, |name| environment.get(name).map(<[u8]>::to_vec))
    }

    fn store(&mut self, state: &BootState) -> Result<(), BootError> {
        self.replace(|environment| {
            for (name, value) in self.layout.variables(state) {
                environment.set(&name, &value);
            }
        })
    }

    fn flaws(&mut self) -> Result<Vec<String>, BootError> {
        self.load()?;
        Ok(flaws(&self.open(Purpose::Read)?))
    }

    fn repair(&mut self, state: &BootState) -> Result<Vec<String>, BootError> {
        let places = self.open(Purpose::Read)?;
        let done = |flaw: String| format!("{flaw}; it was written anew");
        let mut done: Vec<String> = flaws(&places).into_iter().map(done).collect();
        if newest(&places).is_ok() {
            self.store(state)?;
        } else {
            let _locks = Locks::take(&self.root)?;
            self.renew(self.open(Purpose::Change)?, state)?;
            done.push(format!("all other variables are those of {INITIAL}"));
        }
        if done.is_empty() {
            done.push(format!(
                "{}: the state was stored anew",
                self.name().display()
            ));
        }
        Ok(done)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the copy in {}", self.name.display())?;
        match self.offset {
            0 => Ok(()),
            offset => write!(f, " at {offset:#x}"),
        }
    }
}

impl Place {
    fn open(
        store: &Store,
        kind: Kind,
        system: System<'_>,
        purpose: Purpose,
    ) -> Result<Self, BootError> {
        let name = PathBuf::from(store.place.to_string());
        let size = store.size.filter(|size| *size <= MAX_ENVIRONMENT);
        let Some(size) = size.and_then(|size| usize::try_from(size).ok()) else {
            let size = store.size.unwrap_or_default();
            return Err(BootError::Damaged {
                path: name,
                problem: format!(
                    "an environment of {size} bytes, 1 to {MAX_ENVIRONMENT} are possible"
                ),
            });
        };
        let mut medium = medium::open(store, size, system, purpose)?;
        let mut bytes = vec![0; size];
        let read = medium.read(&mut bytes);
        let health = *read.as_ref().unwrap_or(&Health::Weak);
        let copy = read.and_then(|_| StoredCopy::decode::<NativeEndian>(&bytes, kind));
        Ok(Self {
            name,
            offset: store.offset,
            medium,
            bytes,
            health,
            copy,
        })
    }

    /// In which other form a copy that is damaged as one of this kind is whole, for somebody else.
    fn other_form(&self, kind: Kind) -> Option<&'static str> {
        let is_swapped = |kind| {
            StoredCopy::decode::<LittleEndian>(&self.bytes, kind).is_ok()
                || StoredCopy::decode::<BigEndian>(&self.bytes, kind).is_ok()
        };
        match StoredCopy::decode::<NativeEndian>(&self.bytes, kind.other()) {
            Ok(_) if kind == Kind::Single => Some("as one of two"),
            Ok(_) => Some("as one that stands alone"),
            Err(_) if is_swapped(kind) || is_swapped(kind.other()) => {
                Some("in the other byte order")
            }
            Err(_) => None,
        }
    }

    /// True if the copy is whole and will stay so.
    fn is_sound(&self) -> bool {
        self.copy.is_ok() && self.health == Health::Sound
    }

    /// Complains unless the other copy outlives a cut in a write of this one.
    fn fits(&self, other: &Self) -> Result<(), BootError> {
        let problem = match (self.medium.erases(), other.medium.erases()) {
            _ if self.medium.flags() != other.medium.flags() => {
                "it is on NOR flash and the other copy is not, so their flags tell nothing"
            }
            (Some((mtd, first)), Some((second_mtd, second)))
                if mtd == second_mtd && first.start < second.end && second.start < first.end =>
            {
                "it shares erase blocks with the other copy, so a power cut could take both"
            }
            _ => return Ok(()),
        };
        Err(BootError::Damaged {
            path: self.name.clone(),
            problem: problem.to_owned(),
        })
    }
}

fn full(path: &Path, need: u64, room: usize) -> BootError {
    BootError::Full {
        path: path.to_owned(),
        need,
        room: room as u64,
    }
}
