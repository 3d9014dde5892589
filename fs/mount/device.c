/* device: the /dev/fuse end of a session.
 *
 * The mount is made with mount(2) (mounter.c) and libfuse reads and writes through fuse_session_custom_io, for two reasons: no helper
 * program is needed, and the INIT reply can be amended on its way out. Debian 12's libfuse 3.14 does not know
 * FUSE_HANDLE_KILLPRIV_V2; without it the kernel asks for security.capability at every write. With it the requests carry
 * a bit each that says when suid and sgid have to go, which that libfuse drops as well, so it is read here. Nor does it know
 * FUSE_TMPFILE; the request is a FUSE_CREATE but for its opcode, and passed on as one. And it cannot say that there are no file
 * handles: ours would name inodes that the worker may have forgotten. */
#include "mount/session.h"

#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/uio.h>

static _Thread_local bool kill_privileges, tmpfile_request;
static atomic_uint_fast64_t init_unique; /* of the INIT request; 0 once it was answered */
static bool init_killpriv, init_no_export, init_uring; /* the kernel offered them */

/* In flags2; linux/fuse.h of Linux 6.8, protocol 7.40. */
#define NO_EXPORT_SUPPORT (1u << (38 - 32))
#define OVER_IO_URING (1u << (41 - 32))

static bool request_kills(const struct fuse_in_header *h, size_t len)
{
	const char *body = (const char *)(h + 1);
	size_t body_len = len - sizeof(*h);

	if (h->opcode == FUSE_SETATTR && body_len >= sizeof(struct fuse_setattr_in))
		return ((const struct fuse_setattr_in *)body)->valid & FATTR_KILL_SUIDGID;
	if (h->opcode == FUSE_WRITE && body_len >= sizeof(struct fuse_write_in))
		return ((const struct fuse_write_in *)body)->write_flags & FUSE_WRITE_KILL_SUIDGID;
	return false;
}

/* To wake a thread costs more than most requests, above all on a virtual machine. So one looks out for the next a little longer
 * before it sleeps, and gives way to whoever else wants the processor. */
static void device_spin(const struct session *s, int fd)
{
	static atomic_bool spinning;
	struct pollfd p = {.fd = fd, .events = POLLIN};

	if (s->options.spin_us == 0 || atomic_exchange(&spinning, true))
		return;
	uint64_t end = clock_monotonic_ns() + s->options.spin_us * UINT64_C(1000);
	while (poll(&p, 1, 0) == 0 && clock_monotonic_ns() < end)
		sched_yield();
	atomic_store(&spinning, false);
}

/* What libfuse 3.14 passes over. */
static void request_look(struct session *s, struct fuse_in_header *h, size_t len)
{
	atomic_fetch_add_explicit(&s->requests, 1, memory_order_relaxed);
	kill_privileges = request_kills(h, len);
	tmpfile_request = h->opcode == FUSE_TMPFILE;
	if (tmpfile_request)
		h->opcode = FUSE_CREATE;
}

static ssize_t device_read(int fd, void *buf, size_t len, void *userdata)
{
	struct session *s = userdata;

	device_spin(userdata, fd);
	ssize_t n = read(fd, buf, len);
	struct fuse_in_header *h = buf;

	/* What a read says that an abort (mounter.c) interrupts; to libfuse only ENODEV is the end of a session. */
	if (n < 0 && errno == ECONNABORTED)
		errno = ENODEV;
	if (n < (ssize_t)sizeof(*h))
		return n;
	request_look(s, h, (size_t)n);
	if (h->opcode == FUSE_INIT) {
		const struct fuse_init_in *in = (const struct fuse_init_in *)(h + 1);

		init_unique = h->unique;
		init_killpriv = in->flags & FUSE_HANDLE_KILLPRIV_V2;
		uint32_t flags2 = (size_t)n >= sizeof(*h) + sizeof(*in) && (in->flags & FUSE_INIT_EXT) ? in->flags2 : 0;
		init_no_export = flags2 & NO_EXPORT_SUPPORT;
		init_uring = flags2 & OVER_IO_URING;
	}
	return n;
}

static ssize_t device_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	struct session *s = userdata;
	const struct fuse_out_header *h = iov[0].iov_base;
	bool ring_starts = false;

	if (s->ring && ring_reply(s->ring, iov, count))
		return h->len;
	if (init_unique && h->unique == init_unique && h->error == 0 && count == 2 &&
		iov[1].iov_len >= sizeof(struct fuse_init_out)) {
		struct fuse_init_out *out = iov[1].iov_base;

		if (init_killpriv)
			out->flags |= FUSE_HANDLE_KILLPRIV_V2;
		if (init_no_export) {
			out->flags |= FUSE_INIT_EXT;
			out->flags2 |= NO_EXPORT_SUPPORT;
		}
		ring_starts = s->ring && init_uring;
		if (ring_starts) {
			out->flags |= FUSE_INIT_EXT;
			out->flags2 |= OVER_IO_URING;
		}
		init_unique = 0;
	}
	ssize_t n = writev(fd, iov, count);
	if (n > 0 && ring_starts && ring_start(s->ring) < 0)
		abort();
	return n;
}

bool device_kill_privileges(void)
{
	return kill_privileges;
}

bool device_tmpfile(void)
{
	return tmpfile_request;
}

static const struct fuse_custom_io device_io = {.read = device_read, .writev = device_writev};

void device_serve(void *ctx, void *request, size_t len)
{
	struct session *s = ctx;
	struct fuse_buf buf = {.size = len, .mem = request};

	request_look(s, request, len);
	fuse_session_process_buf(s->se, &buf);
}

int device_open(struct session *s)
{
	struct fuse_lowlevel_ops ops = {0};
	char *argv[] = {(char *)(uintptr_t) "tdefs-mount", NULL};
	struct fuse_args args = FUSE_ARGS_INIT(1, argv);

	ops_tree(&ops);
	ops_meta(&ops);
	ops_file(&ops);
	s->se = fuse_session_new(&args, &ops, sizeof(ops), s);
	fuse_opt_free_args(&args);
	return s->se ? fuse_session_custom_io(s->se, &device_io, s->device) : -ENOMEM;
}

/* Linux 6.18's include/uapi/linux/fuse.h, protocol 7.45. */
#define NOTIFY_PRUNE 9
struct notify_prune_out {
	uint32_t count, padding;
	uint64_t spare;
};

int device_prune(struct session *s, uint64_t *nodes, size_t n)
{
	struct notify_prune_out out = {.count = (uint32_t)n};
	struct iovec iov[] = {{NULL, sizeof(struct fuse_out_header)}, {&out, sizeof(out)}, {nodes, n * sizeof(*nodes)}};
	struct fuse_out_header h = {.error = NOTIFY_PRUNE};

	h.len = (uint32_t)(iov[0].iov_len + iov[1].iov_len + iov[2].iov_len);
	iov[0].iov_base = &h;
	return writev(s->device, iov, 3) < 0 ? -errno : 0;
}

int device_loop(struct session *s)
{
	struct fuse_loop_config *config = fuse_loop_cfg_create();

	if (!config)
		return -ENOMEM;
	fuse_loop_cfg_set_clone_fd(config, 1);
	fuse_loop_cfg_set_max_threads(config, s->options.threads);
	fuse_loop_cfg_set_idle_threads(config, s->options.threads);
	int rc = fuse_session_loop_mt(s->se, config);
	fuse_loop_cfg_destroy(config);
	return rc < 0 ? rc : 0;
}
