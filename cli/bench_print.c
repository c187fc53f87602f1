/* What `graphps bench ps` prints: tables for people, a document for machines. */
#include <jansson.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "common/lock.h"

#define SCHEMA_VERSION 1

static const char *pattern_name(enum bench_pattern pattern) {
    return pattern == BENCH_PUSH ? "push" : pattern == BENCH_PULL ? "pull" : "push+pull";
}

/* --- the machine --- */

void bench_machine_look(struct bench_machine *machine) {
    *machine = (struct bench_machine){.cpu = "unknown processor", .cores = 1};
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "re");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, "model name", 10) == 0 && strchr(line, ':')) {
            line[strcspn(line, "\n")] = 0;
            snprintf(machine->cpu, sizeof machine->cpu, "%s", strchr(line, ':') + 2);
            break;
        }
    if (file)
        fclose(file);
    cpu_set_t cpus;
    if (sched_getaffinity(0, sizeof cpus, &cpus) == 0)
        machine->cores = CPU_COUNT(&cpus);
    uname(&machine->system);
    getloadavg(&machine->load, 1);
}

/* --- the tables --- */

static const char *size_text(uint32_t bytes, char text[16]) {
    if (bytes % (1u << 20) == 0)
        snprintf(text, 16, "%u MiB", bytes >> 20);
    else if (bytes % (1u << 10) == 0)
        snprintf(text, 16, "%u KiB", bytes >> 10);
    else
        snprintf(text, 16, "%u B", bytes);
    return text;
}

static const char *number_text(double value, int decimals, char text[24]) {
    snprintf(text, 24, "%.*f", decimals, value);
    return isnan(value) ? strcpy(text, "-") : text;
}

/* Three digits or so, whatever the scale. */
static const char *us_text(double us, char text[24]) {
    return number_text(us, us < 100 ? 1 : 0, text);
}

void bench_print_head(const struct bench_settings *settings, const struct bench_machine *machine) {
    const struct config *config = settings->config;
    bool ours = config->servers_addresses.count == 0;
    printf("graphps %s, %s, %d cores, %s %s, load %.2f before\n", GRAPHPS_VERSION, machine->cpu,
           machine->cores, machine->system.sysname, machine->system.release, machine->load);
    printf("%lld %s, %lld clients, optimizer %s, %s, %s; threads of a shard: %lld I/O, %lld "
           "aggregator%s\n",
           (long long)config->servers_count, ours ? "shards" : "shards that ran already",
           (long long)config->workers_count - settings->load,
           config_choice(config, "optimizer.kind"), config_choice(config, "push.encoding"),
           config_choice(config, "consistency.mode"), (long long)config->servers_io_threads,
           (long long)config->aggregation_threads,
           ours ? "" : " (if they have the job file of this command)");
    printf("spread %u; medians of %u repeats of %g s; GB/s: fp32 bytes that messages stand for, of "
           "all clients and shards,\nboth directions, also of bare: TCP on loopback, as many "
           "connections, payloads as long as they travel, the same\ndepth, no work; ratio: GB/s of "
           "bare's, hence operations/s of bare's; latency: one request in flight\n",
           settings->spread, settings->repeat, settings->seconds);
    if (settings->bare_buffer_bytes)
        printf("bare connections ask for a send buffer of %u bytes and get %u\n",
               settings->bare_buffer_bytes, bench_bare_buffer(settings->bare_buffer_bytes));
    if (settings->load)
        printf("load: another client's pushes of %s\n",
               size_text(settings->sizes[settings->load_size], (char[16]){0}));
    if (settings->table_rows)
        printf("a table of %llu rows of %u floats; a message's rows are drawn by Zipf's law\n",
               (unsigned long long)settings->table_rows, settings->table_dim);
    printf("\n%-8s %-9s %5s %8s %9s %8s %6s %9s %9s %9s %9s\n", "size", "pattern", "depth", "GB/s",
           "ops/s", "bare", "ratio", "p50 us", "p99 us", "p99.9 us", "bare p50");
    fflush(stdout);
}

void bench_print_row(const struct bench_row *row) {
    char size[16], p50[24], p99[24], p999[24], bare[24];
    printf("%-8s %-9s %5u %8.3f %9.0f %8.3f %6.2f %9s %9s %9s %9s\n",
           size_text(row->size_bytes, size), pattern_name(row->pattern), row->depth,
           row->graphps.gb_per_s, row->graphps.operations_per_s, row->bare.gb_per_s, row->ratio,
           us_text(row->graphps.p50_us, p50), us_text(row->graphps.p99_us, p99),
           us_text(row->graphps.p999_us, p999), us_text(row->bare.p50_us, bare));
    if (!isnan(row->loaded_p99_us))
        printf("%18s while pushes of the load are under way: p50 %s us, p99 %s us (%.1f of the p99 "
               "without)\n",
               "", us_text(row->loaded_p50_us, p50), us_text(row->loaded_p99_us, p99),
               row->loaded_p99_us / row->graphps.p99_us);
    if (row->rows)
        printf("%18s %u rows a message: %.2f million rows/s\n", "", row->rows,
               row->graphps.operations_per_s * row->rows / 1e6);
    fflush(stdout);
}

void bench_print_costs(const struct bench_row *rows, size_t count) {
    printf(
        "\nWhat it costs, once warm: requests of memory to the system and waits for block locks, "
        "per operation;\npushes merged into one update; CPU seconds of all processes per GB\n\n");
    printf("%-8s %-9s %11s %11s %7s %10s %9s %9s %9s\n", "size", "pattern", "shard alloc",
           "client all.", "batch", "lock waits", "p99 us", "CPU s/GB", "bare");
    for (size_t i = 0; i < count; i++) {
        const struct bench_row *row = &rows[i];
        char size[16], texts[7][24];
        printf("%-8s %-9s %11s %11s %7s %10s %9s %9s %9s\n", size_text(row->size_bytes, size),
               pattern_name(row->pattern), number_text(row->shard_allocations, 4, texts[0]),
               number_text(row->client_allocations, 4, texts[1]),
               number_text(row->batch_mean, 2, texts[2]), number_text(row->lock_waits, 4, texts[3]),
               number_text(row->lock_wait_p99_us, 1, texts[4]),
               number_text(row->graphps.cpu_s_per_gb, 3, texts[5]),
               number_text(row->bare.cpu_s_per_gb, 3, texts[6]));
    }
}

/* --- JSON --- */

static json_t *json_number(double value) {
    return isnan(value) ? json_null() : json_real(value);
}

static json_t *speed_json(const struct bench_speed *speed) {
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "gb_per_s",
                     json_number(speed->gb_per_s), "operations_per_s",
                     json_number(speed->operations_per_s), "p50_us", json_number(speed->p50_us),
                     "p99_us", json_number(speed->p99_us), "p999_us", json_number(speed->p999_us),
                     "latency_samples", json_number(speed->samples), "cpu_s_per_gb",
                     json_number(speed->cpu_s_per_gb));
}

static json_t *row_json(const struct bench_row *row) {
    return json_pack(
        "{s:i, s:s, s:i, s:i, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
        "size_bytes", (int)row->size_bytes, "pattern", pattern_name(row->pattern), "depth",
        (int)row->depth, "rows", (int)row->rows, "push_payload_bytes", (json_int_t)row->push_bytes,
        "bare_ask_bytes", (json_int_t)row->ask_bytes, "bare_answer_bytes",
        (json_int_t)row->answer_bytes, "graphps", speed_json(&row->graphps), "bare",
        speed_json(&row->bare), "ratio", json_number(row->ratio), "shard_allocations_per_operation",
        json_number(row->shard_allocations), "client_allocations_per_operation",
        json_number(row->client_allocations), "batch_mean", json_number(row->batch_mean),
        "lock_waits_per_operation", json_number(row->lock_waits), "lock_wait_p99_us",
        json_number(row->lock_wait_p99_us), "loaded_p50_us", json_number(row->loaded_p50_us),
        "loaded_p99_us", json_number(row->loaded_p99_us));
}

static json_t *settings_json(const struct bench_settings *settings) {
    const struct config *config = settings->config;
    return json_pack(
        "{s:I, s:b, s:I, s:s, s:s, s:s, s:I, s:I, s:I, s:i, s:f, s:i, s:I, s:i, s:I, s:I}",
        "shards", (json_int_t)config->servers_count, "shards_started",
        config->servers_addresses.count == 0, "workers",
        (json_int_t)config->workers_count - settings->load, "optimizer",
        config_choice(config, "optimizer.kind"), "encoding", config_choice(config, "push.encoding"),
        "mode", config_choice(config, "consistency.mode"), "io_threads",
        (json_int_t)config->servers_io_threads, "aggregator_threads",
        (json_int_t)config->aggregation_threads, "block_bytes",
        (json_int_t)config->servers_block_bytes, "spread", (int)settings->spread, "seconds",
        settings->seconds, "repeat", (int)settings->repeat, "table_rows",
        (json_int_t)settings->table_rows, "dim", (int)settings->table_dim, "bare_buffer_bytes",
        (json_int_t)settings->bare_buffer_bytes, "load_bytes",
        settings->load ? (json_int_t)settings->sizes[settings->load_size] : 0);
}

void bench_print_json(const struct bench_settings *settings, const struct bench_machine *machine,
                      const struct bench_row *rows, size_t count) {
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, row_json(&rows[i]));
    json_t *all = json_pack(
        "{s:i, s:s, s:s, s:{s:s, s:i, s:s, s:s, s:f}, s:o, s:o}", "schema_version", SCHEMA_VERSION,
        "benchmark", "ps", "version", GRAPHPS_VERSION, "machine", "cpu", machine->cpu, "cores",
        machine->cores, "system", machine->system.sysname, "release", machine->system.release,
        "load_before", machine->load, "settings", settings_json(settings), "rows", list);
    json_dumpf(all, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(all);
}
