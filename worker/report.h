/* What a worker saw in one epoch: the sums that it reports to shard 0 (proto/score.h), of its own
 * nodes. */
#pragma once

#include "proto/score.h"
#include "worker/graph/batch.h"
#include "worker/graph/store.h"
#include "worker/model/model.h"

struct report {
    const struct store *store; /* borrowed */
    size_t rows;               /* of a table; 0: there is none */
    size_t histogram_rows;     /* of classes; 0: there is none */
    Graphps__Eval eval;        /* owns its tables; a report that has no validation hides them */
};

/* histograms: ROC-AUC and average precision of classes are wanted (score_histogram_rows > 0). */
void report_init(struct report *report, const struct store *store, Graphps__Task task,
                 bool histograms);
void report_done(struct report *report);
/* Everything is 0 again. */
void report_begin(struct report *report, uint32_t epoch);
/* Adds the training outputs of a batch, of which model_forward made logits and result. */
void report_training(struct report *report, const struct batch *batch, const float *logits,
                     const struct model_result *result);
/* The validation and test nodes, of logits [owned, classes] for all of the store's own. */
void report_validation(struct report *report, const float *logits,
                       const struct model_result *result);
/* Links: validation and test begin anew. The caller adds the ranks and outputs of its links to what
 * is returned (score_rank_add, score_query_add, score_auc_add), and their losses. */
Graphps__Eval *report_links(struct report *report);
void report_forget_validation(struct report *report);
/* Of the validation alone, as the report of a candidate's epoch; its tables are the report's. */
Graphps__Eval report_candidate(const struct report *report, uint32_t epoch);
/* Loss and scores. */
Graphps__EpochStatus report_scores(const struct report *report);
