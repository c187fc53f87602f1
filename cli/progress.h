/* How far a long command is: a bar on a terminal, a line now and then in a log; nothing for what
 * ends within two seconds. Writes to standard error, so that results can be piped. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct progress {
    FILE *out;
    const char *command; /* begins every line of a log; borrowed */
    const char *unit;    /* "bytes" is printed as kB, MB, GB; borrowed */
    bool terminal;
    bool line_open; /* a bar is on the terminal */
    char stage[64];
    uint64_t started_ms;       /* of all */
    uint64_t stage_started_ms; /* rates and times to go are those of a stage */
    uint64_t told_ms;
};

void progress_begin(struct progress *progress, FILE *out, const char *command, const char *unit,
                    uint64_t now_ms);
/* total 0: unknown. A new stage begins when stage differs from the last one. */
void progress_tell(struct progress *progress, const char *stage, uint64_t done, uint64_t total,
                   uint64_t now_ms);
/* The same, and at what rate rows are done, where there is room for it; 0: none are. */
void progress_tell_rows(struct progress *progress, const char *stage, uint64_t done, uint64_t total,
                        uint64_t rows, uint64_t now_ms);
/* The same for a stage that cannot tell how far it is: shows how long it has taken. */
void progress_tell_time(struct progress *progress, const char *stage, uint64_t now_ms);
/* Takes the bar away; also before anything else is printed. */
void progress_end(struct progress *progress);
