/* roles: see roles.h. */
#include "control/roles.h"

#include <grp.h>
#include <string.h>
#include <sys/socket.h>

const char *role_name(unsigned mask)
{
	return mask & ROLE_TENANT_ADMIN	       ? "tenant_admin"
	       : mask & ROLE_PLATFORM_OPERATOR ? "platform_operator"
	       : mask & ROLE_VAULT_ADMIN       ? "vault_admin"
	       : mask & ROLE_AUDITOR	       ? "auditor"
					       : "none";
}

static bool in_group(const char *name, gid_t gid, const gid_t *groups, size_t n)
{
	struct group group, *found = NULL;
	char buf[16384];

	if (!name[0] || getgrnam_r(name, &group, buf, sizeof(buf), &found) != 0 || !found)
		return false;
	if (group.gr_gid == gid)
		return true;
	for (size_t k = 0; k < n; k++)
		if (groups[k] == group.gr_gid)
			return true;
	return false;
}

int peer_read(int fd, const struct config *config, struct peer *ret)
{
	gid_t groups[1024];
	socklen_t len = sizeof(struct ucred), groups_len = sizeof(groups);
	struct ucred cred;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return -errno;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &groups_len) < 0)
		groups_len = 0;
	size_t n = groups_len / sizeof(gid_t);
	*ret = (struct peer){.uid = cred.uid, .gid = cred.gid, .pid = cred.pid};
	if (cred.uid == 0 && config->root_is_all)
		ret->roles = ROLE_ANY;
	if (in_group(config->tenant_admin, cred.gid, groups, n))
		ret->roles |= ROLE_TENANT_ADMIN;
	if (in_group(config->vault_admin, cred.gid, groups, n))
		ret->roles |= ROLE_VAULT_ADMIN;
	if (in_group(config->platform_operator, cred.gid, groups, n))
		ret->roles |= ROLE_PLATFORM_OPERATOR;
	if (in_group(config->auditor, cred.gid, groups, n))
		ret->roles |= ROLE_AUDITOR;
	return 0;
}
