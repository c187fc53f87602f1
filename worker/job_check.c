#include "worker/job_check.h"

#include "common/model_spec.h"
#include "proto/score.h"
#include "worker/graph/mfg.h"
#include "worker/graph/sampler.h"

Graphps__Task job_task(const struct config *config, const struct store *store) {
    return config->train_task == TASK_LINKS ? GRAPHPS__TASK__LINKS
           : store->targets                 ? GRAPHPS__TASK__REGRESSION
           : store->multi_labels            ? GRAPHPS__TASK__MULTI_LABEL
                                            : GRAPHPS__TASK__SINGLE_LABEL;
}

static int check_links(const struct store *store, struct error *reterr) {
    if (store->parts > 1 && store->owned_edges_max == 0)
        return error_set(reterr, ERR_CONFIG,
                         "the parts of %s do not say how many edges each has: they are of an older "
                         "release, or there are none; remove them and cut it again with graphps "
                         "partition",
                         store->snapshot_name);
    if (store->owned_edges_max == 0)
        return error_set(reterr, ERR_CONFIG,
                         "snapshot %s has no edges: there is nothing to learn from",
                         store->snapshot_name);
    return 0;
}

static int check_nodes(const struct config *config, const struct store *store,
                       struct error *reterr) {
    if (store->train_nodes_total == 0)
        return error_set(
            reterr, ERR_CONFIG,
            "snapshot %s has no labelled training node: there is nothing to learn from",
            store->snapshot_name);
    if ((store->multi_labels || store->targets) && config->train_label_smoothing > 0)
        return error_set(reterr, ERR_CONFIG,
                         "train.label_smoothing is for one label a node, but those of %s %s; leave "
                         "it out",
                         store->snapshot_name,
                         store->targets ? "have targets" : "may have several");
    return 0;
}

int job_check(const struct config *config, const struct store *store, struct error *reterr) {
    struct model_spec spec;
    Graphps__Task task = job_task(config, store);
    int r = task == GRAPHPS__TASK__LINKS ? check_links(store, reterr)
                                         : check_nodes(config, store, reterr);
    if (r == 0)
        r = score_check_choice(score_choose(config->train_metric, task), task, store->classes,
                               store->snapshot_name, reterr);
    if (r == 0)
        r = sampler_check(store, config, reterr);
    if (r < 0)
        return r;
    model_spec_from(config, store->feature_dim, store->classes, &spec);
    if (spec.input_dim == 0)
        return error_set(reterr, ERR_CONFIG,
                         "snapshot %s has no features: set model.embedding, so that a row is "
                         "learned for each node, or import it with features",
                         store->snapshot_name);
    if (model_spec_outputs(&spec) != spec.classes)
        return error_set(reterr, ERR_CONFIG,
                         "no layer of model.stack has weights, so %u numbers come out for each "
                         "node, but link.dim is %u; set link.dim: %u",
                         model_spec_outputs(&spec), spec.classes, model_spec_outputs(&spec));
    return mfg_check(store, &spec, reterr);
}
