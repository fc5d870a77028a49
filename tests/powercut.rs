//! Power may go at any instruction: the next boot finds a whole system with a configuration that
//! belongs to it.
//!
//! Each test lives through an upgrade once, and records what install, first boot and confirm write.
//! Then, for every disk that a cut in one of these operations can leave behind (see [`sim`]), a
//! router with that disk is switched on, and has to come up whole, with its own configuration, and
//! has to get to the new version when told again. Sometimes it is not confirmed: then it has to come
//! back to the old system.
//!
//! `POWERCUT_SEED=N` tries other random choices; the numbers of a run are printed.

mod sim;
mod world;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use std::{env, fs};

use sysupgrade_rs::board::{Board, Layout, Medium, Place, VIRTUAL};
use sysupgrade_rs::data::{ArchiveRef, Data};
use sysupgrade_rs::digest::Digest;
use sysupgrade_rs::files;
use sysupgrade_rs::files::trace::{self, Op};
use sysupgrade_rs::guard::{Ended, guard};
use sysupgrade_rs::health::Checks;
use sysupgrade_rs::slots::{BootState, Condition, Slot, Standing};

use sim::{
    Chips, ChipsState, Crash, Operation, Random, Raw, Run, Verb, one_each, path_of, simulated,
};
use world::router::{Booted, PERSISTENT, Result, Router};
use world::snapshot::{Entry, Snapshot};
use world::{System, World, describe, lived_in};

/// How often a disk that is cut a second time is.
const SECOND_CUTS: usize = 5;

/// A system in its slot, as it must be whenever it runs.
struct Side {
    slot: Slot,
    kernel: Vec<u8>,
    root: Vec<u8>,
    /// What the running system may show: its root with its configuration, before and after edits.
    views: Vec<Snapshot>,
    /// Its overlay.
    upper: Snapshot,
}

impl Side {
    fn of(router: &Router, slot: Slot, system: &System) -> Result<Self> {
        Ok(Self {
            slot,
            kernel: system.kernel.clone(),
            root: system.root_part()?,
            views: vec![view(router)?],
            upper: Snapshot::read(&router.upper(slot)?)?,
        })
    }

    /// True if its slot holds this system.
    fn is_whole(&self, router: &Router) -> Result<bool> {
        holds(router, self.slot, &self.kernel, &self.root)
    }

    /// Complains unless this system runs, whole, with its own configuration.
    fn check(&self, router: &Router) -> Result<()> {
        if !self.is_whole(router)? {
            return Err(format!("slot {} runs, and is not whole", router.name(self.slot)).into());
        }
        let found = view(router)?;
        if !self.views.contains(&found) {
            let name = router.name(self.slot);
            let differences: Vec<_> = self
                .views
                .iter()
                .map(|view| found.differences(view))
                .collect();
            let differences = differences.join("  or\n");
            return Err(format!("slot {name} does not have its own files:\n{differences}").into());
        }
        Ok(())
    }
}

/// True if a slot holds these parts, as a kernel reads them.
fn holds(router: &Router, slot: Slot, kernel: &[u8], root: &[u8]) -> Result<bool> {
    for part in router.part_names() {
        let content = match router.holds_root(part) {
            true => root,
            false => kernel,
        };
        match router.read_part(slot, part) {
            Ok(found) if found.starts_with(content) => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// Which of the two systems the next boot must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finds {
    Old,
    /// The new system may start, refuse its first boot, and ask for another one.
    OldAfterRefusal,
    New,
    Either,
}

/// A run that is cut: what the disk held before, what was written, and what a cut may lead to.
struct Leg {
    name: &'static str,
    work: Recording,
    /// After a cut in it, and after its end.
    finds: [Finds; 2],
    losses: Losses,
}

/// What a router wrote, and what it had before.
struct Recording {
    disk: Snapshot,
    log: Vec<Op>,
    chips: ChipsState,
    chips_log: Vec<Operation>,
}

impl Recording {
    /// What it did to chips.
    fn of_chips(&self) -> impl Iterator<Item = &Operation> {
        self.log.iter().filter_map(|op| match op {
            Op::Elsewhere(number) => self.chips_log.get(usize::try_from(*number).ok()?),
            _ => None,
        })
    }

    fn run<'a>(&'a self, root: &'a Path) -> Run<'a> {
        Run {
            root,
            disk: &self.disk,
            log: &self.log,
            chips: &self.chips,
            chips_log: &self.chips_log,
        }
    }
}

/// A router on a desk, with probes at its chips.
struct Bench {
    world: World,
    board: Board,
    chips: Chips,
}

impl Bench {
    /// One as it leaves the factory, of this board with chips of this kind; power is off.
    fn new(board: &Board, raw: Raw, system: &System) -> Result<Self> {
        let (board, chips) = simulated(board, raw, seed()?);
        let dir = world::temporary_directory()?;
        let router = router(&dir.path().join("router"), &board, &chips);
        let world = World::with(dir, router, system)?;
        Ok(Self {
            world,
            board,
            chips,
        })
    }

    fn router(&self) -> &Router {
        &self.world.router
    }
}

fn router(dir: &Path, board: &Board, chips: &Chips) -> Router {
    chips.set_dir(dir);
    Router::of(dir, board, Rc::new(chips.clone()))
}

/// A router without power with this on its disk and in its flash.
fn router_with(dir: &Path, board: &Board, crash: &Crash) -> Result<(Router, Chips)> {
    let chips = Chips::with_state(&crash.chips);
    let router = router(dir, board, &chips);
    router.set_disk(&crash.disk)?;
    Ok((router, chips))
}

/// An upgrade from one system to another.
struct Upgrade {
    /// The directory of the router that lived through it.
    dir: PathBuf,
    board: Board,
    old: Side,
    new: Side,
    /// Kernel and root of the system that was in the slot of the new one before, if there was any.
    before: Option<(Vec<u8>, Vec<u8>)>,
    image: Vec<u8>,
    keep: bool,
    legs: Vec<Leg>,
}

/// What is tried of the many things that a cut in one operation can do to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Losses {
    All,
    /// One of them, by chance: enough for a run of hundreds of operations of the same few kinds.
    OneEach,
}

impl Losses {
    /// Of so many disks that a cut left behind, one is cut a second time.
    fn one_in(self) -> usize {
        match self {
            Self::All => 5,
            Self::OneEach => 50,
        }
    }
}

/// Runs `work` on a router and records what it writes to its disk and chips.
fn record(router: &Router, chips: &Chips, work: impl FnOnce() -> Result<()>) -> Result<Recording> {
    let (disk, state) = (router.disk()?, chips.state());
    let (done, mut log) = trace::record(work);
    done?;
    log.retain(|op| persists(op, router.dir()));
    Ok(Recording {
        disk,
        log,
        chips: state,
        chips_log: chips.log(),
    })
}

fn persists(op: &Op, dir: &Path) -> bool {
    matches!(op, Op::Elsewhere(_))
        || PERSISTENT
            .iter()
            .any(|kept| path_of(op).starts_with(dir.join(kept)))
}

fn power_on(router: &Router) -> Result<Slot> {
    match router.boot(|| world::first_boot(router))? {
        Booted::Up(slot) => Ok(slot),
        other => Err(format!("no system is up: {other:?}").into()),
    }
}

impl Upgrade {
    /// An upgrade of a router that runs `old`, with nothing done yet.
    fn prepare(
        bench: &Bench,
        before: Option<&System>,
        old: &System,
        new: &System,
        keep: bool,
    ) -> Result<Self> {
        let router = bench.router();
        let from = router.running()?.ok_or("power is off")?;
        Ok(Self {
            dir: router.dir().to_owned(),
            board: bench.board.clone(),
            old: Side::of(router, from, old)?,
            new: Side::of(router, from.other(), new)?,
            before: match before {
                Some(system) => Some((system.kernel.clone(), system.root_part()?)),
                None => None,
            },
            image: bench.world.image(new)?,
            keep,
            legs: Vec::new(),
        })
    }

    /// Lives through it once, as far as the trial.
    fn live(
        bench: &Bench,
        before: Option<&System>,
        old: &System,
        new: &System,
        keep: bool,
    ) -> Result<Self> {
        let router = bench.router();
        let mut this = Self::prepare(bench, before, old, new, keep)?;
        this.leg(bench, "install", [Finds::Either, Finds::New], |this| {
            world::install(router, &this.image, keep)?;
            this.old.check(router)
        })?;
        this.leg(bench, "first boot", [Finds::New, Finds::New], |_| {
            power_on(router)?;
            Ok(())
        })?;
        this.new.views = vec![view(router)?];
        this.new.check(router)?;
        Ok(this)
    }

    /// Lives through something that is to be cut.
    fn leg(
        &mut self,
        bench: &Bench,
        name: &'static str,
        finds: [Finds; 2],
        work: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<()> {
        let router = bench.router();
        let recording = record(router, &bench.chips, || work(self))?;
        let (told, flash) = recording.run(router.dir()).end();
        let found = router.disk()?;
        if told != found {
            let differences = found.differences(&told);
            return Err(format!("{name} wrote what was not recorded:\n{differences}").into());
        }
        if flash != bench.chips.state() {
            return Err(format!("{name} did to its chips what was not recorded").into());
        }
        check_behaviour(&bench.chips)?;
        self.legs.push(Leg {
            name,
            work: recording,
            finds,
            losses: Losses::All,
        });
        Ok(())
    }

    /// The last leg, where the new system is good.
    fn confirm(&mut self, bench: &Bench) -> Result<()> {
        self.leg(bench, "confirm", [Finds::New, Finds::New], |_| {
            let confirmed = world::confirm(bench.router())?;
            assert!(confirmed, "there was something to confirm");
            Ok(())
        })
    }

    /// What the new system shows after its first boot, found out on this router.
    fn rehearse(&self, bench: &Bench) -> Result<Vec<Snapshot>> {
        let router = bench.router();
        if power_on(router)? == self.old.slot {
            world::install(router, &self.image, self.keep)?;
            power_on(router)?;
        }
        Ok(vec![view(router)?])
    }

    fn side(&self, slot: Slot) -> &Side {
        if slot == self.old.slot {
            &self.old
        } else {
            &self.new
        }
    }

    /// Switches a router on, and complains unless a whole system comes up, and unless the other slot
    /// is whole, too, if the boot loader would take it.
    fn power_on(&self, router: &Router) -> Result<Slot> {
        let slot = power_on(router)?;
        self.side(slot).check(router)?;
        self.check_archive(router)?;
        let target = self.new.slot;
        if slot != target && state(router)?.condition(target) != Condition::Unbootable {
            let before = match &self.before {
                Some((kernel, root)) => holds(router, target, kernel, root)?,
                None => false,
            };
            if !self.new.is_whole(router)? && !before {
                let name = router.name(target);
                return Err(format!("slot {name} may be booted, and is not whole").into());
            }
        }
        Ok(slot)
    }

    /// The same, and once more where the boot loader read another state than the system: a program of NAND
    /// that was cut may be read either way. It comes up whole, and goes back.
    fn power_on_until_agreed(&self, router: &Router) -> Result<Slot> {
        let slot = self.power_on(router)?;
        match state(router)?.standing(slot) {
            Standing::GivenUp => self.power_on(router),
            _ => Ok(slot),
        }
    }

    /// Complains if the archive of a slot on trial is not what the install recorded.
    fn check_archive(&self, router: &Router) -> Result<()> {
        let (target, name) = (self.new.slot, router.name(self.new.slot));
        let data = world::machine(router)?.data;
        let mut finds = self.legs.iter().flat_map(|leg| leg.finds);
        if finds.any(|finds| finds == Finds::OldAfterRefusal) {
            return Ok(()); // it was damaged on purpose
        }
        if let Condition::Trial(_) = state(router)?.condition(target)
            && let Some(archive) = data.installed(name)?.and_then(|slot| slot.archive)
            && archive_digest(&data, name, &archive)? != archive.sha256
        {
            return Err("the archive was changed before its slot was confirmed".into());
        }
        Ok(())
    }

    /// What has to be true of a router with this disk, whatever it went through.
    fn survives(&self, dir: &Path, crash: &Crash, finds: Finds, give_up: bool) -> Result<()> {
        let (router, chips) = router_with(dir, &self.board, crash)?;
        self.comes_back(&router, finds, give_up)?;
        check_behaviour(&chips)
    }

    fn comes_back(&self, router: &Router, finds: Finds, give_up: bool) -> Result<()> {
        if finds == Finds::OldAfterRefusal {
            while let Booted::Refused(_) = router.boot(|| world::first_boot(router))? {}
        }
        let mut slot = self.power_on_until_agreed(router)?;
        let fits = match finds {
            Finds::Old | Finds::OldAfterRefusal => slot == self.old.slot,
            Finds::New => slot == self.new.slot,
            Finds::Either => true,
        };
        if !fits {
            return Err(format!("slot {} is up", router.name(slot)).into());
        }
        if give_up && slot == self.new.slot && state(router)?.condition(slot) != Condition::Good {
            slot = self.wear_out(router)?;
        }
        if slot == self.old.slot {
            world::install(router, &self.image, self.keep)?;
            slot = self.power_on(router)?;
            if slot != self.new.slot {
                return Err("the upgrade, run again, did not lead to the new system".into());
            }
        }
        world::confirm(router)?;
        for _ in 0..2 {
            if self.power_on(router)? != slot || state(router)?.condition(slot) != Condition::Good {
                return Err("a confirmed system did not stay".into());
            }
        }
        if Snapshot::read(&router.upper(self.old.slot)?)? != self.old.upper {
            return Err("the configuration of the old system was changed".into());
        }
        if world::machine(router)?.data.scratch().exists() {
            return Err("the scratch of a plan that was cut is still there".into());
        }
        Ok(())
    }

    /// Uses up the tries of a trial that nobody confirms: the old system must be back. A boot loader
    /// that counts nothing leaves it to the clock.
    fn wear_out(&self, router: &Router) -> Result<Slot> {
        if let Layout::Switch(switch) = &self.board.boot.layout
            && switch.counter.is_none()
        {
            world::go_back(router)?;
        }
        for _ in 0..3 {
            if self.power_on(router)? == self.old.slot {
                return Ok(self.old.slot);
            }
        }
        Err("its tries are used up, and it still runs".into())
    }

    /// Cuts every leg everywhere.
    fn cut_everywhere(&self, random: &mut Random) -> Result<Tally> {
        let dir = world::temporary_directory()?;
        let dir = dir.path().join("router");
        let mut tally = Tally::default();
        for leg in &self.legs {
            let (mut crashes, count) = leg.work.run(&self.dir).cuts(random);
            tally.cuts += count;
            if leg.losses == Losses::OneEach {
                crashes = one_each(crashes, random);
            }
            for crash in &crashes {
                let story = format!("{}: {}", leg.name, crash.story);
                let finds = leg.finds[usize::from(crash.after_the_end)];
                let survived = self.survives(&dir, crash, finds, random.coin());
                let whole = survived.is_ok();
                tally.add(&story, survived);
                if whole
                    && finds != Finds::OldAfterRefusal
                    && random.below(leg.losses.one_in()) == 0
                {
                    self.cut_again(&dir, &story, crash, random, &mut tally)?;
                }
            }
        }
        Ok(tally)
    }

    /// Cuts the run that recovers from a cut.
    fn cut_again(
        &self,
        dir: &Path,
        story: &str,
        crash: &Crash,
        random: &mut Random,
        tally: &mut Tally,
    ) -> Result<()> {
        let (router, chips) = &router_with(dir, &self.board, crash)?;
        let recording = record(router, chips, || {
            if self.power_on_until_agreed(router)? == self.old.slot {
                world::install(router, &self.image, self.keep)?;
            } else {
                world::confirm(router)?;
            }
            Ok(())
        })?;
        let (crashes, _) = recording.run(dir).cuts(random);
        for _ in 0..SECOND_CUTS {
            let again = &crashes[random.below(crashes.len())];
            tally.cuts += 1;
            tally.twice += 1;
            tally.add(
                &format!("{story}; and again, {}", again.story),
                self.survives(dir, again, Finds::Either, random.coin()),
            );
        }
        Ok(())
    }
}

/// What came of it.
#[derive(Default)]
struct Tally {
    cuts: usize,
    twice: usize,
    disks: usize,
    losses: Vec<String>,
}

impl Tally {
    fn add(&mut self, story: &str, survived: Result<()>) {
        self.disks += 1;
        if let Err(error) = survived {
            self.losses
                .push(format!("{story}\n  {}", describe(&*error)));
        }
    }
}

/// What the running system shows. The digest in a report is left out: an archive made a second time
/// holds other times.
fn view(router: &Router) -> Result<Snapshot> {
    let mut view = router.view()?;
    for (path, entry) in &mut view.0 {
        if let Entry::File { data, .. } = entry
            && path.starts_with("etc/sysupgrade/reports")
        {
            let mut report: serde_json::Value = serde_json::from_slice(data)?;
            report["archive"] = "some archive".into();
            *data = serde_json::to_vec(&report)?.into();
        }
    }
    Ok(view)
}

fn state(router: &Router) -> Result<BootState> {
    Ok(router.boot_environment()?.load()?)
}

/// Complains of what no program may ask of a chip.
fn check_behaviour(chips: &Chips) -> Result<()> {
    match chips.violations().first() {
        Some(violation) => Err(format!("no chip can do this: {violation}").into()),
        None => Ok(()),
    }
}

fn archive_digest(data: &Data, slot: &str, wanted: &ArchiveRef) -> Result<Digest> {
    let mut bytes = Vec::new();
    data.open_archive(slot, wanted)?.read_to_end(&mut bytes)?;
    Ok(Digest::of(&bytes))
}

/// The seed of this run.
fn seed() -> Result<u64> {
    match env::var("POWERCUT_SEED") {
        Ok(text) => Ok(text.parse()?),
        Err(_) => Ok(1),
    }
}

/// Cuts an upgrade everywhere, tells how often, and fails with the first few losses.
fn cut_everywhere(title: &str, upgrade: &Upgrade) -> Result<()> {
    const SHOWN: usize = 5;
    let seed = seed()?;
    let tally = upgrade.cut_everywhere(&mut Random(seed))?;
    let legs: Vec<String> = upgrade
        .legs
        .iter()
        .map(|leg| format!("{} {}", leg.work.log.len(), leg.name))
        .collect();
    // Past the capture of the test runner: whoever runs this wants to know that it was done.
    writeln!(
        std::io::stderr(),
        "{title}: {} power cuts ({} of them second ones), {} different disks, POWERCUT_SEED={seed}; operations: {}",
        tally.cuts,
        tally.twice,
        tally.disks,
        legs.join(", "),
    )?;
    let losses = &tally.losses;
    let shown = losses.get(..SHOWN).unwrap_or(losses).join("\n\n");
    assert!(
        losses.is_empty(),
        "{} disks lead to a loss, among them:\n{shown}",
        losses.len()
    );
    Ok(())
}

/// A router that runs version 1, and whose owner has configured it.
fn configured() -> Result<Bench> {
    configured_on(&Board::parse(VIRTUAL, "board/virtual.toml")?, Raw::Nor)
}

/// The same on another board.
fn configured_on(board: &Board, raw: Raw) -> Result<Bench> {
    let bench = Bench::new(board, raw, &System::new(1))?;
    power_on(bench.router())?;
    configure(bench.router(), "one")?;
    Ok(bench)
}

/// An owner at work: changes, adds and deletes. All files bear his mark.
fn configure(router: &Router, mark: &str) -> Result<()> {
    let etc = router.dir().join("etc");
    fs::write(
        etc.join("config/network"),
        format!("option ipaddr '{mark}'\n"),
    )?;
    fs::write(
        etc.join("config/wireless"),
        format!("option ssid '{mark}'\n"),
    )?;
    fs::write(etc.join("config/added"), format!("option added '{mark}'\n"))?;
    for gone in ["config/telnet", "config/link"] {
        files::remove_tree(&etc.join(gone))?;
    }
    symlink(mark, etc.join("config/link"))?;
    router.write_back()
}

/// A board file of the tests.
fn test_board(name: &str) -> Result<Board> {
    let path = format!("{}/tests/boards/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    Ok(Board::parse(&fs::read_to_string(&path)?, &path)?)
}

/// A second upgrade on this board, over the system that was there first. `worsen` does something to
/// the flash before it.
fn upgrade_on(
    board: &Board,
    raw: Raw,
    worsen: impl FnOnce(&Chips, &Board),
) -> Result<(Bench, Upgrade)> {
    let bench = configured_on(board, raw)?;
    let [one, two, three] = [1, 2, 3].map(System::new);
    Upgrade::live(&bench, None, &one, &two, true)?.confirm(&bench)?;
    configure(bench.router(), "two")?;
    worsen(&bench.chips, &bench.board);
    let mut upgrade = Upgrade::live(&bench, Some(&one), &two, &three, true)?;
    upgrade.confirm(&bench)?;
    Ok((bench, upgrade))
}

/// Cuts an upgrade on this board everywhere.
fn cut_board(title: &str, board: &Board, raw: Raw) -> Result<()> {
    let (_bench, mut upgrade) = upgrade_on(board, raw, |_, _| ())?;
    // On every board it is the same work on files, and it was cut to pieces on the virtual one.
    let first_boot = upgrade.legs.iter_mut().find(|leg| leg.name == "first boot");
    first_boot.ok_or("there is a first boot")?.losses = Losses::OneEach;
    cut_everywhere(title, &upgrade)
}

/// Cuts upgrades on this board during which a block of NAND goes bad: the first or the last that is
/// erased or programmed, of a part and of the environment.
fn cut_board_with_growing_bad_blocks(title: &str, board: &Board) -> Result<()> {
    let part = |board: &Board| match board.slots[0].parts.values().next_back() {
        Some(Medium::Mtd(place)) => Ok(place.mtd.clone()),
        other => Err(format!("{other:?} is no MTD")),
    };
    let environment = |board: &Board| match &board.boot.store[0].place {
        Place::Mtd(mtd) => Some(mtd.clone()),
        _ => None,
    };
    let (_, whole) = upgrade_on(board, Raw::Nand, |_, _| ())?;
    for chip in [Some(part(board)?), environment(board)]
        .into_iter()
        .flatten()
    {
        for verb in [Verb::Erase, Verb::Program] {
            let times = whole.legs.iter().flat_map(|leg| leg.work.of_chips());
            let times = times.filter(|op| op.chip == chip && op.verb() == Some(verb));
            let last = times.count() as u64;
            if last == 0 {
                return Err(
                    format!("{title}: no {verb:?} on {chip}, where a block was to go bad").into(),
                );
            }
            for nth in BTreeSet::from([1, last]) {
                let fail = |chips: &Chips, _: &Board| chips.fail(&chip, verb, None, nth);
                let (_bench, mut upgrade) = upgrade_on(board, Raw::Nand, fail)?;
                for leg in &mut upgrade.legs {
                    leg.losses = Losses::OneEach;
                }
                let title = format!("{title}, {verb:?} {nth} of {chip} fails");
                cut_everywhere(&title, &upgrade)?;
            }
        }
    }
    Ok(())
}

fn text(router: &Router, path: &str) -> Result<String> {
    Ok(fs::read_to_string(router.dir().join(path))?)
}

#[test]
fn an_upgrade_that_keeps_the_configuration_survives_power_cuts_everywhere() -> Result<()> {
    let bench = &configured()?;
    let router = bench.router();
    let mut upgrade = Upgrade::live(bench, None, &System::new(1), &System::new(2), true)?;
    upgrade.confirm(bench)?;
    // What survives is also what was meant.
    assert_eq!(text(router, "etc/config/network")?, "option ipaddr 'one'\n");
    assert_eq!(text(router, "etc/config/added")?, "option added 'one'\n");
    assert_eq!(
        text(router, "etc/config/system")?,
        "option hostname 'router2'\n"
    );
    assert!(!router.dir().join("etc/config/telnet").exists());
    let link = fs::read_link(router.dir().join("etc/config/link"))?;
    assert_eq!(link, Path::new("one"));
    cut_everywhere("upgrade with configuration", &upgrade)
}

#[test]
fn an_upgrade_into_a_slot_with_an_older_life_survives_power_cuts_everywhere() -> Result<()> {
    let bench = &configured()?;
    let router = bench.router();
    Upgrade::live(bench, None, &System::new(1), &System::new(2), true)?.confirm(bench)?;
    configure(router, "two")?;
    let mut upgrade = Upgrade::live(
        bench,
        Some(&System::new(1)),
        &System::new(2),
        &System::new(3),
        true,
    )?;
    upgrade.confirm(bench)?;
    assert_eq!(text(router, "etc/config/network")?, "option ipaddr 'two'\n");
    cut_everywhere("upgrade over an older system", &upgrade)
}

#[test]
fn an_upgrade_without_configuration_survives_power_cuts_everywhere() -> Result<()> {
    let bench = &configured()?;
    let router = bench.router();
    Upgrade::live(bench, None, &System::new(1), &System::new(2), true)?.confirm(bench)?;
    let mut upgrade = Upgrade::live(
        bench,
        Some(&System::new(1)),
        &System::new(2),
        &System::new(3),
        false,
    )?;
    upgrade.confirm(bench)?;
    let defaults = System::new(3).root;
    let found = router.view()?;
    assert_eq!(found, defaults, "\n{}", found.differences(&defaults));
    cut_everywhere("upgrade to defaults", &upgrade)
}

#[test]
fn a_fall_back_survives_power_cuts_everywhere() -> Result<()> {
    let bench = &configured()?;
    let router = bench.router();
    let mut upgrade = Upgrade::live(bench, None, &System::new(1), &System::new(2), true)?;
    upgrade.power_on(router)?;
    upgrade.power_on(router)?;
    upgrade.legs.clear();
    upgrade.leg(bench, "fall back", [Finds::Old, Finds::Old], |this| {
        assert_eq!(this.power_on(router)?, this.old.slot);
        Ok(())
    })?;
    cut_everywhere("fall back", &upgrade)
}

#[test]
fn a_rollback_survives_power_cuts_everywhere() -> Result<()> {
    let bench = &configured()?;
    let router = bench.router();
    let mut upgrade = Upgrade::live(bench, None, &System::new(1), &System::new(2), true)?;
    upgrade.legs.clear();
    upgrade.leg(bench, "rollback", [Finds::Either, Finds::Old], |_| {
        world::go_back(router)
    })?;
    cut_everywhere("rollback", &upgrade)
}

/// The guard notes that it watches, finds a system that must not be kept, and goes back.
#[test]
fn a_guard_that_goes_back_survives_power_cuts_everywhere() -> Result<()> {
    let checks_dir = tempfile::tempdir()?;
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/health/check");
    symlink(program, checks_dir.path().join("never"))?;
    fs::write(checks_dir.path().join("never.sh"), "exit 100")?;
    let checks = Checks {
        dir: checks_dir.path().to_owned(),
        timeout: Duration::from_secs(60),
        slot: "b".to_owned(),
    };
    let bench = &configured()?;
    let router = bench.router();
    let mut upgrade = Upgrade::live(bench, None, &System::new(1), &System::new(2), true)?;
    upgrade.legs.clear();
    upgrade.leg(bench, "guard", [Finds::Either, Finds::Old], |this| {
        let mut machine = router.machine()?;
        let ended = guard(&mut machine, &checks, &mut None, &mut |_| ())?;
        let why = "health check never refuses this system: exit status 100".to_owned();
        let next = Some(this.old.slot);
        assert_eq!(ended, Ended::Over { why, next });
        Ok(())
    })?;
    cut_everywhere("guard", &upgrade)
}

#[test]
fn edits_made_during_a_trial_survive_power_cuts_everywhere() -> Result<()> {
    let bench = &configured()?;
    let router = bench.router();
    let mut upgrade = Upgrade::live(bench, None, &System::new(1), &System::new(2), true)?;
    configure(router, "on trial")?;
    // What a run from the beginning leads to is right, too; what first boot made is not touched.
    upgrade.new.views.push(view(router)?);
    upgrade.legs.clear();
    upgrade.leg(bench, "second boot", [Finds::New, Finds::New], |this| {
        this.power_on(router)?;
        assert_eq!(
            text(router, "etc/config/added")?,
            "option added 'on trial'\n"
        );
        Ok(())
    })?;
    upgrade.confirm(bench)?;
    cut_everywhere("edits during a trial", &upgrade)
}

#[test]
fn an_install_that_fails_survives_power_cuts_everywhere() -> Result<()> {
    let bench = &configured()?;
    let router = bench.router();
    let mut upgrade = Upgrade::live(bench, None, &System::new(1), &System::new(2), true)?;
    upgrade.confirm(bench)?;
    configure(router, "two")?;
    let mut damaged = bench.world.image(&System::new(3))?;
    let in_the_root = damaged.len() - 4096;
    damaged[in_the_root] ^= 1;
    let mut upgrade = Upgrade::prepare(
        bench,
        Some(&System::new(1)),
        &System::new(2),
        &System::new(3),
        true,
    )?;
    upgrade.leg(bench, "failing install", [Finds::Old, Finds::Old], |_| {
        let error = world::install(router, &damaged, true).expect_err("a damaged image");
        assert!(error.to_string().contains("unfinished"), "{error}");
        Ok(())
    })?;
    upgrade.new.views = upgrade.rehearse(bench)?;
    cut_everywhere("install that fails", &upgrade)
}

#[test]
fn a_first_boot_that_refuses_survives_power_cuts_everywhere() -> Result<()> {
    let bench = &configured()?;
    let router = bench.router();
    let mut upgrade = Upgrade::prepare(bench, None, &System::new(1), &System::new(2), true)?;
    world::install(router, &upgrade.image, true)?;
    let archive = router.dir().join("data/sysupgrade-rs/archive-b.tar.gz");
    let mut bytes = fs::read(&archive)?;
    bytes[100] ^= 1;
    fs::write(&archive, bytes)?;
    upgrade.leg(
        bench,
        "refused first boot",
        [Finds::OldAfterRefusal, Finds::Old],
        |this| {
            let refused = router.boot(|| world::first_boot(router))?;
            assert_eq!(refused, Booted::Refused(this.new.slot));
            Ok(())
        },
    )?;
    upgrade.new.views = upgrade.rehearse(bench)?;
    cut_everywhere("first boot that refuses", &upgrade)
}

/// A router that runs version 1 of a system with a bit of everything, and has been lived in.
fn lived_in() -> Result<Bench> {
    let board = Board::parse(VIRTUAL, "board/virtual.toml")?;
    let bench = Bench::new(&board, Raw::Nor, &lived_in::system(1))?;
    let router = bench.router();
    power_on(router)?;
    lived_in::generate(router.dir())?;
    lived_in::move_in(router.dir(), "one")?;
    router.write_back()?;
    lived_in::take_new(
        &bench.world,
        &lived_in::system(2),
        "etc/config/network",
        "lan.mtu",
    )?;
    router.write_back()?;
    Ok(bench)
}

#[test]
fn an_upgrade_of_a_lived_in_system_survives_power_cuts_everywhere() -> Result<()> {
    let bench = &lived_in()?;
    let router = bench.router();
    let mut upgrade = Upgrade::live(
        bench,
        None,
        &lived_in::system(1),
        &lived_in::system(2),
        true,
    )?;
    upgrade.confirm(bench)?;
    lived_in::check_upgraded(&router.view()?);
    upgrade
        .legs
        .iter_mut()
        .for_each(|leg| leg.losses = Losses::OneEach);
    cut_everywhere("upgrade of a lived-in system", &upgrade)
}

#[test]
fn a_way_back_of_a_lived_in_system_survives_power_cuts_everywhere() -> Result<()> {
    let bench = &lived_in()?;
    let router = bench.router();
    Upgrade::live(
        bench,
        None,
        &lived_in::system(1),
        &lived_in::system(2),
        true,
    )?
    .confirm(bench)?;
    lived_in::move_in(router.dir(), "two")?;
    router.write_back()?;
    let mut upgrade = Upgrade::live(
        bench,
        Some(&lived_in::system(1)),
        &lived_in::system(2),
        &lived_in::system(3),
        true,
    )?;
    upgrade.confirm(bench)?;
    lived_in::check_way_back(&router.view()?);
    upgrade
        .legs
        .iter_mut()
        .for_each(|leg| leg.losses = Losses::OneEach);
    upgrade.legs.retain(|leg| leg.name == "first boot"); // the others are as those of any upgrade
    cut_everywhere("downgrade of a lived-in system", &upgrade)
}

#[test]
fn raw_nor_survives_power_cuts_everywhere() -> Result<()> {
    cut_board("raw NOR", &test_board("raw")?, Raw::Nor)
}

#[test]
fn raw_nand_with_bad_blocks_survives_power_cuts_everywhere() -> Result<()> {
    cut_board("raw NAND", &test_board("raw")?, Raw::Nand)
}

#[test]
fn raw_nand_on_which_blocks_go_bad_survives_power_cuts_everywhere() -> Result<()> {
    cut_board_with_growing_bad_blocks("raw NAND", &test_board("raw")?)
}

#[test]
fn parts_of_one_chip_survive_power_cuts_everywhere() -> Result<()> {
    cut_board("one NOR chip", &test_board("one-chip")?, Raw::Nor)?;
    cut_board("one NAND chip", &test_board("one-chip")?, Raw::Nand)
}

#[test]
fn ubi_volumes_survive_power_cuts_everywhere() -> Result<()> {
    cut_board("UBI", &test_board("ubi")?, Raw::Nand)
}

#[test]
fn ubi_volumes_that_are_replaced_by_renaming_survive_power_cuts_everywhere() -> Result<()> {
    cut_board("UBI, renaming", &test_board("ubi-rename")?, Raw::Nand)
}

#[test]
fn carriers_in_ubi_volumes_survive_power_cuts_everywhere() -> Result<()> {
    cut_board("carriers in UBI", &test_board("carrier-ubi")?, Raw::Nand)
}

#[test]
fn carriers_on_raw_flash_survive_power_cuts_everywhere() -> Result<()> {
    cut_board("carriers on NOR", &test_board("carrier-raw")?, Raw::Nor)?;
    cut_board("carriers on NAND", &test_board("carrier-raw")?, Raw::Nand)
}

#[test]
fn carriers_in_overlays_survive_power_cuts_everywhere() -> Result<()> {
    let board = test_board("carrier-overlay")?;
    cut_board("carriers in overlays", &board, Raw::Nand)
}

#[test]
fn a_loader_that_counts_boots_of_a_trial_survives_power_cuts_everywhere() -> Result<()> {
    cut_board("bootcount", &test_board("bootcount")?, Raw::Nor)?;
    cut_board(
        "bootcount that is stored",
        &test_board("bootcount-saved")?,
        Raw::Nand,
    )
}

#[test]
fn a_switch_without_a_counter_survives_power_cuts_everywhere() -> Result<()> {
    cut_board("switch", &test_board("switch")?, Raw::Nand)
}

#[test]
fn entries_of_systemd_boot_survive_power_cuts_everywhere() -> Result<()> {
    cut_board("systemd-boot", &test_board("systemd-boot")?, Raw::Nor)
}

#[test]
fn attribute_bits_of_partitions_survive_power_cuts_everywhere() -> Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/board/x86-gptprio.toml");
    let board = Board::parse(&fs::read_to_string(path)?, path)?;
    cut_board("GPT attributes", &board, Raw::Nor)
}

#[test]
#[ignore = "for boards of your own: scripts/cut BOARD.toml"]
fn a_board_of_your_own_survives_power_cuts_everywhere() -> Result<()> {
    let path = env::var("POWERCUT_BOARD")?;
    let board = Board::parse(&fs::read_to_string(&path)?, &path)?;
    let media = board.slots.iter().flat_map(|slot| slot.parts.values());
    let raw = media.clone().any(|medium| matches!(medium, Medium::Mtd(_)));
    let name = &board.name;
    if !raw {
        return cut_board(name, &board, Raw::Nand);
    }
    cut_board(&format!("{name} on NOR"), &board, Raw::Nor)?;
    cut_board(&format!("{name} on NAND"), &board, Raw::Nand)?;
    cut_board_with_growing_bad_blocks(&format!("{name} on NAND"), &board)
}
