/* Progress and signals of a cut. */
#include "cli/partition_cut.h"

#include <signal.h>

#include "cli/progress.h"
#include "common/lock.h"
#include "common/mem.h"

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
static volatile sig_atomic_t interrupted;

static void on_signal(int signal_number) {
    (void)signal_number;
    interrupted = 1;
}

static bool tell(void *ctx, const struct watch_step *step) {
    struct progress *progress = ctx;
    if (step->unit) {
        progress->unit = step->unit;
        progress_tell(progress, step->what, step->done, step->total, time_now_ms());
    } else {
        progress_tell_time(progress, step->what, time_now_ms());
    }
    return !interrupted;
}

int partition_cut(const char *command, const struct snapshot *snapshot,
                  const struct partition_options *options, struct partition_outcome *ret,
                  struct error *reterr) {
    struct progress progress;
    struct partition_options watched = *options;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    struct sigaction before[ARRAY_LEN(signals)];
    progress_begin(&progress, stderr, command, "bytes", time_now_ms());
    watched.watch = (struct watch){tell, &progress};
    interrupted = 0;
    for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
        sigaction(signals[i], NULL, &before[i]);
        if (before[i].sa_handler != SIG_IGN) /* nohup */
            sigaction(signals[i], &action, NULL);
    }
    int r = partition_run(snapshot, &watched, ret, reterr);
    for (size_t i = 0; i < ARRAY_LEN(signals); i++)
        sigaction(signals[i], &before[i], NULL);
    progress_end(&progress);
    if (r == 0 && interrupted)
        r = error_set(reterr, ERR_INTERRUPTED, "interrupted when the partitioning was complete");
    return r;
}
