/* The processes of one job for a test, through the command line that people use. */
#include "tests/cluster.h"

#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/test.h"

enum { PROCESSES_MAX = 32, SETS_MAX = 32, ADDRESS_BYTES = 64, ARGUMENTS_MAX = 2 * SETS_MAX + 24 };

struct member {
    struct child child;
    char port_file[512], http_port_file[512];
    char address[ADDRESS_BYTES];      /* shards: "" until it listened once or is reserved */
    int reserved;                     /* a socket bound to it, -1: none */
    char http_address[ADDRESS_BYTES]; /* of the present life, "" until asked for */
};

struct cluster {
    const char *dir;
    char job_path[512];
    int counts[2]; /* by role */
    struct member members[2][PROCESSES_MAX];
    char *sets[SETS_MAX];
    int set_count;
    const char *number_from; /* an environment variable, NULL: the command line */
};

static struct member *member_of(struct cluster *cluster, enum cluster_role role, int number) {
    ck_assert_int_ge(number, 0);
    ck_assert_int_lt(number, cluster->counts[role]);
    return &cluster->members[role][number];
}

struct cluster *cluster_new(int shards, int workers) {
    static const char *const role_names[] = {"shard", "worker"};
    ck_assert_int_le(shards, PROCESSES_MAX);
    ck_assert_int_le(workers, PROCESSES_MAX);
    struct cluster *cluster = calloc(1, sizeof *cluster);
    ck_assert_ptr_nonnull(cluster);
    cluster->dir = test_tmpdir();
    snprintf(cluster->job_path, sizeof cluster->job_path, "%s/job.yaml", cluster->dir);
    cluster->counts[CLUSTER_SHARD] = shards;
    cluster->counts[CLUSTER_WORKER] = workers;

    for (int role = 0; role < 2; role++)
        for (int i = 0; i < cluster->counts[role]; i++) {
            struct member *member = &cluster->members[role][i];
            char name[32], log_path[512];
            snprintf(name, sizeof name, "%s-%d", role_names[role], i);
            snprintf(log_path, sizeof log_path, "%s/%s.log", cluster->dir, name);
            snprintf(member->port_file, sizeof member->port_file, "%s/%s.port", cluster->dir, name);
            snprintf(member->http_port_file, sizeof member->http_port_file, "%s/%s.http",
                     cluster->dir, name);
            child_init(&member->child, name, log_path);
            member->reserved = -1;
        }
    return cluster;
}

struct cluster *cluster_free(struct cluster *cluster) {
    if (!cluster)
        return NULL;
    for (int role = 0; role < 2; role++)
        for (int i = 0; i < cluster->counts[role]; i++) {
            struct member *member = &cluster->members[role][i];
            child_stop(&member->child);
            if (member->reserved >= 0)
                close(member->reserved);
        }
    for (int i = 0; i < cluster->set_count; i++)
        free(cluster->sets[i]);
    free(cluster);
    return NULL;
}

const char *cluster_dir(const struct cluster *cluster) {
    return cluster->dir;
}

const char *cluster_job_path(const struct cluster *cluster) {
    return cluster->job_path;
}

void cluster_write_job(struct cluster *cluster, const char *format, ...) {
    char *text;
    va_list args;
    va_start(args, format);
    int len = vasprintf(&text, format, args);
    va_end(args);
    ck_assert_int_ge(len, 0);
    test_write_file(cluster->job_path, text, (size_t)len);
    free(text);
}

void cluster_set(struct cluster *cluster, const char *assignment) {
    ck_assert_int_lt(cluster->set_count, SETS_MAX);
    cluster->sets[cluster->set_count++] = strdup(assignment);
}

/* A bound socket that does not listen keeps the port from everybody but those who also say
 * SO_REUSEADDR and name it, as a listening shard does. */
void cluster_reserve(struct cluster *cluster) {
    for (int i = 0; i < cluster->counts[CLUSTER_SHARD]; i++) {
        struct member *member = &cluster->members[CLUSTER_SHARD][i];
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof at;
        int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ck_assert_msg(fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0 &&
                          bind(fd, (struct sockaddr *)&at, len) == 0 &&
                          getsockname(fd, (struct sockaddr *)&at, &len) == 0,
                      "cannot reserve a port: %s", strerror(errno));
        member->reserved = fd;
        snprintf(member->address, ADDRESS_BYTES, "127.0.0.1:%d", ntohs(at.sin_port));
    }
}

void cluster_number_from(struct cluster *cluster, const char *variable) {
    cluster->number_from = variable;
}

/* "servers.addresses=..." with a free port where a shard has not been up yet. */
static void print_addresses(const struct cluster *cluster, char *text, size_t bytes) {
    size_t used = (size_t)snprintf(text, bytes, "servers.addresses=");
    for (int i = 0; i < cluster->counts[CLUSTER_SHARD]; i++) {
        const char *address = cluster->members[CLUSTER_SHARD][i].address;
        used += (size_t)snprintf(text + used, bytes - used, "%s%s", i ? "," : "",
                                 address[0] ? address : "127.0.0.1:0");
        ck_assert_uint_lt(used, bytes);
    }
}

/* The one line of a port file. */
static void read_port_file(const char *path, char address[ADDRESS_BYTES]) {
    char *text = test_read_file(path, NULL);
    text[strcspn(text, "\n")] = 0;
    const char *colon = strrchr(text, ':');
    ck_assert_msg(colon && atoi(colon + 1) > 0 && strlen(text) < ADDRESS_BYTES,
                  "%s holds no host:port but \"%s\"", path, text);
    snprintf(address, ADDRESS_BYTES, "%.*s", ADDRESS_BYTES - 1, text);
    free(text);
}

void cluster_start_one(struct cluster *cluster, enum cluster_role role, int number) {
    struct member *member = member_of(cluster, role, number);
    bool shard = role == CLUSTER_SHARD;
    bool shard_0_known = cluster->members[CLUSTER_SHARD][0].address[0] != 0;
    ck_assert_msg(shard_0_known || (shard && number == 0), "shard 0 has to be started first");

    char number_text[16], shards[48], workers[48], listen_on[128];
    char addresses[PROCESSES_MAX * ADDRESS_BYTES];
    snprintf(number_text, sizeof number_text, "%d", number);
    snprintf(shards, sizeof shards, "servers.count=%d", cluster->counts[CLUSTER_SHARD]);
    snprintf(workers, sizeof workers, "workers.count=%d", cluster->counts[CLUSTER_WORKER]);
    snprintf(listen_on, sizeof listen_on, "servers.listen=%s",
             member->address[0] ? member->address : "127.0.0.1:0");
    print_addresses(cluster, addresses, sizeof addresses);

    const char *argv[ARGUMENTS_MAX];
    int argc = 0;
    argv[argc++] = child_program(shard ? "graphps-server" : "graphps-worker");
    argv[argc++] = "--config";
    argv[argc++] = cluster->job_path;
    if (!cluster->number_from) {
        argv[argc++] = shard ? "--shard" : "--rank";
        argv[argc++] = number_text;
    }
    argv[argc++] = "--http-port-file";
    argv[argc++] = member->http_port_file;
    if (shard) {
        argv[argc++] = "--port-file";
        argv[argc++] = member->port_file;
    }
    const char *sets[] = {shards, workers, shard ? listen_on : NULL,
                          shard_0_known ? addresses : NULL};
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++)
        if (sets[i]) {
            argv[argc++] = "--set";
            argv[argc++] = sets[i];
        }
    for (int i = 0; i < cluster->set_count; i++) {
        argv[argc++] = "--set";
        argv[argc++] = cluster->sets[i];
    }
    argv[argc] = NULL;
    ck_assert_int_lt(argc, ARGUMENTS_MAX);

    unlink(member->port_file);
    unlink(member->http_port_file);
    member->http_address[0] = 0;
    if (cluster->number_from)
        setenv(cluster->number_from, number_text, 1);
    child_start(&member->child, argv);
    if (cluster->number_from)
        unsetenv(cluster->number_from);
    if (shard) {
        child_wait_file(&member->child, member->port_file, CLUSTER_TIMEOUT_MS);
        char was[ADDRESS_BYTES];
        memcpy(was, member->address, sizeof was);
        read_port_file(member->port_file, member->address);
        ck_assert_msg(!was[0] || strcmp(was, member->address) == 0,
                      "%s was on %s and came back on %s", member->child.name, was, member->address);
    }
}

void cluster_start(struct cluster *cluster) {
    for (int role = 0; role < 2; role++)
        for (int i = 0; i < cluster->counts[role]; i++)
            cluster_start_one(cluster, role, i);
}

int cluster_count(const struct cluster *cluster, enum cluster_role role) {
    return cluster->counts[role];
}

struct child *cluster_child(struct cluster *cluster, enum cluster_role role, int number) {
    return &member_of(cluster, role, number)->child;
}

void cluster_signal(struct cluster *cluster, enum cluster_role role, int number,
                    int signal_number) {
    child_signal(cluster_child(cluster, role, number), signal_number);
}

void cluster_kill(struct cluster *cluster, enum cluster_role role, int number) {
    cluster_signal(cluster, role, number, SIGKILL);
    cluster_wait(cluster, role, number, CLUSTER_TIMEOUT_MS);
}

int cluster_wait(struct cluster *cluster, enum cluster_role role, int number, int timeout_ms) {
    return child_wait(cluster_child(cluster, role, number), timeout_ms);
}

void cluster_wait_log(struct cluster *cluster, enum cluster_role role, int number, const char *text,
                      int timeout_ms) {
    child_wait_log(cluster_child(cluster, role, number), text, timeout_ms);
}

const char *cluster_address(struct cluster *cluster, int shard) {
    struct member *member = member_of(cluster, CLUSTER_SHARD, shard);
    ck_assert_msg(member->address[0], "%s has not been started", member->child.name);
    return member->address;
}

const char *cluster_http_address(struct cluster *cluster, enum cluster_role role, int number) {
    struct member *member = member_of(cluster, role, number);
    if (!member->http_address[0]) {
        child_wait_file(&member->child, member->http_port_file, CLUSTER_TIMEOUT_MS);
        read_port_file(member->http_port_file, member->http_address);
    }
    return member->http_address;
}

static int connect_to(const char *address) {
    char host[ADDRESS_BYTES];
    const char *colon = strrchr(address, ':');
    ck_assert_ptr_nonnull(colon);
    snprintf(host, sizeof host, "%.*s", (int)(colon - address), address);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1))};
    ck_assert_msg(inet_pton(AF_INET, host, &to.sin_addr) == 1, "no IPv4 address: %s", address);

    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(fd, 0);
    struct timeval limit = {.tv_sec = CLUSTER_TIMEOUT_MS / 1000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    ck_assert_msg(connect(fd, (struct sockaddr *)&to, sizeof to) == 0, "cannot connect to %s: %s",
                  address, strerror(errno));
    return fd;
}

char *cluster_get(const char *address, const char *path, int *ret_status) {
    int fd = connect_to(address);
    char request[512];
    int request_len =
        snprintf(request, sizeof request,
                 "GET %s HTTP/1.0\r\nHost: %s\r\nConnection: close\r\n\r\n", path, address);
    ck_assert_int_eq(send(fd, request, (size_t)request_len, MSG_NOSIGNAL), request_len);

    size_t len = 0, cap = 65536;
    char *answer = malloc(cap + 1);
    ssize_t n;
    while ((n = recv(fd, answer + len, cap - len, 0)) > 0) {
        len += (size_t)n;
        if (len == cap)
            answer = realloc(answer, (cap *= 2) + 1);
    }
    close(fd);
    ck_assert_msg(n == 0, "%s%s: %s", address, path, strerror(errno));
    answer[len] = 0;

    char *body = strstr(answer, "\r\n\r\n");
    ck_assert_msg(body && sscanf(answer, "HTTP/%*s %d", ret_status) == 1, "%s%s answered: %s",
                  address, path, answer);
    body += 4;
    memmove(answer, body, strlen(body) + 1);
    return answer;
}

json_t *cluster_stats(struct cluster *cluster, enum cluster_role role, int number) {
    int status;
    char *body = cluster_get(cluster_http_address(cluster, role, number), "/stats", &status);
    ck_assert_int_eq(status, 200);
    json_error_t err;
    json_t *stats = json_loads(body, 0, &err);
    ck_assert_msg(stats, "/stats is not JSON: %s\n%s", err.text, body);
    free(body);
    return stats;
}
