/* recording_mount: tdefs-mount, but every change of its store goes to a log as well. TDEFS_RECORD_LOG and TDEFS_RECORD_BASE name
 * the log and the directory, not there yet, that gets a copy of the store as it was; without them it is tdefs-mount. */
#include "record.h"

#include <stdlib.h>
#include <string.h>

int mount_main(int argc, char **argv); /* fs/mount/main.c, compiled under this name */

int main(int argc, char **argv)
{
	static struct recording recording; /* lives until the process is killed */
	const char *log = getenv("TDEFS_RECORD_LOG"), *base = getenv("TDEFS_RECORD_BASE");

	for (int k = 1; log && base && k + 1 < argc; k++)
		if (strcmp(argv[k], "--store") == 0) {
			FILE *f = fopen(log, "wbe");

			if (!f)
				return 1;
			record_begin(&recording, argv[k + 1], base, f);
			break;
		}
	return mount_main(argc, argv);
}
