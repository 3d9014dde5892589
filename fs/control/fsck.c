/* tdefs-fsck: verifies a store that is not mounted, whole: header, directory ids, names, links, attributes, every block. Without
 * --repair it changes nothing: what a crash left in flux is accepted as the next mount would accept it. */
#include "base/io.h"
#include "base/log.h"
#include "base/progress.h"
#include "control/wire.h"
#include "store/repair.h"
#include "vault/pfx.h"
#include "vault/platform_key.h"

#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

static const char usage[] =
	"Usage: tdefs-fsck STORE --key-from SOCKET|FILE [--password-file F]\n"
	"                  [--repair [--yes]] [--json]\n"
	"Verifies an unmounted store, whole. Changes nothing without --repair.\n\n"
	"  --key-from SOCKET   tdefsd's socket: it hands the key to root, unless the\n"
	"                      environment is locked\n"
	"  --key-from FILE     the platform key, or the tenant key's .pfx, that wraps its\n"
	"                      environment key\n"
	"  --password-file F   of the .pfx\n"
	"  --repair            writes ids and long names again from their copies, names\n"
	"                      what has lost its name, and moves what cannot be read to\n"
	"                      STORE/quarantine. Nothing is deleted\n"
	"  --yes               do not ask before\n"
	"  --json              one JSON object on stdout\n"
	"  --help\n\n"
	"Exit status: 0 everything verifies, 1 damage was found (with --repair: is left),\n"
	"2 wrong usage, 3 the store cannot be opened.\n";

struct check {
	struct volume *v;
	bool repair, json;
	bool unseen; /* something could not be opened, so that not everything is recovered */
	uint64_t repaired, left;
	json_t *findings;
	struct scrub scrub;
	pthread_mutex_t lock;
	pthread_cond_t ended;
	bool over; /* lock */
};

static void check_report(struct check *c, const struct scrub_finding *f)
{
	CLEANUP_FREE char *path = str_printable(f->plain[0] ? f->plain : "/");
	uint64_t weight = scrub_weight(f);
	char text[200];

	if (f->done)
		c->repaired += weight;
	else
		c->left += weight;
	c->unseen |= !f->done && f->kind != SCRUB_BLOCKS && f->kind != SCRUB_ATTRIBUTE && f->kind != SCRUB_TARGET;
	scrub_describe(f, text, sizeof(text));
	if (c->json)
		json_array_append_new(c->findings, json_pack("{ss ss ss ss sb sI sI}", "kind", scrub_kind_name(f->kind), "text", text, "path",
							   path ? path : "", "store_path", f->lower, "repaired", f->done != NULL, "block",
							   (json_int_t)f->block, "count", (json_int_t)f->count));
	else
		printf("%s%s (%s): %s\n", isatty(STDOUT_FILENO) ? "\r\033[K" : "", path ? path : "", f->lower, text);
}

static void check_repaired(void *ctx, const struct scrub_finding *f)
{
	check_report(ctx, f);
}

static void check_found(void *ctx, const struct scrub_finding *f)
{
	struct check *c = ctx;
	struct scrub_finding told = *f;
	char as[64], done[100], text[160];

	if (c->repair && (f->kind == SCRUB_FILE || f->kind == SCRUB_TARGET)) {
		scrub_describe(f, text, sizeof(text));
		int rc = repair_quarantine(c->v, f->lower, text, as);

		snprintf(done, sizeof(done), "moved to %s", as);
		if (rc == 0)
			told.done = done;
		else
			fprintf(stderr, "tdefs-fsck: %s cannot be moved to quarantine: %s\n", f->lower, strerror(-rc));
	}
	check_report(c, &told);
}

static int check_with(void *ctx, int fd, const struct stat *st, int (*fn)(void *arg, struct content *content), void *arg)
{
	struct check *c = ctx;
	struct content *content = NULL;
	int copy = io_reopen(fd, c->repair ? O_RDWR : O_RDONLY);
	int rc = copy < 0 ? copy : content_open(c->v, copy, &content);

	(void)st;
	if (rc == 0)
		rc = fn(arg, content);
	content_close(content);
	return rc;
}

static void check_show(struct check *c, bool last)
{
	progress_show(&(struct progress){.done = c->scrub.bytes, .total = c->scrub.total_bytes, .files = c->scrub.files,
			      .total_files = c->scrub.total_files, .bad = c->scrub.bad}, last);
}

static void *check_watch(void *arg)
{
	struct check *c = arg;
	struct timespec until;

	pthread_mutex_lock(&c->lock);
	while (!c->over) {
		check_show(c, false);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec++;
		pthread_cond_timedwait(&c->ended, &c->lock, &until);
	}
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

/* The whole store; 0, or why it was not. */
static int check_all(struct check *c)
{
	pthread_t thread;
	int rc = c->repair ? repair_tree(c->v, check_repaired, c) : 0;

	if (rc < 0)
		return rc;
	c->scrub.v = c->v;
	c->scrub.repair = c->repair;
	c->scrub.with = check_with;
	c->scrub.found = check_found;
	c->scrub.ctx = c;
	bool watched = isatty(STDERR_FILENO) && pthread_create(&thread, NULL, check_watch, c) == 0;
	rc = scrub_run(&c->scrub);
	pthread_mutex_lock(&c->lock);
	c->over = true;
	pthread_cond_signal(&c->ended);
	pthread_mutex_unlock(&c->lock);
	if (watched) {
		pthread_join(thread, NULL);
		check_show(c, true);
	}
	return rc;
}

static void check_print(const struct check *c, bool clean, const char *error)
{
	if (c->json) {
		json_t *answer = json_pack("{sI sI sI sI sI sI sb ss sO}", "files", (json_int_t)c->scrub.files, "blocks", (json_int_t)c->scrub.blocks,
			"holes", (json_int_t)c->scrub.holes, "bytes", (json_int_t)c->scrub.bytes, "repaired", (json_int_t)c->repaired, "damaged",
			(json_int_t)c->left, "clean", clean, "error", error, "findings", c->findings);

		json_dumpf(answer, stdout, JSON_INDENT(2));
		putchar('\n');
		json_decref(answer);
		return;
	}
	if (error[0])
		fprintf(stderr, "tdefs-fsck: the walk ended early: %s\n", error);
	printf("%llu files, %llu blocks, %llu holes, ", (unsigned long long)c->scrub.files, (unsigned long long)c->scrub.blocks,
		(unsigned long long)c->scrub.holes);
	if (c->repair)
		printf("%llu repaired, ", (unsigned long long)c->repaired);
	printf("%llu damaged; %s\n", (unsigned long long)c->left, clean ? "clean" : "not unmounted cleanly");
}

static bool check_confirmed(bool yes)
{
	char line[16] = "";

	if (yes)
		return true;
	if (!isatty(STDIN_FILENO)) {
		fputs("tdefs-fsck: --repair changes the store: say so with --yes\n", stderr);
		return false;
	}
	fputs("Repairing changes the store. A copy of it made before is the safest way back. Type yes to go on: ", stderr);
	return fgets(line, sizeof(line), stdin) && strcmp(line, "yes\n") == 0;
}

static int complain(int error, const char *what)
{
	fprintf(stderr, "tdefs-fsck: %s\n", what);
	return error;
}

/* From the keeper. What it says against it has been printed. */
static int key_from_socket(const char *store, const char *path, struct env_key *ek)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	CLEANUP_FREE char *real = realpath(store, NULL);
	CLEANUP(secret_done) struct secret key = {0};
	json_t *answer = NULL;

	if (!real)
		return complain(-errno, strerror(errno));
	if (strlen(path) >= sizeof(address.sun_path))
		return complain(-ENAMETOOLONG, "the socket's path is too long");
	strcpy(address.sun_path, path);
	CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return complain(-errno, "no tdefsd answers there");
	struct wire wire = {.fd = fd};
	int rc = wire_send(fd, json_pack("{ss s{ss}}", "method", WIRE_INTERFACE ".EnvKey", "parameters", "store", real));
	if (rc == 0)
		rc = wire_receive(&wire, -1, &answer);
	const char *message = json_string_value(json_object_get(json_object_get(answer, "parameters"), "message"));
	if (rc < 0)
		(void)complain(rc, "tdefsd ended the conversation");
	else if (json_object_get(answer, "error"))
		rc = complain(-EACCES, message ? message : "tdefsd refuses");
	else if (wire.fd_count != 1 || wire_read_memfd(wire.fds[0], sizeof(ek->b), &key) < 0 || key.len != sizeof(ek->b))
		rc = complain(-EPROTO, "tdefsd's answer holds no key");
	if (rc == 0)
		memcpy(ek->b, key.b, sizeof(ek->b));
	json_decref(answer);
	wire_done(&wire);
	return rc;
}

static int read_file(const char *path, size_t max, struct secret *ret)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	int rc = fd < 0 ? -errno : secret_read_fd(fd, max, ret);

	if (rc < 0)
		fprintf(stderr, "tdefs-fsck: %s: %s\n", path, strerror(-rc));
	return rc;
}

static int key_from_file(const char *store, const char *path, const char *password_path, struct env_key *ek)
{
	CLEANUP(secret_done) struct secret file = {0}, password = {0};
	CLEANUP(rsa_key_freep) struct rsa_key *rsa = NULL;
	struct platform_key *pk = NULL;
	struct envheader h = {0};
	const char *why;
	size_t n = 0;
	int rc = read_file(path, PFX_MAX, &file);

	if (rc == 0 && password_path)
		rc = read_file(password_path, PFX_PASSWORD_MAX, &password);
	if (rc < 0)
		return rc;
	while (password.len > 0 && password.b[password.len - 1] == '\n')
		password.len--;
	if (platform_key_is_file(file.b, file.len))
		rc = platform_key_from_bytes(file.b, file.len, &pk);
	else if ((rc = pfx_read(file.b, file.len, &password, &rsa, &why)) < 0)
		return complain(rc, why);
	if (rc == 0)
		rc = envheader_read_path(store, &h);
	if (rc < 0) {
		platform_key_free(pk);
		return complain(rc, rc == -EUCLEAN ? "not a tdefs store, or its header is damaged" : strerror(-rc));
	}
	rc = -EKEYREJECTED;
	for (size_t k = 0; rc < 0 && k < h.wrap_count; k++)
		rc = pk	   ? platform_key_unwrap(pk, h.wraps[k].blob, h.wraps[k].blob_len, ek)
		     : rsa ? rsa_unwrap(rsa, h.wraps[k].blob, h.wraps[k].blob_len, ek->b, sizeof(ek->b), &n)
			   : -EKEYREJECTED;
	if (rc < 0)
		fprintf(stderr, "tdefs-fsck: this key does not open it: it is wrapped to the %s key %s (%.16s)\n", h.wraps[0].source,
			h.wraps[0].key_name, h.wraps[0].fingerprint);
	envheader_done(&h);
	platform_key_free(pk);
	return rc;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"key-from", required_argument, NULL, 'k'}, {"password-file", required_argument, NULL, 'p'},
		{"repair", no_argument, NULL, 'r'}, {"yes", no_argument, NULL, 'y'}, {"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'}, {0}};
	const char *key_file = NULL, *password_file = NULL;
	struct check c = {.lock = PTHREAD_MUTEX_INITIALIZER, .ended = PTHREAD_COND_INITIALIZER};
	bool yes = false;
	struct stat st;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'h':
			fputs(usage, stdout);
			return 0;
		case 'k':
			key_file = optarg;
			break;
		case 'p':
			password_file = optarg;
			break;
		case 'r':
			c.repair = true;
			break;
		case 'y':
			yes = true;
			break;
		case 'j':
			c.json = true;
			break;
		default:
			fputs(usage, stderr);
			return 2;
		}
	}
	if (!key_file || optind != argc - 1 || stat(key_file, &st) < 0) {
		if (key_file && optind == argc - 1)
			fprintf(stderr, "tdefs-fsck: %s: %s\n", key_file, strerror(errno));
		else
			fputs(usage, stderr);
		return 2;
	}
	if (c.repair && !check_confirmed(yes))
		return 2;
	log_open("tdefs-fsck", LOG_LEVEL_INFO, false);
	struct env_key *ek = secret_init(1u << 18) < 0 ? NULL : KEY_NEW(struct env_key);
	int rc = !ek			 ? complain(-ENOMEM, "no memory for keys")
		 : S_ISSOCK(st.st_mode) ? key_from_socket(argv[optind], key_file, ek)
					 : key_from_file(argv[optind], key_file, password_file, ek);
	if (rc < 0) {
		KEY_FREE(ek);
		return 3;
	}
	rc = volume_open(argv[optind], ek, &(struct volume_options){.read_only = !c.repair}, &c.v);
	KEY_FREE(ek);
	if (rc < 0) {
		fprintf(stderr, "tdefs-fsck: %s cannot be opened: %s\n", argv[optind],
			rc == -EKEYREJECTED ? "this key does not open it"
			: rc == -EBUSY	    ? "it is mounted: use keyctl scrub"
			: rc == -EUCLEAN    ? "not a tdefs store, or its header is damaged"
			: rc == -EBADMSG    ? "its header was changed by somebody without the key"
					    : strerror(-rc));
		return 3;
	}
	bool clean = c.repair ? volume_last_unclean(c.v) == 0 : c.v->header.clean;
	c.findings = json_array();
	rc = check_all(&c);
	if (rc == 0 && c.repair && !c.unseen && volume_last_unclean(c.v))
		rc = volume_forget_unclean(c.v);
	int closed = volume_close(c.v);
	if (rc == 0)
		rc = closed;
	check_print(&c, clean, rc < 0 ? strerror(-rc) : "");
	json_decref(c.findings);
	return rc < 0 || c.left ? 1 : 0;
}
