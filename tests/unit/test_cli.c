/* The graphps program as a person meets it: its help, its exit codes, `graphps config`, the page
 * docs/configuration.md that it makes, and what builds it; and how the daemons start and what
 * strangers leave in their logs. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/child.h"
#include "tests/test.h"

/* Runs `graphps ARGUMENTS`, given as one text without quotes; checks the exit code. */
static char *graphps(const char *arguments, int code) {
    char copy[512];
    const char *argv[32] = {child_program("graphps")};
    int argc = 1;
    snprintf(copy, sizeof copy, "%s", arguments);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;

    char *output;
    int got = child_run(argv, 20000, &output);
    ck_assert_msg(got == code, "graphps %s ended with %d, expected %d:\n%s", arguments, got, code,
                  output);
    return output;
}

static void expect(const char *arguments, int code, const char *text) {
    char *output = graphps(arguments, code);
    ck_assert_msg(strstr(output, text), "graphps %s printed no \"%s\":\n%s", arguments, text,
                  output);
    free(output);
}

/* Help is complete and on demand; a wrong command line ends with 78 and the nearest right name. */
START_TEST(help_and_usage) {
    expect("--version", 0, "graphps " GRAPHPS_VERSION "\n");
    expect("--help", 0, "\n  config ");
    expect("help", 0, "\n  config ");
    expect("", 78, "Usage: graphps COMMAND");
    expect("help config", 0, "Usage: graphps config [OPTION...]");
    expect("config --help", 0, "Usage: graphps config [OPTION...]");
    expect("confg", 78, "unknown command \"confg\"; did you mean \"config\"?");
    expect("help confg", 78, "unknown command \"confg\"");
    expect("--chck", 78, "unknown command \"--chck\"");
    expect("config", 78, "graphps config: give one of --defaults");
    expect("config --defaults --markdown", 78, "give only one of");
    expect("config --defaults --set a.b=c", 78, "--set goes with");
    expect("config --nothing", 78, "unrecognized option '--nothing'");
    expect("config --defaults extra", 78, "unexpected argument \"extra\"");
}
END_TEST

/* Every subcommand in the list describes itself. */
START_TEST(every_command_has_help) {
    static const char *const names[] = {
#define COMMAND(name, sentence) #name,
#include "cli/commands.def"
#undef COMMAND
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char arguments[64], usage[64];
        snprintf(arguments, sizeof arguments, "help %s", names[i]);
        snprintf(usage, sizeof usage, "Usage: graphps %s", names[i]);
        expect(arguments, 0, usage);
        snprintf(arguments, sizeof arguments, "%s --no-such-option", names[i]);
        expect(arguments, 78, "unrecognized option '--no-such-option'");
    }
}
END_TEST

/* --check names every fault, of the file, of --set and across options, and ends with 78; a right
 * file gets a word and 0. */
START_TEST(check_names_every_fault) {
    const char *path = test_path(test_tmpdir(), "job.yaml");
    const char *yaml = "train:\n  epochs: 0\n  epoch: 3\nservers:\n  block_bytes: 100\n";
    char arguments[512], text[600];
    test_write_file(path, yaml, strlen(yaml));
    snprintf(arguments, sizeof arguments, "config --check %s --set model.layer=3", path);
    char *output = graphps(arguments, 78);
    snprintf(text, sizeof text,
             "graphps config: %s:2:11: train.epochs: \"0\" is out of range, expected an integer "
             "from 1 to 1000000\n"
             "graphps config: %s:3:3: unknown option \"train.epoch\"; did you mean "
             "\"train.epochs\"?\n"
             "graphps config: --set: \"model.layer=3\": unknown option \"model.layer\"; did you "
             "mean \"model.layers\"?\n"
             "graphps config: %s:5:16: servers.block_bytes: 100 is not a multiple of 64\n",
             path, path, path);
    ck_assert_str_eq(output, text);
    free(output);

    yaml = "train:\n  epochs: 3\n";
    test_write_file(path, yaml, strlen(yaml));
    snprintf(arguments, sizeof arguments, "config --check %s --set data.snapshot=a", path);
    output = graphps(arguments, 0);
    snprintf(text, sizeof text, "%s: no faults\n", path);
    ck_assert_str_eq(output, text);
    free(output);

    snprintf(arguments, sizeof arguments, "config --show %s --set job.name=cora", path);
    output = graphps(arguments, 0);
    ck_assert_str_eq(output, "job:\n  name: \"cora\"\ntrain:\n  epochs: 3\n");
    free(output);

    snprintf(arguments, sizeof arguments, "config --show %s --set train.epochs=200", path);
    output = graphps(arguments, 0);
    ck_assert_str_eq(output, ""); /* what follows from the defaults differs from none */
    free(output);
    expect("config --check /", 78, "graphps config: cannot read /: Is a directory");
}
END_TEST

/* --check also names, with 78 and all at once, what only some of a job's programs would refuse: no
 * snapshot (but not when the file could not be read to its end), and listening beyond loopback,
 * which `graphps train` then refuses with 77. */
START_TEST(check_is_for_the_whole_job) {
    const char *path = test_path(test_tmpdir(), "job.yaml");
    const char *yaml = "http:\n  host: 0.0.0.0\n  port: 9100\nservers:\n"
                       "  addresses: ['10.0.0.1:9100', '10.0.0.2:7000']\n";
    char arguments[512], text[900];
    test_write_file(path, yaml, strlen(yaml));
    snprintf(arguments, sizeof arguments, "config --check %s", path);
    char *output = graphps(arguments, 78);
    const char *exposed = "is not a loopback address, and there are no credentials: whoever "
                          "reaches it is believed. Set security.insecure: true if the network is "
                          "trusted";
    char *expected = NULL;
    ck_assert_int_gt(
        asprintf(&expected,
                 "graphps config: %s:3:9: http.port: shard 0 would serve HTTP on port 9100, where "
                 "a shard listens (servers.addresses)\n"
                 "graphps config: %s: data.snapshot is not set: name a snapshot below graphps-data "
                 "(`graphps import` makes one)\n"
                 "graphps config: %s:2:9: http.host: 0.0.0.0 %s\n"
                 "graphps config: %s:5:14: servers.addresses: 10.0.0.1 %s\n"
                 "graphps config: %s:5:14: servers.addresses: 10.0.0.2 %s\n",
                 path, path, path, exposed, path, exposed, path, exposed),
        0);
    ck_assert_str_eq(output, expected);
    free(expected);
    free(output);

    snprintf(arguments, sizeof arguments,
             "config --check %s --set http.port=0 --set data.snapshot=a", path);
    expect(arguments, 78, "security.insecure");
    snprintf(arguments, sizeof arguments, "train %s --set http.port=0 --set data.snapshot=a", path);
    snprintf(text, sizeof text, "graphps train: %s:2:9: http.host: 0.0.0.0 %s", path, exposed);
    expect(arguments, 77, text);

    yaml = "job:\n  name: [\ndata:\n  snapshot: a\n";
    test_write_file(path, yaml, strlen(yaml));
    snprintf(arguments, sizeof arguments, "config --check %s", path);
    output = graphps(arguments, 78);
    ck_assert_msg(!strstr(output, "data.snapshot is not set"), "%s", output);
    free(output);
}
END_TEST

/* Whoever reads a fault sees which program says it. */
START_TEST(faults_begin_with_the_program) {
    static const char *const daemons[] = {"graphps-server", "graphps-worker"};
    for (size_t i = 0; i < sizeof daemons / sizeof daemons[0]; i++) {
        const char *const argv[] = {child_program(daemons[i]), "--config", "/nowhere/job.yaml",
                                    NULL};
        char *output, text[80];
        ck_assert_int_eq(child_run(argv, 20000, &output), 78);
        snprintf(text, sizeof text, "%s: cannot open /nowhere/job.yaml: ", daemons[i]);
        ck_assert_msg(strncmp(output, text, strlen(text)) == 0, "%s", output);
        free(output);
    }
    expect("config --check /nowhere/job.yaml", 78, "graphps config: cannot open /nowhere/job.yaml");
    expect("train /nowhere/job.yaml", 78, "graphps train: cannot open /nowhere/job.yaml");
    expect("status --config /nowhere/job.yaml", 78, "graphps status: cannot open /nowhere/");
    expect("predict --model m --out o --config /nowhere/job.yaml", 78,
           "graphps predict: cannot open /nowhere/job.yaml");
}
END_TEST

/* What --defaults prints passes --check, but for the one option that has no default. */
START_TEST(defaults_pass_the_check) {
    const char *path = test_path(test_tmpdir(), "defaults.yaml");
    char arguments[512];
    char *defaults = graphps("config --defaults", 0);
    test_write_file(path, defaults, strlen(defaults));
    free(defaults);
    snprintf(arguments, sizeof arguments, "config --check %s --set data.snapshot=a", path);
    expect(arguments, 0, ": no faults\n");
    snprintf(arguments, sizeof arguments, "config --check %s", path);
    expect(arguments, 78, "data.snapshot is not set");
}
END_TEST

/* A result that could not be written is a failure. */
START_TEST(full_disk_is_a_failure) {
    char command[700], *output;
    snprintf(command, sizeof command, "%s config --defaults >/dev/full", child_program("graphps"));
    const char *const argv[] = {"/bin/sh", "-c", command, NULL};
    ck_assert_int_eq(child_run(argv, 20000, &output), 70);
    ck_assert_ptr_nonnull(strstr(output, "No space left on device"));
    free(output);
}
END_TEST

/* docs/configuration.md is what `graphps config --markdown` prints now. */
START_TEST(documentation_is_fresh) {
    const char *source = getenv("GRAPHPS_SOURCE");
    ck_assert_msg(source, "GRAPHPS_SOURCE is not set (meson test sets it)");
    char *page = test_read_file(test_path(source, "docs/configuration.md"), NULL);
    char *made = graphps("config --markdown", 0);
    ck_assert_msg(strcmp(page, made) == 0, "docs/configuration.md is stale: "
                                           "graphps config --markdown > docs/configuration.md");
    free(made);
    free(page);
}
END_TEST

/* A build directory that came along when a clone was copied is made anew in the copy (ninja would
 * build in the original); one that is the clone's own stays. */
START_TEST(a_copied_build_is_made_anew) {
    static const char script[] =
        "set -eu\n"
        "cd \"$1\" && mkdir clone && echo \"project('clone')\" >clone/meson.build\n"
        ". \"$GRAPHPS_SOURCE/deploy/packages.sh\"\n"
        "cd clone && build_setup build && echo mark >build/mark && build_setup build\n"
        "[ -f build/mark ] || { echo 'the clone lost its own build'; exit 1; }\n"
        "cp -r ../clone ../copy && cd ../copy && build_setup build\n"
        "[ ! -f build/mark ] || { echo 'the copy kept a build of the clone'; exit 1; }\n"
        "grep -q \"\\\"source\\\": \\\"$PWD\\\"\" build/meson-info/meson-info.json\n";
    char *output;
    const char *const argv[] = {"/bin/sh", "-c", script, "sh", test_tmpdir(), NULL};
    int code = child_run(argv, 60000, &output);
    ck_assert_msg(code == 0, "%d: %s", code, output);
    ck_assert_msg(strstr(output, "build was set up for another directory than "), "%s", output);
    free(output);
}
END_TEST

/* Every job file that comes with graphps is right. */
START_TEST(shipped_job_files_pass_the_check) {
    const char *source = getenv("GRAPHPS_SOURCE");
    ck_assert_msg(source, "GRAPHPS_SOURCE is not set (meson test sets it)");
    glob_t files;
    ck_assert_int_eq(glob(test_path(source, "config/*.yaml"), 0, NULL, &files), 0);
    for (size_t i = 0; i < files.gl_pathc; i++) {
        char arguments[512];
        snprintf(arguments, sizeof arguments, "config --check %s", files.gl_pathv[i]);
        expect(arguments, 0, ": no faults\n");
    }
    globfree(&files);
}
END_TEST

/* A graph without features is refused, not made. */
START_TEST(debian_graph_refuses_nothing) {
    const char *source = getenv("GRAPHPS_SOURCE"), *out = test_path(test_tmpdir(), "graph");
    ck_assert_msg(source, "GRAPHPS_SOURCE is not set (meson test sets it)");
    const char *const argv[] = {test_path(source, "deploy/debian-graph"), "--dims", "0", out, NULL};
    char *output;
    ck_assert_int_eq(child_run(argv, 20000, &output), 78);
    ck_assert_str_eq(output, "debian-graph: --dims must be at least 1\n");
    ck_assert_int_ne(access(out, F_OK), 0);
    free(output);
}
END_TEST

/* A worker started by hand lets its waiting threads sleep, unless the user has chosen. It is looked
 * at while it opens its job file, a pipe: by then it has started itself again if it means to. */
START_TEST(a_worker_yields_when_idle) {
    static const char *const cases[][2] = {
        {"A=1", "OMP_WAIT_POLICY=passive"},
        {"OMP_WAIT_POLICY=active", "OMP_WAIT_POLICY=active"},
        {"GOMP_SPINCOUNT=7", "GOMP_SPINCOUNT=7"},
    };
    const char *dir = test_tmpdir(), *pipe_path = test_path(dir, "job.yaml");
    ck_assert_int_eq(mkfifo(pipe_path, 0600), 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct child child;
        char environ_path[64], environment[8192] = "";
        const char *const argv[] = {
            "/usr/bin/env", "-i",      cases[i][0], child_program("graphps-worker"),
            "--config",     pipe_path, NULL};
        child_init(&child, "worker", test_path(dir, "log"));
        child_start(&child, argv);
        int job = open(pipe_path, O_WRONLY | O_CLOEXEC);
        snprintf(environ_path, sizeof environ_path, "/proc/%d/environ", (int)child.pid);
        int file = open(environ_path, O_RDONLY | O_CLOEXEC);
        ssize_t len = read(file, environment, sizeof environment - 1);
        size_t found = 0;
        for (char *at = environment; at < environment + len; at += strlen(at) + 1)
            if (strncmp(at, "OMP_", 4) == 0 || strncmp(at, "GOMP_", 5) == 0)
                found += strcmp(at, cases[i][1]) == 0 ? 1 : 100;
        ck_assert_msg(found == 1, "%s: not %s alone", cases[i][0], cases[i][1]);
        close(file);
        close(job); /* an empty job file */
        child_expect(&child, 78, 20000);
    }
}
END_TEST

static void send_rubbish(const char *address) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    to.sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char rubbish[64], answer[64];
    memset(rubbish, 'x', sizeof rubbish);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    ck_assert_int_eq(send(fd, rubbish, sizeof rubbish, MSG_NOSIGNAL), sizeof rubbish);
    while (recv(fd, answer, sizeof answer, 0) > 0)
        ; /* until it hangs up */
    close(fd);
}

/* Who never says hello gets so many lines, and all others one. */
START_TEST(strangers_do_not_fill_the_log) {
    enum { STRANGERS = 60, LINES = 20 };
    const char *dir = test_tmpdir(), *port_file = test_path(dir, "port");
    char job_dir[512];
    snprintf(job_dir, sizeof job_dir, "--set=job.dir=%s", dir);
    const char *const argv[] = {child_program("graphps-server"),
                                "--set=servers.count=1",
                                job_dir,
                                "--shard=0",
                                "--port-file",
                                port_file,
                                NULL};
    struct child shard;
    child_init(&shard, "shard", test_path(dir, "log"));
    child_start(&shard, argv);
    child_wait_file(&shard, port_file, 20000);
    char *address = test_read_file(port_file, NULL);
    for (size_t i = 0; i < STRANGERS; i++)
        send_rubbish(address);
    free(address);
    child_signal(&shard, SIGTERM);
    child_wait(&shard, 20000);
    char *log = child_log(&shard);
    size_t lines = 0;
    for (const char *at = log; (at = strstr(at, "connection lost")); at++)
        lines++;
    ck_assert_msg(lines == LINES, "%zu lines:\n%s", lines, log);
    ck_assert_msg(strstr(log, "more connections without a hello were lost count=40"), "%s", log);
    free(log);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("cli");
    TCase *tests = tcase_create("cli");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, help_and_usage);
    tcase_add_test(tests, every_command_has_help);
    tcase_add_test(tests, check_names_every_fault);
    tcase_add_test(tests, check_is_for_the_whole_job);
    tcase_add_test(tests, faults_begin_with_the_program);
    tcase_add_test(tests, defaults_pass_the_check);
    tcase_add_test(tests, full_disk_is_a_failure);
    tcase_add_test(tests, documentation_is_fresh);
    tcase_add_test(tests, a_copied_build_is_made_anew);
    tcase_add_test(tests, debian_graph_refuses_nothing);
    tcase_add_test(tests, a_worker_yields_when_idle);
    tcase_add_test(tests, strangers_do_not_fill_the_log);
    tcase_add_test(tests, shipped_job_files_pass_the_check);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
