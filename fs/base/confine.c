/* confine: see confine.h. */
#include "base/confine.h"

#include <linux/capability.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

int confine_capabilities(uint64_t keep)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct have[2], sets[2];

	(void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
		if (!(keep & CAPABILITY(cap)))
			(void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
	if (syscall(SYS_capget, &header, have) < 0)
		return -errno;
	for (int k = 0; k < 2; k++) {
		/* What a container took away stays away. */
		uint32_t part = (uint32_t)(keep >> 32 * k) & have[k].permitted;

		sets[k] = (struct __user_cap_data_struct){.effective = part, .permitted = part};
	}
	return syscall(SYS_capset, &header, sets) < 0 ? -errno : 0;
}

#ifdef TDEFS_TRACEABLE

int confine_calls(const int *allowed, size_t n_allowed, const int *forbidden, size_t n_forbidden)
{
	(void)allowed;
	(void)n_allowed;
	(void)forbidden;
	(void)n_forbidden;
	return 0;
}

#else

int confine_calls(const int *allowed, size_t n_allowed, const int *forbidden, size_t n_forbidden)
{
	scmp_filter_ctx filter = seccomp_init(allowed ? SCMP_ACT_ERRNO(ENOSYS) : SCMP_ACT_ALLOW);
	int rc = filter ? 0 : -ENOMEM;

	for (size_t k = 0; rc == 0 && k < n_allowed; k++)
		rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[k], 0);
	for (size_t k = 0; rc == 0 && k < n_forbidden; k++)
		rc = seccomp_rule_add(filter, allowed ? SCMP_ACT_KILL_PROCESS : SCMP_ACT_ERRNO(EPERM), forbidden[k], 0);
	/* A tree of comparisons; a list would make the last call pay for all. */
	if (rc == 0)
		rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	if (rc == 0)
		rc = seccomp_load(filter); /* sets no-new-privileges as well */
	if (filter)
		seccomp_release(filter);
	return rc;
}

#endif
