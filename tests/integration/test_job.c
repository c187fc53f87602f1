/* A whole job of processes started by hand: in any order, numbers from the environment, watched
 * from start to end. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/job.h"
#include "tests/peer.h"
#include "tests/test.h"

enum { NODES = 800, CLASSES = 5, FEATURES = 32, EPOCHS = 240, PACE_MS = 40 };
/* What the graph gives with certainty: 98 % and more were seen, chance is 20 %. */
static const double accuracy_min = 0.90;

static void make_graph(void) {
    job_make_graph(NODES, CLASSES, FEATURES);
    job_cut(2);
}

/* Asks for a page; its text is not kept. */
static int page_status(struct cluster *cluster, enum cluster_role role, int number,
                       const char *path) {
    int status;
    free(cluster_get(cluster_http_address(cluster, role, number), path, &status));
    return status;
}

/* --- /metrics, as a scraper reads it ---------------------------------------------------------- */

static size_t name_length(const char *at) {
    size_t n = 0;
    while (isalnum((unsigned char)at[n]) || at[n] == '_' || at[n] == ':')
        n++;
    return isdigit((unsigned char)at[0]) ? 0 : n;
}

/* name{label="value",...} number */
static void check_sample(const char *line, const char *family, size_t family_len) {
    size_t name_len = name_length(line);
    const char *at = line + name_len;
    ck_assert_msg(name_len >= family_len && family_len > 0 &&
                      strncmp(line, family, family_len) == 0,
                  "not below its own HELP and TYPE: %s", line);
    if (*at == '{') {
        do {
            size_t label_len = name_length(at + 1);
            ck_assert_msg(label_len > 0 && strncmp(at + 1 + label_len, "=\"", 2) == 0, "%s", line);
            at += 1 + label_len + 2;
            while (*at && *at != '"')
                at += *at == '\\' ? 2 : 1;
            ck_assert_msg(*at == '"', "%s", line);
            at++;
        } while (*at == ',');
        ck_assert_msg(*at++ == '}', "%s", line);
    }
    char *end;
    ck_assert_msg(*at == ' ', "%s", line);
    strtod(at + 1, &end);
    ck_assert_msg(end > at + 1 && *end == 0, "%s", line);
}

/* Every line is a HELP, a TYPE or a sample of the family announced last; no family comes twice. */
static void check_metrics(struct cluster *cluster, enum cluster_role role, int number) {
    int status;
    char *page = cluster_get(cluster_http_address(cluster, role, number), "/metrics", &status);
    ck_assert_int_eq(status, 200);
    ck_assert_msg(page[0] && page[strlen(page) - 1] == '\n', "the last line does not end");
    char families[200][80];
    size_t family_count = 0, samples = 0, family_len = 0;
    const char *family = "";
    for (char *line = strtok(page, "\n"); line; line = strtok(NULL, "\n")) {
        if (strncmp(line, "# HELP ", 7) == 0) {
            family = line + 7;
            family_len = name_length(family);
            ck_assert_msg(family_len > 0 && family_len < sizeof families[0], "%s", line);
            ck_assert_msg(family[family_len] == ' ' && family[family_len + 1], "no help: %s", line);
            for (size_t i = 0; i < family_count; i++)
                ck_assert_msg(strlen(families[i]) != family_len ||
                                  strncmp(families[i], family, family_len) != 0,
                              "comes twice: %s", line);
            ck_assert_uint_lt(family_count, 200);
            snprintf(families[family_count++], sizeof families[0], "%.*s", (int)family_len, family);
        } else if (strncmp(line, "# TYPE ", 7) == 0) {
            ck_assert_msg(strncmp(line + 7, family, family_len) == 0 && line[7 + family_len] == ' ',
                          "%s", line);
            const char *type = line + 8 + family_len;
            ck_assert_msg(strcmp(type, "counter") == 0 || strcmp(type, "gauge") == 0 ||
                              strcmp(type, "histogram") == 0,
                          "%s", line);
        } else {
            check_sample(line, family, family_len);
            samples++;
        }
    }
    ck_assert_uint_gt(samples, 30);
    free(page);
}

/* --- the tests -------------------------------------------------------------------------------- */

/* A training job is watched: pages of every process, the status over the wire and in a table. */
static void watch(struct cluster *cluster) {
    for (int role = 0; role < 2; role++)
        for (int i = 0; i < 2; i++) {
            ck_assert_int_eq(page_status(cluster, role, i, "/healthz"), 200);
            ck_assert_int_eq(page_status(cluster, role, i, "/readyz"), 200);
            ck_assert_int_eq(page_status(cluster, role, i, "/"), 200);
            ck_assert_int_eq(page_status(cluster, role, i, "/nothing"), 404);
            check_metrics(cluster, role, i);
            json_t *stats = cluster_stats(cluster, role, i);
            const char *name = role == CLUSTER_SHARD ? "shard" : "rank";
            ck_assert_msg(json_is_object(json_object_get(stats, "metrics")), "/stats of %s %d",
                          name, i);
            ck_assert_int_eq(json_integer_value(json_object_get(stats, name)), i);
            json_decref(stats);
        }
    ck_assert_double_gt(
        job_metric(cluster, CLUSTER_SHARD, 1, "graphps_pushes_total{result=\"applied\"}"), 0);
    ck_assert_double_gt(job_metric(cluster, CLUSTER_WORKER, 1, "graphps_steps_total"), 0);
    ck_assert_double_eq(job_metric(cluster, CLUSTER_SHARD, 0, "graphps_workers_live"), 2);

    Graphps__Status *status = peer_status(cluster_address(cluster, 0), "integration");
    ck_assert_str_eq(status->state, "training");
    ck_assert_str_eq(status->mode, "async");
    ck_assert_uint_eq(status->epochs, EPOCHS);
    ck_assert_uint_eq(status->n_shards, 2);
    ck_assert_uint_eq(status->n_workers, 2);
    for (int i = 0; i < 2; i++) {
        ck_assert_str_eq(status->shards[i]->address, cluster_address(cluster, i));
        ck_assert_str_eq(status->shards[i]->http, cluster_http_address(cluster, CLUSTER_SHARD, i));
        ck_assert_uint_gt(status->shards[i]->parameters, 0);
        ck_assert_str_eq(status->workers[i]->state, "live");
        ck_assert_str_eq(status->workers[i]->http,
                         cluster_http_address(cluster, CLUSTER_WORKER, i));
    }
    ck_assert_uint_eq(status->workers[0]->owned_nodes + status->workers[1]->owned_nodes, NODES);
    wire_free(&status->base);

    char addresses[160], *table;
    snprintf(addresses, sizeof addresses, "servers.addresses=%s,%s", cluster_address(cluster, 0),
             cluster_address(cluster, 1));
    const char *const argv[] = {child_program("graphps"),
                                "status",
                                "--config",
                                cluster_job_path(cluster),
                                "--set",
                                addresses,
                                NULL};
    int code = child_run(argv, CLUSTER_TIMEOUT_MS, &table);
    ck_assert_msg(code == 0, "graphps status ended with %d: %s", code, table);
    static const char *const rows[] = {"shard 0", "shard 1", "worker 0", "worker 1"};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        ck_assert_msg(strstr(table, rows[i]), "no row \"%s\" in:\n%s", rows[i], table);
    free(table);
}

/* Workers first, shard 1 before shard 0, each told its number by another variable: the job trains,
 * can be watched all the while, and all end with 0. */
START_TEST(processes_find_each_other_in_any_order) {
    struct cluster *cluster = job_new(2, 2, "async", EPOCHS);
    job_pace(cluster, PACE_MS);
    cluster_reserve(cluster);
    cluster_number_from(cluster, "GRAPHPS_RANK");
    cluster_start_one(cluster, CLUSTER_WORKER, 1);
    cluster_number_from(cluster, "JOB_COMPLETION_INDEX");
    cluster_start_one(cluster, CLUSTER_WORKER, 0);
    ck_assert_int_eq(page_status(cluster, CLUSTER_WORKER, 1, "/healthz"), 200);
    ck_assert_int_eq(page_status(cluster, CLUSTER_WORKER, 1, "/readyz"), 503);
    cluster_number_from(cluster, "GRAPHPS_SHARD");
    cluster_start_one(cluster, CLUSTER_SHARD, 1);
    ck_assert_int_eq(page_status(cluster, CLUSTER_SHARD, 1, "/healthz"), 200);
    ck_assert_int_eq(page_status(cluster, CLUSTER_SHARD, 1, "/readyz"), 503);
    cluster_wait_log(cluster, CLUSTER_WORKER, 0, "worker is up", CLUSTER_TIMEOUT_MS);
    ck_assert_int_eq(page_status(cluster, CLUSTER_WORKER, 0, "/readyz"), 503);
    cluster_start_one(cluster, CLUSTER_SHARD, 0);

    /* Two pushes at most in each PACE_MS: that is more than a second, in which reports, heartbeats
     * and gauges bring what is looked at. */
    cluster_wait_log(cluster, CLUSTER_WORKER, 0, " sequence=70\n", CLUSTER_TIMEOUT_MS);
    cluster_wait_log(cluster, CLUSTER_WORKER, 1, " sequence=70\n", CLUSTER_TIMEOUT_MS);
    watch(cluster);
    job_wait(cluster);

    struct job_end end = job_end(job_dir(cluster));
    ck_assert_uint_eq(end.last_epoch, EPOCHS);
    ck_assert_double_ge(end.test_accuracy, accuracy_min);
    cluster_free(cluster);
}
END_TEST

/* bsp and ssp, and mini-batches of sampled neighbours, learn the same graph. */
START_TEST(every_mode_learns) {
    static const struct {
        const char *mode;
        int epochs;
        bool sampled;
    } rows[] = {{"bsp", 80, false}, {"ssp", 80, false}, {"async", 25, true}, {"bsp", 25, true}};
    struct cluster *cluster = job_new(2, 2, rows[_i].mode, rows[_i].epochs);
    if (rows[_i].sampled) {
        cluster_set(cluster, "train.mode=sampled");
        cluster_set(cluster, "train.batch_size=16");
        cluster_set(cluster, "train.fanout=4,4");
    }
    cluster_start(cluster);
    job_wait(cluster);
    struct job_end end = job_end(job_dir(cluster));
    ck_assert_uint_eq(end.last_epoch, rows[_i].epochs);
    ck_assert_msg(end.test_accuracy >= accuracy_min, "%s: test accuracy %.3f", rows[_i].mode,
                  end.test_accuracy);
    cluster_free(cluster);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("job");
    TCase *tests = tcase_create("job");
    tcase_set_timeout(tests, 280);
    tcase_add_unchecked_fixture(tests, make_graph, NULL);
    tcase_add_test(tests, processes_find_each_other_in_any_order);
    tcase_add_loop_test(tests, every_mode_learns, 0, 4);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
