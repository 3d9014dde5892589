/* keyctl: what its files share. One function a command; main.c has the table. */
#pragma once
#include "control/wire.h"

/* Exit status, a contract with scripts. */
enum status {
	STATUS_DONE = 0,
	STATUS_FAILED = 1,
	STATUS_USAGE = 2,
	STATUS_REFUSED = 3,    /* by a rule, whose id is on stderr */
	STATUS_PERMISSION = 4,
	STATUS_NO_DAEMON = 5,
	STATUS_LOCKED = 6,     /* or disabled */
};

struct options {
	const char *socket;
	bool json, yes, force, dry_run, verify, repair, data, pause, resume, status, metrics;
	const char *confirm, *mountpoint, *store, *type, *region, *key, *out, *password_file, *accept_older, *reason;
	int password_fd; /* -1: not given */
};

struct command {
	const char *words;      /* as typed: "env create", "lock" */
	const char *arguments;  /* for help: "NAME --mountpoint DIR" */
	int argument_count;
	const char *help;       /* NULL: on the next command's line */
	const char *options;    /* the letters of main.c's options that it takes */
	enum status (*run)(const struct options *o, char **arguments);
};

/* client.c. Calls method with parameters (taken). STATUS_DONE and the answer's parameters in *ret, which the caller
 * releases; otherwise the error has been printed. */
enum status client_call(const struct options *o, const char *method, json_t *parameters, json_t **ret);
/* The same with the descriptors of fds beside it; progress (may be NULL) is called with what comes before the answer; what
 * comes with it is *ret_fd (may be NULL), -1 for nothing. */
struct client_call {
	const char *method;
	json_t *parameters; /* taken */
	const int *fds;
	unsigned fd_count;
	void (*progress)(const json_t *parameters);
	int *ret_fd;
};
enum status client_call_with(const struct options *o, const struct client_call *call, json_t **ret);
/* Prints one error line. Returns status. */
enum status client_error(enum status status, const char *format, ...) PRINTF(2, 3);
void client_print_json(const json_t *value);
/* Whether to go on: --yes, or a "yes" typed at a terminal. Without either: says what is missing, STATUS_USAGE. */
enum status client_confirm(const struct options *o, const char *question);
/* An absolute path from one relative to here; the caller frees. */
char *client_path(const char *path);
const char *text_of(const json_t *object, const char *key);
long long number_of(const json_t *object, const char *key);

/* A line typed at the terminal, without its end; STATUS_USAGE and a word on missing otherwise when there is none. */
enum status client_type(const char *prompt, char *ret, size_t size);

/* secret.c. Sealed memfds for wire.h; the caller closes them. */
enum status secret_file(const char *path, int *ret_fd);
/* From --password-file, --password-fd or the terminal, there twice when it is a new one. *ret_fd stays -1 when the file at
 * path (may be NULL) needs none: a .byok or a platform key. */
enum status secret_password(const struct options *o, const char *path, bool is_new, int *ret_fd);

/* environment.c */
enum status env_create(const struct options *o, char **arguments);
enum status env_list(const struct options *o, char **arguments);
enum status env_show(const struct options *o, char **arguments);
enum status env_mount(const struct options *o, char **arguments);
enum status env_unmount(const struct options *o, char **arguments);
enum status env_delete(const struct options *o, char **arguments);
enum status env_lock(const struct options *o, char **arguments);
enum status env_unlock(const struct options *o, char **arguments);
enum status env_apply(const struct options *o, char **arguments);
enum status env_return(const struct options *o, char **arguments);
enum status env_attach(const struct options *o, char **arguments);
enum status env_unlock_confirmed(const struct options *o, char **arguments);
enum status env_rotate(const struct options *o, char **arguments);
/* key.c */
enum status key_generate(const struct options *o, char **arguments);
enum status key_upload(const struct options *o, char **arguments);
enum status key_list(const struct options *o, char **arguments);
enum status key_show(const struct options *o, char **arguments);
enum status key_activate(const struct options *o, char **arguments);
enum status key_unlock(const struct options *o, char **arguments);
enum status kek_show(const struct options *o, char **arguments);
enum status tenant_lock(const struct options *o, char **arguments);
enum status clock_accept(const struct options *o, char **arguments);
/* history: deleted ones too. */
void key_print_list(const json_t *keys, const json_t *regions, bool history);
/* table.c. rows: arrays of as many texts each, the first the heads; taken. */
#define TABLE_COLUMNS 12
void table_print(json_t *rows);
/* Date and time, "-" for 0; a length of time in its two largest units. */
void when_text(long long at, char ret[32]);
void span_text(long long seconds, char ret[32]);
/* metrics.c: of the answer of Status. */
void metrics_print(const json_t *answer);
/* report.c */
enum status report_status(const struct options *o, char **arguments);
enum status report_scrub(const struct options *o, char **arguments);
enum status report_audit(const struct options *o, char **arguments);
void report_environments(const json_t *environments);
