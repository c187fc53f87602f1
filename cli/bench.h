/* `graphps bench ps`: what its parts share. The parent (bench_ps.c) forks clients (bench_client.c)
 * that push to and pull from shards, and processes that send as many bytes over bare TCP
 * (bench_bare.c); it gives each an order through shared memory, waits, and makes figures of what
 * all counted (bench_meter.c). cmd_bench.c has the command line, bench_print.c the tables and the
 * JSON. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/utsname.h>

#include "common/config.h"
#include "common/mem.h"
#include "proto/layout.h"

/* As many as the protocol lets a worker have in flight, and as the ledger's window holds. */
#define BENCH_DEPTH_MAX 64
#define BENCH_SIZES_MAX 16
#define BENCH_PATTERNS 3
#define BENCH_SAMPLES 65536
/* What bare TCP sends where graphps has a frame without a payload. */
#define BENCH_ASK_BYTES 64
#define BENCH_ANSWER_BYTES 32

/* A set of bits. */
enum bench_pattern { BENCH_PUSH = 1, BENCH_PULL = 2, BENCH_BOTH = 3 };

/* --- what is to be measured --- */

struct bench_settings {
    struct config *config; /* the job; servers.addresses: of shards that run already. Borrowed */
    size_t size_count;
    uint32_t sizes[BENCH_SIZES_MAX]; /* bytes of fp32 in a message, a multiple of 4 */
    size_t measured_count;           /* of them; one behind those is only the load's */
    bool load;                       /* one more client, the last rank, pushes messages of... */
    size_t load_size;                /* ...this size while latencies are measured once more */
    size_t pattern_count;
    enum bench_pattern patterns[BENCH_PATTERNS];
    uint32_t depth; /* 0: by size */
    uint32_t spread;
    uint32_t repeat;
    double seconds;
    uint32_t bare_buffer_bytes; /* SO_SNDBUF of the bare connections; 0: as the kernel likes */
    uint64_t table_rows; /* 0: of tensors; else a message is that many bytes of a table's rows */
    uint32_t table_dim;
};

uint32_t bench_depth(const struct bench_settings *settings, uint32_t size_bytes);

/* What one message of a size carries: blocks of one shard, ascending. */
struct bench_message {
    uint32_t *blocks;
    size_t block_count;
};

/* What one frame carries of each message of a size, as workers cut pushes and pulls. */
struct bench_cut {
    uint32_t first, count;      /* of the message's blocks */
    size_t push_at, push_bytes; /* of the payload of a push */
};

/* The model on which it is measured. Made before the fork and never changed. */
struct bench_plan {
    const struct bench_settings *settings;
    const struct config *config;
    struct layout *layout;
    struct bench_message *messages; /* [sizes][shards][spread] */
    size_t cut_counts[BENCH_SIZES_MAX];
    struct bench_cut *cuts[BENCH_SIZES_MAX]; /* [sizes][cut_counts]; of tensors */
    char *const *addresses;                  /* [shards], borrowed */
    char *options;                           /* for Hello */
};

/* ERR_CONFIG: what is asked for is impossible. plan is to be given to bench_plan_done, also on
 * failure. */
int bench_plan_init(struct bench_plan *plan, const struct bench_settings *settings,
                    struct error *reterr);
void bench_plan_done(struct bench_plan *plan);

static inline const struct bench_message *bench_message(const struct bench_plan *plan, size_t size,
                                                        size_t shard, uint64_t slice) {
    size_t spread = plan->settings->spread;
    return &plan->messages[(size * plan->layout->shard_count + shard) * spread + slice];
}

/* Of the payload of a push: sizes[size], encoded; with a table the row numbers too. */
size_t bench_push_bytes(const struct bench_plan *plan, size_t size);
/* What bare TCP sends for an operation, and gets for it: payloads as long as those of graphps. */
uint32_t bench_ask_bytes(const struct bench_plan *plan, size_t size, enum bench_pattern pattern);
uint32_t bench_answer_bytes(const struct bench_plan *plan, size_t size, enum bench_pattern pattern);

static inline uint32_t bench_row_count(const struct bench_settings *settings, size_t size) {
    return settings->sizes[size] / (settings->table_dim * (uint32_t)sizeof(float));
}
/* What pushes of rows are made of: row numbers, different from push to push, and encoded gradients,
 * the same for all. */
struct bench_rows {
    uint32_t count, variants;
    struct buf **ids; /* [shards][variants] */
    struct buf *values;
};
void bench_rows_make(const struct bench_plan *plan, size_t size, uint64_t key,
                     struct bench_rows *ret);

/* --- between the parent and a process that measures --- */

struct bench_order {
    size_t size; /* index */
    enum bench_pattern pattern;
    uint32_t depth; /* requests in flight on each connection */
    bool single;    /* one in flight in all, on each connection in turn: for latency */
    double seconds;
};

struct bench_result {
    uint64_t operations, elapsed_ns; /* of the measured time */
    uint64_t all_operations;         /* those before and after it too */
    uint64_t allocations;            /* in the measured time */
    size_t sample_count;
    uint32_t latency_ns[BENCH_SAMPLES]; /* with `single`: a fair sample of all */
};

/* Lies in memory that both processes see; who may touch it is told by bytes on a socket: BENCH_GO
 * from the parent, then BENCH_DONE or BENCH_FAILED; at last BENCH_QUIT. */
struct bench_desk {
    struct bench_order order;
    atomic_bool stop; /* by the parent, at any time: it was enough */
    struct bench_result result;
    struct error error;
};
enum { BENCH_GO = 'g', BENCH_QUIT = 'q', BENCH_DONE = 'd', BENCH_FAILED = 'f' };

/* Counts what is completed: a while of warming up, then from one completion to another for at least
 * order->seconds. */
struct bench_meter {
    const struct bench_desk *desk;
    const struct bench_order *order;
    struct bench_result *result;
    uint64_t started_ns, begin_ns;
    uint64_t allocations; /* at begin_ns */
    bool ended;
};
void bench_meter_begin(struct bench_meter *meter, struct bench_desk *desk);
/* An operation that was begun at started_ns is complete. Sets meter->ended when it was enough. */
void bench_meter_count(struct bench_meter *meter, uint64_t started_ns);

/* The processes. fd is their end of the socket. They return the exit code. */
int bench_client_main(const struct bench_plan *plan, uint32_t rank, int fd,
                      struct bench_desk *desk);
/* The send buffer that the kernel gives a bare connection which asks for so many bytes; 0: it does
 * not say. */
uint32_t bench_bare_buffer(uint32_t asked_bytes);
/* Answers on every connection that listener accepts, until killed. */
int bench_bare_serve(int listener);
/* Asks such a server on 127.0.0.1:port, over one connection per shard. */
int bench_bare_main(const struct bench_plan *plan, uint16_t port, int fd, struct bench_desk *desk);
/* Listens on a free port of 127.0.0.1. */
int bench_bare_listen(int *ret_listener, uint16_t *ret_port, struct error *reterr);

/* --- what comes out --- */

/* Medians of all repeats. */
struct bench_speed {
    /* Of all clients and shards together. GB: the fp32 that messages stand for, also of bare. */
    double gb_per_s, operations_per_s;
    double p50_us, p99_us, p999_us; /* p999: NAN when there are less than 1000 samples */
    double samples;                 /* behind them, of a repeat */
    double cpu_s_per_gb;            /* NAN: not known */
};

struct bench_row {
    uint32_t size_bytes;
    enum bench_pattern pattern;
    uint32_t depth;
    size_t push_bytes;                /* of the payload of a push: size_bytes, encoded */
    uint32_t ask_bytes, answer_bytes; /* of bare TCP */
    uint32_t rows;                    /* of a table in a message; 0: tensors */
    struct bench_speed graphps, bare;
    double ratio; /* median of the ratios of neighbours in time, of gb_per_s */
    double shard_allocations, client_allocations; /* per operation */
    double batch_mean;                            /* NAN: nothing was merged */
    double lock_waits;                            /* per operation */
    double lock_wait_p99_us;                      /* since the shards were started */
    double loaded_p50_us, loaded_p99_us;          /* while the load is pushed; NAN: there is none */
};

struct bench_machine {
    char cpu[96];
    int cores;
    struct utsname system;
    double load; /* of the last minute, before we began */
};

void bench_machine_look(struct bench_machine *machine);
/* On standard output. The head and each row as they come, the costs of all rows at the end; or the
 * document. */
void bench_print_head(const struct bench_settings *settings, const struct bench_machine *machine);
void bench_print_row(const struct bench_row *row);
void bench_print_costs(const struct bench_row *rows, size_t count);
void bench_print_json(const struct bench_settings *settings, const struct bench_machine *machine,
                      const struct bench_row *rows, size_t count);

struct bench_ops {
    /* What is asked for is possible: now shards and clients are started. */
    void (*on_begin)(void *ctx);
    /* After every row. */
    void (*on_row)(void *ctx, const struct bench_row *row);
    /* Before every measurement, and now and then: done of total. */
    void (*on_progress)(void *ctx, const char *stage, uint64_t done, uint64_t total);
    /* Shall it end early? */
    bool (*interrupted)(void *ctx);
};

/* Leaves no process and no directory behind, whatever happens. ERR_INTERRUPTED, ... */
int bench_ps(const struct bench_settings *settings, const struct bench_ops *ops, void *ctx,
             struct error *reterr);
