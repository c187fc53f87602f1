/* The run: checks the wish, has threads make stretches of rows, writes these in order, moves the
 * directory into place. */
#include "worker/graph/generate.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/file.h"
#include "common/lock.h"
#include "common/mem.h"
#include "common/npy.h"
#include "worker/graph/generate_rows.h"

#define CHUNK_BYTES (1u << 20)

static atomic_bool interrupted; /* set by a signal's handler, on any thread */

void generate_interrupt(void) {
    atomic_store(&interrupted, true);
}

/* A file on its way to the disk. Chunks come one after the other. */
struct sink {
    const struct generate_file *file;
    generate_progress *progress;
    void *ctx;
    struct file_writer *text; /* or */
    struct npy_writer *array;
    uint64_t rows, rows_done, bytes;
};

/* One file's rows in chunks: any thread makes the next one, and one thread at a time writes those
 * that are ready, in order. */
struct slot {
    uint8_t *data;
    size_t len;
    uint64_t rows;
    bool ready; /* made, and not yet written: under the lock; then the rest is the writer's */
};

struct line {
    /* Set at start. */
    const struct generated *graph;
    uint64_t chunk_rows, chunks;
    struct slot *slots;
    size_t slot_count;

    struct lock lock;
    /* Under the lock. */
    pthread_cond_t changed;
    uint64_t made, written; /* chunks that were begun, and that are in the sink */
    bool writing;           /* some thread is */
    int result;

    /* Of the thread that writes. */
    struct sink *sink;
    struct error *reterr;
};

static int check_options(const struct generate_options *options, struct error *reterr) {
    uint64_t nodes = options->nodes;
    const struct {
        const char *option;
        uint64_t value, min, max;
        const char *why;
    } ranges[] = {
        {"threads", options->threads, 0, GENERATE_THREADS_MAX, ""},
        {"features", options->features, 1, GENERATE_FEATURES_MAX, ""},
        {"nodes", nodes, 2, GENERATE_NODES_MAX, ""},
        {"classes", options->classes, 1,
         nodes < GENERATE_CLASSES_MAX ? nodes : GENERATE_CLASSES_MAX,
         nodes < GENERATE_CLASSES_MAX ? ", as many as there are nodes" : ""},
        {"edges", options->edges, 1, nodes * (nodes - 1) / 2,
         ", as many as there are pairs of nodes"},
    };
    for (size_t i = 0; i < ARRAY_LEN(ranges); i++)
        if (ranges[i].value < ranges[i].min || ranges[i].value > ranges[i].max)
            return error_set(
                reterr, ERR_RANGE,
                "--%s %" PRIu64 " is out of range, expected %" PRIu64 " to %" PRIu64 "%s",
                ranges[i].option, ranges[i].value, ranges[i].min, ranges[i].max, ranges[i].why);
    return 0;
}

/* What --overwrite would remove must be this command's work: a wrong name costs nobody his files.
 */
static int check_is_generated(const char *dir, struct error *reterr) {
    char **names;
    size_t count, known = 0;
    int r = dir_list(dir, &names, &count, reterr);
    if (r < 0)
        return r;
    for (size_t i = 0; r == 0 && i < count; i++, known = 0) {
        for (int arrays = 0; arrays <= 1; arrays++) {
            size_t files;
            const struct generate_file *file = generate_files(arrays, &files);
            for (; files > 0; files--, file++)
                known += strcmp(file->name, names[i]) == 0;
        }
        if (!known)
            r = error_set(reterr, ERR_EXISTS,
                          "%s holds %s, which was not generated: it is not overwritten; remove it "
                          "or choose another name",
                          dir, names[i]);
    }
    dir_list_free(names, count);
    return r;
}

static int sink_open(struct sink *sink, const char *dir, const struct generated *graph,
                     struct error *reterr) {
    const struct generate_file *file = sink->file;
    _cleanup_(mem_free_p) char *path = mem_printf("%s/%s", dir, file->name);
    if (file->array) {
        uint64_t row_items = generate_row_bytes_max(file, graph) / npy_item_bytes(file->type);
        bool matrix = file->of_edges || file->row_feature_bytes;
        return npy_create(path, file->type, matrix ? row_items : 0, &sink->array, reterr);
    }
    _cleanup_(mem_free_p) char *features = file->header ? NULL : generate_features_header(graph);
    const char *header = file->header ? file->header : features;
    int r = file_create(path, &sink->text, reterr);
    if (r < 0)
        return r;
    sink->bytes = strlen(header);
    return file_append(sink->text, header, strlen(header), reterr);
}

static int sink_append(struct sink *sink, const uint8_t *data, size_t len, uint64_t rows,
                       struct error *reterr) {
    if (atomic_load(&interrupted))
        return error_set(reterr, ERR_INTERRUPTED,
                         "interrupted; nothing was written, the same command begins anew");
    int r = sink->array
                ? npy_append(sink->array, data, len / npy_item_bytes(sink->file->type), reterr)
                : file_append(sink->text, data, len, reterr);
    sink->rows_done += rows;
    sink->bytes += len;
    if (r == 0 && sink->progress) {
        double share = (double)sink->rows_done / (double)sink->rows;
        sink->progress(sink->ctx, sink->file->name, sink->bytes,
                       (uint64_t)((double)sink->bytes / share));
    }
    return r;
}

static int sink_close(struct sink *sink, int r, struct error *reterr) {
    if (r < 0) {
        file_abandon(sink->text);
        npy_abandon(sink->array);
        return r;
    }
    return sink->array ? npy_commit(sink->array, reterr) : file_commit(sink->text, reterr);
}

/* Makes a chunk in the slot that is its number's; the lock is not held meanwhile. */
static void make_chunk(struct line *line, uint64_t number) {
    struct slot *slot = &line->slots[number % line->slot_count];
    uint64_t first = number * line->chunk_rows, rows = line->sink->rows - first;
    if (rows > line->chunk_rows)
        rows = line->chunk_rows;
    const struct generate_file *file = line->sink->file;
    slot->len = file->rows(file, line->graph, first, first + rows, slot->data);
    slot->rows = rows;
}

/* Writes what is ready from the next chunk to be written on. Another thread's chunk that gets ready
 * meanwhile is seen too, for the lock is held whenever that is asked. */
static void write_ready_locked(struct line *line) {
    lock_assert_held(&line->lock);
    line->writing = true;
    for (struct slot *slot;
         line->result == 0 && (slot = &line->slots[line->written % line->slot_count])->ready;) {
        lock_release(&line->lock);
        int r = sink_append(line->sink, slot->data, slot->len, slot->rows, line->reterr);
        lock_take(&line->lock);
        slot->ready = false;
        line->written++;
        line->result = r;
        pthread_cond_broadcast(&line->changed);
    }
    line->writing = false;
}

static void *work(void *arg) {
    struct line *line = arg;
    lock_take(&line->lock);
    for (;;) {
        while (line->result == 0 && line->made < line->chunks &&
               line->made >= line->written + line->slot_count)
            lock_wait(&line->lock, &line->changed, -1);
        if (line->result < 0 || line->made == line->chunks)
            break;
        uint64_t number = line->made++;
        lock_release(&line->lock);
        make_chunk(line, number);
        lock_take(&line->lock);
        line->slots[number % line->slot_count].ready = true;
        if (!line->writing)
            write_ready_locked(line);
    }
    lock_release(&line->lock);
    return NULL;
}

/* The calling thread works too; fewer threads than wished are no fault. */
static int write_rows(struct sink *sink, const struct generated *graph, uint32_t threads,
                      struct error *reterr) {
    size_t row_bytes = generate_row_bytes_max(sink->file, graph);
    struct line line = {.sink = sink, .graph = graph, .reterr = reterr};
    line.chunk_rows = row_bytes < CHUNK_BYTES ? CHUNK_BYTES / row_bytes : 1;
    line.chunks = (sink->rows + line.chunk_rows - 1) / line.chunk_rows;
    if (threads > line.chunks)
        threads = (uint32_t)line.chunks;
    line.slot_count = 2 * threads;
    line.slots = mem_array(line.slot_count, sizeof *line.slots);
    for (size_t i = 0; i < line.slot_count; i++)
        line.slots[i].data = mem_raw(line.chunk_rows * row_bytes);
    lock_init(&line.lock, LOCK_ROWS, "generate");
    lock_cond_init(&line.changed);

    _cleanup_(mem_free_p) pthread_t *helpers = mem_array(threads, sizeof *helpers);
    uint32_t count = 0;
    while (count + 1 < threads && pthread_create(&helpers[count], NULL, work, &line) == 0)
        count++;
    work(&line);
    while (count > 0)
        pthread_join(helpers[--count], NULL);

    pthread_cond_destroy(&line.changed);
    lock_done(&line.lock);
    for (size_t i = 0; i < line.slot_count; i++)
        mem_free(line.slots[i].data);
    mem_free(line.slots);
    return line.result;
}

static int write_files(const struct generate_options *options, const struct generated *graph,
                       const char *dir, generate_progress *progress, void *ctx, uint64_t *ret_bytes,
                       struct error *reterr) {
    size_t count;
    const struct generate_file *files = generate_files(options->format == GENERATE_NPY, &count);
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t threads = options->threads ? options->threads : cores > 1 ? (uint32_t)cores : 1;
    uint64_t bytes = 0;
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++) {
        struct sink sink = {.file = &files[i],
                            .progress = progress,
                            .ctx = ctx,
                            .rows = files[i].of_edges ? graph->edges : graph->nodes};
        r = sink_open(&sink, dir, graph, reterr);
        if (r == 0)
            r = write_rows(&sink, graph, threads, reterr);
        r = sink_close(&sink, r, reterr);
        bytes += sink.bytes;
    }
    *ret_bytes = bytes;
    return r;
}

/* Into place; with overwrite one that is there already changes places with it, or, where that
 * cannot be, steps aside first and is removed last. One that was made since the beginning stays. */
static int commit(const char *tmp, const char *out, const char *old, bool overwrite,
                  struct error *reterr) {
    if (!overwrite || !file_exists(out))
        return dir_commit(tmp, out, reterr);
    int checked = check_is_generated(out, reterr);
    if (checked < 0) {
        (void)dir_remove(tmp, NULL);
        return checked;
    }
    struct error err = {0};
    int exchanged = dir_exchange(tmp, out, &err);
    if (exchanged == 0)
        return dir_remove(tmp, reterr);
    if (exchanged != ERR_USAGE) {
        (void)dir_remove(tmp, NULL);
        return error_set(reterr, exchanged, "%s", err.text);
    }
    _cleanup_(mem_free_p) char *aside = mem_printf("%s.tmp-%d", old, (int)getpid());
    if (rename(out, aside) < 0) {
        int r = error_set(reterr, ERR_IO, "%s: cannot be moved aside: %m", out);
        (void)dir_remove(tmp, NULL);
        return r;
    }
    int r = dir_commit(tmp, out, reterr);
    if (r == 0)
        return dir_remove(aside, reterr);
    if (rename(aside, out) < 0)
        return error_set(reterr, ERR_IO, "%s: cannot be moved back from %s: %m", out, aside);
    return r;
}

int generate_run(const struct generate_options *options, generate_progress *progress, void *ctx,
                 uint64_t *ret_bytes, struct error *reterr) {
    int r = check_options(options, reterr);
    if (r < 0)
        return r;
    _cleanup_(mem_free_p) char *out = mem_strdup(options->out);
    for (size_t len = strlen(out); len > 1 && out[len - 1] == '/'; len--)
        out[len - 1] = 0;
    bool there = file_exists(out);
    if (there && !options->overwrite)
        return error_set(reterr, ERR_EXISTS,
                         "%s: exists already; give another directory, or --overwrite", out);
    if (there)
        r = check_is_generated(out, reterr);
    if (r < 0)
        return r;
    _cleanup_(mem_free_p) char *beside = mem_printf("%s@new", out);
    _cleanup_(mem_free_p) char *old = mem_printf("%s@old", out);
    _cleanup_(mem_free_p) char *tmp = NULL;
    dir_sweep(beside);
    if (there)
        dir_sweep(old);
    r = dir_create(beside, &tmp, reterr);
    if (r < 0)
        return r;
    int hold = dir_hold(tmp);
    struct generated graph;
    uint64_t bytes;
    generated_init(&graph, options->kind, (uint32_t)options->nodes, options->edges,
                   (uint32_t)options->features, (uint32_t)options->classes, options->seed);
    r = write_files(options, &graph, tmp, progress, ctx, &bytes, reterr);
    if (r == 0 && atomic_load(&interrupted))
        r = error_set(reterr, ERR_INTERRUPTED,
                      "interrupted; nothing was written, the same command begins anew");
    if (r < 0)
        (void)dir_remove(tmp, NULL); /* the first error is the one to tell */
    else
        r = commit(tmp, out, old, options->overwrite, reterr);
    if (hold >= 0)
        close(hold);
    if (r == 0)
        *ret_bytes = bytes;
    return r;
}
