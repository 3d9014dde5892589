/* relief: asks the kernel to forget inodes, before descriptors run out.
 *
 * An inode holds one descriptor, and another one while it is open or not sealed yet; the kernel keeps inodes until it is short of
 * memory, which may be never. So when there are more than a third of the limit (RLIMIT_NOFILE), a thread of its own goes round the
 * table and has the kernel drop what nobody uses. Kernels before 6.18 cannot be asked: there the limit is what it is, a million as
 * a rule. */
#include "mount/session.h"

#include <limits.h>
#include <sys/resource.h>

#define RETRY_S 1 /* after a round in which too little could be dropped */

static void *relief_run(void *arg)
{
	struct session *s = arg;
	struct inode_table *t = &s->inodes;
	size_t hand = 0;
	int rc = 0;

	while (rc == 0 && inode_await_crowd(t, s->relief.high)) {
		bool round = false;

		while (rc == 0 && !round && inode_count(t) > s->relief.high / 4 * 3) {
			uint64_t nodes[DEVICE_PRUNE_MAX];
			size_t n = inode_nodes(t, &hand, nodes, DEVICE_PRUNE_MAX, &round);

			rc = device_prune(s, nodes, n);
		}
		if (inode_count(t) > s->relief.high)
			inode_await_end(t, RETRY_S);
	}
	inode_end_crowd(t);
	return NULL;
}

int relief_start(struct session *s)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return -errno;
	s->relief.high = (size_t)MIN(limit.rlim_cur, (rlim_t)INT_MAX) / 3;
	int rc = -pthread_create(&s->relief.thread, NULL, relief_run, s);
	s->relief.started = rc == 0;
	return rc;
}

void relief_end(struct session *s)
{
	if (!s->relief.started)
		return;
	inode_end_crowd(&s->inodes);
	pthread_join(s->relief.thread, NULL);
	s->relief.started = false;
}
