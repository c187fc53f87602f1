/* Processes are killed in the middle of a run and come back: training completes, nothing that must
 * be there is lost, nothing counts twice, and the model is as good as undisturbed. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/file.h"
#include "common/mem.h"
#include "common/rng.h"
#include "server/checkpoint.h"
#include "tests/job.h"
#include "tests/test.h"

enum { NODES = 800, CLASSES = 5, FEATURES = 32, SHARDS = 2, WORKERS = 3, EPOCHS = 200 };
enum { BSP_EPOCHS = TEST_REPEATS(1500), PACE_MS = 50, SEED = 20 };
/* Pushes to one shard that a worker may have under way: two steps (worker/trainer.c), each of one
 * frame, since the whole model fits one. */
enum { IN_FLIGHT_MAX = 2 };

static struct checkpoint *read_checkpoint(struct cluster *cluster, uint64_t generation, int shard) {
    char name[CHECKPOINT_NAME_BYTES], path[600], *bytes;
    size_t len;
    struct checkpoint *checkpoint = NULL;
    struct error err;
    char *dir = checkpoint_store_dir(job_dir(cluster), generation);
    checkpoint_store_name((uint32_t)shard, SHARDS, name);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    mem_free(dir);
    ck_assert_msg(file_read_whole(path, 1 << 26, &bytes, &len, &err) == 0 &&
                      checkpoint_decode((const uint8_t *)bytes, len, &checkpoint, &err) == 0,
                  "%s", err.text);
    mem_free(bytes);
    ck_assert_uint_eq(checkpoint->ledger_count, WORKERS);
    return checkpoint;
}

/* How many pushes a worker has seen acknowledged by a shard in its present life, from a place in
 * its log on. */
static uint64_t acknowledged(struct cluster *cluster, int shard, int rank) {
    char text[80];
    snprintf(text, sizeof text, "push acknowledged shard=%d rank=%d ", shard, rank);
    return job_log_count(cluster_child(cluster, CLUSTER_WORKER, rank), text);
}

/* The highest sequence of those. Sequences begin at 1 and are acknowledged all in the end, so that
 * it is their number then. */
static uint64_t last_sequence(struct cluster *cluster, int shard, int rank) {
    char text[80];
    snprintf(text, sizeof text, "push acknowledged shard=%d rank=%d ", shard, rank);
    char *log = child_log(cluster_child(cluster, CLUSTER_WORKER, rank));
    uint64_t highest = 0, sequence;
    for (char *at = log; (at = strstr(at, text)); at += strlen(text)) {
        ck_assert_int_eq(sscanf(at + strlen(text), "incarnation=%*x sequence=%" SCNu64, &sequence),
                         1);
        highest = sequence > highest ? sequence : highest;
    }
    free(log);
    return highest;
}

static void wait_sequence(struct cluster *cluster, int shard, int rank, uint64_t sequence) {
    char incarnation[64], text[200];
    cluster_wait_log(cluster, CLUSTER_WORKER, rank, "worker is up", CLUSTER_TIMEOUT_MS);
    char *log = child_log(cluster_child(cluster, CLUSTER_WORKER, rank));
    const char *up = strstr(log, " incarnation=");
    ck_assert_ptr_nonnull(up);
    ck_assert_int_eq(sscanf(up, " incarnation=%16[0-9a-f]", incarnation), 1);
    free(log);
    snprintf(text, sizeof text,
             "push acknowledged shard=%d rank=%d incarnation=%s sequence=%" PRIu64 "\n", shard,
             rank, incarnation, sequence);
    cluster_wait_log(cluster, CLUSTER_WORKER, rank, text, CLUSTER_TIMEOUT_MS);
}

/* Until every worker has got `more` pushes acknowledged by a shard, and one of each further than it
 * could have when this was called. */
static void wait_progress(struct cluster *cluster, int shard, uint64_t more) {
    for (int rank = 0; rank < WORKERS; rank++)
        wait_sequence(cluster, shard, rank,
                      last_sequence(cluster, shard, rank) + IN_FLIGHT_MAX + more);
}

/* The newest generation complete when this is called, by shard 0's log. */
static uint64_t complete_generation(struct cluster *cluster) {
    struct child *child = cluster_child(cluster, CLUSTER_SHARD, 0);
    if (job_log_count(child, "checkpoint complete generation=") == 0)
        return 0;
    return job_log_number(child, "checkpoint complete generation=");
}

/* Until a generation is complete that was begun after this call. */
static uint64_t wait_generation(struct cluster *cluster) {
    char text[80];
    /* The next one may have been begun already, the one after it not. */
    uint64_t generation = complete_generation(cluster) + 2;
    snprintf(text, sizeof text, "checkpoint complete generation=%" PRIu64 "\n", generation);
    cluster_wait_log(cluster, CLUSTER_SHARD, 0, text, CLUSTER_TIMEOUT_MS);
    return generation;
}

static struct cluster *start_job(void) {
    struct cluster *cluster = job_new(SHARDS, WORKERS, "async", EPOCHS);
    job_pace(cluster, PACE_MS);
    cluster_set(cluster, "checkpoint.every_s=1");
    cluster_start(cluster);
    return cluster;
}

static double undisturbed; /* test accuracy of the same job when nothing happens */

static void set_up(void) {
    job_make_graph(NODES, CLASSES, FEATURES);
    job_cut(WORKERS);
    struct cluster *cluster = start_job();
    job_wait(cluster);
    undisturbed = job_end(job_dir(cluster)).test_accuracy;
    ck_assert_double_gt(undisturbed, 0.9);
    cluster_free(cluster);
}

/* What happened until the shard was killed. */
struct audit {
    int killed_rank;
    uint64_t first_life[SHARDS]; /* acknowledged to the killed worker's first life */
    uint64_t extra[SHARDS];      /* applied of it, the acknowledgement not read any more */
    uint64_t held;               /* by the killed shard's last complete checkpoint */
    uint64_t promised;           /* acknowledged by the killed shard in its first life */
    uint64_t lost;               /* of these, by its own count after it came back */
};

/* SIGKILL of one worker, and back. Afterwards a checkpoint tells how many pushes of the first life
 * were applied: all of the rank's but those of the second, which no crash has touched yet. */
static void crash_worker(struct cluster *cluster, int rank, struct audit *audit) {
    audit->killed_rank = rank;
    cluster_kill(cluster, CLUSTER_WORKER, rank);
    for (int shard = 0; shard < SHARDS; shard++)
        audit->first_life[shard] = acknowledged(cluster, shard, rank);
    cluster_start_one(cluster, CLUSTER_WORKER, rank);
    for (int shard = 0; shard < SHARDS; shard++) {
        char text[80];
        snprintf(text, sizeof text, "push acknowledged shard=%d rank=%d ", shard, rank);
        cluster_wait_log(cluster, CLUSTER_WORKER, rank, text, CLUSTER_TIMEOUT_MS);
    }
    uint64_t generation = wait_generation(cluster);
    for (int shard = 0; shard < SHARDS; shard++) {
        struct checkpoint *checkpoint = read_checkpoint(cluster, generation, shard);
        const struct ledger_entry *entry = &checkpoint->ledger[rank];
        uint64_t second_life = entry->floor + (uint64_t)__builtin_popcountll(entry->applied);
        audit->extra[shard] = entry->counted - second_life - audit->first_life[shard];
        ck_assert_msg(audit->extra[shard] <= IN_FLIGHT_MAX,
                      "shard %d: %" PRIu64 " pushes of rank %d counted, %" PRIu64
                      " of them by its second life, but %" PRIu64
                      " acknowledged to its first, with %d more under way at most",
                      shard, entry->counted, rank, second_life, audit->first_life[shard],
                      IN_FLIGHT_MAX);
        checkpoint_free(checkpoint);
    }
}

/* SIGKILL of one shard, and back. */
static void crash_shard(struct cluster *cluster, int shard, struct audit *audit) {
    uint64_t complete = complete_generation(cluster);
    cluster_kill(cluster, CLUSTER_SHARD, shard);
    char lost[60];
    snprintf(lost, sizeof lost, "connection lost shard=%d ", shard);
    for (int rank = 0; rank < WORKERS; rank++) {
        cluster_wait_log(cluster, CLUSTER_WORKER, rank, lost, CLUSTER_TIMEOUT_MS);
        audit->promised += acknowledged(cluster, shard, rank);
    }
    audit->promised += audit->first_life[shard] + audit->extra[shard];
    struct checkpoint *checkpoint = read_checkpoint(cluster, complete, shard);
    for (int rank = 0; rank < WORKERS; rank++)
        audit->held += checkpoint->ledger[rank].counted;
    checkpoint_free(checkpoint);

    cluster_start_one(cluster, CLUSTER_SHARD, shard);
    /* All have greeted it by then, so it knows what it has lost. */
    wait_progress(cluster, shard, 1);
    audit->lost = (uint64_t)job_metric(cluster, CLUSTER_SHARD, shard, "graphps_pushes_lost_total");
}

/* Of the pushes that workers saw acknowledged, a surviving shard holds all, and one that was killed
 * all but those after its last complete checkpoint that no worker could send again. With the
 * `extra` pushes of the killed worker, which were applied although it did not live to read the
 * acknowledgement:
 *
 *     counted by the shard's last ledger == acknowledged in all workers' lives + extra - lost
 *     lost <= acknowledged before the crash - held by the last complete checkpoint
 *
 * where lost, the killed shard's graphps_pushes_lost_total, is 0 on the other one. One push more
 * than that was applied twice, one less was dropped. */
static void check_ledgers(struct cluster *cluster, int killed, const struct audit *audit) {
    ck_assert_msg(audit->lost + audit->held <= audit->promised,
                  "shard %d lost %" PRIu64 " of %" PRIu64 " pushes; its checkpoint held %" PRIu64,
                  killed, audit->lost, audit->promised, audit->held);
    uint64_t generation = job_end(job_dir(cluster)).generation;
    for (int shard = 0; shard < SHARDS; shard++) {
        struct checkpoint *checkpoint = read_checkpoint(cluster, generation, shard);
        uint64_t counted = 0, seen = audit->first_life[shard] + audit->extra[shard];
        for (int rank = 0; rank < WORKERS; rank++) {
            const struct ledger_entry *entry = &checkpoint->ledger[rank];
            uint64_t life = acknowledged(cluster, shard, rank);
            ck_assert_uint_eq(last_sequence(cluster, shard, rank), life);
            ck_assert_uint_eq(entry->floor, life);
            ck_assert_uint_eq(entry->applied, 0);
            counted += entry->counted;
            seen += life;
        }
        uint64_t lost = shard == killed ? audit->lost : 0;
        ck_assert_msg(counted == seen - lost,
                      "shard %d counts %" PRIu64 " pushes; %" PRIu64 " were applied, %" PRIu64
                      " of these lost",
                      shard, counted, seen, lost);
        checkpoint_free(checkpoint);
    }
}

static void check_end(struct cluster *cluster) {
    struct job_end end = job_end(job_dir(cluster));
    ck_assert_uint_eq(end.last_epoch, EPOCHS);
    ck_assert_msg(end.test_accuracy >= undisturbed - 0.01, "test accuracy %.4f, undisturbed %.4f",
                  end.test_accuracy, undisturbed);
}

/* G1: two shards, three workers; a worker dies, then a shard (0 or 1), each in the middle of the
 * run: it completes, the ledgers add up, and the accuracy is within a point of an undisturbed
 * run's. */
START_TEST(nothing_is_lost_or_counted_twice) {
    uint64_t key = rng_key(SEED, (uint64_t)_i);
    struct audit audit = {0};
    struct cluster *cluster = start_job();
    for (int rank = 0; rank < WORKERS; rank++)
        wait_sequence(cluster, 1, rank, 10 + rng_below(rng_at(key, (uint64_t)rank), 10));
    crash_worker(cluster, (int)rng_below(rng_at(key, 100), WORKERS), &audit);
    wait_progress(cluster, _i, 1 + rng_below(rng_at(key, 101), 5));
    crash_shard(cluster, _i, &audit);
    job_wait(cluster);
    check_ledgers(cluster, _i, &audit);
    check_end(cluster);
    cluster_free(cluster);
}
END_TEST

/* Everybody waits for everybody in bsp; a shard that comes back with an older state must not make
 * them wait for ever. */
START_TEST(bsp_goes_on_after_a_shard_crash) {
    struct cluster *cluster = job_new(SHARDS, WORKERS, "bsp", BSP_EPOCHS);
    cluster_set(cluster, "checkpoint.every_s=1");
    cluster_start(cluster);
    cluster_wait_log(cluster, CLUSTER_WORKER, 1, " sequence=30\n", CLUSTER_TIMEOUT_MS);
    /* The others cannot go on without it, so that a checkpoint is due in the middle of the run. */
    cluster_signal(cluster, CLUSTER_WORKER, 1, SIGSTOP);
    cluster_wait_log(cluster, CLUSTER_SHARD, 0, "waiting for=\"rank 1: ", CLUSTER_TIMEOUT_MS);
    cluster_signal(cluster, CLUSTER_WORKER, 1, SIGCONT);
    cluster_wait_log(cluster, CLUSTER_SHARD, 0, "checkpoint complete", CLUSTER_TIMEOUT_MS);
    cluster_kill(cluster, CLUSTER_SHARD, _i);
    ck_assert_int_eq(cluster_child(cluster, CLUSTER_SHARD, _i)->code, 128 + SIGKILL);
    cluster_start_one(cluster, CLUSTER_SHARD, _i);
    job_wait(cluster);
    ck_assert_uint_eq(job_end(job_dir(cluster)).last_epoch, BSP_EPOCHS);
    cluster_free(cluster);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("crash");
    TCase *tests = tcase_create("crash");
    tcase_set_timeout(tests, 280);
    tcase_add_unchecked_fixture(tests, set_up, NULL);
    tcase_add_loop_test(tests, nothing_is_lost_or_counted_twice, 0, SHARDS);
    tcase_add_loop_test(tests, bsp_goes_on_after_a_shard_crash, 0, SHARDS);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
