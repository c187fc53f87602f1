/* Classes and probabilities, or target values, of one node as a line of CSV. */
#include "cli/predict_row.h"

#include <math.h>
#include <string.h>

/* A part of a field that is quoted, or not. */
static void put_text(FILE *out, const char *text, bool quoted) {
    for (; *text; text++) {
        if (quoted && *text == '"')
            fputc('"', out);
        fputc(*text, out);
    }
}

static bool needs_quotes(const char *text) {
    return strpbrk(text, ",\"\n\r") != NULL;
}

static void put_field(FILE *out, const char *text) {
    bool quoted = needs_quotes(text);
    if (quoted)
        fputc('"', out);
    put_text(out, text, quoted);
    if (quoted)
        fputc('"', out);
}

static const char *class_text(const struct snapshot *snapshot, uint32_t class, char number[16]) {
    if (snapshot->class_names)
        return snapshot->class_names[class];
    snprintf(number, 16, "%u", class);
    return number;
}

static void row_of_one(FILE *out, const struct snapshot *snapshot, uint64_t node, const float *z) {
    int32_t label = ((const int32_t *)snapshot->labels.data)[node];
    char number[16];
    uint32_t best = 0;
    for (uint32_t c = 1; c < snapshot->classes; c++)
        if (z[c] > z[best])
            best = c;
    double sum = 0;
    for (uint32_t c = 0; c < snapshot->classes; c++)
        sum += exp((double)z[c] - (double)z[best]);
    put_field(out, class_text(snapshot, best, number));
    fprintf(out, ",%.4f,", 1 / sum);
    if (label >= 0)
        put_field(out, class_text(snapshot, (uint32_t)label, number));
}

/* The classes for which logits are above 0, or those of labels where logits is NULL. */
static void put_classes(FILE *out, const struct snapshot *snapshot, const float *logits,
                        const uint8_t *labels) {
    char number[16];
    bool quoted = false;
    for (uint32_t c = 0; snapshot->class_names && c < snapshot->classes; c++)
        quoted |=
            (logits ? logits[c] > 0 : labels[c] != 0) && needs_quotes(snapshot->class_names[c]);
    const char *between = "";
    if (quoted)
        fputc('"', out);
    for (uint32_t c = 0; c < snapshot->classes; c++) {
        if (!(logits ? logits[c] > 0 : labels[c] != 0))
            continue;
        fputs(between, out);
        put_text(out, class_text(snapshot, c, number), quoted);
        between = ";";
    }
    if (quoted)
        fputc('"', out);
}

static void row_of_several(FILE *out, const struct snapshot *snapshot, uint64_t node,
                           const float *z) {
    const uint8_t *labels = (const uint8_t *)snapshot->multi_labels.data + node * snapshot->classes;
    put_classes(out, snapshot, z, NULL);
    fputc(',', out);
    const char *between = "";
    for (uint32_t c = 0; c < snapshot->classes; c++)
        if (z[c] > 0) {
            fprintf(out, "%s%.4f", between, 1 / (1 + exp(-(double)z[c])));
            between = ";";
        }
    fputc(',', out);
    put_classes(out, snapshot, NULL, labels);
}

static void put_values(FILE *out, const float *values, uint32_t count) {
    for (uint32_t k = 0; k < count; k++)
        fprintf(out, "%s%.9g", k ? ";" : "", (double)values[k]);
}

static void row_of_targets(FILE *out, const struct snapshot *snapshot, uint64_t node,
                           const float *z) {
    uint32_t count = snapshot->classes;
    put_values(out, z, count);
    fputc(',', out);
    if (((const int32_t *)snapshot->labels.data)[node] >= 0)
        put_values(out, (const float *)snapshot->targets.data + node * count, count);
}

const char *predict_row_head(const struct snapshot *snapshot) {
    return snapshot->targets.data ? "id,prediction,target,split\n"
                                  : "id,prediction,probability,label,split\n";
}

void predict_row(FILE *out, const struct snapshot *snapshot, uint64_t node, const float *logits) {
    static const char *const splits[] = {"", "train", "valid", "test"};
    char id[1024];
    put_field(out, snapshot_id(snapshot, node, id, sizeof id));
    fputc(',', out);
    if (snapshot->targets.data)
        row_of_targets(out, snapshot, node, logits);
    else if (snapshot->multi_labels.data)
        row_of_several(out, snapshot, node, logits);
    else
        row_of_one(out, snapshot, node, logits);
    fprintf(out, ",%s\n", splits[((const uint8_t *)snapshot->split.data)[node] & 3]);
}
