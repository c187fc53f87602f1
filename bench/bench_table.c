/* Times gradients into a table's rows and rows out of it, with each optimizer, with rows drawn by
 * Zipf's law (the k-th of them with a chance of about 1 / k) and evenly; and weighs the table.
 * Writes no files; no test runs it.
 *     bench_table [rows [dim [optimizer]]]
 * A push has the distinct rows of 32768 draws; every thread has pushes of its own, with gradients
 * that lie beyond the caches. In brackets: by the time that the threads had a core, which others on
 * the machine change less. All rows are made before the clock runs, most in another order than
 * they are drawn. Ten million rows of 64 floats with adagrad take 6 GB. */
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/lock.h"
#include "common/mem.h"
#include "common/rng.h"
#include "server/table.h"

enum { DRAWS = 32768, PUSHES = 16, STRIPES = 16, THREADS_MAX = 2, ROUNDS = 4 };

struct push {
    uint32_t n;
    uint64_t *rows;
    float *values;
    uint32_t *order, starts[STRIPES + 1];
};

struct bench {
    uint64_t rows;
    uint32_t dim;
    struct table *table;
    struct push pushes[THREADS_MAX][PUSHES];
};

struct worker {
    pthread_t thread;
    struct bench *bench;
    int number;
    bool read;
    uint64_t done;   /* rows */
    uint64_t cpu_ns; /* in which it ran */
};

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* The rows by Zipf's law: rank = (rows + 1)^u has the chance log(1 + 1 / rank) / log(rows + 1). The
 * common ones lie anywhere. */
static uint64_t draw(uint64_t rows, uint64_t bits, bool zipf) {
    if (!zipf)
        return rng_below(bits, rows);
    double u = (double)(bits >> 11) * 0x1p-53;
    uint64_t rank = (uint64_t)pow((double)rows + 1, u) - 1;
    return rng_mix(rank) % rows;
}

static void push_draw(struct bench *bench, struct push *push, uint64_t seed, bool zipf) {
    uint64_t key = rng_key(5, seed);
    for (uint32_t i = 0; i < DRAWS; i++)
        push->rows[i] = draw(bench->rows, rng_at(key, i), zipf);
    qsort(push->rows, DRAWS, sizeof *push->rows, compare);
    push->n = 0;
    for (uint32_t i = 0; i < DRAWS; i++)
        if (push->n == 0 || push->rows[push->n - 1] != push->rows[i])
            push->rows[push->n++] = push->rows[i];
    table_split(bench->table, push->rows, push->n, push->order, push->starts);
}

static void push_apply(struct bench *bench, const struct push *push, uint32_t first) {
    for (uint32_t i = 0; i < STRIPES; i++) {
        uint32_t s = (first + i) % STRIPES;
        struct table_part part = {
            .rows = push->rows,
            .values = push->values,
            .order = push->order + push->starts[s],
            .count = push->starts[s + 1] - push->starts[s],
            .weight = 1,
        };
        table_apply(bench->table, s, &part, 1, 1, 1, 0.01f);
    }
}

static uint64_t cpu_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void *work(void *arg) {
    struct worker *worker = arg;
    struct bench *bench = worker->bench;
    float *out = mem_array((size_t)DRAWS * bench->dim, sizeof *out);
    memset(out, 1, (size_t)DRAWS * bench->dim * sizeof *out);
    uint64_t begin = cpu_now_ns();
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < PUSHES; i++) {
            const struct push *push = &bench->pushes[worker->number][i];
            if (worker->read)
                table_read(bench->table, push->rows, push->n, out);
            else
                push_apply(bench, push, (uint32_t)worker->number * STRIPES / THREADS_MAX);
            worker->done += push->n;
        }
    worker->cpu_ns = cpu_now_ns() - begin;
    mem_free(out);
    return NULL;
}

static void time_it(struct bench *bench, bool read, int threads) {
    struct worker workers[THREADS_MAX] = {0};
    uint64_t begin = time_now_ns(), done = 0, cpu_ns = 0;
    for (int t = 0; t < threads; t++) {
        workers[t] = (struct worker){.bench = bench, .number = t, .read = read};
        pthread_create(&workers[t].thread, NULL, work, &workers[t]);
    }
    for (int t = 0; t < threads; t++) {
        pthread_join(workers[t].thread, NULL);
        done += workers[t].done;
        cpu_ns += workers[t].cpu_ns;
    }
    printf("  %s %d: %5.2f (%5.2f)", read ? "read" : "apply", threads,
           (double)done * 1e3 / (double)(time_now_ns() - begin),
           (double)done * 1e3 / (double)cpu_ns);
}

static void fill(struct bench *bench) {
    struct push *push = &bench->pushes[0][0];
    uint64_t begin = time_now_ns(), rows, bytes;
    for (uint64_t row = 0; row < bench->rows;) {
        for (push->n = 0; push->n < DRAWS && row < bench->rows; row++)
            push->rows[push->n++] = row;
        table_split(bench->table, push->rows, push->n, push->order, push->starts);
        push_apply(bench, push, 0);
    }
    double seconds = (double)(time_now_ns() - begin) * 1e-9;
    table_counts(bench->table, &rows, &bytes);
    double floats = (double)(table_row_floats(bench->table) * sizeof(float));
    printf("  %" PRIu64
           " rows made, %.2f million rows/s; %.1f bytes a row, %.3f times its floats\n",
           rows, (double)rows * 1e-6 / seconds, (double)bytes / (double)rows,
           (double)bytes / (double)rows / floats);
}

static void time_rest(struct bench *bench) {
    struct table_row row;
    uint64_t rows = 0, begin = time_now_ns();
    struct table_snapshot *snapshot = table_snapshot_begin(bench->table);
    double begin_ms = (double)(time_now_ns() - begin) * 1e-6;
    while (table_snapshot_next(snapshot, &row))
        rows++;
    table_snapshot_end(snapshot);
    printf("  snapshot: begun in %.2f ms, %.2f million rows/s", begin_ms,
           (double)rows * 1e3 / (double)(time_now_ns() - begin));
    begin = time_now_ns();
    for (uint32_t s = 0; s < STRIPES; s++)
        table_evict(bench->table, s, 2);
    printf("; evicted, all: %.2f million rows/s\n",
           (double)rows * 1e3 / (double)(time_now_ns() - begin));
}

static void time_optimizer(struct bench *bench, const char *name, int kind) {
    struct optimizer optimizer = {
        .kind = kind, .lr = 0.01F, .momentum = 0.9F, .beta1 = 0.9F, .beta2 = 0.999F, .eps = 1e-8F};
    struct table_spec spec = {
        .name = "bench", .rows = bench->rows, .dim = bench->dim, .init_scale = 0.1F};
    struct error err;
    if (table_new(&spec, 1, STRIPES, &optimizer, &bench->table, &err) < 0) {
        fprintf(stderr, "bench_table: %s\n", error_text(&err));
        exit(1);
    }
    printf("%s\n", name);
    fill(bench);
    for (int zipf = 1; zipf >= 0; zipf--) {
        uint64_t distinct = 0;
        for (int t = 0; t < THREADS_MAX; t++)
            for (int i = 0; i < PUSHES; i++) {
                push_draw(bench, &bench->pushes[t][i], (uint64_t)(t * PUSHES + i), zipf);
                distinct += bench->pushes[t][i].n;
            }
        printf("  %-7s (%5" PRIu64 " rows a push), million rows/s (a core):",
               zipf ? "zipf" : "uniform", distinct / (THREADS_MAX * PUSHES));
        for (int threads = 1; threads <= THREADS_MAX; threads++) {
            time_it(bench, false, threads);
            time_it(bench, true, threads);
        }
        printf("\n");
    }
    time_rest(bench);
    fflush(stdout);
    table_free(bench->table);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        int kind;
    } optimizers[] = {
        {"sgd", OPTIMIZER_SGD}, {"adagrad", OPTIMIZER_ADAGRAD}, {"adam", OPTIMIZER_ADAM}};
    struct bench bench = {
        .rows = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000,
        .dim = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 64,
    };
    if (bench.rows == 0 || bench.dim == 0) {
        fprintf(stderr, "usage: bench_table [rows [dim [sgd|adagrad|adam]]]\n");
        return 2;
    }
    for (int t = 0; t < THREADS_MAX; t++)
        for (int i = 0; i < PUSHES; i++) {
            struct push *push = &bench.pushes[t][i];
            push->rows = mem_array(DRAWS, sizeof *push->rows);
            push->order = mem_array(DRAWS, sizeof *push->order);
            push->values = mem_array((size_t)DRAWS * bench.dim, sizeof *push->values);
            for (size_t j = 0; j < (size_t)DRAWS * bench.dim; j++)
                push->values[j] = rng_float(rng_at((uint64_t)i, j)) - 0.5F;
        }
    printf("%" PRIu64 " rows of %u floats, %d stripes\n", bench.rows, bench.dim, STRIPES);
    for (size_t i = 0; i < ARRAY_LEN(optimizers); i++)
        if (argc <= 3 || strcmp(argv[3], optimizers[i].name) == 0)
            time_optimizer(&bench, optimizers[i].name, optimizers[i].kind);
    for (int t = 0; t < THREADS_MAX; t++)
        for (int i = 0; i < PUSHES; i++) {
            mem_free(bench.pushes[t][i].rows);
            mem_free(bench.pushes[t][i].order);
            mem_free(bench.pushes[t][i].values);
        }
    return 0;
}
