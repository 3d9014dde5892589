/* key_file: an environment key of a test: 64 hex digits in a file. */
#pragma once
#include "base/secret.h"

#include <stdio.h>

static inline int key_read(const char *path, struct env_key *ret)
{
	char hex[65] = {0};
	FILE *f = fopen(path, "re");

	if (!f)
		return -errno;
	size_t n = fread(hex, 1, 64, f);
	fclose(f);
	return n == 64 ? hex_decode(hex, ret->b, sizeof(ret->b)) : -EUCLEAN;
}
