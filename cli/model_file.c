/* Puts a checkpoint's shards together and writes them as safetensors, with the metadata that
 * predict needs to build the model again. */
#include "cli/model_file.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>

#include "common/mem.h"
#include "server/checkpoint.h"
#include "worker/model/tensors.h"

static double number_of(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static void facts_read(const json_t *coordinator, struct model_facts *facts) {
    const json_t *best = json_object_get(coordinator, "best");
    double best_epoch = number_of(best, "epoch");
    double last_epoch = number_of(json_object_get(coordinator, "last"), "epoch");
    facts->best_epoch = best_epoch > 0 ? (uint32_t)best_epoch : 0;
    facts->last_epoch = last_epoch > 0 ? (uint32_t)last_epoch : 0;
    /* Without validation none is the best, but the last may have been tested. */
    const json_t *scored = facts->best_epoch ? best : json_object_get(coordinator, "last");
    if (!score_find(json_string_value(json_object_get(coordinator, "metric")), &facts->metric))
        facts->metric = SCORE_ACCURACY;
    score_task_find(json_string_value(json_object_get(coordinator, "task")), &facts->task);
    for (enum score_set set = 0; set < SCORE_SETS; set++)
        for (enum score score = 0; score < SCORES; score++) {
            double value = number_of(scored, score_key(set, score));
            facts->scores[set][score] = value >= 0 ? value : NAN;
        }
    size_t rank;
    json_t *worker;
    json_array_foreach(json_object_get(coordinator, "workers"), rank, worker) {
        double pushed = number_of(worker, "bytes_pushed"),
               pulled = number_of(worker, "bytes_pulled");
        facts->bytes_pushed += pushed > 0 ? (uint64_t)pushed : 0;
        facts->bytes_pulled += pulled > 0 ? (uint64_t)pulled : 0;
    }
    const char *reason = json_string_value(json_object_get(coordinator, "stop_reason"));
    snprintf(facts->stop_reason, sizeof facts->stop_reason, "%s", reason ? reason : "");
}

/* safetensors metadata is strings only. */
static void put_number(json_t *metadata, const char *key, double value) {
    char text[40];
    if (isnan(value))
        return;
    snprintf(text, sizeof text, "%.10g", value);
    json_object_set_new(metadata, key, json_string(text));
}

static int metadata_make(const json_t *coordinator, const struct model_facts *facts,
                         const char *checkpoint, json_t **ret, struct error *reterr) {
    const json_t *model = json_object_get(coordinator, "model");
    const char *layers = json_string_value(json_object_get(model, "layers"));
    const char *snapshot = json_string_value(json_object_get(model, "snapshot"));
    if (!layers || !snapshot)
        return error_set(reterr, ERR_FORMAT, "%s: shard 0's file does not describe the model",
                         checkpoint);
    json_t *metadata = json_object();
    json_object_set_new(metadata, "format", json_string("graphps"));
    json_object_set_new(metadata, "graphps_version", json_string(GRAPHPS_VERSION));
    json_object_set_new(metadata, "layers", json_string(layers));
    json_object_set_new(metadata, "snapshot", json_string(snapshot));
    const json_t *links = json_object_get(model, "links");
    if (links) {
        json_object_set(metadata, "decoder", json_object_get(links, "decoder"));
        put_number(metadata, "dim", (double)json_integer_value(json_object_get(links, "dim")));
    }
    put_number(metadata, "embedding", number_of(model, "embedding"));
    const char *digest = json_string_value(json_object_get(coordinator, "snapshot_digest"));
    json_object_set_new(metadata, "snapshot_digest", json_string(digest ? digest : ""));
    json_object_set_new(
        metadata, "normalize_features",
        json_string(json_is_true(json_object_get(model, "normalize_features")) ? "true" : "false"));
    json_object_set_new(metadata, "multi_label",
                        json_string(facts->task == GRAPHPS__TASK__MULTI_LABEL ? "true" : "false"));
    json_object_set_new(metadata, "task", json_string(score_task_name(facts->task)));
    json_object_set_new(metadata, "weights", json_string(facts->best ? "best" : "last"));
    put_number(metadata, "epoch", facts->best ? facts->best_epoch : facts->last_epoch);
    put_number(metadata, "generation", (double)facts->generation);
    json_object_set_new(metadata, "metric", json_string(score_name(facts->metric)));
    for (enum score score = 0; facts->best && score < SCORES; score++) {
        put_number(metadata, score_key(SCORE_VALID, score), facts->scores[SCORE_VALID][score]);
        put_number(metadata, score_key(SCORE_TEST, score), facts->scores[SCORE_TEST][score]);
    }
    *ret = metadata;
    return 0;
}

int model_file_generation(const char *job_dir, uint64_t *ret, char ret_digest[64],
                          json_t **ret_state, struct error *reterr) {
    json_t *coordinator = NULL;
    int r = checkpoint_collect(job_dir, false, NULL, NULL, NULL, ret, &coordinator, reterr);
    if (r == 0 && ret_digest) {
        const char *digest = json_string_value(json_object_get(coordinator, "snapshot_digest"));
        snprintf(ret_digest, 64, "%s", digest ? digest : "");
    }
    if (r == 0 && ret_state)
        *ret_state = json_incref(coordinator);
    json_decref(coordinator);
    return r;
}

static void print_fault(void *command, const struct error *fault) {
    fprintf(stderr, "%s: warning: a damaged checkpoint is not used: %s\n", (const char *)command,
            error_text(fault));
}

void model_file_warn(const char *command, const char *checkpoint, bool best, uint64_t taken) {
    checkpoint_collect_faults(checkpoint, best, taken, print_fault, (void *)(uintptr_t)command);
}

int model_file_export(const char *checkpoint, enum model_file_which which, const char *out,
                      struct model_facts *ret, struct error *reterr) {
    _cleanup_(mem_free_p) struct tensor_spec *tensors = NULL;
    _cleanup_(mem_free_p) float *weights = NULL;
    size_t count = 0;
    json_t *coordinator = NULL, *metadata = NULL;
    struct model_facts facts = {.best = which != MODEL_FILE_LAST};
    int r = checkpoint_collect(checkpoint, facts.best, &tensors, &count, &weights,
                               &facts.generation, &coordinator, reterr);
    if (r == ERR_NOT_FOUND && which == MODEL_FILE_BEST_OR_LAST) {
        facts.best = false;
        r = checkpoint_collect(checkpoint, false, &tensors, &count, &weights, &facts.generation,
                               &coordinator, reterr);
    }
    if (r == 0) {
        facts_read(coordinator, &facts);
        r = metadata_make(coordinator, &facts, checkpoint, &metadata, reterr);
    }
    if (r == 0)
        r = tensors_write(out, tensors, count, weights, metadata, reterr);
    json_decref(metadata);
    json_decref(coordinator);
    if (r == 0)
        *ret = facts;
    return r;
}
