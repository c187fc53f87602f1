/* Draws the progress of a run on standard output. */
#include "cli/train_display.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define LINE_EVERY_MS 2000 /* in a log: a line at most this often */
#define QUIET_MAX_MS 15000 /* and at least this often */
#define RATE_WINDOW_MS 1000
#define BAR_CELLS 20

void train_display_init(struct train_display *display, uint64_t now_ms) {
    *display = (struct train_display){.started_ms = now_ms, .sampled_ms = now_ms};
    const char *term = getenv("TERM");
    display->terminal = isatty(STDOUT_FILENO) && term && strcmp(term, "dumb") != 0;
    struct winsize size;
    display->columns =
        ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col : 80;
}

static void display_sample(struct train_display *display, uint64_t clock, uint64_t pushes,
                           uint64_t now_ms) {
    if (clock < display->clock || pushes < display->pushes) { /* a process came back */
        display->sampled_ms = now_ms;
        display->clock = clock;
        display->pushes = pushes;
        return;
    }
    uint64_t elapsed_ms = now_ms - display->sampled_ms;
    if (elapsed_ms < RATE_WINDOW_MS)
        return;
    double s = (double)elapsed_ms / 1000.0;
    display->steps_per_s = (double)(clock - display->clock) / s;
    display->pushes_per_s = (double)(pushes - display->pushes) / s;
    display->sampled_ms = now_ms;
    display->clock = clock;
    display->pushes = pushes;
}

static void display_eta(char *buf, size_t buf_bytes, double seconds) {
    if (seconds < 0)
        snprintf(buf, buf_bytes, "-");
    else if (seconds < 100)
        snprintf(buf, buf_bytes, "%.0f s", seconds);
    else if (seconds < 6000)
        snprintf(buf, buf_bytes, "%.0f min", seconds / 60);
    else
        snprintf(buf, buf_bytes, "%.1f h", seconds / 3600);
}

void train_display_update(struct train_display *display, const Graphps__Status *status,
                          uint64_t now_ms) {
    uint64_t pushes = 0;
    for (size_t k = 0; k < status->n_shards; k++)
        pushes += status->shards[k]->pushes_applied;
    display_sample(display, status->slowest_clock, pushes, now_ms);

    uint32_t epoch = status->last ? status->last->epoch : 0;
    uint64_t since_ms = now_ms - display->drawn_ms;
    if (!display->terminal && display->drawn_ms != 0 &&
        since_ms < (epoch != display->epoch ? LINE_EVERY_MS : QUIET_MAX_MS))
        return;

    char eta[24], text[512];
    uint64_t steps = (uint64_t)status->epochs * status->steps_per_epoch;
    uint64_t left = steps > status->slowest_clock ? steps - status->slowest_clock : 0;
    display_eta(eta, sizeof eta,
                display->steps_per_s > 0 ? (double)left / display->steps_per_s : -1);
    int n = 0;
    if (epoch == 0)
        n = snprintf(text, sizeof text, "%s%s%s", status->state,
                     status->waiting_for[0] ? ": waiting for " : "", status->waiting_for);
    else
        n = snprintf(text, sizeof text,
                     "epoch %u/%u  loss %.4f  train %.1f %%  valid %.1f %%  %.1f steps/s  %.0f "
                     "pushes/s  ETA %s",
                     epoch, status->epochs, status->last->train_loss,
                     100 * status->last->train_accuracy, 100 * status->last->valid_accuracy,
                     display->steps_per_s, display->pushes_per_s, eta);
    if (epoch > 0 && status->waiting_for[0] && (size_t)n < sizeof text)
        snprintf(text + n, sizeof text - (size_t)n, "  waiting for %s", status->waiting_for);

    if (display->terminal) {
        char bar[BAR_CELLS + 1];
        double part = status->epochs ? (double)epoch / status->epochs : 0;
        for (int i = 0; i < BAR_CELLS; i++)
            bar[i] = i < (int)(part * BAR_CELLS + 0.5) ? '#' : '-';
        bar[BAR_CELLS] = '\0';
        int room = display->columns - BAR_CELLS - 4;
        printf("\r\033[K[%s] %.*s", bar, room > 0 ? room : 0, text);
        display->line_open = true;
    } else {
        printf("%s\n", text);
    }
    fflush(stdout);
    display->drawn_ms = now_ms;
    display->epoch = epoch;
}

void train_display_break(struct train_display *display) {
    if (display->line_open)
        printf("\n");
    fflush(stdout);
    display->line_open = false;
}
