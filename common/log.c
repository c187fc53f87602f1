/* Log lines on standard error. Owns the line's form, as text or as JSON, and the process's log
 * settings, which are written once before threads start. Does not filter by module, rotate or
 * buffer: whoever started the process collects its standard error. */
#include "common/log.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOG_FIELDS_BYTES 4096
/* JSON may need six bytes for one ("\u0001"), and every field gets quotes around its key. */
#define LOG_LINE_BYTES (8 * LOG_FIELDS_BYTES)

static const char *const level_names[] = {"DEBUG", "INFO", "WARNING", "ERROR"};
static const char *const level_names_json[] = {"debug", "info", "warning", "error"};

/* Set once by log_init, before there are threads; read-only afterwards. */
static struct {
    const char *role;
    int number;
    enum log_level level;
    bool json;
} settings = {"graphps", -1, LOG_INFO, false};

/* A line under construction. What does not fit is cut; one byte is kept for the newline. */
struct line {
    size_t len;
    char bytes[LOG_LINE_BYTES];
};

static void line_put(struct line *line, const char *bytes, size_t len) {
    size_t room = sizeof line->bytes - 1 - line->len;
    if (len > room)
        len = room;
    memcpy(line->bytes + line->len, bytes, len);
    line->len += len;
}

static void line_text(struct line *line, const char *text) {
    line_put(line, text, strlen(text));
}

/* The length of the UTF-8 sequence at text (end exclusive), 0 when it is none: overlong forms,
 * surrogates and numbers above U+10FFFF are none. */
static size_t utf8_len(const unsigned char *text, const unsigned char *end) {
    unsigned char first = text[0], low = 0x80, high = 0xbf;
    size_t len;
    if (first < 0x80)
        return 1;
    if (first >= 0xc2 && first <= 0xdf)
        len = 2;
    else if (first >= 0xe0 && first <= 0xef)
        len = 3;
    else if (first >= 0xf0 && first <= 0xf4)
        len = 4;
    else
        return 0;
    if (first == 0xe0)
        low = 0xa0;
    else if (first == 0xed)
        high = 0x9f;
    else if (first == 0xf0)
        low = 0x90;
    else if (first == 0xf4)
        high = 0x8f;
    if ((size_t)(end - text) < len || text[1] < low || text[1] > high)
        return 0;
    for (size_t i = 2; i < len; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    return len;
}

/* Writes text as the inside of a JSON string, at most cap bytes, never half an escape; bytes that
 * are not UTF-8 become U+FFFD. Returns the bytes written. */
static size_t escape(char *to, size_t cap, const char *text, size_t text_len) {
    const unsigned char *at = (const unsigned char *)text, *end = at + text_len;
    size_t len = 0;
    while (at < end) {
        char piece[8];
        size_t piece_len, taken = utf8_len(at, end);
        if (taken == 0) {
            piece_len = 3;
            memcpy(piece, "\xef\xbf\xbd", 3);
            taken = 1;
        } else if (*at == '"' || *at == '\\') {
            piece_len = 2;
            piece[0] = '\\';
            piece[1] = (char)*at;
        } else if (*at == '\n' || *at == '\t' || *at == '\r') {
            piece_len = 2;
            piece[0] = '\\';
            piece[1] = *at == '\n' ? 'n' : *at == '\t' ? 't' : 'r';
        } else if (*at < 0x20 || *at == 0x7f) {
            piece_len = (size_t)snprintf(piece, sizeof piece, "\\u%04x", *at);
        } else {
            piece_len = taken;
            memcpy(piece, at, taken);
        }
        if (len + piece_len > cap)
            break;
        memcpy(to + len, piece, piece_len);
        len += piece_len;
        at += taken;
    }
    return len;
}

static void line_escaped(struct line *line, const char *text, size_t text_len) {
    line->len +=
        escape(line->bytes + line->len, sizeof line->bytes - 1 - line->len, text, text_len);
}

/* Control bytes become '?': a peer's name with a newline in it must not start a line of its own. */
static void line_printable(struct line *line, const char *text) {
    size_t start = line->len;
    line_text(line, text);
    for (size_t i = start; i < line->len; i++)
        if ((unsigned char)line->bytes[i] < 0x20 || line->bytes[i] == 0x7f)
            line->bytes[i] = '?';
}

/* JSON's grammar of numbers; "nan", "0x1f" and "1." are strings. */
static bool is_json_number(const char *text, size_t len) {
    const char *at = text, *end = text + len;
    if (at < end && *at == '-')
        at++;
    if (at == end || !isdigit((unsigned char)*at))
        return false;
    if (*at == '0' && at + 1 < end && isdigit((unsigned char)at[1]))
        return false;
    while (at < end && isdigit((unsigned char)*at))
        at++;
    if (at < end && *at == '.') {
        if (++at == end || !isdigit((unsigned char)*at))
            return false;
        while (at < end && isdigit((unsigned char)*at))
            at++;
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        if (at < end && (*at == '+' || *at == '-'))
            at++;
        if (at == end || !isdigit((unsigned char)*at))
            return false;
        while (at < end && isdigit((unsigned char)*at))
            at++;
    }
    return at == end;
}

static bool is_json_literal(const char *text, size_t len) {
    return (len == 4 && memcmp(text, "true", 4) == 0) ||
           (len == 5 && memcmp(text, "false", 5) == 0) || is_json_number(text, len);
}

/* Undoes log_quote from after the opening quote; stops at the closing one or at the end of what was
 * cut. Returns where it stopped; the text lies in *to, of at least strlen(at) bytes. */
static const char *unquote(const char *at, char *to, size_t *ret_len) {
    size_t len = 0;
    for (; *at && *at != '"'; at++) {
        if (*at != '\\' || !at[1]) {
            to[len++] = *at;
            continue;
        }
        at++;
        if (*at == 'u') {
            unsigned code = 0;
            int digits = 0;
            while (digits < 4 && isxdigit((unsigned char)at[1])) {
                at++;
                code = code * 16 +
                       (unsigned)(isdigit((unsigned char)*at) ? *at - '0' : (*at | 32) - 'a' + 10);
                digits++;
            }
            to[len++] = (char)(code < 0x80 ? code : '?'); /* log_quote makes none above 0x7f */
        } else {
            to[len++] = *at == 'n' ? '\n' : *at == 't' ? '\t' : *at == 'r' ? '\r' : *at;
        }
    }
    *ret_len = len;
    return *at == '"' ? at + 1 : at;
}

/* Turns "key=value key="quoted value"" into JSON members. A word without '=' becomes true. */
static void line_json_fields(struct line *line, const char *at) {
    char value[LOG_FIELDS_BYTES];
    while (*at) {
        if (*at == ' ') {
            at++;
            continue;
        }
        size_t key_len = strcspn(at, "= ");
        line_text(line, ",\"");
        line_escaped(line, at, key_len);
        line_text(line, "\":");
        at += key_len;
        if (*at != '=') {
            line_text(line, "true");
            continue;
        }
        at++;
        if (*at == '"') {
            size_t len;
            at = unquote(at + 1, value, &len);
            line_text(line, "\"");
            line_escaped(line, value, len);
            line_text(line, "\"");
            continue;
        }
        size_t len = strcspn(at, " ");
        if (is_json_literal(at, len)) {
            line_put(line, at, len);
        } else {
            line_text(line, "\"");
            line_escaped(line, at, len);
            line_text(line, "\"");
        }
        at += len;
    }
}

static void time_text(char *to, size_t bytes) {
    struct timespec now;
    struct tm utc;
    char seconds[32];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(seconds, sizeof seconds, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(to, bytes, "%s.%03dZ", seconds, (int)(now.tv_nsec / 1000000));
}

void log_init(const char *role, int number, enum log_level level, bool json) {
    settings.role = role;
    settings.number = number;
    settings.level = level;
    settings.json = json;
}

bool log_enabled(enum log_level level) {
    return level >= settings.level;
}

void log_write(enum log_level level, const char *message, const char *fields, ...) {
    if (!log_enabled(level))
        return;

    char text[LOG_FIELDS_BYTES] = "", time[48], role[48];
    struct line line;
    line.len = 0;
    if (fields) {
        va_list args;
        va_start(args, fields);
        vsnprintf(text, sizeof text, fields, args);
        va_end(args);
    }
    time_text(time, sizeof time);

    if (settings.json) {
        line_text(&line, "{\"time\":\"");
        line_text(&line, time);
        line_text(&line, "\",\"level\":\"");
        line_text(&line, level_names_json[level]);
        line_text(&line, "\",\"role\":\"");
        line_text(&line, settings.role);
        if (settings.number >= 0) {
            snprintf(role, sizeof role, "\",\"number\":%d,\"message\":\"", settings.number);
            line_text(&line, role);
        } else {
            line_text(&line, "\",\"message\":\"");
        }
        line_escaped(&line, message, strlen(message));
        line_text(&line, "\"");
        line_json_fields(&line, text);
        line_text(&line, "}");
    } else {
        snprintf(role, sizeof role, settings.number >= 0 ? "%s=%d" : "%s", settings.role,
                 settings.number);
        line_text(&line, time);
        line_text(&line, " ");
        line_text(&line, level_names[level]);
        line_text(&line, " ");
        line_text(&line, role);
        line_text(&line, " ");
        line_printable(&line, message);
        if (text[0]) {
            line_text(&line, " ");
            line_printable(&line, text);
        }
    }
    line.bytes[line.len++] = '\n';

    /* Nobody is left to tell when standard error itself is broken. */
    ssize_t written;
    do
        written = write(STDERR_FILENO, line.bytes, line.len);
    while (written < 0 && errno == EINTR);
}

const char *log_quote(const char *text) {
    static _Thread_local char ring[8][1536];
    static _Thread_local unsigned next;
    char *quoted = ring[next++ % 8];
    quoted[0] = '"';
    size_t len = 1 + escape(quoted + 1, sizeof ring[0] - 3, text, strlen(text));
    quoted[len] = '"';
    quoted[len + 1] = 0;
    return quoted;
}
