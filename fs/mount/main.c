/* tdefs-mount: the worker of one environment. Started by tdefsd; see worker.h and link.h.
 *
 * tdefsd may be of another version. So, as in link.h: an option keeps its name and meaning for ever, and none begins as another does;
 * what is not one of the four that name things is given as --option=value, and one that is not known is passed over. */
#include "base/log.h"
#include "base/secret.h"
#include "mount/sandbox.h"
#include "mount/worker.h"

#include <getopt.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>

#define HEAP_STEP (256 << 10) /* the heap grows by this: by pages as it is, it would take a call for each file */
#define SECRET_HEAP (1u << 22) /* a file key and its MAC key are 128 bytes of it for each open file */

static const char usage[] =
	"Usage: tdefs-mount --name NAME --store DIR --mountpoint DIR --socket PATH [options]\n"
	"Serves one tdefs environment over FUSE. Started by tdefsd, which sends the key over the socket.\n\n"
	"  --threads N            threads that serve requests (4)\n"
	"  --transport WHICH      device, io_uring or auto: how requests come from the kernel\n"
	"  --spin-us N            microseconds to look out for the next request before sleeping (0)\n"
	"  --seal-interval TIME   between two rounds of sealing, as 30s\n"
	"  --rotate-max-rate N    bytes a second that a rotation of the data may encrypt (0: any)\n"
	"  --read-only            mount read-only\n"
	"  --help\n";

static int transport_parse(const char *text, enum transport *ret)
{
	static const char *const names[] = {"device", "io_uring", "auto"};

	for (size_t k = 0; k < ARRAY_LEN(names); k++)
		if (strcmp(text, names[k]) == 0) {
			*ret = (enum transport)k;
			return 0;
		}
	return -EINVAL;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"name", required_argument, NULL, 'n'}, {"store", required_argument, NULL, 's'},
		{"mountpoint", required_argument, NULL, 'm'}, {"socket", required_argument, NULL, 'S'},
		{"threads", required_argument, NULL, 't'}, {"transport", required_argument, NULL, 'T'},
		{"spin-us", required_argument, NULL, 'u'}, {"seal-interval", required_argument, NULL, 'i'},
		{"rotate-max-rate", required_argument, NULL, 'R'},
		{"read-only", no_argument, NULL, 'r'}, {"help", no_argument, NULL, 'h'}, {0}};
	struct worker_arguments a = {.mount = {.threads = 4, .seal_interval_ns = UINT64_C(30000000000)}};
	int option;

	opterr = 0;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'n':
			a.name = optarg;
			break;
		case 's':
			a.store = optarg;
			break;
		case 'm':
			a.mountpoint = optarg;
			break;
		case 'S':
			a.socket = optarg;
			break;
		case 't':
			a.mount.threads = (unsigned)strtoul(optarg, NULL, 10);
			if (a.mount.threads < 1 || a.mount.threads > 256) {
				fprintf(stderr, "tdefs-mount: --threads takes 1 to 256, not %s\n", optarg);
				return 2;
			}
			break;
		case 'T':
			if (transport_parse(optarg, &a.mount.transport) < 0) {
				fprintf(stderr, "tdefs-mount: --transport takes auto, device or io_uring, not %s\n", optarg);
				return 2;
			}
			break;
		case 'u':
			a.mount.spin_us = (unsigned)strtoul(optarg, NULL, 10);
			if (a.mount.spin_us > 10000) {
				fprintf(stderr, "tdefs-mount: --spin-us takes 0 to 10000, not %s\n", optarg);
				return 2;
			}
			break;
		case 'i':
			if (duration_parse(optarg, &a.mount.seal_interval_ns) < 0 || a.mount.seal_interval_ns == 0) {
				fprintf(stderr, "tdefs-mount: --seal-interval takes a time as 30s, not %s\n", optarg);
				return 2;
			}
			break;
		case 'R':
			a.mount.rotate_max_rate = strtoull(optarg, NULL, 10);
			break;
		case 'r':
			a.mount.read_only = true;
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			/* optopt: a known one, without its value, or a letter. */
			if (optopt == 0 && strchr(argv[optind - 1], '=')) {
				fprintf(stderr, "tdefs-mount: %s is an option of another version: passed over\n", argv[optind - 1]);
				break;
			}
			fputs(usage, stderr);
			return 2;
		}
	}
	if (!a.name || !a.store || !a.mountpoint || !a.socket || optind != argc) {
		fputs(usage, stderr);
		return 2;
	}
	log_open("tdefs-mount", LOG_LEVEL_INFO, false);
	mallopt(M_ARENA_MAX, 1);
	mallopt(M_TOP_PAD, HEAP_STEP);
	if (secret_init(SECRET_HEAP) < 0) {
		log_error("no memory for keys");
		return 1;
	}
	sandbox_prepare();
	return worker_run(&a);
}
