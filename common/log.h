/* Structured log lines on standard error: time, level, role, message, key=value fields; as text or
 * as one JSON object a line. Only main, session, trainer and cmd files call it above debug; the
 * rest return errors. One write(2) a line, so that lines of several processes never mix. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR };

/* Called once, before threads start. role: "shard", "worker" or "graphps"; number: the shard or
 * rank, -1 for none. Strings are borrowed for the process's life. */
void log_init(const char *role, int number, enum log_level level, bool json);
bool log_enabled(enum log_level level);

/* log_write(LOG_INFO, "worker joined", "rank=%d address=%s", rank, address):
 * message is a fixed sentence; fields is a printf format of space-separated key=value pairs, or
 * NULL. A value that may hold spaces or quotes is given as "%s" with log_quote(). */
void log_write(enum log_level level, const char *message, const char *fields, ...)
    __attribute__((format(printf, 3, 4)));

/* A quoted, escaped copy of text in a per-thread ring of 8 buffers, for use as a field's value. */
const char *log_quote(const char *text);

#define log_debug(...)                                                                             \
    do {                                                                                           \
        if (log_enabled(LOG_DEBUG))                                                                \
            log_write(LOG_DEBUG, __VA_ARGS__);                                                     \
    } while (0)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, __VA_ARGS__)
#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
