/* What all formats share: nodes and their columns. Edges are in build_edges.c. */
#include "worker/graph/build.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "common/vec.h"
#include "worker/graph/csr.h"
#include "worker/graph/text.h"

#define LABEL_UNSEEN (-2) /* no row has named this node yet */

/* Beside so many nodes, so many for each edge or other entry are believed. */
#define NODES_FREE (1ull << 20)
#define NODES_EACH 1024ull

static volatile sig_atomic_t interrupted;

void import_interrupt(void) {
    interrupted = 1;
}

static void free_names(char **names, uint32_t count) {
    for (uint32_t i = 0; names && i < count; i++)
        mem_free(names[i]);
    mem_free(names);
}

void build_done(struct build *build) {
    npy_abandon(build->features);
    ids_free(build->ids);
    ids_free(build->type_ids);
    edges_free(build->edges);
    edges_csr_done(&build->csr);
    free_names(build->class_names, build->classes);
    free_names(build->node_type_names, build->node_type_count);
    mem_free(build->labels);
    mem_free(build->split);
    mem_free(build->node_types);
    mem_free(build->label_pairs);
    mem_free(build->targets);
    mem_free(build->valid_edges.items);
    mem_free(build->test_edges.items);
}

int build_reject(const struct place *place, int code, struct error *reterr, const char *format,
                 ...) {
    char text[480], shown[480];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (place->rows)
        return rows_reject(place->rows, place->number, place->column, code, reterr, "%s", text);
    return error_set(reterr, code, "%s[%llu]: %s", place->path, (unsigned long long)place->number,
                     text_printable(text, shown, sizeof shown));
}

void build_remark(struct build *build, const char *path, const char *text) {
    char *remarks = build->summary->remarks;
    size_t len = strlen(remarks);
    _cleanup_(mem_free_p) char *line = mem_printf("%s: %s\n", path, text);
    if (!strstr(remarks, line) && len + strlen(line) < sizeof build->summary->remarks)
        strcpy(remarks + len, line);
}

int build_progress(struct build *build, const char *what, uint64_t done, uint64_t total,
                   struct error *reterr) {
    if (interrupted)
        return error_set(reterr, ERR_INTERRUPTED,
                         "interrupted; nothing was written, the same command begins anew");
    if (build->progress && done != build->progress_was)
        build->progress(build->progress_ctx, what, done, total, build->rows);
    build->progress_was = done;
    return 0;
}

int build_nodes(struct build *build, uint64_t nodes, struct error *reterr) {
    if (nodes > CSR_NODES_MAX)
        return error_set(reterr, ERR_RANGE,
                         "%s: more than 2^31 - 1 nodes; graphps numbers nodes with 32 bits",
                         build->options->source ? build->options->source : build->options->edges);
    if (nodes > build->cap) {
        uint64_t old = build->cap, cap = old + old / 2 > nodes ? old + old / 2 : nodes;
        build->labels =
            mem_resize(build->labels, old * sizeof *build->labels, cap * sizeof *build->labels);
        build->split = mem_resize(build->split, old, cap);
        if (build->node_types)
            build->node_types = mem_resize(build->node_types, old, cap);
        size_t row = build->classes * sizeof *build->targets;
        if (build->targets)
            build->targets = mem_resize(build->targets, old * row, cap * row);
        for (uint64_t i = old; i < cap; i++)
            build->labels[i] = LABEL_UNSEEN;
        build->cap = cap;
    }
    if (nodes > build->nodes)
        build->nodes = nodes;
    return 0;
}

int build_nodes_said(struct build *build, const char *path, uint64_t nodes, uint64_t entries,
                     struct error *reterr) {
    if (nodes > NODES_FREE && (nodes - NODES_FREE) / NODES_EACH > entries)
        return error_set(reterr, ERR_RANGE,
                         "%s: says there are %llu nodes, but has %llu entries; more than %llu "
                         "nodes for each of them cannot be right",
                         path, (unsigned long long)nodes, (unsigned long long)entries, NODES_EACH);
    return build_nodes(build, nodes, reterr);
}

void build_numbers_end(struct build *build) {
    uint64_t end = NODES_FREE + NODES_EACH * edges_count(build->edges);
    end = end > build->nodes ? end : build->nodes;
    build->numbers_end = end < CSR_NODES_MAX ? end : CSR_NODES_MAX;
}

int build_resolve(struct build *build, const struct id_key *keys, size_t n, int32_t *numbers,
                  struct error *reterr) {
    if (build->ids && build->open) {
        if (!ids_add(build->ids, keys, n, CSR_NODES_MAX, numbers))
            return build_nodes(build, (uint64_t)CSR_NODES_MAX + 1, reterr);
        return build_nodes(build, ids_count(build->ids), reterr);
    }
    if (build->ids) {
        ids_find(build->ids, keys, n, numbers);
        return 0;
    }
    uint64_t nodes = build->nodes, most = build->nodes;
    if (build->open)
        nodes = build->numbers_end ? build->numbers_end : CSR_NODES_MAX;
    for (size_t i = 0; i < n; i++) {
        bool there = !keys[i].text && keys[i].integer >= 0 && (uint64_t)keys[i].integer < nodes;
        numbers[i] = there ? (int32_t)keys[i].integer : -1;
        if (there && (uint64_t)keys[i].integer >= most)
            most = (uint64_t)keys[i].integer + 1;
    }
    return build_nodes(build, most, reterr);
}

int build_unknown(struct build *build, const struct place *place, const char *what,
                  const struct id_key *key, struct error *reterr) {
    char integer[24];
    snprintf(integer, sizeof integer, "%lld", (long long)key->integer);
    const char *text = key->text ? key->text : integer;
    int len = key->text ? (int)(key->len < 100 ? key->len : 100) : (int)strlen(integer);
    if (!build->ids)
        return build_reject(place, ERR_RANGE, reterr, "%s %.*s is no node; nodes are 0 to %llu",
                            what, len, text, (unsigned long long)build->nodes - 1);
    return build_reject(place, ERR_NOT_FOUND, reterr, "%s \"%.*s\" is no id in %s", what, len, text,
                        build->nodes_path);
}

const char *build_name(const struct build *build, uint64_t node, char *buf, size_t buf_bytes) {
    char text[80];
    if (build->ids)
        snprintf(buf, buf_bytes, "\"%s\"", ids_text(build->ids, node, text, sizeof text));
    else
        snprintf(buf, buf_bytes, "%llu", (unsigned long long)node);
    return buf;
}

const char *build_split_name(enum split split) {
    static const char *const names[] = {"none", "train", "valid", "test"};
    return names[split];
}

int build_features_begin(struct build *build, const struct place *place, uint64_t feature_dim,
                         struct error *reterr) {
    if (feature_dim < 1 || feature_dim > FEATURE_DIM_MAX)
        return build_reject(place, ERR_RANGE, reterr, "%llu features a node; there must be 1 to %u",
                            (unsigned long long)feature_dim, FEATURE_DIM_MAX);
    build->feature_dim = (uint32_t)feature_dim;
    _cleanup_(mem_free_p) char *path = mem_printf("%s/features.npy", build->tmp);
    return npy_create(path, build->options->half ? NPY_F2 : NPY_F4, feature_dim, &build->features,
                      reterr);
}

int build_features(struct build *build, const float *rows, uint64_t n, struct error *reterr) {
    uint64_t items = n * build->feature_dim;
    if (!build->options->half)
        return npy_append(build->features, rows, items, reterr);
    uint16_t half[4096];
    int r = 0;
    for (uint64_t at = 0; r == 0 && at < items; at += ARRAY_LEN(half)) {
        uint64_t len = items - at < ARRAY_LEN(half) ? items - at : ARRAY_LEN(half);
        vec()->halve(rows + at, len, NULL, half);
        r = npy_append(build->features, half, len, reterr);
    }
    return r;
}

int build_features_end(struct build *build, const char *path, struct error *reterr) {
    if (build->nodes == 0)
        return error_set(reterr, ERR_FORMAT, "%s: there are no nodes in it", path);
    return npy_commit(TAKE_PTR(build->features), reterr);
}

static int label_in_range(struct build *build, const struct place *place, uint64_t node,
                          int64_t label, struct error *reterr) {
    char name[96];
    if (label >= 0 && label < LABEL_MAX)
        return 1;
    return build_reject(place, ERR_RANGE, reterr,
                        "label %lld of node %s is out of range; labels are 0 to %d, and -1, nan or "
                        "nothing where there is none",
                        (long long)label, build_name(build, node, name, sizeof name),
                        LABEL_MAX - 1);
}

int build_label(struct build *build, const struct place *place, uint64_t node, bool missing,
                int64_t label, struct error *reterr) {
    char name[96];
    if (build->labels[node] != LABEL_UNSEEN)
        return build_reject(place, ERR_FORMAT, reterr, "node %s has a label already",
                            build_name(build, node, name, sizeof name));
    if (!missing) {
        int r = label_in_range(build, place, node, label, reterr);
        if (r <= 0)
            return r;
    }
    build->labels[node] = missing ? -1 : (int32_t)label;
    if (!missing && label >= build->classes)
        build->classes = (uint32_t)label + 1;
    return 0;
}

void build_labelled(struct build *build, uint64_t node) {
    build->labels[node] = 0;
}

void build_unlabelled(struct build *build, uint64_t node, uint64_t pairs) {
    build->labels[node] = -1;
    build->label_pair_count = pairs;
}

int build_label_one_more(struct build *build, const struct place *place, uint64_t node,
                         int64_t label, struct error *reterr) {
    int r = label_in_range(build, place, node, label, reterr);
    if (r <= 0)
        return r;
    if (build->label_pair_count == build->label_pair_cap) {
        uint64_t cap = build->label_pair_cap ? 2 * build->label_pair_cap : 4096;
        build->label_pairs =
            mem_resize(build->label_pairs, build->label_pair_cap * 2 * sizeof *build->label_pairs,
                       cap * 2 * sizeof *build->label_pairs);
        build->label_pair_cap = cap;
    }
    int32_t *pair = build->label_pairs + 2 * build->label_pair_count++;
    pair[0] = (int32_t)node;
    pair[1] = (int32_t)label;
    build_labelled(build, node);
    if (label >= build->classes)
        build->classes = (uint32_t)label + 1;
    return 0;
}

int build_targets_begin(struct build *build, const struct place *place, uint64_t targets,
                        struct error *reterr) {
    if (targets < 1 || targets > TARGETS_MAX)
        return error_set(reterr, ERR_RANGE, "%s: %llu targets a node; there must be 1 to %u",
                         place->path, (unsigned long long)targets, TARGETS_MAX);
    build->classes = (uint32_t)targets;
    build->targets = mem_array((build->cap + 1) * targets, sizeof *build->targets);
    return 0;
}

int build_target_row(struct build *build, const struct place *place, uint64_t node,
                     const float *values, const uint32_t *columns, struct error *reterr) {
    char name[96];
    if (build->labels[node] != LABEL_UNSEEN)
        return build_reject(place, ERR_FORMAT, reterr, "node %s has targets already",
                            build_name(build, node, name, sizeof name));
    bool missing = false;
    for (uint32_t k = 0; k < build->classes; k++) {
        missing |= isnan(values[k]);
        struct place here = *place;
        here.column = columns ? columns[k] : 0;
        if (isinf(values[k]))
            return build_reject(&here, ERR_NOT_FINITE, reterr,
                                "target %u of node %s is infinite; every target must be a finite "
                                "number (32 bits: below 3.4e38), or nan or nothing where there is "
                                "none",
                                k, build_name(build, node, name, sizeof name));
    }
    build->labels[node] = missing ? -1 : 0;
    if (!missing)
        memcpy(build->targets + node * build->classes, values, build->classes * sizeof *values);
    return 0;
}

int build_split(struct build *build, const struct place *place, uint64_t node, enum split split,
                struct error *reterr) {
    char name[96];
    if (build->split[node] == split)
        return build_reject(place, ERR_FORMAT, reterr, "node %s is listed twice",
                            build_name(build, node, name, sizeof name));
    if (build->split[node] != SPLIT_NONE)
        return build_reject(place, ERR_FORMAT, reterr,
                            "node %s is in %s and in %s; it can be in one of them only",
                            build_name(build, node, name, sizeof name),
                            build_split_name(build->split[node]), build_split_name(split));
    build->split[node] = (uint8_t)split;
    return 0;
}

int build_split_ratio(struct build *build, struct error *reterr) {
    const double *ratio = build->options->ratio;
    _cleanup_(mem_free_p) int32_t *order = mem_array(build->nodes + 1, sizeof *order);
    uint64_t n = 0;
    for (uint64_t i = 0; i < build->nodes; i++)
        if (build->labels[i] >= 0)
            order[n++] = (int32_t)i;
    if (n == 0)
        return error_set(reterr, ERR_USAGE,
                         "--split-ratio splits the nodes that have labels, and none has");
    uint64_t key = rng_key(build->options->split_seed, 0x73706c69); /* Fisher & Yates */
    for (uint64_t i = n; i > 1; i--) {
        uint64_t j = rng_below(rng_at(key, i), i);
        int32_t swap = order[i - 1];
        order[i - 1] = order[j];
        order[j] = swap;
    }
    /* Rounded where they end, so that shares of 1 together leave no node over. */
    uint64_t train = (uint64_t)llround(ratio[0] * (double)n);
    uint64_t valid = (uint64_t)llround((ratio[0] + ratio[1]) * (double)n);
    uint64_t test = (uint64_t)llround((ratio[0] + ratio[1] + ratio[2]) * (double)n);
    for (uint64_t i = 0; i < n && i < test; i++)
        build->split[order[i]] = (uint8_t)(i < train   ? SPLIT_TRAIN
                                           : i < valid ? SPLIT_VALID
                                                       : SPLIT_TEST);
    return 0;
}
