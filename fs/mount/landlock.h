/* landlock: <linux/landlock.h> of Debian 12 is older than the kernels that the worker runs on. ABI 7; landlock(7). */
#pragma once
#include <stdint.h>

#define LL_EXECUTE (1u << 0)
#define LL_WRITE_FILE (1u << 1)
#define LL_READ_FILE (1u << 2)
#define LL_READ_DIR (1u << 3)
#define LL_REMOVE_DIR (1u << 4)
#define LL_REMOVE_FILE (1u << 5)
#define LL_MAKE_CHAR (1u << 6)
#define LL_MAKE_DIR (1u << 7)
#define LL_MAKE_REG (1u << 8)
#define LL_MAKE_SOCK (1u << 9)
#define LL_MAKE_FIFO (1u << 10)
#define LL_MAKE_BLOCK (1u << 11)
#define LL_MAKE_SYM (1u << 12)
#define LL_REFER (1u << 13)     /* ABI 2 */
#define LL_TRUNCATE (1u << 14)  /* ABI 3 */
#define LL_IOCTL_DEV (1u << 15) /* ABI 5 */
#define LL_NET (3u)             /* ABI 4: bind and connect TCP */
#define LL_SCOPE (3u)           /* ABI 6: abstract Unix sockets, signals */

struct ll_ruleset {
	uint64_t fs, net, scoped;
};
struct ll_beneath {
	uint64_t allowed;
	int32_t parent_fd;
} __attribute__((packed));
