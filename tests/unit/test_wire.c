/* proto/wire: frames in memory, and messages from somebody who means harm. */
#include "tests/test.h"

#include <string.h>
#include <sys/resource.h>

#include "proto/score.h"
#include "proto/wire.h"

static struct buf *text_buf(const char *text) {
    struct buf *buf = buf_new(strlen(text));
    memcpy(buf->data, text, buf->len);
    return buf;
}

static struct frame_out *push_frame(void) {
    uint32_t blocks[] = {3, 70000 % 65536};
    uint64_t versions[] = {1, 1ull << 40};
    Graphps__Push push = GRAPHPS__PUSH__INIT;
    push.id = 7;
    push.sequence = 300;
    push.weight = 140;
    push.incarnation = 0xfedcba9876543210;
    push.n_blocks = push.n_versions = 2;
    push.blocks = blocks;
    push.versions = versions;
    struct frame_out_piece pieces[] = {{.buf = text_buf("abcd")}, {.buf = text_buf("efghijkl")}};
    for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
        pieces[i].data = pieces[i].buf->data;
        pieces[i].len = pieces[i].buf->len;
    }
    return frame_out_new(FRAME_PUSH, &push.base, pieces, ARRAY_LEN(pieces));
}

/* Promise: what is sent is what arrives, the payload aligned for floats. */
START_TEST(round_trip) {
    struct frame_out *out = push_frame();
    struct buf *flat = frame_out_flatten(out);
    ck_assert_uint_eq(flat->len, out->total_bytes);
    frame_out_free(out);

    struct frame_in in;
    size_t used = 0;
    struct error err = {0};
    ck_assert_int_eq(frame_in_parse(flat->data, flat->len, 64, &in, &used, &err), 0);
    ck_assert_uint_eq(used, flat->len);
    buf_unref(flat);
    ck_assert_uint_eq(in.type, FRAME_PUSH);
    ck_assert_uint_eq(in.payload_bytes, 12);
    ck_assert_uint_eq((uintptr_t)in.payload % 8, 0);
    ck_assert_mem_eq(in.payload, "abcdefghijkl", 12);

    Graphps__Push *push = NULL;
    ck_assert_int_eq(wire_unpack(&in, (ProtobufCMessage **)&push, &err), 0);
    ck_assert_uint_eq(push->sequence, 300);
    ck_assert_uint_eq(push->n_versions, 2);
    ck_assert_uint_eq(push->versions[1], 1ull << 40);
    ck_assert(push->incarnation == 0xfedcba9876543210);
    wire_free(&push->base);
    frame_in_done(&in);
    wire_free(NULL);
    frame_out_free(NULL);
}
END_TEST

/* Promise: a frame cut short anywhere, or damaged in any byte, is not taken. */
START_TEST(cut_and_damaged) {
    struct frame_out *out = push_frame();
    struct buf *flat = frame_out_flatten(out);
    frame_out_free(out);
    struct frame_in in;
    size_t used;
    struct error err = {0};
    for (size_t len = 0; len < flat->len; len++)
        ck_assert_int_eq(frame_in_parse(flat->data, len, 64, &in, &used, &err), ERR_CLOSED);
    for (size_t i = 0; i < flat->len * 8; i++) {
        flat->data[i / 8] ^= (uint8_t)(1 << i % 8);
        ck_assert_int_lt(frame_in_parse(flat->data, flat->len, 64, &in, &used, &err), 0);
        flat->data[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    ck_assert_int_eq(frame_in_parse(flat->data, flat->len, 64, &in, &used, &err), 0);
    frame_in_done(&in);
    buf_unref(flat);
}
END_TEST

/* A hostile message, built key by key. */
struct hostile {
    enum frame_type type;
    size_t len;
    uint8_t *bytes;
};

static int hostile_unpack(const struct hostile *hostile, struct error *reterr) {
    struct frame_in in = {
        .type = hostile->type, .message = hostile->bytes, .message_bytes = hostile->len};
    ProtobufCMessage *message = NULL;
    int r = wire_unpack(&in, &message, reterr);
    ck_assert((r == 0) == (message != NULL));
    wire_free(message);
    return r;
}

static void repeat_bytes(struct hostile *hostile, const uint8_t *pattern, size_t len,
                         size_t count) {
    for (size_t i = 0; i < count; i++, hostile->len += len)
        memcpy(hostile->bytes + hostile->len, pattern, len);
}

/* Promise (G5): small input that would unpack to something large is refused before it does. */
START_TEST(amplifying) {
    uint8_t *space = malloc(FRAME_MESSAGE_MAX + 64);
    struct error err = {0};

    /* 262,000 empty tensors, 2 bytes each */
    struct hostile hello = {.type = FRAME_HELLO, .bytes = space};
    repeat_bytes(&hello, (const uint8_t[]){0x52, 0}, 2, frame_message_max(FRAME_HELLO) / 2);
    ck_assert_int_eq(hostile_unpack(&hello, &err), ERR_LIMIT);
    ck_assert_ptr_nonnull(strstr(err.text, "12288 tensors"));
    hello.len = 12288 * 2; /* as many as there may be: allowed to pass, refused by the server */
    ck_assert_int_eq(hostile_unpack(&hello, &err), ERR_PROTOCOL);

    /* a packed list of a million blocks, and the same one by one */
    struct hostile pull = {.type = FRAME_PULL, .bytes = space};
    repeat_bytes(&pull, (const uint8_t[]){0x12, 0xf8, 0xff, 0x3f}, 4, 1);
    repeat_bytes(&pull, (const uint8_t[]){1}, 1, 0xffff8);
    ck_assert_int_eq(hostile_unpack(&pull, &err), ERR_LIMIT);
    pull.len = 0;
    repeat_bytes(&pull, (const uint8_t[]){0x10, 1}, 2, 65537);
    ck_assert_int_eq(hostile_unpack(&pull, &err), ERR_LIMIT);
    pull.len = 65536 * 2;
    ck_assert_int_eq(hostile_unpack(&pull, &err), 0);

    /* unknown fields, each of which protobuf-c would keep; a singular field again and again */
    struct hostile status = {.type = FRAME_STATUS, .bytes = space};
    repeat_bytes(&status, (const uint8_t[]){0xf8, 0x07, 1}, 3, 65);
    ck_assert_int_eq(hostile_unpack(&status, &err), ERR_LIMIT);
    status.len = 0;
    repeat_bytes(&status, (const uint8_t[]){0x2a, 0}, 2, 65);
    ck_assert_int_eq(hostile_unpack(&status, &err), ERR_LIMIT);

    /* unknown fields inside a submessage: the scan does not look there, the budget does */
    status.len = 0;
    repeat_bytes(&status, (const uint8_t[]){0x62, 0xf8, 0xff, 0x3f}, 4, 1);
    repeat_bytes(&status, (const uint8_t[]){0xf8, 0x07, 1}, 3, 0xffff8 / 3);
    repeat_bytes(&status, (const uint8_t[]){0}, 1, 0xffff8 % 3);
    ck_assert_int_lt(hostile_unpack(&status, &err), 0);

    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    if (!getenv("ASAN_OPTIONS"))
        ck_assert_int_lt(usage.ru_maxrss, 400 << 10); /* KiB; far below what was asked for */
    free(space);
}
END_TEST

/* Promise: nesting beyond the messages' own depth is not followed. */
START_TEST(nested) {
    /* 100,000 times "field 1, so many bytes follow", as a recursive message would have it */
    enum { DEPTH = 100000 };
    uint8_t *bytes = malloc(DEPTH * 4);
    size_t at = DEPTH * 4, len = 0;
    while (at >= 8 && len < 500000) {
        uint8_t head[4] = {0x52, (uint8_t)(len | 0x80), (uint8_t)(len >> 7 | 0x80),
                           (uint8_t)(len >> 14)};
        at -= 4;
        memcpy(bytes + at, head, 4);
        len = DEPTH * 4 - at;
    }
    struct hostile hello = {.type = FRAME_HELLO, .bytes = bytes + at, .len = len};
    struct error err = {0};
    hostile_unpack(&hello, &err); /* refused or ignored: it must only come back */
    hello.type = FRAME_PEER_REPORT;
    ck_assert_int_lt(hostile_unpack(&hello, &err), 0); /* field 10 is a number there */
    free(bytes);
}
END_TEST

/* Promise: a message cut anywhere, and malformed keys, come back as ERR_PROTOCOL. */
START_TEST(malformed) {
    Graphps__TensorSpec spec = GRAPHPS__TENSOR_SPEC__INIT, *specs[] = {&spec, &spec};
    Graphps__Hello hello = GRAPHPS__HELLO__INIT;
    spec.name = "layer0.weight";
    spec.rows = spec.cols = 300;
    hello.job = "job";
    hello.n_tensors = 2;
    hello.tensors = specs;
    hello.snapshot_digest = "0123";
    uint8_t bytes[256];
    size_t len = graphps__hello__pack(&hello, bytes), taken = 0;
    struct error err = {0};
    for (size_t cut = 1; cut < len; cut++) {
        struct hostile part = {.type = FRAME_HELLO, .bytes = bytes, .len = cut};
        int r = hostile_unpack(&part, &err);
        ck_assert(r == 0 || r == ERR_PROTOCOL);
        taken += r == 0;
    }
    ck_assert_uint_le(taken, 4); /* only between two fields */

    static const struct {
        uint8_t bytes[12];
        size_t len;
    } broken[] = {
        {{0x0b}, 1},                                                           /* group */
        {{0x0f}, 1},                                                           /* wire type 7 */
        {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, 11}, /* long varint */
        {{0x12, 0xff, 0xff, 0xff, 0xff, 0x0f}, 6},                             /* 4 GiB string */
        {{0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, 11},
        {{0x21, 1, 2, 3}, 4}, /* fixed64 cut */
    };
    for (size_t i = 0; i < ARRAY_LEN(broken); i++) {
        struct hostile bad = {
            .type = FRAME_HELLO, .bytes = (uint8_t *)broken[i].bytes, .len = broken[i].len};
        ck_assert_int_eq(hostile_unpack(&bad, &err), ERR_PROTOCOL);
    }
}
END_TEST

/* Promise: the largest honest messages pass caps and budget. */
START_TEST(largest_honest) {
    struct error err = {0};
    size_t used;
    struct frame_in in;
    ProtobufCMessage *message = NULL;

    Graphps__WorkerStatus *workers = mem_array(4096, sizeof *workers);
    Graphps__WorkerStatus **worker_list = mem_array(4096, sizeof *worker_list);
    Graphps__Status status = GRAPHPS__STATUS__INIT;
    for (size_t i = 0; i < 4096; i++) {
        workers[i] = (Graphps__WorkerStatus)GRAPHPS__WORKER_STATUS__INIT;
        workers[i].rank = (uint32_t)i;
        workers[i].state = "expected";
        worker_list[i] = &workers[i];
    }
    status.n_workers = 4096;
    status.workers = worker_list;
    struct frame_out *out = frame_out_new(FRAME_STATUS, &status.base, NULL, 0);
    struct buf *flat = frame_out_flatten(out);
    ck_assert_int_eq(frame_in_parse(flat->data, flat->len, 0, &in, &used, &err), 0);
    ck_assert_int_eq(wire_unpack(&in, &message, &err), 0);
    wire_free(message);
    frame_in_done(&in);
    buf_unref(flat);
    frame_out_free(out);

    uint32_t *blocks = mem_array(65536, sizeof *blocks);
    uint64_t *versions = mem_array(65536, sizeof *versions);
    for (uint32_t i = 0; i < 65536; i++) {
        blocks[i] = i;
        versions[i] = UINT64_MAX;
    }
    Graphps__Pull pull = GRAPHPS__PULL__INIT;
    pull.blocks = blocks;
    pull.versions = versions;
    pull.n_blocks = pull.n_versions = 65536;
    out = frame_out_new(FRAME_PULL, &pull.base, NULL, 0);
    flat = frame_out_flatten(out);
    ck_assert_int_eq(frame_in_parse(flat->data, flat->len, 0, &in, &used, &err), 0);
    ck_assert_int_eq(wire_unpack(&in, &message, &err), 0);
    wire_free(message);
    frame_in_done(&in);
    buf_unref(flat);
    frame_out_free(out);

    /* A report of as many classes as are counted one by one; one number more is refused. */
    Graphps__Eval eval = GRAPHPS__EVAL__INIT;
    eval.classes = SCORE_CLASSES_MAX;
    eval.n_train_counts = SCORE_CELLS;
    eval.n_valid_counts = eval.n_test_counts = score_rows(eval.classes) * SCORE_CELLS;
    eval.train_counts = eval.valid_counts = eval.test_counts = versions;
    for (int more = 0; more < 2; more++) {
        eval.n_test_counts += (size_t)more;
        out = frame_out_new(FRAME_EVAL, &eval.base, NULL, 0);
        flat = frame_out_flatten(out);
        ck_assert_int_eq(frame_in_parse(flat->data, flat->len, 0, &in, &used, &err), 0);
        ck_assert_int_eq(wire_unpack(&in, &message, &err), more ? ERR_LIMIT : 0);
        if (!more)
            wire_free(message);
        frame_in_done(&in);
        buf_unref(flat);
        frame_out_free(out);
    }
    mem_free(blocks);
    mem_free(versions);
    mem_free(workers);
    mem_free(worker_list);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("wire");
    TCase *tcase = tcase_create("wire");
    tcase_add_test(tcase, round_trip);
    tcase_add_test(tcase, cut_and_damaged);
    tcase_add_test(tcase, amplifying);
    tcase_add_test(tcase, nested);
    tcase_add_test(tcase, malformed);
    tcase_add_test(tcase, largest_honest);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
