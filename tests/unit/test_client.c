/* The worker's network thread against a shard that the test plays over a real socket: a thread that
 * answers frames as told, or misbehaves. */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/lock.h"
#include "common/mem.h"
#include "tests/fake_shard.h"
#include "tests/test.h"
#include "worker/client.h"

/* What the shard's thread saw; to be read when it has ended. */
struct seen {
    int cut_pushes; /* answers so many pushes by hanging up */
    int pushes, hellos;
    uint64_t sequences[16];
};

/* As a shard does; the gate stays shut for every step but the first. */
static bool answer(struct fake_shard *shard, int fd, const struct frame_in *frame,
                   const ProtobufCMessage *message) {
    struct seen *seen = shard->ctx;
    switch (frame->type) {
    case FRAME_HELLO: {
        seen->hellos++;
        Graphps__Welcome welcome = GRAPHPS__WELCOME__INIT;
        welcome.id = ((const Graphps__Hello *)message)->id;
        welcome.shard_incarnation = 5;
        welcome.lease_ms = 1000;
        welcome.attempt = 1;
        welcome.start_clock = 2;
        fake_shard_reply(fd, FRAME_WELCOME, &welcome, NULL, 0);
        return true;
    }
    case FRAME_PULL: {
        const Graphps__Pull *pull = (const Graphps__Pull *)message;
        static const float values[] = {1, 2, 3, 4, 5, 6, 7, 8};
        uint64_t version = pull->versions[0] + 1;
        Graphps__Weights weights = GRAPHPS__WEIGHTS__INIT;
        weights.id = pull->id;
        weights.n_blocks = weights.n_versions = 1;
        weights.blocks = pull->blocks;
        weights.versions = &version;
        weights.shard_incarnation = 5;
        fake_shard_reply(fd, FRAME_WEIGHTS, &weights, values, 8);
        return true;
    }
    case FRAME_PUSH: {
        const Graphps__Push *push = (const Graphps__Push *)message;
        ck_assert_int_lt(seen->pushes, 16);
        seen->sequences[seen->pushes++] = push->sequence;
        if (seen->cut_pushes-- > 0)
            return false;
        Graphps__Pushed pushed = GRAPHPS__PUSHED__INIT;
        pushed.id = push->id;
        pushed.sequence = push->sequence;
        fake_shard_reply(fd, FRAME_PUSHED, &pushed, NULL, 0);
        return true;
    }
    case FRAME_CLOCK: {
        const Graphps__Clock *clock = (const Graphps__Clock *)message;
        Graphps__Gate gate = GRAPHPS__GATE__INIT;
        gate.id = clock->id;
        gate.clock = clock->clock;
        if (clock->clock == 2)
            fake_shard_reply(fd, FRAME_GATE, &gate, NULL, 0);
        return true;
    }
    case FRAME_HEARTBEAT: {
        Graphps__Alive alive = GRAPHPS__ALIVE__INIT;
        alive.id = ((const Graphps__Heartbeat *)message)->id;
        fake_shard_reply(fd, FRAME_ALIVE, &alive, NULL, 0);
        return true;
    }
    case FRAME_BYE: {
        Graphps__Goodbye goodbye = GRAPHPS__GOODBYE__INIT;
        goodbye.id = ((const Graphps__Bye *)message)->id;
        fake_shard_reply(fd, FRAME_GOODBYE, &goodbye, NULL, 0);
        return true;
    }
    default:
        ck_abort_msg("the shard got %s", frame_type_name(frame->type));
        return false;
    }
}

static struct config *config;
static struct layout *layout;
static struct client *client;

static void client_begin(const char *address, int give_up_s) {
    struct tensor_spec tensor = {"w", 2, 4, TENSOR_ZEROS, false};
    struct error err = {0};
    char assignment[128];
    config = config_new();
    snprintf(assignment, sizeof assignment, "servers.addresses=%s", address);
    ck_assert_int_eq(config_set(config, assignment, &err), 0);
    snprintf(assignment, sizeof assignment, "net.give_up_s=%d", give_up_s);
    ck_assert_int_eq(config_set(config, assignment, &err), 0);
    ck_assert_int_eq(config_set(config, "checkpoint.grace_s=1", &err), 0);
    ck_assert_int_eq(layout_new(&tensor, 1, 64, 1, &layout, &err), 0);
    struct outbox_spec spec = {.job = "test",
                               .snapshot_digest = "",
                               .http = "",
                               .workers = 1,
                               .incarnation = 3,
                               .steps_per_epoch = 1,
                               .layout = layout,
                               .payload_max_bytes = 1 << 16,
                               .resend_ms = 2000};
    ck_assert_msg(client_start(config, &spec, &client, &err) == 0, "%s", err.text);
}

static void client_end(void) {
    client = client_stop(client);
    layout_free(layout);
    config_free(config);
}

/* What is written to standard error from here on goes to a file. */
static const char *capture_log(void) {
    const char *path = test_path(test_tmpdir(), "log");
    ck_assert_ptr_nonnull(freopen(path, "w", stderr));
    return path;
}

/* Nobody listens: it tries again and again, says whom it waits for, and gives up in time with an
 * error that names shard, address and reason. */
START_TEST(unreachable) {
    const char *log = capture_log();
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0); /* bound, so nobody else takes the port */
    char text[64];
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    getsockname(fd, (struct sockaddr *)&address, &len);
    snprintf(text, sizeof text, "127.0.0.1:%u", ntohs(address.sin_port));

    uint64_t start_ms = time_now_ms(), clock;
    struct error err;
    client_begin(text, 3);
    ck_assert_int_eq(client_wait_welcome(client, &clock, &err), ERR_UNREACHABLE);
    ck_assert_uint_ge(time_now_ms(), start_ms + 3000);
    ck_assert_int_eq(error_exit_code(err.code), 75);
    ck_assert_msg(strstr(err.text, "shard 0 at 127.0.0.1:") && strstr(err.text, text) &&
                      strstr(err.text, "refused"),
                  "%s", err.text);
    char why[300];
    ck_assert(!client_ready(client, why, sizeof why));
    client_end();
    char *said = test_read_file(log, NULL);
    ck_assert_msg(strstr(said, "waiting") && strstr(said, text), "the log has: %s", said);
    free(said);
    close(fd);
}
END_TEST

/* The pauses between attempts grow. */
START_TEST(backs_off) {
    struct fake_shard shard = {.greeting = ""};
    struct error err;
    uint64_t clock;
    capture_log();
    fake_shard_start(&shard);
    client_begin(shard.address, 2);
    ck_assert_int_eq(client_wait_welcome(client, &clock, &err), ERR_UNREACHABLE);
    client_end();
    fake_shard_stop(&shard);
    /* Pauses of 25..50, 50..100, ... ms: seven of them take at least 25 * (2^7 - 1) ms. */
    ck_assert_int_ge(shard.accepted, 3);
    ck_assert_int_le(shard.accepted, 8);
}
END_TEST

/* Something else on the port: said so, no crash. */
START_TEST(garbage) {
    struct fake_shard shard = {.greeting = "HTTP/1.1 400 Bad Request\r\n\r\n"};
    struct error err;
    uint64_t clock;
    capture_log();
    fake_shard_start(&shard);
    client_begin(shard.address, 1);
    ck_assert_int_eq(client_wait_welcome(client, &clock, &err), ERR_UNREACHABLE);
    ck_assert_msg(strstr(err.text, "is this the right port?"), "%s", err.text);
    client_end();
    fake_shard_stop(&shard);
}
END_TEST

/* Welcome, gate, weights, push; a connection cut before the acknowledgement is opened again and the
 * push goes out under the same sequence; then goodbye. */
START_TEST(trains_over_a_cut) {
    struct seen seen = {.cut_pushes = 2};
    struct fake_shard shard = {.answer = answer, .ctx = &seen};
    struct error err;
    uint64_t clock = 0;
    bool stop = true;
    float weights[8], gradient[8] = {1};
    capture_log();
    fake_shard_start(&shard);
    client_begin(shard.address, 20);
    ck_assert_int_eq(client_wait_welcome(client, &clock, &err), 0);
    ck_assert_uint_eq(clock, 2);
    clock = 0;
    ck_assert_int_eq(client_wait_gate(client, &clock, &stop, &err), 0);
    ck_assert_uint_eq(clock, 2);
    ck_assert(!stop);
    ck_assert_int_eq(client_weights(client, weights, true, &err), 0);
    ck_assert_float_eq(weights[7], 8);
    client_push(client, gradient, 2, 1);
    ck_assert_int_eq(client_wait_finished(client, 3, &err), 0);
    struct client_totals totals;
    client_totals(client, &totals);
    ck_assert_uint_eq(totals.pushes, 1);
    ck_assert_uint_eq(totals.finished, 3);
    ck_assert_int_eq(client_bye(client, true, 5000, &err), 0);
    json_t *stats = client_stats_json(client);
    ck_assert_int_eq(json_integer_value(json_object_get(stats, "clock")), 3);
    json_decref(stats);
    client_end();
    fake_shard_stop(&shard);
    ck_assert_int_eq(seen.pushes, 3);
    for (int i = 0; i < 3; i++)
        ck_assert_uint_eq(seen.sequences[i], 1);
    ck_assert_int_ge(seen.hellos, 3);
}
END_TEST

static void *interrupt_soon(void *ctx) {
    client_interrupt(client);
    return NULL;
}

/* An interrupt ends a wait for the gate at once, and one for acknowledgements after the grace. */
START_TEST(interrupted) {
    struct seen seen = {0};
    struct fake_shard shard = {.answer = answer, .ctx = &seen};
    struct error err;
    uint64_t clock = 2;
    bool stop = false;
    float gradient[8] = {1};
    pthread_t thread;
    capture_log();
    fake_shard_start(&shard);
    client_begin(shard.address, 60);
    ck_assert_int_eq(client_wait_welcome(client, &clock, &err), 0);
    clock = 3;
    uint64_t start_ms = time_now_ms();
    ck_assert_int_eq(pthread_create(&thread, NULL, interrupt_soon, NULL), 0);
    ck_assert_int_eq(client_wait_gate(client, &clock, &stop, &err), ERR_INTERRUPTED);
    pthread_join(thread, NULL);
    ck_assert(client_interrupted(client));
    client_push(client, gradient, 2, 1);
    ck_assert_int_eq(client_wait_finished(client, 3, &err), 0);
    ck_assert_int_eq(client_wait_finished(client, 4, &err), ERR_INTERRUPTED);
    uint64_t took_ms = time_now_ms() - start_ms;
    ck_assert_uint_ge(took_ms, 500);
    ck_assert_uint_lt(took_ms, 20000);
    client_end();
    fake_shard_stop(&shard);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("client");
    TCase *tcase = tcase_create("client");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, unreachable);
    tcase_add_test(tcase, backs_off);
    tcase_add_test(tcase, garbage);
    tcase_add_test(tcase, trains_over_a_cut);
    tcase_add_test(tcase, interrupted);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
