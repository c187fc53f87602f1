/* What goes wrong around a job: addresses in use, peers that cannot be reached, strangers, the
 * wrong worker, the same worker twice, a door left open. Each ends with its exit code and a
 * sentence that names place and cause, and the job goes on. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/rng.h"
#include "tests/job.h"
#include "tests/peer.h"
#include "tests/test.h"

enum { NODES = 600, CLASSES = 5, FEATURES = 24, PACE_MS = 40 };

static void make_graph(void) {
    job_make_graph(NODES, CLASSES, FEATURES);
    job_cut(1);
    job_cut(2);
}

/* Runs a program of the job with --set assignments (NULL ends them): its exit code and output. */
static int run_program(struct cluster *cluster, const char *program, const char *const *sets,
                       char **ret_output) {
    const char *argv[40] = {child_program(program), "--config", cluster_job_path(cluster),
                            strcmp(program, "graphps-server") == 0 ? "--shard" : "--rank", "0"};
    int argc = 5;
    for (; *sets; sets++) {
        argv[argc++] = "--set";
        argv[argc++] = *sets;
    }
    return child_run(argv, CLUSTER_TIMEOUT_MS, ret_output);
}

static void check_output(const char *output, const char *text) {
    ck_assert_msg(strstr(output, text) != NULL, "no \"%s\" in:\n%s", text, output);
}

/* A loopback port in other hands; listening or only bound. */
static int take_port(bool listening, char address[64]) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&at, len), 0);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    if (listening)
        ck_assert_int_eq(listen(fd, 1), 0);
    snprintf(address, 64, "127.0.0.1:%d", ntohs(at.sin_port));
    return fd;
}

/* --- addresses -------------------------------------------------------------------------------- */

/* A port in use, for frames or for HTTP: exit code 75 (it may be free soon), naming the address. */
START_TEST(a_port_in_use) {
    struct cluster *cluster = job_new(1, 1, "async", 1);
    char address[64], *output, listen_set[100], port_set[64];
    int fd = take_port(true, address);
    snprintf(listen_set, sizeof listen_set, "servers.listen=%s", address);
    snprintf(port_set, sizeof port_set, "http.port=%s", strrchr(address, ':') + 1);
    const char *const frames[] = {"servers.count=1", "workers.count=1", listen_set, NULL};
    const char *const http[] = {"servers.count=1", "workers.count=1", port_set, NULL};

    ck_assert_int_eq(run_program(cluster, "graphps-server", frames, &output), 75);
    check_output(output, address);
    free(output);
    ck_assert_int_eq(run_program(cluster, "graphps-server", http, &output), 75);
    check_output(output, address);
    free(output);
    close(fd);
    cluster_free(cluster);
}
END_TEST

/* A shard that cannot be reached: the worker tries again and again, says whom it waits for, and
 * gives up with 75 after net.give_up_s, not before. Nor does shard 1 wait for shard 0 for ever. */
START_TEST(a_shard_that_is_not_there) {
    struct cluster *cluster = job_new(2, 1, "async", 1);
    cluster_set(cluster, "net.give_up_s=3");
    cluster_reserve(cluster);
    cluster_start_one(cluster, CLUSTER_SHARD, 1);
    cluster_start_one(cluster, CLUSTER_WORKER, 0);
    char whom[120];
    snprintf(whom, sizeof whom, "shard 0 at %s", cluster_address(cluster, 0));

    struct child *worker = cluster_child(cluster, CLUSTER_WORKER, 0);
    child_wait_log(worker, "waiting for=", CLUSTER_TIMEOUT_MS);
    ck_assert_uint_ge(job_log_count(worker, whom), 1);
    ck_assert_double_gt(job_metric(cluster, CLUSTER_WORKER, 0, "graphps_waiting_seconds"), 1);
    child_expect(worker, 75, CLUSTER_TIMEOUT_MS);
    ck_assert_uint_ge(job_log_count(worker, "connection failed shard=0 "), 3);
    ck_assert_uint_ge(job_log_count(worker, "gave up after 3."), 1);

    struct child *shard = cluster_child(cluster, CLUSTER_SHARD, 1);
    child_expect(shard, 75, CLUSTER_TIMEOUT_MS);
    ck_assert_uint_ge(job_log_count(shard, cluster_address(cluster, 0)), 2);
    cluster_free(cluster);
}
END_TEST

/* G7: without security.insecure nothing listens beyond loopback, neither frames nor HTTP: 77, with
 * the option to set. */
START_TEST(a_door_left_open) {
    static const char *const doors[][2] = {{"graphps-server", "servers.listen=0.0.0.0:0"},
                                           {"graphps-server", "http.host=0.0.0.0"},
                                           {"graphps-worker", "http.host=0.0.0.0"}};
    struct cluster *cluster = job_new(1, 1, "async", 1);
    for (size_t i = 0; i < sizeof doors / sizeof doors[0]; i++) {
        const char *const sets[] = {"servers.count=1",
                                    "workers.count=1",
                                    "servers.addresses=127.0.0.1:1",
                                    "net.give_up_s=1",
                                    "servers.listen=127.0.0.1:0",
                                    doors[i][1],
                                    NULL};
        char *output;
        int code = run_program(cluster, doors[i][0], sets, &output);
        ck_assert_msg(code == 77, "%s: %d: %s", doors[i][1], code, output);
        check_output(output, "0.0.0.0");
        check_output(output, "security.insecure");
        free(output);
    }

    cluster_set(cluster, "security.insecure=true");
    cluster_set(cluster, "http.host=0.0.0.0");
    cluster_start_one(cluster, CLUSTER_SHARD, 0);
    cluster_wait_log(cluster, CLUSTER_SHARD, 0, "shard is up", CLUSTER_TIMEOUT_MS);
    cluster_free(cluster);
}
END_TEST

/* No partition for so many workers: 78, and the command that makes it. */
START_TEST(a_missing_partition) {
    struct cluster *cluster = job_new(1, 3, "async", 1);
    const char *const sets[] = {"servers.count=1", "workers.count=3",
                                "servers.addresses=127.0.0.1:1", NULL};
    char *output;
    ck_assert_int_eq(run_program(cluster, "graphps-worker", sets, &output), 78);
    check_output(output, "graphps partition");
    check_output(output, "--parts 3 --halo 2");
    free(output);
    cluster_free(cluster);
}
END_TEST

/* --- the wrong worker ------------------------------------------------------------------------- */

/* A worker of another job, one whose model has another shape, and one with another learning rate
 * are refused with 76 and told the difference; then the right one takes the rank and the job ends
 * as if nothing had been. */
START_TEST(a_worker_that_does_not_fit) {
    struct cluster *cluster = job_new(2, 2, "bsp", 40);
    cluster_start_one(cluster, CLUSTER_SHARD, 0);
    cluster_start_one(cluster, CLUSTER_SHARD, 1);
    cluster_start_one(cluster, CLUSTER_WORKER, 0);
    cluster_wait_log(cluster, CLUSTER_WORKER, 0, "training step=0", CLUSTER_TIMEOUT_MS);
    struct child *worker = cluster_child(cluster, CLUSTER_WORKER, 1);

    cluster_set(cluster, "job.name=another");
    cluster_start_one(cluster, CLUSTER_WORKER, 1);
    child_expect(worker, 76, CLUSTER_TIMEOUT_MS);
    ck_assert_uint_ge(job_log_count(worker, "another"), 1);
    ck_assert_uint_ge(job_log_count(worker, "integration"), 1);
    cluster_set(cluster, "job.name=integration");

    cluster_set(cluster, "model.hidden=8");
    cluster_start_one(cluster, CLUSTER_WORKER, 1);
    child_expect(worker, 76, CLUSTER_TIMEOUT_MS);
    ck_assert_uint_ge(job_log_count(worker, "layer0.weight"), 1);
    cluster_set(cluster, "model.hidden=16");

    cluster_set(cluster, "optimizer.lr=0.5");
    cluster_start_one(cluster, CLUSTER_WORKER, 1);
    child_expect(worker, 76, CLUSTER_TIMEOUT_MS);
    ck_assert_uint_ge(
        job_log_count(worker, "a worker says optimizer.lr: 0.5, the shard optimizer.lr: "), 1);
    cluster_set(cluster, "optimizer.lr=0.02");

    cluster_start_one(cluster, CLUSTER_WORKER, 1);
    job_wait(cluster);
    ck_assert_double_ge(job_end(job_dir(cluster)).test_accuracy, 0.8);
    cluster_free(cluster);
}
END_TEST

/* A second process of a rank takes it over: the older one ends with 75 and says why, the newer one
 * brings the job to its end. */
START_TEST(a_newer_process_of_a_rank) {
    struct cluster *cluster = job_new(2, 2, "async", 150);
    job_pace(cluster, PACE_MS);
    cluster_start(cluster);
    cluster_wait_log(cluster, CLUSTER_WORKER, 1, " sequence=5\n", CLUSTER_TIMEOUT_MS);

    char addresses[160];
    snprintf(addresses, sizeof addresses, "servers.addresses=%s,%s", cluster_address(cluster, 0),
             cluster_address(cluster, 1));
    char pace[64]; /* as job_pace: with other options it would be refused */
    snprintf(pace, sizeof pace, "aggregation.max_wait_ms=%d", PACE_MS);
    const char *const argv[] = {child_program("graphps-worker"),
                                "--config",
                                cluster_job_path(cluster),
                                "--rank",
                                "1",
                                "--set",
                                "servers.count=2",
                                "--set",
                                "workers.count=2",
                                "--set",
                                addresses,
                                "--set",
                                pace,
                                "--set",
                                "aggregation.max_pushes=4096",
                                NULL};
    struct child newer;
    child_init(&newer, "newer", test_path(cluster_dir(cluster), "newer.log"));
    child_start(&newer, argv);
    struct child *older = cluster_child(cluster, CLUSTER_WORKER, 1);
    child_expect(older, 75, CLUSTER_TIMEOUT_MS);
    ck_assert_uint_ge(job_log_count(older, "a newer process"), 1);
    child_expect(&newer, 0, CLUSTER_TIMEOUT_MS);
    ck_assert_uint_gt(job_log_number(&newer, "training step="), 0);
    child_expect(cluster_child(cluster, CLUSTER_WORKER, 0), 0, CLUSTER_TIMEOUT_MS);
    for (int shard = 0; shard < 2; shard++)
        child_expect(cluster_child(cluster, CLUSTER_SHARD, shard), 0, CLUSTER_TIMEOUT_MS);
    cluster_free(cluster);
}
END_TEST

/* --- strangers -------------------------------------------------------------------------------- */

static double broken_frames(struct cluster *cluster) {
    return job_metric(cluster, CLUSTER_SHARD, 1, "graphps_frames_broken_total");
}

static double resident_bytes(struct cluster *cluster) {
    return job_metric(cluster, CLUSTER_SHARD, 1, "process_resident_memory_bytes");
}

static void send_noise(const char *address, uint64_t key) {
    uint64_t noise[2048];
    for (size_t i = 0; i < 2048; i++)
        noise[i] = rng_at(key, i);
    int fd = peer_connect(address);
    (void)peer_send_bytes(fd, noise, sizeof noise);
    peer_wait_closed(fd);
}

/* A header that claims a payload of 4 GiB. */
static void send_claim(const char *address) {
    struct frame_header header = {
        .type = FRAME_PUSH, .message_bytes = 100, .payload_bytes = UINT32_MAX};
    uint8_t bytes[FRAME_HEADER_BYTES];
    frame_header_write(&header, bytes);
    int fd = peer_connect(address);
    (void)peer_send_bytes(fd, bytes, sizeof bytes);
    peer_wait_closed(fd);
}

/* A whole frame whose checksum is wrong. */
static void send_damage(const char *address) {
    Graphps__StatusRequest request = GRAPHPS__STATUS_REQUEST__INIT;
    request.job = (char *)"integration";
    struct frame_out *frame = frame_out_new(FRAME_STATUS_REQUEST, &request.base, NULL, 0);
    struct buf *bytes = frame_out_flatten(frame);
    bytes->data[bytes->len - 1] ^= 1;
    int fd = peer_connect(address);
    (void)peer_send_bytes(fd, bytes->data, bytes->len);
    peer_wait_closed(fd);
    buf_unref(bytes);
    frame_out_free(frame);
}

/* Asked by somebody who has not said hello: refused by a code and a sentence, the connection lives
 * and answers what it may. */
static void ask_without_hello(const char *address) {
    int fd = peer_connect(address);
    enum frame_type type;
    Graphps__Pull pull = GRAPHPS__PULL__INIT;
    pull.id = 41;
    peer_send(fd, FRAME_PULL, &pull.base);
    ProtobufCMessage *answer = peer_receive(fd, &type);
    ck_assert_int_eq(type, FRAME_ERROR);
    ck_assert_uint_eq(((Graphps__Error *)answer)->id, 41);
    ck_assert_uint_eq(((Graphps__Error *)answer)->code, -ERR_NOT_ATTACHED);
    wire_free(answer);

    Graphps__StatusRequest request = GRAPHPS__STATUS_REQUEST__INIT;
    request.id = 42;
    request.job = (char *)"another";
    peer_send(fd, FRAME_STATUS_REQUEST, &request.base);
    answer = peer_receive(fd, &type);
    ck_assert_int_eq(type, FRAME_ERROR);
    ck_assert_uint_eq(((Graphps__Error *)answer)->id, 42);
    wire_free(answer);
    close(fd);
}

/* AddressSanitizer keeps what is freed for a while. */
#ifdef __SANITIZE_ADDRESS__
#define GROWN_MAX (256 << 20)
#else
#define GROWN_MAX (8 << 20)
#endif

/* G5, G6: strangers send noise, claims of 4 GiB and damaged frames by the hundred in the middle of
 * a run: every connection is closed and counted, memory does not grow, and the job ends as it
 * should. */
START_TEST(strangers_at_the_port) {
    struct cluster *cluster = job_new(2, 2, "async", 200);
    job_pace(cluster, PACE_MS);
    cluster_start(cluster);
    cluster_wait_log(cluster, CLUSTER_WORKER, 0, " sequence=5\n", CLUSTER_TIMEOUT_MS);
    const char *address = cluster_address(cluster, 1);
    enum { WARM_UP = 20, ROUNDS = 100 };
    double before = 0;
    for (uint64_t i = 0; i < WARM_UP + ROUNDS; i++) {
        if (i == WARM_UP)
            before = resident_bytes(cluster);
        send_noise(address, i);
        send_claim(address);
        send_damage(address);
    }
    ck_assert_double_eq(broken_frames(cluster), 3 * (WARM_UP + ROUNDS));
    double grown = resident_bytes(cluster) - before;
    ck_assert_msg(grown < GROWN_MAX, "%.0f bytes more after %d strangers", grown, 3 * ROUNDS);
    ask_without_hello(cluster_address(cluster, 0));
    job_wait(cluster);
    ck_assert_double_ge(job_end(job_dir(cluster)).test_accuracy, 0.9);
    cluster_free(cluster);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("wrong");
    TCase *tests = tcase_create("wrong");
    tcase_set_timeout(tests, 280);
    tcase_add_unchecked_fixture(tests, make_graph, NULL);
    tcase_add_test(tests, a_port_in_use);
    tcase_add_test(tests, a_shard_that_is_not_there);
    tcase_add_test(tests, a_door_left_open);
    tcase_add_test(tests, a_missing_partition);
    tcase_add_test(tests, a_worker_that_does_not_fit);
    tcase_add_test(tests, a_newer_process_of_a_rank);
    tcase_add_test(tests, strangers_at_the_port);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
