/* progress: see progress.h. */
#include "base/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BAR 30

void progress_show(const struct progress *p, bool last)
{
	char bar[BAR + 1];
	/* Files grow while they are counted. */
	uint64_t total = MAX(p->total, p->done), percent = last ? 100 : total ? p->done * 100 / total : 0;

	if (!isatty(STDERR_FILENO))
		return;
	memset(bar, '.', BAR);
	bar[BAR] = '\0';
	memset(bar, '#', percent * BAR / 100);
	fprintf(stderr, "\r[%s] %3llu%%  %llu of %llu files  %.1f of %.1f MiB  %llu damaged ", bar, (unsigned long long)percent,
		(unsigned long long)p->files, (unsigned long long)MAX(p->total_files, p->files), (double)p->done / 1048576, (double)total / 1048576,
		(unsigned long long)p->bad);
	if (last)
		fputc('\n', stderr);
	fflush(stderr);
}
