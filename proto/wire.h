/* Packing and unpacking of messages: a frame in memory, as handed to and taken from a connection.
 * Unpacking has a memory budget (protobuf-c amplifies small inputs), so a hostile message costs a
 * bounded amount and is refused. */
#pragma once

#include <protobuf-c/protobuf-c.h>

#include "common/mem.h"
#include "proto/frame.h"
#include "proto/graphps.pb-c.h"

/* A frame on its way in: one buffer holds message and payload as they arrived. */
struct frame_in {
    enum frame_type type;
    struct buf *buf; /* a reference, owned by whoever holds the frame_in */
    const uint8_t *message;
    size_t message_bytes;
    const uint8_t *payload; /* 8-byte aligned */
    size_t payload_bytes;
    bool payload_finite; /* seen: all 32-bit words of it are finite floats */
};

/* A frame on its way out. head holds header and message; pieces are slices of shared buffers that
 * are written from where they lie. */
struct frame_out_piece {
    struct buf *buf; /* a reference, owned by the frame_out */
    const uint8_t *data;
    size_t len;
};
struct frame_out {
    struct frame_out *next; /* for the connection's queue */
    struct buf *head;
    size_t payload_bytes;
    size_t total_bytes; /* on the wire */
    size_t piece_count;
    struct frame_out_piece pieces[];
};

/* Packs message into a new frame_out with room for pieces, each taken over (its reference moves
 * into the frame). The checksum is computed here. */
struct frame_out *frame_out_new(enum frame_type type, const ProtobufCMessage *message,
                                const struct frame_out_piece *pieces, size_t piece_count);
struct frame_out *frame_out_free(struct frame_out *frame);
/* Flattens a frame_out as it would travel (for simulated networks, fuzz seeds and blocking peers).
 */
struct buf *frame_out_flatten(const struct frame_out *frame);

/* The whole frame that begins at bytes, which lie in buf, aligned to FRAME_ALIGN: checked, and a
 * view of buf, of which it gets a reference. header was read from bytes; frame_wire_bytes(header)
 * bytes are there. check: of what was looked at before (frame_check_more), or NULL. ERR_CHECKSUM.
 */
int frame_in_view(struct buf *buf, const uint8_t *bytes, const struct frame_header *header,
                  struct frame_check *check, struct frame_in *ret, struct error *reterr);
/* Parses a whole frame from flat bytes: header, lengths, checksum. The frame_in borrows nothing:
 * it gets its own buffer. ret_used: bytes consumed. ERR_CLOSED when the bytes end inside the frame.
 */
int frame_in_parse(const uint8_t *bytes, size_t len, uint32_t payload_max, struct frame_in *ret,
                   size_t *ret_used, struct error *reterr);
void frame_in_done(struct frame_in *frame);

/* Unpacks the message of a frame, checking its type's caps first. The result is freed with
 * wire_free. ERR_PROTOCOL, ERR_LIMIT. Usage:
 *   Graphps__Push *push = NULL;
 *   int r = wire_unpack(frame, (ProtobufCMessage **)&push, err); */
int wire_unpack(const struct frame_in *frame, ProtobufCMessage **ret, struct error *reterr);
void wire_free(ProtobufCMessage *message); /* takes NULL */
