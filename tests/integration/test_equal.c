/* Sharing the work changes nothing: P workers in bsp end where one loop without any network ends,
 * and where they end depends on the seed alone, to the bit, whatever crashes in between. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "server/optimizer.h"
#include "server/schedule.h"
#include "tests/job.h"
#include "tests/test.h"
#include "worker/graph/sampler.h"
#include "worker/kernels/kernels.h"
#include "worker/model/model.h"

enum { NODES = 600, CLASSES = 5, FEATURES = 24, STEPS = 60 };

static void make_graph(void) {
    job_make_graph(NODES, CLASSES, FEATURES);
    job_cut(1);
    job_cut(2);
    job_cut(4);
}

/* Momentum, since its update is linear in the gradient: rounding stays rounding. (adam divides by
 * the gradient's own size, so that where it is 0 but for rounding, rounding decides the step.) */
static struct cluster *new_job(int shards, int workers, int epochs) {
    struct cluster *cluster = job_new(shards, workers, "bsp", epochs);
    cluster_set(cluster, "optimizer.kind=momentum");
    cluster_set(cluster, "optimizer.lr=0.2");
    cluster_set(cluster, "optimizer.weight_decay=1e-4");
    cluster_set(cluster, "model.input_dropout=0.2");
    cluster_set(cluster, "optimizer.schedule=cosine");
    cluster_set(cluster, "optimizer.warmup=10");
    cluster_set(cluster, "optimizer.lr_min=0.1");
    cluster_set(cluster, "train.label_smoothing=0.1");
    return cluster;
}

/* --- one process ------------------------------------------------------------------------------ */

/* What one process without servers makes of a job over so many parts of the graph: each part's
 * gradient, their mean by training nodes, a step; of statistics, a step's share of the running
 * ones. 1 part: the whole graph. */
struct alone {
    struct config *config;
    struct snapshot *snapshot;
    struct layout *layout;
    struct optimizer optimizer;
    struct schedule schedule;
    int parts;
    struct store *stores[2];
    struct full_batch *full[2];
    struct model *models[2];
    float *weights, *next, *gradient, *part, *state; /* [layout->floats], state times its floats */
};

static struct alone *alone_new(int parts, const char *set) {
    static const char *const sets[] = {"job.seed=7",
                                       "model.hidden=16",
                                       "model.dropout=0.5",
                                       "model.input_dropout=0.2",
                                       "optimizer.kind=momentum",
                                       "optimizer.lr=0.2",
                                       "optimizer.weight_decay=1e-4",
                                       "optimizer.schedule=cosine",
                                       "optimizer.warmup=10",
                                       "optimizer.lr_min=0.1",
                                       "train.label_smoothing=0.1",
                                       "train.epochs=60"};
    struct alone *alone = mem_alloc(sizeof *alone);
    struct error err;
    alone->config = config_new();
    alone->parts = parts;
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++)
        ck_assert_msg(config_set(alone->config, sets[i], &err) == 0, "%s", err.text);
    ck_assert_msg(config_set(alone->config, set, &err) == 0, "%s", err.text);
    ck_assert_msg(snapshot_open(job_snapshot(), false, &alone->snapshot, &err) == 0, "%s",
                  err.text);
    struct model_spec spec;
    model_spec_from(alone->config, alone->snapshot->feature_dim, alone->snapshot->classes, &spec);
    kernels_set_threads(1);
    for (int p = 0; p < parts; p++) {
        if (parts == 1)
            alone->stores[p] = store_from_snapshot(alone->snapshot, false);
        else
            ck_assert_msg(store_open(job_snapshot(), (uint32_t)parts, 2, (uint32_t)p, false, false,
                                     &alone->stores[p], &err) == 0,
                          "%s", err.text);
        alone->full[p] = full_batch_new(alone->stores[p], &spec.hops);
        alone->models[p] = model_new(&spec);
    }
    struct tensor_spec *tensors;
    size_t count = model_tensors(&spec, &tensors);
    /* One block a tensor. */
    ck_assert_msg(layout_new(tensors, count, 1 << 20, 1, &alone->layout, &err) == 0, "%s",
                  err.text);
    mem_free(tensors);
    optimizer_init(&alone->optimizer, alone->config);
    schedule_init(&alone->schedule, alone->config);
    size_t n = alone->layout->floats;
    alone->weights = mem_array(n, sizeof(float));
    alone->next = mem_array(n, sizeof(float));
    alone->gradient = mem_array(n, sizeof(float));
    alone->part = mem_array(n, sizeof(float));
    alone->state = mem_array(n * optimizer_state_floats(&alone->optimizer), sizeof(float));
    for (size_t b = 0; b < alone->layout->block_count; b++)
        layout_init_block(alone->layout, (uint32_t)b, (uint64_t)alone->config->job_seed,
                          alone->weights + alone->layout->blocks[b].offset);
    return alone;
}

static void alone_step(struct alone *alone, uint64_t step) {
    const struct layout *layout = alone->layout;
    size_t state_floats = optimizer_state_floats(&alone->optimizer);
    memset(alone->gradient, 0, layout->floats * sizeof(float));
    for (int p = 0; p < alone->parts; p++) {
        struct batch batch = *full_batch_get(alone->full[p]);
        batch.step = step;
        model_forward(alone->models[p], &batch, alone->weights, true, NULL);
        model_backward(alone->models[p], &batch, alone->weights, alone->part);
        float share = (float)batch.train_count / (float)alone->stores[p]->train_nodes_total;
        for (size_t i = 0; i < layout->floats; i++)
            alone->gradient[i] += share * alone->part[i];
    }
    alone->optimizer.lr = schedule_rate(&alone->schedule, step); /* a step is an epoch */
    for (size_t b = 0; b < layout->block_count; b++) {
        const struct layout_block *block = &layout->blocks[b];
        const struct tensor_spec *tensor = &layout->tensors[block->tensor];
        float *weights = alone->weights + block->offset, *next = alone->next + block->offset;
        const float *gradient = alone->gradient + block->offset;
        for (uint32_t i = 0; tensor->statistic && i < block->floats; i++)
            next[i] = 0.9F * weights[i] + 0.1F * gradient[i];
        if (!tensor->statistic)
            optimizer_step(&alone->optimizer, block->floats, weights, gradient,
                           alone->state + block->offset * state_floats, step + 1, tensor->decay,
                           next);
    }
    memcpy(alone->weights, alone->next, layout->floats * sizeof(float));
}

static float *train_alone(int parts, const char *set, int steps, uint64_t *ret_floats) {
    struct alone *alone = alone_new(parts, set);
    for (int step = 0; step < steps; step++)
        alone_step(alone, (uint64_t)step);
    float *weights = alone->weights;
    *ret_floats = alone->layout->floats;
    for (int p = 0; p < parts; p++) {
        model_free(alone->models[p]);
        full_batch_free(alone->full[p]);
        store_close(alone->stores[p]);
    }
    snapshot_close(alone->snapshot);
    layout_free(alone->layout);
    mem_free(alone->state);
    mem_free(alone->part);
    mem_free(alone->gradient);
    mem_free(alone->next);
    config_free(alone->config);
    mem_free(alone);
    return weights;
}

/* --- the tests -------------------------------------------------------------------------------- */

/* G11: P = 1, 2, 4 workers with 1, 2, 3 shards, dropout on, halo = layers: after 60 steps every
 * weight is within 1e-3 of itself, or of the root mean square of all weights, of what one process
 * without a network makes of it. */
static void check_equal(struct cluster *cluster, int parts, const char *set) {
    uint64_t floats, alone_floats;
    float *alone = train_alone(parts, set, STEPS, &alone_floats);
    cluster_start(cluster);
    job_wait(cluster);
    float *weights = job_weights(job_dir(cluster), "last", &floats);

    ck_assert_uint_eq(floats, alone_floats);
    double squares = 0, moved = 0;
    for (uint64_t i = 0; i < floats; i++)
        squares += (double)alone[i] * alone[i];
    double scale = sqrt(squares / (double)floats);
    uint64_t before_floats;
    float *before = train_alone(parts, set, STEPS - 1, &before_floats);
    for (uint64_t i = 0; i < floats; i++)
        moved = fmax(moved, fabs((double)alone[i] - before[i]));
    /* One step more or less would be seen. */
    ck_assert_double_gt(moved, 3e-3 * scale);
    test_floats_equal("weights", weights, alone, floats, 1e-3, 1e-3 * scale);
    mem_free(before);
    mem_free(weights);
    mem_free(alone);
}

START_TEST(many_processes_equal_one) {
    static const struct { int shards, workers; } rows[] = {{1, 1}, {2, 2}, {3, 4}};
    struct cluster *cluster = new_job(rows[_i].shards, rows[_i].workers, STEPS);
    check_equal(cluster, 1, "model.norm=none");
    cluster_free(cluster);
}
END_TEST

/* Batch normalisation: each worker by its own batch; the running statistics that the shards keep
 * are the weighted mean of all workers', step by step. */
START_TEST(running_statistics_are_of_all_workers) {
    struct cluster *cluster = new_job(2, 2, STEPS);
    cluster_set(cluster, "model.norm=batch");
    check_equal(cluster, 2, "model.norm=batch");
    cluster_free(cluster);
}
END_TEST

enum disturbance { NOTHING, WORKER_KILLED, WORKER_FROZEN };

/* Trains with 2 workers and 2 shards, something happening in the middle; last and best weights, one
 * after the other. */
static float *train_disturbed(enum disturbance disturbance, uint64_t *ret_floats) {
    struct cluster *cluster = new_job(2, 2, 600);
    cluster_set(cluster, "model.norm=batch"); /* its running statistics are state, too */
    cluster_set(cluster, "checkpoint.every_s=1");
    cluster_start(cluster);
    if (disturbance != NOTHING) {
        cluster_wait_log(cluster, CLUSTER_WORKER, 1, " sequence=30\n", CLUSTER_TIMEOUT_MS);
        /* The others cannot go on without it, so this is the middle of the run. */
        cluster_signal(cluster, CLUSTER_WORKER, 1, SIGSTOP);
        ck_assert_uint_eq(job_log_count(cluster_child(cluster, CLUSTER_WORKER, 1), " finished "),
                          0);
    }
    if (disturbance == WORKER_KILLED) {
        cluster_kill(cluster, CLUSTER_WORKER, 1);
        cluster_start_one(cluster, CLUSTER_WORKER, 1);
        cluster_wait_log(cluster, CLUSTER_WORKER, 1, "training step=", CLUSTER_TIMEOUT_MS);
        ck_assert_uint_gt(
            job_log_number(cluster_child(cluster, CLUSTER_WORKER, 1), "training step="), 0);
    } else if (disturbance == WORKER_FROZEN) {
        /* Until the other one asks what it is waiting for. */
        cluster_wait_log(cluster, CLUSTER_WORKER, 0, "waiting for=", CLUSTER_TIMEOUT_MS);
        cluster_signal(cluster, CLUSTER_WORKER, 1, SIGCONT);
    }
    job_wait(cluster);

    uint64_t last_floats, best_floats;
    float *last = job_weights(job_dir(cluster), "last", &last_floats);
    float *best = job_weights(job_dir(cluster), "best", &best_floats);
    ck_assert_uint_eq(last_floats, best_floats);
    float *both = mem_array(last_floats + best_floats, sizeof *both);
    memcpy(both, last, last_floats * sizeof *both);
    memcpy(both + last_floats, best, best_floats * sizeof *both);
    mem_free(last);
    mem_free(best);
    *ret_floats = last_floats + best_floats;
    cluster_free(cluster);
    return both;
}

/* G10: the same seed gives the same bits in bsp, again, with a worker killed and restarted in the
 * middle, and with a worker that stood still. */
START_TEST(the_same_seed_gives_the_same_bits) {
    uint64_t floats, other_floats;
    float *once = train_disturbed(NOTHING, &floats);
    for (enum disturbance how = NOTHING; how <= WORKER_FROZEN; how++) {
        float *other = train_disturbed(how, &other_floats);
        ck_assert_uint_eq(other_floats, floats);
        for (uint64_t i = 0; i < floats; i++)
            ck_assert_msg(memcmp(&once[i], &other[i], sizeof once[i]) == 0,
                          "disturbance %d: weight %llu is %.9g, was %.9g", how,
                          (unsigned long long)i, (double)other[i], (double)once[i]);
        mem_free(other);
    }
    mem_free(once);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("equal");
    TCase *tests = tcase_create("equal");
    tcase_set_timeout(tests, 280);
    tcase_add_unchecked_fixture(tests, make_graph, NULL);
    tcase_add_loop_test(tests, many_processes_equal_one, 0, 3);
    tcase_add_test(tests, running_statistics_are_of_all_workers);
    tcase_add_test(tests, the_same_seed_gives_the_same_bits);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
