/* Opening a snapshot one file of which is bytes from anywhere. The first byte says which; when it
 * is an array the manifest is made to fit, checksums and all. What opens must be whole: rows,
 * types, labels and ids can be walked. */
#include <jansson.h>

#include "tests/fuzz/scratch.h"
#include "worker/graph/import.h"
#include "worker/graph/manifest.h"
#include "worker/graph/snapshot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The graph of this test has one of everything. */
static const struct {
    char letter;
    const char *name;
} kinds[] = {{'m', "manifest.json"},    {'p', "indptr.npy"},     {'i', "indices.npy"},
             {'l', "labels.npy"},       {'s', "split.npy"},      {'f', "features.npy"},
             {'t', "node_types.npy"},   {'T', "edge_types.npy"}, {'w', "edge_weights.npy"},
             {'v', "valid_edges.npy"},  {'o', "id_offsets.npy"}, {'b', "id_bytes.npy"},
             {'L', "multi_labels.npy"}, {'d', "ids.npy"}};

static char *manifest, *dir; /* the manifest's text; the snapshot's directory below scratch */
static size_t manifest_len;
static struct {
    char *bytes;
    size_t len;
} files[sizeof kinds / sizeof *kinds];

static void make(void) {
    static struct import_summary summary;
    struct error err = {0};
    scratch_make();
    if (dir_make(scratch_path("in"), &err) < 0)
        abort();
    static const char edges[] = "source,target,weight,type\na,b,1,x\nb,c,2,y\nc,a,0.5,x\n";
    static const char nodes[] = "id,type\na,u\nb,v\nc,u\n", labels[] = "a,r,s\nb,s\n";
    static const char valid[] = "source,target,type\na,c,x\n", train[] = "a\nb\n";
    scratch_write("in/edges.csv", edges, sizeof edges - 1);
    scratch_write("in/nodes.csv", nodes, sizeof nodes - 1);
    scratch_write("in/labels.csv", labels, sizeof labels - 1);
    scratch_write("in/valid_edges.csv", valid, sizeof valid - 1);
    scratch_write("in/train.csv", train, sizeof train - 1);
    static const float features[] = {1, 2, 3};
    if (npy_write(scratch_path("in/features.npy"), NPY_F4, 3, 1, features, &err) < 0)
        abort();
    struct import_options options = {.source = scratch_path("in"),
                                     .root = scratch_path("out"),
                                     .name = "g",
                                     .version = "1.0.0",
                                     .multi_label = true};
    if (import_run(&options, NULL, NULL, &summary, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    dir = strdup("out/snapshots/g@1.0.0");
    if (file_read_whole(scratch_path("out/snapshots/g@1.0.0/manifest.json"), 1 << 20, &manifest,
                        &manifest_len, &err) < 0)
        abort();
    for (size_t i = 1; i < sizeof kinds / sizeof *kinds; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s/%s", dir, kinds[i].name);
        if (file_exists(scratch_path(name)) &&
            file_read_whole(scratch_path(name), 1 << 20, &files[i].bytes, &files[i].len, &err) < 0)
            abort();
    }
}

/* Adds up all there is, so that a sanitizer sees what lies outside. */
static void walk(const struct snapshot *s) {
    const int64_t *indptr = s->indptr.data;
    const int32_t *indices = s->indices.data, *types = s->edge_type.data, *aside;
    uint64_t sum = 0;
    char id[32];
    for (uint64_t i = 0; i < s->nodes; i++) {
        for (int64_t e = indptr[i]; e < indptr[i + 1]; e++) {
            sum += (uint64_t)indptr[indices[e]];
            if (types)
                sum += strlen(s->edge_type_names[types[e]]);
            if (s->edge_weights.data)
                sum += ((const uint32_t *)s->edge_weights.data)[e];
        }
        if (s->node_type.data)
            sum += strlen(s->node_type_names[((const uint8_t *)s->node_type.data)[i]]);
        int32_t label = ((const int32_t *)s->labels.data)[i];
        if (label >= 0 && s->class_names)
            sum += strlen(s->class_names[label]);
        sum += strlen(snapshot_id(s, i, id, sizeof id)) + ((const uint8_t *)s->split.data)[i];
        for (uint32_t k = 0; s->features.data && k < s->feature_dim; k++)
            sum += npy_double(&s->features, i * s->feature_dim + k) > 0;
        for (uint32_t k = 0; s->multi_labels.data && k < s->classes; k++)
            sum += ((const uint8_t *)s->multi_labels.data)[i * s->classes + k];
    }
    aside = s->valid_edges.data;
    for (uint64_t i = 0; aside && i < s->valid_edges.shape[0]; i++)
        sum += (uint64_t)indptr[aside[i * s->valid_edges.shape[1]]];
    volatile uint64_t keep = sum;
    (void)keep;
}

static void open_it(bool verify) {
    struct snapshot *s = NULL;
    struct error err = {0};
    int r = snapshot_open(scratch_path(dir), verify, &s, &err);
    if (r < 0 && (err.code != r || !err.text[0]))
        abort();
    if (r == 0)
        walk(s);
    snapshot_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    size_t kind = 0;
    char name[64];
    if (!dir)
        make();
    while (size >= 1 && kind < sizeof kinds / sizeof *kinds && kinds[kind].letter != data[0])
        kind++;
    if (size < 1 || kind == sizeof kinds / sizeof *kinds)
        return 0;
    snprintf(name, sizeof name, "%s/%s", dir, kinds[kind].name);
    scratch_write(name, data + 1, size - 1);
    if (kind > 0) {
        struct error err = {0};
        json_t *fields = json_loadb(manifest, manifest_len, 0, NULL);
        if (!fields || manifest_write(scratch_path(dir), fields, &err) < 0)
            abort();
        json_decref(fields);
    }
    open_it(true);
    open_it(false);
    /* As it was. */
    if (files[kind].bytes)
        scratch_write(name, files[kind].bytes, files[kind].len);
    else if (kind > 0)
        (void)remove(scratch_path(name));
    snprintf(name, sizeof name, "%s/manifest.json", dir);
    scratch_write(name, manifest, manifest_len);
    return 0;
}
