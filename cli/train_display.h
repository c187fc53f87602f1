/* What a run looks like while it runs: one live line on a terminal, plain lines in a log. Fed with
 * the status that shard 0 gives; draws nothing else. */
#pragma once

#include <stdbool.h>

#include "proto/graphps.pb-c.h"

struct train_display {
    bool terminal;
    int columns;
    uint64_t started_ms, drawn_ms;
    uint64_t sampled_ms, clock, pushes; /* the sample the rates are taken from */
    double steps_per_s, pushes_per_s;
    uint32_t epoch; /* last one drawn */
    bool line_open; /* a live line without its newline is on the terminal */
};

void train_display_init(struct train_display *display, uint64_t now_ms);
void train_display_update(struct train_display *display, const Graphps__Status *status,
                          uint64_t now_ms);
/* Before something else is printed. */
void train_display_break(struct train_display *display);
