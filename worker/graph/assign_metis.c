/* METIS, what it needs before and the process it works in. */
#include "worker/graph/assign_metis.h"

#include <errno.h>
#include <fcntl.h>
#include <metis.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/mem.h"
#include "worker/graph/csr.h"

/* With fewer nodes a part METIS cuts off empty parts. */
#define METIS_NODES_MIN 8
/* A part may be above the mean by so many thousandths. */
#define METIS_UFACTOR 30
/* The peak of its process on graphs of 1 and 10 million nodes: 45 an entry on power laws, 67 on a
 * stochastic block model, whose nodes merge later. */
#define METIS_NODE_BYTES 150
#define METIS_ENTRY_BYTES 67
#define TELL_MS 200

_Static_assert(sizeof(idx_t) == sizeof(int32_t), "METIS is built with 32-bit indices");

/* How the child ends. */
enum { CHILD_DONE, CHILD_NO_MEMORY, CHILD_FAILED };

uint64_t assign_metis_entries(const struct snapshot *s) {
    return s->undirected ? s->edges : 2 * s->edges;
}

uint64_t assign_metis_bytes(const struct snapshot *s) {
    return METIS_NODE_BYTES * s->nodes + METIS_ENTRY_BYTES * assign_metis_entries(s);
}

/* METIS wants every edge from both of its ends, once, and none from a node to itself. A row of the
 * result is the union of the ascending rows of in-edges and out-edges. */
static void symmetrize(const struct snapshot *s, idx_t **ret_xadj, idx_t **ret_adjncy) {
    const int64_t *indptr = s->indptr.data, *t_indptr = indptr;
    const int32_t *indices = s->indices.data, *t_indices = indices;
    idx_t *xadj = mem_array(s->nodes + 1, sizeof *xadj);
    idx_t *adjncy = mem_array(assign_metis_entries(s), sizeof *adjncy);
    int64_t *made_indptr = NULL;
    int32_t *made_indices = NULL;
    if (!s->undirected) {
        t_indptr = made_indptr = mem_array(s->nodes + 1, sizeof *made_indptr);
        t_indices = made_indices = mem_array(s->edges, sizeof *made_indices);
        csr_transpose(indptr, indices, s->nodes, made_indptr, made_indices);
    }
    idx_t out = 0;
    for (uint64_t i = 0; i < s->nodes; i++) {
        int64_t a = indptr[i], b = s->undirected ? indptr[i + 1] : t_indptr[i];
        while (a < indptr[i + 1] || b < t_indptr[i + 1]) {
            int32_t from_a = a < indptr[i + 1] ? indices[a] : INT32_MAX;
            int32_t from_b = b < t_indptr[i + 1] ? t_indices[b] : INT32_MAX;
            int32_t next = from_a < from_b ? from_a : from_b;
            if ((uint64_t)next != i && (out == xadj[i] || adjncy[out - 1] != next))
                adjncy[out++] = next;
            a += from_a <= from_b;
            b += from_b <= from_a;
        }
        xadj[i + 1] = out;
    }
    mem_free(made_indptr);
    mem_free(made_indices);
    *ret_xadj = xadj;
    *ret_adjncy = adjncy;
}

/* Parts of a few nodes: equal pieces of a walk, breadth first, so that neighbours are near. */
static void cut_walk(uint64_t nodes, const idx_t *xadj, const idx_t *adjncy, uint32_t parts,
                     int32_t *owner) {
    _cleanup_(mem_free_p) int32_t *walk = mem_array(nodes, sizeof *walk);
    _cleanup_(mem_free_p) bool *seen = mem_array(nodes, sizeof *seen);
    uint64_t count = 0;
    for (uint64_t start = 0, at = 0; start < nodes; start++) {
        if (!seen[start])
            walk[count++] = (int32_t)start;
        seen[start] = true;
        for (; at < count; at++)
            for (idx_t e = xadj[walk[at]]; e < xadj[walk[at] + 1]; e++)
                if (!seen[adjncy[e]]) {
                    seen[adjncy[e]] = true;
                    walk[count++] = adjncy[e];
                }
    }
    for (uint64_t i = 0; i < nodes; i++)
        owner[walk[i]] = (int32_t)(i * parts / nodes);
}

/* What the child does. */
static int cut(const struct balance *balance, uint64_t seed, int32_t *owner) {
    const struct snapshot *s = balance->snapshot;
    idx_t *xadj, *adjncy, *weights = NULL;
    symmetrize(s, &xadj, &adjncy);
    if (s->nodes / balance->parts < METIS_NODES_MIN) {
        cut_walk(s->nodes, xadj, adjncy, balance->parts, owner);
        return CHILD_DONE;
    }
    /* A weight that is 0 everywhere cannot be balanced. */
    idx_t constraints = 0;
    int kinds[BALANCE_KINDS];
    for (int c = 0; c < BALANCE_KINDS; c++)
        if (balance->total[c])
            kinds[constraints++] = c;
    weights = mem_array(s->nodes * (size_t)constraints, sizeof *weights);
    for (uint64_t i = 0; i < s->nodes; i++) {
        uint64_t all[BALANCE_KINDS];
        balance_weigh(balance, i, all);
        for (idx_t c = 0; c < constraints; c++)
            weights[i * (uint64_t)constraints + (uint64_t)c] = (idx_t)all[kinds[c]];
    }
    idx_t options[METIS_NOPTIONS];
    METIS_SetDefaultOptions(options);
    options[METIS_OPTION_SEED] = (idx_t)(seed & INT32_MAX);
    options[METIS_OPTION_NUMBERING] = 0;
    options[METIS_OPTION_UFACTOR] = METIS_UFACTOR;
    idx_t count = (idx_t)s->nodes, k = (idx_t)balance->parts, objective = 0;
    int r = METIS_PartGraphKway(&count, &constraints, xadj, adjncy, weights, NULL, NULL, &k, NULL,
                                NULL, options, &objective, owner);
    return r == METIS_OK ? CHILD_DONE : r == METIS_ERROR_MEMORY ? CHILD_NO_MEMORY : CHILD_FAILED;
}

static void child(const struct balance *balance, uint64_t seed, pid_t parent, int32_t *owner) {
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    /* It is nothing without its parent, also when that dies of SIGKILL. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(CHILD_FAILED);
    for (size_t i = 0; i < ARRAY_LEN(signals); i++)
        signal(signals[i], SIG_DFL);
    /* METIS speaks on standard output when a graph is odd. */
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (null >= 0)
        dup2(null, STDOUT_FILENO);
    _exit(cut(balance, seed, owner));
}

static int child_failed(const struct snapshot *s, int status, struct error *reterr) {
    if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL)
        return error_set(reterr, ERR_INTERNAL,
                         "METIS, cutting %s@%s, was ended by signal %d (%s); try --method fennel",
                         s->name, s->version, WTERMSIG(status), strsignal(WTERMSIG(status)));
    if (WIFSIGNALED(status) || WEXITSTATUS(status) != CHILD_FAILED)
        return error_set(reterr, ERR_NO_MEMORY,
                         "METIS ran out of memory cutting %s@%s (it needs about %.1f GB); try "
                         "--method fennel",
                         s->name, s->version, (double)assign_metis_bytes(s) * 1e-9);
    return error_set(reterr, ERR_INTERNAL, "METIS could not cut %s@%s; try --method fennel",
                     s->name, s->version);
}

/* Until the child ends: then the last writing end of the pipe is closed. */
static int child_await(pid_t pid, int fd, const struct snapshot *s, const struct watch *watch,
                       struct error *reterr) {
    int r, status = 0, ended = 0;
    do {
        struct pollfd poll_fd = {.fd = fd};
        ended = poll(&poll_fd, 1, TELL_MS);
        r = watch_step(watch, "METIS is cutting", NULL, 0, 0, reterr);
    } while (r == 0 && ended <= 0);
    if (r < 0)
        kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (r == 0)
        r = watch_step(watch, "METIS is cutting", NULL, 0, 0, reterr);
    return r < 0 || status == 0 ? r : child_failed(s, status, reterr);
}

int assign_metis(const struct balance *balance, uint64_t seed, const struct watch *watch,
                 int32_t *owner, struct error *reterr) {
    const struct snapshot *s = balance->snapshot;
    for (uint64_t i = 0; i < s->nodes; i++)
        owner[i] = (int32_t)(i * balance->parts / s->nodes);
    if (s->edges == 0)
        return 0;
    if (assign_metis_entries(s) > INT32_MAX)
        return error_set(reterr, ERR_RANGE,
                         "%s@%s has %llu edges; METIS counts in 32 bits and takes at most 2^31 - 1 "
                         "(an edge without its inverse counts twice): use --method fennel",
                         s->name, s->version, (unsigned long long)s->edges);
    size_t bytes = s->nodes * sizeof *owner;
    int32_t *shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int fds[2], r;
    if (shared == MAP_FAILED)
        return error_set(reterr, ERR_NO_MEMORY, "no memory for %zu bytes: %m", bytes);
    if (pipe2(fds, O_CLOEXEC) < 0) {
        r = error_set(reterr, ERR_IO, "no pipe to METIS: %m");
        munmap(shared, bytes);
        return r;
    }
    fflush(NULL);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        child(balance, seed, parent, shared);
    close(fds[1]);
    if (pid < 0)
        r = error_set(reterr, ERR_NO_MEMORY, "no process for METIS: %m");
    else
        r = child_await(pid, fds[0], s, watch, reterr);
    close(fds[0]);
    if (r == 0)
        memcpy(owner, shared, bytes);
    munmap(shared, bytes);
    for (uint64_t i = 0; r == 0 && i < s->nodes; i++)
        if (owner[i] < 0 || (uint32_t)owner[i] >= balance->parts)
            r = error_set(reterr, ERR_INTERNAL, "METIS put a node into part %d", owner[i]);
    return r;
}
