/* The option table and the parser: every row of options.def is walked, so a new option is tested
 * the moment it is written down. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config_option.h"
#include "common/mem.h"
#include "common/nearest.h"
#include "tests/test.h"

/* One fault expected, or none (NULL). Says all of them when it is otherwise. */
static void expect(const char *yaml, const char *fault) {
    struct config *config = config_new();
    struct config_faults faults = {0};
    struct error err = {0};
    int r = config_parse(config, "job.yaml", yaml, strlen(yaml), &faults, &err);

    if (!fault) {
        ck_assert_msg(r == 0 && faults.count == 0, "%s\ngave %s", yaml, err.text);
    } else {
        ck_assert_int_eq(r, ERR_CONFIG);
        ck_assert_msg(faults.count == 1, "%s\ngave %zu faults, the first: %s", yaml, faults.count,
                      err.text);
        ck_assert_msg(strstr(faults.texts[0], fault), "%s\ngave %s\nwithout %s", yaml,
                      faults.texts[0], fault);
        ck_assert_str_eq(err.text, faults.texts[0]);
    }
    config_faults_done(&faults);
    config_free(config);
}

/* A file with one option, and the same through --set. */
static void expect_value(const struct config_option *option, const char *value,
                         const char *set_value, const char *fault) {
    char yaml[512], place[256];
    snprintf(yaml, sizeof yaml, "%s:\n  %s: %s\n", option->section, option->name, value);
    if (!fault) {
        expect(yaml, NULL);
    } else {
        /* The fault stands at the value; in a list at the entry; without a value at the colon's
         * end. */
        size_t column = strlen(option->name) + 5;
        if (!value[0])
            column--;
        else if (config_option_is_list(option) && value[0] == '[' && value[1] != ']')
            column++;
        snprintf(place, sizeof place, "job.yaml:2:%zu: %s.%s: ", column, option->section,
                 option->name);
        expect(yaml, place);
        expect(yaml, fault);
    }

    if (!set_value)
        return;
    struct config *config = config_new();
    struct error err = {0};
    char assignment[512];
    snprintf(assignment, sizeof assignment, "%s.%s=%s", option->section, option->name, set_value);
    int r = config_set(config, assignment, &err);
    if (!fault) {
        ck_assert_msg(r == 0, "--set %s gave %s", assignment, err.text);
    } else {
        ck_assert_int_eq(r, ERR_CONFIG);
        ck_assert_msg(strstr(err.text, fault), "--set %s gave %s", assignment, err.text);
    }
    config_free(config);
}

static void expect_int(const struct config_option *option, long long value, const char *fault) {
    char text[64], list[72];
    snprintf(text, sizeof text, "%lld", value);
    snprintf(list, sizeof list, "[%lld]", value);
    expect_value(option, option->kind == OPTION_INTS ? list : text, text, fault);
}

static void expect_float(const struct config_option *option, double value, const char *fault) {
    char text[64];
    snprintf(text, sizeof text, "%.17g", value);
    expect_value(option, text, text, fault);
}

/* Every option: what is in its range is accepted from the file and from --set, what is beyond it or
 * of another type is refused at the value, with the range named. */
START_TEST(every_option_keeps_its_range) {
    const struct config_option *option = &config_options[_i];
    char range[256];
    snprintf(range, sizeof range, "expected %s", config_option_expected(option));

    switch (option->kind) {
    case OPTION_STRING:
        expect_value(option, "plain", "plain", NULL);
        expect_value(option, "\"\"", "", NULL);
        expect_value(option, "[a]", NULL, "expected text, found a list");
        expect_value(option, "\"a\\x07\"", "a\a", "control characters");
        break;
    case OPTION_INTS:
        expect_value(option, "[]", "[]", range);
        expect_value(option, "{a: b}", NULL, "found a mapping");
        /* fall through */
    case OPTION_INT: {
        bool list = option->kind == OPTION_INTS;
        expect_int(option, option->int_min, NULL);
        expect_int(option, option->int_max, NULL);
        expect_int(option, option->int_min - 1, "out of range");
        expect_int(option, option->int_max + 1, range);
        expect_value(option, list ? "[ten]" : "ten", "ten", range);
        expect_value(option, list ? "[1.5]" : "1.5", "1.5", range);
        expect_value(option, list ? "[99999999999999999999]" : "99999999999999999999",
                     "99999999999999999999", "out of range");
        expect_value(option, list ? "[\"1\"]" : "\"1\"", NULL, "in quotes");
        break;
    }
    case OPTION_FLOAT:
        expect_float(option, option->float_min, NULL);
        expect_float(option, option->float_max, NULL);
        expect_float(option, option->float_min - 1e-3, "out of range");
        expect_float(option, option->float_max * 1.001, range);
        expect_value(option, ".nan", "nan", range);
        expect_value(option, "inf", "inf", range);
        expect_value(option, "0x1p-3", "0x1p-3", range);
        expect_value(option, "1e999", "1e999", "out of range");
        expect_value(option, "", "", range);
        break;
    case OPTION_BOOL:
        expect_value(option, "true", "true", NULL);
        expect_value(option, "false", "false", NULL);
        expect_value(option, "yes", "yes", range);
        expect_value(option, "1", "1", range);
        break;
    case OPTION_ENUM:
        for (int i = 0; config_option_choice(option, i); i++)
            expect_value(option, config_option_choice(option, i), config_option_choice(option, i),
                         NULL);
        expect_value(option, "qqqqqqq", "qqqqqqq", range);
        break;
    case OPTION_STRINGS:
        expect_value(option, "[a, \"b\"]", "a, b", NULL);
        expect_value(option, "[]", "", NULL);
        expect_value(option, "", "[]", NULL);
        expect_value(option, "[[a]]", NULL, "found a list inside it");
        expect_value(option, "a", NULL, range);
        break;
    }
}
END_TEST

static void assert_same(const struct config *a, const struct config *b) {
    for (size_t i = 0; i < config_option_count; i++)
        ck_assert_msg(config_option_equal(&config_options[i], a, b), "%s.%s differs",
                      config_options[i].section, config_options[i].name);
}

static struct config *parse_printed(void (*print)(const struct config *, FILE *),
                                    const struct config *config) {
    char *text;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    print(config, out);
    fclose(out);
    struct config *read = config_new();
    struct error err = {0};
    ck_assert_msg(config_parse(read, "printed", text, len, NULL, &err) == 0, "%s\n%s", err.text,
                  text);
    free(text);
    return read;
}

static void print_defaults(const struct config *config, FILE *out) {
    config_print_defaults(out);
}

/* What --defaults prints is a job file, and it means the defaults. */
START_TEST(printed_defaults_are_the_defaults) {
    struct config *defaults = config_new();
    struct config *read = parse_printed(print_defaults, defaults);
    assert_same(defaults, read);
    config_free(read);
    config_free(defaults);
}
END_TEST

/* What config_print prints reads back to the same values, whatever the texts hold. */
START_TEST(printed_options_read_back) {
    static const char *const sets[] = {
        "job.name=a \"b\" \\c: #d",
        "data.root= lead and trail ",
        "data.snapshot=\xc3\xa9@1.0",
        "optimizer.lr=0.1",
        "optimizer.eps=1.2345678901234e-7",
        "optimizer.kind=sgd",
        "train.fanout=1,2,3",
        "servers.addresses=h:1, [::1]:2",
        "model.dropout=0.3333333333333333",
        "security.insecure=true",
    };
    struct config *config = config_new();
    struct error err = {0};
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++)
        ck_assert_msg(config_set(config, sets[i], &err) == 0, "%s", err.text);
    struct config *read = parse_printed(config_print, config);
    assert_same(config, read);
    ck_assert_str_eq(read->job_name, "a \"b\" \\c: #d");
    ck_assert_uint_eq(read->servers_addresses.count, 2);
    ck_assert_str_eq(read->servers_addresses.items[1], "[::1]:2");
    ck_assert_str_eq(config_choice(read, "optimizer.kind"), "sgd");
    config_free(read);
    config_free(config);
}
END_TEST

/* A wrong file is refused at line and column, with the reason and the nearest right name. */
START_TEST(faults_name_place_and_cause) {
    static const struct {
        const char *yaml, *fault;
    } cases[] = {
        {"", NULL},
        {"# nothing\n", NULL},
        {"---\n", NULL},
        {"train:\n", NULL},
        {"train: {epochs: 3}\n", NULL},
        {"\xef\xbb\xbfjob:\n  name: bom\n", NULL},
        {"trian:\n  epochs: 3\n",
         "job.yaml:1:1: unknown section \"trian\"; did you mean \"train\"?"},
        {"qqqq: 3\n", "job.yaml:1:1: unknown section \"qqqq\"; sections are job, data, model"},
        {"train.epochs: 3\n", "write \"train:\", and \"epochs: ...\" indented below it"},
        {"epochs: 3\n", "\"epochs\" belongs below \"train:\""},
        {"train:\n  epoch: 3\n",
         "job.yaml:2:3: unknown option \"train.epoch\"; did you mean \"train.epochs\"?"},
        {"train:\n  lr: 3\n", "did you mean \"optimizer.lr\"?"},
        {"push:\n  qqqq: 3\n", "\"push\" has encoding"},
        {"model:\n  kind: gnc\n", "job.yaml:2:9: model.kind: expected one of gcn, sage, mlp, "
                                  "sage_gcn, gin, sgc, appnp, gat, "
                                  "gatv2, sage_max, found \"gnc\"; did you mean "
                                  "\"gcn\"?"},
        {"train:\n  epochs: 3\n  epochs: 4\n",
         "job.yaml:3:3: train.epochs was given before, on line 2"},
        {"job:\ntrain:\n  epochs: 3\ntrain:\n  threads: 4\n",
         "job.yaml:4:1: section \"train\" was given before, on line 2"},
        {"train: 3\n", "job.yaml:1:8: section \"train\": expected options"},
        {"train: [3]\n", "job.yaml:1:8: section \"train\": expected options"},
        {"3\n", "job.yaml:1:1: expected sections"},
        {"[train]\n", "job.yaml:1:1: expected sections"},
        {"? [a]\n: 3\n", "job.yaml:1:3: expected a name"},
        {"train:\n  epochs: &a 3\n", "job.yaml:2:11: anchors"},
        {"train:\n  epochs: *a\n", "job.yaml:2:11: aliases"},
        {"train:\n  epochs: !!int 3\n", "job.yaml:2:11: tags"},
        {"train:\n  epochs: {a: {b: {c: [1, 2]}}}\n", "job.yaml:2:11: train.epochs: expected"},
        {"job:\n\tname: a\n", "job.yaml:2:1: not valid YAML"},
        {"job:\n  name: \xff\n", "job.yaml:2:9: not valid YAML"},
        {"job: {}\n---\njob: {}\n", "job.yaml:2:1: a second YAML document"},
        {"job: {name: \"a\\0b\"}\n", "job.yaml:1:13: job.name: the text \"a?b\" holds control"},
        {"job: {\"name\\0x\": a}\n", "job.yaml:1:7: unknown option"},
        {"train: {fanout: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]}\n",
         "job.yaml:1:73: train.fanout: too many entries"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect(cases[i].yaml, cases[i].fault);
}
END_TEST

/* All faults of a file are named, in its order; the options without a fault are taken. */
START_TEST(all_faults_are_collected) {
    static const char yaml[] = "jb:\n  name: x\n"
                               "model: {layers: 0, hidden: 32, kind: [gcn]}\n"
                               "deep: [[[[[[[[[[[[1]]]]]]]]]]]]\n"
                               "train: {epochs: 0}\n";
    struct config *config = config_new();
    struct config_faults faults = {0};
    struct error err = {0};
    ck_assert_int_eq(config_parse(config, "f", yaml, strlen(yaml), &faults, &err), ERR_CONFIG);
    static const char *const begins[] = {"f:1:1: unknown section \"jb\"", "f:3:17: model.layers: ",
                                         "f:3:38: model.kind: ", "f:4:1: unknown section \"deep\"",
                                         "f:4:15: nested too deeply"};
    ck_assert_uint_eq(faults.count, 5); /* too deep ends the reading */
    for (size_t i = 0; i < 5; i++)
        ck_assert_msg(strncmp(faults.texts[i], begins[i], strlen(begins[i])) == 0, "%s",
                      faults.texts[i]);
    ck_assert_int_eq(config->model_hidden, 32);
    ck_assert_int_eq(config->model_layers, 2);
    config_faults_done(&faults);
    config_free(config);
}
END_TEST

/* A file of faults costs a bounded list; a file above 1 MiB is not looked at. */
START_TEST(hostile_files_cost_little) {
    size_t len = (1 << 20) + 1;
    char *text = malloc(len + 1);
    for (size_t i = 0; i < len; i += 4)
        memcpy(text + i, "[a: ", len - i < 4 ? len - i : 4);
    struct config_faults faults = {0};
    struct config *config = config_new();
    struct error err = {0};

    ck_assert_int_eq(config_parse(config, "big", text, len, &faults, &err), ERR_CONFIG);
    ck_assert_str_eq(err.text, "big:1:1: the file has 1048577 bytes, at most 1048576 are allowed");
    config_faults_done(&faults);

    const char *path = test_path(test_tmpdir(), "big.yaml");
    test_write_file(path, text, len);
    ck_assert_int_eq(config_load(config, path, &faults, &err), ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(err.text, "larger than 1048576 bytes"));
    config_faults_done(&faults);

    ck_assert_int_eq(config_parse(config, "deep", text, len - 1, &faults, &err), ERR_CONFIG);
    config_faults_done(&faults);

    len = 0;
    for (int i = 0; i < 20000; i++)
        len += (size_t)sprintf(text + len, "a%d: 1\n", i);
    ck_assert_int_eq(config_parse(config, "many", text, len, &faults, &err), ERR_CONFIG);
    ck_assert_uint_eq(faults.count, 101);
    ck_assert_ptr_nonnull(strstr(faults.texts[100], "more faults are not shown"));
    config_faults_done(&faults);

    ck_assert_int_eq(config_load(config, test_path("/nowhere", "x"), &faults, &err), ERR_NOT_FOUND);
    ck_assert_uint_eq(faults.count, 0);
    config_free(config);
    free(text);
}
END_TEST

/* --set: the fault repeats the assignment; a wrong name gets the nearest; later ones win. */
START_TEST(set_names_the_nearest) {
    static const char *const cases[][2] = {
        {"train.epochs", "expected section.option=value"},
        {"epochs=3", "expected section.option=value"},
        {"trian.epochs=3", "unknown section \"trian\"; did you mean \"train\"?"},
        {"train.epoch=3", "unknown option \"train.epoch\"; did you mean \"train.epochs\"?"},
        {"train.fanout=1,,2", "found nothing"},
        {"train.fanout=1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", "too many entries"},
        {"=", "expected section.option=value"},
        {".=", "unknown section \"\""},
    };
    struct config *config = config_new();
    struct error err = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ck_assert_int_eq(config_set(config, cases[i][0], &err), ERR_CONFIG);
        ck_assert_msg(strstr(err.text, cases[i][1]), "%s gave %s", cases[i][0], err.text);
    }
    ck_assert_int_eq(config_set(config, "job.name=a=b", &err), 0);
    ck_assert_str_eq(config->job_name, "a=b");
    ck_assert_int_eq(config_set(config, "train.fanout=[7, 8]", &err), 0);
    ck_assert_int_eq(config_set(config, "train.fanout=5", &err), 0);
    ck_assert_uint_eq(config->train_fanout.count, 1);
    ck_assert_int_eq(config->train_fanout.items[0], 5);
    config_free(config);
}
END_TEST

static struct config *finish(const char *yaml, struct config_faults *faults) {
    struct config *config = config_new();
    struct error err = {0};
    ck_assert_msg(config_parse(config, "f", yaml, strlen(yaml), NULL, &err) == 0, "%s", err.text);
    int r = config_finish(config, "f", faults, &err);
    ck_assert_int_eq(r, faults->count ? ERR_CONFIG : 0);
    return config;
}

/* Options that contradict each other are refused where they were given. */
START_TEST(conflicts_are_refused) {
    static const struct {
        const char *yaml, *fault;
    } cases[] = {
        {"job: {name: a b}\n", "f:1:13: job.name: expected 1 to 100 letters"},
        {"job: {name: ''}\n", "f:1:13: job.name: expected 1 to 100 letters"},
        {"job: {name: ..}\n", "f:1:13: job.name: \"..\" must begin"},
        {"job: {name: a/b}\n", "found \"a/b\""},
        {"data: {root: ''}\n", "f:1:14: data.root: expected a directory"},
        {"servers: {block_bytes: 100}\n", "f:1:24: servers.block_bytes: 100 is not a multiple"},
        {"servers: {block_bytes: 131072}\nnet: {max_frame_bytes: 65536}\n",
         "f:1:24: servers.block_bytes: a block of 131072 bytes does not fit"},
        {"servers: {count: 3, addresses: [a:1, b:2]}\n",
         "f:1:32: servers.addresses: there are 2 addresses, but servers.count is 3"},
        {"servers: {addresses: [a:1, b]}\n", "entry 2: expected host:port, found \"b\""},
        {"servers: {addresses: ['a:1', 'b:65536']}\n", "entry 2: expected host:port"},
        {"servers: {addresses: ['a:1', ':2']}\n", "entry 2: expected host:port"},
        {"servers: {addresses: ['a:1', '::1:2']}\n", "entry 2: expected host:port"},
        {"servers: {addresses: ['a:1', 'a:1']}\n", "entries 1 and 2 are both \"a:1\""},
        {"servers: {listen: here}\n", "f:1:19: servers.listen: expected host:port"},
        {"http: {port: 65533}\n", "f:1:14: http.port: 2 shards and 2 workers need the ports"},
        {"http: {host: ''}\n", "f:1:14: http.host"},
        {"optimizer: {nesterov: true, kind: adam}\n",
         "f:1:23: optimizer.nesterov: true needs optimizer.kind momentum, which is adam"},
        {"train: {mode: sampled, fanout: [5, 5]}\nmodel: {layers: 3}\n",
         "f:1:32: train.fanout: there are 2 numbers, but 3 layers of the model propagate"},
        {"model: {stack: [gcn width=8, gcn], layers: 2}\n",
         "f:1:44: model.layers: model.stack lists"},
        {"model:\n  stack:\n    - gcn width=8\n    - gcm\n",
         "f:4:7: model.stack: \"gcm\" does not begin with a kind of layer"},
        {"model: {kind: gcn, heads: 4}\n", "f:1:27: model.heads: only gat and gatv2 have heads, "
                                           "and model.kind is gcn; leave this out"},
        {"model: {output_heads: 2}\n", "f:1:23: model.output_heads: only gat and gatv2"},
        {"model: {kind: sage, attention_dropout: 0.1}\n", "model.attention_dropout: only gat"},
        {"model: {kind: gat, hops: 2}\n", "model.hops: only sgc and appnp"},
        {"model: {kind: sgc, alpha: 0.2}\n", "model.alpha: only appnp"},
        {"model: {kind: appnp, jump: max}\n", "f:1:28: model.jump: only models other than sgc"},
        {"model: {kind: gat, jump: max, output_heads: 4}\n",
         "f:1:45: model.output_heads: with model."},
        {"model: {kind: gat, edge_weights: true}\n",
         "f:1:34: model.edge_weights: only gcn, sage, sage_gcn, gin, sgc and appnp have a place"},
        {"model: {edge_weights: true}\ntrain: {mode: sampled, sampler: saint}\n",
         "f:2:33: train.sampler: saint makes graphs without edge weights"},
        {"train: {weighted: true}\n", "f:1:19: train.weighted: true needs train.mode sampled"},
        {"train: {replace: true, mode: full}\n", "train.replace: true needs train.mode sampled"},
        {"model: {norm: layer, norm_momentum: 0.2}\n",
         "f:1:37: model.norm_momentum: model.norm is"},
        {"model: {stack: [gcn width=8 norm=layer, gcn], norm_momentum: 0.2}\n",
         "f:1:62: model.norm_momentum: no layer of model.stack has norm=batch"},
        {"model: {layers: 1, norm: batch, hidden: 8, dropout: 0}\n",
         "f:1:26: model.norm: it is of hidden layers, and with model.layers 1 there are none"},
        {"model: {kind: mlp, layers: 1, residual: true}\n", "f:1:41: model.residual: it is of"},
        {"model: {kind: gat, layers: 1, heads: 4}\n", "f:1:38: model.heads: it is of hidden"},
        {"train: {sampler: saint, weighted: true}\n",
         "f:1:35: train.weighted: true needs train.sampler neighbor, which is saint"},
        {"train: {sampler: layer, replace: true}\n", "f:1:34: train.replace: true needs"},
        {"train: {sampler: cluster, clusters: 4}\n",
         "train.clusters_per_batch: 5 is more than train.clusters = 4"},
        {"optimizer: {schedule: cosine, lr: 0.1, lr_min: 0.2}\n",
         "f:1:48: optimizer.lr_min: 0.2 is above optimizer.lr = 0.1"},
        {"optimizer: {warmup: 7.5}\ntrain: {epochs: 7}\n",
         "f:1:21: optimizer.warmup: 7.5 epochs are more than train.epochs = 7"},
        {"optimizer: {kind: none, schedule: step}\n",
         "f:1:35: optimizer.schedule: optimizer.kind none has no learning rate"},
        {"optimizer: {kind: none, warmup: 2}\n", "f:1:33: optimizer.warmup: optimizer.kind none"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct config_faults faults = {0};
        struct config *config = finish(cases[i].yaml, &faults);
        ck_assert_msg(faults.count == 1, "%s gave %zu faults", cases[i].yaml, faults.count);
        ck_assert_msg(strstr(faults.texts[0], cases[i].fault), "%s gave %s", cases[i].yaml,
                      faults.texts[0]);
        config_faults_done(&faults);
        config_free(config);
    }
}
END_TEST

/* Each wrong entry of a list of layers is told at its own place, all of them at once. */
START_TEST(each_layer_has_its_fault) {
    static const struct {
        const char *yaml, *faults[4];
    } cases[] = {
        {"model:\n  stack:\n    - gcm width=8\n    - gcn width=8\n    - gcn wide=3\n",
         {"f:3:7: model.stack: \"gcm width=8\" does not begin",
          "f:5:7: model.stack: \"gcn wide=3\": "}},
        {"model:\n  stack: [gcn, jump, ppr,\n    gcn width=8]\n",
         {"f:2:11: model.stack: layer 0, gcn, needs a width",
          "f:3:5: model.stack: layer 3: the last layer with weights is as wide"}},
        {"model:\n  stack: [propagate]\n", {"f:2:10: model.stack: no layer has weights"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct config_faults faults = {0};
        struct config *config = finish(cases[i].yaml, &faults);
        size_t wanted = 0;
        for (; cases[i].faults[wanted]; wanted++)
            ck_assert_msg(wanted < faults.count &&
                              strstr(faults.texts[wanted], cases[i].faults[wanted]),
                          "%s gave %s", cases[i].yaml,
                          wanted < faults.count ? faults.texts[wanted] : "no such fault");
        ck_assert_uint_eq(faults.count, wanted);
        config_faults_done(&faults);
        config_free(config);
    }
    struct config *config = config_new(); /* from the command line there is no place */
    struct config_faults faults = {0};
    struct error err = {0};
    ck_assert_int_eq(config_set(config, "model.stack=gcn width=3,gcm", &err), 0);
    ck_assert_int_eq(config_finish(config, "f", &faults, &err), ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(err.text, "f: model.stack (from --set): entry 2: \"gcm\""));
    config_faults_done(&faults);
    config_free(config);
}
END_TEST

/* Where a model has such layers, there is nothing to complain about. */
START_TEST(what_is_used_is_no_fault) {
    static const char *const yamls[] = {
        "model: {layers: 1, jump: max, norm: batch, norm_momentum: 0.2, residual: true}\n",
        "model: {stack: [gcn width=8 norm=batch, gcn], norm_momentum: 0.2}\n",
        "model: {kind: sgc, layers: 1, hidden: 8, dropout: 0, activation: none}\n",
    };
    for (size_t i = 0; i < sizeof yamls / sizeof yamls[0]; i++) {
        struct config_faults faults = {0};
        config_free(finish(yamls[i], &faults));
        ck_assert_msg(faults.count == 0, "%s gave %s", yamls[i], faults.texts[0]);
    }
}
END_TEST

/* What decides which numbers a job gives is told by the text that its processes compare; where it
 * is computed, and how fast, is not. */
START_TEST(shared_text_has_what_decides_numbers) {
    static const struct {
        const char *set;
        bool shared;
    } rows[] = {{"model.hidden=9", true},   {"data.normalize_features=true", true},
                {"data.halo=1", true},      {"train.threads=3", false},
                {"data.root=there", false}, {"data.verify=false", false}};
    struct config *plain = config_new();
    char *before = config_shared_text(plain);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct error err = {0};
        struct config *config = config_new();
        ck_assert_int_eq(config_set(config, rows[i].set, &err), 0);
        char *text = config_shared_text(config);
        ck_assert_msg((strcmp(text, before) != 0) == rows[i].shared, "%s", rows[i].set);
        mem_free(text);
        config_free(config);
    }
    mem_free(before);
    config_free(plain);
}
END_TEST

/* A file for one kind of model stays usable with another from the command line: what is not used is
 * said, and no fault. Given beside each other on the command line it is one. */
START_TEST(another_kind_from_the_command_line_warns) {
    static const char yaml[] = "model: {kind: gat, heads: 4, attention_dropout: 0.5}\n";
    struct config *config = config_new();
    struct config_faults faults = {0};
    struct error err = {0};
    ck_assert_int_eq(config_parse(config, "f", yaml, strlen(yaml), NULL, &err), 0);
    ck_assert_int_eq(config_set(config, "model.kind=gcn", &err), 0);
    ck_assert_int_eq(config_finish(config, "f", &faults, &err), 0);
    ck_assert_uint_eq(faults.count, 2);
    ck_assert_str_eq(faults.texts[0], "warning: f:1:27: model.heads: not used: only gat and gatv2 "
                                      "have heads, and model.kind is gcn (from --set)");
    config_faults_done(&faults);
    ck_assert_int_eq(config_set(config, "model.hops=3", &err), 0);
    ck_assert_int_eq(config_finish(config, "f", &faults, &err), ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(err.text, "f: model.hops (from --set): only sgc and appnp"));
    config_faults_done(&faults);
    config_free(config);

    config = config_new(); /* nor does fewer layers make the file a wrong one */
    static const char layers[] = "model: {layers: 3, norm: batch}\n";
    ck_assert_int_eq(config_parse(config, "f", layers, strlen(layers), NULL, &err), 0);
    ck_assert_int_eq(config_set(config, "model.layers=1", &err), 0);
    ck_assert_int_eq(config_finish(config, "f", &faults, &err), 0);
    ck_assert_uint_eq(faults.count, 1);
    ck_assert_ptr_nonnull(strstr(faults.texts[0], "warning: f:1:26: model.norm: not used"));
    config_faults_done(&faults);
    config_free(config);
}
END_TEST

/* An HTTP page that would find its port in a shard's hands is a fault, with the process named, when
 * the two are on one machine beyond doubt; what may be on two is let through. */
START_TEST(http_ports_keep_off_the_shards) {
    static const struct {
        const char *servers, *http, *fault;
    } cases[] = {
        {"addresses: ['127.0.0.1:70', '127.0.0.1:71']", "port: 70", "shard 0 would serve HTTP on"},
        {"addresses: ['127.0.0.1:80', '127.0.0.1:73']", "port: 70",
         "f:2:14: http.port: worker 1 would serve HTTP on port 73, where a shard listens "
         "(servers.addresses)"},
        {"addresses: ['127.0.0.1:80', '127.0.0.1:74']", "port: 70", NULL},
        {"addresses: ['127.0.0.1:80', '127.0.0.1:69']", "port: 70", NULL},
        {"addresses: ['127.0.0.1:0', '127.0.0.1:0']", "port: 1", NULL},
        {"addresses: ['localhost:80', '[::1]:72']", "port: 70", "worker 0 would serve"},
        {"addresses: ['127.0.0.1:80', '127.0.0.1:73']", "port: 70, host: 0.0.0.0", "worker 1"},
        {"addresses: ['10.0.0.1:80', '10.0.0.1:73']", "port: 70, host: 10.0.0.1", "worker 1"},
        {"addresses: ['10.0.0.1:80', '10.0.0.2:71']", "port: 70, host: 0.0.0.0", "shard 1"},
        {"addresses: ['10.0.0.1:80', '10.0.0.2:73']", "port: 70, host: 0.0.0.0", NULL},
        {"addresses: ['10.0.0.1:70', '10.0.0.2:71']", "port: 70", NULL},
        {"listen: 0.0.0.0:71", "port: 70, host: 0.0.0.0", "where a shard listens (servers.listen)"},
        {"listen: 0.0.0.0:72", "port: 70, host: 0.0.0.0", NULL},
        {"listen: 127.0.0.1:73", "port: 70", "worker 1"},
        {"listen: 0.0.0.0:80, addresses: ['a:70', 'b:71']", "port: 70", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char yaml[200];
        snprintf(yaml, sizeof yaml, "servers: {%s}\nhttp: {%s}\n", cases[i].servers, cases[i].http);
        struct config_faults faults = {0};
        struct config *config = finish(yaml, &faults);
        ck_assert_msg(faults.count == (cases[i].fault ? 1 : 0), "%s gave %zu faults", yaml,
                      faults.count);
        if (cases[i].fault)
            ck_assert_msg(strstr(faults.texts[0], cases[i].fault), "%s gave %s", yaml,
                          faults.texts[0]);
        config_faults_done(&faults);
        config_free(config);
    }
}
END_TEST

/* G7: where a process would listen beyond loopback is named at its place, for one shard, for a
 * worker, and for all of a job together; security.insecure allows it. */
START_TEST(listening_beyond_loopback_takes_a_word) {
    static const struct {
        const char *yaml;
        int shard;
        size_t faults;
        const char *last;
    } cases[] = {
        {"job: {}\n", CONFIG_ALL_SHARDS, 0, NULL},
        {"http: {host: 0.0.0.0}\n", CONFIG_NO_SHARD, 1, "f:1:14: http.host: 0.0.0.0 is not"},
        {"http: {host: 0.0.0.0}\n", 1, 1, "f:1:14: http.host: 0.0.0.0 is not"},
        {"http: {host: '::'}\n", 1, 1, "http.host: :: is not"},
        {"http: {host: '::1'}\n", 1, 0, NULL},
        {"http: {host: 127.8.0.1}\n", 1, 0, NULL},
        {"http: {host: localhost}\n", 1, 0, NULL},
        {"servers: {listen: '[::]:7'}\n", CONFIG_NO_SHARD, 0, NULL},
        {"servers: {listen: '[::]:7'}\n", 1, 1, "f:1:19: servers.listen: :: is not"},
        {"servers: {listen: '[::1]:7', addresses: [a:1, b:1]}\n", CONFIG_ALL_SHARDS, 0, NULL},
        {"servers: {addresses: [127.0.0.1:1, b:1]}\n", 0, 0, NULL},
        {"servers: {addresses: [127.0.0.1:1, b:1]}\n", 1, 1, "f:1:22: servers.addresses: b is not"},
        {"servers: {addresses: [127.0.0.1:1, b:1]}\n", CONFIG_NO_SHARD, 0, NULL},
        {"servers: {addresses: [127.0.0.1.example.org:1, b:1]}\n", CONFIG_ALL_SHARDS, 2,
         "b is not"},
        {"servers: {listen: '0.0.0.0:7'}\nhttp: {host: '::'}\nsecurity: {insecure: true}\n",
         CONFIG_ALL_SHARDS, 0, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct config_faults none = {0}, faults = {0};
        struct config *config = finish(cases[i].yaml, &none);
        struct error err = {0};
        int r = config_check_security(config, cases[i].shard, "f", &faults, &err);
        ck_assert_int_eq(r, cases[i].faults ? ERR_NOT_ALLOWED : 0);
        ck_assert_int_eq(err.code, r);
        ck_assert_msg(faults.count == cases[i].faults, "%s gave %zu faults", cases[i].yaml,
                      faults.count);
        if (r < 0) {
            ck_assert_str_eq(err.text, faults.texts[0]);
            ck_assert_msg(strstr(faults.texts[faults.count - 1], cases[i].last), "%s gave %s",
                          cases[i].yaml, faults.texts[faults.count - 1]);
            ck_assert_ptr_nonnull(strstr(err.text, "security.insecure"));
        }
        config_faults_done(&faults);
        config_free(config);
    }
}
END_TEST

/* Values that follow from others are filled in, and finishing twice changes nothing. */
START_TEST(derived_values_are_filled_in) {
    struct config_faults faults = {0};
    struct config *config = finish("job: {name: cora}\ndata: {root: /d}\nmodel: {layers: 4}\n"
                                   "train: {mode: sampled}\n"
                                   "servers: {addresses: ['[::1]:7', '127.0.0.1:0']}\n",
                                   &faults);
    ck_assert_str_eq(config->job_dir, "/d/runs/cora");
    ck_assert_int_eq(config->data_halo, 4);
    ck_assert_uint_eq(config->train_fanout.count, 4);
    ck_assert_int_eq(config->train_fanout.items[3], 10);

    struct config *again = parse_printed(config_print, config);
    ck_assert_int_eq(config_finish(again, "again", &faults, NULL), 0);
    assert_same(config, again);
    config_free(again);
    config_free(config);

    config = finish("model: {kind: mlp, layers: 1}\n", &faults);
    ck_assert_int_eq(config->data_halo, 0);
    ck_assert_uint_eq(config->train_fanout.count, 1);
    config_free(config);

    config =
        finish("data: {halo: 1}\njob: {dir: here}\noptimizer: {kind: momentum, nesterov: true}\n",
               &faults);
    ck_assert_int_eq(config->data_halo, 1);
    ck_assert_str_eq(config->job_dir, "here");
    config_free(config);
}
END_TEST

/* The table itself: sections stand together, no option twice, every one has a sentence. */
START_TEST(table_is_in_order) {
    for (size_t i = 0; i < config_option_count; i++) {
        const struct config_option *option = &config_options[i];
        ck_assert_ptr_eq(config_option_find(option->section, option->name), option);
        ck_assert_msg(strlen(option->help) > 5 && option->help[strlen(option->help) - 1] != ' ',
                      "%s.%s", option->section, option->name);
        if (i > 0 && strcmp(option->section, config_options[i - 1].section) != 0)
            ck_assert_msg(config_option_section(option->section) == option,
                          "section %s is in two places", option->section);
    }
}
END_TEST

/* The nearest name: swapped, missing, wrong and extra letters; nothing when nothing is near. */
START_TEST(nearest_name) {
    ck_assert_uint_eq(nearest_distance("", ""), 0);
    ck_assert_uint_eq(nearest_distance("abc", ""), 3);
    ck_assert_uint_eq(nearest_distance("", "abc"), 3);
    ck_assert_uint_eq(nearest_distance("abcd", "abdc"), 1);
    ck_assert_uint_eq(nearest_distance("kitten", "sitting"), 3);
    ck_assert_uint_eq(nearest_distance("ca", "abc"), 3); /* no letter is moved twice */

    struct nearest nearest;
    nearest_init(&nearest, "dropuot");
    nearest_offer(&nearest, "layers");
    ck_assert_ptr_null(nearest.best);
    nearest_offer(&nearest, "dropout");
    nearest_offer(&nearest, "dropouts");
    ck_assert_str_eq(nearest.best, "dropout");

    char longer[300];
    memset(longer, 'a', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    nearest_init(&nearest, longer);
    nearest_offer(&nearest, "epochs");
    ck_assert_ptr_null(nearest.best);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("config");
    TCase *tests = tcase_create("config");
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, every_option_keeps_its_range, 0, (int)config_option_count);
    tcase_add_test(tests, printed_defaults_are_the_defaults);
    tcase_add_test(tests, printed_options_read_back);
    tcase_add_test(tests, faults_name_place_and_cause);
    tcase_add_test(tests, all_faults_are_collected);
    tcase_add_test(tests, hostile_files_cost_little);
    tcase_add_test(tests, set_names_the_nearest);
    tcase_add_test(tests, conflicts_are_refused);
    tcase_add_test(tests, each_layer_has_its_fault);
    tcase_add_test(tests, another_kind_from_the_command_line_warns);
    tcase_add_test(tests, what_is_used_is_no_fault);
    tcase_add_test(tests, shared_text_has_what_decides_numbers);
    tcase_add_test(tests, http_ports_keep_off_the_shards);
    tcase_add_test(tests, listening_beyond_loopback_takes_a_word);
    tcase_add_test(tests, derived_values_are_filled_in);
    tcase_add_test(tests, table_is_in_order);
    tcase_add_test(tests, nearest_name);
    suite_add_tcase(suite, tests);
    return test_run(suite);
}
