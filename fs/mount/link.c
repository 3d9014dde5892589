/* link: see link.h. */
#include "mount/link.h"

#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

/* control.versions builds others. */
#ifndef LINK_VERSION
#define LINK_VERSION 6u
#endif
#ifndef LINK_MAGIC
#define LINK_MAGIC "TDLK"
#endif
const uint32_t link_version = LINK_VERSION;

/* ---- fields ---- */

#define HEADER_SIZE 12u
#define FIELD_HEADER_SIZE 4u

/* count, stride: of members of an array of structs; the second's numbers are FIELD_STEP up. */
#define FIELD_STEP 16u
struct field {
	uint16_t number, since; /* since: the link version that brought it */
	bool text;              /* ends in a NUL, and is cut where it does not fit */
	uint32_t offset, size, count, stride;
};

#define SIZE_OF(member) sizeof(((struct link_message *)0)->member)
#define FIELD(number, since, member) {number, since, false, offsetof(struct link_message, member), SIZE_OF(member), 1, 0}
#define TEXT(number, since, member) {number, since, true, offsetof(struct link_message, member), SIZE_OF(member), 1, 0}
#define WRAP(number, since, member, is_text)                                                                                  \
	{number, since, is_text, offsetof(struct link_message, wraps[0].member), SIZE_OF(wraps[0].member), ENV_WRAPS_MAX,    \
		sizeof(struct env_wrap)}

static const struct field fields[] = {
	FIELD(1, 5, error),
	FIELD(2, 5, flag),
	FIELD(3, 5, arg),
	TEXT(4, 5, text),
	FIELD(5, 5, key),
	FIELD(6, 5, min_epoch),
	FIELD(7, 5, min_clean),
	FIELD(8, 5, wrap_count),
	FIELD(32, 5, status.pid),
	FIELD(33, 5, status.state),
	TEXT(34, 5, status.program),
	FIELD(35, 5, status.epoch),
	FIELD(36, 5, status.uuid),
	FIELD(37, 5, status.refused),
	FIELD(38, 5, status.resealed),
	FIELD(39, 5, status.intents),
	FIELD(40, 5, status.syncs),
	FIELD(41, 5, status.read_bytes),
	FIELD(42, 5, status.written_bytes),
	FIELD(43, 5, status.open_files),
	FIELD(44, 5, status.poisoned),
	FIELD(45, 5, status.memory_locked),
	FIELD(46, 5, status.left_clean),
	FIELD(47, 6, status.scrub_running),
	FIELD(48, 6, status.scrub_error),
	FIELD(49, 6, status.scrub_files),
	FIELD(50, 6, status.scrub_total_files),
	FIELD(51, 6, status.scrub_bytes),
	FIELD(52, 6, status.scrub_total_bytes),
	FIELD(53, 6, status.scrub_blocks),
	FIELD(54, 6, status.scrub_bad),
	FIELD(55, 6, status.rotating),
	FIELD(56, 5, status.key_version),
	FIELD(57, 6, status.rotate_files),
	FIELD(58, 6, status.rotate_error),
	FIELD(59, 6, status.rotating_data),
	FIELD(60, 6, status.rotate_paused),
	FIELD(61, 6, status.rotate_phase),
	FIELD(62, 6, status.rotate_done),
	FIELD(63, 6, status.rotate_total),
	FIELD(64, 6, status.rotate_encrypted),
	FIELD(65, 6, status.rotate_ns),
	FIELD(66, 6, status.rotate_left),
	FIELD(67, 6, status.rotate_held_ns),
	FIELD(68, 6, status.in_flux),
	FIELD(69, 6, status.rings),
	FIELD(70, 6, status.rotate_left_ns),
	TEXT(256, 6, finding.kind),
	TEXT(257, 6, finding.text),
	TEXT(258, 6, finding.lower),
	TEXT(259, 6, finding.plain),
	FIELD(260, 6, finding.block),
	FIELD(261, 6, finding.count),
	WRAP(512, 5, source, true),
	WRAP(513, 5, fingerprint, true),
	WRAP(514, 5, key_name, true),
	WRAP(515, 5, algorithm, true),
	WRAP(516, 5, ek_version, false),
	WRAP(517, 5, blob, false),
	WRAP(518, 5, blob_len, false),
};
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers lie in memory as they are sent");
_Static_assert(sizeof(struct link_message) + sizeof(fields) / sizeof(fields[0]) * FIELD_HEADER_SIZE * ENV_WRAPS_MAX < LINK_SIZE_MAX,
	"every message fits");

bool link_knows(uint32_t version, uint32_t type)
{
	static const uint32_t since[] = {[LINK_START] = 5, [LINK_STATUS] = 5, [LINK_UNMOUNT] = 5, [LINK_LOCK] = 5, [LINK_REWRAP] = 5,
		[LINK_ROTATE] = 6, [LINK_ROTATE_PAUSE] = 6, [LINK_SCRUB] = 6, [LINK_FINDING] = 6, [LINK_REPLY] = 5};

	return type < ARRAY_LEN(since) && since[type] && since[type] <= version;
}

static const struct field *field_find(unsigned number, uint32_t *ret_offset)
{
	for (size_t k = 0; k < ARRAY_LEN(fields); k++) {
		const struct field *f = &fields[k];

		if (number < f->number || f->since > LINK_VERSION)
			continue;
		unsigned step = number - f->number;
		if (step % FIELD_STEP == 0 && step / FIELD_STEP < f->count) {
			*ret_offset = f->offset + step / FIELD_STEP * f->stride;
			return f;
		}
	}
	return NULL;
}

size_t link_encode(const struct link_message *m, uint8_t ret[LINK_SIZE_MAX])
{
	uint8_t *p = ret + HEADER_SIZE;

	memcpy(ret, LINK_MAGIC, 4);
	le32_store(ret + 4, LINK_VERSION);
	le32_store(ret + 8, m->type);
	for (size_t k = 0; k < ARRAY_LEN(fields); k++) {
		const struct field *f = &fields[k];

		for (uint32_t i = 0; f->since <= LINK_VERSION && i < f->count; i++) {
			const uint8_t *from = (const uint8_t *)m + f->offset + i * f->stride;
			size_t n = f->text ? strnlen((const char *)from, f->size - 1) : f->size;

			while (n > 0 && from[n - 1] == 0)
				n--;
			if (n == 0)
				continue;
			le16_store(p, (uint16_t)(f->number + i * FIELD_STEP));
			le16_store(p + 2, (uint16_t)n);
			memcpy(p + FIELD_HEADER_SIZE, from, n);
			p += FIELD_HEADER_SIZE + n;
		}
	}
	return (size_t)(p - ret);
}

static int decode_fields(const uint8_t *p, const uint8_t *end, struct link_message *m)
{
	while (p < end) {
		if ((size_t)(end - p) < FIELD_HEADER_SIZE)
			return -EPROTO;
		uint32_t offset, n = le16_load(p + 2);
		const struct field *f = field_find(le16_load(p), &offset);

		p += FIELD_HEADER_SIZE;
		if (n > (size_t)(end - p))
			return -EPROTO;
		/* A text is what comes before its first NUL. */
		if (f)
			memcpy((uint8_t *)m + offset, p, f->text ? strnlen((const char *)p, MIN(n, f->size - 1)) : MIN(n, f->size));
		if (!f || (n > f->size && !f->text))
			m->unknown = true;
		p += n;
	}
	if (m->wrap_count > ENV_WRAPS_MAX)
		return -EPROTO;
	for (uint32_t k = 0; k < ENV_WRAPS_MAX; k++)
		if (m->wraps[k].blob_len > sizeof(m->wraps[k].blob))
			return -EPROTO;
	return 0;
}

int link_decode(const uint8_t *bytes, size_t len, struct link_message *ret)
{
	memset(ret, 0, sizeof(*ret));
	if (len < HEADER_SIZE || len > LINK_SIZE_MAX || memcmp(bytes, LINK_MAGIC, 4) != 0)
		return -EPROTO;
	ret->version = le32_load(bytes + 4);
	ret->type = le32_load(bytes + 8);
	int rc = decode_fields(bytes + HEADER_SIZE, bytes + len, ret);
	if (rc < 0) {
		secret_wipe(ret, sizeof(*ret));
		return rc;
	}
	if (!link_knows(LINK_VERSION, ret->type))
		ret->unknown = true;
	return 0;
}

/* ---- connections ---- */

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
	rc = bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 64) < 0 ? -errno : 0;
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

int link_peer(int fd, pid_t *ret_pid)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return -errno;
	if (peer.uid != geteuid())
		return -EPERM;
	CLEANUP_CLOSE int pidfd = (int)syscall(SYS_pidfd_open, peer.pid, 0);
	if (pidfd < 0)
		return -errno;
	/* While it still has the connection the number is its own. */
	if (poll(&p, 1, 0) != 0)
		return -ESRCH;
	*ret_pid = peer.pid;
	return TAKE_FD(pidfd);
}

int link_send(int fd, const struct link_message *m)
{
	uint8_t bytes[LINK_SIZE_MAX];
	size_t len = link_encode(m, bytes);
	ssize_t n;

	do
		n = send(fd, bytes, len, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	int rc = n < 0 ? -errno : (size_t)n == len ? 0 : -EPROTO;
	secret_wipe(bytes, len);
	return rc;
}

int link_receive(int fd, int timeout_ms, struct link_message *ret)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint8_t bytes[LINK_SIZE_MAX];
	ssize_t n;
	int ready;

	do
		ready = poll(&p, 1, timeout_ms);
	while (ready < 0 && errno == EINTR);
	if (ready <= 0)
		return ready < 0 ? -errno : -ETIMEDOUT;
	do
		n = recv(fd, bytes, sizeof(bytes), MSG_TRUNC);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n < 0 ? -errno : -ECONNRESET;
	int rc = link_decode(bytes, (size_t)n, ret);
	secret_wipe(bytes, MIN((size_t)n, sizeof(bytes)));
	return rc;
}

int link_call(int fd, int timeout_ms, struct link_message *m)
{
	int rc = link_send(fd, m);

	secret_wipe(m, sizeof(*m));
	if (rc == 0)
		rc = link_receive(fd, timeout_ms, m);
	if (rc == 0 && m->type != LINK_REPLY)
		rc = -EPROTO;
	return rc < 0 ? rc : m->error;
}
