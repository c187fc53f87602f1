/* Times the update rules: for each kind, 16 MiB of weights in blocks of 64 KiB, each stepped into
 * another buffer, as an aggregator does it; on one thread and on several. Writes no files; no test
 * runs it.
 *     bench_optimizer [threads [MiB]]
 * GB/s are of the bytes that a step must touch: reads of weights, gradient and state, writes of
 * state and the next weights. "of triad" sets them against a = b + s * c in the same run, on as
 * many threads, over arrays of the same size in all; a triad's write reads its line first, as does
 * that of the next weights, while state is written where it was read: more than 100 % is possible.
 * Then rows of 64 floats of a table of that size, each met once, in no order, updated in place. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/lock.h"
#include "common/mem.h"
#include "common/rng.h"
#include "server/optimizer_ops.h"

enum { BLOCK = 16384, PASSES = 20, THREADS_MAX = 64 };
static const char *const kinds[] = {"sgd", "momentum", "adam", "adamw", "adagrad", "none"};

struct bench {
    size_t blocks, threads;
    const struct optimizer_ops *ops;
    int kind; /* -1: the triad */
    float *w, *g, *state, *next;
    float *triad[3];
    size_t triad_floats;
    pthread_barrier_t barrier;
};

struct part {
    struct bench *b;
    size_t index;
    double best_s;
};

static void triad(struct bench *b, size_t from, size_t to) {
    float *restrict a = b->triad[0];
    const float *restrict x = b->triad[1], *restrict y = b->triad[2];
    for (size_t i = from; i < to; i++)
        a[i] = x[i] + 0.5F * y[i];
}

static void pass(struct bench *b, size_t index) {
    if (b->kind < 0) {
        triad(b, b->triad_floats * index / b->threads, b->triad_floats * (index + 1) / b->threads);
        return;
    }
    struct optimizer_terms terms = {.gradient = 1,
                                    .lr = 0.01F,
                                    .keep = 1,
                                    .momentum = 0.9F,
                                    .beta1 = 0.9F,
                                    .beta2 = 0.999F,
                                    .eps = 1e-8F,
                                    .unbias = 1};
    size_t end = b->blocks * (index + 1) / b->threads;
    for (size_t i = b->blocks * index / b->threads; i < end; i++)
        b->ops->step[b->kind](&terms, BLOCK, b->w + i * BLOCK, b->g + i * BLOCK,
                              b->state + 2 * i * BLOCK, b->next + i * BLOCK);
}

static void *part_run(void *arg) {
    struct part *part = arg;
    struct bench *b = part->b;
    part->best_s = 1e9;
    for (int i = 0; i < PASSES; i++) {
        pthread_barrier_wait(&b->barrier);
        uint64_t begin = time_now_ns();
        pass(b, part->index);
        pthread_barrier_wait(&b->barrier);
        double s = (double)(time_now_ns() - begin) * 1e-9;
        part->best_s = s < part->best_s ? s : part->best_s;
    }
    return NULL;
}

/* The best pass of all threads together, in seconds. */
static double seconds(struct bench *b) {
    struct part parts[THREADS_MAX];
    pthread_t threads[THREADS_MAX];
    pthread_barrier_init(&b->barrier, NULL, (unsigned)b->threads);
    for (size_t i = 0; i < b->threads; i++) {
        parts[i] = (struct part){.b = b, .index = i};
        if (pthread_create(&threads[i], NULL, part_run, &parts[i]) != 0)
            exit(1);
    }
    for (size_t i = 0; i < b->threads; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&b->barrier);
    return parts[0].best_s;
}

static void run(struct bench *b) {
    size_t floats = b->blocks * BLOCK;
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        size_t state = optimizer_state_floats(&(struct optimizer){.kind = (int)k});
        double bytes = (double)floats * sizeof(float) * (double)(3 + 2 * state);
        /* Three arrays that are as large together as what the rule touches. */
        b->triad_floats = floats * (3 + state) / 3;
        b->kind = -1;
        double bound = 3 * (double)b->triad_floats * sizeof(float) / seconds(b);
        printf("  %-8s triad %5.1f GB/s", kinds[k], bound * 1e-9);
        b->kind = (int)k;
        const struct optimizer_ops *all[] = {&optimizer_ref, optimizer_avx2()};
        for (size_t i = 0; i < ARRAY_LEN(all) && all[i]; i++) {
            b->ops = all[i];
            double s = seconds(b);
            printf("   %s %5.2f ms %5.1f GB/s %4.0f %% of triad", b->ops->name, s * 1e3,
                   bytes / s * 1e-9, bytes / s / bound * 100);
        }
        printf("\n");
    }
}

/* One thread, by the kernels that were chosen. */
static void run_rows(struct bench *b) {
    enum { DIM = 64 };
    size_t rows = b->blocks * BLOCK / DIM;
    printf("rows of %d, %s:", DIM, optimizer_ops()->name);
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        struct optimizer o = {.kind = (int)k,
                              .lr = 0.01F,
                              .momentum = 0.9F,
                              .beta1 = 0.9F,
                              .beta2 = 0.999F,
                              .eps = 1e-8F};
        uint64_t best = UINT64_MAX;
        for (uint64_t i = 1; i <= PASSES; i++) {
            uint64_t begin = time_now_ns();
            for (size_t r = 0; r < rows; r++) {
                size_t row =
                    r * 2654435761U % rows; /* an odd factor: each once when rows is a power of 2 */
                optimizer_row(&o, DIM, b->w + row * DIM, b->g + r * DIM, 0.5F,
                              b->state + row * 2 * DIM, i * 100);
            }
            uint64_t ns = time_now_ns() - begin;
            best = ns < best ? ns : best;
        }
        printf("  %s %.0f ns", kinds[k], (double)best / (double)rows);
    }
    printf("\n");
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 2, mib = argc > 2 ? atoi(argv[2]) : 16;
    if (threads < 1 || threads > THREADS_MAX || mib < 1) {
        fprintf(stderr, "usage: bench_optimizer [threads [MiB]]\n");
        return 2;
    }
    struct bench b = {.blocks = (size_t)mib * 1048576 / (BLOCK * sizeof(float))};
    size_t floats = b.blocks * BLOCK;
    b.w = mem_array(floats, sizeof(float));
    b.g = mem_array(floats, sizeof(float));
    b.state = mem_array(2 * floats, sizeof(float));
    b.next = mem_array(floats, sizeof(float));
    for (size_t i = 0; i < 3; i++)
        b.triad[i] = mem_array(2 * floats, sizeof(float));
    for (size_t i = 0; i < 2 * floats; i++) {
        float x = rng_float(rng_at(1, i)) - 0.5F;
        b.triad[0][i] = b.triad[1][i] = b.triad[2][i] = x;
        b.w[i / 2] = b.g[i / 2] = b.next[i / 2] = x;
        b.state[i] = x * x;
    }
    for (b.threads = 1; b.threads <= (size_t)threads; b.threads *= 2) {
        printf("%zu thread%s, %d MiB of weights:\n", b.threads, b.threads > 1 ? "s" : "", mib);
        run(&b);
    }
    run_rows(&b);
    mem_free(b.w);
    mem_free(b.g);
    mem_free(b.state);
    mem_free(b.next);
    for (size_t i = 0; i < 3; i++)
        mem_free(b.triad[i]);
    return 0;
}
