/* Jobs on a generated graph, for the cluster tests. */
#include "tests/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "server/checkpoint.h"
#include "tests/graphs.h"
#include "tests/test.h"
#include "worker/graph/partition.h"
#include "worker/model/tensors.h"

enum { DEGREE = 6, GRAPH_SEED = 5, HALO = 2, END_TIMEOUT_MS = 120000 };

static char root[300], snapshot_dir[400];

void job_make_graph(uint32_t nodes, uint32_t classes, uint32_t features) {
    snprintf(root, sizeof root, "%s", test_tmpdir());
    snprintf(snapshot_dir, sizeof snapshot_dir, "%s",
             graphs_snapshot(root, "community", nodes, classes, DEGREE, features, GRAPH_SEED));
}

const char *job_root(void) {
    return root;
}

const char *job_snapshot(void) {
    return snapshot_dir;
}

void job_cut(uint32_t parts) {
    struct snapshot *snapshot = NULL;
    struct error err;
    bool existed;
    ck_assert_msg(snapshot_open(snapshot_dir, false, &snapshot, &err) == 0, "%s", err.text);
    ck_assert_msg(partition_make(snapshot, parts, HALO, 1, &existed, &err) == 0, "%s", err.text);
    snapshot_close(snapshot);
}

struct cluster *job_new(int shards, int workers, const char *mode, int epochs) {
    struct cluster *cluster = cluster_new(shards, workers);
    cluster_write_job(cluster,
                      "job: {name: integration, seed: 7, dir: '%s'}\n"
                      "data: {root: '%s', snapshot: community}\n"
                      "model: {kind: gcn, layers: 2, hidden: 16, dropout: 0.5}\n"
                      "train: {epochs: %d, threads: 1}\n"
                      "optimizer: {kind: adam, lr: 0.02}\n"
                      "consistency: {mode: %s}\n"
                      "servers: {block_bytes: 512}\n"
                      "workers: {lease_ms: 60000}\n"
                      "checkpoint: {keep: 1000}\n"
                      "log: {level: debug}\n",
                      job_dir(cluster), root, epochs, mode);
    return cluster;
}

void job_pace(struct cluster *cluster, int ms) {
    char set[64];
    snprintf(set, sizeof set, "aggregation.max_wait_ms=%d", ms);
    cluster_set(cluster, set);
    cluster_set(cluster, "aggregation.max_pushes=4096");
}

const char *job_dir(const struct cluster *cluster) {
    return test_path(cluster_dir(cluster), "run");
}

void job_wait(struct cluster *cluster) {
    for (int role = CLUSTER_WORKER; role >= CLUSTER_SHARD; role--)
        for (int i = 0; i < cluster_count(cluster, role); i++)
            child_expect(cluster_child(cluster, role, i), 0, END_TIMEOUT_MS);
}

static uint32_t epoch_number(const json_t *coordinator, const char *which) {
    return (uint32_t)json_integer_value(
        json_object_get(json_object_get(coordinator, which), "epoch"));
}

struct job_end job_end(const char *dir) {
    struct tensor_spec *tensors = NULL;
    float *weights = NULL;
    size_t count;
    json_t *coordinator = NULL;
    struct job_end end = {0};
    struct error err;
    ck_assert_msg(checkpoint_collect(dir, false, &tensors, &count, &weights, &end.generation,
                                     &coordinator, &err) == 0,
                  "%s", err.text);
    const json_t *best = json_object_get(coordinator, "best");
    end.best_epoch = epoch_number(coordinator, "best");
    end.last_epoch = epoch_number(coordinator, "last");
    end.valid_accuracy = json_number_value(json_object_get(best, "valid_accuracy"));
    end.test_accuracy = json_number_value(json_object_get(best, "test_accuracy"));
    json_decref(coordinator);
    mem_free(tensors);
    mem_free(weights);
    return end;
}

float *job_weights(const char *dir, const char *which, uint64_t *ret_floats) {
    char out[600], option[32], *output;
    snprintf(out, sizeof out, "%s/%s.safetensors", dir, which);
    snprintf(option, sizeof option, "--which=%s", which);
    const char *const argv[] = {
        child_program("graphps"), "export", dir, option, "--out", out, NULL};
    int code = child_run(argv, CLUSTER_TIMEOUT_MS, &output);
    ck_assert_msg(code == 0, "graphps export ended with %d: %s", code, output);
    free(output);

    struct tensor_spec *tensors;
    size_t count;
    float *weights;
    json_t *metadata;
    struct error err;
    ck_assert_msg(tensors_read(out, &tensors, &count, &weights, &metadata, &err) == 0, "%s",
                  err.text);
    *ret_floats = 0;
    for (size_t i = 0; i < count; i++)
        *ret_floats += (uint64_t)tensors[i].rows * tensors[i].cols;
    json_decref(metadata);
    mem_free(tensors);
    return weights;
}

size_t job_log_count(struct child *child, const char *text) {
    char *log = child_log(child);
    size_t count = 0;
    for (const char *at = log; (at = strstr(at, text)); at += strlen(text))
        count++;
    free(log);
    return count;
}

uint64_t job_log_number(struct child *child, const char *text) {
    char *log = child_log(child), *last = NULL;
    for (char *at = log; (at = strstr(at, text)); at += strlen(text))
        last = at + strlen(text);
    ck_assert_msg(last && *last >= '0' && *last <= '9', "%s: no number after \"%s\" in its log",
                  child->name, text);
    uint64_t number = strtoull(last, NULL, 10);
    free(log);
    return number;
}

double job_metric(struct cluster *cluster, enum cluster_role role, int number, const char *row) {
    int status;
    char *page = cluster_get(cluster_http_address(cluster, role, number), "/metrics", &status);
    ck_assert_int_eq(status, 200);
    size_t len = strlen(row);
    const char *at = page;
    while (at && !(strncmp(at, row, len) == 0 && at[len] == ' ')) {
        at = strchr(at, '\n');
        at = at ? at + 1 : NULL;
    }
    ck_assert_msg(at, "/metrics has no row \"%s\":\n%s", row, page);
    double value = strtod(at + len, NULL);
    free(page);
    return value;
}
