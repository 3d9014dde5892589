/* server: see server.h. */
#include "control/server.h"

#include "base/log.h"

#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define CONNECTIONS_MAX 64
#define IDLE_LIMIT_MS 60000

static atomic_int connections;

struct connection {
	struct keeper *k;
	int fd;
};

int server_listen(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return -EADDRINUSE;
	unlink(path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || chmod(path, 0666) < 0 || listen(fd, 64) < 0)
		return -errno;
	return TAKE_FD(fd);
}

static void *server_connection(void *arg)
{
	struct connection *c = arg;
	struct wire wire = {.fd = c->fd};
	struct peer peer;

	pthread_setname_np(pthread_self(), "peer");
	int rc = peer_read(c->fd, &c->k->config, &peer);

	if (rc == 0 && peer.roles == 0) {
		(void)!wire_send(c->fd, request_stranger(c->k, &peer));
		rc = -EPERM;
	}
	while (rc == 0) {
		json_t *message = NULL;

		rc = wire_receive(&wire, IDLE_LIMIT_MS, &message);
		if (rc == 0)
			rc = request_answer(c->k, &peer, message, &wire);
		else if (rc == -EPROTO || rc == -EMSGSIZE)
			(void)!wire_send(c->fd, json_pack("{ss s{si ss}}", "error", WIRE_INTERFACE ".Failed", "parameters", "errno",
						  -rc, "message", wire.error));
		json_decref(message);
	}
	wire_done(&wire);
	close(c->fd);
	free(c);
	atomic_fetch_sub(&connections, 1);
	return NULL;
}

static void server_accept(struct keeper *k, int listen_fd)
{
	struct connection *c = malloc(sizeof(*c));
	pthread_attr_t detached;
	pthread_t thread;
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0 || !c || atomic_fetch_add(&connections, 1) >= CONNECTIONS_MAX) {
		if (fd >= 0) {
			log_warn("too many connections: one is turned away");
			atomic_fetch_sub(&connections, 1);
			close(fd);
		}
		free(c);
		return;
	}
	*c = (struct connection){k, fd};
	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	if (pthread_create(&thread, &detached, server_connection, c) != 0) {
		log_error("no thread for a connection: it is turned away");
		atomic_fetch_sub(&connections, 1);
		close(fd);
		free(c);
	}
	pthread_attr_destroy(&detached);
}

void server_run(struct keeper *k, int listen_fd, int stop_fd)
{
	for (;;) {
		struct pollfd p[] = {{.fd = listen_fd, .events = POLLIN}, {.fd = stop_fd, .events = POLLIN}};

		if (poll(p, 2, -1) < 0)
			continue;
		if (p[1].revents)
			return;
		if (p[0].revents)
			server_accept(k, listen_fd);
	}
}
