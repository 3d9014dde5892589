/* secret: key files and passwords, on their way from a file, a descriptor or the terminal to a sealed memfd. */
#include "keyctl/keyctl.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>

#define FILE_MAX (64u << 10)
#define PASSWORD_MAX 1024u
#define PLATFORM_KEY_BEGIN "tdefs platform key"

static enum status secret_memfd(const struct secret *s, int *ret_fd)
{
	*ret_fd = wire_memfd(s->b, s->len);
	return *ret_fd < 0 ? client_error(STATUS_FAILED, "no memory file: %s", strerror(-*ret_fd)) : STATUS_DONE;
}

static enum status secret_from_file(const char *path, size_t max, struct secret *ret)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	int rc = fd < 0 ? -errno : secret_read_fd(fd, max, ret);

	if (rc == -EFBIG)
		return client_error(STATUS_FAILED, "%s has more than %zu bytes: it is no such file", path, max);
	return rc < 0 ? client_error(STATUS_FAILED, "%s: %s", path, strerror(-rc)) : STATUS_DONE;
}

enum status secret_file(const char *path, int *ret_fd)
{
	CLEANUP(secret_done) struct secret s = {0};
	enum status status = secret_from_file(path, FILE_MAX, &s);

	return status == STATUS_DONE ? secret_memfd(&s, ret_fd) : status;
}

static volatile sig_atomic_t interrupted; /* the signal that ended a reading, 0 for none */

static void interrupt(int signal)
{
	interrupted = signal;
}

/* Signals that would end keyctl only note that they came, while catching; read(2) ends with them. */
static void interrupts(bool catching)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
	const struct sigaction noted = {.sa_handler = interrupt}, usual = {.sa_handler = SIG_DFL};

	for (size_t k = 0; k < ARRAY_LEN(signals); k++)
		sigaction(signals[k], catching ? &noted : &usual, NULL);
}

/* One line from the terminal, not shown; whatever ends the asking, the terminal shows again what is typed. */
static enum status secret_ask(const char *prompt, struct secret *ret)
{
	CLEANUP_CLOSE int tty = open("/dev/tty", O_RDWR | O_CLOEXEC);
	CLEANUP(secret_done) struct secret line = {secret_alloc(PASSWORD_MAX), PASSWORD_MAX};
	struct termios shown, hidden;
	size_t len = 0;

	if (tty < 0 || tcgetattr(tty, &shown) < 0)
		return client_error(STATUS_USAGE, "there is no terminal to ask for the password at: give --password-file or --password-fd");
	if (!line.b)
		return client_error(STATUS_FAILED, "out of memory");
	hidden = shown;
	hidden.c_lflag &= ~(tcflag_t)ECHO;
	interrupted = 0;
	interrupts(true);
	tcsetattr(tty, TCSAFLUSH, &hidden);
	dprintf(tty, "%s", prompt);
	while (len < PASSWORD_MAX && !interrupted && read(tty, line.b + len, 1) == 1 && line.b[len] != '\n')
		len++;
	tcsetattr(tty, TCSAFLUSH, &shown);
	dprintf(tty, "\n");
	interrupts(false);
	if (interrupted) {
		secret_done(&line);
		raise(interrupted);
	}
	return secret_dup(line.b, len, ret) < 0 ? client_error(STATUS_FAILED, "out of memory") : STATUS_DONE;
}

/* A password file is one line. */
static void secret_chomp(struct secret *s)
{
	while (s->len > 0 && (s->b[s->len - 1] == '\n' || s->b[s->len - 1] == '\r'))
		s->b[--s->len] = '\0';
}

static bool file_needs_password(const char *path)
{
	char begin[sizeof(PLATFORM_KEY_BEGIN) - 1] = "";
	CLEANUP_CLOSE int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;

	if (fd < 0 || read(fd, begin, sizeof(begin)) < 1)
		return true;
	return begin[0] != '{' && memcmp(begin, PLATFORM_KEY_BEGIN, sizeof(begin)) != 0;
}

enum status secret_password(const struct options *o, const char *path, bool is_new, int *ret_fd)
{
	CLEANUP(secret_done) struct secret s = {0}, again = {0};
	enum status status;
	int rc;

	if (!is_new && !file_needs_password(path))
		return STATUS_DONE;
	if (o->password_file) {
		status = secret_from_file(o->password_file, PASSWORD_MAX, &s);
		secret_chomp(&s);
	} else if (o->password_fd >= 0) {
		rc = secret_read_fd(o->password_fd, PASSWORD_MAX, &s);
		status = rc < 0 ? client_error(STATUS_FAILED, "descriptor %d: %s", o->password_fd, strerror(-rc)) : STATUS_DONE;
		secret_chomp(&s);
	} else {
		status = secret_ask(is_new ? "New password of the key file: " : "Password of the key file: ", &s);
		if (status == STATUS_DONE && is_new) {
			status = secret_ask("The same again: ", &again);
			if (status == STATUS_DONE && (s.len != again.len || memcmp(s.b, again.b, s.len) != 0))
				status = client_error(STATUS_FAILED, "the two passwords differ, nothing was done");
		}
	}
	if (status == STATUS_DONE && is_new && s.len == 0)
		status = client_error(STATUS_REFUSED, "refused by rule K1: a key file must have a password");
	return status == STATUS_DONE ? secret_memfd(&s, ret_fd) : status;
}
