// SPDX-License-Identifier: GPL-2.0
/*
 * Two NOR chips in RAM that are write-protected when they come up, and ignore what is written to
 * protected blocks without a word, as SPI chips do. "lock blocks" protects each erase block by itself,
 * "lock whole" all of them or none. For tests/flash_kernel.rs; built against the guest's kernel headers:
 *
 *     echo 'obj-m := lockflash.o' > Makefile; make -C HEADERS M=$PWD modules
 */
#include <linux/module.h>
#include <linux/mtd/mtd.h>
#include <linux/vmalloc.h>

#define BLOCK (64 << 10)
#define BLOCKS 8
#define SIZE (BLOCKS * BLOCK)

struct chip {
	struct mtd_info mtd;
	u8 *bytes;
	bool locked[BLOCKS];
	bool only_whole;
};

static struct chip chips[2] = {
	{ .mtd.name = "lock blocks" },
	{ .mtd.name = "lock whole", .only_whole = true },
};

static struct chip *chip_of(struct mtd_info *mtd)
{
	return container_of(mtd, struct chip, mtd);
}

static int set_locked(struct mtd_info *mtd, loff_t from, uint64_t len, bool locked)
{
	struct chip *chip = chip_of(mtd);
	u32 block;

	if (chip->only_whole && (from || len != SIZE))
		return -EINVAL;
	for (block = (u32)from / BLOCK; block < (u32)(from + len) / BLOCK; block++)
		chip->locked[block] = locked;
	return 0;
}

static int lock(struct mtd_info *mtd, loff_t from, uint64_t len)
{
	return set_locked(mtd, from, len, true);
}

static int unlock(struct mtd_info *mtd, loff_t from, uint64_t len)
{
	return set_locked(mtd, from, len, false);
}

static int is_locked(struct mtd_info *mtd, loff_t from, uint64_t len)
{
	u32 block;

	for (block = (u32)from / BLOCK; block < (u32)(from + len) / BLOCK; block++)
		if (!chip_of(mtd)->locked[block])
			return 0;
	return 1;
}

static int erase(struct mtd_info *mtd, struct erase_info *what)
{
	struct chip *chip = chip_of(mtd);

	if (!chip->locked[(u32)what->addr / BLOCK])
		memset(chip->bytes + what->addr, 0xff, what->len);
	return 0;
}

static int read(struct mtd_info *mtd, loff_t from, size_t len, size_t *done, u8 *to)
{
	memcpy(to, chip_of(mtd)->bytes + from, len);
	*done = len;
	return 0;
}

static int write(struct mtd_info *mtd, loff_t to, size_t len, size_t *done, const u8 *from)
{
	struct chip *chip = chip_of(mtd);
	size_t at;

	for (at = 0; at < len; at++)
		if (!chip->locked[(u32)(to + at) / BLOCK])
			chip->bytes[to + at] &= from[at];
	*done = len;
	return 0;
}

static int __init come_up(void)
{
	int i, error = 0;

	for (i = 0; i < 2 && !error; i++) {
		struct chip *chip = &chips[i];
		struct mtd_info *mtd = &chip->mtd;

		chip->bytes = vzalloc(SIZE);
		if (!chip->bytes)
			return -ENOMEM;
		memset(chip->locked, true, sizeof(chip->locked));
		mtd->owner = THIS_MODULE;
		mtd->type = MTD_NORFLASH;
		mtd->flags = MTD_CAP_NORFLASH;
		mtd->size = SIZE;
		mtd->erasesize = BLOCK;
		mtd->writesize = 1;
		mtd->writebufsize = 64;
		mtd->_erase = erase;
		mtd->_read = read;
		mtd->_write = write;
		mtd->_lock = lock;
		mtd->_unlock = unlock;
		mtd->_is_locked = is_locked;
		error = mtd_device_register(mtd, NULL, 0);
	}
	return error;
}

module_init(come_up);
MODULE_LICENSE("GPL");
