/* fuzz: libFuzzer targets for everything that is decoded from a disk, a socket or a person's file. One program a target (fuzz_NAME, by
 * FUZZ_TARGET), built by clang with SANITIZE=fuzzer; `fuzz_NAME --seeds DIR` writes what to begin with. tests/unit/fuzz_test.c
 * checks with every compiler that nothing changed is taken for valid; here coverage leads, and the sanitizers judge. */
#include "base/io.h"
#include "control/config.h"
#include "control/wire.h"
#include "mount/link.h"
#include "store/envheader.h"
#include "store/filehead.h"
#include "vault/byok.h"
#include "vault/pfx.h"

#include <fcntl.h>
#include <openssl/pkcs12.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const char *seeds; /* the folder to write seeds to; NULL: fuzz */

static void seed(const char *name, const void *data, size_t len)
{
	CLEANUP_FREE char *path = str_format("%s/%s", seeds, name);
	FILE *f = path ? fopen(path, "we") : NULL;

	if (!f || fwrite(data, 1, len, f) != len || fclose(f) != 0)
		abort();
}

/* ---- a PFX: as it is, and with its MAC made right, so that what is inside is looked at ---- */

#define PASSWORD "pw"

static UNUSED void pfx_seeds(void)
{
	static const int algorithms[] = {NID_aes_256_cbc, NID_pbe_WithSHA1And3_Key_TripleDES_CBC};
	CLEANUP(rsa_key_freep) struct rsa_key *k = NULL;

	if (rsa_generate(2048, &k) < 0)
		abort();
	for (size_t n = 0; n < ARRAY_LEN(algorithms); n++) {
		PKCS12 *p12 = PKCS12_create(PASSWORD, "seed", rsa_pkey(k), NULL, NULL, algorithms[n], algorithms[n], 1, 1, 0);
		unsigned char *der = NULL;
		char name[8];

		snprintf(name, sizeof(name), "%zu", n);
		int len = i2d_PKCS12(p12, &der);
		seed(name, der, (size_t)len);
		OPENSSL_free(der);
		PKCS12_free(p12);
	}
}

static void pfx_try(const uint8_t *data, size_t len)
{
	CLEANUP(rsa_key_freep) struct rsa_key *k = NULL;
	CLEANUP(secret_done) struct secret password = {0};
	const char *why = NULL;

	if (secret_dup(PASSWORD, sizeof(PASSWORD) - 1, &password) < 0)
		return;
	int rc = pfx_read(data, len, &password, &k, &why);
	if ((rc == 0) != (k != NULL) || (rc < 0 && !why))
		abort();
}

static UNUSED void pfx_one(const uint8_t *data, size_t len)
{
	const unsigned char *p = data;
	unsigned char *der = NULL;

	pfx_try(data, len);
	PKCS12 *p12 = d2i_PKCS12(NULL, &p, (long)len);
	if (p12 && PKCS12_set_mac(p12, PASSWORD, -1, NULL, 0, 1, NULL)) {
		int der_len = i2d_PKCS12(p12, &der);

		if (der_len > 0)
			pfx_try(der, (size_t)der_len);
		OPENSSL_free(der);
	}
	PKCS12_free(p12);
}

/* ---- a key-transfer blob, and the PKCS#8 that comes out of one ---- */

static UNUSED void byok_seeds(void)
{
	static const char text[] = "{\"schema_version\":\"1.0.0\",\"header\":{\"kid\":\"k\",\"alg\":\"dir\",\"enc\":\"CKM_RSA_AES_KEY_WRAP\"},"
				   "\"ciphertext\":\"AAAA\",\"generator\":\"x\"}";
	CLEANUP(rsa_key_freep) struct rsa_key *k = NULL;
	CLEANUP(secret_done) struct secret der = {0};

	if (rsa_generate(2048, &k) < 0 || rsa_to_pkcs8(k, &der) < 0)
		abort();
	seed("blob", text, sizeof(text) - 1);
	seed("key", der.b, der.len);
}

static UNUSED void byok_one(const uint8_t *data, size_t len)
{
	static struct rsa_key *kek;
	CLEANUP(rsa_key_freep) struct rsa_key *k = NULL;
	CLEANUP(rsa_key_freep) struct rsa_key *inside = NULL;
	char why[200];

	if (!kek && rsa_generate(2048, &kek) < 0)
		abort();
	if (byok_read(data, len, "k", kek, &k, why) == 0 || !why[0])
		abort(); /* nobody wraps to a key that was made just now */
	if ((rsa_from_pkcs8(data, len, &inside) == 0) != (inside != NULL))
		abort();
}

/* ---- messages to tdefsd: several on one connection, cut anywhere ---- */

static UNUSED void wire_seeds(void)
{
	static const char text[] = "{\"method\":\"io.tdefs.Keeper.EnvCreate\",\"parameters\":{\"name\":\"x\",\"list\":[1,{\"a\":null}],"
				   "\"text\":\"\\u00e9\"},\"more\":true}\0{\"method\":\"org.varlink.service.GetInfo\"}";

	seed("two", text, sizeof(text));
}

static UNUSED void wire_one(const uint8_t *data, size_t len)
{
	struct wire w = {.fd = -1};
	int fds[2];

	if (len > 65536 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return;
	if (send(fds[0], data, len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && len)
		len = 0;
	close(fds[0]);
	w.fd = fds[1];
	for (;;) {
		CLEANUP(json_decrefp) json_t *message = NULL;

		if (wire_receive(&w, 1000, &message) < 0)
			break;
		if (!json_is_object(message))
			abort();
	}
	wire_done(&w);
	close(fds[1]);
}

/* ---- the environment header ---- */

static const struct env_key env_key = {{1, 2, 3}};

static UNUSED void envheader_seeds(void)
{
	struct env_wrap wrap = {.source = "platform", .fingerprint = "00", .key_name = "platform", .algorithm = "AES-256-KWP", .ek_version = 1,
		.blob_len = 40};
	char dir[] = "/tmp/tdefs-fuzz.XXXXXX";
	struct envheader h;
	char *text = NULL;
	size_t len;

	if (!mkdtemp(dir))
		abort();
	CLEANUP_FREE char *store = str_format("%s/store", dir);
	CLEANUP_FREE char *remove = str_format("rm -rf %s", dir);
	if (envheader_create(store, &env_key, &wrap, 1) < 0 || envheader_read_path(store, &h) < 0 ||
		envheader_encode(&h, &env_key, &text, &len) < 0 || system(remove) != 0)
		abort();
	seed("header", text, len);
	free(text);
	envheader_done(&h);
}

static UNUSED void envheader_one(const uint8_t *data, size_t len)
{
	struct envheader h = {0}, again = {0};
	char *text = NULL;
	size_t text_len;

	/* What is taken without the key can be written, and is then the same with it. */
	if (envheader_decode((const char *)data, len, NULL, &h) == 0 && envheader_encode(&h, &env_key, &text, &text_len) == 0 &&
		(envheader_decode(text, text_len, &env_key, &again) < 0 || again.epoch != h.epoch || again.wrap_count != h.wrap_count))
		abort();
	free(text);
	envheader_done(&h);
	envheader_done(&again);
	again = (struct envheader){0};
	(void)!envheader_decode((const char *)data, len, &env_key, &again);
	envheader_done(&again);
}

/* ---- a file's header: its key sector and a state slot ---- */

static const struct wrap_key file_wrap = {{9}};

static UNUSED void filehead_seeds(void)
{
	struct fileslot slot = {.sequence = 3, .epoch = 2, .sealed = 5, .dense = true, .shift = REGION_SHIFT_MIN, .generation = 1};
	uint8_t sectors[2 * SECTOR_SIZE];
	struct filehead h = {0}, half = {0};

	if (filehead_new(&file_wrap, 1, 2, 3, &h) < 0 || filehead_encode(&h, sectors) < 0 || fileslot_encode(&h, &slot, sectors + SECTOR_SIZE) < 0)
		abort();
	seed("header", sectors, sizeof(sectors));
	if (filehead_renew(&h, &file_wrap, 1, 4, &half) < 0 || filehead_encode(&half, sectors) < 0)
		abort();
	seed("rotating", sectors, sizeof(sectors));
	filehead_done(&half);
	filehead_done(&h);
}

static UNUSED void filehead_one(const uint8_t *data, size_t len)
{
	struct filehead h = {0};
	struct fileslot slot;
	uint64_t blk = 0;

	if (len < 2 * SECTOR_SIZE || filehead_decode(data, &file_wrap, 1, &h) < 0)
		return;
	if (fileslot_decode(&h, data + SECTOR_SIZE, &slot) == 0)
		for (blk = 1; blk < UINT64_MAX / 3; blk *= 3)
			(void)fileslot_marked(&slot, blk);
	filehead_done(&h);
}

/* ---- a message between tdefsd and a worker ---- */

static UNUSED void link_seeds(void)
{
	struct link_message m = {.type = LINK_ROTATE, .text = "text", .key = {{1}}, .wrap_count = 2, .arg = 7,
		.wraps = {{.source = "platform", .blob = {1, 2}, .blob_len = 2}, {.source = "tenant", .blob = {3}, .blob_len = 1}}};
	uint8_t bytes[LINK_SIZE_MAX];

	seed("order", bytes, link_encode(&m, bytes));
	m = (struct link_message){.type = LINK_REPLY, .error = -EBUSY, .status = {.pid = 9, .program = "1.2.3", .epoch = 4}};
	seed("reply", bytes, link_encode(&m, bytes));
}

static UNUSED void link_one(const uint8_t *data, size_t len)
{
	struct link_message m, again;
	uint8_t bytes[LINK_SIZE_MAX];

	if (link_decode(data, len, &m) < 0)
		return;
	if (link_decode(bytes, link_encode(&m, bytes), &again) < 0 || again.type != m.type || again.arg != m.arg ||
		strcmp(again.text, m.text) != 0 || memcmp(&again.status, &m.status, sizeof(m.status)) != 0)
		abort();
}

/* ---- the configuration ---- */

static UNUSED void config_seeds(void)
{
	static const char text[] = "tenant = \"t\"; state_dir = \"/s\"; runtime_dir = \"/r\";\n# a remark\nroles: { auditor = \"x\"; "
				   "root_is_all = false; };\nmount: { threads = 8; seal_interval = \"200ms\"; };\n";

	seed("settings", text, sizeof(text) - 1);
}

static UNUSED void config_one(const uint8_t *data, size_t len)
{
	CLEANUP_CLOSE int fd = memfd_create("config", MFD_CLOEXEC);
	struct config c = {0};
	char path[40], error[512] = "";

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (fd < 0 || write(fd, data, len) != (ssize_t)len || memmem(data, len, "@include", 8))
		return;
	int rc = config_load(path, &c, error);
	if (rc == 0 && (!c.tenant || c.state_dir[0] != '/' || c.threads < 1))
		abort();
	if (rc < 0 && !error[0])
		abort();
	if (rc == 0)
		config_done(&c);
}

/* ---- */

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	if (*argc == 3 && strcmp((*argv)[1], "--seeds") == 0) {
		seeds = (*argv)[2];
		JOIN(FUZZ_TARGET, _seeds)();
		exit(0);
	}
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	JOIN(FUZZ_TARGET, _one)(data, len);
	return 0;
}

/* libconfig 1.5 forgets the text of a string that does not end. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:strbuf_append\nleak:libconfig_yylex\n";
}
