/* repair: makes a damaged tree whole again as far as copies and generated names can. Nothing is ever deleted. */
#pragma once
#include "store/scrub.h"

#define QUARANTINE_NAME "quarantine"

/* Writes a directory's id, all copies of it. dirfd may be O_PATH. */
int repair_id(struct volume *v, int dirfd, const struct dir_id *id) MUST_CHECK;

/* One pass over the directories of a volume that is open for writing and not mounted, before scrub_run: each gets back its id from
 * whichever copy its names verify under, or a new one; long names get back their side files; what still has a name that does not
 * verify is renamed to recovered.INODE, in place. found is told of each, with what was done. */
int repair_tree(struct volume *v, void (*found)(void *ctx, const struct scrub_finding *f), void *ctx) MUST_CHECK;

/* Moves the object at lower (a finding's path in the store) to STORE/quarantine/NUMBER, and adds a line of JSON about it to
 * STORE/quarantine/report: from, as, why, time; paths of the store only, since names are secret. ret: as "quarantine/NUMBER". */
int repair_quarantine(struct volume *v, const char *lower, const char *why, char ret[static 64]) MUST_CHECK;
