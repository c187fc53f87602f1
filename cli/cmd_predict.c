/* graphps predict: an exported model and a job's snapshot give a class for every node, under the
 * user's ids; or, where links were learnt, embeddings, scores of pairs, and ranks. */
#include <argp.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/predict_links.h"
#include "cli/predict_out.h"
#include "cli/predict_row.h"
#include "common/file.h"
#include "common/mem.h"
#include "proto/score.h"
#include "worker/graph/mfg.h"
#include "worker/graph/store.h"
#include "worker/model/confusion.h"
#include "worker/model/infer.h"
#include "worker/model/link_head.h"
#include "worker/model/spread.h"
#include "worker/model/tensors.h"

enum { KEY_MODEL = 256, KEY_LINKS, KEY_EVALUATE };

static const struct argp_option options[] = {
    {"model", KEY_MODEL, "FILE", 0, "The model, as `graphps export` and `graphps train` write it",
     0},
    {"out", 'o', "FILE", 0, "The CSV file to write; - for standard output", 0},
    {"links", KEY_LINKS, "FILE", 0,
     "A model of links: score the pairs of this table, source,target[,type], by the user's ids", 0},
    {"evaluate", KEY_EVALUATE, NULL, 0,
     "A model of links: rank the held-out links, each among all nodes", 0},
    {0},
};
static const struct argp_child children[] = {{&args_job_argp, 0, NULL, 0}, {0}};

struct arguments {
    struct args_job job;
    const char *model, *out, *links;
    bool evaluate;
};

struct predict {
    const struct config *config;
    struct snapshot *snapshot;
    struct store *store;
    json_t *metadata;
    struct tensor_spec *tensors;
    size_t tensor_count;
    float *file_weights, *weights; /* as in the file, and in the model's order */
    const float *rows;             /* [nodes, embedding] of the file's, where the model has them */
    struct model_spec spec;
    struct link_head_spec head; /* dim 0: a model of nodes */
    struct infer *infer;
};

static error_t parse_option(int key, char *arg, struct argp_state *state) {
    struct arguments *arguments = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &arguments->job;
        return 0;
    case KEY_MODEL:
        arguments->model = arg;
        return 0;
    case 'o':
        arguments->out = arg;
        return 0;
    case KEY_LINKS:
        arguments->links = arg;
        return 0;
    case KEY_EVALUATE:
        arguments->evaluate = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\"", arg);
        return 0;
    case ARGP_KEY_END:
        if (!arguments->model || !arguments->job.config_path ||
            (!arguments->out && (arguments->links || !arguments->evaluate)))
            argp_error(state, "give --model FILE, --config FILE and --out FILE");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void predict_done(struct predict *p) {
    infer_free(p->infer);
    mem_free(p->weights);
    mem_free(p->file_weights);
    mem_free(p->tensors);
    json_decref(p->metadata);
    store_close(p->store);
    snapshot_close(p->snapshot);
}

static const char *metadata_text(const struct predict *p, const char *key) {
    const char *text = json_string_value(json_object_get(p->metadata, key));
    return text ? text : "";
}

/* The model's shape, from the file alone: a job file that has changed since must not bend it. */
static int predict_read_spec(struct predict *p, const char *path, struct error *reterr) {
    struct error cause = {0};
    p->spec = (struct model_spec){0};
    p->spec.embedding = (uint32_t)strtoul(metadata_text(p, "embedding"), NULL, 10);
    uint32_t outputs = p->head.dim ? p->head.dim : p->snapshot->classes;
    if (model_spec_parse(metadata_text(p, "layers"), p->snapshot->feature_dim + p->spec.embedding,
                         outputs, &p->spec, &cause) < 0)
        return error_set(reterr, ERR_FORMAT,
                         "%s: its metadata does not describe a model of graphps (layers): %s", path,
                         cause.text);
    if (model_spec_outputs(&p->spec) != outputs)
        return error_set(reterr, ERR_WRONG_LAYOUT,
                         "%s: the model gives %u numbers for each node of snapshot %s@%s, and %u "
                         "are wanted; was it trained on another snapshot?",
                         path, model_spec_outputs(&p->spec), p->snapshot->name,
                         p->snapshot->version, outputs);
    return 0;
}

/* Of links a model says how wide its embeddings are and what scores them. */
static int predict_read_head(struct predict *p, const struct arguments *arguments,
                             struct error *reterr) {
    const char *decoder = metadata_text(p, "decoder");
    unsigned long dim = strtoul(metadata_text(p, "dim"), NULL, 10);
    if (!decoder[0] && !arguments->links && !arguments->evaluate)
        return 0;
    if (!decoder[0])
        return error_set(reterr, ERR_USAGE,
                         "%s: the model is of nodes; %s is for those that are trained with "
                         "train.task links",
                         arguments->model, arguments->links ? "--links" : "--evaluate");
    p->head = (struct link_head_spec){
        .decoder = predict_links_decoder(decoder),
        .dim = (uint32_t)dim,
        .relations = p->snapshot->edge_types ? p->snapshot->edge_types : 1,
    };
    if (p->head.decoder < 0 || dim < 1 || dim > UINT16_MAX)
        return error_set(reterr, ERR_FORMAT,
                         "%s: its metadata does not describe a decoder of graphps (decoder, dim)",
                         arguments->model);
    return 0;
}

/* Classes are numbers in a model. Only the snapshot says what they are called, and whether a node
 * may have several. */
static int predict_check_snapshot(struct predict *p, const char *command, const char *path,
                                  struct error *reterr) {
    const char *several = metadata_text(p, "multi_label"), *was = metadata_text(p, "snapshot");
    bool is_several = p->snapshot->multi_labels.data != NULL;
    if (!p->head.dim && several[0] && (strcmp(several, "true") == 0) != is_several)
        return error_set(reterr, ERR_WRONG_LAYOUT,
                         "%s: the model is for %s, those of snapshot %s@%s may have %s", path,
                         is_several ? "one label a node" : "several labels a node",
                         p->snapshot->name, p->snapshot->version,
                         is_several ? "several" : "only one");
    const char *task = metadata_text(p, "task"),
               *regression = score_task_name(GRAPHPS__TASK__REGRESSION);
    bool has_targets = p->snapshot->targets.data != NULL;
    if (task[0] && (strcmp(task, regression) == 0) != has_targets)
        return error_set(reterr, ERR_WRONG_LAYOUT, "%s: the model is for %s, snapshot %s@%s has %s",
                         path, has_targets ? "classes" : "target values", p->snapshot->name,
                         p->snapshot->version, has_targets ? "targets" : "none");
    const char *digest = metadata_text(p, "snapshot_digest");
    if (digest[0] && strcmp(digest, p->snapshot->digest) != 0)
        fprintf(stderr,
                "%s: warning: the model was trained on another snapshot (%s) than %s@%s: its "
                "%s are taken for this one's by their order\n",
                command, was, p->snapshot->name, p->snapshot->version,
                p->head.dim   ? "features"
                : has_targets ? "targets"
                              : "classes");
    return 0;
}

/* Rows are learned for the nodes of one snapshot, and say nothing of another's. */
static int predict_find_rows(struct predict *p, const char *path, struct error *reterr) {
    if (p->spec.embedding == 0)
        return 0;
    size_t at = 0, k = 0;
    while (k < p->tensor_count && strcmp(p->tensors[k].name, "embedding") != 0) {
        at += (size_t)p->tensors[k].rows * p->tensors[k].cols;
        k++;
    }
    if (k == p->tensor_count || p->tensors[k].cols != p->spec.embedding)
        return error_set(reterr, ERR_FORMAT, "%s: it has no rows of %u floats for the nodes", path,
                         p->spec.embedding);
    if (p->tensors[k].rows != p->snapshot->nodes ||
        strcmp(metadata_text(p, "snapshot_digest"), p->snapshot->digest) != 0)
        return error_set(
            reterr, ERR_WRONG_LAYOUT,
            "%s: the model has learned rows for the %u nodes of %s, and none for those "
            "of snapshot %s@%s",
            path, p->tensors[k].rows, metadata_text(p, "snapshot"), p->snapshot->name,
            p->snapshot->version);
    p->rows = p->file_weights + at;
    return 0;
}

/* The store is of the whole snapshot: local numbers are global ones. */
static int predict_take_rows(void *ctx, uint64_t first, uint32_t count, float *ret) {
    const struct predict *p = ctx;
    size_t dim = p->spec.embedding;
    memcpy(ret, p->rows + first * dim, count * dim * sizeof *ret);
    return 0;
}

/* Copies the file's tensors into the model's order, by name. */
static int predict_place_weights(struct predict *p, const char *path, struct error *reterr) {
    _cleanup_(mem_free_p) struct tensor_spec *wanted = NULL;
    size_t count = p->head.dim ? link_head_tensors(&p->head, &p->spec, &wanted)
                               : model_tensors(&p->spec, &wanted);
    size_t total = 0, done = 0;
    for (size_t i = 0; i < count; i++)
        total += (size_t)wanted[i].rows * wanted[i].cols;
    p->weights = mem_array(total, sizeof(float));
    for (size_t i = 0; i < count; i++) {
        size_t floats = (size_t)wanted[i].rows * wanted[i].cols, at = 0, k = 0;
        while (k < p->tensor_count && strcmp(p->tensors[k].name, wanted[i].name) != 0) {
            at += (size_t)p->tensors[k].rows * p->tensors[k].cols;
            k++;
        }
        if (k == p->tensor_count)
            return error_set(reterr, ERR_WRONG_LAYOUT, "%s: tensor %s is missing", path,
                             wanted[i].name);
        if (p->tensors[k].rows != wanted[i].rows || p->tensors[k].cols != wanted[i].cols)
            return error_set(reterr, ERR_WRONG_LAYOUT,
                             "%s: tensor %s is %u x %u, but snapshot %s@%s with %u features and %u "
                             "classes needs %u x %u; was the model trained on another snapshot?",
                             path, wanted[i].name, p->tensors[k].rows, p->tensors[k].cols,
                             p->snapshot->name, p->snapshot->version, p->snapshot->feature_dim,
                             p->snapshot->classes, wanted[i].rows, wanted[i].cols);
        memcpy(p->weights + done, p->file_weights + at, floats * sizeof(float));
        done += floats;
    }
    return 0;
}

static int predict_open(struct predict *p, const struct arguments *arguments,
                        struct error *reterr) {
    const struct config *config = p->config;
    _cleanup_(mem_free_p) char *dir = NULL;
    int r = tensors_read(arguments->model, &p->tensors, &p->tensor_count, &p->file_weights,
                         &p->metadata, reterr);
    if (r == 0)
        r = snapshot_find(config->data_root, config->data_snapshot, &dir, reterr);
    if (r == 0)
        r = snapshot_open(dir, config->data_verify, &p->snapshot, reterr);
    if (r == 0)
        r = predict_read_head(p, arguments, reterr);
    if (r == 0)
        r = predict_check_snapshot(p, "graphps predict", arguments->model, reterr);
    if (r == 0)
        r = predict_read_spec(p, arguments->model, reterr);
    if (r == 0)
        r = predict_find_rows(p, arguments->model, reterr);
    if (r == 0)
        r = predict_place_weights(p, arguments->model, reterr);
    if (r < 0)
        return r;
    bool normalize = strcmp(metadata_text(p, "normalize_features"), "true") == 0;
    p->store = store_from_snapshot(p->snapshot, normalize);
    r = mfg_check(p->store, &p->spec, reterr);
    if (r < 0)
        return r;
    p->infer = infer_new(&p->spec, p->store);
    infer_set_rows(p->infer, predict_take_rows, p);
    return 0;
}

struct rows {
    const struct snapshot *snapshot;
    const float *logits;
};

static void put_row(FILE *out, void *ctx, uint64_t node) {
    const struct rows *rows = ctx;
    predict_row(out, rows->snapshot, node, rows->logits + node * rows->snapshot->classes);
}

static void predict_print_errors(const struct model_result *result, int split, const char *name,
                                 FILE *summary) {
    double count = (double)result->count[split];
    fprintf(summary, "%-5s RMSE %s of %lu, MAE %s\n", name,
            score_text(SCORE_RMSE, sqrt(result->loss_sum[split] / count), 3).text,
            (unsigned long)result->count[split],
            score_text(SCORE_MAE, result->absolute_sum[split] / count, 3).text);
}

/* ROC-AUC and average precision, where one of them chose the model. */
static void predict_print_curves(const struct predict *p, const float *logits, int split,
                                 FILE *summary) {
    static const enum score curves[] = {SCORE_ROC_AUC, SCORE_AVERAGE_PRECISION};
    const struct store *store = p->store;
    enum score metric = SCORE_ACCURACY;
    score_find(metadata_text(p, "metric"), &metric);
    Graphps__Task task =
        store->multi_labels ? GRAPHPS__TASK__MULTI_LABEL : GRAPHPS__TASK__SINGLE_LABEL;
    size_t rows = score_histogram_rows(task, store->classes);
    if (rows == 0 || (metric != SCORE_ROC_AUC && metric != SCORE_AVERAGE_PRECISION))
        return;
    _cleanup_(mem_free_p) uint64_t *histogram =
        mem_array(score_histogram_cells(rows), sizeof *histogram);
    spread_add(store->owned, store->classes, logits, store->labels, store->multi_labels,
               store->split, (enum split)split, histogram);
    for (size_t i = 0; i < ARRAY_LEN(curves); i++)
        fprintf(summary, ", %s %s", score_title(curves[i]),
                score_text(curves[i],
                           curves[i] == SCORE_ROC_AUC ? score_roc_auc(rows, histogram)
                                                      : score_average_precision(rows, histogram),
                           2)
                    .text);
}

/* How right it is where that is known: F1 of all classes together where a node may have several. */
static void predict_print_scores(const struct predict *p, const float *logits,
                                 const struct model_result *result, FILE *summary) {
    static const char *const names[] = {NULL, "train", "valid", "test"};
    const struct store *store = p->store;
    size_t rows = score_rows(store->classes);
    _cleanup_(mem_free_p) uint64_t *counts = mem_array(rows * SCORE_CELLS, sizeof *counts);
    for (int s = SPLIT_TRAIN; s <= SPLIT_TEST; s++) {
        if (result->count[s] == 0)
            continue;
        if (store->targets) {
            predict_print_errors(result, s, names[s], summary);
            continue;
        }
        memset(counts, 0, rows * SCORE_CELLS * sizeof *counts);
        confusion_add(store->owned, store->classes, logits, store->labels, store->multi_labels,
                      store->split, s, rows, counts);
        double micro = score_micro_f1(rows, counts), macro = score_macro_f1(rows, counts);
        double right = (double)result->correct[s] / (double)result->count[s];
        if (!store->multi_labels)
            fprintf(summary, "%-5s accuracy %.2f %% of %lu", names[s], 100 * right,
                    (unsigned long)result->count[s]);
        else
            fprintf(summary, "%-5s micro-F1 %.2f %% of %lu, right in all classes %.2f %%", names[s],
                    100 * (micro > 0 ? micro : 0), (unsigned long)result->count[s], 100 * right);
        if (rows == store->classes && macro >= 0)
            fprintf(summary, ", macro-F1 %.2f %%", 100 * macro);
        predict_print_curves(p, logits, s, summary);
        fputc('\n', summary);
    }
}

static const char *out_name(const char *path) {
    return predict_out_piped(path) ? "standard output" : path;
}

static int predict_nodes(struct predict *p, const char *path, FILE *summary, struct error *reterr) {
    struct model_result result;
    struct rows rows = {p->snapshot, infer_run(p->infer, p->weights, &result)};
    int r = predict_out(path, predict_row_head(p->snapshot), p->snapshot->nodes, put_row, &rows,
                        reterr);
    if (r < 0)
        return r;
    fprintf(summary, "%s: %lu nodes of %s@%s\n", out_name(path), (unsigned long)p->snapshot->nodes,
            p->snapshot->name, p->snapshot->version);
    predict_print_scores(p, rows.logits, &result, summary);
    return 0;
}

static int predict_links(struct predict *p, const struct arguments *arguments, FILE *summary,
                         struct error *reterr) {
    size_t pairs = 0;
    const struct predict_links links = {
        .config = p->config,
        .snapshot = p->snapshot,
        .store = p->store,
        .decoder = p->head.decoder,
        .dim = p->head.dim,
        .outputs = infer_run(p->infer, p->weights + link_head_floats(&p->head), NULL),
        .weights = p->weights, /* they come before the model's */
    };
    const char *path = arguments->out;
    int r = 0;
    if (arguments->links)
        r = predict_links_scores(&links, arguments->links, path, &pairs, reterr);
    else if (path)
        r = predict_links_embeddings(&links, path, reterr);
    if (r < 0)
        return r;
    if (path)
        fprintf(summary, "%s: %lu %s of %s@%s\n", out_name(path),
                (unsigned long)(arguments->links ? pairs : p->snapshot->nodes),
                arguments->links ? "pairs" : "nodes", p->snapshot->name, p->snapshot->version);
    if (arguments->evaluate)
        predict_links_evaluate(&links, summary);
    return 0;
}

static int predict_run(struct predict *p, const struct arguments *arguments, struct error *reterr) {
    bool piped = arguments->out && predict_out_piped(arguments->out);
    FILE *summary = piped ? stderr : stdout;
    int r = piped || !arguments->out ? 0 : file_may_create(arguments->out, reterr);
    if (r == 0)
        r = predict_open(p, arguments, reterr);
    if (r < 0)
        return r;
    return p->head.dim ? predict_links(p, arguments, summary, reterr)
                       : predict_nodes(p, arguments->out, summary, reterr);
}

int cmd_predict(int argc, char **argv) {
    static const struct argp argp = {
        .options = options,
        .parser = parse_option,
        .children = children,
        .doc =
            "Predict a class, or target values, for every node of the job's snapshot, or score "
            "links.\v"
            "The file has the columns id, prediction, probability, label (when known) and split; "
            "where nodes have targets id, prediction, target (when known) and split. "
            "Where nodes may have several labels it names all classes that are more probable than "
            "not, joined by ;. "
            "Of a model of links it has each node's embedding (id, e0, e1, ...), or with --links "
            "the pairs and their scores. --evaluate prints how the snapshot's held-out links rank, "
            "all known links but the one at hand left out. "
            "Of the job file only data.root, data.snapshot and data.verify are used, by --evaluate "
            "also job.seed and train.metric_k.",
    };
    struct arguments arguments = {0};
    argp_parse(&argp, argc, argv, 0, NULL, &arguments);
    struct config *config = NULL;
    int exit_code =
        error_exit_code(args_load_config(&arguments.job, config_check_snapshot, &config));
    if (config) {
        struct error err = {0};
        struct predict predict = {.config = config};
        if (predict_run(&predict, &arguments, &err) < 0)
            exit_code = cli_fail(argv[0], &err);
        predict_done(&predict);
    }
    config_free(config);
    args_job_done(&arguments.job);
    return exit_code;
}
