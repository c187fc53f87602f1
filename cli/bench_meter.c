/* When the counting of a measurement begins and ends, and which latencies are kept. */
#include "cli/bench.h"

#include "common/lock.h"
#include "common/mem.h"
#include "common/rng.h"

#define WARM_MAX_NS 100000000u

void bench_meter_begin(struct bench_meter *meter, struct bench_desk *desk) {
    *meter = (struct bench_meter){
        .desk = desk, .order = &desk->order, .result = &desk->result, .started_ns = time_now_ns()};
    desk->result.operations = desk->result.all_operations = desk->result.sample_count = 0;
}

/* Reservoir sampling (Vitter, 1985, algorithm R): each latency is kept with the same chance. */
static void meter_sample(struct bench_meter *meter, uint64_t latency_ns) {
    struct bench_result *result = meter->result;
    uint64_t seen = result->operations; /* this one included */
    size_t at = seen - 1;
    if (seen > BENCH_SAMPLES)
        at = rng_below(rng_at(meter->begin_ns, seen), seen);
    if (at >= BENCH_SAMPLES)
        return;
    result->latency_ns[at] = latency_ns < UINT32_MAX ? (uint32_t)latency_ns : UINT32_MAX;
    result->sample_count = seen < BENCH_SAMPLES ? seen : BENCH_SAMPLES;
}

void bench_meter_count(struct bench_meter *meter, uint64_t started_ns) {
    struct bench_result *result = meter->result;
    result->all_operations++;
    if (meter->ended)
        return;
    uint64_t now_ns = time_now_ns(), window_ns = (uint64_t)(meter->order->seconds * 1e9);
    if (meter->begin_ns == 0) {
        uint64_t warm_ns = window_ns / 2 < WARM_MAX_NS ? window_ns / 2 : WARM_MAX_NS;
        if (now_ns - meter->started_ns < warm_ns)
            return;
        meter->begin_ns = now_ns;
        meter->allocations = mem_allocations();
        return;
    }
    result->operations++;
    if (meter->order->single)
        meter_sample(meter, now_ns - started_ns);
    if (now_ns - meter->begin_ns < window_ns && !atomic_load(&meter->desk->stop))
        return;
    result->elapsed_ns = now_ns - meter->begin_ns;
    result->allocations = mem_allocations() - meter->allocations;
    meter->ended = true;
}
