/* Reading what a partitioning's manifest says. */
#include <jansson.h>
#include <stdio.h>

#include "common/mem.h"
#include "worker/graph/manifest.h"
#include "worker/graph/partition.h"

static void json_decref_p(json_t **json) {
    json_decref(*json);
}

static int info_part(const char *dir, const json_t *entry, uint32_t halo, struct part_info *ret,
                     struct error *reterr) {
    const json_t *hops = json_object_get(entry, "hop_nodes");
    int r = manifest_uint(entry, dir, "owned", INT32_MAX, &ret->owned, reterr);
    if (r == 0)
        r = manifest_uint(entry, dir, "owned_edges", INT64_MAX, &ret->owned_edges, reterr);
    if (r == 0)
        r = manifest_uint(entry, dir, "edges", INT64_MAX, &ret->edges, reterr);
    if (r == 0)
        r = manifest_uint(entry, dir, "train", INT32_MAX, &ret->train, reterr);
    if (r == 0 && json_array_size(hops) != halo + 1)
        r = error_set(reterr, ERR_FORMAT,
                      "%s/manifest.json: \"hop_nodes\" does not have %u entries", dir, halo + 1);
    for (uint32_t h = 0; r == 0 && h < halo; h++)
        ret->halo[h] = (uint64_t)(json_integer_value(json_array_get(hops, h + 1)) -
                                  json_integer_value(json_array_get(hops, h)));
    return r;
}

static int verify_part(const char *dir, uint32_t part, struct error *reterr) {
    _cleanup_(json_decref_p) json_t *manifest = NULL;
    _cleanup_(mem_free_p) char *part_dir = mem_printf("%s/part-%u", dir, part);
    return manifest_read(part_dir, MANIFEST_MD5, &manifest, reterr);
}

int partition_info_read(const char *dir, bool verify, struct partition_info *ret,
                        struct error *reterr) {
    _cleanup_(json_decref_p) json_t *manifest = NULL;
    uint64_t parts = 0, halo = 0;
    const char *method = "";
    struct partition_info info = {0};
    int r = manifest_read(dir, MANIFEST_ALONE, &manifest, reterr);
    if (r == 0)
        r = manifest_uint(manifest, dir, "parts", PARTS_MAX, &parts, reterr);
    if (r == 0)
        r = manifest_uint(manifest, dir, "halo", HALO_MAX, &halo, reterr);
    if (r == 0)
        r = manifest_uint(manifest, dir, "seed", INT64_MAX, &info.seed, reterr);
    if (r == 0)
        r = manifest_text(manifest, dir, "method", &method, reterr);
    if (r == 0)
        r = manifest_uint(manifest, dir, "edge_cut", INT64_MAX, &info.edge_cut, reterr);
    if (r < 0)
        return r;
    const json_t *list = json_object_get(manifest, "part");
    if (json_array_size(list) != parts)
        return error_set(reterr, ERR_FORMAT,
                         "%s/manifest.json: \"part\" does not have %llu entries", dir,
                         (unsigned long long)parts);
    snprintf(info.method, sizeof info.method, "%s", method);
    info.parts = (uint32_t)parts;
    info.halo = (uint32_t)halo;
    info.part = mem_array(parts, sizeof *info.part);
    for (uint32_t k = 0; r == 0 && k < parts; k++) {
        r = info_part(dir, json_array_get(list, k), info.halo, &info.part[k], reterr);
        if (r == 0 && verify)
            r = verify_part(dir, k, reterr);
    }
    if (r < 0)
        partition_info_done(&info);
    else
        *ret = info;
    return r;
}

void partition_info_done(struct partition_info *info) {
    mem_free(info->part);
    *info = (struct partition_info){0};
}
