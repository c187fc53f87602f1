/* Starting, watching and ending one child process. Knows nothing of shards and workers. */
#include "tests/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/test.h"

/* Events may be missing where a file system does not tell of changes; then this is the rhythm. */
enum { LOOK_AGAIN_MS = 500, TAIL_BYTES = 3000 };

static long long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

__attribute__((noreturn, format(printf, 2, 3))) static void child_fail(const struct child *child,
                                                                       const char *format, ...) {
    char what[512];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    char *log = child_log(child);
    size_t len = strlen(log);
    fprintf(stderr, "--- the end of %s\n%s\n---\n", child->log_path,
            log + (len > TAIL_BYTES ? len - TAIL_BYTES : 0));
    free(log);
    ck_abort_msg("%s: %s", child->name, what);
}

void child_init(struct child *child, const char *name, const char *log_path) {
    *child = (struct child){.pidfd = -1};
    snprintf(child->name, sizeof child->name, "%s", name);
    snprintf(child->log_path, sizeof child->log_path, "%s", log_path);
}

void child_start(struct child *child, const char *const *argv) {
    ck_assert_msg(child->pid == 0, "%s runs already", child->name);
    int log = open(child->log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    ck_assert_msg(log >= 0, "cannot write %s: %s", child->log_path, strerror(errno));
    child->log_start = (size_t)lseek(log, 0, SEEK_END);

    pid_t parent = getpid(), pid = fork();
    ck_assert_msg(pid >= 0, "fork: %s", strerror(errno));
    if (pid == 0) {
        int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
        /* The parent may have died before the request to die with it was made. */
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent || null < 0 ||
            dup2(null, STDIN_FILENO) < 0 || dup2(log, STDOUT_FILENO) < 0 ||
            dup2(log, STDERR_FILENO) < 0)
            _exit(127);
        execv(argv[0], (char *const *)argv);
        dprintf(STDERR_FILENO, "cannot run %s: %s\n", argv[0], strerror(errno));
        _exit(127);
    }
    close(log);
    child->pid = pid;
    child->pidfd = pidfd_open(pid, 0);
    ck_assert_msg(child->pidfd >= 0, "pidfd_open: %s", strerror(errno));
}

void child_signal(struct child *child, int signal_number) {
    if (child->pid == 0)
        child_fail(child, "does not run, so signal %d cannot be sent", signal_number);
    ck_assert_int_eq(kill(child->pid, signal_number), 0);
}

/* Notes its end when it has ended. */
static void child_reap(struct child *child, int options) {
    int status;
    if (child->pid == 0 || waitpid(child->pid, &status, options) != child->pid)
        return;
    child->code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    child->pid = 0;
    close(child->pidfd);
    child->pidfd = -1;
}

/* Sleeps until the child ends, something changes in the watched directory, or the deadline. */
static void await_change(const struct child *child, int inotify, long long deadline_ms) {
    struct pollfd fds[2] = {{.fd = child->pidfd, .events = POLLIN},
                            {.fd = inotify, .events = POLLIN}};
    long long left = deadline_ms - now_ms();
    if (inotify >= 0 && left > LOOK_AGAIN_MS)
        left = LOOK_AGAIN_MS;
    if (left > 0 && poll(fds, 2, (int)left) > 0 && fds[1].revents & POLLIN) {
        char events[4096];
        if (read(inotify, events, sizeof events) < 0 && errno != EAGAIN)
            ck_abort_msg("inotify: %s", strerror(errno));
    }
}

int child_wait(struct child *child, int timeout_ms) {
    long long deadline = now_ms() + timeout_ms;
    for (;;) {
        child_reap(child, WNOHANG);
        if (child->pid == 0)
            return child->code;
        if (now_ms() >= deadline)
            child_fail(child, "still runs after %d ms", timeout_ms);
        await_change(child, -1, deadline);
    }
}

void child_expect(struct child *child, int code, int timeout_ms) {
    child_wait(child, timeout_ms);
    if (child->code != code)
        child_fail(child, "ended with code %d instead of %d", child->code, code);
}

static bool log_has(const struct child *child, const char *text) {
    char *log = child_log(child);
    bool found = strstr(log, text) != NULL;
    free(log);
    return found;
}

static bool file_there(const struct child *child, const char *path) {
    return access(path, F_OK) == 0;
}

static void wait_for(struct child *child, bool (*holds)(const struct child *, const char *),
                     const char *what, const char *subject, int timeout_ms) {
    /* Watched before the first look, so that no change falls between the two. */
    int inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    char dir[512];
    snprintf(dir, sizeof dir, "%.*s", (int)(strrchr(child->log_path, '/') - child->log_path),
             child->log_path);
    ck_assert_msg(inotify >= 0 &&
                      inotify_add_watch(inotify, dir, IN_MODIFY | IN_CREATE | IN_MOVED_TO) >= 0,
                  "cannot watch %s: %s", dir, strerror(errno));

    long long deadline = now_ms() + timeout_ms;
    for (;;) {
        child_reap(child, WNOHANG);
        /* Looked at after the end was noted: what it did last counts. */
        if (holds(child, subject))
            break;
        if (child->pid == 0)
            child_fail(child, "ended with code %d before %s \"%s\"", child->code, what, subject);
        if (now_ms() >= deadline)
            child_fail(child, "no %s \"%s\" after %d ms", what, subject, timeout_ms);
        await_change(child, inotify, deadline);
    }
    close(inotify);
}

void child_wait_log(struct child *child, const char *text, int timeout_ms) {
    wait_for(child, log_has, "line with", text, timeout_ms);
}

void child_wait_file(struct child *child, const char *path, int timeout_ms) {
    wait_for(child, file_there, "file", path, timeout_ms);
}

char *child_log(const struct child *child) {
    if (access(child->log_path, R_OK) != 0)
        return strdup("");
    size_t len;
    char *text = test_read_file(child->log_path, &len);
    size_t start = child->log_start < len ? child->log_start : len;
    memmove(text, text + start, len - start + 1);
    return text;
}

void child_stop(struct child *child) {
    if (child->pid == 0)
        return;
    kill(child->pid, SIGKILL);
    child_reap(child, 0);
}

void child_stop_family(struct child *child, int timeout_ms) {
    enum { FAMILY_MAX = 16 };
    char path[64], pids[256] = "";
    struct pollfd family[FAMILY_MAX];
    size_t count = 0;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", child->pid, child->pid);
    FILE *file = fopen(path, "re");
    ck_assert_msg(file != NULL, "cannot read %s: %s", path, strerror(errno));
    if (!fgets(pids, sizeof pids, file))
        pids[0] = 0;
    fclose(file);
    for (char *pid = strtok(pids, " "); pid; pid = strtok(NULL, " ")) {
        ck_assert_uint_lt(count, FAMILY_MAX);
        family[count] = (struct pollfd){.fd = pidfd_open((pid_t)atoi(pid), 0), .events = POLLIN};
        count += family[count].fd >= 0; /* else it has ended */
    }
    child_stop(child);
    for (size_t i = 0; i < count; i++) {
        ck_assert_msg(poll(&family[i], 1, timeout_ms) == 1, "a child of %s outlives it by %d ms",
                      child->name, timeout_ms);
        close(family[i].fd);
    }
}

const char *child_program(const char *name) {
    static char paths[8][600];
    static int next;
    static const char *const folders[] = {"", "cli/", "server/", "worker/", "tests/"};
    const char *bin = getenv("GRAPHPS_BIN");
    ck_assert_msg(bin && *bin, "GRAPHPS_BIN is not set (meson test sets it)");

    char *path = paths[next++ % 8];
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        struct stat st;
        snprintf(path, sizeof paths[0], "%s/%s%s", bin, folders[i], name);
        if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0)
            return path;
    }
    ck_abort_msg("no program %s below %s", name, bin);
}

int child_run(const char *const *argv, int timeout_ms, char **ret_output) {
    static int runs;
    char name[16];
    snprintf(name, sizeof name, "run-%d.log", runs++);
    static const char *dir; /* one for all runs of this process */
    static pid_t dir_owner;
    if (!dir || dir_owner != getpid()) {
        dir = test_tmpdir();
        dir_owner = getpid();
    }

    struct child child;
    const char *slash = strrchr(argv[0], '/');
    child_init(&child, slash ? slash + 1 : argv[0], test_path(dir, name));
    child_start(&child, argv);
    int code = child_wait(&child, timeout_ms);
    if (ret_output)
        *ret_output = child_log(&child);
    return code;
}
