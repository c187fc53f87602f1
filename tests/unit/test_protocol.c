/* docs/protocol.md against the tables it describes. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/layout.h"
#include "proto/wire.h"

static char *page;

static void setup(void) {
    const char *source = getenv("GRAPHPS_SOURCE");
    char path[512];
    snprintf(path, sizeof path, "%s/docs/protocol.md", source ? source : ".");
    page = test_read_file(path, NULL);
}

static void teardown(void) {
    free(page);
}

/* Does a row of a table begin like this? */
static void expect_row(const char *row) {
    char line[300];
    snprintf(line, sizeof line, "\n%s", row);
    ck_assert_msg(strstr(page, line) != NULL, "docs/protocol.md has no row \"%s\"", row);
}

/* Promise: every error code is on the page, with its number, retry and sentence. */
START_TEST(errors) {
    char row[256];
#define ERROR(name, number, retryable, exit_code, sentence)                                        \
    snprintf(row, sizeof row, "| %d | `%s` | %s | %s |", number, #name,                            \
             (retryable) ? "yes" : "no", sentence);                                                \
    expect_row(row);
#include "common/error.def"
#undef ERROR
}
END_TEST

/* Promise: every frame type is on the page, with its number and the limit of its message. */
START_TEST(frames) {
    char row[256];
#define FRAME(name, number, message)                                                               \
    snprintf(row, sizeof row, "| %d | `%s` | `", number, #name);                                   \
    expect_row(row);                                                                               \
    {                                                                                              \
        uint32_t limit = frame_message_max(number);                                                \
        const char *cell = strstr(strstr(page, row), "\n");                                        \
        if (limit % (1 << 20) == 0)                                                                \
            snprintf(row, sizeof row, "| %u MiB |", limit >> 20);                                  \
        else if (limit >= 1024)                                                                    \
            snprintf(row, sizeof row, "| %u KiB |", limit >> 10);                                  \
        else                                                                                       \
            snprintf(row, sizeof row, "| %u bytes |", limit);                                      \
        ck_assert_msg(strncmp(cell - strlen(row), row, strlen(row)) == 0, "%s: %s", #name, row);   \
    }
    FRAME_TYPES
#undef FRAME
}
END_TEST

/* Promise: the example on the page is a frame that we read. */
START_TEST(example) {
    ck_assert_ptr_nonnull(strstr(page, "`47 50 53 31  02 0f 00 00  02 00 00 00  00 00 00 00`"));
    ck_assert_ptr_nonnull(strstr(page, "checksum, `08 05 00 00 00 00 00 00`"));
    Graphps__Goodbye goodbye = GRAPHPS__GOODBYE__INIT;
    goodbye.id = 5;
    struct frame_out *frame = frame_out_new(FRAME_GOODBYE, &goodbye.base, NULL, 0);
    static const uint8_t head[] = {0x47, 0x50, 0x53, 0x31, 2, 15, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0};
    ck_assert_uint_eq(frame->head->len, 32);
    ck_assert_mem_eq(frame->head->data, head, sizeof head);
    ck_assert_mem_eq(frame->head->data + 24, "\x08\x05\0\0\0\0\0", 8);
    frame_out_free(frame);
    ck_assert_ptr_nonnull(strstr(page, "`2d06800538d394c2`"));
    ck_assert_uint_eq(frame_checksum(0, "", 0, NULL, 0), 0x2d06800538d394c2);
}
END_TEST

/* Promise: the formula of the initial weights on the page gives the weights. */
static uint64_t mix(uint64_t x) {
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9;
    x ^= x >> 27;
    x *= 0x94d049bb133111eb;
    x ^= x >> 31;
    return x;
}

START_TEST(initial_weights) {
    struct tensor_spec tensors[] = {{"a", 1, 3, TENSOR_ZEROS, false},
                                    {"b", 5, 4, TENSOR_GLOROT_UNIFORM, true}};
    struct layout *layout = NULL;
    struct error err = {0};
    ck_assert_int_eq(layout_new(tensors, 2, 64, 1, &layout, &err), 0);
    float weights[16], limit = sqrtf(6.0f / 9.0f);
    layout_init_block(layout, 2, 42, weights); /* elements 16 to 19 of tensor 1 */
    uint64_t key = mix(mix(42 + 0x9e3779b97f4a7c15) ^ (1 * 0xd1342543de82ef95 + 1));
    for (uint64_t i = 0; i < 4; i++) {
        float u = (float)(mix(key + (16 + i + 1) * 0x9e3779b97f4a7c15) >> 40) / 16777216.0f;
        ck_assert_float_eq(weights[i], (2 * u - 1) * limit);
    }
    layout_free(layout);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("protocol");
    TCase *tcase = tcase_create("protocol");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, errors);
    tcase_add_test(tcase, frames);
    tcase_add_test(tcase, example);
    tcase_add_test(tcase, initial_weights);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
