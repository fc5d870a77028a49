//! The upgrade as a whole, on a virtual router: what is refused leaves no trace, what is damaged
//! never boots, what is right is not written twice.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read, Write};
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use sysupgrade_rs::board::Board;
use sysupgrade_rs::boot::{BootError, Bootloader};
use sysupgrade_rs::config::keep::Listing;
use sysupgrade_rs::data::Update;
use sysupgrade_rs::files::trace::{self, Op};
use sysupgrade_rs::first_boot::FirstBootError;
use sysupgrade_rs::flash::{Device, FlashError, Written};
use sysupgrade_rs::health::Before;
use sysupgrade_rs::install::{self, Done, InstallError, Parts, Upgrade, Watch, Wish};
use sysupgrade_rs::machine::Machine;
use sysupgrade_rs::report::{Event, ExitCode, Phase, Reason};
use sysupgrade_rs::slots::{BootState, Condition, Slot};
use sysupgrade_rs::{board, system};

use world::snapshot::Snapshot;
use world::{System, World};

const KEEP: Wish = Wish {
    keep: true,
    force: false,
    ignore_minor_compat: false,
    scope: None,
    listing: Listing {
        changed: None,
        skip_unchanged: false,
        packages: false,
    },
    archive: None,
    confirm_within: None,
};

/// A router that runs version 1, and its image of version 2.
fn router() -> (World, Vec<u8>) {
    let world = World::new(&System::new(1)).unwrap();
    boot(&world);
    let image = world.image(&System::new(2)).unwrap();
    (world, image)
}

fn boot(world: &World) {
    let router = &world.router;
    router.boot(|| world::first_boot(router)).unwrap();
}

fn machine(world: &World) -> Machine {
    let board = system::read_board(world.router.dir(), None).unwrap();
    system::open(world.router.dir(), board).unwrap()
}

/// Installs with everything that a test may want to replace.
struct Run<'a> {
    machine: Machine,
    parts: Option<Parts>,
    wish: Wish,
    tell: Box<dyn FnMut(Event) + 'a>,
    stop: &'a AtomicBool,
}

static NEVER: AtomicBool = AtomicBool::new(false);

impl<'a> Run<'a> {
    fn on(world: &World) -> Self {
        let machine = machine(world);
        Self {
            machine,
            parts: None,
            wish: KEEP,
            tell: Box::new(|_| ()),
            stop: &NEVER,
        }
    }

    fn install(mut self, image: impl Read) -> Result<Done, InstallError> {
        let machine = &mut self.machine;
        let parts = match self.parts {
            Some(parts) => parts,
            None => system::open_parts(machine, machine.target()),
        };
        let mut upgrade = Upgrade {
            lock: machine.lock().unwrap(),
            trust: system::open_trust(machine, 0).unwrap(),
            parts,
            machine,
            wish: self.wish,
            before: Before::default(),
            watch: Watch::new(&mut *self.tell, self.stop),
        };
        install::install(&mut upgrade, image)
    }
}

fn install(world: &World, image: &[u8]) -> Result<Done, InstallError> {
    Run::on(world).install(image)
}

/// What lies on the flash, boot environment included.
fn flash(world: &World) -> Snapshot {
    Snapshot::read(&world.router.dir().join("flash")).unwrap()
}

fn conditions(world: &World) -> (Slot, [Condition; 2]) {
    let state = machine(world).boot.load().unwrap();
    (state.primary, state.conditions)
}

fn reasons(error: InstallError) -> Vec<Reason> {
    match error {
        InstallError::Refused(refusals) => refusals.iter().map(|refusal| refusal.reason).collect(),
        InstallError::Image(error) => vec![error.reason()],
        InstallError::Unfinished { source, .. } => reasons(*source),
        other => panic!("not a refusal: {}", install::describe(&other)),
    }
}

/// The bytes that a medium was given.
type Received = Rc<RefCell<Vec<u8>>>;

/// A medium that remembers every byte it was given, a few at a time, as a slow chip takes them.
#[derive(Default)]
struct Recording {
    capacity: u64,
    received: Received,
}

impl Device for Recording {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn write_image(
        &mut self,
        source: &mut dyn Read,
        len: u64,
        _proof: Option<&mut dyn Write>,
    ) -> Result<Written, FlashError> {
        let mut bytes = [0; 100];
        let mut done = 0;
        while done < len {
            let count = source.read(&mut bytes).map_err(FlashError::Source)?;
            assert_ne!(count, 0, "the source ended before its length");
            self.received
                .borrow_mut()
                .extend_from_slice(&bytes[..count]);
            done += count as u64;
        }
        Ok(Written {
            written: len,
            unchanged: 0,
            ..Written::default()
        })
    }

    fn read_image(&mut self, range: Range<u64>, sink: &mut dyn Write) -> Result<(), FlashError> {
        let received = self.received.borrow();
        let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).unwrap());
        sink.write_all(&received[start..end])
            .map_err(FlashError::Source)
    }
}

/// Two of them, and what they receive.
fn recording() -> (Parts, BTreeMap<&'static str, Received>) {
    let mut parts = Parts::new();
    let mut received = BTreeMap::new();
    for name in ["kernel", "root"] {
        let device = Recording {
            capacity: 1 << 20,
            ..Recording::default()
        };
        received.insert(name, Rc::clone(&device.received));
        parts.insert(name.to_owned(), Ok(Box::new(device)));
    }
    (parts, received)
}

#[test]
fn no_byte_of_a_block_that_was_not_verified_reaches_a_medium() {
    let (world, image) = router();
    let system = System::new(2);
    let whole = BTreeMap::from([
        ("kernel", system.kernel.clone()),
        ("root", system.root_part().unwrap()),
    ]);
    // One damaged byte in each 512-byte block of the image, wherever that falls: head, tables,
    // headers, contents, padding.
    let mut damaged_in_flight = 0;
    for at in (0..image.len()).step_by(512) {
        let mut image = image.clone();
        image[at + 7] ^= 0x10;
        let (parts, received) = recording();
        let result = Run {
            parts: Some(parts),
            ..Run::on(&world)
        }
        .install(&*image);
        for (name, bytes) in received {
            let bytes = bytes.borrow();
            let good = &whole[name];
            assert!(
                good.starts_with(&bytes),
                "byte {at} flipped: {name} was given other bytes"
            );
            let in_blocks = bytes.len() % 4096 == 0 || bytes.len() == good.len();
            assert!(
                in_blocks,
                "byte {at} flipped: {name} was given {} bytes of a block",
                bytes.len()
            );
            damaged_in_flight += usize::from(!bytes.is_empty() && bytes.len() < good.len());
        }
        let Err(error) = result else {
            assert!(
                at >= image.len() - 1024,
                "byte {at} flipped: installed all the same"
            );
            continue; // behind the end of the tar, where other tools put what they like
        };
        assert_eq!(
            error.exit_code(),
            ExitCode::NotAnImage.or_signature(&error),
            "byte {at} flipped"
        );
        let (primary, conditions) = conditions(&world);
        assert_eq!((primary, conditions[0]), (Slot::First, Condition::Good));
        assert_eq!(
            conditions[1],
            Condition::Unbootable,
            "byte {at} flipped: bootable"
        );
    }
    assert!(damaged_in_flight > 5, "the damage never fell into a part");
}

/// Damage in the head shows as a wrong signature, everywhere else as damage.
trait OrSignature {
    fn or_signature(self, error: &InstallError) -> Self;
}

impl OrSignature for ExitCode {
    fn or_signature(self, error: &InstallError) -> Self {
        match error.exit_code() {
            Self::Signature => Self::Signature,
            _ => self,
        }
    }
}

#[test]
fn an_image_that_ends_early_is_never_bootable_and_running_again_skips_what_is_right() {
    let (world, image) = router();
    for len in (0..image.len() - 1024).step_by(777) {
        let error = install(&world, &image[..len]).unwrap_err();
        assert_eq!(reasons(error), [Reason::Truncated], "{len} bytes");
        let (primary, conditions) = conditions(&world);
        assert_eq!(
            (primary, conditions),
            (Slot::First, [Condition::Good, Condition::Unbootable])
        );
    }
    // The last attempts had the whole kernel.
    let kernel = System::new(2).kernel.len() as u64;
    let done = install(&world, &image).unwrap();
    assert!(
        done.cost.unchanged >= kernel,
        "only {} bytes were skipped",
        done.cost.unchanged
    );
    assert_eq!(conditions(&world).1[1], Condition::Trial(3));
}

#[test]
fn what_can_be_known_before_the_first_write_leaves_the_flash_untouched() {
    let (world, image) = router();
    let before = flash(&world);
    let refused = |image: &[u8], wanted: &[Reason]| {
        let (result, log) = trace::record(|| install(&world, image));
        assert_eq!(reasons(result.unwrap_err()), wanted);
        assert!(flash(&world) == before, "{wanted:?}: the flash has changed");
        let touched = log
            .iter()
            .any(|op| matches!(op, Op::Write { path, .. } if is_flash(path)));
        assert!(!touched, "{wanted:?}: the flash was written to");
    };
    refused(b"", &[Reason::Truncated]);
    refused(&[b'x'; 4096], &[Reason::NotAnImage]);
    refused(&image[..2000], &[Reason::Truncated]);

    let build = |change: &dyn Fn(&mut sysupgrade_rs::image::Spec)| {
        world.image_with(&System::new(2), change).unwrap()
    };
    refused(
        &build(&|spec| spec.boards = vec!["other,board".into()]),
        &[Reason::WrongBoard],
    );
    refused(
        &build(&|spec| spec.parts.truncate(1)),
        &[Reason::WrongParts],
    );

    let mut large = System::new(2);
    large.kernel = vec![1; 100_000];
    refused(&world.image(&large).unwrap(), &[Reason::TooLarge]);
    let both = world
        .image_with(&large, &|spec| spec.boards = vec!["other,board".into()])
        .unwrap();
    refused(&both, &[Reason::WrongBoard, Reason::TooLarge]);

    let keys = world.router.dir().join("etc/sysupgrade-rs/keys");
    let key = keys.join(
        fs::read_dir(&keys)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .file_name(),
    );
    let text = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    refused(&image, &[Reason::UnknownKey]);
    std::os::unix::fs::symlink(".revoked.", &key).unwrap();
    refused(&image, &[Reason::RevokedKey]);
    fs::remove_file(&key).unwrap();
    fs::write(&key, text).unwrap();

    let floor = Update {
        floor: Some(3),
        ..Update::default()
    };
    machine(&world).data.record(&floor).unwrap();
    refused(&image, &[Reason::BelowFloor]);
}

fn is_flash(path: &Path) -> bool {
    path.components()
        .any(|component| component.as_os_str() == "flash")
}

#[test]
fn the_same_image_again_writes_no_block() {
    let (world, image) = router();
    assert!(install(&world, &image).unwrap().cost.written > 0);
    let (result, log) = trace::record(|| install(&world, &image));
    assert_eq!(result.unwrap().cost.written, 0);
    let blocks: Vec<_> = log
        .iter()
        .filter(
            |op| matches!(op, Op::Write { path, .. } if is_flash(path) && !path.ends_with("env")),
        )
        .collect();
    assert!(blocks.is_empty(), "{} writes to the parts", blocks.len());
}

#[test]
fn only_pages_that_differ_are_written() {
    let (world, image) = router();
    install(&world, &image).unwrap();
    let mut changed = System::new(2);
    changed.kernel[4096 + 5] ^= 1;
    let done = install(&world, &world.image(&changed).unwrap()).unwrap();
    assert_eq!(done.cost.written, 4096);
}

#[test]
fn another_board_can_be_forced_and_a_signature_cannot() {
    let (world, _) = router();
    let image = world
        .image_with(&System::new(2), &|spec| {
            spec.boards = vec!["other,board".into()];
        })
        .unwrap();
    let force = Wish {
        force: true,
        ..KEEP
    };
    let mut tampered = image.clone();
    let at = tampered
        .windows(9)
        .position(|window| window == b"\"version\"")
        .unwrap();
    tampered[at + 12] ^= 1;
    let error = Run {
        wish: force.clone(),
        ..Run::on(&world)
    }
    .install(&*tampered)
    .unwrap_err();
    assert_eq!(reasons(error), [Reason::BadSignature]);
    Run {
        wish: force,
        ..Run::on(&world)
    }
    .install(&*image)
    .unwrap();
}

#[test]
fn no_upgrade_begins_while_this_slot_is_on_trial() {
    let (world, image) = router();
    install(&world, &image).unwrap();
    boot(&world);
    let before = flash(&world);
    let error = install(&world, &image).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::OnTrial);
    assert_eq!(reasons(error), [Reason::OnTrial]);
    assert!(flash(&world) == before);
    world::confirm(&world.router).unwrap();
    install(&world, &image).unwrap();
}

#[test]
fn a_request_to_stop_ends_the_run_at_every_phase_and_leaves_the_target_unbootable() {
    let (world, image) = router();
    for wanted in [Phase::Flash, Phase::ReadBack, Phase::Config, Phase::Commit] {
        let stop = AtomicBool::new(false);
        let mut run = Run::on(&world);
        run.tell = Box::new(|event| {
            if event == Event::Phase(wanted) {
                stop.store(true, Ordering::Relaxed);
            }
        });
        let error = Run { stop: &stop, ..run }.install(&*image).unwrap_err();
        let stopped = matches!(&error, InstallError::Unfinished { source, .. } if matches!(**source, InstallError::Stopped));
        assert!(stopped, "{wanted:?}: {}", install::describe(&error));
        assert_eq!(
            conditions(&world),
            (Slot::First, [Condition::Good, Condition::Unbootable])
        );
    }
    install(&world, &image).unwrap();
    assert_eq!(conditions(&world).1[1], Condition::Trial(3));
}

/// A medium that gives back something else than it was given: while it is written, or when asked afterwards.
struct Failing {
    inner: Box<dyn Device>,
    proves: bool,
}

impl Device for Failing {
    fn capacity(&self) -> u64 {
        self.inner.capacity()
    }

    fn write_image(
        &mut self,
        source: &mut dyn Read,
        len: u64,
        proof: Option<&mut dyn Write>,
    ) -> Result<Written, FlashError> {
        let written = self.inner.write_image(source, len, None)?;
        if let Some(proof) = proof.filter(|_| self.proves) {
            self.read_image(0..len, proof)?;
        }
        Ok(written)
    }

    fn read_image(&mut self, range: Range<u64>, sink: &mut dyn Write) -> Result<(), FlashError> {
        let mut bytes = Vec::new();
        self.inner.read_image(range, &mut bytes)?;
        if let Some(last) = bytes.last_mut() {
            *last ^= 0x80;
        }
        sink.write_all(&bytes).map_err(FlashError::Source)
    }
}

/// A boot environment that remembers all it was told.
struct Remembering {
    inner: Box<dyn Bootloader>,
    stored: Rc<RefCell<Vec<BootState>>>,
}

impl Bootloader for Remembering {
    fn load(&mut self) -> Result<BootState, BootError> {
        self.inner.load()
    }

    fn flaws(&mut self) -> Result<Vec<String>, BootError> {
        self.inner.flaws()
    }

    fn repair(&mut self, state: &BootState) -> Result<Vec<String>, BootError> {
        self.inner.repair(state)
    }

    fn store(&mut self, state: &BootState) -> Result<(), BootError> {
        self.stored.borrow_mut().push(*state);
        self.inner.store(state)
    }
}

#[test]
fn a_medium_that_reads_back_different_is_never_activated() {
    let (world, image) = router();
    for (bad, proves) in [
        ("kernel", false),
        ("root", false),
        ("kernel", true),
        ("root", true),
    ] {
        let mut run = Run::on(&world);
        let stored = Rc::default();
        run.machine.boot = Box::new(Remembering {
            inner: run.machine.boot,
            stored: Rc::clone(&stored),
        });
        let mut parts = system::open_parts(&run.machine, run.machine.target());
        let inner = parts.remove(bad).unwrap().unwrap();
        parts.insert(bad.to_owned(), Ok(Box::new(Failing { inner, proves })));
        let error = Run {
            parts: Some(parts),
            ..run
        }
        .install(&*image)
        .unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Failed);
        assert!(
            install::describe(&error).contains("reads back different"),
            "{error}"
        );
        // Not even for a moment: power could go just then.
        let stored = stored.borrow();
        let bootable = |state: &BootState| state.condition(Slot::Second) != Condition::Unbootable;
        assert!(
            !stored.is_empty() && !stored.iter().any(bootable),
            "{stored:?}"
        );
    }
}

#[test]
fn without_configuration_nothing_of_the_old_one_reaches_the_new_system() {
    let (world, image) = router();
    let view = world.router.dir().join("etc/config/network");
    fs::write(&view, "option proto 'static'\n").unwrap();
    install(&world, &image).unwrap(); // leaves an archive, and could leave an overlay
    let upper = world.router.dir().join("data/overlay-b/upper/etc");
    fs::create_dir_all(&upper).unwrap();
    fs::write(upper.join("stale"), "from an earlier life").unwrap();
    Run {
        wish: Wish {
            keep: false,
            ..KEEP
        },
        ..Run::on(&world)
    }
    .install(&*image)
    .unwrap();
    let archive = world
        .router
        .dir()
        .join("data/sysupgrade-rs/archive-b.tar.gz");
    assert!(!archive.exists(), "the archive holds password hashes");
    boot(&world);
    assert_eq!(fs::read_to_string(&view).unwrap(), "option proto 'dhcp'\n");
    assert!(!world.router.dir().join("etc/stale").exists());
}

#[test]
fn a_damaged_archive_sends_the_machine_back_with_the_reason() {
    let (world, image) = router();
    install(&world, &image).unwrap();
    let archive = world
        .router
        .dir()
        .join("data/sysupgrade-rs/archive-b.tar.gz");
    let mut bytes = fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&archive, bytes).unwrap();
    boot(&world); // b, which gives up
    boot(&world); // a
    assert_eq!(world.router.running().unwrap(), Some(Slot::First));
    let status = sysupgrade_rs::status::status(&mut machine(&world)).unwrap();
    assert!(
        status
            .other
            .state
            .contains("could not take over the configuration"),
        "{}",
        status.other.state
    );
    assert_eq!(status.standing, "fell-back");
}

#[test]
fn a_confirmed_image_raises_the_floor_and_an_older_one_is_refused_from_then_on() {
    let (world, image) = router();
    let older = world.image(&System::new(1)).unwrap();
    install(&world, &image).unwrap();
    boot(&world);
    assert_eq!(
        machine(&world).data.floor().unwrap(),
        0,
        "raised before it was confirmed"
    );
    world::confirm(&world.router).unwrap();
    assert_eq!(machine(&world).data.floor().unwrap(), 2);
    assert_eq!(
        reasons(install(&world, &older).unwrap_err()),
        [Reason::BelowFloor]
    );
}

#[test]
fn progress_counts_every_byte_once_in_each_phase() {
    let (world, image) = router();
    let counts = RefCell::new(BTreeMap::new());
    let mut run = Run::on(&world);
    run.tell = Box::new(|event| {
        if let Event::Progress {
            phase, done, total, ..
        } = event
        {
            assert!(done <= total);
            counts.borrow_mut().insert(phase.name(), (done, total));
        }
    });
    run.install(Cursor::new(&image)).unwrap();
    for phase in ["flash", "read-back"] {
        let (done, total) = counts.borrow()[phase];
        assert_eq!(done, total, "{phase}");
    }
}

#[test]
fn the_built_in_board_is_the_one_in_the_repository() {
    Board::parse(board::VIRTUAL, "board/virtual.toml").unwrap();
}

#[test]
fn records_that_are_damaged_do_not_keep_a_proven_system_from_running() {
    let (world, image) = router();
    install(&world, &image).unwrap();
    let record = world.router.dir().join("data/sysupgrade-rs/slot-b.json");
    let first_boot = |world: &World| sysupgrade_rs::first_boot::first_boot(&mut machine(world));
    fs::write(&record, "{").unwrap();
    // On trial nothing can be decided: another try, until they are used up.
    for _ in 0..3 {
        world.router.boot(|| Ok(true)).unwrap();
        assert_eq!(world.router.running().unwrap(), Some(Slot::Second));
        let error = first_boot(&world).unwrap_err();
        assert!(matches!(error, FirstBootError::Undecided { .. }), "{error}");
    }
    world.router.boot(|| Ok(true)).unwrap();
    assert_eq!(world.router.running().unwrap(), Some(Slot::First));
    let error = first_boot(&world).unwrap_err();
    assert!(
        matches!(error, FirstBootError::Machine(_)),
        "asks for a reboot: {error}"
    );
    install(&world, &image).unwrap();
}

/// A boot environment that fails to say that a commit has landed.
struct Forgetful(Box<dyn Bootloader>);

impl Bootloader for Forgetful {
    fn load(&mut self) -> Result<BootState, BootError> {
        self.0.load()
    }

    fn flaws(&mut self) -> Result<Vec<String>, BootError> {
        self.0.flaws()
    }

    fn repair(&mut self, state: &BootState) -> Result<Vec<String>, BootError> {
        self.0.repair(state)
    }

    fn store(&mut self, state: &BootState) -> Result<(), BootError> {
        self.0.store(state)?;
        match state.condition(Slot::Second) {
            Condition::Trial(_) => Err(BootError::Damaged {
                path: "env".into(),
                problem: "says nothing".into(),
            }),
            _ => Ok(()),
        }
    }
}

#[test]
fn a_commit_that_fails_is_taken_back_even_if_it_has_landed() {
    let (world, image) = router();
    let mut run = Run::on(&world);
    run.machine.boot = Box::new(Forgetful(run.machine.boot));
    let error = run.install(&*image).unwrap_err();
    assert!(
        matches!(error, InstallError::Unfinished { .. }),
        "{}",
        install::describe(&error)
    );
    assert_eq!(
        conditions(&world),
        (Slot::First, [Condition::Good, Condition::Unbootable])
    );
}

#[test]
fn a_system_that_has_not_taken_its_configuration_over_cannot_be_confirmed() {
    let (world, image) = router();
    install(&world, &image).unwrap();
    world.router.boot(|| Ok(true)).unwrap(); // an init script without first boot
    assert_eq!(world.router.running().unwrap(), Some(Slot::Second));
    let error = world::confirm(&world.router).unwrap_err();
    assert!(error.to_string().contains("first-boot"), "{error}");
    assert!(
        world
            .router
            .dir()
            .join("data/sysupgrade-rs/archive-b.tar.gz")
            .exists()
    );
    assert!(world::first_boot(&world.router).unwrap());
    world::confirm(&world.router).unwrap();
    assert_eq!(conditions(&world).1[1], Condition::Good);
}

#[test]
fn a_block_in_which_grub_could_count_no_try_is_told_and_whole_before_anything_else_is_written() {
    let (world, image) = router();
    let env = world.router.dir().join("flash/env");
    let mut block = fs::read(&env).unwrap();
    block[512..].fill(0);
    fs::write(&env, &block).unwrap();
    let mut told = Vec::new();
    let (done, log) = trace::record(|| {
        let mut run = Run::on(&world);
        run.tell = Box::new(|event| {
            if let Event::Notice(text) = event {
                told.push(text);
            }
        });
        run.install(&*image)
    });
    done.unwrap();
    let told = told
        .iter()
        .find(|text| text.starts_with("boot environment: "));
    assert!(told.unwrap().contains("could count no boot of a trial"));

    let is_whole = |block: &[u8]| block.trim_ascii_end().ends_with(b"#") && !block.contains(&0);
    let (mut parts, mut trials) = (0, 0);
    for op in &log {
        let Op::Write { path, offset, data } = op else {
            continue;
        };
        if *path == env {
            let at = usize::try_from(*offset).unwrap();
            block[at..at + data.len()].copy_from_slice(data);
            let text = String::from_utf8_lossy(&block);
            let is_on_trial = text.contains("BOOT_B_LEFT=3");
            assert!(!is_on_trial || is_whole(&block), "{text}");
            trials += usize::from(is_on_trial);
        } else if is_flash(path) {
            assert!(is_whole(&block), "{} was written before", path.display());
            parts += 1;
        }
    }
    assert!(parts > 0 && trials > 0, "{parts} writes, {trials} trials");
}

#[test]
fn the_doctor_finds_a_new_router_in_order_and_changes_nothing() {
    let (world, _) = router();
    let before = Snapshot::read(world.router.dir()).unwrap();
    let checks = sysupgrade_rs::doctor::examine(world.router.dir(), None);
    for check in &checks {
        assert!(check.ok, "{check:?}");
    }
    assert!(checks.len() >= 8, "only {} checks", checks.len());
    assert!(
        Snapshot::read(world.router.dir()).unwrap() == before,
        "something was changed"
    );
}
