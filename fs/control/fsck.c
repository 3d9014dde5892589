/* tdefs-fsck: verifies a store that is not mounted, whole: header, directory ids, names, links, every block. Changes
 * nothing: what a crash left in flux is accepted as the next mount would accept it. */
#include "base/io.h"
#include "base/log.h"
#include "store/content.h"
#include "store/scrub.h"
#include "vault/platform_key.h"

#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

static const char usage[] =
	"Usage: tdefs-fsck STORE --key-from FILE\n"
	"Verifies an unmounted store, whole, and changes nothing.\n\n"
	"  --key-from FILE   the platform key that wraps its environment key\n"
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

static int fsck_key(const char *store, const char *key_file, struct env_key *ek)
{
	struct platform_key *pk = NULL;
	struct envheader h = {0};
	int rc = platform_key_open(key_file, &pk, NULL);

	if (rc == 0)
		rc = envheader_read_path(store, &h);
	if (rc == 0) {
		rc = -EKEYREJECTED;
		for (size_t k = 0; rc < 0 && k < h.wrap_count; k++)
			rc = platform_key_unwrap(pk, h.wraps[k].blob, h.wraps[k].blob_len, ek);
		envheader_done(&h);
	}
	platform_key_free(pk);
	return rc;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"key-from", required_argument, NULL, 'k'}, {"help", no_argument, NULL, 'h'}, {0}};
	const char *key_file = NULL;
	struct check c = {0};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'h') {
			fputs(usage, stdout);
			return 0;
		}
		if (option != 'k') {
			fputs(usage, stderr);
			return 2;
		}
		key_file = optarg;
	}
	if (!key_file || optind != argc - 1 || access(key_file, F_OK) < 0) {
		if (key_file && optind == argc - 1)
			fprintf(stderr, "tdefs-fsck: %s: %s\n", key_file, strerror(errno));
		else
			fputs(usage, stderr);
		return 2;
	}
	log_open("tdefs-fsck", LOG_LEVEL_INFO, false);
	struct env_key *ek = secret_init(1u << 18) < 0 ? NULL : KEY_NEW(struct env_key);
	int rc = ek ? fsck_key(argv[optind], key_file, ek) : -ENOMEM;
	if (rc == 0)
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
	rc = scrub_walk(c.v, &(struct scrub_visitor){check_file, check_damaged, &c});
	if (volume_close(c.v) < 0 || rc < 0)
		fprintf(stderr, "tdefs-fsck: the walk ended early: %s\n", strerror(-rc));
	printf("%llu files, %llu blocks, %llu holes, %llu damaged; %s\n", (unsigned long long)c.files, (unsigned long long)c.blocks,
		(unsigned long long)c.holes, (unsigned long long)c.damaged, clean ? "clean" : "not unmounted cleanly");
	return rc < 0 || c.damaged ? 1 : 0;
}
