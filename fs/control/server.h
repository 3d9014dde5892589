/* server: the control socket: one thread a connection, a cap on connections, the peer checked before a byte is parsed. */
#pragma once
#include "control/request.h"

/* Binds path (mode 0666: who may what is decided by role), replacing a dead socket. -EADDRINUSE when one answers. */
int server_listen(const char *path) MUST_CHECK;
/* Serves until stop_fd becomes readable. */
void server_run(struct keeper *k, int listen_fd, int stop_fd);
