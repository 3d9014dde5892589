/* extent: where a file's plain bytes lie in its lower file. Pure arithmetic; plain_off and cipher_off never mix. */
#pragma once
#include "base/util.h"
#include "store/format.h"

/* Lower offset of data block blk, and of the tag block and the entry that belong to it. */
static inline uint64_t extent_data_off(uint64_t blk)
{
	return HEADER_SIZE + (blk / GROUP_BLOCKS + 1 + blk) * BLOCK_SIZE;
}
static inline uint64_t extent_tag_off(uint64_t blk)
{
	return HEADER_SIZE + blk / GROUP_BLOCKS * (GROUP_BLOCKS + 1) * BLOCK_SIZE;
}
static inline uint64_t extent_entry_off(uint64_t blk)
{
	return extent_tag_off(blk) + blk % GROUP_BLOCKS * ENTRY_SIZE;
}
/* Blocks that a file of size bytes has. */
static inline uint64_t extent_blocks(uint64_t size)
{
	return size / BLOCK_SIZE + (size % BLOCK_SIZE != 0);
}
/* Lower length of a file of size bytes, and back. Lengths that no size has (a damaged file) give the nearest smaller size. */
uint64_t extent_cipher_len(uint64_t size);
uint64_t extent_plain_size(uint64_t cipher_len);

enum extent_kind { EXTENT_HEADER, EXTENT_TAG, EXTENT_DATA };
/* What lies at a lower offset: the block it belongs to (the first of its group for a tag block). */
enum extent_kind extent_at(uint64_t cipher_off, uint64_t *ret_blk);
