/* Job files and --set assignments from anywhere: every fault has its place, and what is accepted
 * reads back from what config_print writes. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config_option.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds) {
    if (!holds)
        abort();
}

static void check_read_back(const struct config *config) {
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    must(out != NULL);
    config_print(config, out);
    fclose(out);

    struct config *again = config_new();
    must(config_parse(again, "again", text, len, NULL, NULL) == 0);
    for (size_t i = 0; i < config_option_count; i++)
        must(config_option_equal(&config_options[i], config, again));
    config_free(again);
    free(text);
}

static void check_file(const uint8_t *data, size_t size) {
    struct config *config = config_new();
    struct config_faults faults = {0};
    struct error err = {0};
    int r = config_parse(config, "f", (const char *)data, size, &faults, &err);
    must((r == 0) == (faults.count == 0) && r == err.code);
    for (size_t i = 0; i < faults.count; i++)
        must(strncmp(faults.texts[i], "f:", 2) == 0);
    check_read_back(config);
    if (config_finish(config, "f", &faults, &err) == 0)
        check_read_back(config);
    config_faults_done(&faults);
    config_free(config);
}

static void check_assignment(const uint8_t *data, size_t size) {
    char assignment[256];
    if (size >= sizeof assignment)
        return;
    memcpy(assignment, data, size);
    assignment[size] = 0;
    struct config *config = config_new();
    struct error err = {0};
    must(config_set(config, assignment, &err) == err.code);
    if (err.code == 0)
        check_read_back(config);
    config_free(config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    check_file(data, size);
    check_assignment(data, size);
    return 0;
}
