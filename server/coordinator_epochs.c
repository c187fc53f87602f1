/* Reports of an epoch: summed over the ranks, compared with the best, and the end of the job when
 * enough has been seen. Where ranks were lost an epoch is of a part of the nodes: it is told as
 * such, never the best after a whole one, and patience does not count it. */
#include <math.h>
#include <string.h>

#include "common/log.h"
#include "common/metrics.h"
#include "server/coordinator_state.h"

static struct epoch *epoch_of(struct list *node) {
    return LIST_OWNER(node, struct epoch, node);
}

/* Reports of an epoch so far ahead of the newest complete one are summed without their tables,
 * which are large: what a worker can make us keep stays bounded. In bsp nobody gets that far, in
 * async and ssp only the candidate's reports have such tables. */
#define TABLES_AHEAD_MAX 64
#define HISTOGRAMS_AHEAD_MAX 2 /* these are larger still */

static struct epoch *epoch_new(const struct coordinator *c, uint32_t number) {
    struct epoch *epoch = mem_alloc(sizeof *epoch + c->worker_count * sizeof epoch->reported[0]);
    epoch->epoch = number;
    graphps__eval__init(&epoch->sum);
    return epoch;
}

static struct epoch *epoch_free(struct epoch *epoch) {
    if (epoch)
        score_sum_done(&epoch->sum);
    mem_free(epoch);
    return NULL;
}

void epochs_free(struct coordinator *c) {
    struct list *node;
    while ((node = list_pop(&c->epochs)))
        epoch_free(epoch_of(node));
    c->candidate = epoch_free(c->candidate);
}

/* The open epoch of that number, made when there is none; they stand in ascending order. */
static struct epoch *epoch_get(struct coordinator *c, uint32_t number) {
    struct list *after = &c->epochs;
    while (after->prev != &c->epochs && epoch_of(after->prev)->epoch >= number)
        after = after->prev;
    if (after != &c->epochs && epoch_of(after)->epoch == number)
        return epoch_of(after);
    struct epoch *epoch = epoch_new(c, number);
    list_append(after, &epoch->node); /* before `after` */
    return epoch;
}

static int eval_check(const struct coordinator *c, const Graphps__Eval *eval,
                      struct error *reterr) {
    if (eval->epoch == 0 || eval->epoch > c->config->train_epochs)
        return error_set(reterr, ERR_RANGE, "rank %u reports epoch %u; the job has 1 to %lld",
                         eval->rank, eval->epoch, (long long)c->config->train_epochs);
    int r = score_check(eval, reterr);
    if (r < 0)
        return r;
    /* Before the first report with classes nobody knows what they are. */
    if (eval->classes != 0 && c->classes != 0 &&
        (eval->classes != c->classes || eval->task != c->task))
        return error_set(reterr, ERR_RANGE, "rank %u reports of %u classes (%s), others of %u (%s)",
                         eval->rank, eval->classes, score_task_name(eval->task), c->classes,
                         score_task_name(c->task));
    return 0;
}

static void epoch_add(struct coordinator *c, struct epoch *epoch, const Graphps__Eval *eval) {
    epoch->reported[eval->rank] = true;
    if (eval->classes != 0) {
        c->classes = eval->classes;
        c->task = eval->task;
    }
    score_sum_add(&epoch->sum, eval, epoch->epoch <= c->epoch_complete + TABLES_AHEAD_MAX,
                  epoch->epoch <= c->epoch_complete + HISTOGRAMS_AHEAD_MAX);
}

enum score epochs_metric(const struct coordinator *c) {
    return score_choose(c->config->train_metric, c->task);
}

int coordinator_eval(struct coordinator *c, void *conn, const Graphps__Eval *eval, uint64_t now_ms,
                     struct error *reterr) {
    coordinator_enter(c, &now_ms);
    struct worker *worker;
    int r = worker_heard(c, eval->rank, eval->incarnation, now_ms, &worker, reterr);
    if (r == 0)
        r = eval_check(c, eval, reterr);
    if (r == 0 && eval->candidate) {
        struct epoch *candidate = c->candidate_open ? c->candidate : NULL;
        if (candidate && candidate->epoch == eval->epoch && !candidate->reported[eval->rank])
            epoch_add(c, candidate, eval);
        worker_hold(c, &worker->eval, conn, eval->id, 0, now_ms);
        coordinator_advance(c, now_ms);
    } else if (r == 0) {
        if (eval->epoch > c->epoch_complete) {
            struct epoch *epoch = epoch_get(c, eval->epoch);
            if (!epoch->reported[eval->rank])
                epoch_add(c, epoch, eval);
        }
        if (eval->epoch > worker->evaled)
            worker->evaled = eval->epoch;
        worker_hold(c, &worker->eval, conn, eval->id, eval->epoch, now_ms);
        coordinator_advance(c, now_ms);
    }
    coordinator_unlock(c);
    return r;
}

/* Will this rank's report of the epoch still come? Not from a process that began after it, or that
 * is past it (what it had reported may have been lost with an earlier life of shard 0). */
static bool epoch_owed(const struct epoch *epoch, const struct worker *worker, size_t rank) {
    return worker_counts(worker) && !epoch->reported[rank] && epoch->epoch >= worker->epoch_from &&
           worker->evaled < epoch->epoch &&
           (worker->steps_per_epoch == 0 ||
            worker_clock(worker) <= (uint64_t)epoch->epoch * worker->steps_per_epoch);
}

/* The first rank whose report of the oldest open epoch is awaited; worker_count: nobody's. */
size_t epochs_owing(const struct coordinator *c, uint32_t *ret_epoch) {
    if (!list_empty(&c->epochs)) {
        const struct epoch *epoch = epoch_of(c->epochs.next);
        *ret_epoch = epoch->epoch;
        for (size_t i = 0; i < c->worker_count; i++)
            if (epoch_owed(epoch, &c->workers[i], i))
                return i;
    }
    return c->worker_count;
}

bool epochs_settled(const struct coordinator *c, uint64_t clock) {
    for (size_t i = 0; i < c->worker_count; i++) {
        const struct worker *worker = &c->workers[i];
        uint64_t epoch = worker->steps_per_epoch ? clock / worker->steps_per_epoch : 0;
        if (worker_counts(worker) && epoch > worker->evaled && epoch >= worker->epoch_from &&
            epoch > c->epoch_complete && worker_clock(worker) <= epoch * worker->steps_per_epoch)
            return false;
    }
    return peers_hold_best(c);
}

static bool epoch_better(const struct coordinator *c, const Graphps__EpochStatus *a) {
    if (c->best.epoch == 0)
        return true;
    enum score metric = epochs_metric(c);
    double score = score_of(a, SCORE_VALID, metric), best = score_of(&c->best, SCORE_VALID, metric);
    if (score < 0 || best < 0) /* not known: worse than any */
        return score != best ? best < 0 : a->valid_loss < c->best.valid_loss;
    return score != best ? score_better(metric, score, best) : a->valid_loss < c->best.valid_loss;
}

static uint32_t epoch_reports(const struct coordinator *c, const struct epoch *epoch) {
    uint32_t reports = 0;
    for (size_t i = 0; i < c->worker_count; i++)
        reports += epoch->reported[i];
    return reports;
}

static void valid_copy(Graphps__EpochStatus *to, const Graphps__EpochStatus *from) {
    to->valid_loss = from->valid_loss;
    for (enum score score = 0; score < SCORES; score++) {
        *score_field(to, SCORE_VALID, score) = score_of(from, SCORE_VALID, score);
        *score_field(to, SCORE_TEST, score) = score_of(from, SCORE_TEST, score);
    }
    to->valid_epoch = from->valid_epoch;
    to->valid_workers = from->valid_workers;
}

/* Validation and test: of the epoch itself in bsp, of the candidate else. */
static void epoch_judge(struct coordinator *c, const struct epoch *epoch) {
    uint64_t valid_count = epoch->sum.valid_count;
    if (valid_count == 0 && epoch->sum.test_count == 0)
        return;
    Graphps__EpochStatus *last = &c->last;
    score_validation(&epoch->sum, last);
    last->valid_epoch = epoch->epoch;
    last->valid_workers = epoch_reports(c, epoch);
    if (valid_count == 0) /* nothing to choose by */
        return;
    /* An epoch that fewer ranks reported saw other nodes: it is not comparable, and one that more
     * reported replaces what was seen of a part. */
    if (valid_count > c->best_valid_count ||
        (valid_count == c->best_valid_count && epoch_better(c, last))) {
        c->best = epoch->trained;
        valid_copy(&c->best, last);
        c->best.epoch = epoch->epoch;
        c->best_valid_count = valid_count;
        c->best_uncounted = epoch->uncounted;
        c->idle = 0;
        peers_order_changed(c);
    } else if (valid_count == c->best_valid_count) {
        int64_t passed = (int64_t)epoch->epoch - c->best.epoch;
        int64_t uncounted = (int64_t)epoch->uncounted - c->best_uncounted;
        c->idle = passed > uncounted ? (uint32_t)(passed - uncounted) : 0;
    }
}

static void epoch_close(struct coordinator *c, struct epoch *epoch) {
    Graphps__EpochStatus *last = &c->last;
    last->workers = epoch_reports(c, epoch);
    /* Epochs that nobody reported are passed over too. */
    c->uncounted += epoch->epoch - c->epoch_complete - 1;
    c->uncounted += last->workers < c->best.valid_workers;
    last->epoch = epoch->epoch;
    score_training(&epoch->sum, last);
    c->epoch_complete = epoch->epoch;
    epoch->uncounted = c->uncounted;
    epoch->trained = *last;
    epoch_judge(c, epoch);
    enum score metric = epochs_metric(c);
    log_debug("epoch", "epoch=%u train_loss=%.4f %s=%.4f best_epoch=%u", last->epoch,
              last->train_loss, score_key(SCORE_VALID, metric), score_of(last, SCORE_VALID, metric),
              c->best.epoch);
}

/* --- candidates (async, ssp) --- */

static bool candidate_owed(const struct coordinator *c, size_t rank) {
    return worker_counts(&c->workers[rank]) && !c->candidate->reported[rank];
}

static bool candidate_complete(const struct coordinator *c) {
    for (size_t i = 0; i < c->worker_count; i++)
        if (candidate_owed(c, i))
            return false;
    return true;
}

/* The newest epoch that all have finished and that is to be evaluated; 0: none. */
static uint32_t candidate_next(const struct coordinator *c) {
    uint32_t every = (uint32_t)c->config->train_eval_every;
    uint32_t last = (uint32_t)c->config->train_epochs;
    return c->epoch_complete >= last ? last : c->epoch_complete / every * every;
}

static void candidates_advance(struct coordinator *c) {
    if (c->phase >= JOB_DRAINING) {
        /* Whoever was told to stop reports no more: what is there is of some ranks only. */
        c->candidate = epoch_free(c->candidate);
        c->candidate_open = false;
        return;
    }
    if (c->candidate && !c->candidate_open)
        c->candidate_open = peers_hold_candidate(c);
    if (c->candidate_open && candidate_complete(c)) {
        epoch_judge(c, c->candidate);
        c->candidate = epoch_free(c->candidate);
        c->candidate_open = false;
    }
    uint32_t next = candidate_next(c);
    if (!c->candidate && next > c->candidate_epoch && peers_restored(c) && peers_hold_best(c)) {
        c->candidate = epoch_new(c, next);
        c->candidate->trained = c->last;
        c->candidate->uncounted = c->uncounted;
        c->candidate_epoch = next;
        peers_order_changed(c);
    }
}

bool epochs_judged(const struct coordinator *c) {
    return c->bsp || (!c->candidate && c->candidate_epoch >= (uint32_t)c->config->train_epochs);
}

/* From the state, not at the events that change it: a restored run shows at once what it knew. What
 * nobody has reported or judged yet is not set. */
static void gauges_set(const struct coordinator *c) {
    uint64_t slowest, fastest;
    workers_span(c, &slowest, &fastest);
    metric_set(METRIC_CLOCK_SLOWEST, (double)slowest);
    metric_set(METRIC_CLOCK_FASTEST, (double)fastest);
    metric_set(METRIC_WORKERS_LIVE, (double)workers_in(c, WORKER_LIVE));
    metric_set(METRIC_EPOCH, c->epoch_complete);
    static const struct {
        enum score_set set;
        enum score score;
        enum metric gauge;
    } rows[] = {
        {SCORE_TRAIN, SCORE_ACCURACY, METRIC_TRAIN_ACCURACY},
        {SCORE_TRAIN, SCORE_MICRO_F1, METRIC_TRAIN_MICRO_F1},
        {SCORE_VALID, SCORE_ACCURACY, METRIC_VALID_ACCURACY},
        {SCORE_VALID, SCORE_MICRO_F1, METRIC_VALID_MICRO_F1},
        {SCORE_VALID, SCORE_MACRO_F1, METRIC_VALID_MACRO_F1},
        {SCORE_TEST, SCORE_ACCURACY, METRIC_TEST_ACCURACY},
        {SCORE_TEST, SCORE_MICRO_F1, METRIC_TEST_MICRO_F1},
        {SCORE_TEST, SCORE_MACRO_F1, METRIC_TEST_MACRO_F1},
        {SCORE_VALID, SCORE_ROC_AUC, METRIC_VALID_ROC_AUC},
        {SCORE_TEST, SCORE_ROC_AUC, METRIC_TEST_ROC_AUC},
        {SCORE_VALID, SCORE_AVERAGE_PRECISION, METRIC_VALID_AVERAGE_PRECISION},
        {SCORE_TEST, SCORE_AVERAGE_PRECISION, METRIC_TEST_AVERAGE_PRECISION},
        {SCORE_TRAIN, SCORE_RMSE, METRIC_TRAIN_RMSE},
        {SCORE_VALID, SCORE_RMSE, METRIC_VALID_RMSE},
        {SCORE_TEST, SCORE_RMSE, METRIC_TEST_RMSE},
        {SCORE_TRAIN, SCORE_MAE, METRIC_TRAIN_MAE},
        {SCORE_VALID, SCORE_MAE, METRIC_VALID_MAE},
        {SCORE_TEST, SCORE_MAE, METRIC_TEST_MAE},
        {SCORE_VALID, SCORE_MRR, METRIC_VALID_MRR},
        {SCORE_TEST, SCORE_MRR, METRIC_TEST_MRR},
        {SCORE_VALID, SCORE_HITS_AT_1, METRIC_VALID_HITS_AT_1},
        {SCORE_VALID, SCORE_HITS_AT_3, METRIC_VALID_HITS_AT_3},
        {SCORE_VALID, SCORE_HITS_AT_10, METRIC_VALID_HITS_AT_10},
        {SCORE_TEST, SCORE_HITS_AT_1, METRIC_TEST_HITS_AT_1},
        {SCORE_TEST, SCORE_HITS_AT_3, METRIC_TEST_HITS_AT_3},
        {SCORE_TEST, SCORE_HITS_AT_10, METRIC_TEST_HITS_AT_10},
        {SCORE_VALID, SCORE_RECALL_AT_K, METRIC_VALID_RECALL_AT_K},
        {SCORE_TEST, SCORE_RECALL_AT_K, METRIC_TEST_RECALL_AT_K},
        {SCORE_VALID, SCORE_NDCG_AT_K, METRIC_VALID_NDCG_AT_K},
        {SCORE_TEST, SCORE_NDCG_AT_K, METRIC_TEST_NDCG_AT_K},
    };
    if (c->last.epoch)
        metric_set(METRIC_TRAIN_LOSS, c->last.train_loss);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint32_t known = rows[i].set == SCORE_TRAIN ? c->last.epoch : c->best.epoch;
        double value =
            score_of(rows[i].set == SCORE_TEST ? &c->best : &c->last, rows[i].set, rows[i].score);
        if (known && value >= 0 && score_of_task(rows[i].score, c->task))
            metric_set(rows[i].gauge, value);
    }
}

/* Once the job ends, ranks leave one by one, the fastest furthest ahead: what they still report is
 * no epoch of all. In bsp all stop at the same step, whose epoch may be the best. */
static bool epoch_closes(const struct coordinator *c, const struct epoch *epoch) {
    return c->phase < JOB_DRAINING || (c->bsp && epoch_reports(c, epoch) == c->worker_count);
}

void epochs_advance(struct coordinator *c, uint64_t now_ms) {
    uint32_t number;
    while (!list_empty(&c->epochs) && epochs_owing(c, &number) == c->worker_count &&
           epoch_closes(c, epoch_of(c->epochs.next))) {
        struct epoch *epoch = epoch_of(list_pop(&c->epochs));
        epoch_close(c, epoch);
        epoch_free(epoch);
    }
    if (!c->bsp)
        candidates_advance(c);
    int64_t patience = c->config->train_patience;
    if (c->epoch_complete >= c->config->train_epochs) {
        if (epochs_judged(c))
            coordinator_stop(c, "epochs", 0, now_ms);
    } else if (patience && c->idle >= patience) {
        coordinator_stop(c, "early stop", 0, now_ms);
    }
    gauges_set(c);
}

void epochs_release(struct coordinator *c, uint64_t now_ms) {
    for (size_t i = 0; i < c->worker_count; i++) {
        struct held *held = &c->workers[i].eval;
        if (!held->conn)
            continue;
        bool known = held->number <= c->epoch_complete && peers_hold_best(c);
        /* A rank that was let go early cannot change a weight before the others push too. */
        bool late = now_ms - held->since_ms > (uint64_t)c->config->workers_lease_ms;
        if (c->bsp && c->phase < JOB_DRAINING && !known && !late)
            continue;
        bool due = c->candidate_open && candidate_owed(c, i);
        /* Whoever has done its last epoch stays until the last candidate is evaluated. */
        if (!c->bsp && c->phase < JOB_DRAINING && !due &&
            held->number >= (uint64_t)c->config->train_epochs && !epochs_judged(c))
            continue;
        Graphps__Evaled evaled = GRAPHPS__EVALED__INIT;
        evaled.id = held->id;
        evaled.epoch = (uint32_t)held->number;
        evaled.candidate = due ? c->candidate_epoch : 0;
        coordinator_send(c, held->conn, FRAME_EVALED, &evaled.base);
        worker_release(c, held);
    }
}
