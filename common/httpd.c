/* The watching pages over libmicrohttpd, and the heartbeats that /healthz looks at. Owns the
 * listening socket and the HTTP thread. Knows nothing of what the process does: stats and readiness
 * come through httpd_ops. Answers GET and HEAD, reads no body, keeps 64 connections at most. */
#include "common/httpd.h"

#include <errno.h>
#include <inttypes.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/lock.h"
#include "common/mem.h"
#include "common/metrics.h"

#define CONNECTIONS_MAX 64
#define CONNECTION_TIMEOUT_S 10
#define CONNECTION_MEMORY_BYTES 16384
#define HEARTBEATS_MAX 32
#define HEARTBEAT_AGE_MS 10000

struct httpd {
    struct MHD_Daemon *daemon;
    const char *role;
    int number;
    const struct httpd_ops *ops;
    void *ctx;
    char address[NI_MAXHOST + 16];
};

/* A heartbeat's slot. state says what the other fields mean and is written last. */
enum { SLOT_FREE, SLOT_CLAIMED, SLOT_LIVE };
static struct {
    atomic_int state;
    const char *_Atomic name;
    _Atomic uint64_t beat_ms;
} heartbeats[HEARTBEATS_MAX];

int heartbeat_register(const char *name) {
    for (int i = 0; i < HEARTBEATS_MAX; i++) {
        int expected = SLOT_FREE;
        if (!atomic_compare_exchange_strong(&heartbeats[i].state, &expected, SLOT_CLAIMED))
            continue;
        heartbeats[i].name = name;
        heartbeats[i].beat_ms = time_now_ms();
        heartbeats[i].state = SLOT_LIVE;
        return i;
    }
    fprintf(stderr, "graphps: internal error: more than %d heartbeats\n", HEARTBEATS_MAX);
    abort();
}

void heartbeat_beat(int heartbeat) {
    atomic_store_explicit(&heartbeats[heartbeat].beat_ms, time_now_ms(), memory_order_relaxed);
}

void heartbeat_end(int heartbeat) {
    heartbeats[heartbeat].state = SLOT_FREE;
}

bool heartbeat_healthy(uint64_t now_ms, char *why, size_t why_bytes) {
    for (int i = 0; i < HEARTBEATS_MAX; i++) {
        if (heartbeats[i].state != SLOT_LIVE)
            continue;
        uint64_t beat_ms = heartbeats[i].beat_ms;
        if (now_ms > beat_ms && now_ms - beat_ms > HEARTBEAT_AGE_MS) {
            snprintf(why, why_bytes, "%s has not beaten for %" PRIu64 " s", heartbeats[i].name,
                     (now_ms - beat_ms) / 1000);
            return false;
        }
    }
    return true;
}

struct page {
    unsigned status;
    const char *type;
    char *text; /* malloc'd; MHD frees it */
};

#define TYPE_TEXT "text/plain; charset=utf-8"

static struct page page_of_check(bool good, const char *why) {
    return (struct page){good ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, TYPE_TEXT,
                         mem_printf("%s\n", good ? "ok" : why)};
}

static struct page page_healthz(struct httpd *httpd) {
    char why[256] = "";
    bool good = heartbeat_healthy(time_now_ms(), why, sizeof why);
    return page_of_check(good, why);
}

static struct page page_readyz(struct httpd *httpd) {
    char why[512] = "not ready";
    bool good = httpd->ops->ready(httpd->ctx, why, sizeof why);
    return page_of_check(good, why);
}

static struct page page_metrics(struct httpd *httpd) {
    return (struct page){MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8",
                         metrics_text(httpd->role, httpd->number)};
}

static struct page page_stats(struct httpd *httpd) {
    json_t *stats = httpd->ops->stats(httpd->ctx);
    char *text = NULL;
    if (stats &&
        json_object_set_new(stats, "metrics", metrics_json(httpd->role, httpd->number)) == 0)
        text = json_dumps(stats, JSON_INDENT(2));
    json_decref(stats);
    if (!text)
        return (struct page){MHD_HTTP_INTERNAL_SERVER_ERROR, TYPE_TEXT,
                             mem_strdup("the statistics could not be written as JSON\n")};
    return (struct page){MHD_HTTP_OK, "application/json", text};
}

static struct page page_root(struct httpd *httpd);

static const struct {
    const char *path;
    struct page (*make)(struct httpd *httpd);
    const char *what;
} pages[] = {
    {"/", page_root, "this list"},
    {"/stats", page_stats, "what the process does, as JSON"},
    {"/metrics", page_metrics, "metrics for Prometheus"},
    {"/healthz", page_healthz, "200 while its loops turn, else 503"},
    {"/readyz", page_readyz, "200 when it does its work, else 503"},
};

static char *pages_list(const char *head) {
    char *text = mem_strdup(head);
    for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
        char *longer = mem_printf("%s%-10s %s\n", text, pages[i].path, pages[i].what);
        mem_free(text);
        text = longer;
    }
    return text;
}

static struct page page_root(struct httpd *httpd) {
    char number[16] = "";
    if (httpd->number >= 0)
        snprintf(number, sizeof number, " %d", httpd->number);
    _cleanup_(mem_free_p) char *head =
        mem_printf("graphps %s, %s%s\n\n", GRAPHPS_VERSION, httpd->role, number);
    return (struct page){MHD_HTTP_OK, TYPE_TEXT, pages_list(head)};
}

static enum MHD_Result reply(struct MHD_Connection *connection, struct page page) {
    struct MHD_Response *response =
        MHD_create_response_from_buffer(strlen(page.text), page.text, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        mem_free(page.text);
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, page.type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    if (page.status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    enum MHD_Result r = MHD_queue_response(connection, page.status, response);
    MHD_destroy_response(response);
    return r;
}

/* MHD calls it once with the headers and, unless that call replied, again when the body is due. */
static enum MHD_Result answer(void *ctx, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_bytes, void **request) {
    static char seen;
    struct httpd *httpd = ctx;
    /* At once, so that the body of a POST is never waited for. */
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return reply(connection, (struct page){MHD_HTTP_METHOD_NOT_ALLOWED, TYPE_TEXT,
                                               mem_strdup("only GET and HEAD are answered\n")});
    if (!*request) {
        *request = &seen;
        return MHD_YES;
    }
    if (*upload_bytes > 0) /* a GET with a body: hang up */
        return MHD_NO;
    for (size_t i = 0; i < ARRAY_LEN(pages); i++)
        if (strcmp(url, pages[i].path) == 0)
            return reply(connection, pages[i].make(httpd));
    return reply(connection, (struct page){MHD_HTTP_NOT_FOUND, TYPE_TEXT,
                                           pages_list("no such page; there are:\n\n")});
}

/* A bound socket, or a negative error. */
static int listen_on(const char *host, uint16_t port, struct error *reterr) {
    char service[8];
    snprintf(service, sizeof service, "%u", port);
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found;
    int r = getaddrinfo(host, service, &hints, &found);
    if (r != 0)
        return error_set(reterr, ERR_NOT_FOUND,
                         "http: no address is known for the host '%s' (%s); see http.host", host,
                         gai_strerror(r));

    const char *step = "open a socket for";
    int fd = socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int one = 1;
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        step = "listen on";
        r = bind(fd, found->ai_addr, found->ai_addrlen);
        if (r == 0)
            r = listen(fd, CONNECTIONS_MAX);
    }
    int why = errno;
    freeaddrinfo(found);
    if (fd >= 0 && r == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    if (why == EADDRINUSE)
        return error_set(reterr, ERR_IN_USE,
                         "http: %s:%u is in use by another process; choose another http.port, or 0 "
                         "for a free one",
                         host, port);
    return error_set(reterr, why == EACCES ? ERR_NOT_ALLOWED : ERR_IO, "http: cannot %s %s:%u: %s",
                     step, host, port, strerror(why));
}

static void address_text(int fd, char *to, size_t bytes) {
    struct sockaddr_storage bound = {0};
    socklen_t len = sizeof bound;
    char host[NI_MAXHOST] = "?", service[NI_MAXSERV] = "?";
    getsockname(fd, (struct sockaddr *)&bound, &len);
    getnameinfo((struct sockaddr *)&bound, len, host, sizeof host, service, sizeof service,
                NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(to, bytes, bound.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, service);
}

int httpd_start(const char *host, uint16_t port, const char *role, int number,
                const struct httpd_ops *ops, void *ctx, struct httpd **ret, struct error *reterr) {
    int fd = listen_on(host, port, reterr);
    if (fd < 0)
        return fd;

    struct httpd *httpd = mem_alloc(sizeof *httpd);
    httpd->role = role;
    httpd->number = number;
    httpd->ops = ops;
    httpd->ctx = ctx;
    address_text(fd, httpd->address, sizeof httpd->address);
    /* An own thread: the pages answer when the process's loops do not. The daemon takes the socket.
     */
    httpd->daemon = MHD_start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL, 0, NULL, NULL, answer, httpd,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)CONNECTION_TIMEOUT_S,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY_BYTES, MHD_OPTION_END);
    if (!httpd->daemon) {
        int r = error_set(reterr, ERR_IO, "http: the server on %s could not be started: %s",
                          httpd->address, strerror(errno));
        mem_free(httpd);
        return r;
    }
    *ret = httpd;
    return 0;
}

const char *httpd_address(const struct httpd *httpd) {
    return httpd->address;
}

static bool is_any(const struct sockaddr_storage *address) {
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
    return address->ss_family == AF_INET6 ? IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr)
                                          : v4->sin_addr.s_addr == htonl(INADDR_ANY);
}

/* The address of this machine that the system would send from; a datagram socket learns it without
 * sending anything. False: there is none. */
static bool local_host_towards(const char *towards, char *to, size_t bytes) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_DGRAM}, *found;
    struct sockaddr_storage local = {0};
    socklen_t len = sizeof local;
    if (getaddrinfo(towards, "9", &hints, &found) != 0) /* any port will do */
        return false;
    int fd = socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC, 0);
    bool known = fd >= 0 && !is_any((const struct sockaddr_storage *)found->ai_addr) &&
                 connect(fd, found->ai_addr, found->ai_addrlen) == 0 &&
                 getsockname(fd, (struct sockaddr *)&local, &len) == 0 &&
                 getnameinfo((struct sockaddr *)&local, len, to, (socklen_t)bytes, NULL, 0,
                             NI_NUMERICHOST) == 0;
    if (fd >= 0)
        close(fd);
    freeaddrinfo(found);
    return known;
}

void httpd_advertise(struct httpd *httpd, const char *towards) {
    char host[NI_MAXHOST];
    const char *port = strrchr(httpd->address, ':') + 1;
    if (strncmp(httpd->address, "0.0.0.0:", 8) != 0 && strncmp(httpd->address, "[::]:", 5) != 0)
        return;
    if (!(towards && local_host_towards(towards, host, sizeof host)) &&
        gethostname(host, sizeof host) != 0)
        return;
    host[sizeof host - 1] = 0;
    _cleanup_(mem_free_p) char *address =
        mem_printf(strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
    snprintf(httpd->address, sizeof httpd->address, "%s", address);
}

struct httpd *httpd_stop(struct httpd *httpd) {
    if (httpd) {
        MHD_stop_daemon(httpd->daemon);
        mem_free(httpd);
    }
    return NULL;
}
