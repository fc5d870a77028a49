//! Parts on raw NOR and NAND, on the simulated chips of [`sim::chips`].

mod sim;
mod world;

use std::io;

use proptest::collection::{btree_set, vec};
use proptest::prelude::{ProptestConfig, Strategy, any, prop_assert, prop_assert_eq};
use proptest::proptest;
use rustix::io::Errno;
use sysupgrade_rs::board::MtdPlace;
use sysupgrade_rs::flash::mtd::{Geometry, Kind, RawMtd};
use sysupgrade_rs::flash::{Chips as _, Device, FlashError, MtdDevice, Written};

use sim::chips::{MtdOp, NandFaults, Operation, Verb, What};
use sim::{Chips, ChipsState, Random};

/// The MTD of all these tests.
const MTD: &str = "firmware";

const PAGE: usize = 64;
const NAND_BLOCK: usize = 8 * PAGE;
/// Erase blocks are not always a power of two.
const NOR_BLOCK: usize = 300;
const BLOCKS: usize = 12;

fn small(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a small chip")
}

fn nand(bad: &[usize]) -> Chips {
    let chips = Chips::new(1);
    let faults = NandFaults {
        factory_bad: bad.to_vec(),
    };
    let size = (BLOCKS * NAND_BLOCK) as u64;
    chips.add_nand(MTD, size, small(NAND_BLOCK), small(PAGE), &faults);
    chips
}

fn nor() -> Chips {
    let chips = Chips::new(1);
    chips.add_nor(MTD, (BLOCKS * NOR_BLOCK) as u64, small(NOR_BLOCK));
    chips
}

/// All of the MTD.
fn whole() -> MtdPlace {
    MtdPlace {
        mtd: MTD.to_owned(),
        offset: 0,
        size: None,
        header_last: false,
    }
}

fn header_last() -> MtdPlace {
    MtdPlace {
        header_last: true,
        ..whole()
    }
}

fn raw(chips: &Chips) -> Box<dyn RawMtd> {
    chips.mtd(MTD).expect("it is there")
}

fn device(chips: &Chips, place: &MtdPlace) -> MtdDevice {
    MtdDevice::new(raw(chips), place).expect("a part that can be written")
}

fn write(device: &mut MtdDevice, mut image: &[u8]) -> Result<Written, FlashError> {
    let len = image.len() as u64;
    let written = device.write_image(&mut image, len, None)?;
    assert!(image.is_empty(), "{} bytes were not taken", image.len());
    Ok(written)
}

fn read(device: &mut MtdDevice, len: usize) -> Result<Vec<u8>, FlashError> {
    let mut bytes = Vec::new();
    device.read_image(0..len as u64, &mut bytes)?;
    let start = len / 3;
    let mut rest = Vec::new();
    device.read_image(start as u64..len as u64, &mut rest)?;
    assert!(bytes[start..] == rest, "from {start} on");
    Ok(bytes)
}

/// Writes and compares with what the device and what the next boot read. No rule of the chip is broken.
fn install(chips: &Chips, place: &MtdPlace, image: &[u8]) -> Written {
    let written = install_past_failures(chips, place, image);
    assert_eq!(written.erased, chips.counts().erases_of(MTD));
    written
}

/// The same where the chip also counts erases that failed.
fn install_past_failures(chips: &Chips, place: &MtdPlace, image: &[u8]) -> Written {
    let mut device = device(chips, place);
    let written = write(&mut device, image).expect("it can be written");
    assert_holds(chips, place, image);
    assert!(read(&mut device, image.len()).expect("it is readable") == image);
    assert_eq!(written.written + written.unchanged, image.len() as u64);
    written
}

fn assert_holds(chips: &Chips, place: &MtdPlace, image: &[u8]) {
    assert_eq!(chips.violations(), Vec::<String>::new());
    let part = chips.part(MTD, place.offset, image.len() as u64);
    assert!(part.expect("its bits are stable") == image, "other bytes");
}

/// Bytes without a page of 0xff.
fn image(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    (0..len).map(|_| random.next().to_le_bytes()[0]).collect()
}

/// A machine with this flash that was just switched on: nothing counted yet.
fn rebooted(chips: &Chips) -> Chips {
    Chips::with_state(&chips.state())
}

fn erased_blocks(chips: &Chips) -> Vec<usize> {
    let log = chips.log().into_iter();
    log.filter_map(|op| match op.what {
        What::Mtd(MtdOp::Erase { block }) => Some(block),
        _ => None,
    })
    .collect()
}

fn message(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", message(source)),
        None => error.to_string(),
    }
}

/// An MTD that differs from the chip behind it.
struct Odd {
    chip: Box<dyn RawMtd>,
    geometry: Geometry,
    mark_bad: Option<Errno>,
    reads: Option<Errno>,
    changes: Option<Errno>,
}

impl Odd {
    fn of(chips: &Chips) -> Self {
        let chip = raw(chips);
        Self {
            geometry: chip.geometry().clone(),
            chip,
            mark_bad: None,
            reads: None,
            changes: None,
        }
    }
}

impl RawMtd for Odd {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn is_bad(&mut self, offset: u64) -> io::Result<bool> {
        self.chip.is_bad(offset)
    }

    fn mark_bad(&mut self, offset: u64) -> io::Result<()> {
        match self.mark_bad {
            Some(errno) => Err(errno.into()),
            None => self.chip.mark_bad(offset),
        }
    }

    fn erase(&mut self, offset: u64) -> io::Result<()> {
        match self.changes {
            Some(errno) => Err(errno.into()),
            None => self.chip.erase(offset),
        }
    }

    fn program(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match self.changes {
            Some(errno) => Err(errno.into()),
            None => self.chip.program(offset, bytes),
        }
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<u32> {
        match self.reads {
            Some(errno) => Err(errno.into()),
            None => self.chip.read(offset, bytes),
        }
    }
}

// Where a part may be.

#[test]
fn the_capacity_is_what_bad_blocks_leave_of_the_part() {
    let chips = nand(&[1, 4, 5, 11]);
    assert_eq!(device(&chips, &whole()).capacity(), 8 * NAND_BLOCK as u64);
    let place = MtdPlace {
        offset: 2 * NAND_BLOCK as u64,
        size: Some(4 * NAND_BLOCK as u64),
        ..whole()
    };
    assert_eq!(device(&chips, &place).capacity(), 2 * NAND_BLOCK as u64);
    assert_eq!(
        device(&nor(), &whole()).capacity(),
        (BLOCKS * NOR_BLOCK) as u64
    );
}

#[test]
fn a_part_is_on_erase_blocks_and_inside_the_mtd() {
    let refused = |offset, size, expected: &str| {
        let place = MtdPlace {
            offset,
            size,
            ..whole()
        };
        let error = MtdDevice::new(raw(&nor()), &place)
            .err()
            .expect("it is refused");
        assert_eq!(error.to_string(), format!("mtd {MTD}: the part {expected}"));
    };
    refused(
        100,
        None,
        "begins at 0x64, which is no multiple of the erase block, 0x12c",
    );
    refused(
        300,
        Some(301),
        "has 0x12d, which is no multiple of the erase block, 0x12c",
    );
    refused(
        3300,
        Some(600),
        "of 0x258 bytes at 0xce4 is not inside its 0xe10",
    );
    refused(3900, None, "of 0x0 bytes at 0xf3c is not inside its 0xe10");
    refused(
        300,
        Some(u64::MAX),
        "of 0xffffffffffffffff bytes at 0x12c is not inside its 0xe10",
    );
}

#[test]
fn a_shape_that_no_chip_has_is_refused() {
    for (erase_size, page_size) in [(0, 64), (512, 0), (512, 100)] {
        let mut odd = Odd::of(&nand(&[]));
        odd.geometry.erase_size = erase_size;
        odd.geometry.page_size = page_size;
        let error = MtdDevice::new(Box::new(odd), &whole())
            .err()
            .expect("refused");
        let expected = format!("erase blocks of {erase_size} bytes are not made of pages");
        assert!(error.to_string().contains(&expected), "{error}");
    }
}

#[test]
fn an_mtd_that_cannot_be_written_is_refused_at_once() {
    let chips = nand(&[]);
    chips.set_read_only(MTD);
    let result = MtdDevice::new(raw(&chips), &whole());
    assert!(matches!(result, Err(FlashError::ReadOnly { .. })));
}

#[test]
fn an_image_that_is_too_large_costs_no_erase() {
    let chips = nand(&[1, 4]);
    let mut device = device(&chips, &whole());
    let error = write(&mut device, &image(10 * NAND_BLOCK + 1, 1));
    let error = error.expect_err("ten blocks are good");
    let expected = "mtd firmware holds 5120 bytes, the image has 5121";
    assert_eq!(error.to_string(), expected);
    let error = read(&mut device, 10 * NAND_BLOCK + 1).expect_err("nor can it be read");
    assert_eq!(error.to_string(), expected);
    assert_eq!(chips.log(), []);
}

#[test]
fn a_part_leaves_what_is_around_it_alone() {
    for (chips, block) in [(nand(&[3]), NAND_BLOCK), (nor(), NOR_BLOCK)] {
        chips.put(MTD, 0, &image(block, 1));
        chips.put(MTD, 8 * block as u64, &image(block, 2));
        let place = MtdPlace {
            offset: 2 * block as u64,
            size: Some(6 * block as u64),
            ..whole()
        };
        let capacity = device(&chips, &place).capacity();
        let image_in_it = image(usize::try_from(capacity).expect("small"), 3);
        install(&chips, &place, &image_in_it);
        let part = |at: usize| chips.part(MTD, (at * block) as u64, block as u64);
        assert!(part(0).expect("it is readable") == image(block, 1));
        assert!(part(8).expect("it is readable") == image(block, 2));
    }
}

// What is written.

#[test]
fn an_image_that_is_there_already_costs_neither_an_erase_nor_a_program() {
    for (chips, block) in [(nand(&[0, 3]), NAND_BLOCK), (nor(), NOR_BLOCK)] {
        for place in [whole(), header_last()] {
            let image = image(7 * block + 10, 1);
            chips.put(MTD, 0, &image);
            let chips = rebooted(&chips);
            let written = install(&chips, &place, &image);
            assert_eq!(chips.log(), []);
            let len = image.len() as u64;
            let expected = Written {
                unchanged: len,
                read: len,
                ..Written::default()
            };
            assert_eq!(written, expected);
        }
    }
}

#[test]
fn only_blocks_that_differ_are_erased() {
    for (chips, block) in [(nand(&[0, 3]), NAND_BLOCK), (nor(), NOR_BLOCK)] {
        let mut image = image(9 * block + 10, 1);
        chips.put(MTD, 0, &image);
        for number in [2, 5] {
            image[number * block + 7] ^= 1;
        }
        let written = install(&chips, &whole(), &image);
        let expected = match block == NAND_BLOCK {
            true => [4, 7], // for 0 and 3 are bad
            false => [2, 5],
        };
        assert_eq!(erased_blocks(&chips), expected);
        assert_eq!(written.written, 2 * block as u64);
    }
}

#[test]
fn what_lies_behind_the_image_in_its_last_block_does_not_count() {
    for (chips, block) in [(nand(&[]), NAND_BLOCK), (nor(), NOR_BLOCK)] {
        let image = image(3 * block, 1);
        chips.put(MTD, 0, &image);
        install(&chips, &whole(), &image[..2 * block + 70]);
        assert_eq!(chips.log(), []);
    }
}

#[test]
fn a_block_that_reads_as_erased_is_erased_before_it_is_programmed() {
    for (chips, block) in [(nand(&[]), NAND_BLOCK), (nor(), NOR_BLOCK)] {
        install(&chips, &whole(), &image(2 * block, 1));
        assert_eq!(erased_blocks(&chips), [0, 1]);
    }
}

#[test]
fn the_last_page_is_filled_with_ff() {
    let chips = nand(&[]);
    chips.put(MTD, 0, &image(3 * NAND_BLOCK, 9));
    install(&chips, &whole(), &image(NAND_BLOCK + PAGE + 10, 1));
    let rest = &chips.contents(MTD)[NAND_BLOCK + PAGE + 10..2 * NAND_BLOCK];
    assert!(rest.iter().all(|&byte| byte == 0xff));
}

#[test]
fn pages_of_ff_are_not_programmed() {
    let chips = nand(&[]);
    chips.put(MTD, 0, &image(3 * NAND_BLOCK, 9));
    let mut new = image(NAND_BLOCK + 10, 1);
    new[2 * PAGE..5 * PAGE].fill(0xff);
    new.extend([0xff; 3 * PAGE]);
    install(&chips, &whole(), &new);
    let programs = chips.log().into_iter().filter_map(|op| match op.what {
        What::Mtd(MtdOp::Program { offset, .. }) => Some(offset / PAGE),
        _ => None,
    });
    assert_eq!(programs.collect::<Vec<_>>(), [0, 1, 5, 6, 7, 8]);
}

#[test]
fn nor_is_programmed_in_one_piece_a_block() {
    let chips = nor();
    install(&chips, &whole(), &image(2 * NOR_BLOCK + 10, 1));
    let lengths = chips.log().into_iter().filter_map(|op| match op.what {
        What::Mtd(MtdOp::Program { bytes, .. }) => Some(bytes.len()),
        _ => None,
    });
    assert_eq!(lengths.collect::<Vec<_>>(), [NOR_BLOCK, NOR_BLOCK, 10]);
}

#[test]
fn a_source_that_ends_early_is_an_error_of_the_source() {
    let chips = nor();
    let mut device = device(&chips, &whole());
    let result = device.write_image(
        &mut &image(2 * NOR_BLOCK, 1)[..],
        3 * NOR_BLOCK as u64,
        None,
    );
    assert!(matches!(result, Err(FlashError::Source(_))), "{result:?}");
}

// Blocks that read right and are not to be trusted.

#[test]
fn a_page_with_as_many_corrected_bits_as_the_threshold_is_written_again() {
    let image = image(3 * NAND_BLOCK, 1);
    let chips = nand(&[]);
    chips.put(MTD, 0, &image);
    chips.flip_bits(MTD, (NAND_BLOCK + 3 * PAGE) as u64, 3);
    let written = install(&chips, &whole(), &image);
    assert_eq!(erased_blocks(&chips), [1]);
    assert_eq!(written.written, NAND_BLOCK as u64);
}

#[test]
fn a_few_corrected_bits_in_each_of_many_pages_are_no_reason_to_write() {
    let image = image(3 * NAND_BLOCK, 1);
    let chips = nand(&[]);
    chips.put(MTD, 0, &image);
    for page in 0..8 {
        chips.flip_bits(MTD, (NAND_BLOCK + page * PAGE) as u64, 2);
    }
    install(&chips, &whole(), &image);
    assert_eq!(chips.log(), []);
}

#[test]
fn without_a_threshold_corrected_bits_are_no_reason_to_write() {
    let image = image(3 * NAND_BLOCK, 1);
    let chips = nand(&[]);
    chips.put(MTD, 0, &image);
    chips.flip_bits(MTD, 0, 9);
    let mut odd = Odd::of(&chips);
    odd.geometry.bitflip_threshold = 0;
    let mut device = MtdDevice::new(Box::new(odd), &whole()).expect("it is usable");
    write(&mut device, &image).expect("it is there");
    assert_eq!(chips.log(), []);
}

#[test]
fn a_block_that_cannot_be_read_is_written_and_an_error_when_the_image_is_read() {
    let image = image(3 * NAND_BLOCK, 1);
    let chips = nand(&[]);
    chips.put(MTD, 0, &image);
    chips.spoil(MTD, (NAND_BLOCK + PAGE) as u64);
    let error = read(&mut device(&chips, &whole()), image.len()).expect_err("bits are lost");
    let expected = "cannot read mtd firmware at 0x200: ";
    assert!(message(&error).starts_with(expected), "{error}");
    install(&chips, &whole(), &image);
    assert_eq!(erased_blocks(&chips), [1]);
}

#[test]
fn a_failure_to_read_for_another_reason_ends_the_run() {
    let chips = nand(&[]);
    let mut odd = Odd::of(&chips);
    odd.reads = Some(Errno::IO);
    let mut device = MtdDevice::new(Box::new(odd), &whole()).expect("it is usable");
    let error = write(&mut device, &image(100, 1)).expect_err("it cannot be compared");
    assert!(error.to_string().starts_with("cannot read"), "{error}");
    assert_eq!(chips.log(), []);
}

// Blocks that go bad.

#[test]
fn a_block_that_fails_is_marked_bad_and_its_bytes_go_to_the_next_good_one() {
    for verb in [Verb::Erase, Verb::Program] {
        let chips = nand(&[3]);
        let old = image(8 * NAND_BLOCK, 1);
        let new = image(8 * NAND_BLOCK, 2);
        chips.put(MTD, 0, &old);
        chips.fail(MTD, verb, Some(2), 1);
        let mut device = device(&chips, &whole());
        let written = write(&mut device, &new).expect("there are other blocks");
        assert_holds(&chips, &whole(), &new);
        assert_eq!(written.gone_bad, 1);
        assert_eq!(chips.state().bad_blocks(MTD), [2, 3]);
        assert_eq!(device.capacity(), 10 * NAND_BLOCK as u64);
        assert!(read(&mut device, new.len()).expect("it is readable") == new);
    }
}

#[test]
fn what_follows_a_block_that_went_bad_is_compared_where_it_now_belongs() {
    let chips = nand(&[]);
    let image = image(8 * NAND_BLOCK, 1);
    chips.put(MTD, 0, &image);
    chips.spoil(MTD, 2 * NAND_BLOCK as u64);
    chips.fail(MTD, Verb::Erase, Some(2), 1);
    let written = install_past_failures(&chips, &whole(), &image);
    assert_eq!(erased_blocks(&chips), [2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(written.unchanged, 2 * NAND_BLOCK as u64);
    // Once more, with the block marked: all is in place.
    let chips = rebooted(&chips);
    install(&chips, &whole(), &image);
    assert_eq!(chips.log(), []);
}

#[test]
fn when_no_good_block_is_left_the_flash_is_worn_out() {
    let chips = nand(&[0, 5]);
    chips.fail(MTD, Verb::Erase, Some(4), 1);
    chips.fail(MTD, Verb::Program, Some(9), 1);
    let mut device = device(&chips, &whole());
    let error = write(&mut device, &image(10 * NAND_BLOCK, 1)).expect_err("eight are left");
    assert!(
        matches!(error, FlashError::WornOut { bad: 4, .. }),
        "{error:?}"
    );
    assert_eq!(device.capacity(), 8 * NAND_BLOCK as u64);
}

#[test]
fn a_failure_that_is_not_of_a_block_marks_none_bad() {
    for (chips, errno) in [
        (nand(&[]), Errno::TIMEDOUT),
        (nand(&[]), Errno::ROFS),
        (nor(), Errno::IO), // of which no block can be marked
    ] {
        let mut odd = Odd::of(&chips);
        odd.changes = Some(errno);
        let mut device = MtdDevice::new(Box::new(odd), &whole()).expect("it is usable");
        let error = write(&mut device, &image(100, 1)).expect_err("it refuses");
        let expected = "cannot erase mtd firmware at 0x0: ";
        assert!(message(&error).starts_with(expected), "{error}");
        assert_eq!(chips.log(), []);
        assert_eq!(chips.violations(), Vec::<String>::new());
    }
}

#[test]
fn a_block_that_cannot_be_marked_bad_is_an_error() {
    let chips = nand(&[]);
    chips.fail(MTD, Verb::Erase, Some(1), 1);
    let mut odd = Odd::of(&chips);
    odd.mark_bad = Some(Errno::IO);
    let mut device = MtdDevice::new(Box::new(odd), &whole()).expect("it is usable");
    let error = write(&mut device, &image(3 * NAND_BLOCK, 1)).expect_err("it is not marked");
    let expected = "cannot mark as bad a block of mtd firmware at 0x200";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_chip_that_is_gone_marks_no_block_bad() {
    let new = image(4 * NAND_BLOCK, 1);
    let whole_run = nand(&[]);
    install(&whole_run, &whole(), &new);
    let operations = whole_run.log().len();
    for left in 0..operations {
        let chips = nand(&[]);
        let mut device = device(&chips, &whole());
        chips.vanish_after(left);
        let error = write(&mut device, &new).expect_err("it is gone");
        assert!(
            matches!(&error, FlashError::Flash { source, .. }
                if source.raw_os_error() == Some(Errno::NODEV.raw_os_error())),
            "{error:?}"
        );
        assert_eq!(chips.state().bad_blocks(MTD), Vec::<usize>::new());
    }
}

#[test]
fn a_chip_on_which_every_block_fails_loses_few_of_them() {
    let chips = nand(&[]);
    for block in 0..BLOCKS {
        chips.fail(MTD, Verb::Erase, Some(block), 1);
    }
    let mut device = device(&chips, &whole());
    let error = write(&mut device, &image(100, 1)).expect_err("none can be erased");
    let expected =
        "mtd firmware: 4 blocks failed in a row, up to 0x600: not they, the chip or its supply";
    assert_eq!(error.to_string(), expected);
    assert_eq!(chips.state().bad_blocks(MTD), [0, 1, 2]);
}

// The header comes last.

/// The blocks that were erased or programmed, in order, each time once for several pages.
fn touched(log: &[Operation], block: usize) -> Vec<(Verb, usize)> {
    let touched = log.iter().filter_map(|op| match &op.what {
        What::Mtd(MtdOp::Erase { block }) => Some((Verb::Erase, *block)),
        What::Mtd(MtdOp::Program { offset, .. }) => Some((Verb::Program, offset / block)),
        _ => None,
    });
    let mut touched: Vec<_> = touched.collect();
    touched.dedup();
    touched
}

#[test]
fn the_header_goes_first_and_comes_last_whenever_another_block_changes() {
    use Verb::{Erase, Program};
    for (chips, block) in [(nand(&[1]), NAND_BLOCK), (nor(), NOR_BLOCK)] {
        let old = image(5 * block, 1);
        chips.put(MTD, 0, &old);
        let shift = usize::from(block == NAND_BLOCK);
        let (two, four) = (2 + shift, 4 + shift);
        let mut new = old.clone();
        new[2 * block] ^= 1;
        new[4 * block] ^= 1;
        for changed_header in [false, true] {
            let chips = rebooted(&chips);
            new[0] ^= u8::from(changed_header);
            let written = install(&chips, &header_last(), &new);
            let expected = [
                (Erase, 0),
                (Erase, two),
                (Program, two),
                (Erase, four),
                (Program, four),
                (Program, 0),
            ];
            assert_eq!(touched(&chips.log(), block), expected);
            assert_eq!(written.erased, 3);
            assert_eq!(written.written, 3 * block as u64);
        }
        // Nothing but the header.
        let chips = rebooted(&chips);
        let mut new = old;
        new[0] ^= 1;
        install(&chips, &header_last(), &new);
        assert_eq!(touched(&chips.log(), block), [(Erase, 0), (Program, 0)]);
    }
}

#[test]
fn a_header_that_goes_bad_fails_the_run_and_the_next_one_writes_all_behind_it() {
    for verb in [Verb::Erase, Verb::Program] {
        let chips = nand(&[1]);
        chips.put(MTD, 0, &image(5 * NAND_BLOCK, 1));
        chips.fail(MTD, verb, Some(0), 1);
        let new = image(5 * NAND_BLOCK, 2);
        let error = write(&mut device(&chips, &header_last()), &new).expect_err("it went bad");
        let expected = "mtd firmware: its first block, at 0x0, went bad and is marked so; \
                        run again to write all blocks one further: ";
        assert!(message(&error).starts_with(expected), "{error}");
        if verb == Verb::Erase {
            assert_eq!(
                chips.counts().programs.get(MTD),
                None,
                "nothing was written"
            );
        }
        let chips = rebooted(&chips);
        install(&chips, &header_last(), &new);
        assert_eq!(chips.state().bad_blocks(MTD), [0, 1]);
    }
}

// All of it.

/// Content that has something to skip: blocks and pages of 0xff, and others that are equal.
fn content(blocks: usize, block: usize) -> impl Strategy<Value = Vec<u8>> {
    let seeds = vec((0_u64..3, any::<u8>()), 1..=blocks);
    (seeds, 0..block).prop_map(move |(seeds, tail)| {
        let mut bytes = Vec::new();
        for (seed, blank) in seeds {
            let mut piece = image(block, seed);
            for page in (0..block.div_ceil(PAGE)).filter(|page| blank >> page & 1 == 1) {
                piece[page * PAGE..block.min((page + 1) * PAGE)].fill(0xff);
            }
            bytes.extend(piece);
        }
        bytes.truncate(bytes.len() - tail);
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn whatever_was_there_and_whichever_blocks_fail_the_image_is_there_after(
        old in content(7, NAND_BLOCK),
        new in content(7, NAND_BLOCK),
        bad in btree_set(0..BLOCKS, 0..3),
        failures in vec((any::<bool>(), 1_u64..20), 0..3),
        flips in vec((0..BLOCKS * 8, 1_u32..6), 0..4),
        header in any::<bool>(),
    ) {
        let bad: Vec<usize> = bad.into_iter().collect();
        let chips = nand(&bad);
        chips.put(MTD, 0, &old);
        for (page, bits) in &flips {
            chips.flip_bits(MTD, (page * PAGE) as u64, *bits);
        }
        for (erase, nth) in &failures {
            let verb = match erase { true => Verb::Erase, false => Verb::Program };
            chips.fail(MTD, verb, None, *nth);
        }
        let place = MtdPlace { header_last: header, ..whole() };
        // The header may go bad, once for each failure.
        let mut written = Written::default();
        for _ in 0..=failures.len() {
            let result = write(&mut device(&chips, &place), &new);
            if let Ok(this) = result {
                written = this;
                break;
            }
            prop_assert!(header, "{:?}", result);
        }
        assert_holds(&chips, &place, &new);
        prop_assert_eq!(written.written + written.unchanged, new.len() as u64);
        let grown = chips.state().bad_blocks(MTD).len() - bad.len();
        prop_assert!(grown <= failures.len());

        if failures.is_empty() {
            let differ = (0..new.len().div_ceil(NAND_BLOCK)).filter(|number| {
                let range = number * NAND_BLOCK..new.len().min((number + 1) * NAND_BLOCK);
                old.get(range.clone()) != Some(&new[range])
            }).count();
            let most = (differ + flips.len()) as u64 + u64::from(header);
            prop_assert!(written.erased <= most, "{} erased, {} differ", written.erased, differ);
        }
        let again = rebooted(&chips);
        install(&again, &place, &new);
        prop_assert_eq!(again.counts().erases_of(MTD), 0);
    }

    #[test]
    fn whatever_was_on_nor_the_image_is_there_after(
        old in content(BLOCKS, NOR_BLOCK),
        new in content(BLOCKS, NOR_BLOCK),
        header in any::<bool>(),
    ) {
        let chips = nor();
        chips.put(MTD, 0, &old);
        let place = MtdPlace { header_last: header, ..whole() };
        install(&chips, &place, &new);
        let again = rebooted(&chips);
        install(&again, &place, &new);
        prop_assert_eq!(again.log(), []);
    }
}

#[test]
fn after_a_cut_anywhere_the_next_run_finishes() {
    let mut cuts = 0;
    for (chips, block) in [(nand(&[2]), NAND_BLOCK), (nor(), NOR_BLOCK)] {
        for place in [whole(), header_last()] {
            for fails in [false, true] {
                let chips = rebooted(&chips);
                chips.put(MTD, 0, &image(5 * block, 1));
                if fails && block == NAND_BLOCK {
                    chips.fail(MTD, Verb::Program, Some(3), 2);
                }
                let mut new = image(5 * block - 20, 2);
                new[block..2 * block].copy_from_slice(&image(5 * block, 1)[block..2 * block]);
                new[4 * block + PAGE..4 * block + 2 * PAGE].fill(0xff);
                cuts += cut_everywhere(&chips, &place, &new);
            }
        }
    }
    assert!(cuts > 700, "only {cuts} cuts");
}

/// Cuts a run in and between its operations; power comes back, and it is run again.
fn cut_everywhere(chips: &Chips, place: &MtdPlace, new: &[u8]) -> usize {
    let mut before = chips.state();
    let old = before.part(MTD, place.offset, new.len() as u64);
    let old = old.expect("it was installed");
    install_past_failures(chips, place, new);
    let log = chips.log();
    let mut random = Random(7);
    let mut cuts = 0;
    for (number, op) in log.iter().enumerate() {
        let mut left = before.torn(op, &mut random);
        left.push(("nothing of it came to be".to_owned(), before.clone()));
        for (how, state) in left {
            if place.header_last {
                assert!(
                    header_says_the_truth(&state, raw(chips).geometry(), [&old, new]),
                    "cut {number}, {op}, {how}: a header stands before a mixture"
                );
            }
            let chips = Chips::with_state(&state);
            let result = write(&mut device(&chips, place), new);
            assert!(
                result.is_ok() && chips.violations().is_empty(),
                "cut {number}, {op}, {how}: {result:?}, {:?}",
                chips.violations()
            );
            let part = chips.part(MTD, place.offset, new.len() as u64);
            assert!(
                part.as_ref().is_ok_and(|part| part == new),
                "cut {number}, {op}, {how}: the next boot reads {:?}",
                part.map(|_| "other bytes")
            );
            cuts += 1;
        }
        before.apply(op);
    }
    cuts
}

/// True if there is no header at `0`, or the one of just what is there. On NAND it may stand before the
/// rest of its own block.
fn header_says_the_truth(state: &ChipsState, geometry: &Geometry, images: [&[u8]; 2]) -> bool {
    let part = |from: usize, to: usize| state.part(MTD, from as u64, (to - from) as u64);
    let Ok(header) = part(0, PAGE) else {
        return true;
    };
    let Some(image) = images.iter().find(|image| image[..PAGE] == header) else {
        return true;
    };
    let from = match geometry.kind {
        Kind::Nor => 0,
        Kind::Nand => geometry.erase_size as usize,
    };
    part(from, image.len()).is_ok_and(|part| part == image[from..])
}
