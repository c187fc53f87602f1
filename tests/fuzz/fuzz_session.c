/* Fuzz target: what peers may say to a shard, in any order and with any content. An input is a run
 * of records: type (low 5 bits; bit 5: the second connection; bit 6: the aggregator runs
 * afterwards; bit 7: the connection breaks first), lengths of message and payload (16 bits each,
 * little-endian), message, payload. Whatever comes, each frame is answered or held, a push changes
 * weights only when it was counted, and everything is given back. */
#include <assert.h>
#include <string.h>

#include "common/log.h"
#include "server/server.h"
#include "server/session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz_conn {
    unsigned refs;
};

static void ops_send(void *ctx, void *conn, struct frame_out *frame) {
    assert(frame->total_bytes >= FRAME_HEADER_BYTES);
    frame_out_free(frame);
}

static void ops_ref(void *ctx, void *conn) {
    ((struct fuzz_conn *)conn)->refs++;
}

static void ops_unref(void *ctx, void *conn) {
    assert(((struct fuzz_conn *)conn)->refs > 0);
    ((struct fuzz_conn *)conn)->refs--;
}

static void ops_work(void *ctx) {
}

static int no_write(void *ctx, uint64_t generation, uint32_t shard, uint32_t shards,
                    struct checkpoint_stream *stream, struct error *reterr) {
    return 0;
}

static int no_read(void *ctx, uint64_t generation, uint32_t shard, uint32_t shards,
                   struct buf **ret, struct error *reterr) {
    return error_set(reterr, ERR_NOT_FOUND, "nothing is there");
}

static int no_list(void *ctx, uint32_t shard, uint32_t shards, uint64_t **ret, size_t *ret_count,
                   struct error *reterr) {
    *ret = NULL;
    *ret_count = 0;
    return 0;
}

static int no_prune(void *ctx, uint32_t shard, uint32_t shards, uint64_t newest, uint32_t keep,
                    struct error *reterr) {
    return 0;
}

static struct config *fuzz_config(void) {
    struct config *config = config_new();
    mem_free(config->job_name);
    config->job_name = mem_strdup("fuzz");
    config->workers_count = 2;
    config->servers_count = 1;
    config->servers_block_bytes = 64;
    config->aggregation_max_pushes = 1;
    return config;
}

/* One record to its session. */
static void take(struct session *session, uint8_t type, const uint8_t *message,
                 size_t message_bytes, size_t payload_bytes, uint64_t now_ms) {
    struct frame_header header = {.type = type,
                                  .message_bytes = (uint32_t)message_bytes,
                                  .payload_bytes = (uint32_t)payload_bytes};
    const struct frame_piece payload = {message + message_bytes, payload_bytes};
    header.checksum = frame_checksum(type, message, message_bytes, &payload, payload_bytes > 0);
    struct buf *buf = buf_new(frame_wire_bytes(&header));
    memset(buf->data, 0, buf->len); /* what pads must be zeros */
    uint8_t *at = buf->data + FRAME_HEADER_BYTES;
    memcpy(at, message, message_bytes);
    memcpy(at + frame_padded(message_bytes), payload.data, payload_bytes);
    struct frame_in frame;
    struct error err;
    if (frame_in_view(buf, buf->data, &header, NULL, &frame, &err) == 0) {
        session_frame(session, &frame, now_ms, now_ms);
        frame_in_done(&frame);
    }
    buf_unref(buf);
}

static void records(struct server *server, struct fuzz_conn conns[2], struct session *sessions[2],
                    const uint8_t *data, size_t size) {
    uint64_t now_ms = 1000;
    for (int n = 0; n < 64 && size >= 5; n++) {
        uint8_t flags = data[0], type = flags & 0x1f;
        size_t message_bytes = data[1] | data[2] << 8, payload_bytes = data[3] | data[4] << 8;
        data += 5;
        size -= 5;
        message_bytes = message_bytes < size ? message_bytes : size;
        payload_bytes = payload_bytes < size - message_bytes ? payload_bytes : size - message_bytes;
        int which = flags >> 5 & 1;
        if (flags & 0x80) {
            session_free(sessions[which]);
            sessions[which] = session_new(server, &conns[which], "fuzz");
        }
        if (type > 0 && type < FRAME_TYPE_END) /* others end in frame_header_read */
            take(sessions[which], type, data, message_bytes, payload_bytes, now_ms);
        while (flags & 0x40 && server->aggregator && aggregator_run(server->aggregator, now_ms))
            ;
        data += message_bytes + payload_bytes;
        size -= message_bytes + payload_bytes;
        now_ms += 7;
        server_tick(server, now_ms);
        server_work(server, now_ms);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct server_ops ops = {
        .send = ops_send, .ref = ops_ref, .unref = ops_unref, .work = ops_work};
    struct checkpoint_store store = {
        .write = no_write, .read = no_read, .list = no_list, .prune = no_prune};
    log_init("fuzz", -1, (enum log_level)(LOG_ERROR + 1), false);
    struct config *config = fuzz_config();
    struct server *server;
    struct error err;
    int r = server_new(config, 0, 77, "here:1", &ops, NULL, &store, &server, &err);
    assert(r == 0);
    server_tick(server, 900); /* it starts fresh */
    server_work(server, 900);
    server_tick(server, 901);
    assert(atomic_load(&server->state) == SERVER_WAITING);

    struct fuzz_conn conns[2] = {{0}, {0}};
    struct session *sessions[2] = {session_new(server, &conns[0], "fuzz"),
                                   session_new(server, &conns[1], "fuzz")};
    records(server, conns, sessions, data, size);

    uint64_t counted = 0;
    for (size_t i = 0; i < 2; i++)
        counted += server->seats[i].ledger.counted;
    for (size_t i = 0; i < server->block_count; i++)
        assert(server->blocks[i].version <= 1 + counted + aggregator_pending(server->aggregator));
    session_free(sessions[0]);
    session_free(sessions[1]);
    server_free(server);
    assert(conns[0].refs == 0 && conns[1].refs == 0);
    config_free(config);
    return 0;
}
