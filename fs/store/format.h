/* format: the store's format version 2, byte by byte. README's format chapter repeats these tables and a test compares
 * the two. Numbers are little-endian; "MAC" is HMAC-SHA256 (RFC 2104) over everything before it in its sector.
 *
 * A file that holds nothing is an empty lower file. Any other is
 *
 *   | header 4096 | tag block 0 | data 0..127 | tag block 1 | data 128..255 | ...
 *
 * The last data block is stored whole, padded with zeros; the lower file is then longer by as many bytes as the tail
 * has (0 when the size is a multiple of 4096), so the size follows from the lower length alone (extent.h).
 *
 * format:begin
 * key sector, at 0
 *      0    8  magic "TDEFSF1\0"
 *      8    4  format version, 2; 1 is read too: it has no flags, no record 1, and zeros from 128 on
 *     12    4  flags: 1 the blocks under record 0's key have the key bit
 *     16   16  file id, random
 *     32    8  epoch in which the header was made
 *     40    4  key record 0: environment key version
 *     44   40  key record 0: file key, AES-256-KW (RFC 3394) under FW of that version
 *     84    4  key record 1: environment key version, 0 for none
 *     88   40  key record 1: while the content is re-encrypted, the file key before
 *    128    4  data rotation in which record 0's file key was made, 0 before the first
 *    132    4  zero
 *    136    8  with a record 1: blocks from here on are under its key; a multiple of 128
 *    144  336  zero
 *    480   32  MAC under the file-header key of record 0
 * state slot 0, at 1024, and 1, at 1536
 *      0    8  magic "TDEFSS1\0"
 *      8    8  sequence number; the valid slot with the higher one counts
 *     16    8  epoch of the mount that wrote it
 *     24    8  sealed blocks: blocks from here on are in flux
 *     32    4  flags: 1 dense (an all-zero entry is damage, not a hole)
 *     36    4  region shift: a region is 2^shift blocks
 *     40    4  generation of the block-MAC key for new entries
 *     44    4  zero
 *     48    8  tags made in that generation
 *     56  424  intent bitmap, a bit a region, lowest bit first: marked regions are in flux
 *    480   32  MAC under the file-header key of record 0, or of record 1 where there is one; before the sector's bytes, the file id
 * entry of a block, 128 in a tag block
 *      0    4  generation of the block-MAC key; bit 30: key bit, it says which of the file's keys; bit 31: zeros, without data
 *      4   12  nonce, random
 *     16   16  AES-256-GMAC (NIST SP 800-38D) over file id, block number (8), kind (8: 1 data, 2 zeros), ciphertext
 * data block: 4096 bytes AES-256-XTS (IEEE 1619), tweak = block number
 * directory
 *   tdefs.dir          two 512-byte sectors, each: magic "TDEFSD1\0" (8), id (16), MAC (32) under the directory key, zero
 *   user.tdefs.id      attribute of the directory, may be missing: the first 56 bytes of such a sector, a third copy
 *   base64url(sealed)  an object; sealed: its name, AES-256-SIV with the directory's id; where the text has up to 255 bytes
 *   l.base64url(h)     an object with a longer name; h: SHA-256 of sealed
 *   n.base64url(h)     beside it, a file that holds sealed; user.tdefs.name of the object (trusted.tdefs.name where it is no
 *                      file or directory), may be missing or old: sealed, a second copy
 * STORE/rotate.journal: what a step of a data rotation is about to write in place (journal.h); first sector, zeros when it is over
 *      0    8  magic "TDEFSJ1\0"
 *      8   16  record id, random
 *     24    8  length of the record in bytes
 *     32    4  number of parts; they follow from 512 on, one after another, each for a file
 * part of the journal
 *      0   16  file id
 *     16    8  mtime of the file, seconds
 *     24    4  mtime of the file, nanoseconds
 *     28    4  zero
 *     32    8  length of the part in bytes
 *     40   12  nonce, random
 *     52   16  AES-256-GMAC under the journal key of record 0, over record id and part without this field; zeros: applied
 *     68    4  zero
 *     72       extents to its end: offset in the lower file (8), length (8), bytes; the first begins with the key sector
 * format:end
 */
#pragma once

#define FORMAT_VERSION 2
#define BLOCK_SIZE 4096u
#define GROUP_BLOCKS 128u
#define HEADER_SIZE 4096u
#define SECTOR_SIZE 512u
#define ENTRY_SIZE 32u
#define FILE_ID_SIZE 16u
#define WRAPPED_KEY_SIZE 40u
#define MAC_SIZE 32u

#define FILE_MAGIC "TDEFSF1"
#define SLOT_MAGIC "TDEFSS1"
#define KEY_RECORDS 2u
#define SLOT_OFF(i) (1024u + 512u * (i))
#define SLOT_BITMAP_SIZE 424u
#define SLOT_REGIONS (SLOT_BITMAP_SIZE * 8u)
#define SLOT_DENSE 1u
#define REGION_SHIFT_MIN 7u
#define FILE_KEY_BIT 1u

#define ENTRY_ZERO 0x80000000u
#define ENTRY_KEY 0x40000000u
#define GENERATION_MAX 0x3fffffffu
/* A generation ends well before the 2^32 invocations that SP 800-38D allows a key with random nonces. */
#define GENERATION_TAGS (1ull << 30)

/* The largest file: 16 TiB less a block, so that the lower file stays within ext4's 16 TiB. */
#define FILE_SIZE_MAX ((1ull << 44) - (1ull << 38))
