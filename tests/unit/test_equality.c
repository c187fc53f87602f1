/* With a halo of as many hops as the model has layers, P partitions compute what one process does:
 * the same logits for every node, and gradients that add up, dropout included. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/rng.h"
#include "tests/graphs.h"
#include "worker/graph/import.h"
#include "worker/graph/sampler.h"
#include "worker/kernels/kernels.h"
#include "worker/model/infer.h"
#include "worker/model/model.h"
#include "worker/job_check.h"
#include "worker/report.h"

/* What all partitions together make of one step. */
struct outcome {
    double *gradient; /* of the mean loss over all training nodes */
    float *logits;    /* [nodes, classes] by global node */
    uint64_t outputs; /* nodes that somebody computed */
    double loss_sum;  /* over training nodes */
    uint64_t trained;
    Graphps__Eval scores; /* of test nodes */
};

static struct layout *make_layout(const struct model_spec *spec) {
    struct tensor_spec *tensors;
    struct layout *layout;
    struct error err;
    size_t count = model_tensors(spec, &tensors);
    ck_assert_msg(layout_new(tensors, count, 1 << 16, 1, &layout, &err) == 0, "%s", err.text);
    mem_free(tensors);
    return layout;
}

/* One part's share: its gradient is of the mean over its own training nodes, so it counts by their
 * number. The second pass over the same batch is the one that counts: it uses all that a model
 * keeps from the first. */
static void add_part(const struct model_spec *spec, const struct layout *layout,
                     const float *weights, const struct store *store, struct outcome *sum) {
    struct full_batch *full = full_batch_new(store, &spec->hops);
    struct batch batch = *full_batch_get(full);
    struct model *model = model_new(spec);
    float *gradient = mem_array(layout->floats, sizeof *gradient);
    struct model_result result;
    for (batch.step = 4; batch.step <= 5; batch.step++) {
        model_forward(model, &batch, weights, true, &result);
        model_backward(model, &batch, weights, gradient);
    }
    double share = (double)batch.train_count / (double)store->train_nodes_total;
    for (uint64_t i = 0; i < layout->floats; i++)
        sum->gradient[i] += share * gradient[i];
    sum->loss_sum += result.loss_sum[SPLIT_TRAIN];
    sum->trained += result.count[SPLIT_TRAIN];

    const float *logits = model_forward(model, &batch, weights, false, NULL);
    ck_assert_uint_eq(batch.n_output, store->owned);
    for (uint32_t i = 0; i < batch.n_output; i++)
        memcpy(sum->logits + (size_t)batch.nodes[i] * spec->classes, logits + i * spec->classes,
               spec->classes * sizeof *logits);
    sum->outputs += batch.n_output;
    static const struct config nodes = {.train_task = TASK_NODES};
    struct report report;
    report_init(&report, store, job_task(&nodes, store), true);
    report_begin(&report, 1);
    report_validation(&report, logits, &result);
    score_sum_add(&sum->scores, &report.eval, true, true);
    report_done(&report);
    struct infer *infer = infer_new(spec, store);
    struct model_result whole, blocks;
    model_forward(model, &batch, weights, false, &whole);
    infer_run(infer, weights, &blocks);
    const float *again = infer_run(infer, weights, &blocks); /* in the buffers of the first */
    test_floats_equal("layer by layer", logits, again, store->owned * spec->classes, 1e-4, 1e-5);
    ck_assert_mem_eq(whole.count, blocks.count, sizeof whole.count);
    ck_assert_double_eq_tol(whole.loss_sum[SPLIT_TRAIN], blocks.loss_sum[SPLIT_TRAIN],
                            1e-5 * whole.loss_sum[SPLIT_TRAIN] + 1e-9);
    infer_free(infer);
    model_free(model);
    full_batch_free(full);
    mem_free(gradient);
}

static struct outcome run_parts(const char *dir, const struct model_spec *spec,
                                const struct layout *layout, const float *weights, uint32_t parts) {
    struct snapshot *snapshot;
    struct error err;
    bool existed;
    uint32_t halo = (uint32_t)spec->hops.count;
    ck_assert_msg(snapshot_open(dir, false, &snapshot, &err) == 0, "%s", err.text);
    ck_assert_msg(partition_make(snapshot, parts, halo, 1, &existed, &err) == 0, "%s", err.text);
    struct outcome sum = {
        .gradient = mem_array(layout->floats, sizeof(double)),
        .logits = mem_array(snapshot->nodes * spec->classes, sizeof(float)),
        .scores = GRAPHPS__EVAL__INIT,
    };
    for (uint32_t part = 0; part < parts; part++) {
        struct store *store;
        ck_assert_msg(store_open(dir, parts, halo, part, false, false, &store, &err) == 0, "%s",
                      err.text);
        add_part(spec, layout, weights, store, &sum);
        store_close(store);
    }
    ck_assert_uint_eq(sum.outputs, snapshot->nodes);
    snapshot_close(snapshot);
    return sum;
}

/* Each weight's gradient within 1e-4 of its own size or, for those near 0 by cancellation, of the
 * root mean square of its tensor's gradient. */
static void compare_gradients(const char *what, const struct layout *layout, const double *one,
                              const double *many) {
    for (size_t t = 0; t < layout->tensor_count; t++) {
        uint64_t begin = layout->tensor_offsets[t], end = layout->tensor_offsets[t + 1];
        double squares = 0;
        for (uint64_t i = begin; i < end; i++)
            squares += one[i] * one[i];
        double scale = sqrt(squares / (double)(end - begin));
        ck_assert_msg(scale > 1e-7, "%s: %s has no gradient", what, layout->tensors[t].name);
        for (uint64_t i = begin; i < end; i++)
            ck_assert_msg(fabs(one[i] - many[i]) <= 1e-4 * fmax(fabs(one[i]), scale),
                          "%s: %s[%llu]: %.9g in one process, %.9g in parts", what,
                          layout->tensors[t].name, (unsigned long long)(i - begin), one[i],
                          many[i]);
    }
}

/* Outputs that lie at a bin's edge may change the bin. */
static void compare_curves(const char *what, const Graphps__EpochStatus *a,
                           const Graphps__EpochStatus *b) {
    ck_assert_msg(a->test_roc_auc > 0 && fabs(a->test_roc_auc - b->test_roc_auc) < 1e-3 &&
                      fabs(a->test_average_precision - b->test_average_precision) < 1e-3,
                  "%s: ROC-AUC %.6f and %.6f, average precision %.6f and %.6f", what,
                  a->test_roc_auc, b->test_roc_auc, a->test_average_precision,
                  b->test_average_precision);
}

static void compare_errors(const char *what, const Graphps__Eval *one, const Graphps__Eval *many) {
    Graphps__EpochStatus a = GRAPHPS__EPOCH_STATUS__INIT, b = GRAPHPS__EPOCH_STATUS__INIT;
    ck_assert_uint_eq(one->test_count, many->test_count);
    score_validation(one, &a);
    score_validation(many, &b);
    ck_assert_msg(a.test_mae > 0 && a.test_mae <= a.test_rmse &&
                      fabs(a.test_rmse - b.test_rmse) < 1e-5 * a.test_rmse &&
                      fabs(a.test_mae - b.test_mae) < 1e-5 * a.test_mae && a.test_accuracy == -1,
                  "%s: RMSE %.6f and %.6f, MAE %.6f and %.6f", what, a.test_rmse, b.test_rmse,
                  a.test_mae, b.test_mae);
}

/* F1 of the test nodes: where a logit is a hair from 0 rounding may decide it, but no count is
 * lost or comes twice. */
static void compare_scores(const char *what, const Graphps__Eval *one, const Graphps__Eval *many) {
    Graphps__EpochStatus a = GRAPHPS__EPOCH_STATUS__INIT, b = GRAPHPS__EPOCH_STATUS__INIT;
    ck_assert_uint_eq(one->n_test_counts, score_rows(one->classes) * SCORE_CELLS);
    ck_assert_uint_eq(one->n_test_counts, many->n_test_counts);
    ck_assert_uint_eq(one->test_count, many->test_count);
    for (size_t i = 0; i < one->n_test_counts; i += SCORE_CELLS) /* nodes that have the class */
        ck_assert_uint_eq(one->test_counts[i + SCORE_TP] + one->test_counts[i + SCORE_FN],
                          many->test_counts[i + SCORE_TP] + many->test_counts[i + SCORE_FN]);
    score_validation(one, &a);
    score_validation(many, &b);
    if (one->task == GRAPHPS__TASK__MULTI_LABEL)
        compare_curves(what, &a, &b);
    ck_assert_msg(a.test_micro_f1 > 0 && fabs(a.test_micro_f1 - b.test_micro_f1) < 0.01 &&
                      fabs(a.test_macro_f1 - b.test_macro_f1) < 0.01,
                  "%s: micro-F1 %.6f and %.6f, macro-F1 %.6f and %.6f", what, a.test_micro_f1,
                  b.test_micro_f1, a.test_macro_f1, b.test_macro_f1);
}

/* Training normalises by a worker's own batch, so only what is evaluated is the same. */
static bool trains_apart(const struct model_spec *spec) {
    bool apart = false;
    for (size_t l = 0; l < spec->count; l++)
        apart = apart || spec->layers[l].norm == NORM_BATCH;
    return apart;
}

static void check_equality(const char *dir, const char *stack, float input_dropout) {
    struct snapshot *snapshot;
    struct error err;
    struct model_spec spec = {.input_dropout = input_dropout, .seed = 17};
    ck_assert_msg(snapshot_open(dir, false, &snapshot, &err) == 0, "%s", err.text);
    uint64_t nodes = snapshot->nodes;
    ck_assert_msg(model_spec_parse(stack, snapshot->feature_dim, snapshot->classes, &spec, &err) ==
                      0,
                  "%s", err.text);
    snapshot_close(snapshot);

    struct layout *layout = make_layout(&spec);
    float *weights = mem_array(layout->floats, sizeof *weights);
    for (size_t b = 0; b < layout->block_count; b++)
        layout_init_block(layout, (uint32_t)b, 3, weights + layout->blocks[b].offset);
    for (uint64_t i = layout->trained; i < layout->floats; i++) /* running statistics */
        weights[i] = 0.2F + rng_float(rng_at(5, i));
    struct outcome one = run_parts(dir, &spec, layout, weights, 1);
    for (uint32_t parts = 2; parts <= 4; parts += 2) {
        char what[300];
        snprintf(what, sizeof what, "%s, %u parts", stack, parts);
        struct outcome many = run_parts(dir, &spec, layout, weights, parts);
        ck_assert_uint_eq(many.trained, one.trained);
        if (!trains_apart(&spec)) {
            ck_assert_double_eq_tol(many.loss_sum, one.loss_sum, 1e-5 * one.loss_sum);
            compare_gradients(what, layout, one.gradient, many.gradient);
        }
        test_floats_equal(what, one.logits, many.logits, nodes * spec.classes, 1e-4, 1e-5);
        if (one.scores.task == GRAPHPS__TASK__REGRESSION)
            compare_errors(what, &one.scores, &many.scores);
        else
            compare_scores(what, &one.scores, &many.scores);
        score_sum_done(&many.scores);
        mem_free(many.gradient);
        mem_free(many.logits);
    }
    score_sum_done(&one.scores);
    mem_free(one.gradient);
    mem_free(one.logits);
    mem_free(weights);
    layout_free(layout);
}

/* Features wider and narrower than the hidden layer, one to three layers, each kind of layer, and
 * all that can follow one. */
static const char *const stacks[] = {
    "gcn",
    "gcn width=8 activation=relu dropout=0.5; gcn",
    "gcn width=32 activation=relu dropout=0.5; gcn width=32 activation=relu dropout=0.5; gcn",
    "sage",
    "sage width=8 activation=relu dropout=0.5; sage width=8 activation=relu dropout=0.5; sage",
    "sage width=32 activation=relu dropout=0.5; sage",
    "linear width=32 activation=relu dropout=0.5; linear",
    "sage_gcn width=8 activation=relu dropout=0.5; sage_gcn",
    "gin width=8 activation=relu norm=layer dropout=0.5; gin",
    "gat width=8 heads=4 activation=elu dropout=0.5 attention_dropout=0.5; gat heads=2 "
    "average=true",
    "gatv2 width=8 heads=2 activation=elu attention_dropout=0.5; gatv2",
    "sage_max width=8 activation=relu dropout=0.5; sage_max",
    "propagate; propagate; linear",
    "linear width=8 activation=relu dropout=0.5; linear; ppr; ppr",
    "gcn width=20 residual=true norm=layer activation=gelu; linear width=8 activation=elu; sage "
    "residual=true",
    "gcn width=8 activation=relu dropout=0.5; gcn width=8 norm=layer activation=relu; jump; linear",
    "sage width=6 activation=elu; gcn width=6 activation=elu; jump mode=max dropout=0.3; gcn",
    "sage width=8 norm=batch activation=relu dropout=0.5; gcn width=8 norm=batch; jump; linear",
};

/* A generated graph, with and without dropout of the features. */
START_TEST(parts_of_a_generated_graph_equal_one_process) {
    kernels_set_threads(1);
    const char *root = test_tmpdir();
    const char *dir = graphs_snapshot(root, "community", 400, 5, 4, 20, 7);
    for (int input = 0; input < 2; input++)
        check_equality(dir, stacks[_i], input ? 0.4F : 0);
}
END_TEST

/* Edge weights count, also those that a halo's outermost nodes have elsewhere. */
START_TEST(parts_of_a_weighted_graph_equal_one_process) {
    kernels_set_threads(1);
    const char *dir = graphs_weighted(test_tmpdir(), "weighted", 400, 5, 4, 20, 7);
    static const char *const models[] = {
        "gcn width=8 edge_weights=true activation=relu dropout=0.5; gcn edge_weights=true",
        "sage width=8 edge_weights=true activation=relu; sage_gcn edge_weights=true",
        "propagate edge_weights=true; gin width=8 edge_weights=true activation=relu; gcn",
        "linear width=8 activation=relu; linear; ppr edge_weights=true; ppr edge_weights=true",
    };
    check_equality(dir, models[_i], 0);
}
END_TEST

/* Several labels a node: binary cross-entropy, and F1 of all classes and of each. */
START_TEST(parts_of_several_labels_equal_one_process) {
    kernels_set_threads(1);
    const char *dir = graphs_multi_label(test_tmpdir(), "several", 400, 5, 4, 20, 7);
    static const char *const models[] = {
        "gcn width=16 activation=relu dropout=0.5; gcn",
        "sage width=16 activation=relu dropout=0.5; sage",
        "gat width=4 heads=4 activation=elu attention_dropout=0.5; gat",
    };
    check_equality(dir, models[_i], 0);
}
END_TEST

/* Target values: squared and absolute errors. */
START_TEST(parts_of_targets_equal_one_process) {
    kernels_set_threads(1);
    const char *dir = graphs_regression(test_tmpdir(), "targets", 400, 3, 4, 20, 0.1, 7);
    check_equality(dir, "gcn width=16 activation=relu dropout=0.5; linear", 0);
}
END_TEST

/* Cora, as config/cora-gcn.yaml has it. */
START_TEST(parts_of_cora_equal_one_process) {
    const char *data = test_data_dir("parts_of_cora_equal_one_process");
    if (!data)
        return;
    kernels_set_threads(1);
    const char *root = test_tmpdir(), *source = test_path(data, "cora/ogb");
    struct import_summary *summary = mem_alloc(sizeof *summary);
    struct error err;
    const struct import_options options = {.format = IMPORT_OGB,
                                           .source = source,
                                           .root = root,
                                           .name = "cora",
                                           .version = "1.0.0",
                                           .split = "planetoid_public",
                                           .undirected = true};
    ck_assert_msg(import_run(&options, NULL, NULL, summary, &err) == 0, "%s", err.text);
    static const char *const models[] = {
        "gcn width=16 activation=relu dropout=0.5; gcn",
        "sage width=16 activation=relu dropout=0.5; sage",
        "linear width=16 activation=relu dropout=0.5; linear",
    };
    for (int input = 0; input < 2; input++)
        check_equality(summary->dir, models[_i], input ? 0.5F : 0);
    mem_free(summary);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("equality");
    TCase *tcase = tcase_create("equality");
    tcase_set_timeout(tcase, 110);
    tcase_add_loop_test(tcase, parts_of_a_generated_graph_equal_one_process, 0,
                        (int)ARRAY_LEN(stacks));
    tcase_add_loop_test(tcase, parts_of_a_weighted_graph_equal_one_process, 0, 4);
    tcase_add_loop_test(tcase, parts_of_several_labels_equal_one_process, 0, 3);
    tcase_add_test(tcase, parts_of_targets_equal_one_process);
    tcase_add_loop_test(tcase, parts_of_cora_equal_one_process, 0, 2);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
