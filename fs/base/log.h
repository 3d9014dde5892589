/* log: one line an event, to stderr (with the journal's <n> priority prefix when JOURNAL_STREAM is set) and, when
 * asked, to syslog. Thread safe. Never pass a secret: no function anywhere prints one. Lower layers (base, store,
 * vault) do not log; they return errors, or report through a callback that their owner gave them. */
#pragma once
#include "base/util.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* ident is borrowed for the process's life. Without a call: level info, ident "tdefs", no syslog. */
void log_open(const char *ident, enum log_level max_level, bool to_syslog);
void log_message(enum log_level level, const char *format, ...) PRINTF(2, 3);

#define log_error(...) log_message(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_message(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_message(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_message(LOG_LEVEL_DEBUG, __VA_ARGS__)
