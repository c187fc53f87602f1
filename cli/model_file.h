/* From a checkpoint to an exported model: what `graphps export`, `train` and `predict` share. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "proto/score.h"

enum model_file_which { MODEL_FILE_BEST, MODEL_FILE_LAST, MODEL_FILE_BEST_OR_LAST };

/* What shard 0 knew of the run. Scores are NAN when they are not known. */
struct model_facts {
    uint32_t best_epoch, last_epoch;
    Graphps__Task task;
    enum score metric;                 /* what the best epoch is the best by */
    double scores[SCORE_SETS][SCORES]; /* of the best epoch */
    char stop_reason[64];
    uint64_t generation;
    uint64_t bytes_pushed, bytes_pulled; /* by all workers */
    bool best;                           /* these are the best weights, not the last ones */
};

/* The newest complete generation below a job directory, and (ret_digest not NULL) the digest of the
 * snapshot it was trained on, "" when it does not say; ERR_NOT_FOUND and others say why there is
 * none. ret_state not NULL: shard 0's state in it, to be json_decref'd. */
int model_file_generation(const char *job_dir, uint64_t *ret, char ret_digest[64],
                          json_t **ret_state, struct error *reterr);
/* Says on standard error, in lines that begin with the command, which checkpoints that are newer
 * than the one that was taken are damaged, and how. best: its best weights were asked for. */
void model_file_warn(const char *command, const char *checkpoint, bool best, uint64_t taken);
/* checkpoint: a job directory (its newest complete generation), or one generation's directory.
 * Writes safetensors to out, atomically. */
int model_file_export(const char *checkpoint, enum model_file_which which, const char *out,
                      struct model_facts *ret, struct error *reterr);
