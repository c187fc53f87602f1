/* proto/frame: the header's bytes and the refusals that precede every allocation. */
#include "tests/test.h"

#include <string.h>

#include "common/mem.h"
#include "proto/frame.h"

/* Promise: these are the bytes of docs/protocol.md, whatever the compiler. */
START_TEST(header_bytes) {
    struct frame_header header = {.type = FRAME_PUSH,
                                  .message_bytes = 0x0102,
                                  .payload_bytes = 0x030405,
                                  .checksum = 0x1122334455667788},
                        read;
    const uint8_t want[FRAME_HEADER_BYTES] = {0x47, 0x50, 0x53, 0x31, 2,    4,    0,    0,
                                              2,    1,    0,    0,    5,    4,    3,    0,
                                              0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11};
    uint8_t bytes[FRAME_HEADER_BYTES];
    frame_header_write(&header, bytes);
    ck_assert_mem_eq(bytes, want, sizeof want);

    struct error err = {0};
    ck_assert_int_eq(frame_header_read(bytes, 1 << 20, &read, &err), 0);
    ck_assert_uint_eq(read.type, header.type);
    ck_assert_uint_eq(read.message_bytes, header.message_bytes);
    ck_assert_uint_eq(read.payload_bytes, header.payload_bytes);
    ck_assert_uint_eq(read.checksum, header.checksum);
}
END_TEST

/* Promise: whatever is wrong in a header is refused with its reason, and nothing is returned. */
START_TEST(header_refusals) {
    static const struct {
        size_t offset;
        uint8_t value;
        int code;
        const char *reason;
    } cases[] = {
        {0, 'X', ERR_PROTOCOL, "first bytes"},
        {3, '2', ERR_PROTOCOL, "first bytes"},
        {4, 1, ERR_PROTOCOL, "version 1"},
        {5, 0, ERR_PROTOCOL, "type 0"},
        {5, FRAME_TYPE_END, ERR_PROTOCOL, "type"},
        {5, FRAME_HELLO, ERR_PROTOCOL, "payload"}, /* HELLO has none */
        {6, 1, ERR_PROTOCOL, "flags 0x0001"},
        {7, 0x80, ERR_PROTOCOL, "flags 0x8000"},
        {11, 0xff, ERR_LIMIT, "message of"},
        {15, 0xff, ERR_LIMIT, "payload of"},
        {14, 2, ERR_LIMIT, "net.max_frame_bytes"},
    };
    struct frame_header header = {.type = FRAME_PUSH, .message_bytes = 8, .payload_bytes = 8};
    uint8_t good[FRAME_HEADER_BYTES];
    frame_header_write(&header, good);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint8_t bytes[FRAME_HEADER_BYTES];
        memcpy(bytes, good, sizeof bytes);
        bytes[cases[i].offset] = cases[i].value;
        struct frame_header read = {.type = 99};
        struct error err = {0};
        ck_assert_int_eq(frame_header_read(bytes, 65536, &read, &err), cases[i].code);
        ck_assert_ptr_nonnull(strstr(err.text, cases[i].reason));
        ck_assert_uint_eq(read.type, 99);
    }
}
END_TEST

/* Promise: a message's limit depends on its type, so that a stranger's costs little. */
START_TEST(message_limits) {
    for (unsigned type = 1; type < FRAME_TYPE_END; type++) {
        struct frame_header header = {.type = (uint8_t)type,
                                      .message_bytes = frame_message_max(type)},
                            read;
        uint8_t bytes[FRAME_HEADER_BYTES];
        struct error err = {0};
        ck_assert_uint_le(frame_message_max(type), FRAME_MESSAGE_MAX);
        frame_header_write(&header, bytes);
        ck_assert_int_eq(frame_header_read(bytes, 0, &read, &err), 0);
        header.message_bytes++;
        frame_header_write(&header, bytes);
        ck_assert_int_eq(frame_header_read(bytes, 0, &read, &err), ERR_LIMIT);
    }
    ck_assert_uint_le(frame_message_max(FRAME_HEARTBEAT), 1024);
    ck_assert_str_eq(frame_type_name(FRAME_PUSH), "PUSH");
    ck_assert_str_eq(frame_type_name(200), "?");
}
END_TEST

/* Promise: the checksum is XXH3-64 (a known value) of message and payload, however it is cut. */
START_TEST(checksum) {
    ck_assert_uint_eq(frame_checksum(0, "", 0, NULL, 0), 0x2d06800538d394c2); /* XXH3 of nothing */
    uint8_t data[5000];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 7 + i / 256);
    uint64_t whole = frame_checksum(4, data, sizeof data, NULL, 0);
    for (size_t cut = 0; cut <= sizeof data; cut += 613) {
        size_t second = (sizeof data - cut) / 3;
        struct frame_piece pieces[] = {
            {data + cut, second}, {NULL, 0}, {data + cut + second, sizeof data - cut - second}};
        ck_assert_uint_eq(frame_checksum(4, data, cut, pieces, ARRAY_LEN(pieces)), whole);
    }
    data[4999] ^= 1;
    ck_assert_uint_ne(frame_checksum(4, data, sizeof data, NULL, 0), whole);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("frame");
    TCase *tcase = tcase_create("frame");
    tcase_add_test(tcase, header_bytes);
    tcase_add_test(tcase, header_refusals);
    tcase_add_test(tcase, message_limits);
    tcase_add_test(tcase, checksum);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
