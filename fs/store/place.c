/* place: see place.h. */
#include "store/place.h"

#include "base/io.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PLACE_SIZE 128u /* of the text, with spaces: one sector, written in place */

static int place_here(int fd, char ret[80])
{
	struct timespec birth;
	struct stat st;
	int rc = io_fstatat(fd, "", &st, AT_EMPTY_PATH);

	io_birth(fd, &birth);
	snprintf(ret, 80, "inode %" PRIu64 ", born %lld.%09ld, since epoch ", (uint64_t)st.st_ino, (long long)birth.tv_sec, birth.tv_nsec);
	return rc;
}

int place_settle(int lock_fd, uint64_t next, bool read_only, uint64_t *ret_first)
{
	char text[PLACE_SIZE + 1] = "", here[80];
	uint64_t first = next;
	int rc = place_here(lock_fd, here);

	if (rc == 0)
		rc = io_pread_full(lock_fd, text, PLACE_SIZE, 0, NULL);
	if (rc < 0)
		return rc;
	bool unsaid = !text[0], same = strncmp(text, here, strlen(here)) == 0;
	if (unsaid)
		first = 0;
	else if (same)
		first = strtoull(text + strlen(here), NULL, 10);
	*ret_first = first;
	if (same || read_only)
		return 0;
	snprintf(text, sizeof(text), "%s%" PRIu64, here, first);
	snprintf(text + strlen(text), sizeof(text) - strlen(text), "%*s", (int)(PLACE_SIZE - strlen(text)), "\n");
	rc = io_pwrite_full(lock_fd, text, PLACE_SIZE, 0);
	if (rc == 0)
		rc = io_fdatasync(lock_fd);
	/* A full disk keeps nobody from mounting; it is said the next time. */
	return unsaid ? 0 : rc;
}
