/* place: whether a store lies where it was written, or was copied here.
 *
 * A crash leaves each file as it was at one time, but for what was in flux; that is what excuses blocks that do not verify
 * (recover.h). A copy that was made file by file while the store was mounted has the parts of a file as they were at several times,
 * between which a rotation may have given them another key: there nothing is excused.
 *
 * P1. STORE/lock names itself, by inode number and time of birth, and the first epoch that began here. Copying files makes another
 *     lock file of it; copying the file system (a snapshot, an image of the disk) does not.
 * P2. Where it is empty this is the place, whatever began here: earlier versions wrote nothing, and who copied a store after a
 *     crash may empty it.
 * P3. It is on the disk before the epoch begins that it tells of. */
#pragma once
#include "base/util.h"

/* lock_fd: STORE/lock, locked. next: the epoch that begins now. *ret_first: epochs before it began elsewhere. */
int place_settle(int lock_fd, uint64_t next, bool read_only, uint64_t *ret_first) MUST_CHECK;
