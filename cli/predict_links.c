/* Embeddings, pairs, ranks. */
#include "cli/predict_links.h"

#include <string.h>

#include "cli/predict_out.h"
#include "common/mem.h"
#include "common/vec.h"
#include "proto/score.h"
#include "worker/graph/link_file.h"
#include "worker/model/decoder.h"
#include "worker/model/link_rank.h"

enum { ID_BYTES = 1024 };

int predict_links_decoder(const char *name) {
    static const char *const names[] = {[DECODER_DOT] = "dot", [DECODER_DISTMULT] = "distmult"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(names[i], name) == 0)
            return (int)i;
    return -1;
}

/* --- embeddings --- */

static void put_embedding(FILE *out, void *ctx, uint64_t node) {
    const struct predict_links *links = ctx;
    char id[ID_BYTES];
    predict_out_field(out, snapshot_id(links->snapshot, node, id, sizeof id));
    for (uint32_t j = 0; j < links->dim; j++)
        fprintf(out, ",%.9g", (double)links->outputs[node * links->dim + j]);
    fputc('\n', out);
}

int predict_links_embeddings(const struct predict_links *links, const char *path,
                             struct error *reterr) {
    _cleanup_(mem_free_p) char *head = mem_alloc((size_t)links->dim * 12 + 8);
    size_t len = (size_t)sprintf(head, "id");
    for (uint32_t j = 0; j < links->dim; j++)
        len += (size_t)sprintf(head + len, ",e%u", j);
    strcpy(head + len, "\n");
    return predict_out(path, head, links->snapshot->nodes, put_embedding, (void *)(uintptr_t)links,
                       reterr);
}

/* --- pairs --- */

struct scoring {
    const struct predict_links *links;
    const struct link_file *file;
    float *q; /* [dim] */
};

static void put_score(FILE *out, void *ctx, uint64_t i) {
    const struct scoring *scoring = ctx;
    const struct predict_links *links = scoring->links;
    const struct link_file *file = scoring->file;
    int32_t u = file->sources[i], v = file->targets[i],
            r = file->relations ? file->relations[i] : 0;
    char id[ID_BYTES];
    predict_out_field(out, snapshot_id(links->snapshot, (uint64_t)u, id, sizeof id));
    fputc(',', out);
    predict_out_field(out, snapshot_id(links->snapshot, (uint64_t)v, id, sizeof id));
    if (file->relations) {
        fputc(',', out);
        predict_out_field(out, links->snapshot->edge_type_names[r]);
    }
    size_t dim = links->dim;
    decoder_of(links->decoder)
        ->query(dim, links->outputs + (size_t)u * dim, links->weights, r, scoring->q);
    fprintf(out, ",%.9g\n",
            (double)(float)vec()->dot(scoring->q, links->outputs + (size_t)v * dim, dim));
}

int predict_links_scores(const struct predict_links *links, const char *pairs, const char *path,
                         size_t *ret, struct error *reterr) {
    struct link_file file;
    int r = link_file_read(pairs, links->snapshot, &file, reterr);
    if (r == 0) {
        _cleanup_(mem_free_p) float *q = mem_array(links->dim, sizeof *q);
        struct scoring scoring = {links, &file, q};
        r = predict_out(path,
                        file.relations ? "source,target,type,score\n" : "source,target,score\n",
                        file.count, put_score, &scoring, reterr);
    }
    *ret = file.count;
    link_file_done(&file);
    return r;
}

/* --- ranks --- */

void predict_links_evaluate(const struct predict_links *links, FILE *out) {
    static const char *const names[] = {[SCORE_VALID] = "valid", [SCORE_TEST] = "test"};
    struct link_rank_spec spec = {
        .decoder = links->decoder,
        .dim = links->dim,
        .seed = (uint64_t)links->config->job_seed,
        .k = (uint32_t)links->config->train_metric_k,
    };
    struct link_rank *rank = link_rank_new(&spec, links->store);
    Graphps__Eval eval = GRAPHPS__EVAL__INIT;
    Graphps__EpochStatus status = GRAPHPS__EPOCH_STATUS__INIT;
    score_forget(&status);
    score_links_begin(&eval);
    link_rank_run(rank, links->outputs, links->weights, &eval);
    score_validation(&eval, &status);
    for (enum score_set set = SCORE_VALID; set <= SCORE_TEST; set++) {
        size_t count = links->store->links[set == SCORE_VALID ? SPLIT_VALID : SPLIT_TEST].count;
        fprintf(out, "%-5s %zu links", names[set], count);
        for (enum score score = 0; score < SCORES && count > 0; score++)
            if (score_of_task(score, GRAPHPS__TASK__LINKS))
                fprintf(out, ", %s %s", score_title(score),
                        score_text(score, score_of(&status, set, score), 2).text);
        fputc('\n', out);
    }
    score_sum_done(&eval);
    link_rank_free(rank);
}
