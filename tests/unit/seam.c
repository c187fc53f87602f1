/* Connections that remember, a disk in memory. */
#include "tests/unit/seam.h"

#include <string.h>

#include "tests/test.h"

/* --- connections --- */

static void ops_send(void *ctx, void *handle, struct frame_out *frame) {
    struct seam_conn *conn = handle;
    struct buf *flat = frame_out_flatten(frame);
    size_t used;
    struct error err;
    ck_assert_uint_lt(conn->count, 64);
    ck_assert_int_eq(
        frame_in_parse(flat->data, flat->len, 1 << 20, &conn->frames[conn->count], &used, &err), 0);
    conn->count++;
    buf_unref(flat);
    frame_out_free(frame);
}

static void ops_ref(void *ctx, void *handle) {
    ((struct seam_conn *)handle)->refs++;
}

static void ops_unref(void *ctx, void *handle) {
    struct seam_conn *conn = handle;
    ck_assert_uint_gt(conn->refs, 0);
    conn->refs--;
}

static void ops_work(void *ctx) {
}

const struct server_ops seam_ops = {
    .send = ops_send, .ref = ops_ref, .unref = ops_unref, .work = ops_work};

ProtobufCMessage *seam_take_payload(struct seam_conn *conn, enum frame_type type, float *payload,
                                    size_t floats_max, size_t *ret_floats) {
    for (size_t i = 0; i < conn->count; i++) {
        if (conn->frames[i].type != type)
            continue;
        struct frame_in frame = conn->frames[i];
        conn->count--;
        memmove(&conn->frames[i], &conn->frames[i + 1], (conn->count - i) * sizeof frame);
        ProtobufCMessage *message = NULL;
        struct error err;
        ck_assert_int_eq(wire_unpack(&frame, &message, &err), 0);
        if (payload) {
            *ret_floats = frame.payload_bytes / sizeof(float);
            ck_assert_uint_le(*ret_floats, floats_max);
            memcpy(payload, frame.payload, frame.payload_bytes);
        }
        frame_in_done(&frame);
        return message;
    }
    return NULL;
}

ProtobufCMessage *seam_take(struct seam_conn *conn, enum frame_type type) {
    return seam_take_payload(conn, type, NULL, 0, NULL);
}

void seam_expect_error(struct seam_conn *conn, int code, const char *text_part) {
    Graphps__Error *error = (Graphps__Error *)seam_take(conn, FRAME_ERROR);
    ck_assert_msg(error != NULL, "no error was sent, %s was expected", error_name(code));
    ck_assert_msg(-(int)error->code == code && strstr(error->text, text_part),
                  "the error is %s: %s; expected %s with '%s'", error_name(-(int)error->code),
                  error->text, error_name(code), text_part);
    ck_assert_int_eq(error->retryable, error_retryable(code));
    wire_free(&error->base);
}

void seam_expect_none(struct seam_conn *conn, enum frame_type type) {
    ProtobufCMessage *message = seam_take(conn, type);
    ck_assert_msg(message == NULL, "a %s frame was sent too early", frame_type_name(type));
}

void seam_conn_done(struct seam_conn *conn) {
    ck_assert_uint_eq(conn->refs, 0);
    for (size_t i = 0; i < conn->count; i++)
        frame_in_done(&conn->frames[i]);
    conn->count = 0;
}

void seam_send(struct session *session, enum frame_type type, const ProtobufCMessage *message,
               const void *payload, size_t payload_bytes, uint64_t now_ms) {
    struct frame_out *out;
    if (payload) {
        struct buf *buf = buf_new(payload_bytes);
        memcpy(buf->data, payload, payload_bytes);
        struct frame_out_piece piece = {buf, buf->data, buf->len};
        out = frame_out_new(type, message, &piece, 1);
    } else {
        out = frame_out_new(type, message, NULL, 0);
    }
    struct buf *flat = frame_out_flatten(out);
    struct frame_in frame;
    size_t used;
    struct error err;
    ck_assert_int_eq(frame_in_parse(flat->data, flat->len, 1 << 20, &frame, &used, &err), 0);
    session_frame(session, &frame, now_ms, now_ms);
    frame_in_done(&frame);
    buf_unref(flat);
    frame_out_free(out);
}

/* --- the disk --- */

static int disk_write(void *ctx, uint64_t generation, uint32_t shard, uint32_t shards,
                      struct checkpoint_stream *stream, struct error *reterr) {
    struct seam_disk *disk = ctx;
    if (disk->full)
        return error_set(reterr, ERR_IO, "no space left");
    ck_assert_uint_lt(disk->count, 16);
    disk->files[disk->count].generation = generation;
    disk->files[disk->count++].bytes = checkpoint_stream_whole(stream);
    return 0;
}

static int disk_read(void *ctx, uint64_t generation, uint32_t shard, uint32_t shards,
                     struct buf **ret, struct error *reterr) {
    struct seam_disk *disk = ctx;
    for (size_t i = 0; i < disk->count; i++)
        if (disk->files[i].generation == generation) {
            *ret = buf_ref(disk->files[i].bytes);
            return 0;
        }
    return error_set(reterr, ERR_NOT_FOUND, "no generation %llu", (unsigned long long)generation);
}

static int disk_list(void *ctx, uint32_t shard, uint32_t shards, uint64_t **ret, size_t *ret_count,
                     struct error *reterr) {
    struct seam_disk *disk = ctx;
    *ret = mem_array(disk->count, sizeof **ret);
    *ret_count = disk->count;
    for (size_t i = 0; i < disk->count; i++)
        (*ret)[i] = disk->files[i].generation;
    return 0;
}

static int disk_prune(void *ctx, uint32_t shard, uint32_t shards, uint64_t newest, uint32_t keep,
                      struct error *reterr) {
    return 0;
}

struct checkpoint_store seam_store(struct seam_disk *disk) {
    return (struct checkpoint_store){.ctx = disk,
                                     .write = disk_write,
                                     .read = disk_read,
                                     .list = disk_list,
                                     .prune = disk_prune};
}

void seam_disk_done(struct seam_disk *disk) {
    for (size_t i = 0; i < disk->count; i++)
        buf_unref(disk->files[i].bytes);
    disk->count = 0;
}

/* --- the server --- */

struct config *seam_config(int64_t workers, int64_t shards) {
    struct config *config = config_new();
    mem_free(config->job_name);
    config->job_name = mem_strdup("unit");
    config->workers_count = workers;
    config->servers_count = shards;
    config->servers_block_bytes = 64;
    config->optimizer_kind = OPTIMIZER_SGD;
    config->optimizer_lr = 1;
    config->aggregation_max_pushes = 1;
    config->workers_lease_ms = 1000;
    config->workers_join_timeout_ms = 5000;
    config->net_give_up_s = 60;
    config->checkpoint_every_s = 0;
    config->train_epochs = 10;
    return config;
}

struct server *seam_server(const struct config *config, uint32_t shard, uint64_t incarnation,
                           struct seam_disk *disk) {
    struct checkpoint_store store = seam_store(disk);
    struct server *server;
    struct error err;
    ck_assert_msg(server_new(config, shard, incarnation, "here:1", &seam_ops, NULL, &store, &server,
                             &err) == 0,
                  "%s", error_text(&err));
    return server;
}
