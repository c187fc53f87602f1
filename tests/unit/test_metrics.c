/* The metric table's cells and pages: nothing is lost between threads, and Prometheus can read it.
 */
#include <malloc.h>
#include <math.h>
#include <pthread.h>
#include <regex.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/mem.h"
#include "common/metrics.h"
#include "tests/test.h"

enum { THREADS = 8, ROUNDS = 20000 };

static void *adder(void *arg) {
    for (uint64_t i = 0; i < ROUNDS; i++) {
        metric_add(METRIC_PULLS, 2);
        metric_record(METRIC_STALENESS, i % 3);
    }
    return NULL;
}

/* Counts of threads, alive or ended, add up, while others read. */
START_TEST(test_threads) {
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, adder, NULL);
    uint64_t before = 0;
    static struct histogram all;
    for (int i = 0; i < 50; i++) {
        uint64_t now = metric_counter(METRIC_PULLS);
        ck_assert_uint_ge(now, before);
        before = now;
        metric_histogram(METRIC_STALENESS, &all);
        ck_assert_uint_eq(histogram_count_upto(&all, UINT64_MAX), all.count);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    ck_assert_uint_eq(metric_counter(METRIC_PULLS), 2 * THREADS * ROUNDS);
    ck_assert_uint_eq(metric_counter(METRIC_UPDATES), 0);
    metric_histogram(METRIC_STALENESS, &all);
    ck_assert_uint_eq(all.count, THREADS * ROUNDS);
    ck_assert_uint_eq(histogram_count_upto(&all, 0), THREADS * ((ROUNDS + 2) / 3));
}
END_TEST

static void *add_once(void *arg) {
    metric_add(METRIC_PULLS, 1);
    return NULL;
}

/* A thread that ends leaves its cell to the next: threads that come and go cost no memory. */
START_TEST(test_cells_are_reused) {
    pthread_t thread;
    size_t used = 0;
    for (int i = 0; i < 500; i++) {
        pthread_create(&thread, NULL, add_once, NULL);
        pthread_join(thread, NULL);
        if (i == 10)
            used = mallinfo2().uordblks;
    }
    ck_assert_uint_eq(metric_counter(METRIC_PULLS), 500);
    ck_assert_uint_lt(mallinfo2().uordblks, used + 20000); /* a cell has 40 kB */
}
END_TEST

/* The JSON: counters as integers, labels as members, histograms summed up in the printed unit, no
 * number that JSON does not know. */
START_TEST(test_json) {
    metric_add(METRIC_PUSH_APPLIED, 3);
    metric_add(METRIC_PUSH_REFUSED, 1);
    metric_add(METRIC_PULLS, 5);
    metric_set(METRIC_TRAIN_LOSS, NAN);
    metric_set(METRIC_READY, 1);
    for (int i = 0; i < 10; i++)
        metric_record(METRIC_PULL_LATENCY, 2000000);
    json_t *json = metrics_json("shard", 0);
    json_t *pushes = json_object_get(json, "graphps_pushes_total");
    ck_assert_int_eq(json_integer_value(json_object_get(pushes, "result=applied")), 3);
    ck_assert_int_eq(json_integer_value(json_object_get(pushes, "result=repeated")), 0);
    ck_assert_int_eq(json_integer_value(json_object_get(pushes, "result=refused")), 1);
    ck_assert_int_eq(json_integer_value(json_object_get(json, "graphps_pulls_total")), 5);
    ck_assert(json_is_null(json_object_get(json, "graphps_train_loss")));
    ck_assert(json_number_value(json_object_get(json, "graphps_ready")) == 1);
    json_t *pull = json_object_get(json, "graphps_pull_seconds");
    ck_assert_int_eq(json_integer_value(json_object_get(pull, "count")), 10);
    ck_assert(fabs(json_number_value(json_object_get(pull, "mean")) - 0.002) < 1e-9);
    ck_assert(json_number_value(json_object_get(pull, "p50")) >= 0.002);
    ck_assert(json_number_value(json_object_get(pull, "max")) <= 0.002 * 17 / 16);
    char *text = json_dumps(json, 0);
    ck_assert_ptr_nonnull(text);
    free(text);
    json_decref(json);
}
END_TEST

/* The value of the sample whose line begins with name and a space, or -1. */
static double sample(const char *text, const char *name) {
    char start[160];
    snprintf(start, sizeof start, "\n%s ", name);
    const char *at = strstr(text, start);
    return at ? strtod(at + strlen(start), NULL) : -1;
}

/* The processes whose pages differ, in the order of the bits below. */
static const struct {
    const char *role;
    int number;
} processes[] = {{"shard", 0}, {"shard", 1}, {"worker", 0}};

/* What promtool would check, for each process: each family has one HELP and one TYPE before its
 * samples, which stand together; names and labels are legal; counters end in _total; the text ends
 * with a newline. */
START_TEST(test_text_form) {
    metric_set(METRIC_TRAIN_LOSS, NAN);
    metric_set(METRIC_EPOCH, INFINITY);
    char *text = metrics_text(processes[_i].role, processes[_i].number), *rest = text;
    ck_assert_int_eq(text[strlen(text) - 1], '\n');
    regex_t help, type, line_form;
    regcomp(&help, "^# HELP [a-z_]+ [A-Z0-9].*\\.?$", REG_EXTENDED);
    regcomp(&type, "^# TYPE [a-z_]+ (counter|gauge|histogram)$", REG_EXTENDED);
    regcomp(&line_form,
            "^[a-z_]+(\\{[a-z]+=\"[^\"\\]*\"(,[a-z]+=\"[^\"\\]*\")*\\})? "
            "([0-9.e+-]+|NaN|[+-]Inf)$",
            REG_EXTENDED);
    char families[64][64], kind[16] = "";
    size_t count = 0, samples = 0;
    bool typed = false;
    for (char *line; (line = strsep(&rest, "\n")) && *line;) {
        if (strncmp(line, "# HELP ", 7) == 0) {
            ck_assert_msg(regexec(&help, line, 0, NULL, 0) == 0, "%s", line);
            ck_assert_msg(count == 0 || samples > 0, "no sample before: %s", line);
            ck_assert_uint_lt(count, 64);
            sscanf(line, "# HELP %63s", families[count]);
            for (size_t i = 0; i < count; i++)
                ck_assert_str_ne(families[i], families[count]);
            count++;
            samples = 0;
            typed = false;
        } else if (strncmp(line, "# TYPE ", 7) == 0) {
            char name[64];
            ck_assert_msg(regexec(&type, line, 0, NULL, 0) == 0, "%s", line);
            sscanf(line, "# TYPE %63s %15s", name, kind);
            ck_assert_uint_gt(count, 0);
            ck_assert_str_eq(name, families[count - 1]);
            ck_assert(!typed);
            typed = true;
            size_t len = strlen(name);
            bool total = len > 6 && strcmp(name + len - 6, "_total") == 0;
            ck_assert_msg(total == (strcmp(kind, "counter") == 0), "%s", line);
        } else {
            ck_assert_msg(regexec(&line_form, line, 0, NULL, 0) == 0, "%s", line);
            ck_assert(typed);
            size_t len = strlen(families[count - 1]);
            ck_assert_msg(strncmp(line, families[count - 1], len) == 0, "%s", line);
            const char *suffix = line + len;
            bool histogram = strcmp(kind, "histogram") == 0;
            ck_assert_msg(histogram ? strncmp(suffix, "_bucket{le=\"", 12) == 0 ||
                                          strncmp(suffix, "_sum ", 5) == 0 ||
                                          strncmp(suffix, "_count ", 7) == 0
                                    : *suffix == ' ' || *suffix == '{',
                          "%s", line);
            samples++;
        }
    }
    ck_assert_uint_gt(samples, 0);
    ck_assert_uint_gt(count, 15);
    regfree(&help);
    regfree(&type);
    regfree(&line_form);
    mem_free(text);
}
END_TEST

enum { COORDINATOR = 1, FOLLOWER = 2, SHARD = COORDINATOR | FOLLOWER, WORKER = 4 };

static const struct {
    enum metric metric;
    int roles;
    bool gauge, late;
    const char *name, *labels;
    const char *suffix; /* of the sample that is looked for */
} rows[] = {
#define COUNTER(id, roles, name, labels, help) {METRIC_##id, roles, false, false, name, labels, ""},
#define GAUGE(id, roles, name, labels, help) {METRIC_##id, roles, true, false, name, labels, ""},
#define LATE_GAUGE(id, roles, name, labels, help)                                                  \
    {METRIC_##id, roles, true, true, name, labels, ""},
#define HISTOGRAM(id, roles, name, divisor, bounds, help)                                          \
    {METRIC_##id, roles, false, false, name, "", "_count"},
#include "common/metrics.def"
#undef COUNTER
#undef GAUGE
#undef LATE_GAUGE
#undef HISTOGRAM
};

/* Looks for each row of the table on both pages of a process, and in their heads. */
static void check_rows(size_t process, bool late_set) {
    const char *role = processes[process].role;
    char *text = metrics_text(role, processes[process].number);
    json_t *json = metrics_json(role, processes[process].number);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        bool expected = (rows[i].roles & 1 << process) && (late_set || !rows[i].late);
        const char *labels = rows[i].labels;
        char name[128], head[128];
        snprintf(name, sizeof name, labels[0] ? "%s%s{%s}" : "%s%s%s", rows[i].name, rows[i].suffix,
                 labels);
        snprintf(head, sizeof head, "# TYPE %s ", rows[i].name);
        ck_assert_msg((sample(text, name) >= 0) == expected, "%s %zu: %s", role, process, name);
        ck_assert_msg((strstr(text, head) != NULL) == expected, "%s %zu: %s", role, process, head);
        ck_assert_msg((json_object_get(json, rows[i].name) != NULL) == expected, "%s %zu: %s", role,
                      process, rows[i].name);
    }
    json_decref(json);
    mem_free(text);
}

/* A page holds the rows that the table gives its process and no other, whatever was set. */
START_TEST(test_roles) {
    check_rows((size_t)_i, false);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].gauge)
            metric_set(rows[i].metric, 0);
    check_rows((size_t)_i, true);
}
END_TEST

static bool has(const char *role, int number, const char *name) {
    char *text = metrics_text(role, number);
    bool found = strstr(text, name) != NULL;
    mem_free(text);
    return found;
}

/* And the table gives them as they are written: a few that a wrong figure was seen of. */
START_TEST(test_roles_known) {
    static const char *const shards[] = {"graphps_pushes_total", "graphps_block_updates_total",
                                         "graphps_checkpoint_generation"};
    static const char *const coordinators[] = {"graphps_workers_live", "graphps_workers_lost_total",
                                               "graphps_clock_slowest", "graphps_clock_fastest"};
    static const char *const workers[] = {"graphps_steps_total", "graphps_step_seconds",
                                          "graphps_worker_pushes_total"};
    static const char *const all[] = {"graphps_connections ", "graphps_ready ",
                                      "graphps_waiting_seconds "};
    for (size_t i = 0; i < ARRAY_LEN(shards); i++)
        ck_assert_msg(has("shard", 1, shards[i]) && !has("worker", 1, shards[i]), "%s", shards[i]);
    for (size_t i = 0; i < ARRAY_LEN(coordinators); i++)
        ck_assert_msg(has("shard", 0, coordinators[i]) && !has("shard", 1, coordinators[i]) &&
                          !has("worker", 0, coordinators[i]),
                      "%s", coordinators[i]);
    for (size_t i = 0; i < ARRAY_LEN(workers); i++)
        ck_assert_msg(has("worker", 0, workers[i]) && !has("shard", 0, workers[i]), "%s",
                      workers[i]);
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        ck_assert_msg(has("worker", 0, all[i]) && has("shard", 0, all[i]) &&
                          has("shard", 1, all[i]),
                      "%s", all[i]);
}
END_TEST

/* What no epoch has shown yet is absent, not 0; then it is there, even if it is 0 or no number. */
START_TEST(test_late_gauges) {
    static const enum metric late[] = {METRIC_TRAIN_LOSS, METRIC_TRAIN_ACCURACY,
                                       METRIC_VALID_ACCURACY, METRIC_TEST_ACCURACY};
    static const char *const names[] = {"graphps_train_loss", "graphps_train_accuracy_ratio",
                                        "graphps_valid_accuracy_ratio",
                                        "graphps_test_accuracy_ratio"};
    static const double values[] = {NAN, 0, 0.75, 0.815};
    static const char *const lines[] = {
        "\ngraphps_train_loss NaN\n", "\ngraphps_train_accuracy_ratio 0\n",
        "\ngraphps_valid_accuracy_ratio 0.75\n", "\ngraphps_test_accuracy_ratio 0.815\n"};
    for (size_t i = 0; i < ARRAY_LEN(late); i++) {
        ck_assert_msg(!has("shard", 0, names[i]), "%s", names[i]);
        metric_set(late[i], values[i]);
        ck_assert_msg(has("shard", 0, lines[i]), "%s", lines[i]);
        ck_assert_msg(!has("shard", 1, names[i]) && !has("worker", 0, names[i]), "%s", names[i]);
    }
    json_t *json = metrics_json("shard", 0);
    ck_assert(json_number_value(json_object_get(json, "graphps_test_accuracy_ratio")) == 0.815);
    json_decref(json);
}
END_TEST

/* A histogram's buckets are cumulative, in seconds, end in +Inf = count, and sum and count fit. */
START_TEST(test_text_histogram) {
    for (int i = 0; i < 4; i++)
        metric_record(METRIC_CHECKPOINT_TIME, 500000);     /* 0.5 ms */
    metric_record(METRIC_CHECKPOINT_TIME, 5000000000u);    /* 5 s */
    metric_record(METRIC_CHECKPOINT_TIME, 3600000000000u); /* 1 h */
    char *text = metrics_text("shard", 1);
    ck_assert(sample(text, "graphps_checkpoint_seconds_bucket{le=\"0.001\"}") == 4);
    ck_assert(sample(text, "graphps_checkpoint_seconds_bucket{le=\"1\"}") == 4);
    ck_assert(sample(text, "graphps_checkpoint_seconds_bucket{le=\"10\"}") == 5);
    ck_assert(sample(text, "graphps_checkpoint_seconds_bucket{le=\"60\"}") == 5);
    ck_assert(sample(text, "graphps_checkpoint_seconds_bucket{le=\"+Inf\"}") == 6);
    ck_assert(sample(text, "graphps_checkpoint_seconds_count") == 6);
    ck_assert(fabs(sample(text, "graphps_checkpoint_seconds_sum") - 3605.002) < 1e-6);
    mem_free(text);
}
END_TEST

/* The process's own numbers are those of this process, now. */
START_TEST(test_process) {
    char *text = metrics_text("worker", -1);
    double rss = sample(text, "process_resident_memory_bytes");
    ck_assert(rss > 1e5 && rss < 1e10);
    ck_assert(sample(text, "process_cpu_seconds_total") >= 0);
    double age = (double)time(NULL) - sample(text, "process_start_time_seconds");
    ck_assert_msg(age > -2 && age < 600, "%f s old", age);
    ck_assert_ptr_nonnull(strstr(text, "\ngraphps_build_info{version=\"" GRAPHPS_VERSION
                                       "\",role=\"worker\",number=\"\"} 1\n"));
    mem_free(text);

    uint64_t before = process_rss_bytes(), size = 32u << 20;
    char *large = mem_alloc(size);
    ck_assert_uint_ge(process_rss_bytes(), before + size / 2);
    mem_free(large);
    ck_assert_uint_ge(process_rss_peak_bytes(), before + size / 2);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("metrics");
    TCase *tcase = tcase_create("metrics");
    tcase_add_test(tcase, test_threads);
    tcase_add_test(tcase, test_cells_are_reused);
    tcase_add_test(tcase, test_json);
    tcase_add_loop_test(tcase, test_text_form, 0, ARRAY_LEN(processes));
    tcase_add_loop_test(tcase, test_roles, 0, ARRAY_LEN(processes));
    tcase_add_test(tcase, test_roles_known);
    tcase_add_test(tcase, test_late_gauges);
    tcase_add_test(tcase, test_text_histogram);
    tcase_add_test(tcase, test_process);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
