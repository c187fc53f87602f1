/* Times the encodings on one thread: for each codec, by the reference and by the fast twin, what a
 * block of 64 KiB costs to encode (with error feedback), to check and to add to a sum, over an
 * array that no cache holds, beside a copy and a read of the same array. Writes no files; no test
 * runs it. bench_codec [MiB [topk ratio]] GB/s are of floats: 4 bytes for each value that is
 * encoded or decoded, whatever travels. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/lock.h"
#include "common/mem.h"
#include "common/rng.h"
#include "common/vec.h"
#include "proto/codec.h"

enum { BLOCK = 16384, PASSES = 15 };

struct bench {
    size_t blocks;
    double ratio;
    enum codec codec;
    float *gradient, *residual, *sum;
    uint8_t *payload;
    size_t stride; /* bytes from one block's payload to the next */
};

static void encode(struct bench *b, size_t i) {
    float *residual = b->codec == CODEC_FP32 ? NULL : b->residual + i * BLOCK;
    codec_encode(b->codec, b->ratio, b->gradient + i * BLOCK, BLOCK, residual,
                 b->payload + i * b->stride);
}

static void check(struct bench *b, size_t i) {
    size_t bytes;
    const uint8_t *at = b->payload + i * b->stride;
    if (codec_size(b->codec, at, b->stride, BLOCK, &bytes) < 0 ||
        codec_check(b->codec, at, BLOCK) < 0) {
        fprintf(stderr, "a block that was encoded is refused\n");
        exit(1);
    }
}

static void add(struct bench *b, size_t i) {
    codec_add(b->codec, b->payload + i * b->stride, BLOCK, 0.5F, b->sum + i * BLOCK);
}

static void copy(struct bench *b, size_t i) {
    memcpy(b->payload + i * b->stride, b->gradient + i * BLOCK, BLOCK * sizeof(float));
}

/* Nothing is as fast as looking at each value once. */
static void look(struct bench *b, size_t i) {
    static volatile bool seen;
    seen = vec()->finite(b->gradient + i * BLOCK, BLOCK);
    (void)seen;
}

/* The best of some passes, in GB/s. */
static double rate(struct bench *b, void (*work)(struct bench *b, size_t i)) {
    uint64_t best = UINT64_MAX;
    for (int pass = 0; pass < PASSES; pass++) {
        uint64_t begin = time_now_ns();
        for (size_t i = 0; i < b->blocks; i++)
            work(b, i);
        uint64_t ns = time_now_ns() - begin;
        best = ns < best ? ns : best;
    }
    return (double)b->blocks * BLOCK * sizeof(float) / (double)best;
}

static void fill(struct bench *b) {
    for (size_t i = 0; i < b->blocks * BLOCK; i++) {
        uint64_t key = rng_key(1, i);
        float bell = 0; /* near enough a normal distribution */
        for (uint64_t k = 0; k < 6; k++)
            bell += rng_float(rng_at(key, k)) - 0.5F;
        b->gradient[i] = bell * 0.01F;
    }
}

static void run(size_t mib, double ratio) {
    static const char *const names[] = {"fp32", "int8", "fp16", "topk"};
    struct bench b = {.blocks = mib * 1048576 / (BLOCK * sizeof(float)), .ratio = ratio};
    size_t floats = b.blocks * BLOCK;
    b.gradient = mem_array(floats, sizeof(float));
    b.residual = mem_array(floats, sizeof(float));
    b.sum = mem_array(floats, sizeof(float));
    for (enum codec c = CODEC_FP32; c < CODEC_END; c++)
        if (codec_bytes(c, ratio, BLOCK) > b.stride)
            b.stride = codec_bytes(c, ratio, BLOCK);
    b.payload = mem_array(b.blocks, b.stride);
    fill(&b);
    printf("%s: memcpy %.1f GB/s, read %.1f GB/s\n", vec()->name, rate(&b, copy), rate(&b, look));
    for (b.codec = CODEC_FP32; b.codec < CODEC_END; b.codec++) {
        memset(b.residual, 0, floats * sizeof(float));
        double encoded = rate(&b, encode), checked = rate(&b, check);
        printf("  %s  encode %6.1f  check %7.1f  add %6.1f  (%zu bytes a block)\n", names[b.codec],
               encoded, checked, rate(&b, add), codec_bytes(b.codec, ratio, BLOCK));
    }
    mem_free(b.gradient);
    mem_free(b.residual);
    mem_free(b.sum);
    mem_free(b.payload);
}

int main(int argc, char **argv) {
    int mib = argc > 1 ? atoi(argv[1]) : 64;
    double ratio = argc > 2 ? atof(argv[2]) : CODEC_TOPK_RATIO;
    if (mib < 1 || !(ratio > 0 && ratio <= 1)) {
        fprintf(stderr, "usage: bench_codec [MiB [topk ratio]]\n");
        return 2;
    }
    /* The choice of kernels is made once in a process. */
    for (int fast = 0; fast < 2; fast++) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            if (fast)
                unsetenv("GRAPHPS_KERNELS");
            else
                setenv("GRAPHPS_KERNELS", "ref", 1);
            run((size_t)mib, ratio);
            fflush(stdout);
            _exit(0);
        }
        int status;
        if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0)
            return 1;
    }
    return 0;
}
