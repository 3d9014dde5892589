/* programs: see programs.h. */
#include "programs.h"

#include "vault/platform_key.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

extern char **environ;

static struct platform_key *platform_key;
static char key_path[100], env_key_path[100], out_path[100], fsck_path[300], reader_path[300];

void programs_begin(const char *dir)
{
	const char *bin = getenv("TDEFS_BIN"), *data = getenv("TDEFS_TEST_DATA");

	snprintf(key_path, sizeof(key_path), "%s/platform.key", dir);
	snprintf(env_key_path, sizeof(env_key_path), "%s/env.key", dir);
	snprintf(out_path, sizeof(out_path), "%s/said", dir);
	snprintf(fsck_path, sizeof(fsck_path), "%s/tdefs-fsck", bin ? bin : "build/bin");
	snprintf(reader_path, sizeof(reader_path), "%s/tools/tdefs_reader.py", data ? data : "tests");
	if (access(fsck_path, X_OK) < 0 || access(reader_path, R_OK) < 0 || platform_key_open(key_path, &platform_key, NULL) < 0) {
		fprintf(stderr, "no %s, or no %s, or no platform key: run by ctest, or from the source's top\n", fsck_path, reader_path);
		exit(2);
	}
}

void programs_end(void)
{
	platform_key_free(platform_key);
	platform_key = NULL;
}

void programs_wrap(const struct env_key *ek, struct env_wrap *ret)
{
	*ret = (struct env_wrap){.source = "platform", .key_name = "platform", .algorithm = "AES-256-KWP", .ek_version = 1,
		.blob_len = PLATFORM_WRAP_SIZE};
	snprintf(ret->fingerprint, sizeof(ret->fingerprint), "%s", platform_key_fingerprint(platform_key));
	if (platform_key_wrap(platform_key, ek, ret->blob) < 0)
		abort();
}

/* The program's output, or NULL when it did not end with status 0: then that is on stderr. The caller frees. */
static char *said_by(const char *const argv[])
{
	posix_spawn_file_actions_t actions;
	int status = -1;
	pid_t pid;

	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, out_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
	if (posix_spawnp(&pid, argv[0], &actions, NULL, (char *const *)(uintptr_t)argv, environ) == 0)
		waitpid(pid, &status, 0);
	posix_spawn_file_actions_destroy(&actions);
	CLEANUP_CLOSE int fd = open(out_path, O_RDONLY | O_CLOEXEC);
	char *said = calloc(1, 1 << 20);
	ssize_t n = said && fd >= 0 ? read(fd, said, (1 << 20) - 1) : -1;
	if (n >= 0 && status == 0)
		return said;
	fprintf(stderr, "%s: status %d: %s\n", argv[0], status, n >= 0 ? said : "");
	free(said);
	return NULL;
}

bool programs_fsck(const char *store, bool repair)
{
	CLEANUP_FREE char *said = said_by((const char *[]){fsck_path, store, "--key-from", key_path, "--json",
		repair ? "--repair" : NULL, "--yes", NULL});

	return said && strstr(said, "\"damaged\": 0");
}

char *programs_read(const char *store, const struct env_key *ek)
{
	char hex[2 * sizeof(ek->b) + 1];
	FILE *f = fopen(env_key_path, "we");

	hex_encode(ek->b, sizeof(ek->b), hex);
	if (!f || fputs(hex, f) < 0 || fclose(f) != 0)
		abort();
	return said_by((const char *[]){"/usr/bin/python3", reader_path, store, env_key_path, NULL});
}
