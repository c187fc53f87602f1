/* Layers from the options and back: the short forms are written out, lines are read word by word,
 * and what follows from the order of the layers is filled in. */
#include "common/model_spec.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config.h"
#include "common/mem.h"

enum { TAKES_WIDTH = 1, TAKES_ALPHA = 2, TAKES_HEADS = 4, TAKES_MODE = 8, TAKES_EDGES = 16 };

#define HEADS_MAX 32

static const struct {
    const char *name;
    int graph, order, takes;
} kinds[] = {
#define LAYER(name, graph, order, takes, sentence) {#name, graph, order, takes},
#include "common/layers.def"
#undef LAYER
};
static const char *const activations[] = {"relu", "elu", "gelu", "none"};
static const char *const jumps[] = {"none", "concat", "max"};
static const char *const norms[] = {"none", "layer", "batch"};

const char *layer_kind_name(int kind) {
    return kinds[kind].name;
}

/* --- text to layers --- */

static int choice_of(const char *const *names, size_t count, const char *text) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(names[i], text) == 0)
            return (int)i;
    return -1;
}

/* *ret is 0 when it is no such number. */
static bool number_of(const char *text, double min, double max, bool whole, double *ret) {
    char *end;
    *ret = strtod(text, &end);
    bool right = end != text && *end == '\0' && *ret >= min && *ret <= max &&
                 (!whole || *ret == floor(*ret));
    *ret = right ? *ret : 0;
    return right;
}

/* One "key=value" of a layer. */
static int parameter_parse(struct layer_spec *layer, const char *line, const char *key,
                           const char *value, struct error *reterr) {
    int takes = kinds[layer->kind].takes, found = 0;
    double number = 0;
    const char *wanted = NULL;
    if (strcmp(key, "width") == 0 && takes & TAKES_WIDTH) {
        if (!number_of(value, 1, 65536, true, &number))
            wanted = "a number from 1 to 65536";
        layer->width = (uint32_t)number;
    } else if (strcmp(key, "alpha") == 0 && takes & TAKES_ALPHA) {
        if (!number_of(value, 0, 1, false, &number))
            wanted = "a number from 0 to 1";
        layer->alpha = (float)number;
    } else if (strcmp(key, "heads") == 0 && takes & TAKES_HEADS) {
        if (!number_of(value, 1, HEADS_MAX, true, &number))
            wanted = "a number from 1 to 32";
        layer->heads = (uint32_t)number;
    } else if (strcmp(key, "average") == 0 && takes & TAKES_HEADS) {
        layer->average = strcmp(value, "true") == 0;
        wanted = layer->average || strcmp(value, "false") == 0 ? NULL : "true or false";
    } else if (strcmp(key, "attention_dropout") == 0 && takes & TAKES_HEADS) {
        if (!number_of(value, 0, 0.99, false, &number))
            wanted = "a number from 0 to 0.99";
        layer->attention_dropout = (float)number;
    } else if (strcmp(key, "slope") == 0 && takes & TAKES_HEADS) {
        if (!number_of(value, 0, 1, false, &number))
            wanted = "a number from 0 to 1";
        layer->slope = (float)number;
    } else if (strcmp(key, "mode") == 0 && takes & TAKES_MODE) {
        found = layer->mode = choice_of(jumps, ARRAY_LEN(jumps), value);
        wanted = found <= JUMP_NONE ? "concat or max" : NULL;
    } else if (strcmp(key, "edge_weights") == 0 && takes & TAKES_EDGES) {
        layer->edge_weights = strcmp(value, "true") == 0;
        wanted = layer->edge_weights || strcmp(value, "false") == 0 ? NULL : "true or false";
    } else if (strcmp(key, "dropout") == 0) {
        if (!number_of(value, 0, 0.99, false, &number))
            wanted = "a number from 0 to 0.99";
        layer->dropout = (float)number;
    } else if (strcmp(key, "activation") == 0) {
        found = layer->activation = choice_of(activations, ARRAY_LEN(activations), value);
        wanted = found < 0 ? "relu, elu, gelu or none" : NULL;
    } else if (strcmp(key, "norm") == 0) {
        found = layer->norm = choice_of(norms, ARRAY_LEN(norms), value);
        wanted = found < 0 ? "layer, batch or none" : NULL;
    } else if (strcmp(key, "residual") == 0 && !(takes & TAKES_MODE)) {
        layer->residual = strcmp(value, "true") == 0;
        wanted = layer->residual || strcmp(value, "false") == 0 ? NULL : "true or false";
    } else {
        return error_set(
            reterr, ERR_CONFIG, "\"%s\": %s takes%s%s%s%s%s activation, norm%s, not %s", line,
            kinds[layer->kind].name, takes & TAKES_WIDTH ? " width," : "",
            takes & TAKES_ALPHA ? " alpha," : "",
            takes & TAKES_HEADS ? " heads, average, attention_dropout, slope," : "",
            takes & TAKES_MODE ? " mode," : "", takes & TAKES_EDGES ? " edge_weights," : "",
            takes & TAKES_MODE ? " and dropout" : ", dropout and residual", key);
    }
    return wanted
               ? error_set(reterr, ERR_CONFIG, "\"%s\": %s=%s is not %s", line, key, value, wanted)
               : 0;
}

static int layer_parse(const char *line, struct layer_spec *ret, struct error *reterr) {
    char words[LAYER_TEXT_MAX], *rest = words;
    if (strlen(line) >= sizeof words)
        return error_set(reterr, ERR_CONFIG, "a layer of more than %zu characters",
                         sizeof words - 1);
    snprintf(words, sizeof words, "%s", line);
    *ret = (struct layer_spec){.kind = -1,
                               .activation = ACTIVATION_NONE,
                               .alpha = 0.1F,
                               .mode = JUMP_CONCAT,
                               .heads = 1,
                               .slope = 0.2F};
    const char *keys[LAYER_TEXT_MAX / 2];
    size_t count = 0;
    for (char *word; (word = strtok_r(rest, " \t", &rest));) {
        char *value = strchr(word, '=');
        if (ret->kind < 0) {
            for (int kind = 0; kind < LAYER_KINDS; kind++)
                if (strcmp(kinds[kind].name, word) == 0)
                    ret->kind = kind;
            if (ret->kind < 0)
                break;
            continue;
        }
        if (!value || value == word)
            return error_set(reterr, ERR_CONFIG, "\"%s\": %s is no parameter=value", line, word);
        *value++ = '\0';
        for (size_t i = 0; i < count; i++)
            if (strcmp(keys[i], word) == 0)
                return error_set(reterr, ERR_CONFIG, "\"%s\": %s is there twice", line, word);
        keys[count++] = word;
        int r = parameter_parse(ret, line, word, value, reterr);
        if (r < 0)
            return r;
    }
    if (ret->kind >= 0)
        return 0;
    char names[200];
    size_t len = 0;
    for (int kind = 0; kind < LAYER_KINDS; kind++)
        len += (size_t)snprintf(names + len, sizeof names - len, "%s%s", kind > 0 ? ", " : "",
                                kinds[kind].name);
    return error_set(reterr, ERR_CONFIG, "\"%s\" does not begin with a kind of layer (%s)", line,
                     names);
}

/* --- what follows from the list --- */

/* Who is told of faults. */
struct listener {
    model_fault *tell;
    void *ctx;
    size_t count;
};

__attribute__((format(printf, 3, 4))) static void fault(struct listener *listener, size_t entry,
                                                        const char *format, ...) {
    char text[480];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    listener->count++;
    listener->tell(listener->ctx, entry, text);
}

/* What can be known of a layer's width before the graph: 0 is that of the features. */
static uint64_t width_of(const struct model_spec *spec, size_t l, const uint64_t *widths) {
    const struct layer_spec *layer = &spec->layers[l];
    uint64_t width = layer->width, sum = 0;
    for (size_t k = 0; k < l && layer->kind == LAYER_jump && layer->mode == JUMP_CONCAT; k++)
        sum += widths[k];
    if (sum > 0)
        return sum;
    if (!width)
        return l > 0 ? widths[l - 1] : 0;
    return kinds[layer->kind].takes & TAKES_HEADS && !layer->average ? width * layer->heads : width;
}

static void check_jump(const struct model_spec *spec, size_t l, size_t last, bool again,
                       const uint64_t *widths, struct listener *listener) {
    const struct layer_spec *layer = &spec->layers[l];
    if (l == 0)
        fault(listener, l, "layer %zu: jump needs layers before it", l);
    else if (l > last)
        fault(listener, l, "layer %zu: jump needs a layer with weights after it", l);
    if (again)
        fault(listener, l, "layer %zu: a second jump; a model may have one", l);
    for (size_t k = 1; k < l && layer->mode == JUMP_MAX; k++)
        if (widths[k] != widths[0]) {
            fault(listener, l,
                  "layer %zu: jump mode=max needs layers of one width, but layers 0 and %zu differ",
                  l, k);
            break;
        }
}

static void check_width(const struct model_spec *spec, size_t l, size_t last,
                        struct listener *listener) {
    const struct layer_spec *layer = &spec->layers[l];
    if (l == last && layer->width)
        fault(listener, l,
              "layer %zu: the last layer with weights is as wide as there are classes; leave its "
              "width out",
              l);
    if (l == last && layer->heads > 1 && !layer->average)
        fault(listener, l,
              "layer %zu: the last layer with weights gives one number for each class; its heads "
              "need average=true",
              l);
    if (l != last && kinds[layer->kind].takes & TAKES_WIDTH && !layer->width)
        fault(listener, l, "layer %zu, %s, needs a width", l, kinds[layer->kind].name);
}

/* Faults of layers that are each well written. learns: the inputs do, so that no layer has to. */
static void stack_check(const struct model_spec *spec, bool learns, struct listener *listener) {
    uint64_t widths[STACK_MAX];
    size_t hops = 0, last = spec->count, jumps_seen = 0;
    for (size_t l = 0; l < spec->count; l++) {
        hops += kinds[spec->layers[l].kind].graph != GRAPH_NONE;
        if (kinds[spec->layers[l].kind].takes & TAKES_WIDTH)
            last = l;
        widths[l] = width_of(spec, l, widths);
    }
    if (last == spec->count && (!learns || spec->count == 0)) {
        fault(listener, MODEL_FAULT_LIST,
              "no layer has weights: there is nothing to learn (train.task links can do without "
              "where model.embedding learns rows)");
        return;
    }
    if (hops > HOPS_MAX)
        fault(listener, MODEL_FAULT_LIST, "%zu layers propagate; at most %d may", hops, HOPS_MAX);
    for (size_t l = 0; l < spec->count; l++) {
        if (spec->layers[l].kind == LAYER_ppr && (l == 0 || spec->layers[0].kind == LAYER_ppr))
            fault(listener, l, "layer %zu: ppr needs a layer to start from", l);
        if (spec->layers[l].kind == LAYER_jump)
            check_jump(spec, l, last, jumps_seen++ > 0, widths, listener);
        check_width(spec, l, last, listener);
    }
}

/* Keeps the first fault. */
static void tell_error(void *ctx, size_t entry, const char *text) {
    struct error *err = ctx;
    (void)entry;
    if (!err->code)
        error_set(err, ERR_CONFIG, "%s", text);
}

static void stack_resolve(struct model_spec *spec, uint32_t input_dim, uint32_t classes) {
    spec->input_dim = input_dim;
    spec->classes = classes;
    spec->hops.count = 0;
    for (size_t l = 0; l < spec->count; l++) {
        struct layer_spec *layer = &spec->layers[l];
        layer->in = l == 0 ? input_dim : layer[-1].out;
        layer->out = layer->width                             ? layer->width
                     : kinds[layer->kind].takes & TAKES_WIDTH ? classes
                                                              : layer->in;
        if (kinds[layer->kind].takes & TAKES_HEADS && !layer->average)
            layer->out *= layer->heads;
        layer->graph = kinds[layer->kind].graph + (layer->edge_weights ? GRAPH_SYM_WEIGHTED : 0);
        layer->order = kinds[layer->kind].order;
        layer->hop = spec->hops.count;
        if (layer->graph != GRAPH_NONE)
            spec->hops.graph[spec->hops.count++] = layer->graph;
        if (layer->kind == LAYER_ppr)
            layer->start = layer[-1].kind == LAYER_ppr ? layer[-1].start : l - 1;
        if (layer->kind != LAYER_jump)
            continue;
        layer->start = l;
        for (size_t k = 0; k + 1 < l && layer->mode == JUMP_CONCAT; k++)
            layer->out += spec->layers[k].out;
    }
}

int model_spec_parse(const char *text, uint32_t input_dim, uint32_t classes,
                     struct model_spec *spec, struct error *reterr) {
    if (strlen(text) >= STACK_TEXT_MAX)
        return error_set(reterr, ERR_CONFIG, "the model's layers are more than %d characters",
                         STACK_TEXT_MAX - 1);
    char lines[STACK_TEXT_MAX], *rest = lines;
    snprintf(lines, sizeof lines, "%s", text);
    spec->count = 0;
    for (char *line; (line = strtok_r(rest, ";", &rest));) {
        if (spec->count == STACK_MAX)
            return error_set(reterr, ERR_CONFIG, "more than %d layers", STACK_MAX);
        line += strspn(line, " ");
        int r = layer_parse(line, &spec->layers[spec->count++], reterr);
        if (r < 0)
            return r;
    }
    struct error first = {0};
    stack_check(spec, spec->embedding > 0, &(struct listener){tell_error, &first, 0});
    if (first.code)
        return error_set(reterr, ERR_CONFIG, "%s", first.text);
    stack_resolve(spec, input_dim, classes);
    return 0;
}

uint32_t model_spec_outputs(const struct model_spec *spec) {
    return spec->layers[spec->count - 1].out;
}

bool model_spec_weighted(const struct model_spec *spec) {
    bool weighted = false;
    for (size_t l = 0; l < spec->count; l++)
        weighted = weighted || spec->layers[l].edge_weights;
    return weighted;
}

bool model_spec_first_transpose(const struct model_spec *spec) {
    const struct layer_spec *first = &spec->layers[0];
    if (spec->embedding)
        return true;
    if (first->graph == GRAPH_NONE || first->order == ORDER_WEIGHTS)
        return true;
    return first->order == ORDER_EITHER && first->in >= first->out;
}

/* --- layers to text --- */

void model_spec_print(const struct model_spec *spec, char *buf, size_t buf_bytes) {
    size_t len = 0;
    buf[0] = '\0';
#define ADD(...)                                                                                   \
    do {                                                                                           \
        if (len < buf_bytes)                                                                       \
            len += (size_t)snprintf(buf + len, buf_bytes - len, __VA_ARGS__);                      \
    } while (0)
    for (size_t l = 0; l < spec->count; l++) {
        const struct layer_spec *layer = &spec->layers[l];
        ADD("%s%s", l > 0 ? "; " : "", kinds[layer->kind].name);
        if (layer->width)
            ADD(" width=%u", layer->width);
        if (kinds[layer->kind].takes & TAKES_ALPHA)
            ADD(" alpha=%.9g", (double)layer->alpha);
        if (kinds[layer->kind].takes & TAKES_HEADS) {
            ADD(" heads=%u", layer->heads);
            if (layer->average)
                ADD(" average=true");
            if (layer->attention_dropout > 0)
                ADD(" attention_dropout=%.9g", (double)layer->attention_dropout);
            if (layer->slope != 0.2F)
                ADD(" slope=%.9g", (double)layer->slope);
        }
        if (kinds[layer->kind].takes & TAKES_MODE)
            ADD(" mode=%s", jumps[layer->mode]);
        if (layer->edge_weights)
            ADD(" edge_weights=true");
        if (layer->residual)
            ADD(" residual=true");
        if (layer->norm != NORM_NONE)
            ADD(" norm=%s", norms[layer->norm]);
        if (layer->activation != ACTIVATION_NONE)
            ADD(" activation=%s", activations[layer->activation]);
        if (layer->dropout > 0)
            ADD(" dropout=%.9g", (double)layer->dropout);
    }
#undef ADD
}

bool model_spec_same(const struct model_spec *a, const struct model_spec *b) {
    const struct model_spec *both[2] = {a, b};
    char texts[2][STACK_TEXT_MAX];
    for (int i = 0; i < 2; i++) {
        struct model_spec plain = *both[i];
        for (size_t l = 0; l < plain.count; l++)
            plain.layers[l].dropout = plain.layers[l].attention_dropout = 0;
        model_spec_print(&plain, texts[i], sizeof texts[i]);
    }
    return strcmp(texts[0], texts[1]) == 0;
}

/* --- the short forms --- */

static struct layer_spec *add(struct model_spec *spec, int kind, uint32_t width) {
    struct layer_spec *layer = &spec->layers[spec->count++];
    *layer = (struct layer_spec){
        .kind = kind, .width = width, .activation = ACTIVATION_NONE, .heads = 1, .slope = 0.2F};
    return layer;
}

/* model.layers layers of a kind; all but the last are followed by what the options say. With
 * jumping knowledge all are, and join before a linear layer. */
static void add_hidden(const struct config *config, struct model_spec *spec, int kind) {
    for (int64_t l = 0; l < config->model_layers; l++) {
        bool last = l + 1 == config->model_layers && config->model_jump == JUMP_NONE;
        struct layer_spec *layer = add(spec, kind, last ? 0 : (uint32_t)config->model_hidden);
        if (kinds[kind].takes & TAKES_HEADS) {
            layer->heads = (uint32_t)(last ? config->model_output_heads : config->model_heads);
            layer->average = last;
            layer->attention_dropout = (float)config->model_attention_dropout;
        }
        if (last)
            continue;
        layer->norm = config->model_norm;
        layer->activation = config->model_activation;
        layer->dropout = (float)config->model_dropout;
        layer->residual = config->model_residual;
    }
    if (config->model_jump == JUMP_NONE)
        return;
    add(spec, LAYER_jump, 0)->mode = config->model_jump;
    add(spec, LAYER_linear, 0);
}

static void expand(const struct config *config, struct model_spec *spec) {
    static const int of[] = {
        [MODEL_GCN] = LAYER_gcn,           [MODEL_SAGE] = LAYER_sage, [MODEL_MLP] = LAYER_linear,
        [MODEL_SAGE_GCN] = LAYER_sage_gcn, [MODEL_GIN] = LAYER_gin,   [MODEL_SGC] = LAYER_linear,
        [MODEL_APPNP] = LAYER_linear,      [MODEL_GAT] = LAYER_gat,   [MODEL_GATV2] = LAYER_gatv2,
        [MODEL_SAGE_MAX] = LAYER_sage_max};
    spec->count = 0;
    for (int64_t k = 0; config->model_kind == MODEL_SGC && k < config->model_hops; k++)
        add(spec, LAYER_propagate, 0);
    add_hidden(config, spec, of[config->model_kind]);
    for (int64_t k = 0; config->model_kind == MODEL_APPNP && k < config->model_hops; k++)
        add(spec, LAYER_ppr, 0)->alpha = (float)config->model_alpha;
    for (size_t l = 0; l < spec->count; l++)
        spec->layers[l].edge_weights =
            config->model_edge_weights && kinds[spec->layers[l].kind].takes & TAKES_EDGES;
}

/* The layers, and what is wrong with them. */
static void read_stack(const struct config *config, struct model_spec *ret,
                       struct listener *listener) {
    const struct string_list *stack = &config->model_stack;
    ret->count = stack->count;
    if (stack->count == 0)
        expand(config, ret);
    for (size_t i = 0; i < stack->count; i++) {
        struct error cause;
        if (layer_parse(stack->items[i], &ret->layers[i], &cause) < 0)
            fault(listener, i, "%s", cause.text);
    }
    bool links = config->train_task == TASK_LINKS;
    if (listener->count == 0)
        stack_check(ret, links && config->model_embedding > 0, listener);
}

size_t model_spec_check(const struct config *config, model_fault *tell, void *ctx) {
    struct model_spec spec;
    struct listener listener = {tell, ctx, 0};
    read_stack(config, &spec, &listener);
    return listener.count;
}

void model_spec_from(const struct config *config, uint32_t feature_dim, uint32_t classes,
                     struct model_spec *ret) {
    *ret = (struct model_spec){
        .embedding = (uint32_t)config->model_embedding,
        .input_dropout = (float)config->model_input_dropout,
        .label_smoothing = (float)config->train_label_smoothing,
        .decay_layers = config->optimizer_decay_layers,
        .seed = (uint64_t)config->job_seed,
    };
    struct error first = {0};
    read_stack(config, ret, &(struct listener){tell_error, &first, 0});
    assert(first.code == 0);
    bool links = config->train_task == TASK_LINKS;
    stack_resolve(ret, feature_dim + ret->embedding, links ? (uint32_t)config->link_dim : classes);
    ret->hops.outer = links ? 1 : 0;
}

size_t model_spec_hops(const struct config *config) {
    struct model_spec spec;
    model_spec_from(config, 1, 1, &spec);
    return spec.hops.count;
}
