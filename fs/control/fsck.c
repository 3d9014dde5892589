/* tdefs-fsck: verifies a store that is not mounted, whole: header, directory ids, names, links, every block. Changes
 * nothing: what a crash left in flux is accepted as the next mount would accept it. */
#include "base/io.h"
#include "base/log.h"
#include "control/wire.h"
#include "store/content.h"
#include "store/scrub.h"
#include "vault/pfx.h"
#include "vault/platform_key.h"

#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

static const char usage[] =
	"Usage: tdefs-fsck STORE --key-from SOCKET|FILE [--password-file F]\n"
	"Verifies an unmounted store, whole, and changes nothing.\n\n"
	"  --key-from SOCKET   tdefsd's socket: it hands the key to root, unless the environment is locked\n"
	"  --key-from FILE     the platform key, or the tenant key's .pfx, that wraps its environment key\n"
	"  --password-file F   of the .pfx\n"
	"  --help\n\n"
	"Exit status: 0 everything verifies, 1 damage was found, 2 wrong usage, 3 the store cannot be opened.\n";

struct check {
	struct volume *v;
	uint64_t files, blocks, holes, damaged;
};

static void check_damaged(void *ctx, int error, const char *lower, const char *plain)
{
	struct check *c = ctx;

	c->damaged++;
	printf("damaged: %s (%s): %s\n", plain[0] ? plain : "/", lower, strerror(-error));
}

static int check_file(void *ctx, int fd, const struct stat *st, const char *lower, const char *plain)
{
	struct check *c = ctx;
	struct content_check result;
	struct content *content = NULL;
	int copy = io_reopen(fd, O_RDONLY);
	int rc = copy < 0 ? copy : content_open(c->v, copy, &content);

	(void)st;
	if (rc == 0)
		rc = content_verify(content, &result);
	content_close(content);
	c->files++;
	if (rc < 0) {
		check_damaged(ctx, rc, lower, plain);
		return 0;
	}
	c->blocks += result.good + result.bad;
	c->holes += result.holes;
	if (result.bad) {
		c->damaged += result.bad;
		printf("damaged: %s (%s): %llu blocks, the first is %llu\n", plain, lower, (unsigned long long)result.bad,
			(unsigned long long)result.first_bad);
	}
	return 0;
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
	static const struct option options[] = {{"key-from", required_argument, NULL, 'k'},
		{"password-file", required_argument, NULL, 'p'}, {"help", no_argument, NULL, 'h'}, {0}};
	const char *key_file = NULL, *password_file = NULL;
	struct check c = {0};
	struct stat st;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'h') {
			fputs(usage, stdout);
			return 0;
		}
		if (option == 'k') {
			key_file = optarg;
		} else if (option == 'p') {
			password_file = optarg;
		} else {
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
	log_open("tdefs-fsck", LOG_LEVEL_INFO, false);
	struct env_key *ek = secret_init(1u << 18) < 0 ? NULL : KEY_NEW(struct env_key);
	int rc = !ek			 ? complain(-ENOMEM, "no memory for keys")
		 : S_ISSOCK(st.st_mode) ? key_from_socket(argv[optind], key_file, ek)
					 : key_from_file(argv[optind], key_file, password_file, ek);
	if (rc < 0) {
		KEY_FREE(ek);
		return 3;
	}
	rc = volume_open(argv[optind], ek, &(struct volume_options){.read_only = true}, &c.v);
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
	bool clean = c.v->header.clean;
	rc = scrub_walk(c.v, &(struct scrub_visitor){check_file, check_damaged, NULL, &c});
	if (volume_close(c.v) < 0 || rc < 0)
		fprintf(stderr, "tdefs-fsck: the walk ended early: %s\n", strerror(-rc));
	printf("%llu files, %llu blocks, %llu holes, %llu damaged; %s\n", (unsigned long long)c.files, (unsigned long long)c.blocks,
		(unsigned long long)c.holes, (unsigned long long)c.damaged, clean ? "clean" : "not unmounted cleanly");
	return rc < 0 || c.damaged ? 1 : 0;
}
