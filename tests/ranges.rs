//! An upgrade over http:// fetches the blocks that the machine does not have, and no others. Whatever the
//! server, the index of blocks and the running slot say, nothing but signed blocks reaches the target, and what
//! is not whole does not boot.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod sim;
mod web;
mod world;

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use sysupgrade_rs::board::Board;
use sysupgrade_rs::cli::source::{self, Network, Problem, Stream};
use sysupgrade_rs::health::Before;
use sysupgrade_rs::image::candidate::Candidate;
use sysupgrade_rs::image::{Encoding, Spec, Tally};
use sysupgrade_rs::install::{self, Done, InstallError, Upgrade, Watch, Wish};
use sysupgrade_rs::slots::Condition;
use sysupgrade_rs::system;

use sim::{Raw, simulated};
use web::{Page, Reply, Request, Web};
use world::router::Router;
use world::{System, World};

const BLOCK: usize = 4096;
const KIB: usize = 1024;
/// What the first request brings, needed or not.
const FIRST: u64 = 16 << 10;
/// The head of an image for two parts, its tables and its end, with room to spare.
const HEAD: u64 = 80 << 10;

/// No two blocks of it are alike.
fn noise(seed: u32, len: usize) -> Vec<u8> {
    let words = (0_u32..).map(|number| (number ^ seed).wrapping_mul(0x9e37_79b1).rotate_left(9));
    words.flat_map(u32::to_le_bytes).take(len).collect()
}

fn system(version: u8, kernel: Vec<u8>) -> System {
    System {
        kernel,
        ..System::new(version)
    }
}

/// A router that runs a kernel of 1 MiB, and a good deal less of everything else.
fn router() -> (World, Vec<u8>) {
    let kernel = noise(1, KIB * KIB);
    let world = World::sized(&system(1, kernel.clone()), 2 * KIB * KIB).unwrap();
    world
        .router
        .boot(|| world::first_boot(&world.router))
        .unwrap();
    (world, kernel)
}

/// The new kernel: 100 KiB of the old one have another place, and 40 KiB are new.
fn changed(old: &[u8]) -> Vec<u8> {
    let moved = &old[100 * KIB..200 * KIB];
    let mut new = [
        &old[..100 * KIB],
        &old[200 * KIB..600 * KIB],
        moved,
        &old[600 * KIB..],
    ]
    .concat();
    new[300 * KIB..340 * KIB].copy_from_slice(&noise(2, 40 * KIB));
    new
}

fn image(world: &World, kernel: &[u8]) -> Vec<u8> {
    world.image(&system(2, kernel.to_vec())).unwrap()
}

fn open(url: &str) -> Stream {
    let network = Network {
        connect: Duration::from_secs(20),
        stall: Duration::from_millis(150),
        pause: Duration::from_millis(1),
        search: "".into(),
    };
    let stop = Arc::new(AtomicBool::new(false));
    source::open_with(url.as_ref(), &stop, &network).unwrap()
}

fn upgrade<T>(
    world: &World,
    work: impl FnOnce(&mut Upgrade<'_>) -> Result<T, InstallError>,
) -> Result<T, InstallError> {
    let mut machine = world.router.machine().unwrap();
    let (mut tell, stop) = (|_| (), AtomicBool::new(false));
    let mut upgrade = Upgrade {
        lock: world::lock(&machine).unwrap(),
        trust: system::open_trust(&machine, 0).unwrap(),
        parts: system::open_parts(&machine, machine.target()),
        machine: &mut machine,
        wish: Wish {
            keep: true,
            ..Wish::default()
        },
        before: Before::default(),
        watch: Watch::new(&mut tell, &stop),
    };
    work(&mut upgrade)
}

fn install(world: &World, web: &Web) -> Result<Done, InstallError> {
    let image = Candidate::ranged(open(&web.url()));
    upgrade(world, |upgrade| install::install(upgrade, image))
}

fn weigh(world: &World, image: Candidate<impl Read>) -> Tally {
    let tally = upgrade(world, |upgrade| {
        let (plan, image) = install::survey(upgrade, image)?;
        assert_eq!(plan.refusals, []);
        install::weigh(upgrade, image)
    });
    tally.unwrap()
}

fn target(world: &World) -> PathBuf {
    world.router.dir().join("flash/kernel-b")
}

fn blank_target(world: &World) {
    fs::write(target(world), vec![0; 2 * KIB * KIB]).unwrap();
}

fn condition(world: &World) -> Condition {
    world
        .router
        .machine()
        .unwrap()
        .boot
        .load()
        .unwrap()
        .conditions[1]
}

/// The target holds this kernel and boots next, on trial.
#[track_caller]
fn check_installed(world: &World, kernel: &[u8]) {
    let found = fs::read(target(world)).unwrap();
    assert!(found.starts_with(kernel), "another kernel is in the target");
    assert_eq!(condition(world), Condition::Trial(3));
}

/// The target does not boot, and has in each place the signed block or what was there before.
#[track_caller]
fn check_unharmed(world: &World, before: &[u8], kernel: &[u8]) {
    assert_eq!(condition(world), Condition::Unbootable);
    let found = fs::read(target(world)).unwrap();
    let blocks = found.chunks(BLOCK).zip(before.chunks(BLOCK));
    let mut wanted = kernel.chunks(BLOCK);
    for (number, (found, before)) in blocks.enumerate() {
        let signed = wanted.next() == Some(found);
        assert!(signed || found == before, "block {number} is not signed");
    }
}

/// Bytes that were asked for.
fn asked(web: &Web, page: &Page) -> u64 {
    let seen = web.seen();
    let ranges = seen.requests.iter().map(|request| {
        let range = request.range.clone().unwrap();
        (range.end.min(page.content.len()) - range.start) as u64
    });
    ranges.sum()
}

#[test]
fn what_the_running_slot_or_the_target_has_is_not_fetched() {
    let (world, old) = router();
    let kernel = changed(&old);
    let page = Page::new(&image(&world, &kernel));

    let web = Web::with(page.clone());
    let planned = weigh(&world, Candidate::ranged(open(&web.url())));
    assert!(asked(&web, &page) < HEAD, "a plan fetches no blocks");
    assert!(planned.fetched < 40 * KIB as u64 + HEAD, "{planned:?}");

    let web = Web::with(page.clone());
    let done = install(&world, &web).unwrap();
    check_installed(&world, &kernel);
    assert_eq!(done.cost.fetched, planned.fetched);
    assert_eq!(done.cost.copied, planned.copied);
    assert!(done.cost.copied >= 984 * KIB as u64, "{:?}", done.cost);
    let asked_for = asked(&web, &page);
    assert!(
        (done.cost.fetched..=done.cost.fetched + FIRST).contains(&asked_for),
        "{asked_for} bytes were asked for, {} came",
        done.cost.fetched
    );

    // Once more: all is there already.
    let web = Web::with(page.clone());
    let planned = weigh(&world, Candidate::ranged(open(&web.url())));
    assert!(planned.in_place > kernel.len() as u64, "{planned:?}");
    assert_eq!(planned.copied, 0);
    let done = install(&world, &web).unwrap();
    check_installed(&world, &kernel);
    assert_eq!(done.cost.fetched, planned.fetched);
    assert_eq!(done.cost.written, 0);
    assert!(done.cost.fetched < HEAD, "{:?}", done.cost);
}

#[test]
fn deflated_blocks_that_are_at_hand_are_not_fetched_either() {
    let (world, old) = router();
    let kernel = changed(&old);
    let deflated = |spec: &mut Spec| spec.encoding = Encoding::Deflate;
    let page = Page::new(
        &world
            .image_with(&system(2, kernel.clone()), &deflated)
            .unwrap(),
    );
    let web = Web::with(page);
    let done = install(&world, &web).unwrap();
    check_installed(&world, &kernel);
    assert!(
        done.cost.fetched < 40 * KIB as u64 + HEAD,
        "{:?}",
        done.cost
    );
    assert!(done.cost.copied >= 984 * KIB as u64, "{:?}", done.cost);
}

#[test]
fn what_is_near_to_what_is_missing_is_fetched_with_it() {
    let (world, old) = router();
    // Every tenth block is new: the nine between two of them are cheaper read than asked for anew.
    let mut kernel = old.clone();
    for (block, new) in kernel
        .chunks_mut(BLOCK)
        .zip(noise(3, old.len()).chunks(BLOCK))
        .step_by(10)
    {
        block.copy_from_slice(new);
    }
    let web = Web::with(Page::new(&image(&world, &kernel)));
    install(&world, &web).unwrap();
    check_installed(&world, &kernel);
    // Head, table and first stretch, table of the root, the root, the end.
    let requests = web.seen().requests.len();
    assert!(requests <= 8, "{requests} requests");
}

#[test]
fn an_install_that_ended_early_fetches_the_rest_only() {
    let (world, _) = router();
    let before = fs::read(target(&world)).unwrap();
    let kernel = noise(4, KIB * KIB); // nothing of it is at hand
    let page = Page::new(&image(&world, &kernel));
    let bad = page.clone();
    let web = Web::start(move |request| {
        let mut reply = bad.give(request);
        let range = request.range.clone().unwrap();
        if range.contains(&(700 * KIB)) {
            reply.body[700 * KIB - range.start] ^= 1;
        }
        reply
    });
    let error = install(&world, &web).unwrap_err();
    assert!(
        install::describe(&error).contains("not the signed ones"),
        "{error:?}"
    );
    check_unharmed(&world, &before, &kernel);

    let web = Web::with(page);
    let done = install(&world, &web).unwrap();
    check_installed(&world, &kernel);
    assert!(
        done.cost.fetched < 600 * KIB as u64 + HEAD,
        "{:?}",
        done.cost
    );
}

#[test]
fn a_forged_index_costs_time_and_nothing_else() {
    let (world, old) = router();
    let kernel = changed(&old);
    let page = Page::new(&image(&world, &kernel));
    install(&world, &Web::with(page.clone())).unwrap();
    let index = world.router.dir().join("data/sysupgrade-rs/blocks-a");
    let good = fs::read(&index).unwrap();
    let entries = 23 + 32; // behind a line and a digest
    assert!((good.len() - entries).is_multiple_of(12));
    let wrong_place: fn(&mut [u8]) = |entry| entry[11] ^= 1;
    let no_place: fn(&mut [u8]) = |entry| entry[8] = 0xff;
    for forge in [wrong_place, no_place] {
        let mut forged = good.clone();
        forged[entries..].chunks_mut(12).for_each(forge);
        fs::write(&index, &forged).unwrap();
        blank_target(&world);
        let done = install(&world, &Web::with(page.clone())).unwrap();
        check_installed(&world, &kernel);
        assert!(done.cost.fetched > 900 * KIB as u64, "{:?}", done.cost);
    }
    // One that is cut is made anew.
    fs::write(&index, &good[..good.len() - 1]).unwrap();
    blank_target(&world);
    let done = install(&world, &Web::with(page)).unwrap();
    check_installed(&world, &kernel);
    assert!(done.cost.copied >= 984 * KIB as u64, "{:?}", done.cost);
    assert_eq!(fs::read(&index).unwrap(), good);
}

#[test]
fn a_running_slot_that_was_written_to_meanwhile_is_not_believed() {
    let (world, old) = router();
    let kernel = changed(&old);
    let page = Page::new(&image(&world, &kernel));
    install(&world, &Web::with(page.clone())).unwrap();
    let running = world.router.dir().join("flash/kernel-a");
    let mut bytes = fs::read(&running).unwrap();
    bytes[BLOCK..].fill(0xee); // not in its first block, by which the index knows it
    fs::write(running, &bytes).unwrap();
    blank_target(&world);
    let done = install(&world, &Web::with(page)).unwrap();
    check_installed(&world, &kernel);
    assert!(done.cost.fetched > 1000 * KIB as u64, "{:?}", done.cost);
}

/// An install from a server that gives what `manner` says.
fn from(
    manner: impl Fn(&Request, &Page) -> Reply + Send + 'static,
) -> (World, Vec<u8>, Vec<u8>, Result<Done, InstallError>) {
    let (world, _) = router();
    let kernel = noise(5, KIB * KIB);
    let page = Page::new(&image(&world, &kernel));
    let before = fs::read(target(&world)).unwrap();
    let web = Web::start(move |request| manner(request, &page));
    let result = install(&world, &web);
    (world, before, kernel, result)
}

/// It is done all the same, at this price.
#[track_caller]
fn check_done(manner: impl Fn(&Request, &Page) -> Reply + Send + 'static) {
    let (world, _, kernel, result) = from(manner);
    let done = result.unwrap();
    check_installed(&world, &kernel);
    assert!(
        done.cost.fetched < 1024 * KIB as u64 + HEAD,
        "{:?}",
        done.cost
    );
}

/// It ends with this problem of the source.
#[track_caller]
fn check_refused(
    manner: impl Fn(&Request, &Page) -> Reply + Send + 'static,
    expected: impl Fn(&Problem) -> bool,
) {
    let (world, before, kernel, result) = from(manner);
    let error = result.unwrap_err();
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    let found = std::iter::from_fn(|| {
        let this = next?;
        next = this.source();
        Some(this)
    })
    .find_map(|error| error.downcast_ref::<Problem>());
    assert!(found.is_some_and(expected), "{error:?}");
    check_unharmed(&world, &before, &kernel);
}

/// Every request is good up to the blocks of the kernel, which begin before this byte.
const GOOD: usize = 64 * KIB;

fn is_begin(request: &Request) -> bool {
    request
        .range
        .as_ref()
        .is_some_and(|range| range.end <= GOOD)
}

#[test]
fn a_server_that_drops_each_connection_is_no_obstacle() {
    check_done(|request, page| page.give(request).cut(100_000));
}

#[test]
fn a_server_without_ranges_is_no_obstacle() {
    check_done(|_, page| page.whole());
    // It forgets them on the way.
    check_done(|request, page| match request.number {
        0..=3 => page.give(request),
        _ => page.whole(),
    });
}

#[test]
fn a_server_that_lies_about_lengths_is_refused() {
    check_refused(
        |request, page| match is_begin(request) {
            true => page.give(request),
            false => {
                let reply = page.give(request);
                let len = format!("/{}", page.content.len());
                reply.saying(&len, &format!("/{}", page.content.len() + 1))
            }
        },
        |problem| matches!(problem, Problem::Changed),
    );
    check_refused(
        |request, page| match is_begin(request) {
            true => page.give(request),
            false => page
                .give(request)
                .saying("Content-Length: ", "Content-Length: 1"),
        },
        |problem| matches!(problem, Problem::Answer(_)),
    );
}

#[test]
fn a_server_that_stalls_is_given_up() {
    check_refused(
        |request, page| match request.range.as_ref().map(|range| range.start) {
            Some(0..GOOD) => page.give(request).cut(200_000).stalled(),
            _ => page.give(request).cut(0).stalled(),
        },
        |problem| matches!(problem, Problem::GivenUp { last, .. } if matches!(**last, Problem::Stalled(_))),
    );
}

#[test]
fn another_file_in_the_middle_is_refused() {
    check_refused(
        |request, page| match is_begin(request) {
            true => page.give(request),
            false => page.give(request).saying("\"one\"", "\"two\""),
        },
        |problem| matches!(problem, Problem::Changed),
    );
}

#[test]
fn another_range_is_refused() {
    check_refused(
        |request, page| match &request.range {
            Some(range) if range.end > GOOD => page.part(range.start + 1..range.end + 1),
            _ => page.give(request),
        },
        |problem| matches!(problem, Problem::OtherRange { .. }),
    );
}

#[test]
fn blocks_are_copied_from_raw_flash_and_from_volumes() {
    for (name, raw) in [("raw", Raw::Nor), ("raw", Raw::Nand), ("ubi", Raw::Nand)] {
        let path = format!("{}/tests/boards/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let board = Board::parse(&fs::read_to_string(&path).unwrap(), &path).unwrap();
        let (board, chips) = simulated(&board, raw, 1);
        let dir = world::temporary_directory().unwrap();
        let at = dir.path().join("router");
        chips.set_dir(&at);
        let router = Router::of(&at, &board, Rc::new(chips));
        let kernel = noise(6, 12 * KIB);
        let world = World::with(dir, router, &system(1, kernel.clone())).unwrap();
        world
            .router
            .boot(|| world::first_boot(&world.router))
            .unwrap();
        let web = Web::with(Page::new(&image(&world, &kernel)));
        // Version 2 has the kernel of version 1.
        let done = install(&world, &web).unwrap();
        assert_eq!(condition(&world), Condition::Trial(3), "{name}");
        assert!(
            done.cost.copied >= kernel.len() as u64,
            "{name}: {:?}",
            done.cost
        );
        let done = install(&world, &web).unwrap();
        assert_eq!(
            (done.cost.written, done.cost.copied),
            (0, 0),
            "{name}: {:?}",
            done.cost
        );
    }
}

#[test]
fn a_plan_of_an_image_that_is_no_stream_of_ranges_fetches_all_of_it() {
    let (world, old) = router();
    let image = image(&world, &changed(&old));
    let tally = weigh(&world, Candidate::from(&image[..]));
    let all = Tally {
        fetched: image.len() as u64,
        ..Tally::default()
    };
    assert_eq!(tally, all);
    let done = upgrade(&world, |upgrade| install::install(upgrade, &image[..])).unwrap();
    assert_eq!(done.cost.fetched, tally.fetched);
    assert_eq!(done.cost.copied, 0);
}
