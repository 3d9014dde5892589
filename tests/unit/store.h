/* A store for unit tests: made, opened, and its first file. */
#pragma once
#include "test.h"

#include "base/io.h"
#include "store/content.h"
#include "store/crypto.h"
#include "store/dir.h"
#include "store/extent.h"
#include "store/scrub.h"

static const struct env_key store_key = {.b = "0123456789abcdef0123456789abcde"};
static const struct dir_owner store_owner = {0, 0, S_IFREG | 0600};
static UNUSED unsigned store_reports;

static UNUSED inline void store_report(void *ctx, const char *line)
{
	(void)ctx;
	(void)line;
	store_reports++;
}

static inline void store_create(const char *path)
{
	struct env_wrap wrap = {.source = "test", .fingerprint = "00", .key_name = "test", .algorithm = "none", .ek_version = 1,
		.blob = {1}, .blob_len = 1};

	assert_int_equal(envheader_create(path, &store_key, &wrap, 1), 0);
}

static inline struct volume *store_open(const char *path)
{
	struct volume *v = NULL;

	assert_int_equal(volume_open(path, &store_key, &(struct volume_options){.report = store_report}, &v), 0);
	return v;
}

static inline struct dir_id store_root_id(struct volume *v)
{
	struct dir_id id;

	assert_int_equal(dir_id_load(v, v->root_fd, &id), 0);
	return id;
}

/* Opens name in the root, making it when wanted. */
static inline int store_file(struct volume *v, const char *name, bool make, struct content **ret)
{
	struct dir_id id = store_root_id(v);
	struct stat st;
	int fd = make ? dir_create(v, v->root_fd, &id, name, &store_owner) : dir_lookup(v, v->root_fd, &id, name, &st);

	if (fd < 0)
		return fd;
	if (!make) {
		int path_fd = fd;

		fd = io_reopen(path_fd, O_RDWR);
		close(path_fd);
	}
	return fd < 0 ? fd : content_open(v, fd, ret);
}

static inline uint64_t store_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}
