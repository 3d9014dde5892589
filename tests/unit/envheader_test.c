/* envheader and volume: what a changed, old, foreign or busy store is answered with. */
#include "store.h"

#include <sys/stat.h>

/* libconfig 1.5 forgets the text of a string that does not end. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:strbuf_append\n";
}

static void header_every_byte_changed_is_refused(void **state)
{
	struct envheader h = {.clean = true, .ek_version = 1, .wrap_count = 1};
	struct env_wrap wrap = {.source = "platform", .fingerprint = "ab", .key_name = "k", .algorithm = "AES-256-KWP", .ek_version = 1,
		.blob = {1, 2, 3}, .blob_len = 3};
	uint64_t unclean[] = {3, 9};
	struct envheader back;
	char *text;
	size_t len;

	(void)state;
	h.wraps[0] = wrap;
	h.epoch = 12;
	h.unclean = unclean;
	h.unclean_count = 2;
	assert_int_equal(envheader_encode(&h, &store_key, &text, &len), 0);
	assert_int_equal(envheader_decode(text, len, NULL, &back), 0);
	assert_int_equal(back.epoch, 12);
	assert_int_equal(back.unclean_count, 2);
	assert_memory_equal(&back.wraps[0], &wrap, sizeof(wrap));
	envheader_done(&back);
	assert_int_equal(envheader_decode(text, len, &store_key, &back), 0);
	envheader_done(&back);
	for (size_t k = 0; k < len; k++)
		for (unsigned bit = 0; bit < 8; bit++) {
			text[k] = (char)(text[k] ^ 1 << bit);
			int rc = envheader_decode(text, len, &store_key, &back);
			if (rc == 0) /* hex digits of the MAC may be written in capitals */
				envheader_done(&back);
			if (rc != -EBADMSG && rc != -EUCLEAN && rc != -ENOTSUP && rc != -EKEYREJECTED && !(rc == 0 && k >= len - 67 && bit == 5))
				fail_msg("bit %u of byte %zu: %d", bit, k, rc);
			text[k] = (char)(text[k] ^ 1 << bit);
		}
	for (size_t n = 0; n < len; n++)
		assert_true(envheader_decode(text, n, &store_key, &back) < 0);
	free(text);
}

static void volume_specific_errors(void **state)
{
	struct env_key other = {.b = "another key"};
	struct volume *v = NULL, *second = NULL;
	char dir[64], file[80];

	(void)state;
	test_dir(dir);
	assert_int_equal(volume_open(dir, &store_key, NULL, &v), -ENOENT);
	store_create(dir);
	assert_int_equal(volume_open(dir, &other, NULL, &v), -EKEYREJECTED);
	assert_int_equal(volume_open(dir, &store_key, &(struct volume_options){.min_epoch = 1}, &v), -ESTALE);
	v = store_open(dir);
	assert_int_equal(volume_open(dir, &store_key, NULL, &second), -EBUSY);
	assert_int_equal(v->header.epoch, 1);
	assert_int_equal(volume_close(v), 0);
	v = store_open(dir);
	assert_int_equal(v->header.epoch, 2);
	assert_int_equal(v->header.unclean_count, 0);
	v->options.read_only = true; /* ends without the clean flag */
	assert_int_equal(volume_close(v), 0);
	v = store_open(dir);
	assert_int_equal(v->header.unclean_count, 1);
	assert_true(volume_epoch_unclean(v, 2));
	assert_false(volume_epoch_unclean(v, 1));
	assert_int_equal(volume_last_unclean(v), 2);
	assert_int_equal(volume_forget_unclean(v), 0);
	assert_int_equal(volume_last_unclean(v), 0);
	assert_false(volume_epoch_unclean(v, 2));
	assert_int_equal(volume_close(v), 0);
	v = store_open(dir);
	assert_int_equal(v->header.unclean_count, 0);
	assert_int_equal(volume_close(v), 0);
	snprintf(file, sizeof(file), "%s/tmp/left", dir);
	assert_int_equal(mkdir(file, 0700), 0);
	v = store_open(dir);
	assert_int_equal(access(file, F_OK), -1); /* tmp/ is emptied at mount */
	assert_int_equal(volume_close(v), 0);
	test_remove(dir);
}

static void create_leaves_nothing_in_a_full_directory(void **state)
{
	struct env_wrap wrap = {.source = "test", .blob_len = 1};
	char dir[64], file[80];

	(void)state;
	test_dir(dir);
	snprintf(file, sizeof(file), "%s/x", dir);
	close(open(file, O_CREAT | O_WRONLY, 0600));
	assert_int_equal(envheader_create(dir, &store_key, &wrap, 1), -ENOTEMPTY);
	unlink(file);
	assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(header_every_byte_changed_is_refused),
		cmocka_unit_test(volume_specific_errors), cmocka_unit_test(create_leaves_nothing_in_a_full_directory)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
