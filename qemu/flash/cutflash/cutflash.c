// SPDX-License-Identifier: GPL-2.0
/*
 * cutflash: raw flash for tests, kept in a range of physical memory that is a file on the host (a QEMU
 * nvdimm with share=on).
 *
 * - What a program or erase has done is in the file when it returns: no cache, nothing to flush. The
 *   virtual machine may be killed at any time, and finds its flash again as it was.
 * - As on real chips, programming only turns 1 into 0, and whole pages at that; erasing turns all to 1.
 * - The N-th operation (program of a page, erase of a block) from now on can be cut: before it, in its
 *   middle or after it. Power fails (QEMU ends) or the chip does not answer any more.
 * - NAND has bad blocks. They are remembered in the last erase block, which belongs to no partition.
 *
 * NOR, as chips with a write buffer have it, is nand=0 writesize=1: 512 bytes count as one operation.
 *
 * insmod cutflash.ko size=0x2000000 erasesize=131072 writesize=2048 parts=env:8,ubi:240 badblocks=1,20
 * echo 37 >/sys/module/cutflash/parameters/cut_at
 */
#include <linux/io.h>
#include <linux/module.h>
#include <linux/mtd/mtd.h>
#include <linux/mtd/partitions.h>
#include <linux/string.h>

#define MAX_PARTS 16
#define MAX_BLOCKS 512 /* as many numbers as fit into a file of sysfs */
#define NOR_BUFFER 512

static unsigned long long start = 0x100000000ULL;
module_param(start, ullong, 0444);
MODULE_PARM_DESC(start, "first byte in physical memory");
static unsigned long long size = 64 << 20;
module_param(size, ullong, 0444);
MODULE_PARM_DESC(size, "bytes; the last erase block is not for use");
static uint erasesize = 128 << 10;
module_param(erasesize, uint, 0444);
static uint writesize = 2048;
module_param(writesize, uint, 0444);
static bool nand = true;
module_param(nand, bool, 0444);
static uint badblocks[64];
static int badblocks_count;
module_param_array(badblocks, uint, &badblocks_count, 0444);
MODULE_PARM_DESC(badblocks, "erase blocks that are bad from now on");
static char *parts[MAX_PARTS];
static int parts_count;
module_param_array(parts, charp, &parts_count, 0444);
MODULE_PARM_DESC(parts, "partitions, NAME:BLOCKS or NAME:BLOCKS:ro, one after the other");

/* May be changed at any time. */
static long cut_at;
module_param(cut_at, long, 0644);
MODULE_PARM_DESC(cut_at, "operations up to the cut; 0: none");
static int cut_mode = 1;
module_param(cut_mode, int, 0644);
MODULE_PARM_DESC(cut_mode, "0: before the operation, 1: in its middle, 2: after it");
static int cut_what;
module_param(cut_what, int, 0644);
MODULE_PARM_DESC(cut_what, "0: power, QEMU ends; 1: the chip, it is dead; 2: its life, it is worn");
static int cut_port = 0xf4;
module_param(cut_port, int, 0444);
MODULE_PARM_DESC(cut_port, "of QEMU's isa-debug-exit");
static bool dead;
module_param(dead, bool, 0644);
MODULE_PARM_DESC(dead, "nothing is answered, reads neither");
static bool worn;
module_param(worn, bool, 0644);
MODULE_PARM_DESC(worn, "no block takes an erase or a program any more");

/* Since the module was loaded. */
static ulong programs;
module_param(programs, ulong, 0444);
static uint erases[MAX_BLOCKS];
static int blocks;
module_param_array(erases, uint, &blocks, 0444);
MODULE_PARM_DESC(erases, "of each erase block");

static struct mtd_info mtd;
static struct mtd_partition partitions[MAX_PARTS];
static u8 *base;
static u8 *bad; /* a byte an erase block; 0xff: good */

enum when { BEFORE, MIDDLE, AFTER };
enum what { POWER, CHIP, LIFE };

/* Does not return if the machine ends. */
static void cut(void)
{
	if (cut_what != POWER) {
		dead = cut_what == CHIP;
		worn = cut_what == LIFE;
		return;
	}
	pr_emerg("cutflash: power cut\n");
	outb(98, cut_port); /* QEMU exits with 2 * 98 + 1 */
	for (;;)
		cpu_relax();
}

/* One operation on the flash: turns @to into @from, or all to 1 without it. */
static int operate(u8 *to, const u8 *from, size_t len)
{
	bool now = cut_at > 0 && --cut_at == 0;
	size_t i, done = now && cut_mode == BEFORE ? 0 : now && cut_mode == MIDDLE ? len / 2 : len;

	if (dead || worn)
		return -EIO;
	if (from) {
		programs++;
		for (i = 0; i < done; i++)
			to[i] &= from[i];
	} else {
		erases[(u32)(to - base) / erasesize]++;
		memset(to, 0xff, done);
	}
	if (now)
		cut();
	return dead || worn ? -EIO : 0;
}

static int cutflash_erase(struct mtd_info *mtd, struct erase_info *instr)
{
	u64 at;

	if (instr->addr % erasesize || instr->len % erasesize)
		return -EINVAL;
	for (at = instr->addr; at < instr->addr + instr->len; at += erasesize) {
		if (bad[(u32)at / erasesize] != 0xff || operate(base + at, NULL, erasesize)) {
			instr->fail_addr = at;
			return -EIO;
		}
	}
	return 0;
}

static int cutflash_write(struct mtd_info *mtd, loff_t to, size_t len, size_t *retlen, const u_char *buf)
{
	size_t step;
	int err;

	if (to % writesize || len % writesize)
		return -EINVAL;
	for (*retlen = 0; *retlen < len; *retlen += step) {
		step = nand ? writesize : min_t(size_t, len - *retlen, NOR_BUFFER);
		err = operate(base + to + *retlen, buf + *retlen, step);
		if (err)
			return err;
	}
	return 0;
}

static int cutflash_read(struct mtd_info *mtd, loff_t from, size_t len, size_t *retlen, u_char *buf)
{
	if (dead)
		return -EIO;
	memcpy(buf, base + from, len);
	*retlen = len;
	return 0;
}

static int cutflash_isbad(struct mtd_info *mtd, loff_t ofs)
{
	return bad[(u32)ofs / erasesize] != 0xff;
}

static int cutflash_markbad(struct mtd_info *mtd, loff_t ofs)
{
	if (dead)
		return -EIO;
	bad[(u32)ofs / erasesize] = 0;
	return 0;
}

/* NAME:BLOCKS or NAME:BLOCKS:ro; what stands in @text is taken apart in place. */
static int parse(struct mtd_partition *part, char *text, u64 offset)
{
	uint blocks;
	char *name = strsep(&text, ":"), *count = strsep(&text, ":");

	if (!count || kstrtouint(count, 0, &blocks) || offset + (u64)blocks * erasesize > mtd.size)
		return -EINVAL;
	part->name = name;
	part->offset = offset;
	part->size = (u64)blocks * erasesize;
	part->mask_flags = text && !strcmp(text, "ro") ? MTD_WRITEABLE : 0;
	return 0;
}

static int __init cutflash_init(void)
{
	u64 offset = 0;
	int i, err;

	blocks = size / erasesize;
	if (blocks > MAX_BLOCKS)
		return -EINVAL;
	base = memremap(start, size, MEMREMAP_WB);
	if (!base)
		return -ENOMEM;
	bad = base + size - erasesize;
	for (i = 0; i < badblocks_count; i++)
		bad[badblocks[i]] = 0;

	mtd.name = "cutflash";
	mtd.owner = THIS_MODULE;
	mtd.size = size - erasesize;
	mtd.erasesize = erasesize;
	mtd.writesize = writesize;
	mtd.writebufsize = nand ? writesize : NOR_BUFFER;
	mtd.type = nand ? MTD_NANDFLASH : MTD_NORFLASH;
	mtd.flags = nand ? MTD_CAP_NANDFLASH : MTD_CAP_NORFLASH;
	mtd._erase = cutflash_erase;
	mtd._read = cutflash_read;
	mtd._write = cutflash_write;
	if (nand) {
		mtd._block_isbad = cutflash_isbad;
		mtd._block_markbad = cutflash_markbad;
	}

	err = 0;
	for (i = 0; i < parts_count && !err; i++) {
		err = parse(&partitions[i], parts[i], offset);
		offset += partitions[i].size;
	}
	if (!err)
		err = mtd_device_register(&mtd, partitions, parts_count);
	if (err)
		memunmap(base);
	return err;
}

static void __exit cutflash_exit(void)
{
	mtd_device_unregister(&mtd);
	memunmap(base);
}

module_init(cutflash_init);
module_exit(cutflash_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Raw flash with power cuts, for tests");
