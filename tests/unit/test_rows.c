/* Tables through the server's sessions: rows pushed, pulled, merged, saved and let go. What is
 * expected is docs/protocol.md's, computed here once more, in double. */
#include <math.h>
#include <string.h>

#include "common/log.h"
#include "common/metrics.h"
#include "common/rng.h"
#include "tests/test.h"
#include "tests/unit/seam.h"

enum { WORKERS_MAX = 3, TABLES_MAX = 65, ROWS = 24, DIM_MAX = 5, PAYLOAD_MAX = 4096 };

static const struct tensor_spec tensors[] = {
    {.name = "w", .rows = 5, .cols = 8, .init = TENSOR_GLOROT_UNIFORM, .decay = true},
    {.name = "b", .rows = 1, .cols = 4},
};
static const struct layout_table two_tables[] = {
    {.name = "nodes", .rows = 1000, .dim = 5, .init_scale = 0.25F},
    {.name = "edge.kinds", .rows = 1 << 28, .dim = 3, .init_scale = 1.5F},
};

/* One shard; a session for each rank. */
static struct config *config;
static struct layout_table tables[TABLES_MAX];
static size_t table_count;
static struct layout *layout;
static struct seam_disk disk;
static struct server *server;
static struct seam_conn conns[WORKERS_MAX];
static struct session *sessions[WORKERS_MAX];
static uint64_t now = 1000;

/* A job with the two tables, for the test to change before it begins. */
static void prepare(int64_t workers, int64_t shards) {
    config = seam_config(workers, shards);
    table_count = ARRAY_LEN(two_tables);
    memcpy(tables, two_tables, sizeof two_tables);
}

static void sessions_open(void) {
    for (size_t i = 0; i < WORKERS_MAX; i++)
        sessions[i] = session_new(server, &conns[i], "test");
}

static void sessions_close(void) {
    for (size_t i = 0; i < WORKERS_MAX; i++)
        sessions[i] = session_free(sessions[i]);
}

/* Shards beyond 0 do what an order says. */
static void order(uint64_t number, uint64_t restore_generation, uint64_t generation) {
    Graphps__PeerOrder message = GRAPHPS__PEER_ORDER__INIT;
    message.order = number;
    message.restore = true;
    message.restore_generation = restore_generation;
    message.run = 5;
    uint32_t roster[WORKERS_MAX];
    uint64_t roster_from[WORKERS_MAX] = {0};
    for (uint32_t rank = 0; rank < config->workers_count; rank++)
        roster[message.n_roster++] = rank;
    message.roster = roster;
    message.n_roster_from = message.n_roster;
    message.roster_from = roster_from;
    message.generation = generation;
    server_ordered(server, &message, now);
    server_work(server, now);
}

/* The shard starts fresh and waits for a layout. */
static void begin(uint32_t shard) {
    struct error err;
    ck_assert_int_eq(
        layout_new(tensors, ARRAY_LEN(tensors), 64, (size_t)config->servers_count, &layout, &err),
        0);
    ck_assert_msg(layout_add_tables(layout, tables, table_count, &err) == 0, "%s",
                  error_text(&err));
    server = seam_server(config, shard, 77, &disk);
    sessions_open();
    if (server->coordinator) {
        server_tick(server, now);
        server_work(server, now);
        server_tick(server, now);
    } else {
        order(1, 0, 0);
    }
    ck_assert_int_eq(atomic_load(&server->state), SERVER_WAITING);
}

static void finish(void) {
    sessions_close();
    server = server_free(server);
    for (size_t i = 0; i < WORKERS_MAX; i++)
        seam_conn_done(&conns[i]);
    seam_disk_done(&disk);
    layout = layout_free(layout);
    config_free(config);
}

/* --- greeting --- */

static Graphps__TensorSpec tensor_specs[ARRAY_LEN(tensors)];
static Graphps__TensorSpec *tensor_list[ARRAY_LEN(tensors)];
static Graphps__TableSpec table_specs[TABLES_MAX];
static Graphps__TableSpec *table_list[TABLES_MAX];

static Graphps__Hello hello_of(uint32_t rank, uint64_t incarnation, uint64_t attempt) {
    Graphps__Hello hello = GRAPHPS__HELLO__INIT;
    for (size_t i = 0; i < ARRAY_LEN(tensors); i++) {
        tensor_list[i] = &tensor_specs[i];
        graphps__tensor_spec__init(&tensor_specs[i]);
        tensor_specs[i].name = (char *)tensors[i].name;
        tensor_specs[i].rows = tensors[i].rows;
        tensor_specs[i].cols = tensors[i].cols;
        tensor_specs[i].init = tensors[i].init == TENSOR_ZEROS
                                   ? GRAPHPS__TENSOR_SPEC__INIT__ZEROS
                                   : GRAPHPS__TENSOR_SPEC__INIT__GLOROT_UNIFORM;
        tensor_specs[i].decay = tensors[i].decay;
    }
    for (size_t i = 0; i < table_count; i++) {
        table_list[i] = &table_specs[i];
        graphps__table_spec__init(&table_specs[i]);
        table_specs[i].name = tables[i].name;
        table_specs[i].rows = tables[i].rows;
        table_specs[i].dim = tables[i].dim;
        table_specs[i].init_scale = tables[i].init_scale;
    }
    hello.id = 1;
    hello.job = "unit";
    hello.rank = rank;
    hello.incarnation = incarnation;
    hello.attempt = attempt;
    hello.workers = (uint32_t)config->workers_count;
    hello.shards = server->shards;
    hello.layout_hash = layout->hash;
    hello.n_tensors = ARRAY_LEN(tensors);
    hello.tensors = tensor_list;
    hello.n_tables = table_count;
    hello.tables = table_list;
    hello.snapshot_digest = "digest";
    hello.seed = (uint64_t)config->job_seed;
    hello.steps_per_epoch = 4;
    hello.http = "";
    return hello;
}

static void hello_send(uint32_t rank, const Graphps__Hello *hello) {
    seam_send(sessions[rank], FRAME_HELLO, &hello->base, NULL, 0, now);
}

static void expect_welcome(uint32_t rank) {
    Graphps__Welcome *welcome = (Graphps__Welcome *)seam_take(&conns[rank], FRAME_WELCOME);
    ck_assert_msg(welcome != NULL, "rank %u was not welcomed", rank);
    wire_free(&welcome->base);
}

/* Only shard 0 numbers the attempts itself. */
static void greet(uint32_t rank, uint64_t incarnation) {
    Graphps__Hello hello = hello_of(rank, incarnation, server->coordinator ? 0 : 5);
    hello_send(rank, &hello);
    expect_welcome(rank);
}

/* --- what docs/protocol.md says of rows --- */

#define GOLDEN 0x9e3779b97f4a7c15ULL

static uint64_t mix(uint64_t x) {
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ULL;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebULL;
    x ^= x >> 31;
    return x;
}

static float initial(uint32_t table, uint64_t row, uint32_t element) {
    uint64_t stream = (1ULL << 32) + table - 1;
    uint64_t key =
        mix(mix((uint64_t)config->job_seed + GOLDEN) ^ (stream * 0xd1342543de82ef95ULL + 1));
    uint64_t bits = mix(key + (row * tables[table - 1].dim + element + 1) * GOLDEN);
    float u = (float)(bits >> 40) * 0x1p-24F;
    return (2 * u - 1) * tables[table - 1].init_scale;
}

static uint32_t shard_of(uint64_t row) {
    return (uint32_t)(mix((row + 1) * GOLDEN + 1) % (uint64_t)config->servers_count);
}

/* Some of the table's rows, of this shard, ascending. */
static void rows_choose(uint32_t table, uint64_t rows[ROWS]) {
    uint64_t step = tables[table - 1].rows / (ROWS + 8), row = 0;
    for (size_t i = 0; i < ROWS; i++, row += step) {
        while (shard_of(row) != server->shard)
            row++;
        rows[i] = row;
    }
}

/* Rows with their optimizer's state as they should be. */
struct model {
    uint32_t steps[ROWS];
    double w[ROWS][DIM_MAX], first[ROWS][DIM_MAX], second[ROWS][DIM_MAX];
};

static void model_init(struct model *model, uint32_t table, const uint64_t rows[ROWS]) {
    *model = (struct model){0};
    for (size_t i = 0; i < ROWS; i++)
        for (uint32_t e = 0; e < tables[table - 1].dim; e++)
            model->w[i][e] = initial(table, rows[i], e);
}

/* The formulas on top of server/optimizer.h. */
static void model_step(struct model *model, size_t i, uint32_t dim, const double *gradient) {
    double lr = config->optimizer_lr, b1 = config->optimizer_beta1, b2 = config->optimizer_beta2;
    uint32_t step = ++model->steps[i];
    for (uint32_t e = 0; e < dim; e++) {
        double g = gradient[e], *w = &model->w[i][e];
        double *m = &model->first[i][e], *s = &model->second[i][e];
        if (config->optimizer_kind == OPTIMIZER_SGD) {
            *w -= lr * g;
        } else if (config->optimizer_kind == OPTIMIZER_ADAGRAD) {
            *s += g * g;
            *w -= lr * g / (sqrt(*s) + config->optimizer_eps);
        } else {
            *m = b1 * *m + (1 - b1) * g;
            *s = b2 * *s + (1 - b2) * g * g;
            *w -= lr * (*m / (1 - pow(b1, step))) /
                  (sqrt(*s / (1 - pow(b2, step))) + config->optimizer_eps);
        }
    }
}

/* --- pushes and pulls --- */

static struct {
    Graphps__Push message;
    uint64_t versions[LAYOUT_STRIPES + 1];
    _Alignas(8) uint8_t payload[PAYLOAD_MAX];
    size_t bytes;
} push;

static void push_put(const void *data, size_t bytes) {
    ck_assert_uint_le(push.bytes + bytes, PAYLOAD_MAX);
    if (bytes > 0)
        memcpy(push.payload + push.bytes, data, bytes);
    push.bytes += bytes;
}

/* A push of these rows, without what follows their numbers; of weight 1, its clock is in step with
 * its sequence. */
static void push_begin(uint32_t rank, uint64_t incarnation, uint64_t sequence, uint32_t table,
                       const uint64_t *rows, uint32_t n) {
    memset(&push, 0, sizeof push);
    graphps__push__init(&push.message);
    push.message.id = 100 + sequence;
    push.message.rank = rank;
    push.message.incarnation = incarnation;
    push.message.sequence = sequence;
    push.message.clock = sequence - 1;
    push.message.weight = 1;
    push.message.table = table;
    push.message.rows = n;
    push_put(rows, n * sizeof *rows);
}

/* All gradients alike. */
static void push_make(uint32_t rank, uint64_t incarnation, uint64_t sequence, uint32_t table,
                      const uint64_t *rows, uint32_t n, float value) {
    push_begin(rank, incarnation, sequence, table, rows, n);
    for (size_t i = 0; i < (size_t)n * tables[table - 1].dim; i++)
        push_put(&value, sizeof value);
}

static void push_versions(const uint64_t *versions, size_t count) {
    memcpy(push.versions, versions, count * sizeof *versions);
    push.message.versions = push.versions;
    push.message.n_versions = count;
}

static void push_send(uint32_t rank) {
    seam_send(sessions[rank], FRAME_PUSH, &push.message.base, push.payload, push.bytes, now);
}

static void aggregate(void) {
    while (aggregator_run(server->aggregator, now))
        ;
}

/* Returns Pushed.unmerged. */
static uint32_t expect_pushed(uint32_t rank, uint64_t sequence, bool repeat) {
    Graphps__Pushed *pushed = (Graphps__Pushed *)seam_take(&conns[rank], FRAME_PUSHED);
    ck_assert_msg(pushed != NULL, "rank %u: push %d was not acknowledged", rank, (int)sequence);
    ck_assert_uint_eq(pushed->sequence, sequence);
    ck_assert_uint_eq(pushed->id, 100 + sequence);
    ck_assert_int_eq(pushed->repeat, repeat);
    uint32_t unmerged = pushed->unmerged;
    wire_free(&pushed->base);
    seam_expect_none(&conns[rank], FRAME_PUSHED);
    return unmerged;
}

/* A push that is merged at once, as in async with batches of one. */
static void push_done(uint32_t rank) {
    push_send(rank);
    aggregate();
    ck_assert_uint_eq(expect_pushed(rank, push.message.sequence, false), 0);
}

static void pull_send(uint32_t rank, uint32_t table, const uint64_t *rows, uint32_t n) {
    Graphps__PullRows pull = GRAPHPS__PULL_ROWS__INIT;
    pull.id = 7;
    pull.table = table;
    pull.rows = n;
    seam_send(sessions[rank], FRAME_PULL_ROWS, &pull.base, rows, n * sizeof *rows, now);
}

/* ret_versions: [LAYOUT_STRIPES] or NULL. */
static void pull(uint32_t rank, uint32_t table, const uint64_t *rows, uint32_t n, float *out,
                 uint64_t *ret_versions) {
    size_t floats = (size_t)n * tables[table - 1].dim, got;
    pull_send(rank, table, rows, n);
    Graphps__Rows *answer =
        (Graphps__Rows *)seam_take_payload(&conns[rank], FRAME_ROWS, out, floats, &got);
    ck_assert_msg(answer != NULL, "the pull was not answered");
    ck_assert_uint_eq(answer->id, 7);
    ck_assert_uint_eq(answer->table, table);
    ck_assert_uint_eq(answer->rows, n);
    ck_assert_uint_eq(got, floats);
    ck_assert_uint_eq(answer->n_versions, LAYOUT_STRIPES);
    if (ret_versions)
        memcpy(ret_versions, answer->versions, LAYOUT_STRIPES * sizeof *ret_versions);
    wire_free(&answer->base);
}

static uint64_t rows_held(void) {
    Graphps__ShardStatus status;
    server_status(server, &status);
    return status.rows;
}

/* In loops over all floats: every ck_assert writes to a file. */
#define EXPECT(what)                                                                               \
    do {                                                                                           \
        if (!(what))                                                                               \
            ck_abort_msg("%s", #what);                                                             \
    } while (0)

static void expect_initial(uint32_t rank, uint32_t table, const uint64_t *rows, uint32_t n) {
    uint32_t dim = tables[table - 1].dim;
    float *got = mem_array((size_t)n * dim, sizeof *got);
    pull(rank, table, rows, n, got, NULL);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t e = 0; e < dim; e++)
            EXPECT(got[i * dim + e] == initial(table, rows[i], e));
    mem_free(got);
}

static void expect_model(const struct model *model, uint32_t table, const uint64_t rows[ROWS]) {
    uint32_t dim = tables[table - 1].dim;
    float got[ROWS * DIM_MAX], expected[ROWS * DIM_MAX];
    pull(0, table, rows, ROWS, got, NULL);
    for (size_t i = 0; i < ROWS; i++)
        for (uint32_t e = 0; e < dim; e++) {
            expected[i * dim + e] = (float)model->w[i][e];
            EXPECT(model->steps[i] > 0 || got[i * dim + e] == expected[i * dim + e]);
        }
    test_floats_equal("rows", got, expected, (size_t)ROWS * dim, 1e-5, 1e-5);
}

/* Which rows a push has, and their gradients. */
struct gradient {
    bool met[ROWS];
    float values[ROWS][DIM_MAX];
    double weight;
};

/* Makes a push of about half of the rows; what is in it depends on the key alone. */
static void push_random(uint32_t rank, uint64_t incarnation, uint64_t sequence, uint32_t table,
                        const uint64_t rows[ROWS], uint64_t key, struct gradient *gradient) {
    uint32_t dim = tables[table - 1].dim, n = 0;
    uint64_t chosen[ROWS];
    *gradient = (struct gradient){.weight = 1 + (double)(key % 7)};
    for (size_t i = 0; i < ROWS; i++) {
        gradient->met[i] = rng_at(key, i) & 1;
        for (uint32_t e = 0; e < dim; e++)
            gradient->values[i][e] = 2 * rng_float(rng_at(key, ROWS + i * DIM_MAX + e)) - 1;
        if (gradient->met[i])
            chosen[n++] = rows[i];
    }
    push_begin(rank, incarnation, sequence, table, chosen, n);
    for (size_t i = 0; i < ROWS; i++)
        if (gradient->met[i])
            push_put(gradient->values[i], dim * sizeof(float));
    push.message.weight = gradient->weight;
}

/* One update of a batch. */
static void model_merge(struct model *model, uint32_t dim, const struct gradient *gradients,
                        size_t count) {
    double total = 0;
    for (size_t p = 0; p < count; p++)
        total += gradients[p].weight;
    for (size_t i = 0; i < ROWS; i++) {
        double mean[DIM_MAX] = {0};
        bool met = false;
        for (size_t p = 0; p < count; p++) {
            met |= gradients[p].met[i] && gradients[p].weight > 0;
            for (uint32_t e = 0; gradients[p].met[i] && e < dim; e++)
                mean[e] += gradients[p].weight / total * (double)gradients[p].values[i][e];
        }
        if (met)
            model_step(model, i, dim, mean);
    }
}

/* --- tests --- */

/* Promise: a row that nothing has touched has the value of the written formula on whichever shard
 * it lives, in the order it was asked for, and asking creates nothing. */
START_TEST(test_initial) {
    static const int64_t seeds[] = {1, 12345, INT64_MAX};
    static const uint32_t places[][2] = {{0, 1}, {1, 2}, {1, 3}, {2, 3}}; /* shard, of */
    uint32_t shard = places[_i][0];
    for (size_t s = 0; s < ARRAY_LEN(seeds); s++) {
        prepare(1, places[_i][1]);
        config->job_seed = seeds[s];
        begin(shard);
        greet(0, 9);
        for (uint32_t table = 1; table <= 2; table++) {
            uint64_t rows[ROWS], reversed[ROWS];
            rows_choose(table, rows);
            for (size_t i = 0; i < ROWS; i++)
                reversed[i] = rows[ROWS - 1 - i];
            expect_initial(0, table, rows, ROWS);
            expect_initial(0, table, reversed, ROWS);
            expect_initial(0, table, rows, 0);
            uint64_t last = tables[table - 1].rows - 1;
            while (shard_of(last) != shard)
                last--;
            expect_initial(0, table, &last, 1);
        }
        ck_assert_uint_eq(rows_held(), 0);
        finish();
    }
}
END_TEST

/* Promise: a push steps just the rows it names, by the optimizer's formula, each row counting its
 * own steps and never decaying; it is acknowledged once; said again it changes nothing; and of an
 * older process of the rank it is refused. */
START_TEST(test_push) {
    static const int kinds[] = {OPTIMIZER_SGD, OPTIMIZER_ADAGRAD, OPTIMIZER_ADAM};
    prepare(2, 1);
    config->optimizer_kind = kinds[_i];
    config->optimizer_lr = 0.05;
    config->optimizer_weight_decay = 0.1;
    begin(0);
    greet(0, 9);
    uint64_t rows[3][ROWS], sequence = 0, held = 0;
    struct model models[3];
    for (uint32_t table = 1; table <= 2; table++) {
        rows_choose(table, rows[table]);
        model_init(&models[table], table, rows[table]);
    }
    struct gradient gradient;
    for (uint32_t round = 0; round < 20; round++) {
        uint32_t table = 1 + round % 2;
        push_random(0, 9, ++sequence, table, rows[table], round, &gradient);
        push_send(0);
        if (round % 3 == 0) /* said again while it waits */
            push_send(0);
        seam_expect_none(&conns[0], FRAME_PUSHED);
        aggregate();
        ck_assert_uint_eq(expect_pushed(0, sequence, false), 0);
        model_merge(&models[table], tables[table - 1].dim, &gradient, 1);
        expect_model(&models[1], 1, rows[1]);
        expect_model(&models[2], 2, rows[2]);
    }
    for (uint32_t table = 1; table <= 2; table++)
        for (size_t i = 0; i < ROWS; i++)
            held += models[table].steps[i] > 0;
    ck_assert_uint_eq(rows_held(), held);

    float before[ROWS * DIM_MAX] = {0}, after[ROWS * DIM_MAX] = {0};
    pull(0, 2, rows[2], ROWS, before, NULL);
    push_send(0);
    aggregate();
    expect_pushed(0, sequence, true);
    greet(1, 20);
    sessions[2] = session_free(sessions[2]);
    sessions[2] = session_new(server, &conns[2], "newer");
    Graphps__Hello hello = hello_of(0, 10, 0);
    hello_send(2, &hello);
    expect_welcome(2);
    seam_expect_error(&conns[0], ERR_FENCED, "newer");
    push_random(0, 9, ++sequence, 2, rows[2], 99, &gradient);
    push_send(0);
    seam_expect_error(&conns[0], ERR_FENCED, "rank 0");
    aggregate();
    pull(2, 2, rows[2], ROWS, after, NULL);
    ck_assert_mem_eq(before, after, sizeof before);
    ck_assert_uint_eq(rows_held(), held);
    push_random(0, 10, 1, 2, rows[2], 100, &gradient);
    push_send(2);
    aggregate();
    expect_pushed(2, 1, false);
    finish();
}
END_TEST

/* Promise: a push of no samples or of no rows is acknowledged, and touches nothing. */
START_TEST(test_nothing) {
    prepare(1, 1);
    begin(0);
    greet(0, 9);
    uint64_t rows[ROWS];
    rows_choose(1, rows);
    push_make(0, 9, 1, 1, rows, ROWS, 1);
    push.message.weight = 0;
    push_done(0);
    for (uint64_t encoding = 0; encoding < CODEC_TOPK; encoding++) {
        push_make(0, 9, 2 + encoding, 1, NULL, 0, 1);
        push.message.encoding = (Graphps__Encoding)encoding;
        push_done(0);
    }
    expect_initial(0, 1, rows, ROWS);
    ck_assert_uint_eq(rows_held(), 0);
    finish();
}
END_TEST

/* The rows of stripes first to end - 1, of 1 each. */
static uint32_t push_part(uint64_t sequence, const uint64_t *rows, uint32_t first, uint32_t end) {
    uint64_t some[ROWS];
    uint32_t n = 0;
    for (size_t i = 0; i < ROWS; i++)
        if (layout_row_stripe(rows[i]) >= first && layout_row_stripe(rows[i]) < end)
            some[n++] = rows[i];
    push_make(0, 9, sequence, 1, some, n, 1);
    push.message.clock = 0;
    push.message.stripe = first;
    push.message.stripes = end - first;
    return n;
}

/* Promise: a step's rows in several pushes, by stripe, are merged as in one, each once; a row of
 * another stripe than the push says is refused, as are stripes that there are not. */
START_TEST(test_stripes) {
    prepare(1, 1);
    config->consistency_mode = CONSISTENCY_BSP;
    begin(0);
    greet(0, 9);
    uint64_t rows[ROWS];
    float out[ROWS * DIM_MAX];
    rows_choose(1, rows);
    size_t dim = tables[0].dim;
    static const uint32_t wrong[][2] = {{0, 17}, {16, 1}, {15, 2}, {1, 0}, {UINT32_MAX, 2}};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        push_make(0, 9, 1, 1, rows, ROWS, 1);
        push.message.stripe = wrong[i][0];
        push.message.stripes = wrong[i][1];
        push_send(0);
        seam_expect_error(&conns[0], ERR_RANGE, "stripes");
    }
    push_make(0, 9, 1, 1, rows, ROWS, 1);
    push.message.stripes = 8;
    push_send(0);
    seam_expect_error(&conns[0], ERR_RANGE, "stripe");
    expect_initial(0, 1, rows, ROWS);

    static const uint32_t cuts[] = {0, 1, 8, 16};
    for (uint32_t k = 0; k < 3; k++) {
        push_part(k + 1, rows, cuts[k], cuts[k + 1]);
        push_done(0);
        push_send(0);
        expect_pushed(0, k + 1, true);
    }
    pull(0, 1, rows, ROWS, out, NULL);
    for (size_t i = 0; i < ROWS * dim; i++)
        EXPECT(fabsf(out[i] - (initial(1, rows[i / dim], (uint32_t)(i % dim)) - 1)) < 1e-6F);
    finish();
}
END_TEST

/* Three ranks, five clocks, bsp; the order in which they push within a clock is the permutation's.
 * Rank 2 has no rows in clock 1, nobody has any in clock 2, rank 1 has no samples in clock 3. */
static void bsp_run(int permutation, float out[ROWS * DIM_MAX]) {
    static const uint32_t orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                          {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    prepare(3, 1);
    config->consistency_mode = CONSISTENCY_BSP;
    config->optimizer_kind = OPTIMIZER_ADAM;
    config->optimizer_lr = 0.1;
    begin(0);
    uint64_t rows[ROWS];
    struct model model;
    struct gradient gradients[3];
    rows_choose(1, rows);
    model_init(&model, 1, rows);
    for (uint32_t rank = 0; rank < 3; rank++)
        greet(rank, 9 + rank);
    for (uint64_t clock = 0; clock < 5; clock++) {
        for (size_t k = 0; k < 3; k++) {
            uint32_t rank = orders[permutation][k];
            push_random(rank, 9 + rank, clock + 1, 1, rows, clock * 10 + rank, &gradients[rank]);
            if (clock == 2 || (clock == 1 && rank == 2)) {
                push_begin(rank, 9 + rank, clock + 1, 1, NULL, 0);
                push.message.weight = gradients[rank].weight = 6;
                memset(gradients[rank].met, 0, sizeof gradients[rank].met);
            }
            if (clock == 3 && rank == 1)
                push.message.weight = gradients[rank].weight = 0;
            push_send(rank);
            aggregate();
            for (uint32_t r = 0; k < 2 && r < 3; r++)
                seam_expect_none(&conns[r], FRAME_PUSHED);
            if (k < 2)
                expect_model(&model, 1, rows);
        }
        for (uint32_t rank = 0; rank < 3; rank++)
            ck_assert_uint_eq(expect_pushed(rank, clock + 1, false), 0);
        model_merge(&model, tables[0].dim, gradients, 3);
        expect_model(&model, 1, rows);
    }
    pull(0, 1, rows, ROWS, out, NULL);
    finish();
}

/* Promise: in bsp a clock's batch waits for all ranks; a row's gradient is the mean over the
 * samples of all of them, also of those that do not have the row, or no row at all; and the bits do
 * not depend on who came first. */
START_TEST(test_bsp) {
    float first[ROWS * DIM_MAX], other[ROWS * DIM_MAX];
    bsp_run(0, first);
    for (int permutation = 1; permutation < 6; permutation++) {
        bsp_run(permutation, other);
        ck_assert_mem_eq(first, other, sizeof first);
    }
}
END_TEST

/* Promise: in bsp what comes after its clock's batch is done with and not merged, and Pushed says
 * so; what a newer process of a rank sends instead counts once. */
START_TEST(test_bsp_late) {
    prepare(2, 2);
    config->consistency_mode = CONSISTENCY_BSP;
    begin(1);
    greet(0, 9);
    greet(1, 20);
    uint64_t rows[ROWS];
    float expected[DIM_MAX], got[DIM_MAX];
    rows_choose(1, rows);
    push_make(0, 9, 1, 1, rows, 1, 64);
    push_send(0);
    Graphps__Hello hello = hello_of(0, 10, 6);
    hello_send(2, &hello);
    expect_welcome(2);
    seam_expect_error(&conns[0], ERR_FENCED, "newer");
    push_make(0, 10, 1, 1, rows, 1, 4);
    push_send(2);
    push_make(1, 20, 1, 1, rows, 1, 2);
    push_send(1);
    aggregate();
    ck_assert_uint_eq(expect_pushed(2, 1, false), 0);
    ck_assert_uint_eq(expect_pushed(1, 1, false), 0);
    seam_expect_none(&conns[0], FRAME_PUSHED);
    ck_assert_uint_eq(metric_counter(METRIC_PUSH_LATE), 1);
    pull(1, 1, rows, 1, got, NULL);
    for (uint32_t e = 0; e < tables[0].dim; e++)
        expected[e] = initial(1, rows[0], e) - 3;
    test_floats_equal("row", got, expected, tables[0].dim, 1e-6, 0);

    push_make(1, 20, 2, 1, rows, 1, 8);
    push.message.clock = 0;
    push_send(1);
    aggregate();
    ck_assert_uint_gt(expect_pushed(1, 2, false), 0);
    pull(1, 1, rows, 1, got, NULL);
    test_floats_equal("row", got, expected, tables[0].dim, 1e-6, 0);
    finish();
}
END_TEST

/* Promise: int8 and fp16 gradients mean what the protocol says, whole rows one after the other and
 * padded once; what decodes to no number is refused, and topk is. */
START_TEST(test_encodings) {
    enum { COUNT = 3, FLOATS = COUNT * 5 };
    static const struct {
        uint16_t half;
        float value;
    } halves[] = {{0x3c00, 1},        {0xbc00, -1}, {0x3555, 0.333251953125F}, {0x7bff, 65504},
                  {0x0001, 0x1p-24F}, {0x8000, 0},  {0x4248, 3.140625F},       {0xfbff, -65504}};
    prepare(1, 1);
    begin(0);
    greet(0, 9);
    uint64_t rows[ROWS];
    float expected[FLOATS], got[FLOATS];
    rows_choose(1, rows);
    for (uint32_t i = 0; i < FLOATS; i++)
        expected[i] = initial(1, rows[i / 5], i % 5);

    const float scale = 0.5F, minimum = -3;
    uint8_t q[COUNT][8] = {{0}}; /* a row's, padded */
    for (uint32_t i = 0; i < FLOATS; i++) {
        q[i / 5][i % 5] = (uint8_t)(i * 17 + 1);
        expected[i] -= minimum + (float)q[i / 5][i % 5] * scale;
    }
    push_begin(0, 9, 1, 1, rows, COUNT);
    push.message.encoding = GRAPHPS__ENCODING__INT8;
    for (uint32_t i = 0; i < COUNT; i++) {
        push_put(&scale, sizeof scale);
        push_put(&minimum, sizeof minimum);
        push_put(q[i], sizeof q[i]);
    }
    push_done(0);
    pull(0, 1, rows, COUNT, got, NULL);
    test_floats_equal("int8", got, expected, FLOATS, 1e-6, 1e-6);

    uint16_t bits[COUNT][6] = {{0}};
    for (uint32_t i = 0; i < FLOATS; i++) {
        bits[i / 5][i % 5] = halves[i % ARRAY_LEN(halves)].half;
        expected[i] -= halves[i % ARRAY_LEN(halves)].value;
    }
    push_begin(0, 9, 2, 1, rows, COUNT);
    push.message.encoding = GRAPHPS__ENCODING__FP16;
    push_put(bits, sizeof bits);
    push_done(0);
    pull(0, 1, rows, COUNT, got, NULL);
    test_floats_equal("fp16", got, expected, FLOATS, 1e-6, 1e-6);

    memcpy(expected, got, sizeof got);
    for (int i = 0; i < 2; i++) {
        bits[COUNT - 1][4] = i ? 0x7c00 : 0x7e00; /* infinite; not a number */
        push_begin(0, 9, 3, 1, rows, COUNT);
        push.message.encoding = GRAPHPS__ENCODING__FP16;
        push_put(bits, sizeof bits);
        push_send(0);
        seam_expect_error(&conns[0], ERR_NOT_FINITE, "nodes");
        push_begin(0, 9, 3, 1, rows, COUNT);
        push.message.encoding = GRAPHPS__ENCODING__INT8;
        const float wrong = i ? 3e38F : NAN; /* finite itself, but not what it makes */
        for (uint32_t k = 0; k < COUNT; k++) {
            push_put(k == 1 ? &wrong : &scale, sizeof wrong);
            push_put(&minimum, sizeof minimum);
            push_put(q[k], sizeof q[k]);
        }
        push_send(0);
        seam_expect_error(&conns[0], ERR_NOT_FINITE, "nodes");
    }
    const uint32_t topk[] = {1, 0, 0};
    push_begin(0, 9, 3, 1, rows, COUNT);
    push.message.encoding = GRAPHPS__ENCODING__TOPK;
    push_put(topk, sizeof topk);
    push_send(0);
    seam_expect_error(&conns[0], ERR_PROTOCOL, "topk");
    aggregate();
    pull(0, 1, rows, COUNT, got, NULL);
    ck_assert_mem_eq(expected, got, sizeof got);
    finish();
}
END_TEST

static void expect_refused(int code, const char *text_part) {
    push_send(0);
    seam_expect_error(&conns[0], code, text_part);
    seam_expect_none(&conns[0], FRAME_PUSHED);
}

/* Promise: a push to a table is believed whole or not at all: whatever is wrong with it, it is
 * answered with a sentence, makes no row, does not count, and the connection lives on. */
START_TEST(test_wrong_push) {
    prepare(1, 2);
    begin(1);
    greet(0, 9);
    uint64_t rows[ROWS], some[3], versions[LAYOUT_STRIPES], later[LAYOUT_STRIPES];
    float ignored[ROWS * DIM_MAX];
    rows_choose(1, rows);
    pull(0, 1, rows, ROWS, ignored, versions);
    memcpy(some, rows, sizeof some);

    push_make(0, 9, 1, 1, some, 3, 1);
    push.message.table = 0;
    expect_refused(ERR_PROTOCOL, "0 blocks");
    push.message.table = 3;
    expect_refused(ERR_RANGE, "table 3");
    push.message.table = UINT32_MAX;
    expect_refused(ERR_RANGE, "table 4294967295");

    some[2] = tables[0].rows;
    push_make(0, 9, 1, 1, some, 3, 1);
    expect_refused(ERR_RANGE, "has 1000");
    some[2] = UINT64_MAX;
    push_make(0, 9, 1, 1, some, 3, 1);
    expect_refused(ERR_RANGE, "row 18446744073709551615");
    some[2] = some[1];
    push_make(0, 9, 1, 1, some, 3, 1);
    expect_refused(ERR_PROTOCOL, "ascending");
    some[1] = rows[1] + 1; /* one of the same stripe */
    while (shard_of(some[1]) != 1 || layout_row_stripe(some[1]) != layout_row_stripe(rows[1]))
        some[1]++;
    some[2] = rows[1];
    push_make(0, 9, 1, 1, some, 3, 1);
    expect_refused(ERR_PROTOCOL, "ascending");
    some[1] = rows[1];
    some[2] = rows[1] + 1;
    while (shard_of(some[2]) != 0)
        some[2]++;
    push_make(0, 9, 1, 1, some, 3, 1);
    expect_refused(ERR_RANGE, "shard 0");

    for (int part = 1; part <= 3; part++) {
        push_make(0, 9, 1, 1, rows, 3, 1);
        push.bytes -= part == 1 ? 4 : part == 2 ? 8 : 60;
        expect_refused(ERR_PROTOCOL, "bytes");
        push_make(0, 9, 1, 1, rows, 3, 1);
        push.bytes += (size_t)part * 4;
        expect_refused(ERR_PROTOCOL, "bytes");
    }
    static const uint32_t counts[] = {0, 2, 4, 1 << 29, UINT32_MAX};
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        push_make(0, 9, 1, 1, rows, 3, 1);
        push.message.rows = counts[i];
        expect_refused(ERR_PROTOCOL, "rows");
        push.message.encoding = GRAPHPS__ENCODING__INT8;
        expect_refused(ERR_PROTOCOL, "rows");
    }
    push_make(0, 9, 1, 1, rows, 3, 1);
    push.bytes = 0;
    expect_refused(ERR_PROTOCOL, "rows");

    static const float numbers[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        push_make(0, 9, 1, 1, rows, 3, 1);
        memcpy(push.payload + push.bytes - 4, &numbers[i], 4);
        expect_refused(ERR_NOT_FINITE, "nodes");
    }
    static const size_t version_counts[] = {1, LAYOUT_STRIPES - 1, LAYOUT_STRIPES + 1};
    for (size_t i = 0; i < ARRAY_LEN(version_counts); i++) {
        static const uint64_t ones[LAYOUT_STRIPES + 1] = {1, 1};
        push_make(0, 9, 1, 1, rows, 3, 1);
        push_versions(ones, version_counts[i]);
        expect_refused(ERR_PROTOCOL, "versions");
    }
    uint32_t block = layout->shard_blocks[layout->shard_starts[1]];
    push_make(0, 9, 1, 1, rows, 3, 1);
    push.message.blocks = &block;
    push.message.n_blocks = 1;
    expect_refused(ERR_PROTOCOL, "blocks");
    push_make(0, 9, 1, 1, rows, 3, 1);
    push.message.encoding = (Graphps__Encoding)9;
    expect_refused(ERR_PROTOCOL, "encoding");
    push_make(0, 9, 1, 1, rows, 3, 1);
    push.message.weight = NAN;
    expect_refused(ERR_NOT_FINITE, "weight");

    aggregate();
    ck_assert_uint_eq(rows_held(), 0);
    ck_assert_uint_eq(aggregator_pending(server->aggregator), 0);
    ck_assert_uint_eq(server->seats[0].ledger.counted, 0);
    pull(0, 1, rows, ROWS, ignored, later);
    ck_assert_mem_eq(versions, later, sizeof versions);
    expect_initial(0, 1, rows, ROWS);
    push_make(0, 9, 1, 1, rows, 3, 1);
    push_done(0);
    ck_assert_uint_eq(rows_held(), 3);
    finish();
}
END_TEST

/* Promise: a pull that names what is not there, not here or too much is refused with a sentence,
 * and the next one is answered. */
START_TEST(test_wrong_pull) {
    enum { BYTES = 4096, MOST = BYTES / (5 * 4) };
    prepare(1, 2);
    config->net_max_frame_bytes = BYTES;
    begin(1);
    uint64_t rows[MOST + 1], row = 0;
    for (size_t i = 0; i <= MOST; i++, row++) {
        while (shard_of(row) != 1)
            row++;
        rows[i] = row;
    }
    pull_send(0, 1, rows, 1);
    seam_expect_error(&conns[0], ERR_NOT_ATTACHED, "before hello");
    greet(0, 9);
    pull_send(0, 0, rows, 1);
    seam_expect_error(&conns[0], ERR_RANGE, "table 0");
    pull_send(0, 3, rows, 1);
    seam_expect_error(&conns[0], ERR_RANGE, "table 3");
    pull_send(0, 1, rows, MOST + 1);
    seam_expect_error(&conns[0], ERR_LIMIT, "net.max_frame_bytes");

    uint64_t wrong[2] = {rows[0], tables[0].rows};
    pull_send(0, 1, wrong, 2);
    seam_expect_error(&conns[0], ERR_RANGE, "has 1000");
    wrong[1] = UINT64_MAX;
    pull_send(0, 1, wrong, 2);
    seam_expect_error(&conns[0], ERR_RANGE, "row 18446744073709551615");
    wrong[1] = 0;
    while (shard_of(wrong[1]) != 0)
        wrong[1]++;
    pull_send(0, 1, wrong, 2);
    seam_expect_error(&conns[0], ERR_RANGE, "shard 0");

    static const uint32_t counts[] = {0, 1, 3, UINT32_MAX};
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        Graphps__PullRows message = GRAPHPS__PULL_ROWS__INIT;
        message.table = 1;
        message.rows = counts[i];
        seam_send(sessions[0], FRAME_PULL_ROWS, &message.base, rows, 16, now);
        seam_expect_error(&conns[0], ERR_PROTOCOL, "16 bytes");
    }
    seam_expect_none(&conns[0], FRAME_ROWS);
    expect_initial(0, 1, rows, MOST);
    ck_assert_uint_eq(rows_held(), 0);
    finish();
}
END_TEST

/* Promise: tables that no shard could keep are refused by the first shard that hears of them, which
 * goes on waiting for right ones. */
START_TEST(test_wrong_tables) {
    static const float scales[] = {NAN, INFINITY, -1};
    prepare(2, 1);
    begin(0);
    Graphps__Hello hello = hello_of(0, 9, 0);
    for (size_t i = 0; i < ARRAY_LEN(scales); i++) {
        hello = hello_of(0, 9, 0);
        table_specs[1].init_scale = scales[i];
        hello_send(0, &hello);
        seam_expect_error(&conns[0], ERR_RANGE, "edge.kinds");
    }
    hello = hello_of(0, 9, 0);
    table_specs[1].dim = 0;
    hello_send(0, &hello);
    seam_expect_error(&conns[0], ERR_RANGE, "0 floats");
    table_specs[1].dim = LAYOUT_DIM_MAX + 1;
    hello_send(0, &hello);
    seam_expect_error(&conns[0], ERR_RANGE, "65537");
    hello = hello_of(0, 9, 0);
    table_specs[1].rows = 0;
    hello_send(0, &hello);
    seam_expect_error(&conns[0], ERR_RANGE, "0 rows");
    table_specs[1].rows = 1ULL << 41;
    hello_send(0, &hello);
    seam_expect_error(&conns[0], ERR_RANGE, "2199023255552 rows");
    hello = hello_of(0, 9, 0);
    table_specs[1].name = "nodes";
    hello_send(0, &hello);
    seam_expect_error(&conns[0], ERR_FORMAT, "nodes");
    table_specs[1].name = "a b";
    hello_send(0, &hello);
    seam_expect_error(&conns[0], ERR_FORMAT, "table 1");
    table_specs[1].name = "";
    hello_send(0, &hello);
    seam_expect_error(&conns[0], ERR_FORMAT, "table 1");

    hello = hello_of(0, 9, 0);
    for (size_t i = 0; i < TABLES_MAX; i++)
        table_list[i] = &table_specs[0];
    hello.n_tables = LAYOUT_TABLES_MAX + 1;
    hello_send(0, &hello);
    seam_expect_error(&conns[0], ERR_LIMIT, "64 tables");
    ck_assert_int_eq(atomic_load(&server->state), SERVER_WAITING);
    greet(0, 9);
    finish();
}
END_TEST

/* Promise: once a run has tables, a worker that declares others is refused, naming the first
 * difference. */
START_TEST(test_other_tables) {
    static const struct {
        const char *text;
        size_t count;
        struct layout_table table; /* instead of the second */
    } cases[] = {
        {"'other'", 2, {.name = "other", .rows = 1 << 28, .dim = 3, .init_scale = 1.5F}},
        {"77 x 3", 2, {.name = "edge.kinds", .rows = 77, .dim = 3, .init_scale = 1.5F}},
        {"x 4,", 2, {.name = "edge.kinds", .rows = 1 << 28, .dim = 4, .init_scale = 1.5F}},
        {"1.25", 2, {.name = "edge.kinds", .rows = 1 << 28, .dim = 3, .init_scale = 1.25F}},
        {"nan", 2, {.name = "edge.kinds", .rows = 1 << 28, .dim = 3, .init_scale = NAN}},
        {"1 tables", 1, {.name = "edge.kinds"}},
        {"0 tables", 0, {.name = "edge.kinds"}},
    };
    prepare(2, 1);
    begin(0);
    greet(0, 9);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        Graphps__Hello hello = hello_of(1, 20, 0);
        hello.layout_hash += 1 + i;
        hello.n_tables = cases[i].count;
        table_specs[1].name = (char *)cases[i].table.name;
        table_specs[1].rows = cases[i].table.rows;
        table_specs[1].dim = cases[i].table.dim;
        table_specs[1].init_scale = cases[i].table.init_scale;
        hello_send(1, &hello);
        seam_expect_error(&conns[1], ERR_WRONG_LAYOUT, cases[i].text);
    }
    greet(1, 20);
    finish();
}
END_TEST

/* Promise: 64 tables are taken, and the last is one like the others. */
START_TEST(test_many_tables) {
    prepare(1, 1);
    table_count = LAYOUT_TABLES_MAX;
    for (size_t i = 0; i < table_count; i++) {
        tables[i] = two_tables[0];
        snprintf(tables[i].name, sizeof tables[i].name, "%059zu.tab", i);
    }
    begin(0);
    greet(0, 9);
    uint64_t rows[ROWS];
    float got[DIM_MAX];
    rows_choose(64, rows);
    push_make(0, 9, 1, 64, rows, 1, 1);
    push_done(0);
    pull(0, 64, rows, 1, got, NULL);
    for (uint32_t e = 0; e < tables[63].dim; e++)
        ck_assert_float_eq_tol(got[e], initial(64, rows[0], e) - 1, 1e-6);
    expect_initial(0, 63, rows, ROWS);
    expect_initial(0, 64, rows + 1, ROWS - 1);
    ck_assert_uint_eq(rows_held(), 1);
    finish();
}
END_TEST

/* Promise: a table may have as many rows as the protocol says; only those that are touched take
 * memory. */
START_TEST(test_large_table) {
    prepare(1, 1);
    tables[1].rows = LAYOUT_ROWS_MAX;
    begin(0);
    greet(0, 9);
    uint64_t rows[ROWS];
    rows_choose(2, rows);
    rows[ROWS - 1] = LAYOUT_ROWS_MAX - 1;
    expect_initial(0, 2, rows, ROWS);
    push_make(0, 9, 1, 2, rows + ROWS - 1, 1, 1);
    push_done(0);
    float got[DIM_MAX];
    pull(0, 2, rows + ROWS - 1, 1, got, NULL);
    for (uint32_t e = 0; e < tables[1].dim; e++)
        ck_assert_float_eq_tol(got[e], initial(2, rows[ROWS - 1], e) - 1, 1e-6);
    ck_assert_uint_eq(rows_held(), 1);
    finish();
}
END_TEST

/* Records of graphps_staleness_versions since it was last asked, and the largest of all. */
static uint64_t staleness_seen(uint64_t *ret_max) {
    static uint64_t before;
    struct histogram histogram;
    memset(&histogram, 0, sizeof histogram);
    metric_histogram(METRIC_STALENESS, &histogram);
    uint64_t count = atomic_load(&histogram.count), seen = count - before;
    before = count;
    *ret_max = histogram_quantile(&histogram, 1);
    return seen;
}

/* Promise: the versions of Rows grow with updates and never fall; a push that says which ones it
 * was computed on is told its staleness by the metric, one that says none counts as fresh. */
START_TEST(test_staleness) {
    prepare(1, 1);
    begin(0);
    greet(0, 9);
    uint64_t rows[ROWS], first[LAYOUT_STRIPES], next[LAYOUT_STRIPES], max;
    float ignored[ROWS * DIM_MAX];
    rows_choose(1, rows);
    pull(0, 1, rows, ROWS, ignored, first);
    staleness_seen(&max);
    for (uint64_t sequence = 1; sequence <= 3; sequence++) {
        push_make(0, 9, sequence, 1, rows, ROWS, 1);
        if (sequence == 3) {
            pull(0, 1, rows, ROWS, ignored, next);
            push_versions(next, LAYOUT_STRIPES);
        }
        push_done(0);
        ck_assert_uint_gt(staleness_seen(&max), 0);
        ck_assert_uint_eq(max, 0);
    }
    pull(0, 1, rows, ROWS, ignored, next);
    uint64_t grown = 0;
    for (size_t i = 0; i < LAYOUT_STRIPES; i++) {
        ck_assert_uint_ge(first[i], 1);
        ck_assert_uint_ge(next[i], first[i]);
        grown += next[i] - first[i];
    }
    ck_assert_uint_gt(grown, 0);
    push_make(0, 9, 4, 1, rows, ROWS, 1);
    push_versions(first, LAYOUT_STRIPES);
    push_done(0);
    ck_assert_uint_gt(staleness_seen(&max), 0);
    ck_assert_uint_eq(max, 3);
    finish();
}
END_TEST

/* Promise: with aggregation.staleness_max rows that are too stale are done with and not merged, and
 * Pushed says so; those that are just as stale as that still count; with staleness_damping they
 * count less. */
START_TEST(test_staleness_max) {
    prepare(1, 1);
    config->aggregation_staleness_max = 2;
    config->aggregation_staleness_damping = true;
    begin(0);
    greet(0, 9);
    uint64_t rows[ROWS], first[LAYOUT_STRIPES];
    float got[DIM_MAX], before[DIM_MAX];
    uint32_t dim = tables[0].dim;
    rows_choose(1, rows);
    pull(0, 1, rows, 1, before, first);
    for (uint64_t sequence = 1; sequence <= 2; sequence++) {
        push_make(0, 9, sequence, 1, rows, 1, 1);
        push_done(0);
    }
    push_make(0, 9, 3, 1, rows, 1, 6);
    push_versions(first, LAYOUT_STRIPES);
    push_done(0);
    pull(0, 1, rows, 1, got, NULL);
    for (uint32_t e = 0; e < dim; e++)
        ck_assert_float_eq_tol(got[e], before[e] - 2 - 6 / (1 + 2), 1e-5);

    memcpy(before, got, sizeof before);
    push_make(0, 9, 4, 1, rows, 2, 1);
    push_versions(first, LAYOUT_STRIPES);
    push_send(0);
    aggregate();
    ck_assert_uint_gt(expect_pushed(0, 4, false), 0);
    push_send(0);
    expect_pushed(0, 4, true);
    pull(0, 1, rows, 1, got, NULL);
    ck_assert_mem_eq(got, before, dim * sizeof *got);
    expect_initial(0, 1, rows + 1, 1);
    ck_assert_uint_eq(rows_held(), 1);
    ck_assert_uint_eq(metric_counter(METRIC_PUSH_STALE), 1);
    finish();
}
END_TEST

/* The same shard, after a crash, from its disk. */
static void restart(uint64_t generation) {
    sessions_close();
    server = server_free(server);
    server = seam_server(config, 1, 78, &disk);
    sessions_open();
    order(1, generation, 0);
    ck_assert_int_eq(atomic_load(&server->state), SERVER_SERVING);
}

/* Promise: rows, their optimizer's state and the ledger come back from a checkpoint: what was saved
 * is not applied again, and what is pushed next gives the same bits as without the crash. */
START_TEST(test_restore) {
    static const int kinds[] = {OPTIMIZER_SGD, OPTIMIZER_ADAGRAD, OPTIMIZER_ADAM};
    enum { SAVED = 6, LAST = 9 };
    prepare(1, 2);
    config->optimizer_kind = kinds[_i];
    config->optimizer_lr = 0.05;
    begin(1);
    greet(0, 9);
    struct gradient gradient;
    uint64_t rows[3][ROWS], held = 0;
    float cut[3][ROWS * DIM_MAX] = {{0}}, end[3][ROWS * DIM_MAX] = {{0}};
    float got[3][ROWS * DIM_MAX] = {{0}};
    rows_choose(1, rows[1]);
    rows_choose(2, rows[2]);
    for (uint64_t sequence = 1; sequence <= LAST; sequence++) {
        uint32_t table = 1 + sequence % 2;
        push_random(0, 9, sequence, table, rows[table], sequence, &gradient);
        push_done(0);
        if (sequence != SAVED)
            continue;
        held = rows_held();
        order(2, 0, 1);
        ck_assert_uint_eq(disk.count, 1);
        for (uint32_t t = 1; t <= 2; t++)
            pull(0, t, rows[t], ROWS, cut[t], NULL);
    }
    for (uint32_t t = 1; t <= 2; t++)
        pull(0, t, rows[t], ROWS, end[t], NULL);
    ck_assert_uint_gt(rows_held(), held);

    restart(1);
    ck_assert_uint_eq(rows_held(), held);
    greet(0, 9);
    for (uint64_t sequence = SAVED; sequence <= LAST; sequence++) {
        uint32_t table = 1 + sequence % 2;
        push_random(0, 9, sequence, table, rows[table], sequence, &gradient);
        if (sequence == SAVED) {
            push_send(0);
            expect_pushed(0, sequence, true);
            for (uint32_t t = 1; t <= 2; t++)
                pull(0, t, rows[t], ROWS, got[t], NULL);
            ck_assert_mem_eq(cut, got, sizeof cut);
        } else {
            push_done(0);
        }
    }
    for (uint32_t t = 1; t <= 2; t++)
        pull(0, t, rows[t], ROWS, got[t], NULL);
    ck_assert_mem_eq(end, got, sizeof end);
    finish();
}
END_TEST

/* Promise: a clock's batch that was merged before the checkpoint is closed after the restore: the
 * same step from a new process of a rank is late, for rows as for blocks. */
START_TEST(test_restore_closed) {
    prepare(2, 2);
    config->consistency_mode = CONSISTENCY_BSP;
    begin(1);
    greet(0, 9);
    greet(1, 20);
    uint64_t rows[ROWS];
    float before[DIM_MAX], after[DIM_MAX];
    rows_choose(1, rows);
    for (uint32_t rank = 0; rank < 2; rank++) {
        push_make(rank, rank ? 20 : 9, 1, 1, rows, 1, 1);
        push_send(rank);
    }
    aggregate();
    expect_pushed(0, 1, false);
    expect_pushed(1, 1, false);
    pull(0, 1, rows, 1, before, NULL);
    order(2, 0, 1);
    ck_assert_uint_eq(disk.count, 1);

    restart(1);
    Graphps__Hello hello = hello_of(0, 10, 6);
    hello_send(0, &hello);
    expect_welcome(0);
    hello = hello_of(1, 20, 5);
    hello.clock = 1;
    hello_send(1, &hello);
    expect_welcome(1);
    push_make(0, 10, 1, 1, rows, 1, 1);
    push_send(0);
    aggregate();
    ck_assert_uint_gt(expect_pushed(0, 1, false), 0);
    pull(0, 1, rows, 1, after, NULL);
    ck_assert_mem_eq(before, after, tables[0].dim * sizeof *before);
    finish();
}
END_TEST

/* Promise: with servers.evict_after rows that no gradient touched for so many steps are let go, in
 * time and not before, also those of a restored checkpoint; they begin anew, without their
 * optimizer's state; those that are touched stay. */
START_TEST(test_evict) {
    enum { AFTER = 8, STEPS = 3 * AFTER, TOUCHED = 2, SAVED = AFTER / 2 };
    bool crash = _i == 1;
    prepare(2, 2);
    config->optimizer_kind = OPTIMIZER_ADAGRAD;
    config->servers_evict_after = _i == 2 ? 0 : AFTER;
    begin(1);
    greet(0, 9);
    greet(1, 20);
    uint64_t rows[ROWS], sequence[2] = {0}, gone = 0;
    struct model model;
    rows_choose(1, rows);
    model_init(&model, 1, rows);
    for (uint64_t clock = 0; clock < STEPS; clock++) {
        for (uint32_t rank = 0; rank < 2; rank++) {
            uint32_t n = clock <= TOUCHED ? 2 : 1;
            push_make(rank, rank ? 20 : 9, ++sequence[rank], 1, rows, n, 2);
            push_done(rank);
            const double gradient[DIM_MAX] = {2, 2, 2, 2, 2};
            for (size_t i = 0; i < n; i++)
                model_step(&model, i, tables[0].dim, gradient);
        }
        server_tick(server, now);
        server_work(server, now);
        if (crash && clock == SAVED) {
            order(2, 0, 1);
            restart(1);
            greet(0, 9);
            greet(1, 20);
        }
        if (gone == 0 && rows_held() == 1)
            gone = clock;
    }
    if (_i == 2) {
        ck_assert_uint_eq(rows_held(), 2);
        finish();
        return;
    }
    ck_assert_uint_eq(rows_held(), 1);
    ck_assert_uint_gt(gone, TOUCHED + AFTER);
    ck_assert_uint_le(gone, TOUCHED + AFTER + 1 + AFTER / 4);
    ck_assert_uint_eq(metric_counter(METRIC_ROWS_EVICTED), 1);
    expect_initial(0, 1, rows + 1, 1);
    model.steps[1] = 0;
    for (uint32_t e = 0; e < tables[0].dim; e++) {
        model.w[1][e] = initial(1, rows[1], e);
        model.second[1][e] = 0;
    }
    expect_model(&model, 1, rows);
    push_make(0, 9, ++sequence[0], 1, rows + 1, 1, 2);
    push_done(0);
    model_step(&model, 1, tables[0].dim, (const double[DIM_MAX]){2, 2, 2, 2, 2});
    expect_model(&model, 1, rows);
    ck_assert_uint_eq(rows_held(), 2);
    finish();
}
END_TEST

int main(void) {
    log_init("test", -1, (enum log_level)(LOG_ERROR + 1), false);
    Suite *suite = suite_create("rows");
    TCase *tcase = tcase_create("rows");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, test_initial, 0, 4);
    tcase_add_loop_test(tcase, test_push, 0, 3);
    tcase_add_test(tcase, test_nothing);
    tcase_add_test(tcase, test_bsp);
    tcase_add_test(tcase, test_bsp_late);
    tcase_add_test(tcase, test_encodings);
    tcase_add_test(tcase, test_wrong_push);
    tcase_add_test(tcase, test_stripes);
    tcase_add_test(tcase, test_wrong_pull);
    tcase_add_test(tcase, test_wrong_tables);
    tcase_add_test(tcase, test_other_tables);
    tcase_add_test(tcase, test_many_tables);
    tcase_add_test(tcase, test_large_table);
    tcase_add_test(tcase, test_staleness);
    tcase_add_test(tcase, test_staleness_max);
    tcase_add_loop_test(tcase, test_restore, 0, 3);
    tcase_add_test(tcase, test_restore_closed);
    tcase_add_loop_test(tcase, test_evict, 0, 3);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
