/* The metric table's cells and both printed pages. Owns one cell per thread, kept in a list that
 * only grows; a thread that ends leaves its cell, counts and all, to the next that starts, so
 * memory is bounded by the threads alive at once. Knows no metric by name: the table does. */
#include "common/metrics.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "common/lock.h"
#include "common/mem.h"

enum metric_kind { KIND_COUNTER, KIND_GAUGE, KIND_HISTOGRAM };

/* What a process is; a row's roles are one or more of them. */
enum metric_role { COORDINATOR = 1, FOLLOWER = 2, SHARD = COORDINATOR | FOLLOWER, WORKER = 4 };

/* The histograms' places in a cell. */
enum {
#define COUNTER(id, roles, name, labels, help)
#define GAUGE(id, roles, name, labels, help)
#define LATE_GAUGE(id, roles, name, labels, help)
#define HISTOGRAM(id, roles, name, divisor, bounds, help) PLACE_##id,
#include "common/metrics.def"
#undef COUNTER
#undef GAUGE
#undef LATE_GAUGE
#undef HISTOGRAM
    PLACE_END
};

struct metric_row {
    enum metric_kind kind;
    int roles; /* of enum metric_role */
    bool late; /* a gauge that is shown from its first value on */
    const char *name;
    const char *labels;
    const char *help;
    int place;
    double divisor;
    const char *bounds;
};

static const struct metric_row rows[METRIC_END] = {
#define COUNTER(id, roles, name, labels, help)                                                     \
    {KIND_COUNTER, roles, false, name, labels, help, -1, 1, ""},
#define GAUGE(id, roles, name, labels, help)                                                       \
    {KIND_GAUGE, roles, false, name, labels, help, -1, 1, ""},
#define LATE_GAUGE(id, roles, name, labels, help)                                                  \
    {KIND_GAUGE, roles, true, name, labels, help, -1, 1, ""},
#define HISTOGRAM(id, roles, name, divisor, bounds, help)                                          \
    {KIND_HISTOGRAM, roles, false, name, "", help, PLACE_##id, divisor, bounds},
#include "common/metrics.def"
#undef COUNTER
#undef GAUGE
#undef LATE_GAUGE
#undef HISTOGRAM
};

/* Numbers: written by the owning thread, read by all (relaxed). The rest: guarded by metrics.lock.
 */
struct cell {
    _Atomic uint64_t counters[METRIC_END];
    struct histogram histograms[PLACE_END];
    struct cell *next;
    bool owned;
};

static struct {
    struct lock lock; /* guards: cells, their next and owned */
    struct cell *cells;
    pthread_key_t key; /* its destructor gives the cell back */
    _Atomic double gauges[METRIC_END];
    atomic_bool gauges_set[METRIC_END]; /* since the start; written after the value */
} metrics;
static pthread_once_t metrics_once = PTHREAD_ONCE_INIT;
static _Thread_local struct cell *own_cell;

static void cell_release(void *pointer) {
    struct cell *cell = pointer;
    own_cell = NULL;
    lock_take(&metrics.lock);
    cell->owned = false;
    lock_release(&metrics.lock);
}

static void metrics_start(void) {
    lock_init(&metrics.lock, LOCK_METRICS, "metrics");
    pthread_key_create(&metrics.key, cell_release);
}

static struct cell *cell_own(void) {
    if (own_cell)
        return own_cell;

    pthread_once(&metrics_once, metrics_start);
    lock_take(&metrics.lock);
    struct cell *cell = metrics.cells;
    while (cell && cell->owned)
        cell = cell->next;
    if (!cell) {
        cell = mem_alloc(sizeof *cell);
        cell->next = metrics.cells;
        metrics.cells = cell;
    }
    cell->owned = true;
    lock_release(&metrics.lock);
    pthread_setspecific(metrics.key, cell);
    own_cell = cell;
    return cell;
}

void metric_add(enum metric counter, uint64_t n) {
    assert(rows[counter].kind == KIND_COUNTER);
    _Atomic uint64_t *number = &cell_own()->counters[counter];
    /* One writer: no locked instruction is needed. */
    atomic_store_explicit(number, atomic_load_explicit(number, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

void metric_set(enum metric gauge, double value) {
    assert(rows[gauge].kind == KIND_GAUGE);
    atomic_store_explicit(&metrics.gauges[gauge], value, memory_order_relaxed);
    atomic_store_explicit(&metrics.gauges_set[gauge], true, memory_order_release);
}

void metric_record(enum metric histogram, uint64_t value) {
    assert(rows[histogram].kind == KIND_HISTOGRAM);
    histogram_add(&cell_own()->histograms[rows[histogram].place], value);
}

uint64_t metric_counter(enum metric counter) {
    assert(rows[counter].kind == KIND_COUNTER);
    uint64_t sum = 0;
    pthread_once(&metrics_once, metrics_start);
    lock_take(&metrics.lock);
    for (struct cell *cell = metrics.cells; cell; cell = cell->next)
        sum += atomic_load_explicit(&cell->counters[counter], memory_order_relaxed);
    lock_release(&metrics.lock);
    return sum;
}

double metric_gauge(enum metric gauge) {
    assert(rows[gauge].kind == KIND_GAUGE);
    return atomic_load_explicit(&metrics.gauges[gauge], memory_order_relaxed);
}

void metric_histogram(enum metric histogram, struct histogram *ret) {
    assert(rows[histogram].kind == KIND_HISTOGRAM);
    memset(ret, 0, sizeof *ret);
    pthread_once(&metrics_once, metrics_start);
    lock_take(&metrics.lock);
    for (struct cell *cell = metrics.cells; cell; cell = cell->next)
        histogram_merge(ret, &cell->histograms[rows[histogram].place]);
    lock_release(&metrics.lock);
}

static enum metric_role role_of(const char *role, int number) {
    if (strcmp(role, "worker") == 0)
        return WORKER;
    return number == 0 ? COORDINATOR : FOLLOWER;
}

static bool row_shown(enum metric metric, enum metric_role role) {
    return (rows[metric].roles & (int)role) != 0 &&
           (!rows[metric].late ||
            atomic_load_explicit(&metrics.gauges_set[metric], memory_order_acquire));
}

/* JSON has no infinity and no NaN. */
static json_t *json_double(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *json_of_row(enum metric metric) {
    const struct metric_row *row = &rows[metric];
    if (row->kind == KIND_COUNTER)
        return json_integer((json_int_t)metric_counter(metric));
    if (row->kind == KIND_GAUGE)
        return json_double(metric_gauge(metric));

    struct histogram all;
    metric_histogram(metric, &all);
    json_t *object = json_object();
    json_object_set_new(object, "count", json_integer((json_int_t)all.count));
    json_object_set_new(object, "mean", json_double(histogram_mean(&all) / row->divisor));
    static const struct {
        const char *name;
        double q;
    } quantiles[] = {{"p50", 0.5}, {"p99", 0.99}, {"max", 1}};
    for (size_t i = 0; i < ARRAY_LEN(quantiles); i++)
        json_object_set_new(
            object, quantiles[i].name,
            json_double((double)histogram_quantile(&all, quantiles[i].q) / row->divisor));
    return object;
}

json_t *metrics_json(const char *role, int number) {
    enum metric_role shown = role_of(role, number);
    json_t *object = json_object();
    for (int i = 0; i < METRIC_END; i++) {
        if (!row_shown(i, shown))
            continue;
        if (!rows[i].labels[0]) {
            json_object_set_new(object, rows[i].name, json_of_row(i));
            continue;
        }
        json_t *family = json_object_get(object, rows[i].name);
        if (!family) {
            json_object_set_new(object, rows[i].name, json_object());
            family = json_object_get(object, rows[i].name);
        }
        char label[128];
        size_t len = 0;
        for (const char *at = rows[i].labels; *at && len < sizeof label - 1; at++)
            if (*at != '"')
                label[len++] = *at;
        label[len] = 0;
        json_object_set_new(family, label, json_of_row(i));
    }
    return object;
}

static void print_double(FILE *out, double value) {
    if (isnan(value))
        fputs("NaN\n", out);
    else if (isinf(value))
        fputs(value > 0 ? "+Inf\n" : "-Inf\n", out);
    else
        fprintf(out, "%.15g\n", value);
}

static void print_head(FILE *out, const char *name, const char *type, const char *help) {
    fprintf(out, "# HELP %s ", name);
    for (; *help; help++)
        if (*help == '\\' || *help == '\n')
            fputs(*help == '\n' ? "\\n" : "\\\\", out);
        else
            fputc(*help, out);
    fprintf(out, "\n# TYPE %s %s\n", name, type);
}

static void print_histogram(FILE *out, enum metric metric) {
    const struct metric_row *row = &rows[metric];
    struct histogram all;
    metric_histogram(metric, &all);
    const char *at = row->bounds;
    char *end;
    for (double bound = strtod(at, &end); end != at; at = end, bound = strtod(at, &end))
        fprintf(out, "%s_bucket{le=\"%.15g\"} %" PRIu64 "\n", row->name, bound,
                histogram_count_upto(&all, (uint64_t)llround(bound * row->divisor)));
    fprintf(out, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", row->name, (uint64_t)all.count);
    fprintf(out, "%s_sum ", row->name);
    print_double(out, (double)all.sum / row->divisor);
    fprintf(out, "%s_count %" PRIu64 "\n", row->name, (uint64_t)all.count);
}

/* family: of the row printed before. */
static void print_row(FILE *out, enum metric metric, const char *family) {
    static const char *const types[] = {"counter", "gauge", "histogram"};
    const struct metric_row *row = &rows[metric];
    /* A family's rows stand together in the table and share one head. */
    if (strcmp(family, row->name) != 0)
        print_head(out, row->name, types[row->kind], row->help);
    if (row->kind == KIND_HISTOGRAM) {
        print_histogram(out, metric);
        return;
    }
    fputs(row->name, out);
    if (row->labels[0])
        fprintf(out, "{%s}", row->labels);
    fputc(' ', out);
    if (row->kind == KIND_COUNTER)
        fprintf(out, "%" PRIu64 "\n", metric_counter(metric));
    else
        print_double(out, metric_gauge(metric));
}

/* A number of kB from /proc/self/status; 0 where there is none. */
static uint64_t status_bytes(const char *name) {
    FILE *status = fopen("/proc/self/status", "re");
    if (!status)
        return 0;
    char line[256];
    size_t len = strlen(name);
    uint64_t kb = 0;
    while (fgets(line, sizeof line, status))
        if (strncmp(line, name, len) == 0 && line[len] == ':') {
            kb = strtoull(line + len + 1, NULL, 10);
            break;
        }
    fclose(status);
    return kb * 1024;
}

uint64_t process_rss_bytes(void) {
    return status_bytes("VmRSS");
}

/* Not getrusage's: that one survives exec, and would be the launcher's. */
uint64_t process_rss_peak_bytes(void) {
    return status_bytes("VmHWM");
}

static double process_cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* Seconds from the epoch to this process's start: now, less the time since boot, plus the ticks
 * from boot to the start (field 22 of /proc/self/stat). 0 where /proc is missing. */
static double process_start_seconds(void) {
    FILE *stat = fopen("/proc/self/stat", "re");
    if (!stat)
        return 0;
    char text[1024];
    size_t len = fread(text, 1, sizeof text - 1, stat);
    fclose(stat);
    text[len] = 0;
    /* The second field is the name in parentheses, and may hold anything. */
    const char *at = strrchr(text, ')');
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    if (!at)
        return 0;
    struct timespec now, boot;
    clock_gettime(CLOCK_REALTIME, &now);
    clock_gettime(CLOCK_BOOTTIME, &boot);
    double uptime = (double)boot.tv_sec + (double)boot.tv_nsec / 1e9;
    double started = strtod(at + 1, NULL) / (double)sysconf(_SC_CLK_TCK);
    /* Whole hundredths, so that two scrapes agree in spite of the two clocks read. */
    return round(((double)now.tv_sec + (double)now.tv_nsec / 1e9 - uptime + started) * 100) / 100;
}

char *metrics_text(const char *role, int number) {
    char *text = NULL, number_text[16] = "";
    size_t len;
    FILE *out = open_memstream(&text, &len);
    if (!out)
        return mem_strdup("");

    enum metric_role shown = role_of(role, number);
    const char *family = "";
    for (int i = 0; i < METRIC_END; i++)
        if (row_shown(i, shown)) {
            print_row(out, i, family);
            family = rows[i].name;
        }
    print_head(out, "process_resident_memory_bytes", "gauge", "Resident memory of this process.");
    fprintf(out, "process_resident_memory_bytes %" PRIu64 "\n", process_rss_bytes());
    print_head(out, "process_cpu_seconds_total", "counter",
               "User and system time used, in seconds.");
    fputs("process_cpu_seconds_total ", out);
    print_double(out, process_cpu_seconds());
    print_head(out, "process_start_time_seconds", "gauge", "Start of this process, Unix time.");
    fputs("process_start_time_seconds ", out);
    print_double(out, process_start_seconds());
    print_head(out, "graphps_build_info", "gauge",
               "1, with version, role and shard or rank as labels.");
    if (number >= 0)
        snprintf(number_text, sizeof number_text, "%d", number);
    fprintf(out, "graphps_build_info{version=\"%s\",role=\"%s\",number=\"%s\"} 1\n",
            GRAPHPS_VERSION, role, number_text);
    fclose(out);
    return text;
}
