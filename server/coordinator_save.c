/* What a checkpoint keeps of the coordinator, and back. The state is that of the moment the
 * generation was ordered, before any shard made its cut: a worker that restarts from it repeats at
 * most steps that the weights hold, and in bsp those are known to be late. */
#include <string.h>

#include "common/model_spec.h"
#include "server/coordinator_state.h"

/* JSON integers are signed; the bits are kept. */
static json_int_t as_json(uint64_t value) {
    return (json_int_t)value;
}

json_t *coordinator_epoch_json(const Graphps__EpochStatus *epoch, Graphps__Task task) {
    json_t *json =
        json_pack("{s:I, s:f, s:f, s:I, s:I, s:I}", "epoch", (json_int_t)epoch->epoch, "train_loss",
                  epoch->train_loss, "valid_loss", epoch->valid_loss, "valid_epoch",
                  (json_int_t)epoch->valid_epoch, "workers", (json_int_t)epoch->workers,
                  "valid_workers", (json_int_t)epoch->valid_workers);
    for (enum score score = 0; score < SCORES; score++)
        for (enum score_set set = 0; score_of_task(score, task) && set < SCORE_SETS; set++)
            json_object_set_new(json, score_key(set, score),
                                json_real(score_of(epoch, set, score)));
    return json;
}

static json_t *model_save(const struct config *config) {
    struct model_spec spec;
    char layers[STACK_TEXT_MAX];
    model_spec_from(config, 1, 1, &spec);
    model_spec_print(&spec, layers, sizeof layers);
    json_t *json =
        json_pack("{s:s, s:b, s:I, s:s}", "layers", layers, "normalize_features",
                  config->data_normalize_features, "embedding", (json_int_t)config->model_embedding,
                  "snapshot", config->data_snapshot);
    if (config->train_task == TASK_LINKS)
        json_object_set_new(json, "links",
                            json_pack("{s:s, s:I}", "decoder",
                                      config_choice(config, "link.decoder"), "dim",
                                      (json_int_t)config->link_dim));
    return json;
}

static json_t *traffic_save(const struct traffic *traffic) {
    return json_pack("{s:I, s:I, s:I}", "bytes_pushed", as_json(traffic->bytes_pushed),
                     "bytes_pulled", as_json(traffic->bytes_pulled), "pushes",
                     as_json(traffic->pushes));
}

/* The sums are for those who read the file. "earlier" is apart: a process that lives on tells its
 * own numbers again, from its start. */
static json_t *worker_save(const struct worker *worker) {
    const struct traffic *traffic = &worker->traffic, *earlier = &worker->earlier;
    return json_pack("{s:I, s:I, s:I, s:o, s:I, s:I, s:I, s:I, s:I}", "bytes_pushed",
                     as_json(earlier->bytes_pushed + traffic->bytes_pushed), "bytes_pulled",
                     as_json(earlier->bytes_pulled + traffic->bytes_pulled), "pushes",
                     as_json(earlier->pushes + traffic->pushes), "earlier", traffic_save(earlier),
                     "attempt", as_json(worker->attempt), "incarnation",
                     as_json(worker->incarnation), "clock", as_json(worker_clock(worker)), "evaled",
                     (json_int_t)worker->evaled, "steps_per_epoch",
                     (json_int_t)worker->steps_per_epoch);
}

json_t *coordinator_snapshot(const struct coordinator *c) {
    json_t *workers = json_array();
    for (size_t i = 0; i < c->worker_count; i++)
        json_array_append_new(workers, worker_save(&c->workers[i]));
    return json_pack("{s:o, s:s, s:s, s:o, s:I, s:I, s:I, s:o, s:s, s:I, s:I, s:o}", "model",
                     model_save(c->config), "task", score_task_name(c->task), "metric",
                     score_name(epochs_metric(c)), "best",
                     coordinator_epoch_json(&c->best, c->task), "best_valid_count",
                     as_json(c->best_valid_count), "idle", (json_int_t)c->idle, "uncounted",
                     (json_int_t)(c->uncounted - c->best_uncounted), "last",
                     coordinator_epoch_json(&c->last, c->task), "stop_reason", c->stop_reason,
                     "epoch_complete", (json_int_t)c->epoch_complete, "run_ms",
                     as_json(coordinator_run_ms(c, c->ticked_ms)), "workers", workers);
}

json_t *coordinator_save(struct coordinator *c) {
    coordinator_lock(c);
    json_t *state = c->saved ? json_incref(c->saved) : coordinator_snapshot(c);
    coordinator_unlock(c);
    return state;
}

static int epoch_load(const json_t *json, Graphps__EpochStatus *ret) {
    int epoch, valid_epoch = 0, workers = 0, valid_workers = 0;
    if (json_unpack((json_t *)json, "{s:i, s:F, s:F, s?i, s?i, s?i}", "epoch", &epoch, "train_loss",
                    &ret->train_loss, "valid_loss", &ret->valid_loss, "valid_epoch", &valid_epoch,
                    "workers", &workers, "valid_workers", &valid_workers) < 0 ||
        epoch < 0)
        return -1;
    for (enum score score = 0; score < SCORES; score++)
        for (enum score_set set = 0; set < SCORE_SETS; set++)
            if (score_field(ret, set, score)) {
                const json_t *value = json_object_get(json, score_key(set, score));
                *score_field(ret, set, score) =
                    json_is_number(value) ? json_number_value(value) : -1;
            }
    ret->epoch = (uint32_t)epoch;
    ret->valid_epoch = (uint32_t)valid_epoch;
    ret->workers = (uint32_t)workers;
    ret->valid_workers = (uint32_t)valid_workers;
    return 0;
}

/* What an older program did not save counts as nothing. */
static struct traffic traffic_load(const json_t *json) {
    return (struct traffic){
        .bytes_pushed = (uint64_t)json_integer_value(json_object_get(json, "bytes_pushed")),
        .bytes_pulled = (uint64_t)json_integer_value(json_object_get(json, "bytes_pulled")),
        .pushes = (uint64_t)json_integer_value(json_object_get(json, "pushes")),
    };
}

static int worker_load(const json_t *json, struct worker *ret) {
    json_int_t attempt, incarnation, clock, evaled, steps;
    if (json_unpack((json_t *)json, "{s:I, s:I, s:I, s:I, s:I}", "attempt", &attempt, "incarnation",
                    &incarnation, "clock", &clock, "evaled", &evaled, "steps_per_epoch",
                    &steps) < 0)
        return -1;
    ret->attempt = (uint64_t)attempt;
    ret->incarnation = (uint64_t)incarnation;
    ret->clock = ret->from = (uint64_t)clock;
    ret->evaled = (uint32_t)evaled;
    ret->steps_per_epoch = (uint32_t)steps;
    ret->epoch_from = steps > 0 ? (uint32_t)((uint64_t)clock / (uint64_t)steps) + 1 : 1;
    ret->traffic = traffic_load(json);
    ret->earlier = traffic_load(json_object_get(json, "earlier"));
    ret->traffic.bytes_pushed -= ret->earlier.bytes_pushed;
    ret->traffic.bytes_pulled -= ret->earlier.bytes_pulled;
    ret->traffic.pushes -= ret->earlier.pushes;
    return 0;
}

/* Of links, decoder and width belong to the model; of nodes it has none of both. */
static int check_links(const struct config *config, const json_t *model, struct error *reterr) {
    const json_t *links = json_object_get(model, "links");
    const char *decoder = json_string_value(json_object_get(links, "decoder"));
    json_int_t dim = json_integer_value(json_object_get(links, "dim"));
    bool was = links != NULL, is = config->train_task == TASK_LINKS;
    if (was != is)
        return error_set(reterr, ERR_CONFIG,
                         "the run was begun with train.task %s, it is now %s; set it back, or give "
                         "the new run another job.dir (graphps train: --fresh)",
                         was ? "links" : "nodes", is ? "links" : "nodes");
    if (is && (!decoder || strcmp(decoder, config_choice(config, "link.decoder")) != 0 ||
               dim != config->link_dim))
        return error_set(reterr, ERR_CONFIG,
                         "the run was begun with link.decoder %s and link.dim %lld, they are now "
                         "%s and %lld; set them back, or give the new run another job.dir (graphps "
                         "train: --fresh)",
                         decoder ? decoder : "of none", (long long)dim,
                         config_choice(config, "link.decoder"), (long long)config->link_dim);
    return 0;
}

int coordinator_check_model(const struct config *config, const json_t *state,
                            struct error *reterr) {
    const json_t *model = json_object_get(state, "model");
    const char *layers = json_string_value(json_object_get(model, "layers"));
    bool normalized = json_is_true(json_object_get(model, "normalize_features"));
    json_int_t embedding = json_integer_value(json_object_get(model, "embedding"));
    struct model_spec saved = {.embedding = (uint32_t)embedding}, wanted;
    char text[STACK_TEXT_MAX];
    if (!layers || model_spec_parse(layers, 1, 1, &saved, NULL) < 0)
        return error_set(reterr, ERR_FORMAT,
                         "the coordinator's state does not say what model it is of");
    model_spec_from(config, 1, 1, &wanted);
    model_spec_print(&wanted, text, sizeof text);
    if (!model_spec_same(&saved, &wanted))
        return error_set(reterr, ERR_CONFIG,
                         "the run was begun with the model \"%.150s\", the job file's is now "
                         "\"%.150s\"; set it back, or give the new run another job.dir (graphps "
                         "train: --fresh)",
                         layers, text);
    int r = check_links(config, model, reterr);
    if (r < 0)
        return r;
    if (embedding != config->model_embedding)
        return error_set(
            reterr, ERR_CONFIG,
            "the run was begun with model.embedding %lld, it is now %lld; set it back, "
            "or give the new run another job.dir (graphps train: --fresh)",
            (long long)embedding, (long long)config->model_embedding);
    if (normalized != config->data_normalize_features)
        return error_set(reterr, ERR_CONFIG,
                         "the run was begun with data.normalize_features %s, it is now %s; set it "
                         "back, or give the new run another job.dir (graphps train: --fresh)",
                         normalized ? "true" : "false", normalized ? "false" : "true");
    return 0;
}

int coordinator_load(struct coordinator *c, const json_t *state, struct error *reterr) {
    Graphps__EpochStatus best = GRAPHPS__EPOCH_STATUS__INIT, last = GRAPHPS__EPOCH_STATUS__INIT;
    json_t *saved;
    json_int_t complete, best_valid_count, idle = 0, uncounted = 0, run_ms = 0;
    Graphps__Task task;
    if (!state || !score_task_find(json_string_value(json_object_get(state, "task")), &task) ||
        json_unpack((json_t *)state, "{s:I, s:I, s?I, s?I, s?I, s:o}", "epoch_complete", &complete,
                    "best_valid_count", &best_valid_count, "idle", &idle, "uncounted", &uncounted,
                    "run_ms", &run_ms, "workers", &saved) < 0 ||
        epoch_load(json_object_get(state, "best"), &best) < 0 ||
        epoch_load(json_object_get(state, "last"), &last) < 0)
        return error_set(reterr, ERR_FORMAT, "the coordinator's state is not what it should be");
    int r = coordinator_check_model(c->config, state, reterr);
    if (r < 0)
        return r;
    if (json_array_size(saved) != c->worker_count)
        return error_set(reterr, ERR_CONFIG,
                         "the run was begun with %zu workers, workers.count is %zu; set it back, "
                         "or give the new run another job.dir",
                         json_array_size(saved), c->worker_count);
    _cleanup_(mem_free_p) struct worker *workers = mem_array(c->worker_count, sizeof *workers);
    for (size_t i = 0; i < c->worker_count; i++)
        if (worker_load(json_array_get(saved, i), &workers[i]) < 0)
            return error_set(reterr, ERR_FORMAT, "the coordinator's state of rank %zu is broken",
                             i);
    coordinator_lock(c);
    memcpy(c->workers, workers, c->worker_count * sizeof *workers);
    c->task = task;
    c->best = best;
    c->best_valid_count = (uint64_t)best_valid_count;
    c->last = last;
    c->epoch_complete = (uint32_t)complete;
    c->idle = (uint32_t)idle;
    c->uncounted = (uint32_t)uncounted;
    c->best_uncounted = 0;
    /* What passed until the run was found again is not of the run. */
    c->earlier_ms = (uint64_t)run_ms;
    c->started_ms = c->ticked_ms;
    /* Ranks take part from where they are; the order goes out with the next change or report. */
    workers_update_roster(c);
    peers_order_changed(c);
    coordinator_unlock(c);
    return 0;
}

void coordinator_learn(struct coordinator *c, uint32_t rank, uint64_t attempt,
                       uint64_t incarnation) {
    coordinator_lock(c);
    if (rank < c->worker_count && attempt > c->workers[rank].attempt) {
        worker_turn(&c->workers[rank]);
        c->workers[rank].attempt = attempt;
        c->workers[rank].incarnation = incarnation;
    }
    coordinator_unlock(c);
}
