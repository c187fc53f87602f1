/* Children of the launcher: fork, exec, reap. Policy (who is restarted, when to stop) is
 * cmd_train.c's. */
#include "cli/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/lock.h"
#include "common/mem.h"
#include "common/metrics.h"

#define COPY_SLACK_BYTES (256u << 10)
#define TAIL_BYTES 16384 /* of a log, from which its last lines are taken */

void process_init(struct process *process, const char *name, char *log_path, char **argv) {
    *process = (struct process){.log_path = log_path, .argv = argv};
    snprintf(process->name, sizeof process->name, "%s", name);
}

void process_done(struct process *process) {
    for (char **arg = process->argv; arg && *arg; arg++)
        mem_free(*arg);
    mem_free(process->argv);
    mem_free(process->log_path);
    *process = (struct process){0};
}

int process_start(struct process *process, struct error *reterr) {
    _Static_assert(sizeof(pid_t) == sizeof(int), "pid_t is an int");

    int log = open(process->log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (log < 0)
        return error_set(reterr, ERR_IO, "%s: %s", process->log_path, strerror(errno));
    if (process->started_ms == 0)
        process->log_start = lseek(log, 0, SEEK_END);
    /* A signal for the child that came before exec would end in our handler, and be lost. */
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    pid_t launcher = getpid();
    process->launcher_bytes = process_rss_bytes();
    process->seen_bytes = 0;
    pid_t pid = fork();
    if (pid != 0)
        sigprocmask(SIG_SETMASK, &before, NULL);
    if (pid < 0) {
        int why = errno;
        close(log);
        return error_set(reterr, ERR_IO, "cannot start %s: %s", process->name, strerror(why));
    }
    if (pid == 0) {
        /* Its own process group: a Ctrl-C on the terminal reaches the launcher alone, which then
         * ends the children in the right order. */
        setpgid(0, 0);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != launcher)
            _exit(75); /* the launcher died before the kernel knew about our wish */
        int null = open("/dev/null", O_RDONLY);
        dup2(null, STDIN_FILENO);
        dup2(log, STDOUT_FILENO);
        dup2(log, STDERR_FILENO);
        signal(SIGINT, SIG_DFL);
        signal(SIGTERM, SIG_DFL);
        signal(SIGHUP, SIG_DFL);
        signal(SIGPIPE, SIG_DFL);
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        execv(process->argv[0], process->argv);
        fprintf(stderr, "cannot run %s: %s\n", process->argv[0], strerror(errno));
        _exit(78);
    }
    close(log);
    process->pid = pid;
    process->started_ms = time_now_ms();
    process->hung = false;
    process->exited = false;
    process->restart_at_ms = 0;
    return 0;
}

/* Of a process that runs; 0 when it does not say. */
static uint64_t peak_so_far(pid_t pid) {
    char path[32], line[256];
    unsigned long long kb = 0;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file) && sscanf(line, "VmHWM: %llu", &kb) != 1)
        ;
    if (file)
        fclose(file);
    return (uint64_t)kb * 1024;
}

/* What wait4 says begins before exec, with a copy of the launcher: where it says no more than that,
 * what was seen last counts. */
static uint64_t peak_at_end(const struct process *process, const struct rusage *usage) {
    uint64_t peak = (uint64_t)usage->ru_maxrss * 1024;
    bool copied = peak <= process->launcher_bytes + COPY_SLACK_BYTES;
    return copied && process->seen_bytes > 0 ? process->seen_bytes : peak;
}

bool process_reap(struct process *process) {
    if (process->pid == 0)
        return false;
    int status;
    struct rusage usage;
    uint64_t seen = peak_so_far(process->pid);
    if (seen > 0)
        process->seen_bytes = seen;
    pid_t pid = wait4(process->pid, &status, WNOHANG, &usage);
    if (pid != process->pid)
        return false;
    process->pid = 0;
    process->exited = true;
    process->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    process->killed_by = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    uint64_t peak = peak_at_end(process, &usage);
    if (peak > process->peak_bytes)
        process->peak_bytes = peak;
    return true;
}

void process_signal(struct process *process, int signal_number) {
    if (process->pid > 0)
        kill(process->pid, signal_number);
}

const char *process_ending(const struct process *process, char *buf, size_t buf_bytes) {
    if (process->hung)
        snprintf(buf, buf_bytes, "did not answer and was killed");
    else if (process->killed_by)
        snprintf(buf, buf_bytes, "was killed by signal %d (%s)", process->killed_by,
                 strsignal(process->killed_by));
    else
        snprintf(buf, buf_bytes, "ended with exit code %d", process->exit_code);
    return buf;
}

void process_print_tail(const struct process *process, int lines) {
    char text[TAIL_BYTES + 1];
    int log = open(process->log_path, O_RDONLY | O_CLOEXEC);
    off_t end = log < 0 ? 0 : lseek(log, 0, SEEK_END);
    off_t from = end - process->log_start > TAIL_BYTES ? end - TAIL_BYTES : process->log_start;
    ssize_t len = log < 0 ? 0 : pread(log, text, TAIL_BYTES, from);
    if (log >= 0)
        close(log);
    if (len <= 0)
        return;
    text[len] = '\0';
    ssize_t start = len;
    int seen = 0;
    while (start > 0 && (text[start - 1] != '\n' || start == len || ++seen < lines))
        start--;
    fprintf(stderr, "  last lines of %s:\n", process->log_path);
    for (char *line = text + start, *next; *line; line = next + 1) {
        next = strchrnul(line, '\n');
        fprintf(stderr, "    %.*s\n", (int)(next - line), line);
        if (!*next)
            break;
    }
}
