/* worker_client: speaks to a bare worker in tests, without tdefsd. The key is 64 hex digits in a file. */
#include "key_file.h"

#include "base/log.h"
#include "mount/link.h"

#include <stdio.h>
#include <string.h>

static int create(const char *store, const char *key_path)
{
	struct env_wrap wrap = {.source = "test", .fingerprint = "00", .key_name = "test", .algorithm = "none", .ek_version = 1,
		.blob = {1}, .blob_len = 1};
	struct env_key key;
	int rc = key_read(key_path, &key);

	return rc < 0 ? rc : envheader_create(store, &key, &wrap, 1);
}

int main(int argc, char **argv)
{
	struct link_message m = {0};
	int rc = -EINVAL;

	if (argc == 4 && strcmp(argv[1], "create") == 0) {
		rc = create(argv[2], argv[3]);
	} else if (argc >= 3) {
		CLEANUP_CLOSE int fd = link_connect(argv[2]);

		rc = fd < 0 ? fd : 0;
		if (rc == 0 && strcmp(argv[1], "start") == 0 && argc >= 4) {
			m.type = LINK_START;
			rc = key_read(argv[3], &m.key);
			m.min_epoch = argc > 4 ? strtoull(argv[4], NULL, 10) : 0;
		} else if (strcmp(argv[1], "status") == 0) {
			m.type = LINK_STATUS;
		} else if (strcmp(argv[1], "unmount") == 0) {
			m.type = LINK_UNMOUNT;
		} else if (strcmp(argv[1], "lock") == 0) {
			m.type = LINK_LOCK;
			m.arg = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;
		} else if (strcmp(argv[1], "scrub") == 0) {
			m.type = LINK_SCRUB;
			m.flag = argc > 3 ? LINK_SCRUB_START | (strcmp(argv[3], "repair") == 0 ? LINK_SCRUB_REPAIR : 0) : 0;
		} else if (rc == 0) {
			rc = -EINVAL;
		}
		if (rc == 0)
			rc = link_call(fd, -1, &m);
	}
	if (rc < 0) {
		fprintf(stderr, "worker_client: %s%s%s\n", strerror(-rc), m.text[0] ? ": " : "", m.text);
		return 1;
	}
	const struct link_status *s = &m.status;
	printf("pid=%d epoch=%llu refused=%llu resealed=%llu intents=%llu syncs=%llu open=%llu rings=%llu scrub=%u/%llu/%llu/%llu "
	       "rotating=%u rotating_data=%u rotate_error=%d key_version=%u\n",
		s->pid, (unsigned long long)s->epoch, (unsigned long long)s->refused, (unsigned long long)s->resealed,
		(unsigned long long)s->intents, (unsigned long long)s->syncs, (unsigned long long)s->open_files, (unsigned long long)s->rings,
		s->scrub_running, (unsigned long long)s->scrub_files, (unsigned long long)s->scrub_blocks,
		(unsigned long long)s->scrub_bad, s->rotating, s->rotating_data, s->rotate_error, s->key_version);
	return 0;
}
