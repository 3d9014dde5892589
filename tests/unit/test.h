/* What cmocka wants before it, and a store in a private directory. */
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A new directory; removed by test_remove. */
static inline void test_dir(char ret[64])
{
	const char *tmp = getenv("TMPDIR");

	snprintf(ret, 64, "%.40s/tdefs-XXXXXX", tmp && strlen(tmp) < 40 ? tmp : "/var/tmp");
	assert_non_null(mkdtemp(ret));
}

static inline int test_remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static inline void test_remove(const char *dir)
{
	assert_int_equal(nftw(dir, test_remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}
