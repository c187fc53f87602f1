/* Draws the progress of a run on standard output. */
#include "cli/train_display.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "proto/score.h"

#define LINE_EVERY_MS 2000 /* in a log: a line at most this often */
#define QUIET_MAX_MS 15000 /* and at least this often */
#define RATE_WINDOW_MS 1000
#define BAR_CELLS 20
#define BAR_CELLS_MIN 5

void train_display_init(struct train_display *display, uint64_t now_ms) {
    *display = (struct train_display){.started_ms = now_ms, .sampled_ms = now_ms};
    const char *term = getenv("TERM");
    display->terminal = isatty(STDOUT_FILENO) && term && strcmp(term, "dumb") != 0;
}

/* Looked at for every line: a window may be resized at any time. */
static int terminal_columns(void) {
    struct winsize size;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

/* Takes out what lies from `at` to `end`. */
static void text_cut(char *at, const char *end) {
    memmove(at, end, strlen(end) + 1);
}

/* Makes the line fit by leaving out what is needed least: whole fields (two spaces part them), then
 * remarks in parentheses, then the second of two spaces. */
static void line_fit(char *text, size_t columns) {
    static const char *const expendable[] = {"  train ", " pushes/s", " steps/s", "  loss "};
    for (size_t i = 0; i < sizeof expendable / sizeof expendable[0]; i++) {
        char *at = strlen(text) > columns ? strstr(text, expendable[i]) : NULL;
        while (at && at > text && strncmp(at, "  ", 2) != 0)
            at--;
        if (at && at > text) {
            char *end = strstr(at + 2, "  ");
            text_cut(at, end ? end : at + strlen(at));
        }
    }
    for (char *at = text; strlen(text) > columns && (at = strstr(at, " ("));) {
        char *end = strchr(at, ')');
        text_cut(at, end ? end + 1 : at + strlen(at));
    }
    for (char *at = text; strlen(text) > columns && (at = strstr(at, "  "));)
        text_cut(at, at + 1);
    if (strlen(text) > columns)
        text[columns] = 0;
}

/* The bar takes what the text leaves of its place, and goes first. */
static void line_draw(struct train_display *display, char *text, double part) {
    display->columns = terminal_columns();
    int cells = display->columns - (int)strlen(text) - 4;
    char bar[BAR_CELLS + 4] = "";
    if (cells > BAR_CELLS)
        cells = BAR_CELLS;
    if (cells >= BAR_CELLS_MIN) {
        bar[0] = '[';
        for (int i = 0; i < cells; i++)
            bar[1 + i] = i < (int)(part * cells + 0.5) ? '#' : '-';
        strcpy(bar + 1 + cells, "] ");
    }
    line_fit(text, (size_t)display->columns);
    printf("\r\033[K%s%s", bar, text);
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

/* " (of 1 of 2 workers)" where some are missing, else nothing. */
static const char *display_part(char *buf, size_t buf_bytes, uint32_t workers, size_t of) {
    buf[0] = 0;
    if (workers > 0 && workers < of)
        snprintf(buf, buf_bytes, " (of %u of %zu workers)", workers, of);
    return buf;
}

/* A score is an accuracy where it is not named. It is told with the epoch it is of, when that is
 * not the one beside it, and as of a part of the nodes when some workers are missing. */
static void display_epoch(char *buf, size_t buf_bytes, const Graphps__Status *status) {
    const Graphps__EpochStatus *last = status->last;
    enum score metric = SCORE_ACCURACY;
    score_find(status->metric, &metric);
    char part[64], of[32] = "", name[32] = "", train[40] = "";
    struct score_text valid =
        score_text(metric, last->valid_epoch > 0 ? score_of(last, SCORE_VALID, metric) : -1, 1);
    if (score_of_training(metric))
        snprintf(train, sizeof train, "  train %s",
                 score_text(metric, score_of(last, SCORE_TRAIN, metric), 1).text);
    if (last->valid_epoch > 0 && last->valid_epoch != last->epoch)
        snprintf(of, sizeof of, " (epoch %u)", last->valid_epoch);
    if (metric != SCORE_ACCURACY)
        snprintf(name, sizeof name, " (%s)", score_title(metric));
    int n = snprintf(buf, buf_bytes, "epoch %u/%u  loss %.4f%s%s", last->epoch, status->epochs,
                     last->train_loss, train,
                     display_part(part, sizeof part, last->workers, status->n_workers));
    if ((size_t)n < buf_bytes)
        snprintf(buf + n, buf_bytes - (size_t)n, "  valid %s%s%s%s", valid.text, name, of,
                 display_part(part, sizeof part, last->valid_workers, status->n_workers));
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

    char eta[24], numbers[300], text[512];
    uint64_t steps = (uint64_t)status->epochs * status->steps_per_epoch;
    uint64_t left = steps > status->slowest_clock ? steps - status->slowest_clock : 0;
    display_eta(eta, sizeof eta,
                display->steps_per_s > 0 ? (double)left / display->steps_per_s : -1);
    int n = 0;
    if (epoch == 0) {
        n = snprintf(text, sizeof text, "%s%s%s", status->state,
                     status->waiting_for[0] ? ": waiting for " : "", status->waiting_for);
    } else {
        display_epoch(numbers, sizeof numbers, status);
        n = snprintf(text, sizeof text, "%s  %.1f steps/s  %.0f pushes/s  ETA %s", numbers,
                     display->steps_per_s, display->pushes_per_s, eta);
    }
    if (epoch > 0 && status->waiting_for[0] && (size_t)n < sizeof text)
        snprintf(text + n, sizeof text - (size_t)n, "  waiting for %s", status->waiting_for);

    if (display->terminal) {
        line_draw(display, text, status->epochs ? (double)epoch / status->epochs : 0);
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
