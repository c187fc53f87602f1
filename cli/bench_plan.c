/* The model on which the engine is measured. Every size has tensors of its own, as many messages'
 * worth as there are shards times --spread, so that a shard holds --spread messages of each size;
 * ballast keeps a small model from being cut into smaller blocks than a large one's. How tensors
 * are cut and placed is asked of proto/layout, not assumed. */
#include "cli/bench.h"

#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "proto/codec.h"
#include "proto/frame.h"

uint32_t bench_depth(const struct bench_settings *settings, uint32_t size_bytes) {
    if (settings->depth > 0)
        return settings->depth;
    return size_bytes <= 16u << 10 ? 64 : size_bytes <= 256u << 10 ? 32 : 4;
}

size_t bench_push_bytes(const struct bench_plan *plan, size_t size) {
    const struct bench_settings *settings = plan->settings;
    if (settings->table_rows)
        return bench_row_count(settings, size) *
               (sizeof(uint64_t) +
                codec_bytes((enum codec)plan->config->push_encoding, 1, settings->table_dim));
    const struct bench_message *message = bench_message(plan, size, 0, 0);
    size_t bytes = 0;
    for (size_t i = 0; i < message->block_count; i++)
        bytes += codec_bytes((enum codec)plan->config->push_encoding, plan->config->push_topk_ratio,
                             plan->layout->blocks[message->blocks[i]].floats);
    return bytes;
}

uint32_t bench_ask_bytes(const struct bench_plan *plan, size_t size, enum bench_pattern pattern) {
    const struct bench_settings *settings = plan->settings;
    size_t bytes = pattern & BENCH_PUSH ? bench_push_bytes(plan, size) : BENCH_ASK_BYTES;
    if (settings->table_rows && (pattern & BENCH_PULL)) /* which rows */
        bytes += bench_row_count(settings, size) * sizeof(uint64_t);
    return (uint32_t)bytes;
}

uint32_t bench_answer_bytes(const struct bench_plan *plan, size_t size,
                            enum bench_pattern pattern) {
    return pattern & BENCH_PULL ? plan->settings->sizes[size] : BENCH_ANSWER_BYTES;
}

/* One tensor when its messages end where blocks end, else one for each message. */
static uint32_t tensors_of(const struct bench_settings *settings, size_t size) {
    bool even = settings->sizes[size] % (uint64_t)settings->config->servers_block_bytes == 0;
    return even ? 1 : (uint32_t)settings->config->servers_count * settings->spread;
}

static int plan_layout(struct bench_plan *plan, struct error *reterr) {
    const struct bench_settings *settings = plan->settings;
    uint32_t shards = (uint32_t)settings->config->servers_count, all = shards * settings->spread;
    uint32_t block_bytes = (uint32_t)settings->config->servers_block_bytes;
    size_t count = 0, most = 1, sizes = settings->table_rows ? 0 : settings->size_count;
    for (size_t i = 0; i < sizes; i++)
        most += tensors_of(settings, i);
    if (most > LAYOUT_TENSORS_MAX)
        return error_set(reterr, ERR_LIMIT,
                         "%zu tensors are needed, a layout has %d at most; give a smaller --spread",
                         most, LAYOUT_TENSORS_MAX);
    _cleanup_(mem_free_p) struct tensor_spec *tensors = mem_array(most, sizeof *tensors);
    for (size_t i = 0; i < sizes; i++) {
        uint32_t each = tensors_of(settings, i);
        for (uint32_t k = 0; k < each; k++) {
            struct tensor_spec *tensor = &tensors[count++];
            snprintf(tensor->name, sizeof tensor->name, "size%zu.%u", i, k);
            tensor->rows = all / each;
            tensor->cols = settings->sizes[i] / (uint32_t)sizeof(float);
        }
    }
    struct tensor_spec *ballast = &tensors[count++];
    snprintf(ballast->name, sizeof ballast->name, "ballast");
    ballast->rows = shards;
    ballast->cols = LAYOUT_BLOCKS_EACH * block_bytes / (uint32_t)sizeof(float);
    return layout_new(tensors, count, block_bytes, shards, &plan->layout, reterr);
}

/* Hands a shard's blocks of one size out to its messages, first come first filled. */
static int plan_deal(struct bench_plan *plan, size_t size, size_t first_tensor, size_t shard,
                     struct error *reterr) {
    const struct bench_settings *settings = plan->settings;
    const struct layout *layout = plan->layout;
    size_t message_bytes = settings->sizes[size], end = first_tensor + tensors_of(settings, size);
    struct bench_message *messages =
        &plan->messages[(size * layout->shard_count + shard) * settings->spread];
    _cleanup_(mem_free_p) size_t *filled = mem_array(settings->spread, sizeof *filled);
    uint32_t full = 0;
    for (uint32_t i = layout->shard_starts[shard]; i < layout->shard_starts[shard + 1]; i++) {
        const struct layout_block *block = &layout->blocks[layout->shard_blocks[i]];
        if (block->tensor < first_tensor || block->tensor >= end)
            continue;
        size_t bytes = block->floats * sizeof(float);
        uint32_t k = full;
        while (k < settings->spread && filled[k] + bytes > message_bytes)
            k++;
        if (k == settings->spread)
            break;
        struct bench_message *message = &messages[k];
        message->blocks =
            mem_resize(message->blocks, message->block_count * sizeof *message->blocks,
                       (message->block_count + 1) * sizeof *message->blocks);
        message->blocks[message->block_count++] = block->id;
        filled[k] += bytes;
        while (full < settings->spread && filled[full] == message_bytes)
            full++;
    }
    if (full == settings->spread)
        return 0;
    return error_set(reterr, ERR_RANGE,
                     "--sizes: shard %zu gets no %u whole messages of %zu bytes; a multiple of "
                     "servers.block_bytes (%lld) always fits",
                     shard, settings->spread, message_bytes,
                     (long long)settings->config->servers_block_bytes);
}

/* Are there as many rows on each shard as a message has? Of many rows there are. */
static bool rows_suffice(const struct bench_plan *plan, uint64_t rows) {
    uint64_t all = plan->settings->table_rows;
    uint32_t shards = (uint32_t)plan->layout->shard_count;
    if (all < 8 * rows * shards)
        return false;
    if (all / shards >= 1000)
        return true;
    _cleanup_(mem_free_p) uint32_t *counts = mem_array(shards, sizeof *counts);
    for (uint64_t row = 0; row < all; row++)
        counts[layout_row_shard(row, shards)]++;
    for (uint32_t i = 0; i < shards; i++)
        if (counts[i] < rows)
            return false;
    return true;
}

/* With a table all messages are of its rows; a layout has tensors too, so the ballast stays. */
static int plan_table(struct bench_plan *plan, struct error *reterr) {
    const struct bench_settings *settings = plan->settings;
    if (plan->config->push_encoding == ENCODING_TOPK)
        return error_set(reterr, ERR_CONFIG, "--table: rows are not pushed with topk");
    struct layout_table table = {.name = "rows",
                                 .rows = settings->table_rows,
                                 .dim = settings->table_dim,
                                 .init_scale = 0.05F};
    for (size_t i = 0; i < settings->size_count; i++) {
        size_t row_bytes = settings->table_dim * sizeof(float);
        uint64_t rows = settings->sizes[i] / row_bytes;
        if (settings->sizes[i] % row_bytes != 0)
            return error_set(reterr, ERR_RANGE,
                             "--sizes: a message of %u bytes is no whole number of rows of %zu",
                             settings->sizes[i], row_bytes);
        if (!rows_suffice(plan, rows))
            return error_set(reterr, ERR_RANGE,
                             "--sizes: %llu different rows for each shard are too many to draw "
                             "from %llu; give more --table-rows",
                             (unsigned long long)rows, (unsigned long long)settings->table_rows);
    }
    return layout_add_tables(plan->layout, &table, 1, reterr);
}

/* A payload is made once for all messages of a size, so all must be cut alike. */
static bool plan_alike(const struct bench_plan *plan, size_t size) {
    const struct bench_message *model = bench_message(plan, size, 0, 0);
    for (size_t k = 0; k < plan->layout->shard_count * plan->settings->spread; k++) {
        const struct bench_message *other = &model[k];
        if (other->block_count != model->block_count)
            return false;
        for (size_t i = 0; i < model->block_count; i++)
            if (plan->layout->blocks[other->blocks[i]].floats !=
                plan->layout->blocks[model->blocks[i]].floats)
                return false;
    }
    return true;
}

static int plan_cut(struct bench_plan *plan, size_t size, struct error *reterr) {
    const struct config *config = plan->config;
    const struct bench_message *message = bench_message(plan, size, 0, 0);
    struct bench_cut *cuts = mem_array(message->block_count, sizeof *cuts), *cut = cuts;
    size_t cut_bytes = frame_cut_bytes(config->net_max_frame_bytes), bytes = 0, at = 0;
    int r = 0;
    for (size_t i = 0; i < message->block_count; i++) {
        size_t floats = plan->layout->blocks[message->blocks[i]].floats;
        size_t pushed =
            codec_bytes((enum codec)config->push_encoding, config->push_topk_ratio, floats);
        size_t more = pushed > floats * sizeof(float) ? pushed : floats * sizeof(float);
        if (cut->count > 0 && bytes + more > cut_bytes) {
            *++cut = (struct bench_cut){.first = (uint32_t)i, .push_at = at};
            bytes = 0;
        }
        if (more > (size_t)config->net_max_frame_bytes)
            r = error_set(reterr, ERR_CONFIG,
                          "a block of %zu bytes does not fit into net.max_frame_bytes (%lld)", more,
                          (long long)config->net_max_frame_bytes);
        cut->count++;
        cut->push_bytes += pushed;
        bytes += more;
        at += pushed;
    }
    plan->cuts[size] = cuts;
    plan->cut_counts[size] = (size_t)(cut - cuts) + 1;
    return r;
}

/* Messages of rows are not cut. */
static int plan_frames(const struct bench_plan *plan, size_t size, struct error *reterr) {
    size_t bytes = plan->settings->sizes[size], pushed = bench_push_bytes(plan, size);
    size_t longest = pushed > bytes ? pushed : bytes;
    if (longest <= (size_t)plan->config->net_max_frame_bytes)
        return 0;
    return error_set(reterr, ERR_CONFIG,
                     "--sizes: a payload of %zu bytes does not fit into net.max_frame_bytes (%lld)",
                     longest, (long long)plan->config->net_max_frame_bytes);
}

static int plan_size(struct bench_plan *plan, size_t size, size_t first_tensor,
                     struct error *reterr) {
    const struct config *config = plan->config;
    uint32_t bytes = plan->settings->sizes[size];
    int r = 0;
    for (size_t shard = 0; shard < plan->layout->shard_count && r == 0; shard++)
        r = plan_deal(plan, size, first_tensor, shard, reterr);
    if (r < 0)
        return r;
    if (!plan_alike(plan, size))
        return error_set(reterr, ERR_RANGE,
                         "--sizes: messages of %u bytes are not all cut alike; a multiple of "
                         "servers.block_bytes (%lld) always is",
                         bytes, (long long)config->servers_block_bytes);
    return plan_cut(plan, size, reterr);
}

static int plan_make(struct bench_plan *plan, const struct bench_settings *settings,
                     struct error *reterr) {
    *plan = (struct bench_plan){.settings = settings, .config = settings->config};
    int r = plan_layout(plan, reterr);
    if (r < 0)
        return r;
    plan->options = config_shared_text(plan->config);
    if (settings->table_rows) {
        r = plan_table(plan, reterr);
        for (size_t i = 0; i < settings->size_count && r == 0; i++)
            r = plan_frames(plan, i, reterr);
        return r;
    }
    plan->messages = mem_array(settings->size_count * plan->layout->shard_count * settings->spread,
                               sizeof *plan->messages);
    size_t first = 0;
    for (size_t i = 0; i < settings->size_count && r == 0; i++) {
        r = plan_size(plan, i, first, reterr);
        first += tensors_of(settings, i);
    }
    return r;
}

int bench_plan_init(struct bench_plan *plan, const struct bench_settings *settings,
                    struct error *reterr) {
    int r = plan_make(plan, settings, reterr);
    return r < 0 ? reterr->code = ERR_CONFIG : 0; /* it was asked for, whatever it broke */
}

void bench_plan_done(struct bench_plan *plan) {
    const struct bench_settings *settings = plan->settings;
    if (plan->messages)
        for (size_t i = 0; i < settings->size_count * plan->layout->shard_count * settings->spread;
             i++)
            mem_free(plan->messages[i].blocks);
    mem_free(plan->messages);
    for (size_t i = 0; i < BENCH_SIZES_MAX; i++)
        mem_free(plan->cuts[i]);
    mem_free(plan->options);
    layout_free(plan->layout);
}
