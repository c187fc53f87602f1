/* `graphps bench ps`: a short real run of shards and clients measures every row, wrong command
 * lines are refused with a sentence, and nothing is left behind, whether it ends or is interrupted.
 * What the figures are is not judged here, only that there are some. */
#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "common/file.h"
#include "tests/child.h"
#include "tests/fake_shard.h"
#include "tests/test.h"

enum { RUN_MS = 300000 };

/* A directory for temporary files of its own, and orphans become children of this process. */
static const char *watch(void) {
    const char *dir = test_tmpdir();
    ck_assert_int_eq(setenv("TMPDIR", dir, 1), 0);
    ck_assert_int_eq(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
    return dir;
}

static void check_nothing_left(const char *dir) {
    pid_t pid;
    while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
        ; /* one that was killed, and is reaped by nobody else */
    ck_assert_msg(pid < 0 && errno == ECHILD, "a process outlives the benchmark");
    char **names;
    size_t count;
    ck_assert_int_eq(dir_list(dir, &names, &count, NULL), 0);
    ck_assert_msg(count == 0, "%s is left", names[0]);
    dir_list_free(names, count);
}

/* Standard output alone; free() it. */
static char *bench(const char *arguments, int code) {
    char command[1024], *output;
    const char *errors = test_path(test_tmpdir(), "errors");
    snprintf(command, sizeof command, "exec %s bench %s 2>%s", child_program("graphps"), arguments,
             errors);
    const char *const argv[] = {"/bin/sh", "-c", command, NULL};
    int got = child_run(argv, RUN_MS, &output);
    char *said = test_read_file(errors, NULL);
    ck_assert_msg(got == code, "%s ended with %d:\n%.2000s", command, got, said);
    free(said);
    return output;
}

static double number(const json_t *object, const char *name) {
    const json_t *value = json_object_get(object, name);
    ck_assert_msg(json_is_number(value), "no number %s", name);
    return json_number_value(value);
}

static void check_speed(const json_t *row, const char *who) {
    static const char *const names[] = {"gb_per_s", "operations_per_s", "p50_us",
                                        "p99_us",   "latency_samples",  "cpu_s_per_gb"};
    const json_t *speed = json_object_get(row, who);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        ck_assert_msg(number(speed, names[i]) > 0, "%s of %s is not above 0", names[i], who);
    ck_assert(number(speed, "p50_us") <= number(speed, "p99_us"));
    if (number(speed, "latency_samples") < 1000)
        ck_assert(json_is_null(json_object_get(speed, "p999_us")));
    else
        ck_assert(number(speed, "p99_us") <= number(speed, "p999_us"));
}

static void check_row(const json_t *row, int size, const char *pattern) {
    ck_assert_int_eq((int)number(row, "size_bytes"), size);
    ck_assert_str_eq(json_string_value(json_object_get(row, "pattern")), pattern);
    ck_assert(number(row, "ratio") > 0);
    ck_assert(number(row, "shard_allocations_per_operation") >= 0);
    ck_assert(number(row, "client_allocations_per_operation") >= 0);
    ck_assert(number(row, "lock_waits_per_operation") >= 0);
    if (strcmp(pattern, "pull") == 0)
        ck_assert(json_is_null(json_object_get(row, "batch_mean")));
    else
        ck_assert(number(row, "batch_mean") >= 1);
    check_speed(row, "graphps");
    check_speed(row, "bare");
}

START_TEST(measures_every_row) {
    static const char *const patterns[] = {"push", "pull", "push+pull"};
    static const int sizes[] = {4096, 65536};
    const char *dir = watch();
    char *output =
        bench("ps --sizes 4K,64K --seconds 0.05 --repeat 1 --shards 2 --workers 2 --json", 0);
    json_error_t error;
    json_t *all = json_loads(output, 0, &error);
    ck_assert_msg(all, "%s in:\n%s", error.text, output);
    ck_assert_int_eq((int)number(all, "schema_version"), 1);
    ck_assert(json_is_string(json_object_get(json_object_get(all, "machine"), "cpu")));
    ck_assert_int_eq((int)number(json_object_get(all, "settings"), "shards"), 2);
    const json_t *rows = json_object_get(all, "rows");
    ck_assert_uint_eq(json_array_size(rows), 6);
    for (size_t i = 0; i < 6; i++)
        check_row(json_array_get(rows, i), sizes[i / 3], patterns[i % 3]);
    json_decref(all);
    free(output);
    check_nothing_left(dir);
}
END_TEST

/* Promise: bare TCP sends as many bytes as travel: half of a push in fp16, all of a pull, and with
 * tables the row numbers. */
START_TEST(compares_what_travels) {
    static const struct {
        const char *options;
        int ask[3], answer[3]; /* push, pull, push+pull */
    } jobs[] = {
        {"", {65536, 64, 65536}, {32, 65536, 65536}},
        {"--encoding fp16", {32768, 64, 32768}, {32, 65536, 65536}},
        {"--table --table-rows 20K --encoding fp16",
         {32768 + 256 * 8, 64 + 256 * 8, 32768 + 2 * 256 * 8},
         {32, 65536, 65536}},
    };
    const char *dir = watch();
    for (size_t i = 0; i < sizeof jobs / sizeof jobs[0]; i++) {
        char command[256];
        snprintf(command, sizeof command, "ps --sizes 64K --seconds 0.02 --repeat 1 --json %s",
                 jobs[i].options);
        char *output = bench(command, 0);
        json_t *all = json_loads(output, 0, NULL);
        ck_assert_ptr_nonnull(all);
        for (size_t k = 0; k < 3; k++) {
            const json_t *row = json_array_get(json_object_get(all, "rows"), k);
            ck_assert_int_eq((int)number(row, "bare_ask_bytes"), jobs[i].ask[k]);
            ck_assert_int_eq((int)number(row, "bare_answer_bytes"), jobs[i].answer[k]);
        }
        json_decref(all);
        free(output);
    }
    check_nothing_left(dir);
}
END_TEST

/* A size that ends within a block, several messages for each shard, an encoding, an optimizer with
 * state, a table. */
START_TEST(measures_other_jobs) {
    const char *dir = watch();
    char *output =
        bench("ps --sizes 100K --spread 3 --patterns push+pull --encoding int8 --optimizer "
              "adam --shards 2 --seconds 0.05 --repeat 1",
              0);
    ck_assert_ptr_nonnull(strstr(output, "\n100 KiB  push+pull    32 "));
    ck_assert_ptr_nonnull(strstr(output, "optimizer adam, int8, async"));
    free(output);
    output = bench("ps --table --table-rows 20K --dim 16 --sizes 4K --optimizer adagrad --encoding "
                   "fp16 --shards 2 --workers 2 --seconds 0.05 --repeat 1",
                   0);
    ck_assert_ptr_nonnull(strstr(output, "a table of 20000 rows of 16 floats"));
    ck_assert_ptr_nonnull(strstr(output, "64 rows a message: "));
    free(output);
    /* Few rows, of which each shard has only some. */
    output = bench("ps --table --table-rows 300 --dim 16 --sizes 64 --shards 16 --patterns push "
                   "--seconds 0.05 --repeat 1",
                   0);
    ck_assert_ptr_nonnull(strstr(output, "1 rows a message: "));
    free(output);
    output = bench("ps --sizes 4K --patterns pull --load 1M --seconds 0.05 --repeat 1", 0);
    ck_assert_ptr_nonnull(strstr(output, "1 clients"));
    ck_assert_ptr_nonnull(strstr(output, "while pushes of the load are under way: p50 "));
    free(output);
    check_nothing_left(dir);
}
END_TEST

static void interrupt(const char *text, int signal_number) {
    const char *const argv[] = {child_program("graphps"), "bench", "ps", "--seconds", "600", NULL};
    struct child child;
    child_init(&child, "bench", test_path(test_tmpdir(), "log"));
    child_start(&child, argv);
    child_wait_log(&child, text, RUN_MS);
    child_signal(&child, signal_number);
    child_expect(&child, 75, RUN_MS);
}

/* Also when it has only begun: the head is printed before anything is started. */
START_TEST(ends_when_interrupted) {
    const char *dir = watch();
    interrupt("bench ps: measuring", SIGINT);
    interrupt("medians of 5 repeats", SIGTERM);
    check_nothing_left(dir);
}
END_TEST

static void check_unread(const char *arguments, const char *reader) {
    char command[512], *output;
    snprintf(command, sizeof command, "{ %s bench ps %s; echo \"code $?\" >&2; } %s",
             child_program("graphps"), arguments, reader);
    const char *const argv[] = {"/bin/sh", "-c", command, NULL};
    ck_assert_int_eq(child_run(argv, RUN_MS, &output), 0);
    ck_assert_msg(strstr(output, "graphps bench ps: the standard output cannot be written") &&
                      strstr(output, "code 75\n"),
                  "%s printed:\n%s", command, output);
    free(output);
}

/* Promise: a reader that has seen enough ends the measurement, and nothing is left behind. */
START_TEST(ends_when_nobody_reads) {
    const char *dir = watch();
    check_unread("--sizes 4K --seconds 600", "| head -n 1");
    check_unread("--sizes 4K --seconds 600 --json", "| true");
    check_unread("--sizes 4K --seconds 600", ">/dev/full");
    check_nothing_left(dir);
}
END_TEST

static void refuse(const char *arguments, const char *text) {
    char command[512], *output;
    snprintf(command, sizeof command, "exec %s bench %s", child_program("graphps"), arguments);
    const char *const argv[] = {"/bin/sh", "-c", command, NULL};
    int code = child_run(argv, RUN_MS, &output);
    ck_assert_msg(code == 78, "bench %s ended with %d:\n%s", arguments, code, output);
    ck_assert_msg(strstr(output, text), "bench %s printed no \"%s\":\n%s", arguments, text, output);
    ck_assert_msg(!strstr(output, "p99.9"), "bench %s began:\n%s", arguments, output);
    free(output);
}

/* Promise: shards started with the printed job do not leave while nobody measures, unless told. */
START_TEST(prints_a_lasting_job) {
    TEST_WITHOUT_THREADS();
    char *output = bench("ps --print-job --optimizer sgd", 0);
    ck_assert_ptr_nonnull(strstr(output, "give_up_s: 604800"));
    ck_assert_ptr_nonnull(strstr(output, "kind: sgd"));
    free(output);
    output = bench("ps --print-job --set net.give_up_s=30", 0);
    ck_assert_ptr_nonnull(strstr(output, "give_up_s: 30"));
    ck_assert_ptr_null(strstr(output, "604800"));
    free(output);
}
END_TEST

static bool answer_hello(int fd, const ProtobufCMessage *message) {
    Graphps__Welcome welcome = GRAPHPS__WELCOME__INIT;
    welcome.id = ((const Graphps__Hello *)message)->id;
    welcome.shard_incarnation = 5;
    welcome.lease_ms = 600000;
    welcome.attempt = 1;
    fake_shard_reply(fd, FRAME_WELCOME, &welcome, NULL, 0);
    return true;
}

/* As a shard whose batch had closed before the push came. */
static bool answer_unmerged(struct fake_shard *shard, int fd, const struct frame_in *frame,
                            const ProtobufCMessage *message) {
    if (frame->type == FRAME_HELLO)
        return answer_hello(fd, message);
    ck_assert_int_eq(frame->type, FRAME_PUSH);
    Graphps__Pushed pushed = GRAPHPS__PUSHED__INIT;
    pushed.id = ((const Graphps__Push *)message)->id;
    pushed.sequence = ((const Graphps__Push *)message)->sequence;
    pushed.unmerged = 1;
    fake_shard_reply(fd, FRAME_PUSHED, &pushed, NULL, 0);
    return true;
}

/* As a shard that dies while the benchmark measures bare TCP. */
static bool answer_and_hang_up(struct fake_shard *shard, int fd, const struct frame_in *frame,
                               const ProtobufCMessage *message) {
    answer_hello(fd, message);
    return false;
}

/* Promise: what a client found is told, with the exit code of that. */
START_TEST(tells_what_clients_found) {
    static const struct {
        bool (*answer)(struct fake_shard *, int, const struct frame_in *, const ProtobufCMessage *);
        int code;
        const char *text;
    } cases[] = {
        {answer_unmerged, 76, "client 0: shard 0 acknowledged a push that it has not merged"},
        {answer_and_hang_up, 75, ": it closed the connection\n"},
    };
    const char *dir = watch();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fake_shard shard = {.answer = cases[i].answer};
        char command[512], *output;
        fake_shard_start(&shard);
        snprintf(command, sizeof command,
                 "exec %s bench ps --sizes 4K --patterns push --seconds 0.3 --repeat 2 --servers "
                 "%s",
                 child_program("graphps"), shard.address);
        const char *const argv[] = {"/bin/sh", "-c", command, NULL};
        int code = child_run(argv, RUN_MS, &output);
        fake_shard_stop(&shard);
        ck_assert_msg(code == cases[i].code, "%s ended with %d:\n%s", command, code, output);
        ck_assert_msg(strstr(output, cases[i].text), "%s printed no \"%s\":\n%s", command,
                      cases[i].text, output);
        free(output);
    }
    check_nothing_left(dir);
}
END_TEST

START_TEST(refuses_what_is_wrong) {
    TEST_WITHOUT_THREADS();
    const char *dir = watch();
    refuse("", "graphps bench ps --help");
    refuse("psst", "unknown benchmark \"psst\"; there is: ps");
    refuse("ps --sizes 4Q", "--sizes: \"4Q\" is no size up to 256M, such as 4K or 16M");
    refuse("ps --sizes 512M", "is no size up to 256M");
    refuse("ps --sizes 66", "at least 64 bytes and whole floats");
    refuse("ps --sizes 4K,4K", "--sizes: 4K comes twice");
    refuse("ps --patterns poll", "\"poll\" is none of push, pull, push+pull");
    refuse("ps --depth 65", "--depth: \"65\" is no number from 1 to 64");
    refuse("ps --seconds 0", "--seconds: \"0\" is no number");
    refuse("ps --repeat few", "--repeat: \"few\" is no number from 1 to 1000");
    refuse("ps --mode bsp", "consistency.mode is bsp: only async is measured");
    refuse("ps --set consistency.mode=ssp", "consistency.mode is ssp: only async is measured");
    refuse("ps --set aggregation.staleness_max=3", "aggregation.staleness_max has no meaning here");
    refuse("ps --set aggregation.staleness_damping=true --print-job",
           "aggregation.staleness_damping has no meaning here");
    refuse("ps --optimizer admm", "--optimizer: \"optimizer.kind=admm\": expected one of ");
    refuse("ps --bare-buffer 64", "--bare-buffer: \"64\" is too small for a send buffer");
    refuse("ps --io-threads 0", "--io-threads: \"servers.io_threads=0\": ");
    refuse("ps --shards few", "--shards: \"servers.count=few\": expected an integer");
    refuse("ps --servers ''", "--servers: \"\": an address is missing");
    refuse("ps --servers '127.0.0.1:1, '", "an address is missing");
    refuse("ps --servers '[]'", "an address is missing");
    refuse("ps --shards 2 --servers 127.0.0.1:1", "leave --shards out");
    refuse("ps --table --sizes 1M --set net.max_frame_bytes=65536",
           "does not fit into net.max_frame_bytes");
    refuse("ps --load 3", "--load: \"3\": a message has at least 64 bytes");
    refuse("ps --dim 16", "--table-rows and --dim are for --table");
    refuse("ps --table --table-rows 5G", "--table-rows: \"5G\" is no number of rows");
    refuse("ps --table --table-rows 1K --sizes 64K", "too many to draw from 1000");
    refuse("ps --table --sizes 100", "no whole number of rows");
    refuse("ps --table --encoding topk", "rows are not pushed with topk");
    refuse("ps --sizes 4K --spread 20000", "give a smaller --spread");
    refuse("ps extra", "unexpected argument \"extra\"");
    check_nothing_left(dir);
    ck_assert_int_eq(setenv("TMPDIR", "/nowhere", 1), 0);
    char *output = bench("ps", 70);
    ck_assert_str_eq(output, ""); /* no head of a table that will not come */
    free(output);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("bench");
    TCase *tests = tcase_create("bench");
    tcase_set_timeout(tests, 500);
    tcase_add_test(tests, measures_every_row);
    tcase_add_test(tests, compares_what_travels);
    tcase_add_test(tests, measures_other_jobs);
    tcase_add_test(tests, ends_when_interrupted);
    tcase_add_test(tests, ends_when_nobody_reads);
    tcase_add_test(tests, prints_a_lasting_job);
    tcase_add_test(tests, tells_what_clients_found);
    tcase_add_test(tests, refuses_what_is_wrong);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
