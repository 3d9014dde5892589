/* roles: what a peer may do, by its Unix groups as the kernel tells them. */
#pragma once
#include "control/config.h"

enum role {
	ROLE_TENANT_ADMIN = 1,
	ROLE_VAULT_ADMIN = 2,
	ROLE_PLATFORM_OPERATOR = 4,
	ROLE_AUDITOR = 8,
	ROLE_ANY = 15,
};
struct peer {
	uid_t uid;
	gid_t gid;
	pid_t pid;
	unsigned roles; /* of enum role */
};
/* The peer of a connected Unix socket. */
int peer_read(int fd, const struct config *config, struct peer *ret) MUST_CHECK;
/* The first of the peer's roles within mask, in words; "none". */
const char *role_name(unsigned mask);
