/* dir_name: names and directory ids as they lie below; see dir.h and dir_internal.h. */
#include "store/dir_internal.h"

#include "base/io.h"
#include "store/crypto.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define HASH_TEXT_LEN BASE64URL_LEN(32)

DEFINE_CLEANUP(DIR *, closedir);

int dir_each(int dirfd, int (*fn)(void *ctx, int dirfd, const char *lower), void *ctx)
{
	CLEANUP(closedirp) DIR *dp = NULL;
	const struct dirent *de;
	int rc = io_opendir(dirfd, &dp);

	while (rc == 0 && (rc = io_readdir(dp, &de)) > 0)
		rc = strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0 ? 0 : fn(ctx, dirfd, de->d_name);
	return rc;
}

static int each_is_one_too_many(void *ctx, int dirfd, const char *lower)
{
	(void)ctx;
	(void)dirfd;
	(void)lower;
	return -ENOTEMPTY;
}
/* ---- directory ids ---- */

int dir_id_encode(const struct mac_key *dir_mac, const struct dir_id *id, uint8_t copies[static ID_COPIES * SECTOR_SIZE])
{
	memset(copies, 0, ID_COPIES * SECTOR_SIZE);
	memcpy(copies, ID_MAGIC, 8);
	memcpy(copies + 8, id->b, sizeof(id->b));
	int rc = crypto_mac(dir_mac, copies, ID_MAC_OFF, NULL, 0, copies + ID_MAC_OFF);
	memcpy(copies + SECTOR_SIZE, copies, SECTOR_SIZE);
	return rc;
}

/* An id of dirfd's in a new file, synced, and in the attribute; whoever cannot have that has one copy fewer. */
static int id_write(const struct mac_key *dir_mac, const struct dir_id *id, int dirfd, int file_dirfd, const char *name)
{
	uint8_t copies[ID_COPIES * SECTOR_SIZE];
	int rc = dir_id_encode(dir_mac, id, copies);

	if (rc < 0)
		return rc;
	CLEANUP_CLOSE int fd = io_openat(file_dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
	if (fd < 0)
		return fd;
	rc = io_pwrite_full(fd, copies, sizeof(copies), 0);
	if (rc == 0)
		rc = io_fsync(fd);
	if (rc == 0)
		(void)!io_setxattr(dirfd, ID_COPY_NAME, copies, ID_SIZE, 0);
	return rc;
}

int dir_id_create(const struct mac_key *dir_mac, int dirfd)
{
	struct dir_id id;
	int rc = secret_random(id.b, sizeof(id.b));

	return rc < 0 ? rc : id_write(dir_mac, &id, dirfd, dirfd, DIR_ID_NAME);
}

/* One copy of an id: 0, or -EBADMSG. */
int dir_id_decode(struct volume *v, const uint8_t copy[static ID_SIZE], struct dir_id *ret)
{
	uint8_t mac[MAC_SIZE];
	int rc = crypto_mac(v->dir_mac, copy, ID_MAC_OFF, NULL, 0, mac);

	if (rc == 0 && (memcmp(copy, ID_MAGIC, 8) != 0 || !crypto_equal(mac, copy + ID_MAC_OFF, MAC_SIZE)))
		rc = -EBADMSG;
	if (rc == 0)
		memcpy(ret->b, copy + 8, sizeof(ret->b));
	return rc;
}

int dir_id_read(struct volume *v, int dirfd, struct dir_id *ret, unsigned *ret_good)
{
	uint8_t copies[ID_COPIES * SECTOR_SIZE];
	CLEANUP_CLOSE int fd = io_openat(dirfd, DIR_ID_NAME, O_RDONLY | O_NOFOLLOW, 0);
	int rc = fd < 0 ? fd : io_pread_full(fd, copies, sizeof(copies), 0, NULL);

	*ret_good = 0;
	for (unsigned i = 0; rc == 0 && i < ID_COPIES; i++)
		*ret_good += dir_id_decode(v, copies + i * SECTOR_SIZE, ret) == 0;
	if (rc == 0 || rc == -ENOENT || rc == -ELOOP)
		rc = *ret_good ? 0 : -EBADMSG;
	return rc;
}

int dir_id_read_copy(struct volume *v, int dirfd, struct dir_id *ret)
{
	uint8_t copy[ID_SIZE];
	ssize_t len = io_getxattr(dirfd, ID_COPY_NAME, copy, sizeof(copy));

	if (len == -ENODATA || len == -EOPNOTSUPP)
		return -ENODATA;
	if (len < 0 && len != -ERANGE)
		return (int)len;
	return len == sizeof(copy) ? dir_id_decode(v, copy, ret) : -EBADMSG;
}

bool dir_id_is_due(const struct volume *v, int dirfd)
{
	return volume_last_unclean(v) && dir_each(dirfd, each_is_one_too_many, NULL) == 0;
}

/* Gives a directory an id that has none and is due one: its own again, where the copy is there. */
static int id_create_again(struct volume *v, int dirfd)
{
	struct dir_id id;
	char tmp[32];
	int rc = volume_writable(v);

	if (rc == 0 && !dir_id_is_due(v, dirfd))
		rc = -EBADMSG;
	if (rc == 0 && dir_id_read_copy(v, dirfd, &id) < 0)
		rc = secret_random(id.b, sizeof(id.b));
	if (rc < 0)
		return rc;
	volume_tmp_name(v, tmp);
	rc = id_write(v->dir_mac, &id, dirfd, v->tmp_fd, tmp);
	if (rc == 0)
		rc = io_renameat2(v->tmp_fd, tmp, dirfd, DIR_ID_NAME, RENAME_NOREPLACE);
	if (rc < 0)
		(void)!io_unlinkat(v->tmp_fd, tmp, 0);
	return rc == -EEXIST ? 0 : rc; /* another thread was here, too */
}

int dir_id_load(struct volume *v, int dirfd, struct dir_id *ret)
{
	struct stat st = {0};
	unsigned good;
	int rc = dir_id_read(v, dirfd, ret, &good);

	if (rc == -EBADMSG && id_create_again(v, dirfd) == 0)
		rc = dir_id_read(v, dirfd, ret, &good);
	if (rc == 0)
		return 0;
	if (io_fstatat(dirfd, "", &st, AT_EMPTY_PATH) == 0 && st.st_nlink == 0)
		return -ENOENT;
	if (dir_id_read_copy(v, dirfd, ret) == 0) {
		volume_report(v, "the id of the directory with inode %llu is missing or damaged: its copy serves, until a scrub repairs it",
			(unsigned long long)st.st_ino);
		return 0;
	}
	if (rc != -EBADMSG)
		return rc;
	atomic_fetch_add(&v->stats.refused, 1);
	volume_report(v, "refused: the id of the directory with inode %llu is missing or damaged", (unsigned long long)st.st_ino);
	return -EBADMSG;
}

/* ---- names ---- */

static int name_lower(const uint8_t *sealed, size_t len, struct lower_name *ret)
{
	uint8_t hash[32];

	ret->side[0] = '\0';
	if (BASE64URL_LEN(len) <= 255) {
		base64url_encode(sealed, len, ret->text);
		return 0;
	}
	int rc = crypto_sha256(sealed, len, hash);
	memcpy(ret->text, "l.", 2);
	base64url_encode(hash, sizeof(hash), ret->text + 2);
	strcpy(ret->side, ret->text);
	ret->side[0] = 'n';
	return rc;
}

int name_seal(struct volume *v, const struct dir_id *id, const char *name, struct lower_name *ret)
{
	size_t len = strlen(name);

	if (len > DIR_NAME_MAX)
		return -ENAMETOOLONG;
	if (len == 0)
		return -ENOENT;
	ret->len = len + SIV_SIZE;
	int rc = crypto_siv_seal(v->names, id->b, sizeof(id->b), name, len, ret->sealed);
	return rc < 0 ? rc : name_lower(ret->sealed, ret->len, ret);
}

static int name_open(struct volume *v, const struct dir_id *id, const uint8_t *sealed, size_t len, char ret[DIR_NAME_MAX + 1])
{
	if (len <= SIV_SIZE || len > SEALED_MAX)
		return -EBADMSG;
	int rc = crypto_siv_open(v->names, id->b, sizeof(id->b), sealed, len, (uint8_t *)ret);

	if (rc < 0)
		return rc;
	ret[len - SIV_SIZE] = '\0';
	return 0;
}

static const char *name_copy_attribute(mode_t mode)
{
	return S_ISREG(mode) || S_ISDIR(mode) ? "user.tdefs.name" : "trusted.tdefs.name";
}

/* What is sealed in a long name; -EBADMSG where it is not the one of lower. */
static int name_check_long(const char *lower, const uint8_t *sealed, uint64_t len)
{
	struct lower_name again;

	return len <= SEALED_MAX && name_lower(sealed, len, &again) == 0 && strcmp(again.text, lower) == 0 ? 0 : -EBADMSG;
}

int name_read_side(int dirfd, const char *lower, struct lower_name *ret)
{
	uint8_t sealed[SEALED_MAX + 1];
	uint64_t len;

	strcpy(ret->text, lower);
	strcpy(ret->side, lower);
	ret->side[0] = 'n';
	CLEANUP_CLOSE int fd = io_openat(dirfd, ret->side, O_RDONLY | O_NOFOLLOW, 0);
	int rc = fd < 0 ? fd : io_pread_full(fd, sealed, sizeof(sealed), 0, &len);
	if (rc == 0)
		rc = name_check_long(lower, sealed, len);
	if (rc == 0) {
		memcpy(ret->sealed, sealed, len);
		ret->len = len;
	}
	return rc == -ENOENT || rc == -ELOOP ? -EBADMSG : rc;
}

int name_read_copy(int dirfd, const char *lower, struct lower_name *ret)
{
	struct stat st;
	CLEANUP_CLOSE int fd = io_openat(dirfd, lower, O_PATH | O_NOFOLLOW, 0);
	int rc = fd < 0 ? fd : io_fstatat(fd, "", &st, AT_EMPTY_PATH);
	ssize_t len = rc < 0 ? rc : io_getxattr(fd, name_copy_attribute(st.st_mode), ret->sealed, sizeof(ret->sealed));

	strcpy(ret->text, lower);
	strcpy(ret->side, lower);
	ret->side[0] = 'n';
	ret->len = len < 0 ? 0 : (size_t)len;
	return len < 0 ? (int)len : name_check_long(lower, ret->sealed, ret->len);
}

/* The plain name of a lower one. */
int dir_plain_name(struct volume *v, int dirfd, const struct dir_id *id, const char *lower, char ret[DIR_NAME_MAX + 1])
{
	struct lower_name name;
	uint8_t sealed[SEALED_MAX];
	size_t len;

	if (strncmp(lower, "l.", 2) == 0) {
		int rc = name_read_side(dirfd, lower, &name);

		if (rc < 0 && name_read_copy(dirfd, lower, &name) < 0)
			return rc;
		return name_open(v, id, name.sealed, name.len, ret);
	}
	int rc = base64url_decode(lower, strlen(lower), sealed, sizeof(sealed), &len);
	return rc < 0 ? -EBADMSG : name_open(v, id, sealed, len, ret);
}


void name_keep_copy(int dirfd, const struct lower_name *lower)
{
	struct stat st;

	if (strncmp(lower->text, "l.", 2) != 0)
		return;
	CLEANUP_CLOSE int fd = io_openat(dirfd, lower->text, O_PATH | O_NOFOLLOW, 0);
	if (fd >= 0 && io_fstatat(fd, "", &st, AT_EMPTY_PATH) == 0)
		(void)!io_setxattr(fd, name_copy_attribute(st.st_mode), lower->sealed, lower->len, 0);
}

int dir_lower_name(struct volume *v, const struct dir_id *id, const char *name, char ret[256])
{
	struct lower_name lower;
	int rc = name_seal(v, id, name, &lower);

	if (rc == 0)
		strcpy(ret, lower.text);
	return rc;
}

static int dir_sync(struct volume *v, int dirfd)
{
	CLEANUP_CLOSE int fd = io_openat(dirfd, ".", O_RDONLY | O_DIRECTORY, 0);

	return fd < 0 ? fd : volume_synced(v, io_fsync(fd));
}

/* D1: the side file of a long name, synced, in its directory before the name is used. Its own name there too: a lower file system
 * may keep a synced object's name and lose what came before it in the directory. */
int name_side_create(struct volume *v, int dirfd, const struct lower_name *lower)
{
	char tmp[32];

	if (!lower->side[0])
		return 0;
	volume_tmp_name(v, tmp);
	CLEANUP_CLOSE int fd = io_openat(v->tmp_fd, tmp, O_WRONLY | O_CREAT | O_EXCL, 0600);
	if (fd < 0)
		return fd;
	int rc = io_pwrite_full(fd, lower->sealed, lower->len, 0);
	if (rc == 0)
		rc = io_fsync(fd);
	if (rc == 0)
		rc = io_renameat2(v->tmp_fd, tmp, dirfd, lower->side, 0);
	if (rc < 0)
		(void)!io_unlinkat(v->tmp_fd, tmp, 0);
	return rc < 0 ? rc : dir_sync(v, dirfd);
}

void name_side_remove(int dirfd, const struct lower_name *lower)
{
	if (lower->side[0])
		(void)!io_unlinkat(dirfd, lower->side, 0);
}

void name_side_retire(struct volume *v, int dirfd, const struct lower_name *lower)
{
	if (lower->side[0] && dir_sync(v, dirfd) == 0)
		name_side_remove(dirfd, lower);
}

int name_prepare(struct volume *v, int dirfd, const struct dir_id *id, const char *name, struct lower_name *ret)
{
	struct stat st;
	int rc = volume_writable(v);

	if (rc == 0)
		rc = name_seal(v, id, name, ret);
	if (rc < 0 || !ret->side[0])
		return rc;
	if (io_fstatat(dirfd, ret->text, &st, AT_SYMLINK_NOFOLLOW) == 0)
		ret->side[0] = '\0';
	return name_side_create(v, dirfd, ret);
}

int name_undo(struct volume *v, int dirfd, const struct lower_name *lower, int rc)
{
	int undone = io_unlinkat(dirfd, lower->text, 0);

	if (undone < 0 && undone != -ENOENT)
		(void)volume_poison(v, "what a failed change left cannot be removed", undone);
	else
		name_side_remove(dirfd, lower);
	return rc;
}
