/* link: see link.h. */
#include "mount/link.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static int link_address(const char *path, struct sockaddr_un *ret)
{
	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(ret->sun_path))
		return -ENAMETOOLONG;
	strcpy(ret->sun_path, path);
	return 0;
}

int link_connect(const char *path)
{
	struct sockaddr_un address;
	int rc = link_address(path, &address);

	if (rc < 0)
		return rc;
	const struct timeval limit = {.tv_sec = LINK_CONNECT_S};
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	/* One that is stopped takes no connections; where enough wait already, connect(2) would wait for ever. */
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	return TAKE_FD(fd);
}

int link_listen(const char *path)
{
	struct sockaddr_un address;
	int rc = link_address(path, &address);

	if (rc < 0)
		return rc;
	int other = link_connect(path);
	if (other >= 0) {
		close(other);
		return -EADDRINUSE;
	}
	if (unlink(path) < 0 && errno != ENOENT)
		return -errno;
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	mode_t mask = umask(0177);
	rc = bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 8) < 0 ? -errno : 0;
	umask(mask);
	return rc < 0 ? rc : TAKE_FD(fd);
}

int link_accept(int listen_fd)
{
	CLEANUP_CLOSE int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return -errno;
	return peer.uid == geteuid() ? TAKE_FD(fd) : -EPERM;
}

int link_send(int fd, const struct link_message *m)
{
	ssize_t n;

	do
		n = send(fd, m, sizeof(*m), MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n == sizeof(*m) ? 0 : -EPROTO;
}

int link_receive(int fd, int timeout_ms, struct link_message *ret)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	ssize_t n;
	int ready;

	do
		ready = poll(&p, 1, timeout_ms);
	while (ready < 0 && errno == EINTR);
	if (ready <= 0)
		return ready < 0 ? -errno : -ETIMEDOUT;
	do
		n = recv(fd, ret, sizeof(*ret), MSG_TRUNC);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n < 0 ? -errno : -ECONNRESET;
	if (n != sizeof(*ret) || ret->version != LINK_VERSION) {
		secret_wipe(ret, sizeof(*ret));
		return -EPROTO;
	}
	ret->text[sizeof(ret->text) - 1] = '\0';
	return 0;
}

int link_call(int fd, int timeout_ms, struct link_message *m)
{
	m->version = LINK_VERSION;
	int rc = link_send(fd, m);

	secret_wipe(m, sizeof(*m));
	if (rc == 0)
		rc = link_receive(fd, timeout_ms, m);
	if (rc == 0 && m->type != LINK_REPLY)
		rc = -EPROTO;
	return rc < 0 ? rc : m->error;
}
