/* The frame header as bytes, and the limits that are checked before anything is allocated. Knows
 * nothing of what a message means. */
#include "proto/frame.h"

#include <string.h>

#include "common/vec.h"

#define XXH_STATIC_LINKING_ONLY /* the state on the stack */
#ifdef GRAPHPS_HAVE_XXH_DISPATCH
#include <xxh_x86dispatch.h> /* chooses AVX2 at run time: 50 GB/s instead of 20 */
#else
#include <xxhash.h>
#endif

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the wire is written as memory lies");

static const uint8_t frame_magic[4] = {'G', 'P', 'S', '1'};

const char *frame_type_name(unsigned type) {
    switch (type) {
#define FRAME(name, number, message)                                                               \
    case number:                                                                                   \
        return #name;
        FRAME_TYPES
#undef FRAME
    default:
        return "?";
    }
}

uint32_t frame_message_max(unsigned type) {
    switch (type) {
    case FRAME_HELLO: /* 12288 tensors of at most 90 bytes, and options */
    case FRAME_EVAL:  /* twice 2^17 counts of histograms */
        return FRAME_MESSAGE_MAX;
    case FRAME_PUSH: /* 65536 blocks and versions */
    case FRAME_PULL:
    case FRAME_WEIGHTS:
    case FRAME_STATUS:
        return 1 << 20;
    case FRAME_PEER_REPORT: /* 1000 generations */
        return 32 << 10;
    case FRAME_PEER_ORDER: /* 4096 ranks and clocks */
        return 128 << 10;
    case FRAME_ERROR:
    case FRAME_STATUS_REQUEST:
        return 4 << 10;
    default:
        return 512;
    }
}

bool frame_has_payload(unsigned type) {
    return type == FRAME_PUSH || type == FRAME_WEIGHTS || type == FRAME_PULL_ROWS ||
           type == FRAME_ROWS;
}

void frame_header_write(const struct frame_header *header, uint8_t bytes[FRAME_HEADER_BYTES]) {
    memcpy(bytes, frame_magic, 4);
    bytes[4] = FRAME_VERSION;
    bytes[5] = header->type;
    memcpy(bytes + 6, &header->flags, 2);
    memcpy(bytes + 8, &header->message_bytes, 4);
    memcpy(bytes + 12, &header->payload_bytes, 4);
    memcpy(bytes + 16, &header->checksum, 8);
}

int frame_header_read(const uint8_t bytes[FRAME_HEADER_BYTES], uint32_t payload_max,
                      struct frame_header *ret, struct error *reterr) {
    struct frame_header header = {.type = bytes[5]};
    memcpy(&header.flags, bytes + 6, 2);
    memcpy(&header.message_bytes, bytes + 8, 4);
    memcpy(&header.payload_bytes, bytes + 12, 4);
    memcpy(&header.checksum, bytes + 16, 8);

    if (memcmp(bytes, frame_magic, 4) != 0)
        return error_set(reterr, ERR_PROTOCOL,
                         "the first bytes are %02x %02x %02x %02x, a graphps frame begins with "
                         "47 50 53 31; is this the right port?",
                         bytes[0], bytes[1], bytes[2], bytes[3]);
    if (bytes[4] != FRAME_VERSION)
        return error_set(reterr, ERR_PROTOCOL,
                         "protocol version %u, this side speaks %d; use one release everywhere",
                         bytes[4], FRAME_VERSION);
    if (header.type == 0 || header.type >= FRAME_TYPE_END)
        return error_set(reterr, ERR_PROTOCOL, "unknown frame type %u", header.type);
    if (header.flags != 0)
        return error_set(reterr, ERR_PROTOCOL, "unknown flags 0x%04x in a %s frame", header.flags,
                         frame_type_name(header.type));
    if (header.message_bytes > frame_message_max(header.type))
        return error_set(reterr, ERR_LIMIT, "a %s message of %u bytes, at most %u are allowed",
                         frame_type_name(header.type), header.message_bytes,
                         frame_message_max(header.type));
    if (header.payload_bytes > 0 && !frame_has_payload(header.type))
        return error_set(reterr, ERR_PROTOCOL, "a %s frame with a payload of %u bytes, it has none",
                         frame_type_name(header.type), header.payload_bytes);
    if (header.payload_bytes > payload_max)
        return error_set(reterr, ERR_LIMIT,
                         "a %s payload of %u bytes, at most %u are allowed (net.max_frame_bytes)",
                         frame_type_name(header.type), header.payload_bytes, payload_max);
    *ret = header;
    return 0;
}

uint64_t frame_checksum(unsigned type, const void *message, size_t message_bytes,
                        const struct frame_piece *pieces, size_t piece_count) {
    if (piece_count == 0)
        return XXH3_64bits_withSeed(message, message_bytes, type);

    XXH3_state_t state;
    XXH3_INITSTATE(&state);
    (void)XXH3_64bits_reset_withSeed(&state, type);
    if (message_bytes > 0)
        XXH3_64bits_update(&state, message, message_bytes);
    for (size_t i = 0; i < piece_count; i++)
        if (pieces[i].len > 0)
            XXH3_64bits_update(&state, pieces[i].data, pieces[i].len);
    return XXH3_64bits_digest(&state);
}

#define CHECK_PIECE_BYTES ((size_t)32 << 10) /* hashed and looked at in turn: the first cache */

_Static_assert(sizeof(XXH3_state_t) <= sizeof((struct frame_check *)NULL)->state,
               "xxHash's state has grown");

static XXH3_state_t *check_state(struct frame_check *check) {
    return (XXH3_state_t *)(void *)check->state;
}

void frame_check_begin(struct frame_check *check, const struct frame_header *header) {
    XXH3_INITSTATE(check_state(check));
    (void)XXH3_64bits_reset_withSeed(check_state(check), header->type);
    check->message_left = header->message_bytes;
    check->payload_left = header->payload_bytes;
    check->finite = header->payload_bytes % sizeof(float) == 0;
}

void frame_check_more(struct frame_check *check, const struct frame_header *header,
                      const uint8_t *body, size_t available_bytes) {
    size_t payload_at = frame_padded(header->message_bytes);
    if (check->message_left > 0) {
        if (available_bytes < header->message_bytes)
            return;
        XXH3_64bits_update(check_state(check), body, header->message_bytes);
        check->message_left = 0;
    }
    while (check->payload_left > 0) {
        size_t at = payload_at + header->payload_bytes - check->payload_left;
        size_t here = available_bytes > at ? available_bytes - at : 0;
        here = here < check->payload_left ? here / 64 * 64 : check->payload_left;
        if (here == 0)
            return;
        if (here > CHECK_PIECE_BYTES)
            here = CHECK_PIECE_BYTES;
        XXH3_64bits_update(check_state(check), body + at, here);
        if (check->finite)
            check->finite =
                vec()->finite((const float *)(const void *)(body + at), here / sizeof(float));
        check->payload_left -= here;
    }
}

uint64_t frame_check_end(struct frame_check *check) {
    return XXH3_64bits_digest(check_state(check));
}
