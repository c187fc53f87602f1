/* proto/layout: cutting, placing, hashing, initial weights. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "proto/layout.h"

static const struct tensor_spec gcn[] = {
    {"layer0.weight", 1433, 64, TENSOR_GLOROT_UNIFORM, true},
    {"layer0.bias", 1, 64, TENSOR_ZEROS, false},
    {"layer1.weight", 64, 7, TENSOR_GLOROT_UNIFORM, false},
    {"layer1.bias", 1, 7, TENSOR_ZEROS, false},
};

static struct layout *make(const struct tensor_spec *tensors, size_t count, uint32_t block_bytes,
                           size_t shards) {
    struct layout *layout = NULL;
    struct error err = {0};
    int r = layout_new(tensors, count, block_bytes, shards, &layout, &err);
    ck_assert_msg(r == 0, "%s", err.text);
    return layout;
}

/* Promise: the blocks tile every tensor without gap or overlap, and the shard lists agree. */
START_TEST(tiling) {
    static const uint32_t sizes[] = {64, 4096, 65536};
    for (size_t s = 0; s < ARRAY_LEN(sizes); s++)
        for (size_t shards = 1; shards <= 5; shards++) {
            struct layout *layout = make(gcn, ARRAY_LEN(gcn), sizes[s], shards);
            uint64_t at = 0;
            for (size_t b = 0; b < layout->block_count; b++) {
                const struct layout_block *block = &layout->blocks[b];
                ck_assert_uint_eq(block->id, b);
                ck_assert_uint_eq(block->offset, at);
                ck_assert_uint_eq(layout->tensor_offsets[block->tensor] + block->tensor_offset, at);
                ck_assert_uint_ge(block->floats, 1);
                ck_assert_uint_le(block->floats, sizes[s] / 4);
                at += block->floats;
                ck_assert_uint_le(at, layout->tensor_offsets[block->tensor + 1]);
                uint32_t place = layout->shard_starts[block->shard] + block->shard_index;
                ck_assert_uint_lt(place, layout->shard_starts[block->shard + 1]);
                ck_assert_uint_eq(layout->shard_blocks[place], b);
            }
            ck_assert_uint_eq(at, layout->floats);
            ck_assert_uint_eq(at, 1433 * 64 + 64 + 64 * 7 + 7);
            layout_free(layout);
        }
}
END_TEST

/* How much more the fullest shard holds than the mean, in floats; and a look at the sum. */
static double excess(const struct layout *layout) {
    uint64_t most = 0, sum = 0;
    for (size_t i = 0; i < layout->shard_count; i++) {
        sum += layout->shard_floats[i];
        most = layout->shard_floats[i] > most ? layout->shard_floats[i] : most;
    }
    ck_assert_uint_eq(sum, layout->floats);
    return (double)most - (double)sum / (double)layout->shard_count;
}

/* Promise: no shard holds 5 % more than the mean, or 64 bytes where those are more: from 3 tensors
 * to 10,000, of one size or of very different ones, however large blocks may be. */
START_TEST(balance) {
    static const size_t counts[] = {3, 4, 7, 30, 1000, 10000};
    static const uint32_t sizes[] = {64, 4096, 65536, 1 << 20};
    static struct tensor_spec specs[10000];
    for (size_t c = 0; c < ARRAY_LEN(counts); c++)
        for (int kind = 0; kind < 4; kind++) {
            for (size_t i = 0; i < counts[c]; i++) {
                uint64_t drawn = rng_at(rng_key(7, kind), i);
                uint32_t rows = kind == 0   ? 16
                                : kind == 1 ? 1 + (uint32_t)rng_below(drawn, 300)
                                : kind == 2 ? 1u << rng_below(drawn, 11)
                                            : 1 + (i == 0) * 50000;
                specs[i] = (struct tensor_spec){"", rows, 1 + (uint32_t)(drawn % 5),
                                                TENSOR_GLOROT_UNIFORM, true};
                snprintf(specs[i].name, sizeof specs[i].name, "t%zu", i);
            }
            for (size_t s = 0; s < ARRAY_LEN(sizes); s++)
                for (size_t shards = 1; shards <= 9; shards++) {
                    struct error err = {0};
                    struct layout *layout;
                    int r = layout_new(specs, counts[c], sizes[s], shards, &layout, &err);
                    if (r == ERR_LIMIT && sizes[s] == 64) /* too many blocks: refused */
                        continue;
                    ck_assert_msg(r == 0, "%s", err.text);
                    double mean = (double)layout->floats / (double)shards;
                    double allowed = 0.05 * mean > 16 ? 0.05 * mean : 16;
                    ck_assert_msg(
                        excess(layout) <= allowed,
                        "%zu tensors of kind %d, blocks of %u bytes, %zu shards: %g above "
                        "a mean of %g",
                        counts[c], kind, sizes[s], shards, excess(layout), mean);
                    layout_free(layout);
                }
        }
}
END_TEST

/* Promise: two sides that differ in anything that matters see different hashes; equal ones the
 * same. */
START_TEST(hash) {
    uint64_t hashes[16];
    size_t count = 0;
    for (int change = -1; change < 10; change++) {
        struct tensor_spec tensors[ARRAY_LEN(gcn)];
        memcpy(tensors, gcn, sizeof gcn);
        uint32_t block_bytes = 65536;
        size_t tensor_count = ARRAY_LEN(gcn), shards = 2;
        switch (change) {
        case 0:
            tensors[3].name[12] = 0;
            tensors[3].name[10] = 'x';
            break;
        case 1:
            tensors[0].rows++;
            break;
        case 2:
            tensors[2].cols++;
            break;
        case 3:
            tensors[1].init = TENSOR_GLOROT_UNIFORM;
            break;
        case 4:
            tensors[0].decay = false;
            break;
        case 5:
            tensor_count--;
            break;
        case 6:
            block_bytes *= 2;
            break;
        case 7:
            shards = 3;
            break;
        case 8:
            tensors[3].statistic = true;
            break;
        case 9:
            tensors[0] = gcn[2];
            tensors[2] = gcn[0];
            break;
        default:
            break;
        }
        struct layout *layout = make(tensors, tensor_count, block_bytes, shards);
        ck_assert_uint_ne(layout->hash, 0);
        for (size_t i = 0; i < count; i++)
            ck_assert_uint_ne(layout->hash, hashes[i]);
        hashes[count++] = layout->hash;
        layout_free(layout);
    }
    /* Bytes behind a name's end do not matter. */
    struct tensor_spec dirty[ARRAY_LEN(gcn)];
    memcpy(dirty, gcn, sizeof gcn);
    memset(dirty[1].name + 12, 'z', LAYOUT_NAME_MAX - 12);
    struct layout *layout = make(dirty, ARRAY_LEN(dirty), 65536, 2);
    ck_assert_uint_eq(layout->hash, hashes[0]);
    layout_free(layout);
}
END_TEST

/* Promise: initial weights depend on (seed, tensor, element) alone, not on how the model is cut. */
START_TEST(init_is_independent) {
    struct layout *whole = make(gcn, ARRAY_LEN(gcn), 1 << 20, 1);
    float *want = mem_array(whole->floats, sizeof *want),
          *got = mem_array(whole->floats, sizeof *got);
    for (uint32_t b = 0; b < whole->block_count; b++)
        layout_init_block(whole, b, 17, want + whole->blocks[b].offset);

    struct layout *cut = make(gcn, ARRAY_LEN(gcn), 192, 3);
    for (uint32_t b = (uint32_t)cut->block_count; b-- > 0;)
        layout_init_block(cut, b, 17, got + cut->blocks[b].offset);
    ck_assert_mem_eq(got, want, whole->floats * sizeof *want);

    /* Glorot: within the bound, mean near 0, variance bound^2 / 3; biases 0; another seed differs.
     */
    double bound = sqrt(6.0 / (1433 + 64)), sum = 0, squares = 0;
    for (size_t i = 0; i < 1433 * 64; i++) {
        ck_assert(fabs((double)want[i]) <= bound);
        sum += (double)want[i];
        squares += (double)want[i] * (double)want[i];
    }
    ck_assert(fabs(sum / (1433 * 64)) < 0.01 * bound);
    ck_assert(fabs(squares / (1433 * 64) / (bound * bound / 3) - 1) < 0.02);
    for (size_t i = 0; i < 64; i++)
        ck_assert(want[1433 * 64 + i] == 0);
    layout_init_block(whole, 0, 18, got);
    ck_assert_mem_ne(got, want, 256);
    layout_free(whole);
    layout_free(cut);
    mem_free(want);
    mem_free(got);
}
END_TEST

/* A model of learned rows alone has no tensors, and no blocks. */
START_TEST(rows_alone) {
    static const struct layout_table table = {.name = "t", .rows = 10, .dim = 4, .init_scale = 1};
    static const struct tensor_spec none[1];
    struct layout *layout = NULL;
    struct error err = {0};
    ck_assert_int_eq(layout_new(none, 0, 64, 3, &layout, &err), 0);
    ck_assert_int_eq(layout_add_tables(layout, &table, 1, &err), 0);
    ck_assert_uint_eq(layout->block_count, 0);
    ck_assert_uint_eq(layout->floats, 0);
    ck_assert_uint_eq(layout->shard_starts[3], 0);
    layout_free(layout);
}
END_TEST

/* Promise: a layout a stranger sends is checked before it costs anything. */
START_TEST(refusals) {
    struct tensor_spec spec = {"a", 2, 2, TENSOR_ZEROS, false}, twice[2] = {spec, spec}, bad;
    struct layout *layout = NULL;
    struct error err = {0};
    ck_assert_int_eq(layout_new(&spec, LAYOUT_TENSORS_MAX + 1, 64, 1, &layout, &err), ERR_LIMIT);
    ck_assert_int_eq(layout_new(&spec, 1, 63, 1, &layout, &err), ERR_RANGE);
    ck_assert_int_eq(layout_new(&spec, 1, 0, 1, &layout, &err), ERR_RANGE);
    ck_assert_int_eq(layout_new(&spec, 1, 64, 0, &layout, &err), ERR_RANGE);
    ck_assert_int_eq(layout_new(twice, 2, 64, 1, &layout, &err), ERR_FORMAT);
    ck_assert_ptr_nonnull(strstr(err.text, "'a'"));
    bad = spec, bad.name[0] = 0;
    ck_assert_int_eq(layout_new(&bad, 1, 64, 1, &layout, &err), ERR_FORMAT);
    bad = spec, memset(bad.name, 'a', sizeof bad.name);
    ck_assert_int_eq(layout_new(&bad, 1, 64, 1, &layout, &err), ERR_FORMAT);
    bad = spec, bad.name[0] = '/';
    ck_assert_int_eq(layout_new(&bad, 1, 64, 1, &layout, &err), ERR_FORMAT);
    bad = spec, bad.cols = 0;
    ck_assert_int_eq(layout_new(&bad, 1, 64, 1, &layout, &err), ERR_RANGE);
    bad = spec, bad.init = (enum tensor_init)9;
    ck_assert_int_eq(layout_new(&bad, 1, 64, 1, &layout, &err), ERR_RANGE);
    bad = spec, bad.decay = bad.statistic = true;
    ck_assert_int_eq(layout_new(&bad, 1, 64, 1, &layout, &err), ERR_RANGE);
    twice[0].statistic = true; /* they come last */
    snprintf(twice[1].name, sizeof twice[1].name, "b");
    ck_assert_int_eq(layout_new(twice, 2, 64, 1, &layout, &err), ERR_RANGE);
    bad = spec, bad.rows = bad.cols = UINT32_MAX;
    ck_assert_int_eq(layout_new(&bad, 1, 64, 1, &layout, &err), ERR_LIMIT);
    bad = spec, bad.rows = 1 << 22;
    ck_assert_int_eq(layout_new(&bad, 1, 64, 1, &layout, &err), ERR_LIMIT);
    ck_assert_ptr_nonnull(strstr(err.text, "servers.block_bytes"));
    ck_assert_ptr_null(layout);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("layout");
    TCase *tcase = tcase_create("layout");
    tcase_set_timeout(tcase, 100);
    tcase_add_test(tcase, tiling);
    tcase_add_test(tcase, balance);
    tcase_add_test(tcase, hash);
    tcase_add_test(tcase, init_is_independent);
    tcase_add_test(tcase, rows_alone);
    tcase_add_test(tcase, refusals);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
