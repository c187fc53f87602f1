/* Three thousand runs of the whole protocol in a world where frames are lost, doubled, late and out
 * of order, connections break, disks are full and processes of every kind die, stand still and come
 * twice. In each: no push is applied twice, none is acknowledged that is not applied, what a worker
 * has finished with is in the weights, the weights are what the batches make of them, the ledger
 * counts what is in them, nobody starts a step beyond the bound, bsp gives the bits of one process,
 * and everybody finishes.
 *
 *   test_sim          all seeds
 *   test_sim SEED     one, with the last lines of its trace */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "tests/sim/sim.h"
#include "tests/test.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SEEDS 1000
#else
#define SEEDS 3000
#endif
#define PATIENCE_MS 120000 /* after the last accident */

/* --- accidents --- */

static void restart_shard(struct world *world, uint32_t shard, uint64_t delay_ms) {
    if (world->shards[shard])
        proc_kill(world, world->shards[shard]);
    if (!world->starting_shard[shard])
        sim_at(world, delay_ms, (struct event){.kind = EVENT_START, .number = shard});
    world->starting_shard[shard] = true;
}

static void restart_worker(struct world *world, uint32_t rank, uint64_t delay_ms) {
    if (world->workers[rank])
        proc_kill(world, world->workers[rank]);
    if (!world->starting_worker[rank])
        sim_at(world, delay_ms,
               (struct event){.kind = EVENT_START, .number = rank, .to_client = true});
    world->starting_worker[rank] = true;
}

static void accident_cut(struct world *world) {
    struct proc *shard = world->shards[sim_random(world, SIM_SHARDS)];
    if (!shard || shard->served_count == 0)
        return;
    struct pipe *pipe = shard->served[sim_random(world, shard->served_count)];
    sim_trace(world, "-- the connection of %s %u to shard %u breaks",
              pipe->client->is_worker ? "worker" : "shard", pipe->client->number, pipe->shard);
    pipe_cut(pipe);
}

static void accident_pause(struct world *world) {
    struct proc *proc = world->procs[sim_random(world, world->proc_count)];
    if (!proc->alive)
        return;
    uint64_t pause_ms = 20 + sim_random(world, world->harsh ? 1200 : 250);
    sim_trace(world, "-- %s %u stands still for %" PRIu64 " ms",
              proc->is_worker ? "worker" : "shard", proc->number, pause_ms);
    proc->paused_ms = world->now_ms + pause_ms;
}

static void accident_rival(struct world *world, uint32_t rank) {
    if (!world->workers[rank] || world->starting_worker[rank])
        return;
    sim_trace(world, "-- a second process for rank %u", rank);
    world->workers[rank] = proc_new(world, true, rank);
}

static void accident_blackout(struct world *world) {
    sim_trace(world, "-- everything dies");
    for (uint32_t s = 0; s < SIM_SHARDS; s++)
        restart_shard(world, s, 20 + sim_random(world, 300));
    for (size_t i = 0; i < world->proc_count; i++) /* rivals too */
        if (world->procs[i]->alive)
            proc_kill(world, world->procs[i]);
    for (uint32_t r = 0; r < SIM_WORKERS; r++)
        if (!world->rank_done[r])
            restart_worker(world, r, 20 + sim_random(world, 300));
}

static void accident_crash_shard(struct world *world, uint32_t shard) {
    sim_trace(world, "-- shard %u dies", shard);
    world->exact = false;
    restart_shard(world, shard, 20 + sim_random(world, 800));
}

static void accident_leave_shard(struct world *world, uint32_t shard) {
    if (shard == 0 || !world->shards[shard])
        return;
    sim_trace(world, "-- shard %u is asked to leave", shard);
    world->exact = false;
    server_leave(world->shards[shard]->server, world->now_ms);
}

static void accident_leave_worker(struct world *world, uint32_t rank) {
    struct proc *proc = world->workers[rank];
    if (!proc || world->starting_worker[rank])
        return;
    sim_trace(world, "-- worker %u is asked to leave", rank);
    world->exact = false;
    proc->leaving = proc->state != TRAINER_BYE;
}

/* From the order to finish on, a shard that dies finds nobody any more. */
static bool is_closing(struct world *world) {
    if (!world->shards[0])
        return world->places[0].over;
    Graphps__Status status;
    coordinator_status(world->shards[0]->server->coordinator, world->now_ms, &status);
    bool closing = strcmp(status.state, "training") != 0 && strcmp(status.state, "starting") != 0;
    coordinator_status_done(&status);
    return closing;
}

void accident_happen(struct world *world) {
    if (world->now_ms >= world->accidents_end_ms)
        return;
    uint32_t rank = (uint32_t)sim_random(world, SIM_WORKERS);
    uint32_t shard = (uint32_t)sim_random(world, SIM_SHARDS);
    uint64_t kind = sim_random(world, world->harsh ? 16 : 11);
    bool may_kill = world->proc_count + 12 < SIM_PROCS_MAX && !is_closing(world);
    if (kind < 4) {
        accident_cut(world);
    } else if (kind < 6) {
        accident_pause(world);
    } else if (!may_kill) {
        /* nothing */
    } else if (kind < 9) {
        sim_trace(world, "-- worker %u dies", rank);
        if (!world->rank_done[rank])
            restart_worker(world, rank, 20 + sim_random(world, world->harsh ? 900 : 200));
    } else if (kind < 10) {
        accident_rival(world, rank);
    } else if (kind < 11) {
        accident_blackout(world);
    } else if (kind < 14) {
        accident_crash_shard(world, shard);
    } else if (kind < 15) {
        accident_leave_shard(world, shard);
    } else {
        accident_leave_worker(world, rank);
    }
    world->crashes += kind >= 6;
    sim_at(world, 20 + sim_random(world, 300), (struct event){.kind = EVENT_ACCIDENT});
}

/* --- one run --- */

static bool all_over(const struct world *world) {
    if (!world->places[0].over)
        return false;
    for (uint32_t s = 1; s < SIM_SHARDS; s++) {
        /* One that left when the job was ending comes back to nobody. */
        const struct proc *shard = world->shards[s];
        if (!world->places[s].over && shard && shard->server->run)
            return false;
    }
    return true;
}

static void fail_waiting(struct world *world) {
    for (uint32_t r = 0; r < SIM_WORKERS; r++) {
        struct proc *proc = world->workers[r];
        char text[300] = "no process";
        uint64_t since_ms;
        if (proc)
            outbox_waiting(proc->outbox, world->now_ms, text, sizeof text, &since_ms);
        fprintf(stderr, "worker %u: state %d, step %" PRIu64 ", waits for: %s\n", r,
                proc ? (int)proc->state : -1, proc ? proc->clock : 0, text);
    }
    for (uint32_t s = 0; s < SIM_SHARDS; s++) {
        struct proc *proc = world->shards[s];
        fprintf(stderr, "shard %u: state %d, pending %zu\n", s,
                proc ? atomic_load(&proc->server->state) : -1,
                proc && proc->server->aggregator ? aggregator_pending(proc->server->aggregator)
                                                 : 0);
    }
    char culprit[300] = "shard 0 is not there";
    if (world->shards[0]) {
        Graphps__Status status;
        coordinator_status(world->shards[0]->server->coordinator, world->now_ms, &status);
        snprintf(culprit, sizeof culprit, "%s, waiting for '%s'", status.state, status.waiting_for);
        coordinator_status_done(&status);
    }
    sim_fail(world, "it does not end: %s", culprit);
}

struct totals {
    uint64_t acks, repeats, merges, crashes, gates, exact;
};

static void run(uint64_t seed, struct totals *totals) {
    /* The trace costs little and a failure without it is worth little. */
    struct world *world = world_new(seed, true);
    check_watch(world);
    world->accidents_end_ms = seed % 8 == 7 ? 0 : world->now_ms + 1000 + sim_random(world, 5000);
    for (uint32_t s = 0; s < SIM_SHARDS; s++)
        restart_shard(world, s, sim_random(world, 200));
    for (uint32_t r = 0; r < SIM_WORKERS; r++)
        restart_worker(world, r, sim_random(world, 400));
    sim_at(world, 200 + sim_random(world, 300), (struct event){.kind = EVENT_ACCIDENT});
    uint64_t limit_ms = (world->accidents_end_ms ? world->accidents_end_ms : 1000) + PATIENCE_MS;
    while (!all_over(world)) {
        if (!sim_step(world) || world->now_ms > limit_ms)
            fail_waiting(world);
    }
    check_end(world);
    totals->acks += world->acks;
    totals->repeats += world->repeats;
    totals->merges += world->merges;
    totals->crashes += world->crashes;
    totals->gates += world->gates;
    totals->exact += world->exact && world->config->consistency_mode == CONSISTENCY_BSP;
    world_free(world);
}

static void run_mode(uint64_t mode) {
    struct totals totals = {0};
    for (uint64_t seed = mode; seed < SEEDS; seed += 3)
        run(seed, &totals);
    printf("mode %" PRIu64 ": %" PRIu64 " batch parts, %" PRIu64 " acknowledgements, %" PRIu64
           " of them repeats, %" PRIu64 " accidents, %" PRIu64 " gates checked, %" PRIu64
           " runs compared with one process\n",
           mode, totals.merges, totals.acks, totals.repeats, totals.crashes, totals.gates,
           totals.exact);
    /* The world must be as bad as it is said to be. */
    ck_assert_uint_gt(totals.crashes, 500);
    ck_assert_uint_gt(totals.repeats, 100);
    ck_assert_uint_gt(totals.merges, 10000);
    if (mode == CONSISTENCY_BSP)
        ck_assert_uint_gt(totals.exact, 120);
}

START_TEST(test_async) {
    run_mode(CONSISTENCY_ASYNC);
}
END_TEST

START_TEST(test_ssp) {
    run_mode(CONSISTENCY_SSP);
}
END_TEST

START_TEST(test_bsp) {
    run_mode(CONSISTENCY_BSP);
}
END_TEST

int main(int argc, char **argv) {
    log_init("sim", -1, argc > 2 ? LOG_DEBUG : (enum log_level)(LOG_ERROR + 1), false);
    if (argc > 1) {
        struct totals totals = {0};
        run(strtoull(argv[1], NULL, 10), &totals);
        printf("seed %s holds: %" PRIu64 " acknowledgements, %" PRIu64 " accidents\n", argv[1],
               totals.acks, totals.crashes);
        return 0;
    }
    Suite *suite = suite_create("sim");
    TCase *tcase = tcase_create("seeds");
    tcase_set_timeout(tcase, 300);
    tcase_add_test(tcase, test_async);
    tcase_add_test(tcase, test_ssp);
    tcase_add_test(tcase, test_bsp);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
