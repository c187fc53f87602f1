/* What concerns several options together: conflicts, and the values that follow from others. Knows
 * no YAML; a fault is placed where the option was given. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "common/config_option.h"
#include "common/config_sink.h"
#include "common/mem.h"

enum { JOB_NAME_MAX = 100 };

struct finisher {
    struct config *config;
    struct config_sink sink;
};

static struct config_place place_of(const struct config *config, const char *section,
                                    const char *name) {
    return config->places[config_option_find(section, name) - config_options];
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
    if (place.line > 0) {
        config_sink_add_at(&finisher->sink, (size_t)place.line, (size_t)place.column, "%s.%s: %s",
                           section, name, what);
        return;
    }
    _cleanup_(mem_free_p) char *text =
        mem_printf("%s: %s.%s%s: %s", finisher->sink.path, section, name,
                   place.line == CONFIG_PLACE_SET ? " (from --set)" : "", what);
    config_sink_add(&finisher->sink, text);
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

static bool address_port_free(const char *address) {
    return strcmp(strrchr(address, ':'), ":0") == 0;
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

static void finish_fanout(struct finisher *finisher) {
    struct config *config = finisher->config;
    struct int_list *fanout = &config->train_fanout;
    int64_t layers = config->model_layers;

    if (place_of(config, "train", "fanout").line == 0) {
        for (size_t i = fanout->count; i < (size_t)layers; i++)
            fanout->items[i] = fanout->items[fanout->count - 1];
        fanout->count = (size_t)layers;
    } else if (config->train_mode == TRAIN_SAMPLED && (int64_t)fanout->count != layers) {
        fault_of(finisher, "train", "fanout",
                 "there are %zu numbers, but model.layers is %lld; give one for each layer",
                 fanout->count, (long long)layers);
    }
}

int config_finish(struct config *config, const char *path, struct config_faults *faults,
                  struct error *reterr) {
    struct finisher finisher = {
        .config = config,
        .sink = {.path = path ? path : "configuration", .list = faults, .reterr = reterr},
    };

    check_job(&finisher);
    check_servers(&finisher);
    check_http(&finisher);
    if (config->optimizer_nesterov && config->optimizer_kind != OPTIMIZER_MOMENTUM)
        fault_of(&finisher, "optimizer", "nesterov",
                 "true needs optimizer.kind momentum, which is %s",
                 config_choice(config, "optimizer.kind"));
    finish_fanout(&finisher);
    if (finisher.sink.count > 0)
        return ERR_CONFIG;

    if (config->data_halo < 0)
        config->data_halo = config->model_kind == MODEL_MLP ? 0 : config->model_layers;
    if (!config->job_dir[0]) {
        mem_free(config->job_dir);
        config->job_dir = mem_printf("%s/runs/%s", config->data_root, config->job_name);
    }
    return 0;
}
