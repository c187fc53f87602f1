/* The bar and the lines. */
#include "cli/progress.h"

#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define SILENT_MS 2000
#define BAR_MS 100
#define LINE_MS 10000
#define BAR_WIDTH 24
#define BAR_WIDTH_MIN 4
#define STAGE_WIDTH 16
#define WIDTH_OF_ROWS 70 /* a terminal that has room for their rate */

void progress_begin(struct progress *progress, FILE *out, const char *command, const char *unit,
                    uint64_t now_ms) {
    *progress = (struct progress){.out = out,
                                  .command = command,
                                  .unit = unit,
                                  .terminal = isatty(fileno(out)),
                                  .started_ms = now_ms,
                                  .stage_started_ms = now_ms};
}

static const char *format_count(const char *unit, double count, char *buf, size_t buf_bytes) {
    static const char *const prefixes[] = {"", "k", "M", "G", "T"};
    size_t i = 0;
    for (; count >= 1000 && i < 4; i++)
        count /= 1000;
    bool bytes = strcmp(unit, "bytes") == 0;
    snprintf(buf, buf_bytes, "%.*f%s%s%s%s", i ? 1 : 0, count, bytes ? " " : "", prefixes[i],
             bytes ? "B" : " ", bytes ? "" : unit);
    return buf;
}

static void format_seconds(double seconds, char *buf, size_t buf_bytes) {
    uint64_t s = (uint64_t)(seconds + 0.5);
    if (s >= 3600)
        snprintf(buf, buf_bytes, "%" PRIu64 ":%02" PRIu64 ":%02" PRIu64, s / 3600, s / 60 % 60,
                 s % 60);
    else
        snprintf(buf, buf_bytes, "%" PRIu64 ":%02" PRIu64, s / 60, s % 60);
}

/* The bar takes what the numbers leave of the terminal's line, the name of the stage gives way to
 * them too: a line that wraps cannot be drawn over. */
static void draw_bar(const struct progress *progress, double share, const char *rate,
                     const char *rows, const char *eta) {
    struct winsize size;
    int columns =
        ioctl(fileno(progress->out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
    char numbers[160], bar[BAR_WIDTH + 4] = "";
    int len = snprintf(numbers, sizeof numbers, "%3.0f %%  %s/s%s  ETA %s", 100 * share, rate,
                       columns >= WIDTH_OF_ROWS ? rows : "", eta);
    int stage = columns - len - 1 < STAGE_WIDTH ? columns - len - 1 : STAGE_WIDTH;
    int cells = columns - len - STAGE_WIDTH - 4;
    if (cells > BAR_WIDTH)
        cells = BAR_WIDTH;
    if (cells >= BAR_WIDTH_MIN) {
        bar[0] = '[';
        memset(bar + 1, '.', (size_t)cells);
        memset(bar + 1, '#', (size_t)(share * cells));
        strcpy(bar + 1 + cells, "] ");
    }
    fprintf(progress->out, "%-*.*s %s%.*s", stage > 0 ? stage : 0, stage > 0 ? stage : 0,
            progress->stage, bar, columns - 1, numbers);
}

static void draw(struct progress *progress, uint64_t done, uint64_t total, uint64_t rows,
                 uint64_t now_ms) {
    char count[48], rate_text[48], row_rate[48], rows_text[64] = "", eta[32];
    double seconds = (double)(now_ms - progress->stage_started_ms) / 1000;
    double rate = seconds > 0 ? (double)done / seconds : 0;
    format_count(progress->unit, (double)done, count, sizeof count);
    format_count(progress->unit, rate, rate_text, sizeof rate_text);
    if (rows > 0 && seconds > 0)
        snprintf(rows_text, sizeof rows_text, "  %s/s",
                 format_count("rows", (double)rows / seconds, row_rate, sizeof row_rate));
    if (progress->terminal)
        fputs("\r\033[K", progress->out);
    else
        fprintf(progress->out, "%s: ", progress->command);
    if (total == 0) {
        fprintf(progress->out, "%s  %s  %s/s%s", progress->stage, count, rate_text, rows_text);
    } else {
        if (done > total)
            done = total;
        double share = (double)done / (double)total;
        if (rate > 0)
            format_seconds((double)(total - done) / rate, eta, sizeof eta);
        else
            strcpy(eta, "?");
        if (progress->terminal)
            draw_bar(progress, share, rate_text, rows_text, eta);
        else
            fprintf(progress->out, "%s  %.0f %%  %s  %s/s%s  ETA %s", progress->stage, 100 * share,
                    count, rate_text, rows_text, eta);
    }
    if (!progress->terminal)
        fputc('\n', progress->out);
    progress->line_open = progress->terminal;
    fflush(progress->out);
}

/* Begins a stage that is new; is it time to tell something? */
static bool is_due(struct progress *progress, const char *stage, uint64_t now_ms) {
    if (strcmp(stage, progress->stage) != 0) {
        snprintf(progress->stage, sizeof progress->stage, "%s", stage);
        progress->stage_started_ms = now_ms;
    }
    /* A stage that begins has no rate yet. */
    if (now_ms == progress->stage_started_ms || now_ms - progress->started_ms < SILENT_MS)
        return false;
    if (progress->told_ms && now_ms - progress->told_ms < (progress->terminal ? BAR_MS : LINE_MS))
        return false;
    progress->told_ms = now_ms;
    return true;
}

void progress_tell(struct progress *progress, const char *stage, uint64_t done, uint64_t total,
                   uint64_t now_ms) {
    progress_tell_rows(progress, stage, done, total, 0, now_ms);
}

void progress_tell_rows(struct progress *progress, const char *stage, uint64_t done, uint64_t total,
                        uint64_t rows, uint64_t now_ms) {
    if (is_due(progress, stage, now_ms))
        draw(progress, done, total, rows, now_ms);
}

void progress_tell_time(struct progress *progress, const char *stage, uint64_t now_ms) {
    char seconds[32];
    if (!is_due(progress, stage, now_ms))
        return;
    format_seconds((double)(now_ms - progress->stage_started_ms) / 1000, seconds, sizeof seconds);
    if (progress->terminal)
        fprintf(progress->out, "\r\033[K%s  %s", progress->stage, seconds);
    else
        fprintf(progress->out, "%s: %s  %s\n", progress->command, progress->stage, seconds);
    progress->line_open = progress->terminal;
    fflush(progress->out);
}

void progress_end(struct progress *progress) {
    if (progress->line_open)
        fputs("\r\033[K", progress->out);
    progress->line_open = false;
}
