//! What a second upgrade costs the flash: counted by the tool, and by the chip.

use super::{Flash, answer};
use crate::router::Router;

const INSTALL: &str = "sysupgrade-rs --no-reboot /run/images";

/// A word of the module that is the chip, as numbers.
fn chip(router: &mut Router, word: &str) -> Vec<u64> {
    let text = router.run(&format!("cat /sys/module/cutflash/parameters/{word}"));
    let numbers = text.trim().split(',').map(str::parse);
    numbers.map(|number| number.expect("a number")).collect()
}

/// Installs an image; how many erase blocks of the slot the tool says it has erased.
fn install(router: &mut Router, image: &str) -> u64 {
    let (status, answer) = answer(router, &format!("{INSTALL}/{image}.bin"));
    assert_eq!(status, 0, "{answer}");
    answer["cost"]["erased"].as_u64().expect("a number")
}

#[test]
#[ignore = "needs QEMU"]
fn on_nor_just_the_blocks_that_differ_are_erased() {
    let flash = Flash::new("nor", "cutflash");
    let mut router = flash.start();
    router.log_in();
    // In the order of the partitions: env, kernel-a, root-a, kernel-b, root-b, data.
    let slot_b = 2 + 16 + 64..2 + 2 * (16 + 64);
    // Each block of the image once: 11 of the kernel, 48 of the root.
    for (image, blocks) in [("v2", 59), ("v2", 0), ("v2-patched", 3)] {
        let before = chip(&mut router, "erases");
        assert_eq!(install(&mut router, image), blocks, "{image}");
        let after = chip(&mut router, "erases");
        let erased = slot_b.clone().map(|block| after[block] - before[block]);
        assert_eq!(erased.sum::<u64>(), blocks, "{image}");
    }
}

#[test]
#[ignore = "needs QEMU"]
fn on_ubi_just_the_blocks_that_differ_are_written() {
    // Pages that fit into a logical erase block, with its two headers; and what the environment and the
    // files on UBIFS, which lie on the same chip, may take.
    const BLOCK: u64 = 64;
    const BESIDE: u64 = 128;
    let flash = Flash::new("nand", "cutflash");
    let mut router = flash.start();
    router.log_in();
    for (image, blocks) in [("v2", 31), ("v2", 0), ("v2-patched", 3)] {
        router.run("sync");
        let before = chip(&mut router, "programs")[0];
        assert_eq!(install(&mut router, image), blocks, "{image}");
        router.run("sync");
        let programs = chip(&mut router, "programs")[0] - before;
        assert!(
            programs <= blocks * BLOCK + BESIDE,
            "{image}: {programs} pages for {blocks} blocks"
        );
    }
}
