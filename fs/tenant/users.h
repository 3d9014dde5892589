/* users: which processes use a mount: by open files, mappings, directories and programs, in whatever mount namespace. */
#pragma once
#include "base/util.h"

#define USERS_MAX 16u

struct users {
	uint32_t count; /* of all; the first USERS_MAX have names */
	bool unknown;   /* they could not be listed in time */
	struct {
		pid_t pid;
		char name[20];
	} list[USERS_MAX];
};
/* Looks through /proc for at most timeout_ms. Nobody, where nothing is mounted there. Never waits for the mount itself. */
void users_find(const char *mountpoint, unsigned timeout_ms, struct users *ret);
/* "postgres (12), sh (13) and 4 more", cut off to size. Empty for none, and words for unknown. */
void users_text(const struct users *u, char *ret, size_t size);
