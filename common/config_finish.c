/* What concerns several options together: conflicts, the values that follow from others, and what a
 * program may ask beyond that. Knows no YAML; a fault is placed where the option was given. */
#include <arpa/inet.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "common/config_option.h"
#include "common/config_sink.h"
#include "common/mem.h"
#include "common/model_spec.h"

enum { JOB_NAME_MAX = 100, HOST_BYTES = 256 };

struct finisher {
    const struct config *config;
    struct config_sink sink;
};

static struct finisher finisher_of(const struct config *config, const char *path,
                                   struct config_faults *faults, struct error *reterr) {
    return (struct finisher){
        .config = config,
        .sink = {.path = path ? path : "configuration", .list = faults, .reterr = reterr},
    };
}

static struct config_place place_of(const struct config *config, const char *section,
                                    const char *name) {
    return config->places[config_option_find(section, name) - config_options];
}

/* "path:line:column: section.name: what", or without a place in the file. */
static char *placed_text(const struct finisher *finisher, struct config_place place,
                         const char *section, const char *name, const char *what) {
    const char *path = finisher->sink.path;
    if (place.line > 0)
        return mem_printf("%s:%d:%d: %s.%s: %s", path, place.line, place.column, section, name,
                          what);
    return mem_printf("%s: %s.%s%s: %s", path, section, name,
                      place.line == CONFIG_PLACE_SET ? " (from --set)" : "", what);
}

/* A fault of an option: at its place in the file, when it has one. */
__attribute__((format(printf, 4, 5))) static void fault_of(struct finisher *finisher,
                                                           const char *section, const char *name,
                                                           const char *format, ...) {
    char what[480];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    struct config_place place = place_of(finisher->config, section, name);
    _cleanup_(mem_free_p) char *text = placed_text(finisher, place, section, name, what);
    config_sink_add(&finisher->sink, text);
}

/* The same of something that may stay: it is said and no fault. */
__attribute__((format(printf, 4, 5))) static void warning_of(struct finisher *finisher,
                                                             const char *section, const char *name,
                                                             const char *format, ...) {
    char what[480];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    struct config_place place = place_of(finisher->config, section, name);
    _cleanup_(mem_free_p) char *text = placed_text(finisher, place, section, name, what);
    _cleanup_(mem_free_p) char *warning = mem_printf("warning: %s", text);
    if (finisher->sink.list)
        config_faults_add(finisher->sink.list, warning);
}

/* "host:port", with an IPv6 host in brackets; port 0 is one the system chooses. */
static bool address_valid(const char *address) {
    const char *colon = strrchr(address, ':');
    if (!colon || colon == address || strspn(address, " ") > 0)
        return false;

    size_t host_len = (size_t)(colon - address);
    bool bracketed = address[0] == '[' && colon[-1] == ']' && host_len > 2;
    for (size_t i = 0; i < host_len; i++)
        if (address[i] == ' ' || (!bracketed && strchr(":[]", address[i])))
            return false;

    const char *port = colon + 1;
    size_t digits = strspn(port, "0123456789");
    return digits > 0 && digits <= 5 && port[digits] == 0 && atoi(port) <= 65535;
}

static int address_port(const char *address) {
    return atoi(strrchr(address, ':') + 1);
}

static bool address_port_free(const char *address) {
    return address_port(address) == 0;
}

/* Of a valid address, without the brackets of an IPv6 host. */
static void address_host(const char *address, char ret_host[HOST_BYTES]) {
    size_t len = (size_t)(strrchr(address, ':') - address);
    bool bracketed = address[0] == '[';
    snprintf(ret_host, HOST_BYTES, "%.*s", (int)(len - 2 * bracketed), address + bracketed);
}

static bool host_is_loopback(const char *host) {
    struct in_addr v4;
    struct in6_addr v6;
    if (strcmp(host, "localhost") == 0)
        return true;
    if (inet_pton(AF_INET, host, &v4) == 1)
        return ntohl(v4.s_addr) >> 24 == 127;
    return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

/* Every address of the machine. */
static bool host_is_any(const char *host) {
    return strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0;
}

/* Can a port of the one be in the way of the same port of the other? */
static bool hosts_meet(const char *a, const char *b) {
    return strcmp(a, b) == 0 || host_is_any(a) || host_is_any(b) ||
           (host_is_loopback(a) && host_is_loopback(b));
}

static void check_job(struct finisher *finisher) {
    const char *name = finisher->config->job_name;
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t len = strlen(name);
    if (len == 0 || len > JOB_NAME_MAX || strspn(name, allowed) != len)
        fault_of(finisher, "job", "name",
                 "expected 1 to %d letters, digits, '.', '_' or '-', found \"%.100s\"",
                 JOB_NAME_MAX, name);
    else if (name[0] == '.' || name[0] == '-') /* it names a directory */
        fault_of(finisher, "job", "name", "\"%s\" must begin with a letter, a digit or '_'", name);
    if (!finisher->config->data_root[0])
        fault_of(finisher, "data", "root", "expected a directory, found an empty text");
}

static void check_servers(struct finisher *finisher) {
    const struct config *config = finisher->config;
    const struct string_list *addresses = &config->servers_addresses;

    if (addresses->count > 0 && (int64_t)addresses->count != config->servers_count)
        fault_of(finisher, "servers", "addresses",
                 "there are %zu addresses, but servers.count is %lld; give one for each shard",
                 addresses->count, (long long)config->servers_count);
    for (size_t i = 0; i < addresses->count; i++) {
        const char *address = addresses->items[i];
        if (!address_valid(address)) {
            fault_of(finisher, "servers", "addresses",
                     "entry %zu: expected host:port, found \"%.100s\"", i + 1, address);
            continue;
        }
        for (size_t k = 0; k < i && !address_port_free(address); k++)
            if (strcmp(address, addresses->items[k]) == 0) {
                fault_of(finisher, "servers", "addresses",
                         "entries %zu and %zu are both \"%.100s\"", k + 1, i + 1, address);
                break;
            }
    }
    if (config->servers_listen[0] && !address_valid(config->servers_listen))
        fault_of(finisher, "servers", "listen", "expected host:port, found \"%.100s\"",
                 config->servers_listen);

    if (config->servers_block_bytes % 64 != 0)
        fault_of(finisher, "servers", "block_bytes", "%lld is not a multiple of 64",
                 (long long)config->servers_block_bytes);
    if (config->servers_block_bytes > config->net_max_frame_bytes)
        fault_of(finisher, "servers", "block_bytes",
                 "a block of %lld bytes does not fit into a frame of net.max_frame_bytes = %lld",
                 (long long)config->servers_block_bytes, (long long)config->net_max_frame_bytes);
}

static void check_http(struct finisher *finisher) {
    const struct config *config = finisher->config;
    int64_t last = config->http_port + config->servers_count + config->workers_count - 1;
    if (!config->http_host[0])
        fault_of(finisher, "http", "host", "expected an address, found an empty text");
    if (config->http_port > 0 && last > 65535)
        fault_of(finisher, "http", "port",
                 "%lld shards and %lld workers need the ports from %lld to %lld, beyond 65535",
                 (long long)config->servers_count, (long long)config->workers_count,
                 (long long)config->http_port, (long long)last);
}

/* Is a page wanted on the port of an address that shards first to last listen on? Each of them has
 * its own page on the same machine; all of the job's are there when the host shows that they are.
 * False: it is, and is named. */
static bool check_http_port(struct finisher *finisher, const char *option, const char *address,
                            int64_t first, int64_t last) {
    const struct config *config = finisher->config;
    int64_t shards = config->servers_count, port = address_port(address);
    char host[HOST_BYTES];
    address_host(address, host);
    if (port == 0 || !hosts_meet(host, config->http_host))
        return true;
    bool one_machine =
        host_is_loopback(host) || (!host_is_any(host) && strcmp(host, config->http_host) == 0);
    if (one_machine) {
        first = 0;
        last = shards + config->workers_count - 1;
    }
    int64_t process = port - config->http_port;
    if (process < first || process > last)
        return true;
    fault_of(finisher, "http", "port",
             "%s %lld would serve HTTP on port %lld, where a shard listens (%s)",
             process < shards ? "shard" : "worker",
             (long long)(process < shards ? process : process - shards), (long long)port, option);
    return false;
}

static void check_http_ports(struct finisher *finisher) {
    const struct config *config = finisher->config;
    const struct string_list *addresses = &config->servers_addresses;
    if (config->http_port == 0)
        return;
    if (config->servers_listen[0]) { /* overrules the addresses */
        if (address_valid(config->servers_listen))
            check_http_port(finisher, "servers.listen", config->servers_listen, 0,
                            config->servers_count - 1);
        return;
    }
    for (size_t i = 0; i < addresses->count; i++)
        if (address_valid(addresses->items[i]) &&
            !check_http_port(finisher, "servers.addresses", addresses->items[i], (int64_t)i,
                             (int64_t)i))
            return; /* said once is enough */
}

/* Options that some kinds of model use and others do not. */
static const struct {
    const char *name;
    unsigned kinds; /* a bit for each */
    const char *whose;
} of_kinds[] = {
    {"heads", 1u << MODEL_GAT | 1u << MODEL_GATV2, "gat and gatv2 have heads"},
    {"output_heads", 1u << MODEL_GAT | 1u << MODEL_GATV2, "gat and gatv2 have heads"},
    {"attention_dropout", 1u << MODEL_GAT | 1u << MODEL_GATV2, "gat and gatv2 have attention"},
    {"hops", 1u << MODEL_SGC | 1u << MODEL_APPNP, "sgc and appnp have steps of propagation"},
    {"alpha", 1u << MODEL_APPNP, "appnp goes back to the start"},
    {"jump", (1u << MODEL_KINDS) - 1 - (1u << MODEL_SGC) - (1u << MODEL_APPNP),
     "models other than sgc and appnp join their layers (model.stack can)"},
    {"edge_weights",
     (1u << MODEL_KINDS) - 1 - (1u << MODEL_GAT) - (1u << MODEL_GATV2) - (1u << MODEL_SAGE_MAX) -
         (1u << MODEL_MLP),
     "gcn, sage, sage_gcn, gin, sgc and appnp have a place for edge weights"},
};

/* Where an option was given; line 0: it was not, or as its default, as a file of all defaults has
 * it. */
static int given_line(const struct config *config, const struct config *defaults,
                      const char *section, const char *name) {
    const struct config_option *option = config_option_find(section, name);
    return config_option_equal(option, config, defaults)
               ? 0
               : config->places[option - config_options].line;
}

/* The same of what is asked of hidden layers where there are none. */
static void check_hidden(struct finisher *finisher, const struct config *defaults) {
    const struct config *config = finisher->config;
    bool attends = config->model_kind == MODEL_GAT || config->model_kind == MODEL_GATV2;
    const struct {
        const char *name;
        bool asked;
    } options[] = {{"heads", attends},
                   {"dropout", config->model_dropout > 0},
                   {"activation", config->model_activation != ACTIVATION_NONE},
                   {"norm", true},
                   {"residual", true}};
    if (config->model_layers > 1 || config->model_jump != JUMP_NONE)
        return;
    bool layers_set = place_of(config, "model", "layers").line == CONFIG_PLACE_SET;
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        int line = given_line(config, defaults, "model", options[i].name);
        if (line == 0 || !options[i].asked)
            continue;
        if (line > 0 && layers_set)
            warning_of(finisher, "model", options[i].name,
                       "not used: it is of hidden layers, and with model.layers 1 (from --set) "
                       "there are none");
        else
            fault_of(finisher, "model", options[i].name,
                     "it is of hidden layers, and with model.layers 1 there are none; leave this "
                     "out");
    }
}

/* What was given and would do nothing. A kind from the command line is not the file's, which stays
 * usable. */
static void check_kind(struct finisher *finisher) {
    const struct config *config = finisher->config;
    struct config *defaults = config_new();
    const char *kind = config_choice(config, "model.kind");
    bool kind_set = place_of(config, "model", "kind").line == CONFIG_PLACE_SET;
    for (size_t i = 0; i < ARRAY_LEN(of_kinds); i++) {
        int line = given_line(config, defaults, "model", of_kinds[i].name);
        if (line == 0 || of_kinds[i].kinds >> config->model_kind & 1)
            continue;
        if (line > 0 && kind_set)
            warning_of(finisher, "model", of_kinds[i].name,
                       "not used: only %s, and model.kind is %s (from --set)", of_kinds[i].whose,
                       kind);
        else
            fault_of(finisher, "model", of_kinds[i].name,
                     "only %s, and model.kind is %s; leave this out", of_kinds[i].whose, kind);
    }
    if (config->model_jump != JUMP_NONE &&
        given_line(config, defaults, "model", "output_heads") != 0)
        fault_of(finisher, "model", "output_heads",
                 "with model.jump the last layer is linear and has no heads; leave this out");
    if (config->model_norm != NORM_BATCH &&
        given_line(config, defaults, "model", "norm_momentum") != 0)
        fault_of(finisher, "model", "norm_momentum",
                 "model.norm is %s, and only batch has running statistics; leave this out",
                 config_choice(config, "model.norm"));
    check_hidden(finisher, defaults);
    config_free(defaults);
}

/* A fault of one entry of model.stack, at its own place. */
static void tell_stack_fault(void *ctx, size_t entry, const char *text) {
    struct finisher *finisher = ctx;
    const struct string_list *stack = &finisher->config->model_stack;
    if (entry < stack->count && stack->places[entry].line > 0) {
        _cleanup_(mem_free_p) char *placed =
            placed_text(finisher, stack->places[entry], "model", "stack", text);
        config_sink_add(&finisher->sink, placed);
    } else if (entry < stack->count) {
        fault_of(finisher, "model", "stack", "entry %zu: %s", entry + 1, text);
    } else {
        fault_of(finisher, "model", "stack", "%s", text);
    }
}

/* The long form of the model says all that the short one says. */
static void check_model(struct finisher *finisher) {
    static const char *const names[] = {
        "kind",    "layers",      "hidden", "heads", "output_heads", "attention_dropout",
        "dropout", "residual",    "norm",   "hops",  "alpha",        "activation",
        "jump",    "edge_weights"};
    if (finisher->config->model_stack.count == 0) {
        check_kind(finisher);
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (place_of(finisher->config, "model", names[i]).line != 0)
            fault_of(finisher, "model", names[i],
                     "model.stack lists the layers with all that belongs to them; leave this out");
    if (model_spec_check(finisher->config, tell_stack_fault, finisher) > 0)
        return;
    struct model_spec spec;
    struct config *defaults = config_new();
    bool batch = false;
    model_spec_from(finisher->config, 1, 1, &spec);
    for (size_t l = 0; l < spec.count; l++)
        batch = batch || spec.layers[l].norm == NORM_BATCH;
    if (!batch && given_line(finisher->config, defaults, "model", "norm_momentum") != 0)
        fault_of(finisher, "model", "norm_momentum",
                 "no layer of model.stack has norm=batch, and only that has running statistics; "
                 "leave this out");
    config_free(defaults);
}

static void finish_fanout(struct finisher *finisher, struct config *config, size_t hops) {
    struct int_list *fanout = &config->train_fanout;

    if (place_of(config, "train", "fanout").line == 0) {
        for (size_t i = fanout->count; i < hops; i++)
            fanout->items[i] = fanout->items[fanout->count - 1];
        fanout->count = hops > 0 ? hops : 1;
    } else if (config->train_mode == TRAIN_SAMPLED && config->train_sampler == SAMPLER_NEIGHBOR &&
               hops > 0 && fanout->count != hops) {
        fault_of(finisher, "train", "fanout",
                 "there are %zu numbers, but %zu layers of the model propagate; give one for each",
                 fanout->count, hops);
    }
}

/* Options of one sampler are not to be believed with another. */
static void check_sampler(struct finisher *finisher) {
    const struct config *config = finisher->config;
    const struct {
        const char *name;
        bool given;
    } draws[] = {{"replace", config->train_replace}, {"weighted", config->train_weighted}};
    for (size_t i = 0; i < ARRAY_LEN(draws); i++)
        if (draws[i].given && config->train_sampler != SAMPLER_NEIGHBOR)
            fault_of(finisher, "train", draws[i].name,
                     "true needs train.sampler neighbor, which is %s",
                     config_choice(config, "train.sampler"));
        else if (draws[i].given && config->train_mode != TRAIN_SAMPLED)
            fault_of(finisher, "train", draws[i].name,
                     "true needs train.mode sampled: in full mode nothing is drawn");
    if (config->train_mode == TRAIN_SAMPLED && config->train_sampler != SAMPLER_NEIGHBOR) {
        struct model_spec spec;
        model_spec_from(config, 1, 1, &spec);
        if (model_spec_weighted(&spec))
            fault_of(finisher, "train", "sampler",
                     "%s makes graphs without edge weights, which the model uses "
                     "(edge_weights: true); choose neighbor",
                     config_choice(config, "train.sampler"));
    }
    if (config->train_sampler == SAMPLER_CLUSTER &&
        config->train_clusters_per_batch > config->train_clusters)
        fault_of(finisher, "train", "clusters_per_batch", "%lld is more than train.clusters = %lld",
                 (long long)config->train_clusters_per_batch, (long long)config->train_clusters);
}

/* What is asked of links, with the task nodes, and the other way round. */
static void check_links(struct finisher *finisher) {
    static const char *const names[] = {
        "dim", "decoder", "loss", "negatives", "negatives_per_link", "candidates"};
    const struct config *config = finisher->config;
    if (config->train_task == TASK_NODES) {
        struct config *defaults = config_new();
        for (size_t i = 0; i < ARRAY_LEN(names); i++)
            if (given_line(config, defaults, "link", names[i]) != 0)
                fault_of(finisher, "link", names[i], "it is for train.task links, which is nodes");
        config_free(defaults);
        return;
    }
    if (config->train_label_smoothing > 0)
        fault_of(finisher, "train", "label_smoothing", "links have no labels to be smoothed");
    const char *metric = config_choice(config, "train.metric");
    bool whole = strcmp(metric, "recall_at_k") == 0 || strcmp(metric, "ndcg_at_k") == 0;
    if (whole && config->link_candidates > 0)
        fault_of(finisher, "train", "metric",
                 "%s needs all nodes as candidates: link.candidates: 0", metric);
    if (config->train_mode == TRAIN_SAMPLED && config->train_sampler != SAMPLER_NEIGHBOR)
        fault_of(finisher, "train", "sampler",
                 "mini-batches of links are made by neighbor alone, not by %s",
                 config_choice(config, "train.sampler"));
}

/* A rate that nothing uses, or that has no room to go where it should. */
static void check_schedule(struct finisher *finisher) {
    const struct config *config = finisher->config;
    bool constant = config->optimizer_schedule == SCHEDULE_CONSTANT;
    if (config->optimizer_kind == OPTIMIZER_NONE && (!constant || config->optimizer_warmup > 0))
        fault_of(finisher, "optimizer", constant ? "warmup" : "schedule",
                 "optimizer.kind none has no learning rate");
    if (config->optimizer_schedule == SCHEDULE_COSINE &&
        config->optimizer_lr_min > config->optimizer_lr)
        fault_of(finisher, "optimizer", "lr_min", "%g is above optimizer.lr = %g",
                 config->optimizer_lr_min, config->optimizer_lr);
    if (config->optimizer_warmup > (double)config->train_epochs)
        fault_of(finisher, "optimizer", "warmup", "%g epochs are more than train.epochs = %lld",
                 config->optimizer_warmup, (long long)config->train_epochs);
}

int config_finish(struct config *config, const char *path, struct config_faults *faults,
                  struct error *reterr) {
    struct finisher finisher = finisher_of(config, path, faults, reterr);

    check_job(&finisher);
    check_servers(&finisher);
    check_http(&finisher);
    check_http_ports(&finisher);
    if (config->optimizer_nesterov && config->optimizer_kind != OPTIMIZER_MOMENTUM)
        fault_of(&finisher, "optimizer", "nesterov",
                 "true needs optimizer.kind momentum, which is %s",
                 config_choice(config, "optimizer.kind"));
    if (config->push_encoding == ENCODING_TOPK && config->model_embedding > 0)
        fault_of(&finisher, "push", "encoding",
                 "topk is not for the rows of model.embedding; choose fp32, fp16 or int8");
    check_schedule(&finisher);
    check_model(&finisher);
    if (finisher.sink.count > 0)
        return ERR_CONFIG;
    size_t hops = model_spec_hops(config);
    finish_fanout(&finisher, config, hops);
    check_sampler(&finisher);
    check_links(&finisher);
    if (finisher.sink.count > 0)
        return ERR_CONFIG;

    if (config->data_halo < 0)
        config->data_halo = (int64_t)hops + (config->train_task == TASK_LINKS);
    if (!config->job_dir[0]) {
        mem_free(config->job_dir);
        config->job_dir = mem_printf("%s/runs/%s", config->data_root, config->job_name);
    }
    return 0;
}

static void check_exposure(struct finisher *finisher, const char *section, const char *name,
                           const char *host) {
    if (!host_is_loopback(host))
        fault_of(finisher, section, name,
                 "%s is not a loopback address, and there are no credentials: whoever reaches it "
                 "is believed. Set security.insecure: true if the network is trusted",
                 host);
}

/* What is no address is config_finish's to refuse. */
static void check_exposure_of(struct finisher *finisher, const char *name, const char *address) {
    char host[HOST_BYTES];
    if (!address_valid(address))
        return;
    address_host(address, host);
    check_exposure(finisher, "servers", name, host);
}

int config_check_security(const struct config *config, int shard, const char *path,
                          struct config_faults *faults, struct error *reterr) {
    struct error first = {0};
    struct finisher finisher = finisher_of(config, path, faults, &first);
    const struct string_list *addresses = &config->servers_addresses;
    if (config->security_insecure)
        return 0;
    check_exposure(&finisher, "http", "host", config->http_host);
    if (config->servers_listen[0] && shard != CONFIG_NO_SHARD) /* overrules the addresses */
        check_exposure_of(&finisher, "listen", config->servers_listen);
    for (size_t i = 0; i < addresses->count && !config->servers_listen[0]; i++)
        if (shard == CONFIG_ALL_SHARDS || shard == (int)i)
            check_exposure_of(&finisher, "addresses", addresses->items[i]);
    return first.code ? error_set(reterr, ERR_NOT_ALLOWED, "%s", first.text) : 0;
}

int config_check_snapshot(const struct config *config, const char *path,
                          struct config_faults *faults, struct error *reterr) {
    struct finisher finisher = finisher_of(config, path, faults, reterr);
    if (config->data_snapshot[0])
        return 0;
    _cleanup_(mem_free_p) char *text =
        mem_printf("%s: data.snapshot is not set: name a snapshot below %s (`graphps import` makes "
                   "one)",
                   finisher.sink.path, config->data_root);
    config_sink_add(&finisher.sink, text);
    return ERR_CONFIG;
}
