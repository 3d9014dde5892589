/* programs: crash states given to the programs that people have: tdefs-fsck, and the independent reader of the tests.
 *
 * tdefs-fsck gets at the environment key as it always does: the stores' wraps are made by a platform key, whose file it is given. */
#pragma once
#include "store/envheader.h"

/* Makes the key files in dir, and finds the programs beside this one. */
void programs_begin(const char *dir);
void programs_end(void);
/* The wrap of an environment key by the platform key. */
void programs_wrap(const struct env_key *ek, struct env_wrap *ret);
/* Whether everything verified, and something did; otherwise what the program said is on stderr. */
bool programs_fsck(const char *store, bool repair);
/* What the reader says of the store, a line an object; NULL when it refuses. The caller frees. */
char *programs_read(const char *store, const struct env_key *ek);
