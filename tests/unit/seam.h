/* The server's seam for unit tests: connections that remember what was sent to them, and a disk in
 * memory. */
#pragma once

#include "server/server.h"
#include "server/session.h"

struct seam_conn {
    unsigned refs; /* taken by the server */
    size_t count;
    struct frame_in frames[64]; /* not looked at yet */
};

struct seam_disk {
    size_t count;
    struct {
        uint64_t generation;
        struct buf *bytes;
    } files[16]; /* ascending */
    bool full;   /* writes fail */
};

extern const struct server_ops seam_ops;

struct checkpoint_store seam_store(struct seam_disk *disk);
void seam_disk_done(struct seam_disk *disk);
/* A job "unit" with so many workers and shards; async, sgd with lr 1, blocks of 16 floats. */
struct config *seam_config(int64_t workers, int64_t shards);
struct server *seam_server(const struct config *config, uint32_t shard, uint64_t incarnation,
                           struct seam_disk *disk);

/* The oldest frame of that type that was sent, unpacked; NULL: there is none. wire_free it. */
ProtobufCMessage *seam_take(struct seam_conn *conn, enum frame_type type);
/* The same with the payload, copied into payload (of so many floats at most). */
ProtobufCMessage *seam_take_payload(struct seam_conn *conn, enum frame_type type, float *payload,
                                    size_t floats_max, size_t *ret_floats);
/* Takes an Error and checks code and text; the test fails when there is none. */
void seam_expect_error(struct seam_conn *conn, int code, const char *text_part);
/* Nothing of that type was sent. */
void seam_expect_none(struct seam_conn *conn, enum frame_type type);
void seam_conn_done(struct seam_conn *conn);

/* Packs a message, with a payload or NULL, and hands it to the session. */
void seam_send(struct session *session, enum frame_type type, const ProtobufCMessage *message,
               const void *payload, size_t payload_bytes, uint64_t now_ms);
