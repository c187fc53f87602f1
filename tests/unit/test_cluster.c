/* The harness of the cluster tests, tried on fake programs: this same executable under the names
 * graphps-server and graphps-worker. What the harness must notice, it is shown here to notice. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/cluster.h"
#include "tests/test.h"

/* --- the fake program ------------------------------------------------------------------------- */

static void on_term(int signal_number) {
    static const char text[] = "leaving\n";
    if (write(STDOUT_FILENO, text, sizeof text - 1) < 0)
        _exit(1);
    _exit(3);
}

static int listen_on(const char *address, const char *port_file) {
    struct sockaddr_in at = {.sin_family = AF_INET};
    at.sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1));
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t len = sizeof at;
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 8) ||
        getsockname(fd, (struct sockaddr *)&at, &len))
        _exit(75);

    char beside[600];
    snprintf(beside, sizeof beside, "%s.tmp", port_file);
    FILE *file = fopen(beside, "we");
    if (!file || fprintf(file, "127.0.0.1:%d\n", ntohs(at.sin_port)) < 0 || fclose(file) ||
        rename(beside, port_file))
        _exit(70);
    return fd;
}

static void serve(int fd, int argc, char **argv) {
    for (;;) {
        int peer = accept(fd, NULL, NULL);
        char request[1024], body[4096];
        if (peer < 0 || recv(peer, request, sizeof request, 0) <= 0)
            _exit(70);
        size_t used = (size_t)snprintf(body, sizeof body, "{\"arguments\": [");
        for (int i = 1; i < argc; i++)
            used += (size_t)snprintf(body + used, sizeof body - used, "%s\"%s\"", i > 1 ? ", " : "",
                                     argv[i]);
        snprintf(body + used, sizeof body - used, "]}");
        dprintf(peer, "HTTP/1.1 %s\r\nContent-Length: %zu\r\n\r\n%s",
                strncmp(request, "GET /stats ", 11) == 0 ? "200 OK" : "404 Not Found", strlen(body),
                body);
        close(peer);
    }
}

static int fake_main(int argc, char **argv) {
    const char *port_file = NULL, *http_port_file = NULL, *listen_address = "127.0.0.1:0";
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 1; i < argc; i++) {
        printf("argument %s\n", argv[i]);
        if (strcmp(argv[i], "--port-file") == 0)
            port_file = argv[i + 1];
        else if (strcmp(argv[i], "--http-port-file") == 0)
            http_port_file = argv[i + 1];
        else if (strncmp(argv[i], "servers.listen=", 15) == 0)
            listen_address = argv[i] + 15;
        else if (strncmp(argv[i], "fake.exit=", 10) == 0)
            return atoi(argv[i] + 10);
    }
    signal(SIGTERM, on_term);
    if (port_file)
        listen_on(listen_address, port_file);
    serve(listen_on("127.0.0.1:0", http_port_file), argc, argv);
    return 0;
}

/* --- the tests -------------------------------------------------------------------------------- */

/* A directory with the two programs, as $GRAPHPS_BIN. */
static void install_fakes(void) {
    static const char *const paths[] = {"server/graphps-server", "worker/graphps-worker"};
    const char *bin = test_tmpdir();
    char self[512];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    ck_assert_int_gt(len, 0);
    self[len] = 0;
    ck_assert_int_eq(mkdir(test_path(bin, "server"), 0755), 0);
    ck_assert_int_eq(mkdir(test_path(bin, "worker"), 0755), 0);
    for (size_t i = 0; i < 2; i++)
        ck_assert_int_eq(symlink(self, test_path(bin, paths[i])), 0);
    setenv("GRAPHPS_BIN", bin, 1);
}

static struct cluster *start(int shards, int workers) {
    install_fakes();
    struct cluster *cluster = cluster_new(shards, workers);
    cluster_write_job(cluster, "job:\n  name: %s\n", "fake");
    cluster_set(cluster, "train.epochs=7");
    cluster_start(cluster);
    return cluster;
}

static bool got_argument(struct cluster *cluster, enum cluster_role role, int number,
                         const char *text) {
    json_t *stats = cluster_stats(cluster, role, number);
    size_t i;
    json_t *argument;
    bool found = false;
    json_array_foreach(json_object_get(stats, "arguments"), i, argument) found |=
        strcmp(json_string_value(argument), text) == 0;
    json_decref(stats);
    return found;
}

/* Every process gets the job file, its number, the sets and the addresses of who listens already.
 */
START_TEST(processes_get_their_command_line) {
    struct cluster *cluster = start(2, 1);
    char all[256], first[256];
    snprintf(all, sizeof all, "servers.addresses=%s,%s", cluster_address(cluster, 0),
             cluster_address(cluster, 1));
    snprintf(first, sizeof first, "servers.addresses=%s,127.0.0.1:0", cluster_address(cluster, 0));
    ck_assert_str_ne(cluster_address(cluster, 0), cluster_address(cluster, 1));
    ck_assert(got_argument(cluster, CLUSTER_SHARD, 1, first));
    ck_assert(got_argument(cluster, CLUSTER_WORKER, 0, all));
    ck_assert(!got_argument(cluster, CLUSTER_SHARD, 0, first));
    ck_assert(got_argument(cluster, CLUSTER_SHARD, 0, "train.epochs=7"));
    ck_assert(got_argument(cluster, CLUSTER_SHARD, 0, "servers.count=2"));
    ck_assert(got_argument(cluster, CLUSTER_WORKER, 0, "workers.count=1"));
    ck_assert(got_argument(cluster, CLUSTER_WORKER, 0, cluster_job_path(cluster)));

    int status;
    free(cluster_get(cluster_http_address(cluster, CLUSTER_SHARD, 0), "/nothing", &status));
    ck_assert_int_eq(status, 404);
    cluster_free(cluster);
}
END_TEST

/* Killed, told to leave, started again: codes are told apart, a shard keeps its port. */
START_TEST(processes_end_and_return) {
    struct cluster *cluster = start(1, 1);
    char address[64];
    snprintf(address, sizeof address, "%s", cluster_address(cluster, 0));

    cluster_signal(cluster, CLUSTER_SHARD, 0, SIGSTOP);
    cluster_signal(cluster, CLUSTER_SHARD, 0, SIGCONT);
    cluster_signal(cluster, CLUSTER_SHARD, 0, SIGTERM);
    cluster_wait_log(cluster, CLUSTER_SHARD, 0, "leaving", 10000);
    ck_assert_int_eq(cluster_wait(cluster, CLUSTER_SHARD, 0, 10000), 3);
    cluster_start_one(cluster, CLUSTER_SHARD, 0);
    ck_assert_str_eq(cluster_address(cluster, 0), address);
    char *log = child_log(cluster_child(cluster, CLUSTER_SHARD, 0));
    ck_assert_ptr_null(strstr(log, "leaving")); /* of its former life */
    free(log);

    cluster_kill(cluster, CLUSTER_WORKER, 0);
    ck_assert_int_eq(cluster_wait(cluster, CLUSTER_WORKER, 0, 0), 128 + SIGKILL);
    cluster_set(cluster, "fake.exit=78");
    cluster_start_one(cluster, CLUSTER_WORKER, 0);
    ck_assert_int_eq(cluster_wait(cluster, CLUSTER_WORKER, 0, 10000), 78);
    cluster_free(cluster);
}
END_TEST

/* The three cases below must fail, so they run in a suite of their own, whose failures are counted.
 * Their cluster is made by the test that counts, which removes its directory. */
static struct cluster *must_fail_cluster;

/* A process that ends before it listens fails the test at once, not at the deadline. */
START_TEST(an_early_end_fails_the_test) {
    cluster_set(must_fail_cluster, "fake.exit=5");
    cluster_start(must_fail_cluster);
}
END_TEST

/* A line that never comes fails the test at the deadline. */
START_TEST(a_missing_line_fails_the_test) {
    cluster_start(must_fail_cluster);
    cluster_wait_log(must_fail_cluster, CLUSTER_SHARD, 0, "never said", 50);
}
END_TEST

/* A process that does not end fails the test at the deadline. */
START_TEST(a_late_end_fails_the_test) {
    cluster_start(must_fail_cluster);
    cluster_wait(must_fail_cluster, CLUSTER_SHARD, 0, 50);
}
END_TEST

/* Each fails, and says why. */
START_TEST(what_must_fail_fails) {
    static const char *const whys[] = {"ended with code 5 before file",
                                       "no line with \"never said\"", "still runs after 50 ms"};
    install_fakes();
    must_fail_cluster = cluster_new(1, 0);
    Suite *suite = suite_create("must-fail");
    TCase *tests = tcase_create("must-fail");
    tcase_add_test(tests, an_early_end_fails_the_test);
    tcase_add_test(tests, a_missing_line_fails_the_test);
    tcase_add_test(tests, a_late_end_fails_the_test);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_set_log(runner, "/dev/null");
    srunner_run_all(runner, CK_SILENT);

    ck_assert_int_eq(srunner_ntests_failed(runner), 3);
    TestResult **results = srunner_failures(runner);
    for (int i = 0; i < 3; i++)
        ck_assert_msg(strstr(tr_msg(results[i]), whys[i]), "%s", tr_msg(results[i]));
    free(results);
    srunner_free(runner);
    cluster_free(must_fail_cluster);
}
END_TEST

/* When the test's process dies, its children die with it. */
START_TEST(no_child_outlives_the_test) {
    int pids[2];
    ck_assert_int_eq(pipe(pids), 0);
    install_fakes();
    struct cluster *cluster = cluster_new(1, 0); /* here, so that its directory is removed here */
    pid_t launcher = fork();
    ck_assert_int_ge(launcher, 0);
    if (launcher == 0) {
        cluster_start(cluster);
        pid_t shard = cluster_child(cluster, CLUSTER_SHARD, 0)->pid;
        if (write(pids[1], &shard, sizeof shard) != sizeof shard)
            _exit(1);
        raise(SIGKILL);
    }
    pid_t shard = 0;
    ck_assert_int_eq(read(pids[0], &shard, sizeof shard), sizeof shard);
    /* The write end is the shard's too, through the launcher: end of file means that both are gone.
     */
    close(pids[1]);
    char byte;
    ck_assert_int_eq(read(pids[0], &byte, 1), 0);
    ck_assert_int_eq(waitpid(launcher, NULL, 0), launcher);
    cluster_free(cluster);
}
END_TEST

/* child_run hands back the exit code and all that was said. */
START_TEST(programs_run_to_their_end) {
    char *output;
    const char *const argv[] = {"/bin/sh", "-c", "echo said; echo complained >&2; exit 9", NULL};
    ck_assert_int_eq(child_run(argv, 10000, &output), 9);
    ck_assert_str_eq(output, "said\ncomplained\n");
    free(output);
    const char *const missing[] = {"/nowhere/program", NULL};
    ck_assert_int_eq(child_run(missing, 10000, &output), 127);
    ck_assert_ptr_nonnull(strstr(output, "cannot run /nowhere/program"));
    free(output);
}
END_TEST

int main(int argc, char **argv) {
    const char *slash = strrchr(argv[0], '/');
    const char *name = slash ? slash + 1 : argv[0];
    if (strcmp(name, "graphps-server") == 0 || strcmp(name, "graphps-worker") == 0)
        return fake_main(argc, argv);

    Suite *suite = suite_create("cluster");
    TCase *tests = tcase_create("cluster");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, processes_get_their_command_line);
    tcase_add_test(tests, processes_end_and_return);
    tcase_add_test(tests, what_must_fail_fails);
    tcase_add_test(tests, no_child_outlives_the_test);
    tcase_add_test(tests, programs_run_to_their_end);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
