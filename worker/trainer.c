/* The training loop. It decides what is computed when; what travels, and what happens when the
 * network fails, is the client's matter.
 *
 * bsp, ssp   gate(c), fresh weights, forward, backward, push(c), all acknowledged
 * async      push(c) is under way while step c + 1 computes, so that computing hides the network;
 *            at most one step is unacknowledged when one begins. But what a worker has not seen of
 *            its own last step makes its next one worse: where the acknowledgement comes soon,
 *            within half the time that a step computes or 20 ms, it is waited for. */
#include "worker/trainer.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/lock.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/metrics.h"
#include "common/vec.h"
#include "worker/clip.h"
#include "worker/embedding.h"
#include "worker/graph/sampler.h"
#include "worker/job_check.h"
#include "worker/link_task.h"
#include "worker/model/infer.h"
#include "worker/model/model.h"
#include "worker/report.h"

#define LOG_EVERY_MS 1000
#define SETTLE_MIN_MS 20   /* a shard's wait for more pushes and a local network's round trip */
#define SETTLE_PAUSE_MAX 8 /* steps between two tries */

struct trainer {
    /* set at start, never changed */
    const struct config *config;
    const struct store *store;
    uint32_t rank, steps_per_epoch, epochs;
    bool overlap; /* async */
    enum score metric;
    struct layout *layout;

    /* the training thread's own */
    struct model *model;
    struct full_batch *full;     /* full mode */
    struct infer *infer;         /* sampled mode: evaluates on all neighbours, layer by layer */
    struct sampler *sampler;     /* sampled mode, from the first step on */
    struct link_task *links;     /* NULL: nodes are learnt */
    struct embedding *embedding; /* NULL: the model has no learned rows */
    uint64_t fetch_ns;           /* of the last step: waiting for them */
    float *weights, *gradient;
    struct report report; /* of the epoch at hand */
    uint64_t log_ms;
    uint64_t compute_ns; /* of the last step */
    uint32_t settle_pause, settle_skip;

    /* LOCK_TRAINER; guards the group below, which others may look at */
    struct lock lock;
    uint64_t clock;
    Graphps__EpochStatus last; /* of the last epoch that ended */
    uint64_t last_nodes[SCORE_SETS];
    struct trainer_totals totals;
};

int trainer_new(const struct config *config, uint32_t rank, const struct store *store,
                struct trainer **ret, struct error *reterr) {
    int r = job_check(config, store, reterr);
    if (r < 0)
        return r;
    bool links = config->train_task == TASK_LINKS;
    Graphps__Task task = job_task(config, store);
    enum score metric = score_choose(config->train_metric, task);
    struct model_spec spec;
    model_spec_from(config, store->feature_dim, store->classes, &spec);
    _cleanup_(mem_free_p) struct tensor_spec *tensors = NULL;
    size_t count =
        links ? link_task_tensors(config, store, &spec, &tensors) : model_tensors(&spec, &tensors);
    struct layout *layout;
    struct error cause;
    r = layout_new(tensors, count, (uint32_t)config->servers_block_bytes,
                   (size_t)config->servers_count, &layout, &cause);
    if (r < 0) /* our own model is too large: not a peer's fault */
        return error_set(reterr, r == ERR_LIMIT ? ERR_CONFIG : r, "the model: %s", cause.text);
    r = embedding_declare(&spec, store, layout, reterr);
    struct link_task *link_task = NULL;
    if (r == 0 && links)
        r = link_task_new(config, store, &link_task, reterr);
    if (r < 0) {
        layout_free(layout);
        return r;
    }
    struct trainer *trainer = mem_alloc(sizeof *trainer);
    trainer->config = config;
    trainer->store = store;
    trainer->rank = rank;
    trainer->epochs = (uint32_t)config->train_epochs;
    trainer->steps_per_epoch =
        config->train_mode == TRAIN_SAMPLED ? (uint32_t)sampler_steps_per_epoch(store, config) : 1;
    trainer->overlap = config->consistency_mode == CONSISTENCY_ASYNC;
    trainer->metric = metric;
    trainer->layout = layout;
    trainer->model = model_new(&spec);
    trainer->embedding = spec.embedding ? embedding_new(store, layout) : NULL;
    if (config->train_mode == TRAIN_SAMPLED)
        trainer->infer = infer_new(&spec, store);
    else
        trainer->full = full_batch_new(store, &spec.hops);
    trainer->links = link_task;
    trainer->weights = mem_array(layout->floats, sizeof(float));
    trainer->gradient = mem_array(layout->floats, sizeof(float));
    report_init(&trainer->report, store, task,
                metric == SCORE_ROC_AUC || metric == SCORE_AVERAGE_PRECISION);
    graphps__epoch_status__init(&trainer->last);
    score_forget(&trainer->last);
    lock_init(&trainer->lock, LOCK_TRAINER, "trainer");
    *ret = trainer;
    return 0;
}

struct trainer *trainer_free(struct trainer *trainer) {
    if (!trainer)
        return NULL;
    sampler_free(trainer->sampler);
    full_batch_free(trainer->full);
    link_task_free(trainer->links);
    infer_free(trainer->infer);
    embedding_free(trainer->embedding);
    model_free(trainer->model);
    report_done(&trainer->report);
    mem_free(trainer->gradient);
    mem_free(trainer->weights);
    layout_free(trainer->layout);
    lock_done(&trainer->lock);
    mem_free(trainer);
    return NULL;
}

const struct layout *trainer_layout(const struct trainer *trainer) {
    return trainer->layout;
}

uint32_t trainer_steps_per_epoch(const struct trainer *trainer) {
    return trainer->steps_per_epoch;
}

/* --- one step --- */

static struct batch step_batch(struct trainer *trainer, uint64_t clock) {
    if (trainer->config->train_mode == TRAIN_SAMPLED)
        return *sampler_next(trainer->sampler);
    struct batch batch = *full_batch_get(trainer->full);
    batch.step = clock;
    if (trainer->links)
        link_task_fill(trainer->links, &batch);
    return batch;
}

static void step_nodes(struct trainer *trainer, const struct batch *batch) {
    struct model_result result;
    const float *logits = model_forward(trainer->model, batch, trainer->weights, true, &result);
    report_training(&trainer->report, batch, logits, &result);
    model_backward(trainer->model, batch, trainer->weights, trainer->gradient);
}

static int step_fetch(struct trainer *trainer, struct client *client, struct batch *batch,
                      struct error *reterr) {
    uint64_t begun_ns = time_now_ns();
    int r = trainer->embedding ? embedding_fetch(trainer->embedding, client, 0, batch, reterr) : 0;
    trainer->fetch_ns = time_now_ns() - begun_ns;
    return r;
}

/* rows: the gradient of the learned rows that were fetched last, [inputs, embedding]; NULL: none.
 */
static int step_push(struct trainer *trainer, struct client *client, const float *rows,
                     uint64_t clock, double weight, struct error *reterr) {
    int r = trainer->embedding
                ? embedding_push(trainer->embedding, client, rows, clock, weight, reterr)
                : 0;
    if (r == 0)
        client_push(client, trainer->gradient, clock, weight);
    return r;
}

/* Forward, backward and the push; returns before the push is acknowledged. */
static int step_compute(struct trainer *trainer, struct client *client, uint64_t clock,
                        struct error *reterr) {
    struct batch batch = step_batch(trainer, clock);
    size_t floats = trainer->layout->floats, row_floats = 0;
    trainer->fetch_ns = 0;
    if (batch.train_count == 0) {
        /* Nothing to learn from here, but bsp counts on everybody. */
        memset(trainer->gradient, 0, floats * sizeof *trainer->gradient);
        return step_push(trainer, client, NULL, clock, 0, reterr);
    }
    int r = step_fetch(trainer, client, &batch, reterr);
    if (r < 0)
        return r;
    if (trainer->links)
        link_task_step(trainer->links, trainer->model, &batch, trainer->weights, trainer->gradient,
                       &trainer->report);
    else
        step_nodes(trainer, &batch);
    float *rows = model_embedding_gradient(trainer->model);
    if (rows)
        row_floats = (size_t)batch.n_input * trainer->layout->tables[0].dim;
    if (!vec()->finite(trainer->gradient, floats) || (rows && !vec()->finite(rows, row_floats)))
        return error_set(reterr, ERR_NOT_FINITE,
                         "the gradient of step %" PRIu64
                         " is not finite: the training has diverged; lower optimizer.lr",
                         clock);
    if (trainer->config->optimizer_clip_norm > 0)
        clip_gradient(trainer->gradient, trainer->layout->trained, rows, row_floats,
                      trainer->config->optimizer_clip_norm);
    return step_push(trainer, client, rows, clock, batch.train_count, reterr);
}

/* --- the end of an epoch --- */

static void epoch_begin(struct trainer *trainer, uint64_t clock) {
    report_begin(&trainer->report, (uint32_t)(clock / trainer->steps_per_epoch) + 1);
}

struct logged {
    char text[16];
};

static struct logged logged(const struct trainer *trainer, const Graphps__EpochStatus *epoch,
                            enum score_set set) {
    struct logged ret = {"-"};
    double score = score_of(epoch, set, trainer->metric);
    if (score >= 0)
        snprintf(ret.text, sizeof ret.text, "%.4f", score);
    return ret;
}

static void epoch_log(struct trainer *trainer, const Graphps__EpochStatus *epoch) {
    const Graphps__Eval *eval = &trainer->report.eval;
    uint64_t now_ms = time_now_ms();
    bool last = eval->epoch == trainer->epochs;
    if (!last && now_ms < trainer->log_ms)
        return;
    trainer->log_ms = now_ms + LOG_EVERY_MS;
    const char *metric = score_name(trainer->metric);
    if (eval->valid_count || eval->test_count)
        log_info("epoch ended", "epoch=%u loss=%.4f train=%s valid=%s test=%s metric=%s",
                 eval->epoch, epoch->train_loss, logged(trainer, epoch, SCORE_TRAIN).text,
                 logged(trainer, epoch, SCORE_VALID).text, logged(trainer, epoch, SCORE_TEST).text,
                 metric);
    else
        log_info("epoch ended", "epoch=%u loss=%.4f train=%s metric=%s", eval->epoch,
                 epoch->train_loss, logged(trainer, epoch, SCORE_TRAIN).text, metric);
}

/* For infer.h: whose rows, and why they could not be had. */
struct taking {
    struct embedding *embedding;
    struct client *client;
    uint32_t candidate;
    struct error *reterr;
};

static int take_rows(void *ctx, uint64_t first, uint32_t count, float *ret) {
    const struct taking *taking = ctx;
    return embedding_take(taking->embedding, taking->client, taking->candidate, first, count, ret,
                          taking->reterr);
}

/* On trainer->weights, and the learned rows that go with them: those kept for the candidate's
 * epoch, or (0) those of now. */
static int evaluate(struct trainer *trainer, struct client *client, uint32_t candidate,
                    struct error *reterr) {
    struct model_result sums, *result = trainer->links ? NULL : &sums;
    const float *weights =
        trainer->weights + (trainer->links ? link_task_model_at(trainer->links) : 0);
    const float *outputs;
    if (trainer->infer) {
        struct taking taking = {trainer->embedding, client, candidate, reterr};
        infer_set_rows(trainer->infer, take_rows, &taking);
        outputs = infer_run(trainer->infer, weights, result);
        if (!outputs)
            return reterr->code;
    } else {
        struct batch batch = *full_batch_get(trainer->full);
        int r = trainer->embedding
                    ? embedding_fetch(trainer->embedding, client, candidate, &batch, reterr)
                    : 0;
        if (r < 0)
            return r;
        outputs = model_forward(trainer->model, &batch, weights, false, result);
    }
    if (trainer->links)
        link_task_evaluate(trainer->links, outputs, trainer->weights, &trainer->report);
    else
        report_validation(&trainer->report, outputs, result);
    return 0;
}

/* bsp: everybody stands, so the weights of this moment are what all evaluate. */
static int report_standing(struct trainer *trainer, struct client *client, struct error *reterr) {
    const Graphps__Eval *eval = &trainer->report.eval;
    if (eval->epoch % (uint64_t)trainer->config->train_eval_every == 0 ||
        eval->epoch == trainer->epochs) {
        int r = client_weights(client, trainer->weights, true, reterr);
        if (r == 0)
            r = evaluate(trainer, client, 0, reterr);
        if (r < 0)
            return r;
    }
    return client_eval(client, eval, reterr);
}

/* async, ssp: the weights move while we look. Shard 0 says when a set of them is kept aside, and
 * each worker evaluates that set when it comes to the end of an epoch. After the last epoch it
 * stays until the last set has come. */
static int report_moving(struct trainer *trainer, struct client *client, struct error *reterr) {
    const Graphps__Eval *eval = &trainer->report.eval;
    for (;;) {
        int r = client_eval(client, eval, reterr);
        uint32_t epoch = client_candidate_due(client);
        if (r < 0 || epoch == 0)
            return r;
        r = client_candidate(client, epoch, trainer->weights, reterr);
        if (r == 0)
            r = evaluate(trainer, client, epoch, reterr);
        if (r < 0)
            return r;
        Graphps__Eval candidate = report_candidate(&trainer->report, epoch);
        r = client_eval(client, &candidate, reterr);
        if (r < 0)
            return r;
        uint64_t clock = 0;
        if (eval->epoch < trainer->epochs || epoch >= trainer->epochs ||
            client_look(client, &clock))
            return 0;
        /* It asks again; what it found is reported. */
        report_forget_validation(&trainer->report);
    }
}

/* Reports to shard 0 and waits for its answer. */
static int epoch_end(struct trainer *trainer, struct client *client, struct error *reterr) {
    const Graphps__Eval *eval = &trainer->report.eval;
    int r = trainer->config->consistency_mode == CONSISTENCY_BSP
                ? report_standing(trainer, client, reterr)
                : report_moving(trainer, client, reterr);
    if (r < 0)
        return r;
    Graphps__EpochStatus epoch = report_scores(&trainer->report);
    epoch_log(trainer, &epoch);
    lock_take(&trainer->lock);
    trainer->last = epoch;
    trainer->last_nodes[SCORE_TRAIN] = eval->train_count;
    trainer->last_nodes[SCORE_VALID] = eval->valid_count;
    trainer->last_nodes[SCORE_TEST] = eval->test_count;
    lock_release(&trainer->lock);
    metric_set(METRIC_EPOCH, eval->epoch);
    return 0;
}

/* --- the loop --- */

/* Async: waits for the acknowledgement of all steps before clock if that is cheap. Whether it is
 * shows by trying: after a failure it is not tried again for a while. */
static void step_settle(struct trainer *trainer, struct client *client, uint64_t clock) {
    uint64_t half_ms = trainer->compute_ns / 2000000;
    if (trainer->settle_skip > 0) {
        trainer->settle_skip--;
        return;
    }
    if (client_settled(client, clock, half_ms > SETTLE_MIN_MS ? half_ms : SETTLE_MIN_MS)) {
        trainer->settle_pause = 0;
        return;
    }
    trainer->settle_pause = trainer->settle_pause ? 2 * trainer->settle_pause : 1;
    if (trainer->settle_pause > SETTLE_PAUSE_MAX)
        trainer->settle_pause = SETTLE_PAUSE_MAX;
    trainer->settle_skip = trainer->settle_pause;
}

/* Waits until step *clock may start; *clock is raised when the others are ahead. */
static int step_begin(struct trainer *trainer, struct client *client, bool first, uint64_t *clock,
                      bool *ret_stop, struct error *reterr) {
    int r;
    if (client_interrupted(client))
        return error_set(reterr, ERR_INTERRUPTED, "interrupted before step %" PRIu64, *clock);
    if (!trainer->overlap || first) {
        r = client_wait_gate(client, clock, ret_stop, reterr);
    } else {
        step_settle(trainer, client, *clock);
        r = client_wait_finished(client, *clock - 1, reterr);
        *ret_stop = client_look(client, clock);
    }
    if (r < 0 || *ret_stop)
        return r;
    return client_weights(client, trainer->weights, !trainer->overlap || first, reterr);
}

static int train(struct trainer *trainer, struct client *client, uint64_t *clock,
                 struct error *reterr) {
    const uint64_t end = (uint64_t)trainer->epochs * trainer->steps_per_epoch;
    bool first = true;
    while (*clock < end) {
        uint64_t begun_ns = time_now_ns(), before = *clock;
        bool stop = false;
        int r = step_begin(trainer, client, first, clock, &stop, reterr);
        if (r < 0 || stop)
            return r;
        if (*clock >= end)
            break;
        if (first || *clock != before) {
            epoch_begin(trainer, *clock);
            sampler_free(trainer->sampler);
            if (trainer->config->train_mode == TRAIN_SAMPLED &&
                trainer->config->train_sampler >= SAMPLER_CLUSTER) /* it may take a while */
                log_info("preparing the sampler", "sampler=%s",
                         config_choice(trainer->config, "train.sampler"));
            trainer->sampler = trainer->config->train_mode == TRAIN_SAMPLED
                                   ? sampler_new(trainer->store, trainer->config, *clock)
                                   : NULL;
        }
        first = false;
        uint64_t compute_ns = time_now_ns();
        r = step_compute(trainer, client, *clock, reterr);
        if (r < 0)
            return r;
        compute_ns = trainer->compute_ns = time_now_ns() - compute_ns - trainer->fetch_ns;
        ++*clock;
        if (!trainer->overlap) {
            r = client_wait_finished(client, *clock, reterr);
            if (r < 0)
                return r;
        }
        uint64_t step_ns = time_now_ns() - begun_ns;
        metric_add(METRIC_STEPS, 1);
        metric_record(METRIC_STEP_TIME, step_ns);
        lock_take(&trainer->lock);
        trainer->clock = *clock;
        trainer->totals.steps++;
        trainer->totals.compute_s += (double)compute_ns / 1e9;
        lock_release(&trainer->lock);
        if (*clock % trainer->steps_per_epoch == 0) {
            r = epoch_end(trainer, client, reterr);
            if (r < 0)
                return r;
            epoch_begin(trainer, *clock);
        }
    }
    return 0;
}

int trainer_run(struct trainer *trainer, struct client *client, struct error *reterr) {
    uint64_t clock = 0, begun_ns = time_now_ns();
    int r = client_wait_welcome(client, &clock, reterr);
    if (r < 0)
        return r;
    log_info("training", "step=%" PRIu64 " steps_per_epoch=%u epochs=%u parameters=%" PRIu64, clock,
             trainer->steps_per_epoch, trainer->epochs, trainer->layout->floats);
    r = train(trainer, client, &clock, reterr);
    if (r == 0 || r == ERR_INTERRUPTED) {
        /* What was pushed is to be acknowledged, also when the reason to end is not ours. */
        struct error err;
        int last = client_wait_finished(client, clock, &err);
        if (last < 0 && r == 0) {
            *reterr = err;
            r = last;
        }
    }
    lock_take(&trainer->lock);
    trainer->totals.seconds = (double)(time_now_ns() - begun_ns) / 1e9;
    lock_release(&trainer->lock);
    return r;
}

/* --- being watched --- */

void trainer_totals(struct trainer *trainer, struct trainer_totals *ret) {
    lock_take(&trainer->lock);
    *ret = trainer->totals;
    lock_release(&trainer->lock);
}

/* The scores that are known; a set without nodes has none. */
static json_t *epoch_json(const Graphps__EpochStatus *epoch, const uint64_t nodes[SCORE_SETS],
                          enum score metric) {
    json_t *json =
        json_pack("{s:f, s:s, s:I, s:I, s:I}", "train_loss", epoch->train_loss, "metric",
                  score_name(metric), "train_nodes", (json_int_t)nodes[SCORE_TRAIN], "valid_nodes",
                  (json_int_t)nodes[SCORE_VALID], "test_nodes", (json_int_t)nodes[SCORE_TEST]);
    for (enum score score = 0; score < SCORES; score++)
        for (enum score_set set = 0; set < SCORE_SETS; set++)
            if (nodes[set] && score_of(epoch, set, score) >= 0)
                json_object_set_new(json, score_key(set, score),
                                    json_real(score_of(epoch, set, score)));
    return json;
}

void trainer_add_stats(struct trainer *trainer, json_t *stats) {
    uint64_t nodes[SCORE_SETS];
    lock_take(&trainer->lock);
    Graphps__EpochStatus last = trainer->last;
    memcpy(nodes, trainer->last_nodes, sizeof nodes);
    uint64_t clock = trainer->clock;
    struct trainer_totals totals = trainer->totals;
    lock_release(&trainer->lock);
    json_object_set_new(stats, "step", json_integer((json_int_t)clock));
    json_object_set_new(stats, "steps_per_epoch", json_integer(trainer->steps_per_epoch));
    json_object_set_new(stats, "epochs", json_integer(trainer->epochs));
    json_object_set_new(stats, "epoch", json_integer(last.epoch));
    json_object_set_new(stats, "compute_seconds", json_real(totals.compute_s));
    if (last.epoch > 0)
        json_object_set_new(stats, "last_epoch", epoch_json(&last, nodes, trainer->metric));
}
