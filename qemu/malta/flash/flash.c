// SPDX-License-Identifier: GPL-2.0
/*
 * flash: the parallel NOR flash of a Malta board, as MTDs `u-boot` and `env`.
 *
 * Debian's kernel has the driver of the chip and no description of this board, and what the device
 * tree says of it would leave the environment read-only.
 *
 * Two flaws of QEMU's chip (10.0.2) are made up for:
 *
 * - It fails a write of exactly one word through its write buffer ("buffer write error"). So the driver
 *   does not hear that there is such a buffer, and programs word by word.
 * - A program overwrites, where that of a real chip only turns 1 into 0. What the driver fills a word up
 *   with, 0xff, is not what stays as it is then. So whoever writes less than words gets whole ones.
 */
#include <linux/align.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/mtd/map.h>
#include <linux/mtd/mtd.h>
#include <linux/mtd/partitions.h>
#include <linux/slab.h>

#define WORD 4
/* In the answer to a CFI query: the time that a write through the buffer takes, 0 if there is none. */
#define BUFFER_WRITE_TIME (0x20 * WORD)

static const struct mtd_partition partitions[] = {
	{ .name = "u-boot", .size = 0x3e0000, .mask_flags = MTD_WRITEABLE },
	{ .name = "env", .offset = MTDPART_OFS_APPEND, .size = 0x20000 },
};

static struct map_info map = {
	.name = "malta",
	.phys = 0x1e000000,
	.size = 4 << 20,
	.bankwidth = WORD,
};

static struct mtd_info *chip;
static int (*write_words)(struct mtd_info *mtd, loff_t to, size_t len, size_t *done, const u_char *bytes);

static map_word read_probing(struct map_info *map, unsigned long at)
{
	map_word word = inline_map_read(map, at);

	if (at == BUFFER_WRITE_TIME)
		word.x[0] = 0;
	return word;
}

static int write(struct mtd_info *mtd, loff_t to, size_t len, size_t *done, const u_char *bytes)
{
	loff_t begin = ALIGN_DOWN(to, WORD);
	size_t whole = ALIGN(to + len, WORD) - begin;
	u_char *words;
	size_t i;
	int err;

	if (begin == to && whole == len)
		return write_words(mtd, to, len, done, bytes);
	*done = 0;
	words = kmalloc(whole, GFP_KERNEL);
	if (!words)
		return -ENOMEM;
	err = mtd->_read(mtd, begin, whole, done, words);
	if (!err) {
		for (i = 0; i < len; i++)
			words[to - begin + i] &= bytes[i];
		err = write_words(mtd, begin, whole, done, words);
	}
	*done = err ? 0 : len;
	kfree(words);
	return err;
}

static int __init flash_init(void)
{
	map_word (*read)(struct map_info *map, unsigned long at);
	int err;

	map.virt = ioremap(map.phys, map.size);
	if (!map.virt)
		return -ENOMEM;
	simple_map_init(&map);
	read = map.read;
	map.read = read_probing;
	chip = do_map_probe("cfi_probe", &map);
	map.read = read;
	err = -ENODEV;
	if (chip) {
		write_words = chip->_write;
		chip->_write = write;
		err = mtd_device_register(chip, partitions, ARRAY_SIZE(partitions));
		if (err)
			map_destroy(chip);
	}
	if (err)
		iounmap(map.virt);
	return err;
}

static void __exit flash_exit(void)
{
	mtd_device_unregister(chip);
	map_destroy(chip);
	iounmap(map.virt);
}

module_init(flash_init);
module_exit(flash_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("NOR flash of QEMU's Malta board");
