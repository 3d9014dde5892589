/* envheader: see envheader.h. The only user of libconfig in the store. */
#include "store/envheader.h"

#include "base/io.h"
#include "store/crypto.h"
#include "store/dir.h"

#include <fcntl.h>
#include <libconfig.h>
#include <stdio.h>
#include <string.h>

#define HEADER_TEXT_MAX (1u << 20)
#define HEADER_RESERVE 32768u /* bytes */
#define MAC_PREFIX "mac = \""
#define MAC_LINE_LEN (sizeof(MAC_PREFIX) - 1 + 2 * MAC_SIZE + 3) /* mac = "hex";\n */

void envheader_done(struct envheader *h)
{
	free(h->unclean);
	h->unclean = NULL;
	h->unclean_count = 0;
}

static int header_mac(const struct env_key *ek, const char *text, size_t len, uint8_t ret[MAC_SIZE])
{
	struct mac_key *key = KEY_NEW(struct mac_key);
	int rc = key ? crypto_derive(ek->b, sizeof(ek->b), LABEL_HEADER_MAC, 0, key->b, sizeof(key->b)) : -ENOMEM;

	if (rc == 0)
		rc = crypto_mac(key, text, len, NULL, 0, ret);
	KEY_FREE(key);
	return rc;
}

/* ---- encoding ---- */

int envheader_encode(const struct envheader *h, const struct env_key *ek, char **ret_text, size_t *ret_len)
{
	char *text = NULL, hex[2 * sizeof(h->wraps[0].blob) + 1];
	size_t len = 0;
	uint8_t mac[MAC_SIZE];
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return -ENOMEM;
	hex_encode(h->uuid, sizeof(h->uuid), hex);
	fprintf(f, "# tdefs environment header. Changing anything here makes the environment unreadable.\n");
	fprintf(f, "format = %d;\nuuid = \"%s\";\n", ENVHEADER_VERSION, hex);
	fprintf(f, "content_cipher = \"AES-256-XTS+AES-256-GMAC\";\nnames_cipher = \"AES-256-SIV\";\n");
	fprintf(f, "sequence = %lluL;\nepoch = %lluL;\nclean = %s;\nunclean = [", (unsigned long long)h->sequence,
		(unsigned long long)h->epoch, h->clean ? "true" : "false");
	for (size_t i = 0; i < h->unclean_count; i++)
		fprintf(f, "%s%lluL", i ? ", " : "", (unsigned long long)h->unclean[i]);
	hex_encode(h->names_wrapped, sizeof(h->names_wrapped), hex);
	fprintf(f, "];\nkey_version = %u;\nnames_key = \"%s\";\n", h->ek_version, hex);
	if (h->previous_version) {
		hex_encode(h->previous_wrapped, sizeof(h->previous_wrapped), hex);
		fprintf(f, "previous_version = %u;\nprevious_key = \"%s\";\n", h->previous_version, hex);
	}
	fprintf(f, "data_version = %u;\ndata_rotating = %s;\npaused = %s;\n", h->data_version, h->data_rotating ? "true" : "false",
		h->paused ? "true" : "false");
	fprintf(f, "wraps = (");
	for (size_t i = 0; i < h->wrap_count; i++) {
		const struct env_wrap *w = &h->wraps[i];

		hex_encode(w->blob, w->blob_len, hex);
		fprintf(f,
			"%s\n  { source = \"%s\"; fingerprint = \"%s\"; key_name = \"%s\"; algorithm = \"%s\"; "
			"key_version = %u;\n    blob = \"%s\"; }",
			i ? "," : "", w->source, w->fingerprint, w->key_name, w->algorithm, w->ek_version, hex);
	}
	fprintf(f, "\n);\n");
	int rc = fflush(f) == 0 ? header_mac(ek, text, len, mac) : -ENOMEM;
	hex_encode(mac, sizeof(mac), hex);
	fprintf(f, MAC_PREFIX "%s\";\n", hex);
	if (fclose(f) != 0 && rc == 0)
		rc = -ENOMEM;
	if (rc < 0) {
		free(text);
		return rc;
	}
	*ret_text = text;
	*ret_len = len;
	return 0;
}

/* ---- decoding ---- */

static int decode_string(const config_setting_t *s, const char *name, char *ret, size_t size)
{
	const char *text;

	if (!config_setting_lookup_string(s, name, &text) || strlen(text) >= size)
		return -EUCLEAN;
	strcpy(ret, text);
	return 0;
}

static int decode_u64(const config_setting_t *s, const char *name, uint64_t max, uint64_t *ret)
{
	long long v;

	if (!config_setting_lookup_int64(s, name, &v) || v < 0 || (uint64_t)v > max)
		return -EUCLEAN;
	*ret = (uint64_t)v;
	return 0;
}

static int decode_wrap(const config_setting_t *s, struct env_wrap *w)
{
	const char *blob;
	uint64_t version;

	if (!s || !config_setting_is_group(s) || decode_string(s, "source", w->source, sizeof(w->source)) < 0 ||
		decode_string(s, "fingerprint", w->fingerprint, sizeof(w->fingerprint)) < 0 ||
		decode_string(s, "key_name", w->key_name, sizeof(w->key_name)) < 0 ||
		decode_string(s, "algorithm", w->algorithm, sizeof(w->algorithm)) < 0 ||
		decode_u64(s, "key_version", UINT32_MAX, &version) < 0 ||
		!config_setting_lookup_string(s, "blob", &blob))
		return -EUCLEAN;
	w->ek_version = (uint32_t)version;
	w->blob_len = strlen(blob) / 2;
	if (w->blob_len == 0 || w->blob_len > sizeof(w->blob))
		return -EUCLEAN;
	return hex_decode(blob, w->blob, w->blob_len);
}

static int decode_unclean(const config_setting_t *s, struct envheader *h)
{
	int n = s && config_setting_is_array(s) ? config_setting_length(s) : -1;

	if (n < 0 || (unsigned)n > ENV_UNCLEAN_MAX)
		return -EUCLEAN;
	h->unclean = calloc((size_t)n + 1, sizeof(*h->unclean));
	if (!h->unclean)
		return -ENOMEM;
	for (int i = 0; i < n; i++) {
		long long epoch = config_setting_get_int64_elem(s, i);

		if (epoch <= 0 || (i && (uint64_t)epoch <= h->unclean[i - 1]))
			return -EUCLEAN;
		h->unclean[h->unclean_count++] = (uint64_t)epoch;
	}
	return 0;
}

static int decode_rotation(const config_setting_t *root, struct envheader *h)
{
	int rotating, paused;
	uint64_t version;

	if (decode_u64(root, "data_version", UINT32_MAX, &version) < 0 || !config_setting_lookup_bool(root, "data_rotating", &rotating) ||
		!config_setting_lookup_bool(root, "paused", &paused) || (rotating && version == 0))
		return -EUCLEAN;
	h->data_version = (uint32_t)version;
	h->data_rotating = rotating;
	h->paused = paused;
	return 0;
}

static int decode_settings(const config_setting_t *root, struct envheader *h)
{
	char uuid[33], names[2 * NAMES_WRAPPED_SIZE + 1], cipher[40];
	uint64_t format, version;
	int clean, rc;

	if (decode_u64(root, "format", INT32_MAX, &format) < 0 || format == 0)
		return -EUCLEAN;
	if (format > ENVHEADER_VERSION)
		return -ENOTSUP;
	if (decode_string(root, "content_cipher", cipher, sizeof(cipher)) < 0)
		return -EUCLEAN;
	if (strcmp(cipher, "AES-256-XTS+AES-256-GMAC") != 0)
		return -ENOTSUP;
	if (decode_string(root, "names_cipher", cipher, sizeof(cipher)) < 0)
		return -EUCLEAN;
	if (strcmp(cipher, "AES-256-SIV") != 0)
		return -ENOTSUP;
	if (decode_string(root, "uuid", uuid, sizeof(uuid)) < 0 || hex_decode(uuid, h->uuid, sizeof(h->uuid)) < 0 ||
		decode_u64(root, "sequence", INT64_MAX, &h->sequence) < 0 ||
		decode_u64(root, "epoch", INT64_MAX - 1, &h->epoch) < 0 ||
		!config_setting_lookup_bool(root, "clean", &clean) ||
		decode_u64(root, "key_version", UINT32_MAX, &version) < 0 || version == 0 ||
		decode_string(root, "names_key", names, sizeof(names)) < 0 ||
		hex_decode(names, h->names_wrapped, sizeof(h->names_wrapped)) < 0)
		return -EUCLEAN;
	h->clean = clean;
	h->ek_version = (uint32_t)version;
	if (config_setting_lookup((config_setting_t *)(uintptr_t)root, "previous_version")) {
		char previous[2 * PREVIOUS_WRAPPED_SIZE + 1];

		if (decode_u64(root, "previous_version", UINT32_MAX, &version) < 0 || version + 1 != h->ek_version ||
			decode_string(root, "previous_key", previous, sizeof(previous)) < 0 ||
			hex_decode(previous, h->previous_wrapped, sizeof(h->previous_wrapped)) < 0)
			return -EUCLEAN;
		h->previous_version = (uint32_t)version;
	}
	rc = format >= 2 ? decode_rotation(root, h) : 0;
	if (rc < 0)
		return rc;
	rc = decode_unclean(config_setting_lookup((config_setting_t *)(uintptr_t)root, "unclean"), h);
	if (rc < 0)
		return rc;
	const config_setting_t *wraps = config_setting_lookup((config_setting_t *)(uintptr_t)root, "wraps");
	int n = wraps && config_setting_is_list(wraps) ? config_setting_length(wraps) : 0;
	if (n < 1 || (unsigned)n > ENV_WRAPS_MAX)
		return -EUCLEAN;
	for (int i = 0; i < n; i++) {
		rc = decode_wrap(config_setting_get_elem(wraps, (unsigned)i), &h->wraps[i]);
		if (rc < 0)
			return rc;
	}
	h->wrap_count = (size_t)n;
	return 0;
}

/* Order of doubt: shape of the last line, then the text's meaning (a newer version is named before its MAC is doubted),
 * then whether the key is this environment's (names key unwraps), then the MAC. */
int envheader_decode(const char *text, size_t len, const struct env_key *ek, struct envheader *ret)
{
	CLEANUP_FREE char *copy = NULL;
	struct envheader h = {0};
	uint8_t stored[MAC_SIZE], mac[MAC_SIZE], kek[32], names[64];
	config_t config;
	int rc;

	if (len <= MAC_LINE_LEN || len > HEADER_TEXT_MAX || memchr(text, '\0', len))
		return -EUCLEAN;
	copy = malloc(len + 1);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, text, len);
	copy[len] = '\0';
	char *line = copy + len - MAC_LINE_LEN;
	if (line[-1] != '\n' || strncmp(line, MAC_PREFIX, sizeof(MAC_PREFIX) - 1) != 0 ||
		strcmp(copy + len - 3, "\";\n") != 0)
		return -EUCLEAN;
	copy[len - 3] = '\0';
	if (hex_decode(line + sizeof(MAC_PREFIX) - 1, stored, sizeof(stored)) < 0)
		return -EUCLEAN;
	*line = '\0';
	if (strstr(copy, "@include"))
		return -EUCLEAN;

	config_init(&config);
	rc = config_read_string(&config, copy) == CONFIG_TRUE ? decode_settings(config_root_setting(&config), &h) : -EUCLEAN;
	config_destroy(&config);
	if (rc == 0 && ek) {
		rc = crypto_derive(ek->b, sizeof(ek->b), LABEL_NAMES_WRAP, 0, kek, sizeof(kek));
		if (rc == 0)
			rc = header_mac(ek, copy, strlen(copy), mac);
		if (rc == 0 && !crypto_equal(mac, stored, sizeof(mac)))
			rc = crypto_unwrap(kek, h.names_wrapped, sizeof(h.names_wrapped), names) < 0 ? -EKEYREJECTED : -EBADMSG;
		secret_wipe(kek, sizeof(kek));
		secret_wipe(names, sizeof(names));
	}
	if (rc < 0) {
		envheader_done(&h);
		return rc;
	}
	*ret = h;
	return 0;
}

/* ---- on disk ---- */

int envheader_read(int store_fd, const struct env_key *ek, struct envheader *ret)
{
	CLEANUP_CLOSE int fd = io_openat(store_fd, ENVHEADER_NAME, O_RDONLY | O_NOFOLLOW, 0);
	CLEANUP_FREE char *text = NULL;
	uint64_t len;
	struct stat st;
	int rc;

	if (fd < 0)
		return fd;
	rc = io_fstatat(fd, "", &st, AT_EMPTY_PATH);
	if (rc < 0)
		return rc;
	if (!S_ISREG(st.st_mode) || st.st_size == 0 || st.st_size > (off_t)HEADER_TEXT_MAX)
		return -EUCLEAN;
	text = malloc((size_t)st.st_size);
	if (!text)
		return -ENOMEM;
	rc = io_pread_full(fd, text, (size_t)st.st_size, 0, &len);
	return rc < 0 ? rc : envheader_decode(text, len, ek, ret);
}

int envheader_read_path(const char *path, struct envheader *ret)
{
	CLEANUP_CLOSE int fd = io_openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);

	return fd < 0 ? fd : envheader_read(fd, NULL, ret);
}

/* Room for the next header, so that a full disk can be mounted and left clean. Where it cannot be had now, the next will need some. */
static void header_reserve(int store_fd)
{
	CLEANUP_CLOSE int fd = io_openat(store_fd, ENVHEADER_NAME ".new", O_WRONLY | O_CREAT | O_NOFOLLOW, 0600);

	if (fd >= 0)
		(void)!io_fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, HEADER_RESERVE);
}

int envheader_write(int store_fd, const struct env_key *ek, struct envheader *h, bool *ret_replaced)
{
	CLEANUP_FREE char *text = NULL;
	size_t len = 0;

	if (ret_replaced)
		*ret_replaced = false;
	h->sequence++;
	int rc = envheader_encode(h, ek, &text, &len);
	if (rc < 0)
		return rc;
	struct stat st;
	CLEANUP_CLOSE int fd = io_openat(store_fd, ENVHEADER_NAME ".new", O_WRONLY | O_CREAT | O_NOFOLLOW, 0600);
	rc = fd < 0 ? fd : io_fstatat(fd, "", &st, AT_EMPTY_PATH);
	if (rc < 0)
		return rc;
	/* Something in it: what a cut left. */
	if (st.st_size > 0)
		rc = io_ftruncate(fd, 0);
	if (rc == 0)
		rc = io_pwrite_full(fd, text, len, 0);
	if (rc == 0)
		rc = io_fsync(fd);
	if (rc == 0)
		rc = io_renameat2(store_fd, ENVHEADER_NAME ".new", store_fd, ENVHEADER_NAME, 0);
	if (rc < 0)
		return rc;
	if (ret_replaced)
		*ret_replaced = true;
	rc = io_fsync(store_fd);
	header_reserve(store_fd);
	return rc;
}

static int create_names_key(const struct env_key *ek, struct envheader *h, struct names_key *names)
{
	uint8_t kek[32];
	int rc = secret_random(names->b, sizeof(names->b));

	if (rc == 0)
		rc = crypto_derive(ek->b, sizeof(ek->b), LABEL_NAMES_WRAP, 0, kek, sizeof(kek));
	if (rc == 0)
		rc = crypto_wrap(kek, names->b, sizeof(names->b), h->names_wrapped);
	secret_wipe(kek, sizeof(kek));
	return rc;
}

static int create_in(int fd, const struct env_key *ek, const struct env_wrap *wraps, size_t n)
{
	struct envheader h = {.clean = true, .ek_version = 1, .wrap_count = n};
	struct names_key *names = KEY_NEW(struct names_key);
	struct mac_key *dir_mac = KEY_NEW(struct mac_key);
	int rc = names && dir_mac ? secret_random(h.uuid, sizeof(h.uuid)) : -ENOMEM;

	memcpy(h.wraps, wraps, n * sizeof(*wraps));
	if (rc == 0)
		rc = create_names_key(ek, &h, names);
	if (rc == 0)
		rc = crypto_derive(names->b, sizeof(names->b), LABEL_DIR_MAC, 0, dir_mac->b, sizeof(dir_mac->b));
	if (rc == 0)
		rc = io_mkdirat(fd, "tmp", 0700);
	if (rc == 0)
		rc = io_mkdirat(fd, "root", 0755);
	if (rc == 0) {
		CLEANUP_CLOSE int lock = io_openat(fd, "lock", O_RDWR | O_CREAT, 0600);
		CLEANUP_CLOSE int root = io_openat(fd, "root", O_RDONLY | O_DIRECTORY, 0);

		rc = lock < 0 ? lock : root < 0 ? root : io_chmod(root, 0755);
		if (rc == 0)
			rc = dir_id_create(dir_mac, root);
		if (rc == 0)
			rc = io_fsync(root);
	}
	KEY_FREE(names);
	KEY_FREE(dir_mac);
	/* The header comes last: a directory without one is not a store. */
	return rc < 0 ? rc : envheader_write(fd, ek, &h, NULL);
}

int envheader_create(const char *path, const struct env_key *ek, const struct env_wrap *wraps, size_t n)
{
	static const char *const parts[] = {ENVHEADER_NAME, (ENVHEADER_NAME ".new"), "lock", ("root/" DIR_ID_NAME)};
	bool begun = false;

	if (n < 1 || n > ENV_WRAPS_MAX)
		return -EINVAL;
	int made = io_mkdirat(AT_FDCWD, path, 0700);
	if (made < 0 && made != -EEXIST)
		return made;
	CLEANUP_CLOSE int fd = io_openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
	int rc = fd < 0 ? fd : dir_is_empty(fd, NULL);
	if (rc == 0) {
		begun = true;
		rc = create_in(fd, ek, wraps, n);
	}
	if (rc == 0) {
		/* The store's own name is in its parent. */
		CLEANUP_CLOSE int parent = io_openat(fd, "..", O_RDONLY | O_DIRECTORY, 0);

		rc = parent < 0 ? parent : io_fsync(parent);
	}
	if (rc < 0 && begun) {
		for (size_t i = 0; i < ARRAY_LEN(parts); i++)
			(void)!io_unlinkat(fd, parts[i], 0);
		(void)!io_unlinkat(fd, "root", AT_REMOVEDIR);
		(void)!io_unlinkat(fd, "tmp", AT_REMOVEDIR);
	}
	if (rc < 0 && made == 0)
		(void)!io_unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
	return rc;
}

static int wrap_under(const struct env_key *ek, enum crypto_label label, const void *key, size_t len, uint8_t *ret)
{
	uint8_t kek[32];
	int rc = crypto_derive(ek->b, sizeof(ek->b), label, 0, kek, sizeof(kek));

	if (rc == 0)
		rc = crypto_wrap(kek, key, len, ret);
	secret_wipe(kek, sizeof(kek));
	return rc;
}

int envheader_rotate(struct envheader *h, const struct env_key *ek, const struct env_key *next, const struct env_wrap *wraps, size_t n)
{
	struct names_key *names = KEY_NEW(struct names_key);
	uint8_t kek[32];
	int rc = names ? crypto_derive(ek->b, sizeof(ek->b), LABEL_NAMES_WRAP, 0, kek, sizeof(kek)) : -ENOMEM;

	if (rc == 0 && (n < 1 || n > ENV_WRAPS_MAX || h->previous_version || h->ek_version == UINT32_MAX))
		rc = -EINVAL;
	if (rc == 0)
		rc = crypto_unwrap(kek, h->names_wrapped, sizeof(h->names_wrapped), names->b);
	if (rc == 0)
		rc = wrap_under(next, LABEL_NAMES_WRAP, names->b, sizeof(names->b), h->names_wrapped);
	if (rc == 0)
		rc = wrap_under(next, LABEL_PREVIOUS, ek->b, sizeof(ek->b), h->previous_wrapped);
	secret_wipe(kek, sizeof(kek));
	KEY_FREE(names);
	if (rc < 0)
		return rc;
	h->previous_version = h->ek_version++;
	memcpy(h->wraps, wraps, n * sizeof(*wraps));
	h->wrap_count = n;
	for (size_t k = 0; k < n; k++)
		h->wraps[k].ek_version = h->ek_version;
	return 0;
}

int envheader_rewrap(const char *path, const struct env_key *ek, const struct env_wrap *wraps, size_t n)
{
	CLEANUP_CLOSE int fd = io_openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
	struct envheader h = {0};

	if (fd < 0)
		return fd;
	if (n < 1 || n > ENV_WRAPS_MAX)
		return -EINVAL;
	CLEANUP_CLOSE int lock = io_openat(fd, "lock", O_RDWR, 0);
	int rc = lock < 0 ? lock : io_lock(lock);
	if (rc < 0)
		return rc == -EAGAIN ? -EBUSY : rc;
	rc = envheader_read(fd, ek, &h);
	if (rc < 0)
		return rc;
	memcpy(h.wraps, wraps, n * sizeof(*wraps));
	h.wrap_count = n;
	for (size_t k = 0; k < n; k++)
		h.wraps[k].ek_version = h.ek_version;
	rc = envheader_write(fd, ek, &h, NULL);
	envheader_done(&h);
	return rc;
}
