/* server/link: the connection of a shard to shard 0, with the server's two functions played here
 * and shard 0 on the same loop. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/lock.h"
#include "common/mem.h"
#include "common/metrics.h"
#include "proto/conn.h"
#include "server/link.h"
#include "server/server.h"

#define DEADLINE_MS 20000

static uv_loop_t loop;
static uv_timer_t tick;
static struct link *link_under_test;
static struct config *config;
static struct error failure;

/* What the server sees. */
static atomic_int reports;
static uint64_t orders[64];
static size_t order_count;

struct frame_out *server_report(struct server *server, uint64_t id, uint64_t now_ms) {
    Graphps__PeerReport report = GRAPHPS__PEER_REPORT__INIT;
    report.id = id;
    report.job = "job";
    reports++;
    return frame_out_new(FRAME_PEER_REPORT, &report.base, NULL, 0);
}

void server_ordered(struct server *server, const Graphps__PeerOrder *order, uint64_t now_ms) {
    ck_assert_uint_lt(order_count, ARRAY_LEN(orders));
    orders[order_count++] = order->order;
}

/* Shard 0. */
static uv_tcp_t listener;
static char address[ADDRESS_TEXT_MAX];
static struct conn *peer;
static size_t accepted, heard, closed;
static uint64_t last_id;
static void (*answer)(uint64_t id); /* NULL: no answer */

static void send_order(uint64_t id, uint64_t number) {
    Graphps__PeerOrder order = GRAPHPS__PEER_ORDER__INIT;
    order.id = id;
    order.order = number;
    conn_send(peer, frame_out_new(FRAME_PEER_ORDER, &order.base, NULL, 0));
}

static void answer_order(uint64_t id) {
    send_order(id, 100 + id);
}

static void peer_on_frame(struct conn *conn, const struct frame_in *frame, void *ctx) {
    Graphps__PeerReport *report = NULL;
    struct error err = {0};
    ck_assert_uint_eq(frame->type, FRAME_PEER_REPORT);
    ck_assert_int_eq(wire_unpack(frame, (ProtobufCMessage **)&report, &err), 0);
    ck_assert_uint_gt(report->id, last_id);
    last_id = report->id;
    heard++;
    wire_free(&report->base);
    if (answer)
        answer(last_id);
}

static void peer_on_close(struct conn *conn, const struct error *why, void *ctx) {
    closed++;
    if (peer == conn)
        peer = NULL;
    conn_unref(conn);
}

static const struct conn_ops peer_ops = {.on_frame = peer_on_frame, .on_close = peer_on_close};

static void on_connection(uv_stream_t *stream, int status) {
    struct conn_limits limits = {.payload_max_bytes = 0};
    struct error err = {0};
    ck_assert_int_eq(conn_accept(stream, &limits, &peer_ops, NULL, &peer, &err), 0);
    accepted++;
}

static void on_failed(void *ctx, const struct error *why) {
    ck_assert_int_eq(failure.code, 0); /* once */
    failure = *why;
}

static void on_tick(uv_timer_t *timer) {
    link_step(link_under_test, time_now_ms());
}

#define RUN_UNTIL(condition)                                                                       \
    do {                                                                                           \
        uint64_t start_ = time_now_ms();                                                           \
        while (!(condition)) {                                                                     \
            uv_run(&loop, UV_RUN_ONCE); /* the tick wakes it */                                    \
            if (time_now_ms() - start_ > DEADLINE_MS)                                              \
                ck_abort_msg("%s did not come to be", #condition);                                 \
        }                                                                                          \
    } while (0)

static void listen_at(const char *at) {
    struct error err = {0};
    ck_assert_msg(address_listen(&loop, at, &listener, on_connection, address, &err) == 0, "%s",
                  err.text);
}

static void start(void) {
    char assignment[400];
    struct error err = {0};
    snprintf(assignment, sizeof assignment, "servers.addresses=%s,127.0.0.1:0", address);
    ck_assert_int_eq(config_set(config, assignment, &err), 0);
    link_under_test = link_new(&loop, config, NULL, on_failed, NULL);
    uv_timer_init(&loop, &tick);
    uv_timer_start(&tick, on_tick, 0, 2);
}

static void setup(void) {
    config = config_new();
    uv_loop_init(&loop);
    listen_at("127.0.0.1:0");
}

static void teardown(void) {
    uv_close((uv_handle_t *)&tick, NULL);
    link_stop(link_under_test, time_now_ms());
    if (!uv_is_closing((uv_handle_t *)&listener))
        uv_close((uv_handle_t *)&listener, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    link_free(link_under_test);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    config_free(config);
}

/* Promise: reports come regularly, one unanswered at a time; every order reaches the server, also
 * an unasked one; the last thing shard 0 hears is a report. */
START_TEST(reports_and_orders) {
    answer = answer_order;
    start();
    RUN_UNTIL(heard == 3);
    ck_assert_uint_eq(accepted, 1);
    RUN_UNTIL(order_count == 3);
    ck_assert_uint_eq(orders[2], 100 + last_id);
    send_order(0, 7);
    RUN_UNTIL(order_count == 4);
    ck_assert_uint_eq(orders[3], 7);

    /* Without an answer nothing more is asked, however much there is to say. */
    answer = NULL;
    size_t before = heard;
    RUN_UNTIL(heard == before + 1);
    for (int i = 0; i < 20; i++) {
        link_report(link_under_test);
        uv_run(&loop, UV_RUN_ONCE);
    }
    ck_assert_uint_eq(heard, before + 1);
    /* With it, the news goes out at once and not after 200 ms. */
    uint64_t asked_ms = time_now_ms();
    send_order(last_id, 8);
    RUN_UNTIL(heard == before + 2);
    ck_assert_uint_lt(time_now_ms() - asked_ms, 150);

    link_stop(link_under_test, time_now_ms());
    RUN_UNTIL(closed == 1);
    ck_assert_uint_eq(heard, before + 3);
    ck_assert_int_eq(failure.code, 0);
}
END_TEST

/* Promise: a shard 0 that goes away and comes back on its address is found again. */
START_TEST(comes_back) {
    answer = answer_order;
    start();
    RUN_UNTIL(order_count == 1);
    uv_close((uv_handle_t *)&listener, NULL);
    conn_close(peer, 0);
    RUN_UNTIL(closed == 1);
    for (int i = 0; i < 200; i++) /* attempts fail meanwhile */
        uv_run(&loop, UV_RUN_ONCE);
    char again[ADDRESS_TEXT_MAX];
    snprintf(again, sizeof again, "%s", address);
    listen_at(again);
    RUN_UNTIL(order_count == 2);
    ck_assert_uint_eq(accepted, 2);
    ck_assert_uint_eq(metric_counter(METRIC_RECONNECTS), 1);
    ck_assert_int_eq(failure.code, 0);
}
END_TEST

/* Promise: a refusal that no repetition cures ends the process with its code and reason; another
 * one does not. */
static int refusal;

static void answer_error(uint64_t id) {
    Graphps__Error message = GRAPHPS__ERROR__INIT;
    message.id = id;
    message.code = (uint32_t)-refusal;
    message.text = "the job is another one";
    conn_send(peer, frame_out_new(FRAME_ERROR, &message.base, NULL, 0));
}

START_TEST(refused) {
    answer = answer_error;
    refusal = ERR_NOT_READY;
    start();
    RUN_UNTIL(heard == 2);
    ck_assert_int_eq(failure.code, 0);
    refusal = ERR_WRONG_JOB;
    RUN_UNTIL(failure.code != 0);
    ck_assert_int_eq(failure.code, ERR_WRONG_JOB);
    ck_assert_ptr_nonnull(strstr(failure.text, address));
    ck_assert_ptr_nonnull(strstr(failure.text, "the job is another one"));
}
END_TEST

/* Promise (G2): nobody waits for ever: it says whom it waited for and ends after net.give_up_s. */
START_TEST(gives_up) {
    struct error err = {0};
    ck_assert_int_eq(config_set(config, "net.give_up_s=1", &err), 0);
    uv_close((uv_handle_t *)&listener, NULL);
    uv_run(&loop, UV_RUN_NOWAIT);
    uint64_t start_ms = time_now_ms();
    start();
    RUN_UNTIL(failure.code != 0);
    ck_assert_int_eq(failure.code, ERR_UNREACHABLE);
    ck_assert_uint_ge(time_now_ms() - start_ms, 990); /* the loop's clock lags */
    ck_assert_ptr_nonnull(strstr(failure.text, address));
    ck_assert_ptr_nonnull(strstr(failure.text, "connection refused"));
    ck_assert_ptr_nonnull(strstr(failure.text, "net.give_up_s"));
    ck_assert_int_eq(reports, 0);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("link");
    TCase *tcase = tcase_create("link");
    tcase_set_timeout(tcase, 30);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, reports_and_orders);
    tcase_add_test(tcase, comes_back);
    tcase_add_test(tcase, refused);
    tcase_add_test(tcase, gives_up);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
