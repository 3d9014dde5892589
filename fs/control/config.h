/* config: tdefsd's settings, from a libconfig file. Every one is in config.c's table and in conf/tdefs.conf. */
#pragma once
#include "base/util.h"

struct config {
	char *tenant, *state_dir, *runtime_dir; /* required */
	char *socket;        /* runtime_dir/keyctl.sock */
	char *worker;        /* tdefs-mount beside tdefsd */
	char *platform_key;  /* state_dir/platform.key */
	char *tenant_admin, *vault_admin, *platform_operator, *auditor; /* Unix groups; empty: nobody */
	bool root_is_all;
	int threads, spin_us;
	char *transport;     /* auto, device, io_uring */
	uint64_t activation_interval_ns, lock_after_key_change_ns, unlock_after_lock_ns, delete_locked_after_ns, delete_warning_ns,
		confirm_text_ns; /* guard.* */
	uint64_t rotate_max_rate; /* bytes/s; 0: any */
	uint64_t seal_interval_ns, lock_timeout_ns, restart_delay_ns;
	char *on_lock, *on_lock_user;
	uint64_t on_lock_timeout_ns;
	int restart_limit;
	bool unmount_on_stop;
	bool syslog;
	char *log_level;
};
/* Reads path. On failure ret_error (512 bytes) says which file, line and setting, and what is wanted. -EINVAL, or why the
 * file cannot be read. */
int config_load(const char *path, struct config *ret, char *ret_error) MUST_CHECK;
void config_done(struct config *c);
/* The table as conf/tdefs.conf gives it, for the test that compares the two: name and default, NULL at the end. */
const char *config_setting(size_t index, const char **ret_default);
