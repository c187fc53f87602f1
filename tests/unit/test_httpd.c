/* The watching pages over a real socket: what each answers, to whom it answers nothing, and that no
 * client can take the server down. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/httpd.h"
#include "common/lock.h"
#include "common/mem.h"
#include "common/metrics.h"
#include "tests/test.h"

/* What the process behind the server says. */
static struct {
    bool ready;
    bool no_stats;
} process;

static json_t *stats(void *ctx) {
    ck_assert_ptr_eq(ctx, &process);
    return process.no_stats ? NULL : json_pack("{s:i, s:s}", "clock", 17, "state", "training");
}

static bool ready(void *ctx, char *why, size_t why_bytes) {
    snprintf(why, why_bytes, "waiting for shard 1 at 10.0.0.2:4711");
    return process.ready;
}

static const struct httpd_ops ops = {.stats = stats, .ready = ready};
static struct httpd *httpd;

static void setup(void) {
    struct error err = {0};
    process.ready = true;
    process.no_stats = false;
    int r = httpd_start("127.0.0.1", 0, "shard", 1, &ops, &process, &httpd, &err);
    ck_assert_msg(r == 0, "%s", err.text);
}

static void teardown(void) {
    httpd = httpd_stop(httpd);
}

static uint16_t port_of_server(void) {
    return (uint16_t)atoi(strrchr(httpd_address(httpd), ':') + 1);
}

static int dial(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port_of_server())};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

/* Everything until the server hangs up. */
static char *drain(int fd) {
    static char answer[1 << 18];
    size_t len = 0;
    ssize_t n;
    while (len < sizeof answer - 1 && (n = recv(fd, answer + len, sizeof answer - 1 - len, 0)) > 0)
        len += (size_t)n;
    answer[len] = 0;
    close(fd);
    return answer;
}

static char *ask_raw(const char *request) {
    int fd = dial();
    send(fd, request, strlen(request), MSG_NOSIGNAL);
    return drain(fd);
}

static char *ask(const char *method, const char *path) {
    char request[256];
    snprintf(request, sizeof request, "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
             method, path);
    return ask_raw(request);
}

static int status_of(const char *answer) {
    int status = 0;
    sscanf(answer, "HTTP/1.1 %d", &status);
    return status;
}

static const char *body_of(const char *answer) {
    const char *end = strstr(answer, "\r\n\r\n");
    ck_assert_msg(end != NULL, "no headers in: %s", answer);
    return end + 4;
}

/* /stats is the process's object with the metrics of its role beside it. */
START_TEST(test_stats) {
    metric_add(METRIC_PULLS, 4);
    char *answer = ask("GET", "/stats");
    ck_assert_int_eq(status_of(answer), 200);
    ck_assert_ptr_nonnull(strstr(answer, "Content-Type: application/json\r\n"));
    ck_assert_ptr_nonnull(strstr(answer, "Cache-Control: no-store\r\n"));
    ck_assert_ptr_nonnull(strstr(body_of(answer), "\n  \"clock\": 17"));
    json_t *json = json_loads(body_of(answer), 0, NULL);
    ck_assert_ptr_nonnull(json);
    ck_assert_str_eq(json_string_value(json_object_get(json, "state")), "training");
    json_t *metrics = json_object_get(json, "metrics");
    ck_assert_int_eq(json_integer_value(json_object_get(metrics, "graphps_pulls_total")), 4);
    ck_assert_ptr_null(json_object_get(metrics, "graphps_steps_total"));
    ck_assert_ptr_null(json_object_get(metrics, "graphps_workers_live"));
    json_decref(json);

    process.no_stats = true;
    ck_assert_int_eq(status_of(ask("GET", "/stats")), 500);
}
END_TEST

/* /metrics names the format's version, or Prometheus 3 refuses it; role, number and rows are this
 * server's. */
START_TEST(test_metrics) {
    char *answer = ask("GET", "/metrics");
    ck_assert_int_eq(status_of(answer), 200);
    ck_assert_ptr_nonnull(
        strstr(answer, "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    ck_assert_ptr_nonnull(strstr(body_of(answer), "\n# TYPE graphps_pulls_total counter\n"));
    ck_assert_ptr_nonnull(strstr(body_of(answer), "role=\"shard\",number=\"1\"} 1\n"));
    ck_assert_ptr_null(strstr(body_of(answer), "graphps_steps_total"));
    ck_assert_ptr_null(strstr(body_of(answer), "graphps_workers_live"));
}
END_TEST

/* /readyz follows the process and says why not. */
START_TEST(test_readyz) {
    ck_assert_int_eq(status_of(ask("GET", "/readyz")), 200);
    process.ready = false;
    char *answer = ask("GET", "/readyz");
    ck_assert_int_eq(status_of(answer), 503);
    ck_assert_str_eq(body_of(answer), "waiting for shard 1 at 10.0.0.2:4711\n");
    ck_assert_int_eq(status_of(ask("GET", "/healthz")), 200);
}
END_TEST

/* / lists the pages, and so does the answer to a wrong path. */
START_TEST(test_list) {
    const char *paths[] = {"/stats", "/metrics", "/healthz", "/readyz"};
    for (int wrong = 0; wrong <= 1; wrong++) {
        char *answer = ask("GET", wrong ? "/stats/" : "/");
        ck_assert_int_eq(status_of(answer), wrong ? 404 : 200);
        for (size_t i = 0; i < ARRAY_LEN(paths); i++)
            ck_assert_ptr_nonnull(strstr(body_of(answer), paths[i]));
    }
}
END_TEST

/* HEAD gives the headers of GET and no body. */
START_TEST(test_head) {
    char *answer = ask("HEAD", "/readyz");
    ck_assert_int_eq(status_of(answer), 200);
    ck_assert_ptr_nonnull(strstr(answer, "Content-Length: 3\r\n"));
    ck_assert_str_eq(body_of(answer), "");
}
END_TEST

/* Nothing else is answered, and the body of a POST is not waited for. */
START_TEST(test_methods) {
    const char *methods[] = {"POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"};
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        char *answer = ask(methods[i], "/stats");
        ck_assert_int_eq(status_of(answer), 405);
        ck_assert_ptr_nonnull(strstr(answer, "Allow: GET, HEAD\r\n"));
    }
    char *answer =
        ask_raw("POST /stats HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000000\r\n\r\nabc");
    ck_assert_int_eq(status_of(answer), 405);
}
END_TEST

/* Asks /healthz on a connection that stays open; false when no answer comes within the time. */
static bool ask_again(int fd, int timeout_ms) {
    const char *request = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    char answer[2048] = "";
    size_t len = 0;
    send(fd, request, strlen(request), MSG_NOSIGNAL);
    while (!strstr(answer, "\r\n\r\nok\n")) {
        struct pollfd readable = {.fd = fd, .events = POLLIN};
        if (poll(&readable, 1, timeout_ms) == 0)
            return false;
        ssize_t n = recv(fd, answer + len, sizeof answer - 1 - len, 0);
        ck_assert_int_gt(n, 0);
        len += (size_t)n;
    }
    return true;
}

/* One connection may ask many times. */
START_TEST(test_keep_alive) {
    int fd = dial();
    for (int i = 0; i < 3; i++)
        ck_assert(ask_again(fd, 10000));
    close(fd);
}
END_TEST

/* Rubbish, endless headers, a body on GET: the client is dropped, the next one is served. */
START_TEST(test_rubbish) {
    static char endless[70000];
    int len = snprintf(endless, sizeof endless, "GET / HTTP/1.1\r\nX: ");
    memset(endless + len, 'a', sizeof endless - 1 - (size_t)len);
    const char *requests[] = {
        "\x16\x03\x01\x02\x01\xfc\x03\x03\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        endless,
        "GET /stats HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    };
    for (size_t i = 0; i < ARRAY_LEN(requests); i++) {
        char *answer = ask_raw(requests[i]);
        ck_assert_msg(status_of(answer) != 200, "%zu: %s", i, answer);
        ck_assert_int_eq(status_of(ask("GET", "/healthz")), 200);
    }
}
END_TEST

/* 64 clients are served at a time; the next one waits until one of them leaves. */
START_TEST(test_connection_limit) {
    int served[64];
    for (size_t i = 0; i < ARRAY_LEN(served); i++) {
        served[i] = dial();
        ck_assert(ask_again(served[i], 10000));
    }
    int next = dial();
    ck_assert(!ask_again(next, 50));
    close(served[0]);
    ck_assert(ask_again(next, 10000));
    close(next);
    for (size_t i = 1; i < ARRAY_LEN(served); i++)
        close(served[i]);
}
END_TEST

/* Where it cannot listen the error says which address and why. */
START_TEST(test_cannot_listen) {
    struct httpd *second = NULL;
    struct error err = {0};
    ck_assert_int_eq(
        httpd_start("127.0.0.1", port_of_server(), "shard", 2, &ops, &process, &second, &err),
        ERR_IN_USE);
    ck_assert_msg(strstr(err.text, httpd_address(httpd)) != NULL, "%s", err.text);
    ck_assert_ptr_null(second);
    ck_assert_int_eq(httpd_start("no host", 0, "shard", 2, &ops, &process, &second, &err),
                     ERR_NOT_FOUND);
    ck_assert_msg(strstr(err.text, "'no host'") != NULL, "%s", err.text);
    /* 192.0.2.0/24 is nobody's (RFC 5737). */
    ck_assert_int_eq(httpd_start("192.0.2.1", 0, "shard", 2, &ops, &process, &second, &err),
                     ERR_IO);
    ck_assert_msg(strstr(err.text, "192.0.2.1:0") != NULL, "%s", err.text);
    ck_assert_ptr_null(httpd_stop(NULL));
}
END_TEST

/* A loop that has not beaten for more than 10 s is named; one that ended on purpose is not missed.
 */
START_TEST(test_heartbeats) {
    char why[128] = "";
    int io = heartbeat_register("io loop 0"), aggregator = heartbeat_register("aggregator");
    uint64_t now = time_now_ms();
    heartbeat_beat(io);
    ck_assert(heartbeat_healthy(now + 10000, why, sizeof why));
    ck_assert(!heartbeat_healthy(now + 11000, why, sizeof why));
    ck_assert_msg(strstr(why, "io loop 0 has not beaten for 1") != NULL, "%s", why);
    heartbeat_end(io);
    ck_assert(!heartbeat_healthy(now + 60000, why, sizeof why));
    ck_assert_msg(strstr(why, "aggregator has not beaten for") != NULL, "%s", why);
    heartbeat_end(aggregator);
    ck_assert(heartbeat_healthy(now + 60000, why, sizeof why));
    /* Ended ones make room: a process may start and end loops for ever. */
    for (int i = 0; i < 100; i++)
        heartbeat_end(heartbeat_register("short"));
}
END_TEST

/* A page on every address of the machine is named by one that others can use. */
START_TEST(test_advertise) {
    static const struct {
        const char *bound, *towards, *named;
    } cases[] = {
        {"127.0.0.1", "127.0.0.2", "127.0.0.1:"}, /* a choice of the user's stays */
        {"0.0.0.0", "127.0.0.1", "127.0.0.1:"},
        {"0.0.0.0", "0.0.0.0", NULL},
        {"0.0.0.0", "no host", NULL},
        {"0.0.0.0", NULL, NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct httpd *other;
        struct error err = {0};
        char named[256];
        ck_assert_int_eq(httpd_start(cases[i].bound, 0, "worker", 2, &ops, &process, &other, &err),
                         0);
        int port = atoi(strrchr(httpd_address(other), ':') + 1);
        httpd_advertise(other, cases[i].towards);
        ck_assert_int_eq(gethostname(named, sizeof named - 1), 0);
        strcat(named, ":");
        const char *expected = cases[i].named ? cases[i].named : named;
        ck_assert_msg(strncmp(httpd_address(other), expected, strlen(expected)) == 0, "%zu: %s", i,
                      httpd_address(other));
        ck_assert_int_eq(atoi(strrchr(httpd_address(other), ':') + 1), port);
        httpd_stop(other);
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("httpd");
    TCase *tcase = tcase_create("httpd");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 30);
    tcase_add_test(tcase, test_stats);
    tcase_add_test(tcase, test_metrics);
    tcase_add_test(tcase, test_readyz);
    tcase_add_test(tcase, test_list);
    tcase_add_test(tcase, test_head);
    tcase_add_test(tcase, test_methods);
    tcase_add_test(tcase, test_keep_alive);
    tcase_add_test(tcase, test_rubbish);
    tcase_add_test(tcase, test_connection_limit);
    tcase_add_test(tcase, test_cannot_listen);
    tcase_add_test(tcase, test_advertise);
    tcase_add_test(tcase, test_heartbeats);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
