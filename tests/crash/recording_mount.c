/* recording_mount: tdefs-mount, but every change of its store goes to a log as well. TDEFS_RECORD_LOG and TDEFS_RECORD_BASE name
 * the log and the directory that gets a copy of the store as it was; --store has to be the first argument. */
#include "record.h"

#include <stdlib.h>
#include <string.h>

int mount_main(int argc, char **argv); /* fs/mount/main.c, compiled under this name */

int main(int argc, char **argv)
{
	static struct recording recording; /* lives until the process is killed */
	const char *log = getenv("TDEFS_RECORD_LOG"), *base = getenv("TDEFS_RECORD_BASE");

	if (!log || !base || argc < 3 || strcmp(argv[1], "--store") != 0) {
		fprintf(stderr, "recording_mount: needs TDEFS_RECORD_LOG, TDEFS_RECORD_BASE and --store first\n");
		return 2;
	}
	FILE *f = fopen(log, "wbe");
	if (!f)
		return 1;
	record_begin(&recording, argv[2], base, f);
	return mount_main(argc, argv);
}
