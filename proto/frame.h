/* A frame: 24 bytes of header, a packed protobuf message, a raw payload. Pure functions between
 * header and bytes; no sockets here. docs/protocol.md describes it for other languages.
 *
 *   offset  size  field
 *        0     4  magic "GPS1" (bytes 47 50 53 31)
 *        4     1  protocol version (2)
 *        5     1  type (enum frame_type)
 *        6     2  flags (little-endian, 0 for now; unknown bits are refused)
 *        8     4  message length in bytes (little-endian)
 *       12     4  payload length in bytes (little-endian)
 *       16     8  XXH3-64 of message and payload together, its seed the type (little-endian)
 *
 * Message and payload are each followed by zeros up to a multiple of 8, which neither length nor
 * checksum counts: so everything on a connection is aligned, whatever it is read into. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define FRAME_HEADER_BYTES 24
#define FRAME_VERSION 2
#define FRAME_ALIGN 8
#define FRAME_MESSAGE_MAX (1280u << 10) /* a message; bulk numbers are in the payload */

/* FRAME(NAME, number, message name in graphps.proto) */
#define FRAME_TYPES                                                                                \
    FRAME(HELLO, 1, hello)                                                                         \
    FRAME(WELCOME, 2, welcome)                                                                     \
    FRAME(ERROR, 3, error)                                                                         \
    FRAME(PUSH, 4, push)                                                                           \
    FRAME(PUSHED, 5, pushed)                                                                       \
    FRAME(PULL, 6, pull)                                                                           \
    FRAME(WEIGHTS, 7, weights)                                                                     \
    FRAME(CLOCK, 8, clock)                                                                         \
    FRAME(GATE, 9, gate)                                                                           \
    FRAME(EVAL, 10, eval)                                                                          \
    FRAME(EVALED, 11, evaled)                                                                      \
    FRAME(HEARTBEAT, 12, heartbeat)                                                                \
    FRAME(ALIVE, 13, alive)                                                                        \
    FRAME(BYE, 14, bye)                                                                            \
    FRAME(GOODBYE, 15, goodbye)                                                                    \
    FRAME(PEER_REPORT, 16, peer_report)                                                            \
    FRAME(PEER_ORDER, 17, peer_order)                                                              \
    FRAME(STATUS_REQUEST, 18, status_request)                                                      \
    FRAME(STATUS, 19, status)                                                                      \
    FRAME(PULL_ROWS, 20, pull_rows)                                                                \
    FRAME(ROWS, 21, rows)

enum frame_type {
#define FRAME(name, number, message) FRAME_##name = number,
    FRAME_TYPES
#undef FRAME
        FRAME_TYPE_END
};

struct frame_header {
    uint8_t type;
    uint16_t flags;
    uint32_t message_bytes;
    uint32_t payload_bytes;
    uint64_t checksum;
};

/* "PUSH"; "?" for an unknown type. */
const char *frame_type_name(unsigned type);
/* n and the zeros behind it. */
/* Clients cut what may be cut into payloads of this length, if net.max_frame_bytes (max_bytes) is
 * no smaller: one arrives in one go and is used while it is in the cache, where many clients' long
 * ones would all be half received at once. */
static inline uint32_t frame_cut_bytes(int64_t max_bytes) {
    return max_bytes < 256 << 10 ? (uint32_t)max_bytes : 256 << 10;
}

static inline size_t frame_padded(size_t n) {
    return (n + FRAME_ALIGN - 1) / FRAME_ALIGN * FRAME_ALIGN;
}
/* All bytes of a frame on the wire. */
static inline size_t frame_wire_bytes(const struct frame_header *header) {
    return FRAME_HEADER_BYTES + frame_padded(header->message_bytes) +
           frame_padded(header->payload_bytes);
}
/* The longest message of a type; whether it may carry a payload. */
uint32_t frame_message_max(unsigned type);
bool frame_has_payload(unsigned type);

void frame_header_write(const struct frame_header *header, uint8_t bytes[FRAME_HEADER_BYTES]);
/* Checks magic, version, type, flags and lengths (payload_max: the caller's limit) before anything
 * is allocated. ERR_PROTOCOL or ERR_LIMIT. */
int frame_header_read(const uint8_t bytes[FRAME_HEADER_BYTES], uint32_t payload_max,
                      struct frame_header *ret, struct error *reterr);

/* The checksum over message and then pieces of payload. */
struct frame_piece {
    const void *data;
    size_t len;
};
uint64_t frame_checksum(unsigned type, const void *message, size_t message_bytes,
                        const struct frame_piece *pieces, size_t piece_count);

/* The same of bytes that arrive little by little, while they are in the processor's cache; and of a
 * payload, whether all of its 32-bit words are finite floats. */
struct frame_check {
    _Alignas(64) uint8_t state[576]; /* XXH3's */
    size_t message_left, payload_left;
    bool finite;
};
void frame_check_begin(struct frame_check *check, const struct frame_header *header);
/* body: the frame's bytes behind the header, of which so many are there by now. */
void frame_check_more(struct frame_check *check, const struct frame_header *header,
                      const uint8_t *body, size_t available_bytes);
/* When all have been seen. */
uint64_t frame_check_end(struct frame_check *check);
