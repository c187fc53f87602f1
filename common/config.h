/* The configuration of a job: one table (options.def), one struct, one parser. Strings and lists
 * are owned by the struct. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/error.h"

struct config_place;

struct string_list {
    size_t count;
    char **items;
    struct config_place *places; /* where each was written; config.c's own */
};
struct int_list {
    size_t count;
    int64_t items[16];
};

struct config {
    struct config_place *places; /* per option, where its value came from; config.c's own */
#define STRING(section, name, def, help) char *section##_##name;
#define INT(section, name, def, min, max, unit, help) int64_t section##_##name;
#define FLOAT(section, name, def, min, max, unit, help) double section##_##name;
#define BOOL(section, name, def, help) bool section##_##name;
#define ENUM(section, name, def, choices, help) int section##_##name;
#define INTS(section, name, def, min, max, most, help) struct int_list section##_##name;
#define STRINGS(section, name, most, help) struct string_list section##_##name;
#include "common/options.def"
#undef STRING
#undef INT
#undef FLOAT
#undef BOOL
#undef ENUM
#undef INTS
#undef STRINGS
};

/* Indices of the ENUM options' choices. */
enum {
    MODEL_GCN,
    MODEL_SAGE,
    MODEL_MLP,
    MODEL_SAGE_GCN,
    MODEL_GIN,
    MODEL_SGC,
    MODEL_APPNP,
    MODEL_GAT,
    MODEL_GATV2,
    MODEL_SAGE_MAX,
    MODEL_KINDS
};
enum { TASK_NODES, TASK_LINKS };
enum { TRAIN_FULL, TRAIN_SAMPLED };
enum { DECODER_DOT, DECODER_DISTMULT };
enum { LINK_BCE, LINK_BPR };
enum { NEGATIVES_UNIFORM, NEGATIVES_IN_BATCH };
enum { TRAIN_METRIC_AUTO }; /* then the scores, in the order of proto/score.h */
enum { SAMPLER_NEIGHBOR, SAMPLER_LAYER, SAMPLER_CLUSTER, SAMPLER_SAINT };
enum {
    OPTIMIZER_SGD,
    OPTIMIZER_MOMENTUM,
    OPTIMIZER_ADAM,
    OPTIMIZER_ADAMW,
    OPTIMIZER_ADAGRAD,
    OPTIMIZER_NONE,
};
enum { SCHEDULE_CONSTANT, SCHEDULE_COSINE, SCHEDULE_STEP };
enum { DECAY_ALL, DECAY_FIRST };
enum { CONSISTENCY_ASYNC, CONSISTENCY_SSP, CONSISTENCY_BSP };
enum { ENCODING_FP32, ENCODING_INT8, ENCODING_FP16, ENCODING_TOPK };

/* All faults of a file, each "file:line:column: what is wrong, and the nearest right name". Starts
 * as {0}; the functions below add to it. After a hundred faults the rest is left out. */
struct config_faults {
    size_t count;
    char **texts;
};

struct config *config_new(void); /* all defaults */
struct config *config_free(struct config *config);

/* Reads YAML text (at most 1 MiB, no aliases, depth 2) over what is there. Collects every fault
 * into *faults (may be NULL) and returns ERR_CONFIG with the first one in *reterr. path is for
 * messages. */
int config_parse(struct config *config, const char *path, const char *text, size_t len,
                 struct config_faults *faults, struct error *reterr);
/* The same from a file. ERR_NOT_FOUND. */
int config_load(struct config *config, const char *path, struct config_faults *faults,
                struct error *reterr);
/* "section.name=value", value as in YAML (lists: a,b,c). For --set; later ones win. */
int config_set(struct config *config, const char *assignment, struct error *reterr);
/* Checks that concern several options (fanout has an entry for each hop, block_bytes is a multiple
 * of 64, servers.addresses has servers.count entries or none, ...) and fills in job.dir, data.halo.
 * Call after file and --set. faults may be NULL. */
int config_finish(struct config *config, const char *path, struct config_faults *faults,
                  struct error *reterr);
/* Where to listen beyond loopback takes security.insecure (G7): ERR_NOT_ALLOWED. Looked at are
 * http.host and the address of this shard, of all (a job file as a whole) or of none (a worker). */
enum { CONFIG_ALL_SHARDS = -1, CONFIG_NO_SHARD = -2 };
int config_check_security(const struct config *config, int shard, const char *path,
                          struct config_faults *faults, struct error *reterr);
/* Who trains or predicts needs data.snapshot, a shard does not. ERR_CONFIG. */
int config_check_snapshot(const struct config *config, const char *path,
                          struct config_faults *faults, struct error *reterr);
void config_faults_done(struct config_faults *faults);

/* YAML of every option with default, range, unit and sentence as comments; it parses as it stands.
 */
void config_print_defaults(FILE *out);
/* The page docs/configuration.md, whole. */
void config_print_markdown(FILE *out);
/* The options in force that differ from the defaults, as YAML. */
void config_print(const struct config *config, FILE *out);
/* The same without those that only follow from others (job.dir, data.halo, ...). */
void config_print_given(const struct config *config, FILE *out);
/* The options that decide what is learnt (model, train but its threads, optimizer, consistency,
 * aggregation, push), a line each; mem_free it. */
char *config_shared_text(const struct config *config);
/* Does another process's text say the same? ERR_WRONG_JOB names the first difference. */
int config_shared_check(const struct config *config, const char *other, struct error *reterr);
/* The name of an ENUM option's present choice: config_choice(config, "consistency.mode"). */
const char *config_choice(const struct config *config, const char *path);
