/* extent: see extent.h. */
#include "store/extent.h"

#define GROUP_SIZE ((GROUP_BLOCKS + 1ull) * BLOCK_SIZE)

uint64_t extent_cipher_len(uint64_t size)
{
	uint64_t blocks = extent_blocks(size);

	if (blocks == 0)
		return 0;
	return extent_data_off(blocks - 1) + BLOCK_SIZE + size % BLOCK_SIZE;
}

uint64_t extent_plain_size(uint64_t cipher_len)
{
	if (cipher_len <= HEADER_SIZE + BLOCK_SIZE)
		return 0;
	uint64_t groups = (cipher_len - HEADER_SIZE) / GROUP_SIZE, rest = (cipher_len - HEADER_SIZE) % GROUP_SIZE;
	uint64_t blocks = groups * GROUP_BLOCKS, tail = rest;

	if (rest >= BLOCK_SIZE) {
		blocks += rest / BLOCK_SIZE - 1;
		/* Past the tag block of a group, but not past its first data block: no tail ends there. */
		tail = rest < 2 * BLOCK_SIZE ? 0 : rest % BLOCK_SIZE;
	}
	if (blocks == 0)
		return 0;
	return blocks * BLOCK_SIZE - (tail ? BLOCK_SIZE - tail : 0);
}

enum extent_kind extent_at(uint64_t cipher_off, uint64_t *ret_blk)
{
	if (cipher_off < HEADER_SIZE) {
		*ret_blk = 0;
		return EXTENT_HEADER;
	}
	uint64_t group = (cipher_off - HEADER_SIZE) / GROUP_SIZE, index = (cipher_off - HEADER_SIZE) % GROUP_SIZE / BLOCK_SIZE;

	*ret_blk = group * GROUP_BLOCKS + (index ? index - 1 : 0);
	return index ? EXTENT_DATA : EXTENT_TAG;
}
