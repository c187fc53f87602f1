/* A model as text: what the short forms stand for, that a list of layers survives being written and
 * read, and that each fault of one is named. */
#include "tests/test.h"

#include <string.h>

#include "common/config.h"
#include "common/mem.h"
#include "common/model_spec.h"

static struct model_spec parse(const char *text) {
    struct model_spec spec = {0};
    struct error err;
    ck_assert_msg(model_spec_parse(text, 9, 4, &spec, &err) == 0, "%s: %s", text, err.text);
    return spec;
}

/* The short forms of the job file are lists of layers. */
START_TEST(short_forms_are_lists) {
    static const char *const cases[][2] = {
        {"model.kind=gcn", "gcn width=64 activation=relu dropout=0.5; gcn"},
        {"model.kind=mlp", "linear width=64 activation=relu dropout=0.5; linear"},
        {"model.kind=sgc", "propagate; propagate; propagate; linear width=64 activation=relu "
                           "dropout=0.5; linear"},
        {"model.kind=appnp", "linear width=64 activation=relu dropout=0.5; linear; ppr alpha=0.25; "
                             "ppr alpha=0.25; ppr alpha=0.25"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct config *config = config_new();
        struct error err = {0};
        struct model_spec spec;
        char text[STACK_TEXT_MAX];
        ck_assert_int_eq(config_set(config, cases[i][0], &err), 0);
        ck_assert_int_eq(config_set(config, "model.hops=3", &err), 0);
        ck_assert_int_eq(config_set(config, "model.alpha=0.25", &err), 0);
        model_spec_from(config, 9, 4, &spec);
        model_spec_print(&spec, text, sizeof text);
        ck_assert_str_eq(text, cases[i][1]);
        config_free(config);
    }
    struct config *config = config_new();
    struct model_spec spec;
    char text[STACK_TEXT_MAX];
    config->model_jump = JUMP_MAX; /* all layers are hidden, and a linear one follows */
    config->model_dropout = 0;
    model_spec_from(config, 9, 4, &spec);
    model_spec_print(&spec, text, sizeof text);
    ck_assert_str_eq(text, "gcn width=64 activation=relu; gcn width=64 activation=relu; "
                           "jump mode=max; linear");
    config->model_jump = JUMP_NONE;
    config->model_kind = MODEL_GIN;
    config->model_norm = NORM_LAYER;
    config->model_activation = ACTIVATION_ELU;
    config->model_residual = true;
    config->model_dropout = 0;
    model_spec_from(config, 9, 4, &spec);
    model_spec_print(&spec, text, sizeof text);
    ck_assert_str_eq(text, "gin width=64 residual=true norm=layer activation=elu; gin");
    config_free(config);
}
END_TEST

/* Widths go from layer to layer, and each propagating layer has its graph. */
START_TEST(widths_and_hops_follow_from_the_list) {
    struct model_spec spec =
        parse("linear width=6; gcn width=5; propagate; linear; ppr alpha=0.5; ppr");
    static const uint32_t out[] = {6, 5, 5, 4, 4, 4};
    static const size_t hop[] = {0, 0, 1, 2, 2, 3};
    ck_assert_uint_eq(spec.count, 6);
    ck_assert_uint_eq(spec.hops.count, 4);
    for (size_t l = 0; l < 6; l++) {
        ck_assert_uint_eq(spec.layers[l].in, l == 0 ? 9 : out[l - 1]);
        ck_assert_uint_eq(spec.layers[l].out, out[l]);
        ck_assert_uint_eq(spec.layers[l].hop, hop[l]);
    }
    ck_assert_uint_eq(spec.layers[4].start, 3);
    ck_assert_uint_eq(spec.layers[5].start, 3);
    spec = parse("gcn width=5; gat width=2 heads=3; jump; linear");
    ck_assert_uint_eq(spec.layers[2].out, 11);
    ck_assert_uint_eq(spec.layers[3].in, 11);
    ck_assert_uint_eq(parse("propagate; propagate; jump mode=max; linear").layers[2].out, 9);
    ck_assert_int_eq(parse("sage width=3; gin").hops.graph[0], GRAPH_MEAN);
}
END_TEST

/* What is written is read as the same. */
START_TEST(text_survives) {
    static const char text[] =
        "sage width=8 residual=true norm=layer activation=gelu dropout=0.25; "
        "sage_gcn width=8; gin width=7 activation=elu; propagate; ppr "
        "alpha=0.125; jump mode=concat norm=batch; linear";
    struct model_spec spec = parse(text);
    char again[STACK_TEXT_MAX];
    model_spec_print(&spec, again, sizeof again);
    ck_assert_str_eq(again, text);
}
END_TEST

/* Every fault has its sentence. */
START_TEST(faults_are_named) {
    static const char *const cases[][2] = {
        {"", "no layer has weights"},
        {"propagate; propagate", "no layer has weights"},
        {"conv", "\"conv\" does not begin with a kind of layer (linear, gcn, "},
        {"gcn width", "width is no parameter=value"},
        {"gcn =6; gcn", "=6 is no parameter=value"},
        {"gcn width=6 width=7; gcn", "width is there twice"},
        {"gcn width=0; gcn", "width=0 is not a number from 1 to 65536"},
        {"gcn width=1.5; gcn", "width=1.5 is not a number"},
        {"gcn width=6x; gcn", "width=6x is not a number"},
        {"gcn wide=6; gcn",
         "gcn takes width, edge_weights, activation, norm, dropout and residual, not wide"},
        {"identity", "no layer has weights"},
        {"identity width=6; gcn", "identity takes activation, norm, dropout and residual"},
        {"propagate width=6; gcn",
         "propagate takes edge_weights, activation, norm, dropout and residual"},
        {"gcn; gcn", "layer 0, gcn, needs a width"},
        {"gcn width=3", "layer 0: the last layer with weights is as wide as there are classes"},
        {"gcn width=3; gcn width=3; ppr", "layer 1: the last layer with weights"},
        {"ppr; gcn", "layer 0: ppr needs a layer to start from"},
        {"linear; ppr alpha=2", "alpha=2 is not a number from 0 to 1"},
        {"linear; ppr alpha=nan", "alpha=nan is not a number from 0 to 1"},
        {"gcn activation=tanh", "activation=tanh is not relu, elu, gelu or none"},
        {"gcn norm=batches", "norm=batches is not layer, batch or none"},
        {"gcn residual=yes", "residual=yes is not true or false"},
        {"gcn dropout=1", "dropout=1 is not a number from 0 to 0.99"},
        {"jump; gcn", "layer 0: jump needs layers before it"},
        {"gcn; jump", "layer 1: jump needs a layer with weights after it"},
        {"gcn width=3; jump; jump; gcn", "layer 2: a second jump"},
        {"gcn width=3; gcn width=4; jump mode=max; gcn", "but layers 0 and 1 differ"},
        {"propagate; gcn width=9; jump mode=max; gcn", "but layers 0 and 1 differ"},
        {"gcn width=3; jump mode=lstm; gcn", "mode=lstm is not concat or max"},
        {"gcn width=3; jump mode=none; gcn", "mode=none is not concat or max"},
        {"gcn width=3; jump residual=true; gcn",
         "jump takes mode, activation, norm and dropout, not residual"},
        {"linear; ppr; ppr; ppr; ppr; ppr; ppr; ppr; ppr; ppr; ppr; ppr; ppr; ppr; ppr; ppr; ppr; "
         "ppr",
         "17 layers propagate; at most 16 may"},
    };
    struct model_spec spec = {0};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct error err = {0};
        ck_assert_int_eq(model_spec_parse(cases[i][0], 9, 4, &spec, &err), ERR_CONFIG);
        ck_assert_msg(strstr(err.text, cases[i][1]), "%s gave %s", cases[i][0], err.text);
    }
    char many[33 * 12 + 1] = "";
    for (int i = 0; i < 33; i++)
        strcat(many, "linear; ");
    struct error err = {0};
    ck_assert_int_eq(model_spec_parse(many, 9, 4, &spec, &err), ERR_CONFIG);
    ck_assert_msg(strstr(err.text, "more than 32 layers"), "%s", err.text);
}
END_TEST

/* Where the inputs are learned no layer has to, and what goes in comes out; but of nodes classes
 * are wanted. */
START_TEST(learned_rows_need_no_weights) {
    static const struct {
        const char *text;
        uint32_t out;
    } cases[] = {
        {"identity", 9},
        {"propagate; propagate", 9},
        {"identity; ppr", 9},
        {"identity; propagate; jump", 18},
    };
    struct error err = {0};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct model_spec spec = {.embedding = 9};
        ck_assert_msg(model_spec_parse(cases[i].text, 9, 4, &spec, &err) == 0, "%s", err.text);
        ck_assert_uint_eq(model_spec_outputs(&spec), cases[i].out);
    }
    struct model_spec spec = {.embedding = 9};
    ck_assert_int_eq(model_spec_parse("", 9, 4, &spec, &err), ERR_CONFIG);
    ck_assert_int_eq(model_spec_parse("ppr", 9, 4, &spec, &err), ERR_CONFIG);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("model_spec");
    TCase *tcase = tcase_create("model_spec");
    tcase_add_test(tcase, short_forms_are_lists);
    tcase_add_test(tcase, widths_and_hops_follow_from_the_list);
    tcase_add_test(tcase, text_survives);
    tcase_add_test(tcase, faults_are_named);
    tcase_add_test(tcase, learned_rows_need_no_weights);
    suite_add_tcase(suite, tcase);
    return test_run(suite);
}
