/* Fuzz target: whatever arrives on a port. Frames are parsed until one is refused, their messages
 * unpacked, and packed again: what was understood once must be understood again. The checksum would
 * stop nearly every mutation, so each input is also taken as a bare message: its first byte is the
 * type. */
#include <assert.h>
#include <string.h>

#include "proto/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void take_message(const struct frame_in *frame) {
    struct error err = {0};
    ProtobufCMessage *message = NULL, *again = NULL;
    if (wire_unpack(frame, &message, &err) < 0) {
        assert(err.code < 0 && err.text[0] && !message);
        return;
    }
    /* Its canonical form is never larger than the limits unless numbers were sent denser than
     * protobuf packs them, which cannot be. */
    size_t packed_bytes = protobuf_c_message_get_packed_size(message);
    if (packed_bytes <= frame_message_max(frame->type)) {
        uint8_t *packed = malloc(packed_bytes ? packed_bytes : 1);
        protobuf_c_message_pack(message, packed);
        struct frame_in second = {
            .type = frame->type, .message = packed, .message_bytes = packed_bytes};
        if (wire_unpack(&second, &again, &err) == 0)
            assert(protobuf_c_message_get_packed_size(again) == packed_bytes);
        wire_free(again);
        free(packed);
    }
    wire_free(message);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    size_t at = 0, used;
    struct frame_in frame;
    struct error err = {0};
    while (frame_in_parse(data + at, size - at, 1 << 16, &frame, &used, &err) == 0) {
        assert((uintptr_t)frame.payload % 8 == 0);
        take_message(&frame);
        frame_in_done(&frame);
        at += used;
    }
    assert(err.code < 0 && err.text[0]);

    if (size > 0) {
        struct frame_in bare = {
            .type = data[0] % FRAME_TYPE_END, .message = data + 1, .message_bytes = size - 1};
        take_message(&bare);
    }
    return 0;
}
