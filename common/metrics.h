/* Counters, gauges and histograms of this process. A counter or histogram is a cell per thread:
 * the hot path adds to its own (no contention, no lock); readers sum all. metrics.def is the table
 * from which the enum, the cells, the JSON and the Prometheus text come. */
#pragma once

#include <jansson.h>
#include <stdint.h>

#include "common/histogram.h"

enum metric {
#define COUNTER(id, roles, name, labels, help) METRIC_##id,
#define GAUGE(id, roles, name, labels, help) METRIC_##id,
#define LATE_GAUGE(id, roles, name, labels, help) METRIC_##id,
#define HISTOGRAM(id, roles, name, divisor, bounds, help) METRIC_##id,
#include "common/metrics.def"
#undef COUNTER
#undef GAUGE
#undef LATE_GAUGE
#undef HISTOGRAM
    METRIC_END
};

/* A thread's cell is made at its first call and lives on after the thread (its counts stay). */
void metric_add(enum metric counter, uint64_t n);
void metric_set(enum metric gauge, double value);
void metric_record(enum metric histogram, uint64_t value);

uint64_t metric_counter(enum metric counter);
double metric_gauge(enum metric gauge);
/* Sums all threads' cells into *ret. */
void metric_histogram(enum metric histogram, struct histogram *ret);

/* Both pages hold the rows of one process: role "shard" or "worker", number the shard or rank
 * (below 0: not known). A late gauge that was never set is on neither. */

/* Flat object {"graphps_pulls_total": 3, ..., "graphps_staleness_versions": {"count":..,"mean":..,
 * "p50":..,"p99":..,"max":..}}; labelled rows as {"name": {"result=applied": 3}}. Caller decrefs.
 */
json_t *metrics_json(const char *role, int number);
/* Prometheus text format 0.0.4, with process_resident_memory_bytes,
 * process_cpu_seconds_total, process_start_time_seconds and
 * graphps_build_info{version=,role=,number=}. 0-terminated; mem_free it. */
char *metrics_text(const char *role, int number);

/* Resident memory of this process now and at its peak. */
uint64_t process_rss_bytes(void);
uint64_t process_rss_peak_bytes(void);
