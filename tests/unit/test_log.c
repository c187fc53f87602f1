/* Log lines: their form as text and as JSON, and that one call is one line whatever is in it. */
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "tests/test.h"

static int stderr_before;
static const char *captured;

static void capture_start(void) {
    captured = test_path(test_tmpdir(), "log");
    int fd = open(captured, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ck_assert_int_ge(fd, 0);
    stderr_before = dup(STDERR_FILENO);
    dup2(fd, STDERR_FILENO);
    close(fd);
}

static char *capture_end(void) {
    dup2(stderr_before, STDERR_FILENO);
    close(stderr_before);
    return test_read_file(captured, NULL);
}

static size_t lines_in(const char *text) {
    size_t lines = 0;
    for (; *text; text++)
        lines += *text == '\n';
    return lines;
}

/* A text line is UTC time with milliseconds, level, role and number, message, fields. */
START_TEST(test_text_line) {
    capture_start();
    log_init("shard", 0, LOG_INFO, false);
    log_info("worker joined", "rank=%d address=%s", 1, "10.0.0.7:4711");
    log_warning("no fields", NULL);
    char *text = capture_end();

    regex_t form;
    ck_assert_int_eq(
        regcomp(&form,
                "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z INFO shard=0 "
                "worker joined rank=1 address=10\\.0\\.0\\.7:4711\n"
                "[0-9TZ:.-]{24} WARNING shard=0 no fields\n$",
                REG_EXTENDED),
        0);
    ck_assert_msg(regexec(&form, text, 0, NULL, 0) == 0, "unexpected: %s", text);
    regfree(&form);
    free(text);
}
END_TEST

/* A role without a number shows no number, in either format. */
START_TEST(test_no_number) {
    capture_start();
    log_init("graphps", -1, LOG_INFO, false);
    log_error("it broke", NULL);
    log_init("graphps", -1, LOG_INFO, true);
    log_error("it broke", NULL);
    char *text = capture_end();
    ck_assert_ptr_nonnull(strstr(text, "Z ERROR graphps it broke\n"));
    ck_assert_ptr_null(strstr(text, "\"number\""));
    free(text);
}
END_TEST

/* A JSON line carries fields with their types; what log_quote wrapped comes out as it went in. */
START_TEST(test_json_line) {
    const char *odd = "a \"b\" \\ c=d\ttab\nnewline \x01 \xc3\xa4";
    capture_start();
    log_init("worker", 3, LOG_INFO, true);
    log_info("step done", "epoch=%d loss=%g big=%s name=%s why=%s ok=true hex=0x1f nan=%f", 12,
             0.25, "18446744073709551615", "plain", log_quote(odd), (double)__builtin_nanf(""));
    char *text = capture_end();

    json_error_t err;
    json_t *line = json_loads(text, JSON_DECODE_INT_AS_REAL, &err);
    ck_assert_msg(line != NULL, "%s: %s", err.text, text);
    ck_assert_uint_eq(lines_in(text), 1);
    ck_assert_str_eq(json_string_value(json_object_get(line, "level")), "info");
    ck_assert_str_eq(json_string_value(json_object_get(line, "role")), "worker");
    ck_assert(json_number_value(json_object_get(line, "number")) == 3);
    ck_assert_str_eq(json_string_value(json_object_get(line, "message")), "step done");
    ck_assert_uint_eq(strlen(json_string_value(json_object_get(line, "time"))), 24);
    ck_assert(json_number_value(json_object_get(line, "epoch")) == 12);
    ck_assert(json_number_value(json_object_get(line, "loss")) == 0.25);
    ck_assert(json_number_value(json_object_get(line, "big")) == 0x1p64);
    ck_assert_str_eq(json_string_value(json_object_get(line, "name")), "plain");
    ck_assert_str_eq(json_string_value(json_object_get(line, "why")), odd);
    ck_assert(json_is_true(json_object_get(line, "ok")));
    ck_assert_str_eq(json_string_value(json_object_get(line, "hex")), "0x1f");
    ck_assert_str_eq(json_string_value(json_object_get(line, "nan")), "nan");
    json_decref(line);
    free(text);
}
END_TEST

/* Lines below the level are not written, and a debug line's arguments are not even computed. */
static int computed;
static int compute(void) {
    return ++computed;
}
START_TEST(test_level) {
    capture_start();
    log_init("shard", 1, LOG_WARNING, false);
    ck_assert(!log_enabled(LOG_INFO));
    ck_assert(log_enabled(LOG_ERROR));
    log_info("hidden", NULL);
    log_debug("hidden", "n=%d", compute());
    log_warning("shown", NULL);
    char *text = capture_end();
    ck_assert_uint_eq(lines_in(text), 1);
    ck_assert_int_eq(computed, 0);
    free(text);
}
END_TEST

/* What a peer sends cannot start a line of its own, nor break the JSON: newlines, quotes, bytes
 * that are not UTF-8, and far too much of everything. */
START_TEST(test_hostile_fields) {
    char flood[20000];
    memset(flood, '"', sizeof flood - 1);
    flood[sizeof flood - 1] = 0;
    const char *hostile[] = {"x\n2026 ERROR forged",
                             "\"",
                             "\\",
                             "\xff\xfe",
                             "\xed\xa0\x80",
                             "\xc3",
                             "",
                             "=",
                             "\"\\u12",
                             flood};
    for (int json = 0; json <= 1; json++) {
        capture_start();
        log_init("shard", 0, LOG_INFO, json == 1);
        for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++) {
            log_info("raw", "name=%s", hostile[i]);
            log_info("quoted", "name=%s last=%d", log_quote(hostile[i]), 7);
        }
        char *text = capture_end();
        ck_assert_uint_eq(lines_in(text), 2 * sizeof hostile / sizeof hostile[0]);
        char *rest = text;
        for (char *line; json && (line = strsep(&rest, "\n")) && *line;) {
            json_error_t err;
            json_t *object = json_loads(line, 0, &err);
            ck_assert_msg(object != NULL, "%s: %s", err.text, line);
            if (strcmp(json_string_value(json_object_get(object, "message")), "quoted") == 0)
                ck_assert_int_eq(json_integer_value(json_object_get(object, "last")), 7);
            json_decref(object);
        }
        free(text);
    }
}
END_TEST

/* Lines of several threads never mix. */
static void *writer(void *arg) {
    for (int i = 0; i < 250; i++)
        log_info("from a thread", "thread=%d line=%d pad=%s", *(int *)arg, i,
                 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    return NULL;
}
START_TEST(test_threads) {
    capture_start();
    log_init("shard", 0, LOG_INFO, true);
    pthread_t threads[4];
    int ids[4] = {0, 1, 2, 3}, next[4] = {0};
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, writer, &ids[i]);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    char *text = capture_end(), *rest = text;
    for (char *line; (line = strsep(&rest, "\n")) && *line;) {
        json_t *object = json_loads(line, 0, NULL);
        ck_assert_msg(object != NULL, "broken line: %s", line);
        json_int_t thread = json_integer_value(json_object_get(object, "thread"));
        ck_assert_int_eq(json_integer_value(json_object_get(object, "line")), next[thread]++);
        json_decref(object);
    }
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(next[i], 250);
    free(text);
}
END_TEST

/* Eight quoted values may stand in one call. */
START_TEST(test_quote_ring) {
    const char *quoted[8];
    char text[2] = "a";
    for (int i = 0; i < 8; i++, text[0]++)
        quoted[i] = log_quote(text);
    for (int i = 0; i < 8; i++) {
        ck_assert_int_eq(quoted[i][1], 'a' + i);
        ck_assert_uint_eq(strlen(quoted[i]), 3);
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("log");
    TCase *tcase = tcase_create("log");
    tcase_add_test(tcase, test_text_line);
    tcase_add_test(tcase, test_no_number);
    tcase_add_test(tcase, test_json_line);
    tcase_add_test(tcase, test_level);
    tcase_add_test(tcase, test_hostile_fields);
    tcase_add_test(tcase, test_threads);
    tcase_add_test(tcase, test_quote_ring);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
