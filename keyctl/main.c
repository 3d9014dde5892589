/* keyctl: the table of commands, and their options. */
#include "keyctl/keyctl.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#define DEFAULT_SOCKET "/run/tdefs/keyctl.sock"

static const struct command commands[] = {
	{"status", "[--metrics]", 0, "what there is, and what needs attention", "M", report_status},
	{"env create", "NAME --mountpoint DIR", 1, "make an environment and mount it", "mstr", env_create},
	{"env attach", "NAME --store S --mountpoint D", 1, "bring a store back; --key FILE opens it", "mstrkpP", env_attach},
	{"env list", "", 0, NULL, "", env_list},
	{"env show", "NAME", 1, "all environments; all about one", "", env_show},
	{"env mount", "NAME", 1, NULL, "A", env_mount},
	{"env unmount", "NAME [--force]", 1, "--force also while in use", "f", env_unmount},
	{"env apply-key", "NAME --yes", 1, "move it to the active key", "", env_apply},
	{"env return-key", "NAME [--confirm NAME]", 1, "move it back to the platform key", "c", env_return},
	{"env unlock", "NAME --yes", 1, "after the lock of its region", "", env_unlock_confirmed},
	{"env delete", "NAME --confirm NAME", 1, "destroy its key and its data", "c", env_delete},
	{"lock", "NAME [--dry-run]", 1, NULL, "d", env_lock},
	{"unlock", "NAME", 1, "unmount at once, wipe its key; bring it back", "", env_unlock},
	{"rotate", "NAME [--data|--status|--pause|--resume]", 1, "new key; --data: for all content too", "DUTE", env_rotate},
	{"key generate", "NAME --out FILE.pfx", 1, "make a key, save its file", "ropP", key_generate},
	{"key upload", "NAME FILE", 2, "bring a .pfx or .byok", "rpP", key_upload},
	{"key list", "", 0, NULL, "", key_list},
	{"key show", "NAME", 1, "all keys; all about one", "", key_show},
	{"key activate", "NAME --yes", 1, "move the region to it", "", key_activate},
	{"key unlock", "NAME FILE", 2, "after a lock: the same file again", "pP", key_unlock},
	{"kek show", "[--out FILE.pem]", 0, NULL, "o", kek_show},
	{"clock accept", "--reason WHY", 0, ".byok's wrapping key; trust the clock again", "W", clock_accept},
	{"tenant lock", "--key FILE", 0, "take all of a region offline", "krcpP", tenant_lock},
	{"scrub", "NAME [--repair]", 1, NULL, "R", report_scrub},
	{"audit", "[--verify]", 0, "verify every block; who did what", "v", report_audit},
};

static const struct option long_options[] = {{"socket", required_argument, NULL, 'S'}, {"json", no_argument, NULL, 'j'},
	{"yes", no_argument, NULL, 'y'}, {"help", no_argument, NULL, 'h'}, {"version", no_argument, NULL, 'V'},
	{"mountpoint", required_argument, NULL, 'm'}, {"store", required_argument, NULL, 's'}, {"type", required_argument, NULL, 't'},
	{"region", required_argument, NULL, 'r'}, {"force", no_argument, NULL, 'f'}, {"confirm", required_argument, NULL, 'c'},
	{"dry-run", no_argument, NULL, 'd'}, {"accept-older", required_argument, NULL, 'A'},
	{"key", required_argument, NULL, 'k'}, {"out", required_argument, NULL, 'o'}, {"password-file", required_argument, NULL, 'p'},
	{"password-fd", required_argument, NULL, 'P'}, {"verify", no_argument, NULL, 'v'},
	{"data", no_argument, NULL, 'D'}, {"pause", no_argument, NULL, 'U'}, {"status", no_argument, NULL, 'T'}, {"repair", no_argument, NULL, 'R'},
	{"resume", no_argument, NULL, 'E'}, {"metrics", no_argument, NULL, 'M'}, {"reason", required_argument, NULL, 'W'}, {0}};

static void usage(FILE *f)
{
	fputs("Usage: keyctl [--socket PATH] [--json] COMMAND     keys and environments of a tdefs tenant\n", f);
	for (size_t k = 0; k < ARRAY_LEN(commands); k++) {
		int n = 0;

		for (;; k++) {
			n += fprintf(f, "%s%s%s%s", n ? " | " : "  ", commands[k].words, commands[k].arguments[0] ? " " : "", commands[k].arguments);
			if (commands[k].help)
				break;
		}
		fprintf(f, "%*s %s\n", MAX(46 - n, 1), "", commands[k].help);
	}
	fputs("env create: --store DIR, --type production|sandbox; it, keys, tenant lock: --region R; env mount:\n"
	      "--accept-older WHY. Passwords: asked, or --password-file F, --password-fd N. --yes, --confirm TEXT.\n"
	      "The socket is --socket, else TDEFS_SOCKET, else " DEFAULT_SOCKET ". Exit status: 0 done,\n"
	      "1 failed, 2 usage, 3 refused by a rule, 4 no permission, 5 no daemon, 6 locked or disabled.\n",
		f);
}

static const struct command *command_find(char **words, int n, int *ret_used)
{
	for (size_t k = 0; k < ARRAY_LEN(commands); k++) {
		char two[64];

		snprintf(two, sizeof(two), "%.30s %.30s", words[0], n > 1 ? words[1] : "");
		*ret_used = strchr(commands[k].words, ' ') ? 2 : 1;
		if (strcmp(*ret_used == 2 ? two : words[0], commands[k].words) == 0)
			return &commands[k];
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct options o = {.socket = getenv("TDEFS_SOCKET"), .password_fd = -1};
	char given[32] = "";
	char *end;
	int option, used;

	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		size_t n = strlen(given);

		if (n + 1 < sizeof(given) && strchr("mstrfcdvkopPARDUTEMW", option)) {
			given[n] = (char)option;
			given[n + 1] = '\0';
		}
		switch (option) {
		case 'S':
			o.socket = optarg;
			break;
		case 'j':
			o.json = true;
			break;
		case 'y':
			o.yes = true;
			break;
		case 'm':
			o.mountpoint = optarg;
			break;
		case 's':
			o.store = optarg;
			break;
		case 't':
			o.type = optarg;
			break;
		case 'r':
			o.region = optarg;
			break;
		case 'f':
			o.force = true;
			break;
		case 'c':
			o.confirm = optarg;
			break;
		case 'A':
			o.accept_older = optarg;
			break;
		case 'd':
			o.dry_run = true;
			break;
		case 'k':
			o.key = optarg;
			break;
		case 'o':
			o.out = optarg;
			break;
		case 'p':
			o.password_file = optarg;
			break;
		case 'P':
			o.password_fd = (int)strtol(optarg, &end, 10);
			if (!*optarg || *end || o.password_fd < 0)
				return client_error(STATUS_USAGE, "--password-fd takes the number of an open descriptor, not %s", optarg);
			break;
		case 'v':
			o.verify = true;
			break;
		case 'R':
			o.repair = true;
			break;
		case 'D':
			o.data = true;
			break;
		case 'U':
			o.pause = true;
			break;
		case 'T':
			o.status = true;
			break;
		case 'E':
			o.resume = true;
			break;
		case 'M':
			o.metrics = true;
			break;
		case 'W':
			o.reason = optarg;
			break;
		case 'h':
			usage(stdout);
			return STATUS_DONE;
		case 'V':
			puts("keyctl (tdefs) " TDEFS_VERSION);
			return STATUS_DONE;
		default:
			fputs("keyctl --help lists commands and options\n", stderr);
			return STATUS_USAGE;
		}
	}
	if (!o.socket || !o.socket[0])
		o.socket = DEFAULT_SOCKET;
	if (optind == argc) {
		usage(stderr);
		return STATUS_USAGE;
	}
	const struct command *command = command_find(argv + optind, argc - optind, &used);
	if (!command)
		return client_error(STATUS_USAGE, "there is no command %s: keyctl --help lists them", argv[optind]);
	if (argc - optind - used != command->argument_count)
		return client_error(STATUS_USAGE, "usage: keyctl %s %s", command->words, command->arguments);
	for (const char *p = given; *p; p++)
		if (!strchr(command->options, *p))
			return client_error(STATUS_USAGE, "%s takes another set of options: keyctl %s %s", command->words, command->words,
				command->arguments);
	return (int)command->run(&o, argv + optind + used);
}
