/* volume: see volume.h. */
#include "store/volume.h"

#include "base/io.h"
#include "store/crypto.h"
#include "store/dir.h"
#include "store/journal.h"
#include "store/place.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void volume_wipe(struct volume *v)
{
	KEY_FREE(v->ek);
	KEY_FREE(v->fw);
	KEY_FREE(v->fw_previous);
	names_crypto_free(v->names);
	KEY_FREE(v->dir_mac);
	v->ek = NULL;
	v->fw = NULL;
	v->fw_previous = NULL;
	v->names = NULL;
	v->dir_mac = NULL;
}

static void volume_free(struct volume *v)
{
	volume_wipe(v);
	journal_free(v->journal);
	util_closep(&v->root_fd);
	util_closep(&v->tmp_fd);
	util_closep(&v->lock_fd);
	util_closep(&v->fd);
	envheader_done(&v->header);
	pthread_mutex_destroy(&v->header_lock);
	pthread_rwlock_destroy(&v->keys_lock);
	free(v->path);
	free(v);
}
DEFINE_CLEANUP(struct volume *, volume_free);

/* The file-wrap key of the version before. */
static int volume_previous_key(struct volume *v)
{
	struct env_key *previous = KEY_NEW(struct env_key);
	uint8_t kek[32];
	int rc = 0;

	v->fw_previous = KEY_NEW(struct wrap_key);
	if (!previous || !v->fw_previous)
		rc = -ENOMEM;
	if (rc == 0)
		rc = crypto_derive(v->ek->b, sizeof(v->ek->b), LABEL_PREVIOUS, 0, kek, sizeof(kek));
	if (rc == 0)
		rc = crypto_unwrap(kek, v->header.previous_wrapped, sizeof(v->header.previous_wrapped), previous->b);
	if (rc == 0)
		rc = crypto_derive(previous->b, sizeof(previous->b), LABEL_FILE_WRAP, 0, v->fw_previous->b, sizeof(v->fw_previous->b));
	secret_wipe(kek, sizeof(kek));
	KEY_FREE(previous);
	return rc;
}

static int volume_keys(struct volume *v, const struct env_key *ek)
{
	struct names_key *names = KEY_NEW(struct names_key);
	uint8_t kek[32];

	v->ek = KEY_NEW(struct env_key);
	v->fw = KEY_NEW(struct wrap_key);
	v->dir_mac = KEY_NEW(struct mac_key);
	if (!names || !v->ek || !v->fw || !v->dir_mac) {
		KEY_FREE(names);
		return -ENOMEM;
	}
	*v->ek = *ek;
	v->ek_version = v->header.ek_version;
	v->data_version = v->header.data_version;
	v->data_rotating = v->header.data_rotating;
	v->paused = v->header.paused;
	int rc = crypto_derive(ek->b, sizeof(ek->b), LABEL_FILE_WRAP, 0, v->fw->b, sizeof(v->fw->b));
	if (rc == 0)
		rc = crypto_derive(ek->b, sizeof(ek->b), LABEL_NAMES_WRAP, 0, kek, sizeof(kek));
	if (rc == 0)
		rc = crypto_unwrap(kek, v->header.names_wrapped, sizeof(v->header.names_wrapped), names->b);
	secret_wipe(kek, sizeof(kek));
	if (rc == 0)
		rc = names_crypto_new(names, &v->names);
	if (rc == 0)
		rc = crypto_derive(names->b, sizeof(names->b), LABEL_DIR_MAC, 0, v->dir_mac->b, sizeof(v->dir_mac->b));
	KEY_FREE(names);
	if (rc == 0 && v->header.previous_version)
		rc = volume_previous_key(v);
	return rc;
}

/* V2: the new epoch, durable. */
static int volume_begin_epoch(struct volume *v)
{
	struct envheader *h = &v->header;

	if (!h->clean && h->epoch > 0) {
		uint64_t *list = realloc(h->unclean, (h->unclean_count + 1) * sizeof(*list));

		if (!list)
			return -ENOMEM;
		/* A full list speaks for the one that goes, too. */
		if (h->unclean_count == ENV_UNCLEAN_MAX)
			memmove(list, list + 1, --h->unclean_count * sizeof(*list));
		list[h->unclean_count++] = h->epoch;
		h->unclean = list;
	}
	h->epoch++;
	h->clean = false;
	return envheader_write(v->fd, v->ek, h, NULL);
}

static int volume_open_dirs(struct volume *v)
{
	v->root_fd = io_openat(v->fd, "root", O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	if (v->root_fd < 0)
		return v->root_fd == -ENOENT ? -EUCLEAN : v->root_fd;
	v->tmp_fd = io_openat(v->fd, "tmp", O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	if (v->tmp_fd < 0)
		return v->tmp_fd == -ENOENT ? -EUCLEAN : v->tmp_fd;
	v->lock_fd = io_openat(v->fd, "lock", O_RDWR | O_NOFOLLOW, 0);
	if (v->lock_fd == -EROFS && v->options.read_only)
		return 0;
	if (v->lock_fd < 0)
		return v->lock_fd == -ENOENT ? -EUCLEAN : v->lock_fd;
	int rc = io_lock(v->lock_fd);
	return rc == -EAGAIN ? -EBUSY : rc;
}

int volume_open(const char *path, const struct env_key *ek, const struct volume_options *options, struct volume **ret)
{
	CLEANUP(volume_freep) struct volume *v = calloc(1, sizeof(*v));
	struct dir_id root_id;

	if (!v)
		return -ENOMEM;
	v->fd = v->root_fd = v->tmp_fd = v->lock_fd = -1;
	pthread_mutex_init(&v->header_lock, NULL);
	pthread_rwlock_init(&v->keys_lock, NULL);
	if (options)
		v->options = *options;
	v->path = strdup(path);
	if (!v->path)
		return -ENOMEM;
	v->fd = io_openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
	if (v->fd < 0)
		return v->fd;
	struct statfs fs;
	v->small_blocks = io_fstatfs(v->fd, &fs) < 0 || fs.f_bsize < (long)BLOCK_SIZE;
	/* The header names what is wrong with the store as a whole, so it is asked before the parts. */
	int rc = envheader_read(v->fd, ek, &v->header);
	if (rc < 0)
		return rc;
	envheader_done(&v->header);
	v->header = (struct envheader){0};
	rc = volume_open_dirs(v);
	if (rc < 0)
		return rc;
	/* Read again under the lock: the worker before may have written it in between. */
	rc = envheader_read(v->fd, ek, &v->header);
	if (rc == 0 && (v->header.epoch < v->options.min_epoch ||
			       (v->header.epoch == v->options.min_epoch && v->options.min_clean && !v->header.clean)))
		rc = -ESTALE;
	if (rc == 0)
		rc = volume_keys(v, ek);
	if (rc == 0)
		rc = dir_id_load(v, v->root_fd, &root_id);
	if (rc == 0)
		rc = journal_load(v);
	if (rc == 0 && v->lock_fd >= 0)
		rc = place_settle(v->lock_fd, v->header.epoch + 1, v->options.read_only, &v->first_epoch);
	if (rc == 0 && !v->options.read_only) {
		rc = volume_begin_epoch(v);
		if (rc == 0)
			rc = dir_empty_tmp(v);
	}
	if (rc < 0)
		return rc;
	*ret = TAKE_PTR(v);
	return 0;
}

int volume_close(struct volume *v)
{
	int rc = 0;

	if (!v)
		return 0;
	if (!v->options.read_only) {
		rc = volume_writable(v);
		if (rc == 0 && v->ek)
			rc = volume_synced(v, io_syncfs(v->fd));
		if (rc == 0 && v->ek) {
			v->header.clean = true;
			if (atomic_load(&v->forgotten))
				v->header.unclean_count = 0;
			rc = envheader_write(v->fd, v->ek, &v->header, NULL);
		}
	}
	volume_free(v);
	return rc;
}

/* A read-only look at a store that was not closed: its last epoch has not joined the list yet. */
static bool volume_looks_at_crash(const struct volume *v)
{
	return v->options.read_only && !v->header.clean;
}

uint64_t volume_last_unclean(const struct volume *v)
{
	size_t n = atomic_load(&v->forgotten) ? 0 : v->header.unclean_count;

	return volume_looks_at_crash(v) ? v->header.epoch : n ? v->header.unclean[n - 1] : 0;
}

bool volume_epoch_unclean(const struct volume *v, uint64_t epoch)
{
	size_t lo = 0, hi = atomic_load(&v->forgotten) ? 0 : v->header.unclean_count;

	if (hi == ENV_UNCLEAN_MAX && epoch < v->header.unclean[0])
		return true;
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (v->header.unclean[mid] == epoch)
			return true;
		if (v->header.unclean[mid] < epoch)
			lo = mid + 1;
		else
			hi = mid;
	}
	return volume_looks_at_crash(v) && epoch == v->header.epoch;
}

bool volume_epoch_copied(const struct volume *v, uint64_t epoch)
{
	return epoch < v->first_epoch;
}

bool volume_is_copy(const struct volume *v)
{
	uint64_t last = volume_last_unclean(v);

	return last && volume_epoch_copied(v, last);
}

/* What a rotation or new wraps change; epoch and unclean list are read without the lock, and stay as they are. */
static void volume_take_header(struct volume *v, const struct envheader *next)
{
	v->header.sequence = next->sequence;
	v->header.ek_version = next->ek_version;
	v->header.previous_version = next->previous_version;
	memcpy(v->header.previous_wrapped, next->previous_wrapped, sizeof(next->previous_wrapped));
	memcpy(v->header.names_wrapped, next->names_wrapped, sizeof(next->names_wrapped));
	v->header.data_version = next->data_version;
	v->header.data_rotating = next->data_rotating;
	v->header.paused = next->paused;
	v->header.wrap_count = next->wrap_count;
	memcpy(v->header.wraps, next->wraps, sizeof(next->wraps));
}

/* header_lock held. On success next becomes v->header. */
static int volume_put_header(struct volume *v, const struct env_key *ek, struct envheader *next)
{
	bool replaced;

	if (atomic_load(&v->forgotten))
		next->unclean_count = 0;
	int rc = envheader_write(v->fd, ek, next, &replaced);
	/* Which of the two headers a power cut would leave nobody knows: then nothing may be written any more. */
	if (rc < 0 && replaced)
		(void)volume_synced(v, rc);
	if (rc == 0)
		volume_take_header(v, next);
	return rc;
}

int volume_forget_unclean(struct volume *v)
{
	int rc = volume_writable(v);

	/* What was looked at is on the disk before what excused it goes. */
	if (rc == 0)
		rc = volume_synced(v, io_syncfs(v->fd));
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&v->header_lock);
	struct envheader next = v->header;
	next.unclean_count = 0;
	rc = volume_put_header(v, v->ek, &next);
	if (rc == 0)
		atomic_store(&v->forgotten, true);
	pthread_mutex_unlock(&v->header_lock);
	return rc;
}

int volume_rewrap(struct volume *v, const struct env_wrap *wraps, size_t n)
{
	int rc = volume_writable(v);

	if (rc < 0)
		return rc;
	if (n < 1 || n > ENV_WRAPS_MAX)
		return -EINVAL;
	pthread_mutex_lock(&v->header_lock);
	struct envheader next = v->header;
	memcpy(next.wraps, wraps, n * sizeof(*wraps));
	next.wrap_count = n;
	for (size_t k = 0; k < n; k++)
		next.wraps[k].ek_version = next.ek_version;
	rc = volume_put_header(v, v->ek, &next);
	pthread_mutex_unlock(&v->header_lock);
	return rc;
}

int volume_rotate_begin(struct volume *v, const struct env_key *next_key, const struct env_wrap *wraps, size_t n, bool data)
{
	struct env_key *ek = KEY_NEW(struct env_key), *old_ek = NULL;
	struct wrap_key *fw = KEY_NEW(struct wrap_key);
	int rc = volume_writable(v);

	pthread_mutex_lock(&v->header_lock);
	struct envheader next = v->header;
	if (rc == 0 && (next.previous_version || next.data_rotating))
		rc = -EALREADY;
	if (rc == 0 && (!ek || !fw))
		rc = -ENOMEM;
	if (rc == 0)
		rc = crypto_derive(next_key->b, sizeof(next_key->b), LABEL_FILE_WRAP, 0, fw->b, sizeof(fw->b));
	if (rc == 0)
		rc = envheader_rotate(&next, v->ek, next_key, wraps, n);
	next.data_version += data;
	next.data_rotating = data;
	next.paused = false;
	if (rc == 0)
		rc = volume_put_header(v, next_key, &next);
	if (rc == 0) {
		*ek = *next_key;
		pthread_rwlock_wrlock(&v->keys_lock);
		old_ek = v->ek;
		v->ek = TAKE_PTR(ek);
		v->ek_version = next.ek_version;
		v->data_version = next.data_version;
		v->data_rotating = next.data_rotating;
		v->paused = next.paused;
		v->fw_previous = v->fw;
		v->fw = TAKE_PTR(fw);
		pthread_rwlock_unlock(&v->keys_lock);
	}
	pthread_mutex_unlock(&v->header_lock);
	KEY_FREE(old_ek);
	KEY_FREE(ek);
	KEY_FREE(fw);
	return rc;
}

int volume_rotate_end(struct volume *v)
{
	struct wrap_key *previous = NULL;
	int rc = volume_writable(v);

	/* The files' new wraps are on the disk before the key of the old ones goes. */
	if (rc == 0)
		rc = volume_synced(v, io_syncfs(v->fd));
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&v->header_lock);
	struct envheader next = v->header;
	next.previous_version = 0;
	memset(next.previous_wrapped, 0, sizeof(next.previous_wrapped));
	rc = volume_put_header(v, v->ek, &next);
	if (rc == 0) {
		pthread_rwlock_wrlock(&v->keys_lock);
		previous = v->fw_previous;
		v->fw_previous = NULL;
		pthread_rwlock_unlock(&v->keys_lock);
	}
	pthread_mutex_unlock(&v->header_lock);
	KEY_FREE(previous);
	return rc;
}

int volume_open_head(struct volume *v, const uint8_t *sector, struct filehead *ret)
{
	pthread_rwlock_rdlock(&v->keys_lock);
	int rc = filehead_decode(sector, v->fw, v->ek_version, ret);
	if (rc == -EKEYREJECTED && v->fw_previous)
		rc = filehead_decode(sector, v->fw_previous, v->ek_version - 1, ret);
	pthread_rwlock_unlock(&v->keys_lock);
	return rc;
}

/* Replaces what the header says of rotations. */
static int volume_rotation_says(struct volume *v, bool data_rotating, bool paused)
{
	struct envheader next = v->header;
	int rc = volume_writable(v);

	next.data_rotating = data_rotating;
	next.paused = paused;
	if (rc == 0)
		rc = volume_put_header(v, v->ek, &next);
	if (rc == 0) {
		pthread_rwlock_wrlock(&v->keys_lock);
		v->data_rotating = data_rotating;
		v->paused = paused;
		pthread_rwlock_unlock(&v->keys_lock);
	}
	return rc;
}

int volume_data_end(struct volume *v)
{
	pthread_mutex_lock(&v->header_lock);
	int rc = volume_rotation_says(v, false, false);
	pthread_mutex_unlock(&v->header_lock);
	return rc;
}

int volume_rotate_pause(struct volume *v, bool paused)
{
	pthread_mutex_lock(&v->header_lock);
	int rc = volume_rotation_says(v, v->header.data_rotating, paused);
	pthread_mutex_unlock(&v->header_lock);
	return rc;
}

uint32_t volume_key_version(struct volume *v)
{
	pthread_rwlock_rdlock(&v->keys_lock);
	uint32_t version = v->ek_version;
	pthread_rwlock_unlock(&v->keys_lock);
	return version;
}

uint32_t volume_data_version(struct volume *v)
{
	pthread_rwlock_rdlock(&v->keys_lock);
	uint32_t version = v->data_version;
	pthread_rwlock_unlock(&v->keys_lock);
	return version;
}

bool volume_data_rotating(struct volume *v)
{
	pthread_rwlock_rdlock(&v->keys_lock);
	bool rotating = v->data_rotating;
	pthread_rwlock_unlock(&v->keys_lock);
	return rotating;
}

bool volume_paused(struct volume *v)
{
	pthread_rwlock_rdlock(&v->keys_lock);
	bool paused = v->paused;
	pthread_rwlock_unlock(&v->keys_lock);
	return paused;
}

bool volume_rotating(struct volume *v)
{
	pthread_rwlock_rdlock(&v->keys_lock);
	bool rotating = v->fw_previous != NULL;
	pthread_rwlock_unlock(&v->keys_lock);
	return rotating;
}

int volume_writable(const struct volume *v)
{
	return v->options.read_only || atomic_load_explicit(&v->poisoned, memory_order_relaxed) ? -EROFS : 0;
}

int volume_poison(struct volume *v, const char *why, int rc)
{
	if (!atomic_exchange(&v->poisoned, true))
		volume_report(v, "%s (%s): read-only until it is mounted again", why, strerror(-rc));
	return rc;
}

int volume_synced(struct volume *v, int rc)
{
	/* -EROFS is what a volume that is poisoned or read-only answers: nothing was tried. */
	return rc < 0 && rc != -EROFS ? volume_poison(v, "the store failed to sync", rc) : rc;
}

void volume_report(struct volume *v, const char *format, ...)
{
	char line[800];
	va_list ap;

	if (!v->options.report)
		return;
	va_start(ap, format);
	vsnprintf(line, sizeof(line), format, ap);
	va_end(ap);
	v->options.report(v->options.report_ctx, line);
}

int volume_statfs(struct volume *v, struct statfs *ret)
{
	int rc = io_fstatfs(v->fd, ret);

	if (rc < 0)
		return rc;
	/* 128 of 129 lower blocks hold data. */
	ret->f_bavail -= ret->f_bavail / (GROUP_BLOCKS + 1);
	ret->f_bfree -= ret->f_bfree / (GROUP_BLOCKS + 1);
	ret->f_blocks -= ret->f_blocks / (GROUP_BLOCKS + 1);
	ret->f_namelen = 255;
	return 0;
}

void volume_tmp_name(struct volume *v, char ret[static 32])
{
	snprintf(ret, 32, "t%llx", (unsigned long long)atomic_fetch_add(&v->tmp_serial, 1));
}
