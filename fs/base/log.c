/* log: see log.h. The line is composed first and written with one write(2), so lines never mix. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

static const char *log_ident = "tdefs";
static enum log_level log_max = LOG_LEVEL_INFO;
static bool log_syslog;

static const struct {
	const char *word;
	int priority;
} log_levels[] = {{"error: ", LOG_ERR}, {"warning: ", LOG_WARNING}, {"", LOG_INFO}, {"debug: ", LOG_DEBUG}};

void log_open(const char *ident, enum log_level max_level, bool to_syslog)
{
	log_ident = ident;
	log_max = max_level;
	log_syslog = to_syslog;
	if (to_syslog)
		openlog(ident, LOG_PID, LOG_DAEMON);
}

void log_message(enum log_level level, const char *format, ...)
{
	char message[900], line[1024];
	va_list ap;

	if (level > log_max)
		return;
	va_start(ap, format);
	vsnprintf(message, sizeof(message), format, ap);
	va_end(ap);
	/* A name with a newline in it must not forge a second line. */
	for (char *p = message; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	const char *journal = getenv("JOURNAL_STREAM");
	int len = journal ? snprintf(line, sizeof(line), "<%d>%s%s\n", log_levels[level].priority,
				    log_levels[level].word, message)
			  : snprintf(line, sizeof(line), "%s[%d]: %s%s\n", log_ident, (int)getpid(),
				    log_levels[level].word, message);
	ssize_t written = write(STDERR_FILENO, line, (size_t)len);
	(void)written; /* a log that cannot be written has nobody to tell */
	if (log_syslog)
		syslog(log_levels[level].priority, "%s%s", log_levels[level].word, message);
}
