/* key: the commands on the tenant's keys. */
#include "keyctl/keyctl.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* ---- calls with a key file ---- */

/* A key file and its password, read once. */
struct key_file {
	int fds[2]; /* the password's is -1 where it needs none */
};

static void key_file_done(struct key_file *f)
{
	util_closep(&f->fds[0]);
	util_closep(&f->fds[1]);
}

static enum status key_file_open(const struct options *o, const char *path, struct key_file *ret)
{
	enum status status = secret_file(path, &ret->fds[0]);

	return status == STATUS_DONE ? secret_password(o, path, false, &ret->fds[1]) : status;
}

/* Method's parameters get the key file and its password. */
static enum status call_with_key(const struct options *o, const char *method, json_t *parameters, const struct key_file *f,
	void (*progress)(const json_t *parameters), json_t **ret)
{
	json_object_set_new(parameters, "key", json_integer(0));
	if (f->fds[1] >= 0)
		json_object_set_new(parameters, "password", json_integer(1));
	return client_call_with(o, &(struct client_call){.method = method, .parameters = parameters, .fds = f->fds,
					   .fd_count = f->fds[1] >= 0 ? 2 : 1, .progress = progress}, ret);
}

/* A bar at a terminal, nothing elsewhere. */
static void show_progress(const json_t *p)
{
	long long done = number_of(p, "done"), total = number_of(p, "total");
	int filled = total ? (int)(done * 30 / total) : 0;

	if (!isatty(STDERR_FILENO))
		return;
	fprintf(stderr, "\r[%.*s%*s] %lld of %lld environments", filled, "##############################", 30 - filled, "", done, total);
	if (done == total)
		fputc('\n', stderr);
}

static void print_key(const struct options *o, const json_t *key, const char *done)
{
	if (o->json)
		client_print_json(key);
	else
		printf("%s %s: it is %s in region %s, fingerprint %.16s\n", text_of(key, "name"), done, text_of(key, "state"),
			text_of(key, "region"), text_of(key, "fingerprint"));
}

static enum status upload_call(const struct options *o, const char *name, const char *path, const char *done)
{
	CLEANUP(key_file_done) struct key_file f = {{-1, -1}};
	json_t *answer = NULL;
	enum status status = key_file_open(o, path, &f);

	if (status == STATUS_DONE)
		status = call_with_key(o, "KeyUpload", json_pack("{ss ss*}", "name", name, "region", o->region), &f, NULL, &answer);
	if (status == STATUS_DONE)
		print_key(o, json_object_get(answer, "key"), done);
	json_decref(answer);
	return status;
}

enum status key_upload(const struct options *o, char **arguments)
{
	return upload_call(o, arguments[0], arguments[1], "is uploaded");
}

static enum status save_pfx(int from, const char *path)
{
	CLEANUP(secret_done) struct secret pfx = {0};
	int rc = from < 0 ? -EPROTO : wire_read_memfd(from, 64u << 10, &pfx);

	if (rc < 0)
		return client_error(STATUS_FAILED, "tdefsd's answer holds no key file: %s", strerror(-rc));
	CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return client_error(STATUS_FAILED, "%s: %s%s", path, strerror(errno), errno == EEXIST ? ": it is not overwritten" : "");
	if (write(fd, pfx.b, pfx.len) == (ssize_t)pfx.len && fsync(fd) == 0)
		return STATUS_DONE;
	rc = errno;
	unlink(path);
	return client_error(STATUS_FAILED, "%s: %s", path, strerror(rc));
}

/* Made, saved, then uploaded: no key gets active whose file could not be written. */
enum status key_generate(const struct options *o, char **arguments)
{
	CLEANUP_CLOSE int password_fd = -1;
	CLEANUP_CLOSE int pfx_fd = -1;
	json_t *answer;

	if (!o->out)
		return client_error(STATUS_USAGE, "key generate takes --out FILE.pfx, where the key is saved");
	if (access(o->out, F_OK) == 0)
		return client_error(STATUS_FAILED, "%s is there already: it is not overwritten", o->out);
	enum status status = secret_password(o, NULL, true, &password_fd);
	if (status != STATUS_DONE)
		return status;
	status = client_call_with(o, &(struct client_call){.method = "KeyGenerate",
					     .parameters = json_pack("{ss ss* si}", "name", arguments[0], "region", o->region, "password", 0),
					     .fds = &password_fd, .fd_count = 1, .ret_fd = &pfx_fd}, &answer);
	json_decref(answer);
	if (status == STATUS_DONE)
		status = save_pfx(pfx_fd, o->out);
	if (status != STATUS_DONE)
		return status;
	/* The password once more, from where it was first given. */
	CLEANUP_CLOSE int key_fd = -1;
	status = secret_file(o->out, &key_fd);
	if (status == STATUS_DONE) {
		const int fds[] = {key_fd, password_fd};

		status = client_call_with(o, &(struct client_call){.method = "KeyUpload",
						     .parameters = json_pack("{ss ss* si si}", "name", arguments[0], "region", o->region, "key",
							     0, "password", 1),
						     .fds = fds, .fd_count = 2}, &answer);
	}
	/* Where the conversation broke off, the key may be there: then its file must be, too. */
	if (status == STATUS_NO_DAEMON)
		fprintf(stderr, "keyctl: %s is kept: keyctl key upload %s %s if keyctl key list does not show it\n", o->out, arguments[0], o->out);
	else if (status != STATUS_DONE)
		unlink(o->out);
	if (status != STATUS_DONE)
		return status;
	print_key(o, json_object_get(answer, "key"), "is generated");
	if (!o->json)
		printf("Its file is %s. Keep it and its password in a safe place: without both, what this key locks is lost.\n", o->out);
	json_decref(answer);
	return status;
}

enum status key_activate(const struct options *o, char **arguments)
{
	json_t *answer;
	enum status status = client_confirm(o, "The region's environments move to this key.");

	if (status != STATUS_DONE)
		return status;
	status = client_call_with(o, &(struct client_call){.method = "KeyActivate", .parameters = json_pack("{ss sb}", "name", arguments[0], "confirmed", 1),
					     .progress = show_progress}, &answer);
	if (status == STATUS_DONE)
		print_key(o, json_object_get(answer, "key"), "is activated");
	json_decref(answer);
	return status;
}

enum status key_unlock(const struct options *o, char **arguments)
{
	CLEANUP(key_file_done) struct key_file f = {{-1, -1}};
	json_t *answer = NULL;
	enum status status = key_file_open(o, arguments[1], &f);

	if (status == STATUS_DONE)
		status = call_with_key(o, "KeyUnlock", json_pack("{ss}", "name", arguments[0]), &f, show_progress, &answer);
	if (status == STATUS_DONE)
		print_key(o, json_object_get(answer, "key"), "is unlocked");
	if (status == STATUS_DONE && !o->json)
		printf("Each environment is unlocked on its own: keyctl env unlock NAME\n");
	json_decref(answer);
	return status;
}

enum status tenant_lock(const struct options *o, char **arguments)
{
	char typed[160] = "";
	const char *confirm = o->confirm;
	CLEANUP(key_file_done) struct key_file f = {{-1, -1}};
	json_t *answer;

	(void)arguments;
	if (!o->key)
		return client_error(STATUS_USAGE, "tenant lock takes --key FILE, the file of the region's active key");
	enum status status = key_file_open(o, o->key, &f);
	if (status != STATUS_DONE)
		return status;
	if (!confirm) {
		status = call_with_key(o, "TenantLock", json_pack("{ss*}", "region", o->region), &f, NULL, &answer);
		if (status == STATUS_DONE && o->json)
			client_print_json(answer);
		else if (status == STATUS_DONE && !isatty(STDIN_FILENO))
			printf("%s\n", text_of(answer, "confirm"));
		if (status == STATUS_DONE && (o->json || !isatty(STDIN_FILENO)))
			fprintf(stderr, "keyctl: nothing is locked yet: give that text with --confirm within a few minutes (rule L2)\n");
		else if (status == STATUS_DONE) {
			printf("This takes every environment of the region offline, for everyone, and deletes its other keys.\n"
			       "To go on, type: %s\n", text_of(answer, "confirm"));
			status = client_type("> ", typed, sizeof(typed));
		}
		json_decref(answer);
		if (status != STATUS_DONE || !typed[0])
			return status;
		confirm = typed;
	}
	status = call_with_key(o, "TenantLock", json_pack("{ss* ss}", "region", o->region, "confirm", confirm), &f, show_progress, &answer);
	if (status == STATUS_DONE && !o->json)
		printf("Region %s is locked. Only this key file unlocks it: keyctl key unlock\n", o->region ? o->region : "default");
	json_decref(answer);
	return status;
}

/* ---- what there is ---- */

static void print_region(const json_t *region)
{
	static const struct {
		const char *key, *what;
	} guards[] = {{"activation_from", "the next activation"}, {"lock_from", "a lock"}, {"unlock_from", "unlocking its key"}};
	time_t now = time(NULL);

	for (size_t g = 0; g < ARRAY_LEN(guards); g++) {
		long long from = number_of(region, guards[g].key);
		char when[32], span[32];

		when_text(from, when);
		span_text(MAX(from - now, 0), span);
		if (from)
			printf("Region %s: %s is possible from %s on, in %s\n", text_of(region, "name"), guards[g].what, when, span);
	}
}

void key_print_list(const json_t *keys, const json_t *regions, bool history)
{
	json_t *key, *region, *rows = json_pack("[[sssssss]]", "KEY", "REGION", "STATE", "KIND", "FINGERPRINT", "ACTIVATED", "ENVIRONMENTS");
	char kind[24], when[32], count[24];
	size_t k;

	json_array_foreach((json_t *)keys, k, key)
	{
		if (!history && strcmp(text_of(key, "state"), "Deleted") == 0)
			continue;
		snprintf(kind, sizeof(kind), "%s-%lld", text_of(key, "algorithm"), number_of(key, "bits"));
		when_text(number_of(key, "activated"), when);
		snprintf(count, sizeof(count), "%zu", json_array_size(json_object_get(key, "environments")));
		json_array_append_new(rows, json_pack("[sssss%ss]", text_of(key, "name"), text_of(key, "region"), text_of(key, "state"), kind,
						  text_of(key, "fingerprint"), (size_t)MIN(strlen(text_of(key, "fingerprint")), 16u), when, count));
	}
	table_print(rows);
	json_array_foreach((json_t *)regions, k, region) print_region(region);
}

enum status key_list(const struct options *o, char **arguments)
{
	json_t *answer;
	enum status status = client_call(o, "KeyList", json_object(), &answer);

	(void)arguments;
	if (status == STATUS_DONE && o->json)
		client_print_json(answer);
	else if (status == STATUS_DONE && json_array_size(json_object_get(answer, "keys")) == 0)
		printf("No keys yet: keyctl key generate NAME --out FILE.pfx makes one\n");
	else if (status == STATUS_DONE)
		key_print_list(json_object_get(answer, "keys"), json_object_get(answer, "regions"), true);
	json_decref(answer);
	return status;
}

enum status key_show(const struct options *o, char **arguments)
{
	static const char *const texts[][2] = {{"Name", "name"}, {"Region", "region"}, {"State", "state"}, {"Origin", "origin"},
		{"Fingerprint", "fingerprint"}};
	static const char *const times[][3] = {{"Came", "created", "created_uid"}, {"Activated", "activated", "activated_uid"},
		{"Locked", "locked", "locked_uid"}};
	json_t *answer, *name;
	size_t k;
	enum status status = client_call(o, "KeyShow", json_pack("{ss}", "name", arguments[0]), &answer);
	const json_t *key = json_object_get(answer, "key");
	char when[32];

	if (status == STATUS_DONE && o->json) {
		client_print_json(key);
	} else if (status == STATUS_DONE) {
		for (k = 0; k < ARRAY_LEN(texts); k++)
			printf("%-14s %s\n", texts[k][0], text_of(key, texts[k][1]));
		printf("%-14s %s of %lld bits\n", "Algorithm", text_of(key, "algorithm"), number_of(key, "bits"));
		for (k = 0; k < ARRAY_LEN(times); k++) {
			when_text(number_of(key, times[k][1]), when);
			if (number_of(key, times[k][1]))
				printf("%-14s %s by uid %lld\n", times[k][0], when, number_of(key, times[k][2]));
			else
				printf("%-14s never\n", times[k][0]);
		}
		when_text(number_of(key, "deleted"), when);
		if (number_of(key, "deleted"))
			printf("%-14s %s\n", "Deleted", when);
		printf("%-14s", "Needed by");
		json_array_foreach(json_object_get(key, "environments"), k, name) printf(" %s", json_string_value(name));
		printf("%s\n", json_array_size(json_object_get(key, "environments")) ? "" : " no environment");
	}
	json_decref(answer);
	return status;
}

/* SubjectPublicKeyInfo as PEM (RFC 7468). */
static void print_pem(FILE *f, const char *hex)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	uint8_t der[1024];
	size_t len = strlen(hex) / 2;

	if (len > sizeof(der) || hex_decode(hex, der, len) < 0)
		len = 0;
	fputs("-----BEGIN PUBLIC KEY-----\n", f);
	for (size_t k = 0; k < len; k += 3) {
		uint32_t v = (uint32_t)der[k] << 16 | (k + 1 < len ? (uint32_t)der[k + 1] << 8 : 0) | (k + 2 < len ? der[k + 2] : 0);

		fprintf(f, "%c%c%c%c", digits[v >> 18], digits[v >> 12 & 63], k + 1 < len ? digits[v >> 6 & 63] : '=',
			k + 2 < len ? digits[v & 63] : '=');
		if (k / 3 % 16 == 15 || k + 3 >= len)
			fputc('\n', f);
	}
	fputs("-----END PUBLIC KEY-----\n", f);
}

enum status clock_accept(const struct options *o, char **arguments)
{
	json_t *answer = NULL;

	(void)arguments;
	if (!o->reason)
		return client_error(STATUS_USAGE, "clock accept takes --reason WHY, for the audit log");
	enum status status = client_confirm(o, "Guard times will count by the clock as it is now. Is it right?");
	if (status == STATUS_DONE)
		status = client_call(o, "ClockAccept", json_pack("{ss sb}", "reason", o->reason, "confirmed", 1), &answer);
	if (status == STATUS_DONE)
		printf("the clock is accepted: guard times go by it again\n");
	json_decref(answer);
	return status;
}

enum status kek_show(const struct options *o, char **arguments)
{
	json_t *answer;
	enum status status = client_call(o, "KekShow", json_object(), &answer);

	(void)arguments;
	if (status == STATUS_DONE && o->json) {
		client_print_json(answer);
	} else if (status == STATUS_DONE) {
		FILE *f = o->out ? fopen(o->out, "wxe") : stdout; /* x: not over a key file, by mistake */

		if (f)
			print_pem(f, text_of(answer, "public"));
		if (!f || (o->out && fclose(f) != 0))
			status = client_error(STATUS_FAILED, "%s: %s%s", o->out, strerror(errno), errno == EEXIST ? ": it is not overwritten" : "");
		else
			fprintf(o->out ? stdout : stderr, "kid %s\n", text_of(answer, "kid"));
	}
	json_decref(answer);
	return status;
}
