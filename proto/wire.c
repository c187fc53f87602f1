/* Messages <-> frames. Unpacking goes in three steps, each bounding the next: the type's length
 * cap, a scan that counts the entries of every repeated field, then protobuf-c with a memory
 * budget. */
#include "proto/wire.h"

#include <assert.h>
#include <string.h>

#include "common/pool.h"
#include "proto/layout.h"
#include "proto/score.h"

/* A message has this many keys beside those of its repeated fields; unknown and doubled ones
 * included, so that a newer minor version's fields pass. */
#define WIRE_KEYS_MAX 64

static const ProtobufCMessageDescriptor *wire_descriptor(enum frame_type type) {
    switch (type) {
#define FRAME(name, number, message)                                                               \
    case FRAME_##name:                                                                             \
        return &graphps__##message##__descriptor;
        FRAME_TYPES
#undef FRAME
    case FRAME_TYPE_END:
        break;
    }
    return NULL;
}

struct frame_out *frame_out_new(enum frame_type type, const ProtobufCMessage *message,
                                const struct frame_out_piece *pieces, size_t piece_count) {
    assert(message->descriptor == wire_descriptor(type));
    size_t message_bytes = protobuf_c_message_get_packed_size(message);
    size_t padded = frame_padded(message_bytes);
    assert(message_bytes <= frame_message_max(type));
    assert(piece_count == 0 || frame_has_payload(type));

    struct frame_out *frame = pool_take(sizeof *frame + piece_count * sizeof frame->pieces[0]);
    *frame = (struct frame_out){.piece_count = piece_count};
    frame->head = buf_new(FRAME_HEADER_BYTES + padded);
    protobuf_c_message_pack(message, frame->head->data + FRAME_HEADER_BYTES);
    memset(frame->head->data + FRAME_HEADER_BYTES + message_bytes, 0, padded - message_bytes);

    POOL_ARRAY(struct frame_piece, hashed, piece_count);
    for (size_t i = 0; i < piece_count; i++) {
        frame->pieces[i] = pieces[i];
        hashed[i] = (struct frame_piece){pieces[i].data, pieces[i].len};
        frame->payload_bytes += pieces[i].len;
    }
    assert(frame->payload_bytes <= UINT32_MAX);
    frame->total_bytes = frame->head->len + frame_padded(frame->payload_bytes);

    struct frame_header header = {
        .type = (uint8_t)type,
        .message_bytes = (uint32_t)message_bytes,
        .payload_bytes = (uint32_t)frame->payload_bytes,
        .checksum = frame_checksum(type, frame->head->data + FRAME_HEADER_BYTES, message_bytes,
                                   hashed, piece_count),
    };
    frame_header_write(&header, frame->head->data);
    return frame;
}

struct frame_out *frame_out_free(struct frame_out *frame) {
    if (frame) {
        buf_unref(frame->head);
        for (size_t i = 0; i < frame->piece_count; i++)
            buf_unref(frame->pieces[i].buf);
        pool_give(frame, sizeof *frame + frame->piece_count * sizeof frame->pieces[0]);
    }
    return NULL;
}

struct buf *frame_out_flatten(const struct frame_out *frame) {
    struct buf *flat = buf_new(frame->total_bytes);
    memcpy(flat->data, frame->head->data, frame->head->len);
    size_t at = frame->head->len;
    for (size_t i = 0; i < frame->piece_count; i++) {
        if (frame->pieces[i].len > 0)
            memcpy(flat->data + at, frame->pieces[i].data, frame->pieces[i].len);
        at += frame->pieces[i].len;
    }
    memset(flat->data + at, 0, frame->total_bytes - at);
    return flat;
}

static bool padding_zero(const uint8_t *end) {
    for (; (uintptr_t)end % FRAME_ALIGN != 0; end++)
        if (*end != 0)
            return false;
    return true;
}

/* Below this the streaming form costs more than it saves. */
#define CHECK_AT_ONCE_BYTES 4096

/* The checksum, all that is left of it. */
static uint64_t view_checksum(struct frame_in *frame, const struct frame_header *header,
                              struct frame_check *check) {
    struct frame_check own;
    if (!check && frame->payload_bytes <= CHECK_AT_ONCE_BYTES) {
        const struct frame_piece payload = {frame->payload, frame->payload_bytes};
        return frame_checksum(frame->type, frame->message, frame->message_bytes, &payload,
                              frame->payload_bytes > 0);
    }
    if (!check) {
        check = &own;
        frame_check_begin(check, header);
    }
    frame_check_more(check, header, frame->message,
                     frame_padded(header->message_bytes) + header->payload_bytes);
    frame->payload_finite = check->finite;
    return frame_check_end(check);
}

int frame_in_view(struct buf *buf, const uint8_t *bytes, const struct frame_header *header,
                  struct frame_check *check, struct frame_in *ret, struct error *reterr) {
    struct frame_in frame = {
        .type = header->type,
        .buf = buf,
        .message = bytes + FRAME_HEADER_BYTES,
        .message_bytes = header->message_bytes,
        .payload = bytes + FRAME_HEADER_BYTES + frame_padded(header->message_bytes),
        .payload_bytes = header->payload_bytes,
    };
    uint64_t sum = view_checksum(&frame, header, check);
    if (sum != header->checksum)
        return error_set(reterr, ERR_CHECKSUM,
                         "a %s frame of %zu + %zu bytes was damaged on its way (checksum %016llx, "
                         "announced %016llx)",
                         frame_type_name(frame.type), frame.message_bytes, frame.payload_bytes,
                         (unsigned long long)sum, (unsigned long long)header->checksum);
    if (!padding_zero(frame.message + frame.message_bytes) ||
        !padding_zero(frame.payload + frame.payload_bytes))
        return error_set(reterr, ERR_CHECKSUM, "a %s frame whose padding is not zero",
                         frame_type_name(frame.type));
    buf_ref(buf);
    *ret = frame;
    return 0;
}

int frame_in_parse(const uint8_t *bytes, size_t len, uint32_t payload_max, struct frame_in *ret,
                   size_t *ret_used, struct error *reterr) {
    if (len < FRAME_HEADER_BYTES)
        return error_set(reterr, ERR_CLOSED, "%zu bytes, a frame's header has %d", len,
                         FRAME_HEADER_BYTES);
    struct frame_header header;
    int r = frame_header_read(bytes, payload_max, &header, reterr);
    if (r < 0)
        return r;
    size_t whole = frame_wire_bytes(&header);
    if (len < whole)
        return error_set(reterr, ERR_CLOSED, "%zu bytes of a frame of %zu", len, whole);

    _cleanup_(buf_unref_p) struct buf *buf = buf_new(whole);
    memcpy(buf->data, bytes, whole);
    r = frame_in_view(buf, buf->data, &header, NULL, ret, reterr);
    if (r == 0)
        *ret_used = whole;
    return r;
}

void frame_in_done(struct frame_in *frame) {
    frame->buf = buf_unref(frame->buf);
}

/* The most entries of a repeated field, whatever message it is in: fields of one name mean one
 * thing in graphps.proto. */
static size_t wire_entries_max(const char *field) {
    static const struct {
        const char *field;
        size_t max;
    } caps[] = {
        {"tensors", LAYOUT_TENSORS_MAX},
        {"tables", LAYOUT_TABLES_MAX},
        {"blocks", LAYOUT_BLOCKS_MAX},
        {"versions", LAYOUT_BLOCKS_MAX},
        {"generations", 1024},
        {"roster", 4096},
        {"roster_from", 4096},
        {"shards", LAYOUT_SHARDS_MAX},
        {"workers", 4096},
        {"train_counts", SCORE_CELLS},
        {"valid_counts", SCORE_CLASSES_MAX * SCORE_CELLS},
        {"test_counts", SCORE_CLASSES_MAX * SCORE_CELLS},
        {"valid_histogram", SCORE_HISTOGRAM_MAX},
        {"test_histogram", SCORE_HISTOGRAM_MAX},
    };
    for (size_t i = 0; i < ARRAY_LEN(caps); i++)
        if (strcmp(caps[i].field, field) == 0)
            return caps[i].max;
    return 0;
}

/* Reads a base-128 varint; false when the bytes end or it has more than 10. */
static bool wire_varint(const uint8_t **at, const uint8_t *end, uint64_t *ret) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 70 && *at < end; shift += 7) {
        uint8_t byte = *(*at)++;
        value |= (uint64_t)(byte & 0x7f) << (shift < 64 ? shift : 63);
        if (!(byte & 0x80)) {
            *ret = value;
            return true;
        }
    }
    return false;
}

/* Entries in one occurrence of a repeated field. */
static size_t wire_packed_entries(const ProtobufCFieldDescriptor *field, const uint8_t *data,
                                  size_t len) {
    switch (field->type) {
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
        return 1;
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
        return len / 4;
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return len / 8;
    default:
        break;
    }
    size_t entries = 0;
    for (size_t i = 0; i < len; i++)
        entries += !(data[i] & 0x80);
    return entries;
}

/* Walks the keys of a message without allocating. Submessages hold no repeated fields, so their
 * inside needs no look here; protobuf-c refuses what is malformed in them. */
static int wire_scan(const struct frame_in *frame, const ProtobufCMessageDescriptor *descriptor,
                     struct error *reterr) {
    const uint8_t *at = frame->message, *end = at + frame->message_bytes;
    const char *type = frame_type_name(frame->type);
    size_t keys = 0;
    size_t counts[32] = {0};
    assert(descriptor->n_fields <= ARRAY_LEN(counts));

    while (at < end) {
        uint64_t key, n = 0;
        if (!wire_varint(&at, end, &key) || key > UINT32_MAX)
            return error_set(reterr, ERR_PROTOCOL, "a %s message with a broken key", type);
        unsigned wire_type = key & 7;
        bool whole = true;
        if (wire_type == 0)
            whole = wire_varint(&at, end, &n), n = 0;
        else if (wire_type == 1)
            n = 8;
        else if (wire_type == 2)
            whole = wire_varint(&at, end, &n);
        else if (wire_type == 5)
            n = 4;
        else
            return error_set(reterr, ERR_PROTOCOL, "a %s message with wire type %u", type,
                             wire_type);
        if (!whole || n > (size_t)(end - at))
            return error_set(reterr, ERR_PROTOCOL, "a %s message that ends inside field %u", type,
                             (unsigned)(key >> 3));

        const ProtobufCFieldDescriptor *field =
            protobuf_c_message_descriptor_get_field(descriptor, (unsigned)(key >> 3));
        if (field && field->label == PROTOBUF_C_LABEL_REPEATED) {
            size_t *count = &counts[field - descriptor->fields];
            *count += wire_type == 2 ? wire_packed_entries(field, at, n) : 1;
            if (*count > wire_entries_max(field->name))
                return error_set(reterr, ERR_LIMIT, "a %s message with more than %zu %s", type,
                                 wire_entries_max(field->name), field->name);
        } else if (++keys > WIRE_KEYS_MAX) {
            return error_set(reterr, ERR_LIMIT, "a %s message with more than %d fields", type,
                             WIRE_KEYS_MAX);
        }
        at += n;
    }
    return 0;
}

/* What one unpacking may allocate: one piece of the pool, handed out from the front. Nothing is
 * given back on the way; all goes at once with the message, which is the first thing in it. */
struct wire_room {
    size_t size_bytes, used;
    _Alignas(16) uint8_t bytes[];
};

static void *wire_room_alloc(void *data, size_t size) {
    struct wire_room *room = data;
    size_t padded = (size + 15) / 16 * 16;
    if (padded < size || padded > room->size_bytes - room->used)
        return NULL;
    void *memory = room->bytes + room->used;
    room->used += padded;
    return memory;
}

static void wire_room_free(void *data, void *pointer) {
}

int wire_unpack(const struct frame_in *frame, ProtobufCMessage **ret, struct error *reterr) {
    const ProtobufCMessageDescriptor *descriptor = wire_descriptor(frame->type);
    if (!descriptor)
        return error_set(reterr, ERR_PROTOCOL, "unknown frame type %u", frame->type);
    if (frame->message_bytes > frame_message_max(frame->type))
        return error_set(reterr, ERR_LIMIT, "a %s message of %zu bytes, at most %u are allowed",
                         frame_type_name(frame->type), frame->message_bytes,
                         frame_message_max(frame->type));
    int r = wire_scan(frame, descriptor, reterr);
    if (r < 0)
        return r;

    /* The densest honest messages: a Status of workers not yet seen, 12 bytes each that become 250,
     * and numbers one by one instead of packed, 2 bytes that become 84 while they are read. */
    size_t size_bytes = (16 << 10) + 48 * frame->message_bytes;
    struct wire_room *room = pool_take(sizeof *room + size_bytes);
    *room = (struct wire_room){.size_bytes = size_bytes};
    ProtobufCAllocator allocator = {
        .alloc = wire_room_alloc, .free = wire_room_free, .allocator_data = room};
    ProtobufCMessage *message =
        protobuf_c_message_unpack(descriptor, &allocator, frame->message_bytes, frame->message);
    if (!message) {
        pool_give(room, sizeof *room + size_bytes);
        return error_set(reterr, ERR_PROTOCOL, "a %s message of %zu bytes that cannot be read",
                         frame_type_name(frame->type), frame->message_bytes);
    }
    assert((uint8_t *)message == room->bytes);
    *ret = message;
    return 0;
}

void wire_free(ProtobufCMessage *message) {
    if (!message)
        return;
    struct wire_room *room =
        (struct wire_room *)(void *)((uint8_t *)message - offsetof(struct wire_room, bytes));
    pool_give(room, sizeof *room + room->size_bytes);
}
