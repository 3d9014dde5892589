/* content_scan: going over a file: from one group that holds anything to the next, and every block held against its entry
 * (content_scan and content_verify in content.h). */
#include "store/content_internal.h"

#include <string.h>

/* A large hole costs nothing. */
int content_next_group(struct content *c, uint64_t blk, uint64_t blocks, uint64_t *ret)
{
	uint64_t found;
	int64_t off = blk < blocks ? io_lseek(c->fd, extent_tag_off(blk), SEEK_DATA) : -ENXIO;

	if (off == -ENXIO) {
		*ret = MAX(blk, blocks);
		return 0;
	}
	if (off < 0)
		return (int)off;
	(void)extent_at((uint64_t)off, &found);
	*ret = MIN(MAX(blk, found / GROUP_BLOCKS * GROUP_BLOCKS), MAX(blk, blocks));
	return 0;
}

struct scan {
	struct content *c;
	const struct content_watch *watch;
	struct content_check *check;
	uint64_t bad_first, bad_count; /* the run of bad blocks under way */
};

static void scan_tell(struct scan *s)
{
	if (s->bad_count && s->watch)
		s->watch->bad(s->watch->ctx, s->bad_first, s->bad_count);
	s->bad_count = 0;
}

static void scan_bad(struct scan *s, uint64_t blk)
{
	if (s->bad_count && s->bad_first + s->bad_count != blk)
		scan_tell(s);
	if (s->bad_count++ == 0)
		s->bad_first = blk;
	if (s->check->bad++ == 0)
		s->check->first_bad = blk;
}

/* n blocks of one group. What the lower file system cannot read is bad, block by block. */
static int scan_read(struct content *c, uint64_t blk, unsigned n, uint8_t *entries, uint8_t *buf, bool unread[static GROUP_BLOCKS])
{
	struct iovec iov[] = {{entries, BLOCK_SIZE}, {buf, n * (size_t)BLOCK_SIZE}};
	int rc = content_fetch(c, iov, 2, extent_tag_off(blk));

	memset(unread, 0, GROUP_BLOCKS * sizeof(unread[0]));
	if (rc != -EIO)
		return rc;
	for (unsigned i = 0; i < n; i++)
		unread[i] = io_pread_full(c->fd, entries + i * ENTRY_SIZE, ENTRY_SIZE, extent_entry_off(blk + i), NULL) < 0 ||
			    io_pread_full(c->fd, buf + i * (size_t)BLOCK_SIZE, BLOCK_SIZE, extent_data_off(blk + i), NULL) < 0;
	return 0;
}

static int scan_group(struct scan *s, struct block_crypto *bc, uint64_t blk, unsigned n, uint8_t *buf)
{
	static const uint8_t hole[ENTRY_SIZE];
	uint8_t entries[BLOCK_SIZE];
	bool unread[GROUP_BLOCKS];
	int rc = scan_read(s->c, blk, n, entries, buf, unread);

	for (unsigned i = 0; rc == 0 && i < n; i++) {
		const uint8_t *entry = entries + i * ENTRY_SIZE;
		int one = unread[i] ? -EBADMSG : content_open_block(s->c, bc, blk + i, entry, buf + i * (size_t)BLOCK_SIZE);

		if (one == 0 && memcmp(entry, hole, ENTRY_SIZE) == 0)
			s->check->holes++;
		else if (one == 0)
			s->check->good++;
		else if (one == -EBADMSG)
			scan_bad(s, blk + i);
		else
			rc = one;
	}
	return rc;
}

int content_scan(struct content *c, const struct content_watch *watch, struct content_check *ret)
{
	CLEANUP_FREE uint8_t *buf = malloc(GROUP_BLOCKS * BLOCK_SIZE);
	struct scan s = {.c = c, .watch = watch, .check = ret};
	struct block_crypto *bc;
	int rc = 0;

	*ret = (struct content_check){0};
	if (!buf)
		return -ENOMEM;
	for (uint64_t blk = 0; rc == 0 && blk < extent_blocks(content_size(c)); blk += GROUP_BLOCKS) {
		struct range r;

		range_lock(&c->ranges, &r, blk, blk + GROUP_BLOCKS - 1, false);
		uint64_t blocks = extent_blocks(content_size(c));
		unsigned n = blk < blocks ? (unsigned)MIN(blocks - blk, GROUP_BLOCKS) : 0;
		rc = n ? content_crypto_get(c, &bc) : 0;
		if (rc == 0 && n) {
			rc = scan_group(&s, bc, blk, n, buf);
			content_crypto_put(c, bc);
		}
		range_unlock(&c->ranges, &r);
		if (rc == 0 && watch && !watch->step(watch->ctx, n))
			rc = -ECANCELED;
	}
	scan_tell(&s);
	secret_wipe(buf, GROUP_BLOCKS * BLOCK_SIZE);
	return rc;
}

int content_verify(struct content *c, struct content_check *ret)
{
	return content_scan(c, NULL, ret);
}
